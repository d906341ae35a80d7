//! The job as handed out becomes a `JobSpec`.

use crate::site::{Site, hello, job};
use serde_json::{Value, json};
use slipway_double::{Settings, Status};
use slipway_scheduler::upstream::gitlab::config::UpstreamConfig;
use slipway_scheduler::upstream::gitlab::payload::spec::{Taken, Unfit, read};
use slipway_spec::job::{ArtifactFormat, JobSpec, PullPolicy, Tier, When};
use slipway_spec::outcome::FailureReason;

fn config() -> UpstreamConfig {
    UpstreamConfig::new("gitlab", "https://gitlab.example.com", "glrt-x")
}

fn taken(payload: &Value) -> Taken {
    read(payload.to_string().as_bytes(), &config()).unwrap()
}

fn spec(payload: &Value) -> JobSpec {
    let taken = taken(payload);
    assert_eq!(taken.unfit, None);
    taken.facts.job.unwrap().spec
}

fn unfit(payload: &Value) -> Unfit {
    taken(payload).unfit.expect("not to be run")
}

fn minimal() -> Value {
    json!({ "id": 5, "token": "t" })
}

#[test]
fn point_15_minimal_payloads_are_read() {
    let bare = spec(&minimal());
    assert_eq!((bare.timeout_seconds, bare.tier, bare.trace_sections), (7200, Tier::Unprotected, false));
    let mut nulls = minimal();
    for key in [
        "job_info",
        "git_info",
        "runner_info",
        "features",
        "variables",
        "steps",
        "image",
        "services",
        "artifacts",
        "cache",
        "credentials",
        "dependencies",
        "hooks",
        "inputs",
        "secrets",
        "run",
        "policy_options",
    ] {
        nulls[key] = Value::Null;
    }
    assert_eq!(spec(&nulls), bare);
    let nulls_inside = json!({
        "id": "5", "token": "t",
        "job_info": { "name": null, "stage": null, "project_id": null, "time_in_queue_seconds": null },
        "git_info": { "repo_url": null, "ref": null, "sha": null, "refspecs": null, "depth": null, "protected": null },
        "runner_info": { "timeout": null, "runner_session_url": null },
        "features": { "trace_sections": null, "failure_reasons": null, "token_mask_prefixes": null },
        "variables": [{ "key": "A", "value": null, "public": null, "masked": null, "file": null, "raw": null }],
        "steps": [{ "name": "script", "script": null, "when": null, "allow_failure": null, "timeout": null }],
        "image": { "name": null },
        "services": [{ "name": null }, { "name": "redis", "alias": null, "entrypoint": null, "command": null,
            "variables": null, "ports": null, "executor_opts": null, "pull_policy": null }],
        "artifacts": [{ "name": null, "paths": null, "when": null, "expire_in": null, "artifact_type": null,
            "artifact_format": null, "untracked": null, "exclude": null }],
        "cache": [{ "key": null, "paths": null, "policy": null, "when": null, "fallback_keys": null, "untracked": null }],
        "credentials": [{ "type": null, "url": null, "username": null, "password": null }],
        "dependencies": [{ "id": 1, "name": null, "token": null, "artifacts_file": null }],
        "hooks": [{ "name": null, "script": null }],
    });
    let read = spec(&nulls_inside);
    assert_eq!((read.image, read.services.len(), read.dependencies.len()), (None, 1, 0));
    assert_eq!(read.variables[0].value, "");
    assert_eq!(read.caches[0].policy, "pull-push");
}

/// Everything at once, with the odd shapes that occur.
fn maximal() -> Value {
    json!({
        "id": 9_007_199_254_740_993u64, "token": "glcbt-1", "allow_git_fetch": true, "future": [{}],
        "job_info": { "id": 9_007_199_254_740_993u64, "name": "build image", "stage": "build", "project_id": 17,
            "project_name": "demo", "project_full_path": "group/sub/demo", "pipeline_id": 4, "scoped_user_id": null,
            "time_in_queue_seconds": null, "project_jobs_running_on_instance_runners_count": "+Inf", "queue_size": 1 },
        "git_info": { "repo_url": "https://gitlab-ci-token:pa%2Fss@host:8443/gitlab/group/demo.git", "ref": "v1",
            "sha": "0123456789012345678901234567890123456789", "before_sha": "0".repeat(40), "ref_type": "tag",
            "refspecs": ["+refs/pipelines/4:refs/pipelines/4", "+refs/tags/v1:refs/tags/v1"], "depth": 20,
            "repo_object_format": "sha1", "protected": null },
        "runner_info": { "timeout": "600", "runner_session_url": null, "uuid": "x" },
        "features": { "trace_sections": true, "failure_reasons": ["script_failure"],
            "token_mask_prefixes": (0..20).map(|n| format!("p{n}-")).collect::<Vec<_>>(), "tracing": {} },
        "variables": [
            { "key": "A", "value": "1", "public": true, "masked": false },
            { "key": "A", "value": "2", "public": false, "masked": true, "raw": true },
            { "key": "F", "value": "content\n", "public": false, "masked": false, "file": true },
            { "key": "N", "value": 5, "public": true, "masked": false },
            { "key": "CI_COMMIT_REF_PROTECTED", "value": "true", "public": true, "masked": false },
            { "key": "CI_ENVIRONMENT_NAME", "value": "production", "public": true },
            { "key": "CI_ENVIRONMENT_ACTION", "value": "start", "public": true }
        ],
        "steps": [
            { "name": "script", "script": ["echo $A", "a\nb"], "timeout": 600, "when": "on_success", "allow_failure": false },
            { "name": "release", "script": ["release-cli create --name \"$A\" --path ${CI_PROJECT_DIR} --f $F"] },
            { "name": "after_script", "script": ["echo $A"], "timeout": 600, "when": "always", "allow_failure": true }
        ],
        "hooks": [{ "name": "pre_get_sources_script", "script": ["echo pre"] }],
        "image": { "name": "docker:stable", "entrypoint": [""], "ports": [],
            "executor_opts": { "docker": { "platform": "linux/amd64", "user": 1000 }, "kubernetes": { "user": "x" } },
            "pull_policy": "if-not-present" },
        "services": [{ "name": "docker:dind", "alias": "docker, dind  d", "entrypoint": [], "command": ["--tls=false"],
            "ports": [], "pull_policy": ["always", "never"], "executor_opts": {},
            "variables": [{ "key": "S", "value": "$A" }] }],
        "artifacts": [
            { "name": "$CI_JOB_NAME", "untracked": true, "paths": ["a/**"], "exclude": ["a/b"], "when": "on_failure",
              "expire_in": "1 week", "artifact_type": "archive", "artifact_format": "zip" },
            { "name": "junit.xml", "untracked": false, "paths": ["*.xml"], "when": "always", "expire_in": null,
              "artifact_type": "junit", "artifact_format": "gzip" },
            { "name": "q.json", "paths": ["q.json"], "artifact_type": "codequality", "artifact_format": "raw" }
        ],
        "cache": [{ "key": "k-protected", "untracked": false, "paths": ["node_modules"], "policy": "pull",
            "when": "always", "fallback_keys": ["f1", "f2"], "unprotect": false }],
        "credentials": [
            { "type": "registry", "url": "registry.host:5050", "username": "gitlab-ci-token", "password": "glcbt-1" },
            { "type": "unknown", "url": "x", "username": "y", "password": "z" }
        ],
        "dependencies": [
            { "id": 3, "name": "compile", "token": "glcbt-3", "artifacts_file": { "filename": "artifacts.zip", "size": 77 } },
            { "id": 4, "name": "nothing", "token": "glcbt-4" }
        ],
        "secrets": {}, "inputs": [], "run": null,
        "policy_options": { "execution_policy_job": false }
    })
}

#[test]
fn point_15_maximal_payload_is_read_whole() {
    let taken = taken(&maximal());
    assert_eq!(taken.facts.remote.id, 9_007_199_254_740_993);
    let job = taken.facts.job.unwrap();
    assert_eq!((job.remote_project, job.remote_pipeline), (17, 4));
    let spec = job.spec;
    assert_eq!((spec.project_path.as_str(), spec.tier), ("group/sub/demo", Tier::Protected));
    assert_eq!(spec.timeout_seconds, 600);
    let login = spec.source.login.clone().unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("gitlab-ci-token", "pa/ss"));
    assert_eq!(spec.source.url, "https://host:8443/gitlab/group/demo.git");
    assert!(spec.source.is_tag);
    assert_eq!(spec.source.refspecs.len(), 2);
    assert_eq!(spec.source.depth, 20);
    let image = spec.image.unwrap();
    assert_eq!(image.entrypoint, Some(vec![String::new()]));
    assert_eq!(image.pull_policy, [PullPolicy::IfNotPresent]);
    assert_eq!((image.user.as_deref(), image.platform.as_deref()), (Some("1000"), Some("linux/amd64")));
    let service = &spec.services[0];
    assert_eq!(service.aliases, ["docker", "dind", "d"]);
    assert_eq!(service.image.pull_policy, [PullPolicy::Always, PullPolicy::Never]);
    assert_eq!(service.variables[0].value, "$A");
    assert_eq!(spec.artifacts[0].when, When::OnFailure);
    assert_eq!(
        spec.artifacts.iter().map(|a| a.format).collect::<Vec<_>>(),
        [ArtifactFormat::Zip, ArtifactFormat::Gzip, ArtifactFormat::Raw]
    );
    assert_eq!(spec.caches[0].fallback_keys, ["f1", "f2"]);
    assert_eq!(spec.credentials.len(), 1);
    assert_eq!(spec.dependencies.len(), 1);
    assert_eq!(spec.dependencies[0].bytes, 77);
    assert_eq!(spec.token_mask_prefixes.len(), 15, "no more are used");
    assert_eq!(spec.environment.unwrap().name, "production");
    assert_eq!(spec.steps[2].name, "after_script");
}

#[test]
fn point_30_last_duplicate_raw_and_file_flags_are_kept_in_order() {
    let spec = spec(&maximal());
    assert_eq!(spec.variable("A"), Some("2"));
    let a: Vec<_> = spec.variables.iter().filter(|v| v.key == "A").collect();
    assert_eq!(a.len(), 2);
    assert!(a[1].raw && a[1].masked && !a[1].public);
    let f = spec.variables.iter().find(|v| v.key == "F").unwrap();
    assert!(f.file);
    assert_eq!(f.value, "content\n");
    assert_eq!(spec.variable("N"), Some("5"));
}

#[test]
fn release_step_gets_known_references_and_leaves_the_rest_to_the_shell() {
    let spec = spec(&maximal());
    assert_eq!(spec.steps[1].script, ["release-cli create --name \"2\" --path ${CI_PROJECT_DIR} --f $F"]);
    assert_eq!(spec.steps[0].script, ["echo $A", "a\nb"], "the script is the shell's");
}

#[tokio::test(flavor = "multi_thread")]
async fn point_16_token_of_two_kilobytes_goes_everywhere() {
    let site = Site::started(Settings::default(), hello()).await;
    let jwt = format!("eyJ{}.{}.", "a".repeat(1500), "b".repeat(600));
    let mut payload = job("jwt");
    payload["git_info"]["repo_url"] = json!(format!("https://gitlab-ci-token:{jwt}@host/group/demo.git"));
    payload["credentials"] = json!([{ "type": "registry", "url": "r", "username": "u", "password": jwt }]);
    let read = {
        let mut payload = payload.clone();
        payload["id"] = json!(1);
        payload["token"] = json!(jwt);
        spec(&payload)
    };
    assert_eq!(read.source.login.unwrap().password, jwt);
    assert_eq!(read.credentials[0].login.password, jwt);
    let id = site.double.enqueue_with_token(payload, &jwt);
    assert_eq!(site.double.over(id).await.status, Status::Success);
    site.assert_clean().await;
}

#[test]
fn what_we_lack_is_said_and_not_run() {
    let with = |key: &str, value: Value| {
        let mut payload = maximal();
        payload[key] = value;
        unfit(&payload)
    };
    let secrets = with("secrets", json!({ "PASSWORD": { "vault": {} } }));
    assert_eq!(secrets.reason, FailureReason::RunnerUnsupported);
    assert!(secrets.text.contains("secrets:"), "{}", secrets.text);
    assert!(with("run", json!("[{\"name\":\"a\"}]")).text.contains("run:"));
    let options = with("image", json!({ "name": "a", "executor_opts": { "docker": { "privileged": true } } }));
    assert_eq!(options.reason, FailureReason::RunnerSystemFailure);
    assert!(options.text.contains("docker.privileged"), "{}", options.text);
    assert!(with("image", json!({ "name": "a", "pull_policy": ["sometimes"] })).text.contains("sometimes"));
    let format = with("artifacts", json!([{ "paths": ["a"], "artifact_format": "tarzstd" }]));
    assert!(format.text.contains("tarzstd"), "{}", format.text);
    let impossible = with("variables", json!({ "not": "a list" }));
    assert_eq!(impossible.reason, FailureReason::RunnerSystemFailure);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_cannot_be_run_is_told_why_in_its_log() {
    let site = Site::started(Settings::default(), hello()).await;
    let mut payload = job("vault");
    payload["secrets"] = json!({ "PASSWORD": { "vault": {} } });
    let done = site.run(payload).await;
    assert_eq!(done.status, Status::Failed);
    assert_eq!(done.end("failure_reason"), Some(&json!("runner_unsupported")));
    assert!(done.log().contains("secrets:"), "{}", done.log());
    let mut payload = job("impossible");
    payload["services"] = json!("redis");
    let done = site.run(payload).await;
    assert_eq!(done.end("failure_reason"), Some(&json!("runner_system_failure")));
    assert_eq!(site.desk.running.borrow().1, 0, "nothing was run");
    site.assert_clean().await;
}

#[test]
fn payload_without_number_or_token_cannot_be_answered() {
    for payload in [json!({ "token": "t" }), json!({ "id": 0, "token": "t" }), json!({ "id": 1 }), json!([])] {
        assert!(read(payload.to_string().as_bytes(), &config()).is_err(), "{payload}");
    }
    assert!(read(b"<html>", &config()).is_err());
}

#[test]
fn settings_of_the_upstream_reach_the_job() {
    let mut config = config();
    config.environment = vec!["A=below".into(), "ONLY=ours".into()];
    config.clone_url = Some("http://internal:8080/".into());
    config.default_image = Some("debian:bookworm-slim".into());
    config.tags = vec!["ssd".into()];
    config.architecture = Some("arm64".into());
    let mut payload = maximal();
    payload["image"] = Value::Null;
    let job = read(payload.to_string().as_bytes(), &config).unwrap().facts.job.unwrap();
    assert_eq!(job.spec.variable("A"), Some("2"), "the job's own wins");
    assert_eq!(job.spec.variable("ONLY"), Some("ours"));
    assert_eq!(job.spec.source.url, "http://internal:8080/gitlab/group/demo.git");
    assert_eq!(job.spec.image.unwrap().name, "debian:bookworm-slim");
    assert_eq!((job.selector.tags, job.selector.architecture.as_deref()), (vec!["ssd".to_string()], Some("arm64")));
}
