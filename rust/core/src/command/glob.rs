//! Patterns as Redis has them, for KEYS, SCAN, channels, names of settings, and the rights of users.

/// Whether `text` matches a glob pattern: `*`, `?`, `[a-z]`, `[^x]`, `\`. Linear in the text for each star.
pub fn glob(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    let (mut p, mut t) = (0, 0);
    // Where to go back to: just after the last star, and the text it has swallowed so far. One star
    // is enough to remember, so hostile patterns cost no more than pattern length times text length.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let matched = match pattern.get(p) {
            Some(b'*') => {
                while pattern.get(p) == Some(&b'*') {
                    p += 1;
                }
                if p == pattern.len() {
                    return true;
                }
                retry = Some((p, t));
                continue;
            }
            None if t == text.len() => return true,
            None => false,
            Some(_) if t == text.len() => return false,
            Some(b'?') => {
                p += 1;
                true
            }
            Some(b'[') => {
                let (hit, next) = class(pattern, p + 1, fold(text[t]), &fold);
                p = next;
                hit
            }
            Some(b'\\') if p + 1 < pattern.len() => {
                p += 2;
                fold(pattern[p - 1]) == fold(text[t])
            }
            Some(&byte) => {
                p += 1;
                fold(byte) == fold(text[t])
            }
        };
        if matched {
            t += 1;
            continue;
        }
        match retry {
            Some((after_star, swallowed)) if swallowed < text.len() => {
                retry = Some((after_star, swallowed + 1));
                p = after_star;
                t = swallowed + 1;
            }
            _ => return false,
        }
    }
}

/// A bracketed class from just after its `[`: whether the byte is in it, and where the pattern goes on.
fn class(pattern: &[u8], start: usize, byte: u8, fold: &impl Fn(u8) -> u8) -> (bool, usize) {
    let mut at = start;
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut hit = false;
    loop {
        match pattern.get(at) {
            None => return (hit != negated, at),
            Some(b'\\') if at + 1 < pattern.len() => {
                at += 1;
                hit |= fold(pattern[at]) == byte;
            }
            Some(b']') => return (hit != negated, at + 1),
            Some(&low) if pattern.get(at + 1) == Some(&b'-') && at + 2 < pattern.len() => {
                let (low, high) = (fold(low), fold(pattern[at + 2]));
                let (low, high) = (low.min(high), low.max(high));
                hit |= (low..=high).contains(&byte);
                at += 2;
            }
            Some(&each) => hit |= fold(each) == byte,
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h*llo", "heeeell", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hxllo", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[", "[", false),
            ("", "", true),
            ("", "x", false),
            ("x*", "x", true),
            ("*[0-9]*", "ab3c", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes(), false), expected, "{pattern} {text}");
        }
        assert!(glob(b"HeLLo", b"hEllO", true));
    }

    #[test]
    fn a_pattern_of_many_stars_stays_cheap() {
        let pattern = b"a*".repeat(500);
        assert!(!glob(&pattern, &b"a".repeat(400), false));
    }
}
