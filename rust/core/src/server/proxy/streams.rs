//! Waiting for what is new in streams of several nodes: XREAD BLOCK and XREADGROUP BLOCK.
//!
//! It is a vigil (`vigil`) that asks all nodes each time, since what several streams have is one reply. `$` means what
//! comes after this moment: what the last entry is now is asked before anything else, so that nothing is missed between
//! two questions.

use super::event_loop::EventLoop;
use super::jobs::What;
use super::lane::Lane;
use super::upstream::{For, Key, write_request};
use super::vigil::{Before, Stage, Vigil};
use crate::command::Fault;
use crate::command::client::Client;
use crate::resp::number::parse_i64;
use crate::resp::scan::{string, values};
use crate::resp::{Args, Reply};
use crate::route::plan::{cross_slot, place_of_block};
use crate::route::{Merge, Merging};

/// What a vigil over streams knows besides their keys.
pub(super) struct Streams {
    /// What is read of each stream is behind this.
    pub(super) ids: Vec<Vec<u8>>,
    /// What nodes had, of those that were asked in this round.
    found: Vec<Vec<u8>>,
    /// The client's request without its ids.
    asked: Vec<Vec<u8>>,
    /// All nodes were asked once, and there was nothing.
    pub(super) waited: bool,
    /// One of them was not there just now.
    pub(super) gone: bool,
}

/// The parts of a question are numbered with fewer bits than arguments.
const MOST_STREAMS: usize = 1 << 15;

impl EventLoop {
    /// Begin to wait; `keys` are the arguments that are streams, and as many ids follow them.
    pub(super) fn begin_waiting_for_streams(
        &mut self,
        client: &Client,
        lane: &mut Lane,
        args: &Args<'_>,
        keys: &[usize],
    ) {
        let first = keys[0];
        let milliseconds = match place_of_block(args, first).and_then(|at| args.get(at + 1)).map(parse_i64) {
            Some(Some(milliseconds @ 0..)) => milliseconds as u64,
            Some(Some(_)) => return self.answer_error(lane, &Fault::NEGATIVE_TIMEOUT),
            _ => return self.answer_error(lane, &Fault::of("ERR timeout is not an integer or out of range")),
        };
        if keys.len() > MOST_STREAMS {
            return self.answer_error(lane, &cross_slot());
        }
        let block = place_of_block(args, first).unwrap_or(first);
        let before = (0..first).filter(|at| !(block..block + 2).contains(at)).map(|at| args.at(at).to_vec());
        let now = self.engine.store.now();
        let streams = Streams {
            ids: args.from(first + keys.len()).map(<[u8]>::to_vec).collect(),
            found: Vec::new(),
            waited: false,
            gone: false,
            asked: args.from(0).take(first + keys.len()).map(<[u8]>::to_vec).collect(),
        };
        let vigil = Vigil {
            before: Before::Words(before.collect()),
            deadline: if milliseconds > 0 { now.saturating_add(milliseconds) } else { 0 },
            streams: Some(streams),
            ..Vigil::over(keys.iter().map(|&at| args.at(at).into()).collect())
        };
        let id = self.begin(client, lane, What::Vigil(vigil));
        write_request(&mut lane.asked, args.from(0));
        self.ask_for_ends(id);
    }

    /// Ask what the last entries are of streams of which only what comes behind those is wanted.
    fn ask_for_ends(&mut self, id: u64) {
        let Some((key, vigil)) = self.vigil(id) else { return };
        let Some(streams) = &vigil.streams else { return };
        let places = streams.ids.iter().enumerate().filter(|(_, id)| **id == b"$").map(|(at, _)| at);
        let open: Vec<(usize, Box<[u8]>)> = places.map(|at| (at, vigil.keys[at].clone())).collect();
        if open.is_empty() || !vigil.reads() {
            return self.announce(id); // Where `$` is not known, the nodes say so.
        }
        vigil.stage = Stage::Preparing(open.len());
        for (at, name) in open {
            let node = self.map.owner_of(&name).unwrap_or(0);
            let mut request = Vec::new();
            write_request(&mut request, [&b"XINFO"[..], b"STREAM", &name].into_iter());
            match self.upstream(Key { node, ..key }) {
                Ok(index) => self.push_bytes(index, For::Job { id, part: at as u16 }, &request, 1),
                Err(text) => return self.finish(id, format!("-{text}\r\n").as_bytes()),
            }
        }
    }

    /// A node has told of a stream.
    pub(super) fn end_is_known(&mut self, id: u64, part: u16, reply: &[u8]) {
        let end = if reply.starts_with(b"-ERR no such key") { Some(b"0-0".to_vec()) } else { end_of(reply) };
        let Some((_, vigil)) = self.vigil(id) else { return };
        let (Stage::Preparing(missing), Some(streams)) = (&vigil.stage, &mut vigil.streams) else { return };
        let missing = missing.saturating_sub(1);
        let (Some(end), Some(place)) = (end, streams.ids.get_mut(part as usize)) else {
            return self.finish(id, reply);
        };
        *place = end;
        vigil.stage = Stage::Preparing(missing);
        if missing > 0 {
            return;
        }
        // Whoever has to ask anew for it asks for what comes behind this moment.
        let mut request = Vec::new();
        let words: Vec<&[u8]> = streams.asked.iter().chain(&streams.ids).map(Vec::as_slice).collect();
        write_request(&mut request, words.into_iter());
        let token = self.jobs.get(&id).map_or(0, |job| job.token);
        if let Some(lane) =
            self.lanes.get_mut(token as usize).and_then(Option::as_mut).filter(|lane| lane.job == Some(id))
        {
            lane.asked = request;
        }
        self.wait_where_the_streams_are(id);
    }

    /// Streams of one node are waited for there, by the request as it is now; others by us.
    fn wait_where_the_streams_are(&mut self, id: u64) {
        let Some((_, vigil)) = self.vigil(id) else { return };
        let keys = vigil.keys.clone();
        let owner = self.map.owner_of(&keys[0]);
        let Some(token) = self.jobs.get(&id).map(|job| job.token).filter(|_| owner.is_some()) else {
            return self.announce(id);
        };
        let lane = self.lanes.get_mut(token as usize).and_then(Option::as_mut).filter(|lane| lane.job == Some(id));
        match lane {
            Some(lane) if keys.iter().all(|key| self.map.owner_of(key) == owner) => {
                lane.job = None;
                lane.take_back();
                self.jobs.remove(&id);
                self.owed.push(token);
            }
            _ => self.announce(id),
        }
    }

    /// All nodes have been asked: `true` when there was something, which is the reply then.
    pub(super) fn streams_have_news(&mut self, id: u64) -> bool {
        let Some((key, vigil)) = self.vigil(id) else { return false };
        let found = vigil.streams.as_mut().map(|streams| std::mem::take(&mut streams.found)).unwrap_or_default();
        if found.is_empty() {
            return false;
        }
        let mut merging = Merging::new(Merge::Streams, found.len(), Vec::new());
        for (part, reply) in found.iter().enumerate() {
            merging.take(part, reply);
        }
        let mut out = Reply::new(key.resp3);
        merging.finish(&mut out);
        self.finish(id, out.bytes());
        true
    }
}

impl Vigil {
    /// Whether an error is none to who waits already: what was a stream and is something else now may be one again.
    pub(super) fn overlooks(&self, error: &[u8]) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.waited) && self.reads() && error.starts_with(b"-WRONGTYPE ")
    }

    /// What who waits already is told when the group or a stream is gone, in the words of a node.
    pub(super) fn told_who_waits(&self, error: &[u8]) -> Option<&'static [u8]> {
        let streams = self.streams.as_ref().filter(|streams| streams.waited)?;
        match error {
            error if error.starts_with(b"-WRONGTYPE ") => Some(STREAM_GONE),
            error if !error.starts_with(b"-NOGROUP ") => None,
            _ if streams.gone => Some(STREAM_GONE),
            _ => Some(b"-NOGROUP the consumer group this client was blocked on no longer exists\r\n"),
        }
    }

    /// Note, of the streams of one of the nodes, how many are there.
    pub(super) fn note_present(&mut self, part: u16, count: Option<i64>) {
        let node = self.nodes.get(part as usize).copied();
        let all = self.runs.iter().filter(|(each, _)| Some(*each) == node).count();
        if let Some(streams) = &mut self.streams {
            streams.gone |= count.is_some_and(|count| (count as usize) < all);
        }
    }
}

const STREAM_GONE: &[u8] = b"-UNBLOCKED the stream key no longer exists\r\n";

impl Streams {
    /// Keep what a node had.
    pub(super) fn keep(&mut self, reply: &[u8]) {
        self.found.push(reply.to_vec());
    }

    /// The nodes are asked from the first one on.
    pub(super) fn begin(&mut self) {
        self.found.clear();
    }
}

/// The number of a stream's last entry, as XINFO STREAM tells it.
fn end_of(reply: &[u8]) -> Option<Vec<u8>> {
    let fields = values(reply)?;
    let field = fields.chunks_exact(2).find(|pair| string(pair[0]) == Some(b"last-generated-id"))?;
    string(field[1]).map(<[u8]>::to_vec)
}

#[test]
fn the_end_of_a_stream_is_found_in_what_is_told_of_it() {
    let told = b"*4\r\n$6\r\nlength\r\n:1\r\n$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n";
    assert_eq!(end_of(told), Some(b"5-1".to_vec()));
    assert_eq!(end_of(b"%1\r\n$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n"), Some(b"5-1".to_vec()));
    assert_eq!(end_of(b"-WRONGTYPE of another kind\r\n"), None);
}
