//! What is on disk about a lent engine, so that another process can adopt or end it.

use super::error::{EngineError, Tried};
use super::ids::IdRange;
use crate::layers::Wall;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{Fence, JobId, PipelineId};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Version of [`Record`] on disk.
pub(super) const FORMAT: u32 = 1;

/// A lent engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) job: JobId,
    pub(super) pipeline: PipelineId,
    pub(super) fence: Fence,
    pub(super) commit: String,
    pub(super) wall: Wall,
    pub(super) address: Ipv4Addr,
    pub(super) ids: Option<IdRange>,
    /// The host's container: the engine itself, or what keeps the service's image from being deleted.
    pub(super) container: Option<String>,
    /// Process 1 of the engine.
    pub(super) init: Option<Process>,
    /// What answers for it on port 2375.
    pub(super) door: Option<Process>,
    pub(super) clone_ms: u64,
    pub(super) ready_ms: u64,
}

impl Record {
    /// Writes it into the engine's folder, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<(), EngineError> {
        let path = file(folder);
        let draft = folder.join("engine.json.new");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from).tried("describe", &path)?;
        std::fs::write(&draft, text).tried("write", &draft)?;
        std::fs::rename(&draft, &path).tried("write", &path)
    }

    /// Reads it; `None` when there is none, or none that this version knows.
    pub(super) fn read(folder: &Path) -> Option<Record> {
        let text = std::fs::read(file(folder)).ok()?;
        serde_json::from_slice::<Record>(&text).ok().filter(|record| record.format == FORMAT)
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("engine.json")
}

/// A process that is not mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// `starttime` of `/proc/<pid>/stat`: clock ticks after boot.
    pub(super) started: u64,
}

impl Process {
    /// The running process of that number.
    pub(super) fn of(pid: i32) -> Option<Process> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        // A zombie has ended; it is there only because nobody has asked how.
        (stat.state != 'Z' && stat.state != 'X').then_some(Process { pid, started: stat.starttime })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        Process::of(self.pid) == Some(self)
    }

    /// Sends it a signal, if it still runs.
    pub(super) fn signal(self, signal: nix::sys::signal::Signal) {
        if self.is_alive() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_number_reused_is_another_process() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }
}
