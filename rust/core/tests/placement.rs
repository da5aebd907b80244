//! Placement over many sizes, weights, racks and histories: the bars of balance and movement, by seed.

use fastcache_core::topology::{Member, NOBODY, Placement, Settings, place};

const SLOTS: u64 = 16_384;

/// A small generator of our own, so that a failing seed stays failing.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn member(number: u64, hosts: u64, racks: u64, weight: u32) -> Member {
    let host = number % hosts;
    let rack = if racks == 0 { String::new() } else { format!("rack{}", host % racks) };
    Member { id: format!("node-{number:05}"), host: format!("host-{host}"), rack, weight }
}

fn equal(count: u64) -> Vec<Member> {
    (0..count).map(|number| member(number, count, 0, 100)).collect()
}

/// Asserts the bounds of every member and returns the mains' counts.
fn check(members: &[Member], placement: &Placement, what: &str) -> Vec<u32> {
    let weights: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let loads = placement.loads(members.len());
    for (member, &(mains, _)) in members.iter().zip(&loads) {
        let scaled = SLOTS * u64::from(member.weight);
        let (low, high) = (scaled / weights, scaled.div_ceil(weights));
        assert!((low..=high).contains(&u64::from(mains)), "{what}: {} holds {mains}, not {low}..{high}", member.id);
    }
    assert!((0..16_384).all(|slot| placement.main(slot) != NOBODY), "{what}: a slot has no main");
    loads.iter().map(|&(mains, _)| mains).collect()
}

/// Maps a placement on `old` members to the indexes of `new` ones.
fn carried(placement: &Placement, old: &[Member], new: &[Member], replicas: usize) -> Placement {
    let groups: Vec<_> = (0..16_384u16)
        .map(|slot| {
            let name = |index: u16| if index == NOBODY { "" } else { old[usize::from(index)].id.as_str() };
            let find = |id: &str| new.iter().position(|m| m.id == id).map_or(NOBODY, |index| index as u16);
            let main = find(name(placement.main(slot)));
            let copies: Vec<u16> =
                placement.replicas(slot).iter().map(|&i| find(name(i))).filter(|&i| i != NOBODY).collect();
            (main, copies)
        })
        .collect();
    Placement::of(replicas, &groups)
}

fn moved(before: &Placement, after: &Placement) -> u64 {
    (0..16_384).filter(|&slot| before.main(slot) != after.main(slot)).count() as u64
}

#[test]
fn fifty_equal_members_are_even_and_a_new_one_takes_only_its_share() {
    let members = equal(50);
    let placement = place(&members, None, &Settings::default()).unwrap();
    let counts = check(&members, &placement, "50 equal");
    let busiest = f64::from(*counts.iter().max().unwrap());
    assert!(busiest / (SLOTS as f64 / 50.0) <= 1.02);

    for new_id in ["aaa", "node-00025x", "zzz"] {
        let mut more = members.clone();
        more.push(Member { id: new_id.into(), host: new_id.into(), rack: String::new(), weight: 100 });
        more.sort_by(|a, b| a.id.cmp(&b.id));
        let before = carried(&placement, &members, &more, 0);
        let after = place(&more, Some(&before), &Settings::default()).unwrap();
        check(&more, &after, "51 equal");
        let fair = SLOTS as f64 / 51.0;
        assert!(moved(&before, &after) as f64 <= 1.02 * fair, "{} of {fair} moved", moved(&before, &after));
        let newcomer = more.iter().position(|m| m.id == new_id).unwrap() as u16;
        for slot in 0..16_384 {
            assert!(before.main(slot) == after.main(slot) || after.main(slot) == newcomer, "two old members traded");
        }
    }
}

#[test]
fn nothing_moves_when_nothing_changed() {
    for replicas in 0..3 {
        let settings = Settings { replicas, ..Settings::default() };
        let members: Vec<Member> = (0..37).map(|n| member(n, 11, 3, 50 + (n as u32 * 37) % 200)).collect();
        let first = place(&members, None, &settings).unwrap();
        let again = place(&members, Some(&first), &settings).unwrap();
        assert!(again == first, "{replicas} replicas: something moved");
    }
}

#[test]
fn a_member_that_leaves_moves_its_own_slots_and_no_others() {
    let members = equal(50);
    let placement = place(&members, None, &Settings::default()).unwrap();
    let fewer: Vec<Member> = members.iter().filter(|m| m.id != "node-00007").cloned().collect();
    let before = carried(&placement, &members, &fewer, 0);
    let after = place(&fewer, Some(&before), &Settings::default()).unwrap();
    check(&fewer, &after, "49 equal");
    for slot in 0..16_384 {
        assert!(before.main(slot) == after.main(slot) || before.main(slot) == NOBODY);
    }
}

#[test]
fn kept_mains_stay_however_uneven_and_only_slots_without_one_are_given_away() {
    let members = equal(4);
    let settings = Settings { replicas: 1, keep_mains: true, ..Settings::default() };
    // A failover has left member 1 with everything of member 0, and member 3 holds nothing yet.
    let fresh = place(&members[..3], None, &Settings { keep_mains: false, ..settings }).unwrap();
    let slots: Vec<(u16, Vec<u16>)> = (0..16_384)
        .map(|slot| match fresh.main(slot) {
            0 => (1, vec![]),
            main if slot % 100 == 7 => (if main == 2 { NOBODY } else { main }, vec![]),
            main => (main, fresh.replicas(slot).to_vec()),
        })
        .collect();
    let before = Placement::of(1, &slots);
    let after = place(&members, Some(&before), &settings).unwrap();
    for slot in 0..16_384 {
        assert_ne!(after.main(slot), NOBODY);
        assert_eq!(after.replicas(slot).len(), 1);
        if before.main(slot) != NOBODY {
            assert_eq!(after.main(slot), before.main(slot));
        }
    }
}

#[test]
fn a_drained_member_gives_everything_away() {
    let mut members = equal(10);
    let settings = Settings { replicas: 1, ..Settings::default() };
    let before = place(&members, None, &settings).unwrap();
    members[3].weight = 0;
    let after = place(&members, Some(&before), &settings).unwrap();
    assert_eq!(after.loads(10)[3], (0, 0));
    check(&members, &after, "drained");
}

#[test]
fn sizes_from_3_to_2000_with_any_weights_racks_and_history_stay_within_one_slot() {
    let seeds: u64 = std::env::var("FASTCACHE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        let mut dice = Dice(seed);
        let size = match seed % 4 {
            0 => 3 + dice.below(10),
            1 => 3 + dice.below(100),
            2 => 3 + dice.below(500),
            _ if seed == 3 => 1990,
            _ => 3 + dice.below(1998),
        };
        let hosts = 1 + dice.below(size);
        let racks = dice.below(6);
        let replicas = dice.below(3) as usize;
        let settings = Settings { replicas, ..Settings::default() };
        let weight = |dice: &mut Dice| if dice.below(3) == 0 { 100 } else { 1 + dice.below(400) as u32 };
        let mut members: Vec<Member> =
            (0..size).map(|number| member(number, hosts, racks, weight(&mut dice))).collect();
        let mut next = size;
        let mut placement = place(&members, None, &settings).unwrap();
        check(&members, &placement, &format!("seed {seed} fresh"));
        for step in 0..6 {
            let old = members.clone();
            for _ in 0..=dice.below(3) {
                match dice.below(4) {
                    0 | 1 if members.len() < 2000 => {
                        members.push(member(next, hosts, racks, weight(&mut dice)));
                        next += 1;
                    }
                    2 if members.len() > 3 => {
                        members.remove(dice.below(members.len() as u64) as usize);
                    }
                    _ => {
                        let which = dice.below(members.len() as u64) as usize;
                        members[which].weight = dice.below(4) as u32 * weight(&mut dice);
                    }
                }
            }
            if members.iter().all(|m| m.weight == 0) {
                members[0].weight = 100;
            }
            members.sort_by(|a, b| a.id.cmp(&b.id));
            let before = carried(&placement, &old, &members, replicas);
            let after = place(&members, Some(&before), &settings).unwrap();
            let what = format!("seed {seed} step {step} with {} members", members.len());
            check(&members, &after, &what);
            assert_eq!(moved(&before, &after), least_moves(&members, &before), "{what}: more moves than needed");
            check_copies(&members, &after, replicas, &what);
            let again = place(&members, Some(&after), &settings).unwrap();
            assert!(again == after, "{what}: not at rest");
            placement = after;
        }
    }
}

/// What no placement within the bounds can undercut: slots above the bound must go, slots missing must come.
fn least_moves(members: &[Member], before: &Placement) -> u64 {
    let weights: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let homeless = (0..16_384).filter(|&slot| before.main(slot) == NOBODY).count() as u64;
    let (mut excess, mut missing) = (homeless, 0);
    for (member, (mains, _)) in members.iter().zip(before.loads(members.len())) {
        let scaled = SLOTS * u64::from(member.weight);
        excess += u64::from(mains).saturating_sub(scaled.div_ceil(weights));
        missing += (scaled / weights).saturating_sub(u64::from(mains));
    }
    excess.max(missing)
}

fn check_copies(members: &[Member], placement: &Placement, replicas: usize, what: &str) {
    let mut hosts: Vec<&str> = members.iter().filter(|m| m.weight > 0).map(|m| m.host.as_str()).collect();
    let eligible = hosts.len();
    hosts.sort_unstable();
    hosts.dedup();
    for slot in 0..16_384 {
        let mut copies = vec![placement.main(slot)];
        copies.extend_from_slice(placement.replicas(slot));
        assert_eq!(copies.len(), 1 + replicas.min(eligible - 1), "{what}: slot {slot} lacks copies");
        let mut used: Vec<&str> = copies.iter().map(|&index| members[usize::from(index)].host.as_str()).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), copies.len().min(hosts.len()), "{what}: slot {slot} has two copies on one host");
        copies.sort_unstable();
        copies.dedup();
        assert_eq!(copies.len(), 1 + replicas.min(eligible - 1), "{what}: slot {slot} is twice on one member");
    }
}

#[test]
fn copies_stand_in_other_racks_and_are_even_where_racks_are_even() {
    let settings = Settings { replicas: 1, ..Settings::default() };
    let members: Vec<Member> = (0..48).map(|number| member(number, 24, 3, 100)).collect();
    let placement = place(&members, None, &settings).unwrap();
    for slot in 0..16_384 {
        let rack = |index: u16| &members[usize::from(index)].rack;
        assert_ne!(rack(placement.main(slot)), rack(placement.replicas(slot)[0]));
    }
    let fair = SLOTS as f64 / 48.0;
    for (_, replicas) in placement.loads(48) {
        assert!(f64::from(replicas) <= fair * 1.07 + 1.0, "{replicas} replicas, fair are {fair}");
    }
}

/// Slots of which two copies, the main included, stand in one rack.
fn sharing_a_rack(members: &[Member], placement: &Placement) -> usize {
    let shares = |slot: &u16| {
        let copies = placement.replicas(*slot).iter().copied().chain([placement.main(*slot)]);
        let mut racks: Vec<&str> = copies.map(|index| members[usize::from(index)].rack.as_str()).collect();
        let all = racks.len();
        racks.sort_unstable();
        racks.dedup();
        racks.len() < all
    };
    (0..16_384).filter(shares).count()
}

#[test]
fn whoever_comes_and_goes_no_slot_has_two_copies_in_a_rack_while_racks_allow_it() {
    // Racks, nodes of each and copies: with one node less, or one more, no rack has more than its part of all.
    for (racks, each, replicas) in [(3, 2, 1), (3, 4, 1), (4, 2, 2), (5, 2, 1), (5, 3, 2), (6, 2, 3)] {
        let what = format!("{racks} racks of {each}, {replicas} copies");
        let whole: Vec<Member> = (0..racks * each).map(|number| member(number, racks * each, racks, 100)).collect();
        let settings = Settings { replicas, ..Settings::default() };
        let then = Settings { keep_mains: true, ..settings };
        let mut now = whole[..whole.len() - 1].to_vec();
        let mut placement = place(&now, None, &settings).unwrap();
        assert_eq!(sharing_a_rack(&now, &placement), 0, "{what}: at first");
        for gone in [None, Some(0), None, Some(1), Some(whole.len() - 1), None] {
            let members: Vec<Member> =
                (0..whole.len()).filter(|&number| Some(number) != gone).map(|number| whole[number].clone()).collect();
            let before = carried(&placement, &now, &members, replicas);
            // As slots move: first the mains, and their copies follow.
            let moved = place(&members, Some(&before), &settings).unwrap();
            placement = place(&members, Some(&moved), &then).unwrap();
            now = members;
            assert_eq!(sharing_a_rack(&now, &placement), 0, "{what}: without {gone:?}");
            assert_eq!(place(&now, Some(&placement), &then).unwrap(), placement, "{what}: a second look");
        }
    }
}

#[test]
fn a_replica_takes_over_the_slots_of_a_member_that_left() {
    let settings = Settings { replicas: 1, ..Settings::default() };
    let members = equal(10);
    let placement = place(&members, None, &settings).unwrap();
    let fewer: Vec<Member> = members.iter().filter(|m| m.id != "node-00004").cloned().collect();
    let before = carried(&placement, &members, &fewer, 1);
    let after = place(&fewer, Some(&before), &settings).unwrap();
    let orphans: Vec<u16> = (0..16_384).filter(|&slot| before.main(slot) == NOBODY).collect();
    let kept = orphans.iter().filter(|&&slot| before.replicas(slot).contains(&after.main(slot))).count();
    assert!(kept * 10 >= orphans.len() * 7, "only {kept} of {} went to their replica", orphans.len());
}
