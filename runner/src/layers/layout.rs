//! Where an engine keeps its layers, and what else of its data directory is worth keeping.
//!
//! Known: containerd's image store with containerd's root at `containerd/daemon` of the data directory. Anything else
//! is cold. Kept of it are images and build cache; containers, volumes, networks, plugins, swarm state, logins and
//! temporary files are a job's own affair and end with it.

use super::budget::Budget;
use super::manifest::{LayerEntry, LayerKind};
use super::untrusted_tree::{self, Limits, Tally, Tree, TreeError, file_type, is_hex, objection};
use super::untrusted_tree::{Objection, allocated};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// How an engine's data directory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// containerd's image store, `--root …/containerd/daemon`, overlayfs snapshotter.
    Containerd,
}

/// What containerd says of a snapshot, in all its namespaces, after dockerd has stopped and before containerd stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The number of its folder in `snapshots/`. containerd tells it of active ones only (the `upperdir` or `source`
    /// of their mounts); `None` is right for a committed one.
    pub id: Option<u64>,
    /// Its key.
    pub key: String,
    /// Whether it can still change.
    pub kind: SnapshotKind,
    /// The key it is based on.
    pub parent: Option<String>,
}

/// Whether a snapshot can still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Immutable: a layer.
    Committed,
    /// Written in place: a cache mount, a build step not yet committed, a container's own files.
    Active,
    /// A read-only look at a committed one; has a folder, without content.
    View,
}

const SNAPSHOTTER: &str = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs";
const SNAPSHOTS: &str = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots";
const METADATA: &str = "containerd/daemon/io.containerd.metadata.v1.bolt";
const BLOBS: &str = "containerd/daemon/io.containerd.content.v1.content/blobs/sha256";
const BUILDKIT: &str = "buildkit";
/// Folders of running steps.
const EXECUTOR: &str = "executor";

/// The folder of a snapshot's content.
const CONTENT: &str = "fs";

/// Most entries a folder of containerd's may have.
const FOLDER_MAX: u64 = 100_000;

/// A file or folder that goes from the engine's data directory into the generation's private tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Private(
    /// Beneath the data directory.
    pub PathBuf,
);

/// A file or folder that becomes a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewLayer {
    pub at: String,
    pub kind: LayerKind,
    pub bytes: u64,
    pub inodes: u64,
}

/// What an engine left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub private: Vec<Private>,
    pub private_bytes: u64,
    pub private_inodes: u64,
    /// Layers that were links already.
    pub kept: Vec<LayerEntry>,
    pub new: Vec<NewLayer>,
    /// Folders without content of their own.
    pub folders: Vec<String>,
}

/// Why nothing can be kept of an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurveyError {
    #[error("its data directory is laid out in no known way (no {0})")]
    Unknown(&'static str),
    #[error("{0}")]
    Incomplete(String),
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Finds what is worth keeping in `data`. `links` are the targets of the links this engine was given.
pub(crate) fn survey(
    data: &Tree,
    snapshots: &[SnapshotInfo],
    links: &BTreeMap<String, LayerEntry>,
    budget: &Budget,
) -> Result<Survey, SurveyError> {
    let mut survey = Survey::default();
    let private_limits =
        Limits { bytes: budget.private_max_bytes, inodes: budget.promote_max_inodes, depth: DEPTH_MAX };
    let limits = Limits { bytes: budget.promote_max_bytes, inodes: budget.promote_max_inodes, depth: DEPTH_MAX };
    let mut private = Tally::default();
    let mut fresh = Tally::default();

    for (folder, file) in [(SNAPSHOTTER, "metadata.db"), (METADATA, "meta.db")] {
        let tree = data.dir(Path::new(folder))?.ok_or(SurveyError::Unknown(folder))?;
        let stat = tree.stat(OsStr::new(file))?.ok_or(SurveyError::Unknown(folder))?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(objection(&Path::new(folder).join(file), Objection::WrongType).into());
        }
        private.add(Path::new(file), &stat, &private_limits)?;
        survey.private.push(Private(Path::new(folder).join(file)));
    }
    survey_buildkit(data, &private_limits, &mut private, &mut survey)?;
    survey_snapshots(data, snapshots, links, (&private_limits, &mut private), (&limits, &mut fresh), &mut survey)?;
    survey_blobs(data, links, (&limits, &mut fresh), &mut survey)?;
    survey.private_bytes = private.bytes;
    survey.private_inodes = private.inodes;
    Ok(survey)
}

/// The build cache's databases, and the worker's id they are tied to (`buildkit/containerd-overlayfs/workerid`).
fn survey_buildkit(data: &Tree, limits: &Limits, private: &mut Tally, survey: &mut Survey) -> Result<(), SurveyError> {
    let Some(buildkit) = data.dir(Path::new(BUILDKIT))? else { return Ok(()) };
    let mut keep = |path: &Path, stat: &rustix::fs::Stat| match file_type(stat) {
        FileType::RegularFile => {
            survey.private.push(Private(Path::new(BUILDKIT).join(path)));
            private.add(path, stat, limits)
        }
        _ => Ok(()),
    };
    for name in buildkit.names(FOLDER_MAX)? {
        let path = Path::new(&name);
        let Some(stat) = buildkit.stat(&name)? else { continue };
        keep(path, &stat)?;
        if file_type(&stat) != FileType::Directory || path == Path::new(EXECUTOR) {
            continue;
        }
        if let Some(folder) = buildkit.dir(path)? {
            untrusted_tree::walk(&folder, limits, &mut |entry| keep(&path.join(entry.path), entry.stat))?;
        }
    }
    Ok(())
}

/// Deepest folder accepted: deeper than any package manager nests, far from the limits of a path.
pub(crate) const DEPTH_MAX: usize = 200;

/// What a walk of the store's own copies accepts: they were held against tighter limits when they came in.
pub(crate) const ANY: Limits = Limits { bytes: u64::MAX, inodes: u64::MAX, depth: DEPTH_MAX + 20 };

fn survey_snapshots(
    data: &Tree,
    snapshots: &[SnapshotInfo],
    links: &BTreeMap<String, LayerEntry>,
    (private_limits, private): (&Limits, &mut Tally),
    (limits, fresh): (&Limits, &mut Tally),
    survey: &mut Survey,
) -> Result<(), SurveyError> {
    let mut mutable = BTreeSet::new();
    let mut named = BTreeSet::new();
    for info in snapshots {
        match (info.kind, info.id) {
            (SnapshotKind::Committed, None) => {}
            (SnapshotKind::Committed, Some(id)) => {
                named.insert(id);
            }
            (SnapshotKind::Active | SnapshotKind::View, Some(id)) => {
                mutable.insert(id);
                named.insert(id);
            }
            // containerd does not tell the folder of a view of several layers; it is known by being empty.
            (SnapshotKind::View, None) => {}
            (SnapshotKind::Active, None) => {
                return Err(SurveyError::Incomplete(format!(
                    "it is not known which folder belongs to the changing snapshot {}",
                    info.key
                )));
            }
        }
    }
    let mut found = BTreeSet::new();
    if let Some(folder) = data.dir(Path::new(SNAPSHOTS))? {
        for name in folder.names(FOLDER_MAX)? {
            // `new-…` and `rm-…` are folders containerd was busy with when it last died.
            let Some(id) = name.to_str().and_then(|n| n.parse::<u64>().ok().filter(|id| id.to_string() == n)) else {
                continue;
            };
            let Some(own) = folder.stat(&name)? else { continue };
            let at = format!("{SNAPSHOTS}/{id}");
            if file_type(&own) == FileType::Symlink {
                survey.kept.push(known(&folder, &name, at, LayerKind::Snapshot, links)?);
                found.insert(id);
                continue;
            }
            let Some(snapshot) = folder.dir(Path::new(&name))? else { continue };
            let Some(stat) = snapshot.stat(OsStr::new(CONTENT))? else { continue };
            found.insert(id);
            match file_type(&stat) {
                FileType::Symlink => return Err(objection(Path::new(&at), Objection::LeavesTheTree).into()),
                FileType::Directory if mutable.contains(&id) => {
                    untrusted_tree::examine(&open_content(&snapshot)?, private_limits, private)?;
                    survey.private.push(Private(Path::new(&at).join(CONTENT)));
                    survey.folders.push(format!("{at}/work"));
                }
                // A view: BuildKit keeps one on every layer it has. It has nothing of its own.
                FileType::Directory
                    if snapshot.stat(OsStr::new("work"))?.is_none() && open_content(&snapshot)?.is_empty()? =>
                {
                    survey.folders.push(format!("{at}/{CONTENT}"));
                }
                FileType::Directory => {
                    let (bytes, inodes) = (fresh.bytes, fresh.inodes);
                    fresh.add(Path::new(&at), &own, limits)?;
                    untrusted_tree::examine(&open_content(&snapshot)?, limits, fresh)?;
                    survey.new.push(NewLayer {
                        at,
                        kind: LayerKind::Snapshot,
                        bytes: fresh.bytes - bytes,
                        inodes: fresh.inodes - inodes,
                    });
                }
                _ => return Err(objection(Path::new(&at), Objection::WrongType).into()),
            }
        }
    }
    if let Some(missing) = named.difference(&found).next() {
        return Err(SurveyError::Incomplete(format!(
            "snapshot {missing} is named by the engine but gone from its disk"
        )));
    }
    if found.len() < snapshots.len() {
        return Err(SurveyError::Incomplete(format!(
            "the engine names {} snapshots, only {} are on its disk",
            snapshots.len(),
            found.len()
        )));
    }
    Ok(())
}

fn open_content(snapshot: &Tree) -> Result<Tree, SurveyError> {
    let tree = snapshot.dir(Path::new(CONTENT))?;
    tree.ok_or_else(|| SurveyError::Incomplete(format!("{} has no content", snapshot.path().display())))
}

/// Moves a new layer of the engine's into the folder `to` as `name`. Of a snapshot goes its content alone: overlay's
/// work folder, and whatever else somebody put there, does not.
pub(crate) fn move_layer(data: &Tree, layer: &NewLayer, to: &Tree, name: &OsStr) -> Result<(), TreeError> {
    let at = Path::new(&layer.at);
    let (Some(parent), Some(file)) = (at.parent(), at.file_name()) else {
        return Err(objection(at, Objection::WrongType));
    };
    let gone = || objection(at, Objection::WrongType);
    if layer.kind == LayerKind::Snapshot {
        let snapshot = data.dir(at)?.ok_or_else(gone)?;
        for entry in snapshot.names(FOLDER_MAX)? {
            if entry != CONTENT {
                untrusted_tree::remove(&snapshot, &entry)?;
            }
        }
    }
    data.dir(parent)?.ok_or_else(gone)?.move_out(file, to, name)
}

fn survey_blobs(
    data: &Tree,
    links: &BTreeMap<String, LayerEntry>,
    (limits, fresh): (&Limits, &mut Tally),
    survey: &mut Survey,
) -> Result<(), SurveyError> {
    let Some(folder) = data.dir(Path::new(BLOBS))? else { return Ok(()) };
    for name in folder.names(FOLDER_MAX)? {
        if !is_hex(&name, 64) {
            continue;
        }
        let Some(stat) = folder.stat(&name)? else { continue };
        let at = format!("{BLOBS}/{}", name.to_string_lossy());
        match file_type(&stat) {
            FileType::Symlink => survey.kept.push(known(&folder, &name, at, LayerKind::Blob, links)?),
            FileType::RegularFile => {
                fresh.add(Path::new(&at), &stat, limits)?;
                survey.new.push(NewLayer { at, kind: LayerKind::Blob, bytes: allocated(&stat), inodes: 1 });
            }
            _ => return Err(objection(Path::new(&at), Objection::WrongType).into()),
        }
    }
    Ok(())
}

/// A link must be one of those this engine was given, to something of the same kind.
fn known(
    folder: &Tree,
    name: &OsStr,
    at: String,
    kind: LayerKind,
    links: &BTreeMap<String, LayerEntry>,
) -> Result<LayerEntry, SurveyError> {
    let target = folder.link_target(name)?;
    let entry = target.to_str().and_then(|t| links.get(t)).filter(|entry| entry.kind == kind);
    match entry {
        Some(entry) => Ok(LayerEntry { at, ..entry.clone() }),
        None => Err(objection(Path::new(&at), Objection::LeavesTheTree).into()),
    }
}
