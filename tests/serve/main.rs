//! `wasm-shim serve`, driven from outside as clients and systemd do. Runs anywhere, without root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod clients;
mod http_2;
mod instances;
mod requests;
mod server;
mod systemd;
