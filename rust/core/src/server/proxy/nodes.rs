//! The nodes' side of the proxy's loop: connections to them are opened, read, written and lost here.
//!
//! A node that fails is left alone for a moment, longer each time ([`Breaker`](super::event_loop::Breaker)); whoever waits
//! for a connection that is lost is told, or is sent elsewhere (`again`).

use super::event_loop::{EventLoop, FIRST_UPSTREAM};
use super::peers::ITSELF;
use super::upstream::{
    BROADCASTER, COUNTS, For, Key, LISTENER, PEER, READER, TRACKER, Upstream, is_gatherer, turns_away,
};
use crate::command::settings::Name;
use crate::net::{Interest, Moved, connect};
use crate::resp::Reply;
use crate::route::Address;

impl EventLoop {
    /// The connection to a node, opened when there is none; or why there can be none now.
    pub(super) fn upstream(&mut self, key: Key) -> Result<u32, String> {
        if let Some(&index) = self.by_key.get(&key) {
            return Ok(index);
        }
        let now = self.engine.store.now();
        let Some(address) = self.map.members().get(key.node as usize) else {
            return Err("CLUSTERDOWN Hash slot not served".into());
        };
        let breaker = &self.breakers[key.node as usize];
        if address.down || breaker.closed_until > now {
            return Err(unreachable_node(address));
        }
        let password = self.engine.settings.text(Name::requirepass);
        let upstream = Upstream::open(key, address, password, self.engine.tls.connector.as_ref(), now)
            .map_err(|_| unreachable_node(address));
        let upstream = match upstream {
            Ok(upstream) => Box::new(upstream),
            Err(text) => {
                self.note_failure(key.node);
                return Err(text);
            }
        };
        self.install(upstream).ok_or_else(|| "ERR the proxy has no descriptors left".into())
    }

    /// Have a connection to a node waited for and known by its key; returns its place.
    pub(super) fn install(&mut self, upstream: Box<Upstream>) -> Option<u32> {
        let index = match self.upstreams.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.upstreams.push(None);
                self.upstreams.len() - 1
            }
        };
        self.poll.add(&upstream.socket, FIRST_UPSTREAM + index as u64, upstream.interest).ok()?;
        self.by_key.insert(upstream.key, index as u32);
        self.upstreams[index] = Some(upstream);
        Some(index as u32)
    }

    /// The connection of this kind, if there is one.
    pub(super) fn known(&self, key: Key) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    /// Note that a connection has something to send.
    #[inline]
    pub(super) fn mark_written(&mut self, index: u32) {
        if let Some(upstream) = self.upstreams[index as usize].as_mut()
            && !upstream.listed
        {
            upstream.listed = true;
            self.written.push(index);
        }
    }

    pub(super) fn upstream_ready(&mut self, index: u32, read: bool, write: bool) {
        let now = self.engine.store.now();
        let Some(Some(upstream)) = self.upstreams.get_mut(index as usize) else {
            return;
        };
        if write && !upstream.connected {
            if connect::outcome(&upstream.socket) == Moved::Gone {
                return self.upstream_failed(index);
            }
            upstream.connected = true;
            if upstream.socket.stands() {
                let node = upstream.key.node;
                self.note_success(node);
            }
        }
        if write {
            self.mark_written(index);
        }
        if read {
            let Some(mut upstream) = self.upstreams[index as usize].take() else { return };
            let key = upstream.key;
            let mut shared = std::mem::take(&mut self.shared_replies);
            let mut refused = false;
            let mut identity = None;
            let mut wrote = None;
            let mut itself = false;
            let stood = upstream.socket.stands();
            let moved = upstream.read(&mut shared, now, |owed, reply, request| match owed.whom {
                // It is one of several parts, and may be missing (`peers`).
                For::Client { token, id, number, part } if key.owner == PEER => {
                    itself |= reply == ITSELF;
                    self.deliver(token, id, number, part, reply)
                }
                For::Client { .. } | For::Job { .. } if turns_away(reply) && !is_gatherer(key.owner) => {
                    self.away.push((owed.as_new(), reply.into(), request.into()))
                }
                For::Client { token, id, number, part } => {
                    if key.tracked {
                        if part & COUNTS != 0 {
                            self.note_reads(token, id, request);
                        }
                        wrote = self.own_writes(token, id, request);
                    }
                    self.deliver(token, id, number, part, reply)
                }
                For::Job { id, part } => self.answered_jobs.push((id, part, reply.into())),
                For::Afar { worker, token, id, number } => self.answer_afar(worker, token, id, number, reply.into()),
                For::Courtesy if reply.starts_with(b"-ERR unknown command") => {}
                For::Greeting | For::Courtesy => refused |= reply.first() == Some(&b'-'),
                For::Message if key.owner == TRACKER => self.news.push((key.node, reply.into())),
                For::Message if key.tracked || key.owner == BROADCASTER => self.keep_news(key, wrote.as_ref(), reply),
                For::Message => self.message(reply),
                For::Identity => identity = crate::resp::scan::integer(reply),
                For::Nobody => {}
            });
            upstream.identity = identity.unwrap_or(upstream.identity);
            self.shared_replies = shared;
            let begins = !stood && upstream.socket.stands();
            let again = upstream.socket.holds_more();
            self.upstreams[index as usize] = Some(upstream);
            if begins {
                self.note_success(key.node);
                self.mark_written(index); // What waited for TLS to stand.
            }
            if again {
                self.held_upstreams.push(index);
            }
            self.follow_up(key);
            if itself && let Some(address) = self.map.members().get(key.node as usize) {
                self.itself.insert((address.host.clone(), address.port));
            }
            if key.owner == PEER {
                self.dismiss_peer(index);
            }
            if moved == Moved::Gone || refused {
                self.upstream_failed(index);
            }
        }
    }

    pub(super) fn note_success(&mut self, node: u16) {
        if let Some(breaker) = self.breakers.get_mut(node as usize) {
            breaker.failures = 0;
        }
    }

    /// Do what follows from replies, once the connection they came over is back in its place.
    #[inline]
    pub(super) fn follow_up(&mut self, key: Key) {
        if !self.away.is_empty() {
            for (owed, reply, request) in std::mem::take(&mut self.away) {
                self.turned_away(key, &owed, &reply, &request);
            }
        }
        if !self.answered_jobs.is_empty() {
            for (id, part, reply) in std::mem::take(&mut self.answered_jobs) {
                self.job_replied(id, part, &reply);
            }
        }
        if !self.tracked_news.is_empty() {
            self.pass_news_on();
        }
        if !self.news.is_empty() {
            for (node, message) in std::mem::take(&mut self.news) {
                self.invalidated(node, &message);
            }
        }
    }

    /// A connection to a node is lost: whoever waits for it is told, and the node is left alone for a moment.
    pub(super) fn upstream_failed(&mut self, index: u32) {
        let Some(upstream) = self.upstreams.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        self.by_key.remove(&upstream.key);
        self.forget_alone(index, upstream.key);
        let node = upstream.key.node;
        let name = self.map.members().get(node as usize).map_or_else(|| "?".to_owned(), |address| address.id.clone());
        let mut error = Reply::default();
        if upstream.connected {
            error.error(
                format!("UNKNOWN outcome: the connection to node {name} was lost before it answered").as_bytes(),
            );
        } else if let Some(address) = self.map.members().get(node as usize) {
            error.error(unreachable_node(address).as_bytes());
        } else {
            error.error(b"CLUSTERDOWN Hash slot not served");
        }
        self.note_failure(node);
        let key = upstream.key;
        let mut upstream = upstream;
        for (owed, request, unsent) in upstream.take_unanswered() {
            if matches!(owed.whom, For::Client { .. } | For::Job { .. })
                && let Some(breaker) = self.breakers.get_mut(node as usize)
            {
                breaker.errors += 1;
            }
            self.lost_with(key, &owed, &request, unsent || !upstream.connected, error.bytes());
        }
        if key.tracked || key.owner == BROADCASTER {
            self.all_is_void(true);
        }
        if is_gatherer(key.owner) {
            self.gathers_lost(Some(key.owner));
        }
        if key.owner == TRACKER {
            let waiting = self.vigils_at(node);
            self.wake_vigils(waiting);
        }
    }

    /// A connection has gone: if it was one client's alone, that client's lane must know.
    pub(super) fn forget_alone(&mut self, index: u32, key: Key) {
        if key.owner == LISTENER {
            self.next_tune = 0;
        } else if !matches!(key.owner, 0 | TRACKER | READER | BROADCASTER | PEER) {
            for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.alone.contains(&index)) {
                lane.lost(index);
            }
        }
    }

    pub(super) fn note_failure(&mut self, node: u16) {
        let now = self.engine.store.now();
        let of_a_node = (node as usize) < self.map.nodes().len();
        if let Some(breaker) = self.breakers.get_mut(node as usize) {
            // 50 ms, 100, 200 ... 5 s: a node that restarts is found again soon, one that is gone costs little.
            breaker.faults += 1;
            if of_a_node {
                self.trouble.note();
            }
            breaker.closed_until = now + (50u64 << breaker.failures.min(7)).min(5_000);
            breaker.failures += 1;
        }
    }

    pub(super) fn flush_upstream(&mut self, index: u32) {
        let now = self.engine.store.now();
        let Some(Some(upstream)) = self.upstreams.get_mut(index as usize) else {
            return;
        };
        upstream.listed = false;
        let wanted = match upstream.flush(now) {
            Moved::Gone => return self.upstream_failed(index),
            // It is the node's turn: there is room to write all the time.
            Moved::NotNow if upstream.connected && !upstream.socket.stands() => Interest::Read,
            Moved::NotNow => Interest::Both,
            Moved::Bytes(_) => Interest::Read,
        };
        if wanted != upstream.interest
            && self.poll.change(&upstream.socket, FIRST_UPSTREAM + u64::from(index), wanted).is_ok()
        {
            upstream.interest = wanted;
        }
    }
}

pub(super) fn unreachable_node(address: &Address) -> String {
    format!(
        "CLUSTERDOWN node {} at {}:{} does not answer; its keys are not available now",
        address.id, address.host, address.port
    )
}
