//! FASTCACHE: what Redis has no command for — a key's times and uses, and a cache's own statistics.

use super::fault::{Done, Fault};
use super::settings::Name;
use super::table::{Command, Handler, KeySpec, LOOK, READ, flag, key, keys};
use super::{Ctx, dump, info, objects, server};
use crate::resp::Args;

const KEY: &[KeySpec] = &[key(2, LOOK)];

const fn sub(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { since: "7.0.0", ..Command::new(name, run, arity, flags) }
}

/// FASTCACHE and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "7.0.0",
    summary: "Tells what only this cache knows.",
    subcommands: &[
        Command {
            summary: "Tells when a key was created, last changed and expires (Unix milliseconds), and its size.",
            syntax: "key",
            keys: KEY,
            ..sub("entry", entry, 3, flag::READONLY | flag::FAST)
        },
        Command {
            summary: "Tells how often a key was found and not found, while key-statistics says yes.",
            syntax: "key",
            keys: KEY,
            ..sub("keystats", key_statistics, 3, flag::READONLY | flag::FAST)
        },
        Command {
            summary: "Tells hits, misses, sets, deletes, evictions, expirations, and what is held now.",
            ..sub("stats", statistics, 2, flag::READONLY | flag::LOADING | flag::STALE | flag::FAST)
        },
        Command {
            summary: "Tells of the topology in force, its document (GET), or takes a newer one over (SET).",
            syntax: "[GET | SET document [RELIEVED node]]",
            ..sub("topology", super::cluster::topology::topology, -2, flag::ADMIN | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Makes the connection a stream of what a replica is to get; nodes say it to one another.",
            syntax: "cluster epoch node-id ranges run seq [move]",
            ..sub("stream", super::replicate::stream, -8, flag::ADMIN | flag::NOSCRIPT | flag::NO_MULTI)
        },
        Command {
            summary: "Tells or chooses whether replies to this connection wait for replicas.",
            syntax: "[STRICT | EVENTUAL | DEFAULT]",
            ..sub("consistency", super::replicate::consistency, -2, flag::LOADING | flag::STALE | flag::FAST)
        },
        Command {
            summary: "Compares the copies of keys with what the main has, has those that differ repaired, and tells of each how it is.",
            syntax: "key [key ...]",
            keys: &[keys(2, -1, 1, LOOK)],
            ..sub(
                "compare",
                super::replicate::compare,
                -3,
                flag::READONLY | flag::BLOCKING | flag::NOSCRIPT | flag::NO_MULTI,
            )
        },
        Command {
            summary: "Tells of each stream to or from another node how far it is.",
            ..sub("streams", super::replicate::streams, 2, flag::ADMIN | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Tells of each move of slots to or from this node how far it is.",
            ..sub("moves", super::replicate::moves, 2, flag::ADMIN | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Has the node keep the slots of a move that it has not handed over yet, or limits how fast moves copy.",
            syntax: "<KEEP move | PACE bytes-a-second>",
            ..sub("move", super::replicate::keep, 4, flag::ADMIN | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Says that this connection splits requests by node, not by slot.",
            ..sub("routed", super::cluster::topology::routed, 2, flag::LOADING | flag::STALE | flag::FAST)
        },
        Command {
            summary: "Says for how many listeners this connection listens to something; proxies say it.",
            syntax: "<CHANNEL | PATTERN | SHARD> name count",
            ..sub("listeners", super::pubsub::listeners, 5, flag::NOSCRIPT | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Asks a proxy for its part of what concerns the clients of all proxies; they say it to one another.",
            syntax: "run-id command [argument ...]",
            ..sub("peer", peer, -4, flag::ADMIN | flag::NOSCRIPT | flag::NO_MULTI | flag::LOADING | flag::STALE)
        },
        Command {
            summary: "Tells the values of keys as DUMP does, each with when it expires (Unix milliseconds; -1 for never).",
            syntax: "most-bytes key [key ...]",
            keys: &[keys(3, -1, 1, READ)],
            ..sub("fetch", fetch, -4, flag::READONLY)
        },
        Command {
            summary: "Keeps others from writing what this connection watches, until its EXEC; nothing when it has changed.",
            syntax: "milliseconds",
            ..sub("hold", super::hold::hold, 3, flag::NOSCRIPT | flag::NO_MULTI | flag::FAST)
        },
        Command {
            summary: "Takes a snapshot, waits until it is on disk, and tells its file, entries, bytes and milliseconds.",
            ..sub("snapshot", super::save::snapshot, 2, flag::ADMIN | flag::NOSCRIPT | flag::NO_MULTI)
        },
        Command { summary: "Lists the sub-commands.", ..sub("help", help, 2, flag::LOADING | flag::STALE) },
    ],
    ..Command::new("fastcache", server::needs_subcommand, -2, 0)
}];

/// A key's entry, without counting as use of it.
fn entry(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.look(args.at(2)) else {
        ctx.out.null();
        return Ok(());
    };
    let store = &ctx.engine.store;
    let entry = store.entry(found);
    let milliseconds = |seconds: u32| i64::from(seconds) * 1000;
    let encoding = objects::encoding_of(store, found);
    ctx.out.map(7);
    ctx.out.bulk(b"kind");
    ctx.out.bulk(store.kind(found).name().as_bytes());
    ctx.out.bulk(b"encoding");
    ctx.out.bulk(encoding.as_bytes());
    ctx.out.bulk(b"size");
    ctx.out.count(store.cost(found));
    ctx.out.bulk(b"createdAt");
    ctx.out.integer(milliseconds(entry.created()));
    ctx.out.bulk(b"updatedAt");
    ctx.out.integer(milliseconds(entry.updated()));
    ctx.out.bulk(b"expiresAt");
    match entry.expiry() {
        Some(time) => ctx.out.integer(time as i64),
        None => ctx.out.null(),
    }
    ctx.out.bulk(b"database");
    ctx.out.integer(i64::from(ctx.client.database));
    Ok(())
}

fn key_statistics(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if !ctx.engine.settings.is_on(Name::key_statistics) {
        return Err(Fault::new("ERR hits and misses of keys are not counted: CONFIG SET key-statistics yes"));
    }
    let pair = (ctx.client.database, Box::from(args.at(2)));
    let (hits, misses) = ctx.engine.key_statistics.get(&pair).copied().unwrap_or_default();
    ctx.out.map(2);
    ctx.out.bulk(b"hits");
    ctx.out.integer(hits as i64);
    ctx.out.bulk(b"misses");
    ctx.out.integer(misses as i64);
    Ok(())
}

/// Values for somebody who runs a command on them elsewhere. What they cost is looked at before anything is written.
fn fetch(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let most = args.integer(2)?;
    let costs = args.from(3).filter_map(|name| ctx.look(name).map(|found| ctx.engine.store.cost(found)));
    let cost: usize = costs.sum();
    if i64::try_from(cost).is_ok_and(|cost| cost > most) {
        return Err(Fault::new(format!(
            "ERR the values have {cost} bytes, and {most} are the most that was asked for"
        )));
    }
    ctx.out.array(args.len() - 3);
    for name in args.from(3) {
        let Some(found) = ctx.read_any(name) else {
            ctx.out.null();
            continue;
        };
        let store = &ctx.engine.store;
        let expiry = store.entry(found).expiry();
        let payload = dump::payload(store, found);
        ctx.out.array(2);
        ctx.out.bulk(&payload);
        ctx.out.integer(expiry.map_or(-1, |time| time as i64));
    }
    Ok(())
}

fn statistics(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let figures = info::figures(ctx.engine);
    ctx.out.map(figures.len());
    for (name, value) in figures {
        ctx.out.bulk(name.as_bytes());
        ctx.out.integer(value as i64);
    }
    Ok(())
}

/// Proxies answer it before it comes here.
fn peer(_: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    Err(Fault::of("ERR only a proxy has peers"))
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "FASTCACHE");
    Ok(())
}

#[test]
fn a_key_tells_its_times_and_uses() {
    let mut node = super::testing::Node::with(&[("key-statistics", "yes")]);
    node.line("SET k v");
    node.pass(2000);
    node.line("APPEND k w");
    node.line("PEXPIRE k 500");
    let told = node.line("FASTCACHE ENTRY k");
    for part in [
        "$4 kind $6 string",
        "$8 encoding $3 raw",
        "$9 createdAt :1700000000000",
        "$9 updatedAt :1700000002000",
        "$9 expiresAt :1700000002500",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    node.expect(&[
        ("FASTCACHE ENTRY none", "$-1"),
        ("GET k", "$2 vw"),
        ("GET none", "$-1"),
        ("FASTCACHE KEYSTATS k", "*4 $4 hits :1 $6 misses :0"),
        ("FASTCACHE KEYSTATS none", "*4 $4 hits :0 $6 misses :1"),
        ("DEL k", ":1"),
    ]);
    assert!(node.line("FASTCACHE STATS").starts_with("*20 $4 hits :1 $6 misses :1 $4 sets :1 $7 deletes :1"));
}
