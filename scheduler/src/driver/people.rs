//! What people ask: accept, cancel, retry, play, explain.

use super::command::{Denied, Finish, NewPipeline, Target};
use super::settle::is_manual;
use super::world::{Active, World};
use crate::decide::job::{Event, Refused, State};
use crate::pipeline::plan::{AutoCancel, Plan, PlannedJob};
use crate::record::{Artifact, Commit, Graph, Job, Origin, Parent, Pipeline, Played, Taken, zeros};
use crate::store::Write;
use crate::upstream::{Cancel as RemoteCancel, RemoteJob, UpstreamJob};
use serde_json::json;
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::variable::Variable;
use slipway_spec::view::Status;
use std::sync::Arc;

/// Ended leases that are remembered. Forgetting all of them at once costs a node a word it does not act upon.
const MAX_LET_GO: usize = 4096;
/// Depth to which pipelines may start pipelines; GitLab's is two levels of children.
const MAX_DEPTH: usize = 3;

impl World {
    /// Accepts a compiled pipeline.
    pub(super) fn create(&mut self, new: NewPipeline) -> Result<PipelineId, Denied> {
        if new.plan.jobs.is_empty() {
            return Err(Denied::Empty);
        }
        if let Some(parent) = new.parent {
            match self.jobs.get(&parent.job).map(|j| &j.state) {
                Some(State::Bridge { child: None, .. }) => {}
                Some(State::Bridge { child: Some(child), .. }) => return Ok(*child),
                Some(_) | None => {
                    return Err(Denied::Unknown(format!("job #{} that waits for a pipeline", parent.job)));
                }
            }
            if self.depth(parent) >= MAX_DEPTH {
                return Err(Denied::Nothing(format!("pipelines may start pipelines at most {MAX_DEPTH} levels deep")));
            }
        }
        let path = new.origin.project_path.clone();
        let project = self.project("", &new.project_key, &path);
        let iid = self.next_iid("", &new.project_key);
        let request = new.request_id.clone();
        let parent = new.parent;
        let id = self.insert(project, iid, new.origin, new.plan, parent, None);
        if !request.is_empty() {
            self.writes.push(Write::Request { id: request, pipeline: id });
        }
        if let Some(parent) = parent {
            self.child_made(parent, id);
        }
        self.cancel_older(id);
        Ok(id)
    }

    fn depth(&self, parent: Parent) -> usize {
        let mut depth = 1;
        let mut above = self.pipelines.get(&parent.pipeline).and_then(|a| a.record.parent);
        while let Some(parent) = above {
            depth += 1;
            above = self.pipelines.get(&parent.pipeline).and_then(|a| a.record.parent);
        }
        depth
    }

    fn child_made(&mut self, parent: Parent, child: PipelineId) {
        if let Err(refused) = self.apply(parent.job, &Event::ChildMade { child }) {
            tracing::error!(job = %parent.job, %refused, "a trigger job does not know its pipeline");
        }
        let depend =
            self.context(parent.job).is_some_and(|(_, planned, _)| planned.trigger.as_ref().is_some_and(|t| t.depend));
        if !depend {
            let how = crate::decide::job::How::Success;
            let _over = self.apply(parent.job, &Event::Settled { how, at: self.now });
        }
    }

    fn insert(
        &mut self,
        project: ProjectId,
        iid: u64,
        origin: Origin,
        plan: Plan,
        parent: Option<Parent>,
        upstream: Option<Box<Taken>>,
    ) -> PipelineId {
        self.last.pipeline += 1;
        let id = PipelineId(self.last.pipeline);
        let record = Pipeline {
            id,
            iid,
            project,
            origin,
            created_at: self.now,
            finished_at: None,
            parent,
            upstream,
            plan: Arc::new(plan),
        };
        let mut jobs = Vec::with_capacity(record.plan.jobs.len());
        for planned in 0..record.plan.jobs.len() {
            self.last.job += 1;
            let job = Job::new(JobId(self.last.job), id, planned, 1);
            jobs.push(job.id);
            self.jobs.insert(job.id, job);
        }
        self.writes.push(Write::Counter("pipeline", self.last.pipeline));
        self.writes.push(Write::Counter("job", self.last.job));
        self.writes.push(Write::NewPipeline(Box::new(record.clone())));
        let what =
            json!({ "event": "pipeline_created", "by": record.origin.submitted_by, "source": record.origin.source });
        self.writes.push(Write::Event { at: self.now, pipeline: id, job: None, what });
        let graph = Graph::of(&record.plan);
        self.pipelines
            .insert(id, Active { record, graph, current: jobs.clone(), attempts: jobs.clone(), stored: true });
        for job in jobs {
            self.touch(job);
        }
        id
    }

    /// Accepts a job taken from a GitLab server: a pipeline of one job.
    pub(super) fn accept(&mut self, job: UpstreamJob) -> Result<JobId, Denied> {
        if let Some(known) = self.remotes.get(&job.remote) {
            return Ok(*known);
        }
        let spec = job.spec;
        let key = job.remote_project.to_string();
        let project = self.project(&job.remote.upstream, &key, &spec.project_path);
        let iid = self.next_iid(&job.remote.upstream, &key);
        let planned = PlannedJob {
            name: spec.name.clone(),
            stage: spec.stage.clone(),
            environment: spec.environment.clone(),
            interruptible: spec.interruptible,
            ..PlannedJob::default()
        };
        let plan = Plan {
            name: None,
            stages: vec![spec.stage.clone()],
            jobs: vec![planned],
            excluded: Vec::new(),
            auto_cancel: AutoCancel::default(),
        };
        let origin = Origin {
            project_path: spec.project_path.clone(),
            repository: spec.source.url.clone(),
            ref_name: spec.source.ref_name.clone(),
            is_tag: spec.source.is_tag,
            sha: spec.source.sha.clone(),
            before_sha: zeros(),
            default_branch: String::new(),
            source: "gitlab".into(),
            submitted_by: job.remote.upstream.clone(),
            tier: spec.tier,
            config_path: String::new(),
            commit: Commit::default(),
            variables: Vec::new(),
            manual: Vec::new(),
            priority: 0,
            redeploys: None,
            borrowed: Vec::new(),
        };
        let taken = Taken { remote: job.remote.clone(), selector: job.selector, spec };
        let id = self.insert(project, iid, origin, plan, None, Some(Box::new(taken)));
        let Some(job_id) = self.pipelines.get(&id).and_then(|a| a.current.first().copied()) else {
            return Err(Denied::Empty);
        };
        self.writes.push(Write::RemoteJob {
            upstream: job.remote.upstream.clone(),
            remote: job.remote.id,
            job: job_id,
        });
        self.remotes.insert(job.remote, job_id);
        Ok(job_id)
    }

    /// A GitLab server ends its job.
    pub(super) fn cancel_remote(&mut self, remote: &RemoteJob, how: RemoteCancel) {
        if let Some(job) = self.remotes.get(remote).copied() {
            let _over = self.cancel_job(job, how == RemoteCancel::Abort);
        }
    }

    /// A node says how a job ended.
    pub(super) fn finish(&mut self, finish: Finish) -> Result<(), Refused> {
        let id = finish.job;
        let Some(job) = self.jobs.get_mut(&id) else {
            return Err(Refused::StaleFence { held: Fence::NONE, got: finish.fence });
        };
        let reports = job.state.lease().is_some_and(|l| l.fence == finish.fence);
        if reports {
            job.receipt = finish.receipt;
            job.dotenv = finish.dotenv;
            job.environment_url = (!finish.environment_url.is_empty()).then_some(finish.environment_url);
            job.tests = (!finish.tests.is_empty()).then_some(finish.tests);
        }
        self.apply(id, &Event::Finished { fence: finish.fence, outcome: finish.outcome, at: self.now })?;
        if self.let_go.len() >= MAX_LET_GO {
            self.let_go.clear();
        }
        self.let_go.insert(id, finish.fence);
        Ok(())
    }

    /// An artifact of a job is on disk. Returns the file of the one it replaces.
    pub(super) fn keep(&mut self, id: JobId, fence: Fence, artifact: Artifact) -> Result<Option<String>, Refused> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Err(Refused::StaleFence { held: Fence::NONE, got: fence });
        };
        let held = job.state.fence();
        if job.state.lease().is_none() || held != fence {
            return Err(Refused::StaleFence { held, got: fence });
        }
        let same = |a: &Artifact| a.kind == artifact.kind && a.name == artifact.name;
        let replaced = job.artifacts.iter().position(same).map(|at| job.artifacts.remove(at).file);
        job.artifacts.push(artifact.clone());
        if let Some(at) = artifact.expires_at {
            self.writes.push(Write::Expiry { file: artifact.file, job: id, at });
        }
        if let Some(file) = &replaced {
            self.writes.push(Write::Expired { file: file.clone() });
        }
        self.touch(id);
        Ok(replaced)
    }

    /// An artifact's file is gone.
    pub(super) fn expire(&mut self, id: JobId, file: &str) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.artifacts.retain(|a| a.file != file);
        }
        self.writes.push(Write::Expired { file: file.to_owned() });
        self.touch(id);
    }

    /// Ends a job or a pipeline.
    pub(super) fn cancel(&mut self, target: Target, force: bool, who: &str) -> Result<(), Denied> {
        let done = match target {
            Target::Job(id) => {
                let known = self.jobs.contains_key(&id);
                if !known {
                    return Err(Denied::Unknown(format!("job #{id}")));
                }
                self.cancel_job(id, force)
                    .map_err(|why| Denied::State { what: format!("cannot cancel job #{id}"), why })
            }
            Target::Pipeline(id) => {
                if !self.pipelines.contains_key(&id) {
                    return Err(Denied::Unknown(format!("pipeline #{id}")));
                }
                match self.cancel_pipeline(id, force) {
                    0 => Err(Denied::Nothing(format!("pipeline #{id} is over: there is nothing to cancel"))),
                    _ => Ok(()),
                }
            }
        };
        if done.is_ok() {
            self.note_person("cancel", target, who);
        }
        done
    }

    fn note_person(&mut self, event: &str, target: Target, who: &str) {
        let (pipeline, job) = match target {
            Target::Pipeline(id) => (id, None),
            Target::Job(id) => match self.jobs.get(&id) {
                Some(job) => (job.pipeline, Some(id)),
                None => return,
            },
        };
        let what = json!({ "event": event, "by": who });
        self.writes.push(Write::Event { at: self.now, pipeline, job, what });
    }

    /// Runs a job, or a pipeline's failed jobs, again. Returns the first new job.
    pub(super) fn retry(&mut self, target: Target, who: &str) -> Result<JobId, Denied> {
        let (jobs, pipeline) = match target {
            Target::Job(id) => {
                let job = self.jobs.get(&id).ok_or_else(|| Denied::Unknown(format!("job #{id}")))?;
                let what = format!("cannot retry job #{id}");
                if job.retried {
                    return Err(Denied::Nothing(format!("{what}: a later attempt took its place")));
                }
                let status = job.state.status();
                if !status.is_over() || status == Status::Skipped {
                    return Err(Denied::State { what, why: Refused::WrongState(status) });
                }
                (vec![id], job.pipeline)
            }
            Target::Pipeline(id) => {
                let active = self.pipelines.get(&id).ok_or_else(|| Denied::Unknown(format!("pipeline #{id}")))?;
                let again = active.current.iter().filter(|j| {
                    let status = self.jobs.get(j).map(|j| j.state.status());
                    matches!(status, Some(Status::Failed | Status::Canceled))
                });
                (again.copied().collect(), id)
            }
        };
        if self.pipelines.get(&pipeline).is_some_and(|a| a.record.upstream.is_some()) {
            return Err(Denied::Nothing("a job of a GitLab server is retried there".into()));
        }
        let mut first = None;
        for id in jobs {
            let Some(planned) = self.jobs.get(&id).map(|j| j.planned) else { continue };
            let Some(next) = self.another_attempt(id) else { continue };
            first.get_or_insert(next);
            self.reconsider_behind(pipeline, planned);
            // A job of a canceled pipeline waits for those before it, if they live again too.
            let waits = self.context(next).is_some_and(|(active, planned, _)| {
                let position = active.current.iter().position(|j| *j == next);
                let members =
                    active.graph.members(&active.record, active.current.iter().filter_map(|j| self.jobs.get(j)));
                let earlier_open = members.iter().zip(0..).any(|(m, at)| {
                    let before = position.is_some_and(|p| match &members[p].needs {
                        None => m.stage < members[p].stage,
                        Some(needs) => needs.contains(&at),
                    });
                    before && !m.status.is_over() && m.status != Status::Manual
                });
                earlier_open && !is_manual(planned)
            });
            if !waits {
                self.launch(next).map_err(|why| Denied::State { what: format!("cannot retry job #{id}"), why })?;
            }
        }
        let first = first
            .ok_or_else(|| Denied::Nothing(format!("pipeline #{pipeline} has no failed or canceled job to retry")))?;
        self.note_person("retry", target, who);
        Ok(first)
    }

    /// Starts a manual or delayed job now.
    pub(super) fn play(&mut self, id: JobId, who: &str, variables: Vec<Variable>) -> Result<JobId, Denied> {
        let job = self.jobs.get(&id).ok_or_else(|| Denied::Unknown(format!("job #{id}")))?;
        let (pipeline, planned, status) = (job.pipeline, job.planned, job.state.status());
        let played = Played { by: who.to_owned(), variables };
        match status {
            Status::Manual | Status::Scheduled => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.played = Some(played);
                }
                self.launch(id).map_err(|why| Denied::State { what: format!("cannot start job #{id}"), why })?;
                self.reconsider_behind(pipeline, planned);
                self.note_person("play", Target::Job(id), who);
                Ok(id)
            }
            other => Err(Denied::State {
                what: format!("cannot start job #{id}: it does not wait for a person or a moment"),
                why: Refused::WrongState(other),
            }),
        }
    }

    /// The trigger job's pipeline could not be made.
    pub(super) fn child_failed(&mut self, parent: Parent, message: String) {
        let reason = slipway_spec::outcome::FailureReason::UnknownFailure;
        let how = crate::decide::job::How::Failed { reason, exit_code: None, message };
        let _over = self.apply(parent.job, &Event::Settled { how, at: self.now });
    }

    /// In a sentence: why a job waits, until when at the latest, or why it ran where it ran.
    pub(super) fn explain(&self, id: JobId) -> Result<String, Denied> {
        let unknown = || Denied::Unknown(format!("job #{id}"));
        let (active, planned, job) = self.context(id).ok_or_else(unknown)?;
        let name = &planned.name;
        Ok(match &job.state {
            State::Created => {
                let waits: Vec<&str> = active
                    .current
                    .iter()
                    .filter_map(|j| self.jobs.get(j))
                    .filter(|j| !j.state.status().is_over() && j.id != id)
                    .map(|j| active.record.planned(j).name.as_str())
                    .take(5)
                    .collect();
                format!("{name} waits for jobs before it that are not over: {}.", waits.join(", "))
            }
            State::Manual { since } => {
                format!("{name} waits since {since} for a person: `slipway play {id}` starts it.")
            }
            State::Scheduled { until } => format!("{name} waits until {until}, as its start_in says."),
            State::WaitingForResource { since } => {
                let group = planned.resource_group.as_deref().unwrap_or("");
                let key = (active.record.project, group.to_owned());
                let holder = self.groups.get(&key).and_then(|g| g.holder);
                let holder = holder.map_or_else(|| "another job".to_owned(), |h| format!("job #{h}"));
                format!("{name} waits since {since} for the resource group {group:?}, which {holder} has.")
            }
            State::Pending { since, .. } => {
                let why = self.placement(id).unwrap_or_default();
                let before =
                    if job.note.contains("did not take it") { format!(" ({})", job.note) } else { String::new() };
                format!("{name} waits for a node since {since}: {why}.{before}")
            }
            State::Leased(lease) => {
                format!("{name} is being prepared on {} ({}).{}", lease.node, job.note, went_there(job))
            }
            State::Started { lease, at } => format!("{name} runs on {} since {at}.{}", lease.node, went_there(job)),
            State::Canceling { lease, .. } => format!("{name} is being ended on {}.", lease.node),
            State::Bridge { child: Some(child), .. } => {
                format!("{name} waits for pipeline #{child}, which it started.")
            }
            State::Bridge { child: None, .. } => format!("{name} makes its pipeline."),
            State::Over(end) => {
                let node = end.node.as_deref().map(|n| format!(" on {n}")).unwrap_or_default();
                format!("{name} is over ({}){node} since {}.{}", job.state.status().as_str(), end.at, went_there(job))
            }
        })
    }
}

/// Why a job is where it is, as a sentence after another.
fn went_there(job: &crate::record::Job) -> String {
    if job.placed.is_empty() { String::new() } else { format!(" It went there because {}.", job.placed) }
}
