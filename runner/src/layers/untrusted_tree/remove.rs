//! Removal that neither follows a link nor runs out of descriptors or stack, however deep and wide the tree.

use super::{Tree, TreeError, failed};
use crate::layers::lineage::hex;
use rustix::fs::{AtFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Folders open at once; a deeper one is moved up to the root and removed from there.
const DEPTH: usize = 64;
/// Names held in memory at once.
const BATCH: usize = 4096;

/// Removes the entry `name` of `root`, and all beneath it. What is not there is removed already.
///
/// # Errors
/// The disk's; what was removed until then is gone.
pub fn remove(root: &Tree, name: &OsStr) -> Result<(), TreeError> {
    let mut pending = vec![name.to_owned()];
    let mut moved = 0u64;
    while let Some(name) = pending.pop() {
        remove_entry(root, root, &name, 0, &mut moved, &mut pending)?;
    }
    Ok(())
}

fn remove_entry(
    root: &Tree,
    folder: &Tree,
    name: &OsStr,
    depth: usize,
    moved: &mut u64,
    pending: &mut Vec<OsString>,
) -> Result<(), TreeError> {
    let path = || folder.path().join(name);
    match rustix::fs::unlinkat(folder.fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed("remove", &path())(errno)),
    }
    if depth >= DEPTH {
        let up = aside(*moved);
        *moved += 1;
        rustix::fs::renameat_with(folder.fd(), name, root.fd(), &up, RenameFlags::NOREPLACE)
            .map_err(failed("move aside", &path()))?;
        pending.push(up);
        return Ok(());
    }
    let fd = match folder.open_beneath(Path::new(name), OFlags::DIRECTORY) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("open", &path())(errno)),
    };
    let inner = Tree { fd, path: path() };
    loop {
        let batch = some_names(&inner)?;
        if batch.is_empty() {
            break;
        }
        for entry in &batch {
            remove_entry(root, &inner, entry, depth + 1, moved, pending)?;
        }
    }
    match rustix::fs::unlinkat(folder.fd(), name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("remove", &path())(errno)),
    }
}

/// A name no engine could have foreseen, as the entry is moved among names of ours.
fn aside(count: u64) -> OsString {
    let mut random = [0u8; 8];
    // Without randomness the counter alone still cannot overwrite: the move refuses a taken name.
    let _ = getrandom::fill(&mut random);
    OsString::from(format!("aside-{}-{count}", hex(&random)))
}

fn some_names(folder: &Tree) -> Result<Vec<OsString>, TreeError> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder.fd()).map_err(failed("read", folder.path()))? {
        let entry = entry.map_err(failed("read", folder.path()))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
        if names.len() >= BATCH {
            break;
        }
    }
    Ok(names)
}
