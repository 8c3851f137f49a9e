-- What a later version may do: programs that do not know it cannot work with
-- this schema.

-- +goose Up
SET LOCAL lock_timeout = '3s';
ALTER TABLE batches RENAME COLUMN records TO packed;
UPDATE schema_compatibility SET oldest_schema = 100;
