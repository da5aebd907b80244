//! The values of hash and set keys. They know no commands; bytes of fields and members lie in the node's arena.

pub mod hash;
mod intset;
mod packed;
mod records;
pub mod set;

pub use hash::HashValue;
pub use set::{Member, SetValue};
