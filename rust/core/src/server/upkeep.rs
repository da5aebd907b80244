//! What the loop does now and then: expiry, room, time-outs, figures.

use super::event_loop::EventLoop;
use crate::command::client::Client;
use crate::command::engine::Stats;
use crate::command::settings::{Name, Settings};
use crate::command::{Engine, blocking};
use std::time::Duration;

/// When what is due next.
#[derive(Default)]
pub(super) struct Timers {
    next_round: u64,
    hurry: bool,
    last_sample: (u64, u64, u64, u64),
    huge_pages: bool,
    /// How soon the disk wants another turn, ms.
    pub(super) disk: Option<u64>,
    /// How long slots that were taken over are not served yet, ms.
    promotion: Option<u64>,
}

const ROUND_MS: u64 = 100;
/// From as much memory on, huge pages are worth what they round up: a tenth of it, for look-ups that are faster by
/// 2 to 5 % where memory is far larger than the processor's caches.
const HUGE_PAGES_FROM: usize = 512 << 20;
/// Commands in a round up to which it is as if there had been none.
const FEW_COMMANDS: u64 = 10;
/// A node without work wakes this often, for its heartbeat.
const IDLE_ROUND_MS: u64 = 500;

impl Timers {
    /// How long the loop may sleep.
    pub(super) fn next_wait(&self, engine: &Engine) -> Duration {
        if self.hurry || !engine.wake.is_empty() || !engine.resumed.is_empty() {
            return Duration::ZERO;
        }
        let now = engine.store.now();
        let mut until = self.next_round;
        if engine.next_deadline > 0 {
            until = until.min(engine.next_deadline);
        }
        if let Some((end, _)) = engine.paused {
            until = until.min(end);
        }
        let disk = self.disk.unwrap_or(IDLE_ROUND_MS);
        let promotion = self.promotion.unwrap_or(IDLE_ROUND_MS);
        Duration::from_millis(until.saturating_sub(now).min(IDLE_ROUND_MS).min(disk).min(promotion))
    }

    /// Whether clients asked for more in the last round than those do who only see whether we live. Fifty nodes that are
    /// asked so, three times a second each, must not cost their host ten rounds a second each.
    fn has_served(&self, stats: &Stats) -> bool {
        stats.commands.saturating_sub(self.last_sample.1) > FEW_COMMANDS
    }

    pub(super) fn due(&self, engine: &Engine) -> bool {
        let now = engine.store.now();
        self.hurry
            || now >= self.next_round
            || (engine.next_deadline > 0 && now >= engine.next_deadline)
            || engine.paused.is_some_and(|(end, _)| now >= end)
            || engine.promotion.is_some()
    }
}

impl EventLoop {
    pub(super) fn upkeep(&mut self) {
        let engine = &mut self.engine;
        let now = engine.store.now();
        blocking::expire(engine);
        if engine.paused.is_some_and(|(end, _)| now >= end) {
            engine.unpause();
        }
        self.timers.promotion = engine.end_promotion(crate::command::replicate::steady_ms());
        self.timers.hurry = work_in_portions(engine);
        if now < self.timers.next_round {
            return;
        }
        let busy = engine.store.any_expiring() || self.timers.has_served(&engine.stats);
        self.timers.next_round = now + if busy { ROUND_MS } else { IDLE_ROUND_MS };
        engine.stats.peak_memory = engine.stats.peak_memory.max(engine.used_memory());
        if !self.timers.huge_pages && crate::sys::allocated() > HUGE_PAGES_FROM {
            self.timers.huge_pages = true;
            // Whoever started this process may have switched them off, for the many nodes that stay small:
            // one byte in a fresh huge page costs two megabytes. From here on they are worth it.
            let _ = rustix::thread::disable_transparent_huge_pages(false);
        }
        self.sample(now);
        self.close_the_silent(now);
    }

    /// Rates over the last round, for INFO.
    fn sample(&mut self, now: u64) {
        let stats = &mut self.engine.stats;
        let (then, commands, input, output) = self.timers.last_sample;
        let passed = now.saturating_sub(then);
        if passed < ROUND_MS {
            return;
        }
        let rate = |new: u64, old: u64| new.saturating_sub(old) * 1000 / passed;
        stats.instantaneous_ops = rate(stats.commands, commands);
        stats.instantaneous_input = rate(stats.input_bytes, input);
        stats.instantaneous_output = rate(stats.output_bytes, output);
        self.timers.last_sample = (now, stats.commands, stats.input_bytes, stats.output_bytes);
    }

    /// Close clients that have been idle for too long, or that do not read what they are sent.
    fn close_the_silent(&mut self, now: u64) {
        let timeout = self.engine.settings.number(Name::timeout) as u64 * 1000;
        let mut closed = Vec::new();
        for client in self.engine.clients.iter_mut() {
            let listens = client.subscriptions() > 0;
            let idle = timeout > 0
                && now.saturating_sub(client.last_seen) > timeout
                && client.blocked.is_none()
                && !listens
                && client.stream.is_none();
            let slow = !client.pending.is_empty() && over_output_limit(&self.engine.settings, client, now);
            if idle || slow {
                closed.push((client.token, slow));
            }
        }
        for (token, slow) in closed {
            if slow {
                self.engine.stats.output_limit_disconnections += 1;
            }
            self.close(token);
        }
    }
}

/// One portion of each kind of background work; `true` when more should follow soon.
fn work_in_portions(engine: &mut Engine) -> bool {
    let mut hurry = false;
    if engine.loading {
        return false;
    }
    if engine.store.any_expiring() && engine.expiry_is_active() {
        let effort = engine.settings.size(Name::active_expire_effort);
        let swept = engine.store.sweep_expired(2000 * effort);
        // While more than a quarter of those looked at had expired, more will have: go on at once.
        hurry |= swept.looked > 20 && swept.expired * 4 > swept.looked;
        if swept.expired > 0 {
            engine.tell_gone();
        }
    }
    if engine.over_limit() {
        hurry |= engine.make_room() && engine.over_limit();
    }
    hurry |= engine.store.free_condemned(2000);
    hurry
}

/// Whether a client has more unsent bytes than its class may.
pub(super) fn over_output_limit(settings: &Settings, client: &mut Client, now: u64) -> bool {
    let class = if client.subscriptions() > 0 { "pubsub" } else { "normal" };
    let (hard, soft, seconds) = output_limit(settings, class);
    let len = client.pending.len() as u64;
    if hard > 0 && len >= hard {
        return true;
    }
    if soft == 0 || len < soft {
        client.over_soft_limit_since = 0;
        return false;
    }
    if client.over_soft_limit_since == 0 {
        client.over_soft_limit_since = now;
    }
    now.saturating_sub(client.over_soft_limit_since) > seconds * 1000
}

fn output_limit(settings: &Settings, class: &str) -> (u64, u64, u64) {
    let mut words = settings.text(Name::client_output_buffer_limit).split_whitespace();
    while let Some(word) = words.next() {
        if word == class {
            let mut number = || words.next().and_then(|text| text.parse().ok()).unwrap_or(0);
            return (number(), number(), number());
        }
    }
    (0, 0, 0)
}

/// Figures for metrics, under names of our own.
pub(super) fn figures(engine: &mut Engine) -> Vec<(&'static str, f64)> {
    let streams = engine.replication.as_ref().map(|replication| {
        crate::replication::told::figures(replication, &engine.tail, crate::command::replicate::steady_ms())
    });
    let stats = &engine.stats;
    let counts = engine.store.counts;
    let mut figures = vec![
        ("hits", stats.hits as f64),
        ("misses", stats.misses as f64),
        ("sets", counts.sets as f64),
        ("deletes", counts.deletes as f64),
        ("evictions", counts.evicted as f64),
        ("expirations", counts.expired as f64),
        ("entries", engine.store.len() as f64),
        ("memory_bytes", engine.used_memory() as f64),
        ("memory_limit_bytes", engine.settings.number(Name::maxmemory) as f64),
        ("entries_limit", engine.settings.number(Name::maxentries) as f64),
        ("connections", engine.clients.len() as f64),
        ("connections_total", stats.connections as f64),
        ("commands_total", stats.commands as f64),
        ("errors_total", stats.errors as f64),
        ("input_bytes_total", stats.input_bytes as f64),
        ("output_bytes_total", stats.output_bytes as f64),
        ("blocked_clients", engine.blocked_clients as f64),
    ];
    figures.extend(streams.unwrap_or_default());
    figures
}
