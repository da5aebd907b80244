//! Which key goes when there is no room: the policies and the queues behind them.
//!
//! LRU is exact: a doubly linked queue through the entries themselves, every step O(1).
//! SIEVE and S3-FIFO use the same links but leave a key where it is when it is read, and
//! keep scans from washing out what is popular. LFU, random and TTL look at a few random
//! keys instead. An entry that came before its policy has no links yet; it gets them when
//! it is next used, and until then it is older than all that have them.

use super::arena::{Arena, Handle, NIL};
use super::entry::{self, Entry};
use super::random::Random;

/// What to remove when memory or entries run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: writes are refused.
    #[default]
    NoEviction,
    /// The key unused for longest.
    AllkeysLru,
    /// The same among keys with an expiry.
    VolatileLru,
    /// A key that is seldom used.
    AllkeysLfu,
    /// The same among keys with an expiry.
    VolatileLfu,
    /// Any key.
    AllkeysRandom,
    /// Any key with an expiry.
    VolatileRandom,
    /// A key about to expire.
    VolatileTtl,
    /// What came and was not asked for again goes soon; what was stays long.
    AllkeysS3Fifo,
    /// One queue in which a hand skips what was used since it last came by.
    AllkeysSieve,
}

impl Policy {
    /// All policies with their names.
    pub const NAMES: [(&'static str, Policy); 10] = [
        ("volatile-lru", Policy::VolatileLru),
        ("volatile-lfu", Policy::VolatileLfu),
        ("volatile-random", Policy::VolatileRandom),
        ("volatile-ttl", Policy::VolatileTtl),
        ("allkeys-lru", Policy::AllkeysLru),
        ("allkeys-lfu", Policy::AllkeysLfu),
        ("allkeys-random", Policy::AllkeysRandom),
        ("allkeys-s3fifo", Policy::AllkeysS3Fifo),
        ("allkeys-sieve", Policy::AllkeysSieve),
        ("noeviction", Policy::NoEviction),
    ];

    /// The policy of this name.
    pub fn named(name: &str) -> Option<Policy> {
        Self::NAMES.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|&(_, policy)| policy)
    }

    /// The policy's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, each)| each == self).map_or("noeviction", |&(name, _)| name)
    }

    /// Whether keys stand in queues under this policy.
    #[inline(always)]
    pub fn queues(self) -> bool {
        matches!(self, Policy::AllkeysLru | Policy::VolatileLru | Policy::AllkeysS3Fifo | Policy::AllkeysSieve)
    }

    /// Whether a key with, or without, an expiry can be chosen.
    #[inline]
    pub fn covers(self, expires: bool) -> bool {
        match self {
            Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl => expires,
            Policy::NoEviction => false,
            _ => true,
        }
    }

    /// Whether only keys with an expiry can be chosen.
    pub fn volatile_only(self) -> bool {
        self != Policy::NoEviction && !self.covers(false)
    }

    /// Whether use is counted instead of timed.
    #[inline]
    pub fn counts_use(self) -> bool {
        matches!(self, Policy::AllkeysLfu | Policy::VolatileLfu)
    }
}

/// A queue through the entries, from the newest to the oldest.
#[derive(Clone, Copy, Default)]
struct Queue {
    newest: Handle,
    oldest: Handle,
    len: usize,
}

impl Queue {
    #[inline]
    fn push(&mut self, arena: &mut Arena, handle: Handle) {
        let bytes = arena.at_mut(handle);
        entry::set_newer(bytes, NIL);
        entry::set_older(bytes, self.newest);
        if self.newest != NIL {
            entry::set_newer(arena.at_mut(self.newest), handle);
        } else {
            self.oldest = handle;
        }
        self.newest = handle;
        self.len += 1;
    }

    #[inline]
    fn pull(&mut self, arena: &mut Arena, handle: Handle) {
        let (newer, older) = Entry(arena.at(handle)).links();
        self.join(arena, newer, older, older, newer);
        self.len -= 1;
    }

    /// Make `newer` and `older`, which stood around an entry, point at what comes in its place.
    #[inline]
    fn join(&mut self, arena: &mut Arena, newer: Handle, older: Handle, below_newer: Handle, above_older: Handle) {
        match newer {
            NIL => self.newest = below_newer,
            newer => entry::set_older(arena.at_mut(newer), below_newer),
        }
        match older {
            NIL => self.oldest = above_older,
            older => entry::set_newer(arena.at_mut(older), above_older),
        }
    }
}

const USED: u8 = 1; // Policy bit: used since it was last considered.
const MAIN: u8 = 2; // Policy bit: stands in S3-FIFO's main queue.

/// LFU's parameters; see [`Evictor::tune`].
#[derive(Clone, Copy)]
struct Counting {
    log_factor: u32,
    decay_minutes: u32,
}

/// The policy in force and its queues.
pub struct Evictor {
    policy: Policy,
    counting: Counting,
    main: Queue,
    small: Queue,
    hand: Handle,
    ghosts: Ghosts,
}

impl Default for Evictor {
    fn default() -> Self {
        Evictor {
            policy: Policy::default(),
            counting: Counting { log_factor: 10, decay_minutes: 1 },
            main: Queue::default(),
            small: Queue::default(),
            hand: NIL,
            ghosts: Ghosts::default(),
        }
    }
}

/// A new key starts with this count, so that it is not the first to go.
const FIRST_COUNT: u32 = 5;

impl Evictor {
    /// The policy in force.
    #[inline(always)]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How LFU counts: the higher `log_factor`, the more uses a step takes; the count loses one every `decay_minutes`.
    pub fn tune(&mut self, log_factor: u32, decay_minutes: u32) {
        self.counting = Counting { log_factor, decay_minutes };
    }

    /// Change the policy. Entries keep their links where the new policy has queues; the caller
    /// has taken them out ([`Evictor::left`]) where it has not.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.ghosts = Ghosts::default();
    }

    /// Forget all queues: there are no entries any more.
    pub(super) fn clear(&mut self) {
        *self = Evictor { policy: self.policy, counting: self.counting, ..Evictor::default() };
    }

    /// Whether an entry without links should get them.
    #[inline]
    pub(super) fn wants(&self, entry: Entry<'_>) -> bool {
        self.policy.covers(entry.flags() & entry::EXPIRES != 0)
    }

    /// What to note as the access of a new entry.
    #[inline]
    pub(super) fn first_access(&self, seconds: u32) -> u32 {
        if self.policy.counts_use() { (minutes(seconds) & 0xFFFF) << 8 | FIRST_COUNT } else { seconds & 0xFF_FFFF }
    }

    /// An entry, with room for links, joins.
    #[inline]
    pub(super) fn joined(&mut self, arena: &mut Arena, handle: Handle, hash: u64) {
        let in_main = self.policy != Policy::AllkeysS3Fifo || self.ghosts.remove(hash);
        entry::set_policy_bits(arena.at_mut(handle), if in_main { MAIN } else { 0 });
        if in_main { self.main.push(arena, handle) } else { self.small.push(arena, handle) }
    }

    /// An entry leaves, for whatever reason.
    #[inline]
    pub(super) fn left(&mut self, arena: &mut Arena, handle: Handle) {
        if self.hand == handle {
            self.hand = Entry(arena.at(handle)).links().0;
        }
        if entry::policy_bits(arena.at(handle)) & MAIN != 0 {
            self.main.pull(arena, handle);
        } else {
            self.small.pull(arena, handle);
        }
    }

    /// An entry got another handle; its links were copied.
    #[inline]
    pub(super) fn moved(&mut self, arena: &mut Arena, old: Handle, new: Handle) {
        if self.hand == old {
            self.hand = new;
        }
        let entry = Entry(arena.at(new));
        let (newer, older) = entry.links();
        let queue = if entry::policy_bits(arena.at(new)) & MAIN != 0 { &mut self.main } else { &mut self.small };
        queue.join(arena, newer, older, new, new);
    }

    /// An entry was used.
    #[inline(always)]
    pub(super) fn touched(&mut self, arena: &mut Arena, handle: Handle, seconds: u32, random: &mut Random) {
        let entry = Entry(arena.at(handle));
        if self.policy.counts_use() {
            let count = self.count_after_use(entry.access(), seconds, random);
            entry::set_access(arena.at_mut(handle), (minutes(seconds) & 0xFFFF) << 8 | count);
            return;
        }
        if entry.access() != seconds & 0xFF_FFFF {
            entry::set_access(arena.at_mut(handle), seconds);
        }
        match self.policy {
            Policy::AllkeysLru | Policy::VolatileLru
                if self.main.newest != handle && Entry(arena.at(handle)).flags() & entry::LINKED != 0 =>
            {
                self.main.pull(arena, handle);
                self.main.push(arena, handle);
            }
            Policy::AllkeysS3Fifo | Policy::AllkeysSieve => {
                let bits = entry::policy_bits(arena.at(handle));
                if bits & USED == 0 {
                    entry::set_policy_bits(arena.at_mut(handle), bits | USED);
                }
            }
            _ => {}
        }
    }

    /// The count of uses an entry has now, its decay applied.
    pub fn use_count(&self, access: u32, seconds: u32) -> u32 {
        let elapsed = (minutes(seconds) & 0xFFFF).wrapping_sub(access >> 8) & 0xFFFF;
        let periods = elapsed.checked_div(self.counting.decay_minutes).unwrap_or(0);
        (access & 0xFF).saturating_sub(periods)
    }

    fn count_after_use(&self, access: u32, seconds: u32, random: &mut Random) -> u32 {
        let count = self.use_count(access, seconds);
        if count == 255 {
            return 255;
        }
        // The more it was used, the less likely one more use is counted: eight bits reach a million.
        let steps = u64::from(count.saturating_sub(FIRST_COUNT)) * u64::from(self.counting.log_factor) + 1;
        if random.bits().is_multiple_of(steps) { count + 1 } else { count }
    }

    /// The entry that the queues say should go; it stays linked until the caller removes it.
    pub(super) fn victim(&mut self, arena: &mut Arena) -> Option<Handle> {
        match self.policy {
            Policy::AllkeysLru | Policy::VolatileLru => some(self.main.oldest),
            Policy::AllkeysSieve => self.sieve_victim(arena),
            Policy::AllkeysS3Fifo => self.s3_victim(arena),
            _ => None,
        }
    }

    fn sieve_victim(&mut self, arena: &mut Arena) -> Option<Handle> {
        // Every entry passed loses its mark, so a second round must find one.
        for _ in 0..=2 * self.main.len {
            let at = some(self.hand).or(some(self.main.oldest))?;
            let bits = entry::policy_bits(arena.at(at));
            if bits & USED == 0 {
                self.hand = at;
                return Some(at);
            }
            entry::set_policy_bits(arena.at_mut(at), bits & !USED);
            self.hand = Entry(arena.at(at)).links().0;
        }
        some(self.main.oldest)
    }

    fn s3_victim(&mut self, arena: &mut Arena) -> Option<Handle> {
        let total = self.small.len + self.main.len;
        for _ in 0..=2 * total {
            if self.small.len * 10 >= total && self.small.len > 0 || self.main.len == 0 {
                let at = some(self.small.oldest)?;
                if entry::policy_bits(arena.at(at)) & USED == 0 {
                    return Some(at);
                }
                self.small.pull(arena, at);
                entry::set_policy_bits(arena.at_mut(at), MAIN);
                self.main.push(arena, at);
            } else {
                let at = some(self.main.oldest)?;
                if entry::policy_bits(arena.at(at)) & USED == 0 {
                    return Some(at);
                }
                self.main.pull(arena, at);
                entry::set_policy_bits(arena.at_mut(at), MAIN);
                self.main.push(arena, at);
            }
        }
        some(self.main.oldest)
    }

    /// How many entries stand in queues.
    pub(super) fn linked(&self) -> usize {
        self.main.len + self.small.len
    }

    /// Any entry that stands in a queue.
    pub(super) fn any_linked(&self) -> Option<Handle> {
        some(self.main.oldest).or(some(self.small.oldest))
    }

    /// A victim was removed: remember one that never got beyond the small queue.
    pub(super) fn remember(&mut self, bits: u8, hash: u64) {
        if self.policy == Policy::AllkeysS3Fifo && bits & MAIN == 0 {
            self.ghosts.insert(hash, self.small.len + self.main.len);
        }
    }
}

fn some(handle: Handle) -> Option<Handle> {
    (handle != NIL).then_some(handle)
}

fn minutes(seconds: u32) -> u32 {
    seconds / 60
}

/// Fingerprints of keys lately evicted from the small queue, in buckets that forget their oldest.
#[derive(Default)]
struct Ghosts {
    buckets: Vec<[u32; 8]>,
}

impl Ghosts {
    fn bucket(&self, hash: u64) -> usize {
        ((hash >> 32) as usize * self.buckets.len()) >> 32
    }

    fn insert(&mut self, hash: u64, entries: usize) {
        // About as many ghosts as entries; rebuilt (forgetting) only when that is far off.
        let wanted = entries / 8 + 1;
        if self.buckets.len() < wanted {
            let old = std::mem::replace(&mut self.buckets, vec![[0; 8]; wanted + wanted / 2]);
            drop(old);
        }
        let at = self.bucket(hash);
        let bucket = &mut self.buckets[at];
        bucket.copy_within(0..7, 1);
        bucket[0] = fingerprint(hash);
    }

    fn remove(&mut self, hash: u64) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let at = self.bucket(hash);
        match self.buckets[at].iter().position(|&each| each == fingerprint(hash)) {
            Some(index) => {
                self.buckets[at][index] = 0;
                true
            }
            None => false,
        }
    }
}

fn fingerprint(hash: u64) -> u32 {
    hash as u32 | 1
}
