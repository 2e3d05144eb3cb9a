//! What a store must do, as tests: every implementation of the `Db` port must pass them.
//!
//! A case gets two handles on one fresh, empty store, as two processes would have them. It panics with a message when
//! the store does not do what the port says. Cases never look inside a store and never wait for time to pass: they pass
//! in the times, and skip what a store would have to wait for.
//!
//! ```
//! use outlive_db::{InMemoryDb, conformance};
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! conformance::all(async || {
//!     let one = InMemoryDb::new();
//!     let other = one.another_process();
//!     let clocks = [one.clone(), other.clone()];
//!     let skip: conformance::Skip = Arc::new(move |time| {
//!         clocks.iter().for_each(|clock| clock.skip(time));
//!         Box::pin(std::future::ready(()))
//!     });
//!     conformance::Stores { one: Arc::new(one), other: Arc::new(other), skip }
//! })
//! .await;
//! # }
//! ```

mod batches;
mod rates;
mod retention;
mod schedules;

use batches::*;
use outlive_core::port::{
    AUDIT_LIMIT, Accepted, Access, Answering, AuditFilter, AuditKind, AuditPage, AuditRecord, BUDGET_KEPT, BoxFuture,
    BudgetChange, BudgetFilter, BudgetStanding, BudgetStep, COUNT_MAX, CancelIntent, Cancelled, Claim, Claimed, Commit,
    Db, DbError, DbErrorKind, Delivery, DeliveryOutcome, DueHooks, Failing, FirstPage, Hook, HookEvents, HookMove,
    HookState, Lease, LivingWorker, NewAnswer, NewHook, NewLog, NewQuestion, NewRun, NewSession, NewStart, News, Order,
    QuestionFilter, QuestionPatch, QuestionState, Release, Run, RunCounts, RunFilter, RunLimit, RunPatch, Session,
    SessionFilter, SessionKind, SessionPatch, SessionPolicy, SessionSort, StoredAnswer, StoredQuestion, TIMED_OUT,
    Unfinished,
};
use outlive_core::{Budget, DefinitionId, Page, RunId, RunInfo, RunStatus, SessionId, Timestamp, WorkerId};
use rates::*;
use retention::*;
use schedules::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Two handles on one fresh, empty store, as two processes would have them.
#[derive(Clone)]
pub struct Stores {
    /// The handle most cases use alone.
    pub one: Arc<dyn Db>,
    /// The other process's.
    pub other: Arc<dyn Db>,
    /// Skips time for both, as they judge whether a worker has fallen silent.
    pub skip: Skip,
}

/// Skips time.
pub type Skip = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// One requirement on a store.
#[derive(Clone, Copy)]
pub struct Case {
    /// The requirement, as a sentence.
    pub name: &'static str,
    check: fn(Stores) -> BoxFuture<'static, ()>,
}

impl Case {
    /// Checks it.
    ///
    /// # Panics
    /// When the store does not do it.
    pub async fn check(&self, stores: Stores) {
        (self.check)(stores).await;
    }
}

/// Checks every case, each with its own stores.
///
/// # Panics
/// At the first case the store does not pass.
pub async fn all(make: impl AsyncFn() -> Stores) {
    for case in cases() {
        case.check(make().await).await;
    }
}

/// Every case, in the order of the port's methods.
pub fn cases() -> Vec<Case> {
    macro_rules! list {
        ($($name:ident),* $(,)?) => {
            vec![$(Case { name: stringify!($name), check: |stores| Box::pin($name(stores)) }),*]
        };
    }
    list![
        an_accepted_run_is_stored_as_it_was_given,
        an_unknown_run_is_nothing,
        a_store_opens_and_says_where_it_is,
        a_run_with_a_worker_is_claimed_at_once,
        an_unknown_worker_gets_nothing,
        a_dead_worker_gets_no_lease_with_a_new_run,
        the_same_key_and_request_is_the_same_run,
        the_same_key_and_another_request_is_a_conflict,
        a_run_id_is_taken_once,
        twins_at_the_same_time_become_one_run,
        a_queued_run_waits_for_the_runs_before_it,
        a_paused_run_holds_up_its_session,
        a_rejected_run_leaves_nothing_behind,
        a_parallel_run_waits_for_nobody,
        a_run_that_interrupts_asks_the_unfinished_to_end_and_waits_for_them,
        a_run_that_steers_waits_and_is_taken_in_once,
        a_run_that_nobody_takes_in_is_next,
        a_run_that_nobody_takes_in_waits_for_a_place_like_any_other,
        a_run_that_was_cancelled_or_has_begun_is_not_taken_in,
        runs_before_another_are_listed,
        a_claim_is_oldest_first_and_limited,
        a_claim_raises_epoch_claims_and_attempt,
        a_claim_takes_known_workflows_only,
        a_claim_gives_runs_to_be_cancelled_to_anyone,
        a_claim_gives_runs_to_be_cancelled_also_when_they_wait,
        a_claim_waits_until_a_run_is_due,
        a_claim_leaves_paused_and_ended_runs_alone,
        a_claim_leaves_suspects_alone_but_one,
        a_claim_never_takes_from_the_living,
        a_silent_worker_loses_its_runs_to_a_claim,
        a_silent_worker_renews_if_nobody_noticed,
        a_wall_clock_that_jumps_takes_nothing_from_the_living,
        whoever_did_not_look_declares_nobody_dead,
        a_worker_with_a_longer_lease_may_be_silent_for_longer,
        a_worker_takes_back_what_it_lost_sight_of,
        concurrent_claims_never_share_a_run,
        a_run_is_claimed_by_name_whatever_its_due_time_and_session,
        a_held_ended_or_unknown_run_is_not_claimed_by_name,
        a_retired_worker_gives_everything_back,
        a_commit_changes_log_row_and_session_together,
        a_commit_of_nothing_changes_nothing_but_the_time,
        a_stale_epoch_changes_nothing,
        another_worker_with_the_epoch_is_fenced,
        a_commit_to_an_unknown_run_fails,
        the_status_table_is_enforced,
        a_page_must_continue_the_log,
        progress_and_release_set_claims_back,
        a_released_run_is_free_and_the_lease_is_over,
        a_terminal_status_frees_the_lease,
        a_cancel_is_durable_and_tells_who_acts,
        a_workers_cancels_are_those_it_holds,
        living_workers_are_listed_with_the_runs_they_hold,
        a_worker_is_listed_with_the_workflows_it_executes,
        a_run_is_behind_while_an_earlier_one_of_its_session_is_unfinished,
        a_run_that_begins_later_is_claimed_when_it_is_due,
        higher_priorities_are_claimed_first,
        runs_with_a_limit_are_let_in_as_others_leave,
        a_place_under_a_limit_outlives_its_worker,
        a_log_that_a_run_begins_with_is_there_at_once,
        what_a_run_says_first_is_stored_with_it_if_it_begins_at_once,
        a_run_to_be_cancelled_ends_cancelled,
        a_log_is_read_from_the_middle_of_a_page,
        a_read_is_bounded_but_never_empty_handed,
        text_comes_back_byte_for_byte,
        session_state_merges_key_by_key,
        the_first_run_makes_the_session,
        a_created_session_is_stored_as_it_was_given,
        a_session_id_is_taken_once,
        a_run_joins_a_session_that_was_created,
        a_session_is_changed_part_by_part,
        a_replaced_state_goes_on_changing_key_by_key,
        a_list_of_sessions_is_sorted,
        a_list_of_sessions_is_filtered,
        a_list_of_sessions_goes_by_pages,
        pages_of_sessions_are_one_list,
        a_deleted_session_takes_its_runs_with_it,
        a_session_with_an_unfinished_run_is_not_deleted,
        a_forced_deletion_takes_unfinished_runs_too,
        a_definition_is_kept_once_as_long_as_a_run_has_it,
        a_list_is_newest_first_and_goes_on_after_its_cursor,
        a_list_is_filtered,
        a_list_is_bounded,
        a_list_is_bounded_in_bytes,
        unfinished_runs_are_counted_up_to_a_limit,
        a_list_can_be_oldest_first,
        a_list_has_inputs_and_outputs_on_request,
        a_list_is_limited_to_a_time,
        a_list_counts_by_status_on_request,
        counts_follow_every_change,
        counts_of_sessions_follow_every_change,
        lists_and_counts_agree_whatever_happens,
        what_no_counts_are_kept_of_is_counted_up_to_a_limit,
        someone_elses_run_is_not_there,
        a_run_is_accepted_only_among_ones_own,
        someone_elses_key_is_a_conflict_that_tells_nothing,
        someone_elses_session_is_not_there,
        a_list_has_only_ones_own_runs,
        a_question_is_stored_as_it_was_asked,
        an_answer_frees_a_paused_run,
        an_answer_is_given_once,
        the_same_answer_again_changes_nothing,
        answers_are_given_together_or_not_at_all,
        an_answer_to_a_run_that_is_held_is_mail,
        a_run_never_pauses_over_an_answer,
        answers_race_with_pauses,
        an_answer_ends_the_wait_of_a_parked_run,
        a_question_whose_time_is_up_is_answered_by_a_claim,
        an_answer_that_comes_too_late_is_refused,
        a_claim_answers_a_bounded_number_of_questions,
        a_question_that_is_asked_again_keeps_its_answer,
        a_question_that_nobody_needs_answered_is_void,
        a_cancelled_run_can_end_over_an_answer,
        questions_are_listed_oldest_first,
        someone_elses_question_is_not_there,
        a_deleted_session_takes_its_questions_with_it,
        a_handle_hears_of_answers,
        a_schedule_is_stored_as_it_was_given,
        a_schedules_name_is_its_users_once,
        a_declared_schedules_name_is_its_workflows_once,
        schedules_are_listed_by_creation,
        a_claim_tells_which_schedules_are_due,
        a_claim_tells_a_bounded_number_of_schedules,
        a_schedules_time_is_taken_once_with_its_run,
        twins_take_a_schedules_time_once,
        a_paused_schedule_is_not_due,
        a_deleted_schedule_leaves_its_runs,
        the_last_times_of_a_schedule_are_kept,
        someone_elses_schedule_is_not_there,
        a_deleted_run_goes_as_a_whole,
        a_run_that_is_needed_is_not_deleted,
        deleting_runs_leaves_the_line_of_a_session_as_it_is,
        someone_elses_run_is_not_deleted,
        one_call_deletes_a_bounded_number_of_runs,
        twins_delete_each_run_once,
        a_definition_goes_with_the_last_run_that_is_deleted,
        a_session_without_runs_goes_when_it_is_old,
        a_turn_is_one_workers_at_a_time,
        what_is_used_grows_and_shrinks_with_the_runs,
        a_deleted_run_takes_no_late_answer_or_commit,
        a_batch_is_stored_as_it_was_given,
        a_batch_is_its_users,
        batches_are_listed_newest_first_a_page_at_a_time,
        an_item_of_a_batch_has_one_run,
        a_batch_is_complete_once_all_its_items_are_there,
        a_batch_counts_its_runs_whatever_becomes_of_them,
        an_item_that_is_tried_again_has_the_new_run,
        a_batch_that_is_cancelled_asks_its_runs_to_end,
        items_stay_until_no_item_of_their_batch_is_unfinished,
        a_batch_goes_with_its_last_run,
        a_batch_without_runs_is_deleted_by_its_id,
        a_run_without_a_hook_has_none,
        a_hook_is_due_when_it_has_something_to_send,
        a_hook_is_held_by_one_at_a_time,
        a_hook_that_was_taken_over_is_fenced,
        a_hooks_cursor_moves_and_its_last_deliveries_are_kept,
        a_rewound_hook_is_open_again,
        a_refused_run_leaves_no_hook_and_a_deleted_one_takes_it_along,
        someone_elses_hook_is_not_there,
        a_commit_that_reserves_too_much_changes_nothing,
        what_is_reserved_together_never_passes_the_limit,
        what_was_used_takes_the_place_of_what_was_reserved,
        a_raised_budget_has_more_and_a_forced_call_needs_none,
        a_session_takes_its_budgets_along_and_leaves_those_of_its_user,
        someone_elses_budgets_are_not_there,
        budgets_are_listed_in_pages_and_found_by_whose_they_are,
        the_days_of_budgets_are_not_kept_for_ever,
        an_account_is_raised_once_for_who_has_seen_it,
        budgets_are_found_by_workflow_scope_and_id,
        what_processes_have_of_a_rate_is_never_more_than_there_is,
        what_is_given_back_of_a_share_is_there_for_others,
        who_waits_for_a_share_is_not_passed,
        a_clock_that_was_wrong_holds_no_share_for_ever,
        twins_never_have_more_of_a_rate_together,
        an_audit_record_is_stored_as_it_was_given,
        the_audit_log_goes_by_pages_newest_first,
        the_audit_log_is_filtered,
        someone_elses_audit_record_is_not_there,
        an_acknowledged_write_is_seen_by_the_other_process,
        the_other_process_hears_of_a_commit,
        a_handle_hears_at_once_what_was_done_through_it,
    ]
}

const PERIOD: Duration = Duration::from_secs(30);
/// The longest wait for news; far above the promised 50 ms, so that a busy machine does not fail the case.
const NEWS_WAIT: Duration = Duration::from_secs(10);

fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

fn run_id(text: &str) -> RunId {
    RunId::parse(text).expect("a good id")
}

fn session_id(text: &str) -> SessionId {
    SessionId::parse(text).expect("a good id")
}

fn worker_id(text: &str) -> WorkerId {
    WorkerId::parse(text).expect("a good id")
}

fn workflow_id(text: &str) -> DefinitionId {
    DefinitionId::parse(text).expect("a good id")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// A run in its own session.
fn new_run(id: &str) -> NewRun {
    NewRun {
        info: RunInfo {
            run_id: run_id(id),
            workflow_id: workflow_id("flow"),
            workflow_name: Arc::from("Flow"),
            session_id: session_id(&format!("session-of-{id}")),
            user_id: None,
        },
        input: None,
        options: None,
        definition: Arc::from("definition-hash"),
        structure: None,
        idempotency_key: None,
        fingerprint: Arc::from("fingerprint"),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at: second(0),
    }
}

fn in_session(id: &str, session: &str, policy: SessionPolicy) -> NewRun {
    let mut run = new_run(id);
    run.info.session_id = session_id(session);
    run.policy = policy;
    run
}

fn with_key(id: &str, key: &str, fingerprint: &str) -> NewRun {
    NewRun { idempotency_key: Some(Arc::from(key)), fingerprint: Arc::from(fingerprint), ..new_run(id) }
}

/// A page of `count` entries; a store must not care what is inside.
fn page(first_index: u64, count: u32) -> Page {
    let line = |index| format!("entry {index} of a page, \"quoted\", ünïcode ✓\n");
    let body: String = (first_index..first_index + u64::from(count)).map(line).collect();
    Page { first_index, count, body: body.into() }
}

fn commit_of(lease: &Lease) -> Commit {
    Commit { lease: lease.clone(), page: None, patch: RunPatch::default(), session: None, at: second(5) }
}

fn becoming(lease: &Lease, status: RunStatus) -> Commit {
    let mut commit = commit_of(lease);
    commit.patch.status = Some(status);
    commit
}

fn releasing(lease: &Lease, due_at: Option<Timestamp>) -> Commit {
    let mut commit = commit_of(lease);
    commit.patch.release = Some(Release { due_at });
    commit
}

fn claim_of(worker: &str, at: Timestamp) -> Claim {
    Claim {
        worker: worker_id(worker),
        workflows: Arc::from([workflow_id("flow")]),
        limit: 100,
        suspect_claims: 3,
        suspects: true,
        at,
    }
}

fn intent(reason: &str) -> CancelIntent {
    CancelIntent { at: second(3), reason: Arc::from(reason) }
}

#[track_caller]
fn expect_kind<T: std::fmt::Debug>(result: Result<T, DbError>, kind: DbErrorKind) {
    match result {
        Ok(value) => panic!("expected {kind:?}, got {value:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.to_string().is_empty(), "an error says what is wrong");
        }
    }
}

fn ids(claimed: &Claimed) -> Vec<&str> {
    claimed.runs.iter().map(|(run, _)| run.info.run_id.as_str()).collect()
}

/// Everything a reader can see of a run, to compare before and after.
async fn picture(db: &dyn Db, id: &str) -> String {
    let run = run_of(db, id).await;
    let session = db.session(Access::All, run.info.session_id.clone()).await.expect("session is read");
    let pages = db.read(Access::All, run_id(id), 0, usize::MAX).await.expect("log is read");
    format!("{run:?} {session:?} {pages:?}")
}

async fn run_of(db: &dyn Db, id: &str) -> Run {
    db.run(Access::All, run_id(id)).await.expect("run is read").expect("run exists")
}

async fn session_of(db: &dyn Db, id: &str) -> Session {
    let session = db.session(Access::All, session_id(id)).await.expect("session is read");
    session.expect("session exists")
}

async fn register(db: &dyn Db, worker: &str) {
    let registered = db.heartbeat(worker_id(worker), second(0), PERIOD).await;
    registered.expect("a new worker is registered");
}

async fn accept(db: &dyn Db, run: NewRun) {
    match db.create_run(Access::All, run, None).await {
        Ok(Accepted::New { lease: None, .. }) => {}
        other => panic!("expected a new run without a lease, got {other:?}"),
    }
}

async fn start(db: &dyn Db, run: NewRun, worker: &str) -> Lease {
    match db.create_run(Access::All, run, Some(worker_id(worker))).await {
        Ok(Accepted::New { lease: Some(lease), .. }) => lease,
        other => panic!("expected a new run with a lease, got {other:?}"),
    }
}

async fn claim(db: &dyn Db, claim: Claim) -> Claimed {
    db.claim(claim).await.expect("a claim succeeds")
}

async fn commit(db: &dyn Db, commit: Commit) {
    db.commit(commit).await.expect("a commit succeeds");
}

async fn finish(db: &dyn Db, lease: &Lease) {
    commit(db, becoming(lease, RunStatus::Running)).await;
    commit(db, becoming(lease, RunStatus::Completed)).await;
}

// Accepting runs.

async fn an_accepted_run_is_stored_as_it_was_given(Stores { one: db, .. }: Stores) {
    let mut new = new_run("r1");
    new.info.user_id = Some(Arc::from("ada"));
    new.input = Some(Arc::from(r#"{"text":"hé"}"#));
    new.options = Some(Arc::from(r#"{"a":1}"#));
    accept(&*db, new.clone()).await;

    let run = run_of(&*db, "r1").await;
    assert_eq!(run.info, new.info);
    assert_eq!((run.input, run.options), (new.input, new.options));
    assert_eq!(run.definition, new.definition);
    assert_eq!((run.created_at, run.updated_at), (second(0), second(0)));
    assert_eq!(run.status, RunStatus::Pending);
    assert_eq!((run.epoch, run.claims, run.attempt, run.next_index), (0, 0, 0, 0));
    assert_eq!((run.worker, run.due_at, run.cancel), (None, None, None));
    assert_eq!((run.progress, run.output), (None, None));
}

async fn an_unknown_run_is_nothing(Stores { one: db, .. }: Stores) {
    assert!(db.run(Access::All, run_id("r1")).await.expect("asking is fine").is_none());
    assert!(db.session(Access::All, session_id("s1")).await.expect("asking is fine").is_none());
    assert!(db.read(Access::All, run_id("r1"), 0, 1000).await.expect("asking is fine").is_empty());
    assert!(db.runs(Access::All, RunFilter::default()).await.expect("asking is fine").runs.is_empty());
    expect_kind(db.request_cancel(Access::All, run_id("r1"), intent("no")).await, DbErrorKind::NotFound);
}

async fn a_store_opens_and_says_where_it_is(Stores { one: db, .. }: Stores) {
    db.open().await.expect("a fresh store opens");
    db.open().await.expect("opening again is harmless");
    assert!(!db.location().is_empty());
}

async fn a_run_with_a_worker_is_claimed_at_once(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    assert_eq!((lease.run_id, lease.worker, lease.epoch), (run_id("r1"), worker_id("w1"), 1));
    let run = run_of(&*db, "r1").await;
    assert_eq!(run.status, RunStatus::Pending);
    assert_eq!((run.worker, run.epoch, run.claims, run.attempt), (Some(worker_id("w1")), 1, 1, 1));
}

async fn an_unknown_worker_gets_nothing(Stores { one: db, .. }: Stores) {
    expect_kind(db.create_run(Access::All, new_run("r1"), Some(worker_id("w1"))).await, DbErrorKind::Storage);
    assert!(db.run(Access::All, run_id("r1")).await.expect("run is read").is_none());
    accept(&*db, new_run("r1")).await;
    expect_kind(db.claim(claim_of("w1", second(1))).await, DbErrorKind::Storage);
    expect_kind(db.claim_run(run_id("r1"), worker_id("w1"), second(1)).await, DbErrorKind::Storage);
    assert_eq!(run_of(&*db, "r1").await.epoch, 0);
    db.retire(worker_id("w1"), second(1)).await.expect("retiring nobody is harmless");
    let cancels = db.cancels(worker_id("w1")).await.expect("asking is fine");
    assert!(cancels.is_empty());
}

async fn a_dead_worker_gets_no_lease_with_a_new_run(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    db.retire(worker_id("w1"), second(1)).await.expect("a worker retires");
    match db.create_run(Access::All, new_run("r1"), Some(worker_id("w1"))).await {
        Ok(Accepted::New { lease: None, .. }) => {}
        other => panic!("expected a run without a lease, got {other:?}"),
    }
    assert_eq!(run_of(&*db, "r1").await.worker, None);
}

async fn the_same_key_and_request_is_the_same_run(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    start(&*db, with_key("r1", "key", "print"), "w1").await;
    for handle in [&db, &other] {
        match handle.create_run(Access::All, with_key("r2", "key", "print"), Some(worker_id("w1"))).await {
            Ok(Accepted::Existing(id)) => assert_eq!(id, run_id("r1")),
            other => panic!("expected the existing run, got {other:?}"),
        }
    }
    assert!(db.run(Access::All, run_id("r2")).await.expect("run is read").is_none());
    let second_session = db.session(Access::All, session_id("session-of-r2")).await.expect("session is read");
    assert!(second_session.is_none(), "a repeated request makes no session");
    let run = run_of(&*db, "r1").await;
    assert_eq!(run.epoch, 1, "a repeated request claims nothing");
}

async fn the_same_key_and_another_request_is_a_conflict(Stores { one: db, .. }: Stores) {
    accept(&*db, with_key("r1", "key", "print")).await;
    expect_kind(db.create_run(Access::All, with_key("r2", "key", "other"), None).await, DbErrorKind::Conflict);
    assert!(db.run(Access::All, run_id("r2")).await.expect("run is read").is_none());
    accept(&*db, with_key("r3", "other key", "print")).await;
    accept(&*db, new_run("r4")).await;
    accept(&*db, new_run("r5")).await;
}

async fn a_run_id_is_taken_once(Stores { one: db, .. }: Stores) {
    accept(&*db, with_key("r1", "key", "print")).await;
    let before = picture(&*db, "r1").await;
    expect_kind(db.create_run(Access::All, with_key("r1", "key 2", "print"), None).await, DbErrorKind::Conflict);
    expect_kind(db.create_run(Access::All, new_run("r1"), None).await, DbErrorKind::Conflict);
    assert_eq!(picture(&*db, "r1").await, before);
    accept(&*db, with_key("r2", "key 2", "print")).await;
}

async fn twins_at_the_same_time_become_one_run(Stores { one: db, other, .. }: Stores) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let handle = if number % 2 == 0 { db.clone() } else { other.clone() };
        let run = with_key(&format!("r{number}"), "key", "print");
        tasks.spawn(async move { handle.create_run(Access::All, run, None).await.expect("a twin is accepted") });
    }
    let answers = tasks.join_all().await;
    let new = answers.iter().filter(|answer| matches!(answer, Accepted::New { .. })).count();
    assert_eq!(new, 1, "{answers:?}");
    let stored = db.runs(Access::All, RunFilter::default()).await.expect("runs are listed").runs;
    assert_eq!(stored.len(), 1);
    for answer in answers {
        if let Accepted::Existing(id) = answer {
            assert_eq!(id, stored[0].info.run_id);
        }
    }
}

// Sessions with queued runs.

async fn a_queued_run_waits_for_the_runs_before_it(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    for id in ["r2", "r3"] {
        let new = in_session(id, "s", SessionPolicy::Queue);
        match db.create_run(Access::All, new, Some(worker_id("w1"))).await {
            Ok(Accepted::New { lease: None, .. }) => {}
            other => panic!("a run behind another must wait, got {other:?}"),
        }
    }
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty());

    // Releasing the lease does not let the next one pass.
    commit(&*db, releasing(&first, Some(second(100)))).await;
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty());
    let first = claim(&*db, claim_of("w1", second(100))).await.runs.remove(0).1;
    assert_eq!(first.run_id, run_id("r1"));

    finish(&*db, &first).await;
    let claimed = claim(&*db, claim_of("w1", second(101))).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r2"], false));
    finish(&*db, &claimed.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(101))).await), ["r3"]);
}

async fn a_paused_run_holds_up_its_session(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    accept(&*db, in_session("r2", "s", SessionPolicy::Queue)).await;
    commit(&*db, becoming(&first, RunStatus::Running)).await;
    let mut pause = releasing(&first, None);
    pause.patch.status = Some(RunStatus::Paused);
    commit(&*db, pause).await;
    assert!(claim(&*db, claim_of("w1", second(9))).await.runs.is_empty());
    expect_kind(
        db.create_run(Access::All, in_session("r3", "s", SessionPolicy::Reject), None).await,
        DbErrorKind::SessionBusy,
    );

    let resumed = db.claim_run(run_id("r1"), worker_id("w1"), second(9)).await;
    let (_, lease) = resumed.expect("a claim succeeds").expect("a paused run is claimed by name");
    commit(&*db, becoming(&lease, RunStatus::Cancelled)).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(9))).await), ["r2"]);
}

async fn a_rejected_run_leaves_nothing_behind(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Reject), "w1").await;
    let mut rejected = in_session("r2", "s", SessionPolicy::Reject);
    rejected.idempotency_key = Some(Arc::from("key"));
    expect_kind(db.create_run(Access::All, rejected.clone(), Some(worker_id("w1"))).await, DbErrorKind::SessionBusy);
    assert!(db.run(Access::All, run_id("r2")).await.expect("run is read").is_none());
    finish(&*db, &first).await;
    start(&*db, rejected, "w1").await;
}

async fn a_parallel_run_waits_for_nobody(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    let parallel = start(&*db, in_session("r2", "s", SessionPolicy::Parallel), "w1").await;
    accept(&*db, in_session("r3", "s", SessionPolicy::Parallel)).await;
    accept(&*db, in_session("r4", "s", SessionPolicy::Queue)).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(1))).await), ["r3"]);

    // A run accepted with `Parallel` is still in front of what queues behind it.
    finish(&*db, &first).await;
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty());
    finish(&*db, &parallel).await;
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty());
    let third = Lease { run_id: run_id("r3"), ..first };
    finish(&*db, &third).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(1))).await), ["r4"]);
}

// Claims.

async fn a_run_that_interrupts_asks_the_unfinished_to_end_and_waits_for_them(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let held = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    commit(&*db, becoming(&held, RunStatus::Running)).await;
    accept(&*db, in_session("r2", "s", SessionPolicy::Queue)).await;
    let beside = start(&*db, in_session("r3", "s", SessionPolicy::Parallel), "w1").await;
    accept(&*db, in_session("elsewhere", "t", SessionPolicy::Queue)).await;
    let mut new = in_session("r4", "s", SessionPolicy::Interrupt);
    new.idempotency_key = Some(Arc::from("key"));
    accept(&*other, new.clone()).await;

    for id in ["r1", "r2", "r3"] {
        let cancel = run_of(&*db, id).await.cancel.expect("it is to end");
        assert_eq!((&*cancel.reason, cancel.at), ("interrupted by run r4", second(0)), "{id}");
    }
    assert!(run_of(&*db, "r4").await.is_behind);
    for id in ["r4", "elsewhere"] {
        assert_eq!(run_of(&*db, id).await.cancel, None, "{id}");
    }
    let mut wishes: Vec<_> = db.cancels(worker_id("w1")).await.expect("asking is fine");
    wishes.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(wishes.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["r1", "r3"]);
    expect_kind(db.commit(becoming(&held, RunStatus::Completed)).await, DbErrorKind::CancelRequested);

    // The one that nobody holds is there for anyone, and ends without having begun.
    let claimed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!(ids(&claimed), ["r2", "elsewhere"]);
    commit(&*db, becoming(&claimed.runs[0].1, RunStatus::Cancelled)).await;
    commit(&*db, becoming(&held, RunStatus::Cancelled)).await;
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty());
    // The same request again interrupts nothing.
    let again = other.create_run(Access::All, NewRun { at: second(9), ..new }, None).await;
    assert!(matches!(again, Ok(Accepted::Existing(id)) if id == run_id("r4")));
    commit(&*db, becoming(&beside, RunStatus::Cancelled)).await;
    let claimed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!(ids(&claimed), ["r4"]);
    finish(&*db, &claimed.runs[0].1).await;
    start(&*db, in_session("r5", "s", SessionPolicy::Interrupt), "w1").await;
}

async fn steers(db: &dyn Db, run: NewRun) -> RunId {
    match db.create_run(Access::All, run, Some(worker_id("w1"))).await {
        Ok(Accepted::Steers { into }) => into,
        other => panic!("expected a run that steers another, got {other:?}"),
    }
}

async fn steering(db: &dyn Db, id: &str) -> Vec<String> {
    let steering = db.steering(run_id(id)).await.expect("asking is fine");
    steering.iter().map(|run| run.info.run_id.to_string()).collect()
}

fn taking_in(lease: &Lease, ids: &[&str]) -> Commit {
    let mut commit = commit_of(lease);
    commit.patch.taken_in = ids.iter().map(|id| run_id(id)).collect();
    commit
}

async fn a_run_that_steers_waits_and_is_taken_in_once(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    commit(&*db, becoming(&first, RunStatus::Running)).await;
    let mut new = in_session("r2", "s", SessionPolicy::Steer);
    new.input = Some(Arc::from(r#""faster""#));
    assert_eq!(steers(&*other, new).await, run_id("r1"));
    accept(&*db, in_session("r3", "s", SessionPolicy::Queue)).await;
    assert_eq!(steers(&*db, in_session("r4", "s", SessionPolicy::Steer)).await, run_id("r1"));
    // One for another workflow waits like any other.
    let mut foreign = in_session("r5", "s", SessionPolicy::Steer);
    foreign.info.workflow_id = workflow_id("other");
    accept(&*db, foreign).await;

    assert_eq!(steering(&*db, "r1").await, ["r2", "r4"]);
    let said = &db.steering(run_id("r1")).await.expect("asking is fine")[0];
    assert_eq!((said.input.as_deref(), said.status), (Some(r#""faster""#), RunStatus::Pending));
    for id in ["r2", "r3", "unknown"] {
        assert_eq!(steering(&*db, id).await, Vec::<String>::new(), "{id} is not at the head of the line");
    }
    assert_eq!(db.mail(worker_id("w1")).await.expect("asking is fine"), [run_id("r1")]);
    assert!(claim(&*db, claim_of("w1", second(1))).await.runs.is_empty(), "it waits behind the run that it steers");

    let mut takes = taking_in(&first, &["r2"]);
    takes.page = Some(page(0, 2));
    commit(&*db, takes).await;
    let cancel = run_of(&*other, "r2").await.cancel.expect("it is to end");
    assert_eq!((&*cancel.reason, cancel.at), ("taken in by run r1", second(5)));
    assert_eq!(steering(&*other, "r1").await, ["r4"]);
    let before = picture(&*db, "r1").await;
    expect_kind(db.commit(taking_in(&first, &["r4", "r2"])).await, DbErrorKind::CancelRequested);
    assert_eq!((picture(&*db, "r1").await, run_of(&*db, "r4").await.cancel), (before, None), "all of it or nothing");

    let claimed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!(ids(&claimed), ["r2"], "it is ended by whoever comes");
    commit(&*db, becoming(&claimed.runs[0].1, RunStatus::Cancelled)).await;
    commit(&*db, taking_in(&first, &["r4"])).await;
    assert!(db.mail(worker_id("w1")).await.expect("asking is fine").is_empty());
    commit(&*db, becoming(&first, RunStatus::Completed)).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(1))).await), ["r3", "r4"], "r4 only to be ended");
}

async fn a_run_that_nobody_takes_in_is_next(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    steers(&*db, in_session("r2", "s", SessionPolicy::Steer)).await;
    steers(&*db, in_session("r3", "s", SessionPolicy::Steer)).await;
    finish(&*db, &first).await;
    let claimed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!((ids(&claimed), claimed.runs[0].0.cancel.is_none()), (vec!["r2"], true));
    // The one behind steers it now.
    assert_eq!(steering(&*db, "r2").await, ["r3"]);
    assert_eq!(db.mail(worker_id("w1")).await.expect("asking is fine"), [run_id("r2")]);
    finish(&*db, &claimed.runs[0].1).await;
    let claimed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!(ids(&claimed), ["r3"]);
    finish(&*db, &claimed.runs[0].1).await;
    // Nobody is there to hear it.
    start(&*db, in_session("r4", "s", SessionPolicy::Steer), "w1").await;
}

async fn a_run_that_nobody_takes_in_waits_for_a_place_like_any_other(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    accept(&*db, limited("p1", "k", 1)).await;
    let placed = claim(&*db, claim_of("w1", second(1))).await;
    assert_eq!(ids(&placed), ["p1"]);
    let start = limited("r2", "k", 1).start;
    steers(&*db, NewRun { start, ..in_session("r2", "s", SessionPolicy::Steer) }).await;
    let standing = async || {
        let run = run_of(&*db, "r2").await;
        (run.is_behind, run.awaits_place)
    };
    assert_eq!((standing().await, steering(&*db, "r1").await), ((true, false), vec!["r2".to_owned()]));
    finish(&*db, &first).await;
    assert_eq!(standing().await, (false, true));
    assert!(claim(&*db, claim_of("w1", second(2))).await.runs.is_empty());
    finish(&*db, &placed.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(2))).await), ["r2"]);
}

async fn a_run_that_was_cancelled_or_has_begun_is_not_taken_in(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    steers(&*db, in_session("r2", "s", SessionPolicy::Steer)).await;
    db.request_cancel(Access::All, run_id("r2"), intent("never mind")).await.expect("a cancel succeeds");
    assert!(steering(&*db, "r1").await.is_empty());
    accept(&*db, in_session("r3", "s", SessionPolicy::Queue)).await;
    accept(&*db, new_run("elsewhere")).await;
    for id in ["r1", "r2", "r3", "elsewhere", "unknown"] {
        expect_kind(db.commit(taking_in(&first, &[id])).await, DbErrorKind::CancelRequested);
    }
    assert_eq!(run_of(&*db, "r2").await.cancel, Some(intent("never mind")));
    // One that is being cancelled hears nobody any more.
    db.request_cancel(Access::All, run_id("r1"), intent("enough")).await.expect("a cancel succeeds");
    accept(&*db, in_session("r4", "s", SessionPolicy::Steer)).await;
    // A paused one does, once it goes on.
    let paused = start(&*db, in_session("p1", "p", SessionPolicy::Queue), "w1").await;
    let mut pause = releasing(&paused, None);
    pause.patch.status = Some(RunStatus::Paused);
    commit(&*db, pause).await;
    assert_eq!(steers(&*db, in_session("p2", "p", SessionPolicy::Steer)).await, run_id("p1"));
    assert_eq!(run_of(&*db, "p1").await.status, RunStatus::Paused);
}

async fn runs_before_another_are_listed(Stores { one: db, .. }: Stores) {
    for (id, session) in [("r1", "s"), ("r2", "s"), ("x", "t"), ("r3", "s"), ("r4", "s")] {
        accept(&*db, in_session(id, session, SessionPolicy::Parallel)).await;
    }
    let listed = async |before: &str, session: Option<&str>, order, limit| {
        let filter = RunFilter {
            before: Some(run_id(before)),
            session_id: session.map(session_id),
            order,
            limit,
            ..RunFilter::default()
        };
        listed(&*db, filter).await.0
    };
    let newest = Order::NewestFirst;
    assert_eq!(listed("r3", Some("s"), newest, 0).await, ["r2", "r1"]);
    assert_eq!(listed("r3", Some("s"), newest, 1).await, ["r2"]);
    assert_eq!(listed("r3", Some("s"), Order::OldestFirst, 0).await, ["r1", "r2"]);
    assert_eq!(listed("r3", None, newest, 0).await, ["x", "r2", "r1"]);
    assert_eq!(listed("r1", Some("s"), newest, 0).await, Vec::<String>::new());
    assert_eq!(listed("unknown", Some("s"), newest, 0).await, Vec::<String>::new());
}

async fn a_claim_is_oldest_first_and_limited(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    // Accept order decides, not the id.
    for id in ["r5", "r1", "r4", "r2", "r3"] {
        accept(&*db, new_run(id)).await;
    }
    let limited = |limit| Claim { limit, ..claim_of("w1", second(1)) };
    let none = claim(&*db, limited(0)).await;
    assert!(none.runs.is_empty() && none.more);
    let claimed = claim(&*db, limited(2)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r5", "r1"], true));
    let claimed = claim(&*db, limited(3)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r4", "r2", "r3"], false));
    let claimed = claim(&*db, limited(3)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec![], false));
}

async fn a_claim_raises_epoch_claims_and_attempt(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let mut new = new_run("r1");
    new.input = Some(Arc::from("\"in\""));
    accept(&*db, new).await;
    for number in 1..=3u32 {
        let (run, lease) = claim(&*db, claim_of("w1", second(i64::from(number)))).await.runs.remove(0);
        assert_eq!(lease.epoch, u64::from(number));
        assert_eq!((run.epoch, run.attempt, run.claims), (u64::from(number), number, 1));
        assert_eq!(run.worker, Some(worker_id("w1")));
        assert_eq!(run.input.as_deref(), Some("\"in\""));
        assert_eq!(run.updated_at, second(i64::from(number)));
        let stored = run_of(&*db, "r1").await;
        assert_eq!(format!("{stored:?}"), format!("{run:?}"), "what a claim gives is what is stored");
        commit(&*db, releasing(&lease, None)).await;
    }
}

async fn a_claim_takes_known_workflows_only(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, workflow) in [("r1", "foreign"), ("r2", "flow"), ("r3", "flow-2"), ("r4", "flow")] {
        let mut run = new_run(id);
        run.info.workflow_id = workflow_id(workflow);
        accept(&*db, run).await;
    }
    let nothing = Claim { workflows: Arc::from([]), ..claim_of("w1", second(1)) };
    assert!(claim(&*db, nothing).await.runs.is_empty());
    let both = Claim {
        workflows: Arc::from([workflow_id("flow-2"), workflow_id("flow"), workflow_id("flow")]),
        ..claim_of("w1", second(1))
    };
    let claimed = claim(&*db, both).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r2", "r3", "r4"], false));
}

async fn a_claim_gives_runs_to_be_cancelled_to_anyone(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, workflow) in [("r1", "foreign"), ("r2", "flow"), ("r3", "foreign")] {
        let mut run = new_run(id);
        run.info.workflow_id = workflow_id(workflow);
        accept(&*db, run).await;
    }
    for id in ["r2", "r3"] {
        let cancelled = db.request_cancel(Access::All, run_id(id), intent("enough")).await;
        assert_eq!(cancelled.expect("a cancel succeeds"), Cancelled::Unowned);
    }
    let claimed = claim(&*db, claim_of("w1", second(4))).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r2", "r3"], false));
    assert_eq!(claimed.runs[1].0.cancel, Some(intent("enough")));
}

async fn a_claim_gives_runs_to_be_cancelled_also_when_they_wait(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    commit(&*db, releasing(&lease, Some(second(500)))).await;
    let lease = start(&*db, new_run("r2"), "w1").await;
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    let mut paused = releasing(&lease, None);
    paused.patch.status = Some(RunStatus::Paused);
    commit(&*db, paused).await;
    let mut behind = new_run("r3");
    behind.info.session_id =
        db.run(Access::All, run_id("r1")).await.expect("it can be read").expect("it exists").info.session_id;
    accept(&*db, behind).await;
    for id in ["r1", "r2", "r3"] {
        let cancelled = db.request_cancel(Access::All, run_id(id), intent("enough")).await;
        assert_eq!(cancelled.expect("a cancel succeeds"), Cancelled::Unowned);
    }
    let claimed = claim(&*db, claim_of("w1", second(10))).await;
    assert_eq!(ids(&claimed), ["r1", "r2", "r3"]);
}

async fn a_claim_waits_until_a_run_is_due(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, due) in [("r1", 50), ("r2", 40), ("r3", 60)] {
        let lease = start(&*db, new_run(id), "w1").await;
        commit(&*db, releasing(&lease, Some(second(due)))).await;
    }
    accept(&*db, new_run("r4")).await;
    let mut foreign = new_run("r5");
    foreign.info.workflow_id = workflow_id("foreign");
    let lease = start(&*db, foreign, "w1").await;
    commit(&*db, releasing(&lease, Some(second(20)))).await;

    let claimed = claim(&*db, claim_of("w1", second(10))).await;
    assert_eq!(ids(&claimed), ["r4"]);
    assert_eq!(claimed.next_due, Some(second(40)), "the earliest it could claim");
    let claimed = claim(&*db, claim_of("w1", second(39))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec![], Some(second(40))));
    let claimed = claim(&*db, claim_of("w1", second(50))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["r1", "r2"], Some(second(60))));
    let claimed = claim(&*db, claim_of("w1", second(60))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["r3"], None));
}

async fn a_claim_leaves_paused_and_ended_runs_alone(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, status) in [
        ("r1", RunStatus::Paused),
        ("r2", RunStatus::Completed),
        ("r3", RunStatus::Cancelled),
        ("r4", RunStatus::Error),
        ("r5", RunStatus::Running),
    ] {
        let lease = start(&*db, new_run(id), "w1").await;
        commit(&*db, becoming(&lease, RunStatus::Running)).await;
        let mut end = releasing(&lease, None);
        end.patch.status = Some(status);
        commit(&*db, end).await;
    }
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(9))).await), ["r5"]);
}

async fn a_claim_leaves_suspects_alone_but_one(Stores { one: db, skip, .. }: Stores) {
    // Claims without progress: taken, and lost with the worker.
    for id in ["r1", "r2", "r3"] {
        accept(&*db, new_run(id)).await;
    }
    for number in 0..3 {
        let worker = format!("crasher-{number}");
        look_on(&*db, &worker, 100 * number, &skip).await;
        let claimed = claim(&*db, claim_of(&worker, second(100 * number + 30))).await;
        assert_eq!(claimed.runs.len(), 3, "{:?}", ids(&claimed));
    }
    accept(&*db, new_run("r4")).await;
    look_on(&*db, "w1", 300, &skip).await;
    let cautious = Claim { suspects: false, ..claim_of("w1", second(300)) };
    let claimed = claim(&*db, cautious).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r4"], false));
    accept(&*db, new_run("r5")).await;
    let claimed = claim(&*db, claim_of("w1", second(300))).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r1", "r5"], false));
    assert_eq!(claimed.runs[0].0.claims, 4);
    let limited = Claim { limit: 0, ..claim_of("w1", second(300)) };
    assert!(claim(&*db, limited).await.more, "a suspect it may take counts");
    let tolerant = Claim { suspect_claims: 9, suspects: false, ..claim_of("w1", second(300)) };
    assert_eq!(ids(&claim(&*db, tolerant).await), ["r2", "r3"]);
}

async fn a_claim_never_takes_from_the_living(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*other, "w2").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    assert!(claim(&*other, claim_of("w2", second(29))).await.runs.is_empty());
    let renewed = db.heartbeat(worker_id("w1"), second(29), PERIOD).await;
    renewed.expect("a living worker renews");
    assert!(claim(&*other, claim_of("w2", second(58))).await.runs.is_empty());
    let mine = claim(&*db, claim_of("w1", second(500))).await;
    assert!(mine.runs.is_empty(), "a worker does not take from itself");
    commit(&*db, commit_of(&lease)).await;
}

/// Makes `watcher` watch without a gap for as long as a lease lasts; nobody else beats meanwhile.
async fn look_on(db: &dyn Db, watcher: &str, from: i64, skip: &Skip) {
    for look in 0..=3 {
        let beat = db.heartbeat(worker_id(watcher), second(from + 10 * look), PERIOD).await;
        beat.expect("the watcher lives");
        if look < 3 {
            skip(Duration::from_secs(10)).await;
        }
    }
}

async fn a_silent_worker_loses_its_runs_to_a_claim(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let by_name = start(&*db, new_run("r2"), "w1").await;
    look_on(&*other, "w2", 0, &skip).await;
    let claimed = claim(&*other, Claim { limit: 1, ..claim_of("w2", second(30)) }).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r1"], true));
    assert_eq!(claimed.runs[0].0.claims, 2, "no progress was made");
    assert_eq!(claimed.runs[0].1.epoch, 2);
    expect_kind(db.heartbeat(worker_id("w1"), second(31), PERIOD).await, DbErrorKind::Fenced);
    expect_kind(db.claim(claim_of("w1", second(31))).await, DbErrorKind::Fenced);
    expect_kind(db.claim_run(run_id("r2"), worker_id("w1"), second(31)).await, DbErrorKind::Fenced);
    expect_kind(db.reclaim(by_name.clone(), second(31)).await, DbErrorKind::Fenced);
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);
    expect_kind(db.commit(commit_of(&by_name)).await, DbErrorKind::Fenced);
    assert_eq!(ids(&claim(&*other, claim_of("w2", second(31))).await), ["r2"]);
}

async fn a_silent_worker_renews_if_nobody_noticed(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    commit(&*db, commit_of(&lease)).await;
    look_on(&*other, "w2", 0, &skip).await;
    let renewed = db.heartbeat(worker_id("w1"), second(30), PERIOD).await;
    renewed.expect("nobody declared it dead");
    assert!(claim(&*other, claim_of("w2", second(31))).await.runs.is_empty());
    commit(&*db, commit_of(&lease)).await;
}

async fn a_wall_clock_that_jumps_takes_nothing_from_the_living(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    other.heartbeat(worker_id("w2"), second(86_400), PERIOD).await.expect("a new worker is registered");
    assert!(claim(&*other, claim_of("w2", second(86_400))).await.runs.is_empty());
    assert!(claim(&*other, claim_of("w2", second(-86_400))).await.runs.is_empty());
    let renewed = db.heartbeat(worker_id("w1"), second(-86_400), PERIOD).await;
    renewed.expect("nobody declared it dead");
    commit(&*db, commit_of(&lease)).await;
}

async fn whoever_did_not_look_declares_nobody_dead(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    register(&*other, "w2").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    // Both were stopped, as by a machine that slept.
    skip(PERIOD * 10).await;
    assert!(claim(&*other, claim_of("w2", second(300))).await.runs.is_empty());
    let renewed = db.heartbeat(worker_id("w1"), second(300), PERIOD).await;
    renewed.expect("nobody declared it dead");
    commit(&*db, commit_of(&lease)).await;
}

async fn a_worker_with_a_longer_lease_may_be_silent_for_longer(Stores { one: db, other, skip }: Stores) {
    db.heartbeat(worker_id("w1"), second(0), PERIOD * 2).await.expect("a new worker is registered");
    start(&*db, new_run("r1"), "w1").await;
    look_on(&*other, "w2", 0, &skip).await;
    assert!(claim(&*other, claim_of("w2", second(61))).await.runs.is_empty());
    skip(PERIOD / 3).await;
    look_on(&*other, "w2", 40, &skip).await;
    assert_eq!(ids(&claim(&*other, claim_of("w2", second(71))).await), ["r1"]);
}

async fn a_worker_takes_back_what_it_lost_sight_of(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*other, "w2").await;
    let lost = start(&*db, new_run("r1"), "w1").await;
    let kept = start(&*db, new_run("r2"), "w1").await;
    let held = db.held(worker_id("w1")).await.expect("a list is read");
    let mut held: Vec<(&str, u64)> = held.iter().map(|(run_id, epoch)| (run_id.as_str(), *epoch)).collect();
    held.sort_unstable();
    assert_eq!(held, [("r1", 1), ("r2", 1)]);
    assert!(db.held(worker_id("w2")).await.expect("a list is read").is_empty());

    let foreign = Lease { worker: worker_id("w2"), ..lost.clone() };
    assert!(other.reclaim(foreign, second(1)).await.expect("asking is fine").is_none(), "it is not its own");
    let taken = db.reclaim(lost.clone(), second(1)).await.expect("a claim succeeds");
    let (run, lease) = taken.expect("it holds the run");
    assert_eq!((run.epoch, run.claims, run.attempt, lease.epoch), (2, 2, 2, 2));
    expect_kind(db.commit(commit_of(&lost)).await, DbErrorKind::Fenced);
    assert!(db.reclaim(lost, second(2)).await.expect("asking is fine").is_none(), "that epoch is over");
    commit(&*db, commit_of(&lease)).await;
    finish(&*db, &kept).await;
    assert!(db.reclaim(kept, second(2)).await.expect("asking is fine").is_none(), "it has ended");
    assert_eq!(db.held(worker_id("w1")).await.expect("a list is read").len(), 1);
}

async fn concurrent_claims_never_share_a_run(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*other, "w2").await;
    for number in 0..40 {
        accept(&*db, new_run(&format!("r{number}"))).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (handle, worker) = if number % 2 == 0 { (db.clone(), "w1") } else { (other.clone(), "w2") };
        let some = Claim { limit: 5, ..claim_of(worker, second(1)) };
        tasks.spawn(async move { claim(&*handle, some).await });
    }
    let claimed = tasks.join_all().await;
    let mut taken: Vec<&str> = claimed.iter().flat_map(ids).collect();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 40, "8 claims of 5 runs take 40 different runs");
}

async fn a_run_is_claimed_by_name_whatever_its_due_time_and_session(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let mut foreign = in_session("r1", "s", SessionPolicy::Queue);
    foreign.info.workflow_id = workflow_id("foreign");
    let lease = start(&*db, foreign, "w1").await;
    commit(&*db, releasing(&lease, Some(second(1000)))).await;
    accept(&*db, in_session("r2", "s", SessionPolicy::Queue)).await;
    for (id, epoch) in [("r1", 2), ("r2", 1)] {
        let claimed = db.claim_run(run_id(id), worker_id("w1"), second(6)).await;
        let (run, lease) = claimed.expect("a claim succeeds").expect("nobody holds it");
        assert_eq!((run.info.run_id.as_str(), run.epoch, lease.epoch), (id, epoch, epoch));
        assert_eq!((run.claims, run.worker), (1, Some(worker_id("w1"))));
        commit(&*db, commit_of(&lease)).await;
    }
}

async fn a_held_ended_or_unknown_run_is_not_claimed_by_name(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    register(&*other, "w2").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let try_claim = async |worker: &str, id: &str, at| {
        let claimed = other.claim_run(run_id(id), worker_id(worker), at).await;
        claimed.expect("asking is fine").map(|(_, lease)| lease.epoch)
    };
    assert_eq!(try_claim("w2", "r1", second(1)).await, None);
    assert_eq!(try_claim("w2", "unknown", second(1)).await, None);
    look_on(&*other, "w2", 0, &skip).await;
    assert_eq!(try_claim("w2", "r1", second(30)).await, Some(2), "its holder fell silent");
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);
    let lease = Lease { worker: worker_id("w2"), epoch: 2, ..lease };
    finish(&*db, &lease).await;
    assert_eq!(try_claim("w2", "r1", second(31)).await, None);
}

async fn a_retired_worker_gives_everything_back(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*db, "w2").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let kept = start(&*db, new_run("r2"), "w2").await;
    db.retire(worker_id("w1"), second(2)).await.expect("a worker retires");
    db.retire(worker_id("w1"), second(2)).await.expect("retiring twice is harmless");
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.worker, run.claims, run.attempt), (None, 0, 1));
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);
    expect_kind(db.heartbeat(worker_id("w1"), second(2), PERIOD).await, DbErrorKind::Fenced);
    commit(&*db, commit_of(&kept)).await;
    let claimed = claim(&*db, claim_of("w2", second(2))).await;
    assert_eq!(ids(&claimed), ["r1"]);
    assert_eq!((claimed.runs[0].0.claims, claimed.runs[0].0.attempt), (1, 2));
}

// Commits.

async fn a_commit_changes_log_row_and_session_together(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let full = Commit {
        lease: lease.clone(),
        page: Some(page(0, 3)),
        patch: RunPatch {
            status: Some(RunStatus::Running),
            progress: Some(Arc::from("1/2 Research")),
            output: Some(Arc::from("{\"content\":1}")),
            is_progress: true,
            ..RunPatch::default()
        },
        session: Some(object(json!({"topic": "ai"}))),
        at: second(7),
    };
    commit(&*db, full).await;
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.status, run.next_index, run.claims), (RunStatus::Running, 3, 0));
    assert_eq!((run.progress.as_deref(), run.updated_at), (Some("1/2 Research"), second(7)));
    assert_eq!(run.output.as_deref(), Some("{\"content\":1}"));
    assert_eq!((run.worker, run.created_at), (Some(worker_id("w1")), second(0)));
    assert_eq!(db.read(Access::All, run_id("r1"), 0, 1).await.expect("log is read"), [page(0, 3)]);
    let session = session_of(&*db, "session-of-r1").await;
    assert_eq!((session.version, session.updated_at), (1, second(7)));
    assert_eq!(session.state, object(json!({"topic": "ai"})));

    let mut next = commit_of(&lease);
    next.page = Some(page(3, 1));
    next.patch.output = Some(Arc::from("{\"content\":2}"));
    commit(&*db, next).await;
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.next_index, run.output.as_deref()), (4, Some("{\"content\":2}")));
    assert_eq!(run.progress.as_deref(), Some("1/2 Research"), "what is not in the patch stays");
    assert_eq!(session_of(&*db, "session-of-r1").await.version, 1);
}

async fn a_commit_of_nothing_changes_nothing_but_the_time(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let mut before = run_of(&*db, "r1").await;
    commit(&*db, commit_of(&lease)).await;
    before.updated_at = second(5);
    assert_eq!(format!("{:?}", run_of(&*db, "r1").await), format!("{before:?}"));
}

async fn a_stale_epoch_changes_nothing(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    let stale = start(&*db, new_run("r1"), "w1").await;
    look_on(&*other, "w2", 1, &skip).await;
    let fresh = claim(&*other, claim_of("w2", second(31))).await.runs.remove(0).1;
    let before = picture(&*db, "r1").await;
    let attempts: [fn(&mut Commit); 8] = [
        |_| {},
        |c| c.page = Some(page(0, 2)),
        |c| c.page = Some(page(9, 2)),
        |c| c.patch.status = Some(RunStatus::Running),
        |c| c.patch.status = Some(RunStatus::Completed),
        |c| c.session = Some(object(json!({"a": 1}))),
        |c| c.patch.output = Some(Arc::from("1")),
        |c| c.patch.release = Some(Release::default()),
    ];
    for change in attempts {
        let mut zombie = commit_of(&stale);
        change(&mut zombie);
        expect_kind(db.commit(zombie).await, DbErrorKind::Fenced);
        let after = picture(&*db, "r1").await;
        assert_eq!(after, before, "a zombie's commit must change nothing");
    }
    finish(&*other, &fresh).await;
    let ended = picture(&*db, "r1").await;
    for lease in [&stale, &fresh] {
        expect_kind(db.commit(becoming(lease, RunStatus::Error)).await, DbErrorKind::Fenced);
    }
    assert_eq!(picture(&*db, "r1").await, ended, "nothing changes an ended run");
}

async fn another_worker_with_the_epoch_is_fenced(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*db, "w2").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    for (worker, epoch) in [("w2", 1), ("w1", 0), ("w1", 2), ("nobody", 1)] {
        let worker = worker_id(worker);
        let wrong = Lease { worker, epoch, ..lease.clone() };
        expect_kind(db.commit(commit_of(&wrong)).await, DbErrorKind::Fenced);
    }
    commit(&*db, commit_of(&lease)).await;
}

async fn a_commit_to_an_unknown_run_fails(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = Lease { run_id: run_id("r1"), worker: worker_id("w1"), epoch: 1 };
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::NotFound);
}

async fn the_status_table_is_enforced(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for from in [RunStatus::Pending, RunStatus::Running, RunStatus::Paused] {
        for to in RunStatus::ALL {
            let id = format!("{from}-{to}");
            let lease = start(&*db, new_run(&id), "w1").await;
            if from != RunStatus::Pending {
                commit(&*db, becoming(&lease, RunStatus::Running)).await;
                commit(&*db, becoming(&lease, from)).await;
            }
            let before = picture(&*db, &id).await;
            let mut change = becoming(&lease, to);
            change.page = Some(page(0, 1));
            change.session = Some(object(json!({"a": 1})));
            let result = db.commit(change).await;
            if from.may_become(to) {
                result.unwrap_or_else(|e| panic!("{from} may become {to}: {e}"));
                assert_eq!(run_of(&*db, &id).await.status, to);
            } else {
                expect_kind(result, DbErrorKind::IllegalStatus);
                assert_eq!(picture(&*db, &id).await, before);
            }
        }
    }
}

async fn a_page_must_continue_the_log(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let with_page = |first, count| Commit {
        page: Some(page(first, count)),
        session: Some(object(json!({"first": first}))),
        ..commit_of(&lease)
    };
    commit(&*db, with_page(0, 2)).await;
    let before = picture(&*db, "r1").await;
    for (first, count) in [(0, 1), (1, 1), (3, 1), (2, 0)] {
        expect_kind(db.commit(with_page(first, count)).await, DbErrorKind::Storage);
        assert_eq!(picture(&*db, "r1").await, before);
    }
    commit(&*db, with_page(2, 1)).await;
}

async fn progress_and_release_set_claims_back(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    assert_eq!(run_of(&*db, "r1").await.claims, 1, "a commit alone is no progress");
    let mut progress = commit_of(&lease);
    progress.patch.is_progress = true;
    commit(&*db, progress).await;
    assert_eq!(run_of(&*db, "r1").await.claims, 0);

    let lease = start(&*db, new_run("r2"), "w1").await;
    commit(&*db, releasing(&lease, None)).await;
    assert_eq!(run_of(&*db, "r2").await.claims, 0);
}

async fn a_released_run_is_free_and_the_lease_is_over(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    let mut release = releasing(&lease, Some(second(40)));
    release.page = Some(page(0, 1));
    commit(&*db, release).await;
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.worker, run.due_at, run.next_index), (None, Some(second(40)), 1));
    assert_eq!(run.epoch, 1);
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);

    let lease = claim(&*db, claim_of("w1", second(40))).await.runs.remove(0).1;
    commit(&*db, releasing(&lease, None)).await;
    assert_eq!(run_of(&*db, "r1").await.due_at, None);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(1))).await), ["r1"]);
}

async fn a_terminal_status_frees_the_lease(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    commit(&*db, becoming(&lease, RunStatus::Error)).await;
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.status, run.worker), (RunStatus::Error, None));
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);
}

// Cancels.

async fn a_cancel_is_durable_and_tells_who_acts(Stores { one: db, other, skip }: Stores) {
    register(&*db, "w1").await;
    accept(&*db, new_run("r1")).await;
    let ask =
        async |id: &str, intent| db.request_cancel(Access::All, run_id(id), intent).await.expect("a cancel succeeds");
    assert_eq!(ask("r1", intent("first")).await, Cancelled::Unowned);
    assert_eq!(ask("r1", intent("second")).await, Cancelled::Unowned);
    let run = run_of(&*other, "r1").await;
    assert_eq!(run.cancel, Some(intent("first")), "the first wish stands");
    assert_eq!((run.status, run.updated_at), (RunStatus::Pending, second(3)));

    let lease = start(&*db, new_run("r2"), "w1").await;
    assert_eq!(ask("r2", intent("stop")).await, Cancelled::Requested);
    let late = CancelIntent { at: second(30), ..intent("late") };
    look_on(&*db, "watcher", 0, &skip).await;
    assert_eq!(ask("r2", late).await, Cancelled::Unowned, "its holder fell silent");
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);

    register(&*db, "w2").await;
    let lease = start(&*db, new_run("r3"), "w2").await;
    finish(&*db, &lease).await;
    let before = picture(&*db, "r3").await;
    assert_eq!(ask("r3", intent("late")).await, Cancelled::Already(RunStatus::Completed));
    assert_eq!(picture(&*db, "r3").await, before);
}

async fn living_workers_are_listed_with_the_runs_they_hold(Stores { one: db, other, .. }: Stores) {
    for worker in ["w1", "w2", "w3"] {
        register(&*db, worker).await;
    }
    let mut adas = new_run("r1");
    adas.info.user_id = Some(Arc::from("ada"));
    start(&*db, adas, "w1").await;
    let ended = start(&*db, new_run("r2"), "w1").await;
    start(&*db, new_run("r3"), "w2").await;
    accept(&*db, new_run("r4")).await;
    db.retire(worker_id("w3"), second(2)).await.expect("a worker retires");
    let held = async |access: Access| {
        let workers = other.workers(Some(access)).await.expect("workers are listed");
        workers.into_iter().map(|known| (known.worker.to_string(), known.runs)).collect::<Vec<_>>()
    };
    assert_eq!(held(Access::All).await, [("w1".to_owned(), 2), ("w2".to_owned(), 1)]);
    assert_eq!(held(Access::User(Arc::from("ada"))).await, [("w1".to_owned(), 1), ("w2".to_owned(), 0)]);
    commit(&*db, becoming(&ended, RunStatus::Cancelled)).await;
    assert_eq!(held(Access::All).await, [("w1".to_owned(), 1), ("w2".to_owned(), 1)]);
    let workers = db.workers(Some(Access::All)).await.expect("workers are listed");
    assert!(workers.iter().all(|known| known.good_until > second(0)), "{workers:?}");
    let uncounted = db.workers(None).await.expect("workers are listed");
    let without = |known: &LivingWorker| LivingWorker { runs: 0, ..known.clone() };
    assert_eq!(uncounted, workers.iter().map(without).collect::<Vec<_>>());
}

async fn a_worker_is_listed_with_the_workflows_it_executes(Stores { one: db, other, .. }: Stores) {
    for worker in ["w1", "w2", "w3"] {
        register(&*db, worker).await;
    }
    let told = async || {
        let workers = other.workers(Some(Access::All)).await.expect("workers are listed");
        let ids = |known: Arc<[DefinitionId]>| known.iter().map(ToString::to_string).collect::<Vec<_>>();
        workers.into_iter().map(|known| (known.worker.to_string(), known.workflows.map(ids))).collect::<Vec<_>>()
    };
    let ask = async |worker: &str, workflows: &[&str]| {
        let workflows = workflows.iter().map(|id| workflow_id(id)).collect();
        claim(&*db, Claim { workflows, ..claim_of(worker, second(1)) }).await;
    };
    ask("w1", &["flow", "agent:ada"]).await;
    ask("w3", &[]).await;
    let none = |worker: &str| (worker.to_owned(), None::<Vec<String>>);
    let some = |worker: &str, ids: &[&str]| (worker.to_owned(), Some(ids.iter().map(|id| (*id).to_owned()).collect()));
    assert_eq!(told().await, [some("w1", &["flow", "agent:ada"]), none("w2"), some("w3", &[])]);
    ask("w1", &["flow"]).await;
    db.retire(worker_id("w3"), second(2)).await.expect("a worker retires");
    assert_eq!(told().await, [some("w1", &["flow"]), none("w2")]);
}

async fn a_run_that_begins_later_is_claimed_when_it_is_due(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let later = |id: &str, due: i64| NewRun {
        start: NewStart { due_at: Some(second(due)), ..NewStart::default() },
        ..new_run(id)
    };
    let accepted = db.create_run(Access::All, later("r1", 50), Some(worker_id("w1"))).await.expect("it is accepted");
    assert!(matches!(accepted, Accepted::New { lease: None, .. }), "{accepted:?}");
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.due_at, run.status, run.is_behind), (Some(second(50)), RunStatus::Pending, false));
    let now = db.create_run(Access::All, later("r2", 0), Some(worker_id("w1"))).await.expect("it is accepted");
    assert!(matches!(now, Accepted::New { lease: Some(_), .. }), "its time has come: {now:?}");
    let claimed = claim(&*db, claim_of("w1", second(49))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec![], Some(second(50))));
    let claimed = claim(&*db, claim_of("w1", second(50))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["r1"], None));
    // One that waits for its time can be ended.
    accept(&*db, later("r3", 90)).await;
    let cancelled = db.request_cancel(Access::All, run_id("r3"), intent("enough")).await.expect("it is asked for");
    assert_eq!(cancelled, Cancelled::Unowned);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(51))).await), ["r3"]);
}

async fn higher_priorities_are_claimed_first(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, priority) in [("r1", 0), ("r2", -128), ("r3", 127), ("r4", 0), ("r5", 127), ("r6", 5)] {
        accept(&*db, NewRun { start: NewStart { priority, ..NewStart::default() }, ..new_run(id) }).await;
        assert_eq!(run_of(&*db, id).await.priority, priority);
    }
    let some = |limit| Claim { limit, ..claim_of("w1", second(10)) };
    let claimed = claim(&*db, some(2)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r3", "r5"], true));
    let claimed = claim(&*db, some(3)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r6", "r1", "r4"], true));
    let claimed = claim(&*db, some(3)).await;
    assert_eq!((ids(&claimed), claimed.more), (vec!["r2"], false));
    // Those that are due stand in the same line.
    for (id, priority, due_at) in [("d1", 0, 20), ("d2", 9, 21), ("d3", 9, 99)] {
        let start = NewStart { priority, due_at: Some(second(due_at)), ..NewStart::default() };
        accept(&*db, NewRun { start, ..new_run(id) }).await;
    }
    accept(&*db, NewRun { start: NewStart { priority: 1, ..NewStart::default() }, ..new_run("d4") }).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(30))).await), ["d2", "d4", "d1"]);
}

fn limited(id: &str, key: &str, max: u32) -> NewRun {
    let limit = Some(Arc::new(RunLimit::of(&workflow_id("flow"), Some(key), max)));
    NewRun { start: NewStart { limit, ..NewStart::default() }, ..new_run(id) }
}

async fn runs_with_a_limit_are_let_in_as_others_leave(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let accepted = db.create_run(Access::All, limited("r1", "k", 2), Some(worker_id("w1"))).await;
    assert!(matches!(accepted, Ok(Accepted::New { lease: None, .. })), "a claim lets it in: {accepted:?}");
    for id in ["r2", "r3", "r4", "r5"] {
        accept(&*db, limited(id, "k", 2)).await;
    }
    accept(&*db, limited("o1", "other", 1)).await;
    accept(&*db, new_run("free")).await;
    let some = |limit| Claim { limit, ..claim_of("w1", second(10)) };
    let awaits = async |id: &str| {
        let run = run_of(&*other, id).await;
        assert!(run.limit.is_some() && !run.is_behind);
        run.awaits_place
    };
    assert!(awaits("r1").await);
    let first = claim(&*db, some(1)).await;
    assert_eq!(ids(&first), ["r1"]);
    // The second has its place, and waits for room.
    assert_eq!((awaits("r1").await, awaits("r2").await, awaits("r3").await), (false, false, true));
    let second_claim = claim(&*db, claim_of("w1", second(10))).await;
    assert_eq!(ids(&second_claim), ["r2", "o1", "free"]);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(11))).await), Vec::<&str>::new());
    // A run that backs off keeps its place.
    let lease = first.runs[0].1.clone();
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    commit(&*db, releasing(&lease, Some(second(20)))).await;
    let claimed = claim(&*db, claim_of("w1", second(12))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec![], Some(second(20))));
    let back = claim(&*db, claim_of("w1", second(20))).await;
    assert_eq!(ids(&back), ["r1"]);
    // One that is paused gives it up, and needs another to go on.
    let lease = back.runs[0].1.clone();
    let mut pausing = becoming(&lease, RunStatus::Paused);
    pausing.patch.release = Some(Release::default());
    let asked = NewQuestion { id: Arc::from("q1"), due_at: None, text: Arc::from("{}") };
    pausing.patch.questions = Some(Box::new(QuestionPatch { asked: vec![asked], ..QuestionPatch::default() }));
    commit(&*db, pausing).await;
    let third = claim(&*db, claim_of("w1", second(21))).await;
    assert_eq!(ids(&third), ["r3"]);
    let answer = NewAnswer { id: Arc::from("q1"), text: Arc::from("{}"), by: None };
    db.answer(Access::All, vec![answer], second(22)).await.expect("it is answered");
    assert!(awaits("r1").await);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(23))).await), Vec::<&str>::new());
    // One that ends makes place for the first in line; one that waits and is cancelled has none to give.
    db.request_cancel(Access::All, run_id("r4"), intent("enough")).await.expect("it is asked for");
    let cancelled = claim(&*db, claim_of("w1", second(24))).await;
    assert_eq!(ids(&cancelled), ["r4"]);
    commit(&*db, becoming(&cancelled.runs[0].1, RunStatus::Cancelled)).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(25))).await), Vec::<&str>::new());
    finish(&*db, &second_claim.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(26))).await), ["r1"]);
    finish(&*db, &third.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(27))).await), ["r5"]);
    // Behind others of its session first; not before its time.
    let lease = start(&*db, in_session("s1", "s", SessionPolicy::Queue), "w1").await;
    let mut queued = limited("s2", "third", 1);
    queued.info.session_id = session_id("s");
    accept(&*db, queued).await;
    let mut later = limited("s3", "third", 1);
    later.start.due_at = Some(second(40));
    later.start.priority = 9;
    accept(&*db, later).await;
    let claimed = claim(&*db, claim_of("w1", second(28))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec![], Some(second(40))));
    assert!(run_of(&*db, "s2").await.is_behind);
    finish(&*db, &lease).await;
    let claimed = claim(&*db, claim_of("w1", second(29))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["s2"], Some(second(40))));
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(41))).await), Vec::<&str>::new());
    finish(&*db, &claimed.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(42))).await), ["s3"]);
}

async fn a_place_under_a_limit_outlives_its_worker(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*db, "w2").await;
    accept(&*db, limited("r1", "k", 1)).await;
    accept(&*db, NewRun { start: NewStart { priority: 9, ..limited("r2", "k", 1).start }, ..new_run("r2") }).await;
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(10))).await), ["r2"], "the higher priority first");
    assert_eq!(ids(&claim(&*db, claim_of("w2", second(10))).await), Vec::<&str>::new(), "over all workers");
    db.retire(worker_id("w1"), second(11)).await.expect("a worker retires");
    let back = claim(&*db, claim_of("w2", second(12))).await;
    assert_eq!(ids(&back), ["r2"], "whoever has begun goes on first");
    finish(&*db, &back.runs[0].1).await;
    assert_eq!(ids(&claim(&*db, claim_of("w2", second(13))).await), ["r1"]);
    // A session that is deleted takes its runs' places along.
    accept(&*db, limited("r3", "k", 1)).await;
    assert_eq!(ids(&claim(&*db, claim_of("w2", second(14))).await), Vec::<&str>::new());
    db.delete_sessions(Access::All, vec![session_id("session-of-r1")], true).await.expect("it is deleted");
    assert_eq!(ids(&claim(&*db, claim_of("w2", second(15))).await), ["r3"]);
}

async fn a_log_that_a_run_begins_with_is_there_at_once(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let question = |id: &str| NewQuestion { id: Arc::from(id), due_at: Some(second(90)), text: Arc::from("{}") };
    let questions = vec![question("q1"), question("q2")];
    let answer = Some(an_answer("q2", "[]", Some("ada")));
    let log = NewLog { pages: vec![page(0, 3), page(3, 2)], questions, answer };
    let start = NewStart { log: Some(Box::new(log)), ..NewStart::default() };
    let accepted = db.create_run(Access::All, NewRun { start, ..new_run("r1") }, Some(worker_id("w1"))).await;
    let Ok(Accepted::New { lease: Some(lease), .. }) = accepted else { panic!("{accepted:?}") };
    let run = run_of(&*other, "r1").await;
    assert_eq!((run.next_index, run.status, run.epoch), (5, RunStatus::Pending, 1));
    let pages = other.read(Access::All, run_id("r1"), 0, 1 << 20).await.expect("the log is read");
    let bodies: String = pages.iter().map(|page| &*page.body).collect();
    assert_eq!(bodies, format!("{}{}", page(0, 3).body, page(3, 2).body));
    let asked = other.questions(Access::All, QuestionFilter::default()).await.expect("questions are listed");
    assert_eq!(
        asked.questions.iter().map(|asked| (&*asked.id, asked.due_at)).collect::<Vec<_>>(),
        [("q1", Some(second(90)))]
    );
    let inbox = db.inbox(run_id("r1")).await.expect("the inbox is read");
    let given = inbox.iter().map(|asked| (&*asked.id, asked.answer.as_ref().map(|answer| &*answer.text)));
    assert_eq!(given.collect::<Vec<_>>(), [("q2", Some("[]"))]);
    let mut next = becoming(&lease, RunStatus::Running);
    next.page = Some(page(5, 1));
    commit(&*db, next).await;
    assert_eq!(run_of(&*db, "r1").await.next_index, 6);
}

async fn what_a_run_says_first_is_stored_with_it_if_it_begins_at_once(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let first = || Box::new(FirstPage { page: page(0, 3), progress: Some(Arc::from("Step 1")), at: second(1) });
    let says = |id: &str, start: NewStart| NewRun { start: NewStart { first: Some(first()), ..start }, ..new_run(id) };
    let create =
        async |new: NewRun, worker: Option<&str>| match db.create_run(Access::All, new, worker.map(worker_id)).await {
            Ok(Accepted::New { lease, has_begun }) => (lease, has_begun),
            other => panic!("it is new: {other:?}"),
        };
    let (lease, has_begun) = create(says("r1", NewStart::default()), Some("w1")).await;
    let (lease, run) = (lease.expect("nothing is in the way"), run_of(&*other, "r1").await);
    assert!(has_begun);
    assert_eq!((run.status, run.next_index, run.epoch, run.claims), (RunStatus::Running, 3, 1, 1));
    assert_eq!((run.progress.as_deref(), run.updated_at), (Some("Step 1"), second(1)));
    let pages = other.read(Access::All, run_id("r1"), 0, 1 << 20).await.expect("the log is read");
    assert_eq!(pages.iter().map(|page| &*page.body).collect::<Vec<_>>(), [&*page(0, 3).body]);
    let counted = RunFilter { with_counts: true, ..RunFilter::default() };
    let counts = other.runs(Access::All, counted).await.expect("runs are counted").counts.expect("they were asked for");
    assert_eq!(counts.by_status, [(RunStatus::Running, 1)]);
    let mut next = commit_of(&lease);
    next.page = Some(page(3, 1));
    commit(&*db, next).await;
    finish(&*db, &lease).await;

    // Otherwise nothing of it was said.
    let later = NewStart { due_at: Some(second(50)), ..NewStart::default() };
    for (id, start, worker) in [("r2", NewStart::default(), None), ("r3", later, Some("w1"))] {
        let (lease, has_begun) = create(says(id, start), worker).await;
        assert!(lease.is_none() && !has_begun, "{id}");
        let run = run_of(&*other, id).await;
        assert_eq!((run.status, run.next_index, run.progress), (RunStatus::Pending, 0, None), "{id}");
        assert!(other.read(Access::All, run_id(id), 0, 1 << 20).await.expect("the log is read").is_empty(), "{id}");
    }
    let mut gap = says("r4", NewStart::default());
    gap.start.first.as_mut().expect("it is there").page = page(1, 2);
    expect_kind(db.create_run(Access::All, gap, Some(worker_id("w1"))).await, DbErrorKind::Storage);
    let log = NewLog { pages: vec![page(0, 3)], ..NewLog::default() };
    let both = says("r4", NewStart { log: Some(Box::new(log)), ..NewStart::default() });
    expect_kind(db.create_run(Access::All, both, Some(worker_id("w1"))).await, DbErrorKind::Storage);
    assert!(db.run(Access::All, run_id("r4")).await.expect("it is read").is_none());
}

async fn a_run_is_behind_while_an_earlier_one_of_its_session_is_unfinished(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let first = start(&*db, in_session("r1", "s", SessionPolicy::Queue), "w1").await;
    accept(&*db, in_session("r2", "s", SessionPolicy::Queue)).await;
    accept(&*db, in_session("r3", "s", SessionPolicy::Parallel)).await;
    let behind = async || {
        let runs = other.runs(Access::All, RunFilter { order: Order::OldestFirst, ..RunFilter::default() }).await;
        let runs = runs.expect("runs are listed").runs;
        for listed in &runs {
            let read = other.run(Access::All, listed.info.run_id.clone()).await.expect("a run is read");
            assert_eq!(read.map(|run| run.is_behind), Some(listed.is_behind));
        }
        runs.iter().map(|run| run.is_behind).collect::<Vec<_>>()
    };
    assert_eq!(behind().await, [false, true, false]);
    finish(&*db, &first).await;
    assert_eq!(behind().await, [false, false, false]);
}

async fn a_workers_cancels_are_those_it_holds(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*db, "w2").await;
    start(&*db, new_run("r1"), "w1").await;
    start(&*db, new_run("r2"), "w1").await;
    let ended = start(&*db, new_run("r3"), "w1").await;
    start(&*db, new_run("r4"), "w2").await;
    accept(&*db, new_run("r5")).await;
    for id in ["r2", "r3", "r4", "r5"] {
        other.request_cancel(Access::All, run_id(id), intent("stop")).await.expect("a cancel succeeds");
    }
    commit(&*db, becoming(&ended, RunStatus::Cancelled)).await;
    let cancels = db.cancels(worker_id("w1")).await.expect("cancels are read");
    assert_eq!(cancels, [(run_id("r2"), intent("stop"))]);
}

async fn a_run_to_be_cancelled_ends_cancelled(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, new_run("r1"), "w1").await;
    other.request_cancel(Access::All, run_id("r1"), intent("stop")).await.expect("a cancel succeeds");
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    let before = picture(&*db, "r1").await;
    for status in [RunStatus::Completed, RunStatus::Error] {
        expect_kind(db.commit(becoming(&lease, status)).await, DbErrorKind::CancelRequested);
    }
    assert_eq!(picture(&*db, "r1").await, before);
    commit(&*db, becoming(&lease, RunStatus::Cancelled)).await;
}

// The log.

async fn written_pages(db: &dyn Db, id: &str, counts: &[u32]) -> Vec<Page> {
    register(db, "w1").await;
    let lease = start(db, new_run(id), "w1").await;
    let mut pages = Vec::new();
    let mut next = 0;
    for count in counts {
        pages.push(page(next, *count));
        let mut append = commit_of(&lease);
        append.page = Some(page(next, *count));
        commit(db, append).await;
        next += u64::from(*count);
    }
    pages
}

async fn a_log_is_read_from_the_middle_of_a_page(Stores { one: db, .. }: Stores) {
    let pages = written_pages(&*db, "r1", &[3, 1, 4]).await;
    accept(&*db, new_run("r2")).await;
    for (from, skipped) in [(0, 0), (2, 0), (3, 1), (4, 2), (7, 2), (8, 3), (100, 3)] {
        let read = db.read(Access::All, run_id("r1"), from, usize::MAX).await.expect("log is read");
        assert_eq!(read, pages[skipped..], "from entry {from}");
    }
    let empty = db.read(Access::All, run_id("r2"), 0, usize::MAX).await.expect("log is read");
    assert!(empty.is_empty());
}

async fn a_read_is_bounded_but_never_empty_handed(Stores { one: db, .. }: Stores) {
    let pages = written_pages(&*db, "r1", &[1; 20]).await;
    let mut next = 0;
    let mut reads = 0;
    let mut all = Vec::new();
    while next < 20 {
        let some = db.read(Access::All, run_id("r1"), next, pages[0].body.len() * 3).await.expect("log is read");
        let bytes: usize = some.iter().map(|page| page.body.len()).sum();
        assert!(bytes <= pages[0].body.len() * 5, "{bytes} bytes is far above the bound");
        next = some.last().expect("there is more").end();
        all.extend(some);
        reads += 1;
    }
    assert_eq!(all, pages);
    assert!(reads > 3, "the bound was ignored");
    for bytes_max in [0, 1] {
        let one = db.read(Access::All, run_id("r1"), 5, bytes_max).await.expect("log is read");
        assert_eq!(one, pages[5..6]);
    }
}

async fn text_comes_back_byte_for_byte(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let odd = "nul \0, tab \t, line\r\n, \u{10ffff}, emoji 🦀, quote ' \" \\, no end of line";
    let large = odd.repeat(20_000);
    let mut new = new_run("r1");
    new.input = Some(Arc::from(odd));
    new.options = Some(Arc::from(""));
    new.info.user_id = Some(Arc::from("o'brien"));
    let lease = start(&*db, new, "w1").await;
    let body = Page { first_index: 0, count: 1, body: large.as_str().into() };
    let mut all = commit_of(&lease);
    all.page = Some(body.clone());
    all.patch.output = Some(Arc::from(large.as_str()));
    all.patch.progress = Some(Arc::from(odd));
    all.session = Some(object(json!({odd: {"deep": [1, 2.5, null, odd]}})));
    commit(&*db, all).await;
    let run = run_of(&*db, "r1").await;
    assert_eq!(run.input.as_deref(), Some(odd));
    assert_eq!(run.options.as_deref(), Some(""));
    assert_eq!(run.progress.as_deref(), Some(odd));
    assert_eq!(run.info.user_id.as_deref(), Some("o'brien"));
    assert!(run.output.as_deref() == Some(large.as_str()));
    assert!(db.read(Access::All, run_id("r1"), 0, 10).await.expect("log is read") == [body]);
    let session = session_of(&*db, "session-of-r1").await;
    assert_eq!(Value::Object(session.state), json!({odd: {"deep": [1, 2.5, null, odd]}}));
}

// Sessions.

async fn session_state_merges_key_by_key(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let mut new = in_session("r1", "s", SessionPolicy::Parallel);
    new.session_state = Some(object(json!({"kept": 1, "gone": 2, "changed": {"a": 1, "b": 2}})));
    let one = start(&*db, new, "w1").await;
    let two = start(&*db, in_session("r2", "s", SessionPolicy::Parallel), "w1").await;
    let mut change = commit_of(&one);
    change.session = Some(object(json!({"gone": null, "changed": {"c": 3}, "never": null})));
    commit(&*db, change).await;
    let mut change = commit_of(&two);
    change.session = Some(object(json!({"added": true})));
    commit(&*db, change).await;
    let session = session_of(&*db, "s").await;
    assert_eq!(Value::Object(session.state), json!({"kept": 1, "changed": {"c": 3}, "added": true}));
    assert_eq!(session.version, 2);
    let mut nothing = commit_of(&two);
    nothing.session = Some(Map::new());
    commit(&*db, nothing).await;
    assert_eq!(session_of(&*db, "s").await.version, 3, "every change counts, an empty one too");
}

async fn the_first_run_makes_the_session(Stores { one: db, .. }: Stores) {
    let mut first = in_session("r1", "s", SessionPolicy::Queue);
    first.info.user_id = Some(Arc::from("ada"));
    first.session_state = Some(object(json!({"a": 1})));
    accept(&*db, first).await;
    let mut second_run = in_session("r2", "s", SessionPolicy::Queue);
    second_run.info.user_id = Some(Arc::from("bob"));
    second_run.info.workflow_id = workflow_id("other");
    second_run.session_state = Some(object(json!({"a": 2, "b": 2})));
    second_run.at = second(9);
    accept(&*db, second_run).await;
    let session = session_of(&*db, "s").await;
    assert_eq!(session.session_id, session_id("s"));
    assert_eq!(Value::Object(session.state), json!({"a": 1}));
    assert_eq!((session.version, session.user_id.as_deref()), (0, Some("ada")));
    assert_eq!(session.workflow_id, Some(workflow_id("flow")));
    assert_eq!((session.created_at, session.updated_at), (second(0), second(0)));
}

fn new_session(id: &str, user_id: Option<&str>) -> NewSession {
    NewSession {
        session_id: session_id(id),
        kind: SessionKind::Workflow,
        name: None,
        user_id: user_id.map(Arc::from),
        workflow_id: None,
        state: Map::new(),
        metadata: Map::new(),
        at: second(0),
    }
}

async fn a_created_session_is_stored_as_it_was_given(Stores { one: db, other, .. }: Stores) {
    for (number, kind) in SessionKind::ALL.into_iter().enumerate() {
        let id = format!("s{number}");
        let new = NewSession {
            kind,
            name: Some(Arc::from("a \"näme\"")),
            workflow_id: Some(workflow_id("helper")),
            state: object(json!({"a": [1, null]})),
            metadata: object(json!({"b": {"c": "d"}})),
            at: second(4),
            ..new_session(&id, Some("ada"))
        };
        let created = db.create_session(Access::All, new.clone()).await.expect("a session is created");
        assert_eq!(session_of(&*other, &id).await, created);
        let expected = Session {
            session_id: new.session_id,
            kind: new.kind,
            name: new.name,
            state: new.state,
            metadata: new.metadata,
            version: 0,
            user_id: new.user_id,
            workflow_id: new.workflow_id,
            created_at: second(4),
            updated_at: second(4),
        };
        assert_eq!(created, expected);
    }
    let bare = db.create_session(Access::All, new_session("bare", None)).await.expect("a session is created");
    assert_eq!((bare.name, bare.user_id, bare.workflow_id), (None, None, None));
}

async fn a_session_id_is_taken_once(Stores { one: db, .. }: Stores) {
    db.create_session(Access::All, new_session("s1", None)).await.expect("a session is created");
    accept(&*db, in_session("r1", "s2", SessionPolicy::Queue)).await;
    for id in ["s1", "s2"] {
        let before = session_of(&*db, id).await;
        let again = NewSession { name: Some(Arc::from("again")), ..new_session(id, None) };
        expect_kind(db.create_session(Access::All, again).await, DbErrorKind::Conflict);
        assert_eq!(session_of(&*db, id).await, before);
    }
}

async fn a_run_joins_a_session_that_was_created(Stores { one: db, .. }: Stores) {
    let new = NewSession { kind: SessionKind::Team, state: object(json!({"a": 1})), ..new_session("s", None) };
    let created = db.create_session(Access::All, new).await.expect("a session is created");
    let mut run = in_session("r1", "s", SessionPolicy::Queue);
    run.session_kind = SessionKind::Agent;
    run.session_state = Some(object(json!({"b": 2})));
    run.info.user_id = Some(Arc::from("ada"));
    accept(&*db, run).await;
    assert_eq!(session_of(&*db, "s").await, created, "the run changes nothing of it");

    let mut run = in_session("r2", "of-an-agent", SessionPolicy::Queue);
    run.session_kind = SessionKind::Agent;
    accept(&*db, run).await;
    let made = session_of(&*db, "of-an-agent").await;
    assert_eq!((made.kind, made.name, made.metadata), (SessionKind::Agent, None, Map::new()));
}

async fn a_session_is_changed_part_by_part(Stores { one: db, other, .. }: Stores) {
    let new = NewSession {
        state: object(json!({"kept": 1})),
        metadata: object(json!({"kept": 1})),
        ..new_session("s", Some("ada"))
    };
    let mut expected = db.create_session(Access::All, new).await.expect("a session is created");
    let patches = [
        SessionPatch { name: Some(Arc::from("one")), ..SessionPatch::default() },
        SessionPatch { state: Some(object(json!({"new": 2}))), ..SessionPatch::default() },
        SessionPatch { metadata: Some(Map::new()), ..SessionPatch::default() },
        SessionPatch::default(),
        SessionPatch { name: Some(Arc::from("")), state: Some(Map::new()), metadata: Some(object(json!({"a": 1}))) },
    ];
    for (patch, number) in patches.into_iter().zip(1..) {
        let changed = db.update_session(Access::All, session_id("s"), patch.clone(), second(number)).await;
        expected.name = patch.name.or(expected.name);
        expected.state = patch.state.unwrap_or(expected.state);
        expected.metadata = patch.metadata.unwrap_or(expected.metadata);
        expected.version += 1;
        expected.updated_at = second(number);
        assert_eq!(changed.expect("a session is changed").as_ref(), Some(&expected));
        assert_eq!(session_of(&*other, "s").await, expected);
    }
    let unknown = db.update_session(Access::All, session_id("unknown"), SessionPatch::default(), second(1)).await;
    assert!(unknown.expect("asking is fine").is_none());
}

async fn a_replaced_state_goes_on_changing_key_by_key(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let mut new = in_session("r1", "s", SessionPolicy::Queue);
    new.session_state = Some(object(json!({"old": 1, "gone": 1})));
    let lease = start(&*db, new, "w1").await;
    let patch = SessionPatch { state: Some(object(json!({"old": 2, "new": 2}))), ..SessionPatch::default() };
    db.update_session(Access::All, session_id("s"), patch, second(2)).await.expect("a session is changed");
    let mut change = commit_of(&lease);
    change.session = Some(object(json!({"old": 3})));
    commit(&*db, change).await;
    let session = session_of(&*db, "s").await;
    assert_eq!((Value::Object(session.state), session.version), (json!({"old": 3, "new": 2}), 2));
}

async fn listed_sessions(db: &dyn Db, filter: SessionFilter) -> (Vec<String>, u64) {
    let page = db.sessions(Access::All, filter).await.expect("sessions are listed");
    (page.sessions.iter().map(|session| session.session_id.to_string()).collect(), page.total)
}

async fn a_list_of_sessions_is_sorted(Stores { one: db, .. }: Stores) {
    for (id, name, created, updated) in [
        ("c", Some("b"), 2, 9),
        ("a", None, 3, 4),
        ("b", Some("B"), 1, 5),
        ("e", Some("b"), 2, 9),
        ("d", Some("ä"), 4, 6),
    ] {
        let new = NewSession { name: name.map(Arc::from), at: second(created), ..new_session(id, None) };
        db.create_session(Access::All, new).await.expect("a session is created");
        let changed = db.update_session(Access::All, session_id(id), SessionPatch::default(), second(updated)).await;
        assert!(changed.expect("a session is changed").is_some());
    }
    for (sort, expected) in [
        (SessionSort::CreatedAt, ["c", "a", "b", "e", "d"]),
        (SessionSort::UpdatedAt, ["a", "b", "d", "c", "e"]),
        (SessionSort::Name, ["a", "b", "c", "e", "d"]),
    ] {
        let filter = SessionFilter { sort, ..SessionFilter::default() };
        let (ids, total) = listed_sessions(&*db, filter.clone()).await;
        assert_eq!((ids, total), (expected.map(str::to_owned).to_vec(), 5), "{sort:?}");
        let (mut ids, _) = listed_sessions(&*db, SessionFilter { descending: true, ..filter }).await;
        ids.reverse();
        assert_eq!(ids, expected, "{sort:?}, reversed");
    }
}

/// Sessions accepted by clocks that disagree, some of them changed since, some deleted: whatever a page begins and ends
/// with, the pages have each session once, in the list's order.
async fn pages_of_sessions_are_one_list(Stores { one: db, other, .. }: Stores) {
    let mut dice = Dice(11);
    // In the order of acceptance: when each was created and last changed, and its kind.
    let mut sessions: Vec<(String, i64, i64, SessionKind)> = Vec::new();
    for number in 0..150 {
        match dice.roll(6) {
            0..3 => {
                let kind = dice.pick(&[SessionKind::Workflow, SessionKind::Workflow, SessionKind::Agent]);
                let created = i64::from(number) + dice.pick(&[0, 0, 0, -2, -15, 8]);
                let new = NewSession { kind, at: second(created), ..new_session(&format!("s{number}"), None) };
                db.create_session(Access::All, new).await.expect("a session is created");
                sessions.push((format!("s{number}"), created, created, kind));
            }
            3..5 if !sessions.is_empty() => {
                let place = dice.roll(sessions.len());
                let (id, created, changed, _) = &mut sessions[place];
                *changed = dice.pick(&[i64::from(number), i64::from(number) - 3, *created - 1]);
                let patch = SessionPatch::default();
                let done = db.update_session(Access::All, session_id(id), patch, second(*changed)).await;
                assert!(done.expect("a session is changed").is_some());
            }
            _ if sessions.len() > 4 => {
                // Often the newest, whose place the next one may get.
                let (newest, any) = (sessions.len() - 1, dice.roll(sessions.len()));
                let place = dice.pick(&[newest, any]);
                let (id, ..) = sessions.remove(place);
                db.delete_sessions(Access::All, vec![session_id(&id)], true).await.expect("it is deleted");
            }
            _ => {}
        }
        if number % 10 == 9 {
            check_pages(&*other, &mut dice, &sessions).await;
        }
    }
    assert!(sessions.len() > 30, "there is something to list");
}

async fn check_pages(db: &dyn Db, dice: &mut Dice, sessions: &[(String, i64, i64, SessionKind)]) {
    for sort in [SessionSort::CreatedAt, SessionSort::UpdatedAt, SessionSort::Name] {
        for kind in [None, Some(SessionKind::Workflow), Some(SessionKind::Agent), Some(SessionKind::Team)] {
            let mut expected: Vec<_> = sessions.iter().filter(|(.., is)| kind.is_none_or(|kind| kind == *is)).collect();
            if sort == SessionSort::UpdatedAt {
                expected.sort_by_key(|(_, _, changed, _)| *changed);
            }
            for descending in [false, true] {
                if descending {
                    expected.reverse();
                }
                let limit = 1 + u32::try_from(dice.roll(4)).expect("a small number");
                let filter = SessionFilter { kind, sort, descending, limit, ..SessionFilter::default() };
                let mut seen = Vec::new();
                loop {
                    let filter = SessionFilter { offset: seen.len() as u64, ..filter.clone() };
                    let (ids, total) = listed_sessions(db, filter).await;
                    assert_eq!(total, expected.len() as u64);
                    if ids.is_empty() {
                        break;
                    }
                    seen.extend(ids);
                }
                let expected: Vec<&String> = expected.iter().map(|(id, ..)| id).collect();
                assert_eq!(seen.iter().collect::<Vec<_>>(), expected, "{filter:?}");
            }
        }
    }
}

async fn a_list_of_sessions_is_filtered(Stores { one: db, .. }: Stores) {
    for (id, kind, component, user_id, name) in [
        ("s1", SessionKind::Workflow, Some("flow"), Some("ada"), Some("100% Sure")),
        ("s2", SessionKind::Agent, Some("flow"), Some("bob"), Some("100 per cent")),
        ("s3", SessionKind::Team, None, None, None),
        ("s4", SessionKind::Workflow, Some("other"), Some("ada"), Some("a_b\\É")),
    ] {
        let workflow_id = component.map(workflow_id);
        let new = NewSession { kind, workflow_id, name: name.map(Arc::from), ..new_session(id, user_id) };
        db.create_session(Access::All, new).await.expect("a session is created");
    }
    let check = async |filter: SessionFilter, expected: &[&str]| {
        let described = format!("{filter:?}");
        let (ids, total) = listed_sessions(&*db, filter).await;
        assert_eq!((ids.len(), total), (expected.len(), expected.len() as u64), "{described}");
        assert_eq!(ids, expected, "{described}");
    };
    let all = SessionFilter::default();
    let named = |name: &str| SessionFilter { name: Some(name.to_owned()), ..SessionFilter::default() };
    check(all.clone(), &["s1", "s2", "s3", "s4"]).await;
    check(SessionFilter { kind: Some(SessionKind::Workflow), ..all.clone() }, &["s1", "s4"]).await;
    check(SessionFilter { kind: Some(SessionKind::Team), ..all.clone() }, &["s3"]).await;
    check(SessionFilter { component_id: Some(workflow_id("flow")), ..all.clone() }, &["s1", "s2"]).await;
    check(SessionFilter { user_id: Some(Arc::from("ada")), ..all.clone() }, &["s1", "s4"]).await;
    check(named("100"), &["s1", "s2"]).await;
    check(named("%"), &["s1"]).await;
    check(named("_"), &["s4"]).await;
    check(named("\\"), &["s4"]).await;
    check(named("SURE"), &["s1"]).await;
    check(named("Per C"), &["s2"]).await;
    check(named("É"), &["s4"]).await;
    check(named("nothing"), &[]).await;
    check(named(""), &["s1", "s2", "s3", "s4"]).await;
    let several = SessionFilter {
        kind: Some(SessionKind::Workflow),
        component_id: Some(workflow_id("other")),
        user_id: Some(Arc::from("ada")),
        ..named("a_B")
    };
    check(several, &["s4"]).await;
}

async fn a_list_of_sessions_goes_by_pages(Stores { one: db, .. }: Stores) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1001 {
        let db = db.clone();
        let new = new_session(&format!("s{number:04}"), Some("ada"));
        tasks.spawn(async move { db.create_session(Access::All, new).await.expect("a session is created") });
    }
    tasks.join_all().await;
    for (limit, offset, length) in [(0, 0, 20), (5, 0, 5), (u32::MAX, 0, 1000), (1000, 1000, 1), (5, 1001, 0)] {
        let (ids, total) = listed_sessions(&*db, SessionFilter { limit, offset, ..SessionFilter::default() }).await;
        assert_eq!((ids.len(), total), (length, 1001), "limit {limit}, offset {offset}");
    }
    let (beyond, _) = listed_sessions(&*db, SessionFilter { offset: u64::MAX, ..SessionFilter::default() }).await;
    assert!(beyond.is_empty());
    let mut seen = std::collections::BTreeSet::new();
    for page in 0..11 {
        let filter = SessionFilter { limit: 100, offset: page * 100, descending: true, ..SessionFilter::default() };
        seen.extend(listed_sessions(&*db, filter).await.0);
    }
    assert_eq!(seen.len(), 1001, "each is on one page");
}

/// Everything about a session and its runs, ended or not.
async fn with_two_runs(db: &dyn Db, session: &str, ends: [bool; 2]) -> Vec<Lease> {
    let mut leases = Vec::new();
    for (number, is_ended) in (1..).zip(ends) {
        let id = format!("{session}-r{number}");
        let mut new = in_session(&id, session, SessionPolicy::Parallel);
        new.idempotency_key = Some(Arc::from(format!("key of {id}")));
        let lease = start(db, new, "w1").await;
        let mut change = becoming(&lease, RunStatus::Running);
        change.page = Some(page(0, 3));
        change.patch.output = Some(Arc::from("out"));
        commit(db, change).await;
        if is_ended {
            commit(db, becoming(&lease, RunStatus::Completed)).await;
        }
        leases.push(lease);
    }
    leases
}

async fn a_deleted_session_takes_its_runs_with_it(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    with_two_runs(&*db, "s1", [true, true]).await;
    with_two_runs(&*db, "s2", [true, true]).await;
    db.create_session(Access::All, new_session("s3", None)).await.expect("a session is created");
    let kept = (picture(&*db, "s2-r1").await, picture(&*db, "s2-r2").await);
    let ids: Vec<SessionId> = ["s1", "unknown", "s3", "s1"].map(session_id).to_vec();
    let deleted = db.delete_sessions(Access::All, ids.clone(), false).await;
    assert_eq!(deleted.expect("they have no unfinished run"), 2);
    for id in ["s1", "s3"] {
        assert!(other.session(Access::All, session_id(id)).await.expect("session is read").is_none());
    }
    for id in ["s1-r1", "s1-r2"] {
        assert!(other.run(Access::All, run_id(id)).await.expect("run is read").is_none());
        assert!(other.read(Access::All, run_id(id), 0, 1000).await.expect("log is read").is_empty());
    }
    assert_eq!(listed(&*db, RunFilter::default()).await.0, ["s2-r2", "s2-r1"]);
    assert_eq!((picture(&*db, "s2-r1").await, picture(&*db, "s2-r2").await), kept);
    assert_eq!(db.delete_sessions(Access::All, ids, false).await.expect("asking is fine"), 0);
    assert_eq!(db.delete_sessions(Access::All, Vec::new(), true).await.expect("asking is fine"), 0);

    // Ids and keys are free again, and nothing from before is found.
    let lease = start(&*db, with_key("s1-r1", "key of s1-r2", "new"), "w1").await;
    assert_eq!(lease.epoch, 1);
    let run = run_of(&*db, "s1-r1").await;
    assert_eq!((run.status, run.next_index, run.output), (RunStatus::Pending, 0, None));
    assert!(db.read(Access::All, run_id("s1-r1"), 0, 1000).await.expect("log is read").is_empty());
}

async fn a_session_with_an_unfinished_run_is_not_deleted(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    with_two_runs(&*db, "s1", [true, true]).await;
    let leases = with_two_runs(&*db, "s2", [true, false]).await;
    let ids: Vec<SessionId> = ["s1", "s2"].map(session_id).to_vec();
    let before = (picture(&*db, "s1-r1").await, picture(&*db, "s2-r2").await);
    let error = db.delete_sessions(Access::All, ids.clone(), false).await.expect_err("a run is unfinished");
    assert_eq!(error.kind(), DbErrorKind::SessionBusy);
    assert!(error.to_string().contains("s2") && error.to_string().contains("cancel"), "{error}");
    assert_eq!((picture(&*db, "s1-r1").await, picture(&*db, "s2-r2").await), before);
    commit(&*db, becoming(&leases[1], RunStatus::Cancelled)).await;
    assert_eq!(db.delete_sessions(Access::All, ids, false).await.expect("all have ended"), 2);
}

async fn a_forced_deletion_takes_unfinished_runs_too(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let leases = with_two_runs(&*db, "s", [true, false]).await;
    accept(&*db, in_session("queued", "s", SessionPolicy::Queue)).await;
    other.request_cancel(Access::All, run_id("s-r2"), intent("stop")).await.expect("a cancel succeeds");
    let deleted = other.delete_sessions(Access::All, vec![session_id("s")], true).await;
    assert_eq!(deleted.expect("it is forced"), 1);
    expect_kind(db.commit(commit_of(&leases[1])).await, DbErrorKind::NotFound);
    assert!(db.cancels(worker_id("w1")).await.expect("cancels are read").is_empty());
    assert!(claim(&*db, claim_of("w1", second(9))).await.runs.is_empty());
    assert!(db.claim_run(run_id("queued"), worker_id("w1"), second(9)).await.expect("asking is fine").is_none());
    // The worker continues with other work.
    start(&*db, new_run("r9"), "w1").await;
}

// Lists.

async fn listed(db: &dyn Db, filter: RunFilter) -> (Vec<String>, Option<String>) {
    let page = db.runs(Access::All, filter).await.expect("runs are listed");
    let ids = page.runs.iter().map(|run| run.info.run_id.to_string()).collect();
    (ids, page.next)
}

async fn a_definition_is_kept_once_as_long_as_a_run_has_it(Stores { one: db, other, .. }: Stores) {
    let of = |id: &str, hash: &str, structure: Option<&str>| NewRun {
        definition: Arc::from(hash),
        structure: structure.map(Arc::from),
        ..new_run(id)
    };
    let kept = async |hash: &str| {
        let (here, there) = (db.definition(Arc::from(hash)).await, other.definition(Arc::from(hash)).await);
        let (here, there) = (here.expect("it can be read"), there.expect("it can be read"));
        assert_eq!(here, there);
        here.map(|text| text.to_string())
    };
    let delete = async |db: &dyn Db, id: &str| {
        let session = session_id(&format!("session-of-{id}"));
        assert_eq!(db.delete_sessions(Access::All, vec![session], true).await.expect("it is deleted"), 1);
    };
    assert_eq!(kept("h1").await, None);
    accept(&*db, of("r1", "h1", Some("{\"ü\": 1}"))).await;
    accept(&*other, of("r2", "h2", Some("two"))).await;
    accept(&*other, of("r3", "h1", Some("whoever comes later brings the same"))).await;
    accept(&*db, of("r4", "h3", None)).await;
    accept(&*db, of("r5", "h2", Some("two"))).await;
    accept(&*db, of("r6", "h1", Some("the same"))).await;
    assert_eq!(kept("h1").await.as_deref(), Some("{\"ü\": 1}"));
    assert_eq!((kept("h2").await.as_deref(), kept("h3").await), (Some("two"), None));
    // A refused run leaves none behind.
    let taken = NewRun { fingerprint: Arc::from("other"), ..of("r1", "h4", Some("four")) };
    db.create_run(Access::All, taken, None).await.expect_err("the id is taken");
    assert_eq!(kept("h4").await, None);
    // Whichever run goes, and in whichever process, it stays for those that have it.
    delete(&*db, "r6").await;
    delete(&*other, "r1").await;
    assert_eq!(kept("h1").await.as_deref(), Some("{\"ü\": 1}"));
    delete(&*db, "r3").await;
    assert_eq!((kept("h1").await, kept("h2").await.as_deref()), (None, Some("two")));
    // The process that had it stored does not trust its memory.
    accept(&*db, of("r7", "h1", Some("again"))).await;
    assert_eq!(kept("h1").await.as_deref(), Some("again"));
    delete(&*other, "r2").await;
    delete(&*other, "r5").await;
    delete(&*other, "r4").await;
    assert_eq!(kept("h2").await, None);
    // All runs of a session at once.
    let together = |id: &str| {
        let run = of(id, "h5", Some("five"));
        NewRun { info: in_session(id, "together", SessionPolicy::Parallel).info, ..run }
    };
    accept(&*db, together("r8")).await;
    accept(&*db, of("r9", "h6", Some("six"))).await;
    accept(&*db, together("r10")).await;
    assert_eq!(kept("h5").await.as_deref(), Some("five"));
    db.delete_sessions(Access::All, vec![session_id("together")], true).await.expect("it is deleted");
    assert_eq!((kept("h5").await, kept("h6").await.as_deref()), (None, Some("six")));
}

async fn a_list_is_newest_first_and_goes_on_after_its_cursor(Stores { one: db, other, .. }: Stores) {
    for number in [3, 1, 4, 5, 2] {
        accept(&*db, new_run(&format!("r{number}"))).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let filter = RunFilter { after, limit: 2, ..RunFilter::default() };
        let (ids, next) = listed(&*db, filter).await;
        if seen.is_empty() {
            // A run accepted in the middle of a paged read does not disturb it.
            accept(&*other, new_run("r9")).await;
        }
        seen.extend(ids);
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["r2", "r5", "r4", "r1", "r3"]);
    let exactly = RunFilter { limit: 6, ..RunFilter::default() };
    let (ids, next) = listed(&*db, exactly).await;
    assert_eq!((ids.len(), next), (6, None), "no cursor when there is no more");
    let nonsense = RunFilter { after: Some("nonsense".to_owned()), ..RunFilter::default() };
    expect_kind(db.runs(Access::All, nonsense).await, DbErrorKind::Storage);
}

async fn a_list_is_filtered(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, workflow, session, user) in [
        ("aa1", "flow", "s1", Some("ada")),
        ("aa2", "flow", "s2", None),
        ("ab1", "other", "s1", Some("bob")),
        ("a%", "other", "s1", Some("bob")),
    ] {
        let mut run = in_session(id, session, SessionPolicy::Parallel);
        run.info.workflow_id = workflow_id(workflow);
        run.info.user_id = user.map(Arc::from);
        run.input = Some(Arc::from("1"));
        let lease = start(&*db, run, "w1").await;
        let mut change = becoming(&lease, RunStatus::Running);
        change.patch.output = Some(Arc::from("2"));
        commit(&*db, change).await;
        if id == "aa2" {
            commit(&*db, becoming(&lease, RunStatus::Completed)).await;
        }
    }
    let check = async |filter: RunFilter, expected: &[&str]| {
        let described = format!("{filter:?}");
        assert_eq!(listed(&*db, filter).await.0, expected, "{described}");
    };
    let all = RunFilter::default();
    let by_status = |statuses: &[RunStatus]| RunFilter { statuses: statuses.to_vec(), ..RunFilter::default() };
    let by_prefix = |prefix: &str| RunFilter { id_prefix: Some(prefix.to_owned()), ..RunFilter::default() };
    check(all.clone(), &["a%", "ab1", "aa2", "aa1"]).await;
    check(by_status(&[RunStatus::Completed]), &["aa2"]).await;
    check(by_status(&[RunStatus::Paused]), &[]).await;
    check(by_status(&[RunStatus::Completed, RunStatus::Running]), &["a%", "ab1", "aa2", "aa1"]).await;
    check(RunFilter { workflow_id: Some(workflow_id("other")), ..all.clone() }, &["a%", "ab1"]).await;
    check(RunFilter { session_id: Some(session_id("s1")), ..all.clone() }, &["a%", "ab1", "aa1"]).await;
    check(RunFilter { session_id: Some(session_id("unknown")), ..all.clone() }, &[]).await;
    check(RunFilter { user_id: Some(Arc::from("ada")), ..all.clone() }, &["aa1"]).await;
    check(by_prefix("aa"), &["aa2", "aa1"]).await;
    check(by_prefix("a%"), &["a%"]).await;
    check(by_prefix(""), &["a%", "ab1", "aa2", "aa1"]).await;
    let several = RunFilter {
        statuses: vec![RunStatus::Running],
        workflow_id: Some(workflow_id("other")),
        session_id: Some(session_id("s1")),
        user_id: Some(Arc::from("bob")),
        id_prefix: Some("ab".to_owned()),
        limit: 1,
        ..all.clone()
    };
    check(several, &["ab1"]).await;
    let page = db.runs(Access::All, all).await.expect("runs are listed");
    assert!(page.runs.iter().all(|run| run.input.is_none() && run.output.is_none()));
    assert_eq!(page.runs[2].status, RunStatus::Completed);
    assert_eq!(page.runs[0].worker, Some(worker_id("w1")));
}

async fn a_list_is_bounded(Stores { one: db, .. }: Stores) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1001 {
        let db = db.clone();
        tasks.spawn(async move { accept(&*db, new_run(&format!("r{number}"))).await });
    }
    tasks.join_all().await;
    for (limit, length) in [(0, 50), (1000, 1000), (u32::MAX, 1000)] {
        let filter = RunFilter { limit, ..RunFilter::default() };
        let (ids, next) = listed(&*db, filter).await;
        assert_eq!(ids.len(), length);
        assert!(next.is_some());
    }
}

async fn a_list_is_bounded_in_bytes(Stores { one: db, .. }: Stores) {
    let long: Arc<str> = format!("\"{}\"", "x".repeat(6 << 20)).into();
    for number in 1..=5 {
        accept(&*db, NewRun { input: Some(long.clone()), ..new_run(&format!("r{number}")) }).await;
    }
    let whole = |after| RunFilter { with_payload: true, order: Order::OldestFirst, after, ..RunFilter::default() };
    let (ids, next) = listed(&*db, whole(None)).await;
    assert_eq!(ids, ["r1", "r2", "r3"], "a page ends with the run that fills it");
    assert_eq!(listed(&*db, whole(next)).await, (vec!["r4".to_owned(), "r5".to_owned()], None));
    let (ids, next) = listed(&*db, RunFilter { with_payload: false, ..whole(None) }).await;
    assert_eq!((ids.len(), next), (5, None), "what is not read does not count");
}

async fn unfinished_runs_are_counted_up_to_a_limit(Stores { one: db, .. }: Stores) {
    let count = async |max| db.unfinished(max).await.expect("runs are counted");
    assert_eq!(count(10).await, Unfinished::default());
    register(&*db, "w1").await;
    // Held, but not begun: it is not waiting.
    start(&*db, NewRun { at: second(1), ..new_run("held") }, "w1").await;
    for (id, status) in [
        ("a", RunStatus::Running),
        ("b", RunStatus::Running),
        ("c", RunStatus::Paused),
        ("d", RunStatus::Completed),
        ("e", RunStatus::Cancelled),
    ] {
        let lease = start(&*db, new_run(id), "w1").await;
        if status != RunStatus::Cancelled {
            commit(&*db, becoming(&lease, RunStatus::Running)).await;
        }
        commit(&*db, becoming(&lease, status)).await;
    }
    // It waits for its time, not for a worker.
    let start = NewStart { due_at: Some(second(99)), ..NewStart::default() };
    accept(&*db, NewRun { at: second(1), start, ..new_run("later") }).await;
    for number in 2..=5 {
        let run = in_session(&format!("r{number}"), "s", SessionPolicy::Queue);
        accept(&*db, NewRun { at: second(number), ..run }).await;
    }
    let all = Unfinished { queued: 5, queued_since: Some(second(2)), running: 2, paused: 1 };
    assert_eq!(count(10).await, all);
    assert_eq!(count(5).await, all);
    assert_eq!(count(1).await, Unfinished { queued: 1, running: 1, ..all });
}

async fn a_list_can_be_oldest_first(Stores { one: db, .. }: Stores) {
    for number in [3, 1, 4, 5, 2] {
        accept(&*db, in_session(&format!("r{number}"), "s", SessionPolicy::Queue)).await;
    }
    let oldest = RunFilter { order: Order::OldestFirst, limit: 2, ..RunFilter::default() };
    for session_id in [None, Some(session_id("s"))] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let filter = RunFilter { after, session_id: session_id.clone(), ..oldest.clone() };
            let (ids, next) = listed(&*db, filter).await;
            seen.extend(ids);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["r3", "r1", "r4", "r5", "r2"]);
    }
}

async fn a_list_has_inputs_and_outputs_on_request(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, NewRun { input: Some(Arc::from("1")), ..new_run("r1") }, "w1").await;
    let mut change = becoming(&lease, RunStatus::Running);
    change.patch.output = Some(Arc::from("2"));
    commit(&*db, change).await;
    accept(&*db, new_run("r2")).await;
    let whole = RunFilter { with_payload: true, ..RunFilter::default() };
    let runs = db.runs(Access::All, whole).await.expect("runs are listed").runs;
    for run in &runs {
        let stored = run_of(&*db, run.info.run_id.as_str()).await;
        assert_eq!(format!("{run:?}"), format!("{stored:?}"), "what is listed is what is stored");
        let line = db.run_line(Access::All, run.info.run_id.clone()).await.expect("a run is read");
        let bare = Run { input: None, output: None, ..stored };
        assert_eq!(format!("{line:?}"), format!("{:?}", Some(bare)), "its line is the rest of it");
        let stranger = Access::User(Arc::from("somebody else"));
        assert!(db.run_line(stranger, run.info.run_id.clone()).await.expect("a run is read").is_none());
    }
    assert_eq!((runs[1].input.as_deref(), runs[1].output.as_deref()), (Some("1"), Some("2")));
    assert_eq!(runs.len(), 2);
}

async fn a_list_is_limited_to_a_time(Stores { one: db, .. }: Stores) {
    for number in 1..=4 {
        accept(&*db, NewRun { at: second(number), ..new_run(&format!("r{number}")) }).await;
    }
    let all = RunFilter::default();
    for (created_from, created_to, expected) in [
        (Some(2), None, vec!["r4", "r3", "r2"]),
        (None, Some(2), vec!["r1"]),
        (Some(2), Some(4), vec!["r3", "r2"]),
        (Some(5), None, vec![]),
    ] {
        let (created_from, created_to) = (created_from.map(second), created_to.map(second));
        let filter = RunFilter { created_from, created_to, ..all.clone() };
        assert_eq!(listed(&*db, filter).await.0, expected);
    }
}

async fn a_list_counts_by_status_on_request(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, workflow, user, end) in [
        ("r1", "flow", "ada", None),
        ("r2", "flow", "ada", Some(RunStatus::Error)),
        ("r3", "other", "ada", Some(RunStatus::Error)),
        ("r4", "flow", "bob", Some(RunStatus::Cancelled)),
    ] {
        let mut run = of_user(id, "s", user);
        run.policy = SessionPolicy::Parallel;
        run.info.workflow_id = workflow_id(workflow);
        let lease = start(&*db, run, "w1").await;
        if let Some(end) = end {
            commit(&*db, becoming(&lease, end)).await;
        }
    }
    let all = RunFilter { with_counts: true, ..RunFilter::default() };
    let counts = async |access: Access, filter: RunFilter| {
        let page = db.runs(access, filter).await.expect("runs are listed");
        let counts = page.counts.expect("they were asked for");
        assert!(counts.is_exact, "there are few");
        counts.by_status
    };
    let (pending, error, cancelled) = (RunStatus::Pending, RunStatus::Error, RunStatus::Cancelled);
    let whole = [(pending, 1), (cancelled, 1), (error, 2)];
    assert_eq!(counts(Access::All, all.clone()).await, whole);
    let narrowed = RunFilter { statuses: vec![error], limit: 1, after: Some("2".to_owned()), ..all.clone() };
    assert_eq!(counts(Access::All, narrowed).await, whole, "statuses and cursor apart");
    assert_eq!(counts(user("ada"), all.clone()).await, [(pending, 1), (error, 2)]);
    assert_eq!(counts(user("eve"), all.clone()).await, []);
    let of_flow = RunFilter { workflow_id: Some(workflow_id("flow")), ..all.clone() };
    assert_eq!(counts(Access::All, of_flow.clone()).await, [(pending, 1), (cancelled, 1), (error, 1)]);
    assert_eq!(counts(user("bob"), of_flow).await, [(cancelled, 1)]);
    let of_session = RunFilter { session_id: Some(session_id("s")), id_prefix: Some("r4".to_owned()), ..all.clone() };
    assert_eq!(counts(Access::All, of_session).await, [(cancelled, 1)]);
    let later = RunFilter { created_from: Some(second(1)), ..all };
    assert_eq!(counts(Access::All, later).await, []);
    let unasked = db.runs(Access::All, RunFilter::default()).await.expect("runs are listed");
    assert_eq!(unasked.counts, None);
}

/// The counts of a list, by the number of each status in the order of [`RunStatus::ALL`].
async fn counted(db: &dyn Db, access: Access, filter: RunFilter) -> [u64; RunStatus::ALL.len()] {
    let page = db.runs(access, RunFilter { with_counts: true, ..filter }).await.expect("runs are listed");
    let RunCounts { by_status, is_exact } = page.counts.expect("they were asked for");
    assert!(is_exact, "there are few");
    assert!(by_status.iter().all(|(_, count)| *count > 0), "{by_status:?}");
    RunStatus::ALL.map(|status| by_status.iter().find(|(one, _)| *one == status).map_or(0, |(_, count)| *count))
}

async fn counts_follow_every_change(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let counts = async |access: Access| counted(&*other, access, RunFilter::default()).await;
    let (all, ada) = (|| Access::All, || user("ada"));
    let hers = |id: &str, session: &str, policy| {
        let mut run = of_user(id, session, "ada");
        run.policy = policy;
        run
    };
    let lease = start(&*db, hers("r1", "s", SessionPolicy::Queue), "w1").await;
    accept(&*db, NewRun { idempotency_key: Some(Arc::from("key")), ..hers("r2", "s", SessionPolicy::Queue) }).await;
    accept(&*db, new_run("r3")).await;
    assert_eq!((counts(all()).await, counts(ada()).await), ([3, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]));

    // What is refused, or was done before, is not counted.
    let again = NewRun { idempotency_key: Some(Arc::from("key")), ..hers("r4", "s", SessionPolicy::Queue) };
    assert!(matches!(db.create_run(ada(), again, None).await, Ok(Accepted::Existing(_))));
    let busy = db.create_run(ada(), hers("r4", "s", SessionPolicy::Reject), None).await;
    expect_kind(busy, DbErrorKind::SessionBusy);
    let stale = Lease { epoch: 7, ..lease.clone() };
    expect_kind(db.commit(becoming(&stale, RunStatus::Running)).await, DbErrorKind::Fenced);
    assert_eq!(counts(ada()).await, [2, 0, 0, 0, 0, 0]);

    // One run through its life.
    for (status, expected) in [
        (RunStatus::Running, [1, 1, 0, 0, 0, 0]),
        (RunStatus::Paused, [1, 0, 1, 0, 0, 0]),
        (RunStatus::Running, [1, 1, 0, 0, 0, 0]),
        (RunStatus::Running, [1, 1, 0, 0, 0, 0]),
        (RunStatus::Completed, [1, 0, 0, 1, 0, 0]),
    ] {
        commit(&*db, becoming(&lease, status)).await;
        assert_eq!(counts(ada()).await, expected);
    }
    // A request to cancel is no status yet.
    db.request_cancel(ada(), run_id("r2"), intent("enough")).await.expect("it is hers");
    assert_eq!(counts(ada()).await, [1, 0, 0, 1, 0, 0]);
    let claimed = claim(&*db, claim_of("w1", second(2))).await;
    assert_eq!(ids(&claimed), ["r2", "r3"]);
    for (_, lease) in &claimed.runs {
        commit(&*db, becoming(lease, RunStatus::Cancelled)).await;
    }
    assert_eq!((counts(all()).await, counts(ada()).await), ([0, 0, 0, 1, 2, 0], [0, 0, 0, 1, 1, 0]));

    let lease = start(&*db, hers("r5", "s2", SessionPolicy::Queue), "w1").await;
    commit(&*db, becoming(&lease, RunStatus::Error)).await;
    accept(&*db, hers("r6", "s2", SessionPolicy::Queue)).await;
    assert_eq!(counts(ada()).await, [1, 0, 0, 1, 1, 1]);
    let delete = async |access, id, force| db.delete_sessions(access, vec![session_id(id)], force).await;
    expect_kind(delete(ada(), "s2", false).await, DbErrorKind::SessionBusy);
    assert_eq!(delete(user("bob"), "s2", true).await.expect("there is no such session for him"), 0);
    assert_eq!(counts(ada()).await, [1, 0, 0, 1, 1, 1]);
    delete(ada(), "s2", true).await.expect("it is hers");
    assert_eq!((counts(all()).await, counts(ada()).await), ([0, 0, 0, 1, 2, 0], [0, 0, 0, 1, 1, 0]));
    expect_kind(db.commit(becoming(&lease, RunStatus::Error)).await, DbErrorKind::NotFound);
    delete(ada(), "s", false).await.expect("nothing in it is unfinished");
    assert_eq!((counts(all()).await, counts(ada()).await), ([0, 0, 0, 0, 1, 0], [0; 6]));
    let of_both = RunFilter { user_id: Some(Arc::from("bob")), ..RunFilter::default() };
    assert_eq!(counted(&*db, ada(), of_both).await, [0; 6], "nobody is ada and bob");
}

async fn counts_of_sessions_follow_every_change(Stores { one: db, other, .. }: Stores) {
    let total = async |access: Access, filter: SessionFilter| {
        let page = other.sessions(access, filter).await.expect("sessions are listed");
        assert_eq!((page.sessions.len() as u64, page.is_total_exact), (page.total, true));
        page.total
    };
    let all = SessionFilter::default;
    let of_kind = |kind| SessionFilter { kind: Some(kind), ..all() };
    let of_flow = || SessionFilter { component_id: Some(workflow_id("flow")), ..all() };
    accept(&*db, of_user("r1", "s1", "ada")).await;
    accept(&*db, of_user("r2", "s1", "ada")).await;
    accept(&*db, NewRun { session_kind: SessionKind::Team, ..new_run("r3") }).await;
    db.create_session(user("ada"), new_session("s2", Some("ada"))).await.expect("her own session");
    expect_kind(db.create_session(Access::All, new_session("s2", None)).await, DbErrorKind::Conflict);
    let agent =
        NewSession { kind: SessionKind::Agent, workflow_id: Some(workflow_id("flow")), ..new_session("s3", None) };
    db.create_session(Access::All, agent).await.expect("a new session");
    assert_eq!((total(Access::All, all()).await, total(user("ada"), all()).await), (4, 2));
    let kinds = async |access: Access| {
        let mut counts = Vec::new();
        for kind in SessionKind::ALL {
            counts.push(total(access.clone(), of_kind(kind)).await);
        }
        counts
    };
    assert_eq!((kinds(Access::All).await, kinds(user("ada")).await), (vec![2, 1, 1], vec![2, 0, 0]));
    assert_eq!((total(Access::All, of_flow()).await, total(user("ada"), of_flow()).await), (3, 1));
    let both = SessionFilter { kind: Some(SessionKind::Agent), ..of_flow() };
    assert_eq!(total(Access::All, both).await, 1);
    db.delete_sessions(Access::All, ["s1", "s3", "s9"].map(session_id).into(), true).await.expect("they are deleted");
    assert_eq!((kinds(Access::All).await, kinds(user("ada")).await), (vec![1, 0, 1], vec![1, 0, 0]));
    assert_eq!((total(Access::All, of_flow()).await, total(user("ada"), of_flow()).await), (1, 0));
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.roll(among.len())].clone()
    }
}

/// A run as a list must show it.
#[derive(Clone, Debug)]
struct Expected {
    id: String,
    workflow: &'static str,
    session: String,
    user: Option<&'static str>,
    created: i64,
    status: RunStatus,
    lease: Option<Lease>,
}

async fn lists_and_counts_agree_whatever_happens(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let mut dice = Dice(7);
    let mut runs: Vec<Expected> = Vec::new();
    let mut sessions: Vec<(String, &str, Option<&str>)> = Vec::new();
    for number in 0..400 {
        match dice.roll(8) {
            0..3 => {
                let (workflow, user) = (dice.pick(&["flow", "other"]), dice.pick(&[None, Some("ada"), Some("bob")]));
                let session = format!("s{}-{}", dice.roll(12), user.unwrap_or_default());
                let created = i64::from(number) - 3 * i64::from(dice.roll(4) == 0);
                let mut run =
                    in_session(&format!("{}{number}", dice.pick(&["a", "b"])), &session, SessionPolicy::Parallel);
                run.info.workflow_id = workflow_id(workflow);
                run.info.user_id = user.map(Arc::from);
                run.at = second(created);
                let id = run.info.run_id.to_string();
                let lease = Some(start(&*db, run, "w1").await);
                if !sessions.iter().any(|(known, ..)| *known == session) {
                    sessions.push((session.clone(), workflow, user));
                }
                runs.push(Expected { id, workflow, session, user, created, status: RunStatus::Pending, lease });
            }
            3..7 => {
                let Some(place) = (!runs.is_empty()).then(|| dice.roll(runs.len())) else { continue };
                let run = &mut runs[place];
                let next = dice.pick(&RunStatus::ALL);
                let Some(lease) = &run.lease else { continue };
                if next == run.status || !run.status.may_become(next) {
                    continue;
                }
                commit(&*db, becoming(lease, next)).await;
                run.status = next;
                run.lease = run.lease.take().filter(|_| !next.is_terminal());
            }
            _ => {
                let Some(place) = (sessions.len() > 8).then(|| dice.roll(sessions.len())) else { continue };
                let (session, ..) = sessions.remove(place);
                db.delete_sessions(Access::All, vec![session_id(&session)], true).await.expect("it is deleted");
                runs.retain(|run| run.session != session);
            }
        }
        if number % 20 == 19 {
            check_runs(&*other, &mut dice, &runs).await;
            check_sessions(&*other, &sessions).await;
        }
    }
    assert!(runs.len() > 30, "there is something to list");
}

/// Compares lists and counts with what they must be, by filters of every kind and in both orders.
async fn check_runs(db: &dyn Db, dice: &mut Dice, runs: &[Expected]) {
    for user in [None, Some("ada"), Some("eve")] {
        for workflow in [None, Some("flow"), Some("unknown")] {
            for narrow in 0..4 {
                let session = (narrow == 1).then(|| format!("s{}-{}", dice.roll(12), user.unwrap_or_default()));
                let prefix = (narrow == 2).then_some("a1");
                let (from, to) = if narrow == 3 { (Some(50), Some(300)) } else { (None, None) };
                let statuses: Vec<RunStatus> = RunStatus::ALL.into_iter().filter(|_| dice.roll(3) == 0).collect();
                let is_listed = |run: &&Expected| {
                    user.is_none_or(|user| run.user == Some(user))
                        && workflow.is_none_or(|workflow| run.workflow == workflow)
                        && session.as_ref().is_none_or(|session| run.session == *session)
                        && prefix.is_none_or(|prefix| run.id.starts_with(prefix))
                        && from.is_none_or(|from| run.created >= from)
                        && to.is_none_or(|to| run.created < to)
                };
                let filter = RunFilter {
                    statuses: statuses.clone(),
                    workflow_id: workflow.map(workflow_id),
                    session_id: session.as_deref().map(session_id),
                    id_prefix: prefix.map(str::to_owned),
                    created_from: from.map(second),
                    created_to: to.map(second),
                    order: dice.pick(&[Order::NewestFirst, Order::OldestFirst]),
                    limit: 7,
                    ..RunFilter::default()
                };
                // A user asks for their own, or an administrator for them.
                let is_own = user.is_some() && dice.roll(2) == 0;
                let access = user.filter(|_| is_own).map_or(Access::All, self::user);
                let filter = RunFilter { user_id: user.filter(|_| !is_own).map(Arc::from), ..filter };
                let described = format!("{access:?} {filter:?}");
                let count = |status| runs.iter().filter(is_listed).filter(|run| run.status == status).count() as u64;
                let counts = counted(db, access.clone(), filter.clone()).await;
                assert_eq!(counts, RunStatus::ALL.map(count), "{described}");
                let has_status = |run: &&Expected| statuses.is_empty() || statuses.contains(&run.status);
                let mut expected: Vec<String> =
                    runs.iter().filter(is_listed).filter(has_status).map(|run| run.id.clone()).collect();
                if filter.order == Order::NewestFirst {
                    expected.reverse();
                }
                let (mut seen, mut after) = (Vec::new(), None);
                loop {
                    let page = db.runs(access.clone(), RunFilter { after, ..filter.clone() }).await;
                    let page = page.expect("runs are listed");
                    seen.extend(page.runs.iter().map(|run| run.info.run_id.to_string()));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(seen, expected, "{described}");
            }
        }
    }
}

async fn check_sessions(db: &dyn Db, sessions: &[(String, &str, Option<&str>)]) {
    for user in [None, Some("bob"), Some("eve")] {
        for component in [None, Some("other")] {
            let expected = sessions.iter().filter(|(_, workflow, owner)| {
                user.is_none_or(|user| *owner == Some(user)) && component.is_none_or(|id| *workflow == id)
            });
            let filter = SessionFilter {
                kind: Some(SessionKind::Workflow),
                component_id: component.map(workflow_id),
                user_id: user.map(Arc::from),
                limit: 1000,
                ..SessionFilter::default()
            };
            let page = db.sessions(Access::All, filter).await.expect("sessions are listed");
            let seen: Vec<_> = page.sessions.iter().map(|session| session.session_id.to_string()).collect();
            let expected: Vec<_> = expected.map(|(id, ..)| id.clone()).collect();
            assert_eq!((page.total, page.is_total_exact), (expected.len() as u64, true));
            assert_eq!(seen, expected, "{user:?} {component:?}");
        }
    }
}

async fn what_no_counts_are_kept_of_is_counted_up_to_a_limit(Stores { one: db, .. }: Stores) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..=COUNT_MAX {
        let db = db.clone();
        tasks.spawn(async move {
            accept(&*db, in_session(&format!("r{number}"), "s", SessionPolicy::Parallel)).await;
            let named = NewSession { name: Some(Arc::from("a name")), ..new_session(&format!("n{number}"), None) };
            db.create_session(Access::All, named).await.expect("a new session");
        });
    }
    tasks.join_all().await;
    let all = || RunFilter { with_counts: true, limit: 1, ..RunFilter::default() };
    for (filter, expected, is_exact) in [
        (all(), COUNT_MAX + 1, true),
        (RunFilter { session_id: Some(session_id("s")), ..all() }, COUNT_MAX, false),
        (RunFilter { id_prefix: Some("r".to_owned()), ..all() }, COUNT_MAX, false),
        (RunFilter { id_prefix: Some("r1000".to_owned()), ..all() }, 2, true),
        (RunFilter { created_from: Some(second(0)), ..all() }, COUNT_MAX, false),
        (RunFilter { created_to: Some(second(0)), ..all() }, 0, true),
    ] {
        let described = format!("{filter:?}");
        let counts = db.runs(Access::All, filter).await.expect("runs are listed").counts.expect("they were asked for");
        let count: u64 = counts.by_status.iter().map(|(_, count)| count).sum();
        assert_eq!((count, counts.is_exact), (expected, is_exact), "{described}");
    }
    let total = async |name: Option<&str>, offset| {
        let filter = SessionFilter { name: name.map(str::to_owned), offset, limit: 2, ..SessionFilter::default() };
        let page = db.sessions(Access::All, filter).await.expect("sessions are listed");
        (page.sessions.len(), page.total, page.is_total_exact)
    };
    assert_eq!(total(None, 0).await, (2, COUNT_MAX + 2, true));
    assert_eq!(total(Some("name"), 0).await, (2, COUNT_MAX, false));
    // Far enough to say whether there is another page.
    assert_eq!(total(Some("name"), COUNT_MAX - 2).await, (2, COUNT_MAX + 1, false));
    assert_eq!(total(Some("name"), COUNT_MAX).await, (1, COUNT_MAX + 1, true));
    assert_eq!(total(Some("no such"), 0).await, (0, 0, true));
}

// Whose runs and sessions.

fn user(user_id: &str) -> Access {
    Access::User(Arc::from(user_id))
}

fn of_user(id: &str, session: &str, user_id: &str) -> NewRun {
    let mut run = in_session(id, session, SessionPolicy::Queue);
    run.info.user_id = Some(Arc::from(user_id));
    run
}

async fn someone_elses_run_is_not_there(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, of_user("r1", "s1", "ada"), "w1").await;
    let mut change = becoming(&lease, RunStatus::Running);
    change.page = Some(page(0, 1));
    commit(&*db, change).await;
    // Nobody's run is nobody's.
    accept(&*db, new_run("r2")).await;
    for (id, others) in [("r1", vec!["bob", "Ada", ""]), ("r2", vec!["ada", "bob", ""])] {
        let before = picture(&*db, id).await;
        for other in others {
            let access = user(other);
            assert!(db.run(access.clone(), run_id(id)).await.expect("asking is fine").is_none());
            assert!(db.read(access.clone(), run_id(id), 0, 1000).await.expect("asking is fine").is_empty());
            let cancelled = db.request_cancel(access.clone(), run_id(id), intent("mine")).await;
            let unknown = db.request_cancel(access, run_id("r9"), intent("mine")).await;
            let said = |result: Result<Cancelled, DbError>| result.expect_err("there is no such run").to_string();
            expect_kind(cancelled.clone(), DbErrorKind::NotFound);
            assert_eq!(said(cancelled), said(unknown).replace("r9", id), "it answers as an unknown run does");
        }
        assert_eq!(picture(&*db, id).await, before);
    }
    let own = db.run(user("ada"), run_id("r1")).await.expect("run is read").expect("it is hers");
    assert_eq!(own.status, RunStatus::Running);
    assert_eq!(db.read(user("ada"), run_id("r1"), 0, 1000).await.expect("log is read"), [page(0, 1)]);
    let cancelled = db.request_cancel(user("ada"), run_id("r1"), intent("enough")).await;
    assert_eq!(cancelled.expect("it is hers"), Cancelled::Requested);
}

async fn a_run_is_accepted_only_among_ones_own(Stores { one: db, .. }: Stores) {
    let accept_as = async |access: Access, run: NewRun| db.create_run(access, run, None).await;
    accept_as(user("ada"), of_user("r1", "s1", "ada")).await.expect("her own session begins");
    accept_as(user("ada"), of_user("r2", "s1", "ada")).await.expect("her own session goes on");
    accept(&*db, in_session("r3", "nobodys", SessionPolicy::Queue)).await;
    let before = picture(&*db, "r1").await;
    let anonymous = in_session("r4", "s2", SessionPolicy::Queue);
    for run in [of_user("r4", "s1", "bob"), of_user("r4", "nobodys", "bob"), of_user("r4", "s2", "ada"), anonymous] {
        let described = format!("{:?}", run.info);
        let refused = accept_as(user("bob"), run).await;
        assert_eq!(refused.expect_err(&described).kind(), DbErrorKind::NotFound, "{described}");
        assert!(db.run(Access::All, run_id("r4")).await.expect("run is read").is_none());
    }
    assert!(db.session(Access::All, session_id("s2")).await.expect("session is read").is_none());
    assert_eq!(picture(&*db, "r1").await, before);
    accept_as(user("bob"), of_user("r4", "s2", "bob")).await.expect("his own session begins");
    // An administrator may.
    accept_as(Access::All, of_user("r5", "s1", "bob")).await.expect("no restriction");
}

async fn someone_elses_key_is_a_conflict_that_tells_nothing(Stores { one: db, .. }: Stores) {
    let keyed = |id: &str, session: &str, user_id: &str| {
        let run = of_user(id, session, user_id);
        NewRun { idempotency_key: Some(Arc::from("key")), ..run }
    };
    let ask = async |access: Access, run: NewRun| db.create_run(access, run, None).await;
    ask(user("ada"), keyed("secret-1", "s1", "ada")).await.expect("a new run");
    match ask(user("ada"), keyed("r2", "s1", "ada")).await {
        Ok(Accepted::Existing(id)) => assert_eq!(id, run_id("secret-1")),
        other => panic!("expected her own run, got {other:?}"),
    }
    let error = ask(user("bob"), keyed("r2", "s2", "bob")).await.expect_err("the key is taken");
    assert_eq!(error.kind(), DbErrorKind::Conflict);
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = ask(user("bob"), keyed("secret-1", "s2", "bob")).await.expect_err("the id is taken");
    assert_eq!(error.kind(), DbErrorKind::Conflict);
    assert!(db.session(Access::All, session_id("s2")).await.expect("session is read").is_none());
}

async fn someone_elses_session_is_not_there(Stores { one: db, .. }: Stores) {
    db.create_session(user("ada"), new_session("s1", Some("ada"))).await.expect("her own session");
    db.create_session(Access::All, new_session("s2", None)).await.expect("nobody's session");
    let before = format!("{:?} {:?}", session_of(&*db, "s1").await, session_of(&*db, "s2").await);
    let bob = user("bob");
    let changes = || SessionPatch { name: Some(Arc::from("bob's")), ..SessionPatch::default() };
    for id in ["s1", "s2", "unknown"] {
        let id = session_id(id);
        assert!(db.session(bob.clone(), id.clone()).await.expect("asking is fine").is_none());
        let changed = db.update_session(bob.clone(), id.clone(), changes(), second(9)).await;
        assert!(changed.expect("asking is fine").is_none());
        for force in [false, true] {
            let deleted = db.delete_sessions(bob.clone(), vec![id.clone()], force).await;
            assert_eq!(deleted.expect("asking is fine"), 0);
        }
    }
    for filter in [SessionFilter::default(), SessionFilter { user_id: Some(Arc::from("ada")), ..Default::default() }] {
        let page = db.sessions(bob.clone(), filter).await.expect("sessions are listed");
        assert_eq!((page.sessions.len(), page.total), (0, 0));
    }
    // Someone else's busy session does not exist any more than an idle one does.
    accept(&*db, of_user("r1", "s1", "ada")).await;
    assert_eq!(db.delete_sessions(bob.clone(), vec![session_id("s1")], false).await.expect("asking is fine"), 0);
    expect_kind(db.create_session(bob.clone(), new_session("s1", Some("bob"))).await, DbErrorKind::Conflict);
    expect_kind(db.create_session(bob.clone(), new_session("s3", Some("ada"))).await, DbErrorKind::NotFound);
    expect_kind(db.create_session(bob.clone(), new_session("s3", None)).await, DbErrorKind::NotFound);
    assert!(db.session(Access::All, session_id("s3")).await.expect("session is read").is_none());
    let after = format!("{:?} {:?}", session_of(&*db, "s1").await, session_of(&*db, "s2").await);
    assert_eq!(after, before);

    let ada = user("ada");
    let hers = db.sessions(ada.clone(), SessionFilter::default()).await.expect("sessions are listed");
    assert_eq!((hers.sessions.len(), hers.total), (1, 1));
    let changed = db.update_session(ada.clone(), session_id("s1"), changes(), second(9)).await;
    assert_eq!(changed.expect("it is hers").expect("it is there").version, 1);
    let both = vec![session_id("s1"), session_id("s2")];
    assert_eq!(db.delete_sessions(ada, both, true).await.expect("one is hers"), 1);
    session_of(&*db, "s2").await;
}

async fn a_list_has_only_ones_own_runs(Stores { one: db, .. }: Stores) {
    for (id, user_id) in [("r1", Some("ada")), ("r2", Some("bob")), ("r3", None), ("r4", Some("ada"))] {
        let mut run = in_session(id, "shared", SessionPolicy::Parallel);
        run.info.user_id = user_id.map(Arc::from);
        accept(&*db, run).await;
    }
    let filters = [
        RunFilter::default(),
        RunFilter { session_id: Some(session_id("shared")), ..RunFilter::default() },
        RunFilter { workflow_id: Some(workflow_id("flow")), ..RunFilter::default() },
        RunFilter { statuses: vec![RunStatus::Pending], ..RunFilter::default() },
        RunFilter { id_prefix: Some("r".to_owned()), ..RunFilter::default() },
        RunFilter { with_payload: true, created_from: Some(second(0)), ..RunFilter::default() },
    ];
    for filter in filters {
        let described = format!("{filter:?}");
        let ids = async |access: Access, filter: RunFilter| {
            let page = db.runs(access, filter).await.expect("runs are listed");
            page.runs.iter().map(|run| run.info.run_id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(user("ada"), filter.clone()).await, ["r4", "r1"], "{described}");
        assert_eq!(ids(user("bob"), filter.clone()).await, ["r2"], "{described}");
        assert_eq!(ids(user("eve"), filter.clone()).await, Vec::<String>::new(), "{described}");
        let of_ada = RunFilter { user_id: Some(Arc::from("ada")), ..filter.clone() };
        assert_eq!(ids(user("bob"), of_ada.clone()).await, Vec::<String>::new(), "{described}");
        assert_eq!(ids(Access::All, of_ada).await, ["r4", "r1"], "{described}");
        let oldest = RunFilter { order: Order::OldestFirst, limit: 1, ..filter };
        assert_eq!(ids(user("ada"), oldest).await, ["r1"], "{described}");
    }
}

// Questions to people.

fn a_question(id: &str, due_at: Option<Timestamp>) -> NewQuestion {
    NewQuestion { id: Arc::from(id), due_at, text: Arc::from(format!("what {id} asks, \"quoted\", ünïcode ✓")) }
}

fn asking(lease: &Lease, asked: Vec<NewQuestion>) -> Commit {
    let mut commit = commit_of(lease);
    commit.patch.questions = Some(Box::new(QuestionPatch { asked, settled: Vec::new() }));
    commit
}

fn settling(lease: &Lease, ids: &[&str]) -> Commit {
    let mut commit = commit_of(lease);
    let settled = ids.iter().map(|id| Arc::from(*id)).collect();
    commit.patch.questions = Some(Box::new(QuestionPatch { asked: Vec::new(), settled }));
    commit
}

fn pausing(lease: &Lease) -> Commit {
    let mut commit = becoming(lease, RunStatus::Paused);
    commit.patch.release = Some(Release::default());
    commit
}

/// A run that a worker executes, and that has asked these questions.
async fn running(db: &dyn Db, run: NewRun, worker: &str, questions: &[&str]) -> Lease {
    let lease = start(db, run, worker).await;
    commit(db, becoming(&lease, RunStatus::Running)).await;
    commit(db, asking(&lease, questions.iter().map(|id| a_question(id, None)).collect())).await;
    lease
}

/// A run that waits for answers to these questions.
async fn paused(db: &dyn Db, run: NewRun, worker: &str, questions: &[&str]) {
    let lease = running(db, run, worker, questions).await;
    commit(db, pausing(&lease)).await;
}

fn an_answer(id: &str, text: &str, by: Option<&str>) -> NewAnswer {
    NewAnswer { id: Arc::from(id), text: Arc::from(text), by: by.map(Arc::from) }
}

async fn answer(db: &dyn Db, answers: Vec<NewAnswer>, at: Timestamp) -> Answering {
    db.answer(Access::All, answers, at).await.expect("an answer is taken or refused")
}

#[track_caller]
fn expect_accepted(answering: Answering) {
    assert!(matches!(answering, Answering::Accepted), "{answering:?}");
}

#[track_caller]
fn expect_refused(answering: Answering) -> StoredQuestion {
    match answering {
        Answering::Refused(question) => *question,
        Answering::Accepted => panic!("an answer was accepted that should have been refused"),
    }
}

async fn question_of(db: &dyn Db, id: &str) -> StoredQuestion {
    let question = db.question(Access::All, Arc::from(id)).await.expect("a question is read");
    question.unwrap_or_else(|| panic!("question {id} is there"))
}

async fn asked(db: &dyn Db, access: Access, filter: QuestionFilter) -> (Vec<String>, Option<String>) {
    let page = db.questions(access, filter).await.expect("questions are listed");
    (page.questions.iter().map(|question| question.id.to_string()).collect(), page.next)
}

async fn inbox(db: &dyn Db, run: &str) -> Vec<(String, StoredAnswer)> {
    let inbox = db.inbox(run_id(run)).await.expect("an inbox is read");
    let answered = inbox.into_iter().map(|question| (question.id.to_string(), question.answer));
    answered.map(|(id, answer)| (id, answer.expect("what is in an inbox has an answer"))).collect()
}

async fn mail(db: &dyn Db, worker: &str) -> Vec<String> {
    let mail = db.mail(worker_id(worker)).await.expect("mail is read");
    mail.iter().map(ToString::to_string).collect()
}

fn stored(text: &str, by: Option<&str>, at: Timestamp) -> StoredAnswer {
    StoredAnswer { text: Arc::from(text), by: by.map(Arc::from), at }
}

/// Everything that can be seen of these questions and runs, to compare before and after.
async fn questions_picture(db: &dyn Db, questions: &[&str], runs: &[&str]) -> String {
    let mut all = String::new();
    for id in questions {
        all += &format!("{:?}\n", question_of(db, id).await);
    }
    for id in runs {
        all += &format!("{} {:?}\n", picture(db, id).await, inbox(db, id).await);
    }
    all + &format!("{:?}", counted(db, Access::All, RunFilter::default()).await)
}

async fn a_question_is_stored_as_it_was_asked(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = start(&*db, of_user("r1", "s1", "ann"), "w1").await;
    let mut ask = asking(&lease, vec![a_question("q1", Some(second(99))), a_question("q2", None)]);
    ask.page = Some(page(0, 1));
    ask.patch.status = Some(RunStatus::Running);
    commit(&*db, ask).await;
    let question = question_of(&*other, "q1").await;
    assert_eq!((&*question.id, question.run_id.as_str()), ("q1", "r1"));
    assert_eq!((question.workflow_id.as_str(), question.session_id.as_str()), ("flow", "s1"));
    assert_eq!(question.user_id.as_deref(), Some("ann"));
    assert_eq!(question.text, a_question("q1", None).text);
    assert_eq!((question.asked_at, question.due_at), (second(5), Some(second(99))));
    assert_eq!((question.state, question.answer), (QuestionState::Open, None));
    assert_eq!(question_of(&*other, "q2").await.due_at, None);
    assert!(db.question(Access::All, Arc::from("q3")).await.expect("asking is fine").is_none());
    assert_eq!(asked(&*other, Access::All, QuestionFilter::default()).await.0, ["q1", "q2"]);
    assert_eq!(inbox(&*db, "r1").await, []);
    assert_eq!(inbox(&*db, "unknown").await, []);
    expect_kind(db.answer(Access::All, vec![an_answer("q3", "yes", None)], second(6)).await, DbErrorKind::NotFound);

    // What a commit that is refused asks was never asked.
    let mut stale = asking(&lease, vec![a_question("q3", None)]);
    stale.lease.epoch += 1;
    expect_kind(db.commit(stale).await, DbErrorKind::Fenced);
    let mut misplaced = asking(&lease, vec![a_question("q3", None)]);
    misplaced.page = Some(page(7, 1));
    expect_kind(db.commit(misplaced).await, DbErrorKind::Storage);
    assert!(db.question(Access::All, Arc::from("q3")).await.expect("asking is fine").is_none());
}

async fn an_answer_frees_a_paused_run(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    paused(&*db, of_user("r1", "s1", "ann"), "w1", &["q1", "q2"]).await;
    paused(&*db, of_user("r2", "s2", "ann"), "w1", &["q3"]).await;
    assert!(claim(&*db, claim_of("w1", second(6))).await.runs.is_empty());
    let paused_and_running = async || {
        let counts = counted(&*db, user("ann"), RunFilter::default()).await;
        let unfinished = db.unfinished(10).await.expect("runs are counted");
        assert_eq!((unfinished.running, unfinished.paused), (counts[1], counts[2]));
        (counts[2], counts[1])
    };
    assert_eq!(paused_and_running().await, (2, 0));

    expect_accepted(answer(&*other, vec![an_answer("q2", "yes, \"✓\"", Some("bob"))], second(7)).await);
    let question = question_of(&*db, "q2").await;
    assert_eq!(question.state, QuestionState::Answered);
    assert_eq!(question.answer, Some(stored("yes, \"✓\"", Some("bob"), second(7))));
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.status, run.worker, run.due_at), (RunStatus::Running, None, None));
    assert_eq!(run.updated_at, second(7));
    assert_eq!(paused_and_running().await, (1, 1));
    assert_eq!(inbox(&*db, "r1").await, [("q2".to_owned(), stored("yes, \"✓\"", Some("bob"), second(7)))]);
    assert_eq!(asked(&*db, Access::All, QuestionFilter::default()).await.0, ["q1", "q3"]);

    let claimed = claim(&*db, claim_of("w1", second(8))).await;
    assert_eq!(ids(&claimed), ["r1"]);
    assert_eq!(mail(&*db, "w1").await, ["r1"]);
    expect_accepted(answer(&*db, vec![an_answer("q1", "no", None), an_answer("q3", "no", None)], second(9)).await);
    assert_eq!(inbox(&*db, "r1").await.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["q1", "q2"]);
    assert_eq!(paused_and_running().await, (0, 2));
    assert_eq!(ids(&claim(&*other, claim_of("w1", second(8))).await), ["r2"]);
}

async fn an_answer_is_given_once(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    for trial in 0..50 {
        let (run, question) = (format!("r{trial}"), format!("q{trial}"));
        paused(&*one, new_run(&run), "w1", &[&question]).await;
        let (ann, bob) = tokio::join!(
            answer(&*one, vec![an_answer(&question, "yes", Some("ann"))], second(7)),
            answer(&*other, vec![an_answer(&question, "no", Some("bob"))], second(8)),
        );
        let (won, lost) = match (ann, bob) {
            (Answering::Accepted, lost) => (stored("yes", Some("ann"), second(7)), lost),
            (lost, Answering::Accepted) => (stored("no", Some("bob"), second(8)), lost),
            both => panic!("both were refused: {both:?}"),
        };
        let told = expect_refused(lost);
        assert_eq!((&*told.id, told.state), (&*question, QuestionState::Answered));
        assert_eq!(told.answer.as_ref(), Some(&won), "who comes too late learns by whom and when");
        assert_eq!(question_of(&*one, &question).await.answer, Some(won.clone()));
        assert_eq!(inbox(&*other, &run).await, [(question, won)]);
    }
}

async fn the_same_answer_again_changes_nothing(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    paused(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    let twice = vec![an_answer("q1", "yes", Some("ann")), an_answer("q1", "yes", Some("ann"))];
    expect_accepted(answer(&*db, twice, second(7)).await);
    let before = questions_picture(&*db, &["q1", "q2"], &["r1"]).await;
    let again = || an_answer("q1", "yes", Some("ann"));
    expect_accepted(answer(&*other, vec![again()], second(9)).await);
    for other_answer in
        [an_answer("q1", "no", Some("ann")), an_answer("q1", "yes", Some("bob")), an_answer("q1", "yes", None)]
    {
        let told = expect_refused(answer(&*db, vec![other_answer], second(9)).await);
        assert_eq!(told.answer, Some(stored("yes", Some("ann"), second(7))));
    }
    assert_eq!(questions_picture(&*db, &["q1", "q2"], &["r1"]).await, before);

    // Also when the log has it, and when the run has ended.
    let (_, lease) = claim(&*db, claim_of("w1", second(10))).await.runs.remove(0);
    commit(&*db, settling(&lease, &["q1"])).await;
    expect_accepted(answer(&*db, vec![again()], second(11)).await);
    assert_eq!(inbox(&*db, "r1").await, []);
    commit(&*db, becoming(&lease, RunStatus::Completed)).await;
    expect_accepted(answer(&*db, vec![again()], second(11)).await);
    expect_refused(answer(&*db, vec![an_answer("q1", "no", None)], second(11)).await);
}

async fn answers_are_given_together_or_not_at_all(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    paused(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    paused(&*db, of_user("r2", "s2", "ann"), "w1", &["q3"]).await;
    paused(&*db, of_user("r3", "s3", "bob"), "w1", &["q4"]).await;
    expect_accepted(answer(&*db, vec![an_answer("q3", "yes", Some("ann"))], second(6)).await);
    let questions = ["q1", "q2", "q3", "q4"];
    let before = questions_picture(&*db, &questions, &["r1", "r2", "r3"]).await;
    let first = || an_answer("q1", "yes", None);

    let told = expect_refused(answer(&*db, vec![first(), an_answer("q3", "no", None), first()], second(7)).await);
    assert_eq!(&*told.id, "q3");
    let told = expect_refused(answer(&*db, vec![first(), an_answer("q1", "no", None)], second(7)).await);
    assert_eq!((&*told.id, told.state), ("q1", QuestionState::Open));
    let unknown = db.answer(Access::All, vec![first(), an_answer("q9", "yes", None)], second(7)).await;
    expect_kind(unknown, DbErrorKind::NotFound);
    let not_ones_own = vec![an_answer("q3", "yes", Some("ann")), an_answer("q4", "yes", None)];
    expect_kind(db.answer(user("ann"), not_ones_own, second(7)).await, DbErrorKind::NotFound);
    assert_eq!(questions_picture(&*db, &questions, &["r1", "r2", "r3"]).await, before);

    expect_accepted(answer(&*db, Vec::new(), second(7)).await);
    assert_eq!(questions_picture(&*db, &questions, &["r1", "r2", "r3"]).await, before);
    let mut three = vec![first(), an_answer("q2", "no", None), an_answer("q4", "yes", None)];
    three.push(an_answer("q3", "yes", Some("ann")));
    expect_accepted(answer(&*db, three, second(7)).await);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(8))).await), ["r1", "r2", "r3"]);
}

async fn an_answer_to_a_run_that_is_held_is_mail(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    register(&*db, "w2").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    running(&*db, new_run("r2"), "w2", &["q3"]).await;
    running(&*db, new_run("r3"), "w1", &["q4"]).await;
    assert!(mail(&*db, "w1").await.is_empty());
    expect_accepted(answer(&*other, vec![an_answer("q2", "a", None), an_answer("q3", "b", None)], second(6)).await);
    expect_accepted(answer(&*other, vec![an_answer("q1", "c", None)], second(7)).await);
    assert_eq!((mail(&*db, "w1").await, mail(&*db, "w2").await), (vec!["r1".to_owned()], vec!["r2".to_owned()]));
    assert!(mail(&*db, "unknown").await.is_empty());
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.status, run.worker), (RunStatus::Running, Some(worker_id("w1"))));
    assert!(claim(&*db, claim_of("w2", second(8))).await.runs.is_empty(), "it is held");

    commit(&*db, settling(&lease, &["q2"])).await;
    assert_eq!(mail(&*db, "w1").await, ["r1"]);
    commit(&*db, settling(&lease, &["q1"])).await;
    assert!(mail(&*db, "w1").await.is_empty());
    assert_eq!(inbox(&*db, "r1").await, []);
    assert_eq!(question_of(&*db, "q1").await.state, QuestionState::Answered);
    commit(&*db, pausing(&lease)).await;
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Paused, "nothing is left in its inbox");
}

async fn a_run_never_pauses_over_an_answer(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    expect_accepted(answer(&*other, vec![an_answer("q1", "yes", None)], second(6)).await);
    let (sender, mut news) = mpsc::unbounded_channel();
    db.watch(Arc::new(move |told| drop(sender.send(told))));
    commit(&*db, pausing(&lease)).await;
    let mut told = Vec::new();
    while !told.contains(&News::Free { by: Some(worker_id("w1")) }) {
        told.push(tokio::time::timeout(NEWS_WAIT, news.recv()).await.expect("news arrives").expect("it goes on"));
    }
    let run = run_of(&*db, "r1").await;
    assert_eq!((run.status, run.worker, run.claims), (RunStatus::Running, None, 0));
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 1, 0, 0, 0, 0]);
    let (run, lease) = claim(&*db, claim_of("w1", second(7))).await.runs.remove(0);
    assert_eq!(run.status, RunStatus::Running);

    // Settled by the commit that pauses it, it rests.
    let mut rests = settling(&lease, &["q1"]);
    rests.patch.status = Some(RunStatus::Paused);
    commit(&*db, rests).await;
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Paused);
    // Its holder has not let go of it when the other answer comes, and does not know of that.
    expect_accepted(answer(&*other, vec![an_answer("q2", "no", None)], second(8)).await);
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Running);
    assert_eq!(mail(&*db, "w1").await, ["r1"]);
    commit(&*db, becoming(&lease, RunStatus::Paused)).await;
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Running);
    commit(&*db, releasing(&lease, None)).await;
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 1, 0, 0, 0, 0]);
    let (_, lease) = claim(&*db, claim_of("w1", second(9))).await.runs.remove(0);
    commit(&*db, settling(&lease, &["q2"])).await;
    commit(&*db, becoming(&lease, RunStatus::Completed)).await;
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 0, 0, 1, 0, 0]);
}

async fn answers_race_with_pauses(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    for trial in 0..100 {
        let (run, question) = (format!("r{trial}"), format!("q{trial}"));
        let lease = running(&*one, new_run(&run), "w1", &[&question]).await;
        let (answerer, holder) = if trial % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let (accepted, rested) = tokio::join!(
            answer(&**answerer, vec![an_answer(&question, "yes", None)], second(7)),
            holder.commit(pausing(&lease)),
        );
        expect_accepted(accepted);
        rested.expect("a commit succeeds");
        let claimed = claim(&*one, claim_of("w1", second(8))).await;
        assert_eq!(ids(&claimed), [run.as_str()]);
        assert_eq!(claimed.runs[0].0.status, RunStatus::Running);
        assert_eq!(inbox(&*one, &run).await, [(question, stored("yes", None, second(7)))]);
    }
}

async fn an_answer_ends_the_wait_of_a_parked_run(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let far = Some(second(1000));
    let early = running(&*db, new_run("early"), "w1", &["q1"]).await;
    let late = running(&*db, new_run("late"), "w1", &["q2"]).await;
    commit(&*db, releasing(&late, far)).await;
    assert_eq!(run_of(&*db, "late").await.due_at, far);
    expect_accepted(answer(&*db, vec![an_answer("q1", "a", None), an_answer("q2", "b", None)], second(6)).await);
    commit(&*db, releasing(&early, far)).await;
    let mut claimed = claim(&*db, claim_of("w1", second(7))).await;
    assert_eq!(ids(&claimed), ["early", "late"]);
    // Once the log has the answer, it may wait again.
    let (_, lease) = claimed.runs.remove(0);
    commit(&*db, settling(&lease, &["q1"])).await;
    commit(&*db, releasing(&lease, far)).await;
    let claimed = claim(&*db, claim_of("w1", second(8))).await;
    assert!(claimed.runs.is_empty() && claimed.next_due == far);
}

async fn a_question_whose_time_is_up_is_answered_by_a_claim(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    for (run, question, due) in [("r1", "q1", 20), ("r2", "q2", 10), ("r3", "q3", 30)] {
        let lease = running(&*db, new_run(run), "w1", &[]).await;
        commit(&*db, asking(&lease, vec![a_question(question, Some(second(due)))])).await;
        commit(&*db, pausing(&lease)).await;
    }
    let lease = running(&*db, new_run("held"), "w1", &[]).await;
    commit(&*db, asking(&lease, vec![a_question("q4", Some(second(20)))])).await;
    let claimed = claim(&*other, claim_of("w1", second(9))).await;
    assert_eq!((claimed.runs.len(), claimed.next_due, claimed.more), (0, Some(second(10)), false));
    assert_eq!(question_of(&*db, "q2").await.state, QuestionState::Open);

    // Whatever it asks for.
    let nothing = Claim { limit: 0, workflows: Arc::from([workflow_id("other")]), ..claim_of("w1", second(10)) };
    let claimed = claim(&*other, nothing).await;
    assert_eq!((claimed.runs.len(), claimed.next_due), (0, Some(second(20))));
    let question = question_of(&*db, "q2").await;
    assert_eq!(question.state, QuestionState::Answered);
    assert_eq!(question.answer, Some(stored(TIMED_OUT, None, second(10))));
    assert_eq!(inbox(&*db, "r2").await, [("q2".to_owned(), stored(TIMED_OUT, None, second(10)))]);
    assert_eq!(run_of(&*db, "r2").await.status, RunStatus::Running);
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 2, 2, 0, 0, 0]);

    let claimed = claim(&*db, claim_of("w1", second(25))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["r1", "r2"], Some(second(30))));
    let mut has_mail = mail(&*db, "w1").await;
    has_mail.sort();
    assert_eq!(has_mail, ["held", "r1", "r2"]);
    let told = expect_refused(answer(&*db, vec![an_answer("q4", "yes", Some("ann"))], second(26)).await);
    assert_eq!(told.answer, Some(stored(TIMED_OUT, None, second(25))));

    // One that was answered, or is not needed any more, does not run out of time.
    expect_accepted(answer(&*db, vec![an_answer("q3", "yes", None)], second(29)).await);
    let claimed = claim(&*db, claim_of("w1", second(31))).await;
    assert_eq!((ids(&claimed), claimed.next_due), (vec!["r3"], None));
    assert_eq!(question_of(&*db, "q3").await.answer, Some(stored("yes", None, second(29))));
    let mut asks = asking(&lease, vec![a_question("q5", Some(second(40)))]);
    asks.patch.questions.get_or_insert_default().settled.push(Arc::from("q5"));
    commit(&*db, asks).await;
    assert_eq!(claim(&*db, claim_of("w1", second(41))).await.next_due, None);
    assert_eq!(question_of(&*db, "q5").await.state, QuestionState::Void);
}

async fn an_answer_that_comes_too_late_is_refused(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1"]).await;
    let asks = vec![a_question("q2", Some(second(20))), a_question("q3", Some(second(21)))];
    commit(&*db, asking(&lease, asks)).await;
    commit(&*db, pausing(&lease)).await;
    // No worker has noticed: the time is up all the same.
    let both = vec![an_answer("q1", "yes", None), an_answer("q2", "yes", Some("ann"))];
    let told = expect_refused(answer(&*db, both, second(20)).await);
    assert_eq!((&*told.id, told.state), ("q2", QuestionState::Answered));
    assert_eq!(told.answer, Some(stored(TIMED_OUT, None, second(20))));
    assert_eq!(inbox(&*db, "r1").await, [("q2".to_owned(), stored(TIMED_OUT, None, second(20)))]);
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Running);
    assert_eq!(question_of(&*db, "q1").await.state, QuestionState::Open);
    expect_accepted(answer(&*db, vec![an_answer("q3", "yes", None)], second(20)).await);
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(22))).await), ["r1"]);
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 1, 0, 0, 0, 0]);
}

async fn a_claim_answers_a_bounded_number_of_questions(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &[]).await;
    let late = (0..1001).map(|number| a_question(&format!("q{number}"), Some(second(10)))).collect();
    commit(&*db, asking(&lease, late)).await;
    let claimed = claim(&*db, claim_of("w1", second(11))).await;
    assert!(claimed.more, "one is left");
    assert_eq!(claimed.next_due, Some(second(10)));
    assert_eq!(inbox(&*db, "r1").await.len(), 1000);
    let claimed = claim(&*db, claim_of("w1", second(11))).await;
    assert_eq!((claimed.more, claimed.next_due), (false, None));
    assert_eq!(inbox(&*db, "r1").await.len(), 1001);
}

async fn a_question_that_is_asked_again_keeps_its_answer(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    expect_accepted(answer(&*other, vec![an_answer("q1", "yes", Some("ann"))], second(6)).await);
    let before = (question_of(&*db, "q1").await, question_of(&*db, "q2").await);
    // A worker that takes over asks what the one before it asked.
    commit(&*db, releasing(&lease, None)).await;
    let (_, lease) = claim(&*db, claim_of("w1", second(7))).await.runs.remove(0);
    let mut again = asking(&lease, vec![a_question("q1", Some(second(8))), a_question("q2", Some(second(8)))]);
    again.at = second(7);
    again.patch.status = Some(RunStatus::Paused);
    again.patch.release = Some(Release::default());
    commit(&*db, again).await;
    let after = (question_of(&*db, "q1").await, question_of(&*db, "q2").await);
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    let (run, lease) = claim(&*db, claim_of("w1", second(9))).await.runs.remove(0);
    assert_eq!(run.status, RunStatus::Running, "the answer is in its inbox");
    commit(&*db, settling(&lease, &["q1"])).await;
    commit(&*db, asking(&lease, vec![a_question("q1", None)])).await;
    assert_eq!(inbox(&*db, "r1").await, [], "the log has it");
    assert_eq!(question_of(&*db, "q1").await.answer, Some(stored("yes", Some("ann"), second(6))));
}

async fn a_question_that_nobody_needs_answered_is_void(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    let another = running(&*db, new_run("r2"), "w1", &["q3", "q4"]).await;
    commit(&*db, settling(&lease, &["q1", "q3", "unknown"])).await;
    assert_eq!(question_of(&*db, "q3").await.state, QuestionState::Open, "it is another run's");
    let told = expect_refused(answer(&*other, vec![an_answer("q1", "yes", None)], second(6)).await);
    assert_eq!((told.state, told.answer), (QuestionState::Void, None));

    // The end of a run leaves none open, whether or not they were settled.
    let mut ends = settling(&another, &["q3"]);
    ends.patch.status = Some(RunStatus::Completed);
    commit(&*db, ends).await;
    for id in ["q3", "q4"] {
        let told = expect_refused(answer(&*other, vec![an_answer(id, "yes", None)], second(6)).await);
        assert_eq!((told.state, told.answer), (QuestionState::Void, None));
        assert_eq!(question_of(&*db, id).await.state, QuestionState::Void);
    }
    assert_eq!(asked(&*db, Access::All, QuestionFilter::default()).await.0, ["q2"]);
    let all = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    assert_eq!(asked(&*db, Access::All, all).await.0, ["q1", "q2", "q3", "q4"]);
    let of_run = QuestionFilter { run_id: Some(run_id("r2")), ..QuestionFilter::default() };
    assert!(asked(&*db, Access::All, of_run).await.0.is_empty());
    assert_eq!(run_of(&*db, "r2").await.status, RunStatus::Completed);

    // Nor does one that was left open run out of time.
    let lease = running(&*db, new_run("r3"), "w1", &[]).await;
    commit(&*db, asking(&lease, vec![a_question("q5", Some(second(20)))])).await;
    commit(&*db, becoming(&lease, RunStatus::Cancelled)).await;
    let before = picture(&*db, "r3").await;
    assert_eq!(claim(&*db, claim_of("w1", second(21))).await.next_due, None);
    assert_eq!(question_of(&*db, "q5").await.state, QuestionState::Void);
    assert_eq!((picture(&*db, "r3").await, inbox(&*db, "r3").await), (before, Vec::new()));
}

async fn a_cancelled_run_can_end_over_an_answer(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    paused(&*db, new_run("r1"), "w1", &["q1"]).await;
    db.request_cancel(Access::All, run_id("r1"), intent("stop")).await.expect("a cancel succeeds");
    expect_accepted(answer(&*db, vec![an_answer("q1", "yes", None)], second(6)).await);
    let (_, lease) = claim(&*db, claim_of("w1", second(7))).await.runs.remove(0);
    commit(&*db, becoming(&lease, RunStatus::Cancelled)).await;
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Cancelled);
    assert!(mail(&*db, "w1").await.is_empty());
    assert_eq!(question_of(&*db, "q1").await.state, QuestionState::Answered);
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 0, 0, 0, 1, 0]);
}

async fn questions_are_listed_oldest_first(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let mut other_flow = of_user("r2", "s2", "ann");
    other_flow.info.workflow_id = workflow_id("other");
    let r1 = running(&*db, of_user("r1", "s1", "ann"), "w1", &["q1", "q2"]).await;
    running(&*db, other_flow, "w1", &["q3", "q4"]).await;
    running(&*db, of_user("r3", "s3", "bob"), "w1", &["q5"]).await;
    running(&*db, new_run("r4"), "w1", &["q6"]).await;
    commit(&*db, asking(&r1, vec![a_question("q7", None)])).await;
    expect_accepted(answer(&*db, vec![an_answer("q1", "yes", None), an_answer("q3", "yes", None)], second(6)).await);
    commit(&*db, settling(&r1, &["q1"])).await;

    let filter = |run: Option<&str>, workflow: Option<&str>, with_settled| QuestionFilter {
        run_id: run.map(run_id),
        workflow_id: workflow.map(workflow_id),
        with_settled,
        ..QuestionFilter::default()
    };
    let by_prefix = |prefix: &str, with_settled| QuestionFilter {
        id_prefix: Some(prefix.to_owned()),
        ..filter(None, None, with_settled)
    };
    let everyone = Access::All;
    for (access, wanted, expected) in [
        (&everyone, filter(None, None, false), vec!["q2", "q4", "q5", "q6", "q7"]),
        (&everyone, filter(None, None, true), vec!["q1", "q2", "q3", "q4", "q5", "q6", "q7"]),
        (&everyone, filter(Some("r1"), None, false), vec!["q2", "q7"]),
        (&everyone, filter(Some("r1"), None, true), vec!["q1", "q2", "q7"]),
        (&everyone, filter(Some("r1"), Some("other"), true), vec![]),
        (&everyone, filter(Some("r9"), None, true), vec![]),
        (&everyone, filter(None, Some("other"), false), vec!["q4"]),
        (&everyone, filter(None, Some("other"), true), vec!["q3", "q4"]),
        (&everyone, filter(None, Some("flow"), true), vec!["q1", "q2", "q5", "q6", "q7"]),
        (&user("ann"), filter(None, None, false), vec!["q2", "q4", "q7"]),
        (&user("ann"), filter(None, None, true), vec!["q1", "q2", "q3", "q4", "q7"]),
        (&user("ann"), filter(None, Some("flow"), true), vec!["q1", "q2", "q7"]),
        (&user("ann"), filter(Some("r3"), None, true), vec![]),
        (&user("eve"), filter(None, None, true), vec![]),
        (&everyone, by_prefix("q", false), vec!["q2", "q4", "q5", "q6", "q7"]),
        (&everyone, by_prefix("q1", true), vec!["q1"]),
        (&everyone, by_prefix("q1", false), vec![]),
        (&everyone, by_prefix("Q", true), vec![]),
        (&everyone, by_prefix("q%", true), vec![]),
        (&everyone, by_prefix("", false), vec!["q2", "q4", "q5", "q6", "q7"]),
        (&user("ann"), by_prefix("q", true), vec!["q1", "q2", "q3", "q4", "q7"]),
        (&user("ann"), by_prefix("q5", true), vec![]),
        (&everyone, QuestionFilter { run_id: Some(run_id("r1")), ..by_prefix("q", true) }, vec!["q1", "q2", "q7"]),
        (&everyone, QuestionFilter { workflow_id: Some(workflow_id("other")), ..by_prefix("q3", true) }, vec!["q3"]),
    ] {
        let (listed, next) = asked(&*other, access.clone(), wanted.clone()).await;
        assert_eq!((listed, next), (expected.iter().map(|id| (*id).to_owned()).collect(), None), "{wanted:?}");
        // Page by page it is the same list.
        let (mut paged, mut after) = (Vec::new(), None);
        for _ in 0..=expected.len() {
            let part = QuestionFilter { after: after.take(), limit: 2, ..wanted.clone() };
            let (listed, next) = asked(&*other, access.clone(), part).await;
            assert!(listed.len() <= 2);
            paged.extend(listed);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((paged, after), (expected.iter().map(|id| (*id).to_owned()).collect(), None), "{wanted:?}");
    }

    for cursor in ["", "x", "-1", "99999999999999999999"] {
        let bad = QuestionFilter { after: Some(cursor.to_owned()), ..QuestionFilter::default() };
        expect_kind(db.questions(Access::All, bad).await, DbErrorKind::Storage);
    }
    let many = (0..1010).map(|number| a_question(&format!("m{number}"), None)).collect();
    commit(&*db, asking(&r1, many)).await;
    for (limit, len) in [(0, 50), (1, 1), (u32::MAX, 1000)] {
        let (listed, next) = asked(&*db, Access::All, QuestionFilter { limit, ..QuestionFilter::default() }).await;
        assert_eq!((listed.len(), next.is_some()), (len, true));
    }
    let long: Arc<str> = "x".repeat(9 << 20).into();
    let long = |id: &str| NewQuestion { text: long.clone(), ..a_question(id, None) };
    let lease = running(&*db, new_run("long"), "w1", &[]).await;
    commit(&*db, asking(&lease, vec![long("l1"), long("l2"), long("l3")])).await;
    let of_long = QuestionFilter { run_id: Some(run_id("long")), ..QuestionFilter::default() };
    let (listed, next) = asked(&*db, Access::All, of_long.clone()).await;
    assert_eq!(listed, ["l1", "l2"]);
    assert_eq!(asked(&*db, Access::All, QuestionFilter { after: next, ..of_long }).await.0, ["l3"]);
}

async fn someone_elses_question_is_not_there(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, of_user("r1", "s1", "ann"), "w1", &["q1"]).await;
    commit(&*db, asking(&lease, vec![a_question("q2", Some(second(10)))])).await;
    commit(&*db, pausing(&lease)).await;
    paused(&*db, new_run("r2"), "w1", &["q3"]).await;
    let before = questions_picture(&*db, &["q1", "q2", "q3"], &["r1", "r2"]).await;
    let unknown = db.answer(user("bob"), vec![an_answer("unknown", "yes", None)], second(20)).await;
    let unknown = unknown.expect_err("there is none").to_string();
    for id in ["q1", "q2", "q3"] {
        assert!(db.question(user("bob"), Arc::from(id)).await.expect("asking is fine").is_none());
        let refused = db.answer(user("bob"), vec![an_answer(id, "yes", Some("bob"))], second(20)).await;
        let error = refused.expect_err("it is not bob's");
        assert_eq!((error.kind(), error.to_string()), (DbErrorKind::NotFound, unknown.replace("unknown", id)));
    }
    assert_eq!(questions_picture(&*db, &["q1", "q2", "q3"], &["r1", "r2"]).await, before);
    assert!(db.question(user("ann"), Arc::from("q1")).await.expect("asking is fine").is_some());
    let own = db.answer(user("ann"), vec![an_answer("q1", "yes", Some("ann"))], second(6)).await;
    expect_accepted(own.expect("it is ann's"));
}

async fn a_deleted_session_takes_its_questions_with_it(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1", "q2"]).await;
    commit(&*db, asking(&lease, vec![a_question("q3", Some(second(10)))])).await;
    running(&*db, new_run("r2"), "w1", &["q4"]).await;
    expect_accepted(answer(&*db, vec![an_answer("q1", "yes", None), an_answer("q4", "yes", None)], second(6)).await);
    let deleted = other.delete_sessions(Access::All, vec![session_id("session-of-r1")], true).await;
    assert_eq!(deleted.expect("it is forced"), 1);
    for id in ["q1", "q2", "q3"] {
        assert!(db.question(Access::All, Arc::from(id)).await.expect("asking is fine").is_none());
        let gone = db.answer(Access::All, vec![an_answer(id, "yes", None)], second(7)).await;
        expect_kind(gone, DbErrorKind::NotFound);
    }
    let all = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    assert_eq!(asked(&*db, Access::All, all).await.0, ["q4"]);
    assert_eq!((inbox(&*db, "r1").await.len(), mail(&*db, "w1").await), (0, vec!["r2".to_owned()]));
    assert_eq!(claim(&*db, claim_of("w1", second(11))).await.next_due, None);
    // The ids are free again, and nothing from before is found.
    running(&*db, new_run("r1"), "w1", &["q1"]).await;
    assert_eq!(question_of(&*db, "q1").await.state, QuestionState::Open);
    assert_eq!(inbox(&*db, "r1").await, []);
}

async fn a_handle_hears_of_answers(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    paused(&*db, new_run("r1"), "w1", &["q1"]).await;
    running(&*db, new_run("r2"), "w1", &["q2"]).await;
    let lease = running(&*db, new_run("r3"), "w1", &[]).await;
    commit(&*db, asking(&lease, vec![a_question("q3", Some(second(10)))])).await;
    commit(&*db, pausing(&lease)).await;
    let (sender, mut news) = mpsc::unbounded_channel();
    db.watch(Arc::new(move |told| drop(sender.send(told))));
    other.open().await.expect("the store opens");
    let (far, mut far_news) = mpsc::unbounded_channel();
    other.watch(Arc::new(move |told| drop(far.send(told))));
    let mut told = async |count: usize| {
        let mut told = Vec::new();
        while told.len() < count {
            let one = tokio::time::timeout(NEWS_WAIT, news.recv()).await.expect("news arrives").expect("it goes on");
            // What the worker did before it began to watch may be told now.
            told.extend(Some(one).filter(|one| matches!(one, News::Run { by: None, .. } | News::Free { by: None })));
        }
        told
    };
    let ran = |id: &str| News::Run { run_id: run_id(id), by: None };
    let freed = News::Free { by: None };

    expect_accepted(answer(&*db, vec![an_answer("q1", "yes", None)], second(6)).await);
    assert_eq!(told(2).await, [ran("r1"), freed.clone()]);
    let far_told = tokio::time::timeout(NEWS_WAIT, far_news.recv()).await.expect("news arrives");
    assert!(matches!(far_told, Some(News::Anything)), "{far_told:?}");
    // The same again is no news, nor is what was refused.
    expect_accepted(answer(&*db, vec![an_answer("q1", "yes", None)], second(7)).await);
    expect_refused(answer(&*db, vec![an_answer("q1", "no", None)], second(7)).await);
    expect_accepted(answer(&*db, vec![an_answer("q2", "yes", None)], second(7)).await);
    assert_eq!(told(1).await, [ran("r2")], "its holder has it");
    claim(&*db, Claim { limit: 0, ..claim_of("w1", second(10)) }).await;
    assert_eq!(told(2).await, [ran("r3"), freed]);
}

// Hooks.

fn hooked(id: &str, events: HookEvents) -> NewRun {
    NewRun { hook: Some(NewHook { url: Arc::from("https://example.org/h?ü=1"), events }), ..new_run(id) }
}

async fn due(db: &dyn Db, at: Timestamp) -> Vec<String> {
    let due = db.due_hooks(at, 10).await.expect("due hooks are read");
    due.run_ids.iter().map(ToString::to_string).collect()
}

async fn claim_hook(db: &dyn Db, id: &str, at: Timestamp) -> Option<Hook> {
    db.claim_hook(run_id(id), at, PERIOD).await.expect("a claim of a hook succeeds")
}

async fn hook_of(db: &dyn Db, id: &str) -> (Hook, Vec<Delivery>) {
    db.hook(Access::All, run_id(id)).await.expect("a hook is read").expect("the run has a hook")
}

/// Releases the hook with its cursor here.
fn moved_to(hook: &Hook, next_index: u64) -> HookMove {
    HookMove {
        run_id: hook.run_id.clone(),
        epoch: hook.epoch,
        next_index,
        failing: None,
        state: HookState::Open,
        not_before: None,
        delivery: None,
    }
}

async fn a_run_without_a_hook_has_none(Stores { one: db, .. }: Stores) {
    accept(&*db, new_run("r1")).await;
    for id in ["r1", "unknown"] {
        assert_eq!(db.hook(Access::All, run_id(id)).await.expect("read"), None);
        assert_eq!(db.rewind_hook(Access::All, run_id(id), 0).await.expect("read"), None);
        assert_eq!(claim_hook(&*db, id, second(9)).await, None);
    }
    assert_eq!(db.due_hooks(second(9), 10).await.expect("read"), DueHooks::default());
}

async fn a_hook_is_due_when_it_has_something_to_send(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let all = start(&*db, hooked("all", HookEvents::All), "w1").await;
    let end = start(&*db, hooked("end", HookEvents::End), "w1").await;
    let waiting = other.due_hooks(second(9), 10).await.expect("read");
    assert_eq!(waiting, DueHooks { has_open: true, ..DueHooks::default() });
    for lease in [&all, &end] {
        let mut begin = becoming(lease, RunStatus::Running);
        begin.page = Some(page(0, 2));
        commit(&*db, begin).await;
    }
    assert_eq!(due(&*other, second(9)).await, ["all"]);
    let paused = start(&*db, hooked("paused", HookEvents::End), "w1").await;
    let mut begin = becoming(&paused, RunStatus::Running);
    begin.page = Some(page(0, 2));
    commit(&*db, begin).await;
    commit(&*db, becoming(&paused, RunStatus::Paused)).await;
    assert_eq!(due(&*other, second(9)).await, ["all"], "somebody may still write to it");
    commit(&*db, releasing(&paused, None)).await;
    assert_eq!(due(&*other, second(9)).await, ["all", "paused"]);
    let hook = claim_hook(&*db, "paused", second(9)).await.expect("it is open");
    let told = moved_to(&hook, 2);
    db.move_hook(told).await.expect("it is held");
    assert_eq!(due(&*other, second(9)).await, ["all"], "its pause was told");
    for lease in [&all, &end] {
        commit(&*db, becoming(lease, RunStatus::Completed)).await;
    }
    assert_eq!(due(&*other, second(9)).await, ["all", "end"]);
    assert_eq!(other.due_hooks(second(9), 1).await.expect("read").run_ids.len(), 1);

    let hook = claim_hook(&*db, "end", second(9)).await.expect("free");
    let done = HookMove { state: HookState::Done, ..moved_to(&hook, 2) };
    db.move_hook(done).await.expect("it moves");
    assert_eq!(due(&*other, second(9)).await, ["all"]);
    assert_eq!(claim_hook(&*other, "end", second(99)).await, None, "there is nothing left to send");
}

async fn a_hook_is_held_by_one_at_a_time(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    let lease = start(&*one, hooked("r1", HookEvents::All), "w1").await;
    finish(&*one, &lease).await;
    let hook = claim_hook(&*one, "r1", second(1)).await.expect("free");
    let expected = Hook {
        run_id: run_id("r1"),
        url: Arc::from("https://example.org/h?ü=1"),
        events: HookEvents::All,
        state: HookState::Open,
        next_index: 0,
        failing: None,
        not_before: Some(second(31)),
        epoch: 1,
    };
    assert_eq!(hook, expected);
    assert_eq!(claim_hook(&*other, "r1", second(30)).await, None);
    let held = other.due_hooks(second(30), 10).await.expect("read");
    assert_eq!(held, DueHooks { run_ids: Vec::new(), next_due: Some(second(31)), has_open: true });

    one.move_hook(moved_to(&hook, 0)).await.expect("given up");
    assert_eq!(claim_hook(&*other, "r1", second(2)).await.expect("free again").epoch, 2);
}

async fn a_hook_that_was_taken_over_is_fenced(Stores { one, other, .. }: Stores) {
    accept(&*one, hooked("r1", HookEvents::All)).await;
    let old = claim_hook(&*one, "r1", second(1)).await.expect("free");
    let new = claim_hook(&*other, "r1", second(31)).await.expect("the lease has ended");
    let before = hook_of(&*one, "r1").await;
    expect_kind(one.move_hook(moved_to(&old, 5)).await, DbErrorKind::Fenced);
    assert_eq!(hook_of(&*one, "r1").await, before);
    other.move_hook(moved_to(&new, 3)).await.expect("the newest epoch moves it");
    expect_kind(
        one.move_hook(HookMove { run_id: run_id("unknown"), ..moved_to(&new, 3) }).await,
        DbErrorKind::NotFound,
    );
}

async fn a_hooks_cursor_moves_and_its_last_deliveries_are_kept(Stores { one: db, other, .. }: Stores) {
    accept(&*db, hooked("r1", HookEvents::All)).await;
    let hook = claim_hook(&*db, "r1", second(1)).await.expect("free");
    let failed = Delivery {
        event_index: 0,
        attempt: 1,
        at: second(1),
        took: Duration::from_millis(1500),
        outcome: DeliveryOutcome::Failed(Arc::from("timeout")),
    };
    let failing = Some(Failing { attempts: 1, since: second(1) });
    let not_before = Some(second(4));
    let step = HookMove { failing, not_before, delivery: Some(failed.clone()), ..moved_to(&hook, 0) };
    db.move_hook(step).await.expect("it moves");
    let (stored, deliveries) = hook_of(&*other, "r1").await;
    assert_eq!((stored.failing, stored.not_before, deliveries), (failing, not_before, vec![failed.clone()]));
    assert_eq!(claim_hook(&*db, "r1", second(3)).await, None, "it backs off");

    let hook = claim_hook(&*db, "r1", second(4)).await.expect("its time has come");
    for index in 0..60 {
        let outcome = DeliveryOutcome::Answered(204);
        let delivery = Delivery { event_index: index, attempt: 2, outcome, ..failed.clone() };
        let step = HookMove { delivery: Some(delivery), not_before: Some(second(90)), ..moved_to(&hook, index + 1) };
        db.move_hook(step).await.expect("it moves");
    }
    let (stored, deliveries) = hook_of(&*other, "r1").await;
    assert_eq!((stored.next_index, stored.failing, stored.not_before), (60, None, Some(second(90))));
    let indexes: Vec<u64> = deliveries.iter().map(|delivery| delivery.event_index).collect();
    assert_eq!(indexes, (10..60).rev().collect::<Vec<_>>());
    assert_eq!(deliveries[0].outcome, DeliveryOutcome::Answered(204));
}

async fn a_rewound_hook_is_open_again(Stores { one: db, other, .. }: Stores) {
    accept(&*db, hooked("r1", HookEvents::All)).await;
    let hook = claim_hook(&*db, "r1", second(1)).await.expect("free");
    let failing = Some(Failing { attempts: 9, since: second(1) });
    let given_up = HookMove { state: HookState::GivenUp, failing, ..moved_to(&hook, 7) };
    db.move_hook(given_up).await.expect("it moves");
    assert!(!other.due_hooks(second(9), 10).await.expect("read").has_open);

    let rewound = other.rewind_hook(Access::All, run_id("r1"), 3).await.expect("read").expect("a hook");
    assert_eq!((rewound.next_index, rewound.state, rewound.failing), (3, HookState::Open, None));
    let further = db.rewind_hook(Access::All, run_id("r1"), 99).await.expect("read").expect("a hook");
    assert_eq!(further.next_index, 3, "it never goes forward");
    expect_kind(db.move_hook(moved_to(&hook, 8)).await, DbErrorKind::Fenced);
    let claimed = claim_hook(&*db, "r1", second(2)).await.expect("free");
    assert!(claimed.epoch > further.epoch, "{claimed:?}");
}

async fn a_refused_run_leaves_no_hook_and_a_deleted_one_takes_it_along(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let with_key = |id| NewRun { idempotency_key: Some(Arc::from("key")), ..hooked(id, HookEvents::End) };
    let lease = start(&*db, with_key("r1"), "w1").await;
    let changed = NewRun { fingerprint: Arc::from("other"), ..with_key("r2") };
    expect_kind(db.create_run(Access::All, changed, None).await, DbErrorKind::Conflict);
    let repeated = db.create_run(Access::All, with_key("r3"), None).await;
    assert!(matches!(repeated, Ok(Accepted::Existing(_))));
    for id in ["r2", "r3"] {
        assert_eq!(db.hook(Access::All, run_id(id)).await.expect("read"), None);
    }

    finish(&*db, &lease).await;
    let hook = claim_hook(&*db, "r1", second(1)).await.expect("free");
    let session = session_id("session-of-r1");
    db.delete_sessions(Access::All, vec![session], false).await.expect("deleted");
    expect_kind(db.move_hook(moved_to(&hook, 1)).await, DbErrorKind::NotFound);
    assert_eq!(other.due_hooks(second(99), 10).await.expect("read"), DueHooks::default());
}

async fn someone_elses_hook_is_not_there(Stores { one: db, .. }: Stores) {
    let mut run = hooked("r1", HookEvents::All);
    run.info.user_id = Some(Arc::from("ada"));
    accept(&*db, run).await;
    accept(&*db, hooked("nobodys", HookEvents::All)).await;
    let (ada, bob) = (Access::User(Arc::from("ada")), Access::User(Arc::from("bob")));
    let before = hook_of(&*db, "r1").await;
    for (access, id) in [(&bob, "r1"), (&ada, "nobodys")] {
        assert_eq!(db.hook(access.clone(), run_id(id)).await.expect("read"), None);
        assert_eq!(db.rewind_hook(access.clone(), run_id(id), 0).await.expect("read"), None);
    }
    assert_eq!(db.hook(ada.clone(), run_id("r1")).await.expect("read"), Some(before));
    assert!(db.rewind_hook(ada, run_id("r1"), 0).await.expect("read").is_some());
}

// Budgets.

/// A commit that does these steps to the budget of the lease's run.
fn posting(lease: &Lease, info: &RunInfo, budget: &Budget, steps: &[BudgetStep], at: Timestamp) -> Commit {
    let account = Arc::new(budget.account(info, at));
    let budgets = steps.iter().map(|step| BudgetChange { account: account.clone(), step: *step }).collect();
    let mut commit = commit_of(lease);
    commit.at = at;
    commit.patch.budgets = budgets;
    commit
}

fn reserve(amount: u64) -> BudgetStep {
    BudgetStep::Reserve { amount, is_forced: false }
}

/// A run of this session and user.
async fn spender(db: &dyn Db, id: &str, session: &str, user: &str) -> (Lease, RunInfo) {
    let mut new = new_run(id);
    new.info.user_id = Some(Arc::from(user));
    new.info.session_id = session_id(session);
    new.policy = SessionPolicy::Parallel;
    let info = new.info.clone();
    (start(db, new, "w1").await, info)
}

async fn standing_of(db: &dyn Db, budget: &Budget, info: &RunInfo, at: Timestamp) -> Option<BudgetStanding> {
    let account = budget.account(info, at);
    let filter = BudgetFilter { subject: Some(account.subject.clone()), ..BudgetFilter::default() };
    let page = db.budgets(Access::All, filter).await.expect("budgets are read");
    let mut found = page.budgets.into_iter().filter(|stored| stored.account.id == account.id);
    found.next().map(|stored| stored.standing)
}

async fn a_commit_that_reserves_too_much_changes_nothing(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let (tokens, calls) = (Budget::tokens(100).per_run(), Budget::calls(1).per_user());
    commit(&*db, posting(&lease, &info, &tokens, &[reserve(70)], second(5))).await;
    let before = picture(&*db, "r1").await;

    let mut both = posting(&lease, &info, &calls, &[reserve(1)], second(6));
    both.patch.budgets.extend(posting(&lease, &info, &tokens, &[reserve(31)], second(6)).patch.budgets);
    both.page = Some(page(0, 3));
    both.patch.status = Some(RunStatus::Running);
    both.session = Some(object(json!({"topic": "ai"})));
    let error = db.commit(both.clone()).await.expect_err("there is too little left");
    assert_eq!(error.kind(), DbErrorKind::OverBudget);
    let over = error.over_budget().expect("it says which");
    assert_eq!((over.change, over.standing), (1, BudgetStanding { raised: 0, reserved: 70, settled: 0 }));
    assert_eq!(picture(&*db, "r1").await, before);
    assert_eq!(standing_of(&*db, &calls, &info, second(6)).await, None);

    both.patch.budgets[1].step = reserve(30);
    commit(&*db, both).await;
    assert_eq!(standing_of(&*db, &tokens, &info, second(6)).await.map(BudgetStanding::used), Some(100));
    let fenced = Commit { lease: Lease { epoch: lease.epoch + 1, ..lease.clone() }, ..commit_of(&lease) };
    let fenced = Commit { patch: posting(&lease, &info, &calls, &[reserve(9)], second(7)).patch, ..fenced };
    expect_kind(db.commit(fenced).await, DbErrorKind::Fenced);
}

async fn what_is_reserved_together_never_passes_the_limit(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    let budget = Budget::tokens(1000).per_user();
    let mut runs = Vec::new();
    for number in 0..8 {
        runs.push(spender(&*one, &format!("r{number}"), &format!("s{number}"), "ada").await);
    }
    let (mut made, mut refused) = (0, 0);
    for round in 0..20u64 {
        let mut tries = Vec::new();
        for (number, (lease, info)) in runs.iter().enumerate() {
            let db = if number % 2 == 0 { one.clone() } else { other.clone() };
            let amount = 7 + (round + number as u64) % 5;
            let commit = posting(lease, info, &budget, &[reserve(amount)], second(5));
            tries.push((amount, tokio::spawn(async move { db.commit(commit).await })));
        }
        for (amount, done) in tries {
            let done = done.await.expect("a commit does not panic");
            match done {
                Ok(()) => made += amount,
                Err(error) => {
                    assert_eq!(error.kind(), DbErrorKind::OverBudget, "{error}");
                    refused += 1;
                }
            }
        }
    }
    let standing = standing_of(&*other, &budget, &runs[0].1, second(5)).await.expect("there is an account");
    assert_eq!(standing, BudgetStanding { raised: 0, reserved: made, settled: 0 });
    assert!(made <= 1000 && made > 1000 - 12 && refused > 0, "{made} were reserved, {refused} refused");
}

async fn what_was_used_takes_the_place_of_what_was_reserved(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let budget = Budget::tokens(100).per_session();
    commit(&*db, posting(&lease, &info, &budget, &[reserve(100)], second(5))).await;
    // In the order in which they are given.
    let settle = BudgetStep::Settle { reserved: 100, spent: 40 };
    expect_kind(
        db.commit(posting(&lease, &info, &budget, &[reserve(60), settle], second(6))).await,
        DbErrorKind::OverBudget,
    );
    commit(&*db, posting(&lease, &info, &budget, &[settle, reserve(60)], second(6))).await;
    let standing = standing_of(&*db, &budget, &info, second(6)).await;
    assert_eq!(standing, Some(BudgetStanding { raised: 0, reserved: 60, settled: 40 }));
    // What was used is what was used, even where it is more than was reserved.
    let settle = BudgetStep::Settle { reserved: 60, spent: 90 };
    commit(&*db, posting(&lease, &info, &budget, &[settle], second(7))).await;
    let standing = standing_of(&*db, &budget, &info, second(7)).await;
    assert_eq!(standing, Some(BudgetStanding { raised: 0, reserved: 0, settled: 130 }));
}

async fn a_raised_budget_has_more_and_a_forced_call_needs_none(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let budget = Budget::calls(1).per_session();
    let post = |steps: &[BudgetStep]| posting(&lease, &info, &budget, steps, second(5));
    commit(&*db, post(&[reserve(1)])).await;
    expect_kind(db.commit(post(&[reserve(1)])).await, DbErrorKind::OverBudget);
    commit(&*db, post(&[BudgetStep::Raise { amount: 2 }, reserve(1)])).await;
    commit(&*other, post(&[reserve(1)])).await;
    expect_kind(db.commit(post(&[reserve(1)])).await, DbErrorKind::OverBudget);
    commit(&*db, post(&[BudgetStep::Reserve { amount: 1, is_forced: true }])).await;
    let standing = standing_of(&*db, &budget, &info, second(5)).await;
    assert_eq!(standing, Some(BudgetStanding { raised: 2, reserved: 4, settled: 0 }));
    // A definition with a higher limit counts at once.
    let higher = Budget::calls(4).per_session();
    commit(&*db, posting(&lease, &info, &higher, &[reserve(2)], second(6))).await;
}

async fn a_session_takes_its_budgets_along_and_leaves_those_of_its_user(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let budgets = [Budget::calls(9).per_run(), Budget::calls(9).per_session(), Budget::calls(9).per_user()];
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let (lease_2, info_2) = spender(&*db, "r2", "s2", "ada").await;
    for budget in &budgets {
        commit(&*db, posting(&lease, &info, budget, &[reserve(1)], second(5))).await;
        commit(&*db, posting(&lease_2, &info_2, budget, &[reserve(1)], second(5))).await;
    }
    db.delete_sessions(Access::All, vec![session_id("s1")], true).await.expect("it is deleted");
    let mut left = Vec::new();
    for info in [&info, &info_2] {
        for budget in &budgets {
            left.push(standing_of(&*db, budget, info, second(5)).await.map(BudgetStanding::used));
        }
    }
    assert_eq!(left, [None, None, Some(2), Some(1), Some(1), Some(2)]);
}

async fn someone_elses_budgets_are_not_there(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for (id, user) in [("r1", "ada"), ("r2", "bob")] {
        let (lease, info) = spender(&*db, id, &format!("s-{id}"), user).await;
        for budget in [Budget::calls(9).per_run(), Budget::calls(9).per_user(), Budget::calls(9).per_day()] {
            commit(&*db, posting(&lease, &info, &budget, &[reserve(1)], second(5))).await;
        }
    }
    let seen = async |user: &str, subject: Option<&str>| {
        let filter = BudgetFilter { subject: subject.map(Arc::from), ..BudgetFilter::default() };
        let page = db.budgets(Access::User(Arc::from(user)), filter).await.expect("budgets are read");
        page.budgets.iter().map(|stored| stored.account.subject.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(seen("ada", None).await, ["r1", "ada"]);
    assert_eq!(seen("bob", None).await, ["r2", "bob"]);
    assert!(seen("ada", Some("r2")).await.is_empty() && seen("eve", None).await.is_empty());
    let all = db.budgets(Access::All, BudgetFilter::default()).await.expect("budgets are read");
    assert_eq!(all.budgets.len(), 5, "both share that of the day");
}

async fn budgets_are_listed_in_pages_and_found_by_whose_they_are(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let budget = Budget::usd(1.5).per_user_per_day().time_zone("Europe/Berlin");
    for number in 0..7 {
        let (lease, info) = spender(&*db, &format!("r{number}"), &format!("s{number}"), &format!("u{number}")).await;
        commit(&*db, posting(&lease, &info, &budget, &[reserve(number)], second(5))).await;
    }
    let (mut after, mut subjects) = (None, Vec::new());
    loop {
        let filter = BudgetFilter { after, limit: 3, ..BudgetFilter::default() };
        let page = db.budgets(Access::All, filter).await.expect("budgets are read");
        subjects.extend(page.budgets.iter().map(|stored| stored.account.subject.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(subjects, (0..7).map(|number| format!("u{number}")).collect::<Vec<_>>());
    let filter = BudgetFilter { subject: Some(Arc::from("u4")), ..BudgetFilter::default() };
    let found = db.budgets(Access::All, filter).await.expect("budgets are read").budgets.remove(0);
    let mut info = new_run("r4").info;
    info.user_id = Some(Arc::from("u4"));
    assert_eq!(found.account, budget.account(&info, second(5)));
    assert_eq!((found.standing.used(), found.updated_at), (4, second(5)));
}

async fn the_days_of_budgets_are_not_kept_for_ever(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let (daily, lasting) = (Budget::calls(9).per_user_per_day(), Budget::calls(9).per_user());
    let day = Duration::from_secs(86_400);
    commit(&*db, posting(&lease, &info, &lasting, &[reserve(1)], second(5))).await;
    for number in 0..50 {
        commit(&*db, posting(&lease, &info, &daily, &[reserve(1)], second(5) + day * number)).await;
    }
    let page = db.budgets(Access::All, BudgetFilter::default()).await.expect("budgets are read");
    let kept = u64::try_from(page.budgets.len()).expect("few");
    let days = BUDGET_KEPT.as_secs() / 86_400;
    assert!((days..days + 3).contains(&(kept - 1)), "{kept} accounts are kept");
    assert!(standing_of(&*db, &lasting, &info, second(5)).await.is_some());
}

// Several processes.

// The audit log.

fn record(at: i64, kind: AuditKind, user_id: Option<&str>) -> AuditRecord {
    AuditRecord {
        at: second(at),
        kind,
        outcome: Arc::from("done"),
        actor: user_id.map(|user_id| Arc::from(format!("key:of-{user_id}"))),
        user_id: user_id.map(Arc::from),
        address: Some("2001:db8::1".parse().expect("an address")),
        request_id: Some(Arc::from("request")),
        action: Arc::from("DELETE /sessions/{session_id}"),
        target: Some(Arc::from("s1")),
    }
}

async fn audited(db: &dyn Db, access: Access, filter: AuditFilter) -> Vec<i64> {
    let page = db.audit(access, filter).await.expect("the audit log is read");
    page.records.iter().map(|record| i64::try_from(record.at.since(second(0)).as_secs()).expect("short")).collect()
}

async fn an_audit_record_is_stored_as_it_was_given(Stores { one: db, other, .. }: Stores) {
    assert_eq!(db.audit(Access::All, AuditFilter::default()).await.expect("read"), AuditPage::default());
    let whole = record(1, AuditKind::SessionDelete, Some("ü \u{1b}[2J\n\"'"));
    let bare = AuditRecord { address: None, request_id: None, target: None, ..record(2, AuditKind::AuthFailed, None) };
    db.append_audit(vec![whole.clone(), bare.clone()]).await.expect("appended");
    db.append_audit(Vec::new()).await.expect("nothing is appended");
    let page = other.audit(Access::All, AuditFilter::default()).await.expect("read");
    assert_eq!(page, AuditPage { records: vec![bare, whole], next: None });
}

async fn the_audit_log_goes_by_pages_newest_first(Stores { one: db, .. }: Stores) {
    for at in 0..5 {
        db.append_audit(vec![record(at, AuditKind::RunCancel, None)]).await.expect("appended");
    }
    let mut filter = AuditFilter { limit: 2, ..AuditFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = db.audit(Access::All, filter.clone()).await.expect("read");
        assert!(page.records.len() <= 2);
        seen.extend(page.records.iter().map(|record| record.at));
        // Records appended meanwhile belong before the first page.
        db.append_audit(vec![record(9, AuditKind::RunCancel, None)]).await.expect("appended");
        filter.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen, [4, 3, 2, 1, 0].map(second));
    let many = (0..200).map(|at| record(at, AuditKind::RunCancel, None)).collect();
    db.append_audit(many).await.expect("appended");
    assert_eq!(audited(&*db, Access::All, AuditFilter::default()).await.len(), AUDIT_LIMIT as usize);
}

async fn the_audit_log_is_filtered(Stores { one: db, .. }: Stores) {
    let records = vec![
        record(1, AuditKind::RunCancel, Some("ada")),
        record(2, AuditKind::AuthFailed, None),
        record(3, AuditKind::RunCancel, Some("bob")),
    ];
    db.append_audit(records).await.expect("appended");
    let all = AuditFilter::default;
    let found = async |filter| audited(&*db, Access::All, filter).await;
    assert_eq!(found(AuditFilter { kind: Some(AuditKind::RunCancel), ..all() }).await, [3, 1]);
    assert_eq!(found(AuditFilter { actor: Some(Arc::from("key:of-ada")), ..all() }).await, [1]);
    assert_eq!(found(AuditFilter { actor: Some(Arc::from("bob")), ..all() }).await, [3], "by the user's name too");
    assert_eq!(found(AuditFilter { since: Some(second(2)), ..all() }).await, [3, 2]);
    let none = AuditFilter { kind: Some(AuditKind::AuthFailed), since: Some(second(3)), ..all() };
    assert_eq!(found(none).await, [0_i64; 0]);
}

async fn someone_elses_audit_record_is_not_there(Stores { one: db, .. }: Stores) {
    let records = vec![
        record(1, AuditKind::RunCancel, Some("ada")),
        record(2, AuditKind::AuthFailed, None),
        record(3, AuditKind::RunCancel, Some("bob")),
    ];
    db.append_audit(records).await.expect("appended");
    assert_eq!(audited(&*db, user("ada"), AuditFilter::default()).await, [1]);
    let of_bob = AuditFilter { actor: Some(Arc::from("bob")), ..AuditFilter::default() };
    assert_eq!(audited(&*db, user("ada"), of_bob).await, [0_i64; 0]);
}

async fn an_acknowledged_write_is_seen_by_the_other_process(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    for number in 0..50 {
        let id = format!("r{number}");
        let (writer, reader) = if number % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let lease = start(&**writer, new_run(&id), "w1").await;
        assert_eq!(run_of(&**reader, &id).await.epoch, 1);
        let mut append = commit_of(&lease);
        append.page = Some(page(0, 1));
        commit(&**reader, append).await;
        let read = writer.read(Access::All, run_id(&id), 0, 1).await.expect("log is read");
        assert_eq!(read, [page(0, 1)]);
    }
}

async fn the_other_process_hears_of_a_commit(Stores { one, other, .. }: Stores) {
    other.open().await.expect("a fresh store opens");
    let (sender, mut news) = mpsc::unbounded_channel();
    other.watch(Arc::new(move |told| drop(sender.send(told))));
    for id in ["r1", "r2"] {
        while news.try_recv().is_ok() {}
        accept(&*one, new_run(id)).await;
        let told = tokio::time::timeout(NEWS_WAIT, news.recv()).await.expect("news arrives");
        assert!(matches!(told, Some(News::Anything)), "{told:?}");
    }
}

async fn a_handle_hears_at_once_what_was_done_through_it(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let (sender, mut news) = mpsc::unbounded_channel();
    db.watch(Arc::new(move |told| drop(sender.send(told))));
    let mut told = async |count: usize| {
        let mut told = Vec::new();
        for _ in 0..count {
            told.push(tokio::time::timeout(NEWS_WAIT, news.recv()).await.expect("news arrives").expect("it goes on"));
        }
        told
    };
    let ran = |id: &str, by: Option<&str>| News::Run { run_id: run_id(id), by: by.map(worker_id) };
    let freed = |by: Option<&str>| News::Free { by: by.map(worker_id) };

    accept(&*db, in_session("r1", "s", SessionPolicy::Queue)).await;
    assert_eq!(told(2).await, [ran("r1", None), freed(None)]);
    accept(&*db, in_session("r2", "s", SessionPolicy::Queue)).await;
    assert_eq!(told(1).await, [ran("r2", None)], "it waits behind the other");
    let (_, lease) = claim(&*db, claim_of("w1", second(1))).await.runs.remove(0);
    finish(&*db, &lease).await;
    let (ran_r1, next_in_line) = (ran("r1", Some("w1")), freed(Some("w1")));
    assert_eq!(told(3).await, [ran_r1.clone(), ran_r1, next_in_line]);

    let lease = start(&*db, new_run("r3"), "w1").await;
    assert_eq!(told(1).await, [ran("r3", Some("w1"))], "nobody else may have it");
    db.request_cancel(Access::All, run_id("r3"), intent("enough")).await.expect("a cancel succeeds");
    assert_eq!(told(1).await, [ran("r3", None)]);
    commit(&*db, releasing(&lease, Some(second(1000)))).await;
    assert_eq!(told(1).await, [ran("r3", Some("w1"))], "it is not due");
    expect_kind(db.commit(commit_of(&lease)).await, DbErrorKind::Fenced);
    db.delete_sessions(Access::All, vec![session_id("session-of-r3")], true).await.expect("it is deleted");
    assert_eq!(told(2).await, [ran("r3", None), News::Anything], "what was refused is no news");
    db.delete_sessions(Access::All, vec![session_id("session-of-r3")], true).await.expect("asking is fine");
    db.retire(worker_id("w1"), second(2)).await.expect("a worker retires");
    assert_eq!(told(1).await, [freed(Some("w1"))]);
}
