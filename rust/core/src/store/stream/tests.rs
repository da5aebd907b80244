//! Streams against a model that keeps everything in a sorted map.

use super::*;
use crate::store::random::Random;

const SMALL: Limits = Limits { bytes: 300, entries: 7 };

fn id(ms: u64, seq: u64) -> Id {
    Id { ms, seq }
}

fn words(entry: Entry<'_>) -> Vec<Vec<u8>> {
    entry.pairs().flat_map(|(name, value)| [name, value]).map(|piece| piece.with(<[u8]>::to_vec)).collect()
}

#[test]
fn a_stream_is_a_sorted_map_that_grows_at_one_end() {
    let mut random = Random::new(11);
    let mut draw = move |below: u64| random.bits() % below;
    for _ in 0..20 {
        let (mut stream, mut model) = (Stream::default(), BTreeMap::<Id, Vec<Vec<u8>>>::new());
        for _ in 0..600 {
            match draw(12) {
                0..8 => {
                    let new = match draw(3) {
                        0 => stream.last.next().unwrap(),
                        1 => id(stream.last.ms + draw(3), draw(4)),
                        _ => id(stream.last.ms + 1, 0),
                    };
                    let fields: Vec<Vec<u8>> = (0..1 + draw(3))
                        .flat_map(|at| [format!("f{}", at + draw(2)), draw(100_000).to_string()])
                        .map(String::into_bytes)
                        .collect();
                    let parts: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
                    match stream.append(new, &parts, SMALL) {
                        Ok(()) => assert!(model.insert(new, fields).is_none()),
                        Err(refused) => assert_eq!((refused, new <= stream.last), (Refused::NotAfterLast, true)),
                    }
                }
                8..10 => {
                    let at = draw(model.len() as u64 + 1) as usize;
                    let gone = model.keys().nth(at).copied().unwrap_or(id(3, 3));
                    assert_eq!(stream.remove(gone), model.remove(&gone).is_some());
                }
                10 if draw(4) == 0 => {
                    let most = draw(model.len() as u64 + 1);
                    let removed = stream.trim(Cut::Length(most), false, 0);
                    assert_eq!(removed, model.len() as u64 - most);
                    (0..removed).for_each(|_| drop(model.pop_first()));
                }
                _ if draw(4) == 0 => {
                    let first = id(draw(stream.last.ms + 2), draw(3));
                    let kept = model.split_off(&first);
                    assert_eq!(stream.trim(Cut::Before(first), false, 0), model.len() as u64);
                    model = kept;
                }
                _ => {}
            }
            let (from, to) = (id(draw(stream.last.ms + 2), draw(3)), id(draw(stream.last.ms + 2), draw(3)));
            let expected: Vec<_> = model.range(from..).take_while(|(id, _)| **id <= to).map(|(id, _)| *id).collect();
            assert_eq!(stream.range(from, to).map(|entry| entry.id).collect::<Vec<_>>(), expected);
            let mut back: Vec<_> = stream.range_back(from, to).map(|entry| entry.id).collect();
            back.reverse();
            assert_eq!(back, expected);
            assert_eq!(stream.first(), model.keys().next().copied().unwrap_or(Id::MIN));
            assert_eq!(stream.last_there(), model.keys().last().copied().unwrap_or(stream.last));
        }
        let all: Vec<_> = stream.range(Id::MIN, Id::MAX).map(|entry| (entry.id, words(entry))).collect();
        assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        assert_eq!(stream.len(), all.len() as u64);
    }
}

#[test]
fn trimming_about_takes_whole_blocks_within_its_limit() {
    let mut stream = Stream::default();
    let limits = Limits { bytes: 0, entries: 10 };
    (1..=95).for_each(|ms| stream.append(id(ms, 0), &[b"f", b"v"], limits).unwrap());
    assert_eq!(stream.trim(Cut::Length(25), true, 0), 70);
    assert_eq!(stream.trim(Cut::Length(1), true, 15), 10);
    assert_eq!(stream.trim(Cut::Before(id(85, 0)), true, 0), 0);
    assert_eq!(stream.trim(Cut::Before(id(91, 0)), true, 0), 10);
    assert_eq!((stream.len(), stream.first()), (5, id(91, 0)));
}

#[test]
fn a_small_entry_costs_little_and_all_of_it_is_given_back() {
    let mut stream = Stream::default();
    for ms in 0..10_000u64 {
        let value = format!("value-{ms:04}");
        stream
            .append(
                id(1_700_000_000_000 + ms * 3, 0),
                &[b"field", value.as_bytes()],
                Limits { bytes: 4096, entries: 100 },
            )
            .unwrap();
    }
    let each = stream.heap_bytes() as f64 / 10_000.0;
    assert!(each < 16.0, "{each} bytes for a value of ten");
    let mut group = Group::new(Id::MIN, Some(0));
    let who = group.add(b"c", 0).unwrap();
    stream.range(Id::MIN, Id::MAX).take(1000).for_each(|entry| group.deliver(entry.id, who, 1, 1));
    assert!(stream.add_group(b"g", group));
    let mut turns = 0;
    while !stream.free_some(50) {
        turns += 1;
        assert!(turns < 1000, "freeing comes to an end");
    }
    assert!(turns > 10);
}
