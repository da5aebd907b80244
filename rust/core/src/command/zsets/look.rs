//! Answers about members: scores, ranks, counts, samples, scans.

use super::{lex_bounds, reply_entries, score_bounds, zset_at};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::keys::{parse_cursor, scan_options};
use crate::command::members::{Draw, check_draw, scan, scan_nothing};
use crate::resp::Args;
use crate::resp::number::write_f64;
use crate::store::Kind;
use crate::store::random::Random;
use std::collections::HashSet;

pub fn zcard(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let len = match ctx.read(args.at(1), Kind::SortedSet)? {
        Some(found) => zset_at(&ctx.engine.store, found)?.len(),
        None => 0,
    };
    ctx.out.count(len);
    Ok(())
}

pub fn zcount(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (low, high) = score_bounds(args.at(2), args.at(3))?;
    let count = match ctx.read(args.at(1), Kind::SortedSet)? {
        Some(found) => {
            let store = &ctx.engine.store;
            zset_at(store, found)?.score_ranks(&store.arena, low, high).len()
        }
        None => 0,
    };
    ctx.out.count(count);
    Ok(())
}

pub fn zlexcount(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (low, high) = lex_bounds(args.at(2), args.at(3))?;
    let count = match ctx.read(args.at(1), Kind::SortedSet)? {
        Some(found) => {
            let store = &ctx.engine.store;
            zset_at(store, found)?.lex_ranks(&store.arena, low, high, false).len()
        }
        None => 0,
    };
    ctx.out.count(count);
    Ok(())
}

pub fn zscore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let score = match ctx.read(args.at(1), Kind::SortedSet)? {
        Some(found) => {
            let store = &ctx.engine.store;
            zset_at(store, found)?.score(&store.arena, &store.seed, args.at(2))
        }
        None => None,
    };
    match score {
        Some(score) => ctx.out.double(score),
        None => ctx.out.null(),
    }
    Ok(())
}

pub fn zmscore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    let store = &ctx.engine.store;
    let zset = found.map(|found| zset_at(store, found)).transpose()?;
    ctx.out.array(args.len() - 2);
    for member in args.from(2) {
        match zset.and_then(|zset| zset.score(&store.arena, &store.seed, member)) {
            Some(score) => ctx.out.double(score),
            None => ctx.out.null(),
        }
    }
    Ok(())
}

pub fn zrank(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    rank(ctx, args, false)
}

pub fn zrevrank(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    rank(ctx, args, true)
}

fn rank(ctx: &mut Ctx<'_>, args: &Args<'_>, backward: bool) -> Done {
    let with_score = match args.len() {
        3 => false,
        4 if args.is(3, "WITHSCORE") => true,
        _ => return Err(Fault::arity(ctx.command.name)), // As Redis 7.0, which knows no fourth argument.
    };
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    let store = &ctx.engine.store;
    let zset = found.map(|found| zset_at(store, found)).transpose()?;
    let rank = zset.and_then(|zset| {
        let (rank, score) = zset.rank(&store.arena, &store.seed, args.at(2))?;
        Some((if backward { zset.len() - 1 - rank } else { rank }, score))
    });
    match (rank, with_score) {
        (Some((rank, score)), true) => {
            ctx.out.array(2);
            ctx.out.count(rank);
            ctx.out.double(score);
        }
        (Some((rank, _)), false) => ctx.out.count(rank),
        (None, true) => ctx.out.null_array(),
        (None, false) => ctx.out.null(),
    }
    Ok(())
}

pub fn zrandmember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let draw = (args.len() > 2).then(|| read_draw(args)).transpose()?;
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    let mut random = ctx.random();
    let store = &ctx.engine.store;
    let zset = found.map(|found| zset_at(store, found)).transpose()?;
    let (Some(zset), true) = (zset, zset.is_some_and(|zset| !zset.is_empty())) else {
        if draw.is_some() {
            ctx.out.array(0)
        } else {
            ctx.out.null()
        }
        return Ok(());
    };
    let with_scores = args.len() == 4;
    let len = zset.len();
    let ranks = match draw {
        None => {
            let rank = random.below(len);
            let member = zset.entries(&store.arena, rank..rank + 1, false).next();
            ctx.out.bulk_or_null(member.map(|(member, _)| member));
            return Ok(());
        }
        // All of them: from the last to the first, as Redis walks.
        Some(Draw::Different(count)) if count >= len => {
            reply_entries(ctx.out, zset.entries(&store.arena, 0..len, true), with_scores);
            return Ok(());
        }
        Some(Draw::Different(count)) => distinct_ranks(&mut random, count, len),
        Some(Draw::Repeated(count)) => (0..count).map(|_| random.below(len) as u32).collect(),
    };
    let pairs = with_scores && ctx.out.resp3();
    let start = ctx.out.len();
    ctx.out.array(if with_scores && !pairs { ranks.len() * 2 } else { ranks.len() });
    for rank in ranks {
        check_draw(ctx.out, start)?;
        let rank = rank as usize;
        for (member, score) in zset.entries(&store.arena, rank..rank + 1, false) {
            if pairs {
                ctx.out.array(2);
            }
            ctx.out.bulk(member);
            if with_scores {
                ctx.out.double(score);
            }
        }
    }
    Ok(())
}

/// The count of ZRANDMEMBER and the option behind it.
fn read_draw(args: &Args<'_>) -> Result<Draw, Fault> {
    let count = args.integer(2)?;
    if count == i64::MIN {
        return Draw::read(args, 2);
    }
    if args.len() > 4 || (args.len() == 4 && !args.is(3, "WITHSCORES")) {
        return Err(Fault::SYNTAX);
    }
    if args.len() == 4 && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Fault::OUT_OF_RANGE);
    }
    Draw::read(args, 2)
}

/// So many different ranks below `len`, any choice as likely as any other.
fn distinct_ranks(random: &mut Random, wanted: usize, len: usize) -> Vec<u32> {
    if wanted > len / 3 {
        let mut all: Vec<u32> = (0..len as u32).collect();
        for at in 0..wanted {
            let other = at + random.below(len - at);
            all.swap(at, other);
        }
        all.truncate(wanted);
        return all;
    }
    let mut seen = HashSet::with_capacity(wanted);
    let mut ranks = Vec::with_capacity(wanted);
    while ranks.len() < wanted {
        let rank = random.below(len) as u32;
        if seen.insert(rank) {
            ranks.push(rank);
        }
    }
    ranks
}

pub fn zscan(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let cursor = parse_cursor(args.at(2))?;
    let Some(found) = ctx.read(args.at(1), Kind::SortedSet)? else {
        scan_nothing(ctx.out);
        return Ok(());
    };
    let options = scan_options(args, 3, "zscan")?;
    let store = &ctx.engine.store;
    let zset = zset_at(store, found)?;
    let flat = zset.encoding() == "listpack";
    let mut text = Vec::with_capacity(32);
    scan(ctx.out, cursor, &options, |at, hits| {
        zset.scan(&store.arena, &store.seed, at, |member, score| {
            text.clear();
            // What Redis keeps flat it keeps as an integer where it can, and so it shows it here.
            let whole = score as i64;
            if flat && whole as f64 == score && score.abs() <= (i64::MAX / 2) as f64 {
                text.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
            } else {
                write_f64(&mut text, score);
            }
            hits.add(member, Some(&text));
        })
    });
    Ok(())
}
