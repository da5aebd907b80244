//! Lists: the rows of the family, and what its commands share.
//!
//! [`change`] adds, replaces and removes, [`look`] answers about elements, [`take`] takes
//! from the ends and [`transfer`] from one list to another, at once or as soon as there is one.

mod change;
mod look;
mod take;
#[cfg(test)]
mod tests;
mod transfer;

use super::Ctx;
use super::fault::Fault;
use super::notify::{GENERIC, LIST};
use super::table::{Command, DELETE, Handler, INSERT, LOOK, READ, READ_DELETE, UPDATE, counted_keys, flag, key, keys};
use crate::resp::Args;
use crate::store::list::{End, List};
use crate::store::{Found, Object, Store};

const GROWS: u32 = flag::WRITE | flag::DENYOOM;
const GROWS_FAST: u32 = GROWS | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const WAITS: u32 = flag::WRITE | flag::NOSCRIPT | flag::BLOCKING;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "list", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds elements at the front of a list, one after the other.",
        syntax: "key element [element ...]",
        keys: &[key(1, INSERT)],
        ..row("lpush", change::lpush, -3, GROWS_FAST)
    },
    Command {
        summary: "Adds elements at the back of a list, one after the other.",
        syntax: "key element [element ...]",
        keys: &[key(1, INSERT)],
        ..row("rpush", change::rpush, -3, GROWS_FAST)
    },
    Command {
        since: "2.2.0",
        summary: "Adds elements at the front of a list that is there already.",
        syntax: "key element [element ...]",
        keys: &[key(1, INSERT)],
        ..row("lpushx", change::lpushx, -3, GROWS_FAST)
    },
    Command {
        since: "2.2.0",
        summary: "Adds elements at the back of a list that is there already.",
        syntax: "key element [element ...]",
        keys: &[key(1, INSERT)],
        ..row("rpushx", change::rpushx, -3, GROWS_FAST)
    },
    Command {
        summary: "Takes elements from the front of a list.",
        syntax: "key [count]",
        keys: &[key(1, READ_DELETE)],
        ..row("lpop", take::lpop, -2, WRITE_FAST)
    },
    Command {
        summary: "Takes elements from the back of a list.",
        syntax: "key [count]",
        keys: &[key(1, READ_DELETE)],
        ..row("rpop", take::rpop, -2, WRITE_FAST)
    },
    Command {
        summary: "Answers how many elements a list has.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("llen", look::llen, 2, flag::READONLY | flag::FAST)
    },
    Command {
        summary: "Answers the element at an index.",
        syntax: "key index",
        keys: &[key(1, READ)],
        ..row("lindex", look::lindex, 3, flag::READONLY)
    },
    Command {
        summary: "Replaces the element at an index.",
        syntax: "key index element",
        keys: &[key(1, UPDATE)],
        ..row("lset", change::lset, 4, GROWS)
    },
    Command {
        since: "2.2.0",
        summary: "Adds an element before or after the first that equals another.",
        syntax: "key <BEFORE | AFTER> pivot element",
        keys: &[key(1, INSERT)],
        ..row("linsert", change::linsert, 5, GROWS)
    },
    Command {
        summary: "Answers the elements from one index to another.",
        syntax: "key start stop",
        keys: &[key(1, READ)],
        ..row("lrange", look::lrange, 4, flag::READONLY)
    },
    Command {
        summary: "Removes elements that equal a value.",
        syntax: "key count element",
        keys: &[key(1, DELETE)],
        ..row("lrem", change::lrem, 4, flag::WRITE)
    },
    Command {
        summary: "Keeps the elements from one index to another and removes all others.",
        syntax: "key start stop",
        keys: &[key(1, DELETE)],
        ..row("ltrim", change::ltrim, 4, flag::WRITE)
    },
    Command {
        since: "6.0.6",
        summary: "Answers at which indexes an element is.",
        syntax: "key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
        keys: &[key(1, READ)],
        ..row("lpos", look::lpos, -3, flag::READONLY)
    },
    Command {
        since: "6.2.0",
        summary: "Takes an element from one list and adds it to another.",
        syntax: "source destination <LEFT | RIGHT> <LEFT | RIGHT>",
        keys: &[key(1, READ_DELETE), key(2, INSERT)],
        ..row("lmove", transfer::lmove, 5, GROWS)
    },
    Command {
        since: "1.2.0",
        summary: "Takes the last element of a list and adds it at the front of another.",
        syntax: "source destination",
        keys: &[key(1, READ_DELETE), key(2, INSERT)],
        ..row("rpoplpush", transfer::rpoplpush, 3, GROWS)
    },
    Command {
        since: "7.0.0",
        summary: "Takes elements from the first of several lists that has any.",
        syntax: "numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
        keys: &[counted_keys(1, READ_DELETE)],
        ..row("lmpop", take::lmpop, -4, flag::WRITE | flag::MOVABLE_KEYS)
    },
    Command {
        since: "2.0.0",
        summary: "Takes the first element of the first list that has any, or waits for one.",
        syntax: "key [key ...] timeout",
        keys: &[keys(1, -2, 1, READ_DELETE)],
        ..row("blpop", take::blpop, -3, WAITS)
    },
    Command {
        since: "2.0.0",
        summary: "Takes the last element of the first list that has any, or waits for one.",
        syntax: "key [key ...] timeout",
        keys: &[keys(1, -2, 1, READ_DELETE)],
        ..row("brpop", take::brpop, -3, WAITS)
    },
    Command {
        since: "6.2.0",
        summary: "Takes an element from one list and adds it to another, or waits for one.",
        syntax: "source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout",
        keys: &[key(1, READ_DELETE), key(2, INSERT)],
        ..row("blmove", transfer::blmove, 6, WAITS | flag::DENYOOM)
    },
    Command {
        since: "2.2.0",
        summary: "Takes the last element of a list and adds it at the front of another, or waits for one.",
        syntax: "source destination timeout",
        keys: &[key(1, READ_DELETE), key(2, INSERT)],
        ..row("brpoplpush", transfer::brpoplpush, 4, WAITS | flag::DENYOOM)
    },
    Command {
        since: "7.0.0",
        summary: "Takes elements from the first of several lists that has any, or waits for one.",
        syntax: "timeout numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
        keys: &[counted_keys(2, READ_DELETE)],
        ..row("blmpop", take::blmpop, -5, flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS)
    },
];

/// The list under a key that was found to hold one.
#[inline]
fn list_at(store: &Store, found: Found) -> &List {
    match store.object(found) {
        Some(Object::List(list)) => list,
        _ => unreachable!("the key was found as a list"),
    }
}

/// As [`list_at`], to change it.
#[inline]
fn list_at_mut(store: &mut Store, found: Found) -> &mut List {
    match store.object_mut(found) {
        Some((Object::List(list), ..)) => list,
        _ => unreachable!("the key was found as a list"),
    }
}

/// An end by its name.
fn end(args: &Args<'_>, index: usize) -> Result<End, Fault> {
    if args.is(index, "LEFT") {
        Ok(End::Front)
    } else if args.is(index, "RIGHT") {
        Ok(End::Back)
    } else {
        Err(Fault::SYNTAX)
    }
}

/// The event of taking from an end.
fn popped(end: End) -> &'static str {
    if end == End::Front { "lpop" } else { "rpop" }
}

/// The event of adding at an end.
fn pushed(end: End) -> &'static str {
    if end == End::Front { "lpush" } else { "rpush" }
}

/// Elements were taken out of a list: tell, and remove its key when nothing is left.
#[inline]
fn shrunk(ctx: &mut Ctx<'_>, name: &[u8], found: Found, class: u32, event: &'static str) {
    let empty = list_at(&ctx.engine.store, found).is_empty();
    ctx.changed(name, class, event);
    if empty {
        ctx.engine.store.remove(found);
        ctx.changed(name, GENERIC, "del");
    }
}

/// A negative index counts from the end; `None` when it is before the first element.
fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index + len as i64 } else { index };
    usize::try_from(index).ok()
}

/// The elements `start..=stop` of a list, where negative numbers count from the end.
fn span(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let from = place(start, len).unwrap_or(0);
    match place(stop, len) {
        Some(to) if from <= to && from < len => from..to.min(len - 1) + 1,
        _ => 0..0,
    }
}
