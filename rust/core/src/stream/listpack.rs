//! Redis' listpacks, as far as streams need them: a block of entries into one, and back.
//!
//! ```text
//! bytes (4 LE), elements (2 LE), elements, FF
//! element: what it is and its bytes, then the length of that, readable from behind
//! ```

use super::codec::Garbage;
use crate::store::stream::{Block, Entry, Id, Piece, piece};

const REMOVED: i64 = 1;
const SAME_NAMES: i64 = 2;

struct Writer {
    bytes: Vec<u8>,
    count: usize,
}

impl Writer {
    fn put(&mut self, text: &[u8]) {
        let start = self.bytes.len();
        piece::put(&mut self.bytes, text);
        let len = self.bytes.len() - start;
        let groups = piece::back_length(len);
        for group in (0..groups).rev() {
            let bits = (len >> (7 * group)) as u8 & 0x7F;
            self.bytes.push(if group + 1 == groups { bits } else { bits | 0x80 });
        }
        self.count += 1;
    }

    fn number(&mut self, number: i64) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    fn piece(&mut self, piece: Piece<'_>) {
        piece.with(|text| self.put(text));
    }

    fn entry(&mut self, first: Id, entry: Entry<'_>) {
        let same = entry.has_names_of_block();
        let flags = if same { SAME_NAMES } else { 0 } | if entry.is_removed() { REMOVED } else { 0 };
        self.number(flags);
        self.number(entry.id.ms.wrapping_sub(first.ms) as i64);
        self.number(entry.id.seq.wrapping_sub(first.seq) as i64);
        if !same {
            self.number(entry.len() as i64);
        }
        for (name, value) in entry.pairs() {
            if !same {
                self.piece(name);
            }
            self.piece(value);
        }
        self.number(3 + if same { entry.len() } else { 2 * entry.len() + 1 } as i64);
    }
}

/// A block as the listpack Redis would have in its place.
pub fn of_block(block: &Block) -> Vec<u8> {
    let mut out = Writer { bytes: vec![0; 6], count: 0 };
    out.number(i64::from(block.live));
    out.number(block.all().filter(Entry::is_removed).count() as i64);
    let names: Vec<Piece<'_>> = block.names().collect();
    out.number(names.len() as i64);
    names.into_iter().for_each(|name| out.piece(name));
    out.number(0);
    block.all().for_each(|entry| out.entry(block.first, entry));
    out.bytes.push(0xFF);
    let total = out.bytes.len() as u32;
    out.bytes[..4].copy_from_slice(&total.to_le_bytes());
    out.bytes[4..6].copy_from_slice(&u16::try_from(out.count).unwrap_or(u16::MAX).to_le_bytes());
    out.bytes
}

/// Reads elements one after the other.
struct Elements<'a> {
    rest: &'a [u8],
}

const CUT: Garbage = Garbage("a listpack ends too early");

impl<'a> Elements<'a> {
    fn of(listpack: &'a [u8]) -> Result<Elements<'a>, Garbage> {
        match listpack {
            [a, b, c, d, _, _, rest @ .., 0xFF] if u32::from_le_bytes([*a, *b, *c, *d]) as usize == listpack.len() => {
                Ok(Elements { rest })
            }
            _ => Err(Garbage("a listpack is none")),
        }
    }

    fn next(&mut self) -> Result<Piece<'a>, Garbage> {
        let len = piece::len_of(self.rest).ok_or(CUT)?;
        let back = piece::back_length(len);
        if self.rest.len() < len + back {
            return Err(CUT);
        }
        let (piece, _) = piece::take(self.rest);
        self.rest = &self.rest[len + back..];
        Ok(piece)
    }

    fn number(&mut self) -> Result<i64, Garbage> {
        match self.next()? {
            Piece::Number(number) => Ok(number),
            Piece::Text(_) => Err(Garbage("a listpack has text where a number belongs")),
        }
    }

    /// A number of elements to come: no more than there are bytes.
    fn count(&mut self) -> Result<usize, Garbage> {
        let count = self.number()?;
        usize::try_from(count).ok().filter(|&count| count <= self.rest.len()).ok_or(CUT)
    }

    fn text(&mut self) -> Result<Vec<u8>, Garbage> {
        Ok(self.next()?.with(<[u8]>::to_vec))
    }
}

/// The block that a listpack holds.
pub fn to_block(first: Id, listpack: &[u8]) -> Result<Block, Garbage> {
    let mut elements = Elements::of(listpack)?;
    let (live, removed) = (elements.number()?, elements.number()?);
    let count = elements.count()?;
    let names = (0..count).map(|_| elements.text()).collect::<Result<Vec<_>, _>>()?;
    elements.number()?;
    let mut block = Block::open(first, names.iter().map(Vec::as_slice));
    while !elements.rest.is_empty() {
        let flags = elements.number()?;
        let ms = first.ms.wrapping_add(elements.number()? as u64);
        let seq = first.seq.wrapping_add(elements.number()? as u64);
        let own = flags & SAME_NAMES == 0;
        let count = if own { elements.count()? } else { count };
        let mut fields = Vec::new();
        let mut names = names.iter();
        for _ in 0..count {
            fields.push(if own { elements.text()? } else { names.next().cloned().unwrap_or_default() });
            fields.push(elements.text()?);
        }
        elements.number()?;
        let parts: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        let id = Id { ms, seq };
        if parts.is_empty() || !block.try_append(id, &parts) {
            return Err(Garbage("the entries of a stream are out of order"));
        }
        if flags & REMOVED != 0 {
            block.remove(id);
        }
    }
    if i64::from(block.live) != live || i64::from(block.dead) != removed || live < 1 {
        return Err(Garbage("a block of a stream does not hold what it says"));
    }
    block.close();
    Ok(block)
}

#[test]
fn a_block_comes_back_from_its_listpack_and_garbage_is_told() {
    let id = |ms, seq| Id { ms, seq };
    let long = vec![b'x'; 300];
    let mut block = Block::with(id(5, 3), &[b"a", b"1", b"b", &long]);
    for (ms, fields) in [(6, [&b"a"[..], b"-5000", b"b", b"x"]), (9, [b"c", b"", b"d", b"99999999999"])] {
        assert!(block.try_append(id(ms, 0), &fields));
    }
    assert!(block.remove(id(6, 0)));
    let told = |block: &Block| {
        let words = |entry: Entry<'_>| {
            let pieces = entry.pairs().flat_map(|(name, value)| [name, value]);
            (entry.id, entry.is_removed(), pieces.map(|piece| piece.with(<[u8]>::to_vec)).collect::<Vec<_>>())
        };
        block.all().map(words).collect::<Vec<_>>()
    };
    let bytes = of_block(&block);
    assert_eq!(bytes.len(), block.as_listpack());
    let again = to_block(block.first, &bytes).unwrap();
    assert_eq!(told(&again), told(&block));
    for cut in 0..bytes.len() {
        assert!(to_block(block.first, &bytes[..cut]).is_err());
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[cut] ^= 1 << bit;
            let _ = to_block(block.first, &wrong); // Anything but a panic.
        }
    }
}
