//! A main's side of a stream: what one replica gets, and what it has told.
//!
//! A slot is copied as it is now; from then on its records follow. Records are always sent before more is copied, so
//! that everything arrives in the order in which it happened. A slot of many keys is copied in slices: while that
//! lasts, its records are written by effect (see [`Tail::by_effect`]), which is right whether or not the key has been
//! copied yet. What is sent is bounded by what the connection has not taken; who does not keep up falls off the tail.
//! Which slots it gets may change while it streams ([`Source::resize`]): those that it has go on, others are copied.
//! The replica says which slots it has in full, and strict requests for those need not wait for the others: so a copy
//! that takes long holds up nobody. Slots that somebody waits for are copied first ([`Source::hurry`]).

use super::frames::{self, Frame};
use crate::command::client::Token;
use crate::store::Store;
use crate::store::keyspace::DATABASES;
use crate::stream::SlotSet;
use crate::stream::codec;
use crate::stream::squeeze::Squeezer;
use crate::stream::tail::{self, Cursor, Kind, Lost, Record, Tail};
use std::collections::VecDeque;

/// Unsent bytes of a stream beyond which nothing more is written to it.
pub const ROOM: usize = 1 << 20;
/// Records of one frame.
const FRAME: usize = 64 * 1024;
/// Entries copied before others get their turn.
const SLICE: usize = 1000;
/// Slots of no more entries are compared as a whole; longer ones are copied unseen, for a digest holds up everybody.
const COMPARED: usize = 4 * SLICE;
/// Entries looked at or copied in one turn of the loop, about.
const ENTRIES_IN_A_TURN: usize = 4000;
/// A replica hears from its main at least so often, ms.
pub const HEARTBEAT_MS: u64 = 100;

/// See the module's page.
pub struct Source {
    /// The replica's name.
    pub peer: String,
    /// The move that it is for; empty for a stream to a replica.
    pub moves: String,
    /// The slots are the peer's by the topology, and nothing of them was written after this record: once the peer has
    /// acknowledged it, it is told so.
    pub hands_over: Option<u64>,
    /// The record up to which it had everything when it was told that the slots are its own.
    pub handed: Option<u64>,
    /// Its connection.
    pub token: Token,
    /// What it gets.
    pub slots: SlotSet,
    cursor: Cursor,
    flowing: SlotSet,
    /// Slots that are to be copied, with the digest that it has told, if it has.
    due: VecDeque<(u16, Option<u64>)>,
    /// The last record that is done to slots which have not been copied as well: what it told of these before it had
    /// applied that is of no use, for it is done to what it has of them.
    swept: u64,
    /// The record after which the stream began.
    from: u64,
    walk: Option<Walk>,
    /// Slots that it was told are complete and has not confirmed, in order, and as a set; those that it was told more
    /// than once, because they went and came again; how many it has confirmed; which.
    told: VecDeque<u16>,
    telling: SlotSet,
    retold: Vec<u16>,
    confirmed: u64,
    filled: SlotSet,
    /// Up to which record it has applied everything of the slots that it has confirmed.
    filled_to: u64,
    /// Slots that were brought forward.
    hurried: SlotSet,
    /// Slots that are not to be copied yet, because we wait ourselves for what is left of them; what was told of them.
    withheld: SlotSet,
    later: Vec<(u16, Option<u64>)>,
    /// What is to be said first: which slots came and went.
    news: Vec<u8>,
    /// Whether what is copied may be squeezed; whether it understands that.
    pub squeezes: bool,
    unpacks: bool,
    squeezer: Squeezer,
    /// Whether it says what it has when it is asked ([`Frame::Check`]); how often it was and has not; what it said.
    pub compares: bool,
    asked: u32,
    /// See `compares`: number of the question and digest, or that it does not have the slot.
    pub answers: Vec<(u64, Option<u64>)>,
    /// Bytes that may be copied now, where that is limited.
    pub allowance: Option<i64>,
    /// Whether it had everything once; since then only slots that came later may be missing. Whether any did.
    pub based: bool,
    grew: bool,
    /// When the stream began, ms of the steady clock.
    pub began: u64,
    /// Whether it has everything, and only the tail is to be sent.
    pub whole: bool,
    /// Slots that it has in full, of all it gets.
    pub copied: usize,
    /// Bytes of records and entries sent.
    pub bytes: u64,
    /// Up to which record everything was sent.
    pub sent: u64,
    /// Up to which record it has applied everything.
    pub acked: u64,
    /// The latest of our clock that it has sent back, us.
    pub clock: u64,
    /// When we heard from it, ms of the steady clock.
    pub heard: u64,
    spoke: u64,
    /// Records not acknowledged: numbers, and when they were written, ms of the steady clock.
    open: VecDeque<(u64, u64)>,
}

/// A slot being copied in slices.
struct Walk {
    slot: u16,
    database: u8,
    cursor: u32,
}

impl Source {
    /// A stream to `peer`, from `cursor` on: of slots that it has (`whole`), or that it is going to get.
    pub fn new(peer: &str, token: Token, slots: SlotSet, cursor: Cursor, whole: bool, now: u64) -> Source {
        Source {
            peer: peer.to_owned(),
            moves: String::new(),
            hands_over: None,
            handed: None,
            token,
            flowing: if whole { slots.clone() } else { SlotSet::default() },
            copied: if whole { slots.len() } else { 0 },
            slots,
            cursor,
            due: VecDeque::new(),
            from: cursor.seq - 1,
            swept: cursor.seq - 1,
            walk: None,
            told: VecDeque::new(),
            telling: SlotSet::default(),
            retold: Vec::new(),
            confirmed: 0,
            filled: SlotSet::default(),
            filled_to: 0,
            hurried: SlotSet::default(),
            withheld: SlotSet::default(),
            later: Vec::new(),
            news: Vec::new(),
            squeezes: true,
            unpacks: false,
            squeezer: Squeezer::default(),
            compares: false,
            asked: 0,
            answers: Vec::new(),
            allowance: None,
            based: whole,
            grew: false,
            began: now,
            whole,
            bytes: 0,
            sent: cursor.seq - 1,
            acked: if whole { cursor.seq - 1 } else { 0 },
            clock: 0,
            heard: now,
            spoke: 0,
            open: VecDeque::new(),
        }
    }

    /// Write what there is to be sent, as far as there is room. `now` is the steady clock in us.
    pub fn pump(&mut self, tail: &mut Tail, store: &Store, out: &mut Vec<u8>, now: u64) -> Result<(), Lost> {
        if self.sent < tail.seq() && self.open.back().is_none_or(|&(_, at)| at < now / 1000) {
            self.open.push_back((tail.seq(), now / 1000));
        }
        out.append(&mut self.news);
        self.send_tail(tail, out, now)?;
        self.copy(tail, store, out, now);
        if self.handed.is_none() && self.settled() && self.hands_over.is_some_and(|last| self.acked >= last) {
            // We serve these slots no more, so nothing can follow; and should this get lost, nothing is missing.
            Frame::Final { seq: self.sent }.write(out);
            self.handed = Some(self.sent);
            // From now on we follow the taker in them: what it writes must not go back to it.
            self.flowing = SlotSet::default();
        }
        Ok(())
    }

    /// Whether there is something to be copied at once.
    pub fn hurries(&self) -> bool {
        !self.whole && (self.walk.is_some() || !self.due.is_empty()) && self.may_copy()
    }

    fn may_copy(&self) -> bool {
        self.allowance.is_none_or(|allowance| allowance > 0)
    }

    fn send_tail(&mut self, tail: &Tail, out: &mut Vec<u8>, now: u64) -> Result<(), Lost> {
        let due = now / 1000 >= self.spoke + HEARTBEAT_MS;
        if self.sent == tail.seq() && !due {
            return Ok(());
        }
        while out.len() < ROOM {
            let at = frames::begin(out, frames::TAIL);
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&now.to_le_bytes());
            let start = out.len();
            // Records that belong together are in one frame: the replica acknowledges what it has applied.
            let end = tail.copy_out(&mut self.cursor, &self.flowing, FRAME, out)?;
            self.sent = self.cursor.seq - 1;
            self.bytes += (out.len() - start) as u64;
            out[at + frames::HEAD..at + frames::HEAD + 8].copy_from_slice(&self.sent.to_le_bytes());
            frames::finish(out, at);
            self.spoke = now / 1000;
            if end {
                break;
            }
        }
        Ok(())
    }

    /// Copy as much as there is room for in one turn.
    fn copy(&mut self, tail: &mut Tail, store: &Store, out: &mut Vec<u8>, now: u64) {
        let (start, mut entries) = (out.len(), 0);
        while !self.whole && out.len() < ROOM && entries < ENTRIES_IN_A_TURN && self.may_copy() {
            let before = out.len();
            let Some(seen) = self.copy_some(tail, store, out, now) else { break };
            entries += seen;
            if let Some(allowance) = &mut self.allowance {
                *allowance -= (out.len() - before) as i64;
            }
        }
        let plain = out.len() - start;
        if self.squeezes && self.unpacks && plain > 0 {
            frames::pack(&mut self.squeezer, out, start);
        }
        let sent = out.len() - start;
        self.bytes += sent as u64;
        if let Some(allowance) = &mut self.allowance {
            *allowance += (plain - sent) as i64;
        }
    }

    /// Copy the next slot or a slice of it: how many entries that were, `None` when there is nothing to be done now.
    fn copy_some(&mut self, tail: &mut Tail, store: &Store, out: &mut Vec<u8>, now: u64) -> Option<usize> {
        if self.sent != tail.seq() {
            return None; // Records come first.
        }
        if tail.swept() > self.swept {
            self.swept = tail.swept();
            self.due.iter_mut().chain(&mut self.later).for_each(|(_, digest)| *digest = None);
        }
        if self.walk.is_some() {
            self.slice(tail, store, out);
            return Some(SLICE);
        }
        if self.slots.within(&self.flowing) {
            (self.whole, self.based) = (true, true);
            Frame::Whole { seq: tail.seq() }.write(out);
            return None;
        }
        let (slot, digest) = self.due.pop_front()?;
        if !self.slots.contains(slot) || self.flowing.contains(slot) {
            return Some(0);
        }
        if self.withheld.contains(slot) {
            self.later.push((slot, digest));
            return Some(0);
        }
        self.flowing.insert(slot);
        let len = store.len_of_slot(slot);
        if len <= COMPARED && digest == Some(super::digest::of_slot(store, slot)) {
            self.complete(slot, true, out);
        } else if len > SLICE {
            tail.by_effect(slot, true);
            self.walk = Some(Walk { slot, database: 0, cursor: 0 });
            Frame::Copy { slot, first: true, entries: &[] }.write(out);
        } else {
            let at = begin_copy(out, slot, true);
            for database in 0..DATABASES as u8 {
                for handle in store.entries_of_slot(database, slot) {
                    put_entry(store, handle, slot, database, now / 1000, out);
                }
            }
            frames::finish(out, at);
            self.complete(slot, false, out);
        }
        Some(len)
    }

    /// Whether what it will have of a slot, once all it was sent is applied, is what we have now.
    pub fn is_abreast(&self, tail: &Tail, slot: u16) -> bool {
        let walked = self.walk.as_ref().is_some_and(|walk| walk.slot == slot);
        self.sent == tail.seq() && self.flowing.contains(slot) && !walked
    }

    /// Ask what it has of a key, or of a slot; see [`Frame::Check`].
    pub fn ask(&mut self, number: u64, slot: u16, database: u8, key: &[u8], out: &mut Vec<u8>) {
        Frame::Check { number, slot, database, key }.write(out);
        self.asked += 1;
    }

    /// Send a key anew as it is now; not to be called unless it [`Source::is_abreast`].
    pub fn send_anew(&mut self, store: &Store, slot: u16, database: u8, key: &[u8], out: &mut Vec<u8>) {
        let at = begin_copy(out, slot, false);
        match store.find_any(database, key) {
            Some(found) => put_entry(store, store.handle_of(found), slot, database, 0, out),
            None => _ = tail::append(out, Kind::Removal, slot, database, 0, |out| out.extend_from_slice(key)),
        }
        frames::finish(out, at);
    }

    /// Have a slot copied anew where digests differ; what it has of it stays until then.
    pub fn copy_anew(&mut self, slot: u16, tail: &mut Tail) {
        if self.covers(slot) {
            let all = self.slots.clone();
            self.resize(all.without(&[slot].into_iter().collect()), tail);
            self.resize(all, tail);
        }
    }

    /// The peer is to get these slots from now on: those that are new must be copied, of others it hears no more.
    pub fn resize(&mut self, owed: SlotSet, tail: &mut Tail) {
        let (fresh, gone) = (owed.without(&self.slots), self.slots.without(&owed));
        if self.walk.as_ref().is_some_and(|walk| gone.contains(walk.slot)) {
            self.leave(tail);
        }
        if self.settled() && !fresh.is_empty() {
            self.filled = self.slots.clone();
        }
        self.whole &= fresh.is_empty();
        self.grew |= !fresh.is_empty();
        for set in [&mut self.flowing, &mut self.filled, &mut self.hurried] {
            set.subtract(&gone);
        }
        self.due.retain(|&(slot, _)| owed.contains(slot));
        self.later.retain(|&(slot, _)| owed.contains(slot));
        self.slots = owed;
        self.copied = self.flowing.len() - usize::from(self.walk.is_some());
        if !gone.is_empty() {
            Frame::Drops { slots: &frames::of_slots(&gone) }.write(&mut self.news);
        }
        if !fresh.is_empty() {
            Frame::Owes { slots: &frames::of_slots(&fresh) }.write(&mut self.news);
        }
    }

    /// These slots are not to be copied yet; those that were, and are not among them, are now.
    pub fn withhold(&mut self, slots: &SlotSet) {
        self.withheld = slots.clone();
        for one in std::mem::take(&mut self.later) {
            if slots.contains(one.0) { self.later.push(one) } else { self.due.push_front(one) }
        }
    }

    fn complete(&mut self, slot: u16, same: bool, out: &mut Vec<u8>) {
        self.copied += 1;
        self.told.push_back(slot);
        if self.telling.contains(slot) {
            self.retold.push(slot);
        }
        self.telling.insert(slot);
        Frame::Copied { slot, same }.write(out);
    }

    /// Somebody waits for a slot that it does not have: it is the next to be copied.
    pub fn hurry(&mut self, slot: u16) {
        if self.whole
            || !self.slots.contains(slot)
            || self.flowing.contains(slot)
            || self.hurried.contains(slot)
            || self.withheld.contains(slot)
        {
            return;
        }
        self.hurried.insert(slot);
        let at = self.due.iter().position(|&(each, _)| each == slot);
        let digest = at.and_then(|at| self.due.remove(at)).and_then(|(_, digest)| digest);
        self.due.push_front((slot, digest));
    }

    /// Whether it has said that it has everything.
    pub fn settled(&self) -> bool {
        self.whole && self.told.is_empty()
    }

    /// Whether it has a slot in full, and will have every write to it in order.
    pub fn covers(&self, slot: u16) -> bool {
        self.slots.contains(slot) && (self.settled() || self.filled.contains(slot))
    }

    /// Whether it has all of a slot up to a record.
    pub fn has(&self, slot: u16, seq: u64) -> bool {
        self.covers(slot) && self.reached() >= seq
    }

    /// Slots that it does not have in full yet.
    pub fn lacking(&self) -> SlotSet {
        if self.settled() { SlotSet::default() } else { self.slots.without(&self.filled) }
    }

    /// Up to which record it has applied everything of the slots that it has.
    pub fn reached(&self) -> u64 {
        self.acked.max(self.filled_to)
    }

    fn slice(&mut self, tail: &mut Tail, store: &Store, out: &mut Vec<u8>) {
        let Some(walk) = &mut self.walk else { return };
        let at = begin_copy(out, walk.slot, false);
        let mut seen = 0;
        while seen < SLICE && usize::from(walk.database) < DATABASES {
            let mut visit = |handle| {
                seen += 1;
                put_entry(store, handle, walk.slot, walk.database, 0, out);
            };
            match store.scan_slot(walk.database, walk.slot, walk.cursor, &mut visit) {
                Some(next) => walk.cursor = next,
                None => (walk.database, walk.cursor) = (walk.database + 1, 0),
            }
        }
        frames::finish(out, at);
        if usize::from(walk.database) == DATABASES {
            let slot = walk.slot;
            self.walk = None;
            tail.by_effect(slot, false);
            self.complete(slot, false, out);
        }
    }

    /// Take in what the replica says; an error ends the stream.
    pub fn take(&mut self, frame: Frame<'_>, now_ms: u64) -> Result<(), &'static str> {
        self.heard = now_ms;
        match frame {
            Frame::Ack { seq, clock } => {
                if seq > self.sent {
                    return Err("it acknowledges what it was not sent");
                }
                if seq > 0 && self.whole && !self.grew {
                    // One of an older release says no more than this.
                    self.told.clear();
                    self.telling = SlotSet::default();
                    self.retold.clear();
                }
                self.acked = self.acked.max(seq);
                self.clock = self.clock.max(clock);
                while self.open.front().is_some_and(|&(number, _)| number <= self.acked) {
                    self.open.pop_front();
                }
                Ok(())
            }
            Frame::Filling { copied, seq, clock } => {
                if seq > self.sent || copied > self.confirmed + self.told.len() as u64 {
                    return Err("it acknowledges what it was not sent");
                }
                for _ in self.confirmed..copied {
                    let Some(slot) = self.told.pop_front() else { break };
                    // It may have gone, or gone and come again, since we told of it.
                    if let Some(at) = self.retold.iter().position(|&each| each == slot) {
                        self.retold.swap_remove(at);
                        continue;
                    }
                    self.telling.remove(slot);
                    if self.flowing.contains(slot) {
                        self.filled.insert(slot);
                    }
                }
                self.confirmed = self.confirmed.max(copied);
                self.filled_to = self.filled_to.max(seq);
                if self.settled() {
                    self.acked = self.acked.max(seq);
                }
                self.clock = self.clock.max(clock);
                while self.open.front().is_some_and(|&(number, _)| number <= self.filled_to) {
                    self.open.pop_front();
                }
                Ok(())
            }
            Frame::Drops { slots } => {
                // It has heard before us that it is no copy of these.
                let gone = frames::slots(slots).common(&self.slots);
                if self.settled() {
                    self.filled = self.slots.clone();
                }
                self.flowing.subtract(&gone);
                self.filled.subtract(&gone);
                self.whole &= gone.is_empty();
                self.grew |= !gone.is_empty();
                Ok(())
            }
            Frame::Digests { pairs } => {
                if self.due.len() > usize::from(crate::slot::SLOT_COUNT) {
                    return Err("it tells more slots than there are");
                }
                let of_use = self.swept <= self.from.max(self.reached());
                self.due.extend(frames::pairs(pairs).map(|(slot, digest)| (slot, of_use.then_some(digest))));
                Ok(())
            }
            Frame::Unpacks => {
                self.unpacks = true;
                Ok(())
            }
            Frame::Compares => {
                self.compares = true;
                Ok(())
            }
            Frame::Checked { number, has, digest } => {
                self.asked = self.asked.checked_sub(1).ok_or("it answers what it was not asked")?;
                self.answers.push((number, has.then_some(digest)));
                Ok(())
            }
            _ => Err("it sends what only a main sends"),
        }
    }

    /// How long the oldest record that it has not applied has been waiting, ms; of slots that it has, while it is filled.
    pub fn lag_ms(&self, now_ms: u64) -> u64 {
        self.open.front().map_or(0, |&(_, at)| now_ms.saturating_sub(at))
    }

    /// Bytes of records that it has not applied, of all slots: those it was sent last, and those to come.
    pub fn lag_bytes(&self, tail: &Tail) -> u64 {
        tail.bytes_after(self.acked.max(self.filled_to))
    }

    /// It will be served no more: undo what it left in the tail.
    pub fn leave(&mut self, tail: &mut Tail) {
        if let Some(walk) = self.walk.take() {
            tail.by_effect(walk.slot, false);
        }
    }
}

fn begin_copy(out: &mut Vec<u8>, slot: u16, first: bool) -> usize {
    let at = frames::begin(out, frames::COPY);
    out.extend_from_slice(&slot.to_le_bytes());
    out.push(u8::from(first));
    at
}

fn put_entry(store: &Store, handle: u32, slot: u16, database: u8, time: u64, out: &mut Vec<u8>) {
    tail::append(out, Kind::Entry, slot, database, time, |out| codec::write_entry(store, handle, database, out));
}

/// Read records one after another.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, codec::Garbage>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        match Record::parse(bytes) {
            Ok(Some(record)) => {
                bytes = &bytes[record.bytes.len()..];
                Some(Ok(record))
            }
            Ok(None) => {
                bytes = &[];
                Some(Err(codec::Garbage("a record is cut off")))
            }
            Err(garbage) => {
                bytes = &[];
                Some(Err(garbage))
            }
        }
    })
}
