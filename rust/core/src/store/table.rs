//! A hash table of handles: six to seven bytes a key, one cache line a look-up.
//!
//! Twelve handles, their one-byte tags and an overflow counter fill one cache line, a
//! *group*. A key's home group is its hash scaled to the number of groups, so groups are
//! ordered by hash: a table of any size can be scanned by hash value, and a scan survives
//! every resize in between without missing or repeating a key. What does not fit at home
//! goes to the next group with room, and each group passed counts it, so removals leave
//! no tombstones. The table stores handles only; who calls knows keys and hashes.

const WIDTH: usize = 12;
const OVERFLOW: usize = WIDTH; // Index of the counter behind the tags.
const STUCK: u8 = u8::MAX; // A counter that reached the top no longer tells; it stays until the next rebuild.

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group {
    tags: [u8; 16],
    handles: [u32; WIDTH],
}

const EMPTY: Group = Group { tags: [0; 16], handles: [0; WIDTH] };

/// Where a handle lies, until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// See the module's page.
#[derive(Default)]
pub struct Table {
    groups: Box<[Group]>,
    len: u32,
}

impl Table {
    /// An empty table without memory of its own.
    pub fn new() -> Self {
        Table::default()
    }

    /// An empty table that takes `count` handles before it grows.
    pub fn with_capacity(count: usize) -> Self {
        let mut groups = count.div_ceil(WIDTH);
        while limit(groups) < count {
            groups += 1;
        }
        Table { groups: vec![EMPTY; groups].into_boxed_slice(), len: 0 }
    }

    /// How many handles the table holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the table holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of heap memory behind the table.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.groups)
    }

    /// Ask the processor for the home group of `hash`.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Some(group) = self.groups.get(home(hash, self.groups.len())) {
            crate::sys::prefetch(group);
        }
    }

    /// A handle that may be the one looked for, to be prefetched: the first whose tag matches.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        let group = self.groups.get(home(hash, self.groups.len()))?;
        let matching = matches(&group.tags, tag(hash));
        (matching != 0).then(|| group.handles[matching.trailing_zeros() as usize % WIDTH])
    }

    /// The place of the handle with this hash for which `is_it` says yes.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<Place> {
        let count = self.groups.len();
        if count == 0 {
            return None;
        }
        let tag = tag(hash);
        let mut at = home(hash, count);
        for _ in 0..count {
            let group = &self.groups[at];
            let mut matching = matches(&group.tags, tag);
            while matching != 0 {
                let index = matching.trailing_zeros() as usize % WIDTH;
                if is_it(group.handles[index]) {
                    return Some(Place((at * WIDTH + index) as u32));
                }
                matching &= matching - 1;
            }
            if group.tags[OVERFLOW] == 0 {
                return None;
            }
            at += 1;
            if at == count {
                at = 0;
            }
        }
        None
    }

    /// The handle at a place.
    #[inline(always)]
    pub fn at(&self, place: Place) -> u32 {
        self.groups[place.0 as usize / WIDTH].handles[place.0 as usize % WIDTH]
    }

    /// Put another handle of the same key at a place.
    #[inline(always)]
    pub fn replace(&mut self, place: Place, handle: u32) {
        self.groups[place.0 as usize / WIDTH].handles[place.0 as usize % WIDTH] = handle;
    }

    /// Add a handle that is not in the table yet. `hash_of` recomputes hashes when the table grows.
    #[inline]
    pub fn insert(&mut self, hash: u64, handle: u32, hash_of: impl Fn(u32) -> u64) -> Place {
        if self.len as usize >= limit(self.groups.len()) {
            let now = self.groups.len();
            self.rebuild(now + now / 4 + 1, &hash_of);
        }
        self.len += 1;
        self.place(hash, handle)
    }

    fn place(&mut self, hash: u64, handle: u32) -> Place {
        let count = self.groups.len();
        let mut at = home(hash, count);
        loop {
            let group = &mut self.groups[at];
            let free = matches(&group.tags, 0);
            if free != 0 {
                let index = free.trailing_zeros() as usize % WIDTH;
                group.tags[index] = tag(hash);
                group.handles[index] = handle;
                return Place((at * WIDTH + index) as u32);
            }
            group.tags[OVERFLOW] = group.tags[OVERFLOW].saturating_add(1);
            at += 1;
            if at == count {
                at = 0;
            }
        }
    }

    /// Take out the handle at a place; `hash` must be the hash it was put in with.
    #[inline]
    pub fn remove(&mut self, place: Place, hash: u64) -> u32 {
        let count = self.groups.len();
        let group = place.0 as usize / WIDTH;
        let mut at = home(hash, count);
        while at != group {
            let overflow = &mut self.groups[at].tags[OVERFLOW];
            if *overflow != STUCK {
                *overflow -= 1;
            }
            at += 1;
            if at == count {
                at = 0;
            }
        }
        self.groups[group].tags[place.0 as usize % WIDTH] = 0;
        self.len -= 1;
        self.groups[group].handles[place.0 as usize % WIDTH]
    }

    /// Give memory back when removals have left the table mostly empty.
    #[inline]
    pub fn shrink(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.len == 0 {
            self.groups = Box::new([]);
        } else if self.groups.len() > 2 && (self.len as usize) < limit(self.groups.len()) / 4 {
            self.rebuild(self.len as usize / 8 + 1, &hash_of);
        }
    }

    #[cold]
    fn rebuild(&mut self, count: usize, hash_of: &impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.groups, vec![EMPTY; count].into_boxed_slice());
        for group in &old {
            for index in 0..WIDTH {
                if group.tags[index] != 0 {
                    self.place(hash_of(group.handles[index]), group.handles[index]);
                }
            }
        }
    }

    /// All handles, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.groups
            .iter()
            .flat_map(|group| (0..WIDTH).filter(|&index| group.tags[index] != 0).map(|index| group.handles[index]))
    }

    /// Visit some handles at and after `cursor`, a point in the space of hashes; returns where to
    /// go on, or `None` at the end. Start at zero. What is in the table from the first call to the
    /// last is visited exactly once, whatever is added, removed or resized in between.
    pub fn scan(&self, cursor: u32, hash_of: impl Fn(u32) -> u64, mut visit: impl FnMut(u32)) -> Option<u32> {
        let count = self.groups.len();
        if count == 0 {
            return None;
        }
        let start = ((u64::from(cursor) * count as u64) >> 32) as usize;
        let mut at = start;
        for _ in 0..count {
            let group = &self.groups[at];
            for index in 0..WIDTH {
                if group.tags[index] != 0 {
                    let hash = hash_of(group.handles[index]);
                    if home(hash, count) == start && (hash >> 32) as u32 >= cursor {
                        visit(group.handles[index]);
                    }
                }
            }
            if group.tags[OVERFLOW] == 0 {
                break;
            }
            at = (at + 1) % count;
        }
        let next = (((start as u64 + 1) << 32).div_ceil(count as u64)) as u32;
        (start + 1 < count).then_some(next)
    }

    /// One handle, each with the same chance. `random` gives random 64-bit numbers.
    pub fn random(&self, mut random: impl FnMut() -> u64) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        loop {
            let pick = random();
            let group = &self.groups[((pick >> 32) as usize * self.groups.len()) >> 32];
            let index = (((pick & 0xFFFF_FFFF) * WIDTH as u64) >> 32) as usize;
            if group.tags[index] != 0 {
                return Some(group.handles[index]);
            }
        }
    }
}

/// Most handles that `count` groups take before the table grows: a single group is filled, more keep an eighth free.
#[inline]
fn limit(count: usize) -> usize {
    if count == 1 { WIDTH } else { count * WIDTH - count * WIDTH / 8 }
}

#[inline(always)]
fn home(hash: u64, count: usize) -> usize {
    (((hash >> 32) * count as u64) >> 32) as usize
}

#[inline(always)]
fn tag(hash: u64) -> u8 {
    hash as u8 | 0x80
}

/// One bit for each of the twelve tags that equals `tag`.
#[inline(always)]
fn matches(tags: &[u8; 16], tag: u8) -> u32 {
    let mut bits = 0;
    for (index, &each) in tags.iter().enumerate() {
        bits |= u32::from(each == tag) << index;
    }
    bits & 0xFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn hash(handle: u32) -> u64 {
        u64::from(handle).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    fn contains(table: &Table, handle: u32) -> Option<Place> {
        table.find(hash(handle), |each| each == handle)
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..400), 0..2000)) {
            let mut table = Table::new();
            let mut model = HashSet::new();
            for (add, handle) in steps {
                match (add, contains(&table, handle)) {
                    (true, None) => { let _ = table.insert(hash(handle), handle, hash); model.insert(handle); }
                    (false, Some(place)) => {
                        prop_assert_eq!(table.remove(place, hash(handle)), handle);
                        table.shrink(hash);
                        model.remove(&handle);
                    }
                    (_, found) => prop_assert_eq!(found.is_some(), model.contains(&handle)),
                }
                prop_assert_eq!(table.len(), model.len());
            }
            prop_assert_eq!(table.iter().collect::<HashSet<_>>(), model);
        }

        #[test]
        fn a_scan_sees_what_stays_exactly_once_though_the_table_grows_and_shrinks(
            staying in 1u32..600, passing in 0u32..3000, seed in any::<u64>()
        ) {
            let mut table = Table::new();
            for handle in 0..staying { let _ = table.insert(hash(handle), handle, hash); }
            let mut seen = Vec::new();
            let mut cursor = Some(0);
            let mut step = seed;
            while let Some(at) = cursor {
                cursor = table.scan(at, hash, |handle| if handle < staying { seen.push(handle) });
                step = step.wrapping_mul(6364136223846793005).wrapping_add(1);
                for handle in staying..staying + (step >> 40) as u32 % (passing + 1) {
                    match contains(&table, handle) {
                        None => { let _ = table.insert(hash(handle), handle, hash); }
                        Some(place) => { table.remove(place, hash(handle)); table.shrink(hash); }
                    }
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..staying).collect::<Vec<_>>());
        }
    }

    #[test]
    fn random_reaches_every_handle() {
        let mut table = Table::new();
        for handle in 0..50 {
            let _ = table.insert(hash(handle), handle, hash);
        }
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            hash(state as u32) ^ state.rotate_left(17)
        };
        let seen: HashSet<_> = (0..5000).filter_map(|_| table.random(&mut next)).collect();
        assert_eq!(seen.len(), 50);
    }
}
