//! Which node holds a slot, and how it is reached.

use crate::slot::{SLOT_COUNT, slot_of};
use crate::topology::Document;
use crate::topology::document::{Node, State};

/// How a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Its name in the cluster.
    pub id: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path of its Unix socket, when it is on this host.
    pub unix: Option<String>,
    /// Whether the health service has declared it down: nothing is sent to it.
    pub down: bool,
}

/// A map of all slots: one epoch of the topology, in the form requests are routed by.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// The nodes, and behind them the other members.
    members: Vec<Address>,
    count: usize,
    owners: Vec<u16>,
    replicas: Vec<Box<[u16]>>,
    epoch: u64,
    strict: bool,
}

/// A slot without an owner.
pub const NOBODY: u16 = u16::MAX;

impl Map {
    /// A map of these nodes, where `owner` tells whose a slot is.
    pub fn new(epoch: u64, nodes: Vec<Address>, owner: impl Fn(u16) -> u16) -> Map {
        let count = nodes.len();
        let owners =
            (0..SLOT_COUNT).map(&owner).map(|node| if (node as usize) < count { node } else { NOBODY }).collect();
        Map { members: nodes, count, owners, replicas: Vec::new(), epoch, strict: false }
    }

    /// The map that a topology describes, as seen from a host with these names and addresses: only a
    /// node on this host can be reached through its Unix socket.
    pub fn from_document(document: &Document, here: &[String]) -> Map {
        let is_here = |host: &str| here.iter().any(|name| name == host);
        let address = |member: &Node| Address {
            id: member.id.clone(),
            host: member.host.clone(),
            port: member.port,
            unix: (!member.unix.is_empty() && is_here(&member.host)).then(|| member.unix.clone()),
            down: member.state == State::Down,
        };
        let nodes = document.nodes().iter().map(address).collect();
        let mut map = Map::new(document.epoch, nodes, |slot| document.main(slot));
        map.members.extend(document.proxies().iter().map(address));
        map.replicas = (0..SLOT_COUNT).map(|slot| document.replicas_of(slot).into()).collect();
        map.strict = document.flag("strict");
        map
    }

    /// The same with these replicas of every slot.
    pub fn with_replicas(mut self, replicas: impl Fn(u16) -> Vec<u16>) -> Map {
        self.replicas = (0..SLOT_COUNT).map(|slot| replicas(slot).into()).collect();
        self
    }

    /// The nodes that hold copies of a slot besides its owner: who may answer reads while that is away, and
    /// one of which may become the owner.
    pub fn replicas(&self, slot: u16) -> &[u16] {
        self.replicas.get(slot as usize).map_or(&[], |nodes| nodes)
    }

    /// Whether a write counts only once two nodes have it, and a read must see it: replicas may not answer.
    pub fn strict(&self) -> bool {
        self.strict
    }

    /// The node at an address.
    pub fn node_at(&self, host: &str, port: u16) -> Option<u16> {
        self.nodes().iter().position(|node| node.port == port && node.host == host).map(|node| node as u16)
    }

    /// The epoch of the topology it was made from.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Address] {
        self.members.get(..self.count).unwrap_or_default()
    }

    /// All nodes, and behind them all proxies.
    pub fn members(&self) -> &[Address] {
        &self.members
    }

    /// The node that owns a slot; `None` when nobody does.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<u16> {
        self.owners.get(slot as usize).copied().filter(|&node| node != NOBODY)
    }

    /// The node that owns a key.
    #[inline]
    pub fn owner_of(&self, key: &[u8]) -> Option<u16> {
        self.owner(slot_of(key))
    }
}
