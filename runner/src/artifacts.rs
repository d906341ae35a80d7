//! Artifacts: what is kept of a work tree at the end of a job, and brought into those of later jobs.
//!
//! [`mod@select`] says which files, [`pack`] makes one archive of them, [`mod@extract`] brings one in. All three reach the work
//! tree through [`crate::confined`] alone. [`dotenv`], [`junit`] and [`coverage`] read what a job reports.

mod archive;
pub mod coverage;
pub mod dotenv;
mod extract;
pub mod junit;
mod select;

pub use archive::{Level, Packed, file_name, nothing_found, pack};
pub use extract::{Extracted, extract};
pub use select::{Rules, Selected, select};

use std::io;
use std::path::PathBuf;

/// How much a job may bring in or take out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, folders and links in one archive.
    pub entries: u64,
    /// Bytes: of an archive when packing, of what comes out of it when extracting.
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { entries: 1_000_000, bytes: 64 << 30 }
    }
}

/// Why artifacts could not be packed or brought in.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The work tree is not there.
    #[error("cannot open the work tree {path}: {source}")]
    WorkTree {
        /// Its path on the node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read, or written.
    #[error("cannot {what} {path:?}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file, relative to the work tree.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A pattern that means nothing.
    #[error("artifacts: {0}")]
    Pattern(slipway_spec::glob::GlobError),
    /// The commit's files, which `untracked` needs, cannot be read.
    #[error("artifacts: untracked: {0}")]
    Tracked(#[from] crate::workspace::WorkspaceError),
    /// Too many files.
    #[error("more than {limit} files match; narrow `paths`, or pack them into one file first")]
    TooMany {
        /// How many are allowed.
        limit: u64,
    },
    /// Too many bytes.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// How many are allowed.
        limit: u64,
    },
    /// A raw report has to be one file.
    #[error("a report of this type is one file, but {count} match")]
    NotOneFile {
        /// How many.
        count: usize,
    },
    /// What is to be extracted is not an archive, or a broken one.
    #[error("not a usable archive: {0}")]
    Archive(String),
    /// An archive's entry would end up outside the work tree, or is nothing that belongs into one.
    #[error("the archive's entry {name:?} is refused: {why}")]
    Entry {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Output(io::Error),
}

impl ArtifactError {
    fn file(what: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ArtifactError {
        let path = shown(path);
        move |source| ArtifactError::File { what, path, source }
    }
}

/// A path for people: bounded, and never a control sequence.
fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    text.replace(char::is_control, "?")
}
