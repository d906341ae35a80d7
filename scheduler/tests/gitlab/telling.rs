//! Telling the server: the trace, that the job lives, its end.

use crate::site::{SECOND, Site, failed, hello, job, play};
use serde_json::{Value, json};
use slipway_double::payload::variable;
use slipway_double::{Reply, Settings, Status};
use slipway_scheduler::upstream::{Cancel, RemoteJob};
use slipway_spec::outcome::{FailureReason, Outcome};

fn remote(id: u64) -> RemoteJob {
    RemoteJob { upstream: "gitlab".into(), id }
}

#[tokio::test(flavor = "multi_thread")]
async fn point_05_range_of_a_patch_is_inclusive_and_bare() {
    let five = play(|mut run| async move {
        run.print(b"12345").await;
        Outcome::Success
    });
    let site = Site::started(Settings::default(), five).await;
    let done = site.run(job("five bytes")).await;
    let patches = site.double.calls("PATCH", &format!("/jobs/{}/trace", done.id));
    assert_eq!(patches[0].header("content-range"), "0-4");
    assert_eq!(patches[0].header("content-type"), "text/plain");
    assert_eq!(patches[0].query["debug_trace"], "false");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_06_offset_after_416_is_the_servers_size() {
    let text = "0123456789abcdefghij";
    let print = play(move |mut run| async move {
        run.print(text.as_bytes()).await;
        Outcome::Success
    });
    let site = Site::started(Settings::default(), print).await;
    for (range, start) in [(Some("0-10"), 10), (Some("garbage"), 0), (None, 0)] {
        let id = site.double.enqueue(job("range"));
        let path = format!("/jobs/{id}/trace");
        let mut answer = Reply::error(416, "416 Range Not Satisfiable");
        if let Some(range) = range {
            answer = answer.with("Range", range);
        }
        // The server has the first bytes of an earlier life of the job, and says so.
        site.double.state().jobs.get_mut(&id).unwrap().trace.extend_from_slice(&text.as_bytes()[..start]);
        site.double.script(&format!("PATCH {path}"), [answer]);
        let done = site.double.over(id).await;
        let patches = site.double.calls("PATCH", &path);
        assert_eq!(patches[0].header("content-range"), "0-19");
        assert_eq!(patches[1].header("content-range"), format!("{start}-19"), "{range:?}");
        assert_eq!(&patches[1].body[..], &text.as_bytes()[start..]);
        assert!(patches[1].at - patches[0].at >= SECOND, "an interval lies between");
        assert_eq!(done.log(), text);
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_07_end_is_repeated_unchanged_while_the_server_says_202() {
    let settings = Settings { persist_rounds: 3, update_interval: Some(8), ..Settings::default() };
    let mut site = Site::new(settings, hello()).await;
    site.configs[0].limit = 1;
    site.start();
    let (first, second) = (site.double.enqueue(job("slow to persist")), site.double.enqueue(job("next")));
    let done = site.double.over(first).await;
    assert_eq!(done.ends.len(), 4);
    assert!(done.ends.windows(2).all(|w| w[0].0 == w[1].0 && w[1].1 - w[0].1 >= SECOND * 4), "{:?}", done.ends);
    let second = site.double.over(second).await;
    let taken = site.double.calls("POST", "/jobs/request");
    let asked_again = taken.iter().filter(|s| s.status == 201).nth(1).unwrap().at;
    assert!(asked_again >= done.ends[3].1, "the place is held until the end is taken");
    assert_eq!(second.status, Status::Success);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_08_checksum_is_of_the_bytes_that_were_delivered() {
    // The double recomputes checksum and size at every end; here are the texts that are hard.
    let texts = play(|mut run| async move {
        match run.job.spec.name.as_str() {
            "invalid" => {
                run.print(b"ok \xff\xfe ").await;
                run.print(b"split \xe2\x82").await;
                run.print(b"\xac and unfinished \xe2\x82").await;
            }
            "long" => {
                for _ in 0..50 {
                    run.print("é0123456789".repeat(300).as_bytes()).await;
                }
            }
            "zeros" => run.print(run.variable("TEXT").to_string().as_bytes()).await,
            _ => {}
        }
        Outcome::Success
    });
    let mut site = Site::new(Settings::default(), texts).await;
    site.configs[0].output_limit_bytes = 50_000;
    site.start();
    assert_eq!(site.run(job("invalid")).await.log(), "ok \u{fffd}\u{fffd} split € and unfinished \u{fffd}");
    let long = site.run(job("long")).await;
    assert!(std::str::from_utf8(&long.trace).is_ok());
    assert!(long.log().contains("exceeded limit of 50000 bytes"));
    let leading_zeros = (0u32..).map(|n| n.to_string()).find(|t| crc32fast::hash(t.as_bytes()) < 1 << 20).unwrap();
    let mut payload = job("zeros");
    payload["variables"].as_array_mut().unwrap().push(variable("TEXT", &leading_zeros));
    let zeros = site.run(payload).await;
    assert!(zeros.end("checksum").unwrap().as_str().unwrap().starts_with("crc32:000"), "{:?}", zeros.end("checksum"));
    assert_eq!(site.run(job("empty")).await.end("output"), Some(&json!({"checksum": "crc32:00000000", "bytesize": 0})));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_09_end_comes_after_the_last_byte() {
    let big = play(|mut run| async move {
        for n in 0..300u32 {
            run.print(&vec![b'a' + (n % 26) as u8; 20_000]).await;
        }
        Outcome::Success
    });
    let mut site = Site::new(Settings::default(), big).await;
    site.configs[0].output_limit_bytes = 16 << 20;
    site.start();
    let done = site.run(job("six megabytes")).await;
    assert_eq!(done.trace.len(), 6_000_000);
    assert!(done.patches.iter().all(|(_, length, _)| *length <= 1 << 20));
    assert_eq!(done.ends.len(), 1);
    assert!(done.patches.last().unwrap().2 <= done.ends[0].1);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_10_canceling_ends_the_script_gracefully_and_the_log_goes_on() {
    let cancelled = play(|mut run| async move {
        run.print(b"script\n").await;
        assert_eq!(run.cancelled().await, Cancel::Graceful);
        run.print(b"after_script CI_JOB_STATUS=canceled\n").await;
        Outcome::Canceled
    });
    let site = Site::started(Settings::default(), cancelled).await;
    let id = site.double.enqueue(job("to be canceled"));
    site.double.until("it prints", |s| s.jobs[&id].log().contains("script").then_some(())).await;
    site.double.cancel(id);
    let done = site.double.over(id).await;
    assert_eq!(done.status, Status::Canceled);
    assert_eq!(done.end("state"), Some(&json!("failed")));
    assert_eq!(done.end("failure_reason"), Some(&json!("unknown_failure")));
    assert!(done.log().ends_with("after_script CI_JOB_STATUS=canceled\n"));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_10_canceled_or_failed_ends_everything_without_a_word() {
    let aborted = play(|mut run| async move {
        run.print(b"script\n").await;
        assert_eq!(run.cancelled().await, Cancel::Abort);
        run.print(b"nobody reads this\n").await;
        failed(FailureReason::ScriptFailure, Some(1))
    });
    let site = Site::started(Settings::default(), aborted).await;
    for status in [Status::Canceled, Status::Failed] {
        let id = site.double.enqueue(job("to be killed"));
        site.double.until("it prints", |s| s.jobs[&id].log().contains("script").then_some(())).await;
        site.double.kill(id, status);
        site.double
            .until("it learns", |s| {
                s.seen.iter().any(|c| c.status == 403 && c.path.contains(&id.to_string())).then_some(())
            })
            .await;
        site.up().idle().await;
        let mut running = site.desk.running.subscribe();
        running.wait_for(|(now, _)| *now == 0).await.unwrap();
        let done = site.double.state().jobs[&id].clone();
        assert!(done.ends.is_empty());
        assert_eq!(done.log(), "script\n");
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_11_silent_job_says_that_it_lives_and_learns_of_its_cancellation() {
    let silent = play(|mut run| async move {
        assert_eq!(run.cancelled().await, Cancel::Graceful);
        Outcome::Canceled
    });
    let site = Site::started(Settings::default(), silent).await;
    let id = site.double.enqueue(job("silent"));
    let alive = site
        .double
        .until("three keep-alives", |s| Some(s.jobs[&id].keep_alives.clone()).filter(|k| k.len() == 3))
        .await;
    assert!(alive.windows(2).all(|w| w[1] - w[0] >= SECOND * 15));
    site.double.cancel(id);
    assert_eq!(site.double.over(id).await.status, Status::Canceled);
    assert!(site.double.state().jobs[&id].patches.is_empty());
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_12_interval_of_the_server_lies_between_patches() {
    let chatty = play(|mut run| async move {
        for n in 0..80 {
            run.print(format!("line {n}\n").as_bytes()).await;
            tokio::time::sleep(SECOND).await;
        }
        Outcome::Success
    });
    let settings = Settings { update_interval: Some(20), ..Settings::default() };
    let site = Site::started(settings, chatty).await;
    let done = site.run(job("chatty")).await;
    // The first PATCH brought the interval; the last ones come with the end, without pause.
    let before_end: Vec<_> = done.patches.iter().filter(|p| p.2 + SECOND * 10 < done.ends[0].1).collect();
    assert!(before_end.len() >= 2, "{:?}", done.patches);
    assert!(before_end.windows(2).all(|w| w[1].2 - w[0].2 >= SECOND * 10), "{before_end:?}");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_13_exit_codes_and_reasons_are_told_as_they_are() {
    let by_name = play(|run| async move {
        match run.job.spec.name.as_str() {
            "exit 42" => failed(FailureReason::ScriptFailure, Some(42)),
            "exit 0" => failed(FailureReason::ScriptFailure, Some(0)),
            "system" => failed(FailureReason::RunnerSystemFailure, None),
            "timeout" => failed(FailureReason::JobExecutionTimeout, None),
            _ => Outcome::Success,
        }
    });
    let site = Site::started(Settings::default(), by_name).await;
    for (name, state, reason, code) in [
        ("exit 42", "failed", Some("script_failure"), Some(42)),
        ("exit 0", "failed", Some("script_failure"), None),
        ("system", "failed", Some("runner_system_failure"), None),
        ("timeout", "failed", Some("job_execution_timeout"), None),
        ("fine", "success", None, None),
    ] {
        let done = site.run(job(name)).await;
        assert_eq!(done.end("state"), Some(&json!(state)), "{name}");
        assert_eq!(done.end("failure_reason").and_then(Value::as_str), reason, "{name}");
        assert_eq!(done.end("exit_code").and_then(Value::as_i64), code, "{name}");
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_14_reason_that_the_server_did_not_list_is_not_sent() {
    let pull = play(|_| async { failed(FailureReason::ImagePullFailure, None) });
    let site = Site::started(Settings::default(), pull).await;
    let mut payload = job("old server");
    payload["features"]["failure_reasons"] = json!(["script_failure"]);
    assert_eq!(site.run(payload).await.end("failure_reason"), Some(&json!("runner_system_failure")));
    let mut payload = job("new server");
    payload["features"]["failure_reasons"] = json!(["script_failure", "image_pull_failure"]);
    assert_eq!(site.run(payload).await.end("failure_reason"), Some(&json!("image_pull_failure")));
    let mut payload = job("ancient server");
    payload["features"] = Value::Null;
    assert_eq!(site.run(payload).await.end("failure_reason"), Some(&json!("runner_system_failure")));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_22_token_of_the_job_is_in_body_and_header() {
    let site = Site::started(Settings::default(), hello()).await;
    let done = site.run(job("tokens")).await;
    for put in site.double.calls("PUT", &format!("/jobs/{}", done.id)) {
        assert_eq!(put.json()["token"], json!(done.token));
        assert_eq!(put.header("job-token"), done.token);
    }
    for patch in site.double.calls("PATCH", &format!("/jobs/{}/trace", done.id)) {
        assert_eq!(patch.header("job-token"), done.token);
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_34_log_over_the_limit_does_not_end_the_job() {
    let noisy = play(|mut run| async move {
        for _ in 0..60 {
            run.print(&[b'y'; 100_000]).await;
        }
        failed(FailureReason::ScriptFailure, Some(3))
    });
    let mut site = Site::new(Settings::default(), noisy).await;
    let limit = 4 << 20;
    site.configs[0].output_limit_bytes = limit as u64;
    site.start();
    let done = site.run(job("six megabytes")).await;
    assert!(done.trace.len() > limit && done.trace.len() < limit + 300, "{}", done.trace.len());
    assert!(done.log().ends_with("no more output will be collected.\u{1b}[0;m\n"));
    assert_eq!(done.end("exit_code"), Some(&json!(3)), "the job went on");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_trace_is_said_from_the_first_byte_on() {
    let site = Site::started(Settings::default(), hello()).await;
    for key in ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"] {
        let mut payload = job("debug");
        payload["variables"].as_array_mut().unwrap().push(variable(key, "true"));
        assert!(site.run(payload).await.restricted);
    }
    assert!(!site.run(job("plain")).await.restricted);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_servers_412_makes_the_whole_log_go_again() {
    let site = Site::new(Settings::default(), hello()).await;
    let mut site = site;
    let id = site.double.enqueue(job("412"));
    site.double.script(&format!("END /jobs/{id}"), [Reply::error(412, "log validation failed")]);
    site.start();
    let done = site.double.over(id).await;
    let patches = site.double.calls("PATCH", &format!("/jobs/{id}/trace"));
    let ranges: Vec<&str> = patches.iter().map(|p| p.header("content-range")).collect();
    assert_eq!(ranges, ["0-5", "0-5"], "twice whole");
    assert_eq!((done.log().as_str(), done.status), ("hello\n", Status::Success));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_given_up_before_it_began_is_aborted() {
    let patient = play(|mut run| async move {
        assert_eq!(run.cancelled().await, Cancel::Abort);
        Outcome::Canceled
    });
    let mut site = Site::new(Settings::default(), patient).await;
    let id = site.double.enqueue(job("gone"));
    site.double.script(&format!("PUT /jobs/{id}"), [Reply::error(404, "404 Not Found")]);
    site.start();
    site.desk.running.subscribe().wait_for(|(now, most)| *now == 0 && *most == 1).await.unwrap();
    site.up().idle().await;
    assert_eq!(site.double.calls("PUT", &format!("/jobs/{id}")).len(), 1, "nothing after it");
    site.double.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_loses_nothing() {
    let lines = play(|mut run| async move {
        for n in 0..100 {
            run.print(format!("line {n}\n").as_bytes()).await;
            tokio::time::sleep(SECOND).await;
        }
        failed(FailureReason::ScriptFailure, Some(7))
    });
    let site = Site::started(Settings::default(), lines).await;
    let id = site.double.enqueue(job("through an outage"));
    site.double.until("some lines", |s| s.jobs[&id].log().contains("line 5").then_some(())).await;
    site.double.set_down(true);
    // Down until well after the job's end: ten failed tries of the end at least.
    site.desk.running.subscribe().wait_for(|(now, _)| *now == 0).await.unwrap();
    let before = site.double.state().turned_away;
    site.double.until("it tries on", |s| (s.turned_away > before + 10).then_some(())).await;
    site.double.set_down(false);
    let done = site.double.over(id).await;
    let expected: String = (0..100).map(|n| format!("line {n}\n")).collect();
    assert_eq!(done.log(), expected);
    assert_eq!(done.end("exit_code"), Some(&json!(7)));
    assert_eq!(site.desk.runs(&remote(id)), 1);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_in_the_middle_loses_nothing_and_runs_nothing_twice() {
    let lines = play(|mut run| async move {
        for n in 0..200 {
            run.print(format!("line {n}\n").as_bytes()).await;
            tokio::time::sleep(SECOND).await;
        }
        Outcome::Success
    });
    let settings = Settings { persist_rounds: 2, ..Settings::default() };
    let mut site = Site::started(settings, lines).await;
    let ids: Vec<u64> = (0..3).map(|n| site.double.enqueue(job(&format!("job {n}")))).collect();
    for line in [10, 60, 120, 150] {
        let text = format!("line {line}\n");
        site.double.until("some lines", |s| ids.iter().all(|id| s.jobs[id].log().contains(&text)).then_some(())).await;
        site.kill().await;
        site.start();
    }
    let expected: String = (0..200).map(|n| format!("line {n}\n")).collect();
    for id in ids {
        let done = site.double.over(id).await;
        assert_eq!(done.log(), expected);
        assert_eq!((done.status, done.handed_out), (Status::Success, 1));
        assert_eq!(site.desk.runs(&remote(id)), 1);
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_that_was_not_told_before_a_kill_is_told_after_it() {
    let mut site = Site::new(Settings::default(), hello()).await;
    let id = site.double.enqueue(job("end in the spool"));
    site.start();
    site.double.until("it has begun", |s| (s.jobs[&id].handed_out == 1).then_some(())).await;
    site.double.set_down(true);
    site.desk.running.subscribe().wait_for(|(now, most)| *now == 0 && *most == 1).await.unwrap();
    site.kill().await;
    site.double.set_down(false);
    site.start();
    let done = site.double.over(id).await;
    assert_eq!((done.log().as_str(), done.status), ("hello\n", Status::Success));
    assert_eq!(site.desk.runs(&remote(id)), 1);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_the_scheduler_forgot_is_failed_not_run_again() {
    let patient = play(|mut run| async move {
        run.print(b"begun\n").await;
        run.cancelled().await;
        Outcome::Success
    });
    let mut site = Site::started(Settings::default(), patient).await;
    let id = site.double.enqueue(job("forgotten"));
    site.double.until("it prints", |s| s.jobs[&id].log().contains("begun").then_some(())).await;
    site.kill().await;
    site.desk.forget();
    site.start();
    let done = site.double.over(id).await;
    assert_eq!(done.end("failure_reason"), Some(&json!("runner_system_failure")));
    assert!(done.log().contains("begun\n") && done.log().contains("the runner lost the job"), "{}", done.log());
    assert_eq!(site.desk.runs(&remote(id)), 0, "not run again");
    site.assert_clean().await;
}
