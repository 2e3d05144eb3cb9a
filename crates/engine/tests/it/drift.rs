//! Edits of a definition against runs that stand everywhere in it: what is told before a deploy is what then happens,
//! and it is what the run's own log demands.

use outlive_core::log::{Entry, Record};
use outlive_core::log::{Part, Place};
use outlive_core::port::{
    Accepted, Access, BoxFuture, Commit, Db, Executed, Executor, ExecutorInfo, NewRun, NewStart, Release, RunPatch,
    SessionKind, SessionPolicy, StepContext,
};
use outlive_core::{
    Answer, Block, Condition, Definition, EventKind, ExecutorKind, Failure, ForEach, Function, HumanReview, Key, Loop,
    Page, Parallel, QuestionKind, Registry, Retry, Router, RunId, RunInfo, RunStatus, SessionId, Step, StepInput,
    StepOutput, Steps, Structure, Timestamp, WorkerId,
};
use outlive_db::{InMemoryDb, SqliteDb};
use outlive_engine::diff::{Outlook, diff};
use outlive_engine::testing::read_log;
use outlive_engine::{Engine, OpenQuestion, Options, Submit};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// An agent, or a team, of which all that matters is what it records.
struct Speaker(ExecutorKind, &'static str);

impl Executor for Speaker {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: self.0, name: Arc::from(self.1), id: Some(self.1.parse().unwrap()) }
    }

    fn execute<'a>(&'a self, context: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let key = context.step.key.speaker(self.0.as_str()).word("started");
            let kind = EventKind::CustomEvent { fields: Map::new() };
            context.effects.tell(kind, &context.origin(), Some(Record::Said { key }));
            context.effects.durable().await.map_err(|_| Failure::function("the run is stopping"))?;
            Ok(StepOutput::new("spoken").into())
        })
    }
}

fn step(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

/// A tree with every kind of container, some of them in others.
fn base() -> Definition {
    let inner = Definition::builder("Inner").step(step("deep one")).step(step("deep two")).build().unwrap();
    let inside = Parallel::new("inside").step(step("p")).step(Loop::new("twice").step(step("q")).max_iterations(2));
    Definition::builder("Example")
        .step(step("first"))
        .step(
            Parallel::new("research").step(Step::new("hn").agent(Speaker(ExecutorKind::Agent, "hn"))).step(step("web")),
        )
        .step(Loop::new("polish").step(step("draft")).step(step("check")).until_cel("current_iteration == 2"))
        .step(Condition::new("urgent").when_cel("true").step(step("yes")).step(step("also")).otherwise(step("no")))
        .step(
            Condition::new("calm").when(|_| false).step(step("never")).otherwise(step("other")).otherwise(step("more")),
        )
        .step(Router::new("channel").select(|_| "x").choice(step("post")).choice(step("article")).choice(step("tweet")))
        .step(ForEach::new("each").items(|_| ["a", "b"]).step(Steps::new("body").step(step("one")).step(step("two"))))
        .step(Step::new("nested").workflow(Arc::new(inner)))
        .step(Steps::new("group").step(inside).step(step("g")))
        .step(step("last"))
        .build()
        .unwrap()
}

/// The code of the tree and of whatever edits make of it.
fn registry(json: &Value) -> Registry {
    let mut names = BTreeSet::from(["new".to_owned()]);
    let mut list = vec![json];
    while let Some(value) = list.pop() {
        match value {
            Value::Object(fields) => {
                names.extend(fields.get("executor_ref").and_then(Value::as_str).map(str::to_owned));
                list.extend(fields.values());
            }
            Value::Array(items) => list.extend(items),
            _ => {}
        }
    }
    let registry = Registry::new()
        .agent(Speaker(ExecutorKind::Agent, "hn"))
        .team(Speaker(ExecutorKind::Team, "crew"))
        .condition("calm", |_| false)
        .selector("channel", |question| question.choices[..2].to_vec())
        .items("each", |_| ["a", "b"])
        .items("research", |_| ["a", "b"]);
    names.into_iter().fold(registry, |registry, name| {
        registry.executor(Function::new(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) }))
    })
}

/// A log of the base, line by line, and what each entry says.
struct Original {
    info: RunInfo,
    lines: Vec<String>,
    entries: Vec<Entry>,
}

/// One finished run for each place at which a run can stand.
async fn originals() -> (Definition, Vec<Original>) {
    let json = base().to_json();
    let definition = Arc::new(Definition::from_json(&json, &registry(&json)).unwrap());
    assert_eq!(definition.hash, base().hash);
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let engine = Engine::builder(db.clone()).workflow(definition.clone()).start().await.unwrap();
    let mut originals: Vec<Original> = Vec::new();
    loop {
        let id = format!("run-{:03}", originals.len());
        let submit = Submit { run_id: Some(id.clone()), session_id: Some(id.clone()), ..Submit::default() };
        let run = engine.submit(&definition.id, submit).await.unwrap();
        let ended = run.wait().await.unwrap();
        assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
        let id = run.run_id().clone();
        let pages = db.read(Access::All, id.clone(), 0, usize::MAX).await.unwrap();
        let text: String = pages.iter().map(|page| &*page.body).collect();
        let info = RunInfo {
            run_id: id.clone(),
            workflow_id: definition.id.clone(),
            workflow_name: definition.name.clone(),
            session_id: SessionId::parse(id.as_str()).unwrap(),
            user_id: None,
        };
        let lines = text.lines().map(str::to_owned).collect();
        originals.push(Original { info, lines, entries: read_log(&*db, &id).await });
        if originals.len() >= originals[0].lines.len() {
            engine.shutdown().await.unwrap();
            let definition = Definition::from_json(&json, &registry(&json)).unwrap();
            return (definition, originals);
        }
    }
}

/// Puts a run into a store as a process left it that was killed after this many entries.
async fn put(db: &dyn Db, of: &Original, kept: usize, definition: &Definition, is_known: bool) {
    let (worker, at) = (WorkerId::parse("gone").unwrap(), Timestamp::from_seconds(1_795_434_319));
    db.heartbeat(worker.clone(), at, Duration::from_secs(15)).await.unwrap();
    let new = NewRun {
        info: of.info.clone(),
        input: None,
        options: None,
        definition: definition.hash.clone(),
        structure: is_known.then(|| definition.structure.clone()),
        idempotency_key: None,
        fingerprint: Arc::from(""),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at,
    };
    let accepted = db.create_run(Access::All, new, Some(worker)).await.unwrap();
    let Accepted::New { lease: Some(lease), .. } = accepted else { panic!("the run is new") };
    let body: String = of.lines[..kept].iter().flat_map(|line| [line, "\n"]).collect();
    let page = Page { first_index: 0, count: u32::try_from(kept).unwrap(), body: Arc::from(body) };
    let status = (kept > 0).then_some(RunStatus::Running);
    let patch = RunPatch { status, release: Some(Release::default()), ..RunPatch::default() };
    db.commit(Commit { lease, page: (kept > 0).then_some(page), patch, session: None, at }).await.unwrap();
}

/// The lists of nodes in a tree, as JSON pointers.
fn lists(json: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(node) = open.pop() {
        for field in ["steps", "else_steps", "choices"] {
            let list = format!("{node}/{field}");
            let Some(items) = json.pointer(&list).and_then(Value::as_array) else { continue };
            open.extend((0..items.len()).map(|place| format!("{list}/{place}")));
            found.push(list);
        }
    }
    found
}

/// The nodes that a log has reached, as JSON pointers, and which of them an agent speaks in.
fn reached(json: &Value, entries: &[Entry]) -> BTreeSet<String> {
    let pointer = |key: &Key| {
        let (mut pointer, mut field) = (String::new(), "steps");
        for part in key.parts() {
            match part {
                Part::Node { place, .. } => {
                    let place = if matches!(place, Place::Item(_)) { 0 } else { place.number() };
                    pointer = format!("{pointer}/{field}/{place}");
                    let is_router = json.pointer(&pointer).is_some_and(|node| node["type"] == "Router");
                    field = if is_router { "choices" } else { "steps" };
                }
                Part::Sequence("else") => field = "else_steps",
                _ => {}
            }
        }
        pointer
    };
    let mut reached = BTreeSet::new();
    for entry in entries {
        match &entry.record {
            Some(Record::Intent { key, name: Some(_) } | Record::Begin { key, .. }) => {
                reached.insert(pointer(key));
            }
            Some(Record::Said { key }) => {
                reached.insert(format!("{} speaks", pointer(key)));
            }
            Some(Record::Step { key, .. }) => {
                reached.remove(&format!("{} speaks", pointer(key)));
                reached.insert(pointer(key));
            }
            _ => {}
        }
    }
    reached
}

/// One edit: what the definition becomes, and the nodes of which a run must have reached none to go on.
struct Edit {
    name: String,
    json: Value,
    stops: Vec<String>,
}

fn new_step() -> Value {
    json!({ "type": "Step", "name": "new", "executor_ref": "new" })
}

/// Renames, deletes, inserts, swaps, appends and changes of kind, at every place of the tree.
fn edits(json: &Value) -> Vec<Edit> {
    let mut edits = Vec::new();
    for list in lists(json) {
        let nodes = json.pointer(&list).and_then(Value::as_array).unwrap();
        let mut edit = |what: String, change: &dyn Fn(&mut Vec<Value>), stops: Vec<String>| {
            let mut json = json.clone();
            change(json.pointer_mut(&list).and_then(Value::as_array_mut).unwrap());
            edits.push(Edit { name: format!("{what} in {list}"), json, stops });
        };
        let at = |place: usize| vec![format!("{list}/{place}")];
        // From a place on, the nodes stand elsewhere.
        let from = |place: usize| (place..nodes.len()).flat_map(at).collect::<Vec<_>>();
        for (place, node) in nodes.iter().enumerate() {
            let name = &node["name"];
            // A Router's first two choices are chosen as soon as it has begun.
            let router = list.strip_suffix("/choices").filter(|_| place < 2);
            let chosen = |stops| router.map_or(stops, |router| vec![router.to_owned()]);
            edit(format!("renamed {place}"), &|list| list[place]["name"] = json!("renamed"), chosen(at(place)));
            edit(format!("deleted {place}"), &|list| drop(list.remove(place)), chosen(from(place)));
            edit(format!("inserted before {place}"), &|list| list.insert(place, new_step()), from(place));
            if place + 1 < nodes.len() {
                edit(format!("swapped {place} with the next"), &|list| list.swap(place, place + 1), from(place));
            }
            let parallel = json!({ "type": "Parallel", "name": name, "steps": [new_step()] });
            let function = json!({ "type": "Step", "name": name, "executor_ref": "new" });
            let (other, stops) = match (node.get("executor_ref"), node.get("agent_id")) {
                (Some(_), _) => (parallel, at(place)),
                // What an agent has said stays; only a conversation needs it.
                (None, Some(_)) => (function, vec![format!("{list}/{place} speaks")]),
                (None, None) => (function, at(place)),
            };
            edit(format!("changed the kind of {place}"), &|list| list[place] = other.clone(), stops);
        }
        edit("appended".to_owned(), &|list| list.push(new_step()), Vec::new());
    }
    edits
}

/// Edits of single settings. None but the last stops anything.
fn settings(json: &Value) -> Vec<Edit> {
    let set = |(pointer, value): (&str, Value)| {
        let mut json = json.clone();
        let (node, field) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(node).unwrap()[field] = value.clone();
        Edit { name: format!("{pointer} = {value}"), json, stops: Vec::new() }
    };
    let settings = [
        ("/timeout_ms", json!(3_600_000)),
        ("/description", json!("another")),
        ("/steps/2/end_condition", json!("current_iteration >= 3")),
        ("/steps/2/max_iterations", json!(1)),
        ("/steps/3/evaluator", json!("1 > 2")),
        ("/steps/6/concurrency", json!(1)),
        ("/steps/8/steps/0/max_retries", json!(2)),
        ("/steps/0/timeout_ms", json!(60_000)),
        ("/steps/7/workflow_name", json!("another")),
    ];
    let mut edits: Vec<Edit> = settings.into_iter().map(set).collect();
    // A ForEach tells itself as a Parallel, and is none.
    let mut mapped = json.clone();
    let body = mapped["steps"][1]["steps"][0].clone();
    mapped["steps"][1] = json!({
        "type": "ForEach", "name": "research", "items": "research", "items_type": "function", "steps": [body]
    });
    let (name, stops) = ("a Parallel becomes a ForEach".to_owned(), vec!["/steps/1".to_owned()]);
    edits.push(Edit { name, json: mapped, stops });
    edits
}

/// Why a run paused, as its log says.
async fn pause_of(db: &dyn Db, run_id: &RunId) -> String {
    let log = read_log(db, run_id).await;
    let Some(Record::Rest(rest)) = &log.last().unwrap().record else { panic!("{run_id} does not rest") };
    rest.pause.as_ref().unwrap().requirements.as_ref().unwrap()[0]["reason"].as_str().unwrap().to_owned()
}

/// Checks one edit against runs that were killed at these places.
async fn check(
    db: Arc<dyn Db>,
    edit: &Edit,
    base: &Definition,
    originals: &[Original],
    places: &BTreeSet<usize>,
    known: bool,
) {
    let Ok(definition) = Definition::from_json(&edit.json, &registry(&edit.json)) else { return };
    let json = base.to_json();
    for &kept in places {
        put(&*db, &originals[kept], kept, base, known).await;
    }
    let mut told = BTreeMap::new();
    let structure = Structure::from_json(&definition.to_json()).unwrap();
    let unreadable = diff(&*db, &structure, |prospect| {
        told.insert(prospect.run.info.run_id.clone(), prospect.outlook);
    });
    assert!(unreadable.await.unwrap().is_empty());
    assert_eq!(told.len(), places.len(), "{}", edit.name);

    let options = Options { scan_period: Duration::from_millis(20), ..Options::default() };
    let engine = Engine::builder(db.clone()).workflow(Arc::new(definition)).options(options).start().await.unwrap();
    for &kept in places {
        let of = &originals[kept];
        let (run_id, place) = (&of.info.run_id, format!("{}, killed after {kept} entries", edit.name));
        let wait = tokio::time::timeout(PATIENCE, engine.attach(run_id.clone()).wait()).await;
        let ended = wait.unwrap_or_else(|_| panic!("{place}: it hangs")).unwrap();
        let happened = match ended.status {
            RunStatus::Completed => None,
            RunStatus::Paused => Some(pause_of(&*db, run_id).await),
            other => panic!("{place}: {other}: {}", ended.text()),
        };
        let told = match &told[run_id] {
            Outlook::GoesOn => None,
            Outlook::Pauses(mismatch) => Some(mismatch.to_string()),
            other => panic!("{place}: {other:?}"),
        };
        assert_eq!(told, happened, "{place}");
        let reached = reached(&json, &of.entries[..kept]);
        let must_stop = edit.stops.iter().any(|node| reached.contains(node));
        assert_eq!(told.is_some(), must_stop, "{place}: {told:?}, reached {reached:?}");
    }
    engine.shutdown().await.unwrap();
}

/// The last place at which a run can go on after the edit and the first at which it cannot, and some others, for each
/// edit different ones.
fn places(edit: &Edit, json: &Value, originals: &[Original], step: usize, from: usize) -> BTreeSet<usize> {
    let count = originals.len();
    let must_stop = |kept: &usize| {
        let reached = reached(json, &originals[*kept].entries[..*kept]);
        edit.stops.iter().any(|node| reached.contains(node))
    };
    let first = (0..count).find(must_stop);
    let others = (0..count).filter(|place| place % step == from % step);
    first.into_iter().flat_map(|first| [first - 1, first]).chain(others).collect()
}

#[tokio::test]
async fn what_is_told_of_an_edit_is_what_happens_in_memory() {
    let (base, originals) = originals().await;
    let json = base.to_json();
    let mut edits = edits(&json);
    edits.extend(settings(&json));
    assert!(edits.len() > 150, "{}", edits.len());
    for (number, edit) in edits.iter().enumerate() {
        // Each place meets each kind of edit somewhere. Whether a run's own definition is known changes the words, never
        // the decision.
        let places = places(edit, &json, &originals, 24, number);
        check(Arc::new(InMemoryDb::new()), edit, &base, &originals, &places, number % 4 > 0).await;
    }
}

#[tokio::test]
async fn what_is_told_of_an_edit_is_what_happens_in_a_file() {
    let (base, originals) = originals().await;
    let json = base.to_json();
    let directory = tempfile::tempdir().unwrap();
    let mut edits = edits(&json);
    edits.extend(settings(&json));
    for (number, edit) in edits.iter().enumerate().filter(|(number, _)| number % 8 == 0) {
        let db = Arc::new(SqliteDb::new(directory.path().join(format!("{number}.db"))));
        let places = places(edit, &json, &originals, 24, number / 8);
        check(db, edit, &base, &originals, &places, true).await;
    }
}

/// A definition of one Parallel of two steps, and the runs' own words for what became of it.
#[tokio::test]
async fn a_run_that_pauses_names_the_first_difference_by_path() {
    let branch = |name: &'static str, kind| match kind {
        ExecutorKind::Function => step(name),
        kind => Step::new(name).executor(Speaker(kind, "hn")),
    };
    let flow = |second: Step| {
        let research = Parallel::new("Research").step(second).step(step("Prices"));
        Arc::new(Definition::builder("Example").step(step("Plan")).step(research).build().unwrap())
    };
    let was = flow(branch("HN", ExecutorKind::Agent));
    let is = flow(branch("Web", ExecutorKind::Function));
    for (is_known, words) in [(true, "an agent step \"HN\""), (false, "a step \"HN\"")] {
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        let first = Engine::builder(db.clone()).workflow(was.clone()).start().await.unwrap();
        let run = first.submit(&was.id, Submit::default()).await.unwrap();
        run.wait().await.unwrap();
        let id = run.run_id().clone();
        let text: String =
            db.read(Access::All, id.clone(), 0, usize::MAX).await.unwrap().iter().map(|page| &*page.body).collect();
        let info = db.run(Access::All, id.clone()).await.unwrap().unwrap().info;
        let entries = read_log(&*db, &id).await;
        first.shutdown().await.unwrap();
        let begun = |entry: &Entry| matches!(&entry.record, Some(Record::Intent { key, .. }) if key.as_str() == "1/b0");
        let index = entries.iter().position(begun).unwrap();
        let of = Original { info, lines: text.lines().map(str::to_owned).collect(), entries };

        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        put(&*db, &of, index + 2, &was, is_known).await;
        let second = Engine::builder(db.clone()).workflow(is.clone()).start().await.unwrap();
        assert_eq!(second.attach(id.clone()).wait().await.unwrap().status, RunStatus::Paused);
        let path = "steps[1].parallel[\"Research\"].steps[0]";
        let expected = format!("definition changed: {path}: was {words}, is a function step \"Web\" (entry {index})");
        assert_eq!(pause_of(&*db, &id).await, expected);
        second.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_conversation_is_ended_by_its_own_kind_only() {
    let flow = |kind| {
        let speaks = Step::new("speak").executor(Speaker(kind, "hn"));
        Definition::builder("Example").step(speaks).build().unwrap()
    };
    let was = flow(ExecutorKind::Agent);
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let first = Engine::builder(db.clone()).workflow(Arc::new(flow(ExecutorKind::Agent))).start().await.unwrap();
    let run = first.submit(&was.id, Submit::default()).await.unwrap();
    run.wait().await.unwrap();
    let (id, info) = (run.run_id(), db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().info);
    let pages = db.read(Access::All, id.clone(), 0, usize::MAX).await.unwrap();
    let lines = pages.iter().flat_map(|page| page.body.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let of = Original { info, lines, entries: read_log(&*db, id).await };
    for (kind, kept, pauses) in [
        (ExecutorKind::Team, 2, false),
        (ExecutorKind::Team, 3, true),
        (ExecutorKind::Function, 3, true),
        (ExecutorKind::Agent, 3, false),
        (ExecutorKind::Team, 4, false),
    ] {
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        put(&*db, &of, kept, &was, true).await;
        let engine = Engine::builder(db.clone()).workflow(Arc::new(flow(kind))).start().await.unwrap();
        let ended = engine.attach(id.clone()).wait().await.unwrap();
        assert_eq!(ended.status == RunStatus::Paused, pauses, "{kind:?} after {kept}");
        if pauses {
            let is = if kind == ExecutorKind::Team { "a team" } else { "a function" };
            let expected = format!("definition changed: steps[0]: was an agent step \"speak\", is {is} step \"speak\"");
            assert_eq!(pause_of(&*db, id).await, expected);
        }
        engine.shutdown().await.unwrap();
    }
}

/// What could not even decide has not begun, so it may be mended, moved or taken out.
#[tokio::test]
async fn what_failed_before_it_began_has_not_been_reached() {
    let undecided = || {
        let fails = |_| async { Err(Failure::function("not now")) };
        Condition::new("c").when_async(fails).retry(Retry::times(5)).step(step("x"))
    };
    let was = Definition::builder("Example").step(step("a")).step(undecided()).step(step("b")).build().unwrap();
    let was = Arc::new(was);
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let first = Engine::builder(db.clone()).workflow(was.clone()).start().await.unwrap();
    let run = first.submit(&was.id, Submit::default()).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().unwrap().name() != "CustomEvent" {}
    let id = run.run_id();
    let info = db.run(Access::All, id.clone()).await.unwrap().unwrap().info;
    let pages = db.read(Access::All, id.clone(), 0, usize::MAX).await.unwrap();
    let lines: Vec<String> =
        pages.iter().flat_map(|page| page.body.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    first.kill();
    let of = Original { info, entries: Vec::new(), lines };
    for is in [
        vec![Block::from(step("a"))],
        vec![step("a").into(), step("b").into()],
        vec![step("a").into(), step("c").into(), step("b").into()],
        vec![step("a").into(), Condition::new("c").when_always(true).step(step("x")).into()],
        vec![step("a").into(), Parallel::new("p").step(step("b")).into()],
    ] {
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        put(&*db, &of, of.lines.len(), &was, true).await;
        let definition =
            is.into_iter().fold(Definition::builder("Example"), |all, block| all.step(block)).build().unwrap();
        let nodes = format!("{:?}", definition.nodes.iter().map(|node| node.name()).collect::<Vec<_>>());
        let structure = Structure::from_json(&definition.to_json()).unwrap();
        let mut told = Vec::new();
        diff(&*db, &structure, |prospect| told.push(prospect.outlook)).await.unwrap();
        assert_eq!(told, [Outlook::GoesOn], "{nodes}");
        let engine = Engine::builder(db.clone()).workflow(Arc::new(definition)).start().await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, engine.attach(id.clone()).wait()).await.unwrap().unwrap();
        assert_eq!(ended.status, RunStatus::Completed, "{nodes}: {}", ended.text());
        engine.shutdown().await.unwrap();
    }
}

/// A tree in which people are asked at every turn: by a step before it begins, by a function in a branch, about an item's
/// output, and before a choice.
fn asking() -> Definition {
    let confirmed = step("first").human_review(HumanReview::confirmation("Begin?"));
    let each = ForEach::new("each").items(|_| ["a", "b"]).step(step("item").human_review(HumanReview::output("Fine?")));
    let router = Router::new("channel").choice(step("post")).choice(step("tweet"));
    Definition::builder("Example")
        .step(confirmed)
        .step(Parallel::new("research").step(Step::function("asks", ask)).step(step("web")))
        .step(each)
        .step(router.human_review(HumanReview::selection("Where?")))
        .step(step("last"))
        .build()
        .unwrap()
}

async fn ask(context: StepContext, _: Arc<StepInput>) -> Result<&'static str, Failure> {
    context.ask("go", HumanReview::confirmation("Go?")).await?;
    Ok("asked")
}

/// Answers everything that a run asks. Of choices, the first is taken that this definition has.
async fn answer_all(engine: &Engine, run_id: &RunId, json: &Value) {
    for open in engine.attach(run_id.clone()).questions().await.unwrap() {
        let is_there = |choice: &&Arc<str>| json.to_string().contains(&format!("\"name\":\"{choice}\""));
        let answer = match open.question.kind {
            QuestionKind::RouteSelection => {
                Answer::Choose { choices: open.question.choices.iter().find(is_there).cloned().into_iter().collect() }
            }
            _ => Answer::Approve,
        };
        engine.answer([(open.id().clone(), answer)], None).await.unwrap();
    }
}

/// Places at which a run waits for people: what is told of it is what happens once they have answered.
#[tokio::test(start_paused = true)]
async fn what_is_told_of_a_run_that_waits_for_people_is_what_follows_their_answers() {
    let json = asking().to_json();
    let registry = |json: &Value| registry(json).executor(Function::new("asks", ask));
    let (mut stopped, mut went_on) = (0, 0);
    for (number, edit) in edits(&json).iter().enumerate() {
        let Ok(definition) = Definition::from_json(&edit.json, &registry(&edit.json)) else { continue };
        let definition = Arc::new(definition);
        // One of the pauses, each time another.
        let answered = number % 4;
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        let first = Arc::new(Definition::from_json(&json, &registry(&json)).unwrap());
        let engine = Engine::builder(db.clone()).workflow(first.clone()).start().await.unwrap();
        let run_id = engine.submit(&first.id, Submit::default()).await.unwrap().run_id().clone();
        let place = format!("{}, after {answered} pauses", edit.name);
        for pause in 0..=answered {
            let output = engine.attach(run_id.clone()).wait().await.unwrap();
            assert_eq!(output.status, RunStatus::Paused, "{place}: pause {pause}");
            if pause < answered {
                answer_all(&engine, &run_id, &json).await;
            }
        }
        engine.shutdown().await.unwrap();

        let mut told = Vec::new();
        let structure = Structure::from_json(&definition.to_json()).unwrap();
        diff(&*db, &structure, |prospect| told.push(prospect.outlook)).await.unwrap();
        let engine = Engine::builder(db.clone()).workflow(definition).start().await.unwrap();
        let is_stopped = loop {
            answer_all(&engine, &run_id, &edit.json).await;
            let output = tokio::time::timeout(PATIENCE, engine.attach(run_id.clone()).wait()).await;
            let output = output.unwrap_or_else(|_| panic!("{place}: it hangs")).unwrap();
            let is_changed = |open: &OpenQuestion| open.question.kind == QuestionKind::Definition;
            let open = engine.attach(run_id.clone()).questions().await.unwrap();
            match output.status {
                RunStatus::Completed => break false,
                RunStatus::Paused if open.iter().any(is_changed) => break true,
                RunStatus::Paused => {}
                other => panic!("{place}: {other}: {}", output.text()),
            }
        };
        match (&told[..], is_stopped) {
            ([Outlook::Pauses(mismatch)], true) => {
                assert_eq!(pause_of(&*db, &run_id).await, mismatch.to_string(), "{place}");
                stopped += 1;
            }
            ([Outlook::GoesOn], false) => went_on += 1,
            other => panic!("{place}: {other:?}"),
        }
        engine.shutdown().await.unwrap();
    }
    assert!(stopped > 10 && went_on > 10, "{stopped} stopped, {went_on} went on");
}

/// What was open to be chosen when the run paused may be gone when somebody chooses it.
#[tokio::test(start_paused = true)]
async fn a_choice_that_is_gone_by_the_time_it_is_made_fails_the_run_and_says_so() {
    let flow = |other: &str| {
        let router = Router::new("channel").choice(step("post")).choice(step(other));
        let router = router.human_review(HumanReview::selection("Where?"));
        Arc::new(Definition::builder("Example").step(router).build().unwrap())
    };
    let (was, is) = (flow("tweet"), flow("article"));
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let first = Engine::builder(db.clone()).workflow(was.clone()).start().await.unwrap();
    let run_id = first.submit(&was.id, Submit::default()).await.unwrap().run_id().clone();
    assert_eq!(first.attach(run_id.clone()).wait().await.unwrap().status, RunStatus::Paused);
    first.shutdown().await.unwrap();

    let second = Engine::builder(db.clone()).workflow(is).start().await.unwrap();
    let run = second.attach(run_id);
    let id = run.questions().await.unwrap()[0].id().clone();
    second.answer([(id, Answer::Choose { choices: vec!["tweet".into()] })], None).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
    assert_eq!(ended.status, RunStatus::Error, "{}", ended.text());
    let why = r#"Router "channel" cannot begin: it chose "tweet", which is not among its choices: post, article"#;
    assert_eq!(ended.text(), why);
}
