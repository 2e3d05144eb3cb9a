-- One table set. {T} is the session table, {V} the suffix of its views. Times are microseconds since 1970.

CREATE TABLE {T} (
    seq         INTEGER PRIMARY KEY,
    session_id  TEXT NOT NULL UNIQUE,
    version     INTEGER NOT NULL,
    kind        INTEGER NOT NULL, -- 0 workflow, 1 agent, 2 team
    user_id     TEXT,
    workflow_id TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    name        TEXT,
    metadata    TEXT NOT NULL, -- a JSON object
    state       TEXT NOT NULL  -- a JSON object
) STRICT;
-- Rows without a user are not in the indexes by user, here and below, and cost nothing there.
CREATE INDEX {T}_by_user ON {T} (user_id) WHERE user_id IS NOT NULL;

-- What changes during a run. Rows are kept short because every commit of a run rewrites one; what never changes is in
-- {T}_run_requests under the same number. `seq` is the accept order.
CREATE TABLE {T}_runs (
    seq           INTEGER PRIMARY KEY,
    run_id        TEXT NOT NULL UNIQUE,
    session_seq   INTEGER NOT NULL,
    workflow_id   TEXT NOT NULL,
    status        INTEGER NOT NULL, -- 0 PENDING, 1 RUNNING, 2 PAUSED, 3 COMPLETED, 4 CANCELLED, 5 ERROR
    is_behind     INTEGER NOT NULL, -- an earlier unfinished run of the session goes first
    epoch         INTEGER NOT NULL,
    worker        INTEGER,          -- outlive_workers.seq
    claims        INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    due_at        INTEGER NOT NULL, -- 0: at once
    next_index    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    progress      TEXT,
    cancel_at     INTEGER,
    cancel_reason TEXT
) STRICT;
-- The runs of a session, oldest first, in two indexes so that accepting a run writes only one: the unfinished, which
-- show who is first in the session's queue and what a worker holds, and the finished.
CREATE INDEX {T}_runs_unfinished ON {T}_runs (session_seq, seq, worker) WHERE status < 3;
CREATE INDEX {T}_runs_finished ON {T}_runs (session_seq, seq) WHERE status >= 3;
-- Runs that may be claimed. One that is claimed as it is accepted never enters.
CREATE INDEX {T}_runs_claimable ON {T}_runs (workflow_id, due_at)
    WHERE worker IS NULL AND status < 2 AND is_behind = 0;
CREATE INDEX {T}_runs_by_workflow ON {T}_runs (workflow_id);
CREATE INDEX {T}_runs_to_cancel ON {T}_runs (worker) WHERE cancel_at IS NOT NULL AND status < 3;

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
CREATE INDEX {T}_run_requests_by_user ON {T}_run_requests (user_id) WHERE user_id IS NOT NULL;

-- The run log: a row is a page, what one commit appended. Pages are in commit order, so every write appends.
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

-- Where to send a run's events. Runs without a hook have no row.
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

-- The last delivery attempts of each hook.
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

-- Who was refused, and who did what. As long as the triggers are there, rows cannot be changed.
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
-- INSERT OR REPLACE would remove a row without firing the trigger above.
CREATE TRIGGER {T}_audit_no_replace BEFORE INSERT ON {T}_audit
    WHEN EXISTS (SELECT 1 FROM {T}_audit WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

-- Stable views for checking a history from outside. They may be slow.
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

-- A call or step starts with its intent and ends with its result or end.
CREATE VIEW chk_journal{V} (run_id, event_index, step_key, kind, epoch, commit_seq) AS
    SELECT run_id, event_index, json ->> '$.record.intent.key', 'started', epoch, commit_seq
    FROM chk_entry{V} WHERE json ->> '$.record.intent.key' IS NOT NULL
    UNION ALL
    SELECT run_id, event_index, coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key'), 'finished',
           epoch, commit_seq
    FROM chk_entry{V} WHERE coalesce(json ->> '$.record.result.key', json ->> '$.record.step.key') IS NOT NULL;

CREATE VIEW chk_event{V} (run_id, idx, name, json) AS
    SELECT run_id, event_index, json ->> '$.event.event', json -> '$.event' FROM chk_entry{V};

CREATE VIEW chk_session{V} (session_id, version, state) AS
    SELECT session_id, version, state FROM {T};

-- The entries each lease wrote, first and last, by index and by commit.
CREATE VIEW chk_lease{V} (run_id, epoch, worker, from_index, to_index, from_seq, to_seq) AS
    SELECT r.run_id, e.epoch,
           (SELECT c.json ->> '$.record.claimed.worker' FROM chk_entry{V} c
            WHERE c.run_id = r.run_id AND c.json ->> '$.record.claimed.epoch' = e.epoch),
           min(e.first_index), max(e.first_index + e.count - 1), min(e.commit_seq), max(e.commit_seq)
    FROM {T}_run_events e JOIN {T}_runs r ON r.seq = e.run_seq
    GROUP BY e.run_seq, e.epoch;

CREATE VIEW chk_tick{V} (schedule_id, due_at, run_id) AS
    SELECT NULL, NULL, NULL WHERE 0;
