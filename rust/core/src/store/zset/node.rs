//! The two kinds of tree nodes, as bytes in arena blocks.
//!
//! Columns, not records: a search reads scores and nothing else, and the processor compares
//! several at a time. A leaf holds the members of neighbouring scores and knows the leaves
//! beside it; an inner node holds, for each child, its first entry and how many entries are below.

use super::member::allocate;
use crate::store::arena::{Arena, Handle, NIL};

/// Most entries of a leaf: with its links it fills twelve cache lines.
pub const LEAF_MOST: usize = 63;
/// Most children of an inner node.
pub const INNER_MOST: usize = 50;

const LEAF_BYTES: usize = 768;
const LEAF_HANDLES: usize = LEAF_MOST * 8;
const LEAF_LINKS: usize = LEAF_HANDLES + LEAF_MOST * 4;

const INNER_BYTES: usize = 1024;
const INNER_FIRSTS: usize = INNER_MOST * 8;
const INNER_CHILDREN: usize = INNER_FIRSTS + INNER_MOST * 4;
const INNER_COUNTS: usize = INNER_CHILDREN + INNER_MOST * 4;
const INNER_LEN: usize = INNER_COUNTS + INNER_MOST * 4;

/// A column of scores.
pub type Scores = [[u8; 8]];
/// A column of handles or counts.
pub type Words = [[u8; 4]];

/// A child as its parent knows it.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// Score of the first entry below.
    pub score: f64,
    /// Member of the first entry below.
    pub first: Handle,
    /// The node.
    pub node: Handle,
    /// Entries below.
    pub count: u32,
}

/// How many scores are less than `score`. Scores are in order; reading all beats deciding where to stop.
#[inline(always)]
pub fn below(scores: &Scores, score: f64) -> usize {
    scores.iter().map(|each| u64::from(f64::from_le_bytes(*each) < score)).sum::<u64>() as usize
}

/// How many scores are less than `score` or equal to it.
#[inline(always)]
pub fn up_to(scores: &Scores, score: f64) -> usize {
    scores.iter().map(|each| u64::from(f64::from_le_bytes(*each) <= score)).sum::<u64>() as usize
}

/// A leaf, to read.
#[derive(Clone, Copy)]
pub struct Leaf<'a>(&'a [u8; LEAF_BYTES]);

/// A leaf, to change.
pub struct LeafMut<'a>(&'a mut [u8; LEAF_BYTES]);

/// The leaf at `at`.
#[inline(always)]
pub fn leaf(arena: &Arena, at: Handle) -> Leaf<'_> {
    Leaf(arena.at(at).first_chunk().expect("a leaf's block"))
}

/// The leaf at `at`, to change.
#[inline(always)]
pub fn leaf_mut(arena: &mut Arena, at: Handle) -> LeafMut<'_> {
    LeafMut(arena.at_mut(at).first_chunk_mut().expect("a leaf's block"))
}

/// A leaf without entries and neighbours.
pub fn new_leaf(arena: &mut Arena) -> Handle {
    let at = allocate(arena, LEAF_BYTES);
    let mut leaf = leaf_mut(arena, at);
    leaf.set_len(0);
    leaf.set_links(NIL, NIL);
    at
}

/// Ask the processor for the lines of a leaf that a search reads.
#[inline(always)]
pub fn prefetch_leaf(arena: &Arena, at: Handle) {
    for line in [0, 1, 2, 3, 4, 5, 11] {
        arena.prefetch(at + line * 16);
    }
}

impl<'a> Leaf<'a> {
    /// How many entries it has.
    #[inline(always)]
    pub fn len(self) -> usize {
        usize::from(u16::from_le_bytes([self.0[LEAF_BYTES - 4], self.0[LEAF_BYTES - 3]])).min(LEAF_MOST)
    }

    /// The scores, in order.
    #[inline(always)]
    pub fn scores(self) -> &'a Scores {
        &self.0[..LEAF_HANDLES].as_chunks().0[..self.len()]
    }

    /// The members.
    #[inline(always)]
    pub fn handles(self) -> &'a Words {
        &self.0[LEAF_HANDLES..LEAF_LINKS].as_chunks().0[..self.len()]
    }

    /// One entry.
    #[inline(always)]
    pub fn entry(self, index: usize) -> (f64, Handle) {
        (f64::from_le_bytes(self.scores()[index]), u32::from_le_bytes(self.handles()[index]))
    }

    /// The leaf before this one.
    #[inline]
    pub fn previous(self) -> Handle {
        word(self.0, LEAF_LINKS)
    }

    /// The leaf behind this one.
    #[inline]
    pub fn next(self) -> Handle {
        word(self.0, LEAF_LINKS + 4)
    }

    /// A copy that outlives changes to the arena.
    pub fn copied(self) -> LeafCopy {
        LeafCopy(*self.0)
    }
}

/// See [`Leaf::copied`].
pub struct LeafCopy([u8; LEAF_BYTES]);

impl LeafCopy {
    /// The copy, to read.
    pub fn read(&self) -> Leaf<'_> {
        Leaf(&self.0)
    }
}

impl LeafMut<'_> {
    /// The leaf, to read.
    #[inline(always)]
    pub fn read(&self) -> Leaf<'_> {
        Leaf(self.0)
    }

    /// Change how many entries count.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) {
        self.0[LEAF_BYTES - 4..LEAF_BYTES - 2].copy_from_slice(&(len as u16).to_le_bytes());
    }

    /// Change both neighbours.
    pub fn set_links(&mut self, previous: Handle, next: Handle) {
        self.set_previous(previous);
        self.set_next(next);
    }

    /// Change the neighbour before.
    pub fn set_previous(&mut self, previous: Handle) {
        set_word(self.0, LEAF_LINKS, previous);
    }

    /// Change the neighbour behind.
    pub fn set_next(&mut self, next: Handle) {
        set_word(self.0, LEAF_LINKS + 4, next);
    }

    #[inline(always)]
    fn columns(&mut self) -> (&mut [[u8; 8]; LEAF_MOST], &mut [[u8; 4]; LEAF_MOST]) {
        let (scores, rest) = self.0.split_at_mut(LEAF_HANDLES);
        let scores = scores.as_chunks_mut().0.first_chunk_mut().expect("the layout");
        let handles = rest.as_chunks_mut().0.first_chunk_mut().expect("the layout");
        (scores, handles)
    }

    /// Put an entry at `index`. There must be room.
    #[inline(always)]
    pub fn insert(&mut self, index: usize, score: f64, handle: Handle) {
        let len = self.read().len();
        let (scores, handles) = self.columns();
        scores.copy_within(index..len, index + 1);
        handles.copy_within(index..len, index + 1);
        scores[index] = score.to_le_bytes();
        handles[index] = handle.to_le_bytes();
        self.set_len(len + 1);
    }

    /// Take out `count` entries from `index` on.
    #[inline(always)]
    pub fn remove(&mut self, index: usize, count: usize) {
        let len = self.read().len();
        let (scores, handles) = self.columns();
        scores.copy_within(index + count..len, index);
        handles.copy_within(index + count..len, index);
        self.set_len(len - count);
    }

    /// Move the entry at `from` to stand before the one that is now at `before`, with a new score.
    #[inline(always)]
    pub fn shift(&mut self, from: usize, before: usize, score: f64) {
        let (scores, handles) = self.columns();
        let handle = handles[from];
        let to = if before > from {
            scores.copy_within(from + 1..before, from);
            handles.copy_within(from + 1..before, from);
            before - 1
        } else {
            scores.copy_within(before..from, before + 1);
            handles.copy_within(before..from, before + 1);
            before
        };
        scores[to] = score.to_le_bytes();
        handles[to] = handle;
    }

    /// Add entries of another leaf at the end. There must be room.
    pub fn append(&mut self, other: Leaf<'_>, from: usize) {
        let (len, more) = (self.read().len(), other.len() - from);
        let (scores, handles) = self.columns();
        scores[len..len + more].copy_from_slice(&other.scores()[from..]);
        handles[len..len + more].copy_from_slice(&other.handles()[from..]);
        self.set_len(len + more);
    }
}

/// An inner node, to read.
#[derive(Clone, Copy)]
pub struct Inner<'a>(&'a [u8; INNER_BYTES]);

/// An inner node, to change.
pub struct InnerMut<'a>(&'a mut [u8; INNER_BYTES]);

/// The inner node at `at`.
#[inline(always)]
pub fn inner(arena: &Arena, at: Handle) -> Inner<'_> {
    Inner(arena.at(at).first_chunk().expect("an inner node's block"))
}

/// The inner node at `at`, to change.
#[inline(always)]
pub fn inner_mut(arena: &mut Arena, at: Handle) -> InnerMut<'_> {
    InnerMut(arena.at_mut(at).first_chunk_mut().expect("an inner node's block"))
}

/// An inner node without children.
pub fn new_inner(arena: &mut Arena) -> Handle {
    let at = allocate(arena, INNER_BYTES);
    inner_mut(arena, at).set_len(0);
    at
}

impl<'a> Inner<'a> {
    /// How many children it has.
    #[inline(always)]
    pub fn len(self) -> usize {
        usize::from(u16::from_le_bytes([self.0[INNER_LEN], self.0[INNER_LEN + 1]])).min(INNER_MOST)
    }

    /// The scores of the children's first entries.
    #[inline(always)]
    pub fn scores(self) -> &'a Scores {
        &self.0[..INNER_FIRSTS].as_chunks().0[..self.len()]
    }

    /// The members of the children's first entries.
    #[inline(always)]
    pub fn firsts(self) -> &'a Words {
        &self.0[INNER_FIRSTS..INNER_CHILDREN].as_chunks().0[..self.len()]
    }

    /// The children.
    #[inline(always)]
    pub fn children(self) -> &'a Words {
        &self.0[INNER_CHILDREN..INNER_COUNTS].as_chunks().0[..self.len()]
    }

    /// How many entries are below each child.
    #[inline(always)]
    pub fn counts(self) -> &'a Words {
        &self.0[INNER_COUNTS..INNER_LEN].as_chunks().0[..self.len()]
    }

    /// How many entries are below all children before `index`.
    #[inline(always)]
    pub fn count_before(self, index: usize) -> usize {
        self.counts()[..index].iter().map(|each| u32::from_le_bytes(*each)).sum::<u32>() as usize
    }

    /// One child.
    #[inline(always)]
    pub fn child(self, index: usize) -> Handle {
        u32::from_le_bytes(self.children()[index])
    }

    /// All that is known of one child.
    pub fn whole(self, index: usize) -> Child {
        Child {
            score: f64::from_le_bytes(self.scores()[index]),
            first: u32::from_le_bytes(self.firsts()[index]),
            node: self.child(index),
            count: u32::from_le_bytes(self.counts()[index]),
        }
    }
}

impl InnerMut<'_> {
    /// The node, to read.
    #[inline(always)]
    pub fn read(&self) -> Inner<'_> {
        Inner(self.0)
    }

    /// Change how many children count.
    pub fn set_len(&mut self, len: usize) {
        self.0[INNER_LEN..INNER_LEN + 2].copy_from_slice(&(len as u16).to_le_bytes());
    }

    /// Add to the count of a child; wraps, so that minus one can be added too.
    #[inline(always)]
    pub fn add_count(&mut self, index: usize, more: u32) {
        let at = INNER_COUNTS + index * 4;
        let count = word(self.0, at).wrapping_add(more);
        set_word(self.0, at, count);
    }

    /// Say anew which entry is the first below a child.
    pub fn set_first(&mut self, index: usize, score: f64, first: Handle) {
        self.0[index * 8..index * 8 + 8].copy_from_slice(&score.to_le_bytes());
        set_word(self.0, INNER_FIRSTS + index * 4, first);
    }

    fn set(&mut self, index: usize, child: Child) {
        self.set_first(index, child.score, child.first);
        set_word(self.0, INNER_CHILDREN + index * 4, child.node);
        set_word(self.0, INNER_COUNTS + index * 4, child.count);
    }

    fn move_children(&mut self, from: usize, to: usize, count: usize) {
        self.0.copy_within(from * 8..(from + count) * 8, to * 8);
        for column in [INNER_FIRSTS, INNER_CHILDREN, INNER_COUNTS] {
            self.0.copy_within(column + from * 4..column + (from + count) * 4, column + to * 4);
        }
    }

    /// Put a child at `index`. There must be room.
    pub fn insert(&mut self, index: usize, child: Child) {
        let len = self.read().len();
        self.move_children(index, index + 1, len - index);
        self.set(index, child);
        self.set_len(len + 1);
    }

    /// Take out the child at `index`.
    pub fn remove(&mut self, index: usize) {
        let len = self.read().len();
        self.move_children(index + 1, index, len - index - 1);
        self.set_len(len - 1);
    }

    /// Add a child at the end.
    pub fn push(&mut self, child: Child) {
        let len = self.read().len();
        self.set_len(len + 1);
        self.set(len, child);
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

#[inline(always)]
fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
