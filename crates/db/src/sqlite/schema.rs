//! The names and the text of SQL: migrations, statements, and which name belongs to which table set.
//!
//! It owns every SQL text that names a table. A session table's name is checked before it becomes part of one; nowhere
//! else is text put into SQL.

use super::audit::AuditSql;
use super::batches::BatchSql;
use super::budgets::BudgetSql;
use super::counts::CountSql;
use super::hooks::HookSql;
use super::questions::QuestionSql;
use super::rates::RateSql;
use super::retention::RetentionSql;
use super::schedules::ScheduleSql;
use outlive_core::port::{DbError, DbErrorKind};
use rusqlite::Connection;

/// In the header of every file of ours, at offset 68: `OUTL`.
pub(super) const APPLICATION_ID: u32 = 0x4F55_544C;
/// The number of the newest migration; in the header at offset 60.
pub(super) const USER_VERSION: u32 = 2;
/// The session table when none is named.
pub(super) const SESSION_TABLE: &str = "outlive_sessions";
/// What the names of a set's tables add to that of its session table, by the format they came with.
const TABLE_SUFFIXES: [&[&str]; USER_VERSION as usize] = [
    &["", "_runs", "_run_requests", "_run_events", "_run_outputs", "_run_hooks", "_run_hook_deliveries", "_audit"],
    &[
        "_counts",
        "_definitions",
        "_questions",
        "_schedules",
        "_schedule_ticks",
        "_budgets",
        "_rates",
        "_retention",
        "_remains",
        "_batches",
    ],
];
/// Longest name of a session table, in bytes.
const NAME_LEN_MAX: usize = 64;

const SHARED_0001: &str = include_str!("../../migrations/sqlite/0001_shared.sql");
/// Migration *n* takes a table set from format *n* to *n* + 1.
const TABLES: [&str; USER_VERSION as usize] =
    [include_str!("../../migrations/sqlite/0001_tables.sql"), include_str!("../../migrations/sqlite/0002_tables.sql")];
/// What all of them make of nothing. A new set begins with it: going through the migrations was two thirds of all that the
/// processor did until a new file's first run was accepted.
const NEW_TABLES: &str = include_str!("../../migrations/sqlite/new_tables.sql");

/// Creates what all table sets share, and marks the file as ours.
pub(super) fn create_shared() -> String {
    format!("{SHARED_0001}\nPRAGMA application_id = {APPLICATION_ID};\n{}", set_user_version())
}

/// Marks the file as having the newest format.
pub(super) fn set_user_version() -> String {
    format!("PRAGMA user_version = {USER_VERSION};")
}

/// Creates table set number `number` (from 1).
pub(super) fn create_tables(table: &str, number: u32) -> String {
    let tables = named(NEW_TABLES, table, number);
    format!("{tables}\nINSERT INTO outlive_meta (name, value) VALUES ('tables:{table}', '{number}');")
}

/// Takes table set number `number` from format `from` to the newest.
pub(super) fn migrate_tables(table: &str, number: u32, from: u32) -> String {
    let steps = TABLES.iter().skip(from as usize).map(|sql| named(sql, table, number));
    steps.collect::<Vec<_>>().join("\n")
}

/// For one table set. The first set's views have the plain names.
fn named(sql: &str, table: &str, number: u32) -> String {
    let suffix = if number == 1 { String::new() } else { format!("_{table}") };
    sql.replace("{T}", table).replace("{V}", &suffix)
}

/// The names of the tables that this makes.
pub(super) fn made_tables(table: &str, from: u32) -> impl Iterator<Item = String> {
    TABLE_SUFFIXES
        .iter()
        .skip(from as usize)
        .flat_map(|suffixes| suffixes.iter())
        .map(move |suffix| format!("{table}{suffix}"))
}

/// The format of an open file, its log included.
pub(super) fn user_version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The session tables of a file, oldest first.
pub(super) fn session_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT substr(name, 8) FROM outlive_meta WHERE name LIKE 'tables:%' ORDER BY CAST(value AS INTEGER)",
    )?;
    let tables = statement.query_map([], |row| row.get(0))?;
    tables.collect()
}

/// All pages of a session table's runs, each with its run's id and length, in order.
pub(super) fn all_pages(table: &str) -> String {
    format!(
        "SELECT r.run_id, r.next_index, e.first_index, e.count, e.body FROM {table}_runs r \
         LEFT JOIN {table}_run_events e ON e.run_seq = r.seq ORDER BY r.seq, e.first_index"
    )
}

/// How many runs of a session table are unfinished.
pub(super) fn unfinished_runs(table: &str) -> String {
    format!("SELECT count(*) FROM {table}_runs WHERE status < 3")
}

/// Frees what a dead worker held, in a file of this format.
pub(super) fn free_runs_of_the_dead(table: &str, format: u32) -> String {
    let worker = if format == 1 { "worker" } else { "worker_seq" };
    format!(
        "UPDATE {table}_runs SET {worker} = NULL WHERE status < 3 AND {worker} IN \
         (SELECT seq FROM outlive_workers WHERE is_dead = 1)"
    )
}

/// The mark of a copy that nobody has adopted; its value is when it was made, in microseconds since 1970.
pub(super) const COPY_MARK: &str = "SELECT value FROM outlive_meta WHERE name = 'copied'";
pub(super) const SET_COPY_MARK: &str = "INSERT OR REPLACE INTO outlive_meta (name, value) VALUES ('copied', ?1)";
pub(super) const CLEAR_COPY_MARK: &str = "DELETE FROM outlive_meta WHERE name = 'copied'";
/// Workers that were not declared dead, whatever their session table, and until when their leases are good.
pub(super) const LIVING: &str = "SELECT worker_id, good_until FROM outlive_workers WHERE is_dead = 0";
pub(super) const BURY_ALL: &str = "UPDATE outlive_workers SET is_dead = 1 WHERE is_dead = 0";

/// Checks the name of a session table.
///
/// # Errors
/// `Storage` when it is not a valid name.
pub(super) fn check_name(table: &str) -> Result<(), DbError> {
    let lower = table.to_ascii_lowercase();
    let problem = if table.is_empty() || table.len() > NAME_LEN_MAX {
        format!("must have 1 to {NAME_LEN_MAX} characters")
    } else if !table.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        "may contain letters, digits and _ only".to_owned()
    } else if table.starts_with(|c: char| c.is_ascii_digit()) {
        "must not begin with a digit".to_owned()
    } else if ["sqlite_", "chk_", "outlive_meta", "outlive_workers", "outlive_keys"]
        .iter()
        .any(|taken| lower.starts_with(taken))
    {
        "is reserved".to_owned()
    } else {
        return Ok(());
    };
    let message = format!("session table {table:?} {problem}: choose another name");
    Err(DbError::new(DbErrorKind::Storage, message))
}

/// The statements of one table set.
pub(super) struct Sql {
    pub(super) table: String,

    pub(super) worker_by_id: String,
    pub(super) worker_is_dead: String,
    pub(super) insert_worker: String,
    pub(super) renew_worker: String,
    pub(super) living_workers: String,
    pub(super) workers: String,
    pub(super) bury_worker: String,
    pub(super) free_runs: String,
    pub(super) note_workflows: String,
    pub(super) forget_workflows: String,
    pub(super) retire_runs: String,

    pub(super) request_by_key: String,
    pub(super) surroundings: String,
    pub(super) session_owner: String,
    pub(super) first_unfinished: String,
    pub(super) unfinished_of: String,
    pub(super) insert_session: String,
    pub(super) insert_run: String,
    pub(super) insert_request: String,
    pub(super) insert_definition: String,
    pub(super) definition: String,
    pub(super) definitions_of: String,
    pub(super) delete_definition: String,

    pub(super) ready: String,
    pub(super) due: String,
    pub(super) not_due: String,
    pub(super) to_cancel: String,
    pub(super) limit_keys: String,
    pub(super) placed: String,
    pub(super) awaiting: String,
    pub(super) let_in: String,
    pub(super) take: String,
    pub(super) standing: String,
    pub(super) run_owner: String,
    pub(super) set_cancel: String,
    pub(super) held: String,
    pub(super) cancels: String,
    pub(super) interrupt: String,
    pub(super) steered_by: String,
    pub(super) steering: String,
    pub(super) steered: String,
    pub(super) can_take_in: String,

    pub(super) update_run: String,
    pub(super) extend_run: String,
    pub(super) append: String,
    pub(super) set_output: String,
    pub(super) next_in_line: String,
    pub(super) session_by_seq: String,
    pub(super) update_session: String,

    pub(super) run_by_id: String,
    pub(super) line_by_id: String,
    pub(super) run_by_seq: String,
    pub(super) line_by_seq: String,
    pub(super) of_session: String,
    pub(super) of_batch: String,
    pub(super) before: String,
    pub(super) with_prefix: String,
    pub(super) have_prefix: String,
    pub(super) count_unfinished: String,
    pub(super) pages: String,

    pub(super) session: String,
    pub(super) session_of_counts: String,
    pub(super) runs_of_counts: String,
    pub(super) patch_session: String,
    pub(super) delete_session: [String; 9],

    pub(super) batches: BatchSql,
    pub(super) budgets: BudgetSql,
    pub(super) counts: CountSql,
    pub(super) questions: QuestionSql,
    pub(super) rates: RateSql,
    pub(super) retention: RetentionSql,
    pub(super) schedules: ScheduleSql,
    pub(super) hooks: HookSql,
    pub(super) audit: AuditSql,
}

/// Columns of a session, in the order `rows::session` reads them.
const SESSION: &str = "SELECT s.session_id, s.version, s.kind, s.user_id, s.component_id, s.created_at, s.updated_at, \
    s.name, s.metadata, s.state FROM {T} s";
/// The accept numbers of a session's runs.
const RUNS_OF_SESSION: &str = "SELECT u.seq FROM {T}_runs u INDEXED BY {T}_runs_unfinished \
    WHERE u.status < 3 AND u.session_seq = {S} \
    UNION ALL SELECT f.seq FROM {T}_runs f INDEXED BY {T}_runs_finished \
    WHERE f.status >= 3 AND f.session_seq = {S}";
/// Columns of a whole run, in the order `rows::run` reads them; `{IO}` stands for input and output.
const RUN: &str = "SELECT r.run_id, r.workflow_id, q.workflow_name, s.session_id, q.user_id, r.status, q.options, \
    q.definition, q.created_at, r.updated_at, r.epoch, w.worker_id, r.claims, r.attempt, r.due_at, r.cancel_at, \
    r.cancel_reason, r.next_index, r.progress, {IO}, r.seq, r.is_behind, r.priority, r.limit_key, r.limit_max \
    FROM {T}_runs r JOIN {T}_run_requests q ON q.seq = r.seq JOIN {T} s ON s.seq = r.session_seq \
    LEFT JOIN outlive_workers w ON w.seq = r.worker_seq";
const WITH_OUTPUT: &str = " LEFT JOIN {T}_run_outputs o ON o.seq = r.seq";
const CLAIMABLE: &str = "FROM {T}_runs INDEXED BY {T}_runs_claimable \
    WHERE worker_seq IS NULL AND status < 2 AND is_behind = 0 AND workflow_id = ?1";
const AWAITING: &str =
    "FROM {T}_runs INDEXED BY {T}_runs_awaiting WHERE is_behind = 3 AND status < 2 AND workflow_id = ?1";

/// The runs that wait to be taken in, and what makes one of them, `s`, steer the run `h`.
const STEERING: &str = "{T}_runs s INDEXED BY {T}_runs_steering";
const STEERS: &str = "s.is_behind = 2 AND s.status = 0 AND s.worker_seq IS NULL AND s.cancel_at IS NULL \
    AND s.session_seq = h.session_seq AND s.workflow_id = h.workflow_id AND s.seq > h.seq AND h.status < 3 \
    AND h.is_behind = 0";

impl Sql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        let whole = format!("{}{WITH_OUTPUT}", RUN.replace("{IO}", "q.input, o.output"));
        let line = RUN.replace("{IO}", "NULL, NULL");
        let by_id = "WHERE r.run_id = ?1 AND (?2 IS NULL OR q.user_id = ?2)";
        Self {
            table: table.to_owned(),

            worker_by_id: sql("SELECT seq FROM outlive_workers WHERE worker_id = ?1 AND session_table = '{T}'"),
            worker_is_dead: sql("SELECT is_dead FROM outlive_workers WHERE seq = ?1"),
            insert_worker: sql(
                "INSERT INTO outlive_workers (worker_id, session_table, good_until) VALUES (?1, '{T}', ?2)",
            ),
            renew_worker: sql("UPDATE outlive_workers SET good_until = max(good_until + 1, ?2) WHERE seq = ?1"),
            living_workers: sql(
                "SELECT seq, worker_id, good_until FROM outlive_workers WHERE session_table = '{T}' AND is_dead = 0",
            ),
            workers: sql("SELECT w.worker_id, w.good_until, coalesce(h.held, 0), \
                (SELECT m.value FROM outlive_meta m WHERE m.name = 'worker:' || w.seq) FROM outlive_workers w LEFT JOIN \
                (SELECT r.worker_seq, count(*) AS held FROM {T}_runs r INDEXED BY {T}_runs_unfinished \
                WHERE ?2 AND r.status < 3 AND r.worker_seq IS NOT NULL \
                AND (?1 IS NULL OR r.user_id = ?1) GROUP BY r.worker_seq) h ON h.worker_seq = w.seq \
                WHERE w.session_table = '{T}' AND w.is_dead = 0 ORDER BY w.worker_id"),
            bury_worker: sql("UPDATE outlive_workers SET is_dead = 1 WHERE seq = ?1"),
            free_runs: sql("UPDATE {T}_runs SET worker_seq = NULL WHERE seq IN \
                (SELECT seq FROM {T}_runs INDEXED BY {T}_runs_unfinished WHERE status < 3 AND worker_seq = ?1)"),
            note_workflows: sql("INSERT INTO outlive_meta (name, value) VALUES ('worker:' || ?1, ?2) \
                ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value"),
            forget_workflows: sql("DELETE FROM outlive_meta WHERE name = 'worker:' || ?1"),
            retire_runs: sql("UPDATE {T}_runs SET worker_seq = NULL, claims = 0, updated_at = ?2 WHERE seq IN \
                (SELECT seq FROM {T}_runs INDEXED BY {T}_runs_unfinished WHERE status < 3 AND worker_seq = ?1)"),

            request_by_key: sql("SELECT r.run_id, q.user_id, q.idempotency_key, q.fingerprint \
                FROM {T}_run_requests q JOIN {T}_runs r ON r.seq = q.seq WHERE q.idempotency_key = ?1"),
            // One statement, because starting one takes longer than one of its searches.
            surroundings: sql("SELECT r.run_id, q.user_id, q.idempotency_key, q.fingerprint, s.seq, s.user_id, \
                (SELECT w.is_dead FROM outlive_workers w WHERE w.seq = ?3), \
                EXISTS (SELECT 1 FROM {T}_definitions WHERE hash = ?4 AND first_run >= 0) \
                FROM (SELECT 1) LEFT JOIN {T}_runs r ON r.run_id = ?1 LEFT JOIN {T}_run_requests q ON q.seq = r.seq \
                LEFT JOIN {T} s ON s.session_id = ?2"),
            session_owner: sql("SELECT seq, user_id FROM {T} WHERE session_id = ?1"),
            first_unfinished: sql("SELECT seq FROM {T}_runs INDEXED BY {T}_runs_unfinished \
                WHERE status < 3 AND session_seq = ?1 ORDER BY seq LIMIT 1"),
            unfinished_of: sql("SELECT run_id FROM {T}_runs INDEXED BY {T}_runs_unfinished \
                WHERE status < 3 AND session_seq = ?1"),
            insert_session: sql("INSERT INTO {T} (session_id, version, kind, user_id, component_id, created_at, \
                updated_at, name, metadata, state, lag) VALUES (?1, 0, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, \
                coalesce((SELECT max(0, p.created_at + p.lag - ?5) FROM {T} p ORDER BY p.seq DESC LIMIT 1), 0))"),
            insert_run: sql(
                "INSERT INTO {T}_runs (run_id, session_seq, workflow_id, status, is_behind, epoch, worker_seq, \
                claims, attempt, due_at, next_index, updated_at, user_id, priority, limit_key, limit_max, batch_seq, \
                batch_item, progress) VALUES (?1, ?2, ?3, ?16, ?4, ?5, ?6, ?5, ?5, ?9, ?10, ?7, ?8, ?11, ?12, ?13, ?14, ?15, \
                ?17)",
            ),
            insert_request: sql("INSERT INTO {T}_run_requests (seq, workflow_name, user_id, definition, fingerprint, \
                idempotency_key, created_at, options, input) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
            // One that is in doubt is there; earlier runs may have it.
            insert_definition: sql("INSERT INTO {T}_definitions (hash, first_run, structure) VALUES (?1, ?2, ?3) \
                ON CONFLICT (hash) DO UPDATE SET first_run = 0"),
            definition: sql("SELECT structure FROM {T}_definitions WHERE hash = ?1"),
            definitions_of: sql(&format!(
                "SELECT definition, max(seq) FROM {{T}}_run_requests WHERE seq IN ({}) GROUP BY definition",
                runs_of("?1")
            )),
            // Other runs with it are looked for before this one and after it, nearest first: runs with one definition
            // lie together, so few rows are read, except for the last of all.
            delete_definition: sql("DELETE FROM {T}_definitions WHERE hash = ?1 AND coalesce(\
                (SELECT q.seq FROM {T}_run_requests q WHERE q.seq < ?2 AND q.seq >= first_run AND q.definition = ?1 \
                ORDER BY q.seq DESC LIMIT 1), \
                (SELECT q.seq FROM {T}_run_requests q WHERE q.seq > ?2 AND q.definition = ?1 ORDER BY q.seq LIMIT 1)) \
                IS NULL"),

            ready: sql(&format!("SELECT seq, claims, priority {CLAIMABLE} AND due_at = 0 ORDER BY priority DESC, seq")),
            due: sql(&format!(
                "SELECT seq, claims, priority {CLAIMABLE} AND due_at > 0 AND due_at <= ?2 ORDER BY priority DESC, seq"
            )),
            not_due: sql(&format!("SELECT due_at, claims {CLAIMABLE} AND due_at > 0 AND due_at > ?2 ORDER BY due_at")),
            // A row without a number says that some runs wait for a place under their limit (0), or that there are schedules
            // (1).
            to_cancel: sql("SELECT * FROM (SELECT seq, claims, priority FROM {T}_runs INDEXED BY {T}_runs_to_cancel \
                WHERE cancel_at IS NOT NULL AND status < 3 AND worker_seq IS NULL ORDER BY priority DESC, seq) \
                UNION ALL SELECT NULL, 0, 0 WHERE EXISTS \
                (SELECT 1 FROM {T}_runs INDEXED BY {T}_runs_awaiting WHERE is_behind = 3 AND status < 2) \
                UNION ALL SELECT NULL, 1, 0 WHERE EXISTS \
                (SELECT 1 FROM {T}_schedules INDEXED BY {T}_schedules_due WHERE next_due IS NOT NULL)"),
            limit_keys: sql(&format!(
                "WITH RECURSIVE key (key) AS (SELECT min(limit_key) {AWAITING} UNION ALL \
                SELECT (SELECT min(limit_key) {AWAITING} AND limit_key > key.key) FROM key WHERE key.key IS NOT NULL) \
                SELECT key FROM key WHERE key IS NOT NULL"
            )),
            placed: sql("SELECT count(*) FROM {T}_runs INDEXED BY {T}_runs_placed \
                WHERE limit_key = ?1 AND is_behind = 0 AND status < 2"),
            awaiting: sql(&format!(
                "SELECT seq, limit_max, due_at {AWAITING} AND limit_key = ?2 ORDER BY priority DESC, seq"
            )),
            let_in: sql("UPDATE {T}_runs SET is_behind = 0 WHERE seq = ?1"),

            take: sql("UPDATE {T}_runs SET worker_seq = ?2, epoch = epoch + 1, claims = claims + 1, \
                attempt = attempt + 1, updated_at = ?3 WHERE seq = ?1"),
            standing: sql(
                "SELECT seq, session_seq, status, epoch, worker_seq, next_index, cancel_at IS NOT NULL, workflow_id, user_id, \
                limit_key IS NOT NULL, batch_seq FROM {T}_runs WHERE run_id = ?1",
            ),
            run_owner: sql("SELECT user_id FROM {T}_runs WHERE run_id = ?1"),
            set_cancel: sql("UPDATE {T}_runs SET cancel_at = coalesce(cancel_at, ?2), \
                cancel_reason = coalesce(cancel_reason, ?3), updated_at = ?2 WHERE seq = ?1"),
            held: sql(
                "SELECT run_id, epoch FROM {T}_runs INDEXED BY {T}_runs_unfinished WHERE status < 3 AND worker_seq = \
                (SELECT seq FROM outlive_workers WHERE worker_id = ?1 AND session_table = '{T}')",
            ),
            cancels: sql("SELECT r.run_id, r.cancel_at, r.cancel_reason \
                FROM {T}_runs r INDEXED BY {T}_runs_to_cancel \
                WHERE r.cancel_at IS NOT NULL AND r.status < 3 AND r.worker_seq = \
                (SELECT seq FROM outlive_workers WHERE worker_id = ?1 AND session_table = '{T}') ORDER BY r.seq"),

            interrupt: sql("UPDATE {T}_runs SET cancel_at = coalesce(cancel_at, ?2), \
                cancel_reason = coalesce(cancel_reason, ?3), updated_at = ?2 WHERE seq IN \
                (SELECT seq FROM {T}_runs INDEXED BY {T}_runs_unfinished WHERE status < 3 AND session_seq = ?1)"),
            steered_by: sql("SELECT run_id FROM {T}_runs WHERE seq = ?1 AND workflow_id = ?2 AND cancel_at IS NULL"),
            steering: sql(&format!(
                "SELECT s.seq FROM {{T}}_runs h CROSS JOIN {STEERING} WHERE h.run_id = ?1 AND {STEERS} \
                AND h.seq = ({{HEAD}}) ORDER BY s.seq"
            ))
            .replace("{HEAD}", &head_of("h.session_seq", table)),
            steered: sql(&format!(
                "SELECT DISTINCT h.run_id FROM {STEERING} CROSS JOIN {{T}}_runs h ON h.seq = ({{HEAD}}) WHERE {STEERS} \
                AND h.worker_seq = (SELECT seq FROM outlive_workers WHERE worker_id = ?1 AND session_table = '{{T}}')"
            ))
            .replace("{HEAD}", &head_of("s.session_seq", table)),
            can_take_in: sql(&format!(
                "SELECT s.seq FROM {{T}}_runs h JOIN {{T}}_runs s ON s.run_id = ?2 WHERE h.seq = ?1 AND {STEERS}"
            )),

            update_run: sql("UPDATE {T}_runs SET status = ?2, next_index = ?3, updated_at = ?4, \
                progress = coalesce(?5, progress), claims = iif(?6, 0, claims), worker_seq = iif(?7, NULL, worker_seq), \
                due_at = coalesce(?8, due_at), \
                is_behind = iif(?2 = 2 AND limit_key IS NOT NULL, 3, is_behind) WHERE seq = ?1"),
            // What is in no index. SQLite writes an entry anew when a column of it is set, even to the value it has.
            extend_run: sql(
                "UPDATE {T}_runs SET next_index = ?2, updated_at = ?3, progress = coalesce(?4, progress), \
                claims = iif(?5, 0, claims) WHERE seq = ?1",
            ),
            append: sql("INSERT INTO {T}_run_events (run_seq, first_index, count, epoch, body) \
                VALUES (?1, ?2, ?3, ?4, ?5)"),
            set_output: sql("INSERT INTO {T}_run_outputs (seq, output) VALUES (?1, ?2) \
                ON CONFLICT (seq) DO UPDATE SET output = excluded.output"),
            next_in_line: sql("UPDATE {T}_runs SET is_behind = iif(limit_key IS NULL, 0, 3) \
                WHERE seq = ?1 AND is_behind IN (1, 2)"),
            session_by_seq: sql(&format!("{SESSION} WHERE s.seq = ?1")),
            update_session: sql("UPDATE {T} SET state = ?2, version = version + 1, updated_at = ?3 WHERE seq = ?1"),

            run_by_id: sql(&format!("{whole} {by_id}")),
            line_by_id: sql(&format!("{line} {by_id}")),
            run_by_seq: sql(&format!("{whole} WHERE r.seq = ?1")),
            line_by_seq: sql(&format!("{line} WHERE r.seq = ?1")),
            of_session: sql("r.session_seq = (SELECT seq FROM {T} WHERE session_id = ?)"),
            of_batch: sql("r.batch_seq = (SELECT seq FROM {T}_batches WHERE batch_id = ?)"),
            before: sql("r.seq < (SELECT b.seq FROM {T}_runs b WHERE b.run_id = ?)"),
            with_prefix: sql("r.seq IN (SELECT p.seq FROM {T}_runs p WHERE p.run_id >= {FROM} AND p.run_id < {TO})"),
            have_prefix: sql(
                "SELECT count(*) FROM (SELECT 1 FROM {T}_runs WHERE run_id >= ?1 AND run_id < ?2 LIMIT ?3)",
            ),
            // Those that are RUNNING or PAUSED are counted as they change. Of those that are PENDING, workers hold a few; they
            // are the newest nearly always, and with the last of them the walk is over.
            count_unfinished: sql("WITH counted AS MATERIALIZED (SELECT pending, running, paused FROM {T}_counts \
                WHERE scope = 0 AND component_id = '' AND user_id = ''), \
                pending AS MATERIALIZED (SELECT u.seq, u.worker_seq, u.due_at FROM {T}_runs u INDEXED BY {T}_runs_unfinished \
                WHERE u.status < 3 AND u.status = 0 ORDER BY u.session_seq DESC, u.seq DESC \
                LIMIT coalesce((SELECT pending FROM counted), 0)) \
                SELECT (SELECT count(*) FROM pending WHERE worker_seq IS NULL), \
                (SELECT q.created_at FROM {T}_run_requests q WHERE q.seq = \
                (SELECT min(seq) FROM pending WHERE worker_seq IS NULL AND due_at = 0)), \
                coalesce((SELECT running FROM counted), 0), coalesce((SELECT paused FROM counted), 0)"),
            pages: sql("WITH run (seq) AS MATERIALIZED (\
                SELECT r.seq FROM {T}_runs r JOIN {T}_run_requests q ON q.seq = r.seq \
                WHERE r.run_id = ?1 AND (?3 IS NULL OR q.user_id = ?3)) \
                SELECT first_index, count, body FROM {T}_run_events WHERE run_seq = (SELECT seq FROM run) \
                AND first_index >= coalesce((SELECT max(e.first_index) FROM {T}_run_events e \
                WHERE e.run_seq = (SELECT seq FROM run) AND e.first_index <= ?2), 0) ORDER BY first_index"),

            session: sql(&format!("{SESSION} WHERE s.session_id = ?1 AND (?2 IS NULL OR s.user_id = ?2)")),
            session_of_counts: sql("SELECT component_id, user_id, kind FROM {T} WHERE seq = ?1"),
            runs_of_counts: sql(&format!(
                "SELECT workflow_id, user_id, status, count(*), batch_seq FROM {{T}}_runs WHERE seq IN ({}) \
                 GROUP BY 1, 2, 3, 5",
                runs_of("?1")
            )),
            patch_session: sql("UPDATE {T} SET name = coalesce(?3, name), state = coalesce(?4, state), \
                metadata = coalesce(?5, metadata), version = version + 1, updated_at = ?6 \
                WHERE session_id = ?1 AND (?2 IS NULL OR user_id = ?2)"),
            delete_session: [
                sql("DELETE FROM {T}_budgets WHERE session_seq = ?1"),
                sql(&format!("DELETE FROM {{T}}_questions WHERE run_seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_run_hook_deliveries WHERE run_seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_run_hooks WHERE seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_run_events WHERE run_seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_run_outputs WHERE seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_run_requests WHERE seq IN ({})", runs_of("?1"))),
                sql(&format!("DELETE FROM {{T}}_runs WHERE seq IN ({})", runs_of("?1"))),
                sql("DELETE FROM {T} WHERE seq = ?1"),
            ],

            batches: BatchSql::new(table),
            budgets: BudgetSql::new(table),
            rates: RateSql::new(table),
            counts: CountSql::new(table),
            questions: QuestionSql::new(table),
            retention: RetentionSql::new(table),
            schedules: ScheduleSql::new(table),
            hooks: HookSql::new(table),
            audit: AuditSql::new(table),
        }
    }
}

/// The first unfinished run of the session that `session`, an expression, gives the number of.
fn head_of(session: &str, table: &str) -> String {
    format!(
        "SELECT u.seq FROM {table}_runs u INDEXED BY {table}_runs_unfinished \
         WHERE u.status < 3 AND u.session_seq = {session} ORDER BY u.seq LIMIT 1"
    )
}

/// The accept numbers of the runs of the session that `session`, an expression, gives the number of.
fn runs_of(session: &str) -> String {
    RUNS_OF_SESSION.replace("{S}", session)
}

/// How SQLite walks, one line for each table, without the names that all indexes of `{T}_{part}` begin with.
#[cfg(test)]
pub(super) fn plan(connection: &Connection, part: &str, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("good SQL");
    let mut rows = statement.raw_query();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().expect("a plan") {
        lines.push(row.get::<_, String>(3).expect("text").replace(&format!("{SESSION_TABLE}_{part}_"), ""));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything of the second set, named `zzz`, as statements that make it, for any set.
    fn made(tables: &str) -> String {
        let connection = Connection::open_in_memory().expect("memory is there");
        connection.execute_batch(&create_shared()).expect("the schema is good");
        connection.execute_batch(tables).expect("the schema is good");
        let made = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND (tbl_name LIKE '%zzz%') ORDER BY rowid";
        let mut made = connection.prepare(made).expect("it is there");
        let statements = made.query_map([], |row| Ok(format!("{};\n\n", row.get::<_, String>(0)?))).expect("it reads");
        let statements: String = statements.map(|sql| sql.expect("it is text")).collect();
        let views = statements.split_whitespace().filter(|word| word.starts_with("chk_"));
        let views = views.filter_map(|view| view.strip_suffix("_zzz")).collect::<std::collections::BTreeSet<_>>();
        let unnamed = views
            .iter()
            .fold(statements.clone(), |sql, view| sql.replace(&format!("{view}_zzz"), &format!("{view}{{V}}")));
        unnamed.replace("zzz", "{T}")
    }

    #[test]
    fn a_new_table_set_is_what_the_migrations_make_of_nothing() {
        let header = "-- Made by the migrations: a new table set, as they leave it. After a change of them, make it anew:\n\
                      -- OUTLIVE_UPDATE_SNAPSHOTS=1 cargo test --workspace --locked --lib a_new_table_set\n\n";
        let expected = format!("{header}{}", made(&migrate_tables("zzz", 2, 0)));
        if std::env::var_os("OUTLIVE_UPDATE_SNAPSHOTS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite/new_tables.sql");
            std::fs::write(path, &expected).expect("it can be written");
        }
        assert_eq!(NEW_TABLES, expected, "see the first lines of new_tables.sql");
        assert_eq!(made(&named(NEW_TABLES, "zzz", 2)), made(&migrate_tables("zzz", 2, 0)));
    }

    #[test]
    fn who_is_steered_is_asked_of_the_few_that_steer_and_not_of_all_runs() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [create_shared(), create_tables(SESSION_TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = Sql::new(SESSION_TABLE);
        for sql in [&sql.steered, &sql.steering] {
            let plan = plan(&connection, "runs", sql);
            assert!(
                plan.iter().any(|line| line.starts_with("S") && line.contains(" s USING INDEX steering")),
                "{plan:?}"
            );
            assert!(!plan.iter().any(|line| line.starts_with("SCAN h")), "{plan:?}");
        }
    }

    #[test]
    fn a_name_that_could_break_out_of_sql_is_refused() {
        for name in [
            "",
            "a b",
            "a;drop",
            "ä",
            "1a",
            "a\"",
            "sqlite_a",
            "chk_run",
            "outlive_meta",
            "OUTLIVE_WORKERS",
            "outlive_keys",
        ] {
            let error = check_name(name).expect_err(name);
            assert!(error.to_string().contains("choose another name"), "{error}");
        }
        assert!(check_name(&"a".repeat(65)).is_err());
        for name in [SESSION_TABLE, "workflow_session", "_1", "T"] {
            check_name(name).expect(name);
        }
    }
}
