//! Reads the events of a run as a client does, event by event, and holds them against the order of Agno's: what must
//! come before what, where everything stands (`step_index`, `nested_depth`, `parent_step_id`) and whose it is.
//!
//! What it gives back is the run as an outline: `research:agent gate?if(check) loop[a b | a b] both{x y} pick>(x)
//! group(a b) inner:workflow(a)`; a step that stopped the workflow ends with `!`, one whose failure was skipped with `~`.
//! An agent step whose tools are workflows is `write:agent(a b)`. A run that an agent leads is `leader`, and `leader(a b)` where the leader had the steps executed.

use super::{Kitchen, function};
use outlive::RunEvent;
use outlive::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The outline of a run that completed.
///
/// # Panics
/// At the first event that is out of order, and says which.
pub(crate) fn outline(events: &[RunEvent]) -> String {
    let events: Vec<Value> = events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    read(&events).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The same of events as clients get them, or what is out of order.
fn read(events: &[Value]) -> Result<String, String> {
    let mut order = Order::default();
    for (at, event) in events.iter().enumerate() {
        must(event["event_index"] == json!(at), format!("indexes are dense: {event}"))?;
        // Ours: Agno has no word for them.
        if event["event"] == "CustomEvent" && event.get("name").is_some() {
            continue;
        }
        let heard = order.hear(event);
        heard.map_err(|problem| format!("{at}: {problem}\n{event}\nafter {}", order.names.join(" ")))?;
        order.names.push(text(event, "event").to_owned());
    }
    must(order.is_over, format!("the last event is {:?}", order.names.last()))?;
    let steps = order.list(&order.nodes[0].rounds[0], " ");
    Ok(match order.lead {
        None => steps,
        Some(Lead { has_called: false, .. }) => "leader".to_owned(),
        Some(_) => format!("leader({steps})"),
    })
}

#[derive(Default)]
struct Order {
    nodes: Vec<Node>,
    /// What has begun and not ended, by step id.
    open: BTreeMap<String, usize>,
    /// Runs of agents and teams, by run id.
    runs: BTreeMap<String, Run>,
    names: Vec<String>,
    lead: Option<Lead>,
    is_over: bool,
}

/// The agent that leads the run.
#[derive(Default)]
struct Lead {
    has_called: bool,
    has_ended: bool,
}

/// A step, a container, or, first of all, the run.
#[derive(Default)]
struct Node {
    kind: String,
    name: String,
    parent: usize,
    step_id: String,
    run_id: String,
    index: Value,
    depth: u64,
    /// Children in the order in which they began; a Loop has one list for each iteration.
    rounds: Vec<Vec<usize>>,
    /// What is inside a step: agent, team, workflow, or nothing of these.
    inside: &'static str,
    is_open: bool,
    has_output: bool,
    mark: &'static str,
    branch: String,
    iterating: bool,
    /// A call of its agent or team has a workflow executed.
    calling: bool,
}

struct Run {
    node: usize,
    parent: Option<String>,
    is_team: bool,
    tools: usize,
    calls: usize,
    asking: bool,
    /// Hooks have let its answer pass: text that was held back is shown now.
    is_checked: bool,
    last: &'static str,
}

type Heard = Result<(), String>;

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

fn must(holds: bool, problem: impl Into<String>) -> Heard {
    holds.then_some(()).ok_or_else(|| problem.into())
}

impl Order {
    fn hear(&mut self, event: &Value) -> Heard {
        must(!self.is_over, "the run is over")?;
        let name = text(event, "event");
        must(self.nodes.is_empty() == (self.names.is_empty()), "WorkflowStarted is the first event")?;
        if self.nodes.is_empty() {
            let is_led = name == "WorkflowAgentStarted";
            must(is_led || name == "WorkflowStarted", "WorkflowStarted is the first event")?;
            must(event["nested_depth"] == 0, "the run has no depth")?;
            self.lead = is_led.then(Lead::default);
            must(event.get("parent_step_id").is_none(), "nothing is around the run")?;
            let run_id = text(event, "run_id").to_owned();
            self.nodes.push(Node {
                kind: "Run".into(),
                run_id,
                rounds: vec![vec![]],
                is_open: true,
                ..Node::default()
            });
            return Ok(());
        }
        match name {
            "WorkflowStarted" if event["nested_depth"] == 0 => {
                let lead = self.lead.as_mut().ok_or("the run has begun")?;
                must(!lead.has_called && !lead.has_ended, "a leader has the steps executed once")?;
                lead.has_called = true;
                must(self.runs.values().any(|run| run.node == 0 && run.tools == 1), "it has not called for them")
            }
            "WorkflowAgentCompleted" => {
                must(self.open.is_empty(), "something has not ended")?;
                must(self.runs.values().all(|run| run.last == "RunCompleted"), "a run in it has not completed")?;
                let lead = self.lead.as_mut().ok_or("nobody leads the run")?;
                must(!std::mem::replace(&mut lead.has_ended, true), "it has ended")
            }
            "WorkflowStarted" => self.workflow_started(event),
            "WorkflowCompleted" => self.workflow_completed(event),
            "StepOutput" => self.step_output(event),
            "StepProgress" | "CustomEvent" => self.find(event).map(|_| ()),
            "StepCompleted" => self.step_completed(event),
            "LoopIterationStarted" => self.iteration_started(event),
            "LoopIterationCompleted" => self.iteration_completed(event),
            "StepStarted" => self.begins(event, "Step"),
            _ => match (name.strip_suffix("ExecutionStarted"), name.strip_suffix("ExecutionCompleted")) {
                (Some(kind), _) => self.begins(event, kind),
                (_, Some(kind)) => self.container_completed(event, kind),
                _ => self.speaks(event),
            },
        }
    }

    fn find(&self, event: &Value) -> Result<usize, String> {
        self.open.get(text(event, "step_id")).copied().ok_or_else(|| "its step is not open".to_owned())
    }

    /// What stands around a node: the run, or the open node that `parent_step_id` names.
    fn around(&self, event: &Value) -> Result<usize, String> {
        match event.get("parent_step_id") {
            None => Ok(0),
            Some(id) => {
                let id = id.as_str().unwrap_or_default();
                self.open.get(id).copied().ok_or_else(|| format!("{id}, which it is in, is not open"))
            }
        }
    }

    fn is_workflow(&self, node: usize) -> bool {
        node == 0 || self.nodes[node].inside == "workflow" || self.nodes[node].calling
    }

    fn begins(&mut self, event: &Value, kind: &str) -> Heard {
        let parent = self.around(event)?;
        must(parent != 0 || self.lead.as_ref().is_none_or(|lead| lead.has_called), "nobody has called for the steps")?;
        let around = &self.nodes[parent];
        let siblings = around.rounds.last().ok_or("what it is in has not begun")?;
        must(around.kind != "Loop" || around.iterating, "no iteration has begun")?;
        must(around.kind != "Step" || self.is_workflow(parent), "a step holds nothing but a workflow")?;
        if around.kind != "Parallel" {
            let last = siblings.last().map(|last| &self.nodes[*last]);
            must(last.is_none_or(|last| !last.is_open), "the one before it has not ended")?;
        }
        let depth = around.depth + u64::from(parent != 0 && self.is_workflow(parent));
        must(event["nested_depth"] == depth, format!("its depth must be {depth}"))?;
        must(text(event, "run_id") == around.run_id, "it belongs to another run")?;
        let index = match (&around.index, around.kind.as_str()) {
            _ if self.is_workflow(parent) => json!(siblings.len()),
            // A choice has the index of its router; a Parallel's branches begin in order.
            (Value::Number(_), "Router") => around.index.clone(),
            (Value::Number(outer), _) => json!([outer, siblings.len()]),
            _ => around.index.clone(),
        };
        must(event["step_index"] == index, format!("its index must be {index}"))?;
        let name = text(event, "step_name").to_owned();
        let step_id = text(event, "step_id").to_owned();
        must(!step_id.is_empty() && !name.is_empty(), "it has no name or no id")?;
        must(!self.open.contains_key(&step_id), "its id is in use")?;
        // A Loop's step keeps its id from iteration to iteration, a container in it gets another.
        for round in around.rounds.iter().rev().skip(1) {
            let before = round.iter().map(|before| &self.nodes[*before]).find(|before| before.name == name);
            let is_same = before.is_none_or(|before| (before.step_id == step_id) == (kind == "Step"));
            must(is_same, "its id does not fit those of earlier iterations")?;
        }
        let branch = match kind {
            "Condition" => if event["condition_result"] == true { "if" } else { "else" }.to_owned(),
            _ => String::new(),
        };
        let run_id = around.run_id.clone();
        let rounds = if kind == "Loop" || kind == "Step" { vec![] } else { vec![vec![]] };
        let node = self.nodes.len();
        self.nodes.push(Node {
            kind: kind.to_owned(),
            name,
            parent,
            step_id: step_id.clone(),
            run_id,
            index,
            depth,
            rounds,
            branch,
            is_open: true,
            ..Node::default()
        });
        self.nodes[parent].rounds.last_mut().unwrap().push(node);
        self.open.insert(step_id, node);
        Ok(())
    }

    /// A node as its own events name it.
    fn itself(&self, event: &Value, kind: &str) -> Result<usize, String> {
        let at = self.find(event)?;
        let node = &self.nodes[at];
        must(node.kind == kind, format!("{} is a {}", node.name, node.kind))?;
        must(text(event, "step_name") == node.name, "it has another name")?;
        must(event["step_index"] == node.index, "it has another index")?;
        must(event["nested_depth"] == node.depth, "it has another depth")?;
        must(self.around(event)? == node.parent, "it is in something else")?;
        must(text(event, "run_id") == self.nodes[node.parent].run_id, "it belongs to another run")?;
        Ok(at)
    }

    fn has_ended_inside(&self, node: usize) -> Heard {
        let open = self.open.values().find(|at| self.nodes[**at].parent == node && **at != node);
        must(open.is_none(), format!("{:?} inside has not ended", open.map(|at| &self.nodes[*at].name)))
    }

    fn close(&mut self, node: usize) {
        self.nodes[node].is_open = false;
        let id = self.nodes[node].step_id.clone();
        self.open.remove(&id);
    }

    fn step_output(&mut self, event: &Value) -> Heard {
        let at = self.itself(event, "Step")?;
        let is_below_workflow = self.is_workflow(self.nodes[at].parent);
        let output = &event["step_output"];
        let node = &mut self.nodes[at];
        must(!node.has_output, "it has one already")?;
        must(text(output, "step_id") == node.step_id, "its output is another's")?;
        node.has_output = true;
        if output["success"] == false && !text(output, "error").is_empty() {
            node.mark = "~";
            self.close(at);
            return Ok(());
        }
        must(is_below_workflow, "only a step directly below a workflow tells its output")?;
        must(node.inside.is_empty(), "only a function step tells its output")?;
        if output["stop"] == true {
            node.mark = "!";
            self.close(at);
        }
        Ok(())
    }

    fn step_completed(&mut self, event: &Value) -> Heard {
        let at = self.itself(event, "Step")?;
        self.has_ended_inside(at)?;
        let node = &self.nodes[at];
        let is_function = node.inside.is_empty();
        let tells = is_function && self.is_workflow(node.parent);
        must(node.has_output == tells, "StepOutput is told of functions directly below a workflow")?;
        must(node.run_id == self.nodes[node.parent].run_id, "its workflow has not completed")?;
        let unended = self.runs.values().any(|run| run.node == at && run.last != "RunCompleted");
        must(!unended, "a run in it has not completed")?;
        if event["step_response"]["stop"] == true {
            self.nodes[at].mark = "!";
        }
        self.close(at);
        Ok(())
    }

    fn workflow_started(&mut self, event: &Value) -> Heard {
        let at = self.around(event)?;
        let calls = self.runs.values().any(|run| run.node == at && run.tools > 0);
        let node = &mut self.nodes[at];
        let is_alone = node.inside.is_empty() || (calls && !node.calling);
        must(
            node.kind == "Step" && is_alone && at != 0,
            "it is not in a step of its own, and no call has it executed",
        )?;
        must(event["nested_depth"] == node.depth + 1, "a workflow in a step is one deeper")?;
        let run_id = text(event, "run_id");
        must(run_id != node.run_id && !run_id.is_empty(), "a workflow in a step has a run of its own")?;
        node.calling = calls;
        if !calls {
            node.inside = "workflow";
        }
        node.run_id = run_id.to_owned();
        node.rounds.push(vec![]);
        Ok(())
    }

    fn workflow_completed(&mut self, event: &Value) -> Heard {
        let at = self.around(event)?;
        self.has_ended_inside(at)?;
        must(self.is_workflow(at), "no workflow has begun there")?;
        must(text(event, "run_id") == self.nodes[at].run_id, "it is another run")?;
        if at == 0 {
            must(event["nested_depth"] == 0, "its depth is 0")?;
            must(self.open.is_empty(), "something has not ended")?;
            must(self.lead.as_ref().is_none_or(|lead| lead.has_ended), "its leader has not ended")?;
            self.is_over = true;
        } else {
            must(event["nested_depth"] == self.nodes[at].depth + 1, "a workflow in a step is one deeper")?;
            // What comes after it is the step's again.
            self.nodes[at].run_id = self.nodes[self.nodes[at].parent].run_id.clone();
            self.nodes[at].calling = false;
        }
        Ok(())
    }

    fn iteration_started(&mut self, event: &Value) -> Heard {
        let at = self.itself(event, "Loop")?;
        self.has_ended_inside(at)?;
        let node = &mut self.nodes[at];
        must(!node.iterating, "the one before has not ended")?;
        node.rounds.push(vec![]);
        node.iterating = true;
        must(event["iteration"] == node.rounds.len(), "iterations are counted from 1")
    }

    fn iteration_completed(&mut self, event: &Value) -> Heard {
        let at = self.itself(event, "Loop")?;
        self.has_ended_inside(at)?;
        let node = &mut self.nodes[at];
        must(node.iterating, "none has begun")?;
        node.iterating = false;
        let steps = node.rounds.last().cloned().unwrap_or_default();
        must(event["iteration"] == node.rounds.len(), "it is another")?;
        let results = event["iteration_results"].as_array().map_or(0, Vec::len);
        must(results == steps.len(), "its results are those of its steps")?;
        let is_stopped = steps.iter().any(|step| self.nodes[*step].mark == "!");
        must(!is_stopped || event["should_continue"] == false, "a step stopped the workflow")
    }

    fn container_completed(&mut self, event: &Value, kind: &str) -> Heard {
        let at = self.itself(event, kind)?;
        self.has_ended_inside(at)?;
        let node = &mut self.nodes[at];
        let children = node.rounds.iter().map(Vec::len).sum::<usize>();
        match kind {
            "Loop" => {
                must(!node.iterating && !node.rounds.is_empty(), "its iteration has not ended")?;
                must(event["total_iterations"] == node.rounds.len(), "it had other iterations")?;
            }
            "Parallel" => must(event["parallel_step_count"] == children, "it had other branches")?,
            _ => must(event["executed_steps"] == children, "it had other steps")?,
        }
        if kind == "Condition" {
            let branch = event["branch"].as_str().unwrap_or("none");
            must(branch == node.branch || (branch == "none" && node.branch == "else"), "it took another branch")?;
            node.branch = branch.to_owned();
        }
        self.close(at);
        Ok(())
    }

    /// An event of an agent or a team.
    fn speaks(&mut self, event: &Value) -> Heard {
        let told = text(event, "event");
        let name = told.strip_prefix("Team").unwrap_or(told);
        let is_team = name != told;
        let leads = self.lead.is_some() && event.get("step_id").is_none();
        let at = if leads { 0 } else { self.find(event)? };
        let node = &mut self.nodes[at];
        must(leads || node.kind == "Step", "only steps hold agents and teams")?;
        let is_of_it = event["step_index"] == node.index && text(event, "step_name") == node.name;
        must(leads || is_of_it, "it names another step")?;
        must(event["nested_depth"] == node.depth, "it has another depth than its step")?;
        must(text(event, "workflow_run_id") == node.run_id, "it names another workflow's run")?;
        must(event.get("parent_step_id").is_none(), "agents and teams name no container")?;
        let run_id = text(event, "run_id").to_owned();
        let parent = event.get("parent_run_id").and_then(Value::as_str).map(str::to_owned);
        if name == "RunStarted" {
            match &parent {
                None => {
                    must(node.inside.is_empty(), "its step holds something already")?;
                    node.inside = if is_team { "team" } else { "agent" };
                }
                Some(parent) => {
                    let leader = self.runs.get(parent).ok_or("its team has not begun")?;
                    must(leader.tools > 0 && leader.is_team, "its team has not delegated")?;
                }
            }
            let run = Run {
                node: at,
                parent,
                is_team,
                tools: 0,
                calls: 0,
                asking: false,
                is_checked: false,
                last: "RunStarted",
            };
            must(self.runs.insert(run_id, run).is_none(), "its run has begun already")?;
            return Ok(());
        }
        if matches!(name, "PreHookStarted" | "PreHookCompleted") {
            return must(!self.runs.contains_key(&run_id), "what it looks at was used already");
        }
        let members = self.runs.values().filter(|run| run.parent.as_deref() == Some(run_id.as_str()));
        let members_at_work = members.filter(|run| run.last != "RunCompleted").count();
        let run = self.runs.get_mut(&run_id).ok_or("its run has not begun")?;
        must(run.node == at && run.is_team == is_team && run.parent == parent, "its run is another's")?;
        let is_between = !run.asking && run.tools == 0 && run.last != "RunContentCompleted";
        match name {
            "ModelRequestStarted" => {
                // An answer that does not do is asked for again.
                let is_over = matches!(run.last, "RunStarted" | "ToolCallCompleted" | "ModelRequestCompleted");
                must(is_between && is_over, "the turn is not over")?;
                run.asking = true;
                run.calls += 1;
                run.last = "ModelRequestStarted";
            }
            // A member answers for its team: its answer is the team's at once.
            "RunContent" if run.is_team && is_between && run.last == "ToolCallCompleted" => {
                run.last = "ModelRequestCompleted";
            }
            "RunContent" => must(run.asking || run.is_checked, "text streams while the model is asked")?,
            "ModelRequestCompleted" => {
                must(run.asking, "the model has not been asked")?;
                run.asking = false;
                run.last = "ModelRequestCompleted";
            }
            "ToolCallStarted" => {
                must(!run.asking && run.calls > 0, "a tool is called after an answer")?;
                must(run.last != "RunContentCompleted", "the text is complete")?;
                run.tools += 1;
            }
            "ToolCallCompleted" => {
                must(run.tools > 0, "no tool has been called")?;
                run.tools -= 1;
                must(run.tools > 0 || members_at_work == 0, "its members are at work")?;
                run.last = "ToolCallCompleted";
            }
            "RunContentCompleted" => {
                must(is_between && run.last == "ModelRequestCompleted", "there is no answer")?;
                run.last = "RunContentCompleted";
            }
            "PostHookStarted" | "PostHookCompleted" => {
                must(is_between && run.last == "ModelRequestCompleted", "there is no answer, or it was shown already")?;
                run.is_checked = name == "PostHookCompleted";
            }
            "RunCompleted" => {
                must(run.last == "RunContentCompleted", "the text comes before the end")?;
                run.last = "RunCompleted";
            }
            other => return Err(format!("{other} is not expected")),
        }
        Ok(())
    }

    fn list(&self, nodes: &[usize], between: &str) -> String {
        nodes.iter().map(|node| self.show(*node)).collect::<Vec<_>>().join(between)
    }

    fn show(&self, node: usize) -> String {
        let node = &self.nodes[node];
        let (name, mark) = (&node.name, node.mark);
        let rounds: Vec<_> = node.rounds.iter().map(|round| self.list(round, " ")).collect();
        let inside = rounds.join(" | ");
        match node.kind.as_str() {
            "Step" if node.inside == "workflow" => format!("{name}:workflow({inside})"),
            "Step" if node.inside.is_empty() => format!("{name}{mark}"),
            "Step" if !rounds.is_empty() => format!("{name}:{}({inside}){mark}", node.inside),
            "Step" => format!("{name}:{}{mark}", node.inside),
            "Parallel" => format!("{name}{{{inside}}}"),
            "Loop" => format!("{name}[{inside}]"),
            "Condition" if node.branch == "none" => format!("{name}?none"),
            "Condition" => format!("{name}?{}({inside})", node.branch),
            "Router" => format!("{name}>({inside})"),
            _ => format!("{name}({inside})"),
        }
    }
}

/// Whatever is taken out of a run's events, swapped or changed, is noticed.
#[tokio::test]
async fn a_mistake_in_the_order_is_noticed() {
    let kitchen = Kitchen::without_streams().await;
    let members = ["Left", "Right"].map(|name| kitchen.agent(name, "REPLY=part"));
    let team = kitchen.team("Team", members, "REPLY=all");
    let inner = Workflow::builder("Inner").step(function("i", |_| "i")).definition().unwrap();
    let both = Parallel::new("both").step(function("x", |_| "x")).step(function("y", |_| "y"));
    let repeated = Loop::new("loop").step(both).step(function("z", |_| "z")).max_iterations(2);
    let router = Router::new("router").select(|_| "c").choice(Steps::new("c").step(function("d", |_| "d")));
    let holds = Condition::new("holds").when_always(true).step(function("e", |_| "e"));
    let agent = kitchen.agent("Agent", "Look.").tool(kitchen.search("web"));
    let workflow = Workflow::builder("All Kinds").db(InMemoryDb::new()).step(team).step(inner).step(repeated);
    let workflow = workflow.steps([router]).step(holds).step(agent).build().unwrap();
    let mut stream = workflow.run("hi").stream().await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        events.push(serde_json::to_value(event).unwrap());
    }
    let told = "Team:team Inner:workflow(i) loop[both{x y} z | both{x y} z] router>(c(d)) holds?if(e) Agent:agent";
    assert_eq!(read(&events).as_deref(), Ok(told));
    let noticed = |mut events: Vec<Value>, what: &str| {
        events.iter_mut().zip(0..).for_each(|(event, index)| event["event_index"] = json!(index));
        let outline = read(&events);
        assert!(outline.is_err() || outline.as_deref() != Ok(told), "{what} is not noticed");
    };
    // What members and branches do side by side may come in another order.
    let is_beside =
        |event: &Value| event.get("parent_run_id").is_some() || matches!(text(event, "step_name"), "x" | "y");
    for at in 0..events.len() {
        let name = text(&events[at], "event").to_owned();
        let mut fewer = events.clone();
        fewer.remove(at);
        noticed(fewer, &format!("the loss of {name} at {at}"));
        let is_delegation = name == "TeamToolCallStarted" || name == "TeamToolCallCompleted";
        if events.get(at + 1).is_some_and(|next| !is_beside(&events[at]) && !is_beside(next)) && !is_delegation {
            let mut swapped = events.clone();
            swapped.swap(at, at + 1);
            noticed(swapped, &format!("{name} after what follows it at {at}"));
        }
        for (key, wrong) in [
            ("step_index", json!([7, 7])),
            ("nested_depth", json!(7)),
            ("parent_step_id", json!("elsewhere")),
            ("step_id", json!("elsewhere")),
            ("run_id", json!("elsewhere")),
        ] {
            let is_run_itself = key.starts_with("step_") && events[at].get(key).is_none();
            // The output of a step names its run and step once more, and iterations have no other run.
            if !is_run_itself {
                let mut changed = events.clone();
                changed[at][key] = wrong;
                noticed(changed, &format!("another {key} of {name} at {at}"));
            }
        }
    }
    workflow.shutdown().await.unwrap();
}
