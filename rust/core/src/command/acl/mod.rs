//! ACL: who may do what.
//!
//! [`user`] has a user and its rules, [`rights`] the commands, [`users`] all users, [`check`] judges requests,
//! [`file`] reads and writes, [`journal`] notes who was refused, [`attempts`] slows down who guesses passwords.

pub mod attempts;
pub mod check;
pub mod file;
pub mod journal;
pub mod rights;
#[cfg(test)]
mod tests;
pub mod user;
pub mod users;

pub use check::{admit, authenticate, reads_all_keys};
pub use users::{DEFAULT, UserId, Users};

use super::client::Client;
use super::fault::{Done, Fault};
use super::introspect::{CATEGORIES, everything, full_name, in_category};
use super::settings::{Name, Settings};
use super::table::{self, Command, Handler, flag};
use super::{Ctx, Engine, server};
use crate::resp::{Args, Reply};
use user::{Selector, User};

const OPEN: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE;
const ADMIN: u32 = OPEN | flag::ADMIN;

const fn sub(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { since: "6.0.0", ..Command::new(name, run, arity, flags) }
}

/// ACL and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "6.0.0",
    summary: "Tells and says who may do what.",
    subcommands: &[
        Command {
            summary: "Names the categories of commands, or the commands of one.",
            syntax: "[category]",
            ..sub("cat", cat, -2, OPEN)
        },
        Command { summary: "Makes up a password.", syntax: "[bits]", ..sub("genpass", generate, -2, OPEN) },
        Command { summary: "Tells who the client is.", ..sub("whoami", who_am_i, 2, OPEN) },
        Command { summary: "Names the users.", ..sub("users", users_command, 2, ADMIN) },
        Command { summary: "Tells what all users may do.", ..sub("list", list, 2, ADMIN) },
        Command { summary: "Tells what a user may do.", syntax: "username", ..sub("getuser", get_user, 3, ADMIN) },
        Command {
            summary: "Makes a user, or changes what it may do.",
            syntax: "username [rule ...]",
            ..sub("setuser", set_user, -3, ADMIN)
        },
        Command {
            summary: "Removes users and closes their connections.",
            syntax: "username [username ...]",
            ..sub("deluser", delete_user, -3, ADMIN)
        },
        Command {
            since: "7.0.0",
            summary: "Tells whether a user may run a command, without running it.",
            syntax: "username command [arg ...]",
            ..sub("dryrun", dry_run, -4, ADMIN)
        },
        Command { summary: "Tells who was refused.", syntax: "[count | RESET]", ..sub("log", log, -2, ADMIN) },
        Command { summary: "Reads the users from their file anew.", ..sub("load", load, 2, ADMIN) },
        Command { summary: "Writes the users into their file.", ..sub("save", save, 2, ADMIN) },
        Command { summary: "Lists the sub-commands.", ..sub("help", help, 2, flag::LOADING | flag::STALE) },
    ],
    ..Command::new("acl", server::needs_subcommand, -2, 0)
}];

/// An error with a client's words in it.
fn quoted(before: &str, bytes: &[u8], after: &str) -> Fault {
    Fault::bytes([before.as_bytes(), bytes, after.as_bytes()].concat())
}

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
        return Err(quoted("ERR Unknown category '", category, "'"));
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
        return Err(Fault::of(
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
    ctx.out.bulk(ctx.client.user_name());
    Ok(())
}

fn users_command(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let users = ctx.engine.users.all();
    ctx.out.array(users.len());
    users.for_each(|user| ctx.out.bulk(&user.name));
    Ok(())
}

fn list(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let users = ctx.engine.users.all();
    ctx.out.array(users.len());
    users.for_each(|user| ctx.out.bulk(&user.told()));
    Ok(())
}

fn write_selector(out: &mut Reply, selector: &Selector) {
    let parts = [
        ("commands", selector.rights.told().into_bytes()),
        ("keys", selector.keys_told()),
        ("channels", selector.channels_told()),
    ];
    for (name, value) in parts {
        out.bulk(name.as_bytes());
        out.bulk(&value);
    }
}

fn get_user(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let users = &ctx.engine.users;
    let Some(user) = users.find(args.at(2)).and_then(|id| users.get(id)) else {
        ctx.out.null();
        return Ok(());
    };
    let flags = user.flags();
    ctx.out.map(6);
    ctx.out.bulk(b"flags");
    ctx.out.set(flags.len());
    flags.iter().for_each(|flag| ctx.out.bulk(flag.as_bytes()));
    ctx.out.bulk(b"passwords");
    ctx.out.array(user.passwords().len());
    user.passwords().iter().for_each(|digest| ctx.out.bulk(digest.as_bytes()));
    let (own, others) = user.selectors().split_at(1);
    own.iter().for_each(|selector| write_selector(ctx.out, selector));
    ctx.out.bulk(b"selectors");
    ctx.out.array(others.len());
    for selector in others {
        ctx.out.map(3);
        write_selector(ctx.out, selector);
    }
    Ok(())
}

fn set_user(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(2);
    if name.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0B)) {
        return Err(Fault::of("ERR Usernames can't contain spaces or null characters"));
    }
    let rules = user::joined(args.from(3))
        .map_err(|rule| quoted("ERR Unmatched parenthesis in acl selector starting at '", &rule, "'."))?;
    let all_channels = ctx.engine.all_channels_at_first();
    let id = ctx.engine.users.set(name, &rules, all_channels).map_err(|(rule, wrong)| {
        quoted("ERR Error in ACL SETUSER modifier '", &rule, &format!("': {}", wrong.text()))
    })?;
    close_who_listens_too_much(ctx, id);
    ctx.engine.note_users();
    ctx.out.ok();
    Ok(())
}

/// Close connections of a user that listen to what it may not listen to any more.
fn close_who_listens_too_much(ctx: &mut Ctx<'_>, id: UserId) {
    let Some(user) = ctx.engine.users.get(id) else { return };
    let selectors = user.selectors().to_vec();
    let allowed = |name: &[u8], pattern| selectors.iter().any(|each| each.allows_channel(name, pattern));
    close(ctx, |client| {
        let channels = client.channels.iter().chain(&client.shard_channels);
        client.user == id
            && !(client.patterns.iter().all(|name| allowed(name, true)) && { channels }
                .all(|name| allowed(name, false)))
    });
}

/// Close the clients for which this holds; the one that asks reads its reply first.
fn close(ctx: &mut Ctx<'_>, wanted: impl Fn(&Client) -> bool) {
    let tokens: Vec<_> = ctx.engine.clients.iter().filter(|each| wanted(each)).map(|each| each.token).collect();
    for token in tokens {
        ctx.engine.dismiss(token);
    }
    if wanted(ctx.client) {
        ctx.client.closing = true;
    }
}

fn close_users(ctx: &mut Ctx<'_>, gone: &[UserId]) {
    close(ctx, |client| gone.contains(&client.user));
    if gone.contains(&ctx.client.user) {
        ctx.client.become_user(DEFAULT, b"default");
        ctx.client.authenticated = false;
    }
}

fn delete_user(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut gone = Vec::new();
    let mut refused = false;
    for name in args.from(2) {
        refused = name == b"default";
        if refused {
            break;
        }
        gone.extend(ctx.engine.users.remove(name));
    }
    close_users(ctx, &gone);
    if !gone.is_empty() {
        ctx.engine.note_users();
    }
    if refused {
        return Err(Fault::of("ERR The 'default' user cannot be removed"));
    }
    ctx.out.count(gone.len());
    Ok(())
}

fn dry_run(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let users = &ctx.engine.users;
    let Some(user) = users.find(args.at(2)).and_then(|id| users.get(id)) else {
        return Err(quoted("ERR User '", args.at(2), "' not found"));
    };
    let request = args.tail(3);
    let not_found = || quoted("ERR Command '", request.at(0), "' not found");
    let (mut row, mut place) = table::find(request.at(0)).ok_or_else(not_found)?;
    if let (Some(name), false) = (request.get(1), row.subcommands.is_empty()) {
        let sub = row.subcommand(name).ok_or_else(not_found)?;
        (row, place) = (sub, table::place_of_subcommand(place, row, sub));
    }
    if !row.takes(request.len()) {
        return Err(Fault::arity(&super::introspect::full_name_of(row)));
    }
    match check::check(user, row, place, &request) {
        Ok(()) => ctx.out.ok(),
        Err(denied) => ctx.out.bulk(&denied.sentence(row, &request)),
    }
    Ok(())
}

fn log(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(server::unknown_subcommand_or_arity("ACL", args.at(1)));
    }
    if args.len() == 3 && args.is(2, "RESET") {
        ctx.engine.users.journal.clear();
        ctx.out.ok();
        return Ok(());
    }
    let most = if args.len() == 3 { args.integer(2)?.max(0) as usize } else { 10 };
    let now = ctx.engine.store.now();
    let entries = ctx.engine.users.journal.entries();
    ctx.out.array(entries.len().min(most));
    for entry in entries.take(most) {
        ctx.out.map(7);
        ctx.out.bulk(b"count");
        ctx.out.integer(entry.count as i64);
        for (name, value) in [
            ("reason", entry.refusal.reason.as_bytes()),
            ("context", entry.refusal.context.as_bytes()),
            ("object", &entry.refusal.object),
            ("username", &entry.refusal.user),
        ] {
            ctx.out.bulk(name.as_bytes());
            ctx.out.bulk(value);
        }
        ctx.out.bulk(b"age-seconds");
        ctx.out.double(now.saturating_sub(entry.at) as f64 / 1000.0);
        ctx.out.bulk(b"client-info");
        ctx.out.bulk(entry.client.as_bytes());
    }
    Ok(())
}

/// The path of the users' file.
fn path(ctx: &Ctx<'_>) -> Result<String, Fault> {
    let path = ctx.engine.settings.text(Name::aclfile);
    if path.is_empty() {
        return Err(Fault::of(
            "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL \
             SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order \
             to store users in the Redis configuration.",
        ));
    }
    Ok(path.to_owned())
}

fn load(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let path = path(ctx)?;
    let users =
        file::load(&path, ctx.engine.all_channels_at_first()).map_err(|why| Fault::new(format!("ERR {why}")))?;
    let mut gone = ctx.engine.users.replace(users);
    // Who has not said who it is stays, whatever the default user may do now.
    gone.retain(|&id| id != DEFAULT);
    close_users(ctx, &gone);
    ctx.out.ok();
    Ok(())
}

fn save(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let path = path(ctx)?;
    file::save(&path, &ctx.engine.users)
        .map_err(|error| Fault::new(format!("ERR There was an error trying to save the ACLs to {path}: {error}")))?;
    ctx.out.ok();
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "ACL");
    Ok(())
}

impl Engine {
    /// Whether a new user may use all channels.
    pub fn all_channels_at_first(&self) -> bool {
        self.settings.text(Name::acl_pubsub_default) == "allchannels"
    }

    /// Users changed: where they stand in the configuration, CONFIG REWRITE is to write them.
    fn note_users(&mut self) {
        if self.settings.text(Name::aclfile).is_empty()
            && let Some(index) = Settings::find("user")
            && self.settings.put(index, &file::to_setting(&self.users)).is_ok()
        {
            self.settings.note_change(index);
        }
    }

    /// Take the users from the settings, or from their file: done once, before anybody is served.
    pub fn load_users(&mut self) -> Result<(), String> {
        let (path, lines) = (self.settings.text(Name::aclfile), self.settings.text(Name::user));
        let all_channels = self.all_channels_at_first();
        let users: Vec<User> = match (path.is_empty(), lines.is_empty()) {
            (false, false) => {
                return Err("aclfile: users stand in the configuration too: keep them in one place".into());
            }
            (false, true) => file::load(path, all_channels).map_err(|why| format!("aclfile: {why}"))?,
            (true, _) => file::of_setting(lines, all_channels)?,
        };
        let named = users.iter().any(|user| *user.name == *b"default");
        self.users.replace(users);
        if !named {
            let password = self.settings.text(Name::requirepass).to_owned();
            self.users.expect_password();
            self.users.default_password(&password);
        }
        Ok(())
    }
}
