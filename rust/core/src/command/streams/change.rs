//! Adding entries to streams and removing them: XADD, XTRIM, XDEL, XSETID.

use super::{BAD_ID, Written, parse, stream_at, stream_at_mut, strict_id, strict_ids, write_id};
use crate::command::Ctx;
use crate::command::engine::Engine;
use crate::command::fault::{Done, Fault};
use crate::command::notify::STREAM;
use crate::command::settings::Name;
use crate::resp::Args;
use crate::store::stream::{Cut, Id, Limits, Refused, Stream};
use crate::store::{Found, Kind, Object};

/// How a stream is to be trimmed.
struct Trim {
    cut: Cut,
    about: bool,
    limit: u64,
}

/// What XADD and XTRIM say between key and entry.
struct Options {
    trim: Option<Trim>,
    only_if_there: bool,
    /// XADD's name for the entry; `None` for `*`.
    id: Option<Written>,
    /// The argument behind the options and the name.
    next: usize,
}

/// Entries that a trim "about" removes at most, when nothing else is said: a hundred blocks.
fn usual_limit(engine: &Engine) -> u64 {
    match (engine.settings.size(Name::stream_node_max_entries) as u64).saturating_mul(100) {
        0 => 10_000,
        limit => limit.min(1_000_000),
    }
}

fn natural(args: &Args<'_>, at: usize, name: &str) -> Result<u64, Fault> {
    let number = args.integer(at)?;
    u64::try_from(number).map_err(|_| Fault::new(format!("ERR The {name} argument must be >= 0.")))
}

fn options(ctx: &Ctx<'_>, args: &Args<'_>, adds: bool) -> Result<Options, Fault> {
    let (mut cut, mut about, mut limit) = (None, false, None);
    let mut read = Options { trim: None, only_if_there: false, id: None, next: args.len() };
    let mut at = 2;
    while at < args.len() {
        let more = args.len() - 1 - at;
        let is_length = args.is(at, "MAXLEN");
        if adds && args.at(at) == b"*" {
            read.next = at + 1;
            break;
        } else if (is_length || args.is(at, "MINID")) && more > 0 {
            if cut.is_some() {
                return Err(Fault::of(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                ));
            }
            about = more >= 2 && args.at(at + 1) == b"~";
            if about || (more >= 2 && args.at(at + 1) == b"=") {
                at += 1;
            }
            at += 1;
            cut = Some(if is_length {
                Cut::Length(natural(args, at, "MAXLEN")?)
            } else {
                Cut::Before(strict_id(args.at(at))?)
            });
        } else if args.is(at, "LIMIT") && more > 0 {
            limit = Some(natural(args, at + 1, "LIMIT")?);
            at += 1;
        } else if adds && args.is(at, "NOMKSTREAM") {
            read.only_if_there = true;
        } else if adds {
            read.id = Some(parse(args.at(at), 0, false).ok_or(BAD_ID)?);
            read.next = at + 1;
            break;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    let Some(cut) = cut else {
        return match limit {
            Some(1..) => {
                Err(Fault::of("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"))
            }
            _ if !adds => Err(Fault::of("ERR syntax error, XTRIM must be called with a trimming strategy")),
            Some(_) => Err(Fault::of("ERR syntax error, LIMIT cannot be used without the special ~ option")),
            None => Ok(read),
        };
    };
    if limit.is_some() && !about {
        return Err(Fault::of("ERR syntax error, LIMIT cannot be used without the special ~ option"));
    }
    let limit = limit.unwrap_or(if about { usual_limit(ctx.engine) } else { 0 });
    read.trim = Some(Trim { cut, about, limit });
    Ok(read)
}

fn limits(engine: &Engine) -> Limits {
    Limits {
        bytes: engine.settings.size(Name::stream_node_max_bytes),
        entries: engine.settings.size(Name::stream_node_max_entries),
    }
}

const NOT_AFTER: Fault = Fault::of("ERR The ID specified in XADD is equal or smaller than the target stream top item");

/// The name an entry gets behind one called `last`.
fn name_for(wanted: Option<Written>, last: Id, now: u64) -> Result<Id, Fault> {
    match wanted {
        Some(Written { id, numbered: true }) => Ok(id),
        Some(Written { id, .. }) if id.ms == last.ms => {
            Ok(Id { seq: last.seq.checked_add(1).ok_or(NOT_AFTER)?, ..last })
        }
        Some(Written { id, .. }) => Ok(id),
        None if now > last.ms => Ok(Id { ms: now, seq: 0 }),
        None => last.next().ok_or(NOT_AFTER),
    }
}

pub fn xadd(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(ctx, args, true)?;
    let fields = args.len() - options.next;
    if fields < 2 || fields % 2 == 1 {
        return Err(Fault::arity("xadd"));
    }
    if matches!(options.id, Some(Written { id: Id::MIN, numbered: true })) {
        return Err(Fault::of("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let name = args.at(1);
    let found = match ctx.write(name, Kind::Stream)? {
        None if options.only_if_there => {
            ctx.out.null();
            return Ok(());
        }
        found => found,
    };
    let last = found.map_or(Id::MIN, |found| stream_at(&ctx.engine.store, found).last);
    if last == Id::MAX {
        return Err(Fault::of("ERR The stream has exhausted the last possible ID, unable to add more items"));
    }
    let id = name_for(options.id, last, ctx.engine.store.now())?;
    let fields: Vec<&[u8]> = args.from(options.next).collect();
    let limits = limits(ctx.engine);
    let refused = |refused| match refused {
        Refused::NotAfterLast => NOT_AFTER,
        Refused::TooLong => Fault::of("ERR Elements are too large to be stored"),
    };
    let found = match found {
        Some(found) => {
            stream_at_mut(&mut ctx.engine.store, found).append(id, &fields, limits).map_err(refused)?;
            found
        }
        None => {
            let mut stream = Box::new(Stream::default());
            stream.append(id, &fields, limits).map_err(refused)?;
            ctx.write_or_create(name, Kind::Stream, || Object::Stream(stream))?
        }
    };
    write_id(ctx.out, id);
    if ctx.engine.tail.listening() {
        let id = id.to_string();
        let words: Vec<&[u8]> = [b"XADD", name, id.as_bytes()].into_iter().chain(fields).collect();
        ctx.record_as(&words);
    }
    ctx.changed(name, STREAM, "xadd");
    if let Some(trim) = options.trim {
        let stream = stream_at_mut(&mut ctx.engine.store, found);
        if stream.trim(trim.cut, trim.about, trim.limit) > 0 {
            record_trim(ctx, name, found);
            ctx.changed(name, STREAM, "xtrim");
        }
    }
    Ok(())
}

/// Have a trim recorded by what is left: elsewhere the blocks may have other bounds.
fn record_trim(ctx: &mut Ctx<'_>, name: &[u8], found: Found) {
    if ctx.engine.tail.listening() {
        let stream = stream_at(&ctx.engine.store, found);
        if stream.is_empty() {
            ctx.record_as(&[b"XTRIM", name, b"MAXLEN", b"0"]);
        } else {
            let first = stream.first().to_string();
            ctx.record_as(&[b"XTRIM", name, b"MINID", first.as_bytes()]);
        }
    }
}

pub fn xtrim(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(ctx, args, false)?;
    let name = args.at(1);
    let mut removed = 0;
    if let (Some(found), Some(trim)) = (ctx.write(name, Kind::Stream)?, options.trim) {
        removed = stream_at_mut(&mut ctx.engine.store, found).trim(trim.cut, trim.about, trim.limit);
        if removed > 0 {
            record_trim(ctx, name, found);
        }
    }
    if removed > 0 {
        ctx.changed(name, STREAM, "xtrim");
    }
    ctx.out.integer(removed as i64);
    Ok(())
}

pub fn xdel(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    let Some(found) = ctx.write(name, Kind::Stream)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let ids = strict_ids(args.from(2))?;
    let stream = stream_at_mut(&mut ctx.engine.store, found);
    let removed = ids.into_iter().filter(|&id| stream.remove(id)).count();
    if removed > 0 {
        ctx.changed(name, STREAM, "xdel");
    }
    ctx.out.count(removed);
    Ok(())
}

pub fn xsetid(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let id = strict_id(args.at(2))?;
    let (mut added, mut deleted, mut at) = (None, None, 3);
    while at < args.len() {
        if args.is(at, "ENTRIESADDED") && at + 1 < args.len() {
            let count = args.integer(at + 1)?;
            added = Some(u64::try_from(count).map_err(|_| Fault::of("ERR entries_added must be positive"))?);
        } else if args.is(at, "MAXDELETEDID") && at + 1 < args.len() {
            let most = strict_id(args.at(at + 1))?;
            if id < most {
                return Err(Fault::of(
                    "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                ));
            }
            deleted = Some(most);
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 2;
    }
    let name = args.at(1);
    let found = ctx.write(name, Kind::Stream)?.ok_or(Fault::NO_KEY)?;
    let stream = stream_at_mut(&mut ctx.engine.store, found);
    if !stream.is_empty() {
        if id < stream.last_there() {
            return Err(Fault::of("ERR The ID specified in XSETID is smaller than the target stream top item"));
        }
        if added.is_some_and(|added| stream.len() > added) {
            return Err(Fault::of(
                "ERR The entries_added specified in XSETID is smaller than the target stream length",
            ));
        }
    }
    stream.last = id;
    stream.added = added.unwrap_or(stream.added);
    if let Some(deleted) = deleted.filter(|&deleted| deleted != Id::MIN) {
        stream.max_deleted = deleted;
    }
    ctx.out.ok();
    ctx.changed_within(name, STREAM, Some("xsetid"));
    Ok(())
}
