//! ACL: there is one user, `default`, who may do everything and has the node's password.

use super::fault::{Done, Fault};
use super::introspect::{CATEGORIES, everything, full_name, in_category, named};
use super::settings::Name;
use super::table::{Command, Handler, flag};
use super::{Ctx, server};
use crate::resp::Args;
use sha2::{Digest, Sha256};

const OPEN: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE;

const fn sub(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { since: "6.0.0", ..Command::new(name, run, arity, flags) }
}

/// ACL and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "6.0.0",
    summary: "Tells who may do what.",
    subcommands: &[
        Command {
            summary: "Names the categories of commands, or the commands of one.",
            syntax: "[category]",
            ..sub("cat", cat, -2, OPEN)
        },
        Command { summary: "Makes up a password.", syntax: "[bits]", ..sub("genpass", generate, -2, OPEN) },
        Command { summary: "Tells who the client is.", ..sub("whoami", who_am_i, 2, OPEN) },
        Command { summary: "Names the users.", ..sub("users", users, 2, OPEN | flag::ADMIN) },
        Command { summary: "Tells what all users may do.", ..sub("list", list, 2, OPEN | flag::ADMIN) },
        Command {
            summary: "Tells what a user may do.",
            syntax: "username",
            ..sub("getuser", get_user, 3, OPEN | flag::ADMIN)
        },
        Command {
            since: "7.0.0",
            summary: "Tells whether a user may run a command, without running it.",
            syntax: "username command [arg ...]",
            ..sub("dryrun", dry_run, -4, OPEN | flag::ADMIN)
        },
        Command {
            summary: "Tells who was refused: nobody is recorded.",
            syntax: "[count | RESET]",
            ..sub("log", log, -2, OPEN | flag::ADMIN)
        },
        Command { summary: "Lists the sub-commands.", ..sub("help", help, 2, flag::LOADING | flag::STALE) },
    ],
    ..Command::new("acl", server::needs_subcommand, -2, 0)
}];

fn cat(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(server::unknown_subcommand_or_arity("ACL", args.at(1)));
    }
    let Some(category) = args.get(2) else {
        ctx.out.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|category| ctx.out.bulk(category.as_bytes()));
        return Ok(());
    };
    let Some(category) = CATEGORIES.iter().find(|each| each.as_bytes().eq_ignore_ascii_case(category)) else {
        let mut text = b"ERR Unknown category '".to_vec();
        text.extend_from_slice(category);
        text.push(b'\'');
        return Err(Fault::bytes(text));
    };
    let names: Vec<String> = everything()
        .filter(|(_, row)| in_category(row, category))
        .map(|(parent, row)| full_name(parent, row))
        .collect();
    ctx.out.array(names.len());
    names.iter().for_each(|name| ctx.out.bulk(name.as_bytes()));
    Ok(())
}

fn generate(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(server::unknown_subcommand_or_arity("ACL", args.at(1)));
    }
    let bits = if args.len() == 3 { args.integer(2)? } else { 256 };
    if !(1..=4096).contains(&bits) {
        return Err(Fault::new(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
        ));
    }
    let mut bytes = [0u8; 512];
    // The system's random numbers: this may guard something.
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").map_err(no_random)?, &mut bytes)
        .map_err(no_random)?;
    let mut digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate((bits as usize).div_ceil(4));
    ctx.out.bulk(digits.as_bytes());
    Ok(())
}

fn no_random(error: std::io::Error) -> Fault {
    Fault::new(format!("ERR the system gives no random numbers: {error}"))
}

fn who_am_i(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.bulk(b"default");
    Ok(())
}

fn users(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.array(1);
    ctx.out.bulk(b"default");
    Ok(())
}

/// The password's digest; `None` when there is no password.
fn password(ctx: &Ctx<'_>) -> Option<String> {
    let password = ctx.engine.settings.text(Name::requirepass);
    if password.is_empty() {
        return None;
    }
    Some(Sha256::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn list(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let secret = password(ctx).map_or_else(|| "nopass".to_owned(), |digest| format!("#{digest}"));
    ctx.out.array(1);
    ctx.out.bulk(format!("user default on {secret} ~* &* +@all").as_bytes());
    Ok(())
}

fn get_user(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.at(2) != b"default" {
        ctx.out.null();
        return Ok(());
    }
    let digest = password(ctx);
    let flags: &[&[u8]] = if digest.is_some() { &[b"on"] } else { &[b"on", b"nopass"] };
    ctx.out.map(6);
    ctx.out.bulk(b"flags");
    ctx.out.set(flags.len());
    flags.iter().for_each(|flag| ctx.out.bulk(flag));
    ctx.out.bulk(b"passwords");
    ctx.out.array(usize::from(digest.is_some()));
    if let Some(digest) = digest {
        ctx.out.bulk(digest.as_bytes());
    }
    for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
        ctx.out.bulk(name.as_bytes());
        ctx.out.bulk(value.as_bytes());
    }
    ctx.out.bulk(b"selectors");
    ctx.out.array(0);
    Ok(())
}

fn dry_run(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let quoted = |before: &str, bytes: &[u8], after: &str| {
        let mut text = before.as_bytes().to_vec();
        text.extend_from_slice(bytes);
        text.extend_from_slice(after.as_bytes());
        Fault::bytes(text)
    };
    if args.at(2) != b"default" {
        return Err(quoted("ERR User '", args.at(2), "' not found"));
    }
    let Some((_, row)) = named(args.at(3)) else {
        return Err(quoted("ERR Command '", args.at(3), "' not found"));
    };
    let row = row.subcommand(args.at(4)).unwrap_or(row);
    if !row.takes(args.len() - 3) {
        return Err(Fault::arity(row.name));
    }
    ctx.out.ok();
    Ok(())
}

fn log(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 3 && args.is(2, "RESET") {
        ctx.out.ok();
        return Ok(());
    }
    if args.len() == 3 {
        args.integer(2)?;
    }
    ctx.out.array(0);
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "ACL");
    Ok(())
}

#[test]
fn the_one_user_may_do_everything() {
    let mut node = super::testing::Node::new();
    node.expect(&[
        ("ACL WHOAMI", "$7 default"),
        ("ACL LIST", "*1 $34 user default on nopass ~* &* +@all"),
        ("ACL GETUSER other", "$-1"),
        ("ACL CAT foo", "-ERR Unknown category 'foo'"),
        ("ACL DRYRUN default GET k", "+OK"),
        ("ACL DRYRUN other GET k", "-ERR User 'other' not found"),
        ("CONFIG SET requirepass secret", "+OK"),
        (
            "ACL LIST",
            "*1 $93 user default on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~* &* +@all",
        ),
    ]);
    assert!(node.line("ACL CAT connection").contains("$11 client|list"));
    assert_eq!(node.line("ACL GENPASS 5").len(), "$2 0a".len());
}
