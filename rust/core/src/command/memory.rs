//! MEMORY: what the node and its keys cost.

use super::fault::Done;
use super::objects::memory_usage;
use super::settings::Name;
use super::table::{Command, LOOK, flag, key};
use super::{Ctx, process, server};
use crate::resp::Args;
use crate::store::keyspace::DATABASES;

const fn sub(name: &'static str, run: super::table::Handler, arity: i32) -> Command {
    Command { since: "4.0.0", ..Command::new(name, run, arity, 0) }
}

/// MEMORY and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "4.0.0",
    summary: "Tells about memory.",
    subcommands: &[
        Command {
            summary: "Tells the bytes a key and its value cost.",
            syntax: "key [SAMPLES count]",
            keys: &[key(2, LOOK)],
            flags: flag::READONLY,
            ..sub("usage", memory_usage, -3)
        },
        Command { summary: "Tells where memory goes.", ..sub("stats", stats, 2) },
        Command { summary: "Says in words whether memory is well.", ..sub("doctor", doctor, 2) },
        Command { summary: "Gives unused memory back to the system.", ..sub("purge", purge, 2) },
        Command { summary: "Tells about the allocator.", ..sub("malloc-stats", allocator, 2) },
        Command { summary: "Lists the sub-commands.", flags: flag::LOADING | flag::STALE, ..sub("help", help, 2) },
    ],
    ..Command::new("memory", server::needs_subcommand, -2, 0)
}];

enum Figure {
    Count(usize),
    Share(f64),
    Table(usize),
}

fn stats(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    use Figure::{Count, Share, Table};
    let used = ctx.engine.used_memory();
    let resident = process::resident_bytes();
    let data = ctx.engine.store.arena.used();
    let start = ctx.engine.memory_at_start;
    let keys = ctx.engine.store.len();
    ctx.engine.stats.peak_memory = ctx.engine.stats.peak_memory.max(used);
    let peak = ctx.engine.stats.peak_memory;
    let buffers: usize = ctx.engine.clients.iter().map(|client| size_of_val(client) + client.pending.capacity()).sum();
    let reserved = ctx.engine.store.arena.reserved().max(used);
    let ratio = |one: usize, other: usize| one as f64 / other.max(1) as f64;
    let mut figures: Vec<(String, Figure)> = vec![
        ("peak.allocated".into(), Count(peak)),
        ("total.allocated".into(), Count(used)),
        ("startup.allocated".into(), Count(start)),
        ("replication.backlog".into(), Count(0)),
        ("clients.slaves".into(), Count(0)),
        ("clients.normal".into(), Count(buffers)),
        ("cluster.links".into(), Count(0)),
        ("aof.buffer".into(), Count(0)),
        ("lua.caches".into(), Count(0)),
        ("functions.caches".into(), Count(0)),
    ];
    for number in 0..DATABASES as u8 {
        let len = ctx.engine.store.database(number).len();
        if len > 0 {
            figures.push((format!("db.{number}"), Table(len)));
        }
    }
    figures.extend([
        ("overhead.total".into(), Count(used.saturating_sub(data))),
        ("keys.count".into(), Count(keys)),
        ("keys.bytes-per-key".into(), Count(used.saturating_sub(start).checked_div(keys).unwrap_or(0))),
        ("dataset.bytes".into(), Count(data)),
        ("dataset.percentage".into(), Share(100.0 * ratio(data, used.saturating_sub(start).max(data)))),
        ("peak.percentage".into(), Share(100.0 * ratio(used, peak))),
        ("allocator.allocated".into(), Count(used)),
        ("allocator.active".into(), Count(reserved)),
        ("allocator.resident".into(), Count(resident)),
        ("allocator-fragmentation.ratio".into(), Share(ratio(reserved, used))),
        ("allocator-fragmentation.bytes".into(), Count(reserved - used)),
        ("allocator-rss.ratio".into(), Share(ratio(resident, reserved))),
        ("allocator-rss.bytes".into(), Count(resident.saturating_sub(reserved))),
        ("rss-overhead.ratio".into(), Share(1.0)),
        ("rss-overhead.bytes".into(), Count(0)),
        ("fragmentation".into(), Share(ratio(resident, used))),
        ("fragmentation.bytes".into(), Count(resident.saturating_sub(used))),
    ]);
    ctx.out.map(figures.len());
    for (name, figure) in figures {
        ctx.out.bulk(name.as_bytes());
        match figure {
            Count(number) => ctx.out.count(number),
            Share(number) => ctx.out.double(number),
            Table(len) => {
                // Seven bytes an entry: a handle, a mark, and what is free for the next.
                ctx.out.map(2);
                ctx.out.bulk(b"overhead.hashtable.main");
                ctx.out.count(len * 7);
                ctx.out.bulk(b"overhead.hashtable.expires");
                ctx.out.count(0);
            }
        }
    }
    Ok(())
}

fn doctor(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let used = ctx.engine.used_memory();
    let limit = ctx.engine.settings.size(Name::maxmemory);
    let resident = process::resident_bytes();
    let mut findings = Vec::new();
    if limit > 0 && used > limit / 10 * 9 {
        findings.push(format!("{} of {limit} bytes that maxmemory allows are in use.", used));
    }
    if limit == 0 {
        findings.push("maxmemory is not set: nothing keeps the node from taking all memory of its host.".to_owned());
    }
    if resident > used * 2 && resident - used > 100 << 20 {
        findings.push(format!(
            "{resident} bytes are resident though only {used} are in use: give it time, or MEMORY PURGE."
        ));
    }
    if ctx.engine.stats.peak_memory > used * 2 {
        findings.push("Memory was at more than twice its present size at its peak.".to_owned());
    }
    let text = if findings.is_empty() { "Memory is well.\n".to_owned() } else { findings.join("\n") + "\n" };
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

fn purge(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    // Values on their way out go at once; empty pages go back by themselves.
    while ctx.engine.store.free_condemned(100_000) {}
    ctx.out.ok();
    Ok(())
}

fn allocator(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let arena = &ctx.engine.store.arena;
    let text = format!(
        "arena: {} bytes in use, {} bytes reserved\nheap: {} bytes\nresident: {} bytes\n",
        arena.used(),
        arena.reserved(),
        crate::sys::allocated(),
        process::resident_bytes()
    );
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "MEMORY");
    Ok(())
}

#[test]
fn memory_can_be_accounted_for() {
    let mut node = super::testing::Node::new();
    node.line("SET k v");
    assert!(node.integer(&["MEMORY", "USAGE", "k"]) > 10);
    assert_eq!(node.line("MEMORY USAGE nosuch"), "$-1");
    let stats = node.line("MEMORY STATS");
    assert!(stats.contains("$10 keys.count :1") && stats.contains("$4 db.0 *4 $23 overhead.hashtable.main"), "{stats}");
    assert!(node.line("MEMORY DOCTOR").contains("maxmemory is not set"));
    assert_eq!(node.line("MEMORY PURGE"), "+OK");
}
