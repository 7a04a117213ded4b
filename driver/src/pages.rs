//! Files that packages contain in addition to the programs, generated from the command line: manual pages and shell
//! completions.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes all files, each under the name that its reader expects.
pub fn write(command: Command, directory: &Path) -> io::Result<()> {
    // The pages of `help` would be empty.
    let mut command = command.disable_help_subcommand(true);
    fs::create_dir_all(directory)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    clap_mangen::generate_to(command, directory)
}
