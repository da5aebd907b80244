//! Where a request goes, as a pure function of the request and the map of slots.
//!
//! `plan` decides, `merge` puts the parts of a split request's reply together again. Nothing
//! here waits, connects or knows what time it is: that is the proxy's loop.

pub mod map;
pub mod merge;
pub mod plan;

pub use map::{Address, Map};
pub use merge::{Merge, Merging};
pub use plan::{Part, Plan, plan};
