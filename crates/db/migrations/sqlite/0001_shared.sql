-- What all table sets of one file share.

-- `tables:<session table>` for every table set; the value is its number, from 1. `worker:<outlive_workers.seq>` for every
-- worker that executes and has not been declared dead; the value is the ids of its workflows, separated by spaces. `copied`
-- in a copy that nobody has adopted; the value is when it was made, in microseconds since 1970.
CREATE TABLE outlive_meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows stay for ever: a worker that was declared dead must stay dead.
CREATE TABLE outlive_workers (
    seq           INTEGER PRIMARY KEY,
    worker_id     TEXT NOT NULL,
    session_table TEXT NOT NULL,
    good_until    INTEGER NOT NULL, -- microseconds since 1970
    is_dead       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (worker_id, session_table)
) STRICT;
CREATE INDEX outlive_workers_living ON outlive_workers (session_table) WHERE is_dead = 0;

-- API keys. Revoked keys stay, as a record of who could do what.
CREATE TABLE outlive_keys (
    key_id       TEXT PRIMARY KEY,
    prefix       TEXT NOT NULL,        -- the beginning of the key, to recognise it by
    digest       BLOB NOT NULL UNIQUE, -- SHA-256 of the key
    name         TEXT NOT NULL,
    scopes       TEXT NOT NULL,        -- separated by spaces
    user_id      TEXT,
    created_at   INTEGER NOT NULL,     -- microseconds since 1970, here and below
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT, WITHOUT ROWID;
