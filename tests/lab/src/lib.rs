//! What the tests of `tests/` share. They use a cloud as people do, through `ecsctl`, on the lab
//! that `ECS_LAB_DIR` names; `scripts/test.sh` starts one for all of them.

pub mod cloud;
pub mod frozen;
pub mod grouped;
pub mod leaks;
pub mod load;
pub mod network;
pub mod prober;
pub mod screen;
mod silent;
pub mod snapshots;
pub mod wait;
pub mod world;

pub use cloud::{Cloud, Refusal};
pub use frozen::Frozen;
pub use load::Load;
pub use network::Network;
pub use screen::Screen;
pub use snapshots::Snapshots;
pub use world::World;
