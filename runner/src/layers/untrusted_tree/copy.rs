//! A private copy of a tree: reflinked where the filesystem can, else byte by byte.

use super::digest::attributes;
use super::{Limits, Tree, TreeError, failed, file_type, walk};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Copies everything beneath `from` into `to`, a folder that is ours and empty: content, modes, owners, times,
/// attributes, hard links within the tree, symlinks as they are. FIFOs and sockets are left out: nobody is at their
/// other end.
///
/// # Errors
/// As for a walk, or `to` cannot be written.
pub fn copy(from: &Tree, to: &Path, limits: &Limits) -> Result<(), TreeError> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut folders: Vec<(PathBuf, Stat)> = Vec::new();
    walk(from, limits, &mut |entry| {
        let path = to.join(entry.path);
        let stat = entry.stat;
        match file_type(stat) {
            FileType::Directory => {
                rustix::fs::mkdir(&path, Mode::RWXU).map_err(failed("make", &path))?;
                attributes_onto(entry.folder, entry.name, &path)?;
                folders.push((path, *stat));
            }
            FileType::RegularFile => {
                let linked = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
                if let Some(first) = linked.and_then(|id| links.get(&id)) {
                    return rustix::fs::link(first, &path).map_err(failed("link", &path));
                }
                copy_file(entry.folder, entry.name, &path)?;
                attributes_onto(entry.folder, entry.name, &path)?;
                finish(&path, stat)?;
                if let Some(id) = linked {
                    links.insert(id, path);
                }
            }
            FileType::Symlink => {
                let target = entry.folder.link_target(entry.name)?;
                rustix::fs::symlink(&target, &path).map_err(failed("link", &path))?;
                own(&path, stat)?;
            }
            FileType::CharacterDevice => {
                rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode(stat), stat.st_rdev)
                    .map_err(failed("make", &path))?;
                finish(&path, stat)?;
            }
            FileType::BlockDevice | FileType::Fifo | FileType::Socket | FileType::Unknown => {}
        }
        Ok(())
    })?;
    // Children first: making them changed their folder's times, and a folder may be read-only.
    for (path, stat) in folders.iter().rev() {
        finish(path, stat)?;
    }
    Ok(())
}

fn copy_file(folder: &Tree, name: &std::ffi::OsStr, to: &Path) -> Result<(), TreeError> {
    let source = folder.open_beneath(Path::new(name), OFlags::empty()).map_err(failed("open", to))?;
    let wrap = |source: io::Error| TreeError::Io { doing: "copy to", path: to.to_owned(), source };
    let mut target = File::options().write(true).create_new(true).mode(0o600).open(to).map_err(wrap)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            io::copy(&mut File::from(source), &mut target).map_err(wrap)?;
            Ok(())
        }
        Err(errno) => Err(wrap(errno.into())),
    }
}

fn attributes_onto(folder: &Tree, name: &std::ffi::OsStr, to: &Path) -> Result<(), TreeError> {
    let mut outcome = Ok(());
    attributes(folder, name, &mut |attribute, value| {
        if outcome.is_ok() {
            outcome = rustix::fs::lsetxattr(to, attribute, value, XattrFlags::empty());
        }
    })?;
    outcome.map_err(failed("set an attribute of", to))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn own(path: &Path, stat: &Stat) -> Result<(), TreeError> {
    let (user, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(rustix::fs::CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("give away", path))
}

/// Owner first: changing it clears the set-user-id bit.
fn finish(path: &Path, stat: &Stat) -> Result<(), TreeError> {
    own(path, stat)?;
    rustix::fs::chmod(path, mode(stat)).map_err(failed("set the mode of", path))?;
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("date", path))
}
