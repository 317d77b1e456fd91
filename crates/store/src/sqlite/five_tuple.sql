-- Rules about some of a member's own addresses only.
ALTER TABLE security_group_rules ADD COLUMN own_cidr TEXT;
