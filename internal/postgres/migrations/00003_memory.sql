-- The ledger remembers who did what, and has its policy. A program that does not know
-- would load by the policy that it was started with.

-- +goose Up
-- What is served waits behind this wait for a lock; it is tried again.
SET LOCAL lock_timeout = '3s';
-- What holds for the whole ledger: one row.
CREATE TABLE ledger (
    id          bigint PRIMARY KEY,
    policy      text COLLATE "C" NOT NULL DEFAULT '', -- strict or open; '': none was chosen yet
    last_key_id bigint NOT NULL DEFAULT 0
);
UPDATE schema_compatibility SET oldest_schema = 3;
COMMENT ON TABLE ledger IS 'shared';
INSERT INTO ledger (id, last_key_id) SELECT 1, coalesce(max(key_id), 0) FROM api_keys;

CREATE SEQUENCE event_ids;

-- What was done to the ledger, beside sends. Rows are only added. site_id is 0 for what
-- is of no single site.
CREATE TABLE events (
    site_id  bigint NOT NULL,
    event_id bigint NOT NULL,
    at       bigint NOT NULL,
    who      text COLLATE "C" NOT NULL, -- a user of the operating system, or a key
    origin   text COLLATE "C" NOT NULL, -- the machine or the address
    action   text COLLATE "C" NOT NULL,
    what     text COLLATE "C" NOT NULL,
    key_id   bigint NOT NULL, -- the key that did it, or that it is about; 0: none
    project  text COLLATE "C" NOT NULL, -- the local project ID that it is about; '': none
    PRIMARY KEY (site_id, event_id)
);
