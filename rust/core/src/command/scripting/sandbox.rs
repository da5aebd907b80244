//! What scripts see of Lua, and what they cannot change.
//!
//! Scripts of all clients share an interpreter. So the tables they all use (the globals, the libraries, what
//! strings can do) are shown through tables that are empty: reading goes on to the real one, writing is an error,
//! and functions that would write past a metatable refuse these tables. Nothing of the system is within reach, no
//! code but text is loaded, and whatever Lua 5.1 has that can be made to read or write beyond its memory is
//! replaced.

use super::call::Link;
use crate::sys::lua;
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;

const READONLY: &str = "Attempt to modify a readonly table";
/// What Lua brings that scripts may use.
const BASE: [&str; 21] = [
    "assert",
    "error",
    "getmetatable",
    "ipairs",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawset",
    "select",
    "setmetatable",
    "tonumber",
    "tostring",
    "type",
    "unpack",
    "xpcall",
    "_VERSION",
    "gcinfo",
    "load",
    "loadstring",
];

/// What is wrong with a call of a library function.
pub enum Wrong {
    /// Told with the place in the script.
    Text(Vec<u8>),
    /// Told as it is.
    Value(Value),
    /// Lua itself failed.
    Lua(mlua::Error),
}

impl From<mlua::Error> for Wrong {
    fn from(error: mlua::Error) -> Wrong {
        Wrong::Lua(error)
    }
}

impl Wrong {
    /// A text.
    pub fn text(text: impl Into<Vec<u8>>) -> Wrong {
        Wrong::Text(text.into())
    }

    /// An argument (counted from one) that a function cannot use.
    pub fn argument(at: usize, function: &str, why: &str) -> Wrong {
        Wrong::text(format!("bad argument #{at} to '{function}' ({why})"))
    }

    /// An argument of the wrong kind, or none.
    pub fn kind(at: usize, function: &str, wanted: &str, got: Option<&Value>) -> Wrong {
        Wrong::argument(at, function, &format!("{wanted} expected, got {}", got.map_or("no value", type_name)))
    }
}

/// How Lua calls a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        Value::LightUserData(_) => "userdata",
        other => other.type_name(),
    }
}

/// What a library function returns.
pub type Results = Result<MultiValue, Wrong>;

/// Make a function of a library's.
pub fn function(lua: &Lua, inner: impl Fn(&Lua, &MultiValue) -> Results + 'static) -> mlua::Result<Function> {
    let inner = lua.create_function(move |lua, given: MultiValue| {
        let mut results = MultiValue::with_capacity(2);
        match inner(lua, &given) {
            Ok(values) => {
                results.push_back(Value::Nil);
                results.extend(values);
            }
            Err(Wrong::Text(text)) => results.push_back(Value::String(lua.create_string(text)?)),
            Err(Wrong::Value(value)) => results.extend([Value::Boolean(true), value]),
            Err(Wrong::Lua(error)) => return Err(error),
        }
        Ok(results)
    })?;
    lua::raising(lua, inner)
}

/// One result.
pub fn one(value: Value) -> Results {
    Ok(MultiValue::from_iter([value]))
}

/// A string argument; numbers count as one, as in C's `luaL_checklstring`.
pub fn string_at(lua: &Lua, given: &MultiValue, at: usize, function: &str) -> Result<LuaString, Wrong> {
    match given.get(at) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Integer(_) | Value::Number(_))) => {
            lua.coerce_string(value.clone())?.ok_or_else(|| Wrong::kind(at + 1, function, "string", given.get(at)))
        }
        other => Err(Wrong::kind(at + 1, function, "string", other)),
    }
}

/// A number argument; a string that is one counts.
pub fn number_at(lua: &Lua, given: &MultiValue, at: usize, function: &str) -> Result<f64, Wrong> {
    match given.get(at) {
        Some(Value::Integer(number)) => Ok(*number as f64),
        Some(Value::Number(number)) => Ok(*number),
        Some(value @ Value::String(_)) => {
            lua.coerce_number(value.clone())?.ok_or_else(|| Wrong::kind(at + 1, function, "number", given.get(at)))
        }
        other => Err(Wrong::kind(at + 1, function, "number", other)),
    }
}

/// Tables that cannot be changed, and what they show.
#[derive(Clone)]
pub struct Guard {
    /// Keys are the empty tables.
    set: Table,
    real: Rc<RefCell<HashMap<*const c_void, Table>>>,
    refuse: Function,
}

impl Guard {
    /// Nothing is guarded yet.
    pub fn new(lua: &Lua) -> mlua::Result<Guard> {
        let refuse = function(lua, |_, _| Err(Wrong::text(READONLY)))?;
        Ok(Guard { set: lua.create_table()?, real: Rc::default(), refuse })
    }

    /// Have `face`, an empty table, show `real`.
    pub fn cover(&self, lua: &Lua, face: &Table, real: &Table) -> mlua::Result<()> {
        let meta = lua.create_table()?;
        meta.raw_set("__index", real)?;
        meta.raw_set("__newindex", &self.refuse)?;
        face.set_metatable(Some(meta))?;
        self.set.raw_set(face, true)?;
        self.real.borrow_mut().insert(face.to_pointer(), real.clone());
        Ok(())
    }

    /// A table that shows `real` and cannot be changed.
    pub fn face(&self, lua: &Lua, real: &Table) -> mlua::Result<Table> {
        let face = lua.create_table()?;
        self.cover(lua, &face, real)?;
        Ok(face)
    }

    fn behind(&self, value: Option<&Value>) -> Option<Table> {
        match value {
            Some(Value::Table(table)) if table.has_metatable() => self.real.borrow().get(&table.to_pointer()).cloned(),
            _ => None,
        }
    }
}

/// Turn a fresh interpreter into a sandbox. `real` gets what scripts see; `Lua::globals` only shows it. Returns the
/// metatable with which a table tells that it lacks what is asked for.
pub fn build(lua: &Lua, guard: &Guard, real: &Table, link: &Rc<Link>) -> mlua::Result<Table> {
    let globals = lua.globals();
    for name in BASE {
        let value: Value = globals.raw_get(name)?;
        real.raw_set(name, value)?;
    }
    let libraries: Vec<(&str, Table)> = ["string", "table", "math", "coroutine"]
        .into_iter()
        .filter_map(|name| Some((name, globals.raw_get::<Table>(name).ok()?)))
        .collect();
    globals.clear()?;
    guard_functions(lua, guard, real)?;
    for (name, library) in libraries {
        match name {
            "table" => {
                library.raw_set("insert", lua::guarded(lua, library.raw_get("insert")?, &guard.set)?)?;
            }
            "string" => {
                library.raw_set("dump", Value::Nil)?;
                super::libraries::strings::replace(lua, &library, link, &real.raw_get("pcall")?)?;
                string_metatable(lua, guard, real, &library)?;
            }
            "math" => random(lua, &library)?,
            "coroutine" => coroutines(lua, &library, link)?,
            _ => {}
        }
        real.raw_set(name, guard.face(lua, &library)?)?;
    }
    real.raw_set("_G", &globals)?;
    real.raw_set("unpack", lua::bounded_unpack(lua, real.raw_get("unpack")?)?)?;
    let missing = function(lua, |_, given| {
        let name = given.get(1).cloned().and_then(super::value::text).unwrap_or_else(|| b"?".to_vec());
        let mut text = b"Script attempted to access nonexistent global variable '".to_vec();
        text.extend_from_slice(&name);
        text.push(b'\'');
        Err(Wrong::Text(text))
    })?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", missing)?;
    real.set_metatable(Some(meta.clone()))?;
    guard.cover(lua, &globals, real)?;
    Ok(meta)
}

/// Functions of the base library that would write to a guarded table, show it, or load what is no text.
fn guard_functions(lua: &Lua, guard: &Guard, real: &Table) -> mlua::Result<()> {
    for name in ["rawset", "setmetatable"] {
        real.raw_set(name, lua::guarded(lua, real.raw_get(name)?, &guard.set)?)?;
    }
    let next: Value = real.raw_get("next")?;
    let of = guard.clone();
    real.raw_set(
        "pairs",
        function(lua, move |lua, given| {
            let table = match (given.front(), of.behind(given.front())) {
                // A copy: the real table must not get out.
                (_, Some(real)) => copied(lua, &real)?,
                (Some(Value::Table(table)), None) => table.clone(),
                (other, None) => return Err(Wrong::kind(1, "pairs", "table", other)),
            };
            Ok(MultiValue::from_iter([next.clone(), Value::Table(table), Value::Nil]))
        })?,
    )?;
    let of = guard.clone();
    real.raw_set(
        "rawget",
        function(lua, move |_, given| match (of.behind(given.front()), given.get(1)) {
            (Some(real), Some(key)) => one(real.raw_get(key.clone())?),
            _ => match (given.front(), given.get(1)) {
                (Some(Value::Table(table)), Some(key)) => one(table.raw_get(key.clone())?),
                (Some(Value::Table(_)), None) => Err(Wrong::argument(2, "rawget", "value expected")),
                (other, _) => Err(Wrong::kind(1, "rawget", "table", other)),
            },
        })?,
    )?;
    let (of, original): (Guard, Function) = (guard.clone(), real.raw_get("getmetatable")?);
    let empty = guard.face(lua, &lua.create_table()?)?;
    let globals = lua.globals().to_pointer();
    real.raw_set(
        "getmetatable",
        function(lua, move |_, given| {
            if of.behind(given.front()).is_some() {
                let is_globals = matches!(given.front(), Some(Value::Table(table)) if table.to_pointer() == globals);
                return one(if is_globals { Value::Table(empty.clone()) } else { Value::Nil });
            }
            match given.front() {
                None => Err(Wrong::argument(1, "getmetatable", "value expected")),
                Some(value) => one(original.call(value.clone())?),
            }
        })?,
    )?;
    for name in ["load", "loadstring"] {
        real.raw_set(name, loader(lua, name)?)?;
    }
    real.raw_set(
        "collectgarbage",
        function(lua, |lua, given| {
            // The collector is everybody's: a script may ask it to work, not to rest.
            let what = match given.front() {
                None | Some(Value::Nil) => b"collect".to_vec(),
                _ => string_at(lua, given, 0, "collectgarbage")?.as_bytes().to_vec(),
            };
            one(match &what[..] {
                b"count" => Value::Number(lua.used_memory() as f64 / 1024.0),
                b"collect" => {
                    lua.gc_collect()?;
                    Value::Integer(0)
                }
                b"step" => Value::Boolean(lua.gc_step()?),
                b"stop" | b"restart" => Value::Integer(0),
                b"setpause" | b"setstepmul" => Value::Integer(200),
                other => {
                    let text = format!("invalid option '{}'", String::from_utf8_lossy(other));
                    return Err(Wrong::argument(1, "collectgarbage", &text));
                }
            })
        })?,
    )
}

fn copied(lua: &Lua, real: &Table) -> mlua::Result<Table> {
    let copy = lua.create_table()?;
    real.for_each(|key: Value, value: Value| copy.raw_set(key, value))?;
    Ok(copy)
}

/// `load` and `loadstring`: text alone is loaded. The collector rests meanwhile: the compiler of Lua 5.1 holds a
/// chunk's name where the collector does not see it.
fn loader(lua: &Lua, name: &'static str) -> mlua::Result<Function> {
    function(lua, move |lua, given| {
        let mut text = Vec::new();
        match given.front() {
            Some(Value::Function(pieces)) if name == "load" => loop {
                match pieces.call::<Value>(()) {
                    Ok(Value::String(piece)) if !piece.as_bytes().is_empty() => {
                        text.extend_from_slice(&piece.as_bytes());
                    }
                    Ok(Value::Nil | Value::String(_)) => break,
                    Ok(_) => return Err(Wrong::text("reader function must return a string")),
                    Err(error) => return Err(error.into()),
                }
            },
            Some(Value::String(_) | Value::Integer(_) | Value::Number(_)) if name == "loadstring" => {
                text.extend_from_slice(&string_at(lua, given, 0, name)?.as_bytes());
            }
            other => {
                let wanted = if name == "load" { "function" } else { "string" };
                return Err(Wrong::kind(1, name, wanted, other));
            }
        }
        let chunk_name = match given.get(1) {
            None | Some(Value::Nil) if name == "load" => b"=(load)".to_vec(),
            None | Some(Value::Nil) => text.clone(),
            _ => string_at(lua, given, 1, name)?.as_bytes().to_vec(),
        };
        match compile(lua, &text, &chunk_name) {
            Ok(function) => one(Value::Function(function)),
            Err(problem) => Ok(MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(problem)?)])),
        }
    })
}

/// Compile a text; the error is Lua's, with the line.
pub fn compile(lua: &Lua, text: &[u8], name: &[u8]) -> Result<Function, Vec<u8>> {
    // Names end where a C string does.
    let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
    // A binary chunk is read as the text it is not.
    let padded = if text.first() == Some(&0x1B) { [b" ", text].concat() } else { Vec::new() };
    let text = if padded.is_empty() { text } else { &padded };
    lua.gc_stop();
    let compiled = lua.load(text).set_name(name).set_mode(ChunkMode::Text).into_function();
    lua.gc_restart();
    compiled.map_err(|error| match error {
        mlua::Error::SyntaxError { message, .. } => message.into_bytes(),
        mlua::Error::MemoryError(_) => b"not enough memory".to_vec(),
        other => other.to_string().into_bytes(),
    })
}

/// What strings can do is shown, and cannot be changed.
fn string_metatable(lua: &Lua, guard: &Guard, real: &Table, library: &Table) -> mlua::Result<()> {
    let Some(meta) = lua.type_metatable::<LuaString>() else {
        return Ok(());
    };
    let shown = lua.create_table()?;
    shown.raw_set("__index", guard.face(lua, library)?)?;
    meta.raw_set("__metatable", guard.face(lua, &shown)?)?;
    real.raw_set("string", Value::Nil)
}

/// Redis' `math.random`: the same numbers after every start, whatever the platform.
fn random(lua: &Lua, library: &Table) -> mlua::Result<()> {
    const MOST: f64 = i32::MAX as f64;
    let state = Rc::new(Cell::new(0x1234_ABCD_330E_u64));
    let drawn = Rc::clone(&state);
    library.raw_set(
        "random",
        function(lua, move |lua, given| {
            // The generator of drand48: 48 bits, the upper 31 of which are drawn.
            let next = drawn.get().wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & 0xFFFF_FFFF_FFFF;
            drawn.set(next);
            let fraction = ((next >> 17) % i32::MAX as u64) as f64 / MOST;
            let (low, high) = match given.len() {
                0 => return one(Value::Number(fraction)),
                1 => (1.0, whole_at(lua, given, 0)?),
                2 => (whole_at(lua, given, 0)?, whole_at(lua, given, 1)?),
                _ => return Err(Wrong::text("wrong number of arguments")),
            };
            if low > high {
                return Err(Wrong::argument(given.len(), "random", "interval is empty"));
            }
            one(Value::Number((fraction * (high - low + 1.0)).floor() + low))
        })?,
    )?;
    library.raw_set(
        "randomseed",
        function(lua, move |lua, given| {
            state.set(seeded(whole_at(lua, given, 0)? as i64 as u32));
            Ok(MultiValue::new())
        })?,
    )
}

fn seeded(seed: u32) -> u64 {
    u64::from(seed) << 16 | 0x330E
}

fn whole_at(lua: &Lua, given: &MultiValue, at: usize) -> Result<f64, Wrong> {
    Ok(f64::from(super::value::truncated(number_at(lua, given, at, "random")?) as i32))
}

/// A script that was told to end makes no more coroutines: each would run on for a while before it notices.
fn coroutines(lua: &Lua, library: &Table, link: &Rc<Link>) -> mlua::Result<()> {
    for name in ["create", "wrap"] {
        let (original, link): (Function, _) = (library.raw_get(name)?, Rc::clone(link));
        library.raw_set(
            name,
            function(lua, move |_, given| match given.front() {
                _ if link.run.killed.get() => Err(Wrong::text(super::running::KILLED)),
                Some(Value::Function(body)) => one(original.call(body)?),
                other => Err(Wrong::kind(1, name, "Lua function", other)),
            })?,
        )?;
    }
    Ok(())
}
