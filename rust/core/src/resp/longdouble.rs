//! The arithmetic of INCRBYFLOAT and HINCRBYFLOAT: the x87's 80-bit floating point, in integers.
//!
//! Redis computes these in C's `long double` and prints with 17 decimals, so `0.1 + 0.2` is
//! `0.3` there and would be `0.30000000000000004` in 64 bits. Parsing, adding and printing are
//! correctly rounded (half to even), as the C library and the processor do it. Stateless.

use std::cmp::Ordering;

/// A finite or infinite 80-bit number; NaN cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongDouble {
    negative: bool,
    infinite: bool,
    mantissa: u64, // The value is mantissa * 2^exponent; the top bit is set unless the number is tiny or zero.
    exponent: i32,
}

/// The exponent of the smallest numbers, whose top bits may be zero.
const LOWEST: i32 = -16445;
/// The exponent of the largest numbers.
const HIGHEST: i32 = 16320;
/// No text that Redis takes for a number is as long as this.
const LONGEST_TEXT: usize = 5 * 1024;

impl LongDouble {
    /// Nothing.
    pub const ZERO: LongDouble = LongDouble { negative: false, infinite: false, mantissa: 0, exponent: LOWEST };

    /// The number a text stands for, or `None` when Redis would call it no valid float: C's syntax
    /// with hexadecimal digits and `inf`, but no blanks, no NaN and nothing too large or too small.
    pub fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.is_empty() || text.len() >= LONGEST_TEXT {
            return None;
        }
        let (negative, text) = match text[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Some(LongDouble { negative, infinite: true, ..Self::ZERO });
        }
        let number = match text {
            [b'0', b'x' | b'X', digits @ ..] => from_hexadecimal(digits)?,
            digits => from_decimal(digits)?,
        };
        Some(LongDouble { negative, ..number })
    }

    /// Whether this is a number and no infinity.
    pub fn is_finite(self) -> bool {
        !self.infinite
    }

    /// The sum, or `None` when it is no finite number.
    pub fn plus(self, other: LongDouble) -> Option<LongDouble> {
        if self.infinite || other.infinite {
            return None;
        }
        let (large, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        // 62 bits below the mantissa: enough that what is shifted out never decides more than a tie.
        let high = u128::from(large.mantissa) << 62;
        let full = u128::from(small.mantissa) << 62;
        let distance = (large.exponent - small.exponent) as u32;
        let low = full.checked_shr(distance).unwrap_or(0);
        let lost = low.checked_shl(distance).unwrap_or(0) != full;
        let (negative, sum) = if large.negative == small.negative {
            (large.negative, high + low)
        } else {
            match high.cmp(&low) {
                Ordering::Greater => (large.negative, high - low - u128::from(lost)),
                Ordering::Less => (small.negative, low - high),
                Ordering::Equal => (false, 0),
            }
        };
        let sum = round(sum, lost, large.exponent - 62)?;
        Some(LongDouble { negative, ..sum })
    }

    /// The number in plain digits, up to 17 of them behind the point and no zeros at the end.
    pub fn text(self) -> Vec<u8> {
        if self.infinite {
            return if self.negative { b"-inf".to_vec() } else { b"inf".to_vec() };
        }
        let mut digits = if self.exponent >= 0 {
            let mut whole = Big::from(u128::from(self.mantissa));
            whole.shift_left(self.exponent as u32);
            whole.decimal()
        } else {
            // In units of the 17th decimal: 64 bits times 10^17 fit 128.
            let scaled = u128::from(self.mantissa) * 10u128.pow(17);
            let units = shift_right_to_even(scaled, self.exponent.unsigned_abs());
            let text = format!("{units:018}");
            let (whole, decimals) = text.split_at(text.len() - 17);
            let decimals = decimals.trim_end_matches('0');
            if decimals.is_empty() { whole.to_owned() } else { format!("{whole}.{decimals}") }
        };
        if self.negative && digits != "0" {
            digits.insert(0, '-');
        }
        digits.into_bytes()
    }
}

impl From<i64> for LongDouble {
    fn from(value: i64) -> Self {
        let number = round(u128::from(value.unsigned_abs()), false, 0).unwrap_or(Self::ZERO);
        LongDouble { negative: value < 0, ..number }
    }
}

/// `bits * 2^exponent`, plus a little when `more`, as the nearest number; `None` when it is too large.
fn round(bits: u128, more: bool, exponent: i32) -> Option<LongDouble> {
    if bits == 0 {
        return Some(LongDouble::ZERO);
    }
    let width = 128 - bits.leading_zeros() as i32;
    let shift = (width - 64).max(LOWEST - exponent);
    let (mantissa, exponent) = if shift <= 0 {
        ((bits << -shift) as u64, exponent + shift)
    } else if shift > 128 {
        (0, LOWEST)
    } else {
        // `more` breaks a tie upwards: as a bit below the last one it is part of the comparison.
        let kept = bits.checked_shr(shift as u32).unwrap_or(0);
        let rest = bits ^ kept.checked_shl(shift as u32).unwrap_or(0);
        let half = 1u128 << (shift - 1);
        let up = rest > half || (rest == half && (more || kept & 1 == 1));
        let kept = kept + u128::from(up);
        if kept >> 64 != 0 { (1 << 63, exponent + shift + 1) } else { (kept as u64, exponent + shift) }
    };
    (exponent <= HIGHEST).then_some(LongDouble { negative: false, infinite: false, mantissa, exponent })
}

fn shift_right_to_even(value: u128, by: u32) -> u128 {
    if by >= 128 {
        return 0; // The values here are below 2^121: less than half.
    }
    let kept = value >> by;
    let rest = value ^ (kept << by);
    let half = 1u128 << (by - 1);
    kept + u128::from(rest > half || (rest == half && kept & 1 == 1))
}

/// What `[eEpP][+-]digits` says, nothing being zero; `None` when it is something else.
fn exponent_of(text: &[u8], letter: u8) -> Option<i64> {
    let [first, rest @ ..] = text else { return Some(0) };
    if first.to_ascii_lowercase() != letter {
        return None;
    }
    let (negative, digits) = match rest {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A thousand thousand is beyond every range already.
    let size = digits.iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -size } else { size })
}

/// The digits before and behind the point, how many are behind it, and what follows.
fn split_digits(text: &[u8], is_digit: impl Fn(&u8) -> bool) -> Option<(Vec<u8>, i64, &[u8])> {
    let whole = text.iter().take_while(|byte| is_digit(byte)).count();
    let mut digits = text[..whole].to_vec();
    let mut rest = &text[whole..];
    let mut behind = 0;
    if let [b'.', tail @ ..] = rest {
        behind = tail.iter().take_while(|byte| is_digit(byte)).count();
        digits.extend_from_slice(&tail[..behind]);
        rest = &tail[behind..];
    }
    (!digits.is_empty()).then_some((digits, behind as i64, rest))
}

/// A number that is not zero must not be rounded to zero: Redis refuses those.
fn unless_vanished(number: LongDouble) -> Option<LongDouble> {
    (number.mantissa != 0).then_some(number)
}

fn from_hexadecimal(text: &[u8]) -> Option<LongDouble> {
    let (digits, behind, rest) = split_digits(text, u8::is_ascii_hexdigit)?;
    let mut exponent = exponent_of(rest, b'p')? - 4 * behind;
    let mut bits = 0u128;
    let mut more = false;
    for digit in digits {
        let digit = (digit as char).to_digit(16)?;
        if bits >> 120 == 0 {
            bits = bits << 4 | u128::from(digit);
        } else {
            more |= digit != 0;
            exponent += 4;
        }
    }
    if bits == 0 {
        return Some(LongDouble::ZERO);
    }
    unless_vanished(round(bits, more, exponent.clamp(-40_000, 40_000) as i32)?)
}

fn from_decimal(text: &[u8]) -> Option<LongDouble> {
    let (digits, behind, rest) = split_digits(text, u8::is_ascii_digit)?;
    let exponent = exponent_of(rest, b'e')? - behind;
    let leading = digits.iter().take_while(|&&digit| digit == b'0').count();
    let digits = &digits[leading..];
    if digits.is_empty() {
        return Some(LongDouble::ZERO);
    }
    let size = digits.len() as i64 + exponent; // The number lies below 10^size and not below 10^(size - 1).
    if !(-4960..=4940).contains(&size) {
        return None;
    }
    if digits.len() <= 19 && (-19..=0).contains(&exponent) {
        // The usual case, without big numbers: both sides of the fraction fit 64 bits.
        let value = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let divisor = 10u64.pow(exponent.unsigned_abs() as u32);
        let (above, below) = (value.leading_zeros(), divisor.leading_zeros());
        let dividend = u128::from(value) << (above + 64);
        let divisor = u128::from(divisor << below);
        let (quotient, rest) = (dividend / divisor, dividend % divisor);
        let doubled = quotient * 2 + u128::from(rest * 2 >= divisor);
        let more = rest != 0 && rest * 2 != divisor;
        return round(doubled, more, below as i32 - above as i32 - 65);
    }
    let mut number = Big::from(0);
    for part in digits.chunks(9) {
        let value = part.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        number.multiply_add(10u32.pow(part.len() as u32), value);
    }
    if exponent >= 0 {
        number.multiply_power_of_ten(exponent as u32);
        let excess = number.width().saturating_sub(128);
        let (bits, more) = number.top_bits(excess);
        return round(bits, more, excess as i32);
    }
    let mut divisor = Big::from(1);
    divisor.multiply_power_of_ten(exponent.unsigned_abs() as u32);
    // Line both up, then take the quotient bit by bit: 66 of them and whether anything is left.
    let (width, below) = (number.width(), divisor.width());
    if width < below {
        number.shift_left(below - width);
    } else {
        divisor.shift_left(width - below);
    }
    let mut quotient = 0u128;
    for step in 0..67 {
        if step > 0 {
            number.shift_left(1);
        }
        let fits = number.compare(&divisor) != Ordering::Less;
        if fits {
            number.subtract(&divisor);
        }
        quotient = quotient << 1 | u128::from(fits);
    }
    unless_vanished(round(quotient, !number.is_zero(), width as i32 - below as i32 - 66)?)
}

/// A natural number of any size, lowest 32 bits first, without zeros at the top.
struct Big(Vec<u32>);

impl Big {
    fn from(mut value: u128) -> Big {
        let mut words = Vec::new();
        while value != 0 {
            words.push(value as u32);
            value >>= 32;
        }
        Big(words)
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bits it has up to its highest one.
    fn width(&self) -> u32 {
        self.0.last().map_or(0, |top| self.0.len() as u32 * 32 - top.leading_zeros())
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn multiply_power_of_ten(&mut self, mut power: u32) {
        while power > 0 {
            let step = power.min(9);
            self.multiply_add(10u32.pow(step), 0);
            power -= step;
        }
    }

    fn shift_left(&mut self, by: u32) {
        if self.is_zero() {
            return;
        }
        let (words, bits) = (by as usize / 32, by % 32);
        if bits > 0 {
            self.multiply_add(1 << bits, 0);
        }
        if words > 0 {
            self.0.splice(0..0, std::iter::repeat_n(0, words));
        }
    }

    /// The number without its lowest `by` bits, and whether any of those was set; at most 128 bits remain.
    fn top_bits(&self, by: u32) -> (u128, bool) {
        let (words, bits) = (by as usize / 32, by % 32);
        let mut top = 0u128;
        for (index, &word) in self.0.iter().enumerate().skip(words).rev() {
            if index == words {
                top = (top << (32 - bits)) | u128::from(word >> bits);
            } else {
                top = (top << 32) | u128::from(word);
            }
        }
        let cut = bits > 0 && self.0.get(words).is_some_and(|word| word << (32 - bits) != 0);
        (top, cut || self.0[..words.min(self.0.len())].iter().any(|&word| word != 0))
    }

    fn compare(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Take `other` away, which must not be larger.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = false;
        for (index, word) in self.0.iter_mut().enumerate() {
            let take = other.0.get(index).copied().unwrap_or(0);
            let (first, one) = word.overflowing_sub(take);
            let (second, two) = first.overflowing_sub(u32::from(borrow));
            *word = second;
            borrow = one || two;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn decimal(mut self) -> String {
        let mut parts = Vec::new();
        while !self.is_zero() {
            let mut rest = 0u64;
            for word in self.0.iter_mut().rev() {
                let value = rest << 32 | u64::from(*word);
                *word = (value / 1_000_000_000) as u32;
                rest = value % 1_000_000_000;
            }
            while self.0.last() == Some(&0) {
                self.0.pop();
            }
            parts.push(rest);
        }
        let Some(first) = parts.pop() else { return "0".to_owned() };
        let mut text = first.to_string();
        parts.iter().rev().for_each(|part| text.push_str(&format!("{part:09}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // SET to the first, INCRBYFLOAT by the second: what Debian's redis-server 7.0.15 answered on x86-64.
    const CASES: &[(&str, &str, &str)] = &[
        ("0.1", "0.2", "0.3"),
        ("10.50", "0.1", "10.6"),
        ("5.0e3", "2.0e2", "5200"),
        ("3", "-3", "0"),
        ("-1e-20", "0", "0"),
        ("1e-17", "0.5e-17", "0.00000000000000002"),
        ("0.5e-17", "0", "0"),
        ("1.5e-17", "0", "0.00000000000000002"),
        ("2.5e-17", "0", "0.00000000000000002"),
        ("9223372036854775807", "1", "9223372036854775808"),
        ("18446744073709551615", "0.5", "18446744073709551616"),
        ("18446744073709551616", "1", "18446744073709551616"),
        ("1.0000000000000001", "1.0000000000000001", "2.0000000000000002"),
        ("123456789.123456789", "987654321.987654321", "1111111111.11111110995989293"),
        ("1e30", "1", "1000000000000000000024696061952"),
        ("1e40", "-1e20", "9999999999999999999783686092270256259072"),
        ("0x1.8p3", "0xff", "267"),
        ("3.0e-3", "1", "1.003"),
        ("0.00000000000000001", "0", "0.00000000000000001"),
        ("-0.1", "-0.2", "-0.3"),
        ("1.18973149535723176502e4932", "1.18973149535723176502e4932", "none"),
        ("1e4931", "9e4932", "none"),
        ("3.6e-4951", "0", "0"),
        ("1.8e-4951", "0", "none"),
        ("33333333333333333333.333", "0.001", "33333333333333333334"),
        ("-0x.8p0", "1", "0.5"),
        ("0.30000000000000000000000000000001", "0", "0.3"),
        ("1e18", "0.000001", "1000000000000000000"),
        ("12345678901234567890123", "0", "12345678901234567889920"),
    ];

    fn sum(left: &str, right: &str) -> String {
        let add = || LongDouble::parse(left.as_bytes())?.plus(LongDouble::parse(right.as_bytes())?);
        add().map_or("none".to_owned(), |sum| String::from_utf8_lossy(&sum.text()).into_owned())
    }

    #[test]
    fn sums_are_those_of_a_real_redis_server() {
        for (left, right, expected) in CASES {
            assert_eq!(sum(left, right), *expected, "{left} + {right}");
        }
    }

    #[test]
    fn what_redis_refuses_is_refused() {
        let refused = [
            "",
            " 1",
            "1 ",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "0x",
            "0xg",
            "0x1p",
            "nan",
            "-nan",
            "infi",
            "1e5000",
            "1e-5000",
            "1,5",
            "1_000",
            "++1",
            "0x1p-20000",
            "0x1p20000",
            "1e99999999999999999999",
            "1.5.5",
            "\u{0}",
        ];
        for text in refused {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(LongDouble::parse(&[b'1'; 5120]), None);
        for text in ["0e99999999999999999999", "-0", "0x0", "0e-99999", "00000", ".0", "0."] {
            assert_eq!(sum(text, "0"), "0", "{text:?}");
        }
        for text in ["inf", "-INF", "+Infinity"] {
            assert!(LongDouble::parse(text.as_bytes()).is_some_and(|number| !number.is_finite()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_of_64_bits_come_back_as_they_were(value in any::<i64>()) {
            prop_assert_eq!(LongDouble::from(value).text(), value.to_string().into_bytes());
            prop_assert_eq!(LongDouble::parse(value.to_string().as_bytes()), Some(LongDouble::from(value)));
        }

        #[test]
        fn the_quick_way_and_the_long_way_of_parsing_agree(value in 1u64..10u64.pow(18), decimals in 0usize..18) {
            let digits = format!("{value:018}");
            let (whole, fraction) = digits.split_at(18 - decimals);
            let quick = LongDouble::parse(format!("{whole}.{fraction}").as_bytes());
            let long = LongDouble::parse(format!("{whole}.{fraction}{}", "0".repeat(20)).as_bytes());
            prop_assert_eq!(quick, long);
        }

        #[test]
        fn no_text_is_too_odd(text in "[-+]?[0-9a-fxXpPeE.]{0,12}") {
            if let Some(number) = LongDouble::parse(text.as_bytes()) {
                let _ = number.plus(number).map(LongDouble::text);
            }
        }
    }
}
