//! Sources: one mirror a project on the node's disk, fetched incrementally, and a fresh work tree for each job that is
//! a real repository.
//!
//! Two tools, by what they are good at. `git`, the command, speaks to other repositories: it can be killed when a job is
//! cancelled, has timeouts, ssh, proxies, LFS, and re-uses deltas. libgit2 does everything on our own disk: mirrors,
//! refs, work trees; it starts no process, runs no hook, no filter and no remote helper that a repository could name.
//!
//! A job never shares an inode with the mirror: hard links would let root in a container write into what protected jobs
//! check out later. Small repositories are copied (reflinks where the file system has them), so `.git` is whole and
//! works in a Docker build context too; large ones borrow the mirror's objects by `alternates`, and the driver mounts
//! [`Sources::mounts`] read-only at the same place inside the container. `SLIPWAY_GIT_OBJECTS: copy | borrow` decides
//! otherwise. What was measured: `docs/design/workspace.md`.

mod error;
mod git;
mod mirror;
mod modules;
mod settings;
mod tracked;
mod tree;
mod url;

pub use error::WorkspaceError;
pub use mirror::Mirrors;
pub use settings::{Objects, Settings, Strategy, Submodules};
pub use tracked::{Tracked, TrackedPaths};

use slipway_spec::ids::ProjectId;
use slipway_spec::job::Source;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Which sources, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The project whose mirror is used.
    pub project: ProjectId,
    /// What to fetch.
    pub source: &'a Source,
    /// The work tree to be made; an empty or missing folder.
    pub tree: &'a Path,
    /// What the job's variables say about it.
    pub settings: &'a Settings,
    /// Ends the fetch (the process is killed) and the checkout.
    pub cancel: &'a CancellationToken,
    /// Whether submodules may be other repositories on this node. Only where whoever submits may read them anyway.
    pub local_submodules: bool,
}

/// A work tree that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sources {
    /// Folders of the node that the job's containers must see, read-only, at the same path.
    #[serde(default)]
    pub mounts: Vec<PathBuf>,
    /// What git knows, for `untracked: true` and cache keys.
    #[serde(default)]
    pub tracked: Tracked,
}

/// Where lines for the trace go, one call a line, without a line end.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

impl Mirrors {
    /// Makes the work tree: fetches into the project's mirror what is missing, then checks out.
    ///
    /// Lines of the trace are GitLab's. Cancel-safe: dropped half way, it leaves at most a partial `tree` and a mirror
    /// that the next fetch goes on with.
    ///
    /// # Errors
    /// [`WorkspaceError::is_users`] tells the job's own faults (a URL that is not allowed, a commit that does not
    /// exist) from the node's.
    pub async fn prepare(&self, request: Request<'_>, say: Say<'_>) -> Result<Sources, WorkspaceError> {
        let Request { project, source, tree, settings, cancel, .. } = request;
        match settings.strategy {
            Strategy::None | Strategy::Empty => {
                tree::empty(tree)?;
                say("Skipping Git repository setup");
                say("Skipping Git checkout");
                say("Skipping Git submodules setup");
                return Ok(Sources::default());
            }
            Strategy::Fetch | Strategy::Clone => {}
        }
        let depth = settings.depth.unwrap_or(source.depth);
        match depth {
            0 => say("Fetching changes..."),
            depth => say(&format!("Fetching changes with git depth set to {depth}...")),
        }
        let remote = url::Remote::parse(&source.url)?.with_login(source.login.clone());
        let mirror = self.fetched(project, &remote, source, cancel).await?;
        let plan = tree::Plan {
            mirror: mirror.clone(),
            tree: tree.to_owned(),
            origin: remote.shown(),
            commit: mirror::commit_id(&source.sha)?,
            refs: mirror::Refs::of(source),
            depth,
            objects: settings.objects,
            checkout: settings.checkout,
        };
        let made = tree::make(plan, cancel).await?;
        let mut sources = Sources { mounts: made.mounts, tracked: Tracked::commit(mirror, source.sha.clone()) };
        if !settings.checkout {
            say("Skipping Git checkout");
            say("Skipping Git submodules setup");
            return Ok(sources);
        }
        let short: String = source.sha.chars().take(8).collect();
        say(&format!("Checking out {short} as detached HEAD (ref is {})...", source.ref_name));
        if made.lfs && settings.lfs {
            self.lfs(&remote, tree, cancel, say).await?;
        }
        match settings.submodules {
            Submodules::None => say("Skipping Git submodules setup"),
            Submodules::Normal | Submodules::Recursive => {
                let recursive = settings.submodules == Submodules::Recursive;
                say(if recursive {
                    "Updating/initializing submodules recursively..."
                } else {
                    "Updating/initializing submodules..."
                });
                let mounts = self.submodules(&request, &remote, say).await?;
                sources.mounts.extend(mounts);
            }
        }
        tree::open_to_all(tree.to_owned()).await?;
        sources.mounts.sort();
        sources.mounts.dedup();
        Ok(sources)
    }
}
