//! What can go wrong with sources.

use std::path::{Path, PathBuf};

/// Why the sources could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The address is of a kind that is never fetched.
    #[error("cannot fetch from {url:?}: {why}")]
    Address {
        /// The address, without a password.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A variable has a value that means nothing.
    #[error("{variable} is {value:?}, expected {expected}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// It is not there, even when asked for by its id.
    #[error("the commit {sha} is not in {url}: was its branch deleted or force-pushed? {detail}")]
    MissingCommit {
        /// The commit.
        sha: String,
        /// Where it was looked for.
        url: String,
        /// What git said.
        detail: String,
    },
    /// Not a commit's id.
    #[error("{0:?} is not a commit id of 40 hex digits (repositories with SHA-256 ids are not supported)")]
    CommitId(String),
    /// A refspec that git would read as something else.
    #[error("the refspec {0:?} is not allowed")]
    Refspec(String),
    /// The command `git` failed.
    #[error("git {verb} of {url} failed: {detail}")]
    Git {
        /// What it was to do.
        verb: &'static str,
        /// With which repository.
        url: String,
        /// The end of its standard error.
        detail: String,
    },
    /// It could not even be started.
    #[error("cannot start the command git: {0}; install git on this node")]
    NoGit(std::io::Error),
    /// libgit2 failed on our own disk.
    #[error("cannot {what} {path}: {source}")]
    Libgit2 {
        /// What was tried.
        what: &'static str,
        /// On which repository.
        path: PathBuf,
        /// Why it failed.
        source: git2::Error,
    },
    /// The file system failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A submodule that cannot be fetched.
    #[error("submodule {path}: {source}")]
    Submodule {
        /// Its path in the work tree.
        path: String,
        /// Why.
        source: Box<WorkspaceError>,
    },
    /// Made by a newer version.
    #[error("{path} has format {found:?}, this version knows {known:?}: use the newer version, or remove the folder")]
    Format {
        /// The stamp's file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What we write.
        known: &'static str,
    },
    /// The job was ended.
    #[error("fetching the sources was cancelled")]
    Canceled,
    /// A bug: the thread that did it panicked.
    #[error("the thread that made the work tree died: {0}")]
    Thread(tokio::task::JoinError),
}

impl WorkspaceError {
    /// Whether the job's own configuration or repository is at fault, and no other node would do better.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            WorkspaceError::Address { .. }
            | WorkspaceError::Setting { .. }
            | WorkspaceError::MissingCommit { .. }
            | WorkspaceError::CommitId(_)
            | WorkspaceError::Refspec(_) => true,
            WorkspaceError::Submodule { source, .. } => source.is_users(),
            WorkspaceError::Git { .. }
            | WorkspaceError::NoGit(_)
            | WorkspaceError::Libgit2 { .. }
            | WorkspaceError::Io { .. }
            | WorkspaceError::Format { .. }
            | WorkspaceError::Canceled
            | WorkspaceError::Thread(_) => false,
        }
    }

    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> WorkspaceError {
        let path = path.to_owned();
        move |source| WorkspaceError::Io { what, path, source }
    }

    pub(super) fn libgit2(what: &'static str, path: &Path) -> impl FnOnce(git2::Error) -> WorkspaceError {
        let path = path.to_owned();
        move |source| WorkspaceError::Libgit2 { what, path, source }
    }
}
