//! `default`, its old form at the top level, and `inherit:default`: a job takes a keyword whole or not at all.

use super::tree::{Entry, Map, Node};

/// What a job may take.
const KEYWORDS: [&str; 13] = [
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
/// The old form: the same at the top level.
const AT_ROOT: [&str; 5] = ["after_script", "before_script", "cache", "image", "services"];
/// What a trigger job may take.
const OF_TRIGGER: [&str; 1] = ["interruptible"];

/// What all jobs start from.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    entries: Map,
}

impl Defaults {
    /// Those of a configuration.
    #[must_use]
    pub fn of(root: &Map) -> Self {
        let mut entries = Map::new();
        let default = root.get("default").filter(|d| d.get("script").is_none()).and_then(Node::as_map);
        for key in KEYWORDS {
            let below = root.entry(key).filter(|_| AT_ROOT.contains(&key));
            let found = default.and_then(|d| d.entry(key)).or(below).filter(|e| !e.value.is_null());
            if let Some(entry) = found {
                entries.insert(key, entry.clone());
            }
        }
        Defaults { entries }
    }

    /// The job with what it takes. A null of its own counts as absent, an empty list does not.
    #[must_use]
    pub fn apply(&self, job: &Map) -> Map {
        let inherit = job.get("inherit").and_then(|i| i.get("default"));
        let is_trigger = job.present("trigger").is_some();
        let lets_through = |key: &str| match inherit {
            None => true,
            Some(node) => match (node.as_bool(), node.as_seq()) {
                (Some(all), _) => all,
                (None, Some(names)) => names.iter().any(|n| n.as_str() == Some(key)),
                (None, None) => true,
            },
        };
        let mut out = job.clone();
        for (key, entry) in self.entries.iter() {
            if is_trigger && !OF_TRIGGER.contains(&&**key) {
                continue;
            }
            if job.present(key).is_none() && lets_through(key) {
                out.insert(key.clone(), Entry::clone(entry));
            }
        }
        out
    }
}
