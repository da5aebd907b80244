//! Sorted sets: the rows of the family, and what its commands share.
//!
//! [`change`] adds and removes, [`look`] answers about members, [`range`] reads in order,
//! [`pop`] takes from the ends and waits for that, [`combine`] unites, intersects and subtracts.

mod change;
mod combine;
mod look;
mod pop;
mod range;

pub(super) use change::zadd;
pub(super) use range::store_entries;

use super::fault::{Done, Fault};
use super::notify::{GENERIC, SORTED_SET};
use super::settings::Name;
use super::table::{
    Command, DELETE, Handler, LOOK, OVERWRITE, READ, READ_DELETE, READ_UPDATE, UPDATE, counted_keys, flag, key, keys,
};
use super::{Ctx, Engine};
use crate::resp::Reply;
use crate::resp::number::parse_f64;
use crate::store::zset::{Bound, Entries, Lex, Limits};
use crate::store::{Found, Kind, Object, Store, Zset};

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const GROWS_FAST: u32 = flag::WRITE | flag::DENYOOM | flag::FAST;
const GROWS: u32 = flag::WRITE | flag::DENYOOM;
const READ_MANY: u32 = flag::READONLY | flag::MOVABLE_KEYS;
const GROWS_FROM_MANY: u32 = GROWS | flag::MOVABLE_KEYS;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "sorted-set", since: "1.2.0", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds members, or changes their scores.",
        syntax: "key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
        keys: &[key(1, UPDATE)],
        ..row("zadd", change::zadd, -4, GROWS_FAST)
    },
    Command {
        summary: "Adds to the score of a member.",
        syntax: "key increment member",
        keys: &[key(1, READ_UPDATE)],
        ..row("zincrby", change::zincrby, 4, GROWS_FAST)
    },
    Command {
        summary: "Removes members.",
        syntax: "key member [member ...]",
        keys: &[key(1, DELETE)],
        ..row("zrem", change::zrem, -3, WRITE_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Removes the members of a range of ranks.",
        syntax: "key start stop",
        keys: &[key(1, DELETE)],
        ..row("zremrangebyrank", change::zremrangebyrank, 4, flag::WRITE)
    },
    Command {
        summary: "Removes the members of a range of scores.",
        syntax: "key min max",
        keys: &[key(1, DELETE)],
        ..row("zremrangebyscore", change::zremrangebyscore, 4, flag::WRITE)
    },
    Command {
        since: "2.8.9",
        summary: "Removes the members of a range of names.",
        syntax: "key min max",
        keys: &[key(1, DELETE)],
        ..row("zremrangebylex", change::zremrangebylex, 4, flag::WRITE)
    },
    Command {
        summary: "Answers how many members there are.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("zcard", look::zcard, 2, READ_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Answers how many members a range of scores has.",
        syntax: "key min max",
        keys: &[key(1, READ)],
        ..row("zcount", look::zcount, 4, READ_FAST)
    },
    Command {
        since: "2.8.9",
        summary: "Answers how many members a range of names has.",
        syntax: "key min max",
        keys: &[key(1, READ)],
        ..row("zlexcount", look::zlexcount, 4, READ_FAST)
    },
    Command {
        summary: "Answers the score of a member.",
        syntax: "key member",
        keys: &[key(1, READ)],
        ..row("zscore", look::zscore, 3, READ_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Answers the scores of several members.",
        syntax: "key member [member ...]",
        keys: &[key(1, READ)],
        ..row("zmscore", look::zmscore, -3, READ_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Answers how many members stand before one, from the lowest score up.",
        syntax: "key member [WITHSCORE]",
        keys: &[key(1, READ)],
        ..row("zrank", look::zrank, -3, READ_FAST)
    },
    Command {
        since: "2.0.0",
        summary: "Answers how many members stand before one, from the highest score down.",
        syntax: "key member [WITHSCORE]",
        keys: &[key(1, READ)],
        ..row("zrevrank", look::zrevrank, -3, READ_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Answers random members.",
        syntax: "key [count [WITHSCORES]]",
        keys: &[key(1, READ)],
        ..row("zrandmember", look::zrandmember, -2, flag::READONLY)
    },
    Command {
        since: "2.8.0",
        summary: "Goes through members and scores step by step.",
        syntax: "key cursor [MATCH pattern] [COUNT count]",
        keys: &[key(1, READ)],
        ..row("zscan", look::zscan, -3, flag::READONLY)
    },
    Command {
        summary: "Answers the members of a range of ranks, scores or names.",
        syntax: "key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
        keys: &[key(1, READ)],
        ..row("zrange", range::zrange, -4, flag::READONLY)
    },
    Command {
        summary: "Answers the members of a range of ranks, from the highest score down.",
        syntax: "key start stop [WITHSCORES]",
        keys: &[key(1, READ)],
        ..row("zrevrange", range::zrevrange, -4, flag::READONLY)
    },
    Command {
        since: "1.0.5",
        summary: "Answers the members of a range of scores.",
        syntax: "key min max [WITHSCORES] [LIMIT offset count]",
        keys: &[key(1, READ)],
        ..row("zrangebyscore", range::zrangebyscore, -4, flag::READONLY)
    },
    Command {
        since: "2.2.0",
        summary: "Answers the members of a range of scores, from the highest down.",
        syntax: "key max min [WITHSCORES] [LIMIT offset count]",
        keys: &[key(1, READ)],
        ..row("zrevrangebyscore", range::zrevrangebyscore, -4, flag::READONLY)
    },
    Command {
        since: "2.8.9",
        summary: "Answers the members of a range of names.",
        syntax: "key min max [LIMIT offset count]",
        keys: &[key(1, READ)],
        ..row("zrangebylex", range::zrangebylex, -4, flag::READONLY)
    },
    Command {
        since: "2.8.9",
        summary: "Answers the members of a range of names, from the last to the first.",
        syntax: "key max min [LIMIT offset count]",
        keys: &[key(1, READ)],
        ..row("zrevrangebylex", range::zrevrangebylex, -4, flag::READONLY)
    },
    Command {
        since: "6.2.0",
        summary: "Puts a range of one sorted set under another key.",
        syntax: "dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
        keys: &[key(1, OVERWRITE), key(2, READ)],
        ..row("zrangestore", range::zrangestore, -5, GROWS)
    },
    Command {
        since: "5.0.0",
        summary: "Takes out the members with the lowest scores.",
        syntax: "key [count]",
        keys: &[key(1, READ_DELETE)],
        ..row("zpopmin", pop::zpopmin, -2, WRITE_FAST)
    },
    Command {
        since: "5.0.0",
        summary: "Takes out the members with the highest scores.",
        syntax: "key [count]",
        keys: &[key(1, READ_DELETE)],
        ..row("zpopmax", pop::zpopmax, -2, WRITE_FAST)
    },
    Command {
        since: "5.0.0",
        summary: "Takes out the member with the lowest score, or waits until there is one.",
        syntax: "key [key ...] timeout",
        keys: &[keys(1, -2, 1, READ_DELETE)],
        ..row("bzpopmin", pop::bzpopmin, -3, WRITE_FAST | flag::NOSCRIPT | flag::BLOCKING)
    },
    Command {
        since: "5.0.0",
        summary: "Takes out the member with the highest score, or waits until there is one.",
        syntax: "key [key ...] timeout",
        keys: &[keys(1, -2, 1, READ_DELETE)],
        ..row("bzpopmax", pop::bzpopmax, -3, WRITE_FAST | flag::NOSCRIPT | flag::BLOCKING)
    },
    Command {
        since: "7.0.0",
        summary: "Takes members out of the first of several sorted sets that has some.",
        syntax: "numkeys key [key ...] <MIN | MAX> [COUNT count]",
        keys: &[counted_keys(1, READ_DELETE)],
        ..row("zmpop", pop::zmpop, -4, flag::WRITE | flag::MOVABLE_KEYS)
    },
    Command {
        since: "7.0.0",
        summary: "Takes members out of the first of several sorted sets that has some, or waits until one has.",
        syntax: "timeout numkeys key [key ...] <MIN | MAX> [COUNT count]",
        keys: &[counted_keys(2, READ_DELETE)],
        ..row("bzmpop", pop::bzmpop, -5, flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS)
    },
    Command {
        since: "6.2.0",
        summary: "Answers the members of any of several sorted sets.",
        syntax: "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
        keys: &[counted_keys(1, READ)],
        ..row("zunion", combine::zunion, -3, READ_MANY)
    },
    Command {
        since: "6.2.0",
        summary: "Answers the members that several sorted sets share.",
        syntax: "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
        keys: &[counted_keys(1, READ)],
        ..row("zinter", combine::zinter, -3, READ_MANY)
    },
    Command {
        since: "7.0.0",
        summary: "Answers how many members several sorted sets share.",
        syntax: "numkeys key [key ...] [LIMIT limit]",
        keys: &[counted_keys(1, READ)],
        ..row("zintercard", combine::zintercard, -3, READ_MANY)
    },
    Command {
        since: "6.2.0",
        summary: "Answers the members of the first sorted set that the others lack.",
        syntax: "numkeys key [key ...] [WITHSCORES]",
        keys: &[counted_keys(1, READ)],
        ..row("zdiff", combine::zdiff, -3, READ_MANY)
    },
    Command {
        since: "2.0.0",
        summary: "Puts the members of any of several sorted sets under a key.",
        syntax: "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
        keys: &[key(1, OVERWRITE), counted_keys(2, READ)],
        ..row("zunionstore", combine::zunionstore, -4, GROWS_FROM_MANY)
    },
    Command {
        since: "2.0.0",
        summary: "Puts the members that several sorted sets share under a key.",
        syntax: "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
        keys: &[key(1, OVERWRITE), counted_keys(2, READ)],
        ..row("zinterstore", combine::zinterstore, -4, GROWS_FROM_MANY)
    },
    Command {
        since: "6.2.0",
        summary: "Puts the members of the first sorted set that the others lack under a key.",
        syntax: "destination numkeys key [key ...]",
        keys: &[key(1, OVERWRITE), counted_keys(2, READ)],
        ..row("zdiffstore", combine::zdiffstore, -4, GROWS_FROM_MANY)
    },
];

/// Up to where a sorted set stays small.
#[inline]
pub fn limits(engine: &Engine) -> Limits {
    let settings = &engine.settings;
    Limits {
        entries: settings.size(Name::zset_max_listpack_entries),
        value: settings.size(Name::zset_max_listpack_value),
    }
}

/// The sorted set of a key that was found to hold one.
#[inline]
fn zset_at(store: &Store, found: Found) -> Result<&Zset, Fault> {
    match store.object(found) {
        Some(Object::SortedSet(zset)) => Ok(zset),
        _ => Err(Fault::WRONG_TYPE),
    }
}

/// Change the sorted set of a key that was found to hold one. `None` when its key is not there.
fn find_to_change(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<Option<Found>, Fault> {
    ctx.write(name, Kind::SortedSet)
}

/// Remove ranks of a sorted set, and the key with the last member; tells who listens.
fn remove_ranks(
    ctx: &mut Ctx<'_>,
    name: &[u8],
    found: Found,
    ranks: std::ops::Range<usize>,
    event: &'static str,
) -> Done {
    if ranks.is_empty() {
        return Ok(());
    }
    let Some((Object::SortedSet(zset), arena, seed)) = ctx.engine.store.object_mut(found) else {
        return Err(Fault::WRONG_TYPE);
    };
    let empty = ranks.len() >= zset.len();
    if !empty {
        zset.remove_range(arena, seed, ranks);
    }
    ctx.changed(name, SORTED_SET, event);
    if empty {
        // Nothing would be left: the whole goes at once, and a large one bit by bit.
        remove_key(ctx, name);
    }
    Ok(())
}

/// Remove a key that lost its last member; tells who listens.
fn remove_key(ctx: &mut Ctx<'_>, name: &[u8]) {
    ctx.remove(name);
    ctx.changed(name, GENERIC, "del");
}

/// Members with their scores, as ZRANGE and its like answer them.
fn reply_entries(out: &mut Reply, entries: Entries<'_>, with_scores: bool) {
    let count = entries.len();
    let pairs = with_scores && out.resp3();
    out.array(if with_scores && !pairs { count * 2 } else { count });
    for (member, score) in entries {
        if pairs {
            out.array(2);
        }
        out.bulk(member);
        if with_scores {
            out.double(score);
        }
    }
}

/// Two ranks as clients count them, negative ones from the end, as a range.
fn rank_range(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let start = if start < 0 { (start + len).max(0) } else { start };
    let stop = if stop < 0 { stop + len } else { stop }.min(len - 1);
    if start > stop { 0..0 } else { start as usize..stop as usize + 1 }
}

/// Both ends of a range of scores.
fn score_bounds(low: &[u8], high: &[u8]) -> Result<(Bound, Bound), Fault> {
    let bound = |text: &[u8]| {
        let (exclusive, number) = match text {
            [b'(', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        Some(Bound { score: loose_float(number)?, exclusive })
    };
    bound(low).zip(bound(high)).ok_or(Fault::new("ERR min or max is not a float"))
}

/// A number where Redis leaves reading it to the C library alone: nothing is zero, blanks may
/// stand before it, what is too large is infinite, and a zero byte ends it.
fn loose_float(text: &[u8]) -> Option<f64> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r');
    let text = &text[text.iter().position(|byte| !blank(byte))?..];
    parse_f64(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok()).filter(|number| !number.is_nan())
}

/// Both ends of a range of names.
fn lex_bounds<'a>(low: &'a [u8], high: &'a [u8]) -> Result<(Lex<'a>, Lex<'a>), Fault> {
    let bound = |text: &'a [u8]| match text {
        [b'-'] | [b'-', 0, ..] => Some(Lex::Least),
        [b'+'] | [b'+', 0, ..] => Some(Lex::Most),
        [b'[', rest @ ..] => Some(Lex::Including(rest)),
        [b'(', rest @ ..] => Some(Lex::Excluding(rest)),
        _ => None,
    };
    bound(low).zip(bound(high)).ok_or(Fault::new("ERR min or max not valid string range item"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;

    #[test]
    fn members_are_added_ranked_and_removed() {
        Node::new().expect(&[
            ("ZADD z 1 a 2 b 3 c", ":3"),
            ("ZADD z CH GT 5 a 1 b 4 d", ":2"),
            ("ZADD z NX INCR 1 a", "$-1"),
            ("ZADD z XX INCR 1 a", "$1 6"),
            ("ZADD z NX GT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible"),
            ("ZADD z 1 a x b", "-ERR value is not a valid float"),
            ("ZRANGE z 0 -1 WITHSCORES", "*8 $1 b $1 2 $1 c $1 3 $1 d $1 4 $1 a $1 6"),
            ("ZRANGE z (2 +inf BYSCORE LIMIT 1 1", "*1 $1 d"),
            ("ZREVRANGEBYSCORE z 4 3", "*2 $1 d $1 c"),
            ("ZRANK z a WITHSCORE", "*2 :3 $1 6"),
            ("ZREVRANK z nobody", "$-1"),
            ("ZRANK z a NOSCORE", "-ERR wrong number of arguments for 'zrank' command"),
            ("ZREM z a b nobody", ":2"),
            ("ZREMRANGEBYSCORE z -inf 3", ":1"),
            ("ZPOPMAX z", "*2 $1 d $1 4"),
            ("TYPE z", "+none"),
        ]);
    }

    #[test]
    fn infinities_of_opposite_signs_are_refused_and_nothing_changes() {
        Node::new().expect(&[
            ("ZADD z inf a", ":1"),
            ("ZINCRBY z -inf a", "-ERR resulting score is not a number (NaN)"),
            ("ZSCORE z a", "$3 inf"),
            ("ZADD z nan a", "-ERR value is not a valid float"),
        ]);
    }

    #[test]
    fn sets_are_united_intersected_and_subtracted() {
        Node::new().expect(&[
            ("ZADD one 1 a 2 b 3 c", ":3"),
            ("ZADD two 10 b 20 c 30 d", ":3"),
            ("ZUNION 2 one two WEIGHTS 2 1 AGGREGATE MAX WITHSCORES", "*8 $1 a $1 2 $1 b $2 10 $1 c $2 20 $1 d $2 30"),
            ("ZINTERSTORE out 2 one two", ":2"),
            ("ZRANGE out 0 -1 WITHSCORES", "*4 $1 b $2 12 $1 c $2 23"),
            ("ZDIFF 2 one two", "*1 $1 a"),
            ("ZINTERCARD 2 one two LIMIT 1", ":1"),
            ("ZDIFFSTORE out 2 one one", ":0"),
            ("TYPE out", "+none"),
            ("ZUNION 0 one", "-ERR at least 1 input key is needed for 'zunion' command"),
        ]);
    }

    #[test]
    fn who_waits_gets_the_lowest_member_once_there_is_one() {
        let mut node = Node::new();
        let (waiting, late) = (node.connect(), node.connect());
        assert_eq!(node.ask_as(waiting, &["BZPOPMIN", "other", "z", "0"]), "");
        assert_eq!(node.ask_as(late, &["BZMPOP", "0.5", "1", "z", "MAX"]), "");
        node.expect(&[("SET other text", "+OK"), ("ZADD z 2 b 1 a", ":2")]);
        assert_eq!(node.heard(waiting), "*3 $1 z $1 a $1 1");
        assert_eq!(node.heard(late), "*2 $1 z *1 *2 $1 b $1 2");
        assert_eq!(node.line("EXISTS z"), ":0");
        assert_eq!(node.ask_as(late, &["BZPOPMAX", "z", "0.5"]), "");
        node.pass(600);
        assert_eq!(node.heard(late), "*-1");
    }

    #[test]
    fn results_stored_over_and_over_do_not_pile_up() {
        let mut node = Node::new();
        for number in 0..2000 {
            node.line(&format!("ZADD z {number} member:{number}"));
        }
        for _ in 0..100 {
            assert_eq!(node.line("ZUNIONSTORE out 1 z"), ":2000");
        }
        // No upkeep ran meanwhile: who stores anew frees what it replaces.
        assert!(node.engine.store.condemned() <= 2);
        assert!(node.engine.store.arena.reserved() <= 2 << 20);
    }

    #[test]
    fn a_large_set_is_scanned_whole_and_sampled_without_repetition() {
        let mut node = Node::new();
        for number in 0..1000 {
            node.line(&format!("ZADD z {number} member:{number}"));
        }
        let (mut cursor, mut seen) = ("0".to_owned(), std::collections::HashSet::new());
        loop {
            let reply = node.line(&format!("ZSCAN z {cursor} COUNT 50"));
            let words: Vec<&str> = reply.split(' ').collect();
            seen.extend(words.iter().filter(|word| word.starts_with("member:")).map(|word| word.to_string()));
            cursor = words[2].to_owned();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 1000);
        for count in [10, 900] {
            let reply = node.line(&format!("ZRANDMEMBER z {count}"));
            let members: std::collections::HashSet<&str> = reply.split(' ').filter(|word| word.len() > 4).collect();
            assert_eq!(members.len(), count);
        }
        assert!(node.line("ZRANDMEMBER z -1500 WITHSCORES").starts_with("*3000 "));
        assert_eq!(node.line("ZRANDMEMBER z -9000000000000"), "-ERR value is out of range");
    }

    #[test]
    fn ends_of_ranges_are_read_as_loosely_as_redis_does() {
        for (text, number) in [
            (&b""[..], Some(0.0)),
            (b" 1", Some(1.0)),
            (b"\t-2.5", Some(-2.5)),
            (b" ", None),
            (b"1 ", None),
            (b"1e999", Some(f64::INFINITY)),
            (b"-inf", Some(f64::NEG_INFINITY)),
            (b"nan", None),
            (b"5\0junk", Some(5.0)),
            (b"0x10", Some(16.0)),
            (b"one", None),
        ] {
            assert_eq!(loose_float(text), number, "{text:?}");
        }
    }

    #[test]
    fn ranks_count_from_either_end() {
        assert_eq!(rank_range(0, -1, 5), 0..5);
        assert_eq!(rank_range(-2, -1, 5), 3..5);
        assert_eq!(rank_range(-100, 1, 5), 0..2);
        assert_eq!(rank_range(3, 100, 5), 3..5);
        assert!(rank_range(5, 100, 5).is_empty());
        assert!(rank_range(2, 1, 5).is_empty());
        assert!(rank_range(0, -9, 5).is_empty());
    }
}
