//! Schedules of a workflow as users see them: a request to create one, and handles on those there are.
//!
//! It adds no rules; the engine has them.

use crate::error::Result;
use crate::workflow::Workflow;
use outlive_core::port::ScheduleFilter;
use outlive_engine::{CatchUp, CreateSchedule, Overlap, ScheduleHandle, ScheduleSpec};
use serde_json::Value;

impl Workflow {
    /// A schedule of this workflow: when runs are made of it, by cron. It is created by [`ScheduleRequest::create`].
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let step = Step::function("report", |_, input| async move { Ok::<_, Failure>(input.text()) });
    /// let workflow = Workflow::builder("Report").db(InMemoryDb::new()).step(step).build()?;
    /// let schedule = workflow.schedule("0 9 * * MON-FRI").time_zone("Europe/Berlin").input("sales").create().await?;
    /// assert_eq!(schedule.trigger().await?.await?.text(), "sales");
    /// # Ok(())
    /// # }
    /// ```
    pub fn schedule(&self, cron: impl Into<String>) -> ScheduleRequest {
        ScheduleRequest { workflow: self.clone(), create: CreateSchedule::new(ScheduleSpec::new(cron)) }
    }

    /// The schedules of this workflow, those created first first.
    ///
    /// # Errors
    /// When one of them is damaged, or the database fails.
    pub async fn schedules(&self) -> Result<Vec<ScheduleHandle>> {
        let engine = self.engine().await?;
        let workflow_id = Some(self.definition().id.clone());
        let mut filter = ScheduleFilter { workflow_id, limit: 1_000, ..ScheduleFilter::default() };
        let mut all = Vec::new();
        loop {
            let page = engine.schedules(filter.clone()).await?;
            all.extend(page.schedules.into_iter().map(|schedule| engine.attach_schedule(schedule)));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// The schedule with this id or name.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn get_schedule(&self, id_or_name: impl AsRef<str>) -> Result<ScheduleHandle> {
        Ok(self.engine().await?.schedule(id_or_name.as_ref()).await?)
    }
}

/// A schedule to be created: what its runs are given, and what happens to those that come late or too soon.
#[must_use = "a schedule is created with .create() or .replace()"]
pub struct ScheduleRequest {
    workflow: Workflow,
    create: CreateSchedule,
}

impl ScheduleRequest {
    /// What people call it; made from the workflow's id and the times by default. Every schedule of a user has its own.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.create.name = Some(name.into());
        self
    }

    /// By whose clocks: a name of the IANA time zone database; UTC by default.
    pub fn time_zone(mut self, zone: impl Into<String>) -> Self {
        self.create.spec.time_zone = zone.into();
        self
    }

    /// The input of its runs.
    pub fn input(mut self, input: impl Into<Value>) -> Self {
        self.create.spec.input = Some(input.into()).filter(|input| !input.is_null());
        self
    }

    /// The session of its runs; by default each has its own.
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.create.spec.session_id = Some(id.into());
        self
    }

    /// The user it belongs to, and its runs.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.create.user_id = Some(id.into());
        self
    }

    /// What becomes of times that pass while no process is there; nothing by default.
    pub fn catch_up(mut self, policy: CatchUp) -> Self {
        self.create.spec.catch_up = policy;
        self
    }

    /// What happens while its run before has not come to rest; by default no run is made.
    pub fn overlap(mut self, policy: Overlap) -> Self {
        self.create.spec.overlap = policy;
        self
    }

    /// The priority of its runs.
    pub fn priority(mut self, priority: i8) -> Self {
        self.create.spec.priority = priority;
        self
    }

    /// The concurrency key of its runs.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.create.spec.concurrency_key = Some(key.into());
        self
    }

    /// Creates it; it is on stable storage when the future is ready. The same schedule again gives the one that is there, so
    /// a program may create its schedules whenever it starts.
    ///
    /// # Errors
    /// When a part of it cannot be, or another schedule has its name; then none was created.
    pub async fn create(self) -> Result<ScheduleHandle> {
        let engine = self.workflow.engine().await?;
        Ok(engine.create_schedule(&self.workflow.definition().id, self.create).await?)
    }

    /// The same, in place of the one with its name, if there is one. That one keeps its id, its history, and whether it is
    /// paused.
    ///
    /// # Errors
    /// When a part of it cannot be; then nothing was changed.
    pub async fn replace(mut self) -> Result<ScheduleHandle> {
        self.create.replaces = true;
        self.create().await
    }
}
