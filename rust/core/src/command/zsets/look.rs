//! Answers about members: scores, ranks, counts, samples, scans.

use super::{lex_bounds, reply_entries, score_bounds, zset_at};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::keys::{glob, parse_cursor, scan_options};
use crate::resp::Args;
use crate::resp::number::{parse_i64, write_f64};
use crate::store::random::Random;
use crate::store::{Kind, Zset};
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
        _ => return Err(Fault::SYNTAX),
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

/// A sample with repetitions may not be longer: nobody needs it, and one short request must not fill memory.
const LONGEST_SAMPLE: usize = 1 << 24;

pub fn zrandmember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = match args.get(2) {
        Some(text) => Some(sample_count(text, args)?),
        None => None,
    };
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    let len = found.map_or(Ok(0), |found| zset_at(&ctx.engine.store, found).map(Zset::len))?;
    let (Some(found), true) = (found, len > 0) else {
        if count.is_some() {
            ctx.out.array(0)
        } else {
            ctx.out.null()
        }
        return Ok(());
    };
    let Some(count) = count else {
        let rank = ctx.engine.store.random.below(len);
        let store = &ctx.engine.store;
        let member = zset_at(store, found)?.entries(&store.arena, rank..rank + 1, false).next();
        ctx.out.bulk_or_null(member.map(|(member, _)| member));
        return Ok(());
    };
    let with_scores = args.len() == 4;
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count >= 0 && wanted >= len {
        let store = &ctx.engine.store;
        // All of them: from the last to the first, as Redis walks.
        reply_entries(ctx.out, zset_at(store, found)?.entries(&store.arena, 0..len, true), with_scores);
        return Ok(());
    }
    let ranks = if count >= 0 {
        distinct_ranks(&mut ctx.engine.store.random, wanted, len)
    } else if wanted <= LONGEST_SAMPLE {
        (0..wanted).map(|_| ctx.engine.store.random.below(len) as u32).collect()
    } else {
        return Err(Fault::OUT_OF_RANGE);
    };
    let store = &ctx.engine.store;
    let zset = zset_at(store, found)?;
    let pairs = with_scores && ctx.out.resp3();
    ctx.out.array(if with_scores && !pairs { ranks.len() * 2 } else { ranks.len() });
    for rank in ranks {
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

/// The count of ZRANDMEMBER, after a look at the option behind it.
fn sample_count(text: &[u8], args: &Args<'_>) -> Result<i64, Fault> {
    let count = parse_i64(text).ok_or(Fault::NOT_INTEGER)?;
    if count == i64::MIN {
        return Err(Fault::new(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        )));
    }
    if args.len() > 4 || (args.len() == 4 && !args.is(3, "WITHSCORES")) {
        return Err(Fault::SYNTAX);
    }
    if args.len() == 4 && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Fault::OUT_OF_RANGE);
    }
    Ok(count)
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
        ctx.out.array(2);
        ctx.out.bulk(b"0");
        ctx.out.array(0);
        return Ok(());
    };
    let options = scan_options(args, 3, "zscan")?;
    let store = &ctx.engine.store;
    let zset = zset_at(store, found)?;
    let flat = zset.encoding() == "listpack";
    let mut hits: Vec<(Vec<u8>, f64)> = Vec::new();
    let mut visited = 0;
    let mut rounds = 0;
    // A cursor that was never given out is as good as one at the end.
    let mut next = u32::try_from(cursor).ok();
    while let Some(at) = next {
        next = zset.scan(&store.arena, &store.seed, at, |member, score| {
            visited += 1;
            if options.pattern.is_none_or(|pattern| glob(pattern, member, false)) {
                hits.push((member.to_vec(), score));
            }
        });
        rounds += 1;
        if visited >= options.count || rounds >= options.count.saturating_mul(10) {
            break;
        }
    }
    ctx.out.array(2);
    ctx.out.bulk_integer(i64::from(next.unwrap_or(0)));
    ctx.out.array(hits.len() * 2);
    let mut text = Vec::with_capacity(32);
    for (member, score) in hits {
        ctx.out.bulk(&member);
        text.clear();
        // What Redis keeps flat it keeps as an integer where it can, and so it shows it here.
        let whole = score as i64;
        if flat && whole as f64 == score && score.abs() <= (i64::MAX / 2) as f64 {
            ctx.out.bulk_integer(whole);
        } else {
            write_f64(&mut text, score);
            ctx.out.bulk(&text);
        }
    }
    Ok(())
}
