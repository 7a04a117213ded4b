//! Instances of the guest: how they are created, how long they live, and how their ends are reported.

use super::Server;
use super::waiting::{Asked, Clients, Computation};
use crate::code::Code;
use crate::outcome::{self, Outcome, Refusal};
use crate::wasi::{self, Host};
use crate::world::{WasiVersion, World};
use shim_interface::Kind;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Error, Result, Store, StoreContextMut, UpdateDeadline, bail};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{p2, p3};

/// Clients that leave are no news, but their first one explains what happens to the work for them.
static TOLD: Once = Once::new();

/// The guest, ready to be instantiated by its engine.
pub(super) struct Linked {
    ready: ProxyPre<Host>,
    pub(super) engine: Engine,
    /// As many instances as concurrent requests, so that a pool has one for each.
    places: Arc<Semaphore>,
}

impl Linked {
    pub(super) fn new(code: Code, places: usize) -> Result<Arc<Self>> {
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
            Some(WasiVersion::P3) => ProxyPre::P3(p3::bindings::ServicePre::new(imports)?),
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

/// Creates instances of the guest.
pub(super) struct Instances {
    pub(super) server: Arc<Server>,
    pub(super) linked: Arc<Linked>,
}

impl Instances {
    /// Decides who is at fault for the `error` with which an instance could not be created.
    async fn why_no_instance(&self, error: Error, mut store: Store<Host>) -> Error {
        match Outcome::of_error(error, store.data_mut().limits()) {
            Ok(Outcome::Cut(kind, lines)) => Refusal::ended(kind, &lines),
            Ok(Outcome::Exit(code)) => Refusal::ended(Kind::Trap, &[format!("it called exit({code})")]),
            Err(error) => {
                let bare = match &self.linked.ready {
                    ProxyPre::P2(ready) => ready.instance_pre(),
                    ProxyPre::P3(ready) => ready.instance_pre(),
                };
                // If the instance can be created without regard to the type of its handler, the type is at fault.
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
    type WorkerExpiration = InstanceDeadline;
    type WorkerState = Worker;

    async fn instantiate(&self) -> Result<Instance<Host, InstanceDeadline, Worker>> {
        let Self { server, linked } = self;
        let alive = Alive::begin(server, linked).await?;
        let mut store = Store::new(&linked.engine, wasi::for_server(server.guest, &server.preopens));
        store.limiter(|host| host.limits());
        let (expired, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(Clients::default()));
        store.set_epoch_deadline(1);
        let (of_instance, mut computation) = (Arc::clone(&clients), Computation::default());
        store.epoch_deadline_callback(move |_| {
            if computation.is_over(Instant::now(), &of_instance) {
                bail!("it computes for a client that has gone, while others wait");
            }
            Ok(UpdateDeadline::Yield(1))
        });
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
        let idle = server.http.idle_instance_timeout;
        let expiration = InstanceDeadline {
            idle,
            request,
            sleep: Box::pin(sleep(Duration::MAX)),
            expired: Arc::clone(&expired),
            clients: Arc::clone(&clients),
        };
        Ok(Instance {
            store,
            proxy,
            view: Host::http,
            expiration,
            state: Worker { alive, is_p3, request, expired, clients },
        })
    }
}

/// A counted instance, whose loops need the ticker.
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

/// The lifetime of an instance.
pub(super) struct InstanceDeadline {
    idle: Duration,
    request: Duration,
    sleep: Pin<Box<Sleep>>,
    /// The time expired while the instance was at work.
    expired: Arc<AtomicBool>,
    clients: Arc<Clients>,
}

impl WorkerExpiration for InstanceDeadline {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, state: WorkerStatus, start: Instant) -> Poll<()> {
        let patience = match state {
            WorkerStatus::Idle => self.idle,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.request,
        };
        let left = if state == WorkerStatus::Idle { Poll::Pending } else { self.clients.poll_left(cx) };
        let end = match (left, start.checked_add(patience)) {
            (Poll::Ready(Ok(())), _) => return Poll::Ready(()),
            (Poll::Ready(Err(soon)), end) => end.map_or(soon, |end| end.min(soon)),
            (Poll::Pending, Some(end)) => end,
            (Poll::Pending, None) => return Poll::Pending,
        };
        if self.sleep.deadline() != end.into() {
            self.sleep.as_mut().reset(end.into());
        }
        let over = self.sleep.as_mut().poll(cx);
        if over.is_ready() && matches!(left, Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        if over.is_ready() && state != WorkerStatus::Idle {
            self.expired.store(true, Ordering::Relaxed);
        }
        over
    }
}

/// An instance at work.
pub(super) struct Worker {
    alive: Alive,
    is_p3: bool,
    request: Duration,
    expired: Arc<AtomicBool>,
    clients: Arc<Clients>,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = Asked;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        let server = &self.alive.server;
        let (reuse, together) = if self.is_p3 {
            (128, server.http.max_instance_concurrent_reuse_count.unwrap_or(16))
        } else {
            (1, 1)
        };
        match () {
            () if self.clients.has_lost_one() => ShouldAccept::Never,
            () if total >= server.http.max_instance_reuse_count.unwrap_or(reuse) => ShouldAccept::Never,
            () if concurrent >= together => ShouldAccept::No,
            () => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Host>,
        asked: Asked,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        asked.begin(&self.clients);
        Box::pin(sleep(self.request))
    }

    fn drop(&self, mut store: Store<Host>, result: Result<()>) {
        let Err(error) = result else { return };
        if self.expired.load(Ordering::Relaxed) {
            // A request that was still unanswered reports this itself.
            return outcome::say(
                "timeout: an instance was at work for longer than -W timeout gives it, and was ended",
            );
        }
        if self.clients.are_gone() {
            return TOLD.call_once(|| {
                outcome::say(
                    "gone: a client left before its answer was complete, and the instance that worked for it was ended (said once)",
                );
            });
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
