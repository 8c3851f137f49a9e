-- When a site last sent something is asked often, and of every site.

-- +goose Up
ALTER TABLE sites ADD COLUMN last_accepted_at INTEGER NOT NULL DEFAULT 0;
UPDATE sites SET last_accepted_at = coalesce((SELECT max(accepted_at) FROM batches WHERE batches.site_id = sites.site_id), 0);
