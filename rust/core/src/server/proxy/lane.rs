//! One client's way through the proxy: its requests under way, and their replies in order.

use crate::net::{Interest, Stream};
use crate::resp::{Reply, RequestParser};
use crate::route::Merging;
use std::collections::VecDeque;

/// A client's socket, what it sent, and what it is owed.
pub(super) struct Lane {
    pub(super) socket: Stream,
    pub(super) input: Vec<u8>,
    pub(super) parser: RequestParser,
    pub(super) interest: Interest,
    /// Replies in order, ready to be written.
    pub(super) out: Vec<u8>,
    slots: VecDeque<Slot>,
    first: u32, // The number of the request at the front.
    held: Vec<u8>,
    /// Connections to nodes that are this client's alone: it waits or watches there.
    pub(super) alone: Vec<u32>,
    /// Keys are watched on these of them.
    pub(super) watches: Vec<Watch>,
    /// What it waits for that takes several steps.
    pub(super) job: Option<u64>,
    /// Requests of it that wait for a node to serve them; its next ones wait too.
    pub(super) parked: u32,
    /// A request waits on it; the client's next ones wait too.
    pub(super) busy_alone: bool,
    /// That request, when it does nothing but wait for a key: it can be asked anew.
    pub(super) asked: Vec<u8>,
    /// It is to be asked anew: that nothing was found is not told (`handover`).
    pub(super) recalled: bool,
    /// It is on the list of those with replies to send.
    pub(super) listed: bool,
}

/// Keys that a client watches on one node.
pub(super) struct Watch {
    /// The node.
    pub(super) node: u16,
    /// The connection over which they are watched.
    pub(super) connection: u32,
    /// It was lost meanwhile: EXEC must not happen.
    pub(super) lost: bool,
}

/// A request whose reply cannot be sent yet.
enum Slot {
    /// No reply has come.
    Waiting,
    /// The reply is there, but one before it is not: these bytes of `held`.
    Held(u32, u32),
    /// Parts of the reply are missing.
    Merging(Box<Merging>),
    /// So many parts are to come, and the client wants none.
    Unwanted(usize),
}

impl Lane {
    pub(super) fn new(socket: Stream) -> Lane {
        Lane {
            socket,
            input: Vec::new(),
            parser: RequestParser::default(),
            interest: Interest::Read,
            out: Vec::new(),
            slots: VecDeque::new(),
            first: 0,
            held: Vec::new(),
            alone: Vec::new(),
            watches: Vec::new(),
            job: None,
            parked: 0,
            busy_alone: false,
            asked: Vec::new(),
            recalled: false,
            listed: false,
        }
    }

    /// How many requests wait for replies.
    pub(super) fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// A request was sent to a node: returns its number.
    #[inline]
    pub(super) fn sent(&mut self) -> u32 {
        self.slots.push_back(Slot::Waiting);
        self.first.wrapping_add(self.slots.len() as u32 - 1)
    }

    /// Parts of a request were sent to several nodes: returns its number.
    pub(super) fn sent_in_parts(&mut self, merging: Merging) -> u32 {
        self.slots.push_back(Slot::Merging(Box::new(merging)));
        self.first.wrapping_add(self.slots.len() as u32 - 1)
    }

    /// The proxy itself answers the next request.
    #[inline]
    pub(super) fn answer(&mut self, reply: &[u8]) {
        if self.slots.is_empty() {
            self.out.extend_from_slice(reply);
        } else {
            let slot = self.hold(reply);
            self.slots.push_back(slot);
        }
    }

    /// The client wants no reply to the request it just sent; before it, this was waited for and written.
    pub(super) fn hush(&mut self, waiting: usize, written: usize) {
        if self.slots.len() == waiting {
            return self.out.truncate(written.min(self.out.len()));
        }
        if let Some(last) = self.slots.back_mut() {
            *last = match last {
                Slot::Held(start, _) => Slot::Held(*start, 0),
                Slot::Waiting => Slot::Unwanted(1),
                Slot::Merging(merging) => Slot::Unwanted(merging.missing()),
                Slot::Unwanted(parts) => Slot::Unwanted(*parts),
            };
        }
    }

    /// A reply, or a part of one, has come for a request.
    #[inline]
    pub(super) fn replied(&mut self, number: u32, part: u16, reply: &[u8], resp3: bool) {
        let index = number.wrapping_sub(self.first) as usize;
        let ready = match self.slots.get_mut(index) {
            None | Some(Slot::Held(..)) => return,
            Some(Slot::Unwanted(parts)) => {
                *parts -= 1;
                if *parts > 0 {
                    return;
                }
                Slot::Held(0, 0)
            }
            Some(Slot::Waiting) => {
                if index == 0 {
                    // The common case: straight through.
                    self.out.extend_from_slice(reply);
                    self.slots.pop_front();
                    self.first = self.first.wrapping_add(1);
                    return self.release();
                }
                self.hold(reply)
            }
            Some(Slot::Merging(merging)) => {
                if !merging.take(part as usize, reply) {
                    return;
                }
                let Slot::Merging(merging) = std::mem::replace(&mut self.slots[index], Slot::Waiting) else { return };
                let mut whole = Reply::new(resp3);
                merging.finish(&mut whole);
                self.hold(whole.bytes())
            }
        };
        self.slots[index] = ready;
        self.release();
    }

    /// The request on which the client waits is not answered: it is the next one to be served.
    pub(super) fn take_back(&mut self) {
        if self.slots.pop_back().is_some() {
            let mut input = std::mem::take(&mut self.asked);
            input.append(&mut self.input);
            self.input = input;
            self.parser = RequestParser::default();
        }
        (self.busy_alone, self.recalled) = (false, false);
    }

    /// A connection that was this client's alone has gone.
    pub(super) fn lost(&mut self, connection: u32) {
        self.alone.retain(|&each| each != connection);
        self.watches.iter_mut().filter(|watch| watch.connection == connection).for_each(|watch| watch.lost = true);
    }

    fn hold(&mut self, reply: &[u8]) -> Slot {
        let start = self.held.len() as u32;
        self.held.extend_from_slice(reply);
        Slot::Held(start, reply.len() as u32)
    }

    /// Pass on what is ready at the front.
    #[inline]
    fn release(&mut self) {
        while let Some(&Slot::Held(start, len)) = self.slots.front() {
            self.out.extend_from_slice(&self.held[start as usize..(start + len) as usize]);
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        if self.slots.is_empty() && !self.held.is_empty() {
            self.held.clear();
            self.held.shrink_to(64 * 1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Merge;

    fn lane() -> Lane {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        Lane::new(Stream::Plain(ours.into()))
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests_whatever_the_order_they_come_in() {
        let mut lane = lane();
        let (one, two) = (lane.sent(), lane.sent());
        lane.answer(b"+three\r\n");
        let four = lane.sent_in_parts(Merging::new(Merge::Sum, 2, vec![]));
        lane.replied(four, 1, b":2\r\n", false);
        lane.replied(two, 0, b"+two\r\n", false);
        assert!(lane.out.is_empty());
        lane.replied(one, 0, b"+one\r\n", false);
        assert_eq!(lane.out, b"+one\r\n+two\r\n+three\r\n");
        lane.replied(four, 0, b":1\r\n", false);
        assert!(lane.out.ends_with(b":3\r\n"));
        assert_eq!((lane.waiting(), lane.held.len()), (0, 0));
    }
}
