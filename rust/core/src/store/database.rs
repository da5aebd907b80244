//! One numbered database: a table for each of the 16,384 slots, and which of them hold keys.

use super::table::Table;
use crate::slot::SLOT_COUNT;

const WORDS: usize = SLOT_COUNT as usize / 64;

/// See the module's page. An unused database owns no memory.
#[derive(Default)]
pub struct Database {
    tables: Vec<Table>,
    occupied: Vec<u64>, // One bit a slot.
    len: usize,
    /// Keys that have an expiry.
    pub expiring: usize,
}

impl Database {
    /// How many keys there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The table of a slot, if the database is in use.
    #[inline(always)]
    pub fn table(&self, slot: u16) -> Option<&Table> {
        self.tables.get(slot as usize)
    }

    /// The table of a slot, to change what is in it (not how much: see `added` and `removed`).
    #[inline(always)]
    pub fn table_mut(&mut self, slot: u16) -> &mut Table {
        if self.tables.is_empty() {
            self.open();
        }
        &mut self.tables[slot as usize]
    }

    #[cold]
    fn open(&mut self) {
        self.tables.resize_with(SLOT_COUNT as usize, Table::default);
        self.occupied.resize(WORDS, 0);
    }

    /// Account for a handle put into the table of `slot`.
    #[inline]
    pub fn added(&mut self, slot: u16) {
        self.len += 1;
        self.occupied[slot as usize / 64] |= 1 << (slot % 64);
    }

    /// Account for a handle taken out of the table of `slot`.
    #[inline]
    pub fn removed(&mut self, slot: u16) {
        self.len -= 1;
        if self.tables[slot as usize].is_empty() {
            self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }

    /// Put another table in place of a slot's, and return that one. `expiring` are not counted here.
    pub fn exchange(&mut self, slot: u16, table: Table) -> Table {
        let old = std::mem::replace(self.table_mut(slot), table);
        let now = self.tables[slot as usize].len();
        self.len = self.len + now - old.len();
        if now > 0 {
            self.occupied[slot as usize / 64] |= 1 << (slot % 64);
        } else {
            self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
        }
        old
    }

    /// The first slot from `slot` on that holds keys.
    pub fn occupied_from(&self, slot: u16) -> Option<u16> {
        let first = slot as usize / 64;
        let mut word = self.occupied.get(first)? & (u64::MAX << (slot % 64));
        let mut index = first;
        while word == 0 {
            index += 1;
            word = *self.occupied.get(index)?;
        }
        Some((index * 64) as u16 + word.trailing_zeros() as u16)
    }

    /// A slot that holds keys, the first at or after `slot`, going round.
    pub fn occupied_around(&self, slot: u16) -> Option<u16> {
        self.occupied_from(slot).or_else(|| self.occupied_from(0))
    }

    /// Bytes of memory behind the tables.
    pub fn heap_bytes(&self) -> usize {
        self.tables.capacity() * size_of::<Table>()
            + self.occupied.capacity() * 8
            + self.tables.iter().map(Table::heap_bytes).sum::<usize>()
    }
}
