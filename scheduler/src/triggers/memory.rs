//! What was seen and fired last of a project, kept as one file that is replaced whole.

use super::refs::Refs;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What was seen and fired last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// None before the first look: what is there then makes no pipeline.
    #[serde(default)]
    pub(super) refs: Option<Refs>,
    /// When each schedule, by name, was fired last, or first seen.
    #[serde(default)]
    pub(super) fired: BTreeMap<String, Timestamp>,
}

/// A project's file.
pub(super) struct MemoryFile {
    path: PathBuf,
}

impl MemoryFile {
    pub(super) fn of(folder: &Path, project: &str) -> MemoryFile {
        // A project's path has slashes; two paths must not become one name.
        let name = project.replace('%', "%25").replace('/', "%2F");
        MemoryFile { path: folder.join(format!("{name}.json")) }
    }

    /// What the file holds; nothing when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged: then a person must look, since forgetting would run or lose pipelines.
    pub(super) fn read(&self) -> Result<Memory, String> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                format!("{} is damaged ({e}): remove it to start from what is there now", self.path.display())
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Memory::default()),
            Err(e) => Err(format!("cannot read {}: {e}", self.path.display())),
        }
    }

    pub(super) fn write(&self, memory: &Memory) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(memory).expect("maps with string keys are JSON");
        let new = self.path.with_extension("new");
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)
            .and_then(|()| fs::File::create(&new))
            .and_then(|mut f| f.write_all(&text).and_then(|()| f.sync_all()))
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|e| format!("cannot write {}: {e}", self.path.display()))
    }
}
