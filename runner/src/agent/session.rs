//! The agent's one task.

use super::Ending;
use super::leases::Leases;
use crate::job::driver::{Driver, Start};
use crate::job::record::Folder;
use crate::job::{Node, Note, Order, What, variables};
use crate::pressure::{Admission, Limits, Sampler};
use crate::sweep::Adopted;
use futures_util::future::BoxFuture;
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::job::JobSpec;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_wire::document::{decode, encode};
use slipway_wire::v1::{self, FromRunner, ToRunner, from_runner, to_runner};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_stream::wrappers::ReceiverStream;

/// Messages to the scheduler that wait to be sent.
const OUTBOUND: usize = 64;
/// Notes of jobs that wait to be read.
const NOTES: usize = 64;
/// First wait after a broken session, doubled up to [`LONGEST_WAIT`]; each shortened by up to a half, at random, so
/// that the nodes of a restarted scheduler do not come back at once.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long a session may be opened, and, at least, how long one with leases may be silent. A link that was cut breaks
/// no connection by itself.
const SILENCE: Duration = Duration::from_secs(5);
/// Leases of a scheduler that has not said how long they hold.
const TTL: Duration = Duration::from_secs(120);

type Inbound = tonic::Streaming<ToRunner>;

/// The session.
enum Session {
    /// Not before then.
    Waiting(tokio::time::Instant),
    /// The call is being made.
    Opening(BoxFuture<'static, Result<Inbound, tonic::Status>>, mpsc::Sender<FromRunner>),
    /// It stands; `hello` came.
    Open { inbound: Box<Inbound>, outbound: mpsc::Sender<FromRunner>, hello: bool },
}

struct Agent {
    node: Arc<Node>,
    leases: Leases,
    orders: BTreeMap<JobId, watch::Sender<Order>>,
    slots: BTreeMap<JobId, u32>,
    tasks: JoinSet<()>,
    by_task: HashMap<tokio::task::Id, (JobId, Fence)>,
    notes: mpsc::Sender<Note>,
    /// Scripts that start when the scheduler says that it knows.
    starting: BTreeMap<JobId, oneshot::Sender<()>>,
    session: Session,
    /// When the session last said something, or was begun.
    heard_at: Instant,
    wait: Duration,
    ending: Ending,
    sampler: Option<Sampler>,
    admission: Admission,
    holdings: watch::Receiver<(Vec<u8>, u64)>,
    /// This session was not told yet what the layer store holds.
    tell_holdings: bool,
}

/// What woke the agent.
enum Woke {
    Told,
    Note(Note),
    Ended(Result<(tokio::task::Id, ()), JoinError>),
    Retry,
    Opened(Result<Inbound, tonic::Status>),
    Message(Result<Option<ToRunner>, tonic::Status>),
    Tick,
    Patience,
}

/// Runs the node until it is told to end.
pub(crate) async fn run(
    node: Arc<Node>,
    adopted: Vec<Adopted>,
    mut told: watch::Receiver<Ending>,
    _lock: std::fs::File,
) {
    let (notes, mut noted) = mpsc::channel(NOTES);
    let sampler = match Sampler::open(&node.config.cache_root, Instant::now()) {
        Ok(sampler) => Some(sampler),
        Err(e) => {
            tracing::warn!(error = %e, "this node cannot report its pressure");
            None
        }
    };
    let holdings = node.holdings.subscribe();
    let mut agent = Agent {
        holdings,
        tell_holdings: true,
        admission: Admission::default(),
        node,
        leases: Leases::new(TTL),
        orders: BTreeMap::new(),
        slots: BTreeMap::new(),
        tasks: JoinSet::new(),
        by_task: HashMap::new(),
        notes,
        starting: BTreeMap::new(),
        session: Session::Waiting(tokio::time::Instant::now()),
        heard_at: Instant::now(),
        wait: FIRST_WAIT,
        ending: Ending::Run,
        sampler,
    };
    for job in adopted {
        agent.adopt(job);
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut patience: Option<tokio::time::Instant> = None;
    loop {
        let idle = agent.tasks.is_empty();
        match agent.ending {
            Ending::Run => {}
            Ending::Drain | Ending::Stop if idle => return,
            Ending::Drain | Ending::Stop => {}
            Ending::Leave => return,
        }
        let until = patience.unwrap_or_else(tokio::time::Instant::now);
        let woke = tokio::select! {
            changed = told.changed() => match changed {
                Ok(()) => Woke::Told,
                // Nobody holds the handle any more: nobody can tell it to end, so it goes on.
                Err(_) => { std::future::pending::<()>().await; Woke::Told }
            },
            Some(note) = noted.recv() => Woke::Note(note),
            Some(ended) = agent.tasks.join_next_with_id(), if !idle => Woke::Ended(ended),
            woke = turn(&mut agent.session) => woke,
            _ = tick.tick() => Woke::Tick,
            () = tokio::time::sleep_until(until), if patience.is_some() => Woke::Patience,
        };
        match woke {
            Woke::Told => {
                agent.ending = *told.borrow_and_update();
                if agent.ending == Ending::Stop {
                    agent.order_all(Order::Interrupt);
                    let limit = Duration::from_secs(agent.node.config.shutdown_seconds);
                    patience = Some(tokio::time::Instant::now() + limit);
                }
            }
            Woke::Note(note) => agent.note(note).await,
            Woke::Ended(ended) => agent.ended(ended),
            Woke::Retry => agent.open(),
            Woke::Opened(Ok(inbound)) => agent.opened(inbound),
            Woke::Opened(Err(status)) => agent.broke(&status),
            Woke::Message(Ok(Some(message))) => agent.message(message).await,
            Woke::Message(Ok(None)) => agent.broke(&tonic::Status::unavailable("the scheduler ended the session")),
            Woke::Message(Err(status)) => agent.broke(&status),
            Woke::Tick => agent.tick(),
            Woke::Patience => {
                tracing::warn!(jobs = agent.tasks.len(), "jobs did not end in time; a next start removes what is left");
                return;
            }
        }
    }
}

/// The session's next event.
async fn turn(session: &mut Session) -> Woke {
    match session {
        Session::Waiting(until) => {
            tokio::time::sleep_until(*until).await;
            Woke::Retry
        }
        Session::Opening(call, _) => Woke::Opened(call.await),
        Session::Open { inbound, .. } => Woke::Message(inbound.message().await),
    }
}

impl Agent {
    fn open(&mut self) {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let config = &self.node.config;
        let hello = v1::NodeHello {
            hello: Some(v1::Hello {
                protocol: slipway_wire::PROTOCOL,
                build: env!("CARGO_PKG_VERSION").into(),
                features: Vec::new(),
            }),
            node: self.node.name.clone(),
            architecture: variables::architecture().into(),
            tags: config.tags.clone(),
            capacity: config.slots(),
            wall: self.node.wall(),
            running: self.leases.wire(),
            trust_domain: config.trust_domain.clone(),
        };
        let hello = FromRunner { message: Some(from_runner::Message::Hello(hello)) };
        // The channel is empty and has room.
        let _ = outbound.try_send(hello);
        let mut client = self.node.client.clone();
        let call = async move { client.session(ReceiverStream::new(messages)).await.map(tonic::Response::into_inner) };
        self.heard_at = Instant::now();
        self.session = Session::Opening(Box::pin(call), outbound);
    }

    fn opened(&mut self, inbound: Inbound) {
        let before = std::mem::replace(&mut self.session, Session::Waiting(tokio::time::Instant::now()));
        if let Session::Opening(_, outbound) = before {
            self.session = Session::Open { inbound: Box::new(inbound), outbound, hello: false };
        }
    }

    fn broke(&mut self, status: &tonic::Status) {
        let mut random = [0_u8; 1];
        let _ = getrandom::fill(&mut random);
        let wait = self.wait.mul_f64(1.0 - f64::from(random[0]) / 512.0);
        tracing::warn!(code = ?status.code(), message = status.message(), wait_ms = wait.as_millis(),
            "no session with the scheduler; trying again");
        self.session = Session::Waiting(tokio::time::Instant::now() + wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Sends when the session stands. A full channel is a session that does not move: the message is dropped, and a
    /// later report says the same.
    fn send(&self, message: from_runner::Message) -> bool {
        match &self.session {
            Session::Open { outbound, hello: true, .. } => {
                outbound.try_send(FromRunner { message: Some(message) }).is_ok()
            }
            Session::Open { .. } | Session::Opening(..) | Session::Waiting(_) => false,
        }
    }

    async fn message(&mut self, message: ToRunner) {
        self.heard_at = Instant::now();
        match message.message {
            Some(to_runner::Message::Hello(hello)) => self.hello(&hello),
            Some(to_runner::Message::Offer(offer)) => self.offer(offer),
            Some(to_runner::Message::Cancel(cancel)) => self.cancel(&cancel),
            Some(to_runner::Message::Renewed(renewed)) => {
                let now = Instant::now();
                for lease in renewed.leases {
                    let (job, fence) = (JobId(lease.job), Fence(lease.fence));
                    self.leases.renew(job, fence, now);
                    if lease.started && self.leases.fence(job) == Some(fence) {
                        self.heard(job);
                    }
                }
            }
            // A word of a newer scheduler.
            None => {}
        }
    }

    fn hello(&mut self, hello: &v1::SchedulerHello) {
        let protocol = hello.hello.as_ref().map_or(0, |h| h.protocol);
        if protocol + 1 < slipway_wire::PROTOCOL {
            self.broke(&tonic::Status::failed_precondition(format!(
                "the scheduler speaks protocol {protocol}, this build {} and the one before",
                slipway_wire::PROTOCOL
            )));
            return;
        }
        if hello.lease_ttl_seconds > 0 {
            self.leases.set_ttl(Duration::from_secs(u64::from(hello.lease_ttl_seconds)));
        }
        if let Session::Open { hello, .. } = &mut self.session {
            *hello = true;
        }
        self.wait = FIRST_WAIT;
        self.tell_holdings = true;
        self.report();
    }

    fn offer(&mut self, offer: v1::Offer) {
        let spec: JobSpec = match decode(&offer.spec_json) {
            Ok(spec) => spec,
            Err(e) => {
                tracing::error!(error = %e, "cannot read an offer");
                return;
            }
        };
        let (id, fence) = (spec.id, Fence(offer.fence));
        let refused = match self.refusal(id) {
            Some(why) => why,
            None => self.take(spec, fence).err().unwrap_or_default(),
        };
        self.send(from_runner::Message::OfferReply(v1::OfferReply { job: id.0, fence: fence.0, refused }));
    }

    fn refusal(&self, job: JobId) -> Option<String> {
        if self.ending != Ending::Run {
            return Some("the runner is being stopped".into());
        }
        if self.orders.contains_key(&job) {
            return Some("an earlier lease of the job is still being ended here".into());
        }
        let slots = usize::try_from(self.node.config.slots()).unwrap_or(usize::MAX);
        (self.leases.count() >= slots).then(|| format!("all {slots} slots are taken"))
    }

    fn take(&mut self, spec: JobSpec, fence: Fence) -> Result<(), String> {
        let (id, start) = self.start_of(spec, fence);
        let driver = Driver::take(start).map_err(|e| {
            self.forget(id);
            format!("cannot make the job's folder: {e}")
        })?;
        self.leases.take(id, fence, false, Instant::now());
        self.spawn(id, fence, driver);
        Ok(())
    }

    fn adopt(&mut self, job: Adopted) {
        let fence = job.record.fence;
        let started = job.record.state.started();
        let (id, start) = self.start_of(job.spec, fence);
        match Driver::adopt(start, job.record, job.engines) {
            Ok(driver) => {
                self.leases.take(id, fence, started, Instant::now());
                self.spawn(id, fence, driver);
            }
            Err(e) => {
                self.forget(id);
                tracing::error!(job = %id, error = %e, "cannot adopt a job");
            }
        }
    }

    /// The lowest number that no job of this node has (`CI_CONCURRENT_ID`).
    fn free_slot(&self) -> u32 {
        (0..).find(|n| !self.slots.values().any(|taken| taken == n)).unwrap_or(0)
    }

    fn start_of(&mut self, spec: JobSpec, fence: Fence) -> (JobId, Start) {
        let (order, orders) = watch::channel(Order::Run);
        let (id, slot) = (spec.id, self.free_slot());
        self.orders.insert(id, order);
        self.slots.insert(id, slot);
        let (node, notes) = (self.node.clone(), self.notes.clone());
        (id, Start { node, spec, fence, slot, orders, notes })
    }

    fn spawn(&mut self, id: JobId, fence: Fence, driver: Driver) {
        let task = self.tasks.spawn(driver.drive());
        self.by_task.insert(task.id(), (id, fence));
    }

    fn forget(&mut self, id: JobId) {
        self.orders.remove(&id);
        self.slots.remove(&id);
        self.starting.remove(&id);
        self.leases.release(id);
    }

    fn cancel(&mut self, cancel: &v1::Cancel) {
        let id = JobId(cancel.job);
        if self.leases.fence(id) != Some(Fence(cancel.fence)) {
            return;
        }
        let order = match cancel.how.as_str() {
            "canceling" => Order::Canceling,
            "lease_lost" => Order::LeaseLost,
            _ => Order::Canceled,
        };
        self.order(id, order);
    }

    fn order(&self, id: JobId, order: Order) {
        if let Some(sender) = self.orders.get(&id) {
            sender.send_if_modified(|now| {
                let later = order > *now;
                *now = (*now).max(order);
                later
            });
        }
    }

    fn order_all(&self, order: Order) {
        for id in self.orders.keys() {
            self.order(*id, order);
        }
    }

    async fn note(&mut self, note: Note) {
        let id = note.job;
        let Some(fence) = self.leases.fence(id) else { return };
        match note.what {
            What::Phase(phase) => {
                let what = Some(v1::job_progress::What::Phase(phase.into()));
                self.send(from_runner::Message::Progress(v1::JobProgress { job: id.0, fence: fence.0, what }));
            }
            What::Starting(told) => self.start(id, told),
            What::Refused => self.order(id, Order::LeaseLost),
            What::GivenBack | What::Finished => {
                if matches!(note.what, What::GivenBack) {
                    let refused = "the runner is being stopped".to_owned();
                    let reply = v1::OfferReply { job: id.0, fence: fence.0, refused };
                    self.send(from_runner::Message::OfferReply(reply));
                }
                self.leases.release(id);
                self.slots.remove(&id);
            }
        }
    }

    /// A script is about to start. It does when the scheduler says that it knows: only then is it sure that the job is
    /// never queued again. Without a session it waits for one, or for its lease's end.
    fn start(&mut self, id: JobId, told: oneshot::Sender<()>) {
        self.leases.started(id);
        self.starting.insert(id, told);
        if let Some(fence) = self.leases.fence(id) {
            let what = Some(v1::job_progress::What::Started(true));
            self.send(from_runner::Message::Progress(v1::JobProgress { job: id.0, fence: fence.0, what }));
        }
        self.report();
    }

    /// The scheduler renewed a lease as started.
    fn heard(&mut self, id: JobId) {
        if let Some(told) = self.starting.remove(&id) {
            let _ = told.send(());
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), JoinError>) {
        let (task, panicked) = match &ended {
            Ok((task, ())) => (*task, false),
            Err(e) => (e.id(), e.is_panic()),
        };
        let Some((id, fence)) = self.by_task.remove(&task) else { return };
        if panicked {
            tracing::error!(job = %id, "a job's task panicked; the job is ended");
            let node = self.node.clone();
            self.tasks.spawn(async move { bury(&node, id, fence).await });
        }
        self.forget(id);
    }

    fn tick(&mut self) {
        for id in self.leases.expired(Instant::now()) {
            tracing::warn!(job = %id, "its lease is gone; the job is ended");
            self.order(id, Order::LeaseLost);
        }
        // Every report with leases is answered.
        let limit = (self.leases.ttl() / 6).max(SILENCE);
        let silent = match &self.session {
            Session::Waiting(_) => false,
            Session::Opening(..) | Session::Open { hello: false, .. } => {
                self.heard_at.elapsed() > limit.max(4 * SILENCE)
            }
            Session::Open { hello: true, .. } => self.leases.count() > 0 && self.heard_at.elapsed() > limit,
        };
        if silent {
            self.broke(&tonic::Status::deadline_exceeded("the scheduler does not answer"));
        }
        self.report();
    }

    fn report(&mut self) {
        let sample = self.sampler.as_mut().and_then(|s| s.sample(Instant::now()).ok());
        if let Some(sample) = &sample {
            self.admission = std::mem::take(&mut self.admission).observe(sample, &Limits::default());
        }
        let pressure = sample.unwrap_or_default();
        // Unchanged since the last report of this session: empty.
        let (generations_json, cache_bytes) = {
            let holdings = self.holdings.borrow_and_update();
            let news = std::mem::take(&mut self.tell_holdings) || holdings.has_changed();
            (if news { holdings.0.clone() } else { Vec::new() }, holdings.1)
        };
        let slots = self.node.config.slots();
        let taken = u32::try_from(self.leases.count()).unwrap_or(u32::MAX);
        let free = if self.ending == Ending::Run { slots.saturating_sub(taken) } else { 0 };
        self.send(from_runner::Message::Report(v1::NodeReport {
            pressure_json: encode(&pressure),
            leases: self.leases.wire(),
            refuses_builds: self.admission.refusal().unwrap_or_default(),
            free,
            generations_json,
            cache_bytes,
        }));
    }
}

/// Ends a job whose own task cannot.
async fn bury(node: &Node, id: JobId, fence: Fence) {
    crate::executor::Labels::new(node.config.mark(), id.0).remove(&node.docker).await;
    let outcome = Outcome::Failed {
        reason: FailureReason::RunnerSystemFailure,
        exit_code: None,
        message: "the runner has a fault: the job's task panicked".into(),
    };
    let request = v1::FinishRequest {
        job: id.0,
        fence: fence.0,
        outcome_json: encode(&outcome),
        receipt_json: encode(&slipway_spec::receipt::Receipt::default()),
        ..v1::FinishRequest::default()
    };
    if let Err(e) = node.client.clone().finish(request).await {
        tracing::error!(job = %id, status = %e, "cannot report the end of a job that panicked");
    }
    let _ = Folder::of(&node.config.cache_root, id).remove();
}
