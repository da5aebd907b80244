//! Streams in the codec: the form of Redis 7.0 (type 19), read also as 5.0 (15) and 7.2 (21) write it.
//!
//! ```text
//! blocks: number, then each: name of its first entry (16 bytes), listpack
//! entries, last name, first name, greatest removed name, entries ever added
//! groups: number, then each: name, last name, entries read,
//!     pending: number, then each: name of the entry (16 bytes), time (ms, 8 bytes LE), deliveries
//!     consumers: number, then each: name, last heard of (ms, 8 LE), [active (ms, 8 LE)], pending: number, names
//! ```
//! A listpack begins with counts of live and removed entries and the names of fields; [`listpack`] knows elements.

use super::codec::{Garbage, Reader, kind, put_length, put_string};
use super::listpack;
use crate::store::stream::{Block, Group, Id, Stream};
use std::collections::HashMap;

/// Deliveries and reads that nobody counted.
const UNKNOWN: u64 = u64::MAX;

fn put_number(out: &mut Vec<u8>, number: u64) {
    put_length(out, number as usize);
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    put_number(out, id.ms);
    put_number(out, id.seq);
}

/// Write a stream behind its type byte.
pub fn write(stream: &Stream, out: &mut Vec<u8>) {
    put_length(out, stream.blocks().len());
    for block in stream.blocks() {
        put_string(out, &block.first.to_bytes());
        put_string(out, &listpack::of_block(block));
    }
    put_number(out, stream.len());
    put_id(out, stream.last);
    put_id(out, stream.first());
    put_id(out, stream.max_deleted);
    put_number(out, stream.added);
    put_length(out, stream.groups().len());
    for (name, group) in stream.groups() {
        put_string(out, name);
        put_id(out, group.last);
        put_number(out, group.read.unwrap_or(UNKNOWN));
        put_length(out, group.pending().len());
        for (id, pending) in group.pending() {
            out.extend_from_slice(&id.to_bytes());
            out.extend_from_slice(&pending.delivered.to_le_bytes());
            put_number(out, pending.times);
        }
        put_length(out, group.consumers().len());
        for consumer in group.consumers() {
            put_string(out, &consumer.name);
            out.extend_from_slice(&consumer.seen.to_le_bytes());
            put_length(out, consumer.pending().len());
            consumer.pending().iter().for_each(|id| out.extend_from_slice(&id.to_bytes()));
        }
    }
}

fn number(reader: &mut Reader<'_>) -> Result<u64, Garbage> {
    reader.length().map(|number| number as u64)
}

fn id(reader: &mut Reader<'_>) -> Result<Id, Garbage> {
    Ok(Id { ms: number(reader)?, seq: number(reader)? })
}

fn raw_id(reader: &mut Reader<'_>) -> Result<Id, Garbage> {
    Ok(Id::from_bytes(reader.array()?))
}

/// Read a stream of this type.
pub fn read(reader: &mut Reader<'_>, of: u8) -> Result<Stream, Garbage> {
    let mut stream = Stream::default();
    for _ in 0..reader.length()? {
        let first = Reader::new(&reader.string()?).array().map(Id::from_bytes)?;
        let block: Block = listpack::to_block(first, &reader.string()?)?;
        if !stream.push_block(block) {
            return Err(Garbage("the blocks of a stream are out of order"));
        }
    }
    let len = number(reader)?;
    stream.last = id(reader)?;
    if len != stream.len() || stream.last < stream.last_there() {
        return Err(Garbage("a stream does not hold what it says"));
    }
    stream.added = len;
    if of != kind::STREAM_OF_5 {
        id(reader)?; // The first entry is where it is.
        stream.max_deleted = id(reader)?;
        stream.added = number(reader)?;
    }
    for _ in 0..reader.length()? {
        let name = reader.string()?;
        let group = read_group(reader, of, &stream)?;
        if !stream.add_group(&name, group) {
            return Err(Garbage("a group is there twice"));
        }
    }
    Ok(stream)
}

fn read_group(reader: &mut Reader<'_>, of: u8, stream: &Stream) -> Result<Group, Garbage> {
    let last = id(reader)?;
    let read = match of {
        kind::STREAM_OF_5 => stream.place_of(last),
        _ => Some(number(reader)?).filter(|&read| read != UNKNOWN),
    };
    let mut group = Group::new(last, read);
    let mut pending: HashMap<Id, (u64, u64)> = HashMap::new();
    for _ in 0..reader.length()? {
        let id = raw_id(reader)?;
        pending.insert(id, (u64::from_le_bytes(reader.array()?), number(reader)?));
    }
    for _ in 0..reader.length()? {
        let name = reader.string()?;
        let seen = u64::from_le_bytes(reader.array()?);
        if of == kind::STREAM_OF_7_2 {
            reader.array::<8>()?; // When it last got something: not told here.
        }
        let who = group.add(&name, seen).ok_or(Garbage("a consumer is there twice"))?;
        for _ in 0..reader.length()? {
            let id = raw_id(reader)?;
            let (delivered, times) = pending.remove(&id).ok_or(Garbage("an entry is pending for nobody knows whom"))?;
            group.deliver(id, who, delivered, times);
        }
    }
    if pending.is_empty() { Ok(group) } else { Err(Garbage("an entry is pending for nobody")) }
}
