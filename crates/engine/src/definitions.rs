//! The workflows that an engine was given, each in all the versions that its runs were accepted with.
//!
//! It must never know a run. The invariant: of each workflow the last version is the one that new runs are accepted with,
//! and no version stands there twice.

use outlive_core::{Definition, DefinitionId, Secret};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

type All = HashMap<DefinitionId, Versions>;

/// What an engine executes.
#[derive(Default)]
pub(crate) struct Definitions(RwLock<All>);

/// The versions of a workflow.
#[derive(Default)]
struct Versions {
    /// The newest last.
    known: Vec<Arc<Definition>>,
    /// No new run is accepted.
    is_retired: bool,
}

/// Whether a version of a workflow is what new runs are accepted with, or one that runs were accepted with before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Newest,
    Older,
}

impl Definitions {
    fn read(&self) -> RwLockReadGuard<'_, All> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What new runs of a workflow are accepted with.
    pub(crate) fn newest(&self, id: &DefinitionId) -> Option<Arc<Definition>> {
        self.read().get(id).filter(|versions| !versions.is_retired)?.known.last().cloned()
    }

    /// The newest version of a workflow, also of one that accepts no new runs.
    pub(crate) fn latest(&self, id: &DefinitionId) -> Option<Arc<Definition>> {
        self.read().get(id)?.known.last().cloned()
    }

    /// The version that a run was accepted with, or else the newest.
    pub(crate) fn of_run(&self, id: &DefinitionId, hash: &str) -> Option<Arc<Definition>> {
        let all = self.read();
        let versions = &all.get(id)?.known;
        versions.iter().find(|version| &*version.hash == hash).or(versions.last()).cloned()
    }

    /// The ids of all.
    pub(crate) fn ids(&self) -> Vec<DefinitionId> {
        self.read().keys().cloned().collect()
    }

    /// The newest version of each, also of those that accept no new runs.
    pub(crate) fn all_newest(&self) -> Vec<Arc<Definition>> {
        self.read().values().filter_map(|versions| versions.known.last().cloned()).collect()
    }

    /// Accepts no new runs of a workflow until a version is kept as its newest.
    pub(crate) fn retire(&self, id: &DefinitionId) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = all.get_mut(id) {
            versions.is_retired = true;
        }
    }

    /// Keeps a version; returns the secrets of all, unless it was there.
    pub(crate) fn keep(&self, definition: Arc<Definition>, age: Age) -> Option<Vec<Secret>> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let versions = all.entry(definition.id.clone()).or_default();
        match age {
            Age::Newest => {
                versions.known.retain(|known| known.hash != definition.hash);
                versions.known.push(definition);
                versions.is_retired = false;
            }
            Age::Older if versions.known.iter().any(|known| known.hash == definition.hash) => return None,
            Age::Older => versions.known.insert(0, definition),
        }
        Some(all.values().flat_map(|versions| &versions.known).flat_map(|definition| definition.secrets()).collect())
    }
}
