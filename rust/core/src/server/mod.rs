//! A node as a running thing: the engine behind sockets, on a thread of its own.
//!
//! `event_loop` serves, `upkeep` does what must be done now and then; this page starts and
//! stops them and carries questions from other threads to the loop.

mod event_loop;
mod upkeep;

pub use crate::command::settings;

use crate::command::Engine;
use crate::command::settings::{SETTINGS, Settings};
use crate::net::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Something another thread wants done by the loop.
type Errand = Box<dyn FnOnce(&mut Engine) + Send>;

/// What the loop and its owner share.
struct Shared {
    heartbeat: AtomicU64,
    panicked: AtomicBool,
}

/// A node. Dropping it stops it.
pub struct Node {
    /// What the thread will take with it.
    prepared: Mutex<Option<(Settings, OwnedFd)>>,
    /// The end of a pipe; the thread holds the other one, which closes when the thread ends, however it does.
    end: OwnedFd,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

struct Running {
    waker: Waker,
    errands: Sender<Errand>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// A node with these settings, not yet running. The error names the setting and what is wrong with it.
    pub fn new(pairs: &[(String, String)]) -> Result<Node, String> {
        let settings = settings_from(pairs)?;
        let (end, held) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("cannot open a pipe: {error}"))?;
        Ok(Node {
            prepared: Mutex::new(Some((settings, held))),
            end,
            shared: Arc::new(Shared { heartbeat: AtomicU64::new(0), panicked: AtomicBool::new(false) }),
            running: Mutex::new(None),
        })
    }

    /// Open the sockets and serve, on a thread of its own. When this returns, clients can connect.
    pub fn start(&self) -> io::Result<()> {
        let Some((settings, held)) = lock(&self.prepared).take() else {
            return Err(io::Error::other("the node was started before"));
        };
        let (errands, inbox): (Sender<Errand>, Receiver<Errand>) = channel();
        let engine = Engine::new(settings, random_seed(), crate::clock::wall_ms());
        let (mut serving, waker) = event_loop::EventLoop::open(engine, inbox)?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("fastcache-data".into()).spawn(move || {
            // The guard tells the end even if the loop panics, so that nobody waits for it in vain.
            let _guard = EndGuard { shared: Arc::clone(&shared), _held: held };
            serving.run(&shared.heartbeat);
        })?;
        *lock(&self.running) = Some(Running { waker, errands, thread: Some(thread) });
        Ok(())
    }

    /// Have clients' replies sent, close and end; waits until it is done. Again is no error.
    pub fn stop(&self) {
        let _ = self.send(Box::new(|engine| engine.stopping = true));
        let thread = lock(&self.running).as_mut().and_then(|running| running.thread.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Wait until the node has ended by itself or was stopped; `false` when time ran out before, or a signal
    /// came: whoever handles signals must get their turn at once.
    pub fn wait(&self, longest: Duration) -> bool {
        let mut watched = [PollFd::new(&self.end, PollFlags::IN)];
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

    /// Figures for metrics; empty when the node does not answer within two seconds.
    pub fn stats(&self) -> Vec<(&'static str, f64)> {
        let (reply, answer) = channel();
        let asked = self.send(Box::new(move |engine| {
            let _ = reply.send(upkeep::figures(engine));
        }));
        if asked.is_err() {
            return Vec::new();
        }
        answer.recv_timeout(Duration::from_secs(2)).unwrap_or_default()
    }

    fn send(&self, errand: Errand) -> Result<(), ()> {
        let running = lock(&self.running);
        let running = running.as_ref().ok_or(())?;
        running.errands.send(errand).map_err(|_| ())?;
        running.waker.wake();
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Check settings given as text. `config-file` is not a setting but where they came from.
pub fn settings_from(pairs: &[(String, String)]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for (name, value) in pairs {
        if name == "config-file" {
            settings.file = Some(value.clone());
            continue;
        }
        let Some(index) = Settings::find(name) else {
            return Err(format!("{name}: there is no such setting"));
        };
        settings.put(index, value).map_err(|wrong| format!("{}: {wrong}", SETTINGS[index].name))?;
    }
    Ok(settings)
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

/// Lock, and go on even if another thread panicked while it held the lock: the data is plain.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A number nobody can guess, for the key of all hashes.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds this from the operating system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_learns_of_the_end_and_a_second_stop_is_no_error() {
        let path = std::env::temp_dir().join(format!("fastcache-server-test-{}", std::process::id()));
        let settings = [("port", "0"), ("unixsocket", path.to_str().unwrap())];
        let node = Node::new(&settings.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        assert!(!node.wait(Duration::ZERO));
        node.start().unwrap();
        assert!(!node.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            scope.spawn(|| node.stop());
            assert!(node.wait(Duration::from_secs(30)));
        });
        node.stop();
        assert!(node.wait(Duration::ZERO));
        assert!(!node.panicked());
    }
}
