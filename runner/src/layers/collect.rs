//! What people and the store itself take away: drop, roll back, condemn, sweep, evict.

use super::budget::{Candidate, Refused, Reservation, least_valuable};
use super::fault::Step;
use super::lineage::{GenerationRef, LineageKey};
use super::manifest::{FORMAT, LayerName, Manifest};
use super::store::{LayersError, LineageState, Store, StoreLock, names_in, number, read_record};
use rustix::fs::FlockOperation;
use serde::Serialize;
use slipway_spec::ids::ProjectId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Generations.
    pub generations: Vec<GenerationRef>,
    /// Layers nothing named any more.
    pub layers: usize,
    /// Bytes the store takes less, by its own records.
    pub bytes: u64,
}

impl Store {
    /// Finds a lineage by its name or by the beginning of it.
    ///
    /// # Errors
    /// There is none, or several begin so.
    pub fn find(&self, text: &str) -> Result<LineageKey, LayersError> {
        let names = names_in(&self.root.join("generations"))?;
        let fits: Vec<&String> = names.iter().filter(|n| *n == text || n.starts_with(text)).collect();
        let found = match fits.as_slice() {
            [one] => LineageKey::parse(one),
            many => many.iter().find(|n| **n == text).and_then(|n| LineageKey::parse(n)),
        };
        found.ok_or_else(|| {
            LayersError::NoSuch(match fits.as_slice() {
                [] => format!("no lineage is named {text}, or begins so; `slipway cache ls` shows them"),
                many => format!("{} lineages begin with {text}; give more of the name", many.len()),
            })
        })
    }

    /// Points a lineage back to an older generation: the one before the current, or `to`. Jobs that run on what is left
    /// behind are not promoted any more.
    ///
    /// # Errors
    /// There is no such generation.
    pub fn rollback(&self, key: &LineageKey, to: Option<u64>) -> Result<GenerationRef, LayersError> {
        let _lock = self.lock()?;
        let state = self.existing(key)?;
        let before = |limit: u64| state.generations.keys().rev().find(|n| **n < limit).copied();
        let target = match (to, state.pointer.current) {
            (Some(number), _) => state.generations.contains_key(&number).then_some(number),
            (None, Some(current)) => {
                let parent = state.history().get(&current).and_then(|s| s.parent);
                parent.filter(|p| state.generations.contains_key(p)).or_else(|| before(current))
            }
            (None, None) => before(u64::MAX),
        };
        let Some(target) = target else {
            let wanted = to.map_or("one older than the current".to_owned(), |n| n.to_string());
            let have: Vec<String> = state.generations.keys().map(u64::to_string).collect();
            return Err(LayersError::NoSuch(format!("{key} has no generation {wanted}; it has {}", have.join(", "))));
        };
        let mut pointer = state.pointer.clone();
        pointer.current = Some(target);
        self.write_pointer(key, &pointer)?;
        Ok(state.reference(target))
    }

    /// Drops a lineage with all its generations, or one generation of it (the pointer then falls back as it does for
    /// [`Store::condemn`]). Engines that run on it keep their layers until they end.
    ///
    /// # Errors
    /// There is no such lineage or generation.
    pub fn drop(&self, key: &LineageKey, number: Option<u64>) -> Result<Collected, LayersError> {
        let before = self.bytes()?;
        let lock = self.lock()?;
        let state = self.existing(key)?;
        let mut collected = Collected::default();
        match number {
            Some(number) => {
                if !state.generations.contains_key(&number) {
                    return Err(LayersError::NoSuch(format!("{key} has no generation {number}")));
                }
                self.withdraw(&state, number, false)?;
                collected.generations.push(state.reference(number));
            }
            None => {
                collected.generations.extend(state.generations.keys().map(|n| state.reference(*n)));
                // Emptied, not removed: its numbers are never used twice.
                let mut pointer = state.pointer.clone();
                pointer.current = None;
                self.write_pointer(key, &pointer)?;
                for number in state.generations.keys() {
                    self.to_trash(&self.generation_folder(&state.reference(*number)))?;
                }
            }
        }
        self.at(Step::GenerationsTrashed)?;
        collected.layers = self.collect_layers(Some(state.pointer.lineage.project), &lock)?;
        drop(lock);
        self.empty_trash();
        collected.bytes = before.saturating_sub(self.bytes()?);
        Ok(collected)
    }

    /// Drops a generation that an engine would not start from, counts it, and points its lineage to its parent, else to
    /// the next older one, else to nothing: the next clone tries that. Says what jobs start from now.
    ///
    /// # Errors
    /// The disk's. One that is gone already is no error.
    pub fn condemn(&self, generation: &GenerationRef, why: &str) -> Result<Option<GenerationRef>, LayersError> {
        tracing::warn!(%generation, why, "no engine starts from this generation: dropped");
        let lock = self.lock()?;
        let Some(state) = self.lineage(&generation.lineage)? else { return Ok(None) };
        let current = self.withdraw(&state, generation.number, true)?;
        self.at(Step::GenerationsTrashed)?;
        self.collect_layers(Some(state.pointer.lineage.project), &lock)?;
        drop(lock);
        self.empty_trash();
        Ok(current.map(|n| state.reference(n)))
    }

    /// Points a lineage to nothing; its generations stay for a rollback until they are retired.
    pub(crate) fn retire_lineage(&self, generation: &GenerationRef) -> Result<(), LayersError> {
        let _lock = self.lock()?;
        let Some(state) = self.lineage(&generation.lineage)? else { return Ok(()) };
        if state.pointer.current == Some(generation.number) {
            let mut pointer = state.pointer;
            pointer.current = None;
            self.write_pointer(&generation.lineage, &pointer)?;
        }
        Ok(())
    }

    /// The pointer moves before the folder goes: a crash in between leaves a generation nobody starts from.
    fn withdraw(&self, state: &LineageState, number: u64, condemned: bool) -> Result<Option<u64>, LayersError> {
        let mut pointer = state.pointer.clone();
        if pointer.current == Some(number) {
            let parent = state.history().get(&number).and_then(|s| s.parent);
            let parent = parent.filter(|p| state.generations.contains_key(p));
            let older = state.generations.keys().rev().find(|n| **n < number).copied();
            pointer.current = parent.or(older);
        }
        pointer.condemned += u64::from(condemned);
        self.write_pointer(&state.key, &pointer)?;
        self.to_trash(&self.generation_folder(&state.reference(number)))?;
        Ok(pointer.current)
    }

    fn existing(&self, key: &LineageKey) -> Result<LineageState, LayersError> {
        self.lineage(key)?.ok_or_else(|| LayersError::NoSuch(format!("no lineage is named {key}")))
    }

    /// Drops what is beyond `keep_generations`, oldest first; never the current one, nor one an engine runs on.
    pub(crate) fn retire(&self, key: &LineageKey, lock: &StoreLock) -> Result<(), LayersError> {
        let Some(state) = self.lineage(key)? else { return Ok(()) };
        let pinned = self.pinned()?;
        let mut over = state.generations.len().saturating_sub(self.budget.keep_generations.max(1) as usize);
        let mut retired = false;
        for number in state.generations.keys() {
            let reference = state.reference(*number);
            if over == 0 {
                break;
            }
            if state.pointer.current != Some(*number) && !pinned.contains(&reference) {
                self.to_trash(&self.generation_folder(&reference))?;
                over -= 1;
                retired = true;
            }
        }
        if retired {
            self.collect_layers(Some(state.pointer.lineage.project), lock)?;
        }
        Ok(())
    }

    fn pinned(&self) -> Result<HashSet<GenerationRef>, LayersError> {
        Ok(self.pins()?.into_iter().filter_map(|p| p.generation).collect())
    }

    /// Removes what a crash left. For [`Store::open`]; engines' folders are left to those who know which are alive.
    pub(crate) fn sweep(&self, lock: &StoreLock) -> Result<(), LayersError> {
        for name in names_in(&self.root.join("staging"))? {
            let folder = self.root.join("staging").join(&name);
            if !is_owned(&folder) {
                self.to_trash(&folder)?;
            }
        }
        for engine in self.engines()? {
            // Made without its record: never given out.
            if !self.engine_folder(&engine).join("clone.json").exists() {
                self.to_trash(&self.engine_folder(&engine))?;
            }
        }
        for name in names_in(&self.root.join("generations"))? {
            let Some(key) = LineageKey::parse(&name) else { continue };
            let folder = self.lineage_folder(&key);
            let next = match read_record::<super::manifest::Pointer>(&folder.join("current")) {
                Ok(pointer) => pointer.map_or(0, |p| p.next),
                Err(error) => {
                    tracing::warn!(lineage = %key, %error, "a lineage's pointer cannot be read: starts cold");
                    self.to_trash(&folder)?;
                    continue;
                }
            };
            for name in names_in(&folder)? {
                if number(&name).is_some_and(|n| n >= next) {
                    self.to_trash(&folder.join(&name))?;
                }
            }
        }
        self.collect_layers(None, lock)?;
        Ok(())
    }

    /// Names of a project's layers, or of all, that a generation, a promotion under way or a live engine needs.
    pub(crate) fn referenced(&self, project: Option<ProjectId>) -> Result<HashSet<LayerName>, LayersError> {
        let mut names = HashSet::new();
        for state in self.lineages_of(project)? {
            for manifest in state.generations.values() {
                names.extend(manifest.layers.iter().map(|l| l.name.clone()));
            }
        }
        for name in names_in(&self.root.join("staging"))? {
            let path = self.root.join("staging").join(&name).join("manifest.json");
            if let Ok(Some(manifest)) = read_record::<Manifest>(&path) {
                names.extend(manifest.layers.into_iter().map(|l| l.name));
            }
        }
        for pin in self.pins()? {
            names.extend(pin.layers.into_iter().map(|l| l.name));
        }
        Ok(names)
    }

    /// Every file and folder in a project's layers' folders, or in all.
    pub(crate) fn stored_layers(&self, project: Option<ProjectId>) -> Result<Vec<(PathBuf, String)>, LayersError> {
        let mut found = Vec::new();
        let layers = self.root.join("layers");
        let projects = match project {
            Some(project) => vec![project.to_string()],
            None => names_in(&layers)?,
        };
        for project in projects {
            for tier in names_in(&layers.join(&project))? {
                let folder = layers.join(&project).join(&tier);
                for name in names_in(&folder)? {
                    found.push((folder.join(&name), name));
                }
            }
        }
        Ok(found)
    }

    /// Moves layers nobody names to the trash; the lock keeps promotions from naming one meanwhile.
    pub(crate) fn collect_layers(&self, project: Option<ProjectId>, _lock: &StoreLock) -> Result<usize, LayersError> {
        let referenced = self.referenced(project)?;
        let mut collected = 0;
        for (path, name) in self.stored_layers(project)? {
            if LayerName::parse(&name).is_none_or(|n| !referenced.contains(&n)) {
                self.to_trash(&path)?;
                if let Ok(beneath) = path.strip_prefix(self.root.join("layers")) {
                    for folder in ["sums", "links"] {
                        self.to_trash(&self.root.join(folder).join(beneath))?;
                    }
                }
                collected += 1;
            }
        }
        if collected > 0 {
            self.at(Step::LayersTrashed)?;
        }
        Ok(collected)
    }

    /// Removes orphans, and what is beyond the budget.
    ///
    /// # Errors
    /// The disk's.
    pub fn gc(&self) -> Result<Collected, LayersError> {
        let lock = self.lock()?;
        self.sweep(&lock)?;
        drop(lock);
        let collected = self.shrink_to_budget()?;
        self.empty_trash();
        Ok(collected)
    }

    /// Evicts until the store is within `cache_max_bytes`.
    pub(crate) fn shrink_to_budget(&self) -> Result<Collected, LayersError> {
        let mut collected = Collected::default();
        while self.bytes()? > self.budget.cache_max_bytes {
            match self.evict_one()? {
                Some(one) => {
                    collected.generations.extend(one.generations);
                    collected.layers += one.layers;
                    collected.bytes += one.bytes;
                }
                None => break,
            }
        }
        Ok(collected)
    }

    /// Promises `bytes` of disk to a job before it is accepted, evicting for it what is not in use.
    ///
    /// # Errors
    /// There is not enough even so; the node should take no builds and say why. Failure to look at the disk counts as
    /// that too.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, Refused> {
        let floor_bytes = self.budget.disk_floor_bytes;
        let mut evicted = 0;
        loop {
            let space = (self.space)(&self.root).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot look at the layer store's disk");
                super::budget::Space { free_bytes: 0, total_bytes: 0 }
            });
            let promised_bytes = match self.promised.take(bytes, space.free_bytes, floor_bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(promised) => promised,
            };
            match self.evict_one() {
                Ok(Some(_)) => evicted += 1,
                Ok(None) => {
                    let free_bytes = space.free_bytes;
                    return Err(Refused { free_bytes, promised_bytes, floor_bytes, wanted_bytes: bytes, evicted });
                }
                Err(error) => {
                    tracing::warn!(%error, "eviction failed");
                    let free_bytes = space.free_bytes;
                    return Err(Refused { free_bytes, promised_bytes, floor_bytes, wanted_bytes: bytes, evicted });
                }
            }
        }
    }

    /// Evicts the least valuable generation that no engine runs on; `None` when there is none.
    fn evict_one(&self) -> Result<Option<Collected>, LayersError> {
        let lock = self.lock()?;
        let states = self.lineages()?;
        let pins = self.pins()?;
        let pinned: HashSet<&GenerationRef> = pins.iter().filter_map(|p| p.generation.as_ref()).collect();
        let mut users: HashMap<&LayerName, usize> = HashMap::new();
        for manifest in states.iter().flat_map(|s| s.generations.values()) {
            let names: HashSet<&LayerName> = manifest.layers.iter().map(|l| &l.name).collect();
            for name in names {
                *users.entry(name).or_default() += 1;
            }
        }
        // A live engine's layers stay, even when their generation is gone.
        for layer in pins.iter().flat_map(|p| &p.layers) {
            *users.entry(&layer.name).or_default() += 1;
        }
        let now = jiff::Timestamp::now();
        let mut found: Vec<(&LineageState, u64, Candidate)> = Vec::new();
        for state in &states {
            for (number, manifest) in &state.generations {
                let reference = state.reference(*number);
                if pinned.contains(&reference) {
                    continue;
                }
                let alone: BTreeMap<&LayerName, u64> =
                    manifest.layers.iter().filter(|l| users[&l.name] == 1).map(|l| (&l.name, l.bytes)).collect();
                let used = self.last_used(&reference).unwrap_or(manifest.made_at);
                let candidate = Candidate {
                    current: state.pointer.current == Some(*number),
                    build_seconds: manifest.total_build_seconds,
                    idle: Duration::try_from(now.duration_since(used)).unwrap_or(Duration::ZERO),
                    frees_bytes: alone.values().sum::<u64>() + manifest.private_bytes,
                };
                found.push((state, *number, candidate));
            }
        }
        let candidates: Vec<Candidate> = found.iter().map(|(_, _, c)| *c).collect();
        let Some((state, number, candidate)) = least_valuable(&candidates).and_then(|i| found.get(i)) else {
            return Ok(None);
        };
        let generation = state.reference(*number);
        tracing::info!(%generation, bytes = candidate.frees_bytes, value = candidate.value(), "generation evicted");
        self.withdraw(state, *number, false)?;
        self.at(Step::GenerationsTrashed)?;
        let layers = self.collect_layers(Some(state.pointer.lineage.project), &lock)?;
        let bytes = candidate.frees_bytes;
        drop(lock);
        self.empty_trash();
        Ok(Some(Collected { generations: vec![generation], layers, bytes }))
    }
}

/// Whether a living process holds the staging folder.
fn is_owned(folder: &std::path::Path) -> bool {
    let Ok(file) = File::open(folder.join("owner")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

// Records of a newer format are refused when the store opens; within one format a manifest may still not be newer.
const _: () = assert!(FORMAT == 1);
