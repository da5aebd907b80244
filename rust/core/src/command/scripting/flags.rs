//! What a script says of itself in its first line: `#!lua name=mylib flags=no-writes,allow-oom`.

use crate::command::Fault;
use crate::resp::request::split_words;

/// Properties of a script or a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// It changes nothing.
    pub const NO_WRITES: Flags = Flags(1);
    /// It may run, and write, while memory is short.
    pub const ALLOW_OOM: Flags = Flags(2);
    /// It may run on a replica that has lost its main.
    pub const ALLOW_STALE: Flags = Flags(4);
    /// It cannot run on a node of a cluster.
    pub const NO_CLUSTER: Flags = Flags(8);
    /// It may use keys of several slots.
    pub const ALLOW_CROSS_SLOT_KEYS: Flags = Flags(16);
    /// It says nothing of itself: a script as those before Redis 7.
    pub const SILENT: Flags = Flags(32);

    /// Whether it has a property.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    /// Add a property.
    pub fn add(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }
}

/// The names, in the order in which FUNCTION LIST tells them.
pub const NAMES: [(&str, Flags); 5] = [
    ("no-writes", Flags::NO_WRITES),
    ("allow-oom", Flags::ALLOW_OOM),
    ("allow-stale", Flags::ALLOW_STALE),
    ("no-cluster", Flags::NO_CLUSTER),
    ("allow-cross-slot-keys", Flags::ALLOW_CROSS_SLOT_KEYS),
];

/// The property with this name.
pub fn named(name: &[u8]) -> Option<Flags> {
    NAMES.iter().find(|(each, _)| each.as_bytes() == name).map(|(_, flag)| *flag)
}

/// What a script says of itself, and where its code begins.
pub fn of_script(body: &[u8]) -> Result<(Flags, usize), Fault> {
    if !body.starts_with(b"#!") {
        return Ok((Flags::SILENT, 0));
    }
    let Some(end) = memchr::memchr(b'\n', body) else {
        return Err(Fault::new("ERR Invalid script shebang"));
    };
    let words = split_words(&body[..end]).unwrap_or_default();
    let Some((engine, options)) = words.split_first() else {
        return Err(Fault::new("ERR Invalid engine in script shebang"));
    };
    if engine != b"#!lua" {
        return Err(quoting("ERR Unexpected engine in script shebang: ", engine));
    }
    let mut flags = Flags::default();
    for option in options {
        let Some(list) = option.strip_prefix(b"flags=") else {
            return Err(quoting("ERR Unknown lua shebang option: ", option));
        };
        if list.is_empty() {
            continue;
        }
        for name in list.split(|&byte| byte == b',') {
            flags.add(named(name).ok_or_else(|| quoting("ERR Unexpected flag in script shebang: ", name))?);
        }
    }
    Ok((flags, end))
}

/// An error that ends in what a client sent.
pub fn quoting(text: &str, bytes: &[u8]) -> Fault {
    Fault::bytes([text.as_bytes(), bytes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_what_a_script_is() {
        assert_eq!(of_script(b"return 1"), Ok((Flags::SILENT, 0)));
        assert_eq!(of_script(b"#!lua\nreturn 1"), Ok((Flags::default(), 5)));
        let (flags, start) = of_script(b"#!lua flags=no-writes,allow-oom\nreturn 1").unwrap();
        assert!(flags.has(Flags::NO_WRITES) && flags.has(Flags::ALLOW_OOM) && !flags.has(Flags::SILENT));
        assert_eq!(start, 31);
        for bad in [&b"#!lua"[..], b"#!\n", b"#!python\n", b"#!lua x=1\n", b"#!lua flags=no\n"] {
            assert!(of_script(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
