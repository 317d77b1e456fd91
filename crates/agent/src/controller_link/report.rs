//! What the controller is told.

use crate::host::Host;
use api::host::HostStatus;

/// Everything this host has; `None` before the first pass over it, when "what is missing is gone"
/// would not be true.
pub fn compose(host: &Host, host_id: &str, session: u64) -> Option<HostStatus> {
    let applied = *host.applied.borrow();
    if applied.passes == 0 {
        return None;
    }
    Some(HostStatus {
        host_id: host_id.to_owned(),
        session,
        observed_revision: applied.revision,
        instances: host.board.all(),
        disks: host.disks.report(host.current_spec().as_deref()),
        events: host.events.pending(),
        pools: host.disks.report_pools(),
        complete: true,
        snapshots: host
            .current_spec()
            .map(|spec| host.disks.report_snapshots(&spec))
            .unwrap_or_default(),
        enis: host
            .current_spec()
            .map(|spec| host.interfaces.report(&spec, |eni| host.networks.problem(eni)))
            .unwrap_or_default(),
    })
}
