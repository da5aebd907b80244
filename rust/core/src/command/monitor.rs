//! MONITOR: a client is shown every command as it has run.

use super::client::Client;
use super::fault::Done;
use super::table::{Command, flag};
use super::{Ctx, Engine};
use crate::resp::Args;

/// The family.
pub const COMMANDS: &[Command] = &[Command {
    summary: "Shows every command that the node runs, until the connection is closed or reset.",
    ..Command::new("monitor", monitor, 1, flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE)
}];

fn monitor(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    if !ctx.client.monitor {
        ctx.client.monitor = true;
        ctx.engine.monitors.push(ctx.client.token);
    }
    ctx.out.ok();
    Ok(())
}

/// Show a client nothing more.
pub fn stop(engine: &mut Engine, client: &mut Client) {
    if std::mem::take(&mut client.monitor) {
        engine.monitors.retain(|&token| token != client.token);
    }
}

/// Show a command that has run. Commands of operators are not shown, and no passwords.
#[cold]
pub fn show(engine: &mut Engine, client: &mut Client, row: &Command, args: &Args<'_>) {
    if row.is(flag::ADMIN | flag::SKIP_MONITOR) {
        return;
    }
    show_anyway(engine, client, row, args);
}

/// Show a command, whatever it is: a script shows itself, before what it does.
#[cold]
pub fn show_anyway(engine: &mut Engine, client: &mut Client, row: &Command, args: &Args<'_>) {
    let now = crate::clock::wall_us();
    let mut line = format!("+{}.{:06} [{} ", now / 1_000_000, now % 1_000_000, client.database).into_bytes();
    if engine.scripting.running.is_some() {
        line.extend_from_slice(b"lua]");
    } else if client.by_unix_socket {
        line.extend_from_slice(format!("unix:{}]", client.address.trim_end_matches(":0")).as_bytes());
    } else {
        line.extend_from_slice(format!("{}]", client.address).as_bytes());
    }
    let mut secret = 0;
    for (at, arg) in args.from(0).enumerate() {
        line.push(b' ');
        if (row.name == "auth" && at > 0) || secret > 0 {
            secret = secret.max(1) - 1;
            line.extend_from_slice(b"\"(redacted)\"");
            continue;
        }
        if row.name == "hello" && at > 1 && arg.eq_ignore_ascii_case(b"AUTH") {
            secret = 2;
        }
        quote(&mut line, arg);
    }
    line.extend_from_slice(b"\r\n");
    for token in engine.monitors.clone() {
        if token == client.token {
            client.pending.extend_from_slice(&line);
        } else {
            engine.send(token, &line);
        }
    }
    if let Some(show) = engine.elsewhere.show.as_ref().filter(|_| engine.elsewhere.monitored) {
        show(&line);
    }
}

/// Show what has run elsewhere.
pub fn show_line(engine: &mut Engine, line: &[u8]) {
    for token in engine.monitors.clone() {
        engine.send(token, line);
    }
}

/// Write bytes between quotes so that each can be told.
pub fn quote(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            7 => out.extend_from_slice(b"\\a"),
            8 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn who_monitors_sees_what_others_do_but_no_passwords() {
        let mut node = Node::new();
        let watcher = node.connect();
        assert_eq!(node.ask_as(watcher, &["MONITOR"]), "+OK");
        node.ask(&["SET", "k", "a\"\n\u{1}"]);
        let seen = node.heard(watcher);
        assert!(seen.ends_with("] \"SET\" \"k\" \"a\\\"\\n\\x01\""), "{seen}");
        node.line("CONFIG GET port");
        assert_eq!(node.heard(watcher), "");
        node.line("AUTH someone secret");
        assert!(node.heard(watcher).ends_with("\"AUTH\" \"(redacted)\" \"(redacted)\""));
        assert_eq!(node.ask_as(watcher, &["GET", "k"]), "-ERR Replica can't interact with the keyspace");
        node.ask_as(watcher, &["RESET"]);
        node.line("PING");
        assert_eq!(node.heard(watcher), "");
    }
}
