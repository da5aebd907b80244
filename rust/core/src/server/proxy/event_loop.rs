//! The proxy's loop: wait, read from clients and nodes, pass on, write.

use super::again::Parked;
use super::handover::Inherited;
use super::jobs::Job;
use super::lane::Lane;
use super::options::Options;
use super::peers::PEER_MS;
use super::upstream::{BROADCASTER, COUNTS, For, Key, LISTENER, Owed, PEER, READER, TRACKER, Upstream, is_gatherer};
use super::workers::Crew;
use crate::command::Engine;
use crate::command::client::Token;
use crate::command::settings::Name;
use crate::net::{Interest, Listener, Moved, Peer, Poll, Ready, Waker};
use crate::resp::Reply;
use crate::route::Map;
use crate::server::listening;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// What errands from other threads get to see.
pub(super) type Errand = EventLoop;

pub(super) const FIRST_CLIENT: u64 = 1 << 32;
pub(super) const FIRST_UPSTREAM: u64 = 1 << 40;
pub(super) const WAKER: u64 = FIRST_CLIENT - 1;
const SHARED: usize = 128 * 1024;
/// Sockets that are heard at most before requests leave for nodes.
const GATHER: usize = 64;
/// Unsent replies beyond which a client's requests are not read.
pub(super) const MOST_REPLIES: usize = 1 << 20;
const ROUND_MS: u64 = 100;
/// The same, while nothing is under way.
const QUIET_ROUND_MS: u64 = 500;
/// How often it is looked after that the nodes are listened to.
const TUNE_MS: u64 = 1_000;
/// Unsent messages beyond which a client that listens is let go.
const MOST_MESSAGES: usize = 32 << 20;

/// What the proxy remembers of a node besides its address.
#[derive(Clone, Default)]
pub(super) struct Breaker {
    pub(super) failures: u32,
    /// Nothing is sent before this time, ms.
    pub(super) closed_until: u64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    /// Requests that were sent again, here after they could not be served elsewhere.
    pub(super) again: u64,
    /// Connections that failed, and requests that were not answered in time.
    pub(super) faults: u64,
}

/// A request that was turned away: who it is for, the reply, and the request.
pub(super) type Away = (Owed, Box<[u8]>, Box<[u8]>);

pub(super) struct EventLoop {
    pub(super) engine: Engine,
    pub(super) options: Options,
    pub(super) crew: Crew,
    pub(super) map: Map,
    pub(super) lanes: Vec<Option<Box<Lane>>>,
    pub(super) upstreams: Vec<Option<Box<Upstream>>>,
    pub(super) by_key: HashMap<Key, u32, foldhash::fast::RandomState>,
    pub(super) breakers: Vec<Breaker>,
    pub(super) poll: Poll,
    pub(super) waker: Waker,
    pub(super) inbox: Receiver<super::super::runner::Errand<EventLoop>>,
    pub(super) listeners: Vec<Listener>,
    shared_input: Vec<u8>,
    pub(super) shared_replies: Vec<u8>,
    pub(super) reply: Reply,
    pub(super) written: Vec<u32>,        // Upstreams with requests to send.
    pub(super) owed: Vec<Token>,         // Clients with replies to send or requests to serve.
    held: Vec<Token>,                    // Clients with bytes that were read and wait for room; only TLS holds any.
    pub(super) held_upstreams: Vec<u32>, // Connections to nodes with such bytes.
    pub(super) next_round: u64,
    pub(super) next_tune: u64,
    pub(super) stopping: bool,
    /// Clients are not read: what is under way is to be answered and nothing else to begin (`handover`).
    pub(super) resting: bool,
    /// Sockets and clients are another process' now.
    pub(super) handed_over: bool,
    /// Requests that wait for a node to serve them, and how many bytes they are.
    pub(super) waiting: VecDeque<Parked>,
    pub(super) parked_bytes: usize,
    /// How many notices of maintenance were given, and whether the last one says that a failover is under way.
    pub(super) notices: u64,
    pub(super) failing_over: bool,
    /// It is to be told yet. Not at once: whoever is being served just then is among those who want to know.
    pub(super) failover_untold: bool,
    /// Rises with every failure, for who watches from another thread.
    pub(super) trouble: Arc<super::trouble::Trouble>,
    /// Until then it looks as if there were a newer map than ours.
    pub(super) stale_until: u64,
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) next_job: u64,
    /// Who waits for keys that lie on several nodes, by node and key.
    pub(super) vigils: HashMap<(u16, Box<[u8]>), Vec<u64>>,
    /// What nodes told of changed keys, when all was void last, and whether what is served now reads for a client that is
    /// to be told ([`COUNTS`]).
    pub(super) tracked_news: Vec<super::tracked::News>,
    pub(super) void_since: u64,
    pub(super) counting: u16,
    /// Where the topology has this proxy itself.
    pub(super) itself: HashSet<(String, u16)>,
    /// What is run here over keys of several nodes, and where.
    pub(super) gathering: super::gather::Gathering,
    pub(super) scratch: Option<Box<super::scratch::Scratch>>,
    /// The client whose requests are being served: it is not among the others, nor is its lane.
    pub(super) serving: Option<Token>,
    /// What came over a connection and is dealt with once that is back in its place: requests that were turned away
    /// (with the reply and themselves), replies for jobs, and news of changed keys.
    pub(super) away: Vec<Away>,
    pub(super) answered_jobs: Vec<(u64, u16, Box<[u8]>)>,
    pub(super) news: Vec<(u16, Box<[u8]>)>,
    /// Replies that came for it meanwhile.
    deferred: Vec<(u64, u32, u16, Vec<u8>)>,
}

impl EventLoop {
    pub(super) fn open(
        mut engine: Engine,
        (options, crew): (Options, Crew),
        inbox: Receiver<super::super::runner::Errand<EventLoop>>,
        map: Option<Map>,
        mut inherited: Inherited,
    ) -> io::Result<(EventLoop, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(&poll, WAKER)?;
        engine.tls = listening::tls(&engine.settings)?;
        // The first worker lets everybody in.
        let first = crew.me == 0;
        let listeners = if first { listening::open(&engine.settings, &mut inherited.listeners)? } else { Vec::new() };
        // What is not listened on any more; a file of it goes too.
        for (name, socket) in inherited.listeners.drain() {
            drop(Listener::inherited(socket, &name));
        }
        for (index, listener) in listeners.iter().enumerate() {
            poll.add(listener, index as u64, Interest::Read)?;
        }
        crate::clock::ticks_per_us();
        // Nothing waits in the proxy itself: what may wait does so at nodes.
        engine.in_transaction = true;
        engine.audiences = Some(Vec::new());
        let mut serving = EventLoop {
            engine,
            options,
            crew,
            map: Map::default(),
            lanes: Vec::new(),
            upstreams: Vec::new(),
            by_key: HashMap::default(),
            breakers: Vec::new(),
            poll,
            waker: waker.clone(),
            inbox,
            listeners,
            shared_input: vec![0; SHARED],
            shared_replies: vec![0; SHARED],
            reply: Reply::default(),
            written: Vec::new(),
            owed: Vec::new(),
            held: Vec::new(),
            held_upstreams: Vec::new(),
            next_round: 0,
            next_tune: 0,
            stopping: false,
            resting: false,
            handed_over: false,
            waiting: VecDeque::new(),
            parked_bytes: 0,
            notices: 0,
            failing_over: false,
            failover_untold: false,
            trouble: Arc::default(),
            stale_until: 0,
            jobs: HashMap::new(),
            next_job: 1,
            vigils: HashMap::new(),
            tracked_news: Vec::new(),
            void_since: 0,
            counting: 0,
            gathering: super::gather::Gathering::default(),
            itself: HashSet::new(),
            scratch: None,
            serving: None,
            away: Vec::new(),
            answered_jobs: Vec::new(),
            news: Vec::new(),
            deferred: Vec::new(),
        };
        if let Some(map) = map {
            serving.take_map(map);
        }
        serving.take_over(inherited)?;
        Ok((serving, waker))
    }

    pub(super) fn run(&mut self, heartbeat: &AtomicU64) {
        while !self.stopping && !self.engine.stopping {
            heartbeat.fetch_add(1, Ordering::Relaxed);
            let now = self.engine.store.now();
            let most = if self.held.is_empty() && self.held_upstreams.is_empty() { 500 } else { 0 };
            let longest = Duration::from_millis(self.next_round.saturating_sub(now).min(most));
            let Ok(count) = self.poll.wait(longest) else {
                break; // The set of sockets itself is broken: nothing can be served any more.
            };
            self.engine.store.set_now(crate::clock::wall_ms());
            self.hear(count);
            self.hear_more(count);
            self.settle();
            let soon = self.engine.store.now() + ROUND_MS;
            if self.next_round > soon && !self.is_quiet() {
                self.next_round = soon;
            }
            if self.engine.store.now() >= self.next_round {
                self.round();
            }
        }
        if self.engine.stopping {
            self.stop_the_others();
        }
        if !self.handed_over {
            self.drain();
        }
    }

    /// See to the sockets that the last wait has told of.
    fn hear(&mut self, count: usize) {
        // Before, to know what was known when a request was sent; after, to have told it before it is answered.
        self.compare_notes();
        // First, in whatever order they are told: who sends a request after an errand was given may count on it.
        if self.poll.is_ready(WAKER) {
            self.waker.clear();
            self.do_errands();
        }
        for index in 0..count {
            let Some(ready) = self.poll.ready(index) else { break };
            if ready.key >= FIRST_CLIENT {
                self.peer_ready(&ready);
            } else if ready.key != WAKER {
                self.accept(ready.key as usize);
            }
        }
        for token in std::mem::take(&mut self.held) {
            self.client_readable(token);
        }
        for index in std::mem::take(&mut self.held_upstreams) {
            self.upstream_ready(index, true, false);
        }
        self.compare_notes();
    }

    /// Before requests leave for nodes, give clients their replies and see who has come meanwhile: requests that go to one
    /// node together cost one write here, one read there, and mostly one write and one read back. A lone client's request
    /// leaves at once.
    fn hear_more(&mut self, mut heard: usize) {
        let mut company = heard > 1;
        while company && heard < GATHER && !self.written.is_empty() && !self.stopping {
            self.settle_clients();
            match self.poll.wait(Duration::ZERO) {
                Ok(count @ 1..) => {
                    self.hear(count);
                    heard += count;
                }
                _ => company = false,
            }
        }
    }

    /// Told to stop: nobody new is let in.
    pub(super) fn stop(&mut self) {
        self.listeners.clear();
        self.stopping = true;
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..64 {
            let keepalive = self.engine.settings.number(Name::tcp_keepalive) as u64;
            let Some(listener) = self.listeners.get(index) else { return };
            match listener.accept(keepalive, self.engine.tls.acceptor.as_ref()) {
                Ok(Some(peer)) => self.welcome(peer),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn welcome(&mut self, mut peer: Peer) {
        if let Some(refusal) = listening::refusal(&self.engine, self.crew.clients(), &peer) {
            self.engine.stats.rejected_connections += 1;
            peer.socket.write(refusal);
            return;
        }
        self.deal_out(peer);
    }

    /// A client of this worker, with the number that it has among all of them.
    pub(super) fn admit(&mut self, peer: Peer, id: u64) {
        let mut client = self.engine.new_client_numbered(id);
        client.socket = peer.number();
        client.by_unix_socket = peer.unix;
        client.address = peer.address;
        client.local_address = peer.local_address;
        let token = self.engine.clients.add(client);
        if self.poll.add(&peer.socket, FIRST_CLIENT + u64::from(token), Interest::Read).is_err() {
            self.engine.clients.take(token);
            self.engine.clients.forget(token);
            return self.crew.count_out();
        }
        let place = token as usize;
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, || None);
        }
        self.lanes[place] = Some(Box::new(Lane::new(peer.socket)));
    }

    pub(super) fn client_readable(&mut self, token: Token) {
        let Some(lane) = self.lanes.get_mut(token as usize).and_then(Option::as_mut).filter(|_| !self.resting) else {
            return;
        };
        let moved = if lane.input.is_empty() {
            lane.socket.read(&mut self.shared_input)
        } else {
            let missing = lane.parser.missing_bytes(lane.input.len());
            let most = missing.clamp(SHARED / 8, lane.input.len().max(SHARED));
            lane.socket.read_more(&mut lane.input, most)
        };
        match moved {
            Moved::NotNow => {}
            Moved::Gone => self.close(token),
            Moved::Bytes(count) => {
                self.engine.stats.input_bytes += count as u64;
                if lane.socket.holds_more() {
                    self.held.push(token);
                }
                if lane.input.is_empty() {
                    let shared = std::mem::take(&mut self.shared_input);
                    let used = self.serve_one(token, &shared[..count]);
                    if let Some(lane) = self.lanes[token as usize].as_mut() {
                        lane.input.extend_from_slice(&shared[used..count]);
                    }
                    self.shared_input = shared;
                } else {
                    self.serve_kept(token);
                }
                self.owed.push(token);
            }
        }
    }

    fn serve_one(&mut self, token: Token, input: &[u8]) -> usize {
        self.serving = Some(token);
        let used = self.serve(token, input);
        self.serving = None;
        for (id, number, part, reply) in std::mem::take(&mut self.deferred) {
            self.deliver(token, id, number, part, &reply);
        }
        used
    }

    /// Serve what a client sent earlier.
    fn serve_kept(&mut self, token: Token) {
        let Some(lane) = self.lanes.get_mut(token as usize).and_then(Option::as_mut) else {
            return;
        };
        let mut input = std::mem::take(&mut lane.input);
        let used = self.serve_one(token, &input);
        if let Some(lane) = self.lanes[token as usize].as_mut() {
            if used == input.len() {
                input.clear();
                input.shrink_to(SHARED);
                lane.parser.relax();
            } else {
                input.drain(..used);
            }
            lane.input = input;
        }
    }

    /// A client's or a node's socket can be read or written.
    pub(super) fn peer_ready(&mut self, ready: &Ready) {
        if ready.key >= FIRST_UPSTREAM {
            return self.upstream_ready((ready.key - FIRST_UPSTREAM) as u32, ready.read, ready.write);
        }
        let token = (ready.key - FIRST_CLIENT) as Token;
        if ready.write {
            self.owed.push(token);
        }
        if ready.read {
            self.client_readable(token);
        }
    }

    /// Give a reply to whoever it is for.
    pub(super) fn give(&mut self, whom: For, reply: &[u8]) {
        match whom {
            For::Client { token, id, number, part } => self.deliver(token, id, number, part, reply),
            For::Job { id, part } => self.job_replied(id, part, reply),
            For::Afar { worker, token, id, number } => self.answer_afar(worker, token, id, number, reply.into()),
            _ => {}
        }
    }

    /// Give a client a reply, or a part of one.
    #[inline]
    pub(super) fn deliver(&mut self, token: Token, id: u64, number: u32, part: u16, reply: &[u8]) {
        let part = part & !COUNTS;
        if self.serving == Some(token) {
            return self.deferred.push((id, number, part, reply.to_vec()));
        }
        // The client may have gone, and its place may be another's now.
        let Some(client) = self.engine.clients.get(token).filter(|client| client.id == id) else {
            return;
        };
        let resp3 = client.resp3;
        if let Some(lane) = self.lanes[token as usize].as_mut() {
            if lane.busy_alone {
                if lane.recalled && matches!(reply, b"*-1\r\n" | b"_\r\n" | b"$-1\r\n") {
                    return lane.take_back();
                }
                (lane.busy_alone, lane.recalled) = (false, false);
                lane.asked = Vec::new();
            }
            lane.replied(number, part, reply, resp3);
            if !lane.listed {
                lane.listed = true;
                self.owed.push(token);
            }
        }
    }

    /// Send what the turn produced, until nothing is left to do.
    pub(super) fn settle(&mut self) {
        loop {
            self.settle_clients();
            self.tell_audiences();
            if let Some(index) = self.written.pop() {
                self.flush_upstream(index);
            } else if self.gathering.ended {
                self.start_gathers();
            } else {
                return;
            }
        }
    }

    /// Send clients what they are owed, and serve those who waited for room.
    fn settle_clients(&mut self) {
        while let Some(token) = self.owed.pop().or_else(|| self.engine.wake.pop()).or_else(|| self.engine.resumed.pop())
        {
            self.flush_client(token);
        }
    }

    fn flush_client(&mut self, token: Token) {
        let Some(lane) = self.lanes.get_mut(token as usize).and_then(Option::as_mut) else {
            return;
        };
        lane.listed = false;
        if let Some(client) = self.engine.clients.get_mut(token)
            && !client.pending.is_empty()
        {
            let pushed = std::mem::take(&mut client.pending);
            match client.tracking {
                // That a key changed must not be told before the reply that has its value.
                Some(_) => lane.answer(&pushed),
                None => lane.out.extend_from_slice(&pushed),
            }
        }
        let mut sent = 0;
        let mut gone = false;
        while sent < lane.out.len() {
            match lane.socket.write(&lane.out[sent..]) {
                Moved::Bytes(count) => sent += count,
                Moved::NotNow => break,
                Moved::Gone => {
                    gone = true;
                    break;
                }
            }
        }
        self.engine.stats.output_bytes += sent as u64;
        if sent == lane.out.len() {
            lane.out.clear();
            lane.out.shrink_to(SHARED);
        } else {
            lane.out.drain(..sent);
        }
        let idle = lane.out.is_empty() && lane.waiting() == 0;
        let unsent = lane.out.len();
        let leaves = self.engine.clients.get(token).is_none_or(|client| {
            client.dead || (client.closing && idle) || (client.subscriptions() > 0 && unsent > MOST_MESSAGES)
        });
        if gone || leaves {
            return self.close(token);
        }
        let Some(lane) = self.lanes[token as usize].as_mut() else { return };
        let wanted = if lane.out.is_empty() {
            Interest::Read
        } else if lane.out.len() < MOST_REPLIES {
            Interest::Both
        } else {
            Interest::Write // It does not read its replies: read no more of its requests.
        };
        if wanted != lane.interest && self.poll.change(&lane.socket, FIRST_CLIENT + u64::from(token), wanted).is_ok() {
            lane.interest = wanted;
        }
        if !lane.input.is_empty() && !self.resting && lane.may_serve() && !lane.parser.waits_for(lane.input.len()) {
            let before = lane.input.len();
            self.serve_kept(token);
            // What the proxy answered itself is to be sent as well.
            if self.lanes[token as usize].as_ref().is_some_and(|lane| lane.input.len() < before && !lane.out.is_empty())
            {
                self.owed.push(token);
            }
        }
    }

    /// Whether nothing is under way that could take too long.
    fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
            && self.jobs.is_empty()
            && !self.failing_over
            && self.next_tune > 0
            && self.engine.paused.is_none()
            && self.upstreams.iter().flatten().all(|upstream| upstream.is_at_rest())
    }

    /// Now and then: connections that hang, clients that do not read.
    pub(super) fn round(&mut self) {
        let now = self.engine.store.now();
        self.next_round = now + if self.is_quiet() { QUIET_ROUND_MS } else { ROUND_MS };
        let hung: Vec<u32> = self
            .upstreams
            .iter()
            .enumerate()
            .filter_map(|(index, upstream)| {
                let upstream = upstream.as_ref()?;
                let most = if upstream.key.owner == PEER { PEER_MS } else { u64::MAX };
                let slow_connect =
                    !upstream.connected && now.saturating_sub(upstream.since) > self.options.connect_timeout.min(most);
                let ours = matches!(upstream.key.owner, 0 | LISTENER | TRACKER | READER | BROADCASTER | PEER);
                let slow_answer = (ours || is_gatherer(upstream.key.owner))
                    && !upstream.expected.is_empty()
                    && now.saturating_sub(upstream.waiting_since) > self.options.node_timeout.min(most);
                (slow_connect || slow_answer).then_some(index as u32)
            })
            .collect();
        for index in hung {
            self.upstream_failed(index);
        }
        if std::mem::take(&mut self.failover_untold) {
            self.announce_maintenance("FAILING_OVER", Some(self.options.failover_wait.div_ceil(1000)));
        }
        if now >= self.next_tune {
            self.next_tune = now + TUNE_MS;
            self.tune();
            self.tune_broadcasts();
        }
        if !self.waiting.is_empty() {
            self.try_waiting();
        }
        // What was sent over a connection that does not stand yet may be back in a moment.
        let trying = |upstream: &Upstream| !upstream.connected && !upstream.expected.is_empty();
        if self.failing_over && self.waiting.is_empty() && !self.upstreams.iter().flatten().any(|one| trying(one)) {
            self.failing_over = false;
            self.announce_maintenance("FAILED_OVER", None);
        }
        if self.engine.paused.is_some_and(|(until, _)| until <= now) {
            self.engine.unpause();
        }
        if !self.jobs.is_empty()
            && let Some(next) = self.end_vigils().into_iter().chain(self.resume_gathers()).min()
        {
            self.next_round = self.next_round.min(next.max(now + 1));
        }
        self.settle();
    }

    pub(super) fn close(&mut self, token: Token) {
        let Some(mut client) = self.engine.clients.take(token) else { return };
        self.engine.leave(&mut client);
        self.engine.clients.forget(token);
        self.crew.count_out();
        let lane = self.lanes.get_mut(token as usize).and_then(Option::take);
        if let Some(job) = lane.as_ref().and_then(|lane| lane.job) {
            self.abandon(job);
        }
        for index in lane.map(|lane| lane.alone).unwrap_or_default() {
            let place = &mut self.upstreams[index as usize];
            if let Some(upstream) = place.take_if(|upstream| upstream.key.owner == client.id) {
                self.by_key.remove(&upstream.key);
            }
        }
    }
}
