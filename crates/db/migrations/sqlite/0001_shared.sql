-- What all table sets of one file share.

-- `tables:<session table>` for every table set; the value is its number, from 1.
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
