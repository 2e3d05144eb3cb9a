//! What a store must do with schedules.

use super::{
    Stores, accept, claim, claim_of, expect_kind, finish, ids, new_run, register, run_id, second, start, worker_id,
    workflow_id,
};
use outlive_core::Timestamp;
use outlive_core::port::{
    Accepted, Access, Claim, Claimed, Db, DbErrorKind, NewRun, NewSchedule, NewStart, NewTick, ScheduleChange,
    ScheduleFilter, SessionPolicy, StoredSchedule, TICKS_MAX, TickOutcome,
};
use std::sync::Arc;

fn a_schedule(id: &str, next_due: i64) -> NewSchedule {
    NewSchedule {
        id: Arc::from(id),
        name: Arc::from(format!("name-of-{id}")),
        workflow_id: workflow_id("flow"),
        user_id: None,
        text: Arc::from(format!(r#"{{"of":"{id}"}}"#)),
        source: None,
        next_due: second(next_due),
        replaces: false,
        at: second(1),
    }
}

fn of(user: &str, new: NewSchedule) -> NewSchedule {
    NewSchedule { user_id: Some(Arc::from(user)), ..new }
}

fn user(id: &str) -> Access {
    Access::User(Arc::from(id))
}

fn a_tick(id: &str, expected: i64, next_due: i64) -> NewTick {
    NewTick {
        schedule_id: Arc::from(id),
        expected: Some(second(expected)),
        next_due: second(next_due),
        due_at: second(expected),
        outcome: TickOutcome::Ran,
        note: None,
    }
}

fn ticking(run: &str, tick: NewTick) -> NewRun {
    NewRun { start: NewStart { tick: Some(Box::new(tick)), ..NewStart::default() }, ..new_run(run) }
}

async fn create(db: &dyn Db, new: NewSchedule) -> StoredSchedule {
    db.create_schedule(Access::All, new).await.expect("it is created")
}

async fn schedule_of(db: &dyn Db, id: &str) -> StoredSchedule {
    db.schedule(Access::All, Arc::from(id)).await.expect("asking is fine").expect("it is there")
}

async fn listed(db: &dyn Db, access: Access, filter: ScheduleFilter) -> (Vec<String>, Option<String>) {
    let page = db.schedules(access, filter).await.expect("a list is read");
    (page.schedules.iter().map(|schedule| schedule.id.to_string()).collect(), page.next)
}

/// The times that were taken, newest first: when, and what came of it.
async fn taken(db: &dyn Db, id: &str) -> Vec<(Timestamp, TickOutcome, Option<String>)> {
    let ticks = db.ticks(Access::All, Arc::from(id), None, TICKS_MAX).await.expect("ticks are read");
    ticks.iter().map(|tick| (tick.due_at, tick.outcome, tick.run_id.as_ref().map(ToString::to_string))).collect()
}

fn told(claimed: &Claimed) -> Vec<&str> {
    claimed.schedules.iter().map(|schedule| &*schedule.id).collect()
}

pub(super) async fn a_schedule_is_stored_as_it_was_given(Stores { one: db, other, .. }: Stores) {
    let new = of("ada", a_schedule("c1", 10));
    let stored = create(&*db, new.clone()).await;
    let expected = StoredSchedule {
        id: new.id,
        name: new.name,
        workflow_id: new.workflow_id,
        user_id: new.user_id,
        text: new.text,
        source: None,
        next_due: Some(second(10)),
        last_due: None,
        last_run: None,
        runs: 0,
        created_at: second(1),
        updated_at: second(1),
    };
    assert_eq!(stored, expected);
    assert_eq!(schedule_of(&*other, "c1").await, expected);
    assert!(db.schedule(Access::All, Arc::from("c2")).await.expect("asking is fine").is_none());
    assert!(taken(&*other, "c1").await.is_empty());
}

pub(super) async fn a_schedules_name_is_its_users_once(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_schedule("c1", 10)).await;
    let named = |id: &str, text: &str| NewSchedule {
        id: Arc::from(id),
        text: Arc::from(text),
        at: second(5),
        ..a_schedule("c1", 20)
    };
    // The same again is the one that is there.
    let same = create(&*other, named("c2", r#"{"of":"c1"}"#)).await;
    assert_eq!((&*same.id, same.next_due), ("c1", Some(second(10))));
    expect_kind(db.create_schedule(Access::All, named("c2", "{}")).await, DbErrorKind::Conflict);
    let elsewhere = NewSchedule { workflow_id: workflow_id("other"), ..named("c2", r#"{"of":"c1"}"#) };
    expect_kind(db.create_schedule(Access::All, elsewhere).await, DbErrorKind::Conflict);
    // Others may have the name, and so may what follows a deleted one.
    create(&*db, of("ada", named("c3", "{}"))).await;
    create(&*db, of("bob", named("c4", "{}"))).await;
    // One that is replaced keeps its id and whether it is paused.
    let replaced = create(&*db, NewSchedule { replaces: true, ..named("c5", "{}") }).await;
    assert_eq!((&*replaced.id, &*replaced.text, replaced.next_due), ("c1", "{}", Some(second(20))));
    assert_eq!((replaced.created_at, replaced.updated_at), (second(1), second(5)));
    let pause = db.change_schedule(Access::All, Arc::from("c1"), ScheduleChange::Pause, second(6)).await;
    assert_eq!(pause.expect("asking is fine").expect("it is there").next_due, None);
    let replaced = create(&*db, NewSchedule { replaces: true, ..named("c5", "[]") }).await;
    assert_eq!((&*replaced.id, &*replaced.text, replaced.next_due), ("c1", "[]", None));
    assert!(db.delete_schedule(Access::All, Arc::from("c1")).await.expect("asking is fine"));
    assert_eq!(&*create(&*db, named("c6", "{}")).await.id, "c6");
    assert_eq!(&*create(&*db, NewSchedule { replaces: true, ..a_schedule("c7", 10) }).await.id, "c7", "none had it");
}

pub(super) async fn a_declared_schedules_name_is_its_workflows_once(Stores { one: db, other, .. }: Stores) {
    let named = |id: &str, workflow: &str, source: Option<&str>| NewSchedule {
        name: Arc::from("daily"),
        workflow_id: workflow_id(workflow),
        source: source.map(Arc::from),
        text: Arc::from("{}"),
        replaces: true,
        ..a_schedule(id, 10)
    };
    create(&*db, named("made", "flow", None)).await;
    create(&*other, named("c1", "flow", Some("a.yaml"))).await;
    create(&*db, named("c2", "other", Some("b.yaml"))).await;
    assert_eq!(listed(&*db, Access::All, ScheduleFilter::default()).await.0, ["made", "c1", "c2"]);
    // A file may be moved.
    let moved = create(&*other, NewSchedule { at: second(7), ..named("c3", "flow", Some("c.yaml")) }).await;
    assert_eq!((&*moved.id, moved.source.as_deref(), moved.updated_at), ("c1", Some("c.yaml"), second(7)));
    let made = create(&*db, NewSchedule { text: Arc::from("[]"), ..named("c4", "other", None) }).await;
    assert_eq!((&*made.id, made.source, made.workflow_id), ("made", None, workflow_id("other")));
    assert_eq!(schedule_of(&*db, "c1").await, moved, "what somebody makes is another one");
    assert_eq!(schedule_of(&*db, "c2").await.source.as_deref(), Some("b.yaml"));
}

pub(super) async fn schedules_are_listed_by_creation(Stores { one: db, other, .. }: Stores) {
    for (number, user_id) in [None, Some("ada"), Some("bob"), Some("ada"), None].into_iter().enumerate() {
        let new = a_schedule(&format!("c{number}"), 10);
        let workflow = if number == 3 { "other" } else { "flow" };
        create(&*db, NewSchedule { user_id: user_id.map(Arc::from), workflow_id: workflow_id(workflow), ..new }).await;
    }
    let all = ScheduleFilter::default();
    assert_eq!(listed(&*other, Access::All, all.clone()).await.0, ["c0", "c1", "c2", "c3", "c4"]);
    assert_eq!(listed(&*db, user("ada"), all.clone()).await.0, ["c1", "c3"]);
    let of_flow = ScheduleFilter { workflow_id: Some(workflow_id("flow")), ..all.clone() };
    assert_eq!(listed(&*db, Access::All, of_flow.clone()).await.0, ["c0", "c1", "c2", "c4"]);
    assert_eq!(listed(&*db, user("ada"), of_flow).await.0, ["c1"]);
    let named = ScheduleFilter { name: Some(Arc::from("name-of-c3")), ..all.clone() };
    assert_eq!(listed(&*db, Access::All, named.clone()).await.0, ["c3"]);
    assert_eq!(listed(&*db, user("bob"), named).await.0, Vec::<String>::new());
    let (first, next) = listed(&*db, Access::All, ScheduleFilter { limit: 3, ..all.clone() }).await;
    assert_eq!(first, ["c0", "c1", "c2"]);
    let (rest, next) = listed(&*db, Access::All, ScheduleFilter { after: next, limit: 2, ..all.clone() }).await;
    assert_eq!((rest, next), (vec!["c3".to_owned(), "c4".to_owned()], None));
    let bad = ScheduleFilter { after: Some("x".to_owned()), ..all };
    expect_kind(db.schedules(Access::All, bad).await, DbErrorKind::Storage);
}

pub(super) async fn a_claim_tells_which_schedules_are_due(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    assert_eq!(claim(&*db, claim_of("w1", second(5))).await.next_due, None);
    create(&*db, a_schedule("late", 20)).await;
    create(&*db, a_schedule("soon", 10)).await;
    create(&*other, NewSchedule { workflow_id: workflow_id("other"), ..a_schedule("strange", 6) }).await;
    let before = claim(&*db, claim_of("w1", second(9))).await;
    assert_eq!((told(&before), before.next_due), (vec![], Some(second(10))));
    let at = claim(&*db, claim_of("w1", second(10))).await;
    assert_eq!((told(&at), at.next_due), (vec!["soon"], Some(second(20))));
    assert_eq!(at.schedules, [schedule_of(&*db, "soon").await]);
    // Until somebody takes its time, also while there is room for no run.
    let after = claim(&*db, Claim { limit: 0, ..claim_of("w1", second(25)) }).await;
    assert_eq!((told(&after), after.next_due, after.more), (vec!["soon", "late"], None, false));
    // A schedule and a run that begins later: whichever is first.
    let due_at = Some(second(30));
    accept(&*db, NewRun { start: NewStart { due_at, ..NewStart::default() }, ..new_run("r1") }).await;
    db.tick(a_tick("soon", 10, 40), second(26)).await.expect("it is due");
    db.tick(a_tick("late", 20, 50), second(26)).await.expect("it is due");
    assert_eq!(claim(&*db, claim_of("w1", second(27))).await.next_due, due_at);
    let run = claim(&*db, claim_of("w1", second(31))).await;
    assert_eq!((ids(&run), run.next_due), (vec!["r1"], Some(second(40))));
}

pub(super) async fn a_claim_tells_a_bounded_number_of_schedules(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    for number in 0..300 {
        create(&*db, a_schedule(&format!("c{number}"), 300 - number)).await;
    }
    let first = claim(&*db, claim_of("w1", second(301))).await;
    assert!(first.more && first.schedules.len() < 300 && first.schedules.len() >= 100);
    assert_eq!(&*first.schedules[0].id, "c299", "the longest due first");
    for schedule in &first.schedules {
        let due_at = schedule.next_due.expect("it is due").as_micros() / 1_000_000 - second(0).as_micros() / 1_000_000;
        db.tick(a_tick(&schedule.id, due_at, 1_000), second(301)).await.expect("it is due");
    }
    let rest = claim(&*db, claim_of("w1", second(301))).await;
    assert_eq!((rest.more, rest.schedules.len()), (false, 300 - first.schedules.len()));
}

pub(super) async fn a_schedules_time_is_taken_once_with_its_run(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    create(&*db, a_schedule("c1", 10)).await;
    let at = |run: &str, expected, next| NewRun { at: second(12), ..ticking(run, a_tick("c1", expected, next)) };
    let lease = start(&*db, at("r1", 10, 20), "w1").await;
    // Whoever is later has made no run.
    expect_kind(other.create_run(Access::All, at("r2", 10, 20), None).await, DbErrorKind::Fenced);
    expect_kind(other.tick(a_tick("c1", 10, 20), second(13)).await, DbErrorKind::Fenced);
    assert!(db.run(Access::All, run_id("r2")).await.expect("asking is fine").is_none());
    let stored = schedule_of(&*other, "c1").await;
    assert_eq!((stored.next_due, stored.last_due), (Some(second(20)), Some(second(10))));
    assert_eq!((stored.last_run, stored.runs), (Some(run_id("r1")), 1));
    assert_eq!(stored.updated_at, second(1), "nobody has changed it");
    assert_eq!(taken(&*db, "c1").await, [(second(10), TickOutcome::Ran, Some("r1".to_owned()))]);
    // A run that is refused takes no time.
    let session_id = new_run("r1").info.session_id;
    let mut refused = NewRun { policy: SessionPolicy::Reject, ..at("r3", 20, 30) };
    refused.info.session_id = session_id;
    expect_kind(db.create_run(Access::All, refused, None).await, DbErrorKind::SessionBusy);
    assert_eq!(schedule_of(&*db, "c1").await.next_due, Some(second(20)));
    // A run that is there already does.
    let keyed = |run: &str, expected| NewRun {
        idempotency_key: Some(Arc::from("key")),
        fingerprint: Arc::from("same"),
        ..at(run, expected, expected + 10)
    };
    accept(&*db, NewRun { start: NewStart::default(), ..keyed("r4", 20) }).await;
    let again = other.create_run(Access::All, keyed("r5", 20), None).await.expect("it is there");
    assert!(matches!(again, Accepted::Existing(found) if found == run_id("r4")));
    let stored = schedule_of(&*db, "c1").await;
    assert_eq!((stored.next_due, stored.last_run, stored.runs), (Some(second(30)), Some(run_id("r4")), 2));
    // Without a run.
    let missed = NewTick { outcome: TickOutcome::Missed, note: Some(Arc::from("why")), ..a_tick("c1", 30, 40) };
    db.tick(missed, second(33)).await.expect("it is due");
    let newest = db.ticks(Access::All, Arc::from("c1"), None, 1).await.expect("ticks are read");
    assert_eq!((newest[0].outcome, newest[0].note.as_deref()), (TickOutcome::Missed, Some("why")));
    assert_eq!((newest[0].due_at, newest[0].at, newest[0].run_id.clone()), (second(30), second(33), None));
    let earlier = db.ticks(Access::All, Arc::from("c1"), Some(second(30)), 10).await.expect("ticks are read");
    assert_eq!(earlier.iter().map(|tick| tick.due_at).collect::<Vec<_>>(), [second(20), second(10)]);
    let stored = schedule_of(&*db, "c1").await;
    assert_eq!((stored.last_run, stored.runs), (Some(run_id("r4")), 2));
    // A run that somebody asks for moves nothing.
    let tick = NewTick { expected: None, outcome: TickOutcome::Triggered, due_at: second(35), ..a_tick("c1", 40, 99) };
    accept(&*db, ticking("r6", tick)).await;
    let stored = schedule_of(&*db, "c1").await;
    assert_eq!((stored.next_due, stored.last_due), (Some(second(40)), Some(second(30))));
    assert_eq!((stored.last_run, stored.runs), (Some(run_id("r6")), 3));
    finish(&*db, &lease).await;
}

pub(super) async fn twins_take_a_schedules_time_once(Stores { one: db, other, .. }: Stores) {
    create(&*db, a_schedule("c1", 10)).await;
    for round in 0..20 {
        let (expected, next) = (10 + round, 11 + round);
        let make = |id: String| ticking(&id, a_tick("c1", expected, next));
        let (a, b) = (make(format!("a{round}")), make(format!("b{round}")));
        let both = tokio::join!(db.create_run(Access::All, a, None), other.create_run(Access::All, b, None));
        let results = [both.0, both.1];
        let accepted = results.iter().filter(|result| matches!(result, Ok(Accepted::New { .. }))).count();
        assert_eq!(accepted, 1, "{results:?}");
    }
    let stored = schedule_of(&*db, "c1").await;
    assert_eq!((stored.runs, stored.next_due), (20, Some(second(30))));
    assert_eq!(taken(&*other, "c1").await.len(), 20);
}

pub(super) async fn a_paused_schedule_is_not_due(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    create(&*db, a_schedule("c1", 10)).await;
    let change = async |change| {
        let changed = db.change_schedule(Access::All, Arc::from("c1"), change, second(12)).await;
        changed.expect("asking is fine").expect("it is there")
    };
    let paused = change(ScheduleChange::Pause).await;
    assert_eq!((paused.next_due, paused.updated_at), (None, second(12)));
    let claimed = claim(&*db, claim_of("w1", second(13))).await;
    assert_eq!((told(&claimed), claimed.next_due), (vec![], None));
    expect_kind(other.create_run(Access::All, ticking("r1", a_tick("c1", 10, 20)), None).await, DbErrorKind::Fenced);
    // Somebody can ask for a run all the same.
    accept(&*db, ticking("r2", NewTick { expected: None, ..a_tick("c1", 13, 20) })).await;
    assert_eq!(schedule_of(&*db, "c1").await.next_due, None);
    assert_eq!(change(ScheduleChange::Resume(second(20))).await.next_due, Some(second(20)));
    assert_eq!(change(ScheduleChange::Resume(second(30))).await.next_due, Some(second(20)), "it was not paused");
    assert_eq!(told(&claim(&*db, Claim { limit: 0, ..claim_of("w1", second(20)) }).await), ["c1"]);
    let none = db.change_schedule(Access::All, Arc::from("c2"), ScheduleChange::Pause, second(12)).await;
    assert!(none.expect("asking is fine").is_none());
}

pub(super) async fn a_deleted_schedule_leaves_its_runs(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    create(&*db, a_schedule("c1", 10)).await;
    start(&*db, ticking("r1", a_tick("c1", 10, 20)), "w1").await;
    assert!(other.delete_schedule(Access::All, Arc::from("c1")).await.expect("asking is fine"));
    assert!(!db.delete_schedule(Access::All, Arc::from("c1")).await.expect("asking is fine"));
    assert!(db.schedule(Access::All, Arc::from("c1")).await.expect("asking is fine").is_none());
    assert!(taken(&*db, "c1").await.is_empty());
    assert!(db.run(Access::All, run_id("r1")).await.expect("asking is fine").is_some());
    expect_kind(db.create_run(Access::All, ticking("r2", a_tick("c1", 20, 30)), None).await, DbErrorKind::Fenced);
    let asked_for = NewTick { expected: None, ..a_tick("c1", 20, 30) };
    expect_kind(db.create_run(Access::All, ticking("r2", asked_for), None).await, DbErrorKind::Fenced);
    let claimed = claim(&*db, Claim { worker: worker_id("w1"), ..claim_of("w1", second(99)) }).await;
    assert_eq!((told(&claimed), claimed.next_due), (vec![], None));
    // Another with its id has none of its times.
    create(&*db, a_schedule("c1", 10)).await;
    assert!(taken(&*db, "c1").await.is_empty());
}

pub(super) async fn the_last_times_of_a_schedule_are_kept(Stores { one: db, .. }: Stores) {
    create(&*db, a_schedule("c1", 1)).await;
    create(&*db, a_schedule("c2", 1)).await;
    let most = i64::from(TICKS_MAX);
    db.tick(a_tick("c2", 1, 9_999), second(1)).await.expect("it is due");
    for number in 1..=most + 5 {
        db.tick(a_tick("c1", number, number + 1), second(number)).await.expect("it is due");
    }
    let kept = taken(&*db, "c1").await;
    assert_eq!(kept.len() as i64, most);
    assert_eq!((kept[0].0, kept[kept.len() - 1].0), (second(most + 5), second(6)));
    assert_eq!(taken(&*db, "c2").await.len(), 1);
}

pub(super) async fn someone_elses_schedule_is_not_there(Stores { one: db, .. }: Stores) {
    create(&*db, of("ada", a_schedule("c1", 10))).await;
    create(&*db, a_schedule("c2", 10)).await;
    for id in ["c1", "c2"] {
        let id: Arc<str> = Arc::from(id);
        assert!(db.schedule(user("bob"), id.clone()).await.expect("asking is fine").is_none());
        let changed = db.change_schedule(user("bob"), id.clone(), ScheduleChange::Pause, second(2)).await;
        assert!(changed.expect("asking is fine").is_none());
        assert!(!db.delete_schedule(user("bob"), id.clone()).await.expect("asking is fine"));
        assert!(schedule_of(&*db, &id).await.next_due.is_some());
    }
    db.tick(a_tick("c1", 10, 20), second(10)).await.expect("it is due");
    assert!(db.ticks(user("bob"), Arc::from("c1"), None, 10).await.expect("asking is fine").is_empty());
    assert_eq!(db.ticks(user("ada"), Arc::from("c1"), None, 10).await.expect("asking is fine").len(), 1);
    let foreign = of("ada", a_schedule("c3", 10));
    expect_kind(db.create_schedule(user("bob"), foreign).await, DbErrorKind::NotFound);
    expect_kind(db.create_schedule(user("bob"), a_schedule("c3", 10)).await, DbErrorKind::NotFound);
    assert!(db.delete_schedule(user("ada"), Arc::from("c1")).await.expect("asking is fine"));
}
