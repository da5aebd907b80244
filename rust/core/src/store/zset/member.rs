//! Where the members of a large sorted set lie: one arena block each, the score in front.
//!
//! ```text
//! 0..8 score   8 length below 254, then the member
//!              8 254, two bytes of length, then the member
//!              8 255, four bytes: the number of a member too long for a block
//! ```

use crate::store::arena::{Arena, Handle, MAX_BLOCK};

const LENGTH: usize = 8;
const TWO_BYTES: u8 = 254;
const ELSEWHERE: u8 = 255;
const SHORT: usize = LENGTH + 1;
const MEDIUM: usize = LENGTH + 3;

/// The members of one set. Blocks are the arena's; this keeps what does not fit one.
#[derive(Default)]
pub struct Members {
    long: Vec<Box<[u8]>>,
    vacant: Vec<u32>,
    long_bytes: usize,
    block_bytes: usize,
}

impl Members {
    /// Store a member; the handle names it until [`Members::free`].
    pub fn add(&mut self, arena: &mut Arena, member: &[u8], score: f64) -> Handle {
        let mut head = [0u8; 13];
        head[..LENGTH].copy_from_slice(&score.to_le_bytes());
        let (head, member) = if member.len() < usize::from(TWO_BYTES) {
            head[LENGTH] = member.len() as u8;
            (&head[..SHORT], member)
        } else if member.len() <= MAX_BLOCK - MEDIUM {
            head[LENGTH] = TWO_BYTES;
            head[LENGTH + 1..MEDIUM].copy_from_slice(&(member.len() as u16).to_le_bytes());
            (&head[..MEDIUM], member)
        } else {
            head[LENGTH] = ELSEWHERE;
            head[LENGTH + 1..].copy_from_slice(&self.add_long(member).to_le_bytes());
            (&head[..], &member[..0])
        };
        let block = allocate(arena, head.len() + member.len());
        self.block_bytes += arena.capacity(block);
        let bytes = &mut arena.at_mut(block)[..head.len() + member.len()];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..].copy_from_slice(member);
        block
    }

    /// The member's bytes.
    #[inline(always)]
    pub fn bytes<'a>(&'a self, arena: &'a Arena, block: Handle) -> &'a [u8] {
        let bytes = arena.at(block);
        match bytes[LENGTH] {
            ELSEWHERE => &self.long[number(bytes)],
            TWO_BYTES => {
                let len = u16::from_le_bytes([bytes[LENGTH + 1], bytes[LENGTH + 2]]);
                &bytes[MEDIUM..MEDIUM + usize::from(len)]
            }
            len => &bytes[SHORT..SHORT + usize::from(len)],
        }
    }

    /// Forget a member and give its memory back.
    pub fn free(&mut self, arena: &mut Arena, block: Handle) {
        let bytes = arena.at(block);
        if bytes[LENGTH] == ELSEWHERE {
            let number = number(bytes);
            self.long_bytes -= self.long[number].len();
            self.long[number] = Box::default();
            self.vacant.push(number as u32);
        }
        self.block_bytes -= arena.capacity(block);
        arena.free(block);
    }

    /// Bytes on the ordinary heap.
    pub fn heap_bytes(&self) -> usize {
        self.long_bytes + self.long.capacity() * size_of::<Box<[u8]>>() + self.vacant.capacity() * 4
    }

    /// Bytes of arena blocks.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn add_long(&mut self, member: &[u8]) -> u32 {
        self.long_bytes += member.len();
        if let Some(number) = self.vacant.pop() {
            self.long[number as usize] = member.into();
            return number;
        }
        self.long.push(member.into());
        self.long.len() as u32 - 1
    }
}

/// The score in a member's block.
#[inline(always)]
pub fn score(arena: &Arena, block: Handle) -> f64 {
    let bytes = arena.at(block);
    f64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// Change the score in a member's block.
#[inline(always)]
pub fn set_score(arena: &mut Arena, block: Handle, score: f64) {
    arena.at_mut(block)[..8].copy_from_slice(&score.to_le_bytes());
}

/// A block. Who changes a set asks the arena for room first.
#[inline]
pub fn allocate(arena: &mut Arena, len: usize) -> Handle {
    arena.alloc(len).expect("the arena was asked for room")
}

fn number(block: &[u8]) -> usize {
    u32::from_le_bytes([block[LENGTH + 1], block[LENGTH + 2], block[LENGTH + 3], block[LENGTH + 4]]) as usize
}
