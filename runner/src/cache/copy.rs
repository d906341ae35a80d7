//! A tree copied on all processors. What is copied keeps its permissions, owner and times; the rest of its attributes
//! is a container's business.

use crate::confined::{Entry, Folder, Kind};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that a thread takes at once: threads do not meet on the counter for every file.
const STRIDE: usize = 64;

/// Copies `entries` (folders before what is in them) from one folder to another; how many bytes.
///
/// A file that is gone is left out. On file systems with reflinks no data is copied.
pub(super) fn copy_entries(from: &Folder, to: &Folder, entries: &[Entry]) -> io::Result<u64> {
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Folder) {
        to.make_folders(&entry.path, entry.mode | 0o700)?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<u64> {
        let mut copied = 0;
        loop {
            let start = next.fetch_add(STRIDE, Ordering::Relaxed);
            if start >= entries.len() {
                return Ok(copied);
            }
            for entry in entries.iter().skip(start).take(STRIDE) {
                copied += copy_entry(from, to, entry)?;
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut copied = work();
        for thread in threads {
            match thread.join() {
                Ok(more) => copied = copied.and_then(|sum| more.map(|more| sum + more)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        copied
    })
}

fn copy_entry(from: &Folder, to: &Folder, entry: &Entry) -> io::Result<u64> {
    match &entry.kind {
        Kind::File { .. } => {
            let mut source = match from.read(&entry.path) {
                Ok(source) => source,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            };
            let parent = entry.path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &entry.path[..at]);
            to.make_folders(parent, 0o777)?;
            let mut target = to.create(&entry.path, entry.mode)?;
            // copy_file_range(2), which makes reflinks where there are any.
            let copied = io::copy(&mut source, &mut target)?;
            let data = source.metadata()?;
            if let Ok(modified) = data.modified() {
                target.set_times(std::fs::FileTimes::new().set_modified(modified))?;
            }
            keep_owner(&target, &data);
            Ok(copied)
        }
        Kind::Link { target } => to.link(&entry.path, target).map(|()| 0),
        Kind::Folder | Kind::Special => Ok(0),
    }
}

/// A runner that is not root cannot, and its containers' users are not its own then either.
fn keep_owner(target: &std::fs::File, data: &std::fs::Metadata) {
    use std::os::unix::fs::MetadataExt;
    if data.uid() != 0 || data.gid() != 0 {
        let _ = std::os::unix::fs::fchown(target, Some(data.uid()), Some(data.gid()));
    }
}

/// Everything in a folder, folders first.
pub(super) fn all_entries(folder: &Folder) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    folder.walk(b"", &mut |entry| {
        entries.push(entry.clone());
        Ok(true)
    })?;
    Ok(entries)
}
