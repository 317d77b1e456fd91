-- The data keys of encrypted disks, snapshots and images, wrapped by master keys.
ALTER TABLE disks ADD COLUMN kms_key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE disks ADD COLUMN data_key BLOB NOT NULL DEFAULT x'';
ALTER TABLE snapshots ADD COLUMN kms_key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE snapshots ADD COLUMN data_key BLOB NOT NULL DEFAULT x'';
ALTER TABLE images ADD COLUMN kms_key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN data_key BLOB NOT NULL DEFAULT x'';
