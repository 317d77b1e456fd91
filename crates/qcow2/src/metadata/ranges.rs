//! A set of cluster numbers kept as ranges.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct RangeSet {
    /// start → end (exclusive); ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(crate) fn contains(&self, value: u64) -> bool {
        self.end_of(value).is_some()
    }

    /// End of the range that holds `value`.
    pub(crate) fn end_of(&self, value: u64) -> Option<u64> {
        let (_, end) = self.ranges.range(..=value).next_back()?;
        (*end > value).then_some(*end)
    }

    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if let Some((s, e)) = self.ranges.range(..=start).next_back().map(|r| (*r.0, *r.1))
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((s, e)) = self.ranges.range(start..=end).next().map(|r| (*r.0, *r.1)) {
            self.ranges.remove(&s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The smallest value.
    pub(crate) fn first(&self) -> Option<u64> {
        self.ranges.keys().next().copied()
    }

    /// True if any of the values was there.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> bool {
        let hit: Vec<(u64, u64)> = self
            .ranges
            .range(..end)
            .rev()
            .take_while(|(_, e)| **e > start)
            .map(|r| (*r.0, *r.1))
            .collect();
        let any = !hit.is_empty();
        for (s, e) in hit {
            self.ranges.remove(&s);
            if s < start {
                self.ranges.insert(s, start);
            }
            if e > end {
                self.ranges.insert(end, e);
            }
        }
        any
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(s, e)| (*s, *e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 1u64..20), 1..60)) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (add, start, len) in steps {
                if add {
                    set.insert(start, start + len);
                    model.extend(start..start + len);
                } else {
                    let any = model.range(start..start + len).next().is_some();
                    prop_assert_eq!(set.remove(start, start + len), any);
                    model.retain(|v| !(start..start + len).contains(v));
                }
                for value in 0..90 {
                    prop_assert_eq!(set.contains(value), model.contains(&value));
                }
                prop_assert_eq!(set.first(), model.first().copied());
                let listed: Vec<u64> = set.iter().flat_map(|(s, e)| s..e).collect();
                prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
