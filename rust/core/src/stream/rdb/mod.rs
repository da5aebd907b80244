//! What real Redis and Valkey write: every form of a value in their RDB files, the payload of DUMP, and whole files.
//!
//! [`compact`] reads packed collections, [`lzf`] compressed strings, [`crc64`] is the checksum, [`file`] goes through a
//! file or a stream piece by piece, [`changes`] through what a replica hears after it. We write plain forms only: every Redis reads them.

pub mod changes;
pub mod compact;
pub mod crc64;
pub mod file;
pub mod lzf;

#[cfg(test)]
use super::codec;
use super::codec::{Garbage, Reader, kind};

/// The RDB version that payloads of ours are marked with: the lowest that has all plain forms, so that as old a
/// Redis as 5.0 takes them.
const VERSION: u16 = 9;
/// The highest version that is read: that of Redis 7.4 and 8, and of Valkey 9, which counts from 80.
const VERSIONS: [std::ops::RangeInclusive<u16>; 2] = [1..=12, 80..=80];

const COMPRESSED: u8 = 3;

/// Whether a file or payload of this version can be read.
pub fn knows_version(version: u16) -> bool {
    VERSIONS.iter().any(|range| range.contains(&version))
}

/// Pass over a byte string.
fn skip_string(reader: &mut Reader<'_>) -> Result<(), Garbage> {
    let before = *reader;
    match reader.length_or_special()? {
        Err(COMPRESSED) => {
            let packed = reader.length()?;
            reader.length()?;
            reader.bytes(packed).map(drop)
        }
        _ => {
            *reader = before;
            reader.string().map(drop)
        }
    }
}

/// Pass over the value behind its type byte, in any form; a stream too.
pub fn skip_value(of: u8, reader: &mut Reader<'_>) -> Result<(), Garbage> {
    match of {
        kind::STRING => skip_string(reader),
        kind::LIST | kind::SET | kind::HASH | kind::SORTED_SET => {
            for _ in 0..reader.length()? {
                skip_string(reader)?;
                match of {
                    kind::HASH => skip_string(reader)?,
                    kind::SORTED_SET => drop(reader.bytes(8)?),
                    _ => {}
                }
            }
            Ok(())
        }
        15 | 19 | 21 => skip_stream(of, reader),
        _ => compact::skip(of, reader),
    }
}

/// Pass over a stream: entries, then its marks, then groups with what is pending and their consumers.
fn skip_stream(of: u8, reader: &mut Reader<'_>) -> Result<(), Garbage> {
    for _ in 0..reader.length()? {
        skip_string(reader)?;
        skip_string(reader)?;
    }
    // Length, last id; since 7.0 also the first id, the greatest deleted id, and how many were ever added.
    for _ in 0..if of == 15 { 3 } else { 8 } {
        reader.length()?;
    }
    for _ in 0..reader.length()? {
        skip_string(reader)?;
        for _ in 0..if of == 15 { 2 } else { 3 } {
            reader.length()?;
        }
        for _ in 0..reader.length()? {
            reader.bytes(24)?;
            reader.length()?;
        }
        for _ in 0..reader.length()? {
            skip_string(reader)?;
            reader.bytes(if of == 21 { 16 } else { 8 })?;
            for _ in 0..reader.length()? {
                reader.bytes(16)?;
            }
        }
    }
    Ok(())
}

/// Make a DUMP payload of a value that we wrote: append version and checksum.
pub fn seal(payload: &mut Vec<u8>) {
    seal_as(payload, VERSION);
}

/// As [`seal`], for a value from a file of this version.
fn seal_as(payload: &mut Vec<u8>, version: u16) {
    payload.extend_from_slice(&version.to_le_bytes());
    let sum = crc64::update(0, payload);
    payload.extend_from_slice(&sum.to_le_bytes());
}

/// The value within a DUMP payload, if version and checksum are right.
pub fn opened(payload: &[u8]) -> Option<&[u8]> {
    let (rest, sum) = payload.split_last_chunk::<8>()?;
    let (value, version) = rest.split_last_chunk::<2>()?;
    let right = crc64::update(0, rest) == u64::from_le_bytes(*sum);
    (right && knows_version(u16::from_le_bytes(*version))).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &[u8]) -> Vec<u8> {
        let mut out = vec![kind::STRING];
        codec::put_string(&mut out, text);
        out
    }

    #[test]
    fn a_payload_is_opened_and_one_that_was_changed_is_not() {
        let mut payload = text(b"10");
        seal(&mut payload);
        assert_eq!(opened(&payload), Some(&text(b"10")[..]));
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 4;
            assert_eq!(opened(&changed), None, "{at}");
        }
        assert_eq!(opened(b""), None);
    }
}
