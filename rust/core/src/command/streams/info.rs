//! XINFO: what there is to know about a stream, its groups and consumers.

use super::{no_group_of, stream_at, write_entries, write_entry, write_id};
use crate::command::fault::{Done, Fault};
use crate::command::{Ctx, server};
use crate::resp::{Args, Reply};
use crate::store::stream::{Entry, Group, Id, Stream};
use crate::store::{Found, Kind};

fn find(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<Found, Fault> {
    ctx.read(name, Kind::Stream)?.ok_or(Fault::NO_KEY)
}

/// A number under a name.
fn number(out: &mut Reply, name: &str, value: u64) {
    out.bulk(name.as_bytes());
    out.integer(value as i64);
}

/// An entry's name under a name.
fn id(out: &mut Reply, name: &str, value: Id) {
    out.bulk(name.as_bytes());
    write_id(out, value);
}

fn number_or_null(out: &mut Reply, name: &str, value: Option<i64>) {
    out.bulk(name.as_bytes());
    match value {
        Some(value) => out.integer(value),
        None => out.null(),
    }
}

pub fn stream(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = find(ctx, args.at(2))?;
    let wrong = || server::unknown_subcommand_or_arity("XINFO", args.at(1));
    let full = match args.len() {
        3 => None,
        4 if args.is(3, "FULL") => Some(10),
        6 if args.is(3, "FULL") && args.is(4, "COUNT") => match args.integer(5)? {
            0 => Some(usize::MAX),
            count => Some(usize::try_from(count).unwrap_or(10)),
        },
        _ => return Err(wrong()),
    };
    let stream = stream_at(&ctx.engine.store, found);
    let out = &mut *ctx.out;
    let (blocks, nodes) = stream.shape();
    out.map(if full.is_some() { 9 } else { 10 });
    number(out, "length", stream.len());
    number(out, "radix-tree-keys", blocks as u64);
    number(out, "radix-tree-nodes", nodes as u64);
    id(out, "last-generated-id", stream.last);
    id(out, "max-deleted-entry-id", stream.max_deleted);
    number(out, "entries-added", stream.added);
    id(out, "recorded-first-entry-id", stream.first());
    let Some(count) = full else {
        number(out, "groups", stream.groups().len() as u64);
        let mut entry = |name: &str, entry: Option<Entry<'_>>| {
            out.bulk(name.as_bytes());
            match entry {
                Some(entry) => write_entry(out, entry),
                None => out.null(),
            }
        };
        entry("first-entry", stream.range(Id::MIN, Id::MAX).next());
        entry("last-entry", stream.range_back(Id::MIN, Id::MAX).next());
        return Ok(());
    };
    out.bulk(b"entries");
    write_entries(out, stream.range(Id::MIN, Id::MAX), count);
    out.bulk(b"groups");
    out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        write_whole_group(out, stream, name, group, count);
    }
    Ok(())
}

fn write_whole_group(out: &mut Reply, stream: &Stream, name: &[u8], group: &Group, count: usize) {
    out.map(7);
    out.bulk(b"name");
    out.bulk(name);
    id(out, "last-delivered-id", group.last);
    number_or_null(out, "entries-read", group.read.map(|read| read as i64));
    number_or_null(out, "lag", stream.lag_of(group));
    number(out, "pel-count", group.pending().len() as u64);
    out.bulk(b"pending");
    out.array(group.pending().len().min(count));
    for (id, pending) in group.pending().iter().take(count) {
        out.array(4);
        write_id(out, *id);
        out.bulk(&group.holder(pending).name);
        out.integer(pending.delivered as i64);
        out.integer(pending.times as i64);
    }
    out.bulk(b"consumers");
    out.array(group.consumers().len());
    for consumer in group.consumers() {
        out.map(4);
        out.bulk(b"name");
        out.bulk(&consumer.name);
        number(out, "seen-time", consumer.seen);
        number(out, "pel-count", consumer.pending().len() as u64);
        out.bulk(b"pending");
        out.array(consumer.pending().len().min(count));
        for id in consumer.pending().iter().take(count) {
            let pending = group.pending().get(id);
            out.array(3);
            write_id(out, *id);
            out.integer(pending.map_or(0, |pending| pending.delivered as i64));
            out.integer(pending.map_or(0, |pending| pending.times as i64));
        }
    }
}

pub fn groups(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = find(ctx, args.at(2))?;
    let stream = stream_at(&ctx.engine.store, found);
    ctx.out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        ctx.out.map(6);
        ctx.out.bulk(b"name");
        ctx.out.bulk(name);
        number(ctx.out, "consumers", group.consumers().len() as u64);
        number(ctx.out, "pending", group.pending().len() as u64);
        id(ctx.out, "last-delivered-id", group.last);
        number_or_null(ctx.out, "entries-read", group.read.map(|read| read as i64));
        number_or_null(ctx.out, "lag", stream.lag_of(group));
    }
    Ok(())
}

pub fn consumers(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = find(ctx, args.at(2))?;
    let now = ctx.engine.store.now();
    let group = stream_at(&ctx.engine.store, found).group(args.at(3));
    let group = group.ok_or_else(|| no_group_of(args.at(2), args.at(3)))?;
    ctx.out.array(group.consumers().len());
    for consumer in group.consumers() {
        ctx.out.map(3);
        ctx.out.bulk(b"name");
        ctx.out.bulk(&consumer.name);
        number(ctx.out, "pending", consumer.pending().len() as u64);
        number(ctx.out, "idle", now.saturating_sub(consumer.seen));
    }
    Ok(())
}

pub fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "XINFO");
    Ok(())
}
