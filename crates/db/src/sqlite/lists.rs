//! Lists as statements: from a filter to text and values. A caller's words become values, never SQL text.
//!
//! ```text
//! filter ──► lanes, each a range of one index in the list's order ──► merged ──► as many numbers as the limit allows
//! ```
//! The invariant: a list is walked in its order, and no further than its limit. The condition likely to narrow it most
//! decides which index its lanes are in; the others are checked on the way. Only what no index has in order is sorted:
//! ids with a rare beginning, and the sessions of one user or component by name or by their last change.

use super::rows::{int, kind_column, status_column};
use super::schema::Sql;
use crate::rules;
use outlive_core::RunStatus;
use outlive_core::port::{DbError, Order, RunFilter, SessionFilter, SessionKind, SessionSort};
use rusqlite::types::Value;
use std::sync::Arc;

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
        let text = text.replace('?', &self.value(value));
        self.texts.push(text);
    }

    /// Adds a condition if there is a value for it.
    fn add_text(&mut self, text: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(text, value.to_owned());
        }
    }

    /// Adds a value; gives its place in a statement.
    fn value(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }

    /// The statement that reads `columns` along each lane; `end` completes it.
    fn query(self, columns: &str, lanes: &[Lane], end: &str) -> Query {
        let select = |Lane { source, range }: &Lane| {
            let conditions = [range].into_iter().chain(&self.texts).map(String::as_str).collect::<Vec<_>>();
            format!("SELECT {columns} FROM {source} WHERE {}", conditions.join(" AND "))
        };
        let selects = lanes.iter().map(select);
        let text = format!("{} {end}", selects.collect::<Vec<_>>().join(" UNION ALL "));
        Query { text, values: self.values }
    }
}

/// A range of one index, in the order of a list.
struct Lane {
    /// The table, and the index it is read by.
    source: String,
    /// What makes it a range.
    range: String,
}

/// How many runs of each status there are, in the order of [`RunStatus::ALL`].
pub(super) type Statuses = [u64; RunStatus::ALL.len()];

/// A filter of runs, prepared.
pub(super) struct Runs<'a> {
    pub(super) filter: &'a RunFilter,
    /// Whose they can only be.
    pub(super) user_id: Option<&'a Arc<str>>,
    /// Whether so many ids begin as asked that it is quicker to come across them than to sort them.
    pub(super) is_prefix_common: bool,
    /// The counts kept for this workflow and user. Where they have no unfinished run, none is looked for.
    pub(super) kept: Statuses,
}

impl Runs<'_> {
    /// The accept numbers of the list, `limit` at most; nothing when there can be none.
    ///
    /// # Errors
    /// When the cursor did not come from a list.
    pub(super) fn list(&self, sql: &Sql, limit: u64) -> Result<Option<Query>, DbError> {
        let mut conditions = self.conditions(sql);
        if let Some(cursor) = rules::parse_cursor(self.filter)? {
            conditions.add(if self.is_newest_first() { "r.seq < ?" } else { "r.seq > ?" }, int(cursor));
        }
        Ok(self.walk(sql, conditions, &self.filter.statuses, limit))
    }

    /// The list without its statuses and its cursor, to be counted: the second column is the status.
    pub(super) fn all(&self, sql: &Sql, limit: u64) -> Option<Query> {
        self.walk(sql, self.conditions(sql), &[], limit)
    }

    fn walk(&self, sql: &Sql, mut conditions: Conditions, statuses: &[RunStatus], limit: u64) -> Option<Query> {
        let lanes = self.lanes(sql, statuses);
        let direction = if self.is_newest_first() { "DESC" } else { "ASC" };
        let end = format!("ORDER BY 1 {direction} LIMIT {}", conditions.value(int(limit)));
        (!lanes.is_empty()).then(|| conditions.query("r.seq, r.status", &lanes, &end))
    }

    fn is_newest_first(&self) -> bool {
        self.filter.order == Order::NewestFirst
    }

    /// The filter without its statuses and its cursor.
    fn conditions(&self, sql: &Sql) -> Conditions {
        let filter = self.filter;
        let mut conditions = Conditions::default();
        conditions.add_text("r.user_id = ?", self.user_id.map(|id| &**id));
        conditions.add_text("r.workflow_id = ?", filter.workflow_id.as_ref().map(|id| id.as_str()));
        conditions.add_text(&sql.of_session, filter.session_id.as_ref().map(|id| id.as_str()));
        if let Some(prefix) = rules::prefix(filter) {
            let (from, to) = (conditions.value(prefix.to_owned()), conditions.value(past(prefix)));
            conditions.texts.push(match self.is_prefix_common {
                true => format!("r.run_id >= {from} AND r.run_id < {to}"),
                false => sql.with_prefix.replace("{FROM}", &from).replace("{TO}", &to),
            });
        }
        if let Some(from) = filter.created_from {
            conditions.add("q.created_at >= ?", from.as_micros());
        }
        if let Some(to) = filter.created_to {
            conditions.add("q.created_at < ?", to.as_micros());
        }
        conditions
    }

    fn lanes(&self, sql: &Sql, statuses: &[RunStatus]) -> Vec<Lane> {
        let filter = self.filter;
        let asked: Vec<RunStatus> =
            RunStatus::ALL.into_iter().filter(|s| statuses.is_empty() || statuses.contains(s)).collect();
        let is_any = asked.len() == RunStatus::ALL.len();
        let with_status =
            |range: &str| if is_any { range.to_owned() } else { format!("{range} AND {}", among(&asked)) };
        let (over, open): (Vec<RunStatus>, Vec<RunStatus>) =
            asked.iter().copied().partition(|status| status.is_terminal());
        let is_rare = rules::prefix(filter).is_some() && !self.is_prefix_common;
        let is_of_all = is_any && self.user_id.is_none() && filter.workflow_id.is_none();
        let mut lanes = Vec::new();
        if filter.session_id.is_some() {
            let both = [("_runs_unfinished", "r.status < 3", &open), ("_runs_finished", "r.status >= 3", &over)];
            let asked_for = both.into_iter().filter(|(.., statuses)| !statuses.is_empty());
            lanes.extend(asked_for.map(|(index, range, _)| self.lane(sql, Some(index), with_status(range))));
        } else if is_rare || is_of_all {
            lanes.push(self.lane(sql, None, with_status("1")));
        } else {
            // All of the unfinished are in one index, which may be long.
            if open.iter().any(|status| self.kept[place(*status)] > 0) {
                lanes.push(self.lane(sql, Some("_runs_open"), with_status("r.status < 3")));
            }
            let index = match filter.workflow_id {
                _ if self.user_id.is_some() => "_runs_by_user",
                Some(_) => "_runs_by_workflow",
                None => "_runs_by_status",
            };
            let one = |status| format!("r.status >= 3 AND r.status = {}", status_column(status));
            lanes.extend(over.into_iter().map(|status| self.lane(sql, Some(index), one(status))));
        }
        lanes
    }

    /// A lane in this index, or in the order of acceptance where none narrows the list.
    fn lane(&self, sql: &Sql, index: Option<&str>, range: String) -> Lane {
        let table = &sql.table;
        let index = index.map_or_else(|| "NOT INDEXED".to_owned(), |index| format!("INDEXED BY {table}{index}"));
        let has_time = self.filter.created_from.is_some() || self.filter.created_to.is_some();
        let requests = format!(" CROSS JOIN {table}_run_requests q ON q.seq = r.seq");
        Lane { source: format!("{table}_runs r {index}{}", if has_time { &requests } else { "" }), range }
    }
}

/// The place of a status in [`RunStatus::ALL`].
pub(super) fn place(status: RunStatus) -> usize {
    RunStatus::ALL.iter().position(|s| *s == status).expect("ALL has every status")
}

fn among(statuses: &[RunStatus]) -> String {
    let columns: Vec<String> = statuses.iter().map(|s| status_column(*s).to_string()).collect();
    format!("r.status IN ({})", columns.join(", "))
}

/// Whether an id begins like this: it is not less than the prefix, and less than this.
pub(super) fn past(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// A filter of sessions, prepared.
pub(super) struct Sessions<'a> {
    pub(super) filter: &'a SessionFilter,
    /// Whose they can only be.
    pub(super) user_id: Option<&'a Arc<str>>,
}

impl Sessions<'_> {
    /// The numbers of the sessions in the list.
    pub(super) fn list(&self, sql: &Sql) -> Query {
        let mut conditions = self.conditions();
        let direction = if self.filter.descending { "DESC" } else { "ASC" };
        let limit = conditions.value(int(rules::session_limit(self.filter) as u64));
        let offset = conditions.value(int(self.filter.offset));
        let end = format!("ORDER BY 2 {direction}, 1 {direction} LIMIT {limit} OFFSET {offset}");
        conditions.query(&format!("s.seq, {}", self.key()), &self.lanes(sql), &end)
    }

    /// How many there are: one row. Counts `limit` at most.
    pub(super) fn count(&self, sql: &Sql, limit: u64) -> Query {
        let mut conditions = self.conditions();
        let limit = conditions.value(int(limit));
        let all = conditions.query("1", &self.lanes(sql), &format!("LIMIT {limit}"));
        Query { text: format!("SELECT count(*) FROM ({})", all.text), ..all }
    }

    fn key(&self) -> &'static str {
        match self.filter.sort {
            SessionSort::CreatedAt => "s.created_at",
            SessionSort::UpdatedAt => "s.updated_at",
            SessionSort::Name => "s.name",
        }
    }

    fn conditions(&self) -> Conditions {
        let filter = self.filter;
        let mut conditions = Conditions::default();
        conditions.add_text("s.user_id = ?", self.user_id.map(|id| &**id));
        conditions.add_text("s.component_id = ?", filter.component_id.as_ref().map(|id| id.as_str()));
        conditions.add_text("instr(lower(s.name), lower(?)) > 0", rules::part_of_name(filter));
        if let Some(kind) = filter.kind {
            conditions.add("s.kind = ?", kind_column(kind));
        }
        conditions
    }

    fn lanes(&self, sql: &Sql) -> Vec<Lane> {
        let filter = self.filter;
        let table = &sql.table;
        let lane = |index: &str, range: &str| Lane {
            source: format!("{table} s INDEXED BY {table}{index}"),
            range: range.to_owned(),
        };
        let named = || lane("_by_name", "s.name IS NOT NULL");
        if self.user_id.is_some() {
            return vec![lane("_by_user", "1")];
        }
        if filter.component_id.is_some() {
            return vec![lane("_by_component", "1")];
        }
        match filter.sort {
            _ if rules::part_of_name(filter).is_some() => vec![named()],
            SessionSort::UpdatedAt => vec![lane("_by_change", "1")],
            SessionSort::Name => {
                vec![Lane { source: format!("{table} s NOT INDEXED"), range: "s.name IS NULL".to_owned() }, named()]
            }
            SessionSort::CreatedAt if filter.kind.is_some() => vec![lane("_by_kind", "1")],
            SessionSort::CreatedAt => {
                let one = |kind| lane("_by_kind", &format!("s.kind = {}", kind_column(kind)));
                SessionKind::ALL.map(one).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use outlive_core::{DefinitionId, SessionId, Timestamp};
    use rusqlite::{Connection, params_from_iter};

    const TABLE: &str = "outlive_sessions";

    /// Where the statements are explained.
    struct Plans {
        connection: Connection,
        sql: Sql,
    }

    impl Plans {
        fn new() -> Self {
            let connection = Connection::open_in_memory().expect("memory is there");
            let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
            tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
            Self { connection, sql: Sql::new(TABLE) }
        }

        /// How SQLite walks, one line for each table, without the names that all indexes begin with.
        fn of(&self, query: &Query) -> String {
            let mut statement =
                self.connection.prepare(&format!("EXPLAIN QUERY PLAN {}", query.text)).expect("good SQL");
            let lines = statement.query_map(params_from_iter(&query.values), |row| row.get::<_, String>(3));
            let lines: Vec<String> = lines.expect("a plan").collect::<Result<_, _>>().expect("text");
            lines.join("\n").replace(&format!("{TABLE}_"), "")
        }
    }

    fn walk(filter: &RunFilter) -> Runs<'_> {
        Runs { filter, user_id: filter.user_id.as_ref(), is_prefix_common: false, kept: [1; RunStatus::ALL.len()] }
    }

    fn flow() -> DefinitionId {
        DefinitionId::parse("flow").expect("a good id")
    }

    /// Filters by workflow, user, session and statuses, each with and without the others.
    fn filters() -> Vec<RunFilter> {
        let statuses =
            [vec![], vec![RunStatus::Error], vec![RunStatus::Running, RunStatus::Completed, RunStatus::Error]];
        let mut filters = Vec::new();
        for bits in 0..32 {
            for statuses in &statuses {
                filters.push(RunFilter {
                    statuses: statuses.clone(),
                    workflow_id: (bits & 1 > 0).then(flow),
                    user_id: (bits & 2 > 0).then(|| Arc::from("ada")),
                    session_id: (bits & 4 > 0).then(|| SessionId::parse("s").expect("a good id")),
                    after: (bits & 8 > 0).then(|| "7".to_owned()),
                    created_from: (bits & 16 > 0).then(Timestamp::default),
                    ..RunFilter::default()
                });
            }
        }
        filters
    }

    #[test]
    fn a_list_and_its_count_walk_an_index_in_their_order() {
        let plans = Plans::new();
        for filter in filters() {
            for order in [Order::NewestFirst, Order::OldestFirst] {
                let filter = RunFilter { order, ..filter.clone() };
                let index = match &filter {
                    filter if filter.session_id.is_some() => "runs_unfinished (session_seq=?",
                    filter if filter.user_id.is_some() => "runs_by_user (user_id=? AND status=?",
                    filter if filter.workflow_id.is_some() => "runs_by_workflow (workflow_id=? AND status=?",
                    filter if !filter.statuses.is_empty() => "runs_by_status (status=?",
                    _ => "",
                };
                let list = walk(&filter).list(&plans.sql, 10).expect("a good cursor").expect("there may be some");
                let plan = plans.of(&list);
                assert!(plan.contains(index) || filter.statuses == [RunStatus::Error], "{filter:?}:\n{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{filter:?}:\n{plan}");
                // Walked as a whole: the order of acceptance of all, and the index of the unfinished, which has no others.
                let plan = plan
                    .replace("SCAN r USING INDEX runs_open", "")
                    .replace("SCAN r USING COVERING INDEX runs_open", "");
                assert!(!plan.contains("SCAN") || index.is_empty(), "{filter:?}:\n{plan}");
                let plan = plans.of(&walk(&filter).all(&plans.sql, 10).expect("there may be some"));
                assert!(!plan.contains("TEMP B-TREE"), "{filter:?}:\n{plan}");
            }
        }
    }

    #[test]
    fn unfinished_runs_are_looked_for_where_there_are_some() {
        let plans = Plans::new();
        let mut kept = Statuses::default();
        let list = |kept, statuses: &[RunStatus]| {
            let filter = RunFilter { workflow_id: Some(flow()), statuses: statuses.to_vec(), ..RunFilter::default() };
            Runs { kept, ..walk(&filter) }.list(&plans.sql, 10).expect("a good cursor").map(|query| plans.of(&query))
        };
        assert_eq!(list(kept, &[RunStatus::Running]), None);
        let finished = list(kept, &[]).expect("finished ones are looked for");
        assert!(!finished.contains("runs_open"), "{finished}");
        kept[place(RunStatus::Running)] = 1;
        assert!(list(kept, &[RunStatus::Running]).is_some_and(|plan| plan.contains("runs_open")));
    }

    #[test]
    fn a_list_by_prefix_sorts_only_what_has_a_rare_one() {
        let plans = Plans::new();
        for user_id in [None, Some(Arc::from("ada"))] {
            let filter = RunFilter { id_prefix: Some("0193".to_owned()), user_id, ..RunFilter::default() };
            for is_prefix_common in [false, true] {
                let walk = Runs { is_prefix_common, ..walk(&filter) };
                let plan = plans.of(&walk.list(&plans.sql, 10).expect("a good cursor").expect("there may be some"));
                assert_eq!(plan.contains("(run_id>? AND run_id<?)"), !is_prefix_common, "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    #[test]
    fn a_list_of_sessions_walks_an_index_in_its_order() {
        let plans = Plans::new();
        for bits in 0..16 {
            for (sort, whole) in [
                (SessionSort::CreatedAt, "by_kind (kind=?"),
                (SessionSort::UpdatedAt, "by_change"),
                (SessionSort::Name, "by_name"),
            ] {
                let filter = SessionFilter {
                    kind: (bits & 1 > 0).then_some(SessionKind::Agent),
                    component_id: (bits & 2 > 0).then(flow),
                    user_id: (bits & 4 > 0).then(|| Arc::from("ada")),
                    descending: bits & 8 > 0,
                    sort,
                    ..SessionFilter::default()
                };
                let plan = plans.of(&Sessions { filter: &filter, user_id: filter.user_id.as_ref() }.list(&plans.sql));
                let index = match &filter {
                    filter if filter.user_id.is_some() => "by_user (user_id=?",
                    filter if filter.component_id.is_some() => "by_component (component_id=?",
                    _ => whole,
                };
                assert!(plan.contains(index), "{filter:?}:\n{plan}");
                // One user's or one component's sessions are in an index by their beginning only.
                let is_sorted = index != whole && sort != SessionSort::CreatedAt;
                assert_eq!(plan.contains("TEMP B-TREE"), is_sorted, "{filter:?}:\n{plan}");
            }
        }
    }

    #[test]
    fn only_sessions_with_a_name_are_searched_by_name() {
        let plans = Plans::new();
        let filter = SessionFilter { name: Some("trip".to_owned()), ..SessionFilter::default() };
        let walk = Sessions { filter: &filter, user_id: None };
        for query in [walk.list(&plans.sql), walk.count(&plans.sql, 10)] {
            let plan = plans.of(&query);
            assert!(plan.contains("by_name (name>?)"), "{plan}");
        }
    }

    #[test]
    fn unfinished_runs_are_counted_in_their_index_without_what_was_asked() {
        let query = Query { text: Sql::new(TABLE).count_unfinished, values: vec![int(10).into()] };
        let plan = Plans::new().of(&query);
        let walks: Vec<_> = plan.lines().filter(|line| line.contains(" u ")).collect();
        assert_eq!(walks.len(), 4, "{plan}");
        assert!(walks.iter().all(|walk| walk.contains(" u USING INDEX runs_unfinished")), "{plan}");
        let requests = plan.lines().filter(|line| line.contains(" q "));
        assert_eq!(requests.collect::<Vec<_>>(), ["SEARCH q USING INTEGER PRIMARY KEY (rowid=?)"], "{plan}");
    }
}
