//! LMOVE and its like between lists of two nodes: an element is taken at the one and added at the other.
//!
//! No two nodes do anything at one moment, so for the time of a round trip the element is in the proxy's hands alone.
//! When the other node refuses it, or cannot be reached any more, it goes back to the end it came from. Waiting for it
//! is a vigil like any other.

use super::event_loop::EventLoop;
use super::jobs::What;
use super::lane::Lane;
use super::upstream::{For, Key, write_request};
use super::vigil::Stage;
use crate::command::Fault;
use crate::command::client::Client;
use crate::resp::Args;
use crate::resp::number::parse_f64;
use crate::resp::scan::{elements, string};

/// Where an element goes.
pub(super) struct Onward {
    /// The list to which it goes, and the command that adds it there.
    destination: Box<[u8]>,
    push: &'static [u8],
    /// The command that puts it back where it was.
    back: &'static [u8],
    /// Whether it is waited for.
    pub(super) waits: bool,
    /// The element, once it was taken.
    element: Vec<u8>,
}

impl EventLoop {
    /// Begin one of these commands; its two keys lie on different nodes.
    pub(super) fn begin_carry(&mut self, client: &Client, lane: &mut Lane, args: &Args<'_>) {
        match self.understood(args) {
            Ok((pop, onward, deadline)) => {
                let node = self.map.owner_of(&onward.destination).unwrap_or(0);
                if let Err(text) = self.upstream(Key::shared(client, node)) {
                    return self.answer_error(lane, &Fault::new(text)); // Nothing is taken that could not go on.
                }
                self.begin_carrying(client, lane, args, pop, onward, deadline);
            }
            Err(fault) => self.answer_error(lane, &fault),
        }
    }

    /// How the element is taken, where it goes, and until when it is waited for.
    fn understood(&self, args: &Args<'_>) -> Result<(&'static [u8], Onward, u64), Fault> {
        let name = args.at(0).to_ascii_lowercase();
        let (waits, named) = (name[0] == b'b', name.ends_with(b"lmove"));
        let end = |at: usize| match (args.is(at, "LEFT"), args.is(at, "RIGHT")) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Fault::SYNTAX),
        };
        let (from_left, to_left) = if named { (end(3)?, end(4)?) } else { (false, true) };
        let mut deadline = 0;
        if waits {
            let milliseconds = parse_f64(args.at(if named { 5 } else { 3 })).ok_or(Fault::BAD_TIMEOUT)? * 1000.0;
            if !(0.0..i64::MAX as f64).contains(&milliseconds.ceil()) {
                return Err(Fault::NEGATIVE_TIMEOUT);
            }
            let now = self.engine.store.now();
            deadline = if milliseconds > 0.0 { now.saturating_add(milliseconds.ceil() as u64) } else { 0 };
        }
        let push = |left: bool| if left { &b"LPUSH"[..] } else { b"RPUSH" };
        let onward = Onward {
            destination: args.at(2).into(),
            push: push(to_left),
            back: push(from_left),
            waits,
            element: Vec::new(),
        };
        Ok((if from_left { b"BLPOP" } else { b"BRPOP" }, onward, deadline))
    }

    /// An element was taken; `found` is its list and itself.
    pub(super) fn carry(&mut self, id: u64, found: &[u8]) {
        let element = elements(found).and_then(|pair| pair.get(1).copied()).and_then(string).map(<[u8]>::to_vec);
        let Some((job, element)) = self.jobs.get_mut(&id).zip(element) else { return };
        let key = job.key;
        let What::Vigil(vigil) = &mut job.what else { return };
        let Some(onward) = vigil.onward.as_mut() else { return };
        vigil.stage = Stage::Carrying;
        let mut request = Vec::new();
        write_request(&mut request, [onward.push, &*onward.destination, &element[..]].into_iter());
        onward.element = element;
        let node = self.map.owner_of(&onward.destination).unwrap_or(0);
        match self.upstream(Key { node, ..key }) {
            Ok(index) => self.push_bytes(index, For::Job { id, part: 0 }, &request, 1),
            Err(text) => self.give_back(id, format!("-{text}\r\n").into_bytes()),
        }
    }

    /// The other list has it, or will not.
    pub(super) fn carried(&mut self, id: u64, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            return self.give_back(id, reply.to_vec());
        }
        let Some(What::Vigil(vigil)) = self.jobs.get_mut(&id).map(|job| &mut job.what) else { return };
        let element = vigil.onward.as_mut().map(|onward| std::mem::take(&mut onward.element)).unwrap_or_default();
        let mut out = crate::resp::Reply::default();
        out.bulk(&element);
        self.finish(id, out.bytes());
    }

    fn give_back(&mut self, id: u64, error: Vec<u8>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let key = job.key;
        let What::Vigil(vigil) = &mut job.what else { return };
        let Some(onward) = vigil.onward.as_ref() else { return };
        let mut request = Vec::new();
        write_request(&mut request, [onward.back, &*vigil.keys[0], &onward.element[..]].into_iter());
        let node = self.map.owner_of(&vigil.keys[0]).unwrap_or(0);
        vigil.stage = Stage::GivingBack(error.clone());
        match self.upstream(Key { node, ..key }) {
            Ok(index) => self.push_bytes(index, For::Job { id, part: 0 }, &request, 1),
            Err(_) => self.finish(id, &error),
        }
    }
}
