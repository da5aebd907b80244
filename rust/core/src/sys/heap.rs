//! The allocator of the process: it counts, and gives the largest blocks back to the system at once.

use core::alloc::{GlobalAlloc, Layout};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes now allocated through [`Counting`]; zero when the program does not use it.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// Blocks from this size on are mapped by themselves: what is freed goes back to the system whole, and one that grows is
/// moved without a copy. Among others they leave holes in which nothing fits. Smaller ones would be too many mappings.
const MAPPED: usize = 4 << 20;
const PAGE: usize = 4096;

/// An allocator that counts what another one hands out, so that `used_memory` is known exactly and at once. Huge blocks
/// it maps itself.
pub struct Counting<A>(pub A);

impl<A> Counting<A> {
    #[inline(always)]
    fn maps(layout: &Layout, size: usize) -> bool {
        size >= MAPPED && layout.align() <= PAGE
    }

    #[cold]
    fn map(size: usize) -> *mut u8 {
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        #[allow(unsafe_code)]
        // Safety: a new mapping, of which nobody else knows.
        let mapped = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, access, kind) };
        mapped.map_or(std::ptr::null_mut(), |block| block.cast())
    }
}

#[allow(unsafe_code)]
// Safety: every call goes unchanged to the allocator inside, with a counter kept beside it, but for blocks that `maps` tells
// apart by size and alignment, which callers must repeat: those are whole mappings of ours.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        if Self::maps(&layout, layout.size()) {
            return Self::map(layout.size());
        }
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        if Self::maps(&layout, layout.size()) {
            // Should the kernel have no room for the hole, the pages are ours for longer: nothing is wrong with that.
            let _ = unsafe { rustix::mm::munmap(block.cast(), layout.size()) };
            return;
        }
        unsafe { self.0.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        if Self::maps(&layout, layout.size()) {
            return Self::map(layout.size());
        }
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (was, is) = (Self::maps(&layout, layout.size()), Self::maps(&layout, size));
        if was || is {
            return unsafe { self.remap(block, layout, size, was && is) };
        }
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { self.0.realloc(block, layout, size) }
    }
}

#[allow(unsafe_code)]
impl<A: GlobalAlloc> Counting<A> {
    /// Safety: as of `realloc`, for a block that is mapped or is going to be.
    #[cold]
    unsafe fn remap(&self, block: *mut u8, layout: Layout, size: usize, stays: bool) -> *mut u8 {
        if stays {
            let moved = unsafe { rustix::mm::mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
            let Ok(moved) = moved else { return std::ptr::null_mut() };
            ALLOCATED.fetch_add(size, Ordering::Relaxed);
            ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
            return moved.cast();
        }
        let Ok(other) = Layout::from_size_align(size, layout.align()) else { return std::ptr::null_mut() };
        let fresh = unsafe { self.alloc(other) };
        if !fresh.is_null() {
            unsafe {
                std::ptr::copy_nonoverlapping(block, fresh, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        fresh
    }
}

#[test]
fn blocks_keep_what_they_hold_while_they_grow_and_shrink() {
    let heap = Counting(std::alloc::System);
    let sizes = [100, MAPPED - 1, MAPPED, MAPPED + 5, 3 * MAPPED, MAPPED + 1, MAPPED - 1, 50];
    #[allow(unsafe_code)]
    // Safety: each layout is that of the block as it is.
    unsafe {
        let mut layout = Layout::from_size_align(sizes[0], 8).unwrap();
        let mut block = heap.alloc(layout);
        block.write_bytes(7, sizes[0]);
        for size in sizes {
            let kept = layout.size().min(size);
            block = heap.realloc(block, layout, size);
            layout = Layout::from_size_align(size, 8).unwrap();
            assert!(std::slice::from_raw_parts(block, kept).iter().all(|&byte| byte == 7), "{size}");
            block.write_bytes(7, size);
        }
        heap.dealloc(block, layout);
        let zeroed = heap.alloc_zeroed(Layout::from_size_align(2 * MAPPED, 64).unwrap());
        assert!(std::slice::from_raw_parts(zeroed, 2 * MAPPED).iter().all(|&byte| byte == 0));
        heap.dealloc(zeroed, Layout::from_size_align(2 * MAPPED, 64).unwrap());
    }
}
