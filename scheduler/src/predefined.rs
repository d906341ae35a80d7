//! GitLab's predefined variables, those that are known before the jobs exist and those of one job.

use crate::config::Config;
use crate::record::{Commit, Job, Origin, Pipeline};
use slipway_spec::job::EnvironmentAction;
use slipway_spec::slug;
use slipway_spec::variable::Variable;

/// GitLab cuts a commit's message here.
const MAX_MESSAGE_BYTES: usize = 100_000;

struct List(Vec<Variable>);

impl List {
    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.push(Variable { raw: true, ..Variable::public(key, value) });
    }
}

/// What `rules`, `include` and `workflow` may use: known before the pipeline exists.
#[must_use]
pub fn of_origin(config: &Config, project_id: u64, origin: &Origin) -> Vec<Variable> {
    let mut v = List(Vec::with_capacity(64));
    v.set("CI", "true");
    v.set("GITLAB_CI", "true");
    server(config, &mut v);
    project(config, project_id, origin, &mut v);
    commit(origin, &mut v);
    v.set("CI_PIPELINE_SOURCE", origin.source.clone());
    if origin.source == "trigger" {
        v.set("CI_PIPELINE_TRIGGERED", "true");
    }
    v.set("CI_CONFIG_PATH", origin.config_path.clone());
    v.set("CI_DEFAULT_BRANCH", origin.default_branch.clone());
    v.set("GITLAB_USER_LOGIN", origin.submitted_by.clone());
    v.set("GITLAB_USER_NAME", origin.submitted_by.clone());
    v.0
}

fn server(config: &Config, v: &mut List) {
    let (protocol, rest) = config.url.split_once("://").unwrap_or(("http", config.url.as_str()));
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (authority, if protocol == "https" { "443" } else { "80" }),
    };
    v.set("CI_SERVER", "yes");
    v.set("CI_SERVER_NAME", "Slipway");
    v.set("CI_SERVER_URL", config.url.clone());
    v.set("CI_SERVER_HOST", host);
    v.set("CI_SERVER_FQDN", authority);
    v.set("CI_SERVER_PORT", port);
    v.set("CI_SERVER_PROTOCOL", protocol);
    v.set("CI_SERVER_VERSION", env!("CARGO_PKG_VERSION"));
    let mut version = env!("CARGO_PKG_VERSION").split('.');
    for part in ["MAJOR", "MINOR", "PATCH"] {
        v.set(&format!("CI_SERVER_VERSION_{part}"), version.next().unwrap_or("0"));
    }
}

fn project(config: &Config, id: u64, origin: &Origin, v: &mut List) {
    let path = origin.project_path.as_str();
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    v.set("CI_PROJECT_ID", id.to_string());
    v.set("CI_PROJECT_NAME", name);
    v.set("CI_PROJECT_TITLE", name);
    v.set("CI_PROJECT_PATH", path);
    v.set("CI_PROJECT_PATH_SLUG", slug::ref_slug(path));
    v.set("CI_PROJECT_NAMESPACE", namespace);
    v.set("CI_PROJECT_NAMESPACE_SLUG", slug::ref_slug(namespace));
    v.set("CI_PROJECT_ROOT_NAMESPACE", namespace.split('/').next().unwrap_or(""));
    v.set("CI_PROJECT_URL", format!("{}/{path}", config.url));
    v.set("CI_PROJECT_VISIBILITY", "private");
    if let Some(registry) = &config.registry {
        v.set("CI_REGISTRY", registry.clone());
        v.set("CI_REGISTRY_IMAGE", format!("{registry}/{}", path.to_lowercase()));
    }
}

fn commit(origin: &Origin, v: &mut List) {
    let Commit { message, author, timestamp, tag_message, .. } = &origin.commit;
    v.set("CI_COMMIT_SHA", origin.sha.clone());
    v.set("CI_COMMIT_SHORT_SHA", origin.sha.chars().take(8).collect::<String>());
    v.set("CI_COMMIT_BEFORE_SHA", origin.before_sha.clone());
    v.set("CI_COMMIT_REF_NAME", origin.ref_name.clone());
    v.set("CI_COMMIT_REF_SLUG", slug::ref_slug(&origin.ref_name));
    if origin.is_tag {
        v.set("CI_COMMIT_TAG", origin.ref_name.clone());
        v.set("CI_COMMIT_TAG_MESSAGE", tag_message.clone().unwrap_or_default());
    } else {
        v.set("CI_COMMIT_BRANCH", origin.ref_name.clone());
    }
    let protected = origin.tier == slipway_spec::job::Tier::Protected;
    v.set("CI_COMMIT_REF_PROTECTED", protected.to_string());
    let shown = crate::text::cut(message, MAX_MESSAGE_BYTES);
    v.set("CI_COMMIT_MESSAGE", shown);
    if shown.len() < message.len() {
        v.set("CI_COMMIT_MESSAGE_IS_TRUNCATED", "true");
    }
    let (title, rest) = shown.split_once('\n').unwrap_or((shown, ""));
    v.set("CI_COMMIT_TITLE", title);
    let description = if title.chars().count() < 100 { rest.strip_prefix('\n').unwrap_or(rest) } else { shown };
    v.set("CI_COMMIT_DESCRIPTION", description);
    v.set("CI_COMMIT_AUTHOR", author.clone());
    v.set("CI_COMMIT_TIMESTAMP", timestamp.clone());
}

/// What only a job knows.
#[must_use]
pub fn of_job(config: &Config, pipeline: &Pipeline, job: &Job, timeout_seconds: u64) -> Vec<Variable> {
    let mut v = List(Vec::with_capacity(32));
    let planned = pipeline.planned(job);
    let project_url = format!("{}/{}", config.url, pipeline.origin.project_path);
    v.set("CI_PIPELINE_ID", pipeline.id.to_string());
    v.set("CI_PIPELINE_IID", pipeline.iid.to_string());
    v.set("CI_PIPELINE_URL", format!("{project_url}/-/pipelines/{}", pipeline.id));
    v.set("CI_PIPELINE_CREATED_AT", pipeline.created_at.to_string());
    if let Some(name) = &pipeline.plan.name {
        v.set("CI_PIPELINE_NAME", name.clone());
    }
    if let Some(parent) = pipeline.parent {
        v.set("CI_UPSTREAM_PIPELINE_ID", parent.pipeline.to_string());
    }
    v.set("CI_JOB_ID", job.id.to_string());
    v.set("CI_JOB_URL", format!("{project_url}/-/jobs/{}", job.id));
    v.set("CI_JOB_NAME", planned.name.clone());
    v.set("CI_JOB_NAME_SLUG", slug::ref_slug(&planned.name));
    v.set("CI_JOB_GROUP_NAME", group_name(&planned.name));
    v.set("CI_JOB_STAGE", planned.stage.clone());
    v.set("CI_JOB_TIMEOUT", timeout_seconds.to_string());
    if let Some(image) = &planned.image {
        v.set("CI_JOB_IMAGE", image.name.clone());
    }
    if !planned.variables.iter().any(|var| var.key == "CI_NODE_TOTAL") {
        v.set("CI_NODE_TOTAL", "1");
    }
    if let Some(played) = &job.played {
        v.set("CI_JOB_MANUAL", "true");
        v.set("GITLAB_USER_LOGIN", played.by.clone());
        v.set("GITLAB_USER_NAME", played.by.clone());
    }
    if let Some(environment) = &planned.environment {
        v.set("CI_ENVIRONMENT_NAME", environment.name.clone());
        v.set("CI_ENVIRONMENT_SLUG", slug::environment_slug(&environment.name));
        v.set("CI_ENVIRONMENT_ACTION", action(environment.action));
        v.set("CI_ENVIRONMENT_TIER", tier(&environment.name));
        if let Some(url) = &environment.url {
            // Not raw: the address may name other variables.
            v.0.push(Variable::public("CI_ENVIRONMENT_URL", url.clone()));
        }
    }
    v.0
}

/// The name without ` 1/3` or `: [a, b]`.
#[must_use]
pub fn group_name(name: &str) -> &str {
    if let Some((group, rest)) = name.rsplit_once(": [")
        && rest.ends_with(']')
    {
        return group;
    }
    if let Some((group, rest)) = name.rsplit_once(' ') {
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if rest.split_once('/').is_some_and(|(a, b)| number(a) && number(b)) {
            return group;
        }
    }
    name
}

fn action(action: EnvironmentAction) -> &'static str {
    match action {
        EnvironmentAction::Start => "start",
        EnvironmentAction::Stop => "stop",
        EnvironmentAction::Prepare => "prepare",
        EnvironmentAction::Verify => "verify",
        EnvironmentAction::Access => "access",
    }
}

/// GitLab's guess of an environment's tier by its name.
#[must_use]
pub fn tier(name: &str) -> &'static str {
    const GUESSES: [(&str, &[&str]); 4] = [
        ("development", &["dev", "review", "trunk"]),
        ("testing", &["test", "tst", "int", "acpt", "accept", "qa", "qc", "control", "quality"]),
        ("staging", &["stg", "stag", "model", "modl", "pre", "demo", "non"]),
        ("production", &["prd", "prod", "live"]),
    ];
    let name = name.to_lowercase();
    GUESSES.iter().find(|(_, words)| words.iter().any(|w| name.contains(w))).map_or("other", |(tier, _)| tier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_name_cuts_what_parallel_adds() {
        assert_eq!(group_name("test 1/3"), "test");
        assert_eq!(group_name("test: [amd64, 12]"), "test");
        assert_eq!(group_name("deploy to a/b"), "deploy to a/b");
    }

    #[test]
    fn tier_is_guessed_in_gitlabs_order() {
        assert_eq!(tier("review/app"), "development");
        assert_eq!(tier("production"), "production");
        assert_eq!(tier("pre-prod"), "staging");
        assert_eq!(tier("eu"), "other");
    }
}
