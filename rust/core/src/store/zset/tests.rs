//! A sorted set against the plainest one that could be: a list of pairs, sorted.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { entries: 128, value: 64 };

/// Members and scores in order; equality of scores as numbers, so 0 and -0 are one score.
#[derive(Default)]
struct Model(Vec<(f64, Vec<u8>)>);

impl Model {
    fn find(&self, member: &[u8]) -> Option<usize> {
        self.0.iter().position(|(_, each)| each == member)
    }

    fn put(&mut self, member: &[u8], score: f64, flat: bool) -> Outcome {
        let score = if flat && score == 0.0 { 0.0 } else { score };
        let outcome = match self.find(member) {
            Some(rank) if self.0[rank].0 == score => return Outcome::Kept,
            Some(rank) => {
                self.0.remove(rank);
                Outcome::Changed
            }
            None => Outcome::Added,
        };
        let rank = self.0.partition_point(|(s, m)| *s < score || (*s == score && m.as_slice() < member));
        self.0.insert(rank, (score, member.to_vec()));
        outcome
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, f64),
    PutMany(u32, u32, i32),
    Remove(u32),
    RemoveRanks(usize, usize),
    Ranges(f64, f64, usize, usize, u32, u32),
}

fn member(number: u32) -> Vec<u8> {
    match number % 97 {
        0 => format!("{number}-{}", "x".repeat(number as usize % 6000)).into_bytes(),
        1 => format!("{number}-{}", "y".repeat(60 + number as usize % 300)).into_bytes(),
        2 => Vec::new(),
        _ => format!("member:{number:05}").into_bytes(),
    }
}

fn scores() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-20i32..20).prop_map(f64::from),
        1 => (-70_000i32..70_000).prop_map(f64::from),
        1 => any::<i32>().prop_map(f64::from),
        2 => any::<f64>().prop_filter("a number", |score| !score.is_nan()),
        1 => prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1]),
    ]
}

fn steps(members: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..members, scores()).prop_map(|(number, score)| Step::Put(number, score)),
        1 => (0..members, 1u32..300, -3i32..3).prop_map(|(from, count, by)| Step::PutMany(from, count, by)),
        4 => (0..members).prop_map(Step::Remove),
        1 => (0usize..1500, 0usize..400).prop_map(|(from, count)| Step::RemoveRanks(from, count)),
        3 => (scores(), scores(), 0usize..1500, 0usize..300, 0..members, 0..members)
            .prop_map(|(a, b, from, count, low, high)| Step::Ranges(a, b, from, count, low, high)),
    ];
    prop::collection::vec(step, 0..120)
}

fn blocks(zset: &Zset) -> usize {
    match &zset.0 {
        Body::Flat(_) => 0,
        Body::Tree(tree) => tree.block_bytes(),
    }
}

fn collect(zset: &Zset, arena: &Arena, ranks: Range<usize>, backward: bool) -> Vec<(f64, Vec<u8>)> {
    zset.entries(arena, ranks, backward).map(|(member, score)| (score, member.to_vec())).collect()
}

fn bits(entries: &[(f64, Vec<u8>)]) -> Vec<(u64, &[u8])> {
    entries.iter().map(|(score, member)| (score.to_bits(), member.as_slice())).collect()
}

fn run(steps: Vec<Step>, limits: Limits) {
    let mut arena = Arena::new();
    let seed = Seed::new(7);
    let mut zset = Zset::new();
    let mut model = Model::default();
    let put = |zset: &mut Zset, arena: &mut Arena, model: &mut Model, number: u32, score: f64| {
        let member = member(number);
        let before = model.find(&member).map(|rank| model.0[rank].0);
        let outcome = zset.update(arena, &seed, limits, &member, |old| {
            assert_eq!(old.map(f64::to_bits), before.map(f64::to_bits));
            Some(score)
        });
        assert_eq!(outcome, Ok(model.put(&member, score, zset.encoding() == "listpack")));
    };
    for step in steps {
        match step {
            Step::Put(number, score) => put(&mut zset, &mut arena, &mut model, number, score),
            Step::PutMany(from, count, by) => {
                for number in 0..count {
                    let score = f64::from(number as i32 * by);
                    put(&mut zset, &mut arena, &mut model, from + number, score);
                }
            }
            Step::Remove(number) => {
                let member = member(number);
                let expected = model.find(&member).map(|rank| model.0.remove(rank).0);
                assert_eq!(zset.remove(&mut arena, &seed, &member), expected);
            }
            Step::RemoveRanks(from, count) => {
                let from = from.min(model.0.len());
                let to = (from + count).min(model.0.len());
                model.0.drain(from..to);
                zset.remove_range(&mut arena, &seed, from..to);
            }
            Step::Ranges(a, b, from, count, low, high) => {
                check_ranges(&zset, &arena, &model, (a, b), from..from + count, (low, high));
            }
        }
        assert_eq!(zset.len(), model.0.len());
        if let Body::Tree(tree) = &zset.0 {
            tree.check(&arena);
        }
    }
    assert_eq!(bits(&collect(&zset, &arena, 0..zset.len(), false)), bits(&model.0));
    for (rank, (score, member)) in model.0.iter().enumerate() {
        assert_eq!(zset.rank(&arena, &seed, member), Some((rank, *score)));
    }
    let mut scanned = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = zset.scan(&arena, &seed, at, |member, _| scanned.push(member.to_vec()));
    }
    let mut expected: Vec<_> = model.0.iter().map(|(_, member)| member.clone()).collect();
    scanned.sort();
    expected.sort();
    assert_eq!(scanned, expected);
    assert_eq!(blocks(&zset), arena.used());
    while !zset.free_some(&mut arena, 1) {}
    assert_eq!((zset.len(), arena.used()), (0, 0));
}

fn check_ranges(
    zset: &Zset,
    arena: &Arena,
    model: &Model,
    (a, b): (f64, f64),
    ranks: Range<usize>,
    (low, high): (u32, u32),
) {
    let reversed = |mut entries: Vec<(f64, Vec<u8>)>| {
        entries.reverse();
        entries
    };
    for (low_out, high_out) in [(false, false), (true, false), (false, true), (true, true)] {
        let above = |score: f64| if low_out { score > a } else { score >= a };
        let under = |score: f64| if high_out { score < b } else { score <= b };
        let expected: Vec<_> = model.0.iter().filter(|(s, _)| above(*s) && under(*s)).cloned().collect();
        let found =
            zset.score_ranks(arena, Bound { score: a, exclusive: low_out }, Bound { score: b, exclusive: high_out });
        assert_eq!(collect(zset, arena, found.clone(), false), expected);
        assert_eq!(reversed(collect(zset, arena, found, true)), expected);
    }
    let clipped = ranks.start.min(model.0.len())..ranks.end.min(model.0.len());
    assert_eq!(collect(zset, arena, ranks.clone(), false), model.0[clipped.clone()]);
    assert_eq!(reversed(collect(zset, arena, ranks, true)), model.0[clipped]);
    if model.0.iter().all(|(score, _)| *score == 0.0) {
        let (low, high) = (member(low), member(high));
        for (from, to) in [
            (Lex::Including(&low), Lex::Excluding(&high)),
            (Lex::Excluding(&low), Lex::Including(&high)),
            (Lex::Least, Lex::Including(&high)),
            (Lex::Excluding(&low), Lex::Most),
        ] {
            let expected: Vec<_> =
                model.0.iter().filter(|(_, m)| from.admits_above(m) && to.admits_below(m)).cloned().collect();
            assert_eq!(collect(zset, arena, zset.lex_ranks(arena, from, to, false), false), expected);
            assert_eq!(reversed(collect(zset, arena, zset.lex_ranks(arena, from, to, true), true)), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_small_set_behaves_as_a_sorted_list(steps in steps(60)) {
        run(steps, LIMITS);
    }

    #[test]
    fn a_set_that_grows_large_behaves_as_a_sorted_list(steps in steps(1500)) {
        run(steps, LIMITS);
    }

    #[test]
    fn a_set_that_is_large_from_the_start_behaves_as_a_sorted_list(steps in steps(1500)) {
        run(steps, Limits { entries: 0, value: 0 });
    }

    #[test]
    fn members_of_one_score_are_ordered_by_their_bytes(
        numbers in prop::collection::vec(0u32..3000, 0..2500), drops in prop::collection::vec(0u32..3000, 0..2500)
    ) {
        let steps = numbers.into_iter().map(|number| Step::Put(number, 0.0));
        let look = |at: u32| Step::Ranges(0.0, 0.0, at as usize, 50, at, at + 100);
        let drops = drops.into_iter().flat_map(|number| {
            [Step::Remove(number)].into_iter().chain((number % 50 == 0).then(|| look(number)))
        });
        run(steps.chain([look(5), look(500)]).chain(drops).collect(), LIMITS);
    }
}

#[test]
fn it_turns_large_where_redis_does_and_never_back() {
    let mut arena = Arena::new();
    let seed = Seed::new(1);
    let mut zset = Zset::new();
    for number in 0..128u32 {
        zset.update(&mut arena, &seed, LIMITS, &number.to_be_bytes(), |_| Some(1.0)).unwrap();
    }
    assert_eq!(zset.encoding(), "listpack");
    zset.update(&mut arena, &seed, LIMITS, b"one more", |_| None).unwrap();
    assert_eq!(zset.encoding(), "listpack");
    zset.update(&mut arena, &seed, LIMITS, b"one more", |_| Some(1.0)).unwrap();
    assert_eq!(zset.encoding(), "skiplist");
    zset.remove_range(&mut arena, &seed, 1..129);
    assert_eq!((zset.len(), zset.encoding()), (1, "skiplist"));
    zset.free(&mut arena);
    let mut zset = Zset::new();
    zset.update(&mut arena, &seed, LIMITS, &[b'm'; 64], |_| Some(1.0)).unwrap();
    assert_eq!(zset.encoding(), "listpack");
    zset.update(&mut arena, &seed, LIMITS, &[b'm'; 65], |_| Some(1.0)).unwrap();
    assert_eq!(zset.encoding(), "skiplist");
    zset.free(&mut arena);
}

#[test]
fn a_million_members_take_less_than_seventy_bytes_each() {
    let mut arena = Arena::new();
    let seed = Seed::new(1);
    let mut zset = Zset::new();
    let count = 300_000u64; // Costs a member as much as a million would, and the test is quicker.
    for number in 0..count {
        let score = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 34) as f64;
        zset.update(&mut arena, &seed, LIMITS, format!("key:{number:012}").as_bytes(), |_| Some(score)).unwrap();
    }
    let each = (zset.heap_bytes() + arena.reserved() - arena.used()) as f64 / count as f64;
    assert!(each < 62.0, "{each} bytes a member");
    zset.free(&mut arena);
    assert_eq!(arena.used(), 0);
}

#[test]
fn a_tree_of_many_levels_keeps_its_promises_while_it_grows_and_shrinks() {
    let mut arena = Arena::new();
    let seed = Seed::new(3);
    let mut zset = Zset::new();
    let mut model = std::collections::BTreeMap::new();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    // Growing with random scores, with few different scores, in order; shrinking at random, from the ends, in runs.
    for (round, mode) in [0, 3, 1, 4, 2, 6, 0, 5, 1, 3, 2, 4, 5, 6].into_iter().enumerate() {
        for step in 0..60_000u64 {
            let number = random(90_000);
            let member = format!("m{number}").into_bytes();
            let score = match mode {
                0 => random(1 << 40) as f64,
                1 => random(3) as f64,
                2 => step as f64 + 1e6 * round as f64,
                3 => {
                    assert_eq!(zset.remove(&mut arena, &seed, &member), model.remove(&member));
                    continue;
                }
                4 | 5 => {
                    let len = zset.len();
                    let rank = if mode == 4 { 0 } else { len.saturating_sub(1) };
                    let gone = zset.entries(&arena, rank..rank + 1, false).next().map(|(member, _)| member.to_vec());
                    zset.remove_range(&mut arena, &seed, rank..rank + 1);
                    gone.map(|member| model.remove(&member));
                    assert_eq!(zset.len(), model.len());
                    continue;
                }
                _ => {
                    if step % 300 == 0 {
                        let start = random(zset.len() as u64 + 1) as usize;
                        let ranks = start..start + random(800) as usize;
                        let gone: Vec<_> = zset.entries(&arena, ranks.clone(), true).map(|(m, _)| m.to_vec()).collect();
                        zset.remove_range(&mut arena, &seed, ranks);
                        for member in gone {
                            model.remove(&member);
                        }
                    }
                    continue;
                }
            };
            zset.update(&mut arena, &seed, LIMITS, &member, |_| Some(score)).unwrap();
            model.insert(member, score);
        }
        let Body::Tree(tree) = &zset.0 else { panic!("it is large") };
        tree.check(&arena);
        let mut expected: Vec<_> = model.iter().map(|(member, score)| (*score, member.clone())).collect();
        expected.sort_by(|left, right| left.partial_cmp(right).expect("no NaN"));
        assert_eq!(collect(&zset, &arena, 0..zset.len(), false), expected);
        assert_eq!(blocks(&zset), arena.used());
    }
    zset.free(&mut arena);
    assert_eq!(arena.used(), 0);
}
