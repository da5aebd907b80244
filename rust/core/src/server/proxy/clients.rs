//! Requests of clients: parsed, planned, and sent where they belong.

use super::event_loop::{EventLoop, MOST_REPLIES};
use super::lane::Lane;
use super::upstream::{For, Key, write_request};
use crate::command::client::{Client, Token};
use crate::command::table::Command;
use crate::command::{Fault, dispatch};
use crate::resp::request::{QUOTED, inline_words};
use crate::resp::{Args, OwnedArgs};
use crate::route::{self, Merge, Merging, Part, Plan};

impl EventLoop {
    /// Serve the requests in `input`; returns how many bytes of it are done with.
    pub(super) fn serve(&mut self, token: Token, input: &[u8]) -> usize {
        let Some(mut client) = self.engine.clients.take(token) else {
            return input.len();
        };
        let Some(mut lane) = self.lanes[token as usize].take() else {
            self.engine.clients.put_back(client);
            return input.len();
        };
        client.last_seen = self.engine.store.now();
        let mut used = 0;
        while used < input.len() && lane.may_serve() && !client.closing && !client.dead {
            let limits = dispatch::limits(&self.engine, &client);
            let rest = &input[used..];
            lane.parser.forget();
            match lane.parser.parse(rest, limits) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    if !lane.parser.spans().is_empty() {
                        let parser = std::mem::take(&mut lane.parser);
                        let args = Args::new(rest, parser.spans());
                        let raw = rest.first() == Some(&b'*');
                        self.route(&mut client, &mut lane, &args, if raw { Some(&rest[..len]) } else { None });
                        lane.parser = parser;
                    }
                    used += len;
                }
                Err(error) if error.0 == QUOTED => match inline_words(rest) {
                    Ok((words, len)) => {
                        self.route(&mut client, &mut lane, &words.as_args(), None);
                        used += len.min(rest.len());
                    }
                    Err(error) => break_off(&mut client, &mut lane, &error.0),
                },
                Err(error) => break_off(&mut client, &mut lane, &error.0),
            }
        }
        if client.closing || client.dead {
            used = input.len();
        }
        client.query_bytes = input.len() - used;
        self.lanes[token as usize] = Some(lane);
        self.engine.clients.put_back(client);
        used
    }

    /// Send one request where it belongs. `raw` are its bytes, when they already are a protocol array.
    fn route(&mut self, client: &mut Client, lane: &mut Lane, args: &Args<'_>, raw: Option<&[u8]>) {
        // Unknown and malformed requests, and all before AUTH, are answered as a node would answer them.
        let Some((row, place)) = dispatch::resolve_quietly(args) else {
            return self.answer_here(client, lane, args);
        };
        if !client.authenticated {
            return self.answer_here(client, lane, args);
        }
        if client.multi.is_some() {
            return if row.name == "exec" { self.exec(client, lane) } else { self.answer_here(client, lane, args) };
        }
        let plan = route::plan(row, args, &self.map);
        if !matches!(plan, Plan::Here) {
            self.engine.stats.commands += 1;
            self.engine.command_stats[place as usize].calls += 1;
            client.last_command = Some(row);
        }
        match plan {
            Plan::Here => self.answer_here(client, lane, args),
            Plan::One(node) => {
                self.send_whole(client, lane, node, args, raw);
            }
            Plan::Alone(node) => self.send_alone(client, lane, node, args, raw),
            Plan::Split(parts, merge) => self.send_parts(client, lane, args, &parts, merge),
            Plan::Everywhere(merge) => self.send_everywhere(client, lane, args, merge),
            Plan::Refuse(fault) => self.answer_error(lane, &fault),
        }
    }

    fn answer_here(&mut self, client: &mut Client, lane: &mut Lane, args: &Args<'_>) {
        self.reply.clear();
        self.reply.speak(client.resp3);
        dispatch::serve(&mut self.engine, client, args, &mut self.reply);
        lane.answer(self.reply.bytes());
    }

    fn answer_error(&mut self, lane: &mut Lane, fault: &Fault) {
        self.reply.clear();
        dispatch::fail(&mut self.engine, &mut self.reply, fault);
        lane.answer(self.reply.bytes());
    }

    #[inline]
    fn send_whole(&mut self, client: &Client, lane: &mut Lane, node: u16, args: &Args<'_>, raw: Option<&[u8]>) {
        let key = Key { node, database: client.database, resp3: client.resp3, owner: 0 };
        let index = match self.upstream(key) {
            Ok(index) => index,
            Err(text) => return self.answer_error(lane, &Fault::new(text)),
        };
        let number = lane.sent();
        self.push(index, client, number, 0, args, raw);
    }

    /// Put a request on its way to a node.
    #[inline]
    fn push(&mut self, index: u32, client: &Client, number: u32, part: u16, args: &Args<'_>, raw: Option<&[u8]>) {
        let now = self.engine.store.now();
        let Some(upstream) = self.upstreams[index as usize].as_mut() else { return };
        if upstream.expected.is_empty() {
            upstream.waiting_since = now;
        }
        match raw {
            Some(raw) => upstream.out.extend_from_slice(raw),
            None => write_request(&mut upstream.out, args.from(0)),
        }
        upstream.expected.push_back(For::Client { token: client.token, id: client.id, number, part });
        if let Some(breaker) = self.breakers.get_mut(upstream.key.node as usize) {
            breaker.requests += 1;
        }
        self.mark_written(index);
    }

    /// A request that may wait: over a connection of the client's own, and the client waits with it.
    fn send_alone(&mut self, client: &Client, lane: &mut Lane, node: u16, args: &Args<'_>, raw: Option<&[u8]>) {
        let key = Key { node, database: client.database, resp3: client.resp3, owner: client.id };
        match self.upstream(key) {
            Ok(index) => {
                lane.alone = Some(index);
                lane.busy_alone = true;
                let number = lane.sent();
                self.push(index, client, number, 0, args, raw);
            }
            Err(text) => self.answer_error(lane, &Fault::new(text)),
        }
    }

    fn send_parts(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, parts: &[Part], merge: Merge) {
        // All nodes must be reachable before any is asked: half a write is worse than none.
        let mut connections = Vec::with_capacity(parts.len());
        for part in parts {
            let key = Key { node: part.node, database: client.database, resp3: client.resp3, owner: 0 };
            match self.upstream(key) {
                Ok(index) => connections.push(index),
                Err(text) => return self.answer_error(lane, &Fault::new(text)),
            }
        }
        let positions = parts.iter().map(|part| part.positions.clone()).collect();
        let number = lane.sent_in_parts(Merging::new(merge, parts.len(), positions));
        for (place, (part, index)) in parts.iter().zip(connections).enumerate() {
            let words = std::iter::once(0).chain(part.arguments.iter().copied()).map(|at| args.at(at));
            let request = OwnedArgs::from_parts(words);
            self.push(index, client, number, place as u16, &request.as_args(), None);
        }
    }

    fn send_everywhere(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, merge: Merge) {
        let everything: Vec<usize> = (1..args.len()).collect();
        let parts: Vec<Part> = (0..self.map.nodes().len() as u16)
            .map(|node| Part { node, arguments: everything.clone(), positions: Vec::new() })
            .collect();
        if parts.is_empty() {
            return self.answer_error(lane, &Fault::new("CLUSTERDOWN the proxy knows no nodes yet"));
        }
        self.send_parts(client, lane, args, &parts, merge);
    }

    /// A transaction whose keys all lie on one node runs there, whole; replies up to EXEC's are dropped.
    fn exec(&mut self, client: &mut Client, lane: &mut Lane) {
        let Some(multi) = client.multi.take() else { return };
        if multi.broken {
            let fault = Fault::new("EXECABORT Transaction discarded because of previous errors.");
            return self.answer_error(lane, &fault);
        }
        if multi.queue.is_empty() {
            return lane.answer(b"*0\r\n");
        }
        let mut node = None;
        for (row, args) in &multi.queue {
            match one_node(row, &args.as_args(), &self.map) {
                Ok(None) => {}
                Ok(Some(each)) if *node.get_or_insert(each) == each => {}
                Ok(Some(_)) => {
                    let text = "CROSSSLOT Keys of the transaction lie on different nodes; give them a common {tag}";
                    return self.answer_error(lane, &Fault::new(text));
                }
                Err(fault) => return self.answer_error(lane, &fault),
            }
        }
        let node = node.unwrap_or(0);
        let key = Key { node, database: client.database, resp3: client.resp3, owner: 0 };
        let index = match self.upstream(key) {
            Ok(index) => index,
            Err(text) => return self.answer_error(lane, &Fault::new(text)),
        };
        let number = lane.sent();
        if let Some(upstream) = self.upstreams[index as usize].as_mut() {
            write_request(&mut upstream.out, [&b"MULTI"[..]].into_iter());
            upstream.expected.push_back(For::Queued);
            for (_, args) in &multi.queue {
                write_request(&mut upstream.out, args.as_args().from(0));
                upstream.expected.push_back(For::Queued);
            }
        }
        let exec = OwnedArgs::from_parts([&b"EXEC"[..]]);
        self.push(index, client, number, 0, &exec.as_args(), None);
    }
}

/// The node a queued command belongs to; `None` when any will do.
fn one_node(row: &Command, args: &Args<'_>, map: &route::Map) -> Result<Option<u16>, Fault> {
    match route::plan(row, args, map) {
        Plan::One(node) | Plan::Alone(node) => Ok(Some(node)),
        Plan::Here => Ok(None),
        Plan::Refuse(fault) => Err(fault),
        Plan::Split(..) | Plan::Everywhere(_) => {
            Err(Fault::new("CROSSSLOT Keys of the transaction lie on different nodes; give them a common {tag}"))
        }
    }
}

impl Lane {
    /// Whether the client's next request may be served: not while one of its own waits at a node, nor
    /// while it does not read its replies.
    pub(super) fn may_serve(&self) -> bool {
        !self.busy_alone && self.waiting() < 16_384 && self.out.len() < MOST_REPLIES
    }
}

/// Answer a protocol error and let the client go.
fn break_off(client: &mut Client, lane: &mut Lane, text: &str) {
    let mut reply = crate::resp::Reply::default();
    reply.error(format!("ERR Protocol error: {text}").as_bytes());
    lane.answer(reply.bytes());
    client.closing = true;
}
