-- Times are nanoseconds since 1970 in UTC, charges millionths of a unit, days
-- days since 1970. Every key of what belongs to a site starts with the site, and
-- is given by counters of the site, or by failed_ids: they can be distributed as
-- they are. There are no foreign keys, identity columns or triggers.

-- +goose Up
-- What every node may hold a copy of: few rows, seldom changed.
CREATE TABLE sites (
    site_id bigint PRIMARY KEY,
    name    text COLLATE "C" NOT NULL UNIQUE,
    -- A site that is being copied from another ledger is not served yet.
    served  boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE sites IS 'shared';

-- The oldest schema whose programs work with this one: a program that knows
-- fewer migrations than there are starts if it knows that many.
CREATE TABLE schema_compatibility (
    oldest_schema bigint NOT NULL
);
COMMENT ON TABLE schema_compatibility IS 'shared';
INSERT INTO schema_compatibility VALUES (1);

-- How far a site's acceptance is: its last batch, and the records in all.
CREATE TABLE acceptance (
    site_id  bigint PRIMARY KEY,
    batch_id bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- How far a site's loading is: the last batch that is loaded. Whoever loads
-- holds this row. queued = accepted - loaded - failed.
CREATE TABLE loading (
    site_id          bigint PRIMARY KEY,
    batch_id         bigint NOT NULL DEFAULT 0,
    loaded           bigint NOT NULL DEFAULT 0,
    failed           bigint NOT NULL DEFAULT 0,
    -- The charges of all records, given back or not: no sum over the site's
    -- records can overflow while this one does not.
    gross_charge     bigint NOT NULL DEFAULT 0,
    -- Times of loading never go back, so that paging by them misses nothing.
    last_loaded_at   bigint NOT NULL DEFAULT 0,
    registry_version bigint NOT NULL DEFAULT 1,
    -- The last numbers given to names and to records.
    name_id          bigint NOT NULL DEFAULT 0,
    record_id        bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

CREATE TABLE api_keys (
    site_id    bigint NOT NULL,
    key_id     bigint NOT NULL,
    hash       bytea NOT NULL,
    label      text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint,
    PRIMARY KEY (site_id, key_id)
);

CREATE TABLE resources (
    site_id     bigint NOT NULL,
    resource_id bigint NOT NULL,
    name        text COLLATE "C" NOT NULL,
    PRIMARY KEY (site_id, resource_id),
    UNIQUE (site_id, name)
);

CREATE TABLE users (
    site_id  bigint NOT NULL,
    user_id  bigint NOT NULL,
    username text COLLATE "C" NOT NULL,
    PRIMARY KEY (site_id, user_id),
    UNIQUE (site_id, username)
);

CREATE TABLE projects (
    site_id          bigint NOT NULL,
    project_id       bigint NOT NULL,
    local_project_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (site_id, project_id),
    UNIQUE (site_id, local_project_id)
);

CREATE TABLE project_users (
    site_id    bigint NOT NULL,
    project_id bigint NOT NULL,
    user_id    bigint NOT NULL,
    PRIMARY KEY (site_id, project_id, user_id)
);

CREATE TABLE allocations (
    site_id     bigint NOT NULL,
    project_id  bigint NOT NULL,
    resource_id bigint NOT NULL,
    start_time  bigint NOT NULL,
    end_time    bigint NOT NULL,
    amount      bigint NOT NULL,
    PRIMARY KEY (site_id, project_id, resource_id, start_time)
);

-- The accepted records of each send, as they came, in order of acceptance.
-- Those behind loading.batch_id are queued.
CREATE TABLE batches (
    site_id      bigint NOT NULL,
    batch_id     bigint NOT NULL,
    key_id       bigint NOT NULL,
    usage_type   smallint NOT NULL,
    accepted_at  bigint NOT NULL,
    record_count bigint NOT NULL,
    records      bytea NOT NULL, -- a zstd frame of the records, each behind its length
    -- The records could not be read back. They stay queued, set aside.
    damaged      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (site_id, batch_id)
);
ALTER TABLE batches ALTER COLUMN records SET STORAGE EXTERNAL; -- it is compressed already

-- The newest revision of each identity. key_time is 0 for adjustments, whose
-- identity has none. ordinal is the record's place in its batch, the first one
-- that brought this content.
CREATE TABLE records (
    site_id         bigint NOT NULL,
    key_time        bigint NOT NULL,
    record_id       bigint NOT NULL,
    resource_id     bigint NOT NULL,
    revision        bigint NOT NULL,
    batch_id        bigint NOT NULL,
    ordinal         bigint NOT NULL,
    project_id      bigint NOT NULL,
    user_id         bigint NOT NULL,
    usage_time      bigint NOT NULL,
    charge          bigint NOT NULL,
    loaded_at       bigint NOT NULL,
    usage_type      smallint NOT NULL,
    gives_back      boolean NOT NULL,
    local_record_id text COLLATE "C" NOT NULL,
    digest          bytea NOT NULL,
    PRIMARY KEY (site_id, resource_id, usage_type, local_record_id, key_time)
);
CREATE UNIQUE INDEX records_loaded ON records (site_id, loaded_at, record_id);
CREATE INDEX records_usage ON records (site_id, usage_time);

-- Revisions that a correction has replaced.
CREATE TABLE revisions (
    site_id   bigint NOT NULL,
    record_id bigint NOT NULL,
    revision  bigint NOT NULL,
    batch_id  bigint NOT NULL,
    ordinal   bigint NOT NULL,
    charge    bigint NOT NULL,
    loaded_at bigint NOT NULL,
    PRIMARY KEY (site_id, record_id, revision)
);

-- Failed records are cleared by their numbers, so no two sites have the same: the
-- number of another site's is unknown, and clears nothing.
CREATE SEQUENCE failed_ids;

CREATE TABLE failed_records (
    site_id         bigint NOT NULL,
    failed_id       bigint NOT NULL,
    resource_id     bigint NOT NULL,
    key_time        bigint NOT NULL,
    batch_id        bigint NOT NULL,
    ordinal         bigint NOT NULL,
    failed_at       bigint NOT NULL,
    closed_at       bigint,
    usage_type      smallint NOT NULL,
    state           smallint NOT NULL, -- 0 open, 1 cleared, 2 superseded
    local_record_id text COLLATE "C" NOT NULL,
    failure         text COLLATE "C" NOT NULL,
    record          bytea NOT NULL, -- as it was sent
    PRIMARY KEY (site_id, failed_id)
);
CREATE INDEX failed_open ON failed_records (site_id, failed_id) WHERE state = 0;
CREATE INDEX failed_open_reason ON failed_records (site_id, resource_id, failure, failed_id, failed_at) WHERE state = 0;
CREATE INDEX failed_open_identity
    ON failed_records (site_id, resource_id, usage_type, local_record_id, key_time) WHERE state = 0;

-- Roll-ups of records, moved in the transactions that move the records. Room is
-- left on their pages, so that moving a sum moves nothing else.

-- Usage by day (span 0) and by month (span 1), of which day is the first one.
CREATE TABLE usage_totals (
    site_id     bigint NOT NULL,
    span        smallint NOT NULL,
    day         bigint NOT NULL,
    resource_id bigint NOT NULL,
    project_id  bigint NOT NULL,
    user_id     bigint NOT NULL,
    usage_type  smallint NOT NULL,
    records     bigint NOT NULL,
    deducted    bigint NOT NULL,
    given_back  bigint NOT NULL,
    PRIMARY KEY (site_id, span, day, resource_id, project_id, user_id, usage_type)
) WITH (fillfactor = 60);

CREATE TABLE balances (
    site_id     bigint NOT NULL,
    project_id  bigint NOT NULL,
    resource_id bigint NOT NULL,
    records     bigint NOT NULL,
    used        bigint NOT NULL,
    given_back  bigint NOT NULL,
    PRIMARY KEY (site_id, project_id, resource_id)
) WITH (fillfactor = 50);

-- What was loaded, by hour of loading (span 1) and by transaction (span 0).
CREATE TABLE loads (
    site_id     bigint NOT NULL,
    span        smallint NOT NULL,
    loaded_at   bigint NOT NULL,
    resource_id bigint NOT NULL,
    records     bigint NOT NULL,
    charge      bigint NOT NULL, -- less what was given back
    PRIMARY KEY (site_id, span, loaded_at, resource_id)
) WITH (fillfactor = 80);

-- Vacuum. The rows of acceptance and loading change with every send and every
-- transaction of loading, in place: their pages have the room, and no column
-- that changes is indexed. Versions that a long reader has held up are cleared
-- away at once, without the exclusive lock that giving pages back takes, which
-- all senders would wait for.
ALTER TABLE acceptance SET (vacuum_truncate = false, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE loading SET (vacuum_truncate = false, autovacuum_vacuum_cost_delay = 0);
-- The large tables are vacuumed and analyzed by what loading adds, and not by a
-- tenth or a fifth of all years: the planner knows the newest times, indexes
-- alone answer for pages that are all visible, the entries of failed records
-- that were closed leave failed_open soon, and no vacuum has much to do.
ALTER TABLE batches SET (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE revisions SET (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE records SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE failed_records SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE usage_totals SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE loads SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
