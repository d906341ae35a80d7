//! Text to plan: three jobs, two hundred, ten thousand (includes, extends, matrix, rules, needs).
//! `cargo bench -p slipway-scheduler --bench pipeline`

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use slipway_scheduler::pipeline::compile::{Request, compile};
use slipway_scheduler::pipeline::fetch::{Fetch, FetchError, Fetched, Location, Repository};
use slipway_scheduler::pipeline::rules::{Event, RefKind};
use slipway_spec::variable::Variable;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

/// The repository: one included file with the templates.
struct Templates;

const TEMPLATES: &str = "
.base:
  image: registry.example/base:1
  tags: [docker]
  retry: {max: 1, when: runner_system_failure}
  before_script: [echo setup]
.branch-or-tag:
  rules:
    - if: $CI_COMMIT_TAG =~ /^v\\d+\\.\\d+$/
    - if: $CI_COMMIT_BRANCH == \"main\" && $CI_PIPELINE_SOURCE != \"schedule\"
      variables: {WHERE: main}
    - if: $CI_COMMIT_BRANCH
      when: manual
";

impl Fetch for Templates {
    fn fetch(&self, _: &Location) -> Result<Fetched, FetchError> {
        Ok(Fetched { text: TEMPLATES.into(), repository: None })
    }

    fn paths(&self, _: Option<&Repository>) -> Result<Vec<String>, FetchError> {
        Ok(vec!["ci/templates.yml".into()])
    }

    fn changes(&self, _: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        Ok(None)
    }
}

const THREE: &str = "
build:
  stage: build
  image: docker:24
  services: [docker:24-dind]
  script: [docker build -t app .]
test:
  script: [make test]
deploy:
  stage: deploy
  script: [./deploy]
  rules:
    - if: $CI_COMMIT_BRANCH == \"main\"
";

/// So many jobs written out, each becoming `instances` by a matrix.
fn many(jobs: usize, instances: usize) -> String {
    let mut text = String::from("include: ci/templates.yml\nvariables: {A: one, B: \"$A/two\"}\n");
    for i in 0..jobs {
        let stage = ["build", "test", "deploy"][i % 3];
        let _ = write!(
            text,
            "job-{i}:\n  extends: [.base, .branch-or-tag]\n  stage: {stage}\n  variables: {{N: \"{i}\", C: \"$B/$N\"}}\n  \
             script: [\"make target-{i}\", \"echo $C\"]\n"
        );
        if i % 3 == 2 {
            let _ = writeln!(text, "  needs: [job-{}, job-{}]", i - 1, i - 2);
        }
        if instances > 1 {
            let values: Vec<String> = (0..instances).map(|v| format!("v{v}")).collect();
            let _ = writeln!(text, "  parallel:\n    matrix:\n      - V: [{}]", values.join(", "));
        }
    }
    text
}

fn plan(text: &str) -> usize {
    let predefined = [
        Variable::public("CI_COMMIT_BRANCH", "main"),
        Variable::public("CI_COMMIT_REF_NAME", "main"),
        Variable::public("CI_PIPELINE_SOURCE", "push"),
    ];
    let event = Event {
        source: "push".into(),
        ref_name: "main".into(),
        kind: RefKind::Branch,
        project_path: "group/app".into(),
    };
    let request =
        Request { file: ".gitlab-ci.yml", text, predefined: &predefined, variables: &[], event: &event, inputs: &[] };
    match compile(&request, &Templates) {
        Ok(compiled) => compiled.plan.jobs.len(),
        Err(wrong) => panic!("{wrong}"),
    }
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("text_to_plan");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    for (name, text, jobs) in [
        ("3_jobs", THREE.to_string(), 3),
        ("200_jobs", many(200, 1), 200),
        ("10000_jobs_by_matrix", many(1000, 10), 10_000),
    ] {
        assert_eq!(plan(&text), jobs, "{name}");
        group.bench_function(name, |b| b.iter_batched(|| text.clone(), |t| black_box(plan(&t)), BatchSize::LargeInput));
    }
    group.finish();
}

criterion_group!(pipeline, benches);
criterion_main!(pipeline);
