//! Ending an engine, and removing whatever is left of one.

use super::cgroup::Group;
use super::idmap;
use super::launch::{RUNC_ROOT, log_file};
use super::record::{Process, Record};
use crate::layers::{SnapshotInfo, SnapshotKind};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How an engine ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stopped {
    /// Daemon and containerd ended by themselves when told to.
    pub(super) clean: bool,
    /// What containerd had, asked after the daemon had ended.
    pub(super) snapshots: Vec<SnapshotInfo>,
}

/// Tells an engine's process 1 to end and waits; kills it after `grace`.
pub(super) async fn stop(init: Process, grace: Duration) {
    init.signal(Signal::SIGTERM);
    if !ended(init, grace).await {
        init.signal(Signal::SIGKILL);
        // A killed process that is still there waits for the kernel, and we with it.
        ended(init, Duration::from_secs(10)).await;
    }
}

/// Waits for a process to end; false when it has not within `max`.
pub(super) async fn ended(process: Process, max: Duration) -> bool {
    let Ok(fd) = idmap::watch(process.pid) else { return true };
    if !process.is_alive() {
        return true;
    }
    tokio::time::timeout(max, async { fd.readable().await.is_ok() }).await.is_ok()
}

/// What process 1 said about the end; an engine that was killed said nothing.
pub(super) fn read_last(folder: &Path) -> Stopped {
    const MOST: u64 = 4 << 20;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log_file(folder))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    parse_last(&read().unwrap_or_default())
}

pub(super) fn parse_last(text: &str) -> Stopped {
    let mut stopped = Stopped::default();
    for line in text.lines() {
        if line == "slipway: stopped cleanly" {
            stopped.clean = true;
        } else if let Some(snapshot) = line.strip_prefix("slipway-snapshot ").and_then(snapshot) {
            stopped.snapshots.push(snapshot);
        }
    }
    stopped
}

/// `Active <key> <parent or -> mount -t overlay overlay /x -o workdir=…,upperdir=…/snapshots/17/fs,…`
fn snapshot(line: &str) -> Option<SnapshotInfo> {
    let mut words = line.split_whitespace();
    let kind = match words.next()? {
        "Committed" => SnapshotKind::Committed,
        "Active" => SnapshotKind::Active,
        _ => return None,
    };
    let key = words.next()?.to_owned();
    let parent = words.next().filter(|p| *p != "-").map(str::to_owned);
    let id = if kind == SnapshotKind::Active { folder_number(words) } else { None };
    Some(SnapshotInfo { id, key, kind, parent })
}

/// The number in `…/snapshots/17/fs` of a changing snapshot's own folder: its `upperdir`, or the source of the bind
/// mount of one without a parent.
fn folder_number<'a>(words: impl Iterator<Item = &'a str>) -> Option<u64> {
    let words: Vec<&str> = words.collect();
    let upper = words.iter().flat_map(|w| w.split(',')).find_map(|option| option.strip_prefix("upperdir="));
    let path = upper.or_else(|| words.iter().copied().find(|w| w.ends_with("/fs")))?;
    let (_, rest) = path.rsplit_once("/snapshots/")?;
    rest.strip_suffix("/fs")?.parse().ok()
}

/// Removes everything of an engine that is dead or about to be: container, processes, control groups, ids, folder.
/// Blocks. Its data directory is the layer store's to remove.
pub(super) fn remove(id: &str, folder: &Path) {
    let record = Record::read(folder);
    if let Some(door) = record.as_ref().and_then(|r| r.door) {
        door.signal(Signal::SIGKILL);
    }
    // Also ends an engine that was started and not yet recorded.
    let _ = Command::new("runc")
        .args(["--root", RUNC_ROOT, "delete", "--force", id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Group::of(id).remove();
    super::container::unmount(folder);
    // The folder goes before the ids: a folder that is there holds its claim.
    let removed = folder.parent().zip(folder.file_name()).map(|(parent, name)| {
        let tree = crate::layers::untrusted_tree::Tree::open(parent)?;
        crate::layers::untrusted_tree::remove(&tree, name)
    });
    if let Some(Err(error)) = removed {
        tracing::warn!(engine = id, %error, "the engine's folder cannot be removed; it is tried again at the next start");
        return;
    }
    if let Some(ids) = record.and_then(|r| r.ids) {
        ids.release(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_name_every_snapshot_and_the_folders_of_changing_ones() {
        let text = "noise\n\
            slipway-snapshot Committed sha256:aa -\n\
            slipway-snapshot Committed sha256:bb sha256:aa\n\
            slipway-snapshot Active k1 sha256:bb mount -t overlay overlay /x -o index=off,workdir=/d/snapshots/7/work,upperdir=/d/snapshots/7/fs,lowerdir=/d/snapshots/2/fs:/d/snapshots/1/fs\n\
            slipway-snapshot Active cache - mount -t bind /d/snapshots/9/fs /x -o rw,rbind\n\
            slipway: stopped cleanly\n";
        let stopped = parse_last(text);
        assert!(stopped.clean);
        let seen: Vec<_> = stopped.snapshots.iter().map(|s| (s.key.as_str(), s.kind, s.id)).collect();
        assert_eq!(
            seen,
            [
                ("sha256:aa", SnapshotKind::Committed, None),
                ("sha256:bb", SnapshotKind::Committed, None),
                ("k1", SnapshotKind::Active, Some(7)),
                ("cache", SnapshotKind::Active, Some(9)),
            ]
        );
        assert_eq!(stopped.snapshots[1].parent.as_deref(), Some("sha256:aa"));
    }

    #[test]
    fn engine_that_was_killed_did_not_stop_cleanly() {
        assert_eq!(parse_last("slipway: dockerd ended with 137\n"), Stopped::default());
    }
}
