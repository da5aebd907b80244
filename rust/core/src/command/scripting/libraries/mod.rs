//! The libraries that scripts find beside Lua's own: `bit`, `cjson`, `cmsgpack`, `struct`. They answer as those in
//! Redis do, byte for byte; the code is ours, so none of their overflows is here.

mod bit;
mod cjson;
mod cmsgpack;
mod patterns;
pub mod strings;
mod structs;

use mlua::{Lua, Table};

/// All libraries with their names.
pub fn all(lua: &Lua) -> mlua::Result<Vec<(&'static str, Table)>> {
    Ok(vec![
        ("bit", bit::library(lua)?),
        ("cjson", cjson::library(lua)?),
        ("cmsgpack", cmsgpack::library(lua)?),
        ("struct", structs::library(lua)?),
    ])
}
