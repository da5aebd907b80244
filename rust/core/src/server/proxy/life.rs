//! The changes in a proxy's life: another map, notices to clients, the end; and the figures it tells.

use super::event_loop::{Breaker, EventLoop, FIRST_CLIENT, WAKER};
use crate::command::client::{Client, Token};
use crate::command::settings::Name;
use crate::resp::Reply;
use crate::route::{Address, Map};
use std::time::Duration;

/// How long a client must have been quiet before its connection is ended.
const QUIET_MS: u64 = 30;

impl EventLoop {
    /// Route by another map. Nodes are known by their names: connections to those that stay go on.
    pub(super) fn take_map(&mut self, map: Map) {
        if map.epoch() < self.map.epoch() {
            return; // An older topology than the one in force.
        }
        let place = |old: &Address| map.members().iter().position(|new| new.id == old.id && same_place(new, old));
        let moved: Vec<Option<u16>> =
            self.map.members().iter().map(|old| place(old).map(|index| index as u16)).collect();
        let mut breakers = vec![Breaker::default(); map.members().len()];
        for (old, new) in moved.iter().enumerate() {
            if let Some(new) = new {
                breakers[*new as usize] = self.breakers[old].clone();
            }
        }
        self.breakers = breakers;
        self.by_key.clear();
        self.next_tune = 0;
        let mut dropped = Vec::new();
        for (index, place) in self.upstreams.iter_mut().enumerate() {
            let Some(upstream) = place else { continue };
            match moved.get(upstream.key.node as usize).copied().flatten() {
                Some(new) => {
                    upstream.key.node = new;
                    self.by_key.insert(upstream.key, index as u32);
                }
                None if upstream.expected.is_empty() => {
                    dropped.push((index as u32, upstream.key));
                    *place = None;
                }
                // Its last replies are still awaited; it is not used again.
                None => upstream.key.node = u16::MAX,
            }
        }
        let before = std::mem::replace(&mut self.map, map);
        for (index, key) in dropped {
            self.forget_alone(index, key);
        }
        for watch in self.lanes.iter_mut().flatten().flat_map(|lane| &mut lane.watches) {
            match moved.get(watch.node as usize).copied().flatten() {
                Some(node) => watch.node = node,
                None => watch.lost = true,
            }
        }
        self.stale_until = 0;
        self.renew_vigils();
        self.gathers_lost(None);
        self.void_what_moved(&before);
        self.hurry_waiting();
    }

    /// Tell all who want to know what is about to happen: `MOVING`, `FAILING_OVER`, `FAILED_OVER`.
    pub(super) fn announce_maintenance(&mut self, kind: &str, seconds: Option<u64>) {
        self.notices += 1;
        let mut message = Reply::new(true);
        message.push(if kind == "MOVING" { 4 } else { 2 + usize::from(seconds.is_some()) });
        message.bulk(kind.as_bytes());
        message.integer(self.notices as i64);
        if let Some(seconds) = seconds {
            message.integer(seconds as i64);
        }
        if kind == "MOVING" {
            message.null(); // To the same address.
        }
        let wanted: Vec<Token> = self
            .engine
            .clients
            .iter()
            .filter(|client| client.maintenance && client.resp3)
            .map(|client| client.token)
            .collect();
        for token in wanted {
            self.engine.send(token, message.bytes());
        }
    }

    /// The whole proxy ends when one of its workers was told to.
    pub(super) fn stop_the_others(&self) {
        self.crew.send_all(|| Box::new(|other| other.stop()));
    }

    /// Told to stop: nobody new is let in. Those who are there are served on, each until it has been quiet for a moment
    /// and is owed nothing; then its connection ends. Who waits for keys is let go with the last of the others.
    pub(super) fn drain(&mut self) {
        self.listeners.clear();
        let longest = self.engine.settings.number(Name::shutdown_timeout) as u64;
        self.announce_maintenance("MOVING", Some(longest));
        self.settle();
        let begun = crate::clock::wall_ms();
        while crate::clock::wall_ms() < begun + longest * 1000 {
            self.end_quiet_ones(begun);
            if self.lanes.iter().flatten().all(|lane| lane.busy_alone) {
                return;
            }
            let Ok(count) = self.poll.wait(Duration::from_millis(10)) else { return };
            self.engine.store.set_now(crate::clock::wall_ms());
            for index in 0..count {
                let Some(ready) = self.poll.ready(index) else { break };
                if ready.key >= FIRST_CLIENT {
                    self.peer_ready(&ready);
                } else if ready.key == WAKER {
                    self.waker.clear();
                    self.do_errands(); // Clients who were let in just before are served as the others are.
                }
            }
            self.settle();
            if self.engine.store.now() >= self.next_round {
                self.round();
            }
        }
    }

    /// Close the connections of those who have sent nothing for a moment and are owed nothing.
    fn end_quiet_ones(&mut self, begun: u64) {
        let now = self.engine.store.now();
        let quiet = |client: &Client| {
            now >= client.last_seen.max(begun) + QUIET_MS
                && self.lanes.get(client.token as usize).and_then(Option::as_ref).is_some_and(|lane| {
                    lane.waiting() == 0 && lane.out.is_empty() && lane.input.is_empty() && !lane.busy_alone
                })
        };
        let ended: Vec<Token> =
            self.engine.clients.iter().filter(|client| quiet(client)).map(|client| client.token).collect();
        for token in ended {
            self.close(token);
        }
    }

    /// Figures for metrics.
    pub(super) fn figures(&mut self) -> Vec<(String, f64)> {
        let stats = &self.engine.stats;
        let mut figures = vec![
            ("clients".to_owned(), self.engine.clients.len() as f64),
            ("connections_total".to_owned(), stats.connections as f64),
            ("commands_total".to_owned(), stats.commands as f64),
            ("input_bytes_total".to_owned(), stats.input_bytes as f64),
            ("output_bytes_total".to_owned(), stats.output_bytes as f64),
            ("upstream_connections".to_owned(), self.upstreams.iter().flatten().count() as f64),
            ("epoch".to_owned(), self.map.epoch() as f64),
            ("stale".to_owned(), f64::from(u8::from(self.stale_until > self.engine.store.now()))),
            ("waiting_requests".to_owned(), self.waiting.len() as f64),
            ("waiting_bytes".to_owned(), self.parked_bytes as f64),
        ];
        for (node, breaker) in self.map.nodes().iter().zip(&self.breakers) {
            figures.push((format!("node_requests_total.{}", node.id), breaker.requests as f64));
            figures.push((format!("node_errors_total.{}", node.id), breaker.errors as f64));
            figures.push((format!("node_faults_total.{}", node.id), breaker.faults as f64));
            figures.push((format!("node_retries_total.{}", node.id), breaker.again as f64));
            let open = breaker.closed_until > self.engine.store.now();
            figures.push((format!("node_refused.{}", node.id), f64::from(u8::from(open))));
        }
        figures
    }
}

fn same_place(one: &Address, other: &Address) -> bool {
    (&one.host, one.port, &one.unix) == (&other.host, other.port, &other.unix)
}

/// Whether a figure of several workers is their sum; of the others the greatest counts.
pub(super) fn adds_up(name: &str) -> bool {
    !matches!(name, "epoch" | "stale") && !name.starts_with("node_refused")
}
