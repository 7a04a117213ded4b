//! `--invoke`: calls one exported function of a guest instead of its program, and prints the result.
//!
//! ```text
//! wasm-shim run --invoke add add.wasm 1 2        a module: the numbers stand after FILE
//! wasm-shim run --invoke 'add(1, 2)' add.wasm    a component: the call is written in WAVE, as in the wasmtime CLI
//! ```

use crate::args::Guest;
use crate::outcome::Refusal;
use crate::world::list;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::str::FromStr;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::wasm_wave::untyped::UntypedFuncCall;
use wasmtime::component::wasm_wave::wasm::DisplayFuncResults;
use wasmtime::component::{self, Component, ComponentExportIndex};
use wasmtime::error::Context as _;
use wasmtime::{Error, Func, Instance, Module, Result, Store, Val, ValType, bail, format_err};

/// Calls the function `name` of a module with the arguments of `guest`, after `_initialize` if the module exports it.
///
/// # Errors
/// When there is no such function, the arguments do not fit, or the guest does not return.
pub async fn of_module<T: Send>(
    store: &mut Store<T>,
    (module, instance): (&Module, Instance),
    name: &str,
    guest: &Guest,
) -> Result<()> {
    let Some(function) = instance.get_func(&mut *store, name) else {
        let functions = module.exports().filter(|export| export.ty().func().is_some());
        let names = list(functions.map(|export| export.name()));
        return Err(Refusal::bad_module(format!("it exports no function `{name}`; its functions: {names}")));
    };
    let arguments = numbers(&function, &mut *store, name, &guest.args)?;
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize") {
        initialize.call_async(&mut *store, ()).await?;
    }
    let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
    function.call_async(&mut *store, &arguments, &mut results).await?;
    let mut text = String::new();
    for result in results {
        let _ = match result {
            Val::I32(number) => writeln!(text, "{number}"),
            Val::I64(number) => writeln!(text, "{number}"),
            Val::F32(bits) => writeln!(text, "{}", f32::from_bits(bits)),
            Val::F64(bits) => writeln!(text, "{}", f64::from_bits(bits)),
            Val::V128(number) => writeln!(text, "{}", number.as_u128()),
            other => writeln!(text, "{other:?}"),
        };
    }
    print(&text)
}

/// The arguments of a module's function.
fn numbers<T>(function: &Func, store: &mut Store<T>, name: &str, args: &[String]) -> Result<Vec<Val>> {
    let ty = function.ty(&*store);
    let wanted = ty.params().len();
    if args.len() != wanted {
        let types: Vec<_> = ty.params().map(|ty| ty.to_string()).collect();
        bail!(
            "`--invoke {name}`: it takes {wanted} arguments ({}), and {} were given",
            types.join(", "),
            args.len()
        );
    }
    let number = |(ty, word): (ValType, &String)| match ty {
        ValType::I32 => read(word, &ty).map(Val::I32),
        ValType::I64 => read(word, &ty).map(Val::I64),
        ValType::F32 => read::<f32>(word, &ty).map(|number| Val::F32(number.to_bits())),
        ValType::F64 => read::<f64>(word, &ty).map(|number| Val::F64(number.to_bits())),
        other => Err(format_err!("it takes an argument of type {other}, for which there is no notation")),
    };
    let numbers = ty.params().zip(args).map(number).collect::<Result<_>>();
    numbers.with_context(|| format!("`--invoke {name}`"))
}

fn read<N: FromStr<Err: Display>>(word: &str, ty: &ValType) -> Result<N> {
    word.parse().map_err(|error| format_err!("`{word}` is not a number of type {ty}: {error}"))
}

/// Makes the call that is written in `call`, to a function of the component.
///
/// # Errors
/// The errors of [`of_module`].
pub async fn of_component<T: Send>(
    store: &mut Store<T>,
    (component, instance): (&Component, component::Instance),
    call: &str,
) -> Result<()> {
    let wrong =
        |error: &dyn Display| format_err!("`--invoke {call}`: {error}; write a call such as 'add(1, 2)'");
    let parsed = UntypedFuncCall::parse(call).map_err(|error| wrong(&error))?;
    let (index, ty) = find(component, parsed.name())?;
    let types: Vec<_> = ty.params().map(|(_, ty)| ty).collect();
    let arguments: Vec<component::Val> =
        parsed.to_wasm_params(types.iter()).map_err(|error| wrong(&error))?;
    let function = instance.get_func(&mut *store, index);
    let function = function.ok_or_else(|| Error::msg("the function of the component cannot be had"))?;
    let mut results = vec![component::Val::Bool(false); ty.results().len()];
    function.call_async(&mut *store, &arguments, &mut results).await?;
    print(&format!("{}\n", DisplayFuncResults(&results)))
}

/// The function of this name, exported by the component or by one of its exported interfaces.
fn find(component: &Component, name: &str) -> Result<(ComponentExportIndex, ComponentFunc)> {
    let engine = component.engine();
    let ty = component.component_type();
    let mut names = Vec::new();
    let mut found = Vec::new();
    for (export, item) in ty.exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(function) => {
                names.push(export.to_owned());
                if export == name {
                    found.push((component.get_export_index(None, export), function));
                }
            }
            ComponentItem::ComponentInstance(interface) => {
                let outer = component.get_export_index(None, export);
                for (inner, item) in interface.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = item.ty {
                        names.push(format!("{export}#{inner}"));
                        if inner == name {
                            found.push((component.get_export_index(outer.as_ref(), inner), function));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    let names = list(names.iter().map(String::as_str));
    match (found.pop(), found.is_empty()) {
        (Some((Some(index), function)), true) => Ok((index, function)),
        (Some(_), false) => {
            Err(Refusal::bad_module(format!("several interfaces have a function `{name}`: {names}")))
        }
        _ => Err(Refusal::bad_module(format!("it exports no function `{name}`; its functions: {names}"))),
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("write what the function returned to stdout")
}
