//! Submodules and LFS files.
//!
//! A submodule becomes a repository of its own with a real `.git` folder: the *names* in `.gitmodules`, with which
//! git's own layout places them under `.git/modules/`, are never used for paths. Paths are those of the tree's own
//! entries, which libgit2 has checked; `.gitmodules` only gives addresses to them.

use super::error::WorkspaceError;
use super::git::Call;
use super::mirror::{Mirrors, Refs, commit_id};
use super::settings::{Settings, Submodules};
use super::url::Remote;
use super::{Request, Say, tree};
use slipway_spec::job::Source;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Submodules in one job, at all depths.
const MODULES_MAX: usize = 1000;
/// Submodules within submodules.
const NESTED_MAX: usize = 16;
/// Bytes of a `.gitmodules` that are read.
const GITMODULES_BYTES_MAX: usize = 1 << 20;

/// A submodule as the tree has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    path: String,
    commit: String,
    address: String,
}

impl Mirrors {
    /// Makes all submodules of a work tree that was just made; the folders they borrow from.
    pub(super) async fn submodules(
        &self,
        request: &Request<'_>,
        remote: &Remote,
        say: Say<'_>,
    ) -> Result<Vec<PathBuf>, WorkspaceError> {
        let settings = request.settings;
        let mut mounts = Vec::new();
        let mut made = 0usize;
        let mut waiting: Vec<(PathBuf, String, Remote, usize)> =
            vec![(request.tree.to_owned(), String::new(), remote.clone(), 0)];
        while let Some((folder, prefix, parent, nested)) = waiting.pop() {
            for module in read_modules(&folder)? {
                let path = format!("{prefix}{}", module.path);
                // Paths are the project's own; those of nested submodules follow their parents.
                if nested == 0 && !settings.wants_submodule(&module.path) {
                    continue;
                }
                made += 1;
                let name = path.clone();
                let wrap = |source| WorkspaceError::Submodule { path: name.clone(), source: Box::new(source) };
                if made > MODULES_MAX || nested >= NESTED_MAX {
                    return Err(wrap(WorkspaceError::Address {
                        url: module.address,
                        why: "there are too many submodules, or they are nested too deeply",
                    }));
                }
                let child = parent.submodule(&module.address, settings.submodule_force_https).map_err(wrap)?;
                if child.is_local() && !request.local_submodules {
                    return Err(wrap(WorkspaceError::Address {
                        url: child.shown(),
                        why: "a submodule must not be a path on the node",
                    }));
                }
                let depth = settings.submodule_depth.or(settings.depth).unwrap_or(request.source.depth);
                let target = folder.join(&module.path);
                let more =
                    self.submodule(request, &child, &module, &target, depth, settings, say).await.map_err(wrap)?;
                mounts.extend(more);
                say(&format!("Submodule path '{path}': checked out '{}'", module.commit));
                if settings.submodules == Submodules::Recursive {
                    waiting.push((target, format!("{path}/"), child, nested + 1));
                }
            }
        }
        Ok(mounts)
    }

    #[allow(clippy::too_many_arguments, reason = "one call, from the loop above")]
    async fn submodule(
        &self,
        request: &Request<'_>,
        remote: &Remote,
        module: &Module,
        target: &Path,
        depth: u32,
        settings: &Settings,
        say: Say<'_>,
    ) -> Result<Vec<PathBuf>, WorkspaceError> {
        let source = Source {
            url: remote.shown(),
            login: None,
            ref_name: String::new(),
            is_tag: false,
            sha: module.commit.clone(),
            before_sha: String::new(),
            refspecs: Vec::new(),
            depth,
        };
        let mirror = self.fetched_submodule(request.project, remote, &source, request.cancel).await?;
        let plan = tree::Plan {
            mirror,
            tree: target.to_owned(),
            origin: remote.shown(),
            commit: commit_id(&module.commit)?,
            refs: Refs::tags_and_heads(),
            depth,
            objects: settings.objects,
            checkout: true,
        };
        let made = tree::make(plan, request.cancel).await?;
        if made.lfs && settings.lfs {
            self.lfs(remote, target, request.cancel, say).await?;
        }
        Ok(made.mounts)
    }

    /// Fetches LFS files by the command `git lfs`; on a node without it a warning stands in the trace.
    pub(super) async fn lfs(
        &self,
        remote: &Remote,
        tree: &Path,
        cancel: &CancellationToken,
        say: Say<'_>,
    ) -> Result<(), WorkspaceError> {
        let call = Call { verb: "lfs pull", folder: tree, remote, config: self.config() };
        if call.run(&["lfs", "version"], cancel).await.is_err() {
            say(
                "WARNING: files of this repository are in Git LFS, but git-lfs is not installed on this node: they stay pointers",
            );
            return Ok(());
        }
        say("Fetching LFS files...");
        // The filter's settings go with this one call. The repository's own hooks do not exist, and core.hooksPath
        // leads nowhere.
        call.run(
            &[
                "-c",
                "filter.lfs.smudge=git-lfs smudge -- %f",
                "-c",
                "filter.lfs.clean=git-lfs clean -- %f",
                "-c",
                "filter.lfs.process=git-lfs filter-process",
                "-c",
                "filter.lfs.required=true",
                "lfs",
                "pull",
            ],
            cancel,
        )
        .await
    }
}

/// The submodules of a fresh work tree's commit: entries of its tree that `.gitmodules` has an address for.
fn read_modules(folder: &Path) -> Result<Vec<Module>, WorkspaceError> {
    let failed = |what| WorkspaceError::libgit2(what, folder);
    let repository = git2::Repository::open(folder).map_err(failed("open"))?;
    let tree = repository.head().and_then(|head| head.peel_to_tree()).map_err(failed("read the commit of"))?;
    let Some(file) = tree.get_name(".gitmodules") else { return Ok(Vec::new()) };
    if file.kind() != Some(git2::ObjectType::Blob) || file.filemode() == 0o120_000 {
        return Ok(Vec::new());
    }
    let blob = repository.find_blob(file.id()).map_err(failed("read .gitmodules of"))?;
    if blob.size() > GITMODULES_BYTES_MAX {
        return Ok(Vec::new());
    }
    let addresses = addresses(&String::from_utf8_lossy(blob.content()));
    let mut modules = Vec::new();
    tree.walk(git2::TreeWalkMode::PreOrder, |root, entry| {
        if entry.kind() == Some(git2::ObjectType::Commit)
            && let Ok(name) = entry.name()
        {
            let path = format!("{root}{name}");
            if let Some(address) = addresses.get(&path) {
                modules.push(Module { path, commit: entry.id().to_string(), address: address.clone() });
            }
        }
        git2::TreeWalkResult::Ok
    })
    .map_err(failed("read the tree of"))?;
    Ok(modules)
}

/// Path to address, as `.gitmodules` gives them. Its other settings (`update = !command`, names) mean nothing here, and
/// the text is never a configuration file that git or libgit2 loads (no `include.path`).
fn addresses(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let (mut path, mut url) = (None, None);
    let mut close = |path: &mut Option<String>, url: &mut Option<String>| {
        if let (Some(path), Some(url)) = (path.take(), url.take()) {
            found.insert(path.trim_matches('/').to_owned(), url);
        }
    };
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            close(&mut path, &mut url);
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"').to_owned();
            match key.trim().to_ascii_lowercase().as_str() {
                "path" => path = Some(value),
                "url" => url = Some(value),
                _ => {}
            }
        }
    }
    close(&mut path, &mut url);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitmodules_gives_addresses_and_nothing_else() {
        let text = "[submodule \"../../../etc\"]\n\tpath = libs/a\n\turl = ../a.git\n\tupdate = !touch /tmp/pwned\n\
                    [include]\n\tpath = /etc/passwd\n[submodule \"b\"]\n\turl=\"https://h/b.git\"\n  path = b\n";
        let found = addresses(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found["libs/a"], "../a.git");
        assert_eq!(found["b"], "https://h/b.git");
    }
}
