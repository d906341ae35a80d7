//! Retention: artifacts whose time has come, and pipelines that ended long ago, with their traces.

use crate::artifacts::Artifacts;
use crate::driver::Driver;
use crate::store::{Store, StoreError, Write, read};
use crate::traces::Traces;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// Rows of one look; the next look follows at once when there were as many.
const AT_ONCE: u32 = 500;

/// Who tidies.
#[derive(Clone)]
pub(crate) struct Housekeeper {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    pub(crate) traces: Traces,
    pub(crate) artifacts: Artifacts,
    pub(crate) keep_finished: Duration,
}

impl Housekeeper {
    /// Tidies now, and again, until the stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            match self.tidy(Timestamp::now()).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "what is past its time could not be removed"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// One look. True when there may be more.
    pub(crate) async fn tidy(&self, now: Timestamp) -> Result<bool, StoreError> {
        let expired = self.store.read(move |c| read::expired(c, now, AT_ONCE)).await?;
        let mut more = expired.len() == AT_ONCE as usize;
        for (file, job) in expired {
            self.artifacts.remove(&file).await;
            if self.driver.expire(job, file).await.is_err() {
                return Ok(false);
            }
        }
        let keep = SignedDuration::try_from(self.keep_finished).unwrap_or(SignedDuration::MAX);
        let Ok(before) = now.checked_sub(keep) else { return Ok(more) };
        let old = self.store.read(move |c| read::finished_before(c, before, AT_ONCE)).await?;
        more |= old.len() == AT_ONCE as usize;
        for pipeline in old {
            for job in self.store.read(move |c| read::jobs(c, pipeline)).await? {
                for artifact in &job.artifacts {
                    self.artifacts.remove(&artifact.file).await;
                }
                self.traces.remove(job.id);
            }
            self.store.commit(vec![Write::Forget(pipeline)]).await?;
        }
        Ok(more)
    }
}
