//! Reading a run's log to its end and folding it with a definition.
//!
//! It must never know what the folding is for: an engine that takes a run over and a person about to deploy read the
//! same way, so they come to the same end.

use outlive_core::Structure;
use outlive_core::log::{Damaged, Entry};
use outlive_core::machine::{Fit, Mismatch};
use outlive_core::port::{Access, Db, DbError, DbErrorKind, LogError, LogReader, Run};

/// Why a log cannot be folded.
pub(crate) enum Unreadable {
    /// An entry is not what was written.
    Damaged(Damaged),
    /// It is of another definition.
    Changed(Mismatch),
}

/// Bytes of log read at a time.
const READ_BYTES: usize = 1 << 20;

/// What tells whether the run's log fits the definition with this hash, in the words of the one it was accepted with.
///
/// # Errors
/// The store's.
pub(crate) async fn fit(db: &dyn Db, run: &Run, hash: Option<&str>) -> Result<Fit, DbError> {
    if run.next_index == 0 || hash.is_none_or(|hash| *hash == *run.definition) {
        return Ok(Fit::default());
    }
    let accepted = db.definition(run.definition.clone()).await?;
    // What cannot be read is as good as unknown: the log decides.
    Ok(Fit::new(accepted.and_then(|text| Structure::parse(&text).ok()).map(|structure| structure.nodes)))
}

/// Reads the log page by page and hands over each page's entries, with what gives the text of one.
///
/// # Errors
/// The store's.
pub(crate) async fn read(
    db: &dyn Db,
    run: &Run,
    mut fold: impl FnMut(u64, Vec<Entry>, &LogReader) -> Result<(), Mismatch>,
) -> Result<Result<(), Unreadable>, DbError> {
    let run_id = &run.info.run_id;
    let mut reader = LogReader::new(&run.info, Access::All);
    let mut from = 0;
    while from < run.next_index {
        let event_index = from;
        let damaged =
            |problem: String| Ok(Err(Unreadable::Damaged(Damaged { run_id: run_id.clone(), event_index, problem })));
        let pages = match db.read(Access::All, run_id.clone(), from, READ_BYTES).await {
            Err(error) if error.kind() == DbErrorKind::Unreadable => return damaged(error.to_string()),
            pages => pages?,
        };
        if pages.is_empty() {
            return damaged("it is missing".to_owned());
        }
        for page in pages {
            from = page.end();
            let entries = match reader.entries(db, &page).await {
                Ok(entries) => entries,
                Err(LogError::Damaged(damaged)) => return Ok(Err(Unreadable::Damaged(damaged))),
                Err(LogError::Db(error)) if error.kind() == DbErrorKind::Unreadable => {
                    return damaged(error.to_string());
                }
                Err(error) => return Err(error.into()),
            };
            if let Err(mismatch) = fold(page.first_index, entries, &reader) {
                return Ok(Err(Unreadable::Changed(mismatch)));
            }
        }
    }
    Ok(Ok(()))
}
