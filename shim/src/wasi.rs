//! What the guest may touch: its arguments, its variables, its directories, and the standard streams. Nothing else; in
//! particular no network.

use crate::args::Run;
use wasmtime::Result;
use wasmtime::component::ResourceTable;
use wasmtime::error::Context as _;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sockets};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi::{
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    random::{WasiRandom, WasiRandomView},
    sockets::{WasiSockets, WasiSocketsView},
};
use wasmtime_wasi_io::IoView;

/// The host as a core module sees it.
///
/// # Errors
/// When a directory cannot be opened.
pub fn for_module(run: &Run) -> Result<WasiP1Ctx> {
    Ok(context(run)?.build_p1())
}

/// The host as a component sees it.
///
/// # Errors
/// When a directory cannot be opened.
pub fn for_component(run: &Run) -> Result<Host> {
    Ok(Host { wasi: context(run)?.build(), table: ResourceTable::new() })
}

fn context(run: &Run) -> Result<WasiCtxBuilder> {
    let mut wasi = WasiCtx::builder();
    wasi.inherit_stdio();
    // The guest has the only thread; handing its file accesses to another would only cost time.
    wasi.allow_blocking_current_thread(true);
    wasi.arg(run.argv0()).args(run.args());
    for (index, var) in run.env.iter().enumerate() {
        // WASI would pass both of two variables with one name. The last one counts.
        if !run.env[index + 1..].iter().any(|later| later.name == var.name) {
            wasi.env(&var.name, &var.value);
        }
    }
    for dir in &run.dirs {
        let permissions = if dir.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        wasi.preopened_dir(&dir.host, &dir.guest, permissions)
            .with_context(|| format!("open directory `{}` for the guest", dir.host))?;
    }
    Ok(wasi)
}

/// The state behind the interfaces that a component imports.
pub struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl IoView for Host {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

type Linker = wasmtime::component::Linker<Host>;

/// Provides the interface `name`, example `wasi:cli/exit`, in its versions 0.2. False if the shim does not have it.
///
/// Interfaces are linked one by one as a component imports them: all of them together would be the largest part of its
/// start.
///
/// # Errors
/// When the interface is linked already.
pub fn link(name: &str, linker: &mut Linker) -> Result<bool> {
    let l = linker;
    match name {
        "wasi:cli/environment" => cli::environment::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/exit" => cli::exit::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stdin" => cli::stdin::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stdout" => cli::stdout::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stderr" => cli::stderr::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-input" => cli::terminal_input::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-output" => cli::terminal_output::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stdin" => cli::terminal_stdin::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stdout" => cli::terminal_stdout::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stderr" => cli::terminal_stderr::add_to_linker::<Host, WasiCli>(l, Host::cli),

        "wasi:clocks/monotonic-clock" => {
            clocks::monotonic_clock::add_to_linker::<Host, WasiClocks>(l, Host::clocks)
        }
        "wasi:clocks/wall-clock" => clocks::wall_clock::add_to_linker::<Host, WasiClocks>(l, Host::clocks),

        "wasi:filesystem/preopens" => {
            filesystem::preopens::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)
        }
        "wasi:filesystem/types" => {
            filesystem::types::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)
        }

        "wasi:io/error" => {
            wasmtime_wasi_io::bindings::wasi::io::error::add_to_linker::<Host, Io>(l, Host::table)
        }
        "wasi:io/poll" => {
            wasmtime_wasi_io::bindings::wasi::io::poll::add_to_linker::<Host, Io>(l, Host::table)
        }
        "wasi:io/streams" => {
            wasmtime_wasi_io::bindings::wasi::io::streams::add_to_linker::<Host, Io>(l, Host::table)
        }

        "wasi:random/random" => random::random::add_to_linker::<Host, WasiRandom>(l, Host::random),
        "wasi:random/insecure" => random::insecure::add_to_linker::<Host, WasiRandom>(l, Host::random),
        "wasi:random/insecure-seed" => {
            random::insecure_seed::add_to_linker::<Host, WasiRandom>(l, Host::random)
        }

        // Standard libraries import these whether the program uses them or not; every address is denied.
        "wasi:sockets/instance-network" => {
            sockets::instance_network::add_to_linker::<Host, WasiSockets>(l, Host::sockets)
        }
        "wasi:sockets/network" => {
            let options = sockets::network::LinkOptions::default();
            sockets::network::add_to_linker::<Host, WasiSockets>(l, &options, Host::sockets)
        }
        "wasi:sockets/ip-name-lookup" => {
            sockets::ip_name_lookup::add_to_linker::<Host, WasiSockets>(l, Host::sockets)
        }
        "wasi:sockets/tcp" => sockets::tcp::add_to_linker::<Host, WasiSockets>(l, Host::sockets),
        "wasi:sockets/tcp-create-socket" => {
            sockets::tcp_create_socket::add_to_linker::<Host, WasiSockets>(l, Host::sockets)
        }
        "wasi:sockets/udp" => sockets::udp::add_to_linker::<Host, WasiSockets>(l, Host::sockets),
        "wasi:sockets/udp-create-socket" => {
            sockets::udp_create_socket::add_to_linker::<Host, WasiSockets>(l, Host::sockets)
        }
        _ => return Ok(false),
    }?;
    Ok(true)
}

/// Tells the linker what part of the host the interfaces of `wasi:io` work on.
struct Io;

impl wasmtime::component::HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that wasmtime itself provides to a command, as it would be linked without regard for what is imported.
    const STOCK: [&str; 27] = [
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
        "wasi:filesystem/preopens",
        "wasi:filesystem/types",
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

    #[test]
    fn every_stock_interface_is_linked_and_none_twice() {
        let engine = wasmtime::Engine::new(&crate::engine::config().unwrap()).unwrap();
        let mut linker = Linker::new(&engine);
        for name in STOCK {
            // An interface that was linked before, under another name, is an error here.
            assert!(link(name, &mut linker).unwrap(), "{name} is missing");
        }
    }

    #[test]
    fn what_the_shim_does_not_have_is_not_linked() {
        let engine = wasmtime::Engine::new(&crate::engine::config().unwrap()).unwrap();
        assert!(!link("wasi:http/types", &mut Linker::new(&engine)).unwrap());
    }
}
