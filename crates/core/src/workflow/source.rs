//! The text that a definition was read from, and how to read an older one again.
//!
//! It must never know the text's language. The invariant: the text is part of the definition's hash, so a run that was
//! accepted with one text finds that text again, and no other.

use super::Definition;
use std::fmt;
use std::sync::Arc;

/// Reads a text as the definition it once was, or says what is missing for it now.
type Restore = dyn Fn(&str) -> Result<Arc<Definition>, String> + Send + Sync;

/// The text of a definition, and what reads such texts.
///
/// It is stored with the first run of the definition, under its hash. A run goes on with the text that it was accepted
/// with: where the definition has another by then, the stored one is read again.
#[derive(Clone)]
pub struct DefinitionSource {
    /// What is stored. Never a secret.
    pub text: Arc<str>,
    restore: Arc<Restore>,
}

impl DefinitionSource {
    /// A text, and what reads such texts of the same workflow.
    pub fn new(
        text: impl Into<Arc<str>>,
        restore: impl Fn(&str) -> Result<Arc<Definition>, String> + Send + Sync + 'static,
    ) -> Self {
        Self { text: text.into(), restore: Arc::new(restore) }
    }

    /// The definition that a stored text was.
    ///
    /// # Errors
    /// What is missing for it now, or wrong with it, in words for a person.
    pub fn restore(&self, text: &str) -> Result<Arc<Definition>, String> {
        (self.restore)(text)
    }
}

impl fmt::Debug for DefinitionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefinitionSource").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}
