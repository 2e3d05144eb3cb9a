//! Teams in each mode, whole and cut after each entry.

use super::*;
use crate::TeamMode;

fn member(name: &str, answer: &str) -> (Agent, ScriptedModel) {
    let model = ScriptedModel::replies([text(answer)]);
    (Agent::new(name).model(model.clone()), model)
}

/// A team of a member that works with two tools and one that writes, led in this mode by this script.
fn led(mode: TeamMode, script: Vec<ModelResponse>) -> (Team, Vec<ScriptedModel>, Arc<AtomicUsize>) {
    let (finance, finance_model, count) = two_tools("Finance Agent");
    let (writer, writer_model) = member("Writer", "a fine line");
    let leader = ScriptedModel::replies(script);
    let team = Team::new("Team").model(leader.clone()).members([finance, writer]).mode(mode);
    (team, vec![leader, finance_model, writer_model], count)
}

fn told(run: &RunOutput) -> Vec<&str> {
    let told = run.messages.iter().filter(|message| message.role == Role::Tool);
    told.map(|message| message.content.as_deref().unwrap()).collect()
}

fn routing() -> (Team, Vec<ScriptedModel>, Arc<AtomicUsize>) {
    let delegate = |id: &str| format!(r#"{{"member_id":"{id}","task":"the price"}}"#);
    let (wrong, right, other) = (delegate("nobody"), delegate("finance-agent"), delegate("writer"));
    led(
        TeamMode::Route,
        vec![
            calls([("delegate_task_to_member", wrong.as_str())]),
            calls([("delegate_task_to_member", right.as_str()), ("delegate_task_to_member", other.as_str())]),
        ],
    )
}

#[tokio::test]
async fn the_member_a_leader_routes_to_answers_for_the_team() {
    let (team, models, _) = routing();
    let log = Arc::new(Log::default());
    let output = run(&team, &log).await;
    assert_eq!(output.content, Some("12 and sunny".into()));
    assert_eq!(models.iter().map(ScriptedModel::calls).collect::<Vec<_>>(), [2, 2, 0], "nobody writes it again");
    assert_eq!(
        told(&output),
        [
            "there is no member \"nobody\"; the members are finance-agent, writer",
            "12 and sunny",
            "one member answers for this team: only the first call of a turn is made",
        ]
    );
    let last = output.messages.last().unwrap();
    assert_eq!((last.role, last.content.as_deref()), (Role::Assistant, Some("12 and sunny")));
    let texts = log.entries().into_iter().filter_map(|entry| match entry.event.kind {
        EventKind::TeamRunContent(delta) => delta.content,
        _ => None,
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["12 and sunny"]);
    assert_eq!(log.names()[log.names().len() - 2..], ["TeamRunContentCompleted", "TeamRunCompleted"]);

    // A structured answer stays what it is; and who routes to nobody answers itself.
    let planner = Agent::new("Planner").model(ScriptedModel::replies([text(r#"{"of":"it"}"#)])).output_schema::<Of>();
    let leader =
        ScriptedModel::replies([calls([("delegate_task_to_member", r#"{"member_id":"planner","task":"x"}"#)])]);
    let team = Team::new("T").model(leader).member(planner).mode(TeamMode::Route);
    let output = run(&team, &Arc::default()).await;
    assert_eq!((output.content, output.content_type.as_str()), (Some(json!({ "of": "it" })), "Of"));
    let team = team.model(ScriptedModel::replies([text("myself")]));
    assert_eq!(run(&team, &Arc::default()).await.content, Some("myself".into()));
}

#[tokio::test]
async fn a_member_that_fails_a_route_does_not_answer_for_the_team() {
    let broken = ScriptedModel::from_fn("broken", |_| Err(Failure::new(FailureKind::Quota, "no quota left")));
    let leader = ScriptedModel::replies([
        calls([("delegate_task_to_member", r#"{"member_id":"broken","task":"x"}"#)]),
        calls([("delegate_task_to_member", r#"{"member_id":"sound","task":"x"}"#)]),
    ]);
    let members = [Agent::new("Broken").model(broken), member("Sound", "here").0];
    let team = Team::new("T").model(leader).members(members).mode(TeamMode::Route);
    let output = run(&team, &Arc::default()).await;
    assert_eq!((output.content, output.member_responses.len()), (Some("here".into()), 2));
}

fn broadcasting() -> (Team, Vec<ScriptedModel>, Arc<AtomicUsize>) {
    let script = vec![
        calls([("delegate_task_to_members", "{}")]),
        calls([("delegate_task_to_members", r#"{"task":"the price"}"#)]),
        text("all together"),
    ];
    led(TeamMode::Broadcast, script)
}

#[tokio::test]
async fn all_members_work_on_a_broadcast_side_by_side_and_the_leader_joins_them() {
    let (team, ..) = broadcasting();
    let log = Arc::new(Log::default());
    let output = run(&team, &log).await;
    assert_eq!(output.content, Some("all together".into()));
    let all = "finance-agent:\n12 and sunny\n\nwriter:\na fine line";
    assert_eq!(told(&output), ["the task is empty: say what to do", all]);
    let ids: Vec<_> =
        output.member_responses.iter().map(|member| member.agent_id.clone().unwrap().to_string()).collect();
    assert_eq!(ids, ["finance-agent", "writer"]);
    assert!(output.member_responses.iter().all(|member| member.parent_run_id.as_ref() == Some(&output.run_id)));
    assert_eq!(output.metrics.unwrap().usage.total_tokens, (3 + 2 + 1) * 12);
    // The members' first intents share one commit.
    let commits = log.commits.lock().unwrap().clone();
    let started: Vec<_> = log
        .entries()
        .iter()
        .enumerate()
        .filter_map(|(place, entry)| (entry.event.name() == "RunStarted").then_some(place))
        .collect();
    let commit_of = |place: usize| commits.iter().position(|end| place < *end);
    assert_eq!(commit_of(started[0]), commit_of(started[1]));

    // One that fails is named; all that fail make a failed call.
    let broken =
        || Agent::new("Broken").model(ScriptedModel::from_fn("b", |_| Err(Failure::new(FailureKind::Quota, "none"))));
    let lead = || ScriptedModel::replies([calls([("delegate_task_to_members", r#"{"task":"x"}"#)]), text("so be it")]);
    let team = Team::new("T").model(lead()).members([broken(), member("Sound", "here").0]).mode(TeamMode::Broadcast);
    let output = run(&team, &Arc::default()).await;
    let all = told(&output)[0];
    assert!(all.starts_with("broken failed:\n") && all.ends_with("\n\nsound:\nhere"), "{all}");
    assert_eq!(output.tools[0].tool_call_error, Some(false));
    let team = Team::new("T").model(lead()).member(broken()).mode(TeamMode::Broadcast);
    assert_eq!(run(&team, &Arc::default()).await.tools[0].tool_call_error, Some(true));
}

fn planning() -> (Team, Vec<ScriptedModel>, Arc<AtomicUsize>) {
    let script = vec![
        calls([
            ("create_task", r#"{"title":"Price","description":"the price","assignee":"finance-agent"}"#),
            ("create_task", r#"{"title":"Line","assignee":"writer"}"#),
            ("create_task", r#"{"title":"Sum up","depends_on":["1","2"]}"#),
            ("execute_task", r#"{"task_id":"3","member_id":"writer"}"#),
        ]),
        text("I am done"),
        calls([("execute_tasks_parallel", r#"{"task_ids":["1","2"]}"#), ("list_tasks", "{}")]),
        calls([("update_task_status", r#"{"task_id":"3","status":"completed","result":"summed up"}"#)]),
        text("all together"),
    ];
    led(TeamMode::Tasks, script)
}

#[tokio::test]
async fn a_leader_with_tasks_goes_on_until_all_of_them_have_ended() {
    let (team, ..) = planning();
    let log = Arc::new(Log::default());
    let output = run(&team, &log).await;
    assert_eq!(output.content, Some("all together".into()));
    let told = told(&output);
    assert_eq!(
        told[..4],
        ["created task 1", "created task 2", "created task 3", "task 3 depends on 1, 2, which must be completed first"]
    );
    assert_eq!(told[4], "finance-agent:\n12 and sunny\n\nwriter:\na fine line");
    assert!(told[5].contains("[1] Price (in_progress, assigned to finance-agent)"), "{}", told[5]);
    assert_eq!(told[6], "task 3 is completed");
    let asked: Vec<_> = output.messages.iter().filter(|message| message.role == Role::User).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].content.as_ref().unwrap().contains("[3] Sum up (blocked, assigned to nobody)"));
    let asked: Vec<_> =
        output.member_responses.iter().map(|member| member.input.clone().unwrap().input_content).collect();
    assert_eq!(asked, ["the price", "Line"]);
}

#[tokio::test]
async fn a_leader_that_leaves_tasks_undone_is_stopped_and_one_that_says_so_or_made_none_is_not() {
    let make = |script: Vec<ModelResponse>| {
        let team = Team::new("T").model(ScriptedModel::replies(script)).member(member("M", "x").0);
        team.mode(TeamMode::Tasks).max_iterations(2)
    };
    let create = || calls([("create_task", r#"{"title":"Dig"}"#)]);
    let failure = failed(&make(vec![create(), text("done"), text("done")]), &Arc::default()).await;
    assert_eq!(failure.kind, FailureKind::Limit);
    assert!(failure.message.contains("1 of the team's tasks are not done after 2 iterations"), "{}", failure.message);
    let complete = calls([("mark_all_complete", r#"{"summary":"good enough"}"#)]);
    assert_eq!(run(&make(vec![create(), complete, text("done")]), &Arc::default()).await.content, Some("done".into()));
    assert_eq!(run(&make(vec![text("at once")]), &Arc::default()).await.content, Some("at once".into()));
    let spent = make(vec![create(), create(), text("as far as I got")]).tool_call_limit(1);
    assert_eq!(run(&spent, &Arc::default()).await.content, Some("as far as I got".into()));
    // A task whose member failed has ended, and so has what depends on it.
    let broken = Agent::new("M").model(ScriptedModel::from_fn("b", |_| Err(Failure::new(FailureKind::Quota, "none"))));
    let plan = calls([
        ("create_task", r#"{"title":"Dig","assignee":"m"}"#),
        ("create_task", r#"{"title":"Sow","depends_on":["1"]}"#),
        ("execute_task", r#"{"task_id":"1"}"#),
    ]);
    let team = Team::new("T").model(ScriptedModel::replies([plan, text("in vain")])).member(broken);
    assert_eq!(run(&team.mode(TeamMode::Tasks), &Arc::default()).await.content, Some("in vain".into()));

    let problems = make(vec![]).max_iterations(0).problems().join("");
    assert!(problems.contains("max_iterations"), "{problems}");
    let taken = |name: &str, mode: TeamMode| {
        make(vec![]).mode(mode).tool(counting(name, &Arc::default())).problems().join("").contains(name)
    };
    assert!(taken("create_task", TeamMode::Tasks) && !taken("create_task", TeamMode::Route));
    assert!(taken("delegate_task_to_members", TeamMode::Broadcast));
}

#[tokio::test]
async fn teams_of_every_mode_cut_after_any_entry_end_the_same() {
    for make in [routing, broadcasting, planning] {
        assert!(cut_everywhere(make).await > 20);
    }
}

#[tokio::test]
async fn a_broadcasts_changes_of_the_state_are_joined_in_the_members_order() {
    let make = || {
        let (one, one_model, count) = shopper("One");
        let (two, two_model, _) = shopper("Two");
        let leader =
            ScriptedModel::replies([calls([("delegate_task_to_members", r#"{"task":"shop"}"#)]), text("shopped")]);
        let team = Team::new("T").model(leader.clone()).members([one, two]).mode(TeamMode::Broadcast);
        (team, vec![leader, one_model, two_model], count)
    };
    let (team, ..) = make();
    let whole = Arc::new(Log::default());
    let expected = run(&team, &whole).await;
    assert_ne!(expected.session_state, Some(json!({})));
    for end in 0..=whole.entries().len() {
        let log = Arc::new(Log::after(&whole.entries()[..end]));
        assert_eq!(run(&make().0, &log).await, expected, "after {end} entries");
    }
}

#[tokio::test]
async fn a_description_names_the_mode_and_its_tools() {
    for (mode, tools) in [
        (TeamMode::Route, vec!["delegate_task_to_member"]),
        (TeamMode::Broadcast, vec!["delegate_task_to_members"]),
        (TeamMode::Tasks, outlive_core::machine::TASK_TOOLS.to_vec()),
    ] {
        let described = led(mode, vec![]).0.describe();
        assert_eq!(described["mode"], mode.as_str());
        let names: Vec<_> =
            described["tools"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
        assert_eq!(names, tools);
        assert_eq!(names, mode.tools());
    }
}

#[tokio::test]
async fn members_of_a_broadcast_ask_people_all_at_once() {
    let asking = |name: &str| {
        let model = ScriptedModel::replies([calls([("price", r#"{"of":"x"}"#)]), text(name)]);
        Agent::new(name).model(model).tool(counting("price", &Arc::default()).requires_confirmation())
    };
    let leader = ScriptedModel::replies([calls([("delegate_task_to_members", r#"{"task":"x"}"#)]), text("both")]);
    let team = Team::new("T").model(leader).members([asking("One"), asking("Two"), member("Three", "3").0]);
    let log = Arc::new(Log { person: Some(Arc::new(|_| Some(Answer::Approve))), ..Log::default() });
    let output = run(&team.mode(TeamMode::Broadcast), &log).await;
    assert_eq!(told(&output), ["one:\nOne\n\ntwo:\nTwo\n\nthree:\n3"]);
    let asked: Vec<_> = log
        .entries()
        .iter()
        .filter_map(|entry| match &entry.record {
            Some(Record::Waiting { questions, .. }) => Some(questions.len()),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [2], "nobody is asked while a member is at work");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_broadcast_drops_every_member() {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let hanging = |name: &str| {
        let dropped = dropped.clone();
        let tool = Tool::new("price", "for tests", move |_: Of, _: ToolContext| {
            let guard = Guard(dropped.clone());
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok::<_, Failure>("never")
            }
        });
        Agent::new(name).model(ScriptedModel::replies([calls([("price", r#"{"of":"x"}"#)])])).tool(tool)
    };
    let leader = ScriptedModel::replies([calls([("delegate_task_to_members", r#"{"task":"x"}"#)])]);
    let team = Team::new("T").model(leader).members([hanging("One"), hanging("Two")]).mode(TeamMode::Broadcast);
    let log = Arc::new(Log::default());
    let given_up = tokio::time::timeout(Duration::from_secs(1), execute(&team, &log, "x")).await;
    assert!(given_up.is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}
