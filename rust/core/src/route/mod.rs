//! Where a request goes, as a pure function of the request and the map of slots.
//!
//! `plan` decides, `merge` puts the parts of a split request's reply together again, `fleet` adds up what nodes
//! tell about themselves, `transaction` deals a transaction out to its nodes. Nothing here waits, connects or
//! knows what time it is: that is the proxy's loop.

pub mod fleet;
pub mod map;
pub mod merge;
pub mod plan;
pub mod transaction;

pub use map::{Address, Map};
pub use merge::{Merge, Merging};
pub use plan::{Part, Plan, plan};
