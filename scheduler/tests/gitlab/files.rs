//! Artifacts up and down.

use crate::site::{Run, Site, job, play};
use serde_json::json;
use slipway_double::{Reply, Settings, Status};
use slipway_scheduler::upstream::{Upload, UpstreamError};
use slipway_spec::job::ArtifactFormat;
use slipway_spec::outcome::{FailureReason, Outcome};

/// Uploads what the variables `KIND`, `FORMAT`, `NAME` say, and prints what became of it.
fn uploading() -> crate::site::Play {
    play(|mut run: Run| async move {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), run.variable("CONTENT").repeat(run.variable("TIMES").parse().unwrap_or(1)))
            .unwrap();
        let (kind, name) = (run.variable("KIND").to_string(), run.variable("NAME").to_string());
        let format = match run.variable("FORMAT") {
            "gzip" => ArtifactFormat::Gzip,
            "raw" => ArtifactFormat::Raw,
            _ => ArtifactFormat::Zip,
        };
        let upload = Upload { file: file.path(), name: &name, kind: &kind, format, expire_in: Some("1 week") };
        match run.upload(upload).await {
            Ok(()) => Outcome::Success,
            Err(UpstreamError::Artifact { text, jobs_fault }) => {
                run.print(text.as_bytes()).await;
                let reason = if jobs_fault { FailureReason::ScriptFailure } else { FailureReason::RunnerSystemFailure };
                Outcome::Failed { reason, exit_code: None, message: text }
            }
            Err(other) => panic!("{other}"),
        }
    })
}

fn upload_job(kind: &str, format: &str, name: &str) -> serde_json::Value {
    let mut payload = job("upload");
    for (key, value) in [("KIND", kind), ("FORMAT", format), ("NAME", name), ("CONTENT", "bytes of a file")] {
        payload["variables"].as_array_mut().unwrap().push(slipway_double::payload::variable(key, value));
    }
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn point_23_upload_has_one_part_named_file_and_type_and_format_of_the_job() {
    let site = Site::started(Settings::default(), uploading()).await;
    for (kind, format, name) in [
        ("", "zip", "artifacts.zip"),
        ("junit", "gzip", "junit.xml.gz"),
        ("dotenv", "gzip", ".env.gz"),
        ("codequality", "raw", "gl-code-quality-report.json"),
    ] {
        let done = site.run(upload_job(kind, format, name)).await;
        assert_eq!(done.status, Status::Success, "{}", done.log());
        let file = &done.artifacts[0];
        assert_eq!(file.kind, if kind.is_empty() { "archive" } else { kind });
        assert_eq!((file.format.as_str(), file.name.as_str()), (format, name));
        assert_eq!(file.bytes, b"bytes of a file");
        assert_eq!(file.expire_in.as_deref(), Some("1 week"));
    }
    assert!(site.double.state().seen.iter().all(|s| !s.path.contains("authorize")));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_25_uploads_are_tried_as_often_as_their_answers_deserve() {
    let site = Site::started(Settings::default(), uploading()).await;
    for (status, tries, success) in [
        (413, 1, false),
        (403, 1, false),
        (400, 3, false),
        (405, 3, false),
        (500, 3, false),
        (503, 6, false),
        (500, 2, true),
        (503, 5, true),
    ] {
        let payload = upload_job("archive", "zip", "artifacts.zip");
        let id = site.double.state().jobs.keys().last().map_or(1001, |id| id + 1);
        let path = format!("/jobs/{id}/artifacts");
        let refusals = if success { tries - 1 } else { 10 };
        site.double.script(&format!("POST {path}"), (0..refusals).map(|_| Reply::error(status, "no")));
        assert_eq!(site.double.enqueue(payload), id);
        let done = site.double.over(id).await;
        assert_eq!(site.double.calls("POST", &path).len(), tries, "{status}");
        assert_eq!(done.status == Status::Success, success, "{status}: {}", done.log());
        if !success {
            assert!(done.log().contains(&format!("HTTP {status}")), "{}", done.log());
        }
    }
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_over_the_limit_is_the_jobs_fault() {
    let site = Site::started(Settings { artifact_limit: 1000, ..Settings::default() }, uploading()).await;
    let mut payload = upload_job("archive", "zip", "artifacts.zip");
    payload["variables"].as_array_mut().unwrap().push(slipway_double::payload::variable("TIMES", "1000"));
    let done = site.run(payload).await;
    assert_eq!(done.end("failure_reason"), Some(&json!("script_failure")));
    assert!(done.log().contains("too large"), "{}", done.log());
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_is_sent_on_to_the_server_that_307_names() {
    let site = Site::started(Settings::default(), uploading()).await;
    let id = 1001;
    // The same server by its other name: path and query of the Location do not count.
    let other = site.double.url().replace("127.0.0.1", "localhost");
    let moved = Reply::error(307, "moved").with("Location", format!("{other}/elsewhere?x=y"));
    site.double.script(&format!("POST /jobs/{id}/artifacts"), [moved]);
    let done = site.run(upload_job("archive", "zip", "artifacts.zip")).await;
    assert_eq!((done.id, done.status), (id, Status::Success), "{}", done.log());
    let calls = site.double.calls("POST", &format!("/jobs/{id}/artifacts"));
    assert_eq!(calls.len(), 2);
    assert!(calls[1].header("host").starts_with("localhost"));
    assert_eq!(calls[0].query, calls[1].query);
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_waits_for_a_server_that_cannot_be_reached() {
    let started = std::sync::Arc::new(tokio::sync::Notify::new());
    let seen = started.clone();
    let inner = uploading();
    let outer = play(move |run| {
        seen.notify_one();
        inner(run)
    });
    let mut site = Site::new(Settings::default(), outer).await;
    let id = site.double.enqueue(upload_job("archive", "zip", "artifacts.zip"));
    site.start();
    started.notified().await;
    site.double.set_down(true);
    site.double.until("calls in vain", |s| (s.turned_away > 5).then_some(())).await;
    site.double.set_down(false);
    let done = site.double.over(id).await;
    assert_eq!((done.status, done.artifacts.len()), (Status::Success, 1), "{}", done.log());
    site.assert_clean().await;
}

/// Downloads every dependency and prints its name and content.
fn downloading() -> crate::site::Play {
    play(|mut run: Run| async move {
        let file = tempfile::NamedTempFile::new().unwrap();
        for dependency in run.job.spec.dependencies.clone() {
            match run.download(dependency.job.0, file.path()).await {
                Ok(bytes) => {
                    let content = std::fs::read(file.path()).unwrap();
                    assert_eq!(content.len() as u64, bytes);
                    run.print(format!("{}: {}\n", dependency.name, String::from_utf8_lossy(&content)).as_bytes()).await;
                }
                Err(error) => {
                    run.print(format!("{}: {error}\n", dependency.name).as_bytes()).await;
                    return Outcome::Failed {
                        reason: FailureReason::MissingDependencyFailure,
                        exit_code: None,
                        message: error.to_string(),
                    };
                }
            }
        }
        Outcome::Success
    })
}

fn download_job() -> serde_json::Value {
    let mut payload = job("download");
    payload["dependencies"] = json!([
        { "id": 7, "name": "build", "token": "token-of-build", "artifacts_file": { "filename": "artifacts.zip", "size": 5 },
          "double_bytes": b"built".to_vec() },
        { "id": 8, "name": "no artifacts", "token": "token-of-other" },
        { "id": 9, "name": "lint", "token": "token-of-lint", "artifacts_file": { "filename": "artifacts.zip", "size": 6 },
          "double_bytes": b"linted".to_vec() },
    ]);
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn point_26_direct_download_keeps_the_token_from_the_storage() {
    let settings = Settings { direct_download: true, ..Settings::default() };
    let site = Site::started(settings, downloading()).await;
    let done = site.run(download_job()).await;
    assert_eq!(done.log(), "build: built\nlint: linted\n");
    assert_eq!(site.double.state().storage_seen.len(), 2);
    assert!(site.double.state().storage_seen.iter().all(|h| !h.contains_key("job-token")));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_26_broken_storage_makes_the_second_attempt_go_by_the_server() {
    let settings = Settings { direct_download: true, storage_broken: true, ..Settings::default() };
    let site = Site::started(settings, downloading()).await;
    let done = site.run(download_job()).await;
    assert_eq!(done.log(), "build: built\nlint: linted\n");
    let calls = site.double.calls("GET", "/jobs/7/artifacts");
    assert_eq!(calls[0].query.get("direct_download").map(String::as_str), Some("true"));
    assert!(!calls[1].query.contains_key("direct_download"));
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn point_27_each_dependency_is_fetched_with_its_own_token_or_not_at_all() {
    let site = Site::started(Settings::default(), downloading()).await;
    let done = site.run(download_job()).await;
    assert_eq!(done.log(), "build: built\nlint: linted\n");
    assert_eq!(site.double.calls("GET", "/jobs/7/artifacts")[0].header("job-token"), "token-of-build");
    assert_eq!(site.double.calls("GET", "/jobs/9/artifacts")[0].header("job-token"), "token-of-lint");
    assert!(site.double.calls("GET", "/jobs/8/artifacts").is_empty(), "it has nothing");
    site.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_archive_is_not_asked_for_again() {
    let site = Site::started(Settings::default(), downloading()).await;
    let id = site.double.enqueue(download_job());
    site.double.state().archives.remove(&7);
    let done = site.double.over(id).await;
    assert!(done.log().contains("HTTP 404") && done.log().contains("expired or were deleted"), "{}", done.log());
    assert_eq!(done.end("failure_reason"), Some(&json!("missing_dependency_failure")));
    assert_eq!(site.double.calls("GET", "/jobs/7/artifacts").len(), 1);
    site.assert_clean().await;
}
