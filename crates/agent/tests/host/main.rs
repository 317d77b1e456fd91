//! The agent against doubles of its neighbours: the controller's gRPC side, and the process protocol
//! of `ecs-vmm` and `ecs-bootimage`. Networks, disks and processes are real, so this needs root.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod access_cases;
mod bootimage_double;
mod cases;
mod controller_double;
mod disk_cases;
mod fixture;
mod nic_cases;
mod pool_cases;
mod vmm_double;
mod vmm_double_disks;
mod vmm_double_nics;

use libtest_mimic::{Arguments, Trial};
use std::path::Path;

fn main() {
    let program = std::env::args_os().next().unwrap_or_default();
    match Path::new(&program).file_name().and_then(|n| n.to_str()) {
        Some("ecs-vmm") => vmm_double::main(),
        Some("ecs-bootimage") => bootimage_double::main(),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // Each brings up a host; more at once only measure the machine.
    arguments.test_threads.get_or_insert(2);
    let trials = cases::all()
        .into_iter()
        .map(|(name, case)| {
            Trial::test(name, move || {
                let runtime = tokio::runtime::Runtime::new()?;
                runtime.block_on(case());
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
