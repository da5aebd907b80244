//! A hash table that may hold millions of handles and never pauses to grow.
//!
//! Up to some thousands of handles it is one [`Table`]. Past that it is several, each owning a
//! range of hashes; one that fills is split in two halves, so no insertion ever moves more than
//! one small table. Ranges are ordered as hashes are: a scan goes through them by hash value
//! and keeps the promise of [`Table::scan`], whatever is split meanwhile.

use super::table::{Place, Table};

/// A table that holds this many is split: rehashing so many scattered keys takes well under a millisecond.
const MOST: usize = 8192;
/// No range gets narrower than this many leading bits of the hash, or too few would be left to spread keys.
const MOST_BITS: u8 = 16;

/// The handles whose hashes begin with the same `bits` bits.
struct Part {
    table: Table,
    bits: u8,
}

/// Where a handle lies, until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    part: u32,
    place: Place,
}

/// See the module's page.
#[derive(Default)]
pub struct Index {
    parts: Vec<Part>,
    directory: Vec<u32>, // By the first `bits` bits of a hash: its part. Empty while there is one part.
    bits: u8,
    len: usize,
    table_bytes: usize,
}

impl Index {
    /// An empty index without memory of its own.
    pub fn new() -> Self {
        Index::default()
    }

    /// How many handles the index holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the index holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of heap memory behind the index.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        self.table_bytes + self.parts.capacity() * size_of::<Part>() + self.directory.capacity() * 4
    }

    /// Ask the processor for the place of `hash`.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Some(part) = self.parts.get(self.part_of(hash)) {
            part.table.prefetch(local(hash, part.bits));
        }
    }

    /// A handle that may be the one looked for, to be prefetched.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        let part = self.parts.get(self.part_of(hash))?;
        part.table.first_candidate(local(hash, part.bits))
    }

    /// The spot of the handle with this hash for which `is_it` says yes.
    #[inline(always)]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<Spot> {
        let number = self.part_of(hash);
        let part = self.parts.get(number)?;
        let place = part.table.find(local(hash, part.bits), is_it)?;
        Some(Spot { part: number as u32, place })
    }

    /// The handle at a spot.
    #[inline(always)]
    pub fn at(&self, spot: Spot) -> u32 {
        self.parts[spot.part as usize].table.at(spot.place)
    }

    /// Put another handle of the same key at a spot.
    #[inline(always)]
    pub fn replace(&mut self, spot: Spot, handle: u32) {
        self.parts[spot.part as usize].table.replace(spot.place, handle);
    }

    /// Add a handle that is not in the index yet. `hash_of` recomputes hashes when a table grows.
    #[inline]
    pub fn insert(&mut self, hash: u64, handle: u32, hash_of: impl Fn(u32) -> u64) {
        if self.parts.is_empty() {
            self.parts.reserve_exact(1);
            self.parts.push(Part { table: Table::new(), bits: 0 });
        }
        let mut number = self.part_of(hash);
        if self.parts[number].table.len() >= MOST && self.parts[number].bits < MOST_BITS {
            self.split(number, hash, &hash_of);
            number = self.part_of(hash);
        }
        let part = &mut self.parts[number];
        let (bits, before) = (part.bits, part.table.heap_bytes());
        part.table.insert(local(hash, bits), handle, |each| local(hash_of(each), bits));
        self.table_bytes = self.table_bytes + part.table.heap_bytes() - before;
        self.len += 1;
    }

    /// Take out the handle at a spot; `hash` must be the hash it was put in with.
    #[inline]
    pub fn remove(&mut self, spot: Spot, hash: u64) -> u32 {
        let part = &mut self.parts[spot.part as usize];
        self.len -= 1;
        part.table.remove(spot.place, local(hash, part.bits))
    }

    /// Give memory back when removals have left the table of `hash` mostly empty.
    #[inline]
    pub fn shrink(&mut self, hash: u64, hash_of: impl Fn(u32) -> u64) {
        if self.len == 0 {
            *self = Index::new();
            return;
        }
        let number = self.part_of(hash);
        let part = &mut self.parts[number];
        let (bits, before) = (part.bits, part.table.heap_bytes());
        part.table.shrink(|each| local(hash_of(each), bits));
        self.table_bytes = self.table_bytes + part.table.heap_bytes() - before;
    }

    /// Take one of the tables out, to give up what its handles name; `None` when none is left. Only
    /// for an index that is being torn down in small steps: nothing else works on it afterwards.
    pub fn take_part(&mut self) -> Option<Table> {
        let part = self.parts.pop()?;
        self.len -= part.table.len();
        self.table_bytes -= part.table.heap_bytes();
        Some(part.table)
    }

    /// All handles, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.parts.iter().flat_map(|part| part.table.iter())
    }

    /// Visit some handles at and after `cursor`, a point in the space of hashes; returns where to
    /// go on, or `None` at the end. Start at zero. What is in the index from the first call to the
    /// last is visited exactly once, whatever is added, removed, resized or split in between.
    pub fn scan(&self, cursor: u32, hash_of: impl Fn(u32) -> u64, visit: impl FnMut(u32)) -> Option<u32> {
        let part = self.parts.get(self.part_of(u64::from(cursor) << 32))?;
        let bits = part.bits;
        let width = 1u64 << (32 - bits);
        let base = u64::from(cursor) & !(width - 1);
        let inside = ((u64::from(cursor) - base) << bits) as u32;
        let next = match part.table.scan(inside, |each| local(hash_of(each), bits), visit) {
            // Inside a part hashes lie on multiples of 2^bits, so rounding up passes none.
            Some(next) => base + u64::from(next).div_ceil(1 << bits),
            None => base + width,
        };
        u32::try_from(next).ok()
    }

    /// One handle, each with the same chance. `random` gives random 64-bit numbers.
    pub fn random(&self, mut random: impl FnMut() -> u64) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut left = ((u128::from(random()) * self.len as u128) >> 64) as usize;
        for part in &self.parts {
            if left < part.table.len() {
                return part.table.random(random);
            }
            left -= part.table.len();
        }
        None
    }

    #[inline(always)]
    fn part_of(&self, hash: u64) -> usize {
        if self.bits == 0 {
            return 0;
        }
        self.directory[(hash >> (64 - self.bits)) as usize] as usize
    }

    /// Give the upper half of a part's range to a new part. `hash` is any hash of that range.
    #[cold]
    fn split(&mut self, number: usize, hash: u64, hash_of: &impl Fn(u32) -> u64) {
        let bits = self.parts[number].bits;
        let old = std::mem::take(&mut self.parts[number].table);
        let room = old.len() / 2 + old.len() / 16;
        let mut halves = [Table::with_capacity(room), Table::with_capacity(room)];
        for handle in old.iter() {
            let hash = hash_of(handle);
            let half = (hash >> (63 - bits)) as usize & 1;
            halves[half].insert(local(hash, bits + 1), handle, |each| local(hash_of(each), bits + 1));
        }
        let [lower, upper] = halves;
        self.table_bytes = self.table_bytes + lower.heap_bytes() + upper.heap_bytes() - old.heap_bytes();
        let newcomer = self.parts.len() as u32;
        self.parts[number] = Part { table: lower, bits: bits + 1 };
        self.parts.push(Part { table: upper, bits: bits + 1 });
        if self.directory.is_empty() {
            self.directory.push(0);
        }
        if self.bits == bits {
            self.directory = self.directory.iter().flat_map(|&part| [part, part]).collect();
            self.bits += 1;
        }
        let prefix = if bits == 0 { 0 } else { (hash >> (64 - bits)) as usize };
        let width = 1usize << (self.bits - bits);
        let first = prefix * width;
        self.directory[first + width / 2..first + width].fill(newcomer);
    }
}

/// A hash as a part sees it: without the bits that all of the part share, at the full width of its table.
#[inline(always)]
fn local(hash: u64, bits: u8) -> u64 {
    let place = ((hash >> 32) as u32) << bits;
    u64::from(place) << 32 | (hash & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn hash(handle: u32) -> u64 {
        let mixed = u64::from(handle).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
        let mixed = mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    fn toggle(index: &mut Index, handle: u32) {
        match index.find(hash(handle), |each| each == handle) {
            None => index.insert(hash(handle), handle, hash),
            Some(spot) => {
                assert_eq!(index.remove(spot, hash(handle)), handle);
                index.shrink(hash(handle), hash);
            }
        }
    }

    #[test]
    fn it_finds_everything_through_many_splits_and_empties_to_nothing() {
        let mut index = Index::new();
        let count = 200_000;
        (0..count).for_each(|handle| toggle(&mut index, handle));
        assert_eq!(index.len(), count as usize);
        assert!(index.parts.len() > 16);
        assert!(index.heap_bytes() < count as usize * 8, "{} bytes", index.heap_bytes());
        assert_eq!(index.iter().collect::<HashSet<_>>().len(), count as usize);
        for handle in 0..count + 1000 {
            let found = index.find(hash(handle), |each| each == handle);
            assert_eq!(found.map(|spot| index.at(spot)), (handle < count).then_some(handle));
        }
        let measured: usize = index.parts.iter().map(|part| part.table.heap_bytes()).sum();
        assert_eq!(index.table_bytes, measured);
        (0..count).for_each(|handle| toggle(&mut index, handle));
        assert!(index.is_empty());
        assert_eq!(index.heap_bytes(), 0);
    }

    #[test]
    fn random_reaches_every_part() {
        let mut index = Index::new();
        (0..60_000).for_each(|handle| toggle(&mut index, handle));
        let mut state = 0u32;
        let mut next = || {
            state += 1;
            hash(state)
        };
        let seen: HashSet<_> = (0..2000).filter_map(|_| index.random(&mut next)).map(|handle| handle / 6000).collect();
        assert_eq!(seen.len(), 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_scan_sees_what_stays_exactly_once_though_parts_split_and_shrink(
            staying in 1u32..30_000, passing in 1u32..60_000, stride in 1usize..600
        ) {
            let mut index = Index::new();
            (0..staying).for_each(|handle| toggle(&mut index, handle));
            let mut seen = Vec::new();
            let mut cursor = Some(0);
            let mut step = 0;
            while let Some(at) = cursor {
                cursor = index.scan(at, hash, |handle| if handle < staying { seen.push(handle) });
                step += 1;
                if step % stride == 0 {
                    (staying..staying + passing).for_each(|handle| toggle(&mut index, handle));
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..staying).collect::<Vec<_>>());
        }
    }
}
