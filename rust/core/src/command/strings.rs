//! Strings and counters.

use super::fault::{Done, Fault};
use super::notify::{GENERIC, STRING};
use super::settings::Name;
use super::table::{Command, INSERT, OVERWRITE, READ, READ_DELETE, READ_UPDATE, UPDATE, flag, key, keys};
use super::{Ctx, keys as generic};
use crate::resp::Args;
use crate::resp::longdouble::LongDouble;
use crate::resp::number::parse_i64;
use crate::store::keyspace::Whereabouts;
use crate::store::{Found, Keep, Kind};
use smallvec::SmallVec;

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::DENYOOM | flag::FAST;
const WRITE_SLOW: u32 = flag::WRITE | flag::DENYOOM;

const fn row(name: &'static str, run: super::table::Handler, arity: i32, flags: u32) -> Command {
    Command { group: "string", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Answers the string a key holds.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("get", get, 2, READ_FAST)
    },
    Command {
        summary: "Puts a string under a key, whatever it held.",
        syntax: "key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        keys: &[key(1, super::table::KeyUse(&["RW", "access", "update", "variable_flags"]))],
        ..row("set", set, -3, WRITE_SLOW)
    },
    Command {
        summary: "Puts a string under a key that is not there.",
        syntax: "key value",
        keys: &[key(1, super::table::KeyUse(&["OW", "insert"]))],
        ..row("setnx", setnx, 3, WRITE_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Puts a string with an expiry in seconds.",
        syntax: "key seconds value",
        keys: &[key(1, OVERWRITE)],
        ..row("setex", setex, 4, WRITE_SLOW)
    },
    Command {
        since: "2.6.0",
        summary: "Puts a string with an expiry in milliseconds.",
        syntax: "key milliseconds value",
        keys: &[key(1, OVERWRITE)],
        ..row("psetex", psetex, 4, WRITE_SLOW)
    },
    Command {
        summary: "Puts a string and answers the one before.",
        syntax: "key value",
        keys: &[key(1, READ_UPDATE)],
        ..row("getset", getset, 3, WRITE_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Answers a string and changes its expiry.",
        syntax: "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
        keys: &[key(1, READ_UPDATE)],
        ..row("getex", getex, -2, flag::WRITE | flag::FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Answers a string and removes it.",
        syntax: "key",
        keys: &[key(1, READ_DELETE)],
        ..row("getdel", getdel, 2, flag::WRITE | flag::FAST)
    },
    Command {
        summary: "Answers the strings of several keys.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, READ)],
        ..row("mget", mget, -2, READ_FAST)
    },
    Command {
        since: "1.0.1",
        summary: "Puts strings under several keys.",
        syntax: "key value [key value ...]",
        keys: &[keys(1, -1, 2, OVERWRITE)],
        ..row("mset", mset, -3, WRITE_SLOW)
    },
    Command {
        since: "1.0.1",
        summary: "Puts strings under several keys if none of them is there.",
        syntax: "key value [key value ...]",
        keys: &[keys(1, -1, 2, super::table::OVERWRITE_INSERT)],
        ..row("msetnx", msetnx, -3, WRITE_SLOW)
    },
    Command {
        summary: "Adds one to a number.",
        syntax: "key",
        keys: &[key(1, READ_UPDATE)],
        ..row("incr", incr, 2, WRITE_FAST)
    },
    Command {
        summary: "Takes one from a number.",
        syntax: "key",
        keys: &[key(1, READ_UPDATE)],
        ..row("decr", decr, 2, WRITE_FAST)
    },
    Command {
        summary: "Adds to a number.",
        syntax: "key increment",
        keys: &[key(1, READ_UPDATE)],
        ..row("incrby", incrby, 3, WRITE_FAST)
    },
    Command {
        summary: "Takes from a number.",
        syntax: "key decrement",
        keys: &[key(1, READ_UPDATE)],
        ..row("decrby", decrby, 3, WRITE_FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Adds to a number that may have decimals.",
        syntax: "key increment",
        keys: &[key(1, READ_UPDATE)],
        ..row("incrbyfloat", incrbyfloat, 3, WRITE_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Appends to a string.",
        syntax: "key value",
        keys: &[key(1, INSERT)],
        ..row("append", append, 3, WRITE_FAST)
    },
    Command {
        since: "2.2.0",
        summary: "Answers the length of a string.",
        syntax: "key",
        keys: &[key(1, super::table::LOOK)],
        ..row("strlen", strlen, 2, READ_FAST)
    },
    Command {
        since: "2.2.0",
        summary: "Overwrites a part of a string.",
        syntax: "key offset value",
        keys: &[key(1, UPDATE)],
        ..row("setrange", setrange, 4, WRITE_SLOW)
    },
    Command {
        since: "2.4.0",
        summary: "Answers a part of a string.",
        syntax: "key start end",
        keys: &[key(1, READ)],
        ..row("getrange", getrange, 4, flag::READONLY)
    },
    Command {
        summary: "Answers a part of a string; an older name of GETRANGE.",
        syntax: "key start end",
        keys: &[key(1, READ)],
        ..row("substr", getrange, 4, flag::READONLY)
    },
];

#[inline]
fn get(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    match ctx.read(args.at(1), Kind::String)? {
        Some(found) => ctx.out.bulk(ctx.engine.store.text(found)),
        None => ctx.out.null(),
    }
    Ok(())
}

/// When a string is put, and what becomes of its expiry.
#[derive(Default)]
struct SetOptions<'a> {
    only_new: bool,
    only_existing: bool,
    get: bool,
    expiry: Option<Expiry<'a>>,
}

#[derive(Clone, Copy)]
enum Expiry<'a> {
    Keep,
    Persist,
    /// A number of units, by the place of their word in [`UNITS`].
    At(usize, &'a [u8]),
}

/// Words for times: what one unit is in milliseconds, and whether the time is a point and not a span.
const UNITS: [(&str, i64, bool); 4] = [("EX", 1000, false), ("PX", 1, false), ("EXAT", 1000, true), ("PXAT", 1, true)];

/// Read the options of SET and GETEX. `set` tells which of the two: their words differ.
fn options<'a>(args: &Args<'a>, from: usize, set: bool) -> Result<SetOptions<'a>, Fault> {
    let mut options = SetOptions::default();
    let mut at = from;
    while at < args.len() {
        let unit = UNITS.iter().position(|(word, ..)| args.is(at, word));
        // A word may come again, but not one that contradicts it.
        let expiry = match options.expiry {
            _ if set && args.is(at, "KEEPTTL") => {
                matches!(options.expiry, None | Some(Expiry::Keep)).then_some(Expiry::Keep)
            }
            _ if !set && args.is(at, "PERSIST") => {
                matches!(options.expiry, None | Some(Expiry::Persist)).then_some(Expiry::Persist)
            }
            None => unit.zip(args.get(at + 1)).map(|(unit, number)| Expiry::At(unit, number)),
            Some(Expiry::At(before, _)) => {
                unit.filter(|&unit| unit == before).zip(args.get(at + 1)).map(|(unit, number)| Expiry::At(unit, number))
            }
            Some(_) => None,
        };
        if set && args.is(at, "NX") && !options.only_existing {
            options.only_new = true;
        } else if set && args.is(at, "XX") && !options.only_new {
            options.only_existing = true;
        } else if set && args.is(at, "GET") {
            options.get = true;
        } else if let Some(expiry) = expiry {
            at += usize::from(matches!(expiry, Expiry::At(..)));
            options.expiry = Some(expiry);
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    Ok(options)
}

/// The point in time a positive number of units means.
fn expiry_time(ctx: &Ctx<'_>, number: &[u8], unit: i64, absolute: bool) -> Result<u64, Fault> {
    let number = parse_i64(number).ok_or(Fault::NOT_INTEGER)?;
    let bad = || Fault::bad_expiry(ctx.command.name);
    if number <= 0 {
        return Err(bad());
    }
    let millis = number.checked_mul(unit).ok_or_else(bad)?;
    let base = if absolute { 0 } else { ctx.engine.store.now() as i64 };
    Ok(millis.checked_add(base).ok_or_else(bad)? as u64)
}

fn set(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (name, value) = (args.at(1), args.at(2));
    if args.len() == 3 {
        put(ctx, name, value, Keep::Nothing)?;
        ctx.out.ok();
        return Ok(());
    }
    let options = options(args, 3, true)?;
    let keep = match options.expiry {
        None | Some(Expiry::Persist) => Keep::Nothing,
        Some(Expiry::Keep) => Keep::Expiry,
        Some(Expiry::At(unit, number)) => {
            let (_, unit, absolute) = UNITS[unit];
            Keep::Until(expiry_time(ctx, number, unit, absolute)?)
        }
    };
    let before = ctx.look(name);
    if options.get {
        match ctx.read(name, Kind::String)? {
            Some(found) => ctx.out.bulk(ctx.engine.store.text(found)),
            None => ctx.out.null(),
        }
    }
    if (options.only_new && before.is_some()) || (options.only_existing && before.is_none()) {
        if !options.get {
            ctx.out.null();
        }
        return Ok(());
    }
    put(ctx, name, value, keep)?;
    if matches!(keep, Keep::Until(_)) {
        ctx.changed(name, GENERIC, "expire");
        generic::drop_if_past(ctx, name);
    }
    if !options.get {
        ctx.out.ok();
    }
    Ok(())
}

/// Put a string and tell about it.
#[inline]
fn put(ctx: &mut Ctx<'_>, name: &[u8], value: &[u8], keep: Keep) -> Done {
    if ctx.engine.events != 0 && ctx.look(name).is_none() {
        ctx.put_text(name, value, keep)?;
        ctx.created(name);
    } else {
        ctx.put_text(name, value, keep)?;
    }
    ctx.changed(name, STRING, "set");
    Ok(())
}

fn setnx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let absent = ctx.look(args.at(1)).is_none();
    if absent {
        put(ctx, args.at(1), args.at(2), Keep::Nothing)?;
    }
    ctx.out.integer(i64::from(absent));
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    set_with_span(ctx, args, 1000)
}

fn psetex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    set_with_span(ctx, args, 1)
}

fn set_with_span(ctx: &mut Ctx<'_>, args: &Args<'_>, unit: i64) -> Done {
    let time = expiry_time(ctx, args.at(2), unit, false)?;
    put(ctx, args.at(1), args.at(3), Keep::Until(time))?;
    ctx.changed(args.at(1), GENERIC, "expire");
    ctx.out.ok();
    Ok(())
}

fn getset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    get(ctx, args)?;
    put(ctx, args.at(1), args.at(2), Keep::Nothing)
}

fn getex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(args, 2, false)?;
    let name = args.at(1);
    let Some(mut found) = ctx.read(name, Kind::String)? else {
        ctx.out.null();
        return Ok(());
    };
    ctx.out.bulk(ctx.engine.store.text(found));
    match options.expiry {
        Some(Expiry::At(unit, number)) => {
            let (_, unit, absolute) = UNITS[unit];
            let time = expiry_time(ctx, number, unit, absolute)?;
            if time <= ctx.engine.store.now() {
                ctx.remove(name);
                ctx.changed(name, GENERIC, "del");
            } else {
                ctx.engine.store.set_expiry(&mut found, Some(time));
                ctx.changed(name, GENERIC, "expire");
            }
        }
        Some(Expiry::Persist) => {
            let had = ctx.engine.store.entry(found).expiry().is_some();
            ctx.engine.store.set_expiry(&mut found, None);
            if had {
                ctx.changed(name, GENERIC, "persist");
            }
        }
        _ => {}
    }
    Ok(())
}

fn getdel(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    get(ctx, args)?;
    if ctx.remove(args.at(1)) {
        ctx.changed(args.at(1), GENERIC, "del");
    }
    Ok(())
}

fn mget(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.out.array(args.len() - 1);
    let database = ctx.client.database;
    let mut from = 1;
    while from < args.len() {
        let store = &ctx.engine.store;
        let batch: SmallVec<[Whereabouts; 16]> =
            args.from(from).take(16).map(|name| store.approach(database, name)).collect();
        batch.iter().for_each(|at| store.approach_group(database, at));
        batch.iter().for_each(|at| store.approach_entry(database, at));
        for (at, name) in batch.iter().zip(args.from(from)) {
            ctx.engine.store.expect(*at);
            match ctx.read(name, Kind::String) {
                Ok(Some(found)) => ctx.out.bulk(ctx.engine.store.text(found)),
                _ => ctx.out.null(),
            }
        }
        from += batch.len();
    }
    // A script's next command has its words in the same memory: what was worked out for ours must not be taken for theirs.
    ctx.engine.store.expect(Whereabouts::default());
    Ok(())
}

fn mset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Fault::arity("mset"));
    }
    put_all(ctx, args)?;
    ctx.out.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Fault::arity("msetnx"));
    }
    if args.from(1).step_by(2).any(|name| ctx.engine.store.find(ctx.client.database, name).is_some()) {
        ctx.out.integer(0);
        return Ok(());
    }
    put_all(ctx, args)?;
    ctx.out.integer(1);
    Ok(())
}

fn put_all(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut at = 1;
    while at + 1 < args.len() {
        put(ctx, args.at(at), args.at(at + 1), Keep::Nothing)?;
        at += 2;
    }
    Ok(())
}

fn incr(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    add(ctx, args.at(1), 1)
}

fn decr(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    add(ctx, args.at(1), -1)
}

fn incrby(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let by = args.integer(2)?;
    add(ctx, args.at(1), by)
}

fn decrby(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let by = args.integer(2)?;
    let by = by.checked_neg().ok_or_else(|| Fault::new("ERR decrement would overflow"))?;
    add(ctx, args.at(1), by)
}

fn add(ctx: &mut Ctx<'_>, name: &[u8], by: i64) -> Done {
    let found = ctx.write(name, Kind::String)?;
    let before = match found {
        Some(found) => parse_i64(ctx.engine.store.text(found)).ok_or(Fault::NOT_INTEGER)?,
        None => 0,
    };
    let after = before.checked_add(by).ok_or(Fault::OVERFLOW)?;
    let mut digits = itoa::Buffer::new();
    let text = digits.format(after).as_bytes();
    match found {
        Some(mut found) => ctx.engine.store.replace_text(&mut found, text, Keep::Expiry, 0)?,
        None => {
            ctx.engine.store.insert_text(ctx.client.database, name, text, Keep::Nothing)?;
            ctx.created(name);
        }
    }
    ctx.changed(name, STRING, "incrby");
    ctx.out.integer(after);
    Ok(())
}

fn incrbyfloat(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    let found = ctx.write(name, Kind::String)?;
    let before = found.map_or(Some(LongDouble::ZERO), |found| LongDouble::parse(ctx.engine.store.text(found)));
    let (before, by) = before.zip(LongDouble::parse(args.at(2))).ok_or(Fault::NOT_FLOAT)?;
    let text = before.plus(by).ok_or(Fault::NAN_RESULT)?.text();
    match found {
        Some(mut found) => ctx.engine.store.replace_text(&mut found, &text, Keep::Expiry, 0)?,
        None => {
            put_new(ctx, name, &text)?;
        }
    }
    ctx.changed(name, STRING, "incrbyfloat");
    ctx.out.bulk(&text);
    Ok(())
}

/// Refuse a string that would be too long.
fn check_length(ctx: &Ctx<'_>, len: usize) -> Done {
    if len > ctx.engine.settings.size(Name::proto_max_bulk_len) { Err(Fault::TOO_LONG) } else { Ok(()) }
}

fn append(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (name, tail) = (args.at(1), args.at(2));
    let len = match ctx.write(name, Kind::String)? {
        Some(mut found) => {
            let len = ctx.engine.store.text(found).len() + tail.len();
            check_length(ctx, len)?;
            ctx.engine.store.edit_text(&mut found, |text| text.extend_from_slice(tail))?;
            len
        }
        None => {
            put_new(ctx, name, tail)?;
            tail.len()
        }
    };
    ctx.changed(name, STRING, "append");
    ctx.out.count(len);
    Ok(())
}

fn put_new(ctx: &mut Ctx<'_>, name: &[u8], text: &[u8]) -> Result<Found, Fault> {
    let found = ctx.engine.store.insert_text(ctx.client.database, name, text, Keep::Nothing)?;
    ctx.created(name);
    Ok(found)
}

fn strlen(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let len = ctx.read(args.at(1), Kind::String)?.map_or(0, |found| ctx.engine.store.text(found).len());
    ctx.out.count(len);
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let offset = args.integer(2)?;
    let offset = usize::try_from(offset).map_err(|_| Fault::OFFSET_RANGE)?;
    let (name, part) = (args.at(1), args.at(3));
    let found = ctx.write(name, Kind::String)?;
    if part.is_empty() {
        let len = found.map_or(0, |found| ctx.engine.store.text(found).len());
        ctx.out.count(len);
        return Ok(());
    }
    check_length(ctx, offset.saturating_add(part.len()))?;
    let write = |text: &mut Vec<u8>| {
        if text.len() < offset + part.len() {
            text.resize(offset + part.len(), 0);
        }
        text[offset..offset + part.len()].copy_from_slice(part);
    };
    let len = match found {
        Some(mut found) => {
            ctx.engine.store.edit_text(&mut found, write)?;
            ctx.engine.store.text(found).len()
        }
        None => {
            let mut text = Vec::new();
            write(&mut text);
            let mut found = put_new(ctx, name, b"")?;
            ctx.engine.store.edit_text(&mut found, |empty| *empty = text)?;
            ctx.engine.store.text(found).len()
        }
    };
    ctx.changed(name, STRING, "setrange");
    ctx.out.count(len);
    Ok(())
}

fn getrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let Some(found) = ctx.read(args.at(1), Kind::String)? else {
        ctx.out.bulk(b"");
        return Ok(());
    };
    let text = ctx.engine.store.text(found);
    ctx.out.bulk(text.get(range(start, end, text.len())).unwrap_or_default());
    Ok(())
}

/// The part of `len` things that `start..=end` means, where negative numbers count from the end.
pub fn range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let place = |index: i64| if index < 0 { (len + index).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(len - 1));
    if start > end || len == 0 { 0..0 } else { start as usize..end as usize + 1 }
}
