//! `workflow`.

use super::Checker;
use super::job::has_reference;
use crate::pipeline::rules;
use crate::pipeline::tree::{Map, Node};

impl Checker<'_> {
    pub(super) fn workflow(&mut self, node: &Node) {
        if Self::skips(node) {
            return;
        }
        let Some(map) = node.as_map() else {
            self.wrong(node, "workflow", "config should be a hash");
            return;
        };
        self.keys(map, "workflow", "workflow");
        if let Some(name) = self.given(map, "name") {
            match name.as_str() {
                None => self.wrong(name, "workflow", "name should be a string"),
                Some(text) if text.trim().is_empty() => {
                    self.fail(name.span, "workflow", "name is too short (minimum is 1 character)");
                }
                Some(text) if text.chars().count() > 255 => {
                    self.fail(name.span, "workflow", "name is too long (maximum is 255 characters)");
                }
                Some(_) => {}
            }
        }
        if let Some(node) = map.get("rules") {
            self.rules(node, "workflow", rules::RuleKind::Workflow);
        }
        if let Some(node) = self.given(map, "auto_cancel").filter(|n| !has_reference(n)) {
            let mut found = crate::pipeline::diagnostic::Diagnostics::new();
            rules::parse_auto_cancel_of_workflow(node, &mut found);
            self.failed |= found.has_errors();
            self.out.extend(found);
        }
    }
}

/// Whether a configuration has `workflow:rules`.
pub(crate) fn has_rules(root: &Map) -> bool {
    root.get("workflow").and_then(|w| w.get("rules")).is_some_and(|r| !r.is_null())
}
