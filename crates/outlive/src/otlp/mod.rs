//! Traces: the spans of runs, sent to an OpenTelemetry collector.
//!
//! ```text
//! commit ─► witness: fold ─► queue, bounded ─► one task: batches ─► OTLP over HTTP
//! ```
//! It owns the queue and the task. It must never know what a log means: `core::trace` makes the spans. Nothing waits
//! for the collector: a full queue drops spans and counts them.
//!
//! Invariant: nothing that happens here slows or fails a run.

mod environment;
mod span_data;

use crate::error::{Error, Result};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use outlive_core::port::{BoxFuture, Observer, Witness};
use outlive_core::trace::{Span, TraceFold};
use outlive_core::{Entry, RunInfo};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// How many spans may wait to be sent; further ones are dropped.
const QUEUE_MAX: usize = 8192;
/// Spans sent in one request.
const BATCH_MAX: usize = 512;
/// How long a span waits for others, at most.
const BATCH_PERIOD: Duration = Duration::from_secs(1);
/// How long a shutdown waits for the collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a trace of each run to an OpenTelemetry collector (OTLP over HTTP, protobuf). Cheap to clone.
///
/// A run is one trace, however many processes execute it: the trace's id is the run's without hyphens. Spans carry
/// names, numbers and kinds of failure; never a prompt, an argument or an answer.
///
/// ```
/// use outlive::Otlp;
/// use outlive::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> outlive::Result<()> {
/// let workflow = Workflow::builder("Shout")
///     .db(InMemoryDb::new())
///     .observer(Otlp::from_env()?) // sends nothing unless OTEL_EXPORTER_OTLP_ENDPOINT is set
///     .function(|_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) })
///     .build()?;
/// assert_eq!(workflow.run("hello").await?.text(), "HELLO");
/// workflow.shutdown().await?; // what has not been sent yet is sent
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Otlp(Option<Arc<Queue>>);

/// Spans on their way.
struct Queue {
    sender: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
    /// The task before it is started by the first run.
    idle: Mutex<Option<Export>>,
}

enum Message {
    Span(Box<Span>),
    /// Send everything queued before this, then reply.
    Flush(oneshot::Sender<()>),
}

impl Otlp {
    /// Configured by OpenTelemetry's variables: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`
    /// name the collector; without either, or with `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`, nothing is
    /// ever sent. Also read are `OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT` and `_COMPRESSION` (`gzip`) and their variants
    /// for traces alone, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
    ///
    /// # Errors
    /// [`Error::Traces`] when an address is invalid or another protocol is requested.
    pub fn from_env() -> Result<Self> {
        let is_wanted = environment::is_wanted(|name| std::env::var(name).ok()).map_err(Error::Traces)?;
        if is_wanted { Self::start(SpanExporter::builder().with_http()) } else { Ok(Self(None)) }
    }

    /// Sends to the collector at this address, whatever the environment says; usually `http://HOST:4318/v1/traces`.
    ///
    /// # Errors
    /// [`Error::Traces`] when the address is invalid.
    pub fn to(address: impl Into<String>) -> Result<Self> {
        let address = address.into();
        environment::check(&address).map_err(|problem| Error::Traces(format!("the collector's address {problem}")))?;
        Self::start(SpanExporter::builder().with_http().with_endpoint(address))
    }

    fn start(
        exporter: opentelemetry_otlp::SpanExporterBuilder<opentelemetry_otlp::HttpExporterBuilderSet>,
    ) -> Result<Self> {
        let refused = |error: ExporterBuildError| Error::Traces(error.to_string());
        // The exporter's own limit applies between its attempts, the client's during one.
        let limit = environment::timeout(|name| std::env::var(name).ok());
        let client = outlive_agent::http::builder().redirect(reqwest::redirect::Policy::none()).timeout(limit);
        let client = client.build().map_err(|_| Error::Traces("the HTTP client cannot be set up".to_owned()))?;
        let mut exporter = exporter.with_http_client(client).build().map_err(refused)?;
        exporter.set_resource(&resource());
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let export = Export { receiver, exporter, dropped: dropped.clone(), is_failing: false };
        Ok(Self(Some(Arc::new(Queue { sender, dropped, idle: Mutex::new(Some(export)) }))))
    }

    /// Whether anything is sent at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Spans that were not sent, because the queue was full or the collector did not accept them.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp").field("is_on", &self.is_on()).finish_non_exhaustive()
    }
}

impl Observer for Otlp {
    fn witness(&self, run: &Arc<RunInfo>) -> Option<Box<dyn Witness>> {
        let queue = self.0.clone()?;
        queue.start();
        Some(Box::new(Tracing { fold: TraceFold::new(run.clone()), queue }))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(queue) = &self.0 else { return };
            if timeout(FLUSH_TIMEOUT, queue.flush()).await.is_err() {
                tracing::warn!("the trace collector did not answer in time; the last spans are lost");
            }
        })
    }
}

/// One run's trace while it executes here.
struct Tracing {
    fold: TraceFold,
    queue: Arc<Queue>,
}

impl Witness for Tracing {
    fn replayed(&mut self, entries: &[Entry]) {
        self.fold.replayed(entries);
    }

    fn committed(&mut self, entries: &[Entry]) {
        self.fold.committed(entries).into_iter().for_each(|span| self.queue.push(span));
    }
}

impl Queue {
    /// Starts sending. Called where runs execute, so that there is a runtime.
    fn start(&self) {
        if let Some(export) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tokio::spawn(export.run());
        }
    }

    fn push(&self, span: Span) {
        let is_lost = self.sender.try_send(Message::Span(Box::new(span))).is_err();
        if is_lost && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("the trace collector does not keep up; spans are dropped");
        }
    }

    async fn flush(&self) {
        let has_begun = self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let (done, is_done) = oneshot::channel();
        if has_begun && self.sender.send(Message::Flush(done)).await.is_ok() {
            // An error means that the task has ended with its runtime.
            let _ = is_done.await;
        }
    }
}

/// The task that sends.
struct Export {
    receiver: mpsc::Receiver<Message>,
    exporter: SpanExporter,
    dropped: Arc<AtomicU64>,
    is_failing: bool,
}

impl Export {
    /// Sends batches until no sender of spans is left.
    async fn run(mut self) {
        while let Some(first) = self.receiver.recv().await {
            let (batch, flushed) = self.gather(first).await;
            if !batch.is_empty() {
                self.send(batch).await;
            }
            if let Some(flushed) = flushed {
                // The requester may have gone.
                let _ = flushed.send(());
            }
        }
    }

    /// As many spans as arrive within a short time.
    async fn gather(&mut self, first: Message) -> (Vec<SpanData>, Option<oneshot::Sender<()>>) {
        let deadline = Instant::now() + BATCH_PERIOD;
        let mut batch = Vec::new();
        let mut next = Some(first);
        loop {
            match next {
                Some(Message::Span(span)) => batch.push(span_data::of(*span)),
                Some(Message::Flush(flushed)) => return (batch, Some(flushed)),
                None => return (batch, None),
            }
            if batch.len() == BATCH_MAX {
                return (batch, None);
            }
            next = timeout_at(deadline, self.receiver.recv()).await.ok().flatten();
        }
    }

    /// The exporter retries by itself while that may help and its time allows.
    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                let dropped = self.dropped.fetch_add(count, Ordering::Relaxed) + count;
                if !self.is_failing {
                    tracing::warn!(%error, dropped, "the trace collector does not accept spans; they are dropped");
                }
                self.is_failing = true;
            }
        }
    }
}

/// The sender: as the environment says, or this library's name.
fn resource() -> Resource {
    let resource = Resource::builder().build();
    let name = resource.get(&opentelemetry::Key::from_static_str("service.name"));
    // The SDK's default name.
    let is_unnamed = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    if is_unnamed { Resource::builder().with_service_name("outlive").build() } else { resource }
}
