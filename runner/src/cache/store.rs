//! The caches of a node on its disk.
//!
//! ```text
//! <cache root>/caches/FORMAT
//! <cache root>/caches/<project>/<tier>/<digest of the key>/manifest.json   its mtime: when it was last used
//! <cache root>/caches/<project>/<tier>/<digest of the key>/tree/           the files, at their paths in the work tree
//! <cache root>/caches/<project>/<tier>/<digest of the key>/spare/          a copy of tree, ready to be moved away
//! <cache root>/caches/<project>/<tier>/.new-<n>, .old-<n>                  on its way in or out; swept at start
//! ```

use super::Scope;
use crate::confined::{Entry, Kind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use slipway_spec::job::Tier;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The stamp of the folder's format.
const FORMAT: &str = "1";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one cache.
    pub cache_bytes: u64,
    /// Files, folders and links of one cache.
    pub cache_entries: u64,
    /// Bytes of all; the least recently used go first.
    pub total_bytes: u64,
    /// Bytes that stay free on the disk: below, nothing is stored.
    pub free_bytes: u64,
    /// Of a cache with at least this many entries a ready copy is kept.
    pub spare_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            cache_bytes: 16 << 30,
            cache_entries: 1_000_000,
            total_bytes: 64 << 30,
            free_bytes: 2 << 30,
            // A thousand files copy in some 30 ms; below, a copy is not worth keeping twice.
            spare_entries: 1000,
        }
    }
}

/// Why the caches cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be made or read.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Made by a newer version.
    #[error("{path} has format {found:?}, this version knows {FORMAT:?}: use the newer version, or remove the folder")]
    Format {
        /// The stamp's file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

/// What is written beside a cache's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub key: String,
    pub bytes: u64,
    pub entries: u64,
    /// Of paths, sizes and times: equal when nothing changed.
    pub fingerprint: String,
}

/// The caches of a node.
#[derive(Clone, Debug)]
pub struct Caches {
    pub(super) root: PathBuf,
    pub(super) limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Of each cache that was touched: readers hold it while they copy, a writer while it swaps.
    locks: Mutex<HashMap<PathBuf, Arc<RwLock<()>>>>,
    /// Caches whose ready copy was taken, or is not made yet.
    wanted: Mutex<BTreeSet<PathBuf>>,
    counter: AtomicU64,
}

impl Caches {
    /// The caches under `cache_root`; what a crash left half done is removed.
    ///
    /// # Errors
    /// The folder cannot be made, or was made by a newer version.
    pub fn open(cache_root: &Path, limits: Limits) -> Result<Caches, CacheError> {
        let root = cache_root.join("caches");
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Io { what, path, source }
        };
        fs::create_dir_all(&root).map_err(io("make", &root))?;
        // What jobs left may be set-user-id: nobody else on the node gets at it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&root, private).map_err(io("close", &root))?;
        let stamp = root.join("FORMAT");
        match fs::read_to_string(&stamp) {
            Ok(found) if found.trim() == FORMAT => {}
            Ok(found) => return Err(CacheError::Format { path: stamp, found }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::write(&stamp, FORMAT).map_err(io("write", &stamp))?;
            }
            Err(error) => return Err(io("read", &stamp)(error)),
        }
        let caches = Caches { root, limits, shared: Arc::default() };
        caches.sweep().map_err(io("sweep", &caches.root))?;
        Ok(caches)
    }

    fn sweep(&self) -> io::Result<()> {
        for project in subfolders(&self.root)? {
            for tier in subfolders(&project)? {
                for cache in subfolders(&tier)? {
                    let name = cache.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
                    if name.starts_with(".new-") || name.starts_with(".old-") || !cache.join("manifest.json").exists() {
                        fs::remove_dir_all(&cache)?;
                        continue;
                    }
                    for half in subfolders(&cache)? {
                        if half.file_name().is_some_and(|n| n != "tree" && n != "spare") {
                            fs::remove_dir_all(&half)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Where a cache of this scope is kept.
    pub(super) fn place(&self, scope: &Scope, tier: Tier, key: &str) -> PathBuf {
        let digest = Sha256::digest(key.as_bytes());
        let name: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        self.root.join(scope.project.to_string()).join(tier.as_str()).join(name)
    }

    /// The lock of a cache's place.
    pub(super) fn lock(&self, place: &Path) -> Arc<RwLock<()>> {
        let mut locks = self.shared.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Locks that nobody holds are dropped now and then.
        if locks.len() > 1024 {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(place.to_owned()).or_default().clone()
    }

    /// A name beside `place` that nobody uses.
    pub(super) fn temporary(&self, place: &Path, kind: &str) -> PathBuf {
        let n = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        place.with_file_name(format!(".{kind}-{}-{n}", std::process::id()))
    }

    /// Reads a cache's manifest; `None` when there is no cache, or none that can be used.
    pub(super) fn manifest(place: &Path) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(place.join("manifest.json")).ok()?).ok()
    }

    /// Says that a ready copy of a cache is wanted.
    pub(super) fn want_spare(&self, place: &Path, manifest: &Manifest) {
        if manifest.entries >= self.limits.spare_entries {
            self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned());
        }
    }

    pub(super) fn take_wanted(&self) -> Vec<PathBuf> {
        let mut wanted = self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wanted).into_iter().collect()
    }

    /// Whether so many more bytes leave enough room on the disk.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        nix::sys::statvfs::statvfs(&self.root).is_ok_and(|space| {
            let free = space.blocks_available().saturating_mul(space.fragment_size());
            free >= self.limits.free_bytes.saturating_add(bytes)
        })
    }

    /// Bytes of all caches, their ready copies among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.all().iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// Removes the least recently used caches until all are within `total_bytes`; `keep` stays.
    pub(super) fn evict(&self, keep: &Path) -> Vec<PathBuf> {
        let mut all = self.all();
        let mut total: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
        all.sort_by_key(|(used, _, _)| *used);
        let mut evicted = Vec::new();
        for (_, place, bytes) in all {
            if total <= self.limits.total_bytes {
                break;
            }
            if place == keep {
                continue;
            }
            let lock = self.lock(&place);
            let Ok(guard) = lock.try_write() else { continue };
            let old = self.temporary(&place, "old");
            if fs::rename(&place, &old).is_ok() {
                drop(guard);
                let _ = fs::remove_dir_all(&old);
                total = total.saturating_sub(bytes);
                evicted.push(place);
            }
        }
        evicted
    }

    /// Last use, place and bytes of every cache.
    fn all(&self) -> Vec<(std::time::SystemTime, PathBuf, u64)> {
        let mut all = Vec::new();
        for project in subfolders(&self.root).unwrap_or_default() {
            for tier in subfolders(&project).unwrap_or_default() {
                for place in subfolders(&tier).unwrap_or_default() {
                    let used = fs::metadata(place.join("manifest.json")).and_then(|data| data.modified());
                    if let (Ok(used), Some(manifest)) = (used, Caches::manifest(&place)) {
                        let copies = 1 + u64::from(place.join("spare").exists());
                        all.push((used, place, manifest.bytes.saturating_mul(copies)));
                    }
                }
            }
        }
        all
    }
}

/// Folders directly in a folder.
fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// What is equal when no file was changed, added or removed.
pub(super) fn fingerprint(entries: &[Entry]) -> String {
    let mut digest = Sha256::new();
    for entry in entries {
        // Folders change their times when they are filled, links theirs when they are made.
        let time = match entry.kind {
            Kind::File { .. } => Some((entry.modified, entry.modified_nanos)),
            Kind::Folder | Kind::Link { .. } | Kind::Special => None,
        };
        digest.update(&entry.path);
        digest.update(format!("\0{:?} {:o} {time:?}\n", entry.kind, entry.mode));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
