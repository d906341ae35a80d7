//! The scripts in the job's container.

use super::What;
use super::driver::Driver;
use super::state::{Event, Failure, Verdict};
use crate::executor::container::{self, Control};
use crate::executor::output::Came;
use crate::executor::script::{self, Frame};
use crate::executor::services;
use crate::receipt::Meter;
use slipway_spec::outcome::FailureReason;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a script may take to end once it is told to (GitLab: 10 s, then it is killed).
const GRACE: Duration = Duration::from_secs(10);
/// How long the rest of a killed container's log may take.
const DRAIN: Duration = Duration::from_secs(5);
/// `RUNNER_AFTER_SCRIPT_TIMEOUT` (GitLab: 5 minutes).
const AFTER_SCRIPT: Duration = Duration::from_secs(300);

/// Runs a step of the script.
pub(crate) async fn script(driver: &mut Driver, index: usize) -> Event {
    let first = driver.record.step.is_some_and(|s| s.number == 1);
    if first && !driver.adopted {
        // From here on the job is never run again silently: the scheduler must know before the script does anything.
        let (told, heard) = oneshot::channel();
        driver.tell(What::Starting(told)).await;
        if heard.await.is_err() {
            return std::future::pending().await;
        }
    }
    let timeout = driver.environment.duration("RUNNER_SCRIPT_TIMEOUT");
    run(driver, index, None, timeout, "script").await
}

/// Runs the after script, if there is one.
pub(crate) async fn after_script(driver: &mut Driver, verdict: &Verdict) -> Event {
    let Some(index) = driver.plan.after(&driver.spec) else { return Event::Exited(0) };
    let timeout = driver.environment.duration("RUNNER_AFTER_SCRIPT_TIMEOUT").unwrap_or(AFTER_SCRIPT);
    let event = run(driver, index, Some(verdict.job_status()), Some(timeout), "after_script").await;
    match &event {
        Event::Exited(code) if *code != 0 => {
            driver.trace.warn(&format!("after_script failed, but job will continue unaffected: exit code {code}"));
        }
        Event::Broke(failure) | Event::StepTimedOut(failure) => {
            driver.trace.warn(&format!("after_script failed, but job will continue unaffected: {}", failure.message));
        }
        _ => {}
    }
    event
}

async fn run(driver: &mut Driver, index: usize, status: Option<&str>, timeout: Option<Duration>, what: &str) -> Event {
    let Some(mark) = driver.record.step else { return Event::Broke(Failure::system("its step was not recorded")) };
    if let Err(e) = begin(driver, index, mark.number, status).await {
        return Event::Broke(e.failure());
    }
    let left = timeout.map(|t| t.saturating_sub(driver.step_time()));
    let came = tokio::select! {
        biased;
        came = until_end(driver, mark.number) => came,
        () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {
            let message = format!("{what} took longer than {} seconds", timeout.unwrap_or_default().as_secs());
            let reason = FailureReason::JobExecutionTimeout;
            return Event::StepTimedOut(Failure { reason, exit_code: None, message });
        }
    };
    driver.running = false;
    driver.record.receipt.script_seconds += driver.step_time().as_secs_f64();
    match came {
        Came::End(end) => {
            if end.code != 0
                && let Some(killed) = driver.meter.as_ref().and_then(Meter::out_of_memory)
            {
                return Event::Broke(Failure { exit_code: Some(end.code), ..Failure::script(killed) });
            }
            Event::Exited(end.code)
        }
        Came::Closed => {
            driver.output.finish(&driver.trace);
            closed(driver).await
        }
    }
}

/// Reads output until the step ends or its container does. A log that breaks off while the container runs (Docker's
/// engine was restarted) is followed again.
async fn until_end(driver: &mut Driver, number: u32) -> Came {
    loop {
        let came = driver.output.next(number, &driver.trace).await;
        let container = driver.record.container.as_deref().unwrap_or_default();
        let docker = &driver.node.docker;
        if came != Came::Closed || container::stopped(docker, container).await {
            return came;
        }
        driver.output.follow(docker, container);
    }
}

/// Starts the container again if it was killed, and opens the gate.
async fn begin(
    driver: &mut Driver,
    index: usize,
    number: u32,
    status: Option<&str>,
) -> Result<(), crate::executor::Error> {
    let container = driver.record.container.clone().unwrap_or_default();
    if driver.control.is_none() {
        driver.control = Some(Control::open(&driver.folder.control())?);
    }
    if !driver.up {
        container::start(&driver.node.docker, &driver.labels, &container, &driver.record.image).await?;
        driver.up = true;
        driver.meter = None;
    }
    if driver.meter.is_none() {
        driver.meter = Meter::of(&driver.node.docker, &container).await;
    }
    let name = format!("step-{number}");
    let env_file = format!("{}.tmp/gitlab_runner_env", driver.environment.project_dir);
    let frame = Frame {
        project_dir: &driver.environment.project_dir,
        env_file: &env_file,
        // git runs on the node, where no line of a job does: hooks around it run in the job's container.
        hooks: if number == 1 {
            driver.spec.hooks.iter().flat_map(|h| &h.script).map(String::as_str).collect()
        } else {
            Vec::new()
        },
        xtrace: driver.environment.flag("CI_DEBUG_TRACE"),
        exports: status.map(|s| ("CI_JOB_STATUS", s)).into_iter().collect(),
    };
    let text = script::file(&driver.spec.steps[index].script, &frame);
    driver.output.follow(&driver.node.docker, &container);
    driver.running = true;
    if let Some(control) = &driver.control {
        control.write(&name, &text)?;
        control.open_gate(number, &name)?;
    }
    Ok(())
}

/// Why a container stopped before its script was over.
async fn closed(driver: &mut Driver) -> Event {
    driver.up = false;
    let container = driver.record.container.clone().unwrap_or_default();
    let gone = "the job's container is gone: somebody removed or killed it, or Docker's engine was stopped";
    let Some(condition) = container::condition(&driver.node.docker, &container).await else {
        return Event::Broke(Failure::system(gone));
    };
    if condition.oom_killed {
        let limit = driver.node.config.memory_bytes.map(|n| format!(" (limit {n} bytes)")).unwrap_or_default();
        let failure = Failure::script(format!("the job's container ran out of memory{limit}"));
        return Event::Broke(Failure { exit_code: Some(137), ..failure });
    }
    let code = i32::try_from(condition.exit_code).unwrap_or(1);
    if code == 137 {
        // SIGKILL does not reach a container's first process from inside.
        return Event::Broke(Failure::system(gone));
    }
    let failure = Failure::script(format!("the job's container ended before its script did, with exit code {code}"));
    Event::Broke(Failure { exit_code: Some(code).filter(|c| *c != 0), ..failure })
}

/// What the services said, for a job that failed.
pub(crate) async fn tell_services(driver: &Driver) {
    for service in &driver.services {
        let log = services::tail(&driver.node.docker, &service.container).await;
        let name = service.aliases.first().unwrap_or(&service.image);
        driver.trace.say(&format!("Service {name} said:\n{}", log.trim_end()));
    }
}

/// Ends a step that still runs: gently, so that another can run after it, or at once. Its output until then is kept.
pub(crate) async fn stop(driver: &mut Driver, gently: bool) {
    if !std::mem::take(&mut driver.running) {
        return;
    }
    let (Some(container), Some(mark)) = (driver.record.container.clone(), driver.record.step) else { return };
    let docker = driver.node.docker.clone();
    driver.record.receipt.script_seconds += driver.step_time().as_secs_f64();
    if gently {
        if let Err(e) = container::terminate(&docker, &container).await {
            tracing::debug!(job = %driver.id(), error = %e, "job");
        }
        let ended = tokio::time::timeout(GRACE, driver.output.next(mark.number, &driver.trace)).await;
        if let Ok(Came::End(_)) = ended {
            return;
        }
    }
    container::kill(&docker, &container).await;
    driver.up = false;
    let _ = tokio::time::timeout(DRAIN, driver.output.next(mark.number, &driver.trace)).await;
    driver.output.finish(&driver.trace);
}
