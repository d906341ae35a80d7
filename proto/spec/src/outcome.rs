//! How a job ended, and why.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The script, and all that had to be collected, succeeded.
    Success,
    /// It failed.
    Failed {
        /// Whose fault it was.
        reason: FailureReason,
        /// What the script exited with, where it did.
        #[serde(default)]
        exit_code: Option<i32>,
        /// One line for people.
        #[serde(default)]
        message: String,
    },
    /// Somebody ended it.
    Canceled,
}

/// Why a job failed; the words are GitLab's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The job's own script.
    ScriptFailure,
    /// The node, the engine, the network: not the job.
    RunnerSystemFailure,
    /// It took longer than its timeout.
    JobExecutionTimeout,
    /// An image could not be pulled.
    ImagePullFailure,
    /// The job asks for what this runner cannot do.
    RunnerUnsupported,
    /// Artifacts or sources of an earlier job are gone.
    MissingDependencyFailure,
    /// A word of a newer version.
    #[serde(other)]
    UnknownFailure,
}

impl FailureReason {
    /// GitLab's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::ScriptFailure => "script_failure",
            FailureReason::RunnerSystemFailure => "runner_system_failure",
            FailureReason::JobExecutionTimeout => "job_execution_timeout",
            FailureReason::ImagePullFailure => "image_pull_failure",
            FailureReason::RunnerUnsupported => "runner_unsupported",
            FailureReason::MissingDependencyFailure => "missing_dependency_failure",
            FailureReason::UnknownFailure => "unknown_failure",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
