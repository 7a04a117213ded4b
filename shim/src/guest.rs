//! Links, instantiates and runs the guest.
//!
//! What a guest needs is read from its imports and exports first, so that a refusal names the thing; trying and failing
//! would say less and cost more.
//!
//! The guest has the only thread. wasmtime's synchronous interface would start one more per CPU at the first WASI call.
//!
//! What is made here is leaked: the process ends with the guest, and the kernel takes it down faster than drop would.

use crate::args::Run;
use crate::code::Code;
use crate::outcome::Outcome;
use crate::wasi;
use wasmtime::component::Component;
use wasmtime::error::Context as _;
use wasmtime::{Error, ExternType, Linker, Module, Result, Store, bail, ensure, format_err};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, p0, p1};

/// Runs `code` as `run` says, until the guest ends.
///
/// # Errors
/// When the guest did not begin: an import or export is missing, a directory cannot be opened, no memory is left.
pub fn run(code: &Code, run: &Run) -> Result<Outcome> {
    let file = run.file().display();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Box::leak(Box::new(runtime))
        .block_on(async {
            match code {
                Code::Module(guest) => module(guest, run).await,
                Code::Component(guest) => component(guest, run).await,
            }
        })
        .with_context(|| format!("run `{file}`"))
}

async fn module(module: &Module, run: &Run) -> Result<Outcome> {
    has_start(module)?;
    let mut linker = Linker::new(module.engine());
    // Both generations of WASI use the same context; most modules import from one of them.
    for wasi in ["wasi_snapshot_preview1", "wasi_unstable"] {
        if module.imports().any(|import| import.module() == wasi) {
            match wasi {
                "wasi_unstable" => p0::add_to_linker_async(&mut linker, |host| host)?,
                _ => p1::add_to_linker_async(&mut linker, |host| host)?,
            }
            // wasmtime accepts exit codes below 126 only. A process has 256 of them.
            linker.allow_shadowing(true);
            linker.func_wrap(wasi, "proc_exit", |code: i32| -> Result<()> { Err(I32Exit(code).into()) })?;
            linker.allow_shadowing(false);
        }
    }
    let ready = linker.instantiate_pre(module).map_err(|error| missing_import(module, error))?;

    let store = Box::leak(Box::new(Store::new(module.engine(), wasi::for_module(run)?)));
    let ran = async {
        let instance = ready.instantiate_async(&mut *store).await?;
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call_async(&mut *store, ()).await
    };
    match ran.await {
        Ok(()) => Ok(Outcome::Exit(0)),
        Err(error) => Outcome::of_error(error),
    }
}

async fn component(component: &Component, run: &Run) -> Result<Outcome> {
    is_command(component)?;
    let engine = component.engine();
    let mut linker = wasmtime::component::Linker::new(engine);
    let mut known = Vec::new();
    for (import, _) in component.component_type().imports(engine) {
        let (name, version) = import.split_once('@').unwrap_or((import, ""));
        // A component may import two versions of an interface; the linker matches both with one.
        if known.contains(&name) {
            continue;
        }
        ensure!(
            is_0_2(version) && wasi::link(name, &mut linker)?,
            "it imports `{import}`, which this version of wasm-shim does not provide"
        );
        known.push(name);
    }
    let command = CommandPre::new(linker.instantiate_pre(component)?)?;

    let store = Box::leak(Box::new(Store::new(engine, wasi::for_component(run)?)));
    let ran = async {
        let command = command.instantiate_async(&mut *store).await?;
        command.wasi_cli_run().call_run(&mut *store).await
    };
    match ran.await {
        Ok(Ok(())) => Ok(Outcome::Exit(0)),
        Ok(Err(())) => Ok(Outcome::Exit(1)),
        Err(error) => Outcome::of_error(error),
    }
}

/// A command has `_start`, without parameters and results.
fn has_start(module: &Module) -> Result<()> {
    match module.get_export("_start") {
        Some(ExternType::Func(start)) if start.params().len() == 0 && start.results().len() == 0 => Ok(()),
        Some(_) => bail!("its export `_start` is not a function without parameters and results"),
        None if module.get_export("_initialize").is_some() => {
            bail!(
                "it is a reactor: it exports `_initialize` and no `_start`; build it as a command, with a main function"
            )
        }
        None => bail!(
            "it exports {}, and no `_start`; build it for wasm32-wasip1",
            list(module.exports().map(|export| export.name()))
        ),
    }
}

fn missing_import(module: &Module, error: Error) -> Error {
    let threads = module.imports().any(|import| import.module() == "wasi" && import.name() == "thread-spawn");
    if threads {
        return format_err!("it imports `wasi::thread-spawn`, but wasi-threads was removed from wasmtime");
    }
    match error.downcast_ref::<wasmtime::UnknownImportError>() {
        Some(unknown) => format_err!(
            "it imports `{}::{}`, which nothing provides; build it for wasm32-wasip1",
            unknown.module(),
            unknown.name()
        ),
        None => error,
    }
}

/// A command exports `wasi:cli/run`. Other worlds are named, to tell what the file is for.
fn is_command(component: &Component) -> Result<()> {
    let ty = component.component_type();
    let mut other = None;
    for (export, _) in ty.exports(component.engine()) {
        let (name, version) = export.split_once('@').unwrap_or((export, ""));
        match name {
            "wasi:cli/run" if is_0_2(version) => return Ok(()),
            "wasi:cli/run" | "wasi:http/incoming-handler" | "wasi:http/handler" => other = Some(export),
            _ => {}
        }
    }
    if let Some(export) = other {
        bail!(
            "it exports `{export}`, which this version of wasm-shim cannot run yet; it runs `wasi:cli/run@0.2`"
        );
    }
    bail!(
        "it exports {}, and no `wasi:cli/run`; build it for wasm32-wasip2",
        list(ty.exports(component.engine()).map(|(export, _)| export))
    )
}

fn is_0_2(version: &str) -> bool {
    version == "0.2" || version.starts_with("0.2.")
}

/// For a message, example "`memory`, `add`".
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
