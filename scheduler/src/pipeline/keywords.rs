//! Every keyword of `.gitlab-ci.yml`, once: what it is a part of, and what Slipway does with it.
//!
//! The validator takes its unknown-key errors, its did-you-mean and its warnings from here; `docs/keywords.md` is
//! checked against it by a test.

/// What Slipway does with a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Acted upon.
    Works,
    /// Checked, and not acted upon yet: a warning says so.
    Planned,
    /// Checked; only a GitLab server can act upon it: a warning says so.
    NeedsServer,
    /// An error, although GitLab takes it.
    Refused,
}

impl State {
    /// The word in `docs/keywords.md`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Works => "works",
            State::Planned => "planned",
            State::NeedsServer => "needs a server",
            State::Refused => "refused",
        }
    }
}

/// One keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyword {
    /// What it stands in: `""` for the root, `job`, `artifacts:reports`.
    pub parent: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What Slipway does with it.
    pub state: State,
}

use State::{NeedsServer, Planned, Refused, Works};

/// (parent, state, names). The order of names is the order of did-you-mean ties and of the document.
const TABLE: &[(&str, State, &[&str])] = &[
    ("", Works, &["default", "include", "stages", "variables", "workflow", "image", "services", "cache"]),
    ("", Works, &["before_script", "after_script", "spec"]),
    ("spec", Works, &["inputs", "include", "component", "description"]),
    ("spec:inputs", Works, &["type", "default", "description", "options", "regex", "rules"]),
    ("spec:inputs:rules", Works, &["if", "options", "default"]),
    ("include", Works, &["local", "project", "file", "ref", "remote", "component", "inputs", "rules"]),
    ("include", Works, &["integrity"]),
    ("include", NeedsServer, &["template"]),
    ("include", Planned, &["cache"]),
    ("include:rules", Works, &["if", "changes", "exists", "when"]),
    ("workflow", Works, &["name", "rules", "auto_cancel"]),
    ("workflow:auto_cancel", Works, &["on_new_commit", "on_job_failure"]),
    ("workflow:rules", Works, &["if", "changes", "exists", "when", "variables", "auto_cancel"]),
    ("default", Works, &["after_script", "artifacts", "before_script", "cache", "image"]),
    ("default", Works, &["hooks"]),
    ("default", Works, &["interruptible", "retry", "services", "tags", "timeout"]),
    ("default", NeedsServer, &["id_tokens", "identity"]),
    ("job", Works, &["script", "before_script", "after_script", "stage", "image", "services", "variables"]),
    ("job", Works, &["rules", "needs", "dependencies", "artifacts", "cache", "tags", "when", "allow_failure"]),
    ("job", Works, &["retry", "timeout", "parallel", "interruptible", "resource_group", "environment"]),
    ("job", Works, &["extends", "inherit", "trigger", "only", "except", "coverage", "start_in"]),
    ("job", Works, &["hooks"]),
    ("job", Planned, &["manual_confirmation", "inputs"]),
    ("job", NeedsServer, &["release", "pages", "publish", "secrets", "id_tokens", "identity"]),
    ("job", NeedsServer, &["dast_configuration"]),
    ("job", Refused, &["run"]),
    ("inherit", Works, &["default", "variables"]),
    ("allow_failure", Works, &["exit_codes"]),
    ("retry", Works, &["max", "when", "exit_codes"]),
    ("image", Works, &["name", "entrypoint", "docker", "pull_policy"]),
    ("image", NeedsServer, &["kubernetes"]),
    ("image:docker", Works, &["platform", "user"]),
    ("image:kubernetes", NeedsServer, &["user"]),
    ("services", Works, &["name", "alias", "entrypoint", "command", "variables", "docker", "pull_policy"]),
    ("services", NeedsServer, &["kubernetes"]),
    ("services:docker", Works, &["platform", "user"]),
    ("services:kubernetes", NeedsServer, &["user"]),
    ("variables", Works, &["value", "expand"]),
    ("variables", NeedsServer, &["description", "options"]),
    ("artifacts", Works, &["paths", "exclude", "name", "when", "expire_in", "untracked", "reports"]),
    ("artifacts", NeedsServer, &["expose_as", "public", "access"]),
    ("artifacts:reports", Works, &["dotenv", "junit"]),
    ("artifacts:reports", Planned, &["coverage_report"]),
    ("artifacts:reports", NeedsServer, &["accessibility", "annotations", "api_fuzzing", "browser_performance"]),
    ("artifacts:reports", NeedsServer, &["codequality", "container_scanning", "coverage_fuzzing", "cyclonedx"]),
    ("artifacts:reports", NeedsServer, &["dast", "dependency_scanning", "license_management", "license_scanning"]),
    ("artifacts:reports", NeedsServer, &["load_performance", "lsif", "metrics", "repository_xray"]),
    ("artifacts:reports", NeedsServer, &["requirements", "sarif", "sast", "secret_detection", "terraform"]),
    ("artifacts:reports:coverage_report", Planned, &["coverage_format", "path"]),
    ("cache", Works, &["key", "paths", "policy", "when", "fallback_keys", "untracked"]),
    ("cache", NeedsServer, &["unprotect"]),
    ("cache:key", Works, &["files", "prefix"]),
    ("cache:key", Planned, &["files_commits"]),
    ("environment", Works, &["name", "url", "action"]),
    ("environment", Planned, &["on_stop", "auto_stop_in", "deployment_tier"]),
    ("environment", NeedsServer, &["kubernetes"]),
    ("environment:kubernetes", NeedsServer, &["agent", "namespace", "flux_resource_path"]),
    ("environment:kubernetes", NeedsServer, &["managed_resources", "dashboard"]),
    ("needs", Works, &["job", "artifacts", "optional", "parallel"]),
    ("needs", Planned, &["pipeline"]),
    ("needs", NeedsServer, &["project", "ref"]),
    ("parallel", Works, &["matrix"]),
    ("rules", Works, &["if", "changes", "exists", "when", "start_in", "allow_failure", "variables", "needs"]),
    ("rules", Works, &["interruptible"]),
    ("rules:changes", Works, &["paths", "compare_to", "regexp"]),
    ("rules:exists", Works, &["paths", "regexp"]),
    ("rules:exists", NeedsServer, &["project", "ref"]),
    ("only", Works, &["refs", "variables", "changes"]),
    ("only", NeedsServer, &["kubernetes"]),
    ("hooks", Works, &["pre_get_sources_script"]),
    ("trigger", Works, &["include", "strategy", "forward", "inputs", "project", "branch"]),
    (
        "trigger:include",
        Works,
        &["local", "artifact", "job", "inputs", "project", "file", "ref", "remote", "component"],
    ),
    ("trigger:include", NeedsServer, &["template"]),
    ("trigger:forward", Works, &["yaml_variables", "pipeline_variables"]),
    ("release", NeedsServer, &["tag_name", "tag_message", "name", "description", "ref", "milestones"]),
    ("release", NeedsServer, &["released_at", "assets"]),
    ("release:assets", NeedsServer, &["links"]),
    ("release:assets:links", NeedsServer, &["name", "url", "filepath", "link_type"]),
    ("pages", NeedsServer, &["publish", "path_prefix", "expire_in"]),
    ("secrets", NeedsServer, &["vault", "gcp_secret_manager", "azure_key_vault", "aws_secrets_manager"]),
    ("secrets", NeedsServer, &["gitlab_secrets_manager", "file", "token"]),
    ("id_tokens", NeedsServer, &["aud"]),
    ("dast_configuration", NeedsServer, &["site_profile", "scanner_profile"]),
    ("run", Refused, &["name", "step", "func", "script", "env", "inputs"]),
    ("inputs", Planned, &["type", "default", "description", "options", "regex"]),
];

/// All keywords.
pub fn all() -> impl Iterator<Item = Keyword> {
    TABLE
        .iter()
        .flat_map(|(parent, state, names)| names.iter().map(move |name| Keyword { parent, name, state: *state }))
}

/// The keywords that may stand in one.
pub fn of(parent: &str) -> impl Iterator<Item = Keyword> {
    all().filter(move |k| k.parent == parent)
}

/// What Slipway does with a keyword; `None` when there is no such keyword.
#[must_use]
pub fn state(parent: &str, name: &str) -> Option<State> {
    TABLE.iter().find(|(p, _, names)| *p == parent && names.contains(&name)).map(|(_, state, _)| *state)
}
