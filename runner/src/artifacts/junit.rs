//! `artifacts:reports:junit`, summarised: how many tests ran, failed, were skipped, and which failed.
//!
//! The reader is a scanner for tags and not a parser for XML: the report is hostile, only tags and a few of their
//! attributes matter, and entities, DTDs and includes must mean nothing. Text and CDATA are skipped.

/// Names of failed tests that are kept.
const NAMES_MAX: usize = 20;

/// What a report says.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Test cases.
    pub tests: u64,
    /// Those with a failure.
    pub failed: u64,
    /// Those with an error.
    pub errors: u64,
    /// Those that were skipped.
    pub skipped: u64,
    /// Seconds they took, summed.
    pub seconds: f64,
    /// The first names of those that failed.
    pub failing: Vec<String>,
}

impl Summary {
    /// This and another report's.
    #[must_use]
    pub fn plus(mut self, other: Summary) -> Summary {
        self.tests += other.tests;
        self.failed += other.failed;
        self.errors += other.errors;
        self.skipped += other.skipped;
        self.seconds += other.seconds;
        let room = NAMES_MAX.saturating_sub(self.failing.len());
        self.failing.extend(other.failing.into_iter().take(room));
        self
    }
}

/// How the current test case fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fared {
    Well,
    Skipped,
    Failed,
    Error,
}

/// Reads a report; what is no report gives a summary of nothing.
#[must_use]
pub fn summarise(bytes: &[u8]) -> Summary {
    let text = String::from_utf8_lossy(bytes);
    let mut summary = Summary::default();
    let mut case: Option<(String, Fared)> = None;
    let mut rest: &str = &text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">")]
            .iter()
            .find(|(open, _)| rest.starts_with(open))
            .map(|(open, close)| rest[open.len()..].find(close).map(|end| &rest[open.len() + end + close.len()..]));
        match skipped {
            Some(Some(after)) => {
                rest = after;
                continue;
            }
            Some(None) => break,
            None => {}
        }
        let Some(end) = tag_end(rest) else { break };
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        let (closing, tag) = tag.strip_prefix('/').map_or((false, tag), |tag| (true, tag));
        let (alone, tag) = tag.strip_suffix('/').map_or((false, tag), |tag| (true, tag));
        let name = tag.split(|c: char| c.is_whitespace()).next().unwrap_or("");
        match name {
            "testcase" if closing => close(&mut summary, case.take()),
            "testcase" => {
                close(&mut summary, case.take());
                summary.seconds +=
                    attribute(tag, "time").and_then(|t| t.parse().ok()).filter(|t: &f64| t.is_finite()).unwrap_or(0.0);
                let class = attribute(tag, "classname").map(|class| format!("{class}.")).unwrap_or_default();
                let named = format!("{class}{}", attribute(tag, "name").unwrap_or_default());
                case = Some((named, Fared::Well));
                if alone {
                    close(&mut summary, case.take());
                }
            }
            "failure" | "error" | "skipped" if !closing => {
                if let Some((_, fared)) = &mut case {
                    let this = match name {
                        "failure" => Fared::Failed,
                        "error" => Fared::Error,
                        _ => Fared::Skipped,
                    };
                    *fared = (*fared).max(this);
                }
            }
            _ => {}
        }
    }
    close(&mut summary, case);
    summary
}

fn close(summary: &mut Summary, case: Option<(String, Fared)>) {
    let Some((name, fared)) = case else { return };
    summary.tests += 1;
    match fared {
        Fared::Well => return,
        Fared::Skipped => {
            summary.skipped += 1;
            return;
        }
        Fared::Failed => summary.failed += 1,
        Fared::Error => summary.errors += 1,
    }
    if summary.failing.len() < NAMES_MAX {
        let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
        summary.failing.push(name);
    }
}

/// Where a tag ends: at the first `>` outside of quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), close) if open == close => quote = None,
            (None, b'>') => return Some(at),
            _ => {}
        }
    }
    None
}

/// An attribute's value with the five entities of XML put back.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    loop {
        let at = rest.find('=')?;
        let key = rest[..at].trim_end().rsplit(|c: char| c.is_whitespace()).next().unwrap_or("");
        let value = rest[at + 1..].trim_start();
        let quote = value.chars().next().filter(|c| *c == '"' || *c == '\'')?;
        let end = value[1..].find(quote)? + 1;
        if key == name {
            let text = value[1..end].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            return Some(text.replace("&apos;", "'").replace("&amp;", "&"));
        }
        rest = &value[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_counted_by_test_cases() {
        let report = r#"<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "b">]>
<testsuites><testsuite name="s" tests="99">
  <testcase classname="A" name="one" time="0.5"/>
  <testcase classname="A" name="two &lt;x&gt;" time="1.25"><failure message="a > b">text no</failure></testcase>
  <testcase name='three'><error/><failure/></testcase>
  <testcase name="four"><skipped/></testcase>
  <testcase name="five"><system-out><![CDATA[<testcase name="fake"/> <failure/>]]></system-out></testcase>
  <!-- <testcase name="six"/> -->
</testsuite></testsuites>"#;
        let summary = summarise(report.as_bytes());
        let expected = Summary {
            tests: 5,
            failed: 1,
            errors: 1,
            skipped: 1,
            seconds: 1.75,
            failing: vec!["A.two <x>".into(), "three".into()],
        };
        assert_eq!(summary, expected);
    }

    #[test]
    fn junk_gives_nothing_and_ends() {
        for junk in ["", "<", "<<<<", "<testcase name=\"", "<!--", "<![CDATA[", "no xml at all", "<testcase name=x"] {
            assert_eq!(summarise(junk.as_bytes()).failing, Vec::<String>::new(), "{junk}");
        }
        assert_eq!(summarise(&[0xff, b'<', 0xfe]).tests, 0);
    }
}
