//! One job on this node, from offer to removal.
//!
//! [`state`] decides (pure), [`driver`] acts: [`prepare`] (with [`sources`], [`engine`] and [`bring_in`]), [`steps`], [`collect`],
//! [`finish`]. [`record`] is what of it is on disk; [`variables`] what its containers see.

pub(crate) mod bring_in;
pub(crate) mod collect;
pub(crate) mod driver;
pub(crate) mod engine;
pub(crate) mod finish;
pub(crate) mod prepare;
pub(crate) mod record;
pub(crate) mod sources;
pub mod state;
pub(crate) mod steps;
pub(crate) mod variables;

use crate::cache::Caches;
use crate::config::RunnerConfig;
use crate::engine::Lender;
use crate::executor::network::Pool;
use crate::layers::Store;
use crate::workspace::Mirrors;
use bollard::Docker;
use slipway_spec::ids::JobId;
use slipway_wire::v1::runner_client::RunnerClient;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;

/// What all jobs of a node share.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) config: RunnerConfig,
    pub(crate) docker: Docker,
    pub(crate) client: RunnerClient<Channel>,
    pub(crate) pool: Pool,
    pub(crate) mirrors: Mirrors,
    pub(crate) caches: Caches,
    /// Layers of engines; `None` when the node lends none.
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) lender: Option<Arc<Lender>>,
    /// What the store holds, as reports have it: generations as JSON, bytes.
    pub(crate) holdings: watch::Sender<(Vec<u8>, u64)>,
}

impl Node {
    /// What keeps root in an engine inside; empty when the node has no engines.
    pub(crate) fn wall(&self) -> String {
        self.lender.as_ref().map(|l| l.wall().wall.to_string()).unwrap_or_default()
    }
}

/// What a job is told from outside; a later one wins over an earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Run,
    /// End the script; the after script may run.
    Canceling,
    /// The runner is being stopped.
    Interrupt,
    /// End at once.
    Canceled,
    /// End at once and report nothing.
    LeaseLost,
}

/// What a job tells the agent.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) job: JobId,
    pub(crate) what: What,
}

/// What happened to it.
#[derive(Debug)]
pub(crate) enum What {
    /// It entered a phase.
    Phase(&'static str),
    /// Its script is about to start; it waits until the scheduler has been told.
    Starting(oneshot::Sender<()>),
    /// The scheduler refused its fence.
    Refused,
    /// It was not begun and will not be: another node may have it.
    GivenBack,
    /// It is over for everybody; what is left is to remove everything.
    Finished,
}
