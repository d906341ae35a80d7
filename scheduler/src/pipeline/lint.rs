//! What `slipway lint` says: the faults of a configuration, or the plan and why each job is in it or not.

use super::compile::{Compiled, Request, check_syntax, compile};
use super::diagnostic::{DiagnosticView, Diagnostics};
use super::fetch::Fetch;
use super::plan::{JobWhen, Plan, PlannedJob};
use super::rules::{Event, RefKind};
use serde::Serialize;
use std::fmt::Write as _;

/// Columns a job's name is padded to, at most.
const MAX_NAME_COLUMNS: usize = 32;

/// The whole answer; what `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// No error.
    pub valid: bool,
    /// Errors and warnings.
    pub diagnostics: Vec<DiagnosticView>,
    /// The plan for the event asked about; none of an invalid file, nor of `--syntax`.
    pub plan: Option<PlanView>,
    /// Why there would be no pipeline.
    pub no_pipeline: Option<String>,
    #[serde(skip)]
    text: String,
}

/// A plan in short.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    /// `workflow:name`.
    pub name: Option<String>,
    /// Stages in order, each with its jobs.
    pub stages: Vec<StageView>,
    /// Jobs that are not in it.
    pub excluded: Vec<OutView>,
}

/// A stage of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// Its jobs.
    pub jobs: Vec<InView>,
}

/// A job that is in.
#[derive(Clone, Debug, Serialize)]
pub struct InView {
    /// Its name.
    pub name: String,
    /// `on_success`, `manual`, …; of a delayed job `delayed 1800 s`.
    pub when: String,
    /// The jobs it needs; `null` when it waits for the stages before.
    pub needs: Option<Vec<String>>,
    /// The rule that let it in.
    pub why: String,
}

/// A job that is not in.
#[derive(Clone, Debug, Serialize)]
pub struct OutView {
    /// Its name.
    pub name: String,
    /// The rule that decided.
    pub why: String,
}

/// Looks at keywords and types alone.
#[must_use]
pub fn syntax(file: &str, text: &str) -> Report {
    let diagnostics = check_syntax(file, text);
    let valid = !diagnostics.has_errors();
    let mut out = diagnostics.render();
    if valid {
        let _ = writeln!(out, "{file}: keywords and types are valid");
    }
    Report { valid, diagnostics: diagnostics.view(), plan: None, no_pipeline: None, text: out }
}

/// Compiles a configuration for an event.
#[must_use]
pub fn lint(request: &Request<'_>, fetch: &dyn Fetch) -> Report {
    match compile(request, fetch) {
        Ok(compiled) => accepted(request, compiled),
        Err(diagnostics) => refused(request.file, &diagnostics),
    }
}

fn refused(file: &str, diagnostics: &Diagnostics) -> Report {
    let mut text = diagnostics.render();
    let errors = diagnostics.messages().len();
    let _ = writeln!(text, "{file} is not valid: {}", count(errors, "error"));
    Report { valid: false, diagnostics: diagnostics.view(), plan: None, no_pipeline: None, text }
}

fn accepted(request: &Request<'_>, compiled: Compiled) -> Report {
    let Compiled { plan, no_pipeline, warnings } = compiled;
    let mut text = warnings.render();
    let event = describe(request.event);
    match &no_pipeline {
        Some(why) => {
            let _ = writeln!(text, "{} is valid, and makes no pipeline for {event}: {why}", request.file);
        }
        None => {
            let jobs = count(plan.jobs.len(), "job");
            let stages = count(plan.stages.len(), "stage");
            let _ = writeln!(text, "{} is valid: {jobs} in {stages} for {event}", request.file);
        }
    }
    if let Some(name) = &plan.name {
        let _ = writeln!(text, "The pipeline is called {name:?}.");
    }
    let view = PlanView::of(&plan);
    view.render(&mut text);
    Report { valid: true, diagnostics: warnings.view(), plan: Some(view), no_pipeline, text }
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn describe(event: &Event) -> String {
    let source = match event.source.as_str() {
        "push" => "a push to",
        "merge_request_event" => "",
        other => &format!("{other} on"),
    };
    let kind = match event.kind {
        RefKind::Branch => "the branch",
        RefKind::Tag => "the tag",
        RefKind::MergeRequest => "a merge request of",
    };
    format!("{source} {kind} {}", event.ref_name).trim_start().to_string()
}

impl Report {
    /// The answer for a person.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PlanView {
    /// A plan in short.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let stage = |name: &String| StageView {
            name: name.clone(),
            jobs: plan.jobs.iter().filter(|j| j.stage == *name).map(InView::of).collect(),
        };
        PlanView {
            name: plan.name.clone(),
            stages: plan.stages.iter().map(stage).collect(),
            excluded: plan.excluded.iter().map(|e| OutView { name: e.name.clone(), why: e.why.clone() }).collect(),
        }
    }

    fn render(&self, out: &mut String) {
        let names = self.stages.iter().flat_map(|s| &s.jobs).map(|j| &j.name);
        let names = names.chain(self.excluded.iter().map(|e| &e.name));
        let width = names.map(|n| n.chars().count()).max().unwrap_or(0).min(MAX_NAME_COLUMNS);
        for stage in &self.stages {
            let _ = writeln!(out, "\n{}", stage.name);
            for job in &stage.jobs {
                let _ = write!(out, "  {:width$}  {}", job.name, job.when);
                match job.needs.as_deref() {
                    None => {}
                    Some([]) => out.push_str(", at once"),
                    Some(needs) => {
                        let shown = needs.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
                        let more =
                            if needs.len() > 5 { format!(" and {} more", needs.len() - 5) } else { String::new() };
                        let _ = write!(out, ", after {shown}{more}");
                    }
                }
                let _ = writeln!(out, ": {}", job.why);
            }
        }
        if !self.excluded.is_empty() {
            let _ = writeln!(out, "\nnot in this pipeline");
            for job in &self.excluded {
                let _ = writeln!(out, "  {:width$}  {}", job.name, job.why);
            }
        }
    }
}

impl InView {
    fn of(job: &PlannedJob) -> Self {
        let when = match job.when {
            JobWhen::OnSuccess => "on_success".to_string(),
            JobWhen::OnFailure => "on_failure".to_string(),
            JobWhen::Always => "always".to_string(),
            JobWhen::Manual => "manual".to_string(),
            JobWhen::Delayed(seconds) => format!("delayed {seconds} s"),
        };
        InView {
            name: job.name.clone(),
            when,
            needs: job.needs.as_ref().map(|n| n.iter().map(|n| n.job.clone()).collect()),
            why: job.why.clone(),
        }
    }
}
