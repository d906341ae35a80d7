//! Whole configurations: `tests/cases/*.yml`, each with its plan or everything that is wrong with it as a snapshot.
//!
//! Comments at a case's head say for what event it is compiled (`# ref: main`, `# tag: v1`, `# source: web`, `# var: A=1`,
//! `# changed: a b`, `# files: a b`); what follows `#=== path` is another file of the repository.

use slipway_scheduler::pipeline::changes::{Files, ListedCommit};
use slipway_scheduler::pipeline::compile::{Compiled, Request, compile};
use slipway_scheduler::pipeline::diagnostic::Diagnostics;
use slipway_scheduler::pipeline::fetch::{Fetch, FetchError, Fetched, Location, Repository};
use slipway_scheduler::pipeline::plan::PlannedJob;
use slipway_scheduler::pipeline::rules::{Event, RefKind};
use slipway_spec::variable::Variable;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// A configuration, the files beside it, and what happened.
#[derive(Default)]
pub(crate) struct Case {
    text: String,
    files: BTreeMap<String, String>,
    commit: ListedCommit,
    event: Event,
    predefined: Vec<Variable>,
    variables: Vec<Variable>,
}

impl Fetch for Case {
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        match location {
            Location::File { repository: None, path } => match self.files.get(path) {
                Some(text) => Ok(Fetched { text: text.clone(), repository: None }),
                None => Err(FetchError::Missing),
            },
            other => Err(FetchError::Unavailable(format!("{other} is not in this test"))),
        }
    }

    fn paths(&self, _: Option<&Repository>) -> Result<Vec<String>, FetchError> {
        Ok(self.commit.files.iter().map(str::to_string).collect())
    }

    fn changes(&self, _: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        Ok(self.commit.changed.as_ref().map(|c| c.to_vec()))
    }
}

impl Case {
    pub(crate) fn new(text: &str) -> Self {
        let mut parts = text.split("#=== ");
        let mut case = Case { text: parts.next().unwrap_or_default().into(), ..Case::default() };
        for part in parts {
            let (path, text) = part.split_once('\n').unwrap_or((part, ""));
            case.files.insert(path.trim().into(), text.into());
        }
        let (mut name, mut kind, mut source) = ("main".to_string(), RefKind::Branch, "push".to_string());
        let mut listed: Vec<String> = case.files.keys().cloned().collect();
        for line in text.lines().map_while(|l| l.strip_prefix("# ")) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let words = || value.split_whitespace().map(str::to_string);
            match key {
                "ref" => name = value.into(),
                "tag" => (name, kind) = (value.into(), RefKind::Tag),
                "source" => source = value.into(),
                "changed" => case.commit.changed = Some(words().collect::<Vec<_>>().into()),
                "files" => listed.extend(words()),
                "var" => {
                    let (key, value) = value.split_once('=').unwrap_or((value, ""));
                    case.variables.push(Variable::public(key, value));
                }
                _ => {}
            }
        }
        if source == "merge_request_event" {
            kind = RefKind::MergeRequest;
        }
        case.commit.files = Arc::new(Files::new(listed));
        let mut set = |key: &str, value: &str| case.predefined.push(Variable::public(key, value));
        set("CI_PIPELINE_SOURCE", &source);
        set("CI_COMMIT_REF_NAME", &name);
        set("CI_COMMIT_REF_SLUG", &slipway_spec::slug::ref_slug(&name));
        set("CI_COMMIT_SHORT_SHA", "0123abcd");
        set("CI_DEFAULT_BRANCH", "main");
        set("CI_REGISTRY_IMAGE", "registry.example/group/app");
        match kind {
            RefKind::Branch => set("CI_COMMIT_BRANCH", &name),
            RefKind::Tag => set("CI_COMMIT_TAG", &name),
            RefKind::MergeRequest => {}
        }
        case.event = Event { source, ref_name: name, kind, project_path: "group/app".into() };
        case
    }

    pub(crate) fn compile(&self) -> Result<Compiled, Diagnostics> {
        let request = Request {
            file: ".gitlab-ci.yml",
            text: &self.text,
            predefined: &self.predefined,
            variables: &self.variables,
            event: &self.event,
            inputs: &[],
        };
        compile(&request, self)
    }
}

/// The plan for people: of each job what is not as in a job that says nothing.
fn render(compiled: &Compiled) -> String {
    let mut out = String::new();
    let plan = &compiled.plan;
    if let Some(why) = &compiled.no_pipeline {
        let _ = writeln!(out, "no pipeline: {why}");
    }
    if let Some(name) = &plan.name {
        let _ = writeln!(out, "name: {name}");
    }
    if plan.auto_cancel != Default::default() {
        let _ = writeln!(out, "auto cancel: {:?}", plan.auto_cancel);
    }
    if !plan.stages.is_empty() {
        let _ = writeln!(out, "stages: {}", plan.stages.join(", "));
    }
    let nothing = serde_json::to_value(PlannedJob::default()).unwrap();
    for job in &plan.jobs {
        let _ = writeln!(out, "\n{}", job.name);
        let said = serde_json::to_value(job).unwrap();
        for (key, value) in said.as_object().unwrap() {
            if key != "name" && nothing.get(key) != Some(value) {
                let _ = writeln!(out, "  {key}: {}", short(value));
            }
        }
    }
    for excluded in &plan.excluded {
        let _ = writeln!(out, "\nnot {}: {}", excluded.name, excluded.why);
    }
    if !compiled.warnings.is_empty() {
        let _ = write!(out, "\n{}", compiled.warnings.render());
    }
    out
}

/// A value without what is empty, false or null in it; a public variable as `KEY=value`.
fn short(value: &serde_json::Value) -> String {
    use serde_json::Value::{Array, Object, String as Text};
    match value {
        Array(items) => format!("[{}]", items.iter().map(short).collect::<Vec<_>>().join(", ")),
        Object(fields) => {
            let flag = |key: &str| fields.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
            if let (Some(Text(key)), Some(Text(value))) = (fields.get("key"), fields.get("value"))
                && fields.contains_key("masked")
            {
                return format!("{key}={value}{}", if flag("raw") { " (raw)" } else { "" });
            }
            let said = fields.iter().filter(|(_, v)| match v {
                serde_json::Value::Null | serde_json::Value::Bool(false) => false,
                Array(items) => !items.is_empty(),
                _ => true,
            });
            format!("{{{}}}", said.map(|(k, v)| format!("{k}: {}", short(v))).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn cases_compile_as_their_snapshots_say() {
    let mut seen = 0;
    insta::glob!("../cases", "*.yml", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let outcome = match Case::new(&text).compile() {
            Ok(compiled) => render(&compiled),
            Err(wrong) => wrong.render(),
        };
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!("case", outcome);
        });
        seen += 1;
    });
    assert!(seen >= 150, "only {seen} cases were found");
}

#[test]
fn cases_compile_the_same_twice() {
    let text = include_str!("../cases/real_docker_pipeline.yml");
    assert_eq!(Case::new(text).compile().unwrap().plan, Case::new(text).compile().unwrap().plan);
}
