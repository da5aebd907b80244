//! A proxy as a running thing: clients on one side, nodes on the other.
//!
//! `clients` parses requests and sends them where they belong, `lane` keeps a client's replies in order, `upstream` speaks
//! with a node, `event_loop` ties them to sockets, `life` is how it begins to end and gets other maps. `again` is what becomes of a request whose node does not serve it
//! now, `jobs`, `vigil`, `streams` and `gather` are what takes several steps, `channels` listens for all who listen, `tracked` tells those who
//! keep copies. `workers` is how several loops are one proxy, `peers` asks other proxies, `handover` how it becomes another program. What to do with a
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
mod nodes;
mod options;
mod peers;
mod rights;
mod scratch;
mod streams;
mod tracked;
mod trouble;
mod upstream;
mod vigil;
mod workers;

use crate::command::Engine;
use crate::command::settings::Settings;
use crate::route::Map;
use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::runner::Runner;

/// A proxy. Dropping it stops it.
pub struct Proxy {
    /// Settings for each worker.
    settings: Mutex<Option<(Vec<Settings>, options::Options)>>,
    /// The map to begin with.
    first: Mutex<Option<Map>>,
    workers: Vec<Runner<event_loop::Errand>>,
    trouble: Arc<trouble::Trouble>,
    beats: Mutex<Beats>,
}

/// Heartbeats of the workers when they had all risen last, and how often they had.
#[derive(Default)]
struct Beats {
    all: u64,
    of_each: Vec<u64>,
}

impl Proxy {
    /// A proxy with these settings (those of a node that concern clients, and [`options::Options`]), not yet running.
    pub fn new(pairs: &[(String, String)]) -> Result<Proxy, String> {
        let mut options = options::Options::default();
        let mut of_nodes = Vec::new();
        for (name, value) in pairs {
            if !options.take(name, value)? {
                of_nodes.push((name.clone(), value.clone()));
            }
        }
        options.failover_buffer /= options.workers;
        let workers: Result<Vec<_>, _> = (0..options.workers).map(|_| Runner::new()).collect();
        let settings: Result<Vec<_>, _> = (0..options.workers).map(|_| super::settings_from(&of_nodes)).collect();
        Ok(Proxy {
            settings: Mutex::new(Some((settings?, options))),
            first: Mutex::new(None),
            workers: workers.map_err(|error| format!("cannot open a pipe: {error}"))?,
            trouble: Arc::default(),
            beats: Mutex::default(),
        })
    }

    /// Open the sockets and serve, on threads of its own. Until a map is given, only what the
    /// proxy answers itself is served. `left` is the descriptor of what [`Proxy::hand_over`] of the process before wrote.
    pub fn start(&self, left: Option<i32>) -> io::Result<()> {
        let Some((settings, options)) = super::lock(&self.settings).take() else {
            return Err(io::Error::other("the proxy was started before"));
        };
        let inherited = match left {
            Some(descriptor) => handover::Inherited::read(&handover::text_of(descriptor)?)?,
            None => handover::Inherited::default(),
        };
        let next_client = inherited.last_client().unwrap_or_else(first_client) + 1;
        let map = super::lock(&self.first).take();
        let crews = workers::Crew::of(self.workers.len());
        let mut engines = Vec::new();
        for settings in settings {
            let mut engine = Engine::new(settings, super::random_seed(), crate::clock::wall_ms());
            engine.load_users().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
            engine.next_client = next_client;
            engines.push(engine);
        }
        // One proxy, whichever worker is asked.
        let (run_id, attempts) = (engines[0].run_id.clone(), engines[0].users.attempts.clone());
        for engine in &mut engines {
            (engine.run_id, engine.users.attempts) = (run_id.clone(), attempts.clone());
        }
        let shares = inherited.dealt(self.workers.len()).into_iter();
        let parts = self.workers.iter().zip(engines).zip(crews).zip(shares);
        let mut errands = Vec::new();
        // The first one last: it lets clients in, and all are there to serve them.
        for (((runner, engine), crew), inherited) in parts.rev() {
            let started = runner.start("fastcache-proxy", |inbox, mine| {
                errands.insert(0, mine);
                if crew.me == 0 {
                    crew.meet(std::mem::take(&mut errands));
                }
                let map = map.clone();
                let (mut serving, waker) = event_loop::EventLoop::open(engine, (options, crew), inbox, map, inherited)?;
                serving.trouble = Arc::clone(&self.trouble);
                Ok((waker, move |heartbeat: &Arc<std::sync::atomic::AtomicU64>| serving.run(heartbeat)))
            });
            if let Err(error) = started {
                self.stop();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Route by this map from now on, or from the start when it has not started. Requests on their way are not disturbed.
    /// `false` when the proxy has ended.
    pub fn set_map(&self, map: Map) -> bool {
        if super::lock(&self.settings).is_some() {
            *super::lock(&self.first) = Some(map);
            return true;
        }
        let mut told = true;
        for worker in &self.workers {
            let map = map.clone();
            told &= worker.send(Box::new(move |serving| serving.take_map(map)));
        }
        told
    }

    /// Stop serving and leave all connections open for the program that this process is to become: returns the descriptor
    /// of a file in memory that says what they are. When requests under way are not answered in time it goes on serving,
    /// and the error says what they wait for.
    pub fn hand_over(&self) -> Result<i32, String> {
        let gone = || "the proxy does not run".to_owned();
        let asked: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let ((told, rested), (decide, verdict), (write, written)) = (channel(), channel(), channel());
                worker.send(Box::new(move |serving| {
                    let _ = write.send(serving.hand_over(&told, &verdict));
                }));
                (rested, decide, written)
            })
            .collect();
        let rested: Vec<Result<(), String>> =
            asked.iter().map(|(rested, ..)| rested.recv().unwrap_or_else(|_| Err(gone()))).collect();
        let all = rested.into_iter().collect::<Result<(), String>>();
        for (_, decide, _) in &asked {
            let _ = decide.send(all.is_ok());
        }
        all?;
        let mut records = Vec::new();
        for (.., written) in &asked {
            records.extend(written.recv().ok().flatten().ok_or_else(gone)?);
        }
        self.workers.iter().for_each(Runner::join);
        handover::file_of(&records).map_err(|error| format!("no file in memory: {error}"))
    }

    /// Have clients' replies sent, close and end; waits until it is done. Again is no error.
    pub fn stop(&self) {
        // First whoever lets clients in: what it has given to others they still get before they hear of the end.
        let (told, heard) = channel();
        for (at, worker) in self.workers.iter().enumerate() {
            let told = told.clone();
            let sent = worker.send(Box::new(move |serving| {
                serving.stop();
                let _ = told.send(());
            }));
            if at == 0 && sent {
                let _ = heard.recv_timeout(Duration::from_secs(2));
            }
        }
        self.workers.iter().for_each(Runner::join);
    }

    /// Wait until the proxy has ended; `false` when time ran out before.
    pub fn wait(&self, longest: Duration) -> bool {
        let ended = Runner::wait_for_any(&self.workers, longest);
        if ended && self.workers.len() > 1 {
            self.stop(); // One without the others is no proxy.
        }
        ended
    }

    /// Whether a loop ended by a fault of ours. (Builds for use abort instead.)
    pub fn panicked(&self) -> bool {
        self.workers.iter().any(Runner::panicked)
    }

    /// A number that rises while all loops live.
    pub fn heartbeat(&self) -> u64 {
        let now: Vec<u64> = self.workers.iter().map(Runner::heartbeat).collect();
        let mut beats = super::lock(&self.beats);
        if beats.of_each.is_empty() || beats.of_each.iter().zip(&now).all(|(before, now)| now > before) {
            (beats.all, beats.of_each) = (beats.all + 1, now);
        }
        beats.all
    }

    /// A number that rises when a node cannot be reached or turns requests away.
    pub fn trouble(&self) -> u64 {
        self.trouble.count()
    }

    /// The same number, once it is another than `seen`, or after so long.
    pub fn trouble_after(&self, seen: u64, longest: Duration) -> u64 {
        self.trouble.after(seen, longest)
    }

    /// Figures for metrics, those of all workers as one; empty when one does not answer within two seconds.
    pub fn stats(&self) -> Vec<(String, f64)> {
        let mut whole: Vec<(String, f64)> = Vec::new();
        for worker in &self.workers {
            let Some(figures) = worker.ask(|serving| serving.figures()) else { return Vec::new() };
            for (name, value) in figures {
                match whole.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) if life::adds_up(&name) => *sum += value,
                    Some((_, most)) => *most = most.max(value),
                    None => whole.push((name, value)),
                }
            }
        }
        whole
    }
}

/// Numbers of clients tell them apart over all proxies of a fleet: each begins somewhere else. Below 2^53, which is what
/// every language can count to.
fn first_client() -> u64 {
    (super::random_seed() & 0xF_FFFF) << 32
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
