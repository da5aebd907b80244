//! A HyperLogLog as a string, byte for byte as Redis keeps it, and what can be asked of it.
//!
//! ```text
//! HYLL   form (0 dense, 1 sparse)   three zeros   estimate, 8 bytes, the highest bit set when it is out of date
//! dense:  16,384 registers of 6 bits, the lowest bits first
//! sparse: runs: 00nnnnnn n+1 zeros; 01nnnnnn nnnnnnnn n+1 zeros; 1vvvvvnn n+1 registers of the value v+1
//! ```
//! A string that is none, or whose runs do not add up, is an error and never a panic.

/// How many registers there are.
pub const REGISTERS: usize = 1 << BITS;
/// Length of the head.
pub const HEAD: usize = 16;
/// Length of a dense one.
pub const DENSE: usize = HEAD + REGISTERS * 6 / 8;

const BITS: u32 = 14; // Of the hash, that choose a register.
const RANKS: usize = 64 - BITS as usize; // The rest, in which zeros are counted.
const MOST_SPARSE: u8 = 32; // The highest value of a sparse form.
const LONGEST_ZERO: usize = 64;
const LONGEST_VALUE: usize = 4;

/// The runs of a sparse form do not add up.
#[derive(Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Whether a string is one, as far as its head and length tell.
pub fn is_valid(text: &[u8]) -> bool {
    text.len() >= HEAD && text.starts_with(b"HYLL") && (text[4] == 1 || (text[4] == 0 && text.len() == DENSE))
}

/// Whether a valid one is dense.
pub fn is_dense(text: &[u8]) -> bool {
    text[4] == 0
}

/// An empty one.
pub fn new() -> Vec<u8> {
    let mut text = b"HYLL\x01".to_vec();
    text.resize(HEAD, 0);
    text.extend_from_slice(&[0x7F, 0xFF]); // One run of 16,384 zeros.
    text
}

/// The estimate in the head, unless it is out of date.
pub fn cached(text: &[u8]) -> Option<u64> {
    let bytes: [u8; 8] = text.get(8..HEAD)?.try_into().ok()?;
    (bytes[7] & 0x80 == 0).then(|| u64::from_le_bytes(bytes))
}

/// Note the estimate in the head.
pub fn cache(text: &mut [u8], estimate: u64) {
    text[8..HEAD].copy_from_slice(&estimate.to_le_bytes());
}

/// Note that the estimate in the head is out of date.
pub fn forget_estimate(text: &mut [u8]) {
    text[15] |= 0x80;
}

/// The register an element belongs to, and the value it asks for.
pub fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element);
    let rest = hash >> BITS | 1 << RANKS;
    (hash as usize & (REGISTERS - 1), rest.trailing_zeros() as u8 + 1)
}

/// MurmurHash2 for 64 bits, with the seed that Redis uses.
fn murmur(bytes: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = 0xadc8_3b19 ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut part = u64::from_le_bytes(*word).wrapping_mul(M);
        part ^= part >> 47;
        hash = (hash ^ part.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 47
}

/// One run of a sparse form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The value of its registers.
    pub value: u8,
    /// How many registers.
    pub len: usize,
    /// How many bytes it takes.
    pub bytes: usize,
}

impl Run {
    fn at(runs: &[u8], at: usize) -> Option<Run> {
        let byte = *runs.get(at)?;
        Some(match byte {
            0x80.. => Run { value: (byte >> 2 & 0x1F) + 1, len: usize::from(byte & 3) + 1, bytes: 1 },
            0x40..=0x7F => {
                // A second byte that is missing counts as zero, as the one behind a C string does.
                let low = runs.get(at + 1).copied().unwrap_or(0);
                Run { value: 0, len: (usize::from(byte & 0x3F) << 8 | usize::from(low)) + 1, bytes: 2 }
            }
            _ => Run { value: 0, len: usize::from(byte) + 1, bytes: 1 },
        })
    }
}

/// The runs of a sparse one.
pub fn runs(text: &[u8]) -> impl Iterator<Item = Run> {
    let runs = &text[HEAD..];
    let mut at = 0;
    std::iter::from_fn(move || {
        let run = Run::at(runs, at)?;
        at += run.bytes;
        Some(run)
    })
}

/// A register of a dense one.
pub fn dense_get(text: &[u8], index: usize) -> u8 {
    let registers = &text[HEAD..];
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let pair = u16::from(registers[byte]) | u16::from(registers.get(byte + 1).copied().unwrap_or(0)) << 8;
    (pair >> shift & 0x3F) as u8
}

fn dense_put(text: &mut [u8], index: usize, value: u8) {
    let registers = &mut text[HEAD..];
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let (mask, value) = (0x3Fu16 << shift, u16::from(value) << shift);
    registers[byte] = registers[byte] & !(mask as u8) | value as u8;
    if let Some(next) = registers.get_mut(byte + 1) {
        *next = *next & !((mask >> 8) as u8) | (value >> 8) as u8;
    }
}

/// Raise a register of a valid one to at least `value`; whether it rose. A sparse one that would become longer
/// than `most` becomes dense.
pub fn raise(text: &mut Vec<u8>, index: usize, value: u8, most: usize) -> Result<bool, Corrupt> {
    if is_dense(text) {
        let rises = dense_get(text, index) < value;
        if rises {
            dense_put(text, index, value);
        }
        return Ok(rises);
    }
    if value > MOST_SPARSE {
        to_dense(text)?;
        return raise(text, index, value, most);
    }
    // The run that has the register, and the one before it.
    let (mut at, mut before, mut first) = (HEAD, None, 0);
    let run = loop {
        let run = Run::at(&text[HEAD..], at - HEAD).ok_or(Corrupt)?;
        if index < first + run.len {
            break run;
        }
        before = Some(at);
        at += run.bytes;
        first += run.len;
    };
    if run.value >= value {
        return Ok(false);
    }
    if run.len == 1 && run.bytes == 1 {
        text[at] = value_run(value, 1);
    } else {
        // The run is split around the register.
        let mut split = smallvec::SmallVec::<[u8; 8]>::new();
        let push = |split: &mut smallvec::SmallVec<[u8; 8]>, len: usize| {
            if len == 0 {
            } else if run.value > 0 {
                split.push(value_run(run.value, len));
            } else if len > LONGEST_ZERO {
                split.extend_from_slice(&[0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]);
            } else {
                split.push((len - 1) as u8);
            }
        };
        push(&mut split, index - first);
        split.push(value_run(value, 1));
        push(&mut split, first + run.len - 1 - index);
        let end = (at + run.bytes).min(text.len());
        if split.len() > end - at && text.len() + split.len() - (end - at) > most {
            to_dense(text)?;
            return raise(text, index, value, most);
        }
        text.splice(at..end, split);
    }
    join_neighbours(text, before.unwrap_or(HEAD));
    forget_estimate(text);
    Ok(true)
}

fn value_run(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

/// Join runs of the same value that stand side by side, within five runs from `at`.
fn join_neighbours(text: &mut Vec<u8>, mut at: usize) {
    for _ in 0..5 {
        let Some(run) = Run::at(&text[HEAD..], at - HEAD) else { return };
        if run.value > 0
            && let Some(next) = Run::at(&text[HEAD..], at + 1 - HEAD)
            && next.value == run.value
            && run.len + next.len <= LONGEST_VALUE
        {
            text[at] = value_run(run.value, run.len + next.len);
            text.remove(at + 1);
            continue; // The joined one may be joined with what follows.
        }
        at += run.bytes;
    }
}

/// Make a sparse one dense; the estimate in its head is kept.
pub fn to_dense(text: &mut Vec<u8>) -> Result<(), Corrupt> {
    if is_dense(text) {
        return Ok(());
    }
    let mut dense = text[..HEAD].to_vec();
    dense[4] = 0;
    dense.resize(DENSE, 0);
    let mut index = 0;
    for run in runs(text) {
        if index + run.len > REGISTERS {
            return Err(Corrupt);
        }
        if run.value > 0 {
            (index..index + run.len).for_each(|each| dense_put(&mut dense, each, run.value));
        }
        index += run.len;
    }
    if index != REGISTERS {
        return Err(Corrupt);
    }
    *text = dense;
    Ok(())
}

/// Raise each of `registers` to that of a valid one.
pub fn merge(registers: &mut [u8; REGISTERS], text: &[u8]) -> Result<(), Corrupt> {
    if is_dense(text) {
        for (index, register) in registers.iter_mut().enumerate() {
            *register = (*register).max(dense_get(text, index));
        }
        return Ok(());
    }
    let mut index = 0;
    for run in runs(text) {
        let part = registers.get_mut(index..index + run.len).ok_or(Corrupt)?;
        if run.value > 0 {
            part.iter_mut().for_each(|register| *register = (*register).max(run.value));
        }
        index += run.len;
    }
    if index == REGISTERS { Ok(()) } else { Err(Corrupt) }
}

/// How many different elements were added to a valid one, about.
pub fn estimate(text: &[u8]) -> Result<u64, Corrupt> {
    let mut histogram = [0u32; 64];
    if is_dense(text) {
        (0..REGISTERS).for_each(|index| histogram[usize::from(dense_get(text, index))] += 1);
    } else {
        let mut index = 0;
        for run in runs(text) {
            index += run.len;
            histogram[usize::from(run.value)] += run.len as u32;
        }
        if index != REGISTERS {
            return Err(Corrupt);
        }
    }
    Ok(from_histogram(&histogram))
}

/// As [`estimate`], from registers.
pub fn estimate_registers(registers: &[u8; REGISTERS]) -> u64 {
    let mut histogram = [0u32; 64];
    registers.iter().for_each(|&register| histogram[usize::from(register & 63)] += 1);
    from_histogram(&histogram)
}

/// The estimate of Otmar Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017).
fn from_histogram(histogram: &[u32; 64]) -> u64 {
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let m = REGISTERS as f64;
    let mut z = m * tau((m - f64::from(histogram[RANKS + 1])) / m);
    for &count in histogram[1..=RANKS].iter().rev() {
        z += f64::from(count);
        z *= 0.5;
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    (ALPHA * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
