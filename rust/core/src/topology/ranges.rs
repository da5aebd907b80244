//! Sets of slots as text: `0-99,105,200-300`, ascending, without overlap.

use super::document::TopologyError;
use crate::slot::SLOT_COUNT;

/// Ascending slots to text. A run of two or more is written as `first-last`.
pub fn to_text(slots: impl IntoIterator<Item = u16>) -> String {
    let mut text = Vec::new();
    let mut run: Option<(u16, u16)> = None;
    for slot in slots {
        match run {
            Some((first, last)) if last + 1 == slot => run = Some((first, slot)),
            _ => {
                push(&mut text, run);
                run = Some((slot, slot));
            }
        }
    }
    push(&mut text, run);
    String::from_utf8(text).expect("digits, commas and dashes are text")
}

fn push(text: &mut Vec<u8>, run: Option<(u16, u16)>) {
    let Some((first, last)) = run else { return };
    if !text.is_empty() {
        text.push(b',');
    }
    push_number(text, first);
    if last > first {
        text.push(b'-');
        push_number(text, last);
    }
}

/// A number in digits. Eight bytes are written and the surplus is taken off: to copy just so many takes longer.
fn push_number(text: &mut Vec<u8>, number: u16) {
    let digits = [10_000, 1_000, 100, 10, 1].map(|unit| (number / unit % 10) as u8);
    let zeros = digits[..4].iter().take_while(|&&digit| digit == 0).count();
    let mut eight = [0; 8];
    eight[..5].copy_from_slice(&digits.map(|digit| b'0' + digit));
    let end = text.len() + digits.len() - zeros;
    text.extend_from_slice(&(u64::from_le_bytes(eight) >> (8 * zeros)).to_le_bytes());
    text.truncate(end);
}

/// Text to slots; what overlaps, goes backwards or lies beyond the last slot is an error.
///
/// Slots of a ring lie scattered, so this is most of a topology's bytes: they are looked at once each.
pub fn from_text(text: &str) -> Result<Vec<u16>, TopologyError> {
    let mut slots = Vec::new();
    if text.is_empty() {
        return Ok(slots);
    }
    let (bytes, mut at) = (text.as_bytes(), 0);
    loop {
        let begun = at;
        let first = number(bytes, &mut at).ok_or_else(|| no_slots(text, begun))?;
        let mut last = first;
        if bytes.get(at) == Some(&b'-') {
            at += 1;
            last = number(bytes, &mut at).ok_or_else(|| no_slots(text, begun))?;
        }
        if at < bytes.len() && bytes[at] != b',' {
            return Err(no_slots(text, begun));
        }
        if last < first || slots.last().is_some_and(|&before| before >= first) {
            return Err(TopologyError::new(format!(
                "slots: {:?} goes backwards or overlaps what stands before it",
                part_at(text, begun)
            )));
        }
        slots.extend(first..=last);
        if at == bytes.len() {
            return Ok(slots);
        }
        at += 1;
    }
}

/// The slot whose one to five digits begin at `at`, which is moved behind them.
fn number(bytes: &[u8], at: &mut usize) -> Option<u16> {
    let digits = bytes[*at..].iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
    let slot = bytes[*at..*at + digits].iter().fold(0, |sum, byte| sum * 10 + u32::from(byte - b'0'));
    *at += digits;
    (1..=5).contains(&digits).then_some(slot).filter(|&slot| slot < u32::from(SLOT_COUNT)).map(|slot| slot as u16)
}

/// What stands between the commas.
fn part_at(text: &str, begun: usize) -> &str {
    text[begun..].split(',').next().unwrap_or_default()
}

fn no_slots(text: &str, begun: usize) -> TopologyError {
    let part = part_at(text, begun);
    TopologyError::new(format!("slots: {part:?} is no slot or range between 0 and {}", SLOT_COUNT - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_slots_are_two_faces_of_one_set() {
        assert_eq!(to_text([]), "");
        assert_eq!(to_text([0, 1, 2, 7, 9, 10, 16383]), "0-2,7,9-10,16383");
        for slot in 0..SLOT_COUNT {
            assert_eq!(to_text([slot]), slot.to_string());
        }
        assert_eq!(from_text("0-2,7,9-10,16383").unwrap(), [0, 1, 2, 7, 9, 10, 16383]);
        assert_eq!(from_text("").unwrap(), Vec::<u16>::new());
    }

    #[test]
    fn broken_text_is_refused_with_the_part_that_is_wrong() {
        for bad in [
            "-",
            "1-",
            "a",
            "5-3",
            "1,1",
            "1-4,3",
            "16384",
            "1,,2",
            "+1",
            "99999999999",
            " 1",
            "1,",
            ",1",
            "1 ",
            "1-2-3",
            "1-2é",
            "é",
        ] {
            assert!(from_text(bad).is_err(), "{bad:?} was taken");
        }
        assert!(from_text("5-3").unwrap_err().to_string().contains("\"5-3\""));
    }
}
