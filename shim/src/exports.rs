//! The purpose of a module or component, derived from its exports. The compiler checks it before it compiles.

use wasmparser::{Parser, Payload};

use crate::content::Format;

/// What a module or component exports.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Exports {
    /// A program that runs to its end: `_start`, or `wasi:cli/run`.
    pub command: bool,
    /// A handler of `wasi:http`.
    pub server: bool,
}

/// The exports of `wasm`, a valid module or component.
pub fn of(wasm: &[u8], kind: Format) -> Exports {
    let mut exports = Exports::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            // The content of a component is exported by the component, or not at all.
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ExportSection(names)) if depth == 0 && kind == Format::Module => {
                exports.command |= names.into_iter().flatten().any(|export| export.name == "_start");
            }
            Ok(Payload::ComponentExportSection(names)) if depth == 0 => {
                for export in names.into_iter().flatten() {
                    let name = export.name.name;
                    match name.split_once('@').map_or(name, |(name, _)| name) {
                        "wasi:cli/run" => exports.command = true,
                        "wasi:http/incoming-handler" | "wasi:http/handler" => exports.server = true,
                        _ => {}
                    }
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    exports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_from_a_server() {
        let (neither, command) = (Exports::default(), Exports { command: true, server: false });
        let server = Exports { command: false, server: true };
        for (text, expected) in [
            ("(module)", neither),
            ("(module (func (export \"_start\")))", command),
            ("(component (core module (func (export \"_start\"))))", neither),
            ("(component (instance $i) (export \"wasi:cli/run@0.2.3\" (instance $i)))", command),
            ("(component (instance $i) (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))", server),
            ("(component (instance $i) (export \"wasi:http/handler@0.3.0\" (instance $i)))", server),
        ] {
            let kind = if text.starts_with("(module") { Format::Module } else { Format::Component };
            assert_eq!(of(&wat::parse_str(text).unwrap(), kind), expected, "{text}");
        }
    }
}
