//! What a build costs must not grow by accident: a pin that `cargo update` would remove.
//!
//! It must never know what a package does. The invariant: what it asks for is in decision 016.

use crate::Problem;

/// `idna` offers this version for fast builds; a newer one brings ICU4X with 20 packages.
const PINNED: (&str, &str) = ("idna_adapter", "1.1.");

/// Looks for the pin in the text of `Cargo.lock`.
pub(super) fn pinned(lock: &str) -> Vec<Problem> {
    let (name, version) = PINNED;
    let Some((_, after)) = lock.split_once(&format!("name = \"{name}\"\n")) else { return Vec::new() };
    if after.starts_with(&format!("version = \"{version}")) {
        return Vec::new();
    }
    vec![format!("Cargo.lock: {name} must stay at {version}0: cargo update -p {name} --precise {version}0")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_that_was_taken_out_is_found() {
        assert!(pinned("name = \"idna_adapter\"\nversion = \"1.1.0\"\n").is_empty());
        assert!(pinned("name = \"other\"\nversion = \"9\"\n").is_empty());
        assert_eq!(pinned("name = \"idna_adapter\"\nversion = \"1.2.2\"\n").len(), 1);
    }
}
