//! A job's variables as its containers see them. Pure.

use crate::config::RunnerConfig;
use slipway_spec::expand::{ExpandError, expand_for_runner, sort_and_expand};
use slipway_spec::job::JobSpec;
use slipway_spec::variable::Variable;
use std::collections::HashMap;
use std::time::Duration;

/// Where the work trees are, in the container.
pub(crate) const BUILDS: &str = "/builds";

/// A job's variables, expanded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// The work tree, in the container.
    pub(crate) project_dir: String,
    /// The same below the job's `builds` folder on the node.
    pub(crate) project_path: String,
    /// One entry a name, in the order of first appearance: what the containers get.
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    variable: Variable,
    /// What the environment holds: the value, or the path of its file.
    shown: String,
}

impl Environment {
    /// Of a job on a node.
    ///
    /// # Errors
    /// When variables refer to each other in a circle: the job's own fault.
    pub(crate) fn of(spec: &JobSpec, config: &RunnerConfig, slot: u32) -> Result<Environment, ExpandError> {
        let project_path = safe_path(&spec.project_path);
        let project_dir = format!("{BUILDS}/{project_path}");
        let mut list: Vec<Variable> = Vec::new();
        let mut base = |key: &str, value: &str| list.push(Variable::public(key, value));
        for (key, value) in &config.environment {
            base(key, value);
        }
        let image =
            spec.image.as_ref().map(|i| i.name.as_str()).or(config.default_image.as_deref()).unwrap_or_default();
        base("CI_JOB_IMAGE", image);
        base("CI_BUILDS_DIR", BUILDS);
        base("CI_PROJECT_DIR", &project_dir);
        base("CI_CONCURRENT_ID", &slot.to_string());
        base("CI_CONCURRENT_PROJECT_ID", &slot.to_string());
        base("CI_SERVER", "yes");
        base("CI_JOB_STATUS", "running");
        base("CI_JOB_TIMEOUT", &spec.timeout_seconds.to_string());
        list.extend(spec.variables.iter().cloned());
        let mut late = |key: &str, value: &str| list.push(Variable::public(key, value));
        late("CI_DISPOSABLE_ENVIRONMENT", "true");
        late("CI_RUNNER_VERSION", env!("CARGO_PKG_VERSION"));
        late("CI_RUNNER_EXECUTABLE_ARCH", &format!("linux/{}", architecture()));
        late("RUNNER_TEMP_PROJECT_DIR", &format!("{project_dir}.tmp"));
        late("GITLAB_ENV", &format!("{project_dir}.tmp/gitlab_runner_env"));
        sort_and_expand(&mut list)?;
        Ok(Environment::expanded(list, project_dir, project_path))
    }

    /// The last entry of a name wins; then one pass over `$NAME`, a file variable being its path.
    fn expanded(list: Vec<Variable>, project_dir: String, project_path: String) -> Environment {
        let mut index: HashMap<String, usize> = HashMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        for variable in list {
            let shown =
                if variable.file { format!("{project_dir}.tmp/{}", variable.key) } else { variable.value.clone() };
            let entry = Entry { variable, shown };
            match index.get(&entry.variable.key) {
                Some(&at) => entries[at] = entry,
                None => {
                    index.insert(entry.variable.key.clone(), entries.len());
                    entries.push(entry);
                }
            }
        }
        let before: Vec<String> = entries.iter().map(|e| e.shown.clone()).collect();
        let look = |name: &str| index.get(name).map(|&at| before[at].as_str());
        for entry in &mut entries {
            if !entry.variable.raw && entry.variable.value.contains('$') {
                let value = expand_for_runner(&entry.variable.value, look);
                if !entry.variable.file {
                    entry.shown.clone_from(&value);
                }
                entry.variable.value = value;
            }
        }
        Environment { project_dir, project_path, entries, index }
    }

    /// Of variables alone, for tests of what reads them.
    #[cfg(test)]
    pub(crate) fn test(list: Vec<Variable>) -> Environment {
        Environment::expanded(list, "/builds/g/p".into(), "g/p".into())
    }

    /// What the environment holds under a name.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.index.get(key).map(|&at| self.entries[at].shown.as_str())
    }

    /// Whether a variable says yes: `true`, `1`, `yes`, `on`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1" | "yes" | "on" | "True" | "TRUE"))
    }

    /// A number of attempts: 1 when it is not set, at most 10.
    pub(crate) fn attempts(&self, key: &str) -> u32 {
        self.get(key)
            .and_then(|v| v.trim().parse::<i64>().ok())
            .map_or(1, |n| u32::try_from(n.clamp(1, 10)).unwrap_or(1))
    }

    /// A duration in Go's form.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.get(key).and_then(go_duration)
    }

    /// A text with its references expanded.
    pub(crate) fn expand(&self, text: &str) -> String {
        if text.contains('$') { expand_for_runner(text, |name| self.get(name)) } else { text.to_owned() }
    }

    /// `KEY=value` of every variable, for the job's container.
    pub(crate) fn all(&self) -> Vec<String> {
        self.entries.iter().map(|e| format!("{}={}", e.variable.key, e.shown)).collect()
    }

    /// `KEY=value` of those that may be printed, and `own`, for a service.
    pub(crate) fn of_service(&self, own: &[Variable]) -> Vec<String> {
        let mut pairs: Vec<(String, String)> = self
            .entries
            .iter()
            .filter(|e| e.variable.public && !e.variable.file)
            .map(|e| (e.variable.key.clone(), e.shown.clone()))
            .collect();
        for variable in own {
            let value = if variable.raw { variable.value.clone() } else { self.expand(&variable.value) };
            pairs.retain(|(key, _)| *key != variable.key);
            pairs.push((variable.key.clone(), value));
        }
        pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Names and contents of the file variables.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter(|e| e.variable.file).map(|e| (e.variable.key.as_str(), e.variable.value.as_str()))
    }
}

/// What is hidden in the output of a job's containers: the values of its masked variables, before and after expansion.
/// It is the same for a restarted runner, which reads the output again.
pub(crate) fn secrets(spec: &JobSpec, environment: &Environment) -> Vec<String> {
    let mut all: Vec<String> = spec.variables.iter().filter(|v| v.masked).map(|v| v.value.clone()).collect();
    all.extend(environment.entries.iter().filter(|e| e.variable.masked).map(|e| e.variable.value.clone()));
    all.retain(|s| !s.is_empty());
    all.sort_unstable();
    all.dedup();
    all
}

/// What is hidden in the runner's own lines besides: passwords that only the runner knows.
pub(crate) fn passwords(spec: &JobSpec) -> Vec<String> {
    let logins = spec.source.login.iter().chain(spec.credentials.iter().map(|c| &c.login));
    logins.map(|l| l.password.clone()).filter(|p| !p.is_empty()).collect()
}

/// A project's path as folders: nothing that leads elsewhere.
fn safe_path(path: &str) -> String {
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !matches!(*p, "" | "." | ".."))
        .map(|p| p.chars().map(|c| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '_' }).collect())
        .collect();
    if parts.is_empty() { "project".into() } else { parts.join("/") }
}

/// `1h30m`, `40m`, `1.5s`, `300ms` (Go's time.ParseDuration, without signs).
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        sum += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(sum).ok()
}

/// Go's word for the architecture of this build.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: Vec<Variable>) -> Environment {
        Environment::test(variables)
    }

    #[test]
    fn variables_last_of_a_name_wins_and_references_are_expanded_once() {
        let environment = of(vec![
            Variable::public("A", "first"),
            Variable::public("B", "$A-$$-$NONE-$C"),
            Variable { raw: true, ..Variable::public("C", "$A") },
            Variable::public("A", "last"),
        ]);
        assert_eq!(environment.get("B"), Some("last-$--$A"));
        assert_eq!(environment.all(), ["A=last", "B=last-$--$A", "C=$A"]);
    }

    #[test]
    fn variables_reference_to_a_file_variable_is_its_path() {
        let environment = of(vec![
            Variable { file: true, ..Variable::public("CERT", "line\nwithout newline") },
            Variable::public("PATH_OF", "$CERT"),
        ]);
        assert_eq!(environment.get("PATH_OF"), Some("/builds/g/p.tmp/CERT"));
        assert_eq!(environment.get("CERT"), Some("/builds/g/p.tmp/CERT"));
        assert_eq!(environment.files().collect::<Vec<_>>(), [("CERT", "line\nwithout newline")]);
    }

    #[test]
    fn variables_that_are_private_stay_out_of_services() {
        let environment = of(vec![Variable::public("A", "a"), Variable::secret("TOKEN", "t")]);
        assert_eq!(environment.of_service(&[Variable::public("OWN", "$A$TOKEN")]), ["A=a", "OWN=at"]);
    }

    #[test]
    fn variables_durations_are_go_s() {
        let seconds = |text| go_duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("1.5s"), Some(1.5));
        assert_eq!(seconds("300ms"), Some(0.3));
        assert_eq!([seconds("5"), seconds(""), seconds("m"), seconds("1 day")], [None; 4]);
    }

    #[test]
    fn variables_project_path_cannot_leave_the_builds_folder() {
        assert_eq!(safe_path("../../etc//x:y"), "etc/x_y");
        assert_eq!(safe_path(".."), "project");
    }
}
