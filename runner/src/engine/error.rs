//! What can go wrong with an engine.

use std::io;
use std::path::{Path, PathBuf};

/// An engine that could not be lent, or not be ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file or kernel call.
    #[error("engine: cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program of the host said no.
    #[error("engine: cannot {doing}: {program} said: {said}")]
    Program {
        /// What was tried.
        doing: &'static str,
        /// The program.
        program: &'static str,
        /// Its last words, at most a screenful.
        said: String,
    },
    /// The host's Docker said no.
    #[error("engine: cannot {doing} {what}: {source}")]
    Docker {
        /// What was tried.
        doing: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: bollard::errors::Error,
    },
    /// The service's image is not one an engine can be made of.
    #[error("engine: {image} cannot serve as an engine: {why}")]
    Unfit {
        /// The image.
        image: String,
        /// What is missing.
        why: String,
    },
    /// What the service asks for cannot be honoured.
    #[error("engine: the service's command {command:?} cannot be honoured: {why}")]
    Command {
        /// As the job gave it.
        command: Vec<String>,
        /// What to do instead.
        why: &'static str,
    },
    /// It was started and did not answer.
    #[error("engine: {id} {how}; its last words:\n{log}")]
    NotReady {
        /// Which.
        id: String,
        /// `exited` or `did not answer within N s`.
        how: String,
        /// The end of its log, at most 4000 bytes.
        log: String,
    },
    /// This host cannot hold the wall that was asked for.
    #[error("engine: the {wall} wall was asked for, and this host cannot hold it: {why}")]
    NoWall {
        /// The wall's name.
        wall: &'static str,
        /// What is missing.
        why: String,
    },
    /// All id ranges are in use.
    #[error("engine: all {0} id ranges are in use; are engines being left behind in the lent folder?")]
    NoIds(u32),
    /// The layer store said no.
    #[error("engine: {0}")]
    Layers(String),
    /// A key or certificate could not be made.
    #[error("engine: cannot make the engine's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Says what was tried on which path.
pub(super) trait Tried<T> {
    fn tried(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, EngineError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, EngineError> {
        self.map_err(|e| EngineError::Io { doing, path: path.as_ref().to_owned(), source: e.into() })
    }
}
