//! The tree every stage works on: YAML values that know where they stand in which file.
//!
//! Sequences and mappings are shared (`Arc`): an alias, an inherited mapping, a default taken by ten thousand jobs cost
//! a pointer each. What changes one copies it first ([`std::sync::Arc::make_mut`]).

use indexmap::IndexMap;
use std::fmt;
use std::sync::Arc;

/// A file of [`super::diagnostic::Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A place in a file, one-based; `line` 0 means that there is no place (a value nobody wrote).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which file.
    pub file: FileId,
    /// Its line, from 1.
    pub line: u32,
    /// Its column in characters, from 1.
    pub column: u32,
    /// How many characters the text has on that line; 0 when it is not known.
    pub length: u32,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it was written; of an inherited value where the base wrote it.
    pub span: Span,
}

/// What a node is, by GitLab's reading of YAML (Psych, YAML 1.1).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `~`, `null`, nothing.
    Null,
    /// `true`, `yes`, `on` and their relatives.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// A float, or an integer that does not fit.
    Float(f64),
    /// Text.
    Str {
        /// The text.
        text: Arc<str>,
        /// How it was written.
        style: Style,
    },
    /// A list.
    Seq(Arc<Vec<Node>>),
    /// A mapping, in the order written.
    Map(Arc<Map>),
    /// `!reference [a, b]`: the items as written. Gone after `extends`, but for `lint --syntax`.
    Reference(Arc<Vec<Node>>),
}

/// How a text was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Bare.
    #[default]
    Plain,
    /// `'…'` or `"…"`.
    Quoted,
    /// `|` or `>`.
    Block,
    /// `:word` bare: Ruby's symbol, text in variables and a string nowhere else.
    Symbol,
}

/// A mapping in the order written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: IndexMap<Arc<str>, Entry>,
}

/// One pair of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key was written.
    pub key_span: Span,
    /// False for a key that YAML reads as a number, a boolean or null.
    pub key_is_text: bool,
    /// The value.
    pub value: Node,
}

impl Map {
    /// An empty mapping.
    #[must_use]
    pub fn new() -> Self {
        Map::default()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|e| &e.value)
    }

    /// The value of a key, `None` also when it is null: GitLab makes no difference between null and absent.
    #[must_use]
    pub fn present(&self, key: &str) -> Option<&Node> {
        self.get(key).filter(|n| !n.is_null())
    }

    /// The pair of a key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether the key is there, null or not.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// All pairs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Entry)> {
        self.entries.iter()
    }

    /// All keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.entries.keys()
    }

    /// How many pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a pair; a key that is there keeps its position. Gives back the former pair.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, entry: Entry) -> Option<Entry> {
        self.entries.insert(key.into(), entry)
    }

    /// Takes a pair out, order kept.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        self.entries.shift_remove(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.get_mut(key).map(|e| &mut e.value)
    }

    /// All pairs, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Entry)> {
        self.entries.iter_mut()
    }
}

impl Entry {
    /// A pair with a text key.
    #[must_use]
    pub fn new(key_span: Span, value: Node) -> Self {
        Entry { key_span, key_is_text: true, value }
    }
}

impl Node {
    /// A node.
    #[must_use]
    pub fn new(value: Value, span: Span) -> Self {
        Node { value, span }
    }

    /// A text that nobody wrote.
    #[must_use]
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Node::new(Value::Str { text: text.into(), style: Style::Plain }, Span::default())
    }

    /// Null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The text, if it is one (a symbol is not).
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Str { text, style } if *style != Style::Symbol => Some(text),
            _ => None,
        }
    }

    /// The text of a string or a symbol.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Str { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The integer, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(i) => Some(i),
            _ => None,
        }
    }

    /// The items, if it is a list.
    #[must_use]
    pub fn as_seq(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The value of a key, if it is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map().and_then(|m| m.get(key))
    }

    /// The text Ruby makes of a scalar (`3.10` is `3.1`, `yes` is `true`, null is empty); `None` for lists and mappings.
    #[must_use]
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Null => Some(String::new()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Int(i) => Some(i.to_string()),
            Value::Float(f) => Some(ruby_float(*f)),
            Value::Str { text, .. } => Some(text.to_string()),
            Value::Seq(_) | Value::Map(_) | Value::Reference(_) => None,
        }
    }

    /// What it is, for a message: `a list`, `the number 3`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing (null)".into(),
            Value::Bool(b) => format!("the boolean {b}"),
            Value::Int(i) => format!("the number {i}"),
            Value::Float(f) => format!("the number {}", ruby_float(*f)),
            Value::Str { text, style: Style::Symbol } => format!("the symbol :{text}"),
            Value::Str { text, .. } => format!("the text {:?}", shorten(text, 40)),
            Value::Seq(items) if items.is_empty() => "an empty list".into(),
            Value::Seq(_) => "a list".into(),
            Value::Map(map) if map.is_empty() => "an empty mapping".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Reference(_) => "a !reference".into(),
        }
    }

    /// The value as JSON, positions lost.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(f) => (*f).into(),
            Value::Str { text, .. } => text.to_string().into(),
            Value::Seq(items) | Value::Reference(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(map) => map.iter().map(|(k, e)| (k.to_string(), e.value.to_json())).collect(),
        }
    }

    /// A value given as JSON, at one place.
    #[must_use]
    pub fn from_json(value: &serde_json::Value, span: Span) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::Str { text: s.as_str().into(), style: Style::Quoted },
            serde_json::Value::Array(items) => {
                Value::Seq(Arc::new(items.iter().map(|i| Node::from_json(i, span)).collect()))
            }
            serde_json::Value::Object(pairs) => {
                let mut map = Map::new();
                for (key, value) in pairs {
                    map.insert(key.as_str(), Entry::new(span, Node::from_json(value, span)));
                }
                Value::Map(Arc::new(map))
            }
        };
        Node { value, span }
    }
}

/// Ruby's `Float#to_s`: the shortest digits that read back, `1.0`, `1.0e+20`, `1.0e-05`.
#[must_use]
pub fn ruby_float(f: f64) -> String {
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if f == 0.0 || (1e-4..1e16).contains(&f.abs()) {
        return format!("{f:?}");
    }
    let text = format!("{f:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = if digits.contains('.') { digits.to_string() } else { format!("{digits}.0") };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(e) => ('-', e),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The value as Ruby's `inspect` prints it: `["a", "b"]`.
#[must_use]
pub fn ruby_inspect(node: &Node) -> String {
    let list = |items: &[Node]| items.iter().map(ruby_inspect).collect::<Vec<_>>().join(", ");
    match &node.value {
        Value::Null => "nil".into(),
        Value::Str { text, style: Style::Symbol } => format!(":{text}"),
        Value::Str { text, .. } => format!("{text:?}"),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => node.scalar_text().unwrap_or_default(),
        Value::Seq(items) | Value::Reference(items) => format!("[{}]", list(items)),
        Value::Map(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, e)| format!("{k:?}=>{}", ruby_inspect(&e.value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// At most `limit` characters of a text, on one line.
#[must_use]
pub fn shorten(text: &str, limit: usize) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() <= limit && line.len() == text.trim_end_matches('\n').len() {
        return line.to_string();
    }
    line.chars().take(limit).chain(std::iter::once('…')).collect()
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
