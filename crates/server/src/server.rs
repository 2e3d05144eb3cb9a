//! The assembled server: an engine, what it serves, and how it presents itself.

use crate::audit::{self, Audit};
use crate::auth::{Auth, RouteTable};
use crate::config::Limits;
use crate::guard::{self, GuardConfig};
use crate::listen::{self, Proxies};
use crate::metrics::{self, Metrics};
use crate::routes;
use crate::state::{AddressCheck, Component, Presentation, Served, State};
use crate::streams::Streams;
use crate::webhook::{Deliver, Sender, SigningKey, Webhooks};
use axum::Router;
use outlive_core::{DefinitionId, Timestamp};
use outlive_engine::{Engine, SystemClock};
use serde_json::Value;
use std::io;
use std::sync::{Arc, RwLock};
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A server under construction.
#[must_use]
pub struct ServerBuilder {
    engine: Engine,
    auth: Auth,
    presentation: Presentation,
    components: Vec<Component>,
    file_schema: Option<Value>,
    limits: Limits,
    guard: GuardConfig,
    webhooks: Option<Webhooks>,
    media_addresses: AddressCheck,
    is_open_to_all: bool,
}

impl ServerBuilder {
    /// How it presents itself.
    pub fn presentation(mut self, presentation: Presentation) -> Self {
        self.presentation = presentation;
        self
    }

    /// Serves a workflow, agent or team. Its definition must be registered with the engine where its runs execute.
    pub fn component(mut self, component: Component) -> Self {
        self.components.push(component);
        self
    }

    /// The JSON Schema of workflow files, to be shown at `/api/schema/workflow`; nothing is there without.
    pub fn file_schema(mut self, schema: Value) -> Self {
        self.file_schema = Some(schema);
        self
    }

    /// Who may call.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Sends webhooks, signed with this key, by this way. Without, a run that names an address is refused.
    pub fn webhooks(mut self, key: SigningKey, deliver: Arc<dyn Deliver>) -> Self {
        self.webhooks = Some(Webhooks::new(key, deliver));
        self
    }

    /// The addresses that images, audio, videos and files may have. Without, all that are `https` or `http`.
    pub fn media_addresses(mut self, check: AddressCheck) -> Self {
        self.media_addresses = check;
        self
    }

    /// What one caller may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves other machines even when no credential is required; `/health` then says so.
    pub fn open_to_all(mut self) -> Self {
        self.is_open_to_all = true;
        self
    }

    /// Which hosts, origins and proxies are trusted. Sizes and times are those of [`ServerBuilder::limits`].
    pub fn guard(mut self, guard: GuardConfig) -> Self {
        self.guard = guard;
        self
    }

    /// The server.
    pub fn build(self) -> Server {
        let auth = Arc::new(self.auth);
        let webhooks = self.webhooks.map(Arc::new);
        let sender = webhooks.clone().map(|webhooks| Sender::new(self.engine.clone(), webhooks));
        let metrics = Arc::<Metrics>::default();
        let audit = Audit::new(self.engine.clone(), metrics.clone());
        let state = Arc::new(State {
            engine: self.engine,
            auth: auth.clone(),
            served: RwLock::new(Arc::new(Served::new(self.components))),
            file_schema: self.file_schema,
            presentation: self.presentation,
            limits: self.limits.clone(),
            streams: Streams::new(self.limits.streams_per_caller_max),
            is_open_to_all: self.is_open_to_all && !auth.is_on(),
            webhooks,
            media_addresses: self.media_addresses,
            metrics: metrics.clone(),
            audit: audit.clone(),
            started_at: now(),
        });
        let routes = routes::all();
        let rules = routes.table();
        let routes = routes.into_router(state.clone(), auth.clone());
        let proxies = self.guard.proxies.clone();
        let guarded = guard::guarded(routes, GuardConfig { limits: self.limits.clone(), ..self.guard });
        let router = metrics::observed(audit::watched(guarded, audit.clone()), metrics.clone());
        let (limits, is_open_to_all) = (self.limits, self.is_open_to_all);
        Server { state, router, rules, auth, audit, limits, proxies, sender, metrics, is_open_to_all }
    }
}

/// Serves runs over HTTP. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    state: Arc<State>,
    router: Router,
    rules: RouteTable,
    auth: Arc<Auth>,
    audit: Arc<Audit>,
    limits: Limits,
    proxies: Proxies,
    sender: Option<Sender>,
    metrics: Arc<Metrics>,
    is_open_to_all: bool,
}

impl Server {
    /// Starts building a server in front of an engine.
    pub fn builder(engine: Engine) -> ServerBuilder {
        ServerBuilder {
            engine,
            auth: Auth::new(Arc::new(SystemClock)),
            presentation: Presentation::default(),
            components: Vec::new(),
            file_schema: None,
            limits: Limits::default(),
            guard: GuardConfig::default(),
            webhooks: None,
            media_addresses: Arc::new(|_| Ok(())),
            is_open_to_all: false,
        }
    }

    /// Serves these workflows in place of those before; agents and teams stay. A request sees the ones or the others, whole.
    /// Their definitions must be registered with the engine. Returns those that are not served any more.
    pub fn replace_workflows(&self, workflows: Vec<Component>) -> Vec<DefinitionId> {
        self.state.replace_workflows(workflows)
    }

    /// The routes, for the caller's own server. Its connections need the limits that [`Server::serve`] gives them, and
    /// its webhooks [`Server::send_webhooks`].
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// What there is, and what it needs.
    pub fn rules(&self) -> &RouteTable {
        &self.rules
    }

    /// Sends webhooks until `stop` is ready or the engine stops; ready at once where none are sent. [`Server::serve`] does
    /// this too, and any number of processes may.
    ///
    /// # Cancel safety
    /// Messages in flight are dropped and sent again later.
    pub async fn send_webhooks(&self, stop: impl Future<Output = ()>) {
        if let Some(sender) = self.sender.clone() {
            sender.run(stop).await;
        }
    }

    /// Serves connections until `shutdown` is ready, and then until what is in flight has ended or its time is over.
    ///
    /// # Errors
    /// `PermissionDenied` when other machines can reach an address and no credential is required; otherwise the
    /// operating system's error.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        for address in &addresses {
            if !address.ip().is_loopback() && !self.auth.is_on() && !self.is_open_to_all {
                let message = format!(
                    "{address} can be reached from other machines and no credential is required: \
                    require one (`security_key`, `auth`), or listen on 127.0.0.1"
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
        }
        if !self.auth.is_on() {
            let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            self.audit.open(if self.is_open_to_all { "open_to_all" } else { "this_machine" }, &addresses);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = async {
            let metrics = self.metrics.clone();
            let on_refusal = Arc::new(move || metrics.refused(metrics::TOO_MANY_CONNECTIONS));
            let (limits, proxies) = (self.limits.clone(), self.proxies.clone());
            let served = listen::serve(listeners, self.router(), limits, proxies, on_refusal, shutdown).await;
            drop(stop);
            served
        };
        let stopped = async {
            // An error is the signal: nothing is ever sent.
            let _ = stopped.await;
        };
        let served = tokio::join!(serving, self.send_webhooks(stopped)).0;
        self.audit.settle().await;
        served
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
