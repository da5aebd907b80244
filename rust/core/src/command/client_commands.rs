//! CLIENT: what clients can learn and change about connections, their own and others'.
//!
//! Lists and the choice among clients are in `client_list`, TRACKING is in `tracking`.

use super::client::Replies;
use super::client_list::{info, kill, list, unblock};
use super::connection::valid_name;
use super::fault::{Done, Fault};
use super::table::{Command, Handler, flag};
use super::tracking::{caching, get_redirection, tracking, tracking_info};
use super::{Ctx, server};
use crate::resp::Args;

const SELF: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::CONNECTION;
const OTHERS: u32 = SELF | flag::ADMIN;

const fn sub(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "connection", ..Command::new(name, run, arity, flags) }
}

/// CLIENT and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    group: "connection",
    since: "2.4.0",
    summary: "Tells about and changes connections.",
    subcommands: &[
        Command { since: "5.0.0", summary: "Tells the connection's number.", ..sub("id", id, 2, SELF) },
        Command { since: "6.2.0", summary: "Tells about the connection.", ..sub("info", info, 2, SELF) },
        Command {
            since: "2.4.0",
            summary: "Tells about connections.",
            syntax: "[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
            ..sub("list", list, -2, OTHERS)
        },
        Command {
            since: "2.4.0",
            summary: "Closes connections.",
            syntax: "<ip:port | [ID client-id] [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [USER username] \
                     [ADDR ip:port] [LADDR ip:port] [SKIPME <YES | NO>] [MAXAGE maxage]>",
            ..sub("kill", kill, -3, OTHERS)
        },
        Command { since: "2.6.9", summary: "Tells the connection's name.", ..sub("getname", get_name, 2, SELF) },
        Command {
            since: "2.6.9",
            summary: "Gives the connection a name.",
            syntax: "connection-name",
            ..sub("setname", set_name, 3, SELF)
        },
        Command {
            since: "7.2.0",
            summary: "Says which client library this is.",
            syntax: "<LIB-NAME libname | LIB-VER libver>",
            ..sub("setinfo", set_info, 4, SELF)
        },
        Command {
            since: "3.2.0",
            summary: "Has replies sent or left out.",
            syntax: "<ON | OFF | SKIP>",
            ..sub("reply", reply, 3, SELF)
        },
        Command {
            since: "2.9.50",
            summary: "Lets all clients wait for a while.",
            syntax: "timeout [WRITE | ALL]",
            ..sub("pause", pause, -3, OTHERS)
        },
        Command { since: "6.2.0", summary: "Ends a pause.", ..sub("unpause", unpause, 2, OTHERS) },
        Command {
            since: "5.0.0",
            summary: "Ends the waiting of a client that waits for keys.",
            syntax: "client-id [TIMEOUT | ERROR]",
            ..sub("unblock", unblock, -3, OTHERS)
        },
        Command {
            since: "7.0.0",
            summary: "Keeps the connection even when memory for clients is short.",
            syntax: "<ON | OFF>",
            ..sub("no-evict", no_evict, 3, OTHERS)
        },
        Command {
            since: "7.2.0",
            summary: "Has reads of this connection not count as use of keys.",
            syntax: "<ON | OFF>",
            ..sub("no-touch", no_touch, 3, SELF)
        },
        Command {
            since: "8.2.0",
            summary: "Has the connection told (RESP3) before its server restarts or a node is replaced.",
            syntax: "<ON | OFF> [MOVING-ENDPOINT-TYPE type]",
            ..sub("maint_notifications", maintenance, -3, SELF)
        },
        Command {
            since: "6.0.0",
            summary: "Has the connection told when keys it has read change.",
            syntax: "<ON | OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
            ..sub("tracking", tracking, -3, SELF)
        },
        Command {
            since: "6.2.0",
            summary: "Tells how reads are tracked.",
            ..sub("trackinginfo", tracking_info, 2, SELF)
        },
        Command {
            since: "6.0.0",
            summary: "Says whether the keys of the next command are tracked.",
            syntax: "<YES | NO>",
            ..sub("caching", caching, 3, SELF)
        },
        Command {
            since: "6.0.0",
            summary: "Tells to which connection news of tracked keys go.",
            ..sub("getredir", get_redirection, 2, SELF)
        },
        Command {
            since: "5.0.0",
            summary: "Lists the sub-commands.",
            ..sub("help", help, 2, flag::LOADING | flag::STALE | flag::CONNECTION)
        },
    ],
    ..Command::new("client", server::needs_subcommand, -2, 0)
}];

fn id(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.integer(ctx.client.id as i64);
    Ok(())
}

fn get_name(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.bulk_or_null(Some(ctx.client.name.as_slice()).filter(|name| !name.is_empty()));
    Ok(())
}

fn set_name(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    valid_name(args.at(2))?;
    ctx.client.name = args.at(2).to_vec();
    ctx.out.ok();
    Ok(())
}

fn set_info(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (option, value) = (args.at(2), args.at(3));
    let named = args.is(2, "LIB-NAME");
    if !named && !args.is(2, "LIB-VER") {
        let mut text = b"ERR Unrecognized option '".to_vec();
        text.extend_from_slice(option);
        text.push(b'\'');
        return Err(Fault::bytes(text));
    }
    let wrong = || {
        let option = if named { "lib-name" } else { "lib-ver" };
        Fault::new(format!("ERR {option} cannot contain spaces, newlines or special characters."))
    };
    valid_name(value).map_err(|_| wrong())?;
    if named {
        ctx.client.library.0 = value.to_vec();
    } else {
        ctx.client.library.1 = value.to_vec();
    }
    ctx.out.ok();
    Ok(())
}

/// Of the types of endpoints only `none` is ever told: who comes through a balancer comes back through it.
fn maintenance(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let on = args.is(2, "ON");
    let known = args.len() == 3 || (args.len() == 5 && args.is(3, "MOVING-ENDPOINT-TYPE"));
    if !known || !(on || args.is(2, "OFF")) {
        return Err(Fault::SYNTAX);
    }
    if on && !ctx.client.resp3 {
        return Err(Fault::new("ERR notifications need RESP3: send HELLO 3 first"));
    }
    ctx.client.maintenance = on;
    ctx.out.ok();
    Ok(())
}

fn reply(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.is(2, "ON") {
        ctx.client.replies = Replies::On;
        ctx.out.ok();
    } else if args.is(2, "OFF") {
        ctx.client.replies = Replies::Off;
    } else if args.is(2, "SKIP") {
        if ctx.client.replies != Replies::Off {
            ctx.client.replies = Replies::SkipNext;
        }
    } else {
        return Err(Fault::SYNTAX);
    }
    Ok(())
}

fn pause(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let only_writes = match args.len() {
        3 => false,
        4 if args.is(3, "WRITE") => true,
        4 if args.is(3, "ALL") => false,
        4 => return Err(Fault::new("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(server::unknown_subcommand_or_arity("CLIENT", args.at(1))),
    };
    let span = args.integer(2).map_err(|_| Fault::new("ERR timeout is not an integer or out of range"))?;
    if span < 0 {
        return Err(Fault::NEGATIVE_TIMEOUT);
    }
    let until = ctx.engine.store.now().saturating_add(span as u64);
    // A second pause can only make the first longer and stricter.
    ctx.engine.paused = Some(match ctx.engine.paused {
        Some((before, writes)) => (before.max(until), writes && only_writes),
        None => (until, only_writes),
    });
    ctx.out.ok();
    Ok(())
}

fn unpause(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.engine.unpause();
    ctx.out.ok();
    Ok(())
}

fn on_or_off(args: &Args<'_>) -> Result<bool, Fault> {
    if args.is(2, "ON") {
        return Ok(true);
    }
    if args.is(2, "OFF") { Ok(false) } else { Err(Fault::SYNTAX) }
}

fn no_evict(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.client.no_evict = on_or_off(args)?;
    ctx.out.ok();
    Ok(())
}

fn no_touch(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.client.no_touch = on_or_off(args)?;
    ctx.out.ok();
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "CLIENT");
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn a_client_sees_itself_as_redis_would_show_it() {
        let mut node = Node::new();
        node.expect(&[
            ("CLIENT ID", ":1"),
            ("CLIENT GETNAME", "$-1"),
            ("CLIENT SETNAME x", "+OK"),
            ("CLIENT GETNAME", "$1 x"),
        ]);
        let list = node.line("CLIENT LIST");
        for field in [
            "id=1 ",
            " name=x ",
            " flags=N ",
            " multi=-1 ",
            " qbuf=26 ",
            " argv-mem=10 ",
            " cmd=client|list user=default redir=-1 resp=2",
        ] {
            assert!(list.contains(field), "{field}: {list}");
        }
        assert!(!list.contains("lib-name"));
        node.expect(&[("CLIENT SETINFO LIB-NAME lib", "+OK")]);
        assert!(node.line("CLIENT INFO").contains(" lib-name=lib lib-ver="));
    }

    #[test]
    fn clients_are_closed_by_what_they_are() {
        let mut node = Node::new();
        let (other, listener) = (node.connect(), node.connect());
        node.ask_as(listener, &["SUBSCRIBE", "c"]);
        node.expect(&[
            ("CLIENT KILL 1.2.3.4:5", "-ERR No such client"),
            ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),
            ("CLIENT KILL ID x", "-ERR client-id should be greater than 0"),
            ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'"),
            ("CLIENT KILL USER foo", "-ERR No such user 'foo'"),
            ("CLIENT KILL ID 4 ADDR", "-ERR syntax error"),
            ("CLIENT KILL TYPE pubsub", ":1"),
            ("PUBLISH c hi", ":0"),
            ("CLIENT KILL ID 1", ":0"),
            ("CLIENT KILL ID 1 SKIPME no", ":1"),
        ]);
        assert!(!node.engine.clients.get(other).unwrap().dead);
        assert!(node.engine.clients.get(listener).unwrap().dead);
    }

    #[test]
    fn replies_can_be_left_out() {
        Node::new().expect(&[
            ("CLIENT REPLY SKIP", ""),
            ("PING", ""),
            ("PING", "+PONG"),
            ("CLIENT REPLY OFF", ""),
            ("PING", ""),
            ("CLIENT REPLY SKIP", ""),
            ("PING", ""),
            ("CLIENT REPLY ON", "+OK"),
            ("PING", "+PONG"),
        ]);
    }
}
