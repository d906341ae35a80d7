//! At start: jobs that an earlier process of this node had are adopted where they can go on, and everything else that
//! carries the node's label is removed.

use crate::engine::Lent;
use crate::executor::{LABEL_JOB, LABEL_NODE, Labels, container};
use crate::job::Node;
use crate::job::record::{self, Record};
use crate::job::state::State;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder};
use slipway_spec::job::JobSpec;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A job to go on with.
pub(crate) struct Adopted {
    pub(crate) spec: JobSpec,
    pub(crate) record: Record,
    /// Its engines that still live.
    pub(crate) engines: Vec<Lent>,
}

/// Adopts and removes.
pub(crate) async fn sweep(node: &Arc<Node>) -> Vec<Adopted> {
    let mut adopted = Vec::new();
    for (id, folder) in record::all(&node.config.cache_root) {
        match folder.load() {
            Ok((spec, record)) if can_go_on(node, &record).await => {
                tracing::info!(job = %id, phase = record.state.word(), "adopted a job of an earlier process");
                let engines = adopt_engines(node, &spec, &record).await;
                adopted.push(Adopted { spec, record, engines });
            }
            Ok((_, record)) => {
                tracing::warn!(job = %id, phase = record.state.word(), "ended a job of an earlier process: it cannot go on");
            }
            Err(e) => {
                tracing::warn!(job = %id, error = %e, "ended a job of an earlier process: its record cannot be read")
            }
        }
    }
    if let Some(lender) = &node.lender {
        let lent: Vec<String> = adopted.iter().flat_map(|a| a.engines.iter().map(|e| e.id.clone())).collect();
        match lender.sweep(&lent).await {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => tracing::warn!(?ended, "ended engines of an earlier process"),
            Err(e) => tracing::warn!(error = %e, "cannot sweep the engines of an earlier process"),
        }
    }
    crate::job::engine::refresh(node).await;
    let alive: BTreeSet<u64> = adopted.iter().map(|a| a.spec.id.0).collect();
    for job in labelled(node).await {
        if !alive.contains(&job) {
            Labels::new(node.config.mark(), job).remove(&node.docker).await;
        }
    }
    for (id, folder) in record::all(&node.config.cache_root) {
        if !alive.contains(&id.0)
            && let Err(e) = folder.remove()
        {
            tracing::warn!(job = %id, error = %e, "cannot remove a job's folder");
        }
    }
    adopted
}

async fn adopt_engines(node: &Node, spec: &JobSpec, record: &Record) -> Vec<Lent> {
    let mut engines = Vec::new();
    let Some(lender) = &node.lender else { return engines };
    for index in 0..record.engines {
        match lender.adopt(spec.id, record.fence, index).await {
            Ok(Some(lent)) => engines.push(lent),
            Ok(None) => tracing::warn!(job = %spec.id, index, "the job's engine is gone"),
            Err(e) => tracing::warn!(job = %spec.id, index, error = %e, "cannot adopt the job's engine"),
        }
    }
    engines
}

/// Whether a job was begun and is still there. One that had not started is left to be queued again.
async fn can_go_on(node: &Node, record: &Record) -> bool {
    match &record.state {
        State::Finishing { .. } | State::Collecting { .. } => true,
        State::Script { .. } | State::AfterScript { .. } => match &record.container {
            // A container that has ended while nobody looked has its output in its log, and its end.
            Some(id) => container::condition(&node.docker, id).await.is_some(),
            None => false,
        },
        State::Preparing | State::Over | State::Abandoned => false,
    }
}

/// Numbers of all jobs that something of this node is labelled with.
async fn labelled(node: &Node) -> BTreeSet<u64> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_NODE}={}", node.config.mark())])]);
    let mut found = BTreeSet::new();
    let mut add = |labels: Option<HashMap<String, String>>| {
        found.extend(labels.and_then(|l| l.get(LABEL_JOB)?.parse::<u64>().ok()));
    };
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    for container in node.docker.list_containers(Some(containers)).await.unwrap_or_default() {
        add(container.labels);
    }
    let networks = ListNetworksOptionsBuilder::default().filters(&filters).build();
    for network in node.docker.list_networks(Some(networks)).await.unwrap_or_default() {
        add(network.labels);
    }
    let volumes = ListVolumesOptionsBuilder::default().filters(&filters).build();
    for volume in node.docker.list_volumes(Some(volumes)).await.ok().and_then(|v| v.volumes).unwrap_or_default() {
        add(Some(volume.labels));
    }
    found
}
