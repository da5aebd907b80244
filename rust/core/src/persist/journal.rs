//! The loop's end of the log: records are gathered into batches, and what is safe is known.

use super::disk::Disk;
use super::log::About;
use super::log_writer::{Force, LogWriter, Order, Shared, Wake};
use crate::command::Engine;
use crate::command::settings::Name;
use crate::stream::tail::Cursor;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A batch of this size is handed over at once.
const LARGE: usize = 1 << 20;
/// Under `everysec` what is written may lie in memory this long before it is handed over: forcing takes the rest.
const EVERY_SECOND_MS: u64 = 300;

/// See the module's page.
pub struct Journal {
    cursor: Cursor,
    batch: Vec<u8>,
    first: u64,
    count: u64,
    /// When the first of the batch was written.
    since: u64,
    /// Batches handed over: their last record, and when their first was written.
    under_way: VecDeque<(u64, u64)>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    force: Force,
    /// See [`Shared`].
    pub shared: Arc<Shared>,
}

/// Why records could not be taken: the ring was cut before they were read, or one was too large.
pub struct Gap;

impl Journal {
    /// Begin a log behind `after`, a run that is all in memory, or zero when there is none.
    pub fn begin(
        engine: &mut Engine,
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        node: String,
        after: Option<u64>,
        wake: Wake,
    ) -> io::Result<Journal> {
        let cursor = engine.listen();
        let about = About {
            version: env!("CARGO_PKG_VERSION").into(),
            node,
            timestamp: engine.store.now(),
            run: engine.tail.run(),
            first: cursor.seq,
            after: after.unwrap_or(0),
            from_empty: after == Some(0) && engine.store.is_empty(),
        };
        let shared = Arc::<Shared>::default();
        let force = force(engine);
        let writer = LogWriter::new(disk, directory, about, force, Arc::clone(&shared), wake);
        let (orders, inbox) = channel();
        let thread = std::thread::Builder::new().name("fastcache-log".into()).spawn(move || writer.run(&inbox))?;
        Ok(Journal {
            cursor,
            batch: Vec::new(),
            first: cursor.seq,
            count: 0,
            since: 0,
            under_way: VecDeque::new(),
            orders: Some(orders),
            thread: Some(thread),
            force,
            shared,
        })
    }

    /// Gather what was written since the last call, and hand over what is due.
    pub fn collect(&mut self, engine: &Engine) -> Result<(), Gap> {
        let now = engine.store.now();
        let wanted = force(engine);
        if wanted != self.force {
            self.force = wanted;
            self.send(Order::Force(wanted));
        }
        while let Some(record) = engine.tail.next(&mut self.cursor).map_err(|_| Gap)? {
            if self.count == 0 {
                (self.first, self.since) = (self.cursor.seq - 1, now);
            }
            self.batch.extend_from_slice(record.bytes);
            self.count += 1;
            if self.batch.len() >= LARGE {
                self.hand_over();
            }
        }
        if self.count > 0 && (self.count >= self.keys(engine) || now >= self.since + self.delay(engine)) {
            self.hand_over();
        }
        let safe = self.shared.safe.load(Ordering::Acquire);
        while self.under_way.front().is_some_and(|(last, _)| *last <= safe) {
            self.under_way.pop_front();
        }
        Ok(())
    }

    /// How many records make a batch.
    fn keys(&self, engine: &Engine) -> u64 {
        if self.force == Force::Always { 1 } else { engine.settings.number(Name::log_flush_keys).max(1) as u64 }
    }

    /// How long a record may wait to be handed over.
    fn delay(&self, engine: &Engine) -> u64 {
        let seconds = engine.settings.number(Name::log_flush_seconds) as u64 * 1000;
        match self.force {
            Force::Always => 0,
            Force::EverySecond => seconds.min(EVERY_SECOND_MS),
            Force::Never => seconds,
        }
    }

    /// When the batch is due, ms of wall time.
    pub fn due(&self, engine: &Engine) -> Option<u64> {
        (self.count > 0).then(|| self.since + self.delay(engine))
    }

    fn hand_over(&mut self) {
        if self.count == 0 {
            return;
        }
        let last = self.first + self.count - 1;
        self.under_way.push_back((last, self.since));
        let bytes = std::mem::take(&mut self.batch);
        self.send(Order::Batch { first: self.first, last, bytes });
        self.count = 0;
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order); // It ends only when we drop our end.
        }
    }

    /// Go on in a new file from the next record on.
    pub fn rotate(&mut self) {
        self.hand_over();
        self.send(Order::Rotate(self.cursor.seq));
    }

    /// The number of the last record that is safe.
    pub fn safe(&self) -> u64 {
        self.shared.safe.load(Ordering::Acquire)
    }

    /// How old the oldest record is that is not safe, beyond the time it may wait to be handed over; ms.
    pub fn age(&self, engine: &Engine) -> u64 {
        let now = engine.store.now();
        match self.under_way.front() {
            Some((_, since)) => now.saturating_sub(*since),
            None if self.count > 0 => now.saturating_sub(self.since),
            None => 0,
        }
    }

    /// How long `age` may become by itself.
    pub fn patience(&self, engine: &Engine) -> u64 {
        self.delay(engine)
    }

    /// When the policy forces.
    pub fn force(&self) -> Force {
        self.force
    }

    /// Have everything on disk, but wait no longer than this. `false` when it is not.
    pub fn sync(&mut self, longest: Duration) -> bool {
        self.hand_over();
        let (answer, answered) = channel();
        self.send(Order::Sync(answer));
        answered.recv_timeout(longest).is_ok() && !self.shared.failing.load(Ordering::Acquire)
    }

    /// End the log; what was handed over is written.
    pub fn end(mut self, engine: &mut Engine, longest: Duration) -> bool {
        let done = self.sync(longest);
        self.orders = None;
        if let Some(thread) = self.thread.take().filter(|_| done) {
            let _ = thread.join();
        }
        engine.stop_listening();
        done
    }
}

/// The policy in force.
fn force(engine: &Engine) -> Force {
    match engine.settings.text(Name::appendfsync) {
        "always" => Force::Always,
        "no" => Force::Never,
        _ => Force::EverySecond,
    }
}
