//! `struct`: values to bytes and back, by a format as in C.

use crate::command::scripting::sandbox::{Results, Wrong, function, number_at, one, string_at};
use crate::command::scripting::value::truncated;
use mlua::{Lua, MultiValue, Table, Value};

/// Largest integer, in bytes.
const LARGEST: i64 = 32;
/// Largest alignment.
const ALIGNMENT: i64 = 8;
/// Most values that are unpacked at once.
const MOST_VALUES: usize = 7900;

/// The library.
pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", function(lua, pack)?)?;
    library.raw_set("unpack", function(lua, unpack)?)?;
    library.raw_set("size", function(lua, size)?)?;
    Ok(library)
}

/// A format, read option by option.
struct Format<'a> {
    rest: &'a [u8],
    little: bool,
    align: usize,
    name: &'static str,
}

impl<'a> Format<'a> {
    fn new(text: &'a [u8], name: &'static str) -> Format<'a> {
        let rest = text.split(|&byte| byte == 0).next().unwrap_or_default();
        Format { rest, little: true, align: 1, name }
    }

    fn number(&mut self, default: i64) -> Result<i64, Wrong> {
        let mut number: Option<i64> = None;
        while let [digit @ b'0'..=b'9', rest @ ..] = self.rest {
            let next = number.unwrap_or(0) * 10 + i64::from(digit - b'0');
            if next > i64::from(i32::MAX) {
                return Err(Wrong::text("integral size overflow"));
            }
            number = Some(next);
            self.rest = rest;
        }
        Ok(number.unwrap_or(default))
    }

    /// The next option and its size in bytes.
    fn next(&mut self) -> Result<Option<(u8, usize)>, Wrong> {
        let Some((&option, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'f' => 4,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'c' => self.number(1)?,
            b'i' | b'I' => {
                let size = self.number(4)?;
                if size > LARGEST {
                    let text = format!("integral size {size} is larger than limit of {LARGEST}");
                    return Err(Wrong::text(text));
                }
                size
            }
            _ => 0,
        };
        Ok(Some((option, size as usize)))
    }

    fn padding(&self, position: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        // As the original has it: right for powers of two, and some number for others.
        (size.wrapping_sub(position & (size - 1))) & (size - 1)
    }

    /// An option that is no value.
    fn control(&mut self, option: u8) -> Result<(), Wrong> {
        match option {
            b' ' => {}
            b'<' => self.little = true,
            b'>' => self.little = false,
            b'!' => {
                let align = self.number(ALIGNMENT)?;
                if align <= 0 || align & (align - 1) != 0 {
                    return Err(Wrong::text(format!("alignment {align} is not a power of 2")));
                }
                self.align = align as usize;
            }
            _ => {
                let mut text = format!("bad argument #1 to '{}' (invalid format option '", self.name).into_bytes();
                text.push(option);
                text.extend_from_slice(b"')");
                return Err(Wrong::Text(text));
            }
        }
        Ok(())
    }

    fn ordered(&self, mut little: Vec<u8>) -> Vec<u8> {
        if !self.little {
            little.reverse();
        }
        little
    }
}

fn pack(lua: &Lua, given: &MultiValue) -> Results {
    // An argument that is missing is told as nil.
    let given = &MultiValue::from_iter(given.iter().cloned().chain((!given.is_empty()).then_some(Value::Nil)));
    let text = string_at(lua, given, 0, "pack")?;
    let text = text.as_bytes();
    let mut format = Format::new(&text, "pack");
    let mut out = Vec::new();
    let mut at = 1;
    while let Some((option, size)) = format.next()? {
        out.resize(out.len() + format.padding(out.len(), option, size), 0);
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = number_at(lua, given, at, "pack")?;
                at += 1;
                let value = if number < 0.0 { truncated(number) as u64 } else { unsigned(number) };
                let mut bytes = value.to_le_bytes().to_vec();
                bytes.resize(size, 0);
                out.extend_from_slice(&format.ordered(bytes));
            }
            b'x' => out.push(0),
            b'f' => {
                let bytes = (number_at(lua, given, at, "pack")? as f32).to_le_bytes().to_vec();
                at += 1;
                out.extend_from_slice(&format.ordered(bytes));
            }
            b'd' => {
                let bytes = number_at(lua, given, at, "pack")?.to_le_bytes().to_vec();
                at += 1;
                out.extend_from_slice(&format.ordered(bytes));
            }
            b'c' | b's' => {
                let string = string_at(lua, given, at, "pack")?;
                at += 1;
                let string = string.as_bytes();
                let size = if size == 0 { string.len() } else { size };
                let Some(part) = string.get(..size) else {
                    return Err(Wrong::argument(at + 1, "pack", "string too short"));
                };
                out.extend_from_slice(part);
                if option == b's' {
                    out.push(0);
                }
            }
            _ => format.control(option)?,
        }
    }
    one(Value::String(lua.create_string(out)?))
}

/// As the processor converts a double that is not negative to 64 bits without a sign.
fn unsigned(number: f64) -> u64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    if number < HALF { truncated(number) as u64 } else { (truncated(number - HALF) as u64) ^ (1 << 63) }
}

fn unpack(lua: &Lua, given: &MultiValue) -> Results {
    let text = string_at(lua, given, 0, "unpack")?;
    let text = text.as_bytes();
    let data = string_at(lua, given, 1, "unpack")?;
    let data = data.as_bytes();
    let position = match given.get(2) {
        None | Some(Value::Nil) => 1,
        _ => truncated(number_at(lua, given, 2, "unpack")?),
    };
    if position == 0 {
        return Err(Wrong::argument(3, "unpack", "offset must be 1 or greater"));
    }
    // A negative one lies beyond every end.
    let mut position = (position as u64 - 1) as usize;
    let short = || Wrong::argument(2, "unpack", "data string too short");
    let mut format = Format::new(&text, "unpack");
    let mut results: Vec<Value> = Vec::new();
    while let Some((option, mut size)) = format.next()? {
        position = position.saturating_add(format.padding(position, option, size));
        let slice = |size: usize| data.get(position..position.saturating_add(size)).ok_or_else(short);
        let bytes = slice(size)?;
        if results.len() > MOST_VALUES {
            return Err(Wrong::text("stack overflow (too many results)"));
        }
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let value = integer(&format.ordered(bytes.to_vec()), option.is_ascii_lowercase());
                results.push(Value::Number(value));
            }
            b'x' => {}
            b'f' => {
                let bytes = format.ordered(bytes.to_vec());
                let number = f32::from_le_bytes(bytes.try_into().unwrap_or_default());
                results.push(Value::Number(f64::from(number)));
            }
            b'd' => {
                let bytes = format.ordered(bytes.to_vec());
                results.push(Value::Number(f64::from_le_bytes(bytes.try_into().unwrap_or_default())));
            }
            b'c' => {
                if size == 0 {
                    let Some(Value::Number(number)) = results.pop() else {
                        return Err(Wrong::text("format 'c0' needs a previous size"));
                    };
                    size = usize::try_from(truncated(number)).map_err(|_| short())?;
                }
                results.push(Value::String(lua.create_string(slice(size)?)?));
            }
            b's' => {
                let rest = data.get(position..).unwrap_or_default();
                let Some(len) = memchr::memchr(0, rest) else {
                    return Err(Wrong::text("unfinished string in data"));
                };
                size = len + 1;
                results.push(Value::String(lua.create_string(&rest[..len])?));
            }
            _ => format.control(option)?,
        }
        position += size;
    }
    results.push(Value::Integer(position as i64 + 1));
    Ok(MultiValue::from_iter(results))
}

/// Bytes, least significant first, as a number; those beyond 64 bits do not count.
fn integer(bytes: &[u8], signed: bool) -> f64 {
    let mut value: u64 = 0;
    for &byte in bytes.iter().rev() {
        value = value << 8 | u64::from(byte);
    }
    if !signed {
        return value as f64;
    }
    let bits = (bytes.len() as u32 * 8).wrapping_sub(1) & 63;
    let mask = u64::MAX << bits;
    if value & mask != 0 {
        value |= mask;
    }
    value as i64 as f64
}

fn size(lua: &Lua, given: &MultiValue) -> Results {
    let text = string_at(lua, given, 0, "size")?;
    let text = text.as_bytes();
    let mut format = Format::new(&text, "size");
    let mut position = 0usize;
    while let Some((option, size)) = format.next()? {
        position += format.padding(position, option, size);
        if option == b's' {
            return Err(Wrong::argument(1, "size", "option 's' has no fixed size"));
        }
        if option == b'c' && size == 0 {
            return Err(Wrong::argument(1, "size", "option 'c0' has no fixed size"));
        }
        if !option.is_ascii_alphanumeric() {
            format.control(option)?;
        }
        position += size;
    }
    one(Value::Integer(position as i64))
}
