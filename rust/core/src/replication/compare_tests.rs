//! Copies that are damaged are found and repaired, and copies that are not are never told to be.

use super::compare::PATIENCE_MS;
use super::frames::Frame;
use super::tests::{Pair, flagged};
use super::{Counts, digest, run_of};
use crate::command::client::Token;

use crate::slot::slot_of;
use crate::stream::codec;

/// A strict pair in sync, with these keys.
fn pair(seed: u64, keys: &[&str]) -> Pair {
    let mut pair = Pair::new(seed);
    pair.obey(flagged(2, "a", r#""replication","strict""#, "replicas"));
    pair.connect();
    pair.settle();
    for key in keys {
        pair.main.engine.clients.get_mut(0).unwrap().consistency = Some(false);
        assert_eq!(pair.main.ask(&["SET", key, "right"]), "+OK");
    }
    pair.settle();
    pair
}

fn counts(pair: &Pair) -> Counts {
    pair.main.engine.replication.as_ref().unwrap().counts
}

/// FASTCACHE COMPARE by a client of its own: what it is told in the end.
fn compare(pair: &mut Pair, keys: &[&str]) -> String {
    let asking = pair.main.connect();
    compare_as(pair, asking, keys)
}

fn compare_as(pair: &mut Pair, asking: Token, keys: &[&str]) -> String {
    pair.main.engine.clients.get_mut(asking).unwrap().routed = true;
    let mut told = begin(pair, asking, keys);
    for _ in 0..10_000 {
        if !told.is_empty() {
            return told;
        }
        pair.turn();
        // However slow the wire is.
        pair.main.engine.replication.as_mut().unwrap().comparing.began_at(pair.now);
        told = pair.main.heard(asking);
    }
    panic!("nobody was told anything")
}

/// Ask, at the pair's time.
fn begin(pair: &mut Pair, asking: Token, keys: &[&str]) -> String {
    let request: Vec<&str> = ["FASTCACHE", "COMPARE"].iter().chain(keys).copied().collect();
    let told = pair.main.ask_as(asking, &request);
    pair.main.engine.replication.as_mut().unwrap().comparing.began_at(pair.now);
    told
}

fn damage(pair: &mut Pair, key: &str, value: Option<&str>) {
    let store = &mut pair.replica.engine.store;
    match value {
        Some(value) => store.put_text(0, key.as_bytes(), value.as_bytes(), crate::store::Keep::Nothing).unwrap(),
        None => {
            let found = store.find_any(0, key.as_bytes()).unwrap();
            store.remove(found);
        }
    }
}

fn of_replica(pair: &Pair, key: &str) -> Option<Vec<u8>> {
    let store = &pair.replica.engine.store;
    let found = store.find_any(0, key.as_bytes())?;
    let mut value = Vec::new();
    codec::write_value(store, store.handle_of(found), &mut value);
    Some(value)
}

#[test]
fn a_copy_that_has_something_else_is_found_and_repaired() {
    let mut pair = pair(1, &["whole", "changed", "gone"]);
    let right = of_replica(&pair, "changed");
    damage(&mut pair, "changed", Some("wrong"));
    damage(&mut pair, "gone", None);
    damage(&mut pair, "never", Some("was there"));
    let told = compare(&mut pair, &["whole", "changed", "gone", "never"]);
    let copies = ["same", "repaired", "repaired", "repaired"]
        .map(|verdict| format!("*2 $1 a *2 $1 b ${} {verdict}", verdict.len()))
        .join(" ");
    assert_eq!(told, format!("*4 {copies}"));
    assert_eq!((of_replica(&pair, "changed"), of_replica(&pair, "gone")), (right.clone(), right));
    assert_eq!(of_replica(&pair, "never"), None);
    pair.same();
    let Counts { differed, repaired, .. } = counts(&pair);
    assert_eq!((differed, repaired), (3, 3));
    pair.main.engine.clients.get_mut(0).unwrap().consistency = None;
    assert_eq!(compare(&mut pair, &["changed"]), "*1 *2 $1 a *2 $1 b $4 same");
}

#[test]
fn where_one_key_of_a_slot_was_damaged_the_others_are_looked_at() {
    others_are_looked_at(30);
    // Copied anew in slices: it is asked once all of them are there.
    others_are_looked_at(2500);
}

fn others_are_looked_at(count: usize) {
    let keys: Vec<String> = (0..count).map(|number| format!("{{tag}}{number}")).collect();
    let mut pair = pair(2, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    damage(&mut pair, "{tag}1", Some("wrong"));
    damage(&mut pair, "{tag}2", Some("wrong"));
    damage(&mut pair, "{tag}3", None);
    damage(&mut pair, "{tag}more", Some("never was"));
    assert!(compare(&mut pair, &["{tag}1"]).contains("repaired"));
    for _ in 0..100 {
        pair.turn();
    }
    pair.settle();
    pair.same();
    let Counts { differed, repaired, .. } = counts(&pair);
    assert_eq!((differed, repaired), (2, 2), "the key and its slot");
    assert!(pair.main.engine.replication.as_ref().unwrap().sources[0].settled());
}

#[test]
fn a_copy_that_is_behind_is_asked_once_it_was_sent_everything() {
    let mut pair = pair(9, &["last"]);
    let (asking, value) = (pair.main.connect(), "x".repeat(200_000));
    for number in 0..10 {
        pair.main.ask(&["SET", &format!("k{number}"), &value]);
        pair.main.ask(&["APPEND", "last", "."]);
    }
    // More than is written in one turn.
    assert_eq!(compare_as(&mut pair, asking, &["last"]), "*1 *2 $1 a *2 $1 b $4 same");
}

#[test]
fn a_strict_read_has_copies_compared_and_repaired_behind_it() {
    let mut pair = pair(3, &["hot", "cold"]);
    damage(&mut pair, "hot", Some("wrong"));
    let client = pair.main.connect();
    for _ in 0..20 {
        pair.now += 100;
        pair.turn(); // The budget fills.
    }
    let read = |pair: &mut Pair, key: &str| {
        let args = crate::resp::request::OwnedArgs::from_parts([&b"GET"[..], key.as_bytes()]);
        let client = pair.main.engine.clients.take(client).unwrap();
        super::compare::read(&mut pair.main.engine, &client, &args.as_args(), pair.now);
        pair.main.engine.clients.put_back(client);
    };
    read(&mut pair, "hot");
    for _ in 0..50 {
        pair.turn();
    }
    pair.same();
    let before = counts(&pair);
    assert_eq!((before.differed, before.repaired), (1, 1));
    // A hot key is not compared again and again, whatever the budget; another one is.
    for _ in 0..10 {
        read(&mut pair, "hot");
    }
    for _ in 0..10 {
        pair.turn();
    }
    assert_eq!(counts(&pair).compared, before.compared);
    read(&mut pair, "cold");
    for _ in 0..50 {
        pair.turn();
    }
    assert_eq!(counts(&pair).compared, before.compared + 1);
    // Nothing is looked at once the budget is spent.
    for number in 0..5000 {
        read(&mut pair, &format!("k{number}"));
    }
    assert!(!pair.main.engine.replication.as_ref().unwrap().comparing.may_look());
}

#[test]
fn copies_in_the_midst_of_writes_are_never_told_to_differ() {
    for seed in 0..2 {
        let mut pair = pair(10 + seed, &["k"]);
        pair.main.engine.clients.get_mut(0).unwrap().consistency = Some(false);
        let asking = pair.main.connect();
        pair.main.line("XGROUP CREATE {big}log g 0 MKSTREAM");
        for round in 0..20 {
            for _ in 0..5 {
                pair.write_something();
                write_more(&mut pair);
                if pair.random.below(3) == 0 {
                    pair.turn();
                }
            }
            let names = ["{big}set", "{big}list", "hash", "{big}zset", "{big}log", "{big}hll", "geo", "bits"];
            let key = format!("k{}", pair.random.below(200));
            let tagged = format!("{{big}}{}", pair.random.below(3000));
            let keys: Vec<&str> = names.into_iter().chain([&key[..], &tagged[..]]).collect();
            let told = compare_as(&mut pair, asking, &keys);
            assert_eq!(told.matches("$4 same").count(), keys.len(), "seed {seed}, round {round}: {told}");
        }
        assert_eq!(counts(&pair).differed, 0);
    }
}

fn write_more(pair: &mut Pair) {
    let number = pair.random.below(50).to_string();
    let words: &[&str] = match pair.random.below(14) {
        0 | 1 => &["XADD", "{big}log", "*", "field", &number],
        2 => &["XREADGROUP", "GROUP", "g", &number, "COUNT", "2", "STREAMS", "{big}log", ">"],
        3 => &["XTRIM", "{big}log", "MAXLEN", "~", "20"],
        4 => &["XACK", "{big}log", "g", "0-1"],
        5 => &["PFADD", "{big}hll", &number],
        6 => &["PFCOUNT", "{big}hll"],
        7 => &["GEOADD", "geo", "13.3", "38.1", &number],
        8 => &["SETBIT", "bits", &number, "1"],
        9 => &["XDEL", "{big}log", "0-1"],
        10 => &["INCRBYFLOAT", "k", "0.1"],
        11 => &["ZINCRBY", "{big}zset", "0.3", &number],
        12 => &["XAUTOCLAIM", "{big}log", "g", &number, "0", "0"],
        _ => &["HINCRBYFLOAT", "hash", &number, "1.5"],
    };
    pair.main.ask_as(0, words);
}

#[test]
fn who_is_of_an_older_release_is_not_asked() {
    let mut pair = Pair::new(5);
    pair.connect();
    let run = run_of(&pair.main.engine).replace('c', "");
    pair.wire_is(Frame::Start { run: run.as_bytes(), seq: 0, whole: true });
    pair.settle();
    assert!(!pair.main.engine.replication.as_ref().unwrap().sources[0].compares);
    assert_eq!(compare(&mut pair, &["k"]), "*1 *2 $1 a *2 $1 b $3 old");
}

#[test]
fn who_does_not_answer_is_told_to_be_away() {
    let mut pair = pair(6, &["k"]);
    let asking = pair.main.connect();
    assert_eq!(begin(&mut pair, asking, &["k"]), "");
    super::compare::settle(&mut pair.main.engine, pair.now + PATIENCE_MS / 2);
    assert_eq!(pair.main.heard(asking), "");
    super::compare::settle(&mut pair.main.engine, pair.now + PATIENCE_MS + 100);
    assert_eq!(pair.main.heard(asking), "*1 *2 $1 a *2 $1 b $4 away");
    // Nor does an answer come to somebody else who has the place of one that left.
    begin(&mut pair, asking, &["k"]);
    crate::command::blocking::answer(&mut pair.main.engine, asking, b"");
    for _ in 0..20 {
        pair.turn();
    }
    assert_eq!(pair.main.heard(asking), "");
}

#[test]
fn answers_that_nobody_asked_for_end_the_stream() {
    let mut pair = pair(7, &["k"]);
    let source = &mut pair.main.engine.replication.as_mut().unwrap().sources[0];
    assert!(source.take(Frame::Checked { number: 1, has: true, digest: 5 }, 0).is_err());
    assert!(source.answers.is_empty());
    let now = pair.now;
    let slot = slot_of(b"k");
    let engine = &mut pair.replica.engine;
    let mut replication = engine.replication.take().unwrap();
    for (slot, database) in [(slot + 1, 0), (slot, 16)] {
        let frame = Frame::Check { number: 1, slot, database, key: b"k" };
        assert!(replication.sinks[0].take(engine, frame, now).is_err());
    }
}

#[test]
fn digests_are_what_other_releases_work_out() {
    let mut pair = Pair::new(8);
    pair.main.line("SET k v");
    pair.main.line("SADD s 1 two");
    pair.main.line("XADD x 1-1 field value");
    let store = &pair.main.engine.store;
    let digests = ["k", "s", "x"].map(|key| digest::of_key(store, 0, key.as_bytes()));
    // Other numbers need another letter in `run_of`, or nodes of two releases find fault with one another.
    assert_eq!(digests, [3_139_825_795_799_991_097, 8_689_325_835_247_747_470, 1_142_897_143_875_886_111]);
    assert_ne!(digest::of_key(store, 1, b"k"), digests[0]);
}
