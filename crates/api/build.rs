//! Generates the messages and, with the `grpc` feature, the services of every file in proto/.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: &[&str] = &[
    "ecs/v1/disk.proto",
    "ecs/v1/eip.proto",
    "ecs/v1/image.proto",
    "ecs/v1/instance.proto",
    "ecs/v1/instance_type.proto",
    "ecs/v1/key_pair.proto",
    "ecs/v1/nat_gateway.proto",
    "ecs/v1/network_interface.proto",
    "ecs/v1/operator.proto",
    "ecs/v1/prefix_list.proto",
    "ecs/v1/reachability.proto",
    "ecs/v1/route_table.proto",
    "ecs/v1/security_group.proto",
    "ecs/v1/snapshot.proto",
    "ecs/v1/vpc.proto",
    "ecs/host/v1/host.proto",
    "ecs/vmm/v1/vmm.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(FILES, [&proto])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        // A machine description is a JSON file: people read it when something is wrong.
        .message_attribute(".ecs.vmm.v1", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".ecs.vmm.v1", "#[serde(default)]")
        .enum_attribute(".ecs.vmm.v1", "#[derive(serde::Serialize, serde::Deserialize)]")
        // For `ecsctl -o json`.
        .message_attribute(".ecs.v1", "#[derive(serde::Serialize)]")
        .enum_attribute(".ecs.v1", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
