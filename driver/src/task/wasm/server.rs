//! A guest that serves HTTP: how it treats its requests.

use std::time::Duration;

use crate::task::config::{Serve, TaskConfig};
use crate::task::refusal::{Error, duration};

/// The runner's options for a server.
pub(super) fn server(serve: &Serve, config: &TaskConfig) -> Result<Vec<String>, Error> {
    // Every option is listed here, so that the compiler rejects a new option that is not handled.
    #[rustfmt::skip]
    let Serve {
        access_log, client_timeout, concurrency, idle_timeout, max_concurrent_requests, port, reuse, shutdown_timeout, socket,
        timeout,
    } = serve;
    if !config.driver.args.is_empty() {
        return Err(Error::refused(
            "args",
            "a guest that serves (`wasm.serve`) is given none; it has variables and `wasm.config`",
        ));
    }
    if config.driver.wasm.as_ref().is_some_and(|wasm| wasm.timeout.is_some()) {
        return Err(Error::refused(
            "wasm.timeout",
            "a guest that serves runs until it is stopped; for the time of each request set `wasm.serve.timeout`",
        ));
    }
    let name = match (port, socket) {
        (Some(label), None) => label,
        (None, Some(name)) => match config.driver.socket.iter().find(|socket| socket.name == *name) {
            Some(socket) if socket.kind == "stream" => name,
            Some(_) => {
                return Err(Error::option("wasm.serve.socket", name, "a socket of `kind = \"stream\"`"));
            }
            None => {
                return Err(Error::option(
                    "wasm.serve.socket",
                    name,
                    "the name of one of the task's `socket` blocks",
                ));
            }
        },
        (Some(_), Some(_)) => {
            return Err(Error::refused(
                "wasm.serve",
                "it has both a `port` and a `socket`; leave one of the two out",
            ));
        }
        (None, None) => return Err(Error::refused("wasm.serve", "it needs either a `port` or a `socket`")),
    };
    let count = |option, count: Option<u32>| {
        Error::at_least_one(option, count).map(|count| count.map(|count| count.to_string()))
    };
    let time = |option, text: Option<&String>| text.map(|text| time(option, text)).transpose();
    let options = [
        ("--listen-fd", Some(name.clone())),
        (
            "--max-concurrent-requests",
            count("wasm.serve.max_concurrent_requests", Some(*max_concurrent_requests))?,
        ),
        ("--max-instance-reuse-count", count("wasm.serve.reuse", *reuse)?),
        ("--max-instance-concurrent-reuse-count", count("wasm.serve.concurrency", *concurrency)?),
        ("--idle-instance-timeout", time("wasm.serve.idle_timeout", Some(idle_timeout))?),
        ("--shutdown-timeout", time("wasm.serve.shutdown_timeout", Some(shutdown_timeout))?),
        ("--client-timeout", Some(self::client_timeout(client_timeout)?)),
        ("-W", time("wasm.serve.timeout", timeout.as_ref())?.map(|time| format!("timeout={time}"))),
    ];
    let given = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
    Ok(given.flatten().chain(access_log.then(|| "--access-log".to_owned())).collect())
}

/// How long the runner waits for clients; zero means for ever.
pub(super) fn client_timeout(text: &str) -> Result<String, Error> {
    const OPTION: &str = "wasm.serve.client_timeout";
    if duration(text) == Ok(Duration::ZERO) { Ok("0".to_owned()) } else { time(OPTION, text) }
}

/// A duration in the runner's form.
pub(super) fn time(option: &'static str, text: &str) -> Result<String, Error> {
    let wrong = |wanted| Error::Option { option, value: text.to_owned(), wanted };
    match duration(text).map_err(wrong)? {
        time if time.as_millis() == 0 => Err(wrong("a length of time of a millisecond at least")),
        time => Ok(format!("{}ms", time.as_millis())),
    }
}
