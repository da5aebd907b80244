//! The frames that snapshots and logs are made of: each is checked by itself, so damage is found and confined.
//!
//! ```text
//! magic (4)  kind (1)  packed (1)  tag (2)  number (8)  raw length (4)  stored length (4)  CRC-32 (4)   stored bytes
//! ```
//! The CRC covers the rest of the head and the stored bytes. `packed` says that these are compressed (zstd); then the
//! raw length is at most [`MOST_PACKED`], so that no frame can make its reader allocate more than a file holds or that.
//! The tag is the same in all frames of a file, and the number tells their order: a frame that stands where it does not
//! belong is noticed.

use crate::stream::squeeze::{self, Squeezer};
use std::borrow::Cow;

/// Bytes in front of what a frame stores.
pub const HEAD: usize = 28;
const MAGIC: [u8; 4] = *b"\xF7FC1";
/// Longest content that is compressed.
pub const MOST_PACKED: usize = squeeze::MOST;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What a snapshot is of: JSON.
    SnapshotHead = 1,
    /// Entries of a snapshot, a piece of their bytes.
    Entries = 2,
    /// How much a snapshot holds: JSON. Nothing follows but the trailer.
    SnapshotFoot = 3,
    /// Where a log begins: JSON.
    LogHead = 4,
    /// Records of a log.
    Batch = 5,
    /// Records in a snapshot, of what belongs to no entry; a piece of their bytes.
    Records = 6,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::SnapshotHead, Kind::Entries, Kind::SnapshotFoot, Kind::LogHead, Kind::Batch, Kind::Records]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// A frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// See the module's page.
    pub tag: u16,
    /// Its number.
    pub number: u64,
    /// The content.
    pub content: Vec<u8>,
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The bytes end within it.
    Short,
    /// It is none, or not as it was written.
    Bad,
}

/// What a head says.
#[derive(Clone, Copy)]
pub struct Head {
    /// Bytes that follow the head.
    pub stored: usize,
    raw: usize,
    packed: bool,
    kind: Kind,
    tag: u16,
    number: u64,
    crc: u32,
}

impl Head {
    /// Read a head.
    pub fn read(bytes: &[u8]) -> Result<Head, Damage> {
        let Some(head) = bytes.first_chunk::<HEAD>() else { return Err(Damage::Short) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let kind = Kind::of(head[4]).filter(|_| head[..4] == MAGIC && head[5] < 2).ok_or(Damage::Bad)?;
        let (packed, raw, stored) = (head[5] == 1, word(16) as usize, word(20) as usize);
        if packed && (raw > MOST_PACKED || stored > raw + 1024) || !packed && raw != stored {
            return Err(Damage::Bad);
        }
        let number = u64::from(word(8)) | u64::from(word(12)) << 32;
        Ok(Head { stored, raw, packed, kind, tag: u16::from_le_bytes([head[6], head[7]]), number, crc: word(24) })
    }
}

/// Packs frames and unpacks them.
#[derive(Default)]
pub struct Packer {
    squeezer: Squeezer,
}

impl Packer {
    /// Append a frame to `out`.
    pub fn pack(&mut self, kind: Kind, tag: u16, number: u64, content: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + HEAD, 0);
        let packed = self.squeezer.squeeze(content, out);
        if !packed {
            out.extend_from_slice(content);
        }
        let stored = out.len() - start - HEAD;
        let head = &mut out[start..start + HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = kind as u8;
        head[5] = u8::from(packed);
        head[6..8].copy_from_slice(&tag.to_le_bytes());
        head[8..16].copy_from_slice(&number.to_le_bytes());
        head[16..20].copy_from_slice(&(content.len() as u32).to_le_bytes());
        head[20..24].copy_from_slice(&(stored as u32).to_le_bytes());
        let crc = checksum(&out[start..start + 24], &out[start + HEAD..]);
        out[start + 24..start + HEAD].copy_from_slice(&crc.to_le_bytes());
    }

    /// The frame whose head and stored bytes these are.
    pub fn unpack(&mut self, head: Head, head_bytes: &[u8], stored: &[u8]) -> Result<Frame, Damage> {
        let Head { raw, packed, kind, tag, number, crc, .. } = head;
        if checksum(&head_bytes[..24], stored) != crc {
            return Err(Damage::Bad);
        }
        let content = if packed {
            Cow::Owned(self.squeezer.restore(stored, raw).ok_or(Damage::Bad)?)
        } else {
            Cow::Borrowed(stored)
        };
        Ok(Frame { kind, tag, number, content: content.into_owned() })
    }

    /// The frame at the beginning of `bytes`, and its length with its head.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(Frame, usize), Damage> {
        let head = Head::read(bytes)?;
        let stored = bytes.get(HEAD..HEAD + head.stored).ok_or(Damage::Short)?;
        Ok((self.unpack(head, &bytes[..HEAD], stored)?, HEAD + head.stored))
    }

    /// Where the next whole frame begins, from `from` on.
    pub fn seek(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(found) = memchr::memmem::find(bytes.get(at..)?, &MAGIC) {
            at += found;
            if self.read(&bytes[at..]).is_ok() {
                return Some(at);
            }
            at += 1;
        }
        None
    }
}

fn checksum(head: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(stored);
    hasher.finalize()
}

#[test]
fn frames_read_back_and_any_flipped_bit_is_noticed() {
    let mut packer = Packer::default();
    for content in [
        &b""[..],
        b"short",
        &b"long and alike ".repeat(100),
        &(0..2000u32).flat_map(|n| (n * n * 7).to_be_bytes()).collect::<Vec<u8>>(),
    ] {
        let mut bytes = b"before".to_vec();
        packer.pack(Kind::Batch, 7, 1 << 40, content, &mut bytes);
        let (frame, len) = packer.read(&bytes[6..]).expect("a frame");
        assert_eq!((frame.kind, frame.tag, frame.number, &frame.content[..]), (Kind::Batch, 7, 1 << 40, content));
        assert_eq!((len, packer.seek(&bytes, 0)), (bytes.len() - 6, Some(6)));
        for at in 6..bytes.len() {
            for bit in [1, 0x80] {
                bytes[at] ^= bit;
                assert!(packer.read(&bytes[6..]).is_err(), "byte {at}");
                bytes[at] ^= bit;
            }
        }
        assert_eq!(packer.read(&bytes[6..bytes.len() - 1]), Err(Damage::Short));
    }
}
