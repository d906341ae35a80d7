//! What follows from a change: jobs behind it start, attempts are repeated, groups pass on, pipelines end, deployments
//! are written down.

use super::world::{Active, Effect, Errand, Told, World};
use crate::decide::job::{Event, How, State};
use crate::decide::pipeline::{Go, composite, dependants, progress};
use crate::deployments;
use crate::pipeline::plan::{JobWhen, OnNewCommit, PlannedJob};
use crate::record::{Job, Parent};
use crate::store::Write;
use jiff::SignedDuration;
use serde_json::json;
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::job::EnvironmentAction;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::view::{DeploymentView, Status};

/// GitLab's built-in limit of attempts for a job that never reached a node's script.
const MAX_RETRIES: u32 = 2;

impl World {
    /// Lets everything follow that follows from the batch so far.
    pub(super) fn settle(&mut self) {
        while let Some(pipeline) = self.unsettled.pop_first() {
            self.pass_groups_on();
            self.settle_one(pipeline);
        }
        self.pass_groups_on();
        if !self.unsettled.is_empty() {
            self.settle();
        }
    }

    fn settle_one(&mut self, id: PipelineId) {
        let Some(active) = self.pipelines.get(&id) else { return };
        let current: Vec<JobId> = active.current.clone();
        let members = active.graph.members(&active.record, current.iter().filter_map(|j| self.jobs.get(j)));
        for (position, go) in progress(&members) {
            let job = current[position];
            let done = match go {
                Go::Ready => self.launch(job),
                Go::Manual => self.wait_for_person(job),
                Go::Delayed(seconds) => {
                    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                    let until = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(self.now);
                    self.apply(job, &Event::Delay { until })
                }
                Go::Skip => self.apply(job, &Event::Skip { at: self.now }),
            };
            if let Err(refused) = done {
                tracing::error!(%job, %refused, "a decision did not fit the job's state");
            }
        }
        self.close_if_over(id);
    }

    fn wait_for_person(&mut self, job: JobId) -> Result<(), crate::decide::job::Refused> {
        self.apply(job, &Event::WaitForPerson { at: self.now })?;
        let asked =
            self.context(job).is_some_and(|(active, planned, _)| active.record.origin.manual.contains(&planned.name));
        if asked { self.launch(job) } else { Ok(()) }
    }

    /// Nothing holds the job back but its resource group.
    pub(super) fn launch(&mut self, id: JobId) -> Result<(), crate::decide::job::Refused> {
        let Some((active, planned, job)) = self.context(id) else { return Ok(()) };
        let parent = Parent { pipeline: job.pipeline, job: id };
        let is_trigger = planned.trigger.is_some();
        let key = planned.resource_group.clone().map(|g| (active.record.project, g));
        let already_waits = matches!(job.state, State::WaitingForResource { .. });
        let taken = key.and_then(|k| self.groups.get(&k)).is_some_and(|g| g.holder.is_some_and(|h| h != id));
        if taken {
            return if already_waits { Ok(()) } else { self.apply(id, &Event::WaitForResource { at: self.now }) };
        }
        if is_trigger {
            self.apply(id, &Event::Trigger { at: self.now })?;
            self.errands.push(Errand::MakeChild(parent));
            return Ok(());
        }
        self.apply(id, &Event::Ready { at: self.now })
    }

    fn pass_groups_on(&mut self) {
        let next: Vec<JobId> = self
            .groups
            .values()
            .filter(|g| g.holder.is_none())
            .filter_map(|g| g.waiting.first().map(|(_, job)| *job))
            .collect();
        for job in next {
            if let Err(refused) = self.launch(job) {
                tracing::error!(%job, %refused, "a job did not get its resource group");
            }
        }
        self.groups.retain(|_, g| g.holder.is_some() || !g.waiting.is_empty());
    }

    fn status_of(&self, active: &Active) -> Status {
        let current = active.current.iter().filter_map(|j| self.jobs.get(j));
        let classes = current.map(|j| (j.state.status(), active.record.failure_allowed(j)));
        composite(classes, false).unwrap_or(Status::Skipped)
    }

    fn close_if_over(&mut self, id: PipelineId) {
        let Some(active) = self.pipelines.get(&id) else { return };
        let status = self.status_of(active);
        let over = status.is_over() && !self.is_active(active);
        let was_over = active.record.finished_at.is_some();
        let (parent, now) = (active.record.parent, self.now);
        if over == was_over {
            return;
        }
        if let Some(active) = self.pipelines.get_mut(&id) {
            active.record.finished_at = over.then_some(now);
        }
        self.dirty_pipelines.insert(id);
        self.changed.insert(id);
        let what = json!({ "event": if over { "pipeline_over" } else { "pipeline_again" }, "status": status });
        self.writes.push(Write::Event { at: now, pipeline: id, job: None, what });
        if let (true, Some(parent)) = (over, parent) {
            self.child_over(parent, status);
        }
    }

    fn child_over(&mut self, parent: Parent, status: Status) {
        let how = match status {
            Status::Success | Status::Skipped => How::Success,
            Status::Canceled => How::Canceled,
            _ => How::Failed {
                reason: FailureReason::ScriptFailure,
                exit_code: None,
                message: "the pipeline it started failed".into(),
            },
        };
        // A trigger job without `strategy: depend` is over already.
        let _over = self.apply(parent.job, &Event::Settled { how, at: self.now });
    }

    /// What follows from a job's end.
    pub(super) fn ended(&mut self, id: JobId, before: &State, how: &How) {
        let Some((active, planned, job)) = self.context(id) else { return };
        let path = active.record.origin.project_path.clone();
        let attempt = job.attempt;
        let retry = should_retry(planned, attempt, how) && active.record.upstream.is_none();
        let failure_counts = matches!(how, How::Failed { .. }) && !active.record.failure_allowed(job);
        let cancel_rest = failure_counts && !retry && active.record.plan.auto_cancel.on_job_failure;
        let pipeline = job.pipeline;
        let started_seconds = job.state.end().and_then(|e| Some(e.at.duration_since(e.leased_at?).as_secs_f64()));
        let lineage = (active.record.project, planned.name.clone());
        let told = active.record.upstream.as_ref().map(|t| t.remote.clone());
        let child = match before {
            State::Bridge { child, .. } if *how == How::Canceled => *child,
            _ => None,
        };
        *self.ended.entry((path, World::word(how))).or_default() += 1;
        if let (How::Success, Some(seconds)) = (how, started_seconds) {
            self.learn(lineage, seconds);
        }
        if let Some(remote) = told {
            self.tell(remote, id, how);
        }
        if !retry {
            self.deployed(id, how);
        }
        let traces = self.traces.clone();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.trace_bytes = traces.held(id);
        }
        self.effects.push(Box::new(move || {
            traces.close(id);
        }) as Effect);
        if retry {
            let again = self.another_attempt(id);
            if let Some(again) = again
                && let Err(refused) = self.launch(again)
            {
                tracing::error!(job = %again, %refused, "a job could not be repeated");
            }
        }
        if let Some(child) = child {
            self.cancel_pipeline(child, false);
        }
        if cancel_rest {
            self.cancel_pipeline(pipeline, false);
        }
    }

    fn learn(&mut self, lineage: (slipway_spec::ids::ProjectId, String), seconds: f64) {
        let before = self.durations.get(&lineage).copied();
        let smooth = before.map_or(seconds, |b| b * 0.7 + seconds * 0.3);
        // A change that placement would not notice is not worth a row.
        if before.is_some_and(|b| (b - smooth).abs() < 0.05 * b.max(1.0)) {
            return;
        }
        self.durations.insert(lineage.clone(), smooth);
        self.writes.push(Write::Duration { project: lineage.0, job: lineage.1, seconds: smooth });
    }

    fn tell(&mut self, remote: crate::upstream::RemoteJob, job: JobId, how: &How) {
        let outcome = match how.clone() {
            How::Success => Outcome::Success,
            How::Failed { reason, exit_code, message } => Outcome::Failed { reason, exit_code, message },
            How::Canceled | How::Skipped => Outcome::Canceled,
        };
        self.last.outbox += 1;
        let row = self.last.outbox;
        let told = Told { remote, job, outcome };
        self.writes.push(Write::Counter("outbox", row));
        self.writes.push(Write::Outbox { id: row, kind: "upstream", doc: json!(told) });
        self.errands.push(Errand::TellUpstream { row, told });
    }

    /// The next attempt of a job that is over.
    pub(super) fn another_attempt(&mut self, id: JobId) -> Option<JobId> {
        let (_, _, job) = self.context(id)?;
        let (pipeline, planned, attempt, played) = (job.pipeline, job.planned, job.attempt, job.played.clone());
        self.last.job += 1;
        let next = JobId(self.last.job);
        self.writes.push(Write::Counter("job", next.0));
        let job = Job { played, ..Job::new(next, pipeline, planned, attempt + 1) };
        self.jobs.insert(next, job);
        if let Some(old) = self.jobs.get_mut(&id) {
            old.retried = true;
        }
        let active = self.pipelines.get_mut(&pipeline)?;
        active.attempts.push(next);
        active.current[planned] = next;
        self.touch(id);
        self.touch(next);
        Some(next)
    }

    /// Skipped jobs behind one that lives again are looked at anew.
    pub(super) fn reconsider_behind(&mut self, pipeline: PipelineId, planned: usize) {
        let Some(active) = self.pipelines.get(&pipeline) else { return };
        let current = active.current.clone();
        let members = active.graph.members(&active.record, current.iter().filter_map(|j| self.jobs.get(j)));
        for position in dependants(&members, planned) {
            let _not_skipped = self.apply(current[position], &Event::Reconsider);
        }
    }

    /// Ends everything of a pipeline that is not over.
    pub(super) fn cancel_pipeline(&mut self, pipeline: PipelineId, force: bool) -> usize {
        let Some(active) = self.pipelines.get(&pipeline) else { return 0 };
        let jobs = active.current.clone();
        jobs.into_iter().filter(|job| self.cancel_job(*job, force).is_ok()).count()
    }

    /// Ends one job; its node is told once that is written.
    pub(super) fn cancel_job(&mut self, id: JobId, force: bool) -> Result<(), crate::decide::job::Refused> {
        self.apply(id, &Event::Cancel { at: self.now, force })?;
        if let Some(lease) = self.jobs.get(&id).and_then(|j| j.state.lease()).cloned() {
            let how = if force { "canceled" } else { "canceling" };
            self.send_cancel(&lease.node, id, lease.fence, how);
        }
        Ok(())
    }

    /// A newer pipeline of a ref ends older ones, as far as `workflow:auto_cancel` and `interruptible` let it.
    pub(super) fn cancel_older(&mut self, newest: PipelineId) {
        let Some(new) = self.pipelines.get(&newest) else { return };
        let automatic = ["push", "webhook", "merge_request_event"].contains(&new.record.origin.source.as_str());
        let wanted = self.config.project(&new.record.origin.project_path).is_none_or(|p| p.auto_cancel);
        if !automatic || !wanted || new.record.parent.is_some() || new.record.upstream.is_some() {
            return;
        }
        let (project, ref_name) = (new.record.project, new.record.origin.ref_name.clone());
        let older: Vec<PipelineId> = self
            .pipelines
            .range(..newest)
            .filter(|(_, p)| p.record.project == project && p.record.origin.ref_name == ref_name)
            .filter(|(_, p)| p.record.parent.is_none() && p.record.origin.source != "schedule")
            .map(|(id, _)| *id)
            .collect();
        for id in older {
            self.cancel_outdated(id);
        }
    }

    fn cancel_outdated(&mut self, id: PipelineId) {
        let Some(active) = self.pipelines.get(&id) else { return };
        let (mut open, mut uninterruptible_started) = (Vec::new(), false);
        for job in active.current.iter().filter_map(|j| self.jobs.get(j)) {
            let interruptible = active.record.planned(job).interruptible;
            let started = job.state.lease().is_some() || job.state.end().is_some_and(|e| e.node.is_some());
            uninterruptible_started |= started && !interruptible;
            if job.state.end().is_none() {
                open.push((job.id, interruptible));
            }
        }
        let ends: Vec<JobId> = match active.record.plan.auto_cancel.on_new_commit {
            OnNewCommit::None => Vec::new(),
            OnNewCommit::Interruptible => open.into_iter().filter(|(_, i)| *i).map(|(job, _)| job).collect(),
            OnNewCommit::Conservative if uninterruptible_started => Vec::new(),
            OnNewCommit::Conservative => open.into_iter().map(|(job, _)| job).collect(),
        };
        for job in ends {
            if self.cancel_job(job, false).is_ok()
                && let Some(job) = self.jobs.get_mut(&job)
            {
                job.note = "a newer pipeline of this ref ended it".into();
            }
        }
    }

    /// A job with an environment leaves an entry in the record of deployments.
    fn deployed(&mut self, id: JobId, how: &How) {
        let Some((active, planned, job)) = self.context(id) else { return };
        let Some(environment) = &planned.environment else { return };
        let ran = job.state.end().is_some_and(|e| e.node.is_some());
        let record = &active.record;
        if !ran || record.upstream.is_some() {
            return;
        }
        let redeploys = record.origin.redeploys.is_some();
        let kind = match environment.action {
            EnvironmentAction::Start if redeploys => "redeploy",
            EnvironmentAction::Start => "deploy",
            EnvironmentAction::Stop => "stop",
            EnvironmentAction::Verify => "verify",
            EnvironmentAction::Prepare | EnvironmentAction::Access => return,
        };
        let scheduled_check = kind == "verify" && record.origin.source == "schedule";
        let drifted = scheduled_check && matches!(how, How::Failed { reason: FailureReason::ScriptFailure, .. });
        let outcome = match how {
            _ if drifted => "drifted",
            How::Success => "success",
            How::Failed { .. } => "failed",
            How::Canceled | How::Skipped => "canceled",
        };
        let entry = DeploymentView {
            number: 0,
            environment: environment.name.clone(),
            url: job.environment_url.clone().or_else(|| environment.url.clone()),
            kind: kind.into(),
            outcome: outcome.into(),
            project: record.origin.project_path.clone(),
            ref_name: record.origin.ref_name.clone(),
            sha: record.origin.sha.clone(),
            pipeline: record.id,
            job: id,
            submitted_by: job.played.as_ref().map_or_else(|| record.origin.submitted_by.clone(), |p| p.by.clone()),
            at: self.now,
            hash: String::new(),
        };
        let entry = deployments::chained(self.last_deployment.as_ref(), entry);
        if drifted {
            self.errands
                .push(Errand::Drifted { project: entry.project.clone(), environment: entry.environment.clone() });
        }
        self.writes.push(Write::Deployment(Box::new(entry.clone())));
        self.last_deployment = Some(entry);
    }
}

/// Whether a job that ended so is tried again by itself.
fn should_retry(planned: &PlannedJob, attempt: u32, how: &How) -> bool {
    let How::Failed { reason, exit_code, .. } = how else { return false };
    if *reason == FailureReason::MissingDependencyFailure {
        return false;
    }
    let retry = &planned.retry;
    let limit = retry.max.min(MAX_RETRIES);
    let by_code = exit_code.is_some_and(|code| retry.exit_codes.contains(&code));
    let by_reason = retry.when.iter().any(|w| {
        w == "always" || w == reason.as_str() || (w == "unknown_failure" && *reason == FailureReason::ImagePullFailure)
    });
    let always = retry.when.is_empty() && retry.exit_codes.is_empty();
    attempt <= limit && (always || by_code || by_reason)
}

/// A job that only a person starts.
pub(super) fn is_manual(planned: &PlannedJob) -> bool {
    planned.when == JobWhen::Manual
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::plan::Retry;

    fn failed(reason: FailureReason, exit_code: Option<i32>) -> How {
        How::Failed { reason, exit_code, message: String::new() }
    }

    fn planned(max: u32, when: &[&str], exit_codes: &[i32]) -> PlannedJob {
        let when = when.iter().map(|w| (*w).to_owned()).collect();
        PlannedJob { retry: Retry { max, when, exit_codes: exit_codes.to_vec() }, ..PlannedJob::default() }
    }

    #[test]
    fn retry_follows_reason_code_and_limit() {
        let script = failed(FailureReason::ScriptFailure, Some(3));
        let system = failed(FailureReason::RunnerSystemFailure, None);
        assert!(!should_retry(&planned(0, &[], &[]), 1, &script));
        assert!(should_retry(&planned(1, &[], &[]), 1, &script));
        assert!(!should_retry(&planned(1, &[], &[]), 2, &script));
        assert!(should_retry(&planned(2, &["runner_system_failure"], &[]), 2, &system));
        assert!(!should_retry(&planned(2, &["runner_system_failure"], &[]), 1, &script));
        assert!(should_retry(&planned(2, &["runner_system_failure"], &[3]), 1, &script));
        assert!(!should_retry(&planned(2, &[], &[7]), 1, &script));
        assert!(!should_retry(&planned(2, &[], &[]), 1, &failed(FailureReason::MissingDependencyFailure, None)));
        assert!(!should_retry(&planned(2, &[], &[]), 1, &How::Canceled));
    }
}
