//! ACL LOG: who was refused what, the last first. What happens again soon is counted, not listed again.

use std::collections::VecDeque;

/// How long the same refusal counts as the same, ms.
const SOON: u64 = 60_000;
/// How many entries are looked through for the same.
const LOOKED_THROUGH: usize = 10;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `command`, `key`, `channel` or `auth`.
    pub reason: &'static str,
    /// `toplevel`, `multi` or `lua`.
    pub context: &'static str,
    /// The command, key or channel.
    pub object: Vec<u8>,
    /// Who it was.
    pub user: Vec<u8>,
}

/// An entry of the log.
pub struct Entry {
    /// What was refused.
    pub refusal: Refusal,
    /// How often.
    pub count: u64,
    /// When last, ms of wall time.
    pub at: u64,
    /// The client of that time, as CLIENT LIST shows it.
    pub client: String,
}

/// See the module's page.
#[derive(Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
}

impl Journal {
    /// Note a refusal; no more than `most` are kept.
    pub fn note(&mut self, refusal: Refusal, client: String, now: u64, most: usize) {
        let same = |entry: &Entry| entry.refusal == refusal && now.saturating_sub(entry.at) <= SOON;
        let known = self.entries.iter().take(LOOKED_THROUGH).position(same).and_then(|at| self.entries.remove(at));
        let count = known.map_or(0, |entry| entry.count) + 1;
        self.entries.push_front(Entry { refusal, count, at: now, client });
        self.entries.truncate(most);
    }

    /// The entries, the last first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Forget all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[test]
fn what_happens_again_is_counted_and_old_entries_go() {
    let refusal = |object: &str| Refusal {
        reason: "key",
        context: "toplevel",
        object: object.as_bytes().to_vec(),
        user: b"ann".to_vec(),
    };
    let mut journal = Journal::default();
    for (object, now) in [("a", 0), ("b", 1), ("a", 2), ("a", 70_000)] {
        journal.note(refusal(object), String::new(), now, 3);
    }
    let told: Vec<(&[u8], u64)> = journal.entries().map(|entry| (&entry.refusal.object[..], entry.count)).collect();
    assert_eq!(told, [(&b"a"[..], 1), (b"a", 2), (b"b", 1)]);
    journal.note(refusal("c"), String::new(), 70_001, 3);
    assert_eq!(journal.entries().len(), 3);
}
