//! The way of a request: looked up, checked, queued or run, accounted for.

use super::client::{Client, Replies};
use super::fault::Fault;
use super::settings::Name;
use super::table::{self, Begin, Command, Find, flag};
use super::{Ctx, Engine};
use crate::resp::{Args, Reply};

/// Serve one request of a client; the reply is appended to `out`.
#[inline]
pub fn serve(engine: &mut Engine, client: &mut Client, args: &Args<'_>, out: &mut Reply) {
    let start = out.len();
    let Some((row, place)) = table::find(args.at(0)) else {
        refuse(engine, client, out, &unknown(args), None);
        return silence(client, out, start);
    };
    let (row, place) = match resolve(row, place, args) {
        Ok(resolved) => resolved,
        Err(fault) => {
            refuse(engine, client, out, &fault, Some(place));
            return silence(client, out, start);
        }
    };
    client.last_command = Some(row);
    if let Err(fault) = admit(engine, client, row, place, args) {
        refuse(engine, client, out, &fault, Some(place));
        return silence(client, out, start);
    }
    if client.multi.is_some() && !super::transactions::runs_at_once(row) {
        if let Some(multi) = &mut client.multi {
            multi.queue.push((row, args.to_owned()));
        }
        out.raw(b"+QUEUED\r\n");
        return silence(client, out, start);
    }
    run(engine, client, row, place, args, out, false);
    if client.replies != Replies::On {
        silence(client, out, start);
    }
    if client.tracking.is_some() && !client.pending.is_empty() {
        // News of its own changes follows the reply, before that of the next request.
        out.raw(&std::mem::take(&mut client.pending));
    }
}

/// Run a command that was admitted, and account for it.
#[inline]
pub fn run(
    engine: &mut Engine,
    client: &mut Client,
    row: &'static Command,
    place: u32,
    args: &Args<'_>,
    out: &mut Reply,
    again: bool,
) {
    let start = out.len();
    if !engine.copies.is_empty() && row.is(flag::WRITE | flag::MAY_REPLICATE) {
        copy_first(engine, row, args);
    }
    let (changes, database) = (engine.changes, client.database);
    let before = crate::sys::ticks();
    let mut ctx = Ctx { engine, client, out, command: row, again };
    let done = (row.run)(&mut ctx, args);
    let ticks = crate::sys::ticks().wrapping_sub(before);
    engine.stats.commands += 1;
    let stats = &mut engine.command_stats[place as usize];
    stats.calls += 1;
    stats.ticks += ticks;
    if engine.settings.is_on(Name::latency_tracking) {
        engine.latencies.note(place, ticks);
    }
    let failed = done.is_err();
    if let Err(fault) = done {
        stats.failed += 1;
        out.truncate(start);
        fail(engine, out, &fault);
    }
    if engine.is_monitored() {
        super::monitor::show(engine, client, row, args);
    }
    if client.tracking.is_some() {
        super::tracking::ran(engine, client, row, args);
    }
    // A tick is shorter than a microsecond: only what looks slow by ticks is converted.
    if ticks > 1_000_000 || engine.slowlog.wants(0) {
        let micros = crate::clock::ticks_to_us(ticks);
        let spike = engine.settings.number(Name::latency_monitor_threshold) as u64;
        if spike > 0 && micros >= spike.saturating_mul(1000) {
            let event = if row.is(flag::FAST) { "fast-command" } else { "command" };
            engine.latencies.spike(event, engine.store.now() / 1000, micros / 1000);
        }
        if engine.slowlog.wants(micros) && !row.is(flag::SKIP_SLOWLOG) {
            let when = engine.store.now() / 1000;
            engine.slowlog.add(args, micros, when, &client.address, &client.name);
        }
    }
    if !engine.store.gone.is_empty() {
        engine.tell_gone();
    }
    if engine.changes != changes && engine.tail.listening() {
        // Behind what has expired: that was gone before the command could find it.
        crate::stream::record::after(engine, database, row, place, args, failed);
        client.wrote = engine.tail.seq();
    }
}

/// Have copies that are under way take what a command may change, before it does.
#[cold]
fn copy_first(engine: &mut Engine, row: &Command, args: &Args<'_>) {
    let Engine { copies, store, .. } = engine;
    let told = row.each_key(args, |at, _| copies.before_write(store, args.at(at)));
    let hidden = row.keys.iter().any(|spec| spec.begin == Begin::Unknown || spec.find == Find::Unknown);
    if told.is_none() || hidden {
        // Any word may be a key then (SORT's STORE): to copy one too early does no harm.
        args.from(1).for_each(|word| copies.before_write(store, word));
    }
}

/// The row that a request means, a sub-command's where there are some; or what is wrong with its form.
#[inline]
pub fn resolve(row: &'static Command, place: u32, args: &Args<'_>) -> Result<(&'static Command, u32), Fault> {
    let (mut row, mut place) = (row, place);
    if !row.subcommands.is_empty() && args.len() > 1 {
        let Some(sub) = row.subcommand(args.at(1)) else {
            let mut text = b"ERR unknown subcommand '".to_vec();
            text.extend_from_slice(quoted(args.at(1), 128));
            text.extend_from_slice(format!("'. Try {} HELP.", row.name.to_uppercase()).as_bytes());
            return Err(Fault::bytes(text));
        };
        if !sub.takes(args.len()) {
            return Err(Fault::arity(&format!("{}|{}", row.name, sub.name)));
        }
        place = table::place_of_subcommand(place, row, sub);
        row = sub;
    }
    if !row.takes(args.len()) {
        return Err(Fault::arity(row.name));
    }
    Ok((row, place))
}

/// Find the row of a request outside of serving it (EXEC's queue, a blocked command): `None` when its form is wrong.
pub fn resolve_quietly(args: &Args<'_>) -> Option<(&'static Command, u32)> {
    let (row, place) = table::find(args.at(0))?;
    resolve(row, place, args).ok()
}

/// Whether the client may run the command now.
#[inline]
pub fn admit(
    engine: &mut Engine,
    client: &mut Client,
    row: &'static Command,
    place: u32,
    args: &Args<'_>,
) -> Result<(), Fault> {
    if !client.authenticated && engine.users.open() {
        client.authenticated = true; // The password was taken away since the client came.
    }
    if !client.authenticated && !row.is(flag::NO_AUTH) {
        return Err(Fault::NO_AUTH);
    }
    super::acl::admit(engine, client, row, place, args)?;
    if engine.scripting.running.is_some() && !row.is(flag::ALLOW_BUSY) {
        return Err(engine.scripting.busy());
    }
    if row.is(flag::PROTECTED) && !super::server::debug_allowed(engine, client) {
        return Err(super::server::debug_refusal());
    }
    if engine.loading && !row.is(flag::LOADING) {
        return Err(Fault::LOADING);
    }
    if engine.keeper.is_some()
        && may_write(client, row)
        && let Some(fault) = crate::persist::refusal(engine)
    {
        return Err(fault);
    }
    if let Some(membership) = &engine.membership {
        super::cluster::redirect::admit(engine, membership, client, row, args)?;
        if let Some(replication) = &engine.replication
            && (row.may_write() || row.name == "exec")
        {
            crate::replication::strict::admit(engine, replication, client, row, args)?;
        }
    }
    if needs_room(client, row) && !engine.make_room() {
        return Err(Fault::OUT_OF_MEMORY);
    }
    if client.subscriptions() > 0 && !client.resp3 && !super::pubsub::allowed_while_subscribed(row) {
        return Err(Fault::new(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            super::introspect::full_name_of(row)
        )));
    }
    if client.monitor && row.is(flag::WRITE | flag::READONLY | flag::MAY_REPLICATE) {
        return Err(Fault::new("ERR Replica can't interact with the keyspace"));
    }
    if client.multi.is_some() && row.is(flag::NO_MULTI) {
        return Err(Fault::new("ERR Command not allowed inside a transaction"));
    }
    Ok(())
}

/// Whether a request may write: by itself, or by what was queued.
#[inline]
fn may_write(client: &Client, row: &Command) -> bool {
    row.is(flag::WRITE)
        || (row.name == "exec"
            && client.multi.as_ref().is_some_and(|multi| multi.queue.iter().any(|(row, _)| row.is(flag::WRITE))))
}

/// Whether a request may take memory: by itself, or by being queued, or by what was queued.
#[inline]
fn needs_room(client: &Client, row: &Command) -> bool {
    match &client.multi {
        None => row.is(flag::DENYOOM),
        Some(multi) if row.name == "exec" => multi.queue.iter().any(|(row, _)| row.is(flag::DENYOOM)),
        Some(_) => !super::transactions::runs_at_once(row),
    }
}

/// Answer a request that does not run.
#[cold]
fn refuse(engine: &mut Engine, client: &mut Client, out: &mut Reply, fault: &Fault, place: Option<u32>) {
    if let Some(multi) = &mut client.multi {
        multi.broken = true;
    }
    if let Some(place) = place {
        engine.command_stats[place as usize].rejected += 1;
    }
    if place.is_some() && place == table::find(b"exec").map(|(_, place)| place) {
        // An EXEC that cannot be served ends its transaction.
        client.multi = None;
        super::transactions::unwatch(engine, client);
        let mut text = b"EXECABORT Transaction discarded because of: ".to_vec();
        text.extend_from_slice(fault.0.strip_prefix(b"ERR ").unwrap_or(&fault.0));
        return fail(engine, out, &Fault::bytes(text));
    }
    fail(engine, out, fault);
}

/// Write an error reply and count it.
#[cold]
pub fn fail(engine: &mut Engine, out: &mut Reply, fault: &Fault) {
    engine.stats.errors += 1;
    // Codes come from our own texts; a bound keeps a script's or a bug's inventions from filling memory.
    if engine.error_stats.len() < 128 || engine.error_stats.contains_key(fault.code()) {
        *engine.error_stats.entry(fault.code().to_vec()).or_default() += 1;
    }
    out.error(&fault.0);
}

/// So much of an argument as an error text quotes: C strings end at a zero byte, and so does what Redis quotes.
pub fn quoted(bytes: &[u8], most: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(most)];
    memchr::memchr(0, bytes).map_or(bytes, |end| &bytes[..end])
}

#[cold]
fn unknown(args: &Args<'_>) -> Fault {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(quoted(args.at(0), 128));
    text.extend_from_slice(b"', with args beginning with: ");
    let mut shown = 0;
    for arg in args.from(1) {
        if shown >= 128 {
            break;
        }
        let part = quoted(arg, 128 - shown);
        text.push(b'\'');
        text.extend_from_slice(part);
        text.extend_from_slice(b"' ");
        shown += part.len() + 3;
    }
    Fault::bytes(text)
}

/// Take a reply back that the client does not want.
fn silence(client: &mut Client, out: &mut Reply, start: usize) {
    match client.replies {
        Replies::On => {}
        Replies::Off => out.truncate(start),
        Replies::Skip => {
            out.truncate(start);
            client.replies = Replies::On;
        }
        Replies::SkipNext => {
            out.truncate(start);
            client.replies = Replies::Skip;
        }
    }
}

/// Most arguments and longest argument a client may send now.
pub fn limits(engine: &Engine, client: &Client) -> crate::resp::request::Limits {
    if client.authenticated {
        crate::resp::request::Limits {
            arguments: i64::from(i32::MAX),
            bulk: engine.settings.number(Name::proto_max_bulk_len),
            before_auth: false,
        }
    } else {
        crate::resp::request::Limits { arguments: 10, bulk: 16_384, before_auth: true }
    }
}
