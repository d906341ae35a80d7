//! A container's log, from any offset: markers taken out, masked, limited, into the trace.
//!
//! The log is read from its start and the bytes that are in the trace already are passed over: what a restarted runner
//! does again gives the same bytes, since nothing in between depends on the time or on how reads are split.

use super::marker::{End, Finder};
use crate::trace::Trace;
use crate::trace::limit::Limiter;
use crate::trace::mask::Masker;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::{Mutex, PoisonError};

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// Follows one container.
pub(crate) struct Output {
    /// In a mutex that is never locked: the stream may be sent between threads, but not shared.
    frames: Option<Mutex<BoxStream<'static, Result<LogOutput, bollard::errors::Error>>>>,
    out: Line,
    err: Line,
    limiter: Limiter,
    /// Raw bytes of the log that were taken.
    taken: u64,
    /// Raw bytes that come again and are passed over.
    skip_raw: u64,
    /// Bytes for the trace that are in it already.
    skip_out: u64,
}

struct Line {
    finder: Finder,
    masker: Masker,
    end: Option<End>,
}

impl Line {
    fn new(nonce: &str, secrets: &[String], prefixes: &[String]) -> Line {
        Line { finder: Finder::new(nonce), masker: Masker::new(secrets, prefixes), end: None }
    }
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A step's end, with everything before it.
    End(End),
    /// The log is at its end: the container has stopped (or is gone).
    Closed,
}

impl Output {
    /// For a job's secrets and nonce.
    pub(crate) fn new(nonce: &str, secrets: &[String], prefixes: &[String], limit: u64) -> Output {
        Output {
            frames: None,
            out: Line::new(nonce, secrets, prefixes),
            err: Line::new(nonce, secrets, prefixes),
            limiter: Limiter::new(limit),
            taken: 0,
            skip_raw: 0,
            skip_out: 0,
        }
    }

    /// Raw bytes of the log taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Follows the container's log from where it was left.
    pub(crate) fn follow(&mut self, docker: &Docker, container: &str) {
        if self.frames.is_none() {
            let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
            self.skip_raw = self.taken;
            self.frames = Some(Mutex::new(docker.logs(container, Some(options)).boxed()));
        }
    }

    /// What the limiter has left for head and tail.
    pub(crate) fn room(&self) -> (u64, u64) {
        self.limiter.room()
    }

    /// Makes it as it was at an offset of the log with that room, where `written` bytes of what follows are in the
    /// trace already.
    pub(crate) fn resume(&mut self, raw: u64, room: (u64, u64), written: u64) {
        self.taken = raw;
        self.limiter = Limiter::resumed(room);
        self.skip_out = written;
    }

    /// Reads until a step of `number` ends or the log is at its end.
    ///
    /// Cancel-safety: dropping it loses nothing.
    pub(crate) async fn next(&mut self, number: u32, trace: &Trace) -> Came {
        loop {
            let frame = match &mut self.frames {
                Some(frames) => frames.get_mut().unwrap_or_else(PoisonError::into_inner).next().await,
                None => None,
            };
            match frame {
                Some(Ok(LogOutput::StdErr { message })) => self.push(Stream::Err, &message, trace),
                Some(Ok(other)) => self.push(Stream::Out, &other.into_bytes(), trace),
                Some(Err(e)) => {
                    tracing::debug!(error = %e, "a container's log broke off");
                    self.frames = None;
                    return Came::Closed;
                }
                None => {
                    self.frames = None;
                    return Came::Closed;
                }
            }
            if let (Some(out), Some(err)) = (self.out.end, self.err.end)
                && out.number == number
                && err.number == number
            {
                self.finish(trace);
                return Came::End(out);
            }
        }
    }

    /// Ends a step: what was held back comes out.
    pub(crate) fn finish(&mut self, trace: &Trace) {
        let mut shown = Vec::new();
        for line in [&mut self.out, &mut self.err] {
            let mut text = Vec::new();
            line.finder.finish(&mut text);
            let mut masked = Vec::new();
            line.masker.push(&text, &mut masked);
            line.masker.finish(&mut masked);
            self.limiter.push(&masked, &mut shown);
            line.end = None;
        }
        self.limiter.finish(&mut shown);
        self.write(&shown, trace);
    }

    fn push(&mut self, stream: Stream, bytes: &[u8], trace: &Trace) {
        let skip = usize::try_from(self.skip_raw).unwrap_or(usize::MAX).min(bytes.len());
        self.skip_raw -= skip as u64;
        let bytes = &bytes[skip..];
        if bytes.is_empty() {
            return;
        }
        self.taken += bytes.len() as u64;
        let line = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        let mut text = Vec::new();
        if let Some(end) = line.finder.push(bytes, &mut text) {
            line.end = Some(end);
        }
        let mut masked = Vec::with_capacity(text.len());
        line.masker.push(&text, &mut masked);
        let mut shown = Vec::with_capacity(masked.len());
        self.limiter.push(&masked, &mut shown);
        self.write(&shown, trace);
    }

    fn write(&mut self, shown: &[u8], trace: &Trace) {
        let skip = usize::try_from(self.skip_out).unwrap_or(usize::MAX).min(shown.len());
        self.skip_out -= skip as u64;
        trace.output(&shown[skip..]);
    }
}
