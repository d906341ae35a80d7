//! GitLab's timestamps (`FF_TIMESTAMPS`): 32 bytes before every line of the log, of all lines or of none. Pure.

use jiff::Timestamp;

/// Longest piece of one line in bytes, as GitLab's runner flushes it.
const LONGEST: usize = 8 << 10;

/// Length of what is put before a line.
const PREFIX: usize = 32;
/// Longest line that is written: a piece that began just below the bound, and its prefix.
pub(crate) const LONGEST_LINE: usize = 2 * LONGEST + PREFIX;

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The runner: stream `00`.
    Runner,
    /// The job's containers: stream `01`.
    Job,
}

/// Puts the prefix before each line; remembers which source stands in the middle of one.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    open: Option<Source>,
    column: usize,
}

impl Stamper {
    /// One that goes on after a log that ends with `tail`.
    pub(crate) fn after(tail: &[u8]) -> Stamper {
        let line = tail.rsplit(|&b| b == b'\n').next().unwrap_or_default();
        if line.len() < PREFIX {
            return Stamper::default();
        }
        let source = if line[..PREFIX].ends_with(b" 00O ") { Source::Runner } else { Source::Job };
        Stamper { open: Some(source), column: line.len() - PREFIX }
    }

    /// Appends `bytes` with their prefixes to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], source: Source, now: Timestamp, out: &mut Vec<u8>) {
        if self.open.is_some_and(|open| open != source) {
            out.push(b'\n');
            self.open = None;
        }
        let stream = match source {
            Source::Runner => "00O",
            Source::Job => "01O",
        };
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            for piece in line.chunks(LONGEST) {
                let continued = self.open.is_some() && self.column >= LONGEST;
                if continued {
                    out.push(b'\n');
                }
                if continued || self.open.is_none() {
                    let mark = if continued { '+' } else { ' ' };
                    out.extend_from_slice(format!("{now:.6} {stream}{mark}").as_bytes());
                    self.column = 0;
                }
                out.extend_from_slice(piece);
                self.column += piece.len();
                self.open = (!piece.ends_with(b"\n")).then_some(source);
            }
        }
    }
}

/// Length of a log's whole lines without their prefixes, and without the breaks of lines that go on.
pub(crate) fn plain_length(log: &[u8]) -> u64 {
    let mut length = 0;
    for line in log.split_inclusive(|&b| b == b'\n') {
        let continued = line.get(PREFIX - 1) == Some(&b'+');
        length += (line.len() as u64).saturating_sub(PREFIX as u64);
        length -= u64::from(continued && length > 0);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_plain_length_is_what_was_pushed_and_a_new_stamper_goes_on() {
        let now: Timestamp = "2026-11-25T21:00:00.123456Z".parse().unwrap();
        let text: Vec<u8> = (0..30_000_u32).flat_map(|i| if i % 9000 == 0 { *b"\n" } else { *b"x" }).collect();
        let mut whole = Vec::new();
        let mut stamper = Stamper::default();
        stamper.push(&text, Source::Job, now, &mut whole);
        assert_eq!(plain_length(&whole), text.len() as u64);
        for cut in [0, 1, 5000, 9500, 29_999] {
            let mut log = Vec::new();
            Stamper::default().push(&text[..cut], Source::Job, now, &mut log);
            assert_eq!(plain_length(&log), cut as u64);
            let from = log.len().saturating_sub(LONGEST_LINE);
            Stamper::after(&log[from..]).push(&text[cut..], Source::Job, now, &mut log);
            assert_eq!(plain_length(&log), text.len() as u64, "cut at {cut}");
        }
    }

    #[test]
    fn stamp_every_line_has_the_prefix_once() {
        let now: Timestamp = "2026-11-25T21:00:00.123456Z".parse().unwrap();
        let mut stamper = Stamper::default();
        let mut out = Vec::new();
        stamper.push(b"Running\n", Source::Runner, now, &mut out);
        stamper.push(b"a", Source::Job, now, &mut out);
        stamper.push(b"b\nc\n", Source::Job, now, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "2026-11-25T21:00:00.123456Z 00O Running\n2026-11-25T21:00:00.123456Z 01O ab\n\
             2026-11-25T21:00:00.123456Z 01O c\n"
        );
        assert_eq!(text.find("Running"), Some(32));
    }
}
