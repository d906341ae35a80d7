//! Runners that are killed, stopped, cut off; leases and fences.

use crate::failed;
use crate::fake::House;
use crate::make::{job, service, step};
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::variable::Variable;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_a_killed_runner_goes_on_without_a_gap_in_the_trace() {
    adoption(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_of_a_trace_with_timestamps_has_no_gap_either() {
    adoption(true).await;
}

async fn adoption(timestamps: bool) {
    let mut house = House::open(|config| config.trace_timestamps = timestamps).await;
    let mut spec = job(1, &["for i in $(seq 1 300); do echo line $i $SECRET; sleep 0.02; done"]);
    spec.variables.push(Variable::secret("SECRET", "hunter2xy"));
    spec.steps.push(step("after_script", &["echo after:$CI_JOB_STATUS"]));
    house.offer(&spec, 7).await;
    house.wait_for(1, |s| s.text().contains("line 20 ")).await;
    house.kill().await;
    house.start().await;
    let running = house.hellos().last().unwrap().running.clone();
    assert_eq!(running.iter().map(|l| (l.job, l.fence, l.started)).collect::<Vec<_>>(), [(1, 7, true)]);
    house.wait_for(1, |s| s.text().contains("line 120 ")).await;
    house.kill().await;
    house.start().await;
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    let plain = |l: &str| if timestamps { l.get(32..).unwrap_or_default().to_owned() } else { l.to_owned() };
    let lines: Vec<String> = text.lines().map(plain).filter(|l| l.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=300).map(|i| format!("line {i} [MASKED]")).collect();
    assert_eq!(lines, expected);
    assert!(text.contains("after:success\n"), "{text}");
    assert_eq!((seen.started, seen.finishes), (1, 1));
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_a_job_that_had_not_started_is_removed_and_not_named() {
    let mut house = House::open(|_| {}).await;
    let mut spec = job(1, &["echo never"]);
    // Its service keeps it from starting.
    let mut slow = service("alpine:latest");
    slow.command = Some(["sleep", "300"].map(String::from).to_vec());
    slow.variables.push(Variable::public("HEALTHCHECK_TCP_PORT", "9"));
    spec.services = vec![slow];
    house.offer(&spec, 7).await;
    house.container(1, "service").await;
    house.kill().await;
    assert!(!house.left(1).await.is_empty());
    house.start().await;
    assert_eq!(house.hellos().last().unwrap().running, []);
    house.gone(1).await;
    assert!(!house.seen(1).text().contains("never"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_that_is_not_renewed_kills_the_job_and_reports_nothing() {
    let house = House::with_ttl(6, |_| {}).await;
    house.offer(&job(1, &["echo begun", "sleep 300"]), 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.silent(true);
    house.gone(1).await;
    assert_eq!(house.seen(1).finish, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_that_is_never_renewed_lets_no_script_start() {
    let house = House::with_ttl(6, |_| {}).await;
    house.silent(true);
    house.offer(&job(1, &["echo begun"]), 7).await;
    house.wait_for(1, |s| s.started > 0).await;
    house.gone(1).await;
    let seen = house.seen(1);
    assert_eq!(seen.finish, None);
    assert!(!seen.text().contains("begun"), "{}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fence_that_is_stale_ends_the_job_and_reports_nothing() {
    let house = House::open(|_| {}).await;
    house.offer(&job(1, &["echo begun", "sleep 300"]), 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.cancel(1, 6, "canceled").await;
    house.cancel(1, 7, "lease_lost").await;
    house.gone(1).await;
    assert_eq!(house.seen(1).finish, None);

    house.offer(&job(2, &["echo begun", "sleep 1", "seq 1 5"]), 8).await;
    house.wait_for(2, |s| s.text().contains("\nbegun\n")).await;
    house.stale(8);
    house.gone(2).await;
    assert_eq!(house.seen(2).finish, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_breaks_is_opened_again_and_the_job_goes_on() {
    let house = House::open(|_| {}).await;
    house.offer(&job(1, &["for i in $(seq 1 60); do echo line $i; sleep 0.1; done"]), 7).await;
    house.wait_for(1, |s| s.text().contains("line 3\n")).await;
    house.cut().await;
    house.away(true);
    house.container(1, "job").await;
    house.away(false);
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    let lines = seen.text().lines().filter(|l| l.starts_with("line ")).count();
    assert_eq!((seen.outcome(), lines), (Some(Outcome::Success), 60));
    assert!(house.hellos().iter().skip(1).all(|h| h.running.len() <= 1));
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p45_drain_finishes_the_job_and_stop_fails_it() {
    let mut house = House::open(|_| {}).await;
    house.offer(&job(1, &["echo begun", "while [ ! -e go ]; do sleep 0.1; done"]), 1).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.tell_drain();
    house.offer(&job(2, &["true"]), 2).await;
    let refused = house.wait_for(2, |s| s.reply.is_some()).await;
    assert_eq!(refused.reply.as_deref(), Some("the runner is being stopped"));
    house.touch(1, "go");
    house.drain().await;
    assert_eq!(house.seen(1).outcome(), Some(Outcome::Success));
    house.gone(1).await;

    house.start().await;
    house.offer(&job(3, &["echo begun", "sleep 300"]), 3).await;
    house.wait_for(3, |s| s.text().contains("\nbegun\n")).await;
    house.stop().await;
    assert_eq!(failed(house.seen(3).outcome()).0, FailureReason::RunnerSystemFailure);
    house.gone(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_takes_the_engine_over_and_a_job_without_one_left_is_told() {
    let mut house = House::open(|_| {}).await;
    let mut spec =
        job(1, &["echo begun", "while [ ! -e go ]; do sleep 0.1; done", "docker version --format {{.Server.Os}}"]);
    spec.image.as_mut().unwrap().name = "docker:stable".into();
    spec.services = vec![service("docker:dind")];
    house.offer(&spec, 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.kill().await;
    house.start().await;
    house.touch(1, "go");
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{}", seen.text());
    assert!(seen.text().contains("\nlinux\n"), "{}", seen.text());
    house.gone(1).await;
    let lent = house.config.cache_root.join("lent");
    house.empty(&lent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p47_capacity_is_never_exceeded() {
    let house = House::open(|config| config.capacity = 2).await;
    for id in 1..=3 {
        house.offer(&job(id, &["echo begun", "sleep 2"]), id).await;
    }
    let third = house.wait_for(3, |s| s.reply.is_some()).await;
    assert_eq!(third.reply.as_deref(), Some("all 2 slots are taken"));
    for id in 1..=2 {
        assert_eq!(house.wait_for(id, |s| s.finish.is_some()).await.outcome(), Some(Outcome::Success));
    }
    house.offer(&job(4, &["true"]), 4).await;
    assert_eq!(house.wait_for(4, |s| s.finish.is_some()).await.outcome(), Some(Outcome::Success));
    for id in [1, 2, 4] {
        house.gone(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_of_a_job_whose_end_could_not_be_reported_reports_it() {
    let mut house = House::open(|_| {}).await;
    house.offer(&job(1, &["echo begun", "while [ ! -e go ]; do sleep 0.1; done", "exit 5"]), 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.away(true);
    house.touch(1, "go");
    house.recorded(1, "finishing").await;
    house.kill().await;
    house.start().await;
    house.away(false);
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    assert_eq!(failed(seen.outcome()).1, Some(5), "{}", seen.text());
    assert_eq!(seen.text().matches("Job failed").count(), 1, "{}", seen.text());
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p44_job_whose_record_is_broken_is_ended_at_the_next_start() {
    let mut house = House::open(|_| {}).await;
    let mut spec = job(1, &["echo begun", "sleep 300"]);
    let mut one = service("alpine:latest");
    one.command = Some(["sleep", "300"].map(String::from).to_vec());
    spec.services = vec![one];
    house.config.services_wait_seconds = -1;
    house.kill().await;
    house.start().await;
    house.offer(&spec, 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.kill().await;
    assert!(house.left(1).await.len() >= 4, "{:?}", house.left(1).await);
    std::fs::write(house.job_folder(1).join("record.json"), "{").unwrap();
    house.start().await;
    assert_eq!(house.hellos().last().unwrap().running, []);
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p45_stop_gives_a_job_back_that_has_not_begun() {
    let mut house = House::open(|_| {}).await;
    let mut spec = job(1, &["echo never"]);
    let mut slow = service("alpine:latest");
    slow.command = Some(["sleep", "300"].map(String::from).to_vec());
    slow.variables.push(Variable::public("HEALTHCHECK_TCP_PORT", "9"));
    spec.services = vec![slow];
    house.offer(&spec, 7).await;
    house.container(1, "service").await;
    house.stop().await;
    let seen = house.wait_for(1, |s| s.reply.as_deref() == Some("the runner is being stopped")).await;
    assert_eq!((seen.started, seen.finish), (0, None));
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_says_nothing_is_opened_again() {
    let house = House::with_ttl(60, |_| {}).await;
    house.offer(&job(1, &["echo begun", "while [ ! -e go ]; do sleep 0.1; done"]), 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    house.silent(true);
    house.hello(2).await;
    house.silent(false);
    house.touch(1, "go");
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{}", seen.text());
    house.gone(1).await;
}
