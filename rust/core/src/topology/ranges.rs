//! Sets of slots as text: `0-99,105,200-300`, ascending, without overlap.

use super::document::TopologyError;
use crate::slot::SLOT_COUNT;

/// Ascending slots to text. A run of two or more is written as `first-last`.
pub fn to_text(slots: impl IntoIterator<Item = u16>) -> String {
    let mut text = String::new();
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
    text
}

fn push(text: &mut String, run: Option<(u16, u16)>) {
    let Some((first, last)) = run else { return };
    let mut number = itoa::Buffer::new();
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(number.format(first));
    if last > first {
        text.push('-');
        text.push_str(number.format(last));
    }
}

/// Text to slots; what overlaps, goes backwards or lies beyond the last slot is an error.
pub fn from_text(text: &str) -> Result<Vec<u16>, TopologyError> {
    let mut slots = Vec::new();
    if text.is_empty() {
        return Ok(slots);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first, part)?, number(last, part)?);
        if last < first || slots.last().is_some_and(|&before| before >= first) {
            return Err(TopologyError::new(format!(
                "slots: {part:?} goes backwards or overlaps what stands before it"
            )));
        }
        slots.extend(first..=last);
    }
    Ok(slots)
}

fn number(digits: &str, part: &str) -> Result<u16, TopologyError> {
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse::<u16>() {
        Ok(slot) if plain && slot < SLOT_COUNT => Ok(slot),
        _ => Err(TopologyError::new(format!("slots: {part:?} is no slot or range between 0 and {}", SLOT_COUNT - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_slots_are_two_faces_of_one_set() {
        assert_eq!(to_text([]), "");
        assert_eq!(to_text([0, 1, 2, 7, 9, 10, 16383]), "0-2,7,9-10,16383");
        assert_eq!(from_text("0-2,7,9-10,16383").unwrap(), [0, 1, 2, 7, 9, 10, 16383]);
        assert_eq!(from_text("").unwrap(), Vec::<u16>::new());
    }

    #[test]
    fn broken_text_is_refused_with_the_part_that_is_wrong() {
        for bad in ["-", "1-", "a", "5-3", "1,1", "1-4,3", "16384", "1,,2", "+1", "99999999999", " 1"] {
            assert!(from_text(bad).is_err(), "{bad:?} was taken");
        }
        assert!(from_text("5-3").unwrap_err().to_string().contains("\"5-3\""));
    }
}
