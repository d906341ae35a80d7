//! `only` and `except`, as old files have them.

use super::{Event, Facts, RefKind, RuleError};
use crate::pipeline::changes::{Changes, Finding, parse_changes, strings};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::expression::Expression;
use crate::pipeline::regex::{Pattern, PatternError, slashed};
use crate::pipeline::tree::{Node, Span, shorten};

/// `only` or `except`. A key that was not written is not asked.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    span: Span,
    refs: Option<Vec<RefPattern>>,
    variables: Option<Vec<Expression>>,
    changes: Option<Changes>,
    kubernetes: bool,
}

/// One item of `refs`.
#[derive(Clone, Debug)]
struct RefPattern {
    text: String,
    /// `/…/`; else a keyword or a name.
    pattern: Option<Pattern>,
    /// The word without `@path`.
    word: String,
    /// `@group/project`
    project: Option<String>,
}

const REFS: &str = "should be an array of strings or regular expressions using re2 syntax";

/// Reads `only` or `except`. `path` is the keyword's: `jobs:test:only`.
pub fn parse_filter(node: &Node, path: &str, out: &mut Diagnostics) -> Option<Filter> {
    let mut filter = Filter { span: node.span, ..Filter::default() };
    if node.as_seq().is_some() {
        filter.refs = Some(parse_refs(node, path, "config", out)?);
        return Some(filter);
    }
    let Some(map) = node.as_map() else {
        out.error(node.span, path, format!("{path} has to be either an array of conditions or a hash"))
            .hint(format!("found {}; write for example [main]", node.describe()));
        return None;
    };
    let known = ["refs", "variables", "changes", "kubernetes"];
    let unknown: Vec<&str> = map.keys().map(AsRef::as_ref).filter(|k| !known.contains(k)).collect();
    if !unknown.is_empty() {
        out.error(node.span, path, format!("{path} config contains unknown keys: {}", unknown.join(", ")));
        return None;
    }
    if map.iter().all(|(_, e)| e.value.is_null()) {
        out.error(node.span, path, format!("{path} config can't be blank"));
        return None;
    }
    if let Some(refs) = map.present("refs") {
        filter.refs = Some(parse_refs(refs, path, "refs", out)?);
    }
    if let Some(variables) = map.present("variables") {
        filter.variables = Some(parse_variables(variables, path, out)?);
    }
    if let Some(changes) = map.present("changes") {
        // The sentence names the key, not a path below it: `jobs:test:only changes should be …`.
        if strings(changes).is_none() {
            out.error(changes.span, path, format!("{path} changes should be an array of strings"))
                .hint(format!("found {}", changes.describe()));
            return None;
        }
        filter.changes = Some(parse_changes(changes, path, out)?);
    }
    if let Some(kubernetes) = map.present("kubernetes") {
        if kubernetes.as_text() != Some("active") {
            let found = kubernetes.scalar_text().unwrap_or_else(|| kubernetes.describe());
            out.error(kubernetes.span, path, format!("{path} kubernetes unknown value: {found}"));
            return None;
        }
        filter.kubernetes = true;
    }
    Some(filter)
}

fn parse_refs(node: &Node, path: &str, attribute: &str, out: &mut Diagnostics) -> Option<Vec<RefPattern>> {
    let Some(texts) = strings(node) else {
        let wrong = node.as_seq().and_then(|items| items.iter().find(|i| i.as_str().is_none())).unwrap_or(node);
        out.error(wrong.span, path, format!("{path} {attribute} {REFS}")).hint(format!("found {}", wrong.describe()));
        return None;
    };
    let mut refs = Vec::new();
    for (text, span) in texts {
        match RefPattern::parse(text) {
            Ok(one) => refs.push(one),
            Err(e) => {
                out.error(span, path, format!("{path} {attribute} {REFS}")).hint(format!("{text}: {e}"));
                return None;
            }
        }
    }
    Some(refs)
}

fn parse_variables(node: &Node, path: &str, out: &mut Diagnostics) -> Option<Vec<Expression>> {
    let Some(texts) = strings(node) else {
        out.error(node.span, path, format!("{path} variables should be an array of strings"))
            .hint(format!("found {}", node.describe()));
        return None;
    };
    let mut expressions = Vec::new();
    for (text, span) in texts {
        match Expression::parse(text) {
            Ok(expression) => expressions.push(expression),
            Err(e) => {
                out.error(span, path, format!("{path} variables invalid expression syntax")).hint(e.to_string());
                return None;
            }
        }
    }
    Some(expressions)
}

impl RefPattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        // A pattern may hold an @ of its own; behind its last slash and flags it is the project's.
        let (word, project) = match text.starts_with('/') {
            true => match text.rsplit_once('@') {
                Some((pattern, project)) if slashed(pattern).is_some() => (pattern, Some(project)),
                _ => (text, None),
            },
            false => match text.split_once('@') {
                Some((word, project)) => (word, Some(project)),
                None => (text, None),
            },
        };
        let pattern = match slashed(word) {
            Some((inside, flags)) => Some(Pattern::new(&inside, flags)?),
            None => None,
        };
        Ok(RefPattern { text: text.into(), pattern, word: word.into(), project: project.map(str::to_string) })
    }

    fn matches(&self, event: &Event) -> bool {
        if self.project.as_ref().is_some_and(|p| *p != event.project_path) {
            return false;
        }
        let by_ref = event.kind != RefKind::MergeRequest;
        if let Some(pattern) = &self.pattern {
            return by_ref && pattern.is_match(&event.ref_name);
        }
        let word = self.word.as_str();
        let source = event.source.as_str();
        match word {
            "branches" if event.kind == RefKind::Branch => return true,
            "tags" if event.kind == RefKind::Tag => return true,
            "merge_requests" if source == "merge_request_event" => return true,
            "external_pull_requests" if source == "external_pull_request_event" => return true,
            _ => {}
        }
        word == source || word == plural(source) || by_ref && word == event.ref_name
    }
}

/// Rails' plural of a source.
fn plural(source: &str) -> String {
    match source {
        "push" => "pushes".into(),
        source => format!("{source}s"),
    }
}

impl Filter {
    /// What making the programs of its patterns costs; see [`Pattern::cost`].
    #[must_use]
    pub fn cost(&self) -> u32 {
        let refs = self.refs.iter().flatten().filter_map(|r| r.pattern.as_ref()).map(Pattern::cost);
        refs.chain(self.variables.iter().flatten().map(Expression::cost)).fold(0, u32::saturating_add)
    }

    /// `only`: every key that was written holds.
    pub(super) fn all_hold(&self, facts: Facts<'_>) -> Result<Finding, RuleError> {
        let findings = self.findings(facts)?;
        if let Some(failed) = findings.iter().find(|f| !f.holds) {
            return Ok(failed.clone());
        }
        let reasons: Vec<String> = findings.into_iter().map(|f| f.why).collect();
        Ok(Finding::yes(reasons.join("; ")))
    }

    /// `except`: some key that was written holds.
    pub(super) fn any_holds(&self, facts: Facts<'_>) -> Result<Finding, RuleError> {
        let findings = self.findings(facts)?;
        if let Some(found) = findings.iter().find(|f| f.holds) {
            return Ok(found.clone());
        }
        let reasons: Vec<String> = findings.into_iter().map(|f| f.why).collect();
        Ok(Finding::no(reasons.join("; ")))
    }

    fn findings(&self, facts: Facts<'_>) -> Result<Vec<Finding>, RuleError> {
        let mut findings = Vec::new();
        let event = facts.event;
        if let Some(refs) = &self.refs {
            let kind = match event.kind {
                RefKind::Branch => "the branch",
                RefKind::Tag => "the tag",
                RefKind::MergeRequest => "a merge request of",
            };
            let of = format!("{kind} {} (source {})", event.ref_name, event.source);
            findings.push(match refs.iter().find(|r| r.matches(event)) {
                Some(found) => Finding::yes(format!("{} matches {of}", found.text)),
                None => {
                    let texts: Vec<&str> = refs.iter().map(|r| r.text.as_str()).collect();
                    Finding::no(format!("{} does not match {of}", shorten(&texts.join(", "), 120)))
                }
            });
        }
        if let Some(variables) = &self.variables {
            findings.push(match variables.iter().find(|e| e.is_true(facts.scope)) {
                Some(found) => Finding::yes(found.text()),
                None => Finding::no(match variables.as_slice() {
                    [one] => format!("{} is not true ({})", one.text(), one.explain(facts.scope)),
                    more => format!("none of {} expressions is true", more.len()),
                }),
            });
        }
        if let Some(changes) = &self.changes {
            let found = changes.evaluate(facts.commit, facts.scope);
            findings.push(found.map_err(|source| RuleError { span: self.span, source })?);
        }
        if self.kubernetes {
            findings.push(Finding::no("kubernetes: active needs a GitLab server"));
        }
        Ok(findings)
    }
}
