//! Compiles our `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::error::Error;

const FILES: &[&str] = &[
    "nomad/base.proto",
    "nomad/driver.proto",
    "nomad/hclspec.proto",
    "nomad/structs.proto",
    "go-plugin/controller.proto",
    "go-plugin/broker.proto",
    "go-plugin/stdio.proto",
    "grpc/health.proto",
    "google/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure().include_file("packages.rs").compile_fds(descriptors)?;
    Ok(())
}
