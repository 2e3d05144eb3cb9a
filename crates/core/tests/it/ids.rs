//! Ids, names and waits.

use outlive_core::{DefinitionId, Failure, FailureKind, Retry, RunId, RunStatus, SessionId, Timestamp, slug};
use std::time::Duration;

#[test]
fn run_ids_sort_by_time() {
    let at = |millis: i64| RunId::new(Timestamp::from_micros(millis * 1000), u128::MAX / 3);
    assert!(at(1_000) < at(1_001));
    assert!(at(1_001) < at(1_795_404_467_000));
}

#[test]
fn a_run_id_is_a_version_7_uuid() {
    let id = RunId::new(Timestamp::from_micros(1_795_404_467_000_000), 42);
    let uuid = uuid::Uuid::parse_str(id.as_str()).unwrap();
    assert_eq!(uuid.get_version_num(), 7);
}

#[test]
fn derived_ids_are_stable_and_differ_by_path_and_run() {
    let run = RunId::parse("run").unwrap();
    assert_eq!(run.derive("0"), run.derive("0"));
    assert_ne!(run.derive("0"), run.derive("1"));
    assert_ne!(run.derive("0"), RunId::parse("other").unwrap().derive("0"));
}

#[test]
fn an_id_from_outside_is_checked_and_the_refusal_names_it() {
    for bad in ["", "two words", "line\nbreak", &"x".repeat(129)] {
        let error = SessionId::parse(bad).unwrap_err().to_string();
        assert!(error.starts_with("session id "), "{error}");
    }
    assert!(SessionId::parse("bg-1").is_ok());
    assert!(serde_json::from_str::<RunId>("\"a b\"").is_err());
}

#[test]
fn an_id_that_somebody_chooses_has_an_address_of_its_own_and_what_is_stored_is_read() {
    for bad in [".", "..", "....", "a/b", "/", "a\\b", "a;b"] {
        let refused =
            [RunId::chosen(bad).map(drop), SessionId::chosen(bad).map(drop), DefinitionId::chosen(bad).map(drop)];
        for refused in refused {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("it stands in addresses"), "{bad}: {error}");
        }
        assert!(serde_json::from_value::<RunId>(bad.into()).is_ok() && bad.parse::<DefinitionId>().is_ok(), "{bad}");
    }
    for word in RunId::WORDS {
        let error = RunId::chosen(word).unwrap_err().to_string();
        assert_eq!(error, format!("run id is {word:?}: servers have an address of this name, so choose another"));
        assert!(SessionId::chosen(word).is_ok() && RunId::parse(word).is_ok());
    }
    for good in ["bg-1", ".a", "a..b", "x@y", "größe", "a%2Fb"] {
        assert!(RunId::chosen(good).is_ok() && SessionId::chosen(good).is_ok(), "{good}");
    }
    for name in ["a/b", "a\\b;c", "..a"] {
        assert!(DefinitionId::chosen(DefinitionId::from_name(name).unwrap().as_str()).is_ok(), "{name}");
    }
}

#[test]
fn a_slug_is_agnos() {
    assert_eq!(slug("Content Creation Workflow"), "content-creation-workflow");
    assert_eq!(slug("  Fn -- Pipeline!"), "fn-pipeline");
    assert!(DefinitionId::from_name("!!!").is_err());
}

#[test]
fn every_arrow_of_the_status_table_and_no_other_is_allowed() {
    use RunStatus::*;
    let arrows = [
        (Pending, Running),
        (Pending, Paused),
        (Pending, Completed),
        (Pending, Cancelled),
        (Pending, Error),
        (Running, Paused),
        (Running, Completed),
        (Running, Cancelled),
        (Running, Error),
        (Paused, Running),
        (Paused, Cancelled),
        (Paused, Error),
    ];
    for from in RunStatus::ALL {
        for to in RunStatus::ALL {
            assert_eq!(from.may_become(to), from == to || arrows.contains(&(from, to)), "{from} to {to}");
        }
        assert_eq!(RunStatus::parse(&from.to_string().to_lowercase()), Some(from));
    }
}

#[test]
fn back_off_doubles_up_to_its_limit_with_jitter_below_and_obeys_retry_after() {
    let retry = Retry::times(9).backoff(Duration::from_secs(1)).backoff_max(Duration::from_secs(10));
    for (attempt, full) in [(1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 10_000), (60, 10_000)] {
        for chance in [0, 1, u64::MAX, 12_345_678_901] {
            let wait = u64::try_from(retry.wait(attempt, None, chance).as_millis()).unwrap();
            assert!((full / 2..=full).contains(&wait), "attempt {attempt}: {wait}");
        }
    }
    assert_eq!(retry.wait(1, Some(60_000), 0), Duration::from_secs(60));
}

#[test]
fn any_displayable_error_becomes_a_retryable_failure() {
    fn work() -> Result<u32, Failure> {
        Ok("x".parse::<u32>()?)
    }
    let failure = work().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Function);
    assert!(failure.retryable);
    assert!(!Failure::fatal("no").retryable);
}
