//! A trivial job, from offered to finished, against `docker run --rm IMAGE true` in the same run; one at a time and
//! three at once. Over the real session and the real Docker engine. `cargo bench -p slipway-runner --bench job`.

#[allow(dead_code)]
#[path = "../tests/job/fake.rs"]
mod fake;
#[allow(dead_code)]
#[path = "../tests/job/make.rs"]
mod make;

use fake::House;
use make::job;
use std::time::{Duration, Instant};

/// Jobs of each kind.
const ROUNDS: u64 = 15;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let house = House::open(|_| {}).await;
    let (mut docker, mut ours) = (Vec::new(), Vec::new());
    // In turns, so that what else the machine does falls on both.
    for round in 1..=ROUNDS {
        docker.push(docker_run().await);
        ours.push(one(&house, round).await);
        house.gone(round).await;
    }
    report("docker run --rm alpine:latest true", &mut docker.clone());
    report("a trivial job, offered to finished", &mut ours.clone());
    let ratio = median(&mut ours).as_secs_f64() / median(&mut docker).as_secs_f64();
    println!("ratio of the medians: {ratio:.2} (at most 1.3 is wanted)");

    let begun = Instant::now();
    let three: Vec<u64> = (1..=3).map(|i| ROUNDS + i).collect();
    futures_util::future::join_all(three.iter().map(|id| one(&house, *id))).await;
    println!("three jobs at once: {:.3} s", begun.elapsed().as_secs_f64());
    for id in three {
        house.gone(id).await;
    }
    let begun = Instant::now();
    futures_util::future::join_all((0..3).map(|_| docker_run())).await;
    println!("three `docker run` at once: {:.3} s", begun.elapsed().as_secs_f64());
}

async fn one(house: &House, id: u64) -> Duration {
    let begun = Instant::now();
    house.offer(&job(id, &["true"]), 1).await;
    let seen = house.wait_for(id, |s| s.finish.is_some()).await;
    assert!(matches!(seen.outcome(), Some(slipway_spec::outcome::Outcome::Success)), "{}", seen.text());
    begun.elapsed()
}

async fn docker_run() -> Duration {
    let begun = Instant::now();
    let args = ["run", "--rm", "alpine:latest", "true"];
    assert!(tokio::process::Command::new("docker").args(args).status().await.unwrap().success());
    begun.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn report(what: &str, times: &mut [Duration]) {
    let median = median(times).as_secs_f64();
    let (least, most) = (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64());
    println!("{what}: median {median:.3} s ({least:.3} to {most:.3}) of {}", times.len());
}
