//! Runs that ask people: what every way of looking says of them, and answers from the command line while nobody executes
//! them, on the file and over a server.

use crate::fixture::{Done, Place};
use crate::running::Running;
use outlive::core::Block;
use outlive::prelude::*;
use outlive::{FieldType, UserInputField};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A step that gives back what people said about it, else its input.
fn brew(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move {
        let said = input.additional_data.clone().unwrap_or_default();
        let told = |key: &str| said.get(key).map(Value::to_string);
        let told = told("user_input").or_else(|| told("rejection_feedback"));
        Ok::<_, Failure>(told.unwrap_or_else(|| format!("a cup of {}", input.text())))
    })
}

fn fields() -> [UserInputField; 4] {
    [
        UserInputField::new("colour"),
        UserInputField::new("size").of(FieldType::Int).description("in ml").allowed([200.into(), 300.into()]),
        UserInputField::new("sweet").of(FieldType::Bool).optional(),
        UserInputField::new("extras").of(FieldType::List).optional(),
    ]
}

/// A workflow that asks in this way, in `runs.db`. Its step `Brew` fails while there is a file `broken`.
fn workflow(place: &Place, asks: &str) -> Workflow {
    let builder = Workflow::builder("Tea House").db(SqliteDb::new(place.path("runs.db")));
    let broken = place.path("broken");
    let builder = match asks {
        "confirmation" => builder.step(brew("Brew").human_review(HumanReview::confirmation("Brew it?"))),
        "cancel" => {
            let review = HumanReview::confirmation("Brew it?").on_reject(OnReject::Cancel);
            builder.step(brew("Brew").human_review(review))
        }
        "input" => builder.step(brew("Brew").human_review(HumanReview::user_input("Which cup?", fields()))),
        "output" => {
            let review = HumanReview::output("Is it good?").on_reject(OnReject::Retry);
            builder.step(brew("Brew").human_review(review))
        }
        "router" => {
            let router = Router::new("Which").choice(brew("Green")).choice(brew("Black tea"));
            builder.step(router.human_review(HumanReview::selection("Which tea?")))
        }
        "error" => {
            let work = move |_, _: Arc<StepInput>| {
                let is_broken = broken.exists();
                async move { if is_broken { Err(Failure::fatal("the kettle is broken")) } else { Ok("a cup of tea") } }
            };
            builder.step(Step::function("Brew", work).on_error(OnError::Pause))
        }
        "both" => {
            let ask = |name: &str| brew(name).human_review(HumanReview::confirmation(format!("{name} it?")));
            builder.step(Parallel::new("Both").step(ask("Brew")).step(ask("Bake")))
        }
        other => panic!("{other}"),
    };
    builder.step(brew("Serve")).build().unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A run `cup-1` that asks, and that nobody executes any more.
fn stage(asks: &str) -> Place {
    let place = Place::new();
    std::fs::write(place.path("broken"), "").unwrap();
    block_on(async {
        let workflow = workflow(&place, asks);
        let run = workflow.run("tea").run_id("cup-1").background().await.unwrap();
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Paused);
        workflow.shutdown().await.unwrap();
    });
    std::fs::remove_file(place.path("broken")).unwrap();
    place
}

/// Executes the run in another worker, until it ends or asks again.
fn go_on(place: &Place, asks: &str) -> RunStatus {
    block_on(async {
        let workflow = workflow(place, asks);
        let status = workflow.attach("cup-1").await.unwrap().wait().await.unwrap().status;
        workflow.shutdown().await.unwrap();
        status
    })
}

/// Where the verbs find the runs.
enum Way {
    Here,
    There(Running),
}

impl Way {
    fn both(place: &Place, is_there: bool) -> Self {
        match is_there {
            true => Self::There(Running::serve(place, &["--no-execute", "--db", "runs.db"])),
            false => Self::Here,
        }
    }

    fn ask(&self, place: &Place, arguments: &[&str]) -> Done {
        match self {
            Self::Here => place.on_runs(arguments),
            Self::There(server) => place.run(&[&["--server", server.url()], arguments].concat()),
        }
    }
}

fn the_question(place: &Place) -> Value {
    let list = place.on_runs(&["questions", "--json"]).exits(0).json();
    let questions = list["questions"].as_array().unwrap();
    assert_eq!(questions.len(), 1, "{list}");
    questions[0].clone()
}

/// How the first step stands, and what was answered about it.
fn brewed(place: &Place) -> (Value, Value) {
    let shown = place.on_runs(&["show", "cup-1", "--json"]).exits(0).json();
    (shown["steps"][0]["status"].clone(), shown["steps"][0]["answer"].clone())
}

#[test]
fn each_answer_is_kept_while_nobody_executes_and_a_new_worker_goes_on_with_it() {
    let extras = r#"--input colour=red size=300 extras=["milk"]"#;
    for (asks, line, status, step, content) in [
        ("confirmation", "approve", "completed", "completed", "a cup of tea"),
        ("confirmation", "reject --reason late", "completed", "skipped", ""),
        ("cancel", "reject", "cancelled", "cancelled", ""),
        (
            "input",
            &format!("answer {extras}"),
            "completed",
            "completed",
            r#"{"colour":"red","extras":["milk"],"size":300}"#,
        ),
        ("output", "approve", "completed", "completed", "a cup of tea"),
        ("output", "answer --edit cocoa", "completed", "completed", "cocoa"),
        ("output", "reject --reason bitter", "paused", "waiting", "bitter"),
        ("router", "answer --choose Green", "completed", "completed", "a cup of tea"),
        ("error", "answer --retry", "completed", "completed", "a cup of tea"),
        ("error", "answer --skip", "completed", "skipped", "the kettle is broken"),
        ("error", "reject", "error", "error", "the kettle is broken"),
    ] {
        for is_there in [false, true] {
            let case = format!("{asks}: {line}, over a server: {is_there}");
            let place = stage(asks);
            let way = Way::both(&place, is_there);
            let question = the_question(&place);
            assert_eq!((&question["run_id"], &question["state"]), (&json!("cup-1"), &json!("open")), "{case}");
            assert_eq!(brewed(&place).0, "waiting", "{case}");
            let mut arguments: Vec<&str> = line.split(' ').collect();
            arguments.insert(1, question["id"].as_str().unwrap());
            let by = if is_there { &[][..] } else { &["--by", "ada"] };
            let done = way.ask(&place, &[&arguments, by].concat()).exits(0);
            assert!(done.stdout.contains(question["id"].as_str().unwrap()), "{case}: {}", done.stdout);
            assert!(done.stderr.contains("tea-house"), "it says that a worker is missing: {case}: {}", done.stderr);

            let kept = way.ask(&place, &["questions", "show", question["id"].as_str().unwrap(), "--json"]);
            let kept = kept.exits(0).json();
            let who = if is_there { Value::Null } else { json!("ada") };
            assert_eq!((&kept["state"], &kept["answered_by"]), (&json!("answered"), &who), "{case}");
            assert!(kept["answered_at"].is_string() && kept["answer"]["do"].is_string(), "{case}: {kept}");

            // Nobody was interrupted: it waits for a process, in the same words everywhere.
            let shown = way.ask(&place, &["show", "cup-1", "--json"]).exits(0).json();
            let waiting = &shown["waiting"];
            assert_eq!((&shown["status"], &waiting["for"]), (&json!("answered"), &json!("worker")), "{case}: {shown}");
            assert_eq!((&waiting["is_answered"], &waiting["is_interrupted"]), (&json!(true), &json!(false)), "{case}");
            let listed = way.ask(&place, &["ls", "status:running", "--json"]).exits(0).json();
            assert_eq!(
                (&listed["runs"][0]["status"], &listed["runs"][0]["waiting"]),
                (&shown["status"], waiting),
                "{case}: {listed}"
            );
            let none = way.ask(&place, &["ls", "status:interrupted", "--json"]).exits(0).json();
            assert_eq!(none["runs"], json!([]), "{case}");
            if let Way::There(server) = &way {
                assert_eq!(server.get("/api/runs/cup-1").json()["waiting"], *waiting, "{case}");
            }

            go_on(&place, asks);
            let shown = place.on_runs(&["show", "cup-1", "--json"]).exits(0).json();
            assert_eq!(shown["status"], status, "{case}: {shown}");
            assert_eq!(shown["steps"][0]["status"], step, "{case}: {shown}");
            let events = place.on_runs(&["events", "cup-1"]).exits(0).stdout;
            let told = if is_there { String::new() } else { " by ada".to_owned() };
            let word = kept["answer"]["do"].as_str().unwrap();
            assert!(events.contains(&format!("{word}{told}")), "{case}: {events}");
            let all = place.on_runs(&["events", "cup-1", "--json"]).exits(0).stdout;
            assert!(all.replace('\\', "").contains(content), "{case}: {all}");
        }
    }
}

#[test]
fn what_follows_from_silence_is_shown_as_it_is_in_the_run() {
    let soon = |review: HumanReview, on_timeout| review.timeout(Duration::from_millis(1)).on_timeout(on_timeout);
    let output = || HumanReview::output("Is it good?");
    let failing =
        || Step::function("Brew", |_, _: Arc<StepInput>| async { Err::<String, _>(Failure::fatal("no kettle")) });
    let repeated = Loop::new("Brew").step(brew("Sip")).max_iterations(3);
    let blocks: [(Block, &str, &str); 6] = [
        (brew("Brew").human_review(soon(output(), OnTimeout::Approve)).into(), "completed", "completed"),
        (brew("Brew").human_review(soon(output(), OnTimeout::Skip)).into(), "completed", "skipped"),
        (brew("Brew").human_review(soon(output(), OnTimeout::Cancel)).into(), "cancelled", "cancelled"),
        (
            repeated.human_review(soon(HumanReview::iterations("Enough?"), OnTimeout::Approve)).into(),
            "completed",
            "completed",
        ),
        (
            failing().on_error(OnError::Pause).human_review(soon(HumanReview::default(), OnTimeout::Skip)).into(),
            "completed",
            "skipped",
        ),
        (
            brew("Brew").human_review(soon(HumanReview::confirmation("Brew?"), OnTimeout::Approve)).into(),
            "completed",
            "completed",
        ),
    ];
    let place = Place::new();
    let mut expected = Vec::new();
    for (number, (block, status, step)) in blocks.into_iter().enumerate() {
        let id = format!("cup-{number}");
        block_on(async {
            let builder = Workflow::builder("Tea House").db(SqliteDb::new(place.path("runs.db")));
            let workflow = builder.step(block).step(brew("Serve")).build().unwrap();
            let run = workflow.run("tea").run_id(&id).background().await.unwrap();
            while !run.wait().await.unwrap().status.is_terminal() {
                tokio::task::yield_now().await;
            }
            workflow.shutdown().await.unwrap();
        });
        expected.push((id, status, step));
    }
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    for (id, status, step) in expected {
        let shown = place.on_runs(&["show", &id, "--json"]).exits(0).json();
        assert_eq!((&shown["status"], &shown["steps"][0]["status"]), (&json!(status), &json!(step)), "{shown}");
        assert_eq!(shown["resumes"], 0, "nobody else has executed it: {shown}");
        let served = server.get(&format!("/api/runs/{id}")).json();
        let brewed = served["steps"].as_array().unwrap().iter().find(|step| step["name"] == "Brew").unwrap();
        assert_eq!(brewed["status"], step, "{served}");
    }
}

#[test]
fn of_two_answers_one_is_kept_and_the_other_is_told_whose() {
    for is_there in [false, true] {
        let place = stage("confirmation");
        let id = the_question(&place)["id"].as_str().unwrap().to_owned();
        // Who answers is whoever is logged in, unless it is said.
        let mut first = place.command(&["--db", "runs.db", "approve", &id]);
        first.env("USER", "grace");
        Done::of(first).exits(0);
        let way = Way::both(&place, is_there);
        let late = way.ask(&place, &["reject", &id, "--json"]).exits(5).error();
        assert_eq!(late["code"], "already_answered");
        let said = late["message"].as_str().unwrap();
        assert!(said.contains(&format!("question {id} was answered before: approve, by grace at 2")), "{said}");
        assert!(late["hint"].as_str().unwrap().contains(&format!("questions show {id}")), "{late}");
        assert_eq!(brewed(&place).0, "waiting", "nothing follows before a worker goes on");
    }
    // The same by the same person is no other answer.
    let place = stage("confirmation");
    let id = the_question(&place)["id"].as_str().unwrap().to_owned();
    place.on_runs(&["approve", "cup-1", "--by", "ada"]).exits(0);
    place.on_runs(&["approve", &id, "--by", "ada"]).exits(0);
    let other = place.on_runs(&["approve", &id, "--by", "grace"]).exits(5).stderr;
    assert!(other.contains("was answered before: approve, by ada"), "{other}");
    let audit = place.on_runs(&["audit", "--kind", "question_answer", "--json"]).exits(0).json();
    let record = &audit["records"][0];
    assert_eq!((&record["action"], &record["target"]), (&json!("outlive approve"), &json!("cup-1")), "{audit}");
}

#[test]
fn an_answer_that_cannot_be_one_changes_nothing_and_says_what_would_be() {
    for is_there in [false, true] {
        let place = stage("input");
        let way = Way::both(&place, is_there);
        for (line, said) in [
            ("answer cup-1 --input size=300", "Required field 'colour' is missing"),
            ("answer cup-1 --input colour=red size=big", "field size takes JSON of the type integer"),
            ("answer cup-1 --input colour=red size=301", "Field 'size' must be one of [200,300], got 301"),
            ("answer cup-1 --input colour=red size=300 milk=yes", "Field 'milk' was not asked for"),
            ("answer cup-1 --input colour=red --input colour=blue", "field colour is given twice"),
            ("approve cup-1", "answer with one of input, reject, not approve"),
        ] {
            let arguments: Vec<_> = line.split(' ').chain(["--json"]).collect();
            let error = way.ask(&place, &arguments).exits(2).error();
            assert_eq!(error["code"], "invalid_answer", "{line}: {error}");
            assert!(error["message"].as_str().unwrap().contains(said), "{line}: {error}");
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.contains("--input colour=TEXT size=200") && hint.contains("reject "), "{line}: {error}");
        }
        for line in ["answer cup-1", "answer cup-1 --retry --skip", "answer cup-1 --input colour", "approve"] {
            way.ask(&place, &line.split(' ').collect::<Vec<_>>()).exits(2);
        }
        assert_eq!(the_question(&place)["state"], "open");
    }
    let place = stage("confirmation");
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    let refused = place.run(&["--server", server.url(), "approve", "cup-1", "--by", "ada"]).exits(2).stderr;
    assert!(refused.contains("leave out --by"), "{refused}");
}

#[test]
fn a_question_is_named_by_its_id_the_beginning_of_it_or_its_run() {
    let place = stage("both");
    let list = place.on_runs(&["questions", "--run", "@last", "--json"]).exits(0).json();
    let ids: Vec<_> = list["questions"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), &list["more"]), (2, &json!(false)));
    for is_there in [false, true] {
        let way = Way::both(&place, is_there);
        let error = way.ask(&place, &["approve", "cup-1", "--json"]).exits(2).error();
        assert_eq!(error["code"], "question_ambiguous");
        let hint = error["hint"].as_str().unwrap();
        assert!(ids.iter().all(|id| hint.contains(id)) && hint.contains("Bake: Bake it?"), "{hint}");
        for (name, code) in [("0000000", 3), ("ab", 3), ("@first", 2), ("@last", 2)] {
            way.ask(&place, &["approve", name]).exits(code);
        }
        let shown = way.ask(&place, &["questions", "show", &ids[0][..8], "--json"]).exits(0).json();
        assert_eq!(shown["id"], ids[0]);
    }
    place.on_runs(&["approve", &ids[0][..8]]).exits(0);
    // One is left, which the run then names.
    let told = place.on_runs(&["reject", "@last", "--json"]).exits(0).json();
    assert_eq!((&told["id"], &told["answer"]["do"]), (&json!(ids[1]), &json!("reject")));
    let none = place.on_runs(&["approve", "cup-1", "--json"]).exits(5).error();
    assert_eq!(none["code"], "no_open_question");
    assert_eq!(place.on_runs(&["approve", &ids[1][..8], "--json"]).exits(5).error()["code"], "already_answered");
    assert_eq!(go_on(&place, "both"), RunStatus::Completed);
}

#[test]
fn questions_are_listed_and_shown_the_same_here_and_there() {
    for asks in ["confirmation", "input", "output", "router", "error", "both"] {
        let place = stage(asks);
        let there = Way::both(&place, true);
        let Way::There(server) = &there else { unreachable!() };
        let id = place.on_runs(&["questions", "--json"]).exits(0).json()["questions"][0]["id"].clone();
        let show = format!("questions show {}", id.as_str().unwrap());
        for line in
            ["questions", "questions --all -n 1", "questions --run cup-1", &show, "show cup-1", "ls", "watch cup-1"]
        {
            for extra in [&["--time-format", "utc"][..], &["--json"]] {
                let arguments: Vec<_> = line.split(' ').chain(extra.iter().copied()).collect();
                let here = place.on_runs(&arguments);
                let told = there.ask(&place, &arguments);
                assert_eq!(told.code, here.code, "{line}: {}", told.stderr);
                let place = format!(" --server {}", server.url());
                assert_eq!(told.stdout.replace(&place, ""), here.stdout.replace(" --db runs.db", ""), "{line}");
                assert!(!here.stdout.is_empty(), "{line}");
            }
        }
    }
}

#[test]
fn whoever_looks_is_told_what_is_asked_and_the_command_that_answers_it() {
    for asks in ["confirmation", "input", "output", "router", "error"] {
        let place = stage(asks);
        let id = the_question(&place)["id"].as_str().unwrap().to_owned();
        let (message, command) = match asks {
            "confirmation" => ("Brew it?", format!("outlive approve {id} --db runs.db")),
            "input" => ("Which cup?", format!("outlive answer {id} --input colour=TEXT size=200 --db runs.db")),
            "output" => ("Is it good?", format!("outlive approve {id} --db runs.db")),
            "router" => ("Which tea?", format!("outlive answer {id} --choose Green --db runs.db")),
            _ => ("the kettle is broken", format!("outlive answer {id} --retry --db runs.db")),
        };
        let look = |arguments: &[&str]| {
            let mut command = place.command(&[arguments, &["--db", "runs.db"]].concat());
            command.env("PATH", place.search_path(true));
            Done::of(command)
        };
        let shown = look(&["show", "cup-1"]).exits(0).stdout;
        let watched = look(&["watch", "cup-1"]).exits(12);
        let one = look(&["questions", "show", &id]).exits(0).stdout;
        let refused = look(&["output", "cup-1"]).exits(5).stderr;
        for said in [&shown, &watched.stderr, &one, &refused] {
            assert!(said.contains(message) && said.contains(&command), "{asks}: {said}");
        }
        assert!(shown.contains("‖ Brew") || asks == "router" && shown.contains("‖ Which"), "{shown}");
        assert!(watched.stdout.contains(message) || asks == "error", "{asks}: {}", watched.stdout);
        assert!(look(&["events", "cup-1"]).exits(0).stdout.contains(message), "{asks}");
        let list = look(&["ls"]).exits(0);
        assert!(
            list.stdout.contains("a person: ") && list.stderr.contains("outlive questions --db runs.db"),
            "{list:?}"
        );
        // It works as it stands, in any shell.
        Done::of(place.shell(&command, true)).exits(0);
        assert_eq!(go_on(&place, asks), RunStatus::Completed, "{asks}");
        let shown = look(&["show", "cup-1"]).exits(0).stdout;
        assert!(shown.contains("✓ Brew") || asks == "router" && shown.contains("✓ Which"), "{shown}");
        assert!(look(&["watch", "cup-1"]).exits(0).stdout.contains("Completed"));
    }
}

#[test]
fn a_step_that_somebody_refused_is_told_as_left_out() {
    let place = stage("confirmation");
    place.on_runs(&["reject", "cup-1", "--by", "ada", "--reason", "too late"]).exits(0);
    assert_eq!(go_on(&place, "confirmation"), RunStatus::Completed);
    let shown = place.on_runs(&["show", "cup-1"]).exits(0).stdout;
    assert!(shown.contains("skipped   reject by ada: too late"), "{shown}");
    let watched = place.on_runs(&["watch", "cup-1"]).exits(0).stdout;
    assert!(watched.contains("‖ Brew") && watched.contains("reject by ada: too late"), "{watched}");
}
