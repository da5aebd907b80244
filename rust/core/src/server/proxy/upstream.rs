//! Connections to nodes: shared by all clients, requests one after another, replies in the same order.
//!
//! The bytes of a request are kept until its reply has come, so that one which surely did not run, or only
//! read, can be sent again elsewhere.

use crate::command::client::{Client, Token};
use crate::command::pubsub::Way;
use crate::net::tls::Connector;
use crate::net::{self, Interest, Moved, Stream, connect};
use crate::resp::scan::ReplyScanner;
use crate::route::Address;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};

/// What distinguishes connections to one node: replies and keys depend on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) node: u16,
    pub(super) database: u8,
    pub(super) resp3: bool,
    /// FASTCACHE CONSISTENCY of those whose requests go over it.
    pub(super) consistency: Option<bool>,
    /// Nodes tell on it when keys change that were read over it (`tracked`).
    pub(super) tracked: bool,
    /// The client whose alone the connection is, or zero.
    pub(super) owner: u64,
}

impl Key {
    /// The connection to a node that a client's requests share with those of others.
    #[inline]
    pub(super) fn shared(client: &Client, node: u16) -> Key {
        let (database, resp3, consistency) = (client.database, client.resp3, client.consistency);
        let tracked = client.tracking.as_ref().is_some_and(|tracking| !tracking.broadcast);
        Key { node, database, resp3, consistency, tracked, owner: 0 }
    }

    /// A connection of ours: for database 0, in RESP3.
    pub(super) fn of_ours(node: u16, owner: u64) -> Key {
        Key { node, database: 0, resp3: true, consistency: None, tracked: false, owner }
    }
}

/// The owner of connections over which messages of channels come, for all clients.
pub(super) const LISTENER: u64 = u64::MAX;

/// The owner of connections on which nodes tell when keys change that somebody waits for (`vigil`).
pub(super) const TRACKER: u64 = u64::MAX - 1;
/// The owner of connections to nodes that answer reads in place of the main (`again`).
pub(super) const READER: u64 = u64::MAX - 2;

/// The owner of connections on which nodes tell of all keys that change, for clients that want to know (`tracked`).
pub(super) const BROADCASTER: u64 = u64::MAX - 3;
/// The owner of connections to other proxies (`peers`).
pub(super) const PEER: u64 = u64::MAX - 4;
/// In the number of a request's part: what was read is noted when the reply passes.
pub(super) const COUNTS: u16 = 1 << 15;

/// The owners of connections over which keys are watched while something is run over them here (`gather`): this and those
/// before it, one for each that is under way.
pub(super) const GATHERER: u64 = u64::MAX - 5;

/// Whether a connection is one of these.
pub(super) fn is_gatherer(owner: u64) -> bool {
    (GATHERER - 0xFFFF_FFFF..=GATHERER).contains(&owner)
}

/// Who a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A client's request, by its number, and which part of it.
    Client { token: Token, id: u64, number: u32, part: u16 },
    /// A part of a request of another worker's client.
    Afar { worker: u16, token: Token, id: u64, number: u32 },
    /// Something in several steps, and which part of the present one.
    Job { id: u64, part: u16 },
    /// Nobody: it answers our own greeting. Only an error matters.
    Greeting,
    /// The same, but a server that does not know the command need not: a plain Redis splits nothing by slots.
    Courtesy,
    /// Nobody, whatever it says.
    Nobody,
    /// Ourselves: our number among the node's clients.
    Identity,
    /// No reply but a message: of a channel, or that a key changed.
    Message,
}

/// A request whose reply is to come.
pub(super) struct Owed {
    pub(super) whom: For,
    /// Bytes of it in `out`.
    len: usize,
    /// How many replies it has; the last one counts.
    replies: u32,
    /// How often it was sent before.
    pub(super) tries: u8,
    /// Why a part of a transaction was turned away: the last reply only says that it did not run.
    turned_away: Option<Box<[u8]>>,
}

impl Owed {
    /// The same without its place in a connection.
    pub(super) fn as_new(&self) -> Owed {
        Owed { tries: self.tries, ..Owed::new(self.whom) }
    }

    /// A request that was not sent yet.
    pub(super) fn new(whom: For) -> Owed {
        Owed { whom, len: 0, replies: 1, tries: 0, turned_away: None }
    }
}

/// A connection to a node.
pub(super) struct Upstream {
    pub(super) key: Key,
    pub(super) socket: Stream,
    pub(super) interest: Interest,
    /// Requests not yet answered.
    pub(super) out: Vec<u8>,
    answered: usize,  // Bytes of `out` whose replies have come.
    sent: usize,      // Bytes of `out` that the socket has taken.
    accounted: usize, // Bytes of `out` that belong to somebody in `expected`.
    input: Vec<u8>,
    scanner: ReplyScanner,
    /// Whose replies are to come, in order.
    pub(super) expected: VecDeque<Owed>,
    pub(super) connected: bool,
    /// When it was begun, ms; a connection that does not stand in time has failed.
    pub(super) since: u64,
    /// It is on the list of those with something to write.
    pub(super) listed: bool,
    /// When the reply at the front began to be awaited, or the last bytes went or came since, ms.
    pub(super) waiting_since: u64,
    /// What it listens to, when that is what it is for, and for how many listeners as the node knows it.
    pub(super) hears: HashMap<(Way, Box<[u8]>), usize>,
    /// Our number among the node's clients, for connections of one client's own.
    pub(super) identity: i64,
}

impl Upstream {
    /// Begin to connect, under TLS where there is a connector, and greet the node.
    pub(super) fn open(
        key: Key,
        address: &Address,
        password: &str,
        connector: Option<&Connector>,
        now: u64,
    ) -> std::io::Result<Upstream> {
        let over_tcp = || Stream::outgoing(connect::tcp(&address.host, address.port)?, &address.host, connector);
        let socket = match &address.unix {
            Some(path) => connect::unix(path).map(Stream::Plain).or_else(|_| over_tcp())?,
            None => over_tcp()?,
        };
        let mut upstream = Upstream::on(key, socket, now);
        if key.resp3 {
            let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
            if !password.is_empty() {
                hello.extend_from_slice(&[b"AUTH", b"default", password.as_bytes()]);
            }
            upstream.greet(&hello);
        } else if !password.is_empty() {
            upstream.greet(&[b"AUTH", password.as_bytes()]);
        }
        // Requests are split by node: a node must not ask for one slot at a time, as it does of cluster clients.
        upstream.send_words(For::Courtesy, &[b"FASTCACHE", b"ROUTED"]);
        if key.database > 0 {
            upstream.greet(&[b"SELECT", key.database.to_string().as_bytes()]);
        }
        if let Some(strict) = key.consistency {
            upstream.greet(&[b"FASTCACHE", b"CONSISTENCY", if strict { b"STRICT" } else { b"EVENTUAL" }]);
        }
        if key.tracked {
            upstream.greet(&[b"CLIENT", b"TRACKING", b"ON"]);
        }
        match key.owner {
            0 | LISTENER | PEER => {}
            BROADCASTER => upstream.greet(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST"]),
            owner if is_gatherer(owner) => {}
            TRACKER => upstream.greet(&[b"CLIENT", b"TRACKING", b"ON"]),
            READER => upstream.send_words(For::Nobody, &[b"READONLY"]),
            _ => upstream.send_words(For::Identity, &[b"CLIENT", b"ID"]),
        }
        Ok(upstream)
    }

    /// A connection that stands and listens, with what was read of it and not understood yet.
    pub(super) fn resumed(key: Key, socket: OwnedFd, unread: &[u8], now: u64) -> Upstream {
        net::own_again(&socket);
        let (connected, interest) = (true, Interest::Read);
        Upstream { connected, interest, input: unread.to_vec(), ..Upstream::on(key, socket.into(), now) }
    }

    /// Whether nothing is under way on it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.expected.is_empty() && self.sent == self.out.len()
    }

    /// The beginning of a reply that has not come whole.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input
    }

    fn on(key: Key, socket: Stream, now: u64) -> Upstream {
        Upstream {
            key,
            socket,
            interest: Interest::Both,
            out: Vec::new(),
            answered: 0,
            sent: 0,
            accounted: 0,
            input: Vec::new(),
            scanner: ReplyScanner::default(),
            expected: VecDeque::new(),
            connected: false,
            since: now,
            listed: false,
            waiting_since: now,
            hears: HashMap::new(),
            identity: 0,
        }
    }

    fn greet(&mut self, words: &[&[u8]]) {
        self.send_words(For::Greeting, words);
    }

    /// Put a request of our own on its way.
    pub(super) fn send_words(&mut self, whom: For, words: &[&[u8]]) {
        write_request(&mut self.out, words.iter().copied());
        self.expect(whom, 1, 0);
    }

    /// What was appended to `out` since the last call is one request, with so many replies.
    #[inline]
    pub(super) fn expect(&mut self, whom: For, replies: u32, tries: u8) {
        let len = self.out.len() - self.accounted;
        self.accounted = self.out.len();
        self.expected.push_back(Owed { len, replies, tries, ..Owed::new(whom) });
    }

    /// Take away the requests without a reply, in their order: each with its bytes, and whether they cannot have
    /// reached the node.
    pub(super) fn take_unanswered(&mut self) -> Vec<(Owed, Vec<u8>, bool)> {
        let mut at = self.answered;
        let owed = std::mem::take(&mut self.expected);
        let taken = owed.into_iter().map(|owed| {
            let end = at + owed.len;
            let bytes = self.out.get(at..end).unwrap_or_default().to_vec();
            at = end;
            (owed, bytes, end > self.sent)
        });
        taken.collect()
    }

    /// Write what the socket takes; [`Moved::NotNow`] when something is left.
    pub(super) fn flush(&mut self, now: u64) -> Moved {
        if !self.connected {
            return Moved::NotNow;
        }
        let mut total = 0;
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Moved::Bytes(count) => {
                    self.sent += count;
                    self.waiting_since = now; // A node that takes a large request is not silent.
                    total += count;
                }
                Moved::NotNow => return Moved::NotNow,
                Moved::Gone => return Moved::Gone,
            }
        }
        self.forget_answered();
        Moved::Bytes(total)
    }

    /// Let go of requests that have been answered, when it is cheap or much.
    fn forget_answered(&mut self) {
        if self.expected.is_empty() && self.sent == self.out.len() {
            self.out.clear();
            self.out.shrink_to(1 << 20);
            (self.answered, self.sent, self.accounted) = (0, 0, 0);
        } else if self.answered > SPENT && self.answered > self.out.len() / 2 {
            self.out.drain(..self.answered);
            self.sent -= self.answered;
            self.accounted -= self.answered;
            self.answered = 0;
        }
    }

    /// Read replies and hand each to `deliver`, with the request it answers. `shared` is where they are read to.
    pub(super) fn read(&mut self, shared: &mut [u8], now: u64, mut deliver: impl FnMut(&Owed, &[u8], &[u8])) -> Moved {
        let moved = if self.input.is_empty() {
            self.socket.read(shared)
        } else {
            let most = self.input.len().max(shared.len());
            self.socket.read_more(&mut self.input, most)
        };
        let Moved::Bytes(count) = moved else {
            return moved;
        };
        self.waiting_since = now;
        let kept = std::mem::take(&mut self.input);
        let bytes = if kept.is_empty() { &shared[..count] } else { &kept[..] };
        let mut used = 0;
        loop {
            match self.scanner.scan(&bytes[used..]) {
                Ok(Some(len)) => {
                    let reply = &bytes[used..used + len];
                    used += len;
                    if reply[0] == b'>' {
                        if matches!(self.key.owner, LISTENER | TRACKER | BROADCASTER) || self.key.tracked {
                            deliver(&Owed::new(For::Message), reply, &[]);
                        }
                        continue;
                    }
                    let Some(front) = self.expected.front_mut() else {
                        return Moved::Gone; // A reply without a request: this connection cannot be trusted.
                    };
                    if front.replies > 1 {
                        front.replies -= 1;
                        if turns_away(reply) || (reply[0] == b'-' && is_gatherer(self.key.owner)) {
                            front.turned_away = Some(reply.into());
                        }
                        continue;
                    }
                    if let Some(owed) = self.expected.pop_front() {
                        let request = self.out.get(self.answered..self.answered + owed.len).unwrap_or_default();
                        match &owed.turned_away {
                            Some(why) if reply[0] == b'-' => deliver(&owed, why, request),
                            _ => deliver(&owed, reply, request),
                        }
                        self.answered += owed.len;
                    }
                }
                Ok(None) => break,
                Err(_) => return Moved::Gone,
            }
        }
        if used < bytes.len() {
            let rest = bytes[used..].to_vec();
            self.input = rest;
        }
        self.forget_answered();
        moved
    }
}

/// Answered requests beyond which their bytes are let go, though others are still under way.
const SPENT: usize = 16 * 1024;

/// A script asked for keys of other nodes before it had done anything: it can be run where all of them are (`gather`).
pub(super) const NON_LOCAL: &[u8] = b"-NONLOCAL ";

/// Whether an error says that the request did not run here but may elsewhere, or soon.
#[inline]
pub(super) fn turns_away(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
        && [&b"-MOVED "[..], b"-READONLY ", b"-LOADING ", b"-TRYAGAIN ", b"-CLUSTERDOWN ", b"-MASTERDOWN ", NON_LOCAL]
            .iter()
            .any(|code| reply.starts_with(code))
}

/// Append a request to what is sent to a node.
pub(super) fn write_request<'w>(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = &'w [u8]>) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(words.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.push(b'$');
        out.extend_from_slice(digits.format(word.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}
