//! Workflows in files: what they build, what is said of those that are wrong, and on which text a run goes on.

use crate::world::World;
use outlive::agent::model::ModelProfile;
use outlive::core::port::Db;
use outlive::core::{Definition, Registry};
use outlive::prelude::*;
use outlive::{File, FileProblemKind, InvalidFile, WorkflowRunOutput};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CONTENT: &str = include_str!("files/content.yaml");
const NEWS: &str = include_str!("files/news.yaml");
/// Every kind of thing that a file can say.
const EVERYTHING: &str = include_str!("files/everything.yaml");

fn clean(_: outlive::core::port::StepContext, input: Arc<StepInput>) -> impl Future<Output = Result<String, Failure>> {
    std::future::ready(Ok(input.text().trim().to_owned()))
}

fn registry() -> Registry {
    Registry::new().function("clean_text", clean)
}

fn invalid(file: outlive::Result<File>) -> InvalidFile {
    let demo = ScriptedModel::replies([]);
    let definitions = file.and_then(|file| file.functions(registry()).model("demo", demo).definitions());
    match definitions {
        Err(outlive::Error::File(invalid)) => invalid,
        Err(other) => panic!("{other}"),
        Ok(built) => panic!("{built:?} is fine"),
    }
}

/// The problems of a text, as lines.
fn problems(text: &str) -> String {
    invalid(File::parse("x.yaml", text)).to_string()
}

/// A document with these lines in place of its steps.
fn with_steps(steps: &str) -> String {
    format!("version: 1\nmodel: demo\nagents: {{ a: {{}} }}\nworkflows:\n  w:\n    steps:\n{steps}")
}

fn definitions(text: &str) -> Vec<Arc<Definition>> {
    let file = File::parse("x.yaml", text).unwrap_or_else(|error| panic!("{error}")).functions(registry());
    file.model("demo", ScriptedModel::replies([])).inspect().definitions().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_budget_that_a_file_cannot_mean_is_refused_where_it_stands() {
    for (budget, column, why) in [
        ("{ limit: 99999999999999999999 tokens, per: run }", 18, "at most 9223372036854775807 tokens"),
        ("{ limit: 1e300 USD, per: run }", 18, "it is more than can be counted: at most 9223372036.00 USD"),
        ("{ limit: -5 USD, per: run }", 18, "it must not be below 0"),
        ("{ limit: 0.0000000000001 USD, per: run }", 18, "at least 0.000000001 USD"),
        ("{ limit: 1.5 calls, per: run }", 18, "calls are counted in whole numbers"),
        ("{ limit: NaN USD, per: run }", 18, "a number is expected (USD); write 5 USD"),
        ("{ limit: 5 calls, per: all, daily: true, time_zone: Berlin }", 61, "\"Berlin\" is not a time zone"),
        ("{ limit: 5 calls, per: all, time_zone: UTC }", 0, "make it one per day"),
    ] {
        let text = with_steps("      - { step: A, agent: a }\n    budgets:\n");
        let told = problems(&format!("{text}      - {budget}\n"));
        assert!(told.contains(why), "{budget}: {told}");
        assert!(column == 0 || told.contains(&format!("9:{column}")), "{budget}: {told}");
    }
}

/// A text without its `^`, and the place of that.
fn marked(text: &str) -> (String, String) {
    let at = text.find('^').unwrap();
    let (line, column) =
        (text[..at].matches('\n').count() + 1, text[..at].rsplit('\n').next().unwrap().chars().count() + 1);
    (text.replacen('^', "", 1), format!("x.yaml:{line}:{column}: "))
}

#[test]
fn an_amount_that_cannot_mean_anything_is_refused_where_it_stands() {
    const NO_TIME: &str = "no time at all cannot be meant: write how long, or leave the key out";
    const NOT_NONE: &str = "it must be at least 1";
    const TOO_LONG: &str = "it is longer than anybody waits: write at most 36500d";
    let workflow = |rest: &str| with_steps(&format!("      - {{ step: A, agent: a }}\n    {rest}\n"));
    let step = |rest: &str| with_steps(&format!("      - {{ step: A, agent: a, {rest} }}\n"));
    let agent = |rest: &str| step("description: x").replace("a: {}", &format!("a: {{ {rest} }}"));
    let beside_model = |rest: &str| step("description: x").replace("model: demo", &format!("model: demo\n{rest}"));
    let tool = |rest: &str| {
        beside_model(&format!("tools: {{ t: {{ http: {{ url: \"https://x.org\" }}, description: T, {rest} }} }}"))
    };
    let profile = |rest: &str| beside_model(&format!("models: {{ m: {{ model: ollama:x, {rest} }} }}"));
    for (text, said) in [
        (workflow("timeout: ^0s"), NO_TIME),
        (step("timeout: ^0ms"), NO_TIME),
        (step("retry: { times: 1, backoff_max: ^0s }"), NO_TIME),
        (step("review: { confirm: Go?, expires_in: ^000d }"), NO_TIME),
        (agent("timeout: ^0h"), NO_TIME),
        (tool("timeout: ^0s"), NO_TIME),
        (workflow("leader: { timeout: ^0s }"), NO_TIME),
        (profile("timeout: ^0s"), "timeout is \"0s\": write a time such as 90s or 5m"),
        (profile("max_output_tokens: ^0"), NOT_NONE),
        (profile("requests_per_minute: ^0"), NOT_NONE),
        (profile("tokens_per_minute: ^0"), NOT_NONE),
        (agent("turns_max: ^0"), NOT_NONE),
        (agent("tool_calls_at_once: ^0"), NOT_NONE),
        (workflow("concurrency: ^0"), NOT_NONE),
        (workflow("history: { max_tokens: ^0 }"), NOT_NONE),
        (step("history: { runs: 1, max_tokens: ^0 }"), NOT_NONE),
        (workflow("budgets: [{ limit: ^0 USD, per: run }]"), "nothing could be used: it must be more than 0"),
        (workflow("budgets: [{ limit: ^0 calls, per: run }]"), "nothing could be used: it must be more than 0"),
        (workflow("timeout: ^5 minutes"), "it must look like 30s"),
        (workflow("timeout: ^36501d"), TOO_LONG),
        (workflow("retention: { max_age: ^36501d }"), TOO_LONG),
    ] {
        let (text, place) = marked(&text);
        let told = problems(&text);
        assert!(told.starts_with(&format!("{place}{said}")), "{text}\n{told}\nis not {place}{said}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn an_amount_of_nothing_is_taken_where_it_means_something() {
    let text = with_steps(
        "      - { step: A, agent: a, retry: { times: 0, backoff: 0s }, history: { runs: 0 } }
      - { step: B, agent: a, review: { output: Good?, on_reject: retry, max_retries: 0 } }
    history: { runs: 0, summarize: demo }
    retention: { max_age: 0s, max_runs: 0 }
    leader: { history: { runs: 0 } }
",
    );
    let agent = "a: { history: { runs: 0 }, tool_call_limit: 0, output_retries: 0, retry: { times: 2, backoff: 0s } }";
    let built = definitions(&text.replace("a: {}", agent)).remove(0);
    assert_eq!((built.retention.max_age, built.retention.max_runs), (Some(Duration::ZERO), Some(0)));
    assert_eq!(built.nodes[0].retry().backoff_ms, 0);
}

#[test]
fn a_review_asks_for_what_it_says() {
    let review = |node: &str, rest: &str| {
        let text = match node {
            "router" => format!("      - {{ router: A, choices: [{{ step: B, agent: a }}], review: {{ {rest} }} }}\n"),
            _ => format!("      - {{ step: A, agent: a, review: {{ {rest} }} }}\n"),
        };
        with_steps(&text)
    };
    for (rest, said) in [
        ("^ask: Which?", "it says no `fields` to fill in: write some, or `confirm` for a yes or no"),
        ("confirm: Go?, ^fields: [{ name: x }]", "nothing asks for them: write `ask: TEXT`, or leave them out"),
        ("ask: x, fields: [{ name: x }], ^several: true", "only a router that has a person choose"),
        ("confirm: Go?, ^several: false", "only a router that has a person choose"),
        ("confirm: Go?, ^on_timeout: skip", "an answer is waited for for ever: write `expires_in` too"),
    ] {
        let (text, place) = marked(&review("step", rest));
        let told = problems(&text);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.starts_with(&format!("{place}{said}")), "{told}\nis not {place}{said}");
    }
    for (node, rest) in [
        ("router", "ask: Which?"),
        ("router", "ask: Which?, several: true, expires_in: 1m, on_timeout: approve"),
        ("step", "ask: Which?, fields: [{ name: x }]"),
        ("step", "confirm: Go?, on_reject: retry, max_retries: 2"),
    ] {
        assert_eq!(definitions(&review(node, rest)).len(), 1, "{rest}");
    }
}

#[test]
fn what_is_missing_for_a_model_that_stands_in_is_told_where_it_is_named() {
    let profile = |text: Value| serde_json::from_value::<ModelProfile>(text).unwrap();
    let missing = "needs NOT_SET_ANYWHERE, which is not set";
    let own = "models:
  fast: { model: ollama:x, fallbacks: [ollama:y, slow] }
  slow: { model: openai:z, api_key_variable: NOT_SET_ANYWHERE }
";
    let text = "version: 1\nMODELSmodel: fast\nagents: { a: {}, b: { model: fast } }\nworkflows: { w: { steps: [{ step: A, agent: a }, { step: B, agent: b }] } }\n";
    let in_file = File::parse("x.yaml", text.replace("MODELS", own)).unwrap();
    let in_settings = || {
        let file = File::parse("x.yaml", text.replace("MODELS", "")).unwrap();
        let file =
            file.model_profile("fast", profile(json!({ "model": "ollama:x", "fallbacks": ["ollama:y", "slow"] })));
        file.model_profile("slow", profile(json!({ "model": "openai:z", "api_key_variable": "NOT_SET_ANYWHERE" })))
    };
    let told = |file: File| file.definitions().unwrap_err().to_string();
    assert_eq!(told(in_file), format!("x.yaml:4:18: model openai:z {missing}"));
    assert_eq!(told(in_settings()), format!("x.yaml:2:8: model openai:z {missing}"));
    let by_agent =
        File::parse("x.yaml", text.replace("MODELS", "").replace("model: fast\n", "model: ollama:x\n")).unwrap();
    let by_agent = by_agent.model_profile(
        "fast",
        profile(json!({ "model": "ollama:x", "fallbacks": ["openai-chat:q"], "base_url": "http://127.0.0.1:1/v1" })),
    );
    assert_eq!(told(by_agent.clone()), "x.yaml:3:30: model openai-chat:q needs OPENAI_API_KEY, which is not set");
    // A mistake in a profile stands at the key that it is about.
    let wrong = own.replace("api_key_variable: NOT_SET_ANYWHERE", "background: ^true").replace("openai:z", "groq:z");
    let (wrong, place) = marked(&text.replace("MODELS", &wrong));
    let said = told(File::parse("x.yaml", wrong).unwrap());
    assert!(said.starts_with(&format!("{place}background is for openai alone")), "{said} is not at {place}");
}

#[test]
fn a_suggestion_is_another_name_and_made_for_names_only() {
    for models in [
        "a: { model: ollama:x }, b: { model: ollama:y, timeout: '5' }",
        "a: { model: ollama:x }, b: { model: ollama:y, temperature: 1.5, top_p: 0.5, timeout: soon }",
        "a: { model: ollama:x }, b: { model: b }",
    ] {
        let text = format!(
            "version: 1\nmodels: {{ {models} }}\nagents: {{ x: {{ model: b }} }}\nworkflows: {{ w: {{ steps: [{{ step: A, \
             agent: x }}] }} }}\n"
        );
        let said = problems(&text);
        assert!(!said.contains("did you mean \""), "{said}");
    }
    let said = problems("version: 1\nworkflwos: { w: { steps: [] } }\n");
    assert_eq!(said, "x.yaml:2:1: unknown key \"workflwos\": did you mean \"workflows\"?");
}

#[test]
fn a_model_that_takes_the_place_of_all_is_no_mistake_of_the_file() {
    let file = || File::parse("x.yaml", with_steps("      - { step: A, agent: a }\n")).unwrap();
    let file = || file().model("demo", ScriptedModel::replies([]));
    let problem = |name: &str| file().every_model(name).every_model_problem();
    assert_eq!((file().every_model_problem(), problem("demo"), problem("ollama:x")), (None, None, None));
    let (kind, wrong) = problem("dmeo").unwrap();
    assert!(kind == FileProblemKind::Invalid && wrong.ends_with(": did you mean \"demo\"?"), "{wrong}");
    let key = json!({ "model": "openai:x", "api_key_variable": "NOT_SET_ANYWHERE" });
    let fast = json!({ "model": "ollama:x", "fallbacks": ["slow"] });
    let profile = |text: Value| serde_json::from_value::<ModelProfile>(text).unwrap();
    let file = file().model_profile("slow", profile(key)).model_profile("fast", profile(fast)).every_model("fast");
    let missing = "model openai:x needs NOT_SET_ANYWHERE, which is not set".to_owned();
    assert_eq!(file.every_model_problem(), Some((FileProblemKind::Missing, missing)));
}

#[tokio::test]
async fn the_seed_as_a_file_makes_the_same_calls_as_the_program() {
    let mut asked = Vec::new();
    for from_file in [false, true] {
        let world = World::new().await;
        let workflow = if from_file {
            let url = world.sites.url();
            let file = File::parse("content.yaml", CONTENT).unwrap();
            let file = file.model("openai:gpt-5.2", world.responses());
            let file = file.tools("hackernews", HackerNewsTools::default().base_url(&url));
            let file = file.tools("yfinance", YFinanceTools::default().base_url(&url));
            file.db(world.db()).workflows().unwrap().remove(0)
        } else {
            world.workflow(world.responses(), true)
        };
        assert_eq!(workflow.run("AI trends in 2024").await.unwrap().status, RunStatus::Completed);
        let mut requests: Vec<_> = world.models.log().iter().map(|exchange| exchange.request.to_string()).collect();
        requests.sort();
        asked.push(requests);
        workflow.shutdown().await.unwrap();
    }
    assert!(asked[0].len() > 5, "{}", asked[0].len());
    assert_eq!(asked[0], asked[1]);
}

#[test]
fn a_file_builds_what_the_builders_build() {
    let writer = || Agent::new("Writer").model(ScriptedModel::replies([]));
    let critic = || Agent::new("Critic").model(ScriptedModel::replies([]));
    let topic = json!({ "type": "object", "required": ["topic"], "properties": { "topic": { "type": "string" } } });
    let day = Duration::from_secs(24 * 3600);
    let built = Workflow::builder("Newsletter")
        .db(InMemoryDb::new())
        .input_schema_json(topic)
        .step(
            Parallel::new("Research").step(Step::new("HN").agent(writer())).step(
                Step::new("Stocks")
                    .agent(writer())
                    .retry(Retry::times(3).backoff(Duration::from_secs(1)))
                    .timeout(Duration::from_secs(30)),
            ),
        )
        .step(Step::new("Clean").executor(outlive::Function::new("clean_text", clean)))
        .step(
            Loop::new("Polish")
                .max_iterations(3)
                .until_cel("last_step_content.contains(\"APPROVED\")")
                .step(Step::new("Draft").agent(writer()))
                .step(Step::new("Review").agent(critic())),
        )
        .step(
            Condition::new("Mentions money?")
                .when_cel("previous_step_content.contains(\"$\")")
                .step(Step::new("Add disclaimer").agent(writer())),
        )
        .step(
            Router::new("Channel")
                .select_cel("size(previous_step_content) < 280 ? \"Post\" : \"Article\"")
                .choice(Step::new("Post").agent(writer()))
                .choice(Step::new("Article").agent(writer())),
        )
        .step(
            Step::new("Publish")
                .agent(writer())
                .human_review(HumanReview::confirmation("Publish this?").on_reject(OnReject::Skip).timeout(day)),
        )
        .build()
        .unwrap();
    let mut read = definitions(NEWS).remove(0).to_json();
    let source = read.as_object_mut().and_then(|fields| fields.remove("source")).unwrap();
    assert_eq!(read, built.to_json());
    assert!(source.as_str().unwrap().contains("Mentions money?"), "the text is kept with it");
}

#[test]
fn every_thing_that_a_file_can_say_is_read() {
    let built = definitions(EVERYTHING);
    let everything = built.iter().find(|built| &*built.name == "Everything").unwrap();
    let json = everything.to_json().to_string();
    for word in
        ["Parallel", "Loop", "Condition", "Router", "ForEach", "Steps", "workflow_id", "team_id", "executor_ref"]
    {
        assert!(json.contains(word), "{word}: {json}");
    }
    let spending = everything.spending.as_ref().unwrap();
    let budgets: Vec<_> = spending.budgets.iter().map(ToString::to_string).collect();
    assert_eq!(budgets, ["5.00 USD per run", "200000 tokens per user and day (Europe/Berlin)"]);
    assert_eq!((everything.concurrency, everything.timeout_ms), (Some(4), Some(3_600_000)));
    let file = File::parse("everything.yaml", EVERYTHING).unwrap().functions(registry()).inspect();
    let schedules = file.schedules().unwrap();
    assert_eq!(schedules.len(), 1);
    assert_eq!(schedules[0].create.spec.time_zone, "Europe/Berlin");
}

#[test]
fn a_file_says_what_a_busy_session_does_and_how_long_runs_are_kept() {
    let built = definitions(EVERYTHING);
    let everything = built.iter().find(|built| &*built.name == "Everything").unwrap();
    assert_eq!(everything.session_policy, SessionPolicy::Steer);
    assert_eq!(everything.steer_to.as_deref(), Some("desk"), "the id of the team");
    let kept = everything.retention;
    assert_eq!((kept.max_age, kept.max_runs), (Some(Duration::from_secs(30 * 86_400)), Some(1000)));
    for policy in SessionPolicy::ALL {
        let text = with_steps("      - { step: A, agent: a }\n    session_policy: POLICY\n");
        let built = definitions(&text.replace("POLICY", policy.as_str())).remove(0);
        assert_eq!(built.session_policy, policy);
    }
    let wrong = with_steps("      - { step: A, agent: a }\n    session_policy: intterupt\n    steer_to: wrtier\n");
    let said = problems(&wrong);
    assert!(said.contains("\"intterupt\" is not known: did you mean \"interrupt\"?"), "{said}");
    let said = problems(&wrong.replace("intterupt", "interrupt").replace("wrtier", "b"));
    assert!(said.contains("unknown agent or team \"b\": did you mean \"a\"?"), "{said}");
}

#[tokio::test]
async fn requests_of_a_busy_session_go_by_what_the_file_says() {
    let text = with_steps(
        "      - { step: Wait, function: clean_text, review: { confirm: Go on? } }\n    session_policy: reject\n",
    );
    let file = File::parse("x.yaml", text).unwrap().functions(registry()).model("demo", ScriptedModel::replies([]));
    let workflow = file.db(InMemoryDb::new()).workflows().unwrap().remove(0);
    let first = workflow.run("x").session_id("ada").background().await.unwrap();
    let refused = workflow.run("y").session_id("ada").background().await.unwrap_err().to_string();
    assert!(refused.contains("ada"), "{refused}");
    let next = workflow.run("y").session_id("ada").session_policy(SessionPolicy::Queue).background().await.unwrap();
    assert_ne!(first.run_id(), next.run_id());
    workflow.run("z").session_id("ada").interrupt().background().await.unwrap();
    assert_eq!(first.wait().await.unwrap().status, RunStatus::Cancelled);
    workflow.shutdown().await.unwrap();
}

#[test]
fn models_that_stand_in_have_one_word() {
    let text = "\
version: 1
models: { fast: { model: demo, fallback: [demo] } }
agents: { a: { model: fast, fallback: [demo] } }
workflows: { w: { steps: [{ step: A, agent: a }] } }
";
    let said = problems(text);
    assert_eq!(
        said,
        "x.yaml:2:32: unknown key \"fallback\": did you mean \"fallbacks\"?\n\
         x.yaml:3:29: unknown key \"fallback\": did you mean \"fallbacks\"?"
    );
    assert_eq!(definitions(&text.replace("fallback", "fallbacks")).len(), 1);
}

#[test]
fn files_fit_the_schema_that_editors_are_given() {
    let schema = File::schema();
    assert_eq!(schema["title"], "outlive workflow file");
    assert!(!schema.to_string().contains("x-kind"), "what it is checked by is not shown");
    // A mistake is one for the schema too.
    let value = json!({ "version": 1, "workflows": { "w": { "steps": [{ "step": "A", "agnet": "a" }] } } });
    assert!(outlive::core::check(&value, &schema).is_err());
    let value = json!({ "version": 1, "workflows": { "w": { "steps": [{ "step": "A", "agent": "a" }] } } });
    assert_eq!(outlive::core::check(&value, &schema), Ok(()));
}

#[test]
fn bad_e01_a_file_that_is_too_much_is_refused_at_once() {
    let mut laughs = "version: 1\nx0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        writeln!(laughs, "x{level}: &x{level} [{}]", vec![format!("*x{}", level - 1); 10].join(", ")).unwrap();
    }
    assert!(problems(&laughs).contains("definition_too_large"), "{}", problems(&laughs));
    assert!(problems("a: &a [*a]").starts_with("x.yaml:1:"), "{}", problems("a: &a [*a]"));
    let long = format!("version: 1\n# {}\n", "long ".repeat(2 << 20));
    assert!(problems(&long).starts_with("x.yaml:1:1: definition_too_large"));
    assert!(problems(&"- ".repeat(1_000)).contains("definition_too_deep"));
    assert!(problems(&"[".repeat(1_000)).contains("definition_too_deep"));
    let flow = problems(&"{a: ".repeat(1_000));
    assert!(flow.contains("definition_too_deep"), "{flow}");
}

#[test]
fn bad_e02_mistakes_are_told_with_line_and_column_and_what_was_meant() {
    let text = with_steps("      - step: no\n        agnet: a\n      - step: 1e3\n        agent: a\n");
    let said = problems(&text);
    assert_eq!(said.lines().next().unwrap(), r#"x.yaml:8:9: unknown key "agnet": did you mean "agent"?"#);
    let tabs = problems("version: 1\nworkflows:\n\tw: 1\n");
    assert!(tabs.starts_with("x.yaml:3:") && tabs.contains("YAML allows no tabs"), "{tabs}");
    let twice = problems("version: 1\nmodel: demo\nmodel: demo\nworkflows: { w: { steps: [] } }\n");
    assert!(twice.contains("x.yaml:3:1: the key \"model\" is there twice: it is also on line 2"), "{twice}");
    assert!(twice.contains("the list is empty"), "and everything else too: {twice}");
}

#[test]
fn bad_e02_text_stays_text_where_text_is_wanted() {
    let text =
        with_steps("      - { step: no, agent: a }\n      - { step: 1e3, agent: a }\n      - { step: on, agent: a }\n");
    let built = definitions(&text).remove(0);
    let names: Vec<_> = built.nodes.iter().map(|node| &**node.name()).collect();
    assert_eq!(names, ["no", "1e3", "on"]);
}

#[test]
fn bad_e03_what_refers_wrongly_is_refused_all_at_once() {
    let text = "\
version: 1
model: demo
agents: { writer: {}, critic: { model: opnai:gpt-5.2 } }
teams:
  red: { members: [writer, blue] }
  blue: { members: [red, wrtier] }
workflows:
  a:
    steps:
      - { step: One, workflow: b }
      - { step: One, agent: writer }
      - { step: Two, agent: writter }
      - { step: Three, agent: writer, team: red }
      - { step: Four }
      - { step: Five, agent: red }
  b:
    steps:
      - { step: Back, workflow: a }
      - loop: Endless
        steps: [{ step: X, agent: writer }]
      - parallel: Nothing
        steps: []
  c:
    steps:
      - condition: Odd
        when: previous_step_contents.contains(\"x\")
        then: [{ step: X, agent: writer }]
";
    let said = problems(text);
    for expected in [
        "x.yaml:3:40: model \"opnai:gpt-5.2\" names the unknown provider",
        "x.yaml:5:28: teams are members of each other: blue → red → blue",
        "x.yaml:6:26: unknown member \"wrtier\": did you mean \"writer\"?",
        "x.yaml:11:9: two steps are named \"One\"",
        "x.yaml:12:29: unknown agent \"writter\": did you mean \"writer\"?",
        "x.yaml:13:9: it has agent and team: leave one of them",
        "x.yaml:14:9: it does nothing: give it one of agent, team, function, workflow, http, command",
        "x.yaml:15:30: \"red\" is a team: write `team: red`",
        "x.yaml:18:33: workflows execute each other: a → b → a",
        "x.yaml:19:9: \"max_iterations\" is missing (Iterations, at most)",
        "x.yaml:22:16: the list is empty: write at least one",
        "x.yaml:26:15: not valid in a condition:",
    ] {
        assert!(said.lines().any(|line| line.starts_with(expected)), "{expected}\nis not in\n{said}");
    }
    assert_eq!(said.lines().count(), 12, "each once: {said}");
    // Those that are left when its shape is right are the same.
    let shaped = text.replace("loop: Endless\n", "loop: Endless\n        max_iterations: 2\n");
    let shaped = problems(&shaped.replace("steps: []", "steps: [{ step: Y, agent: writer }]"));
    assert_eq!(shaped.lines().count(), 10, "{shaped}");
}

#[tokio::test]
async fn fields_of_the_input_reach_expressions_of_files_programs_and_inner_workflows() {
    let text = "\
version: 1
model: demo
agents: { a: {} }
workflows:
  outer: { steps: [{ step: Inner, workflow: inner }] }
  inner:
    steps:
      - { for_each: Each, items: input_data.topics, steps: [{ step: A, agent: a }] }
      - { condition: Many?, when: 'has(input_data.n) && input_data.n > 3', then: [{ step: B, agent: a }] }
";
    let input = json!({ "topics": ["tea", "milk"], "n": 4 });
    for key in ["inner", "outer"] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let demo = ScriptedModel::from_fn("demo", move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Failure>(ModelResponse::text("said"))
        });
        let file = File::parse("x.yaml", text).unwrap().model("demo", demo).db(InMemoryDb::new());
        let workflows = file.workflows().unwrap();
        let workflow = workflows.iter().find(|workflow| workflow.definition().id.as_str() == key).unwrap();
        workflow.run(input.clone()).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 3, "{key}");
    }
    let work = |name: &'static str| Step::function(name, move |_, _| async move { Ok::<_, Failure>(name) });
    let router = Router::new("Which").select_cel("input_data.n > 3 ? 'Many' : 'Few'");
    let workflow = Workflow::builder("w").db(InMemoryDb::new()).step(router.choice(work("Many")).choice(work("Few")));
    let run = workflow.build().unwrap().run(input).await.unwrap();
    assert!(format!("{run:?}").contains("\"Many\"") && !format!("{run:?}").contains("\"Few\""), "{run:?}");
}

#[test]
fn what_follows_from_a_wrong_shape_is_not_told_and_nothing_is_that_only_the_program_knows() {
    for (text, expected) in [
        // A step, an agent and a tool that are not quite there are still there for those who name them.
        (
            "version: 1
model: demo
tools: { look: { htpp: { url: https://api.example.org }, description: Looks } }
agents: { a: { tools: [look, lookup], modle: demo }, b: 7 }
teams: { t: { members: [a, b, c] } }
workflows:
  w:
    steps:
      - { step: A, agnet: a }
      - { step: B, agent: b, timeout: soon }
      - { for_each: C, items_of: A, steps: [{ step: D, team: t }] }
      - { agent: a }
      - { condition: E, when: [1], then: [{ step: F, agent: a, retry: yes }] }
",
            &["3:18", "4:39", "4:57", "5:31", "9:20", "10:39", "12:11", "13:31", "13:71"][..],
        ),
        // Where names may be declared under a key that is not known, none is missing.
        ("version: 1\nagentss: { a: {} }\nworkflows: { w: { steps: [{ step: A, agent: a }] } }\n", &["2:1"]),
        // A model, a tool and an MCP server may be the program's.
        (
            "version: 1
agents: { a: { model: fast, tools: [own] }, b: { model: opnai:x, colour: red } }
workflows: { w: { steps: [{ step: A, agent: a }, { step: B, agent: b }] } }
",
            &["2:57", "2:66"],
        ),
    ] {
        let said = problems(text);
        let places: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
        let expected: Vec<_> = expected.iter().map(|place| format!("x.yaml:{place}")).collect();
        assert_eq!(places, expected, "{said}");
    }
}

#[test]
fn bad_e04_tags_secrets_and_variables_in_wrong_places_are_refused_and_not_shown() {
    let text = "\
version: 1
model: !!python/object:os.system demo
models:
  own: { model: openai:gpt-5.2, base_url: '${OPENAI_BASE_URL}' }
tools:
  look:
    http:
      url: https://api.example.org/look
      headers: { Authorization: Bearer sk-abcdefghijklmnopqrstuvwxyz123456, X-Api-Key: plainly }
    description: Looks
  find:
    http: { url: 'https://api.example.org/${env:TOKEN}', headers: { Authorization: 'Bearer ${env:TOKEN}' } }
    description: Finds
agents: { a: { instructions: 'Say ${HOME} as it is', tools: [look] } }
workflows: { w: { steps: [{ step: A, agent: a }] } }
";
    let said = problems(text);
    let places: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["x.yaml:2:8", "x.yaml:4:43", "x.yaml:9:33", "x.yaml:9:88", "x.yaml:12:18"], "{said}");
    assert!(said.lines().nth(2).unwrap().contains("looks like a secret"), "{said}");
    assert!(!said.contains("abcdefghijkl") && !said.contains("plainly"), "{said}");
}

#[cfg(unix)]
#[test]
fn bad_e05_what_is_no_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    std::fs::write(path("bytes.yaml"), b"version: 1\nmodel: \xff\xfe\n").unwrap();
    std::fs::create_dir(path("inner")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", path("inner/out.yaml")).unwrap();
    for (name, said) in [
        ("pipe.yaml", "pipe.yaml:1:1: it is a device or a pipe"),
        ("bytes.yaml", "bytes.yaml:2:1: this line is not UTF-8"),
        ("inner", "inner:1:1: it is a folder"),
        ("none.yaml", "none.yaml:1:1: it cannot be read"),
    ] {
        let problems = invalid(File::read(path(name))).to_string();
        assert!(problems.contains(said), "{problems}");
    }
    let device = invalid(File::read("/dev/zero")).to_string();
    assert!(device.contains("device or a pipe"), "{device}");
    match File::read_all(path("inner")) {
        Err(outlive::Error::File(invalid)) => assert!(invalid.to_string().contains("it leads out of"), "{invalid}"),
        other => panic!("{other:?}"),
    }
}

/// xorshift: the same files each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }
}

#[test]
fn mutated_files_never_panic_and_always_name_a_line() {
    let pieces = [
        "\t", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "!!x ", "'", "\"", "|\n", "#", "---\n", "\u{0}", "é", "? ",
        "1e999", "~", "\n  ",
    ];
    let mut refused = 0;
    for seed in 1..=2_000_u64 {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut text: Vec<char> = [CONTENT, NEWS, EVERYTHING][chance.below(3)].chars().collect();
        for _ in 0..=chance.below(4) {
            let at = chance.below(text.len());
            match chance.below(4) {
                0 => drop(text.remove(at)),
                1 => {
                    let piece = pieces[chance.below(pieces.len())];
                    text.splice(at..at, piece.chars());
                }
                2 => {
                    let end = (at + chance.below(40)).min(text.len());
                    text.drain(at..end);
                }
                _ => {
                    let end = (at + chance.below(200)).min(text.len());
                    let copy: Vec<char> = text[at..end].to_vec();
                    let to = chance.below(text.len());
                    text.splice(to..to, copy);
                }
            }
        }
        let text: String = text.into_iter().collect();
        let lines = text.lines().count() + 1;
        let file = File::parse("x.yaml", text.clone());
        let built = file.and_then(|file| file.functions(registry()).inspect().definitions());
        match built {
            Ok(_) => {}
            Err(outlive::Error::File(invalid)) => {
                refused += 1;
                assert!(!invalid.problems.is_empty(), "{seed}: {text}");
                for problem in &invalid.problems {
                    assert!((1..=lines).contains(&problem.line) && problem.column >= 1, "{seed}: {problem}\n{text}");
                    assert!(!problem.message.is_empty(), "{seed}: {problem:?}");
                }
            }
            Err(other) => panic!("{seed}: {other}"),
        }
    }
    assert!((1_000..2_000).contains(&refused), "{refused} of them were refused");
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let text = with_steps(&"      - { step: A, agnet: a }\n".repeat(5_000));
    let found = invalid(File::parse("x.yaml", text));
    assert_eq!(found.problems.len(), 101);
    assert_eq!(found.problems[100].message, "and 4900 more problems below");
}

#[test]
fn what_is_missing_here_is_told_apart_from_what_is_wrong() {
    let file = File::parse("news.yaml", NEWS).unwrap();
    let Err(outlive::Error::File(missing)) = file.definitions() else { panic!("a function is missing") };
    assert!(missing.is_missing());
    assert_eq!(missing.problems[0].kind, FileProblemKind::Missing);
    assert!(
        missing.to_string().starts_with("news.yaml:13:34: no function \"clean_text\" is registered here"),
        "{missing}"
    );
    assert_eq!(file.inspect().definitions().unwrap().len(), 1);
}

// The schedules that files declare.

/// A file with this one workflow and these schedules.
fn scheduled(workflow: &str, schedules: &str) -> File {
    let workflow = format!("{workflow}: {{ steps: [{{ step: A, agent: a }}], schedules: {{ {schedules} }} }}");
    let text = format!("version: 1\nmodel: demo\nagents: {{ a: {{}} }}\nworkflows: {{ {workflow} }}\n");
    let file = File::parse(format!("{}.yaml", &text.len()), text).unwrap_or_else(|error| panic!("{error}"));
    file.model("demo", ScriptedModel::replies([]))
}

/// As `name of workflow: times`, in order, what is declared marked with a star.
async fn all_schedules(engine: &outlive::Engine) -> Vec<String> {
    let page = engine.reader().schedules(outlive::core::port::ScheduleFilter::default()).await.unwrap();
    let line = |schedule: &outlive::engine::Schedule| {
        let mark = if schedule.source.is_some() { "*" } else { "" };
        format!("{mark}{} of {}: {}", schedule.name, schedule.workflow_id, schedule.spec.cron)
    };
    let mut all: Vec<_> = page.schedules.iter().map(line).collect();
    all.sort();
    all
}

#[tokio::test]
async fn schedules_become_what_files_say_however_often_and_wherever_they_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let engine = async |file: &File| {
        let db: Arc<dyn Db> = Arc::new(SqliteDb::new(&path));
        let engine = outlive::Engine::builder(db).workflow(file.definitions().unwrap().remove(0));
        engine.start().await.unwrap()
    };
    let old = "daily: { cron: '0 3 * * *' }, weekly: { cron: '0 3 * * MON' }, monthly: { cron: '@monthly' }";
    let new = "daily: { cron: '0 4 * * *' }, yearly: { cron: '@yearly' }, monthly: { cron: '@monthly' }";
    let read = |schedules: &str| {
        let text = scheduled("a", schedules).text().clone();
        File::parse("a.yaml", text).unwrap().model("demo", ScriptedModel::replies([]))
    };
    let (one, other) = (engine(&read(old)).await, engine(&scheduled("b", "daily: { cron: '@hourly' }")).await);
    File::declare_schedules(&other, &[scheduled("b", "daily: { cron: '@hourly' }")]).await.unwrap();
    let made = outlive::engine::CreateSchedule {
        name: Some("daily".to_owned()),
        ..outlive::engine::CreateSchedule::new(outlive::engine::ScheduleSpec::new("@daily"))
    };
    let id = read(old).definitions().unwrap()[0].id.clone();
    one.create_schedule(&id, made).await.unwrap();
    let expected =
        ["*daily of a: 0 4 * * *", "*daily of b: @hourly", "*monthly of a: @monthly", "*yearly of a: @yearly"];
    let expected: Vec<_> = expected.into_iter().map(str::to_owned).chain(["daily of a: @daily".to_owned()]).collect();
    // Whoever loads a file may go away at any time.
    for polls in 0..40 {
        File::declare_schedules(&one, &[read(old)]).await.unwrap();
        let files = [read(new)];
        let mut declaring = std::pin::pin!(File::declare_schedules(&one, &files));
        for _ in 0..polls {
            if futures::poll!(declaring.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Two at once, in different processes.
        let (first, second) = (engine(&files[0]).await, [read(new)]);
        let both = tokio::join!(File::declare_schedules(&first, &second), File::declare_schedules(&one, &files));
        both.0.and(both.1).unwrap_or_else(|error| panic!("{polls}: {error}"));
        assert_eq!(all_schedules(&one).await, expected, "{polls}");
        let again = File::declare_schedules(&first, &second).await.unwrap();
        assert!(again.created.is_empty() && again.changed.is_empty() && again.deleted.is_empty(), "{again:?}");
        first.shutdown().await.unwrap();
    }
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

// On which text a run goes on.

/// A step that waits for a yes, and one that says this.
fn asking(says: &str) -> String {
    format!(
        "version: 1\nmodel: demo\nworkflows:\n  ask:\n    steps:\n      - {{ step: Wait, function: clean_text, review: \
         {{ confirm: Go on? }} }}\n      - step: Say\n        command: [echo, \"{says}\"]\n        effect: idempotent\n"
    )
}

fn file_on(db: &Arc<dyn Db>, text: &str, commands: bool) -> Workflow {
    let file = File::parse("ask.yaml", text).unwrap().functions(registry()).shared_db(db.clone());
    file.allow_commands(commands).workflows().unwrap().remove(0)
}

async fn paused(workflow: &Workflow, run_id: &str) -> Vec<outlive::OpenQuestion> {
    let run = workflow.attach(run_id).await.unwrap();
    loop {
        if run.get().await.unwrap().unwrap().status == RunStatus::Paused {
            return run.questions().await.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

async fn answered(workflow: &Workflow, run_id: &str) {
    let open = paused(workflow, run_id).await;
    let answer = |asked: &outlive::OpenQuestion| match asked.question.kind {
        outlive::QuestionKind::Definition => Answer::Retry,
        _ => Answer::Approve,
    };
    let answers = open.iter().map(|asked| (asked.id().clone(), answer(asked)));
    workflow.continue_run(run_id, answers, Some("ada")).await.unwrap();
}

async fn ended(workflow: &Workflow, run_id: &str) -> WorkflowRunOutput {
    workflow.attach(run_id).await.unwrap().wait().await.unwrap()
}

#[tokio::test]
async fn bad_e10_a_run_goes_on_with_the_text_it_was_accepted_with() {
    let folder = tempfile::tempdir().unwrap();
    let db = || -> Arc<dyn Db> { Arc::new(SqliteDb::new(folder.path().join("runs.db"))) };
    let first = file_on(&db(), &asking("the old text"), true);
    let run_id = first.run("x").background().await.unwrap().run_id().to_string();
    paused(&first, &run_id).await;
    first.shutdown().await.unwrap();

    // The file was changed meanwhile, in a way that no longer fits the run's log.
    let changed = asking("the new text").replace("Wait", "Stand by");
    let second = file_on(&db(), &changed, true);
    answered(&second, &run_id).await;
    assert_eq!(ended(&second, &run_id).await.text(), "the old text");
    let new = second.run("x").background().await.unwrap().run_id().to_string();
    answered(&second, &new).await;
    assert_eq!(ended(&second, &new).await.text(), "the new text");
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_permission_that_is_missing_now_makes_a_run_wait_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let db = || -> Arc<dyn Db> { Arc::new(SqliteDb::new(folder.path().join("runs.db"))) };
    let first = file_on(&db(), &asking("the old text"), true);
    let run_id = first.run("x").background().await.unwrap().run_id().to_string();
    paused(&first, &run_id).await;
    first.shutdown().await.unwrap();

    let harmless = "version: 1\nmodel: demo\nworkflows: { ask: { steps: [{ step: Wait, function: clean_text }] } }\n";
    let second = file_on(&db(), harmless, false);
    answered(&second, &run_id).await;
    let question = loop {
        let open = paused(&second, &run_id).await;
        if let Some(asked) = open.iter().find(|asked| asked.question.kind == outlive::QuestionKind::Definition) {
            break asked.question.message.clone().unwrap();
        }
        tokio::task::yield_now().await;
    };
    assert!(question.contains("--allow-commands") && question.contains("ask.yaml:8:9"), "{question}");
    second.shutdown().await.unwrap();

    let third = file_on(&db(), &asking("the newest text"), true);
    answered(&third, &run_id).await;
    assert_eq!(ended(&third, &run_id).await.text(), "the old text");
    third.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_run_that_has_not_begun_waits_for_its_permission_too() {
    let folder = tempfile::tempdir().unwrap();
    let db = || -> Arc<dyn Db> { Arc::new(SqliteDb::new(folder.path().join("runs.db"))) };
    let first = file_on(&db(), &asking("the old text"), true);
    let later = first.run("x").delay(Duration::from_millis(1)).session_id("s");
    // Nobody executes it here.
    let engine = Engine::builder(db()).options(outlive::Options { execute: false, ..outlive::Options::default() });
    let engine = engine.workflow(first.definition().clone()).start().await.unwrap();
    let submit = outlive::engine::Submit { input: Some("x".into()), ..outlive::engine::Submit::default() };
    let run_id = engine.submit(&first.definition().id, submit).await.unwrap().run_id().to_string();
    engine.shutdown().await.unwrap();
    drop(later);

    let harmless = "version: 1\nmodel: demo\nworkflows: { ask: { steps: [{ step: Wait, function: clean_text }] } }\n";
    let second = file_on(&db(), harmless, false);
    second.engine().await.unwrap();
    let open = paused(&second, &run_id).await;
    assert_eq!(open[0].question.kind, outlive::QuestionKind::Definition);
    second.shutdown().await.unwrap();

    let third = file_on(&db(), harmless, true);
    answered(&third, &run_id).await;
    answered_review(&third, &run_id).await;
    assert_eq!(ended(&third, &run_id).await.text(), "the old text");
    third.shutdown().await.unwrap();
}

/// Says yes to the review, once it is asked.
async fn answered_review(workflow: &Workflow, run_id: &str) {
    loop {
        let open = paused(workflow, run_id).await;
        if let Some(asked) = open.iter().find(|asked| asked.question.kind == outlive::QuestionKind::Confirmation) {
            let answer = [(asked.id().clone(), Answer::Approve)];
            workflow.continue_run(run_id, answer, Some("ada")).await.unwrap();
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until a file is there.
async fn wait_for(path: &std::path::Path) {
    while !path.exists() {
        tokio::task::yield_now().await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_that_must_never_start_twice_is_not_repeated_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let db: Arc<dyn Db> = Arc::new(SqliteDb::new(folder.path().join("runs.db")));
    let (log, go) = (folder.path().join("log"), folder.path().join("go"));
    let script =
        format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.02; done; echo paid", log.display(), go.display());
    let text = format!(
        "version: 1\nworkflows:\n  pay:\n    steps:\n      - step: Pay\n        command: [sh, -c, \"{script}\"]\n        effect: \
         once\n        on_error: pause\n        retry: {{ times: 5 }}\n"
    );
    let file = File::parse("pay.yaml", text).unwrap().allow_commands(true);
    let start = || {
        let options = outlive::Options { shutdown_grace: Duration::ZERO, ..outlive::Options::default() };
        Engine::builder(db.clone()).options(options).workflow(file.definitions().unwrap().remove(0)).start()
    };
    let first = start().await.unwrap();
    let submit = outlive::engine::Submit { input: Some("x".into()), ..outlive::engine::Submit::default() };
    let id = file.definitions().unwrap()[0].id.clone();
    let run_id = first.submit(&id, submit).await.unwrap().run_id().clone();
    wait_for(&log).await;
    first.shutdown().await.unwrap();

    let second = start().await.unwrap();
    let run = second.attach(run_id);
    while run.get().await.unwrap().unwrap().status != RunStatus::Paused {
        tokio::task::yield_now().await;
    }
    let asked = run.questions().await.unwrap().remove(0);
    let failure = asked.question.failure.as_ref().unwrap();
    assert_eq!(failure.kind, outlive::FailureKind::OutcomeUnknown, "{}", failure.message);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\n", "it was not repeated");
    std::fs::write(&go, "").unwrap();
    second.answer([(asked.id().clone(), Answer::Retry)], Some("ada".into())).await.unwrap();
    assert_eq!(run.wait().await.unwrap().text(), "paid", "somebody wanted it again");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\nx\n");
    second.shutdown().await.unwrap();
}

#[test]
fn models_of_the_program_are_stored_as_they_were() {
    let profile = |value| serde_json::from_value::<ModelProfile>(value).unwrap();
    let text = "version: 1\nmodel: fast\nagents: { a: {} }\nworkflows: { w: { steps: [{ step: S, agent: a }] } }\n";
    let built = |temperature: f64| {
        let file = File::parse("w.yaml", text)
            .unwrap()
            .model_profile("fast", profile(json!({ "model": "ollama:qwen3", "temperature": temperature })));
        file.model_profile("unused", profile(json!({ "model": "ollama:other" }))).definitions().unwrap().remove(0)
    };
    let (cold, warm) = (built(0.1), built(0.9));
    assert_ne!(cold.hash, warm.hash, "they are another definition");
    let stored = cold.source.as_ref().unwrap().text.clone();
    assert!(stored.contains("0.1") && !stored.contains("unused"), "{stored}");
    let restored = warm.source.as_ref().unwrap().restore(&stored).unwrap();
    assert_eq!(restored.hash, cold.hash, "and are read again as they were");

    // Whichever workflow uses which, and whether one of them is built or all.
    let text = "version: 1\nagents: { a: { model: fast }, b: { model: slow } }\nworkflows:\n  v: { steps: [{ step: S, agent: a }] }\n  \
                w: { steps: [{ step: S, agent: b }] }\n";
    let mut file = File::parse("w.yaml", text).unwrap();
    for name in ["fast", "slow"] {
        file = file.model_profile(name, profile(json!({ "model": format!("ollama:{name}") })));
    }
    for built in file.definitions().unwrap() {
        assert_eq!(file.definition(built.id.as_str()).unwrap().hash, built.hash);
        let source = built.source.as_ref().unwrap();
        assert_eq!(source.restore(&source.text).unwrap().hash, built.hash);
    }
}

#[test]
fn a_tool_that_runs_a_command_needs_the_permission_however_its_workflow_is_built() {
    let text = "version: 1\nmodel: demo\ntools:\n  count: { command: [wc, -w], description: Counts, effect: read }\nagents: { a: { tools: \
                [count] }, b: { tools: [count] } }\nworkflows:\n  w: { steps: [{ step: S, agent: a }, { step: T, agent: b }] }\n";
    let file = File::parse("w.yaml", text).unwrap().model("demo", ScriptedModel::replies([]));
    let stored = file.clone().allow_commands(true).definition("w").unwrap().source.clone().unwrap();
    let is_refused = |built: outlive::Result<Arc<Definition>>| match built {
        Err(outlive::Error::File(invalid)) => {
            assert_eq!(invalid.problems.len(), 1, "once: {invalid}");
            invalid.to_string().contains("--allow-commands")
        }
        _ => false,
    };
    assert!(is_refused(file.definition("w")));
    assert!(is_refused(file.definitions().map(|mut all| all.remove(0))));
    // A definition of the same file that was made without the permission does not read a text with it.
    let text = "version: 1\nmodel: demo\nagents: { a: {} }\nworkflows: { w: { steps: [{ step: S, agent: a }] } }\n";
    let harmless = File::parse("w.yaml", text).unwrap().model("demo", ScriptedModel::replies([]));
    let harmless = harmless.definition("w").unwrap();
    let refused = harmless.source.as_ref().unwrap().restore(&stored.text).unwrap_err();
    assert!(refused.contains("--allow-commands"), "{refused}");
}

#[test]
fn no_key_is_in_what_is_stored() {
    // A variable that every test has stands for one with a key: its value is looked for.
    let canary = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let text = CONTENT.replace(
        "model: openai:gpt-5.2",
        "model: fast\nmodels: { fast: { model: openai:gpt-5.2, api_key_variable: CARGO_MANIFEST_DIR } }\ntools:\n  look:\n    \
         http: { url: 'https://example.org', headers: { X-Key: '${env:CARGO_MANIFEST_DIR}' } }\n    description: Looks",
    );
    let file = File::parse("x.yaml", text).unwrap().functions(registry());
    let built = file.definitions().unwrap_or_else(|error| panic!("{error}")).remove(0);
    let stored: Value = serde_json::from_str(&built.source.as_ref().unwrap().text).unwrap();
    assert_eq!(stored["workflow"], "content-creation");
    assert!(built.structure.contains("CARGO_MANIFEST_DIR"), "the name of the variable is");
    assert!(!built.structure.contains(&canary) && !format!("{built:?}").contains(&canary), "its value is not");
}
