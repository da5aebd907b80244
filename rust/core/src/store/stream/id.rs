//! The names of entries: a time and a number within it, ever rising.

use std::fmt;

/// `<milliseconds>-<number>`; they order as their parts do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Milliseconds of wall time, as a rule.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

impl Id {
    /// Before all entries: no entry is called so.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The last there can be.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// The one behind this; `None` after the last.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { seq, ..self }),
            None => Some(Id { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The one before this; `None` before the first.
    pub fn previous(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { seq, ..self }),
            None => Some(Id { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// The name that these sixteen bytes are; see [`Id::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Id {
        let both = u128::from_be_bytes(bytes);
        Id { ms: (both >> 64) as u64, seq: both as u64 }
    }

    /// The sixteen bytes by which Redis sorts entries.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

#[test]
fn neighbours_carry_from_one_part_to_the_other() {
    let id = Id { ms: 5, seq: u64::MAX };
    assert_eq!(id.next(), Some(Id { ms: 6, seq: 0 }));
    assert_eq!(id.next().and_then(Id::previous), Some(id));
    assert_eq!((Id::MAX.next(), Id::MIN.previous()), (None, None));
    assert!(Id { ms: 2, seq: 0 }.to_bytes() > Id { ms: 1, seq: u64::MAX }.to_bytes());
}
