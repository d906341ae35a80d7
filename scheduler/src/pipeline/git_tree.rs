//! A commit of a git repository, as `include`, `changes` and `exists` ask of it.
//!
//! The one file here that is not pure: it reads a repository. It writes nothing, and never looks at a work tree.

use super::fetch::{Fetch, FetchError, Fetched, Location, Repository as Other};
use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};
use std::path::Path;
use thiserror::Error;

/// Files of a commit, or changed paths, that are looked at.
const MAX_PATHS: usize = 1_000_000;
/// Bytes of a file that are read: one more than any configuration may have, so that the reader sees that it is too big.
const MAX_BYTES: usize = super::load::MAX_FILE_BYTES + 1;

/// Why a commit cannot be looked at.
#[derive(Debug, Error)]
pub enum GitTreeError {
    /// There is no repository.
    #[error("cannot open the repository {path}: {source}")]
    Open {
        /// Where.
        path: String,
        /// Why.
        source: git2::Error,
    },
    /// There is no such commit.
    #[error("cannot find the commit {revision} in {path}: {source}")]
    Commit {
        /// Where.
        path: String,
        /// What was looked for.
        revision: String,
        /// Why.
        source: git2::Error,
    },
}

/// What `changes` compares the commit with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Nothing: a new branch, a tag, a schedule.
    #[default]
    Nothing,
    /// The commit that the branch was at before.
    Commit(String),
    /// The merge base with a ref: a merge request.
    MergeBase(String),
}

/// A commit of a repository on this machine.
pub struct GitTree {
    repository: Repository,
    commit: Oid,
    base: Base,
}

impl GitTree {
    /// Opens a repository (bare or not) at a commit, tag or branch.
    ///
    /// # Errors
    /// When there is no such repository, or no such commit in it. A `base` that is gone (the branch was rewritten and
    /// cleaned up) is none.
    pub fn open(path: &Path, revision: &str, base: Base) -> Result<Self, GitTreeError> {
        let name = path.display().to_string();
        let repository = Repository::open(path).map_err(|source| GitTreeError::Open { path: name.clone(), source })?;
        let commit = find(&repository, revision).map_err(|source| GitTreeError::Commit {
            path: name,
            revision: revision.into(),
            source,
        })?;
        // Zeros are git's and GitLab's word for no commit.
        let base = match base {
            Base::Commit(sha) if sha.bytes().all(|b| b == b'0') || find(&repository, &sha).is_err() => Base::Nothing,
            other => other,
        };
        Ok(GitTree { repository, commit, base })
    }

    /// The commit's id.
    #[must_use]
    pub fn commit(&self) -> String {
        self.commit.to_string()
    }

    /// The paths that differ between two commits, both sides of a rename included, sorted.
    fn diff(&self, from: Oid) -> Result<Vec<String>, git2::Error> {
        let tree = |oid: Oid| self.repository.find_commit(oid)?.tree();
        let (old, new) = (tree(from)?, tree(self.commit)?);
        let diff = self.repository.diff_tree_to_tree(Some(&old), Some(&new), None)?;
        let mut paths: Vec<String> = diff
            .deltas()
            .take(MAX_PATHS)
            .flat_map(|delta| [delta.old_file().path_bytes(), delta.new_file().path_bytes()])
            .flatten()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    }

    fn since_merge_base(&self, reference: &str) -> Result<Vec<String>, git2::Error> {
        let other = find(&self.repository, reference)?;
        // Histories that have nothing in common are compared as they are.
        let from = self.repository.merge_base(self.commit, other).unwrap_or(other);
        self.diff(from)
    }
}

/// A commit by its id, branch or tag. Git's own little language (`main~3`, `:/text`, `@{1 day ago}`) is not spoken: the
/// name comes from a configuration file.
fn find(repository: &Repository, name: &str) -> Result<Oid, git2::Error> {
    if let Ok(oid) = Oid::from_str(name)
        && let Ok(object) = repository.find_object(oid, None)
    {
        return Ok(object.peel_to_commit()?.id());
    }
    let mut last = git2::Error::from_str("no branch, tag or commit of that name");
    for prefix in ["refs/heads/", "refs/tags/", "refs/remotes/origin/", ""] {
        if prefix.is_empty() && name != "HEAD" && !name.starts_with("refs/") {
            continue;
        }
        match repository.find_reference(&format!("{prefix}{name}")).and_then(|r| r.peel_to_commit()) {
            Ok(commit) => return Ok(commit.id()),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn unavailable(e: git2::Error) -> FetchError {
    FetchError::Unavailable(format!("git cannot read it: {}", e.message()))
}

impl Fetch for GitTree {
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        let path = match location {
            Location::File { repository: None, path } => path,
            other => return Err(FetchError::Unavailable(format!("{other} is not a file of this repository"))),
        };
        let tree = self.repository.find_commit(self.commit).and_then(|c| c.tree()).map_err(unavailable)?;
        let entry = tree.get_path(Path::new(path)).map_err(|_| FetchError::Missing)?;
        // A symbolic link is not followed: it may lead anywhere.
        if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == i32::from(git2::FileMode::Link) {
            return Err(FetchError::Missing);
        }
        let blob = self.repository.find_blob(entry.id()).map_err(unavailable)?;
        let content = blob.content();
        let text = String::from_utf8_lossy(&content[..content.len().min(MAX_BYTES)]).into_owned();
        Ok(Fetched { text, repository: None })
    }

    fn paths(&self, repository: Option<&Other>) -> Result<Vec<String>, FetchError> {
        if let Some(other) = repository {
            return Err(FetchError::Unavailable(format!("{} is another repository", other.project)));
        }
        let tree = self.repository.find_commit(self.commit).and_then(|c| c.tree()).map_err(unavailable)?;
        let mut paths = Vec::new();
        tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                paths.push(format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes())));
            }
            if paths.len() < MAX_PATHS { TreeWalkResult::Ok } else { TreeWalkResult::Abort }
        })
        .or_else(|e| if paths.len() >= MAX_PATHS { Ok(()) } else { Err(unavailable(e)) })?;
        Ok(paths)
    }

    fn changes(&self, compare_to: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        let unknown = |e: git2::Error| FetchError::Unavailable(e.message().to_string());
        if let Some(reference) = compare_to {
            return self.since_merge_base(reference).map(Some).map_err(unknown);
        }
        match &self.base {
            Base::Nothing => Ok(None),
            Base::Commit(sha) => {
                let from = find(&self.repository, sha).map_err(unknown)?;
                self.diff(from).map(Some).map_err(unavailable)
            }
            Base::MergeBase(reference) => self.since_merge_base(reference).map(Some).map_err(unknown),
        }
    }
}
