//! Questions to people: what is only true of a file.

use super::{register, run_id, second, start};
use outlive_core::RunStatus;
use outlive_core::port::{
    Access, Answering, Commit, DbErrorKind, LogStore, NewAnswer, NewQuestion, QuestionFilter, QuestionPatch,
    QuestionState, QuestionStore, Release, RunPatch, RunStore,
};
use outlive_db::SqliteDb;
use std::sync::Arc;

/// A run that waits for answers to these questions.
async fn paused(db: &SqliteDb, id: &str, questions: &[&str]) {
    register(db, "w1").await;
    let lease = start(db, id, "w1").await;
    let ask = |id: &&str| NewQuestion { id: Arc::from(*id), due_at: None, text: Arc::from("{}") };
    let questions = QuestionPatch { asked: questions.iter().map(ask).collect(), settled: Vec::new() };
    for status in [RunStatus::Running, RunStatus::Paused] {
        let is_paused = status == RunStatus::Paused;
        let patch = RunPatch {
            status: Some(status),
            release: is_paused.then(Release::default),
            questions: is_paused.then(|| Box::new(questions.clone())),
            ..RunPatch::default()
        };
        db.commit(Commit { lease: lease.clone(), page: None, patch, session: None, at: second(1) }).await.unwrap();
    }
}

fn answer(id: &str, text: &str) -> NewAnswer {
    NewAnswer { id: Arc::from(id), text: Arc::from(text), by: Some(Arc::from("ann")) }
}

#[tokio::test]
async fn questions_and_answers_are_there_after_closing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("runs.db");
    let db = SqliteDb::new(&path);
    paused(&db, "r1", &["q1", "q2"]).await;
    drop(db);

    // Nobody works here: it is answered all the same.
    let db = SqliteDb::new(&path);
    let answered = db.answer(Access::All, vec![answer("q1", "\"yes\"")], second(2)).await.unwrap();
    assert!(matches!(answered, Answering::Accepted));
    drop(db);

    let db = SqliteDb::new(&path);
    let refused = db.answer(Access::All, vec![answer("q2", "\"no\""), answer("q1", "\"no\"")], second(3)).await;
    let Answering::Refused(told) = refused.unwrap() else { panic!("it was answered before") };
    let given = told.answer.unwrap();
    assert_eq!((&*given.text, given.by.as_deref(), given.at), ("\"yes\"", Some("ann"), second(2)));
    let open = db.questions(Access::All, QuestionFilter::default()).await.unwrap().questions;
    assert_eq!(open.iter().map(|question| &*question.id).collect::<Vec<_>>(), ["q2"]);
    let inbox = db.inbox(run_id("r1")).await.unwrap();
    assert_eq!(inbox.iter().map(|question| &*question.id).collect::<Vec<_>>(), ["q1"]);
    let run = db.run(Access::All, run_id("r1")).await.unwrap().unwrap();
    assert_eq!((run.status, run.worker), (RunStatus::Running, None));
}

#[tokio::test]
async fn a_file_that_is_looked_at_shows_questions_and_takes_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("runs.db");
    let db = SqliteDb::new(&path);
    paused(&db, "r1", &["q1"]).await;
    let looking = SqliteDb::new(&path).read_only();
    let question = looking.question(Access::All, Arc::from("q1")).await.unwrap().unwrap();
    assert_eq!(question.state, QuestionState::Open);
    let error = looking.answer(Access::All, vec![answer("q1", "{}")], second(2)).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly);
}

#[tokio::test]
async fn a_damaged_question_is_left_out_of_lists_and_named_where_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("runs.db");
    let db = SqliteDb::new(&path);
    paused(&db, "r1", &["q1", "q2"]).await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE outlive_sessions_questions SET state = 7 WHERE question_id = 'q1'", []).unwrap();
    let all = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    let listed = db.questions(Access::All, QuestionFilter { run_id: Some(run_id("r1")), ..all }).await.unwrap();
    assert_eq!(listed.questions.iter().map(|question| &*question.id).collect::<Vec<_>>(), ["q2"]);
    let error = db.question(Access::All, Arc::from("q1")).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Unreadable);
    assert!(error.to_string().contains("question q1"), "{error}");
}
