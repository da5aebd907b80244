//! The loop: wait, read, serve, write.
//!
//! Requests are read into one buffer that all connections share and are served from where
//! they lie; only what is incomplete is kept by its connection. Replies of one turn are
//! gathered in one buffer and written at once; only what the socket does not take is kept.
//! A client that does not read its replies is not served further, so nobody's buffers grow
//! by their own requests.

mod sending;
mod serving;

use super::runner::Errand;
use super::{busy, listening, upkeep};
use crate::command::client::{Client, Token};
use crate::command::settings::Name;
use crate::command::{Engine, blocking};
use crate::net::{Interest, Listener, Moved, Peer, Poll, Stream, Waker};
use crate::persist;
use crate::replication::Role;
use crate::resp::{Reply, RequestParser};
use crate::store::keyspace::Whereabouts;
use serving::{Pending, first_key};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

const SHARED_INPUT: usize = 64 * 1024;
/// Clients read before the first of them is served, and what is read of each.
const GATHER: usize = 16;
const PIECE: usize = 16 * 1024;
/// Replies of one client beyond which they are written before more of its requests are served.
const FLUSH_AT: usize = 256 * 1024;
/// Requests of one client that are found before the first of them is served.
const BATCH: usize = 32;
/// Turns after the order to stop, for requests that had arrived before: a socket closed over unread bytes
/// takes with it replies that are still under way.
const LAST_TURNS: u32 = 4;
pub(super) const FIRST_CLIENT: u64 = 1 << 32; // Keys below name listeners and the waker.
pub(super) const WAKER: u64 = FIRST_CLIENT - 1;

/// A client's socket and what it has sent that is not served yet.
pub(super) struct Connection {
    pub(super) socket: Stream,
    pub(super) input: Vec<u8>,
    pub(super) parser: RequestParser,
    pub(super) interest: Interest,
    pub(super) ended: bool,    // The peer sends no more than what can be read now.
    pub(super) gathered: bool, // What it sent lies where all clients' bytes do, to be served first.
}

pub(super) struct EventLoop {
    pub(super) engine: Engine,
    poll: Poll,
    waker: Waker,
    inbox: Receiver<Errand<Engine>>,
    listeners: Vec<Listener>,
    connections: Vec<Option<Connection>>,
    shared_input: Vec<u8>,
    gathered: Vec<(Token, usize)>, // Clients whose bytes lie in the pieces of `shared_input`, and how many.
    first_at: Whereabouts,         // Of the first key of the client being served, when it was worked out.
    pub(super) reply: Reply,
    batch: Vec<Pending>,
    more: Vec<Token>, // Clients whose sockets may hold more than one reading took.
    pub(super) timers: upkeep::Timers,
}

impl EventLoop {
    /// Open all sockets the settings name.
    pub(super) fn open(mut engine: Engine, inbox: Receiver<Errand<Engine>>) -> io::Result<(EventLoop, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(&poll, WAKER)?;
        engine.tls = listening::tls(&engine.settings)?;
        let listeners = listening::open(&engine.settings, &mut HashMap::new())?;
        for (index, listener) in listeners.iter().enumerate() {
            poll.add(listener, index as u64, Interest::Read)?;
        }
        crate::clock::ticks_per_us();
        engine.store.set_now(crate::clock::wall_ms());
        let serving = EventLoop {
            engine,
            poll,
            waker: waker.clone(),
            inbox,
            listeners,
            connections: Vec::new(),
            shared_input: vec![0; GATHER * PIECE],
            gathered: Vec::new(),
            first_at: Whereabouts::default(),
            reply: Reply::default(),
            batch: Vec::new(),
            more: Vec::new(),
            timers: upkeep::Timers::default(),
        };
        Ok((serving, waker))
    }

    /// Serve until told to stop.
    pub(super) fn run(&mut self, heartbeat: &Arc<AtomicU64>) {
        busy::begin(heartbeat);
        let mut last_turns = LAST_TURNS;
        while !self.engine.stopping || last_turns > 0 {
            heartbeat.fetch_add(1, Ordering::Relaxed);
            let at_once = self.engine.stopping || !self.more.is_empty();
            let longest =
                if at_once { Duration::ZERO } else { self.longest_sleep(self.timers.next_wait(&self.engine)) };
            let Ok(count) = self.poll.wait(longest) else {
                break; // The set of sockets itself is broken: nothing can be served any more.
            };
            if self.engine.stopping {
                if count == 0 && self.more.is_empty() {
                    break;
                }
                last_turns -= 1;
            }
            self.engine.store.set_now(crate::clock::wall_ms());
            self.engine.stats.loops += 1;
            // First, in whatever order they are told: who sends a request after an errand was given may count on it.
            if self.poll.is_ready(WAKER) {
                self.waker.clear();
                while let Ok(errand) = self.inbox.try_recv() {
                    errand(&mut self.engine);
                }
            }
            for index in 0..count {
                let Some(ready) = self.poll.ready(index) else { break };
                if ready.key >= FIRST_CLIENT {
                    let token = (ready.key - FIRST_CLIENT) as Token;
                    if ready.write {
                        self.writable(token);
                    }
                    if ready.read {
                        self.gather(token, ready.ended, count);
                    }
                    continue;
                }
                self.serve_gathered(); // A token names another client once one was closed and one accepted.
                if ready.key != WAKER {
                    self.accept(ready.key as usize);
                }
            }
            self.serve_gathered();
            for _ in 0..self.more.len() {
                // One reading each: whoever sends without end does not keep the others waiting.
                let token = self.more.remove(0);
                self.readable(token, false);
            }
            if self.timers.due(&self.engine) {
                self.upkeep();
            }
            self.timers.disk = persist::turn(&mut self.engine);
            self.after_turn();
            self.settle();
            if self.engine.replication.is_some() {
                self.replicate();
                self.settle();
            }
        }
        self.drain();
        persist::close(&mut self.engine);
    }

    /// What is written in this turn is known to all who listen: cut the tail, let go what waited.
    fn after_turn(&mut self) {
        if self.engine.replication.is_none() && self.engine.tail.listening() {
            let most = self.engine.settings.size(Name::repl_backlog_size).max(SHARED_INPUT);
            self.engine.tail.trim(most);
        }
        if !self.engine.gate.waiting.is_empty() {
            self.open_gate();
        }
        if self.engine.held.is_some() {
            crate::command::hold::end(&mut self.engine);
        }
        if std::mem::take(&mut self.engine.copies.held) {
            self.engine.resume_held();
        }
    }

    fn accept(&mut self, index: usize) {
        // A bounded number at a time: a storm of connections must not starve who is connected.
        for _ in 0..64 {
            let keepalive = self.engine.settings.number(Name::tcp_keepalive) as u64;
            match self.listeners[index].accept(keepalive, self.engine.tls.acceptor.as_ref()) {
                Ok(Some(peer)) => Self::welcome(&mut self.engine, &self.poll, &mut self.connections, peer),
                // Out of descriptors, say: those who wait are served when some are free again.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// A client has connected.
    pub(super) fn welcome(engine: &mut Engine, poll: &Poll, connections: &mut Vec<Option<Connection>>, mut peer: Peer) {
        if let Some(refusal) = listening::refusal(engine, engine.clients.len(), &peer) {
            engine.stats.rejected_connections += 1;
            peer.socket.write(refusal);
            return;
        }
        let mut client = engine.new_client();
        client.socket = peer.number();
        client.by_unix_socket = peer.unix;
        client.address = peer.address;
        client.local_address = peer.local_address;
        Self::admit(engine, poll, connections, client, peer.socket);
    }

    /// Take a connection among those that are served.
    pub(super) fn adopt(&mut self, client: Box<Client>, socket: Stream) -> Option<Token> {
        Self::admit(&mut self.engine, &self.poll, &mut self.connections, client, socket)
    }

    fn admit(
        engine: &mut Engine,
        poll: &Poll,
        connections: &mut Vec<Option<Connection>>,
        client: Box<Client>,
        socket: Stream,
    ) -> Option<Token> {
        // A connection that we begin tells by room to write that it stands.
        let interest = if client.pending.is_empty() { Interest::Read } else { Interest::Both };
        let token = engine.clients.add(client);
        let connection = Connection {
            socket,
            input: Vec::new(),
            parser: RequestParser::default(),
            interest,
            ended: false,
            gathered: false,
        };
        if poll.add_edge(&connection.socket, FIRST_CLIENT + u64::from(token), interest).is_err() {
            engine.clients.take(token);
            engine.clients.forget(token);
            return None;
        }
        let place = token as usize;
        if connections.len() <= place {
            connections.resize_with(place + 1, || None);
        }
        connections[place] = Some(connection);
        Some(token)
    }

    /// Read what a client sent, to be served with what others sent: a client that waits for each reply
    /// sends one request at a time, and only the keys of several clients can be fetched together.
    fn gather(&mut self, token: Token, ended: bool, ready: usize) {
        let Some(connection) = self.connections.get_mut(token as usize).and_then(Option::as_mut) else {
            return;
        };
        if ready == 1 || !connection.input.is_empty() || connection.interest == Interest::Write {
            return self.readable(token, ended);
        }
        connection.ended |= ended;
        self.engine.stats.reads += 1;
        let from = self.gathered.len() * PIECE;
        match connection.socket.read(&mut self.shared_input[from..from + PIECE]) {
            Moved::NotNow => self.begin_stream(token),
            Moved::Gone => self.close(token),
            Moved::Bytes(count) => {
                self.engine.stats.input_bytes += count as u64;
                if count == PIECE || connection.ended {
                    self.more.push(token);
                }
                connection.gathered = true;
                self.gathered.push((token, count));
                if self.gathered.len() == GATHER {
                    self.serve_gathered();
                }
            }
        }
    }

    /// Serve what was gathered, after having had fetched what the first key of each client needs.
    fn serve_gathered(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let shared = std::mem::take(&mut self.shared_input);
        let mut gathered = std::mem::take(&mut self.gathered);
        let mut ahead = [(0u8, Whereabouts::default()); GATHER];
        if gathered.len() > 1 {
            let store = &self.engine.store;
            for (index, (&(token, count), place)) in gathered.iter().zip(&mut ahead).enumerate() {
                let piece = &shared[index * PIECE..index * PIECE + count];
                if let (Some(client), Some(key)) = (self.engine.clients.get(token), first_key(piece)) {
                    *place = (client.database, store.approach(client.database, key));
                }
            }
            ahead[..gathered.len()].iter().for_each(|(database, at)| store.approach_group(*database, at));
            ahead[..gathered.len()].iter().for_each(|(database, at)| store.approach_entry(*database, at));
        }
        let pieces = || gathered.iter().enumerate().map(|(index, &(_, count))| &shared[index * PIECE..][..count]);
        if gathered.len() > 1 && pieces().any(busy::begins_so) {
            self.serve_one_by_one(&gathered, &shared);
            gathered.clear();
        }
        for (index, &(token, count)) in gathered.iter().enumerate() {
            self.first_at = ahead[index].1;
            let piece = &shared[index * PIECE..index * PIECE + count];
            let used = self.serve(token, piece);
            if let Some(connection) = self.connections[token as usize].as_mut() {
                connection.gathered = false;
                connection.input.extend_from_slice(&piece[used..]);
            }
            self.after_serving(token);
        }
        self.first_at = Whereabouts::default();
        self.shared_input = shared;
        self.gathered = gathered;
        self.gathered.clear();
    }

    /// Serve what was gathered of clients one of which has sent a script: each keeps its own bytes, so that while
    /// the script runs the others can be told so.
    fn serve_one_by_one(&mut self, gathered: &[(Token, usize)], shared: &[u8]) {
        for (index, &(token, count)) in gathered.iter().enumerate() {
            if let Some(connection) = self.connections[token as usize].as_mut() {
                connection.gathered = false;
                connection.input.extend_from_slice(&shared[index * PIECE..index * PIECE + count]);
                self.engine.resumed.push(token);
            }
        }
        for &(token, _) in gathered {
            self.serve_kept(token);
            self.after_serving(token);
        }
    }

    /// What came was no more than the beginning of TLS: on a connection of ours the question follows it now.
    fn begin_stream(&mut self, token: Token) {
        let ours = |client: &Client| client.stream == Some(Role::Sink) && !client.pending.is_empty();
        if self.engine.clients.get_mut(token).is_some_and(|client| ours(client)) {
            self.send_pending(token);
        }
    }

    fn readable(&mut self, token: Token, ended: bool) {
        let Some(connection) = self.connections.get_mut(token as usize).and_then(Option::as_mut) else {
            return;
        };
        connection.ended |= ended;
        if connection.interest == Interest::Write && !connection.ended {
            return; // Told anew when it is read again.
        }
        self.engine.stats.reads += 1;
        let mut asked = SHARED_INPUT;
        let moved = if connection.input.is_empty() {
            connection.socket.read(&mut self.shared_input[..SHARED_INPUT])
        } else {
            // Memory follows what has arrived, up to twice as much; never what a header announces.
            let missing = connection.parser.missing_bytes(connection.input.len());
            asked = missing.clamp(SHARED_INPUT / 4, connection.input.len().max(SHARED_INPUT));
            connection.socket.read_more(&mut connection.input, asked)
        };
        match moved {
            Moved::NotNow => self.begin_stream(token),
            Moved::Gone => self.close(token),
            Moved::Bytes(count) => {
                self.engine.stats.input_bytes += count as u64;
                if count >= asked || connection.ended {
                    self.more.push(token);
                }
                if connection.input.is_empty() {
                    let shared = std::mem::take(&mut self.shared_input);
                    let used = self.serve(token, &shared[..count]);
                    if used < count
                        && let Some(connection) = self.connections[token as usize].as_mut()
                    {
                        connection.input.extend_from_slice(&shared[used..count]);
                    }
                    self.shared_input = shared;
                } else {
                    self.serve_kept(token);
                }
                self.after_serving(token);
            }
        }
    }

    /// Serve what a connection has kept.
    fn serve_kept(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token as usize).and_then(Option::as_mut) else {
            return;
        };
        let mut input = std::mem::take(&mut connection.input);
        let used = self.serve(token, &input);
        if let Some(connection) = self.connections[token as usize].as_mut() {
            if used == input.len() {
                input.clear();
                if input.capacity() > SHARED_INPUT {
                    input = Vec::new();
                }
                connection.parser.relax();
            } else if used > 0 {
                input.drain(..used);
            }
            connection.input = input;
        }
    }

    /// Send what one client's requests produced for others, and go on with those who no longer wait.
    pub(super) fn settle(&mut self) {
        loop {
            if !self.engine.ready.is_empty() {
                blocking::serve_ready(&mut self.engine);
            }
            crate::command::tracking::broadcast(&mut self.engine);
            if let Some(token) = self.engine.wake.pop() {
                self.write_pending(token);
                self.after_serving(token);
            } else if let Some(token) = self.engine.resumed.pop() {
                self.serve_kept(token);
                self.after_serving(token);
            } else {
                return;
            }
        }
    }

    pub(super) fn close(&mut self, token: Token) {
        if let Some(mut client) = self.engine.clients.take(token) {
            self.engine.leave(&mut client);
            self.engine.clients.forget(token);
        }
        if let Some(place) = self.connections.get_mut(token as usize) {
            *place = None; // Closing the socket takes it out of the set.
        }
    }

    /// Told to stop: no new connections, but replies that are due are sent, within bounds.
    fn drain(&mut self) {
        self.listeners.clear();
        let seconds = self.engine.settings.number(Name::shutdown_timeout) as u64;
        let until = crate::clock::wall_ms() + seconds * 1000;
        if let Some(mut keeper) = self.engine.keeper.take() {
            keeper.settle(&mut self.engine);
            self.engine.keeper = Some(keeper);
            self.open_gate();
        }
        while self.engine.clients.iter().any(|client| !client.pending.is_empty() || client.choked)
            && crate::clock::wall_ms() < until
        {
            let Ok(count) = self.poll.wait(Duration::from_millis(100)) else { break };
            for index in 0..count {
                if let Some(ready) = self.poll.ready(index)
                    && ready.key >= FIRST_CLIENT
                {
                    let token = (ready.key - FIRST_CLIENT) as Token;
                    self.write_pending(token);
                    if self
                        .engine
                        .clients
                        .get(token)
                        .is_none_or(|client| client.dead || (client.pending.is_empty() && !client.choked))
                    {
                        self.close(token);
                    }
                }
            }
        }
    }
}
