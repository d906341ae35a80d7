//! Types and shapes of every keyword, before anything is resolved further. Messages are GitLab's, path included; hints
//! say what was found and what would be right. All errors are found, not the first.

mod artifacts;
mod cache;
mod container;
mod environment;
mod job;
mod server;
mod spec;
mod trigger;
mod variables;
mod workflow;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::keywords::{self, State};
use super::load::Reported;
use super::suggest;
use super::tree::{Map, Node, Span, Value};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(super) use job::visible_jobs;
pub(super) use spec::{header, included_inputs};
pub(super) use workflow::has_rules;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keywords and types alone, of a text that nothing was included into or resolved in: what an editor shows.
    Syntax,
    /// A configuration that is about to become a plan.
    Full,
}

/// Unknown keys of one mapping for which something is suggested.
const MAX_HINTS: usize = 5;
/// Unknown keys that are named in one message.
const MAX_NAMED: usize = 50;
/// Levels a list in a list may have, in scripts and stages.
const MAX_LISTS: usize = 10;

/// Names that cannot be jobs.
pub(super) const RESERVED: [&str; 10] = [
    "image",
    "services",
    "stages",
    "before_script",
    "after_script",
    "variables",
    "cache",
    "include",
    "workflow",
    "default",
];

/// Checks a whole configuration.
///
/// # Errors
/// [`Reported`]: something is wrong with it.
pub fn configuration(root: &Map, mode: Mode, out: &mut Diagnostics) -> Result<(), Reported> {
    let mut check = Checker::new(out, mode);
    check.root(root);
    check.report_idle();
    if check.failed { Err(Reported) } else { Ok(()) }
}

/// Whether a top-level name is a job, hidden or not.
pub(super) fn is_job(name: &str, node: &Node) -> bool {
    if name == "spec" {
        return node.get("script").is_some();
    }
    if matches!(name, "default" | "workflow") && node.get("script").is_some() {
        return true;
    }
    !RESERVED.contains(&name)
}

/// Collects what is wrong.
struct Checker<'d> {
    out: &'d mut Diagnostics,
    mode: Mode,
    /// Keywords that are not acted upon: where they were seen first, and how often.
    idle: BTreeMap<(&'static str, &'static str), (Span, String, usize)>,
    failed: bool,
    /// Lists of rules that were read and are right: what many jobs inherit is looked at once.
    right_rules: HashSet<*const Vec<Node>>,
    /// What making the programs of all patterns costs.
    pattern_cost: u32,
}

impl<'d> Checker<'d> {
    fn new(out: &'d mut Diagnostics, mode: Mode) -> Self {
        Checker { out, mode, idle: BTreeMap::new(), failed: false, right_rules: HashSet::new(), pattern_cost: 0 }
    }
}

impl Checker<'_> {
    /// An error: `PATH MESSAGE`.
    fn fail(&mut self, span: Span, path: &str, message: impl AsRef<str>) -> &mut Diagnostic {
        self.failed = true;
        self.out.error(span, path, format!("{path} {}", message.as_ref()))
    }

    /// An error about a value: what was found goes into the hint.
    fn wrong(&mut self, node: &Node, path: &str, message: impl AsRef<str>) {
        let found = format!("found {}", node.describe());
        self.fail(node.span, path, message).hint(found);
    }

    /// A value that is not looked at: absent in all but name, or to be replaced by what it refers to.
    fn skips(node: &Node) -> bool {
        matches!(node.value, Value::Null | Value::Reference(_))
    }

    fn strict(&self) -> bool {
        self.mode == Mode::Syntax
    }

    /// A value to be checked: there, not null, no reference.
    fn given<'m>(&self, map: &'m Map, key: &str) -> Option<&'m Node> {
        map.get(key).filter(|n| !Self::skips(n))
    }

    /// Unknown keys of a mapping, with what was perhaps meant; notes those that are not acted upon.
    fn keys(&mut self, map: &Map, parent: &'static str, path: &str) {
        let mut unknown: Vec<(&Arc<str>, Span)> = Vec::new();
        for (key, entry) in map.iter() {
            match keywords::of(parent).find(|k| k.name == &**key) {
                None => unknown.push((key, entry.key_span)),
                Some(keyword) => match keyword.state {
                    State::Works => {}
                    State::Refused if self.mode == Mode::Full => {
                        self.fail(entry.key_span, path, format!("the keyword `{key}` is not supported"))
                            .hint("see docs/keywords.md for why, and for what to use instead");
                    }
                    _ if entry.value.is_null() => {}
                    State::Planned | State::NeedsServer | State::Refused => {
                        self.note(keyword.parent, keyword.name, entry.key_span, path);
                    }
                },
            }
        }
        let Some((_, span)) = unknown.first().copied() else { return };
        let mut names: Vec<&str> = unknown.iter().map(|(k, _)| &***k).take(MAX_NAMED).collect();
        let hints: Vec<String> = names
            .iter()
            .filter_map(|name| {
                let near = suggest::nearest(name, keywords::of(parent).map(|k| k.name));
                near.map(|near| format!("did you mean `{near}` for `{name}`?")).or_else(|| elsewhere(name, parent))
            })
            .take(MAX_HINTS)
            .collect();
        let hint = (!hints.is_empty()).then(|| hints.join(" "));
        if unknown.len() > names.len() {
            names.push("…");
        }
        self.fail(span, path, format!("config contains unknown keys: {}", names.join(", "))).hint = hint;
    }

    /// A keyword that is not acted upon was seen.
    fn note(&mut self, parent: &'static str, name: &'static str, span: Span, path: &str) {
        self.idle.entry((parent, name)).or_insert((span, path.to_string(), 0)).2 += 1;
    }

    /// One warning for each keyword that is not acted upon.
    fn report_idle(&mut self) {
        if self.mode == Mode::Syntax {
            return;
        }
        // A keyword inside of one that is warned about already says nothing new.
        let parents: Vec<&str> = self.idle.keys().map(|(_, name)| *name).collect();
        for ((parent, name), (span, path, count)) in &self.idle {
            let top = parent.rsplit(':').next().unwrap_or("");
            if parents.contains(&top) {
                continue;
            }
            let word = match parent {
                &"" | &"job" | &"default" => (*name).to_string(),
                _ => format!("{parent}:{name}"),
            };
            let text = match keywords::state(parent, name) {
                Some(State::NeedsServer) => "needs a GitLab server and is not acted upon",
                _ => "is not acted upon yet",
            };
            let places = if *count > 1 { format!(" ({count} places)") } else { String::new() };
            self.out.warn(*span, path.clone(), format!("the keyword `{word}` {text}{places}"));
        }
    }

    fn root(&mut self, root: &Map) {
        self.top_level(root);
        let mut visible = 0;
        for (name, entry) in root.iter() {
            if !is_job(name, &entry.value) {
                continue;
            }
            if name.starts_with('.') {
                continue;
            }
            visible += 1;
            if name.trim().is_empty() {
                self.failed = true;
                self.out.error(entry.key_span, "jobs", "jobs:job name can't be blank");
            } else if !entry.key_is_text {
                self.failed = true;
                self.out
                    .error(entry.key_span, format!("jobs:{name}"), format!("jobs:{name} name should be a symbol"))
                    .hint(format!("put quotes around it: \"{name}\":"));
            } else if name.chars().count() > super::matrix::MAX_NAME {
                self.fail(entry.key_span, "jobs:job", "name is too long (maximum is 255 characters)");
            } else {
                self.job(name, entry);
            }
        }
        if visible == 0 && self.mode == Mode::Full {
            let span = root.iter().next().map_or(Span::default(), |(_, e)| e.key_span);
            self.fail(span, "jobs", "config should contain at least one visible job")
                .hint("a job is a top-level name with a `script`; names that begin with a dot are templates");
        }
    }

    fn top_level(&mut self, root: &Map) {
        if let Some(stages) = self.given(root, "stages") {
            self.nested_strings(stages, "stages", "config should be an array of strings or a nested array of strings");
        }
        for key in ["before_script", "after_script"] {
            if let Some(node) = self.given(root, key) {
                self.script(node, key, false);
            }
        }
        match root.get("image") {
            Some(node) if node.is_null() && self.strict() => {
                self.wrong(node, "image", "config should be a hash or a string")
            }
            Some(node) => self.image(node, "image"),
            None => {}
        }
        if let Some(node) = self.given(root, "services") {
            self.services(node, "services");
        }
        if let Some(node) = self.given(root, "cache") {
            self.caches(node, "cache");
        }
        if let Some(node) = self.given(root, "variables") {
            self.root_variables(node);
        }
        if let Some(node) = self.given(root, "include") {
            self.includes(node, "include", false);
        }
        if let Some(node) = root.get("workflow").filter(|n| !is_job("workflow", n)) {
            self.workflow(node);
        }
        if let Some(entry) = root.entry("default").filter(|e| !is_job("default", &e.value)) {
            self.default(&entry.value, root);
        }
        if self.strict()
            && let Some(spec) = self.given(root, "spec").filter(|n| !is_job("spec", n))
        {
            self.spec(spec);
        }
    }

    fn default(&mut self, node: &Node, root: &Map) {
        if Self::skips(node) {
            return;
        }
        let Some(map) = node.as_map() else {
            self.wrong(node, "default", "config should be a hash");
            return;
        };
        self.keys(map, "default", "default");
        self.inheritable(map, "default");
        for key in ["image", "services", "cache", "before_script", "after_script"] {
            if map.present(key).is_some() && root.present(key).is_some() {
                let span = root.entry(key).map_or(node.span, |e| e.key_span);
                self.failed = true;
                self.out
                    .error(span, key, format!("{key} is defined in top-level and `default:` entry"))
                    .hint("keep the one under `default:`");
            }
        }
    }

    /// A text, or a list of texts and such lists.
    fn script(&mut self, node: &Node, path: &str, required: bool) {
        let blank = match &node.value {
            Value::Str { text, .. } => text.trim().is_empty(),
            Value::Seq(items) => items.is_empty(),
            Value::Null => true,
            _ => false,
        };
        if blank {
            if required {
                self.fail(node.span, path, "config can't be blank").hint("at least one command is needed");
            }
            return;
        }
        if let Some(bad) = bad_line(node, 0) {
            let text = "config should be a string or a nested array of strings up to 10 levels deep";
            let hint = match &bad.value {
                Value::Map(map) if map.len() == 1 => {
                    let line: Vec<String> = map
                        .iter()
                        .map(|(k, e)| format!("{k}: {}", e.value.scalar_text().unwrap_or_default()))
                        .collect();
                    format!("the `: ` makes it a mapping; put quotes around it: - '{}'", line.join(""))
                }
                _ => format!("found {}", bad.describe()),
            };
            self.fail(bad.span, path, text).hint(hint);
        }
    }

    /// A list of texts and such lists; `message` without its ending.
    fn nested_strings(&mut self, node: &Node, path: &str, message: &str) {
        let bad = if node.as_seq().is_some() { bad_line(node, 0) } else { Some(node) };
        if let Some(bad) = bad {
            let found = format!("found {}", bad.describe());
            self.fail(bad.span, path, format!("{message} up to 10 levels deep")).hint(found);
        }
    }

    /// The key's value is one of some words.
    fn one_of(&mut self, map: &Map, key: &str, path: &str, words: &[&str], attribute: &str) {
        let Some(node) = self.given(map, key) else { return };
        if node.as_str().is_some_and(|s| words.contains(&s)) {
            return;
        }
        let hint = node
            .as_str()
            .and_then(|s| suggest::among(s, words.iter().copied()))
            .unwrap_or_else(|| format!("found {}", node.describe()));
        self.fail(node.span, path, format!("{attribute} should be one of: {}", words.join(", "))).hint(hint);
    }

    fn boolean(&mut self, map: &Map, key: &str, path: &str, attribute: &str) {
        if let Some(node) = self.given(map, key).filter(|n| n.as_bool().is_none()) {
            self.wrong(node, path, format!("{attribute} should be a boolean value"));
        }
    }

    fn string(&mut self, map: &Map, key: &str, path: &str, attribute: &str) {
        if let Some(node) = self.given(map, key).filter(|n| n.as_str().is_none()) {
            self.wrong(node, path, format!("{attribute} should be a string"));
        }
    }

    fn strings(&mut self, map: &Map, key: &str, path: &str, attribute: &str) {
        if let Some(node) = self.given(map, key)
            && let Some(bad) = bad_item(node)
        {
            self.wrong(bad, path, format!("{attribute} should be an array of strings"));
        }
    }

    fn duration(&mut self, node: &Node, path: &str, attribute: &str, words: &[&str]) {
        let text = node.as_str();
        if text.is_some_and(|t| words.contains(&t)) {
            return;
        }
        let Some(text) = text else {
            let mut hint = format!("found {}", node.describe());
            if let Value::Int(n) = node.value {
                hint.push_str(&format!("; a duration is a text, for example \"{n} seconds\" or \"{n} minutes\""));
            }
            self.fail(node.span, path, format!("{attribute} should be a duration")).hint(hint);
            return;
        };
        if let Err(error) = slipway_spec::duration::parse(text) {
            self.fail(node.span, path, format!("{attribute} should be a duration")).hint(error.to_string());
        }
    }
}

/// The first item that is no text, of a list that may hold lists.
fn bad_line(node: &Node, depth: usize) -> Option<&Node> {
    match &node.value {
        Value::Str { .. } if node.as_str().is_some() => None,
        Value::Reference(_) => None,
        Value::Seq(items) if depth <= MAX_LISTS => items.iter().find_map(|i| bad_line(i, depth + 1)),
        _ => Some(node),
    }
}

/// What is wrong in a flat list of texts: the value itself, or its first other item.
fn bad_item(node: &Node) -> Option<&Node> {
    match node.as_seq() {
        None => Some(node),
        Some(items) => items.iter().find(|i| i.as_str().is_none() && !matches!(i.value, Value::Reference(_))),
    }
}

/// Where a keyword would be right, when it is not here.
fn elsewhere(name: &str, parent: &str) -> Option<String> {
    let mut places: Vec<String> = keywords::all()
        .filter(|k| k.name == name && k.parent != parent)
        .map(|k| match k.parent {
            "" => "the top level".to_string(),
            "job" => "a job".to_string(),
            other => format!("`{other}`"),
        })
        .collect();
    places.dedup();
    (!places.is_empty() && places.len() <= 4).then(|| format!("`{name}` belongs into {}.", places.join(" or ")))
}
