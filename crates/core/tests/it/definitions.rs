//! Definitions as JSON: what is written, what is read again, and everything that can be wrong with it.

use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::testing::Forest;
use outlive_core::{
    Condition, Definition, DefinitionBuilder, ExecutorKind, Failure, ForEach, Function, Loop, Node, OnError, Parallel,
    Registry, Retry, Router, Step, StepHistory, StepInput, Steps, Structure,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn step(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

/// Something of this kind that does nothing.
struct Idle(ExecutorKind, &'static str, &'static str);

impl Executor for Idle {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: self.0, name: Arc::from(self.1), id: Some(self.2.parse().unwrap()) }
    }

    fn execute<'a>(&'a self, _: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async { Err(Failure::function("it does nothing")) })
    }
}

/// One of every kind.
fn everything() -> Definition {
    let inner = Definition::builder("Inner Flow").step(step("deep")).build().unwrap();
    Definition::builder("Every Kind")
        .description("one of each")
        .timeout(Duration::from_secs(60))
        .concurrency(7)
        .session_state(json!({ "count": 0 }).as_object().unwrap().clone())
        .step(Step::new("ask").agent(Idle(ExecutorKind::Agent, "HN Agent", "hn-agent")).description("asks"))
        .step(Step::new("team").team(Idle(ExecutorKind::Team, "crew", "crew")).timeout(Duration::from_millis(500)))
        .step(Step::new("up").executor(Function::new("upper", |_, _| async { Ok::<_, Failure>("x") })))
        .step(
            Steps::new("group").step(step("a")).step(step("b").retry(Retry::times(2).backoff(Duration::from_secs(3)))),
        )
        .step(
            Parallel::new("Research").step(step("hn")).step(step("web").on_error(OnError::Skip)).retry(Retry::times(1)),
        )
        .step(Loop::new("polish").step(step("draft")).until_cel("all_success").max_iterations(4))
        .step(Loop::new("again").step(step("once more")).forward_iteration_output(true))
        .step(Condition::new("urgent?").when(|_| true).step(step("yes")).otherwise(step("no")))
        .step(Condition::new("always").when_always(true).step(step("of course")))
        .step(Router::new("channel").select_cel("'post'").choice(step("post")).choice(step("article")))
        .step(ForEach::new("each").items_of("hn").step(step("body")).concurrency(3))
        .step(Step::new("nested").workflow(Arc::new(inner)))
        .build()
        .unwrap()
}

fn registry() -> Registry {
    let names = "a b hn web draft yes no post article body deep upper".split(' ').map(str::to_owned);
    let names = names.chain(["once more".to_owned(), "of course".to_owned()]);
    let registry = names
        .fold(Registry::new(), |registry, name| registry.function(name, |_, _| async { Ok::<_, Failure>("again") }));
    registry
        .agent(Idle(ExecutorKind::Agent, "HN Agent", "hn-agent"))
        .team(Idle(ExecutorKind::Team, "crew", "crew"))
        .condition("urgent?", |_| false)
}

#[test]
fn json_has_the_shape_of_agnos_to_dict() {
    let json = everything().to_json();
    let has = |node: &Value, expected: Value| {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(node.get(key), Some(value), "{key} of {node}");
        }
    };
    has(&json, json!({ "name": "Every Kind", "id": "every-kind", "description": "one of each", "timeout_ms": 60_000 }));
    has(&json, json!({ "concurrency": 7 }));
    has(&json, json!({ "session_state": { "count": 0 } }));
    let steps = json["steps"].as_array().unwrap();
    let plain = |name: &str| {
        json!({
            "type": "Step", "name": name, "description": null, "max_retries": 0, "skip_on_failure": false,
            "executor_ref": name
        })
    };
    let expected = [
        json!({
            "type": "Step", "name": "ask", "description": "asks", "max_retries": 0, "skip_on_failure": false,
            "agent_id": "hn-agent", "executor_name": "HN Agent"
        }),
        json!({
            "type": "Step", "name": "team", "description": null, "max_retries": 0, "skip_on_failure": false,
            "team_id": "crew", "timeout_ms": 500
        }),
        json!({
            "type": "Step", "name": "up", "description": null, "max_retries": 0, "skip_on_failure": false,
            "executor_ref": "upper"
        }),
        json!({
            "type": "Steps", "name": "group", "description": null, "steps": [
                plain("a"),
                {
                    "type": "Step", "name": "b", "description": null, "max_retries": 2, "skip_on_failure": false,
                    "executor_ref": "b", "backoff_ms": 3000
                }
            ]
        }),
        json!({
            "type": "Parallel", "name": "Research", "description": null, "max_retries": 1, "steps": [
                plain("hn"),
                {
                    "type": "Step", "name": "web", "description": null, "max_retries": 0, "skip_on_failure": true,
                    "executor_ref": "web"
                }
            ]
        }),
        json!({
            "type": "Loop", "name": "polish", "description": null, "steps": [plain("draft")], "max_iterations": 4,
            "end_condition": "all_success", "end_condition_type": "cel", "forward_iteration_output": false
        }),
        json!({
            "type": "Loop", "name": "again", "description": null, "steps": [plain("once more")], "max_iterations": 3,
            "end_condition": null, "end_condition_type": null, "forward_iteration_output": true
        }),
        json!({
            "type": "Condition", "name": "urgent?", "description": null, "steps": [plain("yes")],
            "else_steps": [plain("no")], "evaluator": "urgent?", "evaluator_type": "function"
        }),
        json!({
            "type": "Condition", "name": "always", "description": null, "steps": [plain("of course")],
            "else_steps": [], "evaluator": true, "evaluator_type": "bool"
        }),
        json!({
            "type": "Router", "name": "channel", "description": null, "choices": [plain("post"), plain("article")],
            "selector": "'post'", "selector_type": "cel"
        }),
        json!({
            "type": "ForEach", "name": "each", "description": null, "steps": [plain("body")], "items": "hn",
            "items_type": "output", "concurrency": 3
        }),
        json!({
            "type": "Step", "name": "nested", "description": null, "max_retries": 0, "skip_on_failure": false,
            "workflow_id": "inner-flow", "workflow_name": "Inner Flow", "steps": [plain("deep")]
        }),
    ];
    assert_eq!(steps, &expected);
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let was = everything();
    let is = Definition::from_json(&was.to_json(), &registry()).unwrap();
    assert_eq!((&is.nodes, &is.hash, is.to_json()), (&was.nodes, &was.hash, was.to_json()));
    assert_eq!((&is.session_state, is.timeout_ms), (&was.session_state, was.timeout_ms));
    assert_eq!(is.concurrency, was.concurrency);
    let structure = Structure::parse(&was.structure).unwrap();
    assert_eq!((&structure.nodes, &structure.hash, &structure.text), (&was.nodes, &was.hash, &was.structure));

    for seed in 0..500 {
        let was = Forest::new(seed, step).grow(u32::try_from(seed % 5).unwrap()).unwrap();
        let structure = Structure::from_json(&was.to_json()).unwrap();
        assert_eq!((&structure.nodes, &structure.hash), (&was.nodes, &was.hash), "seed {seed}");
        let copy = was.deep_copy().build().unwrap();
        assert_eq!((copy.to_json(), &copy.hash), (was.to_json(), &was.hash), "seed {seed}");
    }
}

#[test]
fn the_hash_covers_the_whole_tree() {
    let hash = |change: &dyn Fn(&mut Value)| {
        let mut json = everything().to_json();
        change(&mut json);
        Structure::from_json(&json).unwrap().hash
    };
    let mut hashes: Vec<_> = [
        &(|_: &mut Value| {}) as &dyn Fn(&mut Value),
        &|json| json["id"] = json!("other"),
        &|json| json["timeout_ms"] = json!(1),
        &|json| json["steps"][0]["description"] = json!("other"),
        &|json| json["steps"][0]["agent_id"] = json!("other"),
        &|json| json["steps"][3]["steps"][1]["backoff_ms"] = json!(1),
        &|json| json["steps"][3]["steps"][1]["backoff_ms_max"] = json!(1),
        &|json| json["steps"][4]["steps"][0]["skip_on_failure"] = json!(true),
        &|json| json["steps"][5]["end_condition"] = json!("true"),
        &|json| json["steps"][5]["max_iterations"] = json!(1),
        &|json| json["steps"][7]["else_steps"][0]["name"] = json!("other"),
        &|json| json["steps"][8]["evaluator"] = json!(false),
        &|json| json["steps"][9]["choices"][1]["executor_ref"] = json!("other"),
        &|json| json["steps"][10]["concurrency"] = json!(1),
        &|json| json["steps"][11]["workflow_id"] = json!("other"),
        &|json| json["steps"][11]["steps"][0]["timeout_ms"] = json!(1),
    ]
    .iter()
    .map(|change| hash(*change))
    .collect();
    let count = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
    let same = hash(&|json| json["description"] = json!("what it is for, and the state of new sessions, are no steps"));
    assert_eq!(same, everything().hash);
}

#[test]
fn code_that_is_missing_is_named_all_at_once_with_its_path() {
    let problems = Definition::from_json(&everything().to_json(), &Registry::new()).unwrap_err().problems;
    let function = |path: &str, name: &str| {
        format!("{path}: no function {name:?} is registered: add it with .function({name:?}, ..)")
    };
    let expected = [
        "steps[0]: no agent \"hn-agent\" is registered: add it with .agent(..)".to_owned(),
        "steps[1]: no team \"crew\" is registered: add it with .team(..)".to_owned(),
        function("steps[2]", "upper"),
        function("steps[3].steps[\"group\"].steps[0]", "a"),
        function("steps[3].steps[\"group\"].steps[1]", "b"),
        function("steps[4].parallel[\"Research\"].steps[0]", "hn"),
        function("steps[4].parallel[\"Research\"].steps[1]", "web"),
        function("steps[5].loop[\"polish\"].steps[0]", "draft"),
        function("steps[6].loop[\"again\"].steps[0]", "once more"),
        function("steps[7].condition[\"urgent?\"].steps[0]", "yes"),
        function("steps[7].condition[\"urgent?\"].else_steps[0]", "no"),
        "steps[7]: no condition \"urgent?\" is registered: add it with .condition(\"urgent?\", ..)".to_owned(),
        function("steps[8].condition[\"always\"].steps[0]", "of course"),
        function("steps[9].router[\"channel\"].choices[0]", "post"),
        function("steps[9].router[\"channel\"].choices[1]", "article"),
        function("steps[10].for_each[\"each\"].steps[0]", "body"),
        function("steps[11].workflow[\"nested\"].steps[0]", "deep"),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_nested_workflow_without_its_steps_is_the_registered_one() {
    let mut json = everything().to_json();
    json["steps"][11].as_object_mut().unwrap().remove("steps");
    let problem = Definition::from_json(&json, &registry()).unwrap_err().problems.concat();
    assert!(problem.starts_with("steps[11]: no workflow \"inner-flow\" is registered"), "{problem}");
    let inner = Definition::builder("Inner Flow").step(step("deep")).build().unwrap();
    let is = Definition::from_json(&json, &registry().workflow(Arc::new(inner))).unwrap();
    assert_eq!(is.hash, everything().hash);
    let problem = Structure::from_json(&json).unwrap_err().to_string();
    assert!(problem.contains("a nested workflow has none"), "{problem}");
}

#[test]
fn json_that_agno_wrote_is_read() {
    let json = json!({
        "name": "Agno's", "id": "agnos", "telemetry": true, "debug_mode": false, "stream_events": false,
        "store_executor_outputs": true, "num_history_runs": 3, "add_workflow_history_to_steps": false,
        "steps": [{
            "type": "Step", "name": "ask", "step_id": "5f0e", "description": null, "max_retries": 3,
            "skip_on_failure": false, "strict_input_validation": false, "add_workflow_history": null,
            "num_history_runs": 3,
            "human_review": { "requires_confirmation": false, "confirmation_message": null, "on_reject": "skip" },
            "agent_id": "hn-agent"
        }, {
            "type": "Router", "name": "r", "description": null, "requires_user_input": false,
            "user_input_message": null, "allow_multiple_selections": false, "selector": "pick",
            "selector_type": "function", "choices": [{ "type": "Step", "name": "a", "executor_ref": "a" }]
        }]
    });
    let definition = Definition::from_json(&json, &registry().selector("pick", |_| "a")).unwrap();
    assert_eq!(definition.nodes[0].retry().times, 3);
}

#[test]
fn everything_wrong_with_json_is_said_at_once_and_where() {
    let json = json!({
        "name": 7, "timeout_ms": -1, "colour": "red", "metadata": { "a": [1] },
        "steps": [
            "a",
            { "name": "a" },
            { "type": "Step", "name": "b", "agent_id": "x", "executor_ref": "y", "max_retries": "3" },
            { "type": "Swarm", "name": "c" },
            { "type": "Loop", "name": "d", "steps": {}, "max_iterations": 1.5, "end_condition": "x" },
            { "type": "Condition", "name": "e", "evaluator": 3, "evaluator_type": "cel", "steps": [
                { "type": "Router", "choices": [], "human_review": { "requires_confirmation": true } }
            ] },
        ]
    });
    let problems = Definition::from_json(&json, &Registry::new()).unwrap_err().problems;
    let expected = [
        "name: it must be text",
        "timeout_ms: it must be a whole number from 0 on",
        "steps[0]: it must be an object",
        "steps[0].name: it is missing",
        "steps[0]: it must have one of agent_id, team_id, executor_ref, workflow_id",
        "steps[1]: it must have one of agent_id, team_id, executor_ref, workflow_id",
        "steps[2].max_retries: it must be a whole number from 0 to 4294967295",
        "steps[2]: it must have one of agent_id, team_id, executor_ref, workflow_id",
        "steps[3].type: there is no \"Swarm\": use one of Step, Steps, Parallel, Loop, Condition, Router, ForEach",
        "steps[4].max_iterations: it must be a whole number from 0 to 4294967295",
        "steps[4].end_condition: end_condition_type must say what it is (cel, function), and it must be that",
        "steps[4].steps: it must be a list",
        "steps[5].evaluator: evaluator_type must say what it is (bool, cel, function), and it must be that",
        "steps[5].condition[\"e\"].steps[0].name: it is missing",
        "steps[5].condition[\"e\"].steps[0].selector: it is missing",
        "colour: nothing has this key here",
        "metadata: it is not there yet: leave it out",
    ];
    let listed: Vec<_> = problems.iter().map(String::as_str).take(expected.len()).collect();
    assert_eq!(listed, expected);
    assert!(problems.iter().any(|problem| problem.contains("Loop \"d\": it has no steps")), "{problems:?}");

    for (json, problem) in [(json!([]), "it must be an object"), (json!({ "id": "a b", "steps": [] }), "id: ")] {
        let text = Structure::from_json(&json).unwrap_err().to_string();
        assert!(text.contains(problem), "{text}");
    }
    let text = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let error = Structure::parse(&text).unwrap_err().to_string();
    assert!(error.contains("it is not JSON") && error.contains("deep"), "{error}");
    let deep = (0..40).fold(
        json!({ "name": "x", "executor_ref": "x" }),
        |inner, _| json!({ "type": "Steps", "name": "s", "steps": [inner] }),
    );
    let error = Structure::from_json(&json!({ "name": "Deep", "steps": [deep] })).unwrap_err().to_string();
    assert!(error.contains("nested more than 32 deep"), "{error}");
}

#[test]
fn inner_workflows_are_counted_wherever_they_are_used() {
    let twice = |name: &str, inner: &Arc<Definition>| {
        let steps = ["a", "b"].map(|step| Step::new(step).workflow(inner.clone()));
        steps.into_iter().fold(Definition::builder(name), DefinitionBuilder::step).build()
    };
    let mut inner = Arc::new(Definition::builder("w0").step(step("only")).build().unwrap());
    for level in 1..=11 {
        inner = Arc::new(twice(&format!("w{level}"), &inner).unwrap_or_else(|error| panic!("{level}: {error}")));
    }
    let error = twice("w12", &inner).unwrap_err().to_string();
    assert!(error.contains("more than 10000 steps, those of inner workflows included: take it apart"), "{error}");
    assert_eq!(error.matches("take it apart").count(), 1, "{error}");
}

#[test]
fn a_copy_can_be_changed_without_changing_its_original() {
    let original = everything();
    let (json, hash) = (original.to_json(), original.hash.clone());
    let copy = original.deep_copy().name("Other Kind").step(step("more")).build().unwrap();
    assert_eq!((copy.id.as_str(), copy.nodes.len()), ("other-kind", original.nodes.len() + 1));
    assert_eq!((original.to_json(), &original.hash), (json, &hash));
    let named = Definition::builder("A").id("own").step(step("a")).build().unwrap();
    assert_eq!(named.deep_copy().name("B").build().unwrap().id.as_str(), "own");
}

#[test]
fn what_steps_see_of_their_session_is_part_of_the_definition_and_reaches_those_inside() {
    let summarizer = || Function::new("sum", |_, _: Arc<StepInput>| async { Ok::<_, Failure>("short") });
    let inner = || Definition::builder("Inner").step(step("x")).step(step("y").add_workflow_history(false)).build();
    let build = |wants: bool| {
        Definition::builder("Outer")
            .add_workflow_history_to_steps(wants)
            .num_history_runs(7)
            .history_max_tokens(100)
            .step(step("a"))
            .step(Steps::new("s").step(step("b").num_history_runs(2)).step(step("c").add_workflow_history(false)))
            .step(step("d").add_workflow_history(true).history_max_tokens(9))
            .step(Step::new("n").workflow(Arc::new(inner().unwrap())))
    };
    let shown = |num_runs, max_tokens| {
        Some(StepHistory::Shown { num_runs, max_tokens: Some(max_tokens), is_summarized: false })
    };
    let histories = |definition: &Definition| {
        fn walk(node: &Node, all: &mut Vec<Option<StepHistory>>) {
            match node {
                Node::Step(step) => all.push(step.history),
                node => node.children(false).iter().for_each(|child| walk(child, all)),
            }
        }
        let mut all = Vec::new();
        definition.nodes.iter().for_each(|node| walk(node, &mut all));
        all
    };
    let hidden = Some(StepHistory::Hidden);
    let on = build(true).build().unwrap();
    assert_eq!(histories(&on), [shown(7, 100), shown(2, 100), hidden, shown(7, 9), shown(7, 100), hidden]);
    let off = build(false).build().unwrap();
    assert_eq!(histories(&off), [None, None, hidden, shown(7, 9), None, hidden]);
    assert_ne!(on.hash, off.hash);
    for definition in [&on, &off] {
        assert_eq!(Structure::from_json(&definition.to_json()).unwrap().hash, definition.hash);
        assert_eq!(definition.deep_copy().build().unwrap().hash, definition.hash);
    }
    // A workflow that says nothing of it has the hash it has always had.
    let plain = |builder: DefinitionBuilder| builder.step(step("a")).build().unwrap().hash;
    assert_eq!(plain(Definition::builder("P").num_history_runs(9)), plain(Definition::builder("P")));
    // As Agno writes it: for the workflow as a whole, and null or false where a step says nothing.
    let agnos = json!({ "name": "P", "add_workflow_history_to_steps": true, "num_history_runs": 3, "steps": [
        { "name": "a", "executor_ref": "a", "add_workflow_history": null, "num_history_runs": 3 },
    ] });
    let expected = Definition::builder("P").add_workflow_history_to_steps(true).step(step("a")).build().unwrap();
    assert_eq!(Structure::from_json(&agnos).unwrap().hash, expected.hash);

    let error = Structure::from_json(&json!({ "name": "P", "steps": [
        { "name": "a", "executor_ref": "a", "add_workflow_history": 3, "history_max_tokens": -1 },
    ] }));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("steps[0].add_workflow_history: it must be true or false"), "{error}");
    let sums = build(true).summarize_history(summarizer()).build().unwrap();
    let json = sums.to_json();
    assert_eq!(sums.deep_copy().build().unwrap().to_json(), json);
    let registry = Registry::new().function("a", |_, _: Arc<StepInput>| async { Ok::<_, Failure>("a") });
    let problems = Definition::from_json(&json, &registry).unwrap_err().problems;
    let missing = "step \"a\": its history is to be summarized and nobody does it: say who with .summarize_history(..)";
    assert!(problems.iter().any(|problem| problem == missing), "{problems:?}");
}

#[test]
fn a_definition_has_an_id_that_can_be_asked_for_and_one_that_was_stored_is_read() {
    for bad in ["a/b", "a\\b", "a;b", ".."] {
        let error = Definition::builder("P").id(bad).step(step("a")).build().unwrap_err();
        assert!(error.problems[0].contains("it stands in addresses"), "{error}");
        let mut json = Definition::builder("P").step(step("a")).build().unwrap().to_json();
        json["id"] = json!(bad);
        assert_eq!(Structure::from_json(&json).unwrap().id.as_str(), bad);
    }
}

#[test]
fn what_a_selector_has_written_out_is_one_of_the_choices() {
    let router = |select: &str| Router::new("r").select_cel(select).choice(step("a")).choice(step("b"));
    let build = |select: &str| Definition::builder("P").step(router(select)).build();
    for fine in ["'a'", "['b', 'a']", "size(input) > 3 ? 'a' : 'b'", "input", "'c' + input", "[]"] {
        assert!(build(fine).is_ok(), "{fine}");
    }
    for wrong in ["'c'", "['a', 'c']", "input == 'c' ? 'c' : 'a'"] {
        let problems = build(wrong).unwrap_err().problems;
        assert_eq!(problems, ["Router \"r\": it may choose \"c\", which is not among its choices: a, b"], "{wrong}");
    }
}
