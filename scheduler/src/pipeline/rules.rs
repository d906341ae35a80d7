//! Which jobs run: `rules`, `only`, `except`, `workflow:rules`, `include:rules`. Every verdict says why.

mod decide;
mod filter;
mod parse;

pub use decide::{RuleError, decide, decide_include, decide_workflow};
pub use filter::{Filter, parse_filter};
pub use parse::{RuleKind, parse_auto_cancel_of_workflow, parse_rules};

use super::changes::{Changes, Commit, Exists};
use super::expression::{Expression, Scope};
use super::needs::NeedSpec;
use super::plan::{AllowFailure, JobWhen, OnNewCommit};
use super::tree::Span;
use std::sync::Arc;

/// One rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Where.
    pub span: Span,
    /// `if`
    pub condition: Option<Arc<Expression>>,
    /// `changes`
    pub changes: Option<Changes>,
    /// `exists`
    pub exists: Option<Exists>,
    /// `when`
    pub when: Option<RuleWhen>,
    /// `start_in`, seconds.
    pub start_in: Option<u64>,
    /// `allow_failure`
    pub allow_failure: Option<bool>,
    /// `variables`
    pub variables: Vec<(String, String)>,
    /// `needs`
    pub needs: Option<Vec<NeedSpec>>,
    /// `interruptible`
    pub interruptible: Option<bool>,
    /// `auto_cancel:on_new_commit` of a workflow rule.
    pub on_new_commit: Option<OnNewCommit>,
    /// `auto_cancel:on_job_failure` of a workflow rule.
    pub on_job_failure: Option<bool>,
}

impl Rule {
    /// What making the programs of its patterns costs.
    #[must_use]
    pub fn cost(&self) -> u32 {
        let condition = self.condition.as_ref().map_or(0, |c| c.cost());
        let changes = self.changes.as_ref().map_or(0, |c| c.patterns.cost());
        let exists = self.exists.as_ref().map_or(0, |e| e.patterns.cost());
        condition.saturating_add(changes).saturating_add(exists)
    }
}

/// `when`, of a rule or a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleWhen {
    /// `on_success`
    #[default]
    OnSuccess,
    /// `on_failure`
    OnFailure,
    /// `always`
    Always,
    /// `manual`
    Manual,
    /// `delayed`
    Delayed,
    /// `never`
    Never,
}

impl RuleWhen {
    /// From GitLab's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "on_success" => RuleWhen::OnSuccess,
            "on_failure" => RuleWhen::OnFailure,
            "always" => RuleWhen::Always,
            "manual" => RuleWhen::Manual,
            "delayed" => RuleWhen::Delayed,
            "never" => RuleWhen::Never,
            _ => return None,
        })
    }
}

/// What started the pipeline, for `only` and `except`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CI_PIPELINE_SOURCE`: `push`, `web`, `schedule`, …
    pub source: String,
    /// Branch or tag name; of a merge request the source branch.
    pub ref_name: String,
    /// What the ref is.
    pub kind: RefKind,
    /// `group/name`.
    pub project_path: String,
}

/// What a pipeline's ref is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefKind {
    /// A branch.
    #[default]
    Branch,
    /// A tag.
    Tag,
    /// A merge request.
    MergeRequest,
}

/// Everything a rule may ask for.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The variables.
    pub scope: &'a dyn Scope,
    /// The commit.
    pub commit: &'a dyn Commit,
    /// What started the pipeline.
    pub event: &'a Event,
}

/// What a job says about when it runs.
#[derive(Clone, Debug, Default)]
pub struct Selection<'a> {
    /// `rules`; an empty list lets nothing through.
    pub rules: Option<&'a [Rule]>,
    /// `only`
    pub only: Option<&'a Filter>,
    /// `except`
    pub except: Option<&'a Filter>,
    /// The job's own `when`.
    pub when: Option<RuleWhen>,
    /// The job's own `start_in`, seconds.
    pub start_in: Option<u64>,
    /// The job's own `allow_failure`.
    pub allow_failure: Option<AllowFailure>,
    /// `workflow:rules` is there: without rules of its own a job then runs in merge request pipelines too.
    pub has_workflow_rules: bool,
}

/// Whether a job is in the pipeline.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is.
    In(Admitted),
    /// It is not, and why, for people.
    Out(String),
}

/// How a job is in the pipeline.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// When it starts.
    pub when: JobWhen,
    /// Whether its failure fails the pipeline.
    pub allow_failure: AllowFailure,
    /// The rule's variables; they beat the job's.
    pub variables: Vec<(String, String)>,
    /// The rule's needs, which replace the job's.
    pub needs: Option<Vec<NeedSpec>>,
    /// The rule's `interruptible`, which replaces the job's.
    pub interruptible: Option<bool>,
    /// Which rule, and why it matched, for people.
    pub why: String,
}

/// Whether there is a pipeline at all.
#[derive(Clone, Debug)]
pub enum WorkflowVerdict {
    /// There is.
    Run {
        /// They replace root variables.
        variables: Vec<(String, String)>,
        /// The rule's `auto_cancel:on_new_commit`.
        on_new_commit: Option<OnNewCommit>,
        /// The rule's `auto_cancel:on_job_failure`.
        on_job_failure: Option<bool>,
        /// Why, for people.
        why: String,
    },
    /// There is none, and why.
    Filtered(String),
}
