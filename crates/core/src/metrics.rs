//! What a run used: tokens and time, in the shape Agno stores.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Tokens of one model call, or a sum of several. Zero counts are left out of the JSON, as Agno does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    #[serde(skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    /// Tokens of the answer, reasoning included.
    #[serde(skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    /// Their sum, as the provider counted it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_tokens: u64,
    /// Part of `output_tokens` spent on reasoning.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
    /// Part of `input_tokens` read from the provider's prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read_tokens: u64,
    /// Part of `input_tokens` written to the provider's prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Part of `input_tokens` that was sound.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_input_tokens: u64,
    /// Part of `output_tokens` that was sound.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_output_tokens: u64,
    /// Sound in both.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_total_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.total_tokens += other.total_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.audio_input_tokens += other.audio_input_tokens;
        self.audio_output_tokens += other.audio_output_tokens;
        self.audio_total_tokens += other.audio_total_tokens;
    }
}

/// Usage of one model, inside [`Metrics::details`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelUsage {
    /// The tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// What they cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The model's id, for example `gpt-5.2`.
    pub id: String,
    /// The provider and its endpoint, for example `OpenAI Responses`.
    pub provider: String,
}

/// What an agent run, a team run, a step or one message used. A team's numbers include its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// The tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// What it cost, in the currency of the prices; absent where nobody gave any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Seconds from the start to the first token of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token: Option<f64>,
    /// Seconds from the start to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Tool calls only: when it started, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<f64>,
    /// Tool calls only: when it ended, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<f64>,
    /// The same tokens for each model, under the key `model`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Vec<ModelUsage>>,
}

/// What is counted in billionths stays exact when it is added up as numbers of a currency.
fn add_cost(sum: &mut Option<f64>, cost: Option<f64>) {
    if let Some(cost) = cost {
        *sum = Some(((sum.unwrap_or(0.0) + cost) * 1e9).round() / 1e9);
    }
}

impl Metrics {
    /// Counts one answer of the model `id` at `provider`.
    pub fn count(&mut self, usage: Usage, cost: Option<f64>, id: &str, provider: &str) {
        self.usage += usage;
        add_cost(&mut self.cost, cost);
        let models = self.details.entry("model".to_owned()).or_default();
        match models.iter_mut().find(|m| m.id == id && m.provider == provider) {
            Some(model) => {
                model.usage += usage;
                add_cost(&mut model.cost, cost);
            }
            None => models.push(ModelUsage { usage, cost, id: id.to_owned(), provider: provider.to_owned() }),
        }
    }

    /// Adds the tokens of `other` (a member's, say) and leaves its times out.
    pub fn absorb(&mut self, other: &Metrics) {
        for model in other.details.get("model").into_iter().flatten() {
            self.count(model.usage, model.cost, &model.id, &model.provider);
        }
    }

    /// Adds what was used after this, or beside it: tokens and durations. The first token stays the first.
    pub fn add(&mut self, other: &Metrics) {
        self.absorb(other);
        self.duration = match (self.duration, other.duration) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.time_to_first_token = self.time_to_first_token.or(other.time_to_first_token);
    }
}

/// One step's line in [`RunMetrics`]. Only agent and team steps have one; what several of the same name used, or one in
/// several iterations, is one sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step's name.
    pub step_name: Arc<str>,
    /// `agent` or `team`.
    pub executor_type: String,
    /// The agent's or team's name.
    pub executor_name: Arc<str>,
    /// What it used.
    pub metrics: Option<Metrics>,
}

/// What a workflow run used. Present from PENDING on, then with no steps and no duration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunMetrics {
    /// By step name.
    pub steps: BTreeMap<String, StepMetrics>,
    /// Seconds from the first claim to the end; absent while the run is not over.
    pub duration: Option<f64>,
}

impl RunMetrics {
    /// Counts what an agent or a team used in the step of this name.
    pub fn count(&mut self, step: &Arc<str>, executor_type: &str, executor_name: &Arc<str>, used: &Metrics) {
        if let Some(line) = self.steps.get_mut(&**step) {
            line.metrics.get_or_insert_default().add(used);
            return;
        }
        let line = StepMetrics {
            step_name: step.clone(),
            executor_type: executor_type.to_owned(),
            executor_name: executor_name.clone(),
            metrics: Some(used.clone()),
        };
        self.steps.insert(step.to_string(), line);
    }

    /// The tokens of all steps, together and for each model; without times. Nothing when none of them used a model.
    pub fn total(&self) -> Option<Metrics> {
        let mut used = self.steps.values().filter_map(|step| step.metrics.as_ref()).peekable();
        used.peek()?;
        let mut total = Metrics::default();
        used.for_each(|metrics| total.absorb(metrics));
        Some(total)
    }
}
