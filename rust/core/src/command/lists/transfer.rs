//! Taking an element from one list and adding it to another, at once or as soon as there is one.

use super::take::pop_name;
use super::{End, LIST, List, Object, end, list_at, list_at_mut, popped, pushed, shrunk};
use crate::command::blocking;
use crate::command::fault::{Done, Fault};
use crate::command::{Ctx, OnTimeout};
use crate::resp::Args;
use crate::store::Kind;

pub fn lmove(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (from, to) = (end(args, 3)?, end(args, 4)?);
    move_or_null(ctx, args, from, to)
}

pub fn rpoplpush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    move_or_null(ctx, args, End::Back, End::Front)
}

fn move_or_null(ctx: &mut Ctx<'_>, args: &Args<'_>, from: End, to: End) -> Done {
    if !transfer(ctx, args.at(1), args.at(2), from, to)? {
        ctx.out.null();
    }
    Ok(())
}

pub fn blmove(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (from, to) = (end(args, 3)?, end(args, 4)?);
    move_or_wait(ctx, args, from, to, 5)
}

pub fn brpoplpush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    move_or_wait(ctx, args, End::Back, End::Front, 3)
}

fn move_or_wait(ctx: &mut Ctx<'_>, args: &Args<'_>, from: End, to: End, timeout: usize) -> Done {
    let deadline = blocking::deadline(ctx, args.at(timeout))?;
    // Who waited is told that its destination is no list; a source of another kind only keeps it waiting.
    let waits_on = ctx.again && ctx.write(args.at(1), Kind::List).is_err();
    if waits_on || transfer(ctx, args.at(1), args.at(2), from, to)? {
        return Ok(());
    }
    if !ctx.block(&[args.at(1)], deadline, OnTimeout::NullArray, args) {
        ctx.out.null();
    }
    Ok(())
}

fn end_name(end: End) -> &'static [u8] {
    if end == End::Front { b"LEFT" } else { b"RIGHT" }
}

/// Move one element and write it; `false` when there is none.
fn transfer(ctx: &mut Ctx<'_>, source: &[u8], destination: &[u8], from: End, to: End) -> Result<bool, Fault> {
    // Both are looked up before either is changed, the destination first: if its time has come it goes now.
    let target = ctx.look(destination);
    let Some(mut found) = ctx.write(source, Kind::List)? else {
        return Ok(false);
    };
    if target.is_some_and(|target| ctx.engine.store.kind(target) != Kind::List) {
        return Err(Fault::WRONG_TYPE);
    }
    let element = list_at(&ctx.engine.store, found).at(from).unwrap_or_default().to_vec();
    if source == destination {
        let list = list_at_mut(&mut ctx.engine.store, found);
        list.drop_at(from);
        list.push(to, &element);
    } else {
        let target = ctx.write_or_create(destination, Kind::List, || Object::List(List::new()))?;
        list_at_mut(&mut ctx.engine.store, target).push(to, &element);
        // Adding a key may have moved the source's entry.
        found = ctx.look(source).ok_or(Fault::NO_KEY)?;
        list_at_mut(&mut ctx.engine.store, found).drop_at(from);
    }
    ctx.out.bulk(&element);
    let push: &[u8] = if to == End::Front { b"LPUSH" } else { b"RPUSH" };
    let recorded: [&[&[u8]]; 2] = [&[push, destination, &element], &[pop_name(from), source]];
    if source == destination {
        ctx.record_as(&[b"LMOVE", source, source, end_name(from), end_name(to)]);
    } else {
        recorded.into_iter().for_each(|words| ctx.record_as(words));
    }
    ctx.changed(destination, LIST, pushed(to));
    shrunk(ctx, source, found, LIST, popped(from));
    Ok(true)
}
