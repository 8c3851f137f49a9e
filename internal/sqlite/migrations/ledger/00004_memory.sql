-- The ledger remembers who did what.

-- +goose Up
-- What holds for the whole ledger: one row.
CREATE TABLE ledger (
    id          INTEGER PRIMARY KEY,
    policy      TEXT NOT NULL DEFAULT '', -- strict or open; '': none was chosen yet
    last_key_id INTEGER NOT NULL DEFAULT 0
);
INSERT INTO ledger (id, last_key_id) SELECT 1, coalesce(max(key_id), 0) FROM api_keys;

-- When the site was copied into another ledger, which serves it from then on; 0: it is
-- served from here.
ALTER TABLE sites ADD COLUMN moved_at INTEGER NOT NULL DEFAULT 0;

-- What was done to the ledger, beside sends. Rows are only added. site_id is 0 for what
-- is of no single site.
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    site_id  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    who      TEXT NOT NULL, -- a user of the operating system, or a key
    origin   TEXT NOT NULL, -- the machine or the address
    action   TEXT NOT NULL,
    what     TEXT NOT NULL,
    key_id   INTEGER NOT NULL, -- the key that did it, or that it is about; 0: none
    project  TEXT NOT NULL     -- the local project ID that it is about; '': none
);
CREATE INDEX events_site ON events (site_id, event_id);
