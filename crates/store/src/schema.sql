-- The subset of SQL that PostgreSQL, CockroachDB, YugabyteDB and SQLite 3.35+ share.
CREATE TABLE IF NOT EXISTS world (
  world_id   TEXT PRIMARY KEY,
  epoch      BIGINT NOT NULL DEFAULT 0,    -- generation: +1 with every claim, never back
  commit_seq BIGINT NOT NULL DEFAULT 0,    -- +1 with every fenced commit, over all generations
  ckpt_seq   BIGINT NOT NULL DEFAULT 0     -- commit_seq that the newest checkpoint covers
);
CREATE TABLE IF NOT EXISTS world_kv (
  world_id TEXT NOT NULL,
  ns       TEXT NOT NULL,
  k        TEXT NOT NULL,
  v        BLOB NOT NULL,
  seq      BIGINT NOT NULL,                -- commit_seq of the last write
  PRIMARY KEY (world_id, ns, k)
);
CREATE TABLE IF NOT EXISTS world_ckpt (
  world_id TEXT NOT NULL,
  seq      BIGINT NOT NULL,
  data     BLOB NOT NULL,
  PRIMARY KEY (world_id, seq)
);
