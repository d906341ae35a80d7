//! What `slipway run DIR` runs: the repository at DIR, or the folder DIR of one as a project of its own.

use anyhow::{Context, Result, bail};
use git2::{Oid, Repository};
use std::path::{Path, PathBuf};

/// A commit to run.
#[derive(Debug)]
pub(crate) struct Source {
    /// Repository that holds it.
    pub(crate) repository: PathBuf,
    /// The folder as the user named it, resolved: what `repository` of a `[[project]]` may say, too.
    pub(crate) folder: PathBuf,
    /// Branch or tag.
    pub(crate) ref_name: String,
    /// The commit.
    pub(crate) sha: String,
    /// The work tree differs from the commit.
    pub(crate) dirty: bool,
}

impl Source {
    /// The commit at HEAD (or of `ref_name`, when the repository has it) of the repository around `folder`. For a
    /// folder within a repository, a repository under `keep` gets a commit of that folder's tree alone, with the
    /// author, message and time of the real one: the same tree gives the same commit.
    pub(crate) fn find(folder: &Path, ref_name: Option<&str>, keep: &Path) -> Result<Source> {
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let around = Repository::discover(&folder)
            .with_context(|| format!("{} is in no git repository: `git init` and commit first", folder.display()))?;
        let commit = match ref_name.and_then(|name| around.resolve_reference_from_short_name(name).ok()) {
            Some(found) => found.peel_to_commit()?,
            None => {
                let head = around.head().context("the repository has no commit yet")?;
                head.peel_to_commit().context("HEAD is no commit")?
            }
        };
        let ref_name = match ref_name {
            Some(name) => name.to_owned(),
            None => {
                let head = around.head()?;
                let name = head.shorthand().unwrap_or("HEAD");
                if name == "HEAD" {
                    bail!("HEAD is on no branch: say with --ref which branch or tag this is");
                }
                name.to_owned()
            }
        };
        let top = around.workdir().unwrap_or_else(|| around.path()).canonicalize()?;
        let dirty = is_dirty(&around, folder.strip_prefix(&top).unwrap_or(Path::new("")))?;
        if folder == top || around.is_bare() {
            let sha = commit.id().to_string();
            return Ok(Source { repository: top, folder, ref_name, sha, dirty });
        }
        let within = folder.strip_prefix(&top).context("the folder lies outside its own repository")?;
        let tree = commit.tree()?.get_path(within).ok().filter(|e| e.kind() == Some(git2::ObjectType::Tree));
        let Some(tree) = tree else {
            bail!("{} is not in the commit {}: commit it first", within.display(), commit.id());
        };
        let repository = keep.join(name_of(&folder));
        let sha = alone(&around, &commit, tree.id(), &repository, &ref_name)?;
        Ok(Source { repository, folder, ref_name, sha: sha.to_string(), dirty })
    }
}

/// Whether a tracked file within `folder` differs from HEAD.
fn is_dirty(repository: &Repository, folder: &Path) -> Result<bool> {
    if repository.is_bare() {
        return Ok(false);
    }
    let mut options = git2::StatusOptions::new();
    options.include_untracked(false).include_ignored(false);
    if folder.components().next().is_some() {
        options.pathspec(folder);
    }
    Ok(!repository.statuses(Some(&mut options)).context("cannot compare the work tree with its commit")?.is_empty())
}

/// A commit of one tree alone, in a repository at `path`, on branch `branch`.
fn alone(from: &Repository, commit: &git2::Commit<'_>, tree: Oid, path: &Path, branch: &str) -> Result<Oid> {
    let write = || -> Result<Oid, git2::Error> {
        let to = Repository::open(path).or_else(|_| Repository::init_bare(path))?;
        copy(from, &to, tree)?;
        let tree = to.find_tree(tree)?;
        let (author, committer) = (commit.author(), commit.committer());
        let message = commit.message().unwrap_or("");
        let made = to.commit(None, &author, &committer, message, &tree, &[])?;
        to.reference(&format!("refs/heads/{branch}"), made, true, "slipway run")?;
        to.set_head(&format!("refs/heads/{branch}"))?;
        Ok(made)
    };
    write().with_context(|| format!("cannot write the folder's own repository {}", path.display()))
}

/// Copies a tree and all that it holds.
fn copy(from: &Repository, to: &Repository, tree: Oid) -> Result<(), git2::Error> {
    let (source, sink) = (from.odb()?, to.odb()?);
    let mut todo = vec![tree];
    while let Some(id) = todo.pop() {
        let object = source.read(id)?;
        if object.kind() == git2::ObjectType::Tree {
            let tree = from.find_tree(id)?;
            // A submodule's commit is not in this repository.
            todo.extend(tree.iter().filter(|e| e.kind() != Some(git2::ObjectType::Commit)).map(|e| e.id()));
        }
        if !sink.exists(id) {
            sink.write(object.kind(), object.data())?;
        }
    }
    Ok(())
}

/// A name for the folder's repository: its own, and enough of its path's hash that two do not meet.
fn name_of(folder: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let name = folder.file_name().map_or("folder".into(), |n| n.to_string_lossy());
    format!("{name}-{:016x}.git", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn repository(root: &Path) -> Repository {
        let repository = Repository::init_opts(root, git2::RepositoryInitOptions::new().initial_head("trunk")).unwrap();
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::write(root.join("a/deep/file"), "one").unwrap();
        fs::write(root.join("other"), "two").unwrap();
        let mut index = repository.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        let who = git2::Signature::now("Ada", "ada@example.org").unwrap();
        let tree = index.write_tree().unwrap();
        repository.commit(Some("HEAD"), &who, &who, "first", &repository.find_tree(tree).unwrap(), &[]).unwrap();
        repository
    }

    #[test]
    fn repository_runs_its_commit_at_head_on_its_branch() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path());
        let source = Source::find(root.path(), None, root.path()).unwrap();
        assert_eq!(source.sha, repository.head().unwrap().target().unwrap().to_string());
        assert_eq!((source.ref_name.as_str(), source.dirty), ("trunk", false));
    }

    #[test]
    fn folder_runs_as_a_repository_of_its_own_and_the_same_tree_gives_the_same_commit() {
        let (root, keep) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        repository(root.path());
        let first = Source::find(&root.path().join("a"), Some("master"), keep.path()).unwrap();
        let second = Source::find(&root.path().join("a"), Some("master"), keep.path()).unwrap();
        assert_eq!(first.sha, second.sha);
        let own = Repository::open(&first.repository).unwrap();
        let tree = own.find_commit(Oid::from_str(&first.sha).unwrap()).unwrap().tree().unwrap();
        assert!(tree.get_path(Path::new("deep/file")).is_ok() && tree.get_path(Path::new("other")).is_err());
        assert_eq!(own.head().unwrap().shorthand().ok(), Some("master"));
    }

    #[test]
    fn changed_work_tree_is_dirty_only_where_it_changed() {
        let (root, keep) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        repository(root.path());
        fs::write(root.path().join("other"), "changed").unwrap();
        assert!(Source::find(root.path(), None, keep.path()).unwrap().dirty);
        assert!(!Source::find(&root.path().join("a"), None, keep.path()).unwrap().dirty);
    }
}
