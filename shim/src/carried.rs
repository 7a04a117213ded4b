//! Variables whose names systemd does not accept, such as `NOMAD_ALLOC_PORT_http-admin`.
//!
//! systemd gives a process only variables whose names consist of letters, digits and `_`. So the driver gives each of
//! the other variables a substitute name, and this program, which the unit runs in place of the task's program,
//! restores them:
//!
//! ```text
//! PREFIX0=NAME=VALUE ──► NAME=VALUE
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A variable in the form for the program, `NAME=VALUE`.
pub fn restored((name, value): (OsString, OsString), prefix: Option<&OsStr>) -> OsString {
    if prefix.is_some_and(|prefix| name.as_bytes().starts_with(prefix.as_bytes())) {
        return value;
    }
    let mut variable = name;
    variable.push("=");
    variable.push(value);
    variable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_has_its_name_again_and_everything_else_stays() {
        let restored =
            |name: &str, value: &str| restored((name.into(), value.into()), Some(OsStr::new("CARRIED_")));
        assert_eq!(restored("CARRIED_0", "A-B=x=y"), "A-B=x=y");
        assert_eq!(restored("CARRIED", "x"), "CARRIED=x");
        assert_eq!(restored("A", "x\ny"), "A=x\ny");
    }
}
