-- The subset of SQL that PostgreSQL, CockroachDB, YugabyteDB and SQLite 3.35+ share.
CREATE TABLE IF NOT EXISTS world (
  world_id   TEXT PRIMARY KEY,
  epoch      BIGINT NOT NULL DEFAULT 0,    -- generation: +1 with every claim, never back
  commit_seq BIGINT NOT NULL DEFAULT 0,    -- +1 with every fenced commit, over all generations
  ckpt_seq   BIGINT NOT NULL DEFAULT 0     -- commit_seq that the checkpoint covers which the next start begins with
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
  name     TEXT,                           -- an operator's; NULL: made by itself. Before data, or it is read past megabytes
  made_ms  BIGINT,                         -- when, since 1970; NULL: by an older build
  data     BLOB NOT NULL,
  PRIMARY KEY (world_id, seq)
);
CREATE TABLE IF NOT EXISTS channel (       -- a world's messages to and from another: the numbers of the last ones
  world_id TEXT NOT NULL,
  peer     TEXT NOT NULL,
  sent     BIGINT NOT NULL,
  taken    BIGINT NOT NULL,
  PRIMARY KEY (world_id, peer)
);
CREATE TABLE IF NOT EXISTS outbox (        -- sent, and not known to have arrived
  world_id TEXT NOT NULL,
  peer     TEXT NOT NULL,
  number   BIGINT NOT NULL,
  data     BLOB NOT NULL,
  PRIMARY KEY (world_id, peer, number)
);
CREATE TABLE IF NOT EXISTS inbox (         -- taken, and not done with
  world_id TEXT NOT NULL,
  peer     TEXT NOT NULL,
  number   BIGINT NOT NULL,
  data     BLOB NOT NULL,
  PRIMARY KEY (world_id, peer, number)
);
CREATE TABLE IF NOT EXISTS script (
  script_id    TEXT PRIMARY KEY,
  last_version BIGINT NOT NULL,            -- the highest number that was ever given; never back
  active       BIGINT                      -- the version that worlds run; NULL: none
);
CREATE TABLE IF NOT EXISTS artifact (
  script_id TEXT NOT NULL,
  version   BIGINT NOT NULL,
  source    TEXT NOT NULL,                 -- digest of the wasm source, 64 hexadecimal digits
  manifest  TEXT NOT NULL,
  pinned    INTEGER NOT NULL DEFAULT 0,    -- 1: an operator wants it kept
  PRIMARY KEY (script_id, version)
);
