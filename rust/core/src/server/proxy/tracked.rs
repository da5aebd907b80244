//! Client-side caching through the proxy: clients are told when keys change that they have read here.
//!
//! What such a client asks goes over connections on which the nodes track reads; all such clients share them. A node
//! tells of a change behind the replies that it concerns, on the same connection, and the engine's own tracker knows who
//! has read the key: it is noted when the reply passes. Clients in broadcast mode are told what nodes broadcast to the
//! proxy, over one connection to each. When such a connection is lost, or slots get other owners, all that clients keep is void.

use super::again::each_request;
use super::event_loop::EventLoop;
use super::lane::Lane;
use super::upstream::{BROADCASTER, COUNTS, For, Key};
use crate::command::client::{Client, Token};
use crate::command::table::{Command, flag};
use crate::command::{dispatch, tracking};
use crate::resp::Args;
use crate::resp::scan::{elements, string};
use crate::route::{Map, Merging};
use crate::slot::SLOT_COUNT;

/// Several nodes tell at nearly one moment that all their keys are gone: clients are told once, ms.
const AT_ONCE_MS: u64 = 100;

/// Whether a command reads keys for its client; what a script reads of its keys nobody here can tell.
fn reads(row: &Command) -> bool {
    row.is(flag::READONLY) || row.group == "scripting"
}

/// News of a node.
pub(super) struct News {
    broadcast: bool,
    /// Who has written these keys just before, over the same connection.
    by: Option<Wrote>,
    message: Box<[u8]>,
}

/// A client's number, and keys that it has written.
pub(super) type Wrote = (u64, Vec<Box<[u8]>>);

impl EventLoop {
    /// Whether a request's reads are to be noted when its reply passes: bits for the number of its part.
    pub(super) fn counts(client: &mut Client, row: &Command, args: &Args<'_>) -> u16 {
        if args.is(0, "CLIENT") || row.name == "multi" {
            return 0; // What CACHING said holds on.
        }
        Self::counts_all(client) & if reads(row) { COUNTS } else { 0 }
    }

    /// The same for a request of which some part reads.
    pub(super) fn counts_all(client: &mut Client) -> u16 {
        let Some(tracking) = client.tracking.as_deref_mut() else { return 0 };
        let said = std::mem::take(&mut tracking.said);
        let counts = if tracking.opt_in { said } else { !(tracking.opt_out && said) };
        if counts && !tracking.broadcast { COUNTS } else { 0 }
    }

    /// What was asked has been answered: note what was read.
    pub(super) fn note_reads(&mut self, token: Token, id: u64, request: &[u8]) {
        if self.engine.clients.get(token).is_none_or(|client| client.id != id || client.tracking.is_none()) {
            return;
        }
        let engine = &mut self.engine;
        let _ = each_request(request, |args| {
            if let Some((row, _)) = dispatch::resolve_quietly(args).filter(|(row, _)| reads(row)) {
                tracking::has_read(engine, (token, id), row, args);
            }
            Some(())
        });
    }

    /// What a client has written that does not want to hear of it.
    pub(super) fn own_writes(&self, token: Token, id: u64, request: &[u8]) -> Option<Wrote> {
        let client = self.engine.clients.get(token).filter(|client| client.id == id)?;
        if !client.tracking.as_ref()?.no_loop {
            return None;
        }
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let _ = each_request(request, |args| {
            if let Some((row, _)) = dispatch::resolve_quietly(args).filter(|(row, _)| row.is(flag::WRITE)) {
                row.each_key(args, |at, _| keys.push(args.at(at).into()));
            }
            Some(())
        });
        Some((id, keys))
    }

    /// News that came over a connection.
    pub(super) fn keep_news(&mut self, key: Key, by: Option<&Wrote>, message: &[u8]) {
        let broadcast = key.owner == BROADCASTER;
        self.tracked_news.push(News { broadcast, by: by.cloned(), message: message.into() });
    }

    /// Pass on what nodes told.
    pub(super) fn pass_news_on(&mut self) {
        for News { broadcast, by, message } in std::mem::take(&mut self.tracked_news) {
            let parts = elements(&message).unwrap_or_default();
            if parts.first().and_then(|kind| string(kind)) != Some(b"invalidate") {
                continue;
            }
            let Some(keys) = parts.get(1).and_then(|keys| elements(keys)) else {
                self.all_is_void(false);
                continue;
            };
            for key in keys.into_iter().filter_map(string) {
                if broadcast {
                    tracking::changed_somewhere(&mut self.engine, key);
                } else {
                    let by = by.as_ref().filter(|(_, written)| written.iter().any(|each| **each == *key));
                    tracking::tell_readers(&mut self.engine, by.map_or(0, |(id, _)| *id), key);
                }
            }
        }
        tracking::broadcast(&mut self.engine);
    }

    /// All keys may have changed. `surely` has it told though it was told a moment ago.
    pub(super) fn all_is_void(&mut self, surely: bool) {
        if !self.engine.tracking.is_on() {
            return;
        }
        let now = self.engine.store.now();
        if surely || self.engine.tracking.keys() > 0 || now >= self.void_since + AT_ONCE_MS {
            self.void_since = now;
            tracking::everything_changed(&mut self.engine);
        }
    }

    /// A client begins to be told of all changes: it is answered once all nodes have heard of it.
    pub(super) fn begin_broadcast(&mut self, client: &Client, lane: &mut Lane) {
        let mut connections = Vec::new();
        for node in 0..self.map.nodes().len() as u16 {
            connections.extend(self.upstream(Key::of_ours(node, BROADCASTER)).ok());
        }
        if connections.is_empty() {
            return lane.answer(self.reply.bytes());
        }
        let number = lane.sent_in_parts(Merging::given(connections.len(), self.reply.bytes()));
        for (part, connection) in connections.into_iter().enumerate() {
            self.probe(connection, For::Client { token: client.token, id: client.id, number, part: part as u16 });
        }
    }

    /// Now and then: every node broadcasts to us as long as somebody wants it.
    pub(super) fn tune_broadcasts(&mut self) {
        let wanted = self.engine.tracking.broadcasters() > 0;
        for node in 0..self.map.nodes().len() as u16 {
            let key = Key::of_ours(node, BROADCASTER);
            match (self.known(key), wanted) {
                (None, true) if self.upstream(key).is_ok() => self.all_is_void(true),
                (Some(connection), true) => self.probe(connection, For::Greeting),
                (Some(connection), false) => {
                    self.by_key.remove(&key);
                    self.upstreams[connection as usize] = None;
                }
                _ => {}
            }
        }
    }

    /// Another map is in force: what changed at a slot's former owner may not have been told.
    pub(super) fn void_what_moved(&mut self, before: &Map) {
        let owner = |map: &Map, slot: u16| map.owner(slot).map(|node| map.nodes()[node as usize].id.clone());
        if self.engine.tracking.is_on() && (0..SLOT_COUNT).any(|slot| owner(before, slot) != owner(&self.map, slot)) {
            self.all_is_void(true);
        }
    }

    /// Whether this request changes the connections that the client's next ones take: all before must be answered.
    pub(super) fn changes_ways(row: &Command, args: &Args<'_>) -> bool {
        row.name == "reset" || (row.name == "tracking" && args.is(0, "CLIENT"))
    }
}
