//! Hashes.

use super::fault::{Done, Fault};
use super::keys::{parse_cursor, scan_options};
use super::members::{Draw, check_draw, scan, scan_nothing};
use super::notify::{GENERIC, HASH};
use super::settings::Name;
use super::table::{Command, DELETE, Handler, INSERT, LOOK, READ, READ_UPDATE, UPDATE, flag, key};
use super::{Ctx, Engine};
use crate::resp::longdouble::LongDouble;
use crate::resp::number::parse_i64;
use crate::resp::{Args, Reply};
use crate::store::arena::Arena;
use crate::store::collections::HashValue;
use crate::store::collections::hash::Limits;
use crate::store::hash::Seed;
use crate::store::{Found, Kind, Object, Store};

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::DENYOOM | flag::FAST;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "hash", since: "2.0.0", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Sets fields of a hash; answers how many are new.",
        syntax: "key field value [field value ...]",
        keys: &[key(1, UPDATE)],
        ..row("hset", hset, -4, WRITE_FAST)
    },
    Command {
        summary: "Sets a field of a hash unless it is there.",
        syntax: "key field value",
        keys: &[key(1, INSERT)],
        ..row("hsetnx", hsetnx, 4, WRITE_FAST)
    },
    Command {
        summary: "Sets fields of a hash.",
        syntax: "key field value [field value ...]",
        keys: &[key(1, UPDATE)],
        ..row("hmset", hmset, -4, WRITE_FAST)
    },
    Command {
        summary: "Answers the value of a field.",
        syntax: "key field",
        keys: &[key(1, READ)],
        ..row("hget", hget, 3, READ_FAST)
    },
    Command {
        summary: "Answers the values of several fields.",
        syntax: "key field [field ...]",
        keys: &[key(1, READ)],
        ..row("hmget", hmget, -3, READ_FAST)
    },
    Command {
        summary: "Answers all fields and their values.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("hgetall", hgetall, 2, flag::READONLY)
    },
    Command {
        summary: "Answers all fields.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("hkeys", hkeys, 2, flag::READONLY)
    },
    Command {
        summary: "Answers the values of all fields.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("hvals", hvals, 2, flag::READONLY)
    },
    Command {
        summary: "Answers how many fields a hash has.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("hlen", hlen, 2, READ_FAST)
    },
    Command {
        since: "3.2.0",
        summary: "Answers the length of a field's value.",
        syntax: "key field",
        keys: &[key(1, LOOK)],
        ..row("hstrlen", hstrlen, 3, READ_FAST)
    },
    Command {
        summary: "Removes fields, and the hash with the last one; answers how many there were.",
        syntax: "key field [field ...]",
        keys: &[key(1, DELETE)],
        ..row("hdel", hdel, -3, flag::WRITE | flag::FAST)
    },
    Command {
        summary: "Tells whether a hash has a field.",
        syntax: "key field",
        keys: &[key(1, LOOK)],
        ..row("hexists", hexists, 3, READ_FAST)
    },
    Command {
        summary: "Adds to the whole number in a field.",
        syntax: "key field increment",
        keys: &[key(1, READ_UPDATE)],
        ..row("hincrby", hincrby, 4, WRITE_FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Adds to the number in a field.",
        syntax: "key field increment",
        keys: &[key(1, READ_UPDATE)],
        ..row("hincrbyfloat", hincrbyfloat, 4, WRITE_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Answers fields chosen at random.",
        syntax: "key [count [WITHVALUES]]",
        keys: &[key(1, READ)],
        ..row("hrandfield", hrandfield, -2, flag::READONLY)
    },
    Command {
        since: "2.8.0",
        summary: "Walks through the fields of a hash, some at a time.",
        syntax: "key cursor [MATCH pattern] [COUNT count] [NOVALUES]",
        keys: &[key(1, READ)],
        ..row("hscan", hscan, -3, flag::READONLY)
    },
];

/// How large a hash may be and still be kept flat.
pub fn limits(engine: &Engine) -> Limits {
    Limits {
        entries: engine.settings.size(Name::hash_max_listpack_entries),
        value: engine.settings.size(Name::hash_max_listpack_value),
    }
}

#[inline]
fn hash_of(store: &Store, found: Found) -> Result<&HashValue, Fault> {
    match store.object(found) {
        Some(Object::Hash(hash)) => Ok(hash),
        _ => Err(Fault::WRONG_TYPE),
    }
}

#[inline]
fn hash_mut(store: &mut Store, found: Found) -> Result<(&mut HashValue, &mut Arena, &Seed), Fault> {
    match store.object_mut(found) {
        Some((Object::Hash(hash), arena, seed)) => Ok((hash, arena, seed)),
        _ => Err(Fault::WRONG_TYPE),
    }
}

/// Set the pairs from the second argument on; returns how many fields are new.
#[inline]
fn set_pairs(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Result<usize, Fault> {
    if !args.len().is_multiple_of(2) {
        return Err(Fault::arity(ctx.command.name));
    }
    let limits = limits(ctx.engine);
    let found = ctx.write_or_create(args.at(1), Kind::Hash, || Object::Hash(HashValue::new()))?;
    let (hash, arena, seed) = hash_mut(&mut ctx.engine.store, found)?;
    let mut created = 0;
    for at in (2..args.len()).step_by(2) {
        match hash.set(arena, seed, limits, args.at(at), args.at(at + 1)) {
            Ok(new) => created += usize::from(new),
            Err(full) => return refuse(ctx, args.at(1), found, full.into()),
        }
    }
    ctx.changed(args.at(1), HASH, "hset");
    Ok(created)
}

/// There was no room for a field: what was set so far stays, but an empty hash does not.
#[cold]
fn refuse<T>(ctx: &mut Ctx<'_>, key: &[u8], found: Found, fault: Fault) -> Result<T, Fault> {
    if hash_of(&ctx.engine.store, found)?.is_empty() {
        ctx.engine.store.remove(found);
    } else {
        ctx.changed(key, HASH, "hset");
    }
    Err(fault)
}

fn hset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let created = set_pairs(ctx, args)?;
    ctx.out.count(created);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    set_pairs(ctx, args)?;
    ctx.out.ok();
    Ok(())
}

fn hsetnx(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let limits = limits(ctx.engine);
    let found = ctx.write_or_create(args.at(1), Kind::Hash, || Object::Hash(HashValue::new()))?;
    let (hash, arena, seed) = hash_mut(&mut ctx.engine.store, found)?;
    match hash.set_if_absent(arena, seed, limits, args.at(2), args.at(3)) {
        Ok(true) => {
            ctx.out.integer(1);
            ctx.changed(args.at(1), HASH, "hset");
        }
        Ok(false) => ctx.out.integer(0),
        Err(full) => return refuse(ctx, args.at(1), found, full.into()),
    }
    Ok(())
}

fn hget(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else {
        ctx.out.null();
        return Ok(());
    };
    let store = &ctx.engine.store;
    ctx.out.bulk_or_null(hash_of(store, found)?.get(&store.arena, &store.seed, args.at(2)));
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Hash)?;
    let store = &ctx.engine.store;
    let hash = found.map(|found| hash_of(store, found)).transpose()?;
    ctx.out.array(args.len() - 2);
    for field in args.from(2) {
        ctx.out.bulk_or_null(hash.and_then(|hash| hash.get(&store.arena, &store.seed, field)));
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else {
        ctx.out.map(0);
        return Ok(());
    };
    let store = &ctx.engine.store;
    let hash = hash_of(store, found)?;
    ctx.out.map(hash.len());
    hash.iter(&store.arena).for_each(|(field, value)| {
        ctx.out.bulk(field);
        ctx.out.bulk(value);
    });
    Ok(())
}

fn hkeys(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    one_side(ctx, args, |field, _| field)
}

fn hvals(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    one_side(ctx, args, |_, value| value)
}

fn one_side(ctx: &mut Ctx<'_>, args: &Args<'_>, side: for<'a> fn(&'a [u8], &'a [u8]) -> &'a [u8]) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let store = &ctx.engine.store;
    let hash = hash_of(store, found)?;
    ctx.out.array(hash.len());
    hash.iter(&store.arena).for_each(|(field, value)| ctx.out.bulk(side(field, value)));
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Hash)?;
    let len = found.map(|found| hash_of(&ctx.engine.store, found)).transpose()?.map_or(0, HashValue::len);
    ctx.out.count(len);
    Ok(())
}

/// The length of a field's value, when there is such a field.
fn value_len(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Result<Option<usize>, Fault> {
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else { return Ok(None) };
    let store = &ctx.engine.store;
    Ok(hash_of(store, found)?.get(&store.arena, &store.seed, args.at(2)).map(<[u8]>::len))
}

fn hstrlen(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let len = value_len(ctx, args)?.unwrap_or(0);
    ctx.out.count(len);
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let there = value_len(ctx, args)?.is_some();
    ctx.out.count(usize::from(there));
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.write(args.at(1), Kind::Hash)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let (hash, arena, seed) = hash_mut(&mut ctx.engine.store, found)?;
    let removed = args.from(2).filter(|field| hash.remove(arena, seed, field)).count();
    let emptied = hash.is_empty();
    if removed > 0 {
        ctx.changed(args.at(1), HASH, "hdel");
    }
    if emptied {
        ctx.engine.store.remove(found);
        ctx.changed(args.at(1), GENERIC, "del");
    }
    ctx.out.count(removed);
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let increment = args.integer(3)?;
    let sum = change_number(ctx, args, "hincrby", |old| {
        let old = old.map_or(Some(0), parse_i64).ok_or(Fault::new("ERR hash value is not an integer"))?;
        let sum = old.checked_add(increment).ok_or(Fault::OVERFLOW)?;
        Ok((itoa::Buffer::new().format(sum).as_bytes().into(), sum))
    })?;
    ctx.out.integer(sum);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let increment = LongDouble::parse(args.at(3)).ok_or(Fault::NOT_FLOAT)?;
    if !increment.is_finite() {
        return Err(Fault::new("ERR value is NaN or Infinity"));
    }
    let text = change_number(ctx, args, "hincrbyfloat", |old| {
        let old = old.map_or(Some(LongDouble::ZERO), LongDouble::parse);
        let old = old.ok_or(Fault::new("ERR hash value is not a float"))?;
        let text = old.plus(increment).ok_or(Fault::NAN_RESULT)?.text();
        Ok((text.as_slice().into(), text))
    })?;
    ctx.out.bulk(&text);
    Ok(())
}

/// A number's digits; short ones without an allocation.
type Digits = smallvec::SmallVec<[u8; 24]>;

/// Put the number that `next` makes of a field's value in its place; also returns what else `next` does.
fn change_number<T>(
    ctx: &mut Ctx<'_>,
    args: &Args<'_>,
    event: &'static str,
    next: impl FnOnce(Option<&[u8]>) -> Result<(Digits, T), Fault>,
) -> Result<T, Fault> {
    let limits = limits(ctx.engine);
    let found = ctx.write_or_create(args.at(1), Kind::Hash, || Object::Hash(HashValue::new()))?;
    let (hash, arena, seed) = hash_mut(&mut ctx.engine.store, found)?;
    let (digits, result) = match next(hash.get(arena, seed, args.at(2))) {
        Ok(next) => next,
        Err(fault) if hash.is_empty() => return refuse(ctx, args.at(1), found, fault),
        Err(fault) => return Err(fault),
    };
    if let Err(full) = hash.set(arena, seed, limits, args.at(2), &digits) {
        return refuse(ctx, args.at(1), found, full.into());
    }
    ctx.changed(args.at(1), HASH, event);
    Ok(result)
}

fn hrandfield(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 2 {
        let found = ctx.read(args.at(1), Kind::Hash)?;
        let mut random = ctx.random();
        let store = &ctx.engine.store;
        let hash = found.map(|found| hash_of(store, found)).transpose()?;
        let field = hash.and_then(|hash| hash.random(&store.arena, &mut random)).map(|(field, _)| field);
        ctx.out.bulk_or_null(field);
        return Ok(());
    }
    let draw = match Draw::read(args, 2) {
        // The form of the request is judged before the size of the count.
        Err(fault) if fault != Fault::OUT_OF_RANGE => return Err(fault),
        draw => draw,
    };
    let with_values = args.len() == 4 && args.is(3, "WITHVALUES");
    if args.len() > 4 || (args.len() == 4 && !with_values) {
        return Err(Fault::SYNTAX);
    }
    let draw = draw?;
    if with_values && matches!(draw, Draw::Different(count) if count > i64::MAX as usize / 2) {
        return Err(Fault::OUT_OF_RANGE);
    }
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let mut random = ctx.random();
    let store = &ctx.engine.store;
    let hash = hash_of(store, found)?;
    let count = match draw {
        Draw::Different(count) => count.min(hash.len()),
        Draw::Repeated(count) => count,
    };
    // In RESP3 each pair is an array of its own.
    let pairs = with_values && ctx.out.resp3();
    ctx.out.array(if with_values && !pairs { count * 2 } else { count });
    let write = |out: &mut Reply, (field, value): (&[u8], &[u8])| {
        if pairs {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    };
    match draw {
        Draw::Different(_) => hash.sample(&store.arena, count, &mut random).for_each(|pair| write(ctx.out, pair)),
        Draw::Repeated(_) => {
            let start = ctx.out.len();
            for pair in (0..count).filter_map(|_| hash.random(&store.arena, &mut random)) {
                write(ctx.out, pair);
                check_draw(ctx.out, start)?;
            }
        }
    }
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let cursor = parse_cursor(args.at(2))?;
    let Some(found) = ctx.read(args.at(1), Kind::Hash)? else {
        scan_nothing(ctx.out);
        return Ok(());
    };
    let options = scan_options(args, 3, "hscan")?;
    let store = &ctx.engine.store;
    let hash = hash_of(store, found)?;
    scan(ctx.out, cursor, &options, |at, found| {
        hash.scan(&store.arena, &store.seed, at, |field, value| {
            found.add(field, Some(value));
        })
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn fields_are_set_read_and_removed_and_the_hash_goes_with_the_last() {
        Node::new().expect(&[
            ("HSET h a 1 b 2", ":2"),
            ("HSET h a 3 c 4", ":1"),
            ("HGETALL h", "*6 $1 a $1 3 $1 b $1 2 $1 c $1 4"),
            ("HMGET h c x", "*2 $1 4 $-1"),
            ("HSETNX h a 9", ":0"),
            ("HSTRLEN h a", ":1"),
            ("HDEL h a b x", ":2"),
            ("HKEYS h", "*1 $1 c"),
            ("HDEL h c", ":1"),
            ("EXISTS h", ":0"),
            ("HSET h a", "-ERR wrong number of arguments for 'hset' command"),
            ("SET s v", "+OK"),
            ("HGET s a", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]);
    }

    #[test]
    fn numbers_in_fields_are_changed_as_redis_does() {
        Node::new().expect(&[
            ("HINCRBY h n 5", ":5"),
            ("HINCRBY h n 9223372036854775807", "-ERR increment or decrement would overflow"),
            ("HINCRBYFLOAT h n 0.1", "$3 5.1"),
            ("HINCRBY h n 1", "-ERR hash value is not an integer"),
            ("HINCRBYFLOAT h n inf", "-ERR value is NaN or Infinity"),
            ("HSET h t text", ":1"),
            ("HINCRBYFLOAT h t 1", "-ERR hash value is not a float"),
            ("HINCRBYFLOAT none t text", "-ERR value is not a valid float"),
            ("EXISTS none", ":0"),
        ]);
    }

    #[test]
    fn what_changed_is_told() {
        let mut node = Node::with(&[("notify-keyspace-events", "KEA")]);
        let listener = node.connect();
        node.ask_as(listener, &["PSUBSCRIBE", "__keyspace*"]);
        let told = |node: &mut Node, line: &str| {
            node.line(line);
            let heard = node.heard(listener);
            heard
                .split("$16 __keyspace@0__:h $")
                .skip(1)
                .map(|part| part.split(' ').nth(1).unwrap_or("").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&mut node, "HSET h a 1"), ["hset"]);
        assert_eq!(told(&mut node, "HSETNX h a 1"), [""; 0]);
        assert_eq!(told(&mut node, "HINCRBY h a 1"), ["hincrby"]);
        assert_eq!(told(&mut node, "HDEL h b"), [""; 0]);
        assert_eq!(told(&mut node, "HDEL h a"), ["hdel", "del"]);
    }

    #[test]
    fn random_fields_come_in_pairs_in_resp3() {
        let mut node = Node::new();
        node.expect(&[
            ("HSET h a 1", ":1"),
            ("HRANDFIELD h 5 WITHVALUES", "*2 $1 a $1 1"),
            ("HRANDFIELD h -2", "*2 $1 a $1 a"),
            ("HRANDFIELD none", "$-1"),
            ("HRANDFIELD none 2", "*0"),
        ]);
        node.line("HELLO 3");
        node.expect(&[
            ("HRANDFIELD h -2 WITHVALUES", "*2 *2 $1 a $1 1 *2 $1 a $1 1"),
            ("HGETALL h", "%1 $1 a $1 1"),
            ("HSCAN h 0 NOVALUES", "*2 $1 0 *1 $1 a"),
        ]);
        assert!(node.line("HRANDFIELD h -2000000000").starts_with("-ERR value is out of range"));
    }

    #[test]
    fn a_large_hash_is_scanned_to_its_end() {
        let mut node = Node::new();
        for field in 0..3000 {
            node.line(&format!("HSET h field:{field} {field}"));
        }
        let (mut cursor, mut seen) = ("0".to_owned(), std::collections::HashSet::new());
        loop {
            let reply = node.line(&format!("HSCAN h {cursor} COUNT 50 NOVALUES"));
            let words: Vec<&str> = reply.split(' ').collect();
            words[4..].iter().filter(|word| word.starts_with("field:")).for_each(|word| {
                seen.insert((*word).to_owned());
            });
            cursor = words[2].to_owned();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 3000);
    }
}
