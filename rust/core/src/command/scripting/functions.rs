//! Functions: libraries of scripts that a node keeps, FUNCTION, FCALL.
//!
//! A library is code that, run once when it is loaded, registers functions; FCALL runs one of them. They live in an
//! interpreter of their own, in which a library's code sees nothing but `redis.register_function` while it is loaded.

use super::flags::{self, Flags, quoting};
use super::interpreter::Interpreter;
use super::running::Running;
use super::{KEYS, KEYS_RO, answer, busy_kill, judge, within};
use crate::command::fault::{Done, Fault};
use crate::command::keys::glob;
use crate::command::table::{Command, Handler, flag};
use crate::command::{Ctx, server};
use crate::resp::request::split_words;
use crate::resp::{Args, Reply};
use crate::stream::codec::{Reader, put_string};
use crate::stream::rdb;
use send_wrapper::SendWrapper;
use std::collections::{BTreeMap, HashMap};

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
/// Most bytes of libraries' code.
const MOST_BYTES: usize = 64 << 20;

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

/// A function of a library.
#[derive(Clone)]
pub struct Function {
    /// Its name.
    pub name: Vec<u8>,
    /// What it says that it does.
    pub description: Option<Vec<u8>>,
    /// What it says of itself.
    pub flags: Flags,
    /// Where it stands in the interpreter.
    pub place: i64,
}

/// A library.
struct Library {
    code: Box<[u8]>,
    functions: Vec<Function>,
}

/// All libraries of a node.
#[derive(Default)]
pub struct Libraries {
    interpreter: Option<SendWrapper<Interpreter>>,
    by_name: BTreeMap<Vec<u8>, Library>,
    /// Functions by their names in small letters, with their library's.
    index: HashMap<Vec<u8>, (Vec<u8>, Function)>,
    /// Bytes of memory that Lua holds, as of the last function.
    pub lua_memory: usize,
}

impl Libraries {
    /// How many libraries there are, how many functions, and bytes of code.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.by_name.len(), self.index.len(), self.by_name.values().map(|library| library.code.len()).sum())
    }

    fn interpreter(&mut self) -> Result<SendWrapper<Interpreter>, Fault> {
        match self.interpreter.take() {
            Some(interpreter) => Ok(interpreter),
            None => Interpreter::for_functions()
                .map(SendWrapper::new)
                .map_err(|error| Fault::new(format!("ERR the script engine does not start: {error}"))),
        }
    }

    fn put_back(&mut self, interpreter: SendWrapper<Interpreter>) {
        self.lua_memory = interpreter.used_memory();
        self.interpreter = Some(interpreter);
    }

    fn index_anew(&mut self) {
        self.index = self
            .by_name
            .iter()
            .flat_map(|(name, library)| library.functions.iter().map(move |function| (name.clone(), function.clone())))
            .map(|(library, function)| (function.name.to_ascii_lowercase(), (library, function)))
            .collect();
    }

    /// Forget a library.
    fn remove(&mut self, name: &[u8]) -> Option<Library> {
        let library = self.by_name.remove(name)?;
        if let Some(interpreter) = &self.interpreter {
            library.functions.iter().for_each(|function| interpreter.forget(function.place));
        }
        self.index_anew();
        Some(library)
    }

    /// Run a library's code and keep what it registers. Answers its name.
    fn load(&mut self, code: &[u8], replace: bool, memory: usize) -> Result<Vec<u8>, Fault> {
        let (name, start) = name_of(code)?;
        let there = self.by_name.contains_key(&name);
        if there && !replace {
            return Err(quoting("ERR Library '", &[&name[..], b"' already exists"].concat()));
        }
        if self.counts().2 + code.len() > MOST_BYTES {
            return Err(Fault::new("ERR the code of all libraries exceeds 64 MiB: delete some"));
        }
        let interpreter = self.interpreter()?;
        let loaded = interpreter.load(&code[start..], memory);
        let judged = loaded.map_err(Fault::bytes).and_then(|functions| {
            let taken = functions.iter().find(|function| {
                self.index.get(&function.name.to_ascii_lowercase()).is_some_and(|(library, _)| *library != name)
            });
            let problem = match taken {
                Some(function) => quoting("ERR Function ", &[&function.name[..], b" already exists"].concat()),
                None if functions.is_empty() => Fault::new("ERR No functions registered"),
                None => return Ok(functions),
            };
            functions.iter().for_each(|function| interpreter.forget(function.place));
            Err(problem)
        });
        self.put_back(interpreter);
        let functions = judged?;
        self.remove(&name);
        self.by_name.insert(name.clone(), Library { code: code.into(), functions });
        self.index_anew();
        Ok(name)
    }
}

/// The name of a library, by its first line, and where its code begins.
fn name_of(code: &[u8]) -> Result<(Vec<u8>, usize), Fault> {
    if !code.starts_with(b"#!") {
        return Err(Fault::new("ERR Missing library metadata"));
    }
    let Some(end) = memchr::memchr(b'\n', code) else {
        return Err(Fault::new("ERR Invalid library metadata"));
    };
    let words = split_words(&code[..end]).unwrap_or_default();
    let Some((engine, options)) = words.split_first() else {
        return Err(Fault::new("ERR Invalid library metadata"));
    };
    let engine = engine.get(2..).unwrap_or_default();
    let mut name: Option<&[u8]> = None;
    for option in options {
        match option.split_at_checked(5) {
            Some((word, value)) if word.eq_ignore_ascii_case(b"name=") => {
                if name.replace(value).is_some() {
                    return Err(Fault::new("ERR Invalid metadata value, name argument was given multiple times"));
                }
            }
            _ => return Err(quoting("ERR Invalid metadata value given: ", option)),
        }
    }
    let Some(name) = name else {
        return Err(Fault::new("ERR Library name was not given"));
    };
    if !is_name(name) {
        return Err(Fault::new(format!("ERR {BAD_NAME}")));
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(quoting("ERR Engine '", &[engine, b"' not found"].concat()));
    }
    Ok((name.to_vec(), end))
}

/// What is wrong with a name.
pub const BAD_NAME: &str =
    "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

/// Whether a library or a function may be called so.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn fcall(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    super::show(ctx, args);
    let Some((_, function)) = ctx.engine.scripting.libraries.index.get(&args.at(1).to_ascii_lowercase()) else {
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
    let running = Running { name: name.clone(), command, is_function: true, ..Running::default() };
    let outcome = within(ctx, running, |ctx| {
        interpreter.run_function(ctx, place, args.from(3).take(count), args.from(3 + count), &name)
    });
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
    let memory = ctx.engine.settings.size(crate::command::settings::Name::lua_memory_limit);
    let name = ctx.engine.scripting.libraries.load(args.at(args.len() - 1), replace, memory)?;
    ctx.out.bulk(&name);
    Ok(())
}

fn delete(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if ctx.engine.scripting.libraries.remove(args.at(2)).is_none() {
        return Err(Fault::new("ERR Library not found"));
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
    ctx.engine.scripting.libraries = Libraries::default();
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
    let libraries = &ctx.engine.scripting.libraries.by_name;
    let told: Vec<_> =
        libraries.iter().filter(|(name, _)| pattern.is_none_or(|pattern| glob(pattern, name, true))).collect();
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
            out.count((crate::clock::steady_ns().saturating_sub(running.began) / 1_000_000) as usize);
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
    for library in ctx.engine.scripting.libraries.by_name.values() {
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
    let memory = ctx.engine.settings.size(crate::command::settings::Name::lua_memory_limit);
    if !flush && !replace {
        for name in codes.iter().filter_map(|code| Some(name_of(code).ok()?.0)) {
            if ctx.engine.scripting.libraries.by_name.contains_key(&name) {
                return Err(quoting("ERR Library ", &[&name[..], b" already exists"].concat()));
            }
        }
    }
    // All or nothing: they are loaded beside those that are there, which stay when one fails.
    let scripting = &mut ctx.engine.scripting;
    let before = std::mem::take(&mut scripting.libraries);
    let mut kept: Vec<(&[u8], bool)> = Vec::new();
    if !flush {
        kept.extend(before.by_name.values().map(|library| (&library.code[..], false)));
    }
    kept.extend(codes.iter().map(|code| (&code[..], replace)));
    let loaded = kept.iter().try_for_each(|(code, replace)| scripting.libraries.load(code, *replace, memory).map(drop));
    if let Err(fault) = loaded {
        scripting.libraries = before;
        return Err(fault);
    }
    ctx.out.ok();
    Ok(())
}

fn kill(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    busy_kill(ctx, true)
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "function");
    Ok(())
}
