-- Storage pools that several hosts name. Each host has its own path to it, and may reach it or not.
ALTER TABLE pools ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
CREATE TABLE pool_hosts (
    pool_id TEXT NOT NULL REFERENCES pools (pool_id),
    host_id TEXT NOT NULL REFERENCES hosts (host_id),
    path TEXT NOT NULL,
    state INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (pool_id, host_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX pool_hosts_host ON pool_hosts (host_id);
-- Of a shared pool: disks and snapshots with layers in common, which go from host to host together.
ALTER TABLE disks ADD COLUMN tree_id TEXT NOT NULL DEFAULT '';
ALTER TABLE disks ADD COLUMN home_epoch INTEGER NOT NULL DEFAULT 0;
CREATE INDEX disks_tree ON disks (tree_id) WHERE tree_id != '';
ALTER TABLE snapshots ADD COLUMN tree_id TEXT NOT NULL DEFAULT '';
ALTER TABLE snapshots ADD COLUMN home_epoch INTEGER NOT NULL DEFAULT 0;
CREATE INDEX snapshots_tree ON snapshots (tree_id) WHERE tree_id != '';
