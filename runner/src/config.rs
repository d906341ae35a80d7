//! `[runner]` of the configuration file: one node. Unknown keys are refused with their place.

use crate::engine::Choice;
use serde::Deserialize;
use slipway_spec::job::PullPolicy;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// One node's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunnerConfig {
    /// The node's name; unique among the nodes of a scheduler. Empty means the host's name.
    pub name: String,
    /// The scheduler's address: `unix:/run/slipway/scheduler.sock`, `http://host:port` or `https://host:port`.
    pub scheduler: String,
    /// Folder that `slipway join` wrote: needed for an `https` scheduler.
    pub identity: Option<PathBuf>,
    /// Everything the runner keeps: jobs, mirrors, caches, layers. On the node's fastest disk.
    pub cache_root: PathBuf,
    /// Jobs run at once; 0 means as many as there are CPUs.
    pub capacity: u32,
    /// Tags that jobs may ask for.
    pub tags: Vec<String>,
    /// Paths of the projects it serves; empty means all.
    pub trust_domain: Vec<String>,
    /// Memory in bytes of an engine, its page cache included.
    pub engine_memory_bytes: Option<u64>,
    /// CPUs of an engine.
    pub engine_cpus: Option<f64>,
    /// Processes of an engine and of all containers in it.
    pub engine_pids: Option<u64>,
    /// The Docker engine that runs the job containers.
    pub docker_socket: PathBuf,
    /// Image of a job that names none.
    pub default_image: Option<String>,
    /// Mirrors of Docker Hub that every engine asks first.
    pub registry_mirrors: Vec<String>,
    /// Registries without TLS, `host:port`.
    pub insecure_registries: Vec<String>,
    /// PEM file of certificate authorities that every engine trusts beside its own.
    pub ca_file: Option<PathBuf>,
    /// In the order they are tried, for jobs that name none.
    pub pull_policy: Vec<PullPolicy>,
    /// What a job may ask for; empty means what `pull_policy` names.
    pub allowed_pull_policies: Vec<PullPolicy>,
    /// Doublestar globs of images a job may use; empty means all.
    pub allowed_images: Vec<String>,
    /// The same for services.
    pub allowed_services: Vec<String>,
    /// The node's own logins, in the form of Docker's config.json.
    pub docker_config: Option<PathBuf>,
    /// Memory of a job's container in bytes; none means no limit.
    pub memory_bytes: Option<u64>,
    /// CPUs of a job's container.
    pub cpus: Option<f64>,
    /// Processes of a job's container.
    pub pids: Option<i64>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: Option<u64>,
    /// User of job containers, over the image's and the job's.
    pub user: Option<String>,
    /// Further binds of job containers: `/host:/container[:ro]`.
    pub volumes: Vec<String>,
    /// Further `/etc/hosts` entries: `name:address`.
    pub extra_hosts: Vec<String>,
    /// Variables of every job; the job's own win.
    pub environment: BTreeMap<String, String>,
    /// What keeps root in an engine inside: `auto`, `userns` or `container`.
    pub wall: Choice,
    /// Disk in bytes that one build is assumed to need.
    pub build_disk_bytes: u64,
    /// Bytes that layers, generations and caches may take.
    pub cache_max_bytes: u64,
    /// Where the networks of jobs with services are cut from, as /24 each.
    pub job_networks: String,
    /// MTU of those networks; none means Docker's default.
    pub network_mtu: Option<u32>,
    /// How long to wait for a service to listen; a negative number does not wait (GitLab's default: 30).
    pub services_wait_seconds: i64,
    /// Bytes of a trace; of what is longer, the head and the tail are kept (GitLab's default: 4 MiB).
    pub output_limit_bytes: u64,
    /// A time before every line of the trace.
    pub trace_timestamps: bool,
    /// How long jobs may take to end when the runner is stopped.
    pub shutdown_seconds: u64,
    /// The program, with the words that lead to `engine::door::serve`; empty means this program with `engine-door`.
    #[serde(skip)]
    pub engine_door: Vec<OsString>,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        RunnerConfig {
            name: String::new(),
            scheduler: "unix:/run/slipway/scheduler.sock".into(),
            identity: None,
            cache_root: "/var/cache/slipway".into(),
            capacity: 0,
            tags: Vec::new(),
            trust_domain: Vec::new(),
            engine_memory_bytes: None,
            engine_cpus: None,
            engine_pids: None,
            docker_socket: "/var/run/docker.sock".into(),
            default_image: None,
            registry_mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            ca_file: None,
            pull_policy: vec![PullPolicy::IfNotPresent],
            allowed_pull_policies: vec![PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never],
            allowed_images: Vec::new(),
            allowed_services: Vec::new(),
            docker_config: None,
            memory_bytes: None,
            cpus: None,
            pids: None,
            shm_bytes: None,
            user: None,
            volumes: Vec::new(),
            extra_hosts: Vec::new(),
            environment: BTreeMap::new(),
            wall: Choice::Auto,
            build_disk_bytes: 8 << 30,
            cache_max_bytes: 50 << 30,
            job_networks: "10.213.0.0/16".into(),
            network_mtu: None,
            services_wait_seconds: 30,
            output_limit_bytes: 4 << 20,
            trace_timestamps: false,
            shutdown_seconds: 30,
            engine_door: Vec::new(),
        }
    }
}

/// A configuration that cannot be used: every fault of it.
#[derive(Debug, thiserror::Error)]
#[error("[runner] cannot be used: {}", faults.join("; "))]
pub struct Unusable {
    /// Each for people, with the key in it.
    pub faults: Vec<String>,
}

impl RunnerConfig {
    /// The node's name: the configured one, or the host's.
    #[must_use]
    pub fn node(&self) -> String {
        if self.name.is_empty() {
            nix::unistd::gethostname().map_or_else(|_| "node".into(), |name| name.to_string_lossy().into_owned())
        } else {
            self.name.clone()
        }
    }

    /// What the node's containers, networks and volumes are labelled and named with: its name, and its cache root's
    /// checksum, so that two runners on one Docker engine never sweep each other's.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{}-{:08x}", self.node(), crc32fast::hash(self.cache_root.as_os_str().as_encoded_bytes()))
    }

    /// Jobs at once.
    #[must_use]
    pub fn slots(&self) -> u32 {
        if self.capacity > 0 {
            return self.capacity;
        }
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// With every fault at once.
    pub fn check(&self) -> Result<(), Unusable> {
        let mut faults = Vec::new();
        let name = self.node();
        if name.len() > 63 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            faults.push(format!("name = {name:?}: letters, digits, `-`, `_`, `.`, at most 63 of them"));
        }
        if !self.cache_root.is_absolute() {
            faults.push(format!("cache_root = {:?}: an absolute path is needed", self.cache_root));
        }
        if self.pull_policy.is_empty() {
            faults.push("pull_policy is empty: name at least one of always, if-not-present, never".into());
        }
        if self.cpus.is_some_and(|n| n.is_nan() || n <= 0.0) {
            faults.push(format!("cpus = {:?}: more than 0", self.cpus));
        }
        if self.memory_bytes.is_some_and(|n| n < 6 << 20) {
            faults.push("memory_bytes: Docker refuses less than 6 MiB".into());
        }
        if self.output_limit_bytes < 4096 {
            faults.push("output_limit_bytes: at least 4096".into());
        }
        if let Err(fault) = crate::executor::network::Pool::parse(&self.job_networks) {
            faults.push(format!("job_networks = {:?}: {fault}", self.job_networks));
        }
        if faults.is_empty() { Ok(()) } else { Err(Unusable { faults }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_unknown_key_is_refused_by_name() {
        let fault = toml::from_str::<RunnerConfig>("name = \"a\"\ncapasity = 3\n").unwrap_err().to_string();
        assert!(fault.contains("capasity"), "{fault}");
    }

    #[test]
    fn config_check_reports_every_fault_at_once() {
        let config = RunnerConfig {
            name: "a b".into(),
            cache_root: "relative".into(),
            pull_policy: vec![],
            job_networks: "nonsense".into(),
            ..RunnerConfig::default()
        };
        assert_eq!(config.check().unwrap_err().faults.len(), 4);
        RunnerConfig::default().check().unwrap();
    }
}
