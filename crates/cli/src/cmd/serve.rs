//! `outlive serve`: workflows over HTTP and WebSocket, until it is told to stop.
//!
//! It wires settings to the library's server and adds one rule only: an address that other machines can reach requires
//! a credential, unless `--insecure-no-auth` says otherwise.

use super::keep::Keep;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::log::Log;
use crate::settings::{self, Given, LogFormat, Origin, Settings};
use crate::{demo, output, stop, store};
use clap::Args;
use outlive::agent::outbound::Outbound;
use outlive::core::port::Db;
use outlive::db::SqliteDb;
use outlive::engine::SystemClock;
use outlive::serving::auth::{Auth, Secret};
use outlive::serving::guard::{Hosts, Origins};
use outlive::serving::listen::{Proxies, ProxyHeader};
use outlive::serving::webhook::SigningKey;
use outlive::{Engine, File, Otlp, Server, ServerBuilder, SqliteKeys};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, lookup_host};

/// The variable with the key that may do everything.
const SECURITY_KEY: &str = "OS_SECURITY_KEY";
/// The variable with the secret that webhooks are signed with.
pub(super) const WEBHOOK_SECRET: &str = "OUTLIVE_WEBHOOK_SECRET";
/// A shorter key could be guessed.
const KEY_CHARS_MIN: usize = 32;

/// Serve workflows over HTTP and WebSocket, and execute their runs
///
/// The workflows are those of the files, or of the files in a folder; without one, the demonstration's. A program of yours
/// serves its own with outlive::Server. Agno's clients work with it unchanged. Callers need the key in OS_SECURITY_KEY, or one made with
/// `outlive keys mint`; without either, only this machine is served. Webhooks are sent when OUTLIVE_WEBHOOK_SECRET is
/// set. Ctrl-C or SIGTERM lets what is in flight finish.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR")]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
    /// Takes files anew when they are saved.
    #[arg(skip)]
    reloads: bool,
    /// Where to listen; port 0 picks a free one [default: 127.0.0.1:7878]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Accept and show runs, but leave executing them to `outlive worker`
    #[arg(long)]
    no_execute: bool,
    /// A web page's origin that may call, like https://runs.example; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// A host name to answer to, besides those of this machine; may be given several times
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Serve other machines even without any credential
    #[arg(long)]
    insecure_no_auth: bool,
    #[command(flatten)]
    keep: Keep,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    log_format: Option<LogFormat>,
}

impl Serve {
    /// For `outlive dev`.
    pub(super) fn reloading(files: Vec<String>, allowed: Allowances, addr: Option<String>) -> Self {
        Self {
            files,
            allowed,
            reloads: true,
            addr,
            no_execute: false,
            allow_origin: Vec::new(),
            allow_host: Vec::new(),
            insecure_no_auth: false,
            keep: Keep::default(),
            log_format: None,
        }
    }

    /// Every setting, with this command's flags on top.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn settings(&self, global: &Global) -> Result<Settings, Problem> {
        let mut settings = Settings::load(global)?;
        if let Some(addr) = &self.addr {
            settings.set("addr", Given::Text(addr.clone()), Origin::Flag("--addr"))?;
        }
        if self.no_execute {
            settings.set("execute", Given::Switch(false), Origin::Flag("--no-execute"))?;
        }
        for (name, flag, texts) in
            [("allow_origins", "--allow-origin", &self.allow_origin), ("allow_hosts", "--allow-host", &self.allow_host)]
        {
            if !texts.is_empty() {
                settings.set(name, Given::List(texts.clone()), Origin::Flag(flag))?;
            }
        }
        self.keep.apply(&mut settings)?;
        settings.log_format = self.log_format.unwrap_or(settings.log_format);
        Ok(settings)
    }

    pub(crate) async fn run(&self, global: &Global, log: &Log) -> Result<Exit, Problem> {
        let mut settings = self.settings(global)?;
        let files = files::read_all(&self.files, &self.allowed, &settings)?;
        // Before anything is opened.
        files::definitions(&files)?;
        files::choose_store(&files, &mut settings)?;
        let addresses = resolve(&settings.addr).await?;
        let origins =
            Origins::new(settings.allow_origins.iter().map(String::as_str)).map_err(settings::configuration)?;
        proxies(&settings)?;
        let hosts = Hosts::listed(settings.allow_hosts.iter().map(String::as_str)).map_err(settings::configuration)?;
        let is_exposed = addresses.iter().any(|address| !address.ip().is_loopback());
        let db = store::handle(&settings)?;
        let key = security_key(global);
        let auth = auth(&db, &key).await?;
        // Keep the key out of the log of a run whose input or tool has seen it.
        settings.engine.secrets.push(outlive::core::Secret::new(key));
        if is_exposed && !auth.is_on() && !self.insecure_no_auth {
            return Err(exposed(&settings.addr, global));
        }
        if is_exposed && !auth.is_on() {
            let warning = "warning: no credential is required (--insecure-no-auth): anyone who reaches this address may \
                do everything";
            say(warning);
        }
        let hosts = hosts_of(hosts, &settings, &addresses, auth.is_on());
        let mode = auth.mode();
        let listeners = bind(&settings.addr, addresses).await?;
        let stop = stop::stop_signal()?;
        let server = self.start(db, &files, &settings, auth, hosts, origins).await?;
        files::schedule(server.engine(), &files, global).await?;
        announce(&listeners, &settings, mode, global)?;
        let engine = server.engine().clone();
        log.know(&engine);
        let has_failed = AtomicBool::new(false);
        let stopping = async {
            tokio::select! {
                () = super::dev::reload(&server, &files, &self.files, &self.allowed, &settings, global), if self.reloads => {}
                () = stop => output::note(global, "Stopping; waiting for what is in flight"),
                () = engine.stopped() => has_failed.store(true, Ordering::Relaxed),
            }
        };
        let served = server.serve_on(listeners, stopping).await;
        if has_failed.load(Ordering::Relaxed) {
            return Err(stopped(&engine, global));
        }
        served?;
        Ok(Exit::Done)
    }

    async fn start(
        &self,
        db: SqliteDb,
        files: &[File],
        settings: &Settings,
        auth: Auth,
        hosts: Hosts,
        origins: Origins,
    ) -> Result<Server, Problem> {
        let db: Arc<dyn Db> = Arc::new(db);
        let mut workflows = Vec::new();
        for file in files {
            workflows.extend(file.clone().shared_db(db.clone()).workflows()?);
        }
        if files.is_empty() {
            workflows.push(demo::workflow(db.clone())?);
        }
        let server = workflows.iter().fold(Server::on(db).name("outlive", "outlive"), ServerBuilder::workflow);
        let server = server
            .auth(auth)
            .hosts(hosts)
            .origins(origins)
            .proxies(proxies(settings)?)
            .limits(settings.limits.clone())
            .observer(Otlp::from_env()?)
            .options(settings.engine.clone());
        let server = if self.insecure_no_auth { server.open_to_all() } else { server };
        Ok(with_webhooks(server, settings)?.start().await?)
    }
}

/// Why the process ends after its engine has stopped by itself.
pub(super) fn stopped(engine: &Engine, global: &Global) -> Problem {
    let reason = engine.failure().unwrap_or_else(|| "the database failed".into());
    let hint = format!("see also: {}", global.command("doctor"));
    // A path may contain something secret.
    let [reason, hint] = [&*reason, &hint].map(|text| engine.redactor().text(text).into_owned());
    Problem::new(Exit::Other, "engine_stopped", reason).hint(hint)
}

/// The proxies in front of the server.
fn proxies(settings: &Settings) -> Result<Proxies, Problem> {
    let header = ProxyHeader::parse(&settings.proxy_header).ok_or_else(|| {
        let problem = "proxy_header: it must be X-Forwarded-For or Forwarded, whichever the proxies write";
        settings::configuration(problem)
    })?;
    let trusted = settings.trusted_proxies.iter().map(String::as_str);
    Proxies::new(trusted, header).map_err(|invalid| settings::configuration(format!("trusted_proxies: {invalid}")))
}

/// Sends webhooks if there is a secret to sign them with.
fn with_webhooks(server: ServerBuilder, settings: &Settings) -> Result<ServerBuilder, Problem> {
    let Ok(secret) = std::env::var(WEBHOOK_SECRET) else { return Ok(server) };
    SigningKey::parse(&secret).map_err(|invalid| {
        let hint = format!("make one with: echo {WEBHOOK_SECRET}=whsec_$(openssl rand -base64 32)");
        settings::configuration(format!("{WEBHOOK_SECRET}: {invalid}")).hint(hint)
    })?;
    let mut addresses = Outbound::default();
    for host in &settings.webhook_hosts {
        addresses =
            addresses.allow(host).map_err(|invalid| settings::configuration(format!("webhook_hosts: {invalid}")))?;
    }
    Ok(server.webhook_secret(secret).webhook_addresses(addresses))
}

/// The key in the environment; empty when there is none.
fn security_key(global: &Global) -> String {
    let key = std::env::var(SECURITY_KEY).unwrap_or_default();
    if !key.is_empty() && key.chars().count() < KEY_CHARS_MIN && !global.quiet {
        say(&format!(
            "warning: {SECURITY_KEY} is shorter than {KEY_CHARS_MIN} characters and could be guessed; make one with: \
             openssl rand -hex 32"
        ));
    }
    key
}

/// The credentials to require: the key in the environment, and those in the file once it has one.
async fn auth(db: &SqliteDb, key: &str) -> Result<Auth, Problem> {
    let auth = Auth::new(Arc::new(SystemClock)).security_key(&Secret::new(key));
    let has_keys = db.path().exists() && !db.keys().await?.is_empty();
    Ok(if has_keys || auth.is_on() { auth.keys(Arc::new(SqliteKeys::new(db.clone()))) } else { auth })
}

/// A warning on standard error, even with `--json`: standard output stays unchanged.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// E7: both remedies, and the way out.
fn exposed(addr: &str, global: &Global) -> Problem {
    let message = format!("{addr} can be reached from other machines and no credential is required");
    settings::configuration(message).hint(format!(
        "set {SECURITY_KEY} to a long random text, or make a key with: {}\n\
         or listen on this machine only: --addr 127.0.0.1:7878\n\
         (--insecure-no-auth serves everyone all the same)",
        global.command(super::keys::MINT)
    ))
}

/// With a credential and no listed names, any name is accepted: a page from another origin does not have the
/// credential. Without a credential, the requested addresses count as names too.
fn hosts_of(hosts: Hosts, settings: &Settings, addresses: &[SocketAddr], has_auth: bool) -> Hosts {
    let is_exposed = addresses.iter().any(|address| !address.ip().is_loopback());
    match hosts {
        Hosts::Listed(names) if names.is_empty() && has_auth && is_exposed => Hosts::Any,
        Hosts::Listed(mut names) => {
            let asked = settings.addr.rsplit_once(':').map(|(host, _)| host.to_ascii_lowercase());
            names.extend(asked.filter(|host| !matches!(host.as_str(), "" | "0.0.0.0" | "[::]")));
            Hosts::Listed(names)
        }
        Hosts::Any => Hosts::Any,
    }
}

async fn resolve(addr: &str) -> Result<Vec<SocketAddr>, Problem> {
    let wrong = |why: String| {
        settings::configuration(format!("{addr} is not an address to listen on: {why}"))
            .hint("write a host and a port: --addr 127.0.0.1:7878")
    };
    let addresses: Vec<_> = lookup_host(addr).await.map_err(|error| wrong(error.to_string()))?.collect();
    if addresses.is_empty() { Err(wrong("it resolves to no address".to_owned())) } else { Ok(addresses) }
}

async fn bind(addr: &str, addresses: Vec<SocketAddr>) -> Result<Vec<TcpListener>, Problem> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(addr, &error))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn cannot_listen(addr: &str, error: &io::Error) -> Problem {
    let problem = settings::configuration(format!("cannot listen on {addr}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => problem.hint("another program is there; choose another port with --addr"),
        _ => problem.hint("choose another address with --addr"),
    }
}

/// One line, once a client can connect.
fn announce(listeners: &[TcpListener], settings: &Settings, auth: &str, global: &Global) -> Result<(), Problem> {
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    if global.json {
        output::json(&json!({
            "listening": urls,
            "db": settings.db,
            "auth": auth,
            "executes": settings.engine.execute,
            "pid": std::process::id(),
        }))?;
    }
    output::note(global, format_args!("Listening on {}, {}", urls.join(" and "), settings.db.display()));
    Ok(())
}
