//! Which of the names that there are was probably meant.

/// More letters than these are no mistake in typing.
const TYPO_MAX: usize = 3;
/// Longer texts, in bytes, are no names that somebody has mistyped, and would take long to compare.
const NAME_MAX: usize = 200;

/// The known name that was probably meant; none where every one of them is too far.
///
/// ```
/// use outlive_core::nearest;
///
/// assert_eq!(nearest("Darft", ["Draft", "Publish"]), Some("Draft"));
/// assert_eq!(nearest("Deploy", ["Draft", "Publish"]), None);
/// ```
pub fn nearest<'n>(written: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if written.len() > NAME_MAX {
        return None;
    }
    let distance = |name: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase());
    let limit = TYPO_MAX.min(written.chars().count() / 2);
    let guess = known
        .into_iter()
        .filter(|name| name.len() <= NAME_MAX)
        .map(|name| (distance(name), name))
        .min_by_key(|(distance, _)| *distance);
    guess.filter(|(distance, _)| *distance <= limit).map(|(_, name)| name)
}
