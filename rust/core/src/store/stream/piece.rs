//! Byte strings and numbers one behind the other, each in as few bytes as it needs.
//!
//! ```text
//! 0xxxxxxx                     a number from 0 to 127
//! 10xxxxxx bytes               a string of up to 63
//! 110xxxxx x                   a number from -4096 to 4095
//! 1110xxxx x bytes             a string of up to 4095
//! F0 x4 bytes                  a longer string
//! F1 x2 | F2 x3 | F3 x4 | F4 x8   a larger number
//! ```
//! A string that spells a number in its only way is kept as the number. Redis' listpack has the same elements, each with
//! its length behind it; [`as_listpack`] tells how long that is: where Redis closes a block, so do we.

use crate::resp::number::parse_i64;

/// A name or a value as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Any bytes.
    Text(&'a [u8]),
    /// Digits.
    Number(i64),
}

impl Piece<'_> {
    /// Use the bytes that were put in.
    #[inline]
    pub fn with<T>(self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Piece::Text(text) => use_it(text),
            Piece::Number(number) => use_it(itoa::Buffer::new().format(number).as_bytes()),
        }
    }

    /// Whether these bytes were put in.
    #[inline]
    pub fn is(self, bytes: &[u8]) -> bool {
        match self {
            Piece::Text(text) => text == bytes,
            Piece::Number(_) => self.with(|digits| digits == bytes),
        }
    }
}

/// Append a byte string.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    match parse_i64(bytes) {
        Some(number @ 0..=127) => out.push(number as u8),
        Some(number @ -4096..=4095) => {
            let bits = (number & 0x1FFF) as u16;
            out.extend_from_slice(&[0xC0 | (bits >> 8) as u8, bits as u8]);
        }
        Some(number) => {
            let (mark, len) = match number {
                -0x8000..=0x7FFF => (0xF1, 2),
                -0x80_0000..=0x7F_FFFF => (0xF2, 3),
                -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
                _ => (0xF4, 8),
            };
            out.push(mark);
            out.extend_from_slice(&number.to_le_bytes()[..len]);
        }
        None => {
            match bytes.len() {
                len @ 0..=63 => out.push(0x80 | len as u8),
                len @ 64..=4095 => out.extend_from_slice(&[0xE0 | (len >> 8) as u8, len as u8]),
                len => {
                    out.push(0xF0);
                    out.extend_from_slice(&(len as u32).to_le_bytes());
                }
            }
            out.extend_from_slice(bytes);
        }
    }
}

/// The piece at the start of `bytes`, and what follows it. Bytes are those that [`put`] wrote.
#[inline]
pub fn take(bytes: &[u8]) -> (Piece<'_>, &[u8]) {
    let number = |from: usize, len: usize| {
        let mut wide = [0; 8];
        wide[8 - len..].copy_from_slice(&bytes[from..from + len]);
        // The bytes stand at the upper end, so shifting down carries the sign.
        (Piece::Number(i64::from_le_bytes(wide) >> (64 - 8 * len)), &bytes[from + len..])
    };
    let text = |head: usize, len: usize| {
        let (text, rest) = bytes[head..].split_at(len);
        (Piece::Text(text), rest)
    };
    match bytes[0] {
        small @ 0..0x80 => (Piece::Number(i64::from(small)), &bytes[1..]),
        head @ 0x80..0xC0 => text(1, usize::from(head & 0x3F)),
        head @ 0xC0..0xE0 => {
            let bits = u16::from(head & 0x1F) << 8 | u16::from(bytes[1]);
            (Piece::Number(i64::from((bits << 3) as i16 >> 3)), &bytes[2..])
        }
        head @ 0xE0..0xF0 => text(2, usize::from(head & 0xF) << 8 | usize::from(bytes[1])),
        0xF0 => text(5, u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize),
        0xF1 => number(1, 2),
        0xF2 => number(1, 3),
        0xF3 => number(1, 4),
        _ => number(1, 8),
    }
}

/// What follows the first `count` pieces.
#[inline]
pub fn skip(mut bytes: &[u8], count: usize) -> &[u8] {
    for _ in 0..count {
        bytes = match bytes[0] {
            0..0x80 => &bytes[1..],
            head @ 0x80..0xC0 => &bytes[1 + usize::from(head & 0x3F)..],
            _ => take(bytes).1,
        };
    }
    bytes
}

/// Append a number from 0 on, seven bits to the byte.
#[inline]
pub fn put_count(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number that [`put_count`] wrote, and what follows it.
#[inline]
pub fn take_count(bytes: &[u8]) -> (u64, &[u8]) {
    let (mut number, mut shift) = (0, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return (number, &bytes[at + 1..]);
        }
        shift += 7;
        if shift > 63 {
            return (number, &bytes[at + 1..]);
        }
    }
    (number, &[])
}

/// The bytes an element of Redis' listpack takes for this string.
pub fn as_listpack(bytes: &[u8]) -> usize {
    match parse_i64(bytes) {
        Some(number) => number_as_listpack(number),
        None => with_back_length(
            bytes.len()
                + match bytes.len() {
                    0..=63 => 1,
                    64..=4095 => 2,
                    _ => 5,
                },
        ),
    }
}

/// The bytes an element of Redis' listpack takes for this number.
pub fn number_as_listpack(number: i64) -> usize {
    with_back_length(match number {
        0..=127 => 1,
        -4096..=4095 => 2,
        -0x8000..=0x7FFF => 3,
        -0x80_0000..=0x7F_FFFF => 4,
        -0x8000_0000..=0x7FFF_FFFF => 5,
        _ => 9,
    })
}

fn with_back_length(len: usize) -> usize {
    len + back_length(len)
}

/// The bytes in which Redis' listpack tells the length of an element that is so long.
pub fn back_length(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// The length of the piece at the start of bytes that may be anything; `None` when they are none or cut.
pub fn len_of(bytes: &[u8]) -> Option<usize> {
    let head = *bytes.first()?;
    let len = match head {
        0..0x80 => 1,
        0x80..0xC0 => 1 + usize::from(head & 0x3F),
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 2 + (usize::from(head & 0xF) << 8 | usize::from(*bytes.get(1)?)),
        0xF0 => 5 + u32::from_le_bytes([*bytes.get(1)?, *bytes.get(2)?, *bytes.get(3)?, *bytes.get(4)?]) as usize,
        0xF1 => 3,
        0xF2 => 4,
        0xF3 => 5,
        0xF4 => 9,
        _ => return None,
    };
    (len <= bytes.len()).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_string_and_number_reads_back_and_is_skipped() {
        let mut all: Vec<Vec<u8>> =
            ["", "a", "-", "-0", "007", "+1", "1.5"].iter().map(|text| text.as_bytes().to_vec()).collect();
        for bits in 0..64 {
            for near in [-2i64, -1, 0, 1] {
                let number = (1i64 << bits).wrapping_add(near);
                all.extend([number, number.wrapping_neg()].map(|number| number.to_string().into_bytes()));
            }
        }
        all.extend([63, 64, 4095, 4096, 70_000].map(|len| vec![b'x'; len]));
        let mut bytes = Vec::new();
        all.iter().for_each(|each| put(&mut bytes, each));
        let mut rest = &bytes[..];
        for each in &all {
            let (piece, after) = take(rest);
            assert!(piece.is(each), "{:?} became {piece:?}", String::from_utf8_lossy(each));
            assert_eq!(skip(rest, 1).len(), after.len());
            rest = after;
        }
        assert!(rest.is_empty());
        assert!(skip(&bytes, all.len()).is_empty());
    }

    #[test]
    fn counts_read_back() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut bytes = Vec::new();
            put_count(&mut bytes, number);
            bytes.push(9);
            assert_eq!(take_count(&bytes), (number, &[9][..]));
        }
    }
}
