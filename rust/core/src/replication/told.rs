//! Streams as they are told: FASTCACHE STREAMS, INFO replication, ROLE, metrics.

use super::{Replication, Sink, Source};
use crate::command::Engine;
use crate::resp::Reply;
use crate::stream::SlotSet;
use crate::stream::tail::Tail;
use crate::topology::ranges;

/// FASTCACHE STREAMS: a map for each stream.
pub fn streams(engine: &Engine, out: &mut Reply, now: u64) {
    let Some(replication) = &engine.replication else { return out.array(0) };
    // Moves are told by FASTCACHE MOVES.
    let sources = || replication.sources.iter().filter(|source| source.moves.is_empty());
    let sinks = || replication.sinks.iter().filter(|sink| sink.moves.is_empty());
    out.array(sources().count() + sinks().count());
    let tail = engine.tail.seq();
    for source in sources() {
        out.map(14);
        text(out, "peer", &source.peer);
        text(out, "direction", "out");
        text(out, "slots", &ranges::to_text(source.slots.iter()));
        text(out, "state", if source.based { "streaming" } else { "copying" });
        text(out, "lacks", &lacks(source.based, &source.lacking()));
        text(out, "run", &engine.run_id);
        number(out, "seq", tail);
        number(out, "acked", source.reached());
        number(out, "lag-records", tail - source.reached().min(tail));
        number(out, "lag-ms", source.lag_ms(now));
        number(out, "lag-bytes", source.lag_bytes(&engine.tail));
        number(out, "bytes", source.bytes);
        number(out, "copied", source.copied as u64);
        number(out, "total", source.slots.len() as u64);
    }
    for sink in sinks() {
        let (run, seq) = sink.held().map_or(("", -1), |(run, seq)| (run, seq as i64));
        out.map(10);
        text(out, "peer", &sink.main);
        text(out, "direction", "in");
        text(out, "slots", &ranges::to_text(sink.slots.iter()));
        text(out, "state", sink.state());
        text(out, "lacks", &lacks(sink.held().is_some(), &sink.lacking));
        text(out, "run", run);
        out.bulk(b"seq");
        out.integer(seq);
        number(out, "heard-ms", now.saturating_sub(sink.heard));
        number(out, "copied", sink.copied as u64);
        number(out, "total", sink.slots.len() as u64);
    }
}

/// Slots that came to a stream that had everything, and are being copied.
fn lacks(had_all: bool, slots: &SlotSet) -> String {
    if had_all { ranges::to_text(slots.iter()) } else { String::new() }
}

fn text(out: &mut Reply, name: &str, value: &str) {
    out.bulk(name.as_bytes());
    out.bulk(value.as_bytes());
}

fn number(out: &mut Reply, name: &str, value: u64) {
    out.bulk(name.as_bytes());
    out.integer(value as i64);
}

/// Whether the node is a replica in Redis' sense: it is the main of no slot, and follows somebody.
pub fn follows(engine: &Engine) -> Option<&Sink> {
    let own = engine.membership.as_ref()?.own.is_empty();
    engine.replication.as_ref()?.sinks.iter().find(|sink| sink.moves.is_empty()).filter(|_| own)
}

/// Replicas as INFO and ROLE list them: address, port, state, what it has acknowledged, lag in ms.
pub fn replicas(engine: &Engine, now: u64) -> Vec<(String, u16, &'static str, u64, u64)> {
    let (Some(replication), Some(membership)) = (&engine.replication, &engine.membership) else { return Vec::new() };
    let told = |source: &Source| {
        let node = membership.document.index_of(&source.peer).map(|at| &membership.document.nodes()[usize::from(at)]);
        let (host, port) = node.map_or((source.peer.clone(), 0), |node| (node.host.clone(), node.port));
        (host, port, if source.whole { "online" } else { "wait_bgsave" }, source.acked, source.lag_ms(now))
    };
    replication.sources.iter().filter(|source| source.moves.is_empty()).map(told).collect()
}

/// Figures for metrics.
pub fn figures(replication: &Replication, tail: &Tail, now: u64) -> Vec<(&'static str, f64)> {
    let counts = &replication.counts;
    let lag_ms = replication.sources.iter().map(|source| source.lag_ms(now)).max().unwrap_or(0);
    let behind = replication.sources.iter().map(|source| tail.seq().saturating_sub(source.acked)).max().unwrap_or(0);
    let held = replication.sources.iter().map(|source| source.lag_bytes(tail)).max().unwrap_or(0);
    vec![
        ("replicas_connected", replication.sources.iter().filter(|source| source.moves.is_empty()).count() as f64),
        ("replica_lag_ms", lag_ms as f64),
        ("replica_lag_records", behind as f64),
        ("replica_lag_bytes", held as f64),
        ("replication_bytes_sent", replication.sources.iter().map(|source| source.bytes).sum::<u64>() as f64),
        ("replication_bytes_received", replication.sinks.iter().map(|sink| sink.bytes).sum::<u64>() as f64),
        ("resyncs_full_total", counts.full as f64),
        ("resyncs_partial_total", counts.partial as f64),
        ("replicas_shed_total", counts.shed as f64),
        ("streams_broken_total", counts.broken as f64),
        ("lost_writes_total", counts.lost_writes as f64),
        ("copies_compared_total", counts.compared as f64),
        ("copies_differed_total", counts.differed as f64),
        ("copies_repaired_total", counts.repaired as f64),
    ]
}
