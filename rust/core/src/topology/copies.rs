//! Give every slot its replicas: the next members clockwise, on other racks and hosts where there is a choice.
//!
//! Replicas are bounded like mains, but placement rules come before evenness where the two collide: never the main's
//! host while another host exists, its rack only when no other rack has room. Copies that exist and keep the rules
//! stay where they are; when a slot's main and a replica change places, the old main keeps its data as the replica. Only
//! where a copy shares a rack and nobody elsewhere has room, it changes places with one that can stand in its stead.

use std::collections::HashMap;

use super::NOBODY;
use super::place::{Load, Placement, SLOTS, shares};
use super::ring::{Member, Ring, slot_position};
use crate::slot::SLOT_COUNT;

/// Rounds of [`Crew::settle`] before a placement is taken as it is; two or three are the rule.
const MOST_ROUNDS: usize = 8;

/// How far from each other two copies must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    Racks,
    Hosts,
    Members,
}

/// How much a member may hold to be asked for one more replica.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    BelowShare,
    WithinShare,
    Stretched,
    Any,
}

const ROOMS: [Room; 4] = [Room::BelowShare, Room::WithinShare, Room::Stretched, Room::Any];

/// The order in which combinations are tried.
const TIERS: [(Apart, Room); 12] = [
    (Apart::Racks, Room::BelowShare),
    (Apart::Racks, Room::WithinShare),
    (Apart::Racks, Room::Stretched),
    (Apart::Hosts, Room::BelowShare),
    (Apart::Hosts, Room::WithinShare),
    (Apart::Hosts, Room::Stretched),
    (Apart::Racks, Room::Any),
    (Apart::Hosts, Room::Any),
    (Apart::Members, Room::BelowShare),
    (Apart::Members, Room::WithinShare),
    (Apart::Members, Room::Stretched),
    (Apart::Members, Room::Any),
];

/// Above its share by a sixteenth a member is left in peace: exact evenness is not worth copying data for.
fn stretched(load: &Load) -> u32 {
    if load.high == 0 { 0 } else { load.high + load.high / 16 + 1 }
}

fn fits(load: &Load, room: Room) -> bool {
    load.high > 0
        && match room {
            Room::BelowShare => load.count < load.low,
            Room::WithinShare => load.count < load.high,
            Room::Stretched => load.count < stretched(load),
            Room::Any => true,
        }
}

pub(super) fn spread(members: &[Member], previous: Option<&Placement>, ring: &Ring, placement: &mut Placement) {
    let stride = placement.stride;
    if stride == 0 {
        return;
    }
    let mut crew = Crew::new(members, stride);
    if let Some(previous) = previous {
        for slot in 0..SLOT_COUNT {
            keep(&crew, previous, slot, placement);
        }
    }
    let mut homeless = 0u32;
    for &index in &placement.replicas {
        match index {
            NOBODY => homeless += 1,
            _ => crew.loads[usize::from(index)].count += 1,
        }
    }
    crew.count_rooms();
    let mut missing: u32 = crew.loads.iter().map(|load| load.low.saturating_sub(load.count)).sum();
    let mut chosen: Vec<u16> = Vec::with_capacity(stride + 1);
    for slot in 0..SLOT_COUNT {
        chosen.clear();
        chosen.push(placement.main(slot));
        chosen.extend_from_slice(placement.replicas(slot));
        while chosen.len() <= stride {
            let held_before = previous.map_or(&[][..], |previous| previous.replicas(slot));
            let Some(taker) = crew.choose(ring, slot, &chosen, held_before, homeless > missing) else { break };
            if crew.loads[usize::from(taker)].count < crew.loads[usize::from(taker)].low {
                missing -= 1;
            }
            crew.change(taker, |load| load.count += 1);
            placement.replicas[usize::from(slot) * stride + chosen.len() - 1] = taker;
            chosen.push(taker);
            homeless -= 1;
        }
        homeless -= (stride + 1 - chosen.len()) as u32; // More copies asked for than there are members.
    }
    for _ in 0..MOST_ROUNDS {
        let settled = crew.settle(ring, placement);
        if !crew.exchange(placement) && !settled {
            break;
        }
    }
}

/// Carry over the replicas that still keep the rules; the member that was the main is the first candidate when one
/// of them became the main.
fn keep(crew: &Crew<'_>, previous: &Placement, slot: u16, placement: &mut Placement) {
    let main = placement.main(slot);
    let old_main = previous.main(slot);
    let promoted = old_main != main && previous.replicas(slot).contains(&main);
    let first = promoted.then_some(old_main).filter(|&index| index != NOBODY);
    let stride = placement.stride;
    let mut kept = 0;
    for index in first.into_iter().chain(previous.replicas(slot).iter().copied()) {
        let before = &placement.replicas[usize::from(slot) * stride..][..kept];
        let among = before.iter().copied().chain([main]);
        if kept < stride && crew.loads[usize::from(index)].high > 0 && crew.may_join(index, among) {
            placement.replicas[usize::from(slot) * stride + kept] = index;
            kept += 1;
        }
    }
}

/// The members with their hosts, racks, and how many of each have room.
struct Crew<'a> {
    members: &'a [Member],
    loads: Vec<Load>,
    host: Vec<u32>,
    rack: Vec<u32>,
    /// Per room: members with that room in each host, in each rack, and in all.
    by_host: [Vec<u32>; 4],
    by_rack: [Vec<u32>; 4],
    all: [u32; 4],
    hosts_in_use: usize,
}

impl<'a> Crew<'a> {
    fn new(members: &'a [Member], stride: usize) -> Crew<'a> {
        let loads = shares(members, SLOTS * stride);
        let mut names: HashMap<(&str, &str), u32> = HashMap::new();
        let mut number = |kind, name| {
            let next = names.len() as u32;
            *names.entry((kind, name)).or_insert(next)
        };
        let host: Vec<u32> = members.iter().map(|member| number("host", member.host.as_str())).collect();
        let rack: Vec<u32> = members.iter().map(|member| number("rack", member.rack.as_str())).collect();
        let mut used: Vec<u32> = host.iter().zip(&loads).filter(|(_, load)| load.high > 0).map(|(&h, _)| h).collect();
        used.sort_unstable();
        used.dedup();
        let groups = names.len();
        Crew {
            members,
            loads,
            host,
            rack,
            by_host: std::array::from_fn(|_| vec![0; groups]),
            by_rack: std::array::from_fn(|_| vec![0; groups]),
            all: [0; 4],
            hosts_in_use: used.len(),
        }
    }

    fn count_rooms(&mut self) {
        for index in 0..self.members.len() {
            for (number, room) in ROOMS.into_iter().enumerate() {
                if fits(&self.loads[index], room) {
                    self.by_host[number][self.host[index] as usize] += 1;
                    self.by_rack[number][self.rack[index] as usize] += 1;
                    self.all[number] += 1;
                }
            }
        }
    }

    fn change(&mut self, index: u16, how: impl Fn(&mut Load)) {
        let index = usize::from(index);
        let before = self.loads[index];
        how(&mut self.loads[index]);
        for (number, room) in ROOMS.into_iter().enumerate() {
            let by = i32::from(fits(&self.loads[index], room)) - i32::from(fits(&before, room));
            for count in [
                &mut self.by_host[number][self.host[index] as usize],
                &mut self.by_rack[number][self.rack[index] as usize],
                &mut self.all[number],
            ] {
                *count = count.wrapping_add_signed(by);
            }
        }
    }

    /// Whether a copy on `index` keeps to the hosts' rule beside `others`.
    fn may_join(&self, index: u16, others: impl Iterator<Item = u16> + Clone) -> bool {
        let alone = |apart| others.clone().all(|other| self.apart(index, other, apart));
        // With fewer hosts than copies some must share one: then only a copy beside itself is refused.
        let copies = others.clone().count();
        if self.hosts_in_use > copies { alone(Apart::Hosts) } else { alone(Apart::Members) }
    }

    fn apart(&self, one: u16, other: u16, apart: Apart) -> bool {
        let (a, b) = (usize::from(one), usize::from(other));
        match apart {
            Apart::Racks => self.rack[a] != self.rack[b] && self.host[a] != self.host[b],
            Apart::Hosts => self.host[a] != self.host[b],
            Apart::Members => a != b,
        }
    }

    /// How many members would do, counted without walking: all with room less those in the groups already used.
    fn candidates(&self, chosen: &[u16], apart: Apart, room: Room) -> u32 {
        let number = room as usize;
        let groups = match apart {
            Apart::Racks => (&self.by_rack[number], &self.rack),
            Apart::Hosts => (&self.by_host[number], &self.host),
            Apart::Members => {
                let taken = chosen.iter().filter(|&&index| fits(&self.loads[usize::from(index)], room)).count();
                return self.all[number] - taken as u32;
            }
        };
        let mut left = self.all[number];
        for (nth, &index) in chosen.iter().enumerate() {
            let group = groups.1[usize::from(index)];
            if chosen[..nth].iter().all(|&before| groups.1[usize::from(before)] != group) {
                left -= groups.0[group as usize];
            }
        }
        left
    }

    fn choose(&self, ring: &Ring, slot: u16, chosen: &[u16], held_before: &[u16], plenty: bool) -> Option<u16> {
        for (apart, room) in TIERS {
            if (plenty && room == Room::BelowShare) || self.candidates(chosen, apart, room) == 0 {
                continue;
            }
            let fit = |index: &u16| {
                fits(&self.loads[usize::from(*index)], room)
                    && chosen.iter().all(|&other| self.apart(*index, other, apart))
            };
            // Who held it before holds the data already.
            return held_before.iter().copied().find(fit).or_else(|| ring.clockwise(slot_position(slot)).find(fit));
        }
        None
    }

    /// Go once through all copies and move those whose place can be bettered: away from another copy's rack, to a
    /// member below its share, or off a member far above it. Says whether any moved; once none does, the placement
    /// is at rest and the same members leave it so.
    fn settle(&mut self, ring: &Ring, placement: &mut Placement) -> bool {
        let stride = placement.stride;
        let mut any = false;
        let mut others: Vec<u16> = Vec::with_capacity(stride + 1);
        for slot in 0..SLOT_COUNT {
            for nth in 0..placement.replicas(slot).len() {
                let entry = usize::from(slot) * stride + nth;
                let index = placement.replicas[entry];
                others.clear();
                others.push(placement.main(slot));
                others.extend(placement.replicas(slot).iter().copied().filter(|&other| other != index));
                let Some((apart, room)) = self.better(index, &others) else { continue };
                let fit = |taker: &u16| {
                    fits(&self.loads[usize::from(*taker)], room)
                        && others.iter().all(|&other| self.apart(*taker, other, apart))
                };
                if let Some(taker) = ring.clockwise(slot_position(slot)).find(fit) {
                    self.change(index, |load| load.count -= 1);
                    self.change(taker, |load| load.count += 1);
                    placement.replicas[entry] = taker;
                    any = true;
                }
            }
        }
        any
    }

    /// What kind of place would be better for the copy that `index` holds beside `others`; only if there is one.
    fn better(&self, index: u16, others: &[u16]) -> Option<(Apart, Room)> {
        let load = &self.loads[usize::from(index)];
        let is = |apart| others.iter().all(|&other| self.apart(index, other, apart));
        let offered = |apart, room| (self.candidates(others, apart, room) > 0).then_some((apart, room));
        let now = match (is(Apart::Racks), is(Apart::Hosts)) {
            (true, _) => Apart::Racks,
            (_, true) => Apart::Hosts,
            _ => Apart::Members,
        };
        let parted = if now == Apart::Racks { None } else { offered(Apart::Racks, Room::WithinShare) };
        parted
            .or_else(|| if load.count > load.low { offered(now, Room::BelowShare) } else { None })
            .or_else(|| if load.count > stretched(load) { offered(now, Room::WithinShare) } else { None })
    }

    /// Have copies that share a rack with another of their slot change places with copies elsewhere that would not, if
    /// there are any: everybody holds as many as before. Says whether any did.
    fn exchange(&self, placement: &mut Placement) -> bool {
        let stride = placement.stride;
        let mut by_rack: HashMap<u32, Vec<u16>> = HashMap::new();
        for (index, _) in self.loads.iter().enumerate().filter(|(_, load)| load.high > 0) {
            by_rack.entry(self.rack[index]).or_default().push(index as u16);
        }
        let mut racks: Vec<u32> = by_rack.keys().copied().collect();
        racks.sort_unstable();
        let mut held: Vec<Vec<usize>> = Vec::new();
        // (holder, rack) -> how many of its copies have been looked at for a copy of that rack.
        let mut looked: HashMap<(u16, u32), usize> = HashMap::new();
        let mut any = false;
        for entry in 0..placement.replicas.len() {
            let index = placement.replicas[entry];
            if index == NOBODY || self.alone_in(self.rack[usize::from(index)], placement, entry) {
                continue;
            }
            if held.is_empty() {
                held = vec![Vec::new(); self.members.len()];
                for (other, &holder) in placement.replicas.iter().enumerate().filter(|&(_, &holder)| holder != NOBODY) {
                    held[usize::from(holder)].push(other);
                }
            }
            let here = self.rack[usize::from(index)];
            let elsewhere = racks.iter().filter(|&&rack| self.alone_in(rack, placement, entry));
            let found = elsewhere.flat_map(|rack| &by_rack[rack]).find_map(|&holder| {
                let all = &held[usize::from(holder)];
                let next = looked.entry((holder, here)).or_insert(0);
                while let Some(&other) = all.get(*next) {
                    *next += 1;
                    let same_slot = other / stride == entry / stride;
                    if placement.replicas[other] == holder && !same_slot && self.alone_in(here, placement, other) {
                        return Some((other, holder));
                    }
                }
                None
            });
            if let Some((other, holder)) = found {
                placement.replicas[entry] = holder;
                placement.replicas[other] = index;
                any = true;
            }
        }
        any
    }

    /// Whether nobody else who holds the slot of a copy stands in that rack.
    fn alone_in(&self, rack: u32, placement: &Placement, entry: usize) -> bool {
        let (slot, stride) = (entry / placement.stride, placement.stride);
        let copies = slot * stride..(slot + 1) * stride;
        let others = copies.filter(|&other| other != entry).map(|other| placement.replicas[other]);
        others.chain([placement.mains[slot]]).all(|other| other == NOBODY || self.rack[usize::from(other)] != rack)
    }
}
