//! What the tests of `tests/` share. They use a cloud as people do, through `ecsctl`, on the lab
//! that `ECS_LAB_DIR` names; `scripts/test.sh` starts one for all of them.

pub mod cloud;
pub mod leaks;
pub mod network;
pub mod wait;

pub use cloud::{Cloud, Refusal};
pub use network::Network;
