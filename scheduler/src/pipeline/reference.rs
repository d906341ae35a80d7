//! `!reference [job, key, …]`: the value that stands there, after `extends`.

use super::diagnostic::Diagnostics;
use super::load::{MAX_NODES, Reported, TOO_BIG};
use super::suggest;
use super::tree::{Entry, Map, Node, Value, ruby_inspect};
use std::collections::HashMap;
use std::sync::Arc;

/// References that may lead to one another before it counts as endless.
const MAX_CHAIN: usize = 10;

/// Resolves every reference below the root of a configuration.
///
/// # Errors
/// [`Reported`]: a reference to nothing, to itself, or that is not a list of texts.
pub fn resolve(root: &Map, diagnostics: &mut Diagnostics) -> Result<Map, Reported> {
    let mut work = Work { root, found: HashMap::new(), visited: 0, diagnostics, failed: false };
    let mut out = Map::new();
    for (key, entry) in root.iter() {
        let value = work.node(&entry.value, &mut Vec::new());
        if work.visited > MAX_NODES * 4 {
            work.diagnostics.error(entry.key_span, key.to_string(), TOO_BIG).hint("`!reference` makes it so");
            return Err(Reported);
        }
        let value = value.unwrap_or_else(|| entry.value.clone());
        out.insert(key.clone(), Entry { value, ..entry.clone() });
    }
    if work.failed { Err(Reported) } else { Ok(out) }
}

struct Work<'a> {
    root: &'a Map,
    found: HashMap<Vec<Arc<str>>, (Node, u64)>,
    visited: u64,
    failed: bool,
    diagnostics: &'a mut Diagnostics,
}

impl Work<'_> {
    /// The node with its references resolved; `None` when it has none, so that nothing is copied.
    fn node(&mut self, node: &Node, stack: &mut Vec<Vec<Arc<str>>>) -> Option<Node> {
        self.visited += 1;
        if self.visited > MAX_NODES * 4 {
            return None;
        }
        match &node.value {
            Value::Reference(items) => Some(self.reference(node, items, stack)),
            Value::Seq(items) => {
                let changed: Vec<Option<Node>> = items.iter().map(|i| self.node(i, stack)).collect();
                changed.iter().any(Option::is_some).then(|| {
                    let merged = items.iter().zip(changed).map(|(old, new)| new.unwrap_or_else(|| old.clone()));
                    Node::new(Value::Seq(Arc::new(merged.collect())), node.span)
                })
            }
            Value::Map(map) => {
                let mut copy: Option<Map> = None;
                for (key, entry) in map.iter() {
                    if let Some(value) = self.node(&entry.value, stack) {
                        copy.get_or_insert_with(|| Map::clone(map))
                            .insert(key.clone(), Entry { value, ..entry.clone() });
                    }
                }
                copy.map(|map| Node::new(Value::Map(Arc::new(map)), node.span))
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str { .. } => None,
        }
    }

    fn reference(&mut self, node: &Node, items: &[Node], stack: &mut Vec<Vec<Arc<str>>>) -> Node {
        let written = format!("!reference {}", ruby_inspect(node));
        let path: Option<Vec<Arc<str>>> =
            items.iter().map(|i| i.as_str().filter(|s| !s.is_empty()).map(Arc::from)).collect();
        let Some(path) = path.filter(|p| !p.is_empty()) else {
            return self.fail(node, format!("{written} is not valid"), Some("a list of names: [job, key]".into()));
        };
        if stack.contains(&path) || stack.len() > MAX_CHAIN {
            return self.fail(node, format!("{written} is part of a circular chain"), None);
        }
        if let Some((found, weight)) = self.found.get(&path) {
            self.visited += weight;
            return found.clone();
        }
        let mut at = self.root.get(&path[0]);
        let mut missing = (at.is_none()).then_some((0, self.root));
        for (depth, key) in path.iter().enumerate().skip(1) {
            let Some(map) = at.and_then(Node::as_map) else { break };
            let next = map.get(key);
            if next.is_none() {
                missing.get_or_insert((depth, map));
            }
            at = next;
        }
        let reached = at.filter(|n| !n.is_null() && n.as_bool() != Some(false));
        let Some(target) = reached else {
            let hint = missing.and_then(|(depth, map)| suggest::among(&path[depth], map.keys().map(|k| &**k)));
            return self.fail(node, format!("{written} could not be found"), hint);
        };
        let before = self.visited;
        stack.push(path.clone());
        let resolved = self.node(target, stack).unwrap_or_else(|| target.clone());
        stack.pop();
        self.found.insert(path, (resolved.clone(), self.visited - before));
        resolved
    }

    fn fail(&mut self, node: &Node, message: String, hint: Option<String>) -> Node {
        self.failed = true;
        self.diagnostics.error(node.span, "", message).hint = hint;
        Node::new(Value::Null, node.span)
    }
}
