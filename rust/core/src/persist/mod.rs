//! What a node keeps on disk: snapshots and the log, both slot streams that end in files.
//!
//! * [`frame`]: pieces of a file, each checked by itself. [`disk`]: what is done to files, behind a seam for tests.
//! * [`snapshot`]: files of one point in time; [`taking`]: how one is taken while the node serves.
//! * [`log`]: the tail of writes as files; [`log_writer`]: the thread that writes them; [`journal`]: its other end.
//! * [`load`]: warm-up at the start; [`dump`]: from a file of Redis, when there is nothing of our own. [`entries`]: a snapshot for those who are no node. [`keeper`]: when what is done, and what it is told to people.
//!
//! The loop never waits for the disk: threads write and read, buffers between are bounded, and when they are full the
//! copy waits, or writes are refused. A node whose `dir` is not set keeps nothing and has none of this.

#[cfg(test)]
mod bad_disks;
#[cfg(test)]
mod crashes;
pub mod disk;
pub mod dump;
pub mod entries;
pub mod frame;
pub mod journal;
pub mod keeper;
pub mod load;
pub mod log;
pub mod log_writer;
pub mod note;
pub mod snapshot;
pub mod taking;
#[cfg(test)]
mod tests;

pub use keeper::Keeper;

use crate::command::Engine;
use crate::command::fault::Fault;

/// Do what is due for the disk; called in every turn of the loop, behind the requests. Says how soon it should be
/// called again, in ms of time without other work: zero for at once.
pub fn turn(engine: &mut Engine) -> Option<u64> {
    let mut keeper = engine.keeper.take()?;
    let soon = keeper.turn(engine);
    engine.keeper = Some(keeper);
    soon
}

/// The node stops: have all that was promised on disk, and a last snapshot.
pub fn close(engine: &mut Engine) {
    if let Some(mut keeper) = engine.keeper.take() {
        keeper.close(engine);
    }
}

/// Why a command must not write now, if it must not.
#[inline]
pub fn refusal(engine: &Engine) -> Option<Fault> {
    engine.keeper.as_ref()?.refusal.clone()
}
