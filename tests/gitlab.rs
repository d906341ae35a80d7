//! As a GitLab server's runner, with real containers: `slipway up` against the strict double.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use serde_json::{Value, json};
use site::{Process, Repository, Site};
use slipway_double::payload::{archive, job, push, report, secret, variable};
use slipway_double::server::TOKEN;
use slipway_double::{Double, Job, Settings, Status};
use std::io::Read as _;

/// A server, a repository, and `slipway up` as its runner.
struct Scene {
    double: Double,
    site: Site,
    repository: Repository,
    up: Option<Process>,
}

impl Scene {
    /// `files` of the repository; `runner` keys of the node; `upstream` keys.
    async fn new(files: &[(&str, &str)], runner: &str, upstream: &str) -> Scene {
        let double =
            Double::start(Settings { update_interval: Some(1), patience: site::PATIENCE, ..Settings::default() }).await;
        let mut site = Site::new();
        site.runner = runner.to_owned();
        site.tables = format!(
            "[[upstream]]\nname = \"gitlab\"\nurl = \"{}\"\ntoken = \"{TOKEN}\"\ncheck_interval_seconds = 1\n{upstream}\n",
            double.url()
        );
        let repository = site.repository("repository", files);
        let mut scene = Scene { double, site, repository, up: None };
        scene.up = Some(scene.site.up());
        scene
    }

    /// A job of the repository's head.
    fn job(&self, name: &str, image: &str, script: &[&str]) -> Value {
        let mut payload = job(name, Some(image), script);
        let sha = self.repository.head();
        let git = &mut payload["git_info"];
        git["repo_url"] = json!(self.repository.path);
        git["ref"] = json!("master");
        git["sha"] = json!(sha);
        git["refspecs"] = json!(["+refs/heads/master:refs/remotes/origin/master"]);
        for (key, value) in [("CI_COMMIT_SHA", sha.as_str()), ("CI_COMMIT_REF_NAME", "master")] {
            push(&mut payload, "variables", variable(key, value));
        }
        payload
    }

    async fn run(&self, payload: Value) -> Job {
        let id = self.double.enqueue(payload);
        self.double.over(id).await
    }

    /// No breach, and the service ends well.
    fn end(mut self) {
        let code = self.up.take().expect("running").signal("TERM");
        assert_eq!(code, 0);
        self.double.assert_clean();
    }
}

fn ended(job: &Job, state: Status, reason: Option<&str>, code: Option<i64>) {
    let log = job.log();
    assert_eq!(job.status, state, "{log}");
    assert_eq!(job.end("failure_reason").and_then(Value::as_str), reason, "{log}");
    assert_eq!(job.end("exit_code").and_then(Value::as_i64), code, "{log}");
}

fn after_script(payload: &mut Value, script: &[&str]) {
    let step =
        json!({ "name": "after_script", "script": script, "timeout": 300, "when": "always", "allow_failure": true });
    push(payload, "steps", step);
}

/// Files of a zip archive.
fn unzip(bytes: &[u8]) -> Vec<(String, String)> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).expect("a zip archive");
    (0..zip.len())
        .map(|n| {
            let mut file = zip.by_index(n).expect("an entry");
            let mut text = String::new();
            file.read_to_string(&mut text).expect("text");
            (file.name().expect("a name").into_owned(), text)
        })
        .filter(|(name, _)| !name.ends_with('/'))
        .collect()
}

/// Contents of the members of a gzip file, one after the other.
fn gunzip_members(bytes: &[u8]) -> Vec<String> {
    let (mut members, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        let mut text = String::new();
        member.read_to_string(&mut text).expect("a member");
        rest = member.into_inner();
        members.push(text);
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_for_gitlab_as_they_did_here() {
    let scene = Scene::new(&[("file.txt", "content\n")], "", "").await;

    // Outcomes, and what the log holds.
    let mut payload = scene.job("fails", "alpine:latest", &["cat file.txt", "echo \"token is $TOKEN\"", "exit 42"]);
    push(&mut payload, "variables", secret("TOKEN", "very-secret-value"));
    after_script(&mut payload, &["echo \"after: $CI_JOB_STATUS\""]);
    let done = scene.run(payload).await;
    ended(&done, Status::Failed, Some("script_failure"), Some(42));
    let log = done.log();
    assert!(log.contains("content\n") && log.contains("token is [MASKED]") && log.contains("after: failed"), "{log}");
    assert!(!log.contains("very-secret-value"), "{log}");
    let (starts, ends) = (log.matches("section_start:").count(), log.matches("section_end:").count());
    assert!(starts > 0 && starts == ends, "{starts} sections begin, {ends} end:\n{log}");

    let done = scene.run(scene.job("no such image", "127.0.0.1:5000/no/such:image", &["true"])).await;
    assert_eq!(done.status, Status::Failed);
    assert_eq!(done.end("failure_reason"), Some(&json!("runner_system_failure")), "the server lists no pull failure");

    let mut payload = scene.job("too slow", "alpine:latest", &["echo begun", "sleep 600"]);
    payload["runner_info"]["timeout"] = json!(8);
    after_script(&mut payload, &["echo must not run"]);
    let done = scene.run(payload).await;
    ended(&done, Status::Failed, Some("job_execution_timeout"), None);
    assert!(!done.log().contains("must not run\n"), "{}", done.log());

    // Cancelled in the middle: after_script runs and sees it.
    let mut payload = scene.job("cancelled", "alpine:latest", &["echo begun", "sleep 600", "echo not reached"]);
    after_script(&mut payload, &["echo \"after: $CI_JOB_STATUS\""]);
    let id = scene.double.enqueue(payload);
    scene.double.until("it has begun", |s| s.jobs[&id].log().contains("\nbegun\n").then_some(())).await;
    scene.double.cancel(id);
    let done = scene.double.over(id).await;
    assert_eq!(done.status, Status::Canceled);
    assert!(done.log().contains("after: canceled"), "{}", done.log());
    scene.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_and_reports_reach_gitlab_and_the_next_job() {
    let scene = Scene::new(&[("file.txt", "content\n")], "", "").await;
    let mut payload = scene.job(
        "build",
        "alpine:latest",
        &[
            "mkdir -p out/deep && echo built > out/deep/app && echo log > out/app.log",
            "echo 'VERSION=1.2.3' > build.env",
            "echo '<testsuite name=\"a\" tests=\"1\"></testsuite>' > a.xml",
            "echo '<testsuite name=\"b\" tests=\"2\"></testsuite>' > b.xml",
            "echo '[]' > gl-code-quality-report.json",
        ],
    );
    let mut kept = archive(&["out/"]);
    kept["exclude"] = json!(["**/*.log"]);
    kept["name"] = json!("build-$CI_COMMIT_REF_NAME");
    push(&mut payload, "artifacts", kept);
    push(&mut payload, "artifacts", report("dotenv", "gzip", ".env", &["build.env"]));
    push(&mut payload, "artifacts", report("junit", "gzip", "junit.xml", &["*.xml"]));
    let quality = report("codequality", "raw", "gl-code-quality-report.json", &["gl-code-quality-report.json"]);
    push(&mut payload, "artifacts", quality);
    let done = scene.run(payload).await;
    ended(&done, Status::Success, None, None);
    let of = |kind: &str| {
        done.artifacts.iter().find(|a| a.kind == kind).unwrap_or_else(|| panic!("no {kind}: {}", done.log())).clone()
    };
    let zip = of("archive");
    assert_eq!(unzip(&zip.bytes), [("out/deep/app".to_owned(), "built\n".to_owned())]);
    assert_eq!((zip.name.as_str(), zip.expire_in.as_deref()), ("build-master.zip", Some("1 week")));
    assert_eq!(gunzip_members(&of("dotenv").bytes), ["VERSION=1.2.3\n"]);
    assert_eq!(gunzip_members(&of("junit").bytes).len(), 2, "a member a file");
    assert_eq!(of("codequality").bytes, b"[]\n");

    // The next job gets the archive, and what GitLab made of the dotenv report.
    let mut next = scene.job("deploy", "alpine:latest", &["cat out/deep/app", "echo \"version $VERSION\"", "ls out"]);
    push(&mut next, "variables", variable("VERSION", "1.2.3"));
    push(
        &mut next,
        "dependencies",
        json!({ "id": done.id, "name": "build", "token": "its-own-token",
                "artifacts_file": { "filename": "artifacts.zip", "size": zip.bytes.len() },
                "double_bytes": zip.bytes }),
    );
    push(&mut next, "dependencies", json!({ "id": 5, "name": "kept nothing", "token": "other" }));
    let done = scene.run(next).await;
    ended(&done, Status::Success, None, None);
    assert!(done.log().contains("\nbuilt\n") && done.log().contains("version 1.2.3"), "{}", done.log());

    // 24: nothing matches is a warning; two files for one raw report is a failure.
    let mut payload = scene.job("nothing", "alpine:latest", &["true"]);
    push(&mut payload, "artifacts", archive(&["nope"]));
    let done = scene.run(payload).await;
    ended(&done, Status::Success, None, None);
    assert!(done.artifacts.is_empty());
    let mut payload = scene.job("ambiguous", "alpine:latest", &["echo [] > a.json", "echo [] > b.json"]);
    push(&mut payload, "artifacts", report("codequality", "raw", "q.json", &["*.json"]));
    let done = scene.run(payload).await;
    ended(&done, Status::Failed, Some("script_failure"), None);

    // The server's limit is the job's fault.
    scene.double.state().settings.artifact_limit = 1000;
    let mut payload = scene.job("too big", "alpine:latest", &["head -c 100000 /dev/urandom > big"]);
    push(&mut payload, "artifacts", archive(&["big"]));
    let done = scene.run(payload).await;
    assert_eq!(done.status, Status::Failed, "{}", done.log());
    assert!(done.log().contains("413"), "{}", done.log());
    scene.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_articles_pipeline_runs_as_gitlab_hands_it_out() {
    let files = [
        ("Dockerfile", "FROM alpine:latest\nCOPY file.txt /file.txt\nRUN cat /file.txt\n"),
        ("file.txt", "content of the image\n"),
    ];
    let scene = Scene::new(&files, "", "").await;
    let registry = Site::registry();
    let mut payload = scene.job(
        "build_image",
        "docker:stable",
        &[
            "docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY",
            "docker build -t $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA .",
            "docker push $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA",
        ],
    );
    let service = json!({ "name": "docker:dind", "alias": null, "entrypoint": null, "command": null, "ports": [],
                          "executor_opts": {}, "pull_policy": null, "variables": [] });
    push(&mut payload, "services", service);
    let repository = format!("gitlab/app-{}", std::process::id());
    for (key, value) in [
        ("DOCKER_DRIVER", "overlay2"),
        ("CI_REGISTRY", registry.as_str()),
        ("CI_REGISTRY_USER", "gitlab-ci-token"),
        ("CI_REGISTRY_IMAGE", &format!("{registry}/{repository}")),
    ] {
        push(&mut payload, "variables", variable(key, value));
    }
    push(&mut payload, "variables", secret("CI_REGISTRY_PASSWORD", "registry-password"));
    let done = scene.run(payload).await;
    ended(&done, Status::Success, None, None);
    let log = done.log();
    assert!(log.contains("Login Succeeded") && !log.contains("registry-password"), "{log}");
    let manifest = format!("http://{registry}/v2/{repository}/manifests/{}", scene.repository.head());
    let accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
                  application/vnd.oci.image.manifest.v1+json";
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(&manifest).header("accept", accept).send().await.expect("the registry answers");
    assert_eq!(answer.status(), 200, "{manifest}");

    let mut deploy =
        scene.job("deploy_production", "alpine:latest", &["echo \"$KUBE_CONFIG\" | base64 -d > config", "cat config"]);
    push(&mut deploy, "variables", variable("KUBE_CONFIG", "Y2x1c3Rlcgo="));
    push(&mut deploy, "variables", variable("CI_ENVIRONMENT_NAME", "production"));
    let done = scene.run(deploy).await;
    ended(&done, Status::Success, None, None);
    assert!(done.log().contains("\ncluster\n"), "{}", done.log());
    scene.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_of_log_and_twenty_jobs_at_once_arrive_whole() {
    let big = 64 << 20;
    let scene =
        Scene::new(&[], &format!("capacity = 20\noutput_limit_bytes = {big}"), &format!("output_limit_bytes = {big}"))
            .await;
    let lines = 500_000;
    let script = format!("awk 'BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%098d\\n\", i }}'");
    let large = scene.double.enqueue(scene.job("large", "alpine:latest", &[&script]));
    let small: Vec<u64> = (0..20)
        .map(|n| {
            let line = format!("echo job number {n} says hello; exit $(({n} % 3))");
            scene.double.enqueue(scene.job(&format!("small {n}"), "alpine:latest", &[&line]))
        })
        .collect();
    for (n, id) in small.into_iter().enumerate() {
        let done = scene.double.over(id).await;
        match n % 3 {
            0 => ended(&done, Status::Success, None, None),
            code => ended(&done, Status::Failed, Some("script_failure"), Some(code as i64)),
        }
        assert!(done.log().contains(&format!("job number {n} says hello")), "{}", done.log());
        assert_eq!(done.handed_out, 1);
    }
    let done = scene.double.over(large).await;
    assert_eq!(done.status, Status::Success);
    let log = done.log();
    let numbers = log.lines().filter(|l| l.len() == 98 && l.bytes().all(|b| b.is_ascii_digit()));
    let mut count = 0u64;
    for (expected, line) in numbers.enumerate() {
        assert_eq!(line.parse::<u64>().ok(), Some(expected as u64));
        count += 1;
    }
    assert_eq!(count, lines, "49.5 MB of lines, each once and in order");
    scene.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_the_service_and_an_outage_of_gitlab_lose_nothing() {
    let mut scene = Scene::new(&[], "", "").await;
    let script = "for i in $(seq 1 40); do echo \"line $i\"; sleep 0.5; done; exit 7";
    let id = scene.double.enqueue(scene.job("through trouble", "alpine:latest", &[script]));
    scene.double.until("it prints", |s| s.jobs[&id].log().contains("\nline 3\n").then_some(())).await;
    scene.double.set_down(true);
    scene.up.take().expect("running").kill();
    scene.double.forgive();
    scene.up = Some(scene.site.up());
    scene.double.until("it knocks", |s| (s.turned_away > 3).then_some(())).await;
    scene.double.set_down(false);
    let done = scene.double.over(id).await;
    ended(&done, Status::Failed, Some("script_failure"), Some(7));
    let log = done.log();
    let lines: Vec<&str> = log.lines().filter(|l| l.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=40).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected, "{log}");
    assert_eq!(done.handed_out, 1);
    scene.end();
}

/// `register`, `list`, `verify`, `unregister` as scripts for the official runner call them.
#[tokio::test(flavor = "multi_thread")]
async fn registration_writes_the_configuration_and_unregistration_takes_it_out() {
    let double = Double::start(Settings::default()).await;
    let site = Site::new();
    let config = site.config();
    let before = std::fs::read_to_string(&config).unwrap();
    let config = config.to_str().unwrap();
    let url = double.url();
    let slipway = async |args: &[&str]| {
        let mut command = site.command(args);
        command.stdin(std::process::Stdio::null()).env("CONFIG_FILE", config);
        tokio::task::spawn_blocking(move || site::Finished(command.output().unwrap())).await.unwrap()
    };

    // 18: a glrt- token is only verified, and nothing that GitLab owns may be said with it.
    let register = ["register", "--non-interactive", "--url", &url, "--token", TOKEN];
    let refused = slipway(&[&register[..], &["--tag-list", "a,b"]].concat()).await.expect(1);
    assert!(refused.err().contains("--tag-list"), "{}", refused.all());
    assert!(double.state().seen.is_empty());
    let wrong = slipway(&["register", "-n", "-u", &url, "-t", "glrt-wrong"]).await.expect(1);
    assert!(wrong.err().contains("does not know this token"), "{}", wrong.all());
    slipway(&["register", "-n", "-u", &url]).await.expect(1);
    slipway(&["register", "-n", "-t", TOKEN]).await.expect(1);
    assert_eq!(std::fs::read_to_string(config).unwrap(), before, "nothing was written");

    let more = [
        "--name",
        "first server",
        "--limit",
        "2",
        "--docker-privileged",
        "--docker-volumes",
        "/cache",
        "--executor",
        "docker",
    ];
    let done = slipway(&[&register[..], &more].concat()).await.expect(0);
    assert!(done.out().contains("registered successfully as `first-server`"), "{}", done.all());
    assert!(double.state().seen.iter().all(|s| s.is("POST", "/runners/verify")));

    double.state().registration_token = "GR1348941secret".into();
    let legacy =
        ["register", "-n", "-u", &url, "-r", "GR1348941secret", "--name", "legacy", "--tag-list", "docker,linux"];
    slipway(&legacy).await.expect(0);
    let made = double.state().runners["legacy-token-2"].options.clone();
    assert_eq!(
        (&made["tag_list"], &made["description"], &made["locked"]),
        (&json!("docker,linux"), &json!("legacy"), &json!(true))
    );

    let listed = slipway(&["list", "--json"]).await.expect(0).json();
    let names: Vec<&str> = listed.iter().map(|u| u["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first-server", "legacy"]);
    assert_eq!((&listed[0]["id"], &listed[0]["limit"]), (&json!(42), &json!(2)));
    assert!(!slipway(&["list"]).await.expect(0).out().contains(TOKEN), "tokens are not printed whole");

    slipway(&["verify"]).await.expect(0);
    double.state().runners.remove("legacy-token-2");
    slipway(&["verify", "--name", "first-server"]).await.expect(0);
    slipway(&["verify"]).await.expect(1);
    slipway(&["verify", "--delete"]).await.expect(1);
    assert_eq!(slipway(&["list", "--json"]).await.expect(0).json().len(), 1);

    // 19: all of these calls came from one machine. 21: it is taken off the runner, which stays.
    assert_eq!(double.state().runners[TOKEN].managers.len(), 1);
    slipway(&["unregister"]).await.expect(1);
    slipway(&["unregister", "--url", &url, "--token", TOKEN]).await.expect(0);
    assert!(double.state().runners[TOKEN].managers.is_empty());
    assert_eq!(double.calls("DELETE", "/runners/managers").len(), 1);
    assert!(slipway(&["list"]).await.expect(0).out().is_empty());
    let after = std::fs::read_to_string(config).unwrap();
    assert_eq!(after.trim_end(), before.trim_end(), "the rest of the file is as it was");
    double.assert_clean();
}
