//! Reloads of the manager (`daemon-reload`, `daemon-reexec`), and whether one came between a request and its execution.
//!
//! A request for a unit is answered when its start is queued. systemd starts queued units when it has nothing else to
//! do. After a reload in between, systemd reads its own file of the unit, and starts what it has read. That is not
//! always what was requested: in the file `;` and `$` in arguments are escaped in a way that systemd does not read, and
//! spaces in some lists are not quoted (seen from 252 to 262; tests/unit_files looks for more). So the driver has to
//! notice it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use zbus::Variant;
use zbus::message::{Message, Sequence};

/// The number of remembered reloads; systemd does not reload more often during one start.
const REMEMBERED: usize = 256;

/// The last reloads.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    last: Mutex<VecDeque<Reload>>,
    /// The number of connections so far.
    connections: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Reload {
    at: Moment,
    /// False if the connection was lost, and the manager may have reloaded meanwhile.
    is_certain: bool,
}

/// When a request was made, or a message received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Microseconds of the monotonic clock, which systemd uses for its own timestamps.
    time: u64,
    /// The connection, and the position among its messages.
    position: Option<(u64, Sequence)>,
}

impl Moment {
    /// The current time, without a message.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let time = u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unwrap_or_default();
        Self { time, position: None }
    }

    /// When this message was sent. The order of the messages of one connection is certain; when the driver receives
    /// each of them is not.
    fn of(connection: u64, message: &Message) -> Self {
        Self { position: Some((connection, message.recv_position())), ..Self::now() }
    }

    fn is_after(&self, other: &Self) -> bool {
        match (self.position, other.position) {
            (Some((of, this)), Some((of_other, other))) if of == of_other => this > other,
            _ => self.time >= other.time,
        }
    }
}

impl Reloads {
    /// Records that the manager reports a reload.
    pub(super) fn note(&self, message: &Message) {
        self.push(Reload { at: Moment::of(self.connection(), message), is_certain: true });
    }

    /// Records another connection. The manager may have reloaded while there was none.
    pub(super) fn note_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.push(Reload { at: Moment::now(), is_certain: false });
    }

    /// The number of the current connection.
    pub(super) fn connection(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// When this answer was sent, to a request that was made over `connection`.
    pub(super) fn moment_of(&self, answer: &Message, connection: u64) -> Moment {
        // A connection that was opened between the request and the answer may be that of either.
        if connection == self.connection() { Moment::of(connection, answer) } else { Moment::now() }
    }

    fn push(&self, reload: Reload) {
        let mut reloads = self.last.lock();
        if reloads.len() == REMEMBERED {
            reloads.pop_front();
        }
        reloads.push_back(reload);
    }

    /// May the manager have reloaded since this request was answered?
    pub(super) fn any_since(&self, answered: &Moment) -> bool {
        self.last.lock().iter().any(|reload| reload.at.is_after(answered))
    }

    /// Did the manager reload after this request, and before it started the main process at `started`? The manager
    /// reports only its last reload, when it had `loaded` its units. Both are in microseconds of the monotonic clock.
    pub(super) fn any_between(&self, answered: &Moment, started: u64, loaded: u64) -> bool {
        let reloads = self.last.lock();
        let mut certain = reloads.iter().filter(|reload| reload.is_certain && reload.at.is_after(answered));
        match (certain.next(), certain.next()) {
            (None, _) => loaded >= answered.time && loaded <= started,
            (Some(_), None) => loaded <= started,
            (Some(first), Some(_)) => first.at.time <= started,
        }
    }
}

/// Does systemd write this value to the unit's file in a form that it does not read?
pub(super) fn may_be_misread(name: &str, value: &Variant<'_>) -> bool {
    match name {
        "ExecStart" => has(value, &|c| matches!(c, ';' | '$')),
        // systemd writes nothing for an empty set, and an absent setting stands for all.
        "RestrictNamespaces" => matches!(value, Variant::U64(0)),
        // These fields confine nothing.
        "LogExtraFields" => false,
        _ => {
            matches!(value, Variant::Array(_))
                && has(value, &|c| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'))
        }
    }
}

fn has(value: &Variant<'_>, special: &dyn Fn(char) -> bool) -> bool {
    match value {
        Variant::Str(text) => text.contains(special),
        Variant::Array(values) => values.iter().any(|value| has(value, special)),
        Variant::Structure(fields) => fields.fields().iter().any(|value| has(value, special)),
        Variant::Variant(value) => has(value, special),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> Moment {
        Moment { time, position: None }
    }

    fn reloads(times: &[u64]) -> Reloads {
        let reloads = Reloads::default();
        for time in times {
            reloads.push(Reload { at: at(*time), is_certain: true });
        }
        reloads
    }

    #[test]
    fn a_reload_counts_between_the_answer_and_the_start() {
        // Received at 20, answered at 10; systemd loaded its units at 19.
        assert!(reloads(&[20]).any_between(&at(10), 30, 19));
        assert!(!reloads(&[20]).any_between(&at(10), 15, 19), "the program ran already");
        assert!(!reloads(&[5]).any_between(&at(10), 30, 4), "the unit was not there yet");
        assert!(reloads(&[20, 40]).any_between(&at(10), 30, 39), "the first one counts");
        assert!(!reloads(&[35, 40]).any_between(&at(10), 30, 39));
    }

    #[test]
    fn a_lost_connection_may_hide_a_reload() {
        let reloads = Reloads::default();
        reloads.note_connection();
        let before = at(0);
        assert!(reloads.any_since(&before));
        assert!(reloads.any_between(&before, 30, 20));
        assert!(!reloads.any_between(&at(25), 30, 20), "systemd loaded its units before");
    }

    #[test]
    fn values_that_a_unit_file_does_not_keep_are_known() {
        let command =
            |argument: &str| Variant::from(vec![("/bin/sh".to_owned(), vec![argument.to_owned()], false)]);
        assert!(
            may_be_misread("ExecStart", &command("a; b")) && may_be_misread("ExecStart", &command("$$x"))
        );
        assert!(!may_be_misread("ExecStart", &command("a b")));
        assert!(may_be_misread("ReadOnlyPaths", &vec!["/a b".to_owned()].into()));
        assert!(!may_be_misread("ReadOnlyPaths", &vec!["/a".to_owned()].into()));
        assert!(!may_be_misread("Description", &"a b".into()));
    }
}
