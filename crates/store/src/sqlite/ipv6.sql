-- IPv6 addresses of network interfaces, as the 16 bytes they are.
CREATE TABLE eni_ipv6_addresses (
    vswitch_id TEXT NOT NULL,
    address BLOB NOT NULL,
    eni_id TEXT NOT NULL REFERENCES enis (eni_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    PRIMARY KEY (vswitch_id, address)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX eni_ipv6_addresses_eni ON eni_ipv6_addresses (eni_id, position);
CREATE INDEX eni_ipv6_addresses_address ON eni_ipv6_addresses (address);
INSERT INTO counters (name, value) VALUES ('ipv6', 0) ON CONFLICT DO NOTHING;
