//! The command table: the only place that knows a command's name, arity, keys and flags.
//!
//! Each family of commands brings its rows in a file of its own; they are joined here.
//! COMMAND, arity checks, key extraction, statistics and the documentation read them.

use super::{Ctx, fault::Done};
use crate::resp::Args;
use std::sync::OnceLock;

/// A handler: writes the reply to a request into `ctx.out`, or says what is wrong.
pub type Handler = fn(&mut Ctx<'_>, &Args<'_>) -> Done;

/// A row.
pub struct Command {
    /// The name, in lower case; of a sub-command its own part only.
    pub name: &'static str,
    /// What runs it.
    pub run: Handler,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// [`flag`]s.
    pub flags: u32,
    /// Where its keys are.
    pub keys: &'static [KeySpec],
    /// The family, as COMMAND DOCS names it.
    pub group: &'static str,
    /// The version of Redis that brought it.
    pub since: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Its arguments: `key [EX seconds | PX ms] [field value ...]`.
    pub syntax: &'static str,
    /// Rows of its sub-commands; the command itself then only passes on.
    pub subcommands: &'static [Command],
}

/// Properties of commands, under the names COMMAND INFO gives them.
#[allow(missing_docs)]
pub mod flag {
    pub const WRITE: u32 = 1;
    pub const READONLY: u32 = 1 << 1;
    pub const DENYOOM: u32 = 1 << 2;
    pub const ADMIN: u32 = 1 << 3;
    pub const PUBSUB: u32 = 1 << 4;
    pub const NOSCRIPT: u32 = 1 << 5;
    pub const BLOCKING: u32 = 1 << 6;
    pub const LOADING: u32 = 1 << 7;
    pub const STALE: u32 = 1 << 8;
    pub const SKIP_MONITOR: u32 = 1 << 9;
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    pub const ASKING: u32 = 1 << 11;
    pub const FAST: u32 = 1 << 12;
    pub const NO_AUTH: u32 = 1 << 13;
    pub const MAY_REPLICATE: u32 = 1 << 14;
    pub const NO_MULTI: u32 = 1 << 15;
    pub const MOVABLE_KEYS: u32 = 1 << 16;
    pub const ALLOW_BUSY: u32 = 1 << 17;
    pub const NO_ASYNC_LOADING: u32 = 1 << 18;
    pub const NO_MANDATORY_KEYS: u32 = 1 << 19;
    pub const PROTECTED: u32 = 1 << 20;
    /// Not told by COMMAND: adds the ACL category `dangerous`.
    pub const DANGEROUS: u32 = 1 << 21;
    /// Not told by COMMAND: adds the ACL category `keyspace`.
    pub const KEYSPACE: u32 = 1 << 22;
    /// Not told by COMMAND: adds the ACL category `connection`.
    pub const CONNECTION: u32 = 1 << 23;
    /// Not told by COMMAND: adds the ACL category `transaction`.
    pub const TRANSACTION: u32 = 1 << 24;
    /// Not told by COMMAND: adds the ACL category `scripting`.
    pub const SCRIPTING: u32 = 1 << 25;
    /// Not told by COMMAND: adds the ACL category `admin`, and with it `dangerous`.
    pub const OPERATOR: u32 = 1 << 26;
    /// Not told by COMMAND: adds the ACL categories `list`, `set` and `sortedset`.
    pub const SORTABLE: u32 = 1 << 27;

    /// Not told by COMMAND: who waits with it is told when the key goes away.
    pub const NEEDS_KEY: u32 = 1 << 30;

    /// The names COMMAND INFO answers, in the order of Redis.
    pub const NAMES: [(&str, u32); 20] = [
        ("write", WRITE),
        ("readonly", READONLY),
        ("denyoom", DENYOOM),
        ("module", 0),
        ("admin", ADMIN),
        ("pubsub", PUBSUB),
        ("noscript", NOSCRIPT),
        ("blocking", BLOCKING),
        ("loading", LOADING),
        ("stale", STALE),
        ("skip_monitor", SKIP_MONITOR),
        ("skip_slowlog", SKIP_SLOWLOG),
        ("asking", ASKING),
        ("fast", FAST),
        ("no_auth", NO_AUTH),
        ("no_mandatory_keys", NO_MANDATORY_KEYS),
        ("no_async_loading", NO_ASYNC_LOADING),
        ("no_multi", NO_MULTI),
        ("movablekeys", MOVABLE_KEYS),
        ("allow_busy", ALLOW_BUSY),
    ];
}

/// What a command does with a key, under the names of COMMAND's key specifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse(pub &'static [&'static str]);

/// Where a command's keys are.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// What is done with them.
    pub uses: KeyUse,
    /// Where they begin.
    pub begin: Begin,
    /// How they go on.
    pub find: Find,
}

/// Where keys begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    At(i32),
    /// After this word, looked for from this argument on.
    After(&'static str, i32),
    /// Nobody can tell from the table.
    Unknown,
}

/// How keys go on from where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// To the argument this far from the first (negative: from the last of all), every `step`th;
    /// a `limit` above one divides the rest by it.
    Range { last: i32, step: i32, limit: i32 },
    /// Their number stands at this offset, the first key at that one, every `step`th.
    Counted { number: i32, first: i32, step: i32 },
    /// Nobody can tell from the table.
    Unknown,
}

/// Read whole.
pub const READ: KeyUse = KeyUse(&["RO", "access"]);
/// Looked at without its value (type, time, length).
pub const LOOK: KeyUse = KeyUse(&["RO"]);
/// Changed, its value read.
pub const UPDATE: KeyUse = KeyUse(&["RW", "update"]);
/// Changed, its value read and returned.
pub const READ_UPDATE: KeyUse = KeyUse(&["RW", "access", "update"]);
/// Added to.
pub const INSERT: KeyUse = KeyUse(&["RW", "insert"]);
/// Returned and removed from.
pub const READ_DELETE: KeyUse = KeyUse(&["RW", "access", "delete"]);
/// Removed from.
pub const DELETE: KeyUse = KeyUse(&["RW", "delete"]);
/// Overwritten.
pub const OVERWRITE: KeyUse = KeyUse(&["OW", "update"]);
/// Overwritten, or inserted into as a destination.
pub const OVERWRITE_INSERT: KeyUse = KeyUse(&["OW", "insert"]);
/// Removed.
pub const REMOVE: KeyUse = KeyUse(&["RM", "delete"]);

/// One key at an argument.
pub const fn key(at: i32, uses: KeyUse) -> KeySpec {
    KeySpec { uses, begin: Begin::At(at), find: Find::Range { last: 0, step: 1, limit: 0 } }
}

/// Keys from an argument to another, counted from the first key (negative: from the end), every `step`th.
pub const fn keys(at: i32, last: i32, step: i32, uses: KeyUse) -> KeySpec {
    KeySpec { uses, begin: Begin::At(at), find: Find::Range { last, step, limit: 0 } }
}

/// A number of keys, and then the keys.
pub const fn counted_keys(at: i32, uses: KeyUse) -> KeySpec {
    KeySpec { uses, begin: Begin::At(at), find: Find::Counted { number: 0, first: 1, step: 1 } }
}

impl KeySpec {
    /// Whether the one key is the first argument.
    #[inline(always)]
    pub fn is_first_argument(&self) -> bool {
        matches!((self.begin, self.find), (Begin::At(1), Find::Range { last: 0, .. }))
    }
}

impl Command {
    /// A row without keys and sub-commands, to be completed by struct update.
    pub const fn new(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
        Command {
            name,
            run,
            arity,
            flags,
            keys: &[],
            group: "server",
            since: "1.0.0",
            summary: "",
            syntax: "",
            subcommands: &[],
        }
    }

    /// Whether a request with so many arguments, the name included, is complete.
    #[inline(always)]
    pub fn takes(&self, arguments: usize) -> bool {
        if self.arity >= 0 { arguments == self.arity as usize } else { arguments >= self.arity.unsigned_abs() as usize }
    }

    /// Whether the command has a property.
    #[inline(always)]
    pub fn is(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Whether the command may change keys: scripts may, unless they say that they only read.
    pub fn may_write(&self) -> bool {
        self.is(flag::WRITE | flag::MAY_REPLICATE) || (self.is(flag::SCRIPTING) && !self.name.ends_with("_ro"))
    }

    /// The row of a sub-command.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        self.subcommands.iter().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Which arguments are keys. `None` when the request is not of the form the table describes.
    pub fn key_arguments(&self, args: &Args<'_>) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        self.each_key(args, |at, _| found.push(at))?;
        Some(found)
    }

    /// As [`Command::key_arguments`], with the key that SORT stores in, of which the table says only that there may be one.
    pub fn every_key(&self, args: &Args<'_>) -> Option<Vec<usize>> {
        let mut found = self.key_arguments(args)?;
        if self.name == "sort" {
            let stores = (2..args.len().saturating_sub(1)).filter(|at| args.is(*at, "STORE"));
            found.extend(stores.map(|at| at + 1));
        }
        Some(found)
    }

    /// Visit the arguments that are keys, each with its specification. `None` when the request is not
    /// of the form the table describes.
    pub fn each_key(&self, args: &Args<'_>, mut visit: impl FnMut(usize, &KeySpec)) -> Option<()> {
        for spec in self.keys {
            let first = match spec.begin {
                Begin::At(at) => at as usize,
                Begin::After(word, from) => {
                    let matches = |index: &usize| args.at(*index).eq_ignore_ascii_case(word.as_bytes());
                    let hit = if from >= 0 {
                        (from as usize..args.len()).find(matches)
                    } else {
                        let start = args.len().saturating_sub(from.unsigned_abs() as usize);
                        (1..=start).rev().find(matches)
                    };
                    match hit {
                        Some(at) => at + 1,
                        None => continue,
                    }
                }
                Begin::Unknown => continue,
            };
            match spec.find {
                Find::Range { last, step, limit } => {
                    let end = if last >= 0 {
                        first + last as usize
                    } else {
                        let rest = args.len().saturating_sub(first);
                        let rest = if limit > 1 { rest / limit as usize } else { rest };
                        (first + rest).checked_sub(last.unsigned_abs() as usize)?
                    };
                    if end >= args.len() || end < first {
                        return None;
                    }
                    (first..=end).step_by(step.max(1) as usize).for_each(|at| visit(at, spec));
                }
                Find::Counted { number, first: offset, step } => {
                    let count = args.get(first + number as usize).and_then(crate::resp::number::parse_i64);
                    let count = usize::try_from(count?).ok()?;
                    let start = first + offset as usize;
                    let step = step.max(1) as usize;
                    if count > args.len() || (count > 0 && start + (count - 1) * step >= args.len()) {
                        return None;
                    }
                    (0..count).for_each(|index| visit(start + index * step, spec));
                }
                Find::Unknown => {}
            }
        }
        Some(())
    }
}

/// The families.
pub static FAMILIES: &[&[Command]] = &[
    super::connection::COMMANDS,
    super::strings::COMMANDS,
    super::lists::COMMANDS,
    super::hashes::COMMANDS,
    super::sets::COMMANDS,
    super::keys::COMMANDS,
    super::objects::COMMANDS,
    super::zsets::COMMANDS,
    super::streams::COMMANDS,
    super::transactions::COMMANDS,
    super::scripting::COMMANDS,
    super::scripting::functions::COMMANDS,
    super::pubsub::COMMANDS,
    super::introspect::COMMANDS,
    super::client_commands::COMMANDS,
    super::monitor::COMMANDS,
    super::config::COMMANDS,
    super::info::COMMANDS,
    super::latency::COMMANDS,
    super::admin::COMMANDS,
    super::memory::COMMANDS,
    super::acl::COMMANDS,
    super::cluster::COMMANDS,
    super::own::COMMANDS,
    super::debug::COMMANDS,
    super::lcs::COMMANDS,
    super::sort::COMMANDS,
    super::bits::COMMANDS,
    super::hyperloglog::COMMANDS,
    super::geo::COMMANDS,
    super::dump::COMMANDS,
];

/// All rows, without sub-commands.
pub fn all() -> impl Iterator<Item = &'static Command> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// How many places statistics need: one for each row and each sub-command.
pub fn count() -> usize {
    all().map(|row| 1 + row.subcommands.len()).sum()
}

/// Longest name of a command that is worth folding to lower case on the stack.
const LONGEST: usize = 32;

struct Lookup {
    slots: Vec<Option<(&'static Command, u32)>>,
    shift: u32,
}

/// The row of a command and its place in the statistics.
#[inline(always)]
pub fn find(name: &[u8]) -> Option<(&'static Command, u32)> {
    static LOOKUP: OnceLock<Lookup> = OnceLock::new();
    let lookup = LOOKUP.get_or_init(build);
    if name.is_empty() || name.len() > LONGEST {
        return None;
    }
    let mut at = (mix(name) >> lookup.shift) as usize;
    loop {
        let (row, place) = lookup.slots[at]?;
        if row.name.len() == name.len() && row.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some((row, place));
        }
        at = (at + 1) % lookup.slots.len();
    }
}

/// The row of a name such as `get` or `config|get`, and its place.
pub fn named(name: &[u8]) -> Option<(&'static Command, u32)> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let (row, place) = find(parts.next()?)?;
    match parts.next() {
        None => Some((row, place)),
        Some(child) => row.subcommand(child).map(|child| (child, place_of_subcommand(place, row, child))),
    }
}

/// Where the statistics of a sub-command are.
pub fn place_of_subcommand(parent_place: u32, parent: &Command, row: &Command) -> u32 {
    let index = parent.subcommands.iter().position(|each| std::ptr::eq(each, row)).unwrap_or(0);
    parent_place + 1 + index as u32
}

/// A hash of the first eight letters, whatever their case, and of the length.
#[inline(always)]
fn mix(name: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    let len = name.len().min(8);
    word[..len].copy_from_slice(&name[..len]);
    let last = name[name.len() - 1] | 0x20;
    let folded = u64::from_le_bytes(word) | 0x2020_2020_2020_2020;
    (folded ^ (name.len() as u64) << 56 ^ u64::from(last) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn build() -> Lookup {
    let size = (count() * 4).next_power_of_two();
    let shift = 64 - size.trailing_zeros();
    let mut slots = vec![None; size];
    let mut place = 0;
    for row in all() {
        let mut at = (mix(row.name.as_bytes()) >> shift) as usize;
        while slots[at].is_some() {
            at = (at + 1) % size;
        }
        slots[at] = Some((row, place));
        place += 1 + row.subcommands.len() as u32;
    }
    Lookup { slots, shift }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_whatever_its_case() {
        for row in all() {
            for name in [row.name.to_owned(), row.name.to_uppercase()] {
                let (found, _) = find(name.as_bytes()).expect(row.name);
                assert!(std::ptr::eq(found, row), "{name}");
            }
            assert!(row.name.len() <= LONGEST);
        }
        assert!(find(b"nosuchcommand").is_none());
        assert!(find(b"").is_none());
    }

    #[test]
    fn every_row_is_complete() {
        for row in all().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            assert!(!row.summary.is_empty(), "{} lacks a summary", row.name);
            assert!(row.arity != 0, "{} lacks an arity", row.name);
        }
    }
}
