//! What commands about the node share: the version, HELP, who may use DEBUG.

use super::client::Client;
use super::fault::{Done, Fault};
use super::settings::Name;
use super::table;
use super::{Ctx, Engine};
use crate::resp::Args;

/// The version of Redis whose behaviour is served.
pub const REDIS_VERSION: &str = "7.0.15";

/// The handler of a command that only has sub-commands: reached when none was named.
pub fn needs_subcommand(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    Err(unknown_subcommand_or_arity(&ctx.command.name.to_uppercase(), args.at(1)))
}

/// What Redis says when a sub-command gets arguments it does not take.
pub fn unknown_subcommand_or_arity(parent: &str, sub: &[u8]) -> Fault {
    let mut text = b"ERR unknown subcommand or wrong number of arguments for '".to_vec();
    text.extend_from_slice(super::dispatch::quoted(sub, 128));
    text.extend_from_slice(format!("'. Try {parent} HELP.").as_bytes());
    Fault::bytes(text)
}

/// Answer `<command> HELP`, from the table.
pub fn help(ctx: &mut Ctx<'_>, parent: &str) {
    let Some((row, _)) = table::find(parent.as_bytes()) else {
        return ctx.out.array(0);
    };
    let mut lines = vec![format!("{parent} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    for sub in row.subcommands {
        lines.push(format!("{} {}", sub.name.to_uppercase(), sub.syntax).trim_end().to_owned());
        lines.push(format!("    {}", sub.summary));
    }
    ctx.out.array(lines.len());
    for line in lines {
        ctx.out.status(&line);
    }
}

/// Whether a client runs on this host.
pub fn is_local(client: &Client) -> bool {
    client.by_unix_socket || client.address.starts_with("127.") || client.address.starts_with("[::1]")
}

/// Whether a client may use DEBUG.
pub fn debug_allowed(engine: &Engine, client: &Client) -> bool {
    match engine.settings.text(Name::enable_debug_command) {
        "yes" => true,
        "local" => is_local(client),
        _ => false,
    }
}

/// What a client that may not use DEBUG is told.
pub fn debug_refusal() -> Fault {
    Fault::new(
        "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a \
         local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
    )
}
