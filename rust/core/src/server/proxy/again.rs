//! What becomes of requests whose node does not serve them now: sent again elsewhere, kept for a moment, or told.
//!
//! Sent again is only what surely did not run (the node said so, or never got it) or only reads. Kept is what a
//! failover can save, within `failover-wait` and `failover-buffer`; the client's next requests stay unread meanwhile,
//! so that their order holds.

use super::event_loop::EventLoop;
use super::upstream::{For, Key, NON_LOCAL, Owed, READER};
use crate::command::dispatch;
use crate::command::table::flag;
use crate::resp::request::Limits;
use crate::resp::{Args, RequestParser};
use crate::route::{Plan, plan};
use crate::slot::slot_of;

/// A request that waits for a node to serve it.
pub(super) struct Parked {
    whom: For,
    /// The request as it is sent; a whole transaction is several.
    request: Vec<u8>,
    replies: u32,
    tries: u8,
    /// The connection it takes, but for the node; one of the client's own where it may wait there.
    key: Key,
    until: u64,
    next: u64,
    /// What is told when time is up.
    error: Vec<u8>,
}

/// Where a request belongs by the present map.
#[derive(Clone, Copy)]
struct Place {
    node: u16,
    slot: Option<u16>,
    only_reads: bool,
}

/// A request is sent so often at most.
const MOST_TRIES: u8 = 20;
/// Pause before a request that was turned away is sent again, ms.
const PAUSE_MS: u64 = 20;

impl EventLoop {
    /// A node answered that it does not serve this request now.
    pub(super) fn turned_away(&mut self, key: Key, owed: &Owed, reply: &[u8], request: &[u8]) {
        if reply.starts_with(NON_LOCAL) {
            return self.gather_late(key, owed.whom, reply, request);
        }
        let now = self.engine.store.now();
        if self.stale_until <= now {
            self.trouble.note();
        }
        self.stale_until = now + 1_000; // Whoever follows the topology had better ask for it.
        let parked = self.parked(owed, request, key, reply.to_vec());
        if !matches!(key.owner, 0 | READER) && parked.replies > 1 {
            return self.tell_error(parked); // Its keys were watched over this connection and no other.
        }
        // MOVED names who has the slot now, which may be news.
        if let Some(node) = reply.strip_prefix(b"-MOVED ").and_then(|rest| self.named_by(rest))
            && node != key.node
            && parked.tries < 3
            && let Some(index) = self.connection_at(node, &parked)
        {
            return self.send_parked(index, parked);
        }
        self.park(parked, true);
    }

    /// The node of `slot host:port`.
    fn named_by(&self, rest: &[u8]) -> Option<u16> {
        let text = std::str::from_utf8(rest).ok()?.trim_end();
        let (host, port) = text.split_once(' ')?.1.rsplit_once(':')?;
        self.map.node_at(host, port.parse().ok()?)
    }

    /// The connection to a node was lost with this request unanswered; `unsent` says that the node cannot have run it.
    pub(super) fn lost_with(&mut self, key: Key, owed: &Owed, request: &[u8], unsent: bool, error: &[u8]) {
        if matches!(key.owner, 0 | READER)
            && matches!(owed.whom, For::Client { .. } | For::Job { .. })
            && owed.tries < 3
        {
            let place = self.place_of(request);
            if place.is_some_and(|place| unsent || place.only_reads) {
                let parked = self.parked(owed, request, key, error.to_vec());
                return self.send_or_park(parked);
            }
        }
        self.give(owed.whom, error);
    }

    fn parked(&self, owed: &Owed, request: &[u8], key: Key, error: Vec<u8>) -> Parked {
        let now = self.engine.store.now();
        Parked {
            whom: owed.whom,
            request: request.to_vec(),
            replies: count_of(request),
            tries: owed.tries + 1,
            key: Key { owner: if key.owner == READER { 0 } else { key.owner }, ..key },
            until: now + self.options.failover_wait,
            next: now,
            error,
        }
    }

    /// A request that could not be put on its way at all: its node cannot be reached.
    pub(super) fn unreachable(&mut self, whom: For, request: Vec<u8>, key: Key, error: &str) {
        let owed = Owed::new(whom);
        let error = format!("-{error}\r\n").into_bytes();
        let parked = self.parked(&owed, &request, key, error);
        self.send_or_park(parked);
    }

    fn send_or_park(&mut self, parked: Parked) {
        match self.connection_for(&parked) {
            Some(index) => self.send_parked(index, parked),
            None => self.park(parked, false),
        }
    }

    /// Keep a request for a moment, or tell its error when nothing can be hoped for.
    fn park(&mut self, mut parked: Parked, may_pass: bool) {
        let place = self.place_of(&parked.request);
        let helps =
            may_pass || place.and_then(|place| place.slot).is_some_and(|slot| !self.map.replicas(slot).is_empty());
        let room = self.parked_bytes + parked.request.len() <= self.options.failover_buffer;
        if !helps || !room || parked.tries > MOST_TRIES || self.options.failover_wait == 0 || place.is_none() {
            return self.tell_error(parked);
        }
        let now = self.engine.store.now();
        parked.next = now + PAUSE_MS;
        self.parked_bytes += parked.request.len();
        if let For::Client { token, id, .. } = parked.whom {
            self.count_parked(token, id, true);
        }
        self.waiting.push_back(parked);
        self.next_round = self.next_round.min(now + PAUSE_MS);
        if !may_pass && !self.failing_over {
            (self.failing_over, self.failover_untold) = (true, true);
        }
    }

    fn tell_error(&mut self, parked: Parked) {
        let moving = parked.error.starts_with(b"-MOVED ") || parked.error.starts_with(b"-READONLY ");
        let text: &[u8] = if moving {
            // Where the slot is now is nothing to a proxy's client.
            b"-TRYAGAIN the slot of this key changes its node; try again\r\n"
        } else {
            &parked.error
        };
        self.give(parked.whom, text);
    }

    fn count_parked(&mut self, token: u32, id: u64, more: bool) {
        let there = self.engine.clients.get(token).is_none_or(|client| client.id == id);
        if let Some(lane) = self.lanes.get_mut(token as usize).and_then(Option::as_mut).filter(|_| there) {
            lane.parked = if more { lane.parked + 1 } else { lane.parked.saturating_sub(1) };
        }
    }

    /// Try again what waits, in its order: after a new map, and every few milliseconds.
    pub(super) fn try_waiting(&mut self) {
        let now = self.engine.store.now();
        for _ in 0..self.waiting.len() {
            let Some(parked) = self.waiting.pop_front() else { break };
            if parked.next > now && parked.until > now {
                self.waiting.push_back(parked);
                continue;
            }
            self.parked_bytes -= parked.request.len();
            if let For::Client { token, id, .. } = parked.whom {
                self.count_parked(token, id, false);
            }
            if parked.until <= now {
                self.tell_error(parked);
            } else if let Some(index) = self.connection_for(&parked) {
                self.send_parked(index, parked);
            } else {
                let until = parked.until;
                let tries = parked.tries;
                self.park(Parked { tries: tries.saturating_sub(1), until, ..parked }, true);
            }
        }
        if !self.waiting.is_empty() {
            self.next_round = self.next_round.min(now + PAUSE_MS);
        }
    }

    /// Have what waits tried at once.
    pub(super) fn hurry_waiting(&mut self) {
        self.waiting.iter_mut().for_each(|parked| parked.next = 0);
        self.next_round = 0;
    }

    /// A connection over which a request can go now: to its node, or, for what only reads, to a replica.
    fn connection_for(&mut self, parked: &Parked) -> Option<u32> {
        let place = self.place_of(&parked.request)?;
        if let Some(index) = self.connection_at(place.node, parked) {
            return Some(index);
        }
        let key = Key { owner: READER, ..parked.key };
        if !place.only_reads || key.consistency.unwrap_or(self.map.strict()) {
            return None;
        }
        let replicas: Vec<u16> = place.slot.map(|slot| self.map.replicas(slot).to_vec()).unwrap_or_default();
        replicas.into_iter().find_map(|node| self.upstream(Key { node, ..key }).ok())
    }

    fn connection_at(&mut self, node: u16, parked: &Parked) -> Option<u32> {
        let key = Key { node, ..parked.key };
        let index = self.upstream(key).ok()?;
        if let For::Client { token, .. } = parked.whom
            && parked.key.owner != 0
            && let Some(lane) = self.lanes.get_mut(token as usize).and_then(Option::as_mut)
            && !lane.alone.contains(&index)
        {
            lane.alone.push(index);
        }
        Some(index)
    }

    fn send_parked(&mut self, index: u32, parked: Parked) {
        let now = self.engine.store.now();
        let Some(upstream) = self.upstreams[index as usize].as_mut() else { return };
        if upstream.expected.is_empty() {
            upstream.waiting_since = now;
        }
        upstream.out.extend_from_slice(&parked.request);
        upstream.expect(parked.whom, parked.replies, parked.tries);
        if let Some(breaker) = self.breakers.get_mut(upstream.key.node as usize) {
            breaker.requests += 1;
            breaker.again += 1;
        }
        self.mark_written(index);
    }

    /// Where requests belong by the present map; `None` when that is not one node any more.
    fn place_of(&self, request: &[u8]) -> Option<Place> {
        let mut place: Option<Place> = None;
        each_request(request, |args| {
            let (row, _) = dispatch::resolve_quietly(args)?;
            if matches!(row.name, "multi" | "exec" | "select") {
                return Some(());
            }
            let node = match plan(row, args, &self.map) {
                Plan::One(node) | Plan::Alone(node) => node,
                _ => return None,
            };
            let slot = row.key_arguments(args).and_then(|keys| keys.first().map(|&at| slot_of(args.at(at))));
            let reads = row.is(flag::READONLY) && !row.is(flag::MAY_REPLICATE);
            match place.as_mut() {
                None => place = Some(Place { node, slot, only_reads: reads }),
                Some(known) if known.node == node => {
                    known.only_reads &= reads;
                    known.slot = known.slot.or(slot);
                }
                Some(_) => return None,
            }
            Some(())
        })?;
        place
    }
}

/// How many requests these bytes are.
pub(super) fn count_of(bytes: &[u8]) -> u32 {
    let mut count = 0;
    let _ = each_request(bytes, |_| {
        count += 1;
        Some(())
    });
    count.max(1)
}

/// Visit requests that were written as protocol arrays.
pub(super) fn each_request(bytes: &[u8], mut visit: impl FnMut(&Args<'_>) -> Option<()>) -> Option<()> {
    let limits = Limits { arguments: i64::from(i32::MAX), bulk: i64::MAX, before_auth: false };
    let mut parser = RequestParser::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        parser.forget();
        let len = parser.parse(rest, limits).ok()??;
        visit(&Args::new(rest, parser.spans()))?;
        rest = &rest[len..];
    }
    Some(())
}
