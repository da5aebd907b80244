//! Values to bytes, in the protocol version the client chose.
//!
//! Each method says what a value *is* (a map, a score, nothing); whether that is an array,
//! a bulk string or a RESP3 type is decided here and nowhere else.

use super::number::write_f64;

/// A growing reply. Methods append; nothing is taken back but by [`Reply::truncate`].
#[derive(Default)]
pub struct Reply {
    bytes: Vec<u8>,
    resp3: bool,
}

impl Reply {
    /// An empty reply in RESP2 or RESP3.
    pub fn new(resp3: bool) -> Self {
        Reply { bytes: Vec::new(), resp3 }
    }

    /// Whether RESP3 is spoken.
    #[inline]
    pub fn resp3(&self) -> bool {
        self.resp3
    }

    /// Speak RESP3, or RESP2, from here on.
    pub fn speak(&mut self, resp3: bool) {
        self.resp3 = resp3;
    }

    /// What was written so far.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Have what is in `bytes`, and leave there what was here.
    pub fn exchange(&mut self, bytes: &mut Vec<u8>) {
        std::mem::swap(&mut self.bytes, bytes);
    }

    /// How much was written so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forget all after the first `len` bytes.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Empty the reply; memory of an unusually long one is given back.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
    }

    /// Take the bytes away.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes that already are protocol.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `+OK`
    #[inline]
    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// A short status text. Line ends in it become blanks, so that no text can forge a reply.
    #[inline]
    pub fn status(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.line(text.as_bytes());
    }

    /// An error; `text` begins with its code, such as `ERR`.
    pub fn error(&mut self, text: &[u8]) {
        self.bytes.push(b'-');
        self.line(text);
    }

    fn line(&mut self, text: &[u8]) {
        self.bytes.extend(text.iter().map(|&byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    #[inline(always)]
    fn header(&mut self, kind: u8, number: i64) {
        if (0..10).contains(&number) {
            self.bytes.extend_from_slice(&[kind, b'0' + number as u8, b'\r', b'\n']);
            return;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(digits);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A count, as an integer.
    #[inline]
    pub fn count(&mut self, value: usize) {
        self.header(b':', value as i64);
    }

    /// A byte string.
    #[inline(always)]
    pub fn bulk(&mut self, value: &[u8]) {
        // One reservation for all three parts; lengths below 100 (most) are written without a formatter.
        self.bytes.reserve(value.len() + 32);
        let len = value.len();
        if len < 10 {
            self.bytes.extend_from_slice(&[b'$', b'0' + len as u8, b'\r', b'\n']);
        } else if len < 100 {
            self.bytes.extend_from_slice(&[b'$', b'0' + (len / 10) as u8, b'0' + (len % 10) as u8, b'\r', b'\n']);
        } else {
            self.header(b'$', len as i64);
        }
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer as a byte string.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value);
        self.bulk(digits.as_bytes());
    }

    /// Nothing, where a value was asked for.
    #[inline]
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Nothing, where an array was asked for.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// A value or nothing.
    pub fn bulk_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    /// The head of an array of `len` values.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The head of a map of `pairs` pairs: twice as many values in RESP2.
    pub fn map(&mut self, pairs: usize) {
        if self.resp3 { self.header(b'%', pairs as i64) } else { self.header(b'*', pairs as i64 * 2) }
    }

    /// The head of a set of `len` values.
    pub fn set(&mut self, len: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, len as i64);
    }

    /// The head of a message that answers no request.
    pub fn push(&mut self, len: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, len as i64);
    }

    /// A floating-point number: a type of its own in RESP3, a byte string in RESP2.
    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(32);
        write_f64(&mut text, value);
        self.double_text(&text);
    }

    /// A floating-point number whose digits are chosen already.
    pub fn double_text(&mut self, text: &[u8]) {
        if self.resp3 {
            self.bytes.push(b',');
            self.bytes.extend_from_slice(text);
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// A truth value: `#t` in RESP3, 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match (self.resp3, value) {
            (true, true) => self.raw(b"#t\r\n"),
            (true, false) => self.raw(b"#f\r\n"),
            (false, value) => self.integer(i64::from(value)),
        }
    }

    /// Text for people, such as INFO's.
    pub fn verbatim(&mut self, text: &[u8]) {
        if self.resp3 {
            self.header(b'=', text.len() as i64 + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.bytes.extend_from_slice(text);
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// A status of any bytes.
    pub fn status_bytes(&mut self, text: &[u8]) {
        self.bytes.push(b'+');
        self.line(text);
    }

    /// A number of any size, as digits: a type of its own in RESP3, a byte string in RESP2.
    pub fn big_number(&mut self, digits: &[u8]) {
        if self.resp3 {
            self.bytes.push(b'(');
            self.line(digits);
        } else {
            self.bulk(digits);
        }
    }

    /// Text in a format of three letters (`txt`, `mkd`), which RESP2 does not tell.
    pub fn verbatim_in(&mut self, format: &[u8], text: &[u8]) {
        if self.resp3 {
            self.header(b'=', text.len() as i64 + 4);
            self.bytes.extend((0..3).map(|at| format.get(at).copied().unwrap_or(b' ')));
            self.bytes.push(b':');
            self.bytes.extend_from_slice(text);
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// Write a part whose length is known only afterwards: `body` appends the elements and says how
    /// many there are; the head is written by `head`.
    pub fn deferred<T>(&mut self, head: fn(&mut Reply, usize), body: impl FnOnce(&mut Reply) -> (usize, T)) -> T {
        let part = self.deferred_by(head);
        let (len, result) = body(self);
        self.finish(part, len);
        result
    }

    /// As [`Reply::deferred`] where the elements are not written in one go: they follow, then [`Reply::finish`].
    pub fn deferred_by(&self, head: fn(&mut Reply, usize)) -> Deferred {
        Deferred { start: self.bytes.len(), head }
    }

    /// Put the head in front of the elements of a part.
    pub fn finish(&mut self, part: Deferred, len: usize) {
        let end = self.bytes.len();
        (part.head)(self, len);
        let head_len = self.bytes.len() - end;
        self.bytes[part.start..].rotate_right(head_len);
    }
}

/// A part of a reply whose head is still to be written.
pub struct Deferred {
    start: usize,
    head: fn(&mut Reply, usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_two_spellings() {
        let write = |resp3| {
            let mut reply = Reply::new(resp3);
            reply.map(1);
            reply.bulk(b"k");
            reply.double(1.5);
            reply.null();
            reply.boolean(true);
            String::from_utf8(reply.take()).unwrap()
        };
        assert_eq!(write(false), "*2\r\n$1\r\nk\r\n$3\r\n1.5\r\n$-1\r\n:1\r\n");
        assert_eq!(write(true), "%1\r\n$1\r\nk\r\n,1.5\r\n_\r\n#t\r\n");
    }

    #[test]
    fn text_cannot_forge_a_reply() {
        let mut reply = Reply::new(false);
        reply.error(b"ERR no\r\n+OK");
        assert_eq!(reply.bytes(), b"-ERR no  +OK\r\n");
    }

    #[test]
    fn a_deferred_head_stands_before_its_elements() {
        let mut reply = Reply::new(false);
        reply.ok();
        reply.deferred(Reply::array, |reply| {
            reply.integer(1);
            reply.integer(22);
            (2, ())
        });
        assert_eq!(reply.bytes(), b"+OK\r\n*2\r\n:1\r\n:22\r\n");
    }
}
