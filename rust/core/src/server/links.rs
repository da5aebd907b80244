//! Streams between nodes, at their sockets: connected, fed, read, cut. What they carry is `replication`'s.
//!
//! A stream is a connection like a client's, so that reading, writing and waiting are the event loop's. Once in every
//! turn [`EventLoop::replicate`] gives each stream what there is to send; everything written in the turn goes in one
//! piece, and what the other side has not taken bounds what more is written.

use super::event_loop::EventLoop;
use crate::command::client::{Client, Token};
use crate::command::replicate::{self, steady_ms};
use crate::command::settings::Name;
use crate::net::{Stream, connect};
use crate::replication::frames::Frame;
use crate::replication::sink::Greeting;
use crate::replication::source::{HEARTBEAT_MS, ROOM};
use crate::replication::{self, Replication, Role, SILENCE_MS, compare, strict};
use crate::resp::Args;
use std::time::Duration;

/// Connections to mains begun in one turn.
const CONNECTS: usize = 4;

fn steady_us() -> u64 {
    crate::clock::steady_ns() / 1000
}

impl EventLoop {
    /// One turn of all streams; see the module's page.
    pub(super) fn replicate(&mut self) {
        let now = steady_ms();
        self.connect_to_mains(now);
        compare::settle(&mut self.engine, now);
        self.feed_replicas();
        self.answer_mains(now);
        self.cut_the_silent(now);
        replication::moves::settle(&mut self.engine, now);
        replication::drop_stray(&mut self.engine);
        strict::release(&mut self.engine, steady_us());
        let kept = self.engine.settings.size(Name::repl_backlog_size);
        self.engine.tail.trim(kept);
    }

    /// How long the loop may sleep as far as streams are concerned.
    pub(super) fn longest_sleep(&self, otherwise: Duration) -> Duration {
        let Some(replication) = &self.engine.replication else { return otherwise };
        if replication.has_stray() {
            return Duration::ZERO;
        }
        if replication.sources.is_empty() && replication.sinks.is_empty() {
            return otherwise;
        }
        let hurry = replication.sources.iter().any(|source| source.hurries())
            || replication.sinks.iter().any(|sink| sink.hurries());
        if hurry { Duration::ZERO } else { otherwise.min(Duration::from_millis(HEARTBEAT_MS / 2)) }
    }

    fn connect_to_mains(&mut self, now: u64) {
        for _ in 0..CONNECTS {
            let Some(replication) = &self.engine.replication else { return };
            let due = |sink: &replication::Sink| sink.token.is_none() && !sink.over && sink.retry_at <= now;
            let Some(at) = replication.sinks.iter().position(due) else { return };
            let token = self.connect(at);
            let Some(replication) = &mut self.engine.replication else { return };
            let sink = &mut replication.sinks[at];
            match token {
                Some(token) => (sink.token, sink.heard) = (Some(token), now),
                None => sink.lost(now),
            }
        }
    }

    fn connect(&mut self, at: usize) -> Option<Token> {
        let engine = &mut self.engine;
        let (membership, replication) = (engine.membership.as_ref()?, engine.replication.as_mut()?);
        let main = replication::main_of(membership, &replication.sinks[at])?;
        let here = membership.me.map(|me| membership.document.nodes()[usize::from(me)].host.as_str());
        let over_tcp = || {
            let socket = connect::tcp(&main.host, main.port)?;
            Stream::outgoing(socket, &main.host, engine.tls.connector.as_ref())
        };
        let socket = match here {
            Some(here) if here == main.host && !main.unix.is_empty() => {
                connect::unix(&main.unix).map(Stream::Plain).or_else(|_| over_tcp())
            }
            _ => over_tcp(),
        };
        let password = engine.settings.text(Name::requirepass);
        let id = crate::command::cluster::membership::own_id(engine);
        let replication = engine.replication.as_mut()?;
        let sink = &mut replication.sinks[at];
        sink.greeted = if password.is_empty() { Greeting::Question } else { Greeting::Password };
        let question = replication::question(membership, sink, &id, password);
        let (name, address) = (format!("main-{}", main.id), format!("{}:{}", main.host, main.port));
        let mut client = engine.new_client();
        client.stream = Some(Role::Sink);
        client.name = name.into_bytes();
        client.address = address;
        client.pending = question;
        self.adopt(client, socket.ok()?)
    }

    fn feed_replicas(&mut self) {
        let now = steady_us();
        let Some(mut replication) = self.engine.replication.take() else { return };
        let bound = self.engine.settings.number(Name::max_unreplicated_ms) as u64;
        replication.note_lag(self.engine.tail.seq(), now / 1000, bound);
        let squeezes = self.engine.settings.is_on(Name::repl_compression);
        let mut fed = Vec::new();
        let Replication { sources, pace, counts, comparing, .. } = &mut *replication;
        pace.allow(sources, now, self.engine.stats.commands);
        for source in sources {
            let Some(client) = self.engine.clients.get_mut(source.token) else { continue };
            let before = client.pending.len();
            if before >= ROOM {
                continue;
            }
            source.squeezes = squeezes;
            let (allowed, began) = (source.allowance, if source.allowance.is_some() { steady_us() } else { 0 });
            let pumped = source.pump(&mut self.engine.tail, &self.engine.store, &mut client.pending, now);
            if let (Some(allowed), Some(left)) = (allowed, source.allowance) {
                pace.spend(allowed, left, began, steady_us());
            }
            if pumped.is_ok() {
                let spoke = client.pending.len() > before;
                comparing.ask(source, &self.engine.tail, &self.engine.store, &mut client.pending, spoke);
            }
            if pumped.is_err() {
                // Too slow for the records that are kept: it begins anew.
                counts.shed += 1;
                client.dead = true;
                fed.push(source.token);
            } else if client.pending.len() > before {
                fed.push(source.token);
            }
        }
        self.engine.replication = Some(replication);
        for token in fed {
            self.send_pending(token);
        }
    }

    fn answer_mains(&mut self, now: u64) {
        let Some(mut replication) = self.engine.replication.take() else { return };
        let mut said = Vec::new();
        for sink in &mut replication.sinks {
            let Some(token) = sink.token.filter(|_| sink.greeted == Greeting::Streams) else { continue };
            if !sink.hurries() && now < sink.promised + HEARTBEAT_MS {
                continue;
            }
            let mut words = Vec::new();
            sink.say(&self.engine, &mut words, now);
            if let Some(client) = self.engine.clients.get_mut(token) {
                client.pending.extend_from_slice(&words);
                said.push(token);
            }
        }
        self.engine.replication = Some(replication);
        for token in said {
            self.send_pending(token);
        }
    }

    fn cut_the_silent(&mut self, now: u64) {
        let Some(replication) = &self.engine.replication else { return };
        let sources = replication.sources.iter().map(|source| (source.token, source.heard));
        let sinks = replication.sinks.iter().filter_map(|sink| Some((sink.token?, sink.heard)));
        let silent: Vec<Token> =
            sources.chain(sinks).filter(|(_, heard)| now > heard + SILENCE_MS).map(|(token, _)| token).collect();
        for token in silent {
            self.close(token);
        }
    }

    /// Serve a request of a client on a node that copies: a strict one has its reply held.
    pub(super) fn serve_among_copies(&mut self, client: &mut Client, args: &Args<'_>) {
        let touched = strict::touched(&self.engine, client, args);
        let start = self.reply.len();
        self.serve_request(client, args);
        if touched.as_ref().is_some_and(strict::Touched::only_reads)
            && self.reply.len() > start
            && self.engine.replication.as_ref().is_some_and(|replication| replication.comparing.may_look())
        {
            compare::read(&mut self.engine, client, args, steady_ms());
        }
        if touched.is_some() || !client.held.is_empty() {
            let now = steady_us(); // After the request has run: a lease is looked at last.
            strict::hold(&mut self.engine, client, touched, &mut self.reply, start, now);
        }
    }

    /// Serve what came over a stream; returns how many bytes are done with.
    pub(super) fn serve_stream(&mut self, client: &mut Client, role: Role, input: &[u8]) -> usize {
        let now = steady_ms();
        let used = match role {
            Role::Source => self.hear_replica(client, input, now),
            Role::Sink => self.hear_main(client, input, now),
        };
        client.query_bytes = 0;
        used.unwrap_or_else(|_why| {
            client.dead = true;
            input.len()
        })
    }

    fn hear_replica(&mut self, client: &Client, input: &[u8], now: u64) -> Result<usize, String> {
        let mut used = 0;
        while let Some((frame, len)) = Frame::parse(&input[used..]).map_err(|garbage| garbage.to_string())? {
            let replication = self.engine.replication.as_mut().ok_or("it is no replica any more")?;
            let source = replication.sources.iter_mut().find(|source| source.token == client.token);
            source.ok_or("it is no replica any more")?.take(frame, now)?;
            used += len;
        }
        if used > 0 {
            replicate::serve_waiting(&mut self.engine);
        }
        Ok(used)
    }

    fn hear_main(&mut self, client: &mut Client, input: &[u8], now: u64) -> Result<usize, String> {
        let mut replication = self.engine.replication.take().ok_or("there are no streams any more")?;
        let at = replication.sinks.iter().position(|sink| sink.token == Some(client.token));
        let done = match at {
            None => Err("it is no main of ours any more".to_owned()),
            Some(at) => hear(&mut self.engine, &mut replication.sinks[at], input, now).inspect(|&used| {
                if used > 0 && replication.sinks[at].greeted == Greeting::Streams {
                    replication.sinks[at].say(&self.engine, &mut client.pending, now);
                }
            }),
        };
        self.engine.replication = Some(replication);
        done
    }
}

/// Take in what a main sends: first lines, then frames.
fn hear(
    engine: &mut crate::command::Engine,
    sink: &mut replication::Sink,
    input: &[u8],
    now: u64,
) -> Result<usize, String> {
    let mut used = 0;
    while sink.greeted != Greeting::Streams {
        let Some(end) = input[used..].windows(2).position(|two| two == b"\r\n") else { return Ok(used) };
        let line = &input[used..used + end];
        used += end + 2;
        match (sink.greeted, line) {
            (Greeting::Password, b"+OK") => sink.greeted = Greeting::Question,
            (Greeting::Question, b"+STREAM") => sink.greeted = Greeting::Streams,
            (Greeting::Question, line) if line.starts_with(b"-GONE") && !sink.moves.is_empty() => {
                // It holds nothing of ours any more: what has come is all there is.
                sink.over = true;
                return Err(String::from_utf8_lossy(line).into_owned());
            }
            (Greeting::Question, line) if line.ends_with(replication::OTHER_SLOTS.as_bytes()) => {
                // One of an older release gives all or nothing.
                sink.begin_anew();
                return Err(String::from_utf8_lossy(line).into_owned());
            }
            _ => return Err(String::from_utf8_lossy(line).into_owned()),
        }
    }
    while let Some((frame, len)) = Frame::parse(&input[used..]).map_err(|garbage| garbage.to_string())? {
        sink.take(engine, frame, now)?;
        used += len;
    }
    Ok(used)
}
