//! `slipway up`, `scheduler`, `runner`: long-lived processes, as systemd runs them.

mod notify;
mod parts;

pub(crate) use parts::{RunnerPart, STATE_DIR, SchedulerPart};

use crate::End;
use anyhow::Result;
use notify::Notify;
use parts::{Asked, Parts, Reload};
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Arguments of `slipway up`, `scheduler` and `runner`.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The configuration.
    #[arg(long, default_value = "/etc/slipway/slipway.toml")]
    config: PathBuf,
    /// The scheduler a runner belongs to, over the configuration's.
    #[arg(long)]
    scheduler: Option<String>,
    /// Folder that `slipway join` wrote, over the configuration's.
    #[arg(long)]
    identity: Option<PathBuf>,
}

/// What one process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Both,
    Scheduler,
    Runner,
}

impl Serve {
    pub(crate) async fn execute(self, role: Role) -> Result<End> {
        let mut signals = Signals::new()?;
        let Serve { config, scheduler, identity } = self;
        let mut parts = Parts::start(Asked { role, config, scheduler, identity }).await?;
        let notify = Notify::new();
        notify.ready();
        if let Some(status) = parts.status().await {
            notify.alive(&status);
        }
        tracing::info!("ready");
        let mut stopping = false;
        loop {
            tokio::select! {
                () = parts.ended() => break,
                () = notify.due() => {
                    // A part that does not answer keeps the watchdog unfed: systemd starts us again, and jobs are adopted.
                    if let Some(status) = parts.status().await {
                        notify.alive(&status);
                    }
                }
                told = signals.next() => match (told, stopping) {
                    (Told::Reload, _) => {
                        notify.reloading();
                        match parts.reload().await {
                            Ok(()) => tracing::info!("configuration read again"),
                            Err(Reload::Refused(e)) => tracing::error!("the new configuration is not used: {e:#}"),
                            Err(Reload::Broken(e)) => return Err(e.context("cannot go on with the new configuration")),
                        }
                        notify.ready();
                    }
                    (Told::Drain, false) => {
                        stopping = true;
                        notify.stopping();
                        tracing::info!("draining: no new jobs; those that run are waited for (again: end them)");
                        parts.drain();
                    }
                    (Told::Drain | Told::Stop, _) => {
                        stopping = true;
                        notify.stopping();
                        tracing::info!("stopping: jobs are ended");
                        parts.stop();
                    }
                }
            }
        }
        parts.close().await?;
        tracing::info!("stopped");
        Ok(End::Ok)
    }
}

/// What a signal means; those of the official GitLab runner mean the same.
enum Told {
    /// SIGHUP.
    Reload,
    /// SIGTERM, SIGQUIT: finish what runs.
    Drain,
    /// SIGINT: a person at a terminal wants it gone.
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::Drain,
            _ = self.quit.recv() => Told::Drain,
            _ = self.interrupt.recv() => Told::Stop,
        }
    }
}
