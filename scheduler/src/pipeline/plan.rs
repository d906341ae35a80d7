//! The compiled pipeline: what the driver stores and runs.

use serde::{Deserialize, Serialize};
use slipway_spec::job::{ArtifactSpec, CacheSpec, Environment, Hook, Image, Service, Step};
use slipway_spec::variable::Variable;

/// The compiled pipeline. Every need of a job names a job of the plan, and the needs have no cycle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `workflow:name`, expanded.
    #[serde(default)]
    pub name: Option<String>,
    /// Stages that have jobs, in order, `.pre` and `.post` included.
    pub stages: Vec<String>,
    /// Jobs, by stage and then by their order in the configuration; matrix jobs expanded.
    pub jobs: Vec<PlannedJob>,
    /// Jobs that are not in this pipeline, and the rule that decided.
    #[serde(default)]
    pub excluded: Vec<Excluded>,
    /// `workflow:auto_cancel`.
    #[serde(default)]
    pub auto_cancel: AutoCancel,
}

/// A job that is not in this pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub why: String,
}

/// `workflow:auto_cancel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoCancel {
    /// What a newer pipeline of the same ref ends.
    #[serde(default)]
    pub on_new_commit: OnNewCommit,
    /// A failed job ends all the others.
    #[serde(default)]
    pub on_job_failure: bool,
}

/// What a newer pipeline of the same ref ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNewCommit {
    /// The whole pipeline, as long as no job that is not interruptible has started.
    #[default]
    Conservative,
    /// Its interruptible jobs.
    Interruptible,
    /// Nothing.
    None,
}

/// One job of the plan: everything about it but ids, sources and what depends on the project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedJob {
    /// Its name; of a matrix job with its values: `test: [amd64, 12]`.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// When it starts.
    pub when: JobWhen,
    /// Whether its failure fails the pipeline.
    #[serde(default)]
    pub allow_failure: AllowFailure,
    /// `None`: all jobs of earlier stages. `Some(empty)`: starts at once.
    #[serde(default)]
    pub needs: Option<Vec<Need>>,
    /// Jobs whose artifacts it gets, by name, needs and stages already applied.
    #[serde(default)]
    pub artifacts_from: Vec<String>,
    /// Its container's image.
    #[serde(default)]
    pub image: Option<Image>,
    /// Its services.
    #[serde(default)]
    pub services: Vec<Service>,
    /// `script` (before_script merged in front) and `after_script`; empty for a trigger job.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// `hooks`.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Variables of the configuration for this job, global first, then job, then those of the rule that matched.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// Tags a node must carry, expanded.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its own timeout.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// When it is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// What is kept.
    #[serde(default)]
    pub artifacts: Vec<ArtifactSpec>,
    /// What is brought in and kept for the next.
    #[serde(default)]
    pub caches: Vec<CacheSpec>,
    /// Where it deploys to; the name is expanded.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// `environment:on_stop`.
    #[serde(default)]
    pub on_stop: Option<String>,
    /// `environment:auto_stop_in`, seconds.
    #[serde(default)]
    pub auto_stop_seconds: Option<u64>,
    /// Jobs of one group run one at a time, across pipelines of the project.
    #[serde(default)]
    pub resource_group: Option<String>,
    /// A newer pipeline may end it.
    #[serde(default)]
    pub interruptible: bool,
    /// Regular expression of the coverage.
    #[serde(default)]
    pub coverage: Option<String>,
    /// It starts another pipeline instead of running a script.
    #[serde(default)]
    pub trigger: Option<Trigger>,
    /// The rule that let it in, for people.
    #[serde(default)]
    pub why: String,
}

/// When a job starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobWhen {
    /// What it waits for succeeded, or was allowed to fail.
    #[default]
    OnSuccess,
    /// Something before it failed.
    OnFailure,
    /// What it waits for is over.
    Always,
    /// A person starts it.
    Manual,
    /// So many seconds after it could have started.
    Delayed(u64),
}

/// Whether a job's failure fails the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowFailure {
    /// It does.
    #[default]
    No,
    /// It does not.
    Yes,
    /// It does not if the script exited with one of these.
    ExitCodes(Vec<i32>),
}

/// One need of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The needed job's name.
    pub job: String,
    /// Its artifacts are brought in.
    pub artifacts: bool,
}

/// When a failed job is tried again by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many times, 0 to 2.
    pub max: u32,
    /// On which reasons, GitLab's words; empty means always.
    #[serde(default)]
    pub when: Vec<String>,
    /// On which exit codes; empty means the reasons alone decide.
    #[serde(default)]
    pub exit_codes: Vec<i32>,
}

/// Another pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The other pipeline's configuration, where it is an `include` of files; not with `artifact` or `project`.
    #[serde(default)]
    pub configuration: Option<String>,
    /// Those of the files that are in this commit, for people.
    #[serde(default)]
    pub local_files: Vec<String>,
    /// A file made by a job of this pipeline: (job, path).
    #[serde(default)]
    pub artifact: Option<(String, String)>,
    /// Another project: its path.
    #[serde(default)]
    pub project: Option<String>,
    /// That project's branch.
    #[serde(default)]
    pub branch: Option<String>,
    /// The trigger job ends as the other pipeline does (`strategy: depend` or `mirror`), instead of at once.
    #[serde(default)]
    pub depend: bool,
    /// The job's own variables go along.
    #[serde(default)]
    pub forward_yaml_variables: bool,
    /// The pipeline's variables go along.
    #[serde(default)]
    pub forward_pipeline_variables: bool,
    /// `trigger:inputs`, values as JSON.
    #[serde(default)]
    pub inputs: Vec<(String, serde_json::Value)>,
}
