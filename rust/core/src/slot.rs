//! Key to slot: the one piece of arithmetic all parties must agree on.
//!
//! Client, proxy, node and control plane call [`slot_of`] and nothing else. It is
//! CRC16 mod 16384 with hash tags, so stock cluster clients compute the same slots.

/// How many slots the key space has; fixed by the Redis Cluster convention.
pub const SLOT_COUNT: u16 = 16_384;

/// A set of slots: one bit each.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; SLOT_COUNT as usize / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        SlotSet(Box::new([0; SLOT_COUNT as usize / 64]))
    }
}

impl SlotSet {
    /// All slots.
    pub fn all() -> SlotSet {
        SlotSet(Box::new([u64::MAX; SLOT_COUNT as usize / 64]))
    }

    /// Whether a slot is in.
    #[inline]
    pub fn contains(&self, slot: u16) -> bool {
        self.0[usize::from(slot % SLOT_COUNT) / 64] >> (slot % 64) & 1 != 0
    }

    /// Put a slot in.
    #[inline]
    pub fn insert(&mut self, slot: u16) {
        self.0[usize::from(slot % SLOT_COUNT) / 64] |= 1 << (slot % 64);
    }

    /// Take a slot out.
    #[inline]
    pub fn remove(&mut self, slot: u16) {
        self.0[usize::from(slot % SLOT_COUNT) / 64] &= !(1 << (slot % 64));
    }

    /// How many are in.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Put all of another set in.
    pub fn add(&mut self, other: &SlotSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(own, other)| *own |= other);
    }

    /// Take all of another set out.
    pub fn subtract(&mut self, other: &SlotSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(own, other)| *own &= !other);
    }

    /// Those of this set that are not in another.
    pub fn without(&self, other: &SlotSet) -> SlotSet {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }

    /// Those that are in both.
    pub fn common(&self, other: &SlotSet) -> SlotSet {
        self.without(&self.without(other))
    }

    /// Whether all that are in are in another as well.
    pub fn within(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(own, other)| own & !other == 0)
    }

    /// The first slot at or after `slot`.
    pub fn next(&self, slot: u16) -> Option<u16> {
        let mut index = usize::from(slot) / 64;
        let mut word = self.0.get(index)? & (u64::MAX << (slot % 64));
        while word == 0 {
            index += 1;
            word = *self.0.get(index)?;
        }
        Some((index * 64) as u16 + word.trailing_zeros() as u16)
    }

    /// All that are in, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let mut at = self.next(0);
        std::iter::from_fn(move || {
            let slot = at?;
            at = self.next(slot + 1);
            Some(slot)
        })
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> SlotSet {
        let mut set = SlotSet::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// The slot that owns `key`. Never fails: every byte string is a key.
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) % SLOT_COUNT
}

/// What stands between the first `{` and the next `}`, or else the whole key.
#[inline]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        Some(0) | None => key, // `{}` is no tag, or all such keys would pile up in one slot.
        Some(close) => &rest[..close],
    }
}

/// CRC-16/XMODEM. Eight bytes a step through eight tables, because the byte-wise loop
/// is a chain of dependent loads and showed in the profile of a GET.
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc: u16 = 0;
    let mut chunks = bytes.chunks_exact(8);
    for c in &mut chunks {
        crc = TABLES[7][usize::from(c[0] ^ (crc >> 8) as u8)]
            ^ TABLES[6][usize::from(c[1] ^ crc as u8)]
            ^ TABLES[5][usize::from(c[2])]
            ^ TABLES[4][usize::from(c[3])]
            ^ TABLES[3][usize::from(c[4])]
            ^ TABLES[2][usize::from(c[5])]
            ^ TABLES[1][usize::from(c[6])]
            ^ TABLES[0][usize::from(c[7])];
    }
    for &byte in chunks.remainder() {
        crc = (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)];
    }
    crc
}

/// `TABLES[k][b]`: the CRC of byte `b` followed by `k` zero bytes.
static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut all = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        all[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = all[k - 1][byte];
            all[k][byte] = (before << 8) ^ all[0][(before >> 8) as usize];
            byte += 1;
        }
        k += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_value_holds() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn long_keys_agree_with_the_byte_wise_definition() {
        let mut key = Vec::new();
        for n in 0..100u8 {
            let mut crc: u16 = 0;
            for &b in &key {
                crc ^= u16::from(b) << 8;
                for _ in 0..8 {
                    crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
                }
            }
            assert_eq!(crc16(&key), crc);
            key.push(n.wrapping_mul(37) ^ 0xA5);
        }
    }

    #[test]
    fn keys_with_one_tag_share_a_slot() {
        assert_eq!(slot_of(b"{user7}.name"), slot_of(b"{user7}.cart"));
        assert_ne!(slot_of(b"{}.name"), slot_of(b"{}.cart"));
        assert_eq!(slot_of(b"foo"), 12182);
    }
}
