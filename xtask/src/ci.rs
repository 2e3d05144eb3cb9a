//! The gate: every check, cheapest first, each timed.
//!
//! Must never know what a stage does. The invariant: the first stage that fails ends it.

use crate::cargo::Cargo;
use crate::{Problem, clients, lint, readme, sabotage, test, tidy};
use std::thread;
use std::time::{Duration, Instant};

type Stage = (&'static str, fn(&Cargo) -> Result<(), Problem>);

/// From cheap to expensive, and what was built for one stage is there for the next.
const STAGES: &[Stage] = &[
    ("tidy", tidy::run),
    ("lint", lint),
    ("test", test),
    ("agno-clients", |cargo| clients::AGNO.run_where_possible(cargo)),
    ("openai-clients", |cargo| clients::OPENAI.run_where_possible(cargo)),
    ("sabotage", sabotage::run),
    ("readme", readme::run),
];

/// Runs every stage. What two of them need from the network comes while others compile; if it cannot be had, they say so.
pub(crate) fn run(cargo: &Cargo, _: &[String]) -> Result<(), Problem> {
    thread::scope(|scope| {
        scope.spawn(|| clients::environment(cargo));
        stages(STAGES, cargo)
    })
}

fn stages(stages: &[Stage], cargo: &Cargo) -> Result<(), Problem> {
    let mut times = Vec::new();
    for (name, stage) in stages {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = stage(cargo);
        times.push(timing(name, start.elapsed(), result.is_ok()));
        if let Err(problem) = result {
            println!("\n{}", times.join("\n"));
            return Err(format!("{name}: {problem}"));
        }
    }
    println!("\n{}", times.join("\n"));
    Ok(())
}

fn timing(name: &str, elapsed: Duration, passed: bool) -> String {
    format!("{name:<14}{:>8.1} s  {}", elapsed.as_secs_f64(), if passed { "passed" } else { "FAILED" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_ends_it_and_is_named() {
        let cargo = Cargo::from_environment().unwrap();
        let made_up: &[Stage] =
            &[("one", |_| Ok(())), ("two", |_| Err("it broke".to_owned())), ("three", |_| panic!("not reached"))];
        assert_eq!(stages(made_up, &cargo), Err("two: it broke".to_owned()));
    }

    #[test]
    fn a_stage_is_shown_with_its_time_and_its_end() {
        assert_eq!(timing("lint", Duration::from_millis(61_250), true), "lint              61.2 s  passed");
        assert!(timing("lint", Duration::ZERO, false).ends_with("FAILED"));
    }
}
