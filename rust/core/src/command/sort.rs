//! SORT and SORT_RO: the elements of a list, set or sorted set in order, of themselves or of other keys.

use super::fault::{Done, Fault};
use super::notify::LIST;
use super::table::{Begin, Command, Find, KeySpec, OVERWRITE, READ, flag, key};
use super::{Ctx, acl};
use crate::resp::Args;
use crate::resp::number::parse_f64;
use crate::store::list::{End, List};
use crate::store::{Kind, Object};
use std::cmp::Ordering;

const ELSEWHERE: KeySpec = KeySpec { uses: READ, begin: Begin::Unknown, find: Find::Unknown };
const RESULT: KeySpec = KeySpec { uses: OVERWRITE, begin: Begin::Unknown, find: Find::Unknown };
const FLAGS: u32 = flag::MOVABLE_KEYS | flag::DANGEROUS | flag::SORTABLE;

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "generic",
        summary: "Answers or stores the elements of a list, set or sorted set in order.",
        syntax: "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] \
                 [STORE destination]",
        keys: &[key(1, READ), ELSEWHERE, RESULT],
        ..Command::new("sort", sort, -2, flag::WRITE | flag::DENYOOM | FLAGS)
    },
    Command {
        group: "generic",
        since: "7.0.0",
        summary: "Answers the elements of a list, set or sorted set in order.",
        syntax: "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]",
        keys: &[key(1, READ), ELSEWHERE],
        ..Command::new("sort_ro", sort, -2, flag::READONLY | FLAGS)
    },
];

/// What was asked for.
#[derive(Default)]
struct Options<'a> {
    by: Option<&'a [u8]>,
    /// BY a pattern without a star: the order is left as it is.
    unsorted: bool,
    gets: Vec<&'a [u8]>,
    limit: Option<(i64, i64)>,
    descending: bool,
    alpha: bool,
    store: Option<&'a [u8]>,
}

/// `follows`: the client may read whatever keys BY and GET lead to.
fn options<'a>(args: &Args<'a>, may_store: bool, follows: bool) -> Result<Options<'a>, Fault> {
    let mut options = Options::default();
    let mut at = 2;
    while at < args.len() {
        let left = args.len() - at - 1;
        if args.is(at, "ASC") {
            options.descending = false;
        } else if args.is(at, "DESC") {
            options.descending = true;
        } else if args.is(at, "ALPHA") {
            options.alpha = true;
        } else if args.is(at, "LIMIT") && left >= 2 {
            options.limit = Some((args.integer(at + 1)?, args.integer(at + 2)?));
            at += 2;
        } else if may_store && args.is(at, "STORE") && left >= 1 {
            options.store = Some(args.at(at + 1));
            at += 1;
        } else if args.is(at, "BY") && left >= 1 {
            let pattern = args.at(at + 1);
            if pattern.contains(&b'*') && !follows {
                return Err(Fault::of("ERR BY option of SORT denied due to insufficient ACL permissions."));
            }
            options.unsorted |= !pattern.contains(&b'*'); // Said once, it holds, whatever other BY follows.
            options.by = Some(pattern);
            at += 1;
        } else if args.is(at, "GET") && left >= 1 {
            if !follows {
                return Err(Fault::of("ERR GET option of SORT denied due to insufficient ACL permissions."));
            }
            options.gets.push(args.at(at + 1));
            at += 1;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    Ok(options)
}

fn sort(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut options = options(args, ctx.command.is(flag::WRITE), acl::reads_all_keys(ctx))?;
    let elements = load(ctx, args.at(1), &mut options)?;
    let len = elements.len() as i64;
    let (start, count) = options.limit.unwrap_or((0, -1));
    let start = start.clamp(0, len);
    let end = if count < 0 { len } else { start.saturating_add(count).min(len) };
    let wanted = start as usize..end as usize;
    let sorted = if options.unsorted { elements } else { in_order(ctx, elements, &options)? };
    let chosen = &sorted[wanted];
    let Some(destination) = options.store else {
        ctx.out.array(chosen.len() * options.gets.len().max(1));
        for element in chosen {
            if options.gets.is_empty() {
                ctx.out.bulk(element);
            }
            for pattern in &options.gets {
                let value = by_pattern(ctx, pattern, element);
                ctx.out.bulk_or_null(value.as_deref());
            }
        }
        return Ok(());
    };
    let mut list = List::new();
    for element in chosen {
        if options.gets.is_empty() {
            list.push(End::Back, element);
        }
        for pattern in &options.gets {
            list.push(End::Back, &by_pattern(ctx, pattern, element).unwrap_or_default());
        }
    }
    let len = list.len();
    ctx.store_result(destination, (len > 0).then_some(Object::List(list)), LIST, "sortstore")?;
    ctx.out.count(len);
    Ok(())
}

/// The elements in the order in which they lie. May switch sorting on for what has no order of its own.
fn load(ctx: &mut Ctx<'_>, name: &[u8], options: &mut Options<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let Some(found) = ctx.read_any(name) else {
        return Ok(Vec::new());
    };
    let store = &ctx.engine.store;
    Ok(match store.object(found) {
        Some(Object::List(list)) => {
            let mut elements: Vec<Vec<u8>> = list.forward(0).map(<[u8]>::to_vec).collect();
            if options.unsorted && options.descending {
                elements.reverse();
            }
            elements
        }
        Some(Object::Set(set)) => {
            if options.unsorted && options.store.is_some() {
                // What is stored must not hang on the order in which a set happens to lie.
                (options.unsorted, options.alpha, options.by) = (false, true, None);
            }
            set.iter(&store.arena).map(|member| member.to_vec()).collect()
        }
        Some(Object::SortedSet(zset)) => {
            let backward = options.unsorted && options.descending;
            zset.entries(&store.arena, 0..zset.len(), backward).map(|(member, _)| member.to_vec()).collect()
        }
        _ => return Err(Fault::WRONG_TYPE),
    })
}

/// What an element is sorted by.
enum Weight {
    Number(f64),
    Text(Option<Vec<u8>>),
}

fn in_order(ctx: &mut Ctx<'_>, elements: Vec<Vec<u8>>, options: &Options<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut weighed = Vec::with_capacity(elements.len());
    for element in elements {
        let text = match options.by {
            Some(pattern) => by_pattern(ctx, pattern, &element),
            None => Some(element.clone()),
        };
        let weight = if options.alpha {
            Weight::Text(text)
        } else {
            let number = text.map_or(Some(0.0), |text| number_of(&text));
            Weight::Number(number.ok_or_else(|| Fault::new("ERR One or more scores can't be converted into double"))?)
        };
        weighed.push((weight, element));
    }
    weighed.sort_by(|(one, first), (other, second)| {
        let order = match (one, other) {
            // Equal numbers are ordered by the elements, so that the result is always the same.
            (Weight::Number(one), Weight::Number(other)) => {
                one.partial_cmp(other).unwrap_or(Ordering::Equal).then_with(|| first.cmp(second))
            }
            (Weight::Text(one), Weight::Text(other)) => one.cmp(other),
            _ => Ordering::Equal,
        };
        if options.descending { order.reverse() } else { order }
    });
    Ok(weighed.into_iter().map(|(_, element)| element).collect())
}

/// A number as the C library reads one: blanks in front are skipped, nothing may follow; nothing at all is zero.
fn number_of(text: &[u8]) -> Option<f64> {
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
    if text.is_empty() { Some(0.0) } else { parse_f64(&text[start..]) }
}

/// The value at the key that a pattern means for an element: `weight_*`, `object_*->field`, or `#` for the element.
fn by_pattern(ctx: &mut Ctx<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|&byte| byte == b'*')?;
    let arrow = pattern[star + 1..].windows(2).position(|pair| pair == b"->").map(|at| star + 1 + at);
    let arrow = arrow.filter(|at| at + 2 < pattern.len()); // `->` at the very end belongs to the name.
    let name = [&pattern[..star], element, &pattern[star + 1..arrow.unwrap_or(pattern.len())]].concat();
    let Some(arrow) = arrow else {
        let found = ctx.read(&name, Kind::String).ok()??;
        return Some(ctx.engine.store.text(found).to_vec());
    };
    let found = ctx.read(&name, Kind::Hash).ok()??;
    let store = &ctx.engine.store;
    match store.object(found) {
        Some(Object::Hash(hash)) => hash.get(&store.arena, &store.seed, &pattern[arrow + 2..]).map(<[u8]>::to_vec),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn elements_are_ordered_by_themselves_or_by_other_keys() {
        let mut node = Node::new();
        node.expect(&[
            ("SADD s 3 1 2 10", ":4"),
            ("SORT s", "*4 $1 1 $1 2 $1 3 $2 10"),
            ("SORT s DESC LIMIT 1 2", "*2 $1 3 $1 2"),
            ("SORT s ALPHA", "*4 $1 1 $2 10 $1 2 $1 3"),
            ("MSET w_1 4 w_2 3 w_3 2 w_10 1", "+OK"),
            ("SORT s BY w_*", "*4 $2 10 $1 3 $1 2 $1 1"),
            ("HSET h_1 f one", ":1"),
            ("SORT s GET # GET h_*->f LIMIT 0 2", "*4 $1 1 $3 one $1 2 $-1"),
            ("SORT s BY w_* STORE d", ":4"),
            ("SORT_RO d BY nosort", "*4 $2 10 $1 3 $1 2 $1 1"),
            ("SORT_RO s STORE d", "-ERR syntax error"),
            ("SORT none STORE d", ":0"),
            ("EXISTS d", ":0"),
            ("ZADD z 1 b 2 a", ":2"),
            ("SORT z", "-ERR One or more scores can't be converted into double"),
            ("SORT z ALPHA", "*2 $1 a $1 b"),
            ("SORT z BY nosort DESC", "*2 $1 a $1 b"),
            ("SORT z BY nosort", "*2 $1 b $1 a"),
            ("SET t v", "+OK"),
            ("SORT t", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("SORT s LIMIT 1", "-ERR syntax error"),
            ("COMMAND GETKEYS SORT a STORE b", "*2 $1 a $1 b"),
        ]);
    }
}
