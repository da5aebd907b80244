//! Keys as a whole: renamed, visited, drawn at random, removed with their database.

use super::arena::{Arena, Handle};
use super::database::Database;
use super::entry::{self, Entry};
use super::keyspace::{DATABASES, Found, Full, Store, index};
use super::object::{Object, Shelf};
use crate::slot::{SLOT_COUNT, SlotSet, slot_of};

impl Store {
    /// Give what a key holds another name, with its times; what was under the new name goes.
    /// The value itself does not move. Returns the key under its new name.
    pub fn rename(&mut self, database: u8, from: &[u8], to_database: u8, to: &[u8]) -> Result<Option<Found>, Full> {
        let Some(found) = self.find(database, from) else {
            return Ok(None);
        };
        if (self.real(database), from) == (self.real(to_database), to) {
            return Ok(Some(found));
        }
        if let Some(old) = self.find(to_database, to) {
            self.remove(old);
        }
        let Some(found) = self.find(database, from) else {
            return Ok(None);
        };
        let entry = self.entry(found);
        let (kind, expiry, created) = (entry.kind(), entry.expiry(), entry.created());
        let marks = entry.flags() & (entry::RAW | entry::OBJECT);
        let value = entry.stored_value().to_vec();
        let new = self.insert(to_database, to, kind, &value, marks, expiry, Some((created, self.seconds())))?;
        // The object, if the value is one, now belongs to the new entry: only the old name is forgotten.
        if let Some(old) = self.find_any(database, from) {
            self.forget(old);
        }
        Ok(self.find(to_database, to).or(Some(new)))
    }

    /// Exchange two databases.
    pub fn swap(&mut self, one: u8, other: u8) {
        self.order.swap(one as usize % DATABASES, other as usize % DATABASES);
    }

    /// Remove all keys of a database; returns how many there were.
    pub fn flush(&mut self, database: u8) -> usize {
        let real = self.real(database);
        let count = self.databases[real as usize].len();
        if count == self.len() {
            self.flush_all();
            return count;
        }
        let old = std::mem::take(&mut self.databases[real as usize]);
        let mut slot = old.occupied_from(0);
        while let Some(number) = slot {
            for handle in old.table(number).into_iter().flat_map(|table| table.iter()) {
                let entry = Entry(self.arena.at(handle));
                if let Some(object) = entry.object().and_then(|number| self.objects.take(number)) {
                    self.condemn(object);
                }
                let entry = Entry(self.arena.at(handle));
                if entry.lengths().0 > entry::INLINE_KEY {
                    self.long_keys.take(index(entry.stored_key()));
                }
                if Entry(self.arena.at(handle)).flags() & entry::LINKED != 0 {
                    self.evictor.left(&mut self.arena, handle);
                }
                self.arena.free(handle);
            }
            slot = number.checked_add(1).and_then(|next| old.occupied_from(next));
        }
        count
    }

    /// Remove all keys of all databases; returns how many there were. The memory goes back at once.
    pub fn flush_all(&mut self) -> usize {
        let count = self.len();
        self.databases = Default::default();
        self.arena = Arena::new();
        self.objects = Shelf::default();
        self.long_keys = Shelf::default();
        self.condemned.clear();
        self.evictor.clear();
        count
    }

    /// Visit some keys of a database; see [`super::table::Table::scan`]. Cursors start at zero and end with it.
    pub fn scan(&self, database: u8, cursor: u64, mut visit: impl FnMut(Handle)) -> u64 {
        let database = self.database(database);
        let mut from = u16::try_from(cursor >> 32).unwrap_or(u16::MAX);
        let mut within = cursor as u32;
        // Many slots are empty or nearly so: go on until something was seen, but not for ever.
        for _ in 0..64 {
            let Some(slot) = self.occupied_own(database, from) else {
                return 0;
            };
            if slot != from {
                within = 0;
            }
            let Some(table) = database.table(slot) else {
                return 0;
            };
            let mut seen = false;
            let next = table.scan(
                within,
                |handle| self.hash_of_entry(handle),
                |handle| {
                    seen = true;
                    visit(handle);
                },
            );
            match next {
                Some(next) => {
                    from = slot;
                    within = next;
                }
                None if slot + 1 == crate::slot::SLOT_COUNT => return 0,
                None => {
                    from = slot + 1;
                    within = 0;
                }
            }
            if seen {
                break;
            }
        }
        match self.occupied_own(database, from) {
            None => 0,
            Some(_) => u64::from(from) << 32 | u64::from(within),
        }
    }

    /// The first slot from `from` on that holds keys of our own.
    fn occupied_own(&self, database: &Database, from: u16) -> Option<u16> {
        let mut slot = database.occupied_from(from)?;
        while self.is_passive(slot) {
            slot = slot.checked_add(1).and_then(|next| database.occupied_from(next))?;
        }
        Some(slot)
    }

    /// How many keys of its own a database holds: those held for other nodes do not count.
    pub fn own_len(&self, database: u8) -> usize {
        let held = self.database(database);
        let others = |passive: &SlotSet| -> usize {
            passive.iter().filter_map(|slot| held.table(slot)).map(super::table::Table::len).sum()
        };
        held.len() - self.passive.as_deref().map_or(0, others)
    }

    /// Remove all keys of its own from a database, or from all; returns how many there were.
    pub fn flush_own(&mut self, database: Option<u8>) -> usize {
        let Some(passive) = self.passive.clone() else {
            return match database {
                Some(number) => self.flush(number),
                None => self.flush_all(),
            };
        };
        (0..SLOT_COUNT).filter(|&slot| !passive.contains(slot)).map(|slot| self.flush_slot(database, slot)).sum()
    }

    /// Exchange what two databases hold of its own.
    pub fn swap_own(&mut self, one: u8, other: u8) {
        match self.passive.clone() {
            None => self.swap(one, other),
            Some(passive) => (0..SLOT_COUNT)
                .filter(|&slot| !passive.contains(slot))
                .for_each(|slot| self.swap_slot(one, other, slot)),
        }
    }

    /// Some key of a database that is still alive.
    pub fn random_key(&mut self, database: u8) -> Option<Vec<u8>> {
        // Keys whose time has come are passed over; when nearly all are, one of them will do.
        let real = self.real(database);
        if self.passive.is_some() {
            let from = (self.random.bits() % u64::from(SLOT_COUNT)) as u16;
            let home = &self.databases[real as usize];
            let slot = self.occupied_own(home, from).or_else(|| self.occupied_own(home, 0))?;
            return home.table(slot)?.iter().next().map(|handle| self.key_of(handle).to_vec());
        }
        for attempt in 0..100 {
            let handle = self.sample(real)?;
            let expired = Entry(self.arena.at(handle)).expiry().is_some_and(|time| time <= self.now);
            if !expired || attempt == 99 {
                return Some(self.key_of(handle).to_vec());
            }
        }
        None
    }

    /// A random entry of a database.
    pub(super) fn sample(&mut self, real: u8) -> Option<Handle> {
        let database = &self.databases[real as usize];
        let slot = database.occupied_around((self.random.bits() % u64::from(crate::slot::SLOT_COUNT)) as u16)?;
        let random = &mut self.random;
        database.table(slot)?.random(|| random.bits())
    }

    /// What an entry's key looks like as something found.
    pub(super) fn found_of(&self, handle: Handle) -> Option<Found> {
        let real = Entry(self.arena.at(handle)).database();
        let key = self.key_of(handle);
        let slot = slot_of(key);
        let hash = self.seed.hash(key);
        let place = self.databases[real as usize].table(slot)?.find(hash, |each| each == handle)?;
        Some(Found { handle, place, hash, slot, database: real })
    }

    /// Bytes that a key costs, its share of the table included.
    pub fn cost(&self, found: Found) -> usize {
        let long_key = self.entry(found).lengths().0;
        self.arena.capacity(found.handle)
            + 7
            + if long_key > entry::INLINE_KEY { long_key } else { 0 }
            + self.object(found).map_or(0, |object| size_of::<Object>() + object.heap_bytes())
    }
}
