//! The output limit: of what is longer, the head and the tail are kept, with a line between them that says so. Pure.

use std::collections::VecDeque;

/// Bytes of tail that every step has, even when those before it used up the limit.
const FLOOR: usize = 2048;

/// Counts one job's output.
#[derive(Debug)]
pub(crate) struct Limiter {
    head: u64,
    tail: usize,
    kept: VecDeque<u8>,
    dropped: u64,
}

impl Limiter {
    /// Of `limit` bytes: three quarters for the head, the rest for the tail.
    pub(crate) fn new(limit: u64) -> Limiter {
        let tail = limit / 4;
        Limiter {
            head: limit - tail,
            tail: usize::try_from(tail).unwrap_or(usize::MAX),
            kept: VecDeque::new(),
            dropped: 0,
        }
    }

    /// What is left for head and tail, between two steps.
    pub(crate) fn room(&self) -> (u64, u64) {
        (self.head, self.tail as u64)
    }

    /// One with that room.
    pub(crate) fn resumed((head, tail): (u64, u64)) -> Limiter {
        Limiter { head, tail: usize::try_from(tail).unwrap_or(usize::MAX), kept: VecDeque::new(), dropped: 0 }
    }

    /// Takes output; what belongs to the head goes to `out` at once.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let now = usize::try_from(self.head).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..now]);
        self.head -= now as u64;
        let rest = &bytes[now..];
        if rest.is_empty() {
            return;
        }
        let room = self.tail.max(FLOOR);
        let skip = rest.len().saturating_sub(room);
        let surplus = (self.kept.len() + rest.len() - skip).saturating_sub(room);
        self.kept.drain(..surplus);
        self.kept.extend(&rest[skip..]);
        self.dropped += (skip + surplus) as u64;
    }

    /// Ends a step: the notice and the tail go to `out`. Later steps have what is left of it, or a little.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.dropped > 0 {
            let text =
                format!("\n\x1b[0;33m[{} bytes of output left out: over the node's limit]\x1b[0;m\n", self.dropped);
            out.extend_from_slice(text.as_bytes());
        }
        self.tail = self.tail.saturating_sub(self.kept.len());
        out.extend(self.kept.drain(..));
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_not_reached_changes_nothing() {
        let mut limiter = Limiter::new(100);
        let mut out = Vec::new();
        limiter.push(&[b'x'; 90], &mut out);
        limiter.finish(&mut out);
        assert_eq!(out, [b'x'; 90]);
    }

    #[test]
    fn limit_reached_keeps_head_and_tail_and_says_how_much_is_missing() {
        let mut limiter = Limiter::new(20_000);
        let mut out = Vec::new();
        let text: Vec<u8> = (0..100_000_u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        for piece in text.chunks(777) {
            limiter.push(piece, &mut out);
        }
        limiter.finish(&mut out);
        let shown = String::from_utf8(out.clone()).unwrap();
        assert!(shown.starts_with("0\n1\n") && shown.ends_with("99999\n"), "{shown}");
        assert!(shown.contains(&format!("[{} bytes of output left out", text.len() - 20_000)), "{shown}");
        // A second step that is too long as well has its own end shown.
        for piece in text.chunks(777) {
            limiter.push(piece, &mut out);
        }
        limiter.finish(&mut out);
        assert!(out.len() < 20_000 + FLOOR + 200, "{}", out.len());
        assert!(out.ends_with(b"\n99999\n"));
    }
}
