//! A replica's side of a stream: what one main sends, brought into this node's store.
//!
//! The replica connects, asks, and tells digests of what it has, so that only slots that differ are sent. What it has
//! applied it acknowledges; with the acknowledgement the main's own clock goes back, which is what a main's lease for
//! reads hangs on (see `strict`). A stream that breaks is begun again where it was, if the main still has the records.

use super::frames::{self, Frame};
use super::source::records;
use crate::command::Engine;
use crate::command::client::Token;
use crate::slot::slot_of;
use crate::store::keyspace::{DATABASES, Whereabouts};
use crate::stream::SlotSet;
use crate::stream::apply::{Applier, look_ahead};
use crate::stream::codec::{self, Failure, Garbage, Reader};
use crate::stream::squeeze::Squeezer;
use crate::stream::tail::{EVERY_DATABASE, EVERY_SLOT, Kind, Record};
use smallvec::SmallVec;
use std::collections::HashSet;
use std::hash::BuildHasher;

/// Slots whose digests are worked out in one turn of the loop, at most; and entries.
const DIGESTS_IN_A_TURN: usize = 256;
const ENTRIES_IN_A_TURN: usize = 4000;
/// Records looked at before the first of them is applied.
const AHEAD: usize = 32;

/// See the module's page.
pub struct Sink {
    /// The main's name.
    pub main: String,
    /// The move that it is for; empty for the stream of a replica.
    pub moves: String,
    /// Nothing will follow: the slots of the move are ours.
    pub over: bool,
    /// What we get from it.
    pub slots: SlotSet,
    /// The connection, when there is one.
    pub token: Option<Token>,
    /// When to try to connect again, ms of the steady clock.
    pub retry_at: u64,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// The main's run (see [`super::run_of`]), and up to which record of it we have everything.
    pub run: String,
    /// See `run`.
    pub seq: u64,
    /// Whether all slots are here as they were at `seq`; if not, the copy must be begun anew.
    pub whole: bool,
    /// Slots that have been copied.
    pub copied: usize,
    /// Whether `seq` is true of all slots but those in `lacking`.
    based: bool,
    /// Slots that came to the others later and are not here yet.
    pub lacking: SlotSet,
    /// Slots that the main counts on us for no more; those that it owes us before we have heard why.
    released: SlotSet,
    offered: SlotSet,
    /// Slots that we follow no more, before the main knows.
    unsaid: SlotSet,
    /// Slots that the main took out of this stream last, before we heard why, and up to which record they are here.
    parted: Option<(SlotSet, u64)>,
    /// How many slots we were told are complete since the stream began.
    completed: u64,
    /// Up to which record everything is applied of the slots that are here, whether all are or not.
    applied: u64,
    /// Whether the main has said where it begins: before that, what we know is of another stream.
    begun: bool,
    /// Whether the main wants to know how far the copy is (see [`super::run_of`]).
    reports: bool,
    /// Bytes of records and entries that have come.
    pub bytes: u64,
    /// The latest of the main's clock.
    pub clock: u64,
    /// When we heard from it, ms of the steady clock.
    pub heard: u64,
    /// When we last acknowledged, ms of the steady clock: until a lease after that the main may answer reads.
    pub promised: u64,
    /// What was greeted with: the answer to the password, the one to the question.
    pub greeted: Greeting,
    applier: Applier,
    squeezer: Squeezer,
    /// Whether it is still to be said that we understand squeezed frames.
    unpacks: bool,
    /// Whether it is still to be said that we answer [`Frame::Check`]; answers that are to be told.
    compares: bool,
    answers: Vec<(u64, Option<u64>)>,
    arriving: Option<Arriving>,
    found: Vec<Whereabouts>,
    /// Slots whose digests are to be told.
    telling: SlotSet,
}

/// A slot whose entries arrive. What is here of it stays until the main's is: a replica holds all that was acknowledged
/// at every moment, so it may take its main's place even now. Keys that have not come when the slot is complete go then.
struct Arriving {
    slot: u16,
    /// Hashes of what has come; `None` where nothing was here before.
    came: Option<HashSet<u64, foldhash::fast::RandomState>>,
}

impl Arriving {
    fn new(slot: u16, empty: bool) -> Arriving {
        Arriving { slot, came: (!empty).then(HashSet::default) }
    }

    /// A record came. While a slot arrives in pieces its records are written by effect: entries and removals.
    fn note(&mut self, record: &Record<'_>) -> Result<(), Garbage> {
        match record.kind {
            Kind::Swap if record.concerns(&[self.slot].into_iter().collect()) => {
                Err(Garbage("databases changed places while a slot was copied: it must be copied anew"))
            }
            Kind::Entry if record.slot == self.slot => {
                if let Some(came) = &mut self.came {
                    let head = codec::read_head(&mut Reader::new(record.payload))?;
                    let hash = came.hasher().hash_one((head.database, &head.key[..]));
                    came.insert(hash);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Slots that are here as they were at a record of the main's run: any stream of them can go on from there.
#[derive(Clone)]
pub struct Brought {
    /// The slots.
    pub slots: SlotSet,
    /// See [`Sink::run`].
    pub run: String,
    /// See [`Sink::seq`].
    pub seq: u64,
}

/// How far the main has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The password was sent, and then the question.
    Password,
    /// The question was sent.
    Question,
    /// It streams.
    Streams,
}

impl Sink {
    /// A stream from `main` that is not begun yet; `moves` names the move that it is for.
    pub fn new(main: &str, moves: &str, slots: SlotSet) -> Sink {
        Sink {
            main: main.to_owned(),
            moves: moves.to_owned(),
            over: false,
            slots,
            token: None,
            retry_at: 0,
            failures: 0,
            run: String::new(),
            seq: 0,
            whole: false,
            copied: 0,
            based: false,
            lacking: SlotSet::default(),
            released: SlotSet::default(),
            offered: SlotSet::default(),
            unsaid: SlotSet::default(),
            parted: None,
            completed: 0,
            applied: 0,
            begun: false,
            reports: false,
            bytes: 0,
            clock: 0,
            heard: 0,
            promised: 0,
            greeted: Greeting::Question,
            applier: Applier::new(),
            squeezer: Squeezer::default(),
            unpacks: false,
            compares: false,
            answers: Vec::new(),
            arriving: None,
            found: Vec::new(),
            telling: SlotSet::default(),
        }
    }

    /// Take in what the main sends; an error ends the stream, and says why.
    pub fn take(&mut self, engine: &mut Engine, frame: Frame<'_>, now_ms: u64) -> Result<(), String> {
        self.heard = now_ms;
        match frame {
            Frame::Start { run, seq, whole } => {
                self.run = String::from_utf8_lossy(run).into_owned();
                if whole {
                    self.lacking = SlotSet::default();
                }
                (self.seq, self.applied, self.based) = (seq, seq, !whole);
                self.whole = self.based && self.lacking.is_empty();
                (self.released, self.offered, self.completed) = (SlotSet::default(), SlotSet::default(), 0);
                let features = self.run.split('/').nth(2);
                self.reports = features.is_some();
                self.unpacks = features.is_some_and(|features| features.contains('z'));
                self.compares = features.is_some_and(|features| features.contains('c'));
                self.begun = true;
                self.parted = None;
                self.copied = if whole { 0 } else { self.slots.len() - self.lacking.len() };
                self.telling = if whole { self.slots.clone() } else { SlotSet::default() };
                self.failures = 0;
            }
            Frame::Tail { seq, clock, records } => {
                // Once the slots are ours their former main follows us: what it passes on now came from here.
                if !self.over {
                    self.apply(engine, records)?;
                }
                (self.clock, self.applied) = (clock, seq);
                if self.based {
                    self.seq = seq;
                }
            }
            Frame::Copy { slot, first, entries } => {
                if !self.slots.contains(slot) {
                    return Ok(()); // See below: it is told that this came to nothing.
                }
                if first {
                    self.arriving = Some(Arriving::new(slot, engine.store.len_of_slot(slot) == 0));
                }
                self.apply(engine, entries)?;
            }
            Frame::Copied { slot, .. } => {
                if !self.slots.contains(slot) {
                    // The main does not know yet what we know, or knows what we do not: it must not count on this.
                    self.completed += 1;
                    self.unsaid.insert(slot);
                    self.arriving = None;
                    return Ok(());
                }
                self.copied += 1;
                self.completed += 1;
                self.lacking.remove(slot);
                if let Some(Arriving { slot: arrived, came: Some(came) }) = self.arriving.take()
                    && arrived == slot
                    && self.slots.contains(slot)
                {
                    self.remove_others(engine, slot, &came)?;
                }
            }
            Frame::Whole { seq } => {
                self.based = true;
                self.seq = seq;
                self.whole = self.lacking.is_empty();
            }
            Frame::Owes { slots } => {
                let slots = frames::slots(slots);
                self.released.subtract(&slots);
                self.parted = self.parted.take().filter(|(parted, _)| parted.common(&slots).is_empty());
                self.telling.add(&slots.common(&self.lacking));
                self.offered.add(&slots);
            }
            Frame::Drops { slots } => {
                let slots = frames::slots(slots);
                self.offered.subtract(&slots);
                self.telling.subtract(&slots);
                self.parted = self.here().map(|here| (here.common(&slots), self.seq));
                self.lacking.add(&slots.common(&self.slots));
                self.whole &= self.lacking.is_empty();
                self.released.add(&slots);
            }
            Frame::Final { seq } if !self.moves.is_empty() && self.whole => {
                self.seq = self.seq.max(seq);
                self.over = true;
            }
            Frame::Final { .. } => return Err("it hands over what does not move".into()),
            Frame::Packed { len, frames } => {
                let garbage = || "squeezed frames cannot be read".to_owned();
                let frames = usize::try_from(len).ok().and_then(|len| self.squeezer.restore(frames, len));
                let (frames, mut used) = (frames.ok_or_else(garbage)?, 0);
                while let Some((frame, len)) = Frame::parse(&frames[used..]).map_err(|garbage| garbage.to_string())? {
                    if matches!(frame, Frame::Packed { .. }) {
                        return Err(garbage());
                    }
                    self.take(engine, frame, now_ms)?;
                    used += len;
                }
                if used < frames.len() {
                    return Err(garbage());
                }
            }
            Frame::Check { number, slot, database, key } => {
                let whole = database == EVERY_DATABASE;
                if !whole && (usize::from(database) >= DATABASES || slot_of(key) != slot) {
                    return Err("it asks for a key of another slot than it says".into());
                }
                let here = self.slots.contains(slot) && !self.lacking.contains(slot) && !self.over;
                self.answers.push((
                    number,
                    here.then(|| match whole {
                        true => super::digest::of_slot(&engine.store, slot),
                        false => super::digest::of_key(&engine.store, database, key),
                    }),
                ));
            }
            Frame::Ack { .. }
            | Frame::Filling { .. }
            | Frame::Digests { .. }
            | Frame::Unpacks
            | Frame::Compares
            | Frame::Checked { .. } => {
                return Err("it sends what only a replica sends".into());
            }
        }
        Ok(())
    }

    fn apply(&mut self, engine: &mut Engine, bytes: &[u8]) -> Result<(), String> {
        self.bytes += bytes.len() as u64;
        // What has expired by our clock is hidden from clients, but here the main's word alone counts.
        engine.store.applying = true;
        let mut done = Ok(());
        let (mut batch, mut found): (SmallVec<[_; AHEAD]>, _) = (SmallVec::new(), std::mem::take(&mut self.found));
        let mut coming = records(bytes);
        while done.is_ok() {
            batch.clear();
            while batch.len() < AHEAD
                && let Some(record) = coming.next()
            {
                match record {
                    // What we follow no more may still come until the main has heard of it.
                    Ok(record) if !record.concerns(&self.slots) => {}
                    Ok(record) => {
                        if record.slot == EVERY_SLOT && matches!(record.kind, Kind::Flush | Kind::Swap) {
                            // It is done to those that have left the stream as well, and not to be done twice.
                            self.parted = None;
                        }
                        batch.push(record);
                    }
                    Err(garbage) => {
                        done = Err(garbage.to_string());
                        break;
                    }
                }
            }
            if batch.is_empty() {
                break;
            }
            look_ahead(engine, &batch, &mut found);
            let before = self.apply_batch(engine, &batch, &found);
            done = before.map_err(|failure| failure.to_string()).and(done);
        }
        self.found = found;
        engine.store.applying = false;
        if done.is_err() {
            // What came before it is applied. To go on from the last number would apply that twice.
            self.begin_anew();
        }
        done
    }

    fn apply_batch(&mut self, engine: &mut Engine, batch: &[Record<'_>], found: &[Whereabouts]) -> Result<(), Failure> {
        for (record, &at) in batch.iter().zip(found) {
            if let Some(arriving) = &mut self.arriving {
                arriving.note(record)?;
            }
            engine.store.expect(at);
            let done = self.applier.apply(engine, record, Some(&self.slots));
            engine.store.expect(Whereabouts::default());
            done?;
        }
        Ok(())
    }

    /// The main does not have these any more.
    fn remove_others(
        &mut self,
        engine: &mut Engine,
        slot: u16,
        came: &HashSet<u64, foldhash::fast::RandomState>,
    ) -> Result<(), String> {
        for database in 0..DATABASES as u8 {
            let entries = engine.store.entries_of_slot(database, slot);
            let keys = entries.map(|handle| engine.store.key_of(handle));
            let others = keys.filter(|key| !came.contains(&came.hasher().hash_one((database, &key[..]))));
            for key in others.map(<[u8]>::to_vec).collect::<Vec<_>>() {
                self.applier.remove(engine, database, &key);
            }
        }
        Ok(())
    }

    /// What is to be said now: digests as long as there are any to be told, and what we have applied.
    pub fn say(&mut self, engine: &Engine, out: &mut Vec<u8>, now_ms: u64) {
        if !self.begun {
            return;
        }
        if !self.unsaid.is_empty() {
            Frame::Drops { slots: &frames::of_slots(&self.unsaid) }.write(out);
            // What we want of them later, or already, we tell by ourselves.
            self.offered.add(&self.unsaid);
            self.telling.add(&self.unsaid.common(&self.lacking));
            self.unsaid = SlotSet::default();
        }
        if std::mem::take(&mut self.unpacks) {
            Frame::Unpacks.write(out);
        }
        if std::mem::take(&mut self.compares) {
            Frame::Compares.write(out);
        }
        for (number, digest) in self.answers.drain(..) {
            Frame::Checked { number, has: digest.is_some(), digest: digest.unwrap_or(0) }.write(out);
        }
        if !self.telling.is_empty() {
            self.tell_digests(engine, out);
        }
        let clock = self.clock;
        let said = match self.whole {
            true if self.completed == 0 || !self.reports => Frame::Ack { seq: self.seq, clock },
            _ if self.reports => Frame::Filling { copied: self.completed, seq: self.applied, clock },
            // Nothing is acknowledged, but that we are here.
            _ => Frame::Ack { seq: 0, clock },
        };
        said.write(out);
        self.promised = now_ms;
    }

    /// Whether there is more to be told at once.
    pub fn hurries(&self) -> bool {
        self.token.is_some() && !(self.telling.is_empty() && self.unsaid.is_empty())
    }

    fn tell_digests(&mut self, engine: &Engine, out: &mut Vec<u8>) {
        let at = frames::begin(out, frames::DIGESTS);
        let (mut told, mut entries) = (0, 0);
        while let Some(number) = self.telling.next(0)
            && told < DIGESTS_IN_A_TURN
            && entries < ENTRIES_IN_A_TURN
        {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&super::digest::of_slot(&engine.store, number).to_le_bytes());
            told += 1;
            entries += engine.store.len_of_slot(number);
            self.telling.remove(number);
        }
        frames::finish(out, at);
    }

    /// Whether our slots can become these while the main's connection stays. Not when we are the main of any from now
    /// on: then it must get no acknowledgement any more, whatever it believes.
    pub fn may_become(&self, slots: &SlotSet, own: &SlotSet) -> bool {
        let gone = self.slots.without(slots).without(&self.released);
        self.token.is_none() || gone.common(own).is_empty()
    }

    /// Whether it may stay connected though we are to follow nothing of its main any more.
    pub fn outlives(&self, own: &SlotSet) -> bool {
        self.token.is_some() && !self.slots.is_empty() && self.may_become(&SlotSet::default(), own)
    }

    /// See `may_become`.
    pub fn released(&self) -> &SlotSet {
        &self.released
    }

    /// Take over what another stream from the same main has brought of these slots.
    pub fn go_on_from(&mut self, brought: &Brought) {
        self.lacking = self.slots.without(&brought.slots);
        self.based = self.lacking != self.slots;
        self.whole = self.lacking.is_empty();
        (self.run, self.seq) = (brought.run.clone(), brought.seq);
    }

    /// What has come over this stream: of the slots that it has, and of those that left it last. The latter are told
    /// once: another stream may bring more of them from now on.
    pub fn brought(&mut self) -> Vec<Brought> {
        let here = self.here().map(|slots| (slots, self.seq));
        let each = here.into_iter().chain(self.parted.take());
        each.map(|(slots, seq)| Brought { slots, run: self.run.clone(), seq }).collect()
    }

    /// Our slots are these from now on.
    pub fn resize(&mut self, slots: SlotSet) {
        let (fresh, gone) = (slots.without(&self.slots), self.slots.without(&slots));
        // Until the main has heard of it, it must not count on us for what we keep up to date no more.
        self.unsaid.add(&gone.without(&self.released));
        self.released.subtract(&fresh);
        self.lacking.subtract(&gone);
        self.telling.subtract(&gone);
        if self.based {
            self.lacking.add(&fresh);
            self.telling.add(&fresh.common(&self.offered));
            self.whole = self.lacking.is_empty();
        } else if self.token.is_some() {
            // It is being filled: these are filled with the others, once the main knows of them.
            self.lacking.add(&fresh);
            self.telling.add(&fresh.common(&self.offered));
        }
        self.slots = slots;
    }

    /// What to go on from: slots that are here, the main's run, and the record up to which they are.
    pub fn here(&self) -> Option<SlotSet> {
        self.based.then(|| self.slots.without(&self.lacking)).filter(|here| !here.is_empty())
    }

    /// The main cannot go on from there: everything is copied anew.
    pub fn begin_anew(&mut self) {
        self.parted = None;
        (self.based, self.whole, self.lacking) = (false, false, SlotSet::default());
    }

    /// The connection is lost: when to try again.
    pub fn lost(&mut self, now_ms: u64) {
        self.token = None;
        self.begun = false;
        self.unsaid = SlotSet::default();
        self.telling = SlotSet::default();
        self.answers.clear();
        self.arriving = None;
        self.applier.abandon_group();
        self.failures += 1;
        self.retry_at = now_ms + (25 << self.failures.min(6));
    }

    /// The run of the main's process whose data we hold, and up to which record; nothing while they are not whole.
    pub fn held(&self) -> Option<(&str, u64)> {
        let life = self.run.split_once('/').map_or("", |(life, _)| life);
        self.based.then_some((life, self.seq))
    }

    /// The state in a word.
    pub fn state(&self) -> &'static str {
        match (self.token, self.greeted) {
            (Some(_), Greeting::Streams) if self.based => "streaming",
            (Some(_), Greeting::Streams) => "copying",
            _ => "connecting",
        }
    }
}
