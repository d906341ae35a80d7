//! `trigger`, and the items of `include` and `trigger:include`.

use super::Checker;
use super::job::has_reference;
use crate::pipeline::rules;
use crate::pipeline::tree::{Map, Node, Value};

/// Files one child pipeline may be made of.
const MAX_CHILD_FILES: usize = 3;

impl Checker<'_> {
    pub(super) fn trigger(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Str { text, .. } => {
                self.project_path(node, text, path);
            }
            Value::Map(map) => self.trigger_map(map, node, path),
            _ => self.wrong(node, path, "has to be either a string or a hash"),
        }
    }

    fn trigger_map(&mut self, map: &Map, node: &Node, path: &str) {
        let (project, include) = (map.present("project"), map.present("include"));
        match (project, include) {
            (None, None) | (Some(_), Some(_)) => {
                self.fail(node.span, path, "config must specify either project or include");
                return;
            }
            _ => self.keys(map, "trigger", path),
        }
        if let Some(project) = project {
            match project.as_str() {
                Some(text) => self.project_path(project, text, path),
                None => self.wrong(project, path, "project should be a string"),
            }
        }
        self.string(map, "branch", path, "branch");
        if let Some(strategy) = self.given(map, "strategy").filter(|n| !matches!(n.as_str(), Some("depend" | "mirror")))
        {
            self.wrong(strategy, path, "strategy should be one of: depend, mirror");
        }
        if let Some(forward) = self.given(map, "forward") {
            let path = format!("{path}:forward");
            match forward.as_map() {
                Some(map) => {
                    self.keys(map, "trigger:forward", &path);
                    self.boolean(map, "yaml_variables", &path, "yaml variables");
                    self.boolean(map, "pipeline_variables", &path, "pipeline variables");
                }
                None => self.wrong(forward, &path, "config should be a hash"),
            }
        }
        if let Some(inputs) = self.given(map, "inputs").filter(|n| n.as_map().is_none()) {
            self.wrong(inputs, &format!("{path}:inputs"), "config should be a hash");
        }
        if let Some(include) = include.filter(|n| !has_reference(n)) {
            if include.as_seq().is_some_and(|s| s.len() > MAX_CHILD_FILES) {
                self.fail(include.span, path, format!("include config is too long (maximum is {MAX_CHILD_FILES})"));
            }
            self.includes(include, &format!("{path}:include"), true);
        }
    }

    /// `include`, or a trigger's. In a full check of the root's own the reader of includes has had its say already.
    pub(super) fn includes(&mut self, node: &Node, path: &str, of_trigger: bool) {
        let one = std::slice::from_ref(node);
        for item in node.as_seq().unwrap_or(one) {
            match &item.value {
                Value::Reference(_) => {}
                Value::Str { .. } if item.as_str().is_some() => {}
                Value::Map(map) => self.include(map, item, path, of_trigger),
                _ => self.wrong(item, path, "config should be a string or a hash"),
            }
        }
    }

    fn include(&mut self, map: &Map, node: &Node, path: &str, of_trigger: bool) {
        let has = |k: &str| map.present(k).is_some();
        if of_trigger {
            self.keys(map, "trigger:include", path);
            if has("artifact") != has("job") {
                let text = if has("artifact") {
                    "config must specify the job where to fetch the artifact from"
                } else {
                    "config must specify the artifact of the job"
                };
                self.fail(node.span, path, text);
            }
        } else {
            self.keys(map, "include", path);
        }
        if has("project") != has("file") {
            let text = if has("project") {
                "config must specify the file where to fetch the config from"
            } else {
                "config must specify the project of the file"
            };
            self.fail(node.span, path, text);
        }
        let places: Vec<&str> = ["local", "project", "remote", "template", "component", "artifact"]
            .into_iter()
            .filter(|k| has(k) && (of_trigger || *k != "artifact"))
            .collect();
        if places.len() > 1 {
            self.fail(node.span, path, format!("config must use only one of: {}", places.join(", ")));
        } else if places.is_empty() && !has("file") && !has("job") {
            self.fail(node.span, path, "config must specify one of: local, project, remote, template, component");
        }
        for key in ["local", "remote", "template", "component", "ref", "artifact", "job"] {
            self.string(map, key, path, key);
        }
        if let Some(project) = self.given(map, "project") {
            match project.as_str() {
                Some(text) => self.project_path(project, text, path),
                None => self.wrong(project, path, "project should be a string"),
            }
        }
        if let Some(file) = self.given(map, "file").filter(|n| n.as_str().is_none()) {
            let fits = file.as_seq().is_some_and(|s| !s.is_empty() && s.iter().all(|i| i.as_str().is_some()));
            if !fits {
                self.wrong(file, path, "file should be a string or an array of strings");
            }
        }
        for key in ["integrity", "cache"] {
            if has(key) && !has("remote") {
                self.fail(node.span, path, format!("{key} can only be specified for remote includes"));
            }
        }
        if let Some(text) = self.given(map, "integrity").and_then(Node::as_str)
            && !text.starts_with("sha256-")
        {
            self.fail(node.span, path, "integrity hash must start with 'sha256-'");
        }
        if let Some(inputs) = self.given(map, "inputs").filter(|n| n.as_map().is_none()) {
            self.wrong(inputs, &format!("{path}:inputs"), "config should be a hash");
        }
        if let Some(rules) = map.get("rules").filter(|_| !of_trigger) {
            self.rules(rules, path, rules::RuleKind::Include);
        }
    }

    /// `group/name`, or a text with a variable.
    fn project_path(&mut self, node: &Node, text: &str, path: &str) {
        let two = text.trim().split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
        let variable = text.find('$').is_some_and(|at| text.len() > at + 1);
        if !two && !variable {
            self.wrong(node, path, "project should be a path such as `group/project`");
        }
    }
}
