//! The folder: open, sweep, list, and the one lock.
//!
//! ```text
//! FORMAT                                    version stamp
//! budget.json                               how much it may use
//! LOCK                                      held for the short moments in which names change
//! layers/<project>/<tier>/<layer>           immutable
//! links/<project>/<tier>/<layer>            a symlink to it as engines see it; clones share its inode
//! sums/<project>/<tier>/<layer>             SHA-256 of a layer, hex
//! generations/<lineage>/<n>/manifest.json   and tree/ (private files), sum (digest of tree/), used (its date: last use)
//! generations/<lineage>/current             the pointer
//! engines/<engine>/clone.json               a live clone: pins what it names; data/ is the engine's
//! staging/<random>/                         a promotion under way; its process holds a lock on `owner`
//! trash/<random>                            to be deleted
//! ```

use super::budget::{Budget, Promised, Space};
use super::fault::{Faults, Step};
use super::lineage::{GenerationRef, Lineage, LineageKey, hex};
use super::manifest::{CloneRecord, FORMAT, LayerEntry, LayerName, Manifest, Pointer, RECORD_MAX};
use super::succession::Standing;
use super::untrusted_tree::{Tree, TreeError};
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slipway_spec::ids::{PipelineId, ProjectId};
use slipway_spec::job::Tier;
use slipway_spec::view::GenerationView;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The disk said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A tree could not be walked, copied or removed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A newer version of this program wrote the store.
    #[error(
        "the layer store in {} has format {found}, this program knows up to {FORMAT}: upgrade it, or give it another \
         cache folder",
        root.display()
    )]
    NewerFormat {
        /// The store.
        root: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder holds something else.
    #[error("{} is not empty and not a layer store (it has no FORMAT file): give an empty folder", root.display())]
    NotAStore {
        /// The folder.
        root: PathBuf,
    },
    /// A record of ours cannot be read.
    #[error("{}: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An engine's name that cannot be a folder's.
    #[error("{0:?} cannot be an engine's name: lower-case letters, digits and hyphens, at most 64")]
    EngineName(String),
    /// An engine of that name is live.
    #[error("engine {0} exists already")]
    EngineExists(String),
    /// No lineage of that name, or more than one.
    #[error("{0}")]
    NoSuch(String),
    /// A live engine needs it.
    #[error("{0} is in use by engine {1}")]
    InUse(GenerationRef, String),
    /// The system has no randomness.
    #[error("cannot mint a name: {0}")]
    Random(#[from] getrandom::Error),
}

pub(crate) fn io_failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayersError {
    let path = path.to_owned();
    move |source| LayersError::Io { doing, path, source }
}

/// The budget of whoever opened the store last, for [`Store::open_existing`].
const BUDGET: &str = "budget.json";

type SpaceSource = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

/// The layer store of one node.
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) budget: Budget,
    pub(crate) faults: Faults,
    pub(crate) space: Arc<SpaceSource>,
    pub(crate) promised: Promised,
    finishing: Arc<(Mutex<Vec<FinishingKey>>, Condvar)>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// Holds the store's lock.
pub(crate) struct StoreLock {
    _file: File,
}

/// All of a lineage.
#[derive(Clone, Debug)]
pub(crate) struct LineageState {
    pub key: LineageKey,
    pub pointer: Pointer,
    /// Published generations that can be read.
    pub generations: BTreeMap<u64, Manifest>,
}

impl LineageState {
    pub(crate) fn reference(&self, number: u64) -> GenerationRef {
        GenerationRef { lineage: self.key.clone(), number }
    }

    /// The generation that clones start from.
    pub(crate) fn current(&self) -> Option<(u64, &Manifest)> {
        let number = self.pointer.current?;
        self.generations.get(&number).map(|m| (number, m))
    }

    pub(crate) fn history(&self) -> BTreeMap<u64, Standing> {
        let standing = |m: &Manifest| Standing {
            parent: m.parent.as_ref().filter(|p| p.lineage == self.key).map(|p| p.number),
            build_seconds: m.build_seconds,
        };
        self.generations.iter().map(|(n, m)| (*n, standing(m))).collect()
    }
}

type FinishingKey = (ProjectId, Tier, PipelineId);

/// A job has said `finished` and its engine is being stopped and promoted; later jobs of its pipeline may wait for it.
#[derive(Debug)]
#[must_use]
pub struct Finishing {
    key: FinishingKey,
    all: Arc<(Mutex<Vec<FinishingKey>>, Condvar)>,
}

impl Drop for Finishing {
    fn drop(&mut self) {
        let mut keys = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = keys.iter().position(|k| *k == self.key) {
            keys.swap_remove(at);
        }
        self.all.1.notify_all();
    }
}

impl Store {
    /// Opens the store in `root`, making it when the folder is missing or empty, and sweeps what a crash left: staging
    /// folders without a process, generations never published, layers nobody names, trash. Live clones stay; see
    /// [`Store::sweep_engines`].
    ///
    /// # Errors
    /// The folder cannot be used, is something else, or was written by a newer version.
    pub fn open(root: &Path, budget: Budget) -> Result<Store, LayersError> {
        Store::open_with(root, budget, Faults::none(), statvfs)
    }

    /// [`Store::open`] with what is interrupted, and what the disk is said to have, chosen by a test.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        root: &Path,
        budget: Budget,
        faults: Faults,
        space: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) -> Result<Store, LayersError> {
        // Layers hold set-user-id files a job has made: nobody but us may reach them by a path of the host.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io_failed("make", root))?;
        let store = Store {
            root: root.to_owned(),
            budget,
            faults,
            space: Arc::new(space),
            promised: Promised::default(),
            finishing: Arc::default(),
        };
        let lock_exists = store.root.join("LOCK").exists();
        let stamp = store.root.join("FORMAT");
        if !stamp.exists() && !lock_exists {
            // A filesystem made for the store has a `lost+found`.
            if names_in(root)?.iter().any(|name| name != "lost+found") {
                return Err(LayersError::NotAStore { root: root.to_owned() });
            }
        }
        let lock = store.lock()?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(io_failed("close", root))?;
        store.check_format(&stamp)?;
        for folder in ["layers", "links", "sums", "generations", "engines", "staging", "trash"] {
            make_dir(&store.root.join(folder))?;
        }
        let known = read_record::<Budget>(&root.join(BUDGET)).unwrap_or_default();
        if known.as_ref() != Some(&store.budget) {
            write_json(&root.join(BUDGET), &store.budget)?;
        }
        store.sweep(&lock)?;
        drop(lock);
        store.empty_trash();
        Ok(store)
    }

    /// Opens a store that a runner made, within the budget that runner gave it; for people at a terminal, while the
    /// runner goes on.
    ///
    /// # Errors
    /// There is no store in that folder, or as [`Store::open`].
    pub fn open_existing(root: &Path) -> Result<Store, LayersError> {
        if !root.join("FORMAT").exists() {
            let text = format!("{} holds no layer store (it has no FORMAT file)", root.display());
            return Err(LayersError::NoSuch(text));
        }
        let budget = read_record::<Budget>(&root.join(BUDGET))?.unwrap_or_default();
        Store::open(root, budget)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How much it may use.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes promised to running jobs.
    #[must_use]
    pub fn promised_bytes(&self) -> u64 {
        self.promised.bytes()
    }

    fn check_format(&self, stamp: &Path) -> Result<(), LayersError> {
        let found = match fs::read_to_string(stamp) {
            Ok(text) => {
                let version = text.trim().strip_prefix("slipway-layers ").and_then(|v| v.parse::<u32>().ok());
                version.ok_or_else(|| LayersError::Record {
                    path: stamp.to_owned(),
                    why: "is not a format stamp (expected \"slipway-layers N\")".to_owned(),
                })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(io_failed("read", stamp)(e)),
        };
        if found > FORMAT {
            return Err(LayersError::NewerFormat { root: self.root.clone(), found });
        }
        if found < FORMAT {
            // Nothing older can be read: start cold. (Format 0 is a store that was being made when we died.)
            make_dir(&self.root.join("trash"))?;
            for folder in ["layers", "links", "sums", "generations", "staging"] {
                self.to_trash(&self.root.join(folder))?;
            }
            if found > 0 {
                tracing::warn!(found, known = FORMAT, "layer store is of an older format: starting cold");
            }
            write_record(stamp, format!("slipway-layers {FORMAT}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Takes the lock, across threads and processes. Held for milliseconds by all who hold it.
    pub(crate) fn lock(&self) -> Result<StoreLock, LayersError> {
        let path = self.root.join("LOCK");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_failed("open", &path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(StoreLock { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io_failed("lock", &path)(errno.into())),
            }
        }
    }

    pub(crate) fn at(&self, step: Step) -> Result<(), LayersError> {
        self.faults.at(step).map_err(io_failed("go on in", &self.root))
    }

    pub(crate) fn tier_folder(&self, project: ProjectId, tier: Tier) -> PathBuf {
        self.root.join("layers").join(project.to_string()).join(tier.as_str())
    }

    pub(crate) fn layer_path(&self, project: ProjectId, tier: Tier, name: &LayerName) -> PathBuf {
        self.tier_folder(project, tier).join(name.as_str())
    }

    pub(crate) fn sum_path(&self, project: ProjectId, tier: Tier, name: &LayerName) -> PathBuf {
        self.root.join("sums").join(project.to_string()).join(tier.as_str()).join(name.as_str())
    }

    /// A link to each layer, as engines that see one tier have them.
    pub(crate) fn links_folder(&self, project: ProjectId, tier: Tier) -> PathBuf {
        self.root.join("links").join(project.to_string()).join(tier.as_str())
    }

    pub(crate) fn lineage_folder(&self, key: &LineageKey) -> PathBuf {
        self.root.join("generations").join(key.as_str())
    }

    pub(crate) fn generation_folder(&self, reference: &GenerationRef) -> PathBuf {
        self.lineage_folder(&reference.lineage).join(reference.number.to_string())
    }

    pub(crate) fn engine_folder(&self, engine: &str) -> PathBuf {
        self.root.join("engines").join(engine)
    }

    /// A lineage's pointer and generations; `None` when it has no pointer.
    pub(crate) fn lineage(&self, key: &LineageKey) -> Result<Option<LineageState>, LayersError> {
        let folder = self.lineage_folder(key);
        let pointer = match read_record::<Pointer>(&folder.join("current")) {
            Ok(Some(pointer)) => pointer,
            Ok(None) => return Ok(None),
            Err(error @ LayersError::Record { .. }) => {
                tracing::warn!(lineage = %key, %error, "a lineage's pointer cannot be read: it starts cold");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut generations = BTreeMap::new();
        for name in names_in(&folder)? {
            let Some(number) = number(&name).filter(|n| *n < pointer.next) else { continue };
            match read_record::<Manifest>(&folder.join(&name).join("manifest.json")) {
                Ok(Some(manifest)) if manifest.format <= FORMAT => {
                    generations.insert(number, manifest);
                }
                Ok(Some(_)) => {}
                Ok(None) => tracing::warn!(lineage = %key, number, "generation has no manifest: ignored"),
                Err(error) => tracing::warn!(lineage = %key, number, %error, "generation cannot be read: ignored"),
            }
        }
        Ok(Some(LineageState { key: key.clone(), pointer, generations }))
    }

    /// The generation that clones of a lineage start from, without reading the others; `None` when there is none, or when
    /// it cannot be read.
    pub(crate) fn current(&self, key: &LineageKey) -> Result<Option<(u64, Manifest)>, LayersError> {
        let folder = self.lineage_folder(key);
        let Ok(Some(pointer)) = read_record::<Pointer>(&folder.join("current")) else { return Ok(None) };
        let Some(number) = pointer.current.filter(|n| *n < pointer.next) else { return Ok(None) };
        let manifest = read_record::<Manifest>(&folder.join(number.to_string()).join("manifest.json"));
        Ok(manifest.ok().flatten().filter(|m| m.format <= FORMAT).map(|m| (number, m)))
    }

    /// Every lineage that can be read.
    pub(crate) fn lineages(&self) -> Result<Vec<LineageState>, LayersError> {
        self.lineages_of(None)
    }

    /// Every lineage of a project, or of all, that can be read. Layers never cross projects, so that what holds the lock
    /// reads one project's records.
    pub(crate) fn lineages_of(&self, project: Option<ProjectId>) -> Result<Vec<LineageState>, LayersError> {
        let begin = project.map_or(String::new(), Lineage::key_begins);
        let mut all = Vec::new();
        for name in names_in(&self.root.join("generations"))? {
            let Some(key) = LineageKey::parse(&name).filter(|k| k.as_str().starts_with(&begin)) else { continue };
            match self.lineage(&key) {
                Ok(Some(state)) => all.push(state),
                Ok(None) => {}
                Err(error) => tracing::warn!(lineage = %key, %error, "lineage cannot be read: ignored"),
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Points the lineage elsewhere. Durable when it returns.
    pub(crate) fn write_pointer(&self, key: &LineageKey, pointer: &Pointer) -> Result<(), LayersError> {
        write_json(&self.lineage_folder(key).join("current"), pointer)
    }

    /// When a generation was last used: its `used` file's date.
    pub(crate) fn last_used(&self, reference: &GenerationRef) -> Option<jiff::Timestamp> {
        let time = fs::metadata(self.generation_folder(reference).join("used")).and_then(|m| m.modified()).ok()?;
        jiff::Timestamp::try_from(time).ok()
    }

    pub(crate) fn touch_used(&self, reference: &GenerationRef) {
        let path = self.generation_folder(reference).join("used");
        // Only the order of eviction hangs on it.
        if let Err(error) = File::create(&path).and_then(|mut f| f.write_all(b"\n")) {
            tracing::debug!(%error, path = %path.display(), "cannot note that a generation was used");
        }
    }

    /// Moves a file or folder to the trash, if it is there: instantly and atomically gone from where it was.
    pub(crate) fn to_trash(&self, path: &Path) -> Result<(), LayersError> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random)?;
        match fs::rename(path, self.root.join("trash").join(hex(&random))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_failed("trash", path)(e)),
            _ => Ok(()),
        }
    }

    /// Deletes what is in the trash. What cannot be deleted stays and is logged.
    pub(crate) fn empty_trash(&self) {
        let path = self.root.join("trash");
        let emptied = Tree::open(&path).map_err(LayersError::from).and_then(|trash| {
            for name in names_in(&path)? {
                super::untrusted_tree::remove(&trash, name.as_ref())?;
            }
            Ok(())
        });
        if let Err(error) = emptied {
            tracing::warn!(%error, "the layer store's trash cannot be emptied");
        }
    }

    /// Says that a job's engine is about to be stopped and promoted, until the guard is dropped.
    pub fn finishing(&self, project: ProjectId, tier: Tier, pipeline: PipelineId) -> Finishing {
        let key = (project, tier, pipeline);
        self.finishing.0.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        Finishing { key, all: self.finishing.clone() }
    }

    /// Waits, at most `max`, until no engine of that pipeline and tier is about to be promoted; says how long it took.
    /// The design's `max` is 3 s: a later job of a pipeline finds what an earlier one built.
    pub fn await_finishing(&self, project: ProjectId, tier: Tier, pipeline: PipelineId, max: Duration) -> Duration {
        let started = Instant::now();
        let key = (project, tier, pipeline);
        let keys = self.finishing.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _waited = self.finishing.1.wait_timeout_while(keys, max, |keys| keys.contains(&key));
        started.elapsed()
    }

    /// Every generation that a job may start from, for placement.
    ///
    /// # Errors
    /// The store's folder cannot be read.
    pub fn generations(&self) -> Result<Vec<GenerationView>, LayersError> {
        let view = |state: &LineageState| {
            let (number, manifest) = state.current()?;
            Some(GenerationView {
                project: manifest.lineage.project.0,
                job: manifest.lineage.job.clone(),
                tier: manifest.lineage.tier,
                number,
                build_seconds: manifest.total_build_seconds,
                bytes: manifest.bytes(),
            })
        };
        Ok(self.lineages()?.iter().filter_map(view).collect())
    }

    /// Every lineage and generation, for people; sizes as [`Store::bytes`] counts them.
    ///
    /// # Errors
    /// The store's folder cannot be read.
    pub fn list(&self) -> Result<Listing, LayersError> {
        let states = self.lineages()?;
        let pins = self.pins()?;
        let mut users: BTreeMap<&LayerName, BTreeSet<GenerationRef>> = BTreeMap::new();
        for state in &states {
            for (number, manifest) in &state.generations {
                for layer in &manifest.layers {
                    users.entry(&layer.name).or_default().insert(state.reference(*number));
                }
            }
        }
        let mut total = BTreeMap::new();
        let mut lineages = Vec::new();
        for state in &states {
            let mut generations = Vec::new();
            for (number, manifest) in &state.generations {
                let reference = state.reference(*number);
                let mut alone = BTreeMap::new();
                for layer in &manifest.layers {
                    total.insert(&layer.name, layer.bytes);
                    if users.get(&layer.name).is_some_and(|u| u.len() == 1) {
                        alone.insert(&layer.name, layer.bytes);
                    }
                }
                generations.push(GenerationLine {
                    number: *number,
                    current: state.pointer.current == Some(*number),
                    in_use_by: pins.iter().filter(|p| p.generation.as_ref() == Some(&reference)).count(),
                    parent: manifest.parent.clone(),
                    job: manifest.job.0,
                    pipeline: manifest.pipeline.0,
                    commit: manifest.commit.clone(),
                    made_at: manifest.made_at,
                    used_at: self.last_used(&reference),
                    build_seconds: manifest.build_seconds,
                    total_build_seconds: manifest.total_build_seconds,
                    layers: manifest.layers.len(),
                    bytes: manifest.bytes(),
                    bytes_of_its_own: alone.values().sum::<u64>() + manifest.private_bytes,
                });
            }
            lineages.push(LineageLine {
                lineage: state.key.clone(),
                project: state.pointer.lineage.project.0,
                job: state.pointer.lineage.job.clone(),
                tier: state.pointer.lineage.tier,
                condemned: state.pointer.condemned,
                generations,
            });
        }
        let private: u64 = states.iter().flat_map(|s| s.generations.values()).map(|m| m.private_bytes).sum();
        Ok(Listing {
            lineages,
            bytes: total.values().sum::<u64>() + private,
            budget_bytes: self.budget.cache_max_bytes,
        })
    }

    /// Bytes on disk of all layers and generations; what is shared counts once.
    ///
    /// # Errors
    /// The store's folder cannot be read.
    pub fn bytes(&self) -> Result<u64, LayersError> {
        let mut layers = BTreeMap::new();
        let mut private = 0;
        for state in self.lineages()? {
            for manifest in state.generations.values() {
                private += manifest.private_bytes;
                layers.extend(manifest.layers.iter().map(|l| (l.name.clone(), l.bytes)));
            }
        }
        Ok(layers.values().sum::<u64>() + private)
    }

    /// The layers of a generation, as an engine of `record` sees them: link target to entry.
    pub(crate) fn links(record: &CloneRecord) -> BTreeMap<String, LayerEntry> {
        let target = |l: &LayerEntry| link_target(&l.name, record.read_protected.then_some(l.tier));
        record.layers.iter().map(|l| (target(l), l.clone())).collect()
    }

    /// Whether an engine of this lineage has both tiers mounted, and links name the tier.
    pub(crate) fn sees_both(lineage: &Lineage, read_protected: bool) -> bool {
        read_protected && lineage.tier == Tier::Unprotected
    }
}

/// Where a link to a layer points inside the engine; its tier is in it where the engine sees both.
pub(crate) fn link_target(name: &LayerName, tier: Option<Tier>) -> String {
    match tier {
        Some(tier) => format!("{}/{tier}/{name}", super::MOUNT),
        None => format!("{}/{name}", super::MOUNT),
    }
}

/// What `slipway cache ls` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listing {
    /// By name.
    pub lineages: Vec<LineageLine>,
    /// All of it on disk; what is shared counts once.
    pub bytes: u64,
    /// What it may take.
    pub budget_bytes: u64,
}

/// A lineage, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LineageLine {
    /// Its name.
    pub lineage: LineageKey,
    /// The project's number.
    pub project: u64,
    /// The job's name.
    pub job: String,
    /// Its tier.
    pub tier: Tier,
    /// How many of its generations engines would not start from.
    pub condemned: u64,
    /// Oldest first.
    pub generations: Vec<GenerationLine>,
}

/// A generation, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationLine {
    /// Its number.
    pub number: u64,
    /// Whether jobs start from it.
    pub current: bool,
    /// Live engines that started from it.
    pub in_use_by: usize,
    /// What it was made from.
    pub parent: Option<GenerationRef>,
    /// The job that made it.
    pub job: u64,
    /// That job's pipeline.
    pub pipeline: u64,
    /// That job's commit.
    pub commit: String,
    /// When.
    pub made_at: jiff::Timestamp,
    /// When a job last started from it.
    pub used_at: Option<jiff::Timestamp>,
    /// Seconds its own layers took to build.
    pub build_seconds: f64,
    /// Seconds all its layers took.
    pub total_build_seconds: f64,
    /// How many layers it names.
    pub layers: usize,
    /// Bytes of all it needs.
    pub bytes: u64,
    /// Bytes no other generation needs.
    pub bytes_of_its_own: u64,
}

/// What the filesystem of `path` has for us.
///
/// # Errors
/// `statvfs(3)`'s.
pub fn statvfs(path: &Path) -> io::Result<Space> {
    let v = rustix::fs::statvfs(path)?;
    Ok(Space { free_bytes: v.f_bavail * v.f_frsize, total_bytes: v.f_blocks * v.f_frsize })
}

/// A number as a folder's name, in its one spelling.
pub(crate) fn number(name: &str) -> Option<u64> {
    name.parse::<u64>().ok().filter(|n| n.to_string() == name)
}

/// Names in a folder of ours, sorted; none when it is missing.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>, LayersError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_failed("read", folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_failed("read", folder))?;
        // Ours are ASCII; what is not is not ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn make_dir(path: &Path) -> Result<(), LayersError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_failed("make", path)(e)),
        _ => Ok(()),
    }
}

/// Reads a record of ours; `None` when it is missing.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LayersError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_failed("open", path)(e)),
    };
    let mut text = Vec::new();
    file.take(RECORD_MAX + 1).read_to_end(&mut text).map_err(io_failed("read", path))?;
    if text.len() as u64 > RECORD_MAX {
        let why = format!("is larger than {RECORD_MAX} bytes");
        return Err(LayersError::Record { path: path.to_owned(), why });
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|e| LayersError::Record { path: path.to_owned(), why: format!("cannot be read: {e}") })
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), LayersError> {
    let text = serde_json::to_vec(value)
        .map_err(|e| LayersError::Record { path: path.to_owned(), why: format!("cannot be written: {e}") })?;
    write_record(path, &text)
}

/// Replaces a record: whole and durable, or not at all.
pub(crate) fn write_record(path: &Path, bytes: &[u8]) -> Result<(), LayersError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
    };
    write().map_err(io_failed("write", path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
