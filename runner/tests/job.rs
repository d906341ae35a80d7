//! Jobs on the node's real Docker engine, given by a scripted scheduler over the real session. Numbers in names are the
//! points of section 18 of the contract page.

#[path = "job/fake.rs"]
mod fake;
#[path = "job/lifetime.rs"]
mod lifetime;
#[path = "job/make.rs"]
mod make;

use fake::House;
use make::{job, repository, service, step};
use slipway_spec::job::{ArtifactSpec, CacheSpec, Dependency, When};
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::variable::Variable;

pub(crate) fn failed(outcome: Option<Outcome>) -> (FailureReason, Option<i32>, String) {
    match outcome {
        Some(Outcome::Failed { reason, exit_code, message }) => (reason, exit_code, message),
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_script_runs_and_leaves_nothing() {
    let house = House::open(|_| {}).await;
    let seen = house.run(&job(1, &["echo one", "A=two", "echo $A"])).await;
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{}", seen.text());
    assert_eq!(seen.started, 1);
    let text = seen.text();
    assert!(text.contains("\x1b[32;1m$ echo one\x1b[0;m\none\n"), "{text}");
    assert!(text.contains("\x1b[32;1m$ echo $A\x1b[0;m\ntwo\n"), "{text}");
    assert!(text.ends_with("Job succeeded\x1b[0;m\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_sources_are_a_repository_of_the_commit() {
    let house = House::open(|_| {}).await;
    let at = house.folder.path().join("repository");
    let sha = repository(&at, &[("a/file.txt", "hello from the commit\n")]);
    let mut spec = job(1, &["pwd", "cat a/file.txt", "cat .git/HEAD"]);
    spec.variables.clear();
    spec.source.url = at.display().to_string();
    spec.source.sha.clone_from(&sha);
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    for part in ["\n/builds/group/project\n", "\nhello from the commit\n", &sha] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_exit_code_is_the_script_s() {
    let house = House::open(|_| {}).await;
    let seen = house.run(&job(1, &["exit 42", "echo never"])).await;
    assert_eq!(failed(seen.outcome()), (FailureReason::ScriptFailure, Some(42), "exit code 42".into()));
    assert!(!seen.text().contains("\nnever"), "{}", seen.text());
    let mut spec = job(2, &["true"]);
    spec.image.as_mut().unwrap().name = "slipway.invalid/nothing:1".into();
    let (reason, exit_code, _) = failed(house.run(&spec).await.outcome());
    assert_eq!((reason, exit_code), (FailureReason::ImagePullFailure, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p31_masked_value_written_byte_by_byte_is_hidden() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["for c in h u n t e r 2 x y; do printf $c; sleep 0.05; done; echo", "echo [$SECRET]"]);
    spec.variables.push(Variable::secret("SECRET", "hunter2xy"));
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(!text.contains("hunter2xy"), "{text}");
    assert!(text.contains("\n[MASKED]\n") && text.contains("\n[[MASKED]]\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p39_stdin_is_empty() {
    let house = House::open(|_| {}).await;
    let seen = house.run(&job(1, &["cat", "echo after"])).await;
    assert!(seen.text().contains("\nafter\n"), "{}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p41_after_script_runs_after_failure_in_its_own_process() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["X=kept; echo made > file", "exit 3"]);
    spec.steps.push(step("after_script", &["echo after:$CI_JOB_STATUS:[$X]", "cat file", "exit 9"]));
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(failed(seen.outcome()).1, Some(3), "{text}");
    assert!(text.contains("\nafter:failed:[]\n") && text.contains("\nmade\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p43_docker_in_docker_answers_plain_and_with_tls() {
    let house = House::open(|_| {}).await;
    let mut spec =
        job(1, &["docker version --format '{{.Server.Os}}'", "echo host=$DOCKER_HOST", "docker images -q | wc -l"]);
    spec.image.as_mut().unwrap().name = "docker:stable".into();
    spec.services = vec![service("docker:dind")];
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(text.contains("\nlinux\n") && text.contains("\nhost=tcp://docker:2375\n"), "{text}");
    assert!(seen.receipt().engine_seconds.is_some_and(|s| s > 0.0));

    let mut spec = job(2, &["docker info --format '{{.OSType}}'", "ls /certs/client"]);
    spec.image.as_mut().unwrap().name = "docker:stable".into();
    spec.services = vec![service("docker:dind")];
    for (key, value) in [("DOCKER_HOST", "tcp://docker:2376"), ("DOCKER_TLS_CERTDIR", "/certs")] {
        spec.variables.push(Variable::public(key, value));
    }
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(text.contains("\nlinux\n") && text.contains("ca.pem"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p35_services_are_reached_under_all_their_names() {
    let house = House::open(|_| {}).await;
    let id = house.tag("alpine:latest", "registry.example.com:5000/a/b:1").await;
    let mut spec = job(
        1,
        &["for n in registry.example.com__a__b registry.example.com-a-b x y z; do \
            wget -q -O /dev/null http://$n:8080/passwd && echo answered; done"],
    );
    let mut one = service("registry.example.com:5000/a/b:1");
    one.aliases = vec!["x,y z".into()];
    one.command = Some(["httpd", "-f", "-p", "8080", "-h", "/etc"].map(String::from).to_vec());
    one.variables.push(Variable::public("HEALTHCHECK_TCP_PORT", "8080"));
    spec.services = vec![one.clone(), one];
    let seen = house.run(&spec).await;
    house.untag(&id).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert_eq!(text.matches("\nanswered").count(), 5, "{text}");
    assert!(text.contains("is already created"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p36_service_that_does_not_listen_warns_and_the_job_goes_on() {
    let house = House::open(|config| config.services_wait_seconds = 1).await;
    let mut spec = job(1, &["echo went on"]);
    let mut silent = service("alpine:latest");
    silent.command = Some(["sh", "-c", "echo words of the service; sleep 60"].map(String::from).to_vec());
    silent.variables.push(Variable::public("HEALTHCHECK_TCP_PORT", "9"));
    spec.services = vec![silent];
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(text.contains("Service alpine probably didn't start properly"), "{text}");
    assert!(text.contains("words of the service") && text.contains("\nwent on\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_canceling_runs_the_after_script_and_canceled_does_not() {
    let house = House::open(|_| {}).await;
    for (id, how) in [(1, "canceling"), (2, "canceled")] {
        let mut spec = job(id, &["echo begun", "sleep 300"]);
        spec.steps.push(step("after_script", &["echo after:$CI_JOB_STATUS"]));
        house.offer(&spec, 7).await;
        house.wait_for(id, |s| s.text().contains("\nbegun\n")).await;
        house.cancel(id, 7, how).await;
        let seen = house.wait_for(id, |s| s.finish.is_some()).await;
        assert_eq!(seen.outcome(), Some(Outcome::Canceled), "{}", seen.text());
        assert_eq!(seen.text().contains("\nafter:canceled\n"), how == "canceling", "{}", seen.text());
        house.gone(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p41_job_timeout_skips_the_after_script_and_a_script_timeout_runs_it() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["echo begun", "sleep 300"]);
    spec.timeout_seconds = 3;
    spec.steps.push(step("after_script", &["echo after"]));
    let seen = house.run(&spec).await;
    let (reason, _, message) = failed(seen.outcome());
    assert_eq!(reason, FailureReason::JobExecutionTimeout);
    assert_eq!(message, "execution took longer than 3s seconds");
    assert!(!seen.text().contains("\nafter\n"), "{}", seen.text());

    let mut spec = job(2, &["sleep 300"]);
    spec.variables.push(Variable::public("RUNNER_SCRIPT_TIMEOUT", "1s"));
    spec.steps.push(step("after_script", &["echo after"]));
    let seen = house.run(&spec).await;
    assert_eq!(failed(seen.outcome()).0, FailureReason::JobExecutionTimeout);
    assert!(seen.text().contains("\nafter\n"), "{}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p34_output_over_the_limit_keeps_head_and_tail() {
    let house = House::open(|config| config.output_limit_bytes = 100_000).await;
    let seen = house.run(&job(1, &["seq 1 200000"])).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success));
    assert!(text.len() < 110_000, "{}", text.len());
    assert!(text.contains("\n1\n2\n3\n") && text.contains("\n199999\n200000\n"));
    assert!(text.contains("bytes of output left out"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_out_of_memory_is_told_with_its_limit() {
    let house = House::open(|config| config.memory_bytes = Some(32 << 20)).await;
    let seen = house.run(&job(1, &["x=$(head -c 100000000 /dev/zero | tr '\\0' x)", "echo never"])).await;
    let (reason, code, message) = failed(seen.outcome());
    assert_eq!(reason, FailureReason::ScriptFailure, "{}", seen.text());
    assert!(message.contains("out of memory") && message.contains("33554432"), "{message} {code:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p46_failed_upload_after_a_failed_script_reports_the_script() {
    let house = House::open(|_| {}).await;
    house.refuse_uploads();
    let mut spec = job(1, &["echo x > file", "exit 42"]);
    let paths = vec!["file".to_owned()];
    spec.artifacts = vec![ArtifactSpec { paths, when: When::Always, ..ArtifactSpec::default() }];
    let seen = house.run(&spec).await;
    assert_eq!(failed(seen.outcome()).1, Some(42), "{}", seen.text());
    assert!(seen.text().contains("cannot upload the artifacts"), "{}", seen.text());
    spec.id = slipway_spec::ids::JobId(2);
    spec.steps = vec![step("script", &["echo x > file"])];
    let (reason, code, message) = failed(house.run(&spec).await.outcome());
    assert_eq!((reason, code), (FailureReason::ScriptFailure, None));
    assert!(message.contains("too large for this test"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p44_container_removed_behind_its_back_is_a_system_failure_and_leaves_nothing() {
    let house = House::open(|_| {}).await;
    house.offer(&job(1, &["echo begun", "sleep 300"]), 7).await;
    house.wait_for(1, |s| s.text().contains("\nbegun\n")).await;
    let id = house.container(1, "job").await;
    let force = bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).build();
    house.docker.remove_container(&id, Some(force)).await.unwrap();
    let seen = house.wait_for(1, |s| s.finish.is_some()).await;
    let (reason, _, message) = failed(seen.outcome());
    assert_eq!(reason, FailureReason::RunnerSystemFailure, "{}", seen.text());
    assert!(message.contains("gone"), "{message}");
    house.gone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p38_image_without_a_shell_fails_by_name() {
    let house = House::open(|_| {}).await;
    let image = house.image_without_shell().await;
    let mut spec = job(1, &["true"]);
    spec.image.as_mut().unwrap().name.clone_from(&image);
    let (reason, _, message) = failed(house.run(&spec).await.outcome());
    house.untag(&image).await;
    assert_eq!(reason, FailureReason::ScriptFailure);
    assert!(message.contains("cannot start a shell in image"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p24_artifacts_that_match_nothing_warn_and_others_arrive() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["mkdir out", "echo content > out/file", "echo KEY=value > vars.env"]);
    let paths = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    spec.artifacts = vec![
        ArtifactSpec { paths: paths(&["nope"]), ..ArtifactSpec::default() },
        ArtifactSpec {
            name: Some("of-$CI_JOB_STATUS".into()),
            paths: paths(&["out"]),
            kind: "archive".into(),
            ..ArtifactSpec::default()
        },
        ArtifactSpec {
            paths: paths(&["vars.env"]),
            kind: "dotenv".into(),
            format: slipway_spec::job::ArtifactFormat::Gzip,
            ..ArtifactSpec::default()
        },
        ArtifactSpec { paths: paths(&["out"]), when: When::OnFailure, ..ArtifactSpec::default() },
    ];
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(text.contains("nope: no matching files"), "{text}");
    let kinds: Vec<&str> = seen.uploads.iter().map(|(h, _)| h.kind.as_str()).collect();
    assert_eq!(kinds, ["archive", "dotenv"], "{text}");
    assert_eq!(String::from_utf8_lossy(&seen.finish.as_ref().unwrap().dotenv_json), r#"[["KEY","value"]]"#);

    // And into another job.
    house.archive(1, seen.uploads[0].1.clone());
    let mut spec = job(2, &["cat out/file"]);
    spec.dependencies = vec![Dependency { job: slipway_spec::ids::JobId(1), name: "test".into(), bytes: 1 }];
    let seen = house.run(&spec).await;
    assert!(seen.text().contains("\ncontent\n"), "{}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_that_puts_a_link_in_the_place_of_its_tree_gets_nothing_of_the_node() {
    let house = House::open(|_| {}).await;
    let outside = house.folder.path().join("outside");
    std::fs::create_dir_all(outside.join("project")).unwrap();
    std::fs::write(outside.join("project/secret"), "of the node").unwrap();
    let link = format!("ln -s {} /builds/group", outside.display());
    let mut spec = job(1, &["cd /", "mv /builds/group /builds/away", &link]);
    spec.artifacts = vec![ArtifactSpec { paths: vec![".".into()], kind: "archive".into(), ..ArtifactSpec::default() }];
    spec.caches = vec![slipway_spec::job::CacheSpec {
        key: "k".into(),
        paths: vec![".".into()],
        ..slipway_spec::job::CacheSpec::default()
    }];
    let seen = house.run(&spec).await;
    assert!(seen.uploads.is_empty(), "{}", seen.text());
    assert!(outside.join("project/secret").exists(), "nor is it moved into a cache: {}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p40_cache_of_one_job_is_there_in_the_next_and_a_policy_of_pull_keeps_nothing() {
    let house = House::open(|_| {}).await;
    let cache = |policy: &str| CacheSpec {
        key: "../../k".into(),
        paths: vec!["kept".into()],
        policy: policy.into(),
        ..CacheSpec::default()
    };
    let mut spec = job(1, &["mkdir -p kept", "echo from one > kept/file"]);
    spec.caches = vec![cache("pull-push")];
    let seen = house.run(&spec).await;
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{}", seen.text());
    let mut spec = job(2, &["cat kept/file", "echo changed > kept/file"]);
    spec.caches = vec![cache("pull")];
    assert!(house.run(&spec).await.text().contains("\nfrom one\n"));
    let mut spec = job(3, &["cat kept/file"]);
    spec.caches = vec![cache("pull")];
    let seen = house.run(&spec).await;
    assert!(seen.text().contains("\nfrom one\n"), "{}", seen.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p30_file_raw_and_repeated_variables_reach_the_job() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["echo $A-$B-$C", "cat $FILE", "echo; echo at $WHERE", "wc -c < $FILE"]);
    spec.variables.extend([
        Variable::public("A", "first"),
        Variable::public("A", "last"),
        Variable::public("B", "$A.$$x"),
        Variable { raw: true, ..Variable::public("C", "$A") },
        Variable { file: true, ..Variable::public("FILE", "two\nlines") },
        Variable::public("WHERE", "$FILE"),
    ]);
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert!(text.contains("\nlast-last.$x-$A\n"), "{text}");
    assert!(text.contains("\ntwo\nlines\x1b[32;1m$ echo"), "{text}");
    assert!(text.contains("\nat /builds/group/project.tmp/FILE\n") && text.contains("\n9\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p37_entrypoint_is_kept_cleared_and_replaced() {
    let house = House::open(|_| {}).await;
    let image = house.image_with_entrypoint().await;
    for (id, entrypoint, expected) in [
        (1, None, true),
        (2, Some(vec![String::new()]), false),
        (3, Some(vec!["env".to_owned(), "REPLACED=1".to_owned()]), false),
    ] {
        let mut spec = job(id, &["echo script:$REPLACED"]);
        spec.image.as_mut().unwrap().name.clone_from(&image);
        spec.image.as_mut().unwrap().entrypoint = entrypoint;
        let seen = house.run(&spec).await;
        let text = seen.text();
        assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
        assert_eq!(text.contains("from the entrypoint"), expected, "{text}");
        assert_eq!(text.contains("\nscript:1\n"), id == 3, "{text}");
    }
    house.untag(&image).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p42_pull_policy_that_is_not_allowed_fails_with_a_clear_word() {
    use slipway_spec::job::PullPolicy;
    let house = House::open(|config| {
        config.pull_policy = vec![PullPolicy::Always];
        config.allowed_pull_policies = vec![];
        config.allowed_images = vec!["alpine:*".into()];
    })
    .await;
    let mut spec = job(1, &["true"]);
    spec.image.as_mut().unwrap().pull_policy = vec![PullPolicy::Never];
    let (reason, _, message) = failed(house.run(&spec).await.outcome());
    assert_eq!(reason, FailureReason::ScriptFailure);
    assert!(message.contains("[never]") && message.contains("[always]"), "{message}");
    let mut spec = job(2, &["true"]);
    spec.image.as_mut().unwrap().name = "debian:bookworm-slim".into();
    let message = failed(house.run(&spec).await.outcome()).2;
    assert!(message.contains("allowed_images") && message.contains("alpine:*"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p32_sections_are_exact_and_balanced_after_a_failure() {
    let house = House::open(|_| {}).await;
    let mut spec = job(1, &["false"]);
    spec.steps.push(step("after_script", &["true"]));
    let text = house.run(&spec).await.text();
    let mark = regex::Regex::new("section_(start|end):[0-9]+:([a-z_]+)\r\x1b\\[0K").unwrap();
    let mut open = Vec::new();
    for found in mark.captures_iter(&text) {
        match &found[1] {
            "start" => open.push(found[2].to_owned()),
            _ => assert_eq!(open.pop().as_deref(), Some(&found[2]), "{text}"),
        }
    }
    assert_eq!((open, text.matches("section_").count()), (vec![], mark.find_iter(&text).count()));
    let mut spec = job(2, &["true"]);
    spec.trace_sections = false;
    assert!(!house.run(&spec).await.text().contains("section_"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p33_timestamps_are_on_every_line_or_on_none() {
    let house = House::open(|config| config.trace_timestamps = true).await;
    let text = house.run(&job(1, &["echo one", "printf no-newline"])).await.text();
    let line = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z 0[01][OE][ +]").unwrap();
    assert!(text.lines().all(|l| line.is_match(l)), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_user_that_is_not_root_can_write_its_sources() {
    let house = House::open(|_| {}).await;
    let at = house.folder.path().join("repository");
    let sha = repository(&at, &[("a/file.txt", "old\n")]);
    let mut spec = job(1, &["id -u", "echo new > a/file.txt", "mkdir made", "echo X=1 >> $GITLAB_ENV"]);
    spec.image.as_mut().unwrap().user = Some("1234".into());
    spec.variables.clear();
    spec.source.url = at.display().to_string();
    spec.source.sha = sha;
    spec.steps.push(step("after_script", &["cat a/file.txt", "echo x=$X"]));
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(seen.outcome(), Some(Outcome::Success), "{text}");
    assert!(text.contains("\n1234\n") && text.contains("\nnew\n") && text.contains("\nx=1\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_failure_shows_what_its_services_said_and_hooks_run_before_the_script() {
    let house = House::open(|config| config.services_wait_seconds = -1).await;
    let mut spec = job(1, &["exit 4"]);
    let mut one = service("alpine:latest");
    one.command = Some(["sh", "-c", "echo why it failed; sleep 60"].map(String::from).to_vec());
    spec.services = vec![one];
    spec.hooks = vec![slipway_spec::job::Hook {
        name: "pre_get_sources_script".into(),
        script: vec!["echo from the hook".into()],
    }];
    let seen = house.run(&spec).await;
    let text = seen.text();
    assert_eq!(failed(seen.outcome()).1, Some(4), "{text}");
    assert!(text.contains("Service alpine said:\nwhy it failed\n"), "{text}");
    assert!(text.find("\nfrom the hook\n") < text.find("$ exit 4"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_line_without_end_arrives_byte_for_byte() {
    let house = House::open(|_| {}).await;
    let seen = house.run(&job(1, &["seq -s ' ' 1 30000 | tr -d '\\n'", "printf '\\377\\000\\376' "])).await;
    assert_eq!(seen.outcome(), Some(Outcome::Success));
    let expected = (1..=30_000).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
    assert!(seen.text().contains(&expected), "{} bytes", seen.trace.len());
    assert!(seen.trace.windows(3).any(|w| w == [0xff, 0, 0xfe]));
}
