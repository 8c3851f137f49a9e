-- Old batches are moved into archives: files of their records. Programs that
-- know no archives work with this schema.

-- +goose Up
-- What is served waits behind this wait for a lock; it is tried again.
SET LOCAL lock_timeout = '3s';
-- In the order in which loading takes the tables.
-- Revisions that a correction had replaced and that only archives have now.
ALTER TABLE loading ADD COLUMN archived_revisions bigint NOT NULL DEFAULT 0;
-- The archive that holds the records of the batch, which are empty here then;
-- NULL: they are here.
ALTER TABLE batches ADD COLUMN archive text COLLATE "C";
-- Finds what became of the records of a batch that failed.
CREATE INDEX failed_batch ON failed_records (site_id, batch_id, ordinal);
