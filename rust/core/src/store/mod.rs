//! What the node remembers: memory, tables, keys, values. Knows no commands and no clients.

pub mod approach;
pub mod arena;
pub mod collections;
pub mod database;
pub mod entry;
pub mod evict;
pub mod hash;
pub mod index;
pub mod keyspace;
pub mod list;
mod names;
pub mod object;
pub mod random;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;
mod text;
pub mod upkeep;
pub mod whole;
pub mod zset;

pub use entry::Kind;
pub use keyspace::{Found, Keep, Store};
pub use object::Object;
pub use stream::Stream;
pub use zset::Zset;
