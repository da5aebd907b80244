//! Memory for the millions of small things a cache holds: entries, fields, members.
//!
//! A block is named by a 32-bit [`Handle`] instead of a 64-bit pointer, and sizes go in
//! steps of four bytes, so that a key costs its payload and little more. Blocks of one
//! size share a 16 KiB page; a page without live blocks serves any size again, and a
//! chunk without live pages goes back to the operating system. All of it is safe code:
//! a handle is an index, and a wrong one is a panic, never a stray write.

/// Names a block. Zero is [`NIL`] and never names one.
pub type Handle = u32;

/// The handle of nothing.
pub const NIL: Handle = 0;

/// The largest block; what is longer belongs on the ordinary heap.
pub const MAX_BLOCK: usize = 4096;

const UNIT: usize = 4;
const PAGE_UNITS: u32 = 4096; // 16 KiB
const CHUNK_PAGES: u32 = 64; // 1 MiB
const CHUNK_BYTES: usize = PAGE_UNITS as usize * UNIT * CHUNK_PAGES as usize;
const MAX_CHUNKS: usize = 1 << 14; // 16 GiB: all that 32-bit handles can name.
const NO_PAGE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Page {
    class: u8, // 0: the page is free.
    listed: bool,
    live: u16,
    free: u16,  // First freed block, in units from the page's start; PAGE_END: none.
    fresh: u16, // First unit that was never handed out.
    next: u32,  // Neighbours among the pages of this class that have room,
    prev: u32,  // or among the free pages.
}

const PAGE_END: u16 = u16::MAX;

/// See the module's page.
pub struct Arena {
    chunks: Vec<Box<[u8]>>, // An empty box: given back.
    chunk_live: Vec<u8>,    // Pages in use in each chunk.
    pages: Vec<Page>,
    with_room: [u32; CLASS_COUNT],
    free_pages: u32,
    spare_chunks: Vec<u32>,
    used: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An arena that holds nothing and has asked for no memory yet.
    pub fn new() -> Self {
        Arena {
            chunks: Vec::new(),
            chunk_live: Vec::new(),
            pages: Vec::new(),
            with_room: [NO_PAGE; CLASS_COUNT],
            free_pages: NO_PAGE,
            spare_chunks: Vec::new(),
            used: 0,
        }
    }

    /// Bytes in live blocks, rounded up to their sizes.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes asked from the operating system and not given back.
    pub fn reserved(&self) -> usize {
        (self.chunks.len() - self.spare_chunks.len()) * CHUNK_BYTES
    }

    /// Whether a whole chunk more could be had: then blocks of up to a mebibyte all told are sure to be.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.chunks.len() - self.spare_chunks.len() < MAX_CHUNKS
    }

    /// A block of at least `len` bytes with undefined content, or `None` when the arena is full.
    ///
    /// # Panics
    /// When `len` exceeds [`MAX_BLOCK`].
    #[inline]
    pub fn alloc(&mut self, len: usize) -> Option<Handle> {
        let class = class_of(len);
        let size = CLASS_UNITS[class];
        let mut number = self.with_room[class];
        if number == NO_PAGE {
            number = self.open_page(class)?;
        }
        let base = number * PAGE_UNITS;
        let page = &mut self.pages[number as usize];
        page.live += 1;
        let at = if page.free != PAGE_END {
            let at = base + u32::from(page.free);
            let link = {
                let (chunk, offset) = place(at);
                let bytes = &self.chunks[chunk][offset..offset + 2];
                u16::from_le_bytes([bytes[0], bytes[1]])
            };
            page.free = link;
            at
        } else {
            let at = base + u32::from(page.fresh);
            page.fresh += size;
            at
        };
        if page.free == PAGE_END && u32::from(page.fresh) + u32::from(size) > PAGE_UNITS {
            self.unlist(number);
        }
        self.used += usize::from(size) * UNIT;
        Some(at)
    }

    /// Give a block back.
    #[inline]
    pub fn free(&mut self, block: Handle) {
        let number = block / PAGE_UNITS;
        let page = &mut self.pages[number as usize];
        let size = CLASS_UNITS[page.class as usize];
        self.used -= usize::from(size) * UNIT;
        page.live -= 1;
        if page.live == 0 {
            self.close_page(number);
            return;
        }
        let (chunk, offset) = place(block);
        self.chunks[chunk][offset..offset + 2].copy_from_slice(&page.free.to_le_bytes());
        page.free = (block % PAGE_UNITS) as u16;
        if !page.listed {
            self.list(number);
        }
    }

    /// How many bytes the block can hold.
    #[inline]
    pub fn capacity(&self, block: Handle) -> usize {
        usize::from(CLASS_UNITS[self.pages[(block / PAGE_UNITS) as usize].class as usize]) * UNIT
    }

    /// Whether `len` bytes would get a block of the very size this one has.
    #[inline]
    pub fn fits(&self, block: Handle, len: usize) -> bool {
        len <= MAX_BLOCK && class_of(len) == self.pages[(block / PAGE_UNITS) as usize].class as usize
    }

    /// The bytes from the block's start; the owner knows how many are its own.
    #[inline(always)]
    pub fn at(&self, block: Handle) -> &[u8] {
        let (chunk, offset) = place(block);
        &self.chunks[chunk][offset..]
    }

    /// As [`Arena::at`], to write.
    #[inline(always)]
    pub fn at_mut(&mut self, block: Handle) -> &mut [u8] {
        let (chunk, offset) = place(block);
        &mut self.chunks[chunk][offset..]
    }

    /// Move `len` bytes of one block into another.
    pub fn copy(&mut self, from: Handle, to: Handle, len: usize) {
        let (from_chunk, from) = place(from);
        let (to_chunk, to) = place(to);
        if from_chunk == to_chunk {
            self.chunks[from_chunk].copy_within(from..from + len, to);
        } else if let Ok([source, target]) = self.chunks.get_disjoint_mut([from_chunk, to_chunk]) {
            target[to..to + len].copy_from_slice(&source[from..from + len]);
        }
    }

    /// Ask the processor for the block's first bytes.
    #[inline(always)]
    pub fn prefetch(&self, block: Handle) {
        let (chunk, offset) = place(block);
        if let Some(bytes) = self.chunks.get(chunk) {
            // An entry of the common size lies across two cache lines.
            if let (Some(first), Some(second)) = (bytes.get(offset), bytes.get(offset + 64)) {
                crate::sys::prefetch(first);
                crate::sys::prefetch(second);
            }
        }
    }

    fn open_page(&mut self, class: usize) -> Option<u32> {
        if self.free_pages == NO_PAGE {
            self.open_chunk()?;
        }
        let number = self.free_pages;
        self.free_pages = self.pages[number as usize].next;
        if self.free_pages != NO_PAGE {
            self.pages[self.free_pages as usize].prev = NO_PAGE;
        }
        // Unit 0 of page 0 is NIL's: that page starts one unit later.
        let fresh = u16::from(number == 0);
        self.pages[number as usize] =
            Page { class: class as u8, listed: false, live: 0, free: PAGE_END, fresh, next: NO_PAGE, prev: NO_PAGE };
        self.chunk_live[(number / CHUNK_PAGES) as usize] += 1;
        self.list(number);
        Some(number)
    }

    fn close_page(&mut self, number: u32) {
        if self.pages[number as usize].listed {
            self.unlist(number);
        }
        let chunk = number / CHUNK_PAGES;
        self.pages[number as usize].class = 0;
        self.push_free(number);
        self.chunk_live[chunk as usize] -= 1;
        // One empty chunk stays at hand, or a load that swings around its edge would map and unmap it for ever.
        let empties = self.chunk_live.iter().filter(|&&live| live == 0).count() - self.spare_chunks.len();
        if self.chunk_live[chunk as usize] == 0 && empties > 1 {
            for page in chunk * CHUNK_PAGES..(chunk + 1) * CHUNK_PAGES {
                self.pull_free(page);
            }
            self.chunks[chunk as usize] = Box::default();
            self.spare_chunks.push(chunk);
        }
    }

    fn open_chunk(&mut self) -> Option<()> {
        let bytes = vec![0u8; CHUNK_BYTES].into_boxed_slice();
        let chunk = if let Some(chunk) = self.spare_chunks.pop() {
            self.chunks[chunk as usize] = bytes;
            chunk
        } else {
            if self.chunks.len() == MAX_CHUNKS {
                return None;
            }
            let chunk = self.chunks.len() as u32;
            self.chunks.push(bytes);
            self.chunk_live.push(0);
            let empty =
                Page { class: 0, listed: false, live: 0, free: PAGE_END, fresh: 0, next: NO_PAGE, prev: NO_PAGE };
            self.pages.resize(self.pages.len() + CHUNK_PAGES as usize, empty);
            chunk
        };
        for page in (chunk * CHUNK_PAGES..(chunk + 1) * CHUNK_PAGES).rev() {
            self.push_free(page);
        }
        Some(())
    }

    fn push_free(&mut self, number: u32) {
        let head = self.free_pages;
        self.pages[number as usize].next = head;
        self.pages[number as usize].prev = NO_PAGE;
        if head != NO_PAGE {
            self.pages[head as usize].prev = number;
        }
        self.free_pages = number;
    }

    fn pull_free(&mut self, number: u32) {
        let Page { next, prev, .. } = self.pages[number as usize];
        match prev {
            NO_PAGE => self.free_pages = next,
            prev => self.pages[prev as usize].next = next,
        }
        if next != NO_PAGE {
            self.pages[next as usize].prev = prev;
        }
    }

    fn list(&mut self, number: u32) {
        let class = self.pages[number as usize].class as usize;
        let head = self.with_room[class];
        let page = &mut self.pages[number as usize];
        page.listed = true;
        page.next = head;
        page.prev = NO_PAGE;
        if head != NO_PAGE {
            self.pages[head as usize].prev = number;
        }
        self.with_room[class] = number;
    }

    fn unlist(&mut self, number: u32) {
        let Page { next, prev, class, .. } = self.pages[number as usize];
        self.pages[number as usize].listed = false;
        match prev {
            NO_PAGE => self.with_room[class as usize] = next,
            prev => self.pages[prev as usize].next = next,
        }
        if next != NO_PAGE {
            self.pages[next as usize].prev = prev;
        }
    }
}

#[inline(always)]
fn place(block: Handle) -> (usize, usize) {
    let chunk_units = (PAGE_UNITS * CHUNK_PAGES) as usize;
    (block as usize / chunk_units, block as usize % chunk_units * UNIT)
}

const EXACT: usize = 64; // Up to 256 bytes every multiple of four is a class; above, eight classes a doubling.
const CLASS_COUNT: usize = EXACT + 1 + 32;

#[inline]
fn class_of(len: usize) -> usize {
    assert!(len <= MAX_BLOCK, "a block of {len} bytes belongs on the heap");
    let units = len.div_ceil(UNIT).max(1);
    if units <= EXACT {
        return units;
    }
    let doubling = usize::BITS as usize - 1 - (units - 1).leading_zeros() as usize; // 6 for 65..=128 units
    let step = 1 << (doubling - 3);
    EXACT + (doubling - 6) * 8 + (units - (1 << doubling)).div_ceil(step)
}

static CLASS_UNITS: [u16; CLASS_COUNT] = class_units();

const fn class_units() -> [u16; CLASS_COUNT] {
    let mut sizes = [0u16; CLASS_COUNT];
    let mut class = 1;
    while class <= EXACT {
        sizes[class] = class as u16;
        class += 1;
    }
    while class < CLASS_COUNT {
        let past = class - EXACT - 1;
        let base = EXACT << (past / 8);
        sizes[class] = (base + (past % 8 + 1) * (base / 8)) as u16;
        class += 1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_length_gets_a_class_that_holds_it_with_little_waste() {
        for len in 1..=MAX_BLOCK {
            let size = usize::from(CLASS_UNITS[class_of(len)]) * UNIT;
            assert!(size >= len, "{len} got {size}");
            assert!(size < len + 4 || size * 8 <= len * 9 + 64, "{len} got {size}");
        }
    }

    #[test]
    fn blocks_keep_their_bytes_through_any_history_of_allocations() {
        let mut arena = Arena::new();
        let mut live: HashMap<Handle, (usize, u8)> = HashMap::new();
        let mut seed = 7u64;
        for round in 0..200_000u32 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let pick = (seed >> 33) as usize;
            let growing = (round / 50_000) % 2 == 0;
            if pick % 10 < if growing { 7 } else { 3 } {
                let len = 1 + (seed >> 20) as usize % 300;
                let block = arena.alloc(len).expect("room");
                assert_ne!(block, NIL);
                let mark = round as u8;
                arena.at_mut(block)[..len].fill(mark);
                assert!(live.insert(block, (len, mark)).is_none(), "a live block was handed out again");
            } else if let Some(&block) = live.keys().next() {
                let (len, mark) = live[&block];
                assert!(arena.at(block)[..len].iter().all(|&byte| byte == mark));
                live.remove(&block);
                arena.free(block);
            }
        }
        for (block, (len, mark)) in live.drain() {
            assert!(arena.at(block)[..len].iter().all(|&byte| byte == mark));
            arena.free(block);
        }
        assert_eq!(arena.used(), 0);
        assert!(arena.reserved() <= CHUNK_BYTES, "memory of freed blocks goes back");
    }
}
