//! The client for an outlive server: starts, follows and changes runs from another process, with the facade's types.
//!
//! ```text
//! Client ──► connection ──► HTTP         one request, one bounded answer, or why there is none
//!    └─────► follow ──► retry            a run's events through as many connections as it takes
//! ```
//! It speaks `/api`, and parses answers into the types the facade already has. It must never know a store, nor decide
//! what a caller may do. Invariants: the credential appears in no error, log or debug text, and is sent only to the
//! given address; no answer takes more memory than its limit.

mod batches;
mod connection;
mod error;
mod follow;
mod retry;
mod shape;

pub use batches::{BulkLine, BulkResult, INPUTS_MAX, ItemList, ItemSummary};
use connection::Connection;
pub use error::{ClientError, Refusal};
pub use follow::Following;
use outlive_core::port::{
    BudgetFilter, BudgetPage, LivingWorker, QuestionFilter, RunFilter, ScheduleFilter, StoredBudget, StoredTick,
};
use outlive_core::{Answer, DefinitionId, RunId, RunStatus, Secret, WorkflowRunOutput};
use outlive_engine::{CreateSchedule, Fork, Prune, PruneReport, Schedule, SchedulesPage};
use retry::Retry;
pub use shape::{
    Accepted, EventPage, ForkPreview, QuestionList, QuestionSummary, QuestionTool, RunDetail, RunList, RunSummary,
    StepSummary, Submission, WorkflowSummary,
};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time for which the server is asked to delay an answer.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// Pause after an answer that came sooner than requested.
const EARLY_PAUSE: Duration = Duration::from_millis(200);

/// Talks to a server: `outlive serve`, or your own `outlive::Server`. Cheap to clone; clones share connections.
///
/// Waiting and following continue through lost connections and restarts of the server. Everything else is one request
/// and is never retried automatically.
///
/// ```no_run
/// use outlive::client::{Client, Submission};
///
/// # async fn example() -> Result<(), outlive::client::ClientError> {
/// let client = Client::builder("http://127.0.0.1:7878").token("a-key-of-mine").build()?;
/// let run = client.submit(&Submission::new("content-creation-demo").input("AI trends in 2024")).await?;
/// let mut events = client.follow(&run.run_id, None);
/// while let Some(event) = events.next().await? {
///     eprintln!("{}", event.name());
/// }
/// println!("{}", client.output(&run.run_id).await?.text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
    give_up_after: Option<Duration>,
}

/// A client under construction.
#[must_use]
pub struct ClientBuilder {
    server: String,
    token: Option<Secret>,
    limits: connection::Limits,
    give_up_after: Option<Duration>,
}

impl ClientBuilder {
    /// The credential: a security key, an API key or a JSON Web Token. An empty one counts as none.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into()).filter(|token| !token.is_empty());
        self
    }

    /// Longest time for an answer, including its body; 30 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// Longest silence on a stream before its connection counts as lost; 45 seconds by default. The server sends
    /// something every 15.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Longest answer, and longest event of a stream, in bytes after decompression; 64 MiB by default.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.answer_bytes_max = bytes;
        self
    }

    /// How long following and waiting keep retrying while the server cannot be reached; for ever by default.
    pub fn give_up_after(mut self, longest: Duration) -> Self {
        self.give_up_after = Some(longest);
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Unusable`] when the address is invalid or contains a credential, or the token has characters that
    /// no header can carry.
    pub fn build(self) -> Result<Client, ClientError> {
        let connection = Connection::new(&self.server, self.token, self.limits)?;
        Ok(Client { connection: Arc::new(connection), give_up_after: self.give_up_after })
    }
}

impl Client {
    /// A client for this server, without a credential: `Client::new("http://127.0.0.1:7878")`.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn new(server: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(server).build()
    }

    /// Starts building a client for the server at this address. A path is kept: the server may be mounted below one.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder { server: server.into(), token: None, limits: connection::Limits::default(), give_up_after: None }
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    /// Starts a run. When this returns, the run is on the server's stable storage and will be executed.
    ///
    /// # Cancel safety
    /// If the future is dropped, or fails with [`ClientError::Unreachable`], the run may or may not have been accepted;
    /// repeat with the same idempotency key.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such workflow, [`ClientError::Invalid`] when the input does not fit,
    /// [`ClientError::Conflict`] when the idempotency key, run or session is taken, and the errors of any request.
    pub async fn submit(&self, submission: &Submission) -> Result<Accepted, ClientError> {
        let key = submission.idempotency_key.as_deref();
        let answer = self.connection.post(&["api", "runs"], Some(submission), key).await?;
        shape::accepted(&answer)
    }

    /// Starts a new run with the input of this one, in its session.
    ///
    /// # Cancel safety
    /// As [`Client::submit`].
    ///
    /// # Errors
    /// As [`Client::submit`]; [`ClientError::NotFound`] also when there is no such run.
    pub async fn rerun(&self, run_id: &RunId, idempotency_key: Option<&str>) -> Result<Accepted, ClientError> {
        let path = ["api", "runs", run_id.as_str(), "rerun"];
        shape::accepted(&self.connection.post(&path, None::<&()>, idempotency_key).await?)
    }

    /// Starts a run that keeps what this one has done up to a place, and goes on from there; or where this one failed or
    /// was cancelled. Who changes an answer is whoever the credential names.
    ///
    /// ```no_run
    /// # use outlive::client::{Client, ClientError};
    /// use outlive::engine::Fork;
    ///
    /// # async fn example(client: Client, run_id: outlive::RunId) -> Result<(), ClientError> {
    /// let fork = Fork::at("Research");
    /// println!("{} calls will be made again", client.preview_fork(&run_id, &fork).await?.again.len());
    /// let accepted = client.fork(&run_id, &fork).await?;
    /// # let _ = accepted;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// As [`Client::submit`].
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such run, [`ClientError::Conflict`] when it cannot be forked there, and
    /// as [`Client::submit`].
    pub async fn fork(&self, run_id: &RunId, fork: &Fork) -> Result<Accepted, ClientError> {
        let (verb, body) = shape::fork(fork);
        let path = ["api", "runs", run_id.as_str(), verb];
        shape::accepted(&self.connection.post(&path, body.as_ref(), fork.idempotency_key.as_deref()).await?)
    }

    /// Which calls a fork would make again; executes nothing.
    ///
    /// # Errors
    /// As [`Client::fork`].
    pub async fn preview_fork(&self, run_id: &RunId, fork: &Fork) -> Result<ForkPreview, ClientError> {
        let (verb, body) = shape::fork(fork);
        let path = ["api", "runs", run_id.as_str(), verb, "preview"];
        self.connection.post(&path, body.as_ref(), None).await?.read()
    }

    /// A run with its steps.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with.
    pub async fn run(&self, run_id: &RunId) -> Result<RunDetail, ClientError> {
        self.connection.get(&["api", "runs", run_id.as_str()], &[]).await
    }

    /// A page of runs. `with_payload` fills in the previews; a limit above 1000 (100 with previews) is lowered to that;
    /// runs are always counted.
    ///
    /// # Errors
    /// [`ClientError::NotAllowed`] when another user's runs are requested, [`ClientError::Invalid`] when the cursor is
    /// not from a list, and the errors of any request.
    pub async fn runs(&self, filter: &RunFilter) -> Result<RunList, ClientError> {
        self.connection.get(&["api", "runs"], &shape::query(filter)).await
    }

    /// Stored events after index `after`, from the first when absent: at most `limit`, 1 to 1000.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with.
    pub async fn events(&self, run_id: &RunId, after: Option<u64>, limit: u32) -> Result<EventPage, ClientError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(after.map(|after| ("after", after.to_string())));
        self.connection.get(&["api", "runs", run_id.as_str(), "events"], &query).await
    }

    /// The run's events after index `after`, or all of them when it is absent: stored ones, then live ones, to the
    /// last.
    ///
    /// Each comes once and in order, over as many connections as that takes. It ends with an error when the server
    /// refuses (4xx), keeps failing in the same place, or after [`ClientBuilder::give_up_after`].
    pub fn follow(&self, run_id: &RunId, after: Option<u64>) -> Following {
        Following::new(self.connection.clone(), run_id.clone(), after, Retry::new(self.give_up_after))
    }

    /// The run as it is now: its result once it is over, and the reason if it failed.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with.
    pub async fn output(&self, run_id: &RunId) -> Result<WorkflowRunOutput, ClientError> {
        self.connection.get(&["api", "runs", run_id.as_str(), "output"], &[]).await
    }

    /// Waits for the run's end: COMPLETED, ERROR or CANCELLED. Continues through lost connections, like
    /// [`Client::follow`].
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] and other refusals at once; transient failures only after
    /// [`ClientBuilder::give_up_after`].
    pub async fn wait(&self, run_id: &RunId) -> Result<WorkflowRunOutput, ClientError> {
        let mut retry = Retry::new(self.give_up_after);
        let period = WAIT_MAX.min(self.connection.idle_timeout() / 2);
        let path = ["api", "runs", run_id.as_str(), "output"];
        loop {
            let asked = Instant::now();
            match self.connection.get_after::<WorkflowRunOutput>(&path, period).await {
                Ok(output) if output.has_completed() || output.status == RunStatus::Paused => return Ok(output),
                Ok(_) => {
                    retry.succeeded();
                    // A server that is about to stop does not delay answers.
                    if asked.elapsed() < period / 2 {
                        tokio::time::sleep(EARLY_PAUSE).await;
                    }
                }
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    /// Durably requests the end of a run; returns its status if it was over already.
    ///
    /// # Cancel safety
    /// If the future is dropped, the request may or may not be stored; repeating it is harmless.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with.
    pub async fn cancel(&self, run_id: &RunId, reason: &str) -> Result<Option<RunStatus>, ClientError> {
        let path = ["api", "runs", run_id.as_str(), "cancel"];
        let body = serde_json::json!({ "reason": reason });
        match self.connection.post(&path, Some(&body), None).await {
            Ok(answer) => shape::cancelled(&answer),
            Err(ClientError::Conflict(refusal)) if refusal.run_status.is_some() => Ok(refusal.run_status),
            Err(error) => Err(error),
        }
    }

    /// Deletes runs that have ended, some thousand at a time: ask again with the report's `next` until it has none.
    ///
    /// # Cancel safety
    /// If the future is dropped, some may have been deleted; repeating it is harmless.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when it says neither which runs nor what to keep; and whatever any request can fail with.
    pub async fn prune(&self, prune: &Prune) -> Result<PruneReport, ClientError> {
        let answer = self.connection.post(&["api", "prune"], Some(&shape::prune(prune)), None).await?;
        Ok(answer.read::<shape::PrunedShape>()?.into())
    }

    /// A page of questions, those asked first first: those that are open, unless the filter says otherwise. A limit
    /// above 1000 is lowered to that.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the cursor is not from a list, and the errors of any request.
    pub async fn questions(&self, filter: &QuestionFilter) -> Result<QuestionList, ClientError> {
        self.connection.get(&["api", "questions"], &shape::question_query(filter)).await
    }

    /// The question with this id, whether it is open or not.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with.
    pub async fn question(&self, question_id: &str) -> Result<QuestionSummary, ClientError> {
        self.connection.get(&["api", "questions", segment(question_id)?], &[]).await
    }

    /// Answers a question, and returns it as it stands then. When this returns, the answer is on the server's stable
    /// storage; the run goes on wherever its workflow is executed, now or later. Who answers is whoever the credential
    /// names.
    ///
    /// ```no_run
    /// # use outlive::client::{Client, ClientError};
    /// use outlive::Answer;
    /// use outlive::core::port::QuestionFilter;
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// for question in client.questions(&QuestionFilter::default()).await?.questions {
    ///     if question.kind == "confirmation" {
    ///         client.answer(&question.question_id, &Answer::Approve).await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped, the answer may or may not be stored; repeating the same one is harmless.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when it was answered otherwise before, and says by whom and when, or when nobody needs
    /// an answer any more; [`ClientError::Invalid`] when this cannot be its answer; [`ClientError::NotFound`]; and
    /// whatever any request can fail with.
    pub async fn answer(&self, question_id: &str, answer: &Answer) -> Result<QuestionSummary, ClientError> {
        let path = ["api", "questions", segment(question_id)?, "answer"];
        self.connection.post(&path, Some(answer), None).await?.read()
    }

    /// Creates a schedule of this workflow; it is on the server's stable storage when this returns. The same again gives the
    /// one that is there.
    ///
    /// # Cancel safety
    /// If the future is dropped, it may or may not have been created; create it again.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] says which field is wrong and how; [`ClientError::Conflict`] when another schedule has its
    /// name; [`ClientError::NotFound`] when there is no such workflow; and whatever any request can fail with.
    pub async fn create_schedule(
        &self,
        workflow_id: &DefinitionId,
        create: &CreateSchedule,
    ) -> Result<Schedule, ClientError> {
        let body = shape::new_schedule(workflow_id, create);
        let created = self.connection.post(&["api", "schedules"], Some(&body), None).await?;
        Ok(created.read::<shape::ScheduleShape>()?.into())
    }

    /// A page of schedules, those created first first. A limit above 1000 is lowered to that.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the cursor is not from a list, and the errors of any request.
    pub async fn schedules(&self, filter: &ScheduleFilter) -> Result<SchedulesPage, ClientError> {
        let query = shape::schedule_query(filter);
        let list: shape::ScheduleListShape = self.connection.get(&["api", "schedules"], &query).await?;
        Ok(list.into())
    }

    /// The schedule with this id or name.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with, here and below.
    pub async fn schedule(&self, id_or_name: &str) -> Result<Schedule, ClientError> {
        let path = ["api", "schedules", &self.schedule_id(id_or_name).await?];
        Ok(self.connection.get::<shape::ScheduleShape>(&path, &[]).await?.into())
    }

    /// It makes no runs until it is resumed.
    ///
    /// # Errors
    /// As [`Client::schedule`].
    pub async fn pause_schedule(&self, id_or_name: &str) -> Result<Schedule, ClientError> {
        let path = ["api", "schedules", &self.schedule_id(id_or_name).await?, "pause"];
        Ok(self.connection.post(&path, None::<&()>, None).await?.read::<shape::ScheduleShape>()?.into())
    }

    /// It makes runs again, from its next time on.
    ///
    /// # Errors
    /// As [`Client::schedule`].
    pub async fn resume_schedule(&self, id_or_name: &str) -> Result<Schedule, ClientError> {
        let path = ["api", "schedules", &self.schedule_id(id_or_name).await?, "resume"];
        Ok(self.connection.post(&path, None::<&()>, None).await?.read::<shape::ScheduleShape>()?.into())
    }

    /// Makes a run now; its next time stays as it is.
    ///
    /// # Errors
    /// As [`Client::schedule`], and as [`Client::submit`].
    pub async fn trigger_schedule(&self, id_or_name: &str) -> Result<Accepted, ClientError> {
        let path = ["api", "schedules", &self.schedule_id(id_or_name).await?, "trigger"];
        shape::accepted(&self.connection.post(&path, None::<&()>, None).await?)
    }

    /// Deletes it. The runs it has made stay.
    ///
    /// # Errors
    /// As [`Client::schedule`].
    pub async fn delete_schedule(&self, id_or_name: &str) -> Result<(), ClientError> {
        self.connection.delete(&["api", "schedules", &self.schedule_id(id_or_name).await?]).await
    }

    /// What came of its last times, newest first: at most `limit`, 1 to 1000.
    ///
    /// # Errors
    /// As [`Client::schedule`].
    pub async fn schedule_ticks(&self, id_or_name: &str, limit: u32) -> Result<Vec<StoredTick>, ClientError> {
        let path = ["api", "schedules", &self.schedule_id(id_or_name).await?, "ticks"];
        Ok(self.connection.get::<shape::TickListShape>(&path, &[("limit", limit.to_string())]).await?.into())
    }

    /// A page of accounts of budgets, by their ids: what they have used and reserved. A limit above 1000 is lowered to that.
    ///
    /// # Errors
    /// Whatever any request can fail with.
    pub async fn budgets(&self, filter: &BudgetFilter) -> Result<BudgetPage, ClientError> {
        let query = shape::budget_query(filter);
        let list: shape::BudgetListShape = self.connection.get(&["api", "budgets"], &query).await?;
        Ok(list.into())
    }

    /// Adds to what an account has, in the unit's whole numbers, and gives it as it stands then. What runs have asked about
    /// it stays asked.
    ///
    /// # Cancel safety
    /// If the future is dropped, it may or may not have been raised. Raising the same `seen` again never counts twice.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when somebody has added to it since it was `seen`; [`ClientError::NotFound`]; and whatever
    /// any request can fail with.
    pub async fn raise_budget(&self, seen: &StoredBudget, amount: u64) -> Result<StoredBudget, ClientError> {
        let body = shape::budget_raise(seen, amount);
        let raised = self.connection.post(&["api", "budgets", "raise"], Some(&body), None).await?;
        Ok(raised.read::<shape::BudgetShape>()?.into())
    }

    /// An id or a name as a part of a path; for a name that cannot be one, as in `*/5 * * * *`, its schedule's id.
    async fn schedule_id<'a>(&self, id_or_name: &'a str) -> Result<Cow<'a, str>, ClientError> {
        let may_stand = !matches!(id_or_name, "." | "..") && !id_or_name.contains(['/', '\\', ';']);
        if may_stand {
            return segment(id_or_name).map(Cow::Borrowed);
        }
        let filter = ScheduleFilter { name: Some(id_or_name.into()), limit: 2, ..ScheduleFilter::default() };
        let mut named = self.schedules(&filter).await?.schedules;
        match (named.pop(), named.pop()) {
            (Some(found), None) => Ok(Cow::Owned(found.id.to_string())),
            (None, _) => {
                Err(ClientError::NotFound(Refusal::of(404, "schedule_not_found", "no schedule has this name")))
            }
            (Some(_), Some(_)) => {
                let why = "there are several schedules with this name: give the id of one";
                Err(ClientError::Invalid(Refusal::of(422, "invalid_schedule", why)))
            }
        }
    }

    /// The workflows that the server has.
    ///
    /// # Errors
    /// Whatever any request can fail with.
    pub async fn workflows(&self) -> Result<Vec<WorkflowSummary>, ClientError> {
        self.connection.get(&["workflows"], &[]).await
    }

    /// The processes that execute runs, as far as the store knows.
    ///
    /// # Errors
    /// Whatever any request can fail with.
    pub async fn workers(&self) -> Result<Vec<LivingWorker>, ClientError> {
        let list: shape::WorkerList = self.connection.get(&["api", "workers"], &[]).await?;
        Ok(list.workers.into_iter().map(Into::into).collect())
    }
}

/// The id of a question or a batch, or the id or name of a schedule, as a part of a path: a few texts would name another one.
fn segment(id: &str) -> Result<&str, ClientError> {
    let unusable = |why: &str| ClientError::Unusable { what: "the id", why: why.to_owned() };
    match id {
        "" => Err(unusable("it is empty")),
        "." | ".." => Err(unusable("it is not an id")),
        id => Ok(id),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientBuilder {
    /// Without the address, which may contain a credential until it is checked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").finish_non_exhaustive()
    }
}
