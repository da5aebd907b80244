//! A number that rises with every trouble with a node, and a way to wait for the next: whoever tells the health service
//! must hear of it at once, since that is how a failover begins.

use crate::server::lock;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// See the module's page.
#[derive(Default)]
pub(super) struct Trouble {
    count: Mutex<u64>,
    risen: Condvar,
}

impl Trouble {
    /// Something went wrong.
    pub(super) fn note(&self) {
        *lock(&self.count) += 1;
        self.risen.notify_all();
    }

    /// How much there has been.
    pub(super) fn count(&self) -> u64 {
        *lock(&self.count)
    }

    /// The same, once it is not `seen` any more or time is up.
    pub(super) fn after(&self, seen: u64, longest: Duration) -> u64 {
        let waited = self.risen.wait_timeout_while(lock(&self.count), longest, |count| *count == seen);
        let (count, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        *count
    }
}
