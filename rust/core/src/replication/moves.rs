//! Slots that move from one node to another: a stream like that of a replica, which ends in a handing over.
//!
//! While a move is `copying` its taker is filled and follows, and its giver serves. A topology in which it is `flipped`
//! makes the taker the main. The giver serves the slots no more from the moment it obeys, sends what is left, and once
//! all is acknowledged one frame ([`Frame::Final`](super::frames::Frame::Final)). The taker holds requests for these
//! slots until that frame is there. So there is no moment with two who serve, and no write that the taker lacks; nobody
//! else is asked meanwhile. The giver keeps its copy until the move has left the topology. Until it has sent the last
//! frame it can be told to keep the slots ([`keep`]); then it may become the main again, and nobody has served them since.

use super::{Replication, Source};
use crate::command::Engine;
use crate::command::cluster::Membership;
use crate::command::fault::{Done, Fault};
use crate::resp::Reply;
use crate::stream::SlotSet;
use crate::topology::document::Document;
use std::collections::BTreeMap;

/// One move of the topology that is ours to give or to take.
#[derive(Clone, PartialEq, Eq)]
pub struct Moving {
    /// Its name.
    pub id: String,
    /// The other node.
    pub peer: u16,
    /// What moves.
    pub slots: SlotSet,
    /// Whether we take it; else we give it.
    pub incoming: bool,
    /// Whether the giver acknowledges nothing that the taker does not have (with replication).
    pub joined: bool,
    /// Whether the slots are the taker's already.
    pub flipped: bool,
}

/// The moves of a topology that a node takes part in. Those with a node that has left are nobody's.
pub fn of(document: &Document, me: u16) -> Vec<Moving> {
    let each = document.moves.iter().filter_map(|one| {
        let (from, to) = (document.index_of(&one.from)?, document.index_of(&one.to)?);
        if from == to || (from != me && to != me) {
            return None;
        }
        let slots: SlotSet = crate::topology::ranges::from_text(&one.ranges).ok()?.into_iter().collect();
        let incoming = to == me;
        let flipped = one.state == FLIPPED;
        let main = if flipped { to } else { from };
        let peer = if incoming { from } else { to };
        let holds = slots.iter().all(|slot| document.main(slot) == main);
        let joined = one.state == JOINED;
        holds.then(|| Moving { id: one.id.clone(), peer, slots, incoming, joined, flipped })
    });
    each.collect()
}

/// The state of a move whose taker the giver waits for, as for a replica.
pub const JOINED: &str = "joined";
/// The state of a move whose slots are the taker's.
pub const FLIPPED: &str = "flipped";

/// How far this node is with moves; it is forgotten with the process.
#[derive(Default)]
pub struct Moves {
    /// Moves whose slots we gave up in this life, and how far each is.
    given: BTreeMap<String, Given>,
    /// Moves that are over for us as the taker: their slots are served here.
    taken: BTreeMap<String, Taken>,
    /// Of moves that have joined: what was written before the giver began to wait for the taker.
    floors: BTreeMap<String, u64>,
    /// Slots of which their giver may still send something: nothing of them is copied to others before.
    pub(super) due: SlotSet,
}

/// How fast the copies of moves may be sent, so that those who ask for something else are served: bytes in a second, as
/// somebody has ordered, and while clients ask a small part of the time, in small pieces.
#[derive(Default)]
pub struct Pace {
    /// Zero for no limit.
    pub bytes_a_second: u64,
    /// What may be sent now; more than a tenth of a second's is not saved up.
    left: i64,
    /// When that was worked out, us of the steady clock.
    at: u64,
    /// Requests that had been served when they were last counted, and when that was, us.
    counted: (u64, u64),
    /// Whether clients ask for so much that copies give way.
    busy: bool,
    /// Until when nothing is copied, us.
    rests_until: u64,
}

impl Pace {
    /// Share what may be copied now out to the moves that copy. `served`: requests, since the process began.
    pub fn allow(&mut self, sources: &mut [Source], now: u64, served: u64) {
        let (before, counted_at) = self.counted;
        let passed = now.saturating_sub(counted_at);
        if counted_at == 0 {
            // Not known yet.
            (self.busy, self.counted) = (true, (served, now));
        } else if passed >= COUNTING_US {
            self.busy = served.saturating_sub(before).saturating_mul(1_000_000) / passed >= BUSY_REQUESTS;
            self.counted = (served, now);
        }
        let copies = |source: &Source| !source.moves.is_empty() && !source.whole;
        let mut set = |most: Option<i64>| {
            sources.iter_mut().filter(|source| copies(source)).for_each(|source| source.allowance = most);
        };
        if self.busy && now < self.rests_until {
            return set(Some(0));
        }
        if self.bytes_a_second == 0 {
            return set(self.busy.then_some(PIECE));
        }
        let fresh = u128::from(self.bytes_a_second) * u128::from(now.saturating_sub(self.at)) / 1_000_000;
        let most = (self.bytes_a_second / 10).max(1) as i64;
        self.left = self.left.saturating_add(i64::try_from(fresh).unwrap_or(most)).min(most);
        self.at = now;
        let among = sources.iter().filter(|source| copies(source)).count() as i64;
        for source in sources.iter_mut().filter(|source| copies(source)) {
            let share = self.left / among.max(1);
            source.allowance = Some(if self.busy { share.min(PIECE) } else { share });
        }
    }

    /// Take away what was copied since it was allowed, which began and ended then, us.
    pub fn spend(&mut self, allowed: i64, left: i64, began: u64, ended: u64) {
        if allowed == left {
            return;
        }
        if self.bytes_a_second != 0 {
            self.left -= allowed - left;
        }
        self.rests_until = ended + ended.saturating_sub(began) * RESTS;
    }
}

/// A node is busy with so many requests in a second, counted over so long, us. Who looks how moves get on asks less.
const BUSY_REQUESTS: u64 = 200;
const COUNTING_US: u64 = 50_000;
/// What a busy node copies at a time, bytes, and how many times as long it then copies nothing. Whoever gets the copies has
/// about as much to do with them.
const PIECE: i64 = 32 << 10;
const RESTS: u64 = 9;

/// A move of which everything has come.
struct Taken {
    /// When, ms of the steady clock.
    at: u64,
    /// Whether requests need not wait any more.
    open: bool,
}

/// So long the former main, now a replica, may take to say that it has everything, ms, before requests are let in. When
/// it has fallen, the topology says so before.
const OPENING_MS: u64 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// The taker may still lack something.
    Ours,
    /// We were told to keep it.
    Kept,
    /// The last frame is on its way.
    Sent,
    /// The taker has said that it has it.
    Arrived,
}

impl Moves {
    /// Adapt to another topology.
    pub(super) fn reconcile(&mut self, before: Option<&Membership>, now: &Membership, seq: u64) {
        let there = |id: &String, incoming: bool| {
            now.moves.iter().any(|one| one.id == *id && one.flipped && one.incoming == incoming)
        };
        self.given.retain(|id, _| there(id, false));
        self.taken.retain(|id, _| there(id, true));
        let joins = |one: &&Moving| one.joined && !one.incoming;
        self.floors.retain(|id, _| now.moves.iter().filter(joins).any(|one| one.id == *id));
        for one in now.moves.iter().filter(joins) {
            self.floors.entry(one.id.clone()).or_insert(seq);
        }
        for one in now.moves.iter().filter(|one| one.flipped && !one.incoming) {
            // What we did not have before we cannot give: we were restarted meanwhile.
            if before.is_some_and(|before| one.slots.iter().all(|slot| before.own.contains(slot))) {
                self.given.entry(one.id.clone()).or_insert(Given::Ours);
            }
        }
    }

    /// Whether the slots of a move are to be handed over to who streams it.
    pub(super) fn hands_over(&self, id: &str) -> bool {
        self.given.get(id).is_some_and(|given| *given != Given::Kept)
    }

    /// Whether a stream of a flipped move may begin, from where the taker was or with a copy of everything.
    pub(super) fn admit(&self, id: &str, whole: bool) -> Done {
        match self.given.get(id) {
            Some(Given::Ours) => Ok(()),
            Some(Given::Sent | Given::Arrived) if !whole => Ok(()),
            Some(Given::Kept) => Err(Fault::new("TRYAGAIN the slots of this move stay here")),
            _ => Err(Fault::new("GONE nothing more will come of this move")),
        }
    }

    /// Whether anything is to be remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty() && self.taken.is_empty() && self.floors.is_empty()
    }

    /// Slots that are ours by the topology, and whether requests for them may not be served yet; those without `open`
    /// whose giver may still send something.
    fn awaited(&self, membership: &Membership, open: bool) -> SlotSet {
        let due = |one: &&Moving| {
            let taken = self.taken.get(&one.id);
            one.flipped && one.incoming && taken.is_none_or(|taken| open && !taken.open)
        };
        membership.moves.iter().filter(due).flat_map(|one| one.slots.iter()).collect()
    }

    /// Whether anything that has come is not served yet.
    fn opens(&self) -> bool {
        self.taken.values().any(|taken| !taken.open)
    }

    /// How far a flipped move is, in a word.
    fn state(&self, one: &Moving) -> &'static str {
        match (one.incoming, self.given.get(&one.id)) {
            (true, _) if self.taken.get(&one.id).is_some_and(|taken| taken.open) => "open",
            (true, _) => "awaited",
            (false, None) => "gone",
            (false, Some(Given::Ours)) => "handing",
            (false, Some(Given::Kept)) => "kept",
            (false, Some(Given::Sent)) => "sent",
            (false, Some(Given::Arrived)) => "handed",
        }
    }
}

/// Note what has become of moves: what was sent, what came, what is open now. Once in every turn.
pub fn settle(engine: &mut Engine, now: u64) {
    let Some(replication) = &mut engine.replication else { return };
    let Replication { sources, sinks, moves, .. } = &mut **replication;
    for source in sources.iter().filter(|source| source.handed.is_some()) {
        if let Some(given) = moves.given.get_mut(&source.moves) {
            let arrived = source.handed.is_some_and(|seq| source.acked >= seq) || *given == Given::Arrived;
            *given = if arrived { Given::Arrived } else { Given::Sent };
        }
    }
    let fresh: Vec<String> = sinks
        .iter()
        .filter(|sink| sink.over && !moves.taken.contains_key(&sink.moves))
        .map(|s| s.moves.clone())
        .collect();
    if !fresh.is_empty() {
        moves.taken.extend(fresh.into_iter().map(|id| (id, Taken { at: now, open: false })));
        open(engine, now);
    } else if moves.opens() {
        open(engine, now);
    }
}

/// Whether the former main of a move's slots has all of them as a replica, if it is to.
fn secured(membership: &Membership, sources: &[Source], one: &Moving) -> bool {
    let name = &membership.document.nodes()[usize::from(one.peer)].id;
    let source = sources.iter().find(|source| source.peer == *name && source.moves.is_empty());
    one.slots.iter().all(|slot| {
        let waits = membership.replicates() && membership.document.replicas_of(slot).contains(&one.peer);
        !waits || source.is_some_and(|source| source.covers(slot))
    })
}

/// Have requests for slots wait that are still awaited, and serve those who waited for others.
pub fn open(engine: &mut Engine, now: u64) {
    let awaited = match (&engine.membership, &mut engine.replication) {
        (Some(membership), Some(replication)) => {
            let Replication { moves, sources, .. } = &mut **replication;
            for one in &membership.moves {
                if let Some(taken) = moves.taken.get_mut(&one.id) {
                    taken.open |= secured(membership, sources, one) || now > taken.at + OPENING_MS;
                }
            }
            let due = moves.awaited(membership, false);
            if due != moves.due {
                sources.iter_mut().for_each(|source| source.withhold(&due));
                moves.due = due;
            }
            moves.awaited(membership, true)
        }
        _ => SlotSet::default(),
    };
    let before = engine.awaited.take();
    if before.as_deref() == Some(&awaited) {
        engine.awaited = before;
        return;
    }
    let waited = before.is_some();
    engine.awaited = (!awaited.is_empty()).then(|| Box::new(awaited));
    if waited {
        engine.resume_held();
    }
}

/// FASTCACHE MOVE KEEP: do not hand the slots of a move over, unless that has happened.
pub fn keep(engine: &mut Engine, id: &str) -> Done {
    let none = || Fault::new("GONE this node does not hold the slots of that move");
    let replication = engine.replication.as_mut().ok_or_else(none)?;
    let given = replication.moves.given.get_mut(id).ok_or_else(none)?;
    match given {
        Given::Ours | Given::Kept => *given = Given::Kept,
        Given::Sent | Given::Arrived => return Err(Fault::new("SENT the slots of that move were handed over")),
    }
    replication.sources.iter_mut().filter(|source| source.moves == id).for_each(|source| source.hands_over = None);
    Ok(())
}

/// FASTCACHE MOVE PACE: how many bytes of copies moves may send in a second; zero for no limit.
pub fn pace(engine: &mut Engine, bytes_a_second: u64) {
    engine.replication.get_or_insert_default().pace.bytes_a_second = bytes_a_second;
}

/// FASTCACHE MOVES: a map for each move that this node takes part in.
pub fn tell(engine: &Engine, out: &mut Reply, now: u64) {
    let Some(membership) = &engine.membership else { return out.array(0) };
    let name = |index: u16| membership.document.nodes()[usize::from(index)].id.as_str();
    let nothing = Moves::default();
    let replication = engine.replication.as_deref();
    let moves = replication.map_or(&nothing, |replication| &replication.moves);
    out.array(membership.moves.len());
    for one in &membership.moves {
        let source = replication.and_then(|all| all.sources.iter().find(|source| source.moves == one.id));
        let sink = replication.and_then(|all| all.sinks.iter().find(|sink| sink.moves == one.id));
        let state = match (one.flipped, source, sink) {
            (true, _, _) => moves.state(one),
            (false, Some(source), _) if source.whole => {
                let floor = moves.floors.get(&one.id).filter(|_| one.joined);
                if floor.is_some_and(|&floor| source.acked >= floor) { "joined" } else { "streaming" }
            }
            (false, Some(_), _) => "copying",
            (false, None, Some(sink)) => sink.state(),
            (false, None, None) => "connecting",
        };
        let tail = engine.tail.seq();
        let acked = source.map_or(tail, |source| source.acked);
        let copied = source.map(|source| source.copied).or(sink.map(|sink| sink.copied));
        let bytes = source.map(|source| source.bytes).or(sink.map(|sink| sink.bytes));
        let keys: usize = one.slots.iter().map(|slot| engine.store.len_of_slot(slot)).sum();
        out.map(11);
        for (field, value) in
            [("move", one.id.as_str()), ("peer", name(one.peer)), ("direction", direction(one)), ("state", state)]
        {
            out.bulk(field.as_bytes());
            out.bulk(value.as_bytes());
        }
        for (field, value) in [
            ("lag-records", tail.saturating_sub(acked)),
            ("lag-ms", source.map_or(0, |source| source.lag_ms(now))),
            ("copied", copied.unwrap_or(0) as u64),
            ("total", one.slots.len() as u64),
            ("keys", keys as u64),
            ("bytes", bytes.unwrap_or(0)),
            ("requests", engine.stats.commands),
        ] {
            out.bulk(field.as_bytes());
            out.integer(value as i64);
        }
    }
}

fn direction(one: &Moving) -> &'static str {
    if one.incoming { "in" } else { "out" }
}
