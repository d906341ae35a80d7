//! Nothing of a job is left: containers, networks, volumes, mounts and work folders are the same before and after a run,
//! a failed run, a cancelled run, and a `kill -9` followed by a next start. A binary of its own with one test: it looks
//! at the whole machine, so nothing else of ours may run beside it.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use site::{Process, Site};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const CONFIGURATION: &str = r#"
good:
  image: docker:stable
  services: [docker:dind]
  script:
    - docker build -t kept .
bad:
  image: alpine:latest
  script: ["false"]
slow:
  image: docker:stable
  services: [docker:dind]
  script:
    - docker build -t kept .
    - echo running-now
    - sleep 600
"#;

fn lines(command: &[&str]) -> BTreeSet<String> {
    let out = Command::new(command[0]).args(&command[1..]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// Everything that a job could leave.
fn everything(site: &Site) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (kind, command) in [
        ("container", vec!["docker", "ps", "-aq", "--no-trunc"]),
        ("network", vec!["docker", "network", "ls", "-q", "--no-trunc"]),
        ("volume", vec!["docker", "volume", "ls", "-q"]),
        ("link", vec!["sh", "-c", "ip -o link | cut -d: -f2 | cut -d@ -f1"]),
        ("mount", vec!["sh", "-c", "cut -d' ' -f2 /proc/mounts"]),
        ("cgroup", vec!["sh", "-c", "find /sys/fs/cgroup -path '*slipway/*' -type d"]),
        // One that has ended and waits for its parent to look is no leftover of ours.
        ("process", vec!["sh", "-c", "pgrep -a 'dockerd|containerd-shim|runc' | grep -v defunct | cut -d' ' -f2-"]),
    ] {
        all.extend(lines(&command).into_iter().map(|l| format!("{kind} {l}")));
    }
    for folder in ["jobs", "engines"] {
        let folder = site.path("cache").join(folder);
        // The stamp of the folder's layout stays.
        let of_jobs = names(&folder).into_iter().filter(|n| n != "FORMAT");
        all.extend(of_jobs.map(|n| format!("folder {folder:?} {n}")));
    }
    all
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn nothing_is_left_of_a_run_a_failed_run_a_cancelled_run_or_a_killed_one() {
    let site = Site::new();
    let repository = site.repository(
        "repository",
        &[(".gitlab-ci.yml", CONFIGURATION), ("Dockerfile", "FROM alpine:latest\nRUN echo layer > /layer\n")],
    );
    let same = |before: &BTreeSet<String>, what: &str| {
        let after = everything(&site);
        let left: Vec<_> = after.difference(before).collect();
        let gone: Vec<_> = before.difference(&after).collect();
        assert!(left.is_empty() && gone.is_empty(), "after {what}: left {left:#?}, gone {gone:#?}");
    };
    let before = everything(&site);

    site.run(&repository, &["--job", "good"]).expect(0);
    same(&before, "a run");

    site.run(&repository, &["--job", "bad"]).expect(1);
    same(&before, "a failed run");

    let config = site.config();
    let args = ["run", repository.path.to_str().unwrap(), "--config", config.to_str().unwrap(), "--job", "slow"];
    let mut command = site.command(&args);
    command.env("SLIPWAY_LOG", "info");
    let run = Process::start_showing_output(&mut command);
    run.wait_for("running-now");
    run.tell("INT");
    assert_ne!(run.wait(), 0, "a cancelled run is no success");
    same(&before, "a cancelled run");

    let run = Process::start_showing_output(&mut site.command(&args));
    run.wait_for("running-now");
    run.kill();
    assert!(everything(&site).len() > before.len(), "kill -9 leaves the job's containers; else this proves nothing");
    site.run(&repository, &["--job", "bad"]).expect(1);
    same(&before, "kill -9 and a next start");
}
