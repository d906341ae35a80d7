//! `PATCH /jobs/:id/trace`: the text of a job's trace from any offset, and the call that sends it.

use super::client::{Answer, Call};
use super::delivery::progress::Reply;
use super::finish::Delivered;
use super::log_text::LogText;
use super::spool::{Facts, JobFolder};
use bytes::Bytes;
use reqwest::Method;
use std::io;

/// Bytes of one PATCH at most. Official: 1 MiB.
pub const PATCH_LIMIT: usize = 1 << 20;
/// Raw bytes read from disk at a time.
const READ: usize = 256 << 10;

/// The text of a trace, read in order, and again from earlier when the server asks.
#[derive(Debug)]
pub struct TextReader {
    text: LogText,
    limit: u64,
    raw: u64,
    /// Text made and not yet dropped; its first byte is at `start`.
    window: Vec<u8>,
    start: u64,
    ended: bool,
}

impl TextReader {
    /// From the beginning.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        TextReader { text: LogText::new(limit), limit, raw: 0, window: Vec::new(), start: 0, ended: false }
    }

    /// Text from `offset` on, at most [`PATCH_LIMIT`] bytes; empty when there is none yet. `complete`: the raw trace
    /// will not grow any more.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn at(&mut self, folder: &JobFolder, offset: u64, complete: bool) -> io::Result<&[u8]> {
        if offset < self.start {
            *self = TextReader::new(self.limit);
        }
        loop {
            self.drop_before(offset);
            if self.window.len() >= PATCH_LIMIT {
                break;
            }
            let raw = folder.read(self.raw, READ)?;
            if raw.is_empty() {
                if complete && !self.ended {
                    self.text.end(&mut self.window);
                    self.ended = true;
                    continue;
                }
                break;
            }
            self.raw += raw.len() as u64;
            self.text.push(&raw, &mut self.window);
        }
        let end = self.window.len().min(PATCH_LIMIT);
        // The server may claim more than we ever made: then there is nothing for it.
        Ok(if self.start == offset { &self.window[..end] } else { &[] })
    }

    fn drop_before(&mut self, offset: u64) {
        let unwanted = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.window.len());
        self.window.drain(..unwanted);
        self.start += unwanted as u64;
    }

    /// Length and checksum of all text made, if the server has it all.
    #[must_use]
    pub fn delivered(&self) -> Option<Delivered> {
        self.window.is_empty().then(|| Delivered { bytes: self.text.produced(), checksum: self.text.checksum() })
    }

    /// Length and checksum of all text made so far, sent or not.
    #[must_use]
    pub fn made(&self) -> Delivered {
        Delivered { bytes: self.text.produced(), checksum: self.text.checksum() }
    }
}

/// The call that sends `text` from `start` on. The range is zero-based, its end inclusive, without unit and total.
#[must_use]
pub fn patch(facts: &Facts, start: u64, text: Bytes) -> Call {
    let last = start + (text.len() as u64).max(1) - 1;
    Call::new(Method::PATCH, format!("/jobs/{}/trace", facts.remote.id))
        .query("debug_trace", if facts.debug_trace { "true" } else { "false" })
        .header("JOB-TOKEN", &facts.token.0)
        .header("Content-Range", &format!("{start}-{last}"))
        .text(text)
}

/// What matters of an answer to a PATCH or PUT.
#[must_use]
pub fn reply(answer: &Answer) -> Reply {
    Reply {
        status: answer.status,
        job_status: answer.header("job-status").map(str::to_ascii_lowercase),
        range_end: answer.header("range").and_then(|r| r.rsplit_once('-')).and_then(|(_, end)| end.trim().parse().ok()),
        interval: answer.header("x-gitlab-trace-update-interval").and_then(|n| n.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::RemoteJob;
    use crate::upstream::gitlab::config::Secret;
    use crate::upstream::gitlab::spool::Spool;

    fn folder(dir: &std::path::Path, limit: u64) -> JobFolder {
        let facts = Facts {
            job: None,
            remote: RemoteJob { upstream: "g".into(), id: 1 },
            token: Secret("t".into()),
            failure_reasons: Vec::new(),
            debug_trace: false,
            dependency_tokens: Default::default(),
            output_limit: limit,
        };
        Spool::open(dir, "g").unwrap().create(facts).unwrap()
    }

    #[test]
    fn reader_gives_the_same_bytes_from_any_offset_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path(), 10 << 20);
        let raw: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
        folder.append(0, &raw).unwrap();
        let expected = String::from_utf8_lossy(&raw).into_owned().into_bytes();
        let mut reader = TextReader::new(10 << 20);
        for offset in [0, 5, 1 << 20, 10, 2_500_000, 0, expected.len() - 3, expected.len()] {
            let text = reader.at(&folder, offset as u64, true).unwrap();
            let end = expected.len().min(offset + PATCH_LIMIT);
            assert!(text == &expected[offset..end], "from {offset}: {} bytes", text.len());
        }
        assert!(reader.at(&folder, expected.len() as u64 + 5, true).unwrap().is_empty());
        assert_eq!(reader.made().bytes, expected.len() as u64);
        assert_eq!(reader.made().checksum, format!("crc32:{:08x}", crc32fast::hash(&expected)));
    }

    #[test]
    fn unfinished_character_waits_until_the_trace_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path(), 100);
        folder.append(0, b"a\xe2\x82").unwrap();
        let mut reader = TextReader::new(100);
        assert_eq!(reader.at(&folder, 0, false).unwrap(), b"a");
        assert_eq!(reader.at(&folder, 0, true).unwrap(), "a\u{fffd}".as_bytes());
    }
}
