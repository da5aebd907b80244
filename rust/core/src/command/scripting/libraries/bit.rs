//! `bit`: operations on 32 bits. Numbers are rounded and wrap around; results are signed.

use crate::command::scripting::sandbox::{Results, Wrong, function, number_at, one};
use mlua::{Lua, MultiValue, Table, Value};

/// The library.
pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let define = |name: &'static str, inner: fn(&Lua, &MultiValue, &'static str) -> Results| {
        library.raw_set(name, function(lua, move |lua, given| inner(lua, given, name))?)
    };
    define("tobit", |lua, given, name| integer(bits_at(lua, given, 0, name)?))?;
    define("bnot", |lua, given, name| integer(!bits_at(lua, given, 0, name)?))?;
    define("bswap", |lua, given, name| integer(bits_at(lua, given, 0, name)?.swap_bytes()))?;
    define("band", |lua, given, name| folded(lua, given, name, |a, b| a & b))?;
    define("bor", |lua, given, name| folded(lua, given, name, |a, b| a | b))?;
    define("bxor", |lua, given, name| folded(lua, given, name, |a, b| a ^ b))?;
    define("lshift", |lua, given, name| shifted(lua, given, name, |bits, by| bits << by))?;
    define("rshift", |lua, given, name| shifted(lua, given, name, |bits, by| bits >> by))?;
    define("arshift", |lua, given, name| shifted(lua, given, name, |bits, by| (bits as i32 >> by) as u32))?;
    define("rol", |lua, given, name| shifted(lua, given, name, u32::rotate_left))?;
    define("ror", |lua, given, name| shifted(lua, given, name, u32::rotate_right))?;
    define("tohex", tohex)?;
    Ok(library)
}

fn bits_at(lua: &Lua, given: &MultiValue, at: usize, name: &str) -> Result<u32, Wrong> {
    // In a double of this size the last bit of the fraction is worth one: adding it rounds, and leaves the
    // integer's low bits in the fraction's.
    const ROUNDING: f64 = 6_755_399_441_055_744.0;
    Ok((number_at(lua, given, at, name)? + ROUNDING).to_bits() as u32)
}

fn integer(bits: u32) -> Results {
    one(Value::Integer(i64::from(bits as i32)))
}

fn folded(lua: &Lua, given: &MultiValue, name: &str, with: fn(u32, u32) -> u32) -> Results {
    let mut bits = bits_at(lua, given, 0, name)?;
    for at in 1..given.len() {
        bits = with(bits, bits_at(lua, given, at, name)?);
    }
    integer(bits)
}

fn shifted(lua: &Lua, given: &MultiValue, name: &str, how: fn(u32, u32) -> u32) -> Results {
    let (bits, by) = (bits_at(lua, given, 0, name)?, bits_at(lua, given, 1, name)?);
    integer(how(bits, by & 31))
}

fn tohex(lua: &Lua, given: &MultiValue, name: &'static str) -> Results {
    let bits = bits_at(lua, given, 0, name)?;
    let digits = if given.len() > 1 { bits_at(lua, given, 1, name)? as i32 } else { 8 };
    let count = digits.unsigned_abs().min(8) as usize;
    let text = if digits < 0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    one(Value::String(lua.create_string(&text[8 - count..])?))
}
