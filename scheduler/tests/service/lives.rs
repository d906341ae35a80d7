//! One job's life when things break.

use crate::support::{Node, Repo, Site, failed, hello, job, soon, status};
use slipway_scheduler::config::Config;
use slipway_scheduler::deployments::first_broken;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::view::Status;
use slipway_wire::v1;
use std::time::Duration;
use tonic::Code;

const TWO_STAGES: &str = "
stages: [build, deploy]
build_image:
  stage: build
  image: docker:stable
  script: [docker build .]
deploy:
  stage: deploy
  image: alpine
  script: [helm upgrade]
  environment: {name: production, url: https://example.org}
";

fn short_leases() -> Config {
    // Long enough for a machine that is busy, short enough to wait for.
    Config { lease_ttl: Duration::from_secs(3), ..Config::default() }
}

#[tokio::test]
async fn pipeline_runs_from_submit_to_deployment() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(Config::default()).await;
    let pipeline = site.submit(&repo).await;
    assert_eq!(status(&pipeline, "build_image"), Status::Pending);
    assert_eq!(status(&pipeline, "deploy"), Status::Created);
    let id = pipeline.id.0;
    let mut node = Node::connect(&site, "n1", 2).await;

    let build = node.take().await;
    assert_eq!(build.spec.name, "build_image");
    assert_eq!(build.spec.variable("CI_COMMIT_BRANCH"), Some("main"));
    assert_eq!(build.spec.variable("CI_JOB_ID"), Some(build.spec.id.to_string().as_str()));
    assert_eq!(build.spec.source.sha, pipeline.sha);
    node.started(&build).await;
    let (follower, reader) = (site.log(build.spec.id, true), async {
        assert_eq!(node.trace(&build, 0, b"Step 1/2\n").await.unwrap(), 9);
        assert_eq!(node.trace(&build, 9, b"Step 2/2\n").await.unwrap(), 18);
        let early = v1::FinishRequest { trace_bytes: 19, ..v1::FinishRequest::default() };
        let refused = node.finish_as(&build, Outcome::Success, early).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        let whole = v1::FinishRequest { trace_bytes: 18, ..v1::FinishRequest::default() };
        node.finish_as(&build, Outcome::Success, whole).await.unwrap();
        // Said again, it is still the same end.
        node.finish(&build, Outcome::Success).await.unwrap();
    });
    let (log, ()) = soon("a followed log and a finished job", async { tokio::join!(follower, reader) }).await;
    assert_eq!(log, b"Step 1/2\nStep 2/2\n");

    node.pass().await;
    let over = site.until_over(id).await;
    assert_eq!(over.status, Status::Success);
    assert_eq!(job(&over, "deploy").node.as_deref(), Some("n1"));
    let record = site.deployments().await;
    assert_eq!(record.len(), 1);
    assert_eq!((record[0].environment.as_str(), record[0].outcome.as_str()), ("production", "success"));
    assert_eq!(first_broken(&record), None);
    let me = nix::unistd::User::from_uid(nix::unistd::Uid::current()).unwrap().unwrap().name;
    assert_eq!(over.submitted_by, me);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn lease_that_ends_before_the_script_goes_to_another_node_and_the_old_fence_is_refused() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(short_leases()).await;
    let id = site.submit(&repo).await.id.0;
    let mut silent = Node::connect(&site, "silent", 1).await;
    let first = silent.take().await;
    assert_eq!(silent.trace(&first, 0, b"preparing\n").await.unwrap(), 10);
    // It renews nothing; when its lease is over, it is offered again, also to another node.
    let mut other = Node::connect(&site, "other", 1).await;
    silent.report(vec![], 0).await;
    let second = other.take().await;
    assert_eq!(second.spec.id, first.spec.id);
    assert!(second.fence > first.fence);
    let stale = silent.trace(&first, 10, b"late\n").await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");
    let stale = silent.upload(&first, v1::UploadHeader::default(), b"late").await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");
    let stale = silent.finish(&first, Outcome::Success).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");
    silent.started(&first).await;
    assert_eq!(silent.cancel().await.how, "lease_lost");
    other.started(&second).await;
    other.trace(&second, 0, b"again\n").await.unwrap();
    other.finish(&second, Outcome::Success).await.unwrap();
    let now = site.until(id, "the first job's end", |p| status(p, "build_image") == Status::Success).await;
    assert_eq!(job(&now, "build_image").node.as_deref(), Some("other"));
    assert_eq!(site.log(first.spec.id, false).await, b"again\n");
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn lease_that_ends_after_the_script_started_fails_the_job_and_never_runs_it_again() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(short_leases()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 1).await;
    let build = node.take().await;
    node.started(&build).await;
    let over = site.until_over(id).await;
    assert_eq!(over.status, Status::Failed);
    assert_eq!(job(&over, "build_image").failure_reason, Some(FailureReason::RunnerSystemFailure));
    assert_eq!(status(&over, "deploy"), Status::Skipped);
    let late = node.finish(&build, Outcome::Success).await;
    assert!(late.is_ok(), "an end under the last fence changes nothing and is no error: {late:?}");
    assert_eq!(site.pipeline(id).await.status, Status::Failed);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn lease_that_is_renewed_outlives_its_first_term() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(short_leases()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 1).await;
    let build = node.take().await;
    node.started(&build).await;
    let begun = std::time::Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while begun.elapsed() < Duration::from_millis(4500) {
        pace.tick().await;
        node.report(vec![build.lease(true)], 0).await;
        match node.next().await {
            v1::to_runner::Message::Renewed(renewed) => assert_eq!(renewed.leases.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    node.finish(&build, Outcome::Success).await.unwrap();
    site.until(id, "success", |p| status(p, "build_image") == Status::Success).await;
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn scheduler_that_comes_back_goes_on_without_a_gap() {
    let repo = Repo::with(TWO_STAGES);
    let (site, folder) = Site::start(Config::default()).await;
    let id = site.submit_by_hand(&repo).await.id.0;
    let waiting = site.submit_by_hand(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 1).await;
    let build = node.take().await;
    node.started(&build).await;
    node.trace(&build, 0, b"before ").await.unwrap();
    site.until(id, "a started job", |p| job(p, "build_image").started_at.is_some()).await;
    site.scheduler.shutdown().await;
    drop((site, node));

    let site = Site::in_folder(Config::default(), folder.path()).await;
    assert_eq!(status(&site.pipeline(id).await, "build_image"), Status::Running);
    let mut node = Node::connect_as(&site, hello("n1", 1, vec![build.lease(true)])).await;
    assert_eq!(node.trace(&build, 0, b"before ").await.unwrap(), 7);
    assert_eq!(node.trace(&build, 7, b"after").await.unwrap(), 12);
    node.finish(&build, Outcome::Success).await.unwrap();
    assert_eq!(site.log(build.spec.id, false).await, b"before after");
    node.report(vec![], 1).await;
    let mut names = vec![];
    for _ in 0..3 {
        names.push(node.pass().await.spec.name);
        node.report(vec![], 1).await;
    }
    names.sort();
    assert_eq!(names, ["build_image", "deploy", "deploy"]);
    assert_eq!(site.until_over(id).await.status, Status::Success);
    assert_eq!(site.until_over(waiting).await.status, Status::Success);
    let more = site.submit(&repo).await;
    assert!(more.id.0 > waiting && more.iid == 3, "{more:#?}");
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn offer_that_the_node_does_not_know_of_is_made_again_when_it_comes_back() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(Config::default()).await;
    site.submit(&repo).await;
    let mut node = Node::connect(&site, "n1", 1).await;
    let lost = node.offer().await;
    drop(node);
    let mut node = Node::connect(&site, "n1", 1).await;
    let again = node.offer().await;
    assert_eq!((again.spec.id, again.fence), (lost.spec.id, lost.fence.next()));
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn declined_offer_goes_back_to_the_line() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(Config::default()).await;
    site.submit(&repo).await;
    let mut node = Node::connect(&site, "n1", 1).await;
    let offered = node.offer().await;
    let no = v1::OfferReply { job: offered.spec.id.0, fence: offered.fence.0, refused: "the disk is full".into() };
    node.say(v1::from_runner::Message::OfferReply(no)).await;
    let text = soon("the refusal in explain", async {
        loop {
            let text = site.control().explain(v1::IdRequest { id: offered.spec.id.0 }).await.unwrap().into_inner().text;
            if text.contains("waits for a node") {
                return text;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(text.contains("n1"), "{text}");
    // It rests until its next report.
    node.report(vec![], 1).await;
    assert_eq!(node.offer().await.fence, offered.fence.next());
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn newer_session_of_a_node_ends_the_older_one() {
    let (site, _folder) = Site::start(Config::default()).await;
    let mut older = Node::connect(&site, "n1", 1).await;
    let _newer = Node::connect(&site, "n1", 1).await;
    assert_eq!(older.try_next().await.unwrap_err().code(), Code::Aborted);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn session_without_hello_or_of_a_far_version_is_refused() {
    let (site, _folder) = Site::start(Config::default()).await;
    let report = v1::FromRunner { message: Some(v1::from_runner::Message::Report(v1::NodeReport::default())) };
    let refused = site.runner().session(tokio_stream::iter([report])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut far = hello("n1", 1, vec![]);
    far.hello = Some(v1::Hello { protocol: slipway_wire::PROTOCOL + 2, build: "far".into(), features: vec![] });
    let far = v1::FromRunner { message: Some(v1::from_runner::Message::Hello(far)) };
    let refused = site.runner().session(tokio_stream::iter([far])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("far"), "{refused}");
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn cancel_reaches_the_node_and_counts_whatever_the_script_says() {
    let repo = Repo::with(TWO_STAGES);
    let (site, _folder) = Site::start(Config::default()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 1).await;
    let build = node.take().await;
    node.started(&build).await;
    site.until(id, "a started job", |p| job(p, "build_image").started_at.is_some()).await;
    let target = Some(v1::cancel_request::Target::Pipeline(id));
    site.control().cancel(v1::CancelRequest { target, force: false }).await.unwrap();
    let cancel = node.cancel().await;
    assert_eq!((cancel.job, cancel.how.as_str()), (build.spec.id.0, "canceling"));
    node.finish(&build, Outcome::Success).await.unwrap();
    let over = site.until_over(id).await;
    assert_eq!(over.status, Status::Canceled);
    assert_eq!(status(&over, "deploy"), Status::Canceled);
    let target = Some(v1::cancel_request::Target::Pipeline(id));
    let again = site.control().cancel(v1::CancelRequest { target, force: false }).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn failed_job_is_tried_again_as_its_retry_says_and_by_a_person() {
    let repo = Repo::with(
        "
test:
  image: alpine
  script: [exit 3]
  retry: {max: 1, when: script_failure}
after:
  stage: deploy
  image: alpine
  script: [echo]
",
    );
    let (site, _folder) = Site::start(Config::default()).await;
    let id = site.submit(&repo).await.id.0;
    let mut node = Node::connect(&site, "n1", 4).await;
    let first = node.run(failed(3)).await;
    let second = node.run(failed(3)).await;
    assert_ne!(first.spec.id, second.spec.id);
    let over = site.until_over(id).await;
    assert_eq!((over.status, status(&over, "after")), (Status::Failed, Status::Skipped));
    assert_eq!(over.jobs.iter().filter(|j| j.name == "test").count(), 2);
    assert_eq!(job(&over, "test").exit_code, Some(3));
    let target = Some(v1::target_request::Target::Job(second.spec.id.0));
    site.control().retry(v1::TargetRequest { target }).await.unwrap();
    assert_eq!(node.pass().await.spec.name, "test");
    assert_eq!(node.pass().await.spec.name, "after");
    assert_eq!(site.until_over(id).await.status, Status::Success);
    let target = Some(v1::target_request::Target::Job(first.spec.id.0));
    assert_eq!(site.control().retry(v1::TargetRequest { target }).await.unwrap_err().code(), Code::FailedPrecondition);
    site.scheduler.shutdown().await;
}
