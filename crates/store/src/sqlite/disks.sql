-- Disks as a resource of their own: at no instance, and on no host yet.
CREATE TABLE new_disks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    disk_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    category TEXT NOT NULL,
    performance_level TEXT NOT NULL,
    size_gib INTEGER NOT NULL,
    iops INTEGER NOT NULL,
    bytes_per_second INTEGER NOT NULL,
    zone_id TEXT NOT NULL,
    image_id TEXT NOT NULL,
    source_snapshot_id TEXT NOT NULL DEFAULT '',
    system INTEGER NOT NULL,
    delete_with_instance INTEGER NOT NULL,
    delete_auto_snapshot INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL,
    host_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    attached_ms INTEGER NOT NULL,
    detached_ms INTEGER NOT NULL DEFAULT 0,
    attachment_revision INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL,
    content_epoch INTEGER NOT NULL DEFAULT 0,
    content_snapshot_id TEXT NOT NULL DEFAULT '',
    releasing INTEGER NOT NULL DEFAULT 0,
    released_revision INTEGER NOT NULL DEFAULT 0,
    reported_state TEXT NOT NULL,
    reported_code TEXT NOT NULL DEFAULT '',
    reported_message TEXT NOT NULL,
    reported_generation INTEGER NOT NULL DEFAULT 0,
    reported_instance_id TEXT NOT NULL DEFAULT '',
    reported_size_bytes INTEGER NOT NULL DEFAULT 0,
    reported_epoch INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL
) STRICT;
-- A disk that was there belongs to its instance, and its host has it as soon as it is ready.
INSERT INTO new_disks (seq, disk_id, revision, name, description, category, performance_level,
    size_gib, iops, bytes_per_second, zone_id, image_id, system, delete_with_instance, created_ms,
    host_id, instance_id, position, attached_ms, generation, reported_state, reported_message,
    reported_instance_id, status)
SELECT disks.seq, disk_id, disks.revision, disks.name, disks.description, category,
    performance_level, size_gib, iops, bytes_per_second, disks.zone_id, disks.image_id,
    position = 0, delete_with_instance, disks.created_ms, instances.host_id, instance_id, position,
    disks.created_ms, disks.generation, disks.reported_state, disks.reported_message,
    iif(disks.reported_state = 'ready', instance_id, ''),
    iif(disks.reported_state = 'ready', 'In_use', 'Creating')
FROM disks JOIN instances USING (instance_id);
DROP TABLE disks;
ALTER TABLE new_disks RENAME TO disks;
CREATE UNIQUE INDEX disks_place ON disks (instance_id, position) WHERE instance_id != '';
CREATE INDEX disks_instance ON disks (instance_id, seq);
CREATE INDEX disks_leaving ON disks (reported_instance_id) WHERE instance_id = '';
CREATE INDEX disks_host ON disks (host_id, seq);
CREATE INDEX disks_status ON disks (status, seq);
CREATE INDEX disks_image ON disks (image_id);
CREATE INDEX disks_source ON disks (source_snapshot_id);
