//! Digests: a flipped byte, a changed mode, a missing or added entry changes them.

use super::{Limits, Tree, TreeError, failed, file_type, walk};
use crate::layers::lineage::hex;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes read at once.
const CHUNK: usize = 128 * 1024;

/// SHA-256 of one regular file in `folder`, hex.
///
/// # Errors
/// It is not a regular file, or cannot be read.
pub fn digest_file(folder: &Tree, name: &OsStr) -> Result<String, TreeError> {
    let mut hash = Sha256::new();
    content(folder, name, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

fn content(folder: &Tree, name: &OsStr, hash: &mut Sha256) -> Result<(), TreeError> {
    let path = folder.path().join(name);
    let fd = folder.open_beneath(Path::new(name), OFlags::empty()).map_err(failed("open", &path))?;
    let mut file = File::from(fd);
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let n = match file.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(TreeError::Io { doing: "read", path, source }),
        };
        if n == 0 {
            return Ok(());
        }
        hash.update(&buffer[..n]);
    }
}

/// SHA-256, hex, over everything beneath `root` in byte order of its paths: path, type, mode, owner, device number,
/// link target, extended attributes, content. Times are not in it.
///
/// # Errors
/// As for a walk.
pub fn digest_tree(root: &Tree, limits: &Limits) -> Result<String, TreeError> {
    let mut hash = Sha256::new();
    let part = |hash: &mut Sha256, bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    walk(root, limits, &mut |entry| {
        let stat = entry.stat;
        part(&mut hash, entry.path.as_os_str().as_bytes());
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            hash.update(number.to_le_bytes());
        }
        match file_type(stat) {
            FileType::RegularFile => {
                hash.update(stat.st_size.to_le_bytes());
                attributes(entry.folder, entry.name, &mut |name, value| {
                    part(&mut hash, name);
                    part(&mut hash, value);
                })?;
                content(entry.folder, entry.name, &mut hash)?;
            }
            FileType::Directory => attributes(entry.folder, entry.name, &mut |name, value| {
                part(&mut hash, name);
                part(&mut hash, value);
            })?,
            FileType::Symlink => part(&mut hash, entry.folder.link_target(entry.name)?.as_bytes()),
            FileType::CharacterDevice | FileType::BlockDevice => hash.update(stat.st_rdev.to_le_bytes()),
            FileType::Fifo | FileType::Socket | FileType::Unknown => {}
        }
        Ok(())
    })?;
    Ok(hex(&hash.finalize()))
}

/// Largest list of names and largest value of extended attributes (`xattr(7)`: both limits of Linux).
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// Gives each extended attribute of a regular file or folder, in order of name.
pub(super) fn attributes(folder: &Tree, name: &OsStr, give: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), TreeError> {
    let path = folder.path().join(name);
    let fd = folder.open_beneath(Path::new(name), OFlags::empty()).map_err(failed("open", &path))?;
    let mut list = vec![0u8; 256];
    let length = loop {
        match rustix::fs::flistxattr(&fd, list.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < ATTRIBUTE_MAX => list.resize(ATTRIBUTE_MAX, 0),
            Err(Errno::NOTSUP) => break 0,
            Err(errno) => return Err(failed("list attributes of", &path)(errno)),
        }
    };
    let mut names: Vec<&[u8]> = list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    let mut value = Vec::new();
    for attribute in names {
        value.resize(ATTRIBUTE_MAX, 0);
        let length = rustix::fs::fgetxattr(&fd, attribute, value.as_mut_slice())
            .map_err(failed("read an attribute of", &path))?;
        give(attribute, &value[..length]);
    }
    Ok(())
}
