//! Handing over: a proxy that is renewed keeps every connection, and no request is lost.
//!
//! The loop stops reading, waits a moment until all that is under way has been answered, and writes down what its
//! sockets are and what is known of their clients. The process then replaces itself by the program as it stands now,
//! which finds the sockets open (they are not closed by `exec`) and goes on: whatever clients sent meanwhile waits in
//! the sockets. What cannot come to rest in time is no reason to lose anything: the loop goes on as before.
//!
//! Records are requests as clients write them, each a kind followed by names and values: a later version skips
//! what it does not know.

use super::again::each_request;
use super::event_loop::{EventLoop, FIRST_CLIENT, FIRST_UPSTREAM, WAKER};
use super::lane::{Lane, Watch};
use super::upstream::{For, Key, LISTENER, Upstream, write_request};
use crate::command::client::{Client, Multi, Replies, Token};
use crate::command::dispatch;
use crate::command::pubsub::Way;
use crate::net::{Interest, Stream, keep_over_exec};
use crate::resp::OwnedArgs;
use crate::resp::number::parse_i64;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// How long requests under way may take to be answered, ms.
const REST_MS: u64 = 1_500;
/// How often those who wait at nodes are called back meanwhile, ms.
const RECALL_MS: u64 = 50;

/// What the process before this one has left.
#[derive(Default)]
pub(super) struct Inherited {
    /// Sockets that listen, by what they listen on.
    pub(super) listeners: HashMap<String, OwnedFd>,
    clients: Vec<(OwnedFd, Record)>,
    hearers: Vec<(OwnedFd, Record)>,
}

/// Names and values of one record; a name may come again.
struct Record(Vec<(Vec<u8>, Vec<u8>)>);

impl Record {
    fn all<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
        self.0.iter().filter(move |(known, _)| known == name.as_bytes()).map(|(_, value)| &value[..])
    }

    fn get(&self, name: &str) -> &[u8] {
        self.0.iter().find(|(known, _)| known == name.as_bytes()).map_or(&[], |(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        parse_i64(self.get(name)).unwrap_or(0).max(0) as u64
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.get(name)).into_owned()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name) == b"yes"
    }
}

impl Inherited {
    /// The greatest number of a client.
    pub(super) fn last_client(&self) -> Option<u64> {
        self.clients.iter().map(|(_, record)| record.number("id")).max()
    }

    /// What falls to each of so many workers: clients to the worker they had, where there are as many as before. Who
    /// listens to nodes does so for its worker's clients, so those connections are of use to the same one only.
    pub(super) fn dealt(mut self, workers: usize) -> Vec<Inherited> {
        let same = |record: &Record| record.number("workers").max(1) as usize == workers;
        let mut parts: Vec<Inherited> = (0..workers).map(|_| Inherited::default()).collect();
        for (at, (socket, record)) in self.clients.drain(..).enumerate() {
            let worker = if same(&record) { record.number("worker") as usize % workers } else { at % workers };
            parts[worker].clients.push((socket, record));
        }
        for (socket, record) in self.hearers.drain(..).filter(|(_, record)| same(record)) {
            parts[record.number("worker") as usize % workers].hearers.push((socket, record));
        }
        parts[0].listeners = std::mem::take(&mut self.listeners);
        parts
    }

    /// Read what was written down. Every socket that is named becomes ours.
    pub(super) fn read(records: &[u8]) -> io::Result<Inherited> {
        let mut found = Inherited::default();
        let whole = each_request(records, |args| {
            let pairs = (2..args.len().saturating_sub(1)).step_by(2);
            let record = Record(pairs.map(|at| (args.at(at).to_vec(), args.at(at + 1).to_vec())).collect());
            let Some(socket) = parse_i64(args.at(1)).and_then(|number| crate::sys::inherited(number as i32)) else {
                return Some(());
            };
            match args.at(0) {
                b"listener" => {
                    found.listeners.insert(record.text("on"), socket);
                }
                b"client" => found.clients.push((socket, record)),
                b"hearer" => found.hearers.push((socket, record)),
                _ => {}
            }
            Some(())
        });
        whole.map(|()| found).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what was handed over is torn"))
    }
}

/// What was written down, read from its file.
pub(super) fn text_of(descriptor: i32) -> io::Result<Vec<u8>> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the file of what was handed over is not open");
    let mut file = File::from(crate::sys::inherited(descriptor).ok_or_else(missing)?);
    let mut records = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut records)?;
    Ok(records)
}

/// A file in memory that the next program of this process finds open.
pub(super) fn file_of(records: &[u8]) -> io::Result<i32> {
    let mut file = File::from(rustix::fs::memfd_create("handed-over", rustix::fs::MemfdFlags::empty())?);
    file.write_all(records)?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(file))
}

/// Writes one record.
struct Writer(Vec<Vec<u8>>);

impl Writer {
    fn new(kind: &str, socket: i32) -> Writer {
        Writer(vec![kind.into(), socket.to_string().into_bytes()])
    }

    fn put(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn flag(&mut self, name: &str, is: bool) {
        if is {
            self.put(name, "yes");
        }
    }

    fn end(self, out: &mut Vec<u8>) {
        write_request(out, self.0.iter().map(Vec::as_slice));
    }
}

impl EventLoop {
    /// Come to rest, tell how that went, and wait for the `verdict`: when all workers rest, write down all there is, and
    /// the loop ends with it. Otherwise it goes on.
    pub(super) fn hand_over(&mut self, told: &Sender<Result<(), String>>, verdict: &Receiver<bool>) -> Option<Vec<u8>> {
        let rested = self.come_to_rest();
        let rests = rested.is_ok();
        let _ = told.send(rested);
        loop {
            match verdict.recv_timeout(Duration::from_millis(1)) {
                Ok(true) if rests => break,
                // Others may need an answer of ours to come to rest.
                Err(RecvTimeoutError::Timeout) => {
                    self.do_errands();
                    self.settle();
                }
                _ => {
                    if rests {
                        self.go_on();
                    }
                    return None;
                }
            }
        }
        self.do_errands();
        self.settle();
        Some(self.write_all())
    }

    fn write_all(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_listeners(&mut out);
        for token in 0..self.lanes.len() {
            self.write_client(token as Token, &mut out);
        }
        self.write_hearers(&mut out);
        self.handed_over = true;
        self.stopping = true;
        out
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        self.resting = true;
        let until = crate::clock::wall_ms() + REST_MS;
        let mut next_recall = 0;
        loop {
            self.engine.store.set_now(crate::clock::wall_ms());
            let now = self.engine.store.now();
            if now >= next_recall {
                self.recall_those_who_wait();
                next_recall = now + RECALL_MS;
            }
            self.settle();
            let busy = self.lanes.iter().flatten().filter(|lane| lane.waiting() > 0 || lane.parked > 0).count();
            if busy == 0 {
                return Ok(());
            }
            if now >= until {
                self.go_on();
                return Err(format!("{busy} clients wait for nodes that have not answered"));
            }
            if self.wait_for_nodes().is_err() {
                self.go_on();
                return Err("the sockets cannot be waited for".into());
            }
        }
    }

    /// One turn in which only nodes are heard.
    fn wait_for_nodes(&mut self) -> io::Result<()> {
        let count = self.poll.wait(std::time::Duration::from_millis(5))?;
        self.engine.store.set_now(crate::clock::wall_ms());
        let mut heard = false;
        for index in 0..count {
            let Some(ready) = self.poll.ready(index) else { break };
            if ready.key == WAKER {
                heard = true;
                self.waker.clear();
                self.do_errands();
            } else if ready.key >= FIRST_UPSTREAM || (ready.key >= FIRST_CLIENT && ready.write) {
                heard = true;
                self.peer_ready(&ready);
            }
        }
        if !heard && count > 0 {
            // Clients go on sending, and the poll tells it again and again.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.settle();
        if self.engine.store.now() >= self.next_round {
            self.round();
        }
        Ok(())
    }

    /// After all, nothing is handed over.
    fn go_on(&mut self) {
        self.resting = false;
        for (token, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane {
                lane.recalled = false;
                self.owed.push(token as Token);
            }
        }
        self.settle();
    }

    /// Those who wait for a key need not be answered: their request is theirs again, to be sent anew. At a node they are
    /// unblocked first, so that nothing is taken from a list for somebody who is not there.
    fn recall_those_who_wait(&mut self) {
        for token in 0..self.lanes.len() {
            let Some(lane) = self.lanes[token].as_mut() else { continue };
            if !lane.busy_alone || lane.asked.is_empty() {
                continue;
            }
            if let Some(job) = lane.job {
                if self.only_waits(job) {
                    self.forget_vigil(job);
                    self.jobs.remove(&job);
                    if let Some(lane) = self.lanes[token].as_mut() {
                        lane.job = None;
                        lane.take_back();
                    }
                }
                continue;
            }
            lane.recalled = true;
            let waits = lane.alone.iter().filter_map(|&index| self.upstreams[index as usize].as_ref());
            let Some((key, identity)) = waits
                .filter(|upstream| !upstream.expected.is_empty() && upstream.identity > 0)
                .map(|upstream| (upstream.key, upstream.identity))
                .next()
            else {
                continue;
            };
            if let Ok(index) = self.upstream(Key { owner: 0, ..key }) {
                let mut bytes = Vec::new();
                let identity = identity.to_string();
                write_request(&mut bytes, [&b"CLIENT"[..], b"UNBLOCK", identity.as_bytes()].into_iter());
                self.push_bytes(index, For::Nobody, &bytes, 1);
            }
        }
    }

    fn write_listeners(&mut self, out: &mut Vec<u8>) {
        for listener in std::mem::take(&mut self.listeners) {
            let mut record = Writer::new("listener", keep_over_exec(&listener));
            record.put("on", listener.name());
            record.end(out);
            std::mem::forget(listener); // Its socket and the file of it stay.
        }
    }

    fn write_client(&mut self, token: Token, out: &mut Vec<u8>) {
        let Some(mut lane) = self.lanes[token as usize].take() else { return };
        let Some(client) = self.engine.clients.get_mut(token) else { return };
        if client.dead || client.closing || client.tracking.is_some() || !matches!(lane.socket, Stream::Plain(_)) {
            // What is under TLS cannot be carried over, nor what nodes know of reads: it ends here, with all its replies sent.
            return;
        }
        let mut record = Writer::new("client", keep_over_exec(&lane.socket));
        lane.out.append(&mut client.pending);
        for (name, number) in [
            ("id", client.id),
            ("since", client.since),
            ("last-seen", client.last_seen),
            ("database", u64::from(client.database)),
        ] {
            record.put(name, number.to_string());
        }
        for (name, value) in [
            ("address", client.address.as_bytes()),
            ("local-address", client.local_address.as_bytes()),
            ("user", client.user_name()),
            ("name", &client.name),
            ("library", &client.library.0),
            ("library-version", &client.library.1),
            ("input", &lane.input),
            ("out", &lane.out),
        ] {
            if !value.is_empty() {
                record.put(name, value);
            }
        }
        for (name, is) in [
            ("resp3", client.resp3),
            ("authenticated", client.authenticated),
            ("no-evict", client.no_evict),
            ("no-touch", client.no_touch),
            ("unix", client.by_unix_socket),
            ("maintenance", client.maintenance),
            ("monitor", client.monitor),
            ("multi", client.multi.is_some()),
            ("broken", client.multi.as_ref().is_some_and(|multi| multi.broken)),
            ("watches", !lane.watches.is_empty()),
        ] {
            record.flag(name, is);
        }
        self.crew.put_place(|name, number| record.put(name, number.to_string()));
        if let Some(strict) = client.consistency {
            record.put("consistency", if strict { "strict" } else { "eventual" });
        }
        match client.replies {
            Replies::On => {}
            Replies::Off => record.put("replies", "off"),
            Replies::SkipNext | Replies::Skip => record.put("replies", "skip"),
        }
        for (way, names) in
            [("channel", &client.channels), ("pattern", &client.patterns), ("shard-channel", &client.shard_channels)]
        {
            names.iter().for_each(|name| record.put(way, &name[..]));
        }
        for (_, args) in client.multi.iter().flat_map(|multi| &multi.queue) {
            let mut request = Vec::new();
            write_request(&mut request, args.as_args().from(0));
            record.put("queued", request);
        }
        record.end(out);
        std::mem::forget(lane); // Its socket stays open.
    }

    /// Connections over which messages come: none that is on its way may be lost.
    fn write_hearers(&mut self, out: &mut Vec<u8>) {
        for place in &mut self.upstreams {
            let Some(upstream) = place.take_if(|upstream| upstream.key.owner == LISTENER && upstream.connected) else {
                continue;
            };
            let Some(node) = self.map.nodes().get(upstream.key.node as usize) else { continue };
            if !upstream.is_at_rest() || !matches!(upstream.socket, Stream::Plain(_)) {
                continue; // It is listened to anew.
            }
            let mut record = Writer::new("hearer", keep_over_exec(&upstream.socket));
            record.put("node", node.id.as_bytes());
            record.put("host", node.host.as_bytes());
            record.put("port", node.port.to_string());
            record.put("input", upstream.unread());
            self.crew.put_place(|name, number| record.put(name, number.to_string()));
            for (way, name) in upstream.hears.keys() {
                record.put(way_name(*way), &name[..]);
            }
            record.end(out);
            std::mem::forget(upstream);
        }
    }

    /// Go on with what the process before this one has left, by the map at hand.
    pub(super) fn take_over(&mut self, inherited: Inherited) -> io::Result<()> {
        self.engine.store.set_now(crate::clock::wall_ms());
        for (socket, record) in inherited.hearers {
            self.take_hearer(socket, &record);
        }
        for (socket, record) in inherited.clients {
            self.take_client(socket, &record)?;
        }
        Ok(())
    }

    fn take_hearer(&mut self, socket: OwnedFd, record: &Record) {
        let same = |node: &crate::route::Address| {
            node.id == record.text("node")
                && node.host == record.text("host")
                && u64::from(node.port) == record.number("port")
        };
        let Some(node) = self.map.nodes().iter().position(same) else { return };
        let key = Key::of_ours(node as u16, LISTENER);
        let mut upstream = Upstream::resumed(key, socket, record.get("input"), self.engine.store.now());
        for way in [Way::Channel, Way::Pattern, Way::Shard] {
            // For how many is told anew.
            upstream.hears.extend(record.all(way_name(way)).map(|name| ((way, name.into()), 0)));
        }
        self.install(Box::new(upstream));
    }

    fn take_client(&mut self, socket: OwnedFd, record: &Record) -> io::Result<()> {
        let user = match (record.is("authenticated"), self.engine.users.find(record.get("user"))) {
            (true, None) => return Ok(()), // There is no such user any more: the connection ends.
            (authenticated, user) => user.filter(|_| authenticated),
        };
        let mut client = Box::new(Client::new(record.number("id"), record.number("since")));
        client.last_seen = record.number("last-seen");
        client.address = record.text("address");
        client.local_address = record.text("local-address");
        client.authenticated = user.is_some();
        if let Some(user) = user {
            client.become_user(user, record.get("user"));
        }
        client.database = record.number("database").min(255) as u8;
        client.name = record.get("name").to_vec();
        client.library = (record.get("library").to_vec(), record.get("library-version").to_vec());
        (client.resp3, client.no_evict) = (record.is("resp3"), record.is("no-evict"));
        (client.no_touch, client.by_unix_socket) = (record.is("no-touch"), record.is("unix"));
        client.maintenance = record.is("maintenance");
        client.consistency = record.all("consistency").next().map(|word| word == b"strict");
        let mut lane = Lane::new(socket.into());
        client.socket = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&lane.socket));
        lane.input = record.get("input").to_vec();
        lane.out = record.get("out").to_vec();
        if record.is("watches") {
            // With the connections to the nodes went the knowledge whether the keys change: as if one had.
            lane.watches.push(Watch { node: 0, connection: u32::MAX, lost: true });
        }
        let token = self.engine.clients.add(client);
        self.crew.count_mine();
        self.resume_listening(token, record);
        if let Some(client) = self.engine.clients.get_mut(token) {
            client.multi = record.is("multi").then(|| queued(record));
            client.replies = match record.get("replies") {
                b"off" => Replies::Off,
                b"skip" => Replies::SkipNext,
                _ => Replies::On,
            };
        }
        let interest = if lane.out.is_empty() { Interest::Read } else { Interest::Both };
        self.poll.add(&lane.socket, FIRST_CLIENT + u64::from(token), interest)?;
        lane.interest = interest;
        let place = token as usize;
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, || None);
        }
        self.lanes[place] = Some(Box::new(lane));
        self.owed.push(token);
        Ok(())
    }

    /// Have a client hear what it heard; nobody is told of it again.
    fn resume_listening(&mut self, token: Token, record: &Record) {
        let Some(mut client) = self.engine.clients.take(token) else { return };
        let listens = [(&b"SUBSCRIBE"[..], "channel"), (b"PSUBSCRIBE", "pattern"), (b"SSUBSCRIBE", "shard-channel")];
        let listens = listens.into_iter().flat_map(|(word, name)| record.all(name).map(move |name| vec![word, name]));
        let shown = record.is("monitor").then(|| vec![&b"MONITOR"[..]]);
        for words in listens.chain(shown) {
            self.reply.clear();
            self.reply.speak(client.resp3);
            let request = OwnedArgs::from_parts(words);
            dispatch::serve(&mut self.engine, &mut client, &request.as_args(), &mut self.reply);
        }
        self.engine.clients.put_back(client);
    }
}

/// What a client had queued since MULTI.
fn queued(record: &Record) -> Multi {
    let mut multi = Multi { broken: record.is("broken"), ..Multi::default() };
    for request in record.all("queued") {
        let taken = each_request(request, |args| {
            let (row, _) = dispatch::resolve_quietly(args)?;
            multi.queue.push((row, args.to_owned()));
            Some(())
        });
        multi.broken |= taken.is_none(); // This version does not know it.
    }
    multi
}

fn way_name(way: Way) -> &'static str {
    match way {
        Way::Channel => "channel",
        Way::Pattern => "pattern",
        Way::Shard => "shard-channel",
    }
}
