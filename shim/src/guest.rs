//! Links, instantiates and runs a command to its end.
//!
//! The guest has the only thread. wasmtime's synchronous interface would start one more thread per CPU at the first
//! WASI call.
//!
//! The objects that this module creates are leaked: the process ends with the guest, and the kernel frees them faster
//! than drop.

use crate::args::Guest;
use crate::code::Code;
use crate::engine;
use crate::limits::Limits;
use crate::outcome::{Outcome, Refusal, say};
use crate::settings::Wasm;
use crate::wasi::{self, Host, ModuleHost};
use crate::world::{WasiVersion, World};
use crate::{artifact, invoke, process, systemd};
use shim_interface::{Kind, Status};
use std::fs;
use std::time::Duration;
use wasmtime::component::Component;
use wasmtime::error::Context as _;
use wasmtime::{Config, Error, InstancePre, Linker, Module, Result, Store, WasmCoreDump};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{I32Exit, p0, p1, p3};

/// The configuration of the engine for `wasm`.
///
/// # Errors
/// When the settings contradict each other.
pub fn config(wasm: &Wasm) -> Result<Config> {
    /// The part of the stack shared with the guest that the host's functions need, in bytes.
    const FOR_THE_HOST: usize = 1536 << 10;
    let mut config = engine::config(&wasm.tuning)?;
    if let Some(bytes) = wasm.max_wasm_stack {
        config.max_wasm_stack(bytes).async_stack_size(bytes + FOR_THE_HOST);
    }
    Ok(config)
}

/// The code of `guest`, to be run.
///
/// # Errors
/// The errors of [`artifact::open`].
pub fn open(guest: &Guest) -> Result<Code> {
    let mut config = config(&guest.wasm)?;
    config.coredump_on_trap(guest.coredump.is_some());
    artifact::open(guest, &guest.wasm.tuning, &config).map(|(code, _)| code)
}

/// Runs `code` with the settings of `guest`, until it ends.
///
/// # Errors
/// When the guest did not start: an import or export is missing, a directory cannot be opened, no memory is left.
pub fn run(code: &Code, guest: &Guest) -> Result<Outcome> {
    task_init::stay_one_process(guest.calls).context("filter system calls (prctl(2))")?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time();
    // Waiting for sockets costs kernel descriptors, so it is set up only for a guest that may have sockets.
    if wasi::may_have_sockets(code) {
        runtime.enable_io();
    }
    let runtime = runtime.build().context("start the runtime")?;
    if let Some(timeout) = guest.wasm.timeout {
        end_after(timeout)?;
    }
    Box::leak(Box::new(runtime))
        .block_on(async {
            if let Some(function) = &guest.invoke {
                return match code {
                    Code::Module(module) => run_module(module, Some(function), guest).await,
                    Code::Component(component) => invoke_component(component, function, guest).await,
                };
            }
            let command = World::of(code)?.into_iter().find_map(|world| match world {
                World::Command(wasi) => Some(wasi),
                World::Server(_) => None,
            });
            match (code, command) {
                (Code::Module(module), _) => run_module(module, None, guest).await,
                (Code::Component(component), Some(wasi)) => run_component(component, wasi, guest).await,
                (Code::Component(_), None) => Err(Refusal::bad_module(
                    "it is a server, for `wasm-shim serve`; a job has a block `serve` in its block `wasm`",
                )),
            }
        })
        .with_context(|| format!("run `{}`", guest.label))
}

/// Ends the process after `timeout`, whatever the guest is doing.
fn end_after(timeout: Duration) -> Result<()> {
    let end = move || {
        std::thread::sleep(timeout);
        let kind = Kind::Deadline;
        let text = format!("it ran longer than the {timeout:?} that -W timeout gives it");
        let status = Status::Ended { kind, text };
        systemd::notify_status(&status);
        process::exit_with_message(format!("wasm-shim: {status}\n").as_bytes(), kind.code().into());
    };
    std::thread::Builder::new()
        .name("deadline".to_owned())
        .spawn(end)
        .context("start a thread for -W timeout")?;
    Ok(())
}

/// Provides the imports of `module`.
///
/// # Errors
/// When the module imports something that the shim does not provide.
pub fn link(module: &Module) -> Result<InstancePre<ModuleHost>> {
    let mut linker = Linker::new(module.engine());
    // Both generations of WASI use the same context; most modules import from one of them.
    for wasi in ["wasi_snapshot_preview1", "wasi_unstable"] {
        if module.imports().any(|import| import.module() == wasi) {
            match wasi {
                "wasi_unstable" => p0::add_to_linker_async(&mut linker, ModuleHost::wasi)?,
                _ => p1::add_to_linker_async(&mut linker, ModuleHost::wasi)?,
            }
            // wasmtime only accepts exit codes below 126. A process has 256 exit codes.
            linker.allow_shadowing(true);
            linker.func_wrap(wasi, "proc_exit", |code: i32| -> Result<()> { Err(I32Exit(code).into()) })?;
            linker.allow_shadowing(false);
        }
    }
    linker.instantiate_pre(module).map_err(|error| missing_import(module, &error))
}

async fn run_module(module: &Module, function: Option<&String>, guest: &Guest) -> Result<Outcome> {
    let ready = link(module)?;
    let store = new_store(module.engine(), wasi::for_module(guest)?, &guest.wasm)?;
    store.limiter(|host| host.limits());
    let ran = async {
        let instance = ready.instantiate_async(&mut *store).await?;
        if let Some(function) = function {
            return invoke::of_module(store, (module, instance), function, guest).await;
        }
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call_async(&mut *store, ()).await
    };
    match ran.await {
        Ok(()) => Ok(Outcome::Exit(0)),
        Err(error) => cut(error, store, guest, ModuleHost::limits),
    }
}

async fn run_component(component: &Component, wasi: WasiVersion, guest: &Guest) -> Result<Outcome> {
    let ready = wasi::link(component)?;
    let store = new_store(component.engine(), wasi::for_command(guest)?, &guest.wasm)?;
    store.limiter(|host| host.limits());
    let ran = async {
        let instance = ready.instantiate_async(&mut *store).await?;
        if wasi == WasiVersion::P3 {
            let command = p3::bindings::Command::new(&mut *store, &instance)
                .map_err(|error| Refusal::wrong_type(&error))?;
            return store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await?;
        }
        let command = Command::new(&mut *store, &instance).map_err(|error| Refusal::wrong_type(&error))?;
        command.wasi_cli_run().call_run(&mut *store).await
    };
    match ran.await {
        Ok(Ok(())) => Ok(Outcome::Exit(0)),
        Ok(Err(())) => Ok(Outcome::Exit(1)),
        Err(error) => cut(error, store, guest, Host::limits),
    }
}

async fn invoke_component(component: &Component, call: &str, guest: &Guest) -> Result<Outcome> {
    let ready = wasi::link(component)?;
    let store = new_store(component.engine(), wasi::for_command(guest)?, &guest.wasm)?;
    store.limiter(|host| host.limits());
    let ran = async {
        let instance = ready.instantiate_async(&mut *store).await?;
        invoke::of_component(store, (component, instance), call).await
    };
    match ran.await {
        Ok(()) => Ok(Outcome::Exit(0)),
        Err(error) => cut(error, store, guest, Host::limits),
    }
}

/// The outcome of a guest that did not exit by itself. Its memory is written to the file of `-D coredump`.
fn cut<T: 'static>(
    error: Error,
    store: &mut Store<T>,
    guest: &Guest,
    limits: fn(&mut T) -> &mut Limits,
) -> Result<Outcome> {
    if let (Some(file), Some(core)) = (&guest.coredump, error.downcast_ref::<WasmCoreDump>()) {
        let core = core.serialize(&mut *store, &guest.name);
        if let Err(wrong) = fs::write(file, core) {
            // The reason for the trap is more important.
            say(&format!("write the core dump to `{}`: {wrong}", file.display()));
        }
    }
    Outcome::of_error(error, limits(store.data_mut()))
}

fn new_store<T>(engine: &wasmtime::Engine, host: T, wasm: &Wasm) -> Result<&'static mut Store<T>> {
    let store = Box::leak(Box::new(Store::new(engine, host)));
    if let Some(fuel) = wasm.fuel {
        store.set_fuel(fuel)?;
    }
    // Code that checks the epoch may run in this engine, where the epoch never advances.
    store.set_epoch_deadline(1);
    Ok(store)
}

fn missing_import(module: &Module, error: &Error) -> Error {
    let threads = module.imports().any(|import| import.module() == "wasi" && import.name() == "thread-spawn");
    if threads {
        return Refusal::missing_import(
            "it imports `wasi::thread-spawn`, but wasi-threads was removed from wasmtime",
        );
    }
    match error.downcast_ref::<wasmtime::UnknownImportError>() {
        Some(unknown) => Refusal::missing_import(format!(
            "it imports `{}::{}`, which nothing provides and no grant would; build it for wasm32-wasip1",
            unknown.module(),
            unknown.name()
        )),
        // A function of WASI with another type.
        None => Refusal::missing_import(error.to_string()),
    }
}
