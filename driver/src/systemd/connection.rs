//! The connection to systemd, and the only future that reads it. Root connects to systemd itself, other users to the
//! bus.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use zbus::message::{Message, Type as MessageType};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, connection, fdo};

use super::error::is_named;
use super::features::{Features, Manager};
use super::jobs::Jobs;
use super::private::Private;
use super::reload::Reloads;
use super::sender::{BUS, DESTINATION, From, Sender};
use super::watch::Units;

pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT_PATHS: &str = "/org/freedesktop/systemd1/unit";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A `daemon-reload` with a thousand units blocks PID 1 for seconds; a call that takes longer than this is lost.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long connecting to systemd may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The first pause between two attempts at something that the bus refused; it doubles up to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// dbus-daemon allows 128 unanswered calls on one connection (`max_replies_per_connection`).
const CALLS_AT_ONCE: usize = 64;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) manager: Mutex<Manager>,
    /// The features of the manager, read once per connection and reload: afterwards it may be another manager.
    pub(super) features: Mutex<Option<Features>>,
    connection: AsyncMutex<Option<Connection>>,
    pub(super) units: Arc<Units>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) calls: Semaphore,
    pub(super) reloads: Reloads,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            manager: Mutex::default(),
            features: Mutex::default(),
            connection: AsyncMutex::default(),
            units: Arc::default(),
            jobs: Arc::default(),
            calls: Semaphore::new(CALLS_AT_ONCE),
            reloads: Reloads::default(),
        }
    }
}

impl Shared {
    pub(super) fn manager(&self) -> Manager {
        *self.manager.lock()
    }

    pub(super) async fn connect(self: &Arc<Self>) -> zbus::Result<Connection> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let hung = || zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let connection =
            tokio::time::timeout(CONNECT_TIMEOUT, self.open_connection()).await.map_err(|_| hung())??;
        *self.features.lock() = None;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn open_connection(self: &Arc<Self>) -> zbus::Result<Connection> {
        if let Some(private) = self.private().await? {
            // systemd sends all its signals on this connection.
            let builder = connection::Builder::socket(private).p2p().method_timeout(CALL_TIMEOUT);
            let connection = builder.build().await?;
            self.reloads.note_connection();
            tokio::spawn(read(Arc::downgrade(self), MessageStream::from(&connection), None));
            return Ok(connection);
        }
        let builder = match self.manager() {
            Manager::System => connection::Builder::system(),
            // The address of every user's bus (systemd's `user@.service`), unless the environment contains an address.
            Manager::User if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() => {
                let uid = rustix::process::getuid().as_raw();
                connection::Builder::address(format!("unix:path=/run/user/{uid}/bus").as_str())
            }
            Manager::User => connection::Builder::session(),
        };
        let connection = builder.method_timeout(CALL_TIMEOUT).build().await?;
        self.reloads.note_connection();
        // One stream for all messages keeps their order. It is read before anything is requested: a full queue would
        // hold up the answers.
        let sender = Arc::new(Sender::default());
        let reader = read(Arc::downgrade(self), MessageStream::from(&connection), Some(Arc::clone(&sender)));
        tokio::spawn(reader);
        let bus = fdo::DBusProxy::new(&connection).await?;
        for rule in rules()? {
            bus.add_match_rule(rule).await?;
        }
        // systemd does not send signals of jobs and units to a connection that has not subscribed.
        connection.call_method(Some(DESTINATION), MANAGER_PATH, Some(MANAGER), "Subscribe", &()).await?;
        // This comes after `Subscribe`, since the bus keeps that call for a systemd that is about to start. Until the
        // answer no signal is accepted: followers of units catch up.
        sender.ask(&bus).await?;
        Ok(connection)
    }

    /// The socket of the system manager itself, which root reaches without the bus. An address of a bus in the
    /// environment takes precedence.
    async fn private(&self) -> zbus::Result<Option<Private>> {
        let is_ours = self.manager() == Manager::System && rustix::process::geteuid().is_root();
        if is_ours && std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none() {
            Ok(Private::connect().await?)
        } else {
            Ok(None)
        }
    }

    /// Reads all properties of one unit that the driver follows.
    pub(super) async fn refresh(&self, connection: &Connection, path: &str) -> zbus::Result<()> {
        loop {
            let _permit = self.calls.acquire().await;
            let changes = self.units.changes(path);
            let mut all = HashMap::new();
            for interface in [UNIT, SERVICE] {
                let answer = connection
                    .call_method(Some(DESTINATION), path, Some(PROPERTIES), "GetAll", &(interface,))
                    .await?;
                let properties: HashMap<String, OwnedVariant> = answer.body().deserialize()?;
                all.extend(properties);
            }
            let taken = self.units.update_unless_changed(path, changes, |state| {
                state.apply(&all);
                // For a unit that does not exist systemd reports "inactive, success": only the load state shows it.
                state.removed = state.load_state == "not-found";
            });
            if taken {
                return Ok(());
            }
        }
    }

    /// Reads the followed properties of every unit, until each read has succeeded: something may have happened
    /// meanwhile.
    async fn catch_up(self: Arc<Self>) {
        self.jobs.missed();
        let mut behind = self.units.paths();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut still = Vec::new();
            for path in behind {
                let refreshed = async { self.refresh(&self.connect().await?, &path).await };
                if let Err(error) = refreshed.await {
                    tracing::debug!(
                        path,
                        error = crate::chain(&error),
                        "a unit could not be asked for its state"
                    );
                    still.push(path);
                }
            }
            still.retain(|path| self.units.follows(path));
            if still.is_empty() {
                return;
            }
            behind = still;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A `daemon-reload` takes all units out of memory and back in: only a unit that cannot be found has been removed.
    async fn confirm_removal(self: Arc<Self>, name: String, path: OwnedObjectPath, changes: u64) {
        let found = async {
            let connection = self.connect().await?;
            let _permit = self.calls.acquire().await;
            connection.call_method(Some(DESTINATION), MANAGER_PATH, Some(MANAGER), "GetUnit", &(name,)).await
        };
        match found.await {
            Err(error) if is_named(&error, "NoSuchUnit") => {
                self.units.update_unless_changed(path.as_str(), changes, |state| state.removed = true);
            }
            // The connection was lost: whoever reconnects reads every unit.
            Err(error) => {
                tracing::debug!(%path, error = crate::chain(&error), "a removed unit could not be looked for");
            }
            Ok(_) => {}
        }
    }

    /// Reads everything again, since everything may have changed.
    fn resynchronize(self: &Arc<Self>) {
        *self.features.lock() = None;
        tokio::spawn(Arc::clone(self).catch_up());
    }

    fn handle_signal(self: &Arc<Self>, message: &Message) -> zbus::Result<()> {
        let header = message.header();
        let (Some(interface), Some(member), Some(path)) =
            (header.interface(), header.member(), header.path())
        else {
            return Ok(());
        };
        match (interface.as_str(), member.as_str()) {
            (PROPERTIES, "PropertiesChanged") if self.units.follows(path.as_str()) => {
                let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    message.body().deserialize()?;
                self.units.update(path.as_str(), |state| state.apply(&changed));
            }
            (MANAGER, "JobRemoved") => {
                let (_, job, unit, result): (u32, OwnedObjectPath, String, String) =
                    message.body().deserialize()?;
                self.jobs.ended(&unit, &job, &result);
            }
            (MANAGER, "UnitRemoved") => {
                let (name, unit): (String, OwnedObjectPath) = message.body().deserialize()?;
                if self.units.follows(unit.as_str()) {
                    let changes = self.units.changes(unit.as_str());
                    tokio::spawn(Arc::clone(self).confirm_removal(name, unit, changes));
                }
            }
            (MANAGER, "Reloading") => {
                let (begins,): (bool,) = message.body().deserialize()?;
                if begins {
                    self.reloads.note(message);
                } else {
                    self.resynchronize();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads the connection until it is lost, then reconnects.
///
/// Boxed, because connecting starts a reader and a reader connects: the type would contain itself.
fn read(
    shared: Weak<Shared>,
    mut messages: MessageStream,
    sender: Option<Arc<Sender>>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        while let Some(Ok(message)) = messages.next().await {
            let Some(shared) = shared.upgrade() else { return };
            if message.message_type() != MessageType::Signal {
                continue;
            }
            match sender.as_ref().map_or(From::Systemd, |sender| sender.of(&message)) {
                From::Systemd => {
                    if let Err(error) = shared.handle_signal(&message) {
                        tracing::warn!(error = crate::chain(&error), "a signal of systemd could not be read");
                    }
                }
                // Signals from the new owner were not accepted before the bus reported it.
                From::NewSystemd => shared.resynchronize(),
                From::Other => {}
            }
        }
        tracing::warn!("lost the connection to systemd; reconnecting (tasks keep running)");
        reconnect(shared).await;
    })
}

async fn reconnect(shared: Weak<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        match shared.connect().await {
            Ok(_) => {
                tracing::info!("connected to systemd again");
                return shared.catch_up().await;
            }
            Err(error) => tracing::debug!(error = crate::chain(&error), "systemd cannot be reached yet"),
        }
        drop(shared);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The signals that the bus sends to the driver: the owner of systemd's name, jobs and removals, and the changes of all
/// units. The bus cannot select units by a part of their name, and allows no rule per unit beyond 512 of them.
fn rules() -> zbus::Result<[MatchRule<'static>; 3]> {
    let signals = |sender| MatchRule::builder().msg_type(MessageType::Signal).sender(sender);
    Ok([
        signals(BUS).interface(BUS).member("NameOwnerChanged").arg(0, DESTINATION).build()?,
        signals(DESTINATION).interface(MANAGER).path(MANAGER_PATH).build()?,
        signals(DESTINATION).interface(PROPERTIES).path_namespace(UNIT_PATHS).build()?,
    ])
}
