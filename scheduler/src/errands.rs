//! Work that follows from decisions and takes its time: child pipelines, redeployments, and what a GitLab server is
//! told. Each errand is remembered by the store until it is done: a restart begins it again, and all may be repeated.

use crate::driver::{Driver, Errand, Errands, Told};
use crate::intake::Intake;
use crate::store::{Store, StoreError, Write, read};
use crate::traces::Traces;
use crate::upstream::{End, RemoteJob, Upstream, UpstreamError};
use bytes::Bytes;
use slipway_spec::ids::JobId;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pipelines compiled at once for trigger jobs.
const AT_ONCE: usize = 4;
/// First wait before a GitLab server's spool is tried again; doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(60);

/// Who does them.
#[derive(Clone)]
pub(crate) struct Doer {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    pub(crate) traces: Traces,
    pub(crate) intake: Intake,
    /// The GitLab servers, once they are there.
    pub(crate) upstream: watch::Receiver<Option<Arc<dyn Upstream>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Doer {
    /// Does what the outbox still holds and what comes, until the stop.
    pub(crate) async fn run(self, mut errands: Errands) -> Result<(), StoreError> {
        let limit = Arc::new(Semaphore::new(AT_ONCE));
        for (row, kind, doc) in self.store.read(read::outbox).await? {
            match serde_json::from_value::<Told>(doc) {
                Ok(told) if kind == "upstream" => self.spawn_tell(row, told),
                _ => tracing::error!(row, kind, "an outbox row of another version is left alone"),
            }
        }
        loop {
            let errand = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                errand = errands.recv() => match errand {
                    Some(errand) => errand,
                    None => return Ok(()),
                },
            };
            let doer = self.clone();
            match errand {
                Errand::MakeChild(parent) => {
                    let limit = limit.clone();
                    self.tasks.spawn(async move {
                        let _permit = limit.acquire_owned().await;
                        doer.intake.make_child(parent).await;
                    });
                }
                Errand::Drifted { project, environment } => {
                    self.tasks.spawn(async move { doer.intake.drifted(&project, &environment).await });
                }
                Errand::FollowTrace(remote, job) => {
                    self.tasks.spawn(async move {
                        let stop = doer.stop.clone();
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = doer.follow(remote, job) => {}
                        }
                    });
                }
                Errand::TellUpstream { row, told } => self.spawn_tell(row, told),
            }
        }
    }

    fn spawn_tell(&self, row: u64, told: Told) {
        let doer = self.clone();
        self.tasks.spawn(async move {
            let stop = doer.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = doer.tell(row, told) => {}
            }
        });
    }

    /// The GitLab servers; waits until they are there.
    async fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        let mut upstream = self.upstream.clone();
        let there = upstream.wait_for(Option::is_some).await.ok()?;
        there.clone()
    }

    /// Passes the trace of a running job on as it grows.
    async fn follow(&self, remote: RemoteJob, job: JobId) {
        let Some(upstream) = self.upstream().await else { return };
        upstream.started(&remote).await;
        let mut progress = self.traces.follow(job);
        let mut sent = 0;
        loop {
            let seen = *progress.borrow_and_update();
            match self.pass_on(&*upstream, &remote, job, sent).await {
                Ok(now) => sent = now,
                // The server has given the job up: nobody wants its result.
                Err(UpstreamError::Gone(_)) => {
                    let _stopped = self.driver.cancel_remote(remote, crate::upstream::Cancel::Abort).await;
                    return;
                }
                Err(error) => tracing::warn!(%remote, %error, "a trace was not passed on; it will be at the job's end"),
            }
            if seen.over || progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends what is on disk beyond `sent`. Returns the length the upstream holds.
    async fn pass_on(
        &self,
        upstream: &dyn Upstream,
        remote: &RemoteJob,
        job: JobId,
        mut sent: u64,
    ) -> Result<u64, UpstreamError> {
        let path: PathBuf = self.traces.path(job);
        loop {
            let from = path.clone();
            let piece = tokio::task::spawn_blocking(move || Traces::read(&from, sent)).await;
            let piece = piece.unwrap_or_else(|e| Err(std::io::Error::other(e)));
            let piece = piece.map_err(|source| UpstreamError::Spool { job: remote.clone(), source })?;
            if piece.is_empty() {
                return Ok(sent);
            }
            let end = sent + piece.len() as u64;
            let held = upstream.append_trace(remote, sent, Bytes::from(piece)).await?;
            if held < end && held <= sent {
                // It holds less than we thought: from there again.
                if held == sent {
                    let source = std::io::Error::other("the spool takes no more bytes");
                    return Err(UpstreamError::Spool { job: remote.clone(), source });
                }
            }
            sent = held;
        }
    }

    /// Tells a job's end: the rest of the trace, then the outcome; again until it is taken.
    async fn tell(&self, row: u64, told: Told) {
        let Some(upstream) = self.upstream().await else { return };
        let mut wait = FIRST_WAIT;
        loop {
            let sent = self.pass_on(&*upstream, &told.remote, told.job, 0).await;
            let done = match sent {
                Ok(trace_bytes) => {
                    upstream.finish(&told.remote, End { outcome: told.outcome.clone(), trace_bytes }).await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) | Err(UpstreamError::Gone(_)) => break,
                Err(error) => {
                    tracing::warn!(remote = %told.remote, %error, "the end of a job could not be told; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LAST_WAIT);
                }
            }
        }
        if let Err(error) = self.store.commit(vec![Write::Told(row)]).await {
            tracing::error!(%error, row, "an outbox row stays: it will be told again");
        }
    }
}
