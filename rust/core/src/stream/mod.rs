//! Slot streams: the one way in which data leaves a node, to another one or to disk.
//!
//! A slot stream is a point-in-time copy and then the ordered tail of writes. The parts:
//! * [`codec`]: values and entries as bytes. One form for snapshots, streams, DUMP and RESTORE.
//! * [`rdb`]: what real Redis writes besides: packed forms of values, payloads of DUMP, whole files.
//! * [`tail`]: what was written, in order, for whoever listens. Costs one test of a flag while nobody does.
//! * [`record`]: what `dispatch` does after a command that changed something: puts it on the tail, as the command's
//!   words where that is safe and cheap, or else by its effect.
//! * [`apply`]: the other end: records into an engine.
//!
//! A new command needs nothing to be right here: what is not known is recorded by effect, the whole entry of each key
//! that `ctx.changed` named. One that changes large values a little, and is a function of its words, the key's value
//! and the time, belongs into [`record::BY_WORDS`]; one that draws or chooses tells with [`crate::command::Ctx::record_as`]
//! which plain commands amount to the same. `stream::tests` walks the command table and wants an example of each write.

pub mod apply;
pub mod codec;
mod listpack;
mod of_stream;
pub mod rdb;
pub mod record;
pub mod tail;
#[cfg(test)]
pub mod tests;

use crate::slot::SLOT_COUNT;

/// A set of slots: one bit each.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; SLOT_COUNT as usize / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        SlotSet(Box::new([0; SLOT_COUNT as usize / 64]))
    }
}

impl SlotSet {
    /// All slots.
    pub fn all() -> SlotSet {
        SlotSet(Box::new([u64::MAX; SLOT_COUNT as usize / 64]))
    }

    /// Whether a slot is in.
    #[inline]
    pub fn contains(&self, slot: u16) -> bool {
        self.0[usize::from(slot % SLOT_COUNT) / 64] >> (slot % 64) & 1 != 0
    }

    /// Put a slot in.
    #[inline]
    pub fn insert(&mut self, slot: u16) {
        self.0[usize::from(slot % SLOT_COUNT) / 64] |= 1 << (slot % 64);
    }

    /// Take a slot out.
    #[inline]
    pub fn remove(&mut self, slot: u16) {
        self.0[usize::from(slot % SLOT_COUNT) / 64] &= !(1 << (slot % 64));
    }

    /// How many are in.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The first slot at or after `slot`.
    pub fn next(&self, slot: u16) -> Option<u16> {
        let mut index = usize::from(slot) / 64;
        let mut word = self.0.get(index)? & (u64::MAX << (slot % 64));
        while word == 0 {
            index += 1;
            word = *self.0.get(index)?;
        }
        Some((index * 64) as u16 + word.trailing_zeros() as u16)
    }

    /// All that are in, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let mut at = self.next(0);
        std::iter::from_fn(move || {
            let slot = at?;
            at = self.next(slot + 1);
            Some(slot)
        })
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> SlotSet {
        let mut set = SlotSet::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}
