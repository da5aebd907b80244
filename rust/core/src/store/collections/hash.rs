//! The value of a hash key: fields and their values.
//!
//! A small hash is one run of bytes, fields in the order they came; a large one is [`Records`].
//! It turns large once and for good, when it outgrows the [`Limits`]. Knows no commands.

use super::packed;
use super::records::Records;
use crate::store::arena::Arena;
use crate::store::hash::Seed;
use crate::store::keyspace::Full;
use crate::store::random::Random;
use std::ops::Range;

/// How many fields, and how long ones, a small hash may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `hash-max-listpack-entries`
    pub entries: usize,
    /// `hash-max-listpack-value`
    pub value: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 512, value: 64 }
    }
}

/// See the module's page.
pub struct HashValue(Form);

enum Form {
    Small { bytes: Vec<u8>, len: u32 },
    Large(Box<Records<true>>),
}

impl Default for HashValue {
    fn default() -> Self {
        HashValue(Form::Small { bytes: Vec::new(), len: 0 })
    }
}

impl HashValue {
    /// A hash without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many fields it has.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Small { len, .. } => *len as usize,
            Form::Large(records) => records.len(),
        }
    }

    /// Whether it has none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What OBJECT ENCODING calls its form.
    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Form::Small { .. } => "listpack",
            Form::Large(_) => "hashtable",
        }
    }

    /// Bytes of memory behind it, blocks in the arena included.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Small { bytes, .. } => bytes.capacity(),
            Form::Large(records) => size_of::<Records<true>>() + records.bytes(),
        }
    }

    /// The value of a field.
    #[inline]
    pub fn get<'a>(&'a self, arena: &'a Arena, seed: &Seed, field: &[u8]) -> Option<&'a [u8]> {
        match &self.0 {
            Form::Small { bytes, .. } => {
                let found = find(bytes, field)?;
                Some(packed::take(&bytes[found.value]).0)
            }
            Form::Large(records) => {
                let spot = records.find(arena, seed.hash(field), field)?;
                Some(records.at(arena, spot).1)
            }
        }
    }

    /// Ask the processor for what a look-up of a field with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        match &self.0 {
            Form::Small { bytes, .. } => bytes.chunks(64).take(2).for_each(|line| crate::sys::prefetch(&line[0])),
            Form::Large(records) => records.prefetch(hash),
        }
    }

    /// Some time after [`HashValue::prefetch`]: ask for the field itself.
    #[inline]
    pub fn prefetch_field(&self, arena: &Arena, hash: u64) {
        if let Form::Large(records) = &self.0 {
            records.prefetch_record(arena, hash);
        }
    }

    /// Whether it has a field.
    #[inline]
    pub fn contains(&self, arena: &Arena, seed: &Seed, field: &[u8]) -> bool {
        self.get(arena, seed, field).is_some()
    }

    /// Set a field; true when it is new.
    #[inline]
    pub fn set(
        &mut self,
        arena: &mut Arena,
        seed: &Seed,
        limits: Limits,
        field: &[u8],
        value: &[u8],
    ) -> Result<bool, Full> {
        self.keep_within(arena, seed, limits, field, value)?;
        match &mut self.0 {
            Form::Small { bytes, len } => {
                if let Some(found) = find(bytes, field) {
                    packed::replace(bytes, found.value.start, found.value.end, value);
                    return Ok(false);
                }
                packed::append(bytes, field);
                packed::append(bytes, value);
                *len += 1;
                Ok(true)
            }
            Form::Large(records) => {
                let hash = seed.hash(field);
                if let Some(spot) = records.find(arena, hash, field) {
                    return records.update(arena, spot, field, value).map(|()| false);
                }
                records.insert(arena, seed, hash, field, value).map(|()| true)
            }
        }
    }

    /// Set a field unless it is there; true when it was set.
    pub fn set_if_absent(
        &mut self,
        arena: &mut Arena,
        seed: &Seed,
        limits: Limits,
        field: &[u8],
        value: &[u8],
    ) -> Result<bool, Full> {
        if self.contains(arena, seed, field) { Ok(false) } else { self.set(arena, seed, limits, field, value) }
    }

    /// Take out a field; true when it was there.
    pub fn remove(&mut self, arena: &mut Arena, seed: &Seed, field: &[u8]) -> bool {
        match &mut self.0 {
            Form::Small { bytes, len } => {
                let Some(found) = find(bytes, field) else { return false };
                packed::cut(bytes, found.start, found.value.end);
                *len -= 1;
                true
            }
            Form::Large(records) => {
                let hash = seed.hash(field);
                let Some(spot) = records.find(arena, hash, field) else { return false };
                records.remove(arena, seed, spot, hash);
                true
            }
        }
    }

    /// All fields with their values: of a small hash in the order they came.
    pub fn iter<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (small, large) = match &self.0 {
            Form::Small { bytes, .. } => (Some(pairs(bytes)), None),
            Form::Large(records) => (None, Some(records.iter(arena))),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// Visit some fields at and after `cursor`, zero to start; returns where to go on, or `None` at
    /// the end. What is there from the first call to the last is visited at least once.
    pub fn scan(&self, arena: &Arena, seed: &Seed, cursor: u32, mut visit: impl FnMut(&[u8], &[u8])) -> Option<u32> {
        match &self.0 {
            Form::Small { bytes, .. } => {
                pairs(bytes).for_each(|(field, value)| visit(field, value));
                None
            }
            Form::Large(records) => records.scan(arena, seed, cursor, visit),
        }
    }

    /// One field with its value, each with the same chance. `random` gives random 64-bit numbers.
    pub fn random<'a>(&'a self, arena: &'a Arena, random: &mut Random) -> Option<(&'a [u8], &'a [u8])> {
        match &self.0 {
            Form::Small { bytes, len } => pairs(bytes).nth(random.below(*len as usize)),
            Form::Large(records) => records.random(arena, random),
        }
    }

    /// `count` different fields with their values, or all; each choice with the same chance.
    pub fn sample<'a>(
        &'a self,
        arena: &'a Arena,
        count: usize,
        random: &mut Random,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (small, large) = match &self.0 {
            Form::Small { bytes, len } => {
                let (mut left, mut wanted) = (*len as usize, count);
                let chosen = pairs(bytes).filter(move |_| {
                    let take = random.below(left) < wanted;
                    left -= 1;
                    wanted -= usize::from(take);
                    take
                });
                (Some(chosen), None)
            }
            Form::Large(records) => (None, Some(records.sample(arena, count, random))),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// A hash of its own with the same fields, in the same form.
    pub fn duplicate(&self, arena: &mut Arena, seed: &Seed) -> Result<HashValue, Full> {
        Ok(HashValue(match &self.0 {
            Form::Small { bytes, len } => Form::Small { bytes: bytes.clone(), len: *len },
            Form::Large(records) => Form::Large(Box::new(records.duplicate(arena, seed)?)),
        }))
    }

    /// How much work freeing it is, in fields; one for a small one, which is a single piece of memory.
    pub fn weight(&self) -> usize {
        match &self.0 {
            Form::Small { .. } => 1,
            Form::Large(records) => records.len(),
        }
    }

    /// Give all memory in the arena back; must come before `drop`.
    pub fn free(mut self, arena: &mut Arena) {
        self.free_some(arena, usize::MAX);
    }

    /// Give back up to about `budget` fields; true when all is given back and the rest may be dropped.
    /// Nothing else may be done with the hash after the first call.
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        match &mut self.0 {
            Form::Small { .. } => true,
            Form::Large(records) => records.free_some(arena, budget),
        }
    }

    /// Turn large if `field` and `value` would not go into a small hash.
    #[inline]
    fn keep_within(
        &mut self,
        arena: &mut Arena,
        seed: &Seed,
        limits: Limits,
        field: &[u8],
        value: &[u8],
    ) -> Result<(), Full> {
        let Form::Small { bytes, len } = &self.0 else { return Ok(()) };
        let too_long = field.len() > limits.value || value.len() > limits.value;
        if too_long || (*len as usize >= limits.entries && find(bytes, field).is_none()) {
            self.grow_up(arena, seed)?;
        }
        Ok(())
    }

    #[cold]
    fn grow_up(&mut self, arena: &mut Arena, seed: &Seed) -> Result<(), Full> {
        let Form::Small { bytes, .. } = &self.0 else { return Ok(()) };
        let mut records = Box::new(Records::default());
        for (field, value) in pairs(bytes) {
            if let Err(full) = records.insert(arena, seed, seed.hash(field), field, value) {
                records.free_some(arena, usize::MAX);
                return Err(full);
            }
        }
        self.0 = Form::Large(records);
        Ok(())
    }
}

/// Where a field starts and where its value lies in the bytes of a small hash.
struct Found {
    start: usize,
    value: Range<usize>,
}

#[inline]
fn find(bytes: &[u8], field: &[u8]) -> Option<Found> {
    let mut start = 0;
    while start < bytes.len() {
        let (name, rest) = packed::take(&bytes[start..]);
        let value = bytes.len() - rest.len();
        let end = bytes.len() - packed::take(rest).1.len();
        if name == field {
            return Some(Found { start, value: value..end });
        }
        start = end;
    }
    None
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut strings = packed::iter(bytes);
    std::iter::from_fn(move || Some((strings.next()?, strings.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    fn seed() -> Seed {
        Seed::new(11)
    }

    fn filled(arena: &mut Arena, fields: usize) -> HashValue {
        let mut hash = HashValue::new();
        for number in 0..fields {
            hash.set(arena, &seed(), Limits::default(), format!("field:{number:010}").as_bytes(), &[b'v'; 64])
                .expect("room");
        }
        hash
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(
            steps in prop::collection::vec((0u8..8, 0u32..80, 0usize..8), 0..600), entries in 0usize..100
        ) {
            let lens = [0, 1, 20, 64, 65, 300, 4090, 70_000];
            let limits = Limits { entries, value: 64 };
            let mut arena = Arena::new();
            let mut hash = HashValue::new();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            for (step, field, size) in steps {
                let field = field.to_string().into_bytes();
                // Long values seldom, so that small hashes live a while.
                let value = vec![step; if step < 4 { lens[size % 4] } else { lens[size] }];
                match step {
                    0 => prop_assert_eq!(hash.remove(&mut arena, &seed(), &field), model.remove(&field).is_some()),
                    1 => {
                        let new = !model.contains_key(&field);
                        prop_assert_eq!(hash.set_if_absent(&mut arena, &seed(), limits, &field, &value), Ok(new));
                        model.entry(field.clone()).or_insert(value);
                    }
                    _ => {
                        let created = hash.set(&mut arena, &seed(), limits, &field, &value);
                        prop_assert_eq!(created, Ok(model.insert(field.clone(), value).is_none()));
                    }
                }
                prop_assert_eq!(hash.get(&arena, &seed(), &field), model.get(&field).map(Vec::as_slice));
                prop_assert_eq!(hash.len(), model.len());
            }
            let all: BTreeMap<_, _> = hash.iter(&arena).map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(&all, &model);
            let copy = hash.duplicate(&mut arena, &seed()).expect("room");
            prop_assert_eq!((copy.len(), copy.encoding()), (hash.len(), hash.encoding()));
            hash.free(&mut arena);
            prop_assert!(all.iter().all(|(field, value)| copy.get(&arena, &seed(), field) == Some(value)));
            copy.free(&mut arena);
            prop_assert_eq!(arena.used(), 0);
        }
    }

    #[test]
    fn a_small_hash_keeps_the_order_in_which_fields_came() {
        let mut arena = Arena::new();
        let mut hash = HashValue::new();
        for field in [&b"one"[..], b"two", b"three", b"four"] {
            hash.set(&mut arena, &seed(), Limits::default(), field, b"1").expect("room");
        }
        hash.set(&mut arena, &seed(), Limits::default(), b"two", b"a longer value").expect("room");
        hash.remove(&mut arena, &seed(), b"one");
        hash.set(&mut arena, &seed(), Limits::default(), b"one", b"").expect("room");
        let fields: Vec<_> = hash.iter(&arena).map(|(field, _)| field).collect();
        assert_eq!(fields, [&b"two"[..], b"three", b"four", b"one"]);
        assert_eq!(hash.get(&arena, &seed(), b"two"), Some(&b"a longer value"[..]));
    }

    #[test]
    fn it_turns_large_past_the_limits_and_stays_so() {
        let mut arena = Arena::new();
        let mut hash = filled(&mut arena, 512);
        assert_eq!(hash.encoding(), "listpack");
        hash.set(&mut arena, &seed(), Limits::default(), b"one more", b"").expect("room");
        assert_eq!(hash.encoding(), "hashtable");
        while hash.len() > 1 {
            let field = hash.random(&arena, &mut Random::new(1)).map(|(field, _)| field.to_vec()).expect("a field");
            assert!(hash.remove(&mut arena, &seed(), &field));
        }
        assert_eq!(hash.encoding(), "hashtable");
        let mut hash = HashValue::new();
        hash.set(&mut arena, &seed(), Limits::default(), b"f", &[0; 65]).expect("room");
        assert_eq!(hash.encoding(), "hashtable");
    }

    #[test]
    fn every_field_has_the_same_chance() {
        for fields in [10, 600] {
            let mut arena = Arena::new();
            let hash = filled(&mut arena, fields);
            let mut random = Random::new(7);
            let mut hits: HashMap<&[u8], u32> = HashMap::new();
            for _ in 0..fields * 200 {
                let (field, _) = hash.random(&arena, &mut random).expect("a field");
                *hits.entry(field).or_default() += 1;
            }
            assert_eq!(hits.len(), fields);
            assert!(hits.values().all(|&count| (120..300).contains(&count)), "{hits:?}");
        }
    }

    #[test]
    fn samples_are_different_fields_each_as_likely() {
        for (fields, count) in [(10, 3), (10, 9), (10, 20), (600, 20), (600, 500), (600, 600)] {
            let mut arena = Arena::new();
            let hash = filled(&mut arena, fields);
            let mut random = Random::new(fields as u64);
            let mut hits: HashMap<Vec<u8>, usize> = HashMap::new();
            for _ in 0..400 {
                let chosen: Vec<_> = hash.sample(&arena, count, &mut random).map(|(field, _)| field.to_vec()).collect();
                assert_eq!(chosen.len(), count.min(fields));
                chosen.into_iter().for_each(|field| *hits.entry(field).or_default() += 1);
            }
            let expected = 400 * count.min(fields) / fields;
            assert_eq!(hits.len(), fields);
            assert!(hits.values().all(|&hits| hits <= 400 && hits >= expected / 4 && hits <= expected * 3));
        }
    }

    #[test]
    fn a_scan_sees_every_field_of_a_large_hash() {
        let mut arena = Arena::new();
        let hash = filled(&mut arena, 20_000);
        let mut seen = std::collections::HashSet::new();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = hash.scan(&arena, &seed(), at, |field, _| assert!(seen.insert(field.to_vec())));
        }
        assert_eq!(seen.len(), 20_000);
    }

    #[test]
    fn a_million_fields_cost_less_than_a_hundred_bytes_each_and_go_in_small_steps() {
        let mut arena = Arena::new();
        let mut hash = filled(&mut arena, 1_000_000);
        let bytes = hash.heap_bytes() + arena.reserved() - arena.used();
        assert!(bytes <= 96_000_000, "{bytes} bytes"); // 80 of them are payload.
        let mut steps = 0;
        while !hash.free_some(&mut arena, 1000) {
            steps += 1;
        }
        assert!(steps > 90, "{steps} steps");
        assert_eq!(arena.used(), 0);
    }
}
