//! Warm-up: what is on disk comes back into memory, while clients are told to wait.
//!
//! A thread reads and checks; the loop puts entries into the store, a slice in each turn. The newest whole snapshot is
//! taken; one that is damaged is passed over, loudly, for the one before. Then the log goes on from there. What has
//! expired is skipped. When it does not all fit, what was updated most recently comes first.

use super::disk::Disk;
use super::entries::Entries;
use super::log;
use super::note::Notes;
use super::snapshot::{self, About, Reader as File, Sum, Wrong};
use crate::command::Engine;
use crate::command::settings::Name;
use crate::stream::apply::Applier;
use crate::stream::codec::{self, Failure, Reader};
use crate::stream::tail::Record;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Of what memory may hold, how much is loaded at most: writes need room too.
const FILL_PERCENT: u64 = 90;
/// What an entry costs beside its bytes, about.
const OVERHEAD: u64 = 32;

/// What the thread hands to the loop.
pub(super) enum Piece {
    /// A snapshot begins; what is older than fits is left out.
    Begin { about: About, oldest: Oldest, from_dump: bool },
    /// Entries, a piece of their bytes.
    Entries(Vec<u8>),
    /// The snapshot was read to its end, and is whole.
    Whole(Sum),
    /// Records of what belongs to no entry.
    Libraries(Vec<u8>),
    /// The snapshot is damaged: what was loaded of it goes, and something else is done.
    Damaged { path: PathBuf, what: String, instead: &'static str },
    /// Records of the log; none when a new run begins.
    Records(Vec<u8>),
    /// All is read.
    End(log::Read),
    /// It cannot be read.
    Failed(String),
}

/// What a warm-up did.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Entries put.
    pub entries: u64,
    /// Entries whose time had come.
    pub expired: u64,
    /// Entries left out because they did not fit.
    pub left_out: u64,
    /// Records of the log that were applied.
    pub records: u64,
    /// How long it took, ms.
    pub took: u64,
    /// The history reached; zero when what was loaded is not all of it.
    pub run: u64,
    /// See `run`.
    pub seq: u64,
    /// Whether there was nothing on disk.
    pub from_nothing: bool,
    /// Damage that was found, in words.
    pub damage: Vec<String>,
    /// The number of the snapshot it began with.
    pub snapshot: Option<u64>,
    /// Whether it began with a file of Redis.
    pub from_dump: bool,
}

/// A warm-up under way.
pub struct Loading {
    pieces: Receiver<Piece>,
    started: u64,
    /// When to give up, ms of wall time; zero for never.
    until: u64,
    buffer: Vec<u8>,
    retry_at: usize,
    oldest: Oldest,
    applier: Applier,
    batches: u64,
    loaded: Loaded,
    /// Bytes that the snapshot should bring, and that have come.
    pub expected: u64,
    /// See `expected`.
    pub done: u64,
}

/// The oldest entries that fit, when the newest come first: those updated in this second, so many of them.
#[derive(Clone, Copy, Default)]
pub(super) struct Oldest {
    second: u32,
    entries: u64,
}

impl Oldest {
    /// Whatever its age, an entry is wanted.
    pub(super) const ANY: Oldest = Oldest { second: 0, entries: u64::MAX };
}

/// What fits.
#[derive(Clone, Copy)]
struct Room {
    bytes: u64,
    entries: u64,
}

impl Loading {
    /// Begin to load what is in a directory; `dump` is a file of Redis to begin with when that is nothing.
    pub fn begin(
        engine: &Engine,
        directory: &Path,
        dump: Option<PathBuf>,
        wake: super::log_writer::Wake,
    ) -> std::io::Result<Loading> {
        let (sender, pieces) = sync_channel(4);
        let or_all = |limit: usize| if limit == 0 { u64::MAX } else { limit as u64 };
        let room = Room {
            bytes: or_all(engine.settings.size(Name::maxmemory)).saturating_mul(FILL_PERCENT) / 100,
            entries: or_all(engine.settings.size(Name::maxentries)),
        };
        let directory = directory.to_owned();
        std::thread::Builder::new().name("fastcache-load".into()).spawn(move || {
            if let Err(Wrong(what)) = read(&directory, room, dump.as_deref(), &sender) {
                let _ = sender.send(Piece::Failed(what));
            }
            wake();
        })?;
        let now = crate::clock::wall_ms();
        let limit = engine.settings.number(Name::warm_up_limit) as u64 * 1000;
        Ok(Loading {
            pieces,
            started: now,
            until: if limit == 0 { 0 } else { now + limit },
            buffer: Vec::new(),
            retry_at: 0,
            oldest: Oldest::default(),
            applier: Applier::new(),
            batches: 0,
            loaded: Loaded { from_nothing: true, ..Loaded::default() },
            expected: 0,
            done: 0,
        })
    }

    /// Load for a while; `Some` when it is over.
    pub fn step(&mut self, engine: &mut Engine, disk: &Arc<dyn Disk>, notes: &Notes, ms: u64) -> Option<Loaded> {
        let end = crate::clock::steady_ns() + ms * 1_000_000;
        while crate::clock::steady_ns() < end {
            let piece = match self.pieces.try_recv() {
                Ok(piece) => piece,
                Err(TryRecvError::Empty) => return self.look_at_the_clock(engine, notes),
                Err(TryRecvError::Disconnected) => Piece::Failed("the thread that reads has ended".into()),
            };
            match piece {
                Piece::Begin { about, oldest, from_dump } => {
                    self.oldest = oldest;
                    self.loaded.from_nothing = false;
                    self.loaded.from_dump = from_dump;
                    self.loaded.snapshot = (!from_dump).then_some(about.number);
                    (self.loaded.run, self.loaded.seq) = (about.run, about.seq);
                    self.expected = about.statistics.get("bytes").copied().unwrap_or(0);
                }
                Piece::Entries(bytes) => {
                    self.done += bytes.len() as u64;
                    self.buffer.extend_from_slice(&bytes);
                    if self.buffer.len() >= self.retry_at
                        && let Err(failure) = self.take_entries(engine)
                    {
                        // Every byte was checked: whoever wrote this wrote nonsense, or memory is full.
                        self.report(notes, format!("a snapshot holds an entry that cannot be loaded: {failure}"));
                        self.buffer.clear();
                    }
                    if self.loaded.from_dump {
                        self.keep_within(engine); // Nobody could tell before how much of it would fit.
                    }
                }
                Piece::Libraries(bytes) => drop(self.apply(engine, &bytes, notes)),
                Piece::Whole(sum) => {
                    if let Err(failure) = self.take_entries(engine) {
                        self.report(notes, format!("a snapshot holds an entry that cannot be loaded: {failure}"));
                    }
                    if !self.buffer.is_empty() {
                        self.report(notes, "a snapshot ends within an entry".into());
                    }
                    let seen = self.loaded.entries + self.loaded.expired + self.loaded.left_out;
                    if seen != sum.entries {
                        self.report(notes, format!("a snapshot holds {seen} entries and says {}", sum.entries));
                    }
                    self.buffer = Vec::new();
                }
                Piece::Damaged { path, what, instead } => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.report(notes, format!("{name}: {what}; {instead}"));
                    engine.store.flush_all();
                    self.buffer.clear();
                    let damage = std::mem::take(&mut self.loaded.damage);
                    self.loaded = Loaded { from_nothing: true, damage, ..Loaded::default() };
                    (self.oldest, self.retry_at, self.done) = (Oldest::default(), 0, 0);
                }
                Piece::Records(bytes) => self.take_records(engine, &bytes, notes),
                Piece::End(read) => {
                    self.applier.abandon_group();
                    return Some(self.end(engine, disk, notes, read));
                }
                Piece::Failed(what) => {
                    self.report(notes, what);
                    self.loaded.run = 0;
                    return Some(self.sum_up(engine, notes));
                }
            }
        }
        self.look_at_the_clock(engine, notes)
    }

    fn look_at_the_clock(&mut self, engine: &mut Engine, notes: &Notes) -> Option<Loaded> {
        if self.until == 0 || crate::clock::wall_ms() < self.until {
            return None;
        }
        self.report(notes, "the warm-up took too long and was ended: see warm-up-limit; the files stay".into());
        self.loaded.run = 0;
        Some(self.sum_up(engine, notes))
    }

    fn report(&mut self, notes: &Notes, what: String) {
        notes.error("damage on disk", &[("what", &what)]);
        self.loaded.damage.push(what);
    }

    /// Put the whole entries that are in the buffer.
    fn take_entries(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        let limits = engine.limits();
        let now = engine.store.now();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut reader = Reader::new(&buffer);
        let mut left = buffer.len();
        let mut done = Ok(());
        while !reader.is_empty() {
            let mut ahead = reader;
            let entry = codec::read_head(&mut ahead).map_err(Failure::from).and_then(|head| {
                let expired = head.meta.expiry.is_some_and(|time| time <= now);
                let unwanted = match head.meta.updated.cmp(&self.oldest.second) {
                    Ordering::Less => true,
                    Ordering::Greater => false,
                    Ordering::Equal => !expired && self.oldest.entries == 0,
                };
                if expired || unwanted {
                    codec::skip_value(&mut ahead)?;
                    let count = if expired { &mut self.loaded.expired } else { &mut self.loaded.left_out };
                    *count += 1;
                } else {
                    codec::read_value_into(&mut ahead, &mut engine.store, &limits, &head)?;
                    self.loaded.entries += 1;
                    if head.meta.updated == self.oldest.second {
                        self.oldest.entries -= 1;
                    }
                }
                Ok(())
            });
            match entry {
                Ok(()) => {
                    reader = ahead;
                    left = reader.rest().len();
                }
                Err(Failure::Garbage(codec::ENDS)) => break, // The rest comes with the next piece.
                Err(failure) => {
                    done = Err(failure);
                    break;
                }
            }
        }
        let used = buffer.len() - left;
        buffer.drain(..used);
        // An entry of gigabytes is not tried again at every piece.
        self.retry_at = if left > 1 << 20 { left * 2 } else { 0 };
        self.buffer = buffer;
        done
    }

    fn take_records(&mut self, engine: &mut Engine, bytes: &[u8], notes: &Notes) {
        if bytes.is_empty() {
            self.applier.abandon_group();
        }
        self.loaded.from_nothing = false;
        self.loaded.records += self.apply(engine, bytes, notes);
        self.keep_within(engine);
    }

    /// Apply records; answers how many.
    fn apply(&mut self, engine: &mut Engine, bytes: &[u8], notes: &Notes) -> u64 {
        let (mut at, mut count) = (0, 0);
        while let Ok(Some(record)) = Record::parse(&bytes[at..]) {
            if let Err(failure) = self.applier.apply(engine, &record, None) {
                self.report(notes, format!("the log holds a record that cannot be applied: {failure}"));
            }
            count += 1;
            at += record.bytes.len();
        }
        count
    }

    /// Now and then evict what is too much.
    fn keep_within(&mut self, engine: &mut Engine) {
        self.batches += 1;
        if self.batches.is_multiple_of(16) && engine.over_limit() {
            while engine.make_room() && engine.over_limit() {}
        }
    }

    fn end(&mut self, engine: &mut Engine, disk: &Arc<dyn Disk>, notes: &Notes, read: log::Read) -> Loaded {
        (self.loaded.run, self.loaded.seq) = (read.run, read.seq);
        if let Some(what) = read.damage {
            self.report(notes, what);
            for path in read.unreachable {
                // Kept for whoever wants to look, but out of the way of what is written now.
                let mut name = path.clone().into_os_string();
                name.push(".damaged");
                if let Err(error) = disk.rename(&path, Path::new(&name)) {
                    self.report(notes, format!("{}: cannot be put aside: {error}", path.display()));
                    self.loaded.run = 0;
                }
            }
        }
        if let Some((path, len)) = read.torn {
            let cut = if len == 0 { disk.remove(&path) } else { disk.cut(&path, len) };
            match cut {
                Ok(()) => notes.info(
                    "log cut where the last write was not complete",
                    &[("file", &path.display()), ("bytes", &len)],
                ),
                Err(error) => self.report(notes, format!("{}: its torn end cannot be cut: {error}", path.display())),
            }
        }
        if self.applier.refused > 0 {
            self.report(notes, format!("{} commands of the log were refused", self.applier.refused));
        }
        if self.loaded.left_out > 0 {
            self.loaded.run = 0; // Not all of the history is in memory: it cannot be gone on from.
        }
        self.sum_up(engine, notes)
    }

    fn sum_up(&mut self, engine: &mut Engine, notes: &Notes) -> Loaded {
        engine.store.gone.clear();
        self.loaded.took = crate::clock::wall_ms().saturating_sub(self.started);
        let Loaded { entries, expired, left_out, records, took, .. } = self.loaded.clone();
        let keys = engine.store.len();
        notes.info(
            "warmed up",
            &[
                ("entries", &keys),
                ("seconds", &format!("{}.{:03}", took / 1000, took % 1000)),
                ("from_snapshot", &entries),
                ("from_log", &records),
                ("expired", &expired),
                ("left_out", &left_out),
            ],
        );
        self.loaded.clone()
    }
}

/// Read all there is and hand it over; ends early when nobody takes it.
fn read(directory: &Path, room: Room, dump: Option<&Path>, sender: &SyncSender<Piece>) -> Result<(), Wrong> {
    let gone = |_| Wrong("the loop has ended".into());
    let (mut run, mut seq) = (0, 0);
    if let Some(path) = dump
        && let Err(Wrong(what)) = super::dump::read(path, sender)
    {
        let instead = "nothing of it is loaded";
        sender.send(Piece::Damaged { path: path.to_owned(), what, instead }).map_err(gone)?;
    }
    for (_, path) in snapshot::list(directory)? {
        let done = read_snapshot(&path, room, sender);
        match done {
            Ok(about) => {
                (run, seq) = (about.run, about.seq);
                break;
            }
            Err(Wrong(what)) => {
                let instead = "the one before is taken";
                sender.send(Piece::Damaged { path, what, instead }).map_err(gone)?;
            }
        }
    }
    let read = log::read(directory, run, seq, |_, bytes| sender.send(Piece::Records(bytes.to_vec())).map_err(gone))?;
    sender.send(Piece::End(read)).map_err(gone)
}

fn read_snapshot(path: &Path, room: Room, sender: &SyncSender<Piece>) -> Result<About, Wrong> {
    let gone = |_| Wrong("the loop has ended".into());
    let mut file = File::open(path)?;
    let mut about = file.about.clone();
    let sum = snapshot::sum_of(path)?;
    about.statistics.insert("bytes".into(), sum.bytes);
    let memory = about.statistics.get("memory_bytes").copied().unwrap_or(0).max(sum.bytes);
    let all_fits = sum.entries <= room.entries && memory <= room.bytes;
    let oldest = if all_fits { Oldest::ANY } else { oldest_that_fits(path, room, memory)? };
    sender.send(Piece::Begin { about: about.clone(), oldest, from_dump: false }).map_err(gone)?;
    while let Some(bytes) = file.piece()? {
        sender.send(Piece::Entries(bytes)).map_err(gone)?;
    }
    sender.send(Piece::Libraries(std::mem::take(&mut file.records))).map_err(gone)?;
    let sum = file.sum().cloned().unwrap_or_default();
    sender.send(Piece::Whole(sum)).map_err(gone)?;
    Ok(about)
}

fn oldest_that_fits(path: &Path, room: Room, memory: u64) -> Result<Oldest, Wrong> {
    let mut ages: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut costs = 0;
    let mut all = Entries::open(path)?;
    while let Some((updated, len)) = all.next_entry(|head, _, len| (head.meta.updated, len))? {
        let cost = len as u64 + OVERHEAD;
        let (entries, bytes) = ages.entry(updated).or_default();
        (*entries, *bytes) = (*entries + 1, *bytes + cost);
        costs += cost;
    }
    // What they cost in memory, judged by what they cost the node that wrote them.
    let scale = memory.max(costs) as f64 / costs.max(1) as f64;
    let (mut entries, mut bytes) = (0, 0.0);
    for (&second, &(more, cost)) in ages.iter().rev() {
        let cost = cost as f64 * scale;
        if entries + more > room.entries || bytes + cost > room.bytes as f64 {
            let share = ((room.bytes as f64 - bytes) / cost * more as f64) as u64;
            return Ok(Oldest { second, entries: share.min(room.entries - entries).min(more) });
        }
        (entries, bytes) = (entries + more, bytes + cost);
    }
    Ok(Oldest { second: 0, entries: u64::MAX })
}
