//! `cmsgpack`: values to MessagePack and back.

use crate::command::scripting::sandbox::{Results, Wrong, function, number_at, one, string_at};
use crate::command::scripting::value::truncated;
use mlua::{Lua, MultiValue, Table, Value};

/// Tables within tables beyond this depth are packed as nil.
const DEEPEST_PACKED: usize = 16;
/// Deepest value that is unpacked.
const DEEPEST_UNPACKED: usize = 1000;
/// Most values that are unpacked at once.
const MOST_VALUES: usize = 7900;

/// The library.
pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", function(lua, pack)?)?;
    library.raw_set("unpack", function(lua, |lua, given| unpack(lua, given, 0, 0, "unpack"))?)?;
    library.raw_set(
        "unpack_one",
        function(lua, |lua, given| {
            let offset = integer_or(lua, given, 1, 0, "unpack_one")?;
            unpack(lua, given, 1, offset, "unpack_one")
        })?,
    )?;
    library.raw_set(
        "unpack_limit",
        function(lua, |lua, given| {
            let limit = truncated(number_at(lua, given, 1, "unpack_limit")?);
            let offset = integer_or(lua, given, 2, 0, "unpack_limit")?;
            unpack(lua, given, limit, offset, "unpack_limit")
        })?,
    )?;
    library.raw_set("_NAME", "cmsgpack")?;
    library.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    library.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    library.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(library)
}

fn integer_or(lua: &Lua, given: &MultiValue, at: usize, default: i64, name: &str) -> Result<i64, Wrong> {
    match given.get(at) {
        None | Some(Value::Nil) => Ok(default),
        _ => Ok(truncated(number_at(lua, given, at, name)?)),
    }
}

fn pack(lua: &Lua, given: &MultiValue) -> Results {
    if given.is_empty() {
        return Err(Wrong::argument(0, "pack", "MessagePack pack needs input."));
    }
    let mut out = Vec::new();
    for value in given {
        write(&mut out, value, 0)?;
    }
    one(Value::String(lua.create_string(out)?))
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Wrong> {
    match value {
        Value::Integer(number) => write_integer(out, *number),
        Value::Number(number) => {
            if *number == number.trunc() && number.abs() < 9_223_372_036_854_775_808.0 {
                write_integer(out, *number as i64);
            } else if f64::from(*number as f32) == *number {
                out.push(0xCA);
                out.extend_from_slice(&(*number as f32).to_be_bytes());
            } else {
                out.push(0xCB);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        Value::Boolean(value) => out.push(if *value { 0xC3 } else { 0xC2 }),
        Value::String(text) => {
            let text = text.as_bytes();
            match text.len() {
                len @ 0..=31 => out.push(0xA0 | len as u8),
                len @ 32..=0xFF => out.extend_from_slice(&[0xD9, len as u8]),
                len => write_head(out, 0xDA, 0xDB, len),
            }
            out.extend_from_slice(&text);
        }
        Value::Table(table) if depth < DEEPEST_PACKED => write_table(out, table, depth)?,
        _ => out.push(0xC0),
    }
    Ok(())
}

fn write_integer(out: &mut Vec<u8>, number: i64) {
    match number {
        0..=0x7F => out.push(number as u8),
        0x80..=0xFF => out.extend_from_slice(&[0xCC, number as u8]),
        0x100..=0xFFFF => {
            out.push(0xCD);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..=0xFFFF_FFFF => {
            out.push(0xCE);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xCF);
            out.extend_from_slice(&number.to_be_bytes());
        }
        -32..=-1 => out.push(number as u8),
        -0x80..=-33 => out.extend_from_slice(&[0xD0, number as u8]),
        -0x8000..=-0x81 => {
            out.push(0xD1);
            out.extend_from_slice(&(number as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xD2);
            out.extend_from_slice(&(number as i32).to_be_bytes());
        }
        _ => {
            out.push(0xD3);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn write_head(out: &mut Vec<u8>, short: u8, long: u8, count: usize) {
    if let Ok(count) = u16::try_from(count) {
        out.push(short);
        out.extend_from_slice(&count.to_be_bytes());
    } else {
        out.push(long);
        out.extend_from_slice(&(count as u32).to_be_bytes());
    }
}

fn write_table(out: &mut Vec<u8>, table: &Table, depth: usize) -> Result<(), Wrong> {
    // An array has the keys from one to their number, and no others.
    let (mut count, mut highest, mut is_array) = (0usize, 0i64, true);
    table.for_each(|key: Value, _: Value| {
        count += 1;
        match key {
            Value::Integer(index) if index > 0 => highest = highest.max(index),
            _ => is_array = false,
        }
        Ok(())
    })?;
    if is_array && highest == count as i64 {
        if count <= 15 {
            out.push(0x90 | count as u8);
        } else {
            write_head(out, 0xDC, 0xDD, count);
        }
        for index in 1..=count {
            write(out, &table.raw_get(index)?, depth + 1)?;
        }
        return Ok(());
    }
    if count <= 15 {
        out.push(0x80 | count as u8);
    } else {
        write_head(out, 0xDE, 0xDF, count);
    }
    let mut wrong = Ok(());
    table.for_each(|key: Value, value: Value| {
        if wrong.is_ok() {
            wrong = write(out, &key, depth + 1).and_then(|()| write(out, &value, depth + 1));
        }
        Ok(())
    })?;
    wrong
}

/// Unpack up to `limit` values (zero: all, and then no offset is told first).
fn unpack(lua: &Lua, given: &MultiValue, limit: i64, offset: i64, name: &'static str) -> Results {
    let data = string_at(lua, given, 0, name)?;
    let data = data.as_bytes();
    if limit < 0 || offset < 0 {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {}.", data.len());
        return Err(Wrong::text(text));
    }
    if offset as usize > data.len() {
        let text = format!("Start offset {offset} greater than input length {}.", data.len());
        return Err(Wrong::text(text));
    }
    let all = limit == 0 && offset == 0;
    let most = if all { usize::MAX } else { limit as usize };
    let mut reader = Reader { lua, rest: &data[offset as usize..] };
    let mut results = Vec::new();
    while !reader.rest.is_empty() && results.len() < most {
        if results.len() > MOST_VALUES {
            return Err(Wrong::text("stack overflow (in function mp_unpack)"));
        }
        results.push(reader.read(0)?);
    }
    if !all {
        let next = if reader.rest.is_empty() { -1 } else { (data.len() - reader.rest.len()) as i64 };
        results.insert(0, Value::Integer(next));
    }
    Ok(MultiValue::from_iter(results))
}

struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Wrong::text("Missing bytes in input."));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, Wrong> {
        Ok(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn text(&mut self, len: u64) -> Result<Value, Wrong> {
        let text = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Value::String(self.lua.create_string(text)?))
    }

    fn array(&mut self, count: u64, depth: usize) -> Result<Value, Wrong> {
        let table = self.lua.create_table()?;
        for index in 1..=count {
            table.raw_set(index as i64, self.read(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    /// Raised by Lua itself, without a place.
    fn no_key(&self, why: &str) -> mlua::Result<Wrong> {
        Ok(Wrong::Value(Value::String(self.lua.create_string(why)?)))
    }

    fn map(&mut self, count: u64, depth: usize) -> Result<Value, Wrong> {
        let table = self.lua.create_table()?;
        for _ in 0..count {
            let (key, value) = (self.read(depth + 1)?, self.read(depth + 1)?);
            match &key {
                Value::Nil => return Err(self.no_key("table index is nil")?),
                Value::Number(number) if number.is_nan() => return Err(self.no_key("table index is NaN")?),
                _ => table.raw_set(key, value)?,
            }
        }
        Ok(Value::Table(table))
    }

    fn read(&mut self, depth: usize) -> Result<Value, Wrong> {
        if depth > DEEPEST_UNPACKED {
            return Err(Wrong::text("stack overflow (in function mp_decode_to_lua_array)"));
        }
        let kind = self.take(1)?[0];
        let signed = |number: u64, bits: u32| Value::Number(((number << (64 - bits)) as i64 >> (64 - bits)) as f64);
        Ok(match kind {
            0x00..=0x7F => Value::Number(f64::from(kind)),
            0x80..=0x8F => return self.map(u64::from(kind & 15), depth),
            0x90..=0x9F => return self.array(u64::from(kind & 15), depth),
            0xA0..=0xBF => return self.text(u64::from(kind & 31)),
            0xC0 => Value::Nil,
            0xC2 => Value::Boolean(false),
            0xC3 => Value::Boolean(true),
            0xD9 => {
                let len = self.number(1)?;
                return self.text(len);
            }
            0xDA => {
                let len = self.number(2)?;
                return self.text(len);
            }
            0xDB => {
                let len = self.number(4)?;
                return self.text(len);
            }
            0xCA => Value::Number(f64::from(f32::from_bits(self.number(4)? as u32))),
            0xCB => Value::Number(f64::from_bits(self.number(8)?)),
            0xCC => Value::Number(self.number(1)? as f64),
            0xCD => Value::Number(self.number(2)? as f64),
            0xCE => Value::Number(self.number(4)? as f64),
            // What exceeds 63 bits comes out negative.
            0xCF => Value::Number(self.number(8)? as i64 as f64),
            0xD0 => signed(self.number(1)?, 8),
            0xD1 => signed(self.number(2)?, 16),
            0xD2 => signed(self.number(4)?, 32),
            0xD3 => signed(self.number(8)?, 64),
            0xDC => {
                let count = self.number(2)?;
                return self.array(count, depth);
            }
            0xDD => {
                let count = self.number(4)?;
                return self.array(count, depth);
            }
            0xDE => {
                let count = self.number(2)?;
                return self.map(count, depth);
            }
            0xDF => {
                let count = self.number(4)?;
                return self.map(count, depth);
            }
            0xE0..=0xFF => Value::Number(f64::from(kind as i8)),
            _ => return Err(Wrong::text("Bad data format in input.")),
        })
    }
}
