//! What groups have delivered and nobody has acknowledged: XACK, XPENDING, XCLAIM, XAUTOCLAIM.

use super::{
    no_group, parse, range_end, range_start, stream_at, stream_at_mut, strict_id, strict_ids, text_with, write_entry,
    write_id,
};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::notify::STREAM;
use crate::resp::{Args, Reply};
use crate::store::stream::{Group, Id, Stream};
use crate::store::{Found, Kind};

pub fn xack(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Stream)?;
    let Some(mut found) = found.filter(|&found| stream_at(&ctx.engine.store, found).group(args.at(2)).is_some()) else {
        ctx.out.integer(0);
        return Ok(());
    };
    let ids = strict_ids(args.from(3))?;
    ctx.engine.store.stamp(&mut found);
    let group = stream_at_mut(&mut ctx.engine.store, found).group_mut(args.at(2));
    let done = group.map_or(0, |group| ids.into_iter().filter(|&id| group.acknowledge(id)).count());
    if done > 0 {
        ctx.changed_within(args.at(1), STREAM, None);
    }
    ctx.out.count(done);
    Ok(())
}

/// Which pending entries XPENDING is to tell of.
struct Wanted<'a> {
    start: Id,
    end: Id,
    count: usize,
    idle: u64,
    consumer: Option<&'a [u8]>,
}

fn wanted<'a>(args: &Args<'a>) -> Result<Option<Wanted<'a>>, Fault> {
    if args.len() == 3 {
        return Ok(None);
    }
    if !(6..=9).contains(&args.len()) {
        return Err(Fault::SYNTAX);
    }
    let (mut at, mut idle) = (3, 0);
    if args.is(3, "IDLE") {
        idle = args.integer(4)?.max(0) as u64;
        if args.len() < 8 {
            return Err(Fault::SYNTAX);
        }
        at = 5;
    }
    let count = args.integer(at + 2)?.max(0) as usize;
    let (start, end) = (range_start(args.at(at))?, range_end(args.at(at + 1))?);
    Ok(Some(Wanted { start, end, count, idle, consumer: args.get(at + 3) }))
}

pub fn xpending(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let wanted = wanted(args)?;
    let found = ctx.with_group(args.at(1), args.at(2), no_group)?;
    let now = ctx.engine.store.now();
    let Some(group) = stream_at(&ctx.engine.store, found).group(args.at(2)) else { return Ok(()) };
    match wanted {
        None => write_summary(ctx.out, group),
        Some(wanted) => write_wanted(ctx.out, group, &wanted, now),
    }
    Ok(())
}

fn write_summary(out: &mut Reply, group: &Group) {
    let pending = group.pending();
    out.array(4);
    out.count(pending.len());
    let (Some((first, _)), Some((last, _))) = (pending.first_key_value(), pending.last_key_value()) else {
        out.null();
        out.null();
        return out.null_array();
    };
    write_id(out, *first);
    write_id(out, *last);
    let having = || group.consumers().filter(|consumer| !consumer.pending().is_empty());
    out.array(having().count());
    for consumer in having() {
        out.array(2);
        out.bulk(&consumer.name);
        out.bulk_integer(consumer.pending().len() as i64);
    }
}

fn write_wanted(out: &mut Reply, group: &Group, wanted: &Wanted<'_>, now: u64) {
    let mut write = |ids: &mut dyn Iterator<Item = Id>| {
        let listed = ids
            .filter_map(|id| Some((id, group.pending().get(&id)?)))
            .filter(|(_, pending)| wanted.idle == 0 || now.saturating_sub(pending.delivered) >= wanted.idle)
            .take(wanted.count);
        out.deferred(Reply::array, |out| {
            let mut count = 0;
            for (id, pending) in listed {
                out.array(4);
                write_id(out, id);
                out.bulk(&group.holder(pending).name);
                out.integer(now.saturating_sub(pending.delivered) as i64);
                out.integer(pending.times as i64);
                count += 1;
            }
            (count, ())
        });
    };
    if wanted.start > wanted.end {
        return write(&mut std::iter::empty());
    }
    let range = wanted.start..=wanted.end;
    match wanted.consumer.map(|name| group.find(name)) {
        None => write(&mut group.pending().range(range).map(|(id, _)| *id)),
        Some(Some(who)) => write(&mut group.consumer(who).pending().range(range).copied()),
        Some(None) => write(&mut std::iter::empty()),
    }
}

/// How XCLAIM is to note what changes hands.
struct Terms {
    idle: u64,
    delivered: u64,
    /// Set instead of counted.
    times: Option<u64>,
    /// Entries that are not pending become so.
    force: bool,
    /// Names are the answer, and a delivery is not counted.
    only_ids: bool,
}

fn least_idle(args: &Args<'_>, name: &str) -> Result<u64, Fault> {
    let idle = args.integer(4).map_err(|_| Fault::new(format!("ERR Invalid min-idle-time argument for {name}")))?;
    Ok(idle.max(0) as u64)
}

pub fn xclaim(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (name, group) = (args.at(1), args.at(2));
    let found = ctx.with_group(name, group, no_group)?;
    let idle = least_idle(args, "XCLAIM")?;
    let now = ctx.engine.store.now();
    // Names come first; what cannot be one begins the options.
    let named = |at: &usize| parse(args.at(*at), 0, false).is_some_and(|written| written.numbered);
    let options = (5..args.len()).find(|at| !named(at)).unwrap_or(args.len());
    let ids = strict_ids(args.from(5).take(options - 5))?;
    let mut terms = Terms { idle, delivered: now, times: None, force: false, only_ids: false };
    let (mut last, mut time) = (Id::MIN, -1);
    let mut at = options;
    while at < args.len() {
        let value = |option: &str| {
            let wrong = |_| Fault::new(format!("ERR Invalid {option} option argument for XCLAIM"));
            args.integer(at + 1).map_err(wrong)
        };
        let has_value = at + 1 < args.len();
        if args.is(at, "FORCE") {
            terms.force = true;
            at += 1;
            continue;
        }
        if args.is(at, "JUSTID") {
            terms.only_ids = true;
            at += 1;
            continue;
        }
        if args.is(at, "IDLE") && has_value {
            time = (now as i64).wrapping_sub(value("IDLE")?);
        } else if args.is(at, "TIME") && has_value {
            time = value("TIME")?;
        } else if args.is(at, "RETRYCOUNT") && has_value {
            terms.times = u64::try_from(value("RETRYCOUNT")?).ok();
        } else if args.is(at, "LASTID") && has_value {
            last = strict_id(args.at(at + 1))?;
        } else {
            return Err(text_with(&[b"ERR Unrecognized XCLAIM option '", args.at(at), b"'"]));
        }
        at += 2;
    }
    // A time that is not over or never was is taken for now: clients' clocks differ.
    terms.delivered = u64::try_from(time).map_or(now, |time| time.min(now));
    let mut found = found;
    ctx.engine.store.stamp(&mut found);
    let mut changed = false;
    if let Some(group) = stream_at_mut(&mut ctx.engine.store, found).group_mut(group).filter(|of| last > of.last) {
        (group.last, changed) = (last, true);
    }
    let head = ctx.out.deferred_by(Reply::array);
    let mut claimed = 0;
    for id in ids {
        match claim(ctx, args, found, id, &terms, now) {
            Claim::Yes => (claimed, changed) = (claimed + 1, true),
            Claim::Gone => changed = true,
            Claim::No => {}
        }
    }
    ctx.out.finish(head, claimed);
    if changed {
        ctx.changed_within(name, STREAM, None);
    }
    Ok(())
}

/// What became of an entry that was to change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It did, and is written.
    Yes,
    /// It did not.
    No,
    /// It was removed from the stream and is no longer pending.
    Gone,
}

/// Give an entry to the consumer that both commands name as their third argument. It is made when it gets its first.
fn claim(ctx: &mut Ctx<'_>, args: &Args<'_>, found: Found, id: Id, terms: &Terms, now: u64) -> Claim {
    let (name, group, consumer) = (args.at(1), args.at(2), args.at(3));
    let stream: &mut Stream = stream_at_mut(&mut ctx.engine.store, found);
    let there = stream.get(id).is_some();
    let Some(of) = stream.group_mut(group) else { return Claim::No };
    let pending = of.pending().get(&id).copied();
    if !there {
        return if of.acknowledge(id) { Claim::Gone } else { Claim::No };
    }
    let before = match pending {
        Some(pending) if terms.idle > 0 && now.saturating_sub(pending.delivered) < terms.idle => return Claim::No,
        Some(pending) => pending.times,
        None if terms.force => 1,
        None => return Claim::No,
    };
    let times = terms.times.unwrap_or(before.wrapping_add(u64::from(!terms.only_ids)));
    let Some(who) = ctx.consumer(name, found, group, consumer) else { return Claim::No };
    let stream = stream_at_mut(&mut ctx.engine.store, found);
    if let Some(of) = stream.group_mut(group) {
        of.deliver(id, who, terms.delivered, times);
    }
    match stream.get(id) {
        Some(entry) if !terms.only_ids => write_entry(ctx.out, entry),
        _ => write_id(ctx.out, id),
    }
    Claim::Yes
}

pub fn xautoclaim(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    /// Entries looked at for each that may be claimed.
    const LOOKS: u64 = 10;
    let (name, group) = (args.at(1), args.at(2));
    let idle = least_idle(args, "XAUTOCLAIM")?;
    let start = range_start(args.at(5))?;
    let (mut count, mut only_ids, mut at) = (100u64, false, 6);
    while at < args.len() {
        if args.is(at, "COUNT") && at + 1 < args.len() {
            let wrong = Fault::of("ERR COUNT must be > 0");
            count = args.integer_within(at + 1, 1, i64::MAX / 16, wrong.clone()).map_err(|_| wrong)? as u64;
            at += 1;
        } else if args.is(at, "JUSTID") {
            only_ids = true;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    let mut found = ctx.with_group(name, group, no_group)?;
    ctx.engine.store.stamp(&mut found);
    let now = ctx.engine.store.now();
    let terms = Terms { idle, delivered: now, times: None, force: false, only_ids };
    let next_from = |ctx: &Ctx<'_>, from: Option<Id>| {
        let of = stream_at(&ctx.engine.store, found).group(group)?;
        of.pending().range(from?..).next().map(|(id, _)| *id)
    };
    let (mut entries, mut gone, mut changed) = (0, Vec::new(), false);
    let mut from = Some(start);
    let reply = ctx.out.len();
    for _ in 0..count.saturating_mul(LOOKS) {
        if count == 0 {
            break;
        }
        let Some(id) = next_from(ctx, from) else {
            from = None;
            break;
        };
        from = id.next();
        match claim(ctx, args, found, id, &terms, now) {
            Claim::Yes => (entries, count, changed) = (entries + 1, count - 1, true),
            Claim::Gone => {
                gone.push(id);
                (count, changed) = (count - 1, true);
            }
            Claim::No => {}
        }
    }
    let next = next_from(ctx, from).unwrap_or(Id::MIN);
    // The cursor stands before the entries, but is known only now.
    let written = ctx.out.bytes()[reply..].to_vec();
    ctx.out.truncate(reply);
    ctx.out.array(3);
    write_id(ctx.out, next);
    ctx.out.array(entries);
    ctx.out.raw(&written);
    ctx.out.array(gone.len());
    gone.into_iter().for_each(|id| write_id(ctx.out, id));
    if changed {
        ctx.changed_within(name, STREAM, None);
    }
    Ok(())
}
