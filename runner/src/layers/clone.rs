//! An engine's data directory, made from a generation: a copy of its private tree and links to its layers.
//! O(layers), never O(files of layers).

use super::fault::Step;
use super::layout::ANY;
use super::lineage::{GenerationRef, Lineage};
use super::manifest::{CloneRecord, FORMAT, LayerEntry, LayerKind, Manifest};
use super::store::{LayersError, Store, StoreLock, io_failed, link_target, make_dir, names_in, read_record};
use super::untrusted_tree::{self, Tree};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use slipway_spec::ids::ProjectId;
use slipway_spec::job::Tier;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A data directory lent to one engine. While its folder exists its layers and generation are kept. Give it to
/// [`Store::promote`] or [`Store::discard`]; one that is dropped stays on disk until [`Store::sweep_engines`].
#[derive(Debug)]
pub struct Clone {
    /// The engine's name.
    pub engine: String,
    /// Whose.
    pub lineage: Lineage,
    /// The private tree; becomes `/var/lib/docker` inside the engine.
    pub data: PathBuf,
    /// The store's folder this engine may see, to be mounted read-only at [`super::MOUNT`] inside.
    pub layers: PathBuf,
    /// What it started from; `None` is cold.
    pub generation: Option<GenerationRef>,
    /// How old that is.
    pub age: Option<Duration>,
    /// Layers it has.
    pub layer_count: usize,
    /// How long making it took.
    pub took: Duration,
    pub(crate) record: CloneRecord,
}

impl Clone {
    /// Whether it has no generation to start from.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        self.generation.is_none()
    }
}

impl Store {
    /// Makes a data directory for `engine` (lower-case letters, digits, hyphens) from the newest generation it may use:
    /// its own lineage's; else, where `read_protected` lets an unprotected job look, the same job's protected one; else
    /// the newest of the same project, tier and engine kind; else, as before, the newest protected one; else an empty
    /// directory. A generation that cannot be copied is condemned and the next one tried: that there is none to start
    /// from is never an error.
    ///
    /// # Errors
    /// The engine's name is taken or unfit, or the disk says no.
    pub fn clone_for(&self, lineage: &Lineage, engine: &str, read_protected: bool) -> Result<Clone, LayersError> {
        let started = Instant::now();
        check_engine_name(engine)?;
        let folder = self.engine_folder(engine);
        if self.current(&lineage.key())?.is_none() {
            self.step_back(lineage)?;
        }
        loop {
            let lock = self.lock()?;
            if folder.exists() {
                return Err(LayersError::EngineExists(engine.to_owned()));
            }
            let chosen = self.choose(lineage, read_protected)?;
            let record = self.pin(&folder, lineage, read_protected, chosen.as_ref(), &lock)?;
            drop(lock);
            self.at(Step::ClonePinned)?;
            let filled = match &chosen {
                None => self.fill_cold(&folder),
                Some((reference, manifest)) => self.fill(&folder, reference, manifest, &record),
            };
            match (filled, chosen) {
                (Ok(()), chosen) => {
                    self.at(Step::CloneCopied)?;
                    return Ok(self.handle(engine, record, chosen.as_ref().map(|(_, m)| m), started.elapsed()));
                }
                (Err(error), None) => {
                    self.throw_away(&folder)?;
                    return Err(error);
                }
                (Err(error), Some((reference, _))) => {
                    self.throw_away(&folder)?;
                    if is_out_of_space(&error) {
                        return Err(error);
                    }
                    self.condemn(&reference, &format!("its files could not be copied: {error}"))?;
                }
            }
        }
    }

    /// The live clone of an engine that outlived the process that made it; `None` when there is none.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn adopt(&self, engine: &str) -> Result<Option<Clone>, LayersError> {
        check_engine_name(engine)?;
        let record = read_record::<CloneRecord>(&self.engine_folder(engine).join("clone.json"))?;
        Ok(record.map(|record| self.handle(engine, record, None, Duration::ZERO)))
    }

    /// Names of all engines that have a folder here.
    ///
    /// # Errors
    /// The disk's.
    pub fn engines(&self) -> Result<Vec<String>, LayersError> {
        names_in(&self.root.join("engines"))
    }

    /// Removes the folders of engines that are not `alive`. For the start of a runner, when it knows which are.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep_engines(&self, alive: &BTreeSet<String>) -> Result<Vec<String>, LayersError> {
        let lock = self.lock()?;
        let mut gone = Vec::new();
        for engine in self.engines()? {
            if !alive.contains(&engine) {
                self.to_trash(&self.engine_folder(&engine))?;
                gone.push(engine);
            }
        }
        self.collect_layers(None, &lock)?;
        drop(lock);
        self.empty_trash();
        Ok(gone)
    }

    /// Throws an engine's data directory away. The engine must be dead.
    ///
    /// # Errors
    /// The disk's; the folder is tried again at the next [`Store::open`].
    pub fn discard(&self, clone: Clone) -> Result<(), LayersError> {
        self.throw_away(&self.engine_folder(&clone.engine))
    }

    pub(crate) fn throw_away(&self, folder: &Path) -> Result<(), LayersError> {
        let record = read_record::<CloneRecord>(&folder.join("clone.json")).unwrap_or_default();
        self.to_trash(folder)?;
        self.at(Step::Trashed)?;
        if let Some(record) =
            record.filter(|r| r.generation.as_ref().is_some_and(|g| !self.generation_folder(g).exists()))
        {
            // Dropped while this engine ran on it: the engine was the last to keep its layers.
            self.collect_layers(Some(record.lineage.project), &self.lock()?)?;
        }
        self.empty_trash();
        Ok(())
    }

    /// Records of all live clones.
    pub(crate) fn pins(&self) -> Result<Vec<CloneRecord>, LayersError> {
        let mut pins = Vec::new();
        for engine in self.engines()? {
            // One without a readable record pins nothing, and was never given out.
            if let Ok(Some(record)) = read_record(&self.engine_folder(&engine).join("clone.json")) {
                pins.push(record);
            }
        }
        Ok(pins)
    }

    /// A pointer to a generation that is gone or cannot be read goes to the one before.
    fn step_back(&self, lineage: &Lineage) -> Result<(), LayersError> {
        let key = lineage.key();
        while let Some(state) = self.lineage(&key)? {
            match state.pointer.current.filter(|n| !state.generations.contains_key(n)) {
                Some(number) => self.condemn(&state.reference(number), "it is gone or its manifest cannot be read")?,
                None => break,
            };
        }
        Ok(())
    }

    fn choose(
        &self,
        lineage: &Lineage,
        read_protected: bool,
    ) -> Result<Option<(GenerationRef, Manifest)>, LayersError> {
        let usable = |manifest: &Manifest| manifest.layers.iter().all(|l| lineage.may_read(l.tier, read_protected));
        let mut own = vec![lineage.clone()];
        if Self::sees_both(lineage, read_protected) {
            own.push(Lineage { tier: Tier::Protected, ..lineage.clone() });
        }
        for candidate in &own {
            if let Some(state) = self.lineage(&candidate.key())? {
                // The key ends in a hash; that it is the same lineage is checked all the same.
                if let Some((number, manifest)) = state.current().filter(|(_, m)| m.lineage == *candidate && usable(m))
                {
                    return Ok(Some((state.reference(number), manifest.clone())));
                }
            }
        }
        let states = self.lineages()?;
        let newest = states
            .iter()
            .filter_map(|state| state.current().map(|(number, manifest)| (state, number, manifest)))
            .filter(|(_, _, m)| lineage.may_fall_back_to(&m.lineage, read_protected) && usable(m))
            .max_by_key(|(state, number, m)| (m.lineage.tier == lineage.tier, m.made_at, &state.key, *number));
        Ok(newest.map(|(state, number, manifest)| (state.reference(number), manifest.clone())))
    }

    /// Writes the record that keeps the generation and its layers, under the lock that collection takes too.
    fn pin(
        &self,
        folder: &Path,
        lineage: &Lineage,
        read_protected: bool,
        chosen: Option<&(GenerationRef, Manifest)>,
        _lock: &StoreLock,
    ) -> Result<CloneRecord, LayersError> {
        let record = CloneRecord {
            format: FORMAT,
            lineage: lineage.clone(),
            read_protected: Self::sees_both(lineage, read_protected),
            generation: chosen.map(|(reference, _)| reference.clone()),
            total_build_seconds: chosen.map_or(0.0, |(_, m)| m.total_build_seconds),
            layers: chosen.map(|(_, m)| m.layers.clone()).unwrap_or_default(),
            made_at: jiff::Timestamp::now(),
        };
        make_dir(&self.tier_folder(lineage.project, lineage.tier))?;
        make_dir(folder)?;
        // Not synced: after a power loss the engine is gone and so may this be.
        let text = serde_json::to_vec(&record)
            .map_err(|e| LayersError::Record { path: folder.to_owned(), why: e.to_string() })?;
        let path = folder.join("clone.json");
        let temporary = folder.join("clone.json.new");
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)).map_err(io_failed("write", &path))?;
        if let Some((reference, _)) = chosen {
            self.touch_used(reference);
        }
        Ok(record)
    }

    fn fill_cold(&self, folder: &Path) -> Result<(), LayersError> {
        make_dir_with(&folder.join("data"), DATA_MODE)
    }

    fn fill(
        &self,
        folder: &Path,
        reference: &GenerationRef,
        manifest: &Manifest,
        record: &CloneRecord,
    ) -> Result<(), LayersError> {
        let data = folder.join("data");
        make_dir_with(&data, DATA_MODE)?;
        let tree = Tree::open(&self.generation_folder(reference).join("tree"))?;
        untrusted_tree::copy(&tree, &data, &ANY)?;
        let mut made = HashSet::new();
        for layer in &manifest.layers {
            self.link(&data, manifest.lineage.project, layer, record, &mut made)?;
        }
        for name in &manifest.folders {
            make_dir_with(&data.join(name), 0o711)?;
        }
        Ok(())
    }

    /// Lays the link to a layer. Where the store has the very link it is linked to, hard: no inode is made, and none
    /// deleted later. Nobody can write through a link's inode.
    fn link<'a>(
        &self,
        data: &Path,
        project: ProjectId,
        layer: &'a LayerEntry,
        record: &CloneRecord,
        made: &mut HashSet<&'a Path>,
    ) -> Result<(), LayersError> {
        let stored = self.layer_path(project, layer.tier, &layer.name);
        let stat = fs::symlink_metadata(&stored).map_err(io_failed("find layer", &stored))?;
        if stat.is_dir() != (layer.kind == LayerKind::Snapshot) {
            return Err(LayersError::Record { path: stored, why: "is not of the kind its manifest says".to_owned() });
        }
        let link = data.join(&layer.at);
        if let Some(parent) = Path::new(&layer.at).parent().filter(|p| made.insert(p)) {
            make_dir(&data.join(parent))?;
        }
        if !record.read_protected {
            let ours = self.links_folder(project, layer.tier).join(layer.name.as_str());
            let linked = rustix::fs::linkat(rustix::fs::CWD, &ours, rustix::fs::CWD, &link, AtFlags::empty());
            match linked {
                Ok(()) => return Ok(()),
                // Lost, or as many links as the filesystem allows.
                Err(Errno::NOENT | Errno::MLINK | Errno::PERM) => {}
                Err(errno) => return Err(io_failed("link", &link)(errno.into())),
            }
        }
        let target = link_target(&layer.name, record.read_protected.then_some(layer.tier));
        std::os::unix::fs::symlink(&target, &link).map_err(io_failed("link", &link))
    }

    fn handle(&self, engine: &str, record: CloneRecord, manifest: Option<&Manifest>, took: Duration) -> Clone {
        let lineage = record.lineage.clone();
        let layers = if record.read_protected {
            self.root.join("layers").join(lineage.project.to_string())
        } else {
            self.tier_folder(lineage.project, lineage.tier)
        };
        let age = manifest
            .map(|m| Duration::try_from(jiff::Timestamp::now().duration_since(m.made_at)).unwrap_or(Duration::ZERO));
        Clone {
            engine: engine.to_owned(),
            data: self.engine_folder(engine).join("data"),
            layers,
            generation: record.generation.clone(),
            age,
            layer_count: record.layers.len(),
            took,
            lineage,
            record,
        }
    }
}

/// Mode Docker gives its data directory.
const DATA_MODE: u32 = 0o710;

fn make_dir_with(path: &Path, mode: u32) -> Result<(), LayersError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io_failed("make", path))
}

fn check_engine_name(engine: &str) -> Result<(), LayersError> {
    let fits = (1..=64).contains(&engine.len())
        && engine.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(LayersError::EngineName(engine.to_owned())) }
}

/// A full disk says nothing about a generation.
fn is_out_of_space(error: &LayersError) -> bool {
    use std::io::ErrorKind;
    let source = match error {
        LayersError::Io { source, .. } | LayersError::Tree(untrusted_tree::TreeError::Io { source, .. }) => source,
        _ => return false,
    };
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded].contains(&source.kind());
    // Neither do too many open files or too little memory.
    full || matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
