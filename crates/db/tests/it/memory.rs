//! The store in memory.

use outlive_core::port::{
    Accepted, Access, CancelIntent, Claim, Db, DbErrorKind, NewRun, NewStart, RunStore, SessionKind, SessionPolicy,
};
use outlive_core::{DefinitionId, RunId, RunInfo, SessionId, Timestamp, WorkerId};
use outlive_db::{Fault, InMemoryDb, Operation, conformance};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn it_conforms() {
    conformance::all(async || {
        let one = InMemoryDb::new();
        let other = one.another_process();
        let clocks = [one.clone(), other.clone()];
        let skip: conformance::Skip = Arc::new(move |time| {
            clocks.iter().for_each(|clock| clock.skip(time));
            Box::pin(std::future::ready(()))
        });
        conformance::Stores { one: Arc::new(one), other: Arc::new(other), skip }
    })
    .await;
}

const NOW: Timestamp = Timestamp::from_micros(1);

fn run_id() -> RunId {
    RunId::parse("r1").unwrap()
}

fn new_run() -> NewRun {
    NewRun {
        info: RunInfo {
            run_id: run_id(),
            workflow_id: DefinitionId::parse("flow").unwrap(),
            workflow_name: Arc::from("Flow"),
            session_id: SessionId::parse("s1").unwrap(),
            user_id: None,
        },
        input: None,
        options: None,
        definition: Arc::from("definition"),
        structure: None,
        idempotency_key: Some(Arc::from("key")),
        fingerprint: Arc::from("fingerprint"),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at: NOW,
    }
}

#[tokio::test]
async fn a_refused_call_did_not_happen_and_a_lost_reply_did() {
    let db = InMemoryDb::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    db.faults(Arc::new(move |operation| {
        let mut list = list.lock().unwrap();
        list.push(operation);
        match list.len() {
            1 => Some(Fault::Refuse(DbErrorKind::Busy)),
            3 => Some(Fault::LoseReply),
            _ => None,
        }
    }));
    assert_eq!(db.create_run(Access::All, new_run(), None).await.unwrap_err().kind(), DbErrorKind::Busy);
    assert!(db.run(Access::All, run_id()).await.unwrap().is_none());
    assert_eq!(db.create_run(Access::All, new_run(), None).await.unwrap_err().kind(), DbErrorKind::OutcomeUnknown);
    assert!(
        matches!(db.create_run(Access::All, new_run(), None).await.unwrap(), Accepted::Existing(id) if id == run_id())
    );
    let expected = [Operation::CreateRun, Operation::Run, Operation::CreateRun, Operation::CreateRun];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_crashed_worker_is_dead_at_once_and_keeps_the_claim_count() {
    let db = InMemoryDb::new();
    let [one, two] = ["w1", "w2"].map(|id| WorkerId::parse(id).unwrap());
    for worker in [&one, &two] {
        db.heartbeat(worker.clone(), NOW, Duration::from_secs(60)).await.unwrap();
    }
    db.create_run(Access::All, new_run(), Some(one.clone())).await.unwrap();
    assert!(db.claim_run(run_id(), two.clone(), NOW).await.unwrap().is_none());
    db.crash(&one);
    let (run, lease) = db.claim_run(run_id(), two, NOW).await.unwrap().unwrap();
    assert_eq!((run.claims, lease.epoch), (2, 2));
    let beat = db.heartbeat(one, NOW, Duration::from_secs(60)).await;
    assert_eq!(beat.unwrap_err().kind(), DbErrorKind::Fenced);
}

#[tokio::test]
async fn clones_are_one_process_and_share_the_hook() {
    let db = InMemoryDb::new();
    let other = db.another_process();
    db.faults(Arc::new(|_| Some(Fault::Refuse(DbErrorKind::Full))));
    assert_eq!(db.clone().run(Access::All, run_id()).await.unwrap_err().kind(), DbErrorKind::Full);
    other.create_run(Access::All, new_run(), None).await.unwrap();
    assert_eq!(other.location(), "memory");
}

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_call_holds_nothing_that_another_waits_for_before_it_begins() {
    let db = InMemoryDb::new();
    let worker = |name: &str| WorkerId::parse(name).unwrap();
    let other = db.clone();
    db.faults(Arc::new(move |operation| {
        if operation != Operation::Claim {
            let (db, (ended, end)) = (other.clone(), std::sync::mpsc::channel());
            std::thread::spawn(move || {
                let claim = Claim {
                    worker: WorkerId::parse("w2").unwrap(),
                    workflows: Arc::from([DefinitionId::parse("flow").unwrap()]),
                    limit: 1,
                    suspect_claims: 2,
                    suspects: true,
                    at: NOW,
                };
                let claimed = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(db.claim(claim));
                // Such a worker has no heartbeat yet.
                ended.send(claimed.unwrap_err().kind()).unwrap();
            });
            assert_eq!(end.recv_timeout(PATIENCE), Ok(DbErrorKind::Storage), "a claim beside {operation:?}");
        }
        None
    }));
    db.heartbeat(worker("w1"), NOW, Duration::from_secs(1)).await.unwrap();
    let intent = CancelIntent { at: NOW, reason: Arc::from("none") };
    db.request_cancel(Access::All, run_id(), intent).await.unwrap_err();
    assert!(db.claim_run(run_id(), worker("w1"), NOW).await.unwrap().is_none());
}
