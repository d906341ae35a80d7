//! `slipway hook`: a bare repository's post-receive hook. Put into `hooks/post-receive`:
//! `exec slipway hook`.

use crate::End;
use crate::client::{Address, document, said};
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use slipway_spec::view::PipelineView;
use slipway_wire::v1;
use std::io::BufRead;

/// Refs of one push that are looked at; git itself sends them one a line without bound.
const MAX_REFS: usize = 100_000;

/// Arguments of `slipway hook`.
#[derive(clap::Args)]
pub(crate) struct Hook {
    #[command(flatten)]
    address: Address,
    /// The repository; git runs the hook in it.
    #[arg(long, env = "GIT_DIR", default_value = ".")]
    repository: String,
}

impl Hook {
    pub(crate) async fn execute(self) -> Result<End> {
        let mut refs = Vec::new();
        for line in std::io::stdin().lock().lines().take(MAX_REFS) {
            let line = line.context("cannot read what git says was pushed")?;
            let mut words = line.split(' ');
            let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
                anyhow::bail!("expected OLD NEW REF on standard input, as git gives it to post-receive; got {line:?}");
            };
            refs.push(v1::PushedRef { old_sha: old.into(), new_sha: new.into(), ref_name: name.into() });
        }
        let repository = std::fs::canonicalize(&self.repository)
            .with_context(|| format!("cannot find the repository {}", self.repository))?;
        let request = v1::PushedRequest { repository: repository.display().to_string(), refs };
        let mut control = self.address.control().await?;
        let mut stream = control.pushed(request).await.map_err(|s| said(&s))?.into_inner();
        while let Some(reply) = stream.try_next().await.map_err(|s| said(&s))? {
            let pipeline: PipelineView = document(&reply)?;
            println!("pipeline {} for {}: {} jobs", pipeline.id, pipeline.ref_name, pipeline.jobs.len());
        }
        Ok(End::Ok)
    }
}
