//! Reading entries: XLEN, XRANGE, XREVRANGE; XREAD and XREADGROUP, which may wait.

use super::{
    BAD_ID, range_end, range_start, stream_at, stream_at_mut, strict_id, text_with, write_entries, write_entry,
    write_id,
};
use crate::command::fault::{Done, Fault};
use crate::command::{Ctx, OnTimeout};
use crate::resp::{Args, OwnedArgs, Reply};
use crate::store::stream::Id;
use crate::store::{Found, Kind};

pub fn xlen(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Stream)?;
    let len = found.map_or(0, |found| stream_at(&ctx.engine.store, found).len());
    ctx.out.integer(len as i64);
    Ok(())
}

pub fn xrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    range(ctx, args, 2, 3, false)
}

pub fn xrevrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    range(ctx, args, 3, 2, true)
}

fn range(ctx: &mut Ctx<'_>, args: &Args<'_>, start: usize, end: usize, back: bool) -> Done {
    let (start, end) = (range_start(args.at(start))?, range_end(args.at(end))?);
    let (mut most, mut at) = (-1, 4);
    while at < args.len() {
        if !args.is(at, "COUNT") || at + 1 == args.len() {
            return Err(Fault::SYNTAX);
        }
        most = args.integer(at + 1)?.max(0);
        at += 2;
    }
    let Some(found) = ctx.read(args.at(1), Kind::Stream)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let stream = stream_at(&ctx.engine.store, found);
    match usize::try_from(most) {
        Ok(0) => ctx.out.null_array(),
        most if back => write_entries(ctx.out, stream.range_back(start, end), most.unwrap_or(usize::MAX)),
        most => write_entries(ctx.out, stream.range(start, end), most.unwrap_or(usize::MAX)),
    }
    Ok(())
}

/// What XREAD and XREADGROUP were asked for.
struct Request<'a> {
    /// Most entries of each stream.
    count: usize,
    /// When to give up waiting, zero for never; `None` not to wait.
    deadline: Option<u64>,
    /// The group and the consumer.
    group: Option<(&'a [u8], &'a [u8])>,
    no_acknowledgement: bool,
    /// The argument that is the first key.
    first: usize,
    keys: usize,
}

impl<'a> Request<'a> {
    fn read(ctx: &Ctx<'_>, args: &Args<'a>, grouped: bool) -> Result<Request<'a>, Fault> {
        let mut request =
            Request { count: usize::MAX, deadline: None, group: None, no_acknowledgement: false, first: 0, keys: 0 };
        let only_grouped = |option: &str| {
            Fault::new(format!("ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."))
        };
        let mut at = 1;
        while at < args.len() {
            let more = args.len() - 1 - at;
            if args.is(at, "BLOCK") && more > 0 {
                at += 1;
                let text = args.integer(at).map_err(|_| Fault::of("ERR timeout is not an integer or out of range"))?;
                request.deadline = Some(deadline(ctx, text)?);
            } else if args.is(at, "COUNT") && more > 0 {
                at += 1;
                request.count = match args.integer(at)? {
                    ..=0 => usize::MAX,
                    count => count as usize,
                };
            } else if args.is(at, "STREAMS") && more > 0 {
                if !more.is_multiple_of(2) {
                    return Err(Fault::of(
                        "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
                    ));
                }
                (request.first, request.keys) = (at + 1, more / 2);
                break;
            } else if args.is(at, "GROUP") && more >= 2 {
                if !grouped {
                    return Err(only_grouped("GROUP"));
                }
                request.group = Some((args.at(at + 1), args.at(at + 2)));
                at += 2;
            } else if args.is(at, "NOACK") {
                if !grouped {
                    return Err(only_grouped("NOACK"));
                }
                request.no_acknowledgement = true;
            } else {
                return Err(Fault::SYNTAX);
            }
            at += 1;
        }
        if request.keys == 0 {
            return Err(Fault::SYNTAX);
        }
        if grouped && request.group.is_none() {
            return Err(Fault::of("ERR Missing GROUP option for XREADGROUP"));
        }
        Ok(request)
    }
}

/// A deadline so many milliseconds from now; zero waits for ever.
fn deadline(ctx: &Ctx<'_>, milliseconds: i64) -> Result<u64, Fault> {
    match u64::try_from(milliseconds) {
        Err(_) => Err(Fault::NEGATIVE_TIMEOUT),
        Ok(0) => Ok(0),
        Ok(wait) => Ok(ctx.engine.store.now().saturating_add(wait)),
    }
}

/// Since where on a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// Behind this entry; in a group, of what the consumer has not acknowledged.
    After(Id),
    /// What the group has not read yet.
    New,
}

pub fn xread(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    read(ctx, args, false)
}

pub fn xreadgroup(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    read(ctx, args, true)
}

fn read(ctx: &mut Ctx<'_>, args: &Args<'_>, grouped: bool) -> Done {
    let request = Request::read(ctx, args, grouped)?;
    if ctx.again {
        return serve_who_waited(ctx, args, &request);
    }
    let mut streams = Vec::with_capacity(request.keys);
    for at in request.first..request.first + request.keys {
        let (name, text) = (args.at(at), args.at(at + request.keys));
        let found = ctx.read(name, Kind::Stream)?;
        if let Some((group, _)) = request.group
            && found.is_none_or(|found| stream_at(&ctx.engine.store, found).group(group).is_none())
        {
            let end = b"' in XREADGROUP with GROUP option";
            return Err(text_with(&[b"NOGROUP No such key '", name, b"' or consumer group '", group, end]));
        }
        let from = match text {
            b"$" if grouped => {
                return Err(Fault::of(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an \
                     empty result set.",
                ));
            }
            b"$" => Since::After(found.map_or(Id::MIN, |found| stream_at(&ctx.engine.store, found).last)),
            b">" if !grouped => {
                return Err(Fault::of(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            b">" => Since::New,
            text => match strict_id(text)? {
                Id::MAX if grouped => Since::New, // As Redis writes it for itself.
                id => Since::After(id),
            },
        };
        streams.push((name, from));
    }
    let start = ctx.out.len();
    let written = ctx.out.deferred_by(if ctx.out.resp3() { Reply::map } else { Reply::array });
    let mut count = 0;
    for &(name, from) in &streams {
        // Looked for again, and counted again, as in Redis: making a consumer may have moved what was found before.
        let Some(found) = ctx.read_any(name) else { continue };
        let stream = stream_at(&ctx.engine.store, found);
        let after = match (request.group, from) {
            (None, Since::After(id)) if stream.has_after(id) => id,
            (Some(_), Since::After(id)) => id,
            (Some((group, _)), Since::New) => match stream.group(group) {
                Some(group) if stream.has_after(group.last) => group.last,
                _ => continue,
            },
            _ => continue,
        };
        count += 1;
        serve(ctx, &request, name, found, after, from);
    }
    if count > 0 {
        ctx.out.finish(written, count);
        return Ok(());
    }
    ctx.out.truncate(start);
    let Some(deadline) = request.deadline else {
        ctx.out.null_array();
        return Ok(());
    };
    let names: Vec<&[u8]> = streams.iter().map(|(name, _)| *name).collect();
    // "The last entry" is the one that is last now, not when somebody adds another.
    let resolved: Vec<String> = streams
        .iter()
        .map(|(_, from)| match from {
            Since::After(id) => id.to_string(),
            Since::New => ">".to_owned(),
        })
        .collect();
    let parts = args.from(0).take(request.first + request.keys).chain(resolved.iter().map(String::as_bytes));
    let waiting = OwnedArgs::from_parts(parts);
    if !ctx.block(&names, deadline, OnTimeout::NullArray, &waiting.as_args()) {
        ctx.out.null_array();
    }
    Ok(())
}

/// Serve a client that waited from the one key that is ready; nothing written means that it waits on.
fn serve_who_waited(ctx: &mut Ctx<'_>, args: &Args<'_>, request: &Request<'_>) -> Done {
    let keys = request.first..request.first + request.keys;
    let Some(at) = keys.clone().find(|&at| ctx.may_serve_from(args.at(at))) else { return Ok(()) };
    let name = args.at(at);
    let Some(found) = ctx.look(name).filter(|&found| ctx.engine.store.kind(found) == Kind::Stream) else {
        return match request.group {
            Some(_) => Err(Fault::of("UNBLOCKED the stream key no longer exists")),
            None => Ok(()),
        };
    };
    let stream = stream_at(&ctx.engine.store, found);
    let (from, after) = match request.group {
        Some((group, _)) => {
            let gone = Fault::of("NOGROUP the consumer group this client was blocked on no longer exists");
            (Since::New, stream.group(group).ok_or(gone)?.last)
        }
        None => {
            let id = strict_id(args.at(at + request.keys)).map_err(|_| BAD_ID)?;
            (Since::After(id), id)
        }
    };
    if stream.last > after {
        if ctx.out.resp3() {
            ctx.out.map(1)
        } else {
            ctx.out.array(1)
        }
        serve(ctx, request, name, found, after, from);
    }
    Ok(())
}

/// Write a stream's name and its entries behind one; in a group, deliver them.
fn serve(ctx: &mut Ctx<'_>, request: &Request<'_>, name: &[u8], found: Found, after: Id, from: Since) {
    if !ctx.out.resp3() {
        ctx.out.array(2);
    }
    ctx.out.bulk(name);
    // Behind the very last name begins the stream anew; nothing is asked for there but by mistake.
    let start = after.next().unwrap_or(Id::MIN);
    let Some((group, consumer)) = request.group else {
        let stream = stream_at(&ctx.engine.store, found);
        return write_entries(ctx.out, stream.range(start, Id::MAX), request.count);
    };
    let Some(who) = ctx.consumer(name, found, group, consumer) else {
        return ctx.out.array(0);
    };
    let now = ctx.engine.store.now();
    let mut found = found;
    ctx.engine.store.stamp(&mut found);
    let stream = stream_at_mut(&mut ctx.engine.store, found);
    let mut seen = Vec::new();
    let head = ctx.out.deferred_by(Reply::array);
    if from == Since::New {
        for entry in stream.range(start, Id::MAX).take(request.count) {
            write_entry(ctx.out, entry);
            seen.push(entry.id);
        }
        for &id in &seen {
            stream.advance(group, id);
        }
        if let Some(group) = stream.group_mut(group).filter(|_| !request.no_acknowledgement) {
            seen.iter().for_each(|&id| group.deliver(id, who, now, 1));
        }
    } else if let Some(of) = stream.group(group) {
        for &id in of.consumer(who).pending().range(start..).take(request.count) {
            match stream.get(id) {
                Some(entry) => write_entry(ctx.out, entry),
                None => {
                    // Removed since it was delivered.
                    ctx.out.array(2);
                    write_id(ctx.out, id);
                    ctx.out.null_array();
                }
            }
            seen.push(id);
        }
        let redelivered: Vec<Id> = seen.iter().copied().filter(|&id| stream.get(id).is_some()).collect();
        if let Some(group) = stream.group_mut(group) {
            redelivered.into_iter().for_each(|id| group.redeliver(id, now));
        }
    }
    ctx.out.finish(head, seen.len());
    if ctx.engine.tail.listening() {
        record(ctx, request, name, found, &seen, from);
    }
    ctx.changed_within(name, super::STREAM, None);
}

/// Have a delivery recorded as what it did to the group: XREADGROUP itself may wait, and is told no consumer's clock.
fn record(ctx: &mut Ctx<'_>, request: &Request<'_>, name: &[u8], found: Found, seen: &[Id], from: Since) {
    let Some((group, consumer)) = request.group else { return };
    let stream = stream_at(&ctx.engine.store, found);
    let Some(of) = stream.group(group) else { return };
    let now = ctx.engine.store.now().to_string();
    // What was delivered, with how often: runs of the same count share a command.
    let delivered: Vec<(String, u64)> = seen
        .iter()
        .filter(|&&id| stream.get(id).is_some())
        .filter_map(|id| Some((id.to_string(), of.pending().get(id)?.times)))
        .collect();
    let last = of.last.to_string();
    let read = of.read.map_or_else(|| "-1".to_owned(), |read| read.to_string());
    ctx.record_for(name, &[b"XGROUP", b"CREATECONSUMER", name, group, consumer]);
    if from == Since::New {
        ctx.record_for(name, &[b"XGROUP", b"SETID", name, group, last.as_bytes(), b"ENTRIESREAD", read.as_bytes()]);
    }
    if request.no_acknowledgement && from == Since::New {
        return;
    }
    for run in delivered.chunk_by(|one, other| one.1 == other.1) {
        let times = run[0].1.to_string();
        let ids = run.iter().map(|(id, _)| id.as_bytes());
        let head: [&[u8]; 5] = [b"XCLAIM", name, group, consumer, b"0"];
        let tail: [&[u8]; 6] = [b"TIME", now.as_bytes(), b"RETRYCOUNT", times.as_bytes(), b"FORCE", b"JUSTID"];
        let words: Vec<&[u8]> = head.into_iter().chain(ids).chain(tail).collect();
        ctx.record_as(&words);
    }
}
