CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('revision', 0), ('vni', 0), ('mac', 0);

CREATE TABLE changes (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    host_id TEXT NOT NULL
) STRICT;
CREATE INDEX changes_revision ON changes (revision);

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE client_tokens (
    action TEXT NOT NULL,
    token TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    answer BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (action, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX client_tokens_created ON client_tokens (created_ms);

CREATE TABLE hosts (
    host_id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    hostname TEXT NOT NULL,
    zone_id TEXT NOT NULL,
    access_endpoint TEXT NOT NULL,
    vcpus INTEGER NOT NULL,
    vcpu_limit INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_gib INTEGER NOT NULL,
    vcpus_used INTEGER NOT NULL CHECK (vcpus_used >= 0),
    memory_mib_used INTEGER NOT NULL CHECK (memory_mib_used >= 0),
    disk_gib_used INTEGER NOT NULL CHECK (disk_gib_used >= 0),
    kvm TEXT NOT NULL,
    version TEXT NOT NULL,
    session INTEGER NOT NULL,
    lease_until_ms INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    observed_revision INTEGER NOT NULL
) STRICT;
CREATE INDEX hosts_zone ON hosts (zone_id);
CREATE INDEX hosts_lease ON hosts (lost, lease_until_ms);

CREATE TABLE vpcs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    vpc_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    cidr TEXT NOT NULL,
    vni INTEGER NOT NULL UNIQUE CHECK (vni BETWEEN 1 AND 16777215),
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE vswitches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    vswitch_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    zone_id TEXT NOT NULL,
    cidr TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    first_ip INTEGER NOT NULL,
    last_ip INTEGER NOT NULL,
    gateway_ip INTEGER NOT NULL,
    next_ip INTEGER NOT NULL,
    enis INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX vswitches_vpc ON vswitches (vpc_id, seq);
CREATE INDEX vswitches_zone ON vswitches (zone_id, seq);

CREATE TABLE security_groups (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    enterprise INTEGER NOT NULL,
    inner_accept INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX security_groups_vpc ON security_groups (vpc_id, seq);
CREATE INDEX security_groups_name ON security_groups (name, seq);

CREATE TABLE security_group_rules (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    rule_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    group_id TEXT NOT NULL REFERENCES security_groups (group_id) ON DELETE CASCADE,
    egress INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    port_from INTEGER NOT NULL,
    port_to INTEGER NOT NULL,
    source_ports TEXT NOT NULL,
    cidr TEXT,
    peer_group_id TEXT REFERENCES security_groups (group_id),
    priority INTEGER NOT NULL,
    drops INTEGER NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX security_group_rules_group ON security_group_rules (group_id, seq);
CREATE INDEX security_group_rules_peer ON security_group_rules (peer_group_id);

CREATE TABLE key_pairs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key_pair_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    public_key TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX key_pairs_fingerprint ON key_pairs (fingerprint);

CREATE TABLE images (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT NOT NULL,
    architecture TEXT NOT NULL,
    os_type TEXT NOT NULL,
    platform TEXT NOT NULL,
    family TEXT NOT NULL,
    format TEXT NOT NULL,
    file_bytes INTEGER NOT NULL,
    virtual_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX images_name ON images (name) WHERE status NOT IN ('CreateFailed', 'Deleted');
CREATE INDEX images_status ON images (status, seq);
CREATE INDEX images_family ON images (family, seq);

CREATE TABLE instances (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    host_name TEXT NOT NULL,
    image_id TEXT NOT NULL,
    instance_type TEXT NOT NULL,
    vcpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    nic_queues INTEGER NOT NULL,
    zone_id TEXT NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    vswitch_id TEXT NOT NULL REFERENCES vswitches (vswitch_id),
    key_pair_name TEXT NOT NULL,
    public_key TEXT NOT NULL,
    user_data BLOB NOT NULL,
    metadata_enabled INTEGER NOT NULL,
    metadata_token_required INTEGER NOT NULL,
    deletion_protection INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    host_id TEXT NOT NULL REFERENCES hosts (host_id),
    claimed INTEGER NOT NULL,
    power_on INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    power_generation INTEGER NOT NULL,
    boot_epoch INTEGER NOT NULL,
    force INTEGER NOT NULL,
    stop_charging INTEGER NOT NULL,
    releasing INTEGER NOT NULL,
    released_revision INTEGER NOT NULL,
    reported_state INTEGER,
    reported_generation INTEGER NOT NULL,
    reported_epoch INTEGER NOT NULL,
    reported_code TEXT NOT NULL,
    reported_message TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT NOT NULL
) STRICT;
CREATE INDEX instances_status ON instances (status, seq);
CREATE INDEX instances_vpc ON instances (vpc_id, seq);
CREATE INDEX instances_vswitch ON instances (vswitch_id, seq);
CREATE INDEX instances_image ON instances (image_id, seq);
CREATE INDEX instances_type ON instances (instance_type, seq);
CREATE INDEX instances_name ON instances (name, seq);
CREATE INDEX instances_key_pair ON instances (key_pair_name, seq);
CREATE INDEX instances_host ON instances (host_id, seq);

-- Tags of any resource.
CREATE TABLE tags (
    resource_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (resource_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_key ON tags (key, value, resource_id);

CREATE TABLE disks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    disk_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    instance_id TEXT NOT NULL REFERENCES instances (instance_id),
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    category TEXT NOT NULL,
    performance_level TEXT NOT NULL,
    size_gib INTEGER NOT NULL,
    image_id TEXT NOT NULL,
    iops INTEGER NOT NULL,
    bytes_per_second INTEGER NOT NULL,
    zone_id TEXT NOT NULL,
    delete_with_instance INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    reported_state TEXT NOT NULL,
    reported_message TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (instance_id, position)
) STRICT;
CREATE INDEX disks_image ON disks (image_id);

CREATE TABLE enis (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    eni_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    instance_id TEXT NOT NULL REFERENCES instances (instance_id),
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    vswitch_id TEXT NOT NULL REFERENCES vswitches (vswitch_id),
    zone_id TEXT NOT NULL,
    mac TEXT NOT NULL UNIQUE,
    private_ip INTEGER NOT NULL,
    is_primary INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (vswitch_id, private_ip)
) STRICT;
CREATE INDEX enis_instance ON enis (instance_id, seq);
CREATE INDEX enis_vpc ON enis (vpc_id, seq);
CREATE INDEX enis_ip ON enis (private_ip);

CREATE TABLE eni_groups (
    eni_id TEXT NOT NULL REFERENCES enis (eni_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    group_id TEXT NOT NULL REFERENCES security_groups (group_id),
    PRIMARY KEY (eni_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX eni_groups_group ON eni_groups (group_id, eni_id);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    host_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    resource_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    message TEXT NOT NULL,
    occurred_ms INTEGER NOT NULL,
    UNIQUE (host_id, sequence)
) STRICT;
CREATE INDEX events_resource ON events (resource_id, seq);
