//! JSON to values.

use super::Options;
use crate::command::scripting::sandbox::Wrong;
use mlua::{Lua, Value};

/// Deepest value that the thread's stack bears, whatever a script sets.
const DEEPEST: i64 = 1000;

/// What stands next in a text.
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Colon,
    Comma,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    Wrong(&'static str),
}

impl Token {
    /// How an error calls it.
    fn name(&self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::Text(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Wrong(why) => why,
        }
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    /// Where the token read last begins, or, of a wrong one, where it is wrong.
    index: usize,
    depth: i64,
    options: &'a Options,
}

/// The value that a text is.
pub(super) fn decode(lua: &Lua, text: &[u8], options: &Options) -> Result<Value, Wrong> {
    if let [first, second, ..] = text
        && (*first == 0 || *second == 0)
    {
        return Err(Wrong::text("JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut reader = Reader { lua, text, at: 0, index: 0, depth: 0, options };
    let token = reader.next();
    let value = reader.value(token)?;
    match reader.next() {
        Token::End => Ok(value),
        other => Err(reader.unexpected("the end", &other)),
    }
}

impl Reader<'_> {
    fn unexpected(&self, wanted: &str, found: &Token) -> Wrong {
        Wrong::text(format!("Expected {wanted} but found {} at character {}", found.name(), self.index + 1))
    }

    /// A byte, zero beyond the end: as the text ends for C.
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn next(&mut self) -> Token {
        while matches!(self.byte(self.at), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.index = self.at;
        let single = match self.byte(self.at) {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b':' => Token::Colon,
            b',' => Token::Comma,
            0 if self.at >= self.text.len() => return Token::End,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => {
                if !self.options.odd_read.get() && self.is_odd_number() {
                    return Token::Wrong("invalid number");
                }
                return self.number();
            }
            _ => {
                for (word, token) in
                    [(&b"true"[..], Token::Boolean(true)), (b"false", Token::Boolean(false)), (b"null", Token::Null)]
                {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return token;
                    }
                }
                if self.options.odd_read.get() && self.is_odd_number() {
                    return self.number();
                }
                return Token::Wrong("invalid token");
            }
        };
        self.at += 1;
        single
    }

    /// Whether what stands next is a number that JSON does not have.
    fn is_odd_number(&self) -> bool {
        let mut at = self.at;
        match self.byte(at) {
            b'+' => return true,
            b'-' => at += 1,
            _ => {}
        }
        match self.byte(at) {
            b'0' => matches!(self.byte(at + 1), b'x' | b'X' | b'0'..=b'9'),
            0..=b'9' => false,
            _ => {
                let word = self.text.get(at..at + 3).unwrap_or_default();
                word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan")
            }
        }
    }

    fn number(&mut self) -> Token {
        let (number, len) = leading_number(&self.text[self.at..]);
        if len == 0 {
            return Token::Wrong("invalid number");
        }
        self.at += len;
        Token::Number(number)
    }

    fn string(&mut self) -> Token {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            match self.byte(self.at) {
                b'"' => {
                    self.at += 1;
                    return Token::Text(text);
                }
                0 => return self.wrong("unexpected end of string"),
                b'\\' => {
                    let plain = match self.byte(self.at + 1) {
                        b'u' => {
                            let Some(len) = self.unicode(&mut text) else {
                                return self.wrong("invalid unicode escape code");
                            };
                            self.at += len;
                            continue;
                        }
                        b'b' => 8,
                        b't' => 9,
                        b'n' => 10,
                        b'f' => 12,
                        b'r' => 13,
                        byte @ (b'"' | b'\\' | b'/') => byte,
                        _ => return self.wrong("invalid escape code"),
                    };
                    text.push(plain);
                    self.at += 2;
                }
                byte => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn wrong(&mut self, why: &'static str) -> Token {
        self.index = self.at;
        Token::Wrong(why)
    }

    /// Read `\uXXXX`, or two of them that are one character; returns how long it is.
    fn unicode(&self, text: &mut Vec<u8>) -> Option<usize> {
        let hex = |at: usize| {
            let digits = self.text.get(at..at + 4)?;
            digits.iter().try_fold(0u32, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
        };
        let mut code = hex(self.at + 2)?;
        let mut len = 6;
        if code & 0xF800 == 0xD800 {
            if code & 0x400 != 0 || self.byte(self.at + 6) != b'\\' || self.byte(self.at + 7) != b'u' {
                return None;
            }
            let low = hex(self.at + 8)?;
            if low & 0xFC00 != 0xDC00 {
                return None;
            }
            code = (((code & 0x3FF) << 10) | (low & 0x3FF)) + 0x1_0000;
            len = 12;
        }
        let letter = char::from_u32(code)?;
        text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        Some(len)
    }

    fn deeper(&mut self) -> Result<(), Wrong> {
        self.depth += 1;
        if self.depth > self.options.deepest_read.get().min(DEEPEST) {
            let text = format!("Found too many nested data structures ({}) at character {}", self.depth, self.at);
            return Err(Wrong::text(text));
        }
        Ok(())
    }

    fn value(&mut self, token: Token) -> Result<Value, Wrong> {
        Ok(match token {
            Token::Text(text) => Value::String(self.lua.create_string(text)?),
            Token::Number(number) => Value::Number(number),
            Token::Boolean(value) => Value::Boolean(value),
            Token::Null => Value::NULL,
            Token::ObjectBegin => self.object()?,
            Token::ArrayBegin => self.array()?,
            other => return Err(self.unexpected("value", &other)),
        })
    }

    fn object(&mut self) -> Result<Value, Wrong> {
        self.deeper()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if !matches!(token, Token::ObjectEnd) {
            loop {
                let Token::Text(key) = token else {
                    return Err(self.unexpected("object key string", &token));
                };
                match self.next() {
                    Token::Colon => {}
                    other => return Err(self.unexpected("colon", &other)),
                }
                let first = self.next();
                let value = self.value(first)?;
                table.raw_set(self.lua.create_string(key)?, value)?;
                match self.next() {
                    Token::ObjectEnd => break,
                    Token::Comma => token = self.next(),
                    other => return Err(self.unexpected("comma or object end", &other)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> Result<Value, Wrong> {
        self.deeper()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if !matches!(token, Token::ArrayEnd) {
            let mut index = 1;
            loop {
                let value = self.value(token)?;
                table.raw_set(index, value)?;
                index += 1;
                match self.next() {
                    Token::ArrayEnd => break,
                    Token::Comma => token = self.next(),
                    other => return Err(self.unexpected("comma or array end", &other)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }
}

/// The number with which a text begins, as C's `strtod` finds it, and how long it is.
fn leading_number(text: &[u8]) -> (f64, usize) {
    let sign_len = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let sign = if text.first() == Some(&b'-') { -1.0 } else { 1.0 };
    let body = &text[sign_len..];
    for (word, value) in [(&b"infinity"[..], f64::INFINITY), (b"inf", f64::INFINITY), (b"nan", f64::NAN)] {
        if body.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word)) {
            return (sign * value, sign_len + word.len());
        }
    }
    if body.len() > 2 && body[0] == b'0' && body[1] | 0x20 == b'x' && body[2].is_ascii_hexdigit() {
        let digits = body[2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let value = body[2..2 + digits]
            .iter()
            .fold(0.0, |value, &digit| value * 16.0 + f64::from(char::from(digit).to_digit(16).unwrap_or(0)));
        return (sign * value, sign_len + 2 + digits);
    }
    let digits =
        |from: usize| body.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(0);
    let mut len = whole;
    let mut fraction = 0;
    if body.get(len) == Some(&b'.') {
        fraction = digits(len + 1);
        if whole + fraction > 0 {
            len += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return (0.0, 0);
    }
    if matches!(body.get(len), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(body.get(len + 1), Some(b'-' | b'+')));
        let exponent = digits(len + 1 + signed);
        if exponent > 0 {
            len += 1 + signed + exponent;
        }
    }
    let number = std::str::from_utf8(&body[..len]).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (sign * number, sign_len + len)
}
