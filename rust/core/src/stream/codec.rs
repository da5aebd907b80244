//! Values and entries as bytes: the form in which data leaves a node and comes back.
//!
//! A *value* is written as RDB writes it: a type byte, then the plain form of that type. An *entry* is a value with
//! all that belongs to it:
//! ```text
//! flags: 4 bits database | 0x10 expires | 0x20 created apart | 0x40 raw string
//! updated (s, 4 bytes LE) [created (s, 4 LE)] [expiry (ms, 8 LE)] key (length, bytes) value
//! ```
//! Lengths are RDB's: 6, 14, 32 or 64 bits. Encoding appends to a `Vec`. Decoding takes bytes from anywhere: garbage
//! is an error, never a panic, and memory grows with what was read, never with a length that was announced.
//!
//! Who adds a kind of value adds an arm to [`write_value`], one to [`read_value`] and one to [`rdb::skip_value`]. The
//! packed forms that real RDB files have besides are read too, see [`super::rdb`].

use super::{of_stream, rdb};
use crate::store::arena::{Arena, Handle};
use crate::store::collections::{HashValue, SetValue, hash, set};
use crate::store::hash::Seed;
use crate::store::keyspace::{DATABASES, Found, Full};
use crate::store::list::{End, List};
use crate::store::whole::{Meta, Value};
use crate::store::zset::{self, Zset};
use crate::store::{Object, Store};
use std::borrow::Cow;

/// RDB's type bytes of the plain forms.
#[allow(missing_docs)]
pub mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const HASH: u8 = 4;
    pub const SORTED_SET: u8 = 5;
    /// A stream as Redis 5.0 wrote it; read only.
    pub const STREAM_OF_5: u8 = 15;
    pub const STREAM: u8 = 19;
    /// A stream as Redis 7.2 writes it; read only.
    pub const STREAM_OF_7_2: u8 = 21;
}

/// The bytes mean nothing, or what they say cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage(pub &'static str);

/// The bytes end within what they are.
pub const ENDS: Garbage = Garbage("it ends too early");

impl std::fmt::Display for Garbage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

/// Why a value could not be brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What was read is no value.
    Garbage(Garbage),
    /// The memory cannot hold it.
    Full,
}

impl From<Garbage> for Failure {
    fn from(garbage: Garbage) -> Self {
        Failure::Garbage(garbage)
    }
}

impl From<Full> for Failure {
    fn from(_: Full) -> Self {
        Failure::Full
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Garbage(garbage) => garbage.fmt(out),
            Failure::Full => out.write_str("there is no memory for it"),
        }
    }
}

/// Up to where collections that are read are kept small; [`crate::command::Engine::limits`] tells those in force.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of hashes.
    pub hash: hash::Limits,
    /// Of sets.
    pub set: set::Limits,
    /// Of sorted sets.
    pub sorted_set: zset::Limits,
}

const EXPIRES: u8 = 0x10;
const CREATED: u8 = 0x20;
const RAW: u8 = 0x40;

/// Write a length.
#[inline]
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    if length < 1 << 6 {
        out.push(length as u8);
    } else if length < 1 << 14 {
        out.extend_from_slice(&[0x40 | (length >> 8) as u8, length as u8]);
    } else if let Ok(short) = u32::try_from(length) {
        out.push(0x80);
        out.extend_from_slice(&short.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Write a byte string.
#[inline]
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Write the value under a handle.
pub fn write_value(store: &Store, handle: Handle, out: &mut Vec<u8>) {
    let Some(object) = store.object_at(handle) else {
        out.push(kind::STRING);
        return put_string(out, store.text_at(handle));
    };
    write_count(object, out);
    match object {
        Object::Text(text) => out.extend_from_slice(text),
        Object::List(list) => list.forward(0).for_each(|element| put_string(out, element)),
        Object::Set(members) => {
            let mut digits = itoa::Buffer::new();
            members.iter(&store.arena).for_each(|member| put_string(out, member.bytes(&mut digits)));
        }
        Object::Hash(fields) => {
            for (field, value) in fields.iter(&store.arena) {
                put_string(out, field);
                put_string(out, value);
            }
        }
        Object::Stream(stream) => of_stream::write(stream, out),
        Object::SortedSet(zset) => {
            // From the last to the first, as Redis does: who reads in this order adds each at the front.
            for (member, score) in zset.entries(&store.arena, 0..zset.len(), true) {
                put_string(out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
    }
}

/// Write what stands in front of an object's content: its type, and how much there is.
pub(super) fn write_count(object: &Object, out: &mut Vec<u8>) {
    let (kind, count) = match object {
        Object::Text(text) => (kind::STRING, text.len()),
        Object::List(list) => (kind::LIST, list.len()),
        Object::Set(members) => (kind::SET, members.len()),
        Object::Hash(fields) => (kind::HASH, fields.len()),
        Object::SortedSet(zset) => (kind::SORTED_SET, zset.len()),
        // It tells its counts itself.
        Object::Stream(_) => return out.push(kind::STREAM),
    };
    out.push(kind);
    put_length(out, count);
}

/// Write the entry under a handle, as one of this database.
#[inline]
pub fn write_entry(store: &Store, handle: Handle, database: u8, out: &mut Vec<u8>) {
    let meta = store.meta_of(handle);
    write_head(store, handle, database, meta, out);
    write_value(store, handle, out);
}

/// Write all of an entry but its value.
#[inline]
pub fn write_head(store: &Store, handle: Handle, database: u8, meta: Meta, out: &mut Vec<u8>) {
    put_head(out, database, meta, store.key_of(handle));
}

/// Write all of an entry but its value, of an entry that is nowhere yet.
#[inline]
pub fn put_head(out: &mut Vec<u8>, database: u8, meta: Meta, key: &[u8]) {
    let apart = meta.created != meta.updated;
    let flags = database & 15
        | if meta.expiry.is_some() { EXPIRES } else { 0 }
        | if apart { CREATED } else { 0 }
        | if meta.raw { RAW } else { 0 };
    out.push(flags);
    out.extend_from_slice(&meta.updated.to_le_bytes());
    if apart {
        out.extend_from_slice(&meta.created.to_le_bytes());
    }
    if let Some(expiry) = meta.expiry {
        out.extend_from_slice(&expiry.to_le_bytes());
    }
    put_string(out, key);
}

/// Reads what was written, piece by piece.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Read from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes, so many.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Garbage> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(ENDS)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next bytes, as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ENDS)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// A byte.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, Garbage> {
        Ok(self.array::<1>()?[0])
    }

    /// A length.
    #[inline]
    pub fn length(&mut self) -> Result<usize, Garbage> {
        match self.length_or_special()? {
            Ok(length) => Ok(length),
            Err(_) => Err(Garbage("a length is none")),
        }
    }

    /// A length, or the number of the special form that RDB has in its place.
    #[inline]
    pub fn length_or_special(&mut self) -> Result<Result<usize, u8>, Garbage> {
        let first = self.byte()?;
        Ok(Ok(match first >> 6 {
            0 => usize::from(first),
            1 => usize::from(first & 0x3F) << 8 | usize::from(self.byte()?),
            2 if first == 0x80 => u32::from_be_bytes(self.array()?) as usize,
            2 if first == 0x81 => {
                usize::try_from(u64::from_be_bytes(self.array()?)).map_err(|_| Garbage("a length is too great"))?
            }
            3 => return Ok(Err(first & 0x3F)),
            _ => return Err(Garbage("a length is none")),
        }))
    }

    /// A byte string; short numbers may stand as such, and long strings compressed, as in RDB.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, Garbage> {
        let number = match self.length_or_special()? {
            Ok(length) => return self.bytes(length).map(Cow::Borrowed),
            Err(0) => i64::from(i8::from_le_bytes(self.array()?)),
            Err(1) => i64::from(i16::from_le_bytes(self.array()?)),
            Err(2) => i64::from(i32::from_le_bytes(self.array()?)),
            Err(3) => {
                let (packed, len) = (self.length()?, self.length()?);
                return rdb::lzf::expand(self.bytes(packed)?, len).map(Cow::Owned);
            }
            Err(_) => return Err(Garbage("a string has a form that is not known")),
        };
        Ok(Cow::Owned(number.to_string().into_bytes()))
    }

    /// A score: no NaN.
    pub fn score(&mut self) -> Result<f64, Garbage> {
        let score = f64::from_le_bytes(self.array()?);
        if score.is_nan() { Err(Garbage("a score is not a number")) } else { Ok(score) }
    }
}

/// Read a value. Its members are put into the arena; whoever does not keep it must free it.
pub fn read_value<'a>(
    reader: &mut Reader<'a>,
    arena: &mut Arena,
    seed: &Seed,
    limits: &Limits,
) -> Result<Value<'a>, Failure> {
    let kind = reader.byte()?;
    if kind == kind::STRING {
        return Ok(Value::Text(reader.string()?));
    }
    let object = match kind {
        kind::LIST | kind::SET | kind::HASH | kind::SORTED_SET => {
            let count = reader.length()?;
            read_collection(kind, count, reader, arena, seed, limits)?
        }
        kind::STREAM_OF_5 | kind::STREAM | kind::STREAM_OF_7_2 => {
            Object::Stream(Box::new(of_stream::read(reader, kind)?))
        }
        _ => {
            let plain = rdb::compact::read(kind, reader)?;
            read_collection(plain.kind, plain.count, &mut Reader::new(&plain.body), arena, seed, limits)?
        }
    };
    Ok(Value::Object(object))
}

/// Read the elements of a collection in its plain form.
fn read_collection(
    kind: u8,
    count: usize,
    reader: &mut Reader<'_>,
    arena: &mut Arena,
    seed: &Seed,
    limits: &Limits,
) -> Result<Object, Failure> {
    let mut object = match kind {
        kind::LIST => Object::List(List::new()),
        kind::SET => Object::Set(SetValue::new()),
        kind::HASH => Object::Hash(HashValue::new()),
        _ => Object::SortedSet(Zset::new()),
    };
    match fill(&mut object, count, reader, arena, seed, limits) {
        Ok(()) => Ok(object),
        Err(failure) => {
            object.free(arena);
            Err(failure)
        }
    }
}

const TWICE: Garbage = Garbage("a member is there twice");

fn fill(
    object: &mut Object,
    count: usize,
    reader: &mut Reader<'_>,
    arena: &mut Arena,
    seed: &Seed,
    limits: &Limits,
) -> Result<(), Failure> {
    if count == 0 {
        return Err(Garbage("a collection is empty").into());
    }
    for _ in 0..count {
        let first = reader.string()?;
        let fresh = match object {
            Object::List(list) => {
                list.push(End::Back, &first);
                true
            }
            Object::Set(members) => members.add(arena, seed, limits.set, &first)?,
            Object::Hash(fields) => {
                let value = reader.string()?;
                fields.set(arena, seed, limits.hash, &first, &value)?
            }
            Object::SortedSet(zset) => {
                let score = reader.score()?;
                let outcome = zset.update(arena, seed, limits.sorted_set, &first, |_| Some(score))?;
                outcome == zset::Outcome::Added
            }
            Object::Text(_) | Object::Stream(_) => false,
        };
        if !fresh {
            return Err(TWICE.into());
        }
    }
    Ok(())
}

/// What stands in front of an entry's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The database.
    pub database: u8,
    /// The key.
    pub key: Cow<'a, [u8]>,
    /// Its times.
    pub meta: Meta,
}

/// Read what stands in front of an entry's value.
#[inline]
pub fn read_head<'a>(reader: &mut Reader<'a>) -> Result<Head<'a>, Garbage> {
    let flags = reader.byte()?;
    let database = flags & 15;
    if flags & 0x80 != 0 || usize::from(database) >= DATABASES {
        return Err(Garbage("an entry begins with what is none"));
    }
    let updated = u32::from_le_bytes(reader.array()?);
    let created = if flags & CREATED != 0 { u32::from_le_bytes(reader.array()?) } else { updated };
    let expiry = if flags & EXPIRES != 0 { Some(u64::from_le_bytes(reader.array()?)) } else { None };
    let key = reader.string()?;
    Ok(Head { database, key, meta: Meta { expiry, created, updated, raw: flags & RAW != 0 } })
}

/// Pass over a value without keeping it.
pub fn skip_value(reader: &mut Reader<'_>) -> Result<(), Garbage> {
    let kind = reader.byte()?;
    rdb::skip_value(kind, reader)
}

/// Read an entry and put it in place of what is under its key. Nothing is changed when it is garbage.
#[inline]
pub fn read_entry(reader: &mut Reader<'_>, store: &mut Store, limits: &Limits) -> Result<(u8, Found), Failure> {
    let head = read_head(reader)?;
    let found = read_value_into(reader, store, limits, &head)?;
    Ok((head.database, found))
}

/// Read the value that follows a head and put the whole entry.
#[inline]
pub fn read_value_into(
    reader: &mut Reader<'_>,
    store: &mut Store,
    limits: &Limits,
    head: &Head<'_>,
) -> Result<Found, Failure> {
    let (arena, seed) = store.arena_and_seed();
    let value = read_value(reader, arena, seed, limits)?;
    Ok(store.put_whole(head.database, &head.key, value, head.meta)?)
}
