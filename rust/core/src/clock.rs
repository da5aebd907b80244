//! The only place that reads time.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, as the host's clock has it.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}

/// Microseconds since 1970, as the host's clock has it.
pub fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_micros() as u64)
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
