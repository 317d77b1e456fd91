-- Route tables, public addresses, NAT gateways, prefix lists.
ALTER TABLE vpcs ADD COLUMN secondary_cidrs TEXT NOT NULL DEFAULT '';
ALTER TABLE vpcs ADD COLUMN ipv6_cidr TEXT NOT NULL DEFAULT '';
ALTER TABLE vswitches ADD COLUMN ipv6_cidr TEXT NOT NULL DEFAULT '';
ALTER TABLE vswitches ADD COLUMN route_table_id TEXT NOT NULL DEFAULT '';
ALTER TABLE vpcs ADD COLUMN system_route_table_id TEXT NOT NULL DEFAULT '';

CREATE TABLE route_tables (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    route_table_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    system INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX route_tables_vpc ON route_tables (vpc_id, seq);
-- VPCs of before get the table that every VPC has.
UPDATE vpcs SET system_route_table_id = 'vtb-' || substr(vpc_id, 5);
UPDATE vswitches SET route_table_id = 'vtb-' || substr(vpc_id, 5);
INSERT INTO route_tables (route_table_id, revision, vpc_id, system, name, description, created_ms)
SELECT system_route_table_id, revision, vpc_id, 1, '', '', created_ms FROM vpcs;
CREATE INDEX vswitches_route_table ON vswitches (route_table_id);

CREATE TABLE route_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    route_entry_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    route_table_id TEXT NOT NULL REFERENCES route_tables (route_table_id),
    destination TEXT NOT NULL,
    next_hop_kind INTEGER NOT NULL,
    -- No foreign key: what it names may go, and the entry is a black hole then.
    next_hop_id TEXT NOT NULL,
    automatic INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (route_table_id, destination)
) STRICT;
CREATE INDEX route_entries_next_hop ON route_entries (next_hop_id);

CREATE TABLE nat_gateways (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    nat_gateway_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    vpc_id TEXT NOT NULL REFERENCES vpcs (vpc_id),
    vswitch_id TEXT NOT NULL REFERENCES vswitches (vswitch_id),
    zone_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    snat_table_id TEXT NOT NULL UNIQUE,
    forward_table_id TEXT NOT NULL UNIQUE,
    host_id TEXT NOT NULL,
    placed_revision INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX nat_gateways_vpc ON nat_gateways (vpc_id, seq);
CREATE INDEX nat_gateways_vswitch ON nat_gateways (vswitch_id);
CREATE INDEX nat_gateways_host ON nat_gateways (host_id);

CREATE TABLE snat_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    snat_entry_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    nat_gateway_id TEXT NOT NULL REFERENCES nat_gateways (nat_gateway_id),
    name TEXT NOT NULL,
    vswitch_id TEXT NOT NULL,
    source TEXT NOT NULL,
    snat_ips TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (nat_gateway_id, source)
) STRICT;

CREATE TABLE forward_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    forward_entry_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    nat_gateway_id TEXT NOT NULL REFERENCES nat_gateways (nat_gateway_id),
    name TEXT NOT NULL,
    external_ip INTEGER NOT NULL,
    external_from INTEGER NOT NULL,
    external_to INTEGER NOT NULL,
    internal_ip INTEGER NOT NULL,
    internal_from INTEGER NOT NULL,
    internal_to INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX forward_entries_gateway ON forward_entries (nat_gateway_id, seq);

CREATE TABLE eips (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    allocation_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    address INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    bandwidth_mbps INTEGER NOT NULL,
    charge_type TEXT NOT NULL,
    fixed INTEGER NOT NULL,
    -- EcsInstance NetworkInterface Nat, or empty.
    target_type TEXT NOT NULL,
    target_id TEXT NOT NULL,
    eni_id TEXT NOT NULL,
    private_ip INTEGER,
    vpc_id TEXT NOT NULL,
    -- The revision of the latest change of what it is associated with, and the host that had it.
    bound_revision INTEGER NOT NULL,
    leaving_host_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX eips_target ON eips (target_id);
CREATE INDEX eips_vpc ON eips (vpc_id);
-- Those that stand for nothing have no private address, and do not count.
CREATE UNIQUE INDEX eips_private ON eips (eni_id, private_ip);

CREATE TABLE prefix_lists (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    prefix_list_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    ipv6 INTEGER NOT NULL,
    max_entries INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE prefix_list_entries (
    prefix_list_id TEXT NOT NULL REFERENCES prefix_lists (prefix_list_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    cidr TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (prefix_list_id, position)
) STRICT, WITHOUT ROWID;
