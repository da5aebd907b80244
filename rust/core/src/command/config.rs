//! CONFIG: settings shown, changed while the node runs, and written back to its file.

use super::fault::{Done, Fault};
use super::glob::glob;
use super::settings::{ALIASES, Name, SETTINGS, Settings};
use super::table::{Command, Handler, flag};
use super::{Ctx, Engine, config_file, server, tls};
use crate::resp::Args;

const FLAGS: u32 = flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE;

const fn sub(name: &'static str, run: Handler, arity: i32) -> Command {
    Command { since: "2.0.0", ..Command::new(name, run, arity, FLAGS) }
}

/// CONFIG and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "2.0.0",
    summary: "Shows and changes settings.",
    subcommands: &[
        Command {
            summary: "Shows the settings whose names match.",
            syntax: "parameter [parameter ...]",
            ..sub("get", get, -3)
        },
        Command {
            summary: "Changes settings, all of them or none.",
            syntax: "parameter value [parameter value ...]",
            ..sub("set", set, -4)
        },
        Command { summary: "Starts the statistics anew.", ..sub("resetstat", reset_statistics, 2) },
        Command {
            since: "2.8.0",
            summary: "Writes what CONFIG SET changed into the configuration file.",
            ..sub("rewrite", rewrite, 2)
        },
        Command {
            since: "5.0.0",
            summary: "Lists the sub-commands.",
            ..Command::new("help", help, 2, flag::LOADING | flag::STALE)
        },
    ],
    ..Command::new("config", server::needs_subcommand, -2, 0)
}];

fn get(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let settings = &ctx.engine.settings;
    let mut shown: Vec<(String, &str)> = Vec::new();
    for pattern in args.from(2) {
        let name = String::from_utf8_lossy(pattern).to_lowercase();
        if pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')) {
            let names = SETTINGS.iter().map(|row| row.name).chain(ALIASES.iter().map(|(old, _)| *old));
            for name in names.filter(|name| glob(pattern, name.as_bytes(), true)) {
                if let Some(index) = Settings::find(name).filter(|_| shown.iter().all(|(each, _)| each != name)) {
                    shown.push((name.to_owned(), settings.shown(index)));
                }
            }
        } else if let Some(index) = Settings::find(&name)
            && shown.iter().all(|(each, _)| !each.eq_ignore_ascii_case(&name))
        {
            // Under the name it was asked for, old ones included.
            shown.push((String::from_utf8_lossy(pattern).into_owned(), settings.shown(index)));
        }
    }
    ctx.out.map(shown.len());
    for (name, value) in shown {
        ctx.out.bulk(name.as_bytes());
        ctx.out.bulk(value.as_bytes());
    }
    Ok(())
}

fn set(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if !args.len().is_multiple_of(2) {
        return Err(Fault::SYNTAX);
    }
    let refused = |name: &[u8], why: &str| {
        let mut text = b"ERR CONFIG SET failed (possibly related to argument '".to_vec();
        text.extend_from_slice(name);
        text.extend_from_slice(format!("') - {why}").as_bytes());
        Fault::bytes(text)
    };
    let mut wanted: Vec<(usize, &[u8], String)> = Vec::new();
    for at in (2..args.len()).step_by(2) {
        let name = args.at(at);
        let Some(index) = Settings::find(&String::from_utf8_lossy(name)) else {
            let mut text = b"ERR Unknown option or number of arguments for CONFIG SET - '".to_vec();
            text.extend_from_slice(name);
            text.push(b'\'');
            return Err(Fault::bytes(text));
        };
        if !SETTINGS[index].at_run_time {
            return Err(refused(name, "can't set immutable config"));
        }
        if is_protected(ctx, SETTINGS[index].name) {
            return Err(refused(name, "can't set protected config"));
        }
        if wanted.iter().any(|(other, ..)| *other == index) {
            return Err(refused(name, "duplicate parameter"));
        }
        let value = String::from_utf8(args.at(at + 1).to_vec());
        wanted.push((index, name, value.map_err(|_| refused(name, "argument must be text"))?));
    }
    let before: Vec<(usize, String)> =
        wanted.iter().map(|(index, ..)| (*index, ctx.engine.settings.shown(*index).to_owned())).collect();
    for (index, name, value) in &wanted {
        let Err(wrong) = ctx.engine.settings.put(*index, value) else { continue };
        for (index, value) in &before {
            let _ = ctx.engine.settings.put(*index, value); // It was valid before.
        }
        return Err(refused(name, &wrong));
    }
    // Certificates are read anew whenever one of their settings is set, be it to the same path.
    if let Some((_, name, _)) = wanted.iter().find(|(index, ..)| tls::concerns(SETTINGS[*index].name)) {
        match tls::Tls::of(&ctx.engine.settings) {
            Ok(tls) => ctx.engine.tls = tls,
            Err(wrong) => {
                for (index, value) in &before {
                    let _ = ctx.engine.settings.put(*index, value);
                }
                return Err(refused(name, &format!("Unable to update TLS configuration: {wrong}")));
            }
        }
    }
    for (index, ..) in wanted {
        ctx.engine.settings.note_change(index);
        if SETTINGS[index].name == "requirepass" {
            ctx.engine.users.expect_password();
        }
    }
    ctx.engine.settings_changed();
    ctx.out.ok();
    Ok(())
}

/// Settings that a client could use to write files where it likes.
fn is_protected(ctx: &Ctx<'_>, name: &str) -> bool {
    matches!(name, "dir" | "dbfilename")
        && match ctx.engine.settings.text(Name::enable_protected_configs) {
            "yes" => false,
            "local" => !server::is_local(ctx.client),
            _ => true,
        }
}

fn reset_statistics(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    start_anew(ctx.engine);
    ctx.out.ok();
    Ok(())
}

/// Forget all statistics that count events.
fn start_anew(engine: &mut Engine) {
    let gauges = (
        engine.stats.instantaneous_ops,
        engine.stats.instantaneous_input,
        engine.stats.instantaneous_output,
        engine.stats.peak_memory,
    );
    engine.stats = super::engine::Stats::default();
    (
        engine.stats.instantaneous_ops,
        engine.stats.instantaneous_input,
        engine.stats.instantaneous_output,
        engine.stats.peak_memory,
    ) = gauges;
    engine.store.counts = crate::store::keyspace::Counts::default();
    engine.command_stats.fill(super::engine::CommandStats::default());
    engine.latencies.clear();
    engine.error_stats.clear();
    engine.key_statistics.clear();
}

fn rewrite(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let Some(file) = ctx.engine.settings.file.clone() else {
        return Err(Fault::new("ERR The server is running without a config file"));
    };
    config_file::rewrite(std::path::Path::new(&file), &ctx.engine.settings)
        .map_err(|error| Fault::new(format!("ERR Rewriting config file: {error}")))?;
    ctx.out.ok();
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "CONFIG");
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn several_settings_change_together_or_not_at_all() {
        Node::new().expect(&[
            ("CONFIG SET timeout 5 hz abc", "-ERR CONFIG SET failed (possibly related to argument 'hz') - argument couldn't be parsed into an integer"),
            ("CONFIG GET timeout", "*2 $7 timeout $1 0"),
            ("CONFIG SET timeout 5 hz 20", "+OK"),
            ("CONFIG GET timeout hz timeout", "*4 $7 timeout $1 5 $2 hz $2 20"),
            ("CONFIG SET maxmemory 1mb", "+OK"),
            ("CONFIG GET maxmemor[y]", "*2 $9 maxmemory $7 1048576"),
        ]);
    }

    #[test]
    fn refusals_are_worded_as_in_redis() {
        Node::new().expect(&[
            ("CONFIG SET foo 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'"),
            ("CONFIG SET maxmemory 1 timeout", "-ERR syntax error"),
            (
                "CONFIG SET hz 1 hz 2",
                "-ERR CONFIG SET failed (possibly related to argument 'hz') - duplicate parameter",
            ),
            (
                "CONFIG SET databases 3",
                "-ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config",
            ),
            (
                "CONFIG SET dir /tmp",
                "-ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config",
            ),
            (
                "CONFIG SET appendonly maybe",
                "-ERR CONFIG SET failed (possibly related to argument 'appendonly') - argument must be 'yes' or 'no'",
            ),
            (
                "CONFIG SET save x",
                "-ERR CONFIG SET failed (possibly related to argument 'save') - Invalid save parameters",
            ),
            ("CONFIG REWRITE", "-ERR The server is running without a config file"),
            ("CONFIG GET slaveof", "*2 $7 slaveof $0"),
        ]);
    }
}
