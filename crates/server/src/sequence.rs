//! How events of other protocols are numbered: by the entry of the run's log that they tell of, and their part of it.
//!
//! A protocol of one's own says several things where the log has one entry, and nothing where it has another. It knows no
//! protocol. The invariants: a number follows from its place alone, so every process and every stream gives an event the
//! same one; numbers have the order of their places; and all of them are whole in a 64-bit float, as JavaScript reads them.

use std::fmt;
use std::str::FromStr;

/// The number of an event of another protocol: `0` to `999` for what is told of the run's being accepted, then a thousand
/// for each entry of its log. `7003` is part 3 of entry 6.
///
/// As text it is written in decimal digits, without a sign or leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

/// Text or a number that is no [`Sequence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sequence number is a whole number from 0 to {}", Sequence::MAX.0)]
pub struct InvalidSequence;

impl Sequence {
    /// Parts that one place may have.
    pub const PARTS_MAX: u64 = 1000;
    /// The greatest number: the last part of the last entry whose parts are all whole in a 64-bit float.
    pub const MAX: Self = Self((1 << 53) / Self::PARTS_MAX * Self::PARTS_MAX - 1);
    /// The greatest index of an entry that can be numbered: nine million million.
    pub const INDEX_MAX: u64 = Self::MAX.0 / Self::PARTS_MAX - 1;

    /// A part, from 0, of what is told before the log's first entry: that the run was accepted.
    ///
    /// # Errors
    /// When `part` is not below [`Sequence::PARTS_MAX`].
    pub fn of_acceptance(part: u64) -> Result<Self, InvalidSequence> {
        if part < Self::PARTS_MAX { Ok(Self(part)) } else { Err(InvalidSequence) }
    }

    /// A part, from 0, of what is told of the entry at `index`.
    ///
    /// # Errors
    /// When `part` is not below [`Sequence::PARTS_MAX`], or `index` is beyond [`Sequence::INDEX_MAX`].
    pub fn of_entry(index: u64, part: u64) -> Result<Self, InvalidSequence> {
        if part < Self::PARTS_MAX && index <= Self::INDEX_MAX {
            Ok(Self((index + 1) * Self::PARTS_MAX + part))
        } else {
            Err(InvalidSequence)
        }
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The index of the entry that it tells of; `None` when it tells that the run was accepted.
    pub fn index(self) -> Option<u64> {
        (self.0 / Self::PARTS_MAX).checked_sub(1)
    }

    /// Which part of what is told there, from 0.
    pub fn part(self) -> u64 {
        self.0 % Self::PARTS_MAX
    }

    /// The index after which the log is read to go on behind this event. Its own entry is read again: it may have further
    /// parts. `None`: from the first entry.
    pub fn read_after(self) -> Option<u64> {
        self.index()?.checked_sub(1)
    }
}

impl TryFrom<u64> for Sequence {
    type Error = InvalidSequence;

    fn try_from(number: u64) -> Result<Self, InvalidSequence> {
        if number <= Self::MAX.0 { Ok(Self(number)) } else { Err(InvalidSequence) }
    }
}

impl FromStr for Sequence {
    type Err = InvalidSequence;

    fn from_str(text: &str) -> Result<Self, InvalidSequence> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let number: Option<u64> = is_plain.then(|| text.parse().ok()).flatten();
        number.ok_or(InvalidSequence)?.try_into()
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Places in any order: the borders, and many between them.
    fn places() -> Vec<(Option<u64>, u64)> {
        let mut random = StdRng::seed_from_u64(36);
        let indexes = [0, 1, 2, 999, 1000, 1001, Sequence::INDEX_MAX - 1, Sequence::INDEX_MAX];
        let parts = [0, 1, 2, 998, 999];
        let borders = indexes.iter().flat_map(|index| parts.map(|part| (Some(*index), part)));
        let mut places: Vec<_> = parts.map(|part| (None, part)).into_iter().chain(borders).collect();
        for _ in 0..10_000 {
            // As many small indexes as large ones.
            let index = random.random_range(0..=Sequence::INDEX_MAX) >> random.random_range(0..43);
            places.push((Some(index), random.random_range(0..Sequence::PARTS_MAX)));
        }
        places
    }

    fn number((index, part): (Option<u64>, u64)) -> Sequence {
        index.map_or_else(|| Sequence::of_acceptance(part), |index| Sequence::of_entry(index, part)).expect("a place")
    }

    #[test]
    fn a_number_says_its_place() {
        for place in places() {
            let number = number(place);
            assert_eq!((number.index(), number.part()), place);
            assert_eq!(Sequence::try_from(number.get()), Ok(number));
            assert_eq!(number.to_string().parse(), Ok(number));
        }
        assert_eq!(number((Some(6), 3)).get(), 7003);
        assert_eq!(number((None, 1)).get(), 1);
    }

    #[test]
    fn numbers_have_the_order_of_their_places() {
        let mut places = places();
        places.sort_unstable();
        for pair in places.windows(2) {
            assert_eq!(number(pair[0]).cmp(&number(pair[1])), pair[0].cmp(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn every_number_up_to_the_greatest_is_whole_in_a_float() {
        assert!(Sequence::MAX.get() < 1 << 53);
        assert_eq!(Sequence::of_entry(Sequence::INDEX_MAX, 999), Ok(Sequence::MAX));
        for place in places() {
            let number = number(place).get();
            assert_eq!(number as f64 as u64, number);
        }
    }

    #[test]
    fn what_is_no_place_has_no_number() {
        assert_eq!(Sequence::of_acceptance(1000), Err(InvalidSequence));
        assert_eq!(Sequence::of_entry(0, 1000), Err(InvalidSequence));
        assert_eq!(Sequence::of_entry(Sequence::INDEX_MAX + 1, 0), Err(InvalidSequence));
        assert_eq!(Sequence::of_entry(u64::MAX, u64::MAX), Err(InvalidSequence));
        assert_eq!(Sequence::try_from(Sequence::MAX.get() + 1), Err(InvalidSequence));
        for text in [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "01",
            "00",
            "1.0",
            "1e3",
            "0x1",
            "٣",
            "9007199254740992",
            "99999999999999999999",
        ] {
            assert_eq!(text.parse::<Sequence>(), Err(InvalidSequence), "{text:?}");
        }
    }

    #[test]
    fn going_on_reads_the_entry_again() {
        assert_eq!(number((None, 999)).read_after(), None);
        assert_eq!(number((Some(0), 5)).read_after(), None);
        assert_eq!(number((Some(7), 0)).read_after(), Some(6));
    }
}
