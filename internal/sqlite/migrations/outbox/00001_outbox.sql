-- Times are nanoseconds since 1970 in UTC, 0 where there is none; charges are
-- millionths of a unit.

-- +goose Up
PRAGMA application_id = 0x414d4f31;

CREATE TABLE resources (
    resource_id INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE entries (
    entry_id         INTEGER PRIMARY KEY,
    -- The identity: resource, usage type, record id, and key time (0 for
    -- adjustments).
    resource_id      INTEGER NOT NULL REFERENCES resources,
    usage_type       INTEGER NOT NULL,
    local_record_id  TEXT NOT NULL,
    key_time         INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('pending', 'queued', 'loaded', 'failed', 'rejected')),
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
    UNIQUE (local_record_id, key_time, resource_id, usage_type)
) STRICT;

-- The content of an entry, apart from what changes at every step of its
-- delivery.
CREATE TABLE records (
    entry_id INTEGER PRIMARY KEY REFERENCES entries,
    place    TEXT NOT NULL,
    record   TEXT NOT NULL
) STRICT;

-- What is not loaded is found without passing over the millions that are.
CREATE INDEX open_entries ON entries (state) WHERE state <> 'loaded';

-- How many entries are in a state.
CREATE TABLE counts (
    resource_id INTEGER NOT NULL REFERENCES resources,
    state       TEXT NOT NULL,
    entries     INTEGER NOT NULL,
    PRIMARY KEY (resource_id, state)
) STRICT, WITHOUT ROWID;

-- How far each source of accounting has been enqueued.
CREATE TABLE cursors (
    source TEXT PRIMARY KEY,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
