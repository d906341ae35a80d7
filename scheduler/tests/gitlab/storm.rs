//! A server that fails a fifth of its calls.

use crate::site::{Site, failed, job, play};
use serde_json::json;
use slipway_double::faults::Faults;
use slipway_double::payload::variable;
use slipway_double::{Settings, Status};
use slipway_scheduler::upstream::RemoteJob;
use slipway_spec::outcome::{FailureReason, Outcome};
use std::time::Duration;

/// The log of job `n`: some short, some over a megabyte, all different.
fn log(n: u64) -> Vec<u8> {
    let lines = match n % 20 {
        0 => 40_000,
        1 => 0,
        k => k * 37,
    };
    (0..lines).flat_map(|line| format!("job {n} line {line} äöü\n").into_bytes()).collect()
}

/// How job `n` ends.
fn outcome(n: u64) -> Outcome {
    match n % 4 {
        0 | 1 => Outcome::Success,
        2 => failed(FailureReason::ScriptFailure, Some((n % 250 + 1) as i32)),
        _ => failed(FailureReason::RunnerSystemFailure, None),
    }
}

async fn storm(seed: u64, jobs: u64, kill_every: Option<u64>) {
    let playing = play(|mut run| async move {
        let n: u64 = run.variable("N").parse().expect("a number");
        let log = log(n);
        // Pieces of uneven length, so that characters are cut.
        let mut rest = log.as_slice();
        let mut length = 1 + (n as usize * 7919) % 5000;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            run.print(piece).await;
            rest = after;
            length = (length * 3) % 65_537 + 1;
            tokio::time::sleep(Duration::from_millis(n % 3)).await;
        }
        outcome(n)
    });
    let settings = Settings {
        faults: Some(Faults::new(seed, 20)),
        persist_rounds: 1,
        hold: Duration::from_millis(20),
        ..Settings::default()
    };
    let mut site = Site::new(settings, playing).await;
    site.configs[0].output_limit_bytes = 8 << 20;
    site.set_room(20);
    let ids: Vec<u64> = (0..jobs)
        .map(|n| {
            let mut payload = job(&format!("job {n}"));
            payload["variables"].as_array_mut().unwrap().push(variable("N", &n.to_string()));
            site.double.enqueue(payload)
        })
        .collect();
    site.start();
    for (n, id) in ids.iter().enumerate() {
        site.double.over(*id).await;
        if kill_every.is_some_and(|every| n as u64 % every == every - 1) {
            // Not while a hand-out is under way: a job that is handed out to nobody is lost by the protocol itself.
            site.double.state().withheld = true;
            let desk = site.desk.clone();
            let arrived = |s: &mut slipway_double::state::State| {
                let known = |id: u64| desk.runs(&RemoteJob { upstream: "gitlab".into(), id }) == 1;
                s.jobs.values().all(|j| j.handed_out == 0 || known(j.id)).then_some(())
            };
            site.double.until("every job handed out has arrived", arrived).await;
            site.kill().await;
            site.start();
            let mut state = site.double.state();
            (state.withheld, state.tick) = (false, state.tick + 1);
        }
    }
    for (n, id) in ids.iter().enumerate() {
        let done = site.double.state().jobs[id].clone();
        let n = n as u64;
        assert!(done.trace == log(n), "job {n}: {} bytes of {}", done.trace.len(), log(n).len());
        let (status, reason, code) = match outcome(n) {
            Outcome::Success => (Status::Success, None, None),
            Outcome::Failed { reason, exit_code, .. } => (Status::Failed, Some(json!(reason)), exit_code),
            Outcome::Canceled => unreachable!(),
        };
        assert_eq!(done.status, status, "job {n}");
        assert_eq!(done.end("failure_reason"), reason.as_ref(), "job {n}");
        assert_eq!(done.end("exit_code"), code.map(|c| json!(c)).as_ref(), "job {n}");
        assert_eq!(done.handed_out, 1, "job {n}");
        assert_eq!(site.desk.runs(&RemoteJob { upstream: "gitlab".into(), id: *id }), 1, "job {n}");
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_jobs_survive_a_server_that_fails_a_fifth_of_its_calls() {
    storm(20_261_125, 200, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_jobs_survive_such_a_server_and_six_kills_of_ours() {
    storm(7, 60, Some(10)).await;
}
