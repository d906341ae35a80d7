//! Pushes and schedules make pipelines: told, found by asking a real repository, and by the clock.

use slipway_scheduler::triggers::config::{Schedule, Triggers};
use slipway_scheduler::triggers::refs::Changed;
use slipway_scheduler::triggers::{Keeper, MakePipeline, NotMade, Told, Wanted, Watched, webhook};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hands every wanted pipeline to the test.
struct Maker(mpsc::Sender<Wanted>);

impl MakePipeline for Maker {
    fn make(&self, wanted: Wanted) -> Pin<Box<dyn Future<Output = Result<u64, NotMade>> + Send>> {
        let to = self.0.clone();
        Box::pin(async move {
            let refused = wanted.ref_name == "refused";
            to.send(wanted).await.unwrap();
            if refused { Err(NotMade::ForGood("no job fits".into())) } else { Ok(7) }
        })
    }
}

fn git(folder: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn watched(repository: &Path, poll: Option<u64>) -> Watched {
    Watched {
        project: "group/name".into(),
        repository: repository.display().to_string(),
        triggers: Triggers { poll_seconds: poll, ..Triggers::default() },
        schedules: Vec::new(),
    }
}

struct Started {
    keeper: Keeper,
    wanted: mpsc::Receiver<Wanted>,
    stop: tokio_util::sync::DropGuard,
}

fn start(watched: Watched, folder: &Path) -> Started {
    let (to, wanted) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let keeper = Keeper::start(vec![watched], folder, Arc::new(Maker(to)), stop.clone()).unwrap();
    Started { keeper, wanted, stop: stop.drop_guard() }
}

async fn next(started: &mut Started) -> Wanted {
    tokio::time::timeout(Duration::from_secs(60), started.wanted.recv()).await.expect("a pipeline is wanted").unwrap()
}

#[tokio::test]
async fn push_found_by_asking_makes_one_pipeline_and_what_was_there_before_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("r");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q", "-b", "master"]);
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let first = git(&repository, &["rev-parse", "HEAD"]);
    let mut started = start(watched(&repository, Some(1)), folder.path());
    // The first look only remembers; its file is the sign that it has happened.
    let file = folder.path().join("group%2Fname.json");
    tokio::time::timeout(Duration::from_secs(60), async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "two"]);
    let second = git(&repository, &["rev-parse", "HEAD"]);
    let wanted = next(&mut started).await;
    assert_eq!(
        (wanted.ref_name.as_str(), wanted.sha.as_str(), wanted.before_sha.as_str()),
        ("master", &*second, &*first)
    );
    assert_eq!((wanted.source, wanted.who.as_str()), ("push", "poll"));
    // A tag is a push too, and the branch is not built twice.
    git(&repository, &["tag", "v1"]);
    let wanted = next(&mut started).await;
    assert_eq!((wanted.ref_name.as_str(), wanted.is_tag), ("v1", true));
    drop(started.stop);
}

#[tokio::test]
async fn push_that_was_told_twice_makes_one_pipeline_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let changes = vec![Changed { name: "refs/heads/master".into(), old: "a".repeat(40), new: "b".repeat(40) }];
    let told = Told { project: "group/name".into(), changes, who: "hook of ada".into() };
    let mut started = start(watched(folder.path(), None), folder.path());
    assert_eq!(started.keeper.pushed(told.clone()).await, Ok(vec![7]));
    assert_eq!(next(&mut started).await.who, "hook of ada");
    assert_eq!(started.keeper.pushed(told.clone()).await, Ok(vec![]));
    drop(started);
    let started = start(watched(folder.path(), None), folder.path());
    assert_eq!(started.keeper.pushed(told.clone()).await, Ok(vec![]));
    let unknown = Told { project: "no/such".into(), ..told };
    assert!(started.keeper.pushed(unknown).await.unwrap_err().contains("no [[project]]"));
}

#[tokio::test]
async fn push_without_a_pipeline_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let started = start(watched(folder.path(), None), folder.path());
    let changes = vec![Changed { name: "refs/heads/refused".into(), old: "a".repeat(40), new: "b".repeat(40) }];
    let told = Told { project: "group/name".into(), changes, who: "hook".into() };
    assert_eq!(started.keeper.pushed(told).await, Err("no job fits".into()));
}

#[tokio::test]
async fn schedule_missed_while_stopped_fires_once_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut project = watched(folder.path(), None);
    project.schedules.push(Schedule {
        name: "nightly".into(),
        cron: "0 4 * * *".into(),
        timezone: "UTC".into(),
        ref_name: "master".into(),
        variables: BTreeMap::from([("WHY".into(), "night".into())]),
    });
    // Fired last a week ago: seven times missed.
    let week_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 7);
    let memory = format!("{{\"fired\":{{\"nightly\":\"{week_ago}\"}}}}");
    std::fs::write(folder.path().join("group%2Fname.json"), memory).unwrap();
    let mut started = start(project, folder.path());
    let wanted = next(&mut started).await;
    assert_eq!((wanted.source, wanted.who.as_str()), ("schedule", "schedule \"nightly\""));
    assert_eq!(wanted.variables, [("WHY".to_owned(), "night".to_owned())]);
    // A told push goes through the same task after it: had the schedule fired twice, it would come first.
    let changes = vec![Changed { name: "refs/heads/x".into(), old: "a".repeat(40), new: "b".repeat(40) }];
    started.keeper.pushed(Told { project: "group/name".into(), changes, who: "hook".into() }).await.unwrap();
    assert_eq!(next(&mut started).await.ref_name, "x");
}

#[tokio::test]
async fn webhook_is_answered_only_with_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut started = start(watched(folder.path(), None), folder.path());
    let secrets: Triggers = toml::from_str("webhook_secret = \"s3cret\"").unwrap();
    let secrets = BTreeMap::from([("group/name".to_owned(), secrets.webhook_secret.unwrap())]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = webhook::router(started.keeper.clone(), secrets);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let post = |project: &str, token: &str, body: String| {
        reqwest::Client::new()
            .post(format!("http://{address}/webhook/{project}"))
            .header("X-Gitlab-Token", token)
            .body(body)
            .send()
    };
    let push = format!(r#"{{"ref":"refs/heads/master","before":"{}","after":"{}"}}"#, "0".repeat(40), "b".repeat(40));
    assert_eq!(post("group/name", "wrong", push.clone()).await.unwrap().status(), 401);
    assert_eq!(post("no/such", "s3cret", push.clone()).await.unwrap().status(), 401);
    assert_eq!(post("group/name", "s3cret", "{}".into()).await.unwrap().status(), 400);
    let huge = format!(r#"{{"ref":"{}"}}"#, "x".repeat(2 << 20));
    assert_eq!(post("group/name", "s3cret", huge).await.unwrap().status(), 413);
    assert_eq!(post("group/name", "s3cret", push).await.unwrap().status(), 200);
    assert_eq!(next(&mut started).await.ref_name, "master");
}
