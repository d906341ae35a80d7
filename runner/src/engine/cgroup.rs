//! An engine's part of the control groups: limits that it cannot lift on a folder in which it may do as it likes.
//!
//! On version 1 every controller has a `slipway/<engine>` folder; on version 2 there is one. The folder and the files
//! by which processes are moved belong to the engine's root, the limits in it do not.

use super::error::{EngineError, Tried};
use nix::unistd::{Gid, Uid, chown};
use procfs::FromRead;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What one engine may take of the node. Where nothing is said there is still a limit, at which the node lives on: see
/// [`Limits::or_safe`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, page cache included.
    pub memory_bytes: Option<u64>,
    /// CPUs.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Processes and threads of an engine for which nothing is said: far from any build, far from the kernel's 4 million,
/// which a fork bomb needs seconds to reach.
const SAFE_PIDS: u64 = 16_384;

impl Limits {
    /// These, and for what is not said: three quarters of the node's memory (the page cache in it is given back when
    /// others need it), and 16384 processes.
    #[must_use]
    pub(super) fn or_safe(self, memory_total_bytes: Option<u64>) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.or(memory_total_bytes.map(|bytes| bytes / 4 * 3)),
            cpus: self.cpus,
            pids: self.pids.or(Some(SAFE_PIDS)),
        }
    }
}

/// The node's memory in bytes: `MemTotal` of `/proc/meminfo`.
pub(super) fn memory_total_bytes() -> Option<u64> {
    procfs::Meminfo::from_file("/proc/meminfo").ok().map(|info| info.mem_total)
}

/// The folders of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    folders: Vec<PathBuf>,
}

/// The name of our folder in every hierarchy.
pub(super) const TOP: &str = "slipway";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// A version 1 mount, with its options: controllers, or `name=systemd`.
    V1 { at: PathBuf, options: Vec<String> },
    /// The only hierarchy, version 2.
    V2 { at: PathBuf },
}

/// The hierarchies in the text of `/proc/self/mounts`. A version 2 mount beside version 1 holds no controllers.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut v1 = Vec::new();
    let mut v2 = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(at), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let at = PathBuf::from(at);
        match kind {
            "cgroup" => v1.push(Hierarchy::V1 { at, options: options.split(',').map(str::to_owned).collect() }),
            "cgroup2" => v2.push(Hierarchy::V2 { at }),
            _ => {}
        }
    }
    if v1.is_empty() { v2.into_iter().take(1).collect() } else { v1 }
}

impl Group {
    /// Makes the folders of `engine`, limited, and gives them to uid and gid `root`.
    pub(super) fn make(engine: &str, root: u32, limits: &Limits) -> Result<Group, EngineError> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").tried("read", "/proc/self/mounts")?;
        let mut group = Group::default();
        for hierarchy in hierarchies(&mounts) {
            let (at, v2) = match &hierarchy {
                Hierarchy::V1 { at, .. } => (at, false),
                Hierarchy::V2 { at } => (at, true),
            };
            let top = at.join(TOP);
            let folder = top.join(engine);
            for made in [&top, &folder] {
                make_dir(made)?;
                if v2 {
                    // The controllers a parent does not hand down do not exist in the child.
                    let parent = made.parent().unwrap_or(at);
                    for controller in ["cpu", "memory", "pids", "io", "cpuset"] {
                        let _ = std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                } else if matches!(&hierarchy, Hierarchy::V1 { options, .. } if options.iter().any(|o| o == "cpuset")) {
                    inherit_cpuset(made)?;
                }
            }
            group.folders.push(folder.clone());
            for (file, value) in settings(&hierarchy, limits) {
                let path = folder.join(file);
                std::fs::write(&path, &value).tried("limit the engine by", &path)?;
            }
            own(&folder, root)?;
        }
        Ok(group)
    }

    /// The folders of `engine`, whether they exist or not.
    pub(super) fn of(engine: &str) -> Group {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folders = hierarchies(&mounts).into_iter().map(|hierarchy| match hierarchy {
            Hierarchy::V1 { at, .. } | Hierarchy::V2 { at } => at.join(TOP).join(engine),
        });
        Group { folders: folders.collect() }
    }

    /// CPU seconds used so far, where the host counts them.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        self.read("cpuacct.usage").and_then(|n| n.trim().parse::<f64>().ok()).map(|ns| ns / 1e9).or_else(|| {
            let stat = self.read("cpu.stat")?;
            let usec = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
            usec.trim().parse::<f64>().ok().map(|us| us / 1e6)
        })
    }

    /// Highest memory so far in bytes, where the host counts it.
    pub(super) fn memory_peak_bytes(&self) -> Option<u64> {
        self.read("memory.max_usage_in_bytes").or_else(|| self.read("memory.peak"))?.trim().parse().ok()
    }

    fn read(&self, file: &str) -> Option<String> {
        self.folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
    }

    /// Removes the folders, those the engine made in them first. All processes are gone by now.
    pub(super) fn remove(&self) {
        for folder in &self.folders {
            remove_tree(folder);
        }
    }
}

/// Whether the host has version 2 only.
pub(super) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn settings(hierarchy: &Hierarchy, limits: &Limits) -> Vec<(&'static str, String)> {
    const PERIOD_US: f64 = 100_000.0;
    let quota = limits.cpus.map(|cpus| format!("{:.0}", (cpus * PERIOD_US).max(1000.0)));
    let mut out = Vec::new();
    match hierarchy {
        Hierarchy::V1 { options, .. } => {
            let has = |name: &str| options.iter().any(|o| o == name);
            if let Some(bytes) = limits.memory_bytes.filter(|_| has("memory")) {
                out.push(("memory.limit_in_bytes", bytes.to_string()));
            }
            if let Some(quota) = quota.filter(|_| has("cpu")) {
                out.push(("cpu.cfs_quota_us", quota));
            }
            if let Some(pids) = limits.pids.filter(|_| has("pids")) {
                out.push(("pids.max", pids.to_string()));
            }
        }
        Hierarchy::V2 { .. } => {
            if let Some(bytes) = limits.memory_bytes {
                out.push(("memory.max", bytes.to_string()));
            }
            if let Some(quota) = quota {
                out.push(("cpu.max", format!("{quota} {PERIOD_US:.0}")));
            }
            if let Some(pids) = limits.pids {
                out.push(("pids.max", pids.to_string()));
            }
        }
    }
    out
}

fn make_dir(path: &Path) -> Result<(), EngineError> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e).tried("make control group", path),
        _ => Ok(()),
    }
}

/// A new cpuset has no CPUs and no memory, and nothing can be put in it.
fn inherit_cpuset(folder: &Path) -> Result<(), EngineError> {
    let parent = folder.parent().unwrap_or(folder);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = folder.join(file);
        if std::fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            let value = std::fs::read_to_string(parent.join(file)).tried("read", parent.join(file))?;
            std::fs::write(&own, value.trim()).tried("write", &own)?;
        }
    }
    Ok(())
}

fn own(folder: &Path, root: u32) -> Result<(), EngineError> {
    let (uid, gid) = (Some(Uid::from_raw(root)), Some(Gid::from_raw(root)));
    chown(folder, uid, gid).tried("give to the engine", folder)?;
    for file in ["cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
        let path = folder.join(file);
        if path.exists() {
            chown(&path, uid, gid).tried("give to the engine", &path)?;
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) {
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path());
            }
        }
    }
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_not_said_leave_the_node_alive() {
        let said = Limits { memory_bytes: Some(5), cpus: Some(1.0), pids: Some(6) };
        assert_eq!(said.or_safe(Some(100)), said);
        let safe = Limits { memory_bytes: Some(75), cpus: None, pids: Some(SAFE_PIDS) };
        assert_eq!(Limits::default().or_safe(Some(100)), safe);
    }

    #[test]
    fn hybrid_host_uses_version_1_only() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = hierarchies(mounts);
        assert_eq!(found.len(), 1);
        let limits = Limits { memory_bytes: Some(1 << 30), cpus: Some(1.5), pids: Some(100) };
        assert_eq!(settings(&found[0], &limits), [("memory.limit_in_bytes", "1073741824".to_owned())]);
    }

    #[test]
    fn unified_host_gets_all_limits_in_one_folder() {
        let found = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        let limits = Limits { memory_bytes: Some(1 << 30), cpus: Some(1.5), pids: Some(100) };
        let expected = [
            ("memory.max", "1073741824".to_owned()),
            ("cpu.max", "150000 100000".to_owned()),
            ("pids.max", "100".to_owned()),
        ];
        assert_eq!(settings(&found[0], &limits), expected);
    }
}
