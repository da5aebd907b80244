//! What XINFO says of the tree in which Redis would keep a stream's blocks: worked out from their
//! names, because tools show the figure and some compare it.

use super::id::Id;

/// Nodes of a radix tree with these names, which ascend.
pub fn tree_nodes(names: &[[u8; 16]]) -> usize {
    if names.is_empty() { 1 } else { nodes_below(names, 0) }
}

/// The names by which blocks are sorted.
pub fn names(firsts: impl Iterator<Item = Id>) -> Vec<[u8; 16]> {
    firsts.map(Id::to_bytes).collect()
}

/// Nodes of the part of the tree for names that share their first `depth` bytes.
fn nodes_below(names: &[[u8; 16]], depth: usize) -> usize {
    let (first, last) = (&names[0], &names[names.len() - 1]);
    if names.len() == 1 {
        return if depth < 16 { 2 } else { 1 }; // The rest of the name in one node, and its end.
    }
    // Names ascend: what the first and the last share, all share.
    let shared = (depth..16).take_while(|&at| first[at] == last[at]).count();
    let branch = depth + shared;
    let groups = names.chunk_by(|one, other| one[branch] == other[branch]);
    usize::from(shared > 0) + 1 + groups.map(|group| nodes_below(group, branch + 1)).sum::<usize>()
}

#[test]
fn nodes_are_counted_as_redis_builds_them() {
    let of = |ids: &[(u64, u64)]| tree_nodes(&names(ids.iter().map(|&(ms, seq)| Id { ms, seq })));
    assert_eq!((of(&[]), of(&[(1, 1)])), (1, 2));
    // One node for what both share, one that branches, and an end for each.
    assert_eq!(of(&[(1, 1), (1, 2)]), 4);
    assert_eq!(of(&[(1, 1), (2, 1)]), 6);
}
