//! Typical mistakes, as a person sees them.

use crate::world::World;
use slipway_scheduler::pipeline::compile::Request;
use slipway_scheduler::pipeline::lint::{Report, lint, syntax};

fn report(world: &World, text: &str) -> Report {
    let request = Request {
        file: ".gitlab-ci.yml",
        text,
        predefined: &world.predefined,
        variables: &world.variables,
        event: &world.event,
        inputs: &[],
    };
    lint(&request, world)
}

#[track_caller]
fn refused(text: &str) -> String {
    let report = report(&World::push("main"), text);
    assert!(!report.valid, "it should be refused");
    report.text().to_string()
}

#[test]
fn tab_as_indentation() {
    insta::assert_snapshot!(refused("test:\n\tscript: make\n"));
}

#[test]
fn unknown_keyword() {
    insta::assert_snapshot!(refused(
        "test:\n  scirpt: make\n  script: make\n  befor_script: [x]\n  expire_in: 1 day\n"
    ));
}

#[test]
fn missing_script() {
    insta::assert_snapshot!(refused(
        "stages: [test]\n\ntest:\n  stage: test\n  scipt:\n    - make\n\nvariabels:\n  A: b\n"
    ));
}

#[test]
fn need_of_a_later_stage_and_of_a_job_that_does_not_exist() {
    insta::assert_snapshot!(refused(
        "build:\n  stage: build\n  script: make\n  needs: [test, biuld2]\ntest:\n  script: make test\nbuild2:\n  stage: build\n  script: x\n"
    ));
}

#[test]
fn circle_of_needs() {
    insta::assert_snapshot!(refused(
        "a: {script: x, needs: [c]}\nb:\n  script: x\n  needs: [a]\nc:\n  script: x\n  needs: [b]\n"
    ));
}

#[test]
fn bad_duration() {
    insta::assert_snapshot!(refused(
        "test:\n  script: make\n  timeout: 90\n  artifacts:\n    paths: [out]\n    expire_in: 7 elephants\n"
    ));
}

#[test]
fn wrong_type() {
    insta::assert_snapshot!(refused(
        "test:\n  script:\n    - echo \"Status: ok\"\n    - echo Status: ok\n  tags: docker\n  retry: \"2\"\n  image: [a, b]\n"
    ));
}

#[test]
fn undefined_extends() {
    insta::assert_snapshot!(refused(
        ".docker_job:\n  tags: [docker]\n\ntest:\n  extends: .docker-job\n  script: make\n"
    ));
}

#[test]
fn invalid_regex() {
    insta::assert_snapshot!(refused(
        "test:\n  script: make\n  rules:\n    - if: $CI_COMMIT_TAG =~ /^v(\\d+/\n    - if: $CI_COMMIT_BRANCH = \"main\"\n"
    ));
}

#[test]
fn duplicate_key_is_a_warning_and_the_last_is_taken() {
    let report = report(&World::push("main"), "test:\n  script: make\n  image: a\n  script: make test\n");
    assert!(report.valid);
    insta::assert_snapshot!(report.text());
}

#[test]
fn include_that_does_not_exist() {
    let world = World::push("main").file("ci/build.yml", "b: {script: x}\n");
    let report = report(&world, "include:\n  - local: /ci/biuld.yml\n\ntest: {script: x}\n");
    assert!(!report.valid);
    insta::assert_snapshot!(report.text());
}

#[test]
fn mistake_in_an_included_file_is_shown_there() {
    let world = World::push("main").file("ci/build.yml", "build:\n  stage: bulid\n  script: x\n");
    let report = report(&world, "include: ci/build.yml\n");
    assert!(!report.valid);
    insta::assert_snapshot!(report.text());
}

#[test]
fn plan_says_why_each_job_is_in_or_out() {
    let text = "stages: [build, test, deploy]\nbuild: {stage: build, script: make, parallel: {matrix: [{ARCH: [amd64, arm64]}]}}\n\
                test:\n  script: make test\n  needs: ['build: [amd64]']\n\
                lint: {script: make lint, needs: []}\n\
                deploy:\n  stage: deploy\n  script: make deploy\n  rules:\n  - if: $CI_COMMIT_TAG\n  - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH\n    when: manual\n\
                nightly: {script: x, only: [schedules]}\n\
                docs: {script: x, rules: [{changes: [docs/**/*]}]}\n";
    let report = report(&World::push("main"), text);
    assert!(report.valid, "{}", report.text());
    insta::assert_snapshot!(report.text());
}

#[test]
fn syntax_alone_takes_what_only_a_server_could_resolve() {
    let text = "include: {project: a/b, file: x.yml}\ntest:\n  extends: .from-elsewhere\n  script: !reference [.from-elsewhere, script]\n";
    assert!(syntax(".gitlab-ci.yml", text).valid);
    assert!(!syntax(".gitlab-ci.yml", "test:\n  script: x\n  tags: a\n").valid);
}
