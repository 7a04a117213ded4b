//! The purpose of a guest, derived from its exports. It is decided before anything is linked, so that an error can name
//! the reason. Trying and failing would report less and cost more.

use crate::code::Code;
use crate::outcome::Refusal;
use std::fmt;
use wasmtime::component::Component;
use wasmtime::{ExternType, Module, Result};

/// A generation of WASI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasiVersion {
    /// 0.1 and earlier: functions that a core module imports.
    P1,
    /// 0.2: interfaces of a component.
    P2,
    /// 0.3: asynchronous interfaces of a component.
    P3,
}

impl WasiVersion {
    /// The generation of an interface with this version, for example `0.2.6`.
    pub fn of_version(version: &str) -> Option<Self> {
        let is = |minor: &str| {
            version.strip_prefix(minor).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is("0.2").then_some(Self::P2).or_else(|| is("0.3").then_some(Self::P3))
    }
}

impl fmt::Display for WasiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P1 => "0.1",
            Self::P2 => "0.2",
            Self::P3 => "0.3",
        })
    }
}

/// The purpose of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The guest runs to its end.
    Command(WasiVersion),
    /// The guest answers HTTP requests.
    Server(WasiVersion),
}

impl World {
    /// The worlds that `code` supports; a component can support several. The newest WASI comes first.
    ///
    /// # Errors
    /// When it supports none; the message names its exports.
    pub fn of(code: &Code) -> Result<Vec<Self>> {
        match code {
            Code::Module(module) => has_start(module).map(|()| vec![Self::Command(WasiVersion::P1)]),
            Code::Component(component) => of_component(component),
        }
    }
}

fn of_component(component: &Component) -> Result<Vec<World>> {
    let ty = component.component_type();
    let mut worlds = Vec::new();
    let mut names = Vec::new();
    for (export, _) in ty.exports(component.engine()) {
        let (name, version) = export.split_once('@').unwrap_or((export, ""));
        match (name, WasiVersion::of_version(version)) {
            ("wasi:cli/run", Some(wasi)) => worlds.push(World::Command(wasi)),
            ("wasi:http/incoming-handler", Some(WasiVersion::P2)) => {
                worlds.push(World::Server(WasiVersion::P2));
            }
            ("wasi:http/handler", Some(WasiVersion::P3)) => worlds.push(World::Server(WasiVersion::P3)),
            _ => {}
        }
        names.push(export);
    }
    if worlds.is_empty() {
        return Err(Refusal::bad_module(format!(
            "it exports {}, and neither `wasi:cli/run` nor a handler of `wasi:http`, of WASI 0.2 or 0.3; \
             build it for wasm32-wasip2",
            list(names.into_iter())
        )));
    }
    worlds.sort_by_key(|world| {
        matches!(world, World::Command(WasiVersion::P2) | World::Server(WasiVersion::P2))
    });
    Ok(worlds)
}

/// Checks that a command exports `_start`, without parameters and results.
fn has_start(module: &Module) -> Result<()> {
    match module.get_export("_start") {
        Some(ExternType::Func(start)) if start.params().len() == 0 && start.results().len() == 0 => Ok(()),
        Some(_) => {
            Err(Refusal::bad_module("its export `_start` is not a function without parameters and results"))
        }
        None if module.get_export("_initialize").is_some() => Err(Refusal::bad_module(
            "it is a reactor: it exports `_initialize` and no `_start`; build it as a command, with a main function",
        )),
        None => Err(Refusal::bad_module(format!(
            "it exports {}, and no `_start`; build it for wasm32-wasip1",
            list(module.exports().map(|export| export.name()))
        ))),
    }
}

/// A list for a message, for example "`memory`, `add`".
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 8;
    let mut names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
