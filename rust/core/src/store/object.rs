//! Values that do not lie in their entry, and the shelf they stand on.

use super::arena::Arena;
use super::collections::{HashValue, SetValue};
use super::entry::Kind;
use super::hash::Seed;
use super::keyspace::Full;
use super::list::{End, List};
use super::stream::Stream;
use super::zset::{self, Zset};

/// A value of its own: a long string, or any collection. Each collection keeps its
/// members in the node's [`Arena`], so whoever drops one must call [`Object::free`].
pub enum Object {
    /// A string too long for its entry.
    Text(Vec<u8>),
    /// Elements in order.
    List(List),
    /// Fields with their values.
    Hash(HashValue),
    /// Members, each once.
    Set(SetValue),
    /// Members with scores.
    SortedSet(Zset),
    /// Entries in order of time, and who reads them.
    Stream(Box<Stream>),
}

impl Object {
    /// The kind of value this is.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Text(_) => Kind::String,
            Object::List(_) => Kind::List,
            Object::Hash(_) => Kind::Hash,
            Object::Set(_) => Kind::Set,
            Object::SortedSet(_) => Kind::SortedSet,
            Object::Stream(_) => Kind::Stream,
        }
    }

    /// Bytes of memory behind the object, blocks in the arena included.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Object::Text(text) => text.capacity(),
            Object::List(list) => list.heap_bytes(),
            Object::Hash(hash) => hash.heap_bytes(),
            Object::Set(set) => set.heap_bytes(),
            Object::SortedSet(zset) => zset.heap_bytes(),
            Object::Stream(stream) => stream.heap_bytes(),
        }
    }

    /// How much work freeing it is, in members; what is small is freed on the spot.
    pub fn weight(&self) -> usize {
        match self {
            Object::Text(_) => 1,
            Object::List(list) => list.weight(),
            Object::Hash(hash) => hash.weight(),
            Object::Set(set) => set.weight(),
            Object::SortedSet(zset) => zset.weight(),
            Object::Stream(stream) => stream.weight(),
        }
    }

    /// Give back at most about `budget` members; `true` when nothing is left.
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        match self {
            Object::Text(text) => {
                *text = Vec::new();
                true
            }
            Object::List(list) => list.free_some(budget),
            Object::Hash(hash) => hash.free_some(arena, budget),
            Object::Set(set) => set.free_some(arena, budget),
            Object::SortedSet(zset) => zset.free_some(arena, budget),
            Object::Stream(stream) => stream.free_some(budget),
        }
    }

    /// Ask the processor for what a look-up of a member with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        match self {
            Object::Hash(fields) => fields.prefetch(hash),
            Object::Set(set) => set.prefetch(hash),
            Object::SortedSet(zset) => zset.prefetch(hash),
            Object::Text(_) | Object::List(_) | Object::Stream(_) => {}
        }
    }

    /// Some time after [`Object::prefetch`]: ask for the member itself.
    #[inline]
    pub fn prefetch_member(&self, arena: &Arena, hash: u64) {
        match self {
            Object::Hash(fields) => fields.prefetch_field(arena, hash),
            Object::Set(set) => set.prefetch_member(arena, hash),
            Object::SortedSet(zset) => zset.prefetch_member(arena, hash),
            Object::Text(_) | Object::List(_) | Object::Stream(_) => {}
        }
    }

    /// A value of its own with the same content, kept in the same form.
    pub fn duplicate(&self, arena: &mut Arena, seed: &Seed) -> Result<Object, Full> {
        Ok(match self {
            Object::Text(text) => Object::Text(text.clone()),
            Object::List(list) => {
                let mut copy = List::new();
                list.forward(0).for_each(|element| copy.push(End::Back, element));
                Object::List(copy)
            }
            Object::Stream(stream) => Object::Stream(stream.clone()),
            Object::Hash(hash) => Object::Hash(hash.duplicate(arena, seed)?),
            Object::Set(set) => Object::Set(set.duplicate(arena, seed)?),
            Object::SortedSet(zset) => {
                // Members lie in the arena into which their copies go: they are taken out first.
                let (mut bytes, mut members) = (Vec::new(), Vec::with_capacity(zset.len()));
                for (member, score) in zset.entries(arena, 0..zset.len(), false) {
                    bytes.extend_from_slice(member);
                    members.push((bytes.len(), score));
                }
                let most = if zset.encoding() == "listpack" { usize::MAX } else { 0 };
                let limits = zset::Limits { entries: most, value: most };
                let (mut copy, mut start) = (Zset::new(), 0);
                for (end, score) in members {
                    if let Err(full) = copy.update(arena, seed, limits, &bytes[start..end], |_| Some(score)) {
                        copy.free(arena);
                        return Err(full);
                    }
                    start = end;
                }
                Object::SortedSet(copy)
            }
        })
    }

    /// Give everything back at once.
    pub fn free(mut self, arena: &mut Arena) {
        while !self.free_some(arena, usize::MAX) {}
    }
}

/// Things named by small numbers that are used again.
#[derive(Clone)]
pub struct Shelf<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Shelf<T> {
    /// Put a thing in; its number stays the same until it is taken.
    pub fn put(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(thing);
            return number;
        }
        self.places.push(Some(thing));
        (self.places.len() - 1) as u32
    }

    /// Look at a thing.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    /// Look at a thing to change it.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    /// Look at two different things to change them.
    pub fn get_two_mut(&mut self, one: u32, other: u32) -> Option<(&mut T, &mut T)> {
        let [one, other] = self.places.get_disjoint_mut([one as usize, other as usize]).ok()?;
        Some((one.as_mut()?, other.as_mut()?))
    }

    /// Ask the processor for a thing.
    #[inline(always)]
    pub fn prefetch(&self, number: u32) {
        if let Some(place) = self.places.get(number as usize) {
            crate::sys::prefetch(place);
        }
    }

    /// Take a thing out.
    pub fn take(&mut self, number: u32) -> Option<T> {
        let thing = self.places.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All numbers in use with their things.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places.iter().enumerate().filter_map(|(number, thing)| Some((number as u32, thing.as_ref()?)))
    }

    /// One past the highest number ever used.
    pub fn bound(&self) -> u32 {
        self.places.len() as u32
    }
}
