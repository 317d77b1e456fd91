-- Storage pools: the directories of hosts that disks lie in. They take over the hosts' claims of disk.
CREATE TABLE pools (
    pool_id TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (host_id),
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    overcommit_percent INTEGER NOT NULL,
    capacity_bytes INTEGER NOT NULL,
    available_bytes INTEGER NOT NULL,
    reserve_bytes INTEGER NOT NULL,
    limit_gib INTEGER NOT NULL,
    provisioned_gib INTEGER NOT NULL CHECK (provisioned_gib >= 0),
    snapshot_bytes INTEGER NOT NULL CHECK (snapshot_bytes >= 0),
    state INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX pools_host ON pools (host_id, name);
-- What a host of before had is its default pool; its next registration says the rest.
INSERT INTO pools (pool_id, host_id, name, path, overcommit_percent, capacity_bytes, available_bytes,
    reserve_bytes, limit_gib, provisioned_gib, snapshot_bytes, state, message)
SELECT 'pool-' || host_id, host_id, 'default', '', 100, disk_gib << 30, disk_gib << 30, 0, disk_gib,
    disk_gib_used, (SELECT coalesce(sum(changed_bytes), 0) FROM snapshots
        WHERE snapshots.host_id = hosts.host_id), 1, ''
FROM hosts;
ALTER TABLE hosts DROP COLUMN disk_gib;
ALTER TABLE hosts DROP COLUMN disk_gib_used;

ALTER TABLE disks ADD COLUMN pool_id TEXT NOT NULL DEFAULT '';
UPDATE disks SET pool_id = 'pool-' || host_id WHERE host_id != '';
CREATE INDEX disks_pool ON disks (pool_id, seq) WHERE pool_id != '';
ALTER TABLE snapshots ADD COLUMN pool_id TEXT NOT NULL DEFAULT '';
UPDATE snapshots SET pool_id = 'pool-' || host_id;
