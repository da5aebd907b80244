//! Commands for keys of any kind: removal, expiry, names, scanning.

use super::Ctx;
use super::fault::{Done, Fault};
use super::glob::glob;
use super::notify::GENERIC;
use super::table::{Command, LOOK, OVERWRITE_INSERT, READ, READ_DELETE, READ_UPDATE, REMOVE, UPDATE, flag, key, keys};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::Kind;
use crate::store::keyspace::DATABASES;
use crate::stream::tail;

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const KEYSPACE: u32 = flag::KEYSPACE;

const fn row(name: &'static str, run: super::table::Handler, arity: i32, flags: u32) -> Command {
    Command { group: "generic", ..Command::new(name, run, arity, flags | KEYSPACE) }
}

const fn server_row(name: &'static str, run: super::table::Handler, arity: i32, flags: u32) -> Command {
    Command { group: "server", ..row(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Removes keys.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, REMOVE)],
        ..row("del", del, -2, flag::WRITE)
    },
    Command {
        since: "4.0.0",
        summary: "Removes keys; their memory is freed in the background.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, REMOVE)],
        ..row("unlink", del, -2, WRITE_FAST)
    },
    Command {
        summary: "Counts how many of the keys are there.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, LOOK)],
        ..row("exists", exists, -2, READ_FAST)
    },
    Command {
        since: "3.2.1",
        summary: "Counts keys as used.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, LOOK)],
        ..row("touch", touch, -2, READ_FAST)
    },
    Command {
        summary: "Tells the kind of value a key holds.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("type", kind, 2, READ_FAST)
    },
    Command {
        summary: "Gives a key an expiry, in seconds from now.",
        syntax: "key seconds [NX | XX | GT | LT]",
        keys: &[key(1, UPDATE)],
        ..row("expire", expire, -3, WRITE_FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Gives a key an expiry, in milliseconds from now.",
        syntax: "key milliseconds [NX | XX | GT | LT]",
        keys: &[key(1, UPDATE)],
        ..row("pexpire", pexpire, -3, WRITE_FAST)
    },
    Command {
        since: "1.2.0",
        summary: "Gives a key an expiry, as a Unix time in seconds.",
        syntax: "key unix-time-seconds [NX | XX | GT | LT]",
        keys: &[key(1, UPDATE)],
        ..row("expireat", expireat, -3, WRITE_FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Gives a key an expiry, as a Unix time in milliseconds.",
        syntax: "key unix-time-milliseconds [NX | XX | GT | LT]",
        keys: &[key(1, UPDATE)],
        ..row("pexpireat", pexpireat, -3, WRITE_FAST)
    },
    Command {
        summary: "Tells the seconds a key has left.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("ttl", ttl, 2, READ_FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Tells the milliseconds a key has left.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("pttl", pttl, 2, READ_FAST)
    },
    Command {
        since: "7.0.0",
        summary: "Tells when a key expires, as a Unix time in seconds.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("expiretime", expiretime, 2, READ_FAST)
    },
    Command {
        since: "7.0.0",
        summary: "Tells when a key expires, as a Unix time in milliseconds.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("pexpiretime", pexpiretime, 2, READ_FAST)
    },
    Command {
        since: "2.2.0",
        summary: "Takes a key's expiry away.",
        syntax: "key",
        keys: &[key(1, UPDATE)],
        ..row("persist", persist, 2, WRITE_FAST)
    },
    Command {
        summary: "Names all keys that match a pattern.",
        syntax: "pattern",
        ..row("keys", all_keys, 2, flag::READONLY | flag::DANGEROUS)
    },
    Command {
        since: "2.8.0",
        summary: "Visits all keys, some at each call.",
        syntax: "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        ..row("scan", scan, -2, flag::READONLY)
    },
    Command { summary: "Names some key.", ..row("randomkey", randomkey, 1, flag::READONLY) },
    Command { summary: "Counts the keys of the database.", ..server_row("dbsize", dbsize, 1, READ_FAST) },
    Command {
        summary: "Gives a key another name.",
        syntax: "key newkey",
        keys: &[key(1, READ_DELETE), key(2, super::table::OVERWRITE)],
        ..row("rename", rename, 3, flag::WRITE)
    },
    Command {
        summary: "Gives a key another name that no key has.",
        syntax: "key newkey",
        keys: &[key(1, READ_DELETE), key(2, OVERWRITE_INSERT)],
        ..row("renamenx", renamenx, 3, WRITE_FAST)
    },
    Command {
        summary: "Moves a key to another database.",
        syntax: "key db",
        keys: &[key(1, READ_UPDATE)],
        ..row("move", move_key, 3, WRITE_FAST)
    },
    Command {
        summary: "Removes all keys of the database.",
        syntax: "[ASYNC | SYNC]",
        ..server_row("flushdb", flushdb, -1, flag::WRITE | flag::DANGEROUS)
    },
    Command {
        summary: "Removes all keys of all databases.",
        syntax: "[ASYNC | SYNC]",
        ..server_row("flushall", flushall, -1, flag::WRITE | flag::DANGEROUS)
    },
    Command {
        since: "4.0.0",
        summary: "Exchanges two databases.",
        syntax: "index1 index2",
        ..server_row("swapdb", swapdb, 3, WRITE_FAST | flag::DANGEROUS)
    },
];

fn del(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut removed = 0;
    for name in args.from(1) {
        if ctx.remove(name) {
            ctx.changed(name, GENERIC, "del");
            removed += 1;
        }
    }
    ctx.out.integer(removed);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = args.from(1).filter(|name| ctx.read_any(name).is_some()).count();
    ctx.out.count(count);
    Ok(())
}

fn touch(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    exists(ctx, args)
}

fn kind(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = ctx.look(args.at(1)).map_or("none", |found| ctx.engine.store.kind(found).name());
    ctx.out.status(name);
    Ok(())
}

fn expire(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    give_expiry(ctx, args, 1000, false)
}

fn pexpire(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    give_expiry(ctx, args, 1, false)
}

fn expireat(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    give_expiry(ctx, args, 1000, true)
}

fn pexpireat(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    give_expiry(ctx, args, 1, true)
}

fn give_expiry(ctx: &mut Ctx<'_>, args: &Args<'_>, unit: i64, absolute: bool) -> Done {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for index in 3..args.len() {
        if args.is(index, "NX") {
            nx = true;
        } else if args.is(index, "XX") {
            xx = true;
        } else if args.is(index, "GT") {
            gt = true;
        } else if args.is(index, "LT") {
            lt = true;
        } else {
            let mut text = b"ERR Unsupported option ".to_vec();
            text.extend(args.at(index).iter().take_while(|&&byte| byte != 0)); // Quoted as a C string.
            return Err(Fault::bytes(text));
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Fault::new("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if gt && lt {
        return Err(Fault::new("ERR GT and LT options at the same time are not compatible"));
    }
    let bad = || Fault::bad_expiry(ctx.command.name);
    let number = args.integer(2)?;
    let millis = number.checked_mul(unit).ok_or_else(bad)?;
    let base = if absolute { 0 } else { ctx.engine.store.now() as i64 };
    let time = millis.checked_add(base).ok_or_else(bad)?;

    let name = args.at(1);
    let Some(mut found) = ctx.look(name) else {
        ctx.out.integer(0);
        return Ok(());
    };
    let before = ctx.engine.store.entry(found).expiry().map(|time| time as i64);
    // No expiry counts as an infinite one.
    let refused = (nx && before.is_some())
        || (xx && before.is_none())
        || (gt && before.is_none_or(|before| time <= before))
        || (lt && before.is_some_and(|before| time >= before));
    if refused {
        ctx.out.integer(0);
        return Ok(());
    }
    if time <= ctx.engine.store.now() as i64 {
        ctx.remove(name);
        ctx.changed(name, GENERIC, "del");
    } else {
        ctx.engine.store.set_expiry(&mut found, Some(time as u64));
        ctx.changed(name, GENERIC, "expire");
    }
    ctx.out.integer(1);
    Ok(())
}

/// Remove a key that was just given an expiry in the past.
pub fn drop_if_past(ctx: &mut Ctx<'_>, name: &[u8]) {
    let now = ctx.engine.store.now();
    if let Some(found) = ctx.engine.store.find_any(ctx.client.database, name)
        && ctx.engine.store.entry(found).expiry().is_some_and(|time| time <= now)
    {
        ctx.engine.store.remove(found);
        ctx.changed(name, GENERIC, "del");
    }
}

/// The point in time at which a key expires: -2 for no key, -1 for no expiry.
fn expiry_of(ctx: &mut Ctx<'_>, name: &[u8]) -> i64 {
    match ctx.look(name) {
        None => -2,
        Some(found) => ctx.engine.store.entry(found).expiry().map_or(-1, |time| time as i64),
    }
}

fn ttl(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let time = expiry_of(ctx, args.at(1));
    let left = if time < 0 { time } else { (time - ctx.engine.store.now() as i64).max(0).saturating_add(500) / 1000 };
    ctx.out.integer(left);
    Ok(())
}

fn pttl(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let time = expiry_of(ctx, args.at(1));
    let left = if time < 0 { time } else { (time - ctx.engine.store.now() as i64).max(0) };
    ctx.out.integer(left);
    Ok(())
}

fn expiretime(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let time = expiry_of(ctx, args.at(1));
    ctx.out.integer(if time < 0 { time } else { time.saturating_add(500) / 1000 });
    Ok(())
}

fn pexpiretime(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let time = expiry_of(ctx, args.at(1));
    ctx.out.integer(time);
    Ok(())
}

fn persist(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    let done = match ctx.look(name) {
        Some(mut found) if ctx.engine.store.entry(found).expiry().is_some() => {
            ctx.engine.store.set_expiry(&mut found, None);
            ctx.changed(name, GENERIC, "persist");
            true
        }
        _ => false,
    };
    ctx.out.integer(i64::from(done));
    Ok(())
}

fn all_keys(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let pattern = args.at(1);
    let store = &ctx.engine.store;
    let database = ctx.client.database;
    let now = store.now();
    let out = &mut *ctx.out;
    out.deferred(crate::resp::Reply::array, |out| {
        let mut count = 0;
        let mut cursor = 0;
        loop {
            cursor = store.scan(database, cursor, |handle| {
                let name = store.key_of(handle);
                if store.expiry_of(handle).is_none_or(|time| time > now) && glob(pattern, name, false) {
                    out.bulk(name);
                    count += 1;
                }
            });
            if cursor == 0 {
                return (count, ());
            }
        }
    });
    Ok(())
}

/// A cursor as Redis reads it: what C's `strtoul` takes whole, blanks in front excepted.
pub fn parse_cursor(text: &[u8]) -> Result<u64, Fault> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    // Nothing at all reads as zero; a sign alone does not.
    if digits.is_empty() && !text.is_empty() {
        return Err(Fault::INVALID_CURSOR);
    }
    let mut value = 0u64;
    for &digit in digits {
        let next = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit.wrapping_sub(b'0'))));
        value = next.filter(|_| digit.is_ascii_digit()).ok_or(Fault::INVALID_CURSOR)?;
    }
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// The options all SCAN commands share.
pub struct ScanOptions<'a> {
    /// Only what matches.
    pub pattern: Option<&'a [u8]>,
    /// About how many to visit.
    pub count: usize,
    /// Only keys of this kind (SCAN alone).
    pub kind: Option<&'a [u8]>,
    /// Only names, no values (HSCAN alone).
    pub no_values: bool,
}

/// Read the options of a SCAN command from this argument on.
pub fn scan_options<'a>(args: &Args<'a>, from: usize, command: &str) -> Result<ScanOptions<'a>, Fault> {
    let mut options = ScanOptions { pattern: None, count: 10, kind: None, no_values: false };
    let mut at = from;
    while at < args.len() {
        if command == "hscan" && args.is(at, "NOVALUES") {
            options.no_values = true;
            at += 1;
            continue;
        }
        let Some(value) = args.get(at + 1) else {
            return Err(Fault::SYNTAX);
        };
        if args.is(at, "COUNT") {
            let count = args.integer(at + 1)?;
            options.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Fault::SYNTAX)?;
        } else if args.is(at, "MATCH") {
            options.pattern = (value != b"*").then_some(value);
        } else if command == "scan" && args.is(at, "TYPE") {
            options.kind = Some(value);
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 2;
    }
    Ok(options)
}

fn scan(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut cursor = parse_cursor(args.at(1))?;
    let options = scan_options(args, 2, "scan")?;
    let database = ctx.client.database;
    let store = &ctx.engine.store;
    let now = store.now();
    let mut names = Vec::new();
    let mut visited = 0;
    let mut rounds = 0;
    loop {
        cursor = store.scan(database, cursor, |handle| {
            visited += 1;
            let name = store.key_of(handle);
            if store.expiry_of(handle).is_none_or(|time| time > now)
                && options.pattern.is_none_or(|pattern| glob(pattern, name, false))
                && options.kind.is_none_or(|kind| store.kind_of(handle).name().as_bytes().eq_ignore_ascii_case(kind))
            {
                names.push(handle);
            }
        });
        rounds += 1;
        if cursor == 0 || visited >= options.count || rounds >= options.count.saturating_mul(10) {
            break;
        }
    }
    ctx.out.array(2);
    ctx.out.bulk(cursor.to_string().as_bytes());
    ctx.out.array(names.len());
    for handle in names {
        ctx.out.bulk(store.key_of(handle));
    }
    Ok(())
}

fn randomkey(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let name = ctx.engine.store.random_key(ctx.client.database);
    ctx.out.bulk_or_null(name.as_deref());
    Ok(())
}

fn dbsize(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.count(ctx.engine.store.own_len(ctx.client.database));
    Ok(())
}

fn rename(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if ctx.look(args.at(1)).is_none() {
        return Err(Fault::NO_KEY);
    }
    if args.at(1) != args.at(2) {
        rename_told(ctx, args)?;
    }
    ctx.out.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if ctx.look(args.at(1)).is_none() {
        return Err(Fault::NO_KEY);
    }
    let free = args.at(1) != args.at(2) && ctx.look(args.at(2)).is_none();
    if free {
        rename_told(ctx, args)?;
    }
    ctx.out.integer(i64::from(free));
    Ok(())
}

fn rename_told(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let database = ctx.client.database;
    ctx.engine.store.rename(database, args.at(1), database, args.at(2))?;
    ctx.created(args.at(2));
    ctx.changed(args.at(1), GENERIC, "rename_from");
    ctx.changed(args.at(2), GENERIC, "rename_to");
    Ok(())
}

fn move_key(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let target = parse_i64(args.at(2)).ok_or(Fault::NOT_INTEGER)?;
    if i32::try_from(target).is_err() {
        return Err(Fault::NOT_SMALL_INTEGER);
    }
    if !(0..DATABASES as i64).contains(&target) {
        return Err(Fault::DB_RANGE);
    }
    let (source, target, name) = (ctx.client.database, target as u8, args.at(1));
    if source == target {
        return Err(Fault::new("ERR source and destination objects are the same"));
    }
    let movable = ctx.look(name).is_some() && ctx.engine.store.find(target, name).is_none();
    if movable {
        ctx.engine.store.rename(source, name, target, name)?;
        ctx.created_in(target, name);
        ctx.changed(name, GENERIC, "move_from");
        ctx.changed_in(target, name, GENERIC, "move_to");
    }
    ctx.out.integer(i64::from(movable));
    Ok(())
}

/// `ASYNC`, `SYNC` or nothing: all the same here, large values are always freed bit by bit.
fn check_flush_mode(args: &Args<'_>) -> Done {
    match args.len() {
        1 => Ok(()),
        2 if args.is(1, "ASYNC") || args.is(1, "SYNC") => Ok(()),
        _ => Err(Fault::SYNTAX),
    }
}

/// Record what changes a database as a whole.
fn record_whole(ctx: &mut Ctx<'_>, kind: tail::Kind, database: u8, payload: &[u8]) {
    if ctx.engine.tail.listening() {
        let time = ctx.engine.store.now();
        ctx.engine.tail.write(kind, tail::EVERY_SLOT, database, time, |out| out.extend_from_slice(payload));
    }
}

fn flushdb(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    check_flush_mode(args)?;
    super::transactions::break_all(ctx, Some(ctx.client.database));
    ctx.engine.copies.abandon();
    let removed = ctx.engine.store.flush_own(Some(ctx.client.database));
    record_whole(ctx, tail::Kind::Flush, ctx.client.database, &[]);
    ctx.engine.mark_all_ready(Some(ctx.client.database));
    super::tracking::all_changed(ctx.engine, ctx.client);
    ctx.engine.changes += removed as u64;
    ctx.out.ok();
    Ok(())
}

fn flushall(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    check_flush_mode(args)?;
    super::transactions::break_all(ctx, None);
    ctx.engine.copies.abandon();
    let removed = ctx.engine.store.flush_own(None);
    record_whole(ctx, tail::Kind::Flush, tail::EVERY_DATABASE, &[]);
    ctx.engine.mark_all_ready(None);
    super::tracking::all_changed(ctx.engine, ctx.client);
    ctx.engine.changes += removed as u64;
    ctx.out.ok();
    Ok(())
}

fn swapdb(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let number = |index: usize, text: &'static str| {
        let number = parse_i64(args.at(index)).filter(|number| i32::try_from(*number).is_ok());
        number.ok_or_else(|| Fault::new(text))
    };
    let one = number(1, "ERR invalid first DB index")?;
    let other = number(2, "ERR invalid second DB index")?;
    let valid = 0..DATABASES as i64;
    if !valid.contains(&one) || !valid.contains(&other) {
        return Err(Fault::DB_RANGE);
    }
    super::transactions::break_all(ctx, Some(one as u8));
    super::transactions::break_all(ctx, Some(other as u8));
    ctx.engine.store.swap_own(one as u8, other as u8);
    record_whole(ctx, tail::Kind::Swap, one as u8, &[other as u8]);
    // A watched key that came to be by the swap has changed as much as one that went.
    super::transactions::break_all(ctx, Some(one as u8));
    super::transactions::break_all(ctx, Some(other as u8));
    // Keys that somebody waits for may have come with the swap, or gone.
    ctx.engine.mark_all_ready(Some(one as u8));
    ctx.engine.mark_all_ready(Some(other as u8));
    ctx.engine.changes += 1;
    ctx.out.ok();
    Ok(())
}

/// The kind a name means, for SCAN's TYPE.
pub fn kind_named(name: &[u8]) -> Option<Kind> {
    [Kind::String, Kind::List, Kind::Set, Kind::SortedSet, Kind::Hash, Kind::Stream]
        .into_iter()
        .find(|kind| kind.name().as_bytes().eq_ignore_ascii_case(name))
}
