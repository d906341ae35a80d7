//! [`JobSpec`]: everything a runner needs to know of a job. A job parsed from a file and a job taken from GitLab
//! become the same `JobSpec`; the runner cannot tell them apart.
//!
//! It crosses the wire and the store as JSON. A field is only ever added, with a `serde` default, so that version N
//! and N-1 read each other; an unknown field is ignored.

use crate::ids::{JobId, PipelineId, ProjectId};
use crate::variable::Variable;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything a runner needs to know of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job; `CI_JOB_ID` of our own pipelines (a GitLab job keeps GitLab's number in its variables).
    pub id: JobId,
    /// The pipeline it belongs to.
    pub pipeline: PipelineId,
    /// The project whose layers and caches it may use.
    pub project: ProjectId,
    /// The project's path, for people: `group/name`.
    pub project_path: String,
    /// The job's name.
    pub name: String,
    /// The stage's name.
    pub stage: String,
    /// Whether it may write, and see, what protected refs made.
    pub tier: Tier,
    /// All variables, in order of precedence: a later one of the same key wins. References between them are not
    /// expanded yet, but for those of GitLab's jobs, where the server has done it once.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// The job container's image; `None` means the node's default image.
    #[serde(default)]
    pub image: Option<Image>,
    /// Containers, or an engine, beside the job's container.
    #[serde(default)]
    pub services: Vec<Service>,
    /// What runs, in order. `after_script` is the step of that name and runs whatever the others did.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Scripts run before and after the sources are fetched.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Where the sources are.
    pub source: Source,
    /// Seconds the whole job may take.
    pub timeout_seconds: u64,
    /// What is kept of the work tree at the end.
    #[serde(default)]
    pub artifacts: Vec<ArtifactSpec>,
    /// What is brought into the work tree before, and kept after.
    #[serde(default)]
    pub caches: Vec<CacheSpec>,
    /// Jobs whose artifacts are brought into the work tree.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// Passwords of registries.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// Prefixes of tokens that are hidden in the trace wherever they appear, beside the masked variables.
    #[serde(default)]
    pub token_mask_prefixes: Vec<String>,
    /// The job asked for section markers in its trace.
    #[serde(default = "yes")]
    pub trace_sections: bool,
    /// A new pipeline of the same ref may end this one early.
    #[serde(default)]
    pub interruptible: bool,
    /// Tags that a node must carry.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The environment it deploys to.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// A regular expression whose last match in the trace is the coverage in per cent.
    #[serde(default)]
    pub coverage: Option<String>,
}

fn yes() -> bool {
    true
}

impl JobSpec {
    /// The value of a variable: the last entry of that key.
    #[must_use]
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.variables.iter().rev().find(|v| v.key == key).map(|v| v.value.as_str())
    }
}

/// Where a generation or cache stands in trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Made by a protected ref; never reads what an unprotected one made.
    Protected,
    /// Made by any other ref; never writes what protected refs read.
    Unprotected,
}

impl Tier {
    /// The word used in folder names, logs and documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Protected => "protected",
            Tier::Unprotected => "unprotected",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The image of the job's container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Reference, variables not yet expanded.
    pub name: String,
    /// `None` or empty keeps the image's; `[""]` clears it; anything else replaces it.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// In the order they are tried; empty means the node's default.
    #[serde(default)]
    pub pull_policy: Vec<PullPolicy>,
    /// `docker: user`.
    #[serde(default)]
    pub user: Option<String>,
    /// `docker: platform`.
    #[serde(default)]
    pub platform: Option<String>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Every time.
    Always,
    /// When the node has none of that name.
    IfNotPresent,
    /// Never; a missing image is the job's failure.
    Never,
}

/// A service beside the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its image; name, entrypoint, policy, user, platform mean what they mean for the job's.
    #[serde(flatten)]
    pub image: Image,
    /// Replaces the image's command.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Names under which the job reaches it, beside those derived from the image's name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Seen by the service only, added to the job's.
    #[serde(default)]
    pub variables: Vec<Variable>,
}

/// A script of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `script`, `after_script`, `release`, …
    pub name: String,
    /// Its lines, each of which may itself span several.
    pub script: Vec<String>,
    /// When it runs, by what came before it.
    #[serde(default)]
    pub when: When,
    /// Its failure does not fail the job.
    #[serde(default)]
    pub allow_failure: bool,
}

impl Step {
    /// The name of the step that runs after all others, whatever they did.
    pub const AFTER_SCRIPT: &'static str = "after_script";
}

/// A condition on what came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// All of it succeeded.
    #[default]
    OnSuccess,
    /// Some of it failed.
    OnFailure,
    /// Always.
    Always,
}

/// A script around the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// `pre_get_sources_script` or `post_get_sources_script`.
    pub name: String,
    /// Its lines.
    pub script: Vec<String>,
}

/// Where the sources are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A path on the node, or a URL without credentials.
    pub url: String,
    /// User and password for `url`; never written to disk.
    #[serde(default)]
    pub login: Option<Login>,
    /// Branch or tag name, without `refs/heads/`.
    pub ref_name: String,
    /// Whether `ref_name` is a tag.
    #[serde(default)]
    pub is_tag: bool,
    /// The commit, 40 or 64 hex digits.
    pub sha: String,
    /// The commit before the push; zeros when there is none.
    #[serde(default)]
    pub before_sha: String,
    /// Given verbatim to the fetch; empty means heads and tags.
    #[serde(default)]
    pub refspecs: Vec<String>,
    /// Commits of history, 0 for all.
    #[serde(default)]
    pub depth: u32,
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:[hidden]", self.username)
    }
}

/// A login to a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `host[:port]` of the registry.
    pub registry: String,
    /// Who.
    #[serde(flatten)]
    pub login: Login,
}

/// What is kept of the work tree at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactSpec {
    /// Name of the archive without its ending; `None` means `artifacts`.
    #[serde(default)]
    pub name: Option<String>,
    /// Doublestar globs.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Doublestar globs taken out again.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Also everything that git does not know.
    #[serde(default)]
    pub untracked: bool,
    /// On what outcome of the script.
    #[serde(default)]
    pub when: When,
    /// `1 week`, `never`; `None` is the scheduler's default.
    #[serde(default)]
    pub expire_in: Option<String>,
    /// GitLab's type: `archive`, `junit`, `dotenv`, …
    #[serde(default)]
    pub kind: String,
    /// How the files are packed.
    #[serde(default)]
    pub format: ArtifactFormat,
}

/// How artifact files are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactFormat {
    /// A zip archive.
    #[default]
    Zip,
    /// One gzip member a file, one after the other.
    Gzip,
    /// The one file as it is.
    Raw,
}

/// What is brought into the work tree before, and kept after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSpec {
    /// The key, variables not yet expanded.
    pub key: String,
    /// Keys tried in order when `key` has nothing.
    #[serde(default)]
    pub fallback_keys: Vec<String>,
    /// Doublestar globs.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Also everything that git does not know.
    #[serde(default)]
    pub untracked: bool,
    /// `pull-push`, `pull`, `push`; may be a variable reference.
    #[serde(default)]
    pub policy: String,
    /// On what outcome of the script it is kept.
    #[serde(default)]
    pub when: When,
    /// Files whose last commits make the key (`cache:key:files`); the runner reads them in the work tree.
    #[serde(default)]
    pub key_files: Vec<String>,
    /// Put before the key made of `key_files`.
    #[serde(default)]
    pub key_prefix: Option<String>,
}

/// A job whose artifacts are brought into the work tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// That job (GitLab's id for a GitLab job).
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// The archive's size in bytes; 0 when not known.
    #[serde(default)]
    pub bytes: u64,
}

/// The environment a job deploys to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name, expanded.
    pub name: String,
    /// Its address; expanded at the end of the job, when dotenv variables are known.
    #[serde(default)]
    pub url: Option<String>,
    /// What the job does to it.
    #[serde(default)]
    pub action: EnvironmentAction,
}

/// What a job does to its environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentAction {
    /// Deploys.
    #[default]
    Start,
    /// Takes it down.
    Stop,
    /// Gets it ready, without a deployment.
    Prepare,
    /// Checks it, without a deployment.
    Verify,
    /// Uses it, without a deployment.
    Access,
}
