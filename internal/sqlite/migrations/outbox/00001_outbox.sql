-- Times are nanoseconds since 1970 in UTC, 0 where there is none; charges are
-- millionths of a unit. States are numbers: 0 failed, 1 loaded, 2 pending,
-- 3 queued, 4 rejected, 5 held, 6 dropped, 7 waiting, 8 accepted.
-- Decisions are: 0 none, 1 limit, 2 hold, 3 drop, 4 set,
-- 5 release, 6 not tracked, 7 at service.

-- +goose Up
PRAGMA application_id = 0x414d4f31;

CREATE TABLE resources (
    resource_id INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE
) STRICT;

-- The texts of the rates that have charged jobs.
CREATE TABLE rates (
    rate_id INTEGER PRIMARY KEY,
    text    TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE entries (
    entry_id         INTEGER PRIMARY KEY,
    -- The identity: resource, usage type, record id, and key time (0 for
    -- adjustments).
    resource_id      INTEGER NOT NULL REFERENCES resources,
    usage_type       INTEGER NOT NULL,
    local_record_id  TEXT NOT NULL,
    key_time         INTEGER NOT NULL,
    state            INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),
    reason           TEXT NOT NULL DEFAULT '',
    revision         INTEGER NOT NULL,
    digest           BLOB NOT NULL,
    charge           INTEGER NOT NULL,
    attempts         INTEGER NOT NULL DEFAULT 0,
    failed_record_id INTEGER NOT NULL DEFAULT 0,
    enqueued_at      INTEGER NOT NULL,
    sent_at          INTEGER NOT NULL DEFAULT 0,
    loaded_at        INTEGER NOT NULL DEFAULT 0,
    -- The content that was confirmed by what was loaded at loaded_at; NULL
    -- where that is the present one, or none.
    loaded_digest    BLOB,
    loaded_charge    INTEGER NOT NULL DEFAULT 0,
    rate_id          INTEGER NOT NULL DEFAULT 0,
    decision         INTEGER NOT NULL DEFAULT 0,
    superseded       INTEGER NOT NULL DEFAULT 0,
    waits_for        INTEGER NOT NULL DEFAULT 0,
    -- The transaction that stored the present revision: what is above the number
    -- of leaving never left. What is not pending has one above all others.
    stored           INTEGER NOT NULL DEFAULT 0,
    -- When the job ended; 0 for what is no job of the accounting.
    ended            INTEGER NOT NULL DEFAULT 0,
    UNIQUE (local_record_id, key_time, resource_id, usage_type)
) STRICT;

-- The content of an entry, apart from what changes at every step of its
-- delivery: a record's JSON, or the bytes of a job.
CREATE TABLE records (
    entry_id INTEGER PRIMARY KEY REFERENCES entries,
    place    TEXT NOT NULL,
    record   BLOB NOT NULL
) STRICT;

-- The names of jobs that are not their LocalRecordIDs.
CREATE TABLE job_names (
    name     TEXT NOT NULL,
    entry_id INTEGER NOT NULL,
    PRIMARY KEY (name, entry_id)
) STRICT, WITHOUT ROWID;

-- The contents that an entry had before, and how far each came.
CREATE TABLE revisions (
    entry_id    INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    place       TEXT NOT NULL,
    record      BLOB NOT NULL,
    rate_id     INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    enqueued_at INTEGER NOT NULL,
    sent_at     INTEGER NOT NULL,
    PRIMARY KEY (entry_id, revision)
) STRICT, WITHOUT ROWID;

-- What people, and limits, have decided: never changed, only followed by others.
CREATE TABLE decisions (
    decision_id     INTEGER PRIMARY KEY,
    local_record_id TEXT NOT NULL,
    entry_id        INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    value           TEXT NOT NULL,
    comment         TEXT NOT NULL,
    who             TEXT NOT NULL,
    at              INTEGER NOT NULL
) STRICT;
CREATE INDEX decisions_by_record ON decisions (local_record_id);

-- What is given back of jobs: a decision, by the job's first entry.
CREATE TABLE refunds (
    entry_id    INTEGER PRIMARY KEY,
    percent     TEXT NOT NULL,
    cap_seconds INTEGER NOT NULL,
    amount      TEXT NOT NULL,
    comment     TEXT NOT NULL,
    undone      INTEGER NOT NULL
) STRICT;

-- Rows of the accounting that could not be used, until they are read well or
-- dropped.
CREATE TABLE bad_rows (
    job_id     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    place      TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    PRIMARY KEY (job_id, reason)
) STRICT, WITHOUT ROWID;

-- What the last reading left out.
CREATE TABLE skips (
    account   TEXT NOT NULL,
    partition TEXT NOT NULL,
    reason    TEXT NOT NULL,
    jobs      INTEGER NOT NULL,
    seconds   INTEGER NOT NULL,
    PRIMARY KEY (account, partition, reason)
) STRICT, WITHOUT ROWID;

-- What file systems held, by the time that their records bear. A reading whose
-- records are not all stored yet is not done.
CREATE TABLE readings (
    filesystem TEXT NOT NULL,
    tick       INTEGER NOT NULL,
    uses       TEXT NOT NULL,
    done       INTEGER NOT NULL,
    PRIMARY KEY (filesystem, tick)
) STRICT, WITHOUT ROWID;

-- What is not loaded is found without passing over the millions that are.
CREATE INDEX open_entries ON entries (state) WHERE state <> 1;
CREATE INDEX waiting_entries ON entries (waits_for) WHERE waits_for <> 0;
CREATE INDEX ended_entries ON entries (ended) WHERE ended <> 0;

-- What the service had loaded before this outbox was: sent by one that is lost,
-- or by another program.
CREATE TABLE at_service (
    local_record_id TEXT NOT NULL,
    key_time        INTEGER NOT NULL,
    usage_type      INTEGER NOT NULL,
    resource        TEXT NOT NULL,
    charge          TEXT NOT NULL,
    loaded_at       INTEGER NOT NULL,
    PRIMARY KEY (local_record_id, key_time, usage_type, resource)
) STRICT, WITHOUT ROWID;

-- The cluster of the first job: jobs of another are sent only where site.yaml
-- names it.
CREATE TABLE home (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    cluster TEXT NOT NULL
) STRICT;

-- How many entries are in a state.
CREATE TABLE counts (
    resource_id INTEGER NOT NULL REFERENCES resources,
    state       INTEGER NOT NULL,
    entries     INTEGER NOT NULL,
    PRIMARY KEY (resource_id, state)
) STRICT, WITHOUT ROWID;

-- How far each source of accounting has been enqueued.
CREATE TABLE cursors (
    source TEXT PRIMARY KEY,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- stored: the newest transaction. leaving: up to which what is pending may have
-- left. met: 1 where at_service is complete. adopted: 1 where that was taken as
-- reported. request bytes: the size of a send that the service was found to want.
CREATE TABLE marks (
    name   TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO marks VALUES ('stored', 0), ('leaving', 0), ('met', 0), ('adopted', 0), ('request bytes', 0);
