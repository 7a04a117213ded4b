//! A guest that serves HTTP: where it listens, when it is ready, and how it treats its requests.

use std::time::Duration;

use crate::task::config::{Serve, TaskConfig};
use crate::task::spec::activation::{self, Address, Listener, Readiness};
use crate::task::spec::{Error, check_name, duration};

/// How long a server may take until it serves, if its job has no `notify` block.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);

/// The socket of the port that the guest serves on. It comes before all others of that name.
pub(crate) fn listener(config: &TaskConfig) -> Result<Option<Listener>, Error> {
    let serve = config.driver.wasm.as_ref().and_then(|wasm| wasm.serve.as_ref());
    let Some(label) = serve.and_then(|serve| serve.port.as_ref()) else { return Ok(None) };
    check_name("wasm.serve.port", label)?;
    let at = activation::address_of_port(label, config).ok_or_else(|| Error::Option {
        option: "wasm.serve.port",
        value: label.clone(),
        wanted: "the label of a port in the group's `network` block",
    })?;
    Ok(Some(Listener { name: label.clone(), at: Address::Port(at), datagrams: false, mode: None }))
}

/// What the runner of a server says of itself, unless the job has a `notify` block.
pub(crate) fn readiness(config: &TaskConfig) -> Readiness {
    let serves = config.driver.wasm.as_ref().is_some_and(|wasm| wasm.serve.is_some());
    Readiness { ready_within: serves.then_some(READY_WITHIN), ..Readiness::default() }
}

/// The runner's options for a server.
pub(super) fn server(serve: &Serve, config: &TaskConfig) -> Result<Vec<(&'static str, String)>, Error> {
    let wrong = |option, value: &str, wanted| Error::Option { option, value: value.to_owned(), wanted };
    let refused = |option: &str, reason: &str| {
        Err(Error::Refused { option: option.to_owned(), reason: reason.to_owned() })
    };
    if !config.driver.args.is_empty() {
        return refused(
            "args",
            "a guest that serves (`wasm.serve`) is given none; it has variables and `wasm.config`",
        );
    }
    if config.driver.wasm.as_ref().is_some_and(|wasm| wasm.timeout.is_some()) {
        return refused(
            "wasm.timeout",
            "one that serves has no end; `serve.timeout` is that of each request",
        );
    }
    let name = match (&serve.port, &serve.socket) {
        (Some(label), None) => label,
        (None, Some(name)) => match config.driver.socket.iter().find(|socket| socket.name == *name) {
            Some(socket) if socket.kind == "stream" => name,
            Some(_) => return Err(wrong("wasm.serve.socket", name, "a socket of `kind = \"stream\"`")),
            None => {
                return Err(wrong(
                    "wasm.serve.socket",
                    name,
                    "the name of one of the task's `socket` blocks",
                ));
            }
        },
        _ => return refused("wasm.serve", "it needs either a `port` or a `socket`"),
    };
    let count = |option, count: Option<u32>| match count {
        Some(0) => Err(wrong(option, "0", "a number of at least 1")),
        count => Ok(count.map(|count| count.to_string())),
    };
    let time = |option, text: Option<&String>| text.map(|text| time(option, text)).transpose();
    let options = [
        ("--listen-fd", Some(name.clone())),
        (
            "--max-concurrent-requests",
            count("wasm.serve.max_concurrent_requests", Some(serve.max_concurrent_requests))?,
        ),
        ("--max-instance-reuse-count", count("wasm.serve.reuse", serve.reuse)?),
        ("--max-instance-concurrent-reuse-count", count("wasm.serve.concurrency", serve.concurrency)?),
        ("--idle-instance-timeout", time("wasm.serve.idle_timeout", Some(&serve.idle_timeout))?),
        ("--shutdown-timeout", time("wasm.serve.shutdown_timeout", Some(&serve.shutdown_timeout))?),
        ("--client-timeout", Some(client_timeout(&serve.client_timeout)?)),
        ("-W", time("wasm.serve.timeout", serve.timeout.as_ref())?.map(|time| format!("timeout={time}"))),
    ];
    Ok(options.into_iter().filter_map(|(option, value)| Some((option, value?))).collect())
}

/// How long clients are waited for; nothing is for ever.
pub(super) fn client_timeout(text: &str) -> Result<String, Error> {
    const OPTION: &str = "wasm.serve.client_timeout";
    if duration(text) == Ok(Duration::ZERO) { Ok("0".to_owned()) } else { time(OPTION, text) }
}

/// A length of time as the runner reads it.
pub(super) fn time(option: &'static str, text: &str) -> Result<String, Error> {
    let wrong = |wanted| Error::Option { option, value: text.to_owned(), wanted };
    match duration(text).map_err(wrong)? {
        time if time.as_millis() == 0 => Err(wrong("a length of time of a millisecond at least")),
        time => Ok(format!("{}ms", time.as_millis())),
    }
}
