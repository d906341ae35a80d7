//! What a configuration becomes for an event.

use crate::world::{World, job};
use slipway_scheduler::pipeline::plan::{AllowFailure, JobWhen};
use slipway_spec::job::{EnvironmentAction, When};

const ARTICLE: &str = r#"
stages:
  - build
  - deploy

variables:
  DOCKER_DRIVER: overlay2

build_image:
  stage: build
  image: docker:stable
  services:
    - docker:dind
  script:
    - docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY
    - docker build -t $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA .
    - docker push $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA

deploy_production:
  stage: deploy
  image: lwolf/helm-kubectl-docker:v1.11.1-v2.10.0
  script:
    - mkdir -p /root/.kube
    - echo "$KUBE_CONFIG" | base64 -d > /root/.kube/config
    - helm upgrade --install my-app ./charts/my-app
      --set image.tag=$CI_COMMIT_SHA
      --namespace production
      --wait
  only:
    - master
  environment:
    name: production
    url: https://api.coolvds-client.no
"#;

#[test]
fn article_on_master_builds_and_deploys() {
    let compiled = World::push("master").plan(ARTICLE);
    assert_eq!(compiled.plan.stages, ["build", "deploy"]);
    assert_eq!(compiled.no_pipeline, None);
    assert!(compiled.warnings.is_empty(), "{}", compiled.warnings);
    let build = job(&compiled, "build_image");
    assert_eq!(build.image.as_ref().map(|i| i.name.as_str()), Some("docker:stable"));
    assert_eq!(build.services[0].image.name, "docker:dind");
    assert_eq!(build.steps[0].script.len(), 3);
    assert!(build.variables.iter().any(|v| v.key == "DOCKER_DRIVER" && v.value == "overlay2"));
    let deploy = job(&compiled, "deploy_production");
    assert_eq!(deploy.environment.as_ref().map(|e| e.name.as_str()), Some("production"));
    assert!(deploy.steps[0].script[2].ends_with("--namespace production --wait"));
    assert_eq!(deploy.needs, None);
    assert!(deploy.why.contains("master"), "{}", deploy.why);
}

#[test]
fn article_on_a_branch_leaves_the_deployment_out() {
    let compiled = World::push("feature").plan(ARTICLE);
    assert_eq!(compiled.plan.stages, ["build"]);
    assert_eq!(compiled.plan.excluded[0].name, "deploy_production");
    assert!(compiled.plan.excluded[0].why.contains("master"), "{:?}", compiled.plan.excluded);
}

#[test]
fn defaults_are_taken_whole_or_not_at_all() {
    let compiled = World::push("main").plan(
        "default:\n  image: base\n  before_script: [before]\n  after_script: [after]\n  tags: [a]\n  retry: 2\n  timeout: 1h 30m\n\
         one: {script: x}\n\
         two: {script: x, image: own, before_script: [], tags: [b], inherit: {default: [image, retry]}}\n\
         three: {script: x, image: null, inherit: {default: false}}\n",
    );
    let one = job(&compiled, "one");
    assert_eq!(one.steps[0].script, ["before", "x"]);
    assert_eq!((one.steps[1].name.as_str(), one.steps[1].when), ("after_script", When::Always));
    assert_eq!(
        (one.tags.as_slice(), one.retry.max, one.timeout_seconds),
        (["a".to_string()].as_slice(), 2, Some(5400))
    );
    let two = job(&compiled, "two");
    assert_eq!(two.image.as_ref().map(|i| i.name.as_str()), Some("own"));
    assert_eq!((two.steps.len(), two.retry.max, two.timeout_seconds), (1, 2, None));
    assert_eq!(job(&compiled, "three").image, None);
}

#[test]
fn extends_merges_mappings_and_replaces_lists() {
    let compiled = World::push("main").plan(
        ".a: {script: [a], variables: {X: 1, Y: 1}, tags: [t], image: i}\n\
         .b: {extends: .a, variables: {Y: 2}, script: [b]}\n\
         j: {extends: [.b], variables: {Z: 3}, image: null}\n",
    );
    let j = job(&compiled, "j");
    let variables: Vec<String> =
        j.variables.iter().filter(|v| !v.key.starts_with("CI_")).map(|v| format!("{}={}", v.key, v.value)).collect();
    assert_eq!(variables, ["X=1", "Y=2", "Z=3"]);
    assert_eq!(j.steps[0].script, ["b"]);
    assert_eq!(j.image, None);
}

#[test]
fn references_may_hold_references_and_flatten() {
    let compiled = World::push("main").plan(
        ".a: {script: [a, b]}\n.c: {script: [!reference [.a, script], c], variables: {V: v}}\n\
         j:\n  script: [!reference [.c, script], d]\n  variables: {W: !reference [.c, variables, V]}\n",
    );
    let j = job(&compiled, "j");
    assert_eq!(j.steps[0].script, ["a", "b", "c", "d"]);
    assert!(j.variables.iter().any(|v| v.key == "W" && v.value == "v"));
}

#[test]
fn variables_of_project_and_pipeline_beat_the_configuration() {
    let text = "variables: {A: root, B: root}\nj:\n  script: x\n  variables: {B: job, CI_COMMIT_BRANCH: own}\n  rules:\n  \
                - if: $A == \"root\" && $B == \"job\" && $CI_COMMIT_BRANCH == \"own\"\n    variables: {C: $B-rule}\n";
    let compiled = World::push("main").plan(text);
    assert!(job(&compiled, "j").variables.iter().any(|v| v.key == "C" && v.value == "$B-rule"));
    let compiled = World::push("main").variable("B", "given").plan(text);
    assert_eq!(compiled.plan.excluded.len(), 1);
    assert!(compiled.no_pipeline.is_some());
}

#[test]
fn parallel_and_matrix_make_jobs_and_needs_follow() {
    let compiled = World::push("main").plan(
        "b: {stage: build, script: x, parallel: {matrix: [{P: [aws, gcp], S: [a]}, {P: k, S: [c]}]}, tags: [$P]}\n\
         n: {stage: build, script: x, parallel: 2}\n\
         t: {script: x, needs: [b, {job: 'n 1/2', artifacts: false}]}\n",
    );
    let names: Vec<&str> = compiled.plan.jobs.iter().map(|j| j.name.as_str()).collect();
    assert_eq!(names, ["b: [aws, a]", "b: [gcp, a]", "b: [k, c]", "n 1/2", "n 2/2", "t"]);
    assert_eq!(job(&compiled, "b: [gcp, a]").tags, ["gcp"]);
    let needs: Vec<(String, bool)> =
        job(&compiled, "t").needs.iter().flatten().map(|n| (n.job.clone(), n.artifacts)).collect();
    assert_eq!(needs.len(), 4);
    assert_eq!(needs[3], ("n 1/2".to_string(), false));
    let value =
        |name: &str, key: &str| job(&compiled, name).variables.iter().find(|v| v.key == key).map(|v| v.value.clone());
    assert_eq!(value("n 2/2", "CI_NODE_INDEX").as_deref(), Some("2"));
    assert_eq!(value("t", "CI_NODE_TOTAL").as_deref(), Some("1"));
}

#[test]
fn includes_merge_below_the_file_that_names_them() {
    let world = World::push("main")
        .file("ci/a.yml", "variables: {A: a, B: a}\nj: {script: [a], image: a}\ninclude: b.yml\n")
        .file("b.yml", "variables: {C: b}\nj: {script: [b], tags: [b]}\n")
        .file("ci/skipped.yml", "k: {script: skipped}\n")
        .file("other/project@v1:x.yml", "other: {script: o}\n");
    let compiled = world.plan(
        "include:\n- local: /ci/a.yml\n- local: ci/skipped.yml\n  rules: [{if: $NO}]\n\
         - {project: other/project, ref: v1, file: [/x.yml]}\nvariables: {B: root}\nj: {image: root}\n",
    );
    let names: Vec<&str> = compiled.plan.jobs.iter().map(|j| j.name.as_str()).collect();
    assert_eq!(names, ["j", "other"]);
    let j = job(&compiled, "j");
    assert_eq!(j.steps[0].script, ["a"]);
    assert_eq!(j.tags, ["b"]);
    assert_eq!(j.image.as_ref().map(|i| i.name.as_str()), Some("root"));
    let mut values: Vec<String> =
        j.variables.iter().filter(|v| v.key.len() == 1).map(|v| format!("{}{}", v.key, v.value)).collect();
    values.sort();
    assert_eq!(values, ["Aa", "Broot", "Cb"]);
}

#[test]
fn include_wildcards_match_sorted_paths() {
    let world = World::push("main")
        .file("ci/b.yml", "b: {script: b}\n")
        .file("ci/a.yml", "a: {script: a}\n")
        .file("ci/deep/c.yml", "c: {script: c}\n");
    let names = |text: &str| world.plan(text).plan.jobs.iter().map(|j| j.name.clone()).collect::<Vec<_>>();
    assert_eq!(names("include: ci/*.yml\n"), ["a", "b"]);
    assert_eq!(names("include: ci/**/*.yml\n"), ["a", "b", "c"]);
}

#[test]
fn include_loops_are_named() {
    let world = World::push("main").file("a.yml", "include: b.yml\n").file("b.yml", "include: a.yml\n");
    let errors = world.errors("include: a.yml\nj: {script: x}\n");
    assert!(errors[0].contains("circular include"), "{errors:?}");
}

#[test]
fn inputs_are_filled_in_as_text() {
    let header = "spec:\n  inputs:\n    name: {}\n    count: {type: number, default: 2}\n    list: {type: array, default: \
                  [a, b]}\n    env: {options: [dev, prod], default: dev}\n---\n";
    let body = "\"$[[ inputs.name | truncate(0,3) ]]-job\":\n  script: echo $[[ inputs.env ]] $[[ inputs.name | \
                posix_escape ]]\n  parallel: $[[ inputs.count ]]\n  tags: $[[ inputs.list ]]\n";
    let world = World::push("main").file("t.yml", &format!("{header}{body}"));
    let compiled = world.plan("include: {local: t.yml, inputs: {name: 'ab cd'}}\n");
    let first = job(&compiled, "ab -job 1/2");
    assert_eq!(first.steps[0].script, ["echo dev ab\\ cd"]);
    assert_eq!(first.tags, ["a", "b"]);
    let errors = |inputs: &str| world.errors(&format!("include: {{local: t.yml, inputs: {inputs}}}\n"));
    assert_eq!(errors("{}"), ["`name` input: required value has not been provided"]);
    assert_eq!(errors("{name: a, count: '3'}"), ["`count` input: provided value is not a number"]);
    let text = "`env` input: `x` cannot be used because it is not in the list of allowed options";
    assert_eq!(errors("{name: a, env: x}"), [text]);
    assert_eq!(errors("{name: a, nam: x}"), ["unknown input arguments: nam"]);
}

#[test]
fn workflow_rules_filter_name_and_set_variables() {
    let text = "workflow:\n  name: Build of $KIND\n  auto_cancel: {on_new_commit: interruptible}\n  rules:\n  - if: \
                $CI_COMMIT_BRANCH == \"main\"\n    variables: {KIND: main}\n    auto_cancel: {on_job_failure: all}\n\
                variables: {KIND: other}\nj: {script: x}\n";
    let compiled = World::push("main").plan(text);
    assert_eq!(compiled.plan.name.as_deref(), Some("Build of main"));
    assert!(compiled.plan.auto_cancel.on_job_failure);
    assert_eq!(
        job(&compiled, "j").variables.iter().rev().find(|v| v.key == "KIND").map(|v| v.value.as_str()),
        Some("main")
    );
    let compiled = World::push("dev").plan(text);
    assert!(compiled.no_pipeline.is_some_and(|why| why.starts_with("Pipeline filtered out by workflow rules.")));
}

#[test]
fn when_allow_failure_and_the_rest_are_typed() {
    let compiled = World::push("main").plan(
        "m: {script: x, when: manual}\nd: {script: x, when: delayed, start_in: 30 minutes}\n\
         f: {script: x, allow_failure: {exit_codes: [1, 137]}, retry: {max: 1, when: [script_failure], exit_codes: 7}}\n\
         r: {script: x, rules: [{when: manual}], resource_group: deploy/$CI_COMMIT_BRANCH, interruptible: true}\n\
         e: {script: x, environment: {name: review/$CI_COMMIT_BRANCH, on_stop: s, auto_stop_in: 1 day}, coverage: '/a\\d+/i'}\n\
         s: {script: x, when: manual, environment: {name: review/$CI_COMMIT_BRANCH, action: stop}}\n\
         c: {script: x, cache: [{key: {files: [a], prefix: p}, paths: [q]}, {key: k, policy: pull, paths: [w]}], \
         artifacts: {paths: [o/], expire_in: 1 week, reports: {dotenv: d.env}}}\n\
         h: {script: x, hooks: {pre_get_sources_script: [one, [two]]}, services: [{name: s, alias: 'a, b', command: [c], \
         variables: {V: 1}}], image: {name: i, entrypoint: [''], docker: {user: u}, pull_policy: if-not-present}}\n",
    );
    assert_eq!((job(&compiled, "m").when, &job(&compiled, "m").allow_failure), (JobWhen::Manual, &AllowFailure::Yes));
    assert_eq!(job(&compiled, "d").when, JobWhen::Delayed(1800));
    let f = job(&compiled, "f");
    assert_eq!(f.allow_failure, AllowFailure::ExitCodes(vec![1, 137]));
    assert_eq!(
        (f.retry.max, f.retry.when.as_slice(), f.retry.exit_codes.as_slice()),
        (1, ["script_failure".to_string()].as_slice(), [7].as_slice())
    );
    let r = job(&compiled, "r");
    assert_eq!((r.when, &r.allow_failure, r.interruptible), (JobWhen::Manual, &AllowFailure::No, true));
    assert_eq!(r.resource_group.as_deref(), Some("deploy/main"));
    let e = job(&compiled, "e");
    assert_eq!(e.environment.as_ref().map(|e| e.name.as_str()), Some("review/main"));
    assert_eq!(
        (e.on_stop.as_deref(), e.auto_stop_seconds, e.coverage.as_deref()),
        (Some("s"), Some(86_400), Some("(?i)a\\d+"))
    );
    assert_eq!(job(&compiled, "s").environment.as_ref().map(|e| e.action), Some(EnvironmentAction::Stop));
    let c = job(&compiled, "c");
    assert_eq!(
        (c.caches[0].key_files.as_slice(), c.caches[0].key_prefix.as_deref()),
        (["a".to_string()].as_slice(), Some("p"))
    );
    assert_eq!((c.caches[1].key.as_str(), c.caches[1].policy.as_str()), ("k", "pull"));
    let kinds: Vec<&str> = c.artifacts.iter().map(|a| a.kind.as_str()).collect();
    assert_eq!(kinds, ["archive", "dotenv"]);
    let h = job(&compiled, "h");
    assert_eq!(h.hooks[0].script, ["one", "two"]);
    assert_eq!(h.services[0].aliases, ["a", "b"]);
    assert_eq!(h.image.as_ref().and_then(|i| i.entrypoint.clone()), Some(vec![String::new()]));
}

#[test]
fn child_pipelines_carry_an_include_of_what_was_named() {
    let compiled = World::push("main").plan(
        "g: {stage: build, script: x, artifacts: {paths: [c.yml]}}\n\
         c: {trigger: {include: [{local: /child.yml, inputs: {a: 1}}, https://x.example/y.yml], strategy: depend, forward: \
         {pipeline_variables: true}}, variables: {V: 1}}\n\
         d: {trigger: {include: [{artifact: c.yml, job: g}]}}\n",
    );
    let trigger = job(&compiled, "c").trigger.clone().expect("it triggers");
    assert_eq!(trigger.local_files, ["child.yml"]);
    assert!(trigger.depend && trigger.forward_yaml_variables && trigger.forward_pipeline_variables);
    let text = trigger.configuration.expect("it has one");
    let world = World::push("main")
        .file("child.yml", "spec: {inputs: {a: {type: number}}}\n---\nj: {script: echo $[[ inputs.a ]]}\n")
        .file("https://x.example/y.yml", "k: {script: y}\n");
    let child = world.plan(&text);
    assert_eq!(job(&child, "j").steps[0].script, ["echo 1"]);
    assert_eq!(child.plan.jobs.len(), 2);
    let trigger = job(&compiled, "d").trigger.clone().expect("it triggers");
    assert_eq!(trigger.artifact, Some(("g".to_string(), "c.yml".to_string())));
}

#[test]
fn keywords_that_are_not_acted_upon_are_named_once() {
    let compiled = World::push("main").plan(
        "a: {script: x, id_tokens: {T: {aud: x}}}\nb: {script: x, id_tokens: {T: {aud: x}}, release: {tag_name: v, description: d}}\n",
    );
    let warnings: Vec<&str> = compiled.warnings.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "the keyword `id_tokens` needs a GitLab server and is not acted upon (2 places)",
            "the keyword `release` needs a GitLab server and is not acted upon"
        ]
    );
}

#[test]
fn include_with_another_hash_is_refused() {
    let world = World::push("main").file("https://x.example/a.yml", "j: {script: x}\n");
    let text = |hash: &str| format!("include: {{remote: 'https://x.example/a.yml', integrity: 'sha256-{hash}'}}\n");
    let errors = world.errors(&text("AAAA"));
    assert_eq!(errors, ["https://x.example/a.yml: the file does not match its integrity hash"]);
    let right = world.compile(&text("AAAA")).expect_err("refused").iter().find_map(|d| d.hint.clone()).expect("a hint");
    let hash = right.trim_start_matches("it has sha256-");
    assert_eq!(world.plan(&text(hash)).plan.jobs.len(), 1);
}

#[test]
fn files_are_counted_together() {
    let many = |what: &str, n: usize| format!("[{}]", vec![what; n].join(","));
    let big = format!(".a: &a {}\n.b: &b {}\n.c: {}\n", many("1", 100), many("*a", 100), many("*b", 40));
    let world = World::push("main").file("a.yml", &big).file("b.yml", &big).file("c.yml", &big);
    assert_eq!(world.plan("include: [a.yml, b.yml]\nj: {script: x}\n").plan.jobs.len(), 1);
    let errors = world.errors("include: [a.yml, b.yml, c.yml]\nj: {script: x}\n");
    assert_eq!(errors, ["The parsed YAML is too big"]);
}

#[test]
fn messages_are_short_whatever_the_file_says() {
    let text = format!("j: {{script: x, {}: 1, {}: 2}}\n", "a".repeat(50_000), "b".repeat(50_000));
    let report = World::push("main").compile(&text).expect_err("it is refused").to_string();
    assert!(report.len() < 10_000, "{} bytes", report.len());
}
