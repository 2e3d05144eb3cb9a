//! What a model may be asked in a minute: calls wait for it before they begin, in the order in which they came.

use super::*;
use crate::model::Rates;
use tokio::time::Instant;

/// Answers at once, and notes when it was asked.
#[derive(Clone)]
struct Counted {
    name: &'static str,
    key: &'static str,
    rates: Rates,
    asked: Arc<Mutex<Vec<Duration>>>,
    begun: Instant,
}

impl Model for Counted {
    fn info(&self) -> ModelInfo {
        ModelInfo { model: self.name.to_owned(), model_provider: "test".to_owned() }
    }

    fn endpoint(&self) -> String {
        "test".to_owned()
    }

    fn limit(&self) -> Option<Limit> {
        Some(Limit::new("rates", self.key))
    }

    fn rates(&self) -> Rates {
        self.rates
    }

    fn max_output_tokens(&self) -> Option<u64> {
        Some(50)
    }

    fn respond(&self, _: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>> {
        self.asked.lock().unwrap().push(self.begun.elapsed());
        let usage = Usage { input_tokens: 60, output_tokens: 40, total_tokens: 100, ..Usage::default() };
        Box::pin(async move { Ok(ModelResponse { usage, ..text("yes") }) })
    }

    fn stream(&self, _: ModelRequest) -> ModelStream<'_> {
        unreachable!("these agents do not stream")
    }
}

/// When the calls of so many agents left that began at once.
async fn departures(key: &'static str, rates: Rates, agents: usize) -> Vec<u64> {
    let (asked, begun) = (Arc::default(), Instant::now());
    let model = Counted { name: "counted", key, rates, asked: Arc::clone(&asked), begun };
    let agent = Agent::new("Busy").model(model).stream(false);
    let runs = (0..agents).map(|_| agent.run("hi"));
    for ended in futures::future::join_all(runs).await {
        ended.expect("it is answered, sooner or later");
    }
    let asked = asked.lock().unwrap();
    // A call counts a little longer than a minute.
    asked.iter().map(|at| at.as_secs() / 60 * 60).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_next_minute_and_none_is_lost() {
    let minutes =
        |per_minute: usize, agents: usize| (0..agents).map(|n| (n / per_minute) as u64 * 60).collect::<Vec<_>>();
    let requests = Rates { requests: Some(4), ..Rates::default() };
    assert_eq!(departures("requests", requests, 11).await, minutes(4, 11));
    // Each uses 100: what more was counted at first is given back once that is known.
    let tokens = Rates { tokens: Some(520), ..Rates::default() };
    assert_eq!(departures("tokens", tokens, 12).await, minutes(5, 12));
    assert_eq!(departures("free", Rates::default(), 30).await, vec![0; 30]);
}

#[tokio::test(start_paused = true)]
async fn each_model_of_a_key_has_its_own_minute_and_waits_for_no_other() {
    let asked = Arc::default();
    let rates = Rates { requests: Some(2), ..Rates::default() };
    let one = Counted { name: "one", key: "models", rates, asked: Arc::clone(&asked), begun: Instant::now() };
    let agents = ["one", "one", "one", "other", "other"]
        .map(|name| Agent::new("Busy").model(Counted { name, ..one.clone() }).stream(false));
    let runs = agents.iter().map(|agent| agent.run("hi"));
    for ended in futures::future::join_all(runs).await {
        ended.expect("it is answered, sooner or later");
    }
    let minutes: Vec<_> = asked.lock().unwrap().iter().map(|at: &Duration| at.as_secs() / 60).collect();
    assert_eq!(minutes, [0, 0, 0, 0, 1]);
}
