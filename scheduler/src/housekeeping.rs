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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::driver::NewPipeline;
    use crate::pipeline::plan::{JobWhen, Plan, PlannedJob};
    use crate::record::{Commit, Origin, zeros};
    use slipway_spec::ids::PipelineId;
    use std::sync::Arc;

    fn over_at_once() -> NewPipeline {
        // A first-stage job that runs on failure only is skipped: the pipeline is over without a node.
        let job = PlannedJob { name: "a".into(), stage: "s".into(), when: JobWhen::OnFailure, ..PlannedJob::default() };
        let plan = Plan { stages: vec!["s".into()], jobs: vec![job], ..Plan::default() };
        let origin = Origin {
            project_path: "team/app".into(),
            repository: "/r".into(),
            ref_name: "main".into(),
            is_tag: false,
            sha: "a".repeat(40),
            before_sha: zeros(),
            default_branch: "main".into(),
            source: "push".into(),
            submitted_by: "ada".into(),
            tier: slipway_spec::job::Tier::Protected,
            config_path: ".gitlab-ci.yml".into(),
            commit: Commit::default(),
            variables: Vec::new(),
            manual: Vec::new(),
            priority: 0,
            redeploys: None,
            borrowed: Vec::new(),
        };
        NewPipeline { project_key: "team/app".into(), origin, plan, request_id: String::new(), parent: None }
    }

    #[tokio::test]
    async fn pipeline_that_ended_long_ago_goes_and_a_younger_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let traces = Traces::new(folder.path().join("traces"), 1 << 20);
        let artifacts = Artifacts::open(folder.path().join("artifacts"), 1 << 20).unwrap();
        let config = Arc::new(Config::default());
        let (driver, _errands) = Driver::start(config, store.clone(), traces.clone()).unwrap();
        let id = driver.create(over_at_once()).await.unwrap();
        let keep_finished = Duration::from_secs(3600);
        let keeper = Housekeeper { driver: driver.clone(), store: store.clone(), traces, artifacts, keep_finished };
        let there = |id: PipelineId| {
            let store = store.clone();
            async move { store.read(move |c| read::pipeline(c, id)).await.unwrap().is_some() }
        };
        assert!(!keeper.tidy(Timestamp::now()).await.unwrap());
        assert!(there(id).await);
        keeper.tidy(Timestamp::now() + SignedDuration::from_hours(2)).await.unwrap();
        assert!(!there(id).await);
        driver.stop().await;
    }
}
