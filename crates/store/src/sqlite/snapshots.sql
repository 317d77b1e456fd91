-- Snapshots of disks, and policies by which they are taken.
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    disk_id TEXT NOT NULL,
    disk_size_gib INTEGER NOT NULL,
    disk_system INTEGER NOT NULL,
    category TEXT NOT NULL,
    image_id TEXT NOT NULL,
    host_id TEXT NOT NULL REFERENCES hosts (host_id),
    automatic INTEGER NOT NULL,
    point_ms INTEGER NOT NULL,
    retention_days INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    releasing INTEGER NOT NULL,
    released_revision INTEGER NOT NULL,
    reported_state TEXT NOT NULL,
    reported_code TEXT NOT NULL,
    reported_message TEXT NOT NULL,
    changed_bytes INTEGER NOT NULL,
    taken_ms INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;
CREATE INDEX snapshots_disk ON snapshots (disk_id, seq);
CREATE INDEX snapshots_host ON snapshots (host_id, seq);
CREATE INDEX snapshots_image ON snapshots (image_id);
CREATE INDEX snapshots_status ON snapshots (status, seq);
CREATE INDEX snapshots_expiry ON snapshots (expires_ms) WHERE expires_ms > 0;
-- A policy takes one snapshot of a disk for one time point.
CREATE UNIQUE INDEX snapshots_point ON snapshots (disk_id, point_ms) WHERE point_ms > 0;

CREATE TABLE snapshot_policies (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    policy_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    time_points TEXT NOT NULL,
    weekdays TEXT NOT NULL,
    retention_days INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

ALTER TABLE disks ADD COLUMN policy_id TEXT NOT NULL DEFAULT '';
-- No time point up to this one is due any more: a snapshot was taken, or the policy came later.
ALTER TABLE disks ADD COLUMN policy_point_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX disks_policy ON disks (policy_id, seq) WHERE policy_id != '';
CREATE INDEX disks_content ON disks (content_snapshot_id);
