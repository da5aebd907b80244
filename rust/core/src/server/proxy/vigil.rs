//! Waiting for the first of several keys that lie on several nodes: BLPOP, BZPOPMIN and their like; for XREAD see `streams`.
//!
//! The nodes are asked one run of keys after another, in the order in which the client named them, each time with the
//! client's own command inside a transaction, where it does not wait. So exactly one pop happens, of the first key
//! that has something. Before that the proxy has the nodes tell it when one of the keys changes (as client-side
//! caching does, over one connection for all clients); when nothing was found it waits for that and asks again.

use super::carry::Onward;
use super::clients::transaction_of;
use super::event_loop::EventLoop;
use super::jobs::What;
use super::lane::Lane;
use super::streams::Streams;
use super::upstream::{For, Key, TRACKER, write_request};
use crate::command::Fault;
use crate::command::client::Client;
use crate::resp::number::parse_f64;
use crate::resp::scan::{elements, integer, string};
use crate::resp::{Args, OwnedArgs, Reply};

/// One client's waiting.
pub(super) struct Vigil {
    pub(super) keys: Vec<Box<[u8]>>,
    /// What stands before and after the keys of one run.
    pub(super) before: Before,
    pub(super) after: Vec<Vec<u8>>,
    pub(super) stage: Stage,
    /// A key changed since the nodes were asked.
    pub(super) again: bool,
    /// When it gives up, ms; zero for never.
    pub(super) deadline: u64,
    /// The nodes of the keys, each once, and the runs of keys that are neighbours in order and node (each stream is one).
    pub(super) nodes: Vec<u16>,
    pub(super) runs: Vec<(u16, Vec<usize>)>,
    /// What becomes of the element that is found, where it is not simply told.
    pub(super) onward: Option<Onward>,
    /// The keys are streams, of which all that have something are told.
    pub(super) streams: Option<Streams>,
}

pub(super) enum Before {
    /// `BLPOP key ... 0`
    Name(Vec<u8>),
    /// `BLMPOP 0 count key ... LEFT`
    Counted(Vec<u8>),
    /// `XREAD COUNT 2 STREAMS key ... id ...`
    Words(Vec<Vec<u8>>),
}

impl Vigil {
    /// Waiting for ever for these keys, with nothing said yet of how they are asked for.
    pub(super) fn over(keys: Vec<Box<[u8]>>) -> Vigil {
        Vigil {
            keys,
            before: Before::Words(Vec::new()),
            after: Vec::new(),
            stage: Stage::Waiting,
            again: false,
            deadline: 0,
            nodes: Vec::new(),
            runs: Vec::new(),
            onward: None,
            streams: None,
        }
    }

    /// Whether it only reads.
    pub(super) fn reads(&self) -> bool {
        matches!(&self.before, Before::Words(words) if words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"xread")))
    }
}

#[derive(PartialEq)]
pub(super) enum Stage {
    /// So many nodes have not yet told where streams end (`streams`).
    Preparing(usize),
    /// So many nodes have not yet said that they will tell.
    Announcing(usize),
    /// This run of keys is asked.
    Asking(usize),
    Waiting,
    /// What was found is on its way to another list (`carry`).
    Carrying,
    /// It could not go there: it goes back, and this error is told.
    GivingBack(Vec<u8>),
}

impl EventLoop {
    /// Begin to wait; `keys` are the arguments that are keys.
    pub(super) fn begin_vigil(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>, keys: &[usize]) {
        let counted = args.at(0).len() > 2 && args.at(0)[2..].eq_ignore_ascii_case(b"mpop");
        let timeout = if counted { args.at(1) } else { args.at(args.len() - 1) };
        if counted && keys[keys.len() - 1] + 1 >= args.len() {
            return self.answer_error(lane, &Fault::SYNTAX);
        }
        let Some(seconds) = parse_f64(timeout).filter(|seconds| (0.0..1e12).contains(seconds)) else {
            // The node of any of the keys says what is wrong with it.
            let key = args.at(keys[0]);
            let words = if counted { vec![args.at(0), timeout, b"1", key] } else { vec![args.at(0), key, timeout] };
            let after = if counted { keys[keys.len() - 1] + 1 } else { args.len() };
            let request = OwnedArgs::from_parts(words.into_iter().chain(args.from(after)));
            let node = self.map.owner_of(key).unwrap_or(0);
            return self.send_whole(client, lane, node, &request.as_args(), None);
        };
        let now = self.engine.store.now();
        let after = if counted {
            args.from(keys[keys.len() - 1] + 1).map(<[u8]>::to_vec).collect()
        } else {
            vec![b"0".to_vec()]
        };
        let name = args.at(0).to_vec();
        let vigil = Vigil {
            before: if counted { Before::Counted(name) } else { Before::Name(name) },
            after,
            deadline: if seconds > 0.0 { now + ((seconds * 1000.0).ceil() as u64).max(1) } else { 0 },
            ..Vigil::over(keys.iter().map(|&at| args.at(at).into()).collect())
        };
        let id = self.begin(client, lane, What::Vigil(vigil));
        write_request(&mut lane.asked, args.from(0));
        self.announce(id);
    }

    /// Take the next element of one list with `pop`, for another list.
    pub(super) fn begin_carrying(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        args: &Args<'_>,
        pop: &[u8],
        onward: Onward,
        deadline: u64,
    ) {
        let (waits, source) = (onward.waits, args.at(1));
        let node = self.map.owner_of(source).unwrap_or(0);
        let vigil = Vigil {
            before: Before::Name(pop.to_vec()),
            after: vec![b"0".to_vec()],
            deadline,
            nodes: vec![node],
            runs: vec![(node, vec![0])],
            onward: Some(onward),
            ..Vigil::over(vec![source.into()])
        };
        let id = self.begin(client, lane, What::Vigil(vigil));
        if waits {
            write_request(&mut lane.asked, args.from(0));
            self.announce(id);
        } else {
            self.ask(id, 0);
        }
    }

    /// One that is under way, and the connections that its questions take.
    pub(super) fn vigil(&mut self, id: u64) -> Option<(Key, &mut Vigil)> {
        match self.jobs.get_mut(&id).map(|job| (job.key, &mut job.what)) {
            Some((key, What::Vigil(vigil))) => Some((key, vigil)),
            _ => None,
        }
    }

    /// Ask the nodes to tell when one of the keys changes.
    pub(super) fn announce(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let database = job.key.database;
        let What::Vigil(vigil) = &mut job.what else { return };
        vigil.again = false;
        if let Some(streams) = &mut vigil.streams {
            streams.gone = false;
        }
        vigil.nodes.clear();
        vigil.runs.clear();
        let mut told: Vec<(u16, Vec<Box<[u8]>>)> = Vec::new();
        for (at, key) in vigil.keys.iter().enumerate() {
            let Some(node) = self.map.owner_of(key) else {
                return self.finish(id, b"-CLUSTERDOWN Hash slot not served\r\n");
            };
            match vigil.runs.last_mut() {
                Some((last, run)) if *last == node && vigil.streams.is_none() => run.push(at),
                _ => vigil.runs.push((node, vec![at])),
            }
            match told.iter_mut().find(|(each, _)| *each == node) {
                Some((_, keys)) => keys.push(key.clone()),
                None => told.push((node, vec![key.clone()])),
            }
        }
        vigil.nodes = told.iter().map(|(node, _)| *node).collect();
        vigil.stage = Stage::Announcing(told.len());
        for (part, (node, keys)) in told.into_iter().enumerate() {
            let index = match self.upstream(Key { database, ..Key::of_ours(node, TRACKER) }) {
                Ok(index) => index,
                Err(text) => return self.finish(id, format!("-{text}\r\n").as_bytes()),
            };
            let words: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(keys.iter().map(|key| &**key)).collect();
            let mut bytes = Vec::new();
            write_request(&mut bytes, words.into_iter());
            for key in keys {
                let waiting = self.vigils.entry((node, key)).or_default();
                if !waiting.contains(&id) {
                    waiting.push(id);
                }
            }
            self.push_bytes(index, For::Job { id, part: part as u16 }, &bytes, 1);
        }
    }

    pub(super) fn vigil_replied(&mut self, id: u64, part: u16, reply: &[u8]) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let What::Vigil(vigil) = &mut job.what else { return };
        match vigil.stage {
            Stage::Preparing(_) => self.end_is_known(id, part, reply),
            Stage::Announcing(missing) => {
                if reply.first() == Some(&b'-') {
                    let error = reply.to_vec();
                    return self.finish(id, &error);
                }
                vigil.note_present(part, integer(reply));
                vigil.stage = Stage::Announcing(missing.saturating_sub(1));
                if missing <= 1 {
                    self.ask(id, 0);
                }
            }
            Stage::Asking(run) => {
                if reply.first() == Some(&b'-') {
                    return self.finish(id, reply);
                }
                match elements(reply).and_then(|all| all.first().copied()) {
                    Some(b"*-1\r\n" | b"_\r\n" | b"$-1\r\n") | None => self.ask(id, run + 1),
                    Some(found) if vigil.overlooks(found) => self.ask(id, run + 1),
                    Some(found) if vigil.streams.is_some() && found.first() != Some(&b'-') => {
                        if let Some(streams) = vigil.streams.as_mut() {
                            streams.keep(found);
                        }
                        self.ask(id, run + 1);
                    }
                    Some(found) if vigil.onward.is_some() && found.first() != Some(&b'-') => self.carry(id, found),
                    Some(found) => {
                        let told = vigil.told_who_waits(found).unwrap_or(found);
                        self.finish(id, told)
                    }
                }
            }
            Stage::Carrying => self.carried(id, reply),
            Stage::GivingBack(ref error) => {
                let error = error.clone();
                self.finish(id, &error);
            }
            Stage::Waiting => {}
        }
    }

    /// Ask one run of keys; after the last one, wait.
    fn ask(&mut self, id: u64, run: usize) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let key = job.key;
        let What::Vigil(vigil) = &mut job.what else { return };
        let Some((node, keys)) = vigil.runs.get(run) else {
            if vigil.onward.as_ref().is_some_and(|onward| !onward.waits) {
                return self.finish(id, if key.resp3 { b"_\r\n" } else { b"$-1\r\n" });
            }
            vigil.stage = Stage::Waiting;
            let again = vigil.again;
            if let Some(streams) = vigil.streams.as_mut() {
                streams.waited = true;
            }
            if !self.streams_have_news(id) && again {
                self.announce(id);
            }
            return;
        };
        vigil.stage = Stage::Asking(run);
        if let Some(streams) = vigil.streams.as_mut().filter(|_| run == 0) {
            streams.begin();
        }
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = match &vigil.before {
            Before::Name(name) => vec![name],
            Before::Counted(name) => vec![name, b"0", count.as_bytes()],
            Before::Words(words) => words.iter().map(Vec::as_slice).collect(),
        };
        words.extend(keys.iter().map(|&at| &*vigil.keys[at]));
        match &vigil.streams {
            Some(streams) => words.extend(keys.iter().filter_map(|&at| streams.ids.get(at)).map(Vec::as_slice)),
            None => words.extend(vigil.after.iter().map(Vec::as_slice)),
        }
        let (bytes, replies) = transaction_of(&[OwnedArgs::from_parts(words)]);
        let node = *node;
        match self.upstream(Key { node, ..key }) {
            Ok(index) => self.push_bytes(index, For::Job { id, part: 0 }, &bytes, replies),
            Err(text) => self.finish(id, format!("-{text}\r\n").as_bytes()),
        }
    }

    /// A node tells that keys changed.
    pub(super) fn invalidated(&mut self, node: u16, message: &[u8]) {
        let parts = elements(message).unwrap_or_default();
        if parts.first().and_then(|kind| string(kind)) != Some(b"invalidate") {
            return;
        }
        let woken: Vec<u64> = match parts.get(1).and_then(|keys| elements(keys)) {
            Some(keys) => {
                let keys = keys.into_iter().filter_map(string);
                keys.filter_map(|key| self.vigils.remove(&(node, key.into()))).flatten().collect()
            }
            None => self.vigils_at(node), // All keys, or as good as all.
        };
        self.wake_vigils(woken);
    }

    /// Those who wait for keys of a node.
    pub(super) fn vigils_at(&self, node: u16) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        found.extend(self.vigils.iter().filter(|((each, _), _)| *each == node).flat_map(|(_, jobs)| jobs));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Have these ask again, in the order in which they came.
    pub(super) fn wake_vigils(&mut self, mut woken: Vec<u64>) {
        woken.sort_unstable();
        woken.dedup();
        for id in woken {
            let Some(What::Vigil(vigil)) = self.jobs.get_mut(&id).map(|job| &mut job.what) else { continue };
            if vigil.stage == Stage::Waiting {
                self.announce(id);
            } else {
                vigil.again = true;
            }
        }
    }

    /// Nodes have other numbers now, and keys other nodes: all ask anew.
    pub(super) fn renew_vigils(&mut self) {
        self.vigils.clear();
        let all = self.jobs.iter().filter(|(_, job)| matches!(job.what, What::Vigil(_))).map(|(id, _)| *id);
        let all = all.collect();
        self.wake_vigils(all);
    }

    /// Those whose time is up have waited in vain. Returns when the next one's will be.
    pub(super) fn end_vigils(&mut self) -> Option<u64> {
        let now = self.engine.store.now();
        let deadline = |what: &What| match what {
            What::Vigil(vigil) if vigil.deadline > 0 && vigil.stage == Stage::Waiting => Some(vigil.deadline),
            _ => None,
        };
        let over = |what: &What| deadline(what).is_some_and(|time| time <= now);
        let ended: Vec<u64> = self.jobs.iter().filter(|(_, job)| over(&job.what)).map(|(id, _)| *id).collect();
        for id in ended {
            self.give_up(id);
        }
        self.jobs.values().filter_map(|job| deadline(&job.what)).min()
    }

    /// End somebody's waiting with nothing.
    pub(super) fn give_up(&mut self, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let mut out = Reply::new(job.key.resp3);
        out.null_array();
        self.finish(id, out.bytes());
    }

    /// Whether a job waits and does nothing else: it can be ended without losing anything.
    pub(super) fn only_waits(&self, id: u64) -> bool {
        matches!(self.jobs.get(&id).map(|job| &job.what), Some(What::Vigil(vigil)) if vigil.stage == Stage::Waiting)
    }

    /// Nobody needs to be told for its sake any more.
    pub(super) fn forget_vigil(&mut self, id: u64) {
        self.vigils.retain(|_, jobs| {
            jobs.retain(|job| *job != id);
            !jobs.is_empty()
        });
    }
}
