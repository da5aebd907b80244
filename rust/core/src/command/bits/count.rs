//! BITCOUNT and BITPOS.

use super::bit;
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::resp::Args;
use crate::store::Kind;
use std::ops::Range;

/// Whether `start` and `end` count bits and not bytes.
fn counts_bits(args: &Args<'_>, at: usize) -> Result<bool, Fault> {
    match args.get(at) {
        None => Ok(false),
        Some(_) if args.is(at, "BIT") => Ok(true),
        Some(_) if args.is(at, "BYTE") => Ok(false),
        Some(_) => Err(Fault::SYNTAX),
    }
}

/// The bits that `start..=end` means in a string of `len` bytes.
fn bits(start: i64, end: i64, in_bits: bool, len: usize) -> Range<usize> {
    let total = if in_bits { len * 8 } else { len } as i64;
    let place = |index: i64| if index < 0 { index.saturating_add(total).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(total - 1));
    if start > end {
        return 0..0;
    }
    let unit = if in_bits { 1 } else { 8 };
    start as usize * unit..(end as usize + 1) * unit
}

pub fn bitcount(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::String)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let text = ctx.engine.store.text(found);
    let range = match args.len() {
        2 => 0..text.len() * 8,
        4 | 5 => {
            let (start, end) = (args.integer(2)?, args.integer(3)?);
            // As in Redis, a range that cannot be is empty before its unit is looked at.
            if start < 0 && end < 0 && start > end { 0..0 } else { bits(start, end, counts_bits(args, 4)?, text.len()) }
        }
        _ => return Err(Fault::SYNTAX),
    };
    ctx.out.count(count(text, range));
    Ok(())
}

/// How many bits of a range are set. The range lies within the text.
fn count(text: &[u8], range: Range<usize>) -> usize {
    if range.is_empty() {
        return 0;
    }
    let (first, last) = (range.start / 8, (range.end - 1) / 8);
    let (words, rest) = text[first..=last].as_chunks::<8>();
    let whole: usize = words.iter().map(|word| u64::from_ne_bytes(*word).count_ones() as usize).sum::<usize>()
        + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    let before = text[first] & !(0xFF >> (range.start % 8));
    let behind = text[last] & (0x7F >> ((range.end - 1) % 8));
    whole - (before.count_ones() + behind.count_ones()) as usize
}

pub fn bitpos(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let wanted = match args.integer(2)? {
        0 => false,
        1 => true,
        _ => return Err(Fault::new("ERR The bit argument must be 1 or 0.")),
    };
    let Some(found) = ctx.read(args.at(1), Kind::String)? else {
        ctx.out.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let text = ctx.engine.store.text(found);
    let (range, end_given) = match args.len() {
        3 => (0..text.len() * 8, false),
        4..=6 => {
            let start = args.integer(3)?;
            let in_bits = counts_bits(args, 5)?;
            let end = if args.len() > 4 { args.integer(4)? } else { -1 };
            (bits(start, end, in_bits, text.len()), args.len() > 4)
        }
        _ => return Err(Fault::SYNTAX),
    };
    let (empty, end) = (range.is_empty(), range.end);
    let place = match find(text, range, wanted) {
        Some(place) => place as i64,
        // Behind its end a string goes on with clear bits, unless the end was named.
        None if !wanted && !end_given && !empty => end as i64,
        None => -1,
    };
    ctx.out.integer(place);
    Ok(())
}

/// Where the first bit of a range is that is set, or clear. The range lies within the text.
fn find(text: &[u8], range: Range<usize>, wanted: bool) -> Option<usize> {
    let skipped = if wanted { 0 } else { 0xFF };
    let mut at = range.start;
    while at < range.end {
        if at.is_multiple_of(8) && text[at / 8] == skipped {
            let bytes = &text[at / 8..range.end.div_ceil(8)];
            let words = bytes.as_chunks::<8>().0;
            let skipped_word = u64::from_ne_bytes([skipped; 8]);
            let same = words.iter().take_while(|word| u64::from_ne_bytes(**word) == skipped_word).count() * 8;
            at += 8 * (same + bytes[same..].iter().take_while(|&&byte| byte == skipped).count());
            continue;
        }
        if bit(text, at) == wanted {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_bits_are_counted_and_searched_as_one_by_one() {
        let text: Vec<u8> = (0..40u32).map(|n| if n < 20 { 0 } else { (n * 37 % 256) as u8 }).collect();
        for start in 0..text.len() * 8 {
            for end in (start..text.len() * 8).step_by(7) {
                let set = (start..end).filter(|&at| bit(&text, at)).count();
                assert_eq!(count(&text, start..end), set, "{start}..{end}");
                for wanted in [false, true] {
                    let place = (start..end).find(|&at| bit(&text, at) == wanted);
                    assert_eq!(find(&text, start..end, wanted), place, "{start}..{end}");
                }
            }
        }
    }
}
