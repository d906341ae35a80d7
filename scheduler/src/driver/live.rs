//! The leases that hold now, for the services: which fence may report on a job, and what the job may read. Written by
//! the driver after the commit that made or ended a lease.

use crate::upstream::RemoteJob;
use slipway_spec::ids::{Fence, JobId};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A lease that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Under which its node reports.
    pub fence: Fence,
    /// The node.
    pub node: String,
    /// Jobs whose artifacts it may fetch.
    pub readable: Vec<JobId>,
    /// It is a GitLab server's job.
    pub remote: Option<RemoteJob>,
}

/// All of them.
#[derive(Clone, Default)]
pub struct Live {
    held: Arc<RwLock<HashMap<JobId, Arc<Held>>>>,
}

impl Live {
    /// The lease of a job under a fence; `None` when it does not hold.
    #[must_use]
    pub fn get(&self, job: JobId, fence: Fence) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(&job).filter(|h| h.fence == fence).cloned()
    }

    pub(super) fn set(&self, job: JobId, held: Held) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(job, Arc::new(held));
    }

    pub(super) fn drop(&self, job: JobId) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }
}
