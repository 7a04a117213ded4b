//! When each task of a group starts and ends, as Nomad's agent decides (v2.0.5, client/allocrunner/tasklifecycle/).
//!
//! ```text
//! prestart ─► succeeded, sidecars running ─► main ─► all started ─► poststart
//!                 │ failed                    │ all ended, and poststart too
//!                 ▼                           ▼
//!        main and poststart are left out ─► sidecars are stopped ─► all ended ─► poststop
//! ```

use crate::jobspec::{Hook, Lifecycle};

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The task is not due yet.
    Waiting,
    /// The task was started and has not ended.
    Running,
    /// The task has ended with exit code 0.
    Succeeded,
    /// The task has ended in another way.
    Failed,
    /// The task is never started.
    LeftOut,
}

/// The next steps, as indices into the group's tasks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) start: Vec<usize>,
    pub(super) stop: Vec<usize>,
    pub(super) leave_out: Vec<usize>,
}

/// The next steps of a group; empty while there is only something to wait for.
pub(super) fn steps(tasks: &[(Lifecycle, State)]) -> Steps {
    let which = |wanted: &dyn Fn(Lifecycle, State) -> bool| -> Vec<usize> {
        let wanted = tasks.iter().enumerate().filter(|(_, (lifecycle, state))| wanted(*lifecycle, *state));
        wanted.map(|(index, _)| index).collect()
    };
    let is_all = |hook: Hook, fine: &dyn Fn(bool, State) -> bool| {
        tasks.iter().filter(|(task, _)| task.hook == hook).all(|(task, state)| fine(task.sidecar, *state))
    };
    let is_live = |state: State| matches!(state, State::Waiting | State::Running);

    let prestart_failed = !is_all(Hook::Prestart, &|sidecar, state| sidecar || state != State::Failed);
    // No task that needs the sidecars is left.
    let is_needless =
        !tasks.iter().any(|(task, state)| !task.sidecar && task.hook != Hook::Poststop && is_live(*state));
    if prestart_failed || is_needless {
        let of_the_run = |task: Lifecycle| task.hook != Hook::Poststop && (prestart_failed || task.sidecar);
        let steps = Steps {
            stop: which(&|task, state| of_the_run(task) && state == State::Running),
            leave_out: which(&|task, state| of_the_run(task) && state == State::Waiting),
            start: Vec::new(),
        };
        if steps != Steps::default() {
            return steps;
        }
    }
    let prestart_done = is_all(Hook::Prestart, &|sidecar, state| {
        if sidecar { state != State::Waiting } else { !is_live(state) }
    });
    let main_started = prestart_done && is_all(Hook::Main, &|_, state| state != State::Waiting);
    let is_over = tasks.iter().all(|(task, state)| task.hook == Hook::Poststop || !is_live(*state));
    let start = which(&|task, state| {
        let is_time = match task.hook {
            Hook::Prestart => true,
            Hook::Main => prestart_done,
            Hook::Poststart => main_started,
            Hook::Poststop => is_over,
        };
        is_time && state == State::Waiting
    });
    Steps { start, ..Steps::default() }
}

#[cfg(test)]
mod tests {
    use super::State::{Failed, LeftOut, Running, Succeeded, Waiting};
    use super::*;

    const INIT: Lifecycle = Lifecycle { hook: Hook::Prestart, sidecar: false };
    const PROXY: Lifecycle = Lifecycle { hook: Hook::Prestart, sidecar: true };
    const MAIN: Lifecycle = Lifecycle { hook: Hook::Main, sidecar: false };
    const AFTER: Lifecycle = Lifecycle { hook: Hook::Poststart, sidecar: false };
    const WATCH: Lifecycle = Lifecycle { hook: Hook::Poststart, sidecar: true };
    const CLEAN: Lifecycle = Lifecycle { hook: Hook::Poststop, sidecar: false };

    #[test]
    fn each_hook_has_its_time() {
        let group = [INIT, PROXY, MAIN, AFTER, WATCH, CLEAN];
        let start = |start: &[usize]| Steps { start: start.to_vec(), ..Steps::default() };
        let cases: &[([State; 6], Steps)] = &[
            ([Waiting; 6], start(&[0, 1])),
            ([Running, Running, Waiting, Waiting, Waiting, Waiting], start(&[])),
            ([Succeeded, Waiting, Waiting, Waiting, Waiting, Waiting], start(&[1])),
            ([Succeeded, Running, Waiting, Waiting, Waiting, Waiting], start(&[2])),
            ([Succeeded, Running, Running, Waiting, Waiting, Waiting], start(&[3, 4])),
            ([Succeeded, Running, Running, Succeeded, Running, Waiting], start(&[])),
            ([Succeeded, Running, Succeeded, Running, Running, Waiting], start(&[])),
            (
                [Succeeded, Running, Failed, Succeeded, Running, Waiting],
                Steps { stop: vec![1, 4], ..Steps::default() },
            ),
            ([Succeeded, Failed, Failed, Succeeded, Failed, Waiting], start(&[5])),
            (
                [Failed, Running, Waiting, Waiting, Waiting, Waiting],
                Steps { stop: vec![1], leave_out: vec![2, 3, 4], ..Steps::default() },
            ),
            ([Failed, Failed, LeftOut, LeftOut, LeftOut, Waiting], start(&[5])),
            ([Succeeded, Failed, Succeeded, Succeeded, Failed, Succeeded], start(&[])),
        ];
        for (states, expected) in cases {
            let tasks: Vec<_> = group.into_iter().zip(*states).collect();
            assert_eq!(steps(&tasks), *expected, "{states:?}");
        }
    }

    #[test]
    fn tasks_without_hooks_start_together() {
        assert_eq!(steps(&[(MAIN, Waiting), (MAIN, Waiting)]).start, [0, 1]);
    }
}
