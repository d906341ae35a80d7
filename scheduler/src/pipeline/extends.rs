//! `extends`: every top-level mapping gets what its bases have, deep-merged, later bases and its own keys last.

use super::diagnostic::Diagnostics;
use super::load::{MAX_NODES, Reported, TOO_BIG};
use super::suggest;
use super::tree::{Entry, Map, Node, Span, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Ancestors a mapping may have, one after the other; GitLab's limit.
const MAX_CHAIN: usize = 10;

/// Merges as GitLab does: mappings key by key, anything else replaced. Keys of the base come first. `spent` counts the
/// pairs that were made.
#[must_use]
pub fn deep_merge(base: &Node, over: &Node, spent: &mut u64) -> Node {
    let (Value::Map(below), Value::Map(above)) = (&base.value, &over.value) else { return over.clone() };
    if below.is_empty() {
        return over.clone();
    }
    let mut map = Map::clone(below);
    *spent += (map.len() + above.len()) as u64;
    for (key, entry) in above.iter() {
        let merged = match map.get(key) {
            Some(old) => Entry { value: deep_merge(old, &entry.value, spent), ..entry.clone() },
            None => entry.clone(),
        };
        map.insert(key.clone(), merged);
    }
    Node::new(Value::Map(Arc::new(map)), over.span)
}

/// Resolves every `extends` of a configuration.
///
/// # Errors
/// [`Reported`]: a base that is missing, is no mapping, or leads back to where it started.
pub fn extend(root: &Map, diagnostics: &mut Diagnostics) -> Result<Map, Reported> {
    if !root.iter().any(|(_, e)| e.value.get("extends").is_some()) {
        return Ok(root.clone());
    }
    let mut work = Work { root, done: HashMap::new(), spent: 0, failed: false, diagnostics };
    let mut out = Map::new();
    for (name, entry) in root.iter() {
        let value = work.resolve(name, entry, &mut Vec::new()).unwrap_or_else(|Reported| entry.value.clone());
        out.insert(name.clone(), Entry { value, ..entry.clone() });
        if work.spent > MAX_NODES * 4 {
            work.diagnostics.error(entry.key_span, name.to_string(), TOO_BIG).hint("`extends` makes it so");
            return Err(Reported);
        }
    }
    if work.failed { Err(Reported) } else { Ok(out) }
}

struct Work<'a> {
    root: &'a Map,
    done: HashMap<Arc<str>, Result<Node, Reported>>,
    spent: u64,
    failed: bool,
    diagnostics: &'a mut Diagnostics,
}

impl Work<'_> {
    fn resolve(&mut self, name: &Arc<str>, entry: &Entry, stack: &mut Vec<Arc<str>>) -> Result<Node, Reported> {
        let Some(bases) = entry.value.get("extends").filter(|_| entry.value.as_map().is_some()) else {
            return Ok(entry.value.clone());
        };
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        if stack.contains(name) {
            return self.fail(bases.span, name, "circular dependency detected in `extends`");
        }
        if stack.len() > MAX_CHAIN {
            return self.fail(bases.span, name, "nesting too deep in `extends`");
        }
        stack.push(name.clone());
        let result = self.merge_bases(name, entry, bases, stack);
        stack.pop();
        self.done.insert(name.clone(), result.clone());
        result
    }

    fn merge_bases(
        &mut self,
        name: &Arc<str>,
        entry: &Entry,
        bases: &Node,
        stack: &mut Vec<Arc<str>>,
    ) -> Result<Node, Reported> {
        let list: Vec<&Node> = match &bases.value {
            Value::Str { .. } => vec![bases],
            Value::Seq(items) if items.iter().all(|i| i.as_str().is_some()) => items.iter().collect(),
            _ => {
                self.failed = true;
                let path = format!("jobs:{name}:extends");
                let message = format!("jobs:{name} extends should be an array or a string");
                self.diagnostics.error(bases.span, path, message).hint(format!("found {}", bases.describe()));
                return Err(Reported);
            }
        };
        let named = |n: &Node| n.as_text().unwrap_or_default().to_string();
        let unknown: Vec<&Node> = list.iter().copied().filter(|b| !self.root.contains(&named(b))).collect();
        if let Some(first) = unknown.first() {
            let names: Vec<String> = unknown.iter().map(|n| named(n)).collect();
            let hint = suggest::among(&names[0], self.root.keys().map(|k| &**k));
            return self.fail_with(
                first.span,
                name,
                &format!("unknown keys in `extends` ({})", names.join(", ")),
                hint,
            );
        }
        let is_map = |n: &Node| self.root.get(&named(n)).is_some_and(|v| v.as_map().is_some());
        let invalid: Vec<String> = list.iter().filter(|b| !is_map(b)).map(|b| named(b)).collect();
        if !invalid.is_empty() {
            return self.fail(
                list[0].span,
                name,
                &format!("invalid base hashes in `extends` ({})", invalid.join(", ")),
            );
        }
        let mut merged = Node::new(Value::Map(Arc::new(Map::new())), entry.value.span);
        for base in list {
            let base_name: Arc<str> = named(base).into();
            let root = self.root;
            let Some(base_entry) = root.entry(&base_name) else { continue };
            let resolved = self.resolve(&base_name, base_entry, stack)?;
            merged = deep_merge(&merged, &resolved, &mut self.spent);
        }
        let Value::Map(own) = &entry.value.value else { return Ok(merged) };
        let mut own = Map::clone(own);
        own.remove("extends");
        let own = Node::new(Value::Map(Arc::new(own)), entry.value.span);
        Ok(deep_merge(&merged, &own, &mut self.spent))
    }

    fn fail<T>(&mut self, span: Span, name: &str, message: &str) -> Result<T, Reported> {
        self.fail_with(span, name, message, None)
    }

    fn fail_with<T>(&mut self, span: Span, name: &str, text: &str, hint: Option<String>) -> Result<T, Reported> {
        self.failed = true;
        let error = self.diagnostics.error(span, format!("jobs:{name}:extends"), format!("{name}: {text}"));
        error.hint = hint;
        Err(Reported)
    }
}
