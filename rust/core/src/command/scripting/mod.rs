//! Scripts in Lua 5.1: EVAL and its like, SCRIPT; `functions` has FCALL and FUNCTION.
//!
//! `interpreter` is Lua in a `sandbox`; it is made when the first script comes, so a node without scripts does not pay
//! for it. `native` does those that everybody uses without Lua, `registry` keeps libraries of functions. `call` is what `redis.call` does, `value` turns replies to Lua's values and back, `cache` keeps scripts by
//! their SHA-1, `flags` reads their first line, `running` is what others see while one runs, `libraries` what scripts
//! find beside Lua's own.

mod cache;
pub mod call;
mod flags;
pub mod functions;
mod interpreter;
mod libraries;
mod native;
pub mod registry;
pub mod running;
mod sandbox;
#[cfg(test)]
mod tests;
mod value;

use super::fault::{Done, Fault};
use super::table::{Command, KeySpec, KeyUse, READ, counted_keys, flag};
use super::{Ctx, monitor};
use crate::resp::{Args, OwnedArgs, Reply};
use cache::{Cache, Digest, Found};
use flags::Flags;
use interpreter::{Interpreter, Outcome};
use running::Running;
use send_wrapper::SendWrapper;

const EVAL: u32 = flag::NOSCRIPT
    | flag::STALE
    | flag::SKIP_MONITOR
    | flag::MAY_REPLICATE
    | flag::NO_MANDATORY_KEYS
    | flag::MOVABLE_KEYS
    | flag::SCRIPTING;
const EVAL_RO: u32 = (EVAL & !flag::MAY_REPLICATE) | flag::READONLY;
/// What a script does with its keys nobody can tell: the most that a command can.
const ANYTHING: KeyUse = KeyUse(&["RW", "access", "update"]);

const KEYS: &[KeySpec] = &[counted_keys(2, ANYTHING)];
const KEYS_RO: &[KeySpec] = &[counted_keys(2, READ)];

const fn eval_row(name: &'static str, run: super::table::Handler, flags: u32, since: &'static str) -> Command {
    Command {
        group: "scripting",
        since,
        syntax: "script numkeys [key [key ...]] [arg [arg ...]]",
        keys: if flags & flag::READONLY != 0 { KEYS_RO } else { KEYS },
        ..Command::new(name, run, -3, flags)
    }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command { summary: "Runs a script.", ..eval_row("eval", eval, EVAL, "2.6.0") },
    Command { summary: "Runs a script that may not write.", ..eval_row("eval_ro", eval, EVAL_RO, "7.0.0") },
    Command {
        summary: "Runs a script that the node knows, by its SHA-1.",
        syntax: "sha1 numkeys [key [key ...]] [arg [arg ...]]",
        ..eval_row("evalsha", evalsha, EVAL, "2.6.0")
    },
    Command {
        summary: "Runs a script that the node knows, by its SHA-1, and that may not write.",
        syntax: "sha1 numkeys [key [key ...]] [arg [arg ...]]",
        ..eval_row("evalsha_ro", evalsha, EVAL_RO, "7.0.0")
    },
    Command {
        group: "scripting",
        since: "2.6.0",
        summary: "Is the roof of the commands about scripts.",
        subcommands: &[
            script_row(
                "debug",
                debug,
                3,
                flag::NOSCRIPT,
                "3.2.0",
                "Sets how scripts are debugged.",
                "<YES | SYNC | NO>",
            ),
            script_row(
                "exists",
                exists,
                -3,
                flag::NOSCRIPT,
                "2.6.0",
                "Tells which scripts are known.",
                "sha1 [sha1 ...]",
            ),
            script_row("flush", flush, -2, flag::NOSCRIPT, "2.6.0", "Forgets all scripts.", "[ASYNC | SYNC]"),
            script_row("help", help, 2, flag::LOADING | flag::STALE, "5.0.0", "Tells about SCRIPT's sub-commands.", ""),
            script_row(
                "kill",
                kill,
                2,
                flag::NOSCRIPT | flag::ALLOW_BUSY,
                "2.6.0",
                "Ends the script that runs, unless it has written.",
                "",
            ),
            script_row(
                "load",
                load,
                3,
                flag::NOSCRIPT | flag::STALE,
                "2.6.0",
                "Has the node know a script, and returns its SHA-1.",
                "script",
            ),
            script_row("show", show_text, 3, flag::NOSCRIPT, "7.0.0", "Tells the text of a script.", "sha1"),
        ],
        ..Command::new("script", help, -2, 0)
    },
];

const fn script_row(
    name: &'static str,
    run: super::table::Handler,
    arity: i32,
    flags: u32,
    since: &'static str,
    summary: &'static str,
    syntax: &'static str,
) -> Command {
    Command { group: "scripting", since, summary, syntax, ..Command::new(name, run, arity, flags | flag::SCRIPTING) }
}

/// Figures about scripts and functions; memory in bytes.
#[allow(missing_docs)]
#[derive(Default)]
pub struct Figures {
    pub eval_memory: usize,
    pub cache_memory: usize,
    pub cached: usize,
    pub function_memory: usize,
    pub library_memory: usize,
    pub functions: usize,
    pub libraries: usize,
}

/// What a node has of scripts.
#[derive(Default)]
pub struct Scripting {
    interpreter: Option<SendWrapper<Interpreter>>,
    cache: Cache,
    /// Memory that known scripts use again and again.
    buffers: (OwnedArgs, Reply),
    /// The script that runs.
    pub running: Option<Running>,
    /// Bytes of memory that Lua holds for scripts, as of the last one.
    lua_memory: usize,
    /// Libraries of functions.
    pub libraries: registry::Libraries,
}

impl Scripting {
    /// Whether a script is known, by its SHA-1 as a client writes it.
    pub fn knows(&self, digest: &[u8]) -> bool {
        cache::parse_digest(digest).is_some_and(|digest| self.cache.has(&digest))
    }

    /// Bytes of memory that Lua holds.
    pub fn lua_memory(&self) -> usize {
        self.lua_memory + self.libraries.lua_memory
    }

    /// What INFO tells.
    pub fn figures(&self) -> Figures {
        let (libraries, functions, library_memory) = self.libraries.counts();
        Figures {
            function_memory: self.libraries.lua_memory,
            library_memory,
            functions,
            libraries,
            eval_memory: self.lua_memory,
            cache_memory: self.cache.bytes(),
            cached: self.cache.len(),
        }
    }

    /// What others are told while a script runs for long.
    pub fn busy(&self) -> Fault {
        busy(self.running.as_ref().is_some_and(|running| running.is_function))
    }

    fn interpreter(&mut self) -> Result<SendWrapper<Interpreter>, Fault> {
        match self.interpreter.take() {
            Some(interpreter) => Ok(interpreter),
            None => Interpreter::new()
                .map(SendWrapper::new)
                .map_err(|error| Fault::new(format!("ERR the script engine does not start: {error}"))),
        }
    }
}

/// Numbers of keys and where they end.
fn key_count(args: &Args<'_>) -> Result<usize, Fault> {
    let count = args.integer(2)?;
    if count > args.len() as i64 - 3 {
        return Err(Fault::new("ERR Number of keys can't be greater than number of args"));
    }
    usize::try_from(count).map_err(|_| Fault::new("ERR Number of keys can't be negative"))
}

fn eval(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    show(ctx, args);
    let count = key_count(args)?;
    let digest = cache::digest(args.at(1));
    let script = match ctx.engine.scripting.cache.find(&digest) {
        Some(script) => script,
        None => learn(ctx, digest, args.at(1))?,
    };
    run(ctx, args, count, &digest, script)
}

fn evalsha(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    show(ctx, args);
    let digest = cache::parse_digest(args.at(1));
    let Some((digest, script)) = digest.and_then(|digest| Some((digest, ctx.engine.scripting.cache.find(&digest)?)))
    else {
        // As Redis: a digest that cannot be is told before anything else is looked at.
        if digest.is_some() {
            key_count(args)?;
        }
        return Err(Fault::new("NOSCRIPT No matching script. Please use EVAL."));
    };
    let count = key_count(args)?;
    run(ctx, args, count, &digest, script)
}

/// Who monitors sees the script before its commands.
fn show(ctx: &mut Ctx<'_>, args: &Args<'_>) {
    if !ctx.engine.monitors.is_empty() {
        monitor::show_anyway(ctx.engine, ctx.client, ctx.command, args);
    }
}

/// Compile a script and keep it.
fn learn(ctx: &mut Ctx<'_>, digest: Digest, body: &[u8]) -> Result<Found, Fault> {
    let (flags, start) = flags::of_script(body)?;
    let scripting = &mut ctx.engine.scripting;
    let interpreter = scripting.interpreter()?;
    let kept = interpreter.keep(&body[start..], b"@user_script");
    let kept = kept.map(|place| Found { flags, place, native: native::known(body, flags) });
    if let Ok(script) = kept {
        for gone in scripting.cache.keep(digest, script, body) {
            interpreter.forget(gone);
        }
    }
    scripting.lua_memory = interpreter.used_memory();
    scripting.interpreter = Some(interpreter);
    kept.map_err(|problem| flags::quoting("ERR Error compiling script (new function): ", &problem))
}

/// Run a script: judge whether it may, lend it the node, and answer.
fn run(ctx: &mut Ctx<'_>, args: &Args<'_>, count: usize, digest: &Digest, script: Found) -> Done {
    let Found { flags, place, native } = script;
    let read_only = ctx.command.is(flag::READONLY);
    let short = judge(ctx, flags, read_only)?;
    if let Some(native) = native.filter(|_| !read_only) {
        let mut unsuited = false;
        let outcome = within(ctx, Running { name: digest[..].into(), ..Running::default() }, |ctx| {
            native::run(ctx, args, count, native, short).unwrap_or_else(|| {
                unsuited = true;
                Outcome::Replied
            })
        });
        if !unsuited {
            return answer(ctx, outcome);
        }
    }
    let interpreter = ctx.engine.scripting.interpreter()?;
    interpreter.link().run.begin(flags, read_only, short);
    let outcome = within(ctx, Running { name: digest[..].into(), ..Running::default() }, |ctx| {
        interpreter.run(ctx, place, args.from(3).take(count), args.from(3 + count), digest)
    });
    let wrote = interpreter.link().run.wrote.get();
    ctx.engine.scripting.lua_memory = interpreter.used_memory();
    ctx.engine.scripting.interpreter = Some(interpreter);
    if ctx.client.routed
        && !wrote
        && !ctx.engine.in_transaction
        && let Outcome::Failed(text, _) = &outcome
        && let Some(words) = call::NON_LOCAL.strip_prefix("ERR ")
        && memchr::memmem::find(text, words.as_bytes()).is_some()
    {
        // Nothing was done: whoever routes may run it where all its keys are.
        return Err(Fault::new(format!("NONLOCAL {words}")));
    }
    answer(ctx, outcome)
}

/// Whether a script may run now; tells whether memory is short.
fn judge(ctx: &mut Ctx<'_>, flags: Flags, read_only: bool) -> Result<bool, Fault> {
    let short = ctx.engine.settings.number(super::settings::Name::maxmemory) > 0 && !ctx.engine.make_room();
    if flags.has(Flags::SILENT) {
        return Ok(short);
    }
    if flags.has(Flags::NO_CLUSTER) && ctx.engine.settings.is_on(super::settings::Name::cluster_enabled) {
        return Err(Fault::new("ERR Can not run script on cluster, 'no-cluster' flag is set."));
    }
    if read_only && !flags.has(Flags::NO_WRITES) {
        return Err(Fault::new("ERR Can not execute a script with write flag using *_ro command."));
    }
    if short && !flags.has(Flags::ALLOW_OOM) && !flags.has(Flags::NO_WRITES) {
        return Err(Fault::OUT_OF_MEMORY);
    }
    Ok(short)
}

/// Run something as a script: others see that it runs, nothing in it blocks, and what it selects or starts ends with it.
fn within(ctx: &mut Ctx<'_>, running: Running, what: impl FnOnce(&mut Ctx<'_>) -> Outcome) -> Outcome {
    ctx.engine.scripting.running = Some(Running { began: crate::sys::ticks(), ..running });
    let database = ctx.client.database;
    let in_transaction = std::mem::replace(&mut ctx.engine.in_transaction, true);
    if !in_transaction {
        // What it writes is applied elsewhere as a whole, as here.
        ctx.engine.tail.open_group();
    }
    let outcome = what(ctx);
    if !in_transaction {
        let now = ctx.engine.store.now();
        ctx.engine.tail.close_group(now);
    }
    ctx.engine.in_transaction = in_transaction;
    ctx.client.database = database;
    ctx.engine.scripting.running = None;
    outcome
}

fn answer(ctx: &mut Ctx<'_>, outcome: Outcome) -> Done {
    match outcome {
        Outcome::Replied => Ok(()),
        Outcome::Failed(text, counted) => {
            let fault = Fault::bytes(text);
            if counted {
                // The command that failed was counted; its script's reply is the same error.
                ctx.engine.stats.errors = ctx.engine.stats.errors.saturating_sub(1);
                if let Some(count) = ctx.engine.error_stats.get_mut(fault.code()) {
                    *count = count.saturating_sub(1);
                }
            }
            Err(fault)
        }
    }
}

fn load(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let digest = cache::digest(args.at(2));
    if ctx.engine.scripting.cache.find(&digest).is_none() {
        learn(ctx, digest, args.at(2))?;
    }
    ctx.out.bulk(&digest);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    ctx.out.array(args.len() - 2);
    for text in args.from(2) {
        let known = cache::parse_digest(text).is_some_and(|digest| ctx.engine.scripting.cache.has(&digest));
        ctx.out.integer(i64::from(known));
    }
    Ok(())
}

/// SCRIPT SHOW, as Valkey 8 has it.
fn show_text(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let digest = cache::parse_digest(args.at(2));
    let text = digest.and_then(|digest| ctx.engine.scripting.cache.text(&digest));
    ctx.out.bulk(text.ok_or(Fault::new("NOSCRIPT No matching script. Please use EVAL."))?);
    Ok(())
}

fn flush(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 || (args.len() == 3 && !args.is(2, "ASYNC") && !args.is(2, "SYNC")) {
        return Err(Fault::new("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    let scripting = &mut ctx.engine.scripting;
    scripting.cache.clear();
    scripting.interpreter = None;
    scripting.lua_memory = 0;
    ctx.out.ok();
    Ok(())
}

fn kill(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    busy_kill(ctx, false)
}

fn busy(function: bool) -> Fault {
    let command = if function { "FUNCTION KILL" } else { "SCRIPT KILL" };
    Fault::new(format!("BUSY Redis is busy running a script. You can only call {command} or SHUTDOWN NOSAVE."))
}

/// End the script, or the function, that runs.
fn busy_kill(ctx: &mut Ctx<'_>, function: bool) -> Done {
    match &mut ctx.engine.scripting.running {
        None => Err(Fault::new("NOTBUSY No scripts in execution right now.")),
        Some(running) if running.is_function != function => Err(busy(running.is_function)),
        Some(running) if running.wrote => Err(Fault::new(
            "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the \
             script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
        )),
        Some(running) => {
            running.killed = true;
            ctx.out.ok();
            Ok(())
        }
    }
}

fn debug(_: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.is(2, "NO") || args.is(2, "YES") || args.is(2, "SYNC") {
        return Err(Fault::new("ERR there is no debugger of scripts here; use redis.log() or return values"));
    }
    Err(Fault::new("ERR Use SCRIPT DEBUG YES/SYNC/NO"))
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    super::server::help(ctx, "script");
    Ok(())
}
