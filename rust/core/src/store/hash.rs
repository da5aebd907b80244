//! The hash behind every table: keyed, so that nobody outside can aim keys at one place.

use core::hash::{BuildHasher, Hasher};
use foldhash::quality::SeedableRandomState;

/// A key for hashing. The same seed gives the same hashes, and so the same scan order.
#[derive(Clone)]
pub struct Seed(SeedableRandomState);

impl Seed {
    /// Derive a key from a number, which should be secret and random.
    pub fn new(seed: u64) -> Self {
        Seed(SeedableRandomState::with_seed(seed, foldhash::SharedSeed::global_fixed()))
    }

    /// Hash a byte string.
    #[inline(always)]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}
