//! Copies of slots on other nodes: who follows whom, as the topology says, and how far each is.
//!
//! A node that holds copies connects to the mains ([`sink`]) and brings in what they send ([`source`], in frames of
//! [`frames`]). Nothing here opens sockets or reads a clock: `server/links.rs` does, once in every turn of the loop.
//! [`reconcile`] is what a new topology comes to. It is also the fence: a replica that is promoted drops its stream
//! before it answers whoever brought the topology, so its former main gets no acknowledgement any more.

pub mod compare;
#[cfg(test)]
mod compare_tests;
pub mod digest;
pub mod frames;
pub mod moves;
#[cfg(test)]
mod moves_among_copies_tests;
#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod resize_tests;
pub mod sink;
pub mod source;
pub mod strict;
#[cfg(test)]
mod tests;
pub mod told;

pub use sink::Sink;
pub use source::Source;

use crate::command::Engine;
use crate::command::client::Token;
use crate::command::cluster::Membership;
use crate::command::fault::Fault;
use crate::store::Store;
use crate::stream::SlotSet;
use crate::topology::document::Node;
use moves::{Moves, Moving};
use sink::Brought;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// How long a main may answer reads after the clock that a replica has sent back, ms; and how long one that is promoted
/// waits after its last acknowledgement before it serves.
pub const LEASE_MS: u64 = 500;
/// A stream over which nothing came for so long is cut.
pub const SILENCE_MS: u64 = 2000;

/// The end of the refusal of a question about slots that are not owed.
pub const OTHER_SLOTS: &str = "the topology gives that node other slots of this one";

/// What a connection is, when it is no client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A replica reads from it.
    Source,
    /// We read from a main.
    Sink,
}

/// Everything that concerns streams.
#[derive(Default)]
pub struct Replication {
    /// Those who get slots from us.
    pub sources: Vec<Source>,
    /// Those from whom we get slots.
    pub sinks: Vec<Sink>,
    /// What happened so far.
    pub counts: Counts,
    /// Slots that are handed over, to us or by us.
    pub moves: Moves,
    /// Whether any replica lacks a write that is older than may be; looked at once in every turn.
    pub late: bool,
    /// Slots that somebody waits for while a replica is being filled: they are copied first.
    pub wanted: RefCell<Vec<u16>>,
    /// How fast moves may copy, and what is left of it.
    pub pace: moves::Pace,
    /// Keys whose copies are being compared with what we have.
    pub comparing: compare::Comparing,
    /// Slots that were ours or copied here, and are neither any more: what they hold is dropped bit by bit.
    stray: SlotSet,
    /// Replicas in sync, as the topology says, that are not connected.
    absent: Vec<Absent>,
    listens: bool,
    /// When we last acknowledged anything to a main over a stream that has ended, ms of the steady clock.
    promised: BTreeMap<String, u64>,
    /// Slots whose main we became not long ago, and until when their replicas may be on their way to us, ms of the steady
    /// clock.
    taken_over: Option<(u64, SlotSet)>,
}

/// What the replicas of a slot that was taken over have to find their new main and to get the slot confirmed, ms. Until
/// then strict writes are run and answered when they are confirmed; afterwards they are refused.
const ARRIVAL_MS: u64 = 500;

/// A replica that should be connected: what it had, and since when it lacks something, ms of the steady clock.
struct Absent {
    peer: String,
    acked: u64,
    since: Option<u64>,
}

impl Replication {
    /// A stream ends: what was promised over it holds all the same.
    fn note_promise(&mut self, sink: &Sink) {
        let promised = self.promised.entry(sink.main.clone()).or_default();
        *promised = sink.promised.max(*promised);
    }

    /// Whether the replicas of a slot may not have found us yet: we became its main a moment ago.
    pub fn just_took(&self, slot: u16, now: u64) -> bool {
        self.taken_over.as_ref().is_some_and(|(until, slots)| now < *until && slots.contains(slot))
    }

    /// How long the oldest write has been waiting that an absent replica lacks.
    pub fn absent_ms(&self, peer: &str, now: u64) -> u64 {
        let since = self.absent.iter().find(|absent| absent.peer == peer).and_then(|absent| absent.since);
        since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Note which writes replicas lack now, and whether any is older than `bound` ms (zero for no bound).
    pub fn note_lag(&mut self, seq: u64, now: u64, bound: u64) {
        for absent in &mut self.absent {
            if absent.since.is_none() && seq > absent.acked {
                absent.since = Some(now);
            }
        }
        let absent = self.absent.iter().filter_map(|absent| absent.since.map(|since| now.saturating_sub(since)));
        let connected = self.sources.iter().map(|source| source.lag_ms(now));
        // While a replica is being filled, each slot is looked at.
        let filling = self.sources.iter().any(|source| !source.settled() && source.moves.is_empty());
        self.late = bound > 0 && (filling || absent.chain(connected).any(|lag| lag > bound));
        for slot in std::mem::take(self.wanted.get_mut()) {
            self.sources.iter_mut().for_each(|source| source.hurry(slot));
        }
    }

    /// The stream by which a node gets a slot from us.
    pub fn source_of(&self, peer: &str, slot: u16) -> Option<&Source> {
        self.sources.iter().find(|source| source.peer == peer && source.slots.contains(slot))
    }

    /// Whether there are slots to be dropped.
    pub fn has_stray(&self) -> bool {
        !self.stray.is_empty()
    }
}

/// Counters that only rise.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Streams that began with a copy of all slots.
    pub full: u64,
    /// Streams that went on where they were.
    pub partial: u64,
    /// Streams cut because the replica was too slow for the records that are kept.
    pub shed: u64,
    /// Streams that ended by an error or by silence.
    pub broken: u64,
    /// Writes that no replica had when this node lost their slots.
    pub lost_writes: u64,
    /// Answers of copies about a key or a slot; those that were not what we have; those that were once it was sent anew.
    pub compared: u64,
    /// See `compared`.
    pub differed: u64,
    /// See `compared`.
    pub repaired: u64,
}

/// Slots that the node at `peer` is to get from us, as a copy or by the move that is named.
fn owed(membership: &Membership, peer: u16, id: &str) -> SlotSet {
    if !id.is_empty() {
        let ours = |one: &&Moving| one.id == id && one.peer == peer && !one.incoming;
        return membership.moves.iter().find(ours).map(|one| one.slots.clone()).unwrap_or_default();
    }
    if !membership.replicates() {
        return SlotSet::default();
    }
    let mut owed: SlotSet = membership.own.iter().filter(|&slot| membership.copies(slot, peer)).collect();
    // What moves to it is in the stream of the move. What it has given us it is to get as any replica.
    let given = membership.moves.iter().filter(|one| !one.incoming && one.peer == peer);
    given.for_each(|one| owed.subtract(&one.slots));
    owed
}

/// By main and move, the slots that we are to get; an empty name stands for copies.
fn wanted(membership: &Membership) -> BTreeMap<(u16, String), SlotSet> {
    let mut wanted: BTreeMap<(u16, String), SlotSet> = BTreeMap::new();
    for one in membership.moves.iter().filter(|one| one.incoming) {
        wanted.insert((one.peer, one.id.clone()), one.slots.clone());
    }
    let Some(me) = membership.me.filter(|_| membership.replicates() && membership.in_force) else { return wanted };
    for slot in 0..crate::slot::SLOT_COUNT {
        let main = membership.document.main(slot);
        if main != me && main != crate::topology::NOBODY && membership.copies(slot, me) {
            wanted.entry((main, String::new())).or_default().insert(slot);
        }
    }
    for one in membership.moves.iter().filter(|one| one.incoming && !one.flipped) {
        if let Some(slots) = wanted.get_mut(&(one.peer, String::new())) {
            slots.subtract(&one.slots);
        }
    }
    wanted.retain(|_, slots| !slots.is_empty());
    wanted
}

/// Begin and end streams as the topology in force says. `relieved` is a main of before that is known to obey it, too: by what
/// it was promised it answers nothing any more.
pub fn reconcile(engine: &mut Engine, before: Option<&Membership>, relieved: Option<&str>) {
    let Some(membership) = engine.membership.take() else { return };
    let mut replication = engine.replication.take().unwrap_or_default();
    let mut ended: Vec<Token> = Vec::new();

    let mut taken = SlotSet::default();
    // What a main that knows of it has given us: nobody else answers for it, but its other replicas have to find us, too.
    let mut given_up = SlotSet::default();
    let mut wanted = wanted(&membership);
    // What we gave up is kept until the move is over.
    let given = membership.moves.iter().filter(|one| one.flipped && !one.incoming).flat_map(|one| one.slots.iter());
    let passive: SlotSet =
        wanted.values().flat_map(SlotSet::iter).filter(|&slot| !membership.own.contains(slot)).chain(given).collect();
    replication.moves.reconcile(before, &membership, engine.tail.seq());
    let name = |index: u16| membership.document.nodes()[usize::from(index)].id.clone();
    let mut kept = Vec::new();
    // What was promised over one stream holds for slots that go to another one.
    let mut promises: BTreeMap<String, u64> = BTreeMap::new();
    // What a copy has of slots is good for the stream of their move to go on from.
    let mut brought: BTreeMap<String, Vec<Brought>> = BTreeMap::new();
    for mut sink in std::mem::take(&mut replication.sinks) {
        let promise = promises.entry(sink.main.clone()).or_default();
        *promise = sink.promised.max(*promise);
        let came = sink.brought();
        if sink.moves.is_empty() {
            brought.entry(sink.main.clone()).or_default().extend(came.iter().cloned());
        }
        let main = membership.document.index_of(&sink.main);
        let mut slots = main.and_then(|main| wanted.remove(&(main, sink.moves.clone())));
        let nothing = SlotSet::default();
        let copies = sink.moves.is_empty() && membership.in_force && membership.replicates();
        if slots.is_none() && copies && main.is_some() && sink.outlives(&membership.own) {
            // It is for the main to end it: until it has heard, writes to what is gone wait, and are not refused.
            slots = Some(nothing);
        }
        match slots {
            _ if !sink.moves.is_empty() && slots.is_none() => {
                ended.extend(sink.token.take());
                if !sink.over && membership.replicates() {
                    // Who gave them is gone or silent, and may be answering reads still.
                    taken.add(&sink.slots.common(&membership.own));
                    replication.note_promise(&sink);
                }
            }
            Some(slots) if slots == sink.slots => kept.push(sink),
            Some(slots) if sink.moves.is_empty() && sink.may_become(&slots, &membership.own) => {
                let ours = sink.slots.without(&slots).common(&membership.own);
                let unsaid = ours.without(sink.released());
                given_up.add(&ours.common(sink.released()));
                if !unsaid.is_empty() {
                    taken.add(&unsaid);
                    replication.note_promise(&sink);
                }
                sink.resize(slots);
                kept.push(sink);
            }
            other => {
                ended.extend(sink.token.take());
                sink.slots.iter().filter(|&slot| membership.own.contains(slot)).for_each(|slot| taken.insert(slot));
                replication.note_promise(&sink);
                if let Some(slots) = other {
                    let mut next = Sink::new(&sink.main, &sink.moves, slots);
                    came.first().inspect(|came| next.go_on_from(came));
                    kept.push(next);
                }
            }
        }
    }
    for ((main, moves), slots) in wanted {
        let mut fresh = Sink::new(&name(main), &moves, slots);
        fresh.promised = promises.get(&fresh.main).copied().unwrap_or(0);
        let came = brought.get(&fresh.main).filter(|_| !moves.is_empty()).into_iter().flatten();
        if let Some(all) = came.into_iter().find(|came| fresh.slots.within(&came.slots)) {
            fresh.go_on_from(all);
        }
        kept.push(fresh);
    }
    replication.sinks = kept;

    let mut sources = Vec::new();
    for mut source in std::mem::take(&mut replication.sources) {
        let peer = membership.document.index_of(&source.peer);
        let slots = peer.map(|peer| owed(&membership, peer, &source.moves)).unwrap_or_default();
        let same = slots == source.slots;
        if same || (source.moves.is_empty() && !slots.is_empty()) {
            if !same {
                if let Some(before) = before {
                    replication.counts.lost_writes += lost(engine, before, &membership, &source);
                }
                source.resize(slots, &mut engine.tail);
            }
            let handed = replication.moves.hands_over(&source.moves);
            source.hands_over = handed.then(|| source.hands_over.unwrap_or(engine.tail.seq()));
            sources.push(source);
            continue;
        }
        if let Some(before) = before.filter(|_| source.moves.is_empty()) {
            replication.counts.lost_writes += lost(engine, before, &membership, &source);
        }
        source.leave(&mut engine.tail);
        ended.push(source.token);
    }
    replication.sources = sources;

    let gives = membership.moves.iter().any(|one| !one.incoming);
    let listens = gives
        || membership.replicates()
            && membership.own.iter().any(|slot| {
                !membership.document.replicas_of(slot).is_empty() || !membership.document.learners_of(slot).is_empty()
            });
    if listens && !replication.listens {
        engine.listen();
        engine.tail.track_slots();
    } else if !listens && replication.listens {
        engine.stop_listening();
    }
    replication.listens = listens;
    // Whatever is not our own is neither counted nor judged here. What is nobody's business any more goes; but what a
    // process brought along into a new run may still be wanted: the health service decides that.
    replication.stray = match membership.in_force && membership.replicates() {
        true => slots_in_use(&engine.store)
            .filter(|&slot| !membership.own.contains(slot) && !passive.contains(slot))
            .collect(),
        // Without copies only what moved away is nobody's business.
        false => before
            .map_or(&[][..], |before| &before.moves)
            .iter()
            .flat_map(|one| one.slots.iter())
            .chain(replication.stray.iter())
            .filter(|&slot| membership.in_force && !membership.own.contains(slot) && !passive.contains(slot))
            .collect(),
    };
    let others = (0..crate::slot::SLOT_COUNT).filter(|&slot| !membership.own.contains(slot));
    let held = !(passive.is_empty() && replication.stray.is_empty());
    engine.store.passive = held.then(|| Box::new(others.collect()));
    let seq = engine.tail.seq();
    let peers: std::collections::BTreeSet<u16> =
        membership.own.iter().flat_map(|slot| membership.document.replicas_of(slot).iter().copied()).collect();
    let names: Vec<String> = peers.into_iter().map(name).collect();
    replication.absent.retain(|absent| names.contains(&absent.peer));
    for peer in names {
        let known = replication.sources.iter().any(|source| source.peer == peer && source.moves.is_empty())
            || replication.absent.iter().any(|absent| absent.peer == peer);
        if !known {
            replication.absent.push(Absent { peer, acked: seq, since: None });
        }
    }
    let newest = replication.promised.values().copied().max().unwrap_or(0);
    replication.promised.retain(|_, at| newest < *at + 100 * LEASE_MS);
    let believing = replication.promised.iter().filter(|(main, _)| Some(main.as_str()) != relieved);
    let promised = believing.map(|(_, at)| *at).max().unwrap_or(0);
    let serves_at = promised + LEASE_MS + LEASE_MS / 20;
    if !taken.is_empty() || !given_up.is_empty() {
        let now = crate::command::replicate::steady_ms();
        let (earlier, mut slots) = replication.taken_over.take().filter(|(until, _)| now < *until).unwrap_or_default();
        slots.add(&taken);
        slots.add(&given_up);
        let begins = if taken.is_empty() { now } else { serves_at.max(now) };
        replication.taken_over = Some((earlier.max(begins + ARRIVAL_MS), slots));
    }
    if membership.replicates() || held || !membership.moves.is_empty() || !replication.moves.is_empty() {
        engine.replication = Some(replication);
    }
    if promised > 0 && !taken.is_empty() {
        // Whoever was their main may be answering reads by what we promised.
        engine.wait_before_serving(serves_at, taken);
    }
    engine.membership = Some(membership);
    moves::open(engine, crate::command::replicate::steady_ms());
    for token in ended {
        if let Some(client) = engine.clients.get_mut(token) {
            client.stream = None;
        }
        engine.kill(token);
    }
}

/// Slots that hold anything.
fn slots_in_use(store: &Store) -> impl Iterator<Item = u16> + '_ {
    (0..crate::slot::SLOT_COUNT).filter(|&slot| store.len_of_slot(slot) > 0)
}

/// Drop some of what was left behind in slots that went elsewhere.
pub fn drop_stray(engine: &mut Engine) {
    let Some(replication) = &mut engine.replication else { return };
    let mut dropped = 0;
    while dropped < 500
        && let Some(slot) = replication.stray.next(0)
    {
        replication.stray.remove(slot);
        dropped += 1 + engine.store.flush_slot(None, slot);
    }
}

/// Writes to slots that went to the peer of a stream which it never got.
fn lost(engine: &Engine, before: &Membership, now: &Membership, source: &Source) -> u64 {
    let Some(peer) = now.document.index_of(&source.peer) else { return 0 };
    let gone: SlotSet =
        source.slots.iter().filter(|&slot| before.own.contains(slot) && now.document.main(slot) == peer).collect();
    let Some(mut cursor) = engine.tail.at(source.reached() + 1) else { return 0 };
    let mut count = 0;
    while let Ok(Some(record)) = engine.tail.next(&mut cursor) {
        count +=
            u64::from(gone.contains(record.slot % crate::slot::SLOT_COUNT) && record.slot < crate::slot::SLOT_COUNT);
    }
    count
}

/// What numbers of records mean something within: the life of the process, and the time since which they are kept. The
/// third part says what we understand besides ([`frames::Frame::Filling`], `z` for [`frames::Frame::Unpacks`], `c` for
/// [`frames::Frame::Compares`] with the sums of [`digest`]): to a node of an older release it is part of the name.
pub fn run_of(engine: &Engine) -> String {
    format!("{}/{:x}/fzc", engine.run_id, engine.tail.run())
}

/// What a replica asks for.
pub struct Question<'a> {
    /// The cluster it belongs to.
    pub cluster: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// Its name.
    pub node: &'a str,
    /// Slots, as text.
    pub ranges: &'a str,
    /// The run it knows.
    pub run: &'a str,
    /// The last record of that run it has.
    pub seq: u64,
    /// The move it is about; empty for copies.
    pub moves: &'a str,
}

/// Begin a stream to a replica that asks for one; returns what is to be sent first.
pub fn admit(engine: &mut Engine, token: Token, question: &Question<'_>, now: u64) -> Result<Vec<u8>, Fault> {
    let membership = engine.membership.as_ref().ok_or(Fault::CLUSTER_OFF)?;
    let ours = membership.document.epoch;
    if membership.document.cluster.id != question.cluster {
        return Err(Fault::new("ERR this node belongs to another cluster"));
    }
    if question.epoch < ours {
        return Err(Fault::new(format!("STALE epoch {} is older than {ours}", question.epoch)));
    }
    if question.epoch > ours {
        return Err(Fault::new(format!("TRYAGAIN this node knows only epoch {ours}")));
    }
    let slots: SlotSet = crate::topology::ranges::from_text(question.ranges)
        .map_err(|error| Fault::new(format!("ERR {error}")))?
        .into_iter()
        .collect();
    let peer = membership.document.index_of(question.node);
    let owed = peer.map(|peer| owed(membership, peer, question.moves)).unwrap_or_default();
    let partly = question.moves.is_empty() && slots.within(&owed);
    if slots.is_empty() || slots != owed && !partly {
        return Err(Fault::new(format!("TRYAGAIN {OTHER_SLOTS}")));
    }
    let resumed = engine.tail.at(question.seq + 1).filter(|_| run_of(engine) == question.run);
    let whole = resumed.is_none();
    let flipped = membership.moves.iter().any(|one| one.flipped && one.id == question.moves);
    if flipped {
        let none = Moves::default();
        engine.replication.as_ref().map_or(&none, |replication| &replication.moves).admit(question.moves, whole)?;
    }
    let cursor = resumed.unwrap_or_else(|| engine.tail.end());
    let run = run_of(engine);
    let mut source = Source::new(question.node, token, if whole { owed.clone() } else { slots }, cursor, !whole, now);
    let replication = engine.replication.get_or_insert_default();
    if !whole && source.slots != owed {
        source.resize(owed, &mut engine.tail);
    }
    source.withhold(&replication.moves.due);
    question.moves.clone_into(&mut source.moves);
    source.hands_over = replication.moves.hands_over(question.moves).then(|| engine.tail.seq());
    if whole {
        replication.counts.full += 1
    } else {
        replication.counts.partial += 1
    }
    let same = |source: &Source| source.peer == question.node && source.moves == question.moves;
    let old = replication.sources.iter().position(same);
    let old = old.map(|at| replication.sources.swap_remove(at));
    replication.sources.push(source);
    replication.absent.retain(|absent| absent.peer != question.node || !question.moves.is_empty());
    if let Some(mut old) = old {
        old.leave(&mut engine.tail);
        engine.kill(old.token);
    }
    let mut first = b"+STREAM\r\n".to_vec();
    frames::Frame::Start { run: run.as_bytes(), seq: cursor.seq - 1, whole }.write(&mut first);
    let libraries = if whole { engine.scripting.libraries.records(engine.store.now()) } else { Vec::new() };
    if !libraries.is_empty() {
        // They belong to no slot that could be copied.
        frames::Frame::Tail { seq: cursor.seq - 1, clock: 0, records: &libraries }.write(&mut first);
    }
    Ok(first)
}

/// A connection that was a stream's is gone.
pub fn gone(engine: &mut Engine, token: Token, role: Role, now: u64) {
    let Some(replication) = &mut engine.replication else { return };
    match role {
        Role::Source => {
            if let Some(at) = replication.sources.iter().position(|source| source.token == token) {
                let mut source = replication.sources.swap_remove(at);
                source.leave(&mut engine.tail);
                let since = (source.lag_ms(now) > 0).then(|| now - source.lag_ms(now));
                if source.moves.is_empty() {
                    let acked = source.reached();
                    replication.absent.push(Absent { peer: source.peer, acked, since });
                }
                replication.counts.broken += 1;
            }
        }
        Role::Sink => {
            if let Some(sink) = replication.sinks.iter_mut().find(|sink| sink.token == Some(token)) {
                sink.lost(now);
                replication.counts.broken += 1;
                replication.sinks.retain(|sink| !sink.slots.is_empty());
            }
        }
    }
}

/// The question with which a sink begins, the password in front of it.
pub fn question(membership: &Membership, sink: &Sink, id: &str, password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut say = |words: &[&[u8]]| {
        out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
    };
    if !password.is_empty() {
        say(&[b"AUTH", password.as_bytes()]);
    }
    let here = sink.here();
    let (run, seq) = if here.is_some() { (sink.run.as_str(), sink.seq) } else { ("none", 0) };
    let (epoch, seq) = (membership.document.epoch.to_string(), seq.to_string());
    let ranges = crate::topology::ranges::to_text(here.as_ref().unwrap_or(&sink.slots).iter());
    let words: [&[u8]; 9] = [
        b"FASTCACHE",
        b"STREAM",
        membership.document.cluster.id.as_bytes(),
        epoch.as_bytes(),
        id.as_bytes(),
        ranges.as_bytes(),
        run.as_bytes(),
        seq.as_bytes(),
        sink.moves.as_bytes(),
    ];
    say(if sink.moves.is_empty() { &words[..8] } else { &words });
    out
}

/// The node a sink connects to.
pub fn main_of<'m>(membership: &'m Membership, sink: &Sink) -> Option<&'m Node> {
    membership.document.index_of(&sink.main).map(|index| &membership.document.nodes()[usize::from(index)])
}
