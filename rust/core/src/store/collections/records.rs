//! Byte strings found by their hash: the fields of a large hash with their values, the members of a large set.
//!
//! A record is one block of the arena: the key, then the value where records have one, each
//! with its length in front. What is too long for a block lies on the heap, and its block
//! says where. An owner must free its records before it is dropped: the arena is not ours.

use super::packed;
use crate::store::arena::{Arena, Handle, MAX_BLOCK};
use crate::store::hash::Seed;
use crate::store::index::{Index, Spot};
use crate::store::keyspace::Full;
use crate::store::random::Random;
use std::collections::HashSet;

/// See the module's page. `VALUES` tells whether records have values.
#[derive(Default)]
pub struct Records<const VALUES: bool> {
    index: Index,
    long: Vec<Box<[u8]>>, // Records longer than a block. An empty box: free to use.
    spare: Vec<u32>,
    record_bytes: usize, // In the arena and on the heap.
}

impl<const VALUES: bool> Records<VALUES> {
    /// How many records there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory, blocks in the arena included.
    pub fn bytes(&self) -> usize {
        self.record_bytes + self.index.heap_bytes() + self.long.capacity() * 16 + self.spare.capacity() * 4
    }

    /// Where the record of `key` lies, whose hash is `hash`.
    #[inline]
    pub fn find(&self, arena: &Arena, hash: u64, key: &[u8]) -> Option<Spot> {
        self.index.find(hash, |handle| packed::take(bytes_of(arena, &self.long, handle)).0 == key)
    }

    /// Ask the processor for what a look-up of this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Some time after [`Records::prefetch`]: ask for the record, two cache lines of it.
    #[inline]
    pub fn prefetch_record(&self, arena: &Arena, hash: u64) {
        if let Some(handle) = self.index.first_candidate(hash) {
            arena.prefetch(handle);
            arena.prefetch(handle + 16);
        }
    }

    /// The key and the value of the record at a spot.
    #[inline]
    pub fn at<'a>(&'a self, arena: &'a Arena, spot: Spot) -> (&'a [u8], &'a [u8]) {
        self.read(arena, self.index.at(spot))
    }

    /// Add a record whose key is not there yet.
    #[inline]
    pub fn insert(&mut self, arena: &mut Arena, seed: &Seed, hash: u64, key: &[u8], value: &[u8]) -> Result<(), Full> {
        let handle = self.write(arena, key, value)?;
        let (arena, long) = (&*arena, &self.long);
        self.index.insert(hash, handle, |handle| hash_of(arena, seed, long, handle));
        Ok(())
    }

    /// Give the record at a spot, whose key is `key`, another value: in its place when it fits.
    #[inline]
    pub fn update(&mut self, arena: &mut Arena, spot: Spot, key: &[u8], value: &[u8]) -> Result<(), Full> {
        let handle = self.index.at(spot);
        let key_size = packed::size(key.len());
        let size = key_size + packed::size(value.len());
        if arena.at(handle)[0] != packed::MARK && arena.fits(handle, size) {
            packed::put(&mut arena.at_mut(handle)[key_size..], value);
            return Ok(());
        }
        let newer = self.write(arena, key, value)?;
        self.index.replace(spot, newer);
        self.release(arena, handle);
        Ok(())
    }

    /// Take out the record at a spot, whose key has `hash`.
    #[inline]
    pub fn remove(&mut self, arena: &mut Arena, seed: &Seed, spot: Spot, hash: u64) {
        let handle = self.index.remove(spot, hash);
        self.release(arena, handle);
        let (arena, long) = (&*arena, &self.long);
        self.index.shrink(hash, |handle| hash_of(arena, seed, long, handle));
    }

    /// Take out one record, each with the same chance, after `visit` has seen its key.
    pub fn pop(&mut self, arena: &mut Arena, seed: &Seed, random: &mut Random, visit: impl FnOnce(&[u8])) -> bool {
        let Some(handle) = self.index.random(|| random.bits()) else { return false };
        let (key, _) = self.read(arena, handle);
        let hash = seed.hash(key);
        visit(key);
        if let Some(spot) = self.index.find(hash, |each| each == handle) {
            self.remove(arena, seed, spot, hash);
        }
        true
    }

    /// All records in no particular order.
    pub fn iter<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.index.iter().map(|handle| self.read(arena, handle))
    }

    /// Visit some records; see [`Index::scan`] for what is promised.
    pub fn scan(&self, arena: &Arena, seed: &Seed, cursor: u32, mut visit: impl FnMut(&[u8], &[u8])) -> Option<u32> {
        let visit = |handle| {
            let (key, value) = self.read(arena, handle);
            visit(key, value);
        };
        self.index.scan(cursor, |handle| hash_of(arena, seed, &self.long, handle), visit)
    }

    /// One record, each with the same chance.
    pub fn random<'a>(&'a self, arena: &'a Arena, random: &mut Random) -> Option<(&'a [u8], &'a [u8])> {
        self.index.random(|| random.bits()).map(|handle| self.read(arena, handle))
    }

    /// `count` different records (all when there are fewer), each choice with the same chance.
    pub fn sample<'a>(
        &'a self,
        arena: &'a Arena,
        count: usize,
        random: &mut Random,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let chosen = if count >= self.len() {
            self.index.iter().collect()
        } else if count > self.len() / 3 {
            // Drawing until all are different would take long: shuffle instead.
            let mut all: Vec<Handle> = self.index.iter().collect();
            for at in 0..count {
                let other = at + random.below(all.len() - at);
                all.swap(at, other);
            }
            all.truncate(count);
            all
        } else {
            let mut seen = HashSet::with_capacity(count);
            let mut chosen = Vec::with_capacity(count);
            while chosen.len() < count {
                let Some(handle) = self.index.random(|| random.bits()) else { break };
                if seen.insert(handle) {
                    chosen.push(handle);
                }
            }
            chosen
        };
        chosen.into_iter().map(|handle| self.read(arena, handle))
    }

    /// The same records again, in blocks of their own.
    pub fn duplicate(&self, arena: &mut Arena, seed: &Seed) -> Result<Self, Full> {
        let mut copy = Records::<VALUES>::default();
        for handle in self.index.iter() {
            let added = copy.adopt(arena, handle, long_number(arena.at(handle)).map(|number| &*self.long[number]));
            let Ok(handle) = added else {
                copy.free_some(arena, usize::MAX);
                return Err(Full);
            };
            let (arena, long) = (&*arena, &copy.long);
            let hash = hash_of(arena, seed, long, handle);
            copy.index.insert(hash, handle, |handle| hash_of(arena, seed, long, handle));
        }
        Ok(copy)
    }

    /// A block with the content of another, whose bytes on the heap are `long` if it has any.
    fn adopt(&mut self, arena: &mut Arena, handle: Handle, long: Option<&[u8]>) -> Result<Handle, Full> {
        let new = arena.alloc(arena.capacity(handle)).ok_or(Full)?;
        self.record_bytes += arena.capacity(new);
        match long {
            None => arena.copy(handle, new, arena.capacity(handle)),
            Some(bytes) => self.put_long(arena, new, bytes.into()),
        }
        Ok(new)
    }

    /// Give up to about `budget` records back to the arena; true when none is left. Between calls
    /// only this and `drop` are allowed.
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        let mut freed = 0;
        while freed < budget {
            let Some(table) = self.index.take_part() else { break };
            freed += table.len();
            table.iter().for_each(|handle| self.release(arena, handle));
        }
        self.index.is_empty()
    }

    #[inline(always)]
    fn read<'a>(&'a self, arena: &'a Arena, handle: Handle) -> (&'a [u8], &'a [u8]) {
        let (key, rest) = packed::take(bytes_of(arena, &self.long, handle));
        (key, if VALUES { packed::take(rest).0 } else { b"" })
    }

    #[inline]
    fn write(&mut self, arena: &mut Arena, key: &[u8], value: &[u8]) -> Result<Handle, Full> {
        let size = packed::size(key.len()) + if VALUES { packed::size(value.len()) } else { 0 };
        if size > MAX_BLOCK {
            return self.write_long(arena, size, key, value);
        }
        let handle = arena.alloc(size).ok_or(Full)?;
        self.record_bytes += arena.capacity(handle);
        put(&mut arena.at_mut(handle)[..size], key, VALUES.then_some(value));
        Ok(handle)
    }

    #[cold]
    fn write_long(&mut self, arena: &mut Arena, size: usize, key: &[u8], value: &[u8]) -> Result<Handle, Full> {
        let handle = arena.alloc(5).ok_or(Full)?;
        let mut bytes = vec![0; size].into_boxed_slice();
        put(&mut bytes, key, VALUES.then_some(value));
        self.record_bytes += arena.capacity(handle);
        self.put_long(arena, handle, bytes);
        Ok(handle)
    }

    /// Keep the bytes of a record on the heap and have its block say where.
    fn put_long(&mut self, arena: &mut Arena, handle: Handle, bytes: Box<[u8]>) {
        self.record_bytes += bytes.len();
        let number = if let Some(number) = self.spare.pop() {
            self.long[number as usize] = bytes;
            number
        } else {
            self.long.push(bytes);
            self.long.len() as u32 - 1
        };
        let block = arena.at_mut(handle);
        block[0] = packed::MARK;
        block[1..5].copy_from_slice(&number.to_le_bytes());
    }

    #[inline]
    fn release(&mut self, arena: &mut Arena, handle: Handle) {
        if let Some(number) = long_number(arena.at(handle)) {
            self.record_bytes -= std::mem::take(&mut self.long[number]).len();
            self.spare.push(number as u32);
            if self.spare.len() == self.long.len() {
                self.long = Vec::new();
                self.spare = Vec::new();
            }
        }
        self.record_bytes -= arena.capacity(handle);
        arena.free(handle);
    }
}

#[inline(always)]
fn put(bytes: &mut [u8], key: &[u8], value: Option<&[u8]>) {
    let rest = packed::put(bytes, key);
    if let Some(value) = value {
        packed::put(rest, value);
    }
}

/// The number of a record that lies on the heap.
#[inline(always)]
fn long_number(block: &[u8]) -> Option<usize> {
    (block[0] == packed::MARK).then(|| u32::from_le_bytes([block[1], block[2], block[3], block[4]]) as usize)
}

#[inline(always)]
fn bytes_of<'a>(arena: &'a Arena, long: &'a [Box<[u8]>], handle: Handle) -> &'a [u8] {
    let block = arena.at(handle);
    match long_number(block) {
        None => block,
        Some(number) => &long[number],
    }
}

#[inline]
fn hash_of(arena: &Arena, seed: &Seed, long: &[Box<[u8]>], handle: Handle) -> u64 {
    seed.hash(packed::take(bytes_of(arena, long, handle)).0)
}
