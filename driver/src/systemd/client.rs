//! Calls to systemd: find, list, change, signal and remove units.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zbus::message::Message;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::checked::Checked;
use super::connection::{MANAGER, MANAGER_PATH, PROPERTIES, SERVICE, Shared, UNIT};
use super::error::{Error, is_named, unfit};
use super::features::{Features, Manager};
use super::jobs::{JOB_TIMEOUT, JobEnds, job_of};
use super::journal::{self, Ended};
use super::name::UnitName;
use super::retry::Retry;
use super::sender::DESTINATION;
use super::state::{InvocationId, Service};
use super::transient::Property;
use super::vocabulary::Vocabulary;
use super::watch::Unit;

/// The longest name of a unit, in bytes (systemd, `UNIT_NAME_MAX`, with the zero byte).
const UNIT_NAME_MAX: usize = 255;
const SLICE: &str = "org.freedesktop.systemd1.Slice";

/// How long after a unit's end journald may still be busy with the unit's last lines.
const JOURNAL_LAG: Duration = Duration::from_secs(10);

/// The processes of a unit that receive a signal.
#[derive(Debug, Clone, Copy)]
pub enum KillWho {
    /// The main process only.
    Main,
    /// Every process in the unit's cgroup.
    All,
}

/// A method of systemd, with its object and interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    path: &'a str,
    interface: &'static str,
    name: &'static str,
}

impl<'a> Method<'a> {
    /// A method of the manager, for example `StartTransientUnit`.
    pub(super) fn of_manager(name: &'static str) -> Self {
        Self { path: MANAGER_PATH, interface: MANAGER, name }
    }

    /// `Get` or `GetAll` for the properties of the object at `path`.
    fn of_properties(path: &'a str, name: &'static str) -> Self {
        Self { path, interface: PROPERTIES, name }
    }
}

/// A systemd manager. Cheap to clone; connects when first used.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    pub(super) shared: Arc<Shared>,
}

impl Systemd {
    /// Selects the manager. Must be called before any other call.
    pub fn choose(&self, manager: Manager) {
        *self.shared.manager.lock() = manager;
    }

    /// The selected manager.
    pub fn manager(&self) -> Manager {
        self.shared.manager()
    }

    /// The features of the manager.
    pub async fn features(&self) -> Result<Features, Error> {
        // Makes sure that there is a manager to ask.
        drop(self.connection().await?);
        if let Some(features) = self.shared.features.lock().clone() {
            return Ok(features);
        }
        let manager = self.shared.manager();
        let version = self.manager_property("Version").await?;
        let options = self.manager_property("Features").await?;
        // The system manager has everything that the kernel has.
        let cgroup = match manager {
            Manager::System => String::new(),
            Manager::User => self.manager_property("ControlGroup").await?,
        };
        let vocabulary = Vocabulary::ask().await;
        let features = Features::new(manager, &version, &options, &cgroup, vocabulary);
        *self.shared.features.lock() = Some(features.clone());
        Ok(features)
    }

    /// Does systemd answer now? Remembered answers do not show that.
    pub async fn answers(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.manager_property("Version"))
            .await
            .is_ok_and(|answer| answer.is_ok())
    }

    async fn manager_property(&self, name: &'static str) -> Result<String, Error> {
        let value = self.property(name, MANAGER_PATH, MANAGER, name).await?;
        Ok(<&str>::try_from(&*value).unwrap_or_default().to_owned())
    }

    /// When the manager last began to read the files of its units, in microseconds of the monotonic clock; zero if the
    /// manager does not report it.
    pub(super) async fn last_load(&self) -> Result<u64, Error> {
        let name = "UnitsLoadTimestampMonotonic";
        let value = self.property(name, MANAGER_PATH, MANAGER, name).await?;
        Ok(u64::try_from(&*value).unwrap_or_default())
    }

    /// Reads a property of the object at `path`; `thing` is the object's name in errors.
    async fn property(
        &self,
        thing: &str,
        path: &str,
        interface: &str,
        name: &str,
    ) -> Result<OwnedVariant, Error> {
        let act = "read the property";
        let method = Method::of_properties(path, "Get");
        let answer = self.call_with_retries(act, thing, method, &(interface, name)).await?;
        answer.body().deserialize().map_err(|source| Error::Call {
            act,
            thing: thing.to_owned(),
            source: Box::new(source),
        })
    }

    /// Changes properties of a unit, which may be running, or of a slice, until the next reboot.
    pub async fn set(&self, name: &str, properties: Vec<Property>) -> Result<(), Error> {
        let properties = Checked::new(properties).map_err(|wrong| unfit(name, wrong))?;
        let body = (name, true, properties.into_wire());
        self.call_with_retries("change unit", name, Method::of_manager("SetUnitProperties"), &body)
            .await
            .map(drop)
    }

    /// Follows an existing unit.
    pub async fn find(&self, name: &UnitName) -> Result<Unit, Error> {
        let followed = self.follow(name);
        self.refresh_with_retries(name).await?;
        if followed.state().removed {
            return Err(Error::NoSuchUnit { unit: name.clone() });
        }
        Ok(followed)
    }

    /// Removes what an earlier driver process could not remove of units whose names begin with `prefix`.
    pub fn sweep(&self, prefix: &str) {
        journal::sweep(prefix);
    }

    /// How a unit that no longer exists ended, if systemd logged it. systemd logs the end of a process that was not
    /// clean.
    pub async fn end_in_journal(&self, name: &UnitName, invocation: &InvocationId) -> Option<Ended> {
        journal::end(self.manager(), name, invocation).await
    }

    /// Properties of a service that are not part of its state.
    pub async fn service(&self, name: &UnitName) -> Result<Service, Error> {
        let path = name.object_path();
        let (act, method) = ("read unit", Method::of_properties(&path, "GetAll"));
        let answer = self.call_with_retries(act, name.as_str(), method, &(SERVICE,)).await?;
        let all = answer.body().deserialize().map_err(|source| Error::Call {
            act,
            thing: name.to_string(),
            source: Box::new(source),
        })?;
        Ok(Service::of(&all))
    }

    /// Does this slice deny addresses to the units in it (`IPAddressDeny=`)? The slice need not be active.
    pub async fn denies_addresses(&self, slice: &str) -> Result<bool, Error> {
        let path = UnitName::known(slice).object_path();
        let value = self.property(slice, &path, SLICE, "IPAddressDeny").await?;
        Ok(matches!(&*value, Variant::Array(prefixes) if !prefixes.is_empty()))
    }

    /// The state of a unit (`active (exited)`), and the files that systemd has read for it, including drop-ins.
    pub async fn files(&self, name: &UnitName) -> Result<(String, Vec<PathBuf>), Error> {
        let path = name.object_path();
        let read = async |property| self.property(name.as_str(), &path, UNIT, property).await;
        let text = |value: &OwnedVariant| <&str>::try_from(&**value).unwrap_or_default().to_owned();
        let state = format!("{} ({})", text(&read("ActiveState").await?), text(&read("SubState").await?));
        let mut files = vec![PathBuf::from(text(&read("FragmentPath").await?))];
        let additions = read("DropInPaths").await?;
        if let Variant::Array(paths) = &*additions {
            let paths = paths.iter().filter_map(|path| <&str>::try_from(path).ok());
            files.extend(paths.map(PathBuf::from));
        }
        files.retain(|path| !path.as_os_str().is_empty());
        Ok((state, files))
    }

    /// Sends a signal. It is not an error if no process is left to receive it.
    pub async fn kill(&self, name: &UnitName, whom: KillWho, signal: i32) -> Result<(), Error> {
        let whom = match whom {
            KillWho::Main => "main",
            KillWho::All => "all",
        };
        let body = (name.as_str(), whom, signal);
        let sent = self.call("signal unit", name.as_str(), Method::of_manager("KillUnit"), &body).await;
        match sent {
            Err(Error::Call { source, .. })
                if is_named(&source, "NoSuchUnit")
                    || is_named(&source, "NoSuchProcess")
                    || is_named(&source, "UnixProcessIdUnknown") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Closes the sockets of a service that has ended. The service stays as it is.
    pub async fn close_sockets(&self, name: &UnitName) -> Result<(), Error> {
        let socket = name.socket();
        // In any other mode the service, which requires the sockets, would be stopped too, and forget how it ended.
        let body = (socket.as_str(), "ignore-dependencies");
        match self.call("stop unit", &socket, Method::of_manager("StopUnit"), &body).await {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => Ok(()),
            other => other.map(drop),
        }
    }

    /// The names of all units in systemd's memory that begin with `prefix`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<UnitName>, Error> {
        /// A unit in systemd's list: name, description, load, active and sub state, the unit that it follows, its path,
        /// and its job's ID, type and path.
        type Row =
            (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
        // A backslash in a pattern escapes the next character.
        let pattern = format!("{}*", prefix.replace('\\', "\\\\"));
        let body = (Vec::<&str>::new(), vec![pattern.as_str()]);
        let method = Method::of_manager("ListUnitsByPatterns");
        let answer = self.call_with_retries("list units", &pattern, method, &body).await?;
        let rows: Vec<Row> = answer.body().deserialize().map_err(|source| Error::Call {
            act: "list units",
            thing: pattern,
            source: Box::new(source),
        })?;
        Ok(rows.into_iter().filter(|row| row.2 != "not-found").map(|row| UnitName::known(row.0)).collect())
    }

    /// The file system that systemd would mount for a unit that uses this path of the host, if it is not mounted.
    pub async fn unmounted(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        for part in path.ancestors().filter(|part| part.parent().is_some()) {
            let name = UnitName::mount(part);
            // systemd has no unit with a name of this length.
            if name.as_str().len() > UNIT_NAME_MAX {
                continue;
            }
            // A unit that is not in systemd's memory may still have a file.
            let method = Method::of_manager("LoadUnit");
            let answer =
                self.call_with_retries("load unit", name.as_str(), method, &(name.as_str(),)).await?;
            let failed =
                |source| Error::Call { act: "load unit", thing: name.to_string(), source: Box::new(source) };
            let object: OwnedObjectPath = answer.body().deserialize().map_err(failed)?;
            let state = async |property| {
                let value = self.property(name.as_str(), object.as_str(), UNIT, property).await?;
                Ok::<_, Error>(<&str>::try_from(&*value).unwrap_or_default().to_owned())
            };
            if state("LoadState").await? == "loaded" && state("ActiveState").await? != "active" {
                return Ok(Some(part.to_owned()));
            }
        }
        Ok(None)
    }

    /// The ephemeral users that exist now, with their UIDs.
    pub async fn ephemeral_users(&self) -> Result<Vec<(u32, String)>, Error> {
        let (act, thing) = ("list", "ephemeral users");
        let answer = self.call_with_retries(act, thing, Method::of_manager("GetDynamicUsers"), &()).await?;
        let failed = |source| Error::Call { act, thing: thing.to_owned(), source: Box::new(source) };
        answer.body().deserialize().map_err(failed)
    }

    /// The PID of the unit's main process, as soon as there is one.
    pub async fn main_process(&self, name: &UnitName) -> u32 {
        let unit = self.follow(name);
        unit.wait_for(|state| state.main_pid != 0).await;
        unit.state().main_pid
    }

    /// Kills all processes in the unit at once, and makes systemd forget the unit. It is not an error if there is no
    /// such unit.
    ///
    /// When this returns no process of the unit is left, and its name is free. While systemd cannot be reached this is
    /// tried again, since nobody else would do it.
    pub async fn remove(&self, name: &UnitName) -> Result<(), Error> {
        let mut retry = Retry::new();
        while let Err(error) = self.unload(name).await {
            retry.with(error).await?;
        }
        let name = name.clone();
        tokio::spawn(async move {
            tokio::time::sleep(JOURNAL_LAG).await;
            journal::forget_fields(&name);
        });
        Ok(())
    }

    async fn unload(&self, name: &UnitName) -> Result<(), Error> {
        const SIGKILL: i32 = 9;
        let followed = self.follow(name);
        let mut ends = self.job_ends(name);
        self.kill(name, KillWho::All, SIGKILL).await?;
        let body = (name.as_str(), "replace");
        let stopped = self.call("stop unit", name.as_str(), Method::of_manager("StopUnit"), &body).await;
        let answer = match stopped {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => return Ok(()),
            other => other?,
        };
        // Whether the end was reported or missed: the next call finds out.
        ends.wait_for(&job_of(&answer, "stop unit", name)?, "stop unit", JOB_TIMEOUT).await?;
        let body = (name.as_str(),);
        let reset =
            self.call("reset unit", name.as_str(), Method::of_manager("ResetFailedUnit"), &body).await;
        match reset {
            Err(Error::Call { source, .. }) if is_named(&source, "NoSuchUnit") => return Ok(()),
            other => other?,
        };
        let gone = followed.wait_for(|state| state.removed);
        match tokio::time::timeout(JOB_TIMEOUT, gone).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Slow { act: "remove unit", unit: name.clone() }),
        }
    }

    pub(super) fn follow(&self, name: &UnitName) -> Unit {
        self.shared.units.follow(name)
    }

    pub(super) fn job_ends(&self, name: &UnitName) -> JobEnds {
        self.shared.jobs.of(name)
    }

    pub(super) async fn refresh_with_retries(&self, name: &UnitName) -> Result<(), Error> {
        let mut retry = Retry::new();
        while let Err(error) = self.refresh(name).await {
            retry.with(error).await?;
        }
        Ok(())
    }

    async fn refresh(&self, name: &UnitName) -> Result<(), Error> {
        let connection = self.connection().await?;
        self.shared.refresh(&connection, &name.object_path()).await.map_err(|source| Error::Call {
            act: "read unit",
            thing: name.to_string(),
            source: Box::new(source),
        })
    }

    /// A call that has the same effect when it is made twice. It is made again while systemd cannot be reached.
    async fn call_with_retries<B>(
        &self,
        act: &'static str,
        thing: &str,
        method: Method<'_>,
        body: &B,
    ) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let mut retry = Retry::new();
        loop {
            match self.call(act, thing, method, body).await {
                Err(error) => retry.with(error).await?,
                answer => return answer,
            }
        }
    }

    /// Calls a method. An error names `act`, what was to be done, and `thing`, the unit or property.
    pub(super) async fn call<B>(
        &self,
        act: &'static str,
        thing: &str,
        method: Method<'_>,
        body: &B,
    ) -> Result<Message, Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let Method { path, interface, name } = method;
        let connection = self.connection().await?;
        let _permit = self.shared.calls.acquire().await;
        let answer = connection.call_method(Some(DESTINATION), path, Some(interface), name, body).await;
        answer.map_err(|source| Error::Call { act, thing: thing.to_owned(), source: Box::new(source) })
    }

    /// The open connection; connects if there is none.
    async fn connection(&self) -> Result<Connection, Error> {
        let connected = self.shared.connect().await;
        let manager = self.shared.manager();
        connected.map_err(|source| Error::Connect { manager, source: Box::new(source) })
    }
}
