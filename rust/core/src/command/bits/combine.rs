//! BITOP. The work is bounded by what is stored: a source named many times is read once.

use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::notify::{GENERIC, STRING};
use crate::resp::Args;
use crate::store::Kind;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

pub fn bitop(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let operation = match () {
        () if args.is(1, "AND") => Operation::And,
        () if args.is(1, "OR") => Operation::Or,
        () if args.is(1, "XOR") => Operation::Xor,
        () if args.is(1, "NOT") => Operation::Not,
        () => return Err(Fault::SYNTAX),
    };
    if operation == Operation::Not && args.len() != 4 {
        return Err(Fault::new("ERR BITOP NOT must be called with a single source key."));
    }
    // Each source with how often it is named: twice the same is the same for AND and OR, nothing for XOR.
    let mut named: BTreeMap<&[u8], usize> = BTreeMap::new();
    for name in args.from(3) {
        *named.entry(name).or_default() += 1;
    }
    for name in named.keys() {
        ctx.read(name, Kind::String)?;
    }
    // Looked up again: one that had expired was removed just now, and places hold only until then.
    let store = &ctx.engine.store;
    let found = |name: &[u8]| store.find_any(ctx.client.database, name).map(|found| store.text(found));
    let sources: Vec<(Option<&[u8]>, usize)> = named.iter().map(|(name, times)| (found(name), *times)).collect();
    let longest = sources.iter().filter_map(|(text, _)| *text).map(<[u8]>::len).max().unwrap_or(0);
    let result = combine(operation, &sources, longest);
    let destination = args.at(2);
    if longest == 0 {
        if ctx.remove(destination) {
            ctx.changed(destination, GENERIC, "del");
        }
    } else {
        let is_new = ctx.look(destination).is_none();
        ctx.engine.store.put_made_text(ctx.client.database, destination, result)?;
        if is_new {
            ctx.created(destination);
        }
        ctx.changed(destination, STRING, "set");
    }
    ctx.out.count(longest);
    Ok(())
}

/// The result; a source that is not there, and what lies behind a source's end, is zero.
fn combine(operation: Operation, sources: &[(Option<&[u8]>, usize)], longest: usize) -> Vec<u8> {
    let Some((first, rest)) = sources.split_first() else { return Vec::new() };
    let mut result = Vec::with_capacity(longest);
    let odd = |times: usize| operation != Operation::Xor || times % 2 == 1;
    if let (Some(text), times) = first
        && odd(*times)
    {
        result.extend_from_slice(text);
    }
    result.resize(longest, 0);
    for &(text, times) in rest {
        let text = text.unwrap_or_default();
        match operation {
            Operation::And => {
                result.iter_mut().zip(text).for_each(|(one, other)| *one &= other);
                result[text.len()..].fill(0);
            }
            Operation::Or => result.iter_mut().zip(text).for_each(|(one, other)| *one |= other),
            Operation::Xor if odd(times) => result.iter_mut().zip(text).for_each(|(one, other)| *one ^= other),
            Operation::Xor | Operation::Not => {}
        }
    }
    if operation == Operation::Not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    result
}
