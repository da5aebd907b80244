//! Streams: entries in the order of their names ([`Id`]), in packed [`Block`]s one behind the other,
//! and the [`Group`]s that read them.
//!
//! Blocks close where Redis would close its own ([`Limits`]), so that trimming "about" removes as much.

mod block;
mod group;
mod id;
pub mod piece;
mod shape;
#[cfg(test)]
mod tests;

pub use block::{Block, Entry};
pub use group::{Consumer, Group, Pending, Who};
pub use id::Id;
pub use piece::Piece;

use std::collections::{BTreeMap, VecDeque};

/// The longest entry, and the longest block whatever the settings say.
const LONGEST: usize = 1 << 30;

/// When a block is closed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, as Redis counts them; zero for no limit.
    pub bytes: usize,
    /// Entries, removed ones too; zero for no limit.
    pub entries: usize,
}

/// How far a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// To so many entries.
    Length(u64),
    /// To the entries from this name on.
    Before(Id),
}

/// Why an entry cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its name does not come after the last.
    NotAfterLast,
    /// It is too long.
    TooLong,
}

/// See the module's page.
#[derive(Clone, Default)]
pub struct Stream {
    blocks: VecDeque<Block>,
    len: u64,
    /// The name of the entry added last, or what it was set to.
    pub last: Id,
    /// Entries ever added.
    pub added: u64,
    /// The greatest name of a removed entry.
    pub max_deleted: Id,
    groups: BTreeMap<Box<[u8]>, Group>,
}

impl Stream {
    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name of the first entry; zeros when there is none.
    pub fn first(&self) -> Id {
        self.blocks.front().and_then(|block| block.entries().next()).map_or(Id::MIN, |entry| entry.id)
    }

    /// The name of the last entry that is there; of the last ever, when none is.
    pub fn last_there(&self) -> Id {
        match self.blocks.back() {
            // Mostly the last entry is still there, and no block need be read to know it.
            Some(block) if block.dead == 0 => block.last,
            Some(block) => block.entries().last().map_or(self.last, |entry| entry.id),
            None => self.last,
        }
    }

    /// Whether an entry comes after `id`.
    pub fn has_after(&self, id: Id) -> bool {
        self.len > 0 && self.last > id && self.last_there() > id
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &Block> {
        self.blocks.iter()
    }

    /// Add a block behind the others; `false` when it does not belong there. The caller sees to the counts and names
    /// that a stream keeps besides.
    pub fn push_block(&mut self, block: Block) -> bool {
        let fits = block.live > 0 && self.blocks.back().is_none_or(|last| last.last < block.first);
        if fits {
            self.len += u64::from(block.live);
            self.blocks.push_back(block);
        }
        fits
    }

    /// How many blocks there are, and how many nodes Redis would need for them.
    pub fn shape(&self) -> (usize, usize) {
        (self.blocks.len(), shape::tree_nodes(&shape::names(self.blocks.iter().map(|block| block.first))))
    }

    /// Add an entry of names and values behind all others.
    pub fn append(&mut self, id: Id, fields: &[&[u8]], limits: Limits) -> Result<(), Refused> {
        if id <= self.last {
            return Err(Refused::NotAfterLast);
        }
        let size: usize = fields.iter().map(|text| text.len()).sum();
        if size > LONGEST {
            return Err(Refused::TooLong);
        }
        let most_bytes = if limits.bytes == 0 { LONGEST } else { limits.bytes.min(LONGEST) };
        match self.blocks.back_mut() {
            Some(block)
                if block.as_listpack() + size < most_bytes
                    && (limits.entries == 0 || ((block.live + block.dead) as usize) < limits.entries) =>
            {
                block.append(id, fields);
            }
            back => {
                if let Some(block) = back {
                    block.close();
                }
                self.blocks.push_back(Block::with(id, fields));
            }
        }
        (self.len, self.added, self.last) = (self.len + 1, self.added + 1, id);
        Ok(())
    }

    /// The entry of this name.
    pub fn get(&self, id: Id) -> Option<Entry<'_>> {
        self.blocks.get(self.block_of(id)?)?.get(id)
    }

    /// The block in which an entry of this name is, if it is anywhere.
    fn block_of(&self, id: Id) -> Option<usize> {
        self.blocks.partition_point(|block| block.first <= id).checked_sub(1)
    }

    /// The entries from one name to another, both included.
    pub fn range(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        let start = self.blocks.partition_point(|block| block.last < from);
        self.blocks
            .range(start..)
            .take_while(move |block| block.first <= to)
            .flat_map(Block::entries)
            .skip_while(move |entry| entry.id < from)
            .take_while(move |entry| entry.id <= to)
    }

    /// As [`Stream::range`], the last entry first.
    pub fn range_back(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        let end = self.blocks.partition_point(|block| block.first <= to);
        let mut blocks = self.blocks.range(..end).rev().take_while(move |block| block.last >= from);
        let mut here: Vec<Entry<'_>> = Vec::new();
        std::iter::from_fn(move || {
            while here.is_empty() {
                // A block can only be read forward.
                here.extend(blocks.next()?.entries().filter(|entry| (from..=to).contains(&entry.id)));
            }
            here.pop()
        })
    }

    /// Remove an entry; `false` when it is not there.
    pub fn remove(&mut self, id: Id) -> bool {
        let Some(at) = self.block_of(id) else { return false };
        let block = &mut self.blocks[at];
        if !block.remove(id) {
            return false;
        }
        if block.live == 0 {
            self.blocks.remove(at);
        }
        self.len -= 1;
        self.max_deleted = self.max_deleted.max(id);
        true
    }

    /// Remove entries from the front; returns how many. `whole` removes only whole blocks, and of these
    /// none that would exceed `limit` entries (zero for no limit).
    pub fn trim(&mut self, cut: Cut, whole: bool, limit: u64) -> u64 {
        let mut removed = 0;
        while let Some(block) = self.blocks.front_mut() {
            let live = u64::from(block.live);
            if matches!(cut, Cut::Length(most) if self.len <= most) || (limit > 0 && removed + live > limit) {
                break;
            }
            let goes = match cut {
                Cut::Length(most) => self.len - live >= most,
                Cut::Before(id) => block.last < id,
            };
            if goes {
                self.blocks.pop_front();
                self.len -= live;
                removed += live;
                continue;
            }
            if !whole {
                let mut left = self.len;
                let some = block.remove_front(|id| {
                    let goes = match cut {
                        Cut::Length(most) => left > most,
                        Cut::Before(first) => id < first,
                    };
                    left -= u64::from(goes);
                    goes
                }) as u64;
                if block.live == 0 {
                    self.blocks.pop_front();
                }
                self.len -= some;
                removed += some;
            }
            break;
        }
        removed
    }

    /// All groups, by name.
    pub fn groups(&self) -> &BTreeMap<Box<[u8]>, Group> {
        &self.groups
    }

    /// The group of this name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// The group of this name, to change it.
    pub fn group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        self.groups.get_mut(name)
    }

    /// Add a group; `false` when there is one of this name.
    pub fn add_group(&mut self, name: &[u8], group: Group) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.groups.insert(name.into(), group);
        true
    }

    /// Take a group away.
    pub fn take_group(&mut self, name: &[u8]) -> Option<Group> {
        self.groups.remove(name)
    }

    /// Whether an entry was removed from the middle at or behind `id`: then nobody can count on from there.
    pub fn has_gap_from(&self, id: Id) -> bool {
        self.len > 0 && self.max_deleted != Id::MIN && id <= self.max_deleted && self.first() <= self.max_deleted
    }

    /// How many entries had been added when `id` was, that one included; `None` when nobody can tell.
    pub fn place_of(&self, id: Id) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        if (self.len == 0 && id <= self.last) || id == self.last {
            return Some(self.added);
        }
        let first = self.first();
        if id > self.last || (self.max_deleted != Id::MIN && self.max_deleted >= first) {
            return None;
        }
        match id.cmp(&first) {
            std::cmp::Ordering::Less => Some(self.added.wrapping_sub(self.len)),
            std::cmp::Ordering::Equal => Some(self.added.wrapping_sub(self.len).wrapping_add(1)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// How many entries a group has not read yet; `None` when nobody can tell.
    pub fn lag_of(&self, group: &Group) -> Option<i64> {
        if self.added == 0 {
            return Some(0);
        }
        let read = match group.read {
            Some(read) if !self.has_gap_from(group.last) => read,
            _ => self.place_of(group.last)?,
        };
        Some(self.added.wrapping_sub(read) as i64)
    }

    /// A group has read on to an entry.
    pub fn advance(&mut self, name: &[u8], id: Id) {
        let (gap, place, any) = (self.has_gap_from(id), self.place_of(id), self.added > 0);
        let Some(group) = self.groups.get_mut(name) else { return };
        if id > group.last {
            match &mut group.read {
                Some(read) if !gap => *read = read.wrapping_add(1),
                read if any => *read = place,
                _ => {}
            }
            group.last = id;
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Stream>()
            + self.blocks.capacity() * size_of::<Block>()
            + self.blocks.iter().map(Block::heap_bytes).sum::<usize>()
            + self
                .groups
                .iter()
                .map(|(name, group)| name.len() + size_of::<(Box<[u8]>, Group)>() + group.heap_bytes())
                .sum::<usize>()
    }

    /// How much work freeing it is.
    pub fn weight(&self) -> usize {
        1 + self.blocks.len() + self.groups.values().map(|group| 1 + group.pending().len()).sum::<usize>()
    }

    /// Give back at most about `budget` blocks and pending entries; `true` when nothing is left.
    pub fn free_some(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0 {
            if self.blocks.pop_back().is_none() {
                let Some(mut group) = self.groups.first_entry() else { return true };
                if !group.get_mut().free_some(left) {
                    return false;
                }
                group.remove();
            }
            left -= 1;
        }
        self.blocks.is_empty() && self.groups.is_empty()
    }
}
