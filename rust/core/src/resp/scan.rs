//! Where a reply ends: what a proxy must know to pass it on without understanding it.
//!
//! Nested values are counted, not recursed into, so no depth can overflow a stack; a reply
//! may arrive in any number of pieces.

use super::number::parse_i64;

/// Finds the ends of replies in a stream of bytes.
#[derive(Default)]
pub struct ReplyScanner {
    position: usize, // How far the current reply was read.
    missing: u64,    // Values still to come; zero between replies.
    bulk: usize,     // Where the string being read ends; zero for none.
}

/// What a node sent is not the Redis protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbled;

const LINE_LIMIT: usize = 64 * 1024;

impl ReplyScanner {
    /// Read on. `bytes` starts with the first byte of the current reply, on every call; `Some(n)`
    /// when it ended after `n` bytes.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        if self.missing == 0 {
            self.missing = 1;
        }
        while self.missing > 0 {
            if self.bulk == 0 {
                let Some(&kind) = bytes.get(self.position) else {
                    return Ok(None);
                };
                let Some(line_end) = self.line_end(bytes)? else {
                    return Ok(None);
                };
                let line = &bytes[self.position + 1..line_end];
                let next = line_end + 2;
                match kind {
                    b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.missing -= 1,
                    b'$' | b'=' | b'!' => match parse_i64(line).ok_or(Garbled)? {
                        -1 => self.missing -= 1,
                        len @ 0.. => self.bulk = next + len as usize + 2,
                        _ => return Err(Garbled),
                    },
                    b'*' | b'~' | b'>' => self.expect(line, 1)?,
                    b'%' => self.expect(line, 2)?,
                    b'|' => {
                        // Attributes stand in front of the value they belong to.
                        self.expect(line, 2)?;
                        self.missing = self.missing.checked_add(1).ok_or(Garbled)?;
                    }
                    _ => return Err(Garbled),
                }
                self.position = next;
            }
            if self.bulk > 0 {
                if bytes.len() < self.bulk {
                    return Ok(None);
                }
                self.position = self.bulk;
                self.bulk = 0;
                self.missing -= 1;
            }
        }
        let consumed = self.position;
        self.position = 0;
        Ok(Some(consumed))
    }

    fn expect(&mut self, line: &[u8], each: u64) -> Result<(), Garbled> {
        let count = parse_i64(line).filter(|&count| count >= -1).ok_or(Garbled)?;
        let values = u64::try_from(count.max(0)).map_err(|_| Garbled)?.checked_mul(each).ok_or(Garbled)?;
        self.missing = (self.missing - 1).checked_add(values).ok_or(Garbled)?;
        Ok(())
    }

    #[inline(always)]
    fn line_end(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        let mut at = self.position + 1;
        while let Some(&byte) = bytes.get(at) {
            if byte == b'\r' {
                return Ok((bytes.len() > at + 1).then_some(at));
            }
            at += 1;
        }
        if at - self.position > LINE_LIMIT { Err(Garbled) } else { Ok(None) }
    }
}

/// The elements of an array reply, each whole; `None` when it is no array.
pub fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    if !matches!(reply.first(), Some(b'*' | b'~' | b'>')) {
        return None;
    }
    let end = memchr::memchr(b'\r', reply)?;
    let count = usize::try_from(parse_i64(&reply[1..end])?).ok()?;
    let mut rest = reply.get(end + 2..)?;
    let mut found = Vec::new();
    for _ in 0..count {
        let len = ReplyScanner::default().scan(rest).ok()??;
        found.push(&rest[..len]);
        rest = &rest[len..];
    }
    Some(found)
}

/// The values directly in an array, a set or a map (name, value, name, value ...), each whole.
pub fn values(reply: &[u8]) -> Option<Vec<&[u8]>> {
    if reply.first() != Some(&b'%') {
        return elements(reply);
    }
    let end = memchr::memchr(b'\r', reply)?;
    let mut rest = reply.get(end + 2..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let len = ReplyScanner::default().scan(rest).ok()??;
        found.push(&rest[..len]);
        rest = &rest[len..];
    }
    Some(found)
}

/// The number in an integer reply.
pub fn integer(reply: &[u8]) -> Option<i64> {
    parse_i64(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?)
}

/// The bytes in a string reply; `None` for nothing and for other kinds.
pub fn string(reply: &[u8]) -> Option<&[u8]> {
    if reply.first() != Some(&b'$') {
        return None;
    }
    let end = memchr::memchr(b'\r', reply)?;
    let len = usize::try_from(parse_i64(&reply[1..end])?).ok()?;
    reply.get(end + 2..end + 2 + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\nhe\r\no\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"%1\r\n+k\r\n~2\r\n:1\r\n,1.5\r\n",
        b"=5\r\ntxt:x\r\n",
        b"|1\r\n+a\r\n+b\r\n:7\r\n",
        b"_\r\n",
        b"#t\r\n",
    ];

    #[test]
    fn every_kind_of_reply_ends_where_it_ends_wherever_it_is_cut() {
        for reply in REPLIES {
            let mut stream = reply.to_vec();
            stream.extend_from_slice(b"+next\r\n");
            for cut in 0..reply.len() {
                let mut scanner = ReplyScanner::default();
                assert_eq!(scanner.scan(&stream[..cut]), Ok(None), "{:?} cut at {cut}", String::from_utf8_lossy(reply));
                assert_eq!(scanner.scan(&stream), Ok(Some(reply.len())), "{:?}", String::from_utf8_lossy(reply));
            }
        }
    }

    #[test]
    fn elements_are_taken_apart_whole() {
        let parts = elements(b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n").unwrap();
        assert_eq!(parts, [&b"$1\r\na\r\n"[..], b"*1\r\n:1\r\n", b"$-1\r\n"]);
        assert_eq!(integer(b":42\r\n"), Some(42));
        assert_eq!(string(b"$2\r\nhi\r\n"), Some(&b"hi"[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_reply_an_error_or_a_wait(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut rest = &bytes[..];
            let mut scanner = ReplyScanner::default();
            while let Ok(Some(len)) = scanner.scan(rest) {
                prop_assert!(len > 0 && len <= rest.len());
                rest = &rest[len..];
            }
        }
    }
}
