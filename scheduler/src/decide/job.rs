//! One job's life. [`State`] holds all there is to know of it; [`State::apply`] is the only way from one to the next.
//!
//! ```text
//!  Created ─► Manual ─┐                          ┌─► Over(success, failed, canceled)
//!     │  └──► Scheduled ─► WaitingForResource ─► Pending ─► Leased ─► Started ─┘
//!     │                                            ▲          │          └─► Canceling ─► Over
//!     └─► Bridge (a trigger job) ─► Over           └──────────┘ declined, or lease over before the script
//! ```
//! A lease that ends before the script started puts the job back with its fence; the next lease has a higher one. A
//! lease that ends after the script started ends the job: it is never run twice silently.

mod event;
mod look;

pub use event::{Event, Refused};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{Fence, PipelineId};
use slipway_spec::outcome::{FailureReason, Outcome};

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for earlier jobs.
    Created,
    /// Waits for a person.
    Manual {
        /// Since when.
        since: Timestamp,
    },
    /// Waits for its `start_in`.
    Scheduled {
        /// Until when.
        until: Timestamp,
    },
    /// Waits for its resource group.
    WaitingForResource {
        /// Since when.
        since: Timestamp,
    },
    /// Waits for a node.
    Pending {
        /// Since when it is ready; a lease that came to nothing does not change it.
        since: Timestamp,
        /// The fence of the last lease, [`Fence::NONE`] before the first.
        fence: Fence,
    },
    /// A node has it, the script has not started.
    Leased(Lease),
    /// The script runs.
    Started {
        /// Who has it.
        lease: Lease,
        /// Since when the script runs.
        at: Timestamp,
    },
    /// It is being ended; the node still has it.
    Canceling {
        /// Who has it.
        lease: Lease,
        /// Since when the script runs, if it does.
        started: Option<Timestamp>,
        /// At once, without after_script.
        force: bool,
    },
    /// A trigger job: its pipeline is being made, or runs.
    Bridge {
        /// Since when.
        since: Timestamp,
        /// The pipeline it made.
        child: Option<PipelineId>,
    },
    /// It has ended.
    Over(End),
}

/// A node's timed right to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who.
    pub node: String,
    /// Comes back on every report.
    pub fence: Fence,
    /// When it ends unless it is renewed.
    pub until: Timestamp,
    /// When the job became ready.
    pub queued_at: Timestamp,
    /// When the node got it.
    pub leased_at: Timestamp,
}

/// How and when a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub how: How,
    /// When.
    pub at: Timestamp,
    /// The fence of its last lease.
    #[serde(default = "no_fence")]
    pub fence: Fence,
    /// The node that had it.
    #[serde(default)]
    pub node: Option<String>,
    /// When it became ready.
    #[serde(default)]
    pub queued_at: Option<Timestamp>,
    /// When a node got it.
    #[serde(default)]
    pub leased_at: Option<Timestamp>,
    /// When its script started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
}

fn no_fence() -> Fence {
    Fence::NONE
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Well.
    Success,
    /// Badly.
    Failed {
        /// Whose fault it was.
        reason: FailureReason,
        /// What the script exited with, where it did.
        #[serde(default)]
        exit_code: Option<i32>,
        /// One line for people.
        #[serde(default)]
        message: String,
    },
    /// Somebody ended it.
    Canceled,
    /// It did not run.
    Skipped,
}

impl Lease {
    fn check(&self, got: Fence) -> Result<(), Refused> {
        if self.fence == got { Ok(()) } else { Err(Refused::StaleFence { held: self.fence, got }) }
    }

    fn end(&self, how: How, started_at: Option<Timestamp>, at: Timestamp) -> State {
        State::Over(End {
            how,
            at,
            fence: self.fence,
            node: Some(self.node.clone()),
            queued_at: Some(self.queued_at),
            leased_at: Some(self.leased_at),
            started_at,
        })
    }

    fn renewed(&self, until: Timestamp) -> Lease {
        Lease { until: until.max(self.until), ..self.clone() }
    }

    fn expired(&self, at: Timestamp, lost: bool) -> Result<(), Refused> {
        if lost || self.until <= at { Ok(()) } else { Err(Refused::LeaseHolds { until: self.until }) }
    }
}

fn ended(how: How, at: Timestamp, queued_at: Option<Timestamp>, fence: Fence) -> State {
    State::Over(End { how, at, fence, node: None, queued_at, leased_at: None, started_at: None })
}

impl From<Outcome> for How {
    fn from(outcome: Outcome) -> How {
        match outcome {
            Outcome::Success => How::Success,
            Outcome::Failed { reason, exit_code, message } => How::Failed { reason, exit_code, message },
            Outcome::Canceled => How::Canceled,
        }
    }
}

impl State {
    /// The state after an event.
    ///
    /// # Errors
    /// When the event does not belong to this state; nothing changes then.
    pub fn apply(&self, event: &Event) -> Result<State, Refused> {
        match event {
            Event::Ready { at } => self.ready(*at),
            Event::WaitForPerson { at } => self.after_created(State::Manual { since: *at }),
            Event::Delay { until } => self.after_created(State::Scheduled { until: *until }),
            Event::WaitForResource { at } => self.after_waiting(State::WaitingForResource { since: *at }),
            Event::Skip { at } => self.after_created(ended(How::Skipped, *at, None, Fence::NONE)),
            Event::Reconsider => self.reconsider(),
            Event::Trigger { at } => self.after_waiting(State::Bridge { since: *at, child: None }),
            Event::ChildMade { child } => self.child_made(*child),
            Event::Settled { how, at } => self.settled(how, *at),
            Event::Offered { node, until, at } => self.offered(node, *until, *at),
            Event::Declined { fence } => self.declined(*fence),
            Event::Started { fence, at } => self.started(*fence, *at),
            Event::Renewed { fence, until } => self.renewed(*fence, *until),
            Event::Expired { at, lost } => self.expired(*at, *lost),
            Event::Finished { fence, outcome, at } => self.finished(*fence, outcome, *at),
            Event::Cancel { at, force } => self.cancel(*at, *force),
        }
    }

    fn wrong<T>(&self) -> Result<T, Refused> {
        Err(Refused::WrongState(self.status()))
    }

    fn after_created(&self, next: State) -> Result<State, Refused> {
        match self {
            State::Created => Ok(next),
            State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn after_waiting(&self, next: State) -> Result<State, Refused> {
        match self {
            State::Created | State::Manual { .. } | State::Scheduled { .. } => Ok(next),
            State::WaitingForResource { .. } => match next {
                State::Bridge { .. } => Ok(next),
                _ => self.wrong(),
            },
            State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn ready(&self, at: Timestamp) -> Result<State, Refused> {
        match self {
            State::Created | State::Manual { .. } | State::Scheduled { .. } | State::WaitingForResource { .. } => {
                Ok(State::Pending { since: at, fence: Fence::NONE })
            }
            State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn reconsider(&self) -> Result<State, Refused> {
        match self {
            State::Over(End { how: How::Skipped, .. }) => Ok(State::Created),
            State::Over(_)
            | State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. } => self.wrong(),
        }
    }

    fn child_made(&self, made: PipelineId) -> Result<State, Refused> {
        match self {
            State::Bridge { since, child: None } => Ok(State::Bridge { since: *since, child: Some(made) }),
            State::Bridge { child: Some(_), .. }
            | State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn settled(&self, how: &How, at: Timestamp) -> Result<State, Refused> {
        match self {
            State::Bridge { since, .. } => Ok(State::Over(End {
                how: how.clone(),
                at,
                fence: Fence::NONE,
                node: None,
                queued_at: Some(*since),
                leased_at: None,
                started_at: Some(*since),
            })),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn offered(&self, node: &str, until: Timestamp, at: Timestamp) -> Result<State, Refused> {
        match self {
            State::Pending { since, fence } => Ok(State::Leased(Lease {
                node: node.to_owned(),
                fence: fence.next(),
                until,
                queued_at: *since,
                leased_at: at,
            })),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn declined(&self, got: Fence) -> Result<State, Refused> {
        match self {
            State::Leased(lease) => {
                lease.check(got)?;
                Ok(State::Pending { since: lease.queued_at, fence: lease.fence })
            }
            State::Started { lease, .. } => {
                lease.check(got)?;
                self.wrong()
            }
            // A job that was cancelled between the offer and its answer has nobody left to end it.
            State::Canceling { lease, .. } => {
                lease.check(got)?;
                Ok(lease.end(How::Canceled, None, lease.leased_at))
            }
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.unleased(got),
        }
    }

    fn unleased(&self, got: Fence) -> Result<State, Refused> {
        Err(Refused::StaleFence { held: self.fence(), got })
    }

    fn started(&self, got: Fence, at: Timestamp) -> Result<State, Refused> {
        match self {
            State::Leased(lease) => {
                lease.check(got)?;
                Ok(State::Started { lease: lease.clone(), at })
            }
            State::Started { lease, .. } => {
                lease.check(got)?;
                Ok(self.clone())
            }
            State::Canceling { lease, started, force } => {
                lease.check(got)?;
                Ok(State::Canceling { lease: lease.clone(), started: Some(started.unwrap_or(at)), force: *force })
            }
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.unleased(got),
        }
    }

    fn renewed(&self, got: Fence, until: Timestamp) -> Result<State, Refused> {
        match self {
            State::Leased(lease) => {
                lease.check(got)?;
                Ok(State::Leased(lease.renewed(until)))
            }
            State::Started { lease, at } => {
                lease.check(got)?;
                Ok(State::Started { lease: lease.renewed(until), at: *at })
            }
            State::Canceling { lease, started, force } => {
                lease.check(got)?;
                Ok(State::Canceling { lease: lease.renewed(until), started: *started, force: *force })
            }
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.unleased(got),
        }
    }

    fn expired(&self, now: Timestamp, lost: bool) -> Result<State, Refused> {
        match self {
            State::Leased(lease) => {
                lease.expired(now, lost)?;
                Ok(State::Pending { since: lease.queued_at, fence: lease.fence })
            }
            State::Started { lease, at } => {
                lease.expired(now, lost)?;
                let message = if lost {
                    format!("node {} came back without the job, whose script had started", lease.node)
                } else {
                    format!(
                        "node {} was not heard of for so long that its lease ended; the script had started",
                        lease.node
                    )
                };
                let how = How::Failed { reason: FailureReason::RunnerSystemFailure, exit_code: None, message };
                Ok(lease.end(how, Some(*at), now))
            }
            State::Canceling { lease, started, .. } => {
                lease.expired(now, lost)?;
                Ok(lease.end(How::Canceled, *started, now))
            }
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.wrong(),
        }
    }

    fn finished(&self, got: Fence, outcome: &Outcome, at: Timestamp) -> Result<State, Refused> {
        match self {
            State::Leased(lease) => {
                lease.check(got)?;
                Ok(lease.end(outcome.clone().into(), None, at))
            }
            State::Started { lease, at: started } => {
                lease.check(got)?;
                Ok(lease.end(outcome.clone().into(), Some(*started), at))
            }
            // What the script made of it does not count any more: somebody has ended the job.
            State::Canceling { lease, started, .. } => {
                lease.check(got)?;
                Ok(lease.end(How::Canceled, *started, at))
            }
            // Said twice: the first word counts.
            State::Over(end) if end.node.is_some() && end.fence == got => Ok(self.clone()),
            State::Created
            | State::Manual { .. }
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Bridge { .. }
            | State::Over(_) => self.unleased(got),
        }
    }

    fn cancel(&self, at: Timestamp, force: bool) -> Result<State, Refused> {
        match self {
            State::Created | State::Manual { .. } | State::Scheduled { .. } | State::WaitingForResource { .. } => {
                Ok(ended(How::Canceled, at, None, Fence::NONE))
            }
            State::Pending { since, fence } => Ok(ended(How::Canceled, at, Some(*since), *fence)),
            State::Leased(lease) => Ok(State::Canceling { lease: lease.clone(), started: None, force }),
            State::Started { lease, at } => Ok(State::Canceling { lease: lease.clone(), started: Some(*at), force }),
            State::Canceling { lease, started, force: before } => {
                Ok(State::Canceling { lease: lease.clone(), started: *started, force: *before || force })
            }
            State::Bridge { .. } => self.settled(&How::Canceled, at),
            State::Over(_) => self.wrong(),
        }
    }
}

#[cfg(test)]
mod tests;
