//! Serves HTTP with a guest: HTTP/1.1 and HTTP/2, on a socket that systemd passed or on a socket of its own.
//!
//! ```text
//! listener ──► connections (hyper) ──► requests ──► instances of the guest
//!    │             graceful end          limits,       a trap ends one of them,
//!  passed or                             counts        and its request with a 500
//!  bound
//! ```
//!
//! Instances are allocated one by one at first, which needs no preparation. A pool allocates each instance in half the
//! time, but creating the pool takes longer than everything else before the first request. So it is created after the
//! first answer.
//!
//! Loops of the guest yield every few milliseconds (epochs): a request that computes forever starves neither other
//! requests, nor its own timeout, nor SIGTERM.

mod answer;
mod counts;
mod instances;
mod listener;
mod pool;
mod trace;
mod waiting;

use self::counts::{Counts, report, watchdog};
use self::instances::{Instances, Linked};
use self::listener::Listener;
use self::pool::TABLE_ELEMENTS;
use crate::args::{Guest, Http};
use crate::artifact::{self, Artifact};
use crate::connections::{Admitted, Connections};
use crate::pace::{Arriving, Load, Paced};
use crate::preopens::Preopens;
use crate::process::{self, Signals};
use crate::{guest, outcome, systemd};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use shim_interface::{Served, Status};
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use wasmtime::error::Context as _;
use wasmtime::{Engine, Result};
use wasmtime_wasi_http::handler::{HandlerState as _, ProxyHandler};

/// How often a loop of the guest yields.
const TICK: Duration = Duration::from_millis(10);
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum size of the head of a request over HTTP/2, where each field counts as 32 bytes more than its size: a
/// field that was sent as a single byte takes 75 bytes in memory.
const HEAD: u32 = 8 << 10;
/// The maximum number of buffered bytes of a connection, for requests that are not complete: a client that sends heads
/// and never ends them must not use up all memory.
const BUFFER: usize = 64 << 10;
/// The same limit for each HTTP/2 connection, whose requests share it.
const WINDOW: u32 = 64 << 10;
/// How many concurrent requests an HTTP/2 connection has.
const STREAMS: u32 = 16;
/// How often a connection with requests that are not answered is looked at: hyper does not see its end as long as it has
/// bytes of a further request, or of a body that the guest does not read.
const LOOK: Duration = Duration::from_millis(200);
/// After how many seconds of silence a client is asked whether it is still there.
const KEEP_ALIVE: i32 = 30;
/// More threads are of no use within the limits of a usual unit.
const THREADS_MAX: usize = 8;
/// Threads for file accesses, which would otherwise block all requests.
const FILE_THREADS: usize = 4;

/// Serves with `guest` and the settings of `http`, until SIGTERM or SIGINT. Returns the process's exit code: 0, or 143
/// if requests were cut off.
///
/// # Errors
/// When serving is impossible: the guest is not a server, an address is in use.
pub fn serve(mut guest: Guest, http: Http) -> Result<u8> {
    guest.wasm.tuning.epochs = true;
    // A pool has tables of one size; instances without a pool get no larger ones.
    guest.wasm.max_table_elements.get_or_insert(TABLE_ELEMENTS);
    let guest: &'static Guest = Box::leak(Box::new(guest));
    start(guest, http).with_context(|| format!("serve `{}`", guest.label))
}

fn start(guest: &'static Guest, http: Http) -> Result<u8> {
    let (code, artifact) = artifact::open(guest, &guest.wasm.tuning, &guest::config(&guest.wasm)?)?;
    task_init::stay_one_process(guest.calls).context("filter system calls (prctl(2))")?;
    let linked = Linked::new(code, http.max_concurrent_requests)?;
    let preopens = Preopens::open(&guest.dirs)?;
    let server = Server::new(linked.engine.clone(), artifact, guest, preopens, http);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut runtime = match threads {
        // Moving work to another thread and back only costs time.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(threads).max_blocking_threads(FILE_THREADS).enable_all();
    // This thread handles the signals.
    runtime.on_thread_start(Signals::leave_to_others);
    let runtime = Box::leak(Box::new(runtime.build().context("start the runtime")?));
    runtime.block_on(server.until_told_to_stop(linked))
}

/// The state that all requests share.
struct Server {
    guest: &'static Guest,
    preopens: Preopens,
    http: Http,
    artifact: Artifact,
    engine: Engine,
    /// The engine with a pool.
    pooled_engine: OnceLock<Engine>,
    counts: Counts,
    load: Arc<Load>,
    requests: Arc<Semaphore>,
    /// Makes loops of the guest yield, as long as there are instances.
    ticker: OnceLock<Thread>,
}

type Handler = ProxyHandler<Instances>;

impl Server {
    fn new(
        engine: Engine,
        artifact: Artifact,
        guest: &'static Guest,
        preopens: Preopens,
        http: Http,
    ) -> Arc<Self> {
        Arc::new(Self {
            guest,
            preopens,
            artifact,
            engine,
            pooled_engine: OnceLock::new(),
            counts: Counts::default(),
            load: Arc::new(Load::new(
                Some(http.client_timeout).filter(|timeout| !timeout.is_zero()),
                http.max_concurrent_requests,
            )),
            requests: Arc::new(Semaphore::new(http.max_concurrent_requests)),
            ticker: OnceLock::new(),
            http,
        })
    }

    fn instances(self: &Arc<Self>, linked: Arc<Linked>) -> Instances {
        Instances { server: Arc::clone(self), linked }
    }

    fn start_ticker(self: &Arc<Self>) -> Result<()> {
        let server = Arc::clone(self);
        let tick = move || loop {
            match server.counts.instances.load(Ordering::Relaxed) {
                0 => std::thread::park(),
                _ => std::thread::sleep(TICK),
            }
            server.engine.increment_epoch();
            server.pooled_engine.get().inspect(|engine| engine.increment_epoch());
        };
        let thread = std::thread::Builder::new().name("ticker".to_owned()).spawn(tick)?;
        self.ticker.get_or_init(|| thread.thread().clone());
        Ok(())
    }

    async fn until_told_to_stop(self: Arc<Self>, linked: Arc<Linked>) -> Result<u8> {
        let listener = Listener::open(&self.http).await?;
        // An instance that cannot be created is an error now, and not at the first request. If the guest already
        // computes forever here, a signal still ends the process as it ends a command.
        let instances = self.instances(linked);
        let first = instances.instantiate().await?;
        let signals = Signals::take_over().context("listen for signals")?;
        systemd::notify("READY=1\nSTATUS=serving: no requests yet");
        outcome::say(&format!("serving on {listener}"));
        // The instance is not kept for a request, which may come much later.
        drop(first);
        self.start_ticker().context("start the thread that interrupts loops")?;

        let handler = Arc::new(Current::new(Handler::new(instances)));
        // Each connection has a receiver.
        let (leave, _) = watch::channel(());
        tokio::spawn(watchdog());
        tokio::spawn(report(Arc::clone(&self)));
        tokio::select! {
            never = self.accept(&listener, &handler, &leave) => match never? {},
            signal = signals.next() => drop(signal?),
        }
        drop(listener);
        // Not `STOPPING=1`: systemd would not keep the exit status until it is queried (RemainAfterExit=).
        systemd::notify_status(&Status::Serving(Served { stopping: true, ..self.served() }));
        let cut = |why: &str| {
            let left = self.load.active();
            outcome::say(&format!("ended {why}, with {left} requests unfinished"));
            Ok(143)
        };
        leave.send_replace(());
        tokio::select! {
            () = leave.closed() => Ok(0),
            () = sleep(self.http.shutdown_timeout) => cut("when --shutdown-timeout was over"),
            again = signals.next() => cut(&format!("by a second {}", again?)),
        }
    }

    async fn accept(
        self: &Arc<Self>,
        listener: &Listener,
        handler: &Arc<Current>,
        leave: &watch::Sender<()>,
    ) -> Result<Infallible> {
        let admission = Arc::new(Connections::new(self.http.max_concurrent_connections, &self.load));
        loop {
            match listener {
                Listener::Tcp(tcp) => match tcp.accept().await {
                    Ok((stream, _)) => {
                        // An answer in small parts should not wait for the client's acknowledgements.
                        let _ = stream.set_nodelay(true);
                        process::keep_alive(stream.as_raw_fd(), KEEP_ALIVE);
                        self.converse(stream, admission.admit().await?, handler, leave);
                    }
                    Err(error) => wait_out(&error).await,
                },
                Listener::Unix(unix) => match unix.accept().await {
                    Ok((stream, _)) => {
                        self.converse(stream, admission.admit().await?, handler, leave);
                    }
                    Err(error) => wait_out(&error).await,
                },
            }
        }
    }

    /// Answers all requests of one connection.
    fn converse<S>(
        self: &Arc<Self>,
        stream: S,
        admitted: Admitted,
        handler: &Arc<Current>,
        leave: &watch::Sender<()>,
    ) where
        S: AsyncRead + AsyncWrite + AsRawFd + Send + Unpin + 'static,
    {
        let (server, handler) = (Arc::clone(self), Arc::clone(handler));
        let socket = stream.as_raw_fd();
        let stream = Paced::new(stream, &admitted.connection.contact);
        let client = Arc::clone(&admitted.connection);
        let service = service_fn(move |request: Request<Incoming>| {
            let unanswered = client.request();
            let over_http_2 = (request.version() == Version::HTTP_2).then_some(&client.contact);
            let request = request.map(|body| Arriving::new(body, over_http_2));
            let (server, handler, contact) =
                (Arc::clone(&server), Arc::clone(&handler), Arc::clone(&client.contact));
            async move { Ok::<_, Infallible>(server.answer(&handler, request, &contact, unanswered).await) }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD);
        let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut told = leave.subscribe();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let client = &admitted.connection;
            let mut is_leaving = false;
            // Errors of a client's connection are ignored, except for a client that takes a place and requests nothing:
            // hyper waits forever for the bytes that determine the HTTP version, and for the requests of HTTP/2.
            loop {
                let look_again = match client.idle_since().map(|since| since.elapsed()) {
                    Some(idle) if idle >= HEAD_TIMEOUT => break,
                    // A request may begin at any time.
                    Some(idle) if idle >= LOOK * 10 => LOOK * 5,
                    Some(_) | None => LOOK,
                };
                tokio::select! {
                    _ = poll_fn(|cx| { client.contact.begin_turn(); connection.as_mut().poll(cx) }) => break,
                    () = client.contact.stalled() => break,
                    // Both at the end of the server alone. The sender lives as long as the server.
                    _ = told.changed(), if !is_leaving => {
                        is_leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = client.contact.told_to_leave(), if !is_leaving => {
                        is_leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = client.close_requested() => break,
                    () = sleep(look_again) => {}
                }
                // The connection lives, and so its socket is open.
                if client.idle_since().is_none() && process::has_hung_up(socket) {
                    break;
                }
            }
            drop(admitted);
        });
    }
}

/// Waits until descriptors or memory may be free again.
async fn wait_out(error: &std::io::Error) {
    outcome::say(&format!("accept a connection: {error}; trying again"));
    sleep(Duration::from_millis(100)).await;
}

/// The handler of requests; it is replaced by a faster one once.
struct Current {
    handler: RwLock<Handler>,
    replaced: Once,
}

impl Current {
    fn new(handler: Handler) -> Self {
        Self { handler: RwLock::new(handler), replaced: Once::new() }
    }

    fn get(&self) -> Handler {
        self.handler.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, handler: Handler) {
        *self.handler.write().unwrap_or_else(PoisonError::into_inner) = handler;
    }
}
