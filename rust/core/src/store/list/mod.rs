//! The list of the list commands: a row of packed chunks.
//!
//! Elements lie side by side in buffers of up to 8 KiB with room at both ends, so a push or
//! a pop copies the element and nothing else, and a million short elements are some
//! thousand allocations. A list of one chunk, as most are, has no row: just the buffer.
//! Reaching an index passes whole chunks by their counts.

mod chunk;

pub use chunk::End;

use chunk::Chunk;
use std::collections::VecDeque;

/// See the module's page.
#[derive(Default)]
pub struct List {
    shape: Shape,
}

enum Shape {
    One(Chunk),
    Many(Box<Row>),
}

impl Default for Shape {
    fn default() -> Self {
        Shape::One(Chunk::default())
    }
}

/// At least two chunks, none of them empty.
#[derive(Default)]
struct Row {
    chunks: VecDeque<Chunk>,
    len: usize,
    bytes: usize, // Heap memory of all chunks.
}

impl List {
    /// An empty list without memory of its own.
    pub fn new() -> Self {
        List::default()
    }

    /// How many elements the list holds.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.shape {
            Shape::One(chunk) => chunk.count(),
            Shape::Many(row) => row.len,
        }
    }

    /// Whether the list holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap memory behind the list.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match &self.shape {
            Shape::One(chunk) => chunk.heap_bytes(),
            Shape::Many(row) => size_of::<Row>() + row.chunks.capacity() * size_of::<Chunk>() + row.bytes,
        }
    }

    /// How many pieces of memory there are to give back.
    pub fn weight(&self) -> usize {
        self.chunk_count()
    }

    /// Give back at most `budget` pieces of memory; `true` when nothing is left.
    pub fn free_some(&mut self, budget: usize) -> bool {
        if let Shape::Many(row) = &mut self.shape {
            for _ in 0..budget {
                let Some(chunk) = row.chunks.pop_back() else { break };
                row.len -= chunk.count();
                row.bytes -= chunk.heap_bytes();
            }
            if !row.chunks.is_empty() {
                return false;
            }
        }
        *self = List::new();
        true
    }

    /// Put an element at an end.
    #[inline]
    pub fn push(&mut self, end: End, element: &[u8]) {
        match &mut self.shape {
            Shape::One(chunk) => {
                if chunk.push(end, element) {
                    return;
                }
            }
            Shape::Many(row) => {
                let chunk = match end {
                    End::Front => row.chunks.front_mut(),
                    End::Back => row.chunks.back_mut(),
                };
                if let Some(chunk) = chunk {
                    let before = chunk.heap_bytes();
                    if chunk.push(end, element) {
                        row.bytes = row.bytes + chunk.heap_bytes() - before;
                        row.len += 1;
                        return;
                    }
                }
            }
        }
        let at = if end == End::Front { 0 } else { self.chunk_count() };
        self.insert_chunk(at, Chunk::opening(end, element));
    }

    /// The element at an end.
    #[inline]
    pub fn at(&self, end: End) -> Option<&[u8]> {
        match (&self.shape, end) {
            (Shape::One(chunk), _) => chunk.at(end),
            (Shape::Many(row), End::Front) => row.chunks.front()?.at(end),
            (Shape::Many(row), End::Back) => row.chunks.back()?.at(end),
        }
    }

    /// Drop the element at an end, if there is one.
    #[inline]
    pub fn drop_at(&mut self, end: End) {
        if self.is_empty() {
            return;
        }
        let at = if end == End::Front { 0 } else { self.chunk_count() - 1 };
        self.change(at, |chunk| chunk.drop_at(end));
        self.tidy(at);
    }

    /// The element at an index.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let (at, inside) = self.locate(index)?;
        Some(self.chunk(at)?.get(inside))
    }

    /// Put another element in place of the one at an index; `false` when there is none.
    pub fn set(&mut self, index: usize, element: &[u8]) -> bool {
        let Some((at, inside)) = self.locate(index) else { return false };
        if !self.change(at, |chunk| chunk.replace(inside, element)) {
            self.change(at, |chunk| chunk.remove(inside));
            self.insert_at(at, inside, element);
        }
        true
    }

    /// Put an element before the one at an index, or at the back when there is none.
    pub fn insert(&mut self, index: usize, element: &[u8]) {
        match self.locate(index) {
            None => self.push(End::Back, element),
            Some((0, 0)) => self.push(End::Front, element),
            Some((at, inside)) => self.insert_at(at, inside, element),
        }
    }

    /// Put an element before the first that equals `pivot`, or behind it; `false` when none does.
    pub fn insert_beside(&mut self, pivot: &[u8], behind: bool, element: &[u8]) -> bool {
        let Some(index) = self.forward(0).position(|each| each == pivot) else { return false };
        self.insert(index + usize::from(behind), element);
        true
    }

    /// Take out at most `limit` elements that equal `value`, the nearest to `from` first. Returns how many.
    pub fn remove_equal(&mut self, value: &[u8], limit: usize, from: End) -> usize {
        let count = self.chunk_count();
        let mut removed = 0;
        for step in 0..count {
            if removed == limit {
                break;
            }
            let left = limit - removed;
            removed += match from {
                End::Front => self.change(step, |chunk| chunk.remove_equal(value, 0, left)),
                End::Back => self.change(count - 1 - step, |chunk| {
                    let skip = chunk.count_equal(value).saturating_sub(left);
                    chunk.remove_equal(value, skip, left)
                }),
            };
        }
        if removed > 0 {
            self.compact();
        }
        removed
    }

    /// Keep the elements from `start` up to `end`, which is not kept, and drop all others.
    pub fn trim(&mut self, start: usize, end: usize) {
        let len = self.len();
        let end = end.min(len);
        if start >= end {
            *self = List::new();
            return;
        }
        self.drop_many(End::Back, len - end);
        self.drop_many(End::Front, start);
    }

    /// Drop elements at an end, fewer than there are.
    fn drop_many(&mut self, end: End, mut count: usize) {
        while count > 0 {
            let at = if end == End::Front { 0 } else { self.chunk_count() - 1 };
            let here = self.chunk(at).map_or(0, Chunk::count).min(count);
            self.change(at, |chunk| chunk.drop_many(end, here));
            self.tidy(at);
            count -= here;
        }
    }

    /// The elements from an index to the back.
    pub fn forward(&self, index: usize) -> Forward<'_> {
        let (at, inside) = self.locate(index).unwrap_or((self.chunk_count(), 0));
        Forward { list: self, next: at + 1, inner: self.chunk(at).map(|chunk| chunk.forward(inside)) }
    }

    /// The elements from an index to the front.
    pub fn backward(&self, index: usize) -> Backward<'_> {
        let (at, inside) = self.locate(index).map_or((0, 0), |(at, inside)| (at, inside + 1));
        Backward { list: self, next: at, inner: self.chunk(at).map(|chunk| chunk.backward(inside)) }
    }

    #[inline]
    fn chunk_count(&self) -> usize {
        match &self.shape {
            Shape::One(_) => 1,
            Shape::Many(row) => row.chunks.len(),
        }
    }

    #[inline]
    fn chunk(&self, at: usize) -> Option<&Chunk> {
        match &self.shape {
            Shape::One(chunk) => (at == 0).then_some(chunk),
            Shape::Many(row) => row.chunks.get(at),
        }
    }

    /// Which chunk holds an index, and where in it; chunks are passed from the nearer end.
    fn locate(&self, index: usize) -> Option<(usize, usize)> {
        let len = self.len();
        if index >= len {
            return None;
        }
        let row = match &self.shape {
            Shape::One(_) => return Some((0, index)),
            Shape::Many(row) => row,
        };
        if index < len / 2 {
            let mut left = index;
            for (at, chunk) in row.chunks.iter().enumerate() {
                if left < chunk.count() {
                    return Some((at, left));
                }
                left -= chunk.count();
            }
        } else {
            let mut first = len;
            for (at, chunk) in row.chunks.iter().enumerate().rev() {
                first -= chunk.count();
                if index >= first {
                    return Some((at, index - first));
                }
            }
        }
        None
    }

    /// Change a chunk, and keep the sums over all of them right.
    #[inline]
    fn change<R>(&mut self, at: usize, work: impl FnOnce(&mut Chunk) -> R) -> R {
        match &mut self.shape {
            Shape::One(chunk) => work(chunk),
            Shape::Many(row) => {
                let chunk = &mut row.chunks[at];
                let (count, bytes) = (chunk.count(), chunk.heap_bytes());
                let result = work(chunk);
                row.len = row.len + chunk.count() - count;
                row.bytes = row.bytes + chunk.heap_bytes() - bytes;
                result
            }
        }
    }

    /// Put an element before the `inside`-th of a chunk, or behind its last, splitting it when it is full.
    fn insert_at(&mut self, at: usize, inside: usize, element: &[u8]) {
        let fits = |list: &List, at: usize| list.chunk(at).is_some_and(|chunk| chunk.fits(element.len()));
        if fits(self, at) {
            return self.change(at, |chunk| chunk.insert(inside, element));
        }
        let count = self.chunk(at).map_or(0, Chunk::count);
        let seam = if inside == 0 {
            at
        } else {
            if inside < count {
                let cut = self.change(at, |chunk| chunk.split_off(inside));
                self.insert_chunk(at + 1, cut);
            }
            at + 1
        };
        // The new element goes to whichever neighbour has room, or between them.
        if seam > 0 && fits(self, seam - 1) {
            self.change(seam - 1, |chunk| chunk.insert(chunk.count(), element));
        } else if fits(self, seam) {
            self.change(seam, |chunk| chunk.insert(0, element));
        } else {
            self.insert_chunk(seam, Chunk::of(element));
        }
    }

    fn insert_chunk(&mut self, at: usize, chunk: Chunk) {
        if let Shape::One(only) = &mut self.shape {
            let only = std::mem::take(only);
            let mut row = Row { chunks: VecDeque::new(), len: only.count(), bytes: only.heap_bytes() };
            row.chunks.push_back(only);
            self.shape = Shape::Many(Box::new(row));
        }
        if let Shape::Many(row) = &mut self.shape {
            row.len += chunk.count();
            row.bytes += chunk.heap_bytes();
            row.chunks.insert(at, chunk);
        }
    }

    /// After elements of a chunk were dropped: give back what it no longer needs.
    #[inline]
    fn tidy(&mut self, at: usize) {
        match &mut self.shape {
            Shape::One(chunk) => chunk.shrink(),
            Shape::Many(row) => {
                if row.chunks[at].count() == 0 {
                    let chunk = row.chunks.remove(at).unwrap_or_default();
                    row.bytes -= chunk.heap_bytes();
                    self.settle();
                }
            }
        }
    }

    /// After elements were dropped here and there: join small neighbours and forget empty chunks.
    fn compact(&mut self) {
        if let Shape::Many(row) = &mut self.shape {
            let mut kept: usize = 0;
            for at in 0..row.chunks.len() {
                let chunk = std::mem::take(&mut row.chunks[at]);
                if kept > 0 && row.chunks[kept - 1].absorb(&chunk) {
                    continue;
                }
                if chunk.count() > 0 {
                    row.chunks[kept] = chunk;
                    kept += 1;
                }
            }
            row.chunks.truncate(kept);
            row.chunks.iter_mut().for_each(Chunk::shrink);
            row.bytes = row.chunks.iter().map(Chunk::heap_bytes).sum();
        }
        self.settle();
    }

    /// A row of one chunk is that chunk; a row much longer than its chunks is made shorter.
    fn settle(&mut self) {
        match &mut self.shape {
            Shape::One(chunk) => chunk.shrink(),
            Shape::Many(row) if row.chunks.len() < 2 => {
                let mut only = row.chunks.pop_back().unwrap_or_default();
                only.shrink();
                self.shape = Shape::One(only);
            }
            Shape::Many(row) => {
                let count = row.chunks.len();
                if row.chunks.capacity() > 64 && count * 4 < row.chunks.capacity() {
                    row.chunks.shrink_to(count * 2);
                }
            }
        }
    }
}

/// The elements of a list from some index to the back.
pub struct Forward<'a> {
    list: &'a List,
    next: usize,
    inner: Option<chunk::Forward<'a>>,
}

impl<'a> Iterator for Forward<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(element) = self.inner.as_mut()?.next() {
                return Some(element);
            }
            self.inner = self.list.chunk(self.next).map(|chunk| chunk.forward(0));
            self.next += 1;
        }
    }
}

/// The elements of a list from some index to the front.
pub struct Backward<'a> {
    list: &'a List,
    next: usize,
    inner: Option<chunk::Backward<'a>>,
}

impl<'a> Iterator for Backward<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(element) = self.inner.as_mut()?.next() {
                return Some(element);
            }
            self.next = self.next.checked_sub(1)?;
            self.inner = self.list.chunk(self.next).map(|chunk| chunk.backward(chunk.count()));
        }
    }
}

#[cfg(test)]
mod tests;
