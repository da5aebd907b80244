//! The loop: wait, read, serve, write.
//!
//! Requests are read into one buffer that all connections share and are served from where
//! they lie; only what is incomplete is kept by its connection. Replies of one turn are
//! gathered in one buffer and written at once; only what the socket does not take is kept.
//! A client that does not read its replies is not served further, so nobody's buffers grow
//! by their own requests.

use super::runner::Errand;
use super::{busy, listening, upkeep};
use crate::command::client::{Client, Token};
use crate::command::settings::Name;
use crate::command::{Engine, blocking, dispatch};
use crate::net::{Interest, Listener, Moved, Peer, Poll, Stream, Waker};
use crate::persist;
use crate::replication::strict;
use crate::resp::request::{QUOTED, inline_words};
use crate::resp::{Args, Reply, RequestParser};
use crate::store::Kind;
use crate::store::approach::Inside;
use crate::store::keyspace::Whereabouts;
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

/// A request that was found and is about to be served.
#[derive(Clone, Copy)]
struct Pending {
    start: usize,
    spans: (u32, u32),
    at: Whereabouts,
    inside: Option<Inside>,
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
        let listeners = listening::open(&engine.settings)?;
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
                if ready.key == WAKER {
                    self.waker.clear();
                    while let Ok(errand) = self.inbox.try_recv() {
                        errand(&mut self.engine);
                    }
                } else {
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
        if std::mem::take(&mut self.engine.copies.held) {
            self.engine.resume_held();
        }
    }

    fn accept(&mut self, index: usize) {
        // A bounded number at a time: a storm of connections must not starve who is connected.
        for _ in 0..64 {
            let keepalive = self.engine.settings.number(Name::tcp_keepalive) as u64;
            match self.listeners[index].accept(keepalive, self.engine.tls.as_ref()) {
                Ok(Some(peer)) => Self::welcome(&mut self.engine, &self.poll, &mut self.connections, peer),
                // Out of descriptors, say: those who wait are served when some are free again.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// A client has connected.
    pub(super) fn welcome(engine: &mut Engine, poll: &Poll, connections: &mut Vec<Option<Connection>>, mut peer: Peer) {
        if let Some(refusal) = listening::refusal(engine, &peer) {
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
            Moved::NotNow => {}
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
            Moved::NotNow => {}
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

    /// Serve the requests in `input`; returns how many bytes of it are done with.
    fn serve(&mut self, token: Token, input: &[u8]) -> usize {
        let Some(mut client) = self.engine.clients.take(token) else {
            return input.len();
        };
        let Some(connection) = self.connections[token as usize].as_mut() else {
            self.engine.clients.put_back(client);
            return input.len();
        };
        client.last_seen = self.engine.store.now();
        if let Some(role) = client.stream {
            let used = self.serve_stream(&mut client, role, input);
            self.reply.clear();
            self.flush(&mut client);
            self.engine.clients.put_back(client);
            return used;
        }
        let mut parser = std::mem::take(&mut connection.parser);
        self.reply.clear();
        self.reply.speak(client.resp3);
        if !client.pending.is_empty() && !self.engine.gate.closed() {
            self.reply.raw(&std::mem::take(&mut client.pending));
        }
        let mut used = 0;
        while used < input.len() && going(&client) {
            let (taken, go_on) = self.serve_batch(&mut client, &mut parser, &input[used..]);
            used += taken;
            if !go_on {
                break;
            }
            if self.reply.len() > FLUSH_AT && !self.flush(&mut client) {
                break; // It does not read: the rest waits until it does.
            }
        }
        if client.closing || client.dead {
            used = input.len(); // What follows is not answered.
        }
        client.query_bytes = input.len() - used;
        if client.query_bytes > self.engine.settings.size(Name::client_query_buffer_limit) {
            self.engine.stats.query_limit_disconnections += 1;
            client.dead = true;
        }
        self.flush(&mut client);
        if let Some(connection) = self.connections[token as usize].as_mut() {
            connection.parser = parser;
        }
        self.engine.clients.put_back(client);
        used
    }

    /// Find the next requests, have the processor fetch what their keys need, and serve them. Returns
    /// how many bytes are done with, and whether there may be more to serve.
    fn serve_batch(&mut self, client: &mut Client, parser: &mut RequestParser, input: &[u8]) -> (usize, bool) {
        let limits = dispatch::limits(&self.engine, client);
        // Before AUTH other limits hold than after it: such requests go one by one.
        let most = if limits.before_auth { 1 } else { BATCH };
        parser.forget();
        self.batch.clear();
        let mut end = 0;
        let mut broken = None;
        while self.batch.len() < most && end < input.len() {
            match parser.parse(&input[end..], limits) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    self.batch.push(Pending {
                        start: end,
                        spans: parser.mark(),
                        at: Whereabouts::default(),
                        inside: None,
                    });
                    end += len;
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let incomplete = broken.is_none() && self.batch.len() < most;
        self.look_ahead(client.database, parser, input);
        for index in 0..self.batch.len() {
            let Pending { start, spans, at, .. } = self.batch[index];
            let args = Args::new(&input[start..], parser.spans_at(spans));
            if args.len() == 0 {
                continue;
            }
            let held = (self.engine.paused.is_some() && self.engine.holds(client, &args))
                || (!self.engine.copies.is_empty() && self.engine.copy_holds(client, &args));
            if held || !going(client) || (index > 0 && self.reply.len() > FLUSH_AT) {
                // Not now: what was read ahead is read again when its turn comes.
                parser.restart();
                return (start, !held);
            }
            if cross_protocol(&args) {
                client.dead = true;
                return (input.len(), false);
            }
            self.engine.store.expect(at);
            if self.engine.replication.is_some() {
                self.serve_among_copies(client, &args);
            } else {
                self.serve_request(client, &args);
            }
            self.engine.store.expect(Whereabouts::default());
            if !self.engine.ready.is_empty() {
                blocking::serve_ready(&mut self.engine);
            }
        }
        match broken {
            None => {}
            Some(_) if !going(client) => parser.restart(),
            Some(error) if error.0 == QUOTED => match inline_words(&input[end..]) {
                Ok((words, len)) => {
                    self.serve_at_length(client, &words.as_args());
                    end += len.min(input.len() - end);
                }
                Err(error) => break_off(client, &mut self.reply, &error.0),
            },
            Some(error) => break_off(client, &mut self.reply, &error.0),
        }
        (end, !incomplete)
    }

    /// Serve a request.
    #[inline]
    pub(super) fn serve_request(&mut self, client: &mut Client, args: &Args<'_>) {
        if busy::may_take_long(args) {
            self.serve_at_length(client, args);
        } else {
            dispatch::serve(&mut self.engine, client, args, &mut self.reply);
        }
    }

    /// Serve a request that may be a script: others are seen to if it takes long.
    fn serve_at_length(&mut self, client: &mut Client, args: &Args<'_>) {
        let EventLoop { engine, poll, waker, inbox, listeners, connections, more, reply, .. } = self;
        let sockets = busy::Sockets { poll, waker, inbox, listeners, connections, more };
        busy::lend(sockets, || dispatch::serve(engine, client, args, reply));
    }

    /// Fetch into the cache what the keys of a batch will need, one step for all before the next.
    #[inline]
    fn look_ahead(&mut self, database: u8, parser: &RequestParser, input: &[u8]) {
        if let [only] = &mut self.batch[..] {
            only.at = self.first_at;
        }
        self.first_at = Whereabouts::default();
        if self.batch.len() < 2 {
            return;
        }
        let store = &self.engine.store;
        for request in &mut self.batch {
            // Nearly always the first argument is the key; where it is not, the work is wasted, no more.
            let args = Args::new(&input[request.start..], parser.spans_at(request.spans));
            if let Some(key) = args.get(1) {
                request.at = store.approach(database, key);
            }
        }
        self.batch.iter().for_each(|request| store.approach_group(database, &request.at));
        self.batch.iter().for_each(|request| store.approach_entry(database, &request.at));
        let mut any_inside = false;
        for request in &mut self.batch {
            let args = Args::new(&input[request.start..], parser.spans_at(request.spans));
            if asks_for_member(&args) {
                // A member of a sorted set stands last, behind its score.
                let last = |kind| if kind == Kind::SortedSet { args.len() - 1 } else { 2 };
                request.inside = store.approach_object(database, &request.at, |kind| args.get(last(kind)));
                any_inside |= request.inside.is_some();
            }
        }
        if any_inside {
            self.batch
                .iter()
                .filter_map(|request| request.inside.as_ref())
                .for_each(|inside| store.approach_place(inside));
            self.batch
                .iter()
                .filter_map(|request| request.inside.as_ref())
                .for_each(|inside| store.approach_member(inside));
        }
    }

    /// Write the gathered replies; what the socket does not take stays pending. `true` when all went.
    fn flush(&mut self, client: &mut Client) -> bool {
        if !client.pending.is_empty() {
            // Messages that the client sent to itself, behind its replies.
            self.reply.raw(&std::mem::take(&mut client.pending));
        }
        if client.dead {
            self.reply.clear();
            return true;
        }
        // Streams between nodes carry what is not promised to anybody yet.
        if client.stream.is_none() && (self.engine.gate.closed() || !client.withheld.is_empty()) {
            return self.withhold(client);
        }
        if self.reply.is_empty() {
            return true;
        }
        let Some(connection) = self.connections[client.token as usize].as_mut() else {
            return true;
        };
        let mut sent = 0;
        while sent < self.reply.len() {
            self.engine.stats.writes += 1;
            match connection.socket.write(&self.reply.bytes()[sent..]) {
                Moved::Bytes(count) => sent += count,
                Moved::NotNow => break,
                Moved::Gone => {
                    client.dead = true;
                    break;
                }
            }
        }
        self.engine.stats.output_bytes += sent as u64;
        let all = sent == self.reply.len();
        if !all && !client.dead {
            client.pending.extend_from_slice(&self.reply.bytes()[sent..]);
        }
        self.reply.clear();
        all
    }

    /// Keep the gathered replies back until what they tell of is safe; send those that wait no longer.
    fn withhold(&mut self, client: &mut Client) -> bool {
        if !self.reply.is_empty() {
            let number = self.engine.gate.number(&self.engine.tail);
            client.withheld.push_back((number, self.reply.bytes().to_vec()));
            self.engine.gate.waiting.push_back((number, client.token));
            self.reply.clear();
        }
        self.release(client)
    }

    /// Send the replies of a client that wait for nothing any more. `false` when its socket does not take them.
    fn release(&mut self, client: &mut Client) -> bool {
        let released = self.engine.gate.released();
        client.choked = false;
        let Some(connection) = self.connections[client.token as usize].as_mut() else {
            return true;
        };
        while let Some((number, bytes)) = client.withheld.front_mut()
            && *number <= released
        {
            self.engine.stats.writes += 1;
            match connection.socket.write(bytes) {
                Moved::Bytes(count) => {
                    self.engine.stats.output_bytes += count as u64;
                    if count == bytes.len() {
                        client.withheld.pop_front();
                    } else {
                        bytes.drain(..count);
                    }
                }
                Moved::NotNow => {
                    client.choked = true;
                    return false;
                }
                Moved::Gone => {
                    client.dead = true;
                    client.withheld.clear();
                    break;
                }
            }
        }
        true
    }

    /// Send what waited and waits no longer.
    fn open_gate(&mut self) {
        let released = self.engine.gate.released();
        while let Some(&(number, token)) = self.engine.gate.waiting.front()
            && number <= released
        {
            self.engine.gate.waiting.pop_front();
            if let Some(mut client) = self.engine.clients.take(token) {
                self.release(&mut client);
                self.engine.clients.put_back(client);
                self.after_serving(token);
            }
        }
    }

    /// Close or re-arm a client after its turn.
    fn after_serving(&mut self, token: Token) {
        let Some(client) = self.engine.clients.get_mut(token) else {
            return;
        };
        if client.dead || (client.closing && client.is_served() && client.held.is_empty()) {
            return self.close(token);
        }
        let Some(connection) = self.connections[token as usize].as_mut() else {
            return;
        };
        let wanted = if client.pending.is_empty() && !client.choked {
            Interest::Read
        } else if connection.input.is_empty() {
            Interest::Both
        } else {
            Interest::Write // It has requests waiting and does not read its replies: read no more.
        };
        if wanted != connection.interest
            && self.poll.change_edge(&connection.socket, FIRST_CLIENT + u64::from(token), wanted).is_ok()
        {
            connection.interest = wanted;
        }
        if !client.pending.is_empty()
            && upkeep::over_output_limit(&self.engine.settings, client, self.engine.store.now())
        {
            self.engine.stats.output_limit_disconnections += 1;
            self.close(token);
        }
    }

    fn writable(&mut self, token: Token) {
        self.write_pending(token);
        let caught_up = self
            .engine
            .clients
            .get(token)
            .is_some_and(|client| client.pending.is_empty() && !client.choked && client.blocked.is_none());
        if caught_up && self.connections[token as usize].as_ref().is_some_and(|connection| !connection.input.is_empty())
        {
            self.serve_kept(token);
        }
        self.after_serving(token);
    }

    /// Send what was written for a client outside of its turn.
    pub(super) fn send_pending(&mut self, token: Token) {
        self.write_pending(token);
        self.after_serving(token);
    }

    fn write_pending(&mut self, token: Token) {
        if let Some(mut client) = self.engine.clients.take(token) {
            self.reply.clear();
            self.flush(&mut client);
            self.engine.clients.put_back(client);
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

/// Answer a protocol error and let the client go.
fn break_off(client: &mut Client, reply: &mut Reply, text: &str) {
    reply.error(format!("ERR Protocol error: {text}").as_bytes());
    client.closing = true;
}

/// The first argument of the first request, if the bytes begin as nearly all do.
#[inline]
fn first_key(bytes: &[u8]) -> Option<&[u8]> {
    let (_, at) = short_number(bytes, 0, b'*')?;
    let (name, at) = short_number(bytes, at, b'$')?;
    let (key, at) = short_number(bytes, at + name + 2, b'$')?;
    bytes.get(at..at + key)
}

/// A header of at most three digits: its number, and where the next line begins.
#[inline]
fn short_number(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let [first, rest @ ..] = bytes.get(at..)? else { return None };
    if *first != kind {
        return None;
    }
    let mut number = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        match byte {
            b'0'..=b'9' => number = number * 10 + usize::from(byte - b'0'),
            b'\r' => return Some((number, at + index + 3)),
            _ => return None,
        }
    }
    None
}

/// Whether a client's next request may be served.
#[inline]
fn going(client: &Client) -> bool {
    client.blocked.is_none() && !client.closing && !client.dead && client.held.len() < strict::MOST_HELD
}

/// A browser made to talk to us by a hostile page sends these words first: such a connection is closed at once.
#[inline]
fn cross_protocol(args: &Args<'_>) -> bool {
    args.is(0, "POST") || args.is(0, "HOST:")
}

/// Whether a request looks like one for a member of a hash, set or sorted set, by its name: HGET, SADD, ZSCORE,
/// but not SET and its like. A wrong guess costs a few nanoseconds.
#[inline]
fn asks_for_member(args: &Args<'_>) -> bool {
    args.len() > 2
        && match args.at(0) {
            [b'h' | b'H' | b'z' | b'Z', ..] => true,
            [b's' | b'S', second, ..] => second | 0x20 != b'e',
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::first_key;

    #[test]
    fn the_first_key_is_seen_where_the_bytes_begin_as_usual() {
        assert_eq!(first_key(b"*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n"), Some(&b"foo"[..]));
        assert_eq!(first_key(b"*2\r\n$3\r\nGET\r\n$300\r\nfoo"), None);
        for odd in [
            &b"PING\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"*2\r\n$3",
            b"*99999\r\n$1\r\n",
            b"",
            b"*2\r\n$3\r\nGET\r\n$3\r\nfo",
        ] {
            assert_eq!(first_key(odd), None);
        }
    }
}
