//! The trait, and what goes into and comes out of its transactions.

use crate::{
    disk_records::*, disk_transactions::*, edge_records::*, edge_transactions::*, eni_records::*,
    error::*, filters::*, network_transactions::*, pool_records::*, records::*,
    snapshot_records::*,
};
use async_trait::async_trait;
use std::{collections::BTreeSet, fmt, net::Ipv4Addr};
use tokio::sync::watch;

/// A pure function from what a transaction has read to what it shall write. It may be called more
/// than once.
pub type Decide<V, P> = Box<dyn Fn(&V) -> Result<P, Refusal> + Send + Sync>;

/// Makes a repeated call give the first call's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientToken {
    /// Action the token belongs to.
    pub action: String,
    /// The token.
    pub token: String,
    /// Hash of the request's parameters.
    pub request_hash: Vec<u8>,
    /// Now, milliseconds since the epoch.
    pub now_ms: i64,
}

/// Answer of a transaction that a client token may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the decision gave as answer, now or the first time.
    pub bytes: Vec<u8>,
}

/// A row to insert, and the answer to keep with it.
#[derive(Debug, Clone)]
pub struct Planned<T> {
    /// The row.
    pub record: T,
    /// The answer.
    pub answer: Vec<u8>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Skips `offset` rows.
    Offset {
        /// Rows to skip.
        offset: u64,
        /// Rows to give at most.
        limit: u32,
    },
    /// Goes on after the row an earlier page ended with.
    After {
        /// `Listed::next` of that page; none for the first.
        position: Option<i64>,
        /// Rows to give at most.
        limit: u32,
    },
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The rows.
    pub items: Vec<T>,
    /// How many match in all.
    pub total: u64,
    /// Where the next page starts; none at the end.
    pub next: Option<i64>,
}

/// An image and its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// None if there is no such image.
    pub image: Option<ImageRecord>,
    /// Instances made from it, at most ten of them.
    pub used_by: Vec<String>,
    /// Copies of it that are still being made.
    pub copies: Vec<String>,
}

/// What is needed to create instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateLookup {
    /// Image to read, with the snapshots of its data disks; empty: see `image_family`.
    pub image_id: String,
    /// Family whose newest available image to read.
    pub image_family: String,
    /// VSwitches to read; the first is that of primary interfaces.
    pub vswitch_ids: Vec<String>,
    /// Groups to read.
    pub security_group_ids: Vec<String>,
    /// Interfaces to read, with their groups.
    pub eni_ids: Vec<String>,
    /// Key pair to read; empty: none.
    pub key_pair_name: String,
    /// Snapshots to read.
    pub snapshot_ids: Vec<String>,
    /// Read which public addresses are taken.
    pub public_addresses: bool,
}

/// What a decision about new instances sees.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// The image, if it exists.
    pub image: Option<ImageRecord>,
    /// Those of the VSwitches that exist.
    pub vswitches: Vec<VSwitchRoom>,
    /// Those of the groups that exist, also those of the interfaces.
    pub security_groups: Vec<GroupUse>,
    /// Those of the interfaces that exist.
    pub enis: Vec<EniRecord>,
    /// The key pair, if asked for and existing.
    pub key_pair: Option<KeyPairRecord>,
    /// Those of the snapshots that exist, also those of the image's data disks.
    pub snapshots: Vec<SnapshotRecord>,
    /// Every host, so that a refusal can name what is wrong with each.
    pub hosts: Vec<HostRecord>,
    /// Public addresses that are taken, if asked for.
    pub public_addresses: BTreeSet<Ipv4Addr>,
}

/// One instance to make.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// The instance, placed; its claim is taken if `claimed`.
    pub instance: InstanceRecord,
    /// Its disks.
    pub disks: Vec<DiskRecord>,
    /// Its interfaces.
    pub enis: Vec<NewEni>,
    /// Whole new records of interfaces in the view that it gets.
    pub attach: Vec<EniRecord>,
}

/// Instances to make.
#[derive(Debug, Clone, Default)]
pub struct CreatePlan {
    /// The instances.
    pub instances: Vec<NewInstance>,
    /// Static public addresses of their interfaces; the store fills in the private one.
    pub public_ips: Vec<EipRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}

/// An instance with all that is attached to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDetails {
    /// The instance.
    pub instance: InstanceRecord,
    /// In device order.
    pub disks: Vec<DiskRecord>,
    /// Primary first.
    pub enis: Vec<EniRecord>,
    /// Public addresses of its interfaces.
    pub eips: Vec<EipRecord>,
    /// Its host has lost its lease; the time it was last seen.
    pub host_lost_since_ms: Option<i64>,
}

/// What a decision about existing instances sees.
#[derive(Debug, Clone)]
pub struct InstancesView {
    /// Those of the asked ids that exist, in the order asked.
    pub instances: Vec<InstanceDetails>,
    /// Their hosts.
    pub hosts: Vec<HostRecord>,
}

/// Instances to overwrite: what is wanted and reported, names, description, image, user
/// data and protection. Claims follow `claimed`; the store sets `released_revision` when `releasing` is set.
#[derive(Debug, Clone, Default)]
pub struct InstancesPlan {
    /// Whole new records of instances in the view.
    pub update: Vec<InstanceRecord>,
    /// The answer.
    pub answer: Vec<u8>,
}

/// A host that makes itself known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRegistration {
    /// Identity, capacity and description; claims, session and lease are the store's.
    pub host: HostRecord,
    /// Now.
    pub now_ms: i64,
    /// When the lease ends if it is not renewed.
    pub lease_until_ms: i64,
}

/// What a decision about a host's report sees.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The host, as it was before this report.
    pub host: HostRecord,
    /// Every instance placed on it.
    pub instances: Vec<InstanceRecord>,
    /// Every disk that lies on it.
    pub disks: Vec<DiskRecord>,
    /// Every snapshot that lies on it.
    pub snapshots: Vec<SnapshotRecord>,
    /// Every interface that is wanted at one of its instances, or still leaves one.
    pub enis: Vec<EniRecord>,
}

/// What a report changes.
#[derive(Debug, Clone, Default)]
pub struct StatusPlan {
    /// Whole new records of instances in the view; claims follow `claimed`.
    pub update: Vec<InstanceRecord>,
    /// Whole new records of disks in the view.
    pub update_disks: Vec<DiskRecord>,
    /// Whole new records of interfaces in the view.
    pub update_enis: Vec<EniRecord>,
    /// Snapshots in the view: whether they are released, and what was reported.
    pub update_snapshots: Vec<SnapshotRecord>,
    /// Snapshots of which nothing is left.
    pub purge_snapshots: Vec<String>,
    /// Disks of which nothing is left.
    pub purge_disks: Vec<String>,
    /// Instances of which nothing is left: they go, and the interfaces and disks that are theirs when
    /// all other changes are done.
    pub purge: Vec<String>,
}

/// A report of a host.
pub struct HostReport {
    /// Who reports.
    pub host_id: String,
    /// Session of its registration.
    pub session: u64,
    /// Spec revision it has acted on.
    pub observed_revision: u64,
    /// Its events; those already known are skipped.
    pub events: Vec<EventRecord>,
    /// How its pools are; those it did not register are skipped.
    pub pools: Vec<PoolRecord>,
    /// Now.
    pub now_ms: i64,
    /// When the lease ends now: a report renews it.
    pub lease_until_ms: i64,
    /// What follows from the report.
    pub decide: Decide<HostView, StatusPlan>,
}

impl fmt::Debug for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostReport")
            .field("host_id", &self.host_id)
            .field("session", &self.session)
            .field("observed_revision", &self.observed_revision)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// Everything a host's spec is made from, of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    /// Revision of all of it.
    pub revision: u64,
    /// The host.
    pub host: HostRecord,
    /// Its instances, except those being released.
    pub instances: Vec<InstanceDetails>,
    /// Its disks, except those that are to go.
    pub disks: Vec<DiskRecord>,
    /// Its snapshots, except those that are to go.
    pub snapshots: Vec<SnapshotRecord>,
    /// VPCs of their interfaces, and of NAT gateways on this host.
    pub vpcs: Vec<VpcRecord>,
    /// VSwitches of these VPCs.
    pub vswitches: Vec<VSwitchRecord>,
    /// The same VPCs with what leads out of them.
    pub networks: Vec<VpcNetwork>,
    /// Hosts on which their NAT gateways are.
    pub gateway_hosts: Vec<HostRecord>,
    /// Prefix lists that rules of the groups name.
    pub prefix_lists: Vec<PrefixListRecord>,
    /// What other hosts have of these VPCs.
    pub remotes: Vec<RemoteEnis>,
    /// Groups of their interfaces, and the groups that rules of these name.
    pub groups: Vec<GroupMembers>,
    /// Images that disks and snapshots lie on.
    pub images: Vec<ImageRecord>,
}

/// One change of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Revision of the transaction that made it.
    pub revision: u64,
    /// `vpc vswitch route_table eip nat_gateway prefix_list security_group eni eni_status key_pair
    /// image instance instance_status disk disk_status snapshot snapshot_status snapshot_policy host
    /// event`; `..._status` when only what was reported changed, not what is wanted.
    pub kind: String,
    /// Id of the resource.
    pub id: String,
    /// Host concerned; empty if none in particular.
    pub host_id: String,
}

/// A stretch of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In order.
    pub changes: Vec<Change>,
    /// The stretch is complete up to this revision: ask on from here.
    pub through: u64,
}

/// Durable state. Every method is one transaction; what it acknowledged survives a crash.
///
/// Lists are newest first.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Makes a VPC; the store chooses its `vni`.
    async fn create_vpc(
        &self,
        token: Option<ClientToken>,
        vpc: Planned<VpcRecord>,
    ) -> Result<Answer, StoreError>;
    /// Removes a VPC if the decision agrees.
    async fn delete_vpc(&self, vpc_id: &str, decide: Decide<VpcView, ()>)
    -> Result<(), StoreError>;
    /// Makes a VSwitch in a VPC.
    async fn create_vswitch(
        &self,
        token: Option<ClientToken>,
        vpc_id: &str,
        decide: Decide<VpcView, Planned<VSwitchRecord>>,
    ) -> Result<Answer, StoreError>;
    /// Removes a VSwitch if the decision agrees.
    async fn delete_vswitch(
        &self,
        vswitch_id: &str,
        decide: Decide<VSwitchView, ()>,
    ) -> Result<(), StoreError>;
    /// Makes a security group in a VPC.
    async fn create_security_group(
        &self,
        token: Option<ClientToken>,
        vpc_id: &str,
        decide: Decide<VpcView, Planned<SecurityGroupRecord>>,
    ) -> Result<Answer, StoreError>;
    /// Changes a group and its rules. `peers` are other groups the decision wants to see.
    async fn change_security_group(
        &self,
        token: Option<ClientToken>,
        group_id: &str,
        peers: Vec<String>,
        decide: Decide<GroupView, GroupPlan>,
    ) -> Result<Answer, StoreError>;
    /// Removes a group if the decision agrees.
    async fn delete_security_group(
        &self,
        group_id: &str,
        decide: Decide<GroupView, ()>,
    ) -> Result<(), StoreError>;
    /// Keeps a public key. Fails with `AlreadyExists` if the name is taken.
    async fn create_key_pair(&self, key_pair: KeyPairRecord) -> Result<(), StoreError>;
    /// Removes key pairs by name; unknown names are skipped.
    async fn delete_key_pairs(&self, names: Vec<String>) -> Result<(), StoreError>;

    /// Records that an import has begun. Fails with `AlreadyExists` if the name is taken.
    async fn begin_image(&self, image: ImageRecord) -> Result<(), StoreError>;
    /// Records how the making of an image ended that is `Creating`; with a token, the answer is kept
    /// if it became available. Fails with `AlreadyExists` if the token has an answer already: another
    /// import gave it. Refuses with `InvalidImageId.NotFound` if the image is not `Creating` any more.
    async fn finish_image(
        &self,
        token: Option<ClientToken>,
        image: Planned<ImageRecord>,
    ) -> Result<Answer, StoreError>;
    /// Marks every import that is still `Creating` as failed: the process that ran it is gone. What
    /// is made from snapshots and other images is not an import.
    async fn fail_unfinished_images(&self, reason: &str) -> Result<u64, StoreError>;
    /// Removes an image if the decision agrees. While disks lie on it, it stays with the status
    /// `Deleted`, and goes with the last of them.
    async fn delete_image(
        &self,
        image_id: &str,
        decide: Decide<ImageView, ()>,
    ) -> Result<(), StoreError>;
    /// The answer kept for a token, if there is one.
    async fn kept_answer(&self, token: ClientToken) -> Result<Option<Answer>, StoreError>;

    /// Makes instances with their disks, interfaces and claims.
    async fn create_instances(
        &self,
        token: Option<ClientToken>,
        lookup: CreateLookup,
        decide: Decide<CreateView, CreatePlan>,
    ) -> Result<Answer, StoreError>;
    /// Changes what is wanted of instances.
    async fn change_instances(
        &self,
        token: Option<ClientToken>,
        instance_ids: Vec<String>,
        decide: Decide<InstancesView, InstancesPlan>,
    ) -> Result<Answer, StoreError>;

    /// Makes disks, and changes what is wanted of disks and of the instances they are at.
    async fn change_disks(
        &self,
        token: Option<ClientToken>,
        lookup: DisksLookup,
        decide: Decide<DisksView, DisksPlan>,
    ) -> Result<Answer, StoreError>;

    /// Changes route tables, EIPs, NAT gateways, prefix lists and attributes of VPCs and VSwitches.
    async fn change_edge(
        &self,
        token: Option<ClientToken>,
        lookup: EdgeLookup,
        decide: Decide<EdgeView, EdgePlan>,
    ) -> Result<Answer, StoreError>;

    /// Makes, changes and removes interfaces, and changes what is wanted of the instances they are
    /// at.
    async fn change_enis(
        &self,
        token: Option<ClientToken>,
        lookup: EnisLookup,
        decide: Decide<EnisView, EnisPlan>,
    ) -> Result<Answer, StoreError>;

    /// Makes a snapshot policy.
    async fn create_snapshot_policy(&self, policy: PolicyRecord) -> Result<(), StoreError>;
    /// Changes a snapshot policy as the decision says.
    async fn change_snapshot_policy(
        &self,
        policy_id: &str,
        decide: Decide<Option<PolicyRecord>, PolicyRecord>,
    ) -> Result<(), StoreError>;
    /// Takes a snapshot policy off its disks and removes it, if the decision agrees.
    async fn delete_snapshot_policy(
        &self,
        policy_id: &str,
        decide: Decide<Option<PolicyRecord>, ()>,
    ) -> Result<(), StoreError>;

    /// Makes a host known, or known again. Answers the host's new session.
    async fn register_host(&self, registration: HostRegistration) -> Result<u64, StoreError>;
    /// Renews the lease of a host.
    async fn renew_host_lease(
        &self,
        host_id: &str,
        session: u64,
        now_ms: i64,
        lease_until_ms: i64,
    ) -> Result<(), StoreError>;
    /// Gives every host that is not lost at least until `lease_until_ms` to renew its lease.
    async fn extend_host_leases(&self, lease_until_ms: i64) -> Result<(), StoreError>;
    /// Marks hosts whose lease has ended as lost, and answers their ids.
    async fn expire_hosts(&self, now_ms: i64) -> Result<Vec<String>, StoreError>;
    /// Takes in a report. Answers the highest event sequence that is stored. A resource keeps its
    /// latest 1000 events.
    async fn report_status(&self, report: HostReport) -> Result<u64, StoreError>;
    /// What a host's spec is made from.
    async fn host_snapshot(&self, host_id: &str) -> Result<Option<HostSnapshot>, StoreError>;

    /// Latest committed revision, as it grows.
    fn revisions(&self) -> watch::Receiver<u64>;
    /// Changes after a revision, in order and without gaps.
    async fn changes_after(&self, revision: u64) -> Result<Changes, StoreError>;
    /// Forgets changes, except those of the latest `keep` revisions, tokens older than a time, and
    /// all but the latest 100 000 events.
    async fn compact(&self, keep: u64, tokens_before_ms: i64) -> Result<(), StoreError>;

    /// Takes or renews a lease: work that only one controller may do. Answers its epoch, which grows
    /// with every change of holder, or none while another holds it.
    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        now_ms: i64,
        until_ms: i64,
    ) -> Result<Option<u64>, StoreError>;

    /// Lists instances.
    async fn instances(
        &self,
        filter: InstanceFilter,
        page: Page,
    ) -> Result<Listed<InstanceDetails>, StoreError>;
    /// Lists VPCs, each with the ids of its VSwitches.
    async fn vpcs(
        &self,
        filter: VpcFilter,
        page: Page,
    ) -> Result<Listed<(VpcRecord, Vec<String>)>, StoreError>;
    /// Lists VSwitches, each with the number of addresses in use.
    async fn vswitches(
        &self,
        filter: VSwitchFilter,
        page: Page,
    ) -> Result<Listed<(VSwitchRecord, u64)>, StoreError>;
    /// Lists security groups.
    async fn security_groups(
        &self,
        filter: GroupFilter,
        page: Page,
    ) -> Result<Listed<GroupSummary>, StoreError>;
    /// One security group with its rules.
    async fn security_group(&self, group_id: &str) -> Result<GroupView, StoreError>;
    /// Lists key pairs.
    async fn key_pairs(
        &self,
        filter: KeyPairFilter,
        page: Page,
    ) -> Result<Listed<KeyPairRecord>, StoreError>;
    /// Lists images, each with whether instances use it.
    async fn images(
        &self,
        filter: ImageFilter,
        page: Page,
    ) -> Result<Listed<(ImageRecord, bool)>, StoreError>;
    /// Lists disks.
    async fn disks(&self, filter: DiskFilter, page: Page)
    -> Result<Listed<DiskRecord>, StoreError>;
    /// Lists snapshots, each with whether disks were made from it.
    async fn snapshots(
        &self,
        filter: SnapshotFilter,
        page: Page,
    ) -> Result<Listed<(SnapshotRecord, bool)>, StoreError>;
    /// Lists snapshot policies, each with its number of disks.
    async fn snapshot_policies(
        &self,
        filter: PolicyFilter,
        page: Page,
    ) -> Result<Listed<(PolicyRecord, u64)>, StoreError>;
    /// What a decision about networks would see.
    async fn edge(&self, lookup: EdgeLookup) -> Result<EdgeView, StoreError>;
    /// Lists route tables, each with the VSwitches that use it.
    async fn route_tables(
        &self,
        filter: RouteTableFilter,
        page: Page,
    ) -> Result<Listed<(RouteTableRecord, Vec<String>)>, StoreError>;
    /// Lists EIPs.
    async fn eips(&self, filter: EipFilter, page: Page) -> Result<Listed<EipRecord>, StoreError>;
    /// Lists NAT gateways.
    async fn nat_gateways(
        &self,
        filter: NatGatewayFilter,
        page: Page,
    ) -> Result<Listed<NatGatewayRecord>, StoreError>;
    /// Lists prefix lists, each with the number of groups whose rules name it.
    async fn prefix_lists(
        &self,
        filter: PrefixListFilter,
        page: Page,
    ) -> Result<Listed<(PrefixListRecord, u64)>, StoreError>;
    /// Lists interfaces.
    async fn enis(&self, filter: EniFilter, page: Page) -> Result<Listed<EniRecord>, StoreError>;
    /// Lists events.
    async fn events(
        &self,
        filter: EventFilter,
        page: Page,
    ) -> Result<Listed<EventRecord>, StoreError>;
    /// Every host with its number of instances.
    async fn hosts(&self) -> Result<Vec<(HostRecord, u64)>, StoreError>;
    /// Every storage pool with its number of disks.
    async fn pools(&self) -> Result<Vec<(PoolRecord, u64)>, StoreError>;
}
