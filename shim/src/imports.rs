//! The imports that wasm-shim provides to guests, by name. On request, the compiler rejects a guest that could never
//! start.
//!
//! Only names are checked. Types, and the functions of an interface, are checked when the guest is linked.

use crate::content::Format;
use wasmparser::{ComponentTypeRef, Parser, Payload};

/// The modules whose functions a core module may import.
const P1: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

/// The functions of these modules (WASI 0.1). The older module has no `sock_accept`.
const FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// The interfaces of WASI 0.2, without their versions.
pub(crate) const P2: [&str; 30] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:config/store",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The interfaces of WASI 0.3.
pub(crate) const P3: [&str; 23] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/types",
];

/// The first import of `wasm`, a valid module or component, that wasm-shim does not provide, for example `env::launch`.
pub fn missing(wasm: &[u8], kind: Format) -> Option<String> {
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            // The imports of a component's content come from the component.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(imports) if depth == 0 && kind == Format::Module => {
                let imports = imports.into_imports().filter_map(Result::ok);
                let mut unknown = imports.filter(|import| !is_function(import.module, import.name));
                if let Some(import) = unknown.next() {
                    return Some(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ComponentImportSection(imports) if depth == 0 => {
                // A type is a description, which nothing needs to provide.
                let needed = imports
                    .into_iter()
                    .filter_map(Result::ok)
                    .filter(|import| !matches!(import.ty, ComponentTypeRef::Type(_)));
                if let Some(import) = needed.map(|import| import.name.name).find(|name| !is_interface(name)) {
                    return Some(import.to_owned());
                }
            }
            _ => {}
        }
    }
    None
}

fn is_function(module: &str, name: &str) -> bool {
    P1.contains(&module) && FUNCTIONS.contains(&name) && (module, name) != ("wasi_unstable", "sock_accept")
}

/// Checks the name only. The linker matches versions: `0.2.9` with the provided 0.2.
fn is_interface(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    if version.starts_with("0.2") {
        return P2.contains(&name);
    }
    version.starts_with("0.3") && P3.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_of(text: &str) -> Option<String> {
        let kind = if text.starts_with("(module") { Format::Module } else { Format::Component };
        missing(&wat::parse_str(text).unwrap(), kind)
    }

    #[test]
    fn what_nobody_provides_is_named() {
        for (text, name) in [
            (r#"(module (import "env" "launch" (func)))"#, "env::launch"),
            (
                r#"(module (import "wasi_snapshot_preview1" "fd_dance" (func)))"#,
                "wasi_snapshot_preview1::fd_dance",
            ),
            (r#"(module (import "wasi_unstable" "sock_accept" (func)))"#, "wasi_unstable::sock_accept"),
            (r#"(module (import "env" "memory" (memory 1)))"#, "env::memory"),
            (r#"(component (import "wasi:nn/tensor@0.2.0" (instance)))"#, "wasi:nn/tensor@0.2.0"),
            (r#"(component (import "wasi:cli/exit@0.1.0" (instance)))"#, "wasi:cli/exit@0.1.0"),
            (r#"(component (import "wasi:io/poll@0.3.0" (instance)))"#, "wasi:io/poll@0.3.0"),
            (r#"(component (import "my:own/thing" (instance)))"#, "my:own/thing"),
            (r#"(component (import "f" (func)))"#, "f"),
        ] {
            assert_eq!(missing_of(text).as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn what_is_provided_is_not() {
        for text in [
            r#"(module (import "wasi_snapshot_preview1" "sock_accept" (func)) (import "wasi_unstable" "fd_read" (func)))"#,
            r#"(component (import "wasi:cli/exit@0.2.9" (instance)) (import "wasi:cli/exit@0.3.0" (instance)))"#,
            r#"(component (import "t" (type (sub resource))))"#,
            r#"(component (core module (import "env" "launch" (func))))"#,
            r#"(component (component (import "my:own/thing" (instance))) (import "wasi:io/poll@0.2.0" (instance)))"#,
        ] {
            assert_eq!(missing_of(text), None, "{text}");
        }
    }

    #[cfg(feature = "run")]
    #[test]
    fn the_names_are_those_that_are_linked() {
        use crate::engine::{Tuning, config};
        use wasmtime::{Engine, Linker, Store};

        let engine = Engine::new(&config(&Tuning::default()).unwrap()).unwrap();
        let mut linker: Linker<wasmtime_wasi::p1::WasiP1Ctx> = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host| host).unwrap();
        wasmtime_wasi::p0::add_to_linker_async(&mut linker, |host| host).unwrap();
        let mut store = Store::new(&engine, wasmtime_wasi::WasiCtx::builder().build_p1());
        for (module, name, _) in linker.iter(&mut store) {
            assert!(is_function(module, name), "{module}::{name} is linked and not in the list");
        }
        assert_eq!(linker.iter(&mut store).count(), 2 * FUNCTIONS.len() - 1);
    }
}
