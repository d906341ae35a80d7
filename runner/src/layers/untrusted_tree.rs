//! The only code that walks a directory an engine has written.
//!
//! What an engine wrote is hostile: symlinks where folders should be, FIFOs, devices, sparse giants, folders nested
//! ten thousand deep. Every path is resolved beneath an open root, through no symlink and no mount point (`openat2`);
//! nothing but regular files is ever opened for reading; bytes, inodes and depth are capped.

mod copy;
mod digest;
mod durable;
mod remove;

pub use copy::copy;
pub use digest::{digest_file, digest_tree};
pub use durable::make_durable;
pub use remove::remove;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How much of a tree is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of all files together, holes included: what reading them would take.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
    /// Folders within folders.
    pub depth: usize,
}

/// Why a tree was not accepted, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Its content is not what an engine makes.
    #[error("{path}: {what}")]
    Objection {
        /// Beneath the tree's root.
        path: PathBuf,
        /// What it is.
        what: Objection,
    },
    /// The disk said no.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// A folder or file was expected, a symlink, a mount point or a way out of the tree was found.
    LeavesTheTree,
    /// A device node other than an overlay whiteout or one of those every image may carry.
    Device,
    /// Something else than a file, folder, link, FIFO or socket, or a file where a folder was expected.
    WrongType,
    /// More bytes than accepted.
    TooManyBytes,
    /// More inodes than accepted.
    TooManyInodes,
    /// Deeper than accepted.
    TooDeep,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Objection::LeavesTheTree => "leads out of the engine's own folder",
            Objection::Device => "is a device node",
            Objection::WrongType => "is not of the expected type",
            Objection::TooManyBytes => "goes beyond the bytes one engine may leave",
            Objection::TooManyInodes => "goes beyond the files one engine may leave",
            Objection::TooDeep => "is nested too deep",
        })
    }
}

pub(crate) fn objection(path: &Path, what: Objection) -> TreeError {
    TreeError::Objection { path: path.to_owned(), what }
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> TreeError {
    let path = path.to_owned();
    move |errno| TreeError::Io { doing, path, source: errno.into() }
}

/// An open folder that an engine has written.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// Opens the root. Everything above it is ours.
    ///
    /// # Errors
    /// It is missing, or not a folder.
    pub fn open(path: &Path) -> Result<Tree, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))?;
        Ok(Tree { fd, path: path.to_owned() })
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// A folder beneath; `None` when there is none.
    ///
    /// # Errors
    /// A component is not a folder, or leads elsewhere.
    pub fn dir(&self, relative: &Path) -> Result<Option<Tree>, TreeError> {
        if relative.as_os_str().is_empty() {
            let fd = rustix::io::dup(&self.fd).map_err(failed("open", &self.path))?;
            return Ok(Some(Tree { fd, path: self.path.clone() }));
        }
        match self.open_beneath(relative, OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(Tree { fd, path: self.path.join(relative) })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => Err(objection(relative, Objection::LeavesTheTree)),
            Err(Errno::NOTDIR) => Err(objection(relative, self.not_a_folder(relative))),
            Err(Errno::NAMETOOLONG) => Err(objection(relative, Objection::TooDeep)),
            Err(errno) => Err(failed("open", &self.path.join(relative))(errno)),
        }
    }

    /// A symlink as the last component answers ENOTDIR like a file does; people want to know which.
    fn not_a_folder(&self, relative: &Path) -> Objection {
        match rustix::fs::statat(&self.fd, relative, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if file_type(&stat) == FileType::Symlink => Objection::LeavesTheTree,
            _ => Objection::WrongType,
        }
    }

    pub(crate) fn open_beneath(&self, relative: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        // NONBLOCK: opening a FIFO that took a file's place must not wait for a writer.
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// What an entry of this very folder is; `None` when there is none. Never follows it.
    ///
    /// # Errors
    /// The disk's.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>, TreeError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look at", &self.path.join(name))(errno)),
        }
    }

    /// Names in this folder, at most `limit`, in no order.
    ///
    /// # Errors
    /// There are more, or the disk's.
    pub fn names(&self, limit: u64) -> Result<Vec<OsString>, TreeError> {
        let mut names = Vec::new();
        let dir = rustix::fs::Dir::read_from(&self.fd).map_err(failed("read", &self.path))?;
        for entry in dir {
            let entry = entry.map_err(failed("read", &self.path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() as u64 >= limit {
                return Err(objection(&self.path, Objection::TooManyInodes));
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        Ok(names)
    }

    /// Whether it has no entries.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_empty(&self) -> Result<bool, TreeError> {
        match self.names(0) {
            Ok(_) => Ok(true),
            Err(TreeError::Objection { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The target of a symlink in this very folder.
    ///
    /// # Errors
    /// It is none.
    pub fn link_target(&self, name: &OsStr) -> Result<OsString, TreeError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(failed("read the link", &self.path.join(name)))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Moves an entry of this very folder to `to`, as `new_name`; never overwrites.
    ///
    /// # Errors
    /// The name is taken, or the folders are on two filesystems.
    pub fn move_out(&self, name: &OsStr, to: &Tree, new_name: &OsStr) -> Result<(), TreeError> {
        rustix::fs::renameat_with(&self.fd, name, &to.fd, new_name, RenameFlags::NOREPLACE)
            .map_err(failed("move", &self.path.join(name)))
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Bytes a file takes on the disk: holes not counted.
#[must_use]
pub fn allocated(stat: &Stat) -> u64 {
    // stat(2): st_blocks is in units of 512 bytes whatever the filesystem's block is.
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// What was counted so far; several trees may share one, so that a file linked into two is counted once.
#[derive(Debug, Default)]
pub struct Tally {
    linked: HashSet<(u64, u64)>,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes that reading would yield.
    pub length: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

impl Tally {
    /// Counts one entry and holds the sums against `limits`.
    ///
    /// # Errors
    /// A limit is passed.
    pub fn add(&mut self, path: &Path, stat: &Stat, limits: &Limits) -> Result<(), TreeError> {
        let links = stat.st_nlink > 1 && file_type(stat) != FileType::Directory;
        if links && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.bytes += allocated(stat);
        self.inodes += 1;
        if file_type(stat) == FileType::RegularFile {
            self.length = self.length.saturating_add(u64::try_from(stat.st_size).unwrap_or(u64::MAX));
        }
        if self.length > limits.bytes || self.bytes > limits.bytes {
            return Err(objection(path, Objection::TooManyBytes));
        }
        if self.inodes > limits.inodes {
            return Err(objection(path, Objection::TooManyInodes));
        }
        Ok(())
    }
}

/// Device numbers an image may carry: null, zero, full, random, urandom; tty, console, ptmx (Linux
/// `devices.txt`). 0:0 is overlay's whiteout.
const HARMLESS_DEVICES: [(u32, u32); 9] = [(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

fn check_type(path: &Path, stat: &Stat) -> Result<(), TreeError> {
    match file_type(stat) {
        FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Fifo | FileType::Socket => Ok(()),
        FileType::CharacterDevice => {
            let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            if HARMLESS_DEVICES.contains(&number) { Ok(()) } else { Err(objection(path, Objection::Device)) }
        }
        FileType::BlockDevice => Err(objection(path, Objection::Device)),
        FileType::Unknown => Err(objection(path, Objection::WrongType)),
    }
}

/// One entry of a walk.
pub(crate) struct Entry<'a> {
    /// The folder it is in.
    pub folder: &'a Tree,
    pub name: &'a OsStr,
    /// Beneath the walk's root.
    pub path: &'a Path,
    pub stat: &'a Stat,
}

/// Visits everything beneath `root`, each folder's names in byte order, a folder before what it holds; the root
/// itself is not visited. Holds one folder open at a time.
pub(crate) fn walk(
    root: &Tree,
    limits: &Limits,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let mut folders = vec![(PathBuf::new(), 0usize)];
    while let Some((relative, depth)) = folders.pop() {
        if depth > limits.depth {
            return Err(objection(&relative, Objection::TooDeep));
        }
        let Some(folder) = root.dir(&relative)? else {
            return Err(failed("open", &relative)(Errno::NOENT));
        };
        let mut names = folder.names(limits.inodes)?;
        names.sort_unstable();
        let mut below = Vec::new();
        for name in &names {
            let path = relative.join(name);
            let Some(stat) = folder.stat(name)? else {
                return Err(failed("look at", &path)(Errno::NOENT));
            };
            check_type(&path, &stat)?;
            visit(&Entry { folder: &folder, name, path: &path, stat: &stat })?;
            if file_type(&stat) == FileType::Directory {
                below.push((path, depth + 1));
            }
        }
        folders.extend(below.into_iter().rev());
    }
    Ok(())
}

/// Examines everything beneath `root` and adds it, and the root, to `tally`.
///
/// # Errors
/// Something in it is not what an engine makes, or a limit is passed.
pub fn examine(root: &Tree, limits: &Limits, tally: &mut Tally) -> Result<(), TreeError> {
    let stat = rustix::fs::fstat(&root.fd).map_err(failed("look at", &root.path))?;
    tally.add(&root.path, &stat, limits)?;
    walk(root, limits, &mut |entry| tally.add(entry.path, entry.stat, limits))
}

/// Whether `name` is `digits` lower-case hex digits and nothing else.
pub(crate) fn is_hex(name: &OsStr, digits: usize) -> bool {
    name.len() == digits && name.as_bytes().iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}
