//! Requests of clients: parsed, planned, and sent where they belong.

use super::channels;
use super::event_loop::{EventLoop, MOST_REPLIES};
use super::lane::{Lane, Watch};
use super::upstream::{For, Key, write_request};
use crate::command::client::{Client, Multi, Token};
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
                        let raw = if raw { Some(&rest[..len]) } else { None };
                        let done = self.route(&mut client, &mut lane, &args, raw);
                        lane.parser = parser;
                        if !done {
                            lane.parser.restart();
                            break;
                        }
                    }
                    used += len;
                }
                Err(error) if error.0 == QUOTED => match inline_words(rest) {
                    Ok((words, len)) => {
                        if !self.route(&mut client, &mut lane, &words.as_args(), None) {
                            lane.parser.restart();
                            break;
                        }
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
    /// `false` when it must wait until those before it have been answered.
    fn route(&mut self, client: &mut Client, lane: &mut Lane, args: &Args<'_>, raw: Option<&[u8]>) -> bool {
        // Unknown and malformed requests, and all before AUTH, are answered as a node would answer them.
        let known = dispatch::resolve_quietly(args).filter(|_| client.authenticated);
        let Some((row, place)) = known else {
            self.answer_here(client, lane, args);
            return true;
        };
        if client.multi.is_some() {
            match row.name {
                "exec" if lane.watch.is_some() && lane.waiting() > 0 => return false,
                "exec" => self.exec(client, lane),
                _ => self.answer_about_the_connection(client, lane, args, row),
            }
            return true;
        }
        let plan = route::plan(row, args, &self.map);
        if matches!(plan, Plan::Alone(_)) && lane.waiting() > 0 {
            return false; // Its connection is another than theirs: it must not overtake them.
        }
        if !matches!(plan, Plan::Here) {
            self.engine.stats.commands += 1;
            self.engine.command_stats[place as usize].calls += 1;
            client.last_command = Some(row);
        }
        match plan {
            Plan::Here => self.answer_about_the_connection(client, lane, args, row),
            Plan::One(node) => self.send_whole(client, lane, node, args, raw),
            Plan::Alone(node) => self.send_alone(client, lane, node, args, raw, row.name == "watch"),
            Plan::Split(parts, merge) => self.send_parts(client, lane, args, &parts, merge),
            Plan::Everywhere(merge) => self.send_everywhere(client, lane, args, merge),
            Plan::Scan(node, cursor) => self.send_scan(client, lane, args, node, cursor),
            Plan::Refuse(fault) => self.answer_error(lane, &fault),
        }
        true
    }

    /// Answer what is about the connection, and do at the nodes what belongs to it.
    fn answer_about_the_connection(&mut self, client: &mut Client, lane: &mut Lane, args: &Args<'_>, row: &Command) {
        let queues = client.multi.is_some();
        if matches!(row.name, "discard" | "reset") || (row.name == "unwatch" && !queues) {
            self.unwatch(lane.watch.take());
        }
        let way = channels::way_of(row.name).filter(|_| !queues);
        let Some(way) = way else {
            return self.answer_here(client, lane, args);
        };
        let before = client.subscriptions();
        self.reply.clear();
        self.reply.speak(client.resp3);
        dispatch::serve(&mut self.engine, client, args, &mut self.reply);
        if client.subscriptions() == before {
            return lane.answer(self.reply.bytes()); // Refused, or nothing new.
        }
        self.begin_to_listen(client, lane, way, args);
    }

    /// Forget at the node what a client watches.
    fn unwatch(&mut self, watch: Option<Watch>) {
        let Some(watch) = watch.filter(|watch| !watch.lost) else { return };
        if let Some(upstream) = self.upstreams[watch.connection as usize].as_mut() {
            write_request(&mut upstream.out, [&b"UNWATCH"[..]].into_iter());
            upstream.expected.push_back(For::Queued);
            self.mark_written(watch.connection);
        }
    }

    /// One step of a scan over all nodes.
    fn send_scan(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, node: u16, cursor: u64) {
        let nodes = self.map.nodes().len() as u16;
        if node >= nodes {
            return lane.answer(b"*2\r\n$1\r\n0\r\n*0\r\n"); // Of a time with more nodes: it ends here.
        }
        let key = Key { node, database: client.database, resp3: client.resp3, owner: 0 };
        match self.upstream(key) {
            Ok(index) => {
                let cursor = cursor.to_string();
                let words = [args.at(0), cursor.as_bytes()].into_iter().chain(args.from(2));
                let request = OwnedArgs::from_parts(words);
                let number = lane.sent_in_parts(Merging::new(Merge::Scan(node, nodes), 1, Vec::new()));
                self.push(index, client, number, 0, &request.as_args(), None);
            }
            Err(text) => self.answer_error(lane, &Fault::new(text)),
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

    /// A request that may wait or watches: over a connection of the client's own, and the client waits with it.
    fn send_alone(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        node: u16,
        args: &Args<'_>,
        raw: Option<&[u8]>,
        watches: bool,
    ) {
        let key = Key { node, database: client.database, resp3: client.resp3, owner: client.id };
        let index = match self.upstream(key) {
            Ok(index) => index,
            Err(text) => return self.answer_error(lane, &Fault::new(text)),
        };
        if !lane.alone.contains(&index) {
            lane.alone.push(index);
        }
        if watches {
            match lane.watch {
                Some(watch) if watch.lost => {} // EXEC will fail already.
                Some(watch) if watch.connection != index => {
                    let text = "CROSSSLOT Watched keys must lie on one node; give them a common {tag}";
                    return self.answer_error(lane, &Fault::new(text));
                }
                _ => lane.watch = Some(Watch { connection: index, lost: false }),
            }
        }
        lane.busy_alone = true;
        let number = lane.sent();
        self.push(index, client, number, 0, args, raw);
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
        let watch = lane.watch.take();
        let index = match self.place_of_transaction(client, &multi, watch) {
            Ok(Some(index)) => index,
            Ok(None) => {
                self.reply.clear();
                self.reply.speak(client.resp3);
                if watch.is_some() {
                    self.reply.null_array()
                } else {
                    self.reply.array(0)
                }
                return lane.answer(self.reply.bytes());
            }
            Err(fault) => {
                self.unwatch(watch);
                return self.answer_error(lane, &fault);
            }
        };
        // Over a connection of its own, it must not be overtaken by what comes after it.
        lane.busy_alone = watch.is_some();
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

    /// The connection over which a transaction runs; `None` when there is nothing to run: it is empty, or the
    /// connection over which its keys were watched is lost, and with it the knowledge whether they changed.
    fn place_of_transaction(
        &mut self,
        client: &Client,
        multi: &Multi,
        watch: Option<Watch>,
    ) -> Result<Option<u32>, Fault> {
        if multi.broken {
            return Err(Fault::new("EXECABORT Transaction discarded because of previous errors."));
        }
        let mut node = None;
        for (row, args) in &multi.queue {
            match one_node(row, &args.as_args(), &self.map)? {
                Some(each) if *node.get_or_insert(each) != each => return Err(spread()),
                _ => {}
            }
        }
        let Some(watch) = watch else {
            if multi.queue.is_empty() {
                return Ok(None);
            }
            let key = Key { node: node.unwrap_or(0), database: client.database, resp3: client.resp3, owner: 0 };
            return self.upstream(key).map(Some).map_err(Fault::new);
        };
        let watched = self.upstreams[watch.connection as usize].as_ref().map(|upstream| upstream.key);
        match watched.filter(|key| !watch.lost && key.owner == client.id && key.node != u16::MAX) {
            None => Ok(None),
            Some(key) if key.database != client.database => {
                Err(Fault::new("ERR keys were watched in another database; a proxy cannot carry that over"))
            }
            Some(key) if node.is_some_and(|node| node != key.node) => Err(spread()),
            Some(_) => Ok(Some(watch.connection)),
        }
    }
}

/// A transaction would need several nodes.
fn spread() -> Fault {
    Fault::new("CROSSSLOT Keys of the transaction lie on different nodes; give them a common {tag}")
}

/// The node a queued command belongs to; `None` when any will do.
fn one_node(row: &Command, args: &Args<'_>, map: &route::Map) -> Result<Option<u16>, Fault> {
    // The connection of a transaction is shared with others: its state is not this client's to change.
    if row.group == "pubsub" && row.name != "publish" && row.name != "spublish"
        || row.group == "connection" && !matches!(row.name, "ping" | "echo")
    {
        let name = row.name.to_uppercase();
        return Err(Fault::new(format!("ERR {name} inside MULTI is not possible through a proxy")));
    }
    match route::plan(row, args, map) {
        Plan::One(node) | Plan::Alone(node) => Ok(Some(node)),
        Plan::Here => Ok(None),
        Plan::Refuse(fault) => Err(fault),
        Plan::Split(..) | Plan::Everywhere(_) | Plan::Scan(..) => Err(spread()),
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
