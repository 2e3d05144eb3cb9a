//! Settings: their names, where each came from, and which values are valid.
//!
//! ```text
//! default ◄── the user's file ◄── outlive.toml ◄── .env ◄── environment ◄── flag      what stands further right wins
//! ```
//! [`TABLE`] is the one list: files, variables, `config show` and suggestions all read it. A secret is not a setting:
//! it can only come from the environment (or `.env`), and is never shown. The invariant: a name that is not in the
//! table is an error.

mod env_file;
mod table;
mod value;

use crate::cli::Global;
use crate::exit::{Exit, Problem};
use env_file::EnvFile;
use outlive::McpProfile;
use outlive::Options;
use outlive::agent::model::ModelProfiles;
use outlive::serving::config::Limits;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
pub(crate) use table::{Setting, TABLE};
pub(crate) use value::{Given, parse_size};

/// The variable with the credential for a server.
pub(crate) const TOKEN: &str = "OUTLIVE_TOKEN";
/// The file's name; it is looked for in this directory and its parents.
pub(crate) const FILE_NAME: &str = "outlive.toml";
/// Where runs are kept by default.
pub(crate) const DB: &str = ".outlive/data.db";
/// Where `outlive demo` keeps its runs.
pub(crate) const DEMO_DB: &str = "demo.db";
/// The user's file, relative to their settings directory.
const USER_FILE: &str = "outlive/config.toml";
/// Maximum edit distance at which a name counts as mistyped.
const TYPO_MAX: usize = 3;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The default.
    #[default]
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This variable in this file.
    EnvFile(String, PathBuf),
    /// This flag.
    Flag(&'static str),
    /// It exists here, and nothing else does.
    Found,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::EnvFile(name, path) => write!(f, "${name} in {}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Found => f.write_str("found here; .outlive/data.db does not exist"),
        }
    }
}

/// Every setting.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) db: PathBuf,
    /// Empty: the database is opened here.
    pub(crate) server: String,
    /// Empty: the file's own, or the default one.
    pub(crate) session_table: String,
    pub(crate) addr: String,
    pub(crate) allow_hosts: Vec<String>,
    pub(crate) allow_origins: Vec<String>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) proxy_header: String,
    pub(crate) webhook_hosts: Vec<String>,
    pub(crate) tool_hosts: Vec<String>,
    /// Empty: decided by `-v`.
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) limits: Limits,
    pub(crate) engine: Options,
    /// Models under names of one's own: the tables `[models.NAME]`.
    pub(crate) models: ModelProfiles,
    /// MCP servers under names of one's own: the tables `[mcp.NAME]`.
    pub(crate) servers: BTreeMap<String, McpProfile>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            db: PathBuf::from(DB),
            server: String::new(),
            session_table: String::new(),
            addr: "127.0.0.1:7878".to_owned(),
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_header: "X-Forwarded-For".to_owned(),
            webhook_hosts: Vec::new(),
            tool_hosts: Vec::new(),
            log: String::new(),
            log_format: LogFormat::Text,
            limits: Limits::default(),
            engine: Options::default(),
            models: ModelProfiles::default(),
            servers: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Settings from the files, the environment and the global flags.
    ///
    /// # Errors
    /// When the file cannot be read, or a name in it or in a variable is not a setting or has an invalid value. The
    /// problem names it and its place.
    pub(crate) fn load(global: &Global) -> Result<Self, Problem> {
        let mut settings = Self::default();
        for path in Self::files() {
            settings.read_file(&path)?;
        }
        settings.read_environment(&EnvFile::beside(project().as_deref())?, |name| std::env::var_os(name))?;
        if let Some(db) = &global.db {
            settings.set_db(db.clone(), Origin::Flag("--db"));
        }
        if let Some(table) = &global.session_table {
            settings.set("session_table", Given::Text(table.clone()), Origin::Flag("--session-table"))?;
        }
        // A file that was named is the one to use.
        let file = [("--db", global.db.is_some()), ("--session-table", global.session_table.is_some())];
        let file = file.into_iter().find_map(|(flag, is_given)| is_given.then(|| (String::new(), flag)));
        if let Some((server, flag)) = global.server.clone().map(|server| (server, "--server")).or(file) {
            settings.set("server", Given::Text(server), Origin::Flag(flag))?;
        }
        if settings.origin("db") == Origin::Default && !settings.db.exists() && Path::new(DEMO_DB).exists() {
            settings.set_db(PathBuf::from(DEMO_DB), Origin::Found);
        }
        settings.check()?;
        Ok(settings)
    }

    /// What short-lived commands need for their log lines; a mistake in a file does not stop them.
    pub(crate) fn for_logging() -> Self {
        Self { log: std::env::var("OUTLIVE_LOG").unwrap_or_default(), ..Self::default() }
    }

    /// Gives the setting `name` a value.
    ///
    /// # Errors
    /// When the value is invalid.
    pub(crate) fn set(&mut self, name: &'static str, given: Given, origin: Origin) -> Result<(), Problem> {
        let setting = table::find(name).expect("the caller names settings of the table");
        (setting.place)(self).set(given).map_err(|wanted| {
            let problem = configuration(format!("{name} ({origin}) {wanted}"));
            problem.hint("see every setting and where it came from: outlive config show")
        })?;
        self.origins.insert(setting.name, origin);
        Ok(())
    }

    fn set_db(&mut self, path: PathBuf, origin: Origin) {
        self.db = path;
        self.origins.insert("db", origin);
    }

    /// Keeps runs where a workflow file says.
    pub(crate) fn take_store(&mut self, path: PathBuf) {
        self.set_db(path.clone(), Origin::File(path));
    }

    /// Takes the default database, whatever a demonstration has left here.
    pub(crate) fn forget_found_db(&mut self) {
        if self.origin("db") == Origin::Found {
            self.set_db(PathBuf::from(DB), Origin::Default);
        }
    }

    /// Where the value of `name` came from.
    pub(crate) fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or_default()
    }

    /// The files to read: the user's and the project's, if they exist.
    pub(crate) fn files() -> Vec<PathBuf> {
        of_user(|name| std::env::var_os(name)).into_iter().chain(project()).collect()
    }

    /// Takes over variables from `.env` beside the project's file that are not already set.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn take_env_file(global: &Global) -> Result<(), Problem> {
        EnvFile::beside(project().as_deref())?.apply(global)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Problem> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| configuration(format!("{} cannot be read: {error}", path.display())))?;
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
            // Without the source line: it may contain a secret.
            configuration(format!("{}{place} is not TOML: {}", path.display(), error.message().replace('\n', " ")))
        })?;
        if let Some(models) = table.remove("models") {
            self.models.0.extend(profiles("models", models, path)?);
            if let Some(problem) = self.models.problems().first() {
                return Err(refused("models", problem, path));
            }
        }
        if let Some(servers) = table.remove("mcp") {
            self.read_servers(profiles("mcp", servers, path)?, path)?;
        }
        let mut leaves = Vec::new();
        flatten("", table, &mut leaves);
        for (name, value) in leaves {
            let Some(setting) = table::find(&name) else { return Err(unknown(&name, path)) };
            let wanted =
                || configuration(format!("{name} ({}) must be text, a number, a switch or a list", path.display()));
            let given = Given::of_toml(value).ok_or_else(wanted)?;
            match (setting.name, given) {
                // A path in a file is relative to the file.
                ("db", Given::Text(db)) if !db.is_empty() => {
                    self.set_db(path.with_file_name(db), Origin::File(path.to_owned()));
                }
                (name, given) => self.set(name, given, Origin::File(path.to_owned()))?,
            }
        }
        Ok(())
    }

    /// MCP servers; one of the same name replaces that of a file read before.
    fn read_servers(&mut self, servers: Vec<(String, McpProfile)>, path: &Path) -> Result<(), Problem> {
        for (name, server) in servers {
            let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(is_legal) {
                let problem = format!("{name:?}: name a server with letters, digits, _ and -");
                return Err(refused("mcp", &problem, path));
            }
            if let Some(problem) = server.problems().first() {
                return Err(refused(&format!("mcp.{name}"), problem, path));
            }
            self.servers.insert(name, server);
        }
        Ok(())
    }

    fn read_environment(&mut self, file: &EnvFile, variable: impl Fn(&str) -> Option<OsString>) -> Result<(), Problem> {
        for setting in TABLE {
            let name = setting.variable();
            let Some(value) = variable(&name) else { continue };
            let origin = match file.gave(&name, &value) {
                Some(path) => Origin::EnvFile(name.clone(), path.to_owned()),
                None => Origin::Environment(name.clone()),
            };
            if setting.name == "db" {
                if value.is_empty() {
                    let problem = configuration("OUTLIVE_DB is set to nothing");
                    return Err(problem.hint("set it to the path of a database, or unset it"));
                }
                self.set_db(PathBuf::from(value), origin);
                continue;
            }
            let text = value.into_string().map_err(|_| configuration(format!("{name} is not valid UTF-8")))?;
            if !text.trim().is_empty() {
                self.set(setting.name, Given::Text(text), origin)?;
            }
        }
        Ok(())
    }

    /// Values that contradict each other.
    fn check(&self) -> Result<(), Problem> {
        // It is shown in many places.
        if self.server.contains(['@', '?', '#']) {
            let message = format!("server ({}) is more than an address", self.origin("server"));
            return Err(
                configuration(message).hint("write scheme, host and port, and set a credential as OUTLIVE_TOKEN")
            );
        }
        let (lease, heartbeat) = (self.engine.lease_period, self.engine.heartbeat_period);
        if heartbeat * 2 > lease {
            let message = "engine.heartbeat_period must be at most half of engine.lease_period";
            return Err(configuration(message).hint(format!(
                "it is {}, and the lease lasts {}: one lost heartbeat must not lose a run",
                value::period(heartbeat),
                value::period(lease)
            )));
        }
        Ok(())
    }
}

/// What a file says under names of one's own: `[models.fast]`, `[mcp.tracker]`.
fn profiles<T: DeserializeOwned>(kind: &str, value: toml::Value, path: &Path) -> Result<Vec<(String, T)>, Problem> {
    let toml::Value::Table(profiles) = value else {
        let problem = match kind {
            "models" => "write a table for each model, as [models.fast]",
            _ => "write a table for each server, as [mcp.tracker]",
        };
        return Err(refused(kind, problem, path));
    };
    let read = profiles.into_iter().map(|(name, value)| match value.try_into() {
        Ok(profile) => Ok((name, profile)),
        Err(error) => {
            // Without the source line: it may contain a secret.
            let message = meant(&error.message().replace('\n', " "));
            let holds_key = ["`api_key`", "`key`", "`token`", "`secret`"].iter().any(|name| message.contains(name));
            let hint = match kind {
                _ if !holds_key => "",
                "models" => "a key does not belong in a file: name its environment variable as api_key_variable",
                _ => "a key does not belong in a file: write its environment variable into a header, as ${env:NAME}",
            };
            let shown = crate::style::line(&format!("{kind}.{name}"), 80);
            Err(refused(&shown, &message, path).hint(hint))
        }
    });
    read.collect()
}

fn refused(name: &str, problem: &str, path: &Path) -> Problem {
    configuration(format!("{name} ({}): {problem}", path.display()))
}

/// Exit 7.
pub(crate) fn configuration(message: impl fmt::Display) -> Problem {
    Problem::new(Exit::Configuration, "configuration", message)
}

/// The project's file: the nearest one, going up.
fn project() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|directory| directory.join(FILE_NAME)).find(|path| path.is_file())
}

/// The user's file, by the rules of the XDG base directories.
fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(directory.join(USER_FILE)).filter(|path| path.is_file())
}

/// `[limits] body_bytes_max = 1` is `limits.body_bytes_max`.
fn flatten(prefix: &str, table: toml::Table, leaves: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => flatten(&name, table, leaves),
            value => leaves.push((name, value)),
        }
    }
}

fn unknown(name: &str, path: &Path) -> Problem {
    let problem = configuration(format!("{} has no meaning in {}", crate::style::line(name, 80), path.display()));
    let last = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    if last.contains("key") || last.contains("secret") || last.contains("token") || last.contains("password") {
        return problem
            .hint("secrets do not belong in a file: set OS_SECURITY_KEY in the environment, or OUTLIVE_TOKEN");
    }
    match nearest(name) {
        Some(known) => problem.hint(format!("did you mean {known}?")),
        None => problem.hint("see every setting: outlive config show"),
    }
}

/// What serde says of a field that it does not know, with the one that is probably meant in place of all that there are.
fn meant(problem: &str) -> String {
    let quoted: Vec<&str> = problem.split('`').skip(1).step_by(2).collect();
    let (Some(field), true) = (quoted.first(), problem.starts_with("unknown field")) else { return problem.to_owned() };
    let distance = |known: &&str| strsim::damerau_levenshtein(field, known);
    match quoted.iter().skip(1).min_by_key(|known| distance(known)) {
        Some(known) if distance(known) <= TYPO_MAX.min(field.chars().count() / 2) => {
            format!("unknown field `{field}`: did you mean {known}?")
        }
        _ => problem.to_owned(),
    }
}

/// The setting that `name` probably means: one that differs by a few letters, or has the same last word.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(name, known);
        // A setting under the wrong heading.
        let part = strsim::damerau_levenshtein(&last(name), &last(known)) + 1;
        whole.min(part)
    };
    let nearest = TABLE.iter().map(|setting| (distance(setting.name), setting.name)).min()?;
    // Three letters are most of a short name.
    let allowed = TYPO_MAX.min(last(name).chars().count() / 2 + 1);
    (nearest.0 <= allowed).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_has_a_suggestion_and_nonsense_has_none() {
        assert_eq!(nearest("adr"), Some("addr"));
        assert_eq!(nearest("limits.conections_max"), Some("limits.connections_max"));
        assert_eq!(nearest("limit.runs_max"), Some("engine.runs_max"));
        assert_eq!(nearest("favourite_colour"), None);
    }

    #[test]
    fn a_heartbeat_that_is_too_rare_is_refused() {
        let mut settings = Settings::default();
        settings.check().expect("the defaults make sense");
        let given = Given::Text("10s".to_owned());
        settings.set("engine.heartbeat_period", given, Origin::Default).expect("a duration");
        assert!(settings.check().is_err());
    }

    #[test]
    fn models_have_names_of_ones_own_and_a_mistake_in_one_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            let mut settings = Settings::default();
            settings.read_file(&path).map(|()| settings)
        };
        let text =
            "[models.fast]\nmodel = \"groq:openai/gpt-oss-120b\"\ntemperature = 0.2\nfallbacks = [\"ollama:qwen3\"]\n";
        let settings = read(text).unwrap_or_else(|problem| panic!("{}", problem.text()));
        let fast = settings.models.resolve("fast").unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!((fast.model.info().model_provider.as_str(), fast.fallbacks.len()), ("Groq", 1));
        for (text, words) in [
            ("models = 7", "write a table for each model"),
            (
                "[models.fast]\nmodel = \"grok:x\"\ntemprature = 1",
                "unknown field `temprature`: did you mean temperature?",
            ),
            ("[models.fast]\nmodel = \"grok:x\"\nfallback = []", "unknown field `fallback`: did you mean fallbacks?"),
            ("[models.fast]\nmodel = \"grok:x\"\ncolour = 1", "unknown field `colour`, expected one of"),
            ("[models.fast]\nmodel = \"groqq:x\"", "did you mean groq:x?"),
            ("[models.fast]\nmodel = \"groq:x\"\napi_key = \"gsk_secret\"", "api_key_variable"),
            ("[models.fast]\ntemperature = 1", "missing field `model`"),
        ] {
            let problem = read(text).expect_err("a mistake").text();
            assert!(problem.contains(words) && !problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn mcp_servers_have_names_of_ones_own_and_hold_no_secret() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            let mut settings = Settings::default();
            settings.read_file(&path).map(|()| settings)
        };
        let text = "[mcp.time]\ncommand = [\"uvx\", \"mcp-server-time\"]\n[mcp.tracker]\nurl = \"https://tracker.example.org/mcp\"\n\
                    headers = { Authorization = \"Bearer ${env:TRACKER_TOKEN}\" }\n";
        let settings = read(text).unwrap_or_else(|problem| panic!("{}", problem.text()));
        assert_eq!(settings.servers["time"].command, ["uvx", "mcp-server-time"]);
        assert_eq!(settings.servers["tracker"].url.as_deref(), Some("https://tracker.example.org/mcp"));
        for (text, words) in [
            ("mcp = 7", "write a table for each server"),
            ("[mcp.a]\ncomand = []", "unknown field `comand`: did you mean command?"),
            ("[mcp.a]\nurl = \"https://x.example/\"\ntoken = \"hunter2\"", "as ${env:NAME}"),
            ("[mcp.a]", "mcp.a ("),
            ("[mcp.a]", "it says no server"),
            ("[mcp.a]\nurl = \"https://x.example/\"\ncommand = [\"x\"]", "it has a command and an address"),
            ("[mcp.a]\ncommand = [\"x\"]\nheaders = { A = \"b\" }", "a program is sent no headers"),
            ("[mcp.a]\nurl = \"https://x.example/\"\nheaders = { Authorization = \"Bearer hunter2\" }", "looks like a"),
            ("[mcp.a]\nurl = \"https://a:hunter2@x.example/\"", "looks like a"),
            ("[mcp.a]\ncommand = [\"x\", \"--key\", \"sk-abcdefghijklmnopqrstuvwxyz123456\"]", "looks like a"),
            ("[mcp.\"a b\"]\ncommand = [\"x\"]", "letters, digits, _ and -"),
        ] {
            let problem = read(text).expect_err("a mistake").text();
            assert!(problem.contains(words), "{text}: {problem}");
            assert!(!problem.contains("hunter2") && !problem.contains("abcdefgh"), "{problem}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_nothing_else_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        std::fs::write(&path, "addr = \"127.0.0.1:1\"\ndb = \"runs.db\"\n[engine]\nruns_max = 7\n").expect("a file");
        let mut settings = Settings::default();
        settings.read_file(&path).expect("settings");
        let variable = |name: &str| (name == "OUTLIVE_ENGINE_RUNS_MAX").then(|| "9".into());
        settings.read_environment(&EnvFile::default(), variable).expect("a number");
        assert_eq!((settings.engine.runs_max, settings.addr.as_str()), (9, "127.0.0.1:1"));
        assert_eq!(settings.db, directory.path().join("runs.db"), "a path in a file is seen from the file");
        assert_eq!(settings.origin("addr"), Origin::File(path));
        assert_eq!(settings.origin("limits.headers_max"), Origin::Default);
    }
}
