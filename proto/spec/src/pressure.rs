//! A node's live I/O and memory load, sampled once a second.

use serde::{Deserialize, Serialize};

/// One sample: deltas over the second before it. A figure whose source is missing on the host is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Share of CPU time spent idle while a task waits for I/O, 0 to 1 (`/proc/stat`, `iowait` over the sum; proc(5)).
    #[serde(default)]
    pub io_wait: f64,
    /// The device under the cache root.
    #[serde(default)]
    pub disk: Option<Disk>,
    /// Share of the second in which some task was stalled on I/O, 0 to 1 (`/proc/pressure/io`, `some total` delta).
    #[serde(default)]
    pub psi_io_some: Option<f64>,
    /// The same for all non-idle tasks at once (`full total`).
    #[serde(default)]
    pub psi_io_full: Option<f64>,
    /// Share in which some task was stalled on memory (`/proc/pressure/memory`).
    #[serde(default)]
    pub psi_memory_some: Option<f64>,
    /// Share in which some task waited for a CPU (`/proc/pressure/cpu`).
    #[serde(default)]
    pub psi_cpu_some: Option<f64>,
    /// Bytes of memory in all (`/proc/meminfo`, MemTotal).
    #[serde(default)]
    pub memory_total_bytes: u64,
    /// Bytes that could be had without swapping (MemAvailable).
    #[serde(default)]
    pub memory_available_bytes: u64,
    /// Free bytes of the file system under the cache root, for an unprivileged user (`statvfs`, f_bavail).
    #[serde(default)]
    pub disk_free_bytes: u64,
    /// Its size.
    #[serde(default)]
    pub disk_total_bytes: u64,
}

/// A block device's second (`/proc/diskstats`; Documentation/admin-guide/iostats.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name: `vda`, `nvme0n1`.
    pub device: String,
    /// Requests in flight at the moment of the sample (field 9).
    pub in_flight: u64,
    /// Average number of requests in the queue: delta of weighted milliseconds (field 11) over the interval.
    pub queue_depth: f64,
    /// Average milliseconds of a request from queue to completion; `None` when none completed.
    #[serde(default)]
    pub await_ms: Option<f64>,
    /// Share of the interval with at least one request in flight, 0 to 1 (field 10).
    pub utilisation: f64,
    /// Bytes read a second.
    pub read_bytes: f64,
    /// Bytes written a second.
    pub written_bytes: f64,
}
