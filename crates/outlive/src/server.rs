//! The server as users see it: workflows, agents and teams on one database, behind one address.
//!
//! It wires one engine for everything that is served, and the server in front of it. It adds no rules.

use crate::error::Result;
use crate::workflow::Workflow;
use outlive_agent::outbound::{NotAllowed, Outbound, Url};
use outlive_agent::{Agent, Team};
use outlive_core::port::{BoxFuture, Db, Observer};
use outlive_core::{Definition, DefinitionBuilder, InvalidDefinition};
use outlive_engine::{Engine, Options, SystemClock};
use outlive_server::auth::{Auth, Secret};
use outlive_server::config::Limits;
use outlive_server::guard::{GuardConfig, Hosts, Origins};
use outlive_server::listen::Proxies;
use outlive_server::state::{Component, Kind, Presentation};
use outlive_server::webhook::{Deliver, DeliverError, SigningKey};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, lookup_host};

/// Serves workflows, agents and teams to Agno's clients and to others: HTTP, Server-Sent Events, WebSocket.
///
/// Its runs are as durable as any: clients may disconnect and come back, and the process may die and be restarted.
///
/// ```no_run
/// use outlive::Server;
/// use outlive::prelude::*;
///
/// # async fn example() -> outlive::Result<()> {
/// let db = SqliteDb::new("tmp/workflow.db");
/// let greet = Step::function("greet", |_, input| async move { Ok::<_, Failure>(format!("Hello, {}", input.text())) });
/// let workflow = Workflow::builder("Greeting").db(db.clone()).step(greet).build()?;
/// let server = Server::builder(db).workflow(&workflow).start().await?;
/// server.serve("127.0.0.1:7777").await?; // until Ctrl-C
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    engine: Engine,
    server: outlive_server::Server,
    location: String,
}

/// A server under construction.
#[must_use]
pub struct ServerBuilder {
    db: Arc<dyn Db>,
    observer: Option<Arc<dyn Observer>>,
    options: Options,
    presentation: Presentation,
    components: Vec<Component>,
    problems: Vec<InvalidDefinition>,
    refusals: Vec<io::Error>,
    auth: Auth,
    limits: Limits,
    guard: GuardConfig,
    webhook_secret: Option<Secret>,
    webhook_addresses: Outbound,
    media_addresses: Outbound,
    is_open_to_all: bool,
}

impl ServerBuilder {
    /// How it presents itself to clients: an id and a name.
    pub fn name(mut self, id: impl Into<String>, name: impl Into<String>) -> Self {
        (self.presentation.id, self.presentation.name) = (id.into(), name.into());
        self
    }

    /// What it is for.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.presentation.description = Some(text.into());
        self
    }

    /// The id under which clients see the database.
    pub fn db_id(mut self, id: impl Into<String>) -> Self {
        self.presentation.db_id = id.into();
        self
    }

    /// The table of sessions that clients are shown.
    pub fn session_table(mut self, name: impl Into<String>) -> Self {
        self.presentation.session_table = name.into();
        self
    }

    /// Serves a workflow. The server executes its runs, so the workflow's database must be the server's: [`Self::start`]
    /// refuses another one.
    pub fn workflow(mut self, workflow: &Workflow) -> Self {
        let definition = workflow.definition().clone();
        self.refusals.extend(elsewhere(workflow, &self.db.location()));
        self.components.push(component(definition));
        self
    }

    /// Serves an agent alone.
    pub fn agent(self, agent: &Agent) -> Self {
        self.executor(Kind::Agent, agent.describe(), Definition::of(agent.clone()))
    }

    /// Serves a team alone.
    pub fn team(self, team: &Team) -> Self {
        self.executor(Kind::Team, team.describe(), Definition::of(team.clone()))
    }

    fn executor(mut self, kind: Kind, details: Value, definition: DefinitionBuilder) -> Self {
        match definition.build() {
            Ok(definition) => {
                let text = |key: &str| details[key].as_str().unwrap_or_default().to_owned();
                self.components.push(Component {
                    kind,
                    id: text("id"),
                    name: text("name"),
                    description: details["description"].as_str().map(str::to_owned),
                    definition: Arc::new(definition),
                    details,
                });
            }
            Err(invalid) => self.problems.push(invalid),
        }
        self
    }

    /// Requires this key from every caller (`Authorization: Bearer …`).
    pub fn security_key(mut self, key: impl Into<String>) -> Self {
        let key = Secret::new(key);
        self.auth = self.auth.security_key(&key);
        self.secret(key)
    }

    /// Requires these credentials from callers.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Sends webhooks, signed with this secret: `whsec_` and 24 to 64 random bytes in base64. Without it, a run that
    /// names an address is refused.
    pub fn webhook_secret(mut self, secret: impl Into<String>) -> Self {
        let secret = Secret::new(secret);
        self.webhook_secret = Some(secret.clone());
        self.secret(secret)
    }

    /// The addresses that webhooks may be sent to. By default only `https` to public hosts.
    pub fn webhook_addresses(mut self, addresses: Outbound) -> Self {
        self.webhook_addresses = addresses;
        self
    }

    /// The addresses that a run's images, audio, videos and files may have. By default only `https` to public hosts.
    /// The agents' models have their own policy, which must allow them too.
    pub fn media_addresses(mut self, addresses: Outbound) -> Self {
        self.media_addresses = addresses;
        self
    }

    /// A value that must never be stored, wherever it appears. The models' keys are known already.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.options.secrets.push(secret);
        self
    }

    /// What one caller may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The host names it answers to, besides those of this machine.
    pub fn hosts(mut self, hosts: Hosts) -> Self {
        self.guard.hosts = hosts;
        self
    }

    /// The origins of web pages that may use it.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.guard.origins = origins;
        self
    }

    /// The proxies that are trusted to say who their clients are. What is counted by address (connections, wrong
    /// credentials) and recorded in the audit log is then the client's.
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.guard.proxies = proxies;
        self
    }

    /// Serves other machines even without requiring a credential. Anyone who reaches the address may then do
    /// everything.
    pub fn open_to_all(mut self) -> Self {
        self.is_open_to_all = true;
        self
    }

    /// Passes every commit to this observer: for example `Otlp`, with the feature of that name.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// How the engine behaves.
    pub fn options(mut self, options: Options) -> Self {
        let secrets = std::mem::take(&mut self.options.secrets);
        self.options = options;
        self.options.secrets.extend(secrets);
        self
    }

    /// Opens the database and takes over unfinished runs; the server is then ready to serve.
    ///
    /// # Errors
    /// When an agent, a team or the webhook secret is invalid, a workflow has a different database, or the database
    /// cannot be opened.
    pub async fn start(mut self) -> Result<Server> {
        if let Some(invalid) = self.problems.pop() {
            return Err(invalid.into());
        }
        if let Some(refusal) = self.refusals.pop() {
            return Err(refusal.into());
        }
        let location = self.db.location();
        let signing_key = self.webhook_secret.map(|secret| SigningKey::parse(secret.expose())).transpose();
        let signing_key = signing_key.map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let definitions = self.components.iter().map(|component| component.definition.clone());
        let engine = definitions
            .fold(Engine::builder(self.db).options(self.options), |builder, definition| builder.workflow(definition));
        let engine = match self.observer {
            Some(observer) => engine.observer(observer),
            None => engine,
        };
        let engine = engine.start().await?;
        let server = outlive_server::Server::builder(engine.clone())
            .presentation(self.presentation)
            .auth(self.auth)
            .guard(self.guard)
            .media_addresses(Arc::new(move |url| {
                allowed(&self.media_addresses, url).map(drop).map_err(|no| no.to_string())
            }))
            .limits(self.limits);
        let server = match signing_key {
            Some(key) => server.webhooks(key, Arc::new(Post(self.webhook_addresses))),
            None => server,
        };
        let server = if self.is_open_to_all { server.open_to_all() } else { server };
        #[cfg(feature = "files")]
        let server = server.file_schema(crate::File::schema());
        let server = self.components.into_iter().fold(server, |server, component| server.component(component)).build();
        Ok(Server { engine, server, location })
    }
}

impl Server {
    /// Starts building a server on a database.
    pub fn builder(db: impl Db) -> ServerBuilder {
        Self::on(Arc::new(db))
    }

    /// The same, on a shared store.
    pub fn on(db: Arc<dyn Db>) -> ServerBuilder {
        ServerBuilder {
            db,
            observer: None,
            options: Options::default(),
            presentation: Presentation::default(),
            components: Vec::new(),
            problems: Vec::new(),
            refusals: Vec::new(),
            auth: Auth::new(Arc::new(SystemClock)),
            limits: Limits::default(),
            guard: GuardConfig::default(),
            webhook_secret: None,
            webhook_addresses: Outbound::default(),
            media_addresses: Outbound::default(),
            is_open_to_all: false,
        }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves these workflows in place of those before, while it goes on serving; agents and teams stay. Requests see the
    /// ones or the others, whole. Runs of those that are left out go on, and new ones are refused.
    ///
    /// ```
    /// use outlive::Server;
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let db = InMemoryDb::new();
    /// let workflow = |name| {
    ///     let echo = Step::function("echo", |_, input| async move { Ok::<_, Failure>(input.text()) });
    ///     Workflow::builder(name).db(db.clone()).step(echo).build()
    /// };
    /// let server = Server::builder(db.clone()).workflow(&workflow("One")?).start().await?;
    /// server.replace_workflows(&[workflow("Two")?])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When one has a different database; then nothing was changed.
    pub fn replace_workflows(&self, workflows: &[Workflow]) -> Result<()> {
        if let Some(refusal) = workflows.iter().find_map(|workflow| elsewhere(workflow, &self.location)) {
            return Err(refusal.into());
        }
        let definitions = || workflows.iter().map(|workflow| workflow.definition().clone());
        // Whoever sees one can start it, also while this is done.
        definitions().for_each(|definition| self.engine.register(definition));
        for gone in self.server.replace_workflows(definitions().map(component).collect()) {
            self.engine.retire(&gone);
        }
        Ok(())
    }

    /// Serves at this address until Ctrl-C or SIGTERM, then lets what is in flight finish. Once clients can connect, it
    /// prints the address in one line on standard error, which shows the port chosen for `127.0.0.1:0`.
    ///
    /// # Errors
    /// When the address cannot be bound, or can be reached from other machines and no credential is required.
    pub async fn serve(&self, address: &str) -> Result<()> {
        let listeners = bind(address).await?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let stop = async {
            // Signals are handled only once it serves.
            announce(&addresses, &self.location);
            stop_signal().await;
        };
        self.serve_on(listeners, stop).await
    }

    /// The same, on sockets that are already listening, until `stop` is ready.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub async fn serve_on(&self, listeners: Vec<TcpListener>, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let stopping = async {
            stop.await;
            // Streams end with the engine, which lets the server end; meanwhile, what is in flight may finish.
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.shutdown().await });
        };
        self.server.serve(listeners, stopping).await?;
        Ok(self.engine.shutdown().await?)
    }
}

/// A workflow, to be served.
fn component(definition: Arc<Definition>) -> Component {
    Component {
        kind: Kind::Workflow,
        id: definition.id.to_string(),
        name: definition.name.to_string(),
        description: definition.description.as_deref().map(str::to_owned),
        definition,
        details: Value::Null,
    }
}

/// That a workflow keeps its runs elsewhere, if it does.
fn elsewhere(workflow: &Workflow, here: &str) -> Option<io::Error> {
    let own = workflow.db().location();
    let name = &*workflow.definition().name;
    (!is_same_place(&own, here)).then(|| {
        let message =
            format!("workflow {name:?} keeps its runs in {own}, this server in {here}: give both the same database");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Whether two locations are the same database.
fn is_same_place(one: &str, other: &str) -> bool {
    let place = |location: &str| {
        let path = std::path::absolute(location).unwrap_or_else(|_| location.into());
        // A file that does not exist yet may be in an existing folder that has another name.
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        let in_folder = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
        path.canonicalize().ok().or(in_folder).unwrap_or(path)
    };
    one == other || place(one) == place(other)
}

fn announce(addresses: &[SocketAddr], location: &str) {
    use std::io::Write;
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    // Serve even if nobody reads this line.
    let _ = writeln!(io::stderr(), "Listening on {}, {location}", urls.join(" and "));
}

/// Posts webhooks to addresses that strangers name.
struct Post(Outbound);

/// The address, if it is allowed.
fn allowed(addresses: &Outbound, url: &str) -> Result<Url, NotAllowed> {
    let url = Url::parse(url).map_err(|_| NotAllowed::Unreadable)?;
    addresses.check(&url).map(|()| url)
}

impl Post {
    async fn send(
        &self,
        url: Result<Url, NotAllowed>,
        headers: Vec<(&'static str, String)>,
        body: String,
    ) -> Result<u16, DeliverError> {
        let url = url.map_err(|_| DeliverError::NotAllowed)?;
        let client = self.0.client().map_err(|_| DeliverError::Unreachable)?;
        let request = headers.into_iter().fold(client.post(url), |request, (name, value)| request.header(name, value));
        // Only the answer's status matters: its body is never read.
        match request.body(body).send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) if error.is_timeout() => Err(DeliverError::Timeout),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl Deliver for Post {
    fn check(&self, url: &str) -> Result<(), String> {
        allowed(&self.0, url).map(drop).map_err(|problem| problem.to_string())
    }

    fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: String,
    ) -> BoxFuture<'_, Result<u16, DeliverError>> {
        let url = allowed(&self.0, url);
        Box::pin(self.send(url, headers, body))
    }
}

/// The cause may be a name lookup that found a forbidden address.
fn failed(error: &(dyn std::error::Error + 'static)) -> DeliverError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let is_refused = causes.into_iter().any(|cause| cause.is::<NotAllowed>());
    if is_refused { DeliverError::NotAllowed } else { DeliverError::Unreachable }
}

/// Listens at every address that a name and port resolve to.
async fn bind(address: &str) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let resolved = lookup_host(address).await.map_err(|error| cannot_listen(address, &error))?;
    for resolved in resolved {
        listeners.push(TcpListener::bind(resolved).await.map_err(|error| cannot_listen(address, &error))?);
    }
    Ok(listeners)
}

/// The error, with the address and what to do about it.
fn cannot_listen(address: &str, error: &io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another program is there, choose another port",
        io::ErrorKind::InvalidInput => "give a host and a port, for example 127.0.0.1:7878",
        _ => "choose another address",
    };
    io::Error::new(error.kind(), format!("{address}: {error}; {remedy}"))
}

/// Ready when the process is asked to end.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn greeting(db: impl Db) -> Workflow {
        let greet = |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) };
        Workflow::builder("Greeting").db(db).function(greet).build().expect("it has all it needs")
    }

    #[tokio::test]
    async fn a_workflow_with_another_database_is_refused_and_both_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one.db"), folder.path().join("other.db"));
        let workflow = greeting(SqliteDb::new(&one));
        let refused = Server::builder(SqliteDb::new(&other)).workflow(&workflow).start().await.err();
        let refused = refused.expect("its runs would be elsewhere").to_string();
        assert!(
            refused.contains("one.db") && refused.contains("other.db") && refused.contains("\"Greeting\""),
            "{refused}"
        );
        assert!(!other.exists(), "nothing is made");

        let same = folder.path().join(".").join("one.db");
        let server =
            Server::builder(SqliteDb::new(same)).workflow(&workflow).start().await.expect("it is the same file");
        server.engine().shutdown().await.expect("it stops");
    }
    #[tokio::test]
    async fn an_address_that_cannot_be_served_is_named_with_a_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        for (address, remedy) in [(address.as_str(), "another port"), ("7878", "a host and a port")] {
            let refused = bind(address).await.expect_err("it cannot be bound").to_string();
            assert!(refused.contains(&format!("{address}: ")), "{refused}");
            assert!(refused.contains(remedy), "{refused}");
        }
    }
}
