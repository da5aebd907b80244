//! A small sorted set: one run of bytes in order of score and member.
//!
//! Each entry is a tag, the score and the member. The tag's upper two bits tell how the score is kept (an
//! integer of one, two or four bytes where it is one, else the eight of a double), its lower six how long the
//! member is; 63 says that four bytes of length stand behind the score. Everything is found by walking, which
//! at this size is quicker than any index and costs no memory.

use super::{Lex, Outcome};
use std::cmp::Ordering;
use std::ops::Range;

/// The length that stands for: four bytes of length follow.
const LONG: u8 = 63;
/// Longest head of an entry: tag, double, length.
const LONGEST_HEAD: usize = 13;

/// See the module's page.
#[derive(Default)]
pub struct Flat {
    bytes: Vec<u8>,
    len: usize,
}

/// One entry: where it begins and ends.
struct Found<'a> {
    at: usize,
    end: usize,
    score: f64,
    member: &'a [u8],
}

#[inline(always)]
fn read(bytes: &[u8], at: usize) -> Option<Found<'_>> {
    let tag = *bytes.get(at)?;
    let rest = &bytes[at + 1..];
    let (score, size) = match tag >> 6 {
        0 => (f64::from(*rest.first()? as i8), 1),
        1 => (f64::from(i16::from_le_bytes(*rest.first_chunk()?)), 2),
        2 => (f64::from(i32::from_le_bytes(*rest.first_chunk()?)), 4),
        _ => (f64::from_le_bytes(*rest.first_chunk()?), 8),
    };
    let start = at + 1 + size;
    let (start, len) = match tag & LONG {
        LONG => (start + 4, u32::from_le_bytes(*bytes.get(start..)?.first_chunk()?) as usize),
        len => (start, usize::from(len)),
    };
    Some(Found { at, end: start + len, score, member: bytes.get(start..start + len)? })
}

/// What stands before the member in its entry, and its length. -0 becomes 0: what Redis keeps flat it keeps as
/// an integer where it can.
fn head(score: f64, len: usize) -> ([u8; LONGEST_HEAD], usize) {
    let mut head = [0; LONGEST_HEAD];
    let whole = score as i32;
    let (kind, size) = if f64::from(whole) != score {
        head[1..9].copy_from_slice(&score.to_le_bytes());
        (3, 8)
    } else if let Ok(byte) = i8::try_from(whole) {
        head[1] = byte as u8;
        (0, 1)
    } else if let Ok(short) = i16::try_from(whole) {
        head[1..3].copy_from_slice(&short.to_le_bytes());
        (1, 2)
    } else {
        head[1..5].copy_from_slice(&whole.to_le_bytes());
        (2, 4)
    };
    let end = 1 + size;
    if len < usize::from(LONG) {
        head[0] = kind << 6 | len as u8;
        return (head, end);
    }
    head[0] = kind << 6 | LONG;
    head[end..end + 4].copy_from_slice(&(len as u32).to_le_bytes());
    (head, end + 4)
}

/// The order of a sorted set: by score, then by the member's bytes. Scores are never NaN.
fn order(left: (f64, &[u8]), right: (f64, &[u8])) -> Ordering {
    left.0.partial_cmp(&right.0).unwrap_or(Ordering::Equal).then_with(|| left.1.cmp(right.1))
}

impl Flat {
    /// How many members there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes on the ordinary heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    fn walk(&self) -> impl Iterator<Item = Found<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = read(&self.bytes, at)?;
            at = found.end;
            Some(found)
        })
    }

    fn find(&self, member: &[u8]) -> Option<(usize, Found<'_>)> {
        self.walk().enumerate().find(|(_, found)| found.member == member)
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.find(member).map(|(_, found)| found.score)
    }

    /// Rank and score of a member.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        self.find(member).map(|(rank, found)| (rank, found.score))
    }

    /// See [`super::Zset::update`]. `may_add` is asked before a member is added; `None` says it did not agree,
    /// and gives the score decided on.
    pub fn update(
        &mut self,
        member: &[u8],
        decide: impl FnOnce(Option<f64>) -> Option<f64>,
        may_add: impl FnOnce(usize) -> bool,
    ) -> Result<Outcome, f64> {
        let Some((_, found)) = self.find(member) else {
            let Some(score) = decide(None) else { return Ok(Outcome::Kept) };
            if !may_add(self.len) {
                return Err(score);
            }
            self.add(member, score);
            return Ok(Outcome::Added);
        };
        let Found { at, end, score: old, .. } = found;
        match decide(Some(old)) {
            Some(new) if new != old => {
                let target = self.place(new, member);
                let (head, head_len) = head(new, member.len());
                let size = end - at;
                if head_len + member.len() == size {
                    // The old entry may itself be the last one before the target.
                    self.bytes[at..at + head_len].copy_from_slice(&head[..head_len]);
                    if target > end {
                        self.bytes[at..target].rotate_left(size);
                    } else if target < at {
                        self.bytes[target..end].rotate_right(size);
                    }
                } else {
                    self.bytes.drain(at..end);
                    self.insert(if target >= end { target - size } else { target }, &head[..head_len], member);
                }
                Ok(Outcome::Changed)
            }
            _ => Ok(Outcome::Kept),
        }
    }

    /// Where an entry would begin.
    fn place(&self, score: f64, member: &[u8]) -> usize {
        let behind = |found: &Found<'_>| order((found.score, found.member), (score, member)) != Ordering::Less;
        self.walk().find(behind).map_or(self.bytes.len(), |found| found.at)
    }

    fn add(&mut self, member: &[u8], score: f64) {
        let (head, head_len) = head(score, member.len());
        self.insert(self.place(score, member), &head[..head_len], member);
        self.len += 1;
    }

    fn insert(&mut self, at: usize, head: &[u8], member: &[u8]) {
        let more = head.len() + member.len();
        let old = self.bytes.len();
        if self.bytes.capacity() - old < more {
            self.bytes.reserve_exact(more.max(old / 8));
        }
        self.bytes.resize(old + more, 0);
        self.bytes.copy_within(at..old, at + more);
        self.bytes[at..at + head.len()].copy_from_slice(head);
        self.bytes[at + head.len()..at + more].copy_from_slice(member);
    }

    /// Remove a member; returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (_, Found { at, end, score, .. }) = self.find(member)?;
        self.cut(at, end, 1);
        Some(score)
    }

    /// Remove a range of ranks.
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        let (at, end) = (self.offset(ranks.start), self.offset(ranks.end));
        self.cut(at, end, ranks.len());
    }

    fn cut(&mut self, at: usize, end: usize, count: usize) {
        self.bytes.drain(at..end);
        self.len -= count;
        if self.bytes.capacity() > 2 * self.bytes.len() + 64 {
            self.bytes.shrink_to_fit();
        }
    }

    /// Where the entry of a rank begins; the end for a rank beyond.
    pub fn offset(&self, rank: usize) -> usize {
        if rank == 0 {
            return 0;
        }
        self.walk().nth(rank - 1).map_or(self.bytes.len(), |found| found.end)
    }

    /// Where all entries of a range of ranks begin.
    pub fn offsets(&self, ranks: Range<usize>) -> Vec<u32> {
        self.walk().skip(ranks.start).take(ranks.len()).map(|found| found.at as u32).collect()
    }

    /// The entry that begins at an offset, and where the next one does.
    #[inline]
    pub fn entry(&self, at: usize) -> Option<(&[u8], f64, usize)> {
        read(&self.bytes, at).map(|found| (found.member, found.score, found.end))
    }

    /// How many members have a lower score, or with `equal_too` the same one.
    pub fn count_below(&self, score: f64, equal_too: bool) -> usize {
        self.walk().take_while(|found| found.score < score || (equal_too && found.score == score)).count()
    }

    /// The ranks between two members. Where scores differ the answer means little, but it is the one
    /// that Redis' way of walking gives: in the direction of reading, from the first that fits to the last in a row.
    pub fn lex_ranks(&self, low: Lex<'_>, high: Lex<'_>, backward: bool) -> Range<usize> {
        let (Some(first), Some(last)) = (self.walk().next(), self.walk().last()) else { return 0..0 };
        if !low.admits_above(last.member) || !high.admits_below(first.member) {
            return 0..0;
        }
        if !backward {
            let start = self.walk().take_while(|found| !low.admits_above(found.member)).count();
            let run = self.walk().skip(start).take_while(|found| high.admits_below(found.member)).count();
            return start..start + run;
        }
        let mut start = 0;
        let mut end = 0;
        for (rank, found) in self.walk().enumerate() {
            if high.admits_below(found.member) {
                end = rank + 1;
            }
        }
        for (rank, found) in self.walk().take(end).enumerate() {
            if !low.admits_above(found.member) {
                start = rank + 1;
            }
        }
        start..end
    }
}
