//! Who may compile now: fair among contents, jobs and namespaces.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Wanted;
use crate::task::turns::{Turn, TurnsOf};
use crate::task::wasm::cache::Entry;

/// How many modules are compiled at the same time, each with its own limits.
const COMPILE_AT_ONCE: usize = 4;

/// The turns of all compilations.
#[derive(Debug)]
pub(super) struct Turns {
    /// One compilation per module, however many tasks want it at the same moment.
    contents: TurnsOf<Entry>,
    /// One compilation per Nomad namespace, so that a tenant with many slow ones leaves others a place.
    namespaces: TurnsOf<String>,
    /// One compilation per job of a namespace, so that other jobs wait for at most one of a job with many.
    jobs: TurnsOf<(String, String)>,
    places: Semaphore,
}

/// A place at a compiler: while it is held, nobody else compiles the same.
pub(super) struct Slot<'a> {
    _turns: [Turn; 3],
    _place: Option<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            contents: TurnsOf::default(),
            namespaces: TurnsOf::default(),
            jobs: TurnsOf::default(),
            places: Semaphore::new(COMPILE_AT_ONCE),
        }
    }
}

impl Turns {
    /// Waits for a place at a compiler.
    pub(super) async fn place(&self, wanted: &Wanted<'_>, entry: &Entry) -> Slot<'_> {
        // In this order: whoever holds the turn of a content is compiling it, or about to. Nobody of another namespace
        // can hold it while waiting in a queue of its own.
        let of_job = self.jobs.take(&(wanted.namespace.clone(), wanted.job.clone())).await;
        let of_namespace = self.namespaces.take(wanted.namespace).await;
        // The semaphore is never closed.
        let place = self.places.acquire().await.ok();
        let of_content = self.contents.take(entry).await;
        Slot { _turns: [of_content, of_namespace, of_job], _place: place }
    }
}
