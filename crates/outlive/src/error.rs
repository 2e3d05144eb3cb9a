//! The facade's one error.

use crate::invalid::InvalidFile;
use outlive_core::{InvalidDefinition, NotCompleted};
use std::fmt;
use std::sync::Arc;

/// Why a request to the facade failed.
///
/// `{:?}` shows the same sentence as `{}`: it is what a `main` that returns this error prints.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A workflow cannot be built; every problem is listed.
    #[error(transparent)]
    Definition(#[from] InvalidDefinition),
    /// A workflow file cannot be used; every problem is listed with its place.
    #[error(transparent)]
    File(#[from] InvalidFile),
    /// An awaited run has no result: it failed, was cancelled or is PAUSED. The error holds the run.
    #[error(transparent)]
    NotCompleted(#[from] NotCompleted),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(outlive_engine::Error),
    /// An address cannot be served.
    #[error("cannot serve: {0}")]
    Serve(Arc<std::io::Error>),
    /// Traces cannot be sent as the environment or the program asks.
    #[cfg(feature = "otlp")]
    #[error("cannot send traces: {0}")]
    Traces(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<outlive_engine::Error> for Error {
    fn from(error: outlive_engine::Error) -> Self {
        match error {
            outlive_engine::Error::NotCompleted(run) => Self::NotCompleted(run),
            error => Self::Engine(error),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Serve(Arc::new(error))
    }
}

/// A result with the facade's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
