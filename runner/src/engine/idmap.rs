//! Idmapped mounts: the three mount calls that no library we have wraps; and `pidfd_open`. The one file that may say
//! `unsafe`.
//!
//! `open_tree` takes a detached copy of a folder's mount, `mount_setattr` gives it an id mapping and flags,
//! `move_mount` puts it in its place. On disk everything stays owned by uid 0; through the mount it is owned by the
//! engine's own range. See `mount_setattr(2)`; kernel 5.12, for overlay's layers 5.19.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// `struct mount_attr`, version 0 (32 bytes).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

// Values of <linux/mount.h>, which libc has not for every target.
const OPEN_TREE_CLONE: c_uint = 1;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;

/// Mounts the folder `source` on the folder `target` in the caller's mount namespace, seen through the mapping of the
/// user namespace `ids` where one is given. Never recursive; device files in it are dead.
///
/// # Errors
/// `EINVAL` where the filesystem cannot be idmapped, `EPERM` without the right to mount.
pub(super) fn bind(source: &Path, target: &Path, ids: Option<BorrowedFd<'_>>, flags: Flags) -> io::Result<()> {
    let tree = open_tree(source)?;
    let mut attr = MountAttr { attr_set: MOUNT_ATTR_NODEV, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    if flags.read_only {
        attr.attr_set |= MOUNT_ATTR_RDONLY;
    }
    if flags.nosuid {
        attr.attr_set |= MOUNT_ATTR_NOSUID;
    }
    if let Some(ids) = ids {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::from(ids.as_raw_fd().unsigned_abs());
    }
    set_attr(&tree, &attr)?;
    attach(&tree, target)
}

/// Runs `act` with `owner` as the owner of what this thread makes on filesystems, and all capabilities kept.
///
/// An overlay remembers who mounted it and makes its own folders and whiteouts as that user. Through a mount that maps
/// ids, uid 0 of the host is nobody ("value too large"), and the overlay comes up read-only; `owner`, which the mount
/// maps to 0 on disk, is somebody.
pub(super) fn making_files_as<T>(owner: u32, act: impl FnOnce() -> T) -> io::Result<T> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    // SAFETY: prctl with integers only; it changes this thread.
    let before = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    if before < 0 {
        return Err(io::Error::last_os_error());
    }
    let set = |bits: c_int| {
        // SAFETY: as above.
        let done = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits.unsigned_abs()), 0, 0, 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(before | libc::SECBIT_NO_SETUID_FIXUP)?;
    let (user, group) = (setfsuid(Uid::from_raw(owner)), setfsgid(Gid::from_raw(owner)));
    let result = act();
    setfsuid(user);
    setfsgid(group);
    // Programs started from this thread would inherit them.
    set(before)?;
    Ok(result)
}

/// How a folder is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// Cannot be written through this mount.
    pub(super) read_only: bool,
    /// Programs do not change user through it.
    pub(super) nosuid: bool,
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0 as c_uint) };
    own(fd)
}

/// A handle on a process that stays with it, whoever gets its number later; readable once the process ended.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub(super) fn watch(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = pidfd(pid)?;
    // SAFETY: an `OwnedFd` gives the same descriptor as long as it lives, and nobody else closes it.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is NUL-terminated and lives through the call; the kernel only reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            path.as_ptr(),
            OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs(),
        )
    };
    own(fd)
}

fn set_attr(tree: &OwnedFd, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is a static empty string; `attr` is a `repr(C)` struct of the size given, read by the kernel.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: both paths are NUL-terminated and live through the call; the kernel only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn own(fd: std::ffi::c_long) -> io::Result<OwnedFd> {
    match c_int::try_from(fd) {
        // SAFETY: the kernel has just given us this descriptor and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
