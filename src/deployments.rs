//! `slipway deployments [ENV]`: the append-only record.

use crate::End;
use crate::client::{Address, document, said};
use crate::table::{Table, local};
use anyhow::Result;
use futures_util::TryStreamExt;
use slipway_spec::view::DeploymentView;
use slipway_wire::v1;

/// Arguments of `slipway deployments`.
#[derive(clap::Args)]
pub(crate) struct Deployments {
    #[command(flatten)]
    address: Address,
    /// Only this environment.
    environment: Option<String>,
    /// Only this project.
    #[arg(long)]
    project: Option<String>,
    /// One JSON document a line, each with the hash that chains it to the one before.
    #[arg(long)]
    json: bool,
}

impl Deployments {
    pub(crate) async fn execute(self) -> Result<End> {
        let request = v1::DeploymentsRequest {
            environment: self.environment.unwrap_or_default(),
            project: self.project.unwrap_or_default(),
        };
        let mut stream = self.address.control().await?.deployments(request).await.map_err(|s| said(&s))?.into_inner();
        let mut table = Table::new(&[
            "#",
            "when",
            "environment",
            "what",
            "outcome",
            "project",
            "ref",
            "commit",
            "job",
            "by",
            "url",
        ]);
        while let Some(reply) = stream.try_next().await.map_err(|s| said(&s))? {
            let d: DeploymentView = document(&reply)?;
            if self.json {
                println!("{}", serde_json::to_string(&d)?);
                continue;
            }
            table.row(vec![
                d.number.to_string(),
                local(d.at),
                d.environment,
                d.kind,
                d.outcome,
                d.project,
                d.ref_name,
                d.sha.chars().take(8).collect(),
                d.job.to_string(),
                d.submitted_by,
                d.url.unwrap_or_default(),
            ]);
        }
        if !self.json {
            table.print();
        }
        Ok(End::Ok)
    }
}
