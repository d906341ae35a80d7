//! Jobs as GitLab hands them out. Number and token are put in when a job is enqueued.

use serde_json::{Value, json};

/// All reasons that a CE server lists.
pub const REASONS: &[&str] = &[
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
];

/// A job with a script, and everything else as a current server sends it for a simple job. `image: None` sends null.
#[must_use]
pub fn job(name: &str, image: Option<&str>, script: &[&str]) -> Value {
    json!({
        "allow_git_fetch": true,
        "job_info": {
            "name": name, "stage": "test", "project_id": 17, "project_name": "demo", "project_full_path": "group/demo",
            "pipeline_id": 900, "time_in_queue_seconds": 0.5,
            "project_jobs_running_on_instance_runners_count": "+Inf",
        },
        "git_info": {
            "repo_url": "", "ref": "main", "sha": "", "before_sha": "0000000000000000000000000000000000000000",
            "ref_type": "branch", "refspecs": [], "depth": 20, "repo_object_format": "sha1", "protected": true,
        },
        "runner_info": { "timeout": 3600, "runner_session_url": null },
        "variables": [
            variable("CI", "true"),
            variable("GITLAB_CI", "true"),
            variable("CI_PROJECT_PATH", "group/demo"),
            variable("CI_PROJECT_NAME", "demo"),
            variable("CI_PROJECT_NAMESPACE", "group"),
            variable("CI_COMMIT_REF_NAME", "main"),
            variable("CI_JOB_NAME", name),
        ],
        "steps": [{ "name": "script", "script": script, "timeout": 3600, "when": "on_success", "allow_failure": false }],
        "hooks": [],
        "image": image.map(|name| json!({
            "name": name, "entrypoint": null, "ports": [], "executor_opts": {}, "pull_policy": null,
        })),
        "services": [],
        "artifacts": null,
        "cache": [],
        "credentials": [],
        "dependencies": [],
        "features": {
            "trace_sections": true, "token_mask_prefixes": ["glpat-"], "failure_reasons": REASONS,
        },
        "secrets": {},
        "some_key_of_the_future": { "a": [1, 2, 3] },
    })
}

/// A public variable.
#[must_use]
pub fn variable(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": value, "public": true, "masked": false })
}

/// A masked variable.
#[must_use]
pub fn secret(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": value, "public": false, "masked": true })
}

/// An archive entry of `artifacts`.
#[must_use]
pub fn archive(paths: &[&str]) -> Value {
    json!({ "name": null, "untracked": false, "paths": paths, "when": "on_success", "expire_in": "1 week",
            "artifact_type": "archive", "artifact_format": "zip" })
}

/// A report entry of `artifacts`.
#[must_use]
pub fn report(kind: &str, format: &str, name: &str, paths: &[&str]) -> Value {
    json!({ "name": name, "untracked": false, "paths": paths, "when": "always", "expire_in": null,
            "artifact_type": kind, "artifact_format": format })
}

/// Appends to an array of the payload; null counts as empty.
pub fn push(payload: &mut Value, key: &str, item: Value) {
    if !payload[key].is_array() {
        payload[key] = json!([]);
    }
    payload[key].as_array_mut().expect("made above").push(item);
}
