//! Who filters the system calls of a task: systemd, or the init of the program and the runner of the guest.
//!
//! libseccomp writes a filter for a list of three hundred calls anew for every unit that starts, a fifth of a task's start.
//! So where the list is that of a preset, `wasm-shim` installs a filter that is written in microseconds
//! ([`task_init::Calls`]), and the unit only denies whole groups, which is cheap.

use task_init::Calls;

use crate::systemd::{Assignment, Meaning};
use crate::task::sandbox::preset::Preset;

const FILTER: &str = "SystemCallFilter";

/// What the unit denies, in place of the list of a preset.
const DENIED: &str = "~@clock @cpu-emulation @debug @keyring @module @mount @obsolete @raw-io @reboot @swap \
                      io_uring_enter io_uring_register io_uring_setup";
/// On top of that, with [`Preset::Strict`].
const DENIED_STRICT: &str = "~@privileged @resources";

/// The preset whose calls `wasm-shim` filters, if these settings have the list of a preset as it is; the settings are
/// changed accordingly.
pub(super) fn leave_to_shim(settings: &mut Vec<Assignment>) -> Option<Calls> {
    let text = |name| Assignment::last(settings, name).map(Assignment::meaning);
    let is = |name, word: &str| text(name) == Some(Meaning::Text(word.to_owned()));
    let native = [Meaning::Words(vec!["native".to_owned()])];
    let architectures: Vec<_> = settings
        .iter()
        .filter(|line| line.name() == "SystemCallArchitectures")
        .map(Assignment::meaning)
        .collect();
    // A program that may gain privileges has no filter of its own; other answers and architectures are systemd's.
    if !is("NoNewPrivileges", "yes") || !is("SystemCallErrorNumber", "EPERM") || architectures != native {
        return None;
    }
    let of = |lines: &[Assignment]| -> Vec<Assignment> {
        lines.iter().filter(|line| line.name() == FILTER).cloned().collect()
    };
    let given = of(settings);
    let presets =
        [(Preset::Wasm, Calls::Wasm), (Preset::Strict, Calls::Strict), (Preset::Standard, Calls::Standard)];
    let (_, calls) = presets.into_iter().find(|(preset, _)| of(preset.assignments()) == given)?;
    let denied = [Some(DENIED), (calls != Calls::Standard).then_some(DENIED_STRICT)];
    let denied = denied.into_iter().flatten().filter_map(|text| Assignment::parse(FILTER, text).ok());
    settings.retain(|line| line.name() != FILTER);
    settings.extend(Assignment::folded(denied));
    Some(calls)
}
