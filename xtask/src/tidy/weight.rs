//! What a build costs must not grow by accident, nor what is published become slower: a pin that `cargo update` would
//! remove, and packages that one profile leaves unoptimised and the other must not.
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

/// Looks in the text of `Cargo.toml` for packages that `release` sets and `dist`, which inherits from it, does not.
pub(super) fn optimised(manifest: &str) -> Vec<Problem> {
    let set = |profile: &str| -> Vec<&str> {
        let begin = format!("[profile.{profile}.package.");
        manifest.lines().filter_map(|line| line.strip_prefix(&*begin)?.strip_suffix(']')).collect()
    };
    let in_dist = set("dist");
    let forgotten = set("release").into_iter().filter(|package| !in_dist.contains(package));
    forgotten.map(|package| format!("Cargo.toml: [profile.dist.package.{package}] must set its opt-level")).collect()
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

    #[test]
    fn a_package_left_unoptimised_in_dist_is_found() {
        let release = "[profile.release.package.jiff]\nopt-level = 0\n";
        assert_eq!(optimised(release).len(), 1);
        assert_eq!(optimised(&format!("{release}[profile.dist.package.idna]\nopt-level = 3\n")).len(), 1);
        assert!(optimised(&format!("{release}[profile.dist.package.jiff]\nopt-level = 3\n")).is_empty());
    }
}
