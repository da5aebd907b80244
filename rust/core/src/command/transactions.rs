//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::client::{Client, Multi};
use super::fault::{Done, Fault};
use super::table::{Command, LOOK, flag, keys};
use super::{Ctx, Engine, dispatch};
use crate::resp::Args;

const TX: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY | flag::TRANSACTION;

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "transactions",
        since: "1.2.0",
        summary: "Starts a transaction: what follows is queued until EXEC.",
        ..Command::new("multi", multi, 1, TX)
    },
    Command {
        group: "transactions",
        since: "1.2.0",
        summary: "Runs everything queued since MULTI, without anything in between.",
        ..Command::new("exec", exec, 1, (TX & !flag::FAST & !flag::ALLOW_BUSY) | flag::SKIP_SLOWLOG)
    },
    Command {
        group: "transactions",
        since: "2.0.0",
        summary: "Forgets everything queued since MULTI.",
        ..Command::new("discard", discard, 1, TX)
    },
    Command {
        group: "transactions",
        since: "2.2.0",
        summary: "Makes the next EXEC depend on these keys staying as they are.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, LOOK)],
        ..Command::new("watch", watch, -2, TX)
    },
    Command {
        group: "transactions",
        since: "2.2.0",
        summary: "Forgets all watched keys.",
        ..Command::new("unwatch", unwatch_command, 1, TX)
    },
];

/// Commands that MULTI does not queue.
#[inline]
pub fn runs_at_once(row: &Command) -> bool {
    matches!(row.name, "multi" | "exec" | "discard" | "watch" | "quit" | "reset") && row.keys.len() <= 1
}

fn multi(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    if ctx.client.multi.is_some() {
        return Err(Fault::new("ERR MULTI calls can not be nested"));
    }
    ctx.client.multi = Some(Multi::default());
    ctx.out.ok();
    Ok(())
}

fn discard(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    if ctx.client.multi.take().is_none() {
        return Err(Fault::new("ERR DISCARD without MULTI"));
    }
    unwatch(ctx.engine, ctx.client);
    ctx.out.ok();
    Ok(())
}

fn exec(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let Some(multi) = ctx.client.multi.take() else {
        return Err(Fault::new("ERR EXEC without MULTI"));
    };
    look_after_watches(ctx);
    let told = std::mem::take(&mut ctx.engine.store.gone);
    let broken = ctx.client.watch_broken;
    unwatch(ctx.engine, ctx.client);
    ctx.engine.store.gone = told;
    if multi.broken {
        return Err(Fault::new("EXECABORT Transaction discarded because of previous errors."));
    }
    if broken {
        ctx.out.null_array();
        return Ok(());
    }
    ctx.engine.in_transaction = true;
    ctx.engine.tail.open_group();
    ctx.out.array(multi.queue.len());
    for (row, args) in &multi.queue {
        let args = args.as_args();
        let place = place_of(row, &args);
        let before = ctx.out.len();
        if ctx.engine.users.are_limited()
            && let Err(denied) = super::acl::check::admit_some(ctx.engine, ctx.client, row, place, &args, "multi")
        {
            dispatch::fail(ctx.engine, ctx.out, &denied.fault_in_transaction());
            continue;
        }
        dispatch::run(ctx.engine, ctx.client, row, place, &args, ctx.out, false);
        if ctx.out.len() == before && !row.is(flag::PUBSUB) {
            // Every queued command owes an element; only subscriptions and CLIENT REPLY answer out of band.
            continue;
        }
    }
    ctx.engine.in_transaction = false;
    let now = ctx.engine.store.now();
    ctx.engine.tail.close_group(now);
    Ok(())
}

/// A watched key whose time came counts as changed, though nobody looked at it since.
pub fn look_after_watches(ctx: &mut Ctx<'_>) {
    let watching = std::mem::take(&mut ctx.client.watching);
    for (database, key) in &watching {
        ctx.engine.store.find(*database, key);
    }
    ctx.client.watching = watching;
    for gone in std::mem::take(&mut ctx.engine.store.gone) {
        ctx.engine.break_watches(gone.database, &gone.key, Some(ctx.client));
        ctx.engine.store.gone.push(gone);
    }
}

fn place_of(row: &'static Command, args: &Args<'_>) -> u32 {
    dispatch::resolve_quietly(args).filter(|(each, _)| std::ptr::eq(*each, row)).map_or(0, |(_, place)| place)
}

fn watch(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if ctx.client.multi.is_some() {
        return Err(Fault::new("ERR WATCH inside MULTI is not allowed"));
    }
    // A watch that is broken already will make EXEC fail, whatever else is watched.
    if !ctx.client.watch_broken {
        let database = ctx.client.database;
        for key in args.from(1) {
            if ctx.client.watching.iter().any(|(at, each)| *at == database && **each == *key) {
                continue;
            }
            // One that is dead already must not count as changed when it is cleared away later.
            ctx.engine.store.find(database, key);
            ctx.client.watching.push((database, key.into()));
            ctx.engine.watchers.entry((database, key.into())).or_default().push(ctx.client.token);
        }
        ctx.engine.tell_gone_if_needed();
    }
    ctx.out.ok();
    Ok(())
}

fn unwatch_command(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    unwatch(ctx.engine, ctx.client);
    ctx.out.ok();
    Ok(())
}

/// Forget what a client watches.
pub fn unwatch(engine: &mut Engine, client: &mut Client) {
    client.watch_broken = false;
    if client.watching.is_empty() {
        return;
    }
    super::hold::release(engine, client);
    for pair in std::mem::take(&mut client.watching) {
        if let Some(tokens) = engine.watchers.get_mut(&pair) {
            tokens.retain(|&token| token != client.token);
            if tokens.is_empty() {
                engine.watchers.remove(&pair);
            }
        }
    }
    engine.tell_gone_if_needed();
}

/// Everything of a database changed at once (FLUSHDB, SWAPDB): break the watches on keys that were there.
pub fn break_all(ctx: &mut Ctx<'_>, database: Option<u8>) {
    let watched: Vec<(u8, Box<[u8]>)> =
        ctx.engine.watchers.keys().filter(|(at, _)| database.is_none_or(|only| only == *at)).cloned().collect();
    for (at, key) in watched {
        if ctx.engine.store.find_any(at, &key).is_some() {
            ctx.engine.break_watches(at, &key, Some(ctx.client));
        }
    }
}
