//! The list against a plain deque of vectors, through any history.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Push(End, Vec<u8>),
    PushMany(End, u16, u8),
    Pop(End),
    PopMany(End, u16),
    Set(u16, Vec<u8>),
    Insert(u16, Vec<u8>),
    InsertBeside(Vec<u8>, bool, Vec<u8>),
    Remove(Vec<u8>, u8, End),
    Trim(u16, u16),
    Look(u16),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Front), Just(End::Back)]
}

/// Few different short elements, so that values meet again, and some around every limit of the packing.
fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0u8..6).prop_map(|byte| vec![byte; usize::from(byte)]),
        4 => (any::<u8>(), 100usize..1200).prop_map(|(byte, len)| vec![byte; len]),
        2 => (any::<u8>(), 250usize..260).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 8160usize..8200).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 65_530usize..65_540).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (end(), element()).prop_map(|(end, element)| Step::Push(end, element)),
        2 => (end(), 0u16..900, 0u8..6).prop_map(|(end, count, byte)| Step::PushMany(end, count, byte)),
        4 => end().prop_map(Step::Pop),
        2 => (end(), 0u16..900).prop_map(|(end, count)| Step::PopMany(end, count)),
        4 => (any::<u16>(), element()).prop_map(|(index, element)| Step::Set(index, element)),
        4 => (any::<u16>(), element()).prop_map(|(index, element)| Step::Insert(index, element)),
        2 => (element(), any::<bool>(), element()).prop_map(|(pivot, behind, element)| Step::InsertBeside(pivot, behind, element)),
        2 => (element(), 0u8..40, end()).prop_map(|(value, limit, from)| Step::Remove(value, limit, from)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(start, end)| Step::Trim(start, end)),
        3 => any::<u16>().prop_map(Step::Look),
    ]
}

/// A place in the list, or a little past its end.
fn scaled(index: u16, len: usize) -> usize {
    usize::from(index) * (len + 2) / 65_536
}

fn apply(list: &mut List, model: &mut VecDeque<Vec<u8>>, step: Step) {
    match step {
        Step::Push(end, element) => push(list, model, end, &element),
        Step::PushMany(end, count, byte) => {
            (0..count).for_each(|_| push(list, model, end, &vec![byte; usize::from(byte) * 9]));
        }
        Step::Pop(end) => pop(list, model, end),
        Step::PopMany(end, count) => (0..count).for_each(|_| pop(list, model, end)),
        Step::Set(index, element) => {
            let index = scaled(index, model.len());
            assert_eq!(list.set(index, &element), index < model.len());
            if let Some(place) = model.get_mut(index) {
                *place = element;
            }
        }
        Step::Insert(index, element) => {
            let index = scaled(index, model.len());
            list.insert(index, &element);
            model.insert(index.min(model.len()), element);
        }
        Step::InsertBeside(pivot, behind, element) => {
            let found = model.iter().position(|each| *each == pivot);
            assert_eq!(list.insert_beside(&pivot, behind, &element), found.is_some());
            if let Some(index) = found {
                model.insert(index + usize::from(behind), element);
            }
        }
        Step::Remove(value, limit, from) => {
            let mut removed = 0;
            while removed < usize::from(limit) {
                let found = match from {
                    End::Front => model.iter().position(|each| *each == value),
                    End::Back => model.iter().rposition(|each| *each == value),
                };
                let Some(index) = found else { break };
                model.remove(index);
                removed += 1;
            }
            assert_eq!(list.remove_equal(&value, usize::from(limit), from), removed);
        }
        Step::Trim(start, end) => {
            let (start, end) = (scaled(start, model.len()), scaled(end, model.len()).min(model.len()));
            list.trim(start, end);
            model.truncate(end);
            model.drain(..start.min(model.len()));
        }
        Step::Look(index) => {
            let index = scaled(index, model.len());
            assert_eq!(list.get(index), model.get(index).map(Vec::as_slice));
            assert!(list.forward(index).eq(model.iter().skip(index).map(Vec::as_slice)));
            let backward = model.iter().rev().skip(model.len().saturating_sub(index + 1));
            assert!(index >= model.len() || list.backward(index).eq(backward.map(Vec::as_slice)));
        }
    }
    assert_eq!(list.len(), model.len());
    assert_eq!(list.at(End::Front), model.front().map(Vec::as_slice));
    assert_eq!(list.at(End::Back), model.back().map(Vec::as_slice));
}

fn push(list: &mut List, model: &mut VecDeque<Vec<u8>>, end: End, element: &[u8]) {
    list.push(end, element);
    match end {
        End::Front => model.push_front(element.to_vec()),
        End::Back => model.push_back(element.to_vec()),
    }
}

fn pop(list: &mut List, model: &mut VecDeque<Vec<u8>>, end: End) {
    let expected = if end == End::Front { model.pop_front() } else { model.pop_back() };
    assert_eq!(list.at(end), expected.as_deref());
    list.drop_at(end);
}

/// The sums that the list keeps are those of its chunks, and no chunk is empty or too full.
fn check_sums(list: &List) {
    if let Shape::Many(row) = &list.shape {
        assert!(row.chunks.len() > 1);
        assert!(row.chunks.iter().all(|chunk| chunk.count() > 0));
        assert!(row.chunks.iter().all(|chunk| chunk.count() == 1 || chunk.heap_bytes() <= chunk::FULL));
        assert_eq!(row.len, row.chunks.iter().map(Chunk::count).sum::<usize>());
        assert_eq!(row.bytes, row.chunks.iter().map(Chunk::heap_bytes).sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_behaves_like_a_deque(steps in prop::collection::vec(step(), 0..80)) {
        let mut list = List::new();
        let mut model = VecDeque::new();
        for step in steps {
            apply(&mut list, &mut model, step);
            check_sums(&list);
        }
        prop_assert!(list.forward(0).eq(model.iter().map(Vec::as_slice)));
    }
}

#[test]
fn a_million_short_elements_cost_their_bytes_and_little_more() {
    let mut list = List::new();
    for number in 0..1_000_000u32 {
        list.push(if number % 2 == 0 { End::Front } else { End::Back }, format!("{number:010}").as_bytes());
    }
    assert!(list.heap_bytes() < 12_200_000, "{} bytes", list.heap_bytes());
    assert_eq!(list.get(0), Some(b"0000999998".as_slice()));
    assert_eq!(list.get(499_999), Some(b"0000000000".as_slice()));
    list.trim(10, 20);
    assert!(list.heap_bytes() < 1000, "{} bytes", list.heap_bytes());
}

#[test]
fn a_short_list_has_one_small_buffer() {
    let mut list = List::new();
    assert_eq!(list.heap_bytes(), 0);
    list.push(End::Back, b"some element");
    assert!(list.heap_bytes() <= 24, "{} bytes", list.heap_bytes());
    assert!(size_of::<List>() <= 32);
}

#[test]
fn a_queue_that_stays_short_keeps_a_small_buffer() {
    let mut list = List::new();
    for number in 0..100_000u32 {
        list.push(End::Front, format!("{number}").as_bytes());
        if number >= 20 {
            assert_eq!(list.at(End::Back), Some(format!("{}", number - 20).as_bytes()));
            list.drop_at(End::Back);
        }
    }
    assert!(list.heap_bytes() < 600, "{} bytes", list.heap_bytes());
}

#[test]
fn freeing_goes_in_steps() {
    let mut list = List::new();
    (0..10_000).for_each(|_| list.push(End::Back, &[7; 100]));
    let mut steps = 0;
    while !list.free_some(16) {
        steps += 1;
        check_sums_while_freeing(&list);
    }
    assert!(steps > 5);
    assert!(list.is_empty());
    assert_eq!(list.heap_bytes(), 0);
}

fn check_sums_while_freeing(list: &List) {
    if let Shape::Many(row) = &list.shape {
        assert_eq!(row.bytes, row.chunks.iter().map(Chunk::heap_bytes).sum::<usize>());
    }
}
