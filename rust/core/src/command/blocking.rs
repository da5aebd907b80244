//! Waiting for keys.
//!
//! A command that finds nothing says [`super::Ctx::block`]. When one of its keys changes it
//! is simply run again, first come first served, with the reply going to whoever waits; so
//! a blocking command is written once, as the non-blocking one that may say "not yet".

use super::client::{Blocked, Client, OnTimeout, Token};
use super::fault::Fault;
use super::table::flag;
use super::{Ctx, Engine, dispatch};
use crate::replication::strict;
use crate::resp::number::parse_f64;
use crate::resp::{Args, Reply};
use std::collections::HashSet;

/// See [`Ctx::block`].
pub fn block(ctx: &mut Ctx<'_>, keys: &[&[u8]], deadline: u64, on_timeout: OnTimeout, args: &Args<'_>) -> bool {
    if ctx.engine.in_transaction {
        return false;
    }
    if ctx.again {
        return true; // Still waiting: places in the queues are kept.
    }
    let database = ctx.client.database;
    let mut kept: Vec<Box<[u8]>> = Vec::with_capacity(keys.len());
    let mut seen = HashSet::with_capacity(keys.len());
    for &key in keys {
        if seen.insert(key) {
            ctx.engine.waiting.entry((database, key.into())).or_default().push(ctx.client.token);
            kept.push(key.into());
        }
    }
    ctx.engine.blocked_clients += 1;
    ctx.engine.tell_gone_if_needed();
    if deadline > 0 && (ctx.engine.next_deadline == 0 || deadline < ctx.engine.next_deadline) {
        ctx.engine.next_deadline = deadline;
    }
    ctx.client.blocked =
        Some(Blocked { command: ctx.command, args: args.to_owned(), keys: kept, database, deadline, on_timeout });
    true
}

/// Read a time-out in seconds (fractions allowed) as a deadline; zero waits for ever.
pub fn deadline(ctx: &Ctx<'_>, seconds: &[u8]) -> Result<u64, Fault> {
    let seconds = parse_f64(seconds).ok_or(Fault::BAD_TIMEOUT)?;
    deadline_in(ctx, seconds * 1000.0)
}

/// A deadline so many milliseconds from now; zero waits for ever. As in Redis 7.0 a part of a
/// millisecond counts as a whole one, and what exceeds 63 bits passes for negative.
pub fn deadline_in(ctx: &Ctx<'_>, milliseconds: f64) -> Result<u64, Fault> {
    let whole = milliseconds.ceil();
    if whole < 0.0 || whole >= i64::MAX as f64 {
        return Err(Fault::NEGATIVE_TIMEOUT);
    }
    Ok(if whole == 0.0 { 0 } else { ctx.engine.store.now().saturating_add(whole as u64) })
}

/// Forget that a client waits.
pub fn stop_waiting(engine: &mut Engine, client: &mut Client) -> Option<Blocked> {
    let blocked = client.blocked.take()?;
    engine.blocked_clients -= 1;
    for key in &blocked.keys {
        let pair = (blocked.database, key.clone());
        if let Some(queue) = engine.waiting.get_mut(&pair) {
            queue.retain(|&token| token != client.token);
            if queue.is_empty() {
                engine.waiting.remove(&pair);
            }
        }
    }
    engine.tell_gone_if_needed();
    Some(blocked)
}

/// Serve those who wait for keys that changed. Called between requests, never within a transaction.
pub fn serve_ready(engine: &mut Engine) {
    // Serving one (BLMOVE) may make another key ready: go on until nothing is.
    while !engine.ready.is_empty() {
        for (database, key) in std::mem::take(&mut engine.ready) {
            let Some(queue) = engine.waiting.get(&(database, key.clone())).cloned() else {
                continue;
            };
            for token in queue {
                // Where nothing is left, those behind wait on, but for those who cannot without the key.
                if engine.store.find(database, &key).is_none() && !needs_key(engine, token) {
                    continue;
                }
                engine.ready_key = Some(key.clone());
                try_again(engine, token);
            }
            engine.ready_key = None;
        }
    }
}

fn needs_key(engine: &Engine, token: Token) -> bool {
    let blocked = engine.clients.get(token).and_then(|client| client.blocked.as_ref());
    blocked.is_some_and(|blocked| blocked.command.is(flag::NEEDS_KEY))
}

fn try_again(engine: &mut Engine, token: Token) {
    let Some(mut client) = engine.clients.take(token) else {
        return;
    };
    if let Some(blocked) = client.blocked.take() {
        let mut out = Reply::new(client.resp3);
        let database = std::mem::replace(&mut client.database, blocked.database);
        let touched =
            if engine.replication.is_some() { strict::touched(engine, &client, &blocked.args.as_args()) } else { None };
        if let Some((row, place)) = dispatch::resolve_quietly(&blocked.args.as_args()) {
            // `block` recognises the second attempt and leaves the queues alone; an empty reply means: still waiting.
            dispatch::run(engine, &mut client, row, place, &blocked.args.as_args(), &mut out, true);
        }
        client.database = database;
        client.blocked = Some(blocked);
        if !out.is_empty() {
            stop_waiting(engine, &mut client);
            if engine.replication.is_some() {
                strict::hold(engine, &mut client, touched, &mut out, 0, crate::clock::steady_ns() / 1000);
            }
            deliver(engine, &mut client, out.bytes());
        }
    }
    engine.clients.put_back(client);
}

/// Give a client that waited its reply, and have what it sent meanwhile served.
fn deliver(engine: &mut Engine, client: &mut Client, reply: &[u8]) {
    if client.replies == super::client::Replies::On {
        client.pending.extend_from_slice(reply);
    }
    engine.wake.push(client.token);
    engine.resumed.push(client.token);
}

/// End a client's waiting with this reply.
pub fn answer(engine: &mut Engine, token: Token, reply: &[u8]) {
    if let Some(mut client) = engine.clients.take(token) {
        if stop_waiting(engine, &mut client).is_some() {
            deliver(engine, &mut client, reply);
        }
        engine.clients.put_back(client);
    }
}

/// Answer those whose time is up.
pub fn expire(engine: &mut Engine) {
    let now = engine.store.now();
    if engine.next_deadline == 0 || engine.next_deadline > now {
        return;
    }
    let mut next = 0;
    let mut due = Vec::new();
    for client in engine.clients.iter() {
        if let Some(blocked) = &client.blocked
            && blocked.deadline > 0
        {
            if blocked.deadline <= now {
                due.push(client.token);
            } else if next == 0 || blocked.deadline < next {
                next = blocked.deadline;
            }
        }
    }
    engine.next_deadline = next;
    for token in due {
        unblock(engine, token, None);
    }
}

/// End a client's waiting: with this error, or as if its time were up. `false` when it does not wait.
pub fn unblock(engine: &mut Engine, token: Token, error: Option<&Fault>) -> bool {
    let Some(mut client) = engine.clients.take(token) else {
        return false;
    };
    let ended = stop_waiting(engine, &mut client);
    if let Some(blocked) = &ended {
        let mut out = Reply::new(client.resp3);
        match (error, blocked.on_timeout) {
            (Some(fault), _) => dispatch::fail(engine, &mut out, fault),
            (None, OnTimeout::Null) => out.null(),
            (None, OnTimeout::NullArray) => out.null_array(),
            (None, OnTimeout::Replicas) => out.count(super::replicate::reached(engine, client.wrote)),
        }
        deliver(engine, &mut client, out.bytes());
    }
    engine.clients.put_back(client);
    ended.is_some()
}
