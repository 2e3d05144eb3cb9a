//! A file of an older format, as its last program left it, in this program's hands: what was unfinished goes on and
//! ends, what had ended is still told.

use outlive::core::port::{Access, RunFilter};
use outlive::core::{Definition, DefinitionId};
use outlive::engine::Submit;
use outlive::engine::testing::{broken_invariants, read_log};
use outlive::prelude::*;
use outlive::{Engine, Options, RunId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FORMAT_1: &str = include_str!("../../../db/tests/fixtures/format_1.sql");

/// The workflow of the file's runs: its functions returned their input, failed or never ended, as they were told; now
/// they only return it.
fn orders() -> Arc<Definition> {
    let step = |name: &str| {
        let step = Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
        step.retry(Retry::times(2).backoff(Duration::from_secs(20)))
    };
    Arc::new(Definition::builder("Orders").step(step("first")).step(step("second")).build().unwrap())
}

async fn engine(path: &Path, table: &str) -> Engine {
    let db = Arc::new(SqliteDb::new(path).session_table(table));
    Engine::builder(db).options(Options::default()).workflow(orders()).start().await.unwrap()
}

async fn counts(engine: &Engine) -> BTreeMap<RunStatus, u64> {
    let filter = RunFilter { with_counts: true, ..RunFilter::default() };
    let counts = engine.db().runs(Access::All, filter).await.unwrap().counts.unwrap();
    assert!(counts.is_exact);
    counts.by_status.into_iter().collect()
}

#[tokio::test]
async fn what_an_older_program_left_goes_on_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(FORMAT_1).unwrap();
    use RunStatus::{Cancelled, Completed, Error, Paused};

    let first = engine(&path, "outlive_sessions").await;
    for (run_id, content) in [("stopped", "hang"), ("behind", "four"), ("backing-off", "retry")] {
        let run_id = RunId::parse(run_id).unwrap();
        let ended = first.attach(run_id.clone()).wait().await.unwrap();
        assert_eq!((ended.status, ended.text()), (Completed, content.to_owned()), "{run_id}");
        let log = read_log(&**first.db(), &run_id).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{run_id}");
        let begun = log.iter().filter(|entry| entry.event.name() == "StepStarted").count();
        assert_eq!(begun, 2, "{run_id}: no step begins again");
    }
    for (run_id, status, content) in [
        ("done", Completed, "one"),
        ("done-ada", Completed, "two"),
        ("failed", Error, "no such order"),
        ("cancelled", Cancelled, ""),
        ("paused", Paused, ""),
    ] {
        let run_id = RunId::parse(run_id).unwrap();
        let run = first.get_run(&run_id).await.unwrap().unwrap();
        assert_eq!(run.status, status, "{run_id}");
        assert!(run.text().contains(content), "{run_id}: {}", run.text());
        assert!(!read_log(&**first.db(), &run_id).await.is_empty());
    }
    assert_eq!(counts(&first).await, [(Paused, 1), (Completed, 5), (Cancelled, 1), (Error, 1)].into());
    // Sessions go on too.
    let again = Submit { session_id: Some("s-4".to_owned()), user_id: Some("ada".to_owned()), ..Submit::default() };
    let again = first.submit(&DefinitionId::parse("orders").unwrap(), again).await.unwrap();
    assert_eq!(again.wait().await.unwrap().status, Completed);
    assert_eq!(counts(&first).await[&Completed], 6);

    // The other table set of the file.
    let second = engine(&path, "second").await;
    let ended = second.attach(RunId::parse("stopped").unwrap()).wait().await.unwrap();
    assert_eq!(ended.status, Completed);
    assert_eq!(counts(&second).await, [(Completed, 2)].into());
}
