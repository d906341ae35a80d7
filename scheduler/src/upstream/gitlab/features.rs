//! What we claim to be able to do. A claim that is not kept leaks files or loses `after_script`; one that is missing
//! makes the server fail jobs as `runner_unsupported` without a word to us. So: exactly as it works.

use serde_json::{Value, json};

/// The names claimed as true, in the order they are sent.
pub const CLAIMED: &[&str] = &[
    "variables",
    "image",
    "services",
    "artifacts",
    "artifacts_exclude",
    "cache",
    "fallback_cache_keys",
    "upload_multiple_artifacts",
    "upload_raw_artifacts",
    "refspecs",
    "multi_build_steps",
    "return_exit_code",
    "raw_variables",
    "masking",
    "cancelable",
    "cancel_gracefully",
    "trace_reset",
    "trace_checksum",
    "trace_size",
    "service_variables",
    "service_multiple_aliases",
    "image_executor_opts",
    "service_executor_opts",
];

/// Names sent as false, each for a reason: no vault client, no terminal, no port proxy, no step runner, no job inputs;
/// each job has its own environment (`shared`), and the two-phase hand-out has left the servers again.
pub const NOT_CLAIMED: &[&str] = &[
    "vault_secrets",
    "session",
    "terminal",
    "proxy",
    "shared",
    "native_steps_integration",
    "job_inputs",
    "two_phase_job_commit",
];

/// The `info` object of a request.
#[must_use]
pub fn info(architecture: Option<&str>) -> Value {
    let mut features = serde_json::Map::new();
    features.extend(CLAIMED.iter().map(|name| ((*name).to_string(), Value::Bool(true))));
    features.extend(NOT_CLAIMED.iter().map(|name| ((*name).to_string(), Value::Bool(false))));
    json!({
        "name": "slipway",
        "version": env!("CARGO_PKG_VERSION"),
        "revision": "",
        "platform": "linux",
        "architecture": architecture.unwrap_or(if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        "executor": "docker",
        "shell": "bash",
        "features": features,
    })
}
