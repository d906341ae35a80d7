//! The header: `spec`, `spec:inputs`; and the `inputs` of a job.

use super::{Checker, Mode};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::expression::Expression;
use crate::pipeline::load::Reported;
use crate::pipeline::tree::{Map, Node, Span, Value};
use crate::pipeline::{regex, suggest};

const TYPES: [&str; 4] = ["string", "number", "boolean", "array"];
const MAX_OPTIONS: usize = 50;
const MAX_JOB_INPUTS: usize = 50;
const MAX_DESCRIPTION: usize = 256;

/// Checks the header document of a file.
pub(crate) fn header(header: &Map, mode: Mode, out: &mut Diagnostics) -> Result<(), Reported> {
    let mut check = Checker::new(out, mode);
    let unknown: Vec<&str> = header.keys().map(|k| &**k).filter(|k| *k != "spec").collect();
    if let Some(first) = unknown.first() {
        let span = header.entry(first).map_or(Span::default(), |e| e.key_span);
        check.fail(span, "header", format!("config contains unknown keys: {}", unknown.join(", ")));
    }
    if let Some(spec) = header.present("spec") {
        check.spec(spec);
    }
    if check.failed { Err(Reported) } else { Ok(()) }
}

/// Checks a file of `spec:include`, which holds inputs and nothing else.
pub(crate) fn included_inputs(file: &Map, out: &mut Diagnostics) -> Result<(), Reported> {
    let mut check = Checker::new(out, Mode::Full);
    for (key, entry) in file.iter() {
        if &**key == "inputs" {
            check.inputs(&entry.value, "inputs", false);
        } else {
            check.fail(entry.key_span, "spec:include", format!("config contains unknown keys: {key}"));
        }
    }
    if check.failed { Err(Reported) } else { Ok(()) }
}

impl Checker<'_> {
    pub(super) fn spec(&mut self, node: &Node) {
        let Some(map) = node.as_map() else {
            self.wrong(node, "spec", "config should be a hash");
            return;
        };
        self.keys(map, "spec", "spec");
        self.string(map, "description", "spec", "description");
        if let Some(text) = map.get("description").and_then(Node::as_str)
            && text.chars().count() > MAX_DESCRIPTION
        {
            let span = map.get("description").map_or(node.span, |n| n.span);
            self.fail(span, "spec", format!("description is too long (maximum is {MAX_DESCRIPTION} characters)"));
        }
        if let Some(component) = self.given(map, "component") {
            let known = ["name", "sha", "version", "reference"];
            let bad = match component.as_seq() {
                None => Some(component),
                Some(items) => items.iter().find(|i| !i.as_str().is_some_and(|s| known.contains(&s))),
            };
            if let Some(bad) = bad {
                self.wrong(bad, "spec:component", format!("config should be a list of: {}", known.join(", ")));
            }
        }
        if let Some(include) = self.given(map, "include") {
            let one = std::slice::from_ref(include);
            for item in include.as_seq().unwrap_or(one) {
                let Some(map) = item.as_map() else { continue };
                for (key, entry) in map.iter() {
                    if !["local", "remote", "project", "file", "ref"].contains(&&**key) {
                        let text = format!("config contains unknown keys: {key}");
                        self.fail(entry.key_span, "spec:include", text)
                            .hint("inputs come from `local`, `remote` or `project` files, and take none themselves");
                    }
                }
            }
        }
        if let Some(inputs) = self.given(map, "inputs") {
            self.inputs(inputs, "spec:inputs", false);
        }
    }

    /// The declared inputs; those of a job each need a default.
    pub(super) fn inputs(&mut self, node: &Node, path: &str, of_job: bool) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        if of_job && map.len() > MAX_JOB_INPUTS {
            self.fail(node.span, path, format!("config cannot have more than {MAX_JOB_INPUTS} inputs"));
        }
        for (name, entry) in map.iter() {
            let path = format!("{path}:{name}");
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
                self.fail(entry.key_span, &path, "name can contain only letters, digits, '-' and '_'");
            }
            match &entry.value.value {
                Value::Null if !of_job => {}
                Value::Map(definition) => self.input(definition, &entry.value, &path, of_job),
                _ => self.wrong(&entry.value, &path, "config should be a hash"),
            }
        }
    }

    fn input(&mut self, map: &Map, node: &Node, path: &str, of_job: bool) {
        self.keys(map, if of_job { "inputs" } else { "spec:inputs" }, path);
        let kind = match self.given(map, "type") {
            None => "string",
            Some(node) => match node.as_str().and_then(|s| TYPES.into_iter().find(|t| *t == s)) {
                Some(kind) => kind,
                None => {
                    let hint = node.as_str().and_then(|s| suggest::among(s, TYPES.into_iter()));
                    self.fail(node.span, path, format!("type should be one of: {}", TYPES.join(", "))).hint = hint;
                    return;
                }
            },
        };
        self.string(map, "description", path, "description");
        if of_job && !map.contains("default") {
            self.fail(node.span, path, "config missing required keys: default");
        }
        if let Some(options) = self.given(map, "options") {
            if !matches!(kind, "string" | "number") {
                self.fail(options.span, path, "Options can only be used with string and number inputs");
            } else if options.as_seq().is_none_or(|s| s.len() > MAX_OPTIONS) {
                self.wrong(options, path, format!("options should be an array of at most {MAX_OPTIONS} items"));
            }
        }
        if let Some(pattern) = self.given(map, "regex") {
            if kind != "string" {
                self.fail(pattern.span, path, "RegEx validation can only be used with string inputs");
            } else if pattern.as_str().is_none_or(|p| regex::compile(p, "").is_err()) {
                self.wrong(pattern, path, "regex must be a regular expression with re2 syntax");
            }
        }
        if let Some(default) = self.given(map, "default")
            && !fits(kind, default)
        {
            let article = if kind == "array" { "an" } else { "a" };
            self.wrong(default, path, format!("default value is not {article} {kind}"));
        }
        if let Some(rules) = self.given(map, "rules").filter(|_| !of_job) {
            for key in ["options", "default"] {
                if map.contains(key) {
                    self.fail(rules.span, path, format!("config these keys cannot be used together: rules, {key}"));
                }
            }
            self.input_rules(rules, &format!("{path}:rules"));
        }
    }

    fn input_rules(&mut self, node: &Node, path: &str) {
        let Some(items) = node.as_seq() else {
            self.wrong(node, path, "config should be an array of hashes");
            return;
        };
        for item in items {
            let Some(map) = item.as_map() else {
                self.wrong(item, path, "config should be an array of hashes");
                continue;
            };
            self.keys(map, "spec:inputs:rules", path);
            if !map.contains("default") {
                self.fail(item.span, path, "config missing required keys: default");
            }
            if let Some(condition) = self.given(map, "if") {
                match condition.as_str().map(Expression::parse) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        self.fail(condition.span, path, "if invalid expression syntax").hint(error.to_string());
                    }
                    None => self.wrong(condition, path, "if should be a string"),
                }
            }
        }
    }
}

fn fits(kind: &str, node: &Node) -> bool {
    match kind {
        "number" => matches!(node.value, Value::Int(_) | Value::Float(_)),
        "boolean" => node.as_bool().is_some(),
        "array" => node.as_seq().is_some(),
        _ => node.as_text().is_some(),
    }
}
