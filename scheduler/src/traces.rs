//! Traces: one append-only file a job, its length is what was acknowledged.
//!
//! A node may append under the fence that [`Traces::grant`] named last; a followed trace wakes its readers at every
//! append. Bytes are handed to the kernel before they are acknowledged: they outlive this process, not a power cut.

use slipway_spec::ids::{Fence, JobId};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Largest piece that is read at once.
pub const PIECE_BYTES: usize = 128 << 10;

/// The traces of one state folder.
#[derive(Clone)]
pub struct Traces {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    max_bytes: u64,
    open: Mutex<HashMap<JobId, Arc<Trace>>>,
}

/// A trace that grows, or may grow.
struct Trace {
    path: PathBuf,
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Inner {
    fence: Option<Fence>,
    file: Option<std::fs::File>,
    held: u64,
    /// The line that says that the trace was too long has been written.
    cut: bool,
}

/// How far a trace has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that can be read.
    pub length: u64,
    /// Nothing comes after them.
    pub over: bool,
}

/// Why bytes were not appended.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The lease is gone.
    #[error("the lease {fence} of job {job} is gone: stop the job and report nothing more of it")]
    StaleFence {
        /// Of which job.
        job: JobId,
        /// Under which fence.
        fence: Fence,
    },
    /// The file.
    #[error("cannot use the trace {path} of job {job}: {source}; check space and permissions of the state folder")]
    File {
        /// Of which job.
        job: JobId,
        /// Its file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trace {
    fn file<'i>(&self, inner: &'i mut Inner) -> io::Result<&'i std::fs::File> {
        if inner.file.is_none() {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file =
                std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&self.path)?;
            inner.held = file.metadata()?.len();
            inner.file = Some(file);
        }
        inner.file.as_ref().ok_or_else(|| io::Error::other("no file"))
    }
}

impl Traces {
    /// The traces of a folder.
    #[must_use]
    pub fn new(folder: PathBuf, max_bytes: u64) -> Traces {
        Traces { shared: Arc::new(Shared { folder, max_bytes, open: Mutex::default() }) }
    }

    /// Where a job's trace is. A thousand jobs a folder.
    #[must_use]
    pub fn path(&self, job: JobId) -> PathBuf {
        self.shared.folder.join((job.0 / 1000).to_string()).join(format!("{job}.log"))
    }

    fn entry(&self, job: JobId) -> Arc<Trace> {
        let mut open = lock(&self.shared.open);
        let make = || {
            let path = self.path(job);
            let length = std::fs::metadata(&path).map_or(0, |m| m.len());
            let progress = watch::Sender::new(Progress { length, over: false });
            Arc::new(Trace { path, inner: Mutex::default(), progress })
        };
        open.entry(job).or_insert_with(make).clone()
    }

    /// From now on that fence may append. `fresh`: what an older lease wrote goes; otherwise it stays (the same lease
    /// after a restart). Returns the length held.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn grant(&self, job: JobId, fence: Fence, fresh: bool) -> Result<u64, TraceError> {
        let trace = self.entry(job);
        let mut inner = lock(&trace.inner);
        let failed = |source| TraceError::File { job, path: trace.path.clone(), source };
        inner.fence = Some(fence);
        if fresh && !trace.path.exists() {
            // Nothing to cut; the file is made by the first bytes.
            inner.held = 0;
        } else {
            trace.file(&mut inner).map_err(failed)?;
            if fresh && inner.held > 0 {
                inner.file.as_ref().map_or(Ok(()), |f| f.set_len(0)).map_err(failed)?;
                inner.held = 0;
            }
        }
        inner.cut = false;
        let length = inner.held;
        trace.progress.send_modify(|p| p.length = length);
        Ok(length)
    }

    /// Nobody may append until the next [`Traces::grant`].
    pub fn revoke(&self, job: JobId) {
        let open = lock(&self.shared.open).get(&job).cloned();
        if let Some(trace) = open {
            lock(&trace.inner).fence = None;
        }
    }

    /// Nothing comes any more: readers end. Returns the whole length.
    pub fn close(&self, job: JobId) -> u64 {
        let trace = lock(&self.shared.open).remove(&job);
        match trace {
            Some(trace) => {
                let mut inner = lock(&trace.inner);
                inner.fence = None;
                inner.file = None;
                trace.progress.send_modify(|p| p.over = true);
                trace.progress.borrow().length
            }
            None => std::fs::metadata(self.path(job)).map_or(0, |m| m.len()),
        }
    }

    /// Appends bytes that stand at `offset` of the node's trace. Returns the length held: bytes before it were not
    /// stored twice, bytes beyond it were not stored.
    ///
    /// # Errors
    /// When the fence is not the one that may append, or the disk fails.
    pub fn append(&self, job: JobId, fence: Fence, offset: u64, data: &[u8]) -> Result<u64, TraceError> {
        let trace = lock(&self.shared.open).get(&job).cloned().ok_or(TraceError::StaleFence { job, fence })?;
        let mut inner = lock(&trace.inner);
        if inner.fence != Some(fence) {
            return Err(TraceError::StaleFence { job, fence });
        }
        let failed = |source| TraceError::File { job, path: trace.path.clone(), source };
        trace.file(&mut inner).map_err(failed)?;
        if offset > inner.held {
            return Ok(inner.held);
        }
        let known = usize::try_from(inner.held - offset).unwrap_or(usize::MAX);
        if known >= data.len() {
            return Ok(inner.held);
        }
        let fresh = &data[known..];
        let (held, cut) = (inner.held, inner.cut);
        let room = usize::try_from(self.shared.max_bytes.saturating_sub(held)).unwrap_or(usize::MAX);
        let mut visible = held;
        if let Some(file) = &inner.file {
            // A file with a hole at its end costs nothing, and offsets stay the node's.
            let kept = &fresh[..room.min(fresh.len())];
            file.write_all_at(kept, held).map_err(failed)?;
            visible += kept.len() as u64;
            if kept.len() < fresh.len() && !cut {
                let line =
                    format!("\n[slipway] The trace is cut here: it is longer than {} bytes.\n", self.shared.max_bytes);
                file.write_all_at(line.as_bytes(), visible).map_err(failed)?;
                visible += line.len() as u64;
            }
        }
        inner.cut = cut || room < fresh.len();
        inner.held = held + fresh.len() as u64;
        let length = if cut { trace.progress.borrow().length } else { visible };
        trace.progress.send_modify(|p| p.length = length);
        Ok(inner.held)
    }

    /// How many bytes are held of a job's trace, as its node counts.
    #[must_use]
    pub fn held(&self, job: JobId) -> u64 {
        let trace = lock(&self.shared.open).get(&job).cloned();
        match trace {
            Some(trace) => {
                let mut inner = lock(&trace.inner);
                if inner.file.is_none() && trace.path.exists() {
                    let _unreadable = trace.file(&mut inner);
                }
                inner.held
            }
            None => std::fs::metadata(self.path(job)).map_or(0, |m| m.len()),
        }
    }

    /// How far the trace of a job that is not over has come, and a wake-up when it grows. Of one that is over the
    /// caller knows so by the store; it drops what it got.
    #[must_use]
    pub fn follow(&self, job: JobId) -> watch::Receiver<Progress> {
        self.entry(job).progress.subscribe()
    }

    /// Forgets a trace that somebody asked for although the job was over.
    pub fn unfollow(&self, job: JobId) {
        let mut open = lock(&self.shared.open);
        if open.get(&job).is_some_and(|t| lock(&t.inner).fence.is_none() && t.progress.receiver_count() <= 1) {
            open.remove(&job);
        }
    }

    /// A piece of a trace from an offset; empty at its end.
    ///
    /// # Errors
    /// When the disk fails. A trace that is not there is empty.
    pub fn read(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let left = file.metadata()?.len().saturating_sub(offset);
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        let got = file.read_at(&mut piece, offset)?;
        piece.truncate(got);
        Ok(piece)
    }

    /// Removes a trace.
    pub fn remove(&self, job: JobId) {
        let _absent = std::fs::remove_file(self.path(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(7);

    #[test]
    fn repeated_and_early_bytes_are_answered_with_the_length_held() {
        let folder = tempfile::tempdir().unwrap();
        let traces = Traces::new(folder.path().into(), 1 << 20);
        traces.grant(JOB, Fence(1), true).unwrap();
        assert_eq!(traces.append(JOB, Fence(1), 0, b"hello ").unwrap(), 6);
        assert_eq!(traces.append(JOB, Fence(1), 9, b"far").unwrap(), 6);
        assert_eq!(traces.append(JOB, Fence(1), 3, b"lo world").unwrap(), 11);
        assert_eq!(traces.append(JOB, Fence(1), 0, b"hello").unwrap(), 11);
        assert_eq!(Traces::read(&traces.path(JOB), 0).unwrap(), b"hello world");
        assert_eq!(traces.close(JOB), 11);
    }

    #[test]
    fn stale_fence_is_refused_and_a_new_lease_starts_afresh() {
        let folder = tempfile::tempdir().unwrap();
        let traces = Traces::new(folder.path().into(), 1 << 20);
        traces.grant(JOB, Fence(1), true).unwrap();
        traces.append(JOB, Fence(1), 0, b"first").unwrap();
        assert_eq!(traces.grant(JOB, Fence(2), true).unwrap(), 0);
        assert!(matches!(traces.append(JOB, Fence(1), 5, b"late"), Err(TraceError::StaleFence { .. })));
        traces.append(JOB, Fence(2), 0, b"second").unwrap();
        assert_eq!(Traces::read(&traces.path(JOB), 0).unwrap(), b"second");
        traces.close(JOB);
        assert!(matches!(traces.append(JOB, Fence(2), 6, b"x"), Err(TraceError::StaleFence { .. })));
    }

    #[test]
    fn trace_goes_on_where_it_was_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let before = Traces::new(folder.path().into(), 1 << 20);
        before.grant(JOB, Fence(1), true).unwrap();
        before.append(JOB, Fence(1), 0, b"abc").unwrap();
        let after = Traces::new(folder.path().into(), 1 << 20);
        assert_eq!(after.grant(JOB, Fence(1), false).unwrap(), 3);
        assert_eq!(after.append(JOB, Fence(1), 3, b"def").unwrap(), 6);
        assert_eq!(Traces::read(&after.path(JOB), 0).unwrap(), b"abcdef");
    }

    #[test]
    fn too_long_trace_is_cut_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let traces = Traces::new(folder.path().into(), 4096);
        traces.grant(JOB, Fence(1), true).unwrap();
        assert_eq!(traces.append(JOB, Fence(1), 0, &[b'a'; 5000]).unwrap(), 5000);
        assert_eq!(traces.append(JOB, Fence(1), 5000, &[b'b'; 5000]).unwrap(), 10_000);
        let text = Traces::read(&traces.path(JOB), 0).unwrap();
        assert!(text.starts_with(&[b'a'; 4096]) && text.ends_with(b"longer than 4096 bytes.\n"));
    }

    #[test]
    fn follower_wakes_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let traces = Traces::new(folder.path().into(), 1 << 20);
        let mut follower = traces.follow(JOB);
        traces.grant(JOB, Fence(1), true).unwrap();
        traces.append(JOB, Fence(1), 0, b"abc").unwrap();
        assert_eq!(*follower.borrow_and_update(), Progress { length: 3, over: false });
        traces.close(JOB);
        assert_eq!(*follower.borrow_and_update(), Progress { length: 3, over: true });
    }
}
