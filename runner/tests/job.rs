//! Jobs on the node's real Docker engine, given by a scripted scheduler over the real session. Numbers in names are the
//! points of section 18 of the contract page.

#[path = "job/fake.rs"]
mod fake;

use fake::{House, job, repository, step};
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::variable::Variable;

fn failed(outcome: Option<Outcome>) -> (FailureReason, Option<i32>, String) {
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
