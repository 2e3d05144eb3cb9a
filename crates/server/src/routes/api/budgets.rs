//! Accounts of budgets: list, and raise one without a question.
//!
//! An account's id may hold any character, so it is never a part of a path.

use super::shape::{Budget, BudgetList, RaiseBudget};
use crate::json::Json as Body;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use axum::Json;
use outlive_core::port::{AuditKind, BudgetFilter, BudgetRaise};
use outlive_core::{BudgetScope, DefinitionId, InvalidId};
use serde::Deserialize;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// The query of a list. Texts, so that what is wrong with one can be said by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    budget_id: Option<String>,
    workflow_id: Option<String>,
    shared: Option<String>,
    per: Option<String>,
    subject: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/budgets`.
pub(super) async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<BudgetList>, Problem> {
    let invalid = |error: InvalidId| Problem::field("value_error", "query", "workflow_id", error.to_string());
    let workflow_id = query.workflow_id.as_deref().map(DefinitionId::parse).transpose().map_err(invalid)?;
    let owner = match (workflow_id, query.shared) {
        (Some(_), Some(_)) => {
            let problem = "Input should be given without workflow_id: a shared budget is no workflow's own";
            return Err(Problem::field("value_error", "query", "shared", problem));
        }
        (Some(id), None) => Some(id.as_str().into()),
        (None, Some(name)) => Some(format!("shared:{name}").into()),
        (None, None) => None,
    };
    let per = query.per.as_deref().map(scope).transpose()?;
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let filter = BudgetFilter {
        subject: query.subject.map(Into::into),
        owner,
        per,
        id: query.budget_id.map(Into::into),
        after: query.cursor.map(Into::into),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let page = caller.reader().budgets(filter).await?;
    for stored in &page.budgets {
        caller.sees(stored.account.user_id.as_deref(), &stored.account.id);
    }
    let budgets = page.budgets.iter().map(Budget::new).collect();
    Ok(Json(BudgetList { budgets, next_cursor: page.next.map(|next| next.to_string()) }))
}

fn scope(word: &str) -> Result<BudgetScope, Problem> {
    let known = || BudgetScope::ALL.map(|scope| format!("'{}'", scope.as_str())).join(", ");
    let found = BudgetScope::ALL.into_iter().find(|scope| scope.as_str() == word);
    found.ok_or_else(|| Problem::field("enum", "query", "per", format!("Input should be one of {}", known())))
}

/// `POST /api/budgets/raise`.
pub(super) async fn raise(caller: Caller, Body(body): Body<RaiseBudget>) -> Result<Json<Budget>, Problem> {
    let found = caller.reader().budget(&body.budget_id).await?;
    let unit = &found.account.unit;
    let amount = |field: &'static str, number: &serde_json::Value| {
        unit.amount(number).map_err(|problem| {
            let problem = format!("Input should be an amount of {}: {problem}", unit.as_str());
            Problem::field("value_error", "body", field, problem)
        })
    };
    let by = amount("raise_by", &body.raise_by)?;
    if by == 0 {
        return Err(Problem::field("value_error", "body", "raise_by", "Input should be more than 0"));
    }
    let seen = body.raised.as_ref().map(|raised| amount("raised", raised)).transpose()?;
    let raise = BudgetRaise { id: found.account.id.clone(), amount: by, seen };
    let raised = caller.engine().raise_budget(raise).await?;
    caller.did(AuditKind::BudgetRaise, &format!("by {}", unit.show(by)), &raised.account.id);
    Ok(Json(Budget::new(&raised)))
}
