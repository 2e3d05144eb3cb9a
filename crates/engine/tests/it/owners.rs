//! Engines restricted to a user: what is someone else's is not there.

use crate::stage::{Calls, append, engine, input, slow, workflow};
use outlive_core::port::{Access, NewSession, RunFilter, RunStore, SessionFilter, SessionKind, SessionPatch};
use outlive_core::{Definition, RunId, RunStatus, SessionId, Timestamp};
use outlive_db::InMemoryDb;
use outlive_engine::{Engine, Error, Submit};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

fn in_session(session_id: &str, user_id: Option<&str>) -> Submit {
    Submit { session_id: Some(session_id.to_owned()), user_id: user_id.map(str::to_owned), ..input("hi") }
}

fn session_id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

async fn an_engine(definition: &Arc<Definition>) -> (InMemoryDb, Engine) {
    let db = InMemoryDb::new();
    let engine = engine(&db, definition).await;
    (db, engine)
}

#[tokio::test(start_paused = true)]
async fn a_run_is_its_users_and_to_others_as_if_it_did_not_exist() {
    let definition = workflow([append("a", &Calls::default())]);
    let (_, engine) = an_engine(&definition).await;
    let (ada, bob) = (engine.for_user("ada"), engine.for_user("bob"));
    let run = ada.submit(&definition.id, in_session("s", None)).await.unwrap();
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, ended.user_id.as_deref()), (RunStatus::Completed, Some("ada")));
    let anonymous = engine.submit(&definition.id, input("hi")).await.unwrap();
    anonymous.wait().await.unwrap();

    for (stranger, id) in [(&bob, run.run_id()), (&bob, anonymous.run_id()), (&ada, anonymous.run_id())] {
        let not_there = |error: Error| matches!(error, Error::RunNotFound(unknown) if unknown == *id);
        assert!(stranger.get_run(id).await.unwrap().is_none());
        assert!(stranger.standing(id).await.unwrap().is_none());
        assert!(stranger.attach(id.clone()).get().await.unwrap().is_none());
        assert!(not_there(stranger.attach(id.clone()).wait().await.unwrap_err()));
        assert!(not_there(stranger.cancel(id, "mine").await.unwrap_err()));
        for after in [None, Some(2), Some(1000)] {
            assert!(not_there(stranger.events(id, after).next().await.unwrap_err()));
            assert!(not_there(stranger.events(id, after).stored().await.unwrap_err()));
        }
    }
    assert!(bob.runs(RunFilter::default()).await.unwrap().runs.is_empty());
    assert_eq!(ada.runs(RunFilter::default()).await.unwrap().runs.len(), 1);
    assert_eq!(engine.runs(RunFilter::default()).await.unwrap().runs.len(), 2);
    assert_eq!(engine.get_run(run.run_id()).await.unwrap().unwrap(), ended);
    assert!(ada.events(run.run_id(), Some(1000)).stored().await.unwrap().is_empty(), "hers, and nothing new");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_someone_elses_run_that_executes_here() {
    let definition = workflow([slow("a", HOUR)]);
    let (db, engine) = an_engine(&definition).await;
    let run = engine.for_user("ada").submit(&definition.id, input("hi")).await.unwrap();
    let begun = Instant::now();
    let waited = engine.for_user("bob").attach(run.run_id().clone()).wait().await;
    assert!(matches!(waited, Err(Error::RunNotFound(_))));
    let told = engine.for_user("bob").events(run.run_id(), None).next().await;
    assert!(matches!(told, Err(Error::RunNotFound(_))));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(matches!(engine.for_user("bob").cancel(run.run_id(), "mine").await, Err(Error::RunNotFound(_))));
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert!(stored.cancel.is_none() && !stored.status.is_terminal());
}

#[tokio::test(start_paused = true)]
async fn a_restricted_engine_submits_as_its_user_into_its_own_sessions() {
    let definition = workflow([append("a", &Calls::default())]);
    let (db, engine) = an_engine(&definition).await;
    let (ada, bob) = (engine.for_user("ada"), engine.for_user("bob"));
    let first = ada.submit(&definition.id, in_session("s", None)).await.unwrap();
    first.wait().await.unwrap();
    let second = ada.submit(&definition.id, in_session("s", Some("ada"))).await.unwrap();
    second.wait().await.unwrap();
    engine.submit(&definition.id, in_session("nobodys", None)).await.unwrap().wait().await.unwrap();

    for refused in [in_session("s", None), in_session("nobodys", None), in_session("new", Some("ada"))] {
        let session_id = refused.session_id.clone().unwrap();
        let submit = Submit { run_id: Some("bobs".to_owned()), ..refused };
        match bob.submit(&definition.id, submit).await {
            Err(Error::SessionNotFound(id)) => assert_eq!(id.as_str(), session_id),
            other => panic!("expected a session that is not there, got {other:?}"),
        }
    }
    assert!(db.run(Access::All, RunId::parse("bobs").unwrap()).await.unwrap().is_none());
    assert!(engine.session(&session_id("new")).await.unwrap().is_none());
    let own = bob.submit(&definition.id, in_session("bobs", None)).await.unwrap().wait().await.unwrap();
    assert_eq!(own.user_id.as_deref(), Some("bob"));
}

#[tokio::test(start_paused = true)]
async fn the_same_key_of_two_users_is_two_requests() {
    let definition = workflow([append("a", &Calls::default())]);
    let (_, engine) = an_engine(&definition).await;
    let keyed = || Submit { idempotency_key: Some("order-1".to_owned()), ..input("hi") };
    let ada = engine.for_user("ada").submit(&definition.id, keyed()).await.unwrap();
    let again = engine.for_user("ada").submit(&definition.id, keyed()).await.unwrap();
    let bob = engine.for_user("bob").submit(&definition.id, keyed()).await.unwrap();
    assert_eq!(ada.run_id(), again.run_id());
    assert_ne!(ada.run_id(), bob.run_id());
}

#[tokio::test(start_paused = true)]
async fn sessions_are_their_users_too() {
    let definition = workflow([append("a", &Calls::default())]);
    let (_, engine) = an_engine(&definition).await;
    let (ada, bob) = (engine.for_user("ada"), engine.for_user("bob"));
    let new = |id: &str, user_id: Option<&str>| NewSession {
        session_id: session_id(id),
        kind: SessionKind::Team,
        name: None,
        user_id: user_id.map(Arc::from),
        workflow_id: None,
        state: Map::new(),
        metadata: Map::new(),
        at: Timestamp::from_micros(7),
    };
    let created = ada.create_session(new("s", None)).await.unwrap();
    assert_eq!((created.user_id.as_deref(), created.kind), (Some("ada"), SessionKind::Team));
    assert!(matches!(ada.create_session(new("s", None)).await, Err(Error::Conflict(_))));
    assert!(matches!(bob.create_session(new("t", Some("ada"))).await, Err(Error::SessionNotFound(_))));

    let rename = || SessionPatch { name: Some(Arc::from("one")), ..SessionPatch::default() };
    assert!(bob.session(&session_id("s")).await.unwrap().is_none());
    assert!(bob.update_session(&session_id("s"), rename()).await.unwrap().is_none());
    assert_eq!(bob.sessions(SessionFilter::default()).await.unwrap().total, 0);
    assert_eq!(bob.delete_sessions(vec![session_id("s")], true).await.unwrap(), 0);

    let renamed = ada.update_session(&session_id("s"), rename()).await.unwrap().unwrap();
    assert_eq!((renamed.name.as_deref(), renamed.version), (Some("one"), 1));
    assert_eq!(ada.session(&session_id("s")).await.unwrap().unwrap(), renamed);
    assert_eq!(ada.sessions(SessionFilter::default()).await.unwrap().sessions, [renamed]);
    assert_eq!(ada.delete_sessions(vec![session_id("s")], false).await.unwrap(), 1);
    assert!(engine.session(&session_id("s")).await.unwrap().is_none());
}
