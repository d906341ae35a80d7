//! Drives one job: acts on its state, records the next one, comes back.

use super::engine::Engines;
use super::record::{FORMAT, Folder, Record, StepMark};
use super::state::{Event, Failure, Plan, State, Verdict};
use super::variables::{self, Environment};
use super::{Node, Note, Order, What};
use crate::engine::Lent;
use crate::executor::container::Control;
use crate::executor::network::Network;
use crate::executor::output::Output;
use crate::executor::{Labels, services};
use crate::receipt::Meter;
use crate::trace::ship::{self, Shipment};
use crate::trace::{Settings, Trace};
use jiff::Timestamp;
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::job::JobSpec;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::receipt::Receipt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// A job that is running.
pub(crate) struct Driver {
    pub(crate) node: Arc<Node>,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) record: Record,
    pub(crate) folder: Folder,
    pub(crate) labels: Labels,
    pub(crate) plan: Plan,
    pub(crate) environment: Environment,
    pub(crate) trace: Arc<Trace>,
    pub(crate) output: Output,
    pub(crate) control: Option<Control>,
    pub(crate) network: Option<Network>,
    pub(crate) services: Vec<services::Running>,
    pub(crate) engines: Engines,
    pub(crate) meter: Option<Meter>,
    /// The container runs (or waits at its gate).
    pub(crate) up: bool,
    /// A step runs in it.
    pub(crate) running: bool,
    /// The step that runs was begun by an earlier process.
    pub(crate) adopted: bool,
    pub(crate) shipping: Shipping,
    orders: watch::Receiver<Order>,
    seen: Order,
    /// When the job, and its step, began. The record has it by the wall clock, which may be set at any time: only a
    /// runner that adopts a job goes by that.
    begun: Instant,
    step_begun: Instant,
    notes: mpsc::Sender<Note>,
    /// Why its variables cannot be used: the job's own fault.
    pub(crate) fault: Option<Failure>,
}

/// The trace's way to the scheduler.
pub(crate) struct Shipping {
    pub(crate) held: watch::Receiver<u64>,
    pub(crate) close: watch::Sender<bool>,
    _task: AbortOnDropHandle<ship::Ended>,
}

impl Shipping {
    fn begin(
        node: &Node,
        spec: &JobSpec,
        fence: Fence,
        folder: &Folder,
        trace: &Trace,
        notes: &mpsc::Sender<Note>,
    ) -> Shipping {
        // From the start: what the scheduler holds already it says in its first answer.
        let (held_now, held) = watch::channel(0);
        let (close, closed) = watch::channel(false);
        let shipment = Shipment { job: spec.id.0, fence: fence.0, path: folder.trace() };
        let shipping = ship::ship(node.client.clone(), shipment, trace.watch(), closed, held_now);
        let (job, tell) = (spec.id, notes.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let ended = shipping.await;
            if ended == ship::Ended::Refused {
                let _ = tell.send(Note { job, what: What::Refused }).await;
            }
            ended
        }));
        Shipping { held, close, _task: task }
    }
}

/// What the agent gives a job.
pub(crate) struct Start {
    pub(crate) node: Arc<Node>,
    pub(crate) spec: JobSpec,
    pub(crate) fence: Fence,
    pub(crate) slot: u32,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) notes: mpsc::Sender<Note>,
}

impl Driver {
    /// A job that was offered and taken.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub(crate) fn take(start: Start) -> io::Result<Driver> {
        let folder = Folder::of(&start.node.config.cache_root, start.spec.id);
        folder.create()?;
        let mut nonce = [0_u8; 8];
        getrandom::fill(&mut nonce).map_err(|e| io::Error::other(e.to_string()))?;
        let nonce = nonce.iter().map(|b| format!("{b:02x}")).collect();
        let record = Record {
            format: FORMAT,
            fence: start.fence,
            state: State::Preparing,
            nonce,
            taken_at: Timestamp::now(),
            container: None,
            image: String::new(),
            sources: None,
            engines: 0,
            dotenv: Vec::new(),
            tests: None,
            step: None,
            receipt: Receipt::default(),
        };
        Driver::build(start, folder, record)
    }

    /// A job that an earlier process of this runner had begun.
    ///
    /// # Errors
    /// When its spool cannot be opened.
    pub(crate) fn adopt(start: Start, record: Record, engines: Vec<Lent>) -> io::Result<Driver> {
        let folder = Folder::of(&start.node.config.cache_root, start.spec.id);
        let mut driver = Driver::build(start, folder, record)?;
        driver.adopted = true;
        driver.engines.lent = engines;
        driver.resume();
        Ok(driver)
    }

    fn build(start: Start, folder: Folder, record: Record) -> io::Result<Driver> {
        let Start { node, spec, fence, slot, orders, notes } = start;
        let (environment, fault) = match Environment::of(&spec, &node.config, slot) {
            Ok(environment) => (environment, None),
            Err(e) => (Environment::default(), Some(Failure::script(e.to_string()))),
        };
        let secrets = variables::secrets(&spec, &environment);
        let hidden = [secrets.clone(), variables::passwords(&spec)].concat();
        let settings = Settings {
            secrets: &hidden,
            prefixes: &spec.token_mask_prefixes,
            sections: spec.trace_sections,
            timestamps: node.config.trace_timestamps || environment.flag("FF_TIMESTAMPS"),
        };
        let trace = Arc::new(Trace::open(&folder.trace(), &settings)?);
        let output = Output::new(&record.nonce, &secrets, &spec.token_mask_prefixes, node.config.output_limit_bytes);
        let shipping = Shipping::begin(&node, &spec, fence, &folder, &trace, &notes);
        let begun = ago(since(record.taken_at));
        let step_begun = ago(record.step.map_or(Duration::ZERO, |s| since(s.at)));
        Ok(Driver {
            labels: Labels::new(node.config.mark(), spec.id.0),
            plan: Plan::of(&spec),
            node,
            spec: Arc::new(spec),
            record,
            folder,
            environment,
            trace,
            output,
            control: None,
            network: None,
            services: Vec::new(),
            engines: Engines::default(),
            meter: None,
            up: false,
            running: false,
            adopted: false,
            shipping,
            orders,
            seen: Order::Run,
            begun,
            step_begun,
            notes,
            fault,
        })
    }

    /// How long the step has been running.
    pub(crate) fn step_time(&self) -> Duration {
        self.step_begun.elapsed()
    }

    /// Sends the whole trace again: the scheduler holds less than it said.
    pub(crate) fn ship_again(&mut self) {
        let (node, trace, notes) = (&self.node, &self.trace, &self.notes);
        self.shipping = Shipping::begin(node, &self.spec, self.record.fence, &self.folder, trace, notes);
    }

    /// The job.
    pub(crate) fn id(&self) -> JobId {
        self.spec.id
    }

    /// Drives the job until everything of it is removed.
    pub(crate) async fn drive(mut self) {
        let mut state = self.record.state.clone();
        if !self.adopted {
            self.header();
        }
        while !matches!(state, State::Over | State::Abandoned) {
            self.tell(What::Phase(state.word())).await;
            let event = self.perform(&state).await;
            tracing::debug!(job = %self.id(), state = state.word(), ?event, "job");
            let next = match state.apply(&self.plan, event) {
                Ok(next) => next,
                Err(refused) => {
                    tracing::error!(job = %self.id(), error = %refused, "job");
                    let outcome = Outcome::Failed {
                        reason: FailureReason::RunnerSystemFailure,
                        exit_code: None,
                        message: refused.to_string(),
                    };
                    State::Finishing { outcome }
                }
            };
            self.leave(&state, &next).await;
            if let Err(e) = self.enter(&next).await {
                tracing::error!(job = %self.id(), error = %e, "cannot record a job's phase");
            }
            self.adopted = false;
            state = next;
        }
        // A job whose script has not begun is given back rather than left to wait for its lease's end.
        let given_back = !self.record.state.started() && self.seen == Order::Interrupt;
        self.tell(if given_back { What::GivenBack } else { What::Finished }).await;
        self.clean(&state).await;
    }

    /// Acts on a state; what comes from outside wins over what is being done.
    async fn perform(&mut self, state: &State) -> Event {
        let interrupt = self.interrupt(state);
        tokio::pin!(interrupt);
        let act = async {
            match state {
                State::Preparing => super::prepare::run(self).await,
                State::Script { step, .. } => super::steps::script(self, *step).await,
                State::AfterScript { verdict } => super::steps::after_script(self, verdict).await,
                State::Collecting { verdict } => super::collect::run(self, verdict).await,
                State::Finishing { outcome } => super::finish::deliver(self, outcome).await,
                State::Over | State::Abandoned => Event::LeaseLost,
            }
        };
        let (event, order) = tokio::select! {
            biased;
            (event, order) = &mut interrupt => (event, Some(order)),
            event = act => (event, None),
        };
        if let Some(order) = order {
            self.seen = order;
        }
        event
    }

    /// The next thing that comes from outside: an order that was not seen yet, or the job's deadline.
    fn interrupt(&self, state: &State) -> impl Future<Output = (Event, Order)> + use<> {
        let mut orders = self.orders.clone();
        let seen = match state {
            // Its outcome is decided: only the end of its lease matters.
            State::Finishing { .. } => Order::Canceled,
            // What a cancelled job's after script is there for is under way.
            State::AfterScript { .. } => self.seen.max(Order::Canceling),
            State::Preparing | State::Script { .. } | State::Collecting { .. } | State::Over | State::Abandoned => {
                self.seen
            }
        };
        let timed = !matches!(state, State::Finishing { .. });
        let timeout = Duration::from_secs(self.spec.timeout_seconds.max(1));
        let deadline = self.begun + timeout;
        let failure = Failure {
            reason: FailureReason::JobExecutionTimeout,
            exit_code: None,
            message: format!("execution took longer than {} seconds", go_duration(timeout)),
        };
        async move {
            let order = async {
                match orders.wait_for(|order| *order > seen).await.map(|order| *order) {
                    Ok(order) => order,
                    // The agent is gone: so is this task, soon.
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = order => {
                    let event = match order {
                        Order::Run | Order::Canceling => Event::Canceling,
                        Order::Interrupt => Event::Interrupted,
                        Order::Canceled => Event::Canceled,
                        Order::LeaseLost => Event::LeaseLost,
                    };
                    (event, order)
                }
                () = tokio::time::sleep_until(deadline), if timed => (Event::TimedOut(failure), seen),
            }
        }
    }

    /// Leaves a state: a script that did not end by itself is ended.
    async fn leave(&mut self, state: &State, next: &State) {
        match state {
            State::Script { .. } | State::AfterScript { .. } => {
                let gently = matches!(next, State::AfterScript { .. });
                super::steps::stop(self, gently).await;
                self.trace.section_end(now());
                let failed =
                    matches!(next, State::Collecting { verdict: Verdict::Failed(_) } | State::Finishing { .. });
                if failed {
                    super::steps::tell_services(self).await;
                }
            }
            State::Preparing | State::Collecting { .. } => self.trace.sections_end(now()),
            State::Finishing { .. } | State::Over | State::Abandoned => {}
        }
    }

    /// Enters a state: what the next process must know is on disk before anything of it is done.
    async fn enter(&mut self, next: &State) -> io::Result<()> {
        match next {
            State::Script { .. } => self.begin_step("step_script", "Executing \"step_script\" stage of the job script"),
            State::AfterScript { .. } if self.plan.after(&self.spec).is_some() => {
                self.begin_step("after_script", "Running after_script");
            }
            State::Finishing { outcome } => super::finish::conclude(self, outcome),
            State::Preparing
            | State::AfterScript { .. }
            | State::Collecting { .. }
            | State::Over
            | State::Abandoned => {}
        }
        if matches!(next, State::Over | State::Abandoned) {
            return Ok(());
        }
        self.record.state = next.clone();
        self.save().await
    }

    fn begin_step(&mut self, section: &str, title: &str) {
        self.trace.section(section, title, now());
        let number = self.record.step.map_or(1, |s| s.number + 1);
        self.step_begun = Instant::now();
        self.record.step = Some(StepMark {
            number,
            raw: self.output.taken(),
            trace: self.trace.length(),
            room: self.output.room(),
            at: Timestamp::now(),
        });
    }

    /// Takes up what the record says of the step that runs.
    fn resume(&mut self) {
        let Some(mark) = self.record.step else { return };
        let written = self.trace.output_since(mark.trace).unwrap_or_default();
        let section = match &self.record.state {
            State::Script { .. } => Some("step_script"),
            State::AfterScript { .. } => Some("after_script"),
            State::Preparing | State::Collecting { .. } | State::Finishing { .. } | State::Over | State::Abandoned => {
                None
            }
        };
        if let Some(section) = section {
            self.output.resume(mark.raw, mark.room, written);
            self.trace.reopen_section(section);
            self.up = true;
            self.running = true;
        }
    }

    /// Writes the record, synced.
    pub(crate) async fn save(&self) -> io::Result<()> {
        let (folder, record) = (self.folder.clone(), self.record.clone());
        tokio::task::spawn_blocking(move || folder.save(&record)).await.map_err(io::Error::other)?
    }

    pub(crate) async fn tell(&self, what: What) {
        let _ = self.notes.send(Note { job: self.spec.id, what }).await;
    }

    fn header(&self) {
        self.trace.say(&format!("Running with slipway {} on {}", env!("CARGO_PKG_VERSION"), self.node.name));
    }

    /// Removes everything of the job.
    async fn clean(mut self, state: &State) {
        let outcome = match (state, &self.record.state) {
            (State::Over, State::Finishing { outcome }) => Some(outcome.clone()),
            _ => None,
        };
        if let Some(container) = self.record.container.take() {
            crate::executor::remove_container(&self.node.docker, &container).await;
        }
        super::engine::give_back(&mut self, outcome.as_ref()).await;
        self.labels.remove(&self.node.docker).await;
        let (folder, caches) = (self.folder.clone(), self.node.caches.clone());
        // The folder of a job that wrote many files takes a while: not on a thread that serves others.
        let removed = tokio::task::spawn_blocking(move || {
            let removed = folder.remove();
            caches.replenish();
            removed
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(job = %self.spec.id, error = %e, "cannot remove a job's folder"),
            Err(e) => tracing::warn!(job = %self.spec.id, error = %e, "cannot remove a job's folder"),
        }
    }
}

/// Seconds of the epoch, for section markers.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// The instant so long before now.
fn ago(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(time).unwrap_or(now)
}

/// How long ago that was, by the wall clock; a clock that went back counts as no time.
fn since(then: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(then)).unwrap_or(Duration::ZERO)
}

/// Go's form of a duration: `1h0m0s`.
fn go_duration(d: Duration) -> String {
    let s = d.as_secs();
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}
