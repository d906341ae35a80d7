//! `slipway logs [-f] JOB`: a job's trace, byte for byte.

use crate::End;
use crate::client::{Address, said};
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use slipway_wire::v1;
use std::io::Write;

/// Arguments of `slipway logs`.
#[derive(clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    address: Address,
    /// Number of the job.
    job: u64,
    /// Go on until the job is over.
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    pub(crate) async fn execute(self) -> Result<End> {
        let request = v1::LogsRequest { job: self.job, offset: 0, follow: self.follow };
        let mut stream = self.address.control().await?.logs(request).await.map_err(|s| said(&s))?.into_inner();
        let mut out = std::io::stdout().lock();
        while let Some(chunk) = stream.try_next().await.map_err(|s| said(&s))? {
            match out.write_all(&chunk.data).and_then(|()| out.flush()) {
                // The reader (`| head`) has seen enough.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(End::Ok),
                other => other.context("cannot print the trace")?,
            }
        }
        Ok(End::Ok)
    }
}
