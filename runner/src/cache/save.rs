//! A cache kept at the end of a job.

use super::copy::copy_entries;
use super::key::{Cache, Policy};
use super::store::{Caches, Manifest, fingerprint};
use super::{Say, Scope};
use crate::artifacts::{Bounds, Rules, select};
use crate::confined::{Entry, Folder, Kind};
use crate::workspace::TrackedPaths;
use slipway_spec::job::When;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

/// Where caches are taken from.
#[derive(Clone, Copy, Debug)]
pub struct SaveFrom<'a> {
    /// The work tree.
    pub tree: &'a Folder,
    /// The commit's files, for `untracked`.
    pub tracked: &'a TrackedPaths,
    /// `CI_PROJECT_DIR`.
    pub project_dir: &'a str,
    /// Whether the script succeeded.
    pub succeeded: bool,
    /// The files may be moved out of the tree: the job's containers are gone, artifacts are packed, and the tree is
    /// removed afterwards. Files that several of the job's caches take are copied for all but the last.
    pub may_move: bool,
}

/// What was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The keys that were written.
    pub keys: Vec<String>,
    /// Bytes that were stored.
    pub bytes: u64,
}

impl Caches {
    /// Keeps a job's caches. Each replaces what its key had, at once or not at all.
    pub fn save(&self, scope: &Scope, caches: &[Cache], from: SaveFrom<'_>, say: Say<'_>) -> Saved {
        let mut saved = Saved::default();
        let mut chosen: Vec<(&Cache, Vec<Entry>)> = Vec::new();
        for cache in caches {
            if cache.policy == Policy::Pull {
                say(&format!("Not uploading cache {} due to policy", cache.key));
                continue;
            }
            let wanted = match cache.when {
                When::OnSuccess => from.succeeded,
                When::OnFailure => !from.succeeded,
                When::Always => true,
            };
            if !wanted {
                continue;
            }
            say(&format!("Creating cache {}...", cache.key));
            let rules = Rules {
                paths: &cache.paths,
                exclude: &[],
                untracked: cache.untracked.then_some(from.tracked),
                project_dir: from.project_dir,
            };
            let bounds = Bounds { entries: self.limits.cache_entries, bytes: self.limits.cache_bytes };
            match select(from.tree, &rules, bounds) {
                Ok(selected) => {
                    for line in &selected.lines {
                        say(line);
                    }
                    if selected.is_empty() {
                        say("No files to cache.");
                    } else {
                        chosen.push((cache, selected.entries));
                    }
                }
                Err(error) => {
                    say(&format!("WARNING: cache {}: {error}", cache.key));
                    say("Failed to create cache");
                }
            }
        }
        for at in 0..chosen.len() {
            let later: HashSet<&[u8]> = chosen[at + 1..]
                .iter()
                .flat_map(|(_, entries)| entries.iter().map(|entry| entry.path.as_slice()))
                .collect();
            let (cache, entries) = &chosen[at];
            match self.keep(scope, cache, entries, &from, &later) {
                Ok(Some(bytes)) => {
                    saved.keys.push(cache.key.clone());
                    saved.bytes += bytes;
                    say("Created cache");
                }
                Ok(None) => say("Archive is up to date!"),
                Err(error) => {
                    say(&format!("WARNING: cache {}: {error}", cache.key));
                    say("Failed to create cache");
                }
            }
        }
        saved
    }

    /// Stores one cache; `None` when the stored one is the same.
    fn keep(
        &self,
        scope: &Scope,
        cache: &Cache,
        entries: &[Entry],
        from: &SaveFrom<'_>,
        later: &HashSet<&[u8]>,
    ) -> io::Result<Option<u64>> {
        let place = self.place(scope, scope.tier, &cache.key);
        let bytes: u64 =
            entries.iter().map(|entry| if let Kind::File { bytes } = entry.kind { bytes } else { 0 }).sum();
        if bytes > self.limits.cache_bytes {
            return Err(io::Error::other(format!(
                "it has {} MiB, at most {} MiB are kept",
                bytes >> 20,
                self.limits.cache_bytes >> 20
            )));
        }
        let manifest = Manifest {
            key: cache.key.clone(),
            bytes,
            entries: entries.len() as u64,
            fingerprint: fingerprint(entries),
        };
        if Caches::manifest(&place).as_ref() == Some(&manifest) {
            return Ok(None);
        }
        if !self.has_room(if from.may_move { 0 } else { bytes }) {
            return Err(io::Error::other("the node's disk is too full"));
        }
        let fresh = self.temporary(&place, "new");
        let stored = self.fill(&fresh, entries, from, later, &manifest).and_then(|()| self.swap(&fresh, &place));
        if stored.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        stored?;
        self.want_spare(&place, &manifest);
        self.evict(&place);
        Ok(Some(bytes))
    }

    fn fill(
        &self,
        fresh: &Path,
        entries: &[Entry],
        from: &SaveFrom<'_>,
        later: &HashSet<&[u8]>,
        manifest: &Manifest,
    ) -> io::Result<()> {
        fs::create_dir_all(fresh.join("tree"))?;
        let target = Folder::open(&fresh.join("tree"))?;
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Folder) {
            target.make_folders(&entry.path, entry.mode | 0o700)?;
        }
        let mut copied: Vec<Entry> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.kind != Kind::Folder) {
            let moved = from.may_move && !later.contains(entry.path.as_slice()) && {
                let parent = entry.path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &entry.path[..at]);
                target.make_folders(parent, 0o777)?;
                match from.tree.rename(&entry.path, &target, &entry.path) {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => false,
                    // Gone since it was seen.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                    Err(error) => return Err(error),
                }
            };
            if !moved {
                copied.push(entry.clone());
            }
        }
        copy_entries(from.tree, &target, &copied)?;
        fs::write(fresh.join("manifest.json"), serde_json::to_vec(manifest)?)
    }

    /// Puts the new cache in the place of the old one, which goes.
    fn swap(&self, fresh: &Path, place: &Path) -> io::Result<()> {
        let lock = self.lock(place);
        // Waits for jobs that copy the old one.
        let writing = lock.write().unwrap_or_else(PoisonError::into_inner);
        let old = self.temporary(place, "old");
        let had = match fs::rename(place, &old) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        fs::rename(fresh, place)?;
        drop(writing);
        if had {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}
