//! Deliberate defects. Owns which one is on, and must never be in a program that anyone installs.
//!
//! The invariant: without the variable, this crate does what it does without the feature.

/// Whether `OUTLIVE_SABOTAGE` names this defect.
pub(crate) fn is_on(defect: &str) -> bool {
    std::env::var_os("OUTLIVE_SABOTAGE").is_some_and(|on| on == defect)
}
