//! Why a program cannot be started.

use std::io;
use std::path::{Path, PathBuf};

use crate::task::host::view::PLAIN_PATH;

/// Why `command` cannot be started. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An empty text.
    #[error("`command` is empty: name a file of the task's `local/` directory or an absolute path")]
    Empty,
    /// It may lead anywhere.
    #[error(
        "`command`: {command:?} is no path that can be followed; write {PLAIN_PATH}, or a path in `local/`"
    )]
    NotPlain {
        /// As the job says it.
        command: String,
    },
    /// Nothing is there.
    #[error(
        "`command`: {path} does not exist in the task's view; fetch it with an `artifact` block, or correct the path"
    )]
    Missing {
        /// As the task would say it.
        path: PathBuf,
    },
    /// A script that was written on another system.
    #[error(
        "`command`: the first line of {path} ends with a carriage return (CRLF); save the script, or the job file that holds it, \
         with LF line ends"
    )]
    CarriageReturn {
        /// As the task would say it.
        path: PathBuf,
    },
    /// What a script or a binary is started by is not there.
    #[error(
        "`command`: {path} is started by {loader}, which is not in the task's view; {}",
        about_loader(loader)
    )]
    NoLoader {
        /// As the task would say it.
        path: PathBuf,
        /// Its interpreter or loader.
        loader: PathBuf,
    },
    /// It looks like a command line.
    #[error("`command`: there is no program {command:?}; put its arguments into `args`")]
    WithArguments {
        /// As the job says it.
        command: String,
    },
    /// A blank before or behind it, which the shell of other tools takes away.
    #[error("`command`: there is no program {command:?}; write it without the blank at its begin or end")]
    Blank {
        /// As the job says it.
        command: String,
    },
    /// Nothing is at any of the places that a relative path stands for.
    #[error(
        "`command`: {command} is in none of {searched}; fetch it into the task's `local/` with an `artifact` block, or name \
         an absolute path"
    )]
    NotFound {
        /// As the job says it.
        command: String,
        /// Directories of the view.
        searched: String,
    },
    /// Text that stands for WebAssembly.
    #[error(
        "`command`: {path} is WebAssembly in its text form; fetch the binary form (`wasm-tools parse` makes it), or try the \
         text with wasm-shim alone"
    )]
    Text {
        /// As the task would say it.
        path: PathBuf,
    },
    /// The host may have it; the task does not see it.
    #[error(
        "`command`: {path} is not in the task's view; fetch it into `local/` with an `artifact` block, bind its directory with \
         `files.bind_read_only_paths`, which the operator allows by `allow_host_paths`, or have the operator show it to all \
         tasks (`host_paths`)"
    )]
    NotInView {
        /// As the job says it.
        path: PathBuf,
    },
    /// A directory or a device.
    #[error(
        "`command`: {path} is not a regular file; where it is a directory, name the program in it, or let an `artifact` of one \
         file have `mode = \"file\"`"
    )]
    NotAFile {
        /// As the task would say it.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("`command`: open {path}")]
    Open {
        /// As the task would say it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A binary of another architecture.
    #[error(
        "`command`: {path} is a program for {theirs}, but this node is {}; fetch the one built for this node \
             (`${{attr.cpu.arch}}` in the artifact's source tells them apart)",
        std::env::consts::ARCH
    )]
    Foreign {
        /// As the task would say it.
        path: PathBuf,
        /// The architecture, or its number in the file's header.
        theirs: String,
    },
    /// It would run in its own right, and not as a guest.
    #[error(
        "`command`: {path} is precompiled WebAssembly; precompiled native code is not accepted from jobs, fetch the `.wasm` \
         that it was made from: it is compiled here, once"
    )]
    Precompiled {
        /// As the task would say it.
        path: PathBuf,
    },
    /// Named as WebAssembly, and is not.
    #[error("`command`: {path} is not WebAssembly although its name says so: it begins with {begins}")]
    NotWasm {
        /// As the task would say it.
        path: PathBuf,
        /// The first bytes, readable.
        begins: String,
    },
    /// The kernel would not know what to do with it.
    #[error(
        "`command`: {path} is neither a program for Linux (ELF), nor a script that begins with `#!`, nor WebAssembly: \
         it begins with {begins}"
    )]
    Unknown {
        /// As the task would say it.
        path: PathBuf,
        /// The first bytes, readable.
        begins: String,
    },
}

/// The file may be there, and hidden from tasks.
fn about_loader(loader: &Path) -> &'static str {
    if loader.exists() {
        "this node has it, so have the operator show its directory to tasks (`host_paths` in the plugin's configuration)"
    } else {
        "fetch a program that is made for this system, or have the operator install it"
    }
}
