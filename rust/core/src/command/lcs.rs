//! LCS: the longest text that two strings share, its parts not necessarily adjacent.

use super::Ctx;
use super::fault::{Done, Fault};
use super::settings::Name;
use super::table::{Command, READ, flag, keys};
use crate::resp::{Args, Reply};
use crate::store::Kind;

/// The family.
pub const COMMANDS: &[Command] = &[Command {
    group: "string",
    since: "7.0.0",
    summary: "Finds the longest text that two strings have in common.",
    syntax: "key1 key2 [LEN] [IDX] [MINMATCHLEN len] [WITHMATCHLEN]",
    keys: &[keys(1, 1, 1, READ)],
    ..Command::new("lcs", lcs, -3, flag::READONLY)
}];

#[derive(Default)]
struct Options {
    only_length: bool,
    places: bool,
    shortest: i64,
    lengths: bool,
}

fn lcs(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    // As in Redis, values are looked at before options are.
    let one = text_of(ctx, args.at(1))?;
    let other = text_of(ctx, args.at(2))?;
    let mut options = Options::default();
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "IDX") {
            options.places = true;
        } else if args.is(at, "LEN") {
            options.only_length = true;
        } else if args.is(at, "WITHMATCHLEN") {
            options.lengths = true;
        } else if args.is(at, "MINMATCHLEN") && at + 1 < args.len() {
            options.shortest = args.integer(at + 1)?.max(0);
            at += 1;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    if options.places && options.only_length {
        return Err(Fault::new("ERR If you want both the length and indexes, please just use IDX."));
    }
    let limit = ctx.engine.settings.size(Name::proto_max_bulk_len);
    let cells = (one.len() + 1).saturating_mul(other.len() + 1);
    if cells.saturating_mul(4) > limit {
        return Err(Fault::new("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"));
    }
    let table = Table::new(&one, &other);
    if options.only_length {
        ctx.out.integer(i64::from(table.at(one.len(), other.len())));
    } else if options.places {
        write_places(ctx.out, &table.matches(&one, &other), &options, table.at(one.len(), other.len()));
    } else {
        let shared: Vec<u8> = table
            .matches(&one, &other)
            .iter()
            .rev()
            .flat_map(|found| one[found.one.0..=found.one.1].iter().copied())
            .collect();
        ctx.out.bulk(&shared);
    }
    Ok(())
}

fn text_of(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<Vec<u8>, Fault> {
    let found =
        ctx.read(name, Kind::String).map_err(|_| Fault::new("ERR The specified keys must contain string values"))?;
    Ok(found.map(|found| ctx.engine.store.text(found).to_vec()).unwrap_or_default())
}

/// For each pair of beginnings, the length of what they share.
struct Table {
    cells: Vec<u32>,
    width: usize,
}

/// A part that both have, by first and last place in each.
struct Match {
    one: (usize, usize),
    other: (usize, usize),
}

impl Table {
    fn new(one: &[u8], other: &[u8]) -> Table {
        let width = other.len() + 1;
        let mut cells = vec![0u32; (one.len() + 1) * width];
        for (row, &a) in one.iter().enumerate() {
            let (above, below) = cells[row * width..(row + 2) * width].split_at_mut(width);
            for (column, &b) in other.iter().enumerate() {
                below[column + 1] = if a == b { above[column] + 1 } else { above[column + 1].max(below[column]) };
            }
        }
        Table { cells, width }
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.cells[row * self.width + column]
    }

    /// The shared parts, from the end to the beginning.
    fn matches(&self, one: &[u8], other: &[u8]) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        let (mut row, mut column) = (one.len(), other.len());
        let mut joined = false;
        while row > 0 && column > 0 {
            if one[row - 1] == other[column - 1] {
                row -= 1;
                column -= 1;
                match found.last_mut().filter(|_| joined) {
                    Some(last) => (last.one.0, last.other.0) = (row, column),
                    None => found.push(Match { one: (row, row), other: (column, column) }),
                }
                joined = true;
            } else {
                joined = false;
                if self.at(row - 1, column) > self.at(row, column - 1) {
                    row -= 1;
                } else {
                    column -= 1;
                }
            }
        }
        found
    }
}

fn write_places(out: &mut Reply, matches: &[Match], options: &Options, length: u32) {
    let shown: Vec<&Match> =
        matches.iter().filter(|found| (found.one.1 - found.one.0 + 1) as i64 >= options.shortest).collect();
    out.map(2);
    out.bulk(b"matches");
    out.array(shown.len());
    for found in shown {
        out.array(2 + usize::from(options.lengths));
        for (first, last) in [found.one, found.other] {
            out.array(2);
            out.count(first);
            out.count(last);
        }
        if options.lengths {
            out.count(found.one.1 - found.one.0 + 1);
        }
    }
    out.bulk(b"len");
    out.integer(i64::from(length));
}

#[test]
fn what_two_strings_share_is_found_with_its_places() {
    super::testing::Node::new().expect(&[
        ("MSET key1 ohmytext key2 mynewtext", "+OK"),
        ("LCS key1 key2", "$6 mytext"),
        ("LCS key1 key2 LEN", ":6"),
        ("LCS key1 key2 IDX", "*4 $7 matches *2 *2 *2 :4 :7 *2 :5 :8 *2 *2 :2 :3 *2 :0 :1 $3 len :6"),
        ("LCS key1 key2 IDX MINMATCHLEN 4 WITHMATCHLEN", "*4 $7 matches *1 *3 *2 :4 :7 *2 :5 :8 :4 $3 len :6"),
        ("LCS key1 none", "$0"),
        ("LCS key1 key2 LEN IDX", "-ERR If you want both the length and indexes, please just use IDX."),
        ("LCS key1 key2 FOO", "-ERR syntax error"),
        ("SADD set a", ":1"),
        ("LCS key1 set", "-ERR The specified keys must contain string values"),
    ]);
}
