//! Which wall this host can hold: found by trying, once, at the start.

use super::error::{EngineError, Tried};
use super::files;
use super::idmap::{self, Flags};
use super::ids::IdRange;
use super::mounts::{self, Plan};
use super::spaces::Spaces;
use crate::layers::Wall;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// A user namespace where the host can, else a privileged container.
    #[default]
    Auto,
    /// A user namespace, or no engines.
    Userns,
    /// A container as strong as `--privileged`.
    Container,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The wall engines are put behind.
    pub wall: Wall,
    /// Why this one, for people.
    pub why: String,
}

/// Tries in `folder`, which must be on the filesystem that engines will use.
///
/// # Errors
/// The configuration insists on what this host cannot hold.
pub fn probe(choice: Choice, folder: &Path) -> Result<Found, EngineError> {
    if choice == Choice::Container {
        return Ok(Found { wall: Wall::Container, why: "the configuration says so".into() });
    }
    match (try_userns(folder), choice) {
        (Ok(()), _) => Ok(Found { wall: Wall::Userns, why: "user namespaces and idmapped mounts work here".into() }),
        (Err(why), Choice::Userns) => Err(EngineError::NoWall { wall: "userns", why: why.to_string() }),
        (Err(why), Choice::Auto | Choice::Container) => Ok(Found {
            wall: Wall::Container,
            why: format!(
                "this host cannot hold the userns wall ({why}): engines are as strong as --privileged, serve trusted projects only"
            ),
        }),
    }
}

/// Does what a launch does, with a root filesystem of one file.
fn try_userns(folder: &Path) -> Result<(), EngineError> {
    let probe = tempfile::Builder::new().prefix("probe-").tempdir_in(folder).tried("make a folder in", folder)?;
    let at = probe.path();
    for name in ["lower", "root", "root/upper", "root/work", "data"] {
        files::make_dir(&at.join(name), 0o755)?;
    }
    files::write_file(&at.join("lower/file"), 0o644, "")?;
    let ids = IdRange::claim(at)?;
    let tried = (|| {
        let version = std::process::Command::new("runc").arg("--version").output().tried("start", "runc")?;
        if !version.status.success() {
            return Err(std::io::Error::other("it fails")).tried("start", "runc");
        }
        let spaces = Spaces::new(ids.base())?;
        mounts::apart(|| {
            let (lower, root, data) = (at.join("lower"), at.join("root"), at.join("data"));
            let plan = Plan { image: std::slice::from_ref(&lower), root: &root, data: &data, layers: None };
            let mounted = plan.mount(spaces.user(), ids.base())?;
            let file = mounted.root.join("file");
            let owner = std::fs::metadata(&file).tried("look at", &file)?.uid();
            if owner != ids.base() {
                let why = format!("owned by {owner} instead of {}", ids.base());
                return Err(std::io::Error::other(why)).tried("map the ids of", &file);
            }
            // An overlay whose upper folder cannot be mapped comes up read-only.
            files::write_file(&file, 0o644, "written")
        })
    })();
    ids.release(at);
    tried
}

/// Whether folders of this filesystem can be seen through other ids, for `slipway doctor`.
#[must_use]
pub fn can_idmap(folder: &Path) -> bool {
    let Ok(ids) = IdRange::claim(folder) else { return false };
    let tried = (|| {
        let spaces = Spaces::new(ids.base())?;
        mounts::apart(|| {
            files::make_dir(Path::new(mounts::AT), 0o755)?;
            idmap::bind(folder, Path::new(mounts::AT), Some(spaces.user()), Flags::default()).tried("map", folder)
        })
    })();
    ids.release(folder);
    tried.is_ok()
}
