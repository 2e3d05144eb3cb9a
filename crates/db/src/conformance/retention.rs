//! What a store must do when runs that have ended are deleted.

use super::{
    Stores, a_question, accept, an_answer, asked, asking, becoming, claim_hook, commit, counted, expect_kind, finish,
    hook_of, hooked, ids, in_session, intent, listed, listed_sessions, moved_to, new_run, new_session, page, pausing,
    picture, posting, register, reserve, run_id, running, second, session_id, settling, spender, standing_of, start,
    steering, user, with_key, with_two_runs, worker_id,
};
use super::{claim, claim_of};
use outlive_core::port::{
    Accepted, Access, DELETED_RUNS_MAX, Db, DbErrorKind, Deleted, HookEvents, HookMove, HookState, IDLE_SESSIONS_MAX,
    IdleSessions, Lease, NewRun, Pruned, QuestionFilter, RunFilter, SessionFilter, SessionPolicy, TURN_MAX, Turn,
};
use outlive_core::{Budget, RunId, RunStatus};
use std::sync::Arc;
use std::time::Duration;

async fn sizes(db: &dyn Db, access: Access, runs: &[&str]) -> Vec<Option<u64>> {
    let ids = runs.iter().map(|id| run_id(id)).collect();
    db.run_sizes(access, ids).await.expect("sizes are read")
}

/// Deletes until nothing is left to do; returns how many there were.
async fn delete(db: &dyn Db, access: Access, runs: &[&str]) -> Deleted {
    let ids: Vec<RunId> = runs.iter().map(|id| run_id(id)).collect();
    let mut sum = Deleted::default();
    loop {
        let deleted = db.delete_runs(access.clone(), ids.clone(), None).await.expect("a deletion succeeds");
        (sum.runs, sum.bytes) = (sum.runs + deleted.runs, sum.bytes + deleted.bytes);
        if !deleted.more {
            return sum;
        }
    }
}

async fn is_there(db: &dyn Db, id: &str) -> bool {
    db.run(Access::All, run_id(id)).await.expect("run is read").is_some()
}

/// A run that has ended, with a log.
async fn ended(db: &dyn Db, run: NewRun) {
    let lease = start(db, run, "w1").await;
    let mut change = becoming(&lease, RunStatus::Running);
    change.page = Some(page(0, 3));
    change.patch.output = Some(Arc::from("out"));
    commit(db, change).await;
    commit(db, becoming(&lease, RunStatus::Completed)).await;
}

async fn finish_all(db: &Arc<dyn Db>, leases: Vec<Lease>) {
    let mut tasks = tokio::task::JoinSet::new();
    for lease in leases {
        let db = db.clone();
        tasks.spawn(async move { finish(&*db, &lease).await });
    }
    tasks.join_all().await;
}

pub(super) async fn a_deleted_run_goes_as_a_whole(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    with_two_runs(&*db, "s1", [true, true]).await;
    let kept = picture(&*db, "s1-r2").await;
    let budget = Budget::calls(9);
    let (of_run, of_user) = (budget.clone().per_run(), budget.per_user());
    let (lease, info) = spender(&*db, "r3", "s3", "ada").await;
    for budget in [&of_run, &of_user] {
        commit(&*db, posting(&lease, &info, budget, &[reserve(2)], second(5))).await;
    }
    finish(&*db, &lease).await;
    let lease = running(&*db, new_run("r4"), "w1", &["q1", "q2"]).await;
    commit(&*db, settling(&lease, &["q1", "q2"])).await;
    commit(&*db, becoming(&lease, RunStatus::Completed)).await;
    let known = Access::All;
    let size = sizes(&*db, known.clone(), &["s1-r1"]).await[0].expect("it has ended");
    assert!(size > 100, "{size}");

    let deleted = delete(&*other, known.clone(), &["s1-r1", "r3", "r4", "unknown", "s1-r1"]).await;
    assert_eq!(deleted.runs, 3);
    assert!(deleted.bytes >= size, "{deleted:?}");
    for id in ["s1-r1", "r3", "r4"] {
        assert!(!is_there(&*db, id).await, "{id}");
        assert!(db.read(Access::All, run_id(id), 0, 1000).await.expect("log is read").is_empty());
    }
    assert_eq!(listed(&*db, RunFilter::default()).await.0, ["s1-r2"]);
    assert_eq!(picture(&*db, "s1-r2").await, kept);
    assert_eq!(counted(&*db, Access::All, RunFilter::default()).await, [0, 0, 0, 1, 0, 0]);
    let questions = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    assert_eq!(asked(&*db, Access::All, questions).await.0, [""; 0]);
    assert_eq!(standing_of(&*db, &of_run, &info, second(6)).await, None);
    assert!(standing_of(&*db, &of_user, &info, second(6)).await.is_some(), "it is the user's");
    // Its session stays, and its key is free for another request.
    assert!(db.session(Access::All, session_id("s3")).await.expect("read").is_some());
    assert_eq!(delete(&*db, Access::All, &["s1-r1"]).await, Deleted::default());
    start(&*db, with_key("s1-r1", "key of s1-r1", "new"), "w1").await;
}

pub(super) async fn a_run_that_is_needed_is_not_deleted(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    accept(&*db, new_run("pending")).await;
    let lease = start(&*db, new_run("running"), "w1").await;
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    let lease = running(&*db, new_run("paused"), "w1", &["q1"]).await;
    commit(&*db, pausing(&lease)).await;
    let lease = start(&*db, new_run("cancelling"), "w1").await;
    db.request_cancel(Access::All, run_id("cancelling"), intent("enough")).await.expect("it is asked");
    // An unfinished run may read the earlier ones of its session, not the later ones.
    with_two_runs(&*db, "first", [true, false]).await;
    with_two_runs(&*db, "second", [false, true]).await;
    ended(&*db, hooked("hooked", HookEvents::End)).await;

    let all = ["pending", "running", "paused", "cancelling", "first-r1", "first-r2", "second-r1", "hooked"];
    let before: Vec<String> = {
        let mut pictures = Vec::new();
        for id in all {
            pictures.push(picture(&*db, id).await);
        }
        pictures
    };
    assert_eq!(sizes(&*db, Access::All, &all).await, [None; 8]);
    assert_eq!(delete(&*other, Access::All, &all).await, Deleted::default());
    for (id, before) in all.iter().zip(before) {
        assert_eq!(picture(&*db, id).await, before);
    }
    assert_eq!(delete(&*db, Access::All, &["second-r2"]).await.runs, 1);

    // Once nothing needs them, they go.
    let mut change = becoming(&lease, RunStatus::Cancelled);
    change.page = Some(page(0, 1));
    commit(&*db, change).await;
    let hook = claim_hook(&*db, "hooked", second(9)).await.expect("it is due");
    let done = HookMove { state: HookState::Done, ..moved_to(&hook, 3) };
    db.move_hook(done).await.expect("it is moved");
    assert_eq!(hook_of(&*db, "hooked").await.0.state, HookState::Done);
    assert_eq!(delete(&*db, Access::All, &["hooked", "cancelling"]).await.runs, 2);
    assert!(db.hook(Access::All, run_id("hooked")).await.expect("read").is_none());
    assert_eq!(ids(&claim(&*db, claim_of("w1", second(9))).await), ["pending"]);
}

pub(super) async fn deleting_runs_leaves_the_line_of_a_session_as_it_is(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    ended(&*db, in_session("r1", "s1", SessionPolicy::Queue)).await;
    let lease = start(&*db, in_session("r2", "s1", SessionPolicy::Queue), "w1").await;
    accept(&*db, in_session("r3", "s1", SessionPolicy::Queue)).await;
    assert_eq!(delete(&*db, Access::All, &["r1", "r2", "r3"]).await.runs, 0);
    finish(&*db, &lease).await;
    assert_eq!(delete(&*db, Access::All, &["r1", "r2"]).await.runs, 0, "the third may read them");
    let claimed = claim(&*db, claim_of("w1", second(9))).await;
    assert_eq!(ids(&claimed), ["r3"]);
    finish(&*db, &claimed.runs[0].1).await;
    assert_eq!(delete(&*db, Access::All, &["r1", "r2", "r3"]).await.runs, 3);
    assert!(steering(&*db, "r3").await.is_empty());
    let lease = start(&*db, in_session("r4", "s1", SessionPolicy::Queue), "w1").await;
    assert_eq!(lease.epoch, 1, "nobody is in front of it");
}

pub(super) async fn someone_elses_run_is_not_deleted(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, _) = spender(&*db, "r1", "s1", "ada").await;
    finish(&*db, &lease).await;
    assert_eq!(sizes(&*db, user("bob"), &["r1"]).await, [None]);
    assert_eq!(delete(&*db, user("bob"), &["r1"]).await, Deleted::default());
    assert!(is_there(&*db, "r1").await);
    assert!(sizes(&*db, user("ada"), &["r1"]).await[0].is_some());
    assert_eq!(delete(&*db, user("ada"), &["r1"]).await.runs, 1);
}

pub(super) async fn one_call_deletes_a_bounded_number_of_runs(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let names: Vec<String> = (0..DELETED_RUNS_MAX + 5).map(|number| format!("r{number:04}")).collect();
    let mut leases = Vec::new();
    for name in &names {
        leases.push(start(&*db, new_run(name), "w1").await);
    }
    finish_all(&db, leases).await;
    let all: Vec<RunId> = names.iter().map(|name| run_id(name)).collect();
    let scope = Some(Arc::from("flow"));
    let first = db.delete_runs(Access::All, all.clone(), scope.clone()).await.expect("a deletion succeeds");
    assert_eq!((first.runs, first.more), (DELETED_RUNS_MAX as u64, true));
    let mut left: Vec<String> = listed(&*db, RunFilter::default()).await.0;
    left.reverse();
    assert_eq!(left, names[DELETED_RUNS_MAX..], "in the order in which they were given");
    let rest = all[DELETED_RUNS_MAX..].to_vec();
    let second_call = db.delete_runs(Access::All, rest, scope).await.expect("a deletion succeeds");
    assert_eq!(second_call.runs, 5);
    let pruned = db.pruned().await.expect("read");
    let sum: u64 = pruned.iter().map(|Pruned { runs, .. }| runs).sum();
    assert_eq!((pruned.len(), sum), (1, DELETED_RUNS_MAX as u64 + 5));
}

pub(super) async fn twins_delete_each_run_once(Stores { one, other, .. }: Stores) {
    register(&*one, "w1").await;
    let names: Vec<String> = (0..40).map(|number| format!("r{number}")).collect();
    let mut leases = Vec::new();
    for name in &names {
        leases.push(start(&*one, new_run(name), "w1").await);
    }
    finish_all(&one, leases).await;
    let all: Vec<RunId> = names.iter().map(|name| run_id(name)).collect();
    let backwards: Vec<RunId> = all.iter().rev().cloned().collect();
    let (here, there) = tokio::join!(
        async {
            let mut runs = 0;
            for some in all.chunks(3) {
                runs += one.delete_runs(Access::All, some.to_vec(), None).await.expect("a deletion succeeds").runs;
            }
            runs
        },
        async {
            let mut runs = 0;
            for some in backwards.chunks(3) {
                runs += other.delete_runs(Access::All, some.to_vec(), None).await.expect("a deletion succeeds").runs;
            }
            runs
        }
    );
    assert_eq!(here + there, 40);
    assert_eq!(counted(&*one, Access::All, RunFilter::default()).await, [0; 6]);
}

pub(super) async fn a_definition_goes_with_the_last_run_that_is_deleted(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let with = |id: &str, hash: &str| NewRun {
        definition: Arc::from(hash),
        structure: Some(Arc::from(format!("structure of {hash}"))),
        ..new_run(id)
    };
    for (id, hash) in [("r1", "old"), ("r2", "new"), ("r3", "old"), ("r4", "new")] {
        ended(&*db, with(id, hash)).await;
    }
    let there = async |hash: &str| db.definition(Arc::from(hash)).await.expect("read").is_some();
    delete(&*db, Access::All, &["r1", "r2"]).await;
    assert!(there("old").await && there("new").await);
    delete(&*db, Access::All, &["r3"]).await;
    assert!(!there("old").await && there("new").await);
    ended(&*db, with("r5", "old")).await;
    assert!(there("old").await);
    delete(&*db, Access::All, &["r4", "r5"]).await;
    assert!(!there("old").await && !there("new").await);
    ended(&*db, with("r6", "new")).await;
    assert!(there("new").await);
}

pub(super) async fn a_session_without_runs_goes_when_it_is_old(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    db.create_session(Access::All, new_session("empty", None)).await.expect("a session is created");
    ended(&*db, in_session("r1", "emptied", SessionPolicy::Queue)).await;
    ended(&*db, in_session("r2", "full", SessionPolicy::Queue)).await;
    accept(&*db, in_session("r3", "open", SessionPolicy::Queue)).await;
    delete(&*db, Access::All, &["r1"]).await;
    let look = async |before| db.delete_idle_sessions(second(before), 0).await.expect("a look succeeds");
    assert_eq!(look(-1_000).await, IdleSessions::default(), "none is so old");
    assert_eq!(look(1_000).await, IdleSessions { deleted: 2, next: None });
    assert_eq!(listed_sessions(&*db, SessionFilter::default()).await.1, 2);
    assert!(db.session(Access::All, session_id("emptied")).await.expect("read").is_none());
    assert_eq!(look(1_000).await.deleted, 0);
    assert!(is_there(&*db, "r2").await && is_there(&*db, "r3").await);

    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..IDLE_SESSIONS_MAX {
        let (db, session) = (db.clone(), new_session(&format!("more-{number}"), None));
        tasks.spawn(async move { db.create_session(Access::All, session).await.expect("a session is created") });
    }
    tasks.join_all().await;
    let first = look(1_000).await;
    let next = first.next.expect("there are more than one look examines");
    assert_eq!(first.deleted, u64::from(IDLE_SESSIONS_MAX) - 2);
    let last = db.delete_idle_sessions(second(1_000), next).await.expect("a look succeeds");
    assert_eq!(last, IdleSessions { deleted: 2, next: None });
}

pub(super) async fn a_turn_is_one_workers_at_a_time(Stores { one, other, .. }: Stores) {
    let turn = |worker: &str, scope: &str, at: i64| Turn {
        scope: Arc::from(scope),
        worker: worker_id(worker),
        length: Duration::from_secs(60),
        at: second(at),
    };
    let takes = async |db: &Arc<dyn Db>, turn: Turn| db.take_turn(turn).await.expect("asking is fine");
    assert!(takes(&one, turn("w1", "", 0)).await);
    assert!(!takes(&other, turn("w2", "", 59)).await);
    assert!(takes(&other, turn("w2", "flow", 59)).await, "it is another's");
    assert!(takes(&one, turn("w1", "", 50)).await, "it is kept");
    assert!(!takes(&other, turn("w2", "", 109)).await);
    assert!(takes(&other, turn("w2", "", 110)).await, "it is over");
    assert!(!takes(&one, turn("w1", "", 111)).await);
    // A clock that was ahead when it was taken keeps nobody out for longer than a turn can be.
    let late = 1_000_000;
    assert!(takes(&other, turn("w2", "", late)).await);
    assert!(takes(&one, turn("w1", "", 200)).await);
    assert!(!takes(&other, turn("w2", "", 201)).await);
    assert!(takes(&other, Turn { length: TURN_MAX, ..turn("w2", "", 300) }).await);
    assert!(!takes(&one, turn("w1", "", 301)).await);
    let (here, there) = tokio::join!(takes(&one, turn("w3", "twins", 1)), takes(&other, turn("w4", "twins", 1)));
    assert!(here != there, "one of them");
}

pub(super) async fn what_is_used_grows_and_shrinks_with_the_runs(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let used = async || db.used_bytes().await.expect("read");
    let before = used().await;
    let input = Some(Arc::from(format!("\"{}\"", "x".repeat(100_000))));
    ended(&*db, NewRun { input, ..new_run("r1") }).await;
    assert!(used().await >= before + 90_000);
    let size = sizes(&*db, Access::All, &["r1"]).await[0].expect("it has ended");
    assert!((100_000..110_000).contains(&size), "{size}");
    delete(&*db, Access::All, &["r1"]).await;
    assert!(used().await < before + 50_000);
}

pub(super) async fn a_deleted_run_takes_no_late_answer_or_commit(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let lease = running(&*db, new_run("r1"), "w1", &["q1"]).await;
    commit(&*db, asking(&lease, vec![a_question("q2", None)])).await;
    commit(&*db, settling(&lease, &["q1", "q2"])).await;
    commit(&*db, becoming(&lease, RunStatus::Completed)).await;
    assert_eq!(delete(&*other, Access::All, &["r1"]).await.runs, 1);
    expect_kind(db.commit(becoming(&lease, RunStatus::Error)).await, DbErrorKind::NotFound);
    let late = db.answer(Access::All, vec![an_answer("q1", "yes", None)], second(9)).await;
    expect_kind(late, DbErrorKind::NotFound);
    let cancel = db.request_cancel(Access::All, run_id("r1"), intent("late")).await;
    expect_kind(cancel, DbErrorKind::NotFound);
    // The id is free again, and nothing from before is found.
    match db.create_run(Access::All, new_run("r1"), None).await {
        Ok(Accepted::New { .. }) => {}
        other => panic!("expected a new run, got {other:?}"),
    }
    assert!(db.read(Access::All, run_id("r1"), 0, 1000).await.expect("log is read").is_empty());
}
