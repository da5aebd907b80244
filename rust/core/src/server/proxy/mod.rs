//! A proxy as a running thing: clients on one side, nodes on the other.
//!
//! `clients` parses requests and sends them where they belong, `lane` keeps a client's replies in order, `upstream` speaks
//! with a node, `event_loop` ties them to sockets, `life` is how it begins to end and gets other maps. `again` is what becomes of a request whose node does not serve it
//! now, `jobs` and `vigil` are what takes several steps, `channels` listens for all who listen. What to do with a
//! request is decided in `crate::route`.

mod again;
mod channels;
mod clients;
mod event_loop;
mod jobs;
mod lane;
mod life;
mod options;
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
            runner,
            trouble: Arc::default(),
        })
    }

    /// Open the sockets and serve, on a thread of its own. Until a map is given, only what the
    /// proxy answers itself is served.
    pub fn start(&self) -> io::Result<()> {
        let Some((settings, options)) = super::lock(&self.settings).take() else {
            return Err(io::Error::other("the proxy was started before"));
        };
        let engine = Engine::new(settings, super::random_seed(), crate::clock::wall_ms());
        self.runner.start("fastcache-proxy", |inbox, _| {
            let (mut serving, waker) = event_loop::EventLoop::open(engine, options, inbox)?;
            serving.trouble = Arc::clone(&self.trouble);
            Ok((waker, move |heartbeat: &Arc<std::sync::atomic::AtomicU64>| serving.run(heartbeat)))
        })
    }

    /// Route by this map from now on. Requests on their way are not disturbed. `false` when the proxy does not run.
    pub fn set_map(&self, map: Map) -> bool {
        self.runner.send(Box::new(move |serving| serving.take_map(map)))
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
