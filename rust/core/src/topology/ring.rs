//! Positions: where members and slots stand on a circle of 32 bits.
//!
//! A position is the first 8 hex digits of an MD5, read as a number. Virtual node `i` of a member stands at
//! MD5("<member id>:<i>"), slot `n` at MD5("slot:<n>"), both numbers in decimal. MD5 is no protection here, only an
//! even spread that every language has at hand; `tests/vectors/ring.json` pins it.

use std::sync::OnceLock;

use md5::{Digest, Md5};

use crate::slot::SLOT_COUNT;

/// Virtual nodes of a member of normal weight.
pub const VIRTUAL_NODES: u32 = 150;

/// The weight of a normal member: weights are per cent of it.
pub const NORMAL_WEIGHT: u32 = 100;

/// One member of the cluster as far as placement is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub host: String,
    /// Empty when racks are not known.
    pub rack: String,
    /// Per cent of a normal share; 0 keeps the member but gives it nothing (draining).
    pub weight: u32,
}

/// The first 8 hex digits of MD5 as a number.
pub fn position_of(label: &[u8]) -> u32 {
    let digest = Md5::digest(label);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// Where slot `slot` stands.
pub fn slot_position(slot: u16) -> u32 {
    static POSITIONS: OnceLock<Vec<u32>> = OnceLock::new();
    let all = POSITIONS.get_or_init(|| {
        let mut label = Label::new("slot");
        (0..u32::from(SLOT_COUNT)).map(|slot| position_of(label.with(slot))).collect()
    });
    all[usize::from(slot % SLOT_COUNT)]
}

/// How many virtual nodes a member of this weight has: at least one unless it has no weight.
pub fn virtual_nodes(weight: u32, per_normal: u32) -> u32 {
    if weight == 0 {
        return 0;
    }
    let scaled = (u64::from(weight) * u64::from(per_normal) + u64::from(NORMAL_WEIGHT) / 2) / u64::from(NORMAL_WEIGHT);
    u32::try_from(scaled.max(1)).unwrap_or(u32::MAX)
}

/// All virtual nodes of all members, in clockwise order.
pub struct Ring {
    /// Position in the upper half, the member's index in the lower: one sort orders both, and two members that share
    /// a position stand in the order of their ids.
    points: Vec<u64>,
    /// For each upper [`BUCKET_BITS`] bits of a position: the first point not before it.
    buckets: Vec<u32>,
}

const BUCKET_BITS: u32 = 12;

impl Ring {
    /// `members` must be sorted by id: their index is what the ring speaks of.
    pub fn new(members: &[Member], per_normal: u32) -> Ring {
        let total = members.iter().map(|m| virtual_nodes(m.weight, per_normal) as usize).sum();
        let mut points: Vec<u64> = Vec::with_capacity(total);
        for (index, member) in members.iter().enumerate() {
            let mut label = Label::new(&member.id);
            for number in 0..virtual_nodes(member.weight, per_normal) {
                points.push((u64::from(position_of(label.with(number))) << 32) | index as u64);
            }
        }
        points.sort_unstable();
        let buckets = (0..=1u64 << BUCKET_BITS)
            .map(|bucket| points.partition_point(|&point| point < bucket << (64 - BUCKET_BITS)) as u32);
        // The last bucket's bound, 1 << 64, does not fit: it is the end.
        let mut buckets: Vec<u32> = buckets.take(1 << BUCKET_BITS).collect();
        buckets.push(points.len() as u32);
        Ring { points, buckets }
    }

    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The members met when walking clockwise from `position`, for ever; a member comes once per virtual node.
    pub fn clockwise(&self, position: u32) -> impl Iterator<Item = u16> + '_ {
        let start = self.first_at(position);
        self.points[start..].iter().chain(self.points.iter().cycle()).map(|&point| point as u16)
    }

    fn first_at(&self, position: u32) -> usize {
        let bucket = (position >> (32 - BUCKET_BITS)) as usize;
        let (from, to) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        from + self.points[from..to].partition_point(|&point| ((point >> 32) as u32) < position)
    }

    /// The same points, member by member: what is asked when members have to give slots away.
    pub fn by_member(&self, members: usize) -> ByMember {
        let mut ends = vec![0u32; members + 1];
        for &point in &self.points {
            ends[usize::from(point as u16) + 1] += 1;
        }
        for index in 0..members {
            ends[index + 1] += ends[index];
        }
        let mut next = ends.clone();
        let mut positions = vec![0u32; self.points.len()];
        for &point in &self.points {
            let place = &mut next[usize::from(point as u16)];
            positions[*place as usize] = (point >> 32) as u32;
            *place += 1;
        }
        ByMember { ends, positions }
    }
}

/// Every member's own positions, ascending.
pub struct ByMember {
    ends: Vec<u32>,
    positions: Vec<u32>,
}

impl ByMember {
    /// How far it is, clockwise, from `position` to the next virtual node of `member`.
    pub fn distance(&self, member: u16, position: u32) -> u32 {
        let member = usize::from(member);
        let own = &self.positions[self.ends[member] as usize..self.ends[member + 1] as usize];
        let next = own.partition_point(|&at| at < position);
        match own.get(next).or(own.first()) {
            Some(at) => at.wrapping_sub(position),
            None => u32::MAX, // A member that left the ring is the farthest of all.
        }
    }
}

/// "<name>:<number>" written again and again into one buffer: 300,000 of them make a large ring.
struct Label {
    bytes: Vec<u8>,
    stem: usize,
}

impl Label {
    fn new(name: &str) -> Label {
        let bytes = format!("{name}:").into_bytes();
        Label { stem: bytes.len(), bytes }
    }

    fn with(&mut self, number: u32) -> &[u8] {
        self.bytes.truncate(self.stem);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, weight: u32) -> Member {
        Member { id: id.into(), host: id.into(), rack: String::new(), weight }
    }

    #[test]
    fn a_position_is_the_first_eight_hex_digits_of_md5() {
        // md5("") = d41d8cd98f00b204e9800998ecf8427e
        assert_eq!(position_of(b""), 0xd41d_8cd9);
    }

    #[test]
    fn weight_scales_the_virtual_nodes_and_zero_weight_has_none() {
        assert_eq!(virtual_nodes(100, 150), 150);
        assert_eq!(virtual_nodes(50, 150), 75);
        assert_eq!(virtual_nodes(1, 150), 2);
        assert_eq!(virtual_nodes(1, 1), 1);
        assert_eq!(virtual_nodes(0, 150), 0);
    }

    #[test]
    fn walking_clockwise_starts_at_the_first_point_not_before_and_wraps() {
        let members = [member("a", 100), member("b", 100), member("c", 100)];
        let ring = Ring::new(&members, 5);
        let mut points = Vec::new();
        for (index, m) in members.iter().enumerate() {
            for i in 0..5 {
                points.push((position_of(format!("{}:{i}", m.id).as_bytes()), index as u16));
            }
        }
        points.sort_unstable();
        for position in [0, 1, points[3].0, points[3].0 + 1, points[14].0, points[14].0.saturating_add(1), u32::MAX] {
            let start = points.iter().position(|&(at, _)| at >= position).unwrap_or(0);
            let expected: Vec<u16> = (0..40).map(|step| points[(start + step) % 15].1).collect();
            let walked: Vec<u16> = ring.clockwise(position).take(40).collect();
            assert_eq!(walked, expected, "from {position}");
        }
    }
}
