-- Old batches are moved into archives: files of their records. Programs that
-- know no archives work with this schema.

-- +goose Up
-- The archive that holds the records of the batch, which are empty here then;
-- NULL: they are here.
ALTER TABLE batches ADD COLUMN archive text;
-- Revisions that a correction had replaced and that only archives have now.
ALTER TABLE loading ADD COLUMN archived_revisions bigint NOT NULL DEFAULT 0;
