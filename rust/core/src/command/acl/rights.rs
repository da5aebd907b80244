//! Which commands may be run: a bit for each row of the table, changed and told by rules such as
//! `+@read`, `-keys`, `+config|get`, `+select|0`.

use super::user::Wrong;
use crate::command::introspect::{CATEGORIES, everything, full_name, in_category};
use crate::command::table::{self, Command};
use crate::resp::Args;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A set of rows, by their places in the statistics.
#[derive(Clone, Default, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn filled(count: usize, value: bool) -> Bits {
        Bits(vec![if value { u64::MAX } else { 0 }; count.div_ceil(64)])
    }

    #[inline]
    fn has(&self, place: u32) -> bool {
        self.0.get(place as usize / 64).is_some_and(|word| word >> (place % 64) & 1 != 0)
    }

    fn set(&mut self, place: u32, value: bool) {
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word = *word & !(1 << (place % 64)) | u64::from(value) << (place % 64);
        }
    }

    fn shared(&self, other: &Bits) -> u32 {
        self.0.iter().zip(&other.0).map(|(one, other)| (one & other).count_ones()).sum()
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// The rows of each category.
fn categories() -> &'static [(&'static str, Bits)] {
    static BITS: OnceLock<Vec<(&'static str, Bits)>> = OnceLock::new();
    BITS.get_or_init(|| {
        let of = |category| {
            let mut bits = Bits::filled(table::count(), false);
            for (place, (_, row)) in everything().enumerate() {
                bits.set(place as u32, in_category(row, category));
            }
            bits
        };
        CATEGORIES.iter().map(|&category| (category, of(category))).collect()
    })
}

/// See the module's page.
#[derive(Clone, Default)]
pub struct Rights {
    /// All commands, those to come as well.
    unlimited: bool,
    /// Began with all: commands to come are allowed.
    future: bool,
    bits: Bits,
    /// First arguments with which a command may be run that may not be run otherwise.
    first_arguments: BTreeMap<u32, Vec<Box<[u8]>>>,
}

impl Rights {
    /// To run nothing.
    pub fn none(count: usize) -> Rights {
        Rights { bits: Bits::filled(count, false), ..Rights::default() }
    }

    /// To run everything.
    pub fn all(count: usize) -> Rights {
        Rights { unlimited: true, future: true, bits: Bits::filled(count, true), ..Rights::default() }
    }

    /// Whether every command may be run.
    pub fn are_unlimited(&self) -> bool {
        self.unlimited
    }

    /// Whether a request may be run, its keys aside.
    pub fn allow(&self, place: u32, args: &Args<'_>) -> bool {
        self.unlimited
            || self.bits.has(place)
            || self.first_arguments.get(&place).is_some_and(|allowed| {
                args.get(1).is_some_and(|first| allowed.iter().any(|each| each.eq_ignore_ascii_case(first)))
            })
    }

    /// Take over a rule that begins with `+` or `-`.
    pub fn apply(&mut self, rule: &[u8]) -> Result<(), Wrong> {
        let (allow, name) = (rule[0] == b'+', &rule[1..]);
        if let Some(category) = name.strip_prefix(b"@") {
            return self.change_category(category, allow);
        }
        let Some(at) = name.iter().rposition(|&byte| byte == b'|').filter(|_| allow) else {
            let (row, place) = table::named(name).ok_or(Wrong::Unknown)?;
            self.change(place, row, allow);
            return Ok(());
        };
        let (command, argument) = (&name[..at], &name[at + 1..]);
        let (row, place) = table::named(command).ok_or(Wrong::Unknown)?;
        if command.contains(&b'|') {
            return Err(Wrong::TooDeep);
        }
        if argument.is_empty() {
            return Err(Wrong::Syntax);
        }
        if row.subcommands.is_empty() {
            let allowed = self.first_arguments.entry(place).or_default();
            if !allowed.iter().any(|each| each.eq_ignore_ascii_case(argument)) {
                allowed.push(argument.into());
            }
        } else {
            let (row, place) = table::named(name).ok_or(Wrong::Unknown)?;
            self.change(place, row, true);
        }
        Ok(())
    }

    fn change_category(&mut self, name: &[u8], allow: bool) -> Result<(), Wrong> {
        let known = categories().iter().find(|(each, _)| each.as_bytes().eq_ignore_ascii_case(name));
        let (_, bits) = known.ok_or(Wrong::Unknown)?;
        for (place, (_, row)) in everything().enumerate() {
            if bits.has(place as u32) {
                self.change(place as u32, row, allow);
            }
        }
        Ok(())
    }

    /// Allow or forbid a row with all its sub-commands.
    fn change(&mut self, place: u32, row: &Command, allow: bool) {
        for place in place..=place + row.subcommands.len() as u32 {
            self.bits.set(place, allow);
        }
        self.first_arguments.remove(&place);
        self.unlimited &= allow;
    }

    /// The rules that make these rights: categories as far as they fit, then single commands.
    pub fn told(&self) -> String {
        let mut rules = vec![if self.future { "+@all" } else { "-@all" }.to_owned()];
        // What the rules told so far make, and what is still to be told.
        let mut made = if self.future { Rights::all(table::count()) } else { Rights::none(table::count()) };
        let mut rest = self.clone();
        let mut told = vec![false; categories().len()];
        loop {
            let mut best: Option<(usize, u32, u32)> = None;
            for (at, (_, bits)) in categories().iter().enumerate().filter(|(at, _)| !told[*at]) {
                let on = rest.bits.shared(bits);
                let off = bits.len() - on;
                let (same, different) = if self.future { (off, on) } else { (on, off) };
                let better =
                    best.is_none_or(|(_, fewest, most)| different < fewest || (different == fewest && same > most));
                if same > different && better {
                    best = Some((at, different, same));
                }
            }
            let Some((at, ..)) = best else { break };
            let name = categories()[at].0;
            let _ = made.change_category(name.as_bytes(), !self.future); // Of the table's own categories.
            let _ = rest.change_category(name.as_bytes(), self.future);
            rules.push(format!("{}@{name}", if self.future { '-' } else { '+' }));
            told[at] = true;
        }
        for (place, (parent, row)) in everything().enumerate() {
            let (place, name) = (place as u32, full_name(parent, row));
            let allowed = self.bits.has(place);
            if allowed != made.bits.has(place) {
                rules.push(format!("{}{name}", if allowed { '+' } else { '-' }));
                made.change(place, row, allowed);
            }
            if let Some(arguments) = self.first_arguments.get(&place).filter(|_| !allowed) {
                rules.extend(arguments.iter().map(|each| format!("+{name}|{}", String::from_utf8_lossy(each))));
            }
        }
        rules.join(" ")
    }
}

#[test]
fn rights_come_and_go_with_categories_and_single_commands() {
    let mut rights = Rights::none(table::count());
    let get = table::named(b"get").map_or(0, |(_, place)| place);
    let none = crate::resp::OwnedArgs::from_parts([]);
    assert!(!rights.allow(get, &none.as_args()));
    for (rule, allowed) in [("+@read", true), ("-get", false), ("+GET", true), ("-@string", false), ("+get|x", false)] {
        assert_eq!(rights.apply(rule.as_bytes()), Ok(()), "{rule}");
        assert_eq!(rights.allow(get, &none.as_args()), allowed, "{rule}");
    }
    let with_first = crate::resp::OwnedArgs::from_parts([&b"get"[..], b"X"]);
    assert!(rights.allow(get, &with_first.as_args()));
    for (rule, wrong) in [
        ("+nosuch", Wrong::Unknown),
        ("+@nosuch", Wrong::Unknown),
        ("-config|nosuch", Wrong::Unknown),
        ("-get|x", Wrong::Unknown),
        ("+config|get|x", Wrong::TooDeep),
        ("+get|", Wrong::Syntax),
    ] {
        assert_eq!(rights.apply(rule.as_bytes()), Err(wrong), "{rule}");
    }
}
