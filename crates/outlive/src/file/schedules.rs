//! The schedules that files declare: they are made to be what the files say.
//!
//! It must never touch a schedule that somebody made, or one that other files declare. The invariant: whoever loads the same
//! files again, at any time and in any process, finds nothing to do.

use super::File;
use crate::error::Result;
use outlive_core::DefinitionId;
use outlive_core::port::ScheduleFilter;
use outlive_engine::{CreateSchedule, Engine, Error, Schedule};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Schedules in one page.
const PAGE: u32 = 1_000;

/// What became of the schedules of files.
#[derive(Clone, Debug, Default)]
pub struct FileSchedules {
    /// Those that were not there.
    pub created: Vec<Schedule>,
    /// Those that said something else.
    pub changed: Vec<Schedule>,
    /// Those that no file declares any more. The runs they have made stay, and go on.
    pub deleted: Vec<Schedule>,
}

impl File {
    /// Makes the schedules that these files declare what the files say, once their workflows are registered with the engine:
    /// creates them, changes them, and deletes those that are declared no more. Whoever loads the same files again finds
    /// nothing to do; one that is paused stays paused. Left alone is what somebody made, and what other files declare.
    ///
    /// ```
    /// use outlive::prelude::*;
    /// use outlive::{Engine, File};
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let file = |schedules: &str| {
    ///     let workflow = format!("report: {{ steps: [{{ step: Report, agent: a }}], schedules: {schedules} }}");
    ///     let text = format!("version: 1\nmodel: demo\nagents: {{ a: {{}} }}\nworkflows:\n  {workflow}\n");
    ///     Ok::<_, outlive::Error>(File::parse("report.yaml", text)?.model("demo", ScriptedModel::replies([])))
    /// };
    /// let with = file("{ daily: { cron: '0 9 * * *' } }")?;
    /// let workflow = with.definitions()?.remove(0);
    /// let engine = Engine::builder(Arc::new(InMemoryDb::new())).workflow(workflow).start().await?;
    /// assert_eq!(&*File::declare_schedules(&engine, &[with]).await?.created[0].name, "daily");
    /// assert_eq!(&*File::declare_schedules(&engine, &[file("{}")?]).await?.deleted[0].name, "daily");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`File::definitions`], and the store's. What was done by then stays done; do it again.
    pub async fn declare_schedules(engine: &Engine, files: &[File]) -> Result<FileSchedules> {
        let mut declared = Vec::new();
        let mut workflows = BTreeSet::new();
        for file in files {
            workflows.extend(file.definitions()?.iter().map(|definition| definition.id.clone()));
            declared.extend(file.schedules()?.into_iter().map(|one| (one.workflow.id.clone(), one.create)));
        }
        let known = known(engine).await?;
        let mut done = FileSchedules::default();
        for (workflow_id, create) in &declared {
            let old = known.iter().find(|known| is_of(known, workflow_id, create));
            if old.is_some_and(|old| old.spec == create.spec && old.source == create.source) {
                continue;
            }
            let schedule = Schedule::clone(&*engine.create_schedule(workflow_id, create.clone()).await?);
            match old {
                Some(_) => done.changed.push(schedule),
                None => done.created.push(schedule),
            }
        }
        let is_declared =
            |known: &Schedule| declared.iter().any(|(workflow_id, create)| is_of(known, workflow_id, create));
        for gone in known.into_iter().filter(|known| !is_declared(known) && is_ours(known, files, &workflows)) {
            match engine.attach_schedule(gone.clone()).delete().await {
                // Another process has read the same files.
                Err(Error::ScheduleNotFound(_)) => {}
                deleted => {
                    deleted?;
                    done.deleted.push(gone);
                }
            }
        }
        Ok(done)
    }

    /// Where it is, whatever it was called: what its schedules are known by.
    pub(super) fn place(&self) -> Arc<str> {
        let path = Path::new(&self.name);
        let place = path.canonicalize().or_else(|_| std::path::absolute(path));
        Arc::from(place.map_or_else(|_| self.name.clone(), |place| place.display().to_string()))
    }
}

/// All that are declared by some file.
async fn known(engine: &Engine) -> Result<Vec<Schedule>> {
    let mut filter = ScheduleFilter { limit: PAGE, ..ScheduleFilter::default() };
    let mut known = Vec::new();
    loop {
        let page = engine.reader().schedules(filter.clone()).await?;
        known.extend(page.schedules.into_iter().filter(|schedule| schedule.source.is_some()));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(known),
        }
    }
}

/// Whether this is the schedule that is declared.
fn is_of(known: &Schedule, workflow_id: &DefinitionId, create: &CreateSchedule) -> bool {
    known.workflow_id == *workflow_id && create.name.as_deref() == Some(&*known.name)
}

/// Whether one of these files would declare it: it did so before, or it was in the folder of some of them and is gone, or was
/// a file that has moved with its workflow.
fn is_ours(known: &Schedule, files: &[File], workflows: &BTreeSet<DefinitionId>) -> bool {
    let Some(source) = known.source.as_deref() else { return false };
    let is_read = files.iter().any(|file| *file.place() == *source);
    let path = Path::new(source);
    let is_gone = || !path.exists();
    let was_beside =
        || files.iter().filter_map(|file| file.folder.as_deref()).any(|folder| path.parent() == Some(folder));
    is_read || (is_gone() && (workflows.contains(&known.workflow_id) || was_beside()))
}
