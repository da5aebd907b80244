//! Taking members from the ends, at once or as soon as there are some.

use super::{remove_ranks, zset_at};
use crate::command::blocking;
use crate::command::fault::{Done, Fault};
use crate::command::{Ctx, OnTimeout};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::{Found, Kind};

/// From which end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Lowest,
    Highest,
}

pub fn zpopmin(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_one_key(ctx, args, End::Lowest)
}

pub fn zpopmax(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_one_key(ctx, args, End::Highest)
}

fn pop_one_key(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    if args.len() > 3 {
        return Err(Fault::SYNTAX);
    }
    let count = match args.get(2) {
        Some(text) => {
            let count = parse_i64(text).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Fault::NOT_POSITIVE)?)
        }
        None => None,
    };
    let name = args.at(1);
    match ctx.write(name, Kind::SortedSet)? {
        Some(found) if count != Some(0) => {
            let pairs = ctx.out.resp3() && count.is_some();
            let taken = count.unwrap_or(1).min(zset_at(&ctx.engine.store, found)?.len());
            ctx.out.array(if pairs { taken } else { taken * 2 });
            pop(ctx, name, found, end, taken, pairs)
        }
        _ => {
            ctx.out.array(0);
            Ok(())
        }
    }
}

/// Take `count` members out of a sorted set that has so many, and write them.
fn pop(ctx: &mut Ctx<'_>, name: &[u8], found: Found, end: End, count: usize, pairs: bool) -> Done {
    let store = &ctx.engine.store;
    let zset = zset_at(store, found)?;
    let len = zset.len();
    let (ranks, event) = match end {
        End::Lowest => (0..count, "zpopmin"),
        End::Highest => (len - count..len, "zpopmax"),
    };
    for (member, score) in zset.entries(&store.arena, ranks.clone(), end == End::Highest) {
        if pairs {
            ctx.out.array(2);
        }
        ctx.out.bulk(member);
        ctx.out.double(score);
    }
    remove_ranks(ctx, name, found, ranks, event)
}

pub fn bzpopmin(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_waiting(ctx, args, End::Lowest)
}

pub fn bzpopmax(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_waiting(ctx, args, End::Highest)
}

fn pop_waiting(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    let last = args.len() - 1;
    let deadline = blocking::deadline(ctx, args.at(last))?;
    let names: Vec<&[u8]> = args.from(1).take(last - 1).collect();
    let Some((name, found)) = first_with_members(ctx, &names)? else {
        return wait(ctx, &names, deadline, args);
    };
    ctx.out.array(3);
    ctx.out.bulk(name);
    ctx.record_as(&[pop_name(end), name]);
    pop(ctx, name, found, end, 1, false)
}

/// The command that takes from an end.
fn pop_name(end: End) -> &'static [u8] {
    match end {
        End::Lowest => b"ZPOPMIN",
        End::Highest => b"ZPOPMAX",
    }
}

pub fn zmpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = Several::read(args, 1)?;
    match first_with_members(ctx, &request.names)? {
        Some((name, found)) => pop_several(ctx, &request, name, found),
        None => {
            ctx.out.null_array();
            Ok(())
        }
    }
}

pub fn bzmpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = Several::read(args, 2)?;
    let deadline = blocking::deadline(ctx, args.at(1))?;
    match first_with_members(ctx, &request.names)? {
        Some((name, found)) => pop_several(ctx, &request, name, found),
        None => wait(ctx, &request.names, deadline, args),
    }
}

/// What ZMPOP and BZMPOP were asked for.
struct Several<'a> {
    names: Vec<&'a [u8]>,
    end: End,
    count: usize,
}

impl<'a> Several<'a> {
    /// Read from the number of keys on.
    fn read(args: &Args<'a>, at: usize) -> Result<Several<'a>, Fault> {
        let positive = |text: &[u8], what: &str| {
            let number = parse_i64(text).filter(|&number| number > 0);
            number.ok_or_else(|| Fault::new(format!("ERR {what} should be greater than 0")))
        };
        let keys = positive(args.at(at), "numkeys")?;
        let word = usize::try_from(keys).ok().and_then(|keys| keys.checked_add(at + 1));
        let Some(word) = word.filter(|&word| word < args.len()) else {
            return Err(Fault::SYNTAX);
        };
        let end = if args.is(word, "MIN") {
            End::Lowest
        } else if args.is(word, "MAX") {
            End::Highest
        } else {
            return Err(Fault::SYNTAX);
        };
        let mut count = None;
        let mut next = word + 1;
        while next < args.len() {
            if count.is_some() || !args.is(next, "COUNT") || next + 1 >= args.len() {
                return Err(Fault::SYNTAX);
            }
            count = Some(positive(args.at(next + 1), "count")? as usize);
            next += 2;
        }
        let names = args.from(at + 1).take(word - at - 1).collect();
        Ok(Several { names, end, count: count.unwrap_or(1) })
    }
}

fn pop_several(ctx: &mut Ctx<'_>, request: &Several<'_>, name: &[u8], found: Found) -> Done {
    let taken = request.count.min(zset_at(&ctx.engine.store, found)?.len());
    ctx.out.array(2);
    ctx.out.bulk(name);
    ctx.out.array(taken);
    ctx.record_as(&[pop_name(request.end), name, taken.to_string().as_bytes()]);
    pop(ctx, name, found, request.end, taken, true)
}

/// The first key that holds a sorted set. One of another kind is an error, but no reason to end a wait.
fn first_with_members<'a>(ctx: &mut Ctx<'_>, names: &[&'a [u8]]) -> Result<Option<(&'a [u8], Found)>, Fault> {
    for &name in names {
        if !ctx.may_serve_from(name) {
            continue;
        }
        match ctx.write(name, Kind::SortedSet) {
            Ok(Some(found)) => return Ok(Some((name, found))),
            Ok(None) => {}
            Err(_) if ctx.again => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(None)
}

fn wait(ctx: &mut Ctx<'_>, names: &[&[u8]], deadline: u64, args: &Args<'_>) -> Done {
    if !ctx.block(names, deadline, OnTimeout::NullArray, args) {
        ctx.out.null_array();
    }
    Ok(())
}
