//! The trace: the job's log bytes on their way from the containers to the scheduler.
//!
//! container log -> [`mask`] -> [`limit`] -> [`spool`] (on disk, with offsets) -> [`ship`] (the Trace rpc)

pub(crate) mod limit;
pub mod mask;
pub(crate) mod ship;
pub(crate) mod spool;
pub(crate) mod stamp;

use mask::Masker;
use spool::{Reader, Spool};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

const CYAN: &str = "\x1b[36;1m";
const GREEN: &str = "\x1b[32;1m";
const RED: &str = "\x1b[31;1m";
const YELLOW: &str = "\x1b[0;33m";
const RESET: &str = "\x1b[0;m";

/// One job's trace as its phases write it. Every byte passes a masker before it is stored.
pub(crate) struct Trace {
    inner: Mutex<Inner>,
    length: watch::Sender<u64>,
    path: PathBuf,
}

struct Inner {
    spool: Spool,
    own: Masker,
    stamp: Option<stamp::Stamper>,
    sections: bool,
    open: Vec<String>,
    fault: Option<io::Error>,
}

/// What a trace needs to know of its job.
pub(crate) struct Settings<'a> {
    /// Values that are hidden.
    pub(crate) secrets: &'a [String],
    /// Token prefixes that are hidden beside the known ones.
    pub(crate) prefixes: &'a [String],
    /// Section markers are printed.
    pub(crate) sections: bool,
    /// A time is put before every line.
    pub(crate) timestamps: bool,
}

impl Trace {
    /// Opens the spool at `path`, appending to what is there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn open(path: &Path, settings: &Settings<'_>) -> io::Result<Trace> {
        let spool = Spool::open(path)?;
        let stamp = match settings.timestamps {
            true => Some(stamp::Stamper::after(&Reader::open(path)?.read_end(stamp::LONGEST_LINE)?)),
            false => None,
        };
        let length = watch::Sender::new(spool.length());
        let inner = Inner {
            spool,
            own: Masker::new(settings.secrets, settings.prefixes),
            stamp,
            sections: settings.sections,
            open: Vec::new(),
            fault: None,
        };
        Ok(Trace { inner: Mutex::new(inner), length, path: path.to_owned() })
    }

    /// Bytes of output that were stored since the trace had `offset` bytes: without what was put before its lines.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub(crate) fn output_since(&self, offset: u64) -> io::Result<u64> {
        let stored = self.length().saturating_sub(offset);
        if self.lock().stamp.is_none() {
            return Ok(stored);
        }
        let mut reader = Reader::open(&self.path)?;
        let (mut at, mut rest, mut bytes) = (offset, Vec::new(), 0);
        loop {
            let piece = reader.read(at, 1 << 20)?;
            at += piece.len() as u64;
            let last = piece.is_empty();
            rest.extend(piece);
            // Whole lines only, until the last piece.
            let end = if last { rest.len() } else { rest.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1) };
            bytes += stamp::plain_length(&rest[..end]);
            rest.drain(..end);
            if last {
                return Ok(bytes);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes stored.
    pub(crate) fn length(&self) -> u64 {
        *self.length.borrow()
    }

    /// Tells of every growth.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.length.subscribe()
    }

    /// Why bytes were lost, if they were: the job cannot succeed.
    pub(crate) fn fault(&self) -> Option<String> {
        self.lock().fault.as_ref().map(|e| format!("cannot write the trace to the spool: {e}"))
    }

    /// Stores a job's output that was masked already.
    pub(crate) fn output(&self, bytes: &[u8]) {
        self.store(&mut self.lock(), bytes, stamp::Source::Job);
    }

    /// A line of the runner's own.
    pub(crate) fn say(&self, text: &str) {
        self.own(&format!("{text}\n"));
    }

    /// A line about something that is odd but not fatal.
    pub(crate) fn warn(&self, text: &str) {
        self.own(&format!("{YELLOW}WARNING: {text}{RESET}\n"));
    }

    /// The line that says why the job failed.
    pub(crate) fn error(&self, text: &str) {
        self.own(&format!("{RED}ERROR: {text}{RESET}\n"));
    }

    /// The line that says that it did not.
    pub(crate) fn success(&self, text: &str) {
        self.own(&format!("{GREEN}{text}{RESET}\n"));
    }

    /// Starts a section (GitLab's form; `now` in seconds of the epoch).
    pub(crate) fn section(&self, name: &str, title: &str, now: i64) {
        let mark = if self.lock().sections {
            self.lock().open.push(name.to_owned());
            format!("section_start:{now}:{name}\r\x1b[0K")
        } else {
            String::new()
        };
        self.own(&format!("{mark}{CYAN}{title}{RESET}\n"));
    }

    /// Ends the innermost section, if one is open.
    pub(crate) fn section_end(&self, now: i64) {
        let name = self.lock().open.pop();
        if let Some(name) = name {
            self.own(&format!("section_end:{now}:{name}\r\x1b[0K"));
        }
    }

    /// Ends all sections that are open.
    pub(crate) fn sections_end(&self, now: i64) {
        while !self.lock().open.is_empty() {
            self.section_end(now);
        }
    }

    /// Takes up sections that were open when the runner ended.
    pub(crate) fn reopen_section(&self, name: &str) {
        let mut inner = self.lock();
        if inner.sections {
            inner.open.push(name.to_owned());
        }
    }

    fn own(&self, text: &str) {
        let mut inner = self.lock();
        let mut masked = Vec::with_capacity(text.len());
        inner.own.push(text.as_bytes(), &mut masked);
        inner.own.finish(&mut masked);
        self.store(&mut inner, &masked, stamp::Source::Runner);
    }

    fn store(&self, inner: &mut Inner, bytes: &[u8], source: stamp::Source) {
        if bytes.is_empty() {
            return;
        }
        let written = match &mut inner.stamp {
            Some(stamper) => {
                let mut out = Vec::with_capacity(bytes.len() + 64);
                stamper.push(bytes, source, jiff::Timestamp::now(), &mut out);
                inner.spool.append(&out)
            }
            None => inner.spool.append(bytes),
        };
        match written {
            Ok(()) => {
                self.length.send_replace(inner.spool.length());
            }
            Err(e) => {
                tracing::error!(error = %e, "cannot write a trace to the spool");
                inner.fault.get_or_insert(e);
            }
        }
    }
}
