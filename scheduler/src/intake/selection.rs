//! Only some jobs of a plan: those named, and what they need.

use crate::pipeline::plan::Plan;
use std::collections::{HashMap, HashSet};

/// The plan cut down to the named jobs and what they need. A name without its parallel part means all of its parts.
///
/// # Errors
/// When a name fits no job; the text lists those there are.
pub fn select(mut plan: Plan, names: &[String]) -> Result<Plan, String> {
    let by_name: HashMap<&str, usize> = plan.jobs.iter().enumerate().map(|(n, j)| (j.name.as_str(), n)).collect();
    let mut wanted: Vec<usize> = Vec::new();
    for name in names {
        let fits = |job: &str| job == name || crate::predefined::group_name(job) == name;
        let before = wanted.len();
        wanted.extend(plan.jobs.iter().enumerate().filter(|(_, j)| fits(&j.name)).map(|(n, _)| n));
        if wanted.len() == before {
            let known: Vec<&str> = plan.jobs.iter().map(|j| j.name.as_str()).take(30).collect();
            let excluded = plan.excluded.iter().find(|e| e.name == *name).map(|e| format!(" ({})", e.why));
            return Err(format!(
                "no job {name:?} in this pipeline{}; there are: {}",
                excluded.unwrap_or_default(),
                known.join(", ")
            ));
        }
    }
    let mut kept: HashSet<usize> = HashSet::new();
    while let Some(next) = wanted.pop() {
        if kept.insert(next) {
            let needs = plan.jobs[next].needs.iter().flatten();
            wanted.extend(needs.filter_map(|n| by_name.get(n.job.as_str()).copied()));
        }
    }
    let mut at = 0..;
    plan.jobs.retain(|_| at.next().is_some_and(|n| kept.contains(&n)));
    let left: HashSet<String> = plan.jobs.iter().map(|j| j.name.clone()).collect();
    for job in &mut plan.jobs {
        job.artifacts_from.retain(|name| left.contains(name));
    }
    let stages: HashSet<&str> = plan.jobs.iter().map(|j| j.stage.as_str()).collect();
    plan.stages.retain(|s| stages.contains(s.as_str()));
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::plan::{Need, PlannedJob};

    fn plan() -> Plan {
        let job = |name: &str, stage: &str, needs: Option<&[&str]>| PlannedJob {
            name: name.into(),
            stage: stage.into(),
            needs: needs.map(|n| n.iter().map(|j| Need { job: (*j).into(), artifacts: true }).collect()),
            artifacts_from: vec!["build".into()],
            ..PlannedJob::default()
        };
        Plan {
            stages: vec!["build".into(), "test".into(), "deploy".into()],
            jobs: vec![
                job("build", "build", None),
                job("test 1/2", "test", Some(&["build"])),
                job("test 2/2", "test", Some(&[])),
                job("deploy", "deploy", None),
            ],
            ..Plan::default()
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.jobs.iter().map(|j| j.name.as_str()).collect()
    }

    #[test]
    fn named_job_comes_with_what_it_needs() {
        let cut = select(plan(), &["test".into()]).unwrap();
        assert_eq!(names(&cut), ["build", "test 1/2", "test 2/2"]);
        assert_eq!(cut.stages, ["build", "test"]);
    }

    #[test]
    fn job_without_needs_comes_alone_and_asks_for_no_artifacts() {
        let cut = select(plan(), &["deploy".into()]).unwrap();
        assert_eq!(names(&cut), ["deploy"]);
        assert!(cut.jobs[0].artifacts_from.is_empty());
    }

    #[test]
    fn unknown_name_lists_those_there_are() {
        let text = select(plan(), &["tset".into()]).unwrap_err();
        assert!(text.contains("\"tset\"") && text.contains("test 1/2"), "{text}");
    }
}
