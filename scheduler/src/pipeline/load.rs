//! YAML text becomes a [`Node`], as GitLab reads it: Psych, YAML 1.1.
//!
//! The parser gives events with places; here anchors, merge keys and tags are settled. Aliases share what they name, and
//! what they would weigh written out is counted, so that a small file cannot become a large one.

use super::diagnostic::Diagnostics;
use super::scalar::{self, Resolved};
use super::tree::{Entry, FileId, Map, Node, Span, Style, Value, ruby_inspect};
use base64::Engine as _;
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of one file; GitLab's `max_yaml_size_bytes` of 2 MB.
pub const MAX_FILE_BYTES: usize = 2 * 1024 * 1024;
/// Levels of nesting; GitLab's `max_yaml_depth`.
pub const MAX_DEPTH: usize = 100;
/// Values of all files of a configuration with every alias written out. Ours: GitLab counts the bytes of Ruby objects, 2 MB of them.
pub const MAX_NODES: u64 = 1_000_000;

/// Said for a file, or a configuration, that is larger than we want to look at; GitLab's words.
pub const TOO_BIG: &str = "The parsed YAML is too big";

/// A failure that is in the diagnostics already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported;

/// The documents of a text: the header (`spec:`) if there is one, and the content, each with all lines but its own
/// blanked, so that line numbers stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// The document before the first `---`, if another follows.
    pub first: String,
    /// The one after it.
    pub second: Option<String>,
    /// The line on which a third begins.
    pub third_line: Option<u32>,
}

/// Splits a text at its `---` lines.
#[must_use]
pub fn documents(text: &str) -> Documents {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_divider = |line: &str| line.starts_with("---") && line[3..].chars().next().is_none_or(char::is_whitespace);
    if !text.lines().any(is_divider) {
        return Documents { first: text.to_string(), second: None, third_line: None };
    }
    // Each document: (first line, text). A divider line's rest belongs to what follows.
    let mut parts: Vec<(usize, String)> = vec![(0, String::new())];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_divider(line) {
            parts.push((number, format!("   {}", &line[3..])));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
        }
    }
    let blank = |part: &str| part.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
    parts.retain(|(_, part)| !blank(part));
    let pad = |(line, part): &(usize, String)| format!("{}{part}", "\n".repeat(*line));
    Documents {
        first: parts.first().map(pad).unwrap_or_default(),
        second: parts.get(1).map(pad),
        third_line: parts.get(2).map(|(line, _)| u32::try_from(line + 1).unwrap_or(u32::MAX)),
    }
}

/// Reads the first document of a text. An empty one is null.
///
/// # Errors
/// [`Reported`]: not YAML as GitLab reads it, or too large; what and where is in `diagnostics`.
pub fn load(text: &str, file: FileId, diagnostics: &mut Diagnostics) -> Result<Node, Reported> {
    load_within(text, file, &mut 0, diagnostics)
}

/// Like [`load`], of one file of several: `spent` counts the values of all of them, [`MAX_NODES`] at most.
///
/// # Errors
/// As of [`load`].
pub fn load_within(text: &str, file: FileId, spent: &mut u64, diagnostics: &mut Diagnostics) -> Result<Node, Reported> {
    let top = Span { file, line: 1, column: 1, length: 0 };
    if text.len() > MAX_FILE_BYTES {
        diagnostics
            .error(Span { line: 0, ..top }, "", TOO_BIG)
            .hint(format!("the file has {} bytes; at most {MAX_FILE_BYTES} are read", text.len()));
        return Err(Reported);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        file,
        lines: text.lines().collect(),
        stack: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        weight: *spent,
        diagnostics,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                if error.info().contains(TAB_AFTER_COLON)
                    && let Some(text) = blanks_for_tabs(text)
                {
                    return load_within(&text, file, spent, builder.diagnostics);
                }
                let mark = error.marker();
                let place = Span { file, line: number(mark.line()), column: number(mark.col() + 1), length: 1 };
                return Err(builder.syntax_error(place, error.info()));
            }
        };
        let same_line = span.start.line() == span.end.line();
        let length = if same_line { number(span.end.col().saturating_sub(span.start.col())) } else { 1 };
        let place = Span { file, line: number(span.start.line()), column: number(span.start.col() + 1), length };
        match event {
            Event::DocumentEnd | Event::StreamEnd => break,
            event => builder.event(event, place)?,
        }
    }
    *spent = builder.weight;
    Ok(builder.root.unwrap_or(Node::new(Value::Null, top)))
}

/// What the parser says of `key:<tab>value`, which Psych takes.
const TAB_AFTER_COLON: &str = "':' must be followed by a valid YAML whitespace";

/// The text with the tabs after `key:` turned into blanks; `None` when there are none.
fn blanks_for_tabs(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let key = line
            .find(":\t")
            .filter(|at| line[..*at].trim_start().chars().all(|c| c.is_alphanumeric() || "-_. ".contains(c)));
        match key {
            Some(at) => {
                let (key, value) = line.split_at(at + 1);
                let tabs = value.len() - value.trim_start_matches('\t').len();
                out.push_str(key);
                out.push_str(&" ".repeat(tabs));
                out.push_str(&value[tabs..]);
            }
            None => out.push_str(line),
        }
    }
    (out != text).then_some(out)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A list or a mapping that is not closed yet.
struct Open {
    anchor: usize,
    span: Span,
    weight_before: u64,
    content: Content,
}

enum Content {
    Seq { items: Vec<Node>, reference: bool },
    Map { pairs: Vec<(Node, Node)>, key: Option<Node> },
}

struct Builder<'d> {
    file: FileId,
    lines: Vec<&'d str>,
    stack: Vec<Open>,
    root: Option<Node>,
    /// Anchor id -> its node and what it weighs written out; `None` while it is still open.
    anchors: HashMap<usize, Option<(Node, u64)>>,
    weight: u64,
    diagnostics: &'d mut Diagnostics,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Reported> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Alias(id) => {
                let Some(Some((node, weight))) = self.anchors.get(&id) else {
                    return self.fail(span, "an alias inside of what it names", "write the value out instead");
                };
                let mut node = node.clone();
                if !matches!(node.value, Value::Map(_) | Value::Seq(_)) {
                    node.span = span;
                }
                let weight = *weight;
                self.add_weight(weight, span)?;
                self.add(node, span)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.add_weight(1, span)?;
                let value = self.scalar(&text, style, tag.as_deref(), span)?;
                let node = Node::new(value, span);
                if anchor > 0 {
                    self.anchors.insert(anchor, Some((node.clone(), 1)));
                }
                self.add(node, span)
            }
            Event::SequenceStart(anchor, tag) => {
                let reference = tag.as_deref().is_some_and(|t| is_local(t, "reference"));
                self.check_collection_tag(tag.as_deref(), span)?;
                self.open(anchor, span, Content::Seq { items: Vec::new(), reference })
            }
            Event::MappingStart(anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), span)?;
                self.open(anchor, span, Content::Map { pairs: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn add_weight(&mut self, weight: u64, span: Span) -> Result<(), Reported> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > MAX_NODES {
            let text = format!("with its aliases written out it has more than {MAX_NODES} values");
            return self.fail(span, TOO_BIG, &text);
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, span: Span, content: Content) -> Result<(), Reported> {
        self.add_weight(1, span)?;
        if self.stack.len() >= MAX_DEPTH {
            return self.fail(span, TOO_BIG, &format!("it is nested more than {MAX_DEPTH} levels deep"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, None);
        }
        self.stack.push(Open { anchor, span, weight_before: self.weight - 1, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Reported> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Seq { items, reference: true } => Value::Reference(Arc::new(items)),
            Content::Seq { items, reference: false } => Value::Seq(Arc::new(items)),
            Content::Map { pairs, .. } => Value::Map(Arc::new(self.mapping(pairs)?)),
        };
        let node = Node::new(value, open.span);
        if open.anchor > 0 {
            self.anchors.insert(open.anchor, Some((node.clone(), self.weight - open.weight_before)));
        }
        self.add(node, open.span)
    }

    fn add(&mut self, mut node: Node, _span: Span) -> Result<(), Reported> {
        match self.stack.last_mut().map(|o| &mut o.content) {
            None => self.root = Some(node),
            Some(Content::Seq { items, .. }) => items.push(node),
            Some(Content::Map { pairs, key }) => match key.take() {
                None => *key = Some(node),
                Some(key) => {
                    // A value that nobody wrote is where its key is.
                    if node.is_null() && node.span.length == 0 {
                        node.span = key.span;
                    }
                    pairs.push((key, node));
                }
            },
        }
        Ok(())
    }

    /// Pairs in the order written become a mapping; a merge key works by position, as Psych has it: it overwrites what
    /// was read before it, and is overwritten by what follows.
    fn mapping(&mut self, pairs: Vec<(Node, Node)>) -> Result<Map, Reported> {
        let mut map = Map::new();
        let mut written: HashMap<Arc<str>, Span> = HashMap::with_capacity(pairs.len());
        for (key, value) in pairs {
            if key.as_str() == Some("<<") && self.merge(&mut map, &value)? {
                continue;
            }
            let (text, key_is_text): (Arc<str>, bool) = match &key.value {
                Value::Str { text, .. } => (text.clone(), true),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                    (key.scalar_text().unwrap_or_default().into(), false)
                }
                Value::Seq(_) | Value::Map(_) | Value::Reference(_) => (ruby_inspect(&key).into(), false),
            };
            if let Some(first) = written.insert(text.clone(), key.span) {
                self.diagnostics
                    .warn(key.span, text.to_string(), format!("duplicate key `{text}`: the last one is taken"))
                    .hint(format!("the first one is at line {}", first.line));
            }
            map.insert(text, Entry { key_span: key.span, key_is_text, value });
        }
        Ok(map)
    }

    /// Merges a mapping, or a list of them of which the first wins. False when it is neither: then `<<` is just a key.
    fn merge(&mut self, map: &mut Map, value: &Node) -> Result<bool, Reported> {
        let bases: Vec<&Map> = match &value.value {
            Value::Map(base) => vec![base],
            Value::Seq(items) => match items.iter().map(Node::as_map).collect::<Option<Vec<_>>>() {
                Some(bases) => bases.into_iter().rev().collect(),
                None => return Ok(false),
            },
            _ => return Ok(false),
        };
        for base in bases {
            self.add_weight(base.len() as u64, value.span)?;
            for (key, entry) in base.iter() {
                map.insert(key.clone(), entry.clone());
            }
        }
        Ok(true)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, Reported> {
        let written = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
        };
        let string = |style| Value::Str { text: text.into(), style };
        let Some(tag) = tag else {
            return if written == Style::Plain { self.plain(text, span) } else { Ok(string(written)) };
        };
        let word = tag.suffix.as_str();
        if tag.is_yaml_core_schema() {
            return match word {
                "str" => Ok(string(Style::Quoted)),
                "float" => match self.plain(text, span)? {
                    Value::Int(i) => Ok(Value::Float(i as f64)),
                    Value::Float(f) => Ok(Value::Float(f)),
                    _ => self.fail(span, format!("invalid value for Float(): {text:?}"), "a number was expected"),
                },
                "int" => match self.plain(text, span)? {
                    Value::Int(i) => Ok(Value::Int(i)),
                    Value::Float(f) => Ok(Value::Int(f as i64)),
                    _ => self.fail(span, format!("invalid value for Integer(): {text:?}"), "a number was expected"),
                },
                "null" | "bool" => self.plain(text, span),
                "binary" => {
                    let clean: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                    let bytes = base64::engine::general_purpose::STANDARD.decode(clean).unwrap_or_default();
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    Ok(Value::Str { text: text.into(), style: Style::Quoted })
                }
                other => self.fail(span, format!("Tried to load unspecified class: {other}"), "remove the tag"),
            };
        }
        if is_local(tag, "reference") {
            return self.fail(span, format!("!reference {text:?} is not valid"), "a list: !reference [.job, script]");
        }
        if word.starts_with("ruby/") {
            return self.fail(span, format!("Tried to load unspecified class: {word}"), "remove the tag");
        }
        if is_local(tag, "str") {
            return Ok(string(Style::Quoted));
        }
        self.plain(text, span)
    }

    fn plain(&mut self, text: &str, span: Span) -> Result<Value, Reported> {
        match scalar::resolve(text) {
            Resolved::Value(Value::Str { style: Style::Symbol, .. }) if self.in_flow() => {
                self.fail(span, "Invalid YAML: did not find expected node content", "put quotes around it")
            }
            Resolved::Value(value) => Ok(value),
            Resolved::Class(class) => self.fail(
                span,
                format!("Tried to load unspecified class: {class}"),
                &format!("YAML reads {text:?} as a date; put quotes around it"),
            ),
        }
    }

    /// Whether what is read stands in `[…]` or `{…}`, as far as one can see without reading a very long line again.
    fn in_flow(&self) -> bool {
        let Some(open) = self.stack.last().filter(|o| o.span.column < 10_000) else { return false };
        let line = self.lines.get(open.span.line.saturating_sub(1) as usize).copied().unwrap_or("");
        line.chars().nth(open.span.column.saturating_sub(1) as usize).is_some_and(|c| c == '[' || c == '{')
    }

    fn check_collection_tag(&mut self, tag: Option<&Tag>, span: Span) -> Result<(), Reported> {
        let Some(tag) = tag else { return Ok(()) };
        let word = tag.suffix.as_str();
        let core = tag.is_yaml_core_schema() && !matches!(word, "map" | "seq" | "omap");
        if core || word.starts_with("ruby/") {
            return self.fail(span, format!("Tried to load unspecified class: {word}"), "remove the tag");
        }
        Ok(())
    }

    fn fail<T>(&mut self, span: Span, message: impl Into<String>, hint: &str) -> Result<T, Reported> {
        self.diagnostics.error(span, "", message.into()).hint(hint);
        Err(Reported)
    }

    /// The parser's error in words that help.
    fn syntax_error(&mut self, mut span: Span, info: &str) -> Reported {
        let line = self.lines.get(span.line.saturating_sub(1) as usize).copied().unwrap_or("");
        let indent = &line[..line.len() - line.trim_start().len()];
        let (message, hint) = if info.contains("unknown anchor") {
            let name: String = line
                .chars()
                .skip(span.column.saturating_sub(1) as usize)
                .skip_while(|c| *c == '*')
                .take_while(|c| !c.is_whitespace() && !",]}".contains(*c))
                .collect();
            span.length = number(name.chars().count() + 1);
            (format!("Unknown alias: {name}"), "an anchor (&name) must stand before it, in the same file".to_string())
        } else if let Some(at) = indent.find('\t') {
            span.column = number(at + 1);
            ("Invalid YAML: a tab used as indentation".to_string(), "YAML is indented with blanks only".to_string())
        } else {
            let hint = if info.contains("mapping values are not allowed") {
                "a text with `: ` in it needs quotes; or the line is indented wrongly"
            } else if line.trim_start().trim_start_matches("- ").contains(['%', '@', '`']) {
                "a text that begins with %, @ or ` needs quotes"
            } else {
                "check the indentation and the quotes of this line and the one before it"
            };
            (format!("Invalid YAML: {info}"), hint.to_string())
        };
        span.file = self.file;
        self.diagnostics.error(span, "", message).hint(hint);
        Reported
    }
}

fn is_local(tag: &Tag, word: &str) -> bool {
    tag.handle == "!" && tag.suffix == word
}
