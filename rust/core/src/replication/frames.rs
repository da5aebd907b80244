//! What travels between a main and its replica: frames of bytes, each with its length and a checksum.
//!
//! ```text
//! length of what follows (4)   CRC-32 of what follows the checksum (4)   kind (1)   fields and payload
//! ```
//! A frame that does not check ends the stream: the replica connects anew. Numbers are little-endian. Nothing is
//! allocated by a length that is announced, but for 4 MB of a squeezed frame: one is looked at when all of it has arrived.

use crate::slot::{SLOT_COUNT, SlotSet};
use crate::stream::codec::Garbage;
use crate::stream::squeeze::Squeezer;

/// Bytes in front of a frame's fields.
pub const HEAD: usize = 9;
/// No frame is longer: the largest value there can be, and some room.
const LONGEST: usize = 1 << 30;

/// See the module's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// From the main, first: its run, and whether the replica gets all slots anew or the tail from where it was.
    Start { run: &'a [u8], seq: u64, whole: bool },
    /// From the main: records up to `seq`, those of the stream's slots alone. `clock` is the main's, to be sent back.
    Tail { seq: u64, clock: u64, records: &'a [u8] },
    /// From the main: entries of a slot. The first of a slot says that what the replica has of it is to go.
    Copy { slot: u16, first: bool, entries: &'a [u8] },
    /// From the main: a slot is here in full; its records follow. `same`: it was, as its digest showed.
    Copied { slot: u16, same: bool },
    /// From the main: all slots are here, as they were at `seq`.
    Whole { seq: u64 },
    /// From the giver of slots that move: everything was sent, and it serves them no more: they are the taker's now.
    Final { seq: u64 },
    /// From the replica: all up to `seq` is applied; `clock` is the latest it was sent.
    Ack { seq: u64, clock: u64 },
    /// From a replica that is being filled: the first `copied` slots that it was told are complete are, and all records
    /// up to `seq` of these are applied. Sent only to mains that understand it, see [`super::Sink`].
    Filling { copied: u64, seq: u64, clock: u64 },
    /// From the main: it owes the replica these slots as well from now on, and waits for their digests.
    Owes { slots: &'a [u8] },
    /// From the main: it owes the replica these slots no more, and counts on it for them no more.
    Drops { slots: &'a [u8] },
    /// From the replica: what it has of some slots, (slot, digest) each; zero for nothing.
    Digests { pairs: &'a [u8] },
    /// From the replica: it understands [`Frame::Packed`]. Sent only to mains that understand this.
    Unpacks,
    /// From the main: other frames, `len` bytes of them, squeezed.
    Packed { len: u64, frames: &'a [u8] },
    /// From the replica: it answers [`Frame::Check`]. Sent only to mains that understand this.
    Compares,
    /// From the main: what the replica has here, in the order of the stream, of a key; of a whole slot when the database
    /// is [`EVERY_DATABASE`].
    ///
    /// [`EVERY_DATABASE`]: crate::stream::tail::EVERY_DATABASE
    Check { number: u64, slot: u16, database: u8, key: &'a [u8] },
    /// From the replica: the digest of what was asked for, zero for nothing; or that it does not have the slot.
    Checked { number: u64, has: bool, digest: u64 },
}

/// Begin a frame; returns where, for [`finish`].
pub fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    out.push(kind);
    at
}

/// Complete a frame that was begun.
pub fn finish(out: &mut [u8], at: usize) {
    let crc = crc32fast::hash(&out[at + 8..]);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Number of a frame of records, for those who write it piece by piece.
pub const TAIL: u8 = 2;
/// As [`TAIL`], of entries.
pub const COPY: u8 = 3;
/// As [`TAIL`], of digests.
pub const DIGESTS: u8 = 7;
const OWES: u8 = 10;
const DROPS: u8 = 11;
const PACKED: u8 = 13;

impl<'a> Frame<'a> {
    /// Append the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let numbers = |out: &mut Vec<u8>, numbers: &[u64]| {
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        };
        let at = begin(out, 0);
        let kind = match *self {
            Frame::Start { run, seq, whole } => {
                numbers(out, &[seq]);
                out.push(u8::from(whole));
                out.extend_from_slice(run);
                1
            }
            Frame::Tail { seq, clock, records } => {
                numbers(out, &[seq, clock]);
                out.extend_from_slice(records);
                TAIL
            }
            Frame::Copy { slot, first, entries } => {
                out.extend_from_slice(&slot.to_le_bytes());
                out.push(u8::from(first));
                out.extend_from_slice(entries);
                COPY
            }
            Frame::Copied { slot, same } => {
                out.extend_from_slice(&slot.to_le_bytes());
                out.push(u8::from(same));
                4
            }
            Frame::Whole { seq } => {
                numbers(out, &[seq]);
                5
            }
            Frame::Ack { seq, clock } => {
                numbers(out, &[seq, clock]);
                6
            }
            Frame::Digests { pairs } => {
                out.extend_from_slice(pairs);
                DIGESTS
            }
            Frame::Final { seq } => {
                numbers(out, &[seq]);
                8
            }
            Frame::Filling { copied, seq, clock } => {
                numbers(out, &[copied, seq, clock]);
                9
            }
            Frame::Owes { slots } => {
                out.extend_from_slice(slots);
                OWES
            }
            Frame::Drops { slots } => {
                out.extend_from_slice(slots);
                DROPS
            }
            Frame::Unpacks => 12,
            Frame::Packed { len, frames } => {
                numbers(out, &[len]);
                out.extend_from_slice(frames);
                PACKED
            }
            Frame::Compares => 14,
            Frame::Check { number, slot, database, key } => {
                numbers(out, &[number]);
                out.extend_from_slice(&slot.to_le_bytes());
                out.push(database);
                out.extend_from_slice(key);
                15
            }
            Frame::Checked { number, has, digest } => {
                numbers(out, &[number, digest]);
                out.push(u8::from(has));
                16
            }
        };
        out[at + 8] = kind;
        finish(out, at);
    }

    /// The frame at the beginning of `bytes` and its length; `None` when it has not arrived in full.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Garbage> {
        let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if !(HEAD - 4..=LONGEST).contains(&len) {
            return Err(Garbage("a frame has an impossible length"));
        }
        let Some(body) = bytes.get(4..4 + len) else { return Ok(None) };
        let (sum, body) = body.split_at(4);
        if crc32fast::hash(body).to_le_bytes() != sum {
            return Err(Garbage("a frame's checksum is wrong"));
        }
        let mut fields = Fields(&body[1..]);
        let frame = match body[0] {
            1 => Frame::Start { seq: fields.number()?, whole: fields.flag()?, run: fields.rest() },
            TAIL => Frame::Tail { seq: fields.number()?, clock: fields.number()?, records: fields.rest() },
            COPY => Frame::Copy { slot: fields.slot()?, first: fields.flag()?, entries: fields.rest() },
            4 => Frame::Copied { slot: fields.slot()?, same: fields.flag()? },
            5 => Frame::Whole { seq: fields.number()? },
            6 => Frame::Ack { seq: fields.number()?, clock: fields.number()? },
            DIGESTS if fields.0.len().is_multiple_of(10) => Frame::Digests { pairs: fields.rest() },
            8 => Frame::Final { seq: fields.number()? },
            9 => Frame::Filling { copied: fields.number()?, seq: fields.number()?, clock: fields.number()? },
            OWES if fields.0.len().is_multiple_of(2) => Frame::Owes { slots: fields.rest() },
            DROPS if fields.0.len().is_multiple_of(2) => Frame::Drops { slots: fields.rest() },
            12 => Frame::Unpacks,
            PACKED => Frame::Packed { len: fields.number()?, frames: fields.rest() },
            14 => Frame::Compares,
            15 => Frame::Check {
                number: fields.number()?,
                slot: fields.slot()?,
                database: fields.byte()?,
                key: fields.rest(),
            },
            16 => Frame::Checked { number: fields.number()?, digest: fields.number()?, has: fields.flag()? },
            _ => return Err(Garbage("there is no such frame")),
        };
        if !fields.0.is_empty() {
            return Err(Garbage("a frame is longer than what it says"));
        }
        Ok(Some((frame, 4 + len)))
    }
}

/// Put what was written from `at` on into one frame, if that makes it smaller.
pub fn pack(squeezer: &mut Squeezer, out: &mut Vec<u8>, at: usize) {
    let (len, frames) = (out.len() - at, out.len());
    let packed = begin(out, PACKED);
    out.extend_from_slice(&(len as u64).to_le_bytes());
    let (content, mut squeezed) = (&out[at..frames], Vec::new());
    if squeezer.squeeze(content, &mut squeezed) {
        out.extend_from_slice(&squeezed);
        finish(out, packed);
        out.drain(at..frames);
    } else {
        out.truncate(frames);
    }
}

/// The (slot, digest) pairs of [`Frame::Digests`].
pub fn pairs(bytes: &[u8]) -> impl Iterator<Item = (u16, u64)> + '_ {
    bytes.as_chunks::<10>().0.iter().map(|&[a, b, c, d, e, f, g, h, i, j]| {
        (u16::from_le_bytes([a, b]) % SLOT_COUNT, u64::from_le_bytes([c, d, e, f, g, h, i, j]))
    })
}

/// The slots of [`Frame::Owes`] and [`Frame::Drops`].
pub fn slots(bytes: &[u8]) -> SlotSet {
    bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair) % SLOT_COUNT).collect()
}

/// As they are sent.
pub fn of_slots(slots: &SlotSet) -> Vec<u8> {
    slots.iter().flat_map(u16::to_le_bytes).collect()
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Garbage("a frame is shorter than its fields"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, Garbage> {
        self.take().map(u64::from_le_bytes)
    }

    fn byte(&mut self) -> Result<u8, Garbage> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, Garbage> {
        self.byte().map(|byte| byte != 0)
    }

    fn slot(&mut self) -> Result<u16, Garbage> {
        let slot = self.take().map(u16::from_le_bytes)?;
        if slot < SLOT_COUNT { Ok(slot) } else { Err(Garbage("there is no such slot")) }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [Frame<'static>; 17] = [
        Frame::Start { run: b"a/7", seq: 9, whole: true },
        Frame::Tail { seq: u64::MAX, clock: 5, records: b"abc" },
        Frame::Tail { seq: 1, clock: 5, records: b"" },
        Frame::Copy { slot: 16_383, first: false, entries: b"x" },
        Frame::Copied { slot: 0, same: true },
        Frame::Whole { seq: 3 },
        Frame::Ack { seq: 4, clock: 8 },
        Frame::Digests { pairs: &[1, 0, 2, 0, 0, 0, 0, 0, 0, 0] },
        Frame::Final { seq: 12 },
        Frame::Filling { copied: 3, seq: 7, clock: 1 },
        Frame::Owes { slots: &[1, 0, 2, 0] },
        Frame::Drops { slots: &[255, 63] },
        Frame::Unpacks,
        Frame::Packed { len: 70, frames: b"squeezed" },
        Frame::Compares,
        Frame::Check { number: 6, slot: 3, database: 255, key: b"" },
        Frame::Checked { number: 6, has: true, digest: u64::MAX },
    ];

    #[test]
    fn frames_come_back_as_they_were_however_they_arrive() {
        let mut bytes = Vec::new();
        SAMPLES.iter().for_each(|frame| frame.write(&mut bytes));
        let mut at = 0;
        for frame in SAMPLES {
            let (read, len) = Frame::parse(&bytes[at..]).unwrap().unwrap();
            assert_eq!(read, frame);
            for cut in 0..len {
                assert_eq!(Frame::parse(&bytes[at..at + cut]), Ok(None));
            }
            at += len;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(pairs(&[1, 0, 2, 0, 0, 0, 0, 0, 0, 0]).collect::<Vec<_>>(), [(1, 2)]);
    }

    #[test]
    fn a_single_wrong_bit_is_noticed() {
        for frame in SAMPLES {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            for bit in 0..bytes.len() * 8 {
                let mut wrong = bytes.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                // A longer length waits for bytes that do not come; everything else is garbage.
                assert!(!matches!(Frame::parse(&wrong), Ok(Some(_))), "{frame:?} with bit {bit}");
            }
        }
    }
}
