//! Connections to nodes: shared by all clients, requests one after another, replies in the same order.

use crate::command::client::Token;
use crate::command::pubsub::Way;
use crate::net::{self, Interest, Moved, connect};
use crate::resp::scan::ReplyScanner;
use crate::route::Address;
use rustix::fd::OwnedFd;
use std::collections::{HashSet, VecDeque};

/// What distinguishes connections to one node: replies and keys depend on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) node: u16,
    pub(super) database: u8,
    pub(super) resp3: bool,
    /// The client whose alone the connection is, or zero.
    pub(super) owner: u64,
}

/// The owner of connections over which messages of channels come, for all clients.
pub(super) const LISTENER: u64 = u64::MAX;

/// Who a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A client's request, by its number, and which part of it.
    Client { token: Token, id: u64, number: u32, part: u16 },
    /// Nobody: it answers our own greeting. Only an error matters.
    Greeting,
    /// Nobody: it belongs to a transaction whose last reply has them all.
    Queued,
    /// No reply but a message of a channel.
    Message,
}

/// A connection to a node.
pub(super) struct Upstream {
    pub(super) key: Key,
    pub(super) socket: OwnedFd,
    pub(super) interest: Interest,
    /// Requests not yet taken by the socket.
    pub(super) out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    scanner: ReplyScanner,
    /// Whose replies are to come, in order.
    pub(super) expected: VecDeque<For>,
    pub(super) connected: bool,
    /// When it was begun, ms; a connection that does not stand in time has failed.
    pub(super) since: u64,
    /// It is on the list of those with something to write.
    pub(super) listed: bool,
    /// When the reply at the front began to be awaited, ms.
    pub(super) waiting_since: u64,
    /// What it listens to, when that is what it is for.
    pub(super) hears: HashSet<(Way, Box<[u8]>)>,
}

impl Upstream {
    /// Begin to connect, and greet the node.
    pub(super) fn open(key: Key, address: &Address, password: &str, now: u64) -> std::io::Result<Upstream> {
        let socket = match &address.unix {
            Some(path) => connect::unix(path).or_else(|_| connect::tcp(&address.host, address.port))?,
            None => connect::tcp(&address.host, address.port)?,
        };
        let mut upstream = Upstream {
            key,
            socket,
            interest: Interest::Both,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            scanner: ReplyScanner::default(),
            expected: VecDeque::new(),
            connected: false,
            since: now,
            listed: false,
            waiting_since: now,
            hears: HashSet::new(),
        };
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
        upstream.greet(&[b"FASTCACHE", b"ROUTED"]);
        if key.database > 0 {
            upstream.greet(&[b"SELECT", key.database.to_string().as_bytes()]);
        }
        Ok(upstream)
    }

    fn greet(&mut self, words: &[&[u8]]) {
        write_request(&mut self.out, words.iter().copied());
        self.expected.push_back(For::Greeting);
    }

    /// Write what the socket takes; [`Moved::NotNow`] when something is left.
    pub(super) fn flush(&mut self) -> Moved {
        if !self.connected {
            return Moved::NotNow;
        }
        let mut total = 0;
        while self.sent < self.out.len() {
            match net::write(&self.socket, &self.out[self.sent..]) {
                Moved::Bytes(count) => {
                    self.sent += count;
                    total += count;
                }
                Moved::NotNow => return Moved::NotNow,
                Moved::Gone => return Moved::Gone,
            }
        }
        self.out.clear();
        self.out.shrink_to(1 << 20);
        self.sent = 0;
        Moved::Bytes(total)
    }

    /// Read replies and hand each to `deliver`. `shared` is where they are read to.
    pub(super) fn read(&mut self, shared: &mut [u8], now: u64, mut deliver: impl FnMut(For, &[u8])) -> Moved {
        let moved = if self.input.is_empty() {
            net::read(&self.socket, shared)
        } else {
            let most = self.input.len().max(shared.len());
            net::read_more(&self.socket, &mut self.input, most)
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
                        if self.key.owner == LISTENER {
                            deliver(For::Message, reply);
                        }
                        continue;
                    }
                    match self.expected.pop_front() {
                        Some(whom) => deliver(whom, reply),
                        None => return Moved::Gone, // A reply without a request: this connection cannot be trusted.
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
        moved
    }
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
