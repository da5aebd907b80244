//! Commands and scripts over keys of several nodes that cannot be split: the values are fetched, what is asked for is run
//! over them here (`scratch`), and what it came to is written at the nodes.
//!
//! Meanwhile the keys are watched, over connections that are for this alone. What is written is a watching transaction as
//! a client would make it (`jobs`): when a key has changed in between nothing is written, and it all begins anew with the
//! new values. Within one proxy those that have a key in common come one after another.

use super::again::{count_of, each_request};
use super::event_loop::EventLoop;
use super::jobs::{Job, Steps, What};
use super::lane::{Lane, Watch};
use super::scratch::{Ran, Scratch, Task, Values};
use super::upstream::{For, GATHERER, Key, turns_away, write_request};
use crate::command::client::Client;
use crate::command::table::flag;
use crate::command::{Fault, dispatch};
use crate::resp::scan::{elements, integer, string};
use crate::resp::{Args, OwnedArgs};
use crate::route::plan::cross_slot;
use crate::route::transaction::{self, Group};
use crate::route::{Merge, Merging};
use std::collections::{HashSet, VecDeque};

/// Most bytes that the values of one node may have.
const MOST_BYTES: &str = "33554432";
/// Beyond so many bytes of values, the scratch engine is not kept.
const KEPT_BYTES: usize = 4 << 20;
/// How long it is tried again because keys change or nodes do not serve them, ms.
const LONGEST_MS: u64 = 5_000;
/// How often keys that a script did not name may be fetched for it.
const MOST_ROUNDS: u32 = 1_000;
/// Bits of a part's number that are the part's; those above tell the round. Zero is none: that of the steps that follow.
pub(super) const TAG_BITS: u16 = 11;
const MOST_TAGS: u16 = 31;
/// Attempts without a pause between them.
const AT_ONCE: u32 = 3;

/// One request, or a transaction, and how far it is.
pub(super) struct Gather {
    requests: Vec<OwnedArgs>,
    transaction: bool,
    writes: bool,
    /// The keys that were named.
    keys: Vec<Box<[u8]>>,
    values: Values,
    /// What is fetched in this round: keys by their nodes.
    parts: Vec<(u16, Vec<Box<[u8]>>)>,
    /// The connections over which keys are watched.
    watched: Vec<Watch>,
    stage: Stage,
    /// Which of the connections for this are its own.
    place: u64,
    attempts: u32,
    rounds: u32,
    /// Which round it is, told by the replies' parts: those of a round that was given up may still come.
    round: u16,
    until: u64,
    /// What was fetched does not hold any more.
    stale: bool,
}

enum Stage {
    Queued,
    /// So many scripts are to be learnt.
    Learning(usize),
    /// So many nodes have not answered.
    Fetching(usize),
    /// It is tried again at this time, ms.
    Pausing(u64),
    /// The nodes are written to.
    Writing,
}

/// All that are under way.
#[derive(Default)]
pub(super) struct Gathering {
    held: HashSet<(u8, Box<[u8]>)>,
    queued: VecDeque<u64>,
    places: Vec<bool>,
    /// Something has ended: those who waited for it may begin.
    pub(super) ended: bool,
}

impl Gather {
    fn new(requests: Vec<OwnedArgs>, transaction: bool, now: u64) -> Gather {
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let mut writes = false;
        for request in &requests {
            let args = request.as_args();
            let Some((row, _)) = dispatch::resolve_quietly(&args) else { continue };
            writes |= row.is(flag::WRITE | flag::MAY_REPLICATE);
            for at in row.every_key(&args).unwrap_or_default() {
                if !keys.iter().any(|key| **key == *args.at(at)) {
                    keys.push(args.at(at).into());
                }
            }
        }
        Gather {
            requests,
            transaction,
            writes,
            keys,
            values: Values::new(),
            parts: Vec::new(),
            watched: Vec::new(),
            stage: Stage::Queued,
            place: 0,
            attempts: 0,
            rounds: 0,
            round: 0,
            until: now + LONGEST_MS,
            stale: false,
        }
    }
}

impl EventLoop {
    /// Begin one; the client waits for it.
    pub(super) fn begin_gather(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        requests: Vec<OwnedArgs>,
        transaction: bool,
    ) {
        let gather = Gather::new(requests, transaction, self.engine.store.now());
        let id = self.begin(client, lane, What::Gather(Box::new(gather)));
        self.gathering.queued.push_back(id);
        self.gathering.ended = true; // It begins when the client is back in its place.
    }

    /// Whether the client's transaction will be run here: it must not overtake what was sent before it.
    pub(super) fn gathers(&self, client: &Client) -> bool {
        client.multi.as_ref().is_some_and(|multi| transaction::gathers(multi, &self.map))
    }

    /// Nothing is run over several nodes where they are to be strict, nor together with keys that are watched already.
    pub(super) fn refuses_to_gather(&self, client: &Client, lane: &Lane) -> Option<Fault> {
        // What a client keeps copies of, it must have read itself.
        (!self.options.relaxed || !lane.watches.is_empty() || client.tracking.is_some()).then(cross_slot)
    }

    /// A script that was sent to one node asks for keys of others, and has not done anything.
    pub(super) fn gather_late(&mut self, key: Key, whom: For, error: &[u8], request: &[u8]) {
        let mut words = None;
        let _ = each_request(request, |args| {
            words = Some(args.to_owned());
            Some(())
        });
        let (For::Client { token, id: client, number, part: 0 }, Some(words), true) =
            (whom, words, self.options.relaxed)
        else {
            return self.give(whom, error);
        };
        let gather = Gather::new(vec![words], false, self.engine.store.now());
        let id = self.next_job;
        self.next_job += 1;
        let key = Key { owner: 0, ..key };
        self.jobs.insert(id, Job { token, client, number, key, what: What::Gather(Box::new(gather)) });
        self.gathering.queued.push_back(id);
        self.gathering.ended = true;
    }

    fn gather(&mut self, id: u64) -> Option<(Key, &mut Gather)> {
        match self.jobs.get_mut(&id).map(|job| (job.key, &mut job.what)) {
            Some((key, What::Gather(gather))) => Some((key, gather)),
            _ => None,
        }
    }

    /// Begin those whose keys are free.
    pub(super) fn start_gathers(&mut self) {
        self.gathering.ended = false;
        let mut blocked: HashSet<(u8, Box<[u8]>)> = HashSet::new();
        for id in std::mem::take(&mut self.gathering.queued) {
            let Some((key, gather)) = self.gather(id) else { continue };
            let keys: Vec<(u8, Box<[u8]>)> = gather.keys.iter().map(|name| (key.database, name.clone())).collect();
            let free = keys.iter().all(|key| !self.gathering.held.contains(key) && !blocked.contains(key));
            if !free {
                // Who comes later must not overtake it.
                blocked.extend(keys);
                self.gathering.queued.push_back(id);
                continue;
            }
            self.gathering.held.extend(keys);
            let places = &mut self.gathering.places;
            let place = places.iter().position(|taken| !taken).unwrap_or(places.len());
            places.resize(places.len().max(place + 1), false);
            places[place] = true;
            if let Some((_, gather)) = self.gather(id) {
                gather.place = place as u64;
            }
            self.learn_scripts(id);
        }
    }

    /// It has ended: its keys and connections are free.
    pub(super) fn release(&mut self, database: u8, gather: &Gather) {
        if matches!(gather.stage, Stage::Queued) {
            self.gathering.queued.retain(|id| self.jobs.contains_key(id));
            return;
        }
        for key in &gather.keys {
            self.gathering.held.remove(&(database, key.clone()));
        }
        if let Some(taken) = self.gathering.places.get_mut(gather.place as usize) {
            *taken = false;
        }
        self.gathering.ended = true;
    }

    /// Scripts that are named by their SHA-1 are asked of a node where they are not known here.
    fn learn_scripts(&mut self, id: u64) {
        let Some((key, gather)) = self.gather(id) else { return };
        let named = |args: &Args<'_>| args.is(0, "EVALSHA") || args.is(0, "EVALSHA_RO");
        let digests: Vec<Vec<u8>> =
            gather.requests.iter().map(OwnedArgs::as_args).filter(named).map(|args| args.at(1).to_vec()).collect();
        let unknown: Vec<Vec<u8>> = digests
            .into_iter()
            .filter(|digest| !self.scratch.as_ref().is_some_and(|known| known.knows(digest)))
            .collect();
        if let Some((_, gather)) = self.gather(id) {
            gather.stage = Stage::Learning(unknown.len());
        }
        if unknown.is_empty() {
            return self.fetch_named(id);
        }
        let node = self.map.nodes().iter().position(|node| !node.down).unwrap_or(0) as u16;
        for digest in unknown {
            let mut request = Vec::new();
            write_request(&mut request, [&b"SCRIPT"[..], b"SHOW", &digest].into_iter());
            match self.upstream(Key { node, owner: 0, ..key }) {
                Ok(index) => self.push_bytes(index, For::Job { id, part: 0 }, &request, 1),
                Err(text) => return self.finish(id, format!("-{text}\r\n").as_bytes()),
            }
        }
    }

    /// Begin an attempt: fetch the keys that were named.
    fn fetch_named(&mut self, id: u64) {
        let Some((_, gather)) = self.gather(id) else { return };
        gather.attempts += 1;
        gather.stale = false;
        gather.values.clear();
        gather.watched.clear();
        let keys = gather.keys.clone();
        self.fetch(id, keys);
    }

    fn fetch(&mut self, id: u64, keys: Vec<Box<[u8]>>) {
        let mut parts: Vec<(u16, Vec<Box<[u8]>>)> = Vec::new();
        for key in keys {
            let Some(node) = self.map.owner_of(&key) else {
                return self.finish(id, b"-CLUSTERDOWN Hash slot not served\r\n");
            };
            match parts.iter_mut().find(|(each, _)| *each == node) {
                Some((_, keys)) => keys.push(key),
                None => parts.push((node, vec![key])),
            }
        }
        if parts.len() >= 1 << TAG_BITS {
            return self.finish(id, b"-CROSSSLOT Keys in request lie on too many nodes\r\n");
        }
        let Some((key, gather)) = self.gather(id) else { return };
        let writes = gather.writes;
        gather.round = gather.round % MOST_TAGS + 1;
        let tag = gather.round << TAG_BITS;
        let key = Key { resp3: false, owner: GATHERER - gather.place, ..key };
        let mut connections = Vec::new();
        for (node, keys) in &parts {
            match self.upstream(Key { node: *node, ..key }) {
                Ok(index) => connections.push(index),
                Err(text) => {
                    let hope = keys.iter().any(|key| !self.map.replicas(crate::slot::slot_of(key)).is_empty());
                    let error = format!("-{text}\r\n").into_bytes();
                    return if hope { self.pause(id, error) } else { self.finish(id, &error) };
                }
            }
        }
        for (part, ((node, keys), &index)) in parts.iter().zip(&connections).enumerate() {
            let mut bytes = Vec::new();
            let words = |first: &[&'static [u8]]| -> Vec<&[u8]> {
                first.iter().copied().chain(keys.iter().map(|key| &**key)).collect()
            };
            if writes {
                let mut watch = Vec::new();
                write_request(&mut watch, words(&[b"WATCH"]).into_iter());
                let Some((_, gather)) = self.gather(id) else { return };
                if !gather.watched.iter().any(|known| known.connection == index) {
                    // Whoever had the connection before may have left something watched.
                    write_request(&mut bytes, [&b"UNWATCH"[..]].into_iter());
                    gather.watched.push(Watch { node: *node, connection: index, lost: false });
                }
                bytes.extend_from_slice(&watch);
            }
            write_request(&mut bytes, words(&[b"FASTCACHE", b"FETCH", MOST_BYTES.as_bytes()]).into_iter());
            self.push_bytes(index, For::Job { id, part: part as u16 | tag }, &bytes, count_of(&bytes));
        }
        if let Some((_, gather)) = self.gather(id) {
            gather.stage = Stage::Fetching(parts.len());
            gather.parts = parts;
            if gather.parts.is_empty() {
                self.run_gathered(id); // A script without keys.
            }
        }
    }

    /// A node has answered.
    pub(super) fn gather_replied(&mut self, id: u64, part: u16, reply: &[u8]) {
        let Some((_, gather)) = self.gather(id) else { return };
        match gather.stage {
            Stage::Learning(missing) => {
                gather.stage = Stage::Learning(missing.saturating_sub(1));
                if let Some(text) = string(reply) {
                    self.scratch().learn(text);
                }
                if missing <= 1 {
                    self.fetch_named(id);
                }
            }
            Stage::Fetching(missing) if part >> TAG_BITS == gather.round => {
                let part = part & ((1 << TAG_BITS) - 1);
                gather.stage = Stage::Fetching(missing.saturating_sub(1));
                if reply.first() == Some(&b'-') {
                    return self.not_fetched(id, reply);
                }
                let keys = gather.parts.get(part as usize).map(|(_, keys)| keys.clone()).unwrap_or_default();
                for (key, value) in keys.into_iter().zip(elements(reply).unwrap_or_default()) {
                    let pair = elements(value).unwrap_or_default();
                    let value = match pair[..] {
                        [payload, expiry] => string(payload).map(<[u8]>::to_vec).zip(integer(expiry)),
                        _ => None,
                    };
                    gather.values.insert(key, value);
                }
                if missing <= 1 {
                    self.run_gathered(id);
                }
            }
            // Of a round that was given up.
            Stage::Fetching(_) | Stage::Queued | Stage::Pausing(..) | Stage::Writing => {}
        }
    }

    fn not_fetched(&mut self, id: u64, error: &[u8]) {
        if turns_away(error) {
            let now = self.engine.store.now();
            if self.stale_until <= now {
                self.trouble.note();
            }
            self.stale_until = now + 1_000;
            return self.pause(id, error.to_vec());
        }
        if error.starts_with(b"-ERR unknown command") {
            // A Redis that is a node of ours.
            return self.finish(id, b"-CROSSSLOT Keys in request don't hash to the same slot\r\n");
        }
        if error.starts_with(b"-UNKNOWN ") {
            return self.pause(id, error.to_vec());
        }
        if let Some(why) = error.strip_prefix(b"-ERR the values have ") {
            let mut text =
                b"-CROSSSLOT Keys in request don't hash to the same slot, and their values are too large to be \
                             brought together: "
                    .to_vec();
            text.extend_from_slice(why);
            return self.finish(id, &text);
        }
        self.finish(id, error);
    }

    /// Try it all again in a moment, or give it up.
    fn pause(&mut self, id: u64, error: Vec<u8>) {
        let now = self.engine.store.now();
        let Some((_, gather)) = self.gather(id) else { return };
        if now >= gather.until {
            return self.finish(id, &error);
        }
        // Attempts of several proxies must not go on meeting one another.
        let wait = u64::from(gather.attempts.min(20)) + (crate::clock::steady_ns() >> 8) % 8;
        let next = now + wait;
        gather.stage = Stage::Pausing(next);
        self.next_round = self.next_round.min(next);
    }

    /// Go on with those whose pause is over. Returns when the next one's is.
    pub(super) fn resume_gathers(&mut self) -> Option<u64> {
        let now = self.engine.store.now();
        let due: Vec<(u64, u64)> = self
            .jobs
            .iter()
            .filter_map(|(id, job)| match &job.what {
                What::Gather(gather) => match gather.stage {
                    Stage::Pausing(next) => Some((*id, next)),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        for (id, _) in due.iter().filter(|(_, next)| *next <= now) {
            self.fetch_named(*id);
        }
        due.iter().map(|(_, next)| *next).filter(|next| *next > now).min()
    }

    fn scratch(&mut self) -> &mut Scratch {
        let now = self.engine.store.now();
        self.scratch.get_or_insert_with(|| Box::new(Scratch::new(now)))
    }

    fn run_gathered(&mut self, id: u64) {
        let now = self.engine.store.now();
        self.scratch(); // It is made here, if it was not before.
        let Some(mut scratch) = self.scratch.take() else { return };
        let Some((key, gather)) = self.gather(id) else { return };
        if gather.stale {
            self.scratch = Some(scratch);
            return self.fetch_named(id);
        }
        let task = Task {
            requests: &gather.requests,
            transaction: gather.transaction,
            resp3: key.resp3,
            database: key.database,
        };
        let ran = scratch.run(&task, &gather.values, now);
        gather.rounds += 1;
        let (rounds, writes) = (gather.rounds, gather.writes);
        let bytes: usize = gather.values.values().flatten().map(|(payload, _)| payload.len()).sum();
        if bytes < KEPT_BYTES {
            self.scratch = Some(scratch);
        }
        if !ran.missing.is_empty() {
            if rounds > MOST_ROUNDS {
                return self.finish(id, b"-CROSSSLOT the script goes on asking for keys that it did not name\r\n");
            }
            return self.fetch(id, ran.missing);
        }
        if ran.effects.is_empty() || !writes {
            self.unwatch_gathered(id);
            return self.finish(id, &ran.reply);
        }
        self.write_gathered(id, ran);
    }

    fn unwatch_gathered(&mut self, id: u64) {
        let Some((_, gather)) = self.gather(id) else { return };
        let connections: Vec<u32> = gather.watched.iter().map(|watch| watch.connection).collect();
        for connection in connections {
            self.forget_watch(connection);
        }
    }

    /// Have the nodes do what it came to.
    fn write_gathered(&mut self, id: u64, ran: Ran) {
        let Some((key, _)) = self.gather(id) else { return };
        let mut groups: Vec<Group> = Vec::new();
        for (slot, request) in ran.effects {
            let Some(node) = self.map.owner(slot) else {
                return self.finish(id, b"-CLUSTERDOWN Hash slot not served\r\n");
            };
            let at = match groups.iter().position(|group| group.node == node) {
                Some(at) => at,
                None => {
                    groups.push(Group::new(node, key.database));
                    groups.len() - 1
                }
            };
            groups[at].requests.push(request);
        }
        let merging = Merging::beside(Merge::Settled, groups.len(), &ran.reply);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let What::Gather(gather) = &mut job.what else { return };
        gather.stage = Stage::Writing;
        let mut steps = Steps::new(&gather.watched, &groups, merging);
        steps.owner = GATHERER - gather.place;
        let What::Gather(gather) = std::mem::replace(&mut job.what, What::Steps(steps)) else { return };
        if let What::Steps(steps) = &mut job.what {
            steps.gather = Some(gather);
        }
        self.next_step(id);
    }

    /// Keys changed before anything was written: from the beginning.
    pub(super) fn gather_again(&mut self, id: u64, gather: Box<Gather>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let attempts = gather.attempts;
        job.what = What::Gather(gather);
        if attempts < AT_ONCE {
            return self.fetch_named(id);
        }
        self.pause(
            id,
            b"-TRYAGAIN the keys, which lie on several nodes, went on changing while they were used\r\n".to_vec(),
        );
    }

    /// A connection for this was lost, or nodes have other numbers now (`None`): what was fetched over it does not hold.
    pub(super) fn gathers_lost(&mut self, owner: Option<u64>) {
        for job in self.jobs.values_mut() {
            if let What::Gather(gather) = &mut job.what {
                gather.stale |= owner.is_none_or(|owner| owner == GATHERER - gather.place);
            }
        }
    }
}
