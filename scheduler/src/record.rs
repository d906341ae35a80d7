//! What the store keeps of pipelines and jobs, and the documents people see, made of it.

use crate::decide::job::{End, How, State};
use crate::decide::pipeline::{Member, composite};
use crate::pipeline::plan::{AllowFailure, JobWhen, Plan, PlannedJob};
use crate::upstream::{RemoteJob, Selector};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::{Dependency, JobSpec, Tier};
use slipway_spec::receipt::Receipt;
use slipway_spec::variable::Variable;
use slipway_spec::view::{ArtifactView, JobView, PipelineView, Status};
use std::collections::HashMap;
use std::sync::Arc;

/// A pipeline. The plan has a column of its own: it never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pipeline {
    /// `CI_PIPELINE_ID`.
    pub id: PipelineId,
    /// `CI_PIPELINE_IID`.
    pub iid: u64,
    /// Whose it is.
    pub project: ProjectId,
    /// What it is made of.
    pub origin: Origin,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last job ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// The trigger job that made it.
    #[serde(default)]
    pub parent: Option<Parent>,
    /// It is a job taken from a GitLab server.
    #[serde(default)]
    pub upstream: Option<Box<Taken>>,
    /// What it runs.
    #[serde(skip)]
    pub plan: Arc<Plan>,
}

/// Where a pipeline comes from: what `CI_*` variables and the runner's sources are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// `group/name`.
    pub project_path: String,
    /// A path or URL from which runners fetch.
    pub repository: String,
    /// Branch or tag, short.
    pub ref_name: String,
    /// `ref_name` is a tag.
    #[serde(default)]
    pub is_tag: bool,
    /// The commit.
    pub sha: String,
    /// The commit before the push; zeros when there is none.
    #[serde(default = "zeros")]
    pub before_sha: String,
    /// The project's default branch.
    #[serde(default)]
    pub default_branch: String,
    /// `CI_PIPELINE_SOURCE`.
    pub source: String,
    /// Who asked for it.
    pub submitted_by: String,
    /// Trust, by the protected refs.
    pub tier: Tier,
    /// Path of the configuration in the repository.
    pub config_path: String,
    /// What the commit says of itself.
    #[serde(default)]
    pub commit: Commit,
    /// Pipeline variables: of the request, the schedule, the trigger.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// Manual jobs to start as soon as they can.
    #[serde(default)]
    pub manual: Vec<String>,
    /// Higher goes first within the project.
    #[serde(default)]
    pub priority: i32,
    /// A redeployment asked for by drift: the environment, for the record.
    #[serde(default)]
    pub redeploys: Option<String>,
    /// What jobs of the pipeline that is redeployed left for this one.
    #[serde(default)]
    pub borrowed: Vec<Borrowed>,
}

/// What a job of another pipeline left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrowed {
    /// The job, and its archive.
    pub from: Dependency,
    /// It has an archive.
    pub archive: bool,
    /// Variables of its dotenv report.
    #[serde(default)]
    pub dotenv: Vec<(String, String)>,
}

/// 40 zeros: no commit.
#[must_use]
pub fn zeros() -> String {
    "0".repeat(40)
}

/// What a commit says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The whole message.
    pub message: String,
    /// `Name <email>`.
    pub author: String,
    /// Of the author.
    #[serde(default)]
    pub author_name: String,
    /// Of the author.
    #[serde(default)]
    pub author_email: String,
    /// ISO 8601, of the committer.
    pub timestamp: String,
    /// The annotation of the tag.
    #[serde(default)]
    pub tag_message: Option<String>,
}

/// The trigger job that made a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Itself.
    pub job: JobId,
}

/// A job taken from a GitLab server: a pipeline of one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Its key there.
    pub remote: RemoteJob,
    /// Which nodes may take it.
    pub selector: Selector,
    /// The job, with our numbers.
    pub spec: JobSpec,
}

/// A job: one attempt of a planned job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// `CI_JOB_ID`.
    pub id: JobId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Position in the plan.
    pub planned: usize,
    /// From 1.
    pub attempt: u32,
    /// A later attempt took its place.
    #[serde(default)]
    pub retried: bool,
    /// Where it is in its life.
    pub state: State,
    /// Who started it by hand, and with what.
    #[serde(default)]
    pub played: Option<Played>,
    /// What the runner does now, or why it waits, for people.
    #[serde(default)]
    pub note: String,
    /// Why it went where it went, for people.
    #[serde(default)]
    pub placed: String,
    /// What it used.
    #[serde(default)]
    pub receipt: Option<Receipt>,
    /// Variables of its dotenv report.
    #[serde(default)]
    pub dotenv: Vec<(String, String)>,
    /// The environment's address as it came out.
    #[serde(default)]
    pub environment_url: Option<String>,
    /// Summary of its junit report, JSON.
    #[serde(default)]
    pub tests: Option<String>,
    /// What it left.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// Length of its trace, once it is over.
    #[serde(default)]
    pub trace_bytes: u64,
}

/// Who started a job by hand, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    /// Who.
    pub by: String,
    /// Variables given.
    #[serde(default)]
    pub variables: Vec<Variable>,
}

/// An artifact on the scheduler's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `archive`, `junit`, …
    pub kind: String,
    /// File name for people.
    pub name: String,
    /// `zip`, `gzip`, `raw`.
    pub format: String,
    /// Size.
    pub bytes: u64,
    /// File below the artifacts folder.
    pub file: String,
    /// When it is deleted; never when `None`.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl Pipeline {
    /// The planned job of an attempt.
    ///
    /// # Panics
    /// Never for a job of this pipeline: both are written in one commit.
    #[must_use]
    pub fn planned(&self, job: &Job) -> &PlannedJob {
        &self.plan.jobs[job.planned]
    }

    /// What people see.
    #[must_use]
    pub fn view(&self, jobs: &[Job]) -> PipelineView {
        let mut ordered: Vec<&Job> = jobs.iter().collect();
        ordered.sort_by_key(|j| (j.planned, j.id));
        PipelineView {
            id: self.id,
            iid: self.iid,
            project: self.origin.project_path.clone(),
            ref_name: self.origin.ref_name.clone(),
            sha: self.origin.sha.clone(),
            source: self.origin.source.clone(),
            submitted_by: self.origin.submitted_by.clone(),
            name: self.plan.name.clone(),
            status: self.status(jobs.iter()),
            created_at: self.created_at,
            finished_at: self.finished_at,
            stages: self.plan.stages.clone(),
            jobs: ordered.into_iter().map(|job| self.job_view(job)).collect(),
            parent: self.parent.map(|p| p.pipeline),
        }
    }

    /// The whole, by the states of its newest attempts.
    pub fn status<'a>(&self, jobs: impl Iterator<Item = &'a Job>) -> Status {
        let current = jobs.filter(|j| !j.retried).map(|j| (j.state.status(), self.failure_allowed(j)));
        composite(current, false).unwrap_or(Status::Skipped)
    }

    /// Whether the job's failure, as it ended, does not fail the pipeline.
    #[must_use]
    pub fn failure_allowed(&self, job: &Job) -> bool {
        match &self.planned(job).allow_failure {
            AllowFailure::No => false,
            AllowFailure::Yes => true,
            AllowFailure::ExitCodes(codes) => match &job.state {
                State::Over(End { how: How::Failed { exit_code: Some(code), .. }, .. }) => codes.contains(code),
                _ => false,
            },
        }
    }

    /// What people see of a job.
    #[must_use]
    pub fn job_view(&self, job: &Job) -> JobView {
        let planned = self.planned(job);
        let end = job.state.end();
        let lease = job.state.lease();
        let (failure_reason, exit_code, ended) = match end.map(|e| &e.how) {
            Some(How::Failed { reason, exit_code, message }) => (Some(*reason), *exit_code, message.clone()),
            Some(How::Success | How::Canceled | How::Skipped) | None => (None, None, String::new()),
        };
        let started_at = match &job.state {
            State::Started { at, .. } => Some(*at),
            State::Canceling { started, .. } => *started,
            State::Bridge { since, .. } => Some(*since),
            State::Over(end) => end.started_at,
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_) => None,
        };
        let queued_at = match &job.state {
            State::Pending { since, .. } => Some(*since),
            State::Over(end) => end.queued_at,
            _ => lease.map(|l| l.queued_at),
        };
        let mut environment = planned.environment.clone();
        if let (Some(environment), Some(url)) = (&mut environment, &job.environment_url) {
            environment.url = Some(url.clone());
        }
        JobView {
            id: job.id,
            pipeline: self.id,
            name: planned.name.clone(),
            stage: planned.stage.clone(),
            status: job.state.status(),
            allow_failure: self.failure_allowed(job),
            retried: job.retried,
            failure_reason,
            exit_code,
            message: if end.is_some() { ended } else { job.note.clone() },
            node: lease.map(|l| l.node.clone()).or_else(|| end.and_then(|e| e.node.clone())),
            fence: job.state.fence(),
            queued_at,
            leased_at: lease.map(|l| l.leased_at).or_else(|| end.and_then(|e| e.leased_at)),
            started_at,
            finished_at: end.map(|e| e.at),
            receipt: job.receipt.clone(),
            environment,
            artifacts: job
                .artifacts
                .iter()
                .map(|a| ArtifactView {
                    kind: a.kind.clone(),
                    name: a.name.clone(),
                    bytes: a.bytes,
                    expires_at: a.expires_at,
                })
                .collect(),
        }
    }
}

impl Job {
    /// A job that waits for earlier ones.
    #[must_use]
    pub fn new(id: JobId, pipeline: PipelineId, planned: usize, attempt: u32) -> Job {
        Job {
            id,
            pipeline,
            planned,
            attempt,
            retried: false,
            state: State::Created,
            played: None,
            note: String::new(),
            placed: String::new(),
            receipt: None,
            dotenv: Vec::new(),
            environment_url: None,
            tests: None,
            artifacts: Vec::new(),
            trace_bytes: 0,
        }
    }
}

/// Positions of stages and needs, so that they need not be looked up by name at every change.
#[derive(Clone, Debug)]
pub struct Graph {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    stage: usize,
    needs: Option<Vec<usize>>,
    when: JobWhen,
}

impl Graph {
    /// The graph of a plan. A need that names no job of the plan is left out (the compiler has refused it).
    #[must_use]
    pub fn of(plan: &Plan) -> Graph {
        let stages: HashMap<&str, usize> = plan.stages.iter().enumerate().map(|(n, s)| (s.as_str(), n)).collect();
        let names: HashMap<&str, usize> = plan.jobs.iter().enumerate().map(|(n, j)| (j.name.as_str(), n)).collect();
        let slots = plan
            .jobs
            .iter()
            .map(|job| Slot {
                stage: stages.get(job.stage.as_str()).copied().unwrap_or(usize::MAX),
                needs: job
                    .needs
                    .as_ref()
                    .map(|needs| needs.iter().filter_map(|n| names.get(n.job.as_str()).copied()).collect()),
                when: job.when,
            })
            .collect();
        Graph { slots }
    }

    /// The members, with the states of the newest attempts in the order of the plan.
    #[must_use]
    pub fn members<'a>(&self, pipeline: &Pipeline, current: impl Iterator<Item = &'a Job>) -> Vec<Member> {
        self.slots
            .iter()
            .zip(current)
            .map(|(slot, job)| Member {
                stage: slot.stage,
                needs: slot.needs.clone(),
                when: slot.when,
                allow_failure: pipeline.failure_allowed(job),
                status: job.state.status(),
            })
            .collect()
    }
}
