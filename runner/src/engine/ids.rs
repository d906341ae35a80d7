//! Ranges of user ids: every engine has one of its own, so that not even a mistake of the kernel's makes one engine's
//! root the owner of another's files.

use super::error::{EngineError, Tried};
use super::spaces::IDS;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// First id of the first range: above what systemd gives to its containers (docs: UIDS-GIDS, 0x6FFFFFFF).
const FIRST: u32 = 0x7000_0000;
/// Ranges below systemd's next reserved one.
const RANGES: u32 = 4000;
/// Claims, one file a range. Machine-wide, so that two runners on a machine agree; gone with a reboot, as engines are.
const CLAIMS: &str = "/run/slipway/ids";

/// A range that is this engine's alone until it is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct IdRange(u32);

impl IdRange {
    /// Claims a free range for the engine whose folder is `owner`.
    pub(super) fn claim(owner: &Path) -> Result<IdRange, EngineError> {
        std::fs::create_dir_all(CLAIMS).tried("make", CLAIMS)?;
        // Start somewhere that differs between engines, so that claims do not all collide on the first.
        let start = crc32fast::hash(owner.as_os_str().as_encoded_bytes()) % RANGES;
        for step in 0..RANGES {
            let number = (start + step) % RANGES;
            let path = claim_path(number);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(owner.as_os_str().as_encoded_bytes()).tried("write", &path)?;
                    return Ok(IdRange(number));
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).tried("claim", &path),
            }
        }
        Err(EngineError::NoIds(RANGES))
    }

    /// What uid 0 of the engine is outside.
    #[must_use]
    pub(crate) fn base(&self) -> u32 {
        FIRST + self.0 * IDS
    }

    /// Gives it back, if it is still `owner`'s.
    pub(super) fn release(&self, owner: &Path) {
        let path = claim_path(self.0);
        if std::fs::read(&path).is_ok_and(|by| by == owner.as_os_str().as_encoded_bytes()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Gives back the ranges of `lent` folders that no longer exist: their runner died between claim and record.
pub(super) fn release_orphans(lent: &Path) {
    let Ok(claims) = std::fs::read_dir(CLAIMS) else { return };
    for claim in claims.flatten() {
        let Ok(owner) = std::fs::read_to_string(claim.path()) else { continue };
        if Path::new(&owner).starts_with(lent) && !Path::new(&owner).exists() {
            let _ = std::fs::remove_file(claim.path());
        }
    }
}

fn claim_path(number: u32) -> PathBuf {
    PathBuf::from(format!("{CLAIMS}/{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_end_below_the_reserved_ones() {
        assert_eq!(IdRange(1).base() - IdRange(0).base(), IDS);
        assert!(IdRange(RANGES - 1).base() + IDS <= 0x7FFE_0000, "systemd's foreign range begins at 0x7FFE0000");
    }
}
