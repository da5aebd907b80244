//! One piece of a list: neighbouring elements packed in one buffer with room at both ends.
//!
//! An element is its length, its bytes, and its length again, so that a chunk can be read
//! from either end. A length takes one byte up to 253, else a mark and two or four bytes.

/// What shares a chunk is at most this long together; a longer element is alone in one.
/// With the allocator's own eight bytes it makes 8 KiB.
pub(super) const FULL: usize = 8184;

const TWO_BYTES: u8 = 254;
const FOUR_BYTES: u8 = 255;

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where index 0 is.
    Front,
    /// Where index -1 is.
    Back,
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Box<[u8]>,
    head: u32,
    tail: u32,
    count: u32,
}

impl Chunk {
    /// A chunk of one element, as small as can be.
    pub(super) fn of(element: &[u8]) -> Self {
        let mut chunk = Chunk::default();
        chunk.insert(0, element);
        chunk
    }

    /// A chunk of one element with room for more on the side of `end`.
    pub(super) fn opening(end: End, element: &[u8]) -> Self {
        let mut chunk = Chunk::default();
        if packed(element.len()) <= FULL {
            chunk.reallocate(rounded(FULL / 4).max(rounded(packed(element.len()))), end);
        }
        if !chunk.push(end, element) {
            chunk.insert(0, element);
        }
        chunk
    }

    /// How many elements lie here.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes of heap memory behind the chunk.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn used(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Whether an element of this length may lie here too.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.count == 0 || self.used() + packed(len) <= FULL
    }

    /// Put an element at an end; `false` when it belongs in a chunk of its own.
    #[inline]
    pub(super) fn push(&mut self, end: End, element: &[u8]) -> bool {
        let size = packed(element.len());
        let room = match end {
            End::Front => self.head as usize,
            End::Back => self.bytes.len() - self.tail as usize,
        };
        if room < size && !self.make_room(end, size) {
            return false;
        }
        let at = match end {
            End::Front => {
                self.head -= size as u32;
                self.head as usize
            }
            End::Back => {
                self.tail += size as u32;
                self.tail as usize - size
            }
        };
        self.count += 1;
        write(&mut self.bytes[at..at + size], element);
        true
    }

    /// Slide or grow, so that `size` bytes find room at an end.
    #[cold]
    fn make_room(&mut self, end: End, size: usize) -> bool {
        let (used, capacity) = (self.used(), self.bytes.len());
        if self.count > 0 && used + size > FULL {
            return false;
        }
        if (used + size) * 2 <= capacity {
            // A queue that stays short walks through its buffer: start it at the other side again.
            let to = if end == End::Front { capacity - used } else { 0 };
            self.bytes.copy_within(self.head as usize..self.tail as usize, to);
            (self.head, self.tail) = (to as u32, (to + used) as u32);
        } else if capacity >= FULL && self.count > 0 {
            return false; // Sliding this much for every few elements costs more than a new chunk.
        } else {
            self.reallocate(grown(used, size), end);
        }
        true
    }

    /// Move into a buffer of another size, all of the room on the side of `end`.
    fn reallocate(&mut self, capacity: usize, end: End) {
        let used = self.used();
        let mut bytes = vec![0; capacity].into_boxed_slice();
        let to = if end == End::Front { capacity - used } else { 0 };
        bytes[to..to + used].copy_from_slice(&self.bytes[self.head as usize..self.tail as usize]);
        self.bytes = bytes;
        (self.head, self.tail) = (to as u32, (to + used) as u32);
    }

    /// Give memory back when little of the buffer is used.
    pub(super) fn shrink(&mut self) {
        if self.bytes.len() > 256 && self.used() * 4 < self.bytes.len() {
            self.reallocate(rounded(self.used() * 2), End::Back);
        }
    }

    /// Bytes offset of the `index`-th element, for `index` up to the count.
    fn offset(&self, index: usize) -> usize {
        if index <= self.count() / 2 {
            let mut at = self.head as usize;
            for _ in 0..index {
                at = self.after(at).2;
            }
            at
        } else {
            let mut at = self.tail as usize;
            for _ in index..self.count() {
                at = self.before(at).2;
            }
            at
        }
    }

    /// The element that begins at an offset: where its bytes start and end, and where the next begins.
    #[inline]
    fn after(&self, at: usize) -> (usize, usize, usize) {
        let bytes = &*self.bytes;
        let (mark, len) = match bytes[at] {
            FOUR_BYTES => {
                (5, u32::from_le_bytes([bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4]]) as usize)
            }
            TWO_BYTES => (3, usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]))),
            len => (1, usize::from(len)),
        };
        (at + mark, at + mark + len, at + mark + len + mark)
    }

    /// The element that ends at an offset: where its bytes start and end, and where it begins.
    #[inline]
    fn before(&self, at: usize) -> (usize, usize, usize) {
        let bytes = &*self.bytes;
        let (mark, len) = match bytes[at - 1] {
            FOUR_BYTES => {
                (5, u32::from_le_bytes([bytes[at - 5], bytes[at - 4], bytes[at - 3], bytes[at - 2]]) as usize)
            }
            TWO_BYTES => (3, usize::from(u16::from_le_bytes([bytes[at - 3], bytes[at - 2]]))),
            len => (1, usize::from(len)),
        };
        (at - mark - len, at - mark, at - mark - len - mark)
    }

    /// The `index`-th element.
    pub(super) fn get(&self, index: usize) -> &[u8] {
        let (start, end, _) = self.after(self.offset(index));
        &self.bytes[start..end]
    }

    /// The element at an end.
    #[inline]
    pub(super) fn at(&self, end: End) -> Option<&[u8]> {
        if self.count == 0 {
            return None;
        }
        let (start, end, _) = match end {
            End::Front => self.after(self.head as usize),
            End::Back => self.before(self.tail as usize),
        };
        Some(&self.bytes[start..end])
    }

    /// Drop the element at an end.
    #[inline]
    pub(super) fn drop_at(&mut self, end: End) {
        match end {
            End::Front => self.head = self.after(self.head as usize).2 as u32,
            End::Back => self.tail = self.before(self.tail as usize).2 as u32,
        }
        self.count -= 1;
    }

    /// Drop the first `count` elements, or the last.
    pub(super) fn drop_many(&mut self, end: End, count: usize) {
        match end {
            End::Front => self.head = self.offset(count) as u32,
            End::Back => self.tail = self.offset(self.count() - count) as u32,
        }
        self.count -= count as u32;
    }

    /// Put an element before the `index`-th. The caller has asked [`Chunk::fits`].
    pub(super) fn insert(&mut self, index: usize, element: &[u8]) {
        let size = packed(element.len());
        let at = self.offset(index);
        let at = self.open_gap(at, size);
        write(&mut self.bytes[at..at + size], element);
        self.count += 1;
    }

    /// Put another element in place of the `index`-th; `false` when it does not fit.
    pub(super) fn replace(&mut self, index: usize, element: &[u8]) -> bool {
        if self.count == 1 {
            if self.get(0).len() != element.len() {
                *self = Chunk::of(element);
                return true;
            }
        } else if self.used() - packed(self.get(index).len()) + packed(element.len()) > FULL {
            return false;
        }
        let at = self.offset(index);
        let (start, end, next) = self.after(at);
        if end - start == element.len() {
            self.bytes[start..end].copy_from_slice(element);
        } else {
            self.close_gap(at, next - at);
            self.count -= 1;
            self.insert(index, element);
        }
        true
    }

    /// Take out the `index`-th element.
    pub(super) fn remove(&mut self, index: usize) {
        let at = self.offset(index);
        let next = self.after(at).2;
        self.close_gap(at, next - at);
        self.count -= 1;
    }

    /// Make `size` bytes free at an offset, moving what is shorter; returns where they start.
    fn open_gap(&mut self, at: usize, size: usize) -> usize {
        let (head, tail) = (self.head as usize, self.tail as usize);
        let (before, behind) = (head >= size, self.bytes.len() - tail >= size);
        if behind && (!before || tail - at <= at - head) {
            self.bytes.copy_within(at..tail, at + size);
            self.tail += size as u32;
            at
        } else if before {
            self.bytes.copy_within(head..at, head - size);
            self.head -= size as u32;
            at - size
        } else {
            let used = tail - head;
            let mut bytes = vec![0; grown(used, size)].into_boxed_slice();
            bytes[..at - head].copy_from_slice(&self.bytes[head..at]);
            bytes[at - head + size..used + size].copy_from_slice(&self.bytes[at..tail]);
            self.bytes = bytes;
            (self.head, self.tail) = (0, offset_of(used + size));
            at - head
        }
    }

    /// Take `size` bytes out at an offset, moving what is shorter.
    fn close_gap(&mut self, at: usize, size: usize) {
        let (head, tail) = (self.head as usize, self.tail as usize);
        if tail - (at + size) <= at - head {
            self.bytes.copy_within(at + size..tail, at);
            self.tail -= size as u32;
        } else {
            self.bytes.copy_within(head..at, head + size);
            self.head += size as u32;
        }
    }

    /// How many elements equal `value`.
    pub(super) fn count_equal(&self, value: &[u8]) -> usize {
        self.forward(0).filter(|&each| each == value).count()
    }

    /// Take out elements that equal `value`: pass over `skip` of them, then take at most `limit`. Returns how many.
    pub(super) fn remove_equal(&mut self, value: &[u8], mut skip: usize, limit: usize) -> usize {
        let mut removed = 0;
        let mut to = self.head as usize;
        let mut at = to;
        while at < self.tail as usize && removed < limit {
            let (start, end, next) = self.after(at);
            let equal = &self.bytes[start..end] == value;
            if equal && skip == 0 {
                removed += 1;
            } else {
                skip -= usize::from(equal);
                if removed > 0 {
                    self.bytes.copy_within(at..next, to);
                }
                to += next - at;
            }
            at = next;
        }
        if removed > 0 {
            self.bytes.copy_within(at..self.tail as usize, to);
            self.tail -= (at - to) as u32;
            self.count -= removed as u32;
        }
        removed
    }

    /// Cut off what starts with the `index`-th element.
    pub(super) fn split_off(&mut self, index: usize) -> Chunk {
        let at = self.offset(index);
        let bytes: Box<[u8]> = self.bytes[at..self.tail as usize].into();
        let cut = Chunk { head: 0, tail: offset_of(bytes.len()), count: self.count - index as u32, bytes };
        self.tail = at as u32;
        self.count = index as u32;
        cut
    }

    /// Take the elements of the next chunk too, if both are small; `false` when they are not.
    pub(super) fn absorb(&mut self, next: &Chunk) -> bool {
        let (used, more) = (self.used(), next.used());
        if used + more > FULL / 2 {
            return false;
        }
        if self.bytes.len() - (self.tail as usize) < more {
            self.reallocate(grown(used, more), End::Back);
        }
        let tail = self.tail as usize;
        self.bytes[tail..tail + more].copy_from_slice(&next.bytes[next.head as usize..next.tail as usize]);
        self.tail += more as u32;
        self.count += next.count;
        true
    }

    /// The elements from the `index`-th on.
    pub(super) fn forward(&self, index: usize) -> Forward<'_> {
        Forward { chunk: self, at: self.offset(index) }
    }

    /// The elements before the `index`-th, the nearest first.
    pub(super) fn backward(&self, index: usize) -> Backward<'_> {
        Backward { chunk: self, at: self.offset(index) }
    }
}

/// Elements of a chunk from front to back.
pub(super) struct Forward<'a> {
    chunk: &'a Chunk,
    at: usize,
}

impl<'a> Iterator for Forward<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.chunk.tail as usize {
            return None;
        }
        let (start, end, next) = self.chunk.after(self.at);
        self.at = next;
        Some(&self.chunk.bytes[start..end])
    }
}

/// Elements of a chunk from back to front.
pub(super) struct Backward<'a> {
    chunk: &'a Chunk,
    at: usize,
}

impl<'a> Iterator for Backward<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at <= self.chunk.head as usize {
            return None;
        }
        let (start, end, before) = self.chunk.before(self.at);
        self.at = before;
        Some(&self.chunk.bytes[start..end])
    }
}

/// Bytes that an element of this length takes.
#[inline]
fn packed(len: usize) -> usize {
    len + 2 * mark_len(len)
}

#[inline]
fn mark_len(len: usize) -> usize {
    match len {
        0..254 => 1,
        254..0x1_0000 => 3,
        _ => 5,
    }
}

/// Fill exactly the bytes that an element takes.
#[inline]
fn write(to: &mut [u8], element: &[u8]) {
    let mark = mark_len(element.len());
    let end = mark + element.len();
    to[mark..end].copy_from_slice(element);
    match mark {
        1 => {
            to[0] = element.len() as u8;
            to[end] = element.len() as u8;
        }
        3 => {
            let len = (element.len() as u16).to_le_bytes();
            to[0] = TWO_BYTES;
            to[1..3].copy_from_slice(&len);
            to[end..end + 2].copy_from_slice(&len);
            to[end + 2] = TWO_BYTES;
        }
        _ => {
            let len = offset_of(element.len()).to_le_bytes();
            to[0] = FOUR_BYTES;
            to[1..5].copy_from_slice(&len);
            to[end..end + 4].copy_from_slice(&len);
            to[end + 4] = FOUR_BYTES;
        }
    }
}

/// An offset as chunks keep it. A request cannot bring a longer element: its limit is 512 MiB.
fn offset_of(len: usize) -> u32 {
    u32::try_from(len).expect("an element is shorter than 4 GiB")
}

/// The capacity for `used` bytes and `size` more: half as much again, within what is shared.
fn grown(used: usize, size: usize) -> usize {
    let needed = used + size;
    if needed >= FULL {
        return needed; // No room behind an element that must stay alone.
    }
    if used == 0 { rounded(needed) } else { rounded(needed.max(used + used / 2)).min(FULL) }
}

/// The same or a little more, so that the allocator's block is used whole.
fn rounded(len: usize) -> usize {
    (len + 8).next_multiple_of(16) - 8
}
