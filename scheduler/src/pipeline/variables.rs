//! Variables: what the configuration says, and what a job sees of all that is given.
//!
//! From weak to strong: predefined, root, the workflow rule's, the job's (a matrix's among them), the job rule's, the
//! project's, the pipeline's own (trigger, schedule, manual run).

use super::expression::Scope;
use super::tree::{Map, Node};
use slipway_spec::expand::{self, Undefined, expand_for_server, has_reference};
use slipway_spec::variable::Variable;
use std::collections::HashMap;

/// The variables of a `variables` mapping, texts made by Ruby's rules.
#[must_use]
pub fn of_map(node: Option<&Node>) -> Vec<Variable> {
    let Some(map) = node.and_then(Node::as_map) else { return Vec::new() };
    map.iter()
        .map(|(key, entry)| {
            let (value, raw) = match entry.value.as_map() {
                Some(options) => (options.get("value"), options.get("expand").and_then(Node::as_bool) == Some(false)),
                None => (Some(&entry.value), false),
            };
            let value = value.and_then(Node::scalar_text).unwrap_or_default();
            Variable { raw, ..Variable::public(&**key, value) }
        })
        .collect()
}

/// The root variables that `inherit:variables` lets through to a job.
#[must_use]
pub fn inherited(root: &[Variable], job: &Map) -> Vec<Variable> {
    let inherit = job.get("inherit").and_then(|i| i.get("variables"));
    match inherit {
        None => root.to_vec(),
        Some(node) => match (node.as_bool(), node.as_seq()) {
            (Some(false), _) => Vec::new(),
            (_, Some(names)) => {
                root.iter().filter(|v| names.iter().any(|n| n.as_str() == Some(v.key.as_str()))).cloned().collect()
            }
            _ => root.to_vec(),
        },
    }
}

/// What is given from outside of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Given {
    predefined: HashMap<String, Variable>,
    outer: HashMap<String, Variable>,
    /// Both as lists, for expansion: order decides there.
    predefined_list: Vec<Variable>,
    outer_list: Vec<Variable>,
}

impl Given {
    /// `predefined` loses to the configuration's variables, `outer` wins; in each a later one of the same name wins.
    #[must_use]
    pub fn new(predefined: &[Variable], outer: &[Variable]) -> Self {
        let index = |list: &[Variable]| list.iter().map(|v| (v.key.clone(), v.clone())).collect();
        Given {
            predefined: index(predefined),
            outer: index(outer),
            predefined_list: predefined.to_vec(),
            outer_list: outer.to_vec(),
        }
    }

    /// The value of a variable before any of the configuration is known, and whether it is masked.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<(&str, bool)> {
        self.outer.get(name).or_else(|| self.predefined.get(name)).map(|v| (v.value.as_str(), v.masked))
    }
}

impl Scope for Given {
    fn variable(&self, name: &str) -> Option<&str> {
        self.lookup(name).map(|(value, _)| value)
    }
}

/// What one job sees.
#[derive(Clone, Copy)]
pub struct JobScope<'a> {
    /// From outside.
    pub given: &'a Given,
    /// The configuration's, weak to strong.
    pub layers: [&'a [Variable]; 3],
    /// Name and stage of the job, which beat the predefined ones and nothing else.
    pub job: Option<(&'a str, &'a str)>,
}

impl Scope for JobScope<'_> {
    fn variable(&self, name: &str) -> Option<&str> {
        if let Some(found) = self.given.outer.get(name) {
            return Some(&found.value);
        }
        for layer in self.layers.iter().rev() {
            if let Some(found) = layer.iter().rev().find(|v| v.key == name) {
                return Some(&found.value);
            }
        }
        match (name, self.job) {
            ("CI_JOB_NAME", Some((name, _))) => Some(name),
            ("CI_JOB_STAGE", Some((_, stage))) => Some(stage),
            _ => self.given.predefined.get(name).map(|v| v.value.as_str()),
        }
    }
}

impl JobScope<'_> {
    /// A field that the server expands: unknown names become nothing.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        if !has_reference(text) {
            return text.to_string();
        }
        let all = self.expanded().unwrap_or_else(|_| self.all());
        let values: HashMap<&str, &str> = all.iter().map(|v| (v.key.as_str(), v.value.as_str())).collect();
        expand_for_server(text, Undefined::Remove, |name| values.get(name).copied())
    }

    /// All variables, weak to strong.
    fn all(&self) -> Vec<Variable> {
        let mut all = self.given.predefined_list.clone();
        if let Some((name, stage)) = self.job {
            all.push(Variable { raw: true, ..Variable::public("CI_JOB_NAME", name) });
            all.push(Variable { raw: true, ..Variable::public("CI_JOB_STAGE", stage) });
        }
        for layer in self.layers {
            all.extend_from_slice(layer);
        }
        all.extend_from_slice(&self.given.outer_list);
        all
    }

    /// All variables with the references between them expanded.
    ///
    /// # Errors
    /// When they refer to each other in a circle.
    pub fn expanded(&self) -> Result<Vec<Variable>, expand::ExpandError> {
        let mut all = self.all();
        expand::sort_and_expand(&mut all)?;
        Ok(all)
    }
}
