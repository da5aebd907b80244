//! `cjson`: values to JSON and back.

mod read;
mod write;

use crate::command::scripting::sandbox::{Results, Wrong, function, number_at, one, string_at};
use crate::command::scripting::value::truncated;
use mlua::{Lua, MultiValue, Table, Value};
use std::cell::Cell;
use std::rc::Rc;

/// What becomes of numbers that JSON does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Odd {
    Refused,
    Written,
    Null,
}

/// How JSON is written and read; scripts may change it.
#[derive(Clone)]
struct Options {
    sparse_convert: Cell<bool>,
    sparse_ratio: Cell<i64>,
    sparse_safe: Cell<i64>,
    deepest_written: Cell<i64>,
    deepest_read: Cell<i64>,
    precision: Cell<i64>,
    keep_buffer: Cell<bool>,
    odd_written: Cell<Odd>,
    odd_read: Cell<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sparse_convert: Cell::new(false),
            sparse_ratio: Cell::new(2),
            sparse_safe: Cell::new(10),
            deepest_written: Cell::new(1000),
            deepest_read: Cell::new(1000),
            precision: Cell::new(14),
            keep_buffer: Cell::new(true),
            odd_written: Cell::new(Odd::Refused),
            odd_read: Cell::new(true),
        }
    }
}

/// The library.
pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let options = Rc::new(Options::default());
    let library = lua.create_table()?;
    let define = |name: &'static str, inner: fn(&Lua, &MultiValue, &Options, &'static str) -> Results| {
        let options = Rc::clone(&options);
        library.raw_set(name, function(lua, move |lua, given| inner(lua, given, &options, name))?)
    };
    define("encode", |lua, given, options, name| {
        let [value] = exactly(given, name)?;
        one(Value::String(lua.create_string(write::encode(&value, options)?)?))
    })?;
    define("decode", |lua, given, options, name| {
        let [_] = exactly::<1>(given, name)?;
        let text = string_at(lua, given, 0, name)?;
        one(read::decode(lua, &text.as_bytes(), options)?)
    })?;
    define("encode_sparse_array", |lua, given, options, name| {
        at_most(given, 3, name)?;
        boolean(lua, given, 0, &options.sparse_convert, name)?;
        integer(lua, given, 1, &options.sparse_ratio, (0, i64::from(i32::MAX)), name)?;
        integer(lua, given, 2, &options.sparse_safe, (0, i64::from(i32::MAX)), name)?;
        Ok(MultiValue::from_iter([
            Value::Boolean(options.sparse_convert.get()),
            Value::Integer(options.sparse_ratio.get()),
            Value::Integer(options.sparse_safe.get()),
        ]))
    })?;
    // Deeper than this the stack of the thread that serves would not bear.
    define("encode_max_depth", |lua, given, options, name| {
        at_most(given, 1, name)?;
        integer(lua, given, 0, &options.deepest_written, (1, i64::from(i32::MAX)), name)?;
        one(Value::Integer(options.deepest_written.get()))
    })?;
    define("decode_max_depth", |lua, given, options, name| {
        at_most(given, 1, name)?;
        integer(lua, given, 0, &options.deepest_read, (1, i64::from(i32::MAX)), name)?;
        one(Value::Integer(options.deepest_read.get()))
    })?;
    define("encode_number_precision", |lua, given, options, name| {
        at_most(given, 1, name)?;
        integer(lua, given, 0, &options.precision, (1, 14), name)?;
        one(Value::Integer(options.precision.get()))
    })?;
    define("encode_keep_buffer", |lua, given, options, name| {
        at_most(given, 1, name)?;
        boolean(lua, given, 0, &options.keep_buffer, name)?;
        one(Value::Boolean(options.keep_buffer.get()))
    })?;
    define("encode_invalid_numbers", |lua, given, options, name| {
        at_most(given, 1, name)?;
        match given.front() {
            None | Some(Value::Nil) => {}
            Some(Value::Boolean(true)) => options.odd_written.set(Odd::Written),
            Some(Value::Boolean(false)) => options.odd_written.set(Odd::Refused),
            Some(Value::String(word)) if word.as_bytes() == b"null" => options.odd_written.set(Odd::Null),
            Some(Value::String(word)) if word.as_bytes() == b"on" => options.odd_written.set(Odd::Written),
            Some(Value::String(word)) if word.as_bytes() == b"off" => options.odd_written.set(Odd::Refused),
            _ => {
                let word = string_at(lua, given, 0, name)?;
                let text = format!("invalid option '{}'", word.to_string_lossy());
                return Err(Wrong::argument(1, name, &text));
            }
        }
        one(match options.odd_written.get() {
            Odd::Written => Value::Boolean(true),
            Odd::Refused => Value::Boolean(false),
            Odd::Null => Value::String(lua.create_string("null")?),
        })
    })?;
    define("decode_invalid_numbers", |lua, given, options, name| {
        at_most(given, 1, name)?;
        boolean(lua, given, 0, &options.odd_read, name)?;
        one(Value::Boolean(options.odd_read.get()))
    })?;
    library.raw_set("new", function(lua, |lua, _| one(Value::Table(self::library(lua)?)))?)?;
    library.raw_set("null", Value::NULL)?;
    library.raw_set("_NAME", "cjson")?;
    library.raw_set("_VERSION", "2.1.0")?;
    Ok(library)
}

fn exactly<const COUNT: usize>(given: &MultiValue, name: &str) -> Result<[Value; COUNT], Wrong> {
    let values: Vec<Value> = given.iter().cloned().collect();
    values.try_into().map_err(|_| Wrong::argument(1, name, "expected 1 argument"))
}

fn at_most(given: &MultiValue, most: usize, name: &str) -> Result<(), Wrong> {
    if given.len() > most {
        return Err(Wrong::argument(most + 1, name, "found too many arguments"));
    }
    Ok(())
}

fn integer(
    lua: &Lua,
    given: &MultiValue,
    at: usize,
    option: &Cell<i64>,
    (low, high): (i64, i64),
    name: &str,
) -> Result<(), Wrong> {
    if matches!(given.get(at), None | Some(Value::Nil)) {
        return Ok(());
    }
    let number = truncated(number_at(lua, given, at, name)?);
    if !(low..=high).contains(&number) {
        return Err(Wrong::argument(at + 1, name, &format!("expected integer between {low} and {high}")));
    }
    option.set(number);
    Ok(())
}

fn boolean(lua: &Lua, given: &MultiValue, at: usize, option: &Cell<bool>, name: &str) -> Result<(), Wrong> {
    match given.get(at) {
        None | Some(Value::Nil) => {}
        Some(Value::Boolean(value)) => option.set(*value),
        Some(Value::String(word)) if word.as_bytes() == b"on" => option.set(true),
        Some(Value::String(word)) if word.as_bytes() == b"off" => option.set(false),
        _ => {
            let word = string_at(lua, given, at, name)?;
            let text = format!("invalid option '{}'", word.to_string_lossy());
            return Err(Wrong::argument(at + 1, name, &text));
        }
    }
    Ok(())
}
