//! The trait, by the modules of this backend.

use super::{
    SqliteStore, disk_snapshots, disks, edge, enis, feed, hosts, images, instances, key_pairs,
    networks, pools, security_groups, snapshot, tokens,
};
use crate::*;
use async_trait::async_trait;
use tokio::sync::watch;

#[async_trait]
impl Store for SqliteStore {
    async fn create_vpc(
        &self,
        token: Option<ClientToken>,
        vpc: Planned<VpcRecord>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                networks::insert_vpc(tx, &vpc.record)?;
                tokens::keep(tx, token, vpc.answer)
            })
            .await
    }

    async fn delete_vpc(
        &self,
        vpc_id: &str,
        decide: Decide<VpcView, ()>,
    ) -> Result<(), StoreError> {
        let vpc_id = vpc_id.to_owned();
        self.writer
            .run(move |tx| {
                decide(&networks::vpc_view(tx.conn, &vpc_id)?)?;
                networks::delete_vpc(tx, &vpc_id)
            })
            .await
    }

    async fn create_vswitch(
        &self,
        token: Option<ClientToken>,
        vpc_id: &str,
        decide: Decide<VpcView, Planned<VSwitchRecord>>,
    ) -> Result<Answer, StoreError> {
        let vpc_id = vpc_id.to_owned();
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let planned = decide(&networks::vpc_view(tx.conn, &vpc_id)?)?;
                networks::insert_vswitch(tx, &planned.record)?;
                tokens::keep(tx, token, planned.answer)
            })
            .await
    }

    async fn delete_vswitch(
        &self,
        vswitch_id: &str,
        decide: Decide<VSwitchView, ()>,
    ) -> Result<(), StoreError> {
        let vswitch_id = vswitch_id.to_owned();
        self.writer
            .run(move |tx| {
                let view = networks::vswitch_view(tx.conn, &vswitch_id)?;
                decide(&view)?;
                match &view.vswitch {
                    Some(vswitch) => networks::delete_vswitch(tx, vswitch),
                    None => Ok(()),
                }
            })
            .await
    }

    async fn create_security_group(
        &self,
        token: Option<ClientToken>,
        vpc_id: &str,
        decide: Decide<VpcView, Planned<SecurityGroupRecord>>,
    ) -> Result<Answer, StoreError> {
        let vpc_id = vpc_id.to_owned();
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let planned = decide(&networks::vpc_view(tx.conn, &vpc_id)?)?;
                security_groups::insert(tx, &planned.record)?;
                tokens::keep(tx, token, planned.answer)
            })
            .await
    }

    async fn change_security_group(
        &self,
        token: Option<ClientToken>,
        group_id: &str,
        peers: Vec<String>,
        decide: Decide<GroupView, GroupPlan>,
    ) -> Result<Answer, StoreError> {
        let group_id = group_id.to_owned();
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&security_groups::view(tx.conn, &group_id, &peers)?)?;
                security_groups::apply(tx, &group_id, &plan)?;
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn delete_security_group(
        &self,
        group_id: &str,
        decide: Decide<GroupView, ()>,
    ) -> Result<(), StoreError> {
        let group_id = group_id.to_owned();
        self.writer
            .run(move |tx| {
                decide(&security_groups::view(tx.conn, &group_id, &[])?)?;
                security_groups::delete(tx, &group_id)
            })
            .await
    }

    async fn create_key_pair(&self, key_pair: KeyPairRecord) -> Result<(), StoreError> {
        self.writer.run(move |tx| key_pairs::insert(tx, &key_pair)).await
    }

    async fn delete_key_pairs(&self, names: Vec<String>) -> Result<(), StoreError> {
        self.writer.run(move |tx| key_pairs::delete(tx, &names)).await
    }

    async fn begin_image(&self, image: ImageRecord) -> Result<(), StoreError> {
        self.writer.run(move |tx| images::begin(tx, &image)).await
    }

    async fn finish_image(
        &self,
        token: Option<ClientToken>,
        image: Planned<ImageRecord>,
    ) -> Result<Answer, StoreError> {
        self.writer.run(move |tx| images::finish(tx, token, image)).await
    }

    async fn fail_unfinished_images(&self, reason: &str) -> Result<u64, StoreError> {
        let reason = reason.to_owned();
        self.writer.run(move |tx| images::fail_unfinished(tx, &reason)).await
    }

    async fn delete_image(
        &self,
        image_id: &str,
        decide: Decide<ImageView, ()>,
    ) -> Result<(), StoreError> {
        let image_id = image_id.to_owned();
        self.writer
            .run(move |tx| {
                decide(&images::view(tx.conn, &image_id)?)?;
                images::delete(tx, &image_id)
            })
            .await
    }

    async fn kept_answer(&self, token: ClientToken) -> Result<Option<Answer>, StoreError> {
        self.read(move |conn| tokens::kept(conn, Some(&token))).await
    }

    async fn create_instances(
        &self,
        token: Option<ClientToken>,
        lookup: CreateLookup,
        decide: Decide<CreateView, CreatePlan>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&instances::create_view(tx.conn, &lookup)?)?;
                instances::create(tx, &plan)?;
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn change_instances(
        &self,
        token: Option<ClientToken>,
        instance_ids: Vec<String>,
        decide: Decide<InstancesView, InstancesPlan>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&instances::instances_view(tx.conn, &instance_ids)?)?;
                for instance in &plan.update {
                    instances::update(tx, instance)?;
                }
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn change_disks(
        &self,
        token: Option<ClientToken>,
        lookup: DisksLookup,
        decide: Decide<DisksView, DisksPlan>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&disks::view(tx.conn, &lookup)?)?;
                disks::apply(tx, &plan)?;
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn change_edge(
        &self,
        token: Option<ClientToken>,
        lookup: EdgeLookup,
        decide: Decide<EdgeView, EdgePlan>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&edge::view(tx.conn, &lookup)?)?;
                edge::apply(tx, &plan)?;
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn change_enis(
        &self,
        token: Option<ClientToken>,
        lookup: EnisLookup,
        decide: Decide<EnisView, EnisPlan>,
    ) -> Result<Answer, StoreError> {
        self.writer
            .run(move |tx| {
                if let Some(answer) = tokens::kept(tx.conn, token.as_ref())? {
                    return Ok(answer);
                }
                let plan = decide(&enis::view(tx.conn, &lookup)?)?;
                enis::apply(tx, &plan)?;
                tokens::keep(tx, token, plan.answer)
            })
            .await
    }

    async fn create_snapshot_policy(&self, policy: PolicyRecord) -> Result<(), StoreError> {
        self.writer.run(move |tx| disk_snapshots::put_policy(tx, &policy)).await
    }

    async fn change_snapshot_policy(
        &self,
        policy_id: &str,
        decide: Decide<Option<PolicyRecord>, PolicyRecord>,
    ) -> Result<(), StoreError> {
        let policy_id = policy_id.to_owned();
        self.writer
            .run(move |tx| {
                let policy = decide(&disk_snapshots::policy(tx.conn, &policy_id)?)?;
                disk_snapshots::put_policy(tx, &policy)
            })
            .await
    }

    async fn delete_snapshot_policy(
        &self,
        policy_id: &str,
        decide: Decide<Option<PolicyRecord>, ()>,
    ) -> Result<(), StoreError> {
        let policy_id = policy_id.to_owned();
        self.writer
            .run(move |tx| {
                decide(&disk_snapshots::policy(tx.conn, &policy_id)?)?;
                disk_snapshots::delete_policy(tx, &policy_id)
            })
            .await
    }

    async fn register_host(&self, registration: HostRegistration) -> Result<u64, StoreError> {
        self.writer.run(move |tx| hosts::register(tx, &registration)).await
    }

    async fn renew_host_lease(
        &self,
        host_id: &str,
        session: u64,
        now_ms: i64,
        lease_until_ms: i64,
    ) -> Result<(), StoreError> {
        let host_id = host_id.to_owned();
        self.writer.run(move |tx| hosts::renew(tx, &host_id, session, now_ms, lease_until_ms)).await
    }

    async fn extend_host_leases(&self, lease_until_ms: i64) -> Result<(), StoreError> {
        self.writer.run(move |tx| hosts::extend_leases(tx, lease_until_ms)).await
    }

    async fn expire_hosts(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        self.writer.run(move |tx| hosts::expire(tx, now_ms)).await
    }

    async fn report_status(&self, report: HostReport) -> Result<u64, StoreError> {
        self.writer.run(move |tx| hosts::report(tx, &report)).await
    }

    async fn host_snapshot(&self, host_id: &str) -> Result<Option<HostSnapshot>, StoreError> {
        let host_id = host_id.to_owned();
        self.read(move |conn| snapshot::host(conn, &host_id)).await
    }

    fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.clone()
    }

    async fn changes_after(&self, revision: u64) -> Result<Changes, StoreError> {
        self.read(move |conn| feed::changes_after(conn, revision)).await
    }

    async fn compact(&self, keep: u64, tokens_before_ms: i64) -> Result<(), StoreError> {
        self.writer.run(move |tx| feed::compact(tx, keep, tokens_before_ms)).await
    }

    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        now_ms: i64,
        until_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.writer.run(move |tx| feed::acquire(tx, &name, &holder, now_ms, until_ms)).await
    }

    async fn instances(
        &self,
        filter: InstanceFilter,
        page: Page,
    ) -> Result<Listed<InstanceDetails>, StoreError> {
        self.read(move |conn| instances::list(conn, &filter, page)).await
    }

    async fn vpcs(
        &self,
        filter: VpcFilter,
        page: Page,
    ) -> Result<Listed<(VpcRecord, Vec<String>)>, StoreError> {
        self.read(move |conn| networks::list_vpcs(conn, &filter, page)).await
    }

    async fn vswitches(
        &self,
        filter: VSwitchFilter,
        page: Page,
    ) -> Result<Listed<(VSwitchRecord, u64)>, StoreError> {
        self.read(move |conn| networks::list_vswitches(conn, &filter, page)).await
    }

    async fn security_groups(
        &self,
        filter: GroupFilter,
        page: Page,
    ) -> Result<Listed<GroupSummary>, StoreError> {
        self.read(move |conn| security_groups::list(conn, &filter, page)).await
    }

    async fn security_group(&self, group_id: &str) -> Result<GroupView, StoreError> {
        let group_id = group_id.to_owned();
        self.read(move |conn| security_groups::view(conn, &group_id, &[])).await
    }

    async fn key_pairs(
        &self,
        filter: KeyPairFilter,
        page: Page,
    ) -> Result<Listed<KeyPairRecord>, StoreError> {
        self.read(move |conn| key_pairs::list(conn, &filter, page)).await
    }

    async fn images(
        &self,
        filter: ImageFilter,
        page: Page,
    ) -> Result<Listed<(ImageRecord, bool)>, StoreError> {
        self.read(move |conn| images::list(conn, &filter, page)).await
    }

    async fn disks(
        &self,
        filter: DiskFilter,
        page: Page,
    ) -> Result<Listed<DiskRecord>, StoreError> {
        self.read(move |conn| disks::list(conn, &filter, page)).await
    }

    async fn snapshots(
        &self,
        filter: SnapshotFilter,
        page: Page,
    ) -> Result<Listed<(SnapshotRecord, bool)>, StoreError> {
        self.read(move |conn| disk_snapshots::list(conn, &filter, page)).await
    }

    async fn snapshot_policies(
        &self,
        filter: PolicyFilter,
        page: Page,
    ) -> Result<Listed<(PolicyRecord, u64)>, StoreError> {
        self.read(move |conn| disk_snapshots::list_policies(conn, &filter, page)).await
    }

    async fn edge(&self, lookup: EdgeLookup) -> Result<EdgeView, StoreError> {
        self.read(move |conn| edge::view(conn, &lookup)).await
    }

    async fn route_tables(
        &self,
        filter: RouteTableFilter,
        page: Page,
    ) -> Result<Listed<(RouteTableRecord, Vec<String>)>, StoreError> {
        self.read(move |conn| edge::route_tables(conn, &filter, page)).await
    }

    async fn eips(&self, filter: EipFilter, page: Page) -> Result<Listed<EipRecord>, StoreError> {
        self.read(move |conn| edge::eips(conn, &filter, page)).await
    }

    async fn nat_gateways(
        &self,
        filter: NatGatewayFilter,
        page: Page,
    ) -> Result<Listed<NatGatewayRecord>, StoreError> {
        self.read(move |conn| edge::nat_gateways(conn, &filter, page)).await
    }

    async fn prefix_lists(
        &self,
        filter: PrefixListFilter,
        page: Page,
    ) -> Result<Listed<(PrefixListRecord, u64)>, StoreError> {
        self.read(move |conn| edge::prefix_lists(conn, &filter, page)).await
    }

    async fn enis(&self, filter: EniFilter, page: Page) -> Result<Listed<EniRecord>, StoreError> {
        self.read(move |conn| enis::list(conn, &filter, page)).await
    }

    async fn events(
        &self,
        filter: EventFilter,
        page: Page,
    ) -> Result<Listed<EventRecord>, StoreError> {
        self.read(move |conn| hosts::list_events(conn, &filter, page)).await
    }

    async fn hosts(&self) -> Result<Vec<(HostRecord, u64)>, StoreError> {
        self.read(hosts::list).await
    }

    async fn pools(&self) -> Result<Vec<(PoolRecord, u64)>, StoreError> {
        self.read(pools::list).await
    }
}
