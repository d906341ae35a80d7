//! What an engine with containerd's image store leaves in its data directory, in small.

use sha2::{Digest, Sha256};
use slipway_runner::layers::{
    Budget, Clone, EngineKind, Finished, GenerationRef, ImageStore, Lineage, MOUNT, Promotion, SnapshotInfo,
    SnapshotKind, Store, Wall,
};
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const SNAPSHOTTER: &str = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs";
pub(crate) const SNAPSHOTS: &str = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots";
pub(crate) const METADATA: &str = "containerd/daemon/io.containerd.metadata.v1.bolt";
pub(crate) const BLOBS: &str = "containerd/daemon/io.containerd.content.v1.content/blobs/sha256";

pub(crate) fn kind() -> EngineKind {
    EngineKind { major: 26, store: ImageStore::Containerd, wall: Wall::Userns, arch: "amd64".to_owned() }
}

pub(crate) fn lineage(project: u64, job: &str, tier: Tier) -> Lineage {
    Lineage { project: ProjectId(project), job: job.to_owned(), tier, kind: kind() }
}

pub(crate) fn protected() -> Lineage {
    lineage(1, "build_image", Tier::Protected)
}

/// No disk of a test machine is near this budget, none is below its floor.
pub(crate) fn budget() -> Budget {
    Budget { disk_floor_bytes: 0, ..Budget::default() }
}

pub(crate) struct Bench {
    _folder: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("cache");
        Bench { _folder: folder, root }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.root, budget()).expect("the store opens")
    }
}

pub(crate) fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    fs::write(path, content).expect("a file");
}

/// The databases; `content` stands for what is in them.
pub(crate) fn databases(data: &Path, content: &str) {
    write(data.join(SNAPSHOTTER).join("metadata.db"), format!("snapshots {content}"));
    write(data.join(METADATA).join("meta.db"), format!("names {content}"));
    write(data.join("buildkit/cache.db"), format!("build cache {content}"));
    write(data.join("buildkit/containerd-overlayfs/metadata_v2.db"), format!("cache records {content}"));
    write(data.join("buildkit/containerd-overlayfs/workerid"), "a1b2c3");
}

/// What a running engine leaves beside what is worth keeping.
pub(crate) fn litter(data: &Path) {
    write(data.join("containers/abc/config.v2.json"), "{}");
    write(data.join("volumes/db/_data/rows"), "rows");
    write(data.join("network/files/local-kv.db"), "networks");
    write(data.join("tmp/GetImageBlob1"), "half");
    write(data.join("containerd/daemon/io.containerd.content.v1.content/ingest/x/data"), "half a blob");
    write(data.join("buildkit/executor/resolv.conf"), "nameserver");
    write(data.join("engine-id"), "1-2-3");
}

/// A snapshot folder with one file.
pub(crate) fn snapshot(data: &Path, id: u64, content: &str) {
    let folder = data.join(SNAPSHOTS).join(id.to_string());
    write(folder.join("fs/bin/tool"), content);
    fs::create_dir_all(folder.join("work")).expect("work");
}

/// A blob under its true digest, which is returned.
pub(crate) fn blob(data: &Path, content: &str) -> String {
    let digest: String = Sha256::digest(content.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    write(data.join(BLOBS).join(&digest), content);
    digest
}

pub(crate) fn committed(key: &str) -> SnapshotInfo {
    SnapshotInfo { id: None, key: key.to_owned(), kind: SnapshotKind::Committed, parent: None }
}

pub(crate) fn active(id: u64, key: &str) -> SnapshotInfo {
    SnapshotInfo { id: Some(id), key: key.to_owned(), kind: SnapshotKind::Active, parent: None }
}

/// A clean end after `build_seconds`, naming as many committed snapshots as are on disk.
pub(crate) fn finished(build_seconds: f64, snapshots: Vec<SnapshotInfo>) -> Finished {
    Finished {
        clean_stop: true,
        snapshots,
        build_seconds,
        job: JobId(11),
        pipeline: PipelineId(5),
        commit: "c0ffee".to_owned(),
    }
}

/// Builds one snapshot and one blob named after `what` and promotes.
pub(crate) fn build(store: &Store, clone: Clone, what: &str, build_seconds: f64) -> Promotion {
    let data = clone.data.clone();
    databases(&data, what);
    litter(&data);
    let id = next_snapshot(&data);
    snapshot(&data, id, &format!("tool of {what}"));
    blob(&data, &format!("blob of {what}"));
    let all = (1..=id).map(|n| committed(&n.to_string())).collect();
    store.promote(clone, &finished(build_seconds, all)).expect("promotion ends in an outcome")
}

pub(crate) fn next_snapshot(data: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(data.join(SNAPSHOTS)) else { return 1 };
    let ids = entries.filter_map(|e| e.expect("an entry").file_name().to_str().and_then(|n| n.parse().ok()));
    ids.max().unwrap_or(0) + 1
}

/// Clones, builds `what`, promotes; the generation that must come of it.
pub(crate) fn promoted(store: &Store, lineage: &Lineage, what: &str, build_seconds: f64) -> GenerationRef {
    let clone = store.clone_for(lineage, &format!("e-{}", what.replace([' ', '_'], "-")), false).expect("a clone");
    generation(build(store, clone, what, build_seconds))
}

pub(crate) fn generation(promotion: Promotion) -> GenerationRef {
    match promotion {
        Promotion::Promoted { generation, .. } => generation,
        Promotion::Kept(why) => panic!("not promoted: {why}"),
    }
}

pub(crate) fn kept(promotion: Promotion) -> String {
    match promotion {
        Promotion::Kept(why) => why.to_string(),
        Promotion::Promoted { generation, .. } => panic!("promoted to {generation}"),
    }
}

/// Every tool an engine on this clone has, by snapshot, read through the links as the engine would with the clone's
/// layers mounted where it sees them.
pub(crate) fn tools(clone: &Clone) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(clone.data.join(SNAPSHOTS)) else { return found };
    for entry in entries {
        let folder = entry.expect("an entry").path();
        let id = folder.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).expect("a number");
        let content = fs::read_to_string(inside(clone, &folder).join("fs/bin/tool")).expect("the tool");
        found.insert(id, content);
    }
    found
}

/// Where a path of the engine is on the host.
pub(crate) fn inside(clone: &Clone, path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => clone.layers.join(target.strip_prefix(MOUNT).expect("links lead into the mounted store")),
        Err(_) => path.to_owned(),
    }
}
