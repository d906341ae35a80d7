//! What a state says of a job.

use super::{End, How, Lease, State};
use jiff::Timestamp;
use slipway_spec::ids::Fence;
use slipway_spec::view::Status;

impl State {
    /// GitLab's word for it.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            State::Created => Status::Created,
            State::Manual { .. } => Status::Manual,
            State::Scheduled { .. } => Status::Scheduled,
            State::WaitingForResource { .. } => Status::WaitingForResource,
            State::Pending { .. } => Status::Pending,
            State::Leased(_) | State::Started { .. } | State::Bridge { .. } => Status::Running,
            State::Canceling { .. } => Status::Canceling,
            State::Over(end) => match end.how {
                How::Success => Status::Success,
                How::Failed { .. } => Status::Failed,
                How::Canceled => Status::Canceled,
                How::Skipped => Status::Skipped,
            },
        }
    }

    /// The lease, while a node has it.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            State::Leased(lease) | State::Started { lease, .. } | State::Canceling { lease, .. } => Some(lease),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => None,
        }
    }

    /// The fence of its last lease.
    #[must_use]
    pub fn fence(&self) -> Fence {
        match self {
            State::Leased(lease) | State::Started { lease, .. } | State::Canceling { lease, .. } => lease.fence,
            State::Pending { fence, .. } => *fence,
            State::Over(end) => end.fence,
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Bridge { .. } => Fence::NONE,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match self {
            State::Over(end) => Some(end),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. } => None,
        }
    }

    /// When something must be done about it although nothing happens: its delay or its lease ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            State::Scheduled { until } => Some(*until),
            State::Leased(lease) | State::Started { lease, .. } | State::Canceling { lease, .. } => Some(lease.until),
            State::Created
            | State::Manual { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => None,
        }
    }

    /// Whether it holds its resource group: from ready to over.
    #[must_use]
    pub fn holds_resource(&self) -> bool {
        match self {
            State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. } => true,
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Over(_) => false,
        }
    }

    /// Whether its script has started.
    #[must_use]
    pub fn script_started(&self) -> bool {
        match self {
            State::Started { .. } => true,
            State::Canceling { started, .. } => started.is_some(),
            State::Over(end) => end.started_at.is_some(),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Bridge { .. } => false,
        }
    }
}
