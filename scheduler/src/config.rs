//! The scheduler's part of the configuration file: `[scheduler]` and `[[project]]`. Tables of others (`[runner]`,
//! `[[upstream]]`, …) are theirs to read.
//!
//! ```toml
//! [scheduler]
//! state_dir = "/var/lib/slipway"
//! socket = "/run/slipway/slipway.sock"
//! listen = "0.0.0.0:7443"
//!
//! [[project]]
//! path = "team/app"
//! repository = "/srv/git/app.git"
//! protected_refs = ["main", "release/*"]
//!
//! [project.variables]
//! REGISTRY_PASSWORD = { value_file = "/etc/slipway/registry-password", masked = true, protected = true }
//!
//! [project.triggers]
//! webhook_secret_file = "/etc/slipway/webhook"
//!
//! [[project.schedules]]
//! name = "nightly"
//! cron = "0 3 * * *"
//! ref = "main"
//! ```

mod reader;

pub use reader::Faults;

use crate::decide::placement;
use crate::triggers::config::{Schedule, Secret, Triggers};
use crate::triggers::schedule::Due;
use reader::{Book, Reader};
use slipway_spec::variable::Variable;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Tables of the file that other parts read.
const OTHERS: [&str; 5] = ["runner", "upstream", "cache", "engine", "registry"];

/// The scheduler's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Unix socket for people and runners of this machine.
    pub socket: Option<PathBuf>,
    /// The address for runners and people of other machines: mutual TLS.
    pub listen: Option<SocketAddr>,
    /// Where everything is kept.
    pub state_dir: Option<PathBuf>,
    /// How long a lease holds without renewal.
    pub lease_ttl: Duration,
    /// Where Prometheus may read; off when `None`.
    pub metrics: Option<SocketAddr>,
    /// Where webhooks arrive; off when `None`.
    pub webhook: Option<SocketAddr>,
    /// `CI_SERVER_URL`.
    pub url: String,
    /// `CI_REGISTRY`; no such variable when `None`.
    pub registry: Option<String>,
    /// How long a job may take that does not say.
    pub timeout_seconds: u64,
    /// How long finished pipelines, traces included, are kept.
    pub keep_finished: Duration,
    /// How long artifacts are kept whose job does not say.
    pub keep_artifacts: Duration,
    /// Largest artifact.
    pub artifact_max_bytes: u64,
    /// Longest trace; what comes after is acknowledged and dropped, with a line that says so.
    pub trace_max_bytes: u64,
    /// How placement weighs.
    pub placement: placement::Settings,
    /// Hosts, `*` for any, that configurations may `include: remote` files from; none when empty.
    pub include_hosts: Vec<String>,
    /// The projects.
    pub projects: Vec<Project>,
}

/// A repository whose commits we run.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// `group/name`.
    pub path: String,
    /// A path or URL that scheduler and runners can read.
    pub repository: String,
    /// Its default branch; what the repository's HEAD says when `None`.
    pub default_branch: Option<String>,
    /// Names or patterns (`release/*`) of refs that are protected; the default branch when `None`.
    pub protected_refs: Option<Vec<String>>,
    /// Path of the configuration in the repository.
    pub config_path: String,
    /// How long a job may take that does not say.
    pub timeout_seconds: Option<u64>,
    /// Higher goes first among pipelines of this project made by schedules and pushes alike.
    pub priority: i32,
    /// A newer pipeline of a ref may end an older one's interruptible jobs.
    pub auto_cancel: bool,
    /// Its secrets.
    pub variables: Vec<ProjectVariable>,
    /// When pipelines are made without a push.
    pub schedules: Vec<Schedule>,
    /// How its pushes are learnt.
    pub triggers: Triggers,
    /// What is done when a `verify` job of a schedule fails.
    pub on_drift: OnDrift,
}

/// What is done when an environment is found other than it was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrift {
    /// It is written down.
    #[default]
    Report,
    /// The last successful deployment runs again at its commit.
    Redeploy,
}

/// A variable of a project.
#[derive(Clone, Debug)]
pub struct ProjectVariable {
    /// Key, value, masked, file, raw.
    pub variable: Variable,
    /// Only for jobs of protected refs.
    pub protected: bool,
    /// Only for jobs of these environments: a name, a pattern with `*`, or `*`.
    pub environment_scope: String,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Config {
            socket: None,
            listen: None,
            state_dir: None,
            lease_ttl: Duration::from_secs(180),
            metrics: None,
            webhook: None,
            url: "http://localhost".into(),
            registry: None,
            timeout_seconds: 3600,
            keep_finished: Duration::from_secs(90 * DAY),
            keep_artifacts: Duration::from_secs(30 * DAY),
            artifact_max_bytes: 5 << 30,
            trace_max_bytes: 1 << 30,
            placement: placement::Settings::default(),
            include_hosts: Vec::new(),
            projects: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// All faults at once, with their places.
    pub fn load(path: &Path) -> Result<Config, Faults> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&text, &file),
            Err(e) => Err(Faults { file, faults: vec![format!(" cannot read the configuration: {e}")] }),
        }
    }

    /// Reads a configuration text. Files that it names are read now.
    ///
    /// # Errors
    /// All faults at once, with their places.
    pub fn parse(text: &str, file: &str) -> Result<Config, Faults> {
        let mut book = Book::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            book.fault(error.span().map_or(0, |s| s.start), error.message());
        }
        let mut config = Config::default();
        let mut root = Reader::new("the file", root.get_ref(), 0);
        for other in OTHERS {
            root.raw(other);
        }
        if let Some((table, at)) = root.table(&mut book, "scheduler") {
            config.scheduler(Reader::new("scheduler", table, at), &mut book);
        }
        for (table, at) in root.tables(&mut book, "project") {
            let project = project(Reader::new("project", table, at), &mut book);
            if config.projects.iter().any(|p| p.path == project.path) {
                book.fault(at, format!("a second [[project]] with the path {:?}", project.path));
            }
            config.projects.push(project);
        }
        root.close(&mut book);
        book.close(file)?;
        Ok(config)
    }

    fn scheduler(&mut self, mut r: Reader<'_, '_>, book: &mut Book<'_>) {
        let seconds = |n: u64| Duration::from_secs(n);
        let days = |n: u64| Duration::from_secs(n * 86_400);
        self.socket = r.text(book, "socket").map(PathBuf::from);
        self.state_dir = r.text(book, "state_dir").map(PathBuf::from);
        self.listen = address(&mut r, book, "listen");
        self.metrics = address(&mut r, book, "metrics");
        self.webhook = address(&mut r, book, "webhook");
        if let Some(url) = r.text(book, "url") {
            self.url = url.trim_end_matches('/').to_owned();
        }
        self.registry = r.text(book, "registry");
        self.include_hosts = r.texts(book, "include_hosts").unwrap_or_default();
        if let Some(n) = r.number(book, "lease_ttl_seconds", 3..=86_400) {
            self.lease_ttl = seconds(n);
        }
        if let Some(n) = r.number(book, "timeout_seconds", 1..=31_536_000) {
            self.timeout_seconds = n;
        }
        if let Some(n) = r.number(book, "keep_finished_days", 1..=36_500) {
            self.keep_finished = days(n);
        }
        if let Some(n) = r.number(book, "keep_artifacts_days", 1..=36_500) {
            self.keep_artifacts = days(n);
        }
        if let Some(n) = r.number(book, "artifact_max_bytes", 1..=u64::MAX) {
            self.artifact_max_bytes = n;
        }
        if let Some(n) = r.number(book, "trace_max_bytes", 4096..=u64::MAX) {
            self.trace_max_bytes = n;
        }
        if let Some(n) = r.number(book, "warm_wait_seconds", 0..=3600) {
            self.placement.warm_wait_seconds = n as f64;
        }
        if let Some(n) = r.share(book, "overload_enter") {
            self.placement.overload_enter = n;
        }
        if let Some(n) = r.share(book, "overload_leave") {
            self.placement.overload_leave = n;
        }
        if self.placement.overload_leave >= self.placement.overload_enter {
            book.fault(r.at(), "`overload_leave` in [scheduler] must be below `overload_enter`");
        }
        r.close(book);
    }

    /// The project of a path.
    #[must_use]
    pub fn project(&self, path: &str) -> Option<&Project> {
        self.projects.iter().find(|p| p.path == path)
    }
}

fn address(r: &mut Reader<'_, '_>, book: &mut Book<'_>, key: &'static str) -> Option<SocketAddr> {
    let at = r.raw(key).map_or(0, |v| v.span().start);
    let text = r.text(book, key)?;
    let parsed = text.parse();
    if parsed.is_err() {
        book.fault(at, format!("`{key}` in [scheduler] must be ADDRESS:PORT, found {text:?}"));
    }
    parsed.ok()
}

/// A value given as text, or in a file of which one line end at the end is cut.
fn secret(text: Option<String>, file: Option<String>, at: usize, what: &str, book: &mut Book<'_>) -> Option<String> {
    match (text, file) {
        (Some(_), Some(_)) => {
            book.fault(at, format!("{what}: give the value or its file, not both"));
            None
        }
        (Some(text), None) => Some(text),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.strip_suffix('\n').unwrap_or(&text).to_owned()),
            Err(e) => {
                book.fault(at, format!("{what}: cannot read {path}: {e}"));
                None
            }
        },
        (None, None) => None,
    }
}

fn project(mut r: Reader<'_, '_>, book: &mut Book<'_>) -> Project {
    let at = r.at();
    let path = r.needed(book, "path");
    let well_named = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    if !path.is_empty() && (!path.chars().all(well_named) || path.starts_with('/') || path.ends_with('/')) {
        book.fault(at, format!("`path` in [project] must be like group/name, found {path:?}"));
    }
    let repository = r.needed(book, "repository");
    let on_drift_at = r.raw("on_drift").map_or(at, |v| v.span().start);
    let project = Project {
        path,
        repository,
        default_branch: r.text(book, "default_branch"),
        protected_refs: r.texts(book, "protected_refs"),
        config_path: r.text(book, "config_path").unwrap_or_else(|| ".gitlab-ci.yml".into()),
        timeout_seconds: r.number(book, "timeout_seconds", 1..=31_536_000),
        priority: r.number(book, "priority", 0..=1000).unwrap_or(0) as i32,
        auto_cancel: r.flag(book, "auto_cancel").unwrap_or(true),
        variables: variables(&mut r, book),
        schedules: r.tables(book, "schedules").into_iter().map(|(t, at)| schedule(t, at, book)).collect(),
        triggers: r.table(book, "triggers").map(|(t, at)| triggers(t, at, book)).unwrap_or_default(),
        on_drift: match r.text(book, "on_drift").as_deref() {
            None | Some("report") => OnDrift::Report,
            Some("redeploy") => OnDrift::Redeploy,
            Some(other) => {
                book.fault(
                    on_drift_at,
                    format!("`on_drift` in [project] is \"report\" or \"redeploy\", found {other:?}"),
                );
                OnDrift::Report
            }
        },
    };
    r.close(book);
    project
}

fn variables(r: &mut Reader<'_, '_>, book: &mut Book<'_>) -> Vec<ProjectVariable> {
    let Some((table, _)) = r.table(book, "variables") else { return Vec::new() };
    let mut variables = Vec::new();
    for (key, value) in table {
        let name = key.get_ref().to_string();
        let at = key.span().start;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            book.fault(at, format!("a variable's name is of letters, digits and `_`, found {name:?}"));
        }
        let entries: Vec<(&DeValue<'_>, usize)> = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|i| (i.get_ref(), i.span().start)).collect(),
            one => vec![(one, value.span().start)],
        };
        for (entry, at) in entries {
            let mut read = ProjectVariable {
                variable: Variable { public: false, ..Variable::public(name.clone(), "") },
                protected: false,
                environment_scope: "*".into(),
            };
            match entry {
                DeValue::String(text) => read.variable.value = text.to_string(),
                DeValue::Table(table) => {
                    let what = format!("project.variables.{name}");
                    let mut r = Reader::new(what.clone(), table, at);
                    let (text, file) = (r.text(book, "value"), r.text(book, "value_file"));
                    if text.is_none() && file.is_none() {
                        book.fault(at, format!("[{what}] needs `value` or `value_file`"));
                    }
                    read.variable.value = secret(text, file, at, &what, book).unwrap_or_default();
                    read.variable.masked = r.flag(book, "masked").unwrap_or(false);
                    read.variable.file = r.flag(book, "file").unwrap_or(false);
                    read.variable.raw = r.flag(book, "raw").unwrap_or(false);
                    read.protected = r.flag(book, "protected").unwrap_or(false);
                    read.environment_scope = r.text(book, "environment_scope").unwrap_or_else(|| "*".into());
                    r.close(book);
                }
                _ => book.fault(at, format!("[project.variables] {name} must be a text or a table")),
            }
            variables.push(read);
        }
    }
    variables
}

fn triggers(table: &DeTable<'_>, at: usize, book: &mut Book<'_>) -> Triggers {
    const WHAT: &str = "`webhook_secret` in [project.triggers]";
    let mut r = Reader::new("project.triggers", table, at);
    let poll_seconds = r.number(book, "poll_seconds", 5..=86_400);
    let (text, file) = (r.text(book, "webhook_secret"), r.text(book, "webhook_secret_file"));
    let secret = secret(text, file, at, WHAT, book);
    if secret.as_ref().is_some_and(|s| s.len() < 16) {
        book.fault(at, format!("{WHAT} must have at least 16 characters"));
    }
    r.close(book);
    let webhook_secret = secret.and_then(|s| serde_json::from_value::<Secret>(s.into()).ok());
    Triggers { poll_seconds, webhook_secret }
}

fn schedule(table: &DeTable<'_>, at: usize, book: &mut Book<'_>) -> Schedule {
    let mut r = Reader::new("project.schedules", table, at);
    let schedule = Schedule {
        name: r.needed(book, "name"),
        cron: r.needed(book, "cron"),
        timezone: r.text(book, "timezone").unwrap_or_else(|| "UTC".into()),
        ref_name: r.needed(book, "ref"),
        variables: match r.table(book, "variables") {
            None => std::collections::BTreeMap::new(),
            Some((table, _)) => table
                .iter()
                .filter_map(|(key, value)| match value.get_ref() {
                    DeValue::String(text) => Some((key.get_ref().to_string(), text.to_string())),
                    _ => {
                        book.fault(value.span().start, format!("schedule variable {} must be a text", key.get_ref()));
                        None
                    }
                })
                .collect(),
        },
    };
    if let Err(e) = Due::of(&schedule) {
        book.fault(at, format!("[project.schedules]: {e}"));
    }
    r.close(book);
    schedule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_file_is_read() {
        let config = Config::parse(
            r#"
            [scheduler]
            listen = "127.0.0.1:7443"
            lease_ttl_seconds = 60
            [[project]]
            path = "team/app"
            repository = "/srv/git/app.git"
            protected_refs = ["main", "v*"]
            on_drift = "redeploy"
            [project.variables]
            PLAIN = "x"
            SECRET = { value = "s3cr3t-value", masked = true, protected = true, environment_scope = "production" }
            [[project.schedules]]
            name = "nightly"
            cron = "0 3 * * *"
            ref = "main"
            [runner]
            anything = 1
            "#,
            "slipway.toml",
        )
        .unwrap();
        assert_eq!(config.lease_ttl, Duration::from_secs(60));
        let project = config.project("team/app").unwrap();
        assert_eq!(project.on_drift, OnDrift::Redeploy);
        let secret = project.variables.iter().find(|v| v.variable.key == "SECRET").unwrap();
        assert!(secret.protected && secret.variable.masked && !secret.variable.public);
        assert!(!format!("{config:?}").contains("s3cr3t-value"));
    }

    #[test]
    fn all_faults_are_reported_at_once_with_their_places() {
        let faults = Config::parse(
            "[scheduler]\nlease_ttl_second = 3\nlisten = \"nowhere\"\n[[project]]\npath = \"a/b\"\n[[project.schedules]]\nname = \"n\"\nref = \"main\"\ncron = \"99 * * * *\"\n",
            "s.toml",
        )
        .unwrap_err();
        let text = faults.to_string();
        assert!(
            text.contains(
                "s.toml:2:1: unknown key `lease_ttl_second` in [scheduler]; did you mean `lease_ttl_seconds`?"
            ),
            "{text}"
        );
        assert!(text.contains("s.toml:3:10: `listen`"), "{text}");
        assert!(text.contains("[project] needs `repository`"), "{text}");
        assert!(text.contains("is no cron line"), "{text}");
        assert_eq!(faults.faults.len(), 4, "{text}");
    }

    #[test]
    fn both_value_and_file_is_a_fault() {
        let text =
            "[[project]]\npath='a'\nrepository='/r'\n[project.variables]\nX = { value = 'a', value_file = '/b' }\n";
        let faults = Config::parse(text, "s.toml").unwrap_err();
        assert!(faults.to_string().contains("not both"), "{faults}");
    }
}
