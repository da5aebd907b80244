//! Passwords cannot be tried fast: after some failures an address is refused for a while, for that user.
//!
//! Counted by where it comes from and whom it claims to be, so that who guesses locks out nobody but
//! himself: the right password from elsewhere still works. All names that are no user's count as one.

use super::users::UserId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long failures are remembered, ms.
const SPAN: u64 = 60_000;
/// Most that are remembered.
const MOST: usize = 4096;

/// Where a client comes from: its address without the port; of IPv6 the half that is a network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The Unix socket, or what is no address.
    Local,
    /// IPv4.
    Four([u8; 4]),
    /// IPv6.
    Six([u8; 8]),
}

impl Source {
    /// Read an address as CLIENT LIST shows it.
    pub fn of(address: &str) -> Source {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        match host.trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V4(four)) => Source::Four(four.octets()),
            Ok(IpAddr::V6(six)) => {
                let mut network = [0; 8];
                network.copy_from_slice(&six.octets()[..8]);
                Source::Six(network)
            }
            Err(_) => Source::Local,
        }
    }
}

#[derive(Clone, Copy)]
struct Failures {
    count: u64,
    since: u64,
}

type Failed = HashMap<(Source, Option<UserId>), Failures>;

/// Who fails; see the module's page. A clone is the same: loops of one server count together.
#[derive(Clone, Default)]
pub struct Attempts {
    failed: Arc<Mutex<Failed>>,
}

impl Attempts {
    fn known(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many more seconds attempts are refused.
    pub fn refused_for(&self, source: Source, user: Option<UserId>, limit: u64, now: u64) -> Option<u64> {
        let failures = *self.known().get(&(source, user))?;
        let end = failures.since + SPAN;
        (limit > 0 && failures.count >= limit && now < end).then(|| (end - now).div_ceil(1000))
    }

    /// Note a failure.
    pub fn failed(&self, source: Source, user: Option<UserId>, now: u64) {
        let over = |failures: &Failures| now >= failures.since + SPAN;
        let key = (source, user);
        let mut failed = self.known();
        if failed.len() >= MOST && !failed.contains_key(&key) {
            failed.retain(|_, failures| !over(failures));
            if failed.len() >= MOST
                && let Some(oldest) = failed.iter().min_by_key(|(_, failures)| failures.since).map(|(key, _)| *key)
            {
                failed.remove(&oldest);
            }
        }
        let failures = failed.entry(key).or_insert(Failures { count: 0, since: now });
        if over(failures) {
            *failures = Failures { count: 0, since: now };
        }
        failures.count += 1;
    }

    /// Note that the password was right.
    pub fn succeeded(&self, source: Source, user: Option<UserId>) {
        self.known().remove(&(source, user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_is_refused_for_a_while_and_nobody_else() {
        let (here, there) = (Source::of("10.0.0.1:5000"), Source::of("10.0.0.2:5000"));
        let attempts = Attempts::default();
        for now in 0..3 {
            assert_eq!(attempts.refused_for(here, Some(1), 3, now), None);
            attempts.failed(here, Some(1), now);
        }
        assert_eq!(attempts.refused_for(Source::of("10.0.0.1:6000"), Some(1), 3, 10), Some(60));
        assert_eq!(attempts.refused_for(there, Some(1), 3, 10), None);
        assert_eq!(attempts.refused_for(here, Some(2), 3, 10), None);
        assert_eq!(attempts.refused_for(here, Some(1), 0, 10), None);
        assert_eq!(attempts.refused_for(here, Some(1), 3, 60_000), None);
        attempts.failed(here, Some(1), 70_000);
        assert_eq!(attempts.refused_for(here, Some(1), 3, 70_000), None);
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let attempts = Attempts::default();
        for number in 0..3 * MOST as u32 {
            attempts.failed(Source::Four(number.to_be_bytes()), None, u64::from(number));
        }
        assert!(attempts.known().len() <= MOST);
        assert_eq!(Source::of("[2001:db8::1]:7"), Source::of("[2001:db8::2]:9"));
        assert_eq!(Source::of("/run/socket:0"), Source::Local);
    }
}
