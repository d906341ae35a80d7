//! The graph of needs and artifacts.

use crate::node;
use slipway_scheduler::pipeline::diagnostic::Diagnostics;
use slipway_scheduler::pipeline::matrix;
use slipway_scheduler::pipeline::needs::{self, GraphJob};
use slipway_scheduler::pipeline::tree::Span;

/// A job for the graph: name, stage, needs, dependencies, artifacts.
struct Job {
    name: String,
    group: String,
    stage: usize,
    needs: Option<Vec<needs::NeedSpec>>,
    dependencies: Option<Vec<(String, Span)>>,
    matrix: Vec<(String, String)>,
}

fn job(name: &str, stage: usize, needs: &str, dependencies: &str) -> Job {
    let mut out = Diagnostics::new();
    let needs = needs::parse_needs(&node(needs), "jobs:x", false, &mut out);
    let dependencies = needs::parse_dependencies(&node(dependencies), "jobs:x", needs.as_deref(), &mut out);
    assert!(out.is_empty(), "{out}");
    Job { name: name.into(), group: matrix::group_name(name).into(), stage, needs, dependencies, matrix: Vec::new() }
}

fn graph(jobs: &[Job]) -> Vec<GraphJob<'_>> {
    jobs.iter()
        .map(|j| GraphJob {
            name: &j.name,
            group: &j.group,
            span: Span::default(),
            stage: j.stage,
            needs: j.needs.as_deref(),
            rule_needs: Vec::new(),
            dependencies: j.dependencies.as_deref(),
            matrix: &j.matrix,
            has_artifacts: !j.name.starts_with("bare"),
        })
        .collect()
}

fn checked(jobs: &[Job]) -> Vec<String> {
    let mut out = Diagnostics::new();
    needs::check(&graph(jobs), &mut out);
    out.messages().into_iter().map(str::to_string).collect()
}

/// `name needs=… from=…` for each job.
fn resolved(jobs: &[Job]) -> Result<Vec<String>, Vec<String>> {
    let mut out = Diagnostics::new();
    let all = needs::resolve(&graph(jobs), &mut out);
    if out.has_errors() {
        return Err(out.messages().into_iter().map(str::to_string).collect());
    }
    let line = |(job, r): (&Job, &needs::Resolved)| {
        let needs =
            r.needs.as_ref().map_or("stage".into(), |n| n.iter().map(|n| n.job.as_str()).collect::<Vec<_>>().join("+"));
        format!("{} after {needs} takes {}", job.name, r.artifacts_from.join("+"))
    };
    Ok(jobs.iter().zip(&all).map(line).collect())
}

#[test]
fn needs_what_is_wrong_is_said_in_gitlabs_words() {
    let n = "null";
    let cases = [
        (vec![job("a", 1, r#"["b"]"#, n)], "a job: undefined need: b"),
        (
            vec![job("a", 0, r#"["b"]"#, n), job("b", 1, n, n)],
            "a job: need b is not defined in current or prior stages",
        ),
        (vec![job("a", 0, r#"["b", {"job": "b"}]"#, n), job("b", 0, n, n)], "a has the following needs duplicated: b."),
        (vec![job("a", 0, r#"["a"]"#, n)], "The pipeline has circular dependencies: self-dependency: a"),
        (
            vec![job("a", 0, r#"["c"]"#, n), job("b", 0, r#"["a"]"#, n), job("c", 0, r#"["b"]"#, n)],
            r#"The pipeline has circular dependencies: topological sort failed: ["a", "c", "b"]"#,
        ),
        (vec![job("a", 1, n, r#"["b"]"#)], "a job: undefined dependency: b"),
        (
            vec![job("a", 1, n, r#"["b"]"#), job("b", 1, n, n)],
            "a job: dependency b is not defined in current or prior stages",
        ),
    ];
    for (jobs, want) in cases {
        assert_eq!(checked(&jobs), [want]);
    }
    let mut many: Vec<Job> = (0..51).map(|i| job(&format!("n{i}"), 0, n, n)).collect();
    let names: Vec<String> = many.iter().map(|j| format!("{:?}", j.name)).collect();
    many.push(job("a", 1, &format!("[{}]", names.join(",")), n));
    assert!(checked(&many)[0].starts_with("a: one job can only need 50 others, but you have listed 51."));
    assert_eq!(checked(&[job("a", 1, r#"[{"job": "b", "optional": true}]"#, n)]), [""; 0]);
}

#[test]
fn needs_long_chains_need_no_stack() {
    let mut jobs = vec![job("j0", 0, "[]", "null")];
    for i in 1..20_000 {
        jobs.push(job(&format!("j{i}"), 0, &format!("[\"j{}\"]", i - 1), "null"));
    }
    assert_eq!(checked(&jobs), [""; 0]);
}

#[test]
fn needs_and_dependencies_decide_whose_artifacts_come() {
    let n = "null";
    let jobs = [
        job("a 1/2", 0, n, n),
        job("a 2/2", 0, n, n),
        job("bare", 0, n, n),
        job("c", 1, n, n),
        job("all", 2, n, n),
        job("none", 2, n, "[]"),
        job("some", 2, n, r#"["a"]"#),
        job("dag", 2, r#"["c", "a 2/2"]"#, n),
        job("order", 2, r#"[{"job": "c", "artifacts": false}, "a"]"#, n),
        job("cut", 2, r#"["a", "c"]"#, r#"["c"]"#),
        job("now", 2, "[]", n),
    ];
    assert_eq!(
        resolved(&jobs).unwrap(),
        [
            "a 1/2 after stage takes ",
            "a 2/2 after stage takes ",
            "bare after stage takes ",
            "c after stage takes a 1/2+a 2/2",
            "all after stage takes a 1/2+a 2/2+c",
            "none after stage takes ",
            "some after stage takes a 1/2+a 2/2",
            "dag after c+a 2/2 takes a 2/2+c",
            "order after c+a 1/2+a 2/2 takes a 1/2+a 2/2",
            "cut after a 1/2+a 2/2+c takes c",
            "now after  takes ",
        ]
    );
}

#[test]
fn needs_of_jobs_that_rules_took_out_stop_the_pipeline_unless_optional() {
    let n = "null";
    let error = resolved(&[job("a", 1, r#"["gone"]"#, n)]).unwrap_err();
    assert_eq!(
        error,
        [
            "'a' job needs 'gone' job, but 'gone' does not exist in the pipeline. This might be because of the only, except, \
          or rules keywords. To need a job that sometimes does not exist in the pipeline, use needs:optional."
        ]
    );
    let optional = [job("a", 1, r#"[{"job": "gone", "optional": true}]"#, n)];
    assert_eq!(resolved(&optional).unwrap(), ["a after  takes "]);
}

#[test]
fn needs_of_a_matrix_name_instances() {
    let n = "null";
    let need = r#"[{"job": "b", "parallel": {"matrix": [{"OS": ["linux"], "ARCH": ["$[[ matrix.ARCH ]]"]}]}}]"#;
    let mut test = job("t: [arm]", 1, need, n);
    test.matrix = vec![("ARCH".into(), "arm".into())];
    let jobs = [job("b: [linux, arm]", 0, n, n), job("b: [linux, amd]", 0, n, n), test];
    assert_eq!(checked(&jobs), [""; 0]);
    assert_eq!(resolved(&jobs).unwrap()[2], "t: [arm] after b: [linux, arm] takes b: [linux, arm]");
    let wrong = [job("b: [linux, arm]", 0, n, n), job("t", 1, need, n)];
    assert!(checked(&wrong)[0].contains("'ARCH' does not exist in the matrix"));
    let missing = r#"[{"job": "b", "parallel": {"matrix": [{"OS": ["bsd"]}]}}]"#;
    assert_eq!(checked(&[job("b: [linux]", 0, n, n), job("t", 1, missing, n)]), ["t job: undefined need: b: [bsd]"]);
}

#[test]
fn needs_wrong_ones_are_refused_in_gitlabs_words() {
    let cases = [
        (r#""build""#, "jobs:x:needs config can only be a hash or an array"),
        ("[1]", "jobs:x:needs:need has an unsupported type"),
        (r#"[{"pipeline": "$ID", "job": "a", "b": 1}]"#, "jobs:x:needs:need config contains unknown keys: b"),
        (r#"[{"job": "a", "artifacts": "yes"}]"#, "jobs:x:needs:need artifacts should be a boolean value"),
        (r#"[{"artifacts": true}]"#, "jobs:x:needs:need job can't be blank"),
        (r#"[{"pipeline": "a/b"}]"#, "jobs:x:needs config uses invalid types: bridge"),
    ];
    for (text, want) in cases {
        let mut out = Diagnostics::new();
        needs::parse_needs(&node(text), "jobs:x", false, &mut out);
        assert_eq!(out.messages(), [want], "{text}");
    }
    let mut out = Diagnostics::new();
    let needs = needs::parse_needs(&node(r#"["a"]"#), "jobs:x", false, &mut out);
    needs::parse_dependencies(&node(r#"["b"]"#), "jobs:x", needs.as_deref(), &mut out);
    needs::parse_dependencies(&node(r#""b""#), "jobs:x", None, &mut out);
    assert_eq!(
        out.messages(),
        ["jobs:x dependencies the b should be part of needs", "jobs:x dependencies should be an array of strings"]
    );
}
