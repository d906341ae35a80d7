//! Everything the driver knows, and the one way in which it changes: [`World::apply`] takes a job from one state to
//! the next and notes what must be written and what must be done once it is written.

use super::command::{SessionId, ToNode};
use super::live::Live;
use crate::config::Config;
use crate::decide::job::{Event, How, Refused, State};
use crate::decide::placement;
use crate::decide::queue::Queue;
use crate::pipeline::plan::PlannedJob;
use crate::record::{Graph, Job, Parent, Pipeline};
use crate::store::{Store, StoreError, Write, read};
use crate::traces::Traces;
use crate::upstream::{RemoteJob, Selector};
use jiff::Timestamp;
use serde_json::json;
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::outcome::Outcome;
use slipway_spec::pressure::Pressure;
use slipway_spec::view::{DeploymentView, GenerationView};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// What is done when a batch is on disk.
pub(super) type Effect = Box<dyn FnOnce() + Send>;

/// Work for other tasks, sent when a batch is on disk.
#[derive(Debug)]
pub enum Errand {
    /// A trigger job wants its pipeline.
    MakeChild(Parent),
    /// The end of a GitLab server's job is to be told: the outbox row.
    TellUpstream {
        /// Number of the row.
        row: u64,
        /// The row.
        told: Told,
    },
    /// A GitLab server's job has started: its trace is to be passed on.
    FollowTrace(RemoteJob, JobId),
    /// Environment and project whose check found a difference.
    Drifted {
        /// The project's path.
        project: String,
        /// The environment.
        environment: String,
    },
}

/// The end of a GitLab server's job, as the outbox keeps it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Told {
    /// Which.
    pub remote: RemoteJob,
    /// Our number of it.
    pub job: JobId,
    /// How.
    pub outcome: Outcome,
}

/// The machine's monotonic clock, read as the wall clock of the start: a clock that is set does not end leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { wall: Timestamp::now(), start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall.checked_add(self.start.elapsed()).unwrap_or(self.wall)
    }
}

/// A pipeline in memory.
pub(super) struct Active {
    pub(super) record: Pipeline,
    pub(super) graph: Graph,
    /// The newest attempt of each planned job.
    pub(super) current: Vec<JobId>,
    /// All attempts.
    pub(super) attempts: Vec<JobId>,
    /// What the store's `active` says.
    pub(super) stored: bool,
}

/// A node, connected or not.
pub(super) struct Node {
    pub(super) session: Option<(SessionId, ToNode)>,
    pub(super) build: String,
    pub(super) architecture: String,
    pub(super) tags: Vec<String>,
    pub(super) trust_domain: Vec<String>,
    pub(super) capacity: u32,
    pub(super) wall: String,
    pub(super) held: BTreeSet<JobId>,
    /// Slots it said are free, and the leases it knew of then.
    pub(super) reported: Option<(u32, BTreeSet<JobId>)>,
    /// It declined an offer: it gets no other before its next report.
    pub(super) resting: bool,
    pub(super) refuses_builds: Option<String>,
    pub(super) overloaded: bool,
    pub(super) strain: f64,
    pub(super) pressure: Pressure,
    pub(super) generations: Arc<[GenerationView]>,
    pub(super) cache_bytes: u64,
    pub(super) seen_at: Timestamp,
}

impl Node {
    pub(super) fn absent(now: Timestamp) -> Node {
        Node {
            session: None,
            build: String::new(),
            architecture: String::new(),
            tags: Vec::new(),
            trust_domain: Vec::new(),
            capacity: 0,
            wall: String::new(),
            held: BTreeSet::new(),
            reported: None,
            resting: false,
            refuses_builds: None,
            overloaded: false,
            strain: 0.0,
            pressure: Pressure::default(),
            generations: Arc::default(),
            cache_bytes: 0,
            seen_at: now,
        }
    }

    /// Jobs it could start now: its own word less the leases it did not know of when it said it.
    pub(super) fn free(&self) -> u32 {
        if self.session.is_none() || self.resting {
            return 0;
        }
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        let by_count = self.capacity.saturating_sub(held);
        match &self.reported {
            None => by_count,
            Some((free, known)) => {
                let unknown = self.held.iter().filter(|j| !known.contains(j)).count();
                by_count.min(free.saturating_sub(u32::try_from(unknown).unwrap_or(u32::MAX)))
            }
        }
    }
}

/// Who has a resource group of a project, and who waits.
#[derive(Default)]
pub(super) struct Group {
    pub(super) holder: Option<JobId>,
    pub(super) waiting: BTreeSet<(Timestamp, JobId)>,
}

/// Everything the driver knows.
pub(super) struct World {
    pub(super) config: Arc<Config>,
    pub(super) traces: Traces,
    pub(super) live: Live,
    pub(super) now: Timestamp,
    pub(super) pipelines: BTreeMap<PipelineId, Active>,
    pub(super) jobs: HashMap<JobId, Job>,
    pub(super) projects: HashMap<(String, String), read::ProjectRow>,
    pub(super) queue: Queue,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) groups: HashMap<(ProjectId, String), Group>,
    pub(super) durations: HashMap<(ProjectId, String), f64>,
    /// Waiting jobs that could have started on a node that is not warm for them, and since when: what their patience
    /// is counted from. Time in a full queue is none: they take nobody's slot then.
    pub(super) passed_over: HashMap<JobId, Timestamp>,
    pub(super) remotes: HashMap<RemoteJob, JobId>,
    pub(super) rooms: Vec<(Selector, watch::Sender<u32>)>,
    pub(super) last_deployment: Option<DeploymentView>,
    pub(super) timers: BTreeSet<(Timestamp, JobId)>,
    /// Moments at which placement may answer otherwise.
    pub(super) wakes: BTreeSet<Timestamp>,
    pub(super) last: Numbers,
    pub(super) ended: HashMap<(String, &'static str), u64>,
    /// Leases that their nodes ended well of late: a report that crossed the end still names them.
    pub(super) let_go: HashMap<JobId, slipway_spec::ids::Fence>,
    // One batch.
    pub(super) writes: Vec<Write>,
    pub(super) dirty_jobs: BTreeSet<JobId>,
    pub(super) dirty_pipelines: BTreeSet<PipelineId>,
    pub(super) unsettled: BTreeSet<PipelineId>,
    pub(super) changed: BTreeSet<PipelineId>,
    pub(super) effects: Vec<Effect>,
    pub(super) errands: Vec<Errand>,
    pub(super) sessions: u64,
}

/// The last numbers given out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) pipeline: u64,
    pub(super) job: u64,
    pub(super) project: u64,
    pub(super) outbox: u64,
}

impl World {
    /// What the store holds that is not over. Leases get a full term: their nodes could not renew them meanwhile.
    pub(super) fn load(
        config: Arc<Config>,
        store: &Store,
        traces: Traces,
        live: Live,
        now: Timestamp,
    ) -> Result<World, StoreError> {
        let (pipelines, jobs) = store.read_now(|c| {
            let pipelines = read::active(c)?;
            let jobs = pipelines.iter().map(|p| read::jobs(c, p.id)).collect::<Result<Vec<_>, _>>()?;
            Ok((pipelines, jobs))
        })?;
        let last = store.read_now(|c| {
            Ok(Numbers {
                pipeline: read::counter(c, "pipeline")?,
                job: read::counter(c, "job")?,
                project: read::counter(c, "project")?,
                outbox: read::counter(c, "outbox")?,
            })
        })?;
        let mut world = World {
            config,
            traces,
            live,
            now,
            pipelines: BTreeMap::new(),
            jobs: HashMap::new(),
            projects: store
                .read_now(read::projects)?
                .into_iter()
                .map(|row| ((row.upstream.clone(), row.key.clone()), row))
                .collect(),
            queue: Queue::default(),
            nodes: BTreeMap::new(),
            groups: HashMap::new(),
            durations: store.read_now(read::durations)?.into_iter().collect(),
            passed_over: HashMap::new(),
            remotes: HashMap::new(),
            rooms: Vec::new(),
            last_deployment: store.read_now(read::last_deployment)?,
            timers: BTreeSet::new(),
            wakes: BTreeSet::new(),
            last,
            ended: HashMap::new(),
            let_go: HashMap::new(),
            writes: Vec::new(),
            dirty_jobs: BTreeSet::new(),
            dirty_pipelines: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            changed: BTreeSet::new(),
            effects: Vec::new(),
            errands: Vec::new(),
            sessions: 0,
        };
        for (pipeline, jobs) in pipelines.into_iter().zip(jobs) {
            world.resume(pipeline, jobs, true);
        }
        Ok(world)
    }

    /// Takes a pipeline of the store into memory.
    pub(super) fn resume(&mut self, record: Pipeline, jobs: Vec<Job>, stored: bool) {
        let id = record.id;
        let mut current = vec![None; record.plan.jobs.len()];
        for job in jobs.iter().filter(|j| !j.retried) {
            current[job.planned] = Some(job.id);
        }
        let active = Active {
            graph: Graph::of(&record.plan),
            current: current.into_iter().flatten().collect(),
            attempts: jobs.iter().map(|j| j.id).collect(),
            stored,
            record,
        };
        self.pipelines.insert(id, active);
        for mut job in jobs {
            let until = self.now + jiff::SignedDuration::try_from(self.config.lease_ttl).unwrap_or_default();
            if let Some(lease) = job.state.lease().cloned() {
                if let Ok(renewed) = job.state.apply(&Event::Renewed { fence: lease.fence, until }) {
                    job.state = renewed;
                }
                if let Err(error) = self.traces.grant(job.id, lease.fence, false) {
                    tracing::error!(%error, "a trace cannot be continued");
                }
            }
            let job_id = job.id;
            let state = job.state.clone();
            self.jobs.insert(job_id, job);
            self.enter(job_id, &State::Created, &state);
            let remote = self.pipelines.get(&id).and_then(|a| a.record.upstream.as_ref()).map(|t| t.remote.clone());
            if let (Some(remote), true) = (remote, state.lease().is_some() && state.script_started()) {
                self.errands.push(Errand::FollowTrace(remote, job_id));
            }
            if let State::Bridge { child: None, .. } = state {
                self.errands.push(Errand::MakeChild(Parent { pipeline: id, job: job_id }));
            }
        }
        self.unsettled.insert(id);
    }

    /// The pipeline and the planned job of an attempt.
    pub(super) fn context(&self, job: JobId) -> Option<(&Active, &PlannedJob, &Job)> {
        let job = self.jobs.get(&job)?;
        let active = self.pipelines.get(&job.pipeline)?;
        Some((active, active.record.planned(job), job))
    }

    /// Takes a job from its state to the next; the only way a state changes.
    pub(super) fn apply(&mut self, id: JobId, event: &Event) -> Result<(), Refused> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Err(Refused::WrongState(slipway_spec::view::Status::Skipped));
        };
        let next = job.state.apply(event)?;
        if next == job.state {
            return Ok(());
        }
        let before = std::mem::replace(&mut job.state, next.clone());
        let pipeline = job.pipeline;
        if let Event::Renewed { .. } = event {
            // Not written: after a restart every lease gets a full term anyway.
            return Ok(());
        }
        self.writes.push(Write::Event { at: self.now, pipeline, job: Some(id), what: json!(event) });
        self.touch(id);
        self.enter(id, &before, &next);
        if let State::Over(end) = &next {
            self.ended(id, &before, &end.how);
        }
        Ok(())
    }

    /// A job, and what is seen of it, is to be written.
    pub(super) fn touch(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get(&id) {
            self.dirty_jobs.insert(id);
            self.unsettled.insert(job.pipeline);
            self.changed.insert(job.pipeline);
        }
    }

    /// Lines, timers, nodes and groups follow the state.
    fn enter(&mut self, id: JobId, before: &State, after: &State) {
        let Some((active, planned, job)) = self.context(id) else { return };
        let project = active.record.project;
        let priority = active.record.origin.priority;
        let group = planned.resource_group.clone().map(|g| (project, g));
        let remote = active.record.upstream.as_ref().map(|t| t.remote.clone());
        let pipeline = job.pipeline;
        if let Some(remote) = &remote {
            self.remotes.insert(remote.clone(), id);
        }
        match after {
            State::Pending { since, .. } => self.queue.push(project, id, priority, *since),
            State::Leased(_) => self.queue.serve(id),
            _ => drop(self.queue.remove(id)),
        }
        if let Some(deadline) = after.deadline() {
            self.timers.insert((deadline, id));
        }
        if before.lease().map(|l| l.fence) != after.lease().map(|l| l.fence) {
            self.lease_changed(id, before, after, remote);
        }
        if let Some(key) = group {
            let group = self.groups.entry(key).or_default();
            if let State::WaitingForResource { since } = after {
                group.waiting.insert((*since, id));
            } else {
                group.waiting.retain(|(_, job)| *job != id);
            }
            if after.holds_resource() {
                group.holder = Some(id);
            } else if group.holder == Some(id) {
                group.holder = None;
                self.unsettled.insert(pipeline);
            }
        }
    }

    fn lease_changed(&mut self, id: JobId, before: &State, after: &State, remote: Option<RemoteJob>) {
        if let Some(lease) = before.lease() {
            if let Some(node) = self.nodes.get_mut(&lease.node) {
                node.held.remove(&id);
            }
            let (live, traces) = (self.live.clone(), self.traces.clone());
            self.effects.push(Box::new(move || {
                live.drop(id);
                traces.revoke(id);
            }));
        }
        if let Some(lease) = after.lease() {
            let now = self.now;
            self.nodes.entry(lease.node.clone()).or_insert_with(|| Node::absent(now)).held.insert(id);
            let readable = self.spec(id).map(|s| crate::compose::readable(&s)).unwrap_or_default();
            let held = super::live::Held { fence: lease.fence, node: lease.node.clone(), readable, remote };
            let live = self.live.clone();
            self.effects.push(Box::new(move || live.set(id, held)));
        }
    }

    /// What a runner gets of a job.
    pub(super) fn spec(&self, id: JobId) -> Option<slipway_spec::job::JobSpec> {
        let (active, _, job) = self.context(id)?;
        let current: Vec<&Job> = active.current.iter().filter_map(|j| self.jobs.get(j)).collect();
        Some(crate::compose::spec(&self.config, &active.record, job, &current))
    }

    /// How a job counts for placement.
    pub(super) fn ask(&self, id: JobId) -> Option<placement::Ask> {
        let (active, planned, job) = self.context(id)?;
        if !matches!(job.state, State::Pending { .. }) {
            return None;
        }
        let record = &active.record;
        let (tags, architecture, services) = match &record.upstream {
            Some(taken) => (&taken.selector.tags, taken.selector.architecture.clone(), &taken.spec.services),
            None => (&planned.tags, None, &planned.services),
        };
        Some(placement::Ask {
            project: record.project,
            project_path: record.origin.project_path.clone(),
            job: planned.name.clone(),
            tier: record.origin.tier,
            tags: tags.clone(),
            architecture,
            engine: services.iter().any(crate::compose::is_engine),
            expected_seconds: self.durations.get(&(record.project, planned.name.clone())).copied().unwrap_or(0.0),
            since: self.passed_over.get(&id).copied().unwrap_or(self.now),
        })
    }

    /// The number of a project, minted when it is new.
    pub(super) fn project(&mut self, upstream: &str, key: &str, path: &str) -> ProjectId {
        let known = self.projects.get(&(upstream.to_owned(), key.to_owned()));
        if let Some(row) = known.filter(|r| r.path == path) {
            return row.id;
        }
        let (id, iid) = match known {
            Some(row) => (row.id, row.iid),
            None => {
                self.last.project += 1;
                self.writes.push(Write::Counter("project", self.last.project));
                (ProjectId(self.last.project), 0)
            }
        };
        let row = read::ProjectRow { id, upstream: upstream.into(), key: key.into(), path: path.into(), iid };
        self.write_project(&row);
        self.projects.insert((upstream.to_owned(), key.to_owned()), row);
        id
    }

    fn write_project(&mut self, row: &read::ProjectRow) {
        self.writes.push(Write::Project {
            id: row.id,
            upstream: row.upstream.clone(),
            key: row.key.clone(),
            path: row.path.clone(),
            iid: row.iid,
        });
    }

    /// The next number of a pipeline within its project.
    pub(super) fn next_iid(&mut self, upstream: &str, key: &str) -> u64 {
        let Some(row) = self.projects.get_mut(&(upstream.to_owned(), key.to_owned())) else { return 1 };
        row.iid += 1;
        let row = row.clone();
        self.write_project(&row);
        row.iid
    }

    /// Something that can still change by itself, or by a node: it stays in memory and is loaded at the next start.
    pub(super) fn is_active(&self, active: &Active) -> bool {
        active.attempts.iter().filter_map(|j| self.jobs.get(j)).any(|job| match &job.state {
            State::Over(_) | State::Manual { .. } => false,
            State::Created
            | State::Scheduled { .. }
            | State::WaitingForResource { .. }
            | State::Pending { .. }
            | State::Leased(_)
            | State::Started { .. }
            | State::Canceling { .. }
            | State::Bridge { .. } => true,
        })
    }

    /// A pipeline in which nothing can change by itself leaves the memory; it is read again when somebody asks.
    pub(super) fn forget(&mut self, id: PipelineId) {
        let Some(active) = self.pipelines.remove(&id) else { return };
        if let Some(taken) = &active.record.upstream {
            self.remotes.remove(&taken.remote);
        }
        for job in active.attempts {
            self.jobs.remove(&job);
        }
    }

    /// The word for the metrics page.
    pub(super) fn word(how: &How) -> &'static str {
        match how {
            How::Success => "success",
            How::Failed { .. } => "failed",
            How::Canceled => "canceled",
            How::Skipped => "skipped",
        }
    }
}
