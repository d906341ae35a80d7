//! A job's phases, pure: what it does next, by what happened. The driver acts, records the state and comes back.

use serde::{Deserialize, Serialize};
use slipway_spec::job::{JobSpec, Step, When};
use slipway_spec::outcome::{FailureReason, Outcome};

/// What a job is doing. It is written to disk at every change: a restarted runner goes on from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Images, network, services, engine, sources, caches, artifacts of other jobs.
    Preparing,
    /// Its script runs: the step of that index. From here on it is never run again silently.
    Script {
        /// Index in the spec's steps.
        step: usize,
        /// The first failure of a step before.
        verdict: Verdict,
    },
    /// The step that runs whatever the others did.
    AfterScript {
        /// How the others ended.
        verdict: Verdict,
    },
    /// Artifacts and caches.
    Collecting {
        /// How the script ended.
        verdict: Verdict,
    },
    /// The outcome is known; trace and outcome are being delivered.
    Finishing {
        /// What is reported.
        outcome: Outcome,
    },
    /// Delivered; what is left is to remove everything.
    Over,
    /// The lease is gone: everything is removed, nothing is reported.
    Abandoned,
}

/// How the scripts ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Well, so far.
    Success,
    /// Badly.
    Failed(Failure),
    /// Somebody ended them.
    Canceled,
}

/// What went wrong, and whose fault it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub reason: FailureReason,
    /// What the script exited with.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// One line for people.
    pub message: String,
}

impl Failure {
    /// A failure that is the node's, not the job's.
    pub fn system(message: impl Into<String>) -> Failure {
        Failure { reason: FailureReason::RunnerSystemFailure, exit_code: None, message: message.into() }
    }

    /// A failure of what the job asked for.
    pub fn script(message: impl Into<String>) -> Failure {
        Failure { reason: FailureReason::ScriptFailure, exit_code: None, message: message.into() }
    }

    fn exit(code: i32) -> Failure {
        Failure { reason: FailureReason::ScriptFailure, exit_code: Some(code), message: format!("exit code {code}") }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything the script needs is there.
    Prepared,
    /// It is not: `sources` says whether there is a work tree to collect from.
    Unprepared {
        /// What went wrong.
        failure: Failure,
        /// A work tree is there.
        sources: bool,
    },
    /// A step, or the after script, exited.
    Exited(i32),
    /// It ended otherwise: out of memory, its container gone.
    Broke(Failure),
    /// The script took longer than `RUNNER_SCRIPT_TIMEOUT` (or the after script than its own).
    StepTimedOut(Failure),
    /// The job took longer than its timeout.
    TimedOut(Failure),
    /// Somebody ended it; its after script may run.
    Canceling,
    /// Somebody ended it at once.
    Canceled,
    /// The runner is being stopped.
    Interrupted,
    /// Its lease is gone.
    LeaseLost,
    /// Artifacts and caches are stored; or the first that had to be was not.
    Collected(Option<Failure>),
    /// The scheduler has the whole trace and the outcome.
    Delivered,
}

/// An event that cannot happen in a state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a job in state {state:?} cannot take {event:?}; this is a fault of the runner")]
pub struct Refused {
    state: State,
    event: Event,
}

/// What the phases need to know of the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<(When, bool, bool)>,
    after_errors_count: bool,
}

impl Plan {
    /// Of a job's spec. Steps without lines are passed over.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Plan {
        let steps = spec
            .steps
            .iter()
            .map(|s| {
                (s.when, s.allow_failure || s.script.is_empty(), s.name == Step::AFTER_SCRIPT || s.script.is_empty())
            })
            .collect();
        let after_errors_count = spec.variable("AFTER_SCRIPT_IGNORE_ERRORS").is_some_and(|v| v == "false" || v == "0");
        let mut plan = Plan { steps, after_errors_count };
        if plan.after(spec).is_none() {
            plan.after_errors_count = false;
        }
        plan
    }

    /// Index of the after script in the spec's steps.
    #[must_use]
    pub fn after(&self, spec: &JobSpec) -> Option<usize> {
        spec.steps.iter().position(|s| s.name == Step::AFTER_SCRIPT && !s.script.is_empty())
    }

    fn next(&self, from: usize, verdict: &Verdict) -> Option<usize> {
        let ok = matches!(verdict, Verdict::Success);
        (from..self.steps.len()).find(|&i| {
            let (when, _, skipped) = self.steps[i];
            !skipped
                && match when {
                    When::Always => true,
                    When::OnSuccess => ok,
                    When::OnFailure => !ok,
                }
        })
    }
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// When `event` cannot happen here.
    pub fn apply(&self, plan: &Plan, event: Event) -> Result<State, Refused> {
        let after = |step: usize, verdict: Verdict| match plan.next(step, &verdict) {
            Some(step) => State::Script { step, verdict },
            None => State::AfterScript { verdict },
        };
        Ok(match (self, event) {
            (State::Over | State::Abandoned, event) => return Err(self.refuse(event)),
            (_, Event::LeaseLost) => State::Abandoned,
            // Its end is decided: whoever ends it now comes too late.
            (
                State::Finishing { outcome },
                Event::Canceling | Event::Canceled | Event::Interrupted | Event::TimedOut(_),
            ) => State::Finishing { outcome: outcome.clone() },
            (State::Finishing { .. }, Event::Delivered) => State::Over,
            (_, Event::Canceled) => State::finishing(&Verdict::Canceled),
            (_, Event::TimedOut(failure)) => State::finishing(&Verdict::Failed(failure)),
            // Not started: nothing is reported, the lease ends and the job is queued again.
            (State::Preparing, Event::Interrupted) => State::Abandoned,
            (_, Event::Interrupted) => {
                State::finishing(&Verdict::Failed(Failure::system("the runner was stopped while the job was running")))
            }
            (State::Preparing, Event::Prepared) => after(0, Verdict::Success),
            (State::Preparing, Event::Unprepared { failure, sources: true }) => {
                State::Collecting { verdict: Verdict::Failed(failure) }
            }
            (State::Preparing, Event::Unprepared { failure, sources: false }) => {
                State::finishing(&Verdict::Failed(failure))
            }
            (State::Preparing, Event::Canceling) => State::finishing(&Verdict::Canceled),
            (State::Script { step, verdict }, Event::Exited(code)) => {
                let allowed = plan.steps.get(*step).is_some_and(|s| s.1);
                let verdict = match verdict {
                    Verdict::Success if code != 0 && !allowed => Verdict::Failed(Failure::exit(code)),
                    other => other.clone(),
                };
                after(step + 1, verdict)
            }
            (State::Script { .. }, Event::Broke(failure) | Event::StepTimedOut(failure)) => {
                State::AfterScript { verdict: Verdict::Failed(failure) }
            }
            (State::Script { .. }, Event::Canceling) => State::AfterScript { verdict: Verdict::Canceled },
            // The after script of a job that failed may run to its end; canceling is what it is there for.
            (State::AfterScript { .. }, Event::Canceling) => State::AfterScript { verdict: Verdict::Canceled },
            (State::AfterScript { verdict }, Event::Exited(code)) => {
                State::collecting(verdict, (code != 0 && plan.after_errors_count).then(|| Failure::exit(code)))
            }
            (State::AfterScript { verdict }, Event::Broke(failure) | Event::StepTimedOut(failure)) => {
                State::collecting(verdict, plan.after_errors_count.then_some(failure))
            }
            (State::Collecting { .. }, Event::Canceling) => State::finishing(&Verdict::Canceled),
            (State::Collecting { verdict: Verdict::Success }, Event::Collected(Some(failure))) => {
                State::finishing(&Verdict::Failed(failure))
            }
            (State::Collecting { verdict }, Event::Collected(_)) => State::finishing(verdict),
            (
                State::Preparing,
                event @ (Event::Exited(_)
                | Event::Broke(_)
                | Event::StepTimedOut(_)
                | Event::Collected(_)
                | Event::Delivered),
            )
            | (
                State::Script { .. } | State::AfterScript { .. },
                event @ (Event::Prepared | Event::Unprepared { .. } | Event::Collected(_) | Event::Delivered),
            )
            | (
                State::Collecting { .. },
                event @ (Event::Prepared
                | Event::Unprepared { .. }
                | Event::Exited(_)
                | Event::Broke(_)
                | Event::StepTimedOut(_)
                | Event::Delivered),
            )
            | (
                State::Finishing { .. },
                event @ (Event::Prepared
                | Event::Unprepared { .. }
                | Event::Exited(_)
                | Event::Broke(_)
                | Event::StepTimedOut(_)
                | Event::Collected(_)),
            ) => return Err(self.refuse(event)),
        })
    }

    fn refuse(&self, event: Event) -> Refused {
        Refused { state: self.clone(), event }
    }

    fn finishing(verdict: &Verdict) -> State {
        State::Finishing { outcome: verdict.outcome() }
    }

    fn collecting(verdict: &Verdict, failure: Option<Failure>) -> State {
        match (verdict, failure) {
            (Verdict::Success, Some(failure)) => State::Collecting { verdict: Verdict::Failed(failure) },
            (Verdict::Canceled, _) => State::finishing(verdict),
            (other, _) => State::Collecting { verdict: other.clone() },
        }
    }

    /// Whether its script has begun: from then on it is never run again silently.
    #[must_use]
    pub fn started(&self) -> bool {
        match self {
            State::Preparing => false,
            State::Script { .. }
            | State::AfterScript { .. }
            | State::Collecting { .. }
            | State::Finishing { .. }
            | State::Over
            | State::Abandoned => true,
        }
    }

    /// The word for people and progress reports.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Script { .. } => "script",
            State::AfterScript { .. } => "after_script",
            State::Collecting { .. } => "collecting",
            State::Finishing { .. } => "finishing",
            State::Over => "over",
            State::Abandoned => "abandoned",
        }
    }
}

impl Verdict {
    /// `CI_JOB_STATUS` for what runs after the script.
    #[must_use]
    pub fn job_status(&self) -> &'static str {
        match self {
            Verdict::Success => "success",
            Verdict::Failed(_) => "failed",
            Verdict::Canceled => "canceled",
        }
    }

    /// What is reported when nothing more goes wrong.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Verdict::Success => Outcome::Success,
            Verdict::Failed(f) => {
                Outcome::Failed { reason: f.reason, exit_code: f.exit_code, message: f.message.clone() }
            }
            Verdict::Canceled => Outcome::Canceled,
        }
    }
}

#[cfg(test)]
mod tests;
