//! Instances: each has one owner task that works out the next legal step from the spec, the record
//! and what runs, and does it.

pub mod boot_files;
pub mod decide;
pub mod exit;
pub mod keeper;
pub mod launch;
pub mod nic_plan;
pub mod nic_plugging;
pub mod owner;
pub mod owners;
pub mod plug;
pub mod plugging;
pub mod processes;
pub mod record;
pub mod slots;

#[cfg(test)]
mod decide_tests;
