//! How the end of a step is found in the container's own output: the launcher prints a line with the job's nonce, the
//! step's number and its exit code on both streams. Output and end arrive in order and both are in the container's
//! log, so a restarted runner finds them again.

/// Starts a marker; a byte that no text has.
pub(crate) const START: u8 = 0x1e;

/// Longest marker in bytes: START, nonce, two numbers of ten digits, two spaces, newline.
const LONGEST: usize = 64;

/// Finds markers in one stream of a container.
#[derive(Debug)]
pub(crate) struct Finder {
    prefix: Vec<u8>,
    held: Vec<u8>,
}

/// A step's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Which step.
    pub(crate) number: u32,
    /// Its exit code.
    pub(crate) code: i32,
}

impl Finder {
    /// For a job's nonce.
    pub(crate) fn new(nonce: &str) -> Finder {
        let mut prefix = vec![START];
        prefix.extend_from_slice(nonce.as_bytes());
        prefix.push(b' ');
        Finder { prefix, held: Vec::new() }
    }

    /// Takes bytes of the stream; what is not part of a marker goes to `out`. An end, when one is complete.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<End> {
        let mut end = None;
        if self.held.is_empty() && !bytes.contains(&START) {
            out.extend_from_slice(bytes);
            return None;
        }
        self.held.extend_from_slice(bytes);
        loop {
            let Some(at) = self.held.iter().position(|&b| b == START) else {
                out.append(&mut self.held);
                return end;
            };
            out.extend(self.held.drain(..at));
            match self.read() {
                Read::Marker(found, length) => {
                    self.held.drain(..length);
                    end = Some(found);
                }
                Read::Other => out.extend(self.held.drain(..1)),
                Read::More => return end,
            }
        }
    }

    /// What was held back, when nothing more comes.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// What `held`, which begins with START, begins with.
    fn read(&self) -> Read {
        let n = self.held.len().min(self.prefix.len());
        if self.held[..n] != self.prefix[..n] {
            return Read::Other;
        }
        let line = match self.held.iter().position(|&b| b == b'\n') {
            Some(at) => &self.held[..at],
            None if self.held.len() < LONGEST => return Read::More,
            None => return Read::Other,
        };
        if line.len() < self.prefix.len() {
            return Read::Other;
        }
        let text = std::str::from_utf8(&line[self.prefix.len()..]).unwrap_or_default();
        let parsed =
            text.split_once(' ').and_then(|(n, c)| Some(End { number: n.parse().ok()?, code: c.parse().ok()? }));
        parsed.map_or(Read::Other, |end| Read::Marker(end, line.len() + 1))
    }
}

enum Read {
    Marker(End, usize),
    Other,
    More,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "0123456789abcdef";

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, Vec<End>) {
        let mut finder = Finder::new(NONCE);
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        for piece in pieces {
            ends.extend(finder.push(piece, &mut out));
        }
        finder.finish(&mut out);
        (out, ends)
    }

    #[test]
    fn marker_after_output_without_newline_is_found_and_taken_out() {
        let (out, ends) = run(&[b"no newline\x1e0123456789abcdef 1 42\n"]);
        assert_eq!(out, b"no newline");
        assert_eq!(ends, [End { number: 1, code: 42 }]);
    }

    #[test]
    fn marker_of_another_nonce_is_output() {
        let text = b"\x1effffffffffffffff 1 0\n\x1e0123456789abcdef x 0\n\x1e\n";
        let (out, ends) = run(&[text]);
        assert_eq!(out, text);
        assert_eq!(ends, []);
    }

    proptest! {
        #[test]
        fn marker_split_anywhere_is_found(cut in 0..40_usize, cut2 in 0..40_usize) {
            let text = b"abc\x1e\x1e0123456789abcdef 7 137\nrest".to_vec();
            let (a, b) = (cut.min(cut2).min(text.len()), cut.max(cut2).min(text.len()));
            let (out, ends) = run(&[&text[..a], &text[a..b], &text[b..]]);
            prop_assert_eq!(out, b"abc\x1erest".to_vec());
            prop_assert_eq!(ends, vec![End { number: 7, code: 137 }]);
        }
    }
}
