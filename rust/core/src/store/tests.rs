//! The store against a plain map: whatever the history, the policy and the layout of entries.

use super::evict::Policy;
use super::keyspace::{Keep, Store};
use super::random::Random;
use std::collections::{BTreeMap, HashSet};

type Model = BTreeMap<(u8, Vec<u8>), (Vec<u8>, Option<u64>)>;

fn key(random: &mut Random) -> Vec<u8> {
    let number = random.below(300);
    // A few keys are longer than fits an entry, a few longer than one length byte tells.
    let padding = match number % 50 {
        0 => 1500,
        1 => 300,
        _ => 0,
    };
    format!("key:{number}{}", "x".repeat(padding)).into_bytes()
}

fn value(random: &mut Random) -> Vec<u8> {
    let len = match random.below(20) {
        0 => 5000,
        1 => 300 + random.below(1800),
        _ => random.below(100),
    };
    vec![b'a' + random.below(26) as u8; len]
}

fn check(store: &mut Store, model: &Model) {
    let alive: usize = model.len();
    assert_eq!(store.len(), alive);
    for ((database, name), (text, expiry)) in model {
        let found = store.find(*database, name).expect("a key of the model");
        assert_eq!(store.text(found), &text[..]);
        assert_eq!(store.entry(found).expiry(), *expiry);
    }
    for database in 0..3 {
        let mut seen = HashSet::new();
        let mut cursor = 0;
        loop {
            cursor = store.scan(database, cursor, |handle| assert!(seen.insert(store.key_of(handle).to_vec())));
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), model.keys().filter(|(each, _)| *each == database).count());
        assert_eq!(store.database(database).len(), seen.len());
        let expiring = model.iter().filter(|((each, _), (_, expiry))| *each == database && expiry.is_some()).count();
        assert_eq!(store.database(database).expiring, expiring);
    }
}

fn run(seed: u64, policy: Policy, steps: usize) {
    let mut random = Random::new(seed);
    let mut store = Store::new(seed);
    let mut now = 1_700_000_000_000;
    store.set_now(now);
    store.set_policy(policy);
    let mut model = Model::new();
    for step in 0..steps {
        let (database, name) = (random.below(3) as u8, key(&mut random));
        let place = (database, name.clone());
        match random.below(14) {
            0..=4 => {
                let text = value(&mut random);
                let until = now + 1 + random.below(50_000) as u64;
                let (keep, expiry) = match random.below(3) {
                    0 => (Keep::Nothing, None),
                    1 => (Keep::Until(until), Some(until)),
                    _ => (Keep::Expiry, model.get(&place).and_then(|(_, expiry)| *expiry)),
                };
                store.put_text(database, &name, &text, keep).unwrap();
                model.insert(place, (text, expiry));
            }
            5 => {
                if let Some(found) = store.find(database, &name) {
                    store.remove(found);
                }
                model.remove(&place);
            }
            6 => {
                if let Some(mut found) = store.find(database, &name) {
                    store.edit_text(&mut found, |text| text.extend_from_slice(b"more")).unwrap();
                    model.get_mut(&place).unwrap().0.extend_from_slice(b"more");
                }
            }
            7 => {
                let far = if random.below(10) == 0 { 1 << 45 } else { 0 };
                let expiry = (random.below(2) == 0).then(|| now + 1 + far + random.below(20_000) as u64);
                if let Some(mut found) = store.find(database, &name) {
                    store.set_expiry(&mut found, expiry);
                    model.get_mut(&place).unwrap().1 = expiry;
                }
            }
            8 => {
                let (to_database, to) = (random.below(3) as u8, key(&mut random));
                let renamed = store.rename(database, &name, to_database, &to).unwrap();
                assert_eq!(renamed.is_some(), model.contains_key(&place));
                if let Some(content) = model.remove(&place) {
                    model.insert((to_database, to), content);
                }
            }
            9 => {
                if let Some(mut found) = store.find(database, &name) {
                    store.touch(&mut found);
                    store.stamp(&mut found);
                }
            }
            10 => {
                now += random.below(3_000) as u64;
                store.set_now(now);
                model.retain(|_, (_, expiry)| expiry.is_none_or(|time| time > now));
                while store.sweep_expired(10_000).expired > 0 {}
            }
            11 if random.below(4) == 0 => {
                store.tell_gone = true;
                if store.evict_one(5) {
                    let gone = store.gone.pop().unwrap();
                    let (_, expiry) = model.remove(&(gone.database, gone.key)).expect("evicted keys were there");
                    assert!(policy.covers(expiry.is_some()), "{policy:?} evicted what it must not");
                }
                store.tell_gone = false;
            }
            12 if random.below(50) == 0 => {
                store.swap(0, 1);
                model = model
                    .into_iter()
                    .map(|((each, name), content)| {
                        (
                            (
                                match each {
                                    0 => 1,
                                    1 => 0,
                                    other => other,
                                },
                                name,
                            ),
                            content,
                        )
                    })
                    .collect();
            }
            13 if random.below(200) == 0 => {
                assert_eq!(store.flush(database), model.keys().filter(|(each, _)| *each == database).count());
                model.retain(|(each, _), _| *each != database);
            }
            _ => {}
        }
        if step % 500 == 0 {
            check(&mut store, &model);
        }
    }
    check(&mut store, &model);
    for database in 0..3 {
        store.flush(database);
    }
    assert_eq!((store.arena.used(), store.objects.len(), store.long_keys.len()), (0, 0, 0), "everything was freed");
}

#[test]
fn the_store_behaves_like_a_map_under_every_policy() {
    for (number, (_, policy)) in Policy::NAMES.iter().enumerate() {
        run(number as u64 + 1, *policy, 8_000);
    }
}

#[test]
fn a_change_of_policy_keeps_every_key() {
    let mut store = Store::new(3);
    store.set_now(1_700_000_000_000);
    for (_, policy) in Policy::NAMES {
        store.set_policy(policy);
        for number in 0..200u32 {
            let keep = if number % 2 == 0 { Keep::Until(1_800_000_000_000) } else { Keep::Nothing };
            store.put_text(0, format!("{number}").as_bytes(), b"value", keep).unwrap();
        }
        assert_eq!(store.len(), 200);
    }
}

#[test]
fn lru_is_exact() {
    let mut store = Store::new(4);
    store.set_now(1_700_000_000_000);
    store.set_policy(Policy::AllkeysLru);
    let mut order: Vec<u32> = (0..500).collect();
    for number in &order {
        store.put_text(0, &number.to_le_bytes(), b"value", Keep::Nothing).unwrap();
    }
    let mut random = Random::new(5);
    for _ in 0..5_000 {
        let used = order.remove(random.below(order.len()));
        order.push(used);
        if let Some(mut found) = store.find(0, &used.to_le_bytes()) {
            store.touch(&mut found);
        }
    }
    store.tell_gone = true;
    for expected in order {
        assert!(store.evict_one(5));
        assert_eq!(store.gone.pop().unwrap().key, expected.to_le_bytes());
    }
}

#[test]
fn sieve_keeps_what_is_used_and_drops_what_a_scan_brings() {
    for policy in [Policy::AllkeysSieve, Policy::AllkeysS3Fifo] {
        let mut store = Store::new(6);
        store.set_now(1_700_000_000_000);
        store.set_policy(policy);
        for number in 0..100u32 {
            store.put_text(0, &number.to_le_bytes(), b"popular", Keep::Nothing).unwrap();
        }
        for scanned in 1_000..6_000u32 {
            for number in 0..100u32 {
                if scanned % 10 == number % 10
                    && let Some(mut found) = store.find(0, &number.to_le_bytes())
                {
                    store.touch(&mut found);
                }
            }
            store.put_text(0, &scanned.to_le_bytes(), b"once", Keep::Nothing).unwrap();
            while store.len() > 200 {
                assert!(store.evict_one(5));
            }
        }
        let kept = (0..100u32).filter(|number| store.find(0, &number.to_le_bytes()).is_some()).count();
        assert!(kept >= 95, "{policy:?} kept {kept} of 100 popular keys");
    }
}
