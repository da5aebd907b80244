//! What was written, in order: a bounded ring of records, read by any number of cursors.
//!
//! A record is sixteen bytes of head and a payload, all in one piece, so that links and the log pass on the bytes as
//! they are:
//! ```text
//! length of the payload (4)   slot (2)   kind (1)   database (1)   time, ms (8)      payload
//! ```
//! Records are numbered (`seq`) from one on. Numbers mean something within one *run* ([`Tail::run`]): as long as
//! somebody listens. A reader takes a [`Cursor`], calls [`Tail::next`] until it says `None`, and goes on after the
//! next turn of the loop. One that was too slow gets [`Lost`] and starts anew. The ring is cut only between turns
//! ([`Tail::trim`]), so whoever reads in every turn loses nothing.

use super::SlotSet;
use super::codec::{Garbage, put_string};
use crate::slot::SLOT_COUNT;
use std::collections::VecDeque;

/// The slot of records that concern them all.
pub const EVERY_SLOT: u16 = u16::MAX;
/// The database of records that concern them all.
pub const EVERY_DATABASE: u8 = u8::MAX;
/// Bytes in front of each payload.
pub const HEAD: usize = 16;
const SEGMENT: usize = 64 * 1024;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A command: its words, each with its length. It is run with the record's time as the time of day.
    Command = 1,
    /// An entry, whole: it takes the place of what is under its key.
    Entry = 2,
    /// A key that is gone: removed, expired, evicted.
    Removal = 3,
    /// The records up to the next [`Kind::End`] are applied together.
    Begin = 4,
    /// See [`Kind::Begin`].
    End = 5,
    /// All keys of the database are gone; of all of them, when it is [`EVERY_DATABASE`].
    Flush = 6,
    /// The database and the one whose number is the payload have changed places.
    Swap = 7,
    /// Something happened to a library of functions, see [`crate::command::scripting::registry`].
    Library = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Command,
            2 => Kind::Entry,
            3 => Kind::Removal,
            4 => Kind::Begin,
            5 => Kind::End,
            6 => Kind::Flush,
            7 => Kind::Swap,
            8 => Kind::Library,
            _ => return None,
        })
    }
}

/// One record, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The slot, or [`EVERY_SLOT`].
    pub slot: u16,
    /// What it tells.
    pub kind: Kind,
    /// The database, or [`EVERY_DATABASE`].
    pub database: u8,
    /// When it was written, ms of wall time.
    pub time: u64,
    /// What it tells it of.
    pub payload: &'a [u8],
    /// Head and payload.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`; `None` when it is not there in full yet.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Record<'a>>, Garbage> {
        let Some(head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let slot = u16::from_le_bytes([head[4], head[5]]);
        let kind = Kind::of(head[6]).ok_or(Garbage("there is no such kind of record"))?;
        let [.., a, b, c, d, e, f, g, h] = *head;
        if slot >= SLOT_COUNT && slot != EVERY_SLOT {
            return Err(Garbage("there is no such slot"));
        }
        let Some(payload) = bytes.get(HEAD..HEAD + len) else { return Ok(None) };
        let time = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Some(Record { slot, kind, database: head[7], time, payload, bytes: &bytes[..HEAD + len] }))
    }

    /// Whether somebody who wants these slots wants this record.
    #[inline]
    pub fn concerns(&self, slots: &SlotSet) -> bool {
        self.slot == EVERY_SLOT || slots.contains(self.slot)
    }
}

struct Segment {
    first: u64, // Number of its first record.
    count: u64,
    bytes: Vec<u8>,
}

/// Where a reader is. It reads the record `seq` next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the record that comes next.
    pub seq: u64,
    segment: u64, // Counted from the first there ever was.
    offset: usize,
}

/// The records a reader wants are no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// See the module's page.
#[derive(Default)]
pub struct Tail {
    listeners: u32,
    run: u64,
    segments: VecDeque<Segment>,
    passed: u64, // Segments that were cut off.
    held: usize, // Bytes in all segments.
    next: u64,   // Number of the next record, minus one.
    group: Option<Group>,
    /// The number of the last record of each slot; empty when nobody asks.
    last: Vec<u64>,
    /// The number of the last record that flushed databases or had two of them change places.
    swept: u64,
    /// Slots whose changes are recorded by their effect.
    by_effect: Vec<u16>,
    /// What the command that runs has changed and told so far.
    pub(super) notes: Notes,
}

#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    too_large: bool,
}

/// Kept while a command runs and somebody listens.
#[derive(Default)]
pub(super) struct Notes {
    pub bytes: Vec<u8>,
    /// Database, and where the key lies in `bytes`.
    pub touched: Vec<(u8, u32, u32)>,
    /// Commands to record instead: where their words (as a payload) lie in `bytes`, and their slot.
    pub instead: Vec<(u16, u32, u32)>,
}

impl Notes {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.touched.clear();
        self.instead.clear();
    }
}

impl Tail {
    /// Whether anybody listens; if not, nothing is recorded.
    #[inline(always)]
    pub fn listening(&self) -> bool {
        self.listeners > 0
    }

    /// Names the time since which somebody has been listening without a break. Zero when nobody ever did.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The number of the latest record.
    pub fn seq(&self) -> u64 {
        self.next
    }

    /// The oldest number that can still be read next.
    pub fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.next + 1, |segment| segment.first)
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Begin to listen, from the next record on. `run` should be random: it names a new run if nobody listened
    /// until now. The engine's [`crate::command::Engine::listen`] is what to call.
    pub(crate) fn listen(&mut self, run: u64) -> Cursor {
        if self.listeners == 0 {
            self.run = run.max(1);
            self.forget();
        }
        self.listeners += 1;
        self.end()
    }

    /// Listen no longer. The last one out stops the recording.
    pub(crate) fn leave(&mut self) {
        self.listeners = self.listeners.saturating_sub(1);
        if self.listeners == 0 {
            self.forget();
            self.notes = Notes::default();
        }
    }

    fn forget(&mut self) {
        self.passed += self.segments.len() as u64;
        self.segments.clear();
        self.held = 0;
    }

    /// Go on numbering behind `seq`: what a node has read from its log on disk came before.
    pub fn continue_from(&mut self, seq: u64) {
        self.forget();
        self.next = self.next.max(seq);
    }

    /// A cursor behind the latest record.
    pub fn end(&self) -> Cursor {
        match self.segments.back() {
            Some(last) => Cursor {
                seq: self.next + 1,
                segment: self.passed + self.segments.len() as u64 - 1,
                offset: last.bytes.len(),
            },
            None => Cursor { seq: self.next + 1, segment: self.passed, offset: 0 },
        }
    }

    /// A cursor at the record `seq`, if that is still there or the next to come.
    pub fn at(&self, seq: u64) -> Option<Cursor> {
        if seq == self.next + 1 {
            return Some(self.end());
        }
        let index = self.segments.partition_point(|segment| segment.first <= seq).checked_sub(1)?;
        let segment = &self.segments[index];
        let mut offset = 0;
        for _ in segment.first..seq {
            let record = Record::parse(segment.bytes.get(offset..)?).ok()??;
            offset += record.bytes.len();
        }
        (seq < segment.first + segment.count).then_some(Cursor { seq, segment: self.passed + index as u64, offset })
    }

    /// The record at the cursor, which moves on; `None` when there is no more yet.
    #[inline]
    pub fn next(&self, cursor: &mut Cursor) -> Result<Option<Record<'_>>, Lost> {
        if cursor.seq > self.next {
            return Ok(None);
        }
        loop {
            let index = cursor.segment.checked_sub(self.passed).ok_or(Lost)?;
            let segment = self.segments.get(index as usize).ok_or(Lost)?;
            let rest = segment.bytes.get(cursor.offset..).ok_or(Lost)?;
            match Record::parse(rest) {
                Ok(Some(record)) => {
                    cursor.seq += 1;
                    cursor.offset += record.bytes.len();
                    return Ok(Some(record));
                }
                Ok(None) if rest.is_empty() => {
                    cursor.segment += 1;
                    cursor.offset = 0;
                }
                _ => return Err(Lost),
            }
        }
    }

    /// Bytes of all records behind `seq`; of those that are still there.
    pub fn bytes_after(&self, seq: u64) -> u64 {
        if seq >= self.next {
            return 0;
        }
        let index = self.segments.partition_point(|segment| segment.first + segment.count <= seq + 1);
        let whole = self.segments.iter().skip(index + 1).map(|segment| segment.bytes.len()).sum::<usize>();
        let first = self.segments.get(index).map_or(0, |segment| {
            let passed = (seq + 1).saturating_sub(segment.first);
            let offset = (0..passed).try_fold(0, |at, _| {
                Record::parse(segment.bytes.get(at..)?).ok()?.map(|record| at + record.bytes.len())
            });
            segment.bytes.len() - offset.unwrap_or_default()
        });
        (whole + first) as u64
    }

    /// Append to `out`, in one piece where they lie so, the records from the cursor on that concern these slots: until
    /// that are `most` bytes, but not between records that belong together. `true` when there is no more yet.
    pub fn copy_out(&self, cursor: &mut Cursor, slots: &SlotSet, most: usize, out: &mut Vec<u8>) -> Result<bool, Lost> {
        let (start, mut grouped) = (out.len(), false);
        while cursor.seq <= self.next {
            let index = cursor.segment.checked_sub(self.passed).ok_or(Lost)?;
            let bytes = &self.segments.get(index as usize).ok_or(Lost)?.bytes[..];
            let (mut run, mut at) = (cursor.offset, cursor.offset);
            let mut full = false;
            while let Some(&[a, b, c, d, e, f, kind, ..]) = bytes.get(at..).and_then(<[u8]>::first_chunk::<HEAD>) {
                let end = at + HEAD + u32::from_le_bytes([a, b, c, d]) as usize;
                let slot = u16::from_le_bytes([e, f]);
                if slot != EVERY_SLOT && !slots.contains(slot) {
                    out.extend_from_slice(bytes.get(run..at).ok_or(Lost)?);
                    run = end;
                } else if slot == EVERY_SLOT {
                    grouped = kind == Kind::Begin as u8 || grouped && kind != Kind::End as u8;
                }
                at = end;
                cursor.seq += 1;
                if !grouped && out.len() + (at - run) - start >= most {
                    full = true;
                    break;
                }
            }
            out.extend_from_slice(bytes.get(run..at).ok_or(Lost)?);
            cursor.offset = at;
            if full {
                return Ok(cursor.seq > self.next);
            }
            if at != bytes.len() {
                return Err(Lost);
            }
            if cursor.seq <= self.next {
                (cursor.segment, cursor.offset) = (cursor.segment + 1, 0);
            }
        }
        Ok(true)
    }

    /// Cut the oldest records off until at most `limit` bytes are held. Called between turns of the loop.
    pub fn trim(&mut self, limit: usize) {
        while self.held > limit && self.segments.len() > 1 {
            let Some(oldest) = self.segments.pop_front() else { return };
            self.held -= oldest.bytes.len();
            self.passed += 1;
        }
    }

    /// From now on know the last record of each slot.
    pub fn track_slots(&mut self) {
        self.last = vec![self.next; usize::from(SLOT_COUNT)];
    }

    /// The number of the last record that was about all slots at once.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// The number of the last record of a slot, or a later one.
    pub fn seq_of(&self, slot: u16) -> u64 {
        self.last.get(usize::from(slot)).copied().unwrap_or(self.next)
    }

    /// From now on, or no longer, record changes of this slot by their effect alone: it is being copied in slices, and
    /// what a command does may depend on keys that have not been copied yet.
    pub fn by_effect(&mut self, slot: u16, on: bool) {
        if on {
            self.by_effect.push(slot);
        } else if let Some(at) = self.by_effect.iter().position(|&each| each == slot) {
            self.by_effect.swap_remove(at);
        }
    }

    /// Whether changes of this slot may be recorded by the words of commands.
    #[inline]
    pub fn by_words(&self, slot: u16) -> bool {
        self.by_effect.is_empty() || !self.by_effect.contains(&slot)
    }

    /// Record the words of a command.
    pub fn command<'w>(&mut self, slot: u16, database: u8, time: u64, words: impl ExactSizeIterator<Item = &'w [u8]>) {
        self.write(Kind::Command, slot, database, time, |out| put_words(out, words));
    }

    /// Record any payload.
    #[inline]
    pub fn write(&mut self, kind: Kind, slot: u16, database: u8, time: u64, payload: impl FnOnce(&mut Vec<u8>)) {
        if let Some(group) = &mut self.group {
            group.too_large |= !append(&mut group.bytes, kind, slot, database, time, payload);
            group.ends.push(group.bytes.len());
            return;
        }
        let next = self.next + 1;
        if self.segments.back().is_none_or(|last| last.bytes.len() >= SEGMENT) {
            self.segments.push_back(Segment { first: next, count: 0, bytes: Vec::with_capacity(SEGMENT + 1024) });
        }
        if let Some(last) = self.segments.back_mut() {
            let before = last.bytes.len();
            let fits = append(&mut last.bytes, kind, slot, database, time, payload);
            last.count += 1;
            self.held += last.bytes.len() - before;
            self.next = next;
            if slot == EVERY_SLOT && matches!(kind, Kind::Flush | Kind::Swap) {
                self.swept = next;
            }
            if !self.last.is_empty() {
                match self.last.get_mut(usize::from(slot)) {
                    Some(last) => *last = next,
                    None if matches!(kind, Kind::Flush | Kind::Swap) => self.last.fill(next),
                    None => {}
                }
            }
            if !fits {
                self.lose();
            }
        }
    }

    /// What cannot be recorded is not passed over in silence: all readers start anew.
    #[cold]
    fn lose(&mut self) {
        self.forget();
        self.passed += 1;
    }

    /// From here to [`Tail::close_group`] records are to be applied together.
    pub fn open_group(&mut self) {
        if self.listening() {
            self.group = Some(Group::default());
        }
    }

    /// See [`Tail::open_group`].
    pub fn close_group(&mut self, time: u64) {
        let Some(group) = self.group.take() else { return };
        let alone = group.ends.len() < 2;
        if group.too_large {
            return self.lose();
        }
        if !alone {
            self.write(Kind::Begin, EVERY_SLOT, EVERY_DATABASE, time, |_| {});
        }
        let mut start = 0;
        for end in group.ends {
            if let Ok(Some(record)) = Record::parse(&group.bytes[start..end]) {
                let Record { kind, slot, database, time, payload, .. } = record;
                self.write(kind, slot, database, time, |out| out.extend_from_slice(payload));
            }
            start = end;
        }
        if !alone {
            self.write(Kind::End, EVERY_SLOT, EVERY_DATABASE, time, |_| {});
        }
    }
}

/// `false` when the payload is longer than a record may be.
#[inline]
pub(crate) fn append(
    out: &mut Vec<u8>,
    kind: Kind,
    slot: u16,
    database: u8,
    time: u64,
    payload: impl FnOnce(&mut Vec<u8>),
) -> bool {
    let start = out.len();
    let mut head = [0; HEAD];
    head[4..6].copy_from_slice(&slot.to_le_bytes());
    head[6..8].copy_from_slice(&[kind as u8, database]);
    head[8..].copy_from_slice(&time.to_le_bytes());
    out.extend_from_slice(&head);
    payload(out);
    let len = u32::try_from(out.len() - start - HEAD);
    out[start..start + 4].copy_from_slice(&len.unwrap_or_default().to_le_bytes());
    len.is_ok()
}

/// Write the words of a command as a payload.
#[inline]
pub(super) fn put_words<'w>(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = &'w [u8]>) {
    super::codec::put_length(out, words.len());
    words.for_each(|word| put_string(out, word));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    fn write(tail: &mut Tail, text: &str) {
        tail.command(7, 0, 1000, words(text).into_iter());
    }

    #[test]
    fn records_are_read_in_order_by_each_reader_at_its_own_pace() {
        let mut tail = Tail::default();
        let mut one = tail.listen(5);
        let mut other = tail.listen(6);
        assert_eq!((tail.run(), tail.next(&mut one)), (5, Ok(None)));
        let long = "x".repeat(3000);
        for number in 0..100 {
            write(&mut tail, &format!("SET {number} {long}"));
            if number % 3 == 0 {
                assert!(matches!(tail.next(&mut one), Ok(Some(_))));
            }
        }
        let mut seen = 0;
        while let Ok(Some(record)) = tail.next(&mut other) {
            let mut expected = Vec::new();
            put_words(&mut expected, words(&format!("SET {seen} {long}")).into_iter());
            assert_eq!(
                (record.payload, record.slot, record.time, record.kind),
                (&expected[..], 7, 1000, Kind::Command)
            );
            seen += 1;
        }
        assert_eq!((seen, other.seq, one.seq), (100, 101, 35));
        let held = |from: u64| {
            (from..=100).map(|number| {
                let at = &mut tail.at(number).expect("it is there");
                tail.next(at).unwrap().unwrap().bytes.len() as u64
            })
        };
        for seq in [0, 1, 19, 20, 21, 22, 35, 99, 100, 101] {
            assert_eq!(tail.bytes_after(seq), held(seq + 1).sum::<u64>(), "{seq}");
        }
        let again = tail.at(35).expect("it is there");
        assert_eq!(again.seq, one.seq);
        assert_eq!(tail.next(&mut again.clone()), tail.next(&mut one));
    }

    #[test]
    fn records_of_some_slots_are_copied_out_in_pieces_and_transactions_in_one() {
        let mut tail = Tail::default();
        let begin = tail.listen(5);
        let long = "x".repeat(3000);
        for number in 0..300u16 {
            let grouped = number % 50 == 7;
            if grouped {
                tail.open_group();
            }
            for part in 0..if grouped { 40 } else { 1 } {
                let text = format!("SET {number} {part} {}", &long[..usize::from(number) * 10]);
                tail.command(number % 3, 0, 1000, words(&text).into_iter());
            }
            if grouped {
                tail.close_group(9);
            }
        }
        for slots in [SlotSet::all(), [1, 2].into_iter().collect(), SlotSet::default()] {
            for most in [1, 5000, 64 * 1024, usize::MAX] {
                let (mut one, mut other) = (begin, begin);
                let (mut pieces, mut each) = (Vec::new(), Vec::new());
                loop {
                    let before = pieces.len();
                    let end = tail.copy_out(&mut one, &slots, most, &mut pieces).unwrap();
                    let kinds: Vec<Kind> =
                        crate::replication::source::records(&pieces[before..]).map(|one| one.unwrap().kind).collect();
                    let count = |kind| kinds.iter().filter(|&&each| each == kind).count();
                    assert_eq!(count(Kind::Begin), count(Kind::End), "{most}");
                    if end {
                        break;
                    }
                }
                while let Some(record) = tail.next(&mut other).unwrap() {
                    if record.concerns(&slots) {
                        each.extend_from_slice(record.bytes);
                    }
                }
                assert!(pieces == each && one.seq == other.seq, "{most}");
                assert_eq!((tail.next(&mut one), tail.end().seq), (Ok(None), one.seq));
            }
        }
        tail.trim(1000);
        assert_eq!(tail.copy_out(&mut begin.clone(), &SlotSet::all(), 1, &mut Vec::new()), Err(Lost));
    }

    #[test]
    fn a_reader_that_falls_off_is_told_so() {
        let mut tail = Tail::default();
        let mut cursor = tail.listen(1);
        let long = "x".repeat(10_000);
        (0..200).for_each(|_| write(&mut tail, &long));
        tail.trim(500_000);
        assert!(tail.held() <= 500_000 && tail.oldest() > 1);
        assert_eq!(tail.next(&mut cursor), Err(Lost));
        assert_eq!(tail.at(1), None);
        let mut cursor = tail.at(tail.oldest()).expect("the oldest");
        let mut left = 0;
        while let Ok(Some(_)) = tail.next(&mut cursor) {
            left += 1;
        }
        assert_eq!(left, 201 - tail.oldest());
        tail.leave();
        assert!(!tail.listening() && tail.held() == 0);
        let mut cursor = tail.listen(2);
        write(&mut tail, "SET k v");
        assert!(matches!(tail.next(&mut cursor), Ok(Some(_))));
        assert_eq!((tail.run(), tail.seq()), (2, 201));
    }

    #[test]
    fn several_records_of_one_transaction_are_bracketed_and_one_alone_is_not() {
        let mut tail = Tail::default();
        let mut cursor = tail.listen(1);
        for count in 0..3 {
            tail.open_group();
            (0..count).for_each(|_| write(&mut tail, "SET k v"));
            tail.close_group(9);
        }
        let mut kinds = Vec::new();
        while let Ok(Some(record)) = tail.next(&mut cursor) {
            kinds.push(record.kind);
        }
        assert_eq!(kinds, [Kind::Command, Kind::Begin, Kind::Command, Kind::Command, Kind::End]);
    }

    #[test]
    fn garbage_is_no_record() {
        assert_eq!(Record::parse(&[0; 10]), Ok(None));
        assert!(Record::parse(&[0; 16]).is_err());
        let mut bytes = vec![0; 16];
        bytes[6] = 1;
        bytes[0] = 1;
        assert_eq!(Record::parse(&bytes), Ok(None));
        bytes[4..6].copy_from_slice(&20_000u16.to_le_bytes());
        assert!(Record::parse(&bytes).is_err());
    }
}
