//! `PUT /jobs/:id`: what is said of a job's state, in the words that its server knows.

use super::client::Call;
use super::spool::Facts;
use reqwest::Method;
use serde_json::{Value, json};
use slipway_spec::outcome::{FailureReason, Outcome};

/// Length and checksum of the text that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Bytes.
    pub bytes: u64,
    /// `crc32:` and 8 hex digits.
    pub checksum: String,
}

impl Delivered {
    fn put_into(&self, body: &mut Value) {
        body["checksum"] = json!(self.checksum);
        body["output"] = json!({ "checksum": self.checksum, "bytesize": self.bytes });
    }
}

fn put(facts: &Facts, body: &Value) -> Call {
    Call::new(Method::PUT, format!("/jobs/{}", facts.remote.id)).header("JOB-TOKEN", &facts.token.0).json(body)
}

/// Says that the job runs. `delivered` only where the length and checksum are those of all text sent so far.
#[must_use]
pub fn running(facts: &Facts, delivered: Option<&Delivered>) -> Call {
    let mut body = json!({ "token": facts.token.0, "state": "running", "output": {} });
    if let Some(delivered) = delivered {
        delivered.put_into(&mut body);
    }
    put(facts, &body)
}

/// Says how the job ended. The same for the same arguments: on 202 it is repeated as it is.
#[must_use]
pub fn ended(facts: &Facts, outcome: &Outcome, delivered: &Delivered) -> Call {
    let mut body = json!({ "token": facts.token.0 });
    match outcome {
        Outcome::Success => body["state"] = json!("success"),
        Outcome::Failed { reason, exit_code, .. } => {
            body["state"] = json!("failed");
            body["failure_reason"] = json!(reason_word(*reason, &facts.failure_reasons));
            if let Some(code) = exit_code.filter(|code| *code != 0) {
                body["exit_code"] = json!(code);
            }
        }
        Outcome::Canceled => {
            body["state"] = json!("failed");
            body["failure_reason"] = json!(known_or("job_canceled", "unknown_failure", &facts.failure_reasons));
        }
    }
    delivered.put_into(&mut body);
    put(facts, &body)
}

fn known_or<'a>(word: &'a str, otherwise: &'a str, known: &[String]) -> &'a str {
    if known.iter().any(|k| k == word) { word } else { otherwise }
}

/// A reason in a word that the server has listed; three are always known. `retry:when` matches on these words, so a
/// job's fault never becomes the runner's, nor the other way round.
fn reason_word(reason: FailureReason, known: &[String]) -> &'static str {
    let otherwise = match reason {
        FailureReason::ScriptFailure | FailureReason::RunnerSystemFailure | FailureReason::JobExecutionTimeout => {
            return reason.as_str();
        }
        FailureReason::ImagePullFailure => "runner_system_failure",
        FailureReason::MissingDependencyFailure => "script_failure",
        FailureReason::RunnerUnsupported | FailureReason::UnknownFailure => "unknown_failure",
    };
    known_or(reason.as_str(), otherwise, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_word_that_the_server_knows() {
        let all = ["image_pull_failure", "runner_unsupported", "missing_dependency_failure", "unknown_failure"];
        let all = all.map(String::from);
        for (reason, alone, listed) in [
            (FailureReason::ScriptFailure, "script_failure", "script_failure"),
            (FailureReason::RunnerSystemFailure, "runner_system_failure", "runner_system_failure"),
            (FailureReason::JobExecutionTimeout, "job_execution_timeout", "job_execution_timeout"),
            (FailureReason::ImagePullFailure, "runner_system_failure", "image_pull_failure"),
            (FailureReason::MissingDependencyFailure, "script_failure", "missing_dependency_failure"),
            (FailureReason::RunnerUnsupported, "unknown_failure", "runner_unsupported"),
            (FailureReason::UnknownFailure, "unknown_failure", "unknown_failure"),
        ] {
            assert_eq!(reason_word(reason, &[]), alone, "{reason}");
            assert_eq!(reason_word(reason, &all), listed, "{reason}");
        }
    }
}
