//! Questions to people, from outside: which are open, and answering them.
//!
//! An answer is durable before it is acknowledged, whoever executes the run and whether or not anybody does. It must
//! never know what follows from it: the run's machine decides. The invariant: a question has one answer for good.

use crate::asked::AskedQuestion;
use crate::error::Error;
use crate::finish::Finish;
use crate::reader::{READ_BYTES, Reader};
use outlive_core::port::{Answering, DbErrorKind, LogReader, NewAnswer, QuestionFilter, StoredQuestion};
use outlive_core::{ANSWER_LEN_MAX, Answer, Key, Page, Question, Record, RunId, json};
use serde_json::Value;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// An open question, and the way to answer it. It dereferences to the question; dropping it changes nothing.
#[derive(Clone)]
pub struct OpenQuestion {
    asked: AskedQuestion,
    reader: Reader,
    by: Option<Arc<str>>,
}

impl fmt::Debug for OpenQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenQuestion({})", self.asked.id())
    }
}

impl Deref for OpenQuestion {
    type Target = AskedQuestion;

    fn deref(&self) -> &AskedQuestion {
        &self.asked
    }
}

/// Every answer is on stable storage once its future is ready. Errors are those of
/// [`Engine::answer`](crate::Engine::answer).
#[expect(clippy::missing_errors_doc, reason = "said once above, for all of them")]
impl OpenQuestion {
    pub(crate) fn new(asked: AskedQuestion, reader: Reader) -> Self {
        Self { asked, reader, by: None }
    }

    /// Who answers; kept with the answer.
    #[must_use]
    pub fn by(self, who: impl AsRef<str>) -> Self {
        Self { by: Some(Arc::from(who.as_ref())), ..self }
    }

    /// Gives this answer.
    pub async fn answer(&self, given: Answer) -> Result<(), Error> {
        answer(&self.reader, vec![(self.asked.id().clone(), given)], self.by.clone()).await.map(drop)
    }

    /// Says yes.
    pub async fn approve(&self) -> Result<(), Error> {
        self.answer(Answer::Approve).await
    }

    /// Says no, and why.
    pub async fn reject(&self, feedback: impl Into<String>) -> Result<(), Error> {
        self.answer(Answer::reject(feedback)).await
    }

    /// Fills in the fields.
    pub async fn input<K: Into<String>>(&self, values: impl IntoIterator<Item = (K, Value)>) -> Result<(), Error> {
        self.answer(Answer::input(values)).await
    }

    /// Says yes to this output instead.
    pub async fn edit(&self, output: impl Into<Value>) -> Result<(), Error> {
        self.answer(Answer::Edit { output: output.into() }).await
    }

    /// Chooses.
    pub async fn choose<T: AsRef<str>>(&self, choices: impl IntoIterator<Item = T>) -> Result<(), Error> {
        self.answer(Answer::choose(choices)).await
    }

    /// Has it tried again.
    pub async fn retry(&self) -> Result<(), Error> {
        self.answer(Answer::Retry).await
    }

    /// Goes on without it.
    pub async fn skip(&self) -> Result<(), Error> {
        self.answer(Answer::Skip).await
    }

    /// Says what came of it.
    pub async fn result(&self, result: impl Into<Value>) -> Result<(), Error> {
        self.answer(Answer::Result { result: result.into() }).await
    }
}

/// A page of questions, those asked first first.
#[derive(Clone, Debug, Default)]
pub struct AskedPage {
    /// The questions.
    pub questions: Vec<AskedQuestion>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

impl Reader {
    /// Lists questions: those that are open, unless the filter says otherwise.
    ///
    /// # Errors
    /// [`Error::DamagedQuestion`], or the store's; `Storage` when the cursor did not come from a list.
    pub async fn questions(&self, filter: QuestionFilter) -> Result<AskedPage, Error> {
        let page = self.inner.services.db.questions(self.access.clone(), filter).await?;
        let questions = page.questions.iter().map(read).collect::<Result<_, _>>()?;
        Ok(AskedPage { questions, next: page.next })
    }

    /// The question with this id; none when there is no such question.
    ///
    /// # Errors
    /// [`Error::DamagedQuestion`], or the store's.
    pub async fn question(&self, id: &str) -> Result<Option<AskedQuestion>, Error> {
        let stored = self.inner.services.db.question(self.access.clone(), Arc::from(id)).await?;
        stored.as_ref().map(read).transpose()
    }

    /// Every open question of a run, in the order in which they were asked.
    ///
    /// # Errors
    /// As [`Reader::questions`].
    pub async fn questions_of(&self, run_id: &RunId) -> Result<Vec<AskedQuestion>, Error> {
        self.every(QuestionFilter { run_id: Some(run_id.clone()), ..QuestionFilter::default() }).await
    }

    /// Every question that a run has asked, open or not, in the order in which they were asked.
    ///
    /// # Errors
    /// As [`Reader::questions`].
    pub async fn asked_by(&self, run_id: &RunId) -> Result<Vec<AskedQuestion>, Error> {
        self.every(QuestionFilter { run_id: Some(run_id.clone()), with_settled: true, ..QuestionFilter::default() })
            .await
    }

    async fn every(&self, filter: QuestionFilter) -> Result<Vec<AskedQuestion>, Error> {
        let mut filter = QuestionFilter { limit: 1_000, ..filter };
        let mut all = Vec::new();
        loop {
            let page = self.questions(filter.clone()).await?;
            all.extend(page.questions);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(all),
            }
        }
    }
}

impl Reader {
    /// What a run had asked, and nobody had answered, before the entry at `index` of its log was written, in the order in
    /// which it was asked. Rows say what is open now; this says what was open then.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Damaged`], or the store's.
    pub async fn open_before(&self, run_id: &RunId, index: u64) -> Result<Vec<Arc<Question>>, Error> {
        let run = self.record(run_id).await?.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
        let (db, mut log) = (&self.inner.services.db, LogReader::new(&run.info, self.access.clone()));
        let (mut open, mut next) = (OpenThen::default(), 0);
        while next < index {
            let pages = db.read(self.access.clone(), run_id.clone(), next, READ_BYTES).await?;
            let Some(end) = pages.last().map(Page::end).filter(|end| *end > next) else { break };
            for page in pages {
                let entries = log.entries(&**db, &page).await?.into_iter();
                let earlier =
                    entries.filter(|entry| entry.event.event_index.is_some_and(|at| next <= at && at < index));
                earlier.filter_map(|entry| entry.record).for_each(|record| open.fold(record));
            }
            next = end;
        }
        Ok(open.0.into_iter().map(|(_, question)| question).collect())
    }
}

/// Questions that are open at a place of the log, each with the node that waits.
#[derive(Default)]
struct OpenThen(Vec<(Key, Arc<Question>)>);

impl OpenThen {
    fn fold(&mut self, record: Record) {
        match record {
            Record::Waiting { key, questions, .. } => {
                self.0.extend(questions.into_iter().map(|question| (key.clone(), question)));
            }
            Record::Answered { key, .. } => self.0.retain(|(_, question)| question.key != key),
            // What ends or begins again waits for nothing more, and neither does anything inside it.
            Record::Step { key, .. } | Record::Failed { key, .. } | Record::Retry { key, .. } => {
                self.0.retain(|(node, _)| *node != key && !node.is_inside(&key));
            }
            _ => {}
        }
    }
}

fn read(stored: &StoredQuestion) -> Result<AskedQuestion, Error> {
    let damaged =
        |error: serde_json::Error| Error::DamagedQuestion { id: stored.id.clone(), problem: error.to_string() };
    AskedQuestion::read(stored).map_err(damaged)
}

/// Gives answers, all of them or none. Returns the questions as they stand then.
///
/// # Cancel safety
/// Once polled, it is carried out, also when its caller goes away.
pub(crate) async fn answer(
    reader: &Reader,
    answers: Vec<(Arc<str>, Answer)>,
    by: Option<Arc<str>>,
) -> Result<Vec<AskedQuestion>, Error> {
    let (reader, runtime) = (reader.clone(), reader.inner.runtime.clone());
    Finish::new(&runtime, async move { give(&reader, answers, by).await }).await
}

async fn give(
    reader: &Reader,
    answers: Vec<(Arc<str>, Answer)>,
    by: Option<Arc<str>>,
) -> Result<Vec<AskedQuestion>, Error> {
    let db = &reader.inner.services.db;
    let mut new = Vec::with_capacity(answers.len());
    for (id, answer) in &answers {
        let asked = reader.question(id).await?.ok_or_else(|| Error::QuestionNotFound(id.clone()))?;
        let may = asked.question.check_person(by.as_deref(), asked.user_id.as_deref());
        may.map_err(|problem| Error::NotYoursToAnswer { id: id.clone(), problem })?;
        let text = text_of(answer).map_err(|problem| Error::InvalidAnswer { id: id.clone(), problem })?;
        asked.question.check(answer).map_err(|problem| Error::InvalidAnswer { id: id.clone(), problem })?;
        new.push(NewAnswer { id: id.clone(), text: Arc::from(text), by: by.clone() });
    }
    let at = reader.inner.services.clock.now();
    let given = db.answer(reader.access.clone(), new, at).await;
    let given = given.map_err(|error| match (error.kind(), answers.first()) {
        (DbErrorKind::NotFound, Some((id, _))) => Error::QuestionNotFound(id.clone()),
        _ => error.into(),
    })?;
    if let Answering::Refused(stored) = given {
        return Err(Error::AlreadyAnswered(Box::new(read(&stored)?)));
    }
    let mut asked = Vec::with_capacity(answers.len());
    for (id, _) in &answers {
        asked.extend(reader.question(id).await?);
    }
    Ok(asked)
}

/// An answer as JSON text, or why it cannot be kept.
pub(crate) fn text_of(answer: &Answer) -> Result<String, String> {
    let mut value = serde_json::to_value(answer).map_err(|error| error.to_string())?;
    json::admit(&mut value).map_err(|too_deep| too_deep.to_string())?;
    if json::has_nul(&value) {
        return Err(Error::Nul { what: "it" }.to_string());
    }
    let text = value.to_string();
    match text.len() > ANSWER_LEN_MAX {
        true => Err(format!("it has {} bytes, the limit is {ANSWER_LEN_MAX}; pass a reference instead", text.len())),
        false => Ok(text),
    }
}
