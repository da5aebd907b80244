//! Persistence, end to end: what was written comes back, and damage is found, told, and confined.

use super::disk::{Disk, HostDisk};
use super::keeper::Last;
use super::{Keeper, log, snapshot};
use crate::command::testing::Node;
use crate::stream::codec;
use crate::stream::tests::contents;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A directory that goes with the test.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Place {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fastcache-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }

    /// Its files and what is in them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(&self.0).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect()
    }

    pub fn set(&self, files: &BTreeMap<String, Vec<u8>>) {
        self.files().keys().for_each(|name| std::fs::remove_file(self.0.join(name)).unwrap());
        files.iter().for_each(|(name, bytes)| std::fs::write(self.0.join(name), bytes).unwrap());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node that keeps its data in a directory; loaded when this returns.
pub fn start(place: &Place, settings: &[(&str, &str)]) -> Node {
    start_on(place, settings, Arc::new(HostDisk))
}

pub fn start_on(place: &Place, settings: &[(&str, &str)], disk: Arc<dyn Disk>) -> Node {
    let directory = place.0.to_string_lossy().into_owned();
    let mut all = vec![("dir", directory.as_str()), ("log-format", "json")];
    all.extend(settings);
    let mut node = Node::with(&all);
    Keeper::open_on(&mut node.engine, disk).expect("it opens");
    until(&mut node, |node| !node.engine.loading);
    node
}

pub fn turn(node: &mut Node) {
    super::turn(&mut node.engine);
    node.engine.tail.trim(1 << 20);
}

pub fn until(node: &mut Node, mut done: impl FnMut(&mut Node) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done(node) {
        assert!(Instant::now() < end, "it takes too long: {}", node.line("INFO persistence"));
        turn(node);
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub fn info(node: &mut Node, field: &str) -> String {
    let info = node.line("INFO persistence");
    let from = info.find(&format!(" {field}:")).unwrap_or_else(|| panic!("no {field} in {info}"));
    info[from + field.len() + 2..].split(' ').next().unwrap_or_default().to_owned()
}

pub fn save(node: &mut Node) {
    let before = node.engine.keeper.as_ref().map_or(0, |keeper| keeper.figures.count);
    assert_eq!(node.line("BGSAVE"), "+Background saving started");
    until(node, |node| node.engine.keeper.as_ref().is_some_and(|keeper| keeper.figures.count > before));
}

/// All that was written is on disk.
pub fn settle(node: &mut Node) {
    let mut keeper = node.engine.keeper.take().expect("a keeper");
    keeper.settle(&mut node.engine);
    node.engine.keeper = Some(keeper);
}

/// The node is gone without a last snapshot, as after kill -9; its threads have ended.
pub fn kill(mut node: Node) {
    settle(&mut node);
}

const FILL: &[&str] = &[
    "SET s1 value",
    "SET s2 other EX 100",
    "RPUSH l1 a b a c",
    "HSET h1 f 9 n 3",
    "SADD m1 a b c d",
    "SADD m2 1 2 3",
    "ZADD z1 1 a 2 b 3.5 c",
    "SELECT 4",
    "SET there too PX 900000",
    "SELECT 0",
    "SPOP m1",
    "LMOVE l1 l2 LEFT RIGHT",
];

pub const LOGGED: [(&str, &str); 3] = [("appendonly", "yes"), ("appendfsync", "always"), ("snapshot-interval", "0")];

#[test]
fn a_snapshot_brings_back_everything_with_its_times() {
    let place = Place::new("snapshot");
    let mut node = start(&place, &[]);
    FILL.iter().for_each(|line| drop(node.line(line)));
    node.pass(3000);
    node.line("APPEND s1 more");
    (0..2000).for_each(|number| drop(node.line(&format!("SET key{number} {number}"))));
    let held = contents(&node.engine.store);
    save(&mut node);
    assert_eq!(info(&mut node, "snapshot_entries"), held.len().to_string());
    assert_eq!(info(&mut node, "rdb_changes_since_last_save"), "0");
    node.line("SET later x");
    kill(node);
    let mut node = start(&place, &[]);
    assert_eq!(contents(&node.engine.store), held);
    let told = node.line("FASTCACHE ENTRY s1");
    assert!(told.contains("createdAt :1700000000000") && told.contains("updatedAt :1700000003000"), "{told}");
    assert_eq!(info(&mut node, "rdb_last_load_keys_loaded"), held.len().to_string());
}

#[test]
fn libraries_of_functions_come_back_from_snapshot_and_log() {
    let place = Place::new("functions");
    let code = |name: &str| format!("#!lua name={name}\nredis.register_function('{name}', function() return 5 end)");
    let mut node = start(&place, &LOGGED);
    for name in ["kept", "deleted", "gone"] {
        assert_eq!(node.ask(&["FUNCTION", "LOAD", &code(name)]), format!("${} {name}", name.len()));
    }
    node.line("SET k v");
    save(&mut node);
    node.line("FUNCTION DELETE deleted");
    node.ask(&["FUNCTION", "LOAD", &code("logged")]);
    settle(&mut node);
    let told = node.line("FUNCTION LIST WITHCODE");
    kill(node);
    let snapshot_alone = place.files();
    let mut node = start(&place, &LOGGED);
    assert_eq!(node.line("FUNCTION LIST WITHCODE"), told);
    assert_eq!(node.line("FCALL logged 0"), ":5");
    // A client that loads what is there is told so, as before the restart.
    assert_eq!(node.ask(&["FUNCTION", "LOAD", &code("kept")]), "-ERR Library 'kept' already exists");
    kill(node);
    place.set(&snapshot_alone.into_iter().filter(|(name, _)| name.ends_with(".fcsnap")).collect());
    let mut node = start(&place, &[("snapshot-interval", "0")]);
    assert_eq!(node.line("FCALL deleted 0"), ":5");
    assert_eq!(node.line("FCALL logged 0"), "-ERR Function not found");
    assert_eq!(node.line("GET k"), "$1 v");
    let path = snapshot::list(&place.0).unwrap().remove(0).1;
    let mut entries = super::entries::Entries::open(&path).unwrap();
    while entries.next_entry(|_, _, _| ()).unwrap().is_some() {}
    assert_eq!(entries.libraries(), [code("deleted").as_bytes(), code("gone").as_bytes(), code("kept").as_bytes()]);
}

#[test]
fn a_file_of_redis_is_what_a_node_begins_with_that_has_nothing_of_its_own() {
    use crate::stream::rdb::crc64;
    let place = Place::new("dump");
    let dump = place.0.join("other.rdb");
    let seal = |mut bytes: Vec<u8>| {
        bytes.push(0xff);
        let sum = crc64::update(0, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    };
    let mut whole = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xf5\x41\x40".to_vec();
    let code = format!("#!lua name=lib\nredis.register_function('lib', function() return 5 end){}", " ".repeat(256));
    whole.truncate(whole.len() - 2);
    codec::put_string(&mut whole, code.as_bytes());
    whole.extend_from_slice(
        b"\xfe\x00\x00\x01a\xc0\x0a\xfe\x03\xfc\xff\xff\xff\xff\xff\x07\x00\x00\x04\x01h\x01\x01f\x01v",
    );
    whole.extend_from_slice(b"\xfc\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01g\x01x");
    let whole = seal(whole);
    std::fs::write(&dump, &whole).unwrap();
    let named = [("dbfilename", "other.rdb"), ("snapshot-interval", "60")];
    let mut node = start(&place, &named);
    assert_eq!(info(&mut node, "warm_up_damage"), "");
    node.expect(&[
        ("GET a", "$2 10"),
        ("FCALL lib 0", ":5"),
        ("SELECT 3", "+OK"),
        ("HGET h f", "$1 v"),
        ("GET g", "$-1"),
    ]);
    assert!(node.integer(&["PTTL", "h"]) > 0);
    assert_eq!(info(&mut node, "rdb_last_load_keys_loaded"), "2");
    assert_eq!(info(&mut node, "rdb_last_load_keys_expired"), "1");
    // The first snapshot takes its place.
    until(&mut node, |node| node.engine.keeper.as_ref().is_some_and(|keeper| keeper.figures.count == 1));
    kill(node);
    std::fs::write(&dump, b"spoilt").unwrap();
    let mut node = start(&place, &named);
    node.expect(&[("GET a", "$2 10"), ("FCALL lib 0", ":5")]);
    assert_eq!(info(&mut node, "warm_up_damage"), "");
    kill(node);
    // One that is damaged is told, and nothing of it is loaded.
    for spoilt in [&whole[..whole.len() - 9], &whole[..40], b"hello, I am no file of Redis"] {
        place.set(&[("other.rdb".to_owned(), spoilt.to_vec())].into());
        let mut node = start(&place, &named);
        assert!(node.line("INFO persistence").contains("other.rdb: "), "{}", node.line("INFO persistence"));
        node.expect(&[("DBSIZE", ":0"), ("FCALL lib 0", "-ERR Function not found")]);
        kill(node);
        assert_eq!(std::fs::read(&dump).unwrap(), spoilt);
    }
    // With a log, what was loaded is in the snapshot that the log begins with.
    place.set(&[("other.rdb".to_owned(), whole)].into());
    let all = [&LOGGED[..], &named[..1]].concat();
    let mut node = start(&place, &all);
    until(&mut node, |node| node.engine.keeper.as_ref().is_some_and(|keeper| keeper.figures.count == 1));
    node.line("SET later x");
    settle(&mut node);
    kill(node);
    std::fs::remove_file(&dump).unwrap();
    let mut node = start(&place, &all);
    node.expect(&[("GET a", "$2 10"), ("GET later", "$1 x"), ("FCALL lib 0", ":5")]);
}

#[test]
fn the_last_three_are_kept_and_one_is_taken_when_it_is_time_and_something_changed() {
    let place = Place::new("keep");
    let mut node = start(&place, &[("snapshot-interval", "60")]);
    for round in 0..5 {
        node.line(&format!("SET k {round}"));
        node.pass(61_000);
        until(&mut node, |node| node.engine.keeper.as_ref().is_some_and(|keeper| keeper.figures.count == round + 1));
    }
    node.pass(61_000);
    (0..50).for_each(|_| turn(&mut node));
    assert_eq!(info(&mut node, "rdb_saves"), "5");
    let names: Vec<String> = place.files().into_keys().collect();
    assert_eq!(names, ["snapshot-00000003.fcsnap", "snapshot-00000004.fcsnap", "snapshot-00000005.fcsnap"]);
    let waiting = node.connect();
    assert_eq!(node.ask_as(waiting, &["FASTCACHE", "SNAPSHOT"]), "");
    until(&mut node, |node| node.engine.clients.get(waiting).is_some_and(|client| client.blocked.is_none()));
    let told = node.heard(waiting);
    assert!(told.contains("snapshot-00000006.fcsnap $7 entries :1"), "{told}");
}

#[test]
fn a_node_that_stops_in_order_keeps_everything() {
    let place = Place::new("stop");
    let mut node = start(&place, &[]);
    FILL.iter().for_each(|line| drop(node.line(line)));
    let held = contents(&node.engine.store);
    super::close(&mut node.engine);
    let mut node = start(&place, &[]);
    assert_eq!(contents(&node.engine.store), held);
    node.line("SET unsaved x");
    node.line("SHUTDOWN NOSAVE");
    assert_eq!(node.engine.keeper.as_ref().map(|keeper| keeper.last), Some(Last::Skip));
    super::close(&mut node.engine);
    assert_eq!(contents(&start(&place, &[]).engine.store), held);
}

#[test]
fn emptying_a_database_meanwhile_begins_the_snapshot_anew() {
    let place = Place::new("flush");
    let mut node = start(&place, &[]);
    (0..20_000).for_each(|number| drop(node.line(&format!("SET key{number} {number}"))));
    node.line("BGSAVE");
    turn(&mut node);
    node.line("FLUSHALL");
    node.line("SET only one");
    until(&mut node, |node| node.engine.keeper.as_ref().is_some_and(|keeper| keeper.figures.count == 1));
    assert_eq!(info(&mut node, "snapshot_entries"), "1");
}

#[test]
fn the_log_brings_back_every_write_and_goes_on_over_restarts() {
    let place = Place::new("log");
    let mut node = start(&place, &LOGGED);
    for round in 0..4 {
        FILL.iter().for_each(|line| drop(node.line(line)));
        node.line(&format!("SET round {round}"));
        ["MULTI", "INCR n", "LPUSH l9 x", "EXEC"].iter().for_each(|line| drop(node.line(line)));
        if round == 2 {
            save(&mut node);
            node.line("SET after snapshot");
        }
        settle(&mut node);
        let held = contents(&node.engine.store);
        kill(node);
        node = start(&place, &LOGGED);
        assert_eq!(contents(&node.engine.store), held, "round {round}");
        assert_eq!(info(&mut node, "warm_up_damage"), "");
    }
    assert_eq!(node.line("GET n"), "$1 4");
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before_and_the_log_makes_up_for_it() {
    let place = Place::new("damaged");
    let mut node = start(&place, &LOGGED);
    for round in 0..3 {
        node.line(&format!("SET round {round}"));
        node.line(&format!("SET key{round} {round}"));
        save(&mut node);
    }
    node.line("SET last write");
    settle(&mut node);
    let held = contents(&node.engine.store);
    kill(node);
    for number in [3, 2] {
        let path = place.0.join(snapshot::name(number));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let mut node = start(&place, &[("snapshot-interval", "0")]);
        assert_eq!(contents(&node.engine.store), held);
        assert!(node.line("INFO persistence").contains(&format!("snapshot-{number:08}.fcsnap: piece")));
    }
}

#[test]
fn a_torn_end_is_cut_and_damage_in_the_middle_is_told_and_put_aside() {
    let place = Place::new("torn");
    let mut node = start(&place, &LOGGED);
    let mut states = vec![contents(&node.engine.store)];
    for number in 0..10 {
        node.line(&format!("SET key{number} {number}"));
        settle(&mut node);
        states.push(contents(&node.engine.store));
    }
    kill(node);
    let whole = place.files();
    let (name, bytes) = whole.iter().next().expect("a log");
    // Torn at every byte: what is whole comes back, the rest is cut, and writing goes on behind it.
    for len in (0..bytes.len()).step_by(11).chain([bytes.len() - 1]) {
        place.set(&[(name.clone(), bytes[..len].to_vec())].into());
        let mut node = start(&place, &LOGGED);
        let held = contents(&node.engine.store);
        assert!(states.contains(&held) && info(&mut node, "warm_up_damage").is_empty(), "at {len}");
        node.line("SET again here");
        settle(&mut node);
        let held = contents(&node.engine.store);
        kill(node);
        let mut node = start(&place, &LOGGED);
        assert_eq!(contents(&node.engine.store), held, "at {len}");
        assert_eq!(info(&mut node, "warm_up_damage"), "");
        kill(node);
    }
    // In the middle: told, and what came before it comes back.
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    place.set(&[(name.clone(), damaged)].into());
    let mut node = start(&place, &LOGGED);
    let held = contents(&node.engine.store);
    assert!(states[1..10].contains(&held));
    let told = node.line("INFO persistence");
    assert!(told.contains("it is damaged at byte") && told.contains("is lost"), "{told}");
    node.line("SET go on");
    settle(&mut node);
    let held = contents(&node.engine.store);
    kill(node);
    assert_eq!(contents(&start(&place, &LOGGED).engine.store), held);
}

#[test]
fn what_does_not_fit_is_left_out_the_oldest_first_and_the_expired_are_skipped() {
    let place = Place::new("fit");
    let mut node = start(&place, &[]);
    for number in 0..3000 {
        node.line(&format!("SET key{number} {number}"));
        if number % 10 == 9 {
            node.pass(1000);
        }
    }
    node.line("SET short v PX 10");
    node.line("SET key5 used-again");
    save(&mut node);
    kill(node);
    let mut node = start(&place, &[("maxentries", "1000"), ("maxmemory-policy", "allkeys-lru")]);
    let held = node.engine.store.len();
    assert!((950..=1001).contains(&held), "{held}");
    node.expect(&[("GET key5", "$10 used-again"), ("GET key6", "$-1"), ("GET key2999", "$4 2999")]);
    assert!(info(&mut node, "warm_up_left_out").parse::<u32>().unwrap() >= 1999);
}

#[test]
fn while_data_are_loaded_clients_are_told_so() {
    let place = Place::new("loading");
    let mut node = start(&place, &[]);
    node.line("SET k v");
    save(&mut node);
    kill(node);
    let mut node = Node::with(&[("dir", &place.0.to_string_lossy())]);
    Keeper::open(&mut node.engine).unwrap();
    node.expect(&[("GET k", "-LOADING Redis is loading the dataset in memory"), ("LASTSAVE", ":1700000000")]);
    assert_eq!(info(&mut node, "loading_total_bytes").parse::<u64>().map(|_| ()), Ok(()));
    until(&mut node, |node| !node.engine.loading);
    node.expect(&[("GET k", "$1 v")]);
}

#[test]
fn log_files_are_named_by_their_first_record() {
    assert_eq!(log::name(101), "log-00000000000000000101.fclog");
    assert_eq!(snapshot::name(12), "snapshot-00000012.fcsnap");
}
