//! Starts another program with variables whose names systemd does not pass on, such as `NOMAD_ALLOC_PORT_http-admin`.
//!
//! systemd gives a process only variables whose names have letters, digits and `_`. So the driver gives each of the
//! others a name of its own, and this program, which the unit runs in the place of the task's, puts them back:
//!
//! ```text
//! wasm-shim with-variables PREFIX PATH ARGV0 [ARGUMENT…]
//! PREFIX0=NAME=VALUE ──► NAME=VALUE
//! ```

use nix::errno::Errno;
use nix::unistd::execve;
use std::ffi::{CString, OsString};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The first word of the command line.
const VERB: &str = "with-variables";
/// The exit codes of env(1): the program cannot be run, or is not there.
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Becomes the program of the command line, if this process is asked for that; else, or if that is not possible, returns:
/// `None` when nobody asks, or the exit code after a line on stderr.
///
/// To be called before anything about this process is changed, since the program inherits it.
pub fn hand_over() -> Option<u8> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != VERB {
        return None;
    }
    let (Some(prefix), Some(path)) = (words.next(), words.next()) else {
        return Some(complain("with-variables: a prefix, a path and a name are needed"));
    };
    let env = std::env::vars_os().filter_map(|variable| text(restored(variable, &prefix)));
    let env: Vec<CString> = env.collect();
    let argv: Vec<CString> = words.filter_map(text).collect();
    let shown = path.to_string_lossy().into_owned();
    let path = text(path)?;
    // Nothing holds a zero byte that came from the kernel.
    let Err(error) = execve(&path, &argv, &env);
    complain(&format!("{shown} cannot be executed: {}", error.desc()));
    Some(if error == Errno::ENOENT { NOT_FOUND } else { NOT_RUN })
}

/// A variable as the program shall have it, `NAME=VALUE`.
fn restored((name, value): (OsString, OsString), prefix: &OsString) -> OsString {
    if name.as_bytes().starts_with(prefix.as_bytes()) {
        return value;
    }
    let mut variable = name;
    variable.push("=");
    variable.push(value);
    variable
}

fn text(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

fn complain(what: &str) -> u8 {
    // Who does not read it learns the exit code.
    let _ = writeln!(std::io::stderr(), "wasm-shim: {what}");
    NOT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_has_its_name_again_and_everything_else_stays() {
        let restored = |name: &str, value: &str| restored((name.into(), value.into()), &"CARRIED_".into());
        assert_eq!(restored("CARRIED_0", "A-B=x=y"), "A-B=x=y");
        assert_eq!(restored("CARRIED", "x"), "CARRIED=x");
        assert_eq!(restored("A", "x\ny"), "A=x\ny");
    }
}
