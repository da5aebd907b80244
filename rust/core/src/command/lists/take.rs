//! Taking elements from the ends, at once or as soon as there are some.

use super::{End, LIST, end, list_at, list_at_mut, popped, shrunk};
use crate::command::blocking;
use crate::command::fault::{Done, Fault};
use crate::command::{Ctx, OnTimeout};
use crate::resp::Args;
use crate::store::{Found, Kind};

pub fn lpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop(ctx, args, End::Front)
}

pub fn rpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop(ctx, args, End::Back)
}

fn pop(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    let name = args.at(1);
    if args.len() == 2 {
        match ctx.write(name, Kind::List)? {
            Some(found) => take_one(ctx, name, found, end),
            None => ctx.out.null(),
        }
        return Ok(());
    }
    if args.len() > 3 {
        return Err(Fault::arity(ctx.command.name));
    }
    let count = args.integer(2).ok().and_then(|count| usize::try_from(count).ok()).ok_or(Fault::NOT_POSITIVE)?;
    match ctx.write(name, Kind::List)? {
        None => ctx.out.null_array(),
        Some(_) if count == 0 => ctx.out.array(0),
        Some(found) => take_many(ctx, name, found, end, count),
    }
    Ok(())
}

/// Take one element and write it.
pub(super) fn take_one(ctx: &mut Ctx<'_>, name: &[u8], found: Found, end: End) {
    let list = list_at_mut(&mut ctx.engine.store, found);
    ctx.out.bulk_or_null(list.at(end));
    list.drop_at(end);
    shrunk(ctx, name, found, LIST, popped(end));
}

/// Take at most `count` elements and write them as an array.
fn take_many(ctx: &mut Ctx<'_>, name: &[u8], found: Found, end: End, count: usize) {
    let list = list_at_mut(&mut ctx.engine.store, found);
    let len = list.len();
    let count = count.min(len);
    ctx.out.array(count);
    match end {
        End::Front => list.forward(0).take(count).for_each(|element| ctx.out.bulk(element)),
        End::Back => list.backward(len - 1).take(count).for_each(|element| ctx.out.bulk(element)),
    }
    match end {
        End::Front => list.trim(count, len),
        End::Back => list.trim(0, len - count),
    }
    shrunk(ctx, name, found, LIST, popped(end));
}

pub fn blpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_waiting(ctx, args, End::Front)
}

pub fn brpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    pop_waiting(ctx, args, End::Back)
}

fn pop_waiting(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    let last = args.len() - 1;
    let deadline = blocking::deadline(ctx, args.at(last))?;
    let names: Vec<&[u8]> = args.from(1).take(last - 1).collect();
    match first_with_elements(ctx, &names)? {
        Some((name, found)) => {
            ctx.out.array(2);
            ctx.out.bulk(name);
            ctx.record_as(&[pop_name(end), name]);
            take_one(ctx, name, found, end);
        }
        None => wait(ctx, &names, deadline, args),
    }
    Ok(())
}

pub fn lmpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = Several::read(args, 1)?;
    match first_with_elements(ctx, &request.names)? {
        Some((name, found)) => take_several(ctx, &request, name, found),
        None => ctx.out.null_array(),
    }
    Ok(())
}

pub fn blmpop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = Several::read(args, 2)?;
    let deadline = blocking::deadline(ctx, args.at(1))?;
    match first_with_elements(ctx, &request.names)? {
        Some((name, found)) => take_several(ctx, &request, name, found),
        None => wait(ctx, &request.names, deadline, args),
    }
    Ok(())
}

/// What LMPOP and BLMPOP were asked for.
struct Several<'a> {
    names: Vec<&'a [u8]>,
    end: End,
    count: usize,
}

impl<'a> Several<'a> {
    /// Read from the number of keys on.
    fn read(args: &Args<'a>, at: usize) -> Result<Several<'a>, Fault> {
        let positive = |index: usize, what: &str| {
            let number = args.integer(index).ok().and_then(|number| usize::try_from(number).ok());
            let number = number.filter(|&number| number > 0);
            number.ok_or_else(|| Fault::new(format!("ERR {what} should be greater than 0")))
        };
        let keys = positive(at, "numkeys")?;
        let word = keys.saturating_add(at + 1);
        if word >= args.len() {
            return Err(Fault::SYNTAX);
        }
        let end = end(args, word)?;
        let count = match args.len() - word {
            1 => 1,
            3 if args.is(word + 1, "COUNT") => positive(word + 2, "count")?,
            // A good count before the mistake does not matter, but a bad one is told first.
            4.. if args.is(word + 1, "COUNT") => positive(word + 2, "count").and(Err(Fault::SYNTAX))?,
            _ => return Err(Fault::SYNTAX),
        };
        Ok(Several { names: args.from(at + 1).take(keys).collect(), end, count })
    }
}

fn take_several(ctx: &mut Ctx<'_>, request: &Several<'_>, name: &[u8], found: Found) {
    ctx.out.array(2);
    ctx.out.bulk(name);
    ctx.record_as(&[pop_name(request.end), name, request.count.to_string().as_bytes()]);
    take_many(ctx, name, found, request.end, request.count);
}

/// The command that takes from an end.
pub(super) fn pop_name(end: End) -> &'static [u8] {
    match end {
        End::Front => b"LPOP",
        End::Back => b"RPOP",
    }
}

/// The first key that holds a list. Who waited is served from the key that became ready.
fn first_with_elements<'a>(ctx: &mut Ctx<'_>, names: &[&'a [u8]]) -> Result<Option<(&'a [u8], Found)>, Fault> {
    for &name in names {
        if !ctx.may_serve_from(name) {
            continue;
        }
        match ctx.write(name, Kind::List) {
            Ok(Some(found)) => {
                debug_assert!(!list_at(&ctx.engine.store, found).is_empty());
                return Ok(Some((name, found)));
            }
            Ok(None) => {}
            Err(_) if ctx.again => {} // A value of another kind does not end the wait.
            Err(fault) => return Err(fault),
        }
    }
    Ok(None)
}

fn wait(ctx: &mut Ctx<'_>, names: &[&[u8]], deadline: u64, args: &Args<'_>) {
    if !ctx.block(names, deadline, OnTimeout::NullArray, args) {
        ctx.out.null_array();
    }
}
