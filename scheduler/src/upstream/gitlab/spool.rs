//! What is kept on disk of a job from before it is offered to the scheduler until GitLab has taken its final state.
//!
//! ```text
//! SPOOL/UPSTREAM/JOB/job.json   payload and tokens, 0600; its presence is the job
//!                    trace      the trace as the runner sent it, appended
//!                    taken      bytes of the *delivered* text that the server has confirmed, for people and restarts
//!                    accepted   the scheduler has the job: it is not offered again
//!                    end.json   how it ended
//! ```
//! `job.json` and `end.json` are written whole, by rename. The trace is not synced at each append: after a power cut
//! it may be shorter, [`super::super::Upstream::append_trace`] then answers with the length it has, and the scheduler
//! sends the rest again.

use super::log_text::LogText;
use crate::upstream::{End, RemoteJob, UpstreamJob};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Begins the names of folders that are being removed.
const GONE: &str = ".gone-";

/// What is known of a job from its payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The job for the scheduler; `None` for one that is only to be reported as failed.
    pub job: Option<UpstreamJob>,
    /// Its key.
    pub remote: RemoteJob,
    /// Its token.
    pub token: super::config::Secret,
    /// Reasons that the server knows beyond the three basic ones.
    #[serde(default)]
    pub failure_reasons: Vec<String>,
    /// The trace may show secrets: only developers are to see it.
    #[serde(default)]
    pub debug_trace: bool,
    /// Tokens by which the artifacts of other jobs are fetched, by their ids.
    #[serde(default)]
    pub dependency_tokens: BTreeMap<u64, super::config::Secret>,
    /// Bytes of trace that are delivered.
    pub output_limit: u64,
}

/// How far a job has come on our side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Bytes of trace taken from the runner.
    pub bytes: u64,
    /// Its end, once known.
    pub end: Option<End>,
}

/// The folder of one job, open.
#[derive(Debug)]
pub struct JobFolder {
    dir: PathBuf,
    facts: Facts,
    trace: Mutex<Trace>,
    held: watch::Sender<Held>,
}

#[derive(Debug)]
struct Trace {
    file: File,
    /// The folder is removed: nothing is taken any more.
    closed: bool,
}

/// The folder of all jobs of one upstream.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
}

impl Spool {
    /// Opens, or makes, the folder of an upstream.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: &Path, upstream: &str) -> io::Result<Self> {
        let root = root.join(upstream);
        std::fs::create_dir_all(&root)?;
        private(&root, 0o700)?;
        Ok(Spool { root })
    }

    /// The upstream's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Jobs left from before, in order of their numbers. What a crash left half made is removed, with a word in the
    /// log: such a job was never offered to the scheduler.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn left(&self) -> io::Result<Vec<JobFolder>> {
        let mut jobs = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let dir = entry.path();
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                match std::fs::remove_dir_all(&dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => continue,
                }
            }
            match JobFolder::open(&dir) {
                Ok(job) => jobs.push(job),
                Err(error) => {
                    tracing::error!(dir = %dir.display(), %error, "a job's spool cannot be read and is set aside");
                    let aside = dir.with_extension("unreadable");
                    if !dir.to_string_lossy().ends_with(".unreadable") {
                        std::fs::rename(&dir, aside)?;
                    }
                }
            }
        }
        jobs.sort_by_key(|job| job.facts.remote.id);
        Ok(jobs)
    }

    /// Makes a job's folder.
    ///
    /// # Errors
    /// It cannot be written; `AlreadyExists` when the server has handed out the same job twice.
    pub fn create(&self, facts: Facts) -> io::Result<JobFolder> {
        let dir = self.root.join(facts.remote.id.to_string());
        std::fs::create_dir(&dir)?;
        private(&dir, 0o700)?;
        write_whole(&dir.join("job.json"), &serde_json::to_vec(&facts)?)?;
        JobFolder::open(&dir)
    }
}

impl JobFolder {
    fn open(dir: &Path) -> io::Result<Self> {
        let facts: Facts = serde_json::from_slice(&std::fs::read(dir.join("job.json"))?)?;
        let trace = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("trace"))?;
        let end = match std::fs::read(dir.join("end.json")) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let bytes = trace.metadata()?.len();
        Ok(JobFolder {
            dir: dir.to_path_buf(),
            facts,
            trace: Mutex::new(Trace { file: trace, closed: false }),
            held: watch::Sender::new(Held { bytes, end }),
        })
    }

    /// What is known of the job.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How far it has come; changes with each append and with its end.
    #[must_use]
    pub fn held(&self) -> watch::Receiver<Held> {
        self.held.subscribe()
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends trace bytes that the runner has at `offset`; returns the length held. Bytes that are held are skipped,
    /// bytes beyond a gap are not taken. `None`: the job is put away.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<Option<u64>> {
        let trace = self.trace();
        if trace.closed {
            return Ok(None);
        }
        let held = self.held.borrow().bytes;
        let end = offset + bytes.len() as u64;
        if offset > held || end <= held {
            return Ok(Some(held));
        }
        let fresh = &bytes[(held - offset) as usize..];
        // Beyond the limit nothing is delivered: the length goes on as a hole that takes no space.
        let room = self.facts.output_limit.saturating_add(LogText::LOOKAHEAD).saturating_sub(held);
        let kept = fresh.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        trace.file.write_all_at(&fresh[..kept], held)?;
        if kept < fresh.len() {
            trace.file.set_len(end)?;
        }
        self.held.send_modify(|h| h.bytes = end);
        Ok(Some(end))
    }

    /// The job is put away: nothing of it is taken any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.trace().closed
    }

    /// Reads raw trace bytes at `offset`, at most `most`; fewer at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = self.held.borrow().bytes.saturating_sub(offset);
        let mut bytes = vec![0; most.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.trace().file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Notes the end; the first one counts. On disk when it returns. `None`: the job is put away.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(&self, end: End) -> io::Result<Option<()>> {
        let trace = self.trace();
        if trace.closed {
            return Ok(None);
        }
        if self.held.borrow().end.is_some() {
            return Ok(Some(()));
        }
        trace.file.sync_data()?;
        write_whole(&self.dir.join("end.json"), &serde_json::to_vec(&end)?)?;
        self.held.send_modify(|h| h.end = Some(end));
        Ok(Some(()))
    }

    /// Notes that the scheduler has the job.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_accepted(&self) -> io::Result<()> {
        write_whole(&self.dir.join("accepted"), b"")
    }

    /// Whether the scheduler has the job.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.dir.join("accepted").exists()
    }

    /// Bytes of delivered text that the server has confirmed, as last noted. A hint: the server has the last word.
    #[must_use]
    pub fn taken(&self) -> u64 {
        std::fs::read_to_string(self.dir.join("taken")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// Notes what the server has confirmed. Not synced: it is a hint.
    pub fn set_taken(&self, bytes: u64) {
        // Fixed width: each write covers the one before whole.
        if let Err(error) = std::fs::write(self.dir.join("taken"), format!("{bytes:020}\n")) {
            tracing::warn!(job = %self.facts.remote, %error, "cannot note what the server has of the trace");
        }
    }

    /// Removes the folder: the server has everything, or takes nothing more.
    pub fn remove(&self) {
        // Under the lock: who appends at this moment has either done so, or is told.
        let mut trace = self.trace();
        trace.closed = true;
        // By rename first, so that a crash in the middle does not leave half a job.
        let gone = self.dir.with_file_name(format!("{GONE}{}", self.facts.remote.id));
        let removed = std::fs::rename(&self.dir, &gone).and_then(|()| std::fs::remove_dir_all(&gone));
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(job = %self.facts.remote, %error, "cannot remove the spool of a job that is over");
        }
    }
}

fn private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Writes a file so that it is there whole or not at all, for the owner only.
///
/// # Errors
/// It cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = parent.join(format!(".{}.new", name.trim_start_matches('.')));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::outcome::Outcome;

    fn facts(id: u64, output_limit: u64) -> Facts {
        Facts {
            job: None,
            remote: RemoteJob { upstream: "g".into(), id },
            token: super::super::config::Secret("t".into()),
            failure_reasons: Vec::new(),
            debug_trace: false,
            dependency_tokens: BTreeMap::new(),
            output_limit,
        }
    }

    #[test]
    fn append_skips_what_is_held_and_refuses_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let job = Spool::open(dir.path(), "g").unwrap().create(facts(1, 1000)).unwrap();
        assert_eq!(job.append(0, b"hello").unwrap(), Some(5));
        assert_eq!(job.append(3, b"lo wo").unwrap(), Some(8));
        assert_eq!(job.append(0, b"hel").unwrap(), Some(8));
        assert_eq!(job.append(9, b"x").unwrap(), Some(8), "a gap is not taken");
        assert_eq!(job.read(0, 100).unwrap(), b"hello wo");
    }

    #[test]
    fn reopened_folder_has_trace_end_and_marks() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), "g").unwrap();
        let job = spool.create(facts(7, 1000)).unwrap();
        job.append(0, b"abc").unwrap();
        job.set_taken(2);
        job.set_accepted().unwrap();
        job.finish(End { outcome: Outcome::Success, trace_bytes: 3 }).unwrap();
        job.finish(End { outcome: Outcome::Canceled, trace_bytes: 3 }).unwrap();
        drop(job);
        let left = spool.left().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].taken(), 2);
        assert!(left[0].is_accepted());
        let held = left[0].held().borrow().clone();
        assert_eq!(held, Held { bytes: 3, end: Some(End { outcome: Outcome::Success, trace_bytes: 3 }) });
        left[0].remove();
        assert_eq!(left[0].append(3, b"d").unwrap(), None);
        assert_eq!(left[0].finish(End { outcome: Outcome::Success, trace_bytes: 3 }).unwrap(), None);
        assert!(spool.left().unwrap().is_empty());
    }

    #[test]
    fn bytes_beyond_the_limit_take_no_space() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let job = Spool::open(dir.path(), "g").unwrap().create(facts(1, 4096)).unwrap();
        let mut offset = 0;
        for _ in 0..64 {
            offset = job.append(offset, &[b'y'; 65536]).unwrap().unwrap();
        }
        assert_eq!(offset, 64 * 65536);
        let on_disk = std::fs::metadata(dir.path().join("g/1/trace")).unwrap();
        assert_eq!(on_disk.len(), offset);
        assert!(on_disk.blocks() * 512 <= 128 * 1024, "{} blocks", on_disk.blocks());
    }

    #[test]
    fn half_made_folder_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), "g").unwrap();
        std::fs::create_dir(dir.path().join("g/9")).unwrap();
        assert!(spool.left().unwrap().is_empty());
        assert!(dir.path().join("g/9.unreadable").exists());
        assert!(spool.left().unwrap().is_empty());
    }
}
