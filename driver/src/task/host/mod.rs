//! What a task needs on the host: its view, files, mounts, program, environment and log FIFOs.

pub(crate) mod access;
pub mod dirs;
pub(crate) mod drivers;
pub mod env;
pub mod files;
pub(crate) mod left_files;
pub mod logs;
mod look;
pub(crate) mod misplaced;
pub(crate) mod open;
pub(crate) mod own_root;
pub(crate) mod pin;
pub mod program;
pub mod resources;
mod root_only;
pub(crate) mod runtime_dir;
pub(crate) mod secrets;
pub mod targets;
pub(crate) mod unfit;
pub(crate) mod unseen;
pub mod users;
pub mod view;
pub(crate) mod way;
