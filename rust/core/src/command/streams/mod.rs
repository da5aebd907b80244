//! Streams: the rows of the family, and what its commands share.
//!
//! [`change`] adds and removes entries, [`read`] answers with them, at once or as soon as there are
//! some, [`groups`] makes and changes groups, [`pending`] deals with what they have not acknowledged,
//! and [`info`] tells about all that.

mod change;
mod groups;
mod info;
mod pending;
mod read;
#[cfg(test)]
mod tests;

use super::Ctx;
use super::fault::Fault;
use super::notify::STREAM;
use super::table::{Begin, Command, DELETE, Find, Handler, INSERT, KeySpec, KeyUse, LOOK, READ, UPDATE, flag, key};
use crate::resp::Reply;
use crate::store::stream::{Entry, Id, Stream, Who};
use crate::store::{Found, Kind, Object, Store};

const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const READ_FAST: u32 = flag::READONLY | flag::FAST;
const GROWS: u32 = flag::WRITE | flag::DENYOOM;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "stream", since: "5.0.0", ..Command::new(name, run, arity, flags) }
}

/// Keys between STREAMS and as many names of entries.
const fn named_after_streams(from: i32) -> KeySpec {
    KeySpec { uses: READ, begin: Begin::After("STREAMS", from), find: Find::Range { last: -1, step: 1, limit: 2 } }
}

const fn second(uses: KeyUse) -> KeySpec {
    key(2, uses)
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds an entry to a stream, and may trim it.",
        syntax: "key [NOMKSTREAM] [MAXLEN | MINID [= | ~] threshold [LIMIT count]] <* | id> field value [field value ...]",
        keys: &[key(1, UPDATE)],
        ..row("xadd", change::xadd, -5, GROWS | flag::FAST)
    },
    Command {
        summary: "Removes entries from the front of a stream.",
        syntax: "key <MAXLEN | MINID> [= | ~] threshold [LIMIT count]",
        keys: &[key(1, DELETE)],
        ..row("xtrim", change::xtrim, -4, flag::WRITE)
    },
    Command {
        summary: "Removes entries by name.",
        syntax: "key id [id ...]",
        keys: &[key(1, DELETE)],
        ..row("xdel", change::xdel, -3, WRITE_FAST)
    },
    Command {
        summary: "Sets the name after which the next entry comes.",
        syntax: "key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]",
        keys: &[key(1, UPDATE)],
        ..row("xsetid", change::xsetid, -3, GROWS | flag::FAST)
    },
    Command {
        summary: "Answers how many entries a stream has.",
        syntax: "key",
        keys: &[key(1, LOOK)],
        ..row("xlen", read::xlen, 2, READ_FAST)
    },
    Command {
        summary: "Answers the entries from one name to another.",
        syntax: "key start end [COUNT count]",
        keys: &[key(1, READ)],
        ..row("xrange", read::xrange, -4, flag::READONLY)
    },
    Command {
        summary: "Answers the entries from one name back to another.",
        syntax: "key end start [COUNT count]",
        keys: &[key(1, READ)],
        ..row("xrevrange", read::xrevrange, -4, flag::READONLY)
    },
    Command {
        summary: "Answers the entries of streams that come after a name, or waits for one.",
        syntax: "[COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]",
        keys: &[named_after_streams(1)],
        ..row("xread", read::xread, -4, flag::READONLY | flag::BLOCKING | flag::MOVABLE_KEYS)
    },
    Command {
        summary: "Delivers entries of streams to a consumer of a group, or waits for one.",
        syntax: "GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]",
        keys: &[named_after_streams(4)],
        ..row("xreadgroup", read::xreadgroup, -7, flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS | flag::NEEDS_KEY)
    },
    Command {
        summary: "Acknowledges entries that were delivered in a group.",
        syntax: "key group id [id ...]",
        keys: &[key(1, UPDATE)],
        ..row("xack", pending::xack, -4, WRITE_FAST)
    },
    Command {
        summary: "Tells what was delivered in a group and not acknowledged.",
        syntax: "key group [[IDLE min-idle-time] start end count [consumer]]",
        keys: &[key(1, READ)],
        ..row("xpending", pending::xpending, -3, flag::READONLY)
    },
    Command {
        summary: "Gives pending entries to another consumer.",
        syntax: "key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds] [RETRYCOUNT count] \
                 [FORCE] [JUSTID] [LASTID last-id]",
        keys: &[key(1, UPDATE)],
        ..row("xclaim", pending::xclaim, -6, WRITE_FAST)
    },
    Command {
        since: "6.2.0",
        summary: "Gives entries that are pending for too long to another consumer.",
        syntax: "key group consumer min-idle-time start [COUNT count] [JUSTID]",
        keys: &[key(1, DELETE)],
        ..row("xautoclaim", pending::xautoclaim, -6, WRITE_FAST)
    },
    Command {
        summary: "Makes and changes groups of consumers.",
        subcommands: &[
            Command {
                summary: "Makes a group.",
                syntax: "key group <id | $> [MKSTREAM] [ENTRIESREAD entries-read]",
                keys: &[second(INSERT)],
                ..row("create", groups::create, -5, GROWS)
            },
            Command {
                summary: "Sets the name after which a group reads on.",
                syntax: "key group <id | $> [ENTRIESREAD entries-read]",
                keys: &[second(UPDATE)],
                ..row("setid", groups::set_id, -5, flag::WRITE)
            },
            Command {
                summary: "Removes a group.",
                syntax: "key group",
                keys: &[second(DELETE)],
                ..row("destroy", groups::destroy, 4, flag::WRITE)
            },
            Command {
                since: "6.2.0",
                summary: "Makes a consumer of a group.",
                syntax: "key group consumer",
                keys: &[second(INSERT)],
                ..row("createconsumer", groups::create_consumer, 5, GROWS)
            },
            Command {
                summary: "Removes a consumer with all that is pending for it.",
                syntax: "key group consumer",
                keys: &[second(DELETE)],
                ..row("delconsumer", groups::delete_consumer, 5, flag::WRITE)
            },
            Command { summary: "Lists the sub-commands.", ..row("help", groups::help, 2, flag::LOADING | flag::STALE) },
        ],
        ..row("xgroup", super::server::needs_subcommand, -2, 0)
    },
    Command {
        summary: "Tells about streams, their groups and consumers.",
        subcommands: &[
            Command {
                summary: "Tells about a stream.",
                syntax: "key [FULL [COUNT count]]",
                keys: &[second(READ)],
                ..row("stream", info::stream, -3, flag::READONLY)
            },
            Command {
                summary: "Tells about the groups of a stream.",
                syntax: "key",
                keys: &[second(READ)],
                ..row("groups", info::groups, 3, flag::READONLY)
            },
            Command {
                summary: "Tells about the consumers of a group.",
                syntax: "key group",
                keys: &[second(READ)],
                ..row("consumers", info::consumers, 4, flag::READONLY)
            },
            Command { summary: "Lists the sub-commands.", ..row("help", info::help, 2, flag::LOADING | flag::STALE) },
        ],
        ..row("xinfo", super::server::needs_subcommand, -2, 0)
    },
];

const BAD_ID: Fault = Fault::of("ERR Invalid stream ID specified as stream command argument");

/// A name as clients write it, and whether its second part was given as a number.
#[derive(Clone, Copy)]
struct Written {
    id: Id,
    numbered: bool,
}

/// Read a name; `missing` is its second part when there is none. `-` and `+` stand for the ends in `ranges`.
fn parse(text: &[u8], missing: u64, ranges: bool) -> Option<Written> {
    if text.len() > 127 {
        return None;
    }
    // As C reads it: to the first zero byte.
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let whole = |id| Some(Written { id, numbered: true });
    match text {
        b"-" => return if ranges { whole(Id::MIN) } else { None },
        b"+" => return if ranges { whole(Id::MAX) } else { None },
        _ => {}
    }
    let mut parts = text.splitn(2, |&byte| byte == b'-');
    let ms = parse_part(parts.next()?)?;
    match parts.next() {
        None => whole(Id { ms, seq: missing }),
        Some(b"*") => Some(Written { id: Id { ms, seq: 0 }, numbered: false }),
        Some(seq) => whole(Id { ms, seq: parse_part(seq)? }),
    }
}

/// A part of a name, as the C library reads an unsigned number: blanks and a sign may stand in front.
fn parse_part(text: &[u8]) -> Option<u64> {
    let mut digits = text.trim_ascii_start();
    let negative = digits.first() == Some(&b'-');
    if negative && digits.len() == text.len() && crate::resp::number::parse_i64(text).is_some() {
        return None;
    }
    if let [b'+' | b'-', rest @ ..] = digits {
        digits = rest;
    }
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// Read the name of an entry.
fn strict_id(text: &[u8]) -> Result<Id, Fault> {
    // Only XADD takes a star; elsewhere it is number zero's place and no number.
    parse(text, 0, false).filter(|written| written.numbered).map(|written| written.id).ok_or(BAD_ID)
}

/// Read the names of entries from an argument on.
fn strict_ids<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Id>, Fault> {
    texts.map(strict_id).collect()
}

/// The start of a range; `(` in front excludes the name itself.
fn range_start(text: &[u8]) -> Result<Id, Fault> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            let id = parse(rest, 0, false).filter(|written| written.numbered).ok_or(BAD_ID)?.id;
            id.next().ok_or(Fault::of("ERR invalid start ID for the interval"))
        }
        _ => parse(text, 0, true).filter(|written| written.numbered).map(|written| written.id).ok_or(BAD_ID),
    }
}

/// The end of a range; a name without its second part means all of that time.
fn range_end(text: &[u8]) -> Result<Id, Fault> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            let id = parse(rest, u64::MAX, false).filter(|written| written.numbered).ok_or(BAD_ID)?.id;
            id.previous().ok_or(Fault::of("ERR invalid end ID for the interval"))
        }
        _ => parse(text, u64::MAX, true).filter(|written| written.numbered).map(|written| written.id).ok_or(BAD_ID),
    }
}

/// The stream that was found.
#[allow(clippy::panic)] // Whoever found it looked for this kind.
fn stream_at(store: &Store, found: Found) -> &Stream {
    match store.object(found) {
        Some(Object::Stream(stream)) => stream,
        _ => panic!("a key of this kind holds a stream"),
    }
}

/// As [`stream_at`], to change it.
#[allow(clippy::panic)]
fn stream_at_mut(store: &mut Store, found: Found) -> &mut Stream {
    match store.object_mut(found) {
        Some((Object::Stream(stream), _, _)) => stream,
        _ => panic!("a key of this kind holds a stream"),
    }
}

/// Write a name.
fn write_id(out: &mut Reply, id: Id) {
    let mut text = [0u8; 41];
    let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (ms, seq) = (ms.format(id.ms).as_bytes(), seq.format(id.seq).as_bytes());
    text[..ms.len()].copy_from_slice(ms);
    text[ms.len()] = b'-';
    let end = ms.len() + 1 + seq.len();
    text[ms.len() + 1..end].copy_from_slice(seq);
    out.bulk(&text[..end]);
}

/// Write an entry: its name, then its fields and values.
fn write_entry(out: &mut Reply, entry: Entry<'_>) {
    out.array(2);
    write_id(out, entry.id);
    out.array(entry.len() * 2);
    for (name, value) in entry.pairs() {
        name.with(|name| out.bulk(name));
        value.with(|value| out.bulk(value));
    }
}

/// Write entries, at most so many.
fn write_entries<'a>(out: &mut Reply, entries: impl Iterator<Item = Entry<'a>>, most: usize) {
    out.deferred(Reply::array, |out| {
        let mut written = 0;
        for entry in entries.take(most) {
            write_entry(out, entry);
            written += 1;
        }
        (written, ())
    });
}

/// A text with names of a client's in it, each to its first zero byte, as C writes them.
fn text_with(parts: &[&[u8]]) -> Fault {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(part.split(|&byte| byte == 0).next().unwrap_or_default());
    }
    Fault::bytes(text)
}

/// No such key, or the stream has no such group.
fn no_group(key: &[u8], group: &[u8]) -> Fault {
    text_with(&[b"NOGROUP No such key '", key, b"' or consumer group '", group, b"'"])
}

/// The stream has no such group.
fn no_group_of(key: &[u8], group: &[u8]) -> Fault {
    text_with(&[b"NOGROUP No such consumer group '", group, b"' for key name '", key, b"'"])
}

impl Ctx<'_> {
    /// Find a stream that has this group, or say `otherwise`.
    fn with_group(&mut self, name: &[u8], group: &[u8], otherwise: fn(&[u8], &[u8]) -> Fault) -> Result<Found, Fault> {
        let found = self.read(name, Kind::Stream)?;
        found
            .filter(|&found| stream_at(&self.engine.store, found).group(group).is_some())
            .ok_or_else(|| otherwise(name, group))
    }

    /// Find a consumer, which has been heard of now, or make it.
    fn consumer(&mut self, name: &[u8], found: Found, group: &[u8], consumer: &[u8]) -> Option<Who> {
        let now = self.engine.store.now();
        let of = stream_at_mut(&mut self.engine.store, found).group_mut(group)?;
        if let Some(who) = of.find(consumer) {
            of.saw(who, now);
            return Some(who);
        }
        let who = of.add(consumer, now);
        self.changed_within(name, STREAM, Some("xgroup-createconsumer"));
        who
    }
}
