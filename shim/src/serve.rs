//! Serves HTTP with a guest: HTTP/1.1 and HTTP/2, on a socket that systemd passed or on one of its own.
//!
//! ```text
//! listener ──► connections (hyper) ──► requests ──► instances of the guest
//!    │             graceful end          limits,       a trap ends one of them,
//!  passed or                             counts        and its request with a 500
//!  bound
//! ```
//!
//! Instances are allocated one by one at first, which needs no preparation. A pool of them, from which each is had in
//! half the time, takes longer to make than all else before the first request: it is made behind the first answer.
//!
//! Loops of the guest let others run every few milliseconds (epochs): a request that computes for ever neither starves
//! other requests, nor its own timeout, nor SIGTERM.

use crate::args::{Guest, Http};
use crate::artifact::{self, Artifact};
use crate::code::Code;
use crate::connections::{Admitted, Connections, Unanswered};
use crate::outcome::{self, Kind, Outcome, Refusal};
use crate::pace::{self, Contact, Load, Paced, TooSlow};
use crate::preopens::Preopens;
use crate::process::Signals;
use crate::wasi::{self, Host};
use crate::world::{Wasi, World};
use crate::{guest, process, systemd};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Once, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use wasmtime::component::{Component, GuestTaskId};
use wasmtime::error::Context as _;
use wasmtime::{
    Engine, Error, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store, StoreContextMut, bail,
};
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{p2, p3};

/// How often a loop of the guest lets others run.
const TICK: Duration = Duration::from_millis(10);
/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How large the head of a request may be over HTTP/2, where each field of it counts as 32 bytes more than it has: one that
/// was sent as a single byte takes 75 in memory.
const HEAD: u32 = 16 << 10;
/// How many bytes of a connection are held at most, of requests that are not complete: a client that sends heads and never
/// ends them shall not use up the memory of all.
const BUFFER: usize = 64 << 10;
/// The same for each connection of HTTP/2, whose requests wait together.
const WINDOW: u32 = 64 << 10;
/// How many requests a connection of HTTP/2 has open at once.
const STREAMS: u32 = 32;
/// How often systemd hears what has been served, at most.
const REPORT: Duration = Duration::from_secs(5);
/// More threads bring nothing below the limits of a usual unit.
const THREADS_MAX: usize = 8;
/// Threads for file accesses, which would hold up all requests elsewhere.
const FILE_THREADS: usize = 4;

/// Serves with `guest`, as `http` says, until SIGTERM or SIGINT; the process's exit code: 0, or 143 when requests were
/// cut off.
///
/// # Errors
/// When it cannot serve: the guest is none for it, an address is in use.
pub fn serve(mut guest: Guest, http: Http) -> Result<u8> {
    guest.wasm.tuning.epochs = true;
    // A pool has tables of one size; instances without one get no larger ones.
    guest.wasm.max_table_elements.get_or_insert(TABLE_ELEMENTS);
    let guest: &'static Guest = Box::leak(Box::new(guest));
    start(guest, http).with_context(|| format!("serve `{}`", guest.label))
}

fn start(guest: &'static Guest, http: Http) -> Result<u8> {
    let (code, artifact) = artifact::open(guest, &guest.wasm.tuning, &guest::config(&guest.wasm)?)?;
    let linked = Linked::new(code, http.max_concurrent_requests)?;
    let preopens = Preopens::open(&guest.dirs)?;
    let server = Server::new(linked.engine.clone(), artifact, guest, preopens, http);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut runtime = match threads {
        // Handing work over to another thread and back only costs time.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(threads).max_blocking_threads(FILE_THREADS).enable_all();
    // This thread decides what a signal does.
    runtime.on_thread_start(Signals::leave_to_others);
    let runtime = Box::leak(Box::new(runtime.build().context("start the runtime")?));
    runtime.block_on(server.until_told_to_stop(linked))
}

/// The guest, ready to be instantiated by its engine.
struct Linked {
    ready: ProxyPre<Host>,
    engine: Engine,
    /// As many instances as requests at the same time, so that a pool has one for each.
    places: Arc<Semaphore>,
}

impl Linked {
    fn new(code: Code, places: usize) -> Result<Arc<Self>> {
        let Code::Component(component) = code else {
            return Err(Refusal::bad_module(
                "it is a core module; a server is a component that exports a handler of `wasi:http`",
            ));
        };
        let engine = component.engine().clone();
        let imports = wasi::link(&component)?;
        let server = World::of(&Code::Component(component))?.into_iter().find_map(|world| match world {
            World::Server(wasi) => Some(wasi),
            World::Command(_) => None,
        });
        let ready = match server {
            Some(Wasi::P3) => ProxyPre::P3(p3::bindings::ServicePre::new(imports)?),
            Some(_) => ProxyPre::P2(p2::bindings::ProxyPre::new(imports)?),
            None => {
                return Err(Refusal::bad_module(
                    "it is a command, for `wasm-shim run`: it exports no handler of `wasi:http`",
                ));
            }
        };
        Ok(Arc::new(Self { ready, engine, places: Arc::new(Semaphore::new(places)) }))
    }
}

/// What all requests share.
struct Server {
    guest: &'static Guest,
    preopens: Preopens,
    http: Http,
    artifact: Artifact,
    engine: Engine,
    /// The one that has a pool.
    pooled_engine: OnceLock<Engine>,
    counts: Counts,
    load: Arc<Load>,
    requests: Arc<Semaphore>,
    /// Lets loops of the guest make room, as long as there are instances.
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
        // An instance that cannot be made is an error now, and not at the first request. Should the guest compute for
        // ever already here, a signal still ends the process as it ends a command.
        let instances = self.instances(linked);
        let first = instances.instantiate().await?;
        let signals = Signals::take_over().context("listen for signals")?;
        systemd::notify("READY=1\nSTATUS=serving: no requests yet");
        outcome::say(&format!("serving on {listener}"));
        // It is not kept for a request, which may come much later.
        drop(first);
        self.start_ticker().context("start the thread that interrupts loops")?;

        let handler = Arc::new(Current::new(Handler::new(instances)));
        let connections = GracefulShutdown::new();
        tokio::spawn(watchdog());
        tokio::spawn(report(Arc::clone(&self)));
        tokio::select! {
            never = self.accept(&listener, &handler, &connections) => match never? {},
            signal = signals.next() => drop(signal?),
        }
        drop(listener);
        // Not `STOPPING=1`: systemd would not keep the exit status until somebody asks for it (RemainAfterExit=).
        systemd::notify_status(&format!("{} stopping=1", self.status()));
        let cut = |why: &str| {
            let left = self.load.active();
            outcome::say(&format!("ended {why}, with {left} requests unfinished"));
            Ok(143)
        };
        tokio::select! {
            () = connections.shutdown() => Ok(0),
            () = sleep(self.http.shutdown_timeout) => cut("when --shutdown-timeout was over"),
            again = signals.next() => cut(&format!("by a second {}", again?)),
        }
    }

    async fn accept(
        self: &Arc<Self>,
        listener: &Listener,
        handler: &Arc<Current>,
        connections: &GracefulShutdown,
    ) -> Result<Infallible> {
        let admission = Arc::new(Connections::new(self.http.max_concurrent_connections));
        loop {
            match listener {
                Listener::Tcp(tcp) => match tcp.accept().await {
                    Ok((stream, _)) => {
                        // An answer in small parts should not wait for the client's acknowledgements.
                        let _ = stream.set_nodelay(true);
                        self.converse(stream, admission.admit().await?, handler, connections);
                    }
                    Err(error) => wait_out(&error).await,
                },
                Listener::Unix(unix) => match unix.accept().await {
                    Ok((stream, _)) => {
                        self.converse(stream, admission.admit().await?, handler, connections);
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
        connections: &GracefulShutdown,
    ) where
        S: AsyncRead + AsyncWrite + AsRawFd + Send + Unpin + 'static,
    {
        let (server, handler) = (Arc::clone(self), Arc::clone(handler));
        let stream = Paced::new(stream, &self.load, &admitted.connection.contact);
        let client = Arc::clone(&admitted.connection);
        let service = service_fn(move |request| {
            let unanswered = client.request();
            let (server, handler, contact) =
                (Arc::clone(&server), Arc::clone(&handler), Arc::clone(&client.contact));
            async move { Ok::<_, Infallible>(server.answer(&handler, request, &contact, unanswered).await) }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(BUFFER);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_PATIENCE)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD);
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let client = &admitted.connection;
            // What a client does to its connection is its affair, but for one that takes a place and asks nothing: hyper
            // waits for ever for what tells the version of HTTP, and for the requests of HTTP/2.
            loop {
                let idle = client.idle_since().map_or(Duration::ZERO, |since| since.elapsed());
                if idle >= HEAD_PATIENCE {
                    break;
                }
                tokio::select! {
                    _ = &mut connection => break,
                    () = client.contact.stalled() => break,
                    () = client.told_to_close() => break,
                    () = sleep(HEAD_PATIENCE.saturating_sub(idle)) => {}
                }
            }
            drop(admitted);
        });
    }

    async fn answer(
        self: &Arc<Self>,
        handler: &Arc<Current>,
        request: Request<Incoming>,
        contact: &Arc<Contact>,
        unanswered: Unanswered,
    ) -> Response<WasiBody> {
        let active = self.begin();
        let over_http_2 = (request.version() == Version::HTTP_2).then_some(contact);
        let (began, method, path) =
            (Instant::now(), request.method().clone(), request.uri().path().to_owned());
        // A connection of HTTP/2 brings many requests, and each that waits takes memory: as many wait as connections may.
        let waiting_max = self.http.max_concurrent_connections.max(self.http.max_concurrent_requests);
        let place = if self.load.active() > waiting_max {
            None
        } else {
            Arc::clone(&self.requests).acquire_owned().await.ok()
        };
        let response = match place {
            Some(place) => {
                let (request, mut too_slow) = self.limit(request);
                let (what, handler) = (format!("{method} {path}"), handler.get());
                let response = tokio::select! {
                    // What the guest answers to half a body is no answer.
                    biased;
                    () = poll_fn(|cx| too_slow.poll(cx)) => too_slow_to_send(&what, over_http_2.is_some()),
                    response = self.ask_guest(&handler, request, &what) => response,
                };
                // They last until the last part of the answer.
                let lasts = (active, place, unanswered);
                response.map(|body| pace::taken(body, too_slow, &self.load, over_http_2, lasts))
            }
            None => plain(StatusCode::SERVICE_UNAVAILABLE),
        };
        self.make_pool(handler);
        if self.http.access_log {
            let took = began.elapsed().as_secs_f64() * 1000.0;
            outcome::say(&format!("access: {method} {path} {} {took:.1}ms", response.status().as_u16()));
        }
        response
    }

    /// From the first call on, prepares faster instances for the requests to come.
    fn make_pool(self: &Arc<Self>, handler: &Arc<Current>) {
        handler.replaced.call_once(|| {
            let (server, handler) = (Arc::clone(self), Arc::clone(handler));
            let make = move || match server.pooled() {
                Ok(Some(linked)) => {
                    server.pooled_engine.get_or_init(|| linked.engine.clone());
                    handler.set(Handler::new(server.instances(linked)));
                }
                Ok(None) => {}
                // Address space may be limited.
                Err(error) => outcome::say(&format!(
                    "no pool of instances, so that each takes longer: {}",
                    outcome::causes(&error)
                )),
            };
            tokio::spawn(async {
                // The answer goes first, also if there is one processor only.
                sleep(TICK).await;
                tokio::task::spawn_blocking(make).await
            });
        });
    }

    /// The guest, allocated from a pool, if it fits into one.
    fn pooled(&self) -> Result<Option<Arc<Linked>>> {
        let mut config = guest::config(&self.guest.wasm)?;
        let elements = self.guest.wasm.max_table_elements.unwrap_or(TABLE_ELEMENTS);
        config.allocation_strategy(pool(&self.http, elements)?);
        let code = self.artifact.load(&config)?;
        match &code {
            Code::Component(component) if fits(component, elements) => {
                Linked::new(code, self.http.max_concurrent_requests).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The request, whose body the client must send in time, and how it is told that it does not.
    fn limit(&self, request: Request<Incoming>) -> (Request<WasiBody>, TooSlow) {
        let (head, body) = request.into_parts();
        let (body, too_slow) = pace::sent(body, &self.load);
        (Request::from_parts(head, body), too_slow)
    }

    /// For systemd.
    fn status(&self) -> String {
        format!("{} active={}", self.counts, self.load.active())
    }

    fn begin(self: &Arc<Self>) -> Active {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        self.load.begin();
        self.counts.changed.notify_one();
        Active(Arc::clone(self))
    }

    async fn ask_guest(
        &self,
        handler: &Handler,
        mut request: Request<WasiBody>,
        what: &str,
    ) -> Response<WasiBody> {
        // A guest is told the authority that was asked, which HTTP/1.0 need not say.
        if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
            if request.version() != Version::HTTP_10 {
                return plain(StatusCode::BAD_REQUEST);
            }
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        let began = Instant::now();
        let error = match handler.handle((), request).await {
            Ok(response) => return response,
            Err(error) => error,
        };
        // A guest that leaves the engine no moment is ended without a word that would say so.
        let is_over = self.guest.wasm.timeout.is_some_and(|timeout| began.elapsed() >= timeout);
        if error.is::<ExpirationError>() || is_over {
            self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
            outcome::say(&format!("timeout: {what} took longer than -W timeout gives it"));
            return plain(StatusCode::GATEWAY_TIMEOUT);
        }
        // What its instance ended of has been said, but not what for.
        outcome::say(&format!("error: {what} is not answered: {}", outcome::causes(&error)));
        plain(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// Waits until there may be descriptors or memory again.
async fn wait_out(error: &std::io::Error) {
    outcome::say(&format!("accept a connection: {error}; trying again"));
    sleep(Duration::from_millis(100)).await;
}

/// An answer of ours, not of the guest's.
fn plain(status: StatusCode) -> Response<WasiBody> {
    let text = format!("{status}\n");
    let mut response =
        Response::new(Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// What a client hears that did not send the body of its request.
fn too_slow_to_send(what: &str, over_http_2: bool) -> Response<WasiBody> {
    outcome::say(&format!("slow: {what}: its client sent too little of the body (--client-timeout)"));
    let mut response = plain(StatusCode::REQUEST_TIMEOUT);
    if !over_http_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

const MEMORIES: u32 = 2;
const TABLES: u32 = 8;
const CORE_INSTANCES: u32 = 20;
/// If nothing else is said. Large programs have some thousand functions whose address is taken.
const TABLE_ELEMENTS: usize = 20_000;

fn pool(http: &Http, table_elements: usize) -> Result<InstanceAllocationStrategy> {
    /// What of an instance's memory is cleaned instead of given back to the kernel, in bytes.
    const KEEP: usize = 128 << 10;
    let instances =
        u32::try_from(http.max_concurrent_requests).context("--max-concurrent-requests is too large")?;
    let of = |each: u32| instances.saturating_mul(each);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(of(1))
        .total_core_instances(of(CORE_INSTANCES))
        .total_memories(of(MEMORIES))
        .total_tables(of(TABLES))
        .table_elements(table_elements)
        // Who waits within the guest has one, and an instance keeps one for who comes next.
        .total_stacks(of(2))
        .total_gc_heaps(of(1))
        .linear_memory_keep_resident(KEEP)
        .table_keep_resident(KEEP)
        .async_stack_keep_resident(KEEP);
    Ok(InstanceAllocationStrategy::Pooling(pool))
}

fn fits(component: &Component, table_elements: usize) -> bool {
    component.resources_required().is_some_and(|needs| {
        needs.num_memories <= MEMORIES
            && needs.num_tables <= TABLES
            && needs.max_initial_table_size.is_none_or(|elements| elements <= table_elements as u64)
    })
}

/// Where requests come from.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The socket that systemd passed, or else one at `http.addr`.
    async fn open(http: &Http) -> Result<Self> {
        let mut passed = systemd::passed_sockets();
        if let Some(name) = &http.listen_fd {
            passed.retain(|socket| socket.name == *name);
            if passed.is_empty() {
                bail!("no socket of the name `{name}` was passed (LISTEN_FDNAMES)");
            }
        }
        let Some(socket) = passed.into_iter().next() else {
            let bound = TcpListener::bind(http.addr).await;
            return Ok(Self::Tcp(bound.with_context(|| format!("listen on {}", http.addr))?));
        };
        let fd =
            process::inherited(socket.fd).with_context(|| format!("take over descriptor {}", socket.fd))?;
        let listens = socket2::SockRef::from(&fd).is_listener().unwrap_or(false);
        if !listens {
            bail!(
                "descriptor {} (`{}`), which was passed, is no socket that listens for connections",
                socket.fd,
                socket.name
            );
        }
        Self::of(fd).context("take over the socket that was passed")
    }

    fn of(fd: OwnedFd) -> std::io::Result<Self> {
        let tcp = std::net::TcpListener::from(fd);
        tcp.set_nonblocking(true)?;
        match tcp.local_addr() {
            Ok(_) => TcpListener::from_std(tcp).map(Self::Tcp),
            // An address of another family.
            Err(_) => UnixListener::from_std(OwnedFd::from(tcp).into()).map(Self::Unix),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => match tcp.local_addr() {
                Ok(address) => write!(f, "http://{address}/"),
                Err(_) => f.write_str("a TCP socket"),
            },
            Self::Unix(unix) => {
                match unix.local_addr().ok().and_then(|address| address.as_pathname().map(ToOwned::to_owned))
                {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("a unix socket"),
                }
            }
        }
    }
}

/// What has been served.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    instances: AtomicUsize,
    changed: Notify,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "serving: requests={} traps={} timeouts={}",
            seen(&self.requests),
            seen(&self.traps),
            seen(&self.timeouts)
        )
    }
}

/// A request that is being answered.
struct Active(Arc<Server>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.load.end();
        self.0.counts.changed.notify_one();
    }
}

/// Tells systemd what has been served, soon after it changed and not too often.
async fn report(server: Arc<Server>) {
    loop {
        server.counts.changed.notified().await;
        // What belongs together is told together.
        sleep(TICK).await;
        systemd::notify_status(&server.status());
        sleep(REPORT).await;
    }
}

/// Tells systemd that requests would be answered, if it wants to know.
async fn watchdog() {
    if let Some(period) = systemd::watchdog() {
        let mut often = tokio::time::interval(period / 2);
        loop {
            often.tick().await;
            systemd::notify("WATCHDOG=1");
        }
    }
}

/// The handler that requests go to; a better one takes its place once.
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

/// Makes instances of the guest.
struct Instances {
    server: Arc<Server>,
    linked: Arc<Linked>,
}

impl Instances {
    /// An instance could not be made, says `error`: in whose fault?
    async fn why_no_instance(&self, error: Error, mut store: Store<Host>) -> Error {
        match Outcome::of_error(error, store.data_mut().limits()) {
            Ok(Outcome::Cut(kind, lines)) => Refusal::ended(kind, &lines),
            Ok(Outcome::Exit(code)) => Refusal::ended(Kind::Trap, &[format!("it called exit({code})")]),
            Err(error) => {
                let bare = match &self.linked.ready {
                    ProxyPre::P2(ready) => ready.instance_pre(),
                    ProxyPre::P3(ready) => ready.instance_pre(),
                };
                // If it can be made without regard for the type of its handler, it is that type.
                match bare.instantiate_async(&mut store).await {
                    Ok(_) => Refusal::wrong_type(&error),
                    Err(_) => error,
                }
            }
        }
    }
}

impl HandlerState for Instances {
    type StoreData = Host;
    type WorkerExpiration = Patience;
    type WorkerState = Worker;

    async fn instantiate(&self) -> Result<Instance<Host, Patience, Worker>> {
        let Self { server, linked } = self;
        let alive = Alive::begin(server, linked).await?;
        let mut store = Store::new(&linked.engine, wasi::for_server(server.guest, &server.preopens));
        store.limiter(|host| host.limits());
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        if let Some(fuel) = server.guest.wasm.fuel {
            store.set_fuel(fuel)?;
        }
        let request = server.guest.wasm.timeout.unwrap_or(Duration::MAX);
        let proxy = match timeout(request, linked.ready.instantiate_async(&mut store)).await {
            Ok(Ok(proxy)) => proxy,
            Ok(Err(error)) => return Err(self.why_no_instance(error, store).await),
            Err(_) => bail!("an instance is not made within the {request:?} that -W timeout gives a request"),
        };
        let is_p3 = matches!(linked.ready, ProxyPre::P3(_));
        let expired = Arc::new(AtomicBool::new(false));
        let idle = server.http.idle_instance_timeout;
        let expiration =
            Patience { idle, request, sleep: Box::pin(sleep(Duration::MAX)), expired: Arc::clone(&expired) };
        Ok(Instance {
            store,
            proxy,
            view: Host::http,
            expiration,
            state: Worker { alive, is_p3, request, expired },
        })
    }
}

/// An instance that takes a place and whose loops need the ticker.
struct Alive {
    server: Arc<Server>,
    _place: OwnedSemaphorePermit,
}

impl Alive {
    async fn begin(server: &Arc<Server>, linked: &Linked) -> Result<Self> {
        let place = Arc::clone(&linked.places).acquire_owned().await?;
        if server.counts.instances.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(ticker) = server.ticker.get()
        {
            ticker.unpark();
        }
        Ok(Self { server: Arc::clone(server), _place: place })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.server.counts.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long an instance lives.
struct Patience {
    idle: Duration,
    request: Duration,
    sleep: Pin<Box<Sleep>>,
    /// Its time was over while it was at work.
    expired: Arc<AtomicBool>,
}

impl WorkerExpiration for Patience {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, state: WorkerStatus, start: Instant) -> Poll<()> {
        let patience = match state {
            WorkerStatus::Idle => self.idle,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.request,
        };
        let Some(end) = start.checked_add(patience) else { return Poll::Pending };
        if self.sleep.deadline() != end.into() {
            self.sleep.as_mut().reset(end.into());
        }
        let over = self.sleep.as_mut().poll(cx);
        if over.is_ready() && state != WorkerStatus::Idle {
            self.expired.store(true, Ordering::Relaxed);
        }
        over
    }
}

/// An instance at work.
struct Worker {
    alive: Alive,
    is_p3: bool,
    request: Duration,
    expired: Arc<AtomicBool>,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        let server = &self.alive.server;
        let (reuse, together) = if self.is_p3 {
            (128, server.http.max_instance_concurrent_reuse_count.unwrap_or(16))
        } else {
            (1, 1)
        };
        match () {
            () if total >= server.http.max_instance_reuse_count.unwrap_or(reuse) => ShouldAccept::Never,
            () if concurrent >= together => ShouldAccept::No,
            () => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Host>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(sleep(self.request))
    }

    fn drop(&self, mut store: Store<Host>, result: Result<()>) {
        let Err(error) = result else { return };
        if self.expired.load(Ordering::Relaxed) {
            // If there was a request still to be answered, it says so itself.
            return outcome::say(
                "timeout: an instance was at work for longer than -W timeout gives it, and was ended",
            );
        }
        let counts = &self.alive.server.counts;
        counts.traps.fetch_add(1, Ordering::Relaxed);
        counts.changed.notify_one();
        match Outcome::of_error(error, store.data_mut().limits()) {
            Ok(Outcome::Cut(kind, lines)) => outcome::say(&format!("{kind}: {}", lines.join("\n"))),
            Ok(Outcome::Exit(code)) => {
                outcome::say(&format!("trap: the guest called exit({code}), which ends its instance"));
            }
            Err(error) => outcome::say(&format!("trap: {}", outcome::causes(&error))),
        }
    }
}
