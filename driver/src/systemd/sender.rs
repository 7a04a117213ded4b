//! Decides whose signals are accepted.
//!
//! Every process on the bus can send any signal to the driver's connection, whatever the driver has subscribed to. Only
//! the sender is stamped by the bus, so only signals from the owner of systemd's name are accepted. systemd has another
//! unique name after it has re-executed itself.

use std::time::Duration;

use parking_lot::Mutex;
use zbus::fdo;
use zbus::message::Message;
use zbus::names::OwnedUniqueName;

/// The well-known name of systemd on a bus.
pub(super) const DESTINATION: &str = "org.freedesktop.systemd1";
/// The name of the bus itself, and of its interface.
pub(super) const BUS: &str = "org.freedesktop.DBus";

/// The pause between two requests for the owner of systemd's name.
const PAUSE: Duration = Duration::from_millis(50);

/// The unique name of systemd on one connection.
#[derive(Debug, Default)]
pub(super) struct Sender(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    owner: Option<OwnedUniqueName>,
    /// How often the bus has reported another owner.
    changes: u64,
}

/// The sender of a signal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum From {
    /// systemd.
    Systemd,
    /// The bus, which reports that systemd has another name.
    NewSystemd,
    /// Any other sender.
    Other,
}

impl Sender {
    /// Asks the bus for the owner of systemd's name, and waits for one. The bus must already report changes.
    pub(super) async fn ask(&self, bus: &fdo::DBusProxy<'_>) -> zbus::Result<()> {
        loop {
            let changes = self.0.lock().changes;
            let owner = match bus.get_name_owner(DESTINATION.try_into()?).await {
                // systemd has just answered a call, and is re-executing itself.
                Err(fdo::Error::NameHasNoOwner(_)) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                owner => owner?,
            };
            let mut known = self.0.lock();
            // The reader may have received another owner meanwhile, and the answer may be older.
            if known.changes == changes {
                known.owner = Some(owner);
                return Ok(());
            }
        }
    }

    /// The sender of the signal. Records what the bus reports about systemd's name.
    pub(super) fn of(&self, signal: &Message) -> From {
        let header = signal.header();
        let Some(sender) = header.sender() else { return From::Other };
        if sender.as_str() != BUS {
            let is_systemd =
                self.0.lock().owner.as_ref().is_some_and(|owner| owner.as_str() == sender.as_str());
            return if is_systemd { From::Systemd } else { From::Other };
        }
        let is_change = header.member().is_some_and(|member| member.as_str() == "NameOwnerChanged");
        let body = signal.body();
        match body.deserialize::<(&str, &str, &str)>() {
            Ok((DESTINATION, _, owner)) if is_change => {
                let mut known = self.0.lock();
                known.owner = OwnedUniqueName::try_from(owner).ok();
                known.changes += 1;
                if known.owner.is_some() { From::NewSystemd } else { From::Other }
            }
            _ => From::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(sender: &str, member: &str, owner: &str) -> Message {
        let builder = Message::signal("/org/freedesktop/DBus", BUS, member).sender(sender);
        builder.build(&(DESTINATION, "", owner)).unwrap()
    }

    #[test]
    fn only_the_owner_of_systemds_name_is_systemd_and_only_the_bus_says_who_that_is() {
        let sender = Sender::default();
        assert_eq!(sender.of(&signal(":1.0", "Reloading", "")), From::Other, "nobody is known yet");
        assert_eq!(sender.of(&signal(":1.6", "NameOwnerChanged", ":1.6")), From::Other);
        assert_eq!(sender.of(&signal(":1.6", "Reloading", "")), From::Other);
        assert_eq!(sender.of(&signal(BUS, "NameOwnerChanged", ":1.0")), From::NewSystemd);
        assert_eq!(sender.of(&signal(":1.0", "Reloading", "")), From::Systemd);
        assert_eq!(sender.of(&signal(":1.6", "Reloading", "")), From::Other);
        assert_eq!(sender.of(&signal(BUS, "NameOwnerChanged", "")), From::Other);
        assert_eq!(sender.of(&signal(":1.0", "Reloading", "")), From::Other, "it has gone");
    }
}
