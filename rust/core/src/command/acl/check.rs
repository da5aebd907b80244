//! Whether a user may run a request, and what a client is told that may not.

use super::attempts::Source;
use super::journal::Refusal;
use super::user::User;
use crate::command::client::Client;
use crate::command::fault::{Done, Fault};
use crate::command::settings::Name;
use crate::command::table::{self, Command, flag};
use crate::command::{Ctx, Engine, client_list, introspect, pubsub};
use crate::resp::Args;

/// What is forbidden about a request; the argument that is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// The command.
    Command,
    /// A key.
    Key(usize),
    /// A channel.
    Channel(usize),
}

impl Denied {
    /// What the client is told, in the words of Redis.
    pub fn fault(self, row: &Command) -> Fault {
        match self {
            Denied::Command => Fault::new(format!(
                "NOPERM this user has no permissions to run the '{}' command",
                introspect::full_name_of(row)
            )),
            Denied::Key(_) => {
                Fault::of("NOPERM this user has no permissions to access one of the keys used as arguments")
            }
            Denied::Channel(_) => {
                Fault::of("NOPERM this user has no permissions to access one of the channels used as arguments")
            }
        }
    }

    /// What a client is told whose transaction was queued while it was still allowed.
    pub fn fault_in_transaction(self) -> Fault {
        let why = match self {
            Denied::Command => "no permission to execute the command or subcommand",
            Denied::Key(_) => "no permission to touch the specified keys",
            Denied::Channel(_) => "no permission to access one of the channels used as arguments",
        };
        Fault::new(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
             command is no longer allowed for the following reason: {why}"
        ))
    }

    /// What ACL DRYRUN answers.
    pub fn sentence(self, row: &Command, args: &Args<'_>) -> Vec<u8> {
        let (verb, what, kind) = match self {
            Denied::Command => ("run", introspect::full_name_of(row).into_bytes(), "command"),
            Denied::Key(at) => ("access", args.at(at).to_vec(), "key"),
            Denied::Channel(at) => ("access", args.at(at).to_vec(), "channel"),
        };
        let head = format!("This user has no permissions to {verb} the '");
        [head.as_bytes(), &what, format!("' {kind}").as_bytes()].concat()
    }
}

/// Whether a user may run a request. One selector must allow all of it; of several reasons the furthest is told.
pub fn check(user: &User, row: &'static Command, place: u32, args: &Args<'_>) -> Result<(), Denied> {
    if row.is(flag::NO_AUTH) {
        return Ok(());
    }
    let keys = introspect::key_uses(row, args);
    let channels = pubsub::channels_of(row, args);
    let mut told = Denied::Command;
    for selector in user.selectors() {
        let denied = if !selector.rights.allow(place, args) {
            Denied::Command
        } else if let Some((at, _)) = keys.iter().find(|(at, uses)| !selector.allows_key(args.at(*at), *uses)) {
            Denied::Key(*at)
        } else if let Some(at) =
            channels.clone().find(|&at| !selector.allows_channel(args.at(at), pubsub::takes_patterns(row)))
        {
            Denied::Channel(at)
        } else {
            return Ok(());
        };
        told = told.max(denied);
    }
    Err(told)
}

/// Whether the client may run the request; who may not is noted.
#[inline]
pub fn admit(engine: &mut Engine, client: &Client, row: &'static Command, place: u32, args: &Args<'_>) -> Done {
    if !engine.users.are_limited() {
        return Ok(());
    }
    let context = context(client);
    admit_some(engine, client, row, place, args, context).map_err(|denied| denied.fault(row))
}

/// As [`admit`], where somebody may not do everything; says what is forbidden.
pub fn admit_some(
    engine: &mut Engine,
    client: &Client,
    row: &'static Command,
    place: u32,
    args: &Args<'_>,
    context: &'static str,
) -> Result<(), Denied> {
    let denied = match engine.users.get(client.user).map(|user| check(user, row, place, args)) {
        Some(Ok(())) => return Ok(()),
        Some(Err(denied)) => denied,
        None => Denied::Command,
    };
    let (reason, object) = match denied {
        Denied::Command => ("command", introspect::full_name_of(row).into_bytes()),
        Denied::Key(at) => ("key", args.at(at).to_vec()),
        Denied::Channel(at) => ("channel", args.at(at).to_vec()),
    };
    let user = client.user_name().to_vec();
    note(engine, client, args, Refusal { reason, context, object, user });
    Err(denied)
}

/// Whether a script of the client may run the request.
pub fn admit_script(engine: &mut Engine, client: &Client, row: &'static Command, place: u32, args: &Args<'_>) -> Done {
    if !engine.users.are_limited() {
        return Ok(());
    }
    admit_some(engine, client, row, place, args, "lua").map_err(|denied| {
        Fault::of(match denied {
            Denied::Command => "ERR The user executing the script can't run this command or subcommand",
            Denied::Key(_) => {
                "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments"
            }
            Denied::Channel(_) => "ERR The user executing the script can't publish to the channel mentioned in the command",
        })
    })
}

fn context(client: &Client) -> &'static str {
    if client.multi.is_some() { "multi" } else { "toplevel" }
}

fn note(engine: &mut Engine, client: &Client, args: &Args<'_>, refusal: Refusal) {
    let now = engine.store.now();
    let line = client_list::line(client, now, Some(args));
    engine.users.journal.note(refusal, line.trim_end().to_owned(), now, engine.settings.size(Name::acllog_max_len));
}

/// Whether a script of the client could run the request; `None` when there is no such command.
pub fn allows(engine: &Engine, client: &Client, args: &Args<'_>) -> Option<bool> {
    let (mut row, mut place) = table::find(args.at(0))?;
    if let Some(sub) = args.get(1).and_then(|name| row.subcommand(name)) {
        (row, place) = (sub, table::place_of_subcommand(place, row, sub));
    }
    Some(engine.users.get(client.user).is_some_and(|user| check(user, row, place, args).is_ok()))
}

/// Whether the client may read all keys, whatever they are called: SORT then follows patterns.
pub fn reads_all_keys(ctx: &Ctx<'_>) -> bool {
    let users = &ctx.engine.users;
    !users.are_limited() || users.get(ctx.client.user).is_some_and(User::reads_all_keys)
}

/// A client says who it is.
pub fn authenticate(ctx: &mut Ctx<'_>, args: &Args<'_>, name: &[u8], password: &[u8]) -> Done {
    let now = ctx.engine.store.now();
    let source = Source::of(&ctx.client.address);
    let limit = ctx.engine.settings.size(Name::auth_failure_limit) as u64;
    let users = &mut ctx.engine.users;
    let id = users.find(name);
    let user = id.and_then(|id| users.get(id)).filter(|user| user.on);
    // Who takes any password cannot be guessed.
    let guarded = user.is_none_or(|user| !user.no_password);
    if guarded && let Some(seconds) = users.attempts.refused_for(source, id, limit, now) {
        return Err(Fault::new(format!(
            "WRONGPASS too many failed attempts for this user from this address, try again in {seconds} seconds"
        )));
    }
    // A password is looked at even when there is no such user: the time taken tells nothing.
    let right = user.map_or_else(|| super::user::digest(password).is_empty(), |user| user.knows(password));
    if let Some(id) = id.filter(|_| right) {
        users.attempts.succeeded(source, Some(id));
        ctx.client.authenticated = true;
        ctx.client.become_user(id, name);
        return Ok(());
    }
    users.attempts.failed(source, id, now);
    let context = context(ctx.client);
    let refusal = Refusal { reason: "auth", context, object: args.at(0).to_vec(), user: name.to_vec() };
    note(ctx.engine, ctx.client, args, refusal);
    Err(Fault::of("WRONGPASS invalid username-password pair or user is disabled."))
}
