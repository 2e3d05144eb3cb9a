-- Made by the migrations: a new table set, as they leave it. After a change of them, make it anew:
-- OUTLIVE_UPDATE_SNAPSHOTS=1 cargo test --workspace --locked --lib a_new_table_set

CREATE TABLE {T} (
    seq         INTEGER PRIMARY KEY,
    session_id  TEXT NOT NULL UNIQUE,
    version     INTEGER NOT NULL,
    kind        INTEGER NOT NULL, -- 0 workflow, 1 agent, 2 team
    user_id     TEXT,
    component_id TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    name        TEXT,
    metadata    TEXT NOT NULL, -- a JSON object
    state       TEXT NOT NULL  -- a JSON object
, lag INTEGER NOT NULL DEFAULT 0) STRICT;

CREATE INDEX {T}_by_user ON {T} (user_id) WHERE user_id IS NOT NULL;

CREATE TABLE {T}_runs (
    seq           INTEGER PRIMARY KEY,
    run_id        TEXT NOT NULL UNIQUE,
    session_seq   INTEGER NOT NULL,
    workflow_id   TEXT NOT NULL,
    status        INTEGER NOT NULL, -- 0 PENDING, 1 RUNNING, 2 PAUSED, 3 COMPLETED, 4 CANCELLED, 5 ERROR
    is_behind     INTEGER NOT NULL, -- an earlier unfinished run of the session goes first
    epoch         INTEGER NOT NULL,
    worker_seq        INTEGER,          -- outlive_workers.seq
    claims        INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    due_at        INTEGER NOT NULL, -- 0: at once
    next_index    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    progress      TEXT,
    cancel_at     INTEGER,
    cancel_reason TEXT
, user_id TEXT, priority INTEGER NOT NULL DEFAULT 0, limit_key TEXT, limit_max INTEGER, batch_seq INTEGER, batch_item INTEGER) STRICT;

CREATE INDEX {T}_runs_unfinished ON {T}_runs (session_seq, seq, worker_seq) WHERE status < 3;

CREATE INDEX {T}_runs_finished ON {T}_runs (session_seq, seq) WHERE status >= 3;

CREATE INDEX {T}_runs_to_cancel ON {T}_runs (worker_seq) WHERE cancel_at IS NOT NULL AND status < 3;

CREATE TABLE {T}_run_requests (
    seq             INTEGER PRIMARY KEY,
    workflow_name   TEXT NOT NULL,
    user_id         TEXT,
    definition      TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    idempotency_key TEXT,
    created_at      INTEGER NOT NULL,
    options         TEXT,
    input           TEXT
) STRICT;

CREATE UNIQUE INDEX {T}_run_requests_by_key ON {T}_run_requests (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE {T}_run_events (
    commit_seq  INTEGER PRIMARY KEY,
    run_seq     INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    body        TEXT NOT NULL -- lines: checksum in 8 hexadecimal digits, space, JSON
) STRICT;

CREATE UNIQUE INDEX {T}_run_events_by_run ON {T}_run_events (run_seq, first_index);

CREATE TABLE {T}_run_outputs (
    seq    INTEGER PRIMARY KEY,
    output TEXT NOT NULL
) STRICT;

CREATE TABLE {T}_run_hooks (
    seq           INTEGER PRIMARY KEY, -- the run's
    url           TEXT NOT NULL,
    events        INTEGER NOT NULL, -- 0 the last one, 1 all
    state         INTEGER NOT NULL, -- 0 open, 1 done, 2 given up
    next_index    INTEGER NOT NULL, -- nothing before this is left to send
    attempts      INTEGER NOT NULL, -- failed ones, of the event at next_index
    failing_since INTEGER NOT NULL, -- 0: it does not fail
    not_before    INTEGER NOT NULL, -- 0: at once; else the end of a lease or of a back-off
    epoch         INTEGER NOT NULL,
    deliveries    INTEGER NOT NULL  -- attempts in all
) STRICT;

CREATE INDEX {T}_run_hooks_open ON {T}_run_hooks (not_before) WHERE state = 0;

CREATE TABLE {T}_run_hook_deliveries (
    run_seq     INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    event_index INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    took_ms     INTEGER NOT NULL,
    status      INTEGER, -- of HTTP
    error       TEXT,    -- where there was no answer
    PRIMARY KEY (run_seq, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE {T}_audit (
    seq        INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    actor      TEXT,
    user_id    TEXT,
    address    TEXT,
    request_id TEXT,
    action     TEXT NOT NULL,
    target     TEXT
) STRICT;

CREATE TRIGGER {T}_audit_no_update BEFORE UPDATE ON {T}_audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER {T}_audit_no_delete BEFORE DELETE ON {T}_audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER {T}_audit_no_replace BEFORE INSERT ON {T}_audit
    WHEN EXISTS (SELECT 1 FROM {T}_audit WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE VIEW chk_entry{V} (run_id, commit_seq, epoch, event_index, json) AS
    WITH RECURSIVE line (run_seq, commit_seq, epoch, event_index, json, rest) AS (
        SELECT run_seq, commit_seq, epoch, first_index - 1, NULL, body FROM {T}_run_events
        UNION ALL
        SELECT run_seq, commit_seq, epoch, event_index + 1,
               substr(rest, 10, instr(rest, char(10)) - 10),
               substr(rest, instr(rest, char(10)) + 1)
        FROM line WHERE instr(rest, char(10)) > 0
    )
    SELECT r.run_id, l.commit_seq, l.epoch, l.event_index, iif(json_valid(l.json), l.json, NULL)
    FROM line l JOIN {T}_runs r ON r.seq = l.run_seq
    WHERE l.json IS NOT NULL;

CREATE VIEW chk_run{V} (run_id, session_id, workflow_id, status, epoch, next_index, created_at, body_sha) AS
    SELECT r.run_id, s.session_id, r.workflow_id,
           CASE r.status WHEN 0 THEN 'PENDING' WHEN 1 THEN 'RUNNING' WHEN 2 THEN 'PAUSED'
                         WHEN 3 THEN 'COMPLETED' WHEN 4 THEN 'CANCELLED' WHEN 5 THEN 'ERROR' END,
           r.epoch, r.next_index, q.created_at, q.fingerprint
    FROM {T}_runs r JOIN {T}_run_requests q ON q.seq = r.seq JOIN {T} s ON s.seq = r.session_seq;

CREATE VIEW chk_session{V} (session_id, version, state) AS
    SELECT session_id, version, state FROM {T};

CREATE VIEW chk_lease{V} (run_id, epoch, worker, from_index, to_index, from_seq, to_seq) AS
    SELECT r.run_id, e.epoch,
           (SELECT c.json ->> '$.record.claimed.worker' FROM chk_entry{V} c
            WHERE c.run_id = r.run_id AND c.json ->> '$.record.claimed.epoch' = e.epoch),
           min(e.first_index), max(e.first_index + e.count - 1), min(e.commit_seq), max(e.commit_seq)
    FROM {T}_run_events e JOIN {T}_runs r ON r.seq = e.run_seq
    GROUP BY e.run_seq, e.epoch;

CREATE INDEX {T}_by_component ON {T} (component_id) WHERE component_id IS NOT NULL;

CREATE INDEX {T}_by_kind ON {T} (kind) WHERE kind > 0;

CREATE INDEX {T}_by_change ON {T} (updated_at) WHERE updated_at <> created_at + lag;

CREATE INDEX {T}_by_name ON {T} (name) WHERE name IS NOT NULL;

CREATE INDEX {T}_runs_by_status ON {T}_runs (status) WHERE status >= 3;

CREATE INDEX {T}_runs_by_workflow ON {T}_runs (workflow_id, status) WHERE status >= 3;

CREATE INDEX {T}_runs_by_user ON {T}_runs (user_id, status) WHERE status >= 3 AND user_id IS NOT NULL;

CREATE INDEX {T}_runs_steering ON {T}_runs (session_seq) WHERE is_behind = 2 AND status = 0;

CREATE VIEW chk_journal{V} (run_id, event_index, step_key, kind, epoch, commit_seq) AS
    SELECT run_id, event_index, coalesce(json ->> '$.record.intent.key', json ->> '$.record.reserved.key'), 'started',
           epoch, commit_seq
    FROM chk_entry{V} WHERE json ->> '$.record.intent.key' IS NOT NULL
        OR (json ->> '$.record.reserved.key' IS NOT NULL AND json ->> '$.event.event' LIKE '%ModelRequestStarted')
    UNION ALL
    SELECT run_id, event_index, coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key'), 'finished',
           epoch, commit_seq
    FROM chk_entry{V} WHERE coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key') IS NOT NULL;

CREATE VIEW chk_event{V} (run_id, idx, name, json) AS
    SELECT e.run_id, e.event_index, e.json ->> '$.event.event',
           json_patch(json_object('workflow_id', r.workflow_id, 'session_id', s.session_id), e.json -> '$.event')
    FROM chk_entry{V} e JOIN {T}_runs r ON r.run_id = e.run_id JOIN {T} s ON s.seq = r.session_seq;

CREATE TABLE {T}_definitions (
    hash      TEXT PRIMARY KEY,
    first_run INTEGER NOT NULL, -- no run before this one has it; negative: from there on a run with it is looked for
    structure TEXT NOT NULL     -- JSON
) STRICT, WITHOUT ROWID;

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

CREATE INDEX {T}_budgets_by_scope ON {T}_budgets (per, account) WHERE per <> 'run';

CREATE INDEX {T}_budgets_ended ON {T}_budgets (ends_at) WHERE ends_at IS NOT NULL;

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

CREATE INDEX {T}_runs_claimable ON {T}_runs (workflow_id, due_at, priority DESC)
    WHERE worker_seq IS NULL AND status < 2 AND is_behind = 0;

CREATE INDEX {T}_runs_awaiting ON {T}_runs (workflow_id, limit_key, priority DESC) WHERE is_behind = 3 AND status < 2;

CREATE INDEX {T}_runs_placed ON {T}_runs (limit_key) WHERE limit_key IS NOT NULL AND is_behind = 0 AND status < 2;

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

CREATE UNIQUE INDEX {T}_runs_by_batch ON {T}_runs (batch_seq, batch_item) WHERE batch_seq IS NOT NULL;

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

CREATE TABLE {T}_schedule_ticks (
    schedule_seq INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    outcome      INTEGER NOT NULL, -- 0 a run, 1 a run that somebody asked for, 2 skipped, 3 missed, 4 failed
    run_id       TEXT,
    note         TEXT,
    PRIMARY KEY (schedule_seq, due_at)
) STRICT, WITHOUT ROWID;

CREATE VIEW chk_tick{V} (schedule_id, due_at, run_id) AS
    SELECT s.schedule_id, t.due_at, t.run_id FROM {T}_schedule_ticks t JOIN {T}_schedules s ON s.seq = t.schedule_seq;

CREATE TABLE {T}_retention (
    scope  TEXT PRIMARY KEY, -- a workflow's id, or nothing
    worker TEXT,             -- who had the last turn
    until  INTEGER NOT NULL, -- till when nobody else gets one
    runs   INTEGER NOT NULL,
    bytes  INTEGER NOT NULL,
    at     INTEGER NOT NULL  -- of the last turn
) STRICT, WITHOUT ROWID;

CREATE TABLE {T}_remains (
    run_seq INTEGER PRIMARY KEY
) STRICT;

