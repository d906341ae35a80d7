//! The end: receipt and last line of the trace, then trace and outcome to the scheduler.

use super::driver::{Driver, now};
use super::state::Event;
use crate::artifacts::coverage::Coverage;
use crate::receipt::{self, Usage};
use crate::trace::spool::Reader;
use slipway_spec::expand::expand_for_runner;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_wire::document::encode;
use slipway_wire::v1::FinishRequest;
use std::time::Duration;

/// First wait after a call that failed; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two calls.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Bytes of the trace that are searched for coverage and digests: its end.
const SEARCHED: u64 = 16 << 20;

/// Reads what the job's containers and engines used, once.
pub(crate) fn read_meters(driver: &mut Driver) {
    if let Some(meter) = driver.meter.take() {
        receipt::add(&mut driver.record.receipt, meter.read());
        for lent in &driver.engines.lent {
            let usage = lent.usage();
            let usage =
                Usage { cpu_seconds: usage.cpu_seconds, memory_peak: usage.memory_peak_bytes, ..Usage::default() };
            receipt::add(&mut driver.record.receipt, usage);
        }
    }
}

/// Writes the receipt and the last line.
pub(crate) fn conclude(driver: &mut Driver, outcome: &Outcome) {
    driver.trace.sections_end(now());
    read_meters(driver);
    let from = driver.trace.length().saturating_sub(SEARCHED);
    let trace =
        Reader::open(&driver.folder.trace()).and_then(|mut r| r.read(from, usize::try_from(SEARCHED).unwrap_or(0)));
    if let Ok(trace) = trace {
        receipt::read_trace(&trace, &mut driver.record.receipt);
        if let Some(expression) = &driver.spec.coverage {
            match Coverage::new(expression) {
                Ok(mut coverage) => {
                    coverage.push(&trace);
                    driver.record.receipt.coverage = coverage.result();
                }
                Err(e) => driver.trace.warn(&e.to_string()),
            }
        }
    }
    for line in receipt::lines(&driver.record.receipt) {
        driver.trace.say(&line);
    }
    match outcome {
        Outcome::Success => driver.trace.success("Job succeeded"),
        Outcome::Failed { reason, message, .. } => {
            let system = if *reason == FailureReason::RunnerSystemFailure { " (system failure)" } else { "" };
            driver.trace.error(&format!("Job failed{system}: {message}"));
        }
        Outcome::Canceled => driver.trace.error("Job failed: canceled"),
    }
}

/// Delivers trace and outcome; comes back when the scheduler has both.
pub(crate) async fn deliver(driver: &mut Driver, outcome: &Outcome) -> Event {
    if !delivered(driver).await {
        return Event::LeaseLost;
    }
    super::engine::announce(driver, outcome);
    let mut request = request(driver, outcome);
    let mut client = driver.node.client.clone();
    let mut wait = FIRST_WAIT;
    loop {
        let Err(status) = client.finish(request.clone()).await else { return Event::Delivered };
        match status.code() {
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => return Event::LeaseLost,
            // It lost bytes that it had acknowledged.
            tonic::Code::OutOfRange => {
                driver.ship_again();
                if !delivered(driver).await {
                    return Event::LeaseLost;
                }
            }
            // It does not take what the job reports: a failure of the job, reported without it.
            tonic::Code::InvalidArgument if !request.dotenv_json.is_empty() || !request.tests_json.is_empty() => {
                let failed = Outcome::Failed {
                    reason: FailureReason::ScriptFailure,
                    exit_code: None,
                    message: status.message().to_owned(),
                };
                request.outcome_json = if *outcome == Outcome::Success { encode(&failed) } else { encode(outcome) };
                request.dotenv_json.clear();
                request.tests_json.clear();
                continue;
            }
            _ => {}
        }
        tracing::warn!(job = %driver.id(), %status, "cannot report a job's end; trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits until the scheduler holds the whole trace; false when it refuses the job's fence.
async fn delivered(driver: &mut Driver) -> bool {
    driver.shipping.close.send_replace(true);
    let length = driver.trace.length();
    driver.shipping.held.wait_for(|held| *held >= length).await.is_ok()
}

fn request(driver: &Driver, outcome: &Outcome) -> FinishRequest {
    let url = driver.spec.environment.as_ref().and_then(|e| e.url.as_deref());
    let look = |name: &str| {
        let given = driver.record.dotenv.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        given.or_else(|| driver.environment.get(name))
    };
    FinishRequest {
        job: driver.spec.id.0,
        fence: driver.record.fence.0,
        outcome_json: encode(outcome),
        receipt_json: encode(&driver.record.receipt),
        dotenv_json: if driver.record.dotenv.is_empty() { Vec::new() } else { encode(&driver.record.dotenv) },
        environment_url: url.map(|u| expand_for_runner(u, look)).unwrap_or_default(),
        tests_json: driver.record.tests.as_ref().map(encode).unwrap_or_default(),
        trace_bytes: driver.trace.length(),
    }
}
