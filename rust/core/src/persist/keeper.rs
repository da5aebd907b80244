//! When what is done with the disk, and what people are told of it.
//!
//! One keeper belongs to a node whose `dir` is set. [`Keeper::turn`] runs in every turn of the loop and does a bounded
//! piece of whatever is due: warm-up, a snapshot, the log. Nothing in it waits for the disk.

use super::disk::{Disk, HostDisk};
use super::journal::Journal;
use super::load::{Loaded, Loading};
use super::log_writer::{Force, Wake};
use super::note::Notes;
use super::snapshot::{self, About, FORMAT, UNFINISHED};
use super::taking::{Progress, Taken, Taking};
use crate::command::client::Token;
use crate::command::fault::Fault;
use crate::command::settings::Name;
use crate::command::{Engine, blocking};
use crate::resp::Reply;
use crate::stream::tail::Tail;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long one turn loads: clients are told to wait anyway.
const LOAD_MS: u64 = 20;
/// How often a loop that has nothing else to do looks after a disk that is behind.
const LOOK_MS: u64 = 5;
/// After a snapshot failed, the next is tried no sooner.
const AFTER_FAILURE_MS: u64 = 5000;

/// What is known of snapshots and warm-up, for INFO.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// When the last good snapshot's point in time was, ms of wall time; zero for none yet.
    pub last: u64,
    /// What it came to.
    pub taken: Option<Taken>,
    /// Snapshots taken since the start.
    pub count: u64,
    /// Snapshots that failed since the start.
    pub failures: u64,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// The longest time that one turn of the loop gave to a snapshot, microseconds.
    pub longest_slice_us: u64,
    /// The same by the time that the thread was running.
    pub longest_slice_work_us: u64,
    /// The warm-up.
    pub loaded: Loaded,
}

/// A client that waits for a snapshot.
pub struct Asked {
    /// Who.
    pub token: Token,
    /// How it speaks.
    pub resp3: bool,
    /// Whether it wants to know what came of it, beyond OK.
    pub in_full: bool,
}

/// Whether a last snapshot is taken when the node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// When snapshots are taken at all, and something has changed.
    AsSet,
    /// In any case.
    Take,
    /// In no case.
    Skip,
}

/// See the module's page.
pub struct Keeper {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    notes: Notes,
    loading: Option<Loading>,
    taking: Option<Taking>,
    journal: Option<Journal>,
    /// Another snapshot is to follow the one under way, or to be taken as soon as possible.
    wanted: bool,
    /// Clients that wait for the snapshot under way.
    waiting: Vec<Asked>,
    /// The number of the last snapshot, good or not.
    number: u64,
    /// When the next one is due, ms of wall time.
    next: u64,
    changes_then: u64,
    log_bytes_then: u64,
    was_failing: bool,
    /// What SHUTDOWN said of a last snapshot.
    pub last: Last,
    /// See [`super::refusal`].
    pub refusal: Option<Fault>,
    /// See [`Figures`].
    pub figures: Figures,
}

impl Keeper {
    /// The keeper of a node, if its settings name a directory. What is there begins to be loaded.
    pub fn open(engine: &mut Engine) -> std::io::Result<()> {
        Keeper::open_on(engine, Arc::new(HostDisk))
    }

    /// As [`Keeper::open`], on any disk.
    pub fn open_on(engine: &mut Engine, disk: Arc<dyn Disk>) -> std::io::Result<()> {
        let directory = engine.settings.text(Name::dir);
        if directory == "." || directory.is_empty() {
            if engine.settings.is_on(Name::appendonly) {
                return Err(std::io::Error::other("appendonly needs a directory: set dir"));
            }
            return Ok(());
        }
        let directory = PathBuf::from(directory);
        std::fs::create_dir_all(&directory)?;
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snapshot-") && name.ends_with(UNFINISHED) {
                disk.remove(&path)?; // Left by a node that stopped in the midst of it.
            }
        }
        let number = snapshot::list(&directory)?.first().map_or(0, |(number, _)| *number);
        let anything = number > 0 || !super::log::list(&directory)?.is_empty();
        // What a Redis left counts only where there is nothing of our own: the first snapshot takes its place.
        let dump = Some(directory.join(engine.settings.text(Name::dbfilename)));
        let dump = dump.filter(|path| !anything && path.is_file());
        let loading = if anything || dump.is_some() {
            Some(Loading::begin(engine, &directory, dump, waker(engine))?)
        } else {
            None
        };
        engine.loading = loading.is_some();
        let mut keeper = Keeper {
            disk,
            notes: Notes::new(&engine.settings),
            directory,
            loading,
            taking: None,
            journal: None,
            wanted: false,
            waiting: Vec::new(),
            number,
            next: 0,
            changes_then: 0,
            log_bytes_then: 0,
            was_failing: false,
            last: Last::AsSet,
            refusal: None,
            figures: Figures::default(),
        };
        if !engine.loading {
            keeper.begin_to_serve(engine, &Loaded { from_nothing: true, ..Loaded::default() });
        }
        engine.keeper = Some(Box::new(keeper));
        Ok(())
    }

    /// See [`super::turn`].
    pub(super) fn turn(&mut self, engine: &mut Engine) -> Option<u64> {
        if let Some(loading) = &mut self.loading {
            let loaded = loading.step(engine, &self.disk, &self.notes, LOAD_MS);
            let Some(loaded) = loaded else { return Some(1) };
            self.loading = None;
            engine.loading = false;
            self.begin_to_serve(engine, &loaded);
            self.figures.loaded = loaded;
        }
        self.keep_log(engine);
        let mut soon = self.keep_snapshots(engine);
        if let Some(journal) = &self.journal {
            let now = engine.store.now();
            if let Some(due) = journal.due(engine) {
                soon = sooner(soon, due.saturating_sub(now));
            }
            if journal.age(engine) > 0 {
                soon = sooner(soon, LOOK_MS * 10);
            }
        }
        soon
    }

    /// The log, if there is to be one, goes on from what is in memory now.
    fn begin_to_serve(&mut self, engine: &mut Engine, loaded: &Loaded) {
        self.next = engine.store.now() + interval(engine);
        self.changes_then = engine.changes;
        engine.tail.continue_from(loaded.seq);
        let whole = loaded.run != 0 || loaded.from_nothing;
        if engine.settings.is_on(Name::appendonly) {
            self.begin_log(engine, whole.then_some(loaded.run));
            // A history that is known from its beginning needs no new beginning.
            self.wanted |= !whole || !loaded.damage.is_empty() || loaded.records > 1_000_000;
        }
        self.wanted |= loaded.from_dump && interval(engine) > 0;
    }

    fn begin_log(&mut self, engine: &mut Engine, after: Option<u64>) {
        let (disk, directory, wake) = (Arc::clone(&self.disk), self.directory.clone(), waker(engine));
        match Journal::begin(engine, disk, directory, node_name(engine), after, wake) {
            Ok(journal) => {
                self.log_bytes_then = 0;
                self.journal = Some(journal);
            }
            Err(error) => self.notes.error("the log cannot be begun", &[("error", &error)]),
        }
    }

    fn keep_log(&mut self, engine: &mut Engine) {
        match (&mut self.journal, engine.settings.is_on(Name::appendonly)) {
            (None, false) => {
                engine.gate.disk = None;
                self.refusal = None;
                return;
            }
            (None, true) => {
                // Switched on: what is in memory now is in no log, so a snapshot must be its beginning.
                self.begin_log(engine, if engine.store.is_empty() { Some(0) } else { None });
                self.wanted |= !engine.store.is_empty();
            }
            (Some(_), false) => {
                if let Some(journal) = self.journal.take() {
                    journal.end(engine, Duration::from_secs(1));
                }
                return;
            }
            (Some(_), true) => {}
        }
        let Some(journal) = &mut self.journal else { return };
        if journal.collect(engine).is_err() {
            self.notes.error("the log has a gap: a snapshot is taken in its place", &[]);
            if let Some(journal) = self.journal.take() {
                journal.end(engine, Duration::from_secs(1));
            }
            self.begin_log(engine, None);
            self.wanted = true;
            return;
        }
        let failing = journal.shared.failing.load(Ordering::Acquire);
        let error = || journal.shared.error.lock().map_or_else(|_| String::new(), |error| error.clone());
        let limit = engine.settings.number(Name::log_delay_limit) as u64;
        let age = journal.age(engine);
        self.refusal = if failing {
            Some(Fault::new(format!(
                "MISCONF the log cannot be written ({}): writes are refused until it can, reads are served",
                error()
            )))
        } else if limit > 0 && age > limit + journal.patience(engine) {
            Some(Fault::new(format!(
                "BUSY the disk has not taken the log for {age} ms (log-delay-limit {limit}): try again later"
            )))
        } else {
            None
        };
        if journal.force() == Force::Always {
            // While writes are refused there is nothing to be promised, so reads need not wait: but whoever waits for a
            // write that is not on disk must not be told that it is.
            engine.gate.disk = self.refusal.is_none().then(|| journal.safe());
            if self.refusal.is_some() {
                cut_off(engine, journal.safe());
            }
        } else {
            engine.gate.disk = None;
        }
        if failing != self.was_failing {
            self.was_failing = failing;
            if failing {
                self.notes.error("the log cannot be written: writes are refused", &[("error", &error())]);
            } else {
                self.notes.info("the log is written again, with nothing missing", &[]);
            }
        }
        // Without snapshots on time the log would grow for ever.
        let grown = journal.shared.bytes.load(Ordering::Relaxed).saturating_sub(self.log_bytes_then);
        let percent = engine.settings.number(Name::auto_aof_rewrite_percentage) as u64;
        let least = engine.settings.number(Name::auto_aof_rewrite_min_size) as u64;
        let size = self.figures.taken.as_ref().map_or(0, |taken| taken.size);
        if percent > 0
            && grown > least.max(size / 100 * percent)
            && self.taking.is_none()
            && self.figures.error.is_none()
        {
            self.wanted = true;
        }
    }

    fn keep_snapshots(&mut self, engine: &mut Engine) -> Option<u64> {
        if let Some(taking) = &mut self.taking {
            let progress = taking.step(engine, false);
            self.figures.longest_slice_us = self.figures.longest_slice_us.max(taking.longest_ns / 1000);
            let worked = taking.longest_work_ns / 1000;
            self.figures.longest_slice_work_us = self.figures.longest_slice_work_us.max(worked);
            return match progress {
                Progress::On(at_once) => Some(if at_once { 0 } else { LOOK_MS }),
                Progress::Abandoned => {
                    self.taking = None;
                    self.begin_snapshot(engine);
                    Some(0)
                }
                Progress::Over(done) => {
                    let taking = self.taking.take();
                    self.note_end(engine, taking, done);
                    None
                }
            };
        }
        let now = engine.store.now();
        let every = interval(engine);
        if every == 0 && !self.wanted {
            return None;
        }
        let changed = engine.changes != self.changes_then;
        if self.wanted && (self.figures.error.is_none() || now >= self.next) || every > 0 && now >= self.next && changed
        {
            self.begin_snapshot(engine);
            return Some(0);
        }
        if every > 0 && now >= self.next {
            self.next = now + every; // Nothing has changed: the last one is as good.
        }
        None
    }

    /// Take a snapshot now; `false` when one is under way already.
    pub fn begin_snapshot(&mut self, engine: &mut Engine) -> bool {
        if self.taking.is_some() || self.loading.is_some() {
            return false;
        }
        self.wanted = false;
        let (mut run, mut seq) = (0, 0);
        if let Some(journal) = &mut self.journal {
            if journal.collect(engine).is_ok() {
                journal.rotate();
                (run, seq) = (engine.tail.run(), engine.tail.seq());
            }
            self.log_bytes_then = journal.shared.bytes.load(Ordering::Relaxed);
        }
        self.number += 1;
        let about = About {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            node: node_name(engine),
            cluster: engine.membership.as_ref().map_or_else(String::new, |it| it.document.cluster.name.clone()),
            timestamp: engine.store.now(),
            number: self.number,
            run,
            seq,
            statistics: statistics(engine),
        };
        let every = interval(engine);
        self.next = engine.store.now() + if every > 0 { every } else { AFTER_FAILURE_MS };
        let (disk, directory, wake) = (Arc::clone(&self.disk), self.directory.clone(), waker(engine));
        let keep = engine.settings.size(Name::snapshot_keep);
        match Taking::begin(engine, disk, directory, about, keep, wake) {
            Ok(taking) => self.taking = Some(taking),
            Err(error) => self.note_end(engine, None, Err(error)),
        }
        true
    }

    fn note_end(&mut self, engine: &mut Engine, taking: Option<Taking>, done: std::io::Result<Taken>) {
        match &done {
            Ok(taken) => {
                self.figures.last = taking.as_ref().map_or(0, |taking| taking.started);
                self.changes_then = taking.map_or(engine.changes, |taking| taking.changes);
                self.figures.count += 1;
                self.figures.error = None;
                self.notes.info(
                    "snapshot taken",
                    &[
                        ("file", &taken.path.display()),
                        ("entries", &taken.sum.entries),
                        ("bytes", &taken.size),
                        ("ms", &taken.sum.took),
                    ],
                );
                self.figures.taken = Some(taken.clone());
            }
            Err(error) => {
                self.figures.failures += 1;
                self.next = self.next.max(engine.store.now() + AFTER_FAILURE_MS);
                self.notes.error("the snapshot failed: the last one stays", &[("error", error)]);
                self.figures.error = Some(error.to_string());
            }
        }
        for asked in std::mem::take(&mut self.waiting) {
            let mut reply = Reply::new(asked.resp3);
            match &done {
                Ok(taken) if asked.in_full => {
                    reply.map(4);
                    reply.bulk(b"file");
                    reply.bulk(taken.path.to_string_lossy().as_bytes());
                    reply.bulk(b"entries");
                    reply.integer(taken.sum.entries as i64);
                    reply.bulk(b"bytes");
                    reply.integer(taken.size as i64);
                    reply.bulk(b"ms");
                    reply.integer(taken.sum.took as i64);
                }
                Ok(_) => reply.ok(),
                Err(error) => reply.error(format!("ERR the snapshot failed: {error}").as_bytes()),
            }
            blocking::answer(engine, asked.token, reply.bytes());
        }
    }

    /// A client waits for the snapshot that is under way now.
    pub fn answer_later(&mut self, asked: Asked) {
        self.waiting.push(asked);
    }

    /// Have another snapshot taken when the one under way is through.
    pub fn take_another(&mut self) {
        self.wanted = true;
    }

    /// When the snapshot under way began, ms of wall time; keys copied; keys there are.
    pub fn under_way(&self) -> Option<(u64, u64, u64)> {
        self.taking.as_ref().map(|taking| (taking.started, taking.copied, taking.total))
    }

    /// Changes since the last snapshot.
    pub fn changes(&self, engine: &Engine) -> u64 {
        engine.changes.wrapping_sub(self.changes_then)
    }

    /// The log, while there is one.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// How far the warm-up is: when it began, bytes that have come, and bytes there are.
    pub fn warming_up(&self) -> Option<(u64, u64)> {
        self.loading.as_ref().map(|loading| (loading.done, loading.expected))
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Before replies leave for the last time: have on disk what they promise.
    pub fn settle(&mut self, engine: &mut Engine) {
        if let Some(journal) = &mut self.journal {
            let _ = journal.collect(engine);
            let seconds = engine.settings.number(Name::shutdown_timeout).clamp(1, 60) as u64;
            journal.sync(Duration::from_secs(seconds));
            engine.gate.disk = engine.gate.disk.map(|_| journal.safe());
        }
    }

    /// See [`super::close`].
    pub(super) fn close(&mut self, engine: &mut Engine) {
        if self.loading.is_some() {
            return; // Nothing was served: what is on disk is all there is.
        }
        self.keep_log(engine);
        let begun = self.taking.is_some();
        if let Some(taking) = self.taking.take() {
            taking.abandon(engine);
        }
        let changed = engine.changes != self.changes_then || begun;
        let wanted = match self.last {
            Last::AsSet => interval(engine) > 0 && changed,
            Last::Take => true,
            Last::Skip => false,
        };
        if wanted
            && self.begin_snapshot(engine)
            && let Some(mut taking) = self.taking.take()
        {
            let done = taking.finish(engine);
            self.note_end(engine, Some(taking), done);
        }
        if let Some(journal) = self.journal.take() {
            let seconds = engine.settings.number(Name::shutdown_timeout).clamp(1, 60) as u64;
            if !journal.end(engine, Duration::from_secs(seconds)) {
                self.notes.error("the log is not complete on disk", &[]);
            }
        }
    }
}

/// Milliseconds between snapshots; zero for none.
fn interval(engine: &Engine) -> u64 {
    engine.settings.number(Name::snapshot_interval) as u64 * 1000
}

fn node_name(engine: &Engine) -> String {
    let id = engine.settings.text(Name::node_id);
    if id.is_empty() {
        format!("{}:{}", engine.settings.text(Name::bind), engine.settings.number(Name::port))
    } else {
        id.to_owned()
    }
}

fn statistics(engine: &Engine) -> std::collections::BTreeMap<String, u64> {
    let counts = engine.store.counts;
    let stats = &engine.stats;
    [
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("sets", counts.sets),
        ("deletes", counts.deletes),
        ("evictions", counts.evicted),
        ("expirations", counts.expired),
        ("entries", engine.store.len() as u64),
        ("memory_bytes", engine.used_memory().saturating_sub(engine.memory_at_start) as u64),
        ("commands", stats.commands),
        ("connections", stats.connections),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Has the loop look again, from another thread.
fn waker(engine: &Engine) -> Wake {
    match engine.errands.clone() {
        Some(errands) => Box::new(move || errands(Box::new(|_| {}))),
        None => Box::new(|| {}),
    }
}

/// Close the connections of those who wait for more than is safe: what became of their writes nobody can say.
fn cut_off(engine: &mut Engine, safe: u64) {
    if engine.gate.waiting.back().is_none_or(|&(number, _)| number <= safe) {
        return;
    }
    let late: Vec<Token> = engine.gate.waiting.iter().filter(|(number, _)| *number > safe).map(|&(_, it)| it).collect();
    engine.gate.waiting.retain(|&(number, _)| number <= safe);
    for token in late {
        if let Some(client) = engine.clients.get_mut(token) {
            client.withheld.retain(|&(number, _)| number <= safe);
        }
        engine.kill(token);
    }
}

fn sooner(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// When what may leave leaves: replies wait for the disk, or for whatever else a promise needs.
///
/// A reply is withheld with the number of the latest record at that time, so that it waits for what it tells of,
/// writes of others that it saw included, and leaves when all that is asked for has reached that number.
#[derive(Default)]
pub struct Gate {
    /// What is safe on disk; `None` when nobody waits for that.
    pub disk: Option<u64>,
    /// What replicas have acknowledged; `None` when nobody waits for that.
    pub replicas: Option<u64>,
    /// Clients with replies that wait, in the order of the numbers they wait for.
    pub waiting: std::collections::VecDeque<(u64, Token)>,
}

impl Gate {
    /// Whether replies are withheld at all.
    #[inline(always)]
    pub fn closed(&self) -> bool {
        self.disk.is_some() || self.replicas.is_some()
    }

    /// Up to which number replies may leave.
    pub fn released(&self) -> u64 {
        self.disk.unwrap_or(u64::MAX).min(self.replicas.unwrap_or(u64::MAX))
    }

    /// What the reply to a request just served waits for.
    pub fn number(&self, tail: &Tail) -> u64 {
        if self.closed() { tail.seq() } else { 0 }
    }
}
