//! Lua values to replies, and the tables that stand for errors and states.

use crate::resp::Reply;
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
