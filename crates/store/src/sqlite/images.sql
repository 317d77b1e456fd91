-- Images made from snapshots and from other images.
ALTER TABLE images ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN source_snapshot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN source_image_id TEXT NOT NULL DEFAULT '';
CREATE INDEX images_source_image ON images (source_image_id) WHERE source_image_id != '';

-- Disks that instances made from an image have; the first is the system disk.
CREATE TABLE image_disks (
    image_id TEXT NOT NULL REFERENCES images (image_id),
    position INTEGER NOT NULL,
    snapshot_id TEXT NOT NULL,
    size_gib INTEGER NOT NULL,
    PRIMARY KEY (image_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_disks_snapshot ON image_disks (snapshot_id) WHERE snapshot_id != '';
