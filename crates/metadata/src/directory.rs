//! Who is who in one VPC.

use crate::InstanceView;
use std::{net::Ipv4Addr, sync::Arc};

/// Finds the instances of one VPC.
pub trait Directory: Send + Sync + 'static {
    /// The instance that has this private address, if any.
    fn instance_by_ip(&self, address: Ipv4Addr) -> Option<Arc<InstanceView>>;
}
