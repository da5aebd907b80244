//! Taking a snapshot: the loop copies in slices, a thread packs and writes, a bounded channel lies between.

use super::disk::Disk;
use super::log;
use super::snapshot::{self, About, Sum, Writer};
use crate::command::Engine;
use crate::stream::SlotSet;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, channel, sync_channel};

/// How long the loop copies in one turn. Other requests wait no longer than this, and a huge value's slice.
const SLICE_NS: u64 = 400_000;
/// Bytes handed to the thread at once.
const PIECE: usize = 512 * 1024;
/// Pieces that may wait for the thread.
const PIECES: usize = 4;
/// Bytes that writes may push ahead of a slow disk before the snapshot is given up.
const MOST_AHEAD: usize = 256 << 20;

enum Block {
    Bytes(Vec<u8>),
    End(u64),
}

/// What a snapshot came to.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// How much it holds.
    pub sum: Sum,
    /// Bytes of the file.
    pub size: u64,
}

/// A snapshot under way.
pub struct Taking {
    copy: Option<u32>,
    sender: Option<SyncSender<Block>>,
    ahead: VecDeque<Block>,
    ahead_bytes: usize,
    result: Receiver<io::Result<Taken>>,
    /// When it began, ms of wall time.
    pub started: u64,
    /// Changes of the engine at its point in time.
    pub changes: u64,
    /// Keys there were.
    pub total: u64,
    /// Keys that are copied.
    pub copied: u64,
    /// The longest slice by the clock, ns; and by the processor, which others cannot take away.
    pub longest_ns: u64,
    /// See `longest_ns`.
    pub longest_work_ns: u64,
}

/// How it goes.
pub enum Progress {
    /// On; call again at once, or in a little while.
    On(bool),
    /// A database was emptied: what was copied is of no use.
    Abandoned,
    /// It is over.
    Over(io::Result<Taken>),
}

impl Taking {
    /// Begin. The point in time is now.
    pub fn begin(
        engine: &mut Engine,
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        about: About,
        keep: usize,
        wake: super::log_writer::Wake,
    ) -> io::Result<Taking> {
        let records = engine.scripting.libraries.records(about.timestamp);
        let (sender, blocks) = sync_channel(PIECES);
        let (reply, result) = channel();
        std::thread::Builder::new().name("fastcache-snap".into()).spawn(move || {
            let done = write(&*disk, &directory, &about, &records, keep, &blocks);
            // The loop may still be sending: it learns by the closed channel or by this.
            let _ = reply.send(done);
            wake();
        })?;
        let copy = engine.copies.begin(&engine.store, SlotSet::all());
        Ok(Taking {
            copy: Some(copy),
            sender: Some(sender),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            result,
            started: crate::clock::wall_ms(),
            changes: engine.changes,
            total: engine.store.len() as u64,
            copied: 0,
            longest_ns: 0,
            longest_work_ns: 0,
        })
    }

    /// Go on for a slice, or, when `whole`, to the end without regard for anybody.
    pub fn step(&mut self, engine: &mut Engine, whole: bool) -> Progress {
        match self.result.try_recv() {
            Ok(done) => {
                self.stop(engine);
                return Progress::Over(done);
            }
            Err(TryRecvError::Disconnected) => {
                self.stop(engine);
                return Progress::Over(Err(io::Error::other("the thread that writes has ended")));
            }
            Err(TryRecvError::Empty) => {}
        }
        loop {
            if !self.send(whole) {
                return Progress::On(false); // The disk is behind.
            }
            let Some(number) = self.copy else { return Progress::On(false) };
            let Engine { copies, store, .. } = engine;
            let Some(copy) = copies.get_mut(number) else {
                self.stop(engine);
                return Progress::Abandoned;
            };
            let (started, worked) = (crate::clock::steady_ns(), crate::clock::thread_ns());
            copy.step(store, |waiting| waiting >= PIECE || crate::clock::steady_ns() - started > SLICE_NS);
            self.longest_ns = self.longest_ns.max(crate::clock::steady_ns() - started);
            self.longest_work_ns = self.longest_work_ns.max(crate::clock::thread_ns() - worked);
            self.copied = copy.entries;
            for bytes in copy.ready.drain(..) {
                self.ahead_bytes += bytes.len();
                self.ahead.push_back(Block::Bytes(bytes));
            }
            let done = copy.done();
            if copy.out.len() >= PIECE || (done && !copy.out.is_empty()) {
                // A buffer of the usual size for the next piece: growing it again and again costs more than this.
                let bytes =
                    std::mem::replace(&mut copy.out, Vec::with_capacity(if done { 0 } else { PIECE + (PIECE >> 3) }));
                self.ahead_bytes += bytes.len();
                self.ahead.push_back(Block::Bytes(bytes));
            }
            if done {
                self.ahead.push_back(Block::End(copy.entries));
                copies.end(number);
                self.copy = None;
            }
            if self.ahead_bytes > MOST_AHEAD {
                self.stop(engine);
                return Progress::Over(Err(io::Error::other("the disk is too slow for what is written meanwhile")));
            }
            if !whole {
                self.send(false);
                return Progress::On(self.copy.is_some());
            }
        }
    }

    /// Wait for the end.
    pub fn finish(&mut self, engine: &mut Engine) -> io::Result<Taken> {
        while self.copy.is_some() {
            match self.step(engine, true) {
                Progress::Over(done) => return done,
                Progress::Abandoned => return Err(io::Error::other("a database was emptied meanwhile")),
                Progress::On(_) => {}
            }
        }
        self.send(true);
        let done = self.result.recv().map_err(io::Error::other)?;
        self.stop(engine);
        done
    }

    /// Hand what is copied to the thread; `false` when it is still busy.
    fn send(&mut self, wait: bool) -> bool {
        while let Some(block) = self.ahead.pop_front() {
            let Some(sender) = &self.sender else { return true };
            let len = if let Block::Bytes(bytes) = &block { bytes.len() } else { 0 };
            let end = matches!(block, Block::End(_));
            let sent = if wait {
                sender.send(block).map_err(|error| TrySendError::Disconnected(error.0))
            } else {
                sender.try_send(block)
            };
            match sent {
                Ok(()) => self.ahead_bytes -= len,
                Err(TrySendError::Full(block)) => {
                    self.ahead.push_front(block);
                    return false;
                }
                Err(TrySendError::Disconnected(_)) => self.sender = None, // The result tells why.
            }
            if end {
                self.sender = None;
            }
        }
        true
    }

    /// End the copy; without its end the thread gives the file up.
    fn stop(&mut self, engine: &mut Engine) {
        if let Some(number) = self.copy.take() {
            engine.copies.end(number);
        }
        self.sender = None;
    }
}

impl Taking {
    /// Give it up.
    pub fn abandon(mut self, engine: &mut Engine) {
        self.stop(engine);
    }
}

/// What the thread does.
fn write(
    disk: &dyn Disk,
    directory: &Path,
    about: &About,
    records: &[u8],
    keep: usize,
    blocks: &Receiver<Block>,
) -> io::Result<Taken> {
    let started = crate::clock::steady_ns();
    let forget = || drop(disk.remove(&directory.join(snapshot::name(about.number) + snapshot::UNFINISHED)));
    let mut writer = Writer::create(disk, directory, about).inspect_err(|_| forget())?;
    if let Err(error) = writer.add_records(records) {
        writer.abandon();
        return Err(error);
    }
    loop {
        match blocks.recv() {
            Ok(Block::Bytes(bytes)) => {
                if let Err(error) = writer.add(&bytes) {
                    writer.abandon();
                    return Err(error);
                }
            }
            Ok(Block::End(entries)) => {
                let took = (crate::clock::steady_ns() - started) / 1_000_000;
                let size = writer.written;
                let (path, sum) = writer.finish(entries, took).inspect_err(|_| forget())?;
                prune(disk, directory, keep);
                let size = std::fs::metadata(&path).map_or(size, |about| about.len());
                return Ok(Taken { path, number: about.number, sum, size });
            }
            Err(_) => {
                writer.abandon();
                return Err(io::Error::other("it was given up"));
            }
        }
    }
}

/// Remove the snapshots that are too many, and log files that no snapshot needs. What fails is tried again next time.
pub fn prune(disk: &dyn Disk, directory: &Path, keep: usize) {
    let Ok(snapshots) = snapshot::list(directory) else { return };
    for (_, path) in snapshots.iter().skip(keep.max(1)) {
        let _ = disk.remove(path);
    }
    // The log must go on from the oldest snapshot that is kept: a younger one may turn out to be damaged.
    let seqs = snapshots.iter().take(keep.max(1)).filter_map(|(_, path)| {
        let about = snapshot::Reader::open(path).ok()?.about;
        (about.run != 0).then_some(about.seq)
    });
    let Some(oldest) = seqs.min() else { return };
    let Ok(files) = log::list(directory) else { return };
    for pair in files.windows(2) {
        if pair[1].0 <= oldest + 1 {
            let _ = disk.remove(&pair[0].1);
        }
    }
}
