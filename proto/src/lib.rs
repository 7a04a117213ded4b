//! The wire contracts between Nomad and a task driver: generated code and nothing else.
//!
//! The `.proto` files beside this crate are our own, written from the facts of the wire (package, service and
//! message names, field numbers and types), checked against Nomad v2.0.5 and go-plugin v1.8.0.
//! One module per package; the folders of the `.proto` files say whose package it is.

#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
mod packages {
    tonic::include_proto!("packages");
}

/// What every Nomad plugin answers: who it is and how it is configured.
pub use packages::hashicorp::nomad::plugins::base::proto as base;
/// What a task driver answers.
pub use packages::hashicorp::nomad::plugins::drivers::proto as driver;
/// The description of a configuration block that a plugin hands to Nomad.
pub use packages::hashicorp::nomad::plugins::shared::hclspec;
/// Values and error details shared by all Nomad plugins.
pub use packages::hashicorp::nomad::plugins::shared::structs;

/// The rich error that travels in a trailer of a failed call.
pub use packages::google::rpc;
/// The standard health service of gRPC, which go-plugin asks for.
pub use packages::grpc::health::v1 as health;
/// The side services of go-plugin, Nomad's plugin framework.
pub use packages::plugin;
