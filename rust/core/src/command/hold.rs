//! FASTCACHE HOLD: nobody else writes what a connection watches, until its EXEC or UNWATCH, or for a moment.
//!
//! Somebody who is to write on several nodes asks each of them whether what it watches is as it was, and has it held so.
//! When all have said yes, its EXEC on each of them will be done: it happens on all nodes or on none. Who reads is not
//! held up. Nobody waits to hold: two who want the same keys would wait for each other. One of them is refused and tries
//! it again.

use super::client::Client;
use super::engine::ByKey;
use super::fault::{Done, Fault};
use super::table::{Command, flag};
use super::{Ctx, Engine, transactions};
use crate::resp::Args;
use std::cell::Cell;

/// Longest time for which keys may be held, ms: that is how long a proxy that has come to a standstill can hold others up.
const LONGEST_MS: i64 = 1_000;

/// The keys that are held.
#[derive(Default)]
pub struct Held {
    /// By whom (the client's number), and until when (ms of wall time).
    keys: ByKey<(u64, u64)>,
    /// When the first of them is let go by itself.
    first: u64,
    /// Somebody waits for one of them.
    waited: Cell<bool>,
}

/// FASTCACHE HOLD milliseconds: `OK`, or nothing when a key has changed or is held by another.
pub fn hold(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let longest = args.integer(2)?;
    if !(1..=LONGEST_MS).contains(&longest) {
        return Err(Fault::new(format!("ERR keys are held from 1 to {LONGEST_MS} ms")));
    }
    if ctx.client.multi.is_some() {
        return Err(Fault::new("ERR HOLD inside MULTI is not allowed"));
    }
    transactions::look_after_watches(ctx);
    let Ctx { engine, client, .. } = ctx;
    let now = engine.store.now();
    let held = engine.held.get_or_insert_default();
    let by_another = |pair| held.keys.get(pair).is_some_and(|&(by, until)| by != client.id && until > now);
    if client.watch_broken || client.watching.iter().any(by_another) {
        if held.keys.is_empty() {
            engine.held = None;
        }
        ctx.out.null();
        return Ok(());
    }
    let until = now + longest as u64;
    held.first = if held.keys.is_empty() { until } else { held.first.min(until) };
    for pair in &client.watching {
        held.keys.insert(pair.clone(), (client.id, until));
    }
    if held.keys.is_empty() {
        engine.held = None;
    }
    ctx.out.ok();
    Ok(())
}

/// Let go what a client holds: what it watches.
pub fn release(engine: &mut Engine, client: &Client) {
    let Some(held) = engine.held.as_deref_mut() else { return };
    for pair in &client.watching {
        if held.keys.get(pair).is_some_and(|&(by, _)| by == client.id) {
            held.keys.remove(pair);
        }
    }
    let waited = held.waited.take();
    if held.keys.is_empty() {
        engine.held = None;
    }
    if waited {
        engine.resume_held();
    }
}

/// Now and then: let go what was held for long enough.
pub fn end(engine: &mut Engine) {
    let now = engine.store.now();
    let Some(held) = engine.held.as_deref_mut().filter(|held| held.first <= now) else { return };
    held.keys.retain(|_, (_, until)| *until > now);
    held.first = held.keys.values().map(|&(_, until)| until).min().unwrap_or(0);
    if held.keys.is_empty() {
        engine.held = None;
    }
    engine.resume_held();
}

/// Whether a client's request must wait, because it writes what another holds.
pub fn holds_up(engine: &Engine, client: &Client, row: &Command, args: &Args<'_>) -> bool {
    let Some(held) = engine.held.as_deref() else { return false };
    let now = engine.store.now();
    let touches = |row: &Command, args: &Args<'_>| {
        let mut touches = false;
        if row.is(flag::WRITE | flag::MAY_REPLICATE) {
            row.each_key(args, |at, _| {
                let pair = &(client.database, args.at(at)) as &dyn super::engine::KeyPair;
                touches |= held.keys.get(pair).is_some_and(|&(by, until)| by != client.id && until > now);
            });
        }
        touches
    };
    let waits = match &client.multi {
        Some(multi) if row.name == "exec" => multi.queue.iter().any(|(row, args)| touches(row, &args.as_args())),
        Some(_) => false,
        None => touches(row, args),
    };
    held.waited.set(held.waited.get() || waits);
    waits
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;
    use crate::resp::OwnedArgs;

    fn waits(node: &mut Node, token: u32, line: &str) -> bool {
        let args = OwnedArgs::from_parts(line.split(' ').map(str::as_bytes));
        let client = node.engine.clients.get(token).unwrap();
        node.engine.may_hold() && node.engine.holds(client, &args.as_args())
    }

    #[test]
    fn what_is_held_is_written_by_its_holder_alone() {
        let mut node = Node::new();
        let (holder, other) = (node.connect(), node.connect());
        node.ask_as(holder, &["WATCH", "a", "b"]);
        assert_eq!(node.ask_as(holder, &["FASTCACHE", "HOLD", "500"]), "+OK");
        assert!(waits(&mut node, other, "SET a 1") && waits(&mut node, other, "EVAL x 1 b"));
        assert!(!waits(&mut node, other, "GET a") && !waits(&mut node, other, "SET c 1"));
        assert!(!waits(&mut node, holder, "SET a 1"));
        // Another who wants them does not wait.
        node.ask_as(other, &["WATCH", "b", "c"]);
        assert_eq!(node.ask_as(other, &["FASTCACHE", "HOLD", "500"]), "$-1");
        node.ask_as(holder, &["MULTI"]);
        node.ask_as(holder, &["SET", "a", "1"]);
        assert_eq!(node.ask_as(holder, &["EXEC"]), "*1 +OK");
        assert!(!waits(&mut node, other, "SET a 1"));
        assert_eq!(node.ask_as(other, &["FASTCACHE", "HOLD", "500"]), "+OK");
        node.ask_as(other, &["UNWATCH"]);
        assert!(node.engine.held.is_none());
    }

    #[test]
    fn what_has_changed_is_not_held_and_a_hold_ends_by_itself() {
        let mut node = Node::new();
        let (holder, other) = (node.connect(), node.connect());
        node.ask_as(holder, &["WATCH", "a"]);
        node.line("SET a 1");
        assert_eq!(node.ask_as(holder, &["FASTCACHE", "HOLD", "500"]), "$-1");
        node.ask_as(holder, &["UNWATCH"]);
        node.ask_as(holder, &["WATCH", "a"]);
        node.ask_as(holder, &["FASTCACHE", "HOLD", "500"]);
        assert!(waits(&mut node, other, "SET a 2"));
        node.pass(501);
        assert!(!waits(&mut node, other, "SET a 2"));
        super::end(&mut node.engine);
        assert!(node.engine.held.is_none());
        assert_eq!(node.ask_as(holder, &["FASTCACHE", "HOLD", "5000"]), "-ERR keys are held from 1 to 1000 ms");
    }
}
