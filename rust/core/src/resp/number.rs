//! Numbers as Redis reads and prints them.

/// A 64-bit integer in its only spelling: no plus sign, no leading zeros, no blanks.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    // One digit is most of what a protocol header holds.
    if let [digit @ b'0'..=b'9'] = text {
        return Some(i64::from(digit - b'0'));
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 || !(b'1'..=b'9').contains(&digits[0]) {
        return None;
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0'); // 19 digits cannot overflow 64 bits.
    }
    if negative { (value <= 1 << 63).then(|| (value as i64).wrapping_neg()) } else { i64::try_from(value).ok() }
}

/// A floating-point number as the C library reads it: decimal or hexadecimal, `inf`, no blanks around; never NaN.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    if let Some(value) = parse_short_digits(text) {
        return Some(value);
    }
    if text.is_empty() || text.len() > 255 || text[0].is_ascii_whitespace() {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    if let Some(value) = parse_hex_float(text) {
        return Some(value);
    }
    let value: f64 = text.parse().ok()?;
    // What is too small to be told from zero is an error unless zero was written out.
    if value == 0.0
        && text.bytes().take_while(|byte| !byte.eq_ignore_ascii_case(&b'e')).any(|byte| matches!(byte, b'1'..=b'9'))
    {
        return None;
    }
    // An overflow to infinity is an error unless infinity was written out.
    if value.is_nan() || (value.is_infinite() && !text.to_ascii_lowercase().contains("inf")) {
        return None;
    }
    Some(value)
}

/// Up to fifteen digits and nothing else, as most scores are: exact, and no need of a general parser.
#[inline]
fn parse_short_digits(text: &[u8]) -> Option<f64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    let mut value = 0u64;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value as f64)
}

fn parse_hex_float(text: &str) -> Option<f64> {
    let (sign, rest) = match text.as_bytes() {
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let digits = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"))?;
    let (mantissa, exponent) = match digits.find(['p', 'P']) {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0f64;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let value = sign * value * 2f64.powi(exponent.checked_sub(4 * fraction.len() as i32)?);
    value.is_finite().then_some(value)
}

/// Append a double the way Redis 7.0 prints it: `%.17g`, with `inf` and `-inf`.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
        return;
    }
    if value.is_nan() {
        out.extend_from_slice(b"nan");
        return;
    }
    // Whole numbers, most scores, need no floating-point printing; -0 does.
    if value == value.trunc() && value.abs() < 1e17 && !(value == 0.0 && value.is_sign_negative()) {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        return;
    }
    write_general(out, value, 17);
}

/// Append a double as C's `%.{significant}g` writes it.
pub fn write_g(out: &mut Vec<u8>, value: f64, significant: usize) {
    if value.is_finite() {
        write_general(out, value, significant.max(1));
    } else {
        let sign: &[u8] = if value.is_sign_negative() { b"-" } else { b"" };
        out.extend_from_slice(sign);
        out.extend_from_slice(if value.is_nan() { b"nan" } else { b"inf" });
    }
}

/// `%.{significant}g` of a finite number.
fn write_general(out: &mut Vec<u8>, value: f64, significant: usize) {
    let text = format!("{value:.*e}", significant - 1); // d.ddde-x, correctly rounded.
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    out.extend_from_slice(sign.as_bytes());
    if (-4..significant as i32).contains(&exponent) {
        if exponent < 0 {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
            out.extend_from_slice(digits.as_bytes());
        } else {
            let whole = exponent as usize + 1;
            out.extend_from_slice(&digits.as_bytes()[..whole.min(digits.len())]);
            out.extend(std::iter::repeat_n(b'0', whole.saturating_sub(digits.len())));
            if digits.len() > whole {
                out.push(b'.');
                out.extend_from_slice(&digits.as_bytes()[whole..]);
            }
        }
    } else {
        out.extend_from_slice(&digits.as_bytes()[..1]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits.as_bytes()[1..]);
        }
        out.push(b'e');
        out.push(if exponent < 0 { b'-' } else { b'+' });
        out.extend_from_slice(format!("{:02}", exponent.abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(value: f64) -> String {
        let mut out = Vec::new();
        write_f64(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_have_one_spelling() {
        for text in ["0", "7", "-1", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(parse_i64(text.as_bytes()).unwrap().to_string(), text);
        }
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "9223372036854775808", "-9223372036854775809", "1e3"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn doubles_print_as_the_c_library_does() {
        for (value, text) in [
            (3.0, "3"),
            (0.1, "0.10000000000000001"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (1e17, "1e+17"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e-5, "1.0000000000000001e-05"),
            (0.0001, "0.0001"),
            (f64::INFINITY, "inf"),
            (1e300, "1.0000000000000001e+300"),
            (3.3, "3.2999999999999998"),
        ] {
            assert_eq!(printed(value), text);
        }
    }

    #[test]
    fn doubles_are_read_as_the_c_library_does() {
        assert_eq!(parse_f64(b"0x10"), Some(16.0));
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"1e400"), None);
        assert_eq!(parse_f64(b"-1e-400"), None);
        assert_eq!(parse_f64(b"-0.0e-400"), Some(0.0));
        assert_eq!(parse_f64(b"000123456789"), Some(123_456_789.0));
        for text in [&b"nan"[..], b"", b" 1", b"1 ", b"x"] {
            assert_eq!(parse_f64(text), None);
        }
    }
}
