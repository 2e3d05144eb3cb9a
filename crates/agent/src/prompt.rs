//! What a model is told before the conversation begins: who it is, what it should do and, for a leader, whom it leads.
//!
//! Pure text from a profile: no clock, no run, no provider. The same profile gives the same words, so that a resumed
//! run says what it said before.

use crate::profile::{Profile, RosterLine};
use outlive_core::ToolSpec;
use outlive_core::machine::{DELEGATE_ALL_TOOL, DELEGATE_TOOL, TeamMode};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The system message of an agent; none when there is nothing to say.
pub(crate) fn of_agent(profile: &Profile) -> Option<String> {
    join(blocks(profile))
}

/// The system message of a team's leader.
pub(crate) fn of_leader(profile: &Profile, roster: &[RosterLine]) -> Option<String> {
    let mut blocks = blocks(profile);
    blocks.push(team_block(roster, profile.mode));
    join(blocks)
}

/// The tool by which the agent that leads a workflow has its steps executed. Agno's name.
pub(crate) const RUN_WORKFLOW_TOOL: &str = "run_workflow";

/// What it takes.
pub(crate) const QUERY: &str = "query";

/// The system message of an agent that leads a workflow.
pub(crate) fn of_workflow_agent(profile: &Profile) -> Option<String> {
    let rules = format!(
        "You lead a workflow: a fixed sequence of steps that works on one query and comes to one result. What people \
         ask comes to you first.\n\n{}",
        tagged(
            "leading",
            &format!(
                "- What the runs before already answer, or what needs no work, answer yourself.\n\
                 - For everything else call {RUN_WORKFLOW_TOOL}, once, and before you say anything.\n\
                 - The steps see your query and nothing else: put into it every fact they need, also from earlier runs.\n\
                 - What the steps come to is shown as it is. When you have it, say in a sentence or two what was done."
            )
        )
    );
    let blocks = std::iter::once(rules).chain(blocks(profile)).collect();
    join(blocks)
}

/// That tool.
pub(crate) fn run_workflow_tool() -> ToolSpec {
    ToolSpec {
        name: RUN_WORKFLOW_TOOL.to_owned(),
        description: "Has the workflow's steps work on a query, and returns what they come to.".to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {
                QUERY: { "type": "string", "description": "All that the steps need to know: they see this text alone" },
            },
            "required": [QUERY],
            "additionalProperties": false,
        }),
    }
}

/// The text with each `{name}` replaced by what that name stands for. A name that stands for nothing stays as it is, and so
/// do the braces of JSON; what is filled in is not looked at again.
pub(crate) fn resolve(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once('{') {
        resolved.push_str(before);
        let name = inside.split(['{', '}']).next().unwrap_or_default();
        let after = inside[name.len()..].strip_prefix('}');
        match after.and_then(|after| Some((after, variable(name)?))) {
            Some((after, value)) => {
                resolved.push_str(&value);
                rest = after;
            }
            None => {
                resolved.push('{');
                rest = inside;
            }
        }
    }
    resolved.push_str(rest);
    resolved
}

/// The block that shows the session's state.
pub(crate) fn state_block(state: Map<String, Value>) -> String {
    tagged("session_state", &Value::Object(state).to_string())
}

/// The tools a leader of this mode works with these members by.
pub(crate) fn team_tools(mode: TeamMode, roster: &[RosterLine]) -> Vec<ToolSpec> {
    match mode {
        TeamMode::Coordinate | TeamMode::Route => vec![delegate_tool(roster)],
        TeamMode::Broadcast => vec![delegate_all_tool()],
        TeamMode::Tasks => task_tools(roster),
    }
}

fn delegate_tool(roster: &[RosterLine]) -> ToolSpec {
    let ids: Vec<_> = roster.iter().map(|member| member.id.as_str()).collect();
    ToolSpec {
        name: DELEGATE_TOOL.to_owned(),
        description: "Gives a task to one member of the team and returns the member's answer. \
                      Several calls in one turn are worked on at the same time."
            .to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {
                "member_id": { "type": "string", "enum": ids, "description": "The id of the member, as in the roster" },
                "task": {
                    "type": "string",
                    "description": "Everything the member needs to know: it sees this text and nothing else",
                },
            },
            "required": ["member_id", "task"],
            "additionalProperties": false,
        }),
    }
}

fn delegate_all_tool() -> ToolSpec {
    let description = "Gives one task to every member of the team and returns all their answers.";
    let task = "Everything the members need to know: they see this text and nothing else";
    spec(DELEGATE_ALL_TOOL, description, json!({ "task": text(task) }), &["task"])
}

fn task_tools(roster: &[RosterLine]) -> Vec<ToolSpec> {
    let ids: Vec<_> = roster.iter().map(|member| member.id.as_str()).collect();
    let member = |what: &str| json!({ "type": "string", "enum": ids, "description": what });
    let list = |what: &str| json!({ "type": "array", "items": { "type": "string" }, "description": what });
    let task_id = || text("The number of the task in the list");
    let statuses = ["pending", "in_progress", "completed", "failed"];
    vec![
        spec(
            "create_task",
            "Adds a task to the list and returns its number.",
            json!({
                "title": text("What is to be done, in a few words"),
                "description": text("Everything the member needs to know: it sees this text and nothing else"),
                "assignee": member("The id of the member that should do it"),
                "depends_on": list("The numbers of tasks that must be completed first"),
            }),
            &["title"],
        ),
        spec(
            "update_task_status",
            "Changes the status of a task: for what you do yourself, and for what is not to be done after all.",
            json!({
                "task_id": task_id(),
                "status": { "type": "string", "enum": statuses, "description": "The new status" },
                "result": text("What came of it"),
            }),
            &["task_id", "status"],
        ),
        spec("list_tasks", "Returns all tasks with their status.", json!({}), &[]),
        spec(
            "add_task_note",
            "Notes something on a task.",
            json!({ "task_id": task_id(), "note": text("What to note") }),
            &["task_id", "note"],
        ),
        spec(
            "execute_task",
            "Has a member work on a task and returns the member's answer. Several calls in one turn are worked on at the \
             same time.",
            json!({ "task_id": task_id(), "member_id": member("The id of the member") }),
            &["task_id", "member_id"],
        ),
        spec(
            "execute_tasks_parallel",
            "Has the assigned members work on several tasks at the same time and returns all their answers.",
            json!({ "task_ids": list("The numbers of the tasks") }),
            &["task_ids"],
        ),
        spec(
            "mark_all_complete",
            "Says that the goal is reached, whatever tasks are left.",
            json!({ "summary": text("What was achieved") }),
            &["summary"],
        ),
    ]
}

fn spec(name: &str, description: &str, properties: Value, required: &[&str]) -> ToolSpec {
    let parameters = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    ToolSpec { name: name.to_owned(), description: description.to_owned(), parameters }
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

/// What the model is told when its answer does not have the requested shape.
pub(crate) fn mend(problem: &str, schema: &Value) -> String {
    format!(
        "Your last answer cannot be used: {problem}. Answer again, with one JSON value and nothing around it. \
         It must follow this JSON Schema:\n{schema}"
    )
}

fn blocks(profile: &Profile) -> Vec<String> {
    let mut blocks = Vec::new();
    blocks.extend(profile.description.clone());
    blocks.extend(profile.role.as_ref().map(|role| tagged("your_role", role)));
    blocks.extend(instructions(&profile.instructions));
    if profile.markdown && profile.output.is_none() {
        blocks.push("Format your answer with Markdown.".to_owned());
    }
    blocks.extend(profile.expected_output.as_ref().map(|wish| tagged("expected_output", wish)));
    if let Some(output) = &profile.output {
        let name = &output.schema.name;
        blocks.push(format!("Give your final answer as one JSON value of the shape {name}, with nothing around it."));
    }
    blocks
}

/// A single instruction stands alone; several become a list.
fn instructions(instructions: &[String]) -> Option<String> {
    match instructions {
        [] => None,
        [only] => Some(only.clone()),
        several => {
            let lines: Vec<_> = several.iter().map(|line| format!("- {line}")).collect();
            Some(tagged("instructions", &lines.join("\n")))
        }
    }
}

fn team_block(roster: &[RosterLine], mode: TeamMode) -> String {
    let mut members = String::new();
    for member in roster {
        let (id, name) = (attribute(member.id.as_str()), attribute(&member.name));
        let line = writeln!(members, "<member id=\"{id}\" name=\"{name}\">Role: {}</member>", member.role);
        line.expect("text can always be appended to a string");
    }
    let (intro, rules) = rules(mode);
    format!("{intro}\n\n{}\n\n{}", tagged("team_members", members.trim_end()), tagged("delegation", &rules))
}

/// Who the leader is in this mode, and what it keeps to.
fn rules(mode: TeamMode) -> (&'static str, String) {
    match mode {
        TeamMode::Coordinate => ("You lead a team: you plan, delegate and write the final answer.", coordinating()),
        TeamMode::Route => (
            "You lead a team: you choose the one member that answers.",
            format!(
                "- Give the request to the member whose role fits best, with {DELEGATE_TOOL} and its id, once.\n\
                 - Its answer goes to the user as it is; you do not write one.\n\
                 - A member sees the text of its task and nothing else: pass on the whole request.\n\
                 - If its work fails, choose another member.\n\
                 - What no member's role fits, answer yourself."
            ),
        ),
        TeamMode::Broadcast => (
            "You lead a team: all members work on the same task, and you write the final answer.",
            format!(
                "- Give the request to all members with {DELEGATE_ALL_TOOL}, once; they work side by side.\n\
                 - Members see the text of the task and nothing else: put every fact they need into it.\n\
                 - Take answers as evidence to be weighed, and say where they disagree.\n\
                 - Then write one answer of your own in which the members' work comes together."
            ),
        ),
        TeamMode::Tasks => (
            "You lead a team: you plan tasks, have members work on them, and write the final answer.",
            "- Split the request into tasks with create_task: say what each needs (depends_on) and who does it \
             (assignee).\n\
             - A member sees the description of its task and nothing else: put every fact it needs into it, also results \
             of other tasks.\n\
             - Have tasks that do not need each other worked on together, with execute_tasks_parallel, and others one by \
             one, with execute_task.\n\
             - When a task fails, execute it again, create another one, or mark it failed.\n\
             - Once every task has ended, write one answer of your own in which the work comes together."
                .to_owned(),
        ),
    }
}

fn coordinating() -> String {
    format!(
        "- Split the request into tasks and give each to the member whose role fits, with {DELEGATE_TOOL} and its id.\n\
         - Tasks that do not need each other's results go out together, in one turn.\n\
         - A member sees the text of its task and nothing else: put every fact it needs into it.\n\
         - Take answers as evidence to be weighed; ask again, in other words or another member, when one falls short.\n\
         - When you know enough, write one answer of your own in which the members' work comes together.\n\
         - What no member is needed for, answer yourself."
    )
}

fn tagged(tag: &str, text: &str) -> String {
    format!("<{tag}>\n{text}\n</{tag}>")
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

/// The blocks that have text, one after the other.
pub(crate) fn join(blocks: Vec<String>) -> Option<String> {
    let blocks: Vec<_> =
        blocks.into_iter().map(|block| block.trim().to_owned()).filter(|block| !block.is_empty()).collect();
    (!blocks.is_empty()).then(|| blocks.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_where_they_stand_for_something_and_nothing_else_changes() {
        let variable = |name: &str| match name {
            "topic" => Some("AI".to_owned()),
            "two words" => Some("both".to_owned()),
            "loop" => Some("{topic}".to_owned()),
            "" => Some("nothing".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("Write about {topic}.", "Write about AI."),
            ("{topic}{topic} {two words}", "AIAI both"),
            ("{{topic}} {{{topic}}}", "{AI} {{AI}}"),
            ("{unknown} { topic } {topic", "{unknown} { topic } {topic"),
            (r#"{"topic": "{topic}", "n": {"m": [1]}}"#, r#"{"topic": "AI", "n": {"m": [1]}}"#),
            ("{loop}", "{topic}"),
            ("$topic ${topic} }{ {} ü{topic}ü", "$topic $AI }{ nothing üAIü"),
            ("", ""),
        ] {
            assert_eq!(resolve(text, variable), expected, "{text}");
        }
    }
}
