//! Scheduler and runner as processes of their own, killed and stopped in the middle of a job.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use site::{PATIENCE, Process, Repository, Site};
use std::fs;
use std::time::Instant;

const COUNTING: &str = r#"
count:
  image: alpine:latest
  script:
    - for i in $(seq 1 40); do echo "line $i"; sleep 0.25; done
    - echo "all said"
"#;

fn fleet(site: &Site) -> (Process, Process) {
    let config = site.config();
    let config = config.to_str().unwrap();
    let scheduler = site.start(&["scheduler", "--config", config], "ready");
    let runner = site.start(&["runner", "--config", config, "--scheduler", &site.address()], "ready");
    (scheduler, runner)
}

fn submit(site: &Site, repository: &Repository) -> (u64, u64) {
    let end = site.slipway(&["submit", repository.path.to_str().unwrap(), "--json"]).expect(0);
    let pipeline = &end.json()[0];
    (pipeline["id"].as_u64().unwrap(), pipeline["jobs"][0]["id"].as_u64().unwrap())
}

fn trace(site: &Site, job: u64) -> String {
    site.slipway(&["logs", &job.to_string()]).expect(0).out()
}

/// Asks until the job's trace has `what`.
fn wait_for_trace(site: &Site, job: u64, what: &str) {
    let begun = Instant::now();
    while !site.slipway(&["logs", &job.to_string()]).out().contains(what) {
        assert!(begun.elapsed() < PATIENCE, "{what:?} is not in the trace of job {job}");
    }
}

fn state(site: &Site, pipeline: u64) -> serde_json::Value {
    site.slipway(&["status", &pipeline.to_string(), "--json"]).expect(0).json().remove(0)
}

fn wait_for_end(site: &Site, pipeline: u64) -> serde_json::Value {
    let begun = Instant::now();
    loop {
        let now = state(site, pipeline);
        if matches!(now["status"].as_str(), Some("success" | "failed" | "canceled")) {
            return now;
        }
        assert!(begun.elapsed() < PATIENCE, "pipeline {pipeline} does not end: {now:#}");
    }
}

/// Every line once, in order.
fn assert_counted(trace: &str) {
    let lines: Vec<&str> = trace.lines().filter(|l| l.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=40).map(|i| format!("line {i}")).collect();
    assert_eq!(lines, expected, "{trace}");
}

#[test]
fn scheduler_killed_in_the_middle_of_a_job_goes_on_without_a_gap_in_the_trace() {
    let site = Site::new();
    let repository = site.repository("repository", &[(".gitlab-ci.yml", COUNTING)]);
    let (scheduler, _runner) = fleet(&site);
    let (pipeline, job) = submit(&site, &repository);
    wait_for_trace(&site, job, "line 3");
    scheduler.kill();
    let config = site.config();
    let _scheduler = site.start(&["scheduler", "--config", config.to_str().unwrap()], "ready");
    let end = wait_for_end(&site, pipeline);
    assert_eq!(end["status"], "success", "{end:#}");
    assert_counted(&trace(&site, job));
}

#[test]
fn runner_killed_in_the_middle_of_a_job_adopts_it() {
    let site = Site::new();
    let repository = site.repository("repository", &[(".gitlab-ci.yml", COUNTING)]);
    let (_scheduler, runner) = fleet(&site);
    let (pipeline, job) = submit(&site, &repository);
    wait_for_trace(&site, job, "line 3");
    runner.kill();
    let config = site.config();
    let runner =
        site.start(&["runner", "--config", config.to_str().unwrap(), "--scheduler", &site.address()], "adopted");
    let end = wait_for_end(&site, pipeline);
    assert_eq!(end["status"], "success", "{end:#}\n{}", runner.said());
    assert_eq!(end["jobs"].as_array().unwrap().len(), 1, "it was not run twice: {end:#}");
    assert_counted(&trace(&site, job));
}

#[test]
fn stopped_service_finishes_its_job_and_takes_no_other() {
    let site = Site::new();
    let repository = site.repository("repository", &[(".gitlab-ci.yml", COUNTING)]);
    let (_scheduler, runner) = fleet(&site);
    let (pipeline, job) = submit(&site, &repository);
    wait_for_trace(&site, job, "line 3");
    runner.tell("TERM");
    runner.wait_for("draining");
    let (second, _) = submit(&site, &repository);
    assert_eq!(runner.wait(), 0);
    assert_eq!(wait_for_end(&site, pipeline)["status"], "success");
    assert_counted(&trace(&site, job));
    assert_eq!(state(&site, second)["jobs"][0]["status"], "pending", "a draining node takes nothing");
}

#[test]
fn job_is_cancelled_from_outside_with_its_after_script() {
    let site = Site::new();
    let repository = site.repository(
        "repository",
        &[(
            ".gitlab-ci.yml",
            "slow:\n  image: alpine:latest\n  script: [echo begun, sleep 600]\n  after_script: ['echo \"after $CI_JOB_STATUS\"']\n",
        )],
    );
    let _up = site.up();
    let (pipeline, job) = submit(&site, &repository);
    wait_for_trace(&site, job, "begun");
    site.slipway(&["cancel", &pipeline.to_string()]).expect(0);
    let end = wait_for_end(&site, pipeline);
    assert_eq!(end["status"], "canceled", "{end:#}");
    assert!(trace(&site, job).contains("after canceled"), "{}", trace(&site, job));
}

#[test]
fn deployment_is_recorded_with_who_what_and_when() {
    let site = Site::new();
    let repository = site.repository(
        "repository",
        &[(
            ".gitlab-ci.yml",
            "deploy:\n  image: alpine:latest\n  script: [echo deployed]\n  environment: {name: production, url: 'https://api.example.org'}\n",
        )],
    );
    let _up = site.up();
    let (pipeline, _) = submit(&site, &repository);
    wait_for_end(&site, pipeline);
    let records = site.slipway(&["deployments", "production", "--json"]).expect(0).json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["outcome"], "success");
    assert_eq!(records[0]["sha"], repository.head());
    assert_eq!(records[0]["url"], "https://api.example.org");
    assert_eq!(records[0]["submitted_by"], "root");
}

#[test]
fn finished_job_is_retried_as_a_new_one() {
    let site = Site::new();
    let repository =
        site.repository("repository", &[(".gitlab-ci.yml", "once:\n  image: alpine:latest\n  script: ['false']\n")]);
    let _up = site.up();
    let (pipeline, _) = submit(&site, &repository);
    assert_eq!(wait_for_end(&site, pipeline)["status"], "failed");
    site.slipway(&["retry", &pipeline.to_string()]).expect(0);
    let end = wait_for_end(&site, pipeline);
    assert_eq!(end["jobs"].as_array().unwrap().len(), 2, "{end:#}");
    assert_eq!(end["jobs"][0]["retried"], true);
}

#[test]
fn nodes_are_shown_with_their_pressure() {
    let site = Site::new();
    let _up = site.up();
    let begun = Instant::now();
    loop {
        let nodes = site.slipway(&["status", "--nodes", "--json"]).expect(0).json();
        if let Some(node) = nodes.first().filter(|n| !n["pressure"]["disk"].is_null()) {
            assert_eq!(node["name"], "node");
            assert!(node["pressure"]["memory_total_bytes"].as_u64().unwrap() > 0, "{node:#}");
            assert!(node["pressure"]["disk_free_bytes"].as_u64().unwrap() > 0, "{node:#}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no pressure was reported: {nodes:#?}");
    }
    assert!(fs::metadata(site.path("state")).unwrap().is_dir());
}
