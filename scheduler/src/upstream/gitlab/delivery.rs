//! The task that tells a job's server everything: its trace, that it lives, its end. One a job, from when it is taken
//! until the server has its end.

pub mod progress;

use super::client::{Answer, Call, Client};
use super::finish;
use super::spool::{Held, JobFolder};
use super::trace::{self, TextReader};
use crate::upstream::{Cancel, End, Intake};
use bytes::Bytes;
use progress::{Over, Progress, Reply, Step};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tells everything about the job of `folder`, then removes the folder. Returns early, with the folder in place, when
/// `stop` is cancelled; the next start goes on.
///
/// A spool that cannot be read is tried again every few seconds: a full or vanished disk may come back, and without
/// it there is nothing to tell.
pub async fn deliver(folder: Arc<JobFolder>, client: Client, intake: Arc<dyn Intake>, stop: CancellationToken) {
    let mut telling = Telling {
        progress: Progress::new(client.pace(), Instant::now(), folder.taken()),
        text: TextReader::new(folder.facts().output_limit),
        folder,
        client,
        intake,
    };
    loop {
        match telling.run(&stop).await {
            Ok(Some(over)) => return telling.over(over),
            Ok(None) => return,
            Err(error) => {
                tracing::error!(job = %telling.folder.facts().remote, %error, "the spool of a job cannot be read");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(telling.client.pace().seconds(5.0)) => {}
                }
            }
        }
    }
}

struct Telling {
    progress: Progress,
    text: TextReader,
    folder: Arc<JobFolder>,
    client: Client,
    intake: Arc<dyn Intake>,
}

impl Telling {
    async fn run(&mut self, stop: &CancellationToken) -> io::Result<Option<Over>> {
        let mut held = self.folder.held();
        loop {
            let Held { bytes, end } = held.borrow_and_update().clone();
            let complete = end.as_ref().is_some_and(|end| bytes >= end.trace_bytes);
            if complete {
                self.progress.ended(Instant::now());
            }
            let start = self.progress.offset();
            let waits = !self.text.at(&self.folder, start, complete)?.is_empty();
            match self.progress.next(Instant::now(), waits) {
                Step::Stop(over) => return Ok(Some(over)),
                Step::Wait(until) => tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep_until(until.into()) => {}
                    changed = held.changed() => debug_assert!(changed.is_ok(), "the folder holds the sender"),
                },
                step => tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    done = self.act(step, start, complete, end) => done?,
                },
            }
        }
    }

    async fn act(&mut self, step: Step, start: u64, complete: bool, end: Option<End>) -> io::Result<()> {
        match (step, end) {
            (Step::Patch, _) => {
                let text = Bytes::copy_from_slice(self.text.at(&self.folder, start, complete)?);
                let length = text.len() as u64;
                let reply = self.say(&trace::patch(self.folder.facts(), start, text)).await;
                let cancel = self.progress.patched(Instant::now(), start, length, &reply);
                if self.progress.offset() != start {
                    self.folder.set_taken(self.progress.offset());
                }
                self.end_run(cancel).await;
            }
            (Step::KeepAlive, _) => {
                let delivered = self.text.delivered();
                let reply = self.say(&finish::running(self.folder.facts(), delivered.as_ref())).await;
                let cancel = self.progress.kept_alive(Instant::now(), &reply);
                self.end_run(cancel).await;
            }
            (Step::TellEnd, Some(end)) => {
                let call = finish::ended(self.folder.facts(), &end.outcome, &self.text.made());
                let reply = self.say(&call).await;
                self.progress.told_end(Instant::now(), &reply);
            }
            (Step::TellEnd, None) | (Step::Wait(_) | Step::Stop(_), _) => unreachable!("handled by the caller"),
        }
        Ok(())
    }

    async fn say(&self, call: &Call) -> Reply {
        match self.client.call(call).await {
            Ok(answer) => {
                self.note(&answer);
                trace::reply(&answer)
            }
            Err(error) => {
                tracing::warn!(job = %self.folder.facts().remote, %error, "GitLab was not reached; it is tried again");
                Reply::none()
            }
        }
    }

    fn note(&self, answer: &Answer) {
        let job = &self.folder.facts().remote;
        match answer.status {
            200..=299 | 416 => tracing::trace!(%job, status = answer.status, "GitLab answered"),
            _ => tracing::warn!(%job, answer = answer.message(), "GitLab refused an update"),
        }
    }

    async fn end_run(&self, cancel: Option<Cancel>) {
        if let Some(how) = cancel {
            let remote = self.folder.facts().remote.clone();
            tracing::info!(job = %remote, ?how, "GitLab ends the job");
            self.intake.cancel(remote, how).await;
        }
    }

    fn over(&self, over: Over) {
        let job = &self.folder.facts().remote;
        match over {
            Over::Acknowledged => tracing::info!(%job, "GitLab has the job's end"),
            Over::GivenUp => tracing::warn!(%job, "GitLab has given the job up; nothing more is sent"),
            Over::Exhausted => tracing::error!(%job, "GitLab was not reached for a day; the job's end is dropped"),
        }
        self.folder.remove();
    }
}

/// Text for the trace of a job that is not run at all.
#[must_use]
pub(super) fn refusal(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\x1b[31;1mERROR: Job failed (system failure): {text}\x1b[0;m\n")
}
