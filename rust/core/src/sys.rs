//! The only unsafe lines of this crate, each behind a safe function with its reason. Those that speak Lua's C
//! interface stand in `lua`, the allocator in `heap`.

mod heap;
pub mod lua;

pub use heap::{Counting, allocated};

/// Ask the processor to fetch the cache line that holds `value`. A hint: it never faults and changes nothing.
#[inline(always)]
#[allow(unsafe_code)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // Safety: prefetching has no architectural effect, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A counter that rises at a constant rate, read in a few nanoseconds; see `clock` for its rate.
#[inline(always)]
#[allow(unsafe_code)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // Safety: every x86-64 processor has this instruction; it only reads.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// An open descriptor that this process was born with and that nobody here owns yet; `None` when there is none of this number.
#[allow(unsafe_code)]
pub fn inherited(number: i32) -> Option<rustix::fd::OwnedFd> {
    use rustix::fd::FromRawFd;
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).ok()?;
    // Safety: it is open, and who names it here gives up whatever claim there was: numbers come from the process before,
    // which left these descriptors to us.
    Some(unsafe { rustix::fd::OwnedFd::from_raw_fd(number) })
}

/// Give the pages of program text that only the start needed back to the kernel, which has them in its cache: what is
/// needed again comes back page by page at the cost of a minor fault. Says how many kilobytes were mapped; call it
/// when the process has started and goes over to waiting.
pub fn give_back_text() -> u64 {
    std::fs::read_to_string("/proc/self/smaps").map_or(0, |maps| clean_text(&maps).map(forget).sum())
}

/// The mappings of files that cannot be written through and hold no page of our own (such as one the loader has
/// relocated): address, length and resident kilobytes of each.
fn clean_text(maps: &str) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
    let mut mapping = None;
    maps.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next()?, words.next()?);
        if let Some((start, end)) = first.split_once('-') {
            let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
            let of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            mapping = (of_file && second.starts_with("r-") && second.ends_with('p')).then_some((start, end, 0));
            return None;
        }
        let (start, end, resident) = mapping.as_mut()?;
        match first {
            "Rss:" => *resident = second.parse().ok()?,
            // The last of the figures that matter; what is not zero must stay.
            "Anonymous:" => return (second == "0").then_some((*start, *end - *start, *resident)),
            _ => {}
        }
        None
    })
}

#[allow(unsafe_code)]
fn forget((start, length, resident): (usize, usize, u64)) -> u64 {
    let advice = rustix::mm::Advice::LinuxDontNeed;
    // SAFETY: the mapping is a file's, private, read-only and unmodified, so the kernel reads the same bytes again
    // when they are wanted; the mappings of libraries that are in use do not move.
    match unsafe { rustix::mm::madvise(start as *mut _, length, advice) } {
        Ok(()) => resident,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0-55e0 r-xp 00000000 fe:00 12 /usr/bin/program\nSize: 64 kB\nRss: 60 kB\nAnonymous: 0 kB\nVmFlags: rd ex
55e0-55f0 r--p 00000000 fe:00 12 /usr/bin/program\nRss: 8 kB\nAnonymous: 4 kB
55f0-5600 rw-p 00000000 fe:00 12 /usr/bin/program\nRss: 8 kB\nAnonymous: 0 kB
7000-7100 r--s 00000000 fe:00 13 /usr/share/shared\nRss: 8 kB\nAnonymous: 0 kB
7100-7200 r--p 00000000 00:00 0 [vvar]\nRss: 0 kB\nAnonymous: 0 kB
7200-7300 r--p 00000000 00:00 0\nRss: 4 kB\nAnonymous: 0 kB
";

    #[test]
    fn only_text_that_nobody_changed_is_given_back() {
        assert_eq!(clean_text(MAPS).collect::<Vec<_>>(), [(0x55d0, 0x10, 60)]);
        assert!(give_back_text() > 0, "this program has text");
        assert_eq!("still".to_uppercase(), "STILL");
    }
}
