//! The only place that reads time.
//!
//! Keys live by the time of day, which somebody may set: an hour forward, and all that has less than an hour to live would be
//! gone. So the time of day is taken once, passes with a clock that nobody sets, and follows the host's slowly
//! where the two differ by more than clocks do that are kept in step.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the host's clock may be off by, and is believed at once, us.
const BELIEVED: i64 = 100_000;
/// So much of the time that passes is what a clock that is off is followed by: a minute is not half a second wrong.
const FOLLOWED: i64 = 200;
/// Not set yet.
const UNSET: i64 = i64::MIN;

static AHEAD: AtomicI64 = AtomicI64::new(UNSET);
static FOLLOWED_AT: AtomicI64 = AtomicI64::new(0);

/// Milliseconds since 1970, as this process has it.
pub fn wall_ms() -> u64 {
    wall_us() / 1000
}

/// Microseconds since 1970, as this process has it.
pub fn wall_us() -> u64 {
    let host = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_micros() as i64);
    // It goes on while the machine sleeps.
    let passed = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let passed = passed.tv_sec * 1_000_000 + passed.tv_nsec / 1000;
    let (ahead, at) = follow(AHEAD.load(Ordering::Relaxed), FOLLOWED_AT.load(Ordering::Relaxed), passed, host);
    AHEAD.store(ahead, Ordering::Relaxed);
    FOLLOWED_AT.store(at, Ordering::Relaxed);
    (passed + ahead) as u64
}

/// By how much the time of day is ahead of the clock that nobody sets, and when that was last changed; from what both
/// were before, and from the two clocks.
fn follow(ahead: i64, at: i64, passed: i64, host: i64) -> (i64, i64) {
    let wanted = host - passed;
    if ahead == UNSET || (wanted - ahead).abs() <= BELIEVED {
        return (wanted, passed);
    }
    let most = (passed - at).max(0) / FOLLOWED;
    if most == 0 {
        return (ahead, at);
    }
    (ahead + (wanted - ahead).clamp(-most, most), passed)
}

/// Nanoseconds since the program first asked; never goes back.
pub fn steady_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds of processor time that this thread has used.
pub fn thread_ns() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (used.tv_sec as u64) * 1_000_000_000 + used.tv_nsec as u64
}

/// Microseconds that a span of [`crate::sys::ticks`] took.
pub fn ticks_to_us(ticks: u64) -> u64 {
    (ticks as f64 / ticks_per_us()) as u64
}

/// How many ticks pass in a microsecond; measured once, in about two milliseconds.
pub fn ticks_per_us() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, before) = (Instant::now(), crate::sys::ticks());
        while start.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let ticks = crate::sys::ticks().wrapping_sub(before) as f64;
        (ticks / (start.elapsed().as_nanos() as f64 / 1000.0)).max(1e-3)
    })
}

#[test]
fn a_clock_that_is_set_is_followed_slowly_and_one_that_is_kept_in_step_at_once() {
    const SECOND: i64 = 1_000_000;
    let day = 1_700_000_000 * SECOND;
    let (mut ahead, mut at) = follow(UNSET, 0, 5 * SECOND, day);
    assert_eq!(5 * SECOND + ahead, day);
    (ahead, at) = follow(ahead, at, 6 * SECOND, day + SECOND + BELIEVED);
    assert_eq!(6 * SECOND + ahead, day + SECOND + BELIEVED);
    // An hour forward, and an hour back: a minute later we are less than half a second off.
    let truth = |passed: i64| day + passed - 5 * SECOND + BELIEVED;
    for set in [3600 * SECOND, -3600 * SECOND] {
        let (mut ahead, mut at) = (ahead, at);
        for ms in 6001..66_000 {
            let passed = ms * 1000;
            (ahead, at) = follow(ahead, at, passed, truth(passed) + set);
            let off = passed + ahead - truth(passed);
            assert!(off.signum() != -set.signum() && off.abs() <= SECOND / 2, "{off} us off after {ms} ms");
        }
        assert!((66 * SECOND + ahead - truth(66 * SECOND)).abs() > SECOND / 5, "it does follow");
        // Set right again.
        (ahead, _) = follow(ahead, at, 67 * SECOND, truth(67 * SECOND));
        assert!((67 * SECOND + ahead - truth(67 * SECOND)).abs() <= SECOND / 2);
    }
}
