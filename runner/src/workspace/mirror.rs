//! Mirrors: one bare repository a project, that every job of the project fetches into and makes its work tree from.

use super::WorkspaceError;
use super::git::{Call, write_config};
use super::url::Remote;
use sha2::{Digest, Sha256};
use slipway_spec::ids::ProjectId;
use slipway_spec::job::Source;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The stamp of the folder's format.
const FORMAT: &str = "1";

/// A fetch with patterns (`refs/heads/*`) is not repeated for a commit that is there already when the last one is
/// younger than this: a burst of jobs of one push needs one fetch.
const FRESH: Duration = Duration::from_secs(5);

/// More packs than this are joined after a fetch: every lookup asks each of them.
const PACKS_MAX: usize = 40;

/// References under `refs/pipelines/` beyond these are dropped, oldest first: GitLab makes one a pipeline.
const PIPELINE_REFS_MAX: usize = 256;

/// The mirrors of a node, under `<cache root>/mirrors`.
#[derive(Clone, Debug)]
pub struct Mirrors {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    config: PathBuf,
    /// One slot a mirror folder; its lock is held during a fetch, so jobs that want the same wait for one.
    slots: Mutex<HashMap<PathBuf, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// When the last successful fetch of these refspecs from this address began.
    fetched: tokio::sync::Mutex<HashMap<String, Instant>>,
}

impl Mirrors {
    /// The mirrors under `cache_root`.
    ///
    /// # Errors
    /// The folder cannot be made, or was made by a newer version.
    pub fn open(cache_root: &Path) -> Result<Self, WorkspaceError> {
        let root = cache_root.join("mirrors");
        std::fs::create_dir_all(&root).map_err(WorkspaceError::io("make", &root))?;
        let stamp = root.join("FORMAT");
        match std::fs::read_to_string(&stamp) {
            Ok(found) if found.trim() == FORMAT => {}
            Ok(found) => return Err(WorkspaceError::Format { path: stamp, found, known: FORMAT }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::write(&stamp, FORMAT).map_err(WorkspaceError::io("write", &stamp))?;
            }
            Err(error) => return Err(WorkspaceError::io("read", &stamp)(error)),
        }
        let config = write_config(&root)?;
        Ok(Mirrors { shared: Arc::new(Shared { root, config, slots: Mutex::default() }) })
    }

    /// Settings for the command git.
    pub(super) fn config(&self) -> &Path {
        &self.shared.config
    }

    /// The project's mirror, with the commit and the references of `source` in it.
    pub(super) async fn fetched(
        &self,
        project: ProjectId,
        remote: &Remote,
        source: &Source,
        cancel: &CancellationToken,
    ) -> Result<PathBuf, WorkspaceError> {
        let refs = Refs::of(source);
        self.ensure(&self.shared.root.join(project.to_string()).join("repo.git"), remote, source, &refs, cancel).await
    }

    /// The mirror of a submodule of the project, with `commit` in it.
    pub(super) async fn fetched_submodule(
        &self,
        project: ProjectId,
        remote: &Remote,
        source: &Source,
        cancel: &CancellationToken,
    ) -> Result<PathBuf, WorkspaceError> {
        let digest = Sha256::digest(remote.shown().as_bytes());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let folder = self.shared.root.join(project.to_string()).join("modules").join(format!("{name}.git"));
        self.ensure(&folder, remote, source, &Refs::of(source), cancel).await
    }

    async fn ensure(
        &self,
        folder: &Path,
        remote: &Remote,
        source: &Source,
        refs: &Refs,
        cancel: &CancellationToken,
    ) -> Result<PathBuf, WorkspaceError> {
        let commit = commit_id(&source.sha)?;
        for refspec in &source.refspecs {
            // After `--` git cannot take it for an option; this is for what it would otherwise take for an address.
            if refspec.starts_with('-') || refspec.contains(char::is_whitespace) {
                return Err(WorkspaceError::Refspec(refspec.chars().take(200).collect()));
            }
        }
        let asked = Instant::now();
        let slot = {
            let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(folder.to_owned()).or_default().clone()
        };
        // A job whose commit is there needs nothing from the server unless its refspecs are patterns; it does not
        // wait for another's fetch either.
        if !refs.has_patterns() && holds(folder, commit) {
            return Ok(folder.to_owned());
        }
        let mut fetched = tokio::select! {
            guard = slot.fetched.lock() => guard,
            () = cancel.cancelled() => return Err(WorkspaceError::Canceled),
        };
        let key = format!("{} {}", remote.shown(), refs.specs().join(" "));
        let fresh = fetched.get(&key).is_some_and(|began| *began >= asked || began.elapsed() < FRESH);
        if holds(folder, commit) && (fresh || !refs.has_patterns()) {
            return Ok(folder.to_owned());
        }
        let _lock = disk_lock(folder, cancel).await?;
        let began = Instant::now();
        init(folder)?;
        let call = Call { verb: "fetch", folder, remote, config: &self.shared.config };
        let mut arguments: Vec<&str> = vec![
            "fetch",
            "--quiet",
            "--prune",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--update-shallow",
            "--no-auto-maintenance",
            "--",
        ];
        let url = remote.shown();
        arguments.push(&url);
        let head = arguments.len();
        arguments.extend(refs.specs().iter().map(String::as_str));
        let first = call.run(&arguments, cancel).await;
        if let Err(WorkspaceError::Canceled | WorkspaceError::NoGit(_)) = first {
            return first.map(|()| folder.to_owned());
        }
        if !holds(folder, commit) {
            // The ref moved on, or is gone. The server may still have the commit.
            let exact = format!("+{}:refs/slipway/commits/{}", source.sha, source.sha);
            arguments.truncate(head);
            arguments.retain(|argument| *argument != "--prune");
            arguments.push(&exact);
            let second = call.run(&arguments, cancel).await;
            if !holds(folder, commit) {
                return Err(missing(first, second, &source.sha, remote));
            }
        } else {
            // A ref that could not be updated is no reason to fail a job whose commit is there; all of it missing is.
            if let Err(error) = first {
                tracing::warn!(mirror = %folder.display(), %error, "the fetch was not complete");
            }
        }
        fetched.retain(|_, began| began.elapsed() < Duration::from_secs(600));
        fetched.insert(key, began);
        tidy(&call, cancel).await;
        Ok(folder.to_owned())
    }
}

/// Why a commit is not there: whatever kept us from the server, else that the server does not have it.
fn missing(
    first: Result<(), WorkspaceError>,
    second: Result<(), WorkspaceError>,
    sha: &str,
    remote: &Remote,
) -> WorkspaceError {
    let gone = |detail: &str| {
        ["not our ref", "couldn't find remote ref", "no such remote ref", "unadvertised object"]
            .iter()
            .any(|words| detail.to_ascii_lowercase().contains(words))
    };
    match (first, second) {
        (_, Err(WorkspaceError::Canceled)) => WorkspaceError::Canceled,
        (Err(WorkspaceError::Git { verb, url, detail }), Err(_)) if !gone(&detail) => {
            WorkspaceError::Git { verb, url, detail }
        }
        (_, second) => WorkspaceError::MissingCommit {
            sha: sha.to_owned(),
            url: remote.shown(),
            detail: second.err().map(|error| error.to_string()).unwrap_or_default(),
        },
    }
}

/// Reads a commit's id.
pub(super) fn commit_id(sha: &str) -> Result<git2::Oid, WorkspaceError> {
    let hex = sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit());
    let id = if hex { git2::Oid::from_str(sha).ok() } else { None };
    id.ok_or_else(|| WorkspaceError::CommitId(sha.chars().take(80).collect()))
}

/// Whether the mirror has the commit and the tree it names. What those refer to came with them: git refuses a pack
/// with holes.
fn holds(folder: &Path, commit: git2::Oid) -> bool {
    git2::Repository::open_bare(folder)
        .and_then(|mirror| mirror.find_commit(commit).and_then(|commit| commit.tree().map(|_| ())))
        .is_ok()
}

fn init(folder: &Path) -> Result<(), WorkspaceError> {
    if folder.join("HEAD").exists() {
        return Ok(());
    }
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).external_template(false).mkpath(true).initial_head("slipway");
    git2::Repository::init_opts(folder, &options).map_err(WorkspaceError::libgit2("make the mirror", folder))?;
    Ok(())
}

/// Keeps other runner processes off a mirror while this one fetches into it.
async fn disk_lock(folder: &Path, cancel: &CancellationToken) -> Result<File, WorkspaceError> {
    let parent = folder.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).map_err(WorkspaceError::io("make", parent))?;
    let path = folder.with_extension("lock");
    let lock = File::create(&path).map_err(WorkspaceError::io("make", &path))?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {}
        Err(std::fs::TryLockError::Error(error)) => return Err(WorkspaceError::io("lock", &path)(error)),
    }
    // Only another process can hold it: this one has the slot.
    let waiting = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    tokio::select! {
        locked = waiting => locked.map_err(WorkspaceError::Thread)?.map_err(WorkspaceError::io("lock", &path)),
        () = cancel.cancelled() => Err(WorkspaceError::Canceled),
    }
}

/// Keeps lookups fast. A failure is no job's business.
async fn tidy(call: &Call<'_>, cancel: &CancellationToken) {
    let packs = std::fs::read_dir(call.folder.join("objects/pack"))
        .map(|entries| entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "pack")).count())
        .unwrap_or(0);
    if packs > PACKS_MAX {
        // Joins small packs, keeps every object: a work tree that borrows them finds them in the new pack.
        let joined = call.run(&["repack", "-q", "-d", "--geometric=2"], cancel).await;
        if let Err(error) = joined {
            tracing::warn!(mirror = %call.folder.display(), %error, "cannot join packs");
        }
    }
    if let Err(error) = drop_old_pipeline_refs(call.folder) {
        tracing::warn!(mirror = %call.folder.display(), %error, "cannot drop old refs of pipelines");
    }
}

fn drop_old_pipeline_refs(folder: &Path) -> Result<(), git2::Error> {
    let mirror = git2::Repository::open_bare(folder)?;
    let mut numbered = Vec::new();
    for reference in mirror.references_glob("refs/pipelines/*")?.flatten() {
        let number = reference.name().ok().and_then(|name| name.rsplit('/').next()?.parse::<u64>().ok());
        if let Some(number) = number {
            numbered.push((number, reference));
        }
    }
    numbered.sort_by_key(|(number, _)| *number);
    let over = numbered.len().saturating_sub(PIPELINE_REFS_MAX);
    for (_, reference) in numbered.iter_mut().take(over) {
        reference.delete()?;
    }
    Ok(())
}

/// The references that a job's repository gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refs {
    specs: Vec<String>,
    /// `refs/heads/main` or `refs/tags/v1`: what the job is for.
    own: String,
}

impl Refs {
    pub(super) fn of(source: &Source) -> Refs {
        let own = if source.is_tag {
            format!("refs/tags/{}", source.ref_name)
        } else {
            format!("refs/heads/{}", source.ref_name)
        };
        let specs = if source.refspecs.is_empty() { Refs::tags_and_heads().specs } else { source.refspecs.clone() };
        Refs { specs, own }
    }

    /// For a submodule, whose commit is no branch's.
    pub(super) fn tags_and_heads() -> Refs {
        Refs {
            specs: vec!["+refs/heads/*:refs/remotes/origin/*".to_owned(), "+refs/tags/*:refs/tags/*".to_owned()],
            own: String::new(),
        }
    }

    fn specs(&self) -> &[String] {
        &self.specs
    }

    fn has_patterns(&self) -> bool {
        self.specs.iter().any(|spec| spec.contains('*'))
    }

    /// Source and destination of a refspec.
    fn parts(spec: &str) -> Option<(&str, &str)> {
        let (from, to) = spec.trim_start_matches('+').split_once(':')?;
        (!to.is_empty()).then_some((from, to))
    }

    /// Whether the job's repository gets the mirror's reference `name`: destinations of its refspecs, and tags, which
    /// `git describe` needs.
    pub(super) fn wants(&self, name: &str) -> bool {
        name.starts_with("refs/tags/")
            || self.specs.iter().filter_map(|spec| Refs::parts(spec)).any(|(_, to)| match to.split_once('*') {
                Some((before, after)) => {
                    name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
                }
                None => name == to,
            })
    }

    /// Names that mean the job's own commit, whatever the mirror says they are by now.
    pub(super) fn own_names(&self) -> Vec<String> {
        let own = self.specs.iter().filter_map(|spec| Refs::parts(spec)).filter_map(|(from, to)| {
            match (from.split_once('*'), to.split_once('*')) {
                (None, None) => (from == self.own || from.starts_with("refs/pipelines/")).then(|| to.to_owned()),
                (Some((before, after)), Some((to_before, to_after))) => {
                    let middle = self.own.strip_prefix(before)?.strip_suffix(after)?;
                    Some(format!("{to_before}{middle}{to_after}"))
                }
                _ => None,
            }
        });
        own.filter(|name| git2::Reference::is_valid_name(name)).collect()
    }
}
