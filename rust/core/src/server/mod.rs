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
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Something another thread wants done by the loop.
type Errand = Box<dyn FnOnce(&mut Engine) + Send>;

/// What the loop and its owner share.
struct Shared {
    heartbeat: AtomicU64,
    ended: Mutex<bool>,
    on_end: Condvar,
}

/// A node. Dropping it stops it.
pub struct Node {
    settings: Mutex<Option<Settings>>,
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
        Ok(Node {
            settings: Mutex::new(Some(settings_from(pairs)?)),
            shared: Arc::new(Shared { heartbeat: AtomicU64::new(0), ended: Mutex::new(false), on_end: Condvar::new() }),
            running: Mutex::new(None),
        })
    }

    /// Open the sockets and serve, on a thread of its own. When this returns, clients can connect.
    pub fn start(&self) -> io::Result<()> {
        let Some(settings) = lock(&self.settings).take() else {
            return Err(io::Error::other("the node was started before"));
        };
        let (errands, inbox): (Sender<Errand>, Receiver<Errand>) = channel();
        let engine = Engine::new(settings, random_seed(), crate::clock::wall_ms());
        let (mut serving, waker) = event_loop::EventLoop::open(engine, inbox)?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("fastcache-data".into()).spawn(move || {
            // The guard tells the end even if the loop panics, so that nobody waits for it in vain.
            let _guard = EndGuard(Arc::clone(&shared));
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

    /// Wait until the node has ended by itself or was stopped; `false` when time ran out before.
    pub fn wait(&self, longest: Duration) -> bool {
        let ended = lock(&self.shared.ended);
        let waited = self.shared.on_end.wait_timeout_while(ended, longest, |ended| !*ended);
        match waited {
            Ok((ended, _)) => *ended,
            Err(poisoned) => *poisoned.into_inner().0,
        }
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

struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        *lock(&self.0.ended) = true;
        self.0.on_end.notify_all();
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
