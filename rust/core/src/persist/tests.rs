//! Persistence, end to end: what was written comes back, and damage is found, told, and confined.

use super::disk::{Disk, HostDisk, Output};
use super::keeper::Last;
use super::{Keeper, log, snapshot};
use crate::command::testing::Node;
use crate::store::random::Random;
use crate::stream::codec;
use crate::stream::tests::contents;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(&self.0).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect()
    }

    fn set(&self, files: &BTreeMap<String, Vec<u8>>) {
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

fn turn(node: &mut Node) {
    super::turn(&mut node.engine);
    node.engine.tail.trim(1 << 20);
}

fn until(node: &mut Node, mut done: impl FnMut(&mut Node) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done(node) {
        assert!(Instant::now() < end, "it takes too long: {}", node.line("INFO persistence"));
        turn(node);
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn info(node: &mut Node, field: &str) -> String {
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
fn kill(mut node: Node) {
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

/// A disk that is full, fails, or stands still, as it is told.
#[derive(Default)]
struct BadDisk {
    room: Arc<AtomicI64>,
    failing_sync: Arc<AtomicBool>,
    stopped: Arc<Mutex<()>>,
}

struct BadFile {
    file: Box<dyn Output>,
    room: Arc<AtomicI64>,
    failing_sync: Arc<AtomicBool>,
    stopped: Arc<Mutex<()>>,
    unsynced: Vec<u8>,
}

impl Disk for BadDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        if self.room.load(Ordering::SeqCst) <= 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (room, failing_sync) = (Arc::clone(&self.room), Arc::clone(&self.failing_sync));
        let file = HostDisk.create(path)?;
        Ok(Box::new(BadFile { file, room, failing_sync, stopped: Arc::clone(&self.stopped), unsynced: Vec::new() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }

    fn cut(&self, path: &Path, len: u64) -> io::Result<()> {
        HostDisk.cut(path, len)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        HostDisk.sync_directory(path)
    }
}

impl Output for BadFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        drop(self.stopped.lock());
        let room = self.room.fetch_sub(bytes.len() as i64, Ordering::SeqCst);
        if room < bytes.len() as i64 {
            self.file.write(&bytes[..room.clamp(0, bytes.len() as i64) as usize])?; // As much as there is room for.
            self.room.store(0, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.unsynced.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        drop(self.stopped.lock());
        if self.failing_sync.load(Ordering::SeqCst) {
            self.unsynced.clear(); // As Linux does: the pages are gone, and the next fsync says all is well.
            return Err(io::Error::other("input/output error"));
        }
        self.file.write(&std::mem::take(&mut self.unsynced))?;
        self.file.sync()
    }
}

fn failing_disk_is_survived(break_it: impl Fn(&BadDisk), mend_it: impl Fn(&BadDisk), force: &str) {
    let place = Place::new("bad");
    let disk = Arc::new(BadDisk::default());
    disk.room.store(1 << 30, Ordering::SeqCst);
    let settings = [("appendonly", "yes"), ("appendfsync", force), ("snapshot-interval", "0")];
    let mut node = start_on(&place, &settings, Arc::<BadDisk>::clone(&disk));
    node.line("SET before 1");
    settle(&mut node);
    break_it(&disk);
    node.line("SET meanwhile 2");
    until(&mut node, |node| {
        node.pass(100);
        info(node, "log_failing") == "1"
    });
    turn(&mut node);
    assert!(node.line("SET refused 3").starts_with("-MISCONF the log cannot be written"));
    assert_eq!((node.line("GET before"), info(&mut node, "aof_last_write_status")), ("$1 1".into(), "err".into()));
    if force == "always" {
        let safe = node.engine.gate.disk.expect("replies wait for the disk");
        assert!(safe < node.engine.tail.seq(), "a write that is not on disk must not be acknowledged");
    }
    mend_it(&disk);
    let mended = Instant::now();
    until(&mut node, |node| info(node, "log_failing") == "0");
    assert!(mended.elapsed() < Duration::from_secs(5));
    turn(&mut node);
    assert_eq!(node.line("SET after 4"), "+OK");
    settle(&mut node);
    if force == "always" {
        assert_eq!(node.engine.gate.disk, Some(node.engine.tail.seq()));
    }
    let held = contents(&node.engine.store);
    kill(node);
    let mut node = start(&place, &settings);
    assert_eq!(contents(&node.engine.store), held);
    node.expect(&[("MGET before meanwhile refused after", "*4 $1 1 $1 2 $-1 $1 4")]);
    assert_eq!(info(&mut node, "warm_up_damage"), "");
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else_until_there_is_room() {
    for force in ["always", "everysec", "no"] {
        let full = |disk: &BadDisk| disk.room.store(20, Ordering::SeqCst);
        failing_disk_is_survived(full, |disk| disk.room.store(1 << 30, Ordering::SeqCst), force);
    }
}

#[test]
fn a_failed_fsync_is_never_believed_and_what_it_lost_is_written_anew() {
    for force in ["always", "everysec"] {
        let failing = |disk: &BadDisk| disk.failing_sync.store(true, Ordering::SeqCst);
        failing_disk_is_survived(failing, |disk| disk.failing_sync.store(false, Ordering::SeqCst), force);
    }
}

#[test]
fn a_disk_that_stands_still_stops_writes_within_the_limit() {
    let place = Place::new("still");
    let disk = Arc::new(BadDisk::default());
    disk.room.store(1 << 30, Ordering::SeqCst);
    let settings = [("appendonly", "yes"), ("snapshot-interval", "0"), ("log-delay-limit", "1000")];
    let mut node = start_on(&place, &settings, Arc::<BadDisk>::clone(&disk));
    node.line("SET first 1");
    settle(&mut node);
    let standing = disk.stopped.lock().unwrap();
    let mut passed = 0;
    let refused = loop {
        let reply = node.line("INCR n");
        if reply.starts_with('-') {
            break reply;
        }
        node.pass(10);
        passed += 10;
        turn(&mut node);
        assert!(passed < 5000);
    };
    assert!(refused.starts_with("-BUSY the disk has not taken the log"), "{refused}");
    // The limit, what a batch may lie in memory, and a tenth of a second.
    assert!((1000..=1000 + 300 + 100).contains(&passed), "{passed} ms");
    assert_eq!(node.line("GET first"), "$1 1");
    drop(standing);
    until(&mut node, |node| !node.line("INCR n").starts_with('-'));
}

#[test]
fn a_snapshot_that_fails_leaves_the_last_one_and_no_rubbish() {
    let place = Place::new("fails");
    let disk = Arc::new(BadDisk::default());
    disk.room.store(1 << 30, Ordering::SeqCst);
    let mut node = start_on(&place, &[], Arc::<BadDisk>::clone(&disk));
    node.line("SET k v");
    save(&mut node);
    let before = place.files();
    for room in [0, 10, 300] {
        disk.room.store(room, Ordering::SeqCst);
        let failures = node.engine.keeper.as_ref().unwrap().figures.failures;
        node.line("SET k other");
        node.line("BGSAVE");
        until(&mut node, |node| node.engine.keeper.as_ref().unwrap().figures.failures > failures);
        assert_eq!(place.files(), before);
        assert_eq!((info(&mut node, "rdb_last_bgsave_status"), node.line("SET k third")), ("err".into(), "+OK".into()));
    }
    disk.room.store(1 << 30, Ordering::SeqCst);
    save(&mut node);
    assert_eq!(info(&mut node, "rdb_last_bgsave_status"), "ok");
}

/// Damage files of a log in all the ways disks do, `rounds` times, and start from each.
fn fuzz_log(rounds: u64, seed: u64) {
    let place = Place::new("fuzz");
    let mut node = start(&place, &LOGGED);
    let mut states = vec![contents(&node.engine.store)];
    let mut random = Random::new(seed);
    for number in 0..40 {
        let long = "long ".repeat(random.below(80));
        ["MULTI", &format!("SET key{} {long}x", number % 7), &format!("RPUSH list {number}"), "EXEC"]
            .iter()
            .for_each(|line| drop(node.line(line)));
        settle(&mut node);
        states.push(contents(&node.engine.store));
        if number == 15 {
            save(&mut node);
        }
        if number == 30 {
            kill(node);
            node = start(&place, &LOGGED);
        }
    }
    kill(node);
    let whole = place.files();
    let logs: Vec<String> = whole.keys().filter(|name| name.starts_with("log")).cloned().collect();
    assert_eq!(logs.len(), 2, "{logs:?}"); // The first was not needed behind the snapshot.
    let settings = [("snapshot-interval", "0")];
    let (mut told, mut unharmed, mut torn) = (0, 0, 0);
    for round in 0..rounds {
        let mut files = whole.clone();
        let name = &logs[random.below(logs.len())];
        let bytes = files.get_mut(name).expect("a log");
        let at = random.below(bytes.len());
        let len = 1 + random.below((bytes.len() - at).min(4096));
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => {
                bytes[at] ^= 0xFF;
                let other = random.below(bytes.len());
                bytes[other] ^= 1 << random.below(8);
            }
            2 => bytes.truncate(at),
            3 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at..at + len].fill(0),
        }
        // With checksums that are right, wrong contents may be believed: then only this holds, that a node starts.
        let believed = random.below(2) == 0 && mend_checksums(bytes);
        let changed = *bytes != whole[name];
        place.set(&files);
        let mut node = start(&place, &settings);
        if believed {
            continue;
        }
        let held = contents(&node.engine.store);
        let damage = info(&mut node, "warm_up_damage");
        let at = states.iter().position(|state| *state == held);
        assert!(at.is_some(), "seed {seed} round {round}: what came back never was");
        if at == Some(states.len() - 1) {
            unharmed += 1;
        } else if !damage.is_empty() {
            told += 1;
        } else {
            // Nothing said: then it must look like an end that was being written.
            assert!(changed && *name == logs[logs.len() - 1], "seed {seed} round {round}: lost in silence");
            torn += 1;
        }
    }
    assert!(told > rounds / 10 && torn > rounds / 50, "{told} told, {torn} torn, {unharmed} unharmed");
}

/// Make the checksums right of all frames that stand where they should; whether one was wrong.
fn mend_checksums(bytes: &mut [u8]) -> bool {
    let (mut at, mut mended) = (0, false);
    while let Ok(head) = super::frame::Head::read(&bytes[at..]) {
        let end = (at + super::frame::HEAD + head.stored).min(bytes.len());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[at..at + 24]);
        hasher.update(&bytes[at + super::frame::HEAD..end]);
        let right = hasher.finalize().to_le_bytes();
        mended |= bytes[at + 24..at + super::frame::HEAD] != right;
        bytes[at + 24..at + super::frame::HEAD].copy_from_slice(&right);
        at = end;
    }
    mended
}

#[test]
fn a_log_damaged_in_any_way_gives_a_state_there_was_and_says_what_is_lost() {
    let rounds = std::env::var("FASTCACHE_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    let seed = std::env::var("FASTCACHE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_126);
    println!("seed {seed}, {rounds} rounds");
    fuzz_log(rounds, seed);
}

#[test]
fn log_files_are_named_by_their_first_record() {
    assert_eq!(log::name(101), "log-00000000000000000101.fclog");
    assert_eq!(snapshot::name(12), "snapshot-00000012.fcsnap");
}
