//! Functions of `string` that Lua 5.1 has in a form which a script could use to end or stop the process: those that
//! match patterns, and `rep`.

use super::patterns::{Found, Matcher, Problem};
use crate::command::scripting::call::Link;
use crate::command::scripting::running;
use crate::command::scripting::sandbox::{Results, Wrong, function, number_at, one, string_at};
use crate::command::scripting::value::truncated;
use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};
use std::cell::Cell;
use std::rc::Rc;

/// Put them in place of the originals. `pcall` is Lua's own.
pub fn replace(lua: &Lua, library: &Table, link: &Rc<Link>, pcall: &Function) -> mlua::Result<()> {
    library.raw_set("rep", function(lua, rep)?)?;
    let of = Rc::clone(link);
    library.raw_set("find", function(lua, move |lua, given| find(lua, given, &of, "find"))?)?;
    let of = Rc::clone(link);
    library.raw_set("match", function(lua, move |lua, given| find(lua, given, &of, "match"))?)?;
    let (of, pcall) = (Rc::clone(link), pcall.clone());
    library.raw_set("gsub", function(lua, move |lua, given| gsub(lua, given, &of, &pcall))?)?;
    let of = Rc::clone(link);
    let gmatch = function(lua, move |lua, given| gmatch(lua, given, &of))?;
    library.raw_set("gfind", &gmatch)?;
    library.raw_set("gmatch", gmatch)
}

/// Whether a script may go on; others are seen to meanwhile.
fn go_on(link: &Link) -> Result<(), Problem> {
    running::tick(link);
    if link.run.killed.get() { Err(running::KILLED) } else { Ok(()) }
}

impl From<Problem> for Wrong {
    fn from(problem: Problem) -> Wrong {
        Wrong::text(problem)
    }
}

fn rep(lua: &Lua, given: &MultiValue) -> Results {
    let text = string_at(lua, given, 0, "rep")?;
    let count = i64::from(truncated(number_at(lua, given, 1, "rep")?) as i32).max(0) as usize;
    let text = text.as_bytes();
    // Refused before it is built; a result within the limit is counted by Lua.
    const MOST: usize = 1 << 29;
    if text.len().saturating_mul(count) > MOST {
        return Err(Wrong::text("not enough memory"));
    }
    one(Value::String(lua.create_string(text.repeat(count))?))
}

/// A capture as a value.
fn value(lua: &Lua, subject: &[u8], found: Found) -> mlua::Result<Value> {
    Ok(match found {
        Found::Text(from, to) => Value::String(lua.create_string(&subject[from..to])?),
        Found::Position(at) => Value::Integer(at as i64),
    })
}

fn captures(
    lua: &Lua,
    subject: &[u8],
    matcher: &Matcher<'_>,
    (start, end): (usize, usize),
    whole: bool,
) -> Result<Vec<Value>, Wrong> {
    let count = if whole { matcher.count().max(1) } else { matcher.count() };
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        values.push(value(lua, subject, matcher.capture(index, start, end)?)?);
    }
    Ok(values)
}

fn find(lua: &Lua, given: &MultiValue, link: &Link, name: &'static str) -> Results {
    let subject = string_at(lua, given, 0, name)?;
    let subject = subject.as_bytes();
    let pattern = string_at(lua, given, 1, name)?;
    let pattern = pattern.as_bytes();
    let start = match given.get(2) {
        None | Some(Value::Nil) => 1,
        _ => truncated(number_at(lua, given, 2, name)?),
    };
    let start = if start < 0 { start.saturating_add(subject.len() as i64 + 1) } else { start };
    let start = (start - 1).clamp(0, subject.len() as i64) as usize;
    let is_find = name == "find";
    let plain = is_find
        && (!matches!(given.get(3), None | Some(Value::Nil | Value::Boolean(false)))
            || !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte)));
    if plain {
        let Some(at) = memchr::memmem::find(&subject[start..], &pattern) else {
            return one(Value::Nil);
        };
        let from = start + at;
        return Ok(MultiValue::from_iter([
            Value::Integer(from as i64 + 1),
            Value::Integer((from + pattern.len()) as i64),
        ]));
    }
    let (anchored, body) = anchor(&pattern);
    let ask = || go_on(link);
    let mut matcher = Matcher::new(&subject, body, &ask);
    for from in start..=subject.len() {
        if let Some(end) = matcher.match_at(from)? {
            let mut values = captures(lua, &subject, &matcher, (from, end), !is_find)?;
            if is_find {
                values.splice(0..0, [Value::Integer(from as i64 + 1), Value::Integer(end as i64)]);
            }
            return Ok(MultiValue::from_iter(values));
        }
        if anchored {
            break;
        }
    }
    one(Value::Nil)
}

fn anchor(pattern: &[u8]) -> (bool, &[u8]) {
    match pattern.split_first() {
        Some((b'^', rest)) => (true, rest),
        _ => (false, pattern),
    }
}

fn gmatch(lua: &Lua, given: &MultiValue, link: &Rc<Link>) -> Results {
    let subject = string_at(lua, given, 0, "gmatch")?;
    let pattern = string_at(lua, given, 1, "gmatch")?;
    let (next, link) = (Cell::new(0), Rc::clone(link));
    one(Value::Function(function(lua, move |lua, _| {
        let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
        let ask = || go_on(&link);
        let mut matcher = Matcher::new(&subject, &pattern, &ask);
        for from in next.get()..=subject.len() {
            if let Some(end) = matcher.match_at(from)? {
                // After nothing the next match begins one further.
                next.set(if end == from { end + 1 } else { end });
                return Ok(MultiValue::from_iter(captures(lua, &subject, &matcher, (from, end), true)?));
            }
        }
        next.set(subject.len() + 1);
        one(Value::Nil)
    })?))
}

/// What a match is replaced by.
enum Replacement {
    Text(LuaString),
    Table(Table),
    Function(Function),
}

fn gsub(lua: &Lua, given: &MultiValue, link: &Link, pcall: &Function) -> Results {
    let subject = string_at(lua, given, 0, "gsub")?;
    let subject = subject.as_bytes();
    let pattern = string_at(lua, given, 1, "gsub")?;
    let pattern = pattern.as_bytes();
    let replacement = match given.get(2) {
        Some(Value::String(_) | Value::Integer(_) | Value::Number(_)) => {
            Replacement::Text(string_at(lua, given, 2, "gsub")?)
        }
        Some(Value::Table(table)) => Replacement::Table(table.clone()),
        Some(Value::Function(function)) => Replacement::Function(function.clone()),
        _ => return Err(Wrong::argument(3, "gsub", "string/function/table expected")),
    };
    let most = match given.get(3) {
        None | Some(Value::Nil) => i64::MAX,
        _ => truncated(number_at(lua, given, 3, "gsub")?),
    };
    let (anchored, body) = anchor(&pattern);
    let ask = || go_on(link);
    let mut matcher = Matcher::new(&subject, body, &ask);
    let (mut out, mut from, mut count) = (Vec::new(), 0, 0);
    while count < most {
        let found = matcher.match_at(from)?;
        if let Some(end) = found {
            count += 1;
            replace_one(lua, &mut out, &subject, &matcher, (from, end), &replacement, pcall)?;
        }
        match found {
            Some(end) if end > from => from = end,
            _ if from < subject.len() => {
                out.push(subject[from]);
                from += 1;
            }
            _ => break,
        }
        if anchored {
            break;
        }
    }
    out.extend_from_slice(subject.get(from..).unwrap_or_default());
    Ok(MultiValue::from_iter([Value::String(lua.create_string(out)?), Value::Integer(count)]))
}

fn replace_one(
    lua: &Lua,
    out: &mut Vec<u8>,
    subject: &[u8],
    matcher: &Matcher<'_>,
    (start, end): (usize, usize),
    replacement: &Replacement,
    pcall: &Function,
) -> Result<(), Wrong> {
    let result = match replacement {
        Replacement::Text(text) => return expand(out, &text.as_bytes(), subject, matcher, (start, end)),
        Replacement::Table(table) => {
            let key = value(lua, subject, matcher.capture(0, start, end)?)?;
            // Metamethods and what they raise are Lua's: go through it.
            table.get::<Value>(key)?
        }
        Replacement::Function(function) => {
            let mut arguments = MultiValue::from_iter(captures(lua, subject, matcher, (start, end), true)?);
            arguments.push_front(Value::Function(function.clone()));
            let (fine, result): (bool, Value) = pcall.call(arguments)?;
            if !fine {
                return Err(Wrong::Value(result));
            }
            result
        }
    };
    match &result {
        Value::Nil | Value::Boolean(false) => out.extend_from_slice(&subject[start..end]),
        Value::String(text) => out.extend_from_slice(&text.as_bytes()),
        Value::Integer(_) | Value::Number(_) => {
            out.extend(crate::command::scripting::value::text(result).unwrap_or_default());
        }
        other => {
            let kind = crate::command::scripting::sandbox::type_name(other);
            return Err(Wrong::text(format!("invalid replacement value (a {kind})")));
        }
    }
    Ok(())
}

/// A replacement text with `%0` to `%9` in it.
fn expand(
    out: &mut Vec<u8>,
    text: &[u8],
    subject: &[u8],
    matcher: &Matcher<'_>,
    (start, end): (usize, usize),
) -> Result<(), Wrong> {
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'%' {
            out.push(text[at]);
            at += 1;
            continue;
        }
        match text.get(at + 1) {
            Some(b'0') => out.extend_from_slice(&subject[start..end]),
            Some(digit @ b'1'..=b'9') => match matcher.capture(usize::from(digit - b'1'), start, end)? {
                Found::Text(from, to) => out.extend_from_slice(&subject[from..to]),
                Found::Position(position) => out.extend_from_slice(position.to_string().as_bytes()),
            },
            Some(other) => out.push(*other),
            None => out.push(0),
        }
        at += 2;
    }
    Ok(())
}
