//! The scripts a node knows, by their SHA-1.
//!
//! Redis keeps every script it was ever sent; an application that builds the text of its scripts from values fills
//! its memory that way. Here those unused for longest are forgotten: whoever asks for one is told NOSCRIPT, and
//! sends its text again, as after a restart.

use super::flags::Flags;
use super::native::Native;
use sha1::{Digest as _, Sha1};
use std::collections::HashMap;

/// SHA-1 of a script, in lower-case hexadecimal digits.
pub type Digest = [u8; 40];

/// Most scripts that are kept, and the most bytes of their texts.
const MOST_SCRIPTS: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

/// A script that compiles.
pub struct Script {
    /// What it says of itself.
    pub flags: Flags,
    /// Where its function stands in the interpreter.
    pub place: i64,
    /// What does the same without Lua, where it is known.
    pub native: Option<Native>,
    text: Box<[u8]>,
    used: u64,
}

/// What is needed to run a script.
#[derive(Clone, Copy)]
pub struct Found {
    /// See [`Script`].
    pub flags: Flags,
    /// See [`Script`].
    pub place: i64,
    /// See [`Script`].
    pub native: Option<Native>,
}

/// See the module's page.
#[derive(Default)]
pub struct Cache {
    scripts: HashMap<Digest, Script, foldhash::fast::RandomState>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    /// A script, which counts as its use.
    #[inline]
    pub fn find(&mut self, digest: &Digest) -> Option<Found> {
        let script = self.scripts.get_mut(digest)?;
        self.clock += 1;
        script.used = self.clock;
        Some(Found { flags: script.flags, place: script.place, native: script.native })
    }

    /// The text of a script.
    pub fn text(&self, digest: &Digest) -> Option<&[u8]> {
        self.scripts.get(digest).map(|script| &*script.text)
    }

    /// Whether a script is known.
    pub fn has(&self, digest: &Digest) -> bool {
        self.scripts.contains_key(digest)
    }

    /// Keep a script. Returns the places of those forgotten for it.
    pub fn keep(&mut self, digest: Digest, script: Found, text: &[u8]) -> Vec<i64> {
        let Found { flags, place, native } = script;
        self.clock += 1;
        self.bytes += text.len();
        self.scripts.insert(digest, Script { flags, place, native, text: text.into(), used: self.clock });
        let mut forgotten = Vec::new();
        if self.scripts.len() > MOST_SCRIPTS || self.bytes > MOST_BYTES {
            let mut ages: Vec<(u64, Digest)> = self.scripts.iter().map(|(key, each)| (each.used, *key)).collect();
            ages.sort_unstable();
            ages.pop(); // The one just kept stays, whatever its size.
            for (_, key) in ages {
                if self.scripts.len() <= MOST_SCRIPTS / 10 * 9 && self.bytes <= MOST_BYTES / 10 * 9 {
                    break;
                }
                if let Some(gone) = self.scripts.remove(&key) {
                    self.bytes -= gone.text.len();
                    forgotten.push(gone.place);
                }
            }
        }
        forgotten
    }

    /// Forget all.
    pub fn clear(&mut self) {
        *self = Cache::default();
    }

    /// How many are known.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Bytes of memory behind them, without what the interpreter holds.
    pub fn bytes(&self) -> usize {
        self.bytes + self.scripts.len() * (size_of::<Digest>() + size_of::<Script>())
    }
}

/// The SHA-1 of a text.
pub fn digest(text: &[u8]) -> Digest {
    let mut digits = [0; 40];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(Sha1::digest(text)) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    digits
}

/// A digest as a client writes it, in small letters or capitals.
pub fn parse_digest(text: &[u8]) -> Option<Digest> {
    let mut digest: Digest = text.try_into().ok()?;
    digest.make_ascii_lowercase();
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_unused_for_longest_are_forgotten() {
        let mut cache = Cache::default();
        let first = digest(b"first");
        assert_eq!(&first, b"e0996a37c13d44c3b06074939d43fa3759bd32c1");
        let script = |place| Found { flags: Flags::default(), place, native: None };
        cache.keep(first, script(0), b"0123456789");
        let mut gone = Vec::new();
        for place in 1..=MOST_SCRIPTS as i64 {
            cache.find(&first);
            gone.extend(cache.keep(digest(&place.to_le_bytes()), script(place), b"0123456789"));
        }
        assert!(cache.has(&first) && cache.len() <= MOST_SCRIPTS);
        assert_eq!(gone[0], 1);
        assert!(!gone.contains(&0));
    }
}
