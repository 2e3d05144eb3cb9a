//! The decisions that every store makes alike, as functions of plain values: whether a commit may happen, which runs a
//! claim takes, how long a list is. They never touch storage; a store asks them before it writes anything.

use outlive_core::port::{
    Access, BatchFilter, BatchItem, BudgetAccount, BudgetChange, BudgetRaise, BudgetStanding, COUNT_MAX, Claim, Commit,
    DbError, DbErrorKind, HookMove, ITEMS_MAX, NewAnswer, NewBatch, NewRun, NewSchedule, NewStart, NewTick, OverBudget,
    QuestionFilter, QuestionState, Release, Run, RunFilter, RunPatch, SCHEDULES_MAX, ScheduleFilter, SessionFilter,
    SessionPolicy, StoredBatch, StoredQuestion, StoredSchedule,
};
use outlive_core::{DefinitionId, RunId, RunStatus, SessionId, Timestamp, WorkerId};
use std::sync::Arc;

/// What a commit is checked against.
pub(crate) struct Standing {
    /// Whether the commit's worker is the run's holder.
    pub(crate) is_holder: bool,
    /// The run's newest epoch.
    pub(crate) epoch: u64,
    /// The run's status.
    pub(crate) status: RunStatus,
    /// The index the run's next entry gets.
    pub(crate) next_index: u64,
    /// Whether someone wants it cancelled.
    pub(crate) has_cancel: bool,
}

/// What a run says first is the beginning of its log.
///
/// # Errors
/// `Storage`, where there is another beginning.
pub(crate) fn check_first(new: &NewRun) -> Result<(), DbError> {
    let Some(first) = &new.start.first else { return Ok(()) };
    if new.start.log.is_none() && first.page.first_index == 0 && first.page.count > 0 {
        return Ok(());
    }
    let message = format!("what run {} says first is not the beginning of its log", new.info.run_id);
    Err(DbError::new(DbErrorKind::Storage, message))
}

/// Whether the commit may happen to a run in this state.
///
/// # Errors
/// `Fenced` first, so that a lost lease learns nothing else; then `Storage` for a page out of place, `IllegalStatus`, `CancelRequested`.
pub(crate) fn admit(commit: &Commit, standing: &Standing) -> Result<(), DbError> {
    let run_id = &commit.lease.run_id;
    let holds = standing.is_holder && standing.epoch == commit.lease.epoch;
    #[cfg(feature = "sabotage")]
    let holds = holds || crate::sabotage::is_on("skip-epoch-check");
    if !holds {
        return Err(fenced(commit));
    }
    if let Some(page) = &commit.page
        && (page.first_index != standing.next_index || page.count == 0)
    {
        let (count, first, next) = (page.count, page.first_index, standing.next_index);
        let message =
            format!("a page of {count} entries from {first} on does not continue the log of run {run_id} at {next}");
        return Err(DbError::new(DbErrorKind::Storage, message));
    }
    match commit.patch.status {
        Some(to) if !standing.status.may_become(to) => {
            let message = format!("run {run_id} is {} and cannot become {to}", standing.status);
            Err(DbError::new(DbErrorKind::IllegalStatus, message))
        }
        Some(to) if standing.has_cancel && to.is_terminal() && to != RunStatus::Cancelled => {
            let message = format!("run {run_id} is being cancelled and cannot become {to}");
            Err(DbError::new(DbErrorKind::CancelRequested, message))
        }
        _ => Ok(()),
    }
}

fn fenced(commit: &Commit) -> DbError {
    let (run_id, epoch) = (&commit.lease.run_id, commit.lease.epoch);
    let message = format!("the lease on run {run_id} with epoch {epoch} is over: stop working on it");
    DbError::new(DbErrorKind::Fenced, message)
}

/// Whether a commit that leaves its run in this status must look into the run's inbox: whoever gives the run back, or
/// pauses it, may not have seen what came last.
pub(crate) fn looks_for_mail(patch: &RunPatch, status: RunStatus) -> bool {
    !status.is_terminal() && (patch.release.is_some() || status == RunStatus::Paused)
}

/// The status and the release that such a commit comes to, by whether there is something in the inbox: a run that has
/// got an answer is neither paused nor waits for a time.
pub(crate) fn standing_after(patch: &RunPatch, status: RunStatus, has_mail: bool) -> (RunStatus, Option<Release>) {
    match (has_mail, status) {
        (false, _) => (status, patch.release),
        (true, RunStatus::Paused) => (RunStatus::Running, patch.release.map(|_| Release::default())),
        (true, _) => (status, patch.release.map(|_| Release::default())),
    }
}

/// Where the accounts of these changes stand after them, each once; `standing` is where one stands before. Nothing is
/// written when a reservation has no room.
///
/// # Errors
/// `OverBudget`, with the first reservation that has none; or what `standing` gives.
pub(crate) fn after_changes<E: From<DbError>>(
    changes: &[BudgetChange],
    mut standing: impl FnMut(&BudgetAccount) -> Result<BudgetStanding, E>,
) -> Result<Vec<(Arc<BudgetAccount>, BudgetStanding)>, E> {
    let mut accounts: Vec<(Arc<BudgetAccount>, BudgetStanding)> = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        let known = accounts.iter().position(|(account, _)| account.id == change.account.id);
        let at = match known {
            Some(at) => at,
            None => {
                accounts.push((change.account.clone(), standing(&change.account)?));
                accounts.len() - 1
            }
        };
        let (account, standing) = &mut accounts[at];
        // The limit last told counts.
        *account = change.account.clone();
        let before = *standing;
        if !standing.step(change.step, change.account.limit) {
            let over = OverBudget { change: number, standing: before };
            let message = format!("budget {} has too little left: nothing was written", account.id);
            return Err(DbError::over(over, message).into());
        }
    }
    Ok(accounts)
}

/// Whether an account may be raised by somebody who has seen it as it was then.
///
/// # Errors
/// `Conflict` when it is another by now.
pub(crate) fn check_raise(raise: &BudgetRaise, standing: BudgetStanding) -> Result<(), DbError> {
    match raise.seen {
        Some(seen) if seen != standing.raised => {
            let message =
                format!("budget {} was raised meanwhile: look at it, and raise it again if need be", raise.id);
            Err(DbError::new(DbErrorKind::Conflict, message))
        }
        _ => Ok(()),
    }
}

/// The most questions whose time is up that one claim answers.
pub(crate) const TIMED_OUT_MAX: u32 = 1000;

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reception {
    /// It is the question's first.
    Recorded,
    /// It is the one that the question has, or that the same call gave before.
    Repeated,
    /// The question has another, or needs none.
    Refused,
}

/// What becomes of `answer`; `before` is what the same call has given for this question.
pub(crate) fn reception(question: &StoredQuestion, answer: &NewAnswer, before: Option<&NewAnswer>) -> Reception {
    let has = match (question.state, &question.answer, before) {
        (QuestionState::Open, _, None) => return Reception::Recorded,
        (QuestionState::Open, _, Some(before)) => Some((&before.text, &before.by)),
        (QuestionState::Answered, Some(stored), _) => Some((&stored.text, &stored.by)),
        (QuestionState::Answered | QuestionState::Void, _, _) => None,
    };
    if has == Some((&answer.text, &answer.by)) { Reception::Repeated } else { Reception::Refused }
}

/// Whether the question could be answered, but its time is up.
pub(crate) fn is_late(question: &StoredQuestion, at: outlive_core::Timestamp) -> bool {
    question.state == QuestionState::Open && question.due_at.is_some_and(|due_at| due_at <= at)
}

/// The error for a hook that somebody else has taken meanwhile.
pub(crate) fn hook_fenced(step: &HookMove) -> DbError {
    let (run_id, epoch) = (&step.run_id, step.epoch);
    let message = format!("the hook of run {run_id} is not held with epoch {epoch} any more: stop sending");
    DbError::new(DbErrorKind::Fenced, message)
}

/// The error for a run that does not exist.
pub(crate) fn no_run(run_id: &RunId) -> DbError {
    DbError::new(DbErrorKind::NotFound, format!("there is no run {run_id}"))
}

/// The error for a question that does not exist, or is not the caller's.
pub(crate) fn no_question(id: &str) -> DbError {
    DbError::new(DbErrorKind::NotFound, format!("there is no question {id}"))
}

/// The error for a schedule that would be another user's.
pub(crate) fn no_schedule(id: &str) -> DbError {
    DbError::new(DbErrorKind::NotFound, format!("there is no schedule {id}"))
}

/// Whether to create `new` is to ask for what is there.
pub(crate) fn is_same_schedule(stored: &StoredSchedule, new: &NewSchedule) -> bool {
    stored.text == new.text && stored.workflow_id == new.workflow_id && stored.source == new.source
}

/// Among which schedules of its user's the name of one is unique: those that somebody made, or its workflow's that are
/// declared.
pub(crate) fn schedule_namespace<'a>(source: Option<&str>, workflow_id: &'a DefinitionId) -> &'a str {
    source.map_or("", |_| workflow_id.as_str())
}

/// The error for a schedule whose name another one has.
pub(crate) fn schedule_name_taken(stored: &StoredSchedule) -> DbError {
    let (name, id) = (&stored.name, &stored.id);
    let message =
        format!("schedule {id} is named {name:?} and says something else: replace it, or choose another name");
    DbError::new(DbErrorKind::Conflict, message)
}

/// The error for one schedule more than there may be.
pub(crate) fn too_many_schedules() -> DbError {
    let message = format!("there are {SCHEDULES_MAX} schedules already, which is the limit: delete some first");
    DbError::new(DbErrorKind::Conflict, message)
}

/// The error for a time of a schedule that somebody else has taken, or that is none any more.
pub(crate) fn tick_taken(tick: &NewTick) -> DbError {
    let (id, due_at) = (&tick.schedule_id, tick.due_at.to_rfc3339());
    let message = format!("schedule {id} is gone, or is not due at {due_at} any more: leave it alone");
    DbError::new(DbErrorKind::Fenced, message)
}

/// The most schedules that one claim tells.
pub(crate) const SCHEDULES_TOLD_MAX: usize = 256;

/// The error for a batch that does not exist, or is not the caller's.
pub(crate) fn no_batch(id: &str) -> DbError {
    DbError::new(DbErrorKind::NotFound, format!("there is no batch {id}"))
}

/// Whether to create `new` is to ask for what is there.
pub(crate) fn is_same_batch(stored: &StoredBatch, new: &NewBatch) -> bool {
    stored.text == new.text && stored.workflow_id == new.workflow_id && stored.user_id == new.user_id
}

/// The error for a batch whose id another one has.
pub(crate) fn batch_id_taken(id: &str) -> DbError {
    conflict(format!("batch id {id} is taken by another batch: choose a new one"))
}

fn conflict(message: String) -> DbError {
    DbError::new(DbErrorKind::Conflict, message)
}

/// Whether the batch can have this many items and no more: `accepted` have a run, all of them before `end`.
///
/// # Errors
/// `Conflict`.
pub(crate) fn complete_batch(batch: &StoredBatch, items: u64, accepted: u64, end: u64) -> Result<(), DbError> {
    let id = &batch.id;
    match batch.items {
        Some(known) if known == items => Ok(()),
        Some(known) => Err(conflict(format!("batch {id} has {known} items and takes no more: create another"))),
        None if end > items => Err(conflict(format!("batch {id} has {end} items already, not {items}"))),
        None if accepted < items => {
            Err(conflict(format!("batch {id} has {accepted} of {items} items so far: add the others first")))
        }
        None => Ok(()),
    }
}

/// The batch that a run is to enter; none when it was to take the place of another and the batch is gone.
///
/// # Errors
/// `NotFound`.
pub(crate) fn batch_of<T>(found: Option<T>, is_retry: bool, item: &BatchItem) -> Result<Option<T>, DbError> {
    match found {
        None if !is_retry => Err(no_batch(&item.batch_id)),
        found => Ok(found),
    }
}

/// Whether `new` can be this item of the batch: `there` is the run that is, with its status.
///
/// # Errors
/// `NotFound`, `Conflict`.
pub(crate) fn enter_batch(
    batch: &StoredBatch,
    new: &NewRun,
    item: &BatchItem,
    replaces: Option<&RunId>,
    there: Option<(&RunId, RunStatus)>,
) -> Result<(), DbError> {
    let (id, index) = (&batch.id, item.index);
    if batch.user_id != new.info.user_id || batch.workflow_id != new.info.workflow_id {
        return Err(no_batch(id));
    }
    match (replaces, there) {
        (None, Some((run_id, _))) => Err(conflict(format!("item {index} of batch {id} is run {run_id} already"))),
        (None, None) if batch.cancelled_at.is_some() => {
            Err(conflict(format!("batch {id} was cancelled and takes no more items: create another")))
        }
        // It was there when the batch was completed.
        (None, None) if batch.items.is_some_and(|items| index < items) => {
            Err(conflict(format!("item {index} of batch {id} was deleted with its run: create another batch for it")))
        }
        (None, None) if batch.items.is_some() => {
            Err(conflict(format!("batch {id} is complete and takes no more items: create another")))
        }
        (None, None) if index >= ITEMS_MAX => {
            Err(conflict(format!("a batch has at most {ITEMS_MAX} items: put the others into another one")))
        }
        (None, None) => Ok(()),
        (Some(old), Some((run_id, status))) if old == run_id && status.is_terminal() => Ok(()),
        (Some(old), Some((run_id, _))) if old == run_id => Err(conflict(format!(
            "run {old} has not ended: wait for it before item {index} of batch {id} is tried again"
        ))),
        (Some(old), Some((run_id, _))) => {
            Err(conflict(format!("run {run_id} has taken the place of run {old} in batch {id}: try that one again")))
        }
        (Some(old), None) => Err(conflict(format!("run {old} is not in batch {id} any more: rerun or fork it"))),
    }
}

/// How many batches, or items of one, a list has at most.
pub(crate) fn batch_limit(limit: u32) -> usize {
    match limit {
        0 => 50,
        limit => limit.min(LIST_MAX) as usize,
    }
}

/// The number of the batch that a cursor stands for.
///
/// # Errors
/// `Storage` when this cursor did not come from a list.
pub(crate) fn parse_batch_cursor(filter: &BatchFilter) -> Result<Option<u64>, DbError> {
    filter.after.as_ref().map(|cursor| parse_number(cursor, "batches")).transpose()
}

/// The error for a session that does not exist, or is not the caller's.
pub(crate) fn no_session(session_id: &SessionId) -> DbError {
    DbError::new(DbErrorKind::NotFound, format!("there is no session {session_id}"))
}

/// The error for a session that already exists.
pub(crate) fn session_taken(session_id: &SessionId) -> DbError {
    DbError::new(DbErrorKind::Conflict, format!("session id {session_id} is taken: choose a new one"))
}

/// The error for a session that cannot be deleted.
pub(crate) fn session_in_use(session_id: &SessionId) -> DbError {
    let message = format!("session {session_id} has an unfinished run: cancel it first");
    DbError::new(DbErrorKind::SessionBusy, message)
}

/// The error for a worker that was declared dead.
pub(crate) fn dead_worker(worker: &WorkerId) -> DbError {
    let message = format!("worker {worker} was declared dead and holds no lease: go on as a new worker");
    DbError::new(DbErrorKind::Fenced, message)
}

/// The error for a worker that never sent a heartbeat.
pub(crate) fn unknown_worker(worker: &WorkerId) -> DbError {
    let message = format!("unknown worker {worker}: register it with a heartbeat first");
    DbError::new(DbErrorKind::Storage, message)
}

/// The error for a session that accepts no second run.
pub(crate) fn session_busy(session: &SessionId) -> DbError {
    let message = format!("session {session} has an unfinished run: wait for its end or cancel it");
    DbError::new(DbErrorKind::SessionBusy, message)
}

/// Why a run is cancelled when another interrupts its session.
pub(crate) fn interrupted_by(run_id: &RunId) -> String {
    format!("interrupted by run {run_id}")
}

/// The error for a run that is not there to be taken in any more.
pub(crate) fn not_there_to_take_in(run_id: &RunId) -> DbError {
    DbError::new(DbErrorKind::CancelRequested, format!("run {run_id} cannot be taken in any more"))
}

/// Whether a run, and its session if that already exists, are the caller's: `session` is the session's owner.
///
/// # Errors
/// `NotFound`, the same for someone else's run as for someone else's session.
pub(crate) fn check_owner(access: &Access, run: &NewRun, session: Option<Option<&str>>) -> Result<(), DbError> {
    let is_own = access.sees(run.info.user_id.as_deref()) && session.is_none_or(|owner| access.sees(owner));
    if is_own { Ok(()) } else { Err(no_session(&run.info.session_id)) }
}

/// An earlier run with the same idempotency key or the same run id.
pub(crate) struct Earlier {
    /// Its id.
    pub(crate) run_id: RunId,
    /// Whose it is.
    pub(crate) user_id: Option<Arc<str>>,
    /// Its key.
    pub(crate) idempotency_key: Option<Arc<str>>,
    /// The hash of what was asked.
    pub(crate) fingerprint: Arc<str>,
}

/// Whether `run` is the same request as an earlier one: the same key, if any, and the same fingerprint.
///
/// # Errors
/// `Conflict` when it is another request, or someone else's, about which the caller learns nothing more.
pub(crate) fn repetition(access: &Access, run: &NewRun, earlier: Earlier) -> Result<RunId, DbError> {
    let is_visible = access.sees(earlier.user_id.as_deref());
    if is_visible && earlier.idempotency_key == run.idempotency_key && earlier.fingerprint == run.fingerprint {
        return Ok(earlier.run_id);
    }
    let message = if earlier.run_id == run.info.run_id {
        format!("run id {} is taken by another request: choose a new one", earlier.run_id)
    } else if is_visible {
        format!("the idempotency key belongs to another request, run {}: choose a new one", earlier.run_id)
    } else {
        "the idempotency key belongs to another request: choose a new one".to_owned()
    };
    Err(DbError::new(DbErrorKind::Conflict, message))
}

/// Whether a run with this policy can be behind others of its session.
pub(crate) fn waits_in_line(policy: SessionPolicy) -> bool {
    match policy {
        SessionPolicy::Queue | SessionPolicy::Reject | SessionPolicy::Interrupt | SessionPolicy::Steer => true,
        SessionPolicy::Parallel => false,
    }
}

/// Whether a run cannot be claimed as it is accepted: it begins later, or must be let in under its limit.
pub(crate) fn waits_to_start(start: &NewStart, at: Timestamp) -> bool {
    start.limit.is_some() || start.due_at.is_some_and(|due_at| due_at > at)
}

/// Takes runs in the order offered, as far as a claim allows.
pub(crate) struct Picker {
    limit: usize,
    suspect_claims: u32,
    suspects: bool,
    /// What was taken: accept number and claims without progress.
    pub(crate) picked: Vec<(u64, u32)>,
    /// Whether there was one more.
    pub(crate) more: bool,
}

impl Picker {
    /// Takes what `claim` allows.
    pub(crate) fn new(claim: &Claim) -> Self {
        Self {
            limit: claim.limit as usize,
            suspect_claims: claim.suspect_claims,
            suspects: claim.suspects,
            picked: Vec::new(),
            more: false,
        }
    }

    /// Takes one more than `claim` allows: for the candidates of one query, so that a second picker over those of all
    /// queries can tell whether there were more.
    #[cfg(feature = "sqlite")]
    pub(crate) fn with_one_more(claim: &Claim) -> Self {
        let mut picker = Self::new(claim);
        picker.limit += 1;
        picker
    }

    /// Whether a run with this many claims may be waited for at all.
    pub(crate) fn is_eligible(claim: &Claim, claims: u32) -> bool {
        claim.suspects || claims < claim.suspect_claims
    }

    /// Takes the run or leaves it alone. False when no more can be taken.
    pub(crate) fn offer(&mut self, seq: u64, claims: u32) -> bool {
        let is_suspect = claims >= self.suspect_claims;
        if is_suspect && !self.suspects {
            return true;
        }
        if self.picked.len() == self.limit {
            self.more = true;
            return false;
        }
        self.suspects &= !is_suspect;
        self.picked.push((seq, claims));
        true
    }
}

/// The longest list.
const LIST_MAX: u32 = 1000;

/// A list of runs ends early once it has this many bytes of text: what one answer may take in memory, apart from its
/// last run.
pub(crate) const LIST_BYTES_MAX: usize = 16 << 20;

/// What a run adds to that.
pub(crate) fn list_bytes(run: &Run) -> usize {
    [&run.input, &run.options, &run.output].into_iter().flatten().map(|text| text.len()).sum()
}

/// How many runs a list has at most.
pub(crate) fn list_limit(filter: &RunFilter) -> usize {
    match filter.limit {
        0 => 50,
        limit => limit.min(LIST_MAX) as usize,
    }
}

/// What a question adds to that.
pub(crate) fn question_bytes(question: &StoredQuestion) -> usize {
    question.text.len() + question.answer.as_ref().map_or(0, |answer| answer.text.len())
}

/// How many questions a list has at most.
pub(crate) fn question_limit(filter: &QuestionFilter) -> usize {
    match filter.limit {
        0 => 50,
        limit => limit.min(LIST_MAX) as usize,
    }
}

/// How many schedules a list has at most.
pub(crate) fn schedule_limit(filter: &ScheduleFilter) -> usize {
    match filter.limit {
        0 => 50,
        limit => limit.min(LIST_MAX) as usize,
    }
}

/// How many sessions a list has at most.
pub(crate) fn session_limit(filter: &SessionFilter) -> usize {
    match filter.limit {
        0 => 20,
        limit => limit.min(LIST_MAX) as usize,
    }
}

/// Whether a store keeps the counts that this filter asks for, leaving its statuses aside.
pub(crate) fn are_counts_kept(filter: &RunFilter) -> bool {
    let is_narrow =
        filter.session_id.is_some() || filter.batch_id.is_some() || filter.before.is_some() || prefix(filter).is_some();
    !is_narrow && filter.created_from.is_none() && filter.created_to.is_none()
}

/// The beginning of a run's id that the filter asks for.
pub(crate) fn prefix(filter: &RunFilter) -> Option<&str> {
    filter.id_prefix.as_deref().filter(|prefix| !prefix.is_empty())
}

/// The beginning of a question's id that the filter asks for.
pub(crate) fn question_prefix(filter: &QuestionFilter) -> Option<&str> {
    filter.id_prefix.as_deref().filter(|prefix| !prefix.is_empty())
}

/// The part of a session's name that the filter asks for.
pub(crate) fn part_of_name(filter: &SessionFilter) -> Option<&str> {
    filter.name.as_deref().filter(|part| !part.is_empty())
}

/// How far sessions are counted whose counts no store keeps: one past the page at least, so that a client that goes by
/// pages learns that there is another.
pub(crate) fn session_count_max(filter: &SessionFilter) -> u64 {
    COUNT_MAX.max(filter.offset.saturating_add(session_limit(filter) as u64).saturating_add(1))
}

/// The user whose runs or sessions these can only be: none when anyone's; an error without words when nobody's.
#[cfg(feature = "sqlite")]
pub(crate) fn only_user<'a>(access: &'a Access, wanted: Option<&'a Arc<str>>) -> Result<Option<&'a Arc<str>>, Nobody> {
    match (access.user(), wanted) {
        (Some(own), Some(wanted)) if own != wanted => Err(Nobody),
        (own, wanted) => Ok(own.or(wanted)),
    }
}

/// What is asked for belongs to nobody the caller may see.
#[cfg(feature = "sqlite")]
#[derive(Debug)]
pub(crate) struct Nobody;

/// The accept number a cursor stands for.
///
/// # Errors
/// `Storage` when this cursor did not come from a list.
pub(crate) fn parse_cursor(filter: &RunFilter) -> Result<Option<u64>, DbError> {
    filter.after.as_ref().map(|cursor| parse_number(cursor, "runs")).transpose()
}

/// The number of the question that a cursor stands for.
///
/// # Errors
/// `Storage` when this cursor did not come from a list.
pub(crate) fn parse_question_cursor(filter: &QuestionFilter) -> Result<Option<u64>, DbError> {
    filter.after.as_ref().map(|cursor| parse_number(cursor, "questions")).transpose()
}

/// The number of the schedule that a cursor stands for.
///
/// # Errors
/// `Storage` when this cursor did not come from a list.
pub(crate) fn parse_schedule_cursor(filter: &ScheduleFilter) -> Result<Option<u64>, DbError> {
    filter.after.as_ref().map(|cursor| parse_number(cursor, "schedules")).transpose()
}

fn parse_number(cursor: &str, of: &str) -> Result<u64, DbError> {
    let number: Option<u64> = cursor.parse().ok().filter(|n| i64::try_from(*n).is_ok());
    let message = format!("cursor {cursor:?} did not come from a list of {of}: begin without one");
    number.ok_or_else(|| DbError::new(DbErrorKind::Storage, message))
}
