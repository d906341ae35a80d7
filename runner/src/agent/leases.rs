//! The timed rights to the jobs of this node. Pure: `now` is passed in.

use slipway_spec::ids::{Fence, JobId};
use slipway_wire::v1;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// All leases of a node.
#[derive(Debug)]
pub(crate) struct Leases {
    ttl: Duration,
    held: BTreeMap<JobId, Lease>,
}

/// One.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) fence: Fence,
    /// The script has started.
    pub(crate) started: bool,
    ends: Instant,
}

impl Leases {
    /// None held; `ttl` until the scheduler says its own.
    pub(crate) fn new(ttl: Duration) -> Leases {
        Leases { ttl, held: BTreeMap::new() }
    }

    /// How long a lease holds from now on.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// How long a lease holds.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A job was taken, or adopted.
    pub(crate) fn take(&mut self, job: JobId, fence: Fence, started: bool, now: Instant) {
        self.held.insert(job, Lease { fence, started, ends: now + self.ttl });
    }

    /// Its script starts.
    pub(crate) fn started(&mut self, job: JobId) {
        if let Some(lease) = self.held.get_mut(&job) {
            lease.started = true;
        }
    }

    /// The scheduler renewed it; of another fence it says nothing.
    pub(crate) fn renew(&mut self, job: JobId, fence: Fence, now: Instant) {
        if let Some(lease) = self.held.get_mut(&job).filter(|l| l.fence == fence) {
            lease.ends = now + self.ttl;
        }
    }

    /// It is over.
    pub(crate) fn release(&mut self, job: JobId) {
        self.held.remove(&job);
    }

    /// The fence of a held lease.
    pub(crate) fn fence(&self, job: JobId) -> Option<Fence> {
        self.held.get(&job).map(|l| l.fence)
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.held.len()
    }

    /// Jobs whose lease ended.
    pub(crate) fn expired(&self, now: Instant) -> Vec<JobId> {
        self.held.iter().filter(|(_, l)| l.ends <= now).map(|(job, _)| *job).collect()
    }

    /// As the wire has them.
    pub(crate) fn wire(&self) -> Vec<v1::Lease> {
        let lease = |(job, l): (&JobId, &Lease)| v1::Lease { job: job.0, fence: l.fence.0, started: l.started };
        self.held.iter().map(lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_unless_renewed_under_their_fence() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut leases = Leases::new(Duration::from_secs(60));
        leases.take(JobId(1), Fence(3), false, start);
        leases.take(JobId(2), Fence(4), true, start);
        leases.renew(JobId(1), Fence(3), at(50));
        leases.renew(JobId(2), Fence(5), at(50));
        assert_eq!(leases.expired(at(59)), []);
        assert_eq!(leases.expired(at(60)), [JobId(2)]);
        assert_eq!(leases.expired(at(110)), [JobId(1), JobId(2)]);
        leases.release(JobId(2));
        assert_eq!(leases.wire(), [v1::Lease { job: 1, fence: 3, started: false }]);
    }
}
