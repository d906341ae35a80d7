//! Which block device is under a path.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A block device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// Driver.
    pub major: u64,
    /// Which of the driver's.
    pub minor: u64,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl DeviceId {
    fn of(number: u64) -> Self {
        DeviceId { major: nix::sys::stat::major(number), minor: nix::sys::stat::minor(number) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DeviceId { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// The device whose queue the files under `path` share: of a partition the whole disk (its neighbours fill the same
/// queue), of loop, device-mapper and RAID devices the device itself, which counts its own requests.
///
/// `None` for file systems without one: tmpfs, NFS, an overlay.
///
/// # Errors
/// `path` cannot be looked at.
pub fn device_under(path: &Path) -> io::Result<Option<DeviceId>> {
    let device = DeviceId::of(std::fs::metadata(path)?.dev());
    let device = if device.major == 0 {
        // btrfs and its like number their file systems themselves; the mount table names the device.
        match mount_source(path)? {
            Some(source) => DeviceId::of(std::fs::metadata(source)?.rdev()),
            None => return Ok(None),
        }
    } else {
        device
    };
    Ok(Some(whole_disk(Path::new("/sys/dev/block"), device)))
}

/// The disk that the partition `device` is part of, or `device`.
fn whole_disk(sys_dev_block: &Path, device: DeviceId) -> DeviceId {
    let Ok(folder) = std::fs::canonicalize(sys_dev_block.join(device.to_string())) else { return device };
    if !folder.join("partition").exists() {
        return device;
    }
    folder
        .parent()
        .and_then(|disk| std::fs::read_to_string(disk.join("dev")).ok())
        .and_then(|text| DeviceId::parse(&text))
        .unwrap_or(device)
}

/// The device file of the mount that `path` is on.
fn mount_source(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = std::fs::canonicalize(path)?;
    let table = procfs::process::Process::myself().and_then(|me| me.mountinfo()).map_err(io::Error::other)?;
    let mount = table.0.into_iter().filter(|m| path.starts_with(&m.mount_point)).max_by_key(|m| {
        // The deepest mount point wins, and of two at the same place the later one.
        (m.mount_point.components().count(), m.mnt_id)
    });
    Ok(mount.and_then(|m| m.mount_source).map(PathBuf::from).filter(|source| source.starts_with("/dev")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_gives_its_disk_and_a_loop_device_itself() {
        let sys = tempfile::tempdir().expect("a temporary folder");
        let disk = sys.path().join("devices/nvme0n1");
        let part = disk.join("nvme0n1p3");
        let ring = sys.path().join("devices/loop4");
        let block = sys.path().join("dev");
        for folder in [&part, &ring, &block] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        std::fs::write(disk.join("dev"), "259:0\n").expect("dev");
        std::fs::write(part.join("dev"), "259:3\n").expect("dev");
        std::fs::write(part.join("partition"), "3\n").expect("partition");
        std::fs::write(ring.join("dev"), "7:4\n").expect("dev");
        std::os::unix::fs::symlink(&part, block.join("259:3")).expect("link");
        std::os::unix::fs::symlink(&ring, block.join("7:4")).expect("link");

        let whole = |major, minor| whole_disk(&block, DeviceId { major, minor });
        assert_eq!(whole(259, 3), DeviceId { major: 259, minor: 0 });
        assert_eq!(whole(7, 4), DeviceId { major: 7, minor: 4 });
        assert_eq!(whole(8, 1), DeviceId { major: 8, minor: 1 }, "a device that sysfs does not know");
    }
}
