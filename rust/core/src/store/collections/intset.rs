//! A sorted array of whole numbers, each as wide as the widest needs: how a small set of numbers is kept.

/// See the module's page.
#[derive(Clone, Default)]
pub struct IntSet {
    bytes: Vec<u8>,
    width: u8, // 2, 4 or 8; only ever grows. Zero while nothing was added.
}

impl IntSet {
    /// How many numbers there are.
    #[inline]
    pub fn len(&self) -> usize {
        if self.width == 0 { 0 } else { self.bytes.len() / usize::from(self.width) }
    }

    /// Bytes of heap memory.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// The number at `index` in ascending order.
    #[inline]
    pub fn get(&self, index: usize) -> Option<i64> {
        let at = index * usize::from(self.width);
        Some(match (self.width, self.bytes.get(at..at + usize::from(self.width))?) {
            (2, &[a, b]) => i64::from(i16::from_le_bytes([a, b])),
            (4, &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
            (_, bytes) => i64::from_le_bytes(bytes.try_into().ok()?),
        })
    }

    /// Whether `value` is there.
    #[inline]
    pub fn contains(&self, value: i64) -> bool {
        width_of(value) <= self.width && self.search(value).is_ok()
    }

    /// Add a number; false when it was there.
    pub fn insert(&mut self, value: i64) -> bool {
        let width = width_of(value);
        if width > self.width {
            let values: Vec<i64> = self.iter().collect();
            self.width = width;
            self.bytes.clear();
            self.bytes.reserve_exact((values.len() + 1) * usize::from(width));
            values.iter().for_each(|value| self.bytes.extend_from_slice(&value.to_le_bytes()[..usize::from(width)]));
        }
        let Err(index) = self.search(value) else { return false };
        let (at, width, len) = (index * usize::from(self.width), usize::from(self.width), self.bytes.len());
        if self.bytes.capacity() - len < width {
            self.bytes.reserve_exact((len / 8).next_multiple_of(8) + width);
        }
        self.bytes.resize(len + width, 0);
        self.bytes.copy_within(at..len, at + width);
        self.bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        true
    }

    /// Take out a number; false when it was not there.
    pub fn remove(&mut self, value: i64) -> bool {
        if width_of(value) > self.width {
            return false;
        }
        let Ok(index) = self.search(value) else { return false };
        let width = usize::from(self.width);
        self.bytes.drain(index * width..(index + 1) * width);
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to(self.bytes.len() + self.bytes.len() / 8);
        }
        true
    }

    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Where `value` lies, or where it would.
    fn search(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        // Numbers often come in rising order.
        if high > 0 && self.get(high - 1).is_some_and(|last| last < value) {
            return Err(high);
        }
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).unwrap_or(i64::MAX).cmp(&value) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }
}

fn width_of(value: i64) -> u8 {
    if i16::try_from(value).is_ok() {
        2
    } else if i32::try_from(value).is_ok() {
        4
    } else {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_like_a_sorted_set(steps in prop::collection::vec((0u8..4, -40i64..40, 0u32..3), 0..400)) {
            let mut set = IntSet::default();
            let mut model = BTreeSet::new();
            for (step, value, scale) in steps {
                let value = value << (scale * 28);
                if step < 3 {
                    prop_assert_eq!(set.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(set.remove(value), model.remove(&value));
                }
                prop_assert_eq!(set.contains(value), model.contains(&value));
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }

    #[test]
    fn the_extremes_fit() {
        let mut set = IntSet::default();
        for value in [i64::MAX, i64::MIN, 0, -1, 32_768, -32_769] {
            assert!(set.insert(value));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [i64::MIN, -32_769, -1, 0, 32_768, i64::MAX]);
    }
}
