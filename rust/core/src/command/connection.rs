//! Commands about the connection itself: HELLO, AUTH, PING, SELECT, RESET, QUIT, ECHO.

use super::fault::{Done, Fault};
use super::table::{Command, flag};
use super::{Ctx, acl};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::keyspace::DATABASES;

const OPEN: u32 =
    flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY | flag::CONNECTION;

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "connection",
        summary: "Answers PONG, or what it was sent.",
        syntax: "[message]",
        ..Command::new("ping", ping, -1, flag::FAST | flag::CONNECTION)
    },
    Command {
        group: "connection",
        summary: "Answers what it was sent.",
        syntax: "message",
        ..Command::new("echo", echo, 2, flag::LOADING | flag::STALE | flag::FAST | flag::CONNECTION)
    },
    Command {
        group: "connection",
        since: "6.0.0",
        summary: "Chooses the protocol version, and may give the password and a name at once.",
        syntax: "[protover [AUTH username password] [SETNAME clientname]]",
        ..Command::new("hello", hello, -1, OPEN)
    },
    Command {
        group: "connection",
        summary: "Gives the password.",
        syntax: "[username] password",
        ..Command::new("auth", auth, -2, OPEN)
    },
    Command {
        group: "connection",
        summary: "Chooses the database.",
        syntax: "index",
        ..Command::new("select", select, 2, flag::LOADING | flag::STALE | flag::FAST | flag::CONNECTION)
    },
    Command {
        group: "connection",
        since: "6.2.0",
        summary: "Puts the connection back into the state of a new one.",
        ..Command::new("reset", reset, 1, OPEN)
    },
    Command { group: "connection", summary: "Closes the connection.", ..Command::new("quit", quit, -1, OPEN) },
];

fn ping(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 2 {
        return Err(Fault::arity("ping"));
    }
    if ctx.client.subscriptions() > 0 && !ctx.client.resp3 {
        ctx.out.array(2);
        ctx.out.bulk(b"pong");
        ctx.out.bulk(args.at(1));
        return Ok(());
    }
    match args.get(1) {
        Some(message) => ctx.out.bulk(message),
        None => ctx.out.raw(b"+PONG\r\n"),
    }
    Ok(())
}

fn echo(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.out.bulk(args.at(1));
    Ok(())
}

fn quit(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.ok();
    ctx.client.closing = true;
    Ok(())
}

/// Whether two byte strings are equal, in a time that tells nothing about where they differ.
pub fn same_secret(given: &[u8], wanted: &[u8]) -> bool {
    let mut difference = given.len() ^ wanted.len();
    for index in 0..wanted.len().max(given.len()) {
        let one = given.get(index).copied().unwrap_or(0);
        let other = wanted.get(index).copied().unwrap_or(0);
        difference |= usize::from(one ^ other);
    }
    difference == 0
}

fn auth(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    match args.len() {
        2 => {
            // Whoever needs no password is told so, lest the configuration is not what it was meant to be.
            if ctx.engine.users.get(acl::DEFAULT).is_some_and(|user| user.no_password) {
                return Err(Fault::new(
                    "ERR AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?",
                ));
            }
            acl::authenticate(ctx, args, b"default", args.at(1))?;
        }
        3 => acl::authenticate(ctx, args, args.at(1), args.at(2))?,
        _ => return Err(Fault::SYNTAX),
    }
    ctx.out.ok();
    Ok(())
}

fn hello(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut version = None;
    if let Some(text) = args.get(1) {
        let number =
            parse_i64(text).ok_or_else(|| Fault::new("ERR Protocol version is not an integer or out of range"))?;
        if !(2..=3).contains(&number) {
            return Err(Fault::new("NOPROTO unsupported protocol version"));
        }
        version = Some(number);
    }
    let mut name = None;
    let mut credentials = None;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "AUTH") && at + 2 < args.len() {
            credentials = Some((args.at(at + 1), args.at(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && at + 1 < args.len() {
            valid_name(args.at(at + 1))?;
            name = Some(args.at(at + 1));
            at += 2;
        } else {
            let mut text = b"ERR Syntax error in HELLO option '".to_vec();
            text.extend_from_slice(args.at(at));
            text.push(b'\'');
            return Err(Fault::bytes(text));
        }
    }
    if let Some((user, password)) = credentials {
        acl::authenticate(ctx, args, user, password)?;
    }
    if !ctx.client.authenticated {
        return Err(Fault::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ));
    }
    if let Some(name) = name {
        ctx.client.name = name.to_vec();
    }
    if let Some(version) = version {
        ctx.client.resp3 = version == 3;
        ctx.out.speak(version == 3);
    }
    ctx.out.map(7);
    ctx.out.bulk(b"server");
    ctx.out.bulk(b"redis");
    ctx.out.bulk(b"version");
    ctx.out.bulk(super::server::REDIS_VERSION.as_bytes());
    ctx.out.bulk(b"proto");
    ctx.out.integer(if ctx.client.resp3 { 3 } else { 2 });
    ctx.out.bulk(b"id");
    ctx.out.integer(ctx.client.id as i64);
    ctx.out.bulk(b"mode");
    ctx.out.bulk(ctx.engine.mode().as_bytes());
    ctx.out.bulk(b"role");
    ctx.out.bulk(b"master");
    ctx.out.bulk(b"modules");
    ctx.out.array(0);
    Ok(())
}

/// Names of clients and libraries may not hold blanks, line ends or anything unprintable.
pub fn valid_name(name: &[u8]) -> Done {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Fault::new("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn select(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let index = args.integer(1)?;
    if i32::try_from(index).is_err() {
        return Err(Fault::NOT_SMALL_INTEGER);
    }
    if !(0..DATABASES as i64).contains(&index) {
        return Err(Fault::DB_RANGE);
    }
    ctx.client.database = index as u8;
    ctx.out.ok();
    Ok(())
}

fn reset(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.client.multi = None;
    super::transactions::unwatch(ctx.engine, ctx.client);
    super::pubsub::unsubscribe_all(ctx.engine, ctx.client);
    super::tracking::stop(ctx.engine, ctx.client);
    super::monitor::stop(ctx.engine, ctx.client);
    ctx.client.database = 0;
    ctx.client.resp3 = false;
    ctx.out.speak(false);
    ctx.client.name.clear();
    ctx.client.replies = super::client::Replies::On;
    ctx.client.no_evict = false;
    ctx.client.no_touch = false;
    ctx.client.reads_copies = false;
    ctx.client.routed = false;
    ctx.client.consistency = None;
    ctx.client.become_user(acl::DEFAULT, b"default");
    ctx.client.authenticated = ctx.engine.users.open();
    ctx.out.raw(b"+RESET\r\n");
    Ok(())
}
