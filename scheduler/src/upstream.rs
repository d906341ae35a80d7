//! The door between the scheduler and a GitLab server that we are a runner of.
//!
//! Two traits, one for each direction; neither side sees more of the other:
//!
//! - [`Intake`] is the scheduler as an upstream sees it: *is there room, here is a job, end this job*.
//! - [`Upstream`] is a GitLab server as the scheduler sees it: *here are trace bytes, it ended so, take this artifact,
//!   give me that one*.
//!
//! ```text
//!           accept(UpstreamJob) ─────────►
//!  upstream cancel(RemoteJob, Cancel) ───►  scheduler        (Intake, implemented by the scheduler)
//!           room(Selector) ──────────────►
//!           ◄───── append_trace(offset, bytes)
//!           ◄───── upload(file) / download(into file)
//!           ◄───── finish(End)                               (Upstream, implemented by gitlab::GitlabUpstream)
//! ```
//!
//! # Who remembers what
//! An upstream keeps a folder a job on disk from before the job is offered until GitLab has taken its final state:
//! the payload, the trace, the end. So a restart of the scheduler, or GitLab being away for an hour, loses nothing.
//! The scheduler keeps the job itself. What must be told at a job's end is an outbox row of the scheduler, written in
//! the commit of the transition; the row is done when [`Upstream::finish`] has returned `Ok`, because from then on the
//! folder holds it. All calls may be repeated: each says in its documentation what a repetition does.

pub mod gitlab;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::JobId;
use slipway_spec::job::JobSpec;
use slipway_spec::outcome::Outcome;
use std::fmt;
use std::path::Path;
use tokio::sync::watch;

/// A job as its GitLab server names it: the upstream of our configuration and that server's number of the job.
/// The key under which both sides remember the job; never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemoteJob {
    /// `name` of the `[[upstream]]` table.
    pub upstream: String,
    /// GitLab's id of the job.
    pub id: u64,
}

impl fmt::Display for RemoteJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.id)
    }
}

/// Which nodes may take an upstream's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// Tags that the node must carry, all of them.
    #[serde(default)]
    pub tags: Vec<String>,
    /// `amd64`, `arm64`; `None` means any.
    #[serde(default)]
    pub architecture: Option<String>,
}

/// A job that an upstream has taken from its GitLab server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamJob {
    /// Its key.
    pub remote: RemoteJob,
    /// GitLab's id of the project: with the upstream's name the key under which the scheduler mints a
    /// [`slipway_spec::ids::ProjectId`].
    pub remote_project: u64,
    /// GitLab's id of the pipeline, 0 when an old server does not say.
    pub remote_pipeline: u64,
    /// Which nodes may take it.
    pub selector: Selector,
    /// The job. `id`, `pipeline` and `project` are 0: the scheduler puts in the ones it mints. Everything else is
    /// final: `CI_JOB_ID` and its relatives are GitLab's and in the variables, `tags` is empty (GitLab has matched
    /// them), `dependencies[].job` is GitLab's id of that job, to be handed to [`Upstream::download`].
    pub spec: JobSpec,
}

/// How a running job is to be ended because GitLab said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancel {
    /// End the script, run `after_script` with `CI_JOB_STATUS=canceled`, collect what is kept on failure, then report
    /// [`Outcome::Canceled`]; trace and artifacts are still taken.
    Graceful,
    /// End everything at once. The server takes nothing more; what is reported afterwards goes nowhere.
    Abort,
}

/// The scheduler, as an upstream sees it.
pub trait Intake: Send + Sync + 'static {
    /// Takes a job into the queue. Durable when it returns `Ok`. Offering a known [`RemoteJob`] again changes nothing
    /// and returns its number.
    fn accept(&self, job: UpstreamJob) -> BoxFuture<'_, Result<JobId, Refused>>;

    /// Whether the scheduler remembers the job, whatever its state. Asked at start for jobs accepted earlier: one that
    /// is not remembered is reported as failed, never run a second time.
    fn remembers(&self, job: RemoteJob) -> BoxFuture<'_, bool>;

    /// Ends a job. For one that is over or unknown nothing happens; a repetition changes nothing, but `Abort` after
    /// `Graceful` hurries it.
    fn cancel(&self, job: RemoteJob, how: Cancel) -> BoxFuture<'_, ()>;

    /// How many more jobs the nodes that match could start now, jobs already queued for them taken off. An upstream
    /// asks its server only while this is above zero. 0 while draining.
    fn room(&self, selector: &Selector) -> watch::Receiver<u32>;
}

/// Why the scheduler does not take a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is being shut down.
    #[error("the scheduler is shutting down and takes no new jobs")]
    Draining,
    /// Its store failed.
    #[error("the scheduler could not store the job: {0}")]
    Store(String),
}

/// How a job ended, to be told to its server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The outcome.
    pub outcome: Outcome,
    /// Length of the whole trace in bytes, as the runner counted: the final state is not told before all of them were.
    pub trace_bytes: u64,
}

/// A file of a job to be kept by its server.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// The packed file, complete.
    pub file: &'a Path,
    /// Its name for people: `artifacts.zip`, `junit.xml.gz`, `gl-code-quality-report.json`.
    pub name: &'a str,
    /// GitLab's type: `archive`, `junit`, `dotenv`, … (empty means `archive`).
    pub kind: &'a str,
    /// `zip`, `gzip`, `raw`.
    pub format: slipway_spec::job::ArtifactFormat,
    /// `1 week`, `never`; `None` is the server's default.
    pub expire_in: Option<&'a str>,
}

/// A GitLab server, as the scheduler sees it. One object serves all upstreams of the configuration; the job's key says
/// which.
pub trait Upstream: Send + Sync + 'static {
    /// The node has started on the job. Only for the record: the server was told when the job was taken.
    fn started(&self, job: &RemoteJob) -> BoxFuture<'_, ()>;

    /// Trace bytes, masked, at an offset of the runner's trace. On disk when it returns.
    ///
    /// Returns the length that is held now. Bytes below the held length are skipped (a repetition changes nothing).
    /// Bytes beyond it are not taken: the answer then is less than `offset`, and the caller sends again from there.
    ///
    /// # Errors
    /// [`UpstreamError::Gone`] when the server has given the job up: send no more of it.
    fn append_trace(
        &self,
        job: &RemoteJob,
        offset: u64,
        bytes: bytes::Bytes,
    ) -> BoxFuture<'_, Result<u64, UpstreamError>>;

    /// The job's end. On disk when it returns `Ok`; told to the server as soon as all `trace_bytes` were taken, and
    /// again until it is acknowledged, through restarts. A repetition changes nothing: the first end counts.
    ///
    /// # Errors
    /// [`UpstreamError::TraceShort`] when less than `trace_bytes` are held.
    /// [`UpstreamError::Gone`] when the job is unknown or was given up: the outbox row is done as well.
    fn finish(&self, job: &RemoteJob, end: End) -> BoxFuture<'_, Result<(), UpstreamError>>;

    /// Hands a file to the server and waits for its word, with the retries that its answers call for. To be called
    /// before the end is reported: the server takes no file of a job that is over.
    ///
    /// # Errors
    /// [`UpstreamError::Artifact`]: the server does not take it; the text is for the job's trace, the job fails.
    fn upload<'a>(&'a self, job: &RemoteJob, upload: Upload<'a>) -> BoxFuture<'a, Result<(), UpstreamError>>;

    /// Fetches the archive of a job that `job` depends on into `into` (created or truncated) and returns its length.
    /// `dependency` is `dependencies[].job` of the spec.
    ///
    /// # Errors
    /// [`UpstreamError::Artifact`]: it is not there or may not be read; the text is for the job's trace.
    fn download<'a>(
        &'a self,
        job: &RemoteJob,
        dependency: JobId,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<u64, UpstreamError>>;
}

/// What an upstream answers when it cannot do what the scheduler asks.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The server has given the job up, or no such job was ever taken.
    #[error("GitLab job {0} is gone: its server takes nothing more of it")]
    Gone(RemoteJob),
    /// The spool on disk failed.
    #[error("cannot write the spool of GitLab job {job}: {source}; check space and permissions of the spool folder")]
    Spool {
        /// Which job.
        job: RemoteJob,
        /// What the system said.
        source: std::io::Error,
    },
    /// The end came before the trace: send it from `held` on, then the end again.
    #[error("the trace of GitLab job {job} ends at {held}: send the rest before its end")]
    TraceShort {
        /// Which job.
        job: RemoteJob,
        /// Bytes of trace that are held.
        held: u64,
    },
    /// The server does not take, or give, an artifact.
    #[error("{text}")]
    Artifact {
        /// One line for the job's trace.
        text: String,
        /// Whether the server's limits or rules are the cause (the job's fault), not an outage.
        jobs_fault: bool,
    },
}
