//! A folder that a job has written, walked and changed without ever leaving it.
//!
//! Every path is resolved by the kernel (`openat2`) beneath the folder, through no symlink and onto no other mount, so
//! neither a link the job left nor one it swaps in while we look leads outside.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders within folders that a walk goes down.
const DEPTH_MAX: usize = 512;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File {
        /// Its size when it was seen.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link, never followed.
    Link {
        /// What it says.
        target: Vec<u8>,
    },
    /// A device, FIFO or socket: never opened.
    Special,
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder, `/` between components.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, without set-user-id and its like.
    pub mode: u32,
    /// Seconds since 1970 of its last change.
    pub modified: i64,
    /// And nanoseconds.
    pub modified_nanos: i64,
}

/// A folder and what is beneath it.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
}

impl Folder {
    /// Opens the folder itself. Its own path is ours and trusted, but for its last component.
    ///
    /// # Errors
    /// It is not there, or not a folder.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Folder { root: nix::fcntl::open(path, flags, Mode::empty())? })
    }

    /// The folder at `path` beneath this one, for what is to stay within it.
    ///
    /// # Errors
    /// It is not there, not a folder, or reached through a link.
    pub fn folder(&self, path: &[u8]) -> io::Result<Folder> {
        Ok(Folder { root: self.at(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)? })
    }

    fn at(&self, path: &[u8], flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let mut how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(mode));
        }
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        loop {
            match openat2(&self.root, Path::new(path), how) {
                // The kernel could not tell whether a rename led outside, and asks to be asked again.
                Err(Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    fn folder_of(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
        self.at(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)
    }

    /// What stands at `path`.
    ///
    /// # Errors
    /// Nothing does, or a component before the last is not a real folder.
    pub fn look(&self, path: &[u8]) -> io::Result<Entry> {
        let parent = self.folder_of(path)?;
        let name = last(path);
        entry_at(&parent, if name.is_empty() { b"." } else { name }, path.to_owned())
    }

    /// Names and kinds of what is directly in the folder at `path`, sorted by name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, path: &[u8]) -> io::Result<Vec<Entry>> {
        let fd = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        let mut dir = Dir::from_fd(fd)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let mut full = path.to_vec();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(&name);
            match entry_at(&dir, &name, full) {
                Ok(entry) => entries.push(entry),
                // Gone since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Calls `visit` for everything beneath `start` (not `start` itself), folders before what is in them; `visit` says
    /// whether to go into a folder.
    ///
    /// # Errors
    /// A folder cannot be read, or `visit` failed.
    pub fn walk(&self, start: &[u8], visit: &mut dyn FnMut(&Entry) -> io::Result<bool>) -> io::Result<()> {
        let mut waiting: Vec<(Vec<u8>, usize)> = vec![(start.to_vec(), 0)];
        while let Some((path, depth)) = waiting.pop() {
            let entries = match self.list(&path) {
                Ok(entries) => entries,
                // Another took it away, or put a link there: then it is no folder of the tree any more.
                Err(error) if !path.is_empty() && is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                if visit(&entry)? && entry.kind == Kind::Folder {
                    if depth >= DEPTH_MAX {
                        return Err(io::Error::other(format!(
                            "{} is nested more than {DEPTH_MAX} folders deep",
                            String::from_utf8_lossy(&entry.path)
                        )));
                    }
                    waiting.push((entry.path, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It is something else, or not there.
    pub fn read(&self, path: &[u8]) -> io::Result<File> {
        // O_NONBLOCK: a FIFO put there would block the open.
        let file = File::from(self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW, 0)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }

    /// Makes a new regular file in place of whatever file or link stands there.
    ///
    /// # Errors
    /// A folder stands there, or the file system failed.
    pub fn create(&self, path: &[u8], mode: u32) -> io::Result<File> {
        self.remove_file(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let file = self.at(path, flags, 0o600)?;
        // Not left to the umask.
        fchmod(&file, Mode::from_bits_truncate(mode & 0o777))?;
        Ok(File::from(file))
    }

    /// Makes a symbolic link in place of whatever file or link stands there.
    ///
    /// # Errors
    /// A folder stands there, or the file system failed.
    pub fn link(&self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.remove_file(path)?;
        symlinkat(OsStr::from_bytes(target), self.folder_of(path)?, OsStr::from_bytes(last(path)))?;
        Ok(())
    }

    /// Makes the folder `path` and those above it; one that is there stays as it is.
    ///
    /// # Errors
    /// Something else stands in the way.
    pub fn make_folders(&self, path: &[u8], mode: u32) -> io::Result<()> {
        if path.is_empty() || self.at(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).is_ok() {
            return Ok(());
        }
        let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
        for end in ends {
            let parent = self.folder_of(&path[..end])?;
            match mkdirat(&parent, OsStr::from_bytes(last(&path[..end])), Mode::from_bits_truncate(0o700)) {
                Ok(()) => {
                    let made = self.at(&path[..end], OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
                    fchmod(&made, Mode::from_bits_truncate(mode & 0o777))?;
                }
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A link in the place of a folder ends here.
        self.at(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).map(|_| ())
    }

    /// Moves `path` to `target` in another folder (same file system), replacing a file there.
    ///
    /// # Errors
    /// As `renameat(2)`.
    pub fn rename(&self, path: &[u8], to: &Folder, target: &[u8]) -> io::Result<()> {
        nix::fcntl::renameat(
            self.folder_of(path)?,
            OsStr::from_bytes(last(path)),
            to.folder_of(target)?,
            OsStr::from_bytes(last(target)),
        )?;
        Ok(())
    }

    /// Moves everything beneath `path` to the same place in another folder; `false` when that is on another file
    /// system. What is there already is merged: files are replaced, folders stay.
    ///
    /// # Errors
    /// A folder stands where a file should be or the other way round, or the file system failed.
    pub fn move_all(&self, path: &[u8], to: &Folder) -> io::Result<bool> {
        for entry in self.list(path)? {
            let merge = entry.kind == Kind::Folder && to.look(&entry.path).is_ok_and(|e| e.kind == Kind::Folder);
            if merge {
                if !self.move_all(&entry.path, to)? {
                    return Ok(false);
                }
                continue;
            }
            match self.rename(&entry.path, to, &entry.path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Changes a folder's permissions.
    ///
    /// # Errors
    /// It is not a folder.
    pub fn permit_folder(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let folder = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        fchmod(&folder, Mode::from_bits_truncate(mode & 0o777))?;
        Ok(())
    }

    /// Removes a file or link; nothing there is fine.
    fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        match unlinkat(self.folder_of(path)?, OsStr::from_bytes(last(path)), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The last component.
fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// What the kernel says of something that was there a moment ago and is no longer, or is a link or file now.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV)
    )
}

fn entry_at(folder: impl AsFd, name: &[u8], path: Vec<u8>) -> io::Result<Entry> {
    let name = OsStr::from_bytes(name);
    let stat = fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File { bytes: u64::try_from(stat.st_size).unwrap_or(0) },
        SFlag::S_IFDIR => Kind::Folder,
        SFlag::S_IFLNK => Kind::Link { target: readlinkat(&folder, name)?.as_bytes().to_vec() },
        _ => Kind::Special,
    };
    Ok(Entry { path, kind, mode: stat.st_mode & 0o777, modified: stat.st_mtime, modified_nanos: stat.st_mtime_nsec })
}
