//! Which jobs of a pipeline may go, and the state of the whole, by GitLab's rules: a job is looked at when everything
//! it waits for is complete; what it waits for has one composite status; `when` decides upon it.

use crate::pipeline::plan::JobWhen;
use slipway_spec::view::Status;
use std::collections::HashSet;

/// A job as its pipeline sees it: the newest attempt of a planned job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Position of its stage.
    pub stage: usize,
    /// Positions of the members it needs; `None`: all of earlier stages.
    pub needs: Option<Vec<usize>>,
    /// When it starts.
    pub when: JobWhen,
    /// Its failure, as it ended, does not fail the pipeline.
    pub allow_failure: bool,
    /// What it is doing.
    pub status: Status,
}

/// What a job that waited is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Find a node.
    Ready,
    /// Wait for a person.
    Manual,
    /// Wait so many seconds.
    Delayed(u64),
    /// Never run.
    Skip,
}

/// A job's state as a composite counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Is(Status),
    /// Failed or canceled, and that is allowed.
    SuccessWithWarnings,
    /// Waits for a person who need not come.
    Ignored,
}

fn class(status: Status, allow_failure: bool) -> Class {
    match status {
        Status::Failed | Status::Canceled if allow_failure => Class::SuccessWithWarnings,
        Status::Manual if allow_failure => Class::Ignored,
        other => Class::Is(other),
    }
}

/// The status of several jobs together; `None` of none. `dag` for the needs of one job.
#[must_use]
pub fn composite(jobs: impl IntoIterator<Item = (Status, bool)>, dag: bool) -> Option<Status> {
    let classes: HashSet<Class> = jobs.into_iter().map(|(status, allowed)| class(status, allowed)).collect();
    let any = |wanted: Class| classes.contains(&wanted);
    let only = |wanted: &[Class]| classes.iter().all(|c| wanted.contains(c));
    use Class::{Ignored, Is, SuccessWithWarnings};
    let skipped = Is(Status::Skipped);
    let success = Is(Status::Success);
    let status = if classes.is_empty() {
        return None;
    } else if dag && (any(skipped) || any(Ignored)) {
        Status::Skipped
    } else if dag && !only(&[success, Is(Status::Failed), Is(Status::Canceled), skipped, SuccessWithWarnings]) {
        Status::Pending
    } else if only(&[skipped, Ignored]) {
        Status::Skipped
    } else if only(&[success, skipped, SuccessWithWarnings, Ignored]) {
        Status::Success
    } else if only(&[Is(Status::Created), SuccessWithWarnings, Ignored]) {
        Status::Created
    } else if only(&[Is(Status::Canceled), success, skipped, SuccessWithWarnings, Ignored]) {
        Status::Canceled
    } else if only(&[Is(Status::Pending), Is(Status::Created), skipped, SuccessWithWarnings, Ignored]) {
        Status::Pending
    } else if any(Is(Status::Running)) || any(Is(Status::Pending)) {
        Status::Running
    } else if any(Is(Status::Canceling)) {
        Status::Canceling
    } else if any(Is(Status::WaitingForResource)) {
        Status::WaitingForResource
    } else if any(Is(Status::Manual)) {
        Status::Manual
    } else if any(Is(Status::Scheduled)) {
        Status::Scheduled
    } else if any(Is(Status::Created)) {
        Status::Running
    } else {
        Status::Failed
    };
    Some(status)
}

/// Nothing waits for it any more.
fn complete(status: Status, allow_failure: bool) -> bool {
    status.is_over() || (status == Status::Manual && allow_failure)
}

/// What a job that may be looked at does, by what it waited for.
fn decide(when: JobWhen, input: Status, dag: bool) -> Go {
    let runs = match when {
        JobWhen::OnSuccess | JobWhen::Manual | JobWhen::Delayed(_) => {
            input == Status::Success || (!dag && input == Status::Skipped)
        }
        JobWhen::OnFailure => input == Status::Failed,
        JobWhen::Always => matches!(input, Status::Success | Status::Failed | Status::Skipped),
    };
    match when {
        _ if !runs => Go::Skip,
        JobWhen::Manual => Go::Manual,
        JobWhen::Delayed(seconds) => Go::Delayed(seconds),
        JobWhen::OnSuccess | JobWhen::OnFailure | JobWhen::Always => Go::Ready,
    }
}

/// What every waiting job that may be looked at is to do, by position. The members' states are taken as changed by
/// what was decided before in the same call, so that one call settles chains of skips.
#[must_use]
pub fn progress(members: &[Member]) -> Vec<(usize, Go)> {
    let mut status: Vec<Status> = members.iter().map(|m| m.status).collect();
    let mut decided = Vec::new();
    loop {
        // The stage up to which everything is complete: what a job without needs may look back on.
        let first_open = members
            .iter()
            .zip(&status)
            .filter(|(m, s)| !complete(**s, m.allow_failure))
            .map(|(m, _)| m.stage)
            .min()
            .unwrap_or(usize::MAX);
        let mut changed = false;
        for (position, member) in members.iter().enumerate() {
            if status[position] != Status::Created {
                continue;
            }
            let (input, dag) = match &member.needs {
                None if member.stage > first_open => continue,
                None => {
                    let earlier = members
                        .iter()
                        .zip(&status)
                        .filter(|(m, _)| m.stage < member.stage)
                        .map(|(m, s)| (*s, m.allow_failure));
                    (composite(earlier, false).unwrap_or(Status::Success), false)
                }
                Some(needs) => {
                    let open = needs.iter().any(|n| !complete(status[*n], members[*n].allow_failure));
                    if open {
                        continue;
                    }
                    let needed = needs.iter().map(|n| (status[*n], members[*n].allow_failure));
                    (composite(needed, true).unwrap_or(Status::Success), true)
                }
            };
            let go = decide(member.when, input, dag);
            status[position] = match go {
                Go::Ready => Status::Pending,
                Go::Manual => Status::Manual,
                Go::Delayed(_) => Status::Scheduled,
                Go::Skip => Status::Skipped,
            };
            decided.push((position, go));
            changed = true;
        }
        if !changed {
            return decided;
        }
    }
}

/// Positions of the jobs that a job's second life lets hope again: skipped ones of later stages without needs, and
/// those that need it, directly or over others.
#[must_use]
pub fn dependants(members: &[Member], of: usize) -> Vec<usize> {
    let mut reached: HashSet<usize> = HashSet::from([of]);
    loop {
        let before = reached.len();
        let stages: Vec<usize> = reached.iter().map(|p| members[*p].stage).collect();
        let first = stages.iter().min().copied().unwrap_or(usize::MAX);
        for (position, member) in members.iter().enumerate() {
            let waits = match &member.needs {
                None => member.stage > first,
                Some(needs) => needs.iter().any(|n| reached.contains(n)),
            };
            if waits {
                reached.insert(position);
            }
        }
        if reached.len() == before {
            break;
        }
    }
    let mut hopeful: Vec<usize> =
        reached.into_iter().filter(|p| *p != of && members[*p].status == Status::Skipped).collect();
    hopeful.sort_unstable();
    hopeful
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Canceled, Created, Failed, Manual, Pending, Running, Scheduled, Skipped, Success};

    fn job(stage: usize, when: JobWhen, status: Status) -> Member {
        Member { stage, needs: None, when, allow_failure: false, status }
    }

    fn dag(stage: usize, needs: &[usize], when: JobWhen, status: Status) -> Member {
        Member { needs: Some(needs.to_vec()), ..job(stage, when, status) }
    }

    fn allowed(member: Member) -> Member {
        Member { allow_failure: true, ..member }
    }

    #[test]
    fn first_stage_starts_and_later_ones_wait() {
        let members = [job(0, JobWhen::OnSuccess, Created), job(1, JobWhen::OnSuccess, Created)];
        assert_eq!(progress(&members), [(0, Go::Ready)]);
    }

    #[test]
    fn failure_skips_on_success_and_runs_on_failure_and_always() {
        let members = [
            job(0, JobWhen::OnSuccess, Failed),
            job(1, JobWhen::OnSuccess, Created),
            job(1, JobWhen::OnFailure, Created),
            job(1, JobWhen::Always, Created),
        ];
        assert_eq!(progress(&members), [(1, Go::Skip), (2, Go::Ready), (3, Go::Ready)]);
    }

    #[test]
    fn allowed_failure_lets_the_next_stage_go() {
        let members = [allowed(job(0, JobWhen::OnSuccess, Failed)), job(1, JobWhen::OnSuccess, Created)];
        assert_eq!(progress(&members), [(1, Go::Ready)]);
        assert_eq!(composite([(Failed, true), (Success, false)], false), Some(Success));
    }

    #[test]
    fn on_failure_in_the_first_stage_is_skipped() {
        assert_eq!(progress(&[job(0, JobWhen::OnFailure, Created)]), [(0, Go::Skip)]);
    }

    #[test]
    fn canceled_input_skips_even_always() {
        let members = [job(0, JobWhen::OnSuccess, Canceled), job(1, JobWhen::Always, Created)];
        assert_eq!(progress(&members), [(1, Go::Skip)]);
    }

    #[test]
    fn optional_manual_job_does_not_hold_the_next_stage() {
        let members = [allowed(job(0, JobWhen::Manual, Created)), job(1, JobWhen::OnSuccess, Created)];
        assert_eq!(progress(&members), [(0, Go::Manual), (1, Go::Ready)]);
        assert_eq!(composite([(Manual, true), (Success, false)], false), Some(Success));
    }

    #[test]
    fn blocking_manual_job_holds_the_next_stage() {
        let members = [job(0, JobWhen::Manual, Created), job(1, JobWhen::OnSuccess, Created)];
        assert_eq!(progress(&members), [(0, Go::Manual)]);
        assert_eq!(composite([(Manual, false), (Created, false)], false), Some(Manual));
    }

    #[test]
    fn job_that_needs_an_optional_manual_job_is_skipped() {
        let members = [allowed(job(0, JobWhen::Manual, Manual)), dag(1, &[0], JobWhen::OnSuccess, Created)];
        assert_eq!(progress(&members), [(1, Go::Skip)]);
    }

    #[test]
    fn needs_start_a_job_before_its_stage() {
        let members = [
            job(0, JobWhen::OnSuccess, Success),
            job(0, JobWhen::OnSuccess, Running),
            dag(1, &[0], JobWhen::OnSuccess, Created),
            dag(2, &[], JobWhen::OnSuccess, Created),
            job(2, JobWhen::OnSuccess, Created),
        ];
        assert_eq!(progress(&members), [(2, Go::Ready), (3, Go::Ready)]);
    }

    #[test]
    fn skipped_need_skips_the_chain_in_one_call() {
        let members = [
            job(0, JobWhen::OnSuccess, Failed),
            dag(1, &[0], JobWhen::OnSuccess, Created),
            dag(2, &[1], JobWhen::OnSuccess, Created),
            dag(2, &[1], JobWhen::Always, Created),
        ];
        assert_eq!(progress(&members), [(1, Go::Skip), (2, Go::Skip), (3, Go::Ready)]);
    }

    #[test]
    fn delayed_job_waits_its_seconds() {
        assert_eq!(progress(&[job(0, JobWhen::Delayed(90), Created)]), [(0, Go::Delayed(90))]);
        assert_eq!(composite([(Scheduled, false), (Success, false)], false), Some(Scheduled));
    }

    #[test]
    fn composite_follows_the_table() {
        assert_eq!(composite([], false), None);
        assert_eq!(composite([(Created, false), (Success, false)], false), Some(Running));
        assert_eq!(composite([(Pending, false), (Created, false)], false), Some(Pending));
        assert_eq!(composite([(Pending, false), (Success, false)], false), Some(Running));
        assert_eq!(composite([(Canceled, false), (Success, false)], false), Some(Canceled));
        assert_eq!(composite([(Failed, false), (Success, false), (Skipped, false)], false), Some(Failed));
        assert_eq!(composite([(Skipped, false), (Manual, true)], false), Some(Skipped));
        assert_eq!(composite([(Success, false), (Running, false)], true), Some(Pending));
        assert_eq!(composite([(Status::Canceling, false), (Success, false)], false), Some(Status::Canceling));
    }

    #[test]
    fn retried_job_gives_hope_to_those_skipped_behind_it() {
        let members = [
            job(0, JobWhen::OnSuccess, Failed),
            job(0, JobWhen::OnSuccess, Success),
            job(1, JobWhen::OnSuccess, Skipped),
            dag(1, &[1], JobWhen::OnSuccess, Success),
            dag(2, &[0], JobWhen::OnSuccess, Skipped),
        ];
        assert_eq!(dependants(&members, 0), [2, 4]);
    }
}
