//! Copies of agents and teams: whatever is changed in one does not change the other.

use outlive_agent::model::ScriptedModel;
use outlive_agent::{Agent, Team};
use outlive_core::port::Executor;
use outlive_core::{ModelResponse, Retry};
use std::time::Duration;

/// A model that says what it was told first.
fn parrot() -> ScriptedModel {
    ScriptedModel::from_fn("parrot", |request| {
        let told = request.messages.first().and_then(|message| message.content.clone()).unwrap_or_default();
        Ok(ModelResponse::text(told))
    })
}

#[tokio::test]
async fn a_changed_copy_of_an_agent_leaves_the_original_alone() {
    let original =
        Agent::new("Writer").model(parrot()).role("writes").instructions("Write plainly").num_history_runs(7);
    let before = original.describe();
    let copy = original.deep_copy();
    assert_eq!(copy.describe(), before);
    let copy = copy
        .name("Poet")
        .role("rhymes")
        .instructions("Write in rhymes")
        .description("A poet")
        .markdown(true)
        .num_history_runs(1)
        .retry(Retry::times(9))
        .timeout(Duration::from_secs(1))
        .model(parrot());
    assert_eq!(original.describe(), before);
    assert_eq!((copy.describe()["name"].clone(), copy.describe()["id"].clone()), ("Poet".into(), "poet".into()));
    let told = |agent: Agent| async move { agent.run("hi").await.unwrap_or_else(|e| panic!("{}", e.message)).content };
    let (original, copy) = (told(original).await, told(copy).await);
    let text =
        |told: Option<serde_json::Value>| told.and_then(|told| Some(told.as_str()?.to_owned())).unwrap_or_default();
    let (original, copy) = (text(original), text(copy));
    assert!(
        original.contains("Write plainly") && !original.contains("rhymes") && !original.contains("poet"),
        "{original}"
    );
    assert!(copy.contains("Write plainly") && copy.contains("Write in rhymes") && copy.contains("A poet"), "{copy}");
}

#[test]
fn a_changed_copy_of_a_team_leaves_the_original_and_its_members_alone() {
    let member = |name: &str| Agent::new(name).model(parrot()).role("does it");
    let inner = Team::new("Inner").member(member("Deep"));
    let original = Team::new("Crew").model(parrot()).member(member("One")).member(inner).instructions("Share the work");
    let before = original.describe();
    let copy = original.deep_copy().name("Band").id("the-band").member(member("Two")).instructions("Make music");
    assert_eq!(original.describe(), before);
    let after = copy.describe();
    let names = |of: &serde_json::Value| {
        let members = of["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.iter().map(|member| member["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&before), names(&after)),
        (vec!["One".into(), "Inner".into()], vec!["One".into(), "Inner".into(), "Two".into()])
    );
    assert_eq!((after["id"].as_str(), after["name"].as_str()), (Some("the-band"), Some("Band")));
    // As a step of a copied workflow.
    let stepped = Executor::deep_copy(&original).map(|copy| copy.info());
    assert_eq!(stepped, Some(original.info()));
}
