//! Tests below the public interface: media that record, lose and refuse writes.

mod crash_order;
mod failing_medium;
mod hostile_input;
mod medium;
mod queues;
mod repairing;
mod ring_pool;
mod switching;
mod switching_refused;
mod waiting;
