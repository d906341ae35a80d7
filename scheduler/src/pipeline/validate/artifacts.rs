//! `artifacts`.

use super::{Checker, bad_item};
use crate::pipeline::keywords;
use crate::pipeline::tree::{Map, Node, Value};

const WHEN: [&str; 3] = ["on_success", "on_failure", "always"];
/// Reports that take one path.
const SINGLE: [&str; 3] = ["accessibility", "annotations", "browser_performance"];

impl Checker<'_> {
    pub(super) fn artifacts(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        self.keys(map, "artifacts", path);
        self.string(map, "name", path, "name");
        self.boolean(map, "untracked", path, "untracked");
        self.boolean(map, "public", path, "public");
        self.strings(map, "paths", path, "paths");
        self.strings(map, "exclude", path, "exclude");
        self.one_of(map, "when", path, &WHEN, "when");
        self.one_of(map, "access", path, &["none", "developer", "maintainer", "all"], "access");
        if let Some(node) = self.given(map, "expire_in") {
            self.duration(node, path, "expire in", &["never"]);
        }
        if map.present("public").is_some() && map.present("access").is_some() {
            let span = map.entry("public").map_or(node.span, |e| e.key_span);
            self.fail(span, path, "config these keys cannot be used together: access, public");
        }
        self.expose_as(map, path);
        if let Some(node) = self.given(map, "reports") {
            self.reports(node, &format!("{path}:reports"));
        }
    }

    fn expose_as(&mut self, map: &Map, path: &str) {
        let Some(node) = self.given(map, "expose_as") else { return };
        let Some(text) = node.as_str() else {
            self.wrong(node, path, "expose as should be a string");
            return;
        };
        let fine = |c: char| c.is_alphanumeric() || "_- ".contains(c);
        if text.chars().count() > 100 || !text.chars().all(fine) || text.starts_with(['-', ' ']) || text.is_empty() {
            self.wrong(node, path, "expose as can contain only letters, digits, '-', '_' and spaces, at most 100");
        } else if map.present("paths").is_none() {
            self.fail(node.span, path, "paths can't be blank");
        }
    }

    fn reports(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        self.keys(map, "artifacts:reports", path);
        for (key, entry) in map.iter() {
            let value = &entry.value;
            if matches!(value.value, Value::Reference(_)) || keywords::state("artifacts:reports", key).is_none() {
                continue;
            }
            let attribute = key.replace('_', " ");
            if &**key == "coverage_report" {
                self.coverage_report(value, &format!("{path}:coverage_report"));
            } else if SINGLE.contains(&&**key) {
                if value.as_str().is_none() && (self.strict() || !value.is_null()) {
                    self.wrong(value, path, format!("{attribute} should be a string"));
                }
            } else if value.as_str().is_none()
                && (self.strict() || !value.is_null())
                && let Some(bad) = bad_item(value)
            {
                self.wrong(bad, path, format!("{attribute} should be an array of strings or a string"));
            }
        }
    }

    fn coverage_report(&mut self, node: &Node, path: &str) {
        if Self::skips(node) {
            return;
        }
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        self.keys(map, "artifacts:reports:coverage_report", path);
        self.one_of(map, "coverage_format", path, &["cobertura", "jacoco"], "coverage format");
        self.string(map, "path", path, "path");
        for key in ["coverage_format", "path"] {
            if map.present(key).is_none() {
                self.fail(node.span, path, format!("{} can't be blank", key.replace('_', " ")));
            }
        }
    }
}
