//! A job's work tree: a real repository, made from the mirror by libgit2 alone.

use super::error::WorkspaceError;
use super::mirror::Refs;
use super::settings::Objects;
use git2::{Oid, Repository};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// How often objects are copied anew when packs were joined in the middle of it.
const COPY_ATTEMPTS: usize = 4;

/// What is made.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub mirror: PathBuf,
    pub tree: PathBuf,
    /// `remote.origin.url`.
    pub origin: String,
    pub commit: Oid,
    pub refs: Refs,
    /// Commits of history; 0 for all.
    pub depth: u32,
    pub objects: Objects,
    pub checkout: bool,
}

/// What was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    /// Folders that it borrows objects from.
    pub mounts: Vec<PathBuf>,
    /// Some files are LFS pointers.
    pub lfs: bool,
}

/// Makes the work tree. Once begun it is not broken off in the middle (libgit2 cannot), but does not begin when the
/// job is cancelled before.
pub(super) async fn make(plan: Plan, cancel: &CancellationToken) -> Result<Made, WorkspaceError> {
    if cancel.is_cancelled() {
        return Err(WorkspaceError::Canceled);
    }
    tokio::task::spawn_blocking(move || plan.make()).await.map_err(WorkspaceError::Thread)?
}

/// An empty folder for strategies without sources.
pub(super) fn empty(tree: &Path) -> Result<(), WorkspaceError> {
    std::fs::create_dir_all(tree).map_err(WorkspaceError::io("make", tree))?;
    permit(tree, 0o777)
}

impl Plan {
    fn make(&self) -> Result<Made, WorkspaceError> {
        empty(&self.tree)?;
        let dot_git = self.tree.join(".git");
        for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
            let folder = dot_git.join(folder);
            std::fs::create_dir_all(&folder).map_err(WorkspaceError::io("make", &folder))?;
        }
        let write = |name: &str, text: &str| {
            let path = dot_git.join(name);
            std::fs::write(&path, text).map_err(WorkspaceError::io("write", &path))
        };
        write("config", &self.config())?;
        write("HEAD", &format!("{}\n", self.commit))?;
        let mirror =
            Repository::open_bare(&self.mirror).map_err(WorkspaceError::libgit2("open the mirror", &self.mirror))?;
        let failed = |what| WorkspaceError::libgit2(what, &self.mirror);
        write("packed-refs", &self.packed_refs(&mirror).map_err(failed("read references of"))?)?;
        let edge = shallow_edge(&mirror, self.commit, self.depth).map_err(failed("walk the history of"))?;
        // A mirror of a shallow repository ends where that one ends.
        let ends = std::fs::read_to_string(self.mirror.join("shallow")).unwrap_or_default();
        let mut shallow: Vec<String> = edge.iter().map(Oid::to_string).collect();
        shallow.extend(ends.lines().map(str::to_owned));
        shallow.sort();
        shallow.dedup();
        if !shallow.is_empty() {
            write("shallow", &format!("{}\n", shallow.join("\n")))?;
        }
        let mut made = Made::default();
        if self.copies()? {
            self.copy_objects(&dot_git.join("objects"))?;
        } else {
            let objects = self.mirror.join("objects");
            write("objects/info/alternates", &format!("{}\n", objects.display()))?;
            made.mounts.push(objects);
        }
        if self.checkout {
            made.lfs = self.check_out()?;
        }
        open_all(&self.tree)?;
        Ok(made)
    }

    /// `trustctime`: opening the tree to all users changes every file's ctime after the index was written.
    fn config(&self) -> String {
        let url = self.origin.replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\t\
             trustctime = false\n[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
        )
    }

    fn packed_refs(&self, mirror: &Repository) -> Result<String, git2::Error> {
        let mut refs: BTreeMap<String, Oid> = BTreeMap::new();
        for reference in mirror.references()?.flatten() {
            if let (Ok(name), Some(id)) = (reference.name(), reference.target())
                && self.refs.wants(name)
            {
                refs.insert(name.to_owned(), id);
            }
        }
        for name in self.refs.own_names() {
            // A tag that the mirror has may be annotated; a branch may have moved on since the pipeline was made.
            if !(name.starts_with("refs/tags/") && refs.contains_key(&name)) {
                refs.insert(name, self.commit);
            }
        }
        let mut text = "# pack-refs with: sorted \n".to_owned();
        for (name, id) in refs {
            let _ = writeln!(text, "{id} {name}");
        }
        Ok(text)
    }

    fn copies(&self) -> Result<bool, WorkspaceError> {
        Ok(match self.objects {
            Objects::Copy => true,
            Objects::Borrow => false,
            Objects::Auto => self.reflinks() || self.pack_bytes()? <= Objects::COPY_BYTES_MAX,
        })
    }

    /// Whether copying between mirror and tree shares blocks: one file system, of a kind that can.
    fn reflinks(&self) -> bool {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
        let (Ok(from), Ok(to)) = (statfs(&self.mirror), statfs(&self.tree)) else { return false };
        from.filesystem_id() == to.filesystem_id()
            && [BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&from.filesystem_type())
    }

    fn pack_bytes(&self) -> Result<u64, WorkspaceError> {
        let folder = self.mirror.join("objects/pack");
        let entries = std::fs::read_dir(&folder).map_err(WorkspaceError::io("read", &folder))?;
        Ok(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum())
    }

    /// Copies packs and loose objects; again when another job's fetch joined packs meanwhile.
    fn copy_objects(&self, to: &Path) -> Result<(), WorkspaceError> {
        let from = self.mirror.join("objects");
        let mut last = None;
        for _ in 0..COPY_ATTEMPTS {
            match copy_object_files(&from, to) {
                Ok(()) => {}
                Err((path, error)) if error.kind() == ErrorKind::NotFound => {
                    last = Some(WorkspaceError::io("copy", &path)(error));
                    continue;
                }
                Err((path, error)) => return Err(WorkspaceError::io("copy", &path)(error)),
            }
            let whole = Repository::open(&self.tree).and_then(|tree| {
                let commit = tree.find_commit(self.commit)?;
                commit.tree().map(|_| ())
            });
            match whole {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(WorkspaceError::libgit2("read", &self.tree)(error)),
            }
        }
        // At least one attempt was made.
        Err(last.unwrap_or(WorkspaceError::Canceled))
    }

    /// Writes the files and the index; whether some are LFS pointers.
    fn check_out(&self) -> Result<bool, WorkspaceError> {
        let failed = |what| WorkspaceError::libgit2(what, &self.tree);
        let repository = Repository::open(&self.tree).map_err(failed("open"))?;
        let commit = repository.find_commit(self.commit).map_err(failed("read the commit of"))?;
        let mut checkout = git2::build::CheckoutBuilder::new();
        checkout.force();
        repository.checkout_tree(commit.as_object(), Some(&mut checkout)).map_err(failed("check out"))?;
        let index = repository.index().map_err(failed("read the index of"))?;
        let lfs = index.iter().filter(|entry| entry.path.ends_with(b".gitattributes")).any(|entry| {
            repository
                .find_blob(entry.id)
                .is_ok_and(|blob| blob.content().windows(b"filter=lfs".len()).any(|window| window == b"filter=lfs"))
        });
        Ok(lfs)
    }
}

/// Copies what is not there yet. A pack goes before its index, so that nobody finds an index without its pack.
fn copy_object_files(from: &Path, to: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(from).map_err(|e| (from.to_owned(), e))?.flatten() {
        let name = folder.file_name();
        let loose = name.len() == 2 && name.to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_hexdigit()));
        if name != "pack" && !loose {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).map_err(|e| (folder.path(), e))?.flatten() {
            let path = file.path();
            let extension = path.extension().and_then(|x| x.to_str()).unwrap_or("");
            let wanted = if loose { extension.is_empty() } else { ["pack", "idx", "rev"].contains(&extension) };
            let temporary = file.file_name().to_str().is_none_or(|n| n.starts_with("tmp_") || n.starts_with('.'));
            if wanted && !temporary {
                files.push((extension != "pack", path, to.join(&name)));
            }
        }
    }
    files.sort();
    for (_, path, folder) in files {
        let target = folder.join(path.file_name().unwrap_or_default());
        if target.exists() {
            continue;
        }
        std::fs::create_dir_all(&folder).map_err(|e| (folder.clone(), e))?;
        std::fs::copy(&path, &target).map_err(|e| (path.clone(), e))?;
    }
    Ok(())
}

/// Commits whose parents a history of `depth` commits leaves out.
fn shallow_edge(mirror: &Repository, commit: Oid, depth: u32) -> Result<Vec<Oid>, git2::Error> {
    let mut edge = Vec::new();
    let mut seen = HashSet::from([commit]);
    let mut level = vec![commit];
    for at in 1..=depth {
        let mut next = Vec::new();
        for id in level {
            let commit = mirror.find_commit(id)?;
            if at == depth {
                if commit.parent_count() > 0 {
                    edge.push(id);
                }
                continue;
            }
            next.extend(
                commit.parent_ids().filter(|parent| mirror.find_commit(*parent).is_ok() && seen.insert(*parent)),
            );
        }
        level = next;
        if level.is_empty() {
            break;
        }
    }
    Ok(edge)
}

/// Lets every user of the container write: images run as they like, and GitLab's runner checks out with umask 0.
pub(super) async fn open_to_all(tree: PathBuf) -> Result<(), WorkspaceError> {
    tokio::task::spawn_blocking(move || open_all(&tree)).await.map_err(WorkspaceError::Thread)?
}

/// Only for trees that no container has seen yet: it follows paths by name.
fn open_all(tree: &Path) -> Result<(), WorkspaceError> {
    for entry in walkdir::WalkDir::new(tree).follow_links(false) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(tree).to_owned();
            WorkspaceError::io("walk", &path)(error.into())
        })?;
        let kind = entry.file_type();
        if kind.is_dir() {
            permit(entry.path(), 0o777)?;
        } else if kind.is_file() {
            let mode = entry.metadata().map_err(|e| WorkspaceError::io("look at", entry.path())(e.into()))?.mode();
            let open = if mode & 0o100 != 0 { 0o777 } else { 0o666 };
            // Objects are read-only by git's own custom.
            if mode & 0o777 != open && mode & 0o222 != 0 {
                permit(entry.path(), open)?;
            }
        }
    }
    Ok(())
}

fn permit(path: &Path, mode: u32) -> Result<(), WorkspaceError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(WorkspaceError::io("open to all", path))
}
