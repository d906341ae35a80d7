//! What the driver can be asked, and what it answers.

use crate::decide::job::Refused;
use crate::pipeline::plan::Plan;
use crate::record::{Artifact, Origin, Parent};
use crate::store::StoreError;
use crate::upstream::{Cancel as RemoteCancel, RemoteJob, Selector, UpstreamJob};
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::outcome::Outcome;
use slipway_spec::receipt::Receipt;
use slipway_spec::variable::Variable;
use slipway_spec::view::NodeView;
use slipway_wire::v1;
use tokio::sync::{mpsc, oneshot, watch};

/// One connection of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Messages to a node; an error ends its session.
pub type ToNode = mpsc::Sender<Result<v1::ToRunner, tonic::Status>>;

/// A compiled pipeline to be accepted.
#[derive(Clone, Debug)]
pub struct NewPipeline {
    /// Key of the project's number: a registered path, or `dir:` and a folder.
    pub project_key: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What it runs.
    pub plan: Plan,
    /// The caller's own key: a second call with it gets the first one's pipeline. May be empty.
    pub request_id: String,
    /// The trigger job that makes it.
    pub parent: Option<Parent>,
}

/// How a job ended, by its node.
#[derive(Debug)]
pub struct Finish {
    /// Which.
    pub job: JobId,
    /// Under which lease.
    pub fence: Fence,
    /// How.
    pub outcome: Outcome,
    /// What it used.
    pub receipt: Option<Receipt>,
    /// Variables of its dotenv report.
    pub dotenv: Vec<(String, String)>,
    /// The environment's address as it came out.
    pub environment_url: String,
    /// Summary of its junit report, JSON.
    pub tests: String,
}

/// A job or a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One job.
    Job(JobId),
    /// A whole pipeline.
    Pipeline(PipelineId),
}

/// Why the driver did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Denied {
    /// No such job or pipeline.
    #[error("there is no {0}")]
    Unknown(String),
    /// Not in its state.
    #[error("{what}: {why}")]
    State {
        /// What was asked, of what.
        what: String,
        /// Why not.
        why: Refused,
    },
    /// Nothing there to do it to.
    #[error("{0}")]
    Nothing(String),
    /// A pipeline without jobs.
    #[error("the pipeline would have no jobs: no job's rules let it run for this ref and source")]
    Empty,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The driver has ended.
    #[error("the scheduler is shutting down")]
    Stopped,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Denied>>;

/// What the driver can be asked.
pub(crate) enum Command {
    Create { new: Box<NewPipeline>, reply: Reply<PipelineId> },
    Accept { job: Box<UpstreamJob>, reply: Reply<JobId> },
    CancelRemote { job: RemoteJob, how: RemoteCancel, reply: Reply<()> },
    Room { selector: Selector, reply: oneshot::Sender<watch::Receiver<u32>> },
    ProjectNumber { key: String, path: String, reply: Reply<ProjectId> },
    Connect { hello: Box<v1::NodeHello>, to_node: ToNode, reply: oneshot::Sender<SessionId> },
    FromNode { session: SessionId, message: v1::from_runner::Message },
    Disconnect { session: SessionId },
    Finish { finish: Box<Finish>, reply: Reply<()> },
    Keep { job: JobId, fence: Fence, artifact: Box<Artifact>, reply: Reply<Option<String>> },
    Expire { job: JobId, file: String, reply: Reply<()> },
    Cancel { target: Target, force: bool, who: String, reply: Reply<()> },
    Retry { target: Target, who: String, reply: Reply<JobId> },
    Play { job: JobId, who: String, variables: Vec<Variable>, reply: Reply<JobId> },
    ChildFailed { parent: Parent, message: String },
    Nodes { reply: oneshot::Sender<Vec<NodeView>> },
    Explain { job: JobId, reply: Reply<String> },
    Counts { reply: oneshot::Sender<Counts> },
    Stop { reply: oneshot::Sender<()> },
}

/// Figures for the metrics page.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Jobs that wait for a node.
    pub waiting: usize,
    /// Jobs that a node has.
    pub running: usize,
    /// Pipelines that are not over.
    pub pipelines: usize,
    /// Ended jobs since the start, by project, and how.
    pub ended: Vec<(String, &'static str, u64)>,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// Batches written.
    pub commits: u64,
    /// Commands handled.
    pub commands: u64,
}
