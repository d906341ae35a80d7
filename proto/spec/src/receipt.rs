//! What a job used.

use serde::{Deserialize, Serialize};

/// What a job used. Figures that the host cannot give are `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Seconds of preparing: images, network, containers.
    #[serde(default)]
    pub prepare_seconds: f64,
    /// Seconds of fetching and checking out the sources.
    #[serde(default)]
    pub sources_seconds: f64,
    /// Seconds from asking for an engine to its first answer; `None` for a job without one.
    #[serde(default)]
    pub engine_seconds: Option<f64>,
    /// Seconds of the scripts.
    #[serde(default)]
    pub script_seconds: f64,
    /// Seconds of artifacts and caches.
    #[serde(default)]
    pub collect_seconds: f64,
    /// CPU seconds, user and system, of all containers and the engine (cgroup `cpuacct.usage` or `cpu.stat`).
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Highest memory in bytes (cgroup `memory.max_usage_in_bytes` or `memory.peak`), summed over containers.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// Bytes read from disk (cgroup `blkio.throttle.io_service_bytes` or `io.stat`).
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// Bytes written to disk.
    #[serde(default)]
    pub written_bytes: Option<u64>,
    /// Seconds in which some process of the job's container waited for I/O (cgroup v2 `io.pressure`, `some total`);
    /// `None` where the host does not count them.
    #[serde(default)]
    pub io_stalled_seconds: Option<f64>,
    /// The generation the engine started from: `lineage@n`; `None` for cold or without an engine.
    #[serde(default)]
    pub generation: Option<String>,
    /// Dockerfile steps that came from the cache, and all of them, where a build said so.
    #[serde(default)]
    pub steps_cached: Option<(u32, u32)>,
    /// The slowest Dockerfile steps that were not cached, at most three, slowest first: text and seconds.
    #[serde(default)]
    pub slow_steps: Vec<(String, f64)>,
    /// Images pushed by the job's script: reference and digest.
    #[serde(default)]
    pub pushed: Vec<Pushed>,
    /// Result of `coverage`, in per cent.
    #[serde(default)]
    pub coverage: Option<f64>,
}

/// An image pushed by a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Repository with tag, or the tag alone where the trace names no repository.
    pub reference: String,
    /// `sha256:…`.
    pub digest: String,
}
