//! The command line, in the vocabulary of the wasmtime CLI.

use crate::engine::RELEASE;
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};

/// Runs one WebAssembly guest and ends with its exit code.
#[derive(Debug, Parser)]
#[command(
    name = "wasm-shim",
    version = RELEASE,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: the guest's own, 0 to 255; 134 after a trap; 125 if the guest was not started;\n\
                  143 and 130 when ended by SIGTERM and SIGINT."
)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `run`, for the short form `wasm-shim FILE`.
    #[command(flatten)]
    pub run: Run,
}

/// What the shim can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a guest; the word `run` may be left out
    Run(Run),
    /// Compile a guest to native code, with wasm-shim-compile from the directory of wasm-shim
    Compile(Compile),
}

/// How to run a guest.
#[derive(Debug, Args)]
pub struct Run {
    /// Let the guest see the directory HOST as GUEST (default: the same name); `:ro` denies writing
    #[arg(long = "dir", value_name = "HOST[::GUEST[:ro]]", value_parser = Dir::parse)]
    pub dirs: Vec<Dir>,
    /// Give the guest a variable; without a value, the one from wasm-shim's own environment. Nothing else is inherited
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = Var::parse)]
    pub env: Vec<Var>,
    /// The guest's argv[0] (default: the base name of FILE)
    #[arg(long, value_name = "NAME")]
    pub argv0: Option<String>,
    /// Accept a FILE from `wasm-shim compile`. It is native code and not checked: only for files you made yourself
    #[arg(long)]
    pub allow_precompiled: bool,
    /// Compile in memory, and neither read nor write the cache
    #[arg(long)]
    pub no_cache: bool,
    /// The guest: a module for WASI 0.1 or a component for WASI 0.2; what follows are its arguments
    #[arg(value_names = ["FILE", "ARGS"], required = true, trailing_var_arg = true)]
    file_and_args: Vec<String>,
}

impl Run {
    /// The file to run, example `hello.wasm`.
    pub fn file(&self) -> &Path {
        Path::new(self.file_and_args.first().map_or("", String::as_str))
    }

    /// The guest's arguments, without its name.
    pub fn args(&self) -> &[String] {
        self.file_and_args.get(1..).unwrap_or_default()
    }

    /// The guest's `argv[0]`, example `hello.wasm`.
    pub fn argv0(&self) -> String {
        match (&self.argv0, self.file().file_name()) {
            (Some(said), _) => said.clone(),
            (None, Some(base)) => base.to_string_lossy().into_owned(),
            (None, None) => String::new(),
        }
    }
}

/// How to compile a guest.
#[derive(Debug, Args)]
pub struct Compile {
    /// The module or component to compile
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to write the native code
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
}

/// A directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir {
    /// Its path here, example `/srv/data`.
    pub host: String,
    /// Its path in the guest, example `/data`.
    pub guest: String,
    /// May the guest write?
    pub writable: bool,
}

impl Dir {
    /// Reads `HOST`, `HOST::GUEST`, `HOST::GUEST:ro` or, for a GUEST that itself ends in `:ro`, `HOST::GUEST:rw`.
    fn parse(said: &str) -> Result<Self, String> {
        let (host, guest, writable) = match said.split_once("::") {
            None => (said, said, true),
            Some((host, rest)) => match (rest.strip_suffix(":ro"), rest.strip_suffix(":rw")) {
                (Some(guest), _) => (host, guest, false),
                (_, Some(guest)) => (host, guest, true),
                (None, None) => (host, rest, true),
            },
        };
        if host.is_empty() || guest.is_empty() {
            return Err("both directories need a name: HOST::GUEST or HOST::GUEST:ro".to_owned());
        }
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), writable })
    }
}

/// A variable for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Var {
    /// Its name, not empty and without `=`, example `RUST_LOG`.
    pub name: String,
    /// Its value, which may be empty, span lines, and contain `=`.
    pub value: String,
}

impl Var {
    fn parse(said: &str) -> Result<Self, String> {
        let (name, value) = match said.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (said, inherited(said)?),
        };
        if name.is_empty() {
            return Err("a variable's name is neither empty nor contains `=`; write NAME=VALUE".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

fn inherited(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| {
        format!("`{name}` is not in the environment of wasm-shim, or not in UTF-8; write {name}=VALUE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(line: &[&str]) -> Run {
        let cli = Cli::try_parse_from([&["wasm-shim"], line].concat()).unwrap();
        match cli.command {
            None => cli.run,
            Some(Command::Run(run)) => run,
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_word_run_may_be_left_out() {
        for line in [&["--dir", "/a", "x.wasm", "1"][..], &["run", "--dir", "/a", "x.wasm", "1"][..]] {
            let run = run(line);
            assert_eq!((run.file(), run.args()), (Path::new("x.wasm"), &["1".to_owned()][..]));
            assert_eq!(run.dirs.len(), 1);
        }
    }

    #[test]
    fn what_follows_the_file_belongs_to_the_guest() {
        let given = ["--env", "A=B", "--", "run", "-h", ""];
        for start in [&["x.wasm"][..], &["run", "x.wasm"], &["run", "--", "x.wasm"], &["--", "x.wasm"]] {
            let run = run(&[start, &given].concat());
            assert_eq!(run.args(), given, "after {start:?}");
            assert!(run.env.is_empty());
        }
    }

    #[test]
    fn argv0_is_the_base_name_unless_said() {
        assert_eq!(run(&["/a/b.wasm"]).argv0(), "b.wasm");
        assert_eq!(run(&["--argv0", "c", "/a/b.wasm"]).argv0(), "c");
    }

    #[test]
    fn directories_are_read_as_in_wasmtime() {
        let dir =
            |host: &str, guest: &str, writable| Dir { host: host.into(), guest: guest.into(), writable };
        assert_eq!(Dir::parse("/a").unwrap(), dir("/a", "/a", true));
        assert_eq!(Dir::parse("/a::/b").unwrap(), dir("/a", "/b", true));
        assert_eq!(Dir::parse("/a::/b:ro").unwrap(), dir("/a", "/b", false));
        assert_eq!(Dir::parse("/a::/b:ro:rw").unwrap(), dir("/a", "/b:ro", true));
        assert!(Dir::parse("::/b").is_err());
        assert!(Dir::parse("/a::").is_err());
    }

    #[test]
    fn variables_keep_their_value_exactly() {
        let var = |name: &str, value: &str| Var { name: name.into(), value: value.into() };
        assert_eq!(Var::parse("A=").unwrap(), var("A", ""));
        assert_eq!(Var::parse("A=b=\"c\"\nd").unwrap(), var("A", "b=\"c\"\nd"));
        assert!(Var::parse("=A=b").is_err());
        assert!(Var::parse("").is_err());
        assert!(Var::parse("WASM_SHIM_TEST_SURELY_UNSET").is_err());
    }
}
