//! Counters of the kernel and the pure arithmetic between two readings of them.

use slipway_spec::pressure::{Disk, Pressure};
use std::time::Duration;

/// One look at the kernel's counters. What the host does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// `/proc/stat`, first line.
    pub cpu: CpuTicks,
    /// `/proc/diskstats`, the line of the device under the cache root.
    pub disk: Option<DiskCounters>,
    /// `/proc/pressure/*`.
    pub stalled: Stalled,
    /// `/proc/meminfo`, MemTotal in bytes.
    pub memory_total_bytes: u64,
    /// `/proc/meminfo`, MemAvailable in bytes.
    pub memory_available_bytes: u64,
    /// `statvfs`: `f_bavail` × `f_frsize`.
    pub disk_free_bytes: u64,
    /// `statvfs`: `f_blocks` × `f_frsize`.
    pub disk_total_bytes: u64,
}

/// CPU time of all processors since boot in ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// Idle with a request for I/O outstanding. The kernel says of itself that it may decrease.
    pub io_wait: u64,
    /// Sum of user, nice, system, idle, iowait, irq, softirq and steal. Guest time is part of user.
    pub total: u64,
}

/// A block device's counters since it appeared (Documentation/admin-guide/iostats.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Kernel name.
    pub device: String,
    /// Requests completed: reads, writes, discards and flushes (fields 1, 5, 12, 16).
    pub completed: u64,
    /// Milliseconds that those took (fields 4, 8, 15, 17). 32 bits each; the sum of them here.
    pub taken_ms: u64,
    /// Bytes read: field 3, sectors of 512 bytes whatever the device's are.
    pub read_bytes: u64,
    /// Bytes written: field 7.
    pub written_bytes: u64,
    /// Requests in flight now (field 9).
    pub in_flight: u64,
    /// Milliseconds with at least one request in flight (field 10). 32 bits: wraps after 49 days of work.
    pub busy_ms: u64,
    /// The same, weighted with the number of requests in flight (field 11). 32 bits.
    pub weighted_ms: u64,
}

/// Microseconds stalled since boot (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalled {
    /// `io`, some.
    pub io_some: Option<u64>,
    /// `io`, full.
    pub io_full: Option<u64>,
    /// `memory`, some.
    pub memory_some: Option<u64>,
    /// `cpu`, some.
    pub cpu_some: Option<u64>,
}

/// What happened between two readings that are `elapsed` apart. Counters that went backwards give no figure (or none
/// of that moment), never a wild one.
#[must_use]
pub fn between(before: &Reading, after: &Reading, elapsed: Duration) -> Pressure {
    let ticks = after.cpu.total.saturating_sub(before.cpu.total);
    let waited = after.cpu.io_wait.saturating_sub(before.cpu.io_wait);
    let share = |before: Option<u64>, after: Option<u64>| stalled_share(before?, after?, elapsed);
    Pressure {
        io_wait: if ticks == 0 { 0.0 } else { unit(waited as f64 / ticks as f64) },
        disk: match (&before.disk, &after.disk) {
            (Some(before), Some(after)) => disk_between(before, after, elapsed),
            _ => None,
        },
        psi_io_some: share(before.stalled.io_some, after.stalled.io_some),
        psi_io_full: share(before.stalled.io_full, after.stalled.io_full),
        psi_memory_some: share(before.stalled.memory_some, after.stalled.memory_some),
        psi_cpu_some: share(before.stalled.cpu_some, after.stalled.cpu_some),
        memory_total_bytes: after.memory_total_bytes,
        memory_available_bytes: after.memory_available_bytes,
        disk_free_bytes: after.disk_free_bytes,
        disk_total_bytes: after.disk_total_bytes,
    }
}

fn unit(share: f64) -> f64 {
    share.clamp(0.0, 1.0)
}

fn stalled_share(before: u64, after: u64, elapsed: Duration) -> Option<f64> {
    let micros = elapsed.as_micros() as f64;
    (micros > 0.0).then(|| unit(after.saturating_sub(before) as f64 / micros))
}

/// `None` when it is not the same device any more (another name, or a count of 64 bits that went backwards: it was
/// taken away and came back), or when no time went by.
fn disk_between(before: &DiskCounters, after: &DiskCounters, elapsed: Duration) -> Option<Disk> {
    let seconds = elapsed.as_secs_f64();
    if before.device != after.device || seconds <= 0.0 {
        return None;
    }
    let completed = after.completed.checked_sub(before.completed)?;
    let read = after.read_bytes.checked_sub(before.read_bytes)?;
    let written = after.written_bytes.checked_sub(before.written_bytes)?;
    let taken_ms = wrapped(before.taken_ms, after.taken_ms);
    Some(Disk {
        device: after.device.clone(),
        in_flight: after.in_flight,
        queue_depth: wrapped(before.weighted_ms, after.weighted_ms) as f64 / (seconds * 1000.0),
        await_ms: (completed > 0).then(|| taken_ms as f64 / completed as f64),
        utilisation: unit(wrapped(before.busy_ms, after.busy_ms) as f64 / (seconds * 1000.0)),
        read_bytes: read as f64 / seconds,
        written_bytes: written as f64 / seconds,
    })
}

/// The difference of two counters of milliseconds, which the kernel prints with 32 bits.
fn wrapped(before: u64, after: u64) -> u64 {
    const TURN: u64 = 1 << 32;
    match after.checked_sub(before) {
        Some(delta) => delta,
        // A sum of several such counters wraps by one turn when any of them does.
        None => (after + TURN * before.div_ceil(TURN).max(1)).wrapping_sub(before) % TURN,
    }
}
