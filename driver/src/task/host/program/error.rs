//! Why a program cannot be started.

use std::io;
use std::path::{Path, PathBuf};

use crate::task::host::view::PLAIN_PATH;

/// Why `command` cannot be started. Each message tells what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `command` is empty.
    #[error("`command` is empty: name a file of the task's `local/` directory or an absolute path")]
    Empty,
    /// The path may lead anywhere.
    #[error("`command`: {command:?} cannot be resolved as a path; write {PLAIN_PATH}, or a path in `local/`")]
    NotPlain {
        /// The job's `command`.
        command: String,
    },
    /// No file exists at the path.
    #[error(
        "`command`: {path} does not exist in the task's view; {}",
        of_wasmtime(path).unwrap_or("fetch it with an `artifact` block, or correct the path")
    )]
    Missing {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// A script that was written on another system.
    #[error(
        "`command`: the first line of {path} ends with a carriage return (CRLF); save the script, or the job file that holds it, \
         with LF line ends"
    )]
    CarriageReturn {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// The interpreter of a script or the loader of a binary is missing.
    #[error(
        "`command`: {path} is started by {loader}, which is not in the task's view; fetch a program that is made for this system, or \
         have the operator install that, or show its directory to tasks if the node has it (`host_paths` in the plugin's \
         configuration)"
    )]
    NoLoader {
        /// The path in the task's view.
        path: PathBuf,
        /// The interpreter or loader.
        loader: PathBuf,
    },
    /// `command` looks like a command line.
    #[error("`command`: there is no program {command:?}; put its arguments into `args`")]
    WithArguments {
        /// The job's `command`.
        command: String,
    },
    /// `command` begins or ends with a blank, which the shell of other tools removes.
    #[error("`command`: there is no program {command:?}; write it without the blank at its begin or end")]
    Blank {
        /// The job's `command`.
        command: String,
    },
    /// A relative path exists in none of the directories that are searched.
    #[error("`command`: {command} is {searched}; {}", about_name(command))]
    NotFound {
        /// The job's `command`.
        command: String,
        /// The searched directories of the view: `not in /local`, `in none of /local, /bin`.
        searched: String,
    },
    /// The file is where tasks of other drivers find it.
    #[error(
        "`command`: {command} is in the task directory, of which the task does not see this part; let the `artifact` or \
         `template` put it below `local/`, such as in `local/{command}`"
    )]
    BesideLocal {
        /// The job's `command`.
        command: String,
    },
    /// A guest on a mount of the job's.
    #[error(
        "`command`: {path} is in what `files` mounts for the task, and the driver reads WebAssembly before that is mounted; name \
         the guest in `local/`, in `/alloc`, in a `volume_mount` or below the node's `host_paths`"
    )]
    GuestInMount {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// A guest that the driver may read, and the task's user perhaps not.
    #[error(
        "`command`: {path} is not readable for everybody, and where others may write the driver compiles only what everybody may \
         read: run `chmod a+r` on it, and remove its access control list if it has one"
    )]
    PrivateGuest {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// WebAssembly in its text form.
    #[error(
        "`command`: {path} is WebAssembly in its text form; fetch the binary form (`wasm-tools parse` makes it), or try the \
         text with wasm-shim alone"
    )]
    Text {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// The path may exist on the host, but is not in the task's view.
    #[error(
        "`command`: {path} is not in the task's view; fetch it into `local/` with an `artifact` block, bind its directory with \
         `files.bind_read_only_paths`, which the operator allows by `allow_host_paths`, or have the operator show it to all \
         tasks (`host_paths`)"
    )]
    NotInView {
        /// The job's `command`.
        path: PathBuf,
    },
    /// The path is a directory or a device.
    #[error(
        "`command`: {path} is not a regular file; where it is a directory, name the program in it, or let an `artifact` of one \
         file have `mode = \"file\"`"
    )]
    NotAFile {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("`command`: open {path}")]
    Open {
        /// The path in the task's view.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel executes nothing of that file system.
    #[error(
        "`command`: {path} is on a file system that this node mounts `noexec`; name a program of the node or a WebAssembly guest, or \
         have the operator mount the file system of the agent's `data_dir`, or of the volume, without `noexec`"
    )]
    NoExec {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// A binary of another architecture.
    #[error(
        "`command`: {path} is a program for {theirs}, but this node is {}; fetch the one built for this node \
             (`${{attr.cpu.arch}}` in the artifact's source tells them apart)",
        std::env::consts::ARCH
    )]
    Foreign {
        /// The path in the task's view.
        path: PathBuf,
        /// The architecture, or its number in the file's header.
        theirs: String,
    },
    /// Precompiled code would run in its own right, and not as a guest.
    #[error(
        "`command`: {path} is precompiled WebAssembly; precompiled native code is not accepted from jobs, fetch the `.wasm` \
         that it was made from: it is compiled here, once"
    )]
    Precompiled {
        /// The path in the task's view.
        path: PathBuf,
    },
    /// The file is named as WebAssembly, and is not WebAssembly.
    #[error(
        "`command`: {path} is not WebAssembly although its name ends in `.wasm`: it begins with {begins}"
    )]
    NotWasm {
        /// The path in the task's view.
        path: PathBuf,
        /// The first bytes, readable.
        begins: String,
    },
    /// The kernel could not execute the file.
    #[error(
        "`command`: {path} is neither a program for Linux (ELF), nor a script that begins with `#!`, nor WebAssembly: \
         it begins with {begins}"
    )]
    Unknown {
        /// The path in the task's view.
        path: PathBuf,
        /// The first bytes, readable.
        begins: String,
    },
}

/// Advice about a program that runs WebAssembly.
fn of_wasmtime(command: &Path) -> Option<&'static str> {
    let name = command.file_name()?.to_str()?;
    ["wasmtime", "wasmedge", "wasmer", "spin"].contains(&name).then_some(
        "the driver runs WebAssembly itself: name the `.wasm` file as `command`, and set its options in a `wasm` block",
    )
}

/// Advice about a name that is found nowhere.
fn about_name(command: &str) -> String {
    if let Some((name, rest)) = command.strip_prefix('$').and_then(|path| path.split_once('/')) {
        return format!("nothing fills in `${name}`: write `${{{}}}/{rest}`", name.trim_matches(['{', '}']));
    }
    if command.starts_with('~') {
        return "no shell reads `~` here: write a path in `local/`, or an absolute path".to_owned();
    }
    if let Some(advice) = of_wasmtime(Path::new(command)) {
        return advice.to_owned();
    }
    "fetch it into the task's `local/` with an `artifact` block, or name an absolute path".to_owned()
}
