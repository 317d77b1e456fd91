-- Network interfaces as a resource of their own, with several addresses.
CREATE TABLE new_enis (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    eni_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    vswitch_id TEXT NOT NULL REFERENCES vswitches (vswitch_id),
    zone_id TEXT NOT NULL,
    mac TEXT NOT NULL UNIQUE,
    private_ip INTEGER NOT NULL,
    is_primary INTEGER NOT NULL,
    delete_on_release INTEGER NOT NULL,
    source_dest_check INTEGER NOT NULL,
    queues INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    instance_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    attached_ms INTEGER NOT NULL,
    attachment_revision INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    reported_instance_id TEXT NOT NULL,
    reported_generation INTEGER NOT NULL,
    reported_code TEXT NOT NULL,
    reported_message TEXT NOT NULL,
    status TEXT NOT NULL
) STRICT;
-- One that was there is its instance's primary one.
INSERT INTO new_enis (seq, eni_id, revision, name, description, vpc_id, vswitch_id, zone_id, mac,
    private_ip, is_primary, delete_on_release, source_dest_check, queues, created_ms, instance_id,
    host_id, position, attached_ms, attachment_revision, generation, reported_instance_id,
    reported_generation, reported_code, reported_message, status)
SELECT enis.seq, eni_id, enis.revision, '', '', enis.vpc_id, enis.vswitch_id, enis.zone_id, mac,
    private_ip, 1, 1, 1, 0, enis.created_ms, instance_id, instances.host_id, 0, enis.created_ms,
    enis.revision, 1, instance_id, 0, '', '', 'InUse'
FROM enis JOIN instances USING (instance_id);

CREATE TABLE new_eni_groups (
    eni_id TEXT NOT NULL REFERENCES new_enis (eni_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    group_id TEXT NOT NULL REFERENCES security_groups (group_id),
    -- How many the interface has: they count as members.
    addresses INTEGER NOT NULL,
    PRIMARY KEY (eni_id, position)
) STRICT, WITHOUT ROWID;
INSERT INTO new_eni_groups SELECT eni_id, position, group_id, 1 FROM eni_groups;

-- Addresses that are taken; the one at position 0 is an interface's primary one.
CREATE TABLE eni_addresses (
    vswitch_id TEXT NOT NULL,
    address INTEGER NOT NULL,
    eni_id TEXT NOT NULL REFERENCES new_enis (eni_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    PRIMARY KEY (vswitch_id, address)
) STRICT, WITHOUT ROWID;
INSERT INTO eni_addresses SELECT vswitch_id, private_ip, eni_id, 0 FROM new_enis;

-- Groups first: to drop a table is to delete its rows, and theirs would go with them.
DROP TABLE eni_groups;
DROP TABLE enis;
ALTER TABLE new_enis RENAME TO enis;
ALTER TABLE new_eni_groups RENAME TO eni_groups;
CREATE UNIQUE INDEX enis_place ON enis (instance_id, position) WHERE instance_id != '';
CREATE INDEX enis_instance ON enis (instance_id, seq);
CREATE INDEX enis_leaving ON enis (reported_instance_id) WHERE instance_id = '';
CREATE INDEX enis_host ON enis (host_id, seq);
CREATE INDEX enis_vpc ON enis (vpc_id, seq);
CREATE INDEX enis_vswitch ON enis (vswitch_id, seq);
CREATE INDEX enis_status ON enis (status, seq);
CREATE INDEX eni_groups_group ON eni_groups (group_id, eni_id, addresses);
CREATE INDEX eni_groups_many ON eni_groups (eni_id) WHERE position = 5;
CREATE UNIQUE INDEX eni_addresses_eni ON eni_addresses (eni_id, position);
CREATE INDEX eni_addresses_address ON eni_addresses (address);

ALTER TABLE vswitches RENAME COLUMN enis TO addresses;
ALTER TABLE hosts ADD COLUMN underlay_ip TEXT NOT NULL DEFAULT '';
ALTER TABLE security_group_rules ADD COLUMN prefix_list_id TEXT NOT NULL DEFAULT '';
CREATE INDEX security_group_rules_prefix_list ON security_group_rules (prefix_list_id)
    WHERE prefix_list_id != '';
