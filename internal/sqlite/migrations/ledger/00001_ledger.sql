-- Times are nanoseconds since 1970 in UTC, charges millionths of a unit, days
-- days since 1970. Every key and index that belongs to a site starts with it.

-- +goose Up
CREATE TABLE sites (
    site_id          INTEGER PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    registry_version INTEGER NOT NULL DEFAULT 1,
    -- Where the site's records are: accepted = loaded + failed + queued.
    accepted         INTEGER NOT NULL DEFAULT 0,
    loaded           INTEGER NOT NULL DEFAULT 0,
    failed           INTEGER NOT NULL DEFAULT 0,
    queued           INTEGER NOT NULL DEFAULT 0,
    open_failed      INTEGER NOT NULL DEFAULT 0,
    -- The charges of all records, given back or not: no sum over the site's
    -- records can overflow while this one does not.
    gross_charge     INTEGER NOT NULL DEFAULT 0,
    -- Times of loading never go back, so that paging by them misses nothing. The
    -- site that has waited longest is loaded next.
    last_loaded_at   INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE api_keys (
    site_id    INTEGER NOT NULL REFERENCES sites,
    key_id     INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    PRIMARY KEY (site_id, key_id)
) WITHOUT ROWID;

CREATE TABLE resources (
    resource_id INTEGER PRIMARY KEY,
    site_id     INTEGER NOT NULL REFERENCES sites,
    name        TEXT NOT NULL,
    UNIQUE (site_id, name)
);

CREATE TABLE users (
    user_id  INTEGER PRIMARY KEY,
    site_id  INTEGER NOT NULL REFERENCES sites,
    username TEXT NOT NULL,
    UNIQUE (site_id, username)
);

CREATE TABLE projects (
    project_id       INTEGER PRIMARY KEY,
    site_id          INTEGER NOT NULL REFERENCES sites,
    local_project_id TEXT NOT NULL,
    UNIQUE (site_id, local_project_id)
);

CREATE TABLE project_users (
    site_id    INTEGER NOT NULL REFERENCES sites,
    project_id INTEGER NOT NULL,
    user_id    INTEGER NOT NULL,
    PRIMARY KEY (site_id, project_id, user_id)
) WITHOUT ROWID;

CREATE TABLE allocations (
    site_id     INTEGER NOT NULL REFERENCES sites,
    project_id  INTEGER NOT NULL,
    resource_id INTEGER NOT NULL,
    start_time  INTEGER NOT NULL,
    end_time    INTEGER NOT NULL,
    amount      INTEGER NOT NULL,
    PRIMARY KEY (site_id, project_id, resource_id, start_time)
) WITHOUT ROWID;

-- The accepted records of each send, as they came. They are kept: revisions
-- point here.
CREATE TABLE batches (
    batch_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    site_id      INTEGER NOT NULL REFERENCES sites,
    key_id       INTEGER NOT NULL,
    usage_type   INTEGER NOT NULL,
    accepted_at  INTEGER NOT NULL,
    record_count INTEGER NOT NULL,
    records      BLOB NOT NULL, -- a zstd frame of the records, each behind its length
    loaded_at    INTEGER,       -- NULL: queued
    -- 1: the records cannot be read back. They stay queued, set aside.
    damaged      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX batches_queued ON batches (site_id, batch_id) WHERE loaded_at IS NULL AND damaged = 0;

-- The newest revision of each identity. key_time is 0 for adjustments, whose
-- identity has none. ordinal is the record's place in its batch, the first one
-- that brought this content.
CREATE TABLE records (
    record_id       INTEGER PRIMARY KEY,
    site_id         INTEGER NOT NULL,
    resource_id     INTEGER NOT NULL,
    usage_type      INTEGER NOT NULL,
    local_record_id TEXT NOT NULL,
    key_time        INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    batch_id        INTEGER NOT NULL,
    ordinal         INTEGER NOT NULL,
    digest          BLOB NOT NULL,
    project_id      INTEGER NOT NULL,
    user_id         INTEGER NOT NULL,
    usage_time      INTEGER NOT NULL,
    charge          INTEGER NOT NULL,
    gives_back      INTEGER NOT NULL,
    loaded_at       INTEGER NOT NULL,
    UNIQUE (site_id, resource_id, usage_type, local_record_id, key_time)
);
CREATE INDEX records_loaded ON records (site_id, loaded_at);
CREATE INDEX records_usage ON records (site_id, usage_time);

-- Revisions that a correction has replaced.
CREATE TABLE revisions (
    site_id   INTEGER NOT NULL,
    record_id INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    batch_id  INTEGER NOT NULL,
    ordinal   INTEGER NOT NULL,
    charge    INTEGER NOT NULL,
    loaded_at INTEGER NOT NULL,
    PRIMARY KEY (site_id, record_id, revision)
) WITHOUT ROWID;

CREATE TABLE failed_records (
    failed_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    site_id         INTEGER NOT NULL,
    resource_id     INTEGER NOT NULL,
    usage_type      INTEGER NOT NULL,
    local_record_id TEXT NOT NULL,
    key_time        INTEGER NOT NULL,
    batch_id        INTEGER NOT NULL,
    ordinal         INTEGER NOT NULL,
    failure         TEXT NOT NULL,
    failed_at       INTEGER NOT NULL,
    record          BLOB NOT NULL, -- as it was sent
    state           INTEGER NOT NULL, -- 0 open, 1 cleared, 2 superseded
    closed_at       INTEGER
);
CREATE INDEX failed_open ON failed_records (site_id, failed_id) WHERE state = 0;
CREATE INDEX failed_open_reason ON failed_records (site_id, resource_id, failure, failed_id, failed_at) WHERE state = 0;
CREATE INDEX failed_open_identity
    ON failed_records (site_id, resource_id, usage_type, local_record_id, key_time) WHERE state = 0;

-- Roll-ups of records, moved in the transactions that move the records.

-- Usage by day (span 0) and by month (span 1), of which day is the first one.
CREATE TABLE usage_totals (
    site_id     INTEGER NOT NULL,
    span        INTEGER NOT NULL,
    day         INTEGER NOT NULL,
    resource_id INTEGER NOT NULL,
    project_id  INTEGER NOT NULL,
    user_id     INTEGER NOT NULL,
    usage_type  INTEGER NOT NULL,
    records     INTEGER NOT NULL,
    deducted    INTEGER NOT NULL,
    given_back  INTEGER NOT NULL,
    PRIMARY KEY (site_id, span, day, resource_id, project_id, user_id, usage_type)
) WITHOUT ROWID;

CREATE TABLE balances (
    site_id     INTEGER NOT NULL,
    project_id  INTEGER NOT NULL,
    resource_id INTEGER NOT NULL,
    records     INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    given_back  INTEGER NOT NULL,
    PRIMARY KEY (site_id, project_id, resource_id)
) WITHOUT ROWID;

-- What was loaded, by hour of loading (span 1) and by transaction (span 0).
CREATE TABLE loads (
    site_id     INTEGER NOT NULL,
    span        INTEGER NOT NULL,
    resource_id INTEGER NOT NULL,
    loaded_at   INTEGER NOT NULL,
    records     INTEGER NOT NULL,
    charge      INTEGER NOT NULL, -- less what was given back
    PRIMARY KEY (site_id, span, loaded_at, resource_id)
) WITHOUT ROWID;
