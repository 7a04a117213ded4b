//! The resources that the guest may use, as WASI: its arguments, variables and directories, the standard streams, and
//! the granted addresses and configuration. Nothing else.

use crate::args::Guest;
use crate::code::Code;
use crate::limits::Limits;
use crate::network::Network;
use crate::outcome::Refusal;
use crate::outgoing::Outgoing;
use crate::preopens::{self, Preopens};
use crate::sockets::{CreatesSockets, Sockets};
use crate::world::WasiVersion;
use wasmtime::Result;
use wasmtime::component::{Component, InstancePre, ResourceTable};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sockets};
use wasmtime_wasi::p3::bindings as p3;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi::{
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    random::{WasiRandom, WasiRandomView},
    sockets::{WasiSockets, WasiSocketsView},
};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView, p2 as http2, p3 as http3};
use wasmtime_wasi_io::IoView;

/// The host, for a core module.
pub struct ModuleHost {
    wasi: WasiP1Ctx,
    limits: Limits,
}

impl ModuleHost {
    /// The WASI context.
    pub fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// The limits that wasmtime checks before the guest grows.
    pub fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }
}

/// The host of the core module `guest`.
///
/// # Errors
/// When a directory cannot be opened.
pub fn for_module(guest: &Guest) -> Result<ModuleHost> {
    Ok(ModuleHost { wasi: context_of_command(guest)?.build_p1(), limits: Limits::new(&guest.wasm) })
}

/// The host of the component `guest`, which runs to its end.
///
/// # Errors
/// When a directory cannot be opened.
pub fn for_command(guest: &Guest) -> Result<Host> {
    Ok(Host::new(guest, context_of_command(guest)?.build()))
}

/// The host of an instance of the component `guest`, which answers requests, with the directories `preopens`.
pub fn for_server(guest: &Guest, preopens: &Preopens) -> Host {
    let mut wasi = context(guest);
    // A server has no standard input.
    wasi.inherit_stdout().inherit_stderr();
    let mut wasi = wasi.build();
    preopens.give_to(&mut wasi);
    Host::new(guest, wasi)
}

fn context_of_command(guest: &Guest) -> Result<WasiCtxBuilder> {
    let mut wasi = context(guest);
    wasi.inherit_stdio();
    // The guest has the only thread; moving its file accesses to another one would only cost time.
    wasi.allow_blocking_current_thread(true);
    preopens::open(&guest.dirs, &mut wasi)?;
    Ok(wasi)
}

fn context(guest: &Guest) -> WasiCtxBuilder {
    let mut wasi = WasiCtx::builder();
    wasi.arg(&guest.name).args(&guest.args);
    for var in &guest.env {
        wasi.env(&var.name, &var.value);
    }
    // A check of every address has a better message than refusing all of them.
    let network = guest.network.clone();
    wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(guest.wasi.allow_ip_name_lookup);
    wasi.socket_addr_check(move |address, usage| {
        let allowed = network.allows(address, usage);
        Box::pin(async move { allowed })
    });
    wasi
}

/// The state of the interfaces that a component imports.
pub struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    network: Network,
    config: WasiConfigVariables,
    limits: Limits,
}

impl Host {
    fn new(guest: &Guest, wasi: WasiCtx) -> Self {
        let network: Network = guest.network.clone();
        Self {
            wasi,
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(network.clone(), guest.wasi.allow_ip_name_lookup),
            network,
            config: guest.wasi.config.iter().cloned().collect(),
            limits: Limits::new(&guest.wasm),
        }
    }

    /// The limits that wasmtime checks before the guest grows.
    pub fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }

    pub(crate) fn creates_sockets(&mut self) -> Sockets<'_> {
        let network = self.network.clone();
        Sockets::new(self.sockets(), network)
    }

    fn config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(&self.config)
    }
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

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

type Linker = wasmtime::component::Linker<Host>;

/// Whether `code` imports something that opens sockets. Core modules have no such import.
pub fn may_have_sockets(code: &Code) -> bool {
    let Code::Component(component) = code else { return false };
    let ty = component.component_type();
    ty.imports(component.engine())
        .any(|(name, _)| name.starts_with("wasi:sockets/") || name.starts_with("wasi:http/"))
}

/// Provides the imports of `component`, and nothing else.
///
/// Interfaces are linked one by one as a component imports them: linking all of them would be the largest part of its
/// start.
///
/// # Errors
/// When the component imports something that the shim does not provide.
pub fn link(component: &Component) -> Result<InstancePre<Host>> {
    let engine = component.engine();
    let mut linker = Linker::new(engine);
    let mut known = Vec::new();
    for (import, _) in component.component_type().imports(engine) {
        let (name, version) = import.split_once('@').unwrap_or((import, ""));
        let wasi = WasiVersion::of_version(version);
        // A component may import two versions of an interface; the linker matches both with one.
        if known.contains(&(name, wasi)) {
            continue;
        }
        let is_ours = match wasi {
            Some(WasiVersion::P2) => link_p2(name, &mut linker)?,
            Some(WasiVersion::P3) => link_p3(name, &mut linker)?,
            _ => false,
        };
        if !is_ours {
            return Err(Refusal::missing_import(missing(import, name, wasi)));
        }
        known.push((name, wasi));
    }
    linker.instantiate_pre(component).map_err(|error| Refusal::missing_import(crate::outcome::causes(&error)))
}

fn missing(import: &str, name: &str, wasi: Option<WasiVersion>) -> String {
    let advice = match (name.starts_with("wasi:"), wasi) {
        (true, None) => "wasm-shim has WASI 0.2 and 0.3; build it for one of them",
        (true, Some(_)) => "no grant would provide it; build it without",
        (false, _) => "no grant would provide it; compose it with a component that exports this",
    };
    format!("it imports `{import}`, which wasm-shim does not have: {advice}")
}

/// Provides the interface `name`, for example `wasi:cli/exit`, in its versions 0.2. Returns false if the shim does not
/// support it.
#[allow(clippy::too_many_lines, reason = "one line per interface")]
fn link_p2(name: &str, linker: &mut Linker) -> Result<bool> {
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

        // Standard libraries import these whether or not the program uses them; each call checks the grants.
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
            sockets::tcp_create_socket::add_to_linker::<Host, CreatesSockets>(l, Host::creates_sockets)
        }
        "wasi:sockets/udp" => sockets::udp::add_to_linker::<Host, WasiSockets>(l, Host::sockets),
        "wasi:sockets/udp-create-socket" => {
            sockets::udp_create_socket::add_to_linker::<Host, CreatesSockets>(l, Host::creates_sockets)
        }

        "wasi:http/types" => {
            let options = http2::bindings::LinkOptions::default();
            http2::bindings::http::types::add_to_linker::<Host, WasiHttp>(l, &options.into(), Host::http)
        }
        "wasi:http/outgoing-handler" => {
            http2::bindings::http::outgoing_handler::add_to_linker::<Host, WasiHttp>(l, Host::http)
        }
        "wasi:config/store" => wasmtime_wasi_config::add_to_linker(l, Host::config),
        _ => return Ok(false),
    }?;
    Ok(true)
}

/// Provides the interface `name` in its versions 0.3. Returns false if the shim does not support it.
fn link_p3(name: &str, linker: &mut Linker) -> Result<bool> {
    let l = linker;
    match name {
        "wasi:cli/environment" => p3::cli::environment::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/exit" => p3::cli::exit::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stdin" => p3::cli::stdin::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stdout" => p3::cli::stdout::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/stderr" => p3::cli::stderr::add_to_linker::<Host, WasiCli>(l, Host::cli),
        // The interface has no functions.
        "wasi:cli/types" => Ok(()),
        "wasi:cli/terminal-input" => p3::cli::terminal_input::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-output" => p3::cli::terminal_output::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stdin" => p3::cli::terminal_stdin::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stdout" => p3::cli::terminal_stdout::add_to_linker::<Host, WasiCli>(l, Host::cli),
        "wasi:cli/terminal-stderr" => p3::cli::terminal_stderr::add_to_linker::<Host, WasiCli>(l, Host::cli),

        "wasi:clocks/types" => p3::clocks::types::add_to_linker::<Host, WasiClocks>(l, Host::clocks),
        "wasi:clocks/monotonic-clock" => {
            p3::clocks::monotonic_clock::add_to_linker::<Host, WasiClocks>(l, Host::clocks)
        }
        "wasi:clocks/system-clock" => {
            p3::clocks::system_clock::add_to_linker::<Host, WasiClocks>(l, Host::clocks)
        }

        "wasi:filesystem/preopens" => {
            p3::filesystem::preopens::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)
        }
        "wasi:filesystem/types" => {
            p3::filesystem::types::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)
        }

        "wasi:random/random" => p3::random::random::add_to_linker::<Host, WasiRandom>(l, Host::random),
        "wasi:random/insecure" => p3::random::insecure::add_to_linker::<Host, WasiRandom>(l, Host::random),
        "wasi:random/insecure-seed" => {
            p3::random::insecure_seed::add_to_linker::<Host, WasiRandom>(l, Host::random)
        }

        "wasi:sockets/types" => {
            p3::sockets::types::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
            crate::sockets::link_p3(l, Host::creates_sockets)
        }
        "wasi:sockets/ip-name-lookup" => {
            p3::sockets::ip_name_lookup::add_to_linker::<Host, WasiSockets>(l, Host::sockets)
        }

        "wasi:http/types" => http3::bindings::http::types::add_to_linker::<Host, WasiHttp>(l, Host::http),
        "wasi:http/client" => http3::bindings::http::client::add_to_linker::<Host, WasiHttp>(l, Host::http),
        _ => return Ok(false),
    }?;
    Ok(true)
}

/// Selects the part of the host on which the interfaces of `wasi:io` work.
struct Io;

impl wasmtime::component::HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports;

    fn linker() -> Linker {
        let config = crate::engine::config(&crate::engine::Tuning::default()).unwrap();
        Linker::new(&wasmtime::Engine::new(&config).unwrap())
    }

    #[test]
    fn every_stock_interface_is_linked_and_none_twice() {
        let mut linker = linker();
        for name in imports::P2 {
            // Linking an interface twice, under another name, is an error here.
            assert!(link_p2(name, &mut linker).unwrap(), "{name} 0.2 is missing");
        }
        for name in imports::P3 {
            assert!(link_p3(name, &mut linker).unwrap(), "{name} 0.3 is missing");
        }
    }

    /// The lists are used to check guests before they start.
    #[test]
    fn every_interface_that_is_linked_is_in_the_list() {
        let source = include_str!("wasi.rs");
        for (version, list) in [("p2", &imports::P2[..]), ("p3", &imports::P3[..])] {
            let (_, body) = source.split_once(&format!("\nfn link_{version}(")).unwrap();
            let (body, _) = body.split_once("\n}\n").unwrap();
            let arms = body.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"));
            let linked: Vec<&str> = arms.map(|(name, _)| name).collect();
            let missing: Vec<&&str> = linked.iter().filter(|name| !list.contains(name)).collect();
            assert!(linked.len() >= list.len() && missing.is_empty(), "{version}: {missing:?}");
        }
    }

    #[test]
    fn what_the_shim_does_not_have_is_not_linked() {
        assert!(!link_p2("wasi:nn/tensor", &mut linker()).unwrap());
        assert!(!link_p3("wasi:io/poll", &mut linker()).unwrap());
    }
}
