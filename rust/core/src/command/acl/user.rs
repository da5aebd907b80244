//! A user: passwords, and the selectors that say what may be done; read from and told as rules.
//!
//! A request is allowed when one selector allows all of it: the command, its keys and its channels.

use super::rights::Rights;
use crate::command::glob::glob;
use crate::command::table::{KeyUse, count};
use sha2::{Digest, Sha256};

/// What is wrong with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No such command or category.
    Unknown,
    /// It is no rule.
    Syntax,
    /// All keys are allowed already.
    AfterAllKeys,
    /// All channels are allowed already.
    AfterAllChannels,
    /// The password to be removed is none of the user's.
    NoSuchPassword,
    /// The digest of a password is malformed.
    BadDigest,
    /// A first argument of a sub-command.
    TooDeep,
}

impl Wrong {
    /// The words of Redis.
    pub fn text(self) -> &'static str {
        match self {
            Wrong::Unknown => "Unknown command or category name in ACL",
            Wrong::Syntax => "Syntax error",
            Wrong::AfterAllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
                 Try 'resetkeys' to start with an empty list of patterns"
            }
            Wrong::AfterAllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
                 effect. Try 'resetchannels' to start with an empty list of channels"
            }
            Wrong::NoSuchPassword => "The password you are trying to remove from the user does not exist",
            Wrong::BadDigest => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
            }
            Wrong::TooDeep => "Allowing first-arg of a subcommand is not supported",
        }
    }
}

/// Keys that may be read, or written, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    pattern: Box<[u8]>,
    read: bool,
    write: bool,
}

impl KeyPattern {
    fn of(rule: &[u8]) -> Result<KeyPattern, Wrong> {
        let (mut read, mut write, mut at) = (false, false, 1);
        if rule[0] == b'%' {
            while let Some(letter) = rule.get(at) {
                at += 1;
                match letter {
                    b'R' | b'r' if !read => read = true,
                    b'W' | b'w' if !write => write = true,
                    b'~' => break,
                    _ => return Err(Wrong::Syntax),
                }
            }
            if !read && !write {
                return Err(Wrong::Syntax);
            }
        } else {
            (read, write) = (true, true);
        }
        Ok(KeyPattern { pattern: without_blanks(&rule[at..])?.into(), read, write })
    }

    fn told(&self) -> Vec<u8> {
        let head: &[u8] = match (self.read, self.write) {
            (true, false) => b"%R~",
            (false, true) => b"%W~",
            _ => b"~",
        };
        [head, &self.pattern].concat()
    }
}

/// Words separate rules, so patterns cannot hold blanks.
fn without_blanks(pattern: &[u8]) -> Result<&[u8], Wrong> {
    if pattern.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0B)) {
        return Err(Wrong::Syntax);
    }
    Ok(pattern)
}

/// Commands, keys and channels that go together.
#[derive(Clone, Default)]
pub struct Selector {
    /// Which commands may be run.
    pub rights: Rights,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Box<[u8]>>,
}

impl Selector {
    fn new(all_channels: bool) -> Selector {
        Selector { rights: Rights::none(count()), all_channels, ..Selector::default() }
    }

    /// Whether nothing is forbidden.
    pub fn is_unlimited(&self) -> bool {
        self.all_keys && self.all_channels && self.rights.are_unlimited()
    }

    fn apply(&mut self, rule: &[u8]) -> Result<(), Wrong> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        if is("allkeys") || rule == b"~*" {
            (self.all_keys, self.keys) = (true, Vec::new());
        } else if is("resetkeys") {
            (self.all_keys, self.keys) = (false, Vec::new());
        } else if is("allchannels") || rule == b"&*" {
            (self.all_channels, self.channels) = (true, Vec::new());
        } else if is("resetchannels") {
            (self.all_channels, self.channels) = (false, Vec::new());
        } else if is("allcommands") || is("+@all") {
            self.rights = Rights::all(count());
        } else if is("nocommands") || is("-@all") {
            self.rights = Rights::none(count());
        } else {
            match rule.first() {
                Some(b'~' | b'%') => {
                    if self.all_keys {
                        return Err(Wrong::AfterAllKeys);
                    }
                    let new = KeyPattern::of(rule)?;
                    match self.keys.iter_mut().find(|old| old.pattern == new.pattern) {
                        Some(old) => (old.read, old.write) = (old.read || new.read, old.write || new.write),
                        None => self.keys.push(new),
                    }
                }
                Some(b'&') => {
                    if self.all_channels {
                        return Err(Wrong::AfterAllChannels);
                    }
                    let pattern = without_blanks(&rule[1..])?;
                    if !self.channels.iter().any(|old| **old == *pattern) {
                        self.channels.push(pattern.into());
                    }
                }
                Some(b'+' | b'-') => self.rights.apply(rule)?,
                _ => return Err(Wrong::Syntax),
            }
        }
        Ok(())
    }

    /// Whether a key may be used so.
    pub fn allows_key(&self, key: &[u8], uses: KeyUse) -> bool {
        let write = uses.0.iter().any(|word| matches!(*word, "insert" | "delete" | "update"));
        let read = uses.0.contains(&"access");
        self.all_keys
            || self
                .keys
                .iter()
                .any(|each| (each.read || !read) && (each.write || !write) && glob(&each.pattern, key, false))
    }

    /// Whether all keys may be read.
    pub fn reads_all_keys(&self) -> bool {
        self.all_keys || self.keys.iter().any(|each| each.read && *each.pattern == *b"*")
    }

    /// Whether a channel may be used, or a pattern of channels listened to.
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.all_channels
            || self.channels.iter().any(|each| if is_pattern { **each == *channel } else { glob(each, channel, false) })
    }

    /// The keys, as rules.
    pub fn keys_told(&self) -> Vec<u8> {
        if self.all_keys {
            b"~*".to_vec()
        } else {
            self.keys.iter().map(KeyPattern::told).collect::<Vec<_>>().join(&b' ')
        }
    }

    /// The channels, as rules.
    pub fn channels_told(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        self.channels.iter().map(|each| [b"&", &**each].concat()).collect::<Vec<_>>().join(&b' ')
    }

    fn told(&self) -> Vec<u8> {
        let mut channels = self.channels_told();
        if !self.all_channels {
            let rest = if channels.is_empty() { Vec::new() } else { [b" ", &channels[..]].concat() };
            channels = [b"resetchannels", &rest[..]].concat();
        }
        let parts = [self.keys_told(), channels, self.rights.told().into_bytes()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b' ')
    }
}

/// See the module's page.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: Box<[u8]>,
    /// Whether it may be used.
    pub on: bool,
    /// Whether any password will do.
    pub no_password: bool,
    /// What RESTORE checks; told, and nothing else: payloads are always checked.
    sanitize: Option<bool>,
    passwords: Vec<String>,
    selectors: Vec<Selector>,
}

/// The digest by which a password is known.
pub fn digest(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl User {
    /// A user who may not do anything yet.
    pub fn new(name: &[u8], all_channels: bool) -> User {
        let selectors = vec![Selector::new(all_channels)];
        User { name: name.into(), on: false, no_password: false, sanitize: None, passwords: Vec::new(), selectors }
    }

    /// The user whom clients are that have not said who they are.
    pub fn default_one() -> User {
        let mut user = User::new(b"default", false);
        (user.on, user.no_password) = (true, true);
        user.selectors[0] =
            Selector { rights: Rights::all(count()), all_keys: true, all_channels: true, ..Selector::default() };
        user
    }

    /// Whether nothing is forbidden.
    pub fn is_unlimited(&self) -> bool {
        self.selectors.iter().any(Selector::is_unlimited)
    }

    /// Whether all keys may be read, whatever they are called.
    pub fn reads_all_keys(&self) -> bool {
        self.selectors.iter().any(Selector::reads_all_keys)
    }

    /// What may be done: the first selector is the user's own, others were added in parentheses.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Digests of the passwords.
    pub fn passwords(&self) -> &[String] {
        &self.passwords
    }

    /// Whether a password is the user's. All are compared, each in full: time tells nothing.
    pub fn knows(&self, password: &[u8]) -> bool {
        let given = digest(password);
        let same = |each: &String| crate::command::connection::same_secret(given.as_bytes(), each.as_bytes());
        self.no_password || self.passwords.iter().filter(|each| same(each)).count() > 0
    }

    /// Take over one rule.
    pub fn apply(&mut self, rule: &[u8], all_channels: bool) -> Result<(), Wrong> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        if rule.is_empty() {
            return Ok(());
        }
        if is("on") || is("off") {
            self.on = is("on");
        } else if is("nopass") {
            (self.no_password, self.passwords) = (true, Vec::new());
        } else if is("resetpass") {
            (self.no_password, self.passwords) = (false, Vec::new());
        } else if is("skip-sanitize-payload") || is("sanitize-payload") {
            self.sanitize = Some(is("sanitize-payload"));
        } else if matches!(rule[0], b'>' | b'#') {
            let new = secret_of(rule)?;
            if !self.passwords.contains(&new) {
                self.passwords.push(new);
            }
            self.no_password = false;
        } else if matches!(rule[0], b'<' | b'!') {
            let old = secret_of(rule)?;
            let at = self.passwords.iter().position(|each| *each == old).ok_or(Wrong::NoSuchPassword)?;
            self.passwords.remove(at);
        } else if rule[0] == b'(' && rule[rule.len() - 1] == b')' && rule.len() > 1 {
            let mut selector = Selector::new(all_channels);
            for each in rule[1..rule.len() - 1].split(|&byte| byte == b' ').filter(|each| !each.is_empty()) {
                selector.apply(each)?;
            }
            self.selectors.push(selector);
        } else if is("clearselectors") {
            self.selectors.truncate(1);
        } else if is("reset") {
            *self = User { sanitize: Some(true), ..User::new(&self.name, all_channels) };
        } else {
            self.selectors[0].apply(rule)?;
        }
        Ok(())
    }

    /// Flags, as ACL GETUSER names them.
    pub fn flags(&self) -> Vec<&'static str> {
        let sanitize = self.sanitize.map(|checked| if checked { "sanitize-payload" } else { "skip-sanitize-payload" });
        [Some(if self.on { "on" } else { "off" }), self.no_password.then_some("nopass"), sanitize]
            .into_iter()
            .flatten()
            .collect()
    }

    /// All about the user as rules; its passwords as digests.
    pub fn told(&self) -> Vec<u8> {
        let mut line = [b"user ", &*self.name].concat();
        let mut word = |word: &[u8]| {
            line.push(b' ');
            line.extend_from_slice(word);
        };
        self.flags().into_iter().for_each(|flag| word(flag.as_bytes()));
        self.passwords.iter().for_each(|each| word(format!("#{each}").as_bytes()));
        word(&self.selectors[0].told());
        self.selectors[1..].iter().for_each(|each| word(&[b"(", &each.told()[..], b")"].concat()));
        line
    }
}

/// The digest that a rule about a password means.
fn secret_of(rule: &[u8]) -> Result<String, Wrong> {
    let rest = &rule[1..];
    if matches!(rule[0], b'>' | b'<') {
        return Ok(digest(rest));
    }
    let valid = rest.len() == 64 && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    String::from_utf8(rest.to_vec()).ok().filter(|_| valid).ok_or(Wrong::BadDigest)
}

/// Join rules that a client sent in pieces: what begins with a parenthesis goes on to the one that closes it.
pub fn joined<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, Vec<u8>> {
    let mut rules: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for word in words {
        let mut rule = word.to_vec();
        if let Some(started) = open.take() {
            rule = [&started[..], b" ", word].concat();
        } else if word.first() != Some(&b'(') {
            rules.push(rule);
            continue;
        }
        if rule.last() == Some(&b')') { rules.push(rule) } else { open = Some(rule) }
    }
    match open {
        None => Ok(rules),
        Some(rule) => Err(rule.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(rules: &str) -> User {
        let mut user = User::new(b"u", false);
        let words = rules.split(' ').map(str::as_bytes);
        for rule in joined(words).expect("parentheses are closed") {
            user.apply(&rule, false).unwrap_or_else(|wrong| panic!("{rules}: {wrong:?}"));
        }
        user
    }

    #[test]
    fn rules_are_told_as_they_are_read() {
        for (rules, told) in [
            ("on", "on resetchannels -@all"),
            ("on nopass ~* &* +@all", "on nopass ~* &* +@all"),
            ("+get %R~a ~b %W~a %W~c", "off ~a ~b %W~c resetchannels -@all +get"),
            ("+@all -config", "off resetchannels +@all -config"),
            (
                "+config|get (+set ~s &q) (~x)",
                "off resetchannels -@all +config|get (~s resetchannels &q -@all +set) (~x resetchannels -@all)",
            ),
            ("+@hash -hget +select|0", "off resetchannels -@all +@hash +select|0 -hget"),
            ("on +get reset", "off sanitize-payload resetchannels -@all"),
        ] {
            let told = format!("user u {told}");
            assert_eq!(String::from_utf8(user(rules).told()).unwrap(), told, "{rules}");
            let again = user(&told["user u ".len()..]);
            assert_eq!(String::from_utf8(again.told()).unwrap(), told);
        }
    }

    #[test]
    fn passwords_are_kept_as_digests_and_any_of_them_will_do() {
        let mut one = user("on >secret >other");
        assert!(one.knows(b"secret") && one.knows(b"other") && !one.knows(b"third") && !one.knows(b""));
        assert_eq!(one.apply(b"<third", false), Err(Wrong::NoSuchPassword));
        one.apply(b"<secret", false).unwrap();
        assert!(!one.knows(b"secret"));
        assert!(user("nopass").knows(b"anything"));
    }

    #[test]
    fn keys_are_allowed_for_reading_and_writing_apart() {
        use crate::command::table::{LOOK, OVERWRITE, READ, READ_UPDATE};
        let one = user("%R~r* %W~w* ~b*");
        let selector = &one.selectors()[0];
        let allowed = |key: &str, uses| selector.allows_key(key.as_bytes(), uses);
        assert!(allowed("r1", READ) && !allowed("r1", OVERWRITE) && !allowed("w1", READ) && allowed("w1", OVERWRITE));
        assert!(allowed("b", READ_UPDATE) && !allowed("r", READ_UPDATE));
        assert!(allowed("w", LOOK) && !allowed("x", LOOK));
    }
}
