//! What a store must do with batches.

use super::{
    Stores, accept, an_answer, answer, becoming, claim, claim_of, commit, expect_accepted, expect_kind, new_run,
    paused, register, run_id, run_of, second, workflow_id,
};
use outlive_core::port::{
    Accepted, Access, BatchChange, BatchFilter, BatchItem, CancelIntent, Db, DbErrorKind, ITEMS_MAX, ItemFilter, Lease,
    NewBatch, NewItem, NewRun, NewStart, Order, RunFilter, StoredBatch,
};
use outlive_core::{RunId, RunStatus};
use std::sync::Arc;

fn a_batch(id: &str) -> NewBatch {
    NewBatch {
        id: Arc::from(id),
        workflow_id: workflow_id("flow"),
        user_id: None,
        text: Arc::from(format!(r#"{{"of":"{id}"}}"#)),
        at: second(1),
    }
}

fn of(user: &str, new: NewBatch) -> NewBatch {
    NewBatch { user_id: Some(Arc::from(user)), ..new }
}

fn user(id: &str) -> Access {
    Access::User(Arc::from(id))
}

fn item(batch: &str, index: u64, run: &str) -> NewRun {
    let item = BatchItem { batch_id: Arc::from(batch), index };
    let item = Some(Box::new(NewItem { item, replaces: None }));
    NewRun { start: NewStart { item, ..NewStart::default() }, ..new_run(run) }
}

fn again(batch: &str, index: u64, run: &str, replaces: &str) -> NewRun {
    let mut new = item(batch, index, run);
    new.start.item.iter_mut().for_each(|item| item.replaces = Some(run_id(replaces)));
    new
}

/// Ends a run like this.
async fn end(db: &dyn Db, lease: &Lease, status: RunStatus) {
    commit(db, becoming(lease, RunStatus::Running)).await;
    commit(db, becoming(lease, status)).await;
}

async fn create(db: &dyn Db, new: NewBatch) -> StoredBatch {
    db.create_batch(Access::All, new).await.expect("it is created")
}

async fn batch_of(db: &dyn Db, id: &str) -> StoredBatch {
    db.batch(Access::All, Arc::from(id)).await.expect("asking is fine").expect("it is there")
}

async fn change(db: &dyn Db, id: &str, change: BatchChange) -> StoredBatch {
    let changed = db.change_batch(Access::All, Arc::from(id), change, second(9)).await;
    changed.expect("asking is fine").expect("it is there")
}

/// The items with their runs, and where the list goes on.
async fn items(db: &dyn Db, id: &str, filter: ItemFilter) -> (Vec<(u64, String)>, Option<u64>) {
    let page = db.batch_items(Access::All, Arc::from(id), filter).await.expect("a list is read");
    (page.items.iter().map(|(index, run)| (*index, run.info.run_id.to_string())).collect(), page.next)
}

fn of_runs(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(index, run)| (*index, (*run).to_owned())).collect()
}

pub(super) async fn a_batch_is_stored_as_it_was_given(Stores { one: db, other, .. }: Stores) {
    let new = of("ada", a_batch("b1"));
    let stored = create(&*db, new.clone()).await;
    let expected = StoredBatch {
        id: new.id.clone(),
        workflow_id: new.workflow_id.clone(),
        user_id: new.user_id.clone(),
        text: new.text.clone(),
        items: None,
        cancelled_at: None,
        created_at: second(1),
        updated_at: second(1),
        counts: Default::default(),
    };
    assert_eq!(stored, expected);
    assert_eq!(batch_of(&*other, "b1").await, expected);
    // The same again is the one that is there; another is none.
    assert_eq!(create(&*other, NewBatch { at: second(5), ..new.clone() }).await, expected);
    for another in [
        NewBatch { text: Arc::from("{}"), ..new.clone() },
        NewBatch { workflow_id: workflow_id("other"), ..new.clone() },
        NewBatch { user_id: None, ..new.clone() },
    ] {
        expect_kind(db.create_batch(Access::All, another).await, DbErrorKind::Conflict);
    }
    assert!(db.batch(Access::All, Arc::from("b2")).await.expect("asking is fine").is_none());
    assert_eq!(items(&*db, "b2", ItemFilter::default()).await, (Vec::new(), None));
}

pub(super) async fn a_batch_is_its_users(Stores { one: db, .. }: Stores) {
    create(&*db, of("ada", a_batch("b1"))).await;
    expect_kind(db.create_batch(user("bob"), of("ada", a_batch("b2"))).await, DbErrorKind::NotFound);
    expect_kind(db.create_batch(user("bob"), a_batch("b2")).await, DbErrorKind::NotFound);
    // Whoever may not see it hears only that the id is taken.
    expect_kind(db.create_batch(user("bob"), of("bob", a_batch("b1"))).await, DbErrorKind::Conflict);
    let (id, cancel) = (|| Arc::<str>::from("b1"), CancelIntent { at: second(2), reason: Arc::from("no") });
    assert!(db.batch(user("bob"), id()).await.expect("asking is fine").is_none());
    assert!(
        db.change_batch(user("bob"), id(), BatchChange::Cancel, second(2)).await.expect("asking is fine").is_none()
    );
    assert!(db.batches(user("bob"), BatchFilter::default()).await.expect("a list is read").batches.is_empty());
    let page = db.batch_items(user("bob"), id(), ItemFilter::default()).await.expect("a list is read");
    assert!(page.items.is_empty());
    assert_eq!(db.cancel_items(user("bob"), id(), 0, 10, cancel).await.expect("asking is fine"), None);
    // Nor does a run of somebody else come into it.
    expect_kind(db.create_run(Access::All, item("b1", 0, "r1"), None).await, DbErrorKind::NotFound);
    assert_eq!(batch_of(&*db, "b1").await.accepted(), 0);
    assert!(db.batch(user("ada"), id()).await.expect("asking is fine").is_some());
}

pub(super) async fn batches_are_listed_newest_first_a_page_at_a_time(Stores { one: db, other, .. }: Stores) {
    for number in 0..5 {
        let new =
            NewBatch { workflow_id: workflow_id(["flow", "other"][number % 2]), ..a_batch(&format!("b{number}")) };
        create(&*db, if number == 4 { of("ada", new) } else { new }).await;
    }
    let listed = async |access: Access, workflow: Option<&str>| {
        let mut filter = BatchFilter { workflow_id: workflow.map(workflow_id), limit: 2, ..BatchFilter::default() };
        let mut found = Vec::new();
        loop {
            let page = other.batches(access.clone(), filter.clone()).await.expect("a list is read");
            found.extend(page.batches.iter().map(|batch| batch.id.to_string()));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return found.join(" "),
            }
        }
    };
    assert_eq!(listed(Access::All, None).await, "b4 b3 b2 b1 b0");
    assert_eq!(listed(Access::All, Some("flow")).await, "b4 b2 b0");
    assert_eq!(listed(user("ada"), None).await, "b4");
    assert_eq!(listed(user("ada"), Some("other")).await, "");
    let filter = BatchFilter { after: Some("nowhere".to_owned()), ..BatchFilter::default() };
    expect_kind(db.batches(Access::All, filter).await, DbErrorKind::Storage);
}

pub(super) async fn an_item_of_a_batch_has_one_run(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_batch("b1")).await;
    accept(&*db, item("b1", 0, "r1")).await;
    accept(&*other, item("b1", 2, "r2")).await;
    // Taken, and by nobody else's run.
    expect_kind(other.create_run(Access::All, item("b1", 0, "r3"), None).await, DbErrorKind::Conflict);
    expect_kind(db.create_run(Access::All, item("b2", 0, "r3"), None).await, DbErrorKind::NotFound);
    let elsewhere = item("b1", 1, "r3");
    let info = outlive_core::RunInfo { workflow_id: workflow_id("other"), ..elsewhere.info.clone() };
    expect_kind(db.create_run(Access::All, NewRun { info, ..elsewhere }, None).await, DbErrorKind::NotFound);
    expect_kind(db.create_run(Access::All, item("b1", ITEMS_MAX, "r3"), None).await, DbErrorKind::Conflict);
    assert!(db.run(Access::All, run_id("r3")).await.expect("asking is fine").is_none(), "nothing was accepted");
    // The same request again is the same run.
    let key = |new: NewRun| NewRun { idempotency_key: Some(Arc::from("k")), ..new };
    accept(&*db, key(item("b1", 1, "r4"))).await;
    let same = NewRun { fingerprint: key(item("b1", 1, "r4")).fingerprint, ..key(item("b1", 1, "r5")) };
    let repeated = other.create_run(Access::All, same, None).await.expect("it is the same");
    assert!(matches!(repeated, Accepted::Existing(id) if id == run_id("r4")));
    let all = items(&*other, "b1", ItemFilter::default()).await;
    assert_eq!(all, (of_runs(&[(0, "r1"), (1, "r4"), (2, "r2")]), None), "in the order of the items");
    assert_eq!(batch_of(&*db, "b1").await.accepted(), 3);
    let filter =
        |order| RunFilter { batch_id: Some(Arc::from("b1")), order, with_counts: true, ..RunFilter::default() };
    let page = db.runs(Access::All, filter(Order::OldestFirst)).await.expect("a list is read");
    let ids: Vec<_> = page.runs.iter().map(|run| run.info.run_id.to_string()).collect();
    assert_eq!(ids.join(" "), "r1 r2 r4", "in the order of acceptance");
    assert_eq!(page.counts.expect("asked for").by_status, [(RunStatus::Pending, 3)]);
    accept(&*db, new_run("r6")).await;
    let nobodys = RunFilter { batch_id: Some(Arc::from("b2")), ..RunFilter::default() };
    assert!(db.runs(Access::All, nobodys).await.expect("a list is read").runs.is_empty());
    let newest = db.runs(Access::All, filter(Order::NewestFirst)).await.expect("a list is read");
    assert_eq!(newest.runs.first().map(|run| run.info.run_id.to_string()).as_deref(), Some("r4"));
}

pub(super) async fn a_batch_is_complete_once_all_its_items_are_there(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_batch("b1")).await;
    accept(&*db, item("b1", 0, "r1")).await;
    accept(&*db, item("b1", 2, "r2")).await;
    let complete =
        async |items| other.change_batch(Access::All, Arc::from("b1"), BatchChange::Complete(items), second(9)).await;
    for wrong in [1, 2, 3, 4] {
        expect_kind(complete(wrong).await, DbErrorKind::Conflict);
    }
    accept(&*db, item("b1", 1, "r3")).await;
    expect_kind(complete(2).await, DbErrorKind::Conflict);
    expect_kind(complete(4).await, DbErrorKind::Conflict);
    let batch = complete(3).await.expect("it has three").expect("it is there");
    assert_eq!((batch.items, batch.updated_at), (Some(3), second(9)));
    // Once more is harmless.
    assert_eq!(change(&*db, "b1", BatchChange::Complete(3)).await.items, Some(3));
    expect_kind(complete(4).await, DbErrorKind::Conflict);
    expect_kind(db.create_run(Access::All, item("b1", 3, "r4"), None).await, DbErrorKind::Conflict);
    create(&*db, a_batch("b2")).await;
    assert_eq!(change(&*db, "b2", BatchChange::Complete(0)).await.items, Some(0), "it may have none");
    let gone = db.change_batch(Access::All, Arc::from("b3"), BatchChange::Complete(0), second(9)).await;
    assert!(gone.expect("asking is fine").is_none());
}

pub(super) async fn a_batch_counts_its_runs_whatever_becomes_of_them(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_batch("b1")).await;
    for index in 0..6 {
        accept(&*db, item("b1", index, &format!("r{index}"))).await;
    }
    accept(&*db, new_run("beside")).await;
    let counts =
        async || other.batch(Access::All, Arc::from("b1")).await.expect("asking is fine").expect("there").counts;
    assert_eq!(counts().await, [6, 0, 0, 0, 0, 0]);
    register(&*db, "w1").await;
    let claimed = claim(&*db, claim_of("w1", second(2))).await;
    let is_item = |lease: &&Lease| lease.run_id != run_id("beside");
    let leases: Vec<Lease> = claimed.runs.into_iter().map(|(_, lease)| lease).collect();
    let leases: Vec<&Lease> = leases.iter().filter(is_item).collect();
    for lease in &leases {
        commit(&*db, becoming(lease, RunStatus::Running)).await;
    }
    assert_eq!(counts().await, [0, 6, 0, 0, 0, 0]);
    let ends = [RunStatus::Cancelled, RunStatus::Completed, RunStatus::Error, RunStatus::Error];
    for (lease, status) in leases.iter().zip(ends) {
        commit(&*db, becoming(lease, status)).await;
    }
    assert_eq!(counts().await, [0, 2, 0, 1, 1, 2], "{:?}", RunStatus::ALL);
    // One that waits for people, and goes on with their answer.
    paused(&*db, item("b1", 6, "r6"), "w1", &["q1"]).await;
    assert_eq!(counts().await, [0, 2, 1, 1, 1, 2]);
    expect_accepted(answer(&*other, vec![an_answer("q1", "yes", None)], second(6)).await);
    assert_eq!(counts().await, [0, 3, 0, 1, 1, 2]);
    let failed = ItemFilter { statuses: vec![RunStatus::Error], ..ItemFilter::default() };
    assert_eq!(items(&*db, "b1", failed.clone()).await, (of_runs(&[(2, "r2"), (3, "r3")]), None));
    assert_eq!(items(&*db, "b1", ItemFilter { limit: 1, ..failed.clone() }).await, (of_runs(&[(2, "r2")]), Some(3)));
    assert_eq!(items(&*db, "b1", ItemFilter { from: 3, limit: 1, ..failed }).await, (of_runs(&[(3, "r3")]), None));
    // A deleted run is no item any more.
    let session = run_of(&*db, "r2").await.info.session_id;
    db.delete_sessions(Access::All, vec![session], false).await.expect("it is deleted");
    assert_eq!(counts().await, [0, 3, 0, 1, 1, 1]);
}

pub(super) async fn an_item_that_is_tried_again_has_the_new_run(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_batch("b1")).await;
    accept(&*db, item("b1", 0, "r0")).await;
    accept(&*db, item("b1", 1, "r1")).await;
    change(&*db, "b1", BatchChange::Complete(2)).await;
    // One that has not ended keeps its place.
    expect_kind(db.create_run(Access::All, again("b1", 1, "r2", "r1"), None).await, DbErrorKind::Conflict);
    register(&*db, "w1").await;
    for (run, lease) in &claim(&*db, claim_of("w1", second(2))).await.runs {
        let status = if run.info.run_id == run_id("r0") { RunStatus::Completed } else { RunStatus::Error };
        end(&*db, lease, status).await;
    }
    assert_eq!(batch_of(&*db, "b1").await.counts, [0, 0, 0, 1, 0, 1]);
    accept(&*other, again("b1", 1, "r2", "r1")).await;
    assert_eq!(batch_of(&*db, "b1").await.counts, [1, 0, 0, 1, 0, 0]);
    assert_eq!(items(&*db, "b1", ItemFilter::default()).await.0, of_runs(&[(0, "r0"), (1, "r2")]));
    // The one before is a run like any other now, and is not tried again in the batch's name.
    assert_eq!(run_of(&*db, "r1").await.status, RunStatus::Error);
    expect_kind(db.create_run(Access::All, again("b1", 1, "r3", "r1"), None).await, DbErrorKind::Conflict);
    expect_kind(db.create_run(Access::All, again("b1", 7, "r3", "r1"), None).await, DbErrorKind::Conflict);
    assert_eq!(batch_of(&*other, "b1").await.counts, [1, 0, 0, 1, 0, 0]);
    // Where the batch is gone, it is tried again alone.
    accept(&*db, again("gone", 0, "r4", "r1")).await;
    let filter = RunFilter { batch_id: Some(Arc::from("b1")), ..RunFilter::default() };
    assert_eq!(db.runs(Access::All, filter).await.expect("a list is read").runs.len(), 2);
}

pub(super) async fn a_batch_that_is_cancelled_asks_its_runs_to_end(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_batch("b1")).await;
    for index in 0..5 {
        accept(&*db, item("b1", index, &format!("r{index}"))).await;
    }
    accept(&*db, new_run("beside")).await;
    register(&*db, "w1").await;
    let two = outlive_core::port::Claim { limit: 2, ..claim_of("w1", second(2)) };
    let runs = claim(&*db, two).await.runs;
    end(&*db, &runs[0].1, RunStatus::Completed).await;
    let cancelled = change(&*db, "b1", BatchChange::Cancel).await;
    assert_eq!((cancelled.cancelled_at, cancelled.items), (Some(second(9)), None));
    expect_kind(other.create_run(Access::All, item("b1", 5, "r5"), None).await, DbErrorKind::Conflict);
    let cancel = |reason: &str| CancelIntent { at: second(9), reason: Arc::from(reason) };
    let some =
        async |from| other.cancel_items(Access::All, Arc::from("b1"), from, 2, cancel("enough")).await.expect("fine");
    assert_eq!(some(0).await, Some(3), "two at a time, and those that have ended are passed over");
    assert_eq!(some(3).await, None);
    for (id, is_asked) in [("r0", false), ("r1", true), ("r2", true), ("r3", true), ("r4", true), ("beside", false)] {
        assert_eq!(run_of(&*db, id).await.cancel, is_asked.then(|| cancel("enough")), "{id}");
    }
    let held = db.cancels(super::worker_id("w1")).await.expect("asking is fine");
    assert_eq!(held.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), ["r1"], "its holder hears of it");
    let free = claim(&*db, claim_of("w1", second(10))).await.runs;
    assert_eq!(free.len(), 4, "the others are there to be ended, and the one beside");
    // What was cancelled may be tried again.
    let (_, lease) = free.iter().find(|(run, _)| run.info.run_id == run_id("r2")).expect("it was claimed");
    end(&*db, lease, RunStatus::Cancelled).await;
    accept(&*db, again("b1", 2, "r6", "r2")).await;
    assert_eq!(run_of(&*db, "r6").await.cancel, None);
}

/// Deletes what can be; says how many that were, and that the sizes said so.
async fn delete(db: &dyn Db, runs: &[&str]) -> u64 {
    let ids: Vec<RunId> = runs.iter().map(|id| run_id(id)).collect();
    let sizes = db.run_sizes(Access::All, ids.clone()).await.expect("sizes are read");
    let deleted = db.delete_runs(Access::All, ids, None).await.expect("a deletion succeeds").runs;
    assert_eq!(sizes.iter().flatten().count() as u64, deleted, "a preview says what happens");
    deleted
}

async fn is_there(db: &dyn Db, id: &str) -> bool {
    db.batch(Access::All, Arc::from(id)).await.expect("asking is fine").is_some()
}

/// A batch of three whose first has completed, whose second has failed, and whose third executes.
async fn with_three(db: &dyn Db) -> Lease {
    register(db, "w1").await;
    create(db, a_batch("b1")).await;
    for index in 0..3 {
        accept(db, item("b1", index, &format!("r{index}"))).await;
    }
    let mut leases: Vec<Lease> =
        claim(db, claim_of("w1", second(2))).await.runs.into_iter().map(|(_, lease)| lease).collect();
    end(db, &leases[0], RunStatus::Completed).await;
    end(db, &leases[1], RunStatus::Error).await;
    commit(db, becoming(&leases[2], RunStatus::Running)).await;
    leases.remove(2)
}

pub(super) async fn items_stay_until_no_item_of_their_batch_is_unfinished(Stores { one: db, other, .. }: Stores) {
    let third = with_three(&*db).await;
    let all = ["r0", "r1", "r2", "r3"];
    assert_eq!(delete(&*other, &all).await, 0, "more items may come, and one executes");
    commit(&*db, becoming(&third, RunStatus::Completed)).await;
    assert_eq!(delete(&*other, &all).await, 0, "more items may come");
    change(&*db, "b1", BatchChange::Complete(3)).await;
    // An item that is tried again is unfinished; the run before is none of the batch any more. In the transaction in which
    // it comes, and later.
    let ids = || ["r0", "r2"].map(run_id).to_vec();
    let ((), deleted) =
        tokio::join!(accept(&*db, again("b1", 1, "r3", "r1")), db.delete_runs(Access::All, ids(), None));
    assert_eq!(deleted.expect("a deletion succeeds").runs, 0);
    assert_eq!(delete(&*other, &["r0", "r2", "r3"]).await, 0);
    assert_eq!(delete(&*other, &["r1"]).await, 1);
    let (_, lease) = claim(&*db, claim_of("w1", second(3))).await.runs.remove(0);
    commit(&*db, becoming(&lease, RunStatus::Running)).await;
    assert_eq!(delete(&*other, &all).await, 0);
    commit(&*db, becoming(&lease, RunStatus::Completed)).await;
    // In the transaction in which the last of them ends, or later.
    assert_eq!(delete(&*other, &["r0"]).await, 1);
    let batch = batch_of(&*db, "b1").await;
    assert_eq!((batch.items, batch.counts), (Some(3), [0, 0, 0, 2, 0, 0]));
    assert_eq!(items(&*db, "b1", ItemFilter::default()).await.0, of_runs(&[(1, "r3"), (2, "r2")]));
    // A deleted item is not executed a second time because somebody gives the same inputs again.
    expect_kind(db.create_run(Access::All, item("b1", 0, "r4"), None).await, DbErrorKind::Conflict);
    assert_eq!(change(&*db, "b1", BatchChange::Complete(3)).await.items, Some(3));
    // One that waits for a person stays, and so do its neighbours.
    create(&*db, a_batch("b2")).await;
    accept(&*db, item("b2", 0, "p0")).await;
    let (_, lease) = claim(&*db, claim_of("w1", second(4))).await.runs.remove(0);
    end(&*db, &lease, RunStatus::Completed).await;
    paused(&*db, item("b2", 1, "p1"), "w1", &["q1"]).await;
    change(&*db, "b2", BatchChange::Complete(2)).await;
    assert_eq!(delete(&*db, &["p0", "p1"]).await, 0);
}

pub(super) async fn a_batch_goes_with_its_last_run(Stores { one: db, other, .. }: Stores) {
    let third = with_three(&*db).await;
    commit(&*db, becoming(&third, RunStatus::Cancelled)).await;
    change(&*db, "b1", BatchChange::Complete(3)).await;
    assert_eq!(delete(&*db, &["r0", "r2"]).await, 2);
    assert_eq!(batch_of(&*other, "b1").await.counts, [0, 0, 0, 0, 0, 1]);
    let last = other.delete_runs(Access::All, vec![run_id("r1")], None).await.expect("a deletion succeeds");
    assert_eq!((last.runs, last.batches), (1, 1));
    assert!(!is_there(&*db, "b1").await);
    assert!(db.batches(Access::All, BatchFilter::default()).await.expect("a list is read").batches.is_empty());
    // Its id and its number are free, and nothing is left under them.
    let anew = NewBatch { text: Arc::from("{}"), ..a_batch("b1") };
    assert_eq!(create(&*other, anew).await.counts, [0; 6]);
    accept(&*db, item("b1", 0, "r0")).await;
    assert_eq!(batch_of(&*db, "b1").await.counts, [1, 0, 0, 0, 0, 0]);
    // With the sessions of its items, too; but not while more may come.
    let delete_session = async |run: &str| {
        let session = run_of(&*db, run).await.info.session_id;
        db.delete_sessions(Access::All, vec![session], true).await.expect("it is deleted");
    };
    delete_session("r0").await;
    assert_eq!(batch_of(&*db, "b1").await.counts, [0; 6], "it still takes items");
    for index in 0..2 {
        accept(&*db, item("b1", index, &format!("s{index}"))).await;
    }
    change(&*db, "b1", BatchChange::Cancel).await;
    delete_session("s0").await;
    assert_eq!(batch_of(&*other, "b1").await.accepted(), 1);
    delete_session("s1").await;
    assert!(!is_there(&*other, "b1").await);
}

pub(super) async fn a_batch_without_runs_is_deleted_by_its_id(Stores { one: db, other, .. }: Stores) {
    for id in ["empty", "waiting", "used"] {
        create(&*db, of("ada", a_batch(id))).await;
    }
    change(&*db, "empty", BatchChange::Complete(0)).await;
    let mut of_ada = item("used", 0, "r0");
    of_ada.info.user_id = Some(Arc::from("ada"));
    accept(&*db, of_ada).await;
    let some = async |access: Access, before| {
        let ids = ["empty", "waiting", "used", "unknown", "empty"].map(Arc::from).to_vec();
        other.delete_batches(access, ids, second(before)).await.expect("a deletion succeeds")
    };
    assert_eq!(some(Access::All, 1).await, 0, "none is older");
    assert_eq!(some(user("bob"), 99).await, 0, "they are somebody else's");
    assert_eq!(some(user("ada"), 9).await, 1, "the one that has waited since the first second");
    assert_eq!(some(Access::All, 10).await, 1, "the one that was completed in the ninth");
    assert_eq!(some(Access::All, 99).await, 0);
    for (id, expected) in [("empty", false), ("waiting", false), ("used", true)] {
        assert_eq!(is_there(&*db, id).await, expected, "{id}");
    }
}
