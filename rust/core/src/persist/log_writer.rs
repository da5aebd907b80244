//! The thread that writes the log: batches in, files out; and what happens when the disk does not take them.
//!
//! A batch is kept in memory until it is safe. When writing or forcing fails, nothing that was not safe before is
//! believed to be on disk: a failed fsync may have dropped it, and a second one would say that all is well. So the file
//! is given up, and as soon as the disk takes it again, a new one is begun with all that is not safe. Until then the
//! node refuses writes, so that what is kept stays small.

use super::disk::{Disk, Output};
use super::frame::{Kind, Packer};
use super::log::{self, About};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// When what is written is forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Before the reply leaves.
    Always,
    /// Within a second.
    EverySecond,
    /// When the operating system does.
    Never,
}

/// What the loop asks for.
pub enum Order {
    /// Write these records.
    Batch {
        /// Number of the first.
        first: u64,
        /// Number of the last.
        last: u64,
        /// The records.
        bytes: Vec<u8>,
    },
    /// Go on in a new file, which begins with this number.
    Rotate(u64),
    /// Force what was written to disk from now on like this.
    Force(Force),
    /// Force everything to disk and answer.
    Sync(Sender<()>),
}

/// What the thread lets the loop see.
#[derive(Default)]
pub struct Shared {
    /// Number of the last record that was given to the operating system.
    pub written: AtomicU64,
    /// Number of the last record that is safe.
    pub safe: AtomicU64,
    /// The disk does not take what is written.
    pub failing: AtomicBool,
    /// How often it began not to.
    pub failures: AtomicU64,
    /// Bytes written since the start.
    pub bytes: AtomicU64,
    /// Bytes in the present file.
    pub file_bytes: AtomicU64,
    /// How often the log was forced to disk.
    pub forced: AtomicU64,
    /// The last error, in words.
    pub error: Mutex<String>,
}

/// Called when the loop should look again.
pub type Wake = Box<dyn Fn() + Send>;

const RETRY: Duration = Duration::from_millis(250);
const SECOND_NS: u64 = 1_000_000_000;

/// See the module's page.
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    about: About,
    force: Force,
    file: Option<Box<dyn Output>>,
    packer: Packer,
    packed: Vec<u8>,
    tag: u16,
    /// Batches that are not safe: first, last, records.
    kept: VecDeque<(u64, u64, Vec<u8>)>,
    dirty_since: Option<u64>,
    shared: Arc<Shared>,
    wake: Wake,
}

impl LogWriter {
    /// A writer whose first file is this one. Nothing is opened before [`LogWriter::run`].
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        about: About,
        force: Force,
        shared: Arc<Shared>,
        wake: Wake,
    ) -> LogWriter {
        let before = about.first.saturating_sub(1);
        shared.written.store(before, Ordering::Release);
        shared.safe.store(before, Ordering::Release);
        LogWriter {
            disk,
            directory,
            about,
            force,
            file: None,
            packer: Packer::default(),
            packed: Vec::new(),
            tag: 0,
            kept: VecDeque::new(),
            dirty_since: None,
            shared,
            wake,
        }
    }

    /// Obey orders until there can be no more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        let first = self.about.first;
        let opened = self.open(first);
        self.judge(opened);
        loop {
            let order = match self.patience() {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => orders.recv_timeout(patience),
            };
            let done = match order {
                Ok(Order::Batch { first, last, bytes }) => self.batch(first, last, bytes),
                Ok(Order::Rotate(first)) if self.file.is_some() => self.sync().and_then(|()| self.open(first)),
                Ok(Order::Rotate(_)) => Ok(()), // A new file is what recovery begins with anyway.
                Ok(Order::Force(force)) => {
                    self.force = force;
                    Ok(())
                }
                Ok(Order::Sync(answer)) => {
                    let done = if self.file.is_some() { self.sync() } else { self.recover() };
                    let _ = answer.send(());
                    done
                }
                Err(RecvTimeoutError::Timeout) if self.file.is_none() => self.recover(),
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = if self.file.is_some() { self.sync() } else { self.recover() };
                    return;
                }
            };
            self.judge(done);
        }
    }

    /// How long the thread may sleep.
    fn patience(&self) -> Option<Duration> {
        if self.file.is_none() {
            return Some(RETRY);
        }
        let since = self.dirty_since.filter(|_| self.force == Force::EverySecond)?;
        Some(Duration::from_nanos((since + SECOND_NS / 2).saturating_sub(crate::clock::steady_ns())))
    }

    fn judge(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            self.file = None;
            self.dirty_since = None;
            *self.shared.error.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
            if !self.shared.failing.swap(true, Ordering::AcqRel) {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        (self.wake)();
    }

    fn batch(&mut self, first: u64, last: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.kept.push_back((first, last, bytes));
        if self.file.is_none() {
            return Ok(()); // Kept for later.
        }
        if self.shared.file_bytes.load(Ordering::Relaxed) > log::LARGEST {
            let (first, last, bytes) = self.kept.pop_back().unwrap_or_default();
            let turned = self.sync().and_then(|()| self.open(first));
            self.kept.push_back((first, last, bytes));
            turned?;
        }
        self.write_kept(self.kept.len() - 1)?;
        let now = crate::clock::steady_ns();
        let since = *self.dirty_since.get_or_insert(now);
        match self.force {
            Force::Always => self.sync(),
            Force::EverySecond if now.saturating_sub(since) >= SECOND_NS / 2 => self.sync(),
            Force::EverySecond => Ok(()),
            Force::Never => {
                // The operating system has it: that is all that was asked for.
                self.kept.clear();
                self.shared.safe.store(last, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Write what is kept, from the batch at this index on.
    fn write_kept(&mut self, from: usize) -> io::Result<()> {
        for index in from..self.kept.len() {
            let (first, last, bytes) = &self.kept[index];
            self.packed.clear();
            self.packer.pack(Kind::Batch, self.tag, *first, bytes, &mut self.packed);
            let last = *last;
            if let Some(file) = &mut self.file {
                file.write(&self.packed)?;
            }
            self.shared.bytes.fetch_add(self.packed.len() as u64, Ordering::Relaxed);
            self.shared.file_bytes.fetch_add(self.packed.len() as u64, Ordering::Relaxed);
            self.shared.written.store(last, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file
            && !(self.kept.is_empty() && self.dirty_since.is_none())
        {
            file.sync()?;
            self.shared.forced.fetch_add(1, Ordering::Relaxed);
        }
        self.dirty_since = None;
        if let Some((_, last, _)) = self.kept.back() {
            self.shared.safe.store(*last, Ordering::Release);
        }
        self.kept.clear();
        Ok(())
    }

    /// Begin a new file.
    fn open(&mut self, first: u64) -> io::Result<()> {
        self.file = None;
        let about = About { first, timestamp: crate::clock::wall_ms(), ..self.about.clone() };
        self.tag = (about.run ^ about.timestamp) as u16;
        let mut file = self.disk.create(&self.directory.join(log::name(first)))?;
        self.packed.clear();
        let head = serde_json::to_vec(&about)?;
        self.packer.pack(Kind::LogHead, self.tag, first, &head, &mut self.packed);
        file.write(&self.packed)?;
        file.sync()?;
        self.disk.sync_directory(&self.directory)?;
        self.shared.file_bytes.store(self.packed.len() as u64, Ordering::Relaxed);
        self.file = Some(file);
        Ok(())
    }

    /// Try anew with a new file that begins with all that is not safe.
    fn recover(&mut self) -> io::Result<()> {
        let first = self.kept.front().map_or(self.shared.safe.load(Ordering::Acquire) + 1, |(first, ..)| *first);
        self.open(first)?;
        self.write_kept(0)?;
        self.dirty_since = Some(crate::clock::steady_ns());
        self.sync()?;
        self.shared.failing.store(false, Ordering::Release);
        Ok(())
    }
}
