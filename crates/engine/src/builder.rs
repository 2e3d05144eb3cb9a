//! Builds and starts engines.
//!
//! It must never decide anything about a run.

use crate::clock::{SystemChance, SystemClock};
use crate::engine::Engine;
use crate::error::Error;
use crate::finish::Finish;
use crate::heart::{self, Heart};
use crate::inner::Inner;
use crate::keeper;
use crate::options::Options;
use crate::services::Services;
use crate::worker;
use outlive_core::Definition;
use outlive_core::port::{Chance, Clock, Db, Observer};
use std::sync::Arc;
use tokio::runtime::Handle;

/// An engine under construction.
#[must_use]
pub struct EngineBuilder {
    db: Arc<dyn Db>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    observer: Option<Arc<dyn Observer>>,
    options: Options,
    definitions: Vec<Arc<Definition>>,
}

impl EngineBuilder {
    /// Registers a workflow.
    pub fn workflow(mut self, definition: Arc<Definition>) -> Self {
        self.definitions.push(definition);
        self
    }

    /// Uses another clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Uses another source of randomness.
    pub fn chance(mut self, chance: Arc<dyn Chance>) -> Self {
        self.chance = chance;
        self
    }

    /// Reports every commit to this observer.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Uses these options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens the store, registers as a worker and begins to take over runs that nobody executes.
    ///
    /// # Cancel safety
    /// If the future is dropped, what was begun is undone: no worker is left in the store.
    ///
    /// # Errors
    /// Whatever keeps the store from opening.
    pub async fn start(self) -> Result<Engine, Error> {
        // If this future is dropped, nobody holds the engine any more: it then gives everything back.
        Finish::new(&Handle::current(), self.start_whole()).await
    }

    async fn start_whole(self) -> Result<Engine, Error> {
        self.db.open().await?;
        let services = Services::new(self.db, self.clock, self.chance, self.observer, &self.options);
        let inner = Inner::new(services, self.options);
        let engine = Engine::new(inner.clone());
        for definition in self.definitions {
            engine.register(definition);
        }
        inner.watch_store();
        heart::renew(&inner, inner.worker()).await?;
        let heart = Heart::start(inner.clone())?;
        let attending = tokio::spawn(worker::attend(inner.clone()));
        let taking = inner.options.execute.then(|| tokio::spawn(worker::take_over(inner.clone())));
        let keeping = inner.options.execute.then(|| tokio::spawn(keeper::keep(inner.clone())));
        engine.keep(heart, [attending].into_iter().chain(taking).chain(keeping));
        Ok(engine)
    }
}

impl Engine {
    /// Starts to build an engine on a store.
    pub fn builder(db: Arc<dyn Db>) -> EngineBuilder {
        EngineBuilder {
            db,
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            observer: None,
            options: Options::default(),
            definitions: Vec::new(),
        }
    }
}
