//! The workflows that an engine was given, each in all the versions that its runs were accepted with.
//!
//! It must never know a run. The invariant: of each workflow the last version is the one that new runs are accepted with,
//! and no version stands there twice.

use outlive_core::{Definition, DefinitionId, Secret};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

type Versions = HashMap<DefinitionId, Vec<Arc<Definition>>>;

/// What an engine executes.
#[derive(Default)]
pub(crate) struct Definitions(RwLock<Versions>);

/// Whether a version of a workflow is what new runs are accepted with, or one that runs were accepted with before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Newest,
    Older,
}

impl Definitions {
    fn read(&self) -> RwLockReadGuard<'_, Versions> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version of a workflow.
    pub(crate) fn newest(&self, id: &DefinitionId) -> Option<Arc<Definition>> {
        self.read().get(id)?.last().cloned()
    }

    /// The version that a run was accepted with, or else the newest.
    pub(crate) fn of_run(&self, id: &DefinitionId, hash: &str) -> Option<Arc<Definition>> {
        let all = self.read();
        let versions = all.get(id)?;
        versions.iter().find(|version| &*version.hash == hash).or(versions.last()).cloned()
    }

    /// The ids of all.
    pub(crate) fn ids(&self) -> Vec<DefinitionId> {
        self.read().keys().cloned().collect()
    }

    /// The newest version of each.
    pub(crate) fn all_newest(&self) -> Vec<Arc<Definition>> {
        self.read().values().filter_map(|versions| versions.last().cloned()).collect()
    }

    /// Keeps a version; returns the secrets of all, unless it was there.
    pub(crate) fn keep(&self, definition: Arc<Definition>, age: Age) -> Option<Vec<Secret>> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let versions = all.entry(definition.id.clone()).or_default();
        match age {
            Age::Newest => {
                versions.retain(|known| known.hash != definition.hash);
                versions.push(definition);
            }
            Age::Older if versions.iter().any(|known| known.hash == definition.hash) => return None,
            Age::Older => versions.insert(0, definition),
        }
        Some(all.values().flatten().flat_map(|definition| definition.secrets()).collect())
    }
}
