//! The entries of a snapshot file, one after the other, for those who are no node: the warm-up's first look, `fastcache
//! snapshot show|verify|export`, `fastcache restore`.

use super::snapshot::{About, Reader as File, Sum, Wrong};
use crate::command::scripting::registry;
use crate::stream::codec::{self, Head, Reader, kind};
use crate::stream::rdb;
use serde_json::{Value, json};
use std::path::Path;

/// See the module's page.
pub struct Entries {
    file: File,
    buffer: Vec<u8>,
    at: usize,
    /// Too little for an entry: more is needed before it is worth another look.
    retry_at: usize,
    ended: bool,
    seen: u64,
    passed: u64,
}

impl Entries {
    /// Open a snapshot.
    pub fn open(path: &Path) -> Result<Entries, Wrong> {
        let file = File::open(path)?;
        Ok(Entries { file, buffer: Vec::new(), at: 0, retry_at: 0, ended: false, seen: 0, passed: 0 })
    }

    /// What the snapshot is of.
    pub fn about(&self) -> &About {
        &self.file.about
    }

    /// How much it holds; known at the end.
    pub fn sum(&self) -> Option<&Sum> {
        self.file.sum()
    }

    /// The code of each library of functions in it; known at the end.
    pub fn libraries(&self) -> Vec<&[u8]> {
        registry::codes(&self.file.records)
    }

    /// Bytes of entries that were passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Visit the next entry: its head, its value, and the bytes of both. `None` behind the last, when the file is whole.
    pub fn next_entry<T>(&mut self, visit: impl FnOnce(&Head<'_>, &[u8], usize) -> T) -> Result<Option<T>, Wrong> {
        loop {
            let rest = &self.buffer[self.at..];
            if !rest.is_empty() && (rest.len() >= self.retry_at || self.ended) {
                let mut reader = Reader::new(rest);
                let head = codec::read_head(&mut reader);
                let value = reader.rest();
                match head.and_then(|head| codec::skip_value(&mut reader).map(|()| head)) {
                    Ok(head) => {
                        let len = rest.len() - reader.rest().len();
                        let seen = visit(&head, &value[..value.len() - reader.rest().len()], len);
                        self.at += len;
                        self.passed += len as u64;
                        self.seen += 1;
                        self.retry_at = 0;
                        return Ok(Some(seen));
                    }
                    // An entry of gigabytes is not tried again at every piece.
                    Err(codec::ENDS) if !self.ended => self.retry_at = rest.len() * 2,
                    Err(garbage) => return Err(Wrong(format!("entry {} is none: {garbage}", self.seen))),
                }
            }
            if self.ended {
                let says = self.file.sum().map_or(0, |sum| sum.entries);
                return if says == self.seen {
                    Ok(None)
                } else {
                    Err(Wrong(format!("it holds {} entries and says {says}", self.seen)))
                };
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.file.piece()? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => self.ended = true,
            }
        }
    }
}

/// The head or the foot of a snapshot as JSON.
pub fn told(thing: &impl serde::Serialize) -> String {
    serde_json::to_string(thing).unwrap_or_default()
}

/// The request that brings an entry in: RESTORE with its times.
pub fn restore(head: &Head<'_>, value: &[u8], replace: bool) -> Vec<Vec<u8>> {
    let mut payload = value.to_vec();
    rdb::seal(&mut payload);
    let expiry = head.meta.expiry.unwrap_or(0).to_string().into_bytes();
    let mut words = vec![b"RESTORE".to_vec(), head.key.to_vec(), expiry, payload, b"ABSTTL".to_vec()];
    words.push(b"TIMES".to_vec());
    words.extend([head.meta.created, head.meta.updated].map(|time| time.to_string().into_bytes()));
    if replace {
        words.push(b"REPLACE".to_vec());
    }
    words
}

/// An entry as JSON, for people and programs: times in milliseconds; bytes that are no text as `{"base64": "..."}`.
pub fn as_json(head: &Head<'_>, value: &[u8]) -> Value {
    let (kind, content) = content(value).unwrap_or(("unknown", json!({ "base64": base64(value) })));
    json!({
        "key": text(&head.key),
        "database": head.database,
        "type": kind,
        "value": content,
        "expiresAt": head.meta.expiry,
        "createdAt": u64::from(head.meta.created) * 1000,
        "updatedAt": u64::from(head.meta.updated) * 1000,
    })
}

fn content(value: &[u8]) -> Result<(&'static str, Value), codec::Garbage> {
    let mut reader = Reader::new(value);
    let of = reader.byte()?;
    if of == kind::STRING {
        return Ok(("string", text(&reader.string()?)));
    }
    if ![kind::LIST, kind::SET, kind::HASH, kind::SORTED_SET].contains(&of) {
        // Streams: their inner form says nothing to people, but goes back with RESTORE.
        return Ok(("stream", json!({ "base64": base64(value) })));
    }
    let mut items = Vec::new();
    for _ in 0..reader.length()? {
        let first = reader.string()?;
        items.push(match of {
            kind::HASH => json!([text(&first), text(&reader.string()?)]),
            kind::SORTED_SET => json!([text(&first), score(reader.score()?)]),
            _ => text(&first),
        });
    }
    let name = match of {
        kind::LIST => "list",
        kind::SET => "set",
        kind::HASH => "hash",
        _ => "zset",
    };
    Ok((name, Value::from(items)))
}

/// JSON knows no infinity.
fn score(score: f64) -> Value {
    serde_json::Number::from_f64(score).map_or_else(|| Value::from(score.to_string()), Value::from)
}

fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": base64(bytes) }),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * place)) as usize & 63]);
            out.push(if place <= three.len() { letter } else { '=' });
        }
    }
    out
}

#[test]
fn bytes_that_are_no_text_are_told_in_base64() {
    let told: Vec<String> =
        [&b""[..], b"f", b"fo", b"foo", b"foob", b"\xFF\x00"].iter().map(|each| base64(each)).collect();
    assert_eq!(told, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "/wA="]);
    assert_eq!(text(b"\xFF\x00"), json!({ "base64": "/wA=" }));
}
