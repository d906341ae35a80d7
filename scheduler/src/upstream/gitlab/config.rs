//! The `[[upstream]]` table of our configuration, and the pace of the protocol.

use crate::upstream::Selector;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One `[[upstream]]` table: a GitLab server that we are a runner of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Our name for it: in logs, in `slipway list`, and the folder of its spool. Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// The server: `https://gitlab.example.com` or `https://host/gitlab`.
    pub url: String,
    /// The runner authentication token, `glrt-…`. One of `token` and `token_file` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds it; blanks around it are dropped. A bare name is a credential that systemd has loaded
    /// (`LoadCredential=NAME:/path`): the file of that name in `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// GitLab's number of the runner; only for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Tags of *our nodes*: only nodes that carry all of them take its jobs. The tags that GitLab matches jobs by are
    /// set in GitLab.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `amd64`, `arm64`: only nodes of that kind take its jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Jobs of it at once; 0 means as many as the nodes take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub limit: u32,
    /// Bytes of trace that are sent of a job; what comes after is dropped with a notice. The node has its own limit
    /// (`output_limit_bytes` of `[runner]`, 4 MiB); this one keeps below GitLab's `ci_jobs_trace_size_limit` (100 MiB),
    /// above which the server fails the job.
    #[serde(default = "ninety_nine_mebibytes")]
    pub output_limit_bytes: u64,
    /// Seconds between two questions that brought no job. Official default: 3.
    #[serde(default = "three")]
    pub check_interval_seconds: u64,
    /// After a job, wait `check_interval_seconds` as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict_check_interval: bool,
    /// Refusals (403) in a row after which the server is left alone for `unhealthy_interval_seconds`.
    #[serde(default = "three_refusals")]
    pub unhealthy_requests_limit: u32,
    /// How long a server that refuses us is left alone.
    #[serde(default = "one_hour")]
    pub unhealthy_interval_seconds: u64,
    /// Put in place of scheme and host of the sources' address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_url: Option<String>,
    /// PEM file of the authorities that the server's certificate is checked by, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of our own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// `KEY=value` entries that every job gets *below* its own variables, as the official `environment`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Image of jobs that name none; `None` leaves it to the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_image: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
fn is_false(b: &bool) -> bool {
    !*b
}
fn ninety_nine_mebibytes() -> u64 {
    99 << 20
}
fn three() -> u64 {
    3
}
fn three_refusals() -> u32 {
    3
}
fn one_hour() -> u64 {
    3600
}

impl UpstreamConfig {
    /// A table with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>, token: impl Into<String>) -> Self {
        UpstreamConfig {
            name: name.into(),
            url: url.into(),
            token: Some(Secret(token.into())),
            token_file: None,
            id: None,
            tags: Vec::new(),
            architecture: None,
            limit: 0,
            output_limit_bytes: ninety_nine_mebibytes(),
            check_interval_seconds: three(),
            strict_check_interval: false,
            unhealthy_requests_limit: three_refusals(),
            unhealthy_interval_seconds: one_hour(),
            clone_url: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            environment: Vec::new(),
            default_image: None,
        }
    }

    /// Every fault of the table, for people; empty when there is none.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |text: String| faults.push(format!("[[upstream]] `{}`: {text}", self.name));
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(fits) {
            fault("`name` must consist of letters, digits, `-`, `_` and `.`, and not begin with `.`".into());
        }
        match reqwest::Url::parse(&self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            Ok(url) => fault(format!("`url` must be http or https, not `{}`", url.scheme())),
            Err(e) => fault(format!("`url` {:?} cannot be read: {e}", self.url)),
        }
        match (&self.token, &self.token_file) {
            (None, None) => fault("one of `token` and `token_file` is needed; `slipway register` writes it".into()),
            (Some(_), Some(_)) => fault("only one of `token` and `token_file` may be given".into()),
            (Some(token), None) if token.0.trim().is_empty() => fault("`token` is empty".into()),
            _ => {}
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            fault("`tls_cert_file` and `tls_key_file` are needed together".into());
        }
        for entry in &self.environment {
            if !entry.contains('=') {
                fault(format!("`environment` entry {entry:?} is not KEY=value"));
            }
        }
        if let Some(url) = &self.clone_url
            && let Err(e) = reqwest::Url::parse(url)
        {
            fault(format!("`clone_url` {url:?} cannot be read: {e}"));
        }
        faults
    }

    /// The token as configured.
    ///
    /// # Errors
    /// The file cannot be read or is empty.
    pub fn configured_token(&self) -> Result<String, TokenError> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.0.trim().to_string(),
            (None, Some(path)) => read_token(&credential(path, std::env::var_os("CREDENTIALS_DIRECTORY")))?,
            (None, None) => String::new(),
        };
        if token.is_empty() {
            return Err(TokenError::Empty { upstream: self.name.clone() });
        }
        Ok(token)
    }

    /// Which nodes take its jobs.
    #[must_use]
    pub fn selector(&self) -> Selector {
        Selector { tags: self.tags.clone(), architecture: self.architecture.clone() }
    }
}

/// Where a `token_file` is: an absolute path is itself, a relative one a credential where systemd has loaded some.
fn credential(path: &Path, loaded: Option<std::ffi::OsString>) -> PathBuf {
    match loaded {
        Some(folder) if path.is_relative() => Path::new(&folder).join(path),
        _ => path.to_path_buf(),
    }
}

fn read_token(path: &Path) -> Result<String, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TokenError::Unreadable { path: path.to_path_buf(), source })?;
    Ok(text.trim().to_string())
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the runner token from {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the token of upstream `{upstream}` is empty; `slipway register` writes one")]
    Empty {
        /// Which upstream.
        upstream: String,
    },
}

/// Text that is never printed by `{:?}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// How long the protocol's seconds are, and how long we wait for the network. Production uses [`Pace::default`]; a
/// test server that counts in milliseconds shortens `second`.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The unit of every wait of the protocol: intervals, `Retry-After`, back-off.
    pub second: Duration,
    /// For a connection. Official: 30 s.
    pub connect: Duration,
    /// For the next byte of an answer; must be above GitLab's 50 s long poll. Official: 10 min.
    pub read: Duration,
    /// How long a question that is under way is waited for when we stop: dropping one may lose a job.
    pub stop_grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            second: Duration::from_secs(1),
            connect: Duration::from_secs(30),
            read: Duration::from_secs(600),
            stop_grace: Duration::from_secs(5),
        }
    }
}

impl Pace {
    /// So many of the protocol's seconds, at most a day's worth.
    #[must_use]
    pub fn seconds(&self, n: f64) -> Duration {
        self.second.mul_f64(n.clamp(0.0, 86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_file_without_a_folder_is_a_credential_of_systemd() {
        let loaded = || Some("/run/credentials/slipway.service".into());
        let at = |path: &str, loaded| credential(Path::new(path), loaded).display().to_string();
        assert_eq!(at("gitlab", loaded()), "/run/credentials/slipway.service/gitlab");
        assert_eq!(at("/etc/slipway/token", loaded()), "/etc/slipway/token");
        assert_eq!(at("gitlab", None), "gitlab");
    }

    #[test]
    fn every_fault_of_a_table_is_named() {
        let good = UpstreamConfig::new("a", "https://host", "glrt-1");
        assert_eq!(good.faults(), Vec::<String>::new());
        let bad = UpstreamConfig {
            name: "../a".into(),
            url: "ftp://host".into(),
            token: None,
            tls_key_file: Some("k".into()),
            environment: vec!["A".into()],
            clone_url: Some("nonsense".into()),
            ..good
        };
        let faults = bad.faults();
        for key in ["`name`", "`url`", "`token`", "`tls_cert_file`", "`environment`", "`clone_url`"] {
            assert!(faults.iter().any(|f| f.contains(key)), "{key}: {faults:?}");
        }
        assert_eq!(faults.len(), 6, "{faults:?}");
        let both = UpstreamConfig { token_file: Some("t".into()), ..UpstreamConfig::new("a", "https://host", "x") };
        assert_eq!(both.faults().len(), 1);
    }

    #[test]
    fn token_is_not_printed_and_unknown_keys_are_refused() {
        let text = "name = \"a\"\nurl = \"https://host\"\ntoken = \"glrt-secret\"\n";
        let read: UpstreamConfig = toml::from_str(text).unwrap();
        assert!(!format!("{read:?}").contains("glrt-secret"));
        assert!(toml::from_str::<UpstreamConfig>(&format!("{text}surprise = 1\n")).is_err());
    }
}
