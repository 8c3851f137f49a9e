-- Old batches are moved into archives: files of their records.

-- +goose Up
-- The archive that holds the records of the batch, which are empty here then;
-- NULL: they are here.
ALTER TABLE batches ADD COLUMN archive TEXT;
-- Revisions that a correction had replaced and that only archives have now.
ALTER TABLE sites ADD COLUMN archived_revisions INTEGER NOT NULL DEFAULT 0;
-- Finds what became of the records of a batch that failed.
CREATE INDEX failed_batch ON failed_records (site_id, batch_id, ordinal);
