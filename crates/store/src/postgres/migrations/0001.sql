-- The subset of SQL that PostgreSQL, YugabyteDB and CockroachDB share: no triggers, sequences, advisory locks or lock clauses.
-- COLLATE "C": keys are compared as bytes. An index in a language's order breaks when the system's locale data are updated.

-- One life of a node's process. 'dead' is final, and such a row stays while a world or a role names it.
CREATE TABLE IF NOT EXISTS node (
  node_id     TEXT COLLATE "C" PRIMARY KEY,
  name        TEXT NOT NULL,
  address     TEXT NOT NULL,
  build       TEXT NOT NULL,
  worlds_max  BIGINT NOT NULL,
  capacity    DOUBLE PRECISION NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('up', 'draining', 'dead')),
  lease_until TIMESTAMPTZ NOT NULL,          -- by the database's clock
  started_at  TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
  dead_at     TIMESTAMPTZ
);

-- The fence. Every commit writes its world's row, so what others write about a world is in `placement`.
CREATE TABLE IF NOT EXISTS world (
  world_id   TEXT COLLATE "C" PRIMARY KEY,
  owner      TEXT COLLATE "C",               -- a node_id; NULL: nobody
  epoch      BIGINT NOT NULL DEFAULT 0,      -- generation: +1 with every claim, never back
  commit_seq BIGINT NOT NULL DEFAULT 0,      -- +1 with every fenced commit, over all generations
  ckpt_seq   BIGINT NOT NULL DEFAULT 0       -- commit_seq that the checkpoint covers which the next start begins with
);
CREATE INDEX IF NOT EXISTS world_owner ON world (owner);

CREATE TABLE IF NOT EXISTS placement (
  world_id TEXT COLLATE "C" PRIMARY KEY,
  target   TEXT,                             -- a node's name
  pinned   BOOLEAN NOT NULL DEFAULT FALSE,
  load     DOUBLE PRECISION NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS world_kv (
  world_id TEXT COLLATE "C" NOT NULL,
  ns       TEXT COLLATE "C" NOT NULL,
  k        TEXT COLLATE "C" NOT NULL,        -- as `text.rs` writes it: a zero character is not text here
  v        BYTEA NOT NULL,
  seq      BIGINT NOT NULL,                  -- commit_seq of the last write
  PRIMARY KEY (world_id, ns, k)
);

CREATE TABLE IF NOT EXISTS channel (
  world_id TEXT COLLATE "C" NOT NULL,
  peer     TEXT COLLATE "C" NOT NULL,
  sent     BIGINT NOT NULL,
  taken    BIGINT NOT NULL,
  PRIMARY KEY (world_id, peer)
);
CREATE TABLE IF NOT EXISTS outbox (
  world_id TEXT COLLATE "C" NOT NULL,
  peer     TEXT COLLATE "C" NOT NULL,
  number   BIGINT NOT NULL,
  data     BYTEA NOT NULL,
  PRIMARY KEY (world_id, peer, number)
);
CREATE TABLE IF NOT EXISTS inbox (
  world_id TEXT COLLATE "C" NOT NULL,
  peer     TEXT COLLATE "C" NOT NULL,
  number   BIGINT NOT NULL,
  data     BYTEA NOT NULL,
  PRIMARY KEY (world_id, peer, number)
);

CREATE TABLE IF NOT EXISTS checkpoint (
  world_id TEXT COLLATE "C" NOT NULL,
  seq      BIGINT NOT NULL,
  name     TEXT,                             -- an operator's; NULL: made by itself
  size     BIGINT NOT NULL,
  parts    BIGINT NOT NULL,
  PRIMARY KEY (world_id, seq)
);
CREATE TABLE IF NOT EXISTS checkpoint_part (
  world_id TEXT COLLATE "C" NOT NULL,
  seq      BIGINT NOT NULL,
  part     BIGINT NOT NULL,
  data     BYTEA NOT NULL,
  PRIMARY KEY (world_id, seq, part)
);

CREATE TABLE IF NOT EXISTS script (
  script_id    TEXT COLLATE "C" PRIMARY KEY,
  last_version BIGINT NOT NULL,              -- the highest number that was ever given; never back
  active       BIGINT                        -- the version that worlds run; NULL: none
);
CREATE TABLE IF NOT EXISTS artifact (
  script_id TEXT COLLATE "C" NOT NULL,
  version   BIGINT NOT NULL,
  source    TEXT COLLATE "C" NOT NULL,       -- digest of the wasm source, 64 hexadecimal digits
  manifest  TEXT NOT NULL,
  pinned    BOOLEAN NOT NULL DEFAULT FALSE,
  PRIMARY KEY (script_id, version)
);
CREATE TABLE IF NOT EXISTS blob (
  digest TEXT COLLATE "C" NOT NULL,
  part   BIGINT NOT NULL,
  parts  BIGINT NOT NULL,
  data   BYTEA NOT NULL,
  PRIMARY KEY (digest, part)
);

CREATE TABLE IF NOT EXISTS role (
  name   TEXT COLLATE "C" PRIMARY KEY,
  holder TEXT COLLATE "C"                    -- a node_id
);
INSERT INTO role (name, holder) VALUES ('placement', NULL) ON CONFLICT (name) DO NOTHING;

CREATE TABLE IF NOT EXISTS counter (
  name  TEXT COLLATE "C" PRIMARY KEY,
  value BIGINT NOT NULL
);
INSERT INTO counter (name, value) VALUES ('reload', 0) ON CONFLICT (name) DO NOTHING;
CREATE TABLE IF NOT EXISTS reload (
  reload_id   BIGINT PRIMARY KEY,
  script_id   TEXT COLLATE "C" NOT NULL,
  version     BIGINT NOT NULL,
  coordinator TEXT COLLATE "C" NOT NULL,
  phase       TEXT NOT NULL CHECK (phase IN ('prepare', 'activate', 'committed', 'aborted')),
  reason      TEXT NOT NULL DEFAULT '',
  ended_at    TIMESTAMPTZ
);
-- A row a script: at most one reload of it is open.
CREATE TABLE IF NOT EXISTS reload_slot (
  script_id TEXT COLLATE "C" PRIMARY KEY,
  reload_id BIGINT                           -- NULL: none is open
);
