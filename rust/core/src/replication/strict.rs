//! Strict mode: a reply leaves only when what it tells of is on every replica in sync.
//!
//! A strict write is refused where no replica is in sync. Its reply, and that of every strict read, is held until the
//! replicas of its slots have acknowledged the last record of these slots: nobody sees what could still be lost. Every
//! reply needs, besides, that each of these replicas has sent back our clock less than a lease before the request was
//! run. A replica that is promoted waits for a lease before it serves, so a main that was deposed without knowing it
//! answers nothing that is not true any more. A replica that is brought up to date after a failover counts slot by slot:
//! for those that it has confirmed, and those that are waited for are brought up to date first. Nothing here reads a
//! clock or opens a socket.

use super::{LEASE_MS, Replication};
use crate::command::client::{Client, Token};
use crate::command::cluster::Membership;
use crate::command::fault::{Done, Fault};
use crate::command::settings::Name;
use crate::command::table::Command;
use crate::command::{Engine, dispatch};
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use smallvec::SmallVec;

/// A reply is held for so long at most, ms: the health service needs about a second to say who goes on.
pub const PATIENCE_MS: u64 = 2500;
/// A client with so many replies held is not served further.
pub const MOST_HELD: usize = 1024;

/// What a strict request touches.
pub struct Touched {
    slots: SmallVec<[u16; 2]>,
    writes: bool,
}

impl Touched {
    /// Whether nothing is written.
    pub fn only_reads(&self) -> bool {
        !self.writes
    }
}

/// A reply that waits.
pub struct Held {
    bytes: Vec<u8>,
    /// Slots, each with the last record of it that must be acknowledged.
    needs: SmallVec<[(u16, u64); 2]>,
    writes: bool,
    /// When the request was run, us of the steady clock.
    at: u64,
}

/// Whether a request is strict: by its connection, its cluster, or the beginning of one of its keys.
fn is_strict(engine: &Engine, membership: &Membership, client: &Client, row: &Command, args: &Args<'_>) -> bool {
    if let Some(strict) = client.consistency {
        return strict;
    }
    if membership.strict {
        return true;
    }
    let prefixes = engine.settings.text(Name::strict_prefixes);
    if prefixes.is_empty() {
        return false;
    }
    let mut strict = false;
    row.each_key(args, |at, _| {
        strict |= prefixes.split(' ').any(|prefix| args.at(at).starts_with(prefix.as_bytes()));
    });
    strict
}

/// Whether no request of a client can be strict: the common case, told by a few flags.
#[inline]
fn never(engine: &Engine, membership: &Membership, client: &Client) -> bool {
    match client.consistency {
        Some(strict) => !strict,
        None => !membership.strict && engine.settings.text(Name::strict_prefixes).is_empty(),
    }
}

/// What a request about to be served will touch, when it is strict.
#[inline]
pub fn touched(engine: &Engine, client: &Client, args: &Args<'_>) -> Option<Touched> {
    let membership = engine.membership.as_ref()?;
    if never(engine, membership, client) {
        return None;
    }
    touched_strictly(engine, membership, client, args)
}

fn touched_strictly(engine: &Engine, membership: &Membership, client: &Client, args: &Args<'_>) -> Option<Touched> {
    let (row, _) = dispatch::resolve_quietly(args)?;
    let mut touched = Touched { slots: SmallVec::new(), writes: false };
    let mut strict = false;
    let mut add = |row: &Command, args: &Args<'_>| {
        if !is_strict(engine, membership, client, row, args) {
            return;
        }
        strict = true;
        touched.writes |= row.may_write();
        row.each_key(args, |at, _| {
            let slot = slot_of(args.at(at));
            if membership.own.contains(slot) && !touched.slots.contains(&slot) {
                touched.slots.push(slot);
            }
        });
    };
    match &client.multi {
        Some(multi) if row.name == "exec" => multi.queue.iter().for_each(|(row, args)| add(row, &args.as_args())),
        Some(_) => {}
        None => add(row, args),
    }
    (strict && !touched.slots.is_empty()).then_some(touched)
}

/// Whether a write may be done now: strict ones need replicas, others none that lags too far.
#[inline]
pub fn admit(engine: &Engine, replication: &Replication, client: &Client, row: &Command, args: &Args<'_>) -> Done {
    let Some(membership) = &engine.membership else { return Ok(()) };
    if !replication.late && never(engine, membership, client) {
        return Ok(());
    }
    admit_carefully(engine, replication, membership, client, row, args)
}

#[cold]
fn admit_carefully(
    engine: &Engine,
    replication: &Replication,
    membership: &Membership,
    client: &Client,
    row: &Command,
    args: &Args<'_>,
) -> Done {
    let bound = engine.settings.number(Name::max_unreplicated_ms) as u64;
    let now = crate::command::replicate::steady_ms();
    let judge = |row: &Command, args: &Args<'_>| -> Done {
        if !row.may_write() {
            return Ok(());
        }
        let strict = is_strict(engine, membership, client, row, args);
        let mut verdict = Ok(());
        row.each_key(args, |at, _| {
            let slot = slot_of(args.at(at));
            let peers = membership.document.replicas_of(slot);
            if strict && peers.is_empty() {
                verdict = Err(Fault::NO_REPLICAS);
            }
            for &peer in peers {
                let name = &membership.document.nodes()[usize::from(peer)].id;
                let source = replication.source_of(name, slot);
                // Its stream is being replaced by that of a move, has just been given the slot, or has a new main to find:
                // a matter of moments.
                let soon = source.is_some_and(|source| source.based)
                    || membership.moves_to(slot, peer)
                    || replication.just_took(slot, now);
                if strict && !soon && source.is_none_or(|source| !source.covers(slot)) {
                    verdict = Err(Fault::NO_REPLICAS);
                }
                if let Some(filling) = source.filter(|source| !source.covers(slot)) {
                    // Whoever does not care for strictness may go on for a while, but not for the whole of a long copy.
                    replication.wanted.borrow_mut().push(slot);
                    if !strict && !soon && bound > 0 && now > filling.began + bound {
                        verdict = Err(Fault::NO_REPLICAS);
                    }
                }
                let lag = source.map_or_else(|| replication.absent_ms(name, now), |source| source.lag_ms(now));
                if !strict && bound > 0 && lag > bound {
                    verdict = Err(Fault::new(format!(
                        "NOREPLICAS the oldest write that {name} does not have is {lag} ms old (max-unreplicated-ms)"
                    )));
                }
            }
        });
        verdict
    };
    match &client.multi {
        Some(multi) if row.name == "exec" => multi.queue.iter().try_for_each(|(row, args)| judge(row, &args.as_args())),
        Some(_) => Ok(()),
        None => judge(row, args),
    }
}

/// Hold the reply that begins at `start` unless it may leave at once. `true` when it is held.
pub fn hold(
    engine: &mut Engine,
    client: &mut Client,
    touched: Option<Touched>,
    reply: &mut Reply,
    start: usize,
    now_us: u64,
) -> bool {
    if reply.len() == start {
        return false;
    }
    let (slots, writes) = touched.map_or((SmallVec::new(), false), |touched| (touched.slots, touched.writes));
    // It was not run.
    let refused = [&b"-NOREPLICAS"[..], b"-EXECABORT"].iter().any(|code| reply.bytes()[start..].starts_with(code));
    let needs: SmallVec<[(u16, u64); 2]> =
        slots.into_iter().map(|slot| (slot, engine.tail.seq_of(slot))).filter(|_| !refused || !writes).collect();
    let free = needs.is_empty() || verdict(engine, &needs, writes, now_us) == Verdict::Leaves;
    if free && client.held.is_empty() {
        return false;
    }
    if let Some(replication) = &engine.replication
        && replication.sources.iter().any(|source| !source.settled())
    {
        replication.wanted.borrow_mut().extend(needs.iter().map(|&(slot, _)| slot));
    }
    let bytes = reply.bytes()[start..].to_vec();
    reply.truncate(start);
    if client.held.is_empty() {
        engine.holding.push(client.token);
    }
    client.held.push_back(Held { bytes, needs, writes, at: now_us });
    true
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Leaves,
    Waits,
    /// Nobody can say any more whether it was done.
    Unknown,
    /// Another node has the slot now.
    Moved(u16),
}

fn verdict(engine: &Engine, needs: &[(u16, u64)], writes: bool, at: u64) -> Verdict {
    let (Some(membership), Some(replication)) = (&engine.membership, &engine.replication) else {
        return Verdict::Leaves;
    };
    let mut verdict = Verdict::Leaves;
    for &(slot, seq) in needs {
        let moving = membership.moves.iter().find(|one| !one.incoming && one.slots.contains(slot));
        let own = membership.own.contains(slot);
        let handed = moving.filter(|one| one.flipped && !own);
        if !own && handed.is_none() {
            return if writes { Verdict::Unknown } else { Verdict::Moved(slot) };
        }
        let peers = if own { membership.document.replicas_of(slot) } else { &[] };
        if own && writes && peers.is_empty() {
            return Verdict::Unknown; // We go on alone, and nobody but us has it.
        }
        let holds = |peer: u16| {
            let name = &membership.document.nodes()[usize::from(peer)].id;
            let source = replication.source_of(name, slot);
            source.is_some_and(|source| source.has(slot, seq) && source.clock + LEASE_MS * 1000 > at)
        };
        // The taker of a slot is waited for as a replica is, and alone once the slot is its own.
        let taker = moving.filter(|one| one.joined).or(handed).map(|one| one.peer);
        if !peers.iter().copied().chain(taker).all(holds) {
            verdict = Verdict::Waits;
        }
    }
    verdict
}

/// Let go what may leave now, and answer what has waited too long.
pub fn release(engine: &mut Engine, now_us: u64) {
    for token in std::mem::take(&mut engine.holding) {
        release_one(engine, token, now_us);
    }
}

fn release_one(engine: &mut Engine, token: Token, now_us: u64) {
    let Some(mut client) = engine.clients.take(token) else {
        return;
    };
    let before = client.held.len();
    while let Some(held) = client.held.front() {
        let late = now_us.saturating_sub(held.at) > PATIENCE_MS * 1000;
        let fault = match verdict(engine, &held.needs, held.writes, held.at) {
            Verdict::Leaves => None,
            Verdict::Moved(slot) => engine.membership.as_ref().map(|membership| membership.moved(slot)),
            Verdict::Waits if !late => break,
            Verdict::Waits if !held.writes => Some(Fault::new("NOREPLICAS no replica says that this node is the main")),
            Verdict::Waits | Verdict::Unknown => {
                Some(Fault::new("UNKNOWN outcome: no replica has confirmed the write; it may be done or not"))
            }
        };
        let Some(held) = client.held.pop_front() else { break };
        match fault {
            None => client.pending.extend_from_slice(&held.bytes),
            Some(fault) => {
                let mut out = Reply::new(client.resp3);
                dispatch::fail(engine, &mut out, &fault);
                client.pending.extend_from_slice(out.bytes());
            }
        }
    }
    if !client.held.is_empty() {
        engine.holding.push(token);
    }
    if client.held.len() < before {
        engine.wake.push(token);
        if client.query_bytes > 0 {
            engine.resumed.push(token);
        }
    }
    engine.clients.put_back(client);
}
