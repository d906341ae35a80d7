//! `[project.triggers]` and `[[project.schedules]]`.

use serde::Deserialize;
use std::fmt;

/// How pushes of a project are learnt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triggers {
    /// Ask the repository for its refs so often, where no hook is possible; none: never.
    pub poll_seconds: Option<u64>,
    /// What a webhook must send as `X-Gitlab-Token`, or as `Authorization: Bearer`; none: no webhook is answered.
    pub webhook_secret: Option<Secret>,
}

/// A line of cron.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// For people; unique within the project.
    pub name: String,
    /// Five fields of cron: `0 4 * * *`.
    pub cron: String,
    /// IANA name of the time zone that the line is in.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Branch or tag that is built.
    #[serde(rename = "ref")]
    pub ref_name: String,
    /// Variables of the pipeline.
    #[serde(default)]
    pub variables: std::collections::BTreeMap<String, String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A text that no log shows.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Whether `given` is it; takes as long for a near miss as for a far one.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        use sha2::{Digest, Sha256};
        // Digests differ in a random place, so the time of comparing them tells nothing about the secret.
        !self.0.is_empty() && Sha256::digest(self.0.as_bytes()) == Sha256::digest(given.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}
