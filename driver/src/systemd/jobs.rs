//! The ends of systemd's jobs. Starting a unit is a job, and so is removing a unit.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use zbus::OwnedObjectPath;
use zbus::message::Message;

use super::error::Error;
use super::name::UnitName;

/// How long a job of the driver, which starts or removes a unit, may take before the driver gives up on it.
pub(super) const JOB_TIMEOUT: Duration = Duration::from_mins(2);

/// The waiters for jobs, by the name of the unit: the signal may overtake the answer that names the job.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<Vec<Waiter>>);

/// A waiter for the end of a job of a unit.
#[derive(Debug)]
struct Waiter {
    unit: String,
    ends: mpsc::UnboundedSender<JobEnd>,
}

#[derive(Debug, Clone)]
enum JobEnd {
    /// systemd has reported the end.
    Told { job: OwnedObjectPath, result: String },
    /// The connection was lost: the job may have ended without a report.
    Missed,
}

/// The ends of a unit's jobs, while a caller waits for one.
pub(super) struct JobEnds {
    unit: UnitName,
    receiver: mpsc::UnboundedReceiver<JobEnd>,
    jobs: Arc<Jobs>,
}

impl Jobs {
    /// Registers interest in the jobs of a unit, before a job is requested.
    pub(super) fn of(self: &Arc<Self>, unit: &UnitName) -> JobEnds {
        let (ends, receiver) = mpsc::unbounded_channel();
        self.0.lock().push(Waiter { unit: unit.as_str().to_owned(), ends });
        JobEnds { unit: unit.clone(), receiver, jobs: Arc::clone(self) }
    }

    /// Reports the end of this job of the unit.
    pub(super) fn ended(&self, unit: &str, job: &OwnedObjectPath, result: &str) {
        for waiter in self.0.lock().iter().filter(|waiter| waiter.unit == unit) {
            // The waiter may have given up just now.
            let _ = waiter.ends.send(JobEnd::Told { job: job.clone(), result: result.to_owned() });
        }
    }

    /// Reports that any job may have ended without a signal.
    pub(super) fn missed(&self) {
        for waiter in self.0.lock().iter() {
            let _ = waiter.ends.send(JobEnd::Missed);
        }
    }
}

impl JobEnds {
    /// The job's result, or `None` if its end may have been missed.
    pub(super) async fn wait_for(
        &mut self,
        job: &OwnedObjectPath,
        act: &'static str,
        limit: Duration,
    ) -> Result<Option<String>, Error> {
        let ours = async {
            loop {
                match self.receiver.recv().await {
                    Some(JobEnd::Told { job: ended, result }) if ended == *job => return Some(result),
                    Some(JobEnd::Told { .. }) => {}
                    Some(JobEnd::Missed) | None => return None,
                }
            }
        };
        let waited = tokio::time::timeout(limit, ours).await;
        waited.map_err(|_| Error::Slow { act, unit: self.unit.clone() })
    }
}

impl Drop for JobEnds {
    fn drop(&mut self) {
        // The waiter of this value is the one whose receiver is being dropped.
        self.receiver.close();
        self.jobs.0.lock().retain(|waiter| !waiter.ends.is_closed());
    }
}

/// The job that systemd created for a call.
pub(super) fn job_of(answer: &Message, act: &'static str, unit: &UnitName) -> Result<OwnedObjectPath, Error> {
    answer.body().deserialize().map_err(|source| Error::Call {
        act,
        thing: unit.to_string(),
        source: Box::new(source),
    })
}
