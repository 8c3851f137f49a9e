-- +goose Up
PRAGMA application_id = 0x414d4f31;
