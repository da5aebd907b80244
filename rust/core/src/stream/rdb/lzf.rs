//! LZF, the compression of strings in RDB files: reading only.

use crate::stream::codec::Garbage;

/// Expand; `len` is what should come out. Memory grows with what comes out, not with `len`.
pub fn expand(packed: &[u8], len: usize) -> Result<Vec<u8>, Garbage> {
    const BAD: Garbage = Garbage("a compressed string cannot be expanded");
    // A byte expands to less than 90.
    if len / 90 > packed.len() {
        return Err(BAD);
    }
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < packed.len() {
        let control = usize::from(packed[at]);
        at += 1;
        if control < 32 {
            let literal = packed.get(at..at + control + 1).ok_or(BAD)?;
            out.extend_from_slice(literal);
            at += control + 1;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(*packed.get(at).ok_or(BAD)?);
                at += 1;
            }
            let low = usize::from(*packed.get(at).ok_or(BAD)?);
            at += 1;
            let back = ((control & 31) << 8 | low) + 1;
            let from = out.len().checked_sub(back).ok_or(BAD)?;
            // The part may overlap what it makes.
            for index in 0..count + 2 {
                let byte = out[from + index];
                out.push(byte);
            }
        }
        if out.len() > len {
            return Err(BAD);
        }
    }
    if out.len() == len { Ok(out) } else { Err(BAD) }
}

#[test]
fn what_was_compressed_comes_back() {
    assert_eq!(expand(b"\x01aa\xe0\x0a\x01", 21).as_deref(), Ok(&[b'a'; 21][..]));
    assert_eq!(expand(b"\x02abc", 3).as_deref(), Ok(&b"abc"[..]));
    for (packed, len) in
        [(&b"\x02ab"[..], 3), (b"\xe0", 9), (b"\x20\x00", 3), (b"\x02abc", 4), (b"\x02abc", 2), (b"", 1 << 60)]
    {
        assert!(expand(packed, len).is_err(), "{packed:?}");
    }
}
