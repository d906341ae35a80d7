//! Reads the counters.

use super::device::{DeviceId, device_under};
use super::reading::{CpuTicks, DiskCounters, Reading, Stalled, between};
use procfs::prelude::*;
use slipway_spec::pressure::Pressure;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Why a node's pressure cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PressureError {
    /// The cache root cannot be looked at.
    #[error("cannot find the disk under {path}: {source}; does the folder exist?")]
    CacheRoot {
        /// The cache root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// procfs is not what it is on every Linux.
    #[error("cannot read /proc/{file}: {source}; is /proc mounted?")]
    Procfs {
        /// Which file.
        file: &'static str,
        /// Why.
        source: procfs::ProcError,
    },
}

/// Samples a node's pressure; call [`Sampler::sample`] once a second.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    device: Option<DeviceId>,
    before: Reading,
    at: Instant,
}

impl Sampler {
    /// A sampler for the disk under `cache_root`, and its first reading.
    ///
    /// # Errors
    /// The folder is not there, or procfs is not mounted.
    pub fn open(cache_root: &Path, now: Instant) -> Result<Self, PressureError> {
        let device = device_under(cache_root)
            .map_err(|source| PressureError::CacheRoot { path: cache_root.to_owned(), source })?;
        let before = read(cache_root, device)?;
        Ok(Sampler { root: cache_root.to_owned(), device, before, at: now })
    }

    /// What happened since the last call (or since [`Sampler::open`]).
    ///
    /// # Errors
    /// `/proc/stat` or `/proc/meminfo` cannot be read. A missing disk or missing PSI is no error but `None` within.
    pub fn sample(&mut self, now: Instant) -> Result<Pressure, PressureError> {
        let after = read(&self.root, self.device)?;
        let pressure = between(&self.before, &after, now.saturating_duration_since(self.at));
        self.before = after;
        self.at = now;
        Ok(pressure)
    }

    /// The device that is watched.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        self.device
    }
}

fn read(root: &Path, device: Option<DeviceId>) -> Result<Reading, PressureError> {
    let memory = procfs::Meminfo::current().map_err(|source| PressureError::Procfs { file: "meminfo", source })?;
    let space = nix::sys::statvfs::statvfs(root).ok();
    let blocks = |blocks: Option<u64>| {
        blocks.zip(space.as_ref()).map_or(0, |(blocks, space)| blocks.saturating_mul(space.fragment_size()))
    };
    Ok(Reading {
        cpu: cpu().map_err(|source| PressureError::Procfs { file: "stat", source: source.into() })?,
        disk: device.and_then(disk),
        stalled: stalled(),
        memory_total_bytes: memory.mem_total,
        memory_available_bytes: memory.mem_available.unwrap_or(memory.mem_free),
        disk_free_bytes: blocks(space.as_ref().map(|s| s.blocks_available())),
        disk_total_bytes: blocks(space.as_ref().map(|s| s.blocks())),
    })
}

/// The first line only: the rest, a line for each processor and a number for each interrupt, is most of the file.
fn cpu() -> std::io::Result<CpuTicks> {
    let mut line = String::new();
    BufReader::with_capacity(1024, std::fs::File::open("/proc/stat")?).read_line(&mut line)?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest and guest_nice are in user and nice already.
    Ok(CpuTicks { io_wait: ticks.get(4).copied().unwrap_or(0), total: ticks.iter().take(8).sum() })
}

fn disk(device: DeviceId) -> Option<DiskCounters> {
    // Only the one line is parsed: a node with layers of loop devices has hundreds.
    let file = BufReader::new(std::fs::File::open("/proc/diskstats").ok()?);
    let line = file.lines().map_while(Result::ok).find(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().and_then(|w| w.parse().ok()) == Some(device.major)
            && words.next().and_then(|w| w.parse().ok()) == Some(device.minor)
    })?;
    let stat = procfs::DiskStat::from_line(&line).ok()?;
    let or0 = |field: Option<u64>| field.unwrap_or(0);
    Some(DiskCounters {
        device: stat.name,
        completed: stat.reads + stat.writes + or0(stat.discards) + or0(stat.flushes),
        taken_ms: stat.time_reading + stat.time_writing + or0(stat.time_discarding) + or0(stat.time_flushing),
        read_bytes: stat.sectors_read.saturating_mul(512),
        written_bytes: stat.sectors_written.saturating_mul(512),
        in_flight: stat.in_progress,
        busy_ms: stat.time_in_progress,
        weighted_ms: stat.weighted_time_in_progress,
    })
}

fn stalled() -> Stalled {
    let io = procfs::IoPressure::current().ok();
    Stalled {
        io_some: io.as_ref().map(|p| p.some.total),
        io_full: io.as_ref().map(|p| p.full.total),
        memory_some: procfs::MemoryPressure::current().ok().map(|p| p.some.total),
        cpu_some: procfs::CpuPressure::current().ok().map(|p| p.some.total),
    }
}
