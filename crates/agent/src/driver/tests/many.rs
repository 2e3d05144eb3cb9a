//! Answers that ask for more calls than are made at once.

use super::*;
use outlive_core::HumanReview;

const CALLS: usize = 500;
const AT_ONCE: usize = 32;

/// What became of the calls of a tool.
#[derive(Default)]
struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    made: Mutex<BTreeSet<String>>,
}

/// Lets others go on, this many times.
async fn works(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

fn asks_for(tool: &str, calls: usize) -> ScriptedModel {
    let call = |place| ToolCall::new(format!("c{place}"), tool, format!(r#"{{"of":"{place}"}}"#));
    ScriptedModel::replies([ModelResponse::calls((0..calls).map(call).collect()), text("done")])
}

/// An agent whose model asks for many calls at once.
fn hasty(seen: &Arc<Seen>) -> Agent {
    let seen = seen.clone();
    let price = Tool::new("price", "for tests", move |wanted: Of, _: ToolContext| {
        let seen = seen.clone();
        async move {
            seen.most.fetch_max(seen.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            seen.made.lock().unwrap().insert(wanted.of.clone());
            // Those that begin later often end first.
            works(20 + wanted.of.parse::<usize>().unwrap() % 7).await;
            seen.now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Failure>(wanted.of)
        }
    });
    Agent::new("Hasty").model(asks_for("price", CALLS)).tool(price)
}

/// How many calls began and how many ended.
fn counts(entries: &[Entry]) -> (usize, usize) {
    let count = |name: &str| entries.iter().filter(|entry| entry.event.name() == name).count();
    (count("ToolCallStarted"), count("ToolCallCompleted"))
}

#[tokio::test]
async fn no_more_calls_are_made_at_once_than_may_be_and_their_results_keep_their_order() {
    let (seen, log) = (Arc::new(Seen::default()), Arc::new(Log::default()));
    let output = run(&hasty(&seen), &log).await;
    assert_eq!((seen.most.load(Ordering::SeqCst), seen.made.lock().unwrap().len()), (AT_ONCE, CALLS));
    let told: Vec<_> = output.messages.iter().filter(|message| message.role == Role::Tool).collect();
    let told: Vec<_> = told.iter().map(|message| message.content.clone().unwrap()).collect();
    let expected: Vec<_> = (0..CALLS).map(|place| place.to_string()).collect();
    assert_eq!(told, expected);
    assert_eq!(output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect::<Vec<_>>(), expected);
    let entries = log.entries();
    assert_eq!(counts(&entries), (CALLS, CALLS));
    let in_flight = |end: usize| counts(&entries[..end]).0 - counts(&entries[..end]).1;
    assert_eq!((0..entries.len()).map(in_flight).max(), Some(AT_ONCE));
}

#[tokio::test]
async fn after_a_crash_among_many_calls_only_those_in_flight_are_made_again() {
    let whole = Arc::new(Log::default());
    let expected = run(&hasty(&Arc::default()), &whole).await;
    let entries = whole.entries();
    for end in (0..entries.len()).step_by(97) {
        let (seen, log) = (Arc::new(Seen::default()), Arc::new(Log::after(&entries[..end])));
        assert_eq!(run(&hasty(&seen), &log).await, expected, "after {end} entries");
        let (_, ended) = counts(&entries[..end]);
        assert_eq!(seen.made.lock().unwrap().len(), CALLS - ended, "after {end} entries");
        assert!(seen.most.load(Ordering::SeqCst) <= AT_ONCE);
        assert_told_once(&log.entries(), &entries);
    }
}

#[tokio::test]
async fn an_agent_makes_as_many_calls_at_once_as_it_is_told() {
    let count = Arc::new(AtomicUsize::new(0));
    let agent = Agent::new("A").model(asks_for("price", 3)).tool(counting("price", &count)).tool_calls_at_once(1);
    let log = Arc::new(Log::default());
    run(&agent, &log).await;
    let names: Vec<_> = log.names().into_iter().filter(|name| name.starts_with("ToolCall")).collect();
    assert_eq!(names, ["ToolCallStarted", "ToolCallCompleted"].repeat(3));
}

#[tokio::test]
async fn a_call_that_waits_for_a_person_keeps_its_place_and_those_behind_it_do_not_keep_the_person_waiting() {
    let make = || {
        let tool = Tool::new("price", "for tests", |wanted: Of, context: ToolContext| async move {
            let answer = context.ask("may it", HumanReview::confirmation("May it?")).await?;
            Ok::<_, Failure>(format!("{} {}", wanted.of, answer == Answer::Approve))
        });
        Agent::new("A").model(asks_for("price", 3)).tool(tool).tool_calls_at_once(2)
    };
    let log = Arc::new(Log::default());
    assert_eq!(failed(&make(), &log).await.kind, FailureKind::Cancelled, "it leaves while it waits");
    let keys: Vec<_> = questions(&log.entries()).iter().map(|question| question.key.to_string()).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    let person: Person = Arc::new(|_: &Question| Some(Answer::Approve));
    let log = Arc::new(Log { person: Some(person), ..Log::default() });
    let output = run(&make(), &log).await;
    let told: Vec<_> = output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect();
    assert_eq!(told, ["0 true", "1 true", "2 true"]);
}

#[tokio::test]
async fn tasks_that_members_work_on_side_by_side_are_calls_too() {
    let seen = Arc::new(Seen::default());
    let at_work = seen.clone();
    let member = |number: usize| {
        let seen = at_work.clone();
        let dig = Tool::new("dig", "for tests", move |(): (), _: ToolContext| {
            let seen = seen.clone();
            async move {
                seen.most.fetch_max(seen.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                works(20).await;
                seen.now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Failure>("dug")
            }
        });
        let model = ScriptedModel::replies([calls([("dig", "{}")]), text("done")]);
        Agent::new(format!("M{number}")).model(model).tool(dig)
    };
    let leader =
        ScriptedModel::replies([calls([("delegate_task_to_members", r#"{"task":"dig"}"#)]), text("all have dug")]);
    let team =
        Team::new("T").model(leader).members((0..5).map(member)).mode(outlive_core::machine::TeamMode::Broadcast);
    let output = run(&team.tool_calls_at_once(2), &Arc::new(Log::default())).await;
    assert_eq!(output.member_responses.len(), 5);
    assert_eq!(seen.most.load(Ordering::SeqCst), 2);
}
