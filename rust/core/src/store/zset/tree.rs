//! A large sorted set: members in blocks, an index to find them, a tree to order them.

use super::member::{self, Members};
use super::node::{inner, leaf};
use super::order::{Order, Target};
use super::{Lex, Outcome};
use crate::store::arena::{Arena, Handle};
use crate::store::hash::Seed;
use crate::store::index::{Index, Spot};
use crate::store::keyspace::Full;
use std::ops::Range;

/// See the module's page.
pub struct Tree {
    order: Order,
    members: Members,
    index: Index,
    pending: Vec<(Handle, usize)>, // Nodes and their heights, while the tree is being freed.
}

impl Tree {
    /// A tree of nothing.
    pub fn new(arena: &mut Arena) -> Self {
        Tree { order: Order::new(arena), members: Members::default(), index: Index::new(), pending: Vec::new() }
    }

    /// How many members there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    #[inline(always)]
    fn find(&self, arena: &Arena, hash: u64, member: &[u8]) -> Option<Spot> {
        self.index.find(hash, |handle| self.members.bytes(arena, handle) == member)
    }

    /// The score of a member.
    pub fn score(&self, arena: &Arena, seed: &Seed, member: &[u8]) -> Option<f64> {
        let spot = self.find(arena, seed.hash(member), member)?;
        Some(member::score(arena, self.index.at(spot)))
    }

    /// See [`super::Zset::update`].
    pub fn update(
        &mut self,
        arena: &mut Arena,
        seed: &Seed,
        member: &[u8],
        decide: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> Result<Outcome, Full> {
        let hash = seed.hash(member);
        if !arena.has_room() {
            return Err(Full);
        }
        let Some(spot) = self.find(arena, hash, member) else {
            let Some(score) = decide(None) else { return Ok(Outcome::Kept) };
            self.add(arena, seed, hash, member, score);
            return Ok(Outcome::Added);
        };
        let handle = self.index.at(spot);
        let old = member::score(arena, handle);
        match decide(Some(old)) {
            Some(new) if new != old => {
                self.order.change(arena, &self.members, handle, (old, new), member);
                member::set_score(arena, handle, new);
                Ok(Outcome::Changed)
            }
            _ => Ok(Outcome::Kept),
        }
    }

    /// Add a member that is known not to be there.
    pub fn add(&mut self, arena: &mut Arena, seed: &Seed, hash: u64, member: &[u8], score: f64) {
        let handle = self.members.add(arena, member, score);
        self.order.insert(arena, &self.members, handle, score, member);
        self.index.insert(hash, handle, |each| seed.hash(self.members.bytes(arena, each)));
    }

    /// Remove a member; returns its score.
    pub fn remove(&mut self, arena: &mut Arena, seed: &Seed, member: &[u8]) -> Option<f64> {
        let hash = seed.hash(member);
        let spot = self.find(arena, hash, member)?;
        let handle = self.index.remove(spot, hash);
        let score = member::score(arena, handle);
        self.order.remove(arena, &self.members, handle, score, member);
        self.members.free(arena, handle);
        self.index.shrink(hash, |each| seed.hash(self.members.bytes(arena, each)));
        Some(score)
    }

    /// Remove a range of ranks.
    pub fn remove_range(&mut self, arena: &mut Arena, seed: &Seed, ranks: Range<usize>) {
        let mut left = ranks.len();
        while left > 0 {
            let handles = self.order.remove_some(arena, ranks.start, left);
            left -= handles.len();
            for handle in handles {
                let hash = seed.hash(self.members.bytes(arena, handle));
                if let Some(spot) = self.index.find(hash, |each| each == handle) {
                    self.index.remove(spot, hash);
                }
                self.members.free(arena, handle);
                self.index.shrink(hash, |each| seed.hash(self.members.bytes(arena, each)));
            }
        }
    }

    /// Rank and score of a member.
    pub fn rank(&self, arena: &Arena, seed: &Seed, member: &[u8]) -> Option<(usize, f64)> {
        let score = self.score(arena, seed, member)?;
        Some((self.order.rank(arena, &self.members, Target::Entry(score, member)), score))
    }

    /// How many members have a lower score, or with `equal_too` the same one.
    pub fn count_below(&self, arena: &Arena, score: f64, equal_too: bool) -> usize {
        let target = if equal_too { Target::Behind(score) } else { Target::Before(score) };
        self.order.rank(arena, &self.members, target)
    }

    /// The ranks between two members, where all scores are the same.
    pub fn lex_ranks(&self, arena: &Arena, low: Lex<'_>, high: Lex<'_>) -> Range<usize> {
        let start = self.order.partition(arena, |each| !low.admits_above(self.members.bytes(arena, each)));
        let end = self.order.partition(arena, |each| high.admits_below(self.members.bytes(arena, each)));
        start..end
    }

    /// Where a walk from `rank` on begins: the leaf and the index in it.
    pub fn seek(&self, arena: &Arena, rank: usize) -> (Handle, usize) {
        let (path, index) = self.order.select(arena, rank);
        (path.leaf, index)
    }

    /// The member of a handle.
    #[inline(always)]
    pub fn member<'a>(&'a self, arena: &'a Arena, handle: Handle) -> &'a [u8] {
        self.members.bytes(arena, handle)
    }

    /// See [`super::Zset::scan`].
    pub fn scan(&self, arena: &Arena, seed: &Seed, cursor: u32, mut visit: impl FnMut(&[u8], f64)) -> Option<u32> {
        let hash = |handle| seed.hash(self.members.bytes(arena, handle));
        self.index.scan(cursor, hash, |handle| visit(self.members.bytes(arena, handle), member::score(arena, handle)))
    }

    /// Ask the processor for what a look-up of the hash reads first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Ask the processor for the member with this hash, after [`Tree::prefetch`].
    #[inline(always)]
    pub fn prefetch_member(&self, arena: &Arena, hash: u64) {
        if let Some(handle) = self.index.first_candidate(hash) {
            arena.prefetch(handle);
        }
    }

    /// See [`super::Zset::free_some`].
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        if self.pending.is_empty() {
            self.pending = self.order.dismantle();
        }
        let mut spent = 0;
        while spent < budget {
            let Some((node, height)) = self.pending.pop() else { return true };
            spent += 1;
            if height > 0 {
                let children = inner(arena, node).children();
                self.pending.extend(children.iter().map(|child| (u32::from_le_bytes(*child), height - 1)));
            } else {
                let copy = leaf(arena, node).copied();
                spent += copy.read().len();
                for handle in copy.read().handles() {
                    self.members.free(arena, u32::from_le_bytes(*handle));
                }
            }
            arena.free(node);
        }
        self.pending.is_empty()
    }

    /// Bytes on the ordinary heap.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Tree>() + self.members.heap_bytes() + self.index.heap_bytes()
    }

    /// Bytes of arena blocks.
    pub fn block_bytes(&self) -> usize {
        self.order.block_bytes() + self.members.block_bytes()
    }

    /// Check every promise the structure makes; for tests.
    #[cfg(test)]
    pub fn check(&self, arena: &Arena) {
        self.order.check(arena);
        assert_eq!(self.index.len(), self.len());
    }
}
