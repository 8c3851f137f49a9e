-- What a next version may do: programs that know nothing of it go on.

-- +goose Up
SET LOCAL lock_timeout = '3s';
ALTER TABLE batches ADD COLUMN origin text;
ALTER TABLE loading ADD COLUMN merged bigint NOT NULL DEFAULT 0;
CREATE TABLE origins (
    site_id bigint NOT NULL,
    origin  text COLLATE "C" NOT NULL,
    PRIMARY KEY (site_id, origin)
);
