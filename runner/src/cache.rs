//! Caches: what a job leaves for later jobs of its project, on the node as folders rather than archives. Never fatal:
//! whatever fails here is a line in the trace.
//!
//! A restored cache shares no inode with the stored one: hard links would let a job that writes in place change what
//! other jobs have before them, and what later ones get. What makes it fast instead: at the end of a job the files
//! are *moved* out of its work tree, which is thrown away anyway; and of a stored cache with many files a ready copy is
//! kept, made after the job has finished, which the next job gets by a rename.

mod copy;
mod key;
mod restore;
mod save;
mod store;

pub use key::{Cache, Facts, Policy, sanitise};
pub use restore::Restored;
pub use save::{SaveFrom, Saved};
pub use store::{CacheError, Caches, Limits};

use slipway_spec::ids::ProjectId;
use slipway_spec::job::Tier;

/// Whose caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Nothing crosses projects.
    pub project: ProjectId,
    /// Protected jobs never see what unprotected ones made.
    pub tier: Tier,
    /// Whether an unprotected job may fall back on protected caches.
    pub read_protected: bool,
}

/// Where lines for the trace go, one call a line.
pub type Say<'a> = &'a mut dyn FnMut(&str);
