//! Values as objects: how they are kept, what they cost, and copies of them.

use super::Ctx;
use super::fault::{Done, Fault};
use super::notify::GENERIC;
use super::table::{Command, KeySpec, LOOK, OVERWRITE, READ, flag, key};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::keyspace::DATABASES;
use crate::store::{Found, Keep, Kind, Object, Store, entry};

const OBJECT_KEY: &[KeySpec] = &[key(2, LOOK)];

const fn sub(name: &'static str, run: super::table::Handler, arity: i32, flags: u32) -> Command {
    Command { group: "generic", since: "2.2.3", ..Command::new(name, run, arity, flags | flag::KEYSPACE) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "generic",
        since: "2.2.3",
        summary: "Looks into the value of a key.",
        subcommands: &[
            Command {
                summary: "Answers how the value is kept.",
                syntax: "key",
                keys: OBJECT_KEY,
                ..sub("encoding", encoding, 3, flag::READONLY)
            },
            Command {
                since: "4.0.0",
                summary: "Answers the logarithmic count of uses that the LFU policies keep.",
                syntax: "key",
                keys: OBJECT_KEY,
                ..sub("freq", frequency, 3, flag::READONLY)
            },
            Command {
                summary: "Answers for how many seconds the key was not used.",
                syntax: "key",
                keys: OBJECT_KEY,
                ..sub("idletime", idle_time, 3, flag::READONLY)
            },
            Command {
                summary: "Answers how many references to the value there are.",
                syntax: "key",
                keys: OBJECT_KEY,
                ..sub("refcount", references, 3, flag::READONLY)
            },
            Command {
                since: "6.2.0",
                summary: "Lists the sub-commands.",
                ..sub("help", help, 2, flag::LOADING | flag::STALE)
            },
        ],
        ..Command::new("object", super::server::needs_subcommand, -2, 0)
    },
    Command {
        group: "generic",
        since: "6.2.0",
        summary: "Puts a copy of a value under another key.",
        syntax: "source destination [DB destination-db] [REPLACE]",
        keys: &[key(1, READ), key(2, OVERWRITE)],
        ..Command::new("copy", copy, -3, flag::WRITE | flag::DENYOOM | flag::KEYSPACE)
    },
];

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    super::server::help(ctx, "OBJECT");
    Ok(())
}

/// The longest string that Redis keeps in one piece with its head.
const EMBEDDED: usize = 44;

/// How Redis would keep this value.
pub fn encoding_of(store: &Store, found: Found) -> &'static str {
    match store.object(found) {
        Some(Object::List(_)) => "quicklist",
        Some(Object::Hash(hash)) => hash.encoding(),
        Some(Object::Set(set)) => set.encoding(),
        Some(Object::SortedSet(zset)) => zset.encoding(),
        Some(Object::Stream(_)) => "stream",
        Some(Object::Text(_)) | None => {
            let text = store.text(found);
            if store.entry(found).flags() & entry::RAW != 0 || text.len() > EMBEDDED {
                "raw"
            } else if parse_i64(text).is_some() {
                "int"
            } else {
                "embstr"
            }
        }
    }
}

fn encoding(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = ctx.look(args.at(2)).map(|found| encoding_of(&ctx.engine.store, found).as_bytes());
    ctx.out.bulk_or_null(name);
    Ok(())
}

/// Answer a number about a key, or that there is no such key.
fn number(ctx: &mut Ctx<'_>, args: &Args<'_>, of: impl FnOnce(&Store, Found) -> Result<i64, Fault>) -> Done {
    match ctx.look(args.at(2)) {
        Some(found) => {
            let number = of(&ctx.engine.store, found)?;
            ctx.out.integer(number);
        }
        None => ctx.out.null(),
    }
    Ok(())
}

const SWITCHED: &str =
    "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";

fn frequency(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    number(ctx, args, |store, found| {
        if !store.policy().counts_use() {
            let text = format!("ERR An LFU maxmemory policy is not selected, access frequency not tracked. {SWITCHED}");
            return Err(Fault::new(text));
        }
        Ok(i64::from(store.use_count(found)))
    })
}

fn idle_time(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    number(ctx, args, |store, found| {
        if store.policy().counts_use() {
            return Err(Fault::new(format!(
                "ERR An LFU maxmemory policy is selected, idle time not tracked. {SWITCHED}"
            )));
        }
        Ok(i64::from(store.idle_seconds(found)))
    })
}

fn references(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    number(ctx, args, |store, found| {
        // Redis shares small numbers between keys and says so; clients' tests look for it.
        let shared = store.kind(found) == Kind::String
            && encoding_of(store, found) == "int"
            && parse_i64(store.text(found)).is_some_and(|number| (0..10_000).contains(&number));
        Ok(if shared { i64::from(i32::MAX) } else { 1 })
    })
}

/// MEMORY USAGE: what a key and its value cost, in bytes. All parts are counted, so SAMPLES changes nothing.
pub fn memory_usage(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut at = 3;
    while at < args.len() {
        if !args.is(at, "SAMPLES") || at + 1 == args.len() {
            return Err(Fault::SYNTAX);
        }
        if args.integer(at + 1)? < 0 {
            return Err(Fault::SYNTAX);
        }
        at += 2;
    }
    number(ctx, args, |store, found| Ok(store.cost(found) as i64))
}

fn copy(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (source, destination) = (args.at(1), args.at(2));
    let (mut target, mut replace) = (ctx.client.database, false);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "REPLACE") {
            replace = true;
        } else if args.is(at, "DB") && at + 1 < args.len() {
            let number = args.integer(at + 1)?;
            let number = i32::try_from(number).map_err(|_| Fault::NOT_SMALL_INTEGER)?;
            target =
                u8::try_from(number).ok().filter(|&number| usize::from(number) < DATABASES).ok_or(Fault::DB_RANGE)?;
            at += 1;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    if target == ctx.client.database && source == destination {
        return Err(Fault::new("ERR source and destination objects are the same"));
    }
    let Some(found) = ctx.read_any(source) else {
        ctx.out.integer(0);
        return Ok(());
    };
    let old = ctx.engine.store.find(target, destination);
    if old.is_some() && !replace {
        ctx.out.integer(0);
        return Ok(());
    }
    let store = &mut ctx.engine.store;
    let expiry = store.entry(found).expiry();
    if store.kind(found) == Kind::String {
        let text = store.text(found).to_vec();
        let raw = store.entry(found).flags() & entry::RAW;
        if let Some(old) = old {
            store.remove(old);
        }
        let keep = expiry.map_or(Keep::Nothing, Keep::Until);
        let mut new = store.insert_text(target, destination, &text, keep)?;
        if raw != 0 {
            store.replace_text(&mut new, &text, Keep::Expiry, raw)?;
        }
    } else {
        let (object, arena, seed) = store.object_mut(found).ok_or(Fault::NO_KEY)?;
        let object = object.duplicate(arena, seed)?;
        store.put_object(target, destination, object, expiry)?;
    }
    ctx.created_in(target, destination); // What was there before is gone first, as in Redis.
    ctx.changed_in(target, destination, GENERIC, "copy_to");
    ctx.out.integer(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn encodings_are_those_of_redis() {
        let mut node = Node::with(&[("hash-max-listpack-entries", "2"), ("set-max-intset-entries", "2")]);
        node.line("SET int 12345");
        node.line("SET short text");
        node.line(&format!("SET long {}", "x".repeat(45)));
        node.line("SET raw a");
        node.line("APPEND raw b");
        node.line("HSET small a 1 b 2");
        node.line("HSET large a 1 b 2 c 3");
        node.line("SADD numbers 1 2");
        node.line("SADD many 1 2 3");
        node.line("ZADD zset 1 a");
        node.expect(&[
            ("OBJECT ENCODING int", "$3 int"),
            ("OBJECT ENCODING short", "$6 embstr"),
            ("OBJECT ENCODING long", "$3 raw"),
            ("OBJECT ENCODING raw", "$3 raw"),
            ("OBJECT ENCODING small", "$8 listpack"),
            ("OBJECT ENCODING large", "$9 hashtable"),
            ("OBJECT ENCODING numbers", "$6 intset"),
            ("OBJECT ENCODING many", "$9 hashtable"),
            ("OBJECT ENCODING zset", "$8 listpack"),
            ("OBJECT ENCODING none", "$-1"),
            ("OBJECT REFCOUNT short", ":1"),
            ("OBJECT IDLETIME short", ":0"),
        ]);
        node.pass(5000);
        node.expect(&[("OBJECT IDLETIME short", ":5"), ("GET short", "$4 text"), ("OBJECT IDLETIME short", ":0")]);
        assert!(node.line("OBJECT FREQ short").starts_with("-ERR An LFU maxmemory policy is not selected"));
    }

    #[test]
    fn a_copy_is_a_value_of_its_own_with_the_same_expiry() {
        let mut node = Node::new();
        let many: Vec<String> = (0..600).map(|number| format!("m{number} {number}")).collect();
        node.line(&format!("HSET hash {}", many.join(" ")));
        node.line(&format!("SADD set {}", many.join(" ")));
        node.line(&format!("HSET small a {}", "v".repeat(60)));
        node.line("SADD numbers 3 1 2");
        node.line("SET text v PX 5000");
        for number in 0..300 {
            node.line(&format!("ZADD zset {number}.5 m{number}"));
        }
        for name in ["hash", "set", "small", "numbers", "text", "zset"] {
            let other = format!("copy-of-{name}");
            assert_eq!(node.line(&format!("COPY {name} {other}")), ":1", "{name}");
            assert_eq!(node.line(&format!("COPY {name} {other}")), ":0", "{name}");
            assert_eq!(node.line(&format!("COPY {name} {other} REPLACE")), ":1", "{name}");
            let encoding = node.line(&format!("OBJECT ENCODING {name}"));
            assert_eq!(node.line(&format!("OBJECT ENCODING {other}")), encoding);
        }
        node.expect(&[
            ("DEL hash set", ":2"),
            ("HGET copy-of-hash m599", "$3 599"),
            ("SISMEMBER copy-of-set m1", ":1"),
            ("SCARD copy-of-set", ":1200"),
            ("SMEMBERS copy-of-numbers", "*3 $1 1 $1 2 $1 3"),
            ("PTTL copy-of-text", ":5000"),
            ("ZSCORE copy-of-zset m299", "$5 299.5"),
            ("COPY text text", "-ERR source and destination objects are the same"),
            ("COPY text text DB 1", ":1"),
            ("COPY text other DB 16", "-ERR DB index is out of range"),
            ("COPY none other", ":0"),
        ]);
    }
}
