//! `artifacts:reports:dotenv`: variables that a job gives to later ones.

use slipway_spec::variable::Variable;

/// GitLab's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files of one job.
    pub bytes: usize,
    /// Variables.
    pub variables: usize,
}

impl Default for Limits {
    /// GitLab's defaults: 5 kB and 20 variables.
    fn default() -> Self {
        Limits { bytes: 5 * 1024, variables: 20 }
    }
}

/// Why a file is no dotenv report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DotenvError {
    /// Too large.
    #[error("the dotenv report has {0} bytes, at most {1} are allowed")]
    TooLarge(usize, usize),
    /// Too many.
    #[error("the dotenv report has more than {0} variables")]
    TooMany(usize),
    /// Not text.
    #[error("the dotenv report is not UTF-8")]
    NotText,
    /// Not `KEY=value`.
    #[error("line {0} of the dotenv report is not KEY=value (blank lines and comments are not allowed either)")]
    Line(usize),
    /// Not a variable's name.
    #[error("line {0} of the dotenv report: a key has letters, digits and underscores, and no digit in front")]
    Key(usize),
}

/// Reads a report: one `KEY=value` a line, blanks around both dropped, quotes kept, the last of a key wins.
///
/// # Errors
/// A line that GitLab refuses too.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Vec<Variable>, DotenvError> {
    if bytes.len() > limits.bytes {
        return Err(DotenvError::TooLarge(bytes.len(), limits.bytes));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DotenvError::NotText)?;
    let mut found: Vec<Variable> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let (key, value) = line.split_once('=').ok_or(DotenvError::Line(number))?;
        let key = key.trim();
        let named = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && key.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if !named {
            return Err(DotenvError::Key(number));
        }
        found.retain(|variable| variable.key != key);
        found.push(Variable { raw: true, ..Variable::public(key, value.trim()) });
    }
    if found.len() > limits.variables {
        return Err(DotenvError::TooMany(limits.variables));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_gives_the_last_value_of_each_key() {
        let found = parse(b"A=1\n B = x=y \nA=\"2\"\r\nEMPTY=\n", Limits::default()).expect("a report");
        let pairs: Vec<(&str, &str)> = found.iter().map(|v| (v.key.as_str(), v.value.as_str())).collect();
        assert_eq!(pairs, [("B", "x=y"), ("A", "\"2\""), ("EMPTY", "")]);
    }

    #[test]
    fn broken_report_is_refused_with_its_line() {
        let refuse = |text: &str| parse(text.as_bytes(), Limits::default()).expect_err(text);
        assert_eq!(refuse("A=1\n\nB=2"), DotenvError::Line(2));
        assert_eq!(refuse("A=1\n# no\n"), DotenvError::Line(2));
        assert_eq!(refuse("1A=1"), DotenvError::Key(1));
        assert_eq!(refuse("A-B=1"), DotenvError::Key(1));
        let many: String = (0..21).map(|n| format!("K{n}=\n")).collect();
        assert_eq!(refuse(&many), DotenvError::TooMany(20));
        assert_eq!(refuse(&format!("A={}", "x".repeat(5119))), DotenvError::TooLarge(5121, 5120));
        assert_eq!(parse(b"A=\xff", Limits::default()), Err(DotenvError::NotText));
    }
}
