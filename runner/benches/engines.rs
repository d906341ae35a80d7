//! `cargo bench -p slipway-runner --bench engines`: the article's build and push on an engine of its own, cold, warm
//! after a one-line change, and twenty at once, against the floor measured in the same run: the same client on one
//! shared warm engine of the same kind that nobody isolates from anybody. What is counted is from being asked for an
//! engine to the client's end; ending and promoting come after a job has finished.
//!
//! Needs root, Docker and `scripts/images`. `-- --quick` leaves the twenty out. Writes `target/engines-bench.json`.

use bollard::Docker;
use serde_json::{Value, json};
use slipway_runner::engine::{Choice, Ending, EngineConfig, EngineRequest, Lender, Lent, NetworkFacts, Registries};
use slipway_runner::layers::{Budget, Store};
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const JOBS: u64 = 20;
/// Jobs at once: what a two-core node is configured for.
const AT_ONCE: usize = 3;
const WARM_ROUNDS: u64 = 5;

struct Bench {
    lender: Lender,
    network: Network,
    sources: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::Builder::new().prefix("engines-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store"), Budget::default()).unwrap());
        let config = EngineConfig {
            wall: Choice::Userns,
            registries: Registries { mirrors: vec!["http://127.0.0.1:5000".into()], insecure: Vec::new() },
            door: vec![env!("CARGO_BIN_EXE_slipway-door").into()],
            ..EngineConfig::new(folder.path().join("lent"))
        };
        let docker = Docker::connect_with_local_defaults().unwrap();
        let lender = Lender::new(config, store, docker).await.unwrap_or_else(|e| panic!("{e}"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/node-service").canonicalize().unwrap();
        Bench { lender, network: Network::new(), sources, _folder: folder }
    }

    async fn lend(&self, job: u64) -> Lent {
        let address = Ipv4Addr::from(self.network.base + 130 + u32::try_from(job % 100).unwrap());
        let request = EngineRequest {
            project: ProjectId(1),
            job_name: "build_image".into(),
            tier: Tier::Protected,
            read_protected: false,
            job: JobId(job),
            pipeline: PipelineId(job),
            fence: Fence(1),
            commit: format!("{job:040}"),
            index: 0,
            image: "docker:dind".into(),
            command: None,
            environment: Vec::new(),
            names: vec!["docker".into()],
            network: NetworkFacts {
                id: self.network.id.clone(),
                bridge: self.network.bridge.clone(),
                address,
                prefix: 24,
                gateway: self.network.gateway(),
                mtu: 1500,
            },
        };
        self.lender.lend(request).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// A job's container: builds the service with one line changed and pushes it.
    async fn client(&self, engine: Ipv4Addr, change: String) -> Duration {
        let (sources, network, gateway) =
            (self.sources.display().to_string(), self.network.name.clone(), self.network.gateway());
        let started = Instant::now();
        let done = tokio::task::spawn_blocking(move || {
            let image = format!("{gateway}:5000/bench/app:{change}");
            let script = format!(
                "cp -r /src /w && cd /w && echo '// {change}' >> server.js \
                 && docker build -q -t {image} . && docker push -q {image}"
            );
            docker(&[
                "run",
                "--rm",
                "--label=dev.slipway.bench=1",
                "--network",
                &network,
                "--add-host",
                &format!("docker:{engine}"),
                "-v",
                &format!("{sources}:/src:ro"),
                "docker:stable",
                "sh",
                "-ec",
                &script,
            ])
        });
        done.await.unwrap();
        started.elapsed()
    }

    /// One job: its time from being asked for to its end, and that of the engine alone.
    async fn job(&self, number: u64) -> (Duration, u64, Lent) {
        let started = Instant::now();
        let lent = self.lend(number).await;
        let ready = lent.ready_ms;
        self.client(lent.address, unique(number)).await;
        (started.elapsed(), ready, lent)
    }
}

/// A change that no earlier run of this bench has made.
fn unique(number: u64) -> String {
    format!("{}-{number}", std::process::id())
}

struct Network {
    name: String,
    id: String,
    bridge: String,
    base: u32,
}

impl Network {
    fn new() -> Network {
        let name = format!("slipway-bench-{}", std::process::id());
        let bridge = format!("sb{}", std::process::id());
        let base = u32::from(Ipv4Addr::new(10, 210, (std::process::id() % 256) as u8, 0));
        let id = docker(&[
            "network",
            "create",
            "--subnet",
            &format!("{}/24", Ipv4Addr::from(base)),
            "--ip-range",
            &format!("{}/25", Ipv4Addr::from(base)),
            "--gateway",
            &Ipv4Addr::from(base + 1).to_string(),
            "--opt",
            &format!("com.docker.network.bridge.name={bridge}"),
            &name,
        ]);
        Network { id: id.trim().to_owned(), name, bridge, base }
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.name]);
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker is needed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(ours: Duration, floor: Duration) -> f64 {
    ours.as_secs_f64() / floor.as_secs_f64()
}

/// From the first taken to the last finished, [`AT_ONCE`] at a time, each with an engine of its own.
async fn twenty(bench: &Arc<Bench>, first: u64) -> (Duration, Duration) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (mut jobs, mut endings) = (JoinSet::new(), JoinSet::new());
    let started = Instant::now();
    for number in first..first + JOBS {
        let (bench, places) = (bench.clone(), places.clone());
        jobs.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            bench.job(number).await.2
        });
    }
    let mut finished = Duration::ZERO;
    while let Some(lent) = jobs.join_next().await {
        finished = started.elapsed();
        let lent = lent.unwrap();
        endings.spawn(lent.give_back(Ending::Keep { build_seconds: 1.0 }));
    }
    while endings.join_next().await.is_some() {}
    (finished, started.elapsed())
}

/// The same clients, all at once, on one engine.
async fn twenty_on_one(bench: &Arc<Bench>, engine: Ipv4Addr, first: u64) -> Duration {
    let mut clients = JoinSet::new();
    let started = Instant::now();
    for number in first..first + JOBS {
        let bench = bench.clone();
        clients.spawn(async move { bench.client(engine, unique(number)).await });
    }
    while clients.join_next().await.is_some() {}
    started.elapsed()
}

async fn measure(quick: bool) -> Value {
    let bench = Arc::new(Bench::new().await);
    let keep = Ending::Keep { build_seconds: 1.0 };

    let (cold, cold_ready, lent) = bench.job(1).await;
    println!("cold                      {:6.2} s   engine ready {cold_ready} ms", cold.as_secs_f64());
    println!("  {}", lent.give_back(keep).await);

    // The floor: a warm engine, its second client and later.
    let shared = bench.lend(2).await;
    bench.client(shared.address, unique(900)).await;
    let (mut floors, mut warm, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_ROUNDS {
        floors.push(bench.client(shared.address, unique(910 + round)).await);
        let (took, ready_ms, lent) = bench.job(3 + round).await;
        warm.push(took);
        ready.push(Duration::from_millis(ready_ms));
        println!("  {}", lent.give_back(keep).await);
    }
    let (floor, warm, ready) = (median(floors), median(warm), median(ready));
    println!(
        "one line changed          {:6.2} s   floor {:.2} s   ratio {:.2}   engine ready {} ms",
        warm.as_secs_f64(),
        floor.as_secs_f64(),
        ratio(warm, floor),
        ready.as_millis(),
    );
    let mut results = json!({
        "cold_seconds": cold.as_secs_f64(),
        "cold_ready_ms": cold_ready,
        "warm_seconds": warm.as_secs_f64(),
        "warm_ready_ms": u64::try_from(ready.as_millis()).unwrap(),
        "warm_floor_seconds": floor.as_secs_f64(),
        "warm_ratio": ratio(warm, floor),
    });
    if !quick {
        let floor = twenty_on_one(&bench, shared.address, 1000).await;
        shared.give_back(Ending::Discard).await;
        let (finished, ended) = twenty(&bench, 100).await;
        println!(
            "twenty, {AT_ONCE} at a time       {:6.2} s   floor {:.2} s   ratio {:.2}   all ended and kept after {:.2} s",
            finished.as_secs_f64(),
            floor.as_secs_f64(),
            ratio(finished, floor),
            ended.as_secs_f64(),
        );
        results["twenty_seconds"] = json!(finished.as_secs_f64());
        results["twenty_floor_seconds"] = json!(floor.as_secs_f64());
        results["twenty_ratio"] = json!(ratio(finished, floor));
        results["twenty_ended_seconds"] = json!(ended.as_secs_f64());
    } else {
        shared.give_back(Ending::Discard).await;
    }
    results
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` only want to know that it starts.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list" || a == "--test") {
        return;
    }
    let quick = arguments.iter().any(|a| a == "--quick");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let results = runtime.block_on(measure(quick));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target").join("engines-bench.json");
    std::fs::write(&target, format!("{results:#}\n")).expect("target can be written");
    println!("{}", target.display());
}
