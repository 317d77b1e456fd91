//! Types and services generated from `proto/`.
//!
//! The documentation of every message, field and method is in the proto files.

/// ECS resources and their services.
pub mod v1 {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/ecs.v1.rs"));
}

/// Between the controller and the agent of one host.
pub mod host {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/ecs.host.v1.rs"));
}

/// One microVM and the control protocol of its process.
pub mod vmm {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/ecs.vmm.v1.rs"));
}

#[cfg(feature = "grpc")]
pub mod error;

/// Every file of `proto/`, encoded as a `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
