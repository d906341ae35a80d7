//! `variables`.

use super::Checker;
use crate::pipeline::keywords;
use crate::pipeline::tree::{Node, Value};

impl Checker<'_> {
    /// The variables of the root, which may describe themselves.
    pub(super) fn root_variables(&mut self, node: &Node) {
        self.variables(node, "variables", true);
    }

    pub(super) fn variables(&mut self, node: &Node, path: &str, at_root: bool) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash");
            return;
        };
        for (name, entry) in map.iter() {
            match &entry.value.value {
                Value::Seq(_) => {
                    self.failed = true;
                    let text = "variable definition must be either a string or a hash";
                    self.out
                        .error(entry.value.span, format!("{path}:{name}"), text)
                        .hint(format!("{name} is {}", entry.value.describe()));
                }
                Value::Map(_) => self.variable(name, &entry.value, path, at_root),
                _ => {}
            }
        }
    }

    fn variable(&mut self, name: &str, node: &Node, path: &str, at_root: bool) {
        let Some(map) = node.as_map() else { return };
        let path = format!("{path}:{name}");
        for key in ["description", "options"] {
            if let Some(entry) = map.entry(key).filter(|_| at_root) {
                self.note("variables", key, entry.key_span, &path);
            }
        }
        let allowed: &[&str] =
            if at_root { &["value", "description", "options", "expand"] } else { &["value", "expand"] };
        let unknown: Vec<&str> = map.keys().map(|k| &**k).filter(|k| !allowed.contains(k)).collect();
        if let Some(first) = unknown.first() {
            let span = map.entry(first).map_or(node.span, |e| e.key_span);
            let hint = crate::pipeline::suggest::among(first, keywords::of("variables").map(|k| k.name));
            self.fail(span, &path, format!("config uses invalid data keys: {}", unknown.join(", "))).hint = hint;
        }
        self.boolean(map, "expand", &path, "config expand");
        self.string(map, "description", &path, "config description");
        if let Some(value) = self.given(map, "value").filter(|n| n.scalar_text().is_none()) {
            self.wrong(value, &path, "config value should be a string");
        }
        if let Some(options) = self.given(map, "options") {
            let Some(items) = options.as_seq().filter(|items| items.iter().all(|i| i.scalar_text().is_some())) else {
                self.wrong(options, &path, "config options should be an array of strings");
                return;
            };
            let value = map.get("value").and_then(Node::scalar_text);
            if !items.iter().any(|i| i.scalar_text() == value) {
                self.fail(options.span, &path, "config value must be present in options")
                    .hint(format!("the value is {:?}", value.unwrap_or_default()));
            }
        }
    }
}
