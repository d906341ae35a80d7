//! A cache brought into a work tree.

use super::copy::{all_entries, copy_entries};
use super::key::{Cache, Policy};
use super::store::Caches;
use super::{Say, Scope};
use crate::confined::Folder;
use slipway_spec::job::Tier;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What was brought in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The key that had something; `None` for none.
    pub key: Option<String>,
    /// Files, folders and links.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A ready copy was moved in; nothing was copied.
    pub moved: bool,
    /// How long it took.
    pub took: Duration,
}

impl Caches {
    /// Brings a cache in: the first of its key and fallback keys that has something, of the job's own tier first.
    pub fn restore(&self, scope: &Scope, cache: &Cache, tree: &Folder, say: Say<'_>) -> Restored {
        let began = Instant::now();
        if cache.policy == Policy::Push {
            say(&format!("Not downloading cache {} due to policy", cache.key));
            return Restored::default();
        }
        let mut tiers = vec![scope.tier];
        if scope.tier == Tier::Unprotected && scope.read_protected {
            tiers.push(Tier::Protected);
        }
        for key in std::iter::once(&cache.key).chain(&cache.fallback_keys) {
            say(&format!("Checking cache for {key}..."));
            for tier in &tiers {
                match self.bring(&self.place(scope, *tier, key), key, tree) {
                    Ok(Some(restored)) => {
                        say("Successfully extracted cache");
                        return Restored { took: began.elapsed(), ..restored };
                    }
                    Ok(None) => {}
                    Err(error) => {
                        say(&format!("WARNING: cache {key}: {error}"));
                        say("Failed to extract cache");
                        return Restored { took: began.elapsed(), ..Restored::default() };
                    }
                }
            }
        }
        say("WARNING: no cache is stored for this key on this node");
        say("Failed to extract cache");
        Restored { took: began.elapsed(), ..Restored::default() }
    }

    fn bring(&self, place: &Path, key: &str, tree: &Folder) -> io::Result<Option<Restored>> {
        let lock = self.lock(place);
        let reading = lock.read().unwrap_or_else(PoisonError::into_inner);
        let Some(manifest) = Caches::manifest(place).filter(|manifest| manifest.key == key) else { return Ok(None) };
        // Its last use, for eviction.
        let since = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
        let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(since);
        let stamp = std::fs::File::options().append(true).open(place.join("manifest.json"))?;
        stamp.set_times(std::fs::FileTimes::new().set_modified(now))?;
        let mut restored = Restored {
            key: Some(key.to_owned()),
            entries: manifest.entries,
            bytes: manifest.bytes,
            moved: false,
            took: Duration::ZERO,
        };
        // One of several jobs at once gets it: a rename has one winner.
        let mine = self.temporary(place, "new");
        if std::fs::rename(place.join("spare"), &mine).is_ok() {
            self.want_spare(place, &manifest);
            drop(reading);
            let moved = Folder::open(&mine).and_then(|spare| spare.move_all(b"", tree));
            let _ = std::fs::remove_dir_all(&mine);
            restored.moved = moved?;
            if restored.moved {
                return Ok(Some(restored));
            }
            // Another file system: copy after all.
            return self.bring(place, key, tree);
        }
        self.want_spare(place, &manifest);
        let stored = Folder::open(&place.join("tree"))?;
        copy_entries(&stored, tree, &all_entries(&stored)?)?;
        Ok(Some(restored))
    }

    /// Makes the ready copies that are wanted; to be called when a job has finished. How many were made.
    pub fn replenish(&self) -> usize {
        let mut made = 0;
        for place in self.take_wanted() {
            match self.make_spare(&place) {
                Ok(true) => made += 1,
                Ok(false) => {}
                Err(error) => tracing::warn!(place = %place.display(), %error, "cannot copy a cache ahead"),
            }
        }
        made
    }

    fn make_spare(&self, place: &Path) -> io::Result<bool> {
        let lock = self.lock(place);
        let _reading = lock.read().unwrap_or_else(PoisonError::into_inner);
        let Some(manifest) = Caches::manifest(place) else { return Ok(false) };
        if place.join("spare").exists() || !self.has_room(manifest.bytes) {
            return Ok(false);
        }
        if self.bytes().saturating_add(manifest.bytes) > self.limits.total_bytes {
            return Ok(false);
        }
        let half = place.join("half");
        if half.exists() {
            std::fs::remove_dir_all(&half)?;
        }
        std::fs::create_dir(&half)?;
        let (stored, copy) = (Folder::open(&place.join("tree"))?, Folder::open(&half)?);
        copy_entries(&stored, &copy, &all_entries(&stored)?)?;
        std::fs::rename(&half, place.join("spare"))?;
        Ok(true)
    }
}
