//! Copies compared with what the main has, key by key, and made the same where they are not.
//!
//! A copy applies the main's records in the main's order. So a question that travels between them ([`Frame::Check`]) is
//! answered about the very moment at which the main put it: whatever is written before and after, an answer that differs
//! from the main's own digest of that moment is a fault, of memory, of a disk, of ours, and not a delay. What the main has is
//! then the newest, for a copy never has anything but what came from it; the key is sent anew in the same stream, asked for
//! once more, and the rest of its slot is looked at. Only where two or more copies agree with one another against their main
//! nothing is sent: which of them is wrong is then for people to say (docs/decisions/copies-compared.md).
//!
//! Who asks: strict reads, a few each second ([`Comparing::read`]), in packets that go anyway; and FASTCACHE COMPARE
//! ([`begin`]), at once. Nothing here opens sockets or reads a clock.
//!
//! [`Frame::Check`]: super::frames::Frame::Check

use super::source::Source;
use super::{Counts, Replication, digest};
use crate::command::client::{Client, Token};
use crate::command::settings::Name;
use crate::command::table::flag;
use crate::command::{Engine, blocking, dispatch};
use crate::persist::note::Notes;
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::store::Store;
use crate::stream::tail::{EVERY_DATABASE, Tail};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::hash::BuildHasher;

/// A copy that has not answered after so long is told to be away, ms.
pub const PATIENCE_MS: u64 = 1000;
/// The same key is not compared again for a read before so many ms have passed; neither is a slot after a repair.
const REST_MS: u64 = 10_000;
/// Keys and slots that were compared lately, about; and those that may be under way for reads.
const REMEMBERED: usize = 1024;
const MOST_OPEN: usize = 256;
/// Reads that are looked at between two refills of the budget, 100 ms apart: hot keys cost no more than that.
const LOOKS: u32 = 64;
/// A value with more bytes is compared only when somebody asks for it, a slot with more keys not at all.
const LARGEST: usize = 64 * 1024;
const LARGEST_SLOT: usize = 4000;

/// All comparisons under way, and what may be begun.
#[derive(Default)]
pub struct Comparing {
    open: Vec<Comparison>,
    numbers: u64,
    /// Thousandths of comparisons that reads may begin, and how many reads may be looked at.
    credit: u64,
    looks: u32,
    refilled: u64,
    /// By hash: what was compared last there, and when.
    recent: Vec<(u64, u64)>,
    hasher: foldhash::fast::RandomState,
    noted: Option<u64>,
}

/// A key, or a slot when the database is [`EVERY_DATABASE`], and how its copies are.
struct Comparison {
    number: u64,
    slot: u16,
    database: u8,
    key: Box<[u8]>,
    copies: SmallVec<[OneCopy; 2]>,
    /// Whether it is worth a packet of its own.
    urgent: bool,
    began: u64,
    /// The client that waits for it: where it is, and its number.
    waiting: Option<(Token, u64)>,
}

struct OneCopy {
    peer: String,
    token: Token,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked; `anew` once the key was sent to it again.
    Due {
        anew: bool,
    },
    /// Asked, when we had this.
    Asked {
        ours: u64,
        anew: bool,
    },
    /// Answered: what we had, what it had.
    Told {
        ours: u64,
        theirs: u64,
        anew: bool,
    },
    Ends(Verdict),
}

/// What is told of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has what the main has.
    Same,
    /// It had something else, and has it no more.
    Repaired,
    /// It has something else.
    Differs,
    /// It is not connected, or does not answer.
    Away,
    /// It does not have the slot in full yet.
    Copying,
    /// It is of a release that cannot be asked.
    Old,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Repaired => "repaired",
            Verdict::Differs => "differs",
            Verdict::Away => "away",
            Verdict::Copying => "copying",
            Verdict::Old => "old",
        }
    }
}

impl Comparing {
    /// Time has passed: reads may begin this many comparisons a second.
    pub fn refill(&mut self, rate: u64, now: u64) {
        let passed = now.saturating_sub(self.refilled);
        if passed >= 100 {
            (self.refilled, self.looks) = (now, LOOKS);
            self.credit = (self.credit + rate * passed.min(1000)).min(rate * 1000);
        }
    }

    /// Whether a read may be looked at: nearly nothing when it may not.
    #[inline]
    pub fn may_look(&self) -> bool {
        self.looks > 0 && self.credit >= 1000 && self.open.len() < MOST_OPEN
    }

    /// Whether something was compared within the last while; if not, it counts as compared now.
    fn lately(&mut self, what: (u8, u16, &[u8]), now: u64) -> bool {
        self.recent.resize(REMEMBERED, (0, 0));
        let hash = self.hasher.hash_one(what);
        let place = &mut self.recent[hash as usize % REMEMBERED];
        if place.0 == hash && now < place.1 + REST_MS {
            return true;
        }
        *place = (hash, now);
        false
    }

    fn add(
        &mut self,
        slot: u16,
        database: u8,
        key: &[u8],
        copies: SmallVec<[OneCopy; 2]>,
        now: u64,
    ) -> &mut Comparison {
        self.numbers += 1;
        let (number, key) = (self.numbers, key.into());
        let one = Comparison { number, slot, database, key, copies, urgent: false, began: now, waiting: None };
        self.open.push(one);
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// Ask a copy what there is to be asked. Called when it has just been sent what there was: `spoke` says that it gets a
    /// packet anyway.
    pub fn ask(&mut self, source: &mut Source, tail: &Tail, store: &Store, out: &mut Vec<u8>, spoke: bool) {
        let token = source.token;
        if !(spoke || self.open.iter().any(|one| one.urgent && one.due(token).is_some())) {
            return;
        }
        for one in &mut self.open {
            let Some((at, anew)) = one.due(token) else { continue };
            if !source.is_abreast(tail, one.slot) {
                continue;
            }
            if anew && !one.is_of_slot() {
                source.send_anew(store, one.slot, one.database, &one.key, out);
            }
            source.ask(one.number, one.slot, one.database, &one.key, out);
            one.copies[at].state = State::Asked { ours: one.ours(store), anew };
        }
    }
}

impl Comparison {
    fn is_of_slot(&self) -> bool {
        self.database == EVERY_DATABASE
    }

    /// The copy behind a connection, if it is to be asked, and whether it was sent what we have before.
    fn due(&self, token: Token) -> Option<(usize, bool)> {
        let at = self.copies.iter().position(|copy| copy.token == token)?;
        if let State::Due { anew } = self.copies[at].state { Some((at, anew)) } else { None }
    }

    fn ours(&self, store: &Store) -> u64 {
        match self.is_of_slot() {
            true => digest::of_slot(store, self.slot),
            false => digest::of_key(store, self.database, &self.key),
        }
    }

    fn is_over(&self) -> bool {
        self.copies.iter().all(|copy| matches!(copy.state, State::Ends(_)))
    }

    /// Whether all copies, two at least, say the same of a key, which is not what we had: then it is we who may be wrong.
    fn is_alone(&self) -> bool {
        let mut said = BTreeSet::new();
        let told = self.copies.iter().filter_map(|copy| match copy.state {
            State::Told { ours, theirs, anew: false } => Some((ours, theirs)),
            _ => None,
        });
        let count = told.inspect(|&pair| _ = said.insert(pair)).count();
        !self.is_of_slot() && count > 1 && said.len() == 1 && said.iter().all(|(ours, theirs)| ours != theirs)
    }

    /// Once every copy has answered or cannot: what becomes of each, as far as that is worth telling.
    fn judge(&mut self, counts: &mut Counts, now: u64) -> Vec<Finding> {
        let waits = |copy: &OneCopy| matches!(copy.state, State::Due { .. } | State::Asked { .. });
        if self.copies.iter().any(waits) {
            return Vec::new();
        }
        let (alone, of_slot) = (self.is_alone(), self.is_of_slot());
        let mut found = Vec::new();
        for copy in &mut self.copies {
            let State::Told { ours, theirs, anew } = copy.state else { continue };
            counts.compared += 1;
            let verdict = match (ours == theirs, anew) {
                (true, false) => Verdict::Same,
                (true, true) => Verdict::Repaired,
                (false, _) => Verdict::Differs,
            };
            counts.differed += u64::from(verdict == Verdict::Differs && !anew);
            counts.repaired += u64::from(verdict == Verdict::Repaired);
            let repairs = verdict == Verdict::Differs && !anew && !alone;
            copy.state = if repairs { State::Due { anew: true } } else { State::Ends(verdict) };
            if repairs {
                (self.urgent, self.began) = (true, now);
            }
            if verdict != Verdict::Same && (of_slot || !repairs) {
                found.push(Finding {
                    peer: copy.peer.clone(),
                    verdict,
                    repairs,
                    slot: self.slot,
                    key: (!of_slot).then(|| self.key.clone()),
                });
            }
        }
        found
    }
}

/// Something that is not as it should be, or is again.
struct Finding {
    peer: String,
    verdict: Verdict,
    /// Whether something is still to be done about it.
    repairs: bool,
    slot: u16,
    /// Nothing for a whole slot.
    key: Option<Box<[u8]>>,
}

/// Have a strict read's keys compared, when their turn has come.
pub fn read(engine: &mut Engine, client: &Client, args: &Args<'_>, now: u64) {
    let Some((row, _)) = dispatch::resolve_quietly(args) else { return };
    if row.is(flag::BLOCKING) || client.multi.is_some() {
        return;
    }
    let mut keys: SmallVec<[usize; 4]> = SmallVec::new();
    row.each_key(args, |at, _| {
        if keys.len() < keys.inline_size() {
            keys.push(at);
        }
    });
    for key in keys.into_iter().map(|at| args.at(at)) {
        let Some(replication) = &mut engine.replication else { return };
        let comparing = &mut replication.comparing;
        if !comparing.may_look() {
            return;
        }
        comparing.looks -= 1;
        let (database, slot) = (client.database, slot_of(key));
        let cost = engine.store.find_any(database, key).map_or(key.len(), |found| engine.store.cost(found));
        if cost > LARGEST || comparing.lately((database, slot, key), now) {
            continue;
        }
        comparing.credit -= 1000;
        compare(engine, database, key, now);
    }
}

/// Begin to compare a key, or the slot of one where the database is [`EVERY_DATABASE`].
fn compare<'e>(engine: &'e mut Engine, database: u8, key: &[u8], now: u64) -> Option<&'e mut Comparison> {
    let slot = slot_of(key);
    let key = if database == EVERY_DATABASE { &[][..] } else { key };
    let (membership, replication) = (engine.membership.as_ref()?, engine.replication.as_mut()?);
    let document = &membership.document;
    let nodes = document.replicas_of(slot).iter().chain(document.learners_of(slot));
    let peers: BTreeSet<u16> = if membership.replicates() { nodes.copied().collect() } else { BTreeSet::new() };
    let copy = |peer: u16| {
        let peer = document.nodes()[usize::from(peer)].id.clone();
        let source = replication.source_of(&peer, slot).filter(|source| source.moves.is_empty());
        let (token, state) = match source {
            None => (Token::MAX, State::Ends(Verdict::Away)),
            Some(source) if !source.covers(slot) => (source.token, State::Ends(Verdict::Copying)),
            Some(source) if !source.compares => (source.token, State::Ends(Verdict::Old)),
            Some(source) => (source.token, State::Due { anew: false }),
        };
        OneCopy { peer, token, state }
    };
    let copies = peers.into_iter().map(copy).collect();
    Some(replication.comparing.add(slot, database, key, copies, now))
}

/// FASTCACHE COMPARE: compare keys at once, for a client that waits for the verdicts. They are there already where no copy
/// can be asked.
pub fn begin<'k>(
    engine: &mut Engine,
    client: &Client,
    keys: impl Iterator<Item = &'k [u8]>,
    now: u64,
) -> Option<Vec<u8>> {
    for key in keys {
        if let Some(one) = compare(engine, client.database, key, now) {
            (one.urgent, one.waiting) = (true, Some((client.token, client.id)));
        }
    }
    let mut replication = engine.replication.take()?;
    let reply = answer(engine, &mut replication.comparing, (client.token, client.id), client.resp3);
    engine.replication = Some(replication);
    reply
}

/// What a client that waits is told, once all it waits for is over.
fn answer(engine: &Engine, comparing: &mut Comparing, whom: (Token, u64), resp3: bool) -> Option<Vec<u8>> {
    let of_client = |one: &Comparison| one.waiting == Some(whom);
    if !comparing.open.iter().filter(|one| of_client(one)).all(Comparison::is_over) {
        return None;
    }
    let mut out = Reply::new(resp3);
    let ended: Vec<Comparison> = comparing.open.extract_if(.., |one| of_client(one)).collect();
    let id = crate::command::cluster::membership::own_id(engine);
    out.array(ended.len());
    for one in ended {
        out.array(2);
        out.bulk(id.as_bytes());
        out.map(one.copies.len());
        for copy in &one.copies {
            out.bulk(copy.peer.as_bytes());
            let State::Ends(verdict) = copy.state else { continue };
            out.bulk(verdict.name().as_bytes());
        }
    }
    Some(out.take())
}

/// See what copies have said: repair, tell, forget. Once in every turn of the loop, before they are fed.
pub fn settle(engine: &mut Engine, now: u64) {
    let Some(mut replication) = engine.replication.take() else { return };
    let rate = engine.settings.number(Name::compare_reads) as u64;
    replication.comparing.refill(rate, now);
    let Replication { sources, comparing, counts, .. } = &mut *replication;
    for source in sources.iter_mut().filter(|source| !source.answers.is_empty()) {
        for (number, theirs) in source.answers.drain(..) {
            comparing.hear(source.token, number, theirs);
        }
    }
    if comparing.open.is_empty() {
        engine.replication = Some(replication);
        return;
    }
    let mut found = Vec::new();
    for one in &mut comparing.open {
        let late = now > one.began + PATIENCE_MS;
        for copy in &mut one.copies {
            let there = sources.iter().any(|source| source.token == copy.token);
            if !matches!(copy.state, State::Ends(_) | State::Told { .. }) && (late || !there) {
                copy.state = State::Ends(Verdict::Away);
            }
        }
        found.extend(one.judge(counts, now));
    }
    let mut waiting: Vec<(Token, u64)> = comparing.open.iter().filter_map(|one| one.waiting).collect();
    waiting.dedup();
    let mut answers = Vec::new();
    for whom in waiting {
        let client = engine.clients.get(whom.0).filter(|client| client.id == whom.1 && client.blocked.is_some());
        match client.map(|client| client.resp3) {
            Some(resp3) => answers.extend(answer(engine, comparing, whom, resp3).map(|reply| (whom.0, reply))),
            None => {
                comparing.open.iter_mut().filter(|one| one.waiting == Some(whom)).for_each(|one| one.waiting = None)
            }
        }
    }
    comparing.open.retain(|one| one.waiting.is_some() || !one.is_over());
    let mut slots = Vec::new();
    for finding in found {
        if comparing.noted.is_none_or(|noted| now >= noted + 1000) {
            comparing.noted = Some(now);
            note(engine, counts, &finding);
        }
        let Finding { peer, slot, key, .. } = finding;
        match key {
            None if finding.repairs => {
                // More than a key of it: all of it is copied anew.
                let streams = sources.iter_mut().filter(|source| source.peer == peer && source.moves.is_empty());
                streams.for_each(|source| source.copy_anew(slot, &mut engine.tail));
            }
            Some(key) if finding.verdict == Verdict::Repaired => {
                let small = engine.store.len_of_slot(slot) <= LARGEST_SLOT;
                if small && !comparing.lately((EVERY_DATABASE, slot, b""), now) {
                    slots.push(key);
                }
            }
            _ => {}
        }
    }
    engine.replication = Some(replication);
    for (token, reply) in answers {
        blocking::answer(engine, token, &reply);
    }
    for key in slots {
        compare(engine, EVERY_DATABASE, &key, now);
    }
}

#[cfg(test)]
impl Comparing {
    /// As if all that is under way had begun then: commands read the real clock.
    pub fn began_at(&mut self, now: u64) {
        self.open.iter_mut().for_each(|one| one.began = now);
    }
}

impl Comparing {
    fn hear(&mut self, token: Token, number: u64, theirs: Option<u64>) {
        let Some(one) = self.open.iter_mut().find(|one| one.number == number) else { return };
        let Some(copy) = one.copies.iter_mut().find(|copy| copy.token == token) else { return };
        if let State::Asked { ours, anew } = copy.state {
            copy.state = match theirs {
                Some(theirs) => State::Told { ours, theirs, anew },
                None => State::Ends(Verdict::Copying),
            };
        }
    }
}

fn note(engine: &Engine, counts: &Counts, finding: &Finding) {
    let key = finding.key.as_ref().map(|key| key[..key.len().min(128)].escape_ascii().to_string());
    Notes::new(&engine.settings).error(
        "a copy has something else than its main",
        &[
            ("copy", &finding.peer),
            ("slot", &finding.slot),
            ("key", &key.as_deref().unwrap_or("others of its slot")),
            ("now", &finding.verdict.name()),
            ("differed", &counts.differed),
            ("repaired", &counts.repaired),
        ],
    );
}

#[test]
fn where_two_copies_agree_against_their_main_nothing_is_sent() {
    let told = |answers: &[(u64, u64)]| {
        let copy = |&(ours, theirs): &(u64, u64)| OneCopy {
            peer: String::new(),
            token: 0,
            state: State::Told { ours, theirs, anew: false },
        };
        let mut one = Comparison {
            number: 1,
            slot: 0,
            database: 0,
            key: Box::default(),
            copies: answers.iter().map(copy).collect(),
            urgent: false,
            began: 0,
            waiting: None,
        };
        let found = one.judge(&mut Counts::default(), 0).len();
        (one.copies.iter().filter(|copy| matches!(copy.state, State::Due { anew: true })).count(), found)
    };
    assert_eq!(told(&[(1, 1), (1, 1)]), (0, 0));
    assert_eq!(told(&[(1, 2), (1, 1)]), (1, 0), "the one that differs is sent the key");
    assert_eq!(told(&[(1, 2), (1, 3)]), (2, 0), "they do not agree with one another");
    assert_eq!(told(&[(1, 2), (1, 2)]), (0, 2), "they do: people must look");
    assert_eq!(told(&[(1, 2), (3, 2)]), (2, 0), "of two moments, between which it was written");
    assert_eq!(told(&[(1, 2)]), (1, 0));
}
