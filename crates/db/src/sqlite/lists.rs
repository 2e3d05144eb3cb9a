//! Lists as statements: from a filter to text and values. A caller's words become values, never SQL text.
//!
//! ```text
//! filter ──► lanes, each a range of one index in the list's order ──► merged ──► as many numbers as the limit allows
//! ```
//! The invariant: a list is walked in its order, and no further than its limit. The condition likely to narrow it most
//! decides which index its lanes are in; the others are checked on the way. Only what no index has in order is sorted:
//! the unfinished runs, those of a batch, ids with a rare beginning, and the sessions of one user or component by name or by their last
//! change.

use super::rows::{int, kind_column, status_column};
use super::schema::Sql;
use crate::rules;
use outlive_core::RunStatus;
use outlive_core::port::{DbError, Order, RunFilter, SessionFilter, SessionSort};
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

    /// The statement that reads `columns` along each lane, and `merges` them; `end` completes it.
    fn query(self, columns: &str, lanes: &[Lane], merges: &str, end: &str) -> Query {
        let select = |Lane { source, range, cut }: &Lane| {
            let conditions = [range].into_iter().chain(&self.texts).map(String::as_str).collect::<Vec<_>>();
            let select = format!("SELECT {columns} FROM {source} WHERE {}", conditions.join(" AND "));
            cut.as_ref().map_or_else(|| select.clone(), |cut| format!("SELECT * FROM ({select} {cut})"))
        };
        let selects = lanes.iter().map(select);
        let text = format!("{} {end}", selects.collect::<Vec<_>>().join(merges));
        Query { text, values: self.values }
    }
}

/// A range of one index, in the order of a list.
struct Lane {
    /// The table, and the index it is read by.
    source: String,
    /// What makes it a range.
    range: String,
    /// Where its order is not the list's: its own, and how many of it the list can have.
    cut: Option<String>,
}

/// How lanes are merged that have nothing in common, and those that may have.
const APART: &str = " UNION ALL ";
const OVERLAPPING: &str = " UNION ";

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
        (!lanes.is_empty()).then(|| conditions.query("r.seq, r.status", &lanes, APART, &end))
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
        conditions.add_text(&sql.of_batch, filter.batch_id.as_deref());
        if let Some(prefix) = rules::prefix(filter) {
            let (from, to) = (conditions.value(prefix.to_owned()), conditions.value(past(prefix)));
            conditions.texts.push(match self.is_prefix_common {
                true => format!("r.run_id >= {from} AND r.run_id < {to}"),
                false => sql.with_prefix.replace("{FROM}", &from).replace("{TO}", &to),
            });
        }
        conditions.add_text(&sql.before, filter.before.as_ref().map(|id| id.as_str()));
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
        } else if filter.batch_id.is_some() {
            // In the order of its items: they are sorted.
            lanes.push(self.lane(sql, Some("_runs_by_batch"), with_status("r.batch_seq IS NOT NULL")));
        } else if is_rare || is_of_all {
            lanes.push(self.lane(sql, None, with_status("1")));
        } else {
            // All of the unfinished are in one index, by session: they are sorted, so they are read to the last.
            if open.iter().any(|status| self.kept[place(*status)] > 0) {
                lanes.push(self.lane(sql, Some("_runs_unfinished"), with_status("r.status < 3")));
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
        Lane { source: format!("{table}_runs r {index}{}", if has_time { &requests } else { "" }), range, cut: None }
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
    /// The count kept for this kind, component and user. Where it is none, none is looked for by kind.
    pub(super) kept: u64,
}

impl Sessions<'_> {
    /// The numbers of the sessions in the list; nothing when there can be none.
    pub(super) fn list(&self, sql: &Sql) -> Option<Query> {
        let mut conditions = self.conditions();
        let limit = int(rules::session_limit(self.filter) as u64);
        // Their sum is a number too.
        let offset = int(self.filter.offset).min(i64::MAX - limit);
        let (limit, offset) = (conditions.value(limit), conditions.value(offset));
        let lanes = self.lanes(sql, &format!("{limit} + {offset}"));
        let direction = self.direction();
        let end = format!("ORDER BY 2 {direction}, 1 {direction} LIMIT {limit} OFFSET {offset}");
        let columns = format!("s.seq, {}", self.key());
        let is_empty = self.kept == 0 && self.filter.kind.is_some();
        (!is_empty).then(|| conditions.query(&columns, &lanes, OVERLAPPING, &end))
    }

    /// How many have the part of a name that is asked for: one row. Counts `limit` at most.
    pub(super) fn count(&self, sql: &Sql, limit: u64) -> Query {
        let mut conditions = self.conditions();
        let limit = conditions.value(int(limit));
        let all = conditions.query("1", &self.lanes(sql, &limit), APART, &format!("LIMIT {limit}"));
        Query { text: format!("SELECT count(*) FROM ({})", all.text), ..all }
    }

    fn direction(&self) -> &'static str {
        if self.filter.descending { "DESC" } else { "ASC" }
    }

    fn key(&self) -> &'static str {
        match self.filter.sort {
            SessionSort::CreatedAt => "s.seq",
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

    /// `most` is how many the list can have, with those it skips.
    fn lanes(&self, sql: &Sql, most: &str) -> Vec<Lane> {
        let filter = self.filter;
        let table = &sql.table;
        let walk = |index: &str, range: &str| Lane {
            source: format!("{table} s {index}"),
            range: range.to_owned(),
            cut: None,
        };
        let lane = |index: &str, range: &str| walk(&format!("INDEXED BY {table}{index}"), range);
        // All of them, or all of a rarer kind, in the order of acceptance.
        let accepted = |range: &str| match filter.kind.is_some_and(|kind| kind_column(kind) > 0) {
            true => lane("_by_kind", &format!("s.kind > 0 AND {range}")),
            false => walk("NOT INDEXED", range),
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
            SessionSort::CreatedAt => vec![accepted("1")],
            SessionSort::Name => vec![accepted("s.name IS NULL"), named()],
            SessionSort::UpdatedAt => {
                // Whatever was accepted after an unchanged session changed no earlier (`>=`). So from the newest on, a list
                // that can have ten sessions needs the last ten accepted, those in both lanes once. From the oldest on,
                // what has changed has to be passed over.
                let unchanged = if filter.descending { ">=" } else { "=" };
                let unchanged = accepted(&format!("s.updated_at {unchanged} s.created_at + s.lag"));
                let cut = format!("ORDER BY s.seq {} LIMIT {most}", self.direction());
                vec![lane("_by_change", "s.updated_at <> s.created_at + s.lag"), Lane { cut: Some(cut), ..unchanged }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use outlive_core::port::SessionKind;
    use outlive_core::{DefinitionId, SessionId, Timestamp};
    use rusqlite::{Connection, StatementStatus, params_from_iter};

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

    /// The walks of a plan. A request, or a session's number, is only looked up.
    fn walks(plan: &str) -> impl Iterator<Item = &str> {
        let is_walk = |line: &&str| {
            let mut words = line.split(' ');
            matches!(words.next(), Some("SCAN" | "SEARCH"))
                && words.next().is_some_and(|name| !["q", TABLE].contains(&name))
        };
        plan.lines().filter(is_walk)
    }

    /// Those of them whose rows are sorted.
    fn sorted(plan: &str) -> Vec<&str> {
        let parts: Vec<&str> = plan.split("\nUSE TEMP B-TREE").collect();
        parts[..parts.len() - 1].iter().map(|before| walks(before).last().expect("something is sorted")).collect()
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
                let has_unfinished = filter.statuses != [RunStatus::Error];
                // All of the unfinished are walked and sorted, because their index is by session; nothing else is.
                let (index, is_sorted) = match &filter {
                    filter if filter.session_id.is_some() => ("runs_finished (session_seq=?", false),
                    filter if filter.user_id.is_some() => ("runs_by_user (user_id=? AND status=?", has_unfinished),
                    filter if filter.workflow_id.is_some() => {
                        ("runs_by_workflow (workflow_id=? AND status=?", has_unfinished)
                    }
                    filter if !filter.statuses.is_empty() => ("runs_by_status (status=?", has_unfinished),
                    filter if filter.after.is_some() => ("INTEGER PRIMARY KEY (rowid", false),
                    _ => ("SCAN r", false),
                };
                let list = walk(&filter).list(&plans.sql, 10).expect("a good cursor").expect("there may be some");
                let plan = plans.of(&list);
                let expected: &[&str] = if is_sorted { &["SCAN r USING INDEX runs_unfinished"] } else { &[] };
                assert_eq!(sorted(&plan), expected, "{filter:?}:\n{plan}");
                assert!(walks(&plan).any(|walk| walk.contains(index)), "{filter:?}:\n{plan}");
                let is_bounded =
                    |walk: &&str| walk.contains(index) || walk.contains("(session_seq=?") || expected.contains(walk);
                assert!(walks(&plan).all(|walk| is_bounded(&walk)), "{filter:?}:\n{plan}");
                // What is counted is walked as a list of every status is.
                let every = RunFilter { statuses: Vec::new(), after: None, ..filter.clone() };
                let list = walk(&every).list(&plans.sql, 10).expect("a good cursor").expect("there may be some");
                let all = walk(&filter).all(&plans.sql, 10).expect("there may be some");
                assert_eq!(plans.of(&all), plans.of(&list), "{filter:?}");
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
        assert!(!finished.contains("runs_unfinished"), "{finished}");
        assert_eq!(sorted(&finished), [""; 0], "{finished}");
        kept[place(RunStatus::Running)] = 1;
        assert!(list(kept, &[RunStatus::Running]).is_some_and(|plan| plan.contains("runs_unfinished")));
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
                let has_unfinished = is_prefix_common && filter.user_id.is_some();
                let expected: &[&str] = if has_unfinished { &["SCAN r USING INDEX runs_unfinished"] } else { &[] };
                assert_eq!(sorted(&plan), expected, "{plan}");
            }
        }
    }

    fn sessions(filter: &SessionFilter) -> Sessions<'_> {
        Sessions { filter, user_id: filter.user_id.as_ref(), kept: 1 }
    }

    #[test]
    fn a_list_of_sessions_walks_an_index_in_its_order() {
        let plans = Plans::new();
        let kinds = [None, Some(SessionKind::Workflow), Some(SessionKind::Agent)];
        let sorts = [SessionSort::CreatedAt, SessionSort::UpdatedAt, SessionSort::Name];
        for bits in 0..8 {
            for (kind, sort) in kinds.into_iter().flat_map(|kind| sorts.map(|sort| (kind, sort))) {
                let filter = SessionFilter {
                    kind,
                    component_id: (bits & 1 > 0).then(flow),
                    user_id: (bits & 2 > 0).then(|| Arc::from("ada")),
                    descending: bits & 4 > 0,
                    sort,
                    ..SessionFilter::default()
                };
                let plan = plans.of(&sessions(&filter).list(&plans.sql).expect("there may be some"));
                let accepted = if kind == Some(SessionKind::Agent) { "by_kind (kind=?)" } else { "SCAN s" };
                // One user's or one component's are in an index as they were accepted. Of those not changed since, as
                // many as the list can have are sorted.
                let (expected, to_sort): (&[&str], &str) = match (&filter.user_id, &filter.component_id, sort) {
                    (Some(_), _, SessionSort::CreatedAt) => (&["by_user (user_id=?)"], ""),
                    (Some(_), ..) => (&["by_user (user_id=?)"], "by_user"),
                    (_, Some(_), SessionSort::CreatedAt) => (&["by_component (component_id=?)"], ""),
                    (_, Some(_), _) => (&["by_component (component_id=?)"], "by_component"),
                    (.., SessionSort::CreatedAt) => (&[accepted], ""),
                    (.., SessionSort::Name) => (&[accepted, "by_name (name>?)"], ""),
                    (.., SessionSort::UpdatedAt) => {
                        (&["SCAN s USING INDEX by_change", accepted, "(subquery"], "(subquery")
                    }
                };
                let walked: Vec<&str> = walks(&plan).collect();
                assert_eq!(walked.len(), expected.len(), "{filter:?}:\n{plan}");
                assert!(walked.iter().zip(expected).all(|(walk, part)| walk.contains(part)), "{filter:?}:\n{plan}");
                let sorted = sorted(&plan);
                assert_eq!(sorted.len(), usize::from(!to_sort.is_empty()), "{filter:?}:\n{plan}");
                assert!(sorted.iter().all(|walk| walk.contains(to_sort)), "{filter:?}:\n{plan}");
            }
        }
    }

    #[test]
    fn a_page_of_sessions_is_read_no_further_than_it_goes() {
        let plans = Plans::new();
        // The newer half changed since they were accepted, as did a few of the older.
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
            INSERT INTO outlive_sessions (session_id, version, kind, created_at, updated_at, metadata, state) \
            SELECT 's' || i, 0, i % 2, i, iif(i > 2500 OR i % 100 = 0, 10000 + i, i), '{}', '{}' FROM n";
        plans.connection.execute_batch(fill).expect("the rows are new");
        for kind in [None, Some(SessionKind::Workflow), Some(SessionKind::Agent)] {
            for (sort, descending) in [
                (SessionSort::CreatedAt, false),
                (SessionSort::CreatedAt, true),
                (SessionSort::UpdatedAt, false),
                (SessionSort::UpdatedAt, true),
                (SessionSort::Name, false),
            ] {
                let filter = SessionFilter { kind, sort, descending, ..SessionFilter::default() };
                let query = sessions(&filter).list(&plans.sql).expect("there may be some");
                let mut statement = plans.connection.prepare(&query.text).expect("good SQL");
                let rows = statement.query_map(params_from_iter(&query.values), |row| row.get::<_, i64>(0));
                assert_eq!(rows.expect("a list").count(), 20);
                let steps = statement.get_status(StatementStatus::VmStep);
                assert!(steps < 3000, "{filter:?}: {steps} steps");
            }
        }
    }

    #[test]
    fn sessions_of_a_kind_are_looked_for_where_there_are_some() {
        let plans = Plans::new();
        for kind in SessionKind::ALL {
            let filter = SessionFilter { kind: Some(kind), ..SessionFilter::default() };
            assert!(Sessions { kept: 0, ..sessions(&filter) }.list(&plans.sql).is_none());
        }
        // If a count was damaged, a list of all is read all the same.
        let all = SessionFilter::default();
        assert!(Sessions { kept: 0, ..sessions(&all) }.list(&plans.sql).is_some());
    }

    #[test]
    fn only_sessions_with_a_name_are_searched_by_name() {
        let plans = Plans::new();
        let filter = SessionFilter { name: Some("trip".to_owned()), ..SessionFilter::default() };
        let walk = sessions(&filter);
        for query in [walk.list(&plans.sql).expect("there may be some"), walk.count(&plans.sql, 10)] {
            let plan = plans.of(&query);
            assert!(plan.contains("by_name (name>?)"), "{plan}");
        }
    }

    #[test]
    fn unfinished_runs_that_wait_are_looked_at_from_the_newest_on_and_others_not_at_all() {
        let query = Query { text: Sql::new(TABLE).count_unfinished, values: Vec::new() };
        let plan = Plans::new().of(&query);
        let of = |name: &str| plan.lines().filter(|line| line.contains(name)).collect::<Vec<_>>();
        assert_eq!(of(" u "), ["SCAN u USING INDEX runs_unfinished"], "{plan}");
        assert_eq!(of(" q "), ["SEARCH q USING INTEGER PRIMARY KEY (rowid=?)"], "{plan}");
        assert_eq!(of(" counts ").len(), 1, "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "it would look at all of them: {plan}");
    }
}
