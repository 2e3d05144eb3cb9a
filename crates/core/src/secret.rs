//! A text that must not be shown: a provider's key, a tool's credential.
//!
//! It can be read only through a method with a name of its own, so a search finds every place that does. It never knows
//! what the secret is for.

use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A secret. Its content appears in no debug output, cannot be displayed or serialized, and is overwritten in memory
/// when the last clone is dropped.
///
/// ```
/// use outlive_core::Secret;
///
/// let key = Secret::from("a-key-nobody-sees");
/// assert_eq!(format!("{key:?}"), "Secret([redacted])");
/// assert_eq!(key.expose(), "a-key-nobody-sees");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// A secret with this content, without white space around it: files end with a line break that no key has.
    pub fn new(content: impl Into<String>) -> Self {
        let content = Zeroizing::new(content.into());
        let trimmed = content.trim();
        if trimmed.len() == content.len() {
            return Self(Arc::new(content));
        }
        Self(Arc::new(Zeroizing::new(trimmed.to_owned())))
    }

    /// The content. What is made of it (a header, a message) is the caller's to protect.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no content: nothing to send, nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(content: T) -> Self {
        Self::new(content)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_trimmed_and_shows_nothing() {
        let secret = Secret::new(" canary-value\n".to_owned());
        assert_eq!(secret.expose(), "canary-value");
        assert!(!format!("{secret:?} {:#?}", Some(&secret)).contains("canary"));
        assert!(Secret::from("  ").is_empty() && !secret.is_empty());
    }
}
