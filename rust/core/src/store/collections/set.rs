//! The value of a set key: members, each once.
//!
//! A small set of whole numbers is an [`IntSet`]; any other is [`Records`]. It turns large once
//! and for good, at the first member that is no number or past the [`Limits`]. Knows no commands.

use super::intset::IntSet;
use super::records::Records;
use crate::resp::number::parse_i64;
use crate::store::arena::Arena;
use crate::store::hash::Seed;
use crate::store::keyspace::Full;
use crate::store::random::Random;

/// How many members a set of numbers may have and still be small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `set-max-intset-entries`
    pub numbers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { numbers: 512 }
    }
}

/// One member, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member<'a> {
    /// A whole number of a small set.
    Number(i64),
    /// The bytes themselves.
    Bytes(&'a [u8]),
}

impl Member<'_> {
    /// Its bytes, with `digits` to hold those of a number.
    #[inline]
    pub fn bytes<'b>(&'b self, digits: &'b mut itoa::Buffer) -> &'b [u8] {
        match self {
            Member::Number(number) => digits.format(*number).as_bytes(),
            Member::Bytes(bytes) => bytes,
        }
    }

    /// A copy of its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes(&mut itoa::Buffer::new()).to_vec()
    }
}

/// See the module's page.
pub struct SetValue(Form);

enum Form {
    Numbers(IntSet),
    Large(Box<Records<false>>),
}

impl Default for SetValue {
    fn default() -> Self {
        SetValue(Form::Numbers(IntSet::default()))
    }
}

impl SetValue {
    /// A set without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many members it has.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Numbers(numbers) => numbers.len(),
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
            Form::Numbers(_) => "intset",
            Form::Large(_) => "hashtable",
        }
    }

    /// Bytes of memory behind it, blocks in the arena included.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Numbers(numbers) => numbers.heap_bytes(),
            Form::Large(records) => size_of::<Records<false>>() + records.bytes(),
        }
    }

    /// Whether a member is there.
    #[inline]
    pub fn contains(&self, arena: &Arena, seed: &Seed, member: &[u8]) -> bool {
        match &self.0 {
            Form::Numbers(numbers) => parse_i64(member).is_some_and(|number| numbers.contains(number)),
            Form::Large(records) => records.find(arena, seed.hash(member), member).is_some(),
        }
    }

    /// Ask the processor for what a look-up of a member with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Form::Large(records) = &self.0 {
            records.prefetch(hash);
        }
    }

    /// Some time after [`SetValue::prefetch`]: ask for the member itself.
    #[inline]
    pub fn prefetch_member(&self, arena: &Arena, hash: u64) {
        if let Form::Large(records) = &self.0 {
            records.prefetch_record(arena, hash);
        }
    }

    /// As [`SetValue::contains`], for a member of another set.
    #[inline]
    pub fn contains_member(&self, arena: &Arena, seed: &Seed, member: Member<'_>) -> bool {
        match (&self.0, member) {
            (Form::Numbers(numbers), Member::Number(number)) => numbers.contains(number),
            _ => self.contains(arena, seed, member.bytes(&mut itoa::Buffer::new())),
        }
    }

    /// Add a member; false when it was there.
    #[inline]
    pub fn add(&mut self, arena: &mut Arena, seed: &Seed, limits: Limits, member: &[u8]) -> Result<bool, Full> {
        if let Form::Numbers(numbers) = &mut self.0 {
            if let Some(number) = parse_i64(member) {
                if numbers.contains(number) {
                    return Ok(false);
                }
                if numbers.len() < limits.numbers {
                    return Ok(numbers.insert(number));
                }
            }
            self.grow_up(arena, seed)?;
        }
        let Form::Large(records) = &mut self.0 else { return Ok(false) };
        let hash = seed.hash(member);
        if records.find(arena, hash, member).is_some() {
            return Ok(false);
        }
        records.insert(arena, seed, hash, member, b"").map(|()| true)
    }

    /// Take out a member; true when it was there.
    #[inline]
    pub fn remove(&mut self, arena: &mut Arena, seed: &Seed, member: &[u8]) -> bool {
        match &mut self.0 {
            Form::Numbers(numbers) => parse_i64(member).is_some_and(|number| numbers.remove(number)),
            Form::Large(records) => {
                let hash = seed.hash(member);
                let Some(spot) = records.find(arena, hash, member) else { return false };
                records.remove(arena, seed, spot, hash);
                true
            }
        }
    }

    /// All members: of a small set in ascending order.
    pub fn iter<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = Member<'a>> {
        let (small, large) = match &self.0 {
            Form::Numbers(numbers) => (Some(numbers.iter().map(Member::Number)), None),
            Form::Large(records) => (None, Some(records.iter(arena).map(|(member, _)| Member::Bytes(member)))),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// Visit some members at and after `cursor`, zero to start; returns where to go on, or `None` at
    /// the end. What is there from the first call to the last is visited at least once.
    pub fn scan(&self, arena: &Arena, seed: &Seed, cursor: u32, mut visit: impl FnMut(Member<'_>)) -> Option<u32> {
        match &self.0 {
            Form::Numbers(numbers) => {
                numbers.iter().for_each(|number| visit(Member::Number(number)));
                None
            }
            Form::Large(records) => records.scan(arena, seed, cursor, |member, _| visit(Member::Bytes(member))),
        }
    }

    /// One member, each with the same chance. `random` gives random 64-bit numbers.
    pub fn random<'a>(&'a self, arena: &'a Arena, random: &mut Random) -> Option<Member<'a>> {
        match &self.0 {
            Form::Numbers(numbers) => numbers.get(random.below(numbers.len())).map(Member::Number),
            Form::Large(records) => records.random(arena, random).map(|(member, _)| Member::Bytes(member)),
        }
    }

    /// `count` different members, or all; each choice with the same chance.
    pub fn sample<'a>(
        &'a self,
        arena: &'a Arena,
        count: usize,
        random: &mut Random,
    ) -> impl Iterator<Item = Member<'a>> {
        let (small, large) = match &self.0 {
            Form::Numbers(numbers) => {
                let (mut left, mut wanted) = (numbers.len(), count);
                let chosen = numbers.iter().filter(move |_| {
                    let take = random.below(left) < wanted;
                    left -= 1;
                    wanted -= usize::from(take);
                    take
                });
                (Some(chosen.map(Member::Number)), None)
            }
            Form::Large(records) => {
                (None, Some(records.sample(arena, count, random).map(|(member, _)| Member::Bytes(member))))
            }
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// Take out one member, each with the same chance, after `visit` has seen it.
    pub fn pop(&mut self, arena: &mut Arena, seed: &Seed, random: &mut Random, visit: impl FnOnce(&[u8])) -> bool {
        match &mut self.0 {
            Form::Numbers(_) => {
                let Some(Member::Number(number)) = self.random(arena, random) else { return false };
                let mut digits = itoa::Buffer::new();
                let member = digits.format(number).as_bytes();
                visit(member);
                self.remove(arena, seed, member)
            }
            Form::Large(records) => records.pop(arena, seed, random, visit),
        }
    }

    /// A set of its own with the same members, in the same form.
    pub fn duplicate(&self, arena: &mut Arena, seed: &Seed) -> Result<SetValue, Full> {
        Ok(SetValue(match &self.0 {
            Form::Numbers(numbers) => Form::Numbers(numbers.clone()),
            Form::Large(records) => Form::Large(Box::new(records.duplicate(arena, seed)?)),
        }))
    }

    /// How much work freeing it is, in members; one for a small one, which is a single piece of memory.
    pub fn weight(&self) -> usize {
        match &self.0 {
            Form::Numbers(_) => 1,
            Form::Large(records) => records.len(),
        }
    }

    /// Give all memory in the arena back; must come before `drop`.
    pub fn free(mut self, arena: &mut Arena) {
        self.free_some(arena, usize::MAX);
    }

    /// Give back up to about `budget` members; true when all is given back and the rest may be dropped.
    /// Nothing else may be done with the set after the first call.
    pub fn free_some(&mut self, arena: &mut Arena, budget: usize) -> bool {
        match &mut self.0 {
            Form::Numbers(_) => true,
            Form::Large(records) => records.free_some(arena, budget),
        }
    }

    #[cold]
    fn grow_up(&mut self, arena: &mut Arena, seed: &Seed) -> Result<(), Full> {
        let Form::Numbers(numbers) = &self.0 else { return Ok(()) };
        let mut records = Box::new(Records::default());
        let mut digits = itoa::Buffer::new();
        for number in numbers.iter() {
            let member = digits.format(number).as_bytes();
            if let Err(full) = records.insert(arena, seed, seed.hash(member), member, b"") {
                records.free_some(arena, usize::MAX);
                return Err(full);
            }
        }
        self.0 = Form::Large(records);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};

    fn seed() -> Seed {
        Seed::new(11)
    }

    fn filled(arena: &mut Arena, members: impl Iterator<Item = String>) -> SetValue {
        let mut set = SetValue::new();
        members.for_each(|member| assert_eq!(set.add(arena, &seed(), Limits::default(), member.as_bytes()), Ok(true)));
        set
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(
            steps in prop::collection::vec((0u8..4, 0u32..120, 0u8..40), 0..600), numbers in 0usize..100
        ) {
            let limits = Limits { numbers };
            let mut arena = Arena::new();
            let mut set = SetValue::new();
            let mut model: BTreeSet<Vec<u8>> = BTreeSet::new();
            for (step, member, kind) in steps {
                let member = match kind {
                    0 => format!("m{member}"),
                    1 => format!("{member:05000}"),
                    2 => format!("-{member}00000000000"),
                    _ => member.to_string(),
                }.into_bytes();
                if step == 0 {
                    prop_assert_eq!(set.remove(&mut arena, &seed(), &member), model.remove(&member));
                } else {
                    prop_assert_eq!(set.add(&mut arena, &seed(), limits, &member), Ok(model.insert(member.clone())));
                }
                prop_assert_eq!(set.contains(&arena, &seed(), &member), model.contains(&member));
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert_eq!(set.iter(&arena).map(|member| member.to_vec()).collect::<BTreeSet<_>>(), model.clone());
            let mut random = Random::new(3);
            while !set.is_empty() {
                prop_assert!(set.pop(&mut arena, &seed(), &mut random, |member| assert!(model.remove(member))));
            }
            prop_assert!(model.is_empty());
            set.free(&mut arena);
            prop_assert_eq!(arena.used(), 0);
        }
    }

    #[test]
    fn numbers_are_kept_sorted_until_they_are_too_many_or_no_numbers() {
        let mut arena = Arena::new();
        let mut set = filled(&mut arena, (0..512).rev().map(|number| number.to_string()));
        assert_eq!(set.encoding(), "intset");
        assert!(set.iter(&arena).eq((0..512).map(Member::Number)));
        assert_eq!(set.add(&mut arena, &seed(), Limits::default(), b"511"), Ok(false));
        assert_eq!(set.encoding(), "intset");
        assert_eq!(set.add(&mut arena, &seed(), Limits::default(), b"512"), Ok(true));
        assert_eq!(set.encoding(), "hashtable");
        let mut set = filled(&mut arena, (0..3).map(|number| number.to_string()));
        assert_eq!(set.add(&mut arena, &seed(), Limits::default(), b"01"), Ok(true));
        assert_eq!((set.encoding(), set.len()), ("hashtable", 4));
    }

    #[test]
    fn every_member_has_the_same_chance() {
        for members in [10, 600] {
            let mut arena = Arena::new();
            let set = filled(&mut arena, (0..members).map(|number| number.to_string()));
            let mut random = Random::new(7);
            let mut hits: HashMap<Vec<u8>, usize> = HashMap::new();
            for _ in 0..members * 200 {
                let member = set.random(&arena, &mut random).expect("a member").to_vec();
                *hits.entry(member).or_default() += 1;
            }
            assert_eq!(hits.len(), members);
            assert!(hits.values().all(|&count| (120..300).contains(&count)), "{hits:?}");
            for count in [1, members / 10, members / 2, members, members + 5] {
                let chosen: BTreeSet<_> =
                    set.sample(&arena, count, &mut random).map(|member| member.to_vec()).collect();
                assert_eq!(chosen.len(), count.min(members));
            }
        }
    }

    #[test]
    fn a_scan_sees_every_member_though_others_come_and_go() {
        let mut arena = Arena::new();
        let mut set = filled(&mut arena, (0..10_000).map(|number| format!("member:{number}")));
        let mut seen = BTreeSet::new();
        let (mut cursor, mut step) = (Some(0), 0);
        while let Some(at) = cursor {
            cursor = set.scan(&arena, &seed(), at, |member| {
                seen.insert(member.to_vec());
            });
            step += 1;
            let passing = format!("passing:{}", step / 2).into_bytes();
            if step % 2 == 0 {
                set.add(&mut arena, &seed(), Limits::default(), &passing).expect("room");
            } else {
                set.remove(&mut arena, &seed(), &passing);
            }
        }
        assert!((0..10_000).all(|number| seen.contains(format!("member:{number}").as_bytes())));
    }
}
