//! `slipway import-config`: an official `config.toml` becomes ours, and every key that is not carried over is named.

mod keys;

use crate::End;
use crate::upstream_file::table_text;
use anyhow::{Context, Result, bail};
use keys::{DOCKER, GLOBAL, RUNNER, Verdict};
use slipway_scheduler::upstream::gitlab::config::{Secret, UpstreamConfig};
use slipway_scheduler::upstream::gitlab::spool::write_whole;
use std::path::PathBuf;
use toml::{Table, Value};

/// Turn an official runner's config.toml into ours.
#[derive(clap::Args)]
pub(crate) struct ImportConfig {
    /// The official configuration.
    #[arg(default_value = "/etc/gitlab-runner/config.toml")]
    file: PathBuf,
    /// Write here instead of printing; a file that is there is not replaced.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

impl ImportConfig {
    pub(crate) fn execute(self) -> Result<End> {
        let shown = self.file.display();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {shown}"))?;
        let table: Table = text.parse().with_context(|| format!("{shown} is no TOML"))?;
        let import = Import::of(&table);
        let written = import.text();
        match &self.output {
            Some(path) if path.exists() => bail!("{} is there already; choose another --output", path.display()),
            Some(path) => {
                write_whole(path, written.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
                println!("written to {}", path.display());
            }
            None => print!("{written}"),
        }
        for line in &import.left {
            eprintln!("not carried over: {line}");
        }
        Ok(End::Ok)
    }
}

/// What becomes of an official configuration.
#[derive(Default)]
struct Import {
    /// `[runner]` keys.
    node: Table,
    /// `[scheduler]` keys.
    scheduler: Table,
    upstreams: Vec<UpstreamConfig>,
    /// Key and why, for each that is not carried over.
    left: Vec<String>,
    /// Remarks on what was.
    remarks: Vec<String>,
}

impl Import {
    fn of(table: &Table) -> Import {
        let mut import = Import::default();
        let check_interval = get(table, "check_interval").and_then(Value::as_integer).filter(|n| *n > 0);
        for (key, value) in table {
            let key = key.to_ascii_lowercase();
            if key == "runners" {
                continue;
            }
            match GLOBAL.iter().find(|(k, _)| *k == key) {
                Some((_, Verdict::Left(why))) => import.leave(&key, value, why),
                Some((_, Verdict::Carried)) => import.global(&key, value),
                None => import.leave(&key, value, "not known"),
            }
        }
        let runners = get(table, "runners").and_then(Value::as_array).cloned().unwrap_or_default();
        for runner in runners.iter().filter_map(Value::as_table) {
            import.runner(runner, check_interval);
        }
        import
    }

    fn leave(&mut self, key: &str, value: &Value, why: &str) {
        // Zero, false and empty are what the official runner writes for "not set".
        let unset = match value {
            Value::String(s) => s.is_empty(),
            Value::Integer(n) => *n == 0,
            Value::Float(n) => *n == 0.0,
            Value::Boolean(b) => !b,
            Value::Array(items) => items.is_empty(),
            Value::Table(table) => {
                for (inner, value) in table {
                    self.leave(&format!("{key}.{inner}"), value, why);
                }
                return;
            }
            Value::Datetime(at) => at.to_string().starts_with("0001-"),
        };
        if !unset {
            self.left.push(format!("{key}: {why}"));
        }
    }

    fn global(&mut self, key: &str, value: &Value) {
        match key {
            "concurrent" => self.node("capacity", value.clone(), "concurrent"),
            "check_interval" => {}
            "shutdown_timeout" => self.node("shutdown_seconds", value.clone(), key),
            "listen_address" => {
                let text = value.as_str().unwrap_or_default();
                // The official default port, and every address when none is named.
                let host_port = if text.contains(':') { text.to_owned() } else { format!("{text}:9252") };
                let host_port = if host_port.starts_with(':') { format!("0.0.0.0{host_port}") } else { host_port };
                if host_port.parse::<std::net::SocketAddr>().is_ok() {
                    self.scheduler.insert("metrics".into(), Value::String(host_port));
                } else {
                    self.leave(key, value, "`metrics` of [scheduler] must be ADDRESS:PORT");
                }
            }
            _ => unreachable!("the table of keys says what is carried"),
        }
    }

    /// A key of the node. Where two `[[runners]]` differ the first counts: the node is one.
    fn node(&mut self, key: &str, value: Value, from: &str) {
        match self.node.get(key) {
            Some(known) if *known != value => {
                self.left.push(format!("{from} = {value}: another [[runners]] has {known}, and a node has one"));
            }
            Some(_) => {}
            None => {
                self.node.insert(key.to_owned(), value);
            }
        }
    }

    fn runner(&mut self, table: &Table, check_interval: Option<i64>) {
        let text = |key: &str| get(table, key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let official = text("name").unwrap_or_else(|| "gitlab".into());
        let executor = text("executor").unwrap_or_default();
        if !matches!(executor.as_str(), "docker" | "docker+machine" | "docker-autoscaler" | "") {
            self.left
                .push(format!("runners.{official}: its executor is {executor}; slipway runs jobs in containers only"));
            return;
        }
        let taken: Vec<String> = self.upstreams.iter().map(|u| u.name.clone()).collect();
        let name = fit(&official, &taken);
        if name != official {
            self.remarks.push(format!("[[runners]] {official:?} is called `{name}`"));
        }
        let mut upstream =
            UpstreamConfig::new(name, text("url").unwrap_or_default(), text("token").unwrap_or_default());
        if let Some(seconds) = check_interval {
            upstream.check_interval_seconds = seconds.unsigned_abs();
        }
        for (key, value) in table {
            let key = key.to_ascii_lowercase();
            let named = format!("runners.{official}.{key}");
            match RUNNER.iter().find(|(k, _)| *k == key) {
                Some((_, Verdict::Left(why))) => self.leave(&named, value, why),
                Some((_, Verdict::Carried)) => self.runner_key(&mut upstream, &key, &named, value),
                None => self.leave(&named, value, "not known"),
            }
        }
        self.upstreams.push(upstream);
    }

    fn runner_key(&mut self, upstream: &mut UpstreamConfig, key: &str, named: &str, value: &Value) {
        let number = value.as_integer().filter(|n| *n > 0).map(i64::unsigned_abs);
        let path = || value.as_str().filter(|t| !t.is_empty()).map(PathBuf::from);
        match key {
            "name" | "url" | "executor" => {}
            "token" => upstream.token = value.as_str().map(|t| Secret(t.to_owned())),
            "id" => upstream.id = number,
            "limit" => upstream.limit = number.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            "strict_check_interval" => upstream.strict_check_interval = value.as_bool().unwrap_or(false),
            "unhealthy_requests_limit" => {
                if let Some(n) = number {
                    upstream.unhealthy_requests_limit = u32::try_from(n).unwrap_or(u32::MAX);
                }
            }
            "unhealthy_interval" => match value.as_str().and_then(|t| slipway_spec::duration::parse(t).ok()) {
                Some(interval) => upstream.unhealthy_interval_seconds = interval.as_secs(),
                None => self.leave(named, value, "it is no duration"),
            },
            "environment" => upstream.environment = texts(value),
            "clone_url" => upstream.clone_url = value.as_str().filter(|t| !t.is_empty()).map(str::to_owned),
            "tls-ca-file" => upstream.tls_ca_file = path(),
            "tls-cert-file" => upstream.tls_cert_file = path(),
            "tls-key-file" => upstream.tls_key_file = path(),
            "output_limit" => {
                if let Some(kilobytes) = value.as_integer().filter(|n| *n > 0) {
                    self.node("output_limit_bytes", Value::Integer(kilobytes * 1024), named);
                }
            }
            "docker" => {
                for (key, value) in value.as_table().into_iter().flatten() {
                    let key = key.to_ascii_lowercase();
                    let named = format!("{named}.{key}");
                    match DOCKER.iter().find(|(k, _)| *k == key) {
                        Some((_, Verdict::Left(why))) => self.leave(&named, value, why),
                        Some((_, Verdict::Carried)) => self.docker_key(upstream, &key, &named, value),
                        None => self.leave(&named, value, "not known"),
                    }
                }
            }
            _ => unreachable!("the table of keys says what is carried"),
        }
    }

    fn docker_key(&mut self, upstream: &mut UpstreamConfig, key: &str, named: &str, value: &Value) {
        let list = || Value::Array(texts(value).into_iter().map(Value::String).collect());
        match key {
            "image" => upstream.default_image = value.as_str().filter(|t| !t.is_empty()).map(str::to_owned),
            "pull_policy" | "allowed_pull_policies" | "allowed_images" | "allowed_services" | "extra_hosts" => {
                if !texts(value).is_empty() {
                    self.node(key, list(), named);
                }
            }
            "user" => {
                if value.as_str().is_some_and(|t| !t.is_empty()) {
                    self.node("user", value.clone(), named);
                }
            }
            "memory" => match value.as_str().and_then(bytes) {
                Some(n) => self.node("memory_bytes", Value::Integer(n), named),
                None => self.leave(named, value, "it is no size"),
            },
            "cpus" => match value.as_str().and_then(|t| t.parse::<f64>().ok()) {
                Some(n) => self.node("cpus", Value::Float(n), named),
                None => self.leave(named, value, "it is no number"),
            },
            "shm_size" => {
                if value.as_integer().is_some_and(|n| n > 0) {
                    self.node("shm_bytes", value.clone(), named);
                }
            }
            "network_mtu" => {
                if value.as_integer().is_some_and(|n| n > 0) {
                    self.node("network_mtu", value.clone(), named);
                }
            }
            "wait_for_services_timeout" => {
                if value.as_integer().is_some_and(|n| n != 0) {
                    self.node("services_wait_seconds", value.clone(), named);
                }
            }
            "host" => match value.as_str().unwrap_or_default().strip_prefix("unix://") {
                Some(path) => self.node("docker_socket", Value::String(path.to_owned()), named),
                None => self.leave(named, value, "a node uses the Docker engine of its own machine"),
            },
            "privileged" => {
                if value.as_bool() == Some(true) {
                    let text = "is not needed: every job with docker:dind gets a private engine, and no job container \
                                is privileged";
                    self.left.push(format!("{named}: {text}"));
                }
            }
            "volumes" => {
                let mut binds = Vec::new();
                for volume in texts(value) {
                    match volume.split(':').collect::<Vec<_>>().as_slice() {
                        ["/cache" | "/certs/client" | "/builds"] => {
                            self.remarks.push(format!("{named}: {volume} is not needed"));
                        }
                        [_] => self
                            .left
                            .push(format!("{named}: {volume}: volumes of the node's own are not kept; use `cache:`")),
                        ["/var/run/docker.sock", ..] => {
                            self.remarks.push(format!(
                                "{named}: {volume} gives every job the node's own engine; services: [docker:dind] is safer"
                            ));
                            binds.push(volume);
                        }
                        _ => binds.push(volume),
                    }
                }
                if !binds.is_empty() {
                    self.node("volumes", Value::Array(binds.into_iter().map(Value::String).collect()), named);
                }
            }
            _ => unreachable!("the table of keys says what is carried"),
        }
    }

    /// Our configuration.
    fn text(&self) -> String {
        let mut text = "# Made by `slipway import-config`.\n".to_owned();
        for remark in &self.remarks {
            text += &format!("# {remark}\n");
        }
        for (name, table) in [("scheduler", &self.scheduler), ("runner", &self.node)] {
            if !table.is_empty() {
                text += &format!("\n[{name}]\n");
                for (key, value) in table {
                    text += &format!("{key} = {value}\n");
                }
            }
        }
        for upstream in &self.upstreams {
            text += &format!("\n{}", table_text(upstream));
        }
        if !self.left.is_empty() {
            text += "\n# Not carried over:\n";
            for line in &self.left {
                text += &format!("# {line}\n");
            }
        }
        text
    }
}

/// A key as the official library looks it up: exactly, then without regard to case.
fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    table.get(key).or_else(|| table.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v))
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(s) if !s.is_empty() => vec![s.clone()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// `512m`, `2g`, `1073741824`.
fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'k') => (&text[..at], 10),
        (at, 'm') => (&text[..at], 20),
        (at, 'g') => (&text[..at], 30),
        (at, 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    number.trim().parse::<i64>().ok()?.checked_mul(1 << shift)
}

/// A name that our configuration takes and that is not taken.
fn fit(official: &str, taken: &[String]) -> String {
    let fit: String =
        official.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let fit = fit.trim_matches(['-', '.']);
    let fit = if fit.is_empty() { "gitlab" } else { fit };
    let names = std::iter::once(fit.to_owned()).chain((2..).map(|n| format!("{fit}-{n}")));
    names.into_iter().find(|n| !taken.contains(n)).expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const OFFICIAL: &str = r#"
concurrent = 4
check_interval = 5
log_level = "info"
shutdown_timeout = 60
listen_address = ":9252"

[session_server]
  session_timeout = 1800

[[runners]]
  name = "my runner"
  url = "https://gitlab.example.com"
  id = 7
  token = "glrt-abc"
  token_obtained_at = 2024-01-01T00:00:00Z
  token_expires_at = 0001-01-01T00:00:00Z
  executor = "docker"
  limit = 3
  output_limit = 8192
  environment = ["A=b"]
  pre_build_script = "echo hello"
  surprise = 1
  [runners.feature_flags]
    FF_NETWORK_PER_BUILD = true
  [runners.cache]
    Type = "s3"
    MaxUploadedArchiveSize = 0
    [runners.cache.s3]
      BucketName = "bucket"
  [runners.docker]
    tls_verify = false
    image = "debian:bookworm-slim"
    privileged = true
    disable_cache = false
    volumes = ["/cache", "/certs/client", "/srv/data:/data:ro", "/models"]
    pull_policy = "if-not-present"
    memory = "512m"
    cpus = "1.5"
    shm_size = 300000000
    network_mode = "host"

[[runners]]
  name = "shell"
  url = "https://gitlab.example.com"
  token = "x"
  executor = "shell"
"#;

    #[test]
    fn official_configuration_becomes_ours_and_every_lost_key_is_named() {
        let import = Import::of(&OFFICIAL.parse().unwrap());
        let text = import.text();
        let path = Path::new("imported.toml");
        let upstreams = crate::config::upstreams(&text, path).unwrap_or_else(|e| panic!("{e}\n{text}"));
        crate::config::scheduler(&text, path).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let node = crate::config::runner(&text, path).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(upstreams.len(), 1);
        assert_eq!(upstreams[0].faults(), Vec::<String>::new());
        let upstream = &upstreams[0];
        assert_eq!((upstream.name.as_str(), upstream.limit, upstream.id), ("my-runner", 3, Some(7)));
        assert_eq!(upstream.check_interval_seconds, 5);
        assert_eq!(upstream.default_image.as_deref(), Some("debian:bookworm-slim"));
        assert_eq!((node.capacity, node.output_limit_bytes, node.shutdown_seconds), (4, 8 << 20, 60));
        assert_eq!((node.memory_bytes, node.cpus, node.shm_bytes), (Some(512 << 20), Some(1.5), Some(300_000_000)));
        assert_eq!(node.volumes, ["/srv/data:/data:ro"]);
        let named: Vec<&str> = import.left.iter().map(|l| l.split(": ").next().unwrap()).collect();
        assert_eq!(
            named,
            [
                "log_level",
                "session_server.session_timeout",
                "runners.my runner.cache.Type",
                "runners.my runner.cache.s3.BucketName",
                "runners.my runner.docker.network_mode",
                "runners.my runner.docker.privileged",
                "runners.my runner.docker.volumes",
                "runners.my runner.feature_flags.FF_NETWORK_PER_BUILD",
                "runners.my runner.pre_build_script",
                "runners.my runner.surprise",
                "runners.my runner.token_obtained_at",
                "runners.shell",
            ]
        );
        for line in &import.left {
            assert!(text.contains(&format!("# {line}")), "{line}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("2g", Some(2 << 30)),
            ("1024", Some(1024)),
            ("1GiB", Some(1 << 30)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
