//! Sorted sets: members with scores, found by name, by score, by rank.
//!
//! A small set is one run of bytes ([`flat`]); a larger one has its members in arena blocks,
//! an index by name and a tree by order ([`tree`]). A set turns large once and stays so.
//! Ranges of every kind are ranges of ranks: finding one costs two descents, walking it the rest.

mod flat;
mod member;
mod node;
mod order;
#[cfg(test)]
mod tests;
mod tree;

use super::arena::{Arena, Handle};
use super::hash::Seed;
use super::keyspace::Full;
use flat::Flat;
use std::ops::Range;
use tree::Tree;

/// Up to where a set stays small.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members.
    pub entries: usize,
    /// Bytes of the longest member.
    pub value: usize,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The member is new.
    Added,
    /// The member has another score.
    Changed,
    /// All is as it was.
    Kept,
}

/// An end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The score.
    pub score: f64,
    /// Whether members of just this score are left out.
    pub exclusive: bool,
}

/// An end of a range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lex<'a> {
    /// Before every member.
    Least,
    /// Behind every member.
    Most,
    /// This member and what is beyond it.
    Including(&'a [u8]),
    /// What is beyond this member.
    Excluding(&'a [u8]),
}

impl Lex<'_> {
    /// As the lower end: whether nothing can lie between it and the upper end `high`.
    fn excludes(self, high: Lex<'_>) -> bool {
        match (self, high) {
            (Lex::Including(low), Lex::Including(high)) => low > high,
            (Lex::Including(low) | Lex::Excluding(low), Lex::Including(high) | Lex::Excluding(high)) => low >= high,
            (low, high) => low == Lex::Most || high == Lex::Least,
        }
    }

    /// As the lower end: whether `member` is in.
    #[inline]
    fn admits_above(self, member: &[u8]) -> bool {
        match self {
            Lex::Least => true,
            Lex::Most => false,
            Lex::Including(end) => member >= end,
            Lex::Excluding(end) => member > end,
        }
    }

    /// As the upper end: whether `member` is in.
    #[inline]
    fn admits_below(self, member: &[u8]) -> bool {
        match self {
            Lex::Least => false,
            Lex::Most => true,
            Lex::Including(end) => member <= end,
            Lex::Excluding(end) => member < end,
        }
    }
}

/// See the module's page. Before one is dropped its blocks must be freed: [`Zset::free_some`].
pub struct Zset(Body);

enum Body {
    Flat(Flat),
    Tree(Box<Tree>),
}

impl Default for Zset {
    fn default() -> Self {
        Zset::new()
    }
}

impl Zset {
    /// A set without members and without memory of its own.
    pub fn new() -> Self {
        Zset(Body::Flat(Flat::default()))
    }

    /// A set without members that is large from the start.
    pub fn large(arena: &mut Arena) -> Result<Self, Full> {
        if !arena.has_room() {
            return Err(Full);
        }
        Ok(Zset(Body::Tree(Box::new(Tree::new(arena)))))
    }

    /// How many members there are.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Body::Flat(flat) => flat.len(),
            Body::Tree(tree) => tree.len(),
        }
    }

    /// Whether there are no members.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name that OBJECT ENCODING gives this representation.
    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Body::Flat(_) => "listpack",
            Body::Tree(_) => "skiplist",
        }
    }

    /// Add a member or change its score. `decide` is told the score it has, and says the score it shall have,
    /// or `None` to leave all as it is. A score must never be NaN. As in Redis a small set knows no -0.
    #[inline]
    pub fn update(
        &mut self,
        arena: &mut Arena,
        seed: &Seed,
        limits: Limits,
        member: &[u8],
        decide: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> Result<Outcome, Full> {
        let flat = match &mut self.0 {
            Body::Tree(tree) => return tree.update(arena, seed, member, decide),
            Body::Flat(flat) => flat,
        };
        let small = |len| len < limits.entries && member.len() <= limits.value;
        flat.update(member, decide, small).or_else(|score| {
            if !arena.has_room() {
                return Err(Full);
            }
            let tree = self.grow(arena, seed);
            tree.add(arena, seed, seed.hash(member), member, score);
            Ok(Outcome::Added)
        })
    }

    /// Turn into the large representation.
    fn grow(&mut self, arena: &mut Arena, seed: &Seed) -> &mut Tree {
        if let Body::Flat(flat) = &self.0 {
            let mut tree = Box::new(Tree::new(arena));
            let mut at = 0;
            while let Some((member, score, next)) = flat.entry(at) {
                tree.add(arena, seed, seed.hash(member), member, score);
                at = next;
            }
            self.0 = Body::Tree(tree);
        }
        match &mut self.0 {
            Body::Tree(tree) => tree,
            Body::Flat(_) => unreachable!("it was turned into a tree just now"),
        }
    }

    /// Remove a member; returns its score.
    pub fn remove(&mut self, arena: &mut Arena, seed: &Seed, member: &[u8]) -> Option<f64> {
        match &mut self.0 {
            Body::Flat(flat) => flat.remove(member),
            Body::Tree(tree) => tree.remove(arena, seed, member),
        }
    }

    /// Remove a range of ranks.
    pub fn remove_range(&mut self, arena: &mut Arena, seed: &Seed, ranks: Range<usize>) {
        let ranks = self.clip(ranks);
        match &mut self.0 {
            Body::Flat(flat) => flat.remove_range(ranks),
            Body::Tree(tree) => tree.remove_range(arena, seed, ranks),
        }
    }

    /// The score of a member.
    #[inline]
    pub fn score(&self, arena: &Arena, seed: &Seed, member: &[u8]) -> Option<f64> {
        match &self.0 {
            Body::Flat(flat) => flat.score(member),
            Body::Tree(tree) => tree.score(arena, seed, member),
        }
    }

    /// How many members stand before this one, and its score.
    pub fn rank(&self, arena: &Arena, seed: &Seed, member: &[u8]) -> Option<(usize, f64)> {
        match &self.0 {
            Body::Flat(flat) => flat.rank(member),
            Body::Tree(tree) => tree.rank(arena, seed, member),
        }
    }

    /// The ranks of the members whose scores lie between two ends.
    pub fn score_ranks(&self, arena: &Arena, low: Bound, high: Bound) -> Range<usize> {
        let count_below = |score, equal_too| match &self.0 {
            Body::Flat(flat) => flat.count_below(score, equal_too),
            Body::Tree(tree) => tree.count_below(arena, score, equal_too),
        };
        self.clip(count_below(low.score, low.exclusive)..count_below(high.score, !high.exclusive))
    }

    /// The ranks of the members that lie between two ends, for a set whose scores are all the same.
    /// Where they are not, a small set answers as Redis does; the direction of reading matters then.
    pub fn lex_ranks(&self, arena: &Arena, low: Lex<'_>, high: Lex<'_>, backward: bool) -> Range<usize> {
        if low.excludes(high) {
            return 0..0;
        }
        self.clip(match &self.0 {
            Body::Flat(flat) => flat.lex_ranks(low, high, backward),
            Body::Tree(tree) => tree.lex_ranks(arena, low, high),
        })
    }

    /// The members of a range of ranks with their scores; `backward`: from the last to the first.
    pub fn entries<'a>(&'a self, arena: &'a Arena, ranks: Range<usize>, backward: bool) -> Entries<'a> {
        let ranks = self.clip(ranks);
        let left = ranks.len();
        let walk = match &self.0 {
            Body::Flat(flat) if backward => Walk::FlatBackward(flat, flat.offsets(ranks)),
            Body::Flat(flat) => Walk::Flat(flat, flat.offset(ranks.start)),
            Body::Tree(tree) => {
                let first = if backward { ranks.end.saturating_sub(1) } else { ranks.start };
                let (leaf, index) = if left == 0 { (0, 0) } else { tree.seek(arena, first) };
                Walk::Tree { tree, arena, leaf, index, backward }
            }
        };
        Entries { walk, left }
    }

    /// Visit some members and return where to go on, or `None` at the end; start at zero. What is in the set from
    /// the first call to the last is visited, whatever happens in between; a small set is visited at once.
    pub fn scan(&self, arena: &Arena, seed: &Seed, cursor: u32, mut visit: impl FnMut(&[u8], f64)) -> Option<u32> {
        match &self.0 {
            Body::Flat(_) => {
                self.entries(arena, 0..self.len(), false).for_each(|(member, score)| visit(member, score));
                None
            }
            Body::Tree(tree) => tree.scan(arena, seed, cursor, visit),
        }
    }

    /// Ask the processor for what a look-up of a member with this hash reads first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Body::Tree(tree) = &self.0 {
            tree.prefetch(hash);
        }
    }

    /// Some time after [`Zset::prefetch`]: ask the processor for the member itself.
    #[inline(always)]
    pub fn prefetch_member(&self, arena: &Arena, hash: u64) {
        if let Body::Tree(tree) = &self.0 {
            tree.prefetch_member(arena, hash);
        }
    }

    /// Give back about `budget` members, in steps of a tree node; `true` when nothing is left.
    /// From the first call on the set can only be freed further.
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        let done = match &mut self.0 {
            Body::Flat(_) => true,
            Body::Tree(tree) => tree.free_some(arena, budget),
        };
        if done {
            *self = Zset::new();
        }
        done
    }

    /// Free everything now.
    pub fn free(mut self, arena: &mut Arena) {
        while !self.free_some(arena, usize::MAX) {}
    }

    /// How much work freeing it is, in members.
    pub fn weight(&self) -> usize {
        match &self.0 {
            Body::Flat(_) => 1,
            Body::Tree(tree) => tree.len(),
        }
    }

    /// Bytes of memory behind the set, blocks in the arena included.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Body::Flat(flat) => flat.heap_bytes(),
            Body::Tree(tree) => tree.heap_bytes() + tree.block_bytes(),
        }
    }

    fn clip(&self, ranks: Range<usize>) -> Range<usize> {
        let end = ranks.end.min(self.len());
        ranks.start.min(end)..end
    }
}

/// See [`Zset::entries`].
pub struct Entries<'a> {
    walk: Walk<'a>,
    left: usize,
}

enum Walk<'a> {
    Flat(&'a Flat, usize),
    FlatBackward(&'a Flat, Vec<u32>),
    Tree { tree: &'a Tree, arena: &'a Arena, leaf: Handle, index: usize, backward: bool },
}

/// How many entries ahead of a walk members are fetched.
const AHEAD: usize = 6;

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<(&'a [u8], f64)> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.walk {
            Walk::Flat(flat, at) => {
                let (member, score, next) = flat.entry(*at)?;
                *at = next;
                Some((member, score))
            }
            Walk::FlatBackward(flat, offsets) => {
                let (member, score, _) = flat.entry(offsets.pop()? as usize)?;
                Some((member, score))
            }
            Walk::Tree { tree, arena, leaf, index, backward } => {
                let view = node::leaf(arena, *leaf);
                let (score, handle) = view.entry(*index);
                let ahead = if *backward { index.wrapping_sub(AHEAD) } else { *index + AHEAD };
                if let Some(handle) = view.handles().get(ahead) {
                    arena.prefetch(u32::from_le_bytes(*handle));
                }
                if self.left > 0 {
                    if *backward && *index == 0 {
                        *leaf = view.previous();
                        *index = node::leaf(arena, *leaf).len() - 1;
                    } else if *backward {
                        *index -= 1;
                    } else {
                        *index += 1;
                        if *index == view.len() {
                            *leaf = view.next();
                            *index = 0;
                        }
                    }
                }
                Some((tree.member(arena, handle), score))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Entries<'_> {}
