//! All stages in order: a configuration and an event become a plan, or everything that is wrong.

mod draft;
mod planned;

use super::changes::{Commit, FetchedCommit};
use super::default::Defaults;
use super::diagnostic::Diagnostics;
use super::extends;
use super::fetch::Fetch;
use super::include::Reader;
use super::inputs;
use super::load::Reported;
use super::plan::{AutoCancel, Plan};
use super::reference;
use super::rules::{self, Event, Facts, RuleKind, WorkflowVerdict};
use super::tree::{Map, Node, Span};
use super::validate::{self, Mode};
use super::variables::{self, Given, JobScope};
use draft::Draft;
use slipway_spec::variable::Variable;

/// What is to be compiled, and for what event.
#[derive(Clone)]
pub struct Request<'a> {
    /// The configuration's name, for people: `.gitlab-ci.yml`.
    pub file: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Variables that the configuration's own beat: `CI_COMMIT_SHA` and its relatives.
    pub predefined: &'a [Variable],
    /// Variables that beat the configuration's: the project's, then those of the pipeline (trigger, schedule, `--var`).
    pub variables: &'a [Variable],
    /// What started the pipeline.
    pub event: &'a Event,
    /// Values for the root file's `spec:inputs`.
    pub inputs: &'a [(String, serde_json::Value)],
}

/// A compiled configuration.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan; without jobs when there is no pipeline.
    pub plan: Plan,
    /// Why there is no pipeline for this event: `workflow:rules`, or no job is left. Not an error.
    pub no_pipeline: Option<String>,
    /// What does not stop it.
    pub warnings: Diagnostics,
}

/// Compiles a configuration.
///
/// # Errors
/// Everything that is wrong with it, places and hints included.
pub fn compile(request: &Request<'_>, fetch: &dyn Fetch) -> Result<Compiled, Diagnostics> {
    let given = Given::new(request.predefined, request.variables);
    let commit = FetchedCommit::new(fetch);
    let (root, mut out) = read(request, &given, fetch, &commit)?;
    let result = plan(&root, request, &given, &commit, &mut out);
    out.sort();
    match result {
        Ok((plan, no_pipeline)) if !out.has_errors() => Ok(Compiled { plan, no_pipeline, warnings: out }),
        Ok(_) | Err(Reported) => Err(out),
    }
}

/// Checks keywords and types of one text alone, as an editor would: nothing is included, resolved or decided.
#[must_use]
pub fn check_syntax(file: &str, text: &str) -> Diagnostics {
    let mut out = Diagnostics::new();
    let mut sources = super::diagnostic::Sources::default();
    let id = sources.add(file, text);
    let documents = super::load::documents(text);
    for document in [Some(documents.first), documents.second].into_iter().flatten() {
        let Ok(node) = super::load::load(&document, id, &mut out) else { break };
        match node.as_map() {
            Some(map) => {
                let _ = validate::configuration(map, Mode::Syntax, &mut out);
            }
            None if text.trim().is_empty() => {
                out.error(node.span, "", "Please provide content of .gitlab-ci.yml");
            }
            None => {
                out.error(node.span, "", "Invalid configuration format")
                    .hint(format!("a mapping of keywords and jobs was expected, found {}", node.describe()));
            }
        }
    }
    out.set_sources(sources);
    out.sort();
    out
}

/// The whole configuration: included, extended, referenced, checked.
fn read(
    request: &Request<'_>,
    given: &Given,
    fetch: &dyn Fetch,
    commit: &dyn Commit,
) -> Result<(Map, Diagnostics), Diagnostics> {
    let decide = |node: &Node, out: &mut Diagnostics| included(node, request, given, commit, out);
    let lookup = |name: &str| given.lookup(name);
    let mut reader = Reader {
        fetch,
        lookup: &lookup,
        rules: &decide,
        sources: super::diagnostic::Sources::default(),
        diagnostics: Diagnostics::new(),
        spent: 0,
        count: 0,
        bytes: 0,
        values: 0,
    };
    let inputs = inputs::Given { values: request.inputs.to_vec(), span: Span::default() };
    let root = reader.root(request.file, request.text, &inputs);
    let Reader { sources, diagnostics: mut out, .. } = reader;
    let resolve = |root: Map, out: &mut Diagnostics| -> Result<Map, Reported> {
        let root = extends::extend(&root, out)?;
        let root = reference::resolve(&root, out)?;
        validate::configuration(&root, Mode::Full, out)?;
        Ok(root)
    };
    let root = root.and_then(|root| resolve(root, &mut out));
    out.set_sources(sources);
    match root {
        Ok(root) => Ok((root, out)),
        Err(Reported) => {
            out.sort();
            Err(out)
        }
    }
}

/// Decides `include:rules`.
fn included(node: &Node, request: &Request<'_>, given: &Given, commit: &dyn Commit, out: &mut Diagnostics) -> bool {
    let Some(rules) = rules::parse_rules(node, "include", RuleKind::Include, out) else { return true };
    let facts = Facts { scope: given, commit, event: request.event };
    match rules::decide_include(&rules, facts) {
        Ok((included, _)) => included,
        Err(error) => {
            out.error(error.span, "include:rules", error.to_string());
            false
        }
    }
}

/// The stages of a configuration, `.pre` and `.post` around them.
fn stages(root: &Map) -> Vec<String> {
    let written = super::job::tags(root.get("stages"));
    let middle = if written.is_empty() { ["build", "test", "deploy"].map(String::from).to_vec() } else { written };
    let mut stages = vec![".pre".to_string()];
    for stage in middle {
        if stage != ".pre" && stage != ".post" && !stages.contains(&stage) {
            stages.push(stage);
        }
    }
    stages.push(".post".into());
    stages
}

fn plan(
    root: &Map,
    request: &Request<'_>,
    given: &Given,
    commit: &dyn Commit,
    out: &mut Diagnostics,
) -> Result<(Plan, Option<String>), Reported> {
    let stages = stages(root);
    let defaults = Defaults::of(root);
    let mut root_variables = variables::of_map(root.get("variables"));
    let drafts = draft::of_configuration(root, &defaults, &stages, out);
    let instances = draft::instances(&drafts, out)?;
    draft::check(&drafts, &instances, out)?;

    let workflow = root.get("workflow").filter(|w| w.get("script").is_none());
    let workflow_rules =
        workflow.and_then(|w| w.get("rules")).and_then(|r| rules::parse_rules(r, "workflow", RuleKind::Workflow, out));
    let scope = JobScope { given, layers: [&root_variables, &[], &[]], job: None };
    let facts = Facts { scope: &scope, commit, event: request.event };
    let verdict = rules::decide_workflow(workflow_rules.as_deref(), facts).map_err(|error| {
        out.error(error.span, "workflow:rules", error.to_string());
        Reported
    })?;
    let mut plan = Plan::default();
    let (on_new_commit, on_job_failure) = match verdict {
        WorkflowVerdict::Filtered(why) => {
            return Ok((plan, Some(format!("Pipeline filtered out by workflow rules. {why}"))));
        }
        WorkflowVerdict::Run { variables, on_new_commit, on_job_failure, .. } => {
            root_variables.extend(variables.into_iter().map(|(k, v)| Variable::public(k, v)));
            (on_new_commit, on_job_failure)
        }
    };
    let own = workflow.and_then(|w| w.get("auto_cancel")).filter(|n| !n.is_null());
    let (on_commit, failure) = own.map_or((None, None), |n| rules::parse_auto_cancel_of_workflow(n, out));
    plan.auto_cancel = AutoCancel {
        on_new_commit: on_new_commit.or(on_commit).unwrap_or_default(),
        on_job_failure: on_job_failure.or(failure).unwrap_or(false),
    };
    let scope = JobScope { given, layers: [&root_variables, &[], &[]], job: None };
    let name = workflow.and_then(|w| w.get("name")).and_then(Node::as_str).map(|n| scope.expand(n).trim().to_string());
    plan.name = name.filter(|n| !n.is_empty());
    if let Err(error) = scope.expanded() {
        let span = root.entry("variables").map_or(Span::default(), |e| e.key_span);
        out.error(span, "variables", error.to_string());
        return Err(Reported);
    }

    let world = planned::World {
        event: request.event,
        commit,
        given,
        root_variables: &root_variables,
        has_workflow_rules: workflow_rules.is_some(),
    };
    let (jobs, excluded) = planned::jobs(&drafts, &instances, &world, out)?;
    plan.jobs = jobs;
    plan.excluded = excluded;
    plan.stages = stages.into_iter().filter(|s| plan.jobs.iter().any(|j| j.stage == *s)).collect();
    let no_pipeline = if plan.jobs.is_empty() {
        Some(
            "Pipeline will not run for the selected trigger. The rules configuration prevented any jobs from being \
              added to the pipeline.",
        )
    } else if plan.jobs.iter().all(|j| j.stage == ".pre" || j.stage == ".post") {
        Some("Pipeline will not run: only jobs of the stages .pre and .post are left.")
    } else {
        None
    };
    if no_pipeline.is_some() {
        plan.jobs.clear();
        plan.stages.clear();
    }
    Ok((plan, no_pipeline.map(String::from)))
}

/// More jobs than this are no pipeline; GitLab's own limit is a setting, of 500 by default on its service.
pub const MAX_JOBS: usize = 20_000;

/// The number of jobs a draft list makes is bounded before they are made.
fn too_many(drafts: &[Draft], out: &mut Diagnostics) -> Result<(), Reported> {
    let total: usize = drafts.iter().map(Draft::size).sum();
    if total > MAX_JOBS {
        let span = drafts.last().map_or(Span::default(), |d| d.span);
        out.error(span, "jobs", format!("the configuration has {total} jobs; at most {MAX_JOBS} are allowed"));
        return Err(Reported);
    }
    Ok(())
}
