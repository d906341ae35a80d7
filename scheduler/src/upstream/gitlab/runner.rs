//! One upstream at work: it asks, takes, goes on with what was left, and renews its token.

use super::StartError;
use super::client::{Answer, Client};
use super::config::{Pace, UpstreamConfig};
use super::delivery;
use super::payload::spec::{self, Taken};
use super::register;
use super::request::{Asking, Next};
use super::spool::{JobFolder, Spool};
use super::tokens::Tokens;
use super::turns::Turns;
use crate::upstream::{End, Intake, Refused};
use jiff::Timestamp;
use slipway_spec::outcome::{FailureReason, Outcome};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One upstream.
pub struct Runner {
    config: UpstreamConfig,
    client: Client,
    system_id: String,
    tokens: Tokens,
    spool: Spool,
    turns: Turns,
    intake: Arc<dyn Intake>,
    jobs: Mutex<HashMap<u64, Arc<JobFolder>>>,
    /// How many `jobs` there are.
    count: watch::Sender<u32>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "upstream {} at {}", self.config.name, self.config.url)
    }
}

impl Runner {
    /// Opens an upstream; nothing is sent yet. With it come the jobs left in its spool: they are known from now on, so
    /// that what the scheduler says of them is taken.
    ///
    /// # Errors
    /// Token, address, certificates or spool cannot be used.
    pub(super) fn open(
        config: UpstreamConfig,
        root: &Path,
        pace: Pace,
        system_id: &str,
        turns: Turns,
        intake: Arc<dyn Intake>,
    ) -> Result<(Self, Vec<Arc<JobFolder>>), StartError> {
        let unusable = |source| StartError::Spool { path: root.join(&config.name), source };
        let spool = Spool::open(root, &config.name).map_err(unusable)?;
        let left: Vec<Arc<JobFolder>> = spool.left().map_err(unusable)?.into_iter().map(Arc::new).collect();
        let tokens = Tokens::load(&config, spool.root(), Timestamp::now())?;
        let client = Client::new(&config, pace)
            .map_err(|source| StartError::Client { upstream: config.name.clone(), source })?;
        let runner = Runner {
            config,
            client,
            system_id: system_id.to_string(),
            tokens,
            spool,
            turns,
            intake,
            jobs: Mutex::default(),
            count: watch::Sender::new(0),
        };
        for folder in &left {
            runner.put(folder);
        }
        Ok((runner, left))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The folder of a job whose server does not know its end yet.
    #[must_use]
    pub fn folder(&self, id: u64) -> Option<Arc<JobFolder>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Returns when there is no such job.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|n| *n == 0).await;
    }

    fn put(&self, folder: &Arc<JobFolder>) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.insert(folder.facts().remote.id, folder.clone());
        self.count.send_replace(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
    }

    fn drop_job(&self, id: u64) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(&id);
        self.count.send_replace(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
    }
}

/// An upstream with what its tasks share.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) runner: Arc<Runner>,
    pub(super) asking: CancellationToken,
    pub(super) telling: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Work {
    /// Goes on with what was left, then asks until told to stop.
    pub(super) async fn run(self, left: Vec<Arc<JobFolder>>) {
        for folder in left {
            self.recover(folder).await;
        }
        self.tasks.spawn(self.clone().keep_registered());
        self.ask().await;
    }

    async fn recover(&self, folder: Arc<JobFolder>) {
        let remote = folder.facts().remote.clone();
        let over = folder.held().borrow().end.is_some();
        if !over && folder.is_accepted() {
            if !self.runner.intake.remembers(remote.clone()).await {
                tracing::error!(job = %remote, "the scheduler no longer knows a job that it had accepted");
                self.refuse(&folder, FailureReason::RunnerSystemFailure, "the runner lost the job");
            }
        } else if !over {
            self.offer(&folder).await;
        }
        self.tell(folder);
    }

    /// Offers a job to the scheduler. One that is not taken stays in the spool for the next start, and its server is
    /// told that it is alive as long as we are.
    async fn offer(&self, folder: &Arc<JobFolder>) {
        let Some(job) = folder.facts().job.clone() else {
            return self.refuse(folder, FailureReason::RunnerSystemFailure, "the runner cannot run the job");
        };
        let remote = job.remote.clone();
        loop {
            match self.runner.intake.accept(job.clone()).await {
                Ok(id) => {
                    tracing::info!(job = %remote, %id, "job taken from GitLab");
                    if let Err(error) = folder.set_accepted() {
                        // It is offered again after a restart, which changes nothing.
                        tracing::warn!(job = %remote, %error, "cannot note that the job was accepted");
                    }
                    return;
                }
                Err(Refused::Draining) => return,
                Err(error @ Refused::Store(_)) => {
                    tracing::error!(job = %remote, %error, "the job is offered again in a moment");
                    tokio::select! {
                        () = self.telling.cancelled() => return,
                        () = tokio::time::sleep(self.runner.client.pace().seconds(3.0)) => {}
                    }
                }
            }
        }
    }

    /// Ends a job that is not run.
    fn refuse(&self, folder: &JobFolder, reason: FailureReason, text: &str) {
        let written = (|| -> io::Result<()> {
            let held = folder.held().borrow().bytes;
            if let Some(trace_bytes) = folder.append(held, delivery::refusal(text).as_bytes())? {
                let outcome = Outcome::Failed { reason, exit_code: None, message: text.to_string() };
                folder.finish(End { outcome, trace_bytes })?;
            }
            Ok(())
        })();
        if let Err(error) = written {
            tracing::error!(job = %folder.facts().remote, %error, "cannot note that the job is not run");
        }
    }

    fn tell(&self, folder: Arc<JobFolder>) {
        let work = self.clone();
        self.tasks.spawn(async move {
            let id = folder.facts().remote.id;
            let runner = &work.runner;
            delivery::deliver(folder, runner.client.clone(), runner.intake.clone(), work.telling.clone()).await;
            runner.drop_job(id);
        });
    }

    async fn ask(&self) {
        let runner = &self.runner;
        let mut asking = Asking::new(&runner.config, runner.client.pace());
        let selector = runner.config.selector();
        let mut room = runner.intake.room(&selector);
        let mut count = runner.count.subscribe();
        loop {
            let limit = runner.config.limit;
            let turn = async {
                count.wait_for(|n| limit == 0 || *n < limit).await.ok()?;
                runner.turns.take(&selector, &mut room).await
            };
            let turn = tokio::select! {
                () = self.asking.cancelled() => return,
                turn = turn => turn,
            };
            let Some(turn) = turn else { return };
            let token = runner.tokens.get();
            let call = asking.question(&token, &runner.system_id, runner.config.architecture.as_deref(), !turn.scarce);
            let answer = tokio::select! {
                answer = runner.client.call(&call) => answer,
                () = self.stopped_for_long() => return,
            };
            let next = asking.answered(answer.as_ref().ok());
            self.note(&answer);
            let wait = match (next, &answer) {
                (Next::Take(wait), Ok(answer)) => {
                    self.take(answer).await;
                    wait
                }
                (Next::Take(wait) | Next::Wait(wait) | Next::Unhealthy(wait), _) => wait,
            };
            drop(turn);
            if let Next::Unhealthy(wait) = next {
                let upstream = runner.name();
                tracing::error!(
                    upstream,
                    ?wait,
                    "GitLab refuses our token again and again; it is left alone for a while"
                );
            }
            tokio::select! {
                () = self.asking.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A question under way is not dropped at once when we stop: its answer may be a job.
    async fn stopped_for_long(&self) {
        self.asking.cancelled().await;
        tokio::time::sleep(self.runner.client.pace().stop_grace).await;
    }

    fn note(&self, answer: &Result<Answer, super::client::CallError>) {
        let upstream = self.runner.name();
        match answer {
            Ok(answer) => match answer.status {
                201 => {}
                204 => tracing::trace!(upstream, "no job"),
                409 => tracing::debug!(upstream, "another runner was quicker"),
                _ => tracing::warn!(upstream, answer = answer.message(), "GitLab gave no job"),
            },
            Err(error) => tracing::warn!(upstream, %error, "GitLab was not reached"),
        }
    }

    async fn take(&self, answer: &Answer) {
        let runner = &self.runner;
        let Taken { facts, unfit } = match spec::read(&answer.body, &runner.config) {
            Ok(taken) => taken,
            Err(error) => return tracing::error!(upstream = runner.name(), %error, "a job is lost"),
        };
        let remote = facts.remote.clone();
        if runner.folder(remote.id).is_some() {
            return tracing::warn!(job = %remote, "GitLab handed out a job that we have already");
        }
        let spool = runner.spool.clone();
        let created = tokio::task::spawn_blocking(move || spool.create(facts)).await;
        let folder = match created.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(folder) => Arc::new(folder),
            Err(error) => return tracing::error!(job = %remote, %error, "a job is lost: its spool cannot be written"),
        };
        runner.put(&folder);
        match unfit {
            Some(unfit) => self.refuse(&folder, unfit.reason, &unfit.text),
            None => self.offer(&folder).await,
        }
        self.tell(folder);
    }

    /// Says at the start who we are and what we can do, and renews the token in time.
    async fn keep_registered(self) {
        let runner = &self.runner;
        let (client, upstream) = (&runner.client, runner.name());
        let mut tries = 0;
        loop {
            let token = runner.tokens.get();
            let known = register::verify(client, &token, &runner.system_id, runner.config.architecture.as_deref());
            let known = tokio::select! {
                () = self.asking.cancelled() => return,
                known = known => known,
            };
            match known {
                Ok(registration) => {
                    tracing::info!(upstream, runner = registration.id, "GitLab knows this runner");
                    if let Err(error) = runner.tokens.note(&registration) {
                        tracing::warn!(upstream, %error, "cannot note when the runner token ends");
                    }
                    break;
                }
                Err(error) => tracing::warn!(upstream, %error, "GitLab does not confirm this runner"),
            }
            tries += 1;
            let wait = client.pace().seconds(super::client::backoff_seconds(tries, 10.0, 3600.0));
            if !self.pause(wait).await {
                return;
            }
        }
        while let Some(at) = runner.tokens.renew_at() {
            let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            if !self.pause(wait.max(client.pace().seconds(1.0))).await {
                return;
            }
            if Timestamp::now() < at {
                continue;
            }
            match runner.tokens.renew(client, Timestamp::now()).await {
                Ok(()) => tracing::info!(upstream, "the runner token was renewed"),
                Err(error) => {
                    tracing::error!(upstream, %error, "it is tried again in ten minutes");
                    if !self.pause(client.pace().seconds(600.0)).await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits; `false` when told to stop meanwhile.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = self.asking.cancelled() => false,
            () = tokio::time::sleep(wait.min(Duration::from_secs(86_400))) => true,
        }
    }
}
