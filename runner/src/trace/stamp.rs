//! GitLab's timestamps (`FF_TIMESTAMPS`): 32 bytes before every line of the log, of all lines or of none. Pure.

use jiff::Timestamp;

/// Longest piece of one line in bytes, as GitLab's runner flushes it.
const LONGEST: usize = 8 << 10;

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

#[cfg(test)]
mod tests {
    use super::*;

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
