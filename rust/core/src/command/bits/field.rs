//! BITFIELD and BITFIELD_RO: whole numbers of 1 to 64 bits anywhere within a string.

use super::{edit, offset};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::resp::number::parse_i64;
use crate::resp::{Args, Reply};
use crate::store::Kind;

/// What becomes of a number that does not fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    width: u32,
    at: usize,
}

struct Operation {
    action: Action,
    field: Field,
    overflow: Overflow,
}

pub fn bitfield(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, false)
}

pub fn bitfield_ro(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, true)
}

fn run(ctx: &mut Ctx<'_>, args: &Args<'_>, only_read: bool) -> Done {
    let operations = read_operations(ctx, args)?;
    let name = args.at(1);
    let last_bit = |operation: &Operation| operation.field.at + operation.field.width as usize - 1;
    let written = operations.iter().filter(|each| !matches!(each.action, Action::Get)).map(last_bit).max();
    let Some(written) = written else {
        let found = ctx.read(name, Kind::String)?;
        let text = found.map_or(&[][..], |found| ctx.engine.store.text(found));
        ctx.out.array(operations.len());
        for operation in &operations {
            ctx.out.integer(operation.field.get(text) as i64);
        }
        return Ok(());
    };
    if only_read {
        return Err(Fault::new("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    edit(ctx, name, written / 8 + 1, |out, text, fresh| {
        out.array(operations.len());
        let mut changed = false;
        for operation in &operations {
            changed |= apply(operation, text, fresh, out);
        }
        changed
    })
}

/// Do one operation and answer it; whether that changed the string.
fn apply(operation: &Operation, text: &mut [u8], fresh: bool, out: &mut Reply) -> bool {
    let field = operation.field;
    let old = field.get(text);
    let (wanted, is_set) = match operation.action {
        Action::Get => {
            out.integer(old as i64);
            return false;
        }
        Action::Add(increment) => (old + i128::from(increment), false),
        Action::Set(value) if field.signed => (i128::from(value), true),
        Action::Set(value) => (i128::from(value as u64), true),
    };
    let Some(new) = field.fit(wanted, operation.overflow) else {
        out.null();
        return false;
    };
    out.integer(if is_set { old } else { new } as i64);
    field.put(text, new);
    fresh || old != new
}

impl Field {
    /// The lowest and the highest number that fits.
    fn bounds(self) -> (i128, i128) {
        if self.signed {
            let half = 1i128 << (self.width - 1);
            (-half, half - 1)
        } else {
            (0, (1i128 << self.width) - 1)
        }
    }

    /// A number made to fit; `None` when it does not and shall not.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i128> {
        let (low, high) = self.bounds();
        if (low..=high).contains(&number) {
            return Some(number);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(number.clamp(low, high)),
            Overflow::Wrap => Some((number - low).rem_euclid(1i128 << self.width) + low),
        }
    }

    /// The number that stands in a string; what lies behind its end is zero.
    fn get(self, text: &[u8]) -> i128 {
        let (first, last) = (self.at / 8, (self.at + self.width as usize - 1) / 8);
        let joined = (first..=last).fold(0u128, |sum, at| sum << 8 | u128::from(text.get(at).copied().unwrap_or(0)));
        let behind = (last + 1) * 8 - (self.at + self.width as usize);
        let number = (joined >> behind & ((1u128 << self.width) - 1)) as i128;
        if number > self.bounds().1 { number - (1i128 << self.width) } else { number }
    }

    /// Write a number that fits into a string that is long enough.
    fn put(self, text: &mut [u8], number: i128) {
        for index in 0..self.width as usize {
            let at = self.at + index;
            let mask = 0x80u8 >> (at % 8);
            if number >> (self.width as usize - 1 - index) & 1 != 0 {
                text[at / 8] |= mask;
            } else {
                text[at / 8] &= !mask;
            }
        }
    }
}

fn read_operations(ctx: &Ctx<'_>, args: &Args<'_>) -> Result<Vec<Operation>, Fault> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while at < args.len() {
        let left = args.len() - at - 1;
        let is_get = args.is(at, "GET") && left >= 2;
        let is_set = args.is(at, "SET") && left >= 3;
        if args.is(at, "OVERFLOW") && left >= 1 {
            overflow = match () {
                () if args.is(at + 1, "WRAP") => Overflow::Wrap,
                () if args.is(at + 1, "SAT") => Overflow::Saturate,
                () if args.is(at + 1, "FAIL") => Overflow::Fail,
                () => return Err(Fault::new("ERR Invalid OVERFLOW type specified")),
            };
            at += 2;
            continue;
        }
        if !(is_get || is_set || args.is(at, "INCRBY") && left >= 3) {
            return Err(Fault::SYNTAX);
        }
        let (signed, width) = read_type(args.at(at + 1))?;
        let field = Field { signed, width, at: offset(ctx, args.at(at + 2), Some(width))? };
        let action = match () {
            () if is_get => Action::Get,
            () if is_set => Action::Set(args.integer(at + 3)?),
            () => Action::Add(args.integer(at + 3)?),
        };
        operations.push(Operation { action, field, overflow });
        at += if is_get { 3 } else { 4 };
    }
    Ok(operations)
}

/// `i16`, `u8`: whether it has a sign, and how many bits.
fn read_type(text: &[u8]) -> Result<(bool, u32), Fault> {
    let read = || {
        let (letter, digits) = text.split_first()?;
        let signed = match letter {
            b'i' => true,
            b'u' => false,
            _ => return None,
        };
        let width = parse_i64(digits)?;
        (1..=if signed { 64 } else { 63 }).contains(&width).then_some((signed, width as u32))
    };
    read().ok_or(Fault::new(
        "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
    ))
}
