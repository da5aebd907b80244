//! Values to JSON.

use super::{Odd, Options};
use crate::command::scripting::sandbox::{Wrong, type_name};
use crate::resp::number::write_g;
use mlua::{Table, Value};

/// Deepest table that the thread's stack bears, whatever a script sets.
const DEEPEST: i64 = 1000;

/// A value as JSON.
pub(super) fn encode(value: &Value, options: &Options) -> Result<Vec<u8>, Wrong> {
    let mut out = Vec::new();
    write(&mut out, value, options, 0)?;
    Ok(out)
}

fn refused(value: &Value, why: &str) -> Wrong {
    Wrong::text(format!("Cannot serialise {}: {why}", type_name(value)))
}

fn write(out: &mut Vec<u8>, value: &Value, options: &Options, depth: i64) -> Result<(), Wrong> {
    match value {
        Value::String(text) => quote(out, &text.as_bytes()),
        Value::Integer(number) => write_number(out, value, *number as f64, options)?,
        Value::Number(number) => write_number(out, value, *number, options)?,
        Value::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(pointer) if pointer.0.is_null() => out.extend_from_slice(b"null"),
        Value::Table(table) => write_table(out, table, options, depth + 1)?,
        _ => return Err(refused(value, "type not supported")),
    }
    Ok(())
}

fn write_number(out: &mut Vec<u8>, value: &Value, number: f64, options: &Options) -> Result<(), Wrong> {
    if !number.is_finite() {
        match options.odd_written.get() {
            Odd::Refused => return Err(refused(value, "must not be NaN or Inf")),
            Odd::Null => {
                out.extend_from_slice(b"null");
                return Ok(());
            }
            Odd::Written if number.is_nan() => {
                out.extend_from_slice(b"nan");
                return Ok(());
            }
            Odd::Written => {}
        }
    }
    write_g(out, number, options.precision.get() as usize);
    Ok(())
}

fn write_table(out: &mut Vec<u8>, table: &Table, options: &Options, depth: i64) -> Result<(), Wrong> {
    if depth > options.deepest_written.get().min(DEEPEST) {
        return Err(Wrong::text(format!("Cannot serialise, excessive nesting ({depth})")));
    }
    let len = array_len(table, options)?;
    if len > 0 {
        out.push(b'[');
        for index in 1..=len {
            if index > 1 {
                out.push(b',');
            }
            write(out, &table.raw_get(index)?, options, depth)?;
        }
        out.push(b']');
        return Ok(());
    }
    out.push(b'{');
    let mut wrong = Ok(());
    let mut first = true;
    table.for_each(|key: Value, value: Value| {
        if wrong.is_ok() {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            wrong = write_pair(out, &key, &value, options, depth);
        }
        Ok(())
    })?;
    wrong?;
    out.push(b'}');
    Ok(())
}

fn write_pair(out: &mut Vec<u8>, key: &Value, value: &Value, options: &Options, depth: i64) -> Result<(), Wrong> {
    match key {
        Value::Integer(number) => {
            out.push(b'"');
            write_number(out, key, *number as f64, options)?;
            out.push(b'"');
        }
        Value::Number(number) => {
            out.push(b'"');
            write_number(out, key, *number, options)?;
            out.push(b'"');
        }
        Value::String(text) => quote(out, &text.as_bytes()),
        _ => return Err(refused(key, "table key must be a number or string")),
    }
    out.push(b':');
    write(out, value, options, depth)
}

/// The length of a table that is an array; zero or less for one that is not.
fn array_len(table: &Table, options: &Options) -> Result<i64, Wrong> {
    let (mut highest, mut count, mut is_array) = (0i64, 0i64, true);
    table.for_each(|key: Value, _: Value| {
        match key {
            Value::Integer(index) if index > 0 => {
                highest = highest.max(index);
                count += 1;
            }
            _ => is_array = false,
        }
        Ok(())
    })?;
    if !is_array {
        return Ok(-1);
    }
    let ratio = options.sparse_ratio.get();
    if ratio > 0 && highest > count.saturating_mul(ratio) && highest > options.sparse_safe.get() {
        if !options.sparse_convert.get() {
            return Err(Wrong::text("Cannot serialise table: excessively sparse array"));
        }
        return Ok(-1);
    }
    Ok(highest)
}

fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' | b'/' => out.extend_from_slice(&[b'\\', byte]),
            8 => out.extend_from_slice(b"\\b"),
            9 => out.extend_from_slice(b"\\t"),
            10 => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            13 => out.extend_from_slice(b"\\r"),
            0..=31 | 127 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
