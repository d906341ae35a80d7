//! `coverage`: the last number in the trace that a pattern finds.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a line that are looked at.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Why a coverage pattern means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("coverage: {pattern:?} is no regular expression: {why}")]
pub struct CoverageError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

/// Watches a trace.
#[derive(Debug)]
pub struct Coverage {
    pattern: Regex,
    number: Regex,
    line: Vec<u8>,
    found: Option<f64>,
}

impl Coverage {
    /// Takes the pattern as `coverage:` has it, with or without its slashes.
    ///
    /// # Errors
    /// It is no regular expression.
    pub fn new(pattern: &str) -> Result<Self, CoverageError> {
        let inner = pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).unwrap_or(pattern);
        let regex = RegexBuilder::new(inner)
            .size_limit(1 << 20)
            .dfa_size_limit(1 << 20)
            .build()
            .map_err(|error| CoverageError { pattern: pattern.to_owned(), why: error.to_string() })?;
        let number = Regex::new(r"\d+(?:\.\d+)?")
            .map_err(|error| CoverageError { pattern: pattern.to_owned(), why: error.to_string() })?;
        Ok(Coverage { pattern: regex, number, line: Vec::new(), found: None })
    }

    /// Takes bytes of the trace.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|b| *b == b'\n');
        let first = parts.next().unwrap_or(b"");
        self.extend(first);
        for part in parts {
            self.end_line();
            self.extend(part);
        }
    }

    fn extend(&mut self, part: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let plain = without_escapes(&line);
        if let Some(found) = self.pattern.captures_iter(&plain).last() {
            let text = found.get(1).or_else(|| found.get(0)).map_or(&b""[..], |m| m.as_bytes());
            if let Some(number) = self.number.find(text).and_then(|m| std::str::from_utf8(m.as_bytes()).ok()) {
                self.found = number.parse().ok().or(self.found);
            }
        }
    }

    /// The coverage in per cent: of the last match in the last line that matches.
    #[must_use]
    pub fn result(mut self) -> Option<f64> {
        self.end_line();
        self.found
    }
}

/// A line without ANSI sequences and carriage returns.
fn without_escapes(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            0x1b if line.get(at + 1) == Some(&b'[') => {
                at += 2;
                while at < line.len() && !(0x40..=0x7e).contains(&line[at]) {
                    at += 1;
                }
                at += 1;
            }
            b'\r' => at += 1,
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(pattern: &str, chunks: &[&str]) -> Option<f64> {
        let mut coverage = Coverage::new(pattern).expect("a pattern");
        for chunk in chunks {
            coverage.push(chunk.as_bytes());
        }
        coverage.result()
    }

    #[test]
    fn last_match_of_the_last_line_counts() {
        assert_eq!(coverage(r"/TOTAL.*\s(\d+\.?\d*)%/", &["TOTAL  10 %\nTOTAL  5 5", "0.5%\nend"]), Some(50.5));
        assert_eq!(coverage(r"Coverage: \d+", &["Coverage: 1\nCoverage: 20 Coverage: 30"]), Some(30.0));
        assert_eq!(coverage(r"Coverage: \d+", &["Cov\x1b[32merage:\x1b[0m 42\r\n"]), Some(42.0));
        assert_eq!(coverage(r"Coverage: \d+", &["none"]), None);
        assert!(Coverage::new("/(/").is_err());
    }
}
