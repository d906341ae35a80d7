//! The language of pipelines: expressions, patterns, rules, matrix, needs, and whole configurations. Against GitLab's own
//! tables when the conformance folder is there, and against cases of our own.

mod cases;
mod expressions;
mod git;
mod hostile;
mod needs;
mod properties;
mod rules;

use slipway_scheduler::pipeline::tree::{Node, Span};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `../shared/conformance` beside the workspace, or beside a folder above it.
fn conformance(file: &str) -> Option<String> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/conformance").join(file))
        .find(|path: &PathBuf| path.is_file());
    match found {
        Some(path) => Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        None => {
            eprintln!("not run: no ../shared/conformance/{file}");
            None
        }
    }
}

/// The rows of a table, heading left out.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().skip(1).filter(|l| !l.is_empty()).map(|l| l.split('\t').collect())
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn string(text: &str) -> String {
    json(text).as_str().unwrap_or_else(|| panic!("{text} is no text")).to_string()
}

/// A node of inline YAML-like JSON.
fn node(text: &str) -> Node {
    Node::from_json(&json(text), Span::default())
}

fn scope(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}
