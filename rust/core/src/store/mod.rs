//! What the node remembers: memory, tables, keys, values. Knows no commands and no clients.

pub mod arena;
pub mod index;
pub mod table;
