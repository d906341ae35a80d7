//! The integers people see (`CI_JOB_ID`, `CI_PIPELINE_ID`), minted by the scheduler's store, and the fence.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.trim_start_matches('#').parse().map($name)
            }
        }
    };
}

id!(
    /// One job of one pipeline. A retried job is a new job with a new id.
    JobId
);
id!(
    /// One run of a commit's configuration.
    PipelineId
);
id!(
    /// A project: a key minted by the scheduler for (upstream, project id) or a registered repository,
    /// never taken from a client.
    ProjectId
);
id!(
    /// Grows with each lease of a job and comes back on every report; a report with an older one is refused.
    Fence
);

impl Fence {
    /// The fence of a job that was never leased.
    pub const NONE: Fence = Fence(0);

    /// The fence of the next lease.
    #[must_use]
    pub fn next(self) -> Fence {
        Fence(self.0 + 1)
    }
}
