//! What git knows of a work tree.
//!
//! It is read from the commit in the mirror, never from the job's own repository: by then the job has had it in its
//! hands, and an index, a configuration or an `alternates` file of its making is nothing to open on the node. So a
//! file that the job itself added to the index still counts as untracked.

use super::error::WorkspaceError;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;

/// Where to look it up; kept on disk with the job's phases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// Mirror and commit; `None` for a job without sources.
    commit: Option<(PathBuf, String)>,
}

impl Tracked {
    pub(super) fn commit(mirror: PathBuf, sha: String) -> Self {
        Tracked { commit: Some((mirror, sha)) }
    }

    /// The paths.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn paths(&self) -> Result<TrackedPaths, WorkspaceError> {
        let mut paths = TrackedPaths::default();
        let Some((mirror, sha)) = &self.commit else { return Ok(paths) };
        let failed = |what| WorkspaceError::libgit2(what, mirror);
        let repository = git2::Repository::open_bare(mirror).map_err(failed("open the mirror"))?;
        let id = super::mirror::commit_id(sha)?;
        let tree = repository.find_commit(id).and_then(|c| c.tree()).map_err(failed("read the commit in"))?;
        tree.walk(git2::TreeWalkMode::PreOrder, |root, entry| {
            let mut path = root.as_bytes().to_vec();
            path.extend_from_slice(entry.name_bytes());
            match entry.kind() {
                Some(git2::ObjectType::Blob) => {
                    paths.blobs.insert(path, entry.id());
                }
                Some(git2::ObjectType::Commit) => {
                    paths.modules.insert(path);
                }
                _ => {}
            }
            git2::TreeWalkResult::Ok
        })
        .map_err(failed("read the tree in"))?;
        Ok(paths)
    }
}

/// The files of a commit.
#[derive(Clone, Debug, Default)]
pub struct TrackedPaths {
    blobs: std::collections::HashMap<Vec<u8>, git2::Oid>,
    modules: HashSet<Vec<u8>>,
}

impl TrackedPaths {
    /// Whether git knows `path` (relative to the work tree). Everything in a submodule is the submodule's business and
    /// counts as known, as with `git ls-files --others`; so does git's own folder.
    #[must_use]
    pub fn knows(&self, path: &[u8]) -> bool {
        self.blobs.contains_key(path)
            || path == b".git"
            || path.starts_with(b".git/")
            || (!self.modules.is_empty()
                && (0..=path.len())
                    .filter(|at| *at == path.len() || path[*at] == b'/')
                    .any(|at| self.modules.contains(&path[..at])))
    }

    /// The id of a file's content at the commit, for `cache:key:files`.
    #[must_use]
    pub fn blob(&self, path: &[u8]) -> Option<String> {
        self.blobs.get(path).map(git2::Oid::to_string)
    }

    /// All files and their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], String)> {
        self.blobs.iter().map(|(path, id)| (path.as_slice(), id.to_string()))
    }

    /// A set for tests and for callers that know the paths from elsewhere.
    pub fn from_paths<P: Into<Vec<u8>>>(paths: impl IntoIterator<Item = P>) -> Self {
        let zero = git2::Oid::ZERO_SHA1;
        TrackedPaths { blobs: paths.into_iter().map(|path| (path.into(), zero)).collect(), modules: HashSet::new() }
    }
}
