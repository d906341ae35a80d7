//! A job's containers on the node's Docker engine.
//!
//! | module | noun |
//! |---|---|
//! | [`network`] | the job's own bridge |
//! | [`pull`], [`credentials`] | images, by policy, with the right login |
//! | [`services`] | containers beside the job's, their names, their readiness |
//! | [`container`] | the job's container: one for all its steps |
//! | [`script`], [`marker`] | what runs in it, and how a step's end is seen |
//! | [`output`] | its log: from any offset, masked, limited |

pub(crate) mod container;
pub(crate) mod credentials;
pub(crate) mod marker;
pub(crate) mod network;
pub(crate) mod output;
pub(crate) mod pull;
pub(crate) mod script;
pub(crate) mod services;

use crate::job::state::Failure;
use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use slipway_spec::outcome::FailureReason;
use std::collections::HashMap;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Label that carries the job's number, on everything that is made for it.
pub(crate) const LABEL_JOB: &str = "slipway.job";
/// Label that carries the node's name.
pub(crate) const LABEL_NODE: &str = "slipway.node";
/// Label that says what a container is: `job`, `service`.
pub(crate) const LABEL_ROLE: &str = "slipway.role";

/// How often Docker is asked to remove a container.
const REMOVALS: u32 = 100;
/// Between two times.
const REMOVAL_WAIT: Duration = Duration::from_millis(200);

/// What went wrong with a job's containers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Docker refused.
    #[error("cannot {what} {on}: {source}")]
    Docker { what: &'static str, on: String, source: bollard::errors::Error },
    /// A file of the job.
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: String, source: std::io::Error },
    /// An image could not be had.
    #[error("cannot pull image {image}: {why}")]
    Pull { image: String, why: String },
    /// The node's configuration does not allow what the job asks for.
    #[error("{0}")]
    NotAllowed(String),
    /// The job's own fault.
    #[error("{0}")]
    Job(String),
    /// Every network of the pool is taken.
    #[error(
        "no free network for the job: {tries} tried, all taken; give `job_networks` of [runner] a range that nothing else uses"
    )]
    NoNetwork { tries: u32 },
}

impl Error {
    pub(crate) fn docker(what: &'static str, on: &str, source: bollard::errors::Error) -> Error {
        Error::Docker { what, on: on.to_owned(), source }
    }

    pub(crate) fn file(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Error {
        Error::File { what, path: path.display().to_string(), source }
    }

    /// Whose fault it is.
    pub(crate) fn failure(&self) -> Failure {
        let reason = match self {
            Error::Pull { .. } => FailureReason::ImagePullFailure,
            Error::NotAllowed(_) | Error::Job(_) => FailureReason::ScriptFailure,
            Error::Docker { .. } | Error::File { .. } | Error::NoNetwork { .. } => FailureReason::RunnerSystemFailure,
        };
        Failure { reason, exit_code: None, message: self.to_string() }
    }
}

/// Names and labels of what belongs to one job on one node.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    node: String,
    job: u64,
    /// Calls that make something. A call that Docker has begun is done whether anybody waits for it or not: removal
    /// waits for all of them, or what they make would be left behind.
    calls: TaskTracker,
}

impl Labels {
    /// Of a job on a node.
    pub(crate) fn new(node: String, job: u64) -> Labels {
        Labels { node, job, calls: TaskTracker::new() }
    }

    /// Makes something of the job; to its end, even when this is dropped.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, bollard::errors::Error>> + Send + 'static,
    ) -> Result<T, bollard::errors::Error> {
        match self.calls.spawn(call).await {
            Ok(made) => made,
            Err(e) => Err(std::io::Error::other(e).into()),
        }
    }

    /// `slipway-<node>-<job>-<what>`.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("slipway-{}-{}-{what}", self.node, self.job)
    }

    pub(crate) fn map(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL_JOB.to_owned(), self.job.to_string()), (LABEL_NODE.to_owned(), self.node.clone())])
    }

    fn filters(&self) -> HashMap<String, Vec<String>> {
        let labels = vec![format!("{LABEL_JOB}={}", self.job), format!("{LABEL_NODE}={}", self.node)];
        HashMap::from([("label".to_owned(), labels)])
    }

    /// Removes everything that carries these labels. What cannot be removed is said in the log and left to the next
    /// start's sweep.
    pub(crate) async fn remove(&self, docker: &Docker) {
        self.calls.close();
        self.calls.wait().await;
        let filters = self.filters();
        let all = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = docker.list_containers(Some(all)).await.unwrap_or_default();
        let removals = containers.iter().filter_map(|c| c.id.as_deref()).map(|id| remove_container(docker, id));
        futures_util::future::join_all(removals).await;
        let volumes = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let volumes = docker.list_volumes(Some(volumes)).await.ok().and_then(|v| v.volumes).unwrap_or_default();
        for volume in volumes {
            let options = RemoveVolumeOptionsBuilder::default().force(true).build();
            if let Err(e) = docker.remove_volume(&volume.name, Some(options)).await {
                tracing::warn!(job = self.job, volume = volume.name, error = %e, "cannot remove a volume");
            }
        }
        let networks = ListNetworksOptionsBuilder::default().filters(&filters).build();
        for network in docker.list_networks(Some(networks)).await.unwrap_or_default() {
            let Some(id) = network.id else { continue };
            if let Err(e) = docker.remove_network(&id).await {
                tracing::warn!(job = self.job, network = id, error = %e, "cannot remove a network");
            }
        }
    }
}

/// Removes one container with its anonymous volumes, killing it first. Docker refuses in the moments in which a container
/// starts, stops or is being removed already: it is asked again until the container is gone.
pub(crate) async fn remove_container(docker: &Docker, id: &str) {
    for _ in 0..REMOVALS {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match docker.remove_container(id, Some(options)).await {
            Ok(()) => return,
            Err(e) if status(&e) == Some(404) => return,
            Err(e) => tracing::debug!(container = id, error = %e, "cannot remove a container yet"),
        }
        tokio::time::sleep(REMOVAL_WAIT).await;
    }
    tracing::warn!(container = id, "cannot remove a container; the next start tries again");
}

/// The status code of Docker's answer, if it answered.
pub(crate) fn status(e: &bollard::errors::Error) -> Option<u16> {
    match e {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}
