//! Replies to Lua values, and Lua values to replies.

use crate::resp::Reply;
use crate::resp::number::parse_i64;
use mlua::{Lua, LuaString, Table, Value};

/// Deepest table that is turned into a reply.
const DEEPEST: usize = 1000;

/// Names of fields that mean something in a table, made once.
pub struct Words {
    pub(super) err: LuaString,
    pub(super) source: LuaString,
    pub(super) line: LuaString,
    pub(super) counted: LuaString,
    ok: LuaString,
    double: LuaString,
    map: LuaString,
    set: LuaString,
    big_number: LuaString,
    verbatim: LuaString,
    string: LuaString,
    format: LuaString,
}

impl Words {
    /// The words, in this interpreter.
    pub fn new(lua: &Lua) -> mlua::Result<Words> {
        Ok(Words {
            err: lua.create_string("err")?,
            source: lua.create_string("source")?,
            line: lua.create_string("line")?,
            counted: lua.create_string("ignore_error_stats_update")?,
            ok: lua.create_string("ok")?,
            double: lua.create_string("double")?,
            map: lua.create_string("map")?,
            set: lua.create_string("set")?,
            big_number: lua.create_string("big_number")?,
            verbatim: lua.create_string("verbatim_string")?,
            string: lua.create_string("string")?,
            format: lua.create_string("format")?,
        })
    }

    fn tagged(&self, lua: &Lua, tag: &LuaString, value: impl mlua::IntoLua) -> mlua::Result<Value> {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set(tag, value)?;
        Ok(Value::Table(table))
    }

    /// An error as a table. `counted` when statistics have it already.
    pub fn error(&self, lua: &Lua, text: &[u8], counted: bool) -> mlua::Result<Table> {
        let table = lua.create_table_with_capacity(0, 4)?;
        table.raw_set(&self.err, lua.create_string(text)?)?;
        if counted {
            table.raw_set(&self.counted, true)?;
        }
        Ok(table)
    }

    /// A status as a table.
    pub fn status(&self, lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
        self.tagged(lua, &self.ok, lua.create_string(text)?)
    }

    /// The first value in `bytes`, which we wrote ourselves, and what follows it.
    pub fn read<'b>(&self, lua: &Lua, bytes: &'b [u8]) -> mlua::Result<(Value, &'b [u8])> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok((Value::Nil, bytes));
        };
        let end = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        let (line, rest) = (&rest[..end], rest.get(end + 2..).unwrap_or_default());
        let number = || parse_i64(line).unwrap_or(0);
        let value = match kind {
            b':' => Value::Number(number() as f64),
            b'+' => self.status(lua, line)?,
            b'-' => Value::Table(self.error(lua, line, false)?),
            b'$' if line == b"-1" => Value::Boolean(false),
            b'*' if line == b"-1" => Value::Boolean(false),
            b'_' => Value::Nil,
            b'#' => Value::Boolean(line == b"t"),
            b',' => {
                let number = std::str::from_utf8(line).ok().and_then(|text| text.parse::<f64>().ok());
                self.tagged(lua, &self.double, number.unwrap_or(f64::NAN))?
            }
            b'(' => self.tagged(lua, &self.big_number, lua.create_string(line)?)?,
            b'$' => {
                let (body, rest) = body(rest, number());
                return Ok((Value::String(lua.create_string(body)?), rest));
            }
            b'=' => {
                let (body, rest) = body(rest, number());
                let table = lua.create_table_with_capacity(0, 2)?;
                table.raw_set(&self.format, lua.create_string(body.get(..3).unwrap_or_default())?)?;
                table.raw_set(&self.string, lua.create_string(body.get(4..).unwrap_or_default())?)?;
                return Ok((self.tagged(lua, &self.verbatim, table)?, rest));
            }
            b'*' | b'>' => {
                let count = usize::try_from(number()).unwrap_or(0);
                let table = lua.create_table_with_capacity(count.min(bytes.len()), 0)?;
                let mut rest = rest;
                for index in 1..=count {
                    let (value, after) = self.read(lua, rest)?;
                    rest = after;
                    table.raw_set(index, value)?;
                }
                return Ok((Value::Table(table), rest));
            }
            b'%' | b'~' => {
                let count = usize::try_from(number()).unwrap_or(0);
                let table = lua.create_table_with_capacity(0, count.min(bytes.len()))?;
                let mut rest = rest;
                for _ in 0..count {
                    let (key, after) = self.read(lua, rest)?;
                    let (value, after) =
                        if kind == b'%' { self.read(lua, after)? } else { (Value::Boolean(true), after) };
                    rest = after;
                    if !key.is_nil() {
                        table.raw_set(key, value)?;
                    }
                }
                let tag = if kind == b'%' { &self.map } else { &self.set };
                return Ok((self.tagged(lua, tag, table)?, rest));
            }
            _ => Value::Nil,
        };
        Ok((value, rest))
    }

    /// Append a value as a reply. `resp3`: the script asked for RESP3.
    pub fn write(&self, value: &Value, out: &mut Reply, resp3: bool) -> mlua::Result<()> {
        self.write_within(value, out, resp3, 0)
    }

    fn write_within(&self, value: &Value, out: &mut Reply, resp3: bool, depth: usize) -> mlua::Result<()> {
        if depth > DEEPEST {
            out.error(b"ERR reached lua stack limit");
            return Ok(());
        }
        match value {
            Value::String(text) => out.bulk(&text.as_bytes()),
            Value::Integer(number) => out.integer(*number),
            Value::Number(number) => out.integer(truncated(*number)),
            Value::Boolean(true) if !resp3 => out.integer(1),
            Value::Boolean(false) if !resp3 => out.null(),
            Value::Boolean(value) => out.boolean(*value),
            Value::Table(table) => return self.write_table(table, out, resp3, depth),
            _ => out.null(),
        }
        Ok(())
    }

    fn write_table(&self, table: &Table, out: &mut Reply, resp3: bool, depth: usize) -> mlua::Result<()> {
        // Most tables are arrays; those with an element have a tag only if somebody went out of their way.
        if let Some(text) = string(table.raw_get(&self.err)?) {
            out.error(&text);
        } else if let Some(text) = string(table.raw_get(&self.ok)?) {
            out.status_bytes(&text);
        } else if let Some(number) = number(&table.raw_get(&self.double)?) {
            out.double(number);
        } else if let Value::Table(map) = table.raw_get(&self.map)? {
            self.write_pairs(&map, out, Reply::map, |key, value, out| {
                self.write_within(key, out, resp3, depth + 1)?;
                self.write_within(value, out, resp3, depth + 1)
            })?;
        } else if let Value::Table(set) = table.raw_get(&self.set)? {
            self.write_pairs(&set, out, Reply::set, |key, _, out| self.write_within(key, out, resp3, depth + 1))?;
        } else if let Some(text) = string(table.raw_get(&self.big_number)?) {
            out.big_number(&text);
        } else if let Value::Table(verbatim) = table.raw_get(&self.verbatim)?
            && let (Some(format), Some(string)) =
                (string(verbatim.raw_get(&self.format)?), string(verbatim.raw_get(&self.string)?))
        {
            out.verbatim_in(&format, &string);
        } else {
            return out.deferred(Reply::array, |out| {
                let mut count = 0;
                loop {
                    match table.raw_get(count + 1) {
                        Ok(Value::Nil) => return (count, Ok(())),
                        Ok(value) => {
                            if let Err(error) = self.write_within(&value, out, resp3, depth + 1) {
                                return (count, Err(error));
                            }
                            count += 1;
                        }
                        Err(error) => return (count, Err(error)),
                    }
                }
            });
        }
        Ok(())
    }

    fn write_pairs(
        &self,
        table: &Table,
        out: &mut Reply,
        head: fn(&mut Reply, usize),
        write: impl Fn(&Value, &Value, &mut Reply) -> mlua::Result<()>,
    ) -> mlua::Result<()> {
        out.deferred(head, |out| {
            let mut count = 0;
            let done = table.for_each(|key: Value, value: Value| {
                count += 1;
                write(&key, &value, out)
            });
            (count, done)
        })
    }
}

/// A string, or a number as one.
pub fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(number) => Some(number.to_string().into_bytes()),
        Value::Number(number) => {
            let mut text = Vec::new();
            crate::resp::number::write_g(&mut text, number, 14);
            Some(text)
        }
        _ => None,
    }
}

fn string(value: Value) -> Option<Vec<u8>> {
    value.as_string().map(|text| text.as_bytes().to_vec())
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

/// As the processor converts a double: what does not fit is the smallest integer.
pub fn truncated(number: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }
}

fn body(rest: &[u8], len: i64) -> (&[u8], &[u8]) {
    let len = usize::try_from(len).unwrap_or(0).min(rest.len());
    (&rest[..len], rest.get(len + 2..).unwrap_or_default())
}
