//! `environment`.

use super::Checker;
use crate::pipeline::tree::{Map, Node, Value};

const NAME_TEXT: &str = "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and spaces, but it cannot \
                         start or end with '/'";

impl Checker<'_> {
    pub(super) fn environment(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Str { text, .. } if node.as_str().is_some() => self.environment_name(node, text, path),
            Value::Map(map) => self.environment_map(map, node, path),
            _ => self.wrong(node, path, "config should be a hash or a string"),
        }
    }

    fn environment_name(&mut self, node: &Node, text: &str, path: &str) {
        if text.is_empty() {
            self.fail(node.span, path, "name can't be blank");
        } else if text.chars().count() > 255 {
            self.fail(node.span, path, "name is too long (maximum is 255 characters)");
        } else if !is_environment_name(text) {
            self.wrong(node, path, format!("name {NAME_TEXT}"));
        }
    }

    fn environment_map(&mut self, map: &Map, node: &Node, path: &str) {
        self.keys(map, "environment", path);
        match map.get("name") {
            None => {
                self.fail(node.span, path, "name can't be blank");
            }
            Some(name) if Self::skips(name) => {}
            Some(name) => match name.as_str() {
                Some(text) => self.environment_name(name, text, path),
                None => self.wrong(name, path, "name should be a string"),
            },
        }
        if let Some(url) = self.given(map, "url") {
            match url.as_str() {
                None => self.wrong(url, path, "url should be a string"),
                Some(text) if text.chars().count() > 255 => {
                    self.fail(url.span, path, "url is too long (maximum is 255 characters)");
                }
                Some(_) => {}
            }
        }
        let actions = ["start", "stop", "prepare", "verify", "access"];
        if let Some(action) = self.given(map, "action").filter(|n| !n.as_str().is_some_and(|s| actions.contains(&s))) {
            self.wrong(action, path, "action should be start, stop, prepare, verify, or access");
        }
        self.string(map, "on_stop", path, "on stop");
        if let Some(tier) = self.given(map, "deployment_tier") {
            let tiers = ["production", "staging", "testing", "development", "other"];
            if !tier.as_str().is_some_and(|s| tiers.contains(&s) || s.contains('$')) {
                self.wrong(tier, path, format!("deployment tier must be one of {}", tiers.join(", ")));
            }
        }
        if let Some(node) = self.given(map, "auto_stop_in")
            && !node.as_str().is_some_and(|s| s.contains('$'))
        {
            self.duration(node, path, "auto stop in", &["never"]);
        }
        if let Some(node) = self.given(map, "kubernetes") {
            let path = format!("{path}:kubernetes");
            match node.as_map() {
                Some(map) => self.keys(map, "environment:kubernetes", &path),
                None => self.wrong(node, &path, "config should be a hash"),
            }
        }
    }
}

/// GitLab's pattern of environment names and resource groups.
pub(super) fn is_environment_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_/${}. ".contains(c);
    !text.is_empty() && text.chars().all(fine) && !text.starts_with('/') && !text.ends_with('/')
}
