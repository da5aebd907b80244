//! A client as CLIENT LIST and CLIENT INFO show it, and the ways to choose among clients.

use super::client::{Client, Token};
use super::fault::{Done, Fault};
use super::introspect::full_name_of;
use super::{Ctx, blocking};
use crate::resp::Args;

/// Bytes of a request as the protocol writes it: what its client had in the buffer when it was served.
fn request_bytes(args: &Args<'_>) -> usize {
    let digits = |number: usize| number.to_string().len();
    3 + digits(args.len()) + args.from(0).map(|arg| 5 + digits(arg.len()) + arg.len()).sum::<usize>()
}

/// Letters for what a client is doing, `N` for nothing special.
fn flags(client: &Client) -> String {
    let tracking = client.tracking.as_deref();
    let letters: String = [
        ('O', client.monitor),
        ('P', client.subscriptions() > 0),
        ('x', client.multi.is_some()),
        ('b', client.blocked.is_some()),
        ('t', tracking.is_some()),
        ('R', tracking.is_some_and(|tracking| tracking.broken_redirect)),
        ('B', tracking.is_some_and(|tracking| tracking.broadcast)),
        ('d', client.watch_broken),
        ('c', client.closing),
        ('A', client.dead),
        ('U', client.by_unix_socket),
        ('e', client.no_evict),
        ('T', client.no_touch),
    ]
    .iter()
    .filter(|(_, set)| *set)
    .map(|(letter, _)| *letter)
    .collect();
    if letters.is_empty() { "N".to_owned() } else { letters }
}

fn word(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line of a client. `serving` is the request of the client that is being served.
pub fn line(client: &Client, now: u64, serving: Option<&Args<'_>>) -> String {
    let command = client.last_command.map_or_else(|| "NULL".to_owned(), full_name_of);
    let query = client.query_bytes + serving.map_or(0, request_bytes);
    let free = if serving.is_some() { 20474usize.saturating_sub(query) } else { 0 };
    let argv = serving.map_or(0, |args| args.from(0).map(<[u8]>::len).sum());
    let multi = client.multi.as_ref();
    let queued: usize = multi.map_or(0, |multi| multi.queue.iter().map(|(_, args)| args.heap_bytes()).sum());
    let unsent = client.pending.len();
    let total = size_of::<Client>() + query + free + argv + queued + client.pending.capacity();
    let mut line = format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} qbuf={query} \
         qbuf-free={free} argv-mem={argv} multi-mem={queued} rbs=0 rbp=0 obl=0 oll={} omem={unsent} tot-mem={total} \
         events={} cmd={command} user={} redir={} resp={}",
        client.id,
        client.address,
        client.local_address,
        client.socket,
        word(&client.name),
        now.saturating_sub(client.since) / 1000,
        if serving.is_some() { 0 } else { now.saturating_sub(client.last_seen) / 1000 },
        flags(client),
        client.database,
        client.channels.len(),
        client.patterns.len(),
        client.shard_channels.len(),
        multi.map_or(-1, |multi| multi.queue.len() as i64),
        usize::from(unsent > 0),
        if unsent > 0 { "rw" } else { "r" },
        word(client.user_name()),
        client.tracking.as_ref().map_or(-1, |tracking| tracking.redirect as i64),
        if client.resp3 { 3 } else { 2 },
    );
    // Fields of later versions, shown once a client has said who it is.
    if client.library != (Vec::new(), Vec::new()) {
        line.push_str(&format!(" lib-name={} lib-ver={}", word(&client.library.0), word(&client.library.1)));
    }
    line.push('\n');
    line
}

/// The classes of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Sends requests.
    Normal,
    /// Is a replica; there are none of that kind here, but for who monitors.
    Replica,
    /// Listens to channels.
    PubSub,
    /// Is the node this one copies; there is none.
    Master,
}

impl Class {
    /// Read a class's name.
    pub fn named(name: &[u8]) -> Result<Class, Fault> {
        let known: [(&[u8], Class); 5] = [
            (b"normal", Class::Normal),
            (b"slave", Class::Replica),
            (b"replica", Class::Replica),
            (b"pubsub", Class::PubSub),
            (b"master", Class::Master),
        ];
        known.iter().find(|(each, _)| name.eq_ignore_ascii_case(each)).map(|&(_, class)| class).ok_or_else(|| {
            let mut text = b"ERR Unknown client type '".to_vec();
            text.extend_from_slice(name);
            text.push(b'\'');
            Fault::bytes(text)
        })
    }

    fn of(client: &Client) -> Class {
        if client.monitor {
            Class::Replica
        } else if client.subscriptions() > 0 {
            Class::PubSub
        } else {
            Class::Normal
        }
    }
}

/// CLIENT LIST [TYPE class] [ID id ...]
pub fn list(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut class = None;
    let mut ids: Option<Vec<i64>> = None;
    if args.len() == 4 && args.is(2, "TYPE") {
        class = Some(Class::named(args.at(3))?);
    } else if args.len() > 3 && args.is(2, "ID") {
        let given: Result<Vec<i64>, Fault> = (3..args.len()).map(|at| args.integer(at)).collect();
        ids = Some(given.map_err(|_| Fault::new("ERR Invalid client ID"))?);
    } else if args.len() != 2 {
        return Err(Fault::SYNTAX);
    }
    let now = ctx.engine.store.now();
    let wanted = |client: &Client| {
        !client.dead
            && !client.peer
            && class.is_none_or(|class| Class::of(client) == class)
            && ids.as_ref().is_none_or(|ids| ids.contains(&(client.id as i64)))
    };
    let mut lines: Vec<(u64, String)> = ctx
        .engine
        .clients
        .iter()
        .filter(|client| wanted(client))
        .map(|client| (client.id, line(client, now, None)))
        .collect();
    if wanted(ctx.client) {
        lines.push((ctx.client.id, line(ctx.client, now, Some(args))));
    }
    // In the order of connecting, or in the order asked for.
    match &ids {
        Some(ids) => lines.sort_by_key(|(id, _)| ids.iter().position(|each| *each == *id as i64)),
        None => lines.sort_by_key(|(id, _)| *id),
    }
    let text: String = lines.into_iter().map(|(_, line)| line).collect();
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

/// CLIENT INFO
pub fn info(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let line = line(ctx.client, ctx.engine.store.now(), Some(args));
    ctx.out.verbatim(line.as_bytes());
    Ok(())
}

/// Which clients CLIENT KILL means. What is not said does not matter.
#[derive(Default)]
struct Chosen<'a> {
    id: Option<u64>,
    class: Option<Class>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    older_than: Option<u64>,
    user: Option<super::acl::UserId>,
}

impl Chosen<'_> {
    fn takes(&self, client: &Client, now: u64) -> bool {
        !client.dead
            && !client.peer
            && self.id.is_none_or(|id| client.id == id)
            && self.class.is_none_or(|class| Class::of(client) == class)
            && self.user.is_none_or(|user| client.user == user)
            && self.address.is_none_or(|address| client.address.as_bytes() == address)
            && self.local_address.is_none_or(|address| client.local_address.as_bytes() == address)
            && self.older_than.is_none_or(|seconds| now.saturating_sub(client.since) / 1000 >= seconds)
    }
}

/// CLIENT KILL address, or CLIENT KILL filter value ...
pub fn kill(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 3 {
        let killed = close_all(ctx, &Chosen { address: Some(args.at(2)), ..Chosen::default() }, false);
        if killed == 0 {
            return Err(Fault::new("ERR No such client"));
        }
        ctx.out.ok();
        return Ok(());
    }
    let mut chosen = Chosen::default();
    let mut spare_me = true;
    let mut at = 2;
    while at < args.len() {
        let Some(value) = args.get(at + 1) else {
            return Err(Fault::SYNTAX);
        };
        if args.is(at, "ID") {
            let wrong = Fault::new("ERR client-id should be greater than 0");
            chosen.id = Some(args.integer_within(at + 1, 1, i64::MAX, wrong.clone()).map_err(|_| wrong)? as u64);
        } else if args.is(at, "TYPE") {
            chosen.class = Some(Class::named(value)?);
        } else if args.is(at, "ADDR") {
            chosen.address = Some(value);
        } else if args.is(at, "LADDR") {
            chosen.local_address = Some(value);
        } else if args.is(at, "USER") {
            chosen.user = ctx.engine.users.find(value);
            if chosen.user.is_none() {
                let mut text = b"ERR No such user '".to_vec();
                text.extend_from_slice(value);
                text.push(b'\'');
                return Err(Fault::bytes(text));
            }
        } else if args.is(at, "MAXAGE") {
            let wrong = Fault::new("ERR maxage is not an integer or out of range");
            chosen.older_than =
                Some(args.integer_within(at + 1, 1, i64::MAX, wrong.clone()).map_err(|_| wrong)? as u64);
        } else if args.is(at, "SKIPME") && args.is(at + 1, "YES") {
            spare_me = true;
        } else if args.is(at, "SKIPME") && args.is(at + 1, "NO") {
            spare_me = false;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 2;
    }
    let killed = close_all(ctx, &chosen, spare_me);
    ctx.out.count(killed);
    Ok(())
}

fn close_all(ctx: &mut Ctx<'_>, chosen: &Chosen<'_>, spare_me: bool) -> usize {
    let now = ctx.engine.store.now();
    let tokens: Vec<Token> =
        ctx.engine.clients.iter().filter(|client| chosen.takes(client, now)).map(|client| client.token).collect();
    let mut killed = tokens.len();
    for token in tokens {
        ctx.engine.dismiss(token);
    }
    if !spare_me && chosen.takes(ctx.client, now) {
        ctx.client.closing = true; // After it has read how many were closed.
        killed += 1;
    }
    killed
}

/// CLIENT UNBLOCK id [TIMEOUT | ERROR]
pub fn unblock(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let error = match args.len() {
        3 => false,
        4 if args.is(3, "TIMEOUT") => false,
        4 if args.is(3, "ERROR") => true,
        4 => return Err(Fault::new("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(super::server::unknown_subcommand_or_arity("CLIENT", args.at(1))),
    };
    let id = args.integer(2)?;
    let token = ctx.engine.clients.iter().find(|client| client.id as i64 == id).map(|client| client.token);
    let fault = Fault::new("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    let ended = token.is_some_and(|token| blocking::unblock(ctx.engine, token, error.then_some(&fault)));
    ctx.out.integer(i64::from(ended));
    Ok(())
}
