//! Lists as statements: from a filter to text and values. A caller's words become values, never SQL text.
//!
//! The invariant: a list of runs touches no more rows than it must. The condition likely to narrow it most decides how
//! it is walked (one session's runs, those with a prefix, one user's, the unfinished, one workflow's, all). All but
//! prefixes are walked in the order of acceptance, so that a limit ends the walk. A `+` before a column keeps SQLite
//! from walking by it.

use super::failure::Fail;
use super::rows::{int, kind_column, status_column};
use super::schema::Sql;
use crate::rules;
use outlive_core::RunStatus;
use outlive_core::port::{Access, Order, RunFilter, SessionFilter, SessionSort};
use rusqlite::types::Value;

/// A statement and the values of its parameters.
pub(super) struct Query {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
}

/// Conditions that must all hold, with their values.
#[derive(Default)]
struct Conditions {
    texts: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition; every `?` in it stands for `value`.
    fn add(&mut self, text: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        self.texts.push(text.replace('?', &format!("?{}", self.values.len())));
    }

    /// Adds a condition if there is a value for it.
    fn add_text(&mut self, text: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(text, value.to_owned());
        }
    }

    /// Completes the beginning of a statement.
    fn complete(self, beginning: &str, end: &str) -> Query {
        let conditions = if self.texts.is_empty() { "1".to_owned() } else { self.texts.join(" AND ") };
        Query { text: format!("{beginning} WHERE {conditions} {end}"), values: self.values }
    }
}

/// How a list of runs is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Session,
    Prefix,
    User,
    Unfinished,
    Workflow,
    All,
}

impl Walk {
    fn of(access: &Access, filter: &RunFilter) -> Self {
        let is_unfinished = !filter.statuses.is_empty() && filter.statuses.iter().all(|s| !s.is_terminal());
        match filter {
            _ if filter.session_id.is_some() => Self::Session,
            _ if prefix(filter).is_some() => Self::Prefix,
            _ if access.user().is_some() || filter.user_id.is_some() => Self::User,
            _ if is_unfinished => Self::Unfinished,
            _ if filter.workflow_id.is_some() => Self::Workflow,
            _ => Self::All,
        }
    }

    /// The table whose accept number comes first.
    fn leader(self) -> &'static str {
        match self {
            Self::User => "q.seq",
            Self::Session | Self::Prefix | Self::Unfinished | Self::Workflow | Self::All => "r.seq",
        }
    }

    /// `column`, marked so that SQLite may walk by it only if this is the walk.
    fn column(self, walk: Self, column: &str) -> String {
        if self == walk { column.to_owned() } else { format!("+{column}") }
    }
}

/// The runs of a list, `limit` at most.
///
/// # Errors
/// When the cursor did not come from a list.
pub(super) fn runs(sql: &Sql, access: &Access, filter: &RunFilter, limit: usize) -> Result<Query, Fail> {
    let walk = Walk::of(access, filter);
    let leader = walk.leader();
    let mut conditions = conditions(sql, access, filter, walk);
    let cursor = rules::parse_cursor(filter)?.map(int);
    let direction = match filter.order {
        Order::NewestFirst => {
            cursor.into_iter().for_each(|cursor| conditions.add(&format!("{leader} < ?"), cursor));
            "DESC"
        }
        Order::OldestFirst => {
            cursor.into_iter().for_each(|cursor| conditions.add(&format!("{leader} > ?"), cursor));
            "ASC"
        }
    };
    if !filter.statuses.is_empty() {
        let columns: Vec<String> = filter.statuses.iter().map(|s| status_column(*s).to_string()).collect();
        conditions.texts.push(format!("r.status IN ({})", columns.join(", ")));
    }
    if walk == Walk::Unfinished {
        conditions.texts.push(sql.unfinished.clone());
    }
    let beginning = if filter.with_payload { &sql.list_whole } else { &sql.list };
    let mut list = conditions.complete(beginning, &format!("ORDER BY {leader} {direction} LIMIT ?"));
    list.values.push(Value::Integer(int(limit as u64)));
    Ok(list)
}

/// How many runs of each status the filter finds, ignoring its statuses and its cursor: one row, in the order of
/// [`RunStatus::ALL`].
pub(super) fn counts(sql: &Sql, access: &Access, filter: &RunFilter) -> Query {
    let any_status = RunFilter { statuses: Vec::new(), ..filter.clone() };
    let walk = Walk::of(access, &any_status);
    let counts = RunStatus::ALL.map(|s| format!("count(*) FILTER (WHERE r.status = {})", status_column(s)));
    let conditions = conditions(sql, access, &any_status, walk);
    let requests = match conditions.texts.iter().any(|text| text.contains("q.")) {
        true => format!(" JOIN {}_run_requests q ON q.seq = r.seq", sql.table),
        false => String::new(),
    };
    conditions.complete(&format!("SELECT {} FROM {}_runs r{requests}", counts.join(", "), sql.table), "")
}

/// The filter without its statuses and its cursor.
fn conditions(sql: &Sql, access: &Access, filter: &RunFilter, walk: Walk) -> Conditions {
    let mut conditions = Conditions::default();
    let user = walk.column(Walk::User, "q.user_id");
    for user_id in [access.user(), filter.user_id.as_ref()].into_iter().flatten() {
        conditions.add_text(&format!("{user} = ?"), Some(user_id));
    }
    let workflow_id = filter.workflow_id.as_ref().map(|id| id.as_str());
    conditions.add_text(&format!("{} = ?", walk.column(Walk::Workflow, "r.workflow_id")), workflow_id);
    conditions.add_text(&sql.in_session, filter.session_id.as_ref().map(|id| id.as_str()));
    if let Some(prefix) = prefix(filter) {
        let column = walk.column(Walk::Prefix, "r.run_id");
        conditions.add(&format!("{column} >= ?"), prefix.to_owned());
        conditions.add(&format!("{column} < ?"), format!("{prefix}{}", char::MAX));
    }
    if let Some(from) = filter.created_from {
        conditions.add("q.created_at >= ?", from.as_micros());
    }
    if let Some(to) = filter.created_to {
        conditions.add("q.created_at < ?", to.as_micros());
    }
    conditions
}

fn prefix(filter: &RunFilter) -> Option<&str> {
    filter.id_prefix.as_deref().filter(|prefix| !prefix.is_empty())
}

/// The sessions of a list, and how many there are in all.
pub(super) fn sessions(sql: &Sql, access: &Access, filter: &SessionFilter) -> [Query; 2] {
    let conditions = || {
        let mut conditions = Conditions::default();
        for user_id in [access.user(), filter.user_id.as_ref()].into_iter().flatten() {
            conditions.add_text("s.user_id = ?", Some(user_id));
        }
        conditions.add_text("s.workflow_id = ?", filter.component_id.as_ref().map(|id| id.as_str()));
        conditions
            .add_text("instr(lower(s.name), lower(?)) > 0", filter.name.as_deref().filter(|part| !part.is_empty()));
        if let Some(kind) = filter.kind {
            conditions.add("s.kind = ?", kind_column(kind));
        }
        conditions
    };
    let column = match filter.sort {
        SessionSort::CreatedAt => "s.created_at",
        SessionSort::UpdatedAt => "s.updated_at",
        SessionSort::Name => "s.name",
    };
    let direction = if filter.descending { "DESC" } else { "ASC" };
    let end = format!("ORDER BY {column} {direction}, s.seq {direction} LIMIT ? OFFSET ?");
    let mut list = conditions().complete(&sql.sessions, &end);
    list.values.extend([int(rules::session_limit(filter) as u64), int(filter.offset)].map(Value::Integer));
    [list, conditions().complete(&format!("SELECT count(*) FROM {} s", sql.table), "")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use outlive_core::{DefinitionId, SessionId};
    use rusqlite::{Connection, params_from_iter};
    use std::sync::Arc;

    const TABLE: &str = "outlive_sessions";

    /// How SQLite walks, one line for each table.
    fn plan(query: &Query) -> String {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", query.text)).expect("good SQL");
        let lines = statement.query_map(params_from_iter(&query.values), |row| row.get::<_, String>(3));
        lines.expect("a plan").collect::<Result<Vec<_>, _>>().expect("text").join("\n")
    }

    fn plan_of(access: &Access, filter: &RunFilter) -> String {
        plan(&runs(&Sql::new(TABLE), access, filter, 10).expect("a good cursor"))
    }

    fn flow() -> Option<DefinitionId> {
        Some(DefinitionId::parse("flow").expect("a good id"))
    }

    fn cases() -> Vec<(&'static str, Access, RunFilter)> {
        let ada = Access::User(Arc::from("ada"));
        let all = RunFilter::default;
        let session_id = || Some(SessionId::parse("s").expect("a good id"));
        let of_bob = || Some(Arc::from("bob"));
        let by_user = "SEARCH q USING INDEX outlive_sessions_run_requests_by_user (user_id=?";
        let by_workflow = "SEARCH r USING INDEX outlive_sessions_runs_by_workflow (workflow_id=?";
        let by_list = "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)";
        vec![
            (by_workflow, Access::All, RunFilter { workflow_id: flow(), ..all() }),
            (by_workflow, Access::All, RunFilter { workflow_id: flow(), statuses: vec![RunStatus::Error], ..all() }),
            (by_list, Access::All, RunFilter { session_id: session_id(), ..all() }),
            (by_list, ada.clone(), RunFilter { session_id: session_id(), workflow_id: flow(), ..all() }),
            (by_list, Access::All, RunFilter { statuses: vec![RunStatus::Running], ..all() }),
            (by_list, Access::All, RunFilter { statuses: vec![RunStatus::Paused], workflow_id: flow(), ..all() }),
            (by_user, ada.clone(), all()),
            (by_user, ada.clone(), RunFilter { workflow_id: flow(), statuses: vec![RunStatus::Running], ..all() }),
            (by_user, ada, RunFilter { user_id: of_bob(), created_from: Some(Default::default()), ..all() }),
            (by_user, Access::All, RunFilter { user_id: of_bob(), ..all() }),
        ]
    }

    #[test]
    fn a_list_is_walked_in_its_order_and_never_over_the_whole_table() {
        for (first, access, filter) in cases() {
            for order in [Order::NewestFirst, Order::OldestFirst] {
                for (after, with_payload) in [(None, false), (Some("7".to_owned()), true)] {
                    let filter = RunFilter { order, after, with_payload, ..filter.clone() };
                    let plan = plan_of(&access, &filter);
                    assert!(plan.starts_with(first), "{access:?} {filter:?}:\n{plan}");
                    // The index of unfinished runs may be walked whole: it has no others.
                    let plan = plan.replace("SCAN u USING INDEX outlive_sessions_runs_unfinished", "");
                    assert!(!plan.contains("SCAN") && !plan.contains("ORDER BY"), "{access:?} {filter:?}:\n{plan}");
                }
            }
        }
    }

    #[test]
    fn the_list_of_all_walks_the_accept_order_and_ends_at_its_limit() {
        let filter = RunFilter { created_from: Some(Default::default()), ..RunFilter::default() };
        for filter in [RunFilter::default(), filter] {
            let plan = plan_of(&Access::All, &filter);
            assert!(plan.starts_with("SCAN r\n") && !plan.contains("ORDER BY"), "{plan}");
            let plan = plan_of(&Access::All, &RunFilter { after: Some("7".to_owned()), ..filter });
            assert!(plan.starts_with("SEARCH r USING INTEGER PRIMARY KEY (rowid<?)"), "{plan}");
            assert!(!plan.contains("ORDER BY"), "{plan}");
        }
    }

    #[test]
    fn a_list_by_prefix_sorts_only_what_has_the_prefix() {
        let filter = RunFilter { id_prefix: Some("0193".to_owned()), workflow_id: flow(), ..RunFilter::default() };
        for access in [Access::All, Access::User(Arc::from("ada"))] {
            let plan = plan_of(&access, &filter);
            assert!(plan.contains("(run_id>? AND run_id<?)") && !plan.contains("SCAN"), "{plan}");
        }
    }

    #[test]
    fn counts_and_a_users_sessions_touch_no_more_than_they_must() {
        let sql = Sql::new(TABLE);
        for (_, access, filter) in cases().into_iter().filter(|(_, _, filter)| filter.statuses.is_empty()) {
            let plan = plan(&counts(&sql, &access, &filter));
            assert!(!plan.contains("SCAN"), "{access:?} {filter:?}:\n{plan}");
        }
        for query in sessions(&sql, &Access::User(Arc::from("ada")), &SessionFilter::default()) {
            let plan = plan(&query);
            assert!(plan.contains("outlive_sessions_by_user (user_id=?)") && !plan.contains("SCAN"), "{plan}");
        }
    }
    #[test]
    fn unfinished_runs_are_counted_in_their_index_without_what_was_asked() {
        let query = Query { text: Sql::new(TABLE).count_unfinished, values: vec![int(10).into()] };
        let plan = plan(&query);
        let walks: Vec<_> = plan.lines().filter(|line| line.contains(" u ")).collect();
        assert_eq!(walks.len(), 4, "{plan}");
        let index = " u USING INDEX outlive_sessions_runs_unfinished";
        assert!(walks.iter().all(|walk| walk.contains(index)), "{plan}");
        let requests = plan.lines().filter(|line| line.contains(" q "));
        assert_eq!(requests.collect::<Vec<_>>(), ["SEARCH q USING INTEGER PRIMARY KEY (rowid=?)"], "{plan}");
    }
}
