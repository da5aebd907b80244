//! A loop on a thread of its own: started, asked, awaited, stopped. Nodes and proxies alike.

use super::lock;
use crate::net::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Of address space: only what is used takes memory. Scripts may call functions, patterns and coroutines within one
/// another to depths that Lua bounds, but that the usual two megabytes do not bear.
const STACK: usize = 64 << 20;

/// Something another thread wants done by the loop `L`.
pub type Errand<L> = Box<dyn FnOnce(&mut L) + Send>;

/// Sends errands to a loop from anywhere.
pub type Errands<L> = Arc<dyn Fn(Errand<L>) + Send + Sync>;

/// What the loop and its owner share.
#[derive(Default)]
struct Shared {
    heartbeat: Arc<AtomicU64>,
    panicked: AtomicBool,
}

/// See the module's page. `L` is what errands get to see.
pub struct Runner<L> {
    /// A pipe: the thread holds one end, which closes when the thread ends, however it does.
    end: OwnedFd,
    held: Mutex<Option<OwnedFd>>,
    shared: Arc<Shared>,
    running: Mutex<Option<Running<L>>>,
}

struct Running<L> {
    waker: Waker,
    errands: Sender<Errand<L>>,
    thread: Option<JoinHandle<()>>,
}

impl<L: 'static> Runner<L> {
    /// A runner whose loop is not yet open.
    pub fn new() -> io::Result<Runner<L>> {
        let (end, held) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Runner { end, held: Mutex::new(Some(held)), shared: Arc::default(), running: Mutex::new(None) })
    }

    /// Open a loop here, where its errors can be told, and run it on a thread of its own.
    pub fn start<R>(
        &self,
        name: &str,
        open: impl FnOnce(Receiver<Errand<L>>, Errands<L>) -> io::Result<(Waker, R)>,
    ) -> io::Result<()>
    where
        R: FnOnce(&Arc<AtomicU64>) + Send + 'static,
    {
        let Some(held) = lock(&self.held).take() else {
            return Err(io::Error::other("it was started before"));
        };
        let (errands, inbox) = channel();
        // The waker comes to be with the loop, which is where errands are wanted: it is filled in below.
        let late: Arc<OnceLock<Waker>> = Arc::default();
        let for_the_loop: Errands<L> = {
            let (errands, late) = (Mutex::new(errands.clone()), Arc::clone(&late));
            Arc::new(move |errand| {
                let _ = lock(&errands).send(errand);
                if let Some(waker) = late.get() {
                    waker.wake();
                }
            })
        };
        let (waker, run) = open(inbox, for_the_loop)?;
        let _ = late.set(waker.clone());
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
            // The guard tells the end even if the loop panics, so that nobody waits for it in vain.
            let _guard = EndGuard { shared: Arc::clone(&shared), _held: held };
            run(&shared.heartbeat);
        })?;
        *lock(&self.running) = Some(Running { waker, errands, thread: Some(thread) });
        Ok(())
    }

    /// Have the loop do something; `false` when it does not run.
    pub fn send(&self, errand: Errand<L>) -> bool {
        let running = lock(&self.running);
        let Some(running) = running.as_ref() else { return false };
        let sent = running.errands.send(errand).is_ok();
        running.waker.wake();
        sent
    }

    /// Ask the loop something; `None` when it does not answer within two seconds.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut L) -> T + Send + 'static) -> Option<T> {
        let (reply, answer) = channel();
        let sent = self.send(Box::new(move |serving| {
            let _ = reply.send(question(serving));
        }));
        if sent { answer.recv_timeout(Duration::from_secs(2)).ok() } else { None }
    }

    /// Wait for the thread, which was told to end.
    pub fn join(&self) {
        let thread = lock(&self.running).as_mut().and_then(|running| running.thread.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Wait until the loop has ended; `false` when time ran out before, or a signal came: whoever
    /// handles signals must get their turn at once.
    pub fn wait(&self, longest: Duration) -> bool {
        Self::wait_for_any(std::slice::from_ref(self), longest)
    }

    /// Wait until one of several loops has ended; as [`Runner::wait`].
    pub fn wait_for_any(runners: &[Runner<L>], longest: Duration) -> bool {
        let mut watched: Vec<PollFd<'_>> =
            runners.iter().map(|runner| PollFd::new(&runner.end, PollFlags::IN)).collect();
        let longest =
            Timespec { tv_sec: longest.as_secs().min(1 << 31) as i64, tv_nsec: longest.subsec_nanos().into() };
        poll(&mut watched, Some(&longest)).is_ok_and(|ended| ended > 0)
    }

    /// Whether the loop ended by a fault of ours. (Builds for use abort instead.)
    pub fn panicked(&self) -> bool {
        self.shared.panicked.load(Ordering::Relaxed)
    }

    /// A number that rises while the loop lives.
    pub fn heartbeat(&self) -> u64 {
        self.shared.heartbeat.load(Ordering::Relaxed)
    }
}

struct EndGuard {
    shared: Arc<Shared>,
    _held: OwnedFd,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.shared.panicked.store(std::thread::panicking(), Ordering::Relaxed);
    }
}
