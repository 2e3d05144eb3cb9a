//! In which lines two texts differ.
//!
//! It must never know what the texts are. The invariant: without the lines that are gone the old text is left, without those
//! that are new the new one.

/// How many pairs of lines are compared; texts that differ in more are shown one after the other.
const PAIRS_MAX: usize = 4_000_000;

/// A line that only one of the texts has: `-` the old one, `+` the new one, with its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) sign: char,
    pub(crate) number: usize,
    pub(crate) text: &'a str,
}

/// The lines in which they differ, from the top, each with the old ones before the new ones.
pub(crate) fn differing<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same;
    let same_at_end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[same..old.len() - same_at_end], &new[same..new.len() - same_at_end]);
    let line = |sign, place: usize, text| Line { sign, number: same + place + 1, text };
    let kept = if old.len() * new.len() > PAIRS_MAX { Vec::new() } else { common(old, new) };
    let mut found = Vec::new();
    let (mut in_old, mut in_new) = (0, 0);
    for (at_old, at_new) in kept.into_iter().chain([(old.len(), new.len())]) {
        found.extend((in_old..at_old).map(|place| line('-', place, old[place])));
        found.extend((in_new..at_new).map(|place| line('+', place, new[place])));
        (in_old, in_new) = (at_old + 1, at_new + 1);
    }
    found
}

/// The places of a longest sequence of lines that both have.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    // How many lines the rests of both have in common, from each pair of places on.
    let mut counts = vec![0_u32; (old.len() + 1) * width];
    for (at_old, old) in old.iter().enumerate().rev() {
        for (at_new, new) in new.iter().enumerate().rev() {
            let at = at_old * width + at_new;
            counts[at] = match old == new {
                true => counts[at + width + 1] + 1,
                false => counts[at + width].max(counts[at + 1]),
            };
        }
    }
    let (mut kept, mut at_old, mut at_new) = (Vec::new(), 0, 0);
    while at_old < old.len() && at_new < new.len() {
        let at = at_old * width + at_new;
        if old[at_old] == new[at_new] {
            kept.push((at_old, at_new));
            (at_old, at_new) = (at_old + 1, at_new + 1);
        } else if counts[at + width] >= counts[at + 1] {
            at_old += 1;
        } else {
            at_new += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str) -> Vec<String> {
        differing(old, new).iter().map(|line| format!("{}{} {}", line.sign, line.number, line.text)).collect()
    }

    #[test]
    fn lines_that_only_one_text_has_are_told_with_their_numbers() {
        assert!(shown("a\nb\n", "a\nb").is_empty());
        assert_eq!(shown("a\nb\nc", "a\nx\nc"), ["-2 b", "+2 x"]);
        assert_eq!(shown("a\nb\nc\nd", "b\nc\ne\nd"), ["-1 a", "+3 e"]);
        assert_eq!(shown("", "a"), ["+1 a"]);
        assert_eq!(shown("a\na\na", "a"), ["-2 a", "-3 a"]);
    }

    #[test]
    fn what_is_told_makes_the_one_text_of_the_other() {
        let texts = ["", "a", "a\nb", "b\na", "a\nb\nc\na", "c\nc\na\nb", "x\na\ny\nb\nz"];
        for (old, new) in texts.iter().flat_map(|old| texts.iter().map(move |new| (*old, *new))) {
            let of = |sign| differing(old, new).into_iter().filter(move |line| line.sign == sign).map(|line| line.text);
            assert_eq!(old.lines().count() - of('-').count(), new.lines().count() - of('+').count(), "{old:?} {new:?}");
            let mut left: Vec<_> = old.lines().collect();
            for line in differing(old, new).iter().filter(|line| line.sign == '-').rev() {
                assert_eq!(left.remove(line.number - 1), line.text);
            }
            for line in differing(old, new).iter().filter(|line| line.sign == '+') {
                left.insert(line.number - 1, line.text);
            }
            assert_eq!(left, new.lines().collect::<Vec<_>>(), "{old:?}");
        }
    }
}
