//! DEBUG: what test suites need of a server, behind `enable-debug-command`.

use super::fault::{Done, Fault};
use super::table::{Command, flag};
use super::{Ctx, objects, server};
use crate::resp::number::parse_f64;
use crate::resp::{Args, Reply};
use crate::store::{Keep, Kind};
use std::time::Duration;

/// The family.
pub const COMMANDS: &[Command] = &[Command {
    summary: "Helps those who test the node.",
    syntax: "subcommand [arg ...]",
    ..Command::new("debug", debug, -2, flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::PROTECTED)
}];

const HELP: &[&str] = &[
    "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DAMAGE <key> [<value>]",
    "    Has this node alone hold a string under a key, or nothing, as a fault would: copies and logs are not told.",
    "ERROR <text>",
    "    Answers this error.",
    "LOG <text>",
    "    Writes the text to the log.",
    "OBJECT <key>",
    "    Tells how the value of a key is kept.",
    "POPULATE <count> [<prefix>] [<size>]",
    "    Puts so many strings that are not there yet.",
    "PROTOCOL <type>",
    "    Answers a value of this protocol type.",
    "SET-ACTIVE-EXPIRE <0|1>",
    "    Says whether expired keys are looked for in the background.",
    "SLEEP <seconds>",
    "    Serves nobody for so long.",
    "HELP",
    "    Lists the sub-commands.",
];

fn debug(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let word = String::from_utf8_lossy(args.at(1)).to_lowercase();
    match (word.as_str(), args.len()) {
        ("help", 2) => {
            ctx.out.array(HELP.len());
            HELP.iter().for_each(|line| ctx.out.status(line));
        }
        ("sleep", 3) => {
            // As in Redis: what is no number counts as zero. A bound, because nobody could end it.
            let seconds = parse_f64(args.at(2)).unwrap_or(0.0).clamp(0.0, 3600.0);
            std::thread::sleep(Duration::from_secs_f64(seconds));
            ctx.out.ok();
        }
        ("damage", 3 | 4) => {
            match args.get(3) {
                Some(value) => ctx.put_text(args.at(2), value, Keep::Nothing)?,
                None => {
                    let found = ctx.engine.store.find_any(ctx.client.database, args.at(2)).ok_or(Fault::NO_KEY)?;
                    ctx.engine.store.remove(found);
                }
            }
            ctx.out.ok();
        }
        ("error", 3) => return Err(Fault::bytes(args.at(2).to_vec())),
        ("set-active-expire", 3) => {
            ctx.engine.active_expiry = args.at(2) != b"0";
            ctx.out.ok();
        }
        // Lists pack their elements by settings of their own: the threshold is taken and changes nothing one could see.
        ("quicklist-packed-threshold" | "listpack-packed-threshold", 3) => ctx.out.ok(),
        ("log", 3) => {
            eprintln!("DEBUG LOG: {}", String::from_utf8_lossy(args.at(2)));
            ctx.out.ok();
        }
        ("object", 3) => object(ctx, args)?,
        ("populate", 3..=5) => populate(ctx, args)?,
        ("protocol", 3) => protocol(ctx.out, args.at(2))?,
        ("reload" | "loadaof" | "restart" | "crash-and-recover", _) => {
            return Err(Fault::new(format!(
                "ERR DEBUG {} is not available: this node keeps its data in memory only",
                word.to_uppercase()
            )));
        }
        _ => return Err(server::unknown_subcommand_or_arity("DEBUG", args.at(1))),
    }
    Ok(())
}

fn object(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.look(args.at(2)) else {
        return Err(Fault::NO_KEY);
    };
    let store = &ctx.engine.store;
    let size = if store.kind(found) == Kind::String { store.text(found).len() + 1 } else { store.cost(found) };
    let entry = store.entry(found);
    let text = format!(
        "Value at:0x{:012x} refcount:1 encoding:{} serializedlength:{size} lru:{} lru_seconds_idle:{}",
        entry.access(),
        objects::encoding_of(store, found),
        entry.access(),
        store.idle_seconds(found)
    );
    ctx.out.status(&text);
    Ok(())
}

fn populate(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let count = args.integer_within(2, 0, i64::MAX, Fault::NOT_POSITIVE)?;
    let prefix = args.get(3).unwrap_or(b"key");
    let size = if args.len() > 4 { args.integer_within(4, 0, 1 << 29, Fault::NOT_POSITIVE)? as usize } else { 0 };
    for number in 0..count {
        if !ctx.engine.make_room() {
            return Err(Fault::OUT_OF_MEMORY);
        }
        let mut name = prefix.to_vec();
        name.extend_from_slice(format!(":{number}").as_bytes());
        if ctx.look(&name).is_none() {
            let mut value = format!("value:{number}").into_bytes();
            if size > 0 {
                value.resize(size, 0);
            }
            ctx.put_text(&name, &value, Keep::Nothing)?;
            ctx.engine.changes += 1;
        }
    }
    ctx.out.ok();
    Ok(())
}

fn protocol(out: &mut Reply, kind: &[u8]) -> Done {
    match kind.to_ascii_lowercase().as_slice() {
        b"string" => out.bulk(b"Hello World"),
        b"integer" => out.integer(12345),
        b"double" => out.double(3141.0 / 1000.0),
        b"null" => out.null(),
        b"array" => {
            out.array(3);
            (0..3).for_each(|number| out.integer(number));
        }
        b"set" => {
            out.set(3);
            (0..3).for_each(|number| out.integer(number));
        }
        b"map" => {
            out.map(3);
            for number in 0..3 {
                out.integer(number);
                out.boolean(number == 1);
            }
        }
        b"attrib" if out.resp3() => {
            out.raw(b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n");
            out.bulk(b"Some real reply following the attribute");
        }
        b"attrib" => out.bulk(b"Some real reply following the attribute"),
        b"push" if out.resp3() => {
            out.push(2);
            out.bulk(b"server-cpu-usage");
            out.integer(42);
            out.bulk(b"Some real reply following the push reply");
        }
        b"push" => return Err(Fault::new("ERR RESP2 is not supported by this command")),
        b"verbatim" => out.verbatim(b"This is a verbatim\nstring"),
        b"bignum" if out.resp3() => out.raw(b"(1234567999999999999999999999999999999\r\n"),
        b"bignum" => out.bulk(b"1234567999999999999999999999999999999"),
        b"true" => out.boolean(true),
        b"false" => out.boolean(false),
        _ => {
            return Err(Fault::new(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

#[test]
fn debug_is_refused_unless_the_setting_allows_it() {
    let mut node = super::testing::Node::new();
    assert!(node.line("DEBUG SLEEP 0").starts_with("-ERR DEBUG command not allowed."));
    let mut node = super::testing::Node::with(&[("enable-debug-command", "yes")]);
    node.expect(&[
        ("DEBUG SLEEP 0", "+OK"),
        ("DEBUG FOO", "-ERR unknown subcommand or wrong number of arguments for 'FOO'. Try DEBUG HELP."),
        ("DEBUG OBJECT none", "-ERR no such key"),
        ("DEBUG POPULATE 3 p 5", "+OK"),
        ("STRLEN p:2", ":5"),
        ("DBSIZE", ":3"),
        ("DEBUG SET-ACTIVE-EXPIRE 0", "+OK"),
        ("DEBUG RELOAD", "-ERR DEBUG RELOAD is not available: this node keeps its data in memory only"),
        ("DEBUG PROTOCOL map", "*6 :0 :0 :1 :1 :2 :0"),
    ]);
    assert!(!node.engine.active_expiry);
    assert!(node.line("DEBUG OBJECT p:1").contains(" encoding:embstr serializedlength:6 "));
}
