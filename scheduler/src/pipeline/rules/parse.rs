//! Reading rules, with everything that is wrong about them.

use super::{Rule, RuleWhen};
use crate::pipeline::changes::{parse_changes, parse_exists};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::expression::{Expression, ExpressionError};
use crate::pipeline::needs::parse_rule_needs;
use crate::pipeline::plan::OnNewCommit;
use crate::pipeline::regex::MAX_COST;
use crate::pipeline::suggest;
use crate::pipeline::tree::{Map, Node, Span, Style, Value};
use slipway_spec::duration;
use std::sync::Arc;

/// Lists may stand in lists so deep.
const MAX_NESTING: usize = 10;
/// Rules one list may have: more than anybody writes, and few enough to decide for every job.
const MAX_RULES: usize = 1000;
/// One week, GitLab's bound of `start_in`.
const MAX_START_IN: u64 = 7 * 86_400;

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// A job's.
    Job,
    /// `workflow`'s.
    Workflow,
    /// An include's.
    Include,
}

impl RuleKind {
    fn keys(self) -> &'static [&'static str] {
        match self {
            RuleKind::Job => {
                &["if", "changes", "exists", "when", "start_in", "allow_failure", "variables", "needs", "interruptible"]
            }
            RuleKind::Workflow => &["if", "changes", "exists", "when", "variables", "auto_cancel"],
            RuleKind::Include => &["if", "changes", "exists", "when"],
        }
    }

    fn whens(self) -> &'static [&'static str] {
        match self {
            RuleKind::Job => &["on_success", "on_failure", "always", "never", "manual", "delayed"],
            RuleKind::Workflow | RuleKind::Include => &["always", "never"],
        }
    }
}

/// Reads `rules`. `path` is its owner's: `jobs:test`, `workflow`, `include`. `None` when it is null, or wrong as a whole;
/// of rules that are wrong in part the rest is given.
pub fn parse_rules(node: &Node, path: &str, kind: RuleKind, out: &mut Diagnostics) -> Option<Vec<Rule>> {
    if node.is_null() {
        return None;
    }
    let mut flat = Vec::new();
    let mut looked_at = 0;
    if let Err(wrong) = flatten(node, 0, &mut looked_at, &mut flat) {
        let text = format!("{path} rules should be an array containing hashes and arrays of hashes");
        out.error(wrong.span, format!("{path}:rules"), text)
            .hint(format!("found {}; a rule is a mapping: - if: $CI_COMMIT_BRANCH == \"main\"", wrong.describe()));
        return None;
    }
    if flat.len() > MAX_RULES {
        let text = format!("{path} rules has {} rules, at most {MAX_RULES} are allowed", flat.len());
        out.error(node.span, format!("{path}:rules"), text);
        return None;
    }
    let at = format!("{path}:rules:rule");
    let mut rules = Vec::with_capacity(flat.len());
    let mut cost = 0u32;
    for (map, span) in flat {
        let Some(rule) = parse_rule(map, span, &at, kind, out) else { continue };
        cost = cost.saturating_add(rule.cost());
        rules.push(rule);
        if cost > MAX_COST {
            out.error(
                span,
                format!("{path}:rules"),
                format!("{path} rules has too many regular expressions, or too big ones"),
            );
            return None;
        }
    }
    Some(rules)
}

/// The rules of nested lists, in order. Aliases make lists that hold the same list over and over, so what was looked at
/// is counted, empty lists too.
fn flatten<'n>(
    node: &'n Node,
    depth: usize,
    looked_at: &mut usize,
    flat: &mut Vec<(&'n Map, Span)>,
) -> Result<(), &'n Node> {
    let items = node.as_seq().filter(|_| depth <= MAX_NESTING).ok_or(node)?;
    for item in items {
        match item.as_map() {
            Some(map) => flat.push((map, item.span)),
            None => flatten(item, depth + 1, looked_at, flat)?,
        }
        *looked_at += 1;
        if *looked_at > 20 * MAX_RULES {
            return Err(node);
        }
        if flat.len() > MAX_RULES {
            break;
        }
    }
    Ok(())
}

fn parse_rule(map: &Map, span: Span, at: &str, kind: RuleKind, out: &mut Diagnostics) -> Option<Rule> {
    let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| !kind.keys().contains(k)).collect();
    if let Some(first) = unknown.first() {
        let place = map.entry(first).map_or(span, |e| e.key_span);
        let place = if place.line == 0 { span } else { place };
        out.error(place, at, format!("{at} config contains unknown keys: {}", unknown.join(", "))).hint(
            suggest::among(first, kind.keys().iter().copied())
                .unwrap_or_else(|| format!("a rule has: {}", kind.keys().join(", "))),
        );
        return None;
    }
    let mut rule = Rule { span, ..Rule::default() };
    if let Some(node) = map.present("if") {
        rule.condition = parse_condition(node, at, out).map(Arc::new);
    }
    if let Some(node) = map.present("changes") {
        rule.changes = parse_changes(node, at, out);
    }
    if let Some(node) = map.present("exists") {
        rule.exists = parse_exists(node, at, out);
    }
    if let Some(node) = map.present("when") {
        let word = node.as_text().filter(|w| kind.whens().contains(w));
        match word.and_then(RuleWhen::from_word) {
            Some(when) => rule.when = Some(when),
            None => {
                let found = node.scalar_text().unwrap_or_else(|| node.describe());
                out.error(node.span, at, format!("{at} when unknown value: {found}"))
                    .hint(format!("it is one of: {}", kind.whens().join(", ")));
            }
        }
    }
    parse_start_in(map, &mut rule, span, at, out);
    rule.allow_failure = boolean(map, "allow_failure", at, out);
    rule.interruptible = boolean(map, "interruptible", at, out);
    if let Some(node) = map.present("variables") {
        rule.variables = parse_variables(node, at, out);
    }
    if let Some(node) = map.present("needs") {
        rule.needs = parse_rule_needs(node, at, out);
    }
    if let Some(node) = map.present("auto_cancel") {
        parse_auto_cancel(node, &mut rule, at, out);
    }
    Some(rule)
}

/// Reads an `if`.
fn parse_condition(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Expression> {
    let Some(text) = node.as_str() else {
        out.error(node.span, at, format!("{at} if invalid expression syntax"))
            .hint(format!("found {}, not an expression such as $CI_COMMIT_BRANCH == \"main\"", node.describe()));
        return None;
    };
    match Expression::parse(text) {
        Ok(expression) => Some(expression),
        Err(e) => {
            out.error(place(node, &e), at, format!("{at} if invalid expression syntax")).hint(e.to_string());
            None
        }
    }
}

/// Where in the file an expression's error is: known when the expression stands on one line as it was written.
fn place(node: &Node, error: &ExpressionError) -> Span {
    let Value::Str { text, style } = &node.value else { return node.span };
    let quote = match style {
        Style::Plain => 0,
        // With escapes inside, columns do not agree.
        Style::Quoted if !text.contains(['"', '\'', '\\']) || node.span.length as usize == text.chars().count() + 2 => {
            1
        }
        Style::Quoted | Style::Block | Style::Symbol => return node.span,
    };
    if text.contains('\n') || node.span.line == 0 {
        return node.span;
    }
    let offset = u32::try_from(error.column - 1 + quote).unwrap_or(0);
    let length = u32::try_from(error.length).unwrap_or(1);
    Span { column: node.span.column + offset, length, ..node.span }
}

fn parse_start_in(map: &Map, rule: &mut Rule, span: Span, at: &str, out: &mut Diagnostics) {
    let start_in = map.present("start_in");
    if rule.when != Some(RuleWhen::Delayed) {
        if let Some(node) = start_in {
            out.error(node.span, at, format!("{at} start in must be blank")).hint("it goes with when: delayed");
        }
        return;
    }
    let place = start_in.map_or(span, |n| n.span);
    match start_in.and_then(Node::as_str).map(duration::parse) {
        Some(Ok(wait)) if wait.as_secs() <= MAX_START_IN => rule.start_in = Some(wait.as_secs()),
        Some(Ok(_)) => {
            out.error(place, at, format!("{at} start in should not exceed the limit")).hint("at most one week");
        }
        Some(Err(e)) => {
            out.error(place, at, format!("{at} start in should be a duration")).hint(e.to_string());
        }
        None => {
            out.error(place, at, format!("{at} start in should be a duration"))
                .hint("when: delayed needs start_in, a text such as \"30 minutes\"");
        }
    }
}

fn boolean(map: &Map, key: &str, at: &str, out: &mut Diagnostics) -> Option<bool> {
    let node = map.present(key)?;
    let value = node.as_bool();
    if value.is_none() {
        let name = key.replace('_', " ");
        out.error(node.span, at, format!("{at} {name} should be a boolean value"))
            .hint(format!("found {}", node.describe()));
    }
    value
}

fn parse_variables(node: &Node, at: &str, out: &mut Diagnostics) -> Vec<(String, String)> {
    let at = format!("{at}:variables");
    let Some(map) = node.as_map() else {
        out.error(node.span, &at, format!("{at} config should be a hash")).hint(format!("found {}", node.describe()));
        return Vec::new();
    };
    let mut variables = Vec::with_capacity(map.len());
    for (key, entry) in map.iter() {
        match entry.value.scalar_text() {
            Some(value) => variables.push((key.to_string(), value)),
            None => {
                out.error(entry.value.span, &at, format!("{at} config should be a hash of key value pairs"))
                    .hint(format!("{key} is {}; a rule's variables are texts", entry.value.describe()));
            }
        }
    }
    variables
}

fn parse_auto_cancel(node: &Node, rule: &mut Rule, at: &str, out: &mut Diagnostics) {
    let at = format!("{at}:auto_cancel");
    let Some(map) = node.as_map() else {
        out.error(node.span, &at, format!("{at} config should be a hash")).hint(format!("found {}", node.describe()));
        return;
    };
    let (commit, failure) = parse_auto_cancel_map(map, node.span, &at, out);
    rule.on_new_commit = commit;
    rule.on_job_failure = failure;
}

/// Reads `auto_cancel` of `workflow` or of one of its rules: what a new commit ends, and whether a failure ends the rest.
fn parse_auto_cancel_map(
    map: &Map,
    span: Span,
    at: &str,
    out: &mut Diagnostics,
) -> (Option<OnNewCommit>, Option<bool>) {
    let known = ["on_new_commit", "on_job_failure"];
    let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| !known.contains(k)).collect();
    if !unknown.is_empty() {
        out.error(span, at, format!("{at} config contains unknown keys: {}", unknown.join(", ")));
    }
    let mut one_of = |key: &str, words: &[&str]| -> Option<String> {
        let node = map.present(key)?;
        match node.as_text().filter(|w| words.contains(w)) {
            Some(word) => Some(word.to_string()),
            None => {
                let name = key.replace('_', " ");
                out.error(node.span, at, format!("{at} {name} must be one of: {}", words.join(", ")))
                    .hint(format!("found {}", node.describe()));
                None
            }
        }
    };
    let commit = one_of("on_new_commit", &["conservative", "interruptible", "none"]).map(|w| match w.as_str() {
        "interruptible" => OnNewCommit::Interruptible,
        "none" => OnNewCommit::None,
        _ => OnNewCommit::Conservative,
    });
    let failure = one_of("on_job_failure", &["none", "all"]).map(|w| w == "all");
    (commit, failure)
}

/// Reads `workflow:auto_cancel`.
pub fn parse_auto_cancel_of_workflow(node: &Node, out: &mut Diagnostics) -> (Option<OnNewCommit>, Option<bool>) {
    let at = "workflow:auto_cancel";
    match node.as_map() {
        Some(map) => parse_auto_cancel_map(map, node.span, at, out),
        None => {
            out.error(node.span, at, format!("{at} config should be a hash"))
                .hint(format!("found {}", node.describe()));
            (None, None)
        }
    }
}
