//! Asking for jobs.

use crate::site::{SECOND, Site, hello, job, play};
use serde_json::{Value, json};
use slipway_double::server::TOKEN;
use slipway_double::state::RunnerRecord;
use slipway_double::{Reply, Settings, Status};
use slipway_scheduler::upstream::gitlab::config::{Pace, UpstreamConfig};
use slipway_scheduler::upstream::gitlab::features;
use slipway_spec::outcome::Outcome;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn point_01_last_update_is_kept_through_answers_without_it() {
    let mut site = Site::new(Settings::default(), hello()).await;
    let ask = "POST /jobs/request";
    site.double
        .script(ask, [Reply::status(204).with("X-GitLab-Last-Update", "A"), Reply::status(204), Reply::status(409)]);
    site.start();
    let asked = site.double.called(4, "POST", "/jobs/request").await;
    let sent: Vec<Value> = asked[..4].iter().map(|s| s.json()["last_update"].clone()).collect();
    assert_eq!(sent, [Value::Null, json!("A"), json!("A"), json!("A")]);
    assert!(!asked[0].json().as_object().unwrap().contains_key("last_update"), "the first has no such key");
    site.double.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn point_02_long_poll_is_waited_for_and_brings_the_job() {
    assert!(Pace::default().read > Duration::from_secs(60), "GitLab holds a question for 50 s");
    let settings = Settings { hold: Duration::from_millis(600), ..Settings::default() };
    let site = Site::started(settings, hello()).await;
    // The second question carries last_update and is held.
    site.double.called(1, "POST", "/jobs/request").await;
    site.double.until("a question is held", |s| s.asking.get(TOKEN).filter(|(now, _)| *now == 1).map(drop)).await;
    let done = site.run(job("after a long poll")).await;
    assert_eq!(done.status, Status::Success);
    assert_eq!(site.double.state().asking[TOKEN].1, 1, "one question at a time");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_03_409_is_no_reason_to_stop_and_three_403_silence_one_upstream_only() {
    let mut site = Site::new(Settings::default(), hello()).await;
    site.double.script("POST /jobs/request", [Reply::error(409, "409 Conflict"), Reply::error(500, "oops")]);
    let other = "glrt-other-runner";
    let mut refused = UpstreamConfig::new("refused", site.double.url(), other);
    refused.check_interval_seconds = 1;
    site.start();
    assert_eq!(site.run(job("after a conflict")).await.status, Status::Success);
    // A second upstream whose token the server refuses; the first goes on.
    site.stop().await;
    site.configs.push(refused);
    site.start();
    let by = |token: &'static str| {
        move |s: &mut slipway_double::state::State| {
            Some(s.seen.iter().filter(|s| s.path == "/jobs/request" && s.header("runner-token") == token).count())
        }
    };
    site.double.until("three refusals", |s| by(other)(s).filter(|n| *n == 3)).await;
    let before = by(TOKEN)(&mut site.double.state()).unwrap();
    site.double.until("the first asks on", |s| by(TOKEN)(s).filter(|n| *n >= before + 10)).await;
    assert_eq!(by(other)(&mut site.double.state()), Some(3), "left alone for the unhealthy interval");
    assert_eq!(site.run(job("still served")).await.status, Status::Success);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_04_retry_after_is_obeyed_and_no_job_is_lost() {
    let mut site = Site::new(Settings::default(), hello()).await;
    site.double.script("POST /jobs/request", [Reply::error(429, "slow down").with("Retry-After", "40")]);
    let id = site.double.enqueue(job("limited"));
    site.start();
    let done = site.double.over(id).await;
    assert_eq!(done.status, Status::Success);
    let asked = site.double.calls("POST", "/jobs/request");
    assert!(asked[1].at - asked[0].at >= SECOND * 20, "{:?}", asked[1].at - asked[0].at);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_reset_time_in_the_past_is_ignored() {
    let mut site = Site::new(Settings::default(), hello()).await;
    let past =
        Reply::error(429, "x").with("RateLimit-ResetTime", "Sun, 06 Nov 1994 08:49:37 GMT").with("Retry-After", "2");
    site.double.script("POST /jobs/request", [past]);
    let id = site.double.enqueue(job("limited"));
    site.start();
    assert_eq!(site.double.over(id).await.status, Status::Success);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_17_claimed_features_are_those_that_work() {
    let site = Site::started(Settings::default(), hello()).await;
    let asked = site.double.called(1, "POST", "/jobs/request").await;
    let info = &asked[0].json()["info"];
    for needed in [
        "upload_multiple_artifacts",
        "refspecs",
        "return_exit_code",
        "artifacts_exclude",
        "multi_build_steps",
        "fallback_cache_keys",
        "cancel_gracefully",
    ] {
        assert_eq!(info["features"][needed], json!(true), "{needed}");
    }
    for lacking in ["vault_secrets", "session", "terminal", "proxy", "native_steps_integration", "job_inputs"] {
        assert_eq!(info["features"][lacking], json!(false), "{lacking}");
    }
    assert!(features::CLAIMED.iter().all(|f| !features::NOT_CLAIMED.contains(f)));
    assert_eq!(info["executor"], json!("docker"));
    assert!(asked[0].body.len() < 32 << 10, "the front server refuses more");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_47_places_and_limits_are_never_exceeded() {
    let slow = play(|mut run| async move {
        for n in 0..20 {
            run.print(format!("line {n}\n").as_bytes()).await;
            tokio::time::sleep(SECOND).await;
        }
        Outcome::Success
    });
    let mut site = Site::new(Settings { hold: Duration::ZERO, ..Settings::default() }, slow).await;
    site.set_room(3);
    site.configs[0].limit = 2;
    let ids: Vec<u64> = (0..8).map(|n| site.double.enqueue(job(&format!("job {n}")))).collect();
    site.start();
    for id in ids {
        assert_eq!(site.double.over(id).await.status, Status::Success);
    }
    assert_eq!(site.desk.running.borrow().1, 2, "limit");
    assert_eq!(site.double.state().asking[TOKEN].1, 1, "never two questions at once");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_share_the_only_place_fairly() {
    let mut site = Site::new(Settings { hold: Duration::from_secs(30), ..Settings::default() }, hello()).await;
    site.set_room(1);
    let second = "glrt-second";
    site.double.state().runners.insert(second.into(), RunnerRecord::default());
    site.configs.push(UpstreamConfig::new("second", site.double.url(), second));
    site.start();
    // Neither is held by the server for half a minute while the other waits for the place.
    for token in [TOKEN, second] {
        site.double
            .until("both ask again and again", |s| {
                let asked = s.seen.iter().filter(|s| s.path == "/jobs/request" && s.header("runner-token") == token);
                (asked.count() >= 5).then_some(())
            })
            .await;
    }
    let most: u32 = site.double.state().asking.values().map(|(_, most)| *most).max().unwrap();
    assert_eq!(most, 1);
    for n in 0..6 {
        assert_eq!(site.run(job(&format!("job {n}"))).await.status, Status::Success);
    }
    assert_eq!(site.desk.running.borrow().1, 1);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_question_while_there_is_no_place() {
    let mut site = Site::new(Settings::default(), hello()).await;
    site.set_room(0);
    let id = site.double.enqueue(job("patient"));
    site.start();
    // The identity is confirmed without a place; a question would have come first.
    site.double.called(1, "POST", "/runners/verify").await;
    assert!(site.double.calls("POST", "/jobs/request").is_empty());
    site.set_room(1);
    assert_eq!(site.double.over(id).await.status, Status::Success);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_45_stop_asking_lets_running_jobs_end_and_asks_no_more() {
    let patient = play(|mut run| async move {
        run.print(b"begun\n").await;
        run.cancelled().await;
        Outcome::Canceled
    });
    let site = Site::started(Settings::default(), patient).await;
    let id = site.double.enqueue(job("long"));
    site.double.until("it prints", |s| s.jobs[&id].log().contains("begun").then_some(())).await;
    let up = site.up();
    up.stop_asking();
    site.double.until("no question is held", |s| s.asking.get(TOKEN).filter(|(now, _)| *now == 0).map(drop)).await;
    let second = site.double.enqueue(job("too late"));
    let asked = site.double.calls("POST", "/jobs/request").len();
    site.double.cancel(id);
    assert_eq!(site.double.over(id).await.status, Status::Canceled);
    up.idle().await;
    assert_eq!(site.double.calls("POST", "/jobs/request").len(), asked);
    assert_eq!(site.double.state().jobs[&second].status, Status::Pending);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_48_relative_url_root_is_kept() {
    let settings = Settings { root: "/gitlab".into(), ..Settings::default() };
    let mut site = Site::new(settings, hello()).await;
    site.configs[0].url = format!("{}/", site.double.url());
    site.start();
    assert_eq!(site.run(job("below a root")).await.status, Status::Success);
    assert!(site.double.state().seen.iter().all(|s| !s.path.starts_with('!')));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_taken_while_draining_waits_in_the_spool_for_the_next_start() {
    let mut site = Site::new(Settings::default(), hello()).await;
    site.desk.draining.send_replace(true);
    let id = site.double.enqueue(job("late"));
    site.start();
    site.double.until("it says that it lives", |s| (s.jobs[&id].keep_alives.len() > 1).then_some(())).await;
    site.stop().await;
    site.desk.draining.send_replace(false);
    site.start();
    assert_eq!(site.double.over(id).await.status, Status::Success);
    site.assert_clean().await;
}
