//! Tests below the public interface: media that record, lose and refuse writes.

mod crash_order;
mod deep_chains;
mod encrypted;
mod failing_medium;
mod hostile_input;
mod medium;
mod pulling;
mod queues;
mod rebasing;
mod repairing;
mod ring_pool;
mod switching;
mod switching_refused;
mod waiting;
