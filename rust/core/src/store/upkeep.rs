//! Work the store does on its own, always in bounded portions: expiry, eviction, freeing.

use super::arena::Handle;
use super::database::Database;
use super::entry::{self, Entry};
use super::evict::Policy;
use super::keyspace::{DATABASES, Found, Store};
use crate::slot::SLOT_COUNT;

/// What one portion of expiry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Keys with an expiry that were looked at.
    pub looked: usize,
    /// Keys that were removed.
    pub expired: usize,
}

impl Store {
    /// Look at the keys of the next few slots, about `budget` entries, and remove those whose time
    /// has come. Portions go round all slots, so a dead key is found within one round for certain.
    pub fn sweep_expired(&mut self, budget: usize) -> Swept {
        let mut swept = Swept::default();
        let mut seen = 0;
        let mut dead: Vec<Handle> = Vec::new();
        for _ in 0..=DATABASES {
            if seen >= budget {
                break;
            }
            let (real, from) = self.expiry_cursor;
            let database = &self.databases[real as usize];
            let mut next = if database.expiring == 0 { None } else { database.occupied_from(from) };
            while let Some(slot) = next {
                if let Some(table) = database.table(slot).filter(|_| !self.is_passive(slot)) {
                    for handle in table.iter() {
                        seen += 1;
                        if let Some(expiry) = Entry(self.arena.at(handle)).expiry() {
                            swept.looked += 1;
                            if expiry <= self.now() {
                                dead.push(handle);
                            }
                        }
                    }
                }
                let after = slot + 1;
                next = if after < SLOT_COUNT { database.occupied_from(after) } else { None };
                self.expiry_cursor = (real, after.min(SLOT_COUNT - 1));
                if seen >= budget && next.is_some() {
                    break;
                }
            }
            if next.is_none() {
                self.expiry_cursor = ((real + 1) % DATABASES as u8, 0);
            }
        }
        swept.expired = dead.len();
        for handle in dead {
            if let Some(found) = self.found_of(handle) {
                self.expire_now(found);
            }
        }
        swept
    }

    /// Whether any key has an expiry.
    pub fn any_expiring(&self) -> bool {
        self.databases.iter().any(|database| database.expiring > 0)
    }

    /// Free about `budget` members of values that were removed; `true` when more is left.
    pub fn free_condemned(&mut self, mut budget: usize) -> bool {
        while budget > 0
            && let Some(object) = self.condemned.last_mut()
        {
            let weight = object.weight().max(1);
            if !object.free_some(&mut self.arena, budget) {
                break;
            }
            self.condemned.pop();
            budget = budget.saturating_sub(weight);
        }
        !self.condemned.is_empty()
    }

    /// How many removed values wait to be freed.
    pub fn condemned(&self) -> usize {
        self.condemned.len()
    }

    /// Change what is evicted when there is no room.
    pub fn set_policy(&mut self, policy: Policy) {
        let before = self.evictor.policy();
        if before == policy {
            return;
        }
        // Queues built for one policy mean nothing to another: S3-FIFO's small queue, LRU's order of
        // volatile keys. All leave; they join the new one's as they are used.
        while let Some(handle) = self.evictor.any_linked() {
            let Some(mut found) = self.found_of(handle) else { break };
            self.evictor.left(&mut self.arena, handle);
            self.unlink_flag(&mut found);
        }
        self.evictor.set_policy(policy);
    }

    /// The policy in force.
    pub fn policy(&self) -> Policy {
        self.evictor.policy()
    }

    /// How LFU counts.
    pub fn tune_counting(&mut self, log_factor: u32, decay_minutes: u32) {
        self.evictor.tune(log_factor, decay_minutes);
    }

    /// LFU's count of uses of a key.
    pub fn use_count(&self, found: Found) -> u32 {
        self.evictor.use_count(self.entry(found).access(), (self.now() / 1000) as u32)
    }

    /// Say how a key was used elsewhere before it came here; the policy in force takes what it understands.
    pub fn set_use(&mut self, found: Found, idle_seconds: Option<u32>, count: Option<u8>) {
        let seconds = self.seconds();
        let access = match (self.policy().counts_use(), idle_seconds, count) {
            (true, _, Some(count)) => self.evictor.first_access(seconds) & !0xFF | u32::from(count),
            (false, Some(idle), _) => seconds.wrapping_sub(idle) & 0xFF_FFFF,
            _ => return,
        };
        entry::set_access(self.arena.at_mut(found.handle), access);
    }

    /// Seconds since a key was used.
    pub fn idle_seconds(&self, found: Found) -> u32 {
        ((self.now() / 1000) as u32).wrapping_sub(self.entry(found).access()) & 0xFF_FFFF
    }

    /// Remove the one key that the policy says should go; `false` when there is none it may take.
    pub fn evict_one(&mut self, samples: usize) -> bool {
        let policy = self.policy();
        if policy == Policy::NoEviction {
            return false;
        }
        let Some(found) = self.unlinked_victim().or_else(|| self.victim(samples)) else {
            return false;
        };
        let bits = entry::policy_bits(self.arena.at(found.handle));
        self.evictor.remember(bits, found.hash);
        self.counts.evicted += 1;
        self.tell(found, true);
        self.remove(found);
        true
    }

    /// Under a policy with queues: an entry that never joined one, because it was not used since the policy changed.
    fn unlinked_victim(&mut self) -> Option<Found> {
        let policy = self.policy();
        if !policy.queues() {
            return None;
        }
        let eligible: usize = if policy.volatile_only() {
            self.databases.iter().map(|database| database.expiring).sum()
        } else {
            self.len()
        };
        if self.evictor.linked() >= eligible {
            return None;
        }
        for _ in 0..64 {
            let handle = self.sample_anywhere()?;
            let entry = Entry(self.arena.at(handle));
            let covered = policy.covers(entry.flags() & entry::EXPIRES != 0);
            if entry.flags() & entry::LINKED == 0 && covered && !self.is_anothers(handle) {
                return self.found_of(handle);
            }
        }
        None
    }

    fn victim(&mut self, samples: usize) -> Option<Found> {
        let policy = self.policy();
        if policy.queues() {
            let handle = self.evictor.victim(&mut self.arena)?;
            return self.found_of(handle);
        }
        let seconds = (self.now() / 1000) as u32;
        let wanted = match policy {
            Policy::AllkeysRandom | Policy::VolatileRandom => 1,
            _ => samples.max(1),
        };
        let mut best: Option<(u64, Handle)> = None;
        let mut got = 0;
        // Volatile keys may be few among many: then looking at random gives up and the slots are walked.
        for _ in 0..wanted * 64 {
            if got == wanted {
                break;
            }
            let handle = self.sample_anywhere()?;
            let entry = Entry(self.arena.at(handle));
            let expiry = entry.expiry();
            if !policy.covers(expiry.is_some()) || self.is_anothers(handle) {
                continue;
            }
            got += 1;
            let rank = match policy {
                Policy::VolatileTtl => expiry.unwrap_or(u64::MAX),
                Policy::AllkeysLfu | Policy::VolatileLfu => {
                    u64::from(self.evictor.use_count(entry.access(), seconds)) << 32
                        // Among equals the one unused for longest goes.
                        | u64::from(u32::MAX - ((seconds / 60).wrapping_sub(entry.access() >> 8) & 0xFFFF))
                }
                _ => 0,
            };
            if best.is_none_or(|(lowest, _)| rank < lowest) {
                best = Some((rank, handle));
            }
        }
        let handle = best.map(|(_, handle)| handle).or_else(|| self.walk_to_volatile())?;
        self.found_of(handle)
    }

    /// Whether an entry is held for another node, which alone may evict it.
    fn is_anothers(&self, handle: Handle) -> bool {
        self.passive.is_some() && self.is_passive(crate::slot::slot_of(self.key_of(handle)))
    }

    /// An entry of any database, databases weighted by their keys.
    fn sample_anywhere(&mut self) -> Option<Handle> {
        let len = self.len();
        let mut pick = self.random.below(len);
        let real = self.databases.iter().position(|database| {
            let here = pick < database.len();
            pick = pick.saturating_sub(database.len());
            here
        })?;
        self.sample(real as u8)
    }

    /// The next key with an expiry, slot by slot.
    fn walk_to_volatile(&self) -> Option<Handle> {
        let volatile = |database: &Database| {
            let mut slot = database.occupied_from(0);
            while let Some(at) = slot {
                let found = database
                    .table(at)
                    .filter(|_| !self.is_passive(at))
                    .and_then(|table| table.iter().find(|&each| Entry(self.arena.at(each)).expiry().is_some()));
                if found.is_some() {
                    return found;
                }
                slot = at.checked_add(1).and_then(|next| database.occupied_from(next));
            }
            None
        };
        self.databases.iter().filter(|database| database.expiring > 0).find_map(volatile)
    }
}
