//! Entries as wholes: visited slot by slot, read by handle, put with all their times.
//!
//! For those who copy data out of the store and bring it back: snapshots, streams, restores.

use super::arena::{Arena, Handle};
use super::database::Database;
use super::entry::{self, Entry, Kind};
use super::hash::Seed;
use super::keyspace::{DATABASES, Found, Full, INLINE_TEXT, Store};
use super::object::Object;
use super::table::Table;
use std::borrow::Cow;

/// A value that is not in the store.
pub enum Value<'a> {
    /// A string.
    Text(Cow<'a, [u8]>),
    /// Anything else; its members lie in the store's arena already.
    Object(Object),
}

impl Value<'_> {
    /// Give back what is not kept.
    pub fn free(self, arena: &mut Arena) {
        if let Value::Object(object) = self {
            object.free(arena);
        }
    }
}

/// What an entry is beside its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// When the key expires, ms of wall time.
    pub expiry: Option<u64>,
    /// Second of the creation.
    pub created: u32,
    /// Second of the last update.
    pub updated: u32,
    /// A string that was edited in place (OBJECT ENCODING tells `raw`).
    pub raw: bool,
}

impl Store {
    /// The entries of a slot, by the database's number; in no particular order.
    pub fn entries_of_slot(&self, database: u8, slot: u16) -> impl Iterator<Item = Handle> + '_ {
        self.database(database).table(slot).into_iter().flat_map(|table| table.iter())
    }

    /// Visit some entries of a slot; see [`Table::scan`]. Cursors start at zero; `None` is the end.
    pub fn scan_slot(&self, database: u8, slot: u16, cursor: u32, visit: impl FnMut(Handle)) -> Option<u32> {
        self.database(database).table(slot)?.scan(cursor, |handle| self.hash_of_entry(handle), visit)
    }

    /// How many entries a slot holds, all databases together.
    pub fn len_of_slot(&self, slot: u16) -> usize {
        self.databases.iter().filter_map(|database| database.table(slot)).map(|table| table.len()).sum()
    }

    /// A database by where it is, which stays what it is when databases change their numbers; see [`Store::number_of`].
    pub fn real_database(&self, real: u8) -> &Database {
        &self.databases[usize::from(real)]
    }

    /// Find a key, dead or alive, in a database by where that is.
    pub fn find_real(&self, real: u8, key: &[u8]) -> Option<Found> {
        self.find_any(self.number_of(real), key)
    }

    /// The entry under a handle.
    pub fn entry_at(&self, handle: Handle) -> Entry<'_> {
        Entry(self.arena.at(handle))
    }

    /// The handle of a key that was found.
    pub fn handle_of(&self, found: Found) -> Handle {
        found.handle
    }

    /// The string under a handle; empty when it holds none.
    pub fn text_at(&self, handle: Handle) -> &[u8] {
        let entry = self.entry_at(handle);
        match entry.object() {
            None => entry.stored_value(),
            Some(number) => match self.objects.get(number) {
                Some(Object::Text(text)) => text,
                _ => &[],
            },
        }
    }

    /// The object under a handle, when the value is one.
    pub fn object_at(&self, handle: Handle) -> Option<&Object> {
        self.objects.get(self.entry_at(handle).object()?)
    }

    /// The memory members lie in, to put some there, and the key of hashes.
    pub fn arena_and_seed(&mut self) -> (&mut Arena, &Seed) {
        (&mut self.arena, &self.seed)
    }

    /// What an entry is beside its key and value.
    pub fn meta_of(&self, handle: Handle) -> Meta {
        let entry = self.entry_at(handle);
        Meta {
            expiry: entry.expiry(),
            created: entry.created(),
            updated: entry.updated(),
            raw: entry.flags() & entry::RAW != 0,
        }
    }

    /// Put an entry with all its times in place of whatever is there, dead or alive.
    pub fn put_whole(&mut self, database: u8, key: &[u8], value: Value<'_>, meta: Meta) -> Result<Found, Full> {
        if let Some(found) = self.find_any(database, key) {
            self.remove(found);
        }
        let Meta { expiry, created, updated, raw } = meta;
        let times = Some((created, updated));
        let object = match value {
            Value::Text(text) if text.len() <= INLINE_TEXT => {
                let marks = if raw { entry::RAW } else { 0 };
                return self.insert(database, key, Kind::String, &text, marks, expiry, times);
            }
            Value::Text(text) => Object::Text(text.into_owned()),
            Value::Object(object) => object,
        };
        let (kind, marks) = (object.kind(), if raw { entry::RAW } else { 0 } | entry::OBJECT);
        let number = self.objects.put(object);
        let put = self.insert(database, key, kind, &number.to_le_bytes(), marks, expiry, times);
        if put.is_err()
            && let Some(object) = self.objects.take(number)
        {
            object.free(&mut self.arena);
        }
        put
    }

    /// Remove all entries of a slot from a database, or from all of them; returns how many there were.
    pub fn flush_slot(&mut self, database: Option<u8>, slot: u16) -> usize {
        let numbers = database.map_or(0..DATABASES as u8, |one| one..one + 1);
        let mut removed = 0;
        for number in numbers {
            let handles: Vec<Handle> = self.entries_of_slot(number, slot).collect();
            for handle in handles {
                if let Some(found) = self.found_of(handle) {
                    self.remove(found);
                    removed += 1;
                }
            }
        }
        removed
    }

    /// Exchange the entries of one slot between two databases.
    pub fn swap_slot(&mut self, one: u8, other: u8, slot: u16) {
        let (one, other) = (self.real(one) as usize, self.real(other) as usize);
        if one == other {
            return;
        }
        let first = self.databases[one].exchange(slot, Table::new());
        let second = self.databases[other].exchange(slot, first);
        self.databases[one].exchange(slot, second);
        for (to, from) in [(one, other), (other, one)] {
            let Some(table) = self.databases[to].table(slot) else { continue };
            let mut expiring = 0;
            for handle in table.iter() {
                let bytes = self.arena.at_mut(handle);
                entry::set_database(bytes, to as u8);
                expiring += usize::from(bytes[1] & entry::EXPIRES != 0);
            }
            self.databases[to].expiring += expiring;
            self.databases[from].expiring -= expiring;
        }
    }
}

#[test]
fn a_slot_changes_places_with_all_that_is_counted() {
    let mut store = Store::new(3);
    store.set_now(1_700_000_000_000);
    for (database, key, expiry) in [(0, &b"{t}a"[..], None), (0, b"{t}b", Some(9_000_000_000_000)), (3, b"{t}c", None)]
    {
        let meta = Meta { expiry, created: 5, updated: 6, raw: false };
        assert!(store.put_whole(database, key, Value::Text(Cow::Borrowed(key)), meta).is_ok());
    }
    assert!(store.put_whole(0, b"elsewhere", Value::Text(Cow::Borrowed(b"x")), Meta::default()).is_ok());
    let slot = crate::slot::slot_of(b"{t}");
    store.swap_slot(0, 3, slot);
    let count = |store: &Store, number: u8| (store.database(number).len(), store.database(number).expiring);
    assert_eq!((count(&store, 0), count(&store, 3)), ((2, 0), (2, 1)));
    let found = store.find(3, b"{t}b").expect("it moved");
    assert_eq!((store.text(found), store.entry(found).database(), store.entry(found).created()), (&b"{t}b"[..], 3, 5));
    assert_eq!(store.flush_slot(None, slot), 3);
    assert_eq!((count(&store, 0), count(&store, 3)), ((1, 0), (0, 0)));
}
