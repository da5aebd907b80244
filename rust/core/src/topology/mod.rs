//! Who holds which slot: the ring that decides it and the document that says it.
//!
//! `ring` turns members into positions, `place` gives every slot a main, `copies` adds the replicas, `document` is
//! the one value that proxies, nodes, clients and the health service exchange, `plan` answers what a change would move,
//! `file` keeps the document on disk. Everything
//! but `file` is a pure function of its arguments: no sockets, no clock, no randomness, so that every party that
//! holds the same members and the same previous placement computes the same answer.

pub mod document;
pub mod file;
pub mod place;
pub mod plan;
pub mod ranges;
pub mod ring;

mod copies;

pub use document::{Document, Node, TopologyError};
pub use place::{Placement, Settings, place};
pub use ring::{Member, Ring};

/// Stands for "no node" wherever a node's index is expected.
pub const NOBODY: u16 = u16::MAX;

/// More members than this are refused: an index must fit beside [`NOBODY`].
pub const MOST_MEMBERS: usize = 60_000;
