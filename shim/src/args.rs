//! The command line, in the vocabulary of the wasmtime CLI.

use crate::engine::RELEASE;
use crate::env::Var;
use crate::network::Network;
use crate::settings::{self, Said, WasiGrants, Wasm};
use clap::{Args, Parser, Subcommand};
use shim_interface::{AddressRule, Directory, Same, digits};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use task_init::Calls;

/// Runs one WebAssembly guest: a command to its end, a server until SIGTERM.
#[derive(Debug, Parser)]
#[command(
    name = "wasm-shim",
    version = RELEASE,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: the guest's own, 0 to 255; 121 out of fuel, 122 at -W max-memory-size,\n\
                  124 after -W timeout, 125 if wasm-shim failed, 126 for a bad module, 127 for a missing import,\n\
                  134 after a trap; 143 and 130 when ended by SIGTERM and SIGINT."
)]
pub struct Cli {
    /// What to do; `run` or `serve`, as the guest's exports say, if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `run`, for the short form `wasm-shim FILE`.
    #[command(flatten)]
    pub run: Run,
}

/// The command line of this process.
#[derive(Debug)]
pub enum Invocation {
    /// A subcommand.
    Command(Command),
    /// The short form, `wasm-shim FILE`.
    File(Run),
}

impl Invocation {
    /// The command line of this process.
    ///
    /// The commands that tasks are started with are parsed alone: to define all the others takes as long as to load a
    /// guest.
    ///
    /// # Errors
    /// When the command line is invalid, or requests help; the error contains the help text.
    pub fn read() -> Result<Self, clap::Error> {
        #[derive(Parser)]
        #[command(
            name = "wasm-shim run",
            bin_name = "wasm-shim run",
            version = RELEASE,
            about = "Run a command to its end; the word `run` may be left out"
        )]
        struct OnlyRun {
            #[command(flatten)]
            run: Run,
        }
        if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
            let OnlyRun { run } = OnlyRun::try_parse_from(std::env::args_os().skip(1))?;
            return Ok(Self::Command(Command::Run(run)));
        }
        let Cli { command, run } = Cli::try_parse()?;
        Ok(command.map_or(Self::File(run), Self::Command))
    }
}

/// What the shim can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command to its end; the word `run` may be left out
    Run(Run),
    /// Serve HTTP with a guest that exports `wasi:http`
    Serve(Serve),
    /// Compile a guest to native code, with wasm-shim-compile from the directory of wasm-shim
    Compile(Compile),
    /// Say what a guest is, and what it would have to be granted
    Inspect(Inspect),
}

/// What a guest gets, whether it runs or serves.
#[derive(Clone, Debug, Args)]
pub struct Grants {
    /// Let the guest see a directory, as GUEST (default: under the same path), writable unless `:ro`
    #[arg(long = "dir", value_name = "HOST[::GUEST[:ro]]", value_parser = Directory::parse)]
    pub dirs: Vec<Directory>,
    /// Refuse to start where another directory is at the path: DEVICE:INODE:PATH, from the driver
    #[arg(long, hide = true, value_name = "DEVICE:INODE:PATH", value_parser = Same::parse)]
    pub same: Vec<Same>,
    /// Make the system calls of this preset of the driver's sandbox and no others, from the driver
    #[arg(long, hide = true, value_name = "PRESET")]
    pub calls: Option<Calls>,
    /// Give the guest a variable; without a value, the one from wasm-shim's own environment. Nothing else is inherited
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = Var::parse)]
    pub env: Vec<Var>,
    /// The guest's `argv[0]`, and its name in messages (default: the base name of FILE)
    #[arg(long, value_name = "NAME")]
    pub argv0: Option<String>,
    /// Let the guest connect or send to addresses, also by HTTP: [tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT], `*` for any
    #[arg(long, value_name = "RULE", value_parser = AddressRule::parse)]
    pub connect: Vec<AddressRule>,
    /// Let the guest bind addresses, listen and accept on them
    #[arg(long, value_name = "RULE", value_parser = AddressRule::parse)]
    pub listen: Vec<AddressRule>,
    /// Give the guest the configuration (wasi:config) that is in this variable of wasm-shim's environment, as a JSON
    /// object whose values are strings: nobody else can see it there
    #[arg(long, value_name = "NAME")]
    pub config_env: Option<String>,
    /// Limits and features: fuel=N, timeout=TIME, max-memory-size=SIZE, max-table-elements=N, max-wasm-stack=SIZE,
    /// max-instances=N, max-tables=N, max-memories=N, trap-on-grow-failure, backtrace-details (files and lines of what was
    /// built for debugging), and proposals such as simd=n
    #[arg(short = 'W', long = "wasm", value_name = "KEY[=VALUE][,..]", value_parser = settings::parse)]
    pub wasm: Vec<Said>,
    /// WASI: inherit-network (every address), allow-ip-name-lookup, config-var=NAME=VALUE (wasi:config)
    #[arg(short = 'S', long = "wasi", value_name = "KEY[=VALUE][,..]", value_parser = settings::parse)]
    pub wasi: Vec<Said>,
    /// Accept a FILE from `wasm-shim compile`. It is native code and not checked: only for files you made yourself
    #[arg(long)]
    pub allow_precompiled: bool,
    /// Compile in memory, and neither read nor write the cache
    #[arg(long)]
    pub no_cache: bool,
}

/// A guest and all its settings, whether it runs or serves.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The file, for example `hello.wasm`.
    pub file: PathBuf,
    /// The guest's `argv[0]`, for example `hello.wasm`.
    pub name: String,
    /// The guest's name in messages: the name that was set, or else the file, for example `/srv/hello.wasm`.
    pub label: String,
    /// The arguments, without `argv[0]`.
    pub args: Vec<String>,
    /// The variables; of two with the same name, the last one.
    pub env: Vec<Var>,
    /// The directories.
    pub dirs: Vec<Directory>,
    /// Network access.
    pub network: Network,
    /// Limits and features.
    pub wasm: Wasm,
    /// The other WASI grants.
    pub wasi: WasiGrants,
    /// The system calls that this process may make while it runs the guest: of a preset, or all but those that make
    /// processes.
    pub calls: Option<Calls>,
    /// Whether precompiled code is trusted.
    pub allow_precompiled: bool,
    /// Whether the compiled code may be cached.
    pub cached: bool,
    /// The function to call instead of the program, for example `add`.
    pub invoke: Option<String>,
    /// The file to which the memory is written after a trap.
    pub coredump: Option<PathBuf>,
}

impl Guest {
    fn resolve(file: &Path, args: &[String], grants: &Grants) -> Result<Self, String> {
        grants.same.iter().try_for_each(Same::check)?;
        let base = || file.file_name().map(|base| base.to_string_lossy().into_owned());
        let wasi = WasiGrants::resolve(&grants.wasi, grants.config_env.as_deref())?;
        // WASI would pass two variables of the same name.
        let overridden =
            |index: usize, var: &Var| grants.env[index + 1..].iter().any(|later| later.name == var.name);
        let env = grants.env.iter().enumerate().filter(|(index, var)| !overridden(*index, var));
        Ok(Self {
            file: file.to_owned(),
            name: grants.argv0.clone().or_else(base).unwrap_or_default(),
            label: grants.argv0.clone().unwrap_or_else(|| file.display().to_string()),
            args: args.to_owned(),
            env: env.map(|(_, var)| var.clone()).collect(),
            dirs: grants.dirs.clone(),
            network: Network::new(grants.connect.clone(), grants.listen.clone(), wasi.inherit_network),
            wasm: Wasm::resolve(&grants.wasm)?,
            wasi,
            calls: grants.calls,
            allow_precompiled: grants.allow_precompiled,
            cached: !grants.no_cache,
            invoke: None,
            coredump: None,
        })
    }
}

/// How to run a guest.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    grants: Grants,
    /// Call this function in the place of the guest's program and print what it returns: of a module by its name, with
    /// numbers as ARGS; of a component in WAVE, such as 'add(1, 2)'
    #[arg(long, value_name = "FUNCTION")]
    invoke: Option<String>,
    /// Debugging: coredump=FILE, where the guest's memory and stack are written when it traps
    #[arg(short = 'D', long = "debug", value_name = "KEY[=VALUE][,..]", value_parser = settings::parse)]
    debug: Vec<Said>,
    /// Known from the wasmtime CLI, and not to be had.
    #[arg(long, hide = true, value_parser = no_preload)]
    preload: Option<String>,
    /// The guest: a module for WASI 0.1, or a component for WASI 0.2 or 0.3; `-` is standard input. What follows are its
    /// arguments
    #[arg(value_names = ["FILE", "ARGS"], required = true, trailing_var_arg = true)]
    file_and_args: Vec<String>,
}

impl Run {
    /// The guest to run.
    ///
    /// # Errors
    /// When a setting is unknown or its value is invalid; the message names it.
    pub fn guest(&self) -> Result<Guest, String> {
        let (file, args) = self.file_and_args.split_first().ok_or("name a file to run")?;
        let guest = Guest::resolve(Path::new(file), args, &self.grants)?;
        let coredump = settings::coredump(&self.debug)?;
        Ok(Guest { invoke: self.invoke.clone(), coredump, ..guest })
    }
}

fn no_preload(_: &str) -> Result<String, String> {
    Err("a guest is one file here: join modules with `wasm-merge`, or components with `wac plug`".to_owned())
}

/// How to serve with a guest.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    grants: Grants,
    /// How it treats its requests.
    #[command(flatten)]
    pub http: Http,
    /// The guest: a component that exports `wasi:http/incoming-handler` or `wasi:http/handler`
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Serve {
    /// The guest to serve with.
    ///
    /// # Errors
    /// As [`Run::guest`].
    pub fn guest(&self) -> Result<Guest, String> {
        Guest::resolve(&self.file, &[], &self.grants)
    }
}

/// How a server treats its requests.
#[derive(Clone, Debug, Args)]
pub struct Http {
    /// Where to listen, if no socket was passed by systemd (LISTEN_FDS)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080", value_parser = address)]
    pub addr: SocketAddr,
    /// Which of the passed sockets to serve, by its name (LISTEN_FDNAMES)
    #[arg(long, value_name = "NAME")]
    pub listen_fd: Option<String>,
    /// How many requests the guest works on at the same time; others wait
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_1)]
    pub max_concurrent_requests: usize,
    /// How many connections are open at the same time; others wait
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_least_1)]
    pub max_concurrent_connections: usize,
    /// How many requests an instance of the guest answers (default: 1 with WASI 0.2, 128 with 0.3)
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub max_instance_reuse_count: Option<usize>,
    /// How many of them at the same time (default: 16; with WASI 0.2 always 1)
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub max_instance_concurrent_reuse_count: Option<usize>,
    /// How long an idle instance is kept
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = settings::duration)]
    pub idle_instance_timeout: Duration,
    /// How long a client may stall a request, by not sending its body or not reading the response; each 500 bytes add a
    /// second, up to this time. Time counts fivefold while other requests wait. `0` is no limit
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = settings::duration_or_0)]
    pub client_timeout: Duration,
    /// How long after SIGTERM requests may take to be finished
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = settings::duration)]
    pub shutdown_timeout: Duration,
    /// Log each request to stderr
    #[arg(long)]
    pub access_log: bool,
}

impl Default for Http {
    /// The defaults of the command line.
    fn default() -> Self {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            http: Http,
        }
        Only::parse_from(["wasm-shim"]).http
    }
}

/// Reads an address with a port; a name, such as `localhost:8080`, is looked up.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map(|mut addresses| addresses.next());
    let wanted = "an address and a port are wanted, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080";
    found.map_err(|error| format!("{wanted} ({error})"))?.ok_or_else(|| wanted.to_owned())
}

fn at_least_1(text: &str) -> Result<usize, String> {
    let number = digits::<u32>(text).filter(|number| *number > 0);
    number
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| format!("expected a number from 1 to {}", u32::MAX))
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
    /// What changes code: fuel, epoch-interruption (for `serve`), backtrace-details, and proposals such as simd=n
    #[arg(short = 'W', long = "wasm", value_name = "KEY[=VALUE][,..]", value_parser = settings::parse)]
    pub wasm: Vec<Said>,
}

/// How to inspect a guest.
#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    grants: Grants,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// The module or component
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    /// The guest to inspect.
    ///
    /// # Errors
    /// As [`Run::guest`].
    pub fn guest(&self) -> Result<Guest, String> {
        Guest::resolve(&self.file, &[], &self.grants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use clap::CommandFactory;
    use proptest::prelude::*;

    fn run(line: &[&str]) -> Guest {
        let cli = Cli::try_parse_from([&["wasm-shim"], line].concat()).unwrap();
        match cli.command {
            None => cli.run.guest().unwrap(),
            Some(Command::Run(run)) => run.guest().unwrap(),
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
            let guest = run(line);
            assert_eq!((guest.file.as_path(), &guest.args[..]), (Path::new("x.wasm"), &["1".to_owned()][..]));
            assert_eq!(guest.dirs.len(), 1);
        }
    }

    #[test]
    fn what_follows_the_file_belongs_to_the_guest() {
        let given = ["--env", "A=B", "--", "run", "-h", ""];
        for start in [&["x.wasm"][..], &["run", "x.wasm"], &["run", "--", "x.wasm"], &["--", "x.wasm"]] {
            let guest = run(&[start, &given].concat());
            assert_eq!(guest.args, given, "after {start:?}");
            assert!(guest.env.is_empty());
        }
    }

    #[test]
    fn argv0_is_the_base_name_unless_said() {
        assert_eq!(run(&["/a/b.wasm"]).name, "b.wasm");
        assert_eq!(run(&["--argv0", "c", "/a/b.wasm"]).name, "c");
    }

    #[test]
    fn of_two_variables_with_one_name_the_last_one_counts() {
        let guest = run(&["--env", "A=1", "--env", "B=2", "--env", "A=3", "x.wasm"]);
        let variables: Vec<_> = guest.env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
        assert_eq!(variables, [("B", "2"), ("A", "3")]);
    }

    #[test]
    fn a_server_has_defaults_and_they_are_those_of_the_short_form() {
        let cli = Cli::try_parse_from(["wasm-shim", "serve", "x.wasm"]).unwrap();
        let Some(Command::Serve(serve)) = cli.command else { panic!("no server") };
        assert_eq!(format!("{:?}", serve.http), format!("{:?}", Http::default()));
        assert_eq!(serve.http.addr, "0.0.0.0:8080".parse().unwrap());
    }

    #[test]
    fn fuzz_every_command_line_is_read_or_refused_and_what_follows_the_file_is_the_guests() {
        let word = prop_oneof![
            "run|serve|inspect|compile|x\\.wasm|--|-|--dir|--env|--connect|--listen|-W|-S|--argv0|--no-cache|-h|-V|-o|--json",
            "--(dir|env|connect|listen|wasm|wasi|argv0|addr|client-timeout|idle-instance-timeout|config-env)=[^a]{0,6}",
            "-(W|S|o)(fuel=1|simd|inherit-network|timeout=1)",
            "/a(::/b(:ro)?)?|A=b|\\*:80|tcp:1\\.2\\.3\\.4:5|0|1s|30s|4294967296|fuel=1|simd=n|inherit-network",
            any::<String>(),
        ];
        holds_for(&proptest::collection::vec(word, 0..8), |line| {
            let read = Cli::try_parse_from([&["wasm-shim".to_owned()], &line[..]].concat());
            let Ok(cli) = read else { return Ok(()) };
            let guest = match &cli.command {
                None => cli.run.guest(),
                Some(Command::Run(run)) => run.guest(),
                Some(Command::Serve(serve)) => serve.guest(),
                Some(Command::Inspect(inspect)) => inspect.guest(),
                Some(Command::Compile(_)) => return Ok(()),
            };
            let Ok(guest) = guest else { return Ok(()) };
            prop_assert!(line.ends_with(&guest.args));
            let own = &line[..line.len() - guest.args.len()];
            prop_assert!(
                own.last().is_some_and(|file| Path::new(file) == guest.file) || guest.args.is_empty()
            );
            // The arguments of the guest grant it nothing.
            let word = |name: &str| own.iter().any(|word| word.starts_with(name));
            prop_assert!(guest.dirs.is_empty() || word("--dir"));
            prop_assert!(guest.env.is_empty() || word("--env"));
            prop_assert!(!guest.wasi.inherit_network || word("-S") || word("--wasi"));
            prop_assert!(!guest.allow_precompiled);
            Ok(())
        });
    }
}
