//! `outlive dev`: serves workflow files, and takes them anew whenever they are saved.
//!
//! It must never stop a run: those in flight go on with the text that they were accepted with.

use super::serve::Serve;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::log::Log;
use crate::output;
use crate::settings::Settings;
use crate::style;
use clap::Args;
use outlive::core::{Definition, DefinitionId, Structure};
use outlive::engine::diff::diff;
use outlive::{Engine, File, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Serve workflow files while you work on them: each is taken anew when it is saved
///
/// As outlive serve, on this machine. A file with a mistake is told of, and the one before goes on being served. A workflow
/// that is new is served at once, and one that is gone takes no new runs. Runs in flight go on with the text that they were
/// accepted with; new runs take the new one.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
    /// Where to listen; port 0 picks a free one [default: 127.0.0.1:7878]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
}

/// How often files are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// How long a text must stay the same to be taken for whole.
const WRITE_PERIOD: Duration = Duration::from_millis(20);

impl Dev {
    fn serve(&self) -> Serve {
        Serve::reloading(self.files.clone(), self.allowed.clone(), self.addr.clone())
    }

    /// Every setting, with this command's flags on top.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn settings(&self, global: &Global) -> Result<Settings, Problem> {
        self.serve().settings(global)
    }

    pub(crate) async fn run(&self, global: &Global, log: &Log) -> Result<Exit, Problem> {
        self.serve().run(global, log).await
    }
}

/// Takes files anew when they are saved, and those that are new in a folder, for ever.
pub(super) async fn reload(
    server: &Server,
    files: &[File],
    paths: &[String],
    allowed: &Allowances,
    settings: &Settings,
    global: &Global,
) {
    let mut watched = Watched::new(files, paths, allowed, settings, global);
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let changes = watched.look().await;
        if let Err(problem) = watched.take(changes, server).await {
            // Told like any problem, and what was served before goes on.
            problem.report(global.json);
            output::note(global, "What is served stays as it was before");
        }
    }
}

/// The files that are served, and what they said when they were looked at last.
struct Watched<'a> {
    paths: &'a [String],
    allowed: &'a Allowances,
    settings: &'a Settings,
    global: &'a Global,
    /// Files as they were read last without a mistake, by name.
    files: BTreeMap<String, File>,
    seen: BTreeMap<String, Arc<str>>,
    /// Those that were not there when their folder was looked at last.
    missed: BTreeSet<String>,
    served: BTreeMap<DefinitionId, Arc<Definition>>,
}

/// What has become of the files.
#[derive(Default)]
struct Changes {
    /// Those with another text, each with the folder it is in, if that was named.
    saved: Vec<(String, Option<String>)>,
    gone: Vec<String>,
}

impl<'a> Watched<'a> {
    fn new(
        files: &[File],
        paths: &'a [String],
        allowed: &'a Allowances,
        settings: &'a Settings,
        global: &'a Global,
    ) -> Self {
        let named = |file: &File| (file.name().to_owned(), file.clone());
        let seen = files.iter().map(|file| (file.name().to_owned(), file.text().clone())).collect();
        let files: BTreeMap<_, _> = files.iter().map(named).collect();
        let served = files.values().flat_map(|file| file.definitions().unwrap_or_default());
        let served = served.map(|definition| (definition.id.clone(), definition)).collect();
        Self { paths, allowed, settings, global, files, seen, missed: BTreeSet::new(), served }
    }

    /// What is there now, by the name of each file, with its folder. A folder that cannot be read keeps what it had.
    fn there(&self) -> BTreeMap<String, Option<String>> {
        let mut there = BTreeMap::new();
        for path in self.paths {
            if !Path::new(path).is_dir() {
                there.insert(path.clone(), None);
                continue;
            }
            let known = || self.files.keys().filter(|name| Path::new(name).parent() == Some(Path::new(path)));
            let listed = match File::list(path) {
                Ok(found) => found.iter().map(|path| path.display().to_string()).collect(),
                Err(_) => known().cloned().collect::<Vec<_>>(),
            };
            there.extend(listed.into_iter().map(|name| (name, Some(path.clone()))));
        }
        there
    }

    async fn look(&mut self) -> Changes {
        let there = self.there();
        let missed: BTreeSet<_> = self.files.keys().filter(|name| !there.contains_key(*name)).cloned().collect();
        // One that is put in place of another is missed for a moment only.
        let gone = missed.intersection(&self.missed).cloned().collect();
        self.missed = missed;
        let mut changes = Changes { gone, ..Changes::default() };
        for (name, folder) in there {
            let Some(text) = self.unseen(&name) else { continue };
            tokio::time::sleep(WRITE_PERIOD).await;
            // One that is being written is looked at again.
            if files::text_of(&name).is_some_and(|now| now == text) {
                self.seen.insert(name.clone(), Arc::from(text));
                changes.saved.push((name, folder));
            }
        }
        changes
    }

    /// What a file says now, if it said something else before.
    fn unseen(&self, name: &str) -> Option<String> {
        files::text_of(name).filter(|text| self.seen.get(name).is_none_or(|seen| **seen != **text))
    }

    /// Serves what the files say now. One with a mistake stays as it was before.
    async fn take(&mut self, changes: Changes, server: &Server) -> Result<(), Problem> {
        let mut files = self.files.clone();
        let mut taken = Vec::new();
        for (name, folder) in changes.saved {
            match self.read(&name, folder.as_deref()) {
                Ok(file) => {
                    let said = if files.insert(name.clone(), file).is_some() { "anew" } else { "as well" };
                    taken.push(format!("Took {name} {said}"));
                }
                Err(problem) => {
                    problem.report(self.global.json);
                    let fate = if files.contains_key(&name) { "stays as it was before" } else { "is left out" };
                    output::note(self.global, format_args!("{name} {fate}"));
                }
            }
        }
        for name in changes.gone {
            files.remove(&name);
            self.seen.remove(&name);
            taken.push(format!("{name} is gone"));
        }
        if taken.is_empty() {
            return Ok(());
        }
        // What stands in the way may go with the next change.
        self.files = files;
        let files: Vec<_> = self.files.values().cloned().collect();
        let now = files::definitions(&files)?;
        let mut workflows = Vec::new();
        for file in &files {
            workflows.extend(file.clone().shared_db(server.engine().db().clone()).workflows()?);
        }
        server.replace_workflows(&workflows)?;
        let now = now.into_iter().map(|definition| (definition.id.clone(), definition)).collect();
        let before = std::mem::replace(&mut self.served, now);
        for line in taken {
            output::note(self.global, line);
        }
        self.tell(&before, server.engine()).await?;
        files::schedule(server.engine(), &files, self.global).await
    }

    /// One file, if nothing is wrong with it.
    fn read(&self, name: &str, folder: Option<&str>) -> Result<File, Problem> {
        let file = match folder {
            Some(folder) => files::read_in(folder, name, self.allowed, self.settings),
            None => files::read(name, self.allowed, self.settings),
        }?;
        file.definitions()?;
        Ok(file)
    }

    /// Says which workflows come and go, and what becomes of runs in flight.
    async fn tell(&self, before: &BTreeMap<DefinitionId, Arc<Definition>>, engine: &Engine) -> Result<(), Problem> {
        for id in self.served.keys().filter(|id| !before.contains_key(*id)) {
            output::note(self.global, format_args!("{id} is served now"));
        }
        for (id, old) in before {
            let now = self.served.get(id);
            if now.is_some_and(|now| now.hash == old.hash) {
                continue;
            }
            if now.is_none() {
                output::note(self.global, format_args!("{id} takes no new runs any more"));
            }
            let others = in_flight(engine, old).await?;
            if others > 0 {
                let runs = style::counted(others, "unfinished run");
                let go_on =
                    if others == 1 { "finishes with the text that it" } else { "finish with the text that they" };
                output::note(self.global, format_args!("{runs} of {id} {go_on} began with"));
            }
        }
        Ok(())
    }
}

/// How many unfinished runs there are.
async fn in_flight(engine: &Engine, definition: &Definition) -> Result<usize, Problem> {
    let Ok(structure) = Structure::from_json(&definition.to_json()) else { return Ok(0) };
    let mut count = 0;
    diff(&**engine.db(), &structure, |_| count += 1).await?;
    Ok(count)
}
