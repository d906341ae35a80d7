//! What happens to a job, and why some of it changes nothing.

use super::How;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{Fence, PipelineId};
use slipway_spec::outcome::Outcome;
use slipway_spec::view::Status;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Nothing holds it back any more.
    Ready {
        /// When.
        at: Timestamp,
    },
    /// It may go when a person says so.
    WaitForPerson {
        /// When.
        at: Timestamp,
    },
    /// It may go at that moment.
    Delay {
        /// When it may go.
        until: Timestamp,
    },
    /// Its resource group is taken.
    WaitForResource {
        /// When.
        at: Timestamp,
    },
    /// Nothing it waits for lets it run.
    Skip {
        /// When.
        at: Timestamp,
    },
    /// Jobs before it run again: a skipped job is looked at anew.
    Reconsider,
    /// It starts another pipeline.
    Trigger {
        /// When.
        at: Timestamp,
    },
    /// The other pipeline is there.
    ChildMade {
        /// Its number.
        child: PipelineId,
    },
    /// What a trigger job waited for has ended, or could not be made.
    Settled {
        /// How it ends.
        how: How,
        /// When.
        at: Timestamp,
    },
    /// A node gets it.
    Offered {
        /// Which.
        node: String,
        /// When the lease ends unless renewed.
        until: Timestamp,
        /// When.
        at: Timestamp,
    },
    /// The node does not take it.
    Declined {
        /// Of which lease.
        fence: Fence,
    },
    /// The script started.
    Started {
        /// Of which lease.
        fence: Fence,
        /// When.
        at: Timestamp,
    },
    /// The node still has it.
    Renewed {
        /// Of which lease.
        fence: Fence,
        /// When the lease ends now.
        until: Timestamp,
    },
    /// The lease's time has come, or its node has come back without the job.
    Expired {
        /// When.
        at: Timestamp,
        /// The node has said that it does not have the job: the lease need not be waited for.
        lost: bool,
    },
    /// The node says how it ended.
    Finished {
        /// Of which lease.
        fence: Fence,
        /// How.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
    /// Somebody ends it.
    Cancel {
        /// When.
        at: Timestamp,
        /// At once, without after_script.
        force: bool,
    },
}

/// Why an event changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The report belongs to an older lease.
    #[error("the lease {got} of this job is gone, {held} holds now: stop the job and report nothing more of it")]
    StaleFence {
        /// What holds.
        held: Fence,
        /// What was reported.
        got: Fence,
    },
    /// The lease has not ended.
    #[error("the lease holds until {until}")]
    LeaseHolds {
        /// Until when.
        until: Timestamp,
    },
    /// Not in that state.
    #[error("the job is {}", .0.as_str())]
    WrongState(Status),
}
