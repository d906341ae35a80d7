//! The one task that decides: commands come in, pure code decides, a batch goes to disk, and only then effects go out.
//!
//! While a batch is written, commands wait in a bounded channel; they make the next batch. A store that fails ends the
//! driver: what it has decided and not written must not be told to anybody, and the next start goes on from disk.

mod command;
mod live;
mod nodes;
mod people;
mod settle;
mod world;

pub use command::{Counts, Denied, Finish, NewPipeline, SessionId, Target, ToNode};
pub use live::{Held, Live};
pub use world::{Errand, Told};

pub(crate) use command::Command;
pub(crate) use world::Clock;

use crate::config::Config;
use crate::decide::job::{Event, State};
use crate::record::{Artifact, Parent};
use crate::store::{Store, StoreError, Write, read};
use crate::traces::Traces;
use crate::upstream::{Cancel as RemoteCancel, RemoteJob, Selector, UpstreamJob};
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::variable::Variable;
use slipway_spec::view::NodeView;
use slipway_wire::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use world::World;

/// Commands that may wait.
const WAITING_COMMANDS: usize = 4096;
/// Commands decided in one batch.
const BATCH: usize = 1024;
/// Changes a watcher may be behind before it reads anew.
const WAITING_CHANGES: usize = 4096;

/// What ended the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It runs.
    No,
    /// It was asked to.
    Stopped,
    /// The store failed.
    Failed(String),
}

/// The driver, as others see it.
#[derive(Clone)]
pub struct Driver {
    commands: mpsc::Sender<Command>,
    changes: broadcast::Sender<PipelineId>,
    ended: watch::Receiver<Ended>,
    /// The leases that hold.
    pub live: Live,
}

/// Work for other tasks, in order.
pub type Errands = mpsc::UnboundedReceiver<Errand>;

impl Driver {
    /// Loads what the store holds and starts the task.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn start(config: Arc<Config>, store: Store, traces: Traces) -> Result<(Driver, Errands), StoreError> {
        let (commands, waiting) = mpsc::channel(WAITING_COMMANDS);
        let (changes, _) = broadcast::channel(WAITING_CHANGES);
        let (tell_end, ended) = watch::channel(Ended::No);
        // Unbounded: at most one errand a job and a change of its state; the jobs themselves are bounded by the store.
        let (errand, errands) = mpsc::unbounded_channel();
        let live = Live::default();
        let clock = Clock::start();
        let mut world = World::load(config, &store, traces, live.clone(), clock.now())?;
        // What was loaded is on disk: its leases hold before the first call comes in.
        for effect in std::mem::take(&mut world.effects) {
            effect();
        }
        let task = Task {
            world,
            store,
            clock,
            commands: waiting,
            changes: changes.clone(),
            errand,
            counted: Counts::default(),
        };
        tokio::spawn(async move {
            let end = match task.run().await {
                Ok(()) => Ended::Stopped,
                Err(error) => {
                    tracing::error!(%error, "the scheduler stops: it cannot write what it decides");
                    Ended::Failed(error.to_string())
                }
            };
            let _nobody = tell_end.send(end);
        });
        Ok((Driver { commands, changes, ended, live }, errands))
    }

    async fn ask<T>(&self, make: impl FnOnce(command::Reply<T>) -> Command) -> Result<T, Denied> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| Denied::Stopped)?;
        answer.await.map_err(|_| Denied::Stopped)?
    }

    async fn get<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Denied> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| Denied::Stopped)?;
        answer.await.map_err(|_| Denied::Stopped)
    }

    /// Accepts a compiled pipeline; it is on disk when this returns.
    ///
    /// # Errors
    /// When it has no jobs, its trigger job does not wait for it, or the scheduler stops.
    pub async fn create(&self, new: NewPipeline) -> Result<PipelineId, Denied> {
        self.ask(|reply| Command::Create { new: Box::new(new), reply }).await
    }

    /// Accepts a job of a GitLab server; it is on disk when this returns.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn accept(&self, job: UpstreamJob) -> Result<JobId, Denied> {
        self.ask(|reply| Command::Accept { job: Box::new(job), reply }).await
    }

    /// Ends a job of a GitLab server.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn cancel_remote(&self, job: RemoteJob, how: RemoteCancel) -> Result<(), Denied> {
        self.ask(|reply| Command::CancelRemote { job, how, reply }).await
    }

    /// How many more jobs of a selector could start now.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn room(&self, selector: Selector) -> Result<watch::Receiver<u32>, Denied> {
        self.get(|reply| Command::Room { selector, reply }).await
    }

    /// The number of one of our own projects, minted when it is new.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn project_number(&self, key: &str, path: &str) -> Result<ProjectId, Denied> {
        self.ask(|reply| Command::ProjectNumber { key: key.to_owned(), path: path.to_owned(), reply }).await
    }

    pub(crate) async fn connect(&self, hello: v1::NodeHello, to_node: ToNode) -> Result<SessionId, Denied> {
        self.get(|reply| Command::Connect { hello: Box::new(hello), to_node, reply }).await
    }

    pub(crate) async fn heard(&self, session: SessionId, message: v1::from_runner::Message) -> Result<(), Denied> {
        self.commands.send(Command::FromNode { session, message }).await.map_err(|_| Denied::Stopped)
    }

    pub(crate) async fn disconnect(&self, session: SessionId) {
        let _stopped = self.commands.send(Command::Disconnect { session }).await;
    }

    pub(crate) async fn finish(&self, finish: Finish) -> Result<(), Denied> {
        self.ask(|reply| Command::Finish { finish: Box::new(finish), reply }).await
    }

    pub(crate) async fn keep(&self, job: JobId, fence: Fence, artifact: Artifact) -> Result<Option<String>, Denied> {
        self.ask(|reply| Command::Keep { job, fence, artifact: Box::new(artifact), reply }).await
    }

    pub(crate) async fn expire(&self, job: JobId, file: String) -> Result<(), Denied> {
        self.ask(|reply| Command::Expire { job, file, reply }).await
    }

    /// Ends a job or a pipeline.
    ///
    /// # Errors
    /// When it is unknown or over.
    pub async fn cancel(&self, target: Target, force: bool, who: String) -> Result<(), Denied> {
        self.ask(|reply| Command::Cancel { target, force, who, reply }).await
    }

    /// Runs a job, or a pipeline's failed jobs, again. Returns the first new job.
    ///
    /// # Errors
    /// When there is nothing to run again.
    pub async fn retry(&self, target: Target, who: String) -> Result<JobId, Denied> {
        self.ask(|reply| Command::Retry { target, who, reply }).await
    }

    /// Starts a manual or delayed job now.
    ///
    /// # Errors
    /// When it waits for neither.
    pub async fn play(&self, job: JobId, who: String, variables: Vec<Variable>) -> Result<JobId, Denied> {
        self.ask(|reply| Command::Play { job, who, variables, reply }).await
    }

    pub(crate) async fn child_failed(&self, parent: Parent, message: String) {
        let _stopped = self.commands.send(Command::ChildFailed { parent, message }).await;
    }

    /// The nodes.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Denied> {
        self.get(|reply| Command::Nodes { reply }).await
    }

    /// In a sentence: why a job waits, or why it ran where it ran.
    ///
    /// # Errors
    /// When it is unknown.
    pub async fn explain(&self, job: JobId) -> Result<String, Denied> {
        self.ask(|reply| Command::Explain { job, reply }).await
    }

    /// Figures for the metrics page.
    ///
    /// # Errors
    /// When the scheduler stops.
    pub async fn counts(&self) -> Result<Counts, Denied> {
        self.get(|reply| Command::Counts { reply }).await
    }

    /// Pipelines that changed, after each commit. One that lags reads anew.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<PipelineId> {
        self.changes.subscribe()
    }

    /// Whether it has ended, and why.
    #[must_use]
    pub fn ended(&self) -> watch::Receiver<Ended> {
        self.ended.clone()
    }

    /// Finishes the batch at hand and ends.
    pub async fn stop(&self) {
        let _stopped = self.get(|reply| Command::Stop { reply }).await;
        let mut ended = self.ended.clone();
        let _gone = ended.wait_for(|e| *e != Ended::No).await;
    }
}

struct Task {
    world: World,
    store: Store,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    changes: broadcast::Sender<PipelineId>,
    errand: mpsc::UnboundedSender<Errand>,
    counted: Counts,
}

impl Task {
    async fn run(mut self) -> Result<(), StoreError> {
        // What a stop interrupted is settled before anything comes in.
        self.world.settle();
        self.commit().await?;
        loop {
            let Some(first) = self.wait().await else { return Ok(()) };
            self.world.now = self.clock.now();
            let mut stop = None;
            let mut next = first;
            let mut handled = 0;
            while let Some(command) = next.take() {
                handled += 1;
                stop = self.handle(command).await?;
                if stop.is_some() || handled >= BATCH {
                    break;
                }
                next = self.commands.try_recv().ok();
            }
            self.counted.commands += handled as u64;
            self.fire();
            self.world.settle();
            self.world.schedule();
            self.world.settle();
            self.commit().await?;
            if let Some(reply) = stop {
                let _gone = reply.send(());
                return Ok(());
            }
        }
    }

    /// A command, or nothing when a moment has come; `None` when nobody can ask any more.
    async fn wait(&mut self) -> Option<Option<Command>> {
        let timer = self.world.timers.first().map(|(at, _)| *at);
        let wake = self.world.wakes.first().copied();
        let deadline = match (timer, wake) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let Some(deadline) = deadline else { return self.commands.recv().await.map(Some) };
        let left = deadline.duration_since(self.clock.now());
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map(Some),
            // A millisecond more: the clock's step must not make this spin.
            () = tokio::time::sleep(left + Duration::from_millis(1)) => Some(None),
        }
    }

    /// Deadlines that have come.
    fn fire(&mut self) {
        let now = self.world.now;
        self.world.wakes = self.world.wakes.split_off(&(now + jiff::SignedDuration::from_nanos(1)));
        while let Some((at, job)) = self.world.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.world.timers.remove(&(at, job));
            let Some(state) = self.world.jobs.get(&job).map(|j| j.state.clone()) else { continue };
            match state.deadline() {
                // Renewed meanwhile.
                Some(later) if later > now => drop(self.world.timers.insert((later, job))),
                Some(_) => self.expired(job, &state),
                None => {}
            }
        }
    }

    fn expired(&mut self, job: JobId, state: &State) {
        let world = &mut self.world;
        let now = world.now;
        let done = if let State::Scheduled { .. } = state {
            world.launch(job)
        } else {
            tracing::warn!(%job, node = state.lease().map(|l| l.node.as_str()).unwrap_or(""), "a lease has ended");
            world.apply(job, &Event::Expired { at: now, lost: false })
        };
        if let Err(refused) = done {
            tracing::error!(%job, %refused, "a deadline did not fit the job's state");
        }
    }

    /// Decides one command. Answers go out when the batch is on disk.
    async fn handle(&mut self, command: Command) -> Result<Option<oneshot::Sender<()>>, StoreError> {
        match command {
            Command::Create { new, reply } => {
                let before = if new.request_id.is_empty() {
                    None
                } else {
                    let key = new.request_id.clone();
                    let known = self.store.read(move |c| read::request(c, &key)).await?;
                    known.or_else(|| self.pending_request(&new.request_id))
                };
                if let Some(parent) = new.parent {
                    self.load(parent.pipeline).await?;
                }
                let answer = match before {
                    Some(id) => Ok(id),
                    None => self.world.create(*new),
                };
                self.answer(reply, answer);
            }
            Command::Accept { job, reply } => {
                let (upstream, remote) = (job.remote.upstream.clone(), job.remote.id);
                let known = self.store.read(move |c| read::remote_job(c, &upstream, remote)).await?;
                let answer = match known {
                    Some(id) => Ok(id),
                    None => self.world.accept(*job),
                };
                self.answer(reply, answer);
            }
            Command::CancelRemote { job, how, reply } => {
                self.world.cancel_remote(&job, how);
                self.answer(reply, Ok(()));
            }
            Command::Room { selector, reply } => {
                let room = watch::Sender::new(0);
                let _gone = reply.send(room.subscribe());
                self.world.rooms.push((selector, room));
            }
            Command::ProjectNumber { key, path, reply } => {
                let answer = Ok(self.world.project("", &key, &path));
                self.answer(reply, answer);
            }
            Command::Connect { hello, to_node, reply } => {
                let session = self.world.connect(*hello, to_node);
                // At once: the Hello goes out before any offer of this batch.
                let _gone = reply.send(session);
            }
            Command::FromNode { session, message } => self.world.heard(session, message),
            Command::Disconnect { session } => self.world.disconnect(session),
            Command::Finish { finish, reply } => {
                let id = finish.job;
                self.load_job(id).await?;
                let what = format!("cannot finish job #{id}");
                let answer = self.world.finish(*finish).map_err(|why| Denied::State { what, why });
                self.answer(reply, answer);
            }
            Command::Keep { job, fence, artifact, reply } => {
                let what = format!("cannot keep an artifact of job #{job}");
                let answer = self.world.keep(job, fence, *artifact).map_err(|why| Denied::State { what, why });
                self.answer(reply, answer);
            }
            Command::Expire { job, file, reply } => {
                self.load_job(job).await?;
                self.world.expire(job, &file);
                self.answer(reply, Ok(()));
            }
            Command::Cancel { target, force, who, reply } => {
                self.load_target(target).await?;
                let answer = self.world.cancel(target, force, &who);
                self.answer(reply, answer);
            }
            Command::Retry { target, who, reply } => {
                self.load_target(target).await?;
                let answer = self.world.retry(target, &who);
                self.answer(reply, answer);
            }
            Command::Play { job, who, variables, reply } => {
                self.load_job(job).await?;
                let answer = self.world.play(job, &who, variables);
                self.answer(reply, answer);
            }
            Command::ChildFailed { parent, message } => {
                self.load(parent.pipeline).await?;
                self.world.child_failed(parent, message);
            }
            Command::Nodes { reply } => drop(reply.send(self.world.node_views())),
            Command::Explain { job, reply } => {
                self.load_job(job).await?;
                let answer = self.world.explain(job);
                self.answer(reply, answer);
            }
            Command::Counts { reply } => drop(reply.send(self.counts())),
            Command::Stop { reply } => return Ok(Some(reply)),
        }
        Ok(None)
    }

    /// The pipeline of a request that came twice within one batch.
    fn pending_request(&self, key: &str) -> Option<PipelineId> {
        self.world.writes.iter().find_map(|write| match write {
            Write::Request { id, pipeline } if id == key => Some(*pipeline),
            _ => None,
        })
    }

    fn counts(&self) -> Counts {
        let world = &self.world;
        Counts {
            waiting: world.queue.len(),
            running: world.nodes.values().map(|n| n.held.len()).sum(),
            pipelines: world.pipelines.len(),
            ended: world.ended.iter().map(|((path, word), n)| (path.clone(), *word, *n)).collect(),
            nodes: world.node_views(),
            ..self.counted.clone()
        }
    }

    fn answer<T: Send + 'static>(&mut self, reply: command::Reply<T>, answer: Result<T, Denied>) {
        self.world.effects.push(Box::new(move || drop(reply.send(answer))));
    }

    async fn load_target(&mut self, target: Target) -> Result<(), StoreError> {
        match target {
            Target::Job(id) => self.load_job(id).await,
            Target::Pipeline(id) => self.load(id).await,
        }
    }

    async fn load_job(&mut self, id: JobId) -> Result<(), StoreError> {
        if self.world.jobs.contains_key(&id) {
            return Ok(());
        }
        match self.store.read(move |c| read::job(c, id)).await? {
            Some(job) => self.load(job.pipeline).await,
            None => Ok(()),
        }
    }

    /// Takes a pipeline that is over into memory, for the batch at least.
    async fn load(&mut self, id: PipelineId) -> Result<(), StoreError> {
        if self.world.pipelines.contains_key(&id) {
            return Ok(());
        }
        let found = self
            .store
            .read(move |c| match read::pipeline(c, id)? {
                Some(pipeline) => Ok(Some((pipeline, read::jobs(c, id)?))),
                None => Ok(None),
            })
            .await?;
        if let Some((pipeline, jobs)) = found {
            self.world.resume(pipeline, jobs, false);
            self.world.changed.insert(id);
        }
        Ok(())
    }

    /// Writes the batch, then lets its effects out.
    async fn commit(&mut self) -> Result<(), StoreError> {
        let world = &mut self.world;
        let mut writes = std::mem::take(&mut world.writes);
        for id in std::mem::take(&mut world.dirty_jobs) {
            if let Some(job) = world.jobs.get(&id) {
                writes.push(Write::Job(Box::new(job.clone())));
            }
        }
        let changed = std::mem::take(&mut world.changed);
        let dirty = std::mem::take(&mut world.dirty_pipelines);
        let mut idle = Vec::new();
        for id in changed.union(&dirty) {
            let Some(active) = world.pipelines.get(id) else { continue };
            let is_active = world.is_active(active);
            if is_active != active.stored || dirty.contains(id) {
                writes.push(Write::Pipeline { pipeline: Box::new(active.record.clone()), active: is_active });
            }
            if !is_active {
                idle.push(*id);
            }
            if let Some(active) = world.pipelines.get_mut(id) {
                active.stored = is_active;
            }
        }
        if !writes.is_empty() {
            self.store.commit(writes).await?;
            self.counted.commits += 1;
        }
        let world = &mut self.world;
        for effect in std::mem::take(&mut world.effects) {
            effect();
        }
        for errand in std::mem::take(&mut world.errands) {
            let _nobody = self.errand.send(errand);
        }
        for id in idle {
            world.forget(id);
        }
        for id in changed {
            let _nobody = self.changes.send(id);
        }
        Ok(())
    }
}
