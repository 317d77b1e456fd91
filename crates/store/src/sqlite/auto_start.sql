-- An instance that is to run once its disks are made anew.
ALTER TABLE instances ADD COLUMN start_when_ready INTEGER NOT NULL DEFAULT 0;
