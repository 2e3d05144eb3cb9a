//! What the demonstration's model says. It looks only at the request, so a process that resumes a run after a crash
//! gets the answers the first one would have got.

use outlive::core::machine::DELEGATE_TOOL;
use outlive::core::{Failure, ModelRequest, ModelResponse, Role, ToolCall, Usage};
use serde_json::{Value, json};

/// The answer to a request. The offered tools show who is asking.
pub(crate) fn reply(request: &ModelRequest) -> Result<ModelResponse, Failure> {
    let offers = |name: &str| request.tools.iter().any(|tool| tool.name == name);
    let has_results = request.messages.iter().any(|message| message.role == Role::Tool);
    let response = if offers(DELEGATE_TOOL) {
        if has_results { text(findings(request)) } else { delegate(&asked(request)) }
    } else if offers("get_top_hackernews_stories") {
        if has_results { text(stories_told(request)) } else { look_at_stories() }
    } else if offers("get_current_stock_price") {
        if has_results { text(prices_told(request)) } else { look_at_prices() }
    } else {
        text(plan(&asked(request)))
    };
    Ok(ModelResponse { usage: usage(request, &response), ..response })
}

/// The last message of a person or of the previous step.
fn asked(request: &ModelRequest) -> String {
    let said = request.messages.iter().rev().find(|message| message.role == Role::User);
    said.and_then(|message| message.content.clone()).unwrap_or_default()
}

fn text(text: String) -> ModelResponse {
    ModelResponse::text(text)
}

fn call(id: &str, tool: &str, arguments: &Value) -> ToolCall {
    ToolCall::new(id, tool, arguments.to_string())
}

fn delegate(topic: &str) -> ModelResponse {
    let task = |id, member: &str, task: String| call(id, DELEGATE_TOOL, &json!({"member_id": member, "task": task}));
    ModelResponse::calls(vec![
        task("demo-delegate-1", "hackernews-agent", format!("What do people say about {topic}?")),
        task("demo-delegate-2", "finance-agent", format!("How are the shares behind {topic} doing?")),
    ])
}

fn look_at_stories() -> ModelResponse {
    ModelResponse::calls(vec![
        call("demo-stories-1", "get_top_hackernews_stories", &json!({"num_stories": 3})),
        call("demo-stories-2", "get_hackernews_story", &json!({"id": 2})),
    ])
}

fn look_at_prices() -> ModelResponse {
    ModelResponse::calls(vec![
        call("demo-price-1", "get_current_stock_price", &json!({"symbol": "NVDA"})),
        call("demo-price-2", "get_current_stock_price", &json!({"symbol": "MSFT"})),
    ])
}

/// Tool results that are JSON: a list counts as its parts.
fn results(request: &ModelRequest) -> Vec<Value> {
    let tools = request.messages.iter().filter(|message| message.role == Role::Tool);
    let values = tools.filter_map(|message| serde_json::from_str(message.content.as_deref()?).ok());
    values.flat_map(|value: Value| if let Value::Array(parts) = value { parts } else { vec![value] }).collect()
}

fn stories_told(request: &ModelRequest) -> String {
    let results = results(request);
    let mut titles: Vec<_> = results.iter().filter_map(|story| story["title"].as_str()).collect();
    titles.dedup();
    let lines: Vec<_> = titles.iter().take(3).map(|title| format!("- {title}")).collect();
    format!("The front page talks about:\n{}", lines.join("\n"))
}

fn prices_told(request: &ModelRequest) -> String {
    let results = results(request);
    let line = |share: &Value| Some(format!("- {} {}", share["symbol"].as_str()?, share["price"].as_f64()?));
    let lines: Vec<_> = results.iter().filter_map(line).collect();
    format!("Prices in USD:\n{}", lines.join("\n"))
}

fn findings(request: &ModelRequest) -> String {
    let answers = request.messages.iter().filter(|message| message.role == Role::Tool);
    let answers: Vec<_> = answers.filter_map(|message| message.content.clone()).collect();
    format!("# {}\n\n{}", asked(request), answers.join("\n\n"))
}

fn plan(research: &str) -> String {
    let first = research.lines().next().unwrap_or_default();
    let topic = first.trim_start_matches('#').trim();
    let weeks = [
        ("What is happening", ["Three things the front page agreed on", "One chart: prices", "A question to readers"]),
        ("What it costs", ["Starting again is not free", "A laptop is enough", "The same task, two bills"]),
        ("What it changes", ["An assistant that keeps a diary", "Interview: a week with agents", "Myths, one by one"]),
        ("What comes next", ["Bets for the coming year", "A reading list", "The month in ten lines"]),
    ];
    let mut plan = format!("## Content plan: {topic}\n");
    for (number, (theme, posts)) in (1..).zip(weeks) {
        plan.push_str(&format!("\n**Week {number}** {theme}\n"));
        for (day, post) in ["Mon", "Wed", "Fri"].into_iter().zip(posts) {
            plan.push_str(&format!("- {day}: {post}\n"));
        }
    }
    plan
}

/// About four characters a token, as with real models.
fn usage(request: &ModelRequest, response: &ModelResponse) -> Usage {
    let tokens = |characters: usize| (characters / 4).max(1) as u64;
    let asked: usize = request.messages.iter().filter_map(|message| message.content.as_ref()).map(String::len).sum();
    let calls = response.tool_calls.iter().map(|call| call.function.arguments.len() + call.function.name.len());
    let (input_tokens, output_tokens) =
        (tokens(asked), tokens(response.content.as_ref().map_or(0, String::len) + calls.sum::<usize>()));
    Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive::core::{Message, ToolSpec};

    fn request(tool: Option<&str>, messages: &[(Role, &str)]) -> ModelRequest {
        let tool = tool.map(|name| ToolSpec { name: name.into(), description: String::new(), parameters: json!({}) });
        let messages: Vec<_> = messages.iter().map(|(role, text)| Message::new(*role, *text, "id".into(), 0)).collect();
        ModelRequest { messages: messages.into(), tools: tool.into_iter().collect(), ..ModelRequest::default() }
    }

    #[test]
    fn the_same_request_has_the_same_answer() {
        let asked = request(Some(DELEGATE_TOOL), &[(Role::User, "AI")]);
        assert!(matches!((reply(&asked), reply(&asked)), (Ok(first), Ok(second)) if first == second));
    }

    #[test]
    fn the_leader_delegates_first_and_puts_the_answers_together_then() {
        let first =
            reply(&request(Some(DELEGATE_TOOL), &[(Role::User, "AI")])).unwrap_or_else(|f| panic!("{}", f.message));
        assert_eq!(first.tool_calls.len(), 2);
        let told = [(Role::User, "AI"), (Role::Tool, "one"), (Role::Tool, "two")];
        let last = reply(&request(Some(DELEGATE_TOOL), &told)).unwrap_or_else(|f| panic!("{}", f.message));
        assert_eq!(last.content.as_deref(), Some("# AI\n\none\n\ntwo"));
    }

    #[test]
    fn the_plan_has_three_posts_in_each_of_four_weeks() {
        let plan = plan("# AI trends\n\nmore");
        assert!(plan.starts_with("## Content plan: AI trends\n"));
        assert_eq!(plan.matches("**Week ").count(), 4);
        assert_eq!(plan.matches("\n- ").count(), 12);
    }
}
