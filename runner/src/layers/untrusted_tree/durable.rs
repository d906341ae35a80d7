//! Making a tree durable file by file.

use super::{Limits, Tree, TreeError, failed, file_type, walk};
use rustix::fs::{FileType, OFlags};
use std::path::Path;

/// Writes every file and folder beneath `root`, and the root, to the disk itself. For small trees: `syncfs` would also
/// write what every running build has written so far, most of which is thrown away unwritten otherwise.
///
/// # Errors
/// As for a walk, or the disk's.
pub fn make_durable(root: &Tree, limits: &Limits) -> Result<(), TreeError> {
    walk(root, limits, &mut |entry| {
        let flags = match file_type(entry.stat) {
            FileType::RegularFile => OFlags::empty(),
            FileType::Directory => OFlags::DIRECTORY,
            // Part of their folder.
            _ => return Ok(()),
        };
        let fd = entry.folder.open_beneath(Path::new(entry.name), flags).map_err(failed("open", entry.path))?;
        rustix::fs::fsync(&fd).map_err(failed("sync", entry.path))
    })?;
    rustix::fs::fsync(root.fd()).map_err(failed("sync", root.path()))
}
