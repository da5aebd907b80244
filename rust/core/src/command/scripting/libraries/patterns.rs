//! Lua's patterns, matched within bounds.
//!
//! Lua 5.1 matches in C, recursing as deep as a pattern is long and for as long as it takes: a script could end the
//! process or stop it for hours. Here depth is bounded, and after every so many steps somebody is asked whether to
//! go on.

/// Most captures of a pattern.
const MOST_CAPTURES: usize = 32;
/// Items of a pattern that may wait for what follows them.
const DEEPEST: u32 = 1000;
/// Steps between two questions.
const STRETCH: u32 = 200_000;

/// What a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    /// So many bytes from here on.
    Text(usize, usize),
    /// Begun here.
    Open(usize),
    /// Just this position.
    Position(usize),
}

/// A part of a subject that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Bytes from, to.
    Text(usize, usize),
    /// A position, counted from one.
    Position(usize),
}

/// Why there is no answer.
pub type Problem = &'static str;

/// A match under way.
pub struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: Vec<Capture>,
    depth: u32,
    steps: u32,
    go_on: &'a dyn Fn() -> Result<(), Problem>,
}

type Matched = Result<Option<usize>, Problem>;

impl<'a> Matcher<'a> {
    /// A matcher; `go_on` is asked now and then.
    pub fn new(subject: &'a [u8], pattern: &'a [u8], go_on: &'a dyn Fn() -> Result<(), Problem>) -> Matcher<'a> {
        Matcher { subject, pattern, captures: Vec::new(), depth: 0, steps: 0, go_on }
    }

    /// Match at this position; tells where the match ends.
    pub fn match_at(&mut self, position: usize) -> Matched {
        self.captures.clear();
        self.depth = 0;
        self.run(position, 0)
    }

    /// How many captures the match has.
    pub fn count(&self) -> usize {
        self.captures.len()
    }

    /// A capture of the match that was found from `start` to `end`; without any, the match itself is the first.
    pub fn capture(&self, index: usize, start: usize, end: usize) -> Result<Found, Problem> {
        match self.captures.get(index) {
            None if index == 0 => Ok(Found::Text(start, end)),
            None => Err("invalid capture index"),
            Some(Capture::Open(_)) => Err("unfinished capture"),
            Some(Capture::Position(at)) => Ok(Found::Position(at + 1)),
            Some(Capture::Text(from, len)) => Ok(Found::Text(*from, from + len)),
        }
    }

    fn step(&mut self) -> Result<(), Problem> {
        self.steps += 1;
        if self.steps >= STRETCH {
            self.steps = 0;
            (self.go_on)()?;
        }
        Ok(())
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.pattern.get(at).copied()
    }

    /// Match the pattern from `p` on at `s`.
    fn run(&mut self, s: usize, p: usize) -> Matched {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("pattern too complex");
        }
        let result = self.items(s, p);
        self.depth -= 1;
        result
    }

    fn items(&mut self, mut s: usize, mut p: usize) -> Matched {
        loop {
            self.step()?;
            let Some(item) = self.byte(p) else {
                return Ok(Some(s));
            };
            match item {
                b'(' if self.byte(p + 1) == Some(b')') => return self.open(s, p + 2, Capture::Position(s)),
                b'(' => return self.open(s, p + 1, Capture::Open(s)),
                b')' => return self.close(s, p + 1),
                b'$' if p + 1 == self.pattern.len() => {
                    return Ok((s == self.subject.len()).then_some(s));
                }
                b'%' if self.byte(p + 1) == Some(b'b') => match self.balanced(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                b'%' if self.byte(p + 1) == Some(b'f') => {
                    p += 2;
                    if self.byte(p) != Some(b'[') {
                        return Err("missing '[' after '%f' in pattern");
                    }
                    let end = self.item_end(p)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                b'%' if self.byte(p + 1).is_some_and(|digit| digit.is_ascii_digit()) => {
                    let Some(end) = self.again(s, self.pattern[p + 1])? else {
                        return Ok(None);
                    };
                    (s, p) = (end, p + 2);
                }
                _ => {
                    let end = self.item_end(p)?;
                    let fits = s < self.subject.len() && self.single(self.subject[s], p, end);
                    match self.byte(end) {
                        Some(b'?') => {
                            if fits && let Some(found) = self.run(s + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.longest(s, p, end),
                        Some(b'+') => return if fits { self.longest(s + 1, p, end) } else { Ok(None) },
                        Some(b'-') => return self.shortest(s, p, end),
                        _ if fits => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn open(&mut self, s: usize, p: usize, capture: Capture) -> Matched {
        if self.captures.len() >= MOST_CAPTURES {
            return Err("too many captures");
        }
        let level = self.captures.len();
        self.captures.push(capture);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures.truncate(level);
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Matched {
        let open = self.captures.iter().rposition(|capture| matches!(capture, Capture::Open(_)));
        let Some(level) = open else {
            return Err("invalid pattern capture");
        };
        let before = self.captures[level];
        if let Capture::Open(from) = before {
            self.captures[level] = Capture::Text(from, s - from);
        }
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[level] = before;
        }
        Ok(found)
    }

    fn balanced(&mut self, s: usize, p: usize) -> Matched {
        let (Some(open), Some(close)) = (self.byte(p), self.byte(p + 1)) else {
            return Err("unbalanced pattern");
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for (at, &byte) in self.subject.iter().enumerate().skip(s + 1) {
            self.step()?;
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    fn longest(&mut self, s: usize, p: usize, end: usize) -> Matched {
        let mut count = 0;
        while s + count < self.subject.len() && self.single(self.subject[s + count], p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn shortest(&mut self, mut s: usize, p: usize, end: usize) -> Matched {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if s >= self.subject.len() || !self.single(self.subject[s], p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    /// Match what an earlier capture holds.
    fn again(&mut self, s: usize, digit: u8) -> Matched {
        let index = usize::from(digit.wrapping_sub(b'1'));
        match self.captures.get(index) {
            Some(Capture::Text(from, len)) => {
                let part = &self.subject[*from..from + len];
                Ok(self.subject[s..].starts_with(part).then_some(s + len))
            }
            Some(Capture::Position(_)) => Ok(None),
            _ => Err("invalid capture index"),
        }
    }

    /// Where the item at `p` ends.
    fn item_end(&self, p: usize) -> Result<usize, Problem> {
        match self.byte(p) {
            Some(b'%') => {
                if self.byte(p + 1).is_none() {
                    return Err("malformed pattern (ends with '%')");
                }
                Ok(p + 2)
            }
            Some(b'[') => {
                let mut at = p + 1;
                if self.byte(at) == Some(b'^') {
                    at += 1;
                }
                // The first one, whatever it is, belongs to the set.
                loop {
                    match self.byte(at) {
                        None => return Err("malformed pattern (missing ']')"),
                        Some(b'%') if self.byte(at + 1).is_some() => at += 2,
                        Some(_) => at += 1,
                    }
                    if self.byte(at) == Some(b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn single(&self, byte: u8, p: usize, end: usize) -> bool {
        match self.pattern[p] {
            b'.' => true,
            b'%' => in_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether a byte is in the set from `p`, its bracket, to `close`.
    fn in_set(&self, byte: u8, p: usize, close: usize) -> bool {
        let mut at = p + 1;
        let inside = if self.byte(at) == Some(b'^') {
            at += 1;
            false
        } else {
            true
        };
        while at < close {
            if self.pattern[at] == b'%' {
                if in_class(byte, self.pattern[at + 1]) {
                    return inside;
                }
                at += 2;
            } else if self.byte(at + 1) == Some(b'-') && at + 2 < close {
                if (self.pattern[at]..=self.pattern[at + 2]).contains(&byte) {
                    return inside;
                }
                at += 3;
            } else {
                if self.pattern[at] == byte {
                    return inside;
                }
                at += 1;
            }
        }
        !inside
    }
}

fn in_class(byte: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    inside != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(subject: &str, pattern: &str) -> Result<Option<(usize, usize)>, Problem> {
        let go_on = || Ok(());
        let mut matcher = Matcher::new(subject.as_bytes(), pattern.as_bytes(), &go_on);
        for start in 0..=subject.len() {
            if let Some(end) = matcher.match_at(start)? {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }

    #[test]
    fn patterns_match_as_in_lua() {
        for (subject, pattern, wanted) in [
            ("hello", "l+", Some((2, 4))),
            ("hello", "l-o", Some((2, 5))),
            ("key:12", "%d+$", Some((4, 6))),
            ("f(a(b)c)d", "%b()", Some((1, 8))),
            ("THE (quick) fox", "%f[%a]%a+", Some((0, 3))),
            ("abcabc", "(abc)%1", Some((0, 6))),
            ("a]b", "[]]", Some((1, 2))),
            ("a-b", "[a%-]+", Some((0, 2))),
            ("xyz", "[^x]", Some((1, 2))),
            ("abc", "x?b", Some((1, 2))),
            ("", "", Some((0, 0))),
            ("abc", "z", None),
        ] {
            assert_eq!(first(subject, pattern), Ok(wanted), "{pattern}");
        }
        for bad in ["%", "[a", "[", "(a", "a)", "%b", "%f", "%1", "[%"] {
            let go_on = || Ok(());
            let mut matcher = Matcher::new(b"a", bad.as_bytes(), &go_on);
            let outcome = matcher.match_at(0);
            let unfinished = matches!(outcome, Ok(Some(end)) if matcher.capture(0, 0, end).is_err());
            assert!(outcome.is_err() || unfinished, "{bad}: {outcome:?}");
        }
    }

    #[test]
    fn what_takes_for_ever_is_stopped() {
        let stop = || Err("stopped");
        let subject = vec![b'a'; 3000];
        assert_eq!(Matcher::new(&subject, b"(.-)(.-)(.-)(.-)b", &stop).match_at(0), Err("stopped"));
        let go_on = || Ok(());
        assert_eq!(Matcher::new(&subject, &b"a?".repeat(3000), &go_on).match_at(0), Err("pattern too complex"));
    }
}
