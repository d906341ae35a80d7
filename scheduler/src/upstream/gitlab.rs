//! A GitLab server as an upstream: we are its runner.
//!
//! | module | noun |
//! |---|---|
//! | [`config`] | the `[[upstream]]` table, and the pace of the protocol |
//! | [`client`] | HTTP: base address, headers, retries inside one call |
//! | [`register`], [`tokens`], [`system_id`], [`features`] | who we are to the server |
//! | [`request`], [`turns`] | asking for jobs: pure state, and whose turn it is |
//! | [`payload`] | the job as handed out, and as a `JobSpec` |
//! | [`spool`], [`log_text`] | what is kept on disk of a job, and its trace as the server gets it |
//! | [`delivery`], [`trace`], [`finish`] | telling the server: the task, its pure state, the calls |
//! | [`artifacts`] | files up and down |
//! | [`runner`] | one upstream: asks, takes, recovers, renews |
//!
//! [`GitlabUpstreams`] holds all upstreams of the configuration and is the scheduler's [`Upstream`].

pub mod artifacts;
pub mod client;
pub mod config;
pub mod delivery;
pub mod features;
pub mod finish;
pub mod log_text;
pub mod payload;
pub mod register;
pub mod request;
pub mod runner;
pub mod spool;
pub mod system_id;
pub mod tokens;
pub mod trace;
pub mod turns;

use super::{End, Intake, RemoteJob, Upload, Upstream, UpstreamError};
use bytes::Bytes;
use config::{Pace, TokenError, UpstreamConfig};
use futures_util::future::BoxFuture;
use runner::Runner;
use slipway_spec::ids::JobId;
use spool::JobFolder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turns::Turns;

/// All upstreams of a configuration, at work.
#[derive(Debug)]
pub struct GitlabUpstreams {
    runners: BTreeMap<String, Arc<Runner>>,
    asking: CancellationToken,
    telling: CancellationToken,
    tasks: TaskTracker,
}

/// Why the upstreams do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A table of the configuration.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// A token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Address or certificates.
    #[error("upstream `{upstream}`: {source}")]
    Client {
        /// Which.
        upstream: String,
        /// Why.
        source: client::SetupError,
    },
    /// The machine's identity.
    #[error(transparent)]
    SystemId(#[from] system_id::SystemIdError),
    /// The spool.
    #[error("cannot open the spool {path}: {source}")]
    Spool {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl GitlabUpstreams {
    /// Opens the spool, goes on with the jobs left in it, and begins to ask for new ones. Must be called within a tokio
    /// runtime. `state` is a folder of the scheduler; `upstreams/` and the machine's identity are made in it.
    ///
    /// # Errors
    /// Something of the configuration, or the folder, cannot be used; nothing is started then.
    pub fn start(
        configs: Vec<UpstreamConfig>,
        state: &Path,
        pace: Pace,
        intake: Arc<dyn Intake>,
    ) -> Result<Arc<Self>, StartError> {
        let mut faults: Vec<String> = configs.iter().flat_map(UpstreamConfig::faults).collect();
        for (i, config) in configs.iter().enumerate() {
            if configs[..i].iter().any(|c| c.name == config.name) {
                faults.push(format!("[[upstream]] `{}` is there twice; names must differ", config.name));
            }
        }
        if !faults.is_empty() {
            return Err(StartError::Config(faults));
        }
        let root = state.join("upstreams");
        std::fs::create_dir_all(&root).map_err(|source| StartError::Spool { path: root.clone(), source })?;
        let system_id = system_id::load(state)?;
        let turns = Turns::new(configs.iter().map(UpstreamConfig::selector));
        let (mut runners, mut starting) = (BTreeMap::new(), Vec::new());
        for config in configs {
            let (runner, left) = Runner::open(config, &root, pace, &system_id, turns.clone(), intake.clone())?;
            let runner = Arc::new(runner);
            runners.insert(runner.name().to_string(), runner.clone());
            starting.push((runner, left));
        }
        let all = Arc::new(GitlabUpstreams {
            runners,
            asking: CancellationToken::new(),
            telling: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for (runner, left) in starting {
            let work = runner::Work {
                runner,
                asking: all.asking.clone(),
                telling: all.telling.clone(),
                tasks: all.tasks.clone(),
            };
            all.tasks.spawn(work.run(left));
        }
        Ok(all)
    }

    /// Asks for no more jobs. Those at hand go on.
    pub fn stop_asking(&self) {
        self.asking.cancel();
    }

    /// Ends all tasks, and returns when they have ended. What is not told yet stays in the spool for the next start.
    pub async fn stop(&self) {
        self.asking.cancel();
        // A question under way may bring a job: its task ends by itself, within the pace's grace.
        self.telling.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns when no job is left whose server does not know its end. With [`GitlabUpstreams::stop_asking`] before:
    /// the end of a drain.
    pub async fn idle(&self) {
        for runner in self.runners.values() {
            runner.idle().await;
        }
    }

    fn folder(&self, job: &RemoteJob) -> Result<Arc<JobFolder>, UpstreamError> {
        let folder = self.runners.get(&job.upstream).and_then(|runner| runner.folder(job.id));
        folder.filter(|folder| !folder.is_closed()).ok_or_else(|| UpstreamError::Gone(job.clone()))
    }
}

impl Upstream for GitlabUpstreams {
    fn started(&self, job: &RemoteJob) -> BoxFuture<'_, ()> {
        tracing::debug!(%job, "a node has started on the job");
        Box::pin(std::future::ready(()))
    }

    fn append_trace(&self, job: &RemoteJob, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<u64, UpstreamError>> {
        let job = job.clone();
        Box::pin(async move {
            let folder = self.folder(&job)?;
            match folder.append(offset, &bytes) {
                Ok(Some(held)) => Ok(held),
                Ok(None) => Err(UpstreamError::Gone(job)),
                Err(source) => Err(UpstreamError::Spool { job, source }),
            }
        })
    }

    fn finish(&self, job: &RemoteJob, end: End) -> BoxFuture<'_, Result<(), UpstreamError>> {
        let job = job.clone();
        Box::pin(async move {
            let folder = self.folder(&job)?;
            let held = folder.held().borrow().bytes;
            if held < end.trace_bytes {
                return Err(UpstreamError::TraceShort { job, held });
            }
            let written = tokio::task::spawn_blocking(move || folder.finish(end)).await;
            match written.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                Ok(Some(())) => Ok(()),
                Ok(None) => Err(UpstreamError::Gone(job)),
                Err(source) => Err(UpstreamError::Spool { job, source }),
            }
        })
    }

    fn upload<'a>(&'a self, job: &RemoteJob, upload: Upload<'a>) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let job = job.clone();
        Box::pin(async move {
            let folder = self.folder(&job)?;
            let client = self.runners[&job.upstream].client();
            artifacts::upload(client, folder.facts(), upload).await.map_err(UpstreamError::from)
        })
    }

    fn download<'a>(
        &'a self,
        job: &RemoteJob,
        dependency: JobId,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<u64, UpstreamError>> {
        let job = job.clone();
        Box::pin(async move {
            let folder = self.folder(&job)?;
            let client = self.runners[&job.upstream].client();
            let known = folder.facts().job.as_ref().map(|j| j.spec.dependencies.as_slice()).unwrap_or_default();
            let bytes = known.iter().find(|d| d.job == dependency).map_or(0, |d| d.bytes);
            artifacts::download(client, folder.facts(), dependency.0, bytes, into).await.map_err(UpstreamError::from)
        })
    }
}

impl From<artifacts::ArtifactError> for UpstreamError {
    fn from(error: artifacts::ArtifactError) -> Self {
        UpstreamError::Artifact { text: error.text, jobs_fault: error.jobs_fault }
    }
}
