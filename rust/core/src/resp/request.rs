//! Bytes to requests. Resumable: a request may arrive in any number of pieces.
//!
//! Memory grows only with bytes that arrived, never with what a header announces. What
//! is malformed becomes a [`ProtocolError`], with the words Redis uses.

use super::number::parse_i64;

/// Where an argument lies in the buffer that holds its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// `len` bytes from `start` on.
    pub fn new(start: usize, len: usize) -> Self {
        Span { start: start as u32, len: len as u32 }
    }
}

/// The arguments of one request, the command's name first. Never empty.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// View `spans` of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Args { bytes, spans }
    }

    /// How many arguments there are, the name included.
    #[inline(always)]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(index)?;
        self.bytes.get(span.start as usize..span.start as usize + span.len as usize)
    }

    /// The argument at `index`; an empty one beyond the end (arity was checked before).
    #[inline(always)]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.get(index).unwrap_or_default()
    }

    /// All arguments from `from` on.
    pub fn from(&self, from: usize) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + use<'a> {
        let bytes = self.bytes;
        let spans = self.spans.get(from..).unwrap_or_default();
        spans
            .iter()
            .map(move |span| bytes.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default())
    }

    /// The arguments from `from` on, as a request of their own (sub-commands).
    pub fn tail(&self, from: usize) -> Args<'a> {
        Args { bytes: self.bytes, spans: self.spans.get(from..).unwrap_or_default() }
    }

    /// A copy that outlives the buffer.
    pub fn to_owned(&self) -> OwnedArgs {
        OwnedArgs::from_parts(self.from(0))
    }
}

/// Arguments that own their bytes: queued by MULTI, kept while a client is blocked.
#[derive(Clone, Default)]
pub struct OwnedArgs {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArgs {
    /// Collect arguments.
    pub fn from_parts<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut owned = OwnedArgs::default();
        parts.into_iter().for_each(|part| owned.push(part));
        owned
    }

    /// Add one more.
    pub fn push(&mut self, part: &[u8]) {
        self.spans.push(Span::new(self.bytes.len(), part.len()));
        self.bytes.extend_from_slice(part);
    }

    /// Forget them; memory of an unusually long request is given back.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        if self.heap_bytes() > 1 << 20 {
            *self = OwnedArgs::default();
        }
    }

    /// Look at them as a request.
    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.spans)
    }

    /// Bytes of memory behind them.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// Why a connection cannot go on. The text is what the client is told, after `-ERR Protocol error: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub String);

/// What a client may send; smaller before it has authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most arguments of a request.
    pub arguments: i64,
    /// Longest argument.
    pub bulk: i64,
    /// Whether these are the limits before AUTH, for the error's text.
    pub before_auth: bool,
}

const LINE_LIMIT: usize = 64 * 1024;

/// Finds the requests in a stream of bytes.
#[derive(Default)]
pub struct RequestParser {
    spans: Vec<Span>,    // Of all requests since the last `forget`.
    first: usize,        // Where those of the current request begin.
    position: usize,     // How far the current request was read.
    missing: u32,        // Arguments still to come.
    bulk: Option<usize>, // Length of the argument being read.
}

impl RequestParser {
    /// The arguments of the request that [`RequestParser::parse`] completed last.
    #[inline]
    pub fn spans(&self) -> &[Span] {
        self.spans.get(self.first..).unwrap_or_default()
    }

    /// The arguments of a request completed earlier, since [`RequestParser::forget`]; their place as [`RequestParser::mark`] told it.
    #[inline]
    pub fn spans_at(&self, place: (u32, u32)) -> &[Span] {
        self.spans.get(place.0 as usize..place.1 as usize).unwrap_or_default()
    }

    /// The place of the arguments of the request completed last.
    #[inline]
    pub fn mark(&self) -> (u32, u32) {
        (self.first as u32, self.spans.len() as u32)
    }

    /// Forget requests that were completed; one that is not complete stays.
    #[inline]
    pub fn forget(&mut self) {
        if self.position == 0 {
            self.spans.clear();
            self.first = 0;
        }
    }

    /// Forget everything: the next bytes are the first of a request.
    pub fn restart(&mut self) {
        self.position = 0;
        self.missing = 0;
        self.bulk = None;
        self.forget();
    }

    /// Whether a request has begun and not ended.
    pub fn in_request(&self) -> bool {
        self.position > 0
    }

    /// How many bytes must still arrive for the argument now being read; zero when unknown.
    pub fn missing_bytes(&self, have: usize) -> usize {
        self.bulk.map_or(0, |len| (self.position + len + 2).saturating_sub(have))
    }

    /// Whether nothing can be done with `have` bytes: they were all read, and the request in them is not complete.
    pub fn waits_for(&self, have: usize) -> bool {
        self.position > 0 && (self.position >= have || self.missing_bytes(have) > 0)
    }

    /// Bytes of memory behind the parser.
    pub fn heap_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
    }

    /// Give the memory of an unusually long request back.
    pub fn relax(&mut self) {
        if self.position == 0 && self.spans.capacity() > 1024 {
            self.spans = Vec::new();
        }
    }

    /// Read on. `bytes` starts with the first byte of the current request, on every call.
    /// `Ok(Some(n))`: a request (or an empty one, without spans) ended after `n` bytes.
    #[inline]
    pub fn parse(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<usize>, ProtocolError> {
        if self.position == 0 {
            self.first = self.spans.len();
            match bytes.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some((count, after)) = header(bytes, 1, "too big mbulk count string")? else {
                        return Ok(None);
                    };
                    let count = match parse_i64(count) {
                        Some(count) if count <= i64::from(i32::MAX) => count,
                        _ => return Err(broken("invalid multibulk length")),
                    };
                    if count > limits.arguments {
                        return Err(broken(if limits.before_auth {
                            "unauthenticated multibulk length"
                        } else {
                            "invalid multibulk length"
                        }));
                    }
                    if count <= 0 {
                        return Ok(Some(after));
                    }
                    self.position = after;
                    self.missing = count as u32;
                }
                Some(_) => return self.parse_inline(bytes),
            }
        }
        while self.missing > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => {
                    match bytes.get(self.position) {
                        None => return Ok(None),
                        Some(b'$') => {}
                        Some(&other) => {
                            return Err(broken(&format!("expected '$', got '{}'", printable(other))));
                        }
                    }
                    let Some((len, after)) = header(bytes, self.position + 1, "too big bulk count string")? else {
                        return Ok(None);
                    };
                    let len = match parse_i64(len) {
                        Some(len) if len >= 0 && len <= limits.bulk => len as usize,
                        Some(len) if len >= 0 && limits.before_auth => {
                            return Err(broken("unauthenticated bulk length"));
                        }
                        _ => return Err(broken("invalid bulk length")),
                    };
                    self.position = after;
                    self.bulk = Some(len);
                    len
                }
            };
            if bytes.len() < self.position + len + 2 {
                return Ok(None);
            }
            self.spans.push(Span::new(self.position, len));
            self.position += len + 2;
            self.bulk = None;
            self.missing -= 1;
        }
        let consumed = self.position;
        self.position = 0;
        Ok(Some(consumed))
    }

    /// A request typed by hand: words on a line, quoted as in a shell. The unquoted words
    /// lie in `bytes` as they are; a quoted one cannot, so such a line is answered through [`inline_words`].
    #[cold]
    fn parse_inline(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() > LINE_LIMIT { Err(broken("too big inline request")) } else { Ok(None) };
        };
        let mut at = 0;
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        while at < line.len() {
            if is_space(line[at]) {
                at += 1;
                continue;
            }
            let start = at;
            while at < line.len() && !is_space(line[at]) {
                if line[at] == b'"' || line[at] == b'\'' {
                    self.spans.truncate(self.first);
                    return Err(ProtocolError(QUOTED.into()));
                }
                at += 1;
            }
            self.spans.push(Span::new(start, at - start));
        }
        Ok(Some(end + 1))
    }
}

/// The marker error by which [`RequestParser::parse`] says that a line has quotes: see [`inline_words`].
pub const QUOTED: &str = "quoted";

/// Split a line with quotes into words; also tells how many bytes the line took.
pub fn inline_words(bytes: &[u8]) -> Result<(OwnedArgs, usize), ProtocolError> {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    match split_words(line) {
        Some(words) => Ok((OwnedArgs::from_parts(words.iter().map(Vec::as_slice)), end + 1)),
        None => Err(broken("unbalanced quotes in request")),
    }
}

/// Split a line into words, with `"..."` (escapes) and `'...'`; `None` when quotes do not balance.
pub fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let Some((&byte, after)) = rest.split_first() {
            if !is_space(byte) {
                break;
            }
            rest = after;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        loop {
            match rest {
                [] => break,
                [b'"', after @ ..] => rest = double_quoted(after, &mut word)?,
                [b'\'', after @ ..] => rest = single_quoted(after, &mut word)?,
                [byte, ..] if is_space(*byte) => break,
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        words.push(word);
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return ends_word(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return ends_word(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// A closing quote must end its word.
fn ends_word(after: &[u8]) -> Option<&[u8]> {
    match after.first() {
        Some(&byte) if !is_space(byte) => None,
        _ => Some(after),
    }
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0)
}

fn printable(byte: u8) -> char {
    match byte {
        b' '..=b'~' => byte as char,
        b'\r' | b'\n' => ' ', // As in every error: no byte may end its line.
        _ => '?',
    }
}

fn broken(text: &str) -> ProtocolError {
    ProtocolError(text.into())
}

/// The line that starts at `from`, without its end, and where the next begins.
#[inline(always)]
fn header<'a>(bytes: &'a [u8], from: usize, too_long: &str) -> Result<Option<(&'a [u8], usize)>, ProtocolError> {
    // Headers are short: a plain loop beats a call to memchr.
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'\r' {
            return Ok((bytes.len() > at + 1).then(|| (&bytes[from..at], at + 2)));
        }
        if at - from > LINE_LIMIT {
            return Err(broken(too_long));
        }
        at += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPEN: Limits = Limits { arguments: 1 << 20, bulk: 512 << 20, before_auth: false };

    fn words(parser: &RequestParser, bytes: &[u8]) -> Vec<Vec<u8>> {
        Args::new(bytes, parser.spans()).from(0).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn a_request_is_found_wherever_the_stream_is_cut() {
        let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n";
        for cut in 0..bytes.len() {
            let mut parser = RequestParser::default();
            assert_eq!(parser.parse(&bytes[..cut], OPEN), Ok(None), "cut at {cut}");
            assert_eq!(parser.parse(bytes, OPEN), Ok(Some(bytes.len())));
            assert_eq!(words(&parser, bytes), [&b"SET"[..], b"k", b"hello"]);
        }
    }

    #[test]
    fn lines_typed_by_hand_are_requests_too() {
        let mut parser = RequestParser::default();
        assert_eq!(parser.parse(b"  get  foo \r\nrest", OPEN), Ok(Some(13)));
        assert_eq!(words(&parser, b"  get  foo \r\nrest"), [&b"get"[..], b"foo"]);
        let (quoted, used) = inline_words(b"set k \"a\\x41\\n\" 'b c'\nX").unwrap();
        assert_eq!(used, 22);
        assert_eq!(quoted.as_args().from(2).collect::<Vec<_>>(), [&b"aA\n"[..], b"b c"]);
        assert!(inline_words(b"get \"foo").is_err());
        assert!(split_words(b"\"a\"b").is_none());
    }

    #[test]
    fn what_is_malformed_is_refused_with_the_words_of_redis() {
        let text = |bytes: &[u8]| RequestParser::default().parse(bytes, OPEN).unwrap_err().0;
        assert_eq!(text(b"*99999999999\r\n"), "invalid multibulk length");
        assert_eq!(text(b"*x\r\n"), "invalid multibulk length");
        assert_eq!(text(b"*1\r\nPING\r\n"), "expected '$', got 'P'");
        assert_eq!(text(b"*1\r\n$-1\r\n"), "invalid bulk length");
        assert_eq!(text(&[b'a'; LINE_LIMIT + 2]), "too big inline request");
        let closed = Limits { arguments: 10, bulk: 16_384, before_auth: true };
        let refused = |bytes: &[u8]| RequestParser::default().parse(bytes, closed).unwrap_err().0;
        assert_eq!(refused(b"*11\r\n"), "unauthenticated multibulk length");
        assert_eq!(refused(b"*1\r\n$16385\r\n"), "unauthenticated bulk length");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_request_an_error_or_a_wait(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut parser = RequestParser::default();
            let mut rest = &bytes[..];
            while let Ok(Some(used)) = parser.parse(rest, OPEN) {
                parser.forget();
                prop_assert!(used > 0 && used <= rest.len());
                rest = &rest[used..];
            }
            prop_assert!(parser.spans.capacity() <= 4 * bytes.len() + 16);
        }
    }
}
