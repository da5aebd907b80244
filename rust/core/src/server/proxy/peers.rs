//! The other proxies of the fleet: what concerns all clients is asked of them too (`CLIENT LIST`, `KILL`, `UNBLOCK`, `PAUSE`).
//!
//! The topology names them. Each is asked over a connection that is made for the question, with `FASTCACHE PEER` and the
//! client's own request; it answers for the clients that it has and asks nobody further. One that does not answer in time
//! is left out of the reply, and is not asked again for a moment, as a node would not be.

use super::event_loop::EventLoop;
use super::lane::Lane;
use super::upstream::{For, Key, PEER, write_request};
use crate::command::client::Client;
use crate::command::table::Command;
use crate::command::{Fault, dispatch};
use crate::resp::{Args, OwnedArgs};

/// How long another proxy may take, to take the connection and then to answer, ms.
pub(super) const PEER_MS: u64 = 1_000;
/// What a proxy says that was asked by itself.
pub(super) const ITSELF: &[u8] = b"-ERR this is the proxy that asks\r\n";

impl EventLoop {
    /// The other proxies, as far as they are known not to be down.
    pub(super) fn peers(&self) -> Vec<u16> {
        let first = self.map.nodes().len();
        let others = self.map.members().iter().enumerate().skip(first);
        let asked = others.filter(|(_, one)| !one.down && !self.itself.contains(&(one.host.clone(), one.port)));
        asked.map(|(index, _)| index as u16).collect()
    }

    /// Ask these what a client wants of all proxies; the first one's answer is this part of the reply, and so on.
    pub(super) fn ask_peers(&mut self, peers: &[u16], args: &Args<'_>, first: u16, whom: impl Fn(u16) -> For) {
        let mut request = Vec::new();
        let head = [&b"FASTCACHE"[..], b"PEER", self.engine.run_id.as_bytes()];
        let words: Vec<&[u8]> = head.into_iter().chain(args.from(0)).collect();
        write_request(&mut request, words.into_iter());
        for (place, &peer) in peers.iter().enumerate() {
            let whom = whom(first + place as u16);
            match self.upstream(Key::of_ours(peer, PEER)) {
                Ok(index) => self.push_bytes(index, whom, &request, 1),
                Err(text) => self.give(whom, format!("-{text}\r\n").as_bytes()),
            }
        }
    }

    /// Another proxy asks for what one of its clients wants of all.
    pub(super) fn answer_peer(
        &mut self,
        client: &mut Client,
        lane: &mut Lane,
        args: &Args<'_>,
        (row, place): (&'static Command, u32),
    ) {
        if let Err(fault) = dispatch::admit(&mut self.engine, client, row, place, args) {
            return self.answer_error(lane, &fault);
        }
        client.peer = true;
        if *args.at(2) == *self.engine.run_id.as_bytes() {
            return lane.answer(ITSELF);
        }
        let asked = OwnedArgs::from_parts(args.from(3));
        let asked = asked.as_args();
        let known = dispatch::resolve_quietly(&asked).filter(|_| asked.is(0, "CLIENT"));
        match known {
            Some((row, _)) => self.answer_about_the_connection(client, lane, &asked, row),
            None => self.answer_error(lane, &Fault::of("ERR this is not asked of other proxies")),
        }
    }

    /// The answer has come, or will not: the connection has done what it was for.
    pub(super) fn dismiss_peer(&mut self, index: u32) {
        let place = &mut self.upstreams[index as usize];
        if let Some(upstream) = place.take_if(|upstream| upstream.key.owner == PEER && upstream.is_at_rest()) {
            self.by_key.remove(&upstream.key);
        }
    }
}
