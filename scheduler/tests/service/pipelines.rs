//! Pipelines as GitLab runs them.

use crate::support::{Node, Repo, Site, failed, job, soon, status};
use slipway_scheduler::config::Config;
use slipway_spec::outcome::Outcome;
use slipway_spec::view::Status;
use slipway_wire::document::encode;
use slipway_wire::v1;
use tonic::Code;

#[tokio::test]
async fn wrong_configuration_is_answered_with_its_place() {
    let repo = Repo::with("build:\n  image: alpine\n  scrpt: [echo]\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let request = v1::SubmitRequest { repository: repo.path(), ..v1::SubmitRequest::default() };
    let refused = site.control().submit(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(".gitlab-ci.yml:"), "{refused}");
    let nowhere = v1::SubmitRequest { repository: "/nowhere/at/all".into(), ..v1::SubmitRequest::default() };
    assert_eq!(site.control().submit(nowhere).await.unwrap_err().code(), Code::InvalidArgument);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn same_request_id_makes_one_pipeline() {
    let repo = Repo::with("a: {image: alpine, script: [echo]}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let request = v1::SubmitRequest { repository: repo.path(), request_id: "r1".into(), ..Default::default() };
    let (mut one, mut two) = (site.control(), site.control());
    let (one, two) = tokio::join!(one.submit(request.clone()), two.submit(request.clone()));
    let third = site.control().submit(request).await.unwrap().into_inner();
    assert_eq!(one.unwrap().into_inner().pipeline_json, third.pipeline_json);
    assert_eq!(two.unwrap().into_inner().pipeline_json, third.pipeline_json);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn artifacts_and_dotenv_reach_the_jobs_that_depend_on_them_and_no_others() {
    let repo = Repo::with(
        "
stages: [build, test]
build:
  stage: build
  image: alpine
  script: [make]
  artifacts: {paths: [out], reports: {dotenv: build.env}}
test:
  stage: test
  image: alpine
  script: [echo $VERSION]
lonely:
  stage: test
  image: alpine
  needs: []
  script: [echo]
",
    );
    let (site, _folder) = Site::start(Config::default()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 4).await;
    let (mut build, mut lonely) = (node.take().await, node.take().await);
    if build.spec.name != "build" {
        std::mem::swap(&mut build, &mut lonely);
    }
    let archive: Vec<u8> = (0..500_000_u32).map(|n| n as u8).collect();
    let header = |name: &str| v1::UploadHeader {
        kind: "archive".into(),
        format: "zip".into(),
        name: name.into(),
        expire_in: "1 week".into(),
        ..v1::UploadHeader::default()
    };
    node.upload(&build, header("artifacts.zip"), b"a first try").await.unwrap();
    node.upload(&build, header("artifacts.zip"), &archive).await.unwrap();
    let dotenv = vec![("VERSION".to_owned(), "1.2.3".to_owned())];
    let end = v1::FinishRequest { dotenv_json: encode(&dotenv), ..v1::FinishRequest::default() };
    node.finish_as(&build, Outcome::Success, end).await.unwrap();
    assert_eq!(node.download(&lonely, build.spec.id).await.unwrap_err().code(), Code::PermissionDenied);
    node.finish(&lonely, Outcome::Success).await.unwrap();
    let test = node.take().await;
    assert_eq!(test.spec.variable("VERSION"), Some("1.2.3"));
    assert_eq!(test.spec.dependencies.len(), 1);
    assert_eq!(node.download(&test, build.spec.id).await.unwrap(), archive);
    node.finish(&test, Outcome::Success).await.unwrap();
    assert_eq!(node.download(&test, build.spec.id).await.unwrap_err().code(), Code::FailedPrecondition);
    let over = site.until_over(id).await;
    let kept = &job(&over, "build").artifacts;
    assert_eq!((kept.len(), kept[0].bytes), (1, 500_000));
    assert!(kept[0].expires_at.is_some());
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn manual_job_waits_for_a_person_who_is_on_record() {
    let repo = Repo::with(
        "
stages: [build, deploy]
build: {stage: build, image: alpine, script: [make]}
deploy:
  stage: deploy
  image: alpine
  script: [echo]
  when: manual
  environment: production
",
    );
    let (site, _folder) = Site::start(Config::default()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 4).await;
    node.pass().await;
    let over = site.until_over(id).await;
    assert_eq!((over.status, status(&over, "deploy")), (Status::Success, Status::Manual));
    let play = v1::PlayRequest {
        job: job(&over, "deploy").id.0,
        variables: vec![v1::KeyValue { key: "HOW".into(), value: "by hand".into() }],
    };
    site.control().play(play.clone()).await.unwrap();
    let deploy = node.take().await;
    assert_eq!(deploy.spec.variable("HOW"), Some("by hand"));
    assert_eq!(deploy.spec.variable("CI_JOB_MANUAL"), Some("true"));
    assert_eq!(site.control().play(play).await.unwrap_err().code(), Code::FailedPrecondition);
    node.started(&deploy).await;
    node.finish(&deploy, Outcome::Success).await.unwrap();
    let over = site.until(id, "the deployment", |p| status(p, "deploy") == Status::Success).await;
    assert_eq!(over.status, Status::Success);
    assert_eq!(site.deployments().await.len(), 1);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn jobs_of_a_resource_group_run_one_at_a_time_across_pipelines() {
    let repo = Repo::with("deploy: {image: alpine, script: [echo], resource_group: production}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let (first, second) = (site.submit_by_hand(&repo).await.id.0, site.submit_by_hand(&repo).await.id.0);
    assert_eq!(status(&site.pipeline(second).await, "deploy"), Status::WaitingForResource);
    let mut node = Node::connect(&site, "n1", 4).await;
    let one = node.take().await;
    assert_eq!(one.spec.pipeline.0, first);
    assert_eq!(status(&site.pipeline(second).await, "deploy"), Status::WaitingForResource);
    node.finish(&one, Outcome::Success).await.unwrap();
    assert_eq!(node.pass().await.spec.pipeline.0, second);
    assert_eq!(site.until_over(second).await.status, Status::Success);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn newer_pipeline_ends_an_older_one_whose_jobs_may_be_interrupted() {
    let repo = Repo::with(
        "
default: {interruptible: true, image: alpine}
build: {stage: build, script: [make]}
test: {stage: test, script: [make test]}
",
    );
    let (site, _folder) = Site::start(Config::default()).await;
    let mut node = Node::connect(&site, "n1", 1).await;
    let older = site.submit(&repo).await.id.0;
    let build = node.take().await;
    repo.commit(&[("more", "x")]);
    let newer = site.submit(&repo).await.id.0;
    assert_eq!(node.cancel().await.how, "canceling");
    node.finish(&build, Outcome::Canceled).await.unwrap();
    assert_eq!(site.until_over(older).await.status, Status::Canceled);
    assert_eq!(node.take().await.spec.pipeline.0, newer);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn trigger_job_ends_as_its_child_pipeline_does() {
    let repo = Repo::with(
        "
child:
  trigger: {include: child.yml, strategy: depend}
  variables: {FROM: parent of $CI_COMMIT_BRANCH}
after: {stage: deploy, image: alpine, script: [echo]}
",
    );
    repo.commit(&[("child.yml", "inner: {image: alpine, script: [echo $FROM]}\n")]);
    let (site, _folder) = Site::start(Config::default()).await;
    let parent = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 4).await;
    let inner = node.take().await;
    assert_eq!(inner.spec.variable("FROM"), Some("parent of main"));
    assert_eq!(inner.spec.variable("CI_PIPELINE_SOURCE"), Some("parent_pipeline"));
    let child = site.pipeline(inner.spec.pipeline.0).await;
    assert_eq!(child.parent.map(|p| p.0), Some(parent));
    assert_eq!(status(&site.pipeline(parent).await, "child"), Status::Running);
    node.finish(&inner, failed(1)).await.unwrap();
    let over = site.until_over(parent).await;
    assert_eq!((status(&over, "child"), status(&over, "after")), (Status::Failed, Status::Skipped));
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn trigger_job_whose_configuration_is_missing_fails_and_says_why() {
    let repo = Repo::with("child: {trigger: {include: nowhere.yml}}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let id = site.submit(&repo).await.id.0;
    let over = site.until_over(id).await;
    assert_eq!(status(&over, "child"), Status::Failed);
    assert!(job(&over, "child").message.contains("nowhere.yml"), "{over:#?}");
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn only_named_jobs_run() {
    let repo = Repo::with("a: {image: alpine, script: [echo]}\nb: {image: alpine, script: [echo]}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let request = v1::SubmitRequest { repository: repo.path(), jobs: vec!["b".into()], ..Default::default() };
    let pipeline = site.submit_as(request).await;
    assert_eq!(pipeline.jobs.len(), 1);
    let request = v1::SubmitRequest { repository: repo.path(), jobs: vec!["c".into()], ..Default::default() };
    assert!(site.control().submit(request).await.unwrap_err().message().contains("\"c\""));
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn delayed_job_starts_by_itself() {
    let repo = Repo::with("later: {image: alpine, script: [echo], when: delayed, start_in: 1 second}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let pipeline = site.submit(&repo).await;
    assert_eq!(status(&pipeline, "later"), Status::Scheduled);
    let mut node = Node::connect(&site, "n1", 4).await;
    assert_eq!(node.pass().await.spec.name, "later");
    site.scheduler.shutdown().await;
}

fn project(repo: &Repo, more: &str) -> Config {
    let text = format!("[[project]]\npath = \"team/app\"\nrepository = {:?}\n{more}", repo.path());
    Config::parse(&text, "test.toml").unwrap()
}

#[tokio::test]
async fn secrets_reach_protected_refs_only() {
    let repo = Repo::with("a: {image: alpine, script: [echo]}\n");
    let config =
        project(&repo, "[project.variables]\nTOKEN = { value = \"s3cret\", masked = true, protected = true }\n");
    let (site, _folder) = Site::start(config).await;
    let mut node = Node::connect(&site, "n1", 4).await;
    site.submit_as(v1::SubmitRequest { repository: "team/app".into(), ..Default::default() }).await;
    let clean = node.take().await;
    assert_eq!(clean.spec.variable("TOKEN"), Some("s3cret"));
    assert_eq!(clean.spec.project_path, "team/app");
    site.submit_as(v1::SubmitRequest { repository: repo.path(), dirty: true, ..Default::default() }).await;
    let dirty = node.take().await;
    assert_eq!(dirty.spec.variable("TOKEN"), None);
    assert_eq!(dirty.spec.project, clean.spec.project);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn push_told_by_a_hook_makes_a_pipeline() {
    let repo = Repo::with("a: {image: alpine, script: [echo]}\n");
    let (site, _folder) = Site::start(project(&repo, "")).await;
    let new_sha = repo.commit(&[("more", "x")]);
    let pushed =
        v1::PushedRef { old_sha: "0".repeat(40), new_sha: new_sha.clone(), ref_name: "refs/heads/main".into() };
    let request = v1::PushedRequest { repository: repo.path(), refs: vec![pushed] };
    let mut made = site.control().pushed(request).await.unwrap().into_inner();
    let document = soon("a pipeline", made.message()).await.unwrap().unwrap();
    let pipeline: slipway_spec::view::PipelineView = slipway_wire::document::decode(&document.json).unwrap();
    assert_eq!((pipeline.sha, pipeline.source.as_str()), (new_sha, "push"));
    assert!(pipeline.submitted_by.starts_with("hook of"), "{}", pipeline.submitted_by);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn drift_is_recorded_and_the_last_good_deployment_runs_again() {
    let repo = Repo::with(
        "
stages: [build, deploy]
build:
  stage: build
  image: alpine
  script: [make]
  artifacts: {paths: [out]}
  rules: [{if: $CI_PIPELINE_SOURCE == 'push'}]
deploy:
  stage: deploy
  image: alpine
  script: [deploy]
  environment: production
  rules: [{if: $CI_PIPELINE_SOURCE == 'push'}]
check:
  stage: deploy
  image: alpine
  script: [compare]
  environment: {name: production, action: verify}
  rules: [{if: $CI_PIPELINE_SOURCE == 'schedule'}]
",
    );
    let (site, _folder) = Site::start(project(&repo, "on_drift = \"redeploy\"\n")).await;
    let mut node = Node::connect(&site, "n1", 4).await;
    let asked =
        |source: &str| v1::SubmitRequest { repository: "team/app".into(), source: source.into(), ..Default::default() };
    let good = site.submit_as(asked("push")).await;
    let build = node.take().await;
    let header = v1::UploadHeader { kind: "archive".into(), name: "artifacts.zip".into(), ..Default::default() };
    node.upload(&build, header, b"what is deployed").await.unwrap();
    node.finish(&build, Outcome::Success).await.unwrap();
    node.pass().await;
    site.until_over(good.id.0).await;
    repo.commit(&[("later", "not deployed yet")]);
    site.submit_as(asked("schedule")).await;
    node.run(failed(1)).await;
    let again = node.take().await;
    assert_eq!((again.spec.name.as_str(), again.spec.source.sha.as_str()), ("deploy", good.sha.as_str()));
    assert_eq!(node.download(&again, build.spec.id).await.unwrap(), b"what is deployed");
    node.started(&again).await;
    node.finish(&again, Outcome::Success).await.unwrap();
    site.until_over(again.spec.pipeline.0).await;
    let record = site.deployments().await;
    let seen: Vec<_> = record.iter().map(|d| (d.kind.as_str(), d.outcome.as_str())).collect();
    assert_eq!(seen, [("deploy", "success"), ("verify", "drifted"), ("redeploy", "success")]);
    assert_eq!(slipway_scheduler::deployments::first_broken(&record), None);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn job_goes_to_the_node_with_its_tags_and_explain_says_why_it_waits() {
    let repo = Repo::with("a: {image: alpine, script: [echo], tags: [gpu]}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    let plain = Node::connect(&site, "plain", 4).await;
    let pipeline = site.submit(&repo).await;
    let id = job(&pipeline, "a").id.0;
    let text = site.control().explain(v1::IdRequest { id }).await.unwrap().into_inner().text;
    assert!(text.contains("plain lacks the tag gpu"), "{text}");
    let mut hello = crate::support::hello("special", 1, vec![]);
    hello.tags = vec!["gpu".into()];
    let mut special = Node::connect_as(&site, hello).await;
    special.pass().await;
    let over = site.until_over(pipeline.id.0).await;
    assert_eq!(job(&over, "a").node.as_deref(), Some("special"));
    drop(plain);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn one_projects_many_jobs_do_not_delay_anothers_first() {
    let many = Repo::with("a: {image: alpine, script: [echo], parallel: 100}\n");
    let one = Repo::with("b: {image: alpine, script: [echo]}\n");
    let (site, _folder) = Site::start(Config::default()).await;
    site.submit(&many).await;
    let mut node = Node::connect(&site, "n1", 1).await;
    let first = node.take().await;
    site.submit(&one).await;
    node.finish(&first, Outcome::Success).await.unwrap();
    let next = [node.pass().await.spec.name, node.pass().await.spec.name];
    assert!(next.contains(&"b".to_owned()), "{next:?}");
    site.scheduler.shutdown().await;
}
