//! Where the output of a task goes: Nomad's FIFOs, the journal, or both.

use std::path::{Path, PathBuf};

use super::Shared;
use super::config::TaskId;
use super::error::Error;
use super::host::logs;
use super::spec::{self, Sink, TaskSpec};
use super::unit;
use crate::systemd::Stream;

impl Shared {
    /// One output stream of the task. If it goes to two places, a copier is started for it, which ends when the last
    /// writer of the stream does.
    pub(super) async fn stream(
        &self,
        task: &TaskSpec,
        id: &TaskId,
        name: &str,
        path: &Path,
    ) -> Result<Stream, Error> {
        if task.output.sink == Sink::Journal {
            return Ok(Stream::Journal);
        }
        let fifo = logs::open(&task.dirs.alloc_dir, path).await?;
        match (task.output.sink, fifo) {
            (Sink::Both, Stream::Fd(fifo)) => {
                let failed = |source| Error::Connection { to: "the copier of the task's output", source };
                let (reader, writer) = std::io::pipe().map_err(failed)?;
                let program = own_program().map_err(failed)?;
                let unit = spec::copier_of(id, name);
                // A copier that an interrupted start of this same task left would write to the same FIFO.
                self.systemd.remove(&unit).await?;
                let copier = unit::copier(unit, task, program, reader.into(), Stream::Fd(fifo));
                self.systemd.start(copier).await?;
                Ok(Stream::Fd(writer.into()))
            }
            // Nomad's own collection is disabled.
            (Sink::Both, _) => Ok(Stream::Journal),
            (_, fifo) => Ok(fifo),
        }
    }
}

/// The driver's own binary. If it was replaced meanwhile, a newer one has its name.
fn own_program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => Ok(path.into()),
        None => Ok(path),
    }
}
