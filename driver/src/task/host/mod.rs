//! What is found and made on the host for a task: its view, files, mounts, program, environment and log pipes.

pub(crate) mod access;
pub mod dirs;
pub mod env;
pub mod files;
pub(crate) mod left_files;
pub mod logs;
pub(crate) mod misplaced;
pub(crate) mod open;
pub(crate) mod own_root;
pub(crate) mod pin;
pub(crate) mod place;
pub mod program;
pub mod resources;
mod root_only;
pub mod targets;
pub(crate) mod unfit;
pub mod users;
pub mod view;
pub(crate) mod way;
