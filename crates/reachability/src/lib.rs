//! What becomes of a packet, by the rules of ECS alone.
//!
//! A plain reading of the rules, without any thought of speed: it follows the first packet of a flow
//! from where it starts and says at each step what decides. It works on what hosts are told
//! (`ecs.host.v1`) and touches nothing, so that it answers for a cloud that is only wanted, and so
//! that what hosts really do can be compared with it. Replies are not followed: connections are
//! tracked, and the reply to what has passed passes.

mod groups;
mod packet;
mod trace;

#[cfg(test)]
mod tests;

pub use groups::{Decision, Reason, decide};
pub use packet::{Packet, Protocol};
pub use trace::{Hop, Interface, Network, Origin, Outcome, Step, Trace, trace};
