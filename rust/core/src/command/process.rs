//! What the operating system knows of this process and its host.

use std::fs;
use std::sync::OnceLock;

/// Bytes of memory that are resident.
pub fn resident_bytes() -> usize {
    let pages =
        fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
    pages.map_or(0, |pages: usize| pages * rustix::param::page_size())
}

/// Bytes of memory of the host.
pub fn system_memory() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes =
            text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
        kilobytes.map_or(0, |kilobytes: usize| kilobytes * 1024)
    })
}

/// The system's name, release and machine.
pub fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim_end(), std::env::consts::ARCH)
}

/// The program's path.
pub fn executable() -> String {
    std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default()
}

/// Seconds of processor time, user and system: of the whole process, and of the thread that serves.
pub fn cpu_seconds() -> ((f64, f64), (f64, f64)) {
    (times("/proc/self/stat"), times("/proc/thread-self/stat"))
}

fn times(path: &str) -> (f64, f64) {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The second field is the program's name in parentheses and may hold anything.
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (fields.next().unwrap_or(0.0) / ticks, fields.next().unwrap_or(0.0) / ticks)
}

#[test]
fn the_process_knows_itself() {
    assert!(resident_bytes() > 100_000);
    assert!(system_memory() > resident_bytes());
    assert!(system().starts_with("Linux "));
}
