//! An archive of an earlier job brought into a work tree. The archive is hostile: another branch's job made it.

use super::{ArtifactError, Bounds, shown};
use crate::confined::Folder;
use nix::sys::stat::SFlag;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use zip::ZipArchive;

/// A link's target may be this long (PATH_MAX).
const TARGET_BYTES_MAX: u64 = 4096;

/// What came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files and links.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Extracts `archive` into the folder. Files that are there are replaced; folders stay.
///
/// Nothing is written outside of the folder: names with `..` or in absolute form are refused, and the kernel resolves
/// every path without following a link, so a link in the archive leads no later entry out. Devices, FIFOs and sockets
/// are refused, set-user-id bits dropped. What comes out is counted as it is written, so a zip bomb ends at the bound.
///
/// # Errors
/// As said. What was extracted before stays.
pub fn extract(archive: File, folder: &Folder, bounds: Bounds) -> Result<Extracted, ArtifactError> {
    let mut archive = BufReader::with_capacity(1 << 16, archive);
    let mut magic = Vec::new();
    archive.by_ref().take(4).read_to_end(&mut magic).map_err(broken)?;
    archive.seek(SeekFrom::Start(0)).map_err(broken)?;
    match magic.as_slice() {
        b"PK\x03\x04" | b"PK\x05\x06" | b"PK\x07\x08" => {}
        [0x1f, 0x8b, ..] => return Err(ArtifactError::Archive("a gzip file is not an archive of files".into())),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            return Err(ArtifactError::Archive("a tar.zst archive; upload artifacts as zip".into()));
        }
        _ => return Err(ArtifactError::Archive("it is neither zip nor anything else we know".into())),
    }
    let mut zip = ZipArchive::new(archive).map_err(broken)?;
    if zip.len() as u64 > bounds.entries {
        return Err(ArtifactError::TooMany { limit: bounds.entries });
    }
    let mut extracted = Extracted::default();
    // Folders get their own permissions last: one without the write bit would take no files.
    let mut folders: Vec<(Vec<u8>, u32)> = Vec::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(broken)?;
        if entry.encrypted() {
            return Err(refuse(entry.name_raw(), "it is encrypted"));
        }
        let raw = entry.name_raw().to_vec();
        let is_folder = raw.ends_with(b"/");
        let path = checked_path(&raw)?;
        let mode = entry.unix_mode();
        let kind = SFlag::from_bits_truncate(mode.unwrap_or(0) & SFlag::S_IFMT.bits());
        let failed = |what| ArtifactError::file(what, &path);
        if let Some(at) = path.iter().rposition(|b| *b == b'/') {
            folder.make_folders(&path[..at], 0o777).map_err(failed("make the folder of"))?;
        }
        match kind {
            SFlag::S_IFLNK => {
                let mut target = Vec::new();
                entry.by_ref().take(TARGET_BYTES_MAX + 1).read_to_end(&mut target).map_err(broken)?;
                if target.is_empty() || target.len() as u64 > TARGET_BYTES_MAX || target.contains(&0) {
                    return Err(refuse(&raw, "its target is empty, too long, or no path"));
                }
                folder.link(&path, &target).map_err(failed("make the link"))?;
                extracted.files += 1;
            }
            _ if is_folder => {
                if !path.is_empty() {
                    folder.make_folders(&path, 0o777).map_err(failed("make the folder"))?;
                    folders.push((path, mode.map_or(0o777, |mode| mode & 0o777)));
                }
            }
            SFlag::S_IFDIR => return Err(refuse(&raw, "it is a folder by its mode and a file by its name")),
            // Archives made elsewhere than on Unix have no mode.
            kind if kind.is_empty() || kind == SFlag::S_IFREG => {
                let mode = mode.map_or(0o666, |mode| mode & 0o777);
                let mut file = folder.create(&path, if mode == 0 { 0o666 } else { mode }).map_err(failed("write"))?;
                extracted.bytes = copy(&mut entry, &mut file, extracted.bytes, bounds.bytes, &path)?;
                extracted.files += 1;
            }
            _ => return Err(refuse(&raw, "it is a device, a FIFO or a socket")),
        }
    }
    for (path, mode) in folders.into_iter().rev() {
        folder.permit_folder(&path, mode | 0o700).map_err(ArtifactError::file("set the permissions of", &path))?;
    }
    Ok(extracted)
}

fn copy(from: &mut impl Read, to: &mut File, before: u64, limit: u64, path: &[u8]) -> Result<u64, ArtifactError> {
    let mut all = before;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).map_err(broken)?;
        if read == 0 {
            return Ok(all);
        }
        all = all.saturating_add(read as u64);
        if all > limit {
            return Err(ArtifactError::TooLarge { limit });
        }
        to.write_all(&buffer[..read]).map_err(ArtifactError::file("write", path))?;
    }
}

/// The entry's path without `./` and the slash at its end.
fn checked_path(raw: &[u8]) -> Result<Vec<u8>, ArtifactError> {
    if raw.is_empty() || raw.len() > 4096 {
        return Err(refuse(raw, "its name is empty or too long"));
    }
    if raw.starts_with(b"/") {
        return Err(refuse(raw, "its name is an absolute path"));
    }
    if raw.contains(&0) {
        return Err(refuse(raw, "its name has a zero byte"));
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refuse(raw, "its name leads out of the folder")),
            part if part.len() > 255 => return Err(refuse(raw, "a component of its name is too long")),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    if path.is_empty() && !raw.ends_with(b"/") {
        return Err(refuse(raw, "its name is empty"));
    }
    Ok(path)
}

fn refuse(name: &[u8], why: &'static str) -> ArtifactError {
    ArtifactError::Entry { name: shown(name), why }
}

fn broken(error: impl Into<BrokenZip>) -> ArtifactError {
    ArtifactError::Archive(error.into().0)
}

struct BrokenZip(String);

impl From<io::Error> for BrokenZip {
    fn from(error: io::Error) -> Self {
        BrokenZip(error.to_string())
    }
}

impl From<zip::result::ZipError> for BrokenZip {
    fn from(error: zip::result::ZipError) -> Self {
        BrokenZip(error.to_string())
    }
}
