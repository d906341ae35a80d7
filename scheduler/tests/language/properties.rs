//! Of any plan: every need exists, the needs have no circle, no variable and no job is lost.

use crate::cases::Case;
use proptest::prelude::*;
use slipway_scheduler::pipeline::plan::Plan;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

/// A job as it is written.
#[derive(Clone, Debug)]
struct Written {
    stage: usize,
    /// Places of needed jobs, counted back from this one; `None` waits for stages.
    needs: Option<Vec<(usize, bool)>>,
    in_pipeline: bool,
    variables: BTreeMap<char, u8>,
    inherits: bool,
    parallel: Parallel,
    artifacts: bool,
    rule_variable: bool,
}

#[derive(Clone, Debug)]
enum Parallel {
    No,
    Count(u8),
    Matrix(Vec<char>, u8),
}

const STAGES: [&str; 3] = ["one", "two", "three"];

fn written() -> impl Strategy<Value = Written> {
    let parallel = prop_oneof![
        3 => Just(Parallel::No),
        1 => (1u8..4).prop_map(Parallel::Count),
        1 => (prop::sample::subsequence(vec!['A', 'X'], 1..=2), 1u8..4).prop_map(|(k, n)| Parallel::Matrix(k, n)),
    ];
    let needs = prop::option::weighted(0.6, prop::collection::vec((1usize..6, any::<bool>()), 0..4));
    let variables = prop::collection::btree_map(prop::sample::select(vec!['A', 'B', 'C']), 0u8..9, 0..3);
    (0usize..3, needs, prop::bool::weighted(0.85), variables, any::<bool>(), parallel, any::<bool>(), any::<bool>())
        .prop_map(|(stage, needs, in_pipeline, variables, inherits, parallel, artifacts, rule_variable)| Written {
            stage,
            needs,
            in_pipeline,
            variables,
            inherits,
            parallel,
            artifacts,
            rule_variable,
        })
}

/// The places of the jobs that job `at` needs: those before it, in no later stage, each once.
fn needed(jobs: &[Written], at: usize) -> Option<Vec<(usize, bool)>> {
    let needs = jobs[at].needs.as_ref()?;
    let mut seen = HashSet::new();
    Some(
        needs
            .iter()
            .filter_map(|(back, optional)| at.checked_sub(*back).map(|place| (place, *optional)))
            .filter(|(place, _)| jobs[*place].stage <= jobs[at].stage && seen.insert(*place))
            .collect(),
    )
}

fn text(root: &BTreeMap<char, u8>, jobs: &[Written]) -> String {
    let mut out = format!("stages: [{}]\n", STAGES.join(", "));
    if !root.is_empty() {
        out.push_str("variables:\n");
        for (key, value) in root {
            let _ = writeln!(out, "  {key}: r{value}");
        }
    }
    for (at, job) in jobs.iter().enumerate() {
        let _ = writeln!(out, "j{at}:\n  script: x\n  stage: {}", STAGES[job.stage]);
        if !job.variables.is_empty() {
            out.push_str("  variables:\n");
            for (key, value) in &job.variables {
                let _ = writeln!(out, "    {key}: j{value}");
            }
        }
        if !job.inherits {
            out.push_str("  inherit: {variables: false}\n");
        }
        if job.artifacts {
            out.push_str("  artifacts: {paths: [out]}\n");
        }
        if let Some(needs) = needed(jobs, at) {
            let one = |(place, optional): &(usize, bool)| format!("{{job: j{place}, optional: {optional}}}");
            let _ = writeln!(out, "  needs: [{}]", needs.iter().map(one).collect::<Vec<_>>().join(", "));
        }
        match &job.parallel {
            Parallel::No => {}
            Parallel::Count(n) => {
                let _ = writeln!(out, "  parallel: {n}");
            }
            Parallel::Matrix(keys, n) => {
                out.push_str("  parallel:\n    matrix:\n      -\n");
                for key in keys {
                    let values: Vec<String> = (0..*n).map(|i| format!("m{i}")).collect();
                    let _ = writeln!(out, "        {key}: [{}]", values.join(", "));
                }
            }
        }
        let condition = if job.in_pipeline { "$CI_COMMIT_BRANCH" } else { "$NOPE" };
        let _ = writeln!(out, "  rules:\n    - if: {condition}");
        if job.rule_variable {
            out.push_str("      variables: {R: rule, B: rule}\n");
        }
    }
    out
}

fn instances(job: &Written) -> usize {
    match &job.parallel {
        Parallel::No => 1,
        Parallel::Count(n) => usize::from(*n),
        Parallel::Matrix(keys, n) => usize::from(*n).pow(keys.len() as u32),
    }
}

/// What holds of any plan.
fn check_plan(plan: &Plan) -> Result<(), TestCaseError> {
    let names: HashMap<&str, usize> = plan.jobs.iter().enumerate().map(|(i, j)| (j.name.as_str(), i)).collect();
    prop_assert_eq!(names.len(), plan.jobs.len(), "two jobs of one name");
    let stage = |at: usize| plan.stages.iter().position(|s| *s == plan.jobs[at].stage);
    let mut places = Vec::new();
    for (at, job) in plan.jobs.iter().enumerate() {
        prop_assert!(stage(at).is_some(), "{} is in no stage", job.name);
        places.push(stage(at));
        for need in job.needs.iter().flatten() {
            let place = names.get(need.job.as_str());
            prop_assert!(place.is_some_and(|p| stage(*p) <= stage(at)), "{} needs {}", job.name, need.job);
        }
        for from in &job.artifacts_from {
            let Some(place) = names.get(from.as_str()) else {
                return Err(TestCaseError::fail(format!("{from} is gone")));
            };
            let is_need = job.needs.iter().flatten().any(|n| n.job == *from);
            prop_assert!(is_need || stage(*place) < stage(at), "{} takes from {from}", job.name);
        }
    }
    prop_assert!(places.is_sorted(), "jobs are not in the order of stages");
    // Taking away again and again what needs nothing that is left must take everything.
    let mut left: HashSet<usize> = (0..plan.jobs.len()).collect();
    while !left.is_empty() {
        let free: Vec<usize> = left
            .iter()
            .copied()
            .filter(|at| plan.jobs[*at].needs.iter().flatten().all(|n| !left.contains(&names[n.job.as_str()])))
            .collect();
        prop_assert!(!free.is_empty(), "the needs have a circle");
        free.iter().for_each(|at| {
            left.remove(at);
        });
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_keep_every_need_job_and_variable(
        root in prop::collection::btree_map(prop::sample::select(vec!['A', 'B', 'D']), 0u8..9, 0..3),
        jobs in prop::collection::vec(written(), 1..10),
    ) {
        let text = text(&root, &jobs);
        // A needed job that rules took out stops the pipeline, unless it is optional.
        let broken = jobs.iter().enumerate().any(|(at, job)| {
            job.in_pipeline
                && needed(&jobs, at).into_iter().flatten().any(|(place, optional)| !optional && !jobs[place].in_pipeline)
        });
        let compiled = match Case::new(&text).compile() {
            Err(wrong) => {
                prop_assert!(broken, "{wrong}\n{text}");
                for message in wrong.messages() {
                    prop_assert!(message.contains("does not exist in the pipeline"), "{message}\n{text}");
                }
                return Ok(());
            }
            Ok(compiled) => compiled,
        };
        prop_assert!(!broken, "compiled in spite of a missing need\n{text}");
        check_plan(&compiled.plan)?;
        let there: usize = jobs.iter().filter(|j| j.in_pipeline).map(instances).sum();
        prop_assert_eq!(compiled.plan.jobs.len(), there, "{}", text);
        for planned in &compiled.plan.jobs {
            let group = slipway_scheduler::pipeline::matrix::group_name(&planned.name);
            let job = &jobs[group[1..].parse::<usize>().unwrap()];
            let value = |key: &str| planned.variables.iter().rev().find(|v| v.key == key).map(|v| v.value.clone());
            for key in ['A', 'B', 'C', 'D', 'X', 'R'] {
                let matrix = matches!(&job.parallel, Parallel::Matrix(keys, _) if keys.contains(&key));
                let got = value(&key.to_string());
                let own = job.variables.get(&key).map(|v| format!("j{v}"));
                let inherited = root.get(&key).filter(|_| job.inherits).map(|v| format!("r{v}"));
                if job.rule_variable && (key == 'R' || key == 'B') {
                    prop_assert_eq!(got.as_deref(), Some("rule"), "{} of {}\n{}", key, planned.name, text);
                } else if matrix {
                    prop_assert!(got.is_some_and(|v| v.starts_with('m')), "{key} of {}\n{text}", planned.name);
                } else {
                    prop_assert_eq!(got, own.or(inherited), "{} of {}\n{}", key, planned.name, text);
                }
            }
        }
    }
}
