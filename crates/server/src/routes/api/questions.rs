//! Questions to people: list, show, answer. Whoever has the scope for it reaches those of all users.

use super::shape::{AnswerQuestion, Question, QuestionList};
use crate::json::Json as Body;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use axum::Json;
use axum::extract::Path;
use outlive_core::port::{AuditKind, QuestionFilter};
use outlive_core::{DefinitionId, InvalidId, RunId};
use serde::Deserialize;
use std::sync::Arc;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// The query of a list. Texts, so that what is wrong with one can be said by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    q: Option<String>,
    run_id: Option<String>,
    workflow_id: Option<String>,
    all: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/questions`.
pub(super) async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<QuestionList>, Problem> {
    let invalid =
        |name: &'static str| move |error: InvalidId| Problem::field("value_error", "query", name, error.to_string());
    let run_id = query.run_id.as_deref().map(RunId::parse).transpose();
    let workflow_id = query.workflow_id.as_deref().map(DefinitionId::parse).transpose();
    let cursor = query.cursor;
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let filter = QuestionFilter {
        run_id: run_id.map_err(invalid("run_id"))?,
        workflow_id: workflow_id.map_err(invalid("workflow_id"))?,
        id_prefix: query.q.filter(|prefix| !prefix.is_empty()),
        with_settled: query::boolean("all", query.all.as_deref())?,
        after: cursor.clone(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let page = query::page("query", cursor.as_deref(), caller.desk().questions(filter).await)?;
    for asked in &page.questions {
        caller.sees(asked.user_id.as_deref(), asked.run_id.as_str());
    }
    let questions = page.questions.iter().map(Question::new).collect();
    Ok(Json(QuestionList { questions, next_cursor: page.next }))
}

fn missing() -> Problem {
    Problem::not_found("Question not found")
}

/// `GET /api/questions/{question_id}`.
pub(super) async fn get(caller: Caller, Path(id): Path<String>) -> Result<Json<Question>, Problem> {
    let asked = caller.desk().question(&id).await?.ok_or_else(missing)?;
    caller.sees(asked.user_id.as_deref(), asked.run_id.as_str());
    Ok(Json(Question::new(&asked)))
}

/// `POST /api/questions/{question_id}/answer`.
pub(super) async fn answer(
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<AnswerQuestion>,
) -> Result<Json<Question>, Problem> {
    let id: Arc<str> = Arc::from(id);
    let given = body.into_answer()?;
    let asked = caller.desk().question(&id).await?.ok_or_else(missing)?;
    caller.may_answer(&asked.question, &given)?;
    let asked = caller.desk().answer([(id, given)], caller.principal.user_id.clone()).await?;
    let asked = asked.first().ok_or_else(missing)?;
    caller.did(AuditKind::QuestionAnswer, "done", asked.run_id.as_str());
    Ok(Json(Question::new(asked)))
}
