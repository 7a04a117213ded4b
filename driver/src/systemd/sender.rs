//! Whose signals are believed.
//!
//! Everybody on the bus can send a signal to our connection, whatever we have asked the bus for, and say in it what he
//! likes. Only who sends it is stamped by the bus: so only what the owner of systemd's name sends is taken. systemd
//! has another unique name when it has executed itself anew.

use std::time::Duration;

use parking_lot::Mutex;
use zbus::fdo;
use zbus::message::Message;
use zbus::names::OwnedUniqueName;

/// The name of systemd on a bus.
pub(super) const DESTINATION: &str = "org.freedesktop.systemd1";
/// The bus itself, and the interface by which it speaks.
pub(super) const BUS: &str = "org.freedesktop.DBus";

/// Between two questions who systemd is.
const PAUSE: Duration = Duration::from_millis(50);

/// The unique name of systemd on one connection.
#[derive(Debug, Default)]
pub(super) struct Sender(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    owner: Option<OwnedUniqueName>,
    /// How often the bus has told of another owner.
    changes: u64,
}

/// Who sent a signal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum From {
    /// systemd.
    Systemd,
    /// The bus, which tells that systemd has another name.
    NewSystemd,
    /// Anybody else.
    Other,
}

impl Sender {
    /// Asks the bus who systemd is, and waits for it. The bus shall tell of changes by then.
    pub(super) async fn ask(&self, bus: &fdo::DBusProxy<'_>) -> zbus::Result<()> {
        loop {
            let changes = self.0.lock().changes;
            let owner = match bus.get_name_owner(DESTINATION.try_into()?).await {
                // It has just answered a call, and executes itself anew.
                Err(fdo::Error::NameHasNoOwner(_)) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                owner => owner?,
            };
            let mut known = self.0.lock();
            // The reader may have read of another one meanwhile, and the answer may be older.
            if known.changes == changes {
                known.owner = Some(owner);
                return Ok(());
            }
        }
    }

    /// Who sent the signal. What the bus says of systemd's name is noted.
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
