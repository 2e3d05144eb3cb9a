//! The README's example: a tool of one's own, typed output and session state, without a key.

use outlive::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
struct Place {
    /// Name of a city.
    city: String,
}

/// The shape of the answer.
#[derive(Deserialize, JsonSchema)]
struct Advice {
    bring: String,
    because: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A tool is an async function. The model is told what it takes; the session's state outlives the run.
    let weather = Tool::new("weather", "The weather in a city.", |place: Place, context: ToolContext| async move {
        context.session_state.set("last_city", place.city.as_str());
        Ok::<_, Failure>(format!("heavy rain in {}", place.city))
    });
    // Scripted, so that it runs without a key. With one: OpenAIResponses::new("gpt-5.2").
    let model = ScriptedModel::replies([
        ModelResponse::calls(vec![ToolCall::new("call-1", "weather", r#"{"city": "Delft"}"#)]),
        ModelResponse::text(r#"{"bring": "an umbrella", "because": "it rains in Delft"}"#),
    ]);
    let adviser = Agent::new("Adviser").model(model).tools(weather).output_schema::<Advice>();
    let workflow = Workflow::builder("Packing")
        .db(SqliteDb::new("packing.db"))
        .step(Step::new("Advise").agent(adviser))
        .build()?;

    // An error, unless the run has completed.
    let run = workflow.run("What do I need in Delft?").session_id("ada").await?;
    let advice: Advice = run.content_as()?;
    println!("Bring {}: {}.", advice.bring, advice.because);
    println!("Last city: {}", workflow.get_session_state("ada").await?["last_city"]);
    Ok(())
}
