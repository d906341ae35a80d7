//! Proof that stored bytes are what they were.

use super::lineage::GenerationRef;
use super::manifest::{LayerEntry, LayerKind, LayerName, Pointer};
use super::store::{LayersError, Store, names_in, number, read_record};
use serde::Serialize;
use slipway_spec::ids::ProjectId;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Generations looked at.
    pub generations: usize,
    /// Layers read in full.
    pub layers: usize,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Layers that had no digest yet (the process died between promotion and sealing) and have one now.
    pub sealed: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Verified {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Where.
    pub path: PathBuf,
    /// Generations that need it.
    pub generations: Vec<GenerationRef>,
    /// For people.
    pub text: String,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Bytes are not what they were.
    Changed,
    /// A generation names it and it is not there.
    Missing,
    /// It is there and nothing names it; `gc` removes it.
    Orphan,
    /// A record cannot be read, or contradicts another.
    Record,
}

impl Store {
    /// Reads everything that generations need and compares it with what was recorded. Changes nothing but to record
    /// digests that are missing. Takes as long as reading takes; jobs go on meanwhile.
    ///
    /// # Errors
    /// The store's own folders cannot be read.
    pub fn verify(&self) -> Result<Verified, LayersError> {
        let mut verified = Verified::default();
        let mut layers: BTreeMap<(ProjectId, LayerName), (LayerEntry, Vec<GenerationRef>)> = BTreeMap::new();
        // A moment's lock: what is seen is one state, and orphans are none of a promotion's.
        let lock = self.lock()?;
        let states = self.lineages()?;
        let referenced = self.referenced(None)?;
        let stored = self.stored_layers(None)?;
        self.verify_names(&mut verified)?;
        drop(lock);
        for state in &states {
            for (number, manifest) in &state.generations {
                verified.generations += 1;
                let reference = state.reference(*number);
                self.verify_private(&reference, &mut verified)?;
                for layer in &manifest.layers {
                    let key = (manifest.lineage.project, layer.name.clone());
                    let users = &mut layers.entry(key).or_insert_with(|| (layer.clone(), Vec::new())).1;
                    if users.last() != Some(&reference) {
                        users.push(reference.clone());
                    }
                }
            }
        }
        for ((project, _), (layer, users)) in layers {
            self.verify_layer(project, &layer, users, &mut verified)?;
        }
        for (path, name) in stored {
            if LayerName::parse(&name).is_none_or(|n| !referenced.contains(&n)) {
                let text = "no generation and no engine names this layer; `slipway cache gc` removes it".to_owned();
                verified.faults.push(Fault { kind: FaultKind::Orphan, path, generations: Vec::new(), text });
            }
        }
        Ok(verified)
    }

    /// Pointers and folders of generations.
    fn verify_names(&self, verified: &mut Verified) -> Result<(), LayersError> {
        let generations = self.root.join("generations");
        for lineage in names_in(&generations)? {
            let folder = generations.join(&lineage);
            let mut fault = |kind, path: &Path, text: String| {
                verified.faults.push(Fault { kind, path: path.to_owned(), generations: Vec::new(), text });
            };
            let pointer = match read_record::<Pointer>(&folder.join("current")) {
                Ok(Some(pointer)) => pointer,
                Ok(None) => {
                    fault(FaultKind::Orphan, &folder, "a lineage without a pointer".to_owned());
                    continue;
                }
                Err(error) => {
                    fault(FaultKind::Record, &folder.join("current"), error.to_string());
                    continue;
                }
            };
            let mut numbers = HashSet::new();
            for name in names_in(&folder)? {
                let Some(n) = number(&name) else { continue };
                let path = folder.join(&name);
                if n >= pointer.next {
                    fault(FaultKind::Orphan, &path, "a generation that was never published".to_owned());
                    continue;
                }
                match read_record::<super::manifest::Manifest>(&path.join("manifest.json")) {
                    Ok(Some(_)) => {
                        numbers.insert(n);
                    }
                    Ok(None) => fault(FaultKind::Missing, &path.join("manifest.json"), "is missing".to_owned()),
                    Err(error) => fault(FaultKind::Record, &path.join("manifest.json"), error.to_string()),
                }
            }
            if let Some(current) = pointer.current.filter(|c| !numbers.contains(c)) {
                let text = format!("points to generation {current}, which is not there");
                fault(FaultKind::Missing, &folder.join("current"), text);
            }
        }
        Ok(())
    }

    fn verify_private(&self, reference: &GenerationRef, verified: &mut Verified) -> Result<(), LayersError> {
        let folder = self.generation_folder(reference);
        let sum = folder.join("sum");
        let expected = fs::read_to_string(&sum).ok();
        let text = match (self.digest_private(reference), expected) {
            (Ok(actual), Some(expected)) if actual == expected => return Ok(()),
            (Ok(actual), None) => {
                if folder.exists() {
                    self.write_missing_sum(&sum, &actual)?;
                    verified.sealed += 1;
                }
                return Ok(());
            }
            (Ok(_), Some(_)) => "an engine's databases or cache mounts are not what they were".to_owned(),
            (Err(error), _) => error.to_string(),
        };
        // Retired or dropped while we looked.
        if folder.exists() {
            let generations = vec![reference.clone()];
            verified.faults.push(Fault { kind: FaultKind::Changed, path: folder.join("tree"), generations, text });
        }
        Ok(())
    }

    fn verify_layer(
        &self,
        project: ProjectId,
        layer: &LayerEntry,
        generations: Vec<GenerationRef>,
        verified: &mut Verified,
    ) -> Result<(), LayersError> {
        let path = self.layer_path(project, layer.tier, &layer.name);
        let still_needed = || generations.iter().any(|g| self.generation_folder(g).exists());
        let actual = match self.digest_layer(project, layer.tier, &layer.name, layer.kind) {
            Ok(actual) => actual,
            Err(error) => {
                if still_needed() {
                    let missing = fs::symlink_metadata(&path).is_err();
                    let kind = if missing { FaultKind::Missing } else { FaultKind::Changed };
                    let text = if missing { "is missing".to_owned() } else { error.to_string() };
                    verified.faults.push(Fault { kind, path, generations, text });
                }
                return Ok(());
            }
        };
        verified.layers += 1;
        verified.bytes += layer.bytes;
        let sum = self.sum_path(project, layer.tier, &layer.name);
        // A blob proves itself: its place carries its digest.
        let expected = match layer.kind {
            LayerKind::Blob => layer.at.rsplit('/').next().map(str::to_owned),
            LayerKind::Snapshot => fs::read_to_string(&sum).ok().filter(|s| s.len() == actual.len()),
        };
        match expected {
            None => {
                self.write_missing_sum(&sum, &actual)?;
                verified.sealed += 1;
            }
            Some(expected) if expected == actual => {}
            Some(_) if !still_needed() => {}
            Some(expected) => {
                let text = format!("its bytes are not what they were: digest {actual}, recorded {expected}");
                verified.faults.push(Fault { kind: FaultKind::Changed, path, generations, text });
            }
        }
        Ok(())
    }
}
