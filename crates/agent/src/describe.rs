//! What clients may know about an agent or a team, in the shape of Agno's discovery calls.
//!
//! Only what the user gave, and nothing about where the model is or how it is paid for. It must never know a store: the
//! server of the description adds its database.

use crate::model::Model;
use crate::profile::Profile;
use crate::prompt;
use crate::tool::Tool;
use outlive_core::ToolSpec;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What `GET /agents/{id}` or `GET /teams/{id}` answers, without the database.
pub(crate) fn describe(profile: &Profile) -> Value {
    match &profile.members {
        None => agent(profile),
        Some(members) => team(profile, members),
    }
}

fn agent(profile: &Profile) -> Value {
    let leads = profile.leads.map(|_| prompt::run_workflow_tool());
    let tools = leads.iter().map(tool_line).chain(profile.tools.iter().map(own_tool)).collect();
    let mut fields = common(profile, tools);
    fields.insert("filesystem".to_owned(), json!(false));
    Value::Object(fields)
}

/// Its model is its members' when it has none itself.
fn team(profile: &Profile, members: &[Arc<Profile>]) -> Value {
    let roster = profile.roster().ok().filter(|roster| !roster.is_empty());
    let team = roster.map(|roster| prompt::team_tools(profile.mode, &roster)).unwrap_or_default();
    let own = profile.tools.iter().map(own_tool);
    let tools = team.iter().map(tool_line).chain(own).collect();
    let mut fields = common(profile, tools);
    if profile.model.is_none()
        && let Ok(model) = profile.model()
    {
        fields.insert("model".to_owned(), model_line(&*model));
    }
    fields.insert("mode".to_owned(), json!(profile.mode.as_str()));
    fields.insert("streaming".to_owned(), json!({ "stream_member_events": true }));
    fields.insert("members".to_owned(), members.iter().map(|member| describe(member)).collect());
    Value::Object(fields)
}

fn common(profile: &Profile, tools: Vec<Value>) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    set("name", json!(profile.name));
    for flag in ["is_factory", "is_component", "sandboxed"] {
        set(flag, json!(false));
    }
    set("reasoning", json!({ "reasoning": false }));
    if let Ok(id) = profile.id() {
        set("id", json!(id));
    }
    if let Some(role) = &profile.role {
        set("role", json!(role));
    }
    if let Some(description) = &profile.description {
        set("description", json!(description));
    }
    if let Some(Ok(model)) = &profile.model {
        set("model", model_line(&**model));
    }
    if !tools.is_empty() {
        set("tools", json!({ "tools": tools }));
    }
    if profile.history {
        set("sessions", json!({ "add_history_to_context": true, "num_history_runs": profile.history_runs }));
    }
    if let Some(output) = &profile.output {
        set("response_settings", json!({ "output_schema_name": output.schema.name }));
    }
    let told = system_message(profile);
    if !told.is_empty() {
        set("system_message", Value::Object(told));
    }
    fields
}

/// The class Agno has for the endpoint (`OpenAI Responses` is `OpenAIResponses`), the model's id and its provider.
fn model_line(model: &dyn Model) -> Value {
    let info = model.info();
    json!({ "name": model.endpoint().replace(' ', ""), "model": info.model, "provider": info.model_provider })
}

fn tool_line(spec: &ToolSpec) -> Value {
    json!({ "name": spec.name, "description": spec.description, "parameters": spec.parameters })
}

/// What it needs of people is said only where it needs something.
fn own_tool(tool: &Tool) -> Value {
    let mut line = tool_line(tool.spec());
    let needs = &tool.needs;
    let flags = [
        (needs.four_eyes, "four_eyes"),
        (needs.confirmation, "requires_confirmation"),
        (needs.user_input, "requires_user_input"),
        (needs.external_execution, "external_execution"),
    ];
    for (_, flag) in flags.into_iter().filter(|(is_set, _)| *is_set) {
        line[flag] = json!(true);
    }
    line
}

fn system_message(profile: &Profile) -> Map<String, Value> {
    let mut told = Map::new();
    match profile.instructions.as_slice() {
        [] => {}
        [one] => drop(told.insert("instructions".to_owned(), json!(one))),
        several => drop(told.insert("instructions".to_owned(), json!(several))),
    }
    if let Some(wish) = &profile.expected_output {
        told.insert("expected_output".to_owned(), json!(wish));
    }
    if profile.markdown {
        told.insert("markdown".to_owned(), json!(true));
    }
    told
}

#[cfg(test)]
mod tests {
    use crate::model::ScriptedModel;
    use crate::tool::{Tool, ToolContext};
    use crate::{Agent, Team};
    use serde_json::json;

    fn agent(name: &str) -> Agent {
        Agent::new(name).model(ScriptedModel::replies([]))
    }

    #[test]
    fn an_agent_is_described_by_what_it_was_given_and_nothing_else() {
        let plain = agent("Plain Agent").id("p1").instructions("Be brief.").describe();
        assert_eq!(
            plain,
            json!({
                "id": "p1", "name": "Plain Agent", "filesystem": false, "is_factory": false, "is_component": false,
                "sandboxed": false, "reasoning": { "reasoning": false },
                "model": { "name": "Scripted", "model": "scripted", "provider": "Scripted" },
                "system_message": { "instructions": "Be brief." },
            })
        );
        let tool = Tool::new("now", "Tells the time.", |(): (), _: ToolContext| async { Ok::<_, String>("noon") });
        let full = agent("Full").role("clock").instructions(["one", "two"]).tool(tool).markdown(true).describe();
        assert_eq!(full["role"], "clock");
        assert_eq!(full["system_message"], json!({ "instructions": ["one", "two"], "markdown": true }));
        assert_eq!(full["tools"]["tools"][0]["name"], "now");
        assert_eq!(full["tools"]["tools"][0]["parameters"]["type"], "object");
    }

    #[test]
    fn a_team_is_described_with_its_members_their_model_and_the_tool_it_delegates_with() {
        let team = Team::new("Research Team").members([agent("A"), agent("B")]).describe();
        assert_eq!(team["id"], "research-team");
        assert_eq!(team["mode"], "coordinate");
        assert_eq!(team["model"]["model"], "scripted");
        assert_eq!(team["members"], json!([agent("A").describe(), agent("B").describe()]));
        let tools: Vec<_> = team["tools"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(tools, ["delegate_task_to_member"]);
        assert!(team.get("filesystem").is_none());
    }
}
