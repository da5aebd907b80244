//! A run of entries in one piece of memory.
//!
//! ```text
//! number of names, names       those of the entry that opened the block; others refer to them
//! entries: marks [time since the entry before] [number] [number of names] name value ... | value ...
//! ```
//! Most entries come with the names of the first, in a time shortly after the one before, as number 0
//! or one more than the last; then they cost two or three bytes besides their values. A removed entry
//! is marked at first; when more than half are, the block is packed anew.

use super::id::Id;
use super::piece::{self, Piece};

/// The entry was removed.
const DEAD: u8 = 1;
/// The names are those the block begins with.
const SAME_NAMES: u8 = 2;
/// The time is that of the entry before.
const SAME_TIME: u8 = 4;
/// The number is the next one of the same time, or 0 in a new time.
const NEXT_NUMBER: u8 = 8;

/// See the module's page.
#[derive(Clone)]
pub struct Block {
    /// The entry it was opened with, removed or not.
    pub first: Id,
    /// The last entry, removed or not.
    pub last: Id,
    /// Entries that are there.
    pub live: u32,
    /// Entries that were here and were removed.
    pub dead: u32,
    /// Of these, how many still lie in the bytes.
    lying: u32,
    /// Bytes that Redis would need for names and entries.
    counted: u32,
    bytes: Vec<u8>,
}

/// An entry where it lies.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Its name.
    pub id: Id,
    dead: bool,
    at: usize,
    count: usize,
    /// The block's names, when they are this entry's.
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it was removed and still lies there.
    pub fn is_removed(&self) -> bool {
        self.dead
    }

    /// Whether its names are those of the block.
    pub fn has_names_of_block(&self) -> bool {
        self.names.is_some()
    }

    /// Whether it has none; an entry has at least one.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values in the order given.
    pub fn pairs(&self) -> impl Iterator<Item = (Piece<'a>, Piece<'a>)> + use<'a> {
        let (mut names, mut body, mut left) = (self.names, self.body, self.count);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let name;
            match &mut names {
                Some(names) => (name, *names) = piece::take(names),
                None => (name, body) = piece::take(body),
            }
            let value;
            (value, body) = piece::take(body);
            Some((name, value))
        })
    }
}

impl Block {
    /// A block without entries, for those with these names.
    pub fn open<'p>(first: Id, names: impl Iterator<Item = &'p [u8]> + Clone) -> Block {
        let mut bytes = Vec::with_capacity(64);
        let count = names.clone().count();
        piece::put_count(&mut bytes, count as u64);
        let mut counted = piece::number_as_listpack(count as i64) + piece::number_as_listpack(0);
        for name in names {
            piece::put(&mut bytes, name);
            counted += piece::as_listpack(name);
        }
        Block { first, last: before(first), live: 0, dead: 0, lying: 0, counted: counted as u32, bytes }
    }

    /// A block with one entry, given as names and values.
    pub fn with(id: Id, fields: &[&[u8]]) -> Block {
        let mut block = Block::open(id, fields.iter().copied().step_by(2));
        block.append(id, fields);
        block
    }

    /// Bytes that Redis' listpack of this block has.
    pub fn as_listpack(&self) -> usize {
        // Head and end, two counts, then names and entries.
        7 + piece::number_as_listpack(i64::from(self.live))
            + piece::number_as_listpack(i64::from(self.dead))
            + self.counted as usize
    }

    /// Add an entry behind the others.
    pub fn append(&mut self, id: Id, fields: &[&[u8]]) {
        let names = fields.iter().copied().step_by(2);
        let same = self.names_are(names.clone());
        let values = if same { 1 } else { 0 };
        let room = 24 + fields.iter().skip(values).step_by(1 + values).map(|text| text.len() + 5).sum::<usize>();
        if self.bytes.capacity() - self.bytes.len() < room {
            self.bytes.reserve_exact(room + self.bytes.len() / 4);
        }
        self.put_head(id, same);
        let count = fields.len() / 2;
        if !same {
            piece::put_count(&mut self.bytes, count as u64);
        }
        let mut counted = 0;
        for pair in fields.as_chunks::<2>().0 {
            for text in &pair[usize::from(same)..] {
                piece::put(&mut self.bytes, text);
                counted += piece::as_listpack(text);
            }
        }
        let parts = 3 + if same { count } else { 2 * count + 1 };
        counted += piece::number_as_listpack(i64::from(if same { 2 } else { 0 })) // marks
            + piece::number_as_listpack(id.ms.wrapping_sub(self.first.ms) as i64)
            + piece::number_as_listpack(id.seq.wrapping_sub(self.first.seq) as i64)
            + if same { 0 } else { piece::number_as_listpack(count as i64) }
            + piece::number_as_listpack(parts as i64);
        self.counted = self.counted.saturating_add(counted as u32);
        self.live += 1;
    }

    /// Marks, time and number of an entry that comes next.
    fn put_head(&mut self, id: Id, same_names: bool) {
        let same_time = id.ms == self.last.ms;
        // Numbers wrap: the block's first entry comes after one that need not exist.
        let number = if same_time { id.seq.wrapping_sub(self.last.seq).wrapping_sub(1) } else { id.seq };
        let marks = if same_names { SAME_NAMES } else { 0 }
            | if same_time { SAME_TIME } else { 0 }
            | if number == 0 { NEXT_NUMBER } else { 0 };
        self.bytes.push(marks);
        if !same_time {
            piece::put_count(&mut self.bytes, id.ms - self.last.ms);
        }
        if number != 0 {
            piece::put_count(&mut self.bytes, number);
        }
        self.last = id;
    }

    fn names_are<'p>(&self, names: impl Iterator<Item = &'p [u8]>) -> bool {
        let (count, mut rest) = piece::take_count(&self.bytes);
        let mut seen = 0;
        for name in names {
            if seen == count {
                return false;
            }
            let (own, after) = piece::take(rest);
            if !own.is(name) {
                return false;
            }
            (rest, seen) = (after, seen + 1);
        }
        seen == count
    }

    /// Nothing will be added any more: room held ready is given back.
    pub fn close(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// The names the block begins with.
    pub fn names(&self) -> impl Iterator<Item = Piece<'_>> {
        let (count, mut rest) = piece::take_count(&self.bytes);
        (0..count).map(move |_| {
            let name;
            (name, rest) = piece::take(rest);
            name
        })
    }

    /// As [`Block::append`]; `false` when the entry does not come behind the others.
    pub fn try_append(&mut self, id: Id, fields: &[&[u8]]) -> bool {
        let fresh = self.live + self.dead == 0;
        let fits = if fresh { id >= self.first } else { id > self.last };
        if fits {
            self.append(id, fields);
        }
        fits
    }

    /// All entries, those that were removed and still lie here too.
    pub fn all(&self) -> impl Iterator<Item = Entry<'_>> {
        let (count, names) = piece::take_count(&self.bytes);
        let rest = piece::skip(names, count as usize);
        Entries { block: self, names, names_count: count as usize, rest, before: before(self.first) }
    }

    /// The entries that are there.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.all().filter(|entry| !entry.dead)
    }

    /// The entry of this name.
    pub fn get(&self, id: Id) -> Option<Entry<'_>> {
        if id < self.first || id > self.last {
            return None;
        }
        self.all().find(|entry| entry.id >= id).filter(|entry| entry.id == id && !entry.dead)
    }

    /// Remove an entry; `false` when it is not there.
    pub fn remove(&mut self, id: Id) -> bool {
        let Some(at) = self.get(id).map(|entry| entry.at) else { return false };
        self.bytes[at] |= DEAD;
        self.died(1);
        true
    }

    /// Remove entries from the front for as long as `goes` says so; returns how many.
    pub fn remove_front(&mut self, mut goes: impl FnMut(Id) -> bool) -> usize {
        let doomed: Vec<usize> = self.entries().take_while(|entry| goes(entry.id)).map(|entry| entry.at).collect();
        for &at in &doomed {
            self.bytes[at] |= DEAD;
        }
        self.died(doomed.len() as u32);
        doomed.len()
    }

    fn died(&mut self, count: u32) {
        self.live -= count;
        self.dead += count;
        self.lying += count;
        if self.lying > self.live + 8 {
            self.pack();
        }
    }

    /// Write the block anew without what was removed. The last entry stays even so: what is appended
    /// tells its time from there.
    fn pack(&mut self) {
        let (count, names) = piece::take_count(&self.bytes);
        let head = self.bytes.len() - piece::skip(names, count as usize).len();
        let room = Vec::with_capacity(self.bytes.len() / 2);
        let mut packed = Block { last: before(self.first), lying: 0, bytes: room, ..*self };
        packed.bytes.extend_from_slice(&self.bytes[..head]);
        for entry in self.all().filter(|entry| !entry.dead || entry.id == self.last) {
            let at = packed.bytes.len();
            packed.put_head(entry.id, entry.names.is_some());
            if entry.dead {
                packed.bytes[at] |= DEAD;
                packed.lying = 1;
            }
            if entry.names.is_none() {
                piece::put_count(&mut packed.bytes, entry.count as u64);
            }
            packed.bytes.extend_from_slice(entry.body);
        }
        packed.bytes.shrink_to_fit();
        *self = packed;
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Where the first entry of a block is told from. Wraps for number 0, and reading wraps back.
fn before(first: Id) -> Id {
    Id { ms: first.ms, seq: first.seq.wrapping_sub(1) }
}

/// See [`Block::all`].
struct Entries<'a> {
    block: &'a Block,
    names: &'a [u8],
    names_count: usize,
    rest: &'a [u8],
    before: Id,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let (&marks, mut rest) = self.rest.split_first()?;
        let at = self.block.bytes.len() - self.rest.len();
        let mut id = self.before;
        if marks & SAME_TIME == 0 {
            let later;
            (later, rest) = piece::take_count(rest);
            id = Id { ms: id.ms.wrapping_add(later), seq: u64::MAX };
        }
        id.seq = id.seq.wrapping_add(1);
        if marks & NEXT_NUMBER == 0 {
            let more;
            (more, rest) = piece::take_count(rest);
            id.seq = id.seq.wrapping_add(more);
        }
        let same = marks & SAME_NAMES != 0;
        let mut count = self.names_count;
        if !same {
            let own;
            (own, rest) = piece::take_count(rest);
            count = own as usize;
        }
        let after = piece::skip(rest, if same { count } else { 2 * count });
        let body = &rest[..rest.len() - after.len()];
        (self.rest, self.before) = (after, id);
        Some(Entry { id, dead: marks & DEAD != 0, at, count, names: same.then_some(self.names), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> Id {
        Id { ms, seq }
    }

    fn told(block: &Block) -> Vec<(Id, Vec<String>)> {
        let text = |piece: Piece<'_>| piece.with(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let words = |entry: Entry<'_>| entry.pairs().flat_map(|(name, value)| [text(name), text(value)]).collect();
        block.entries().map(|entry| (entry.id, words(entry))).collect()
    }

    #[test]
    fn entries_read_back_whatever_their_names_and_times() {
        let all: Vec<(Id, Vec<&[u8]>)> = vec![
            (id(5, 0), vec![b"a", b"1", b"b", b"two"]),
            (id(5, 1), vec![b"a", b"3", b"b", b"-4"]),
            (id(5, 7), vec![b"a", b"3"]),
            (id(6, 0), vec![b"b", b"3", b"a", b"x"]),
            (id(900, 4), vec![b"a", b"", b"b", b"12345678901"]),
            (id(u64::MAX, u64::MAX), vec![b"a", b"3", b"b", b"", b"c", b"9"]),
        ];
        let mut block = Block::with(all[0].0, &all[0].1);
        all[1..].iter().for_each(|(id, fields)| block.append(*id, fields));
        let words =
            |fields: &Vec<&[u8]>| fields.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let expected: Vec<(Id, Vec<String>)> = all.iter().map(|(id, fields)| (*id, words(fields))).collect();
        assert_eq!(told(&block), expected);
        assert!(block.get(id(5, 7)).is_some());
        assert!(block.get(id(5, 6)).is_none());
    }

    #[test]
    fn what_is_removed_leaves_the_memory_and_the_last_time_stays_known() {
        let value = "v".repeat(30);
        let mut block = Block::with(id(1, 0), &[b"f", value.as_bytes()]);
        (2..=100).for_each(|ms| block.append(id(ms, ms % 3), &[b"f", value.as_bytes()]));
        let full = block.heap_bytes();
        for ms in 11..=100 {
            assert!(block.remove(id(ms, ms % 3)));
            assert!(!block.remove(id(ms, ms % 3)));
        }
        assert_eq!((block.live, block.dead, block.last), (10, 90, id(100, 1)));
        assert!(block.heap_bytes() < full / 2, "{} of {full} bytes", block.heap_bytes());
        block.append(id(101, 5), &[b"f", b"new"]);
        assert_eq!(told(&block).last(), Some(&(id(101, 5), vec!["f".to_owned(), "new".to_owned()])));
        assert_eq!(block.remove_front(|id| id.ms < 11), 10);
        assert_eq!(told(&block).len(), 1);
    }
}
