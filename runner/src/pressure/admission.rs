//! Whether a node lets new builds in: pure, with hysteresis, so that it neither flickers nor believes one bad second.

use slipway_spec::pressure::Pressure;
use std::fmt;

/// Above these a node starts no new build. Other jobs may start.
///
/// `None` means that the figure does not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Share of a second in which all tasks that could run were stalled on I/O.
    pub io_full: Option<f64>,
    /// Average number of requests in the device's queue.
    pub queue_depth: Option<f64>,
    /// Average milliseconds of a request.
    pub await_ms: Option<f64>,
    /// Share of memory that must be available.
    pub memory_available: Option<f64>,
    /// Bytes that must be free under the cache root.
    pub disk_free_bytes: Option<u64>,
    /// Samples in a row over a limit that close the node.
    pub close_after: u32,
    /// Samples in a row under [`Limits::reopen_share`] of every limit that open it again.
    pub reopen_after: u32,
    /// How far under a limit counts as calm, 0 to 1.
    pub reopen_share: f64,
}

impl Default for Limits {
    /// For one NVMe or SSD. A queue that a request waits in for longer than 100 ms is no longer a queue but a jam; a
    /// build of two seconds does not notice `io_full` below a half.
    fn default() -> Self {
        Limits {
            io_full: Some(0.5),
            queue_depth: Some(64.0),
            await_ms: Some(100.0),
            memory_available: Some(0.05),
            disk_free_bytes: Some(2 << 30),
            close_after: 3,
            reopen_after: 5,
            reopen_share: 0.7,
        }
    }
}

/// A figure over its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    /// Share of the second in which everything waited for the disk, and the limit.
    IoFull(f64, f64),
    /// Requests in the queue, and the limit.
    QueueDepth(f64, f64),
    /// Milliseconds of a request, and the limit.
    Await(f64, f64),
    /// Share of memory available, and the least.
    Memory(f64, f64),
    /// Bytes free, and the least.
    DiskFree(u64, u64),
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Over::IoFull(is, limit) => {
                write!(
                    f,
                    "everything waits for the disk {:.0} % of the time (limit {:.0} %)",
                    is * 100.0,
                    limit * 100.0
                )
            }
            Over::QueueDepth(is, limit) => write!(f, "the disk's queue holds {is:.0} requests (limit {limit:.0})"),
            Over::Await(is, limit) => write!(f, "a disk request takes {is:.0} ms (limit {limit:.0} ms)"),
            Over::Memory(is, least) => {
                write!(f, "{:.0} % of memory is available (at least {:.0} %)", is * 100.0, least * 100.0)
            }
            Over::DiskFree(is, least) => {
                write!(f, "{} MiB are free under the cache folder (at least {} MiB)", is >> 20, least >> 20)
            }
        }
    }
}

impl Limits {
    /// The first figure over its limit, when every limit is made `share` as strict (1: as it is).
    fn over(&self, p: &Pressure, share: f64) -> Option<Over> {
        let above = |is: Option<f64>, limit: Option<f64>, over: fn(f64, f64) -> Over| {
            let (is, limit) = (is?, limit?);
            (is > limit * share).then(|| over(is, limit))
        };
        let disk = p.disk.as_ref();
        let memory = (p.memory_total_bytes > 0).then(|| p.memory_available_bytes as f64 / p.memory_total_bytes as f64);
        // Without a size the free bytes were not read either.
        let free = (p.disk_total_bytes > 0).then_some(p.disk_free_bytes);
        above(p.psi_io_full, self.io_full, Over::IoFull)
            .or_else(|| above(disk.map(|d| d.queue_depth), self.queue_depth, Over::QueueDepth))
            .or_else(|| above(disk.and_then(|d| d.await_ms), self.await_ms, Over::Await))
            .or_else(|| {
                let (is, least) = (memory?, self.memory_available?);
                (is < least / share).then_some(Over::Memory(is, least))
            })
            .or_else(|| {
                let (is, least) = (free?, self.disk_free_bytes?);
                ((is as f64) < least as f64 / share).then_some(Over::DiskFree(is, least))
            })
    }
}

/// Whether new builds are let in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Admission {
    /// They are; so many samples in a row were over a limit.
    Open {
        /// Samples in a row over a limit.
        strained: u32,
    },
    /// They are not.
    Closed {
        /// What was over its limit last.
        over: Over,
        /// Samples in a row that were calm since.
        calm: u32,
    },
}

impl Default for Admission {
    fn default() -> Self {
        Admission::Open { strained: 0 }
    }
}

impl Admission {
    /// The state after one more sample.
    #[must_use]
    pub fn observe(self, sample: &Pressure, limits: &Limits) -> Admission {
        match self {
            Admission::Open { strained } => match limits.over(sample, 1.0) {
                None => Admission::Open { strained: 0 },
                Some(over) if strained + 1 >= limits.close_after => Admission::Closed { over, calm: 0 },
                Some(_) => Admission::Open { strained: strained + 1 },
            },
            Admission::Closed { over, calm } => match limits.over(sample, limits.reopen_share.clamp(0.05, 1.0)) {
                Some(_) => Admission::Closed { over: limits.over(sample, 1.0).unwrap_or(over), calm: 0 },
                None if calm + 1 >= limits.reopen_after => Admission::Open { strained: 0 },
                None => Admission::Closed { over, calm: calm + 1 },
            },
        }
    }

    /// Why no build starts here, in a sentence; `None` when builds may start.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self {
            Admission::Open { .. } => None,
            Admission::Closed { over, .. } => Some(format!("refuses builds because {over}")),
        }
    }
}
