//! `slipway cancel`, `retry`, `play`, `explain`: one call each.

use crate::End;
use crate::client::{Address, document, said};
use anyhow::{Result, bail};
use slipway_spec::view::{JobView, PipelineView};
use slipway_wire::v1::{self, cancel_request, target_request};

/// A pipeline by its number, or a job by `--job` and its number.
#[derive(clap::Args)]
struct Target {
    /// Number of the pipeline.
    #[arg(required_unless_present = "job")]
    pipeline: Option<u64>,
    /// Number of a job instead.
    #[arg(long, conflicts_with = "pipeline")]
    job: Option<u64>,
}

/// Arguments of `slipway cancel`.
#[derive(clap::Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    target: Target,
    /// At once, without after_script.
    #[arg(long)]
    force: bool,
}

impl Cancel {
    pub(crate) async fn execute(self) -> Result<End> {
        let target = match (self.target.job, self.target.pipeline) {
            (Some(job), _) => cancel_request::Target::Job(job),
            (None, Some(pipeline)) => cancel_request::Target::Pipeline(pipeline),
            (None, None) => bail!("name a pipeline, or a job with --job"),
        };
        let request = v1::CancelRequest { target: Some(target), force: self.force };
        self.address.control().await?.cancel(request).await.map_err(|s| said(&s))?;
        println!("told to end");
        Ok(End::Ok)
    }
}

/// Arguments of `slipway retry`.
#[derive(clap::Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    target: Target,
}

impl Retry {
    pub(crate) async fn execute(self) -> Result<End> {
        let target = match (self.target.job, self.target.pipeline) {
            (Some(job), _) => target_request::Target::Job(job),
            (None, Some(pipeline)) => target_request::Target::Pipeline(pipeline),
            (None, None) => bail!("name a pipeline, or a job with --job"),
        };
        let request = v1::TargetRequest { target: Some(target) };
        let reply = self.address.control().await?.retry(request).await.map_err(|s| said(&s))?;
        let pipeline: PipelineView = document(&reply.into_inner())?;
        println!("pipeline {} is {} again", pipeline.id, pipeline.status.as_str());
        Ok(End::Ok)
    }
}

/// Arguments of `slipway play`.
#[derive(clap::Args)]
pub(crate) struct Play {
    #[command(flatten)]
    address: Address,
    /// Number of the job.
    job: u64,
    /// A variable for this run of the job.
    #[arg(long = "var", value_name = "K=V", value_parser = key_value)]
    variables: Vec<(String, String)>,
}

impl Play {
    pub(crate) async fn execute(self) -> Result<End> {
        let variables = self.variables.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect();
        let request = v1::PlayRequest { job: self.job, variables };
        let reply = self.address.control().await?.play(request).await.map_err(|s| said(&s))?;
        let job: JobView = document(&reply.into_inner())?;
        println!("job {} ({}) is {}", job.id, job.name, job.status.as_str());
        Ok(End::Ok)
    }
}

/// Arguments of `slipway explain`.
#[derive(clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    address: Address,
    /// Number of the job.
    job: u64,
}

impl Explain {
    pub(crate) async fn execute(self) -> Result<End> {
        let request = v1::IdRequest { id: self.job };
        let reply = self.address.control().await?.explain(request).await.map_err(|s| said(&s))?;
        println!("{}", reply.into_inner().text);
        Ok(End::Ok)
    }
}

/// `K=V` of a flag.
///
/// # Errors
/// When there is no `=` or nothing before it.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("expected KEY=VALUE, got {text:?}")),
    }
}
