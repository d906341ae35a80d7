//! Nodes: their sessions, what they report, and who gets which job.

use super::command::{SessionId, ToNode};
use super::world::{Errand, Node, World};
use crate::decide::job::{Event, Refused, State};
use crate::decide::placement::{self, Placement, place};
use jiff::{SignedDuration, Timestamp};
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::pressure::Pressure;
use slipway_spec::view::{GenerationView, NodeView};
use slipway_wire::v1;
use std::collections::{BTreeSet, HashSet};

/// Generations a node may report; more are dropped.
const MAX_GENERATIONS: usize = 10_000;
/// Bytes of a node's word about itself.
const MAX_TEXT: usize = 500;

fn short(text: &str) -> String {
    crate::text::cut(text, MAX_TEXT).to_owned()
}

impl World {
    fn lease_until(&self) -> Timestamp {
        let ttl = SignedDuration::try_from(self.config.lease_ttl).unwrap_or(SignedDuration::from_mins(3));
        self.now.checked_add(ttl).unwrap_or(self.now)
    }

    /// A node's session begins; an older one of the same name ends.
    pub(super) fn connect(&mut self, hello: v1::NodeHello, to_node: ToNode) -> SessionId {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let name = hello.node;
        let now = self.now;
        let node = self.nodes.entry(name.clone()).or_insert_with(|| Node::absent(now));
        if let Some((_, older)) = node.session.replace((session, to_node)) {
            let _gone =
                older.try_send(Err(tonic::Status::aborted(format!("a newer session of node {name} took its place"))));
        }
        node.build = hello.hello.map(|h| short(&h.build)).unwrap_or_default();
        node.architecture = short(&hello.architecture);
        node.tags = hello.tags.iter().map(|t| short(t)).collect();
        node.trust_domain = hello.trust_domain;
        node.capacity = hello.capacity.min(10_000);
        node.wall = short(&hello.wall);
        node.reported = None;
        node.resting = false;
        node.refuses_builds = None;
        node.seen_at = now;
        let held: Vec<JobId> = node.held.iter().copied().collect();
        let named: HashSet<JobId> = hello.running.iter().map(|l| JobId(l.job)).collect();
        tracing::info!(node = %name, running = named.len(), "a node has connected");
        self.renew(&name, &hello.running);
        // What it was offered and does not name was never taken: back to the line. What had started is waited for
        // until its lease ends: the runner may yet deliver its end.
        for job in held.into_iter().filter(|j| !named.contains(j)) {
            if matches!(self.jobs.get(&job).map(|j| &j.state), Some(State::Leased(_))) {
                let _holds = self.apply(job, &Event::Expired { at: now, lost: true });
            }
        }
        session
    }

    /// A session ends; its leases hold on.
    pub(super) fn disconnect(&mut self, session: SessionId) {
        for (name, node) in &mut self.nodes {
            if node.session.as_ref().is_some_and(|(s, _)| *s == session) {
                node.session = None;
                tracing::info!(node = %name, "a node has disconnected");
            }
        }
    }

    fn node_of(&self, session: SessionId) -> Option<String> {
        let found = self.nodes.iter().find(|(_, n)| n.session.as_ref().is_some_and(|(s, _)| *s == session));
        found.map(|(name, _)| name.clone())
    }

    /// A message of a node.
    pub(super) fn heard(&mut self, session: SessionId, message: v1::from_runner::Message) {
        // A session that another took the place of has nothing to say.
        let Some(name) = self.node_of(session) else { return };
        match message {
            v1::from_runner::Message::Hello(_) => self.end_session(&name, "a second Hello in one session"),
            v1::from_runner::Message::Report(report) => self.report(&name, report),
            v1::from_runner::Message::Progress(progress) => self.progress(&name, progress),
            v1::from_runner::Message::OfferReply(reply) => self.offer_reply(&name, reply),
        }
    }

    fn end_session(&mut self, name: &str, why: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if let Some((_, to_node)) = node.session.take() {
            let _gone = to_node.try_send(Err(tonic::Status::invalid_argument(why)));
        }
    }

    fn report(&mut self, name: &str, report: v1::NodeReport) {
        let settings = self.config.placement;
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else { return };
        let elapsed = now.duration_since(node.seen_at).as_secs_f64();
        node.seen_at = now;
        node.resting = false;
        if let Ok(pressure) = serde_json::from_slice::<Pressure>(&report.pressure_json) {
            node.overloaded = placement::overloaded(node.overloaded, &pressure, &settings);
            node.strain = placement::strain(node.strain, &pressure, elapsed);
            node.pressure = pressure;
        }
        if !report.generations_json.is_empty()
            && let Ok(mut generations) = serde_json::from_slice::<Vec<GenerationView>>(&report.generations_json)
        {
            generations.truncate(MAX_GENERATIONS);
            node.generations = generations.into();
        }
        node.refuses_builds = (!report.refuses_builds.is_empty()).then(|| short(&report.refuses_builds));
        node.cache_bytes = report.cache_bytes;
        let known: BTreeSet<JobId> = report.leases.iter().map(|l| JobId(l.job)).collect();
        node.reported = Some((report.free, known));
        let renewed = self.renew(name, &report.leases);
        if !report.leases.is_empty() {
            let message = v1::to_runner::Message::Renewed(v1::Renewed { leases: renewed });
            self.send(name, message);
        }
    }

    /// Renews what holds, and ends what does not. Returns what holds.
    fn renew(&mut self, name: &str, leases: &[v1::Lease]) -> Vec<v1::Lease> {
        let until = self.lease_until();
        let mut holding = Vec::with_capacity(leases.len());
        for lease in leases {
            let (job, fence) = (JobId(lease.job), Fence(lease.fence));
            let theirs = self.jobs.get(&job).and_then(|j| j.state.lease()).is_some_and(|l| l.node == name);
            if !theirs || self.apply(job, &Event::Renewed { fence, until }).is_err() {
                if self.let_go.get(&job) == Some(&fence) {
                    // Its end and this report crossed: the node knows.
                    continue;
                }
                self.send_cancel(name, job, fence, "lease_lost");
                continue;
            }
            if lease.started {
                self.script_started(job, fence);
            }
            // The word to end it may have been lost with the session before.
            if let Some(State::Canceling { force, .. }) = self.jobs.get(&job).map(|j| &j.state) {
                let how = if *force { "canceled" } else { "canceling" };
                self.send_cancel(name, job, fence, how);
            }
            // The runner starts a script when this says that the start is on disk.
            let started = self.jobs.get(&job).is_some_and(|j| j.state.script_started());
            holding.push(v1::Lease { started, ..*lease });
        }
        holding
    }

    /// From here on the lease is the last one: what it writes may be told to a GitLab server, which takes no byte back.
    fn script_started(&mut self, job: JobId, fence: Fence) {
        let before = self.jobs.get(&job).is_some_and(|j| j.state.script_started());
        if before || self.apply(job, &Event::Started { fence, at: self.now }).is_err() {
            return;
        }
        let remote =
            self.context(job).and_then(|(active, ..)| active.record.upstream.as_ref().map(|t| t.remote.clone()));
        if let Some(remote) = remote {
            self.errands.push(Errand::FollowTrace(remote, job));
        }
    }

    fn progress(&mut self, name: &str, progress: v1::JobProgress) {
        let (job, fence) = (JobId(progress.job), Fence(progress.fence));
        let theirs = self.jobs.get(&job).and_then(|j| j.state.lease());
        if !theirs.is_some_and(|l| l.node == name && l.fence == fence) {
            return self.send_cancel(name, job, fence, "lease_lost");
        }
        match progress.what {
            Some(v1::job_progress::What::Phase(phase)) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.note = short(&phase);
                }
                self.touch(job);
            }
            Some(v1::job_progress::What::Started(_)) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.note.clear();
                }
                self.script_started(job, fence);
            }
            None => {}
        }
    }

    fn offer_reply(&mut self, name: &str, reply: v1::OfferReply) {
        let (job, fence) = (JobId(reply.job), Fence(reply.fence));
        let theirs = self.jobs.get(&job).and_then(|j| j.state.lease());
        if !theirs.is_some_and(|l| l.node == name && l.fence == fence) {
            return self.send_cancel(name, job, fence, "lease_lost");
        }
        if reply.refused.is_empty() {
            return;
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.resting = true;
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.note = format!("{name} did not take it: {}", short(&reply.refused));
        }
        if let Err(Refused::StaleFence { .. }) = self.apply(job, &Event::Declined { fence }) {
            self.send_cancel(name, job, fence, "lease_lost");
        }
    }

    pub(super) fn send_cancel(&mut self, node: &str, job: JobId, fence: Fence, how: &str) {
        let cancel = v1::Cancel { job: job.0, fence: fence.0, how: how.to_owned() };
        self.send(node, v1::to_runner::Message::Cancel(cancel));
    }

    /// Sends once the batch is on disk. A node that does not read its messages loses its session: it comes back and
    /// says what it has.
    fn send(&mut self, name: &str, message: v1::to_runner::Message) {
        let Some((_, to_node)) = self.nodes.get(name).and_then(|n| n.session.clone()) else { return };
        let name = name.to_owned();
        self.effects.push(Box::new(move || {
            let full = to_node.try_send(Ok(v1::ToRunner { message: Some(message) }));
            if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) = full {
                tracing::warn!(node = %name, "a node does not read what it is sent");
            }
        }));
    }

    /// The connected nodes as placement sees them.
    fn seen_nodes(&self) -> Vec<placement::Node> {
        self.nodes.iter().filter(|(_, n)| n.session.is_some()).map(|(name, node)| seen(name, node)).collect()
    }

    /// Where a job that waits would go now, or why it goes nowhere.
    pub(super) fn placement(&self, job: JobId) -> Option<String> {
        let ask = self.ask(job)?;
        Some(match place(&ask, &self.seen_nodes(), self.now, &self.config.placement) {
            Placement::On { why, .. } | Placement::Wait { why, .. } => why,
        })
    }

    /// Finds nodes for the jobs that wait.
    pub(super) fn schedule(&mut self) {
        let mut nodes = self.seen_nodes();
        let names: Vec<String> = nodes.iter().map(|n| n.name.clone()).collect();
        let settings = self.config.placement;
        let mut hopeless: HashSet<(u64, Vec<String>, Option<String>, bool)> = HashSet::new();
        let mut chosen: Vec<(JobId, usize, String)> = Vec::new();
        let mut notes: Vec<(JobId, String)> = Vec::new();
        let mut wakes: Vec<Timestamp> = Vec::new();
        let mut passed_over: Vec<JobId> = Vec::new();
        for job in self.queue.in_order() {
            if nodes.iter().all(|n| n.free == 0) && !hopeless.is_empty() {
                break;
            }
            let Some(ask) = self.ask(job) else { continue };
            let kind = (ask.project.0, ask.tags.clone(), ask.architecture.clone(), ask.engine);
            if hopeless.contains(&kind) {
                continue;
            }
            match place(&ask, &nodes, self.now, &settings) {
                Placement::On { node, why } => {
                    nodes[node].held += 1;
                    nodes[node].free = nodes[node].free.saturating_sub(1);
                    chosen.push((job, node, why));
                }
                Placement::Wait { until, why } => {
                    match until {
                        Some(until) => {
                            wakes.push(until);
                            passed_over.push(job);
                        }
                        None => drop(hopeless.insert(kind)),
                    }
                    notes.push((job, why));
                }
            }
        }
        self.wakes.extend(wakes);
        for job in passed_over {
            self.passed_over.entry(job).or_insert(self.now);
        }
        let jobs = &self.jobs;
        self.passed_over.retain(|id, _| jobs.get(id).is_some_and(|job| matches!(job.state, State::Pending { .. })));
        for (job, why) in notes {
            if let Some(job) = self.jobs.get_mut(&job) {
                // Not written by itself: it is told anew after every report.
                job.note = why;
            }
        }
        for (job, node, why) in chosen {
            self.offer(job, &names[node], why);
        }
        self.tell_rooms(&nodes);
    }

    fn offer(&mut self, id: JobId, node: &str, why: String) {
        let event = Event::Offered { node: node.to_owned(), until: self.lease_until(), at: self.now };
        if let Err(refused) = self.apply(id, &event) {
            tracing::error!(job = %id, %refused, "a job in line could not be offered");
            self.queue.remove(id);
            return;
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            job.note.clear();
            job.placed = why;
        }
        let Some(spec) = self.spec(id) else { return };
        let Some(fence) = self.jobs.get(&id).map(|j| j.state.fence()) else { return };
        let traces = self.traces.clone();
        self.effects.push(Box::new(move || {
            if let Err(error) = traces.grant(id, fence, true) {
                tracing::error!(%error, "a trace cannot be begun");
            }
        }));
        let offer = v1::Offer { spec_json: slipway_wire::document::encode(&spec), fence: fence.0, trace_offset: 0 };
        self.send(node, v1::to_runner::Message::Offer(offer));
    }

    /// How many more jobs of a selector could start now: what its upstream asks its server for.
    fn tell_rooms(&mut self, nodes: &[placement::Node]) {
        let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        self.rooms.retain(|(selector, room)| {
            let fits = |n: &&placement::Node| {
                selector.tags.iter().all(|t| n.tags.contains(t))
                    && selector.architecture.as_ref().is_none_or(|a| *a == n.architecture)
            };
            let free: u32 = nodes.iter().filter(fits).map(|n| n.free.min(n.capacity)).sum();
            let now = free.saturating_sub(waiting);
            room.send_if_modified(|before| std::mem::replace(before, now) != now);
            room.receiver_count() > 0
        });
    }

    /// What people see of the nodes.
    pub(super) fn node_views(&self) -> Vec<NodeView> {
        self.nodes
            .iter()
            .map(|(name, node)| NodeView {
                name: name.clone(),
                online: node.session.is_some(),
                version: node.build.clone(),
                architecture: node.architecture.clone(),
                tags: node.tags.clone(),
                capacity: node.capacity,
                jobs: node.held.iter().copied().collect(),
                wall: node.wall.clone(),
                refuses_builds: node.refuses_builds.clone(),
                generations: node.generations.to_vec(),
                cache_bytes: node.cache_bytes,
                pressure: node.pressure.clone(),
                seen_at: node.seen_at,
            })
            .collect()
    }
}

/// A node as placement sees it.
fn seen(name: &str, node: &Node) -> placement::Node {
    placement::Node {
        name: name.to_owned(),
        architecture: node.architecture.clone(),
        tags: node.tags.clone(),
        trust_domain: node.trust_domain.clone(),
        engines: !node.wall.is_empty(),
        capacity: node.capacity,
        held: u32::try_from(node.held.len()).unwrap_or(u32::MAX),
        free: node.free(),
        refuses_builds: node.refuses_builds.clone(),
        overloaded: node.overloaded,
        strain: node.strain,
        tagged_only: false,
        pressure: node.pressure.clone(),
        generations: node.generations.clone(),
    }
}
