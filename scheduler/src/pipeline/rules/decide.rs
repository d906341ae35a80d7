//! The verdicts.

use super::{Admitted, Facts, Rule, RuleWhen, Selection, Verdict, WorkflowVerdict};
use crate::pipeline::changes::UnknownRef;
use crate::pipeline::plan::{AllowFailure, JobWhen};
use crate::pipeline::tree::{Span, shorten};
use thiserror::Error;

/// A rule that cannot be decided: the pipeline fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("rules:changes:compare_to is not a valid ref: {source}")]
pub struct RuleError {
    /// The rule.
    pub span: Span,
    /// What it names.
    pub source: UnknownRef,
}

/// Whether a job is in the pipeline.
///
/// # Errors
/// When a rule cannot be decided.
pub fn decide(job: &Selection<'_>, facts: Facts<'_>) -> Result<Verdict, RuleError> {
    let Some(rules) = job.rules else { return without_rules(job, facts) };
    let (at, rule, why) = match first_match(rules, facts)? {
        Ok(found) => found,
        Err(why) => return Ok(Verdict::Out(why)),
    };
    let when = rule.when.or(job.when).unwrap_or_default();
    let why = format!("rule {at}: {why}");
    let Some(when) = job_when(when, rule.start_in.or(job.start_in)) else {
        return Ok(Verdict::Out(format!("{why}; it says when: never")));
    };
    let allow_failure = match rule.allow_failure {
        Some(true) => AllowFailure::Yes,
        Some(false) => AllowFailure::No,
        None => job.allow_failure.clone().unwrap_or_default(),
    };
    Ok(Verdict::In(Admitted {
        when,
        allow_failure,
        variables: rule.variables.clone(),
        needs: rule.needs.clone(),
        interruptible: rule.interruptible,
        why,
    }))
}

fn without_rules(job: &Selection<'_>, facts: Facts<'_>) -> Result<Verdict, RuleError> {
    let mut why = "it has no rules".to_string();
    match job.only {
        Some(only) => {
            let finding = only.all_hold(facts)?;
            if !finding.holds {
                return Ok(Verdict::Out(format!("only: {finding}")));
            }
            why = format!("only: {finding}");
        }
        None if !job.has_workflow_rules && facts.event.kind == super::RefKind::MergeRequest => {
            let why = "it has no rules, and such jobs run for branches and tags, not for merge requests";
            return Ok(Verdict::Out(why.into()));
        }
        None => {}
    }
    if let Some(except) = job.except {
        let finding = except.any_holds(facts)?;
        if finding.holds {
            return Ok(Verdict::Out(format!("except: {finding}")));
        }
        if job.only.is_none() {
            why = format!("except: {finding}");
        }
    }
    let when = job.when.unwrap_or_default();
    // A manual job that no rule made manual does not hold the pipeline up.
    let allow_failure = job.allow_failure.clone().unwrap_or(match when {
        RuleWhen::Manual => AllowFailure::Yes,
        _ => AllowFailure::No,
    });
    let Some(when) = job_when(when, job.start_in) else { return Ok(Verdict::Out("it says when: never".into())) };
    Ok(Verdict::In(Admitted { when, allow_failure, variables: Vec::new(), needs: None, interruptible: None, why }))
}

/// Whether there is a pipeline at all. `None`: there are no workflow rules.
///
/// # Errors
/// When a rule cannot be decided.
pub fn decide_workflow(rules: Option<&[Rule]>, facts: Facts<'_>) -> Result<WorkflowVerdict, RuleError> {
    let run = |variables, on_new_commit, on_job_failure, why| WorkflowVerdict::Run {
        variables,
        on_new_commit,
        on_job_failure,
        why,
    };
    let Some(rules) = rules else { return Ok(run(Vec::new(), None, None, "there are no workflow rules".into())) };
    Ok(match first_match(rules, facts)? {
        Err(why) => WorkflowVerdict::Filtered(why),
        Ok((at, rule, why)) if rule.when == Some(RuleWhen::Never) => {
            WorkflowVerdict::Filtered(format!("workflow rule {at}: {why}; it says when: never"))
        }
        Ok((at, rule, why)) => {
            let why = format!("workflow rule {at}: {why}");
            run(rule.variables.clone(), rule.on_new_commit, rule.on_job_failure, why)
        }
    })
}

/// Whether a file is included, and why.
///
/// # Errors
/// When a rule cannot be decided.
pub fn decide_include(rules: &[Rule], facts: Facts<'_>) -> Result<(bool, String), RuleError> {
    Ok(match first_match(rules, facts)? {
        Err(why) => (false, why),
        Ok((at, rule, why)) => (rule.when != Some(RuleWhen::Never), format!("rule {at}: {why}")),
    })
}

/// The first rule that matches, its number from 1, and why; or why none does.
type Match<'r> = Result<(usize, &'r Rule, String), String>;

fn first_match<'r>(rules: &'r [Rule], facts: Facts<'_>) -> Result<Match<'r>, RuleError> {
    let mut last = String::new();
    for (at, rule) in rules.iter().enumerate() {
        let (matched, why) = matches(rule, facts)?;
        if matched {
            return Ok(Ok((at + 1, rule, why)));
        }
        last = why;
    }
    Ok(Err(match rules.len() {
        0 => "its list of rules is empty".into(),
        1 => format!("its rule does not match: {last}"),
        n => format!("none of its {n} rules matches; the last: {last}"),
    }))
}

/// Whether all clauses of a rule hold, and why.
fn matches(rule: &Rule, facts: Facts<'_>) -> Result<(bool, String), RuleError> {
    let mut reasons: Vec<String> = Vec::new();
    if let Some(condition) = &rule.condition {
        let holds = condition.is_true(facts.scope);
        let text = shorten(condition.text(), 120);
        let mut why = if holds { text } else { format!("{text} is not true") };
        let values = condition.explain(facts.scope);
        if !values.is_empty() {
            why = format!("{why} ({values})");
        }
        if !holds {
            return Ok((false, why));
        }
        reasons.push(why);
    }
    if let Some(changes) = &rule.changes {
        let found =
            changes.evaluate(facts.commit, facts.scope).map_err(|source| RuleError { span: rule.span, source })?;
        if !found.holds {
            return Ok((false, found.why));
        }
        reasons.push(found.why);
    }
    if let Some(exists) = &rule.exists {
        let found = exists.evaluate(facts.commit, facts.scope);
        if !found.holds {
            return Ok((false, found.why));
        }
        reasons.push(found.why);
    }
    if reasons.is_empty() {
        reasons.push("it has no condition".into());
    }
    Ok((true, reasons.join("; ")))
}

/// `None` for `never`.
fn job_when(when: RuleWhen, start_in: Option<u64>) -> Option<JobWhen> {
    Some(match when {
        RuleWhen::OnSuccess => JobWhen::OnSuccess,
        RuleWhen::OnFailure => JobWhen::OnFailure,
        RuleWhen::Always => JobWhen::Always,
        RuleWhen::Manual => JobWhen::Manual,
        RuleWhen::Delayed => JobWhen::Delayed(start_in.unwrap_or(0)),
        RuleWhen::Never => return None,
    })
}
