//! Sets.

mod combine;

use super::fault::{Done, Fault};
use super::keys::{parse_cursor, scan_options};
use super::members::{Draw, check_draw, scan, scan_nothing};
use super::notify::{GENERIC, SET};
use super::settings::Name;
use super::table::{
    Command, DELETE, Handler, INSERT, LOOK, OVERWRITE, READ, READ_DELETE, UPDATE, counted_keys, flag, key, keys,
};
use super::{Ctx, Engine};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::arena::Arena;
use crate::store::collections::SetValue;
use crate::store::collections::set::Limits;
use crate::store::hash::Seed;
use crate::store::{Found, Kind, Object, Store};
use combine::{sdiff, sdiffstore, sinter, sintercard, sinterstore, sunion, sunionstore};

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_SLOW: u32 = flag::WRITE | flag::DENYOOM;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "set", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds members to a set; answers how many are new.",
        syntax: "key member [member ...]",
        keys: &[key(1, INSERT)],
        ..row("sadd", sadd, -3, flag::WRITE | flag::DENYOOM | flag::FAST)
    },
    Command {
        summary: "Removes members, and the set with the last one; answers how many there were.",
        syntax: "key member [member ...]",
        keys: &[key(1, DELETE)],
        ..row("srem", srem, -3, flag::WRITE | flag::FAST)
    },
    Command {
        summary: "Tells whether a set has a member.",
        syntax: "key member",
        keys: &[key(1, LOOK)],
        ..row("sismember", sismember, 3, READ_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Tells of several members whether a set has them.",
        syntax: "key member [member ...]",
        keys: &[key(1, READ)],
        ..row("smismember", smismember, -3, READ_FAST)
    },
    Command {
        summary: "Answers all members.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("smembers", smembers, 2, flag::READONLY)
    },
    Command {
        summary: "Answers how many members a set has.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("scard", scard, 2, READ_FAST)
    },
    Command {
        summary: "Takes out members chosen at random.",
        syntax: "key [count]",
        keys: &[key(1, READ_DELETE)],
        ..row("spop", spop, -2, flag::WRITE | flag::FAST)
    },
    Command {
        summary: "Answers members chosen at random.",
        syntax: "key [count]",
        keys: &[key(1, READ)],
        ..row("srandmember", srandmember, -2, flag::READONLY)
    },
    Command {
        summary: "Moves a member from one set to another.",
        syntax: "source destination member",
        keys: &[key(1, READ_DELETE), key(2, INSERT)],
        ..row("smove", smove, 4, flag::WRITE | flag::FAST)
    },
    Command {
        summary: "Answers the members that all sets have.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, READ)],
        ..row("sinter", sinter, -2, flag::READONLY)
    },
    Command {
        since: "7.0.0",
        summary: "Answers how many members all sets have, counting up to a limit.",
        syntax: "numkeys key [key ...] [LIMIT limit]",
        keys: &[counted_keys(1, READ)],
        ..row("sintercard", sintercard, -3, flag::READONLY | flag::MOVABLE_KEYS)
    },
    Command {
        summary: "Stores the members that all sets have.",
        syntax: "destination key [key ...]",
        keys: &[key(1, UPDATE), keys(2, -1, 1, READ)],
        ..row("sinterstore", sinterstore, -3, WRITE_SLOW)
    },
    Command {
        summary: "Answers the members that any of the sets has.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, READ)],
        ..row("sunion", sunion, -2, flag::READONLY)
    },
    Command {
        summary: "Stores the members that any of the sets has.",
        syntax: "destination key [key ...]",
        keys: &[key(1, OVERWRITE), keys(2, -1, 1, READ)],
        ..row("sunionstore", sunionstore, -3, WRITE_SLOW)
    },
    Command {
        summary: "Answers the members of the first set that no other has.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, READ)],
        ..row("sdiff", sdiff, -2, flag::READONLY)
    },
    Command {
        summary: "Stores the members of the first set that no other has.",
        syntax: "destination key [key ...]",
        keys: &[key(1, OVERWRITE), keys(2, -1, 1, READ)],
        ..row("sdiffstore", sdiffstore, -3, WRITE_SLOW)
    },
    Command {
        since: "2.8.0",
        summary: "Walks through the members of a set, some at a time.",
        syntax: "key cursor [MATCH pattern] [COUNT count]",
        keys: &[key(1, READ)],
        ..row("sscan", sscan, -3, flag::READONLY)
    },
];

/// How many numbers a set may have and still be kept as a sorted array.
pub fn limits(engine: &Engine) -> Limits {
    Limits { numbers: engine.settings.size(Name::set_max_intset_entries) }
}

fn new_set() -> Object {
    Object::Set(SetValue::new())
}

#[inline]
fn set_of(store: &Store, found: Found) -> Result<&SetValue, Fault> {
    match store.object(found) {
        Some(Object::Set(set)) => Ok(set),
        _ => Err(Fault::WRONG_TYPE),
    }
}

#[inline]
fn set_mut(store: &mut Store, found: Found) -> Result<(&mut SetValue, &mut Arena, &Seed), Fault> {
    match store.object_mut(found) {
        Some((Object::Set(set), arena, seed)) => Ok((set, arena, seed)),
        _ => Err(Fault::WRONG_TYPE),
    }
}

/// Remove a key when its set has no members left.
#[inline]
fn remove_if_empty(ctx: &mut Ctx<'_>, key: &[u8], found: Found) -> Done {
    if set_of(&ctx.engine.store, found)?.is_empty() {
        ctx.engine.store.remove(found);
        ctx.changed(key, GENERIC, "del");
    }
    Ok(())
}

fn sadd(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let added = add(ctx, args.at(1), args.from(2))?;
    ctx.out.count(added);
    Ok(())
}

fn add<'m>(ctx: &mut Ctx<'_>, key: &[u8], members: impl Iterator<Item = &'m [u8]>) -> Result<usize, Fault> {
    let limits = limits(ctx.engine);
    let found = ctx.write_or_create(key, Kind::Set, new_set)?;
    let (set, arena, seed) = set_mut(&mut ctx.engine.store, found)?;
    let (mut added, mut full) = (0, None);
    for member in members {
        match set.add(arena, seed, limits, member) {
            Ok(new) => added += usize::from(new),
            Err(reason) => full = Some(reason),
        }
    }
    if added > 0 {
        ctx.changed(key, SET, "sadd");
    } else if full.is_some() && set.is_empty() {
        ctx.engine.store.remove(found);
    }
    full.map_or(Ok(added), |full| Err(full.into()))
}

fn srem(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.write(args.at(1), Kind::Set)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let (set, arena, seed) = set_mut(&mut ctx.engine.store, found)?;
    let removed = args.from(2).filter(|member| set.remove(arena, seed, member)).count();
    if removed > 0 {
        ctx.changed(args.at(1), SET, "srem");
        remove_if_empty(ctx, args.at(1), found)?;
    }
    ctx.out.count(removed);
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let there = match ctx.read(args.at(1), Kind::Set)? {
        Some(found) => {
            let store = &ctx.engine.store;
            set_of(store, found)?.contains(&store.arena, &store.seed, args.at(2))
        }
        None => false,
    };
    ctx.out.count(usize::from(there));
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Set)?;
    let store = &ctx.engine.store;
    let set = found.map(|found| set_of(store, found)).transpose()?;
    ctx.out.array(args.len() - 2);
    for member in args.from(2) {
        ctx.out.count(usize::from(set.is_some_and(|set| set.contains(&store.arena, &store.seed, member))));
    }
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::Set)? else {
        ctx.out.set(0);
        return Ok(());
    };
    let store = &ctx.engine.store;
    let set = set_of(store, found)?;
    ctx.out.set(set.len());
    let mut digits = itoa::Buffer::new();
    set.iter(&store.arena).for_each(|member| ctx.out.bulk(member.bytes(&mut digits)));
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::Set)?;
    let len = found.map(|found| set_of(&ctx.engine.store, found)).transpose()?.map_or(0, SetValue::len);
    ctx.out.count(len);
    Ok(())
}

fn smove(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (source, destination, member) = (args.at(1), args.at(2), args.at(3));
    let Some(from) = ctx.look(source) else {
        ctx.out.integer(0);
        return Ok(());
    };
    let to = ctx.look(destination);
    let store = &ctx.engine.store;
    if store.kind(from) != Kind::Set || to.is_some_and(|to| store.kind(to) != Kind::Set) {
        return Err(Fault::WRONG_TYPE);
    }
    if source == destination {
        let there = set_of(store, from)?.contains(&store.arena, &store.seed, member);
        ctx.out.count(usize::from(there));
        return Ok(());
    }
    let Some(from) = ctx.write(source, Kind::Set)? else { return Ok(()) };
    let (set, arena, seed) = set_mut(&mut ctx.engine.store, from)?;
    if !set.remove(arena, seed, member) {
        ctx.out.integer(0);
        return Ok(());
    }
    ctx.record_as(&[b"SREM", source, member]);
    ctx.record_as(&[b"SADD", destination, member]);
    ctx.changed(source, SET, "srem");
    remove_if_empty(ctx, source, from)?;
    add(ctx, destination, std::iter::once(member))?;
    ctx.out.integer(1);
    Ok(())
}

fn spop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(Fault::SYNTAX);
    }
    let count = match args.get(2) {
        None => None,
        Some(text) => Some(parse_i64(text).and_then(|count| usize::try_from(count).ok()).ok_or(Fault::NOT_POSITIVE)?),
    };
    let Some(found) = ctx.write(args.at(1), Kind::Set)? else {
        if count.is_some() {
            ctx.out.set(0)
        } else {
            ctx.out.null()
        }
        return Ok(());
    };
    let mut random = ctx.random();
    let limits = limits(ctx.engine);
    let listening = ctx.engine.tail.listening();
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let (set, arena, seed) = set_mut(&mut ctx.engine.store, found)?;
    let Some(count) = count else {
        set.pop(arena, seed, &mut random, |member| {
            ctx.out.bulk(member);
            if listening {
                taken.push(member.to_vec());
            }
        });
        record_taken(ctx, args.at(1), &taken);
        ctx.changed(args.at(1), SET, "spop");
        return remove_if_empty(ctx, args.at(1), found);
    };
    let count = count.min(set.len());
    ctx.out.set(count);
    if count == 0 {
        return Ok(());
    }
    let staying = set.len() - count;
    if staying == 0 || staying * 5 <= count {
        // Few stay: draw those instead, into a set of their own, and answer the rest.
        let mut kept = SetValue::new();
        let mut full = None;
        for _ in 0..staying {
            let mut member = Vec::new();
            set.pop(arena, seed, &mut random, |bytes| member.extend_from_slice(bytes));
            full = kept.add(arena, seed, limits, &member).err().or(full);
        }
        let mut digits = itoa::Buffer::new();
        set.iter(arena).for_each(|member| ctx.out.bulk(member.bytes(&mut digits)));
        let popped = std::mem::replace(set, kept);
        ctx.engine.store.condemn(Object::Set(popped));
    } else {
        for _ in 0..count {
            set.pop(arena, seed, &mut random, |member| {
                ctx.out.bulk(member);
                if listening {
                    taken.push(member.to_vec());
                }
            });
        }
        record_taken(ctx, args.at(1), &taken);
    }
    ctx.changed(args.at(1), SET, "spop");
    remove_if_empty(ctx, args.at(1), found)
}

/// Have members that were drawn recorded as removed by name.
fn record_taken(ctx: &mut Ctx<'_>, name: &[u8], taken: &[Vec<u8>]) {
    if ctx.engine.tail.listening() {
        let words: Vec<&[u8]> = [b"SREM", name].into_iter().chain(taken.iter().map(Vec::as_slice)).collect();
        ctx.record_as(&words);
    }
}

fn srandmember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(Fault::SYNTAX);
    }
    let draw = if args.len() == 3 { Some(Draw::read(args, 2)?) } else { None };
    let found = ctx.read(args.at(1), Kind::Set)?;
    let mut random = ctx.random();
    let store = &ctx.engine.store;
    let mut digits = itoa::Buffer::new();
    let Some(found) = found else {
        if draw.is_some() {
            ctx.out.array(0)
        } else {
            ctx.out.null()
        }
        return Ok(());
    };
    let set = set_of(store, found)?;
    match draw {
        None => {
            let member = set.random(&store.arena, &mut random);
            ctx.out.bulk_or_null(member.as_ref().map(|member| member.bytes(&mut digits)));
        }
        Some(Draw::Different(count)) => {
            ctx.out.array(count.min(set.len()));
            let chosen = set.sample(&store.arena, count, &mut random);
            chosen.for_each(|member| ctx.out.bulk(member.bytes(&mut digits)));
        }
        Some(Draw::Repeated(count)) => {
            ctx.out.array(count);
            let start = ctx.out.len();
            for member in (0..count).filter_map(|_| set.random(&store.arena, &mut random)) {
                ctx.out.bulk(member.bytes(&mut digits));
                check_draw(ctx.out, start)?;
            }
        }
    }
    Ok(())
}

fn sscan(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let cursor = parse_cursor(args.at(2))?;
    let Some(found) = ctx.read(args.at(1), Kind::Set)? else {
        scan_nothing(ctx.out);
        return Ok(());
    };
    let options = scan_options(args, 3, "sscan")?;
    let store = &ctx.engine.store;
    let set = set_of(store, found)?;
    let mut digits = itoa::Buffer::new();
    scan(ctx.out, cursor, &options, |at, found| {
        set.scan(&store.arena, &store.seed, at, |member| found.add(member.bytes(&mut digits), None))
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn members_are_added_asked_for_and_removed_and_the_set_goes_with_the_last() {
        Node::new().expect(&[
            ("SADD s 3 1 2 1", ":3"),
            ("SMEMBERS s", "*3 $1 1 $1 2 $1 3"),
            ("SISMEMBER s 01", ":0"),
            ("SMISMEMBER s 1 9 3", "*3 :1 :0 :1"),
            ("SREM s 1 2 9", ":2"),
            ("SMOVE s t 3", ":1"),
            ("EXISTS s", ":0"),
            ("SMOVE t t 3", ":1"),
            ("SPOP t", "$1 3"),
            ("EXISTS t", ":0"),
            ("SET text v", "+OK"),
            ("SADD text 1", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]);
    }

    #[test]
    fn sets_are_combined() {
        Node::new().expect(&[
            ("SADD a 1 2 3 4", ":4"),
            ("SADD b 3 4 5", ":3"),
            ("SADD c 4 x", ":2"),
            ("SINTER a b", "*2 $1 3 $1 4"),
            ("SINTER a b c", "*1 $1 4"),
            ("SINTER a none", "*0"),
            ("SINTERCARD 2 a b", ":2"),
            ("SINTERCARD 2 a b LIMIT 1", ":1"),
            ("SUNION b a", "*5 $1 1 $1 2 $1 3 $1 4 $1 5"),
            ("SDIFF a b c", "*2 $1 1 $1 2"),
            ("SDIFF a a", "*0"),
            ("SUNIONSTORE u a c", ":5"),
            ("SISMEMBER u x", ":1"),
            ("SDIFFSTORE a a b", ":2"),
            ("SMEMBERS a", "*2 $1 1 $1 2"),
            ("SINTERSTORE u a none", ":0"),
            ("EXISTS u", ":0"),
        ]);
    }

    #[test]
    fn a_difference_is_the_same_whichever_way_it_is_made() {
        let mut node = Node::new();
        for member in 0..300 {
            node.line(&format!("SADD big m{member}"));
        }
        // Many small sets to take away make walking through them the cheaper way.
        let names: Vec<String> = (0..40).map(|number| format!("small{number}")).collect();
        for (number, name) in names.iter().enumerate() {
            node.line(&format!("SADD {name} m{number} other"));
        }
        assert_eq!(node.integer(&["SDIFFSTORE", "d", "big", "small0", "small1"]), 298);
        let line = format!("SDIFFSTORE d big {}", names.join(" "));
        assert_eq!(node.line(&line), ":260");
        assert_eq!(node.line("SINTERCARD 2 d small39"), ":0");
    }

    #[test]
    fn popping_many_leaves_the_rest() {
        for (members, count) in [(100, 10), (100, 95), (100, 100), (1000, 990), (1000, 3)] {
            let mut node = Node::new();
            let all: Vec<String> = (0..members).map(|number| format!("m{number}")).collect();
            node.line(&format!("SADD s {}", all.join(" ")));
            let popped = node.line(&format!("SPOP s {count}"));
            assert!(popped.starts_with(&format!("*{count} ")));
            assert_eq!(node.integer(&["SCARD", "s"]), members - count);
            let gone: Vec<&str> = popped.split(' ').filter(|word| word.starts_with('m')).collect();
            assert_eq!(gone.len() as i64, count);
            assert!(gone.iter().all(|member| node.line(&format!("SISMEMBER s {member}")) == ":0"));
        }
    }

    #[test]
    fn counts_are_judged_as_redis_does() {
        Node::new().expect(&[
            ("SADD s a", ":1"),
            ("SPOP s -1", "-ERR value is out of range, must be positive"),
            ("SPOP s 1 2", "-ERR syntax error"),
            ("SRANDMEMBER s 0", "*0"),
            ("SRANDMEMBER s -3", "*3 $1 a $1 a $1 a"),
            ("SRANDMEMBER none", "$-1"),
            ("SRANDMEMBER s -2000000", "-ERR value is out of range"),
            ("SINTERCARD 0 s", "-ERR numkeys should be greater than 0"),
            ("SINTERCARD 2 s", "-ERR Number of keys can't be greater than number of args"),
            ("SINTERCARD 1 s LIMIT -1", "-ERR LIMIT can't be negative"),
        ]);
    }

    #[test]
    fn a_draw_cannot_ask_for_more_memory_than_there_is() {
        let mut node = Node::new();
        node.ask(&["SADD", "s", &"x".repeat(1 << 20)]);
        assert!(node.line("SRANDMEMBER s -10").starts_with("*10 "));
        assert_eq!(node.line("SRANDMEMBER s -1000"), "-ERR value is out of range");
    }
}
