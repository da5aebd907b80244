//! Give every slot a main: consistent hashing with bounded loads, moving only what has to move.
//!
//! A member's fair share is its part of all weights. It ends with that share rounded down or up, never outside, so the
//! busiest of 50 equal members is within one slot of the mean. Without a previous placement each slot takes the first
//! member clockwise that has room. With one, every slot stays unless its member is gone or over its share; a member
//! that must give gives first what the ring holds it least strongly for (the longest way clockwise to it). The number
//! of slots that move is the least that any placement within these bounds can reach.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::copies;
use super::document::TopologyError;
use super::ring::{ByMember, Member, Ring, VIRTUAL_NODES, slot_position};
use super::{MOST_MEMBERS, NOBODY};
use crate::slot::SLOT_COUNT;

pub(super) const SLOTS: usize = SLOT_COUNT as usize;

/// More copies of a slot than this are refused.
pub const MOST_REPLICAS: usize = 7;

/// What a placement depends on besides its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Virtual nodes of a member of normal weight.
    pub virtual_nodes: u32,
    /// Copies of every slot besides the main.
    pub replicas: usize,
    /// Leave mains where they are, however uneven: with replication data must be copied before a main can change.
    pub keep_mains: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { virtual_nodes: VIRTUAL_NODES, replicas: 0, keep_mains: false }
    }
}

/// What holds no node begins somewhere: an empty `Vec` begins at an address that is not mapped, and the C library compares
/// nothing with nothing there by a masked load, which costs 100 ns where AVX-512 is used. It was most of a digest.
pub(super) static NONE: [u16; 1] = [NOBODY];

/// Slot by slot, the index of the member that holds it; [`NOBODY`] where none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub(super) mains: Vec<u16>,
    /// `stride` entries a slot, nearest first, [`NOBODY`] after the last.
    pub(super) replicas: Vec<u16>,
    pub(super) stride: usize,
}

impl Placement {
    /// A placement that holds nothing yet.
    pub fn empty(stride: usize) -> Placement {
        Placement { mains: vec![NOBODY; SLOTS], replicas: vec![NOBODY; SLOTS * stride], stride }
    }

    /// From one (main, replicas) a slot; at most `stride` replicas are taken.
    pub fn of(stride: usize, slots: &[(u16, Vec<u16>)]) -> Placement {
        let mut placement = Placement::empty(stride);
        for (slot, (main, replicas)) in slots.iter().enumerate().take(SLOTS) {
            placement.mains[slot] = *main;
            for (nth, &replica) in replicas.iter().enumerate().take(stride) {
                placement.replicas[slot * stride + nth] = replica;
            }
        }
        placement
    }

    #[inline]
    pub fn main(&self, slot: u16) -> u16 {
        self.mains[usize::from(slot)]
    }

    /// The replicas of a slot, the one to be promoted first in front.
    pub fn replicas(&self, slot: u16) -> &[u16] {
        if self.stride == 0 {
            return &NONE[..0];
        }
        let all = &self.replicas[usize::from(slot) * self.stride..][..self.stride];
        let used = all.iter().position(|&index| index == NOBODY).unwrap_or(all.len());
        &all[..used]
    }

    /// How many slots each of `members` members is the main of, and how many it holds replicas of.
    pub fn loads(&self, members: usize) -> Vec<(u32, u32)> {
        let mut loads = vec![(0, 0); members];
        for &main in self.mains.iter().filter(|&&main| main != NOBODY) {
            loads[usize::from(main)].0 += 1;
        }
        for &replica in self.replicas.iter().filter(|&&replica| replica != NOBODY) {
            loads[usize::from(replica)].1 += 1;
        }
        loads
    }
}

/// Place all slots on `members`, which are sorted by id; `previous` speaks of the same indexes.
pub fn place(
    members: &[Member],
    previous: Option<&Placement>,
    settings: &Settings,
) -> Result<Placement, TopologyError> {
    judge(members, settings)?;
    let ring = Ring::new(members, settings.virtual_nodes);
    let owned = ring.by_member(members.len());
    let mut placement = Placement::empty(settings.replicas);
    mains(members, previous, settings.keep_mains, &ring, &owned, &mut placement);
    copies::spread(members, previous, &ring, &mut placement);
    Ok(placement)
}

fn judge(members: &[Member], settings: &Settings) -> Result<(), TopologyError> {
    let refuse = |why: String| Err(TopologyError::new(why));
    if members.iter().all(|member| member.weight == 0) {
        return refuse("no member with a weight above 0 is left to hold the slots".into());
    }
    if members.len() > MOST_MEMBERS {
        return refuse(format!("{} members are more than {MOST_MEMBERS}", members.len()));
    }
    if settings.replicas > MOST_REPLICAS {
        return refuse(format!("{} replicas are more than {MOST_REPLICAS}", settings.replicas));
    }
    if settings.virtual_nodes == 0 || settings.virtual_nodes > 10_000 {
        return refuse(format!("{} virtual nodes are not between 1 and 10000", settings.virtual_nodes));
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].id >= pair[1].id) {
        return refuse(format!("members must be sorted by id, each once: {:?}, {:?}", pair[0].id, pair[1].id));
    }
    let mut racks: HashMap<&str, &str> = HashMap::new();
    for member in members {
        let rack = racks.entry(&member.host).or_insert(&member.rack);
        if *rack != member.rack {
            return refuse(format!("host {} cannot stand in rack {:?} and in {:?}", member.host, rack, member.rack));
        }
    }
    Ok(())
}

/// What a member may hold: its fair share rounded down and up, and what it holds so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub count: u32,
    pub low: u32,
    pub high: u32,
}

/// Fair shares of `units` among `members`.
pub(super) fn shares(members: &[Member], units: usize) -> Vec<Load> {
    let weights: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let units = units as u64;
    members
        .iter()
        .map(|member| {
            let scaled = units * u64::from(member.weight);
            Load { count: 0, low: (scaled / weights) as u32, high: scaled.div_ceil(weights) as u32 }
        })
        .collect()
}

fn mains(
    members: &[Member],
    previous: Option<&Placement>,
    keep: bool,
    ring: &Ring,
    owned: &ByMember,
    placement: &mut Placement,
) {
    let mut loads = shares(members, SLOTS);
    if let Some(previous) = previous {
        placement.mains.copy_from_slice(&previous.mains);
        if keep {
            for &main in previous.mains.iter().filter(|&&main| main != NOBODY) {
                loads[usize::from(main)].count += 1;
            }
        } else {
            release(&mut placement.mains, &mut loads, owned);
        }
    }
    let mut homeless = placement.mains.iter().filter(|&&main| main == NOBODY).count() as u32;
    let mut missing: u32 = loads.iter().map(|load| load.low.saturating_sub(load.count)).sum();
    for slot in 0..SLOT_COUNT {
        if placement.main(slot) != NOBODY {
            continue;
        }
        let has_room = |index: u16| {
            let load = &loads[usize::from(index)];
            // The last slots are kept for those that are below their share.
            load.count < if homeless > missing { load.high } else { load.low }
        };
        // A replica holds the data already, so the slot goes there when there is room.
        let copies = previous.map_or(&[][..], |previous| previous.replicas(slot));
        let taker = copies.iter().copied().find(|&index| has_room(index));
        let taker = taker.or_else(|| ring.clockwise(slot_position(slot)).find(|&index| has_room(index)));
        // Shares rounded up add up to all slots at least, so somebody has room: the walk ended.
        let taker = taker.unwrap_or(NOBODY);
        placement.mains[usize::from(slot)] = taker;
        let load = &mut loads[usize::from(taker)];
        if load.count < load.low {
            missing -= 1;
        }
        load.count += 1;
        homeless -= 1;
    }
}

/// Take slots from members above their bound, then as many more as the members below their share still miss.
///
/// `loads` come without counts and leave with them; a slot that is taken becomes [`NOBODY`]'s. Of one member the
/// farthest slots go first, of several the one with the largest surplus gives first.
fn release(mains: &mut [u16], loads: &mut [Load], owned: &ByMember) {
    let mut slots: Vec<Vec<u16>> = vec![Vec::new(); loads.len()];
    let mut free = 0u32;
    for (slot, &main) in mains.iter().enumerate() {
        match main {
            NOBODY => free += 1,
            _ => slots[usize::from(main)].push(slot as u16),
        }
    }
    for (load, own) in loads.iter_mut().zip(&slots) {
        load.count = own.len() as u32;
    }
    let missing: u32 = loads.iter().map(|load| load.low.saturating_sub(load.count)).sum();
    let distance = |index: usize, slot: u16| owned.distance(index as u16, slot_position(slot));
    let farthest_last =
        |index: usize, own: &mut Vec<u16>| own.sort_by_cached_key(|&slot| (distance(index, slot), slot));
    for (index, load) in loads.iter_mut().enumerate() {
        let own = &mut slots[index];
        if load.count > load.high {
            farthest_last(index, own);
            for slot in own.drain(load.high as usize..) {
                mains[usize::from(slot)] = NOBODY;
                free += 1;
            }
            load.count = load.high;
        }
    }
    if free >= missing {
        return;
    }
    // How readily a member gives its next slot: larger surplus, then the farther slot, then the smaller id.
    let offer = |index: usize, load: &Load, own: &[u16]| {
        let farthest = own.last().map_or(0, |&slot| distance(index, slot));
        (load.count - load.low, farthest, Reverse(index))
    };
    let mut givers = BinaryHeap::new();
    for (index, load) in loads.iter().enumerate().filter(|(_, load)| load.count > load.low) {
        farthest_last(index, &mut slots[index]);
        givers.push(offer(index, load, &slots[index]));
    }
    while free < missing {
        let Some((_, _, Reverse(index))) = givers.pop() else { break };
        let Some(slot) = slots[index].pop() else { continue };
        mains[usize::from(slot)] = NOBODY;
        loads[index].count -= 1;
        free += 1;
        if loads[index].count > loads[index].low {
            givers.push(offer(index, &loads[index], &slots[index]));
        }
    }
}
