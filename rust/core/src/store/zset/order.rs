//! Members in the order of score and bytes: a B+ tree that counts.
//!
//! It holds scores and handles, and looks at a member's bytes only where scores tie. Every inner
//! node knows how many entries lie below each child, so ranks cost one descent; leaves are linked,
//! so ranges cost one descent and then a walk.

use super::member::Members;
use super::node::{
    Child, INNER_MOST, LEAF_MOST, below, inner, inner_mut, leaf, leaf_mut, new_inner, new_leaf, prefetch_leaf, up_to,
};
use crate::store::arena::{Arena, Handle, NIL};

/// Nodes below this many entries look for a neighbour to merge with.
const LEAF_FEW: usize = LEAF_MOST / 3;
const INNER_FEW: usize = INNER_MOST / 3;
/// Two nodes merge when the result leaves some room, or the next insertion would split it again.
const LEAF_MERGED: usize = LEAF_MOST * 4 / 5;
const INNER_MERGED: usize = INNER_MOST * 4 / 5;
/// Handles are 32 bits and nodes at least a quarter full: no tree gets higher.
const HIGHEST: usize = 12;

/// The way from the root to a leaf: each inner node and which child was taken.
#[derive(Clone, Copy)]
pub struct Path {
    steps: [(Handle, u32); HIGHEST],
    /// Where it ends.
    pub leaf: Handle,
}

/// What a search compares with.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Before every entry of this score.
    Before(f64),
    /// Behind every entry of this score.
    Behind(f64),
    /// Exactly this entry, or where it would be.
    Entry(f64, &'a [u8]),
}

/// See the module's page.
pub struct Order {
    root: Handle,
    height: usize, // Inner nodes on every way from the root to a leaf.
    len: usize,
    nodes: usize, // Bytes of the blocks of all nodes.
}

impl Order {
    /// An order of nothing: one empty leaf.
    pub fn new(arena: &mut Arena) -> Self {
        let root = new_leaf(arena);
        Order { root, height: 0, len: 0, nodes: arena.capacity(root) }
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of arena blocks.
    pub fn block_bytes(&self) -> usize {
        self.nodes
    }

    /// Find the leaf that has the target, or would.
    #[inline]
    pub fn descend(&self, arena: &Arena, members: &Members, target: Target<'_>) -> Path {
        let mut path = Path { steps: [(NIL, 0); HIGHEST], leaf: NIL };
        let mut node = self.root;
        for step in &mut path.steps[..self.height] {
            let view = inner(arena, node);
            let place = place(arena, members, view.scores(), target, |index| u32::from_le_bytes(view.firsts()[index]));
            // The child whose first entry is the last one not behind the target.
            let found = match target {
                Target::Entry(score, member) => view.scores().get(place).is_some_and(|first| {
                    f64::from_le_bytes(*first) == score
                        && members.bytes(arena, u32::from_le_bytes(view.firsts()[place])) == member
                }),
                _ => false,
            };
            let index = if found { place } else { place.saturating_sub(1) };
            *step = (node, index as u32);
            node = view.child(index);
        }
        path.leaf = node;
        path
    }

    /// Where in its leaf the target is, or would be inserted.
    #[inline]
    fn place_in_leaf(&self, arena: &Arena, members: &Members, at: Handle, target: Target<'_>) -> usize {
        let view = leaf(arena, at);
        place(arena, members, view.scores(), target, |index| u32::from_le_bytes(view.handles()[index]))
    }

    /// Add an entry that is not there yet.
    pub fn insert(&mut self, arena: &mut Arena, members: &Members, handle: Handle, score: f64, member: &[u8]) {
        let target = Target::Entry(score, member);
        let path = self.descend(arena, members, target);
        let index = self.place_in_leaf(arena, members, path.leaf, target);
        self.insert_at(arena, &path, index, score, handle);
    }

    /// Give an entry another score.
    pub fn change(&mut self, arena: &mut Arena, members: &Members, handle: Handle, scores: (f64, f64), member: &[u8]) {
        let (old, new) = scores;
        let from = self.descend(arena, members, Target::Entry(old, member));
        prefetch_leaf(arena, from.leaf);
        let to = self.descend(arena, members, Target::Entry(new, member));
        prefetch_leaf(arena, to.leaf);
        let index = self.index_of(arena, from.leaf, old, handle);
        if from.leaf == to.leaf {
            let before = self.place_in_leaf(arena, members, to.leaf, Target::Entry(new, member));
            leaf_mut(arena, to.leaf).shift(index, before, new);
            if index == 0 || before == 0 {
                self.tell_first(arena, &to);
            }
            return;
        }
        if index > 0 && leaf(arena, from.leaf).len() > LEAF_FEW {
            // Nothing is merged and no first entry changes, so the other way stays right.
            leaf_mut(arena, from.leaf).remove(index, 1);
            self.count_along(arena, &from, 1u32.wrapping_neg());
            self.len -= 1;
            let index = self.place_in_leaf(arena, members, to.leaf, Target::Entry(new, member));
            self.insert_at(arena, &to, index, new, handle);
            return;
        }
        self.remove_at(arena, &from, index, 1);
        self.insert(arena, members, handle, new, member);
    }

    /// Remove one entry.
    pub fn remove(&mut self, arena: &mut Arena, members: &Members, handle: Handle, score: f64, member: &[u8]) {
        let path = self.descend(arena, members, Target::Entry(score, member));
        let index = self.index_of(arena, path.leaf, score, handle);
        self.remove_at(arena, &path, index, 1);
    }

    /// Remove entries from a rank on, at most `most` and no more than one leaf has; returns them.
    pub fn remove_some(&mut self, arena: &mut Arena, rank: usize, most: usize) -> smallvec::SmallVec<[Handle; 64]> {
        let (path, index) = self.select(arena, rank);
        let view = leaf(arena, path.leaf);
        let count = most.min(view.len() - index);
        let handles = view.handles()[index..index + count].iter().map(|handle| u32::from_le_bytes(*handle)).collect();
        self.remove_at(arena, &path, index, count);
        handles
    }

    /// How many entries stand before the target.
    pub fn rank(&self, arena: &Arena, members: &Members, target: Target<'_>) -> usize {
        let path = self.descend(arena, members, target);
        let before: usize = path.steps[..self.height]
            .iter()
            .map(|&(node, index)| inner(arena, node).count_before(index as usize))
            .sum();
        before + self.place_in_leaf(arena, members, path.leaf, target)
    }

    /// How many entries, in an order where `before` says yes first and then no, get a yes.
    pub fn partition(&self, arena: &Arena, mut before: impl FnMut(Handle) -> bool) -> usize {
        let mut node = self.root;
        let mut rank = 0;
        for _ in 0..self.height {
            let view = inner(arena, node);
            let index = view.firsts().partition_point(|first| before(u32::from_le_bytes(*first))).saturating_sub(1);
            rank += view.count_before(index);
            node = view.child(index);
        }
        rank + leaf(arena, node).handles().partition_point(|handle| before(u32::from_le_bytes(*handle)))
    }

    /// The way to the entry of a rank, and its index in the leaf. The rank must be one there is.
    pub fn select(&self, arena: &Arena, rank: usize) -> (Path, usize) {
        let mut path = Path { steps: [(NIL, 0); HIGHEST], leaf: NIL };
        let mut node = self.root;
        let mut left = rank;
        for step in &mut path.steps[..self.height] {
            let view = inner(arena, node);
            let mut index = 0;
            for count in view.counts() {
                let count = u32::from_le_bytes(*count) as usize;
                if left < count {
                    break;
                }
                left -= count;
                index += 1;
            }
            *step = (node, index as u32);
            node = view.child(index);
        }
        path.leaf = node;
        (path, left)
    }

    /// Take the tree apart: the nodes still to be visited. See `Tree::free_some`.
    pub fn dismantle(&self) -> Vec<(Handle, usize)> {
        vec![(self.root, self.height)]
    }

    fn index_of(&self, arena: &Arena, at: Handle, score: f64, handle: Handle) -> usize {
        let view = leaf(arena, at);
        let start = below(view.scores(), score);
        let found = view.handles()[start..].iter().position(|each| u32::from_le_bytes(*each) == handle);
        start + found.expect("a member's score in its block leads to its leaf")
    }

    fn count_along(&self, arena: &mut Arena, path: &Path, more: u32) {
        for &(node, index) in &path.steps[..self.height] {
            inner_mut(arena, node).add_count(index as usize, more);
        }
    }

    /// Tell the nodes above which entry is now the first of the leaf.
    fn tell_first(&self, arena: &mut Arena, path: &Path) {
        let (score, first) = leaf(arena, path.leaf).entry(0);
        self.tell(arena, path, self.height, score, first);
    }

    fn tell(&self, arena: &mut Arena, path: &Path, depth: usize, score: f64, first: Handle) {
        for &(node, index) in path.steps[..depth].iter().rev() {
            inner_mut(arena, node).set_first(index as usize, score, first);
            if index != 0 {
                break;
            }
        }
    }

    #[inline]
    fn insert_at(&mut self, arena: &mut Arena, path: &Path, index: usize, score: f64, handle: Handle) {
        self.count_along(arena, path, 1);
        self.len += 1;
        let mut view = leaf_mut(arena, path.leaf);
        if view.read().len() == LEAF_MOST {
            self.split_leaf(arena, path, index, score, handle);
            return;
        }
        view.insert(index, score, handle);
        if index == 0 {
            self.tell_first(arena, path);
        }
    }

    #[cold]
    fn split_leaf(&mut self, arena: &mut Arena, path: &Path, index: usize, score: f64, handle: Handle) {
        let left = path.leaf;
        let right = new_leaf(arena);
        self.nodes += arena.capacity(right);
        let old = leaf(arena, left).copied();
        let (previous, next) = (old.read().previous(), old.read().next());
        // Who adds in order, upwards or downwards, leaves full leaves behind.
        let middle = match (index, previous, next) {
            (LEAF_MOST, _, NIL) => LEAF_MOST,
            (0, NIL, _) => 0,
            _ => LEAF_MOST.div_ceil(2),
        };
        let mut view = leaf_mut(arena, right);
        view.append(old.read(), middle);
        view.set_links(left, next);
        let into_right = index > middle || (index == middle && middle == LEAF_MOST);
        if into_right {
            view.insert(index - middle, score, handle);
        }
        let mut view = leaf_mut(arena, left);
        view.set_len(middle);
        view.set_next(right);
        if !into_right {
            view.insert(index, score, handle);
        }
        if next != NIL {
            leaf_mut(arena, next).set_previous(right);
        }
        if index == 0 {
            self.tell_first(arena, path);
        }
        let view = leaf(arena, right);
        let (score, first) = view.entry(0);
        let child = Child { score, first, node: right, count: view.len() as u32 };
        self.add_child(arena, path, self.height, child);
    }

    /// Add a node behind the one that the path takes at `depth`, whose entries now are fewer by the newcomer's.
    fn add_child(&mut self, arena: &mut Arena, path: &Path, depth: usize, child: Child) {
        if depth == 0 {
            let root = new_inner(arena);
            self.nodes += arena.capacity(root);
            let (score, first) = self.first_below(arena, self.root, self.height);
            let old = Child { score, first, node: self.root, count: self.len as u32 - child.count };
            let mut view = inner_mut(arena, root);
            view.push(old);
            view.push(child);
            self.root = root;
            self.height += 1;
            return;
        }
        let (at, index) = path.steps[depth - 1];
        let index = index as usize;
        let mut view = inner_mut(arena, at);
        view.add_count(index, child.count.wrapping_neg());
        if view.read().len() < INNER_MOST {
            view.insert(index + 1, child);
            return;
        }
        let middle = if index + 1 == INNER_MOST { INNER_MOST } else { INNER_MOST / 2 };
        let moved: Vec<Child> = (middle..INNER_MOST).map(|each| view.read().whole(each)).collect();
        view.set_len(middle);
        let right = new_inner(arena);
        self.nodes += arena.capacity(right);
        let mut view = inner_mut(arena, right);
        moved.into_iter().for_each(|each| view.push(each));
        if index + 1 > middle || middle == INNER_MOST {
            view.insert(index + 1 - middle, child);
        } else {
            inner_mut(arena, at).insert(index + 1, child);
        }
        let view = inner(arena, right);
        let Child { score, first, .. } = view.whole(0);
        let newcomer = Child { score, first, node: right, count: view.count_before(view.len()) as u32 };
        self.add_child(arena, path, depth - 1, newcomer);
    }

    fn first_below(&self, arena: &Arena, node: Handle, height: usize) -> (f64, Handle) {
        if height == 0 {
            return leaf(arena, node).entry(0);
        }
        let Child { score, first, .. } = inner(arena, node).whole(0);
        (score, first)
    }

    fn remove_at(&mut self, arena: &mut Arena, path: &Path, index: usize, count: usize) {
        self.len -= count;
        self.count_along(arena, path, (count as u32).wrapping_neg());
        let mut view = leaf_mut(arena, path.leaf);
        view.remove(index, count);
        let len = view.read().len();
        if len > 0 && index == 0 {
            self.tell_first(arena, path);
        }
        if len < LEAF_FEW && self.height > 0 {
            self.thin_leaf(arena, path, len);
        }
    }

    /// A leaf has few entries left: drop it when there is none, or merge it with a neighbour.
    #[cold]
    fn thin_leaf(&mut self, arena: &mut Arena, path: &Path, len: usize) {
        let (parent, index) = path.steps[self.height - 1];
        let (parent_view, index) = (inner(arena, parent), index as usize);
        if len == 0 {
            self.unlink(arena, path.leaf);
            self.drop_child(arena, path, self.height - 1, index);
            return;
        }
        let sum = |other: usize| len + leaf(arena, parent_view.child(other)).len();
        let left = if index + 1 < parent_view.len() && sum(index + 1) <= LEAF_MERGED {
            index
        } else if index > 0 && sum(index - 1) <= LEAF_MERGED {
            index - 1
        } else {
            return;
        };
        let (into, from) = (parent_view.child(left), parent_view.child(left + 1));
        let moved = leaf(arena, from).copied();
        leaf_mut(arena, into).append(moved.read(), 0);
        inner_mut(arena, parent).add_count(left, moved.read().len() as u32);
        self.unlink(arena, from);
        self.drop_child(arena, path, self.height - 1, left + 1);
    }

    fn unlink(&mut self, arena: &mut Arena, at: Handle) {
        let view = leaf(arena, at);
        let (previous, next) = (view.previous(), view.next());
        if previous != NIL {
            leaf_mut(arena, previous).set_next(next);
        }
        if next != NIL {
            leaf_mut(arena, next).set_previous(previous);
        }
        self.free_node(arena, at);
    }

    fn free_node(&mut self, arena: &mut Arena, at: Handle) {
        self.nodes -= arena.capacity(at);
        arena.free(at);
    }

    /// Take a child, already freed, out of the path's inner node at `depth`.
    fn drop_child(&mut self, arena: &mut Arena, path: &Path, depth: usize, index: usize) {
        let at = path.steps[depth].0;
        let mut view = inner_mut(arena, at);
        view.remove(index);
        let len = view.read().len();
        if depth == 0 {
            if len == 0 {
                self.free_node(arena, at);
                *self = Order { nodes: self.nodes, ..Order::new(arena) };
                self.nodes += arena.capacity(self.root);
            }
            while self.height > 0 && inner(arena, self.root).len() == 1 {
                let root = self.root;
                self.root = inner(arena, root).child(0);
                self.height -= 1;
                self.free_node(arena, root);
            }
            return;
        }
        let parent = path.steps[depth - 1].0;
        let place = path.steps[depth - 1].1 as usize;
        if len == 0 {
            self.free_node(arena, at);
            self.drop_child(arena, path, depth - 1, place);
            return;
        }
        if index == 0 {
            let Child { score, first, .. } = inner(arena, at).whole(0);
            self.tell(arena, path, depth, score, first);
        }
        if len >= INNER_FEW {
            return;
        }
        let parent_view = inner(arena, parent);
        let sum = |other: usize| len + inner(arena, parent_view.child(other)).len();
        let left = if place + 1 < parent_view.len() && sum(place + 1) <= INNER_MERGED {
            place
        } else if place > 0 && sum(place - 1) <= INNER_MERGED {
            place - 1
        } else {
            return;
        };
        let (into, from) = (parent_view.child(left), parent_view.child(left + 1));
        let moved: Vec<Child> = (0..inner(arena, from).len()).map(|each| inner(arena, from).whole(each)).collect();
        let count = moved.iter().map(|child| child.count).sum();
        let mut view = inner_mut(arena, into);
        moved.into_iter().for_each(|child| view.push(child));
        inner_mut(arena, parent).add_count(left, count);
        self.free_node(arena, from);
        self.drop_child(arena, path, depth - 1, left + 1);
    }

    /// Check every promise the tree makes; for tests.
    #[cfg(test)]
    pub fn check(&self, arena: &Arena) {
        let mut leaves = Vec::new();
        let (count, _) = self.check_node(arena, self.root, self.height, &mut leaves);
        assert_eq!(count, self.len);
        let mut at = self.select(arena, 0).0.leaf;
        let mut previous = NIL;
        for each in leaves {
            assert_eq!((at, leaf(arena, at).previous()), (each, previous));
            previous = at;
            at = leaf(arena, at).next();
        }
        assert_eq!(at, NIL);
    }

    #[cfg(test)]
    fn check_node(&self, arena: &Arena, at: Handle, height: usize, leaves: &mut Vec<Handle>) -> (usize, Handle) {
        if height == 0 {
            leaves.push(at);
            let view = leaf(arena, at);
            assert!(view.len() > 0 || self.len == 0);
            return (view.len(), if view.len() > 0 { view.entry(0).1 } else { NIL });
        }
        let view = inner(arena, at);
        assert!(view.len() > 0);
        for index in 0..view.len() {
            let child = view.whole(index);
            let found = self.check_node(arena, child.node, height - 1, leaves);
            assert_eq!(found, (child.count as usize, child.first));
            assert_eq!(child.score.to_bits(), super::member::score(arena, child.first).to_bits());
        }
        (view.count_before(view.len()), view.whole(0).first)
    }
}

/// How many entries of one node stand before the target.
#[inline(always)]
fn place(
    arena: &Arena,
    members: &Members,
    scores: &[[u8; 8]],
    target: Target<'_>,
    handle: impl Fn(usize) -> Handle,
) -> usize {
    match target {
        Target::Before(score) => below(scores, score),
        Target::Behind(score) => up_to(scores, score),
        Target::Entry(score, member) => {
            let mut low = below(scores, score);
            let tied = scores.get(low).is_some_and(|each| f64::from_le_bytes(*each) == score);
            let mut high = if tied { up_to(scores, score) } else { low };
            while low < high {
                let middle = low.midpoint(high);
                if members.bytes(arena, handle(middle)) < member {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low
        }
    }
}
