//! Channels over all nodes: what clients listen to here, the proxy listens to at the nodes, once for all of them.
//!
//! A channel is published on the node that owns its name's slot; patterns and keyspace events can come from
//! every node. To each of these nodes goes one connection that only listens. For how many clients it listens is told there
//! too, so that a node counts the listeners of the whole fleet (`PUBLISH`, `PUBSUB NUMSUB`).

use super::event_loop::EventLoop;
use super::lane::Lane;
use super::upstream::{For, Key, LISTENER, write_request};
use crate::command::client::Client;
use crate::command::pubsub::{self, Way};
use crate::resp::Args;
use crate::resp::scan::{elements, string};
use crate::route::Merging;
use std::collections::HashSet;

/// Channels on which nodes tell what happens to their own keys.
const OF_KEYS: &[u8] = b"__key";

/// How a command that begins to listen does it; `None` for other commands.
pub(super) fn way_of(name: &str) -> Option<Way> {
    match name {
        "subscribe" => Some(Way::Channel),
        "psubscribe" => Some(Way::Pattern),
        "ssubscribe" => Some(Way::Shard),
        _ => None,
    }
}

impl EventLoop {
    /// A client begins to listen; `reply` is what it will be told, once the nodes have heard of it.
    pub(super) fn begin_to_listen(&mut self, client: &Client, lane: &mut Lane, way: Way, args: &Args<'_>) {
        let mut connections: Vec<u32> = Vec::new();
        for name in args.from(1) {
            for node in self.sources(way, name) {
                let Some(connection) = self.listener(node) else { continue };
                self.listen(connection, way, name);
                if !connections.contains(&connection) {
                    connections.push(connection);
                }
            }
        }
        if connections.is_empty() {
            return lane.answer(self.reply.bytes()); // Heard of as soon as a node can be reached.
        }
        let number = lane.sent_in_parts(Merging::given(connections.len(), self.reply.bytes()));
        for (part, connection) in connections.into_iter().enumerate() {
            // What was sent before this is in force when it is answered.
            let whom = For::Client { token: client.token, id: client.id, number, part: part as u16 };
            self.probe(connection, whom);
        }
    }

    /// The nodes from which messages of a channel can come.
    fn sources(&self, way: Way, name: &[u8]) -> Vec<u16> {
        if way == Way::Pattern || name.starts_with(OF_KEYS) {
            return (0..self.map.nodes().len() as u16).collect();
        }
        self.map.owner_of(name).into_iter().collect()
    }

    /// The connection that listens to a node; `None` while the node cannot be reached.
    fn listener(&mut self, node: u16) -> Option<u32> {
        self.upstream(Key::of_ours(node, LISTENER)).ok()
    }

    /// Have a node send what is told in a channel, for as many as listen to it here.
    fn listen(&mut self, connection: u32, way: Way, name: &[u8]) {
        let (word, kind): (&[u8], &[u8]) = match way {
            Way::Channel => (b"SUBSCRIBE", b"CHANNEL"),
            Way::Pattern => (b"PSUBSCRIBE", b"PATTERN"),
            Way::Shard => (b"SSUBSCRIBE", b"SHARD"),
        };
        let count = pubsub::audience(&self.engine, way, name).max(1);
        let now = self.engine.store.now();
        let Some(upstream) = self.upstreams[connection as usize].as_mut() else { return };
        let known = upstream.hears.insert((way, name.into()), count);
        if known.is_none() {
            write_request(&mut upstream.out, [word, name].into_iter());
        }
        if known.unwrap_or(1) != count {
            if upstream.expected.is_empty() {
                upstream.waiting_since = now;
            }
            // A node that does not know it counts this connection as one.
            upstream.send_words(For::Nobody, &[b"FASTCACHE", b"LISTENERS", kind, name, count.to_string().as_bytes()]);
        }
        if known != Some(count) {
            self.mark_written(connection);
        }
    }

    fn stop_listening(&mut self, connection: u32, way: Way, name: &[u8]) {
        let word: &[u8] = match way {
            Way::Channel => b"UNSUBSCRIBE",
            Way::Pattern => b"PUNSUBSCRIBE",
            Way::Shard => b"SUNSUBSCRIBE",
        };
        if let Some(upstream) = self.upstreams[connection as usize].as_mut()
            && upstream.hears.remove(&(way, name.into())).is_some()
        {
            write_request(&mut upstream.out, [word, name].into_iter());
            self.mark_written(connection);
        }
    }

    /// Tell nodes of what has more or fewer listeners here than before, or none any more.
    pub(super) fn tell_audiences(&mut self) {
        let Some(audiences) = self.engine.audiences.as_mut().filter(|changed| !changed.is_empty()) else { return };
        let changed: HashSet<(Way, Box<[u8]>)> = std::mem::take(audiences).into_iter().collect();
        for (way, name) in changed {
            let heard = pubsub::audience(&self.engine, way, &name) > 0;
            for node in self.sources(way, &name) {
                match self.known(Key::of_ours(node, LISTENER)) {
                    Some(connection) if heard => self.listen(connection, way, &name),
                    Some(connection) => self.stop_listening(connection, way, &name),
                    None => {} // It is listened to there as soon as it can be reached.
                }
            }
        }
    }

    /// Send a PING: its answer says that all before it was done, and that the node is there.
    pub(super) fn probe(&mut self, connection: u32, whom: For) {
        let now = self.engine.store.now();
        if let Some(upstream) = self.upstreams[connection as usize].as_mut() {
            if upstream.expected.is_empty() {
                upstream.waiting_since = now;
            }
            upstream.send_words(whom, &[b"PING"]);
            self.mark_written(connection);
        }
    }

    /// Pass a node's message on to those who listen here.
    pub(super) fn message(&mut self, message: &[u8]) {
        let parts: Vec<&[u8]> = elements(message).unwrap_or_default().into_iter().filter_map(string).collect();
        pubsub::pass_on(&mut self.engine, &parts);
    }

    /// Now and then: listen at every node to what clients listen to here, and to nothing else.
    pub(super) fn tune(&mut self) {
        let engine = &self.engine;
        let mut wanted: Vec<(Way, Box<[u8]>)> = Vec::new();
        wanted.extend(engine.channels.keys().map(|name| (Way::Channel, name.clone())));
        wanted.extend(engine.patterns.iter().map(|(name, _)| (Way::Pattern, name.clone())));
        wanted.extend(engine.shard_channels.keys().map(|name| (Way::Shard, name.clone())));
        let mut at: Vec<HashSet<(Way, Box<[u8]>)>> = vec![HashSet::new(); self.map.nodes().len()];
        for (way, name) in wanted {
            for node in self.sources(way, &name) {
                at[node as usize].insert((way, name.clone()));
            }
        }
        for (node, wanted) in at.iter().enumerate() {
            let key = Key::of_ours(node as u16, LISTENER);
            let known = self.known(key);
            if wanted.is_empty() && known.is_none() {
                continue;
            }
            let Some(connection) = known.or_else(|| self.listener(node as u16)) else { continue };
            let Some(upstream) = self.upstreams[connection as usize].as_ref() else { continue };
            let stale: Vec<_> = upstream.hears.keys().filter(|heard| !wanted.contains(*heard)).cloned().collect();
            for (way, name) in stale {
                self.stop_listening(connection, way, &name);
            }
            for (way, name) in wanted {
                self.listen(connection, *way, name);
            }
            self.probe(connection, For::Greeting);
        }
    }
}
