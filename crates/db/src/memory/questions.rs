//! Questions to people in memory. Runs without one are never looked at.

use super::{InMemoryDb, Operation, Tables};
use crate::rules::{self, Reception};
use outlive_core::port::{
    Access, Answering, BoxFuture, DbError, NewAnswer, NewQuestion, News, QuestionFilter, QuestionPage, QuestionPatch,
    QuestionState, QuestionStore, StoredAnswer, StoredQuestion, TIMED_OUT,
};
use outlive_core::{RunId, RunStatus, Timestamp, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The questions, numbered in the order in which they were asked.
#[derive(Default)]
pub(super) struct Questions {
    rows: BTreeMap<u64, QuestionRow>,
    asked: u64,
    by_id: BTreeMap<Arc<str>, u64>,
    /// The open ones that have a time.
    due: BTreeSet<(Timestamp, u64)>,
    /// By the number of their run: those whose answers its log does not have.
    inbox: BTreeSet<(u64, u64)>,
}

struct QuestionRow {
    /// The number of its run.
    run: u64,
    id: Arc<str>,
    text: Arc<str>,
    asked_at: Timestamp,
    due_at: Option<Timestamp>,
    state: QuestionState,
    answer: Option<StoredAnswer>,
}

impl QuestionStore for InMemoryDb {
    fn answer(
        &self,
        access: Access,
        answers: Vec<NewAnswer>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Answering, DbError>> {
        Box::pin(async move { self.operate(Operation::Answer, |tables| tables.answer(&access, &answers, at)) })
    }

    fn question(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredQuestion>, DbError>> {
        let read = move |tables: &mut Tables| Ok(tables.find_question(&access, &id).map(|(_, question)| question));
        Box::pin(async move { self.operate(Operation::Question, read) })
    }

    fn questions(&self, access: Access, filter: QuestionFilter) -> BoxFuture<'_, Result<QuestionPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Questions, |tables| tables.list_questions(&access, &filter)) })
    }

    fn inbox(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<StoredQuestion>, DbError>> {
        Box::pin(async move { self.operate(Operation::Inbox, |tables| Ok(tables.inbox(&run_id))) })
    }

    fn mail(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<RunId>, DbError>> {
        Box::pin(async move { self.operate(Operation::Mail, |tables| Ok(tables.mail(&worker))) })
    }
}

impl Questions {
    fn ask(&mut self, run: u64, new: NewQuestion, at: Timestamp) {
        if self.by_id.contains_key(&new.id) {
            return;
        }
        self.asked += 1;
        let seq = self.asked;
        self.by_id.insert(new.id.clone(), seq);
        self.due.extend(new.due_at.map(|due_at| (due_at, seq)));
        let NewQuestion { id, due_at, text } = new;
        let state = QuestionState::Open;
        self.rows.insert(seq, QuestionRow { run, id, text, asked_at: at, due_at, state, answer: None });
    }

    /// Answers a question of a run that begins with it.
    pub(super) fn give(&mut self, answer: NewAnswer, at: Timestamp) {
        let NewAnswer { id, text, by } = answer;
        if let Some(seq) = self.by_id.get(&id).copied() {
            self.record(seq, StoredAnswer { text, by, at });
        }
    }

    /// The log of `run` has its answer, or needs none.
    fn settle(&mut self, run: u64, id: &str) {
        let Some(seq) = self.by_id.get(id).copied().filter(|seq| self.rows[seq].run == run) else { return };
        self.inbox.remove(&(run, seq));
        if self.rows[&seq].state == QuestionState::Open {
            self.end(seq, QuestionState::Void);
        }
    }

    fn record(&mut self, seq: u64, answer: StoredAnswer) {
        self.end(seq, QuestionState::Answered);
        let row = self.row(seq);
        row.answer = Some(answer);
        let run = row.run;
        self.inbox.insert((run, seq));
    }

    /// It is open no more.
    fn end(&mut self, seq: u64, state: QuestionState) {
        let row = self.row(seq);
        row.state = state;
        if let Some(due_at) = row.due_at {
            self.due.remove(&(due_at, seq));
        }
    }

    fn row(&mut self, seq: u64) -> &mut QuestionRow {
        self.rows.get_mut(&seq).expect("a row goes together with everything that names it")
    }

    fn inbox_of(&self, run: u64) -> impl Iterator<Item = u64> {
        self.inbox.range((run, 0)..=(run, u64::MAX)).map(|(_, seq)| *seq)
    }
}

impl Tables {
    /// Stores what a run asks, and what it needs no answer to any more.
    pub(super) fn patch_questions(&mut self, run: u64, patch: QuestionPatch, at: Timestamp) {
        patch.asked.into_iter().for_each(|new| self.questions.ask(run, new, at));
        patch.settled.iter().for_each(|id| self.questions.settle(run, id));
    }

    /// Whether a run has answers that its log does not have.
    pub(super) fn has_mail(&self, run: u64) -> bool {
        self.questions.inbox_of(run).next().is_some()
    }

    /// Answers open questions whose time is up, as many as one call may. Gives when the next one's is.
    pub(super) fn time_out(&mut self, at: Timestamp) -> Option<Timestamp> {
        let due = self.questions.due.iter().take_while(|(due_at, _)| *due_at <= at).map(|(_, seq)| *seq);
        let late: Vec<u64> = due.take(rules::TIMED_OUT_MAX as usize).collect();
        let is_over = |seq: &u64| self.runs[&self.questions.rows[seq].run].run.status.is_terminal();
        let (unneeded, late): (Vec<u64>, Vec<u64>) = late.into_iter().partition(is_over);
        unneeded.into_iter().for_each(|seq| self.questions.end(seq, QuestionState::Void));
        late.iter().for_each(|seq| self.questions.record(*seq, timed_out(at)));
        self.wake_those(&late, at);
        self.questions.due.first().map(|(due_at, _)| *due_at)
    }

    pub(super) fn delete_questions(&mut self) {
        let runs = &self.runs;
        let all = &mut self.questions;
        all.rows.retain(|_, row| runs.contains_key(&row.run));
        let rows = &all.rows;
        all.by_id.retain(|_, seq| rows.contains_key(seq));
        all.due.retain(|(_, seq)| rows.contains_key(seq));
        all.inbox.retain(|(_, seq)| rows.contains_key(seq));
    }

    /// The runs of these questions, which were answered, are RUNNING, and free to be claimed if nobody holds them.
    fn wake_those(&mut self, questions: &[u64], at: Timestamp) {
        let runs: BTreeSet<u64> = questions.iter().map(|seq| self.questions.rows[seq].run).collect();
        for seq in runs {
            self.changes += 1;
            let run = &mut self.row(seq).run;
            if run.status == RunStatus::Paused {
                run.status = RunStatus::Running;
            }
            run.updated_at = at;
            let (run_id, is_free) = (run.info.run_id.clone(), run.worker.is_none());
            if is_free {
                run.due_at = None;
            }
            self.ran(&run_id, None);
            if is_free && !self.news.contains(&News::Free { by: None }) {
                self.freed(None);
            }
        }
    }

    fn stored(&self, row: &QuestionRow) -> StoredQuestion {
        let run = &self.runs[&row.run].run;
        let is_void = row.state == QuestionState::Open && run.status.is_terminal();
        StoredQuestion {
            id: row.id.clone(),
            run_id: run.info.run_id.clone(),
            workflow_id: run.info.workflow_id.clone(),
            session_id: run.info.session_id.clone(),
            user_id: run.info.user_id.clone(),
            text: row.text.clone(),
            asked_at: row.asked_at,
            due_at: row.due_at,
            state: if is_void { QuestionState::Void } else { row.state },
            answer: row.answer.clone(),
        }
    }

    /// A question of the caller's, with its number.
    fn find_question(&self, access: &Access, id: &str) -> Option<(u64, StoredQuestion)> {
        let seq = *self.questions.by_id.get(id)?;
        let question = self.stored(&self.questions.rows[&seq]);
        access.sees(question.user_id.as_deref()).then_some((seq, question))
    }

    fn answer(&mut self, access: &Access, answers: &[NewAnswer], at: Timestamp) -> Result<Answering, DbError> {
        let asked = |tables: &Self, answer: &NewAnswer| {
            tables.find_question(access, &answer.id).ok_or_else(|| rules::no_question(&answer.id))
        };
        let mut late = Vec::new();
        for answer in answers {
            let (seq, question) = asked(self, answer)?;
            if rules::is_late(&question, at) {
                late.push(seq);
            }
        }
        // What nobody has noticed yet is over all the same.
        late.iter().for_each(|seq| self.questions.record(*seq, timed_out(at)));
        self.wake_those(&late, at);
        let mut given: BTreeMap<u64, &NewAnswer> = BTreeMap::new();
        for answer in answers {
            let (seq, question) = asked(self, answer)?;
            match rules::reception(&question, answer, given.get(&seq).copied()) {
                Reception::Recorded => drop(given.insert(seq, answer)),
                Reception::Repeated => {}
                Reception::Refused => return Ok(Answering::Refused(Box::new(question))),
            }
        }
        for (seq, answer) in &given {
            self.questions.record(*seq, StoredAnswer { text: answer.text.clone(), by: answer.by.clone(), at });
        }
        let answered: Vec<u64> = given.into_keys().collect();
        self.wake_those(&answered, at);
        Ok(Answering::Accepted)
    }

    fn list_questions(&self, access: &Access, filter: &QuestionFilter) -> Result<QuestionPage, DbError> {
        let from = rules::parse_question_cursor(filter)?.map_or(0, |cursor| cursor + 1);
        let fits = |question: &StoredQuestion| {
            access.sees(question.user_id.as_deref())
                && (filter.with_settled || question.state == QuestionState::Open)
                && rules::question_prefix(filter).is_none_or(|prefix| question.id.starts_with(prefix))
                && filter.run_id.as_ref().is_none_or(|id| *id == question.run_id)
                && filter.workflow_id.as_ref().is_none_or(|id| *id == question.workflow_id)
        };
        let all = self.questions.rows.range(from..).map(|(seq, row)| (*seq, self.stored(row)));
        let (mut page, mut last, mut bytes) = (QuestionPage::default(), 0, 0);
        for (seq, question) in all.filter(|(_, question)| fits(question)) {
            if page.questions.len() == rules::question_limit(filter) || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(u64::to_string(&last));
                break;
            }
            last = seq;
            bytes += rules::question_bytes(&question);
            page.questions.push(question);
        }
        Ok(page)
    }

    fn inbox(&self, run_id: &RunId) -> Vec<StoredQuestion> {
        let run = self.run_by_id.get(run_id);
        let inbox = run.into_iter().flat_map(|run| self.questions.inbox_of(*run));
        inbox.map(|seq| self.stored(&self.questions.rows[&seq])).collect()
    }

    fn mail(&self, worker: &WorkerId) -> Vec<RunId> {
        let asked: BTreeSet<u64> = self.questions.inbox.iter().map(|(run, _)| *run).collect();
        let held = self.unfinished.iter().map(|seq| (seq, &self.runs[seq].run));
        let held = held.filter(|(_, run)| run.worker.as_ref() == Some(worker));
        let has_mail = |seq: &u64, run_id: &RunId| asked.contains(seq) || !self.steering(run_id).is_empty();
        let with_mail = held.filter(|(seq, run)| has_mail(seq, &run.info.run_id));
        with_mail.map(|(_, run)| run.info.run_id.clone()).collect()
    }
}

/// The answer to a question that nobody has answered in time.
fn timed_out(at: Timestamp) -> StoredAnswer {
    StoredAnswer { text: Arc::from(TIMED_OUT), by: None, at }
}
