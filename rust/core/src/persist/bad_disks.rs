//! Disks that are full, fail or stand still, and files that they have damaged: nothing promised is lost, no wrong value is
//! served, and reads go on.

use super::disk::{Disk, HostDisk, Output};
use super::tests::{LOGGED, Place, info, kill, save, settle, start, start_on, turn, until};
use crate::store::random::Random;
use crate::stream::tests::contents;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
    // A client that waits for it, as the event loop has it wait.
    let (waiting, seq) = (node.connect(), node.engine.tail.seq());
    node.engine.clients.get_mut(waiting).unwrap().withheld.push_back((seq, b"+OK\r\n".to_vec()));
    node.engine.gate.waiting.push_back((seq, waiting));
    until(&mut node, |node| {
        node.pass(100);
        info(node, "log_failing") == "1"
    });
    turn(&mut node);
    assert!(node.line("SET refused 3").starts_with("-MISCONF the log cannot be written"));
    assert_eq!((node.line("GET before"), info(&mut node, "aof_last_write_status")), ("$1 1".into(), "err".into()));
    if force == "always" {
        assert_eq!(node.engine.gate.disk, None, "reads go on");
        let client = node.engine.clients.get(waiting).unwrap();
        assert!(client.dead && client.withheld.is_empty(), "a write that is not on disk must not be acknowledged");
        assert!(node.engine.gate.waiting.is_empty());
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
