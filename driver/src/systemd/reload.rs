//! Reloads of the manager (`daemon-reload`, `daemon-reexec`), and whether one came between a request and its execution.
//!
//! A request for a unit is answered when its start is queued, and systemd starts queued units when it has nothing else to
//! do. A reload in between makes systemd read its own file of the unit, and start what it reads. That is not always what
//! was requested: in the file `;` and `$` in arguments are escaped in a way that systemd does not read, and spaces in some
//! lists are not quoted (seen from 252 to 262; tests/unit_files looks for more). So the driver has to notice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use zbus::Variant;
use zbus::message::{Message, Sequence};

/// More often systemd does not reload during one start.
const REMEMBERED: usize = 256;

/// The last reloads.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    last: Mutex<VecDeque<Reload>>,
    /// How many connections there were.
    connections: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Reload {
    at: Moment,
    /// Otherwise the connection was lost, and the manager may have reloaded meanwhile.
    is_certain: bool,
}

/// When something was asked for or heard of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Microseconds of the monotonic clock, by which systemd notes when it did what.
    time: u64,
    /// Which connection, and which of its messages.
    position: Option<(u64, Sequence)>,
}

impl Moment {
    /// Now, without a message.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let time = u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unwrap_or_default();
        Self { time, position: None }
    }

    /// When this message was sent. The order of messages of one connection is certain; when the driver comes to hear of
    /// each is not.
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
    /// The manager says that it reloads.
    pub(super) fn note(&self, message: &Message) {
        self.push(Reload { at: Moment::of(self.connection(), message), is_certain: true });
    }

    /// There is another connection. The manager may have reloaded while there was none.
    pub(super) fn note_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.push(Reload { at: Moment::now(), is_certain: false });
    }

    /// Which connection it is now.
    pub(super) fn connection(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// When this answer was sent, to a question that was asked over that connection.
    pub(super) fn moment_of(&self, answer: &Message, connection: u64) -> Moment {
        // Made between the question and the answer, a connection may be that of either.
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

    /// Did the manager reload after this request, and before it started the main process at `started`? It tells only of
    /// the last time, when it had `loaded` its units. Both in microseconds of the monotonic clock.
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

/// Does systemd write such a value to the unit's file in a way that it does not read?
pub(super) fn may_be_misread(name: &str, value: &Variant<'_>) -> bool {
    match name {
        "ExecStart" => has(value, &|c| matches!(c, ';' | '$')),
        // Nothing is written for none of them, which stands for all.
        "RestrictNamespaces" => matches!(value, Variant::U64(0)),
        // They confine nothing.
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
        // Heard of at 20, answered at 10; systemd loaded its units at 19.
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
