//! CLIENT TRACKING: clients that keep copies are told when a key they have read changes.
//!
//! For each key that somebody read the readers are remembered until it changes. Clients in
//! broadcast mode are told about all keys with certain prefixes instead; those messages are
//! gathered and sent once a turn ([`broadcast`]).

use super::client::{Client, Token};
use super::fault::{Done, Fault};
use super::settings::Name;
use super::table::{Command, flag};
use super::{Ctx, Engine};
use crate::resp::{Args, Reply};
use std::collections::{HashMap, HashSet};

/// How a client's reads are tracked.
#[derive(Clone, Debug, Default)]
pub struct Tracking {
    /// It is told of all keys with its prefixes, whatever it read.
    pub broadcast: bool,
    /// Only reads after CLIENT CACHING YES count.
    pub opt_in: bool,
    /// Reads after CLIENT CACHING NO do not count.
    pub opt_out: bool,
    /// It is not told of its own changes.
    pub no_loop: bool,
    /// CLIENT CACHING was said for the next command.
    pub said: bool,
    /// The number of the client that is told in its place; zero for none.
    pub redirect: u64,
    /// Where that client is.
    pub redirect_to: Option<Token>,
    /// That client has gone.
    pub broken_redirect: bool,
    /// In broadcast mode: of which keys it is told; the empty prefix for all.
    pub prefixes: Vec<Box<[u8]>>,
}

/// Who is told what.
#[derive(Default)]
pub struct Tracker {
    clients: Vec<(Token, u64)>,
    /// How many of them are in broadcast mode.
    broadcasters: usize,
    readers: HashMap<Box<[u8]>, Vec<(Token, u64)>>,
    changed: HashMap<Box<[u8]>, u64>,
}

impl Tracker {
    /// Whether anybody is told anything.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        !self.clients.is_empty()
    }

    /// How many clients are told.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many clients are in broadcast mode.
    pub fn broadcasters(&self) -> usize {
        self.broadcasters
    }

    /// How many keys' readers are remembered.
    pub fn keys(&self) -> usize {
        self.readers.len()
    }

    /// How many different prefixes clients in broadcast mode have named.
    pub fn prefixes(&self, clients: &super::client::Clients) -> usize {
        let named = |token: Token| Some(&clients.get(token)?.tracking.as_ref()?.prefixes);
        self.clients.iter().filter_map(|&(token, _)| named(token)).flatten().collect::<HashSet<_>>().len()
    }

    /// How many readings are remembered.
    pub fn items(&self) -> usize {
        self.readers.values().map(Vec::len).sum()
    }
}

/// A command of a tracked client has run.
#[cold]
pub fn ran(engine: &mut Engine, client: &mut Client, row: &'static Command, args: &Args<'_>) {
    let Some(tracking) = client.tracking.as_deref_mut() else {
        return;
    };
    let counts = if tracking.opt_in { tracking.said } else { !(tracking.opt_out && tracking.said) };
    let is_client = super::table::find(b"client")
        .is_some_and(|(parent, _)| parent.subcommands.iter().any(|each| std::ptr::eq(each, row)));
    if !is_client && !engine.in_transaction && client.multi.is_none() {
        tracking.said = false;
    }
    if tracking.broadcast || !counts || !row.is(flag::READONLY) {
        return;
    }
    note(engine, (client.token, client.id), row, args);
    while let Some(key) = too_many(engine) {
        changed(engine, Some(client), &key);
    }
}

fn note(engine: &mut Engine, who: (Token, u64), row: &Command, args: &Args<'_>) {
    for at in row.key_arguments(args).unwrap_or_default() {
        let readers = engine.tracking.readers.entry(args.at(at).into()).or_default();
        if !readers.contains(&who) {
            readers.push(who);
        }
    }
}

/// A key whose readers are to be forgotten, because too many are remembered; to be safe they take it as changed.
fn too_many(engine: &Engine) -> Option<Box<[u8]>> {
    let most = engine.settings.size(Name::tracking_table_max_keys);
    (most > 0 && engine.tracking.readers.len() > most).then(|| engine.tracking.readers.keys().next().cloned()).flatten()
}

/// A client that is not being served has read the keys of a request, elsewhere.
pub fn has_read(engine: &mut Engine, who: (Token, u64), row: &Command, args: &Args<'_>) {
    note(engine, who, row, args);
    while let Some(key) = too_many(engine) {
        tell_readers(engine, 0, &key);
    }
}

/// A key changed elsewhere, by this client or by none that is known: those who read it are told.
pub fn tell_readers(engine: &mut Engine, by: u64, key: &[u8]) {
    tell_those_who_read(engine, None, by, key);
}

/// A key changed elsewhere: those in broadcast mode are told with the next [`broadcast`].
pub fn changed_somewhere(engine: &mut Engine, key: &[u8]) {
    if engine.tracking.broadcasters > 0 {
        engine.tracking.changed.insert(key.into(), 0);
    }
}

/// Whatever clients keep is void.
pub fn everything_changed(engine: &mut Engine) {
    engine.tracking.readers.clear();
    for who in engine.tracking.clients.clone() {
        tell(engine, None, who, None);
    }
}

/// A key changed: those who read it are told. `serving` is the client being served, who changed it.
pub fn changed(engine: &mut Engine, serving: Option<&mut Client>, key: &[u8]) {
    if !engine.tracking.is_on() {
        return;
    }
    let by = serving.as_ref().map_or(0, |client| client.id);
    if engine.tracking.broadcasters > 0 {
        engine.tracking.changed.insert(key.into(), by);
    }
    tell_those_who_read(engine, serving, by, key);
}

fn tell_those_who_read(engine: &mut Engine, serving: Option<&mut Client>, by: u64, key: &[u8]) {
    let mut serving = serving;
    for (token, id) in engine.tracking.readers.remove(key).unwrap_or_default() {
        let tracking = match serving.as_deref() {
            Some(client) if client.id == id => client.tracking.clone(),
            _ => engine.clients.get(token).filter(|client| client.id == id).and_then(|client| client.tracking.clone()),
        };
        let Some(tracking) = tracking else { continue };
        if tracking.broadcast || (tracking.no_loop && id == by) {
            continue;
        }
        tell(engine, serving.as_deref_mut(), (token, id), Some(&[key]));
    }
}

/// All keys went at once: whatever clients keep is void.
pub fn all_changed(engine: &mut Engine, serving: &mut Client) {
    engine.tracking.readers.clear();
    for who in engine.tracking.clients.clone() {
        tell(engine, Some(serving), who, None);
    }
}

/// Tell those in broadcast mode which keys changed since the last call.
pub fn broadcast(engine: &mut Engine) {
    if engine.tracking.changed.is_empty() {
        return;
    }
    let changed: Vec<(Box<[u8]>, u64)> = engine.tracking.changed.drain().collect();
    for (token, id) in engine.tracking.clients.clone() {
        let Some(tracking) = engine.clients.get(token).and_then(|client| client.tracking.as_deref()) else {
            continue;
        };
        if !tracking.broadcast {
            continue;
        }
        let groups: Vec<Vec<&[u8]>> = tracking
            .prefixes
            .iter()
            .map(|prefix| {
                changed
                    .iter()
                    .filter(|(key, by)| key.starts_with(prefix) && !(tracking.no_loop && *by == id))
                    .map(|(key, _)| &**key)
                    .collect()
            })
            .collect();
        for keys in groups.iter().filter(|keys| !keys.is_empty()) {
            tell(engine, None, (token, id), Some(keys));
        }
    }
}

/// Tell a client, or whom it redirects to, that these keys changed; `None` for all keys.
fn tell(engine: &mut Engine, serving: Option<&mut Client>, who: (Token, u64), keys: Option<&[&[u8]]>) {
    let mut serving = serving;
    let told = match serving.as_deref_mut() {
        Some(client) if client.id == who.1 => Some(client),
        _ => engine.clients.get_mut(who.0).filter(|client| client.id == who.1),
    };
    let Some(client) = told else { return };
    let (resp3, routed) = (client.resp3, client.routed);
    let (redirect, at) =
        client.tracking.as_ref().map_or((0, None), |tracking| (tracking.redirect, tracking.redirect_to));
    if redirect == 0 {
        // Who routes for others tells pushes and replies apart in RESP2, too.
        if resp3 || routed {
            let message = message(true, true, keys);
            send(engine, serving, who.0, &message);
        }
        return;
    }
    let target = match serving.as_deref() {
        Some(client) if client.id == redirect => Some((client.token, client.resp3, client.subscriptions() > 0)),
        _ => at
            .and_then(|token| engine.clients.get(token))
            .filter(|client| client.id == redirect && !client.dead)
            .map(|client| (client.token, client.resp3, client.subscriptions() > 0)),
    };
    match target {
        Some((token, true, _)) => send(engine, serving, token, &message(true, resp3, keys)),
        Some((token, false, true)) => send(engine, serving, token, &message(false, resp3, keys)),
        Some(_) => {} // RESP2 has no messages outside of subscriptions.
        None => {
            let told = match serving.as_deref_mut() {
                Some(client) if client.id == who.1 => Some(client),
                _ => engine.clients.get_mut(who.0),
            };
            if let Some(tracking) = told.and_then(|client| client.tracking.as_deref_mut()) {
                tracking.broken_redirect = true;
            }
            if resp3 {
                let mut message = Reply::new(true);
                message.push(2);
                message.bulk(b"tracking-redir-broken");
                message.integer(redirect as i64);
                send(engine, serving, who.0, &message);
            }
        }
    }
}

fn message(resp3: bool, asker_speaks_resp3: bool, keys: Option<&[&[u8]]>) -> Reply {
    let mut message = Reply::new(resp3);
    if resp3 {
        message.push(2);
        message.bulk(b"invalidate");
    } else {
        message.push(3);
        message.bulk(b"message");
        message.bulk(b"__redis__:invalidate");
    }
    match keys {
        Some(keys) => {
            message.array(keys.len());
            for key in keys {
                message.bulk(key);
            }
        }
        // The null is that of the protocol the tracked client speaks, whoever reads it.
        None => message.raw(if asker_speaks_resp3 { b"_\r\n" } else { b"$-1\r\n" }),
    }
    message
}

fn send(engine: &mut Engine, serving: Option<&mut Client>, token: Token, message: &Reply) {
    match serving {
        Some(client) if client.token == token => client.pending.extend_from_slice(message.bytes()),
        _ => engine.send(token, message.bytes()),
    }
}

/// Track a client no longer.
pub fn stop(engine: &mut Engine, client: &mut Client) {
    let Some(tracking) = client.tracking.take() else {
        return;
    };
    engine.tracking.broadcasters -= usize::from(tracking.broadcast);
    engine.tracking.clients.retain(|&(token, _)| token != client.token);
    if engine.tracking.clients.is_empty() {
        engine.tracking = Tracker::default();
    }
    engine.tell_gone_if_needed();
}

/// CLIENT TRACKING
pub fn tracking(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut wanted = Tracking::default();
    let mut at = 3;
    while at < args.len() {
        let value = args.get(at + 1);
        if let (true, Some(_)) = (args.is(at, "REDIRECT"), value) {
            at += 1;
            if wanted.redirect != 0 {
                return Err(Fault::new("ERR A client can only redirect to a single other client"));
            }
            let id = args.integer(at)?;
            let other = || ctx.engine.clients.iter().find(|client| client.id as i64 == id).map(|client| client.token);
            let there = if ctx.client.id as i64 == id { Some(ctx.client.token) } else { other() };
            if there.is_none() {
                return Err(Fault::new("ERR The client ID you want redirect to does not exist"));
            }
            (wanted.redirect, wanted.redirect_to) = (id as u64, there);
        } else if args.is(at, "BCAST") {
            wanted.broadcast = true;
        } else if args.is(at, "OPTIN") {
            wanted.opt_in = true;
        } else if args.is(at, "OPTOUT") {
            wanted.opt_out = true;
        } else if args.is(at, "NOLOOP") {
            wanted.no_loop = true;
        } else if let (true, Some(prefix)) = (args.is(at, "PREFIX"), value) {
            at += 1;
            wanted.prefixes.push(prefix.into());
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    if args.is(2, "ON") {
        turn_on(ctx, wanted)?;
    } else if args.is(2, "OFF") {
        stop(ctx.engine, ctx.client);
    } else {
        return Err(Fault::SYNTAX);
    }
    ctx.out.ok();
    Ok(())
}

fn turn_on(ctx: &mut Ctx<'_>, wanted: Tracking) -> Done {
    if !wanted.broadcast && !wanted.prefixes.is_empty() {
        return Err(Fault::new("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    let before = ctx.client.tracking.as_deref();
    if before.is_some_and(|before| before.broadcast != wanted.broadcast) {
        return Err(Fault::new(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    if wanted.broadcast && (wanted.opt_in || wanted.opt_out) {
        return Err(Fault::new("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if wanted.opt_in && wanted.opt_out {
        return Err(Fault::new("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    if before.is_some_and(|before| (wanted.opt_in && before.opt_out) || (wanted.opt_out && before.opt_in)) {
        return Err(Fault::new(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    let old = before.map(|before| before.prefixes.clone()).unwrap_or_default();
    check_overlaps(&old, &wanted.prefixes)?;
    let said = before.is_some_and(|before| before.said);
    if before.is_none() {
        ctx.engine.tracking.clients.push((ctx.client.token, ctx.client.id));
        ctx.engine.tracking.broadcasters += usize::from(wanted.broadcast);
    }
    let everything: Box<[u8]> = Box::default();
    let everything =
        (wanted.broadcast && wanted.prefixes.is_empty() && !old.contains(&everything)).then_some(everything);
    let prefixes = old.into_iter().chain(wanted.prefixes).chain(everything).collect();
    ctx.client.tracking = Some(Box::new(Tracking { prefixes, said, ..wanted }));
    ctx.engine.tell_gone_if_needed();
    Ok(())
}

/// One client's prefixes may not contain each other: it would be told twice.
fn check_overlaps(old: &[Box<[u8]>], new: &[Box<[u8]>]) -> Done {
    let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
    for (index, prefix) in new.iter().enumerate() {
        let existing = old.iter().find(|each| overlap(prefix, each)).map(|each| ("an existing", each));
        let given =
            || new[index + 1..].iter().find(|each| overlap(prefix, each)).map(|each| ("another provided", each));
        if let Some((which, other)) = existing.or_else(given) {
            return Err(Fault::new(format!(
                "ERR Prefix '{}' overlaps with {which} prefix '{}'. Prefixes for a single client must not overlap.",
                String::from_utf8_lossy(prefix),
                String::from_utf8_lossy(other)
            )));
        }
    }
    Ok(())
}

/// CLIENT CACHING YES | NO
pub fn caching(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(tracking) = ctx.client.tracking.as_deref_mut().filter(|tracking| tracking.opt_in || tracking.opt_out)
    else {
        return Err(Fault::new(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    let refused = |word: &str, mode: &str| {
        Fault::new(format!("ERR CLIENT CACHING {word} is only valid when tracking is enabled in {mode} mode."))
    };
    if args.is(2, "YES") {
        if !tracking.opt_in {
            return Err(refused("YES", "OPTIN"));
        }
    } else if args.is(2, "NO") {
        if !tracking.opt_out {
            return Err(refused("NO", "OPTOUT"));
        }
    } else {
        return Err(Fault::SYNTAX);
    }
    tracking.said = true;
    ctx.out.ok();
    Ok(())
}

/// CLIENT GETREDIR
pub fn get_redirection(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.integer(ctx.client.tracking.as_ref().map_or(-1, |tracking| tracking.redirect as i64));
    Ok(())
}

/// CLIENT TRACKINGINFO
pub fn tracking_info(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let mut tracking = ctx.client.tracking.as_deref().cloned().unwrap_or_default();
    tracking.prefixes.sort();
    let on = ctx.client.tracking.is_some();
    let flags: Vec<&[u8]> = [
        (if on { &b"on"[..] } else { b"off" }, true),
        (b"bcast", tracking.broadcast),
        (b"optin", tracking.opt_in),
        (b"caching-yes", tracking.opt_in && tracking.said),
        (b"optout", tracking.opt_out),
        (b"caching-no", tracking.opt_out && tracking.said),
        (b"noloop", tracking.no_loop),
        (b"broken_redirect", tracking.broken_redirect),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(name, _)| name)
    .collect();
    ctx.out.map(3);
    ctx.out.bulk(b"flags");
    ctx.out.set(flags.len());
    for name in flags {
        ctx.out.bulk(name);
    }
    ctx.out.bulk(b"redirect");
    ctx.out.integer(if on { tracking.redirect as i64 } else { -1 });
    ctx.out.bulk(b"prefixes");
    ctx.out.array(tracking.prefixes.len());
    for prefix in &tracking.prefixes {
        ctx.out.bulk(prefix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn who_read_a_key_is_told_once_that_it_changed() {
        let mut node = Node::new();
        let reader = node.connect();
        node.ask_as(reader, &["HELLO", "3"]);
        assert_eq!(node.ask_as(reader, &["CLIENT", "TRACKING", "ON"]), "+OK");
        node.line("SET k 1");
        assert_eq!(node.heard(reader), "");
        node.ask_as(reader, &["GET", "k"]);
        node.line("SET k 2");
        node.line("SET k 3");
        assert_eq!(node.heard(reader), ">2 $10 invalidate *1 $1 k");
        node.ask_as(reader, &["GET", "k"]);
        assert_eq!(node.ask_as(reader, &["SET", "k", "4"]), "+OK >2 $10 invalidate *1 $1 k");
        node.ask_as(reader, &["GET", "k"]);
        node.line("PEXPIRE k 5");
        node.ask_as(reader, &["GET", "k"]);
        node.heard(reader);
        node.pass(10);
        node.line("GET k");
        assert_eq!(node.heard(reader), ">2 $10 invalidate *1 $1 k");
        node.line("FLUSHALL");
        assert_eq!(node.heard(reader), ">2 $10 invalidate _");
    }

    #[test]
    fn a_client_may_choose_what_is_tracked() {
        let mut node = Node::new();
        let reader = node.connect();
        node.ask_as(reader, &["HELLO", "3"]);
        node.ask_as(reader, &["CLIENT", "TRACKING", "ON", "OPTIN"]);
        node.ask_as(reader, &["GET", "a"]);
        node.ask_as(reader, &["CLIENT", "CACHING", "YES"]);
        node.ask_as(reader, &["GET", "b"]);
        node.ask_as(reader, &["GET", "c"]);
        node.line("MSET a 1 b 1 c 1");
        assert_eq!(node.heard(reader), ">2 $10 invalidate *1 $1 b");
    }

    #[test]
    fn broadcasts_go_by_prefix_and_news_can_go_to_another() {
        let mut node = Node::new();
        let (reader, listener) = (node.connect(), node.connect());
        let id = node.ask_as(listener, &["CLIENT", "ID"]).trim_start_matches(':').to_owned();
        node.ask_as(listener, &["SUBSCRIBE", "__redis__:invalidate"]);
        node.ask_as(reader, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a:", "REDIRECT", &id]);
        node.line("MSET a:1 x b:1 x");
        assert_eq!(node.heard(listener), "*3 $7 message $20 __redis__:invalidate *1 $3 a:1");
        assert_eq!(
            node.ask_as(reader, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a:2"]),
            "-ERR Prefix 'a:2' overlaps with an existing prefix 'a:'. Prefixes for a single client must not overlap."
        );
    }
}
