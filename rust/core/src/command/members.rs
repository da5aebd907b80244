//! What HSCAN and SSCAN, and commands that draw members at random, have in common.

use super::Ctx;
use super::fault::Fault;
use super::glob::glob;
use super::keys::ScanOptions;
use crate::resp::{Args, Reply};
use crate::store::random::Random;

/// Most members that may be drawn with repetition at once: more would hold up everybody else.
const MOST_DRAWS: u64 = 1 << 20;

/// Longest reply to a draw with repetition: a short request must not ask for more memory than there is.
const LONGEST_DRAW: usize = 64 << 20;

/// Refuse to go on with a draw whose reply has become too long.
#[inline]
pub fn check_draw(out: &Reply, start: usize) -> Result<(), Fault> {
    if out.len() - start > LONGEST_DRAW { Err(Fault::OUT_OF_RANGE) } else { Ok(()) }
}

/// Go on from a cursor until enough was looked at, and reply. `step` visits some members at a cursor,
/// tells [`Found`] of each, and says where to go on.
pub fn scan(
    out: &mut Reply,
    cursor: u64,
    options: &ScanOptions<'_>,
    mut step: impl FnMut(u32, &mut Found<'_>) -> Option<u32>,
) {
    let mut found = Found { options, seen: 0, written: 0, out: Reply::new(out.resp3()) };
    // Cursors we gave fit 32 bits; any other is as good as the last.
    let mut cursor = Some(u32::try_from(cursor).unwrap_or(u32::MAX));
    while let Some(at) = cursor {
        cursor = step(at, &mut found);
        if found.seen >= options.count {
            break;
        }
    }
    out.array(2);
    out.bulk_integer(cursor.map_or(0, i64::from));
    out.array(found.written);
    out.raw(found.out.bytes());
}

/// Reply to a scan that there is nothing.
pub fn scan_nothing(out: &mut Reply) {
    out.array(2);
    out.bulk(b"0");
    out.array(0);
}

/// What a scan has come across.
pub struct Found<'a> {
    options: &'a ScanOptions<'a>,
    seen: usize,
    written: usize,
    out: Reply,
}

impl Found<'_> {
    /// Count a member; write it, and its value if it has one, when its name matches.
    pub fn add(&mut self, name: &[u8], value: Option<&[u8]>) {
        self.seen += 1;
        if self.options.pattern.is_none_or(|pattern| glob(pattern, name, false)) {
            self.out.bulk(name);
            self.written += 1;
            if let Some(value) = value
                && !self.options.no_values
            {
                self.out.bulk(value);
                self.written += 1;
            }
        }
    }
}

/// How many members a random draw wants.
pub enum Draw {
    /// So many different ones.
    Different(usize),
    /// So many, each drawn from all.
    Repeated(usize),
}

impl Draw {
    /// Read the count of HRANDFIELD and SRANDMEMBER; a negative one allows repetition.
    pub fn read(args: &Args<'_>, index: usize) -> Result<Draw, Fault> {
        match args.integer(index)? {
            i64::MIN => {
                Err(Fault::new(format!("ERR value is out of range, value must between {} and {}", -i64::MAX, i64::MAX)))
            }
            count if count >= 0 => Ok(Draw::Different(count as usize)),
            count if count.unsigned_abs() > MOST_DRAWS => Err(Fault::OUT_OF_RANGE),
            count => Ok(Draw::Repeated(count.unsigned_abs() as usize)),
        }
    }
}

impl Ctx<'_> {
    /// Random numbers of one's own, for as long as the store is borrowed.
    pub fn random(&mut self) -> Random {
        Random::new(self.engine.store.random.bits())
    }
}
