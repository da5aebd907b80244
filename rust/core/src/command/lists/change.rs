//! Adding, replacing and removing elements.

use super::{End, GENERIC, LIST, List, Object, list_at_mut, place, pushed, shrunk, span};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::resp::Args;
use crate::store::Kind;

pub fn lpush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    push(ctx, args, End::Front)
}

pub fn rpush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    push(ctx, args, End::Back)
}

fn push(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    let found = ctx.write_or_create(args.at(1), Kind::List, || Object::List(List::new()))?;
    let list = list_at_mut(&mut ctx.engine.store, found);
    args.from(2).for_each(|element| list.push(end, element));
    let len = list.len();
    ctx.out.count(len);
    ctx.changed(args.at(1), LIST, pushed(end));
    Ok(())
}

pub fn lpushx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    push_if_there(ctx, args, End::Front)
}

pub fn rpushx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    push_if_there(ctx, args, End::Back)
}

fn push_if_there(ctx: &mut Ctx<'_>, args: &Args<'_>, end: End) -> Done {
    if ctx.write(args.at(1), Kind::List)?.is_some() {
        return push(ctx, args, end);
    }
    ctx.out.integer(0);
    Ok(())
}

pub fn lset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.write(args.at(1), Kind::List)?.ok_or(Fault::NO_KEY)?;
    let index = args.integer(2)?;
    let list = list_at_mut(&mut ctx.engine.store, found);
    if !place(index, list.len()).is_some_and(|index| list.set(index, args.at(3))) {
        return Err(Fault::INDEX_RANGE);
    }
    ctx.changed(args.at(1), LIST, "lset");
    ctx.out.ok();
    Ok(())
}

pub fn linsert(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let behind = args.is(2, "AFTER");
    if !behind && !args.is(2, "BEFORE") {
        return Err(Fault::SYNTAX);
    }
    let Some(found) = ctx.write(args.at(1), Kind::List)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let list = list_at_mut(&mut ctx.engine.store, found);
    if list.insert_beside(args.at(3), behind, args.at(4)) {
        let len = list.len();
        ctx.out.count(len);
        ctx.changed(args.at(1), LIST, "linsert");
    } else {
        ctx.out.integer(-1);
    }
    Ok(())
}

pub fn lrem(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = args.integer(2)?;
    let Some(found) = ctx.write(args.at(1), Kind::List)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let from = if count < 0 { End::Back } else { End::Front };
    let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let removed = list_at_mut(&mut ctx.engine.store, found).remove_equal(args.at(3), limit, from);
    ctx.out.count(removed);
    if removed > 0 {
        shrunk(ctx, args.at(1), found, GENERIC, "lrem");
    }
    Ok(())
}

pub fn ltrim(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    if let Some(found) = ctx.write(args.at(1), Kind::List)? {
        let list = list_at_mut(&mut ctx.engine.store, found);
        let kept = span(start, stop, list.len());
        if kept.is_empty() {
            // The old elements go with the old list, which may be long and is freed bit by bit.
            let old = std::mem::take(list);
            ctx.engine.store.condemn(Object::List(old));
        } else {
            list.trim(kept.start, kept.end);
        }
        shrunk(ctx, args.at(1), found, LIST, "ltrim");
    }
    ctx.out.ok();
    Ok(())
}
