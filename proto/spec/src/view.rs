//! The documents that people and scripts read: `--json` of the commands prints them as they are, and the control
//! service carries them as JSON. Times are UTC, RFC 3339.

use crate::ids::{Fence, JobId, PipelineId};
use crate::job::{Environment, Tier};
use crate::outcome::FailureReason;
use crate::pressure::Pressure;
use crate::receipt::Receipt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A pipeline as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineView {
    /// Its number.
    pub id: PipelineId,
    /// Its number within the project.
    pub iid: u64,
    /// `group/name`.
    pub project: String,
    /// Branch or tag.
    pub ref_name: String,
    /// The commit.
    pub sha: String,
    /// `CI_PIPELINE_SOURCE`.
    pub source: String,
    /// Who asked for it.
    pub submitted_by: String,
    /// `workflow:name`, expanded.
    #[serde(default)]
    pub name: Option<String>,
    /// The whole, by the states of its jobs.
    pub status: Status,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last job ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Stages in order.
    pub stages: Vec<String>,
    /// Jobs in order of stage and configuration; superseded attempts included, marked by `retried`.
    pub jobs: Vec<JobView>,
    /// The pipeline whose `trigger` job made this one.
    #[serde(default)]
    pub parent: Option<PipelineId>,
}

/// GitLab's words for what a job or pipeline is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for earlier jobs.
    Created,
    /// Waits for its resource group.
    WaitingForResource,
    /// Waits for its `start_in`.
    Scheduled,
    /// Waits for a person.
    Manual,
    /// Waits for a node.
    Pending,
    /// A node has it.
    Running,
    /// Is being ended.
    Canceling,
    /// Ended well.
    Success,
    /// Ended badly.
    Failed,
    /// Was ended.
    Canceled,
    /// Will not run.
    Skipped,
}

impl Status {
    /// GitLab's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::WaitingForResource => "waiting_for_resource",
            Status::Scheduled => "scheduled",
            Status::Manual => "manual",
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Canceling => "canceling",
            Status::Success => "success",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
            Status::Skipped => "skipped",
        }
    }

    /// Nothing will change any more unless a person acts.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Status::Success | Status::Failed | Status::Canceled | Status::Skipped => true,
            Status::Created
            | Status::WaitingForResource
            | Status::Scheduled
            | Status::Manual
            | Status::Pending
            | Status::Running
            | Status::Canceling => false,
        }
    }
}

/// A job as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// What it is doing.
    pub status: Status,
    /// Its failure does not fail the pipeline.
    pub allow_failure: bool,
    /// A later attempt took its place.
    #[serde(default)]
    pub retried: bool,
    /// Why it failed.
    #[serde(default)]
    pub failure_reason: Option<FailureReason>,
    /// What its script exited with.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// One line for people about how it ended, or why it waits.
    #[serde(default)]
    pub message: String,
    /// The node that has or had it.
    #[serde(default)]
    pub node: Option<String>,
    /// The fence of its last lease.
    pub fence: Fence,
    /// When it became ready for a node.
    #[serde(default)]
    pub queued_at: Option<Timestamp>,
    /// When a node took it.
    #[serde(default)]
    pub leased_at: Option<Timestamp>,
    /// When its script started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// What it used.
    #[serde(default)]
    pub receipt: Option<Receipt>,
    /// The environment it deploys to.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// Kinds and sizes of what it left: `archive`, bytes.
    #[serde(default)]
    pub artifacts: Vec<ArtifactView>,
}

/// An artifact as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactView {
    /// `archive`, `junit`, `dotenv`, …
    pub kind: String,
    /// File name.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// When it is deleted.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// A node as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Whether it has a session now.
    pub online: bool,
    /// The build of its runner.
    pub version: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// Tags it carries.
    pub tags: Vec<String>,
    /// Jobs it may run at once.
    pub capacity: u32,
    /// Jobs it has.
    pub jobs: Vec<JobId>,
    /// What keeps root in an engine inside: `userns` or `container`.
    pub wall: String,
    /// Why it takes no builds now, if it does not.
    #[serde(default)]
    pub refuses_builds: Option<String>,
    /// Generations it holds.
    #[serde(default)]
    pub generations: Vec<GenerationView>,
    /// Bytes of its layer store, shared bytes counted once.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Its last sample.
    #[serde(default)]
    pub pressure: Pressure,
    /// When that was.
    pub seen_at: Timestamp,
}

/// A generation that a node holds, as placement sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationView {
    /// The project's number.
    pub project: u64,
    /// Which job made it.
    pub job: String,
    /// Who may read it.
    pub tier: Tier,
    /// Its number in its lineage.
    pub number: u64,
    /// Seconds of building it took, all layers together: what it saves.
    pub build_seconds: f64,
    /// Bytes of its layers.
    pub bytes: u64,
}

/// One entry of the append-only record of deployments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Position in the record, from 1.
    pub number: u64,
    /// Which environment.
    pub environment: String,
    /// Its address.
    #[serde(default)]
    pub url: Option<String>,
    /// `deploy`, `stop`, `verify`, `redeploy`.
    pub kind: String,
    /// `success`, `failed`, `canceled`, `drifted`.
    pub outcome: String,
    /// `group/name`.
    pub project: String,
    /// Branch or tag.
    pub ref_name: String,
    /// The commit.
    pub sha: String,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The job.
    pub job: JobId,
    /// Who asked for the pipeline.
    pub submitted_by: String,
    /// When the job ended.
    pub at: Timestamp,
    /// SHA-256 over the entry before and this one, hex: a changed or missing entry breaks the chain.
    pub hash: String,
}
