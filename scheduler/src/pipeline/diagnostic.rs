//! What is wrong with a configuration, where, and how a person sees it.

use super::tree::{FileId, Span};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// More than this many are counted, not kept: a hostile file must not make a hostile report.
const MAX_KEPT: usize = 200;
/// Bytes of one message, of a path, of a hint that are kept.
const MAX_TEXT: usize = 2000;
/// Characters of a source line that are shown.
const MAX_SHOWN: usize = 110;

/// Whether the pipeline can run in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub span: Span,
    /// The keyword's path: `jobs:test:script`; empty when the whole file is meant.
    pub path: String,
    /// What is wrong; where GitLab has a sentence for it, that sentence, path included.
    pub message: String,
    /// What was found, what would be right, what was perhaps meant.
    pub hint: Option<String>,
}

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// For people: `.gitlab-ci.yml`, `group/project@main:ci.yml`.
    pub name: String,
    /// Its text, inputs filled in.
    pub text: Arc<str>,
}

/// The files that spans point into.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        self.files.push(SourceFile { name: name.into(), text: text.into() });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// The file of an id.
    #[must_use]
    pub fn get(&self, id: FileId) -> Option<&SourceFile> {
        self.files.get(id.0 as usize)
    }
}

/// Everything that is wrong, in the order found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    dropped: usize,
    sources: Sources,
}

/// One diagnostic as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosticView {
    /// How bad.
    pub severity: Severity,
    /// The file's name.
    pub file: String,
    /// From 1; 0 when no place is known.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// The keyword's path.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Diagnostics {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Diagnostics::default()
    }

    /// Adds an error; the result takes a [`Diagnostic::hint`].
    pub fn error(&mut self, span: Span, path: impl Into<String>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, span, path.into(), message.into())
    }

    /// Adds a warning.
    pub fn warn(&mut self, span: Span, path: impl Into<String>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, span, path.into(), message.into())
    }

    fn push(&mut self, severity: Severity, span: Span, path: String, message: String) -> &mut Diagnostic {
        let (path, message) = (cut(path), cut(message));
        if self.items.len() >= MAX_KEPT {
            // An error must not be lost behind warnings: it takes the place of the last one.
            self.dropped += 1;
            self.items.truncate(MAX_KEPT - 1);
        }
        self.items.push(Diagnostic { severity, span, path, message, hint: None });
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    /// Adds those of another collection; its sources are dropped.
    pub fn extend(&mut self, other: Diagnostics) {
        for item in other.items {
            let kept = self.push(item.severity, item.span, item.path, item.message);
            kept.hint = item.hint;
        }
        self.dropped += other.dropped;
    }

    /// Any that stops the pipeline.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|d| d.severity == Severity::Error)
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// In the order of the files and their lines; what has no place comes first.
    pub fn sort(&mut self) {
        self.items.sort_by_key(|d| (d.span.line > 0, d.span.file, d.span.line, d.span.column));
    }

    /// The files that the spans point into.
    pub fn set_sources(&mut self, sources: Sources) {
        self.sources = sources;
    }

    /// The files that the spans point into.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The messages of the errors, one a line.
    #[must_use]
    pub fn messages(&self) -> Vec<&str> {
        self.items.iter().filter(|d| d.severity == Severity::Error).map(|d| d.message.as_str()).collect()
    }

    /// All of them as a document.
    #[must_use]
    pub fn view(&self) -> Vec<DiagnosticView> {
        let name = |span: Span| self.sources.get(span.file).map_or("", |f| f.name.as_str()).to_string();
        self.items
            .iter()
            .map(|d| DiagnosticView {
                severity: d.severity,
                file: name(d.span),
                line: d.span.line,
                column: d.span.column,
                path: d.path.clone(),
                message: d.message.clone(),
                hint: d.hint.clone(),
            })
            .collect()
    }

    /// All of them as a person sees them: the source line, a caret, the hint.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for item in &self.items {
            self.render_one(item, &mut out);
        }
        if self.dropped > 0 {
            out.push_str(&format!("… and {} more\n", self.dropped));
        }
        out
    }

    fn render_one(&self, item: &Diagnostic, out: &mut String) {
        let word = match item.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        out.push_str(&format!("{word}: {}\n", item.message));
        let span = item.span;
        if let Some(file) = self.sources.get(span.file) {
            if span.line == 0 {
                out.push_str(&format!("  --> {}\n", file.name));
            } else {
                out.push_str(&format!("  --> {}:{}:{}\n", file.name, span.line, span.column));
                if let Some(line) = file.text.lines().nth(span.line as usize - 1) {
                    let number = span.line.to_string();
                    let (shown, caret, width) = window(line, span);
                    let pad = " ".repeat(number.len());
                    out.push_str(&format!(" {pad} |\n {number} | {shown}\n"));
                    out.push_str(&format!(" {pad} | {}{}\n", " ".repeat(caret), "^".repeat(width)));
                }
            }
        }
        if let Some(hint) = &item.hint {
            out.push_str(&format!("  = {hint}\n"));
        }
        out.push('\n');
    }
}

/// A text of bounded length: names from a file may have a megabyte.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The part of a line around a span: the text shown, where the caret starts and how wide it is. Tabs become one arrow
/// each, so that what is shown and the caret below agree.
fn window(line: &str, span: Span) -> (String, usize, usize) {
    let seen = span.column as usize + MAX_SHOWN + 1;
    let chars: Vec<char> = line.chars().take(seen).map(|c| if c == '\t' { '→' } else { c }).collect();
    let column = (span.column.max(1) as usize - 1).min(chars.len());
    let start = if column > MAX_SHOWN - 20 { column - 40 } else { 0 };
    let end = chars.len().min(start + MAX_SHOWN);
    let mut shown: String = chars[start..end].iter().collect();
    let mut caret = column - start;
    if start > 0 {
        shown.insert(0, '…');
        caret += 1;
    }
    if end < chars.len() {
        shown.push('…');
    }
    let room = (end - start).saturating_sub(column - start).max(1);
    (shown.trim_end().to_string(), caret, (span.length.max(1) as usize).min(room))
}

impl Diagnostic {
    /// Says what was found, what would be right, or what was perhaps meant.
    pub fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(cut(hint.into()));
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

impl std::error::Error for Diagnostics {}
