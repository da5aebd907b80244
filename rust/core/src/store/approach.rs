//! Looking ahead into collections: the steps after [`Store::approach_entry`] for requests that ask a
//! large hash, set or sorted set for one of its members. Each step only asks the processor to fetch
//! what the next one reads; nothing is decided here, and a wrong guess costs time and nothing else.

use super::entry::{Entry, Kind};
use super::keyspace::{Store, Whereabouts};

/// Where a member of a collection would be.
#[derive(Clone, Copy)]
pub struct Inside {
    object: u32,
    hash: u64,
}

impl Store {
    /// The fourth step: the object of an entry, if it has one. `member` names what the request will
    /// ask a value of that kind for.
    #[inline]
    pub fn approach_object<'m>(
        &self,
        database: u8,
        at: &Whereabouts,
        member: impl FnOnce(Kind) -> Option<&'m [u8]>,
    ) -> Option<Inside> {
        let entry = Entry(self.arena.at(self.candidate(database, at)?));
        let object = entry.object()?;
        self.objects.prefetch(object);
        Some(Inside { object, hash: self.seed.hash(member(entry.kind())?) })
    }

    /// The fifth step: the place in the object's table, or its bytes when it has none.
    #[inline]
    pub fn approach_place(&self, inside: &Inside) {
        if let Some(object) = self.objects.get(inside.object) {
            object.prefetch(inside.hash);
        }
    }

    /// The sixth step: the member.
    #[inline]
    pub fn approach_member(&self, inside: &Inside) {
        if let Some(object) = self.objects.get(inside.object) {
            object.prefetch_member(&self.arena, inside.hash);
        }
    }
}
