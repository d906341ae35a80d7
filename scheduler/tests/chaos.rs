//! Seeded chaos: nodes that lose their links, forget jobs and are slow, a scheduler that is killed and comes back. Every
//! job ends once, no script starts twice, traces are byte-exact, nothing accepted is lost.
//!
//! `SLIPWAY_CHAOS_SEED` repeats a run, `SLIPWAY_CHAOS_JOBS` makes it longer.

#[path = "service/support.rs"]
#[expect(dead_code, reason = "shared with the service tests, which use more of it")]
mod support;

use slipway_scheduler::Scheduler;
use slipway_scheduler::config::Config;
use slipway_scheduler::driver::NewPipeline;
use slipway_scheduler::pipeline::plan::{Plan, PlannedJob};
use slipway_scheduler::record::{Commit, Origin, zeros};
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::job::Tier;
use slipway_spec::outcome::Outcome;
use slipway_spec::view::{PipelineView, Status};
use slipway_wire::document::{decode, encode};
use slipway_wire::v1;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// A small generator whose runs can be repeated (xorshift64*).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// What the nodes did, to be compared with what the scheduler says.
#[derive(Default)]
struct Ledger {
    starts: Mutex<HashMap<u64, u32>>,
    traces: Mutex<HashMap<u64, Vec<u8>>>,
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://scheduler").connect_with_connector(connector).await
}

/// A job as a node has it: what it would find on its disk after a lost link.
struct Work {
    fence: u64,
    started: bool,
    sent: u64,
    trace: Vec<u8>,
    until: Instant,
}

/// A node that keeps the contract while its links break: it starts a script only when the scheduler has said that it
/// knows, ends what it has no lease for, and forgets a job now and then.
async fn node(name: String, socket: PathBuf, mut dice: Dice, ledger: Arc<Ledger>, stop: CancellationToken) {
    let mut has: BTreeMap<u64, Work> = BTreeMap::new();
    while !stop.is_cancelled() {
        let link = Duration::from_millis(150 + dice.roll(900));
        let ended = tokio::time::timeout(link, session(&name, &socket, &mut has, &mut dice, &ledger)).await;
        if ended.is_ok() {
            // Refused, or the scheduler is away.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if dice.roll(5) == 0 {
            // The node dies and forgets.
            has.clear();
        }
        has.retain(|_, work| work.until > Instant::now());
    }
}

const TTL: Duration = Duration::from_millis(1000);

async fn session(
    name: &str,
    socket: &Path,
    has: &mut BTreeMap<u64, Work>,
    dice: &mut Dice,
    ledger: &Ledger,
) -> Option<()> {
    let channel = connect(socket.to_owned()).await.ok()?;
    let mut runner = v1::runner_client::RunnerClient::new(channel);
    let lease = |(job, w): (&u64, &Work)| v1::Lease { job: *job, fence: w.fence, started: w.started };
    let hello = support::hello(name, 4, has.iter().map(lease).collect());
    let (to, messages) = mpsc::channel(64);
    to.send(v1::FromRunner { message: Some(v1::from_runner::Message::Hello(hello)) }).await.ok()?;
    let mut from = runner.session(ReceiverStream::new(messages)).await.ok()?.into_inner();
    let mut tick = tokio::time::interval(Duration::from_millis(40));
    loop {
        tokio::select! {
            message = from.next() => match message?.ok()?.message? {
                v1::to_runner::Message::Hello(_) => {}
                v1::to_runner::Message::Offer(offer) => {
                    let spec: slipway_spec::job::JobSpec = decode(&offer.spec_json).unwrap();
                    let refused = if dice.roll(6) == 0 { "no mood".to_owned() } else { String::new() };
                    if refused.is_empty() {
                        let size = 1 + dice.roll(3000) as usize;
                        let trace = (0..size).map(|n| (n as u64 ^ spec.id.0 ^ offer.fence) as u8).collect();
                        let until = Instant::now() + TTL;
                        has.insert(spec.id.0, Work { fence: offer.fence, started: false, sent: 0, trace, until });
                    }
                    let reply = v1::OfferReply { job: spec.id.0, fence: offer.fence, refused };
                    to.send(v1::FromRunner { message: Some(v1::from_runner::Message::OfferReply(reply)) }).await.ok()?;
                }
                v1::to_runner::Message::Cancel(cancel) => {
                    if has.get(&cancel.job).is_some_and(|w| w.fence == cancel.fence) {
                        has.remove(&cancel.job);
                    }
                }
                v1::to_runner::Message::Renewed(renewed) => {
                    for lease in renewed.leases {
                        let Some(work) = has.get_mut(&lease.job).filter(|w| w.fence == lease.fence) else { continue };
                        work.until = Instant::now() + TTL;
                        if lease.started && work.sent == 0 {
                            // Here the script starts: never in two places.
                            *ledger.starts.lock().unwrap().entry(lease.job).or_default() += 1;
                            ledger.traces.lock().unwrap().insert(lease.job, work.trace.clone());
                            work.sent = 1;
                        }
                    }
                }
            },
            _ = tick.tick() => {
                has.retain(|_, work| work.until > Instant::now());
                for work in has.values_mut() {
                    work.started |= dice.roll(3) == 0;
                }
                let leases = has.iter().map(lease).collect();
                let free = 4_u32.saturating_sub(has.len() as u32);
                let report = v1::NodeReport { leases, free, ..v1::NodeReport::default() };
                to.send(v1::FromRunner { message: Some(v1::from_runner::Message::Report(report)) }).await.ok()?;
                let running: Vec<u64> = has.iter().filter(|(_, w)| w.sent > 0).map(|(job, _)| *job).collect();
                for job in running {
                    if dice.roll(3) == 0 {
                        work_on(&mut runner, job, has, dice).await?;
                    }
                }
            }
        }
    }
}

/// Sends some of the trace, and the end when all of it is there.
async fn work_on(
    runner: &mut v1::runner_client::RunnerClient<Channel>,
    job: u64,
    has: &mut BTreeMap<u64, Work>,
    dice: &mut Dice,
) -> Option<()> {
    let work = has.get_mut(&job)?;
    // Sometimes from too early, sometimes from too far.
    let held = work.sent - 1;
    let offset = match dice.roll(8) {
        0 => held / 2,
        1 => (held + 7).min(work.trace.len() as u64),
        _ => held,
    };
    let end = (offset + dice.roll(2000)).min(work.trace.len() as u64);
    let data = work.trace[offset as usize..end as usize].to_vec();
    let chunk = v1::TraceChunk { job, fence: work.fence, offset, data };
    let mut acks = runner.trace(tokio_stream::iter([chunk])).await.ok()?.into_inner();
    match acks.next().await? {
        Ok(ack) => work.sent = ack.held + 1,
        Err(_) => {
            has.remove(&job);
            return Some(());
        }
    }
    if work.sent > work.trace.len() as u64 {
        let finish = v1::FinishRequest {
            job,
            fence: work.fence,
            outcome_json: encode(&Outcome::Success),
            trace_bytes: work.trace.len() as u64,
            ..v1::FinishRequest::default()
        };
        match runner.finish(finish).await {
            Ok(_) => drop(has.remove(&job)),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => drop(has.remove(&job)),
            // The scheduler is away: said again later.
            Err(_) => return None,
        }
    }
    Some(())
}

/// A scheduler on threads of its own, so that it can be dropped in the middle of anything.
struct Killable {
    runtime: tokio::runtime::Runtime,
    scheduler: Scheduler,
}

impl Killable {
    async fn start(folder: PathBuf) -> Killable {
        let begin = Instant::now();
        loop {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let folder = folder.clone();
            let started = runtime.spawn(async move {
                let config = Config { lease_ttl: TTL, ..Config::default() };
                let (scheduler, _) = Scheduler::start(config, &folder.join("state")).await?;
                scheduler.serve_unix(&folder.join("sock")).await?;
                Ok::<_, slipway_scheduler::server::StartError>(scheduler)
            });
            match started.await.unwrap() {
                Ok(scheduler) => return Killable { runtime, scheduler },
                // The one that was killed is not gone yet.
                Err(error) if begin.elapsed() < support::DEADLINE => {
                    assert!(error.to_string().contains("another scheduler"), "{error}");
                    runtime.shutdown_background();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn kill(self) {
        drop(self.scheduler);
        self.runtime.shutdown_background();
    }
}

fn pipeline(n: u64) -> NewPipeline {
    let job = |name: &str, stage: &str| PlannedJob { name: name.into(), stage: stage.into(), ..PlannedJob::default() };
    let plan = Plan {
        stages: vec!["one".into(), "two".into()],
        jobs: vec![job("a", "one"), job("b", "one"), job("c", "two")],
        ..Plan::default()
    };
    let origin = Origin {
        project_path: format!("team/{}", n % 3),
        repository: "/nowhere".into(),
        ref_name: format!("topic-{n}"),
        is_tag: false,
        sha: "a".repeat(40),
        before_sha: zeros(),
        default_branch: "main".into(),
        source: "web".into(),
        submitted_by: "chaos".into(),
        tier: Tier::Unprotected,
        config_path: ".gitlab-ci.yml".into(),
        commit: Commit::default(),
        variables: vec![],
        manual: vec![],
        priority: 0,
        redeploys: None,
        borrowed: Vec::new(),
    };
    NewPipeline {
        project_key: origin.project_path.clone(),
        origin,
        plan,
        request_id: format!("chaos-{n}"),
        parent: None,
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_ends_once_whatever_breaks() {
    let seed = number("SLIPWAY_CHAOS_SEED", 0x5eed);
    let pipelines = number("SLIPWAY_CHAOS_JOBS", 90) / 3;
    eprintln!("chaos: seed {seed}, {pipelines} pipelines of 3 jobs");
    let mut dice = Dice(seed | 1);
    let folder = tempfile::tempdir().unwrap();
    let (ledger, stop) = (Arc::new(Ledger::default()), CancellationToken::new());
    let mut site = Killable::start(folder.path().to_owned()).await;
    let mut nodes = tokio::task::JoinSet::new();
    for n in 0..3 {
        let (socket, ledger) = (folder.path().join("sock"), ledger.clone());
        nodes.spawn(node(format!("n{n}"), socket, Dice(dice.roll(u64::MAX >> 1) | 1), ledger, stop.clone()));
    }
    let mut accepted: Vec<PipelineId> = Vec::new();
    let mut n = 0;
    let mut kills = 0;
    while n < pipelines {
        match site.scheduler.driver().create(pipeline(n)).await {
            Ok(id) => {
                // Asked again under the same key, it is the same pipeline: also by one that was killed in between.
                accepted.push(id);
                n += 1;
            }
            Err(error) => panic!("{error}"),
        }
        if dice.roll(4) == 0 {
            site.kill();
            kills += 1;
            site = Killable::start(folder.path().to_owned()).await;
            let again = site.scheduler.driver().create(pipeline(n - 1)).await.unwrap();
            assert_eq!(Some(&again), accepted.last(), "an accepted pipeline was forgotten");
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(120))).await;
    }
    let views = tokio::time::timeout(3 * support::DEADLINE, finished(folder.path(), &accepted))
        .await
        .expect("all pipelines end");
    stop.cancel();
    nodes.join_all().await;

    let starts = ledger.starts.lock().unwrap().clone();
    let traces = ledger.traces.lock().unwrap().clone();
    let channel = connect(folder.path().join("sock")).await.unwrap();
    let (mut ended, mut lost) = (0, 0);
    for job in views.iter().flat_map(|v| &v.jobs) {
        assert!(job.status.is_over(), "{job:#?}");
        let started = starts.get(&job.id.0).copied().unwrap_or(0);
        assert!(started <= 1, "the script of job {} started {started} times", job.id);
        match job.status {
            Status::Success => {
                ended += 1;
                assert_eq!(started, 1, "{job:#?}");
                assert_eq!(log(&channel, job.id).await, traces[&job.id.0], "the trace of job {}", job.id);
            }
            Status::Failed => lost += 1,
            _ => {}
        }
    }
    eprintln!(
        "chaos: {ended} jobs ended well, {lost} were lost with their nodes, the scheduler was killed {kills} times"
    );
    assert!(ended > 0 && kills > 0);
    site.scheduler.shutdown().await;
    site.kill();
}

async fn log(channel: &Channel, job: JobId) -> Vec<u8> {
    let request = v1::LogsRequest { job: job.0, offset: 0, follow: false };
    let mut control = v1::control_client::ControlClient::new(channel.clone());
    let mut stream = control.logs(request).await.unwrap().into_inner();
    let mut log = Vec::new();
    while let Some(chunk) = stream.next().await {
        log.extend(chunk.unwrap().data);
    }
    log
}

async fn finished(folder: &Path, accepted: &[PipelineId]) -> Vec<PipelineView> {
    let channel = connect(folder.join("sock")).await.unwrap();
    let mut control = v1::control_client::ControlClient::new(channel);
    let mut views = Vec::new();
    for id in accepted {
        let mut stream = control.watch(v1::IdRequest { id: id.0 }).await.unwrap().into_inner();
        let mut last: Option<PipelineView> = None;
        while let Some(document) = stream.next().await {
            last = Some(decode(&document.unwrap().json).unwrap());
        }
        views.push(last.unwrap());
    }
    views
}
