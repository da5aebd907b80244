//! HyperLogLog: how many different elements were seen, within a percent, in 12 KiB at most.
//!
//! The value is a string; what its bytes mean is in [`registers`].

mod registers;

use super::Ctx;
use super::fault::{Done, Fault};
use super::notify::STRING;
use super::settings::Name;
use super::table::{Command, Handler, KeyUse, READ, flag, key, keys};
use crate::resp::Args;
use crate::store::{Found, Keep, Kind};
use registers::{Corrupt, REGISTERS};

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "hyperloglog", since: "2.8.9", ..Command::new(name, run, arity, flags) }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds elements to a HyperLogLog.",
        syntax: "key [element [element ...]]",
        keys: &[key(1, super::table::INSERT)],
        ..row("pfadd", pfadd, -2, flag::WRITE | flag::DENYOOM | flag::FAST)
    },
    Command {
        summary: "Answers about how many different elements were added to one or more HyperLogLogs.",
        syntax: "key [key ...]",
        keys: &[keys(1, -1, 1, KeyUse(&["RW", "access"]))],
        ..row("pfcount", pfcount, -2, flag::READONLY | flag::MAY_REPLICATE)
    },
    Command {
        summary: "Merges HyperLogLogs into one.",
        syntax: "destkey [sourcekey [sourcekey ...]]",
        keys: &[key(1, KeyUse(&["RW", "access", "insert"])), keys(2, -1, 1, READ)],
        ..row("pfmerge", pfmerge, -2, flag::WRITE | flag::DENYOOM)
    },
    Command {
        summary: "Looks into a HyperLogLog.",
        syntax: "subcommand key",
        keys: &[key(2, KeyUse(&["RW", "access"]))],
        ..row("pfdebug", pfdebug, 3, flag::WRITE | flag::DENYOOM | flag::ADMIN)
    },
    Command {
        summary: "Checks that HyperLogLogs estimate as they should.",
        ..row("pfselftest", pfselftest, 1, flag::ADMIN)
    },
];

impl From<Corrupt> for Fault {
    fn from(_: Corrupt) -> Fault {
        Fault::new("INVALIDOBJ Corrupted HLL object detected")
    }
}

/// Refuse a string that is no HyperLogLog.
fn check(text: &[u8]) -> Done {
    if registers::is_valid(text) {
        Ok(())
    } else {
        Err(Fault::new("WRONGTYPE Key is not a valid HyperLogLog string value."))
    }
}

/// Find a HyperLogLog to read it.
fn read(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<Option<Found>, Fault> {
    let found = ctx.read(name, Kind::String)?;
    if let Some(found) = found {
        check(ctx.engine.store.text(found))?;
    }
    Ok(found)
}

/// Find a HyperLogLog to change it, or make one; whether it is new.
fn write(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<(Found, bool), Fault> {
    if let Some(found) = ctx.write(name, Kind::String)? {
        check(ctx.engine.store.text(found))?;
        return Ok((found, false));
    }
    let found = ctx.engine.store.insert_text(ctx.client.database, name, &registers::new(), Keep::Nothing)?;
    ctx.created(name);
    Ok((found, true))
}

fn pfadd(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    let most = ctx.engine.settings.size(Name::hll_sparse_max_bytes);
    let (mut found, mut changed) = write(ctx, name)?;
    let mut outcome = Ok(());
    ctx.engine.store.edit_text(&mut found, |text| {
        for element in args.from(2) {
            let (index, value) = registers::place(element);
            match registers::raise(text, index, value, most) {
                Ok(rose) => changed |= rose,
                Err(corrupt) => {
                    outcome = Err(corrupt);
                    break;
                }
            }
        }
        if changed {
            registers::forget_estimate(text);
        }
    })?;
    if changed {
        ctx.changed(name, STRING, "pfadd");
    }
    outcome?;
    ctx.out.integer(i64::from(changed));
    Ok(())
}

fn pfcount(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(1);
    if args.len() > 2 {
        let merged = merged(ctx, args)?.0;
        ctx.out.integer(registers::estimate_registers(&merged) as i64);
        return Ok(());
    }
    let Some(mut found) = read(ctx, name)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let text = ctx.engine.store.text(found);
    if let Some(estimate) = registers::cached(text) {
        ctx.out.integer(estimate as i64);
        return Ok(());
    }
    let estimate = registers::estimate(text)?;
    ctx.engine.store.edit_text(&mut found, |text| registers::cache(text, estimate))?;
    // The estimate is part of the value: copies of the key get it, and nobody is told.
    ctx.changed(name, 0, "");
    ctx.out.integer(estimate as i64);
    Ok(())
}

/// The registers of all keys from the first on, and whether one of them is dense.
fn merged(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Result<(Box<[u8; REGISTERS]>, bool), Fault> {
    let (mut all, mut dense) = (Box::new([0; REGISTERS]), false);
    let mut seen = std::collections::HashSet::new();
    for name in args.from(1) {
        if let Some(found) = read(ctx, name)?
            && seen.insert(name)
        {
            let text = ctx.engine.store.text(found);
            dense |= registers::is_dense(text);
            registers::merge(&mut all, text)?;
        }
    }
    Ok((all, dense))
}

fn pfmerge(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (merged, dense) = merged(ctx, args)?;
    let name = args.at(1);
    let most = ctx.engine.settings.size(Name::hll_sparse_max_bytes);
    let (mut found, _) = write(ctx, name)?;
    let mut outcome = Ok(());
    ctx.engine.store.edit_text(&mut found, |text| {
        outcome = if dense { registers::to_dense(text) } else { Ok(()) }.and_then(|()| {
            for (index, &value) in merged.iter().enumerate().filter(|(_, value)| **value > 0) {
                registers::raise(text, index, value, most)?;
            }
            Ok(())
        });
        registers::forget_estimate(text);
    })?;
    outcome?;
    ctx.changed(name, STRING, "pfadd");
    ctx.out.ok();
    Ok(())
}

fn pfdebug(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(2);
    let Some(mut found) = ctx.write(name, Kind::String)? else {
        return Err(Fault::new("ERR The specified key does not exist"));
    };
    let text = ctx.engine.store.text(found);
    check(text)?;
    let dense = registers::is_dense(text);
    if args.is(1, "ENCODING") {
        ctx.out.status(if dense { "dense" } else { "sparse" });
        return Ok(());
    }
    if args.is(1, "DECODE") {
        if dense {
            return Err(Fault::new("ERR HLL encoding is not sparse"));
        }
        let runs: Vec<String> = registers::runs(text)
            .map(|run| match run {
                run if run.value > 0 => format!("v:{},{}", run.value, run.len),
                run if run.bytes == 2 => format!("Z:{}", run.len),
                run => format!("z:{}", run.len),
            })
            .collect();
        ctx.out.bulk(runs.join(" ").as_bytes());
        return Ok(());
    }
    let lists_registers = args.is(1, "GETREG");
    if !lists_registers && !args.is(1, "TODENSE") {
        let mut text = b"ERR Unknown PFDEBUG subcommand '".to_vec();
        text.extend_from_slice(args.at(1));
        text.push(b'\'');
        return Err(Fault::bytes(text));
    }
    if !dense {
        let mut outcome = Ok(());
        ctx.engine.store.edit_text(&mut found, |text| outcome = registers::to_dense(text))?;
        outcome?;
        ctx.changed(name, 0, "");
    }
    if lists_registers {
        let Ctx { engine, out, .. } = ctx;
        let text = engine.store.text(found);
        out.array(REGISTERS);
        (0..REGISTERS).for_each(|index| out.integer(i64::from(registers::dense_get(text, index))));
    } else {
        ctx.out.integer(i64::from(!dense));
    }
    Ok(())
}

/// Adds numbers to one that becomes dense early and to one that never does, and compares both with each other and
/// the estimate with the truth, from one to a hundred thousand: ours to check, so Redis' ten million are too slow.
fn pfselftest(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let (mut dense, mut sparse) = (registers::new(), registers::new());
    registers::to_dense(&mut dense)?;
    let mut checkpoint = 1;
    for number in 1..=20_000u64 {
        let (index, value) = registers::place(&(number ^ 0x9E37_79B9_7F4A_7C15).to_le_bytes());
        registers::raise(&mut dense, index, value, 0)?;
        registers::raise(&mut sparse, index, value, if number <= 1000 { usize::MAX } else { 0 })?;
        if number == checkpoint {
            let (one, other) = (registers::estimate(&dense)?, registers::estimate(&sparse)?);
            // Six times the standard error of 0.81 %: a right one fails once in a hundred million runs.
            let most = (number as f64 * 0.0081 * 6.0).ceil() as u64 + 2;
            if one != other || one.abs_diff(number) > most {
                return Err(Fault::new(format!(
                    "ERR TESTFAILED {number} elements were estimated as {one} and {other}"
                )));
            }
            checkpoint *= 10;
        }
    }
    ctx.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    #[test]
    fn elements_are_counted_once() {
        let mut node = Node::new();
        node.expect(&[
            ("PFADD h a b c d e f g", ":1"),
            ("PFADD h a b", ":0"),
            ("PFCOUNT h", ":7"),
            ("PFADD other g h", ":1"),
            ("PFCOUNT h other", ":8"),
            ("PFMERGE all h other none", "+OK"),
            ("PFCOUNT all", ":8"),
            ("PFDEBUG ENCODING all", "+sparse"),
            ("PFDEBUG TODENSE all", ":1"),
            ("PFCOUNT all", ":8"),
            ("STRLEN all", ":12304"),
            ("PFADD empty", ":1"),
            ("PFADD empty", ":0"),
            ("PFDEBUG DECODE empty", "$7 Z:16384"),
            ("SET text abc", "+OK"),
            ("PFADD text a", "-WRONGTYPE Key is not a valid HyperLogLog string value."),
            ("PFDEBUG NOTHING h", "-ERR Unknown PFDEBUG subcommand 'NOTHING'"),
            ("PFSELFTEST", "+OK"),
        ]);
        for number in 0..5000 {
            node.line(&format!("PFADD many {number}"));
        }
        let counted = node.integer(&["PFCOUNT", "many"]);
        assert!((4800..5200).contains(&counted), "{counted}");
        assert_eq!(node.line("PFDEBUG ENCODING many"), "+dense");
    }

    #[test]
    fn runs_that_do_not_add_up_are_an_error() {
        let mut node = Node::new();
        for runs in [&b""[..], b"\x00", b"\x7f", b"\x7f\xff\x7f\xff", b"\x80", b"\x7f\xfe\x83"] {
            let text = [b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80", runs].concat();
            node.ask_bytes_as_first(&[b"SET", b"h", &text]);
            for line in ["PFCOUNT h", "PFCOUNT h h", "PFMERGE h h", "PFDEBUG GETREG h", "PFDEBUG DECODE h"] {
                let reply = node.line(line);
                assert!(reply.starts_with("-INVALIDOBJ") || line.contains("DECODE"), "{runs:?} {line}: {reply}");
            }
            for number in 0..200 {
                node.line(&format!("PFADD h {number}"));
            }
        }
    }
}
