//! Keys to values: find, put, edit, remove, rename; expiry on access.
//!
//! A [`Found`] names a key's entry between a look-up and the change that follows. It holds
//! until another key is added or removed; methods that move the entry update it.

use super::arena::{Arena, Handle, MAX_BLOCK};
use super::database::Database;
use super::entry::{self, Entry, Header, Kind};
use super::evict::Evictor;
use super::hash::Seed;
use super::object::{Object, Shelf};
use super::random::Random;
use super::table::Place;
use crate::slot::{SlotSet, slot_of};

/// How many databases there are.
pub const DATABASES: usize = 16;

/// The longest string that lies in its entry; a longer one is an object.
pub const INLINE_TEXT: usize = 2048;

/// A key that was found; see the module's page.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub(super) handle: Handle,
    pub(super) place: Place,
    pub(super) hash: u64,
    pub(super) slot: u16,
    pub(super) database: u8,
}

/// Where a key would be: worked out once, when the key is first seen, and used by the look-up that follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whereabouts {
    address: usize, // Of the key's bytes, with their length: names the key while its buffer lives.
    len: usize,
    hash: u64,
    slot: u16,
}

impl Whereabouts {
    /// Whether it is about any key.
    #[inline]
    pub fn is_known(&self) -> bool {
        self.address != 0
    }
}

/// What becomes of a key's expiry when its value is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It loses it.
    Nothing,
    /// It keeps it.
    Expiry,
    /// It gets this one, in milliseconds of wall time.
    Until(u64),
}

/// A key that left without a command of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The database, as clients number it.
    pub database: u8,
    /// The key.
    pub key: Vec<u8>,
    /// Evicted to make room, or else expired.
    pub evicted: bool,
}

/// The memory cannot hold more: all that handles can name is in use.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// Counters of what happened to keys.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Keys removed because their time had come.
    pub expired: u64,
    /// Keys removed to make room.
    pub evicted: u64,
    /// Keys put that were not there before, or replaced.
    pub sets: u64,
    /// Keys removed on request.
    pub deletes: u64,
}

/// All keys of a node.
pub struct Store {
    /// Memory of entries and of collections' members.
    pub arena: Arena,
    pub(super) objects: Shelf<Object>,
    pub(super) long_keys: Shelf<Box<[u8]>>,
    pub(super) databases: [Database; DATABASES],
    pub(super) order: [u8; DATABASES], // Database as clients number it -> where it is; SWAPDB swaps these.
    pub(super) evictor: Evictor,
    pub(super) condemned: Vec<Object>,
    pub(super) expiry_cursor: (u8, u16),
    /// The key of all hashes.
    pub seed: Seed,
    /// Random numbers for sampling.
    pub random: Random,
    pub(super) now: u64,
    /// What happened so far.
    pub counts: Counts,
    /// Whether keys that expire or are evicted are to be told in `gone`.
    pub tell_gone: bool,
    /// Slots whose keys this node has from another one, which alone decides what expires and what goes: here they are
    /// hidden when their time has come, and neither counted nor visited among its own.
    pub passive: Option<Box<SlotSet>>,
    /// What the other node has decided is being carried out: see [`Store::passive`].
    pub applying: bool,
    /// See [`Gone`]; whoever set `tell_gone` empties it.
    pub gone: Vec<Gone>,
    pub(super) scratch: Vec<u8>,
    pub(super) expected: Whereabouts,
}

impl Store {
    /// An empty store. `seed` should be random.
    pub fn new(seed: u64) -> Self {
        Store {
            arena: Arena::new(),
            objects: Shelf::default(),
            long_keys: Shelf::default(),
            databases: Default::default(),
            order: std::array::from_fn(|number| number as u8),
            evictor: Evictor::default(),
            condemned: Vec::new(),
            expiry_cursor: (0, 0),
            seed: Seed::new(seed),
            random: Random::new(seed ^ 0x5EED),
            now: 0,
            counts: Counts::default(),
            tell_gone: false,
            passive: None,
            applying: false,
            gone: Vec::new(),
            scratch: Vec::new(),
            expected: Whereabouts::default(),
        }
    }

    /// Tell the time, in milliseconds of wall time. The store never looks at a clock.
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// The time last told.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now
    }

    #[inline]
    pub(super) fn seconds(&self) -> u32 {
        (self.now / 1000) as u32
    }

    #[inline(always)]
    pub(super) fn real(&self, database: u8) -> u8 {
        self.order[database as usize % DATABASES]
    }

    /// The number by which clients know a database.
    pub fn number_of(&self, real: u8) -> u8 {
        self.order.iter().position(|&each| each == real).unwrap_or(0) as u8
    }

    /// A database, for its counts.
    pub fn database(&self, database: u8) -> &Database {
        &self.databases[self.real(database) as usize]
    }

    /// Keys in all databases.
    pub fn len(&self) -> usize {
        self.databases.iter().map(Database::len).sum()
    }

    /// Whether there are no keys at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of a key that was found.
    #[inline(always)]
    pub fn entry(&self, found: Found) -> Entry<'_> {
        Entry(self.arena.at(found.handle))
    }

    /// The key of an entry.
    #[inline]
    pub fn key_of(&self, handle: Handle) -> &[u8] {
        let entry = Entry(self.arena.at(handle));
        let stored = entry.stored_key();
        if entry.lengths().0 <= entry::INLINE_KEY {
            return stored;
        }
        self.long_keys.get(index(stored)).map_or(&[], |key| &**key)
    }

    /// When an entry expires.
    #[inline]
    pub fn expiry_of(&self, handle: Handle) -> Option<u64> {
        Entry(self.arena.at(handle)).expiry()
    }

    /// The kind of an entry's value.
    pub fn kind_of(&self, handle: Handle) -> Kind {
        Entry(self.arena.at(handle)).kind()
    }

    pub(super) fn hash_of_entry(&self, handle: Handle) -> u64 {
        self.seed.hash(self.key_of(handle))
    }

    /// Work out where a key would be, and have the processor fetch the first thing a look-up needs.
    /// A look-up waits three times for memory; done for a batch of keys, one step for all of them
    /// before the next, the waits overlap.
    #[inline]
    pub fn approach(&self, database: u8, key: &[u8]) -> Whereabouts {
        let slot = slot_of(key);
        let hash = self.seed.hash(key);
        if let Some(table) = self.databases[self.real(database) as usize].table(slot) {
            crate::sys::prefetch(table);
        }
        Whereabouts { address: key.as_ptr() as usize, len: key.len(), hash, slot }
    }

    /// The second step: the group of the table.
    #[inline]
    pub fn approach_group(&self, database: u8, at: &Whereabouts) {
        if let Some(table) = self.databases[self.real(database) as usize].table(at.slot) {
            table.prefetch(at.hash);
        }
    }

    /// The third step: the entry.
    #[inline]
    pub fn approach_entry(&self, database: u8, at: &Whereabouts) {
        if let Some(handle) = self.candidate(database, at) {
            self.arena.prefetch(handle);
        }
    }

    /// The entry that is probably the key's.
    #[inline(always)]
    pub(super) fn candidate(&self, database: u8, at: &Whereabouts) -> Option<Handle> {
        self.databases[self.real(database) as usize].table(at.slot)?.first_candidate(at.hash)
    }

    /// Use what was worked out for the key that is looked up next; the default takes it back.
    #[inline(always)]
    pub fn expect(&mut self, at: Whereabouts) {
        self.expected = at;
    }

    #[inline(always)]
    fn locate(&self, key: &[u8]) -> (u64, u16) {
        if self.expected.address == key.as_ptr() as usize && self.expected.len == key.len() {
            (self.expected.hash, self.expected.slot)
        } else {
            (self.seed.hash(key), slot_of(key))
        }
    }

    /// Whether a slot is held for another node; see [`Store::passive`].
    #[inline]
    pub fn is_passive(&self, slot: u16) -> bool {
        self.passive.as_ref().is_some_and(|passive| passive.contains(slot))
    }

    /// The slot of a key, which may have been worked out already.
    #[inline(always)]
    pub fn slot_of(&self, key: &[u8]) -> u16 {
        if self.expected.address == key.as_ptr() as usize && self.expected.len == key.len() {
            self.expected.slot
        } else {
            slot_of(key)
        }
    }

    /// Find a key. One whose time has come is removed and not found.
    #[inline]
    pub fn find(&mut self, database: u8, key: &[u8]) -> Option<Found> {
        let found = self.find_any(database, key)?;
        if let Some(expiry) = self.entry(found).expiry()
            && expiry <= self.now
        {
            if self.applying || !self.is_passive(found.slot) {
                self.expire_now(found);
            }
            return None;
        }
        Some(found)
    }

    /// Find a key though its time may have come.
    #[inline(always)]
    pub fn find_any(&self, database: u8, key: &[u8]) -> Option<Found> {
        let database = self.real(database);
        let (hash, slot) = self.locate(key);
        let table = self.databases[database as usize].table(slot)?;
        let place = table.find(hash, |handle| {
            let entry = Entry(self.arena.at(handle));
            if key.len() <= entry::INLINE_KEY {
                entry.lengths().0 == key.len() && same(entry.stored_key(), key)
            } else {
                entry.lengths().0 == key.len() && self.key_of(handle) == key
            }
        })?;
        Some(Found { handle: table.at(place), place, hash, slot, database })
    }

    /// The kind of a key's value.
    #[inline]
    pub fn kind(&self, found: Found) -> Kind {
        self.entry(found).kind()
    }

    /// The value of a key that holds a string.
    #[inline(always)]
    pub fn text(&self, found: Found) -> &[u8] {
        let entry = self.entry(found);
        if entry.flags() & entry::OBJECT == 0 {
            return entry.stored_value();
        }
        match self.objects.get(index(entry.stored_value())) {
            Some(Object::Text(text)) => text,
            _ => &[],
        }
    }

    /// The value of a key that holds anything but a short string.
    #[inline]
    pub fn object(&self, found: Found) -> Option<&Object> {
        self.objects.get(self.entry(found).object()?)
    }

    /// As [`Store::object`], to change it, with the arena its members live in and the hash key.
    #[inline]
    pub fn object_mut(&mut self, found: Found) -> Option<(&mut Object, &mut Arena, &Seed)> {
        let number = self.entry(found).object()?;
        Some((self.objects.get_mut(number)?, &mut self.arena, &self.seed))
    }

    /// Two different keys' objects, the first to change.
    pub fn object_pair(&mut self, first: Found, second: Found) -> Option<(&mut Object, &mut Object, &mut Arena)> {
        let (first, second) = (self.entry(first).object()?, self.entry(second).object()?);
        let (one, two) = self.objects.get_two_mut(first, second)?;
        Some((one, two, &mut self.arena))
    }

    /// Note that a key was used, for the eviction policy.
    #[inline]
    pub fn touch(&mut self, found: &mut Found) {
        let seconds = self.seconds();
        if self.evictor.policy().queues()
            && self.entry(*found).flags() & entry::LINKED == 0
            && self.evictor.wants(self.entry(*found))
        {
            let mut header = Header::of(self.entry(*found));
            header.linked = true;
            self.rewrite(found, header);
            self.evictor.joined(&mut self.arena, found.handle, found.hash);
        }
        self.evictor.touched(&mut self.arena, found.handle, seconds, &mut self.random);
    }

    /// Note that a key's value is being changed now.
    #[inline]
    pub fn stamp(&mut self, found: &mut Found) {
        let seconds = self.seconds();
        let entry = self.entry(*found);
        if entry.updated() == seconds {
            return;
        }
        if entry.flags() & entry::CREATED != 0 {
            entry::set_updated(self.arena.at_mut(found.handle), seconds);
        } else {
            let mut header = Header::of(entry);
            header.updated = seconds;
            self.rewrite(found, header);
        }
    }

    /// Give an entry another header, its key and value kept.
    fn rewrite(&mut self, found: &mut Found, header: Header) {
        let entry = self.entry(*found);
        let (key, value) = entry.lengths();
        let from = entry::header_len(entry.flags());
        let body = entry::stored_len(key) + value;
        let links = (entry.flags() & entry::LINKED != 0).then(|| entry.links());
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.arena.at(found.handle)[from..from + body]);
        let len = entry::header_len(header.flags(key, value)) + body;
        let old = found.handle;
        if !self.arena.fits(old, len) {
            // An entry only grows here by a few bytes; if the arena is full it keeps its old header.
            let Some(new) = self.arena.alloc(len) else { return };
            found.handle = new;
        }
        let bytes = self.arena.at_mut(found.handle);
        let at = header.write(bytes, key, value);
        bytes[at..at + body].copy_from_slice(&self.scratch);
        if let (Some((newer, older)), true) = (links, header.linked) {
            entry::set_newer(bytes, newer);
            entry::set_older(bytes, older);
        }
        if found.handle != old {
            if links.is_some() {
                self.evictor.moved(&mut self.arena, old, found.handle);
            }
            self.arena.free(old);
            self.databases[found.database as usize].table_mut(found.slot).replace(found.place, found.handle);
        }
    }

    /// Put an object under a key, whatever was there before.
    pub fn put_object(&mut self, database: u8, key: &[u8], object: Object, expiry: Option<u64>) -> Result<Found, Full> {
        // Who brings much pays for what was removed before: values that are made faster than upkeep frees
        // them (a STORE command, over and over) must not pile up.
        self.free_condemned(2 * object.weight());
        if let Some(found) = self.find(database, key) {
            self.remove(found);
        }
        let kind = object.kind();
        let number = self.objects.put(object);
        let put = self.insert(database, key, kind, &number.to_le_bytes(), entry::OBJECT, expiry, None);
        if put.is_err()
            && let Some(object) = self.objects.take(number)
        {
            object.free(&mut self.arena);
        }
        put
    }

    #[allow(clippy::too_many_arguments)] // The parts of an entry; private.
    pub(super) fn insert(
        &mut self,
        database: u8,
        key: &[u8],
        kind: Kind,
        value: &[u8],
        marks: u8,
        expiry: Option<u64>,
        times: Option<(u32, u32)>, // Of creation and of the last update; now, when nothing is said.
    ) -> Result<Found, Full> {
        let database = self.real(database);
        let seconds = self.seconds();
        let (created, updated) = times.unwrap_or((seconds, seconds));
        let mut header = Header {
            kind,
            database,
            marks,
            access: self.evictor.first_access(seconds),
            updated,
            created,
            expiry,
            linked: false,
        };
        header.linked = self.evictor.policy().queues() && self.evictor.policy().covers(expiry.is_some());
        let (hash, slot) = self.locate(key);
        header.linked &= !self.is_passive(slot);
        let flags = header.flags(key.len(), value.len());
        let len = entry::header_len(flags) + entry::stored_len(key.len()) + value.len();
        debug_assert!(len <= MAX_BLOCK);
        let handle = self.arena.alloc(len).ok_or(Full)?;
        let long_key = (key.len() > entry::INLINE_KEY).then(|| self.long_keys.put(key.into()).to_le_bytes());
        let stored_key = long_key.as_ref().map_or(key, |number| &number[..]);
        let bytes = self.arena.at_mut(handle);
        let at = header.write(bytes, key.len(), value.len());
        bytes[at..at + stored_key.len()].copy_from_slice(stored_key);
        bytes[at + stored_key.len()..at + stored_key.len() + value.len()].copy_from_slice(value);

        let Store { databases, arena, seed, long_keys, .. } = self;
        let home = &mut databases[database as usize];
        let place = home.table_mut(slot).insert(hash, handle, |each| {
            let entry = Entry(arena.at(each));
            let stored = entry.stored_key();
            if entry.lengths().0 <= entry::INLINE_KEY {
                seed.hash(stored)
            } else {
                seed.hash(long_keys.get(index(stored)).map_or(&[], |key| &**key))
            }
        });
        home.added(slot);
        if expiry.is_some() {
            home.expiring += 1;
        }
        if header.linked {
            self.evictor.joined(&mut self.arena, handle, hash);
        }
        Ok(Found { handle, place, hash, slot, database })
    }

    /// Remove a key and its value.
    pub fn remove(&mut self, found: Found) {
        if self.entry(found).flags() & entry::OBJECT != 0 {
            self.drop_object(found);
        }
        self.forget(found);
    }

    /// Remove a key whose value is gone or was taken.
    pub(super) fn forget(&mut self, found: Found) {
        let entry = self.entry(found);
        let flags = entry.flags();
        if entry.lengths().0 > entry::INLINE_KEY {
            let number = index(entry.stored_key());
            self.long_keys.take(number);
        }
        if flags & entry::LINKED != 0 {
            self.evictor.left(&mut self.arena, found.handle);
        }
        let home = &mut self.databases[found.database as usize];
        home.table_mut(found.slot).remove(found.place, found.hash);
        home.removed(found.slot);
        if flags & entry::EXPIRES != 0 {
            home.expiring -= 1;
        }
        self.arena.free(found.handle);
        let Store { databases, arena, seed, long_keys, .. } = self;
        databases[found.database as usize].table_mut(found.slot).shrink(|each| {
            let entry = Entry(arena.at(each));
            let stored = entry.stored_key();
            if entry.lengths().0 <= entry::INLINE_KEY {
                seed.hash(stored)
            } else {
                seed.hash(long_keys.get(index(stored)).map_or(&[], |key| &**key))
            }
        });
    }

    pub(super) fn drop_object(&mut self, found: Found) {
        if let Some(number) = self.entry(found).object()
            && let Some(object) = self.objects.take(number)
        {
            self.condemn(object);
        }
    }

    /// Free an object now when it is small, later and bit by bit when it is not.
    pub fn condemn(&mut self, object: Object) {
        if object.weight() <= 64 {
            object.free(&mut self.arena);
        } else {
            self.condemned.push(object);
        }
    }

    /// Remove a key because its time has come.
    pub(super) fn expire_now(&mut self, found: Found) {
        self.counts.expired += 1;
        self.tell(found, false);
        self.remove(found);
    }

    pub(super) fn tell(&mut self, found: Found, evicted: bool) {
        if self.tell_gone {
            let gone =
                Gone { database: self.number_of(found.database), key: self.key_of(found.handle).to_vec(), evicted };
            self.gone.push(gone);
        }
    }

    pub(super) fn count_expiry(&mut self, found: Found, before: bool, after: bool) {
        let home = &mut self.databases[found.database as usize];
        match (before, after) {
            (false, true) => home.expiring += 1,
            (true, false) => home.expiring -= 1,
            _ => {}
        }
    }

    /// Give a key an expiry, or none.
    pub fn set_expiry(&mut self, found: &mut Found, expiry: Option<u64>) {
        let before = self.entry(*found).expiry();
        match (before, expiry) {
            (Some(_), Some(time)) if entry::set_expiry(self.arena.at_mut(found.handle), time) => {}
            (None, None) => {}
            _ => {
                let mut header = Header::of(self.entry(*found));
                header.expiry = expiry;
                let joins = self.evictor.policy().queues() && self.evictor.policy().covers(expiry.is_some());
                if header.linked && !joins {
                    self.evictor.left(&mut self.arena, found.handle);
                    header.linked = false;
                    self.unlink_flag(found);
                }
                self.rewrite(found, header);
                self.count_expiry(*found, before.is_some(), expiry.is_some());
                self.touch(found);
            }
        }
    }

    /// Take an entry that left its queue out of the linked layout.
    pub(super) fn unlink_flag(&mut self, found: &mut Found) {
        let mut header = Header::of(self.entry(*found));
        header.linked = false;
        let entry = self.entry(*found);
        let (key, value) = entry.lengths();
        let from = entry::header_len(entry.flags());
        let body = entry::stored_len(key) + value;
        let bytes = self.arena.at_mut(found.handle);
        let to = entry::header_len(header.flags(key, value));
        bytes.copy_within(from..from + body, to);
        header.write(bytes, key, value);
    }
}

/// Equality of byte strings of one length. Most keys are short: words are compared here, without a call.
#[inline(always)]
fn same(one: &[u8], other: &[u8]) -> bool {
    let (one_words, one_rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    one_words.iter().zip(other_words).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
        && one_rest.iter().zip(other_rest).all(|(a, b)| a == b)
}

#[inline]
pub(super) fn index(stored: &[u8]) -> u32 {
    stored.get(..4).map_or(u32::MAX, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}
