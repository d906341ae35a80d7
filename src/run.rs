//! `slipway run [DIR]`: scheduler and runner in one process, for one pipeline, over the same gRPC as everywhere.

mod source;

use crate::client;
use crate::live;
use crate::serve::{RunnerPart, STATE_DIR, SchedulerPart};
use crate::submit::What;
use crate::table;
use crate::{End, config};
use anyhow::{Context, Result};
use slipway_runner::config::RunnerConfig;
use slipway_scheduler::config::Config;
use slipway_spec::ids::PipelineId;
use slipway_spec::view::{PipelineView, Status};
use slipway_wire::v1;
use slipway_wire::v1::cancel_request::Target;
use slipway_wire::v1::control_client::ControlClient;
use source::Source;
use std::path::{Path, PathBuf};
use tonic::transport::Channel;

/// Arguments of `slipway run`.
#[derive(clap::Args)]
pub(crate) struct Run {
    /// A repository, or a folder within one.
    #[arg(default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    what: What,
    /// Configuration of the node and of projects; without it, /etc/slipway/slipway.toml when that is there.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print only the pipeline as it ended, as JSON.
    #[arg(long)]
    json: bool,
}

/// The node's and the projects' configuration.
const CONFIG: &str = "/etc/slipway/slipway.toml";

impl Run {
    pub(crate) async fn execute(self) -> Result<End> {
        let (mut scheduler, mut runner) = self.configuration()?;
        // Beside a service's state, never in it: what an earlier run left is cancelled, what a service has is not.
        let state = scheduler.state_dir.clone().unwrap_or_else(|| STATE_DIR.into()).join("run");
        std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let source = Source::find(&self.folder, self.what.ref_name.as_deref(), &state.join("folders"))?;
        // A project that names the folder means what is run of it.
        for project in &mut scheduler.projects {
            if Path::new(&project.repository).canonicalize().is_ok_and(|p| p == source.folder) {
                project.repository = source.repository.display().to_string();
            }
        }
        if !self.json {
            let dirty = if source.dirty { " (the work tree differs: run as unprotected)" } else { "" };
            println!("commit {} on {}{dirty}", source.sha, source.ref_name);
        }
        let socket = socket_for_this_run(&state);
        // A run listens nowhere but on its own socket, and makes no pipelines but its own.
        (scheduler.listen, scheduler.metrics, scheduler.webhook) = (None, None, None);
        scheduler.projects.iter_mut().for_each(|p| {
            p.schedules.clear();
            p.triggers.poll_seconds = None;
        });
        if runner.name.is_empty() {
            "here".clone_into(&mut runner.name);
        }
        let scheduler = SchedulerPart::start_alone(scheduler, &state, &socket).await?;
        let address = format!("unix:{}", socket.display());
        let runner = RunnerPart::start(runner, &address, None).await;
        let ended = match runner {
            Ok(runner) => {
                let ended = self.pipeline(&address, &source).await;
                // The next run finds what this one built: engines are promoted before the process ends.
                runner.drained().await;
                ended
            }
            Err(e) => Err(e),
        };
        scheduler.close().await?;
        ended
    }

    fn configuration(&self) -> Result<(Config, RunnerConfig)> {
        let path = match &self.config {
            Some(path) => path.clone(),
            None if Path::new(CONFIG).exists() => CONFIG.into(),
            None => return Ok((Config::default(), RunnerConfig::default())),
        };
        let text = config::read(&path)?;
        Ok((config::scheduler(&text, &path)?, config::runner(&text, &path)?))
    }

    async fn pipeline(&self, address: &str, source: &Source) -> Result<End> {
        let channel = client::connect(address, None).await?;
        let mut control = ControlClient::new(channel).max_decoding_message_size(64 << 20);
        cancel_what_an_earlier_run_left(&mut control).await?;
        let mut request = self.what.request(source.repository.display().to_string());
        request.ref_name.clone_from(&source.ref_name);
        request.sha.clone_from(&source.sha);
        request.dirty = source.dirty;
        let reply = match control.submit(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                eprintln!("{}", status.message());
                return Ok(End::BadConfiguration);
            }
            Err(status) => return Err(client::said(&status)),
        };
        for warning in &reply.warnings {
            eprintln!("{warning}");
        }
        let pipeline: PipelineView = client::document(&v1::Document { json: reply.pipeline_json })?;
        let interrupt = tokio::spawn(cancel_when_interrupted(control.clone(), pipeline.id));
        let over = live::follow(&mut control, pipeline.id, live::Output::new(self.json)).await;
        interrupt.abort();
        live::end(&over?, self.json)
    }
}

/// A run that was killed left its pipeline, and maybe a job that the runner has adopted: nobody waits for them.
async fn cancel_what_an_earlier_run_left(control: &mut ControlClient<Channel>) -> Result<()> {
    let request = v1::ListRequest { project: String::new(), limit: 100 };
    let mut left = control.list_pipelines(request).await.map_err(|s| client::said(&s))?.into_inner();
    let mut unfinished = Vec::new();
    while let Some(reply) = left.message().await.map_err(|s| client::said(&s))? {
        let pipeline: PipelineView = client::document(&reply)?;
        if !pipeline.status.is_over() && pipeline.status != Status::Manual {
            unfinished.push(pipeline.id);
        }
    }
    for id in unfinished {
        eprintln!("pipeline {id}, of a run that was killed, is cancelled");
        let request = v1::CancelRequest { target: Some(Target::Pipeline(id.0)), force: true };
        if let Err(status) = control.cancel(request).await {
            eprintln!("{}", status.message());
        }
    }
    Ok(())
}

/// A socket's path has at most 107 bytes (unix(7)); where the state's own folder is too deep, one under /tmp is used.
fn socket_for_this_run(state: &Path) -> PathBuf {
    let name = format!("run-{}.sock", std::process::id());
    let path = state.join(&name);
    if path.as_os_str().len() <= 100 { path } else { std::env::temp_dir().join(format!("slipway-{name}")) }
}

/// Ctrl-C once: the pipeline is cancelled, `after_script` runs. Again: at once.
async fn cancel_when_interrupted(mut control: ControlClient<Channel>, id: PipelineId) {
    for force in [false, true] {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        let colour = table::colour();
        let (bold, plain) = if colour { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
        eprintln!("{bold}cancelling pipeline {id}{}{plain}", if force { " at once" } else { " (again: at once)" });
        let request = v1::CancelRequest { target: Some(Target::Pipeline(id.0)), force };
        if let Err(status) = control.cancel(request).await {
            eprintln!("{}", status.message());
        }
    }
    // A third time ends the process as if nobody listened.
    std::future::pending::<()>().await;
}
