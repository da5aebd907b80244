//! Requests of one client: found in its bytes, a batch at a time, and run.

use super::{BATCH, EventLoop, FLUSH_AT};
use crate::command::client::{Client, Token};
use crate::command::settings::Name;
use crate::command::{blocking, dispatch};
use crate::replication::strict;
use crate::resp::request::{QUOTED, inline_words};
use crate::resp::{Args, Reply, RequestParser};
use crate::server::busy;
use crate::store::Kind;
use crate::store::approach::Inside;
use crate::store::keyspace::Whereabouts;

/// A request that was found and is about to be served.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    start: usize,
    spans: (u32, u32),
    at: Whereabouts,
    inside: Option<Inside>,
}

impl EventLoop {
    /// Serve the requests in `input`; returns how many bytes of it are done with.
    pub(super) fn serve(&mut self, token: Token, input: &[u8]) -> usize {
        let Some(mut client) = self.engine.clients.take(token) else {
            return input.len();
        };
        let Some(connection) = self.connections[token as usize].as_mut() else {
            self.engine.clients.put_back(client);
            return input.len();
        };
        client.last_seen = self.engine.store.now();
        if let Some(role) = client.stream {
            let used = self.serve_stream(&mut client, role, input);
            self.reply.clear();
            self.flush(&mut client);
            self.engine.clients.put_back(client);
            return used;
        }
        let mut parser = std::mem::take(&mut connection.parser);
        self.reply.clear();
        self.reply.speak(client.resp3);
        if !client.pending.is_empty() && !self.engine.gate.closed() {
            self.reply.raw(&std::mem::take(&mut client.pending));
        }
        let mut used = 0;
        let mut reads = true;
        while used < input.len() && going(&client) {
            let (taken, go_on) = self.serve_batch(&mut client, &mut parser, &input[used..]);
            used += taken;
            if !go_on {
                break;
            }
            if self.reply.len() > FLUSH_AT && !self.flush(&mut client) {
                reads = false; // The rest waits until it does.
                break;
            }
        }
        if client.closing || client.dead {
            used = input.len(); // What follows is not answered.
        }
        client.query_bytes = input.len() - used;
        if client.query_bytes > self.engine.settings.size(Name::client_query_buffer_limit) {
            self.engine.stats.query_limit_disconnections += 1;
            client.dead = true;
        }
        if reads {
            self.flush(&mut client);
        }
        if let Some(connection) = self.connections[token as usize].as_mut() {
            connection.parser = parser;
        }
        self.engine.clients.put_back(client);
        used
    }

    /// Find the next requests, have the processor fetch what their keys need, and serve them. Returns
    /// how many bytes are done with, and whether there may be more to serve.
    fn serve_batch(&mut self, client: &mut Client, parser: &mut RequestParser, input: &[u8]) -> (usize, bool) {
        let limits = dispatch::limits(&self.engine, client);
        // Before AUTH other limits hold than after it: such requests go one by one.
        let most = if limits.before_auth { 1 } else { BATCH };
        parser.forget();
        self.batch.clear();
        let mut end = 0;
        let mut broken = None;
        while self.batch.len() < most && end < input.len() {
            match parser.parse(&input[end..], limits) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    self.batch.push(Pending {
                        start: end,
                        spans: parser.mark(),
                        at: Whereabouts::default(),
                        inside: None,
                    });
                    end += len;
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let incomplete = broken.is_none() && self.batch.len() < most;
        self.look_ahead(client.database, parser, input);
        for index in 0..self.batch.len() {
            let Pending { start, spans, at, .. } = self.batch[index];
            let args = Args::new(&input[start..], parser.spans_at(spans));
            if args.len() == 0 {
                continue;
            }
            let held = (self.engine.may_hold() && self.engine.holds(client, &args))
                || (!self.engine.copies.is_empty() && self.engine.copy_holds(client, &args));
            if held || !going(client) || (index > 0 && self.reply.len() > FLUSH_AT) {
                // Not now: what was read ahead is read again when its turn comes.
                parser.restart();
                return (start, !held);
            }
            if cross_protocol(&args) {
                client.dead = true;
                return (input.len(), false);
            }
            self.engine.store.expect(at);
            if self.engine.replication.is_some() {
                self.serve_among_copies(client, &args);
            } else {
                self.serve_request(client, &args);
            }
            self.engine.store.expect(Whereabouts::default());
            if !self.engine.ready.is_empty() {
                blocking::serve_ready(&mut self.engine);
            }
        }
        match broken {
            None => {}
            Some(_) if !going(client) => parser.restart(),
            Some(error) if error.0 == QUOTED => match inline_words(&input[end..]) {
                Ok((words, len)) => {
                    self.serve_at_length(client, &words.as_args());
                    end += len.min(input.len() - end);
                }
                Err(error) => break_off(client, &mut self.reply, &error.0),
            },
            Some(error) => break_off(client, &mut self.reply, &error.0),
        }
        (end, !incomplete)
    }

    /// Serve a request.
    #[inline]
    pub(in crate::server) fn serve_request(&mut self, client: &mut Client, args: &Args<'_>) {
        if busy::may_take_long(args) {
            self.serve_at_length(client, args);
        } else {
            dispatch::serve(&mut self.engine, client, args, &mut self.reply);
        }
    }

    /// Serve a request that may be a script: others are seen to if it takes long.
    fn serve_at_length(&mut self, client: &mut Client, args: &Args<'_>) {
        let EventLoop { engine, poll, waker, inbox, listeners, connections, more, reply, .. } = self;
        let sockets = busy::Sockets { poll, waker, inbox, listeners, connections, more };
        busy::lend(sockets, || dispatch::serve(engine, client, args, reply));
    }

    /// Fetch into the cache what the keys of a batch will need, one step for all before the next.
    #[inline]
    fn look_ahead(&mut self, database: u8, parser: &RequestParser, input: &[u8]) {
        if let [only] = &mut self.batch[..] {
            only.at = self.first_at;
        }
        self.first_at = Whereabouts::default();
        if self.batch.len() < 2 {
            return;
        }
        let store = &self.engine.store;
        for request in &mut self.batch {
            // Nearly always the first argument is the key; where it is not, the work is wasted, no more.
            let args = Args::new(&input[request.start..], parser.spans_at(request.spans));
            if let Some(key) = args.get(1) {
                request.at = store.approach(database, key);
            }
        }
        self.batch.iter().for_each(|request| store.approach_group(database, &request.at));
        self.batch.iter().for_each(|request| store.approach_entry(database, &request.at));
        let mut any_inside = false;
        for request in &mut self.batch {
            let args = Args::new(&input[request.start..], parser.spans_at(request.spans));
            if asks_for_member(&args) {
                // A member of a sorted set stands last, behind its score.
                let last = |kind| if kind == Kind::SortedSet { args.len() - 1 } else { 2 };
                request.inside = store.approach_object(database, &request.at, |kind| args.get(last(kind)));
                any_inside |= request.inside.is_some();
            }
        }
        if any_inside {
            self.batch
                .iter()
                .filter_map(|request| request.inside.as_ref())
                .for_each(|inside| store.approach_place(inside));
            self.batch
                .iter()
                .filter_map(|request| request.inside.as_ref())
                .for_each(|inside| store.approach_member(inside));
        }
    }
}

/// Answer a protocol error and let the client go.
fn break_off(client: &mut Client, reply: &mut Reply, text: &str) {
    reply.error(format!("ERR Protocol error: {text}").as_bytes());
    client.closing = true;
}

/// The first argument of the first request, if the bytes begin as nearly all do.
#[inline]
pub(super) fn first_key(bytes: &[u8]) -> Option<&[u8]> {
    let (_, at) = short_number(bytes, 0, b'*')?;
    let (name, at) = short_number(bytes, at, b'$')?;
    let (key, at) = short_number(bytes, at + name + 2, b'$')?;
    bytes.get(at..at + key)
}

/// A header of at most three digits: its number, and where the next line begins.
#[inline]
fn short_number(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let [first, rest @ ..] = bytes.get(at..)? else { return None };
    if *first != kind {
        return None;
    }
    let mut number = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        match byte {
            b'0'..=b'9' => number = number * 10 + usize::from(byte - b'0'),
            b'\r' => return Some((number, at + index + 3)),
            _ => return None,
        }
    }
    None
}

/// Whether a client's next request may be served.
#[inline]
fn going(client: &Client) -> bool {
    client.blocked.is_none() && !client.closing && !client.dead && client.held.len() < strict::MOST_HELD
}

/// A browser made to talk to us by a hostile page sends these words first: such a connection is closed at once.
#[inline]
fn cross_protocol(args: &Args<'_>) -> bool {
    args.is(0, "POST") || args.is(0, "HOST:")
}

/// Whether a request looks like one for a member of a hash, set or sorted set, by its name: HGET, SADD, ZSCORE,
/// but not SET and its like. A wrong guess costs a few nanoseconds.
#[inline]
fn asks_for_member(args: &Args<'_>) -> bool {
    args.len() > 2
        && match args.at(0) {
            [b'h' | b'H' | b'z' | b'Z', ..] => true,
            [b's' | b'S', second, ..] => second | 0x20 != b'e',
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::first_key;

    #[test]
    fn the_first_key_is_seen_where_the_bytes_begin_as_usual() {
        assert_eq!(first_key(b"*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n"), Some(&b"foo"[..]));
        assert_eq!(first_key(b"*2\r\n$3\r\nGET\r\n$300\r\nfoo"), None);
        for odd in [
            &b"PING\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"*2\r\n$3",
            b"*99999\r\n$1\r\n",
            b"",
            b"*2\r\n$3\r\nGET\r\n$3\r\nfo",
        ] {
            assert_eq!(first_key(odd), None);
        }
    }
}
