//! What happens to the tail after a command: recorded as its words, as other words, or by its effect.
//!
//! By effect is right for every command: each key it changed is recorded as the whole entry it is now, or as removed.
//! By its words is cheaper where values are large or changes many, and right for a command that is a function of its
//! words, the values of its keys and the time alone, with all keys in one slot ([`BY_WORDS`]). A command that draws, or
//! that takes from one of several keys, or that changes keys of several slots a little, tells the plain commands that
//! amount to it ([`Ctx::record_as`]). Time needs no care: a record is applied at the time at which it was written.

use super::codec;
use super::tail::{Kind, put_words};
use crate::command::table::{self, Command, flag};
use crate::command::{Ctx, Engine};
use crate::resp::Args;
use crate::slot::slot_of;
use std::sync::OnceLock;

/// Commands recorded by their words, if all their keys share a slot: functions of words, values of keys, and time.
pub const BY_WORDS: &[&str] = &[
    // Strings
    "set",
    "setex",
    "psetex",
    "setnx",
    "getset",
    "getdel",
    "getex",
    "append",
    "setrange",
    "incr",
    "decr",
    "incrby",
    "decrby",
    "incrbyfloat",
    "setbit",
    "bitfield",
    "bitop",
    "mset",
    "msetnx",
    // Keys
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "persist",
    "rename",
    "renamenx",
    "copy",
    "del",
    "unlink",
    // Lists
    "lpush",
    "rpush",
    "lpushx",
    "rpushx",
    "lpop",
    "rpop",
    "lset",
    "linsert",
    "lrem",
    "ltrim",
    "lmove",
    // Hashes
    "hset",
    "hmset",
    "hsetnx",
    "hdel",
    "hincrby",
    "hincrbyfloat",
    // Sets
    "sadd",
    "srem",
    "sinterstore",
    "sunionstore",
    "sdiffstore",
    // Sorted sets
    "zadd",
    "zincrby",
    "zrem",
    "zremrangebyrank",
    "zremrangebyscore",
    "zremrangebylex",
    "zpopmin",
    "zpopmax",
    "zrangestore",
    "zinterstore",
    "zunionstore",
    "zdiffstore",
    // HyperLogLogs and places
    "pfadd",
    "pfmerge",
    "pfcount",
    "geoadd",
    // Streams
    "xdel",
    "xsetid",
    "xack",
    "xclaim",
    "xautoclaim",
    "xgroup|create",
    "xgroup|setid",
    "xgroup|destroy",
    "xgroup|createconsumer",
    "xgroup|delconsumer",
];

/// Whether a command is recorded by its words; by its place in the table.
#[inline]
fn by_words(place: u32) -> bool {
    static PLACES: OnceLock<Vec<bool>> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let mut places = vec![false; table::count()];
        for (row, place) in BY_WORDS.iter().filter_map(|name| table::named(name.as_bytes())) {
            places[place as usize] = row.is(flag::WRITE | flag::MAY_REPLICATE);
        }
        places
    });
    places.get(place as usize).copied().unwrap_or_default()
}

impl Ctx<'_> {
    /// Have the change of this command recorded as these words instead of its own: a command whose one key is its
    /// first argument. Called several times, all of them are recorded, in order. They must amount to all that the
    /// command changes. Costs nothing while nobody listens.
    pub fn record_as(&mut self, words: &[&[u8]]) {
        self.record_for(words.get(1).copied().unwrap_or_default(), words);
    }

    /// As [`Ctx::record_as`], for a command whose one key is elsewhere among its words.
    pub fn record_for(&mut self, key: &[u8], words: &[&[u8]]) {
        if self.engine.tail.listening() {
            let notes = &mut self.engine.tail.notes;
            let start = notes.bytes.len() as u32;
            put_words(&mut notes.bytes, words.iter().copied());
            notes.instead.push((slot_of(key), start, notes.bytes.len() as u32));
        }
    }
}

impl Engine {
    /// Begin to listen to what is written from now on.
    pub fn listen(&mut self) -> super::tail::Cursor {
        let run = self.store.random.bits();
        let cursor = self.tail.listen(run);
        self.tell_gone_if_needed();
        cursor
    }

    /// Listen no longer.
    pub fn stop_listening(&mut self) {
        self.tail.leave();
        self.tell_gone_if_needed();
    }

    /// Note that a key changed, for the record that follows the command.
    #[inline]
    pub(crate) fn note_touched(&mut self, database: u8, key: &[u8]) {
        let notes = &mut self.tail.notes;
        let start = notes.bytes.len() as u32;
        notes.bytes.extend_from_slice(key);
        notes.touched.push((database, start, notes.bytes.len() as u32));
    }

    /// Record a key that expired or was evicted.
    pub(crate) fn record_gone(&mut self, database: u8, key: &[u8]) {
        let time = self.store.now();
        self.tail.write(Kind::Removal, slot_of(key), database, time, |out| out.extend_from_slice(key));
    }
}

/// Record what a command changed; called once after each that changed something while somebody listens.
pub fn after(engine: &mut Engine, database: u8, row: &Command, place: u32, args: &Args<'_>, failed: bool) {
    let time = engine.store.now();
    let notes = &engine.tail.notes;
    // Nearly always.
    if !failed
        && notes.instead.is_empty()
        && !notes.touched.is_empty()
        && by_words(place)
        && let Some(slot) = common_slot(engine, row, args)
        && engine.tail.by_words(slot)
    {
        engine.tail.command(slot, database, time, args.from(0));
        return engine.tail.notes.clear();
    }
    let mut notes = std::mem::take(&mut engine.tail.notes);
    if notes.touched.is_empty() {
        // It ran others (EXEC), or recorded by itself (FLUSHALL).
    } else if !failed && !notes.instead.is_empty() {
        for &(slot, start, end) in &notes.instead {
            let words = &notes.bytes[start as usize..end as usize];
            engine.tail.write(Kind::Command, slot, database, time, |out| out.extend_from_slice(words));
        }
    } else {
        by_effect(engine, &notes.touched, &notes.bytes, time);
    }
    notes.clear();
    engine.tail.notes = notes;
}

/// The slot of all keys of a request, if it is one.
#[inline]
fn common_slot(engine: &Engine, row: &Command, args: &Args<'_>) -> Option<u16> {
    if let [spec] = row.keys
        && spec.is_first_argument()
    {
        return Some(engine.store.slot_of(args.at(1)));
    }
    let mut slot = None;
    let mut common = true;
    row.each_key(args, |at, _| {
        let here = slot_of(args.at(at));
        common &= slot.is_none_or(|slot| slot == here);
        slot = Some(here);
    })?;
    slot.filter(|_| common)
}

fn by_effect(engine: &mut Engine, touched: &[(u8, u32, u32)], bytes: &[u8], time: u64) {
    for (index, &(database, start, end)) in touched.iter().enumerate() {
        let key = &bytes[start as usize..end as usize];
        let later = &touched[index + 1..];
        if later.iter().any(|&(other, start, end)| other == database && bytes[start as usize..end as usize] == *key) {
            continue; // Recorded once, as it is in the end.
        }
        let slot = slot_of(key);
        let Engine { store, tail, .. } = engine;
        match store.find_any(database, key) {
            Some(found) => {
                let handle = store.handle_of(found);
                tail.write(Kind::Entry, slot, database, time, |out| codec::write_entry(store, handle, database, out));
            }
            None => tail.write(Kind::Removal, slot, database, time, |out| out.extend_from_slice(key)),
        }
    }
}
