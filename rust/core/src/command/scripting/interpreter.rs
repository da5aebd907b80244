//! An interpreter: Lua 5.1 in a sandbox, with the table `redis` in it.

use super::call::Link;
use super::running::{self, KILLED};
use super::sandbox::{self, Guard, Results, Wrong, function, one, string_at, type_name};
use super::value::{Words, text};
use crate::command::Ctx;
use crate::resp::Reply;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};
use std::cell::RefCell;
use std::rc::Rc;

/// Instructions between two looks at the clock.
const STRETCH: u32 = 100_000;
/// How long a library's code may run when it is loaded.
const LOAD_MS: u64 = 500;
const LOAD_TIMEOUT: &str = "FUNCTION LOAD timeout";
/// What an interpreter may hold before what it no longer needs is freed at once, after a script.
const TIDY_FROM: usize = 16 << 20;

/// See the module's page.
pub struct Interpreter {
    lua: Lua,
    link: Rc<Link>,
    words: Rc<Words>,
    /// What scripts see as globals.
    globals: Table,
    xpcall: Function,
    handler: Function,
    kept: Rc<Kept>,
    /// For functions: what a library sees while it is loaded.
    library: Option<Table>,
}

/// Functions that scripts are, by their places.
struct Kept {
    functions: Table,
    places: RefCell<(i64, Vec<i64>)>,
}

impl Kept {
    fn keep(&self, function: Function) -> mlua::Result<i64> {
        let mut places = self.places.borrow_mut();
        let place = places.1.pop().unwrap_or_else(|| {
            places.0 += 1;
            places.0
        });
        self.functions.raw_set(place, function)?;
        Ok(place)
    }
}

/// What a script came to.
pub enum Outcome {
    /// Its reply is written.
    Replied,
    /// It failed: the text, and whether statistics have this error already.
    Failed(Vec<u8>, bool),
}

impl Interpreter {
    /// A fresh one for scripts.
    pub fn new() -> mlua::Result<Interpreter> {
        Self::fresh(false)
    }

    /// A fresh one for functions.
    pub fn for_functions() -> mlua::Result<Interpreter> {
        Self::fresh(true)
    }

    fn fresh(for_functions: bool) -> mlua::Result<Interpreter> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(false))?;
        let (link, words) = (Rc::<Link>::default(), Rc::new(Words::new(&lua)?));
        let globals = lua.create_table()?;
        let xpcall: Function = lua.globals().raw_get("xpcall")?;
        let guard = Guard::new(&lua)?;
        let missing = sandbox::build(&lua, &guard, &globals, &link)?;
        globals.raw_set("pcall", crate::sys::lua::pcall(&lua, KILLED)?)?;
        let redis = redis_table(&lua, &link, &words)?;
        globals.raw_set("redis", guard.face(&lua, &redis)?)?;
        for (name, library) in super::libraries::all(&lua)? {
            globals.raw_set(name, guard.face(&lua, &library)?)?;
        }
        let handler = handler(&lua, &link, &words)?;
        let kept = Rc::new(Kept { functions: lua.create_table()?, places: RefCell::default() });
        let library = if for_functions {
            for name in ["replicate_commands", "breakpoint", "debug"] {
                redis.raw_set(name, Value::Nil)?;
            }
            let seen = library_table(&lua, &link, &words, &kept, &redis)?;
            seen.set_metatable(Some(missing.clone()))?;
            let all = lua.create_table()?;
            all.raw_set("redis", guard.face(&lua, &seen)?)?;
            all.set_metatable(Some(missing))?;
            Some(all)
        } else {
            None
        };
        let watched = Rc::clone(&link);
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(STRETCH), move |lua, _| tick(lua, &watched))?;
        Ok(Interpreter { lua, link, words, globals, xpcall, handler, kept, library })
    }

    /// Compile a text and keep its function; the error is Lua's.
    pub fn keep(&self, text: &[u8], chunk_name: &[u8]) -> Result<i64, Vec<u8>> {
        let function = sandbox::compile(&self.lua, text, chunk_name)?;
        self.kept.keep(function).map_err(|error| error.to_string().into_bytes())
    }

    /// Forget a function.
    pub fn forget(&self, place: i64) {
        if self.kept.functions.raw_set(place, false).is_ok() {
            self.kept.places.borrow_mut().1.push(place);
        }
    }

    /// Bytes of memory it holds.
    pub fn used_memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Run a script, or a function of a library, with these keys and arguments.
    pub fn run<'a>(
        &self,
        ctx: &mut Ctx<'_>,
        place: i64,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
        arguments: impl ExactSizeIterator<Item = &'a [u8]>,
        name: &[u8],
    ) -> Outcome {
        let globals = if self.library.is_none() { Some(&self.globals) } else { None };
        let function = (&self.kept.functions, place);
        let ran =
            self.lend(ctx, || crate::sys::lua::call_with(&self.lua, function, globals, &self.handler, keys, arguments));
        let outcome = ran
            .and_then(|(fine, value)| self.conclude(fine, &value, ctx.out, name))
            .unwrap_or_else(|error| broken(&error));
        self.tidy();
        outcome
    }

    /// Run a library's code, within so many bytes of memory; answers the functions that it registers, or an error
    /// reply.
    pub fn load(&self, code: &[u8], memory: usize) -> Result<Vec<super::registry::Function>, Vec<u8>> {
        let function = sandbox::compile(&self.lua, code, b"@user_function")
            .map_err(|problem| [b"ERR Error compiling function: ", &problem[..]].concat())?;
        let registering = |problem: &[u8]| [b"ERR Error registering functions: ", problem].concat();
        self.link.run.begin(Default::default(), false, false);
        *self.link.loading.borrow_mut() = Some(Vec::new());
        let run = || -> mlua::Result<(bool, Value)> {
            let Some(seen) = &self.library else {
                return Err(mlua::Error::RuntimeError("no functions live here".into()));
            };
            let face = self.lua.globals().metatable();
            if let Some(face) = &face {
                face.raw_set("__index", seen)?;
            }
            let _ = self.lua.set_memory_limit(memory);
            let result = self.xpcall.call((function, &self.handler));
            let _ = self.lua.set_memory_limit(0);
            if let Some(face) = &face {
                face.raw_set("__index", &self.globals)?;
            }
            result
        };
        let ran = run();
        if self.link.run.killed.replace(false) {
            let _ = self.watch(STRETCH);
        }
        let functions = self.link.loading.borrow_mut().take().unwrap_or_default();
        let problem = match ran {
            Ok((true, _)) => return Ok(functions),
            Ok((false, Value::Table(error))) => {
                error.raw_get(&self.words.err).ok().and_then(text).unwrap_or_else(|| b"ERR unknown error".to_vec())
            }
            Ok((false, other)) => [b"ERR ", &said(&other)[..]].concat(),
            Err(error) => error.to_string().into_bytes(),
        };
        functions.iter().for_each(|function| self.forget(function.place));
        Err(registering(&problem))
    }

    /// Lend the node and the client while a script runs.
    fn lend<R>(&self, ctx: &mut Ctx<'_>, what: impl FnOnce() -> R) -> R {
        let limit = ctx.engine.settings.size(crate::command::settings::Name::lua_memory_limit);
        let _ = self.lua.set_memory_limit(limit);
        let Ctx { engine, client, .. } = ctx;
        let result = self.link.engine.lend(engine, || self.link.client.lend(client, what));
        let _ = self.lua.set_memory_limit(0);
        if self.link.run.killed.replace(false) {
            let _ = self.watch(STRETCH);
        }
        result
    }

    fn watch(&self, stretch: u32) -> mlua::Result<()> {
        let watched = Rc::clone(&self.link);
        self.lua.set_global_hook(HookTriggers::new().every_nth_instruction(stretch), move |lua, _| tick(lua, &watched))
    }

    fn conclude(&self, fine: bool, value: &Value, out: &mut Reply, name: &[u8]) -> mlua::Result<Outcome> {
        if fine {
            self.words.write(value, out, self.link.run.resp3.get())?;
            return Ok(Outcome::Replied);
        }
        let Value::Table(error) = value else {
            return Ok(Outcome::Failed([b"ERR ", &said(value)[..]].concat(), false));
        };
        let mut message = match text(error.raw_get(&self.words.err)?) {
            Some(message) => message,
            None => b"ERR unknown error".to_vec(),
        };
        let counted = error.raw_get::<Value>(&self.words.counted)? == Value::Boolean(true);
        message.extend_from_slice(b" script: ");
        message.extend_from_slice(name);
        let (source, line) = (text(error.raw_get(&self.words.source)?), text(error.raw_get(&self.words.line)?));
        if let (Some(source), Some(line)) = (source, line) {
            message.extend_from_slice(b", on ");
            message.extend_from_slice(&source);
            message.push(b':');
            message.extend_from_slice(&line);
        }
        message.push(b'.');
        Ok(Outcome::Failed(message, counted))
    }

    /// How the script that is about to run is to run.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Give memory back that a script needed and nobody needs any more.
    fn tidy(&self) {
        if self.lua.used_memory() > TIDY_FROM {
            let _ = self.globals.raw_set("KEYS", Value::Boolean(false));
            let _ = self.globals.raw_set("ARGV", Value::Boolean(false));
            let _ = self.lua.gc_collect();
        }
    }
}

/// An error outside of the script itself.
fn broken(error: &mlua::Error) -> Outcome {
    let text = match error {
        mlua::Error::MemoryError(_) => "ERR not enough memory for the script".to_owned(),
        other => format!("ERR the script could not be run: {}", other.to_string().lines().next().unwrap_or_default()),
    };
    Outcome::Failed(text.into_bytes(), false)
}

/// A value as an error's text.
fn said(value: &Value) -> Vec<u8> {
    match value {
        Value::Error(error) => error.to_string().lines().next().unwrap_or_default().as_bytes().to_vec(),
        Value::Nil => b"nil".to_vec(),
        Value::Boolean(value) => value.to_string().into_bytes(),
        other => text(other.clone()).unwrap_or_else(|| type_name(other).as_bytes().to_vec()),
    }
}

/// Called now and then while a script runs.
fn tick(lua: &Lua, link: &Rc<Link>) -> mlua::Result<VmState> {
    if link.loading.borrow().is_some() {
        link.run.killed.set(link.run.killed.get() || link.run.passed_ms() > LOAD_MS);
    } else if !link.run.killed.get() {
        running::tick(link);
    }
    if link.run.killed.get() {
        // From now on at every instruction: a script that catches errors must not go on.
        let watched = Rc::clone(link);
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(1), move |lua, _| tick(lua, &watched))?;
        return Err(mlua::Error::RuntimeError(KILLED.into()));
    }
    Ok(VmState::Continue)
}

/// What is called when a script raises an error: notes where.
fn handler(lua: &Lua, link: &Rc<Link>, words: &Rc<Words>) -> mlua::Result<Function> {
    let (words, link) = (Rc::clone(words), Rc::clone(link));
    lua.create_function(move |lua, error: Value| {
        // A function in C has no lines: where it was called is meant.
        let place = (1..4).find_map(|level| {
            lua.inspect_stack(level, |frame| {
                let source = frame.source();
                let name = source.source.map(|name| name.into_owned()).unwrap_or_default();
                (source.what != "C").then(|| (name, frame.current_line()))
            })?
        });
        let table = match error {
            Value::Table(table) => table,
            _ if link.run.killed.get() && link.loading.borrow().is_some() => {
                words.error(lua, format!("ERR {LOAD_TIMEOUT}").as_bytes(), false)?
            }
            _ if link.run.killed.get() => words.error(lua, format!("ERR {KILLED}").as_bytes(), false)?,
            other => words.error(lua, &[b"ERR ", &said(&other)[..]].concat(), false)?,
        };
        if let Some((source, line)) = place {
            table.raw_set(&words.source, lua.create_string(source)?)?;
            table.raw_set(&words.line, line.map_or(-1, |line| line as i64))?;
        }
        Ok(table)
    })
}

/// The table `redis`.
fn redis_table(lua: &Lua, link: &Rc<Link>, words: &Rc<Words>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    let define = |name: &str, inner: Function| redis.raw_set(name, inner);
    for (name, raises) in [("call", true), ("pcall", false)] {
        define(name, crate::sys::lua::commander(lua, link, raises)?)?;
    }
    let error = {
        let words = Rc::clone(words);
        move |lua: &Lua, text: &str| -> Results {
            Err(Wrong::Value(Value::Table(words.error(lua, text.as_bytes(), false)?)))
        }
    };
    let fail = error.clone();
    let said = Rc::clone(words);
    define(
        "error_reply",
        function(lua, move |lua, given| {
            let Some(Value::String(message)) = given.front().filter(|_| given.len() == 1) else {
                return one(Value::Table(said.error(lua, b"ERR wrong number or type of arguments", false)?));
            };
            let message = message.as_bytes();
            let message = message.strip_prefix(b"-").unwrap_or(&message);
            // A text without a code gets one.
            let text = if message.contains(&b' ') { message.to_vec() } else { [b"ERR ", message].concat() };
            one(Value::Table(said.error(lua, text.trim_ascii_end(), false)?))
        })?,
    )?;
    let said = Rc::clone(words);
    define(
        "status_reply",
        function(lua, move |lua, given| match given.front().filter(|_| given.len() == 1) {
            Some(Value::String(message)) => one(said.status(lua, &message.as_bytes())?),
            _ => one(Value::Table(said.error(lua, b"ERR wrong number or type of arguments", false)?)),
        })?,
    )?;
    define(
        "sha1hex",
        function(lua, move |lua, given| {
            if given.len() != 1 {
                return fail(lua, "ERR wrong number of arguments");
            }
            let text = string_at(lua, given, 0, "sha1hex").map(|text| text.as_bytes().to_vec()).unwrap_or_default();
            one(Value::String(lua.create_string(super::cache::digest(&text))?))
        })?,
    )?;
    let fail = error.clone();
    define(
        "log",
        function(lua, move |lua, given| {
            if given.len() < 2 {
                return fail(lua, "ERR redis.log() requires two arguments or more.");
            }
            let level = match given.front() {
                Some(Value::Integer(level)) => *level,
                Some(Value::Number(level)) => *level as i64,
                _ => return fail(lua, "ERR First argument must be a number (log level)."),
            };
            if !(0..=3).contains(&level) {
                return fail(lua, "ERR Invalid debug level.");
            }
            Ok(MultiValue::new())
        })?,
    )?;
    let (fail, linked) = (error.clone(), Rc::clone(link));
    define(
        "setresp",
        function(lua, move |lua, given| {
            if given.len() != 1 {
                return fail(lua, "ERR redis.setresp() requires one argument.");
            }
            match given.front() {
                Some(Value::Integer(2)) => linked.run.resp3.set(false),
                Some(Value::Integer(3)) => linked.run.resp3.set(true),
                _ => return fail(lua, "ERR RESP version must be 2 or 3."),
            }
            Ok(MultiValue::new())
        })?,
    )?;
    let fail = error.clone();
    define(
        "set_repl",
        function(lua, move |lua, given| match given.front().filter(|_| given.len() == 1) {
            Some(Value::Integer(0..=3)) => Ok(MultiValue::new()),
            None => fail(lua, "ERR redis.set_repl() requires two arguments."),
            _ => fail(lua, "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE."),
        })?,
    )?;
    define("replicate_commands", function(lua, |_, _| one(Value::Boolean(true)))?)?;
    define("breakpoint", function(lua, |_, _| one(Value::Boolean(false)))?)?;
    define("debug", function(lua, |_, _| Ok(MultiValue::new()))?)?;
    let (fail, judging) = (error, Rc::clone(link));
    define(
        "acl_check_cmd",
        function(lua, move |lua, given| {
            if given.is_empty() {
                return fail(lua, "ERR Please specify at least one argument for this redis lib call");
            }
            let mut args = crate::resp::OwnedArgs::default();
            for at in 0..given.len() {
                match string_at(lua, given, at, "acl_check_cmd") {
                    Ok(text) => args.push(&text.as_bytes()),
                    Err(_) => return fail(lua, "ERR redis.acl_check_cmd() require a command arguments"),
                }
            }
            let args = args.as_args();
            let judged = judging.engine.borrow(|engine| {
                judging.client.borrow(|client| crate::command::acl::check::allows(engine, client, &args))
            });
            match judged.flatten().flatten() {
                Some(allowed) => one(Value::Boolean(allowed)),
                None => fail(lua, "ERR Invalid command passed to redis.acl_check_cmd()"),
            }
        })?,
    )?;
    for (name, number) in [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", 0x0007_000F),
    ] {
        redis.raw_set(name, number)?;
    }
    redis.raw_set("REDIS_VERSION", "7.0.15")?;
    Ok(redis)
}

/// The table `redis` as a library sees it while it is loaded.
fn library_table(lua: &Lua, link: &Rc<Link>, words: &Rc<Words>, kept: &Rc<Kept>, redis: &Table) -> mlua::Result<Table> {
    let seen = lua.create_table()?;
    for name in ["log", "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM"] {
        seen.raw_set(name, redis.raw_get::<Value>(name)?)?;
    }
    let (link, words, kept) = (Rc::clone(link), Rc::clone(words), Rc::clone(kept));
    let register = function(lua, move |lua, given| match registered(given) {
        Ok((name, callback, flags, description)) => {
            let mut loading = link.loading.borrow_mut();
            let problem = match loading.as_mut() {
                None => "ERR redis.register_function can only be called on FUNCTION LOAD command".to_owned(),
                Some(list) if list.iter().any(|each| each.name.eq_ignore_ascii_case(&name)) => {
                    "ERR Function already exists in the library".to_owned()
                }
                Some(_) if !super::registry::is_name(&name) => format!("ERR {}", super::registry::BAD_NAME),
                Some(list) => {
                    let place = kept.keep(callback)?;
                    list.push(super::registry::Function { name, description, flags, place });
                    return Ok(MultiValue::new());
                }
            };
            Err(Wrong::Value(Value::Table(words.error(lua, problem.as_bytes(), false)?)))
        }
        Err(problem) => {
            let text = format!("ERR {problem}");
            Err(Wrong::Value(Value::Table(words.error(lua, text.as_bytes(), false)?)))
        }
    })?;
    seen.raw_set("register_function", register)?;
    Ok(seen)
}

type Registered = (Vec<u8>, Function, super::flags::Flags, Option<Vec<u8>>);

/// What `redis.register_function` was given: name and callback, or a table that names its parts.
fn registered(given: &MultiValue) -> Result<Registered, &'static str> {
    if given.len() == 2 {
        let name = given.front().cloned().and_then(text);
        let name = name.ok_or("first argument to redis.register_function must be a string")?;
        let Some(Value::Function(callback)) = given.get(1) else {
            return Err("second argument to redis.register_function must be a function");
        };
        return Ok((name, callback.clone(), Default::default(), None));
    }
    if given.len() != 1 {
        return Err("wrong number of arguments to redis.register_function");
    }
    let Some(Value::Table(parts)) = given.front() else {
        return Err("calling redis.register_function with a single argument is only applicable to Lua table \
                    (representing named arguments).");
    };
    let (mut name, mut callback, mut flags, mut description) = (None, None, super::flags::Flags::default(), None);
    for pair in parts.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|_| "invalid argument given to redis.register_function")?;
        let Value::String(key) = key else {
            return Err("named argument key given to redis.register_function is not a string");
        };
        match &key.as_bytes()[..] {
            b"function_name" => {
                let given = text(value);
                name = Some(given.ok_or("function_name argument given to redis.register_function must be a string")?);
            }
            b"description" => {
                let given = text(value);
                let wrong = "description argument given to redis.register_function must be a string";
                description = Some(given.ok_or(wrong)?);
            }
            b"callback" => {
                let Value::Function(function) = value else {
                    return Err("callback argument given to redis.register_function must be a function");
                };
                callback = Some(function);
            }
            b"flags" => {
                let Value::Table(list) = value else {
                    return Err(
                        "flags argument to redis.register_function must be a table representing function flags",
                    );
                };
                for flag in list.sequence_values::<Value>() {
                    let flag = flag.ok().and_then(text).and_then(|name| super::flags::named(&name));
                    flags.add(flag.ok_or("unknown flag given")?);
                }
            }
            _ => return Err("unknown argument given to redis.register_function"),
        }
    }
    let name = name.ok_or("redis.register_function must get a function name argument")?;
    let callback = callback.ok_or("redis.register_function must get a callback argument")?;
    Ok((name, callback, flags, description))
}
