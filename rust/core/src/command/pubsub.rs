//! Channels: SUBSCRIBE, PUBLISH and their like, and the keyspace events that travel on them.

use super::client::{Client, Token};
use super::fault::{Done, Fault};
use super::notify::{KEYEVENT, KEYSPACE};
use super::table::{Begin, Command, Find, KeySpec, KeyUse, flag};
use super::{Ctx, Engine};
use crate::resp::{Args, Reply};
use std::collections::HashMap;

const LISTEN: u32 = flag::PUBSUB | flag::NOSCRIPT | flag::LOADING | flag::STALE;
const TELL: u32 = flag::PUBSUB | flag::LOADING | flag::STALE;
const NOT_A_KEY: KeyUse = KeyUse(&["not_key"]);

const fn shard_channels(last: i32) -> KeySpec {
    KeySpec { uses: NOT_A_KEY, begin: Begin::At(1), find: Find::Range { last, step: 1, limit: 0 } }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "pubsub",
        since: "2.0.0",
        summary: "Listens to channels.",
        syntax: "channel [channel ...]",
        ..Command::new("subscribe", subscribe, -2, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "2.0.0",
        summary: "Stops listening to these channels, or to all.",
        syntax: "[channel ...]",
        ..Command::new("unsubscribe", unsubscribe, -1, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "2.0.0",
        summary: "Listens to all channels that match a pattern.",
        syntax: "pattern [pattern ...]",
        ..Command::new("psubscribe", psubscribe, -2, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "2.0.0",
        summary: "Stops listening to these patterns, or to all.",
        syntax: "[pattern ...]",
        ..Command::new("punsubscribe", punsubscribe, -1, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "7.0.0",
        summary: "Listens to sharded channels.",
        syntax: "shardchannel [shardchannel ...]",
        keys: &[shard_channels(-1)],
        ..Command::new("ssubscribe", ssubscribe, -2, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "7.0.0",
        summary: "Stops listening to these sharded channels, or to all.",
        syntax: "[shardchannel ...]",
        keys: &[shard_channels(-1)],
        ..Command::new("sunsubscribe", sunsubscribe, -1, LISTEN)
    },
    Command {
        group: "pubsub",
        since: "2.0.0",
        summary: "Sends a message to all who listen to a channel.",
        syntax: "channel message",
        ..Command::new("publish", publish, 3, TELL | flag::FAST | flag::MAY_REPLICATE)
    },
    Command {
        group: "pubsub",
        since: "7.0.0",
        summary: "Sends a message to all who listen to a sharded channel.",
        syntax: "shardchannel message",
        keys: &[shard_channels(0)],
        ..Command::new("spublish", spublish, 3, TELL | flag::FAST | flag::MAY_REPLICATE)
    },
    Command {
        group: "pubsub",
        since: "2.8.0",
        summary: "Tells who listens to what.",
        subcommands: &[
            Command {
                group: "pubsub",
                since: "2.8.0",
                summary: "Names the channels that somebody listens to.",
                syntax: "[pattern]",
                ..Command::new("channels", pubsub_channels, -2, TELL)
            },
            Command {
                group: "pubsub",
                since: "2.8.0",
                summary: "Counts the listeners of channels.",
                syntax: "[channel ...]",
                ..Command::new("numsub", pubsub_numsub, -2, TELL)
            },
            Command {
                group: "pubsub",
                since: "2.8.0",
                summary: "Counts the patterns that somebody listens to.",
                ..Command::new("numpat", pubsub_numpat, 2, TELL)
            },
            Command {
                group: "pubsub",
                since: "7.0.0",
                summary: "Names the sharded channels that somebody listens to.",
                syntax: "[pattern]",
                ..Command::new("shardchannels", pubsub_shardchannels, -2, TELL)
            },
            Command {
                group: "pubsub",
                since: "7.0.0",
                summary: "Counts the listeners of sharded channels.",
                syntax: "[shardchannel ...]",
                ..Command::new("shardnumsub", pubsub_shardnumsub, -2, TELL)
            },
            Command {
                group: "pubsub",
                since: "6.2.0",
                summary: "Lists the sub-commands.",
                ..Command::new("help", pubsub_help, 2, flag::LOADING | flag::STALE)
            },
        ],
        ..Command::new("pubsub", super::server::needs_subcommand, -2, 0)
    },
];

/// Commands that a RESP2 client may send while it listens.
pub fn allowed_while_subscribed(row: &Command) -> bool {
    matches!(
        row.name,
        "subscribe"
            | "unsubscribe"
            | "psubscribe"
            | "punsubscribe"
            | "ssubscribe"
            | "sunsubscribe"
            | "ping"
            | "quit"
            | "reset"
    )
}

/// The arguments of a request that are channels, or patterns of channels, which its user must be allowed.
pub fn channels_of(row: &Command, args: &Args<'_>) -> std::ops::Range<usize> {
    match row.name {
        "subscribe" | "psubscribe" | "ssubscribe" => 1..args.len(),
        "publish" | "spublish" => 1..2.min(args.len()),
        _ => 0..0,
    }
}

/// Whether the arguments are patterns.
pub fn takes_patterns(row: &Command) -> bool {
    row.name == "psubscribe"
}

/// For how many listeners a connection stands, where that is not one.
pub type StandsFor = Option<Box<HashMap<(Way, Box<[u8]>), usize>>>;

/// The three ways to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Way {
    fn named(args: &Args<'_>, at: usize) -> Option<Way> {
        let ways = [("CHANNEL", Way::Channel), ("PATTERN", Way::Pattern), ("SHARD", Way::Shard)];
        ways.into_iter().find(|(name, _)| args.is(at, name)).map(|(_, way)| way)
    }

    fn of(self, client: &mut Client) -> &mut Vec<Box<[u8]>> {
        match self {
            Way::Channel => &mut client.channels,
            Way::Pattern => &mut client.patterns,
            Way::Shard => &mut client.shard_channels,
        }
    }

    /// The count that replies carry: sharded channels are counted apart.
    fn count(self, client: &Client) -> usize {
        match self {
            Way::Shard => client.shard_channels.len(),
            _ => client.channels.len() + client.patterns.len(),
        }
    }
}

fn listen(ctx: &mut Ctx<'_>, args: &Args<'_>, way: Way, word: &[u8]) -> Done {
    for name in args.from(1) {
        if !way.of(ctx.client).iter().any(|each| **each == *name) {
            way.of(ctx.client).push(name.into());
            add(ctx.engine, way, name, ctx.client.token);
        }
        ctx.out.push(3);
        ctx.out.bulk(word);
        ctx.out.bulk(name);
        ctx.out.count(way.count(ctx.client));
    }
    Ok(())
}

fn stop_listening(ctx: &mut Ctx<'_>, args: &Args<'_>, way: Way, word: &[u8]) -> Done {
    let names: Vec<Box<[u8]>> =
        if args.len() > 1 { args.from(1).map(Box::from).collect() } else { way.of(ctx.client).clone() };
    if names.is_empty() {
        ctx.out.push(3);
        ctx.out.bulk(word);
        ctx.out.null();
        ctx.out.count(way.count(ctx.client));
    }
    for name in names {
        way.of(ctx.client).retain(|each| *each != name);
        if let Some(numbers) = &mut ctx.client.stands_for {
            numbers.remove(&(way, name.clone()));
        }
        drop_listener(ctx.engine, way, &name, ctx.client.token);
        ctx.out.push(3);
        ctx.out.bulk(word);
        ctx.out.bulk(&name);
        ctx.out.count(way.count(ctx.client));
    }
    Ok(())
}

fn add(engine: &mut Engine, way: Way, name: &[u8], token: Token) {
    note_audience(engine, way, name);
    match way {
        Way::Channel => engine.channels.entry(name.into()).or_default().push(token),
        Way::Shard => engine.shard_channels.entry(name.into()).or_default().push(token),
        Way::Pattern => match engine.patterns.iter_mut().find(|(each, _)| **each == *name) {
            Some((_, tokens)) => tokens.push(token),
            None => engine.patterns.push((name.into(), vec![token])),
        },
    }
}

fn drop_listener(engine: &mut Engine, way: Way, name: &[u8], token: Token) {
    note_audience(engine, way, name);
    if way == Way::Pattern {
        if let Some((_, tokens)) = engine.patterns.iter_mut().find(|(each, _)| **each == *name) {
            tokens.retain(|&each| each != token);
        }
        return engine.patterns.retain(|(_, tokens)| !tokens.is_empty());
    }
    let map = if way == Way::Channel { &mut engine.channels } else { &mut engine.shard_channels };
    let left = map.get_mut(name).is_some_and(|tokens| {
        tokens.retain(|&each| each != token);
        tokens.is_empty()
    });
    if left {
        map.remove(name);
    }
}

fn note_audience(engine: &mut Engine, way: Way, name: &[u8]) {
    if let Some(audiences) = engine.audiences.as_mut() {
        audiences.push((way, name.into()));
    }
}

/// How many listen in this way.
pub(crate) fn audience(engine: &Engine, way: Way, name: &[u8]) -> usize {
    let tokens = match way {
        Way::Channel => engine.channels.get(name),
        Way::Shard => engine.shard_channels.get(name),
        Way::Pattern => engine.patterns.iter().find(|(each, _)| **each == *name).map(|(_, tokens)| tokens),
    };
    tokens.map_or(0, |tokens| listeners_of(engine, tokens, way, name))
}

/// How many listeners these clients are: a proxy listens once for all of its own.
fn listeners_of(engine: &Engine, tokens: &[Token], way: Way, name: &[u8]) -> usize {
    let stands_for = |token: &Token| {
        let numbers = engine.clients.get(*token).and_then(|client| client.stands_for.as_ref());
        numbers.and_then(|numbers| numbers.get(&(way, name.into())).copied()).unwrap_or(1)
    };
    tokens.iter().map(stands_for).fold(0, usize::saturating_add)
}

/// A connection can stand for so many listeners at most: the count of many such must still be a number.
const MOST_LISTENERS: i64 = 1 << 32;

/// FASTCACHE LISTENERS way name count
pub fn listeners(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let way = Way::named(args, 2).ok_or(Fault::SYNTAX)?;
    let wrong = Fault::of("ERR the number of listeners is out of range");
    let count = args.integer_within(4, 1, MOST_LISTENERS, wrong)?;
    let name = args.at(3);
    if !way.of(ctx.client).iter().any(|each| **each == *name) {
        return Err(Fault::of("ERR this connection does not listen to that"));
    }
    let numbers = ctx.client.stands_for.get_or_insert_default();
    match count {
        1 => numbers.remove(&(way, name.into())),
        _ => numbers.insert((way, name.into()), count as usize),
    };
    note_audience(ctx.engine, way, name);
    ctx.out.ok();
    Ok(())
}

fn subscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    listen(ctx, args, Way::Channel, b"subscribe")
}

fn psubscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    listen(ctx, args, Way::Pattern, b"psubscribe")
}

fn ssubscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    listen(ctx, args, Way::Shard, b"ssubscribe")
}

fn unsubscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    stop_listening(ctx, args, Way::Channel, b"unsubscribe")
}

fn punsubscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    stop_listening(ctx, args, Way::Pattern, b"punsubscribe")
}

fn sunsubscribe(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    stop_listening(ctx, args, Way::Shard, b"sunsubscribe")
}

/// Forget all that a client listens to.
pub fn unsubscribe_all(engine: &mut Engine, client: &mut Client) {
    client.stands_for = None;
    for way in [Way::Channel, Way::Pattern, Way::Shard] {
        for name in std::mem::take(way.of(client)) {
            drop_listener(engine, way, &name, client.token);
        }
    }
}

fn publish(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let heard = tell(ctx.engine, Some(ctx.client), Some(ctx.out), args.at(1), args.at(2));
    ctx.out.count(heard);
    Ok(())
}

fn spublish(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let tokens = ctx.engine.shard_channels.get(args.at(1)).cloned().unwrap_or_default();
    for &token in &tokens {
        send(ctx.engine, Some(ctx.client), Some(ctx.out), token, &[b"smessage", args.at(1), args.at(2)]);
    }
    let heard = listeners_of(ctx.engine, &tokens, Way::Shard, args.at(1));
    ctx.out.count(heard);
    Ok(())
}

/// Send a message to all who listen to a channel; returns to how many. `serving` is the client
/// being served, who is not among the others and whose reply is `out`.
pub fn tell(
    engine: &mut Engine,
    serving: Option<&mut Client>,
    out: Option<&mut Reply>,
    channel: &[u8],
    message: &[u8],
) -> usize {
    if engine.channels.is_empty() && engine.patterns.is_empty() {
        return 0;
    }
    let (mut serving, mut out) = (serving, out);
    let mut heard = 0;
    let tokens = engine.channels.get(channel).cloned().unwrap_or_default();
    heard += listeners_of(engine, &tokens, Way::Channel, channel);
    for token in tokens {
        send(engine, serving.as_deref_mut(), out.as_deref_mut(), token, &[b"message", channel, message]);
    }
    let matching: Vec<(Box<[u8]>, Vec<Token>)> =
        engine.patterns.iter().filter(|(pattern, _)| super::glob::glob(pattern, channel, false)).cloned().collect();
    for (pattern, tokens) in matching {
        heard += listeners_of(engine, &tokens, Way::Pattern, &pattern);
        for token in tokens {
            send(engine, serving.as_deref_mut(), out.as_deref_mut(), token, &[b"pmessage", &pattern, channel, message]);
        }
    }
    heard
}

/// Pass on a message that came from elsewhere, as `message CHANNEL TEXT`, `pmessage PATTERN CHANNEL TEXT` or
/// `smessage CHANNEL TEXT`, to those who asked for it in that way.
pub fn pass_on(engine: &mut Engine, parts: &[&[u8]]) {
    let [kind, name, ..] = parts else { return };
    let tokens = match *kind {
        b"message" => engine.channels.get(*name).cloned(),
        b"smessage" => engine.shard_channels.get(*name).cloned(),
        b"pmessage" => engine.patterns.iter().find(|(each, _)| **each == **name).map(|(_, tokens)| tokens.clone()),
        _ => None,
    };
    for token in tokens.unwrap_or_default() {
        send(engine, None, None, token, parts);
    }
}

fn send(engine: &mut Engine, serving: Option<&mut Client>, out: Option<&mut Reply>, token: Token, parts: &[&[u8]]) {
    let to_self = serving.filter(|client| client.token == token);
    let resp3 = match &to_self {
        Some(client) => client.resp3,
        None => engine.clients.get(token).is_some_and(|client| client.resp3),
    };
    let mut message = Reply::new(resp3);
    message.push(parts.len());
    for part in parts {
        message.bulk(part);
    }
    match (to_self, out) {
        (Some(_), Some(out)) => out.raw(message.bytes()),
        (Some(client), None) => client.pending.extend_from_slice(message.bytes()),
        (None, _) => engine.send(token, message.bytes()),
    }
}

/// Publish a keyspace event, if its class is wanted. The message to the client being served, if it
/// listens to its own events, follows its replies.
pub fn notify(engine: &mut Engine, serving: Option<&mut Client>, database: u8, class: u32, event: &str, key: &[u8]) {
    if engine.events & class == 0 || (engine.channels.is_empty() && engine.patterns.is_empty()) {
        return;
    }
    let mut serving = serving;
    if engine.events & KEYSPACE != 0 {
        let mut channel = format!("__keyspace@{database}__:").into_bytes();
        channel.extend_from_slice(key);
        tell(engine, serving.as_deref_mut(), None, &channel, event.as_bytes());
    }
    if engine.events & KEYEVENT != 0 {
        let channel = format!("__keyevent@{database}__:{event}");
        tell(engine, serving, None, channel.as_bytes(), key);
    }
}

fn pubsub_channels(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let names: Vec<Box<[u8]>> = ctx.engine.channels.keys().cloned().collect();
    write_matching(ctx, args, &names)
}

fn pubsub_shardchannels(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let names: Vec<Box<[u8]>> = ctx.engine.shard_channels.keys().cloned().collect();
    write_matching(ctx, args, &names)
}

fn write_matching(ctx: &mut Ctx<'_>, args: &Args<'_>, names: &[Box<[u8]>]) -> Done {
    if args.len() > 3 {
        return Err(super::server::unknown_subcommand_or_arity("PUBSUB", args.at(1)));
    }
    let pattern = args.get(2);
    let wanted: Vec<_> =
        names.iter().filter(|name| pattern.is_none_or(|pattern| super::glob::glob(pattern, name, false))).collect();
    ctx.out.array(wanted.len());
    for name in wanted {
        ctx.out.bulk(name);
    }
    Ok(())
}

fn pubsub_numsub(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.out.array(args.len().saturating_sub(2) * 2);
    for name in args.from(2) {
        let count = audience(ctx.engine, Way::Channel, name);
        ctx.out.bulk(name);
        ctx.out.count(count);
    }
    Ok(())
}

fn pubsub_shardnumsub(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.out.array(args.len().saturating_sub(2) * 2);
    for name in args.from(2) {
        let count = audience(ctx.engine, Way::Shard, name);
        ctx.out.bulk(name);
        ctx.out.count(count);
    }
    Ok(())
}

fn pubsub_numpat(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.count(ctx.engine.patterns.len());
    Ok(())
}

fn pubsub_help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    super::server::help(ctx, "PUBSUB");
    Ok(())
}
