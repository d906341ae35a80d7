//! A generation, made from a finished engine.
//!
//! examined → staged → layers moved in → synced → placed → pointer swapped → older ones retired → sealed → trashed.
//! Only `placed` to `retired` hold the store's lock; the parent is compared there once more. See [`Step`].

use super::clone::Clone;
use super::fault::Step;
use super::layout::{self, Layout, NewLayer, Private, SnapshotInfo, Survey, SurveyError};
use super::lineage::{GenerationRef, hex};
use super::manifest::{FORMAT, LayerEntry, LayerKind, LayerName, Manifest, Pointer};
use super::store::{
    LayersError, Store, StoreLock, io_failed, link_target, make_dir, names_in, number, sync_folder, write_json,
    write_record,
};
use super::succession::{self, Verdict, Yield};
use super::untrusted_tree::{self, Tree, TreeError};
use rustix::fs::FlockOperation;
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::job::Tier;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is known of an engine that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Whether dockerd and containerd ended by themselves when told to. What did not is never promoted: their databases
    /// may be torn.
    pub clean_stop: bool,
    /// All snapshots of the engine's containerd, in all namespaces, asked after dockerd had stopped.
    pub snapshots: Vec<SnapshotInfo>,
    /// Seconds the job spent building what is new.
    pub build_seconds: f64,
    /// The job.
    pub job: JobId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Its commit.
    pub commit: String,
}

/// What became of a finished engine. Either way its data directory is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum Promotion {
    /// It is a generation now.
    Promoted {
        /// Which.
        generation: GenerationRef,
        /// Layers it adds.
        new_layers: usize,
        /// Bytes they take on disk.
        new_bytes: u64,
        /// The racing generation whose place it took.
        instead_of: Option<u64>,
        /// How long it took.
        took: Duration,
    },
    /// It is not; the lineage stays as it was.
    Kept(Kept),
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Promotion::Promoted { generation, new_layers, new_bytes, instead_of, took } => {
                let bytes = super::budget::Bytes(*new_bytes);
                let ms = took.as_millis();
                write!(f, "promoted to generation {} (+{new_layers} layers, {bytes}, {ms} ms", generation.number)?;
                match instead_of {
                    Some(rival) => write!(f, ", instead of {rival} whose layers took less)"),
                    None => f.write_str(")"),
                }
            }
            Promotion::Kept(reason) => write!(f, "not promoted: {reason}"),
        }
    }
}

/// Why an engine was not promoted.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// It did not end by itself.
    NotStopped,
    /// It built and pulled nothing.
    NothingNew,
    /// Another generation stays.
    Yielded(Yield),
    /// Its data directory is laid out in no known way, or something it names is missing, or hostile.
    Unfit(String),
    /// The generation would name more layers than one may.
    TooManyLayers {
        /// It would name.
        layers: usize,
        /// It may name.
        max: usize,
    },
    /// The store's disk said no.
    Failed(String),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::NotStopped => f.write_str("the engine did not stop by itself"),
            Kept::NothingNew => f.write_str("nothing new was built"),
            Kept::Yielded(why) => why.fmt(f),
            Kept::Unfit(why) => f.write_str(why),
            Kept::TooManyLayers { layers, max } => {
                write!(f, "it would hold {layers} layers, more than {max}; the lineage starts cold next time")
            }
            Kept::Failed(why) => f.write_str(why),
        }
    }
}

/// New files up to which each is synced by itself. Beyond it one `syncfs` is cheaper, though it also writes what running
/// builds have written.
const SYNC_EACH_MAX: u64 = 500;

/// A staged generation.
struct Staged {
    folder: PathBuf,
    manifest: Manifest,
    new: Vec<(NewLayer, LayerName)>,
    /// Files that are not on the disk itself yet, more or less.
    inodes: u64,
    /// Held while the folder is ours; a sweep leaves a locked one alone.
    _owner: File,
}

impl Store {
    /// Makes a generation of a finished engine's data directory and points its lineage to it, if it is fit and nothing
    /// more valuable came first. The engine must be dead, its mounts gone. The data directory is gone afterwards,
    /// whatever the outcome.
    ///
    /// # Errors
    /// Only what keeps the data directory from being removed; all else is [`Kept`].
    pub fn promote(&self, clone: Clone, finished: &Finished) -> Result<Promotion, LayersError> {
        let started = Instant::now();
        let outcome = self.try_promote(&clone, finished, started);
        let thrown_away = self.throw_away(&self.engine_folder(&clone.engine));
        let promotion = match outcome {
            Ok(promotion) => promotion,
            Err(error) => Promotion::Kept(Kept::Failed(error.to_string())),
        };
        thrown_away?;
        Ok(promotion)
    }

    fn try_promote(&self, clone: &Clone, finished: &Finished, started: Instant) -> Result<Promotion, LayersError> {
        if !finished.clean_stop {
            return Ok(Promotion::Kept(Kept::NotStopped));
        }
        let key = clone.lineage.key();
        if let Verdict::Yield(why) = self.verdict(clone, finished)? {
            return Ok(Promotion::Kept(Kept::Yielded(why)));
        }
        let data = Tree::open(&clone.data)?;
        let links = Store::links(&clone.record);
        let survey = match layout::survey(&data, &finished.snapshots, &links, &self.budget) {
            Ok(survey) => survey,
            Err(SurveyError::Tree(TreeError::Io { doing, path, source })) => {
                return Err(LayersError::Io { doing, path, source });
            }
            Err(unfit) => return Ok(Promotion::Kept(Kept::Unfit(unfit.to_string()))),
        };
        if survey.new.is_empty() {
            return Ok(Promotion::Kept(Kept::NothingNew));
        }
        let layers = survey.new.len() + survey.kept.len();
        if layers > self.budget.generation_max_layers {
            if let Some(generation) = &clone.generation {
                self.retire_lineage(generation)?;
            }
            let max = self.budget.generation_max_layers;
            return Ok(Promotion::Kept(Kept::TooManyLayers { layers, max }));
        }
        self.at(Step::Examined)?;

        let staged = self.stage(clone, finished, survey, &data)?;
        let placed = self.move_and_place(clone, finished, &staged, &data);
        let (reference, instead_of) = match placed {
            Ok(Ok(done)) => done,
            Ok(Err(why)) => {
                self.unstage(&staged)?;
                return Ok(Promotion::Kept(Kept::Yielded(why)));
            }
            Err(error) => {
                // After the swap nothing may be taken back; unstage takes only what no manifest names.
                self.unstage(&staged)?;
                return Err(error);
            }
        };
        debug_assert_eq!(reference.lineage, key);
        self.seal(clone, &reference, &staged.new)?;
        self.at(Step::Sealed)?;
        self.shrink_to_budget()?;
        Ok(Promotion::Promoted {
            generation: reference,
            new_layers: staged.new.len(),
            new_bytes: staged.new.iter().map(|(l, _)| l.bytes).sum(),
            instead_of,
            took: started.elapsed(),
        })
    }

    fn verdict(&self, clone: &Clone, finished: &Finished) -> Result<Verdict, LayersError> {
        let key = clone.lineage.key();
        let base = clone.generation.as_ref().filter(|g| g.lineage == key).map(|g| g.number);
        Ok(match self.lineage(&key)? {
            None => succession::decide(&Default::default(), None, base, finished.build_seconds),
            Some(state) => {
                let current = state.current().map(|(number, _)| number);
                succession::decide(&state.history(), current, base, finished.build_seconds)
            }
        })
    }

    /// Writes the manifest, then moves the private files next to it.
    fn stage(&self, clone: &Clone, finished: &Finished, survey: Survey, data: &Tree) -> Result<Staged, LayersError> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random)?;
        let folder = self.root.join("staging").join(hex(&random));
        let owner = {
            // Made under the lock: a sweep must not find it before it is locked.
            let _lock = self.lock()?;
            make_dir(&folder)?;
            let path = folder.join("owner");
            let owner = File::create(&path).map_err(io_failed("make", &path))?;
            rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| io_failed("lock", &path)(e.into()))?;
            owner
        };
        let tier = clone.lineage.tier;
        let inodes = survey.private_inodes + survey.new.iter().map(|layer| layer.inodes).sum::<u64>();
        let mut layers = survey.kept;
        let mut new = Vec::new();
        for layer in survey.new {
            let name = LayerName::mint()?;
            let (at, kind, bytes, inodes) = (layer.at.clone(), layer.kind, layer.bytes, layer.inodes);
            layers.push(LayerEntry { at, name: name.clone(), tier, kind, bytes, inodes });
            new.push((layer, name));
        }
        layers.sort_by(|a, b| a.at.cmp(&b.at));
        let manifest = Manifest {
            format: FORMAT,
            lineage: clone.lineage.clone(),
            parent: clone.generation.clone(),
            layout: Layout::Containerd,
            job: finished.job,
            pipeline: finished.pipeline,
            commit: finished.commit.clone(),
            made_at: jiff::Timestamp::now(),
            build_seconds: finished.build_seconds,
            total_build_seconds: clone.record.total_build_seconds + finished.build_seconds,
            private_bytes: survey.private_bytes,
            layers,
            folders: survey.folders,
        };
        write_json(&folder.join("manifest.json"), &manifest)?;
        let tree = folder.join("tree");
        make_dir(&tree)?;
        for Private(path) in &survey.private {
            let from = path.parent().unwrap_or(Path::new(""));
            let source = data.dir(from)?.ok_or_else(|| gone(from))?;
            let to = tree.join(from);
            make_dir(&to)?;
            let name = path.file_name().unwrap_or(path.as_os_str());
            source.move_out(name, &Tree::open(&to)?, name)?;
        }
        self.at(Step::Staged)?;
        Ok(Staged { folder, manifest, new, inodes, _owner: owner })
    }

    fn move_and_place(
        &self,
        clone: &Clone,
        finished: &Finished,
        staged: &Staged,
        data: &Tree,
    ) -> Result<Result<(GenerationRef, Option<u64>), Yield>, LayersError> {
        let (project, tier) = (clone.lineage.project, clone.lineage.tier);
        let folder = self.tier_folder(project, tier);
        make_dir(&folder)?;
        let store = Tree::open(&folder)?;
        make_dir(&self.links_folder(project, tier))?;
        for (layer, name) in &staged.new {
            layout::move_layer(data, layer, &store, OsStr::new(name.as_str()))?;
            let link = self.links_folder(project, tier).join(name.as_str());
            std::os::unix::fs::symlink(link_target(name, None), &link).map_err(io_failed("link", &link))?;
        }
        self.at(Step::LayersMoved)?;
        self.make_durable(&store, &self.links_folder(project, tier), staged)?;
        self.at(Step::Synced)?;

        let lock = self.lock()?;
        let instead_of = match self.verdict(clone, finished)? {
            Verdict::Yield(why) => return Ok(Err(why)),
            Verdict::Follow => None,
            Verdict::Outvalue { rival } => Some(rival),
        };
        let reference = self.place(clone, staged, &lock)?;
        Ok(Ok((reference, instead_of)))
    }

    /// Everything that the generation names is on the disk itself when this returns.
    fn make_durable(&self, layers: &Tree, links: &Path, staged: &Staged) -> Result<(), LayersError> {
        if staged.inodes > SYNC_EACH_MAX {
            let root = File::open(&self.root).map_err(io_failed("open", &self.root))?;
            return rustix::fs::syncfs(&root).map_err(|e| io_failed("sync", &self.root)(e.into()));
        }
        for (layer, name) in &staged.new {
            match layer.kind {
                LayerKind::Blob => {
                    let path = layers.path().join(name.as_str());
                    File::open(&path).and_then(|f| f.sync_all()).map_err(io_failed("sync", &path))?;
                }
                LayerKind::Snapshot => {
                    let tree = layers.dir(Path::new(name.as_str()))?.ok_or_else(|| gone(Path::new(name.as_str())))?;
                    untrusted_tree::make_durable(&tree, &layout::ANY)?;
                }
            }
        }
        untrusted_tree::make_durable(&Tree::open(&staged.folder)?, &layout::ANY)?;
        // The folders of a new project or tier are entries of theirs.
        let ours = |path: &&Path| path.starts_with(&self.root);
        for folder in layers.path().ancestors().take_while(ours).chain([links]) {
            sync_folder(folder).map_err(io_failed("sync", folder))?;
        }
        Ok(())
    }

    fn place(&self, clone: &Clone, staged: &Staged, lock: &StoreLock) -> Result<GenerationRef, LayersError> {
        let key = clone.lineage.key();
        let lineage = self.lineage_folder(&key);
        make_dir(&lineage)?;
        let mut pointer = match self.lineage(&key)? {
            Some(state) => state.pointer,
            None => {
                // There may be generations without a readable pointer; their numbers are not used again.
                let next = names_in(&lineage)?.iter().filter_map(|n| number(n)).max().unwrap_or(0) + 1;
                Pointer { format: FORMAT, lineage: clone.lineage.clone(), current: None, next, condemned: 0 }
            }
        };
        let reference = GenerationRef { lineage: key.clone(), number: pointer.next };
        let folder = self.generation_folder(&reference);
        // What a crash may have left there was never published.
        self.to_trash(&folder)?;
        fs::rename(&staged.folder, &folder).map_err(io_failed("place", &folder))?;
        for folder in [lineage.as_path(), &self.root.join("generations")] {
            sync_folder(folder).map_err(io_failed("sync", folder))?;
        }
        self.at(Step::Placed)?;
        pointer.current = Some(reference.number);
        pointer.next = reference.number + 1;
        self.write_pointer(&key, &pointer)?;
        self.at(Step::Swapped)?;
        self.touch_used(&reference);
        let _ = fs::remove_file(folder.join("owner"));
        self.retire(&key, lock)?;
        self.at(Step::Retired)?;
        Ok(reference)
    }

    /// Takes a staged generation back, and those of its layers that no manifest names.
    fn unstage(&self, staged: &Staged) -> Result<(), LayersError> {
        let lock = self.lock()?;
        if staged.folder.exists() {
            let lineage = &staged.manifest.lineage;
            for (_, name) in &staged.new {
                self.to_trash(&self.layer_path(lineage.project, lineage.tier, name))?;
            }
            self.to_trash(&staged.folder)?;
        } else {
            self.collect_layers(Some(staged.manifest.lineage.project), &lock)?;
        }
        Ok(())
    }

    /// Records the digests of new snapshots and of the private tree, by which `verify` finds a flipped byte. Jobs may
    /// already start from them. (A blob proves itself: its place carries its digest.)
    fn seal(
        &self,
        clone: &Clone,
        generation: &GenerationRef,
        new: &[(NewLayer, LayerName)],
    ) -> Result<(), LayersError> {
        let (project, tier) = (clone.lineage.project, clone.lineage.tier);
        make_dir(&self.root.join("sums").join(project.to_string()).join(tier.as_str()))?;
        for (_, name) in new.iter().filter(|(layer, _)| layer.kind == LayerKind::Snapshot) {
            match self.digest_layer(project, tier, name, LayerKind::Snapshot) {
                Ok(sum) => write_sum(&self.sum_path(project, tier, name), &sum)?,
                // Dropped meanwhile.
                Err(_) if !self.layer_path(project, tier, name).exists() => {}
                Err(error) => return Err(error),
            }
        }
        let folder = self.generation_folder(generation);
        match self.digest_private(generation) {
            Ok(sum) if folder.exists() => write_sum(&folder.join("sum"), &sum),
            Err(error) if folder.exists() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn digest_private(&self, generation: &GenerationRef) -> Result<String, LayersError> {
        let tree = Tree::open(&self.generation_folder(generation).join("tree"))?;
        Ok(untrusted_tree::digest_tree(&tree, &layout::ANY)?)
    }

    pub(crate) fn digest_layer(
        &self,
        project: slipway_spec::ids::ProjectId,
        tier: Tier,
        name: &LayerName,
        kind: LayerKind,
    ) -> Result<String, LayersError> {
        let folder = Tree::open(&self.tier_folder(project, tier))?;
        Ok(match kind {
            LayerKind::Blob => untrusted_tree::digest_file(&folder, OsStr::new(name.as_str()))?,
            LayerKind::Snapshot => {
                let tree = folder.dir(Path::new(name.as_str()))?.ok_or_else(|| gone(Path::new(name.as_str())))?;
                untrusted_tree::digest_tree(&tree, &layout::ANY)?
            }
        })
    }
}

/// Not synced: a lost sum is made again by `verify`, a torn one is found by its length.
fn write_sum(path: &Path, sum: &str) -> Result<(), LayersError> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, sum).and_then(|()| fs::rename(&temporary, path)).map_err(io_failed("write", path))
}

fn gone(path: &Path) -> LayersError {
    LayersError::Record { path: path.to_owned(), why: "is gone".to_owned() }
}

impl Store {
    pub(crate) fn write_missing_sum(&self, path: &Path, sum: &str) -> Result<(), LayersError> {
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        write_record(path, sum.as_bytes())
    }
}
