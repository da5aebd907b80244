//! Groups of consumers: how far a group has read, and what its consumers have not acknowledged yet.
//!
//! A group knows for each pending entry who has it; each consumer knows which entries it has. The two
//! are changed here, together, and nowhere else.

use super::id::Id;
use crate::store::object::Shelf;
use std::collections::{BTreeMap, BTreeSet};

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// When it was delivered last, ms of wall time.
    pub delivered: u64,
    /// How often it was delivered.
    pub times: u64,
    consumer: u32,
}

/// Who reads in a group.
#[derive(Clone)]
pub struct Consumer {
    /// Its name.
    pub name: Box<[u8]>,
    /// When it last asked for something, ms of wall time.
    pub seen: u64,
    pending: BTreeSet<Id>,
}

impl Consumer {
    /// The entries it has not acknowledged.
    pub fn pending(&self) -> &BTreeSet<Id> {
        &self.pending
    }
}

/// Names a consumer within its group, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who(u32);

/// See the module's page.
#[derive(Clone, Default)]
pub struct Group {
    /// The last entry that was delivered.
    pub last: Id,
    /// How many entries were read, counted from the very first of the stream; `None` when unknown.
    pub read: Option<u64>,
    pending: BTreeMap<Id, Pending>,
    names: BTreeMap<Box<[u8]>, u32>,
    consumers: Shelf<Consumer>,
}

impl Group {
    /// A group that goes on from behind an entry.
    pub fn new(last: Id, read: Option<u64>) -> Group {
        Group { last, read, ..Group::default() }
    }

    /// What was delivered and not acknowledged, in the order of the stream.
    pub fn pending(&self) -> &BTreeMap<Id, Pending> {
        &self.pending
    }

    /// All consumers, by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.names.values().map(|&number| self.at(number))
    }

    #[allow(clippy::expect_used)] // Numbers come from `names` and `pending`, which know only consumers on the shelf.
    fn at(&self, number: u32) -> &Consumer {
        self.consumers.get(number).expect("a consumer that is named is there")
    }

    /// The consumer of this name.
    pub fn find(&self, name: &[u8]) -> Option<Who> {
        self.names.get(name).map(|&number| Who(number))
    }

    /// Look at a consumer.
    pub fn consumer(&self, who: Who) -> &Consumer {
        self.at(who.0)
    }

    /// Who has a pending entry.
    pub fn holder(&self, pending: &Pending) -> &Consumer {
        self.at(pending.consumer)
    }

    /// Note when a consumer asked for something.
    pub fn saw(&mut self, who: Who, now: u64) {
        if let Some(consumer) = self.consumers.get_mut(who.0) {
            consumer.seen = now;
        }
    }

    /// Add a consumer; `None` when there is one of this name.
    pub fn add(&mut self, name: &[u8], now: u64) -> Option<Who> {
        if self.names.contains_key(name) {
            return None;
        }
        let number = self.consumers.put(Consumer { name: name.into(), seen: now, pending: BTreeSet::new() });
        self.names.insert(name.into(), number);
        Some(Who(number))
    }

    /// Remove a consumer with all it has not acknowledged; returns how much that was.
    pub fn remove(&mut self, who: Who) -> usize {
        let Some(consumer) = self.consumers.take(who.0) else { return 0 };
        self.names.remove(&consumer.name);
        for id in &consumer.pending {
            self.pending.remove(id);
        }
        consumer.pending.len()
    }

    /// An entry goes to a consumer, whoever had it before.
    pub fn deliver(&mut self, id: Id, to: Who, delivered: u64, times: u64) {
        let old = self.pending.insert(id, Pending { delivered, times, consumer: to.0 });
        match old {
            Some(old) if old.consumer == to.0 => {}
            old => {
                if let Some(consumer) = old.and_then(|old| self.consumers.get_mut(old.consumer)) {
                    consumer.pending.remove(&id);
                }
                if let Some(consumer) = self.consumers.get_mut(to.0) {
                    consumer.pending.insert(id);
                }
            }
        }
    }

    /// Note that a pending entry was delivered once more to who has it.
    pub fn redeliver(&mut self, id: Id, now: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.delivered = now;
            pending.times += 1;
        }
    }

    /// An entry is no longer pending; `false` when it was not.
    pub fn acknowledge(&mut self, id: Id) -> bool {
        let Some(old) = self.pending.remove(&id) else { return false };
        if let Some(consumer) = self.consumers.get_mut(old.consumer) {
            consumer.pending.remove(&id);
        }
        true
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        // Trees keep eleven places a node, which are six full when they grow at one end.
        let places = |count: usize, size: usize| count * size * 11 / 6;
        let names: usize = self.names.keys().map(|name| name.len() * 2).sum();
        places(self.pending.len(), size_of::<(Id, Pending)>() + size_of::<Id>())
            + places(self.names.len(), size_of::<(Box<[u8]>, u32)>())
            + self.consumers.bound() as usize * size_of::<Option<Consumer>>()
            + names
    }

    /// Forget at most `budget` pending entries; `true` when none is left. For what is thrown away only.
    pub fn free_some(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some((id, _)) = self.pending.first_key_value() else { break };
            self.acknowledge(*id);
        }
        self.pending.is_empty()
    }
}

#[test]
fn a_group_and_its_consumers_agree_about_what_is_pending() {
    let id = |ms| Id { ms, seq: 0 };
    let mut group = Group::new(Id::MIN, None);
    let (Some(one), Some(other)) = (group.add(b"one", 5), group.add(b"other", 6)) else { panic!("both are new") };
    assert_eq!(group.add(b"one", 7), None);
    (1..=4).for_each(|ms| group.deliver(id(ms), one, 10, 1));
    group.deliver(id(2), other, 20, 2);
    group.redeliver(id(2), 30);
    assert_eq!(group.consumer(one).pending().len(), 3);
    let pending = group.pending()[&id(2)];
    assert_eq!((pending.delivered, pending.times, &*group.holder(&pending).name), (30, 3, &b"other"[..]));
    assert!(group.acknowledge(id(1)) && !group.acknowledge(id(1)));
    assert_eq!(group.remove(one), 2);
    assert_eq!(group.pending().len(), 1);
    assert_eq!(group.consumers().map(|consumer| consumer.name.to_vec()).collect::<Vec<_>>(), [b"other"]);
}
