//! What a key or a slot holds, as one number: by these sums two nodes find out whether they have the same.
//!
//! Sums are over keys, members and fields, because two copies of one set do not keep the same order. When something was
//! last changed, read or delivered is no part of them: a command that fails leaves such marks, and no record; nor is how a
//! stream lies in its blocks. Nodes of different releases compare these numbers: whoever changes them changes the
//! letter in [`super::run_of`] that announces them.

use crate::store::arena::Handle;
use crate::store::keyspace::DATABASES;
use crate::store::stream::Id;
use crate::store::{Object, Store, Stream};
use crate::stream::codec;
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};

const SEED: u64 = 0x5107;

/// All that a slot holds; zero when it is empty.
pub fn of_slot(store: &Store, slot: u16) -> u64 {
    let (hasher, mut bytes, mut sum) = (FixedState::with_seed(SEED), Vec::new(), 0u64);
    for database in 0..DATABASES as u8 {
        for handle in store.entries_of_slot(database, slot) {
            sum = sum.wrapping_add(of_entry(store, handle, database, &hasher, &mut bytes));
        }
    }
    sum
}

/// A key, expired or not; zero when it is not there.
pub fn of_key(store: &Store, database: u8, key: &[u8]) -> u64 {
    let Some(found) = store.find_any(database, key) else { return 0 };
    of_entry(store, store.handle_of(found), database, &FixedState::with_seed(SEED), &mut Vec::new())
}

fn of_entry(store: &Store, handle: Handle, database: u8, hasher: &FixedState, bytes: &mut Vec<u8>) -> u64 {
    bytes.clear();
    let mut digits = itoa::Buffer::new();
    let sum = match store.object_at(handle) {
        Some(Object::Set(members)) => members
            .iter(&store.arena)
            .map(|member| hasher.hash_one(member.bytes(&mut digits)))
            .fold(1u64, u64::wrapping_add),
        Some(Object::Hash(fields)) => {
            fields.iter(&store.arena).map(|pair| hasher.hash_one(pair)).fold(2u64, u64::wrapping_add)
        }
        Some(Object::Stream(stream)) => of_stream(stream, hasher),
        _ => {
            codec::write_value(store, handle, bytes);
            0
        }
    };
    let about = (database, store.meta_of(handle).expiry, store.key_of(handle));
    hasher.hash_one((about, &bytes[..], sum))
}

fn of_stream(stream: &Stream, hasher: &FixedState) -> u64 {
    let mut state = hasher.build_hasher();
    for entry in stream.range(Id::MIN, Id::MAX) {
        state.write(&entry.id.to_bytes());
        for (name, value) in entry.pairs() {
            for piece in [name, value] {
                piece.with(|bytes| {
                    state.write_usize(bytes.len());
                    state.write(bytes);
                });
            }
        }
    }
    state.write(&stream.last.to_bytes());
    state.write_u64(stream.added);
    for (name, group) in stream.groups() {
        state.write_usize(name.len());
        state.write(name);
        state.write(&group.last.to_bytes());
        for (id, pending) in group.pending() {
            state.write(&id.to_bytes());
            state.write(&group.holder(pending).name);
        }
        let names = group.consumers().map(|consumer| hasher.hash_one(&consumer.name));
        state.write_u64(names.fold(3u64, u64::wrapping_add));
    }
    state.finish()
}
