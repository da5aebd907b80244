//! Union, intersection and difference of sorted sets; plain sets take part with scores of one.

use super::range::store_entries;
use super::{limits, zset_at};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::resp::Args;
use crate::resp::number::{parse_f64, parse_i64};
use crate::store::collections::SetValue;
use crate::store::{Found, Kind, Object, Store, Zset};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How the scores of one member become one.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Least,
    Greatest,
}

impl Aggregate {
    fn join(self, one: f64, other: f64) -> f64 {
        match self {
            // Infinities of opposite signs cancel out.
            Aggregate::Sum => some_number(one + other),
            Aggregate::Least => {
                if other < one {
                    other
                } else {
                    one
                }
            }
            Aggregate::Greatest => {
                if other > one {
                    other
                } else {
                    one
                }
            }
        }
    }
}

/// Zero for what is no number, as Redis has it.
fn some_number(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// An operand.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Nothing,
    Sorted(&'a Zset),
    Plain(&'a SetValue),
}

impl<'a> Subject<'a> {
    fn len(self) -> usize {
        match self {
            Subject::Nothing => 0,
            Subject::Sorted(zset) => zset.len(),
            Subject::Plain(set) => set.len(),
        }
    }

    fn score(self, store: &Store, member: &[u8]) -> Option<f64> {
        match self {
            Subject::Nothing => None,
            Subject::Sorted(zset) => zset.score(&store.arena, &store.seed, member),
            Subject::Plain(set) => set.contains(&store.arena, &store.seed, member).then_some(1.0),
        }
    }

    /// Visit members until `visit` says stop.
    fn each(self, store: &'a Store, mut visit: impl FnMut(Cow<'a, [u8]>, f64) -> bool) {
        match self {
            Subject::Nothing => {}
            Subject::Sorted(zset) => {
                for (member, score) in zset.entries(&store.arena, 0..zset.len(), false) {
                    if !visit(Cow::Borrowed(member), score) {
                        return;
                    }
                }
            }
            Subject::Plain(set) => {
                for member in set.iter(&store.arena) {
                    if !visit(Cow::Owned(member.to_vec()), 1.0) {
                        return;
                    }
                }
            }
        }
    }
}

pub fn zunion(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Operation::Union)
}

pub fn zinter(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Operation::Intersection)
}

pub fn zdiff(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    answer(ctx, args, Operation::Difference)
}

pub fn zunionstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Operation::Union, "zunionstore")
}

pub fn zinterstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Operation::Intersection, "zinterstore")
}

pub fn zdiffstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    store(ctx, args, Operation::Difference, "zdiffstore")
}

/// What may stand behind the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Answer,
    Store,
    Count,
}

/// A request, read.
struct Request {
    found: Vec<Option<Found>>,
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

fn answer(ctx: &mut Ctx<'_>, args: &Args<'_>, operation: Operation) -> Done {
    let request = read(ctx, args, 1, operation, Purpose::Answer)?;
    let store = &ctx.engine.store;
    let subjects = subjects(store, &request.found, &request.weights)?;
    let entries = combine(store, operation, &subjects, request.aggregate);
    let pairs = request.with_scores && ctx.out.resp3();
    ctx.out.array(if request.with_scores && !pairs { entries.len() * 2 } else { entries.len() });
    for (member, score) in &entries {
        if pairs {
            ctx.out.array(2);
        }
        ctx.out.bulk(member);
        if request.with_scores {
            ctx.out.double(*score);
        }
    }
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, args: &Args<'_>, operation: Operation, event: &'static str) -> Done {
    let request = read(ctx, args, 2, operation, Purpose::Store)?;
    let store = &ctx.engine.store;
    let subjects = subjects(store, &request.found, &request.weights)?;
    let entries = combine(store, operation, &subjects, request.aggregate);
    let entries: Vec<(Vec<u8>, f64)> =
        entries.into_iter().map(|(member, score)| (member.into_owned(), score)).collect();
    // Redis decides how to keep the result when it is complete, and a large set is the one that knows -0.
    let limits = limits(ctx.engine);
    let large = entries.len() > limits.entries || entries.iter().any(|(member, _)| member.len() > limits.value);
    let zset = if large { Zset::large(&mut ctx.engine.store.arena)? } else { Zset::new() };
    store_entries(ctx, args.at(1), &entries, zset, event)
}

pub fn zintercard(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = read(ctx, args, 1, Operation::Intersection, Purpose::Count)?;
    let store = &ctx.engine.store;
    let subjects = by_size(&subjects(store, &request.found, &request.weights)?);
    let mut count = 0;
    if let Some(((first, _), others)) = subjects.split_first() {
        first.each(store, |member, _| {
            count += usize::from(others.iter().all(|(other, _)| other.score(store, &member).is_some()));
            count != request.limit || request.limit == 0
        });
    }
    ctx.out.count(count);
    Ok(())
}

/// Read a request from the number of keys on. Kinds of keys are looked at between the keys and the options, as
/// Redis does: of two errors the client is told the same one.
fn read(
    ctx: &mut Ctx<'_>,
    args: &Args<'_>,
    at: usize,
    operation: Operation,
    purpose: Purpose,
) -> Result<Request, Fault> {
    let count = args.integer(at)?;
    if count < 1 {
        let name = ctx.command.name;
        return Err(Fault::new(format!("ERR at least 1 input key is needed for '{name}' command")));
    }
    let first = at + 1;
    let Some(count) = usize::try_from(count).ok().filter(|&count| count <= args.len() - first) else {
        return Err(Fault::SYNTAX);
    };
    for name in args.from(first).take(count) {
        if let Some(found) = ctx.read_any(name)
            && !matches!(ctx.engine.store.kind(found), Kind::SortedSet | Kind::Set)
        {
            return Err(Fault::WRONG_TYPE);
        }
    }
    // Only now that all keys were touched do their entries stay where they are.
    let found = args.from(first).take(count).map(|name| ctx.look(name)).collect();
    let mut request =
        Request { found, weights: vec![1.0; count], aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
    let weighs = operation != Operation::Difference && purpose != Purpose::Count;
    let mut at = first + count;
    while at < args.len() {
        let left = args.len() - at;
        if weighs && left > count && args.is(at, "WEIGHTS") {
            for (weight, text) in request.weights.iter_mut().zip(args.from(at + 1)) {
                *weight = parse_f64(text).ok_or(Fault::new("ERR weight value is not a float"))?;
            }
            at += 1 + count;
        } else if weighs && left >= 2 && args.is(at, "AGGREGATE") {
            request.aggregate = if args.is(at + 1, "SUM") {
                Aggregate::Sum
            } else if args.is(at + 1, "MIN") {
                Aggregate::Least
            } else if args.is(at + 1, "MAX") {
                Aggregate::Greatest
            } else {
                return Err(Fault::SYNTAX);
            };
            at += 2;
        } else if purpose == Purpose::Answer && args.is(at, "WITHSCORES") {
            request.with_scores = true;
            at += 1;
        } else if purpose == Purpose::Count && left >= 2 && args.is(at, "LIMIT") {
            let limit = parse_i64(args.at(at + 1)).and_then(|limit| usize::try_from(limit).ok());
            request.limit = limit.ok_or(Fault::new("ERR LIMIT can't be negative"))?;
            at += 2;
        } else {
            return Err(Fault::SYNTAX);
        }
    }
    Ok(request)
}

/// The operands with their weights, in the order given.
fn subjects<'s>(store: &'s Store, found: &[Option<Found>], weights: &[f64]) -> Result<Vec<(Subject<'s>, f64)>, Fault> {
    let subject = |found: Option<Found>| match found {
        None => Ok(Subject::Nothing),
        Some(found) => match store.object(found) {
            Some(Object::Set(set)) => Ok(Subject::Plain(set)),
            _ => zset_at(store, found).map(Subject::Sorted),
        },
    };
    found.iter().zip(weights).map(|(&found, &weight)| Ok((subject(found)?, weight))).collect()
}

type Entry<'a> = (Cow<'a, [u8]>, f64);

/// The result, in the order of a sorted set.
fn combine<'a>(
    store: &'a Store,
    operation: Operation,
    subjects: &[(Subject<'a>, f64)],
    aggregate: Aggregate,
) -> Vec<Entry<'a>> {
    let mut entries = match operation {
        Operation::Union => union(store, subjects, aggregate),
        Operation::Intersection => intersection(store, subjects, aggregate),
        Operation::Difference => difference(store, subjects),
    };
    entries.sort_unstable_by(|left, right| {
        left.1.partial_cmp(&right.1).unwrap_or(Ordering::Equal).then_with(|| left.0.cmp(&right.0))
    });
    entries
}

/// The operands from the smallest to the largest: the order in which Redis adds scores up.
fn by_size<'a>(subjects: &[(Subject<'a>, f64)]) -> Vec<(Subject<'a>, f64)> {
    let mut sorted = subjects.to_vec();
    sorted.sort_by_key(|(subject, _)| subject.len());
    sorted
}

fn union<'a>(store: &'a Store, subjects: &[(Subject<'a>, f64)], aggregate: Aggregate) -> Vec<Entry<'a>> {
    let largest = subjects.iter().map(|(subject, _)| subject.len()).max().unwrap_or(0);
    let mut scores: HashMap<Cow<'a, [u8]>, f64, foldhash::fast::RandomState> =
        HashMap::with_capacity_and_hasher(largest, Default::default());
    for (subject, weight) in by_size(subjects) {
        subject.each(store, |member, score| {
            let score = some_number(weight * score);
            scores.entry(member).and_modify(|sum| *sum = aggregate.join(*sum, score)).or_insert(score);
            true
        });
    }
    scores.into_iter().collect()
}

fn intersection<'a>(store: &'a Store, subjects: &[(Subject<'a>, f64)], aggregate: Aggregate) -> Vec<Entry<'a>> {
    let sorted = by_size(subjects);
    let mut entries = Vec::new();
    let Some((&(first, weight), others)) = sorted.split_first() else { return entries };
    first.each(store, |member, score| {
        let mut joined = some_number(weight * score);
        for (other, weight) in others {
            let Some(score) = other.score(store, &member) else { return true };
            joined = aggregate.join(joined, score * weight);
        }
        entries.push((member, joined));
        true
    });
    entries
}

fn difference<'a>(store: &'a Store, subjects: &[(Subject<'a>, f64)]) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    let Some((&(first, _), others)) = subjects.split_first() else { return entries };
    first.each(store, |member, score| {
        if others.iter().all(|(other, _)| other.score(store, &member).is_none()) {
            entries.push((member, score));
        }
        true
    });
    entries
}
