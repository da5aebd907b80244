//! What is written on one node and applied on another gives the same contents there.
//!
//! [`EXAMPLES`] has a line or more for every command that writes; a command without one fails the first test here.

use super::apply::Applier;
use super::tail::{Cursor, Kind};
use super::{SlotSet, codec};
use crate::command::Engine;
use crate::command::table::{self, flag};
use crate::command::testing::Node;
use crate::slot::slot_of;
use crate::store::keyspace::DATABASES;
use crate::store::random::Random;
use crate::store::{Kind as ValueKind, Object, Store};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Writes, by command; what a command needs to find is in [`SETUP`]. Random streams are made of these lines too, so
/// they share few keys: `s*` strings, `l*` lists, `h*` hashes, `m*` sets, `z*` sorted sets; `{t}` ones share a slot.
pub const EXAMPLES: &[(&str, &[&str])] = &[
    ("function", &["FUNCTION FLUSH", "FUNCTION FLUSH SYNC"]),
    (
        "set",
        &["SET s1 v", "SET s1 w KEEPTTL", "SET s2 v EX 10", "SET s3 v PX 1500 NX", "SET s1 x GET", "SET s2 y PXAT 1"],
    ),
    ("setex", &["SETEX s1 5 v"]),
    ("psetex", &["PSETEX s2 500 v"]),
    ("setnx", &["SETNX s3 v"]),
    ("getset", &["GETSET s1 w"]),
    ("getdel", &["GETDEL s1"]),
    ("getex", &["GETEX s1 EX 7", "GETEX s2 PERSIST", "GETEX s3 PXAT 1"]),
    ("append", &["APPEND s1 more", "APPEND s4 new"]),
    ("setrange", &["SETRANGE s1 30 there", "SETRANGE s1 4 x"]),
    ("incr", &["INCR n1"]),
    ("decr", &["DECR n1"]),
    ("incrby", &["INCRBY n1 77"]),
    ("decrby", &["DECRBY n2 7"]),
    ("incrbyfloat", &["INCRBYFLOAT n1 0.1", "INCRBYFLOAT n3 -3.7e2"]),
    ("setbit", &["SETBIT s1 77 1"]),
    ("bitfield", &["BITFIELD s1 SET u8 16 200 INCRBY i5 3 1", "BITFIELD s4 GET u8 0"]),
    ("bitop", &["BITOP OR s5 s1 s2", "BITOP NOT {t}s2 {t}s1"]),
    ("mset", &["MSET s1 a s2 b s3 c", "MSET {t}s1 a {t}s2 b"]),
    ("msetnx", &["MSETNX s8 a s9 b", "MSETNX {t}s8 a {t}s9 b"]),
    ("expire", &["EXPIRE s1 3", "EXPIRE s1 -1", "EXPIRE l1 100 NX", "EXPIRE z1 1"]),
    ("pexpire", &["PEXPIRE s2 3000", "PEXPIRE h1 200"]),
    ("expireat", &["EXPIREAT s1 1700000009", "EXPIREAT m1 9"]),
    ("pexpireat", &["PEXPIREAT s2 1700000009123"]),
    ("persist", &["PERSIST s2", "PERSIST l1"]),
    ("rename", &["RENAME s1 s2", "RENAME {t}l1 {t}l2", "RENAME l1 h2"]),
    ("renamenx", &["RENAMENX s1 s9", "RENAMENX {t}s1 {t}s9"]),
    ("move", &["MOVE s1 3", "MOVE l1 4"]),
    ("copy", &["COPY s1 s2 REPLACE", "COPY {t}l1 {t}l9", "COPY z1 z9 DB 5", "COPY {t}h1 {t}h1 DB 3"]),
    ("del", &["DEL s1 l1 nothing", "DEL {t}l1"]),
    ("unlink", &["UNLINK s2 h1", "UNLINK {t}h1"]),
    ("flushdb", &["FLUSHDB"]),
    ("flushall", &["FLUSHALL"]),
    ("swapdb", &["SWAPDB 0 3"]),
    // Payloads of short strings whose checksums happen to be letters.
    (
        "restore",
        &[
            "RESTORE s1 0 \0\x08gbqnhpgf\x08\0Rd&|,.,b REPLACE",
            "RESTORE s9 5000 \0\x08iaczvvma\x08\0EIF<_(le",
            "RESTORE l1 1 \0\x08gbqnhpgf\x08\0Rd&|,.,b REPLACE ABSTTL",
        ],
    ),
    ("restore-asking", &["RESTORE-ASKING s1 0 \0\x08iaczvvma\x08\0EIF<_(le REPLACE"]),
    ("sort", &["SORT l1 ALPHA STORE l3", "SORT {t}m1 BY nosort STORE {t}l3"]),
    ("lpush", &["LPUSH l1 a b c"]),
    ("rpush", &["RPUSH l2 1 2 3", "RPUSH {t}l1 x"]),
    ("lpushx", &["LPUSHX l1 d"]),
    ("rpushx", &["RPUSHX l9 d", "RPUSHX l2 d"]),
    ("lpop", &["LPOP l1", "LPOP l1 2"]),
    ("rpop", &["RPOP l1", "RPOP l2 9"]),
    ("lset", &["LSET l1 0 other"]),
    ("linsert", &["LINSERT l1 BEFORE b x"]),
    ("lrem", &["LREM l1 0 a"]),
    ("ltrim", &["LTRIM l1 1 2", "LTRIM l2 5 1"]),
    ("lmove", &["LMOVE l1 l2 LEFT RIGHT", "LMOVE l1 l1 RIGHT LEFT", "LMOVE {t}l1 {t}l2 LEFT LEFT"]),
    ("rpoplpush", &["RPOPLPUSH l1 l2", "RPOPLPUSH l2 l2"]),
    ("lmpop", &["LMPOP 3 none l1 l2 LEFT COUNT 2", "LMPOP 2 l2 l1 RIGHT"]),
    ("blpop", &["BLPOP none l1 1", "BLPOP l2 1"]),
    ("brpop", &["BRPOP l1 l2 1"]),
    ("blmpop", &["BLMPOP 1 2 l2 l1 LEFT COUNT 3"]),
    ("blmove", &["BLMOVE l1 l2 LEFT LEFT 1"]),
    ("brpoplpush", &["BRPOPLPUSH l2 l1 1"]),
    ("hset", &["HSET h1 f 1 g 2", "HSET h2 f x", "HSET {t}h1 f y"]),
    ("hmset", &["HMSET h1 f 3"]),
    ("hsetnx", &["HSETNX h1 k 1"]),
    ("hdel", &["HDEL h1 f", "HDEL h2 f"]),
    ("hincrby", &["HINCRBY h1 n 4"]),
    ("hincrbyfloat", &["HINCRBYFLOAT h1 x 0.3"]),
    ("sadd", &["SADD m1 a b c", "SADD m2 1 2 3", "SADD {t}m1 z"]),
    ("srem", &["SREM m1 a", "SREM m2 1 2 3"]),
    ("smove", &["SMOVE m1 m2 b", "SMOVE {t}m1 {t}m2 a"]),
    ("spop", &["SPOP m1", "SPOP m2 2", "SPOP m3 100", "SPOP m1 0", "SPOP {t}m1 2"]),
    ("sinterstore", &["SINTERSTORE m3 m1 m2", "SINTERSTORE {t}m2 {t}m1 {t}m1"]),
    ("sunionstore", &["SUNIONSTORE m3 m1 m2"]),
    ("sdiffstore", &["SDIFFSTORE m2 m1 m3", "SDIFFSTORE {t}m2 {t}m1 {t}m9"]),
    ("zadd", &["ZADD z1 1 a 2.5 b 3 c", "ZADD z2 GT CH 5 a", "ZADD z1 INCR 2 a", "ZADD {t}z1 1 x 2 y"]),
    ("zincrby", &["ZINCRBY z1 1.5 b"]),
    ("zrem", &["ZREM z1 a", "ZREM z2 a b c"]),
    ("zremrangebyrank", &["ZREMRANGEBYRANK z1 0 0"]),
    ("zremrangebyscore", &["ZREMRANGEBYSCORE z1 2 3"]),
    ("zremrangebylex", &["ZREMRANGEBYLEX z2 [a [b"]),
    ("zpopmin", &["ZPOPMIN z1", "ZPOPMIN z1 2"]),
    ("zpopmax", &["ZPOPMAX z1", "ZPOPMAX z2 5"]),
    ("bzpopmin", &["BZPOPMIN none z1 1"]),
    ("bzpopmax", &["BZPOPMAX z2 z1 1"]),
    ("zmpop", &["ZMPOP 2 none z1 MIN COUNT 2"]),
    ("bzmpop", &["BZMPOP 1 2 z2 z1 MAX"]),
    ("zrangestore", &["ZRANGESTORE z3 z1 0 1", "ZRANGESTORE {t}z2 {t}z1 0 0"]),
    ("zinterstore", &["ZINTERSTORE z3 2 z1 z2"]),
    ("zunionstore", &["ZUNIONSTORE z3 2 z1 z2 WEIGHTS 2 3", "ZUNIONSTORE {t}z2 1 {t}z1"]),
    ("pfadd", &["PFADD p1 a b c", "PFADD p3 x"]),
    ("pfmerge", &["PFMERGE p2 p1", "PFMERGE {t}p2 {t}p1"]),
    ("pfdebug", &["PFDEBUG TODENSE p1"]),
    ("geoadd", &["GEOADD g1 15.087269 37.502669 Catania"]),
    ("geosearchstore", &["GEOSEARCHSTORE g2 g1 FROMLONLAT 13 38 BYRADIUS 400 km"]),
    ("georadius", &["GEORADIUS g1 13 38 400 km STORE g3", "GEORADIUS g1 13 38 400 km"]),
    ("georadiusbymember", &["GEORADIUSBYMEMBER g1 Palermo 400 km STOREDIST g3"]),
    ("zdiffstore", &["ZDIFFSTORE z3 2 z1 none"]),
    (
        "xadd",
        &[
            "XADD x1 * f v",
            "XADD x1 9-* f 1 g 2",
            "XADD x2 MAXLEN 2 * f v",
            "XADD x1 MAXLEN ~ 1 * f v",
            "XADD x9 MINID 9999999999999-1 * f v",
        ],
    ),
    ("xtrim", &["XTRIM x1 MAXLEN 1", "XTRIM x1 MINID 2", "XTRIM x1 MAXLEN 0", "XTRIM x2 MAXLEN ~ 1"]),
    ("xdel", &["XDEL x1 1-1", "XDEL x1 3-1 9-9"]),
    ("xsetid", &["XSETID x1 50-5 ENTRIESADDED 70 MAXDELETEDID 2-2"]),
    (
        "xreadgroup",
        &[
            "XREADGROUP GROUP g c STREAMS x1 >",
            "XREADGROUP GROUP g new COUNT 1 STREAMS x1 >",
            "XREADGROUP GROUP g c NOACK STREAMS x1 >",
            "XREADGROUP GROUP g c STREAMS x1 0",
            "XREADGROUP GROUP g c BLOCK 1 STREAMS x1 x1 > 0",
        ],
    ),
    ("xack", &["XACK x1 g 1-1 1-2"]),
    ("xclaim", &["XCLAIM x1 g d 0 1-1", "XCLAIM x1 g d 0 1-1 2-2 3-1 IDLE 3 FORCE", "XCLAIM x1 g d 1234 1-1 JUSTID"]),
    ("xautoclaim", &["XAUTOCLAIM x1 g d 0 0", "XAUTOCLAIM x1 g d 1000 - COUNT 1 JUSTID"]),
    (
        "xgroup",
        &[
            "XGROUP CREATE x1 h $",
            "XGROUP CREATE x7 h 0 MKSTREAM ENTRIESREAD 3",
            "XGROUP SETID x1 g 0 ENTRIESREAD 1",
            "XGROUP DESTROY x1 g",
            "XGROUP CREATECONSUMER x1 g d",
            "XGROUP DELCONSUMER x1 g c",
        ],
    ),
];

/// What examples find.
const SETUP: &[&str] = &[
    "SET s1 value",
    "SET s2 other EX 100",
    "SET n1 5",
    "SET {t}s1 same",
    "RPUSH l1 a b a c",
    "RPUSH l2 1 2",
    "RPUSH {t}l1 p q r",
    "HSET h1 f 9 n 3",
    "HSET {t}h1 a b",
    "SADD m1 a b c d",
    "SADD m2 1 2 3 4",
    "SADD m3 x",
    "SADD {t}m1 a b",
    "ZADD z1 1 a 2 b 3 c",
    "ZADD z2 0 a 0 b 0 c",
    "ZADD {t}z1 4 u",
    "PFADD p1 z",
    "GEOADD g1 13.361389 38.115556 Palermo",
    "XADD x1 1-1 f 1",
    "XADD x1 1-2 f 2 g 3",
    "XADD x1 2-2 f 3",
    "XADD x1 3-1 f 4",
    "XADD x2 1-1 f 1",
    "XGROUP CREATE x1 g 0",
    "XREADGROUP GROUP g c COUNT 2 STREAMS x1 >",
    "XDEL x1 1-2",
];

/// All that a node holds, in a form that can be compared.
pub fn contents(store: &Store) -> BTreeMap<(u8, Vec<u8>), String> {
    let mut all = BTreeMap::new();
    for database in 0..DATABASES as u8 {
        for slot in occupied(store, database) {
            for handle in store.entries_of_slot(database, slot) {
                let key = store.key_of(handle).to_vec();
                assert_eq!(slot_of(&key), slot);
                let mut parts: Vec<String> = Vec::new();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                match store.object_at(handle) {
                    None | Some(Object::Text(_)) => parts.push(text(store.text_at(handle))),
                    Some(Object::List(list)) => parts.extend(list.forward(0).map(text)),
                    Some(Object::Set(set)) => {
                        parts.extend(set.iter(&store.arena).map(|member| text(&member.to_vec())));
                        parts.sort();
                    }
                    Some(Object::Hash(hash)) => {
                        let pairs = hash.iter(&store.arena);
                        parts.extend(pairs.map(|(field, value)| format!("{}={}", text(field), text(value))));
                        parts.sort();
                    }
                    Some(Object::Stream(stream)) => {
                        let piece = |piece: crate::store::stream::Piece<'_>| piece.with(text);
                        for entry in stream.range(crate::store::stream::Id::MIN, crate::store::stream::Id::MAX) {
                            let pairs = entry.pairs().map(|(name, value)| format!("{}={}", piece(name), piece(value)));
                            parts.push(format!("{} {:?}", entry.id, pairs.collect::<Vec<_>>()));
                        }
                        parts.push(format!("{} {} {}", stream.last, stream.max_deleted, stream.added));
                        for (name, group) in stream.groups() {
                            parts.push(format!("{} {} {:?}", text(name), group.last, group.read));
                            let pending = group.pending().iter();
                            parts.extend(pending.map(|(id, each)| {
                                let who = text(&group.holder(each).name);
                                format!("{id} {} {} {who}", each.delivered, each.times)
                            }));
                            parts.extend(
                                group.consumers().map(|each| format!("{} {:?}", text(&each.name), each.pending())),
                            );
                        }
                    }
                    Some(Object::SortedSet(zset)) => {
                        let entries = zset.entries(&store.arena, 0..zset.len(), false);
                        parts.extend(entries.map(|(member, score)| format!("{}@{score}", text(member))));
                    }
                }
                let meta = store.meta_of(handle);
                let told = format!("{:?} {:?} {} {parts:?}", store.kind_of(handle), meta.expiry, meta.created);
                assert!(all.insert((database, key), told).is_none());
            }
        }
    }
    all
}

/// Slots of a database that hold keys.
fn occupied(store: &Store, database: u8) -> impl Iterator<Item = u16> + '_ {
    let next = move |slot| store.database(database).occupied_from(slot);
    std::iter::successors(next(0), move |&slot| next(slot + 1))
}

/// Apply all that was recorded since; returns how many records of each kind there were.
pub fn carry_over(from: &Engine, cursor: &mut Cursor, to: &mut Engine) -> BTreeMap<u8, usize> {
    let mut applier = Applier::new();
    let mut kinds = BTreeMap::new();
    while let Some(record) = from.tail.next(cursor).expect("nothing was cut off") {
        *kinds.entry(record.kind as u8).or_default() += 1;
        applier.apply(to, &record, None).expect("what was recorded can be applied");
    }
    assert_eq!((applier.refused, applier.in_group()), (0, false));
    kinds
}

fn pair() -> (Node, Cursor, Node) {
    let mut main = Node::new();
    let cursor = main.engine.listen();
    let mut replica = Node::new();
    replica.engine.store.random = Random::new(99); // What is drawn must not depend on both drawing alike.
    (main, cursor, replica)
}

#[test]
fn every_command_that_writes_is_recorded_so_that_its_effect_is_the_same_elsewhere() {
    // A command that has only sub-commands stands for them: its lines are theirs.
    let writes = |row: &&table::Command| row.is(flag::WRITE) || row.subcommands.iter().any(|sub| sub.is(flag::WRITE));
    let mut idle = Vec::new();
    for row in table::all().filter(writes) {
        let lines = EXAMPLES.iter().find(|(name, _)| *name == row.name).map(|(_, lines)| *lines);
        let lines = lines.unwrap_or_else(|| panic!("stream::tests::EXAMPLES has no line for {}", row.name));
        for line in lines {
            assert!(line.to_lowercase().starts_with(row.name), "{line} is no example of {}", row.name);
            let (mut main, mut cursor, mut replica) = pair();
            SETUP.iter().for_each(|line| drop(main.line(line)));
            main.pass(1234);
            carry_over(&main.engine, &mut cursor, &mut replica.engine);
            assert_eq!(contents(&main.engine.store), contents(&replica.engine.store), "before {line}");
            let reply = main.line(line);
            assert!(!reply.starts_with("-ERR") && !reply.starts_with("-WRONG"), "{line}: {reply}");
            main.pass(77);
            carry_over(&main.engine, &mut cursor, &mut replica.engine);
            assert_eq!(contents(&main.engine.store), contents(&replica.engine.store), "after {line}");
        }
        let changes = |line: &&&str| {
            let (mut main, _, _) = pair();
            SETUP.iter().for_each(|line| drop(main.line(line)));
            let before = contents(&main.engine.store);
            main.line(line);
            before != contents(&main.engine.store)
        };
        if !lines.iter().any(|line| changes(&line)) {
            idle.push(row.name);
        }
    }
    // FUNCTION changes libraries, not keys; of these nothing is recorded.
    assert_eq!(idle, ["function"], "no example of these changes anything");
}

#[test]
fn a_client_that_waited_is_recorded_as_the_pop_that_happened() {
    let (mut main, mut cursor, mut replica) = pair();
    for line in ["BLPOP none q 0", "BLMOVE q r LEFT RIGHT 0", "BZPOPMAX none zq 0", "BRPOPLPUSH r q2 0"] {
        let waiting = main.connect();
        assert_eq!(main.ask_as(waiting, &line.split(' ').collect::<Vec<_>>()), "");
    }
    for line in ["RPUSH q a b c", "ZADD zq 1 a 2 b", "MULTI", "RPUSH q d", "LPOP q", "EXEC"] {
        main.line(line);
    }
    carry_over(&main.engine, &mut cursor, &mut replica.engine);
    let held = contents(&main.engine.store);
    assert_eq!(held, contents(&replica.engine.store));
    assert_eq!(held.keys().map(|(_, key)| &key[..]).collect::<Vec<_>>(), [&b"q"[..], b"q2", b"zq"]);
}

#[test]
fn large_values_that_change_a_little_are_recorded_by_words() {
    let (mut main, mut cursor, mut replica) = pair();
    for number in 0..2000 {
        main.line(&format!("RPUSH l1 element-{number}"));
        main.line(&format!("SADD m1 member-{number}"));
        main.line(&format!("ZADD z1 {number} member-{number}"));
    }
    carry_over(&main.engine, &mut cursor, &mut replica.engine);
    for line in ["LMOVE l1 l2 LEFT RIGHT", "SMOVE m1 m2 member-7", "SPOP m1", "LMPOP 1 l1 LEFT", "ZMPOP 1 z1 MIN"] {
        main.line(line);
        let mut at = cursor;
        while let Ok(Some(record)) = main.engine.tail.next(&mut at) {
            assert!(record.bytes.len() < 200, "{line}: {} bytes", record.bytes.len());
        }
        carry_over(&main.engine, &mut cursor, &mut replica.engine);
        assert_eq!(contents(&main.engine.store), contents(&replica.engine.store), "{line}");
    }
}

#[test]
fn what_expires_or_is_evicted_on_the_main_goes_elsewhere_too() {
    let mut main = Node::with(&[("maxentries", "50"), ("maxmemory-policy", "allkeys-lru")]);
    let mut cursor = main.engine.listen();
    let mut replica = Node::new();
    main.line("SET short v PX 10");
    main.pass(20);
    main.line("GET short");
    (0..100).for_each(|number| drop(main.line(&format!("SET k{number} v"))));
    let kinds = carry_over(&main.engine, &mut cursor, &mut replica.engine);
    assert!(kinds[&(Kind::Removal as u8)] >= 50);
    assert_eq!(contents(&main.engine.store), contents(&replica.engine.store));
    assert!(replica.engine.store.len() <= 51);
}

#[test]
fn a_stream_of_some_slots_empties_no_others() {
    let (mut main, mut cursor, mut replica) = pair();
    let slots: SlotSet = [slot_of(b"a")].into_iter().collect();
    ["SET a 1", "SET b 2"].iter().for_each(|line| drop(main.line(line)));
    ["SET b mine", "SELECT 3", "SET b mine", "SELECT 0"].iter().for_each(|line| drop(replica.line(line)));
    let mut applier = Applier::new();
    let mut carry = |main: &Node, replica: &mut Node| {
        while let Some(record) = main.engine.tail.next(&mut cursor).expect("nothing was cut off") {
            if record.concerns(&slots) {
                applier.apply(&mut replica.engine, &record, Some(&slots)).expect("a record");
            } else {
                assert!(applier.apply(&mut replica.engine, &record, Some(&slots)).is_err());
            }
        }
    };
    carry(&main, &mut replica);
    replica.expect(&[("MGET a b", "*2 $1 1 $4 mine")]);
    main.line("SWAPDB 0 3");
    carry(&main, &mut replica);
    replica.expect(&[("MGET a b", "*2 $-1 $4 mine"), ("DBSIZE", ":1"), ("SELECT 3", "+OK"), ("GET a", "$1 1")]);
    main.line("FLUSHALL");
    carry(&main, &mut replica);
    replica.expect(&[("MGET a b", "*2 $-1 $4 mine")]);
}

#[test]
fn what_is_applied_is_recorded_in_turn() {
    let (mut main, mut cursor, mut replica) = pair();
    let mut onward = replica.engine.listen();
    let mut third = Node::new();
    SETUP.iter().for_each(|line| drop(main.line(line)));
    for line in
        ["DEL s1 l1", "MULTI", "SET s1 a EX 9", "SPOP m1", "EXEC", "SELECT 2", "SET x y", "SWAPDB 2 4", "FLUSHDB"]
    {
        main.line(line);
    }
    carry_over(&main.engine, &mut cursor, &mut replica.engine);
    carry_over(&replica.engine, &mut onward, &mut third.engine);
    assert_eq!(contents(&main.engine.store), contents(&replica.engine.store));
    assert_eq!(contents(&main.engine.store), contents(&third.engine.store));
}

fn lines() -> Vec<&'static str> {
    let seldom = ["FLUSHALL", "FLUSHDB", "SWAPDB 0 3"];
    let mut lines: Vec<&str> = EXAMPLES.iter().flat_map(|(_, lines)| lines.iter().copied()).collect();
    let known = |line: &&str| line.split(' ').next().is_some_and(|name| table::find(name.as_bytes()).is_some());
    lines.retain(|line| !seldom.contains(line) && known(line));
    lines.extend(SETUP.iter().cycle().take(lines.len() / 2));
    lines.extend(["SELECT 3", "SELECT 0", "MULTI", "EXEC", "DISCARD", "GET s1", "EXEC", "SELECT 0"]);
    lines.extend(seldom);
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_of_commands_gives_the_same_contents_elsewhere(
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0u64..900), 1..250)
    ) {
        let lines = lines();
        let (mut main, mut cursor, mut replica) = pair();
        for (pick, passing) in steps {
            main.line(lines[pick.index(lines.len())]);
            if passing > 700 {
                main.pass(passing);
            }
        }
        carry_over(&main.engine, &mut cursor, &mut replica.engine);
        prop_assert_eq!(contents(&main.engine.store), contents(&replica.engine.store));
    }

    #[test]
    fn entries_read_back_as_they_were_and_any_damage_is_an_error_or_another_entry(
        steps in prop::collection::vec(any::<prop::sample::Index>(), 1..80), damage in any::<(prop::sample::Index, u8)>(),
    ) {
        let lines = lines();
        let mut node = Node::new();
        for pick in steps {
            node.line(lines[pick.index(lines.len())]);
        }
        ["DISCARD", "SELECT 0"].iter().for_each(|line| drop(node.line(line)));
        let long = "y".repeat(5000);
        node.line(&format!("SET long {long}"));
        (0..300).for_each(|number| drop(node.line(&format!("HSET many f{number} {number}"))));
        let limits = node.engine.limits();
        let mut other = Store::new(12);
        other.set_now(node.engine.store.now());
        let store = &node.engine.store;
        let mut bytes = Vec::new();
        for database in 0..DATABASES as u8 {
            for slot in occupied(store, database) {
                store.entries_of_slot(database, slot).for_each(|each| codec::write_entry(store, each, database, &mut bytes));
            }
        }
        let mut reader = codec::Reader::new(&bytes);
        while !reader.is_empty() {
            let mut passing = reader;
            codec::read_entry(&mut reader, &mut other, &limits).expect("an entry");
            codec::read_head(&mut passing).expect("a head");
            codec::skip_value(&mut passing).expect("a value");
            prop_assert_eq!(passing.rest().len(), reader.rest().len());
        }
        prop_assert_eq!(contents(store), contents(&other));
        let at = damage.0.index(bytes.len());
        bytes[at] ^= damage.1;
        let mut reader = codec::Reader::new(&bytes);
        while !reader.is_empty() && codec::read_entry(&mut reader, &mut other, &limits).is_ok() {}
        let mut reader = codec::Reader::new(&bytes[..at]);
        while !reader.is_empty() && codec::read_entry(&mut reader, &mut other, &limits).is_ok() {}
    }
}

#[test]
fn lengths_that_are_announced_cost_nothing() {
    let mut store = Store::new(1);
    let limits = Node::new().engine.limits();
    for kind in [codec::kind::LIST, codec::kind::SET, codec::kind::HASH, codec::kind::SORTED_SET] {
        let mut bytes = vec![0, 1, 2, 3, 4, 1, b'k', kind, 0x81];
        bytes.extend_from_slice(&(1u64 << 60).to_be_bytes());
        let failure = codec::read_entry(&mut codec::Reader::new(&bytes), &mut store, &limits).unwrap_err();
        assert_eq!(failure, codec::Failure::Garbage(codec::Garbage("it ends too early")));
    }
    for value in [&[codec::kind::SET, 0][..], &[codec::kind::SET, 2, 1, b'a', 1, b'a'], &[9, 1]] {
        let mut bytes = vec![0, 1, 2, 3, 4, 1, b'k'];
        bytes.extend_from_slice(value);
        assert!(codec::read_entry(&mut codec::Reader::new(&bytes), &mut store, &limits).is_err());
    }
    assert_eq!((store.len(), store.arena.used()), (0, 0));
    assert_eq!(ValueKind::String.name(), "string");
}

/// What a copy's bytes hold.
fn contents_of_copy(bytes: &[u8], now: u64) -> BTreeMap<(u8, Vec<u8>), String> {
    let mut store = Store::new(77);
    store.set_now(now);
    let limits = Node::new().engine.limits();
    let mut reader = codec::Reader::new(bytes);
    while !reader.is_empty() {
        let (database, found) = codec::read_entry(&mut reader, &mut store, &limits).expect("an entry");
        assert!(usize::from(database) < DATABASES && store.find_any(database, b"").is_none());
        let _ = found;
    }
    contents(&store)
}

/// A node with a bit of everything: many small slots, a large one, huge values in it and elsewhere.
fn full_node() -> Node {
    let mut node = Node::new();
    SETUP.iter().for_each(|line| drop(node.line(line)));
    (0..1500).for_each(|number| drop(node.line(&format!("SET {{t}}k{number} value-{number}"))));
    (0..500).for_each(|number| drop(node.line(&format!("SET k{number} value-{number}"))));
    let long = "z".repeat(400_000);
    node.line(&format!("SET {{t}}huge {long}"));
    node.line(&format!("SET huge {long}"));
    let word = "w".repeat(1000);
    for number in 0..600 {
        node.line(&format!("RPUSH {{t}}hugelist {word}{number}"));
        node.line(&format!("HSET hugehash f{number} {word}"));
        node.line(&format!("SADD {{t}}hugeset {word}{number}"));
        node.line(&format!("ZADD hugezset {number} {word}{number}"));
    }
    ["SELECT 3", "SET {t}k7 elsewhere", "SET k7 elsewhere", "SELECT 0"].iter().for_each(|line| drop(node.line(line)));
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_is_what_there_was_at_its_beginning_whatever_is_written_meanwhile(
        seed in any::<u64>(), every in 1u64..6
    ) {
        let mut node = full_node();
        let mut random = Random::new(seed);
        let before = contents(&node.engine.store);
        let number = node.engine.copies.begin(&node.engine.store, SlotSet::all());
        let mut lines = lines();
        lines.retain(|line| !line.starts_with("FLUSH") && !line.contains(" NX"));
        let (mut bytes, mut turns) = (Vec::new(), 0);
        loop {
            let Engine { copies, store, .. } = &mut node.engine;
            let Some(copy) = copies.get_mut(number) else { panic!("it was abandoned") };
            let mut steps = random.below(20);
            copy.step(store, |_| { steps = steps.saturating_sub(1); steps == 0 });
            copy.ready.drain(..).for_each(|ready| bytes.extend_from_slice(&ready));
            bytes.append(&mut copy.out);
            if copy.done() {
                break;
            }
            turns += 1;
            for _ in 0..random.below(every as usize * 3) {
                let k = random.below(1600);
                let line = match random.below(12) {
                    0 => format!("SET {{t}}k{k} changed"),
                    1 => format!("DEL {{t}}k{k} k{k}"),
                    2 => format!("SET {{t}}new{k} fresh"),
                    3 => format!("RENAME {{t}}k{k} {{t}}renamed{k}"),
                    4 if k < 10 => "APPEND {t}huge more".to_owned(),
                    4 if k < 20 => "DEL huge".to_owned(),
                    4 if k < 30 => "LPOP {t}hugelist".to_owned(),
                    4 if k < 40 => "SREM {t}hugeset none".to_owned(),
                    5 if k < 50 => "ZADD hugezset 5 other".to_owned(),
                    5 if k < 60 => "HDEL hugehash f7".to_owned(),
                    6 if k < 100 => "SWAPDB 0 3".to_owned(),
                    7 => format!("MOVE {{t}}k{k} 3"),
                    8 => format!("COPY {{t}}k{k} {{t}}k{} DB 3 REPLACE", k / 2),
                    _ => lines[k % lines.len()].to_owned(),
                };
                node.line(&line);
            }
            prop_assert!(turns < 100_000);
        }
        let Engine { copies, .. } = &mut node.engine;
        let entries = copies.get_mut(number).map(|copy| copy.entries);
        copies.end(number);
        prop_assert_eq!(entries, Some(before.len() as u64));
        prop_assert_eq!(contents_of_copy(&bytes, 1_700_000_000_000), before);
    }
}

#[test]
fn a_write_to_a_huge_value_can_be_held_until_that_is_copied() {
    let mut node = full_node();
    let number = node.engine.copies.begin(&node.engine.store, SlotSet::all());
    let Engine { copies, store, .. } = &mut node.engine;
    assert!(!copies.hold(store, b"k1") && !copies.hold(store, b"none"));
    assert!(copies.hold(store, b"huge") && copies.hold(store, b"huge") && copies.hold(store, b"{t}hugelist"));
    let mut slices = 0;
    while copies.hold(store, b"huge") {
        copies.get_mut(number).unwrap().step(store, |_| true);
        slices += 1;
    }
    assert!(slices > 2, "{slices}");
    while copies.hold(store, b"{t}hugelist") {
        copies.get_mut(number).unwrap().step(store, |_| true);
    }
    copies.get_mut(number).unwrap().step(store, |_| false);
    assert!(copies.get_mut(number).unwrap().done());
    assert_eq!(copies.get_mut(number).unwrap().entries as usize, contents(store).len());
    node.line("FLUSHALL");
    assert!(node.engine.copies.get_mut(number).is_none());
}
