//! The key under which generations follow one another.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use slipway_spec::ids::ProjectId;
use slipway_spec::job::Tier;
use std::fmt;

/// Project, job name, tier and engine kind: jobs that share all four hand their layers on to one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// Whose layers.
    pub project: ProjectId,
    /// The job's name; any text.
    pub job: String,
    /// Protected or unprotected.
    pub tier: Tier,
    /// What kind of engine wrote the metadata.
    pub kind: EngineKind,
}

/// What two engines must have in common for one to start from the other's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EngineKind {
    /// Docker's major version: 26.
    pub major: u32,
    /// Which image store it uses.
    pub store: ImageStore,
    /// What keeps root in it inside: overlay attributes differ between walls (`user.` against `trusted.`).
    pub wall: Wall,
    /// Docker's word for the architecture: `amd64`, `arm64`.
    pub arch: String,
}

/// Where an engine keeps images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStore {
    /// containerd's: snapshots and content blobs.
    Containerd,
    /// The classic graph driver.
    Overlay2,
}

impl fmt::Display for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageStore::Containerd => "containerd",
            ImageStore::Overlay2 => "overlay2",
        })
    }
}

/// What keeps root in an engine inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wall {
    /// A user namespace of its own; the default.
    Userns,
    /// A privileged container; as strong as `--privileged`, which is not very.
    Container,
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wall::Userns => "userns",
            Wall::Container => "container",
        })
    }
}

/// Longest part of a job's name that is shown in a [`LineageKey`], in bytes.
const SHOWN_NAME: usize = 40;

impl Lineage {
    /// The lineage's folder name, and the word people type: readable, and unique by the hash at its end.
    #[must_use]
    pub fn key(&self) -> LineageKey {
        let EngineKind { major, store, wall, arch } = &self.kind;
        let mut hash = Sha256::new();
        // Lengths keep two different pairs of texts from running together into the same bytes.
        for part in [self.job.as_bytes(), arch.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash = hex(&hash.finalize()[..5]);
        LineageKey(format!(
            "{}{}-{}-{major}-{store}-{wall}-{}-{hash}",
            Self::key_begins(self.project),
            slug(&self.job),
            self.tier,
            slug(arch),
        ))
    }

    /// What the names of all lineages of a project begin with.
    pub(crate) fn key_begins(project: ProjectId) -> String {
        format!("p{project}-")
    }

    /// Whether an engine of this lineage may start from a generation of `other` by falling back to it.
    #[must_use]
    pub fn may_fall_back_to(&self, other: &Lineage, read_protected: bool) -> bool {
        self.project == other.project && self.kind == other.kind && self.may_read(other.tier, read_protected)
    }

    /// Whether this lineage's engines may be shown layers of `tier`.
    #[must_use]
    pub fn may_read(&self, tier: Tier, read_protected: bool) -> bool {
        match (self.tier, tier) {
            (Tier::Protected, Tier::Protected) | (Tier::Unprotected, Tier::Unprotected) => true,
            (Tier::Protected, Tier::Unprotected) => false,
            (Tier::Unprotected, Tier::Protected) => read_protected,
        }
    }
}

/// Letters, digits, dot and underscore of a text; all else becomes one hyphen.
fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= SHOWN_NAME {
            break;
        }
        if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_matches(['-', '.']).to_owned();
    if out.is_empty() { "x".to_owned() } else { out }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A lineage's folder name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LineageKey(String);

impl LineageKey {
    /// Takes a folder's name, or what a person typed, if it can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<LineageKey> {
        let fits = !text.is_empty()
            && text.len() <= 200
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        fits.then(|| LineageKey(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LineageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One generation of one lineage; shown as `LINEAGE@N`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenerationRef {
    /// Which lineage.
    pub lineage: LineageKey,
    /// From 1; never used twice.
    pub number: u64,
}

impl fmt::Display for GenerationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.lineage, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(job: &str, tier: Tier) -> Lineage {
        let kind =
            EngineKind { major: 26, store: ImageStore::Containerd, wall: Wall::Userns, arch: "amd64".to_owned() };
        Lineage { project: ProjectId(7), job: job.to_owned(), tier, kind }
    }

    #[test]
    fn key_of_hostile_names_is_a_plain_folder_name_and_tells_them_apart() {
        let long = "x".repeat(5000);
        let names = ["build_image", "build image", "build/image", "../../etc", "", "..", "ü", "ö", &long, "a\0b"];
        let keys: std::collections::BTreeSet<_> = names.iter().map(|n| lineage(n, Tier::Protected).key()).collect();
        assert_eq!(keys.len(), names.len());
        for key in keys {
            assert_eq!(LineageKey::parse(key.as_str()), Some(key.clone()), "{key}");
            assert!(key.as_str().len() < 120, "{key}");
        }
    }

    #[test]
    fn key_parse_refuses_what_leaves_the_folder() {
        for text in ["", ".", "..", "../x", "a/b", "-rf", "a b", "a\n"] {
            assert_eq!(LineageKey::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn trust_table_holds() {
        let protected = lineage("a", Tier::Protected);
        let unprotected = lineage("b", Tier::Unprotected);
        assert!(!protected.may_fall_back_to(&unprotected, true), "protected never reads unprotected");
        assert!(!unprotected.may_fall_back_to(&protected, false), "closed by default");
        assert!(unprotected.may_fall_back_to(&protected, true), "open where the project says so");
        let mut other = lineage("a", Tier::Protected);
        other.project = ProjectId(8);
        assert!(!protected.may_fall_back_to(&other, true), "nothing crosses projects");
        let mut newer = lineage("a", Tier::Protected);
        newer.kind.major = 27;
        assert!(!protected.may_fall_back_to(&newer, true), "another engine's metadata");
    }
}
