//! What takes several steps at nodes: transactions that watch, and waiting for keys of several nodes (`vigil`).

use super::clients::transaction_of;
use super::event_loop::EventLoop;
use super::gather::{Gather, TAG_BITS};
use super::lane::{Lane, Watch};
use super::upstream::{For, Key, write_request};
use super::vigil::Vigil;
use crate::command::Fault;
use crate::command::client::{Client, Token};
use crate::resp::Reply;
use crate::route::Merging;
use crate::route::transaction::Group;

/// Something in several steps, for a request of a client.
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) client: u64,
    pub(super) number: u32,
    /// The connections that its requests take.
    pub(super) key: Key,
    pub(super) what: What,
}

pub(super) enum What {
    Gather(Box<Gather>),
    Steps(Steps),
    Vigil(Vigil),
}

/// A transaction over nodes on some of which keys are watched. First all that watch are asked whether their keys are as
/// they were, and to let nobody else write them (`command::hold`). When all have said yes, those that have a share run it,
/// and then the others: it is done on all of them or on none.
pub(super) struct Steps {
    steps: std::collections::VecDeque<Vec<Run>>,
    missing: usize,
    merging: Merging,
    /// Some group has run its share.
    begun: bool,
    broken: bool,
    /// Whose the connections that watch are.
    pub(super) owner: u64,
    /// What is begun anew when a key has changed, instead of telling so.
    pub(super) gather: Option<Box<Gather>>,
    /// The groups of the present step, by the parts of its replies.
    under_way: Vec<Option<usize>>,
    /// The connections that watch.
    watching: Vec<u32>,
}

/// For how long keys are held at most, ms.
const HOLD_MS: &[u8] = b"1000";

/// One node's share, or only the question whether its keys were changed.
pub(super) struct Run {
    /// The connection that watches, or none: any to the node.
    watching: Option<u32>,
    node: u16,
    group: Option<usize>,
    bytes: Vec<u8>,
    replies: u32,
}

impl Steps {
    /// The steps of a transaction in these groups, over these watching connections.
    pub(super) fn new(watches: &[Watch], groups: &[Group], merging: Merging) -> Steps {
        let shares = |watch: &Watch| groups.iter().any(|group| group.node == watch.node);
        let mut first = Vec::new();
        if watches.len() > 1 || watches.iter().any(|watch| !shares(watch)) {
            let mut bytes = Vec::new();
            write_request(&mut bytes, [&b"FASTCACHE"[..], b"HOLD", HOLD_MS].into_iter());
            first.extend(watches.iter().map(|watch| Run {
                watching: Some(watch.connection),
                node: watch.node,
                group: None,
                bytes: bytes.clone(),
                replies: 1,
            }));
        }
        let runs = groups.iter().enumerate().map(|(index, group)| {
            let (bytes, replies) = transaction_of(&group.requests);
            let watching = watches.iter().find(|watch| watch.node == group.node).map(|watch| watch.connection);
            Run { watching, node: group.node, group: Some(index), bytes, replies }
        });
        let (watched, last): (Vec<Run>, Vec<Run>) = runs.partition(|run| run.watching.is_some());
        let steps = [first, watched, last].into_iter().filter(|runs| !runs.is_empty()).collect();
        let watching = watches.iter().map(|watch| watch.connection).collect();
        let under_way = Vec::new();
        Steps { steps, missing: 0, merging, begun: false, broken: false, owner: 0, gather: None, under_way, watching }
    }
}

impl EventLoop {
    /// Enter a job; the client waits for it.
    pub(super) fn begin(&mut self, client: &Client, lane: &mut Lane, what: What) -> u64 {
        let id = self.next_job;
        self.next_job += 1;
        lane.busy_alone = true;
        lane.job = Some(id);
        let number = lane.sent();
        let key = Key::shared(client, 0);
        self.jobs.insert(id, Job { token: client.token, client: client.id, number, key, what });
        id
    }

    /// A job has come to its end.
    pub(super) fn finish(&mut self, id: u64, reply: &[u8]) {
        let Some(job) = self.jobs.remove(&id) else { return };
        match &job.what {
            What::Vigil(_) => self.forget_vigil(id),
            What::Gather(gather) => self.release(job.key.database, gather),
            What::Steps(steps) => {
                if let Some(gather) = &steps.gather {
                    self.release(job.key.database, gather);
                }
            }
        }
        if let Some(lane) = self.lanes.get_mut(job.token as usize).and_then(Option::as_mut)
            && lane.job == Some(id)
        {
            lane.job = None;
        }
        self.deliver(job.token, job.client, job.number, 0, reply);
    }

    /// A reply has come for a part of a job's present step.
    pub(super) fn job_replied(&mut self, id: u64, part: u16, reply: &[u8]) {
        match self.jobs.get(&id).map(|job| &job.what) {
            None => {} // Its client has gone.
            Some(What::Vigil(_)) => self.vigil_replied(id, part, reply),
            Some(What::Gather(_)) => self.gather_replied(id, part, reply),
            Some(What::Steps(_)) => self.step_replied(id, part, reply),
        }
    }

    /// The client of a job has gone. What may have begun to write is done to its end.
    pub(super) fn abandon(&mut self, id: u64) {
        match self.jobs.get(&id).map(|job| &job.what) {
            Some(What::Gather(_)) => return,
            Some(What::Steps(steps)) if steps.gather.is_some() => return,
            _ => {}
        }
        self.forget_vigil(id);
        self.jobs.remove(&id);
    }

    /// Begin a transaction of a client that watches keys.
    pub(super) fn begin_watched(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        watches: &[Watch],
        groups: &[Group],
        merging: Merging,
    ) {
        let mut steps = Steps::new(watches, groups, merging);
        steps.owner = client.id;
        let id = self.begin(client, lane, What::Steps(steps));
        self.next_step(id);
    }

    pub(super) fn next_step(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let What::Steps(steps) = &mut job.what else { return };
        let (key, owner) = (job.key, steps.owner);
        let Some(runs) = steps.steps.pop_front() else {
            let mut out = Reply::new(key.resp3);
            let merging = std::mem::replace(&mut steps.merging, Merging::given(0, b""));
            let watching = std::mem::take(&mut steps.watching);
            merging.finish(&mut out);
            self.let_go(&watching, owner);
            return self.finish(id, out.bytes());
        };
        steps.missing = runs.len();
        steps.under_way = runs.iter().map(|run| run.group).collect();
        for (part, run) in runs.into_iter().enumerate() {
            let still = |upstream: &super::upstream::Upstream| upstream.key.owner == owner;
            let connection = match run.watching {
                // Its place may be another connection's by now.
                Some(at) if !self.upstreams[at as usize].as_deref().is_some_and(still) => {
                    Err("UNKNOWN outcome: the connection over which keys were watched was lost".to_owned())
                }
                Some(connection) => Ok(connection),
                None => self.upstream(Key { node: run.node, ..key }),
            };
            match connection {
                Ok(index) => {
                    self.push_bytes(index, For::Job { id, part: part as u16 }, &run.bytes, run.replies);
                }
                Err(text) => self.job_replied(id, part as u16, format!("-{text}\r\n").as_bytes()),
            }
        }
    }

    /// What is watched over these connections, and held, is so no longer.
    fn let_go(&mut self, connections: &[u32], owner: u64) {
        for &connection in connections {
            if self.upstreams[connection as usize].as_deref().is_some_and(|upstream| upstream.key.owner == owner) {
                self.forget_watch(connection);
            }
        }
    }

    fn step_replied(&mut self, id: u64, part: u16, reply: &[u8]) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let resp3 = job.key.resp3;
        let What::Steps(steps) = &mut job.what else { return };
        if part >> TAG_BITS > 0 && steps.gather.is_some() {
            return; // It answers what was asked before the steps.
        }
        let nothing = matches!(reply, b"*-1\r\n" | b"_\r\n" | b"$-1\r\n");
        match steps.under_way.get(part as usize).copied().flatten() {
            Some(group) => {
                steps.begun |= !nothing;
                steps.broken |= nothing;
                steps.merging.take(group, reply);
            }
            // A watch whose connection was lost may be broken: as if a key had changed.
            // A Redis that is a node of ours holds nothing; its share says whether keys have changed.
            None if reply.starts_with(b"-ERR unknown command") => {}
            None => steps.broken |= nothing || reply.first() == Some(&b'-'),
        }
        steps.missing -= 1;
        if steps.missing > 0 {
            return;
        }
        if steps.broken && !steps.begun {
            let (watching, owner) = (std::mem::take(&mut steps.watching), steps.owner);
            self.let_go(&watching, owner);
            if let Some(What::Steps(steps)) = self.jobs.get_mut(&id).map(|job| &mut job.what)
                && let Some(gather) = steps.gather.take()
            {
                return self.gather_again(id, gather);
            }
            let mut out = Reply::new(resp3);
            out.null_array();
            return self.finish(id, out.bytes());
        }
        self.next_step(id);
    }

    /// The keys of a transaction would have to lie on one node.
    pub(super) fn refuses_to_relax(&self, groups: usize) -> Option<Fault> {
        (groups > 1 && !self.options.relaxed).then(crate::route::transaction::spread)
    }
}
