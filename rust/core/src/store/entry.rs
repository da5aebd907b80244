//! The bytes of one key: a header of eleven, what this key needs besides, the key, the value.
//!
//! ```text
//! 0 kind | database   1 flags   2 key length   3 value length   4..7 access   7..11 updated (s)
//! [key and value length, 4 bytes each: when one exceeds 255]
//! [expiry, ms, 5 bytes; 8 with long lengths] [created, s, 4 bytes: when it differs from updated] [queue links, 8 bytes]
//! key   value
//! ```
//! Five bytes of milliseconds reach from 2020 to 2054; an expiry beyond makes the entry a long one.
//! A key longer than [`INLINE_KEY`] and a value that is an object are 4-byte indices instead.

/// What kind of value a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A byte string.
    String = 0,
    /// A list.
    List = 1,
    /// A set.
    Set = 2,
    /// A sorted set.
    SortedSet = 3,
    /// A hash.
    Hash = 4,
    /// A stream.
    Stream = 5,
}

impl Kind {
    /// The name that TYPE answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
        }
    }

    fn from_nibble(nibble: u8) -> Kind {
        match nibble {
            0 => Kind::String,
            1 => Kind::List,
            2 => Kind::Set,
            3 => Kind::SortedSet,
            4 => Kind::Hash,
            _ => Kind::Stream,
        }
    }
}

/// Lengths do not fit one byte each, or the expiry does not fit five.
pub const LONG: u8 = 1;
/// The key has an expiry.
pub const EXPIRES: u8 = 2;
/// The time of creation is kept apart from that of the last update.
pub const CREATED: u8 = 4;
/// The key stands in an eviction queue.
pub const LINKED: u8 = 8;
/// The flags that say where the parts of an entry lie.
pub const LAYOUT: u8 = LONG | EXPIRES | CREATED | LINKED;
/// A string that was edited in place; OBJECT ENCODING tells such a one as `raw`.
pub const RAW: u8 = 16;
/// The value is the index of an object.
pub const OBJECT: u8 = 32;
/// Two bits that belong to the eviction policy.
pub const POLICY_SHIFT: u8 = 6;

/// The longest key that lies in its entry.
pub const INLINE_KEY: usize = 1024;

const BASE: usize = 11;
const SHORT_EXPIRY: usize = 5;
const EPOCH_2020: u64 = 1_577_836_800_000;

/// What five bytes can say of an expiry.
#[inline]
fn short_expiry(expiry: u64) -> Option<u64> {
    expiry.checked_sub(EPOCH_2020).filter(|passed| passed >> 40 == 0)
}

/// Where the parts lie, for each combination of the four lowest flags.
const OFFSETS: [u8; 16] = {
    let mut all = [0u8; 16];
    let mut flags = 0;
    while flags < 16 {
        let mut at = BASE;
        if flags & LONG as usize != 0 {
            at += 8;
        }
        if flags & EXPIRES as usize != 0 {
            at += if flags & LONG as usize != 0 { 8 } else { SHORT_EXPIRY };
        }
        if flags & CREATED as usize != 0 {
            at += 4;
        }
        if flags & LINKED as usize != 0 {
            at += 8;
        }
        all[flags] = at as u8;
        flags += 1;
    }
    all
};

/// Length of the header for these flags.
#[inline(always)]
pub fn header_len(flags: u8) -> usize {
    OFFSETS[usize::from(flags & 15)] as usize
}

#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// Read one entry. `bytes` may reach beyond it.
#[derive(Clone, Copy)]
pub struct Entry<'a>(pub &'a [u8]);

impl<'a> Entry<'a> {
    /// The kind of the value.
    #[inline]
    pub fn kind(self) -> Kind {
        Kind::from_nibble(self.0[0] & 15)
    }

    /// The database it belongs to.
    #[inline]
    pub fn database(self) -> u8 {
        self.0[0] >> 4
    }

    /// See the flags' constants.
    #[inline(always)]
    pub fn flags(self) -> u8 {
        self.0[1]
    }

    /// Lengths of key and value.
    #[inline(always)]
    pub fn lengths(self) -> (usize, usize) {
        if self.flags() & LONG == 0 {
            (self.0[2] as usize, self.0[3] as usize)
        } else {
            (u32_at(self.0, BASE) as usize, u32_at(self.0, BASE + 4) as usize)
        }
    }

    /// The stored key: the key itself, or the four bytes of its index when it is longer than [`INLINE_KEY`].
    #[inline(always)]
    pub fn stored_key(self) -> &'a [u8] {
        let at = header_len(self.flags());
        let (key, _) = self.lengths();
        &self.0[at..at + stored_len(key)]
    }

    /// The stored value: a string, or the four bytes of an object's index.
    #[inline(always)]
    pub fn stored_value(self) -> &'a [u8] {
        let (key, value) = self.lengths();
        let at = header_len(self.flags()) + stored_len(key);
        &self.0[at..at + value]
    }

    /// The index of the object that is the value, if it is one.
    #[inline]
    pub fn object(self) -> Option<u32> {
        (self.flags() & OBJECT != 0).then(|| u32_at(self.stored_value(), 0))
    }

    /// When the key expires, in milliseconds of wall time.
    #[inline(always)]
    pub fn expiry(self) -> Option<u64> {
        let flags = self.flags();
        if flags & EXPIRES == 0 {
            return None;
        }
        if flags & LONG != 0 {
            return Some(u64::from(u32_at(self.0, BASE + 8)) | u64::from(u32_at(self.0, BASE + 12)) << 32);
        }
        Some(EPOCH_2020 + (u64::from(u32_at(self.0, BASE)) | u64::from(self.0[BASE + 4]) << 32))
    }

    /// Second of the last update.
    pub fn updated(self) -> u32 {
        u32_at(self.0, 7)
    }

    /// Second of the creation.
    pub fn created(self) -> u32 {
        let flags = self.flags();
        if flags & CREATED == 0 { self.updated() } else { u32_at(self.0, header_len(flags & (LONG | EXPIRES))) }
    }

    /// The three bytes of the policy: the second of the last access, or LFU's decay time and counter.
    #[inline(always)]
    pub fn access(self) -> u32 {
        u32_at(self.0, 4) & 0xFF_FFFF
    }

    /// Neighbours in the eviction queue: towards the newer end, towards the older.
    #[inline]
    pub fn links(self) -> (u32, u32) {
        let at = header_len(self.flags() & (LONG | EXPIRES | CREATED));
        (u32_at(self.0, at), u32_at(self.0, at + 4))
    }

    /// Bytes of the whole entry.
    #[inline]
    pub fn size(self) -> usize {
        let (key, value) = self.lengths();
        header_len(self.flags()) + stored_len(key) + value
    }
}

/// How many bytes of the entry a key of this length takes.
#[inline(always)]
pub fn stored_len(key: usize) -> usize {
    if key > INLINE_KEY { 4 } else { key }
}

/// All that stands in front of key and value.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// The kind of value.
    pub kind: Kind,
    /// The database.
    pub database: u8,
    /// [`RAW`], [`OBJECT`] and policy bits; what follows from the other fields is set by [`Header::flags`].
    pub marks: u8,
    /// See [`Entry::access`].
    pub access: u32,
    /// Second of the last update.
    pub updated: u32,
    /// Second of the creation.
    pub created: u32,
    /// When the key expires.
    pub expiry: Option<u64>,
    /// Room for links is wanted.
    pub linked: bool,
}

impl Header {
    /// The header of an entry.
    pub fn of(entry: Entry<'_>) -> Header {
        Header {
            kind: entry.kind(),
            database: entry.database(),
            marks: entry.flags() & !(LONG | EXPIRES | CREATED | LINKED),
            access: entry.access(),
            updated: entry.updated(),
            created: entry.created(),
            expiry: entry.expiry(),
            linked: entry.flags() & LINKED != 0,
        }
    }

    /// The flags an entry with this header and these lengths has.
    #[inline]
    pub fn flags(&self, key: usize, value: usize) -> u8 {
        self.marks
            | if key > 255 || value > 255 || self.expiry.is_some_and(|time| short_expiry(time).is_none()) { LONG } else { 0 }
            | if self.expiry.is_some() { EXPIRES } else { 0 }
            // Objects are written again and again: their room for the creation time is there from the start.
            | if self.created != self.updated || self.marks & OBJECT != 0 { CREATED } else { 0 }
            | if self.linked { LINKED } else { 0 }
    }

    /// Write the header; returns where the key goes. Links start as zeros.
    #[inline]
    pub fn write(&self, out: &mut [u8], key: usize, value: usize) -> usize {
        let flags = self.flags(key, value);
        out[0] = self.kind as u8 | self.database << 4;
        out[1] = flags;
        out[2] = key as u8;
        out[3] = value as u8;
        out[4..7].copy_from_slice(&self.access.to_le_bytes()[..3]);
        out[7..11].copy_from_slice(&self.updated.to_le_bytes());
        let mut at = BASE;
        if flags & LONG != 0 {
            out[at..at + 4].copy_from_slice(&(key as u32).to_le_bytes());
            out[at + 4..at + 8].copy_from_slice(&(value as u32).to_le_bytes());
            at += 8;
        }
        if let Some(expiry) = self.expiry {
            if flags & LONG != 0 {
                out[at..at + 8].copy_from_slice(&expiry.to_le_bytes());
                at += 8;
            } else {
                let passed = short_expiry(expiry).unwrap_or_default();
                out[at..at + SHORT_EXPIRY].copy_from_slice(&passed.to_le_bytes()[..SHORT_EXPIRY]);
                at += SHORT_EXPIRY;
            }
        }
        if flags & CREATED != 0 {
            out[at..at + 4].copy_from_slice(&self.created.to_le_bytes());
            at += 4;
        }
        if flags & LINKED != 0 {
            out[at..at + 8].fill(0);
            at += 8;
        }
        at
    }
}

/// Note another database.
pub fn set_database(bytes: &mut [u8], database: u8) {
    bytes[0] = bytes[0] & 15 | database << 4;
}

/// Note the access clock or counter.
#[inline]
pub fn set_access(bytes: &mut [u8], access: u32) {
    bytes[4..7].copy_from_slice(&access.to_le_bytes()[..3]);
}

/// Note the second of the last update. Only for entries whose creation time is kept apart, or in the very second of creation.
#[inline]
pub fn set_updated(bytes: &mut [u8], seconds: u32) {
    bytes[7..11].copy_from_slice(&seconds.to_le_bytes());
}

/// Move the expiry of an entry that has one; `false` when there is no room for so far a time.
pub fn set_expiry(bytes: &mut [u8], expiry: u64) -> bool {
    if bytes[1] & LONG != 0 {
        bytes[BASE + 8..BASE + 16].copy_from_slice(&expiry.to_le_bytes());
        return true;
    }
    let Some(passed) = short_expiry(expiry) else { return false };
    bytes[BASE..BASE + SHORT_EXPIRY].copy_from_slice(&passed.to_le_bytes()[..SHORT_EXPIRY]);
    true
}

/// Change the neighbour towards the newer end.
#[inline]
pub fn set_newer(bytes: &mut [u8], handle: u32) {
    let at = header_len(bytes[1] & (LONG | EXPIRES | CREATED));
    bytes[at..at + 4].copy_from_slice(&handle.to_le_bytes());
}

/// Change the neighbour towards the older end.
#[inline]
pub fn set_older(bytes: &mut [u8], handle: u32) {
    let at = header_len(bytes[1] & (LONG | EXPIRES | CREATED)) + 4;
    bytes[at..at + 4].copy_from_slice(&handle.to_le_bytes());
}

/// The policy's two bits.
#[inline]
pub fn policy_bits(bytes: &[u8]) -> u8 {
    bytes[1] >> POLICY_SHIFT
}

/// Change the policy's two bits.
#[inline]
pub fn set_policy_bits(bytes: &mut [u8], bits: u8) {
    bytes[1] = bytes[1] & !(3 << POLICY_SHIFT) | bits << POLICY_SHIFT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_reads_back_whatever_other_parts_are_there() {
        for case in 0..64u32 {
            let header = Header {
                kind: Kind::Hash,
                database: 15,
                marks: if case & 16 != 0 { RAW } else { 0 },
                access: 0xABCDEF,
                updated: 2_000,
                created: if case & 1 != 0 { 1_000 } else { 2_000 },
                expiry: (case & 2 != 0).then_some(if case & 32 != 0 { u64::MAX - 7 } else { 1_800_000_000_123 }),
                linked: case & 4 != 0,
            };
            let key = vec![b'k'; if case & 8 != 0 { 300 } else { 10 }];
            let value = b"value";
            let mut bytes = vec![0xEE; 2000];
            let at = header.write(&mut bytes, key.len(), value.len());
            bytes[at..at + key.len()].copy_from_slice(&key);
            bytes[at + key.len()..at + key.len() + 5].copy_from_slice(value);
            if header.linked {
                set_newer(&mut bytes, 77);
                set_older(&mut bytes, 88);
            }
            set_policy_bits(&mut bytes, 2);
            let entry = Entry(&bytes);
            assert_eq!((entry.kind(), entry.database()), (Kind::Hash, 15));
            assert_eq!(entry.stored_key(), key);
            assert_eq!(entry.stored_value(), value);
            assert_eq!(entry.expiry(), header.expiry);
            assert_eq!((entry.created(), entry.updated()), (header.created, 2_000));
            assert_eq!(entry.access(), 0xABCDEF);
            assert_eq!(policy_bits(&bytes), 2);
            if header.linked {
                assert_eq!(entry.links(), (77, 88));
            }
            assert_eq!(entry.size(), at + key.len() + 5);
        }
    }
}
