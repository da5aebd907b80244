//! A proxy as a running thing: clients on one side, nodes on the other.
//!
//! `channels` listens for all who listen, `clients` parses requests and keeps replies in order, `upstream` speaks with the nodes,
//! `event_loop` ties them to sockets. What to do with a request is decided in `crate::route`.

mod channels;
mod clients;
mod event_loop;
mod lane;
mod upstream;

use crate::command::Engine;
use crate::route::Map;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::runner::Runner;

/// A proxy. Dropping it stops it.
pub struct Proxy {
    settings: Mutex<Option<crate::command::settings::Settings>>,
    runner: Runner<event_loop::Errand>,
}

impl Proxy {
    /// A proxy with these settings (those of a node that concern clients), not yet running.
    pub fn new(pairs: &[(String, String)]) -> Result<Proxy, String> {
        let runner = Runner::new().map_err(|error| format!("cannot open a pipe: {error}"))?;
        Ok(Proxy { settings: Mutex::new(Some(super::settings_from(pairs)?)), runner })
    }

    /// Open the sockets and serve, on a thread of its own. Until a map is given, only what the
    /// proxy answers itself is served.
    pub fn start(&self) -> io::Result<()> {
        let Some(settings) = super::lock(&self.settings).take() else {
            return Err(io::Error::other("the proxy was started before"));
        };
        let engine = Engine::new(settings, super::random_seed(), crate::clock::wall_ms());
        self.runner.start("fastcache-proxy", |inbox, _| {
            let (mut serving, waker) = event_loop::EventLoop::open(engine, inbox)?;
            Ok((waker, move |heartbeat: &std::sync::atomic::AtomicU64| serving.run(heartbeat)))
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
