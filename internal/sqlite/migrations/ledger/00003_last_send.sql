-- When a site last sent something is asked often, and of every site.

-- +goose Up
ALTER TABLE sites ADD COLUMN last_accepted_at INTEGER NOT NULL DEFAULT 0;
UPDATE sites SET last_accepted_at = t.accepted_at
FROM (SELECT site_id, max(accepted_at) AS accepted_at FROM batches GROUP BY site_id) AS t
WHERE t.site_id = sites.site_id;
