//! Commands an operator gives the node: the slow log, stopping, replication's fixed answers, time.

use super::fault::{Done, Fault};
use super::table::{Command, Handler, flag};
use super::{Ctx, save, server};
use crate::persist::keeper::Last;
use crate::resp::Args;

const SLOWLOG: u32 = flag::ADMIN | flag::LOADING | flag::STALE;
const OPERATOR: u32 = flag::ADMIN | flag::NOSCRIPT;
const HELP: u32 = flag::LOADING | flag::STALE;

const fn slow(name: &'static str, run: Handler, arity: i32) -> Command {
    Command { since: "2.2.12", ..Command::new(name, run, arity, SLOWLOG) }
}

const fn module(name: &'static str, arity: i32) -> Command {
    Command { since: "4.0.0", ..Command::new(name, module_refused, arity, OPERATOR | flag::NO_ASYNC_LOADING) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        since: "2.2.12",
        summary: "Tells which commands were slow.",
        subcommands: &[
            Command {
                summary: "Tells the newest slow commands; -1 for all.",
                syntax: "[count]",
                ..slow("get", slowlog_get, -2)
            },
            Command { summary: "Counts the slow commands that are kept.", ..slow("len", slowlog_len, 2) },
            Command { summary: "Forgets the slow commands.", ..slow("reset", slowlog_reset, 2) },
            Command {
                since: "6.2.0",
                summary: "Lists the sub-commands.",
                ..Command::new("help", slowlog_help, 2, HELP)
            },
        ],
        ..Command::new("slowlog", server::needs_subcommand, -2, 0)
    },
    Command {
        since: "4.0.0",
        summary: "Tells about modules: there are none.",
        subcommands: &[
            Command {
                since: "4.0.0",
                summary: "Lists the modules: none.",
                ..Command::new("list", module_list, 2, OPERATOR)
            },
            Command { summary: "Is refused.", syntax: "path [arg ...]", ..module("load", -3) },
            Command { since: "7.0.0", summary: "Is refused.", syntax: "path [arg ...]", ..module("loadex", -3) },
            Command { summary: "Is refused.", syntax: "name", ..module("unload", 3) },
            Command {
                since: "5.0.0",
                summary: "Lists the sub-commands.",
                ..Command::new("help", module_help, 2, HELP)
            },
        ],
        ..Command::new("module", server::needs_subcommand, -2, 0)
    },
    Command {
        since: "2.6.0",
        summary: "Tells the time.",
        ..Command::new("time", time, 1, flag::LOADING | flag::STALE | flag::FAST)
    },
    Command {
        since: "2.8.12",
        summary: "Tells what part the node has in replication.",
        ..Command::new(
            "role",
            super::replicate::role,
            1,
            flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::OPERATOR,
        )
    },
    Command {
        since: "5.0.0",
        summary: "Makes the node follow another: only NO ONE is possible.",
        syntax: "host port",
        ..Command::new("replicaof", replica_of, 3, OPERATOR | flag::STALE | flag::NO_ASYNC_LOADING)
    },
    Command {
        summary: "Makes the node follow another: only NO ONE is possible; an older name of REPLICAOF.",
        syntax: "host port",
        ..Command::new("slaveof", replica_of, 3, OPERATOR | flag::STALE | flag::NO_ASYNC_LOADING)
    },
    Command {
        since: "6.2.0",
        summary: "Hands over to a replica: there are none.",
        syntax: "[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]",
        ..Command::new("failover", failover, -1, OPERATOR | flag::STALE)
    },
    Command {
        group: "generic",
        since: "3.0.0",
        summary: "Waits until writes have reached so many replicas.",
        syntax: "numreplicas timeout",
        ..Command::new("wait", super::replicate::wait, 3, flag::NOSCRIPT | flag::CONNECTION)
    },
    Command {
        summary: "Tells when data were last saved; before that, when the node started.",
        ..Command::new("lastsave", save::last_save, 1, flag::LOADING | flag::STALE | flag::FAST | flag::OPERATOR)
    },
    Command {
        summary: "Takes a snapshot of all data and waits until it is on disk.",
        ..Command::new("save", save::save, 1, OPERATOR | flag::NO_ASYNC_LOADING | flag::NO_MULTI)
    },
    Command {
        summary: "Takes a snapshot of all data in the background.",
        syntax: "[SCHEDULE]",
        ..Command::new("bgsave", save::bgsave, -1, OPERATOR | flag::NO_ASYNC_LOADING)
    },
    Command {
        summary: "Takes a snapshot, from which the log of writes then goes on.",
        ..Command::new("bgrewriteaof", save::bgrewriteaof, 1, OPERATOR | flag::NO_ASYNC_LOADING)
    },
    Command {
        summary: "Stops the node.",
        syntax: "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
        ..Command::new(
            "shutdown",
            shutdown,
            -1,
            OPERATOR | flag::LOADING | flag::STALE | flag::NO_MULTI | flag::ALLOW_BUSY,
        )
    },
    Command {
        since: "5.0.0",
        summary: "Draws a picture and tells the version.",
        syntax: "[VERSION version]",
        ..Command::new("lolwut", lolwut, -1, flag::READONLY | flag::FAST)
    },
];

fn slowlog_get(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = match args.len() {
        2 => 10,
        3 => {
            let wrong = Fault::new("ERR count should be greater than or equal to -1");
            args.integer_within(2, -1, i64::MAX, wrong.clone()).map_err(|_| wrong)?
        }
        _ => return Err(server::unknown_subcommand_or_arity("SLOWLOG", args.at(1))),
    };
    let entries = &ctx.engine.slowlog.entries;
    let shown = usize::try_from(count).unwrap_or(usize::MAX).min(entries.len());
    ctx.out.array(shown);
    for entry in entries.iter().take(shown) {
        ctx.out.array(6);
        ctx.out.integer(entry.id);
        ctx.out.integer(entry.when as i64);
        ctx.out.integer(entry.micros as i64);
        ctx.out.array(entry.args.len());
        for arg in &entry.args {
            ctx.out.bulk(arg);
        }
        ctx.out.bulk(entry.address.as_bytes());
        ctx.out.bulk(&entry.name);
    }
    Ok(())
}

fn slowlog_len(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.count(ctx.engine.slowlog.entries.len());
    Ok(())
}

fn slowlog_reset(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.engine.slowlog.entries.clear();
    ctx.out.ok();
    Ok(())
}

fn slowlog_help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "SLOWLOG");
    Ok(())
}

fn module_list(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.array(0);
    Ok(())
}

fn module_refused(_: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    Err(Fault::new(
        "ERR MODULE command not allowed. If the enable-module-command option is set to \"local\", you can run it from a \
         local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
    ))
}

fn module_help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "MODULE");
    Ok(())
}

fn time(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let now = crate::clock::wall_us() as i64;
    ctx.out.array(2);
    ctx.out.bulk_integer(now / 1_000_000);
    ctx.out.bulk_integer(now % 1_000_000);
    Ok(())
}

fn replica_of(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.is(1, "NO") && args.is(2, "ONE") {
        ctx.out.ok();
        return Ok(());
    }
    let wrong = Fault::new("ERR Invalid master port");
    args.integer_within(2, 0, 65535, wrong.clone()).map_err(|_| wrong)?;
    Err(Fault::new("ERR a node follows no other on command: the cluster decides who holds copies of what"))
}

fn failover(_: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 2 && args.is(1, "ABORT") {
        return Err(Fault::new("ERR No failover in progress."));
    }
    Err(Fault::new("ERR FAILOVER requires connected replicas."))
}

fn shutdown(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (mut wanted, mut keep, mut abort, mut hurry) = (false, false, false, false);
    for at in 1..args.len() {
        if args.is(at, "SAVE") {
            wanted = true;
        } else if args.is(at, "NOSAVE") {
            keep = true;
        } else if args.is(at, "ABORT") {
            abort = true;
        } else if args.is(at, "NOW") || args.is(at, "FORCE") {
            hurry = true;
        } else {
            return Err(Fault::SYNTAX);
        }
    }
    if (wanted && keep) || (abort && (wanted || keep || hurry)) {
        return Err(Fault::SYNTAX);
    }
    if abort {
        return Err(Fault::new("ERR No shutdown in progress."));
    }
    match &mut ctx.engine.keeper {
        None if wanted => {
            return Err(Fault::new("ERR Errors trying to SHUTDOWN: this node cannot save. Use SHUTDOWN NOSAVE."));
        }
        Some(keeper) => {
            keeper.last = if keep {
                Last::Skip
            } else if wanted {
                Last::Take
            } else {
                Last::AsSet
            }
        }
        None => {}
    }
    ctx.engine.stopping = true;
    Ok(())
}

fn lolwut(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let mut text = String::new();
    // A skyline of as many towers as there are databases, each as high as its keys are many.
    let heights: Vec<u32> =
        (0..16u8).map(|number| (ctx.engine.store.database(number).len() as u64 + 1).ilog2() / 3 + 1).collect();
    for row in (1..=8).rev() {
        let line: String = heights.iter().map(|&height| if height >= row { "##  " } else { "    " }).collect();
        if !line.trim().is_empty() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text.push_str(&format!(
        "\nFastCache {} talks like Redis ver. {}\n",
        env!("CARGO_PKG_VERSION"),
        server::REDIS_VERSION
    ));
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn slow_commands_are_kept_newest_first() {
        let mut node = Node::with(&[("slowlog-log-slower-than", "0")]);
        node.line("SET k v");
        let log = node.line("SLOWLOG GET 1");
        assert!(log.starts_with("*1 *6 :0 :1700000000 :") && log.ends_with("*3 $3 SET $1 k $1 v $0  $0"), "{log}");
        node.expect(&[
            ("SLOWLOG LEN", ":2"),
            ("SLOWLOG GET x", "-ERR count should be greater than or equal to -1"),
            ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1"),
            ("SLOWLOG GET 1 2", "-ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP."),
            ("CONFIG SET slowlog-log-slower-than -1", "+OK"),
            ("SLOWLOG RESET", "+OK"),
            ("SLOWLOG LEN", ":0"),
        ]);
    }

    #[test]
    fn waiting_for_replicas_ends_with_the_time() {
        let mut node = Node::new();
        node.expect(&[
            ("WAIT 0 0", ":0"),
            ("WAIT x 0", "-ERR value is not an integer or out of range"),
            ("WAIT 0 -1", "-ERR timeout is negative"),
            ("WAIT 1 50", ""),
        ]);
        node.pass(60);
        assert_eq!(node.heard_by_first(), ":0");
        node.expect(&[("MULTI", "+OK"), ("WAIT 1 0", "+QUEUED"), ("EXEC", "*1 :0")]);
    }

    #[test]
    fn operators_are_answered_truthfully() {
        let mut node = Node::new();
        node.expect(&[
            ("ROLE", "*3 $6 master :0 *0"),
            ("REPLICAOF NO ONE", "+OK"),
            ("REPLICAOF a b", "-ERR Invalid master port"),
            ("FAILOVER", "-ERR FAILOVER requires connected replicas."),
            ("LASTSAVE", ":1700000000"),
            ("MODULE LIST", "*0"),
            ("SHUTDOWN ABORT", "-ERR No shutdown in progress."),
            ("SHUTDOWN SAVE NOSAVE", "-ERR syntax error"),
        ]);
        assert!(!node.engine.stopping);
        assert_eq!(node.line("SHUTDOWN NOSAVE NOW"), "");
        assert!(node.engine.stopping);
    }
}
