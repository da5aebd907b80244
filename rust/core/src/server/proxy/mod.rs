//! A proxy as a running thing: clients on one side, nodes on the other.
//!
//! `clients` parses requests and sends them where they belong, `lane` keeps a client's replies in order, `upstream` speaks
//! with a node, `event_loop` ties them to sockets, `life` is how it begins to end and gets other maps. `again` is what becomes of a request whose node does not serve it
//! now, `jobs`, `vigil` and `gather` are what takes several steps, `channels` listens for all who listen. What to do with a
//! request is decided in `crate::route`.

mod again;
mod carry;
mod channels;
mod clients;
mod event_loop;
mod gather;
mod handover;
mod jobs;
mod lane;
mod life;
mod options;
mod rights;
mod scratch;
mod trouble;
mod upstream;
mod vigil;

use crate::command::Engine;
use crate::route::Map;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::runner::Runner;

/// A proxy. Dropping it stops it.
pub struct Proxy {
    settings: Mutex<Option<(crate::command::settings::Settings, options::Options)>>,
    /// The map to begin with.
    first: Mutex<Option<Map>>,
    runner: Runner<event_loop::Errand>,
    trouble: Arc<trouble::Trouble>,
}

impl Proxy {
    /// A proxy with these settings (those of a node that concern clients, and [`options::Options`]), not yet running.
    pub fn new(pairs: &[(String, String)]) -> Result<Proxy, String> {
        let runner = Runner::new().map_err(|error| format!("cannot open a pipe: {error}"))?;
        let mut options = options::Options::default();
        let mut of_nodes = Vec::new();
        for (name, value) in pairs {
            if !options.take(name, value)? {
                of_nodes.push((name.clone(), value.clone()));
            }
        }
        Ok(Proxy {
            settings: Mutex::new(Some((super::settings_from(&of_nodes)?, options))),
            first: Mutex::new(None),
            runner,
            trouble: Arc::default(),
        })
    }

    /// Open the sockets and serve, on a thread of its own. Until a map is given, only what the
    /// proxy answers itself is served. `left` is the descriptor of what [`Proxy::hand_over`] of the process before wrote.
    pub fn start(&self, left: Option<i32>) -> io::Result<()> {
        let Some((settings, options)) = super::lock(&self.settings).take() else {
            return Err(io::Error::other("the proxy was started before"));
        };
        let mut engine = Engine::new(settings, super::random_seed(), crate::clock::wall_ms());
        engine.load_users().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let inherited = match left {
            Some(descriptor) => handover::Inherited::read(&handover::text_of(descriptor)?)?,
            None => handover::Inherited::default(),
        };
        let map = super::lock(&self.first).take();
        self.runner.start("fastcache-proxy", |inbox, _| {
            let (mut serving, waker) = event_loop::EventLoop::open(engine, options, inbox, map, inherited)?;
            serving.trouble = Arc::clone(&self.trouble);
            Ok((waker, move |heartbeat: &Arc<std::sync::atomic::AtomicU64>| serving.run(heartbeat)))
        })
    }

    /// Route by this map from now on, or from the start when it has not started. Requests on their way are not disturbed.
    /// `false` when the proxy has ended.
    pub fn set_map(&self, map: Map) -> bool {
        if super::lock(&self.settings).is_some() {
            *super::lock(&self.first) = Some(map);
            return true;
        }
        self.runner.send(Box::new(move |serving| serving.take_map(map)))
    }

    /// Stop serving and leave all connections open for the program that this process is to become: returns the descriptor
    /// of a file in memory that says what they are. When requests under way are not answered in time it goes on serving,
    /// and the error says what they wait for.
    pub fn hand_over(&self) -> Result<i32, String> {
        let (told, answer) = std::sync::mpsc::channel();
        self.runner.send(Box::new(move |serving| {
            let _ = told.send(serving.hand_over());
        }));
        let records = answer.recv().map_err(|_| "the proxy does not run".to_owned())??;
        self.runner.join();
        handover::file_of(&records).map_err(|error| format!("no file in memory: {error}"))
    }

    /// Have clients' replies sent, close and end; waits until it is done. Again is no error.
    pub fn stop(&self) {
        self.runner.send(Box::new(|serving| serving.stop()));
        self.runner.join();
    }

    /// Wait until the proxy has ended; `false` when time ran out before.
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

    /// A number that rises when a node cannot be reached or turns requests away.
    pub fn trouble(&self) -> u64 {
        self.trouble.count()
    }

    /// The same number, once it is another than `seen`, or after so long.
    pub fn trouble_after(&self, seen: u64, longest: Duration) -> u64 {
        self.trouble.after(seen, longest)
    }

    /// Figures for metrics; empty when the proxy does not answer within two seconds.
    pub fn stats(&self) -> Vec<(String, f64)> {
        self.runner.ask(|serving| serving.figures()).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
