//! The properties of a task that are decided before it starts.

use tests::{Exit, Job, repository, wasm};

use super::dice::Dice;

/// How the task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The task exits at once.
    Alone,
    /// The task exits when it finds a file.
    Called,
    /// The task is stopped, and exits by itself or is killed by the signal.
    Stopped,
    /// The main process is killed from outside.
    Killed,
}

#[derive(Debug, Clone)]
pub(crate) struct Fate {
    /// The number of the task, which is unique.
    number: u64,
    is_guest: bool,
    user: &'static str,
    pub(crate) ending: Ending,
    pub(crate) exit: Exit,
    /// The round in which the task ends.
    pub(crate) rounds: u64,
    /// The number of rounds between its end and its destruction.
    pub(crate) rests: u64,
}

impl Fate {
    pub(crate) fn roll(dice: &mut Dice, number: u64, endings: &[Ending]) -> Self {
        let ending = dice.one_of(endings);
        let is_guest = dice.roll(3) == 0;
        // Every second task succeeds.
        let status = Exit::status(i32::try_from(dice.roll(2) * dice.roll(256)).unwrap());
        let signal = Exit::signal(dice.one_of(&[6, 9, 10, 11, 15]));
        let exit = match ending {
            Ending::Killed => Exit::signal(9),
            // WASI has no signals: the runner exits instead of the guest.
            Ending::Stopped if is_guest => Exit::status(143),
            _ if is_guest || dice.roll(2) == 0 => status,
            Ending::Stopped => Exit::signal(15),
            _ => signal,
        };
        let user = dice.one_of(&["", "", "nobody", "root"]);
        Self { number, is_guest, user, ending, exit, rounds: 1 + dice.roll(6), rests: dice.roll(2) }
    }

    /// The task with this fate. If Nomad starts it more than once, `start` is the number of the attempt.
    pub(crate) fn job(&self, start: u32) -> Job {
        let job = if self.is_guest { self.guest(start) } else { self.script(start) };
        let job = if self.ending == Ending::Alone { job.file("go", b"") } else { job };
        job.user(self.user)
    }

    fn script(&self, start: u32) -> Job {
        let Exit { code, signal, .. } = self.exit;
        let last = if signal == 0 { format!("exit {code}") } else { format!("kill -{signal} $$") };
        let last = format!("echo end {start} >>life; {last}");
        let trap = match self.ending {
            // The task ends once, even if told twice.
            Ending::Stopped if signal == 0 => format!("trap \"trap '' TERM; {last}\" TERM"),
            _ => String::new(),
        };
        // Every process of this run holds the lock, and the last one frees it by its end.
        Job::shell(&format!(
            "exec 9>>/alloc/data/lock; flock -n 9 || echo overlap {start} >>life
            {trap}
            echo begin {start} >>life
            while ! test -e go; do sleep 0.1; done
            {last}"
        ))
    }

    /// Whether the task cannot record its own end.
    pub(crate) fn is_mute(&self) -> bool {
        let is_stopped = self.ending == Ending::Stopped && (self.is_guest || self.exit.signal != 0);
        is_stopped || self.ending == Ending::Killed
    }

    /// Every second guest has a module that was not compiled before.
    fn guest(&self, start: u32) -> Job {
        let text = std::fs::read_to_string(repository().join("tests/guests/life.wat")).unwrap();
        let module = wasm(&text.replace("(module", &format!("(module $life{}", self.number / 2)));
        let (begin, end) = (format!("begin {start}\n"), format!("end {start}\n"));
        Job::artifact("life.wasm", &module).args(&[&begin, &end, &self.exit.code.to_string()])
    }
}
