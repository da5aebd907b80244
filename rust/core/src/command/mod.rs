//! Commands: from a parsed request to its reply, without sockets.
//!
//! A handler gets a [`Ctx`] (the node, the client, where to write) and the arguments. It
//! finds keys through `ctx.read` and `ctx.write`, writes its reply to `ctx.out`, and says
//! `ctx.changed(...)` once a key has changed. That one call wakes who waits, breaks watches
//! and publishes the event; so a handler that forgets it is the only way to get this wrong.

pub mod acl;
pub mod admin;
pub mod bits;
pub mod blocking;
pub mod client;
pub mod client_commands;
pub mod client_list;
pub mod cluster;
pub mod config;
pub mod config_file;
pub mod connection;
pub mod debug;
pub mod dispatch;
pub mod dump;
pub mod engine;
pub mod fault;
pub mod gathered;
pub mod geo;
pub mod glob;
pub mod hashes;
pub mod hold;
pub mod hyperloglog;
pub mod info;
pub mod introspect;
pub mod keys;
pub mod latency;
pub mod lcs;
pub mod lists;
pub mod members;
pub mod memory;
pub mod monitor;
pub mod notify;
pub mod objects;
pub mod own;
pub mod process;
pub mod pubsub;
pub mod replicate;
pub mod save;
pub mod scripting;
pub mod server;
pub mod sets;
pub mod settings;
pub mod slowlog;
pub mod sort;
pub mod streams;
pub mod strings;
pub mod syntax;
pub mod table;
#[cfg(test)]
pub mod testing;
pub mod tls;
pub mod tracking;
pub mod transactions;
pub mod zsets;

pub use client::{Client, OnTimeout};
pub use engine::Engine;
pub use fault::{Done, Fault};
pub use table::Command;

use crate::resp::number::{parse_f64, parse_i64};
use crate::resp::{Args, Reply};
use crate::store::{Found, Keep, Kind, Object, Store};

/// What a handler works with.
pub struct Ctx<'a> {
    /// The node.
    pub engine: &'a mut Engine,
    /// The client that asks. It is not among `engine.clients` meanwhile.
    pub client: &'a mut Client,
    /// Where the reply goes.
    pub out: &'a mut Reply,
    /// The row of the command that runs.
    pub command: &'static Command,
    /// The command is run again for a client that was blocked.
    pub again: bool,
}

impl Ctx<'_> {
    /// The keys and values.
    #[inline(always)]
    pub fn store(&mut self) -> &mut Store {
        &mut self.engine.store
    }

    /// The client's database.
    #[inline(always)]
    pub fn database(&self) -> u8 {
        self.client.database
    }

    /// Find a key to read a value of this kind; counts as a hit or a miss and as use.
    #[inline(always)]
    pub fn read(&mut self, key: &[u8], kind: Kind) -> Result<Option<Found>, Fault> {
        match self.read_any(key) {
            Some(found) if self.engine.store.kind(found) == kind => Ok(Some(found)),
            Some(_) => Err(Fault::WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// Find a key to read whatever it holds; counts as a hit or a miss and as use.
    #[inline(always)]
    pub fn read_any(&mut self, key: &[u8]) -> Option<Found> {
        let database = self.client.database;
        match self.engine.store.find(database, key) {
            Some(mut found) => {
                self.engine.stats.hits += 1;
                if !self.client.no_touch {
                    self.engine.store.touch(&mut found);
                }
                self.count_for_key(key, true);
                Some(found)
            }
            None => {
                self.engine.stats.misses += 1;
                self.count_for_key(key, false);
                if self.engine.events & notify::MISS != 0 {
                    pubsub::notify(self.engine, Some(self.client), database, notify::MISS, "keymiss", key);
                }
                None
            }
        }
    }

    #[inline(always)]
    fn count_for_key(&mut self, key: &[u8], hit: bool) {
        if self.engine.settings.is_on(settings::Name::key_statistics) {
            let counts = self.engine.key_statistics.entry((self.client.database, key.into())).or_default();
            if hit { counts.0 += 1 } else { counts.1 += 1 }
        }
    }

    /// Find a key without counting or using it (EXISTS-like looks, TTL, OBJECT).
    #[inline]
    pub fn look(&mut self, key: &[u8]) -> Option<Found> {
        self.engine.store.find(self.client.database, key)
    }

    /// Find a key to change its value of this kind; counts as use and notes the time of the change.
    #[inline]
    pub fn write(&mut self, key: &[u8], kind: Kind) -> Result<Option<Found>, Fault> {
        match self.engine.store.find(self.client.database, key) {
            Some(found) if self.engine.store.kind(found) != kind => Err(Fault::WRONG_TYPE),
            Some(mut found) => {
                self.engine.store.stamp(&mut found);
                self.engine.store.touch(&mut found);
                Ok(Some(found))
            }
            None => Ok(None),
        }
    }

    /// As [`Ctx::write`], but a missing key gets `new()`.
    pub fn write_or_create(&mut self, key: &[u8], kind: Kind, new: impl FnOnce() -> Object) -> Result<Found, Fault> {
        match self.write(key, kind)? {
            Some(found) => Ok(found),
            None => {
                let found = self.engine.store.put_object(self.client.database, key, new(), None)?;
                self.created(key);
                Ok(found)
            }
        }
    }

    /// Tell that a key came to be (event class `n`).
    #[inline]
    pub fn created(&mut self, key: &[u8]) {
        self.created_in(self.client.database, key);
    }

    /// As [`Ctx::created`], in another database.
    #[inline]
    pub fn created_in(&mut self, database: u8, key: &[u8]) {
        if self.engine.events & notify::NEW != 0 {
            pubsub::notify(self.engine, Some(self.client), database, notify::NEW, "new", key);
        }
    }

    /// A key of the client's database changed: wakes who waits for it, breaks watches, tells listeners.
    #[inline]
    pub fn changed(&mut self, key: &[u8], class: u32, event: &'static str) {
        self.changed_in(self.client.database, key, class, event);
    }

    /// As [`Ctx::changed`], in another database.
    #[inline]
    pub fn changed_in(&mut self, database: u8, key: &[u8], class: u32, event: &'static str) {
        self.engine.changes += 1;
        if self.engine.tail.listening() {
            self.engine.note_touched(database, key);
        }
        if !self.engine.watchers.is_empty() {
            self.engine.break_watches(database, key, Some(self.client));
        }
        if !self.engine.waiting.is_empty() {
            self.engine.mark_ready(database, key);
        }
        if self.engine.events & class != 0 {
            pubsub::notify(self.engine, Some(self.client), database, class, event, key);
        }
        if self.engine.tracking.is_on() {
            tracking::changed(self.engine, Some(self.client), key);
        }
    }

    /// Something about a key changed that is not its content, such as what a group has read of a stream:
    /// it counts as a change and is told to listeners, but wakes nobody and breaks no watch.
    pub fn changed_within(&mut self, key: &[u8], class: u32, event: Option<&'static str>) {
        self.engine.changes += 1;
        if self.engine.tail.listening() {
            self.engine.note_touched(self.client.database, key);
        }
        if let Some(event) = event
            && self.engine.events & class != 0
        {
            let database = self.client.database;
            pubsub::notify(self.engine, Some(self.client), database, class, event, key);
        }
    }

    /// Remove a key; tells nobody. `false` when it is not there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        match self.engine.store.find(self.client.database, key) {
            Some(found) => {
                self.engine.store.counts.deletes += 1;
                self.engine.store.remove(found);
                true
            }
            None => false,
        }
    }

    /// Put a collection under `destination` in place of what is there, or remove that when there is
    /// nothing to put: what all the STORE commands do. The caller replies with the size.
    pub fn store_result(
        &mut self,
        destination: &[u8],
        result: Option<Object>,
        class: u32,
        event: &'static str,
    ) -> Result<(), Fault> {
        match result {
            Some(object) => {
                let is_new = self.engine.events & notify::NEW != 0 && self.look(destination).is_none();
                self.engine.store.put_object(self.client.database, destination, object, None)?;
                if is_new {
                    self.created(destination);
                }
                self.changed(destination, class, event);
            }
            None => {
                if self.remove(destination) {
                    self.changed(destination, notify::GENERIC, "del");
                }
            }
        }
        Ok(())
    }

    /// Put a string under a key.
    #[inline]
    pub fn put_text(&mut self, key: &[u8], value: &[u8], keep: Keep) -> Result<(), Fault> {
        Ok(self.engine.store.put_text(self.client.database, key, value, keep)?)
    }

    /// Whether a command that waits may take from this key: from any at first, and later from the one
    /// that became ready, whatever came to the others meanwhile.
    pub fn may_serve_from(&self, key: &[u8]) -> bool {
        self.engine.ready_key.as_deref().is_none_or(|ready| ready == key)
    }

    /// Wait until one of the keys may have what the command wants; it is then run again. `deadline`
    /// is in milliseconds of wall time, zero for never. In a transaction nobody waits: `false` is
    /// returned, and the handler answers as if the time were up.
    pub fn block(&mut self, keys: &[&[u8]], deadline: u64, on_timeout: OnTimeout, args: &Args<'_>) -> bool {
        blocking::block(self, keys, deadline, on_timeout, args)
    }
}

/// Arguments read as numbers, with the errors Redis gives.
impl<'a> Args<'a> {
    /// An integer.
    #[inline]
    pub fn integer(&self, index: usize) -> Result<i64, Fault> {
        parse_i64(self.at(index)).ok_or(Fault::NOT_INTEGER)
    }

    /// An integer within bounds, else this error.
    pub fn integer_within(&self, index: usize, low: i64, high: i64, otherwise: Fault) -> Result<i64, Fault> {
        let number = self.integer(index)?;
        if (low..=high).contains(&number) { Ok(number) } else { Err(otherwise) }
    }

    /// A floating-point number.
    pub fn float(&self, index: usize) -> Result<f64, Fault> {
        parse_f64(self.at(index)).ok_or(Fault::NOT_FLOAT)
    }

    /// Whether an argument is this word (given in capitals), whatever its case.
    #[inline]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.at(index).eq_ignore_ascii_case(word.as_bytes())
    }
}
