//! Strings as arrays of bits: the rows of the family, and SETBIT and GETBIT.
//!
//! [`count`] counts and looks for bits, [`combine`] is BITOP, [`field`] reads and changes small numbers.

mod combine;
mod count;
mod field;

use super::Ctx;
use super::fault::{Done, Fault};
use super::notify::STRING;
use super::settings::Name;
use super::table::{Command, Handler, KeyUse, OVERWRITE, READ, READ_UPDATE, flag, key, keys};
use crate::resp::number::parse_i64;
use crate::resp::{Args, Reply};
use crate::store::{Keep, Kind};

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "bitmap", since: "2.2.0", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Sets or clears a bit of a string.",
        syntax: "key offset value",
        keys: &[key(1, READ_UPDATE)],
        ..row("setbit", setbit, 4, flag::WRITE | flag::DENYOOM)
    },
    Command {
        summary: "Answers a bit of a string.",
        syntax: "key offset",
        keys: &[key(1, READ)],
        ..row("getbit", getbit, 3, flag::READONLY | flag::FAST)
    },
    Command {
        since: "2.6.0",
        summary: "Counts the bits of a string that are set.",
        syntax: "key [start end [BYTE | BIT]]",
        keys: &[key(1, READ)],
        ..row("bitcount", count::bitcount, -2, flag::READONLY)
    },
    Command {
        since: "2.8.7",
        summary: "Answers where the first set or clear bit of a string is.",
        syntax: "key bit [start [end [BYTE | BIT]]]",
        keys: &[key(1, READ)],
        ..row("bitpos", count::bitpos, -3, flag::READONLY)
    },
    Command {
        since: "2.6.0",
        summary: "Combines strings bit by bit and puts the result under a key.",
        syntax: "<AND | OR | XOR | NOT> destkey key [key ...]",
        keys: &[key(2, OVERWRITE), keys(3, -1, 1, READ)],
        ..row("bitop", combine::bitop, -4, flag::WRITE | flag::DENYOOM)
    },
    Command {
        since: "3.2.0",
        summary: "Reads and changes whole numbers of any width within a string.",
        syntax: "key [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] <SET encoding offset value | \
                 INCRBY encoding offset increment> ...]",
        keys: &[key(1, KeyUse(&["RW", "access", "update", "variable_flags"]))],
        ..row("bitfield", field::bitfield, -2, flag::WRITE | flag::DENYOOM)
    },
    Command {
        since: "6.0.0",
        summary: "Reads whole numbers of any width within a string.",
        syntax: "key [GET encoding offset [GET encoding offset ...]]",
        keys: &[key(1, READ)],
        ..row("bitfield_ro", field::bitfield_ro, -2, flag::READONLY | flag::FAST)
    },
];

/// The number of a bit. `width` is that of the fields it may count by, as in `#3`.
fn offset(ctx: &Ctx<'_>, text: &[u8], width: Option<u32>) -> Result<usize, Fault> {
    let number = match (text, width) {
        ([b'#', rest @ ..], Some(width)) => parse_i64(rest).and_then(|number| number.checked_mul(i64::from(width))),
        _ => parse_i64(text),
    };
    number
        .and_then(|number| usize::try_from(number).ok())
        .filter(|bit| bit / 8 < ctx.engine.settings.size(Name::proto_max_bulk_len))
        .ok_or(Fault::new("ERR bit offset is not an integer or out of range"))
}

/// The bit at an offset; what lies behind the end is clear.
fn bit(text: &[u8], offset: usize) -> bool {
    text.get(offset / 8).is_some_and(|byte| byte >> (7 - offset % 8) & 1 != 0)
}

/// Change the string under a key, grown with zeros to `least` bytes first. `edit` gets the reply, the string, and
/// whether it came to be or grew, and says whether that is a change worth telling.
fn edit(ctx: &mut Ctx<'_>, name: &[u8], least: usize, edit: impl FnOnce(&mut Reply, &mut [u8], bool) -> bool) -> Done {
    let found = ctx.write(name, Kind::String)?;
    let is_new = found.is_none();
    let mut found = match found {
        Some(found) => found,
        None => {
            let found = ctx.engine.store.insert_text(ctx.client.database, name, b"", Keep::Nothing)?;
            ctx.created(name);
            found
        }
    };
    let mut changed = false;
    let Ctx { engine, out, .. } = ctx;
    engine.store.edit_text(&mut found, |text| {
        let grows = text.len() < least;
        if grows {
            text.resize(least, 0);
        }
        changed = edit(out, text, grows || is_new);
    })?;
    if changed {
        ctx.changed(name, STRING, "setbit");
    }
    Ok(())
}

fn setbit(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let at = offset(ctx, args.at(2), None)?;
    let on = match args.at(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(Fault::new("ERR bit is not an integer or out of range")),
    };
    edit(ctx, args.at(1), at / 8 + 1, |out, text, fresh| {
        let (before, mask) = (bit(text, at), 0x80 >> (at % 8));
        if on {
            text[at / 8] |= mask;
        } else {
            text[at / 8] &= !mask;
        }
        out.integer(i64::from(before));
        fresh || before != on
    })
}

fn getbit(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let at = offset(ctx, args.at(2), None)?;
    let found = ctx.read(args.at(1), Kind::String)?;
    let set = found.is_some_and(|found| bit(ctx.engine.store.text(found), at));
    ctx.out.integer(i64::from(set));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn bits_are_set_cleared_and_told() {
        Node::new().expect(&[
            ("SETBIT b 7 1", ":0"),
            ("SETBIT b 7 0", ":1"),
            ("SETBIT b 100 1", ":0"),
            ("STRLEN b", ":13"),
            ("GETBIT b 100", ":1"),
            ("GETBIT b 4000000", ":0"),
            ("OBJECT ENCODING b", "$3 raw"),
            ("SETBIT b -1 1", "-ERR bit offset is not an integer or out of range"),
            ("SETBIT b 4294967296 1", "-ERR bit offset is not an integer or out of range"),
            ("SETBIT b 1 2", "-ERR bit is not an integer or out of range"),
            ("LPUSH l a", ":1"),
            ("SETBIT l 1 1", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]);
    }

    #[test]
    fn bits_are_counted_and_found_in_bytes_and_in_bits() {
        let mut node = Node::new();
        node.line("SET b foobar");
        node.expect(&[
            ("BITCOUNT b", ":26"),
            ("BITCOUNT b 0 0", ":4"),
            ("BITCOUNT b 1 1", ":6"),
            ("BITCOUNT b 5 30 BIT", ":17"),
            ("BITCOUNT b 6 5", ":0"),
            ("BITCOUNT none x", ":0"),
            ("BITPOS b 1", ":1"),
            ("BITPOS b 0", ":0"),
            ("BITPOS b 1 7 -1 BIT", ":9"),
            ("BITPOS none 0", ":0"),
            ("BITPOS none 1", ":-1"),
            ("BITPOS b 2", "-ERR The bit argument must be 1 or 0."),
        ]);
        node.ask_bytes_as_first(&[b"SET", b"ones", b"\xff\xff"]);
        node.expect(&[("BITPOS ones 0", ":16"), ("BITPOS ones 0 0 -1", ":-1"), ("BITPOS ones 0 1", ":16")]);
    }

    #[test]
    fn strings_are_combined_and_each_source_is_read_once() {
        let mut node = Node::new();
        node.line("SET a abc");
        node.line("SET b ab");
        node.expect(&[
            ("BITOP AND d a b", ":3"),
            ("GETRANGE d 0 1", "$2 ab"),
            ("BITOP XOR d a a a", ":3"),
            ("GET d", "$3 abc"),
            ("BITOP XOR d a a", ":3"),
            ("BITCOUNT d", ":0"),
            ("BITOP NOT d a", ":3"),
            ("BITOP NOT d d", ":3"),
            ("GET d", "$3 abc"),
            ("OBJECT ENCODING d", "$3 raw"),
            ("BITOP NOT d a b", "-ERR BITOP NOT must be called with a single source key."),
            ("BITOP OR d none other", ":0"),
            ("EXISTS d", ":0"),
        ]);
    }

    #[test]
    fn fields_wrap_saturate_or_fail_as_asked() {
        Node::new().expect(&[
            ("BITFIELD b SET u8 0 255 GET u4 0 GET i4 0 GET u8 #1", "*4 :0 :15 :-1 :0"),
            ("BITFIELD b INCRBY u8 0 10", "*1 :9"),
            ("BITFIELD b OVERFLOW SAT INCRBY u8 0 1000 OVERFLOW FAIL INCRBY u8 0 1", "*2 :255 $-1"),
            ("BITFIELD b SET i64 64 -9223372036854775808 OVERFLOW SAT INCRBY i64 64 -1", "*2 :0 :-9223372036854775808"),
            ("BITFIELD b OVERFLOW WRAP INCRBY i64 64 -1", "*1 :9223372036854775807"),
            (
                "BITFIELD b GET u64 0",
                "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            ),
            ("BITFIELD b OVERFLOW NOW", "-ERR Invalid OVERFLOW type specified"),
            ("BITFIELD_RO b SET u8 0 1", "-ERR BITFIELD_RO only supports the GET subcommand"),
            ("BITFIELD_RO b GET u8 0", "*1 :255"),
            ("BITFIELD none GET u8 0", "*1 :0"),
            ("EXISTS none", ":0"),
            ("BITFIELD b", "*0"),
        ]);
    }
}
