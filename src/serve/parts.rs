//! The scheduler and the runner of this process, started and ended in the right order.

use super::Role;
use crate::client;
use crate::config;
use anyhow::{Context, Result};
use slipway_runner::agent::{Runner, RunnerHandle};
use slipway_runner::identity::Identity;
use slipway_scheduler::config::Config;
use slipway_scheduler::driver::Ended;
use slipway_scheduler::server::Scheduler;
use slipway_scheduler::upstream::gitlab::GitlabUpstreams;
use slipway_scheduler::upstream::gitlab::config::Pace;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Where the scheduler keeps its state when the configuration does not say.
pub(crate) const STATE_DIR: &str = "/var/lib/slipway";

/// The socket when the configuration does not say.
pub(crate) const SOCKET: &str = "/run/slipway/scheduler.sock";

/// What was asked for on the command line.
pub(crate) struct Asked {
    pub(crate) role: Role,
    pub(crate) config: PathBuf,
    pub(crate) scheduler: Option<String>,
    pub(crate) identity: Option<PathBuf>,
}

/// Why a configuration is not used.
pub(crate) enum Reload {
    /// The old one goes on.
    Refused(anyhow::Error),
    /// A part is gone: the process must end, and be started again.
    Broken(anyhow::Error),
}

/// What this process is made of.
pub(crate) struct Parts {
    asked: Asked,
    /// The configuration in use.
    text: String,
    scheduler: Option<SchedulerPart>,
    runner: Option<RunnerPart>,
}

/// The scheduler of this process.
pub(crate) struct SchedulerPart {
    scheduler: Scheduler,
    ended: watch::Receiver<Ended>,
    upstreams: Option<Arc<GitlabUpstreams>>,
    draining: bool,
}

impl SchedulerPart {
    /// Starts it, serves what the configuration names, and asks GitLab servers for jobs.
    pub(crate) async fn start(mut config: Config, text: &str, path: &Path) -> Result<SchedulerPart> {
        let state = config.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
        if config.socket.is_none() && config.listen.is_none() {
            config.socket = Some(SOCKET.into());
        }
        let registered = config::upstreams(text, path)?;
        let (scheduler, _) = Scheduler::start(config, &state).await.context("cannot start the scheduler")?;
        scheduler.listen().await.context("cannot serve the scheduler")?;
        let upstreams = if registered.is_empty() {
            None
        } else {
            let started = GitlabUpstreams::start(registered, &state, Pace::default(), scheduler.intake())
                .context("cannot start as a runner of GitLab")?;
            scheduler.set_upstream(started.clone());
            Some(started)
        };
        Ok(SchedulerPart { ended: scheduler.ended(), scheduler, upstreams, draining: false })
    }

    /// A scheduler without GitLab for one `slipway run`, on this socket.
    pub(crate) async fn start_alone(config: Config, state: &Path, socket: &Path) -> Result<SchedulerPart> {
        let (scheduler, _) = Scheduler::start(config, state).await.context("cannot start the scheduler")?;
        scheduler.serve_unix(socket).await.context("cannot serve the scheduler")?;
        Ok(SchedulerPart { ended: scheduler.ended(), scheduler, upstreams: None, draining: false })
    }

    /// Ends it; jobs go on at their nodes.
    pub(crate) async fn close(self) -> Result<()> {
        if let Some(upstreams) = &self.upstreams {
            upstreams.stop().await;
        }
        let failed = match &*self.ended.borrow() {
            Ended::Failed(why) => Some(why.clone()),
            Ended::No | Ended::Stopped => None,
        };
        self.scheduler.shutdown().await;
        match failed {
            Some(why) => anyhow::bail!("the scheduler ended by itself: {why}"),
            None => Ok(()),
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Some(upstreams) = &self.upstreams {
            upstreams.stop_asking();
        }
    }

    /// Comes back when it ended by itself, or when it drains and GitLab knows how every job ended.
    async fn ended(&mut self) {
        if self.draining {
            if let Some(upstreams) = &self.upstreams {
                upstreams.idle().await;
            }
            return;
        }
        let _ = self.ended.wait_for(|e| *e != Ended::No).await;
    }
}

/// The runner of this process.
pub(crate) struct RunnerPart {
    handle: RunnerHandle,
    renewal: Option<tokio::task::JoinHandle<()>>,
    over: bool,
}

impl RunnerPart {
    /// Starts a node that belongs to the scheduler at `address`.
    pub(crate) async fn start(
        config: slipway_runner::config::RunnerConfig,
        address: &str,
        identity: Option<&Path>,
    ) -> Result<RunnerPart> {
        let channel = client::connect_lazily(address, identity)?;
        let renewal = identity.map(|folder| {
            let (identity, channel) = (Identity::at(folder), channel.clone());
            tokio::spawn(async move { identity.keep_renewed(channel).await })
        });
        let handle = Runner::start(config, channel).await.context("cannot start the runner")?;
        Ok(RunnerPart { handle, renewal, over: false })
    }

    /// Takes no more jobs and waits for those it has.
    pub(crate) async fn drained(mut self) {
        self.handle.drain();
        self.handle.ended().await;
    }

    /// Leaves its jobs to the next one.
    async fn left(mut self) {
        self.handle.leave();
        self.handle.ended().await;
    }

    async fn ended(&mut self) {
        if self.over {
            std::future::pending::<()>().await;
        }
        self.handle.ended().await;
        self.over = true;
    }
}

impl Drop for RunnerPart {
    fn drop(&mut self) {
        if let Some(task) = &self.renewal {
            task.abort();
        }
    }
}

impl Parts {
    pub(crate) async fn start(asked: Asked) -> Result<Parts> {
        let text = config::read(&asked.config)?;
        let mut parts = Parts { asked, text, scheduler: None, runner: None };
        parts.start_scheduler().await?;
        parts.start_runner().await?;
        Ok(parts)
    }

    async fn start_scheduler(&mut self) -> Result<()> {
        if self.asked.role != Role::Runner {
            let config = config::scheduler(&self.text, &self.asked.config)?;
            self.scheduler = Some(SchedulerPart::start(config, &self.text, &self.asked.config).await?);
        }
        Ok(())
    }

    async fn start_runner(&mut self) -> Result<()> {
        if self.asked.role == Role::Scheduler {
            return Ok(());
        }
        let config = config::runner(&self.text, &self.asked.config)?;
        let own = match self.asked.role {
            Role::Both => {
                let socket = config::scheduler(&self.text, &self.asked.config)?.socket;
                Some(format!("unix:{}", socket.unwrap_or_else(|| SOCKET.into()).display()))
            }
            Role::Runner | Role::Scheduler => None,
        };
        let address = self.asked.scheduler.clone().or(own).unwrap_or_else(|| config.scheduler.clone());
        let identity = self.asked.identity.clone().or_else(|| config.identity.clone());
        self.runner = Some(RunnerPart::start(config, &address, identity.as_deref()).await?);
        Ok(())
    }

    /// Comes back when the process has nothing more to do: the runner has ended and, when draining, GitLab knows all.
    /// Cancel-safe.
    pub(crate) async fn ended(&mut self) {
        match (&mut self.runner, &mut self.scheduler) {
            (Some(runner), Some(scheduler)) if scheduler.draining => {
                if !runner.over {
                    runner.ended().await;
                }
                scheduler.ended().await;
            }
            (Some(runner), Some(scheduler)) => tokio::select! {
                () = runner.ended() => {}
                () = scheduler.ended() => {}
            },
            (Some(runner), None) => runner.ended().await,
            (None, Some(scheduler)) => scheduler.ended().await,
            (None, None) => {}
        }
    }

    /// The status line, or nothing when a part does not answer.
    pub(crate) async fn status(&self) -> Option<String> {
        let Some(part) = &self.scheduler else { return Some("runner: taking jobs".to_owned()) };
        let counts = part.scheduler.driver().counts().await.ok()?;
        Some(format!("{} jobs running, {} waiting, {} nodes", counts.running, counts.waiting, counts.nodes.len()))
    }

    /// Reads the configuration again. A good one is used by starting anew what it is for: the scheduler (its nodes and
    /// their jobs go on and find it again), and the runner when its own table changed (its jobs go on in their
    /// containers and are adopted).
    ///
    /// # Errors
    /// [`Reload::Refused`]: nothing happened. [`Reload::Broken`]: what was ended could not be started.
    pub(crate) async fn reload(&mut self) -> Result<(), Reload> {
        let path = self.asked.config.clone();
        let refused = Reload::Refused;
        let text = config::read(&path).map_err(refused)?;
        let changed = config::runner_changed(&self.text, &text);
        config::runner(&text, &path).map_err(refused)?;
        config::scheduler(&text, &path).map_err(refused)?;
        config::upstreams(&text, &path).map_err(refused)?;
        self.text = text;
        if let Some(part) = self.scheduler.take() {
            part.close().await.map_err(Reload::Broken)?;
            self.start_scheduler().await.map_err(Reload::Broken)?;
        }
        if changed && let Some(runner) = self.runner.take() {
            runner.left().await;
            self.start_runner().await.map_err(Reload::Broken)?;
        }
        Ok(())
    }

    pub(crate) fn drain(&mut self) {
        if let Some(runner) = &self.runner {
            runner.handle.drain();
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.drain();
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(runner) = &self.runner {
            runner.handle.stop();
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.drain();
        }
    }

    /// Ends what is left, the scheduler last: the runner's last words go through it.
    pub(crate) async fn close(mut self) -> Result<()> {
        if let Some(runner) = self.runner.take()
            && !runner.over
        {
            runner.left().await;
        }
        match self.scheduler.take() {
            Some(scheduler) => scheduler.close().await,
            None => Ok(()),
        }
    }
}
