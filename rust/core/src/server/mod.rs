//! A node as a running thing: the engine behind sockets, on a thread of its own.
//!
//! `event_loop` serves, `links` are streams to other nodes, `upkeep` does what must be done now and then, `runner` is the thread
//! and how others speak with it. `proxy` is the other thing that runs: clients on one side,
//! nodes on the other.

mod busy;
mod event_loop;
mod links;
mod listening;
pub mod proxy;
mod runner;
mod upkeep;

pub use crate::command::settings;
pub use proxy::Proxy;

use crate::command::Engine;
use crate::command::cluster::membership::{self, Obeyed};
use crate::command::cluster::topology;
use crate::command::settings::{SETTINGS, Settings};
use crate::topology::Document;
use runner::Runner;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

/// A node. Dropping it stops it.
pub struct Node {
    settings: Mutex<Option<Settings>>,
    /// The topology to start with.
    first: Mutex<Option<Document>>,
    runner: Runner<Engine>,
}

impl Node {
    /// A node with these settings, not yet running. The error names the setting and what is wrong with it.
    pub fn new(pairs: &[(String, String)]) -> Result<Node, String> {
        let runner = Runner::new().map_err(|error| format!("cannot open a pipe: {error}"))?;
        Ok(Node { settings: Mutex::new(Some(settings_from(pairs)?)), first: Mutex::new(None), runner })
    }

    /// Open the sockets and serve, on a thread of its own. When this returns, clients can connect.
    pub fn start(&self) -> io::Result<()> {
        let Some(settings) = lock(&self.settings).take() else {
            return Err(io::Error::other("the node was started before"));
        };
        let mut engine = Engine::new(settings, random_seed(), crate::clock::wall_ms());
        engine.load_users().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        if let Some(document) = lock(&self.first).take() {
            let _ = membership::obey(&mut engine, document); // There is none yet that could outrank it.
        }
        self.runner.start("fastcache-data", |inbox, errands| {
            engine.errands = Some(errands);
            crate::persist::Keeper::open(&mut engine)?;
            let (mut serving, waker) = event_loop::EventLoop::open(engine, inbox)?;
            Ok((waker, move |heartbeat: &std::sync::Arc<std::sync::atomic::AtomicU64>| serving.run(heartbeat)))
        })
    }

    /// Obey this topology from now on, or from the start when the node is not started yet; an older one than that
    /// in force changes nothing. `false` when the node has ended.
    pub fn set_topology(&self, document: Document) -> bool {
        if lock(&self.settings).is_some() {
            *lock(&self.first) = Some(document);
            return true;
        }
        let digest = document.digest();
        self.runner.send(Box::new(|engine| {
            if membership::obey_digested(engine, document, digest, None) == Ok(Obeyed::Taken) {
                topology::keep(engine, None);
            }
        }))
    }

    /// Say from now on, to who asks for it, that this node is to stop: its copies are to take over before.
    pub fn leave(&self) {
        self.runner.ask(|engine: &mut Engine| engine.leaving = true);
    }

    /// Have clients' replies sent, close and end; waits until it is done. Again is no error.
    pub fn stop(&self) {
        self.runner.send(Box::new(|engine| engine.stopping = true));
        self.runner.join();
    }

    /// Wait until the node has ended by itself or was stopped; `false` when time ran out before, or a signal came.
    pub fn wait(&self, longest: Duration) -> bool {
        self.runner.wait(longest)
    }

    /// Whether the loop ended by a fault of ours. (Builds for use abort instead.)
    pub fn panicked(&self) -> bool {
        self.runner.panicked()
    }

    /// A number that rises while the loop lives.
    pub fn heartbeat(&self) -> u64 {
        self.runner.heartbeat()
    }

    /// Figures for metrics; empty when the node does not answer within two seconds.
    pub fn stats(&self) -> Vec<(&'static str, f64)> {
        self.runner.ask(upkeep::figures).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Do without huge pages, here and in the programs this process becomes or starts, until there is use for
/// them: an idle node is then half as large. `upkeep` allows them again.
pub fn start_small() -> bool {
    rustix::thread::disable_transparent_huge_pages(true).is_ok()
}

/// Hand back the program text that only the start needed; the start is over.
pub fn rest() -> u64 {
    crate::sys::give_back_text()
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
