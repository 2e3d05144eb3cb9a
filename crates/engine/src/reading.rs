//! What an engine reads, it reads as its [`Reader`] does: the same calls, for those who hold an engine anyway.
//!
//! Nothing may stand here that is not the reader's.

use crate::asked::AskedQuestion;
use crate::engine::Engine;
use crate::error::Error;
use crate::events::EventStream;
use crate::hub::Changes;
use crate::questions::AskedPage;
use crate::reader::RunStanding;
use crate::schedules::SchedulesPage;
use crate::stats::Stats;
use outlive_core::port::{
    AuditFilter, AuditPage, BudgetFilter, BudgetPage, HookHistory, LivingWorker, QuestionFilter, Run, RunFilter,
    RunPage, ScheduleFilter, Session, SessionFilter, SessionPage, StoredBudget, StoredTick,
};
use outlive_core::{RunEvent, RunId, SessionId, Timestamp, Waiting, WorkflowRunOutput};

impl Engine {
    /// As [`Reader::get_run`](crate::Reader::get_run).
    pub async fn get_run(&self, run_id: &RunId) -> Result<Option<WorkflowRunOutput>, Error> {
        self.reader().get_run(run_id).await
    }

    /// As [`Reader::output`](crate::Reader::output).
    pub async fn output(&self, run: &Run) -> Result<WorkflowRunOutput, Error> {
        self.reader().output(run).await
    }

    /// As [`Reader::record`](crate::Reader::record).
    pub async fn record(&self, run_id: &RunId) -> Result<Option<Run>, Error> {
        self.reader().record(run_id).await
    }

    /// As [`Reader::standing`](crate::Reader::standing).
    pub async fn standing(&self, run_id: &RunId) -> Result<Option<RunStanding>, Error> {
        self.reader().standing(run_id).await
    }

    /// As [`Reader::waiting`](crate::Reader::waiting).
    pub async fn waiting(&self, run: &Run) -> Result<Option<Waiting>, Error> {
        self.reader().waiting(run).await
    }

    /// As [`Reader::waitings`](crate::Reader::waitings).
    pub async fn waitings(&self, runs: &[Run]) -> Result<Vec<Option<Waiting>>, Error> {
        self.reader().waitings(runs).await
    }

    /// As [`Reader::questions`](crate::Reader::questions).
    pub async fn questions(&self, filter: QuestionFilter) -> Result<AskedPage, Error> {
        self.reader().questions(filter).await
    }

    /// As [`Reader::questions_of`](crate::Reader::questions_of).
    pub async fn questions_of(&self, run_id: &RunId) -> Result<Vec<AskedQuestion>, Error> {
        self.reader().questions_of(run_id).await
    }

    /// As [`Reader::question`](crate::Reader::question).
    pub async fn question(&self, id: &str) -> Result<Option<AskedQuestion>, Error> {
        self.reader().question(id).await
    }

    /// As [`Reader::runs`](crate::Reader::runs).
    pub async fn runs(&self, filter: RunFilter) -> Result<RunPage, Error> {
        self.reader().runs(filter).await
    }

    /// As [`Reader::events`](crate::Reader::events).
    pub fn events(&self, run_id: &RunId, after: Option<u64>) -> EventStream {
        self.reader().events(run_id, after)
    }

    /// As [`Reader::stored_events`](crate::Reader::stored_events).
    pub async fn stored_events(&self, run_id: &RunId, from: u64, count: usize) -> Result<Vec<RunEvent>, Error> {
        self.reader().stored_events(run_id, from, count).await
    }

    /// As [`Reader::changes`](crate::Reader::changes).
    pub fn changes(&self) -> Changes {
        self.reader().changes()
    }

    /// As [`Reader::session`](crate::Reader::session).
    pub async fn session(&self, session_id: &SessionId) -> Result<Option<Session>, Error> {
        self.reader().session(session_id).await
    }

    /// As [`Reader::sessions`](crate::Reader::sessions).
    pub async fn sessions(&self, filter: SessionFilter) -> Result<SessionPage, Error> {
        self.reader().sessions(filter).await
    }

    /// As [`Reader::budgets`](crate::Reader::budgets).
    pub async fn budgets(&self, filter: BudgetFilter) -> Result<BudgetPage, Error> {
        self.reader().budgets(filter).await
    }

    /// As [`Reader::budget`](crate::Reader::budget).
    pub async fn budget(&self, id: &str) -> Result<StoredBudget, Error> {
        self.reader().budget(id).await
    }

    /// As [`Reader::schedules`](crate::Reader::schedules).
    pub async fn schedules(&self, filter: ScheduleFilter) -> Result<SchedulesPage, Error> {
        self.reader().schedules(filter).await
    }

    /// As [`Reader::schedule_ticks`](crate::Reader::schedule_ticks).
    pub async fn schedule_ticks(
        &self,
        id: &str,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<StoredTick>, Error> {
        self.reader().schedule_ticks(id, before, limit).await
    }

    /// As [`Reader::workers`](crate::Reader::workers).
    pub async fn workers(&self) -> Result<Vec<LivingWorker>, Error> {
        self.reader().workers().await
    }

    /// As [`Reader::hook`](crate::Reader::hook).
    pub async fn hook(&self, run_id: &RunId) -> Result<Option<HookHistory>, Error> {
        self.reader().hook(run_id).await
    }

    /// As [`Reader::audit`](crate::Reader::audit).
    pub async fn audit(&self, filter: AuditFilter) -> Result<AuditPage, Error> {
        self.reader().audit(filter).await
    }

    /// As [`Reader::stopped`](crate::Reader::stopped).
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reader().stopped()
    }

    /// As [`Reader::stats`](crate::Reader::stats).
    pub fn stats(&self) -> Stats {
        self.reader().stats()
    }
}
