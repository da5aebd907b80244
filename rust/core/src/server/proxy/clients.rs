//! Requests of clients: parsed, planned, and sent where they belong.

use super::channels;
use super::event_loop::{EventLoop, MOST_REPLIES};
use super::lane::{Lane, Watch};
use super::rights;
use super::upstream::{For, Key, write_request};
use crate::command::client::{Client, Replies, Token};
use crate::command::settings::Name;
use crate::command::table::{Command, flag};
use crate::command::{Fault, dispatch, monitor};
use crate::resp::number::parse_i64;
use crate::resp::request::{QUOTED, inline_words};
use crate::resp::{Args, OwnedArgs};
use crate::route::transaction::{self, share};
use crate::route::{self, Merge, Merging, Part, Plan};

/// What is told before any topology has come.
const NO_MAP: &str = "LOADING the proxy has not heard yet which nodes there are; it goes on asking the health service";

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
                "exec" if lane.waiting() > 0 && (!lane.watches.is_empty() || self.gathers(client)) => return false,
                "exec" => self.exec(client, lane),
                _ => self.answer_about_the_connection(client, lane, args, row),
            }
            return true;
        }
        // What another proxy says to ask for the end of a pause goes through.
        let greets = matches!(row.name, "hello" | "auth" | "routed" | "peer");
        if self.engine.paused.is_some() && !greets && self.engine.holds(client, args) {
            return false;
        }
        if client.tracking.is_some() || row.name == "tracking" {
            if Self::changes_ways(row, args) && lane.waiting() > 0 {
                return false;
            }
            self.counting = Self::counts(client, row, args);
            let done = self.route_on(client, lane, args, raw, (row, place));
            self.counting = 0;
            return done;
        }
        self.route_on(client, lane, args, raw, (row, place))
    }

    #[inline(always)]
    fn route_on(
        &mut self,
        client: &mut Client,
        lane: &mut Lane,
        args: &Args<'_>,
        raw: Option<&[u8]>,
        (row, place): (&'static Command, u32),
    ) -> bool {
        let plan = route::plan(row, args, &self.map);
        if self.map.nodes().is_empty() && (row.name == "ping" || !matches!(plan, Plan::Here)) {
            // Not PONG either: whoever balances must not send clients here yet.
            self.answer_error(lane, &Fault::of(NO_MAP));
            return true;
        }
        if (client.monitor || client.subscriptions() > 0)
            && !matches!(plan, Plan::Here)
            && let Err(fault) = dispatch::admit(&mut self.engine, client, row, place, args)
        {
            self.answer_error(lane, &fault);
            return true;
        }
        // Nodes take a proxy for the default user: what its own users may not do is refused here.
        if !matches!(plan, Plan::Here)
            && let Err(fault) = rights::admit(&mut self.engine, client, row, place, args)
        {
            self.answer_error(lane, &fault);
            return true;
        }
        if matches!(plan, Plan::Alone(_) | Plan::Watch(_) | Plan::Vigil(_) | Plan::Carry | Plan::Gather(_))
            && lane.waiting() > 0
        {
            return false; // Its connection is another than theirs: it must not overtake them.
        }
        if !matches!(plan, Plan::Here) {
            self.engine.stats.commands += 1;
            self.engine.command_stats[place as usize].calls += 1;
            client.last_command = Some(row);
            if self.engine.is_monitored() {
                monitor::show(&mut self.engine, client, row, args);
            }
        }
        // CLIENT REPLY: what is answered here is taken back by the command's own way.
        let unwanted = client.replies != Replies::On && !matches!(plan, Plan::Here);
        let before = (lane.waiting(), lane.out.len());
        match plan {
            Plan::Here if row.name == "peer" => self.answer_peer(client, lane, args, (row, place)),
            Plan::Here => self.answer_about_the_connection(client, lane, args, row),
            Plan::One(node) => self.send_whole(client, lane, node, args, raw),
            Plan::Alone(_) if asks_from_now_on(row, args) => {
                let keys = row.every_key(args).unwrap_or_default();
                self.begin_waiting_for_streams(client, lane, args, &keys);
            }
            Plan::Alone(node) => self.send_alone(client, lane, node, args, raw),
            Plan::Watch(keys) => self.send_watch(client, lane, args, &keys),
            Plan::Vigil(keys) if row.group == "stream" => self.begin_waiting_for_streams(client, lane, args, &keys),
            Plan::Vigil(keys) => self.begin_vigil(client, lane, args, &keys),
            Plan::Carry => self.begin_carry(client, lane, args),
            Plan::Gather(_) => match self.refuses_to_gather(client, lane) {
                Some(fault) => self.answer_error(lane, &fault),
                None => self.begin_gather(client, lane, vec![args.to_owned()], false),
            },
            Plan::Split(parts, merge) => {
                let positions = parts.iter().map(|part| part.positions.clone()).collect();
                let alone = row.is(flag::BLOCKING);
                if alone && lane.waiting() > 0 {
                    return false;
                }
                self.send_parts(client, lane, args, &parts, Merging::new(merge, parts.len(), positions), alone);
            }
            Plan::Everywhere(merge) => self.send_everywhere(client, lane, args, merge),
            Plan::Scan(node, cursor) => self.send_scan(client, lane, args, node, cursor),
            Plan::Refuse(fault) => self.answer_error(lane, &fault),
        }
        if unwanted {
            lane.hush(before.0, before.1);
            if client.replies != Replies::Off {
                client.replies = Replies::On;
            }
        }
        true
    }

    /// Answer what is about the connection, and do at the nodes what belongs to it.
    pub(super) fn answer_about_the_connection(
        &mut self,
        client: &mut Client,
        lane: &mut Lane,
        args: &Args<'_>,
        row: &'static Command,
    ) {
        let queues = client.multi.is_some();
        if args.is(0, "DISCARD") || args.is(0, "RESET") || (args.is(0, "UNWATCH") && !queues) {
            for watch in std::mem::take(&mut lane.watches).into_iter().filter(|watch| !watch.lost) {
                self.forget_watch(watch.connection);
            }
        }
        if args.is(0, "CLIENT")
            && !queues
            && args.is(1, "UNBLOCK")
            && let Some(id) = args.get(2).and_then(parse_i64)
            && self.unblock(client, lane, id, args)
        {
            return;
        }
        if row.name == "tracking" && args.is(2, "ON") && !queues {
            if !self.crew.is_alone() && (3..args.len()).any(|at| args.is(at, "REDIRECT")) {
                let text = "ERR REDIRECT is not possible through a proxy with several workers: use RESP3";
                return self.answer_error(lane, &Fault::new(text));
            }
            self.answer_aside(client, args);
            return match &client.tracking {
                Some(tracking) if tracking.broadcast && self.reply.bytes().starts_with(b"+") => {
                    self.begin_broadcast(client, lane)
                }
                _ => lane.answer(self.reply.bytes()),
            };
        }
        if self.ask_everybody(client, lane, args, row) {
            return;
        }
        let way = channels::way_of(row.name).filter(|_| !queues);
        if row.group == "pubsub" {
            self.next_tune = 0; // What nobody listens to any more need not be heard.
        }
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

    /// End another client's waiting for keys, if that is what it does: here, or at the node where it waits.
    fn unblock(&mut self, client: &Client, lane: &mut Lane, id: i64, args: &Args<'_>) -> bool {
        match self.unblock_here(id, args) {
            None => return false,
            Some(None) => lane.answer(b":1\r\n"),
            Some(Some((key, identity))) => {
                let identity = identity.to_string();
                let words = [args.at(0), args.at(1), identity.as_bytes()].into_iter().chain(args.from(3));
                self.send_whole(client, lane, key.node, &OwnedArgs::from_parts(words).as_args(), None);
            }
        }
        true
    }

    /// End the waiting of a client of this worker, where it is we who wait for it. Where a node does: over which kind of
    /// connection, and under which number it is known there. `None` when it does not wait.
    pub(super) fn unblock_here(&mut self, id: i64, args: &Args<'_>) -> Option<Option<(Key, i64)>> {
        if args.len() > 3 && !args.is(3, "TIMEOUT") && !args.is(3, "ERROR") {
            return None;
        }
        let token = self.engine.clients.iter().find(|other| other.id as i64 == id).map(|other| other.token)?;
        let other = self.lanes.get(token as usize).and_then(Option::as_ref).filter(|other| other.busy_alone)?;
        if let Some(job) = other.job.filter(|job| self.only_waits(*job)) {
            if args.is(3, "ERROR") {
                self.finish(job, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
            } else {
                self.give_up(job);
            }
            return Some(None);
        }
        let mut waits = other.alone.iter().filter_map(|&index| self.upstreams[index as usize].as_ref());
        let at = waits.find(|upstream| !upstream.expected.is_empty())?;
        Some(Some((Key { owner: 0, ..at.key }, at.identity)))
    }

    /// Forget at a node what a client watches there.
    pub(super) fn forget_watch(&mut self, connection: u32) {
        if let Some(upstream) = self.upstreams[connection as usize].as_mut() {
            upstream.send_words(For::Nobody, &[b"UNWATCH"]);
            self.mark_written(connection);
        }
    }

    /// One step of a scan over all nodes.
    fn send_scan(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, node: u16, cursor: u64) {
        let nodes = self.map.nodes().len() as u16;
        if node >= nodes {
            return lane.answer(b"*2\r\n$1\r\n0\r\n*0\r\n"); // Of a time with more nodes: it ends here.
        }
        let key = Key::shared(client, node);
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

    pub(super) fn answer_error(&mut self, lane: &mut Lane, fault: &Fault) {
        self.reply.clear();
        dispatch::fail(&mut self.engine, &mut self.reply, fault);
        lane.answer(self.reply.bytes());
    }

    #[inline]
    pub(super) fn send_whole(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        node: u16,
        args: &Args<'_>,
        raw: Option<&[u8]>,
    ) {
        let key = Key::shared(client, node);
        match self.upstream(key) {
            Ok(index) => {
                let number = lane.sent();
                self.push(index, client, number, 0, args, raw);
            }
            Err(text) => {
                let number = lane.sent();
                self.late(
                    client,
                    lane,
                    For::Client { token: client.token, id: client.id, number, part: self.counting },
                    args,
                    key,
                    &text,
                );
            }
        }
    }

    /// A request whose node cannot be reached now: another may answer it, or a failover is waited for, or it failed.
    #[cold]
    fn late(&mut self, client: &Client, lane: &mut Lane, whom: For, args: &Args<'_>, key: Key, text: &str) {
        let mut request = Vec::new();
        write_request(&mut request, args.from(0));
        // The client and its lane are being served: what is told them now is held until they are back.
        let before = self.waiting.len();
        self.unreachable(whom, request, key, text);
        lane.parked += (self.waiting.len() - before) as u32;
        let _ = client;
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
        let part = part | self.counting;
        upstream.expect(For::Client { token: client.token, id: client.id, number, part }, 1, 0);
        if let Some(breaker) = self.breakers.get_mut(upstream.key.node as usize) {
            breaker.requests += 1;
        }
        self.mark_written(index);
    }

    /// Put requests that are written already on their way; the last reply counts.
    pub(super) fn push_bytes(&mut self, index: u32, whom: For, bytes: &[u8], replies: u32) {
        let now = self.engine.store.now();
        let Some(upstream) = self.upstreams[index as usize].as_mut() else {
            return self.give(whom, b"-UNKNOWN outcome: the connection to the node was lost\r\n");
        };
        if upstream.expected.is_empty() {
            upstream.waiting_since = now;
        }
        upstream.out.extend_from_slice(bytes);
        upstream.expect(whom, replies, 0);
        if let Some(breaker) = self.breakers.get_mut(upstream.key.node as usize) {
            breaker.requests += 1;
        }
        self.mark_written(index);
    }

    /// A request that may wait: over a connection of the client's own, and the client waits with it.
    fn send_alone(&mut self, client: &Client, lane: &mut Lane, node: u16, args: &Args<'_>, raw: Option<&[u8]>) {
        let index = match self.connection_alone(client, lane, node) {
            Ok(index) => index,
            Err(fault) => return self.answer_error(lane, &fault),
        };
        lane.busy_alone = true;
        write_request(&mut lane.asked, args.from(0));
        let number = lane.sent();
        self.push(index, client, number, 0, args, raw);
    }

    fn connection_alone(&mut self, client: &Client, lane: &mut Lane, node: u16) -> Result<u32, Fault> {
        let key = Key { owner: client.id, ..Key::shared(client, node) };
        let index = self.upstream(key).map_err(Fault::new)?;
        if !lane.alone.contains(&index) {
            lane.alone.push(index);
        }
        Ok(index)
    }

    /// Watch keys, each at its node, over connections of the client's own.
    fn send_watch(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, keys: &[usize]) {
        let mut parts: Vec<Part> = Vec::new();
        for &at in keys {
            let Some(node) = self.map.owner_of(args.at(at)) else {
                return self.answer_error(lane, &Fault::new("CLUSTERDOWN Hash slot not served"));
            };
            match parts.iter_mut().find(|part| part.node == node) {
                Some(part) => part.arguments.push(at),
                None => parts.push(Part { node, arguments: vec![at], positions: Vec::new() }),
            }
        }
        let mut connections = Vec::new();
        for part in &parts {
            match self.connection_alone(client, lane, part.node) {
                Ok(index) => connections.push(index),
                Err(fault) => return self.answer_error(lane, &fault),
            }
        }
        lane.busy_alone = true;
        let number = lane.sent_in_parts(Merging::new(Merge::AllOk, parts.len(), Vec::new()));
        for (place, (part, connection)) in parts.iter().zip(connections).enumerate() {
            let request = share(args, part);
            if !lane.watches.iter().any(|watch| watch.connection == connection) {
                lane.watches.push(Watch { node: part.node, connection, lost: false });
            }
            self.push(connection, client, number, place as u16, &request.as_args(), None);
        }
    }

    /// Send parts to their nodes: over connections of the client's own (`alone`) where they may wait there.
    fn send_parts(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        args: &Args<'_>,
        parts: &[Part],
        merging: Merging,
        alone: bool,
    ) {
        // All nodes must be reachable before any is asked: half a write is worse than none.
        let mut connections = Vec::with_capacity(parts.len());
        for part in parts {
            if alone {
                match self.connection_alone(client, lane, part.node) {
                    Ok(index) => connections.push(Ok(index)),
                    Err(fault) => return self.answer_error(lane, &fault),
                }
                continue;
            }
            let key = Key::shared(client, part.node);
            match self.upstream(key) {
                Ok(index) => connections.push(Ok(index)),
                Err(text) if self.may_wait_for(args, part) => connections.push(Err((key, text))),
                Err(text) => return self.answer_error(lane, &Fault::new(text)),
            }
        }
        lane.busy_alone |= alone;
        let number = lane.sent_in_parts(merging);
        for (place, (part, connection)) in parts.iter().zip(connections).enumerate() {
            let request = share(args, part);
            match connection {
                Ok(index) => self.push(index, client, number, place as u16, &request.as_args(), None),
                Err((key, text)) => {
                    let part = place as u16 | self.counting;
                    let whom = For::Client { token: client.token, id: client.id, number, part };
                    self.late(client, lane, whom, &request.as_args(), key, &text);
                }
            }
        }
    }

    /// Whether a part's node may be replaced: there are replicas of what it asks for.
    fn may_wait_for(&self, args: &Args<'_>, part: &Part) -> bool {
        let slot = part.positions.first().and(part.arguments.first()).map(|&at| crate::slot::slot_of(args.at(at)));
        self.options.failover_wait > 0 && slot.is_some_and(|slot| !self.map.replicas(slot).is_empty())
    }

    fn send_everywhere(&mut self, client: &mut Client, lane: &mut Lane, args: &Args<'_>, merge: Merge) {
        let everything: Vec<usize> = (1..args.len()).collect();
        let nodes = 0..self.map.nodes().len() as u16;
        let parts: Vec<Part> =
            nodes.map(|node| Part { node, arguments: everything.clone(), positions: Vec::new() }).collect();
        let merging = match merge {
            Merge::Info => {
                self.answer_aside(client, args);
                Merging::beside(merge, parts.len(), self.reply.bytes())
            }
            _ => Merging::new(merge, parts.len(), Vec::new()),
        };
        if args.is(0, "CONFIG") {
            if let Some(fault) = self.refuses_to_set(args) {
                return self.answer_error(lane, &fault);
            }
            self.answer_aside(client, args); // What it says about clients holds here as well.
            self.tell_the_others(client, args);
        }
        self.send_parts(client, lane, args, &parts, merging, false);
    }

    /// Do something here whose answer is not the client's.
    fn answer_aside(&mut self, client: &mut Client, args: &Args<'_>) {
        self.reply.clear();
        self.reply.speak(client.resp3);
        let replies = std::mem::replace(&mut client.replies, Replies::On);
        dispatch::serve(&mut self.engine, client, args, &mut self.reply);
        client.replies = replies;
    }

    /// The password is that of nodes and proxies alike, and other proxies would not hear of a new one.
    fn refuses_to_set(&self, args: &Args<'_>) -> Option<Fault> {
        let changed = |at: &usize| {
            args.is(*at, "REQUIREPASS") && args.at(at + 1) != self.engine.settings.text(Name::requirepass).as_bytes()
        };
        let found = args.is(1, "SET") && (2..args.len()).step_by(2).any(|at| changed(&at));
        found.then(|| {
            Fault::new("ERR requirepass cannot be changed through a proxy: set it in the files of nodes and proxies")
        })
    }

    /// Run what was queued: whole on its node where all keys share one, else as a transaction of its own on each node.
    fn exec(&mut self, client: &mut Client, lane: &mut Lane) {
        let Some(multi) = client.multi.take() else { return };
        let watches = std::mem::take(&mut lane.watches);
        let dealt = if multi.broken {
            Err(Fault::new("EXECABORT Transaction discarded because of previous errors."))
        } else {
            let refused = rights::refused_in(&mut self.engine, client, &multi);
            if watches.is_empty()
                && client.tracking.is_none()
                && self.options.relaxed
                && refused.iter().all(Option::is_none)
                && transaction::gathers(&multi, &self.map)
                && transaction::can_be_gathered(&multi)
            {
                return self.begin_gather(client, lane, multi.queue.into_iter().map(|(_, args)| args).collect(), true);
            }
            transaction::deal(&multi, &self.map, client.database, &refused).and_then(|dealt| {
                match self.refuses_to_relax(dealt.groups.len()) {
                    Some(fault) => Err(fault),
                    None => Ok(dealt),
                }
            })
        };
        let elsewhere = watches.iter().any(|watch| {
            let upstream = self.upstreams.get(watch.connection as usize).and_then(Option::as_ref);
            !watch.lost && upstream.is_some_and(|upstream| upstream.key.database != client.database)
        });
        let lost = watches.iter().any(|watch| watch.lost || self.upstreams[watch.connection as usize].is_none());
        let mut dealt = match dealt {
            _ if elsewhere => {
                let text = "ERR keys were watched in another database; a proxy cannot carry that over";
                return self.end_transaction(lane, &watches, &Fault::new(text));
            }
            Err(fault) => return self.end_transaction(lane, &watches, &fault),
            Ok(dealt) => dealt,
        };
        if lost {
            // With the connection went the knowledge whether the keys changed.
            watches.iter().filter(|watch| !watch.lost).for_each(|watch| self.forget_watch(watch.connection));
            self.reply.clear();
            self.reply.speak(client.resp3);
            self.reply.null_array();
            return lane.answer(self.reply.bytes());
        }
        let counting = Self::counts_all(client);
        let database = client.database;
        for at in std::mem::take(&mut dealt.here) {
            self.answer_aside(client, &multi.queue[at].1.as_args());
            dealt.layout.fill(at, self.reply.bytes());
        }
        if !watches.is_empty() {
            if let ([watch], [group], true) = (&watches[..], &dealt.groups[..], dealt.plain)
                && watch.node == group.node
            {
                // Over a connection of its own, it must not be overtaken by what comes after it.
                lane.busy_alone = true;
                let number = lane.sent();
                let (bytes, replies) = transaction_of(&group.requests);
                let whom = For::Client { token: client.token, id: client.id, number, part: counting };
                return self.push_bytes(watch.connection, whom, &bytes, replies);
            }
            let merging = Merging::transaction(dealt.layout, dealt.groups.len());
            return self.begin_watched(client, lane, &watches, &dealt.groups, merging);
        }
        let mut connections = Vec::new();
        for group in &dealt.groups {
            let key = Key { database, ..Key::shared(client, group.node) };
            match self.upstream(key) {
                Ok(index) => connections.push(index),
                Err(text) => return self.answer_error(lane, &Fault::new(text)),
            }
        }
        if dealt.groups.is_empty() {
            self.reply.clear();
            self.reply.speak(client.resp3);
            dealt.layout.assemble(&[], &mut self.reply);
            return lane.answer(self.reply.bytes());
        }
        let number = if dealt.plain {
            lane.sent()
        } else {
            lane.sent_in_parts(Merging::transaction(dealt.layout, dealt.groups.len()))
        };
        for (part, (group, index)) in dealt.groups.iter().zip(connections).enumerate() {
            let (bytes, replies) = transaction_of(&group.requests);
            let whom = For::Client { token: client.token, id: client.id, number, part: part as u16 | counting };
            self.push_bytes(index, whom, &bytes, replies);
        }
    }

    fn end_transaction(&mut self, lane: &mut Lane, watches: &[Watch], fault: &Fault) {
        watches.iter().filter(|watch| !watch.lost).for_each(|watch| self.forget_watch(watch.connection));
        self.answer_error(lane, fault);
    }
}

/// Whether it waits for what comes to streams after this moment: that moment must be known before it can be asked anew.
fn asks_from_now_on(row: &Command, args: &Args<'_>) -> bool {
    row.name == "xread" && args.from(1).any(|word| *word == *b"$") && (1..args.len()).any(|at| args.is(at, "BLOCK"))
}

/// Requests as a transaction: its bytes, and how many replies it has.
pub(super) fn transaction_of(requests: &[OwnedArgs]) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    write_request(&mut bytes, [&b"MULTI"[..]].into_iter());
    requests.iter().for_each(|request| write_request(&mut bytes, request.as_args().from(0)));
    write_request(&mut bytes, [&b"EXEC"[..]].into_iter());
    (bytes, requests.len() as u32 + 2)
}

impl Lane {
    /// Whether the client's next request may be served: not while one of its own waits at a node, nor
    /// while it does not read its replies.
    pub(super) fn may_serve(&self) -> bool {
        !self.busy_alone && self.parked == 0 && self.waiting() < 16_384 && self.out.len() < MOST_REPLIES
    }
}

/// Answer a protocol error and let the client go.
fn break_off(client: &mut Client, lane: &mut Lane, text: &str) {
    let mut reply = crate::resp::Reply::default();
    reply.error(format!("ERR Protocol error: {text}").as_bytes());
    lane.answer(reply.bytes());
    client.closing = true;
}
