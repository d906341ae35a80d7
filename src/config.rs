//! The configuration file: one TOML file, whose tables belong to the scheduler and the runner.

use anyhow::{Context, Result};
use serde::Deserialize;
use slipway_runner::config::RunnerConfig;
use slipway_scheduler::config::Config;
use slipway_scheduler::upstream::gitlab::config::UpstreamConfig;
use std::fmt;
use std::path::Path;

/// The configuration cannot be used: the process ends with 2.
#[derive(Debug)]
pub(crate) struct BadConfiguration(pub(crate) String);

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfiguration {}

/// Largest configuration that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Tables of the file. The scheduler reads its own itself, with places.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    runner: RunnerConfig,
    #[serde(default, rename = "scheduler")]
    _scheduler: toml::Table,
    #[serde(default, rename = "project")]
    _projects: Vec<toml::Table>,
    #[serde(default, rename = "upstream")]
    _upstreams: Vec<toml::Table>,
}

/// The text of a configuration.
pub(crate) fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = std::fs::metadata(path).with_context(|| format!("cannot read the configuration {shown}"))?.len();
    if bytes > MAX_BYTES {
        return Err(
            BadConfiguration(format!("{shown} has {bytes} bytes; a configuration has at most {MAX_BYTES}")).into()
        );
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {shown}"))
}

/// `[runner]` of a configuration.
pub(crate) fn runner(text: &str, path: &Path) -> Result<RunnerConfig> {
    let file: File = toml::from_str(text).map_err(|e| BadConfiguration(format!("{}: {e}", path.display())))?;
    file.runner.check().map_err(|e| BadConfiguration(format!("{}: {e}", path.display())))?;
    Ok(file.runner)
}

/// `[scheduler]` and `[[project]]` of a configuration.
pub(crate) fn scheduler(text: &str, path: &Path) -> Result<Config> {
    Config::parse(text, &path.display().to_string()).map_err(|e| BadConfiguration(e.to_string()).into())
}

/// `[[upstream]]` of a configuration.
pub(crate) fn upstreams(text: &str, path: &Path) -> Result<Vec<UpstreamConfig>> {
    #[derive(Deserialize)]
    struct Upstreams {
        #[serde(default)]
        upstream: Vec<UpstreamConfig>,
    }
    let read: Upstreams = toml::from_str(text).map_err(|e| BadConfiguration(format!("{}: {e}", path.display())))?;
    Ok(read.upstream)
}

/// Whether the `[runner]` table differs between two configurations.
pub(crate) fn runner_changed(old: &str, new: &str) -> bool {
    let table = |text: &str| text.parse::<toml::Table>().ok().and_then(|mut t| t.remove("runner"));
    table(old) != table(new)
}
