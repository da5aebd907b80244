//! A copy of slots as they were at one point in time, without a fork and without a pause.
//!
//! [`Copy::begin`] fixes the point in time. Then [`Copy::step`] is called in every turn of the loop and encodes
//! entries into `out` for as long as it may; and before anything is written, [`Copy::before_write`] encodes what the
//! write would change and the copy has not reached yet. So each entry is copied once, as it was at the beginning.
//! * A small slot is copied whole, in one go.
//! * A larger one is walked by hash; a key that is written meanwhile is copied first and passed over later.
//! * A huge value is copied in slices. While that goes on its key cannot be written: the loop holds such requests
//!   back ([`Copy::holds`]), and where it could not know of one the value is copied to its end first.
//!
//! A key that expires or is evicted before the copy reaches it is not in the copy: that is told by the tail, and the
//! expired are of no use to anybody. When a database is emptied or all are, the copy is worthless: whoever owns it begins anew
//! ([`Copies::abandon`]). The owner takes what is in `out` whenever it likes.

use super::SlotSet;
use super::codec;
use crate::slot::slot_of;
use crate::store::arena::Handle;
use crate::store::entry;
use crate::store::keyspace::DATABASES;
use crate::store::whole::Meta;
use crate::store::{Object, Store};
use std::collections::{HashMap, HashSet};

/// A slot with more entries is walked piece by piece.
const SMALL_SLOT: usize = 512;
/// A value with more bytes behind it is copied in slices.
const HUGE: usize = 256 * 1024;
/// Bytes of a huge value that are copied between two looks at the clock.
const SLICE: usize = 128 * 1024;

/// See the module's page.
pub struct Copy {
    left: SlotSet,
    /// Number of each database, by where it was at the beginning: SWAPDB changes nothing in the copy.
    numbers: [u8; DATABASES],
    next: u16,
    walk: Option<Walk>,
    /// In slots that are not through: keys that were copied ahead of their turn, or were not there at the beginning.
    early: HashMap<u16, Early>,
    huge: Option<Huge>,
    scratch: Vec<Handle>,
    /// Whole pieces that lie before `out`.
    pub ready: Vec<Vec<u8>>,
    /// Entries, one after the other, that the owner has not taken yet.
    pub out: Vec<u8>,
    /// How many entries were copied so far.
    pub entries: u64,
}

/// Databases and keys.
type Early = HashSet<(u8, Box<[u8]>)>;

/// A large slot being walked: the database, and the hash up to which it is copied.
struct Walk {
    slot: u16,
    real: u8,
    hash: u32,
}

/// A huge value being copied.
struct Huge {
    slot: u16,
    real: u8,
    key: Box<[u8]>,
    meta: Meta,
    object: u32,
    /// Encoded so far; goes to `out` when it is complete.
    bytes: Vec<u8>,
    /// Bytes, elements or ranks that are copied; or where to scan on.
    at: usize,
}

impl Copy {
    /// A copy of these slots as they are now.
    pub fn begin(store: &Store, slots: SlotSet) -> Copy {
        Copy {
            left: slots,
            numbers: std::array::from_fn(|real| store.number_of(real as u8)),
            next: 0,
            walk: None,
            early: HashMap::new(),
            huge: None,
            scratch: Vec::new(),
            ready: Vec::new(),
            out: Vec::new(),
            entries: 0,
        }
    }

    /// Whether all is copied.
    pub fn done(&self) -> bool {
        self.left.is_empty() && self.huge.is_none()
    }

    /// How many slots are not through.
    pub fn slots_left(&self) -> usize {
        self.left.len()
    }

    /// Go on until `enough` says so; it is asked every few entries and told how many bytes wait in `out`.
    pub fn step(&mut self, store: &Store, mut enough: impl FnMut(usize) -> bool) {
        loop {
            if self.huge.is_some() {
                self.slice(store);
            } else if self.walk.is_some() {
                self.walk_on(store);
            } else if let Some(slot) = self.left.next(self.next) {
                self.next = slot;
                if is_small(store, slot) {
                    self.copy_slot(store, slot);
                } else {
                    self.walk = Some(Walk { slot, real: 0, hash: 0 });
                }
            } else if self.next > 0 {
                self.next = 0; // What lies before is through, unless it was passed over.
                if self.left.is_empty() {
                    return;
                }
            } else {
                return;
            }
            if enough(self.out.len()) {
                return;
            }
        }
    }

    /// A key is about to be written, in whichever database: copy it, or more, first if its turn has not come.
    pub fn before_write(&mut self, store: &Store, key: &[u8]) {
        let slot = slot_of(key);
        if !self.left.contains(slot) {
            return;
        }
        let walked = self.walk.as_ref().is_some_and(|walk| walk.slot == slot);
        if !walked && !self.early.contains_key(&slot) && is_small(store, slot) {
            return self.copy_slot(store, slot);
        }
        while self.huge.as_ref().is_some_and(|huge| *huge.key == *key) {
            self.slice(store);
        }
        for real in 0..DATABASES as u8 {
            if store.real_database(real).is_empty() && !self.was_used(real) {
                continue;
            }
            if let Some(walk) = &self.walk
                && walk.slot == slot
                && (real < walk.real || (real == walk.real && ((store.seed.hash(key) >> 32) as u32) < walk.hash))
            {
                continue; // Its place was passed already.
            }
            let pair = (real, Box::from(key));
            if !self.early.entry(slot).or_default().insert(pair) {
                continue;
            }
            if let Some(found) = store.find_real(real, key) {
                let handle = store.handle_of(found);
                if is_huge(store, handle) {
                    // Nobody could hold this write back: it waits here, this once.
                    let mut other = self.huge.take();
                    self.start_huge(store, handle, slot, real);
                    while self.huge.is_some() {
                        self.slice(store);
                    }
                    self.huge = other.take();
                } else {
                    self.copy_entry(store, handle, real);
                }
            }
        }
    }

    /// Whether a write to this key should wait: its value is huge and not copied yet. It is copied next.
    pub fn holds(&mut self, store: &Store, key: &[u8]) -> bool {
        let slot = slot_of(key);
        if !self.left.contains(slot) {
            return false;
        }
        if let Some(huge) = &self.huge {
            if *huge.key == *key {
                return true;
            }
            if !self.is_ahead(store, key, slot) {
                return false;
            }
            // Another one is under way: this key's turn comes, by and by.
            return (0..DATABASES as u8)
                .any(|real| store.find_real(real, key).is_some_and(|found| is_huge(store, store.handle_of(found))));
        }
        if !self.is_ahead(store, key, slot) {
            return false;
        }
        for real in 0..DATABASES as u8 {
            let Some(found) = store.find_real(real, key) else { continue };
            let handle = store.handle_of(found);
            let known = self.early.get(&slot).is_some_and(|early| early.contains(&(real, Box::from(key))));
            if !known && is_huge(store, handle) {
                self.early.entry(slot).or_default().insert((real, Box::from(key)));
                self.start_huge(store, handle, slot, real);
                return true;
            }
        }
        false
    }

    /// Whether a key's place is not passed yet.
    fn is_ahead(&self, store: &Store, key: &[u8], slot: u16) -> bool {
        match &self.walk {
            Some(walk) if walk.slot == slot => (0..DATABASES as u8).any(|real| {
                real > walk.real || (real == walk.real && ((store.seed.hash(key) >> 32) as u32) >= walk.hash)
            }),
            _ => true,
        }
    }

    fn was_used(&self, real: u8) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.real == real)
    }

    fn copy_slot(&mut self, store: &Store, slot: u16) {
        let mut handles = std::mem::take(&mut self.scratch);
        for real in 0..DATABASES as u8 {
            handles.clear();
            handles.extend(store.real_database(real).table(slot).into_iter().flat_map(|table| table.iter()));
            handles.iter().for_each(|&handle| store.arena.prefetch(handle));
            for &handle in &handles {
                self.copy_entry(store, handle, real);
            }
        }
        self.scratch = handles;
        self.left.remove(slot);
    }

    #[inline]
    fn copy_entry(&mut self, store: &Store, handle: Handle, real: u8) {
        codec::write_entry(store, handle, self.numbers[usize::from(real)], &mut self.out);
        self.entries += 1;
    }

    /// Copy the next few entries of the slot that is being walked.
    fn walk_on(&mut self, store: &Store) {
        let Some(Walk { slot, real, hash }) = self.walk else { return };
        let mut handles = std::mem::take(&mut self.scratch);
        handles.clear();
        let next = store.real_database(real).table(slot).and_then(|table| {
            table.scan(hash, |handle| store.seed.hash(store.key_of(handle)), |handle| handles.push(handle))
        });
        let early = self.early.remove(&slot);
        let known = |handle: Handle| {
            early.as_ref().is_some_and(|early| early.contains(&(real, Box::from(store.key_of(handle)))))
        };
        let mut huge = Vec::new();
        for &handle in handles.iter().filter(|&&handle| !known(handle)) {
            if is_huge(store, handle) {
                huge.push(handle);
            } else {
                self.copy_entry(store, handle, real);
            }
        }
        if let Some(early) = early {
            self.early.insert(slot, early);
        }
        if let Some(&handle) = huge.first() {
            // This one first, in slices; then the same few once more, with those copied passed over.
            for &copied in handles.iter().filter(|&&each| !huge.contains(&each) || each == handle) {
                self.early.entry(slot).or_default().insert((real, Box::from(store.key_of(copied))));
            }
            self.start_huge(store, handle, slot, real);
            self.scratch = handles;
            return;
        }
        self.scratch = handles;
        match next {
            Some(hash) => self.walk = Some(Walk { slot, real, hash }),
            None if usize::from(real) + 1 < DATABASES => self.walk = Some(Walk { slot, real: real + 1, hash: 0 }),
            None => {
                self.walk = None;
                self.early.remove(&slot);
                self.left.remove(slot);
            }
        }
    }

    fn start_huge(&mut self, store: &Store, handle: Handle, slot: u16, real: u8) {
        let meta = store.meta_of(handle);
        let mut bytes = Vec::new();
        codec::write_head(store, handle, self.numbers[usize::from(real)], meta, &mut bytes);
        if let Some(object) = store.object_at(handle) {
            codec::write_count(object, &mut bytes);
        }
        let object = store.entry_at(handle).object().unwrap_or(u32::MAX);
        self.huge = Some(Huge { slot, real, key: store.key_of(handle).into(), meta, object, bytes, at: 0 });
    }

    /// Copy the next slice of the huge value.
    fn slice(&mut self, store: &Store) {
        let Some(huge) = &mut self.huge else { return };
        let found = store.find_real(huge.real, &huge.key).filter(|&found| {
            let handle = store.handle_of(found);
            store.entry_at(handle).object() == Some(huge.object) && store.meta_of(handle).created == huge.meta.created
        });
        let Some(found) = found else {
            self.huge = None; // It has expired, or was evicted.
            return;
        };
        let Some(object) = store.object(found) else { return };
        let end = huge.bytes.len() + SLICE;
        let out = &mut huge.bytes;
        let next = match object {
            Object::Text(text) => {
                let piece = &text[huge.at.min(text.len())..text.len().min(huge.at + SLICE)];
                out.extend_from_slice(piece);
                (huge.at + piece.len() < text.len()).then_some(huge.at + piece.len())
            }
            Object::List(list) => {
                let mut at = huge.at;
                for element in list.forward(at) {
                    codec::put_string(out, element);
                    at += 1;
                    if out.len() >= end {
                        break;
                    }
                }
                (at < list.len()).then_some(at)
            }
            Object::SortedSet(zset) => {
                // Ranks from the last on, as in one piece.
                let left = zset.len() - huge.at.min(zset.len());
                let mut at = huge.at;
                for (member, score) in zset.entries(&store.arena, 0..left, true) {
                    codec::put_string(out, member);
                    out.extend_from_slice(&score.to_le_bytes());
                    at += 1;
                    if out.len() >= end {
                        break;
                    }
                }
                (at < zset.len()).then_some(at)
            }
            Object::Set(members) => {
                let mut cursor = Some(huge.at as u32);
                let mut digits = itoa::Buffer::new();
                while let Some(at) = cursor
                    && out.len() < end
                {
                    cursor = members.scan(&store.arena, &store.seed, at, |member| {
                        codec::put_string(out, member.bytes(&mut digits));
                    });
                }
                cursor.map(|at| at as usize)
            }
            Object::Hash(fields) => {
                let mut cursor = Some(huge.at as u32);
                while let Some(at) = cursor
                    && out.len() < end
                {
                    cursor = fields.scan(&store.arena, &store.seed, at, |field, value| {
                        codec::put_string(out, field);
                        codec::put_string(out, value);
                    });
                }
                cursor.map(|at| at as usize)
            }
            // In one piece: its blocks and groups are written as one.
            Object::Stream(_) => {
                out.clear();
                let number = self.numbers[usize::from(huge.real)];
                codec::write_entry(store, store.handle_of(found), number, out);
                None
            }
        };
        match next {
            Some(at) => huge.at = at,
            None => {
                // Not copied once more: that takes long when it is huge.
                let before = std::mem::replace(&mut self.out, std::mem::take(out));
                if !before.is_empty() {
                    self.ready.push(before);
                }
                self.entries += 1;
                let slot = huge.slot;
                self.huge = None;
                debug_assert!(self.left.contains(slot));
            }
        }
    }
}

/// Whether a value is too large to be copied in one go.
#[inline]
fn is_huge(store: &Store, handle: Handle) -> bool {
    store.object_at(handle).is_some_and(|object| object.heap_bytes() > HUGE)
}

/// Whether a slot can be copied in one go.
#[inline]
fn is_small(store: &Store, slot: u16) -> bool {
    let mut bytes = 0;
    for real in 0..DATABASES as u8 {
        let database = store.real_database(real);
        if database.is_empty() {
            continue;
        }
        let Some(table) = database.table(slot) else { continue };
        if table.len() > SMALL_SLOT {
            return false;
        }
        for handle in table.iter() {
            if store.entry_at(handle).flags() & entry::OBJECT != 0 {
                bytes += store.object_at(handle).map_or(0, Object::heap_bytes);
            }
        }
    }
    bytes <= HUGE
}

/// All copies under way: a snapshot, and one for each replica that is being filled.
#[derive(Default)]
pub struct Copies {
    list: Vec<(u32, Copy)>,
    last: u32,
    /// A client waits because of a huge value since this was last taken back.
    pub held: bool,
}

impl Copies {
    /// Whether there are none: then writes need no look.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Begin a copy of these slots; its number names it from now on.
    pub fn begin(&mut self, store: &Store, slots: SlotSet) -> u32 {
        self.last += 1;
        self.list.push((self.last, Copy::begin(store, slots)));
        self.last
    }

    /// A copy; `None` when it was abandoned because a database was emptied: begin anew.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Copy> {
        self.list.iter_mut().find(|(each, _)| *each == number).map(|(_, copy)| copy)
    }

    /// End a copy, complete or not.
    pub fn end(&mut self, number: u32) {
        self.list.retain(|(each, _)| *each != number);
    }

    /// End all: what they were copies of is gone.
    pub fn abandon(&mut self) {
        self.list.clear();
    }

    /// A key is about to be written.
    #[inline]
    pub fn before_write(&mut self, store: &Store, key: &[u8]) {
        self.list.iter_mut().for_each(|(_, copy)| copy.before_write(store, key));
    }

    /// Whether a write to this key should wait a little.
    pub fn hold(&mut self, store: &Store, key: &[u8]) -> bool {
        // Each is asked: a copy that is not asked does not put this key first.
        let held = self.list.iter_mut().fold(false, |held, (_, copy)| copy.holds(store, key) | held);
        self.held |= held;
        held
    }
}
