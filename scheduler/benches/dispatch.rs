//! Full durable job lives through real gRPC on a Unix socket: submit, lease, start, trace, finish.
//!
//! The executor is a no-op: it takes an offer, says that the script started, sends 64 bytes of trace and finishes.
//! Printed: lives a second and CPU microseconds a life with everything going at once; p50 and p99 from submit to the
//! offer at the runner at steady rates; the same with more and more finished jobs in the store; time of a start.
//!
//! `cargo bench -p slipway-scheduler --bench dispatch -- [LIVES] [HISTORY]`, 3000 and 10000 when nothing is said.

use hyper_util::rt::TokioIo;
use slipway_scheduler::Scheduler;
use slipway_scheduler::config::Config;
use slipway_scheduler::driver::{Driver, NewPipeline};
use slipway_scheduler::pipeline::plan::{Plan, PlannedJob};
use slipway_scheduler::record::{Commit, Origin, zeros};
use slipway_spec::job::Tier;
use slipway_spec::outcome::Outcome;
use slipway_wire::document::encode;
use slipway_wire::v1;
use slipway_wire::v1::runner_client::RunnerClient;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// When a pipeline was submitted and offered, by its ref.
type Times = Arc<Mutex<HashMap<u64, Duration>>>;

fn new(n: u64) -> NewPipeline {
    let job = PlannedJob { name: "job".into(), stage: "test".into(), ..PlannedJob::default() };
    let plan = Plan { stages: vec!["test".into()], jobs: vec![job], ..Plan::default() };
    let origin = Origin {
        project_path: format!("team/{}", n % 10),
        repository: "/srv/git/app.git".into(),
        ref_name: format!("topic-{n}"),
        is_tag: false,
        sha: "a".repeat(40),
        before_sha: zeros(),
        default_branch: "main".into(),
        source: "push".into(),
        submitted_by: "bench".into(),
        tier: Tier::Unprotected,
        config_path: ".gitlab-ci.yml".into(),
        commit: Commit::default(),
        variables: vec![],
        manual: vec![],
        priority: 0,
        redeploys: None,
        borrowed: Vec::new(),
    };
    NewPipeline { project_key: origin.project_path.clone(), origin, plan, request_id: String::new(), parent: None }
}

async fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://scheduler").connect_with_connector(connector).await.expect("the scheduler listens")
}

/// A node of the no-op executor; tells each finished life.
async fn node(name: String, socket: PathBuf, begun: Instant, offered: Times, done: mpsc::UnboundedSender<()>) {
    let mut runner = RunnerClient::new(channel(socket).await);
    let (to, messages) = mpsc::channel(4096);
    let ours = v1::Hello { protocol: slipway_wire::PROTOCOL, build: "bench".into(), features: vec![] };
    let hello = v1::NodeHello {
        hello: Some(ours),
        node: name,
        architecture: "amd64".into(),
        capacity: 64,
        ..v1::NodeHello::default()
    };
    let say = |message| v1::FromRunner { message: Some(message) };
    to.send(say(v1::from_runner::Message::Hello(hello))).await.expect("the channel is empty");
    let mut from = runner.session(ReceiverStream::new(messages)).await.expect("a session").into_inner();
    while let Some(Ok(message)) = from.next().await {
        let Some(v1::to_runner::Message::Offer(offer)) = message.message else { continue };
        let spec: slipway_spec::job::JobSpec = slipway_wire::document::decode(&offer.spec_json).expect("a spec");
        let number = spec.source.ref_name.trim_start_matches("topic-").parse().unwrap_or(0);
        offered.lock().expect("no panic").insert(number, begun.elapsed());
        let (to, done, mut runner) = (to.clone(), done.clone(), runner.clone());
        tokio::spawn(async move {
            let (job, fence) = (spec.id.0, offer.fence);
            let reply = v1::OfferReply { job, fence, refused: String::new() };
            let what = Some(v1::job_progress::What::Started(true));
            let said = [
                v1::from_runner::Message::OfferReply(reply),
                v1::from_runner::Message::Progress(v1::JobProgress { job, fence, what }),
            ];
            for message in said {
                to.send(v1::FromRunner { message: Some(message) }).await.expect("the session stands");
            }
            let chunk = v1::TraceChunk { job, fence, offset: 0, data: vec![b'.'; 64] };
            let mut acks = runner.trace(tokio_stream::iter([chunk])).await.expect("a trace").into_inner();
            acks.next().await.expect("an acknowledgement").expect("the lease holds");
            let finish = v1::FinishRequest {
                job,
                fence,
                outcome_json: encode(&Outcome::Success),
                trace_bytes: 64,
                ..v1::FinishRequest::default()
            };
            runner.finish(finish).await.expect("the end is taken");
            done.send(()).expect("somebody counts");
        });
    }
}

fn cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage(2) of oneself");
    let seconds =
        |t: nix::sys::time::TimeVal| Duration::from_micros(t.tv_sec() as u64 * 1_000_000 + t.tv_usec() as u64);
    seconds(usage.user_time()) + seconds(usage.system_time())
}

struct Bench {
    driver: Driver,
    begun: Instant,
    offered: Times,
    done: mpsc::UnboundedReceiver<()>,
    next: u64,
}

impl Bench {
    /// Everything at once, a few hundred submissions under way: lives a second, CPU microseconds a life of scheduler and
    /// nodes together.
    async fn flood(&mut self, lives: u64) -> (f64, f64) {
        let (begun, used) = (Instant::now(), cpu());
        let first = self.next;
        self.next += lives;
        let driver = self.driver.clone();
        let submit = tokio::spawn(async move {
            let mut under_way = tokio::task::JoinSet::new();
            for n in first..first + lives {
                if under_way.len() >= 256 {
                    under_way.join_next().await;
                }
                let driver = driver.clone();
                under_way.spawn(async move { driver.create(new(n)).await.expect("accepted") });
            }
            under_way.join_all().await;
        });
        for _ in 0..lives {
            self.done.recv().await.expect("nodes run");
        }
        submit.await.expect("all were submitted");
        let took = begun.elapsed();
        let used = cpu() - used;
        (lives as f64 / took.as_secs_f64(), used.as_secs_f64() * 1e6 / lives as f64)
    }

    /// At a steady rate: p50 and p99 of submit to offer.
    async fn steady(&mut self, rate: u32, lives: u64) -> (Duration, Duration) {
        let first = self.next;
        self.next += lives;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut submitted = HashMap::new();
        for n in first..first + lives {
            tick.tick().await;
            submitted.insert(n, self.begun.elapsed());
            let driver = self.driver.clone();
            tokio::spawn(async move { driver.create(new(n)).await.expect("accepted") });
        }
        for _ in 0..lives {
            self.done.recv().await.expect("nodes run");
        }
        let offered = self.offered.lock().expect("no panic");
        let mut waits: Vec<Duration> =
            submitted.iter().filter_map(|(n, at)| offered.get(n).map(|o| o.saturating_sub(*at))).collect();
        waits.sort_unstable();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
        (at(0.5), at(0.99))
    }
}

async fn open(folder: &Path) -> (Scheduler, Duration) {
    let begun = Instant::now();
    let (scheduler, _) = Scheduler::start(Config::default(), &folder.join("state")).await.expect("it starts");
    (scheduler, begun.elapsed())
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let lives = numbers.next().unwrap_or(3_000);
    let history = numbers.next().unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(run(lives, history));
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn run(lives: u64, history: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let (scheduler, _) = open(folder.path()).await;
    let socket = folder.path().join("sock");
    scheduler.serve_unix(&socket).await.expect("it listens");
    let (begun, offered) = (Instant::now(), Times::default());
    let (tell, done) = mpsc::unbounded_channel();
    for n in 0..4 {
        tokio::spawn(node(format!("n{n}"), socket.clone(), begun, offered.clone(), tell.clone()));
    }
    let mut bench = Bench { driver: scheduler.driver().clone(), begun, offered, done, next: 0 };
    bench.flood(lives / 10 + 1).await;
    println!("| finished jobs | lives/s | CPU us/life | p50 at 100/s | p99 | p50 at 1000/s | p99 |");
    println!("|---|---|---|---|---|---|---|");
    loop {
        let before = bench.next;
        let (rate, micros) = bench.flood(lives).await;
        let (p50, p99) = bench.steady(100, lives.min(300)).await;
        let (p50_fast, p99_fast) = bench.steady(1000, lives).await;
        println!("| {before} | {rate:.0} | {micros:.0} | {p50:.1?} | {p99:.1?} | {p50_fast:.1?} | {p99_fast:.1?} |");
        if bench.next >= history {
            break;
        }
        let missing = (history - bench.next).min(before * 9);
        bench.flood(missing).await;
    }
    let finished = bench.next;
    scheduler.shutdown().await;
    let (scheduler, took) = open(folder.path()).await;
    println!("\nstart with {finished} finished jobs: {took:.1?}");
    scheduler.shutdown().await;
}
