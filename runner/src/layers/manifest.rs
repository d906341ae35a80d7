//! What a generation, a live clone and a lineage's pointer say about themselves on disk.

use super::layout::Layout;
use super::lineage::{GenerationRef, Lineage, hex};
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::job::Tier;
use std::fmt;

/// Version of everything in this file, and of the folders around it.
pub const FORMAT: u32 = 1;

/// Largest record that is read, in bytes: some ten thousand layers.
pub const RECORD_MAX: u64 = 4 << 20;

/// A layer's folder or file name, minted by the store: nothing of it comes from an engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerName(String);

impl LayerName {
    /// A new name, 128 random bits.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn mint() -> Result<LayerName, getrandom::Error> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random)?;
        Ok(LayerName(hex(&random)))
    }

    /// Takes a name from disk if it can be one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<LayerName> {
        let ours = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ours.then(|| LayerName(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LayerName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        LayerName::parse(&text).ok_or_else(|| format!("{text:?} is not a layer's name"))
    }
}

impl From<LayerName> for String {
    fn from(name: LayerName) -> String {
        name.0
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// A folder: an unpacked snapshot.
    Snapshot,
    /// A file: a content blob.
    Blob,
}

/// A layer as one generation uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Where the link to it goes, beneath the engine's data directory. Made by us of a checked number or digest.
    pub at: String,
    /// Its name in the store.
    pub name: LayerName,
    /// Which tier's folder it is in.
    pub tier: Tier,
    /// What it is.
    pub kind: LayerKind,
    /// Bytes on disk; hard links counted once.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

/// A generation: immutable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose generation.
    pub lineage: Lineage,
    /// What its engine started from; of another lineage when it fell back to that.
    pub parent: Option<GenerationRef>,
    /// How links are laid.
    pub layout: Layout,
    /// The job that made it.
    pub job: JobId,
    /// That job's pipeline.
    pub pipeline: PipelineId,
    /// That job's commit.
    pub commit: String,
    /// When.
    pub made_at: jiff::Timestamp,
    /// Seconds its own new layers took to build.
    pub build_seconds: f64,
    /// Seconds all its layers took: what it saves.
    pub total_build_seconds: f64,
    /// Bytes on disk of its private tree.
    pub private_bytes: u64,
    /// Its layers.
    pub layers: Vec<LayerEntry>,
    /// Folders of the private tree that hold nothing of their own, beneath the data directory.
    pub folders: Vec<String>,
}

impl Manifest {
    /// Bytes of all layers and the private tree.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let layers: u64 = self.layers.iter().filter(|l| seen.insert(&l.name)).map(|l| l.bytes).sum();
        layers + self.private_bytes
    }
}

/// The pointer of a lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub lineage: Lineage,
    /// The generation that clones start from.
    pub current: Option<u64>,
    /// The next number; a generation at or above it was never published.
    pub next: u64,
    /// How many generations engines would not start from.
    #[serde(default)]
    pub condemned: u64,
}

/// A live clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub lineage: Lineage,
    /// Whether it sees the protected tier beside its own.
    pub read_protected: bool,
    /// What it started from.
    pub generation: Option<GenerationRef>,
    /// Seconds all of that generation's layers took to build.
    pub total_build_seconds: f64,
    /// The layers it is shown links to: kept while it lives, whatever becomes of the generation.
    pub layers: Vec<LayerEntry>,
    /// When it was made.
    pub made_at: jiff::Timestamp,
}
