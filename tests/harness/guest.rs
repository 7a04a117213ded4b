//! `guest IN.wat OUT.wasm`: makes WebAssembly of its text form, modules and components alike.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = args.as_slice() else {
        eprintln!("usage: guest IN.wat OUT.wasm");
        return ExitCode::from(2);
    };
    let made = wat::parse_file(from).map_err(|error| error.to_string());
    match made.and_then(|bytes| std::fs::write(to, bytes).map_err(|error| format!("write {to}: {error}"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    }
}
