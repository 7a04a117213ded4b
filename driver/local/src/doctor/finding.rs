//! The result of one check.

use serde::Serialize;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// The check passed.
    Ok,
    /// Some jobs are restricted.
    Warning,
    /// The driver does not work, or is not loaded.
    Failed,
    /// The check could not be made.
    Ignored,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Ignored => "ignored",
        }
    }

    /// The colour of the terminal: green, yellow, red, grey.
    pub(super) fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warning => 33,
            Self::Failed => 31,
            Self::Ignored => 90,
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check's name, such as `plugin_dir`; scripts may rely on it.
    pub(super) check: &'static str,
    pub(super) status: Status,
    /// What the check found, such as `/opt/nomad/plugins`.
    pub(super) found: String,
    /// The consequence for jobs; empty if all is well.
    pub(super) means: String,
    /// A command or an instruction that solves it; empty if all is well.
    pub(super) mend: String,
}

impl Finding {
    /// Replaces what a terminal obeys: names of files may contain it.
    pub(super) fn make_visible(&mut self) {
        for text in [&mut self.found, &mut self.means, &mut self.mend] {
            *text = text.replace(|c: char| c.is_control() && c != '\n', "?");
        }
    }

    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), means: String::new(), mend: String::new() }
    }

    pub(super) fn ignored(check: &'static str, why: impl Into<String>) -> Self {
        Self { status: Status::Ignored, ..Self::ok(check, why) }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { status: Status::Warning, means: means.into(), mend: mend.into(), ..Self::ok(check, found) }
    }

    pub(super) fn failed(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { status: Status::Failed, ..Self::warning(check, found, means, mend) }
    }
}
