//! `image` and `services`.

use super::Checker;
use crate::pipeline::tree::{Map, Node, Value};

const POLICIES: [&str; 3] = ["always", "if-not-present", "never"];

impl Checker<'_> {
    pub(super) fn image(&mut self, node: &Node, path: &str) {
        if Self::skips(node) {
            return;
        }
        match &node.value {
            Value::Str { text, .. } if node.as_str().is_some() => {
                if text.trim().is_empty() {
                    self.fail(node.span, path, "config can't be blank");
                }
            }
            Value::Map(map) => {
                self.keys(map, "image", path);
                self.image_options(map, path, node, "image:docker", "image:kubernetes");
            }
            _ => self.wrong(node, path, "config should be a hash or a string"),
        }
    }

    pub(super) fn services(&mut self, node: &Node, path: &str) {
        let Some(items) = node.as_seq() else {
            self.wrong(node, path, "config should be a array");
            return;
        };
        let path = format!("{path}:service");
        for item in items {
            match &item.value {
                Value::Reference(_) => {}
                Value::Str { text, .. } if item.as_str().is_some() => {
                    if text.trim().is_empty() {
                        self.fail(item.span, &path, "config can't be blank");
                    }
                }
                Value::Map(map) => {
                    self.keys(map, "services", &path);
                    self.image_options(map, &path, item, "services:docker", "services:kubernetes");
                    self.strings(map, "command", &path, "command");
                    self.string(map, "alias", &path, "alias");
                    if let Some(variables) = self.given(map, "variables") {
                        self.variables(variables, &format!("{path}:variables"), false);
                    }
                }
                _ => self.wrong(item, &path, "config should be a hash or a string"),
            }
        }
    }

    fn image_options(&mut self, map: &Map, path: &str, node: &Node, docker: &'static str, kubernetes: &'static str) {
        match map.get("name") {
            None => {
                self.fail(node.span, path, "config missing required keys: name");
            }
            Some(name)
                if name.as_str().is_none_or(|s| s.trim().is_empty()) && !matches!(name.value, Value::Reference(_)) =>
            {
                self.wrong(name, path, "name should be a string");
            }
            Some(_) => {}
        }
        self.strings(map, "entrypoint", path, "entrypoint");
        if let Some(node) = map.get("docker").filter(|n| !matches!(n.value, Value::Reference(_))) {
            match node.as_map() {
                Some(options) => {
                    let path = format!("{path}:docker");
                    self.keys(options, docker, &path);
                    for key in ["platform", "user"] {
                        let bad = options.get(key).filter(|n| n.as_str().is_none_or(str::is_empty));
                        if let Some(bad) = bad.filter(|n| !matches!(n.value, Value::Reference(_))) {
                            self.wrong(bad, &path, format!("{key} should be a non-empty string"));
                        }
                    }
                }
                None if node.is_null() && !self.strict() => {}
                None => self.wrong(node, path, "docker should be a hash"),
            }
        }
        if let Some(node) = self.given(map, "kubernetes") {
            match node.as_map() {
                Some(options) => {
                    let path = format!("{path}:kubernetes");
                    self.keys(options, kubernetes, &path);
                    let bad = options.get("user").filter(|n| n.as_str().is_none() && n.as_int().is_none());
                    if let Some(bad) = bad {
                        self.wrong(bad, &path, "user should be a string or an integer");
                    }
                }
                None => self.wrong(node, path, "kubernetes should be a hash"),
            }
        }
        if let Some(node) = self.given(map, "pull_policy") {
            let path = format!("{path}:pull_policy");
            let text = "config should be a string or an array of strings: always, if-not-present, never";
            let bad = match &node.value {
                Value::Seq(items) if items.is_empty() => Some(node),
                Value::Seq(items) => items.iter().find(|i| !i.as_str().is_some_and(|s| POLICIES.contains(&s))),
                _ => Some(node).filter(|n| !n.as_str().is_some_and(|s| POLICIES.contains(&s))),
            };
            if let Some(bad) = bad {
                self.wrong(bad, &path, text);
            }
        }
    }
}
