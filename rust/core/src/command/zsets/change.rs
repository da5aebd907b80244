//! Adding members, changing scores, removing.

use super::{find_to_change, lex_bounds, limits, rank_range, remove_key, remove_ranks, score_bounds, zset_at};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::notify::SORTED_SET;
use crate::resp::Args;
use crate::store::zset::Outcome;
use crate::store::{Found, Kind, Object, Zset};
use smallvec::SmallVec;

/// What ZADD was asked to do besides.
#[derive(Clone, Copy, Default)]
struct Options {
    only_new: bool,
    only_existing: bool,
    only_greater: bool,
    only_less: bool,
    count_changed: bool,
    increment: bool,
}

impl Options {
    /// The score a member shall get: `None` for leave it, an error when it would be no number.
    #[inline(always)]
    fn decide(self, old: Option<f64>, given: f64) -> Result<Option<f64>, Fault> {
        let Some(old) = old else { return Ok((!self.only_existing).then_some(given)) };
        if self.only_new {
            return Ok(None);
        }
        let new = if self.increment { old + given } else { given };
        if new.is_nan() {
            return Err(Fault::new("ERR resulting score is not a number (NaN)"));
        }
        let refused = (self.only_less && new >= old) || (self.only_greater && new <= old);
        Ok((!refused).then_some(new))
    }
}

pub fn zadd(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (options, from) = read_options(args);
    add(ctx, args, options, from)
}

pub fn zincrby(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (options, from) = read_options(args);
    add(ctx, args, Options { increment: true, ..options }, from)
}

/// The options, and where the scores and members begin.
#[inline]
fn read_options(args: &Args<'_>) -> (Options, usize) {
    let mut options = Options::default();
    let mut at = 2;
    while let Some(word) = args.get(at)
        && word.first().is_some_and(u8::is_ascii_alphabetic)
    {
        let option = match word {
            _ if args.is(at, "NX") => &mut options.only_new,
            _ if args.is(at, "XX") => &mut options.only_existing,
            _ if args.is(at, "GT") => &mut options.only_greater,
            _ if args.is(at, "LT") => &mut options.only_less,
            _ if args.is(at, "CH") => &mut options.count_changed,
            _ if args.is(at, "INCR") => &mut options.increment,
            _ => break,
        };
        *option = true;
        at += 1;
    }
    (options, at)
}

fn add(ctx: &mut Ctx<'_>, args: &Args<'_>, options: Options, from: usize) -> Done {
    let pairs = args.len() - from;
    if pairs == 0 || !pairs.is_multiple_of(2) {
        return Err(Fault::SYNTAX);
    }
    if options.only_new && options.only_existing {
        return Err(Fault::new("ERR XX and NX options at the same time are not compatible"));
    }
    if (options.only_greater || options.only_less) && options.only_new || options.only_greater && options.only_less {
        return Err(Fault::new("ERR GT, LT, and/or NX options at the same time are not compatible"));
    }
    if options.increment && pairs > 2 {
        return Err(Fault::new("ERR INCR option supports a single increment-element pair"));
    }
    // All scores are read before anything is changed: all members get in, or none.
    let mut scores: SmallVec<[f64; 8]> = SmallVec::with_capacity(pairs / 2);
    for at in (from..args.len()).step_by(2) {
        scores.push(args.float(at)?);
    }
    let name = args.at(1);
    let limits = limits(ctx.engine);
    let found = match find_to_change(ctx, name)? {
        Some(found) => Some(found),
        None if options.only_existing => None,
        None => Some(ctx.write_or_create(name, Kind::SortedSet, || Object::SortedSet(Zset::new()))?),
    };
    let (mut added, mut changed, mut last) = (0, 0, None);
    if let Some(found) = found {
        let Some((Object::SortedSet(zset), arena, seed)) = ctx.engine.store.object_mut(found) else {
            return Err(Fault::WRONG_TYPE);
        };
        let mut failed = None;
        for (index, &score) in scores.iter().enumerate() {
            let member = args.at(from + index * 2 + 1);
            let outcome = zset.update(arena, seed, limits, member, |old| {
                let decided = options.decide(old, score);
                last = decided.as_ref().ok().copied().flatten();
                decided.unwrap_or_else(|fault| {
                    failed = Some(fault);
                    None
                })
            });
            match outcome {
                Ok(Outcome::Added) => added += 1,
                Ok(Outcome::Changed) => changed += 1,
                Ok(Outcome::Kept) => {}
                Err(full) => failed = Some(full.into()),
            }
            if failed.is_some() {
                break;
            }
        }
        let empty = zset.is_empty();
        if added + changed > 0 {
            ctx.changed(name, SORTED_SET, if options.increment { "zincr" } else { "zadd" });
        } else if empty {
            ctx.remove(name);
        }
        if let Some(fault) = failed {
            return Err(fault);
        }
    }
    match (options.increment, last) {
        (true, Some(score)) => ctx.out.double(score),
        (true, None) => ctx.out.null(),
        _ => ctx.out.integer(if options.count_changed { added + changed } else { added }),
    }
    Ok(())
}

pub fn zrem(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    let mut removed = 0;
    if let Some(found) = find_to_change(ctx, name)? {
        let Some((Object::SortedSet(zset), arena, seed)) = ctx.engine.store.object_mut(found) else {
            return Err(Fault::WRONG_TYPE);
        };
        for member in args.from(2) {
            removed += i64::from(zset.remove(arena, seed, member).is_some());
        }
        let empty = zset.is_empty();
        if removed > 0 {
            ctx.changed(name, SORTED_SET, "zrem");
        }
        if empty {
            remove_key(ctx, name);
        }
    }
    ctx.out.integer(removed);
    Ok(())
}

pub fn zremrangebyrank(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    remove_range(ctx, args, "zremrangebyrank", |ctx, found| {
        Ok(rank_range(start, stop, zset_at(&ctx.engine.store, found)?.len()))
    })
}

pub fn zremrangebyscore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (low, high) = score_bounds(args.at(2), args.at(3))?;
    remove_range(ctx, args, "zremrangebyscore", |ctx, found| {
        let store = &ctx.engine.store;
        Ok(zset_at(store, found)?.score_ranks(&store.arena, low, high))
    })
}

pub fn zremrangebylex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (low, high) = lex_bounds(args.at(2), args.at(3))?;
    remove_range(ctx, args, "zremrangebylex", |ctx, found| {
        let store = &ctx.engine.store;
        Ok(zset_at(store, found)?.lex_ranks(&store.arena, low, high, false))
    })
}

fn remove_range(
    ctx: &mut Ctx<'_>,
    args: &Args<'_>,
    event: &'static str,
    ranks: impl FnOnce(&Ctx<'_>, Found) -> Result<std::ops::Range<usize>, Fault>,
) -> Done {
    let name = args.at(1);
    let mut removed = 0;
    if let Some(found) = find_to_change(ctx, name)? {
        let ranks = ranks(ctx, found)?;
        removed = ranks.len();
        remove_ranks(ctx, name, found, ranks, event)?;
    }
    ctx.out.count(removed);
    Ok(())
}
