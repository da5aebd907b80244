//! Byte strings one behind the other, each with its length in front: one byte up to 252, then three or five.

/// A first byte that begins no string; owners use it as a mark of their own.
pub const MARK: u8 = 0xFF;

const TWO: u8 = 0xFD; // Two bytes of length follow,
const FOUR: u8 = 0xFE; // or four.

/// How many bytes a string of `len` takes.
#[inline(always)]
pub fn size(len: usize) -> usize {
    len + if len < TWO as usize {
        1
    } else if len <= 0xFFFF {
        3
    } else {
        5
    }
}

/// The string at the start of `bytes`, and what follows it.
#[inline(always)]
pub fn take(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (head, len) = match bytes[0] {
        len @ 0..TWO => (1, usize::from(len)),
        TWO => (3, usize::from(u16::from_le_bytes([bytes[1], bytes[2]]))),
        _ => (5, u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize),
    };
    bytes[head..].split_at(len)
}

/// Write a string to the start of `bytes`, which is long enough; returns what follows it.
#[inline(always)]
pub fn put<'a>(bytes: &'a mut [u8], string: &[u8]) -> &'a mut [u8] {
    let len = string.len();
    let head = size(len) - len;
    match head {
        1 => bytes[0] = len as u8,
        3 => {
            bytes[0] = TWO;
            bytes[1..3].copy_from_slice(&(len as u16).to_le_bytes());
        }
        _ => {
            bytes[0] = FOUR;
            bytes[1..5].copy_from_slice(&(len as u32).to_le_bytes());
        }
    }
    let (place, rest) = bytes[head..].split_at_mut(len);
    place.copy_from_slice(string);
    rest
}

/// Append a string, asking for an eighth more room than needed at most.
pub fn append(bytes: &mut Vec<u8>, string: &[u8]) {
    let start = bytes.len();
    make_room(bytes, size(string.len()));
    bytes.resize(start + size(string.len()), 0);
    put(&mut bytes[start..], string);
}

/// Put `string` in place of what lies at `start..end`.
pub fn replace(bytes: &mut Vec<u8>, start: usize, end: usize, string: &[u8]) {
    let (old, new, len) = (end - start, size(string.len()), bytes.len());
    if new > old {
        make_room(bytes, new - old);
        bytes.resize(len + new - old, 0);
    }
    if new != old {
        bytes.copy_within(end..len, start + new);
    }
    bytes.truncate(len + new - old);
    put(&mut bytes[start..], string);
}

/// Take out what lies at `start..end`.
pub fn cut(bytes: &mut Vec<u8>, start: usize, end: usize) {
    bytes.drain(start..end);
    if bytes.len() < bytes.capacity() / 2 {
        bytes.shrink_to(bytes.len() + bytes.len() / 8);
    }
}

fn make_room(bytes: &mut Vec<u8>, more: usize) {
    if bytes.capacity() - bytes.len() < more {
        bytes.reserve_exact(more + bytes.len() / 8);
    }
}

/// All strings, first to last.
pub fn iter(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (string, rest) = take(bytes);
        bytes = rest;
        Some(string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_length_come_back() {
        let lens = [0, 1, 252, 253, 254, 255, 65_535, 65_536, 100_000];
        let mut bytes = Vec::new();
        lens.iter().for_each(|&len| append(&mut bytes, &vec![len as u8; len]));
        assert_eq!(bytes.len(), lens.iter().map(|&len| size(len)).sum::<usize>());
        let back: Vec<_> = iter(&bytes).map(|string| (string.len(), string.first().copied())).collect();
        let expected: Vec<_> = lens.iter().map(|&len| (len, (len > 0).then_some(len as u8))).collect();
        assert_eq!(back, expected);
    }

    #[test]
    fn a_string_can_be_replaced_by_one_of_any_length() {
        for len in [0, 1, 3, 252, 253, 70_000] {
            let mut bytes = Vec::new();
            [&b"first"[..], b"old", b"last"].iter().for_each(|string| append(&mut bytes, string));
            replace(&mut bytes, 6, 10, &vec![b'x'; len]);
            let back: Vec<_> = iter(&bytes).map(<[u8]>::to_vec).collect();
            assert_eq!(back, [b"first".to_vec(), vec![b'x'; len], b"last".to_vec()]);
        }
    }
}
