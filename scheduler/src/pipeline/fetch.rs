//! What a compilation asks of the world: files of repositories, and what changed. Drivers implement it; the stages stay
//! pure.

use std::fmt;

/// Where a configuration file is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A file of a repository.
    File {
        /// The repository; `None` is the pipeline's own, at its commit.
        repository: Option<Repository>,
        /// Path from its root, no leading slash.
        path: String,
    },
    /// An address to GET, without credentials.
    Remote {
        /// `https://…`
        url: String,
    },
    /// A file of GitLab's template folder, where there is one.
    Template {
        /// `Auto-DevOps.gitlab-ci.yml`
        name: String,
    },
    /// A component of a catalogue.
    Component {
        /// `host/group/project/name@version`
        address: String,
    },
}

/// Another project at a ref.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    /// `group/project`
    pub project: String,
    /// Branch, tag or commit; `None` is its default branch.
    pub reference: Option<String>,
}

/// A fetched file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Its text.
    pub text: String,
    /// The repository that its own `include: local` means, where that is not the one asked for (a component's).
    pub repository: Option<Repository>,
}

/// Why there is no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The repository, or the address, has no such file.
    #[error("it does not exist")]
    Missing,
    /// There is no repository to look into, or no way to get there from here.
    #[error("{0}")]
    Unavailable(String),
}

/// Gives files to `include`, and paths to its wildcards and to `exists`.
pub trait Fetch {
    /// Reads a file. At most [`super::load::MAX_FILE_BYTES`] and one byte need to be read.
    ///
    /// # Errors
    /// When it is not there or cannot be reached.
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError>;

    /// The paths of all files of a repository (`None`: the pipeline's own at its commit), relative to its root.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn paths(&self, repository: Option<&Repository>) -> Result<Vec<String>, FetchError>;

    /// The paths that changed: since the push before when `compare_to` is `None`, else since the merge base with that
    /// ref. `None` when there is nothing to compare with (a new branch, a tag, a schedule): every `changes` then holds.
    ///
    /// # Errors
    /// When `compare_to` is no ref.
    fn changes(&self, compare_to: Option<&str>) -> Result<Option<Vec<String>>, FetchError>;
}

/// Nothing is there: a configuration without a repository.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Fetch for Nowhere {
    fn fetch(&self, _: &Location) -> Result<Fetched, FetchError> {
        Err(FetchError::Unavailable("there is no repository".into()))
    }

    fn paths(&self, _: Option<&Repository>) -> Result<Vec<String>, FetchError> {
        Ok(Vec::new())
    }

    fn changes(&self, _: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        Ok(None)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File { repository: None, path } => write!(f, "{path}"),
            Location::File { repository: Some(r), path } => {
                write!(f, "{}@{}:{path}", r.project, r.reference.as_deref().unwrap_or("HEAD"))
            }
            Location::Remote { url } => write!(f, "{url}"),
            Location::Template { name } => write!(f, "template {name}"),
            Location::Component { address } => write!(f, "{address}"),
        }
    }
}
