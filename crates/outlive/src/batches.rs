//! Batches of a workflow as users see them: a request to start one, and handles on those there are.
//!
//! It adds no rules; the engine has them. Inputs are taken as they are needed, so there may be more than fit into memory.

use crate::error::Result;
use crate::workflow::Workflow;
use outlive_core::port::BatchFilter;
use outlive_engine::{BatchHandle, CreateBatch, Engine, Error};
use serde_json::Value;
use std::time::Duration;

/// Inputs that are added together.
const ADDED_TOGETHER: usize = 500;
/// How long to wait where too many runs wait already.
const FULL_PAUSE: Duration = Duration::from_millis(200);

impl Workflow {
    /// Many inputs as one: each becomes a run of its own, a bounded number executes at once, and the batch says how far
    /// they have come. It is started by [`BatchRequest::background`].
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let step = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
    /// let workflow = Workflow::builder("Shout").db(InMemoryDb::new()).step(step).build()?;
    /// let batch = workflow.batch(["bees", "wasps"]).concurrency(8).background().await?;
    /// assert_eq!(batch.wait().await?.counts.completed, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch<I>(&self, inputs: I) -> BatchRequest
    where
        I: IntoIterator<Item: Into<Value> + 'static, IntoIter: Send + 'static>,
    {
        let inputs = Box::new(inputs.into_iter().map(Into::into));
        BatchRequest { workflow: self.clone(), create: CreateBatch::default(), inputs }
    }

    /// The batches of this workflow, newest first.
    ///
    /// # Errors
    /// When one of them is damaged, or the database fails.
    pub async fn batches(&self) -> Result<Vec<BatchHandle>> {
        let engine = self.engine().await?;
        let workflow_id = Some(self.definition().id.clone());
        let mut filter = BatchFilter { workflow_id, limit: 1_000, ..BatchFilter::default() };
        let mut all = Vec::new();
        loop {
            let page = engine.reader().batches(filter.clone()).await?;
            all.extend(page.batches.into_iter().map(|batch| engine.attach_batch(batch)));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// The batch with this id.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn get_batch(&self, id: impl AsRef<str>) -> Result<BatchHandle> {
        Ok(self.engine().await?.batch(id.as_ref()).await?)
    }
}

/// A batch to be started.
#[must_use = "a batch is started with .background()"]
pub struct BatchRequest {
    workflow: Workflow,
    create: CreateBatch,
    inputs: Box<dyn Iterator<Item = Value> + Send>,
}

impl BatchRequest {
    /// How many of its runs execute at once: 16 by default, or as many as the workflow's own limit says.
    pub fn concurrency(mut self, runs: u32) -> Self {
        self.create.spec.concurrency = Some(runs);
        self
    }

    /// Its runs count together with others that have this key.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.create.spec.concurrency_key = Some(key.into());
        self
    }

    /// The priority of its runs.
    pub fn priority(mut self, priority: i8) -> Self {
        self.create.spec.priority = priority;
        self
    }

    /// The user it belongs to, and its runs.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.create.user_id = Some(id.into());
        self
    }

    /// Sets its id. The same batch with the same id and inputs again is the one that is there, and gets what it lacks.
    pub fn batch_id(mut self, id: impl Into<String>) -> Self {
        self.create.batch_id = Some(id.into());
        self
    }

    /// Starts it. When the future is ready, all inputs are on stable storage, each as a run that will be executed. Where too
    /// many runs wait already, it waits until some have begun.
    ///
    /// # Errors
    /// When an input or another part of it cannot be. What was accepted before is executed; start the batch again with the
    /// same id to go on.
    ///
    /// # Cancel safety
    /// If the future is dropped, some inputs may have been accepted: the same.
    pub async fn background(self) -> Result<BatchHandle> {
        let Self { workflow, create, mut inputs } = self;
        let engine: &Engine = workflow.engine().await?;
        let batch = engine.create_batch(&workflow.definition().id, create).await?;
        let mut from = 0;
        loop {
            let chunk: Vec<Value> = inputs.by_ref().take(ADDED_TOGETHER).collect();
            if chunk.is_empty() {
                batch.complete(from).await?;
                return Ok(batch);
            }
            from = add(&batch, from, chunk).await?;
        }
    }
}

/// Adds inputs, as soon as there is room for them.
async fn add(batch: &BatchHandle, from: u64, inputs: Vec<Value>) -> Result<u64> {
    loop {
        match batch.add(from, inputs.clone()).await {
            Err(Error::Item { problem, .. }) if matches!(*problem, Error::QueueFull { .. }) => {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            added => return Ok(added?),
        }
    }
}
