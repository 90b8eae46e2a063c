-- When a checkpoint was written. Without a value: before this migration. Builds that know only the first one write it too, by the default.
ALTER TABLE checkpoint ADD COLUMN IF NOT EXISTS made TIMESTAMPTZ;
ALTER TABLE checkpoint ALTER COLUMN made SET DEFAULT now();
