-- What cloud_auto disks have beyond their baseline.
ALTER TABLE disks ADD COLUMN provisioned_iops INTEGER NOT NULL DEFAULT 0;
ALTER TABLE disks ADD COLUMN bursting_enabled INTEGER NOT NULL DEFAULT 0;
