//! What every backend has to do, written against the trait.

#![allow(dead_code)]

pub mod claims;
pub mod disks;
pub mod edge;
pub mod edge_model;
pub mod enis;
pub mod feed;
pub mod groups;
pub mod images;
pub mod ipv6;
pub mod lists;
pub mod pools;
pub mod records;
pub mod reports;
pub mod shared_pools;
pub mod snapshots;
pub mod tokens;

use std::sync::Arc;
use store::Store;

/// A database that tests open, close and open again.
pub trait Backend {
    /// An empty one.
    fn new() -> Self;
    /// Opens it.
    fn open(&self) -> Arc<dyn Store>;
}

/// Every case of the suite as a test.
macro_rules! suite {
    ($backend:ty) => {
        $crate::conformance::cases!($backend:
            claims::concurrent_claims_never_oversell,
            claims::a_failing_transaction_leaves_nothing,
            claims::claims_follow_the_instance,
            claims::addresses_and_macs_are_unique,
            claims::a_wanted_address_is_given_once,
            disks::claims_follow_place_and_size,
            disks::an_attachment_knows_its_revision,
            disks::a_released_disk_goes_when_its_host_says_so,
            disks::a_spec_has_the_disks_that_stay,
            disks::a_kept_disk_outlives_its_instance,
            disks::two_disks_never_share_a_place,
            disks::lists_narrow,
            edge::an_eip_is_settled_when_its_host_has_acted,
            edge::an_address_is_given_once_and_a_private_one_has_one,
            edge::what_an_instance_leaves_behind,
            edge::a_gateway_is_told_to_both_of_its_hosts,
            edge::lists_of_networks_narrow,
            edge::a_token_repeats_a_change,
            edge_model::no_address_is_at_two_hosts,
            enis::addresses_are_taken_and_freed,
            enis::concurrent_interfaces_share_no_address,
            enis::an_interface_is_seen_with_its_instance,
            enis::two_interfaces_never_share_a_place,
            enis::a_kept_interface_outlives_its_instance,
            enis::a_host_knows_what_others_have_of_its_vpcs,
            enis::lists_of_interfaces_narrow,
            enis::what_is_counted_is_what_there_is,
            groups::rules_of_every_kind_are_kept_and_changed,
            groups::members_are_counted_by_their_addresses,
            groups::rules_of_members_in_many_groups_are_counted,
            ipv6::ipv6_addresses_are_taken_and_freed,
            ipv6::ipv6_addresses_are_those_of_members,
            feed::the_feed_misses_nothing,
            feed::compaction_is_told,
            feed::refused_transactions_are_not_in_the_feed,
            feed::a_lease_has_one_holder,
            images::names_are_unique_and_attributes_change,
            images::what_is_made_here_outlives_a_restart_and_imports_do_not,
            images::an_image_deleted_while_it_is_made_stays_deleted,
            images::the_newest_image_of_a_family_makes_instances,
            images::snapshots_know_the_images_made_from_them,
            lists::pages_are_whole_and_without_repetition,
            lists::filters_narrow,
            lists::attributes_can_be_modified,
            pools::each_pool_is_claimed_by_itself,
            pools::concurrent_claims_never_oversell_a_pool,
            pools::what_snapshots_keep_is_claimed_too,
            pools::a_pool_is_as_its_host_says_and_never_forgotten_while_used,
            shared_pools::a_shared_pool_has_one_account_and_hosts_of_its_own,
            shared_pools::what_has_layers_in_common_moves_together,
            shared_pools::what_a_lost_host_was_to_remove_another_removes,
            reports::a_report_purges_and_frees,
            reports::events_are_stored_once,
            reports::a_resource_keeps_its_latest_events,
            reports::old_sessions_are_refused,
            reports::hosts_expire_and_return,
            reports::leases_can_be_extended_but_not_shortened,
            snapshots::a_snapshot_outlives_its_disk_and_keeps_its_image,
            snapshots::a_released_snapshot_goes_when_its_host_says_so,
            snapshots::one_snapshot_for_one_time_point,
            snapshots::a_decision_sees_what_hangs_together,
            snapshots::policies_come_and_go,
            snapshots::lists_of_snapshots_narrow,
            tokens::a_token_repeats_its_answer,
            tokens::concurrent_calls_with_one_token_make_one,
            tokens::an_import_does_not_take_a_token_that_has_an_answer,
            tokens::what_was_acknowledged_is_there_after_opening_again,
        );
    };
}
pub(crate) use suite;

macro_rules! cases {
    ($backend:ty: $($module:ident :: $case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let backend = <$backend as $crate::conformance::Backend>::new();
                $crate::conformance::$module::$case(&backend).await;
            }
        )*
    };
}
pub(crate) use cases;
