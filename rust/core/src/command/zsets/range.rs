//! Reading in order: ZRANGE with all its older names, and ZRANGESTORE.

use super::{lex_bounds, limits, rank_range, reply_entries, score_bounds, zset_at};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::notify::SORTED_SET;
use crate::resp::Args;
use crate::store::zset::{Bound, Lex};
use crate::store::{Kind, Object, Store, Zset};
use std::ops::Range;

/// What a range counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// What the name of a command fixes; `None` is for the options to say.
#[derive(Clone, Copy)]
struct Form {
    by: Option<By>,
    backward: Option<bool>,
}

const OPEN: Form = Form { by: None, backward: None };

const fn fixed(by: By, backward: bool) -> Form {
    Form { by: Some(by), backward: Some(backward) }
}

pub fn zrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, OPEN)
}

pub fn zrevrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, fixed(By::Rank, true))
}

pub fn zrangebyscore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, fixed(By::Score, false))
}

pub fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, fixed(By::Score, true))
}

pub fn zrangebylex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, fixed(By::Lex, false))
}

pub fn zrevrangebylex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, fixed(By::Lex, true))
}

fn answer(ctx: &mut Ctx<'_>, args: &Args<'_>, form: Form) -> Done {
    let request = Request::read(args, 1, form, false)?;
    match ctx.read(args.at(1), Kind::SortedSet)? {
        Some(found) => {
            let store = &ctx.engine.store;
            let zset = zset_at(store, found)?;
            let ranks = request.ranks(store, zset);
            reply_entries(ctx.out, zset.entries(&store.arena, ranks, request.backward), request.with_scores);
        }
        None => ctx.out.array(0),
    }
    Ok(())
}

pub fn zrangestore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = Request::read(args, 2, OPEN, true)?;
    let entries: Vec<(Vec<u8>, f64)> = match ctx.read(args.at(2), Kind::SortedSet)? {
        Some(found) => {
            let store = &ctx.engine.store;
            let zset = zset_at(store, found)?;
            let ranks = request.ranks(store, zset);
            let entries = zset.entries(&store.arena, ranks, request.backward);
            entries.map(|(member, score)| (member.to_vec(), score)).collect()
        }
        None => Vec::new(),
    };
    // The number of ranks is known beforehand, so a result of many is large from the start; see `Zset::update` on -0.
    let large = matches!(request.ends, Ends::Ranks(..)) && entries.len() > limits(ctx.engine).entries;
    let zset = if large { Zset::large(&mut ctx.engine.store.arena)? } else { Zset::new() };
    store_entries(ctx, args.at(1), &entries, zset, "zrangestore")
}

/// Put entries one by one into a new sorted set, that under a key in place of what it held, and answer how
/// many they are.
pub(in crate::command) fn store_entries<M: AsRef<[u8]>>(
    ctx: &mut Ctx<'_>,
    name: &[u8],
    entries: &[(M, f64)],
    mut zset: Zset,
    event: &'static str,
) -> Done {
    let limits = limits(ctx.engine);
    let Store { arena, seed, .. } = &mut ctx.engine.store;
    for (member, score) in entries {
        if let Err(full) = zset.update(arena, seed, limits, member.as_ref(), |_| Some(*score)) {
            zset.free(arena);
            return Err(full.into());
        }
    }
    let result = if entries.is_empty() {
        zset.free(arena);
        None
    } else {
        Some(Object::SortedSet(zset))
    };
    ctx.store_result(name, result, SORTED_SET, event)?;
    ctx.out.count(entries.len());
    Ok(())
}

/// A range as it was asked for.
struct Request<'a> {
    ends: Ends<'a>,
    backward: bool,
    with_scores: bool,
    offset: i64,
    count: i64,
}

enum Ends<'a> {
    Ranks(i64, i64),
    Scores(Bound, Bound),
    Lex(Lex<'a>, Lex<'a>),
}

impl<'a> Request<'a> {
    /// Read key, ends and options; the key is at `at`.
    fn read(args: &Args<'a>, at: usize, form: Form, store: bool) -> Result<Request<'a>, Fault> {
        let Form { mut by, mut backward } = form;
        let (mut with_scores, mut offset, mut count) = (false, 0, -1);
        let mut next = at + 3;
        while next < args.len() {
            if !store && args.is(next, "WITHSCORES") {
                with_scores = true;
            } else if args.is(next, "LIMIT") && next + 2 < args.len() {
                offset = args.integer(next + 1)?;
                count = args.integer(next + 2)?;
                next += 2;
            } else if backward.is_none() && args.is(next, "REV") {
                backward = Some(true);
            } else if by.is_none() && args.is(next, "BYLEX") {
                by = Some(By::Lex);
            } else if by.is_none() && args.is(next, "BYSCORE") {
                by = Some(By::Score);
            } else {
                return Err(Fault::SYNTAX);
            }
            next += 1;
        }
        let (by, backward) = (by.unwrap_or(By::Rank), backward.unwrap_or(false));
        if count != -1 && by == By::Rank {
            return Err(Fault::new(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Lex {
            return Err(Fault::new("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        let (low, high) = (args.at(at + 1), args.at(at + 2));
        // Who reads backward names the higher end first.
        let (low, high) = if backward && by != By::Rank { (high, low) } else { (low, high) };
        let ends = match by {
            By::Rank => Ends::Ranks(args.integer(at + 1)?, args.integer(at + 2)?),
            By::Score => {
                let (low, high) = score_bounds(low, high)?;
                Ends::Scores(low, high)
            }
            By::Lex => {
                let (low, high) = lex_bounds(low, high)?;
                Ends::Lex(low, high)
            }
        };
        Ok(Request { ends, backward, with_scores, offset, count })
    }

    /// The ranks it means in a sorted set, counted from the lowest score.
    fn ranks(&self, store: &Store, zset: &Zset) -> Range<usize> {
        let all = match self.ends {
            Ends::Ranks(start, stop) => {
                let len = zset.len();
                let ranks = rank_range(start, stop, len);
                return if self.backward { len - ranks.end..len - ranks.start } else { ranks };
            }
            Ends::Scores(low, high) => zset.score_ranks(&store.arena, low, high),
            Ends::Lex(low, high) => zset.lex_ranks(&store.arena, low, high, self.backward),
        };
        // A negative offset skips everything, a negative count means no limit.
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX).min(all.len());
        let count = usize::try_from(self.count).unwrap_or(usize::MAX).min(all.len() - offset);
        if self.backward {
            let end = all.end - offset;
            end - count..end
        } else {
            let start = all.start + offset;
            start..start + count
        }
    }
}
