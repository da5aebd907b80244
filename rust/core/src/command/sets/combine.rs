//! Intersection, union and difference: answered, stored, or counted.

use super::{limits, set_of};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::notify::SET;
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::store::collections::set::Limits;
use crate::store::collections::{Member, SetValue};
use crate::store::{Found, Kind, Object, Store};
use std::collections::HashSet;

/// What is made of several sets.
#[derive(Clone, Copy)]
enum Algebra {
    Intersection,
    Union,
    Difference,
}

/// Find the sets of several keys; a missing one is empty.
fn find_sets<'k>(ctx: &mut Ctx<'_>, keys: impl Iterator<Item = &'k [u8]>) -> Result<Vec<Option<Found>>, Fault> {
    keys.map(|key| ctx.read(key, Kind::Set)).collect()
}

/// Visit the members that all sets have, until `visit` says that it is enough.
fn intersect<'s>(store: &'s Store, sets: &[Option<Found>], mut visit: impl FnMut(Member<'s>) -> bool) -> Done {
    let sets: Option<Vec<Found>> = sets.iter().copied().collect();
    let Some(sets) = sets else { return Ok(()) };
    let mut sets: Vec<&SetValue> = sets.into_iter().map(|found| set_of(store, found)).collect::<Result<_, _>>()?;
    sets.sort_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else { return Ok(()) };
    let in_all = |member: &Member<'_>| {
        others
            .iter()
            .all(|set| std::ptr::eq(*set, *smallest) || set.contains_member(&store.arena, &store.seed, *member))
    };
    for member in smallest.iter(&store.arena).filter(in_all) {
        if !visit(member) {
            break;
        }
    }
    Ok(())
}

/// The members of a union.
fn unite<'s>(store: &'s Store, sets: &[Option<Found>]) -> Result<Vec<Member<'s>>, Fault> {
    let sets: Vec<&SetValue> = sets.iter().flatten().map(|&found| set_of(store, found)).collect::<Result<_, _>>()?;
    let most = sets.iter().map(|set| set.len()).max().unwrap_or(0);
    let mut seen = HashSet::with_capacity_and_hasher(most, foldhash::fast::RandomState::default());
    let mut members = Vec::with_capacity(most);
    for set in sets {
        members.extend(set.iter(&store.arena).filter(|&member| seen.insert(as_number(member))));
    }
    Ok(members)
}

/// The members of the first set that no other has.
fn subtract<'s>(store: &'s Store, sets: &[Option<Found>]) -> Result<Vec<Member<'s>>, Fault> {
    let Some((&Some(first), others)) = sets.split_first() else { return Ok(Vec::new()) };
    let first = set_of(store, first)?;
    let mut others: Vec<_> = others.iter().flatten().map(|&found| set_of(store, found)).collect::<Result<_, _>>()?;
    if others.iter().any(|set| std::ptr::eq(*set, first)) {
        return Ok(Vec::new());
    }
    let all = others.iter().map(|set| set.len()).sum::<usize>() + first.len();
    // Asking every other set for each member, or taking away member after member of all others: whichever is less.
    if first.len() * (others.len() + 1) / 2 <= all {
        others.sort_by_key(|set| std::cmp::Reverse(set.len()));
        let in_none =
            |member: &Member<'_>| !others.iter().any(|set| set.contains_member(&store.arena, &store.seed, *member));
        return Ok(first.iter(&store.arena).filter(in_none).collect());
    }
    let mut left: HashSet<_, foldhash::fast::RandomState> = first.iter(&store.arena).map(as_number).collect();
    for member in others.iter().flat_map(|set| set.iter(&store.arena)) {
        left.remove(&as_number(member));
    }
    Ok(left.into_iter().collect())
}

/// One form for each member, whichever set it comes from.
fn as_number(member: Member<'_>) -> Member<'_> {
    match member {
        Member::Bytes(bytes) => parse_i64(bytes).map_or(member, Member::Number),
        Member::Number(_) => member,
    }
}

fn combine<'s>(
    store: &'s Store,
    limits: Limits,
    algebra: Algebra,
    sets: &[Option<Found>],
) -> Result<Vec<Member<'s>>, Fault> {
    let mut members = Vec::new();
    match algebra {
        Algebra::Intersection => intersect(store, sets, |member| {
            members.push(member);
            true
        })?,
        Algebra::Union => members = unite(store, sets)?,
        Algebra::Difference => members = subtract(store, sets)?,
    }
    // A result of few numbers comes in their order, as it would from a small set.
    if !matches!(algebra, Algebra::Intersection) && members.len() <= limits.numbers {
        let numbers: Option<Vec<i64>> = members.iter().map(|&member| number_of(member)).collect();
        if let Some(mut numbers) = numbers {
            numbers.sort_unstable();
            members = numbers.into_iter().map(Member::Number).collect();
        }
    }
    Ok(members)
}

fn number_of(member: Member<'_>) -> Option<i64> {
    match as_number(member) {
        Member::Number(number) => Some(number),
        Member::Bytes(_) => None,
    }
}

fn answer(ctx: &mut Ctx<'_>, args: &Args<'_>, algebra: Algebra) -> Done {
    let limits = limits(ctx.engine);
    let sets = find_sets(ctx, args.from(1))?;
    let members = combine(&ctx.engine.store, limits, algebra, &sets)?;
    ctx.out.set(members.len());
    let mut digits = itoa::Buffer::new();
    members.iter().for_each(|member| ctx.out.bulk(member.bytes(&mut digits)));
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, args: &Args<'_>, algebra: Algebra, event: &'static str) -> Done {
    let limits = limits(ctx.engine);
    let sets = find_sets(ctx, args.from(2))?;
    let members = combine(&ctx.engine.store, limits, algebra, &sets)?;
    // The members lie in the arena into which they are to be added: copy them out first.
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(members.len()));
    let mut digits = itoa::Buffer::new();
    for member in members {
        bytes.extend_from_slice(member.bytes(&mut digits));
        ends.push(bytes.len());
    }
    let mut set = SetValue::new();
    let (keyspace, mut start) = (&mut ctx.engine.store, 0);
    for end in &ends {
        if let Err(full) = set.add(&mut keyspace.arena, &keyspace.seed, limits, &bytes[start..*end]) {
            keyspace.condemn(Object::Set(set));
            return Err(full.into());
        }
        start = *end;
    }
    ctx.store_result(args.at(1), (!set.is_empty()).then_some(Object::Set(set)), SET, event)?;
    ctx.out.count(ends.len());
    Ok(())
}

pub(super) fn sinter(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Algebra::Intersection)
}

pub(super) fn sunion(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Algebra::Union)
}

pub(super) fn sdiff(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Algebra::Difference)
}

pub(super) fn sinterstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Algebra::Intersection, "sinterstore")
}

pub(super) fn sunionstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Algebra::Union, "sunionstore")
}

pub(super) fn sdiffstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Algebra::Difference, "sdiffstore")
}

pub(super) fn sintercard(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = parse_i64(args.at(1)).and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
    let count = count.ok_or(Fault::new("ERR numkeys should be greater than 0"))?;
    if count > args.len() - 2 {
        return Err(Fault::new("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    let mut at = 2 + count;
    while at < args.len() {
        if !args.is(at, "LIMIT") || at + 1 == args.len() {
            return Err(Fault::SYNTAX);
        }
        let number = parse_i64(args.at(at + 1)).and_then(|limit| usize::try_from(limit).ok());
        limit = number.ok_or(Fault::new("ERR LIMIT can't be negative"))?;
        at += 2;
    }
    let sets = find_sets(ctx, args.from(2).take(count))?;
    let mut common = 0;
    intersect(&ctx.engine.store, &sets, |_| {
        common += 1;
        common != limit
    })?;
    ctx.out.count(common);
    Ok(())
}
