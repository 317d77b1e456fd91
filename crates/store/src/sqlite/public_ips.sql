-- What an instance may send to the internet by a static public address, whether it has one or not.
ALTER TABLE instances ADD COLUMN internet_max_bandwidth_out INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN internet_charge_type TEXT NOT NULL DEFAULT 'PayByTraffic';
UPDATE instances SET internet_max_bandwidth_out = bandwidth_mbps, internet_charge_type = charge_type
FROM eips WHERE eips.fixed = 1 AND eips.target_id = instances.instance_id;
