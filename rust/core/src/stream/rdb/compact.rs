//! The compact forms in which Redis keeps small collections, and writes them to RDB files: listpack, ziplist, intset,
//! zipmap, quicklists of these. Each is read into the plain form of its type.
//!
//! Lengths and counts in them are hints to us: an element is only ever as long as the bytes that are there.

use crate::resp::number::parse_f64;
use crate::stream::codec::{Garbage, Reader, kind, put_string};
use std::borrow::Cow;

/// A collection in the plain form: its type, how many elements (fields, members) it has, and their bytes.
pub struct Plain {
    /// The type byte of the plain form.
    pub kind: u8,
    /// How many elements.
    pub count: usize,
    /// The elements, one after the other.
    pub body: Vec<u8>,
}

/// RDB's types that are not plain.
pub const SORTED_SET_1: u8 = 3;
const HASH_ZIPMAP: u8 = 9;
const LIST_ZIPLIST: u8 = 10;
const SET_INTSET: u8 = 11;
const SORTED_SET_ZIPLIST: u8 = 12;
const HASH_ZIPLIST: u8 = 13;
const LIST_QUICKLIST: u8 = 14;
const HASH_LISTPACK: u8 = 16;
const SORTED_SET_LISTPACK: u8 = 17;
const LIST_QUICKLIST_2: u8 = 18;
const SET_LISTPACK: u8 = 20;
/// Hashes whose fields may expire, of Redis 7.4.
const HASH_FIELD_EXPIRY: u8 = 24;
const HASH_LISTPACK_EXPIRY: u8 = 25;

const NODE_PLAIN: usize = 1;

/// Read a value whose type byte was read and is none of the plain ones.
pub fn read(of: u8, reader: &mut Reader<'_>) -> Result<Plain, Garbage> {
    let mut plain = Plain { kind: kind::LIST, count: 0, body: Vec::new() };
    match of {
        SORTED_SET_1 => {
            plain.kind = kind::SORTED_SET;
            for _ in 0..reader.length()? {
                let member = reader.string()?;
                let score = old_score(reader)?;
                plain.member(&member, score)?;
            }
        }
        LIST_ZIPLIST => ziplist(&reader.string()?, |element| plain.element(element))?,
        LIST_QUICKLIST => {
            for _ in 0..reader.length()? {
                ziplist(&reader.string()?, |element| plain.element(element))?;
            }
        }
        LIST_QUICKLIST_2 => {
            for _ in 0..reader.length()? {
                let node = reader.length()?;
                let bytes = reader.string()?;
                if node == NODE_PLAIN {
                    plain.element(&bytes);
                } else {
                    listpack(&bytes, |element| plain.element(element))?;
                }
            }
        }
        SET_INTSET => {
            plain.kind = kind::SET;
            intset(&reader.string()?, |element| plain.element(element))?;
        }
        SET_LISTPACK => {
            plain.kind = kind::SET;
            listpack(&reader.string()?, |element| plain.element(element))?;
        }
        HASH_ZIPMAP => {
            plain.kind = kind::HASH;
            zipmap(&reader.string()?, |element| plain.element(element))?;
        }
        HASH_ZIPLIST | HASH_LISTPACK => {
            plain.kind = kind::HASH;
            let bytes = reader.string()?;
            let add = |element: &[u8]| plain.element(element);
            if of == HASH_ZIPLIST { ziplist(&bytes, add)? } else { listpack(&bytes, add)? }
        }
        SORTED_SET_ZIPLIST | SORTED_SET_LISTPACK => {
            plain.kind = kind::SORTED_SET;
            let bytes = reader.string()?;
            let (mut member, mut wrong) = (None::<Vec<u8>>, None);
            let add = |element: &[u8]| match member.take() {
                None => member = Some(element.to_vec()),
                Some(member) => {
                    let score = parse_f64(element).ok_or(Garbage("a score is not a number"));
                    wrong = score.and_then(|score| plain.member(&member, score)).err().or(wrong);
                }
            };
            if of == SORTED_SET_ZIPLIST {
                ziplist(&bytes, add)?
            } else {
                listpack(&bytes, add)?
            }
            match (wrong, member) {
                (Some(wrong), _) => return Err(wrong),
                (None, Some(_)) => return Err(ODD),
                (None, None) => {}
            }
        }
        HASH_FIELD_EXPIRY | HASH_LISTPACK_EXPIRY => {
            return Err(Garbage("its fields expire each at a time of its own, which is not known here"));
        }
        6 | 7 => return Err(Garbage("it is a value of a module")),
        _ => return Err(Garbage("there is no such kind of value")),
    }
    if plain.kind == kind::HASH {
        if !plain.count.is_multiple_of(2) {
            return Err(ODD);
        }
        plain.count /= 2;
    }
    Ok(plain)
}

/// Pass over a value as [`read`] does, without looking into its strings.
pub fn skip(of: u8, reader: &mut Reader<'_>) -> Result<(), Garbage> {
    let strings = match of {
        LIST_ZIPLIST | SET_INTSET | SET_LISTPACK | HASH_ZIPMAP | HASH_ZIPLIST | HASH_LISTPACK | SORTED_SET_ZIPLIST
        | SORTED_SET_LISTPACK => 1,
        LIST_QUICKLIST | LIST_QUICKLIST_2 | SORTED_SET_1 => reader.length()?,
        HASH_FIELD_EXPIRY => {
            reader.bytes(8)?;
            for _ in 0..reader.length()? {
                reader.length()?;
                super::skip_string(reader)?;
                super::skip_string(reader)?;
            }
            0
        }
        HASH_LISTPACK_EXPIRY => {
            reader.bytes(8)?;
            1
        }
        _ => return Err(Garbage("there is a value of a kind that is not known")),
    };
    for _ in 0..strings {
        if of == LIST_QUICKLIST_2 {
            reader.length()?;
        }
        super::skip_string(reader)?;
        if of == SORTED_SET_1 {
            old_score(reader)?;
        }
    }
    Ok(())
}

const ODD: Garbage = Garbage("a field or member comes without its value");
const CUT: Garbage = Garbage("a packed collection ends too early");
const FORM: Garbage = Garbage("a packed collection has an element of no known form");

impl Plain {
    fn element(&mut self, element: &[u8]) {
        put_string(&mut self.body, element);
        self.count += 1;
    }

    fn member(&mut self, member: &[u8], score: f64) -> Result<(), Garbage> {
        if score.is_nan() {
            return Err(Garbage("a score is not a number"));
        }
        put_string(&mut self.body, member);
        self.body.extend_from_slice(&score.to_le_bytes());
        self.count += 1;
        Ok(())
    }
}

/// A score in digits, as the first RDB versions had it.
fn old_score(reader: &mut Reader<'_>) -> Result<f64, Garbage> {
    match reader.byte()? {
        253 => Ok(f64::NAN),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        len => parse_f64(reader.bytes(usize::from(len))?).ok_or(Garbage("a score is not a number")),
    }
}

/// The next `count` bytes, and what follows.
fn take(bytes: &[u8], count: usize) -> Result<(&[u8], &[u8]), Garbage> {
    bytes.split_at_checked(count).ok_or(CUT)
}

/// The next `N` bytes of a number, lowest first, with its sign.
fn number<const N: usize>(bytes: &[u8]) -> Result<(i64, &[u8]), Garbage> {
    let (digits, rest) = bytes.split_first_chunk::<N>().ok_or(CUT)?;
    let joined = digits.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let unused = 64 - 8 * N as u32;
    Ok((((joined << unused) as i64) >> unused, rest))
}

fn digits(number: i64) -> Cow<'static, [u8]> {
    Cow::Owned(number.to_string().into_bytes())
}

/// Visit the elements of a listpack: total length (4 bytes), count (2), elements each with its length behind, 255.
fn listpack(bytes: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Garbage> {
    let (_, mut rest) = take(bytes, 6)?;
    loop {
        let (&[first], after) = rest.split_first_chunk::<1>().ok_or(CUT)?;
        let second = || after.first().map(|&byte| usize::from(byte)).ok_or(CUT);
        let text = |head: usize, len: usize| {
            let (text, next) = take(take(rest, head)?.1, len)?;
            Ok((Cow::Borrowed(text), next))
        };
        let (element, next) = match first {
            0xFF if after.is_empty() => return Ok(()),
            0..=0x7F => (digits(i64::from(first)), after),
            0x80..=0xBF => text(1, usize::from(first & 0x3F))?,
            0xC0..=0xDF => {
                let joined = i64::from(first & 0x1F) << 8 | second()? as i64;
                (digits(if joined >= 1 << 12 { joined - (1 << 13) } else { joined }), &after[1..])
            }
            0xE0..=0xEF => text(2, usize::from(first & 0x0F) << 8 | second()?)?,
            0xF0 => {
                let (len, _) = number::<4>(after)?;
                text(5, len as u32 as usize)?
            }
            0xF1 => number::<2>(after).map(|(number, next)| (digits(number), next))?,
            0xF2 => number::<3>(after).map(|(number, next)| (digits(number), next))?,
            0xF3 => number::<4>(after).map(|(number, next)| (digits(number), next))?,
            0xF4 => number::<8>(after).map(|(number, next)| (digits(number), next))?,
            _ => return Err(FORM),
        };
        visit(&element);
        // Behind an element stands how long it is, for who reads backward.
        let len = rest.len() - next.len();
        let behind = match len {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        };
        rest = take(next, behind)?.1;
    }
}

/// Visit the elements of a ziplist: total length (4 bytes), place of the last (4), count (2), elements each with the
/// length of the one before in front, 255.
fn ziplist(bytes: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Garbage> {
    let (_, mut rest) = take(bytes, 10)?;
    loop {
        let (&[before], after) = rest.split_first_chunk::<1>().ok_or(CUT)?;
        let entry = match before {
            0xFF if after.is_empty() => return Ok(()),
            0xFF => return Err(FORM),
            0xFE => take(after, 4)?.1,
            _ => after,
        };
        let (&[first], after) = entry.split_first_chunk::<1>().ok_or(CUT)?;
        let text = |head: usize, len: usize| {
            let (text, next) = take(take(entry, head)?.1, len)?;
            Ok((Cow::Borrowed(text), next))
        };
        let (element, next) = match first {
            0x00..=0x3F => text(1, usize::from(first))?,
            0x40..=0x7F => {
                let low = *after.first().ok_or(CUT)?;
                text(2, usize::from(first & 0x3F) << 8 | usize::from(low))?
            }
            0x80 => {
                let len = after.first_chunk::<4>().ok_or(CUT)?;
                text(5, u32::from_be_bytes(*len) as usize)?
            }
            0xC0 => number::<2>(after).map(|(number, next)| (digits(number), next))?,
            0xD0 => number::<4>(after).map(|(number, next)| (digits(number), next))?,
            0xE0 => number::<8>(after).map(|(number, next)| (digits(number), next))?,
            0xF0 => number::<3>(after).map(|(number, next)| (digits(number), next))?,
            0xFE => number::<1>(after).map(|(number, next)| (digits(number), next))?,
            0xF1..=0xFD => (digits(i64::from(first & 0x0F) - 1), after),
            _ => return Err(FORM),
        };
        visit(&element);
        rest = next;
    }
}

/// Visit the members of an intset: width (4 bytes), count (4), numbers.
fn intset(bytes: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Garbage> {
    let (head, mut rest) = take(bytes, 8)?;
    let width = head[0];
    while !rest.is_empty() {
        let (each, next) = match width {
            2 => number::<2>(rest)?,
            4 => number::<4>(rest)?,
            8 => number::<8>(rest)?,
            _ => return Err(FORM),
        };
        visit(&digits(each));
        rest = next;
    }
    Ok(())
}

/// Visit the fields and values of a zipmap: count (1 byte), lengths and strings, 255; a value has room behind it.
fn zipmap(bytes: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Garbage> {
    let (_, mut rest) = take(bytes, 1)?;
    let mut is_value = false;
    loop {
        let (&[first], after) = rest.split_first_chunk::<1>().ok_or(CUT)?;
        let (len, after) = match first {
            0xFF if !is_value && after.is_empty() => return Ok(()),
            0xFE => {
                let (len, after) = after.split_first_chunk::<4>().ok_or(CUT)?;
                (u32::from_le_bytes(*len) as usize, after)
            }
            0xFF => return Err(FORM),
            len => (usize::from(len), after),
        };
        let (room, after) = if is_value {
            let (&[room], after) = after.split_first_chunk::<1>().ok_or(CUT)?;
            (usize::from(room), after)
        } else {
            (0, after)
        };
        let (text, after) = take(after, len)?;
        visit(text);
        rest = take(after, room)?.1;
        is_value = !is_value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(of: u8, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Garbage> {
        let mut all = Vec::new();
        match of {
            HASH_ZIPMAP => zipmap(bytes, |element| all.push(element.to_vec()))?,
            SET_INTSET => intset(bytes, |element| all.push(element.to_vec()))?,
            LIST_ZIPLIST => ziplist(bytes, |element| all.push(element.to_vec()))?,
            _ => listpack(bytes, |element| all.push(element.to_vec()))?,
        }
        Ok(all)
    }

    fn expect(of: u8, bytes: &[u8], wanted: &[&[u8]]) {
        assert_eq!(elements(of, bytes).as_deref().unwrap(), wanted);
        // Cut anywhere it is an error, and no panic.
        for end in 0..bytes.len() {
            let read = elements(of, &bytes[..end]);
            assert!(read.is_err() || of == SET_INTSET, "{end}");
        }
    }

    #[test]
    fn packed_elements_come_out() {
        expect(
            SET_LISTPACK,
            b"\0\0\0\0\0\0\x01\x01\x83abc\x04\xdf\xff\x02\xf1\xff\x7f\x03\xf2\0\0\x80\x04\xf3\0\0\0\x80\x05\xe0\x02xy\x04\xff",
            &[b"1", b"abc", b"-1", b"32767", b"-8388608", b"-2147483648", b"xy"],
        );
        expect(
            LIST_ZIPLIST,
            b"\0\0\0\0\0\0\0\0\0\0\0\x03abc\x05\xf1\x02\xfd\x02\xfe\x80\x03\xc0\0\x80\x04\xf0\xff\xff\xff\x05\x40\x02hi\xff",
            &[b"abc", b"0", b"12", b"-128", b"-32768", b"-1", b"hi"],
        );
        expect(SET_INTSET, b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0", &[b"-1", b"5"]);
        expect(HASH_ZIPMAP, b"\x01\x01f\x02\x01vv\0\xff", &[b"f", b"vv"]);
    }

    #[test]
    fn every_type_is_read_into_its_plain_form_and_passed_over() {
        let pack = b"\0\0\0\0\0\0\x81f\x02\x05\x01\xff"; // A listpack: f, 5.
        let zip = b"\0\0\0\0\0\0\0\0\0\0\0\x01f\x03\xf6\xff"; // A ziplist: f, 5.
        let of = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
        let node = |count: u8, nodes: &[&[u8]]| [&[count], &nodes.concat()[..]].concat();
        let strings: &[u8] = b"\x01f\x015";
        let score: &[u8] = b"\x01f\0\0\0\0\0\0\x14\x40";
        for (type_byte, bytes, wanted_kind, count, body) in [
            (SORTED_SET_1, b"\x01\x01f\x015".to_vec(), kind::SORTED_SET, 1, score),
            (HASH_ZIPMAP, of(b"\x01\x01f\x01\x005\xff"), kind::HASH, 1, strings),
            (LIST_ZIPLIST, of(zip), kind::LIST, 2, strings),
            (SET_INTSET, of(b"\x02\0\0\0\x01\0\0\0\x05\0"), kind::SET, 1, b"\x015"),
            (SORTED_SET_ZIPLIST, of(zip), kind::SORTED_SET, 1, score),
            (HASH_ZIPLIST, of(zip), kind::HASH, 1, strings),
            (LIST_QUICKLIST, node(2, &[&of(zip), &of(zip)]), kind::LIST, 4, b"\x01f\x015\x01f\x015"),
            (HASH_LISTPACK, of(pack), kind::HASH, 1, strings),
            (SORTED_SET_LISTPACK, of(pack), kind::SORTED_SET, 1, score),
            (LIST_QUICKLIST_2, node(2, &[b"\x02", &of(pack), b"\x01\x01x"]), kind::LIST, 3, b"\x01f\x015\x01x"),
            (SET_LISTPACK, of(pack), kind::SET, 2, strings),
        ] {
            let mut reader = Reader::new(&bytes);
            let plain = read(type_byte, &mut reader).unwrap_or_else(|garbage| panic!("{type_byte}: {garbage}"));
            assert!(reader.is_empty(), "{type_byte}");
            assert_eq!((plain.kind, plain.count, &plain.body[..]), (wanted_kind, count, body), "{type_byte}");
            let mut reader = Reader::new(&bytes);
            assert_eq!(skip(type_byte, &mut reader).map(|()| reader.is_empty()), Ok(true), "{type_byte}");
            for end in 0..bytes.len() {
                assert!(read(type_byte, &mut Reader::new(&bytes[..end])).is_err(), "{type_byte} {end}");
            }
        }
    }
}
