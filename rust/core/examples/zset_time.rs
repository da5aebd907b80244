//! How much processor time the sorted set's own work takes, without protocol and sockets: `cargo run --release --example zset_time`.

use fastcache_core::store::arena::Arena;
use fastcache_core::store::hash::Seed;
use fastcache_core::store::zset::{Bound, Limits, Zset};
use rustix::time::{ClockId, clock_gettime};

const LIMITS: Limits = Limits { entries: 128, value: 64 };

/// Nanoseconds of processor time this thread has had: what other programs take does not count.
fn now() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn main() {
    for count in [100u64, 100_000, 1_000_000] {
        measure(count);
    }
}

fn measure(count: u64) {
    let mut arena = Arena::new();
    let seed = Seed::new(1);
    let mut zset = Zset::new();
    let members: Vec<String> = (0..count).map(|number| format!("key:{number:012}")).collect();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let mut longest = 0;
    let begun = now();
    for member in &members {
        let score = random(1_000_000_000) as f64;
        let one = now();
        zset.update(&mut arena, &seed, LIMITS, member.as_bytes(), |_| Some(score)).expect("room");
        longest = longest.max((now() - one) / 1000);
    }
    let fill = (now() - begun) / count;
    let bytes = (zset.heap_bytes() + arena.reserved() - arena.used()) as u64 / count;
    println!("{count} members: {bytes} bytes and {fill} ns each to add, the longest {longest} us");
    let rounds = 1_000_000u64;
    let mut report = |what: &str, step: &mut dyn FnMut(&mut Zset, &mut Arena, u64, u64)| {
        let picks: Vec<(u64, u64)> = (0..rounds).map(|_| (random(count), random(1_000_000_000))).collect();
        let begun = now();
        for (member, score) in picks {
            step(&mut zset, &mut arena, member, score);
        }
        println!("  {what}: {} ns", (now() - begun) / rounds);
    };
    report("new score", &mut |zset, arena, member, score| {
        zset.update(arena, &seed, LIMITS, members[member as usize].as_bytes(), |_| Some(score as f64)).expect("room");
    });
    report("new score near by", &mut |zset, arena, member, score| {
        zset.update(arena, &seed, LIMITS, members[member as usize].as_bytes(), |old| {
            old.map(|old| old + (score % 100) as f64)
        })
        .expect("room");
    });
    report("score", &mut |zset, arena, member, _| {
        std::hint::black_box(zset.score(arena, &seed, members[member as usize].as_bytes()));
    });
    report("rank", &mut |zset, arena, member, _| {
        std::hint::black_box(zset.rank(arena, &seed, members[member as usize].as_bytes()));
    });
    report("ten of a range of scores", &mut |zset, arena, _, score| {
        let low = Bound { score: score as f64, exclusive: false };
        let ranks = zset.score_ranks(arena, low, Bound { score: f64::INFINITY, exclusive: false });
        let end = ranks.end.min(ranks.start + 10);
        zset.entries(arena, ranks.start..end, false).for_each(|entry| {
            std::hint::black_box(entry);
        });
    });
    report("remove and add", &mut |zset, arena, member, score| {
        let member = members[member as usize].as_bytes();
        zset.remove(arena, &seed, member);
        zset.update(arena, &seed, LIMITS, member, |_| Some(score as f64)).expect("room");
    });
}
