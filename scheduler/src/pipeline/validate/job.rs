//! A job, and what `default` may give to one.

use super::{Checker, Mode, is_job};
use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::regex::MAX_COST;
use crate::pipeline::tree::{Entry, Map, Node, Span, Value};
use crate::pipeline::{matrix, needs, regex, rules, suggest};
use std::sync::Arc;

const WHEN: [&str; 5] = ["on_success", "on_failure", "always", "manual", "delayed"];
/// Keys a trigger job may have.
const TRIGGER_KEYS: [&str; 18] = [
    "trigger",
    "stage",
    "extends",
    "rules",
    "only",
    "except",
    "needs",
    "when",
    "start_in",
    "variables",
    "inherit",
    "allow_failure",
    "environment",
    "resource_group",
    "interruptible",
    "parallel",
    "inputs",
    "manual_confirmation",
];
/// Reasons of `retry:when`.
pub(crate) const RETRY_REASONS: [&str; 22] = [
    "always",
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "stuck_pending_with_matching_runners",
    "stuck_pending_no_matching_runners",
    "no_updates_running",
    "no_updates_canceling",
    "runner_configuration_error",
    "runner_external_dependency_failure",
    "runner_interrupted",
    "server_timeout_running",
    "server_timeout_canceling",
];
const INHERITED: [&str; 13] = [
    "after_script",
    "artifacts",
    "before_script",
    "cache",
    "hooks",
    "id_tokens",
    "identity",
    "image",
    "interruptible",
    "retry",
    "services",
    "tags",
    "timeout",
];
const MAX_START_IN_SECONDS: u64 = 7 * 24 * 3600;

impl Checker<'_> {
    pub(super) fn job(&mut self, name: &str, entry: &Entry) {
        let path = format!("jobs:{name}");
        let node = &entry.value;
        let Some(map) = node.as_map() else {
            if matches!(node.value, Value::Reference(_)) && self.strict() {
                return;
            }
            self.no_script(name, entry.key_span, node);
            return;
        };
        let is_trigger = map.present("trigger").is_some();
        if self.mode == Mode::Full && ["script", "run", "trigger"].iter().all(|k| !map.contains(k)) {
            if !self.no_script(name, entry.key_span, node) {
                self.keys(map, "job", &path);
            }
            return;
        }
        for (a, b) in [("script", "trigger"), ("script", "run"), ("run", "trigger")] {
            // The editor schema, unlike the server, lets a script stand beside a trigger.
            if map.present(a).is_some() && map.present(b).is_some() && !(self.strict() && b == "trigger") {
                let span = map.entry(b).map_or(node.span, |e| e.key_span);
                self.fail(span, &path, format!("config these keys cannot be used together: {a}, {b}"));
            }
        }
        if is_trigger && map.present("script").is_none() && map.present("run").is_none() {
            self.trigger_keys(map, &path);
        }
        self.keys(map, "job", &path);
        match map.get("script") {
            Some(script) if !matches!(script.value, Value::Reference(_)) => {
                self.script(script, &format!("{path}:script"), true);
            }
            _ => {}
        }
        if map.get("image").is_some_and(Node::is_null) && self.strict() {
            self.fail(node.span, &format!("{path}:image"), "config should be a hash or a string");
        }
        self.inheritable(map, &path);
        self.selection(map, &path, is_trigger);
        self.run_control(map, &path);
        if let Some(stage) = self.given(map, "stage").filter(|n| n.as_str().is_none()) {
            self.wrong(stage, &format!("{path}:stage"), "config should be a string");
        }
        if let Some(variables) = self.given(map, "variables") {
            self.variables(variables, &format!("{path}:variables"), false);
        }
        if let Some(environment) = self.given(map, "environment") {
            self.environment(environment, &format!("{path}:environment"));
        }
        if let Some(inherit) = self.given(map, "inherit") {
            self.inherit(inherit, &format!("{path}:inherit"));
        }
        if let Some(trigger) = self.given(map, "trigger") {
            self.trigger(trigger, &format!("{path}:trigger"));
        }
        self.server_keywords(name, map, &path);
    }

    /// True when it is a misspelt keyword of the top level, and so no job at all.
    fn no_script(&mut self, name: &str, span: Span, node: &Node) -> bool {
        self.failed = true;
        let message = format!("jobs {name} config should implement the script:, run:, or trigger: keyword");
        let error = self.out.error(span, format!("jobs:{name}"), message);
        let keyword = suggest::nearest(name, super::RESERVED.iter().copied());
        error.hint = match keyword {
            Some(keyword) => Some(format!("did you mean the keyword `{keyword}`? Every other top-level name is a job")),
            None if node.as_map().is_some() => {
                let names = ["script", "trigger", "run"].into_iter();
                let near = node.as_map().and_then(|m| m.keys().find_map(|k| suggest::nearest(k, names.clone())));
                near.map(|k| format!("did you mean `{k}`?"))
                    .or_else(|| Some("add a `script:`; a template's name begins with a dot".into()))
            }
            None => Some("every top-level name that is no keyword is a job".into()),
        };
        keyword.is_some()
    }

    fn trigger_keys(&mut self, map: &Map, path: &str) {
        let unknown: Vec<&str> = map
            .iter()
            .filter(|(k, e)| {
                !TRIGGER_KEYS.contains(&&***k)
                    && crate::pipeline::keywords::state("job", k).is_some()
                    && !e.value.is_null()
            })
            .map(|(k, _)| &**k)
            .collect();
        if let Some(first) = unknown.first() {
            let span = map.entry(first).map_or(Span::default(), |e| e.key_span);
            self.fail(span, path, format!("config contains unknown keys: {}", unknown.join(", ")))
                .hint("a trigger job runs no script: it cannot have these");
        }
    }

    /// The keywords that `default` may hold too.
    pub(super) fn inheritable(&mut self, map: &Map, path: &str) {
        for key in ["before_script", "after_script"] {
            if let Some(node) = self.given(map, key) {
                self.script(node, &format!("{path}:{key}"), false);
            }
        }
        if let Some(node) = self.given(map, "image") {
            self.image(node, &format!("{path}:image"));
        }
        if let Some(node) = self.given(map, "services") {
            self.services(node, &format!("{path}:services"));
        }
        if let Some(node) = self.given(map, "cache") {
            self.caches(node, &format!("{path}:cache"));
        }
        if let Some(node) = self.given(map, "artifacts") {
            self.artifacts(node, &format!("{path}:artifacts"));
        }
        if let Some(node) = self.given(map, "retry") {
            self.retry(node, &format!("{path}:retry"));
        }
        if let Some(node) = self.given(map, "timeout") {
            self.duration(node, &format!("{path}:timeout"), "config", &[]);
        }
        if let Some(node) = self.given(map, "tags") {
            self.tags(node, &format!("{path}:tags"));
        }
        self.boolean(map, "interruptible", path, "interruptible");
        if let Some(node) = self.given(map, "hooks") {
            let path = format!("{path}:hooks");
            match node.as_map() {
                Some(hooks) => {
                    self.keys(hooks, "hooks", &path);
                    if let Some(script) = self.given(hooks, "pre_get_sources_script") {
                        self.script(script, &format!("{path}:pre_get_sources_script"), false);
                    }
                }
                None => self.wrong(node, &path, "config should be a hash"),
            }
        }
        if let Some(node) = self.given(map, "id_tokens") {
            self.id_tokens(node, &format!("{path}:id_tokens"));
        }
        if let Some(node) = self.given(map, "identity").filter(|n| n.as_str() != Some("google_cloud")) {
            self.wrong(node, &format!("{path}:identity"), "config should be one of: google_cloud");
        }
    }

    fn tags(&mut self, node: &Node, path: &str) {
        let flat = |n: &Node| match &n.value {
            Value::Seq(items) => items.iter().all(|i| i.as_str().is_some()),
            Value::Reference(_) => true,
            _ => n.as_str().is_some(),
        };
        let bad = match node.as_seq() {
            None => Some(node),
            Some(items) => items.iter().find(|i| !flat(i)),
        };
        if let Some(bad) = bad {
            self.wrong(bad, path, "config should be an array of strings");
        } else if node.as_seq().is_some_and(|s| s.len() >= 50) {
            self.fail(node.span, path, "config must be less than the limit of 50 tags");
        }
    }

    /// What decides whether the job is in the pipeline, and after what.
    fn selection(&mut self, map: &Map, path: &str, is_trigger: bool) {
        let has_rules = map.present("rules").is_some();
        if has_rules {
            for key in ["only", "except", "start_in"] {
                if map.present(key).is_some() {
                    let span = map.entry(key).map_or(Span::default(), |e| e.key_span);
                    self.fail(span, path, format!("config key may not be used with `rules`: {key}"));
                }
            }
        }
        if let Some(node) = map.get("rules") {
            self.rules(node, path, rules::RuleKind::Job);
        }
        for key in ["only", "except"] {
            if let Some(node) = self.given(map, key).filter(|n| !has_reference(n)) {
                if let Some(entry) = node.as_map().and_then(|m| m.entry("kubernetes")) {
                    self.note("only", "kubernetes", entry.key_span, path);
                }
                let mut cost = 0;
                self.parsed(|out| {
                    cost = rules::parse_filter(node, &format!("{path}:{key}"), out).map_or(0, |f| f.cost());
                });
                self.spend(cost, node.span, path);
                if self.pattern_cost > MAX_COST {
                    return;
                }
            }
        }
        if let Some(node) = self.given(map, "needs").filter(|n| !has_reference(n)) {
            self.parsed(|out| {
                needs::parse_needs(node, path, is_trigger, out);
            });
            self.note_needs(node, path);
        }
        if let Some(node) = self.given(map, "parallel").filter(|n| !has_reference(n)) {
            self.parsed(|out| {
                matrix::parse(node, path, is_trigger, out);
            });
        }
        if let Some(node) = self.given(map, "dependencies").filter(|n| !has_reference(n)) {
            let needs = map.present("needs").filter(|n| !has_reference(n));
            let needs = needs.and_then(|n| needs::parse_needs(n, path, is_trigger, &mut Diagnostics::new()));
            self.parsed(|out| {
                needs::parse_dependencies(node, path, needs.as_deref(), out);
            });
        }
        self.one_of(map, "when", path, &WHEN, "when");
        let delayed = map.get("when").and_then(Node::as_str) == Some("delayed");
        match self.given(map, "start_in") {
            Some(node) if !delayed && !has_rules => {
                self.fail(node.span, path, "start in must be blank").hint("it belongs to `when: delayed`");
            }
            Some(node) if delayed => {
                self.duration(node, path, "start in", &[]);
                let wait = node.as_str().and_then(|t| slipway_spec::duration::parse(t).ok());
                if wait.is_some_and(|w| w.as_secs() > MAX_START_IN_SECONDS) {
                    self.fail(node.span, path, "start in should not exceed the limit").hint("at most one week");
                }
            }
            None if delayed && !has_rules => {
                let span = map.entry("when").map_or(Span::default(), |e| e.key_span);
                self.fail(span, path, "start in should be a duration")
                    .hint("`when: delayed` needs `start_in: 30 minutes`");
            }
            _ => {}
        }
    }

    /// Counts what patterns cost; says so once when it is too much, after which no more are read.
    fn spend(&mut self, cost: u32, span: Span, path: &str) {
        let was = self.pattern_cost;
        self.pattern_cost = was.saturating_add(cost);
        if was <= MAX_COST && self.pattern_cost > MAX_COST {
            self.fail(span, path, "rules: the configuration has too many regular expressions, or too big ones")
                .hint("share rules with `extends` or `!reference`");
        }
    }

    /// Rules, as they are read later; only what is wrong with them counts here.
    pub(super) fn rules(&mut self, node: &Node, path: &str, kind: rules::RuleKind) {
        if Self::skips(node) || has_reference(node) {
            return;
        }
        let list = if let Value::Seq(items) = &node.value { Arc::as_ptr(items) } else { std::ptr::null() };
        if kind == rules::RuleKind::Job && self.right_rules.contains(&list) || self.pattern_cost > MAX_COST {
            return;
        }
        let mut read = None;
        self.parsed(|out| read = rules::parse_rules(node, path, kind, out).filter(|_| !out.has_errors()));
        if let Some(rules) = read {
            self.right_rules.insert(list);
            self.spend(rules.iter().map(rules::Rule::cost).fold(0, u32::saturating_add), node.span, path);
        }
        if self.strict() {
            let nulls = node.as_seq().into_iter().flatten().filter_map(Node::as_map).flat_map(|rule| {
                ["if", "changes", "exists"].into_iter().filter_map(|k| rule.entry(k).filter(|e| e.value.is_null()))
            });
            for entry in nulls {
                self.wrong(&entry.value, &format!("{path}:rules:rule"), "config can't be blank");
            }
        }
        for rule in node.as_seq().into_iter().flatten() {
            if let Some(map) = rule.get("exists").and_then(Node::as_map) {
                for key in ["project", "ref"] {
                    if let Some(entry) = map.entry(key) {
                        self.note("rules:exists", key, entry.key_span, path);
                    }
                }
            }
        }
    }

    /// Runs one of the stages' own readers for what it has to say.
    fn parsed(&mut self, read: impl FnOnce(&mut Diagnostics)) {
        let mut found = Diagnostics::new();
        read(&mut found);
        self.failed |= found.has_errors();
        self.out.extend(found);
    }

    fn note_needs(&mut self, node: &Node, path: &str) {
        let one = std::slice::from_ref(node);
        for need in node.as_seq().unwrap_or(one) {
            for key in ["pipeline", "project", "ref"] {
                if let Some(entry) = need.as_map().and_then(|m| m.entry(key)) {
                    self.note("needs", key, entry.key_span, path);
                }
            }
        }
    }

    fn run_control(&mut self, map: &Map, path: &str) {
        if let Some(node) = self.given(map, "allow_failure") {
            match &node.value {
                Value::Bool(_) => {}
                Value::Map(options) => {
                    let path = format!("{path}:allow_failure");
                    self.keys(options, "allow_failure", &path);
                    if let Some(codes) = options.get("exit_codes").filter(|c| !are_integers(c)) {
                        self.wrong(codes, &path, "exit codes should be an array of integers or an integer");
                    }
                }
                _ => self.wrong(node, path, "allow failure should be a hash or a boolean value"),
            }
        }
        if let Some(node) = self.given(map, "resource_group") {
            match node.as_str() {
                None => self.wrong(node, path, "resource group should be a string"),
                Some(text) if !super::environment::is_environment_name(text) => {
                    let text = "resource group can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and \
                                spaces, but it cannot start or end with '/'";
                    self.wrong(node, path, text);
                }
                Some(_) => {}
            }
        }
        if let Some(node) = self.given(map, "coverage") {
            let path = format!("{path}:coverage");
            match node.as_str().map(regex::compile_slashed) {
                Some(Some(Ok(_))) => {}
                Some(Some(Err(error))) => {
                    let hint = error.to_string();
                    self.fail(node.span, &path, "config must be a regular expression with re2 syntax").hint(hint);
                }
                _ => {
                    self.fail(node.span, &path, "config must be a regular expression with re2 syntax")
                        .hint("it stands between slashes: '/Coverage: \\d+/'");
                }
            }
        }
        self.string(map, "manual_confirmation", path, "manual confirmation");
    }

    fn retry(&mut self, node: &Node, path: &str) {
        let max = |check: &mut Self, node: &Node, attribute: &str| match node.as_int() {
            Some(n) if n < 0 => {
                check.fail(node.span, path, format!("{attribute} must be greater than or equal to 0"));
            }
            Some(n) if n > 2 => {
                check.fail(node.span, path, format!("{attribute} must be less than or equal to 2"));
            }
            Some(_) => {}
            None => check.wrong(node, path, format!("{attribute} should be an integer")),
        };
        match &node.value {
            Value::Int(_) => max(self, node, "config"),
            Value::Map(map) => {
                self.keys(map, "retry", path);
                if let Some(node) = self.given(map, "max") {
                    max(self, node, "max");
                }
                if let Some(node) = self.given(map, "when") {
                    self.retry_when(node, path);
                }
                if let Some(codes) = self.given(map, "exit_codes").filter(|c| !are_integers(c)) {
                    self.wrong(codes, path, "exit codes should be an array of integers or an integer");
                }
            }
            _ => self.wrong(node, path, "config has to be either an integer or a hash"),
        }
    }

    fn retry_when(&mut self, node: &Node, path: &str) {
        let known = |n: &Node| n.as_str().is_some_and(|s| RETRY_REASONS.contains(&s));
        let suggestion = |n: &Node| n.as_str().and_then(|s| suggest::among(s, RETRY_REASONS.into_iter()));
        match node.as_seq() {
            None if node.as_str().is_none() => self.wrong(node, path, "when should be an array of strings or a string"),
            None => {
                if !known(node) {
                    let hint = suggestion(node);
                    self.fail(node.span, path, "when is not included in the list").hint = hint;
                }
            }
            Some(items) => {
                let unknown: Vec<&Node> = items.iter().filter(|i| !known(i)).collect();
                if let Some(first) = unknown.first() {
                    let names: Vec<String> = unknown.iter().filter_map(|n| n.scalar_text()).collect();
                    let hint = suggestion(first);
                    let text = format!("when contains unknown values: {}", names.join(", "));
                    self.fail(first.span, path, text).hint = hint;
                }
            }
        }
    }

    fn inherit(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        self.keys(map, "inherit", path);
        for key in ["default", "variables"] {
            let Some(value) = self.given(map, key) else { continue };
            let path = format!("{path}:{key}");
            let names: Option<Vec<&str>> = value.as_seq().and_then(|s| s.iter().map(Node::as_str).collect());
            match (value.as_bool(), names) {
                (Some(_), _) => {}
                (None, None) => self.wrong(value, &path, "config should be a bool or array of strings"),
                (None, Some(names)) if key == "default" => {
                    let unknown: Vec<&str> = names.into_iter().filter(|n| !INHERITED.contains(n)).collect();
                    if let Some(first) = unknown.first() {
                        let hint = suggest::among(first, INHERITED.into_iter());
                        let text = format!("config contains unknown values: {}", unknown.join(", "));
                        self.fail(value.span, &path, text).hint = hint;
                    }
                }
                (None, Some(_)) => {}
            }
        }
    }
}

/// Whether a value holds a reference that is not resolved: `lint --syntax` then leaves the keyword alone.
pub(super) fn has_reference(node: &Node) -> bool {
    match &node.value {
        Value::Reference(_) => true,
        Value::Seq(items) => items.iter().any(has_reference),
        Value::Map(map) => map.iter().any(|(_, e)| has_reference(&e.value)),
        _ => false,
    }
}

fn are_integers(node: &Node) -> bool {
    match &node.value {
        Value::Int(_) | Value::Reference(_) => true,
        Value::Seq(items) => !items.is_empty() && items.iter().all(|i| i.as_int().is_some()),
        _ => false,
    }
}

/// The names of all visible jobs of a configuration.
pub(crate) fn visible_jobs(root: &Map) -> impl Iterator<Item = (&std::sync::Arc<str>, &Entry)> {
    root.iter().filter(|(name, entry)| !name.starts_with('.') && is_job(name, &entry.value))
}
