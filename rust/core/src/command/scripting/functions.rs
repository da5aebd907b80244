//! Functions: libraries of scripts that a node keeps, FUNCTION, FCALL.
//!
//! A library is code that, run once when it is loaded, registers functions; FCALL runs one of them. `registry` keeps
//! the libraries and says how they travel to replicas and files.

use super::flags::{self, Flags, quoting};
use super::registry::{Libraries, News, name_of};
use super::running::Running;
use super::{KEYS, KEYS_RO, answer, busy_kill, judge, within};
use crate::command::fault::{Done, Fault};
use crate::command::glob::glob;
use crate::command::table::{Command, Handler, flag};
use crate::command::{Ctx, server};
use crate::resp::{Args, Reply};
use crate::stream::codec::{Reader, put_string};
use crate::stream::rdb;
use std::borrow::Cow;

const FCALL: u32 = flag::NOSCRIPT
    | flag::STALE
    | flag::SKIP_MONITOR
    | flag::MAY_REPLICATE
    | flag::NO_MANDATORY_KEYS
    | flag::MOVABLE_KEYS
    | flag::SCRIPTING;
const CHANGES: u32 = flag::WRITE | flag::NOSCRIPT | flag::SCRIPTING;
const TELLS: u32 = flag::NOSCRIPT | flag::SCRIPTING;
/// In a DUMP payload: a library follows.
const LIBRARY: u8 = 245;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32, summary: &'static str) -> Command {
    Command { group: "scripting", since: "7.0.0", summary, ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        syntax: "function numkeys [key [key ...]] [arg [arg ...]]",
        keys: KEYS,
        ..row("fcall", fcall, -3, FCALL, "Runs a function of a library.")
    },
    Command {
        syntax: "function numkeys [key [key ...]] [arg [arg ...]]",
        keys: KEYS_RO,
        ..row(
            "fcall_ro",
            fcall,
            -3,
            (FCALL & !flag::MAY_REPLICATE) | flag::READONLY,
            "Runs a function of a library that may not write.",
        )
    },
    Command {
        subcommands: &[
            Command { syntax: "library-name", ..row("delete", delete, 3, CHANGES, "Forgets a library.") },
            row(
                "dump",
                dump,
                2,
                TELLS,
                "Answers all libraries as bytes that FUNCTION RESTORE takes, here and in Redis.",
            ),
            Command { syntax: "[ASYNC | SYNC]", ..row("flush", flush, -2, CHANGES, "Forgets all libraries.") },
            row("help", help, 2, flag::LOADING | flag::STALE | flag::SCRIPTING, "Tells about FUNCTION's sub-commands."),
            row("kill", kill, 2, TELLS | flag::ALLOW_BUSY, "Ends the function that runs, unless it has written."),
            Command {
                syntax: "[LIBRARYNAME library-name-pattern] [WITHCODE]",
                ..row("list", list, -2, TELLS, "Tells which libraries there are, and their functions.")
            },
            Command {
                syntax: "[REPLACE] function-code",
                ..row("load", load, -3, CHANGES | flag::DENYOOM, "Loads a library.")
            },
            Command {
                syntax: "serialized-value [FLUSH | APPEND | REPLACE]",
                ..row(
                    "restore",
                    restore,
                    -3,
                    CHANGES | flag::DENYOOM,
                    "Loads the libraries that FUNCTION DUMP answered.",
                )
            },
            row(
                "stats",
                stats,
                2,
                TELLS | flag::ALLOW_BUSY,
                "Tells about the function that runs, and how many there are.",
            ),
        ],
        ..row("function", help, -2, 0, "Is the roof of the commands about functions.")
    },
];

fn fcall(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    super::show(ctx, args);
    let Some(function) = ctx.engine.scripting.libraries.function(args.at(1)) else {
        return Err(Fault::new("ERR Function not found"));
    };
    let (name, flags, place) = (function.name.clone(), function.flags, function.place);
    let count = args.integer(2).map_err(|_| Fault::new("ERR Bad number of keys provided"))?;
    if count > args.len() as i64 - 3 {
        return Err(Fault::new("ERR Number of keys can't be greater than number of args"));
    }
    let count = usize::try_from(count).map_err(|_| Fault::new("ERR Number of keys can't be negative"))?;
    let read_only = ctx.command.is(flag::READONLY);
    let short = judge(ctx, flags, read_only)?;
    let interpreter = ctx.engine.scripting.libraries.interpreter()?;
    interpreter.link().run.begin(flags, read_only, short);
    let command = args.from(0).map(<[u8]>::to_vec).collect();
    let running = Running { name: name[..].into(), command, is_function: true, ..Running::default() };
    let outcome =
        within(ctx, running, |ctx| interpreter.run(ctx, place, args.from(3).take(count), args.from(3 + count), &name));
    ctx.engine.scripting.libraries.put_back(interpreter);
    answer(ctx, outcome)
}

fn load(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let mut replace = false;
    for option in args.from(2).take(args.len() - 3) {
        if !option.eq_ignore_ascii_case(b"REPLACE") {
            return Err(quoting("ERR Unknown option given: ", option));
        }
        replace = true;
    }
    let (memory, now, code) = (memory(ctx), ctx.engine.store.now(), args.at(args.len() - 1));
    let libraries = &mut ctx.engine.scripting.libraries;
    let stamp = libraries.stamp(now);
    let (name, fresh) = libraries.load_as_told(code, replace, stamp, memory)?;
    if fresh {
        tell(ctx, &[News::Loaded { stamp, code }]);
    }
    ctx.out.bulk(&name);
    Ok(())
}

fn delete(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (now, name) = (ctx.engine.store.now(), args.at(2));
    let libraries = &mut ctx.engine.scripting.libraries;
    let stamp = libraries.stamp(now);
    match libraries.delete_as_told(name, stamp) {
        None => return Err(Fault::new("ERR Library not found")),
        Some(true) => tell(ctx, &[News::Gone { stamp, name }]),
        Some(false) => {}
    }
    ctx.out.ok();
    Ok(())
}

fn flush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(server::unknown_subcommand_or_arity("FUNCTION", args.at(1)));
    }
    if args.len() == 3 && !args.is(2, "ASYNC") && !args.is(2, "SYNC") {
        return Err(Fault::new("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    let now = ctx.engine.store.now();
    let libraries = &mut ctx.engine.scripting.libraries;
    let stamp = libraries.stamp(now);
    libraries.flush(stamp);
    tell(ctx, &[News::Flushed { stamp }]);
    ctx.out.ok();
    Ok(())
}

fn list(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (mut pattern, mut with_code) = (None, false);
    let mut at = 2;
    while at < args.len() {
        if !with_code && args.is(at, "WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && args.is(at, "LIBRARYNAME") {
            at += 1;
            let Some(given) = args.get(at) else {
                return Err(Fault::new("ERR library name argument was not given"));
            };
            pattern = Some(given);
        } else {
            return Err(quoting("ERR Unknown argument ", args.at(at)));
        }
        at += 1;
    }
    let libraries = &ctx.engine.scripting.libraries;
    let told: Vec<_> =
        libraries.all().filter(|(name, _)| pattern.is_none_or(|pattern| glob(pattern, name, true))).collect();
    ctx.out.array(told.len());
    for (name, library) in told {
        ctx.out.map(3 + usize::from(with_code));
        ctx.out.bulk(b"library_name");
        ctx.out.bulk(name);
        ctx.out.bulk(b"engine");
        ctx.out.bulk(b"LUA");
        ctx.out.bulk(b"functions");
        ctx.out.array(library.functions.len());
        for function in &library.functions {
            ctx.out.map(3);
            ctx.out.bulk(b"name");
            ctx.out.bulk(&function.name);
            ctx.out.bulk(b"description");
            ctx.out.bulk_or_null(function.description.as_deref());
            ctx.out.bulk(b"flags");
            tell_flags(ctx.out, function.flags);
        }
        if with_code {
            ctx.out.bulk(b"library_code");
            ctx.out.bulk(&library.code);
        }
    }
    Ok(())
}

fn tell_flags(out: &mut Reply, flags: Flags) {
    let names: Vec<_> = flags::NAMES.iter().filter(|(_, flag)| flags.has(*flag)).collect();
    out.set(names.len());
    names.iter().for_each(|(name, _)| out.status(name));
}

fn stats(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let out = &mut *ctx.out;
    out.map(2);
    out.bulk(b"running_script");
    match &ctx.engine.scripting.running {
        Some(running) if running.is_function => {
            out.map(3);
            out.bulk(b"name");
            out.bulk(&running.name);
            out.bulk(b"command");
            out.array(running.command.len());
            running.command.iter().for_each(|word| out.bulk(word));
            out.bulk(b"duration_ms");
            out.count((crate::clock::ticks_to_us(crate::sys::ticks().wrapping_sub(running.began)) / 1000) as usize);
        }
        _ => out.null(),
    }
    let (libraries, functions, _) = ctx.engine.scripting.libraries.counts();
    out.bulk(b"engines");
    out.map(1);
    out.bulk(b"LUA");
    out.map(2);
    out.bulk(b"libraries_count");
    out.count(libraries);
    out.bulk(b"functions_count");
    out.count(functions);
    Ok(())
}

fn dump(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let mut payload = Vec::new();
    for (_, library) in ctx.engine.scripting.libraries.all() {
        payload.push(LIBRARY);
        put_string(&mut payload, &library.code);
    }
    rdb::seal(&mut payload);
    ctx.out.bulk(&payload);
    Ok(())
}

fn restore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 4 {
        return Err(server::unknown_subcommand_or_arity("FUNCTION", args.at(1)));
    }
    let (mut flush, mut replace) = (false, false);
    if args.len() == 4 {
        flush = args.is(3, "FLUSH");
        replace = args.is(3, "REPLACE");
        if !flush && !replace && !args.is(3, "APPEND") {
            return Err(Fault::new("ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE."));
        }
    }
    let Some(payload) = rdb::opened(args.at(2)) else {
        return Err(Fault::new("ERR DUMP payload version or checksum are wrong"));
    };
    let mut reader = Reader::new(payload);
    let mut codes = Vec::new();
    while !reader.is_empty() {
        let garbage = || Fault::new("ERR failed loading functions");
        match reader.byte() {
            Ok(LIBRARY) => codes.push(reader.string().map_err(|_| garbage())?),
            Ok(_) => return Err(Fault::new("ERR given type is not a function")),
            Err(_) => return Err(garbage()),
        }
    }
    let (memory, now) = (memory(ctx), ctx.engine.store.now());
    if !flush && !replace {
        for code in &codes {
            if let Ok((name, _)) = name_of(code)
                && ctx.engine.scripting.libraries.refuses(&name, code)
            {
                return Err(quoting("ERR Library ", &[&name[..], b" already exists"].concat()));
            }
        }
    }
    // All or nothing: they are loaded beside those that are there, which stay when one fails.
    let scripting = &mut ctx.engine.scripting;
    let before = std::mem::take(&mut scripting.libraries);
    let loaded = restored(&mut scripting.libraries, &before, &codes, flush, replace, now, memory);
    let (flushed, stamps) = match loaded {
        Ok(stamps) => stamps,
        Err(fault) => {
            scripting.libraries = before;
            return Err(fault);
        }
    };
    let mut news: Vec<_> = flushed.map(|stamp| News::Flushed { stamp }).into_iter().collect();
    news.extend(codes.iter().zip(stamps).map(|(code, stamp)| News::Loaded { stamp, code }));
    tell(ctx, &news);
    ctx.out.ok();
    Ok(())
}

/// Load into `libraries` what was there `before`, unless all is to go, and these codes. Answers the stamp of the flush,
/// if there was one, and of each code.
fn restored(
    libraries: &mut Libraries,
    before: &Libraries,
    codes: &[Cow<'_, [u8]>],
    flush: bool,
    replace: bool,
    now: u64,
    memory: usize,
) -> Result<(Option<u64>, Vec<u64>), Fault> {
    libraries.begin_like(before, !flush, memory)?;
    let flushed = flush.then(|| libraries.stamp(now)).inspect(|&stamp| libraries.flush(stamp));
    let load = |code: &Cow<'_, [u8]>| {
        let stamp = libraries.stamp(now);
        libraries.load_as_told(code, replace, stamp, memory).map(|_| stamp)
    };
    Ok((flushed, codes.iter().map(load).collect::<Result<_, _>>()?))
}

/// Bytes that scripts may take.
fn memory(ctx: &Ctx<'_>) -> usize {
    ctx.engine.settings.size(crate::command::settings::Name::lua_memory_limit)
}

/// Have replicas and the log learn what changed, together.
fn tell(ctx: &mut Ctx<'_>, news: &[News<'_>]) {
    let now = ctx.engine.store.now();
    let apart = !ctx.engine.in_transaction;
    ctx.engine.changes += 1;
    let tail = &mut ctx.engine.tail;
    if tail.listening() {
        if apart {
            tail.open_group();
        }
        news.iter().for_each(|news| news.record(tail, now));
        if apart {
            tail.close_group(now);
        }
    }
}

fn kill(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    busy_kill(ctx, true)
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "function");
    Ok(())
}
