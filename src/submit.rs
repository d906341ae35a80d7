//! `slipway submit`: makes a pipeline of a commit on a running scheduler.

use crate::client::{Address, document, said};
use crate::control::key_value;
use crate::{End, live};
use anyhow::{Context, Result};
use slipway_spec::view::PipelineView;
use slipway_wire::v1;
use std::path::Path;

/// Arguments of `slipway submit`.
#[derive(clap::Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    address: Address,
    /// Folder of a repository that the scheduler can read, or the path of a registered project.
    #[arg(default_value = ".")]
    repository: String,
    #[command(flatten)]
    what: What,
    /// Wait for its end, print its traces, and exit as it ended.
    #[arg(long)]
    wait: bool,
    /// Print the pipeline as JSON.
    #[arg(long)]
    json: bool,
}

/// What a pipeline is made of; shared by `run` and `submit`.
#[derive(clap::Args, Clone)]
pub(crate) struct What {
    /// Branch or tag, instead of the one at HEAD.
    #[arg(long = "ref", value_name = "REF")]
    pub(crate) ref_name: Option<String>,
    /// Configuration file, instead of .gitlab-ci.yml.
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<String>,
    /// Run only this job and what it needs (several times).
    #[arg(long = "job", value_name = "NAME")]
    pub(crate) jobs: Vec<String>,
    /// Start this manual job as soon as it can start (several times).
    #[arg(long = "manual", value_name = "NAME")]
    pub(crate) manual: Vec<String>,
    /// A variable of the pipeline (several times).
    #[arg(long = "var", value_name = "K=V", value_parser = key_value)]
    pub(crate) variables: Vec<(String, String)>,
    /// A value for `spec:inputs` (several times).
    #[arg(long = "input", value_name = "K=V", value_parser = key_value)]
    pub(crate) inputs: Vec<(String, String)>,
    /// CI_PIPELINE_SOURCE.
    #[arg(long, default_value = "push")]
    pub(crate) source: String,
}

impl What {
    /// The request for `repository`.
    pub(crate) fn request(&self, repository: String) -> v1::SubmitRequest {
        let pairs = |list: &[(String, String)]| {
            list.iter().map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() }).collect()
        };
        v1::SubmitRequest {
            repository,
            ref_name: self.ref_name.clone().unwrap_or_default(),
            sha: String::new(),
            file: self.file.clone().unwrap_or_default(),
            jobs: self.jobs.clone(),
            variables: pairs(&self.variables),
            source: self.source.clone(),
            inputs: pairs(&self.inputs),
            request_id: String::new(),
            dirty: false,
            manual: self.manual.clone(),
        }
    }
}

impl Submit {
    pub(crate) async fn execute(self) -> Result<End> {
        let mut control = self.address.control().await?;
        // A folder is named by its full path, since the scheduler stands elsewhere; anything else is a project's path.
        let repository = if Path::new(&self.repository).is_dir() {
            let full =
                std::fs::canonicalize(&self.repository).with_context(|| format!("cannot find {}", self.repository))?;
            full.display().to_string()
        } else {
            self.repository.clone()
        };
        let reply = match control.submit(self.what.request(repository)).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                eprintln!("{}", status.message());
                return Ok(End::BadConfiguration);
            }
            Err(status) => return Err(said(&status)),
        };
        for warning in &reply.warnings {
            eprintln!("{warning}");
        }
        let pipeline: PipelineView = document(&v1::Document { json: reply.pipeline_json })?;
        if self.wait {
            let over = live::follow(&mut control, pipeline.id, live::Output::new(self.json)).await?;
            return live::end(&over, self.json);
        }
        if self.json {
            println!("{}", serde_json::to_string(&pipeline)?);
        } else {
            println!(
                "pipeline {} of {} at {}: {} jobs",
                pipeline.id,
                pipeline.project,
                pipeline.sha,
                pipeline.jobs.len()
            );
        }
        Ok(End::Ok)
    }
}
