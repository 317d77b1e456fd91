//! The embedded backend passes the suite, and keeps what it acknowledged.

#![allow(clippy::unwrap_used, clippy::panic)]

mod conformance;

use conformance::Backend;
use std::sync::Arc;
use store::{SqliteOptions, SqliteStore, Store};
use tempfile::TempDir;

struct Sqlite {
    directory: TempDir,
}

impl Backend for Sqlite {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Arc<dyn Store> {
        let path = self.directory.path().join("ecs.db");
        Arc::new(SqliteStore::open(&SqliteOptions { path, readers: 2 }).unwrap())
    }
}

conformance::suite!(Sqlite);

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ecs.db");
    drop(SqliteStore::open(&SqliteOptions { path: path.clone(), readers: 1 }).unwrap());
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 1000).unwrap();
    drop(conn);
    let error = SqliteStore::open(&SqliteOptions { path, readers: 1 }).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn lists_of_instances_use_indexes() {
    let sqlite = Sqlite::new();
    drop(sqlite.open());
    let conn = rusqlite::Connection::open(sqlite.directory.path().join("ecs.db")).unwrap();
    for column in ["status", "vpc_id", "vswitch_id", "image_id", "instance_type", "name"] {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT * FROM instances WHERE {column} = 'x' AND seq < 5
             ORDER BY seq DESC LIMIT 10"
        );
        let plan: String = conn.query_row(&sql, [], |row| row.get("detail")).unwrap();
        assert!(plan.contains("USING INDEX instances_"), "{column}: {plan}");
    }
}

/// What a database of the first version looks like.
const FIRST_VERSION: &str = include_str!("../src/sqlite/schema.sql");

#[tokio::test]
async fn a_database_of_the_first_version_keeps_its_disks_and_interfaces() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ecs.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(FIRST_VERSION).unwrap();
    conn.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO hosts VALUES ('h-1', 1, 'h', 'z', '', 4, 4, 8192, 100, 2, 1024, 60, '', '', 1,
             9, 0, 1, 0);
         INSERT INTO vpcs VALUES (1, 'vpc-1', 1, '', '', '10.0.0.0/8', 1, 1);
         INSERT INTO vswitches VALUES (1, 'vsw-1', 1, 'vpc-1', 'z', '10.0.0.0/16', '', '', 1, 2, 3,
             1, 0, 1);
         INSERT INTO instances VALUES (1, 'i-1', 1, '', '', '', 'm-1', 't', 2, 1024, 1, 'z', 'vpc-1',
             'vsw-1', '', '', x'', 1, 0, 0, '', 7, 'h-1', 1, 1, 1, 1, 1, 0, 0, 0, 0, NULL, 0, 0, '',
             '', 0, 'Pending', '');
         INSERT INTO disks VALUES
             (3, 'd-1', 1, 'i-1', 0, 'root', '', 'cloud_essd', 'PL1', 40, 'm-1', 5, 6, 'z', 1, 2,
                 'ready', '', 7),
             (4, 'd-2', 1, 'i-1', 1, '', '', 'cloud_essd', 'PL0', 20, '', 5, 6, 'z', 1, 2, '', '',
                 7);
         INSERT INTO security_groups VALUES (1, 'sg-1', 1, 'vpc-1', '', '', 0, 1, 1),
             (2, 'sg-2', 1, 'vpc-1', '', '', 0, 1, 1);
         INSERT INTO security_group_rules VALUES (1, 'sgr-1', 1, 'sg-1', 0, 'tcp', 1, 2, '',
             '10.0.0.0/8', NULL, 1, 0, '', 1);
         INSERT INTO enis VALUES (5, 'eni-1', 1, 'i-1', 'vpc-1', 'vsw-1', 'z', '00:16:3e:00:00:01',
             167772163, 1, 7);
         INSERT INTO eni_groups VALUES ('eni-1', 0, 'sg-2'), ('eni-1', 1, 'sg-1');
         UPDATE vswitches SET enis = 1;",
    )
    .unwrap();
    drop(conn);
    let store = SqliteStore::open(&SqliteOptions { path, readers: 1 }).unwrap();
    let page = store::Page::Offset { offset: 0, limit: 10 };
    let disks = store.disks(store::DiskFilter::default(), page).await.unwrap().items;
    let [data, system] = disks.as_slice() else { panic!("{disks:?}") };
    assert_eq!(
        (system.disk_id.as_str(), system.size_gib, system.name.as_str()),
        ("d-1", 40, "root")
    );
    assert_eq!((system.system, system.host_id.as_str(), system.attached_ms), (true, "h-1", 7));
    assert_eq!((system.status.as_str(), system.reported.instance_id.as_str()), ("In_use", "i-1"));
    assert_eq!((data.system, data.status.as_str()), (false, "Creating"));
    assert_eq!(data.reported.instance_id, "");
    assert_eq!(system.pool_id, "pool-h-1", "it is in the host's default pool");
    let pools = store.pools().await.unwrap();
    let [(pool, 2)] = pools.as_slice() else { panic!("{pools:?}") };
    assert_eq!((pool.limit_gib, pool.provisioned_gib, pool.snapshot_bytes), (100, 60, 0));
    let spec = store.host_snapshot("h-1").await.unwrap().unwrap();
    assert_eq!(spec.disks.len(), 2);
    assert_eq!(spec.instances[0].disks[1].disk_id, "d-2");
    // The VPC has the route table that every VPC has, and its VSwitch uses it.
    let view = store.edge(store::EdgeLookup::of(["vsw-1"])).await.unwrap();
    let [network] = view.vpcs.as_slice() else { panic!("{view:?}") };
    assert_eq!(network.vpc.system_route_table_id, "vtb-1");
    let [table] = network.route_tables.as_slice() else { panic!("{network:?}") };
    assert!(table.system && table.route_table_id == "vtb-1");
    assert_eq!(network.vswitches[0].route_table_id, "vtb-1");
    let eni = &spec.instances[0].enis[0];
    assert_eq!((eni.eni_id.as_str(), eni.private_ip.to_string().as_str()), ("eni-1", "10.0.0.3"));
    assert_eq!(eni.security_group_ids, ["sg-2", "sg-1"]);
    assert!(eni.primary && eni.delete_on_release && eni.source_dest_check);
    assert_eq!((eni.host_id.as_str(), eni.status.as_str(), eni.generation), ("h-1", "InUse", 1));
    let members: Vec<_> = spec.groups.iter().map(|group| group.member_ips.len()).collect();
    assert_eq!((members, spec.groups[0].rules.len()), (vec![1, 1], 1));
    let vswitches = store.vswitches(store::VSwitchFilter::default(), page).await.unwrap();
    assert_eq!(vswitches.items[0].1, 1);
}
