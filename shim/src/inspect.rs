//! Prints the properties of a guest, and the grants that it would need.

use crate::args::Guest;
use crate::code::Code;
use crate::guest;
use crate::outcome::causes;
use crate::wasi;
use crate::world::World;
use serde_json::{Value, json};
use shim_interface::visible_line;
use std::fmt::Write as _;
use wasmtime::Result;
use wasmtime::error::Context as _;

/// The description of a guest, as text, or in JSON for scripts: an object with `file`, `kind` (`module` or
/// `component`), `worlds`, `imports`, `exports`, `grants` (objects with `import`, `option` and `job`) and `cannot_run`
/// (the reason, or null).
///
/// # Errors
/// When it is not WebAssembly, or not valid.
pub fn inspect(guest: &Guest, as_json: bool) -> Result<String> {
    let code = guest::open(guest).with_context(|| format!("inspect `{}`", guest.label))?;
    let seen = Seen::of(&code);
    Ok(if as_json { format!("{:#}\n", seen.json(guest)) } else { seen.text(guest) })
}

struct Seen {
    kind: &'static str,
    worlds: Result<Vec<World>>,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Imports that are only useful with a grant: the start of their name, the option of `run`, and the option of a job.
const GRANTS: &[(&str, &str, &str)] = &[
    ("wasi:cli/environment", "--env NAME=VALUE", "env"),
    ("wasi:config/store", "-S config-var=NAME=VALUE", "wasm.config"),
    ("wasi:filesystem/preopens", "--dir HOST::GUEST", "wasm.dirs"),
    ("wasi:http/client", "--connect ADDRESS:PORT", "wasm.connect"),
    ("wasi:http/outgoing-handler", "--connect ADDRESS:PORT", "wasm.connect"),
    ("wasi:sockets/ip-name-lookup", "-S allow-ip-name-lookup", "wasm.name_lookup"),
    ("wasi:sockets/tcp@", "--connect ADDRESS:PORT, --listen ADDRESS:PORT", "wasm.connect, wasm.listen"),
    ("wasi:sockets/types@0.3", "--connect ADDRESS:PORT, --listen ADDRESS:PORT", "wasm.connect, wasm.listen"),
    ("wasi:sockets/udp@", "--connect ADDRESS:PORT, --listen ADDRESS:PORT", "wasm.connect, wasm.listen"),
    ("wasi_snapshot_preview1::environ_get", "--env NAME=VALUE", "env"),
    ("wasi_snapshot_preview1::fd_prestat_get", "--dir HOST::GUEST", "wasm.dirs"),
    ("wasi_unstable::fd_prestat_get", "--dir HOST::GUEST", "wasm.dirs"),
];

impl Seen {
    fn of(code: &Code) -> Self {
        let worlds = World::of(code);
        match code {
            Code::Module(module) => Self {
                kind: "module",
                // The exports may be right and the imports still be missing.
                worlds: worlds.and_then(|worlds| guest::link(module).map(|_| worlds)),
                imports: module.imports().map(|i| format!("{}::{}", i.module(), i.name())).collect(),
                exports: module.exports().map(|export| export.name().to_owned()).collect(),
            },
            Code::Component(component) => {
                let ty = component.component_type();
                Self {
                    kind: "component",
                    worlds: worlds.and_then(|worlds| wasi::link(component).map(|_| worlds)),
                    imports: ty.imports(component.engine()).map(|(name, _)| name.to_owned()).collect(),
                    exports: ty.exports(component.engine()).map(|(name, _)| name.to_owned()).collect(),
                }
            }
        }
    }

    fn worlds(&self) -> Vec<String> {
        let name = |world: &World| match world {
            World::Command(wasi) => format!("command of WASI {wasi}"),
            World::Server(wasi) => format!("HTTP server of WASI {wasi}"),
        };
        self.worlds.iter().flatten().map(name).collect()
    }

    fn grants(&self) -> impl Iterator<Item = (&str, &'static str, &'static str)> {
        let grant = |import: &'_ String| {
            let found = GRANTS.iter().find(|(begin, ..)| import.starts_with(begin));
            found.map(|(_, option, job)| (*option, *job))
        };
        self.imports
            .iter()
            .filter_map(move |import| grant(import).map(|(option, job)| (import.as_str(), option, job)))
    }

    fn json(&self, guest: &Guest) -> Value {
        let grants: Vec<_> = self
            .grants()
            .map(|(import, option, job)| json!({ "import": import, "option": option, "job": job }))
            .collect();
        json!({
            "file": guest.label,
            "kind": self.kind,
            "worlds": self.worlds(),
            "imports": self.imports,
            "exports": self.exports,
            "grants": grants,
            "cannot_run": self.worlds.as_ref().err().map(causes),
        })
    }

    fn text(&self, guest: &Guest) -> String {
        let mut text = format!("{}: a {}", guest.label, self.kind);
        let worlds = self.worlds();
        // Writing to a string cannot fail.
        let _ = match &self.worlds {
            Ok(_) => writeln!(text, ", {}", worlds.join(", ")),
            Err(error) => writeln!(text, " that cannot be run: {}", visible_line(&causes(error))),
        };
        for (title, names) in [("imports", &self.imports), ("exports", &self.exports)] {
            let _ = writeln!(text, "{title}:{}", if names.is_empty() { " nothing" } else { "" });
            for name in names {
                let _ = writeln!(text, "  {}", visible_line(name));
            }
        }
        let grants: Vec<_> = self.grants().collect();
        let _ = writeln!(text, "grants that it could use:{}", if grants.is_empty() { " none" } else { "" });
        for (import, option, job) in grants {
            let _ = writeln!(text, "  {}: {option} (in a job: {job})", visible_line(import));
        }
        text
    }
}
