//! Slot streams: the one way in which data leaves a node, to another one or to disk.
//!
//! A slot stream is a point-in-time copy and then the ordered tail of writes. The parts:
//! * [`codec`]: values and entries as bytes. One form for snapshots, streams, DUMP and RESTORE.
//! * [`rdb`]: what real Redis writes besides: packed forms of values, payloads of DUMP, whole files.
//! * [`tail`]: what was written, in order, for whoever listens. Costs one test of a flag while nobody does.
//! * [`copy`]: slots as they were at one point in time, in slices, while writes go on.
//! * [`record`]: what `dispatch` does after a command that changed something: puts it on the tail, as the command's
//!   words where that is safe and cheap, or else by its effect.
//! * [`squeeze`]: both made smaller for the way.
//! * [`apply`]: the other end: records into an engine.
//!
//! A new command needs nothing to be right here: what is not known is recorded by effect, the whole entry of each key
//! that `ctx.changed` named. One that changes large values a little, and is a function of its words, the key's value
//! and the time, belongs into [`record::BY_WORDS`]; one that draws or chooses tells with [`crate::command::Ctx::record_as`]
//! which plain commands amount to the same. `stream::tests` walks the command table and wants an example of each write.

pub mod apply;
pub mod codec;
pub mod copy;
mod listpack;
mod of_stream;
pub mod rdb;
pub mod record;
pub mod squeeze;
pub mod tail;
#[cfg(test)]
pub mod tests;

pub use crate::slot::SlotSet;
