-- Format 2 of one table set: lists by index, and counts that are kept. {T} and {V} as in 0001_tables.sql.

-- A program that knows only format 1 and still has the file open must not write to it: it would leave the counts behind.
-- With these columns renamed, none of its statements that write runs or sessions can be compiled any more.
ALTER TABLE {T} RENAME COLUMN workflow_id TO component_id; -- the workflow, agent or team
ALTER TABLE {T}_runs RENAME COLUMN worker TO worker_seq;

-- The request's, repeated here for the indexes.
ALTER TABLE {T}_runs ADD COLUMN user_id TEXT;
UPDATE {T}_runs SET user_id = (SELECT q.user_id FROM {T}_run_requests q WHERE q.seq = {T}_runs.seq)
    WHERE seq IN (SELECT q.seq FROM {T}_run_requests q WHERE q.user_id IS NOT NULL);

-- By how much `created_at` is before that of a session accepted earlier, in microseconds: 0 unless clocks disagree. So
-- created_at + lag never falls in the order of acceptance.
ALTER TABLE {T} ADD COLUMN lag INTEGER NOT NULL DEFAULT 0;
UPDATE {T} SET lag = earlier.latest - created_at
    FROM (SELECT seq, max(created_at) OVER (ORDER BY seq) AS latest FROM {T}) earlier
    WHERE earlier.seq = {T}.seq AND earlier.latest > created_at;

-- Each order in which a list is read. Accept numbers and numbers of sessions end every index by themselves. Sessions as
-- they are accepted, with workflows and not changed since, are read without an index.
CREATE INDEX {T}_by_component ON {T} (component_id) WHERE component_id IS NOT NULL;
CREATE INDEX {T}_by_kind ON {T} (kind) WHERE kind > 0;
CREATE INDEX {T}_by_change ON {T} (updated_at) WHERE updated_at <> created_at + lag;
CREATE INDEX {T}_by_name ON {T} (name) WHERE name IS NOT NULL;

-- Unfinished runs change often, so their status is in no index: {T}_runs_unfinished has them all, the others the
-- finished.
DROP INDEX {T}_runs_by_workflow;
DROP INDEX {T}_run_requests_by_user;
CREATE INDEX {T}_runs_by_status ON {T}_runs (status) WHERE status >= 3;
CREATE INDEX {T}_runs_by_workflow ON {T}_runs (workflow_id, status) WHERE status >= 3;
CREATE INDEX {T}_runs_by_user ON {T}_runs (user_id, status) WHERE status >= 3 AND user_id IS NOT NULL;

-- Behind others and waiting to be taken in by the first of them: such a run has 2 in `is_behind`.
CREATE INDEX {T}_runs_steering ON {T}_runs (session_seq) WHERE is_behind = 2 AND status = 0;

-- A call for which a budget holds a reservation starts with that; it may be reserved for again.
DROP VIEW chk_journal{V};
CREATE VIEW chk_journal{V} (run_id, event_index, step_key, kind, epoch, commit_seq) AS
    SELECT run_id, event_index, coalesce(json ->> '$.record.intent.key', json ->> '$.record.reserved.key'), 'started',
           epoch, commit_seq
    FROM chk_entry{V} WHERE json ->> '$.record.intent.key' IS NOT NULL
        OR (json ->> '$.record.reserved.key' IS NOT NULL AND json ->> '$.event.event' LIKE '%ModelRequestStarted')
    UNION ALL
    SELECT run_id, event_index, coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key'), 'finished',
           epoch, commit_seq
    FROM chk_entry{V} WHERE coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key') IS NOT NULL;

-- Lines of format 2 leave out what the run's row says.
DROP VIEW chk_event{V};
CREATE VIEW chk_event{V} (run_id, idx, name, json) AS
    SELECT e.run_id, e.event_index, e.json ->> '$.event.event',
           json_patch(json_object('workflow_id', r.workflow_id, 'session_id', s.session_id), e.json -> '$.event')
    FROM chk_entry{V} e JOIN {T}_runs r ON r.run_id = e.run_id JOIN {T} s ON s.seq = r.session_seq;

-- Definitions, each once, as long as a run has it: {T}_run_requests names its hash. Those of runs accepted in format 1
-- are not known.
CREATE TABLE {T}_definitions (
    hash      TEXT PRIMARY KEY,
    first_run INTEGER NOT NULL, -- no run before this one has it; negative: from there on a run with it is looked for
    structure TEXT NOT NULL     -- JSON
) STRICT, WITHOUT ROWID;

-- Questions to people. Runs without one have no row. `seq` is the order in which they were asked.
CREATE TABLE {T}_questions (
    seq         INTEGER PRIMARY KEY,
    question_id TEXT NOT NULL UNIQUE,
    run_seq     INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,    -- the run's, here and below, repeated for the indexes
    user_id     TEXT,
    state       INTEGER NOT NULL, -- 0 open, 1 answered and not yet in the run's log, 2 answered, 3 void
    asked_at    INTEGER NOT NULL,
    due_at      INTEGER,
    text        TEXT NOT NULL,    -- JSON
    answer      TEXT,             -- JSON
    answered_by TEXT,
    answered_at INTEGER
) STRICT;
CREATE INDEX {T}_questions_open ON {T}_questions (state) WHERE state = 0;
CREATE INDEX {T}_questions_due ON {T}_questions (due_at) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX {T}_questions_inbox ON {T}_questions (run_seq) WHERE state = 1;
CREATE INDEX {T}_questions_by_run ON {T}_questions (run_seq);
CREATE INDEX {T}_questions_by_workflow ON {T}_questions (workflow_id, state);
CREATE INDEX {T}_questions_by_user ON {T}_questions (user_id, state) WHERE user_id IS NOT NULL;

-- What budgets have used: an account for each run, session or user, and each day. Workflows without budgets have none.
CREATE TABLE {T}_budgets (
    account     TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,    -- the workflow's id, or the name that several share
    unit        TEXT NOT NULL,    -- tokens, calls, or a currency
    per         TEXT NOT NULL,    -- run, session, user or all
    subject     TEXT NOT NULL,    -- which run, session or user
    day         TEXT,
    time_zone   TEXT,             -- by whose clocks; null is UTC
    ends_at     INTEGER,          -- when the day is over
    user_id     TEXT,
    session_seq INTEGER,          -- of runs and sessions: they are deleted together
    amount_max  INTEGER NOT NULL, -- the limit last told; money is counted in billionths
    raised      INTEGER NOT NULL, -- what people have added to it
    reserved    INTEGER NOT NULL,
    settled     INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX {T}_budgets_by_subject ON {T}_budgets (subject, account);
CREATE INDEX {T}_budgets_by_user ON {T}_budgets (user_id, account) WHERE user_id IS NOT NULL;
CREATE INDEX {T}_budgets_by_session ON {T}_budgets (session_seq) WHERE session_seq IS NOT NULL;
CREATE INDEX {T}_budgets_by_owner ON {T}_budgets (owner, account);
CREATE INDEX {T}_budgets_by_scope ON {T}_budgets (per, account) WHERE per <> 'run'; -- most are of runs
CREATE INDEX {T}_budgets_ended ON {T}_budgets (ends_at) WHERE ends_at IS NOT NULL;

-- What processes may use of what a model server takes in a window, and who waits for more. Rows go as their time passes.
CREATE TABLE {T}_rates (
    rate         TEXT NOT NULL,    -- whose limit; the server's key cannot be read from it
    holder       TEXT NOT NULL,    -- the process
    counts_until INTEGER NOT NULL,
    waits_since  INTEGER NOT NULL, -- 0 for what it has
    requests     INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    PRIMARY KEY (rate, holder, counts_until, waits_since)
) STRICT, WITHOUT ROWID;
CREATE INDEX {T}_rates_until ON {T}_rates (counts_until);

-- How many runs and sessions there are, changed in the transaction that changes them. A row without anything to count
-- may be absent.
CREATE TABLE {T}_counts (
    scope             INTEGER NOT NULL, -- 0 all, 1 of a component, 2 of a user, 3 of a component for a user, 4 of a batch
    component_id      TEXT NOT NULL,    -- empty where the scope has none; the number of a batch
    user_id           TEXT NOT NULL,    -- the same
    pending           INTEGER NOT NULL, -- runs, by status
    running           INTEGER NOT NULL,
    paused            INTEGER NOT NULL,
    completed         INTEGER NOT NULL,
    cancelled         INTEGER NOT NULL,
    error             INTEGER NOT NULL,
    workflow_sessions INTEGER NOT NULL, -- sessions, by kind
    agent_sessions    INTEGER NOT NULL,
    team_sessions     INTEGER NOT NULL,
    PRIMARY KEY (scope, component_id, user_id)
) STRICT, WITHOUT ROWID;
INSERT INTO {T}_counts
    WITH counted AS (
        SELECT workflow_id AS component, user_id AS user,
               sum(status = 0) AS pending, sum(status = 1) AS running, sum(status = 2) AS paused,
               sum(status = 3) AS completed, sum(status = 4) AS cancelled, sum(status = 5) AS error,
               0 AS workflows, 0 AS agents, 0 AS teams
        FROM {T}_runs GROUP BY workflow_id, user_id
        UNION ALL
        SELECT component_id, user_id, 0, 0, 0, 0, 0, 0, sum(kind = 0), sum(kind = 1), sum(kind = 2)
        FROM {T} GROUP BY component_id, user_id
    ),
    scoped AS (
        SELECT 0 AS scope, '' AS of_component, '' AS of_user, * FROM counted
        UNION ALL SELECT 1, component, '', * FROM counted WHERE component IS NOT NULL
        UNION ALL SELECT 2, '', user, * FROM counted WHERE user IS NOT NULL
        UNION ALL SELECT 3, component, user, * FROM counted WHERE component IS NOT NULL AND user IS NOT NULL
    )
    SELECT scope, of_component, of_user, sum(pending), sum(running), sum(paused), sum(completed), sum(cancelled),
           sum(error), sum(workflows), sum(agents), sum(teams)
    FROM scoped GROUP BY scope, of_component, of_user;

-- When runs begin. `is_behind` 3: it has not been let in under its limit. A run that was let in has a place until it has
-- ended or is PAUSED.
ALTER TABLE {T}_runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {T}_runs ADD COLUMN limit_key TEXT;
ALTER TABLE {T}_runs ADD COLUMN limit_max INTEGER;
DROP INDEX {T}_runs_claimable;
CREATE INDEX {T}_runs_claimable ON {T}_runs (workflow_id, due_at, priority DESC)
    WHERE worker_seq IS NULL AND status < 2 AND is_behind = 0;
CREATE INDEX {T}_runs_awaiting ON {T}_runs (workflow_id, limit_key, priority DESC) WHERE is_behind = 3 AND status < 2;
CREATE INDEX {T}_runs_placed ON {T}_runs (limit_key) WHERE limit_key IS NOT NULL AND is_behind = 0 AND status < 2;

-- Batches. The runs that are a batch's items say so in their rows, until others take their places; those are few of all, so
-- others are in no index for it.
CREATE TABLE {T}_batches (
    seq          INTEGER PRIMARY KEY,
    batch_id     TEXT NOT NULL UNIQUE,
    workflow_id  TEXT NOT NULL,
    user_id      TEXT,
    items        INTEGER, -- how many; null while more may come
    cancelled_at INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    text         TEXT NOT NULL -- JSON
) STRICT;
CREATE INDEX {T}_batches_by_workflow ON {T}_batches (workflow_id);
CREATE INDEX {T}_batches_by_user ON {T}_batches (user_id) WHERE user_id IS NOT NULL;
ALTER TABLE {T}_runs ADD COLUMN batch_seq INTEGER;
ALTER TABLE {T}_runs ADD COLUMN batch_item INTEGER;
CREATE UNIQUE INDEX {T}_runs_by_batch ON {T}_runs (batch_seq, batch_item) WHERE batch_seq IS NOT NULL;

-- Schedules. `seq` is the order in which they were created.
CREATE TABLE {T}_schedules (
    seq         INTEGER PRIMARY KEY,
    schedule_id TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    user_id     TEXT,
    next_due    INTEGER, -- null: it is paused
    last_due    INTEGER,
    last_run    TEXT,
    runs        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    text        TEXT NOT NULL, -- JSON
    source      TEXT -- what declares it; null: somebody made it
) STRICT;
CREATE UNIQUE INDEX {T}_schedules_by_name ON {T}_schedules
    (name, coalesce(user_id, ''), iif(source IS NULL, '', workflow_id));
CREATE INDEX {T}_schedules_due ON {T}_schedules (workflow_id, next_due) WHERE next_due IS NOT NULL;
CREATE INDEX {T}_schedules_by_workflow ON {T}_schedules (workflow_id);
CREATE INDEX {T}_schedules_by_user ON {T}_schedules (user_id) WHERE user_id IS NOT NULL;

-- The last times of each schedule that were taken, and what came of them.
CREATE TABLE {T}_schedule_ticks (
    schedule_seq INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    outcome      INTEGER NOT NULL, -- 0 a run, 1 a run that somebody asked for, 2 skipped, 3 missed, 4 failed
    run_id       TEXT,
    note         TEXT,
    PRIMARY KEY (schedule_seq, due_at)
) STRICT, WITHOUT ROWID;

DROP VIEW chk_tick{V};
CREATE VIEW chk_tick{V} (schedule_id, due_at, run_id) AS
    SELECT s.schedule_id, t.due_at, t.run_id FROM {T}_schedule_ticks t JOIN {T}_schedules s ON s.seq = t.schedule_seq;

-- Who deletes runs that have ended, and how much was deleted, for the whole set (an empty scope) and for workflows.
CREATE TABLE {T}_retention (
    scope  TEXT PRIMARY KEY, -- a workflow's id, or nothing
    worker TEXT,             -- who had the last turn
    until  INTEGER NOT NULL, -- till when nobody else gets one
    runs   INTEGER NOT NULL,
    bytes  INTEGER NOT NULL,
    at     INTEGER NOT NULL  -- of the last turn
) STRICT, WITHOUT ROWID;

-- Runs that were deleted, while {T}_run_events still has some of their logs.
CREATE TABLE {T}_remains (
    run_seq INTEGER PRIMARY KEY
) STRICT;
