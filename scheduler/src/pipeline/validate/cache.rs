//! `cache`.

use super::{Checker, bad_item};
use crate::pipeline::tree::{Map, Node, Value};

/// Caches one job may have; GitLab's limit.
const MAX_CACHES: usize = 4;
/// Files that make a key.
const MAX_FILES: usize = 10;
/// Files whose commits make a key.
const MAX_FILES_COMMITS: usize = 2;
const MAX_FALLBACK_KEYS: usize = 5;

impl Checker<'_> {
    pub(super) fn caches(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Seq(items) => {
                if items.len() > MAX_CACHES {
                    self.fail(node.span, path, format!("config no more than {MAX_CACHES} caches can be created"));
                }
                for item in items.iter().filter(|i| !Self::skips(i)) {
                    self.cache(item, path);
                }
            }
            _ => self.cache(node, path),
        }
    }

    fn cache(&mut self, node: &Node, path: &str) {
        let Some(map) = node.as_map() else {
            self.wrong(node, path, "config should be a hash or an array of hashes");
            return;
        };
        self.keys(map, "cache", path);
        self.strings(map, "paths", &format!("{path}:paths"), "config");
        self.boolean(map, "untracked", &format!("{path}:untracked"), "config");
        self.boolean(map, "unprotect", &format!("{path}:unprotect"), "config");
        self.one_of(map, "when", path, &["on_success", "on_failure", "always"], "when");
        if let Some(node) = self.given(map, "policy") {
            let fits = node.as_str().is_some_and(|s| matches!(s, "pull-push" | "push" | "pull") || is_variable(s));
            if !fits {
                self.wrong(node, path, "policy should be a variable or one of: pull-push, push, pull");
            }
        }
        if let Some(node) = self.given(map, "fallback_keys") {
            let path = format!("{path}:fallback_keys");
            if let Some(bad) = bad_item(node) {
                self.wrong(bad, &path, "config should be an array of strings");
            } else if node.as_seq().is_some_and(|s| s.len() > MAX_FALLBACK_KEYS) {
                let text = format!("config has to many entries (maximum {MAX_FALLBACK_KEYS})");
                self.fail(node.span, &path, text);
            }
        }
        if let Some(node) = self.given(map, "key") {
            self.cache_key(node, &format!("{path}:key"));
        }
    }

    fn cache_key(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Str { text, .. } => self.key_text(node, text, path, "config"),
            Value::Map(map) => self.key_files(map, node, path),
            _ => self.wrong(node, path, "should be a hash, a string or a symbol"),
        }
    }

    fn key_text(&mut self, node: &Node, text: &str, path: &str, attribute: &str) {
        if text.contains('/') || text.to_lowercase().contains("%2f") {
            self.wrong(node, path, format!("{attribute} cannot contain the \"/\" character"));
        } else if !text.is_empty() && text.chars().all(|c| c == '.') {
            self.wrong(node, path, format!("{attribute} cannot be \".\" or \"..\""));
        }
    }

    fn key_files(&mut self, map: &Map, node: &Node, path: &str) {
        self.keys(map, "cache:key", path);
        let lists = [("files", MAX_FILES), ("files_commits", MAX_FILES_COMMITS)];
        match lists.iter().filter(|(key, _)| map.present(key).is_some()).count() {
            0 => {
                self.fail(node.span, path, "config missing required keys: files");
            }
            1 => {}
            _ => {
                self.fail(node.span, path, "config must use exactly one of these keys: files, files_commits");
            }
        }
        for (key, limit) in lists {
            let Some(files) = self.given(map, key) else { continue };
            let path = format!("{path}:{key}");
            if let Some(bad) = bad_item(files) {
                self.wrong(bad, &path, "config should be an array of strings");
            } else if files.as_seq().is_some_and(<[Node]>::is_empty) {
                self.fail(files.span, &path, "config requires at least 1 item");
            } else if files.as_seq().is_some_and(|s| s.len() > limit) {
                self.fail(files.span, &path, format!("config has too many items (maximum is {limit})"));
            }
        }
        if let Some(prefix) = self.given(map, "prefix") {
            let path = format!("{path}:prefix");
            match prefix.as_text() {
                Some(text) => self.key_text(prefix, text, &path, "config"),
                None => self.wrong(prefix, &path, "config should be a string or symbol"),
            }
        }
    }
}

/// `$NAME`, alone.
fn is_variable(text: &str) -> bool {
    text.strip_prefix('$').is_some_and(|name| {
        !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}
