//! What packages contain beside the programs, made of the command line: manual pages, and completions for shells.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes all of it, each under the name that its reader wants.
pub fn write(command: Command, directory: &Path) -> io::Result<()> {
    // Its pages would say nothing.
    let mut command = command.disable_help_subcommand(true);
    fs::create_dir_all(directory)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    clap_mangen::generate_to(command, directory)
}
